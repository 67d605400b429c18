# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""make probe-suite on a deployment of ours and on a matrix: what is asked and kept, what the last lines and the exit code say."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.tests.playbooks.playing import KEY, Played, deployed, kept, play
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

FEW = {"probe_tries": 1, "probe_iterations": 1, "probe_cases": ["auto", "auto_stream"]}
NAMES = stub.document({"data": [{"id": "smoke", "root": "/m"}, {"id": "chat", "root": "/m"}]})


def good(body: t.Any) -> stub.Reply:
    """Call the tool whenever one is offered, also where none is needed."""
    calls = {"tool_calls": [stub.call("get_weather", {"city": "Paris"})]} if "tools" in body else {}
    return stub.answer("" if calls else "Hello!", "tool_calls" if calls else "stop", body["stream"], **calls)


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[NAMES], chat=[stub.by_request(good)], api_key=KEY) as running:
        yield running


def probe(tmp_path: Path, state_dir: t.Union[str, Path] = "/nonexistent", *arguments: str, **variables: t.Any) -> Played:
    return play("probe.yml", *arguments, **{"llm_state_dir": state_dir, "results_folder": tmp_path / "results", **FEW, **variables})


def test_the_deployment_is_asked_and_what_it_can_is_kept(server: stub.StubOpenAI, tmp_path: Path) -> None:
    state_dir = deployed(tmp_path, server.server_address[1])
    code, words, output = probe(tmp_path, state_dir, "-v", probe_cases=["auto", "no_tool"])
    assert code == 0, output
    assert words[0].startswith("Probe suite of smoke, ")
    assert "Tool calls of smoke: 1 of 2 passed" in words
    assert words[-1].startswith("called-needlessly in no_tool of smoke. ")
    assert words[-2].startswith(f"Kept: {tmp_path}/results/")
    assert words[-2].endswith("-smoke-probe-suite.md")
    assert "smoke: no_tool ..." in output
    assert {request.body["model"] for request in server.requests if request.body} == {"smoke"}
    (result,) = kept(tmp_path / "results")
    assert (result["deployment"]["model"], result["deployment"]["environment"]) == ("smoke", "vllm-cpu-0123")
    assert [(run["probe"], run["name"], run["settings"]) for run in result["runs"]] == [
        ("runtime_probe", "", {}),
        ("tool_call_probe", "smoke", {"tries": 1}),
    ]
    assert KEY not in output + json.dumps(result)


def test_every_runtime_of_a_matrix_is_asked_for_tool_calls(server: stub.StubOpenAI, tmp_path: Path) -> None:
    unbound = stub.StubOpenAI()
    url = f"{server.url}/v1/chat/completions"
    runtimes = [
        {"name": "off", "enabled": False, "url": url},
        {"name": "down", "url": unbound.url, "models": ["smoke"]},
        {"name": "one", "url": url, "api_key_env": "KEY_OF_ONE", "models": ["smoke", "smokey"]},
        {"name": "two", "base_url": url, "api_key": KEY},
    ]
    matrix = tmp_path / "runtime_matrix.json"
    matrix.write_text(json.dumps({"latency_prompt": "Hello", "timeout_sec": 5, "runtimes": runtimes}))
    code, words, output = probe(tmp_path, "/nonexistent", "-v", probe_config=matrix, environ={"KEY_OF_ONE": KEY})
    unbound.server_close()
    assert code == 0, output
    assert any(line.startswith("! down: not reachable: ") for line in words)
    assert {line for line in words if line.startswith("Tool calls of ")} == {
        "Tool calls of one smoke: 2 of 2 passed",
        "Tool calls of two smoke: 2 of 2 passed",
    }
    assert words[-1].endswith("-models-probe-suite.md")
    assert kept(tmp_path / "results")[0]["deployment"]["matrix"] == "runtime_matrix.json"
    assert KEY not in output + json.dumps(kept(tmp_path / "results"))


def test_a_pass_rate_that_is_missed_fails_and_is_kept(server: stub.StubOpenAI, tmp_path: Path) -> None:
    state_dir = deployed(tmp_path, server.server_address[1])
    code, words, output = probe(tmp_path, state_dir, probe_min_pass_rate=0.5, probe_cases=["auto", "no_tool"])
    assert code != 0, output
    assert words[-1].startswith("Failed: smoke passed 1 of 2 cases, score 0.50; called-needlessly: no_tool.")
    assert len(kept(tmp_path / "results")) == 1


def test_where_nothing_answers_there_is_nothing_to_keep(tmp_path: Path) -> None:
    unbound = stub.StubOpenAI()
    code, words, output = probe(tmp_path, deployed(tmp_path, unbound.server_address[1]))
    unbound.server_close()
    assert code != 0, output
    assert words[-1].startswith("Failed: 0 of 1 runtimes reached, 0 of 0 models answered every request. vllm: not reachable: ")
    assert not (tmp_path / "results").exists()


def test_check_mode_asks_and_keeps_nothing(server: stub.StubOpenAI, tmp_path: Path) -> None:
    code, words, output = probe(tmp_path, deployed(tmp_path, server.server_address[1]), "--check")
    assert code == 0, output
    assert words[-1] == f"Nothing was asked and nothing is kept (check mode). {server.url} would be."
    assert not server.requests
    assert not (tmp_path / "results").exists()


def test_what_was_never_installed_is_told(tmp_path: Path) -> None:
    code, words, _output = probe(tmp_path)
    assert code != 0
    assert words[-1].startswith("Failed: Nothing is deployed in /nonexistent: ")
    assert "Deploy it (make install-chat)" in words[-1]
