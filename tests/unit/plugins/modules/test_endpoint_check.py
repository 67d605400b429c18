# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the six steps: what it returns, and when it fails."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import endpoint_check
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

KEY = "sk-0123456789abcdef"


def good(body: t.Any) -> stub.Reply:
    calls = {"tool_calls": [stub.call("get_weather", {"city": "Paris"})]} if "tools" in body else {}
    return stub.answer("" if calls else "Hello!", "tool_calls" if calls else "stop", body["stream"], **calls)


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("m")], chat=[stub.by_request(good)], api_key=KEY) as running:
        running.scripts["/metrics"] = [stub.page("# TYPE vllm:num_requests_running gauge\n")]
        yield running


def run(check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
    given: dict[str, t.Any] = dict.fromkeys(
        ("url", "service", "pods", "api_key", "api_key_secret", "api_key_file", "ca_path", "kubeconfig", "context", "max_model_len")
    )
    given.update(model="m", provider="vllm", tool_calls=True, foreign=False, validate_certs=True, progress_path=None)
    given.update(attempts=2, request_timeout=5.0, timeout=5)
    return endpoint_check.run({**given, **params}, check_mode, sleep=lambda _seconds: None)


def test_what_is_returned(server: stub.StubOpenAI) -> None:
    result = run(url=server.url, api_key=KEY)
    assert (result["passed"], result["model"], result["endpoint"]) == (True, "m", server.url)
    assert [step["status"] for step in result["steps"]] == ["passed"] * 6
    assert result["summary"].startswith(f"smoke at {server.url}: 6 of 6 passed in ")
    assert len(result["table"]) == 6
    assert 0 < result["elapsed_seconds"] < 60


def test_a_failure_has_its_cause_in_one_line_and_all_steps(server: stub.StubOpenAI) -> None:
    server.scripts["/metrics"] = [stub.status(404)]
    with pytest.raises(ServingError, match=r"5 of 6 passed in .* s\. metrics: GET /metrics of ") as caught:
        run(url=server.url, api_key=KEY)
    assert "\n" not in str(caught.value)
    assert (caught.value.details["passed"], len(caught.value.details["steps"])) == (False, 6)


def test_no_key_is_told(server: stub.StubOpenAI) -> None:
    with pytest.raises(ServingError, match="The API key is not the one") as caught:
        run(url=server.url, api_key="sk-other-0123456789")
    assert "sk-" not in f"{caught.value} {caught.value.details}"


def test_the_options_reach_the_steps(server: stub.StubOpenAI, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    result = run(url=server.url, api_key=KEY, model=None, tool_calls=False, max_model_len=512, progress_path=str(progress))
    assert result["model"] == "m"
    assert server.requests[-2].body["max_tokens"] == 256
    assert [step["status"] for step in result["steps"]].count("skipped") == 1
    told = [json.loads(line)["text"] for line in progress.read_text().splitlines()]
    assert (told[0], told[-1]) == ("reachable ...", "metrics ...")
    server.scripts["/metrics"] = [stub.status(404)]
    assert run(url=server.url, api_key=KEY, provider="openai", foreign=True)["passed"]


def test_check_mode_asks_nothing(server: stub.StubOpenAI) -> None:
    result = run(True, url=server.url)
    assert (result["passed"], server.requests) == (False, [])
    assert {step["status"] for step in result["steps"]} == {"not tried"}
    assert result["summary"].endswith("nothing was asked (check mode)")


def test_no_attempt_is_no_check(server: stub.StubOpenAI) -> None:
    with pytest.raises(ServingError, match="attempts is 0"):
        run(url=server.url, attempts=0)
