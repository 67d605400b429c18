# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""make verify against a deployment of ours and against a foreign endpoint: what its last lines and its exit code say."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.tests.playbooks import playing
from ansible_collections.llmops.serving.tests.playbooks.playing import KEY
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

NO_PARSER = stub.status(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')


def good(body: t.Any, tools: t.Optional[stub.Reply] = None) -> stub.Reply:
    calls = {"tool_calls": [stub.call("get_weather", {"city": "Paris"})]} if "tools" in body else {}
    if calls and tools:
        return tools
    return stub.answer("" if calls else "Hello!", "tool_calls" if calls else "stop", body["stream"], **calls)


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("smoke", "chat")], chat=[stub.by_request(good)], api_key=KEY) as running:
        running.scripts["/metrics"] = [stub.page("# TYPE vllm:num_requests_running gauge\n")]
        yield running


@pytest.fixture
def deployed(server: stub.StubOpenAI, tmp_path: Path) -> Path:
    """The state folder of an installation on this machine, whose router is the stub."""
    return playing.deployed(tmp_path, server.server_address[1])


def verify(state_dir: t.Union[Path, str] = "/nonexistent", **smoke: str) -> playing.Played:
    """Run the playbook on this machine, with the variables SMOKE_... of *smoke*."""
    return playing.play("verify.yml", environ={f"SMOKE_{key}": value for key, value in smoke.items()}, llm_state_dir=state_dir)


def test_our_deployment_passes(server: stub.StubOpenAI, deployed: Path) -> None:
    code, words, output = verify(deployed)
    assert code == 0, output
    assert re.fullmatch(rf"smoke at {server.url}: 6 of 6 passed in \d+\.\d s", words[-1])
    assert [line.split("  ")[0] for line in words[:-1]] == ["reachable", "model listed", "completion", "stream", "tool call", "metrics"]
    assert "smoke: tool call, streamed ..." in output
    assert "changed=0" in output
    assert KEY not in output
    assert {request.body["model"] for request in server.requests if request.body} == {"smoke"}


def test_our_deployment_fails_with_the_cause_in_the_last_line(server: stub.StubOpenAI, deployed: Path) -> None:
    server.scripts["/v1/chat/completions"] = [stub.by_request(lambda body: good(body, NO_PARSER))]
    code, words, output = verify(deployed)
    assert code != 0
    assert words[-1].startswith(f"Failed: smoke at {server.url}: 5 of 6 passed in ")
    assert "tool call: smoke answers, but its tool calls do not work: the engine runs without a parser for them" in words[-1]
    assert [line.split()[-1] for line in words if line.startswith("completion")] == ['"Hello!"']
    assert "Traceback" not in output


def test_what_was_never_installed_is_told() -> None:
    code, words, _output = verify()
    assert code != 0
    assert "No such file or directory. Install again: make install-chat" in words[-1]


def test_on_kubernetes_the_router_is_looked_for_in_the_cluster() -> None:
    code, words, output = playing.play("verify.yml", inventory="inventory.example.yaml", llm_kubeconfig="/nonexistent/config")
    assert code != 0
    assert words[-1].startswith("Failed: smoke at service chatbot/vllm-router:8000: 0 of "), output
    assert "reachable: No kubeconfig: /nonexistent/config does not exist. Set llm_kubeconfig" in words[-1]
    assert "Traceback" not in output


def test_a_foreign_endpoint_passes_without_tools(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/chat/completions"] = [stub.by_request(lambda body: good(body, NO_PARSER))]
    code, words, output = verify(PROVIDER="vllm", VLLM_BASE_URL=f"{server.url}/v1", VLLM_MODEL="chat", VLLM_API_KEY=KEY)
    assert code == 0, output
    assert re.fullmatch(rf"smoke at {server.url}/v1: 5 of 5 passed in \d+\.\d s; tool call not offered", words[-1])
    assert {request.body["model"] for request in server.requests if request.body} == {"chat"}
    assert KEY not in output


def test_a_foreign_endpoint_fails_with_the_cause_in_the_last_line(server: stub.StubOpenAI) -> None:
    code, words, output = verify(PROVIDER="openai", VLLM_BASE_URL=server.url, VLLM_MODEL="smoky", VLLM_API_KEY=KEY)
    assert code != 0
    assert 'lists smoke, chat, not smoky (did you mean "smoke"?). Ask for one that is listed, or deploy smoky.' in words[-1], output


@pytest.mark.parametrize("smoke", [{"PROVIDER": "tgi"}, {"PROVIDER": "openai"}, {"VLLM_API_KEY": KEY}])
def test_an_environment_that_names_nothing_to_ask_is_refused(smoke: dict[str, str]) -> None:
    code, words, output = verify(**smoke)
    assert code != 0
    assert words[-1].startswith(f"Failed: SMOKE_PROVIDER is {smoke.get('PROVIDER', 'vllm')}, SMOKE_VLLM_BASE_URL not set.")
    assert KEY not in output
