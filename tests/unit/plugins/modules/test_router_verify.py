# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the checks: what it returns, what it tells, and how it reaches a cluster of dicts."""

from __future__ import annotations

import base64
import contextlib
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import Object
from ansible_collections.llmops.serving.plugins.modules import router_verify
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

KEY = "sk-0123456789abcdef"
CALL = stub.call("get_weather", {"city": "Paris"})


def good(body: t.Any) -> stub.Reply:
    calls = {"tool_calls": [CALL]} if "tools" in body else {}
    return stub.answer("" if calls else "27", "tool_calls" if calls else "stop", body["stream"], reasoning="Hm", **calls)


class Cluster:
    """A Service or pods, and a Secret; the port-forward leads to the stub."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked_for: list[tuple[t.Optional[str], t.Optional[str]]] = []
        self.forwards: list[str] = []

    def __call__(self, kubeconfig: t.Optional[str], context: t.Optional[str]) -> t.Any:
        self.asked_for.append((kubeconfig, context))
        return self

    def get(self, path: str) -> t.Optional[Object]:
        if "/secrets/" in path:
            return {"data": {"api-key": base64.b64encode(KEY.encode()).decode()}}
        return {"spec": {"selector": {"app": "x"}, "ports": [{"port": 8000}]}}

    def list(self, _path: str, _label_selector: str = "") -> t.Iterator[Object]:
        yield {"metadata": {"name": "pod-1"}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}

    @contextlib.contextmanager
    def port_forward(self, namespace: str, pod: str, port: int) -> t.Iterator[str]:
        self.forwards.append(f"{namespace}/{pod}:{port}")
        yield self.url


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("m", "chat")], chat=[stub.by_request(good)], api_key=KEY) as running:
        yield running


def run(check_mode: bool = False, connect: t.Any = None, **params: t.Any) -> dict[str, t.Any]:
    given: dict[str, t.Any] = dict.fromkeys(
        ("url", "service", "pods", "api_key", "api_key_secret", "api_key_file", "ca_path", "kubeconfig", "context", "max_model_len")
    )
    given.update(model="m", aliases=[], tool_calls=False, reasoning=False, validate_certs=True, progress_path=None)
    given.update(attempts=3, request_timeout=60.0, timeout=60)
    return router_verify.run({**given, **params}, check_mode, connect, sleep=lambda _seconds: None)


def test_what_is_returned(server: stub.StubOpenAI) -> None:
    result = run(url=server.url, api_key=KEY, tool_calls=True, reasoning=True, aliases=["chat"])
    assert (result["verified"], result["model"], result["endpoint"]) == (True, "m", server.url)
    names = ["completion", "stream", "alias chat", "tool_call", "tool_call_stream", "reasoning"]
    assert [check["name"] for check in result["checks"]] == names
    assert all(check["passed"] for check in result["checks"])
    assert 0 <= result["elapsed_seconds"] < 60


def test_the_options_reach_the_checks(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/chat/completions"] = [stub.answer("")]
    with pytest.raises(ServingError, match=r"\(2 attempts\)"):
        run(url=server.url, api_key=KEY, attempts=2, max_model_len=512)
    assert server.requests[-1].body["max_tokens"] == 256
    server.scripts["/v1/chat/completions"] = [stub.hangs()]
    with pytest.raises(ServingError, match=r"no whole answer within 0\.1 s"):
        run(url=server.url, api_key=KEY, attempts=1, request_timeout=0.1)


def test_a_failure_carries_what_was_checked(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/chat/completions"] = [stub.answer("Hi"), stub.answer("")]
    with pytest.raises(ServingError, match="answers, but not as a stream") as caught:
        run(url=server.url, api_key=KEY)
    details = caught.value.details
    assert (details["verified"], details["model"], details["endpoint"]) == (False, "m", server.url)
    assert [(check["name"], check["passed"]) for check in details["checks"]] == [("completion", True), ("stream", False)]


def test_no_key_is_told(server: stub.StubOpenAI) -> None:
    with pytest.raises(ServingError, match="The API key is not the one") as caught:
        run(url=server.url, api_key="sk-other")
    assert "sk-" not in f"{caught.value} {caught.value.details}"


def test_check_mode_asks_nothing(server: stub.StubOpenAI) -> None:
    result = run(True, url=server.url, tool_calls=True)
    assert (result["verified"], result["checks"], server.requests) == (False, [], [])


@pytest.mark.parametrize(
    ("where", "forward"),
    [
        ({"service": {"namespace": "chatbot", "name": "vllm-router", "port": 8000}}, "chatbot/pod-1:8000"),
        ({"pods": {"namespace": "chatbot", "label_selector": "app=x", "port": 8001}}, "chatbot/pod-1:8001"),
    ],
)
def test_the_cluster_is_connected_once(server: stub.StubOpenAI, where: dict[str, t.Any], forward: str) -> None:
    cluster = Cluster(server.url)
    secret = {"namespace": "chatbot", "name": "vllm-api-key", "key": "api-key"}
    assert run(connect=cluster, api_key_secret=secret, kubeconfig="/k", context="lab", **where)["verified"]
    assert cluster.asked_for == [("/k", "lab")]
    assert cluster.forwards == [forward, forward]


def test_each_check_is_told(server: stub.StubOpenAI, tmp_path: Path) -> None:
    run(url=server.url, api_key=KEY, tool_calls=True, progress_path=str(tmp_path / "progress"))
    told = [json.loads(line)["text"] for line in (tmp_path / "progress").read_text().splitlines()]
    assert told == ["m: completion ...", "m: completion, streamed ...", "m: tool call ...", "m: tool call, streamed ..."]


def test_no_attempt_is_no_check(server: stub.StubOpenAI) -> None:
    with pytest.raises(ServingError, match="attempts is 0"):
        run(url=server.url, attempts=0)
    assert server.requests == []
