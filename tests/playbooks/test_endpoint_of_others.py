# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An endpoint that others serve: it is asked before anything is changed, and the make commands go to it."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.tests.playbooks.playing import KEY, Played, deployed, kept, play
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub
from ansible_collections.llmops.serving.tests.unit import stub_stream

MODEL = "Qwen/Qwen3-8B"


def good(body: t.Any) -> stub.Reply:
    calls = {"tool_calls": [stub.call("get_weather", {"city": "Paris"})]} if "tools" in body else {}
    return stub.answer("" if calls else "Hello!", "tool_calls" if calls else "stop", body["stream"], **calls)


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models(MODEL)], chat=[stub.by_request(good)], api_key=KEY) as running:
        yield running


def ask(playbook: str, url: str, state_dir: Path, *arguments: str, **variables: t.Any) -> Played:
    given = {"vllm_endpoint_url": url, "vllm_endpoint_api_key": KEY, "vllm_model_name": MODEL, "llm_state_dir": state_dir}
    return play(playbook, *arguments, **{**given, **variables})


def test_the_plan_tells_who_serves(server: stub.StubOpenAI, tmp_path: Path) -> None:
    code, words, output = ask("plan.yml", f"{server.url}/v1", tmp_path / "state", "-v")
    assert code == 0, output
    assert words[0] == f"Model     {MODEL}, which others serve"
    # a stub is no vLLM and has no metrics
    assert words[1].startswith(f"Endpoint  {server.url}: 5 of 5 passed")
    assert any(line.startswith("Changes   1 new object: open-webui") for line in words), words
    assert words[-1] == "Nothing was changed. make install-chat does this."
    assert not (tmp_path / "state").exists()
    assert KEY not in output


def test_engines_of_our_own_are_named_and_left_alone(server: stub.StubOpenAI, tmp_path: Path) -> None:
    state_dir = deployed(tmp_path, 1)
    code, words, output = ask("plan.yml", server.url, state_dir)
    assert code == 0, output
    assert "Idle      smoke of ours still runs here, and nothing would use it" in words


def test_what_does_not_serve_as_it_should_changes_nothing(server: stub.StubOpenAI, tmp_path: Path) -> None:
    code, words, output = ask("chat.yml", server.url, tmp_path / "state", vllm_model_name="Qwen/Qwen3-8b")
    assert code != 0
    assert f"lists {MODEL}, not Qwen/Qwen3-8b" in words[-1], words
    assert "did you mean" in words[-1]
    assert "vllm_endpoint_url, vllm_endpoint_api_key and vllm_model_name; nothing was changed." in words[-1]
    assert not (tmp_path / "state/bin").exists()
    assert KEY not in output


def test_a_wrong_key_is_told_and_never_shown(server: stub.StubOpenAI, tmp_path: Path) -> None:
    code, words, output = ask("plan.yml", server.url, tmp_path / "state", vllm_endpoint_api_key="sk-of-somebody-else")
    assert code != 0
    assert "The API key is not the one that the engines use" in words[-1], words
    assert "sk-of-somebody-else" not in output


@pytest.mark.parametrize("key", ["sk-one two", "sk-one;sk-two", "sk-one\n"])
def test_a_key_that_was_not_pasted_well(key: str, tmp_path: Path) -> None:
    code, words, output = ask("verify.yml", "http://127.0.0.1:1", tmp_path, vllm_endpoint_api_key=key)
    assert code != 0
    assert "vllm_endpoint_api_key has a blank, a line break or a semicolon in it" in words[-1]
    assert "sk-one" not in output


def test_make_verify_goes_there(server: stub.StubOpenAI, tmp_path: Path) -> None:
    code, words, output = ask("verify.yml", server.url, tmp_path / "state")
    assert code == 0, output
    assert words[-1].startswith(f"smoke at {server.url}: 5 of 5 passed in ")
    assert KEY not in output


def test_make_probe_suite_goes_there(server: stub.StubOpenAI, tmp_path: Path) -> None:
    few = {"probe_tries": 1, "probe_iterations": 1, "probe_cases": ["auto"], "results_folder": tmp_path / "results"}
    code, words, output = ask("probe.yml", server.url, tmp_path / "state", "-v", **few)
    assert code == 0, output
    assert f"Tool calls of {MODEL}: 1 of 1 passed" in words
    (result,) = kept(tmp_path / "results")
    assert (result["deployment"]["model"], result["deployment"]["platform"]) == (MODEL, "remote")
    assert KEY not in output + json.dumps(result)


def test_make_benchmark_goes_there(tmp_path: Path) -> None:
    with stub_stream.StubStream(stub_stream.says(3)) as server:
        few = {
            "benchmark_requests": 2,
            "benchmark_repeats": 1,
            "benchmark_loads": [{"concurrency": 1}],
            "results_folder": tmp_path / "results",
        }
        code, words, output = ask("benchmark.yml", server.url, tmp_path / "state", vllm_model_name="smoke", **few)
    assert code == 0, output
    assert words[0].startswith("Benchmark of smoke, ")
    assert kept(tmp_path / "results")[0]["deployment"]["node"] == server.url.rpartition("/")[2]


def test_nobody_guesses_which_weights_are_kept(tmp_path: Path) -> None:
    code, words, _output = ask("prune.yml", "http://10.0.0.7:8000", tmp_path / "state")
    assert code != 0
    assert 'make prune-models ANSIBLE_ARGS="-e vllm_endpoint_url= -e vllm_model_name=NAME"' in words[-1]


def test_the_guard_has_nothing_to_look_for(tmp_path: Path) -> None:
    code, words, _output = ask("guard.yml", "http://10.0.0.7:8000", tmp_path / "state")
    assert code != 0
    assert "no vLLM of ours will start on a GPU here" in words[-1]


def test_what_is_removed_is_our_own(tmp_path: Path) -> None:
    code, words, output = ask("uninstall.yml", "http://10.0.0.7:8000", tmp_path / "state", keep_page=True)
    assert code == 0, output
    assert words[0] == "Removed  the router and the engines"
