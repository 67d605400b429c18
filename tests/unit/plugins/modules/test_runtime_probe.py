# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the probe: what it returns, when it fails, and how it reaches a Service."""

from __future__ import annotations

import base64
import contextlib
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import runtime_probe
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

KEY = "sk-0123456789abcdef"
# Nothing can listen on this port.
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("m")], chat=[stub.events("a", "b")], api_key=KEY) as running:
        yield running


def run(check_mode: bool = False, connect: t.Any = None, **params: t.Any) -> dict[str, t.Any]:
    given: dict[str, t.Any] = dict.fromkeys(("runtimes", "config", "prompts", "timeout", "kubeconfig", "context", "progress_path"))
    given.update(iterations=2, vary_prompts=False, fail_when="nothing_answered")
    return runtime_probe.run({**given, **params}, check_mode, connect)


def test_what_is_returned(server: stub.StubOpenAI, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    runtimes = [{"name": "vllm", "url": server.url, "api_key": KEY}, {"name": "gone", "url": NOWHERE}]
    result = run(runtimes=runtimes, progress_path=str(progress))
    assert (result["ok"], result["summary"]) == (False, "1 of 2 runtimes reached, 1 of 1 models answered every request")
    assert [report["reachable"] for report in result["runtimes"]] == [True, False]
    assert result["runtimes"][0]["results"][0]["answered"] == 3
    assert result["table"][1].split()[:3] == ["vllm", "m", "latency"]
    assert result["table"][-1].startswith("gone: not reachable: ")
    told = [json.loads(line)["text"] for line in progress.read_text().splitlines()]
    assert told == [f"vllm: {server.url}", "vllm, m: latency, request 1 of 3", f"gone: {NOWHERE}"]


def test_everything_that_answers_is_ok(server: stub.StubOpenAI) -> None:
    assert run(runtimes=[{"name": "vllm", "url": server.url, "api_key": KEY}], fail_when="not_ok")["ok"]


@pytest.mark.parametrize(
    ("fail_when", "alone", "fails"),
    [
        ("nothing_answered", True, r"^0 of 1 runtimes reached, 0 of 0 models .*\. gone: not reachable: .*Connection refused"),
        ("nothing_answered", False, ""),
        ("not_ok", False, r"^1 of 2 runtimes reached, 1 of 1 models answered every request\. gone: not reachable: "),
        ("never", True, ""),
    ],
)
def test_when_it_fails_is_chosen(server: stub.StubOpenAI, fail_when: str, alone: bool, fails: str) -> None:
    runtimes: list[dict[str, t.Any]] = [{"name": "gone", "url": NOWHERE}]
    runtimes += [] if alone else [{"name": "vllm", "url": server.url, "api_key": KEY}]
    if fails:
        with pytest.raises(ServingError, match=fails) as caught:
            run(runtimes=runtimes, fail_when=fail_when)
        result = caught.value.details
    else:
        result = run(runtimes=runtimes, fail_when=fail_when)
    assert (result["ok"], len(result["runtimes"])) == (False, len(runtimes))


@pytest.mark.parametrize("fail_when", ["nothing_answered", "not_ok"])
def test_a_model_that_does_not_answer_is_the_cause(server: stub.StubOpenAI, fail_when: str) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(400, "too long")]
    with pytest.raises(ServingError, match=r"0 of 1 models answered every request\. vllm, m, latency: POST .* answered 400"):
        run(runtimes=[{"name": "vllm", "url": server.url, "api_key": KEY}], fail_when=fail_when)


def test_an_answer_now_and_then_is_a_result(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/chat/completions"] = [stub.events("a"), stub.status(400, "too long")]
    runtimes = [{"name": "vllm", "url": server.url, "api_key": KEY}]
    assert run(runtimes=runtimes)["ok"] is False


def test_the_message_of_a_failure_has_a_few_causes(server: stub.StubOpenAI) -> None:
    runtimes = [{"name": f"gone-{number}", "url": NOWHERE} for number in range(5)]
    with pytest.raises(ServingError, match=r"gone-2: .* And 2 more\.$") as caught:
        run(runtimes=runtimes)
    assert "gone-3" not in str(caught.value)
    assert len(caught.value.details["table"]) == 5


def test_a_file_is_read_and_its_keys_are_hidden(server: stub.StubOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_KEY", KEY)
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps({"runtimes": [{"name": "vllm", "api_base": f"{server.url}/v1", "api_key_env": "PROBE_KEY", "gpu": 1}]}))
    hidden: list[str] = []
    params = dict.fromkeys(("runtimes", "prompts", "iterations", "timeout", "kubeconfig", "context", "progress_path"))
    params.update(config=str(path), vary_prompts=True, fail_when="not_ok")
    result = runtime_probe.run(params, hide=hidden.append)
    assert (result["ok"], result["unread"], hidden) == (True, ["runtimes[0].gpu"], [KEY])
    assert KEY not in json.dumps(result)
    asked = [request.body["messages"][0]["content"] for request in server.requests if request.body]
    assert len(set(asked)) == len(asked) == 6


def test_check_mode_asks_nothing(server: stub.StubOpenAI) -> None:
    result = run(True, runtimes=[{"name": "vllm", "url": server.url}], fail_when="not_ok")
    assert (result["ok"], result["table"], server.requests) == (False, [], [])
    assert result["runtimes"][0]["results"] == []


def test_a_service_is_reached_through_the_cluster(server: stub.StubOpenAI) -> None:
    asked: list[t.Any] = []

    class Cluster:
        def get(self, path: str) -> t.Any:
            if "/secrets/" in path:
                return {"data": {"k": base64.b64encode(KEY.encode()).decode()}}
            return {"spec": {"selector": {"app": "x"}, "ports": [{"port": 8000}]}}

        def list(self, _path: str, _label_selector: str = "") -> t.Iterator[t.Any]:
            yield {"metadata": {"name": "pod-1"}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}

        @contextlib.contextmanager
        def port_forward(self, namespace: str, pod: str, port: int) -> t.Iterator[str]:
            asked.append((namespace, pod, port))
            yield server.url

    def connect(*words: t.Any) -> t.Any:
        asked.append(words)
        return Cluster()

    service = {"namespace": "chatbot", "name": "vllm-router", "port": 8000}
    secret = {"namespace": "chatbot", "name": "vllm-secrets", "key": "k"}
    result = run(connect=connect, runtimes=[{"name": "chat", "service": service, "api_key_secret": secret}], kubeconfig="/k", context="lab")
    assert result["ok"]
    assert result["runtimes"][0]["endpoint"] == "service chatbot/vllm-router:8000"
    assert asked == [("/k", "lab"), ("chatbot", "pod-1", 8000)]
