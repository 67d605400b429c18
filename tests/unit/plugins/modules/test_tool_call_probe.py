# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the probe: its options, what it returns, when it fails, and what it never tells."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._tool_probe import CASES
from ansible_collections.llmops.serving.plugins.modules import tool_call_probe
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

KEY = "sk-0123456789abcdef"
CALL = stub.call("get_weather", {"city": "Paris"})
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def calls_whole_only(body: t.Any) -> stub.Reply:
    """A model whose parser fails on streams."""
    if body["messages"][0]["content"].startswith("Hello"):
        return stub.answer("Hi", stream=body["stream"])
    return stub.answer(HERMES, stream=True) if body["stream"] else stub.answer(None, "tool_calls", tool_calls=[CALL])


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("m")], chat=[stub.by_request(calls_whole_only)], api_key=KEY) as running:
        yield running


def run(check_mode: bool = False, connect: t.Any = None, **params: t.Any) -> dict[str, t.Any]:
    given: dict[str, t.Any] = dict.fromkeys(
        ("url", "service", "pods", "api_key", "api_key_secret", "api_key_file", "ca_path", "kubeconfig", "context", "progress_path")
    )
    given.update(model="m", cases=["auto", "auto_stream", "no_tool"], tries=1, seed=0, temperature=0.0, validate_certs=True)
    given.update(min_pass_rate=None, max_model_len=None, max_tokens=None, request_timeout=60.0, timeout=60)
    return tool_call_probe.run({**given, **params}, check_mode, connect, sleep=lambda _seconds: None)


def test_what_is_returned(server: stub.StubOpenAI) -> None:
    result = run(url=server.url, api_key=KEY)
    assert (result["model"], result["endpoint"], result["score"], result["passed"]) == ("m", server.url, 0.6667, 2)
    assert [(case["name"], case["stage"]) for case in result["cases"]] == [
        ("auto", "ok"),
        ("auto_stream", "call-as-text"),
        ("no_tool", "ok"),
    ]
    assert result["parsers_that_would_read_it"] == ["hermes"]
    assert result["verdict"] == "m passed 2 of 3 cases, score 0.67; call-as-text (read by hermes): auto_stream."
    assert [line.split()[0] for line in result["table"]] == ["case", "auto", "auto_stream", "no_tool"]
    assert 0 <= result["elapsed_seconds"] < 60
    documented = yaml.safe_load(tool_call_probe.RETURN)
    assert set(result) == set(documented)
    assert set(result["cases"][0]) == set(documented["cases"]["contains"])


def test_the_documentation_knows_the_cases() -> None:
    option = yaml.safe_load(tool_call_probe.DOCUMENTATION)["options"]["cases"]
    assert option["choices"] == option["default"] == list(CASES)


def test_the_options_reach_the_probe(server: stub.StubOpenAI, tmp_path: Path) -> None:
    told = tmp_path / "progress"
    options = {"tries": 2, "seed": 5, "temperature": 0.3, "max_tokens": 77, "progress_path": str(told)}
    assert run(url=server.url, api_key=KEY, cases=["no_tool"], **options)["cases"][0]["tries"] == 2
    bodies = [request.body for request in server.requests]
    assert [(body["seed"], body["temperature"], body["max_tokens"]) for body in bodies] == [(5, 0.3, 77), (6, 0.3, 77)]
    assert json.loads(told.read_text().splitlines()[0]) == {"phase": "no_tool", "text": "m: no_tool, try 1 of 2 ..."}
    run(url=server.url, api_key=KEY, cases=["no_tool"], max_model_len=512)
    assert server.requests[-1].body["max_tokens"] == 256
    server.scripts["/v1/chat/completions"] = [stub.hangs()]
    assert "within 0.1 s" in run(url=server.url, api_key=KEY, cases=["no_tool"], request_timeout=0.1)["cases"][0]["found"]


def test_a_rate_that_is_missed_fails_with_all_that_was_found(server: stub.StubOpenAI) -> None:
    with pytest.raises(ServingError) as caught:
        run(url=server.url, api_key=KEY, min_pass_rate=1.0)
    message, details = str(caught.value), caught.value.details
    assert message.startswith(
        "m passed 2 of 3 cases, score 0.67; call-as-text (read by hermes): auto_stream. auto_stream: the call came back"
    )
    assert "Calls that are not streamed do work" in message
    assert (details["passed"], len(details["cases"]), len(details["table"])) == (2, 3, 4)
    assert run(url=server.url, api_key=KEY, min_pass_rate=0.0)["passed"] == 3
    assert run(url=server.url, api_key=KEY, min_pass_rate=1.0, cases=["auto"])["passed"] == 1


def test_an_endpoint_that_cannot_be_asked_fails_without_a_rate(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(404)]
    with pytest.raises(ServingError, match=r"There is no model n at .* It lists: m\.") as caught:
        run(url=server.url, api_key=KEY, model="n")
    details = caught.value.details
    assert (details["cases"], details["score"], details["verdict"], details["table"]) == ([], 0.0, "n was not asked.", [])


def test_no_key_is_told(server: stub.StubOpenAI) -> None:
    with pytest.raises(ServingError, match="The API key is not the one") as caught:
        run(url=server.url, api_key="sk-other")
    assert "sk-" not in f"{caught.value} {caught.value.details}"
    server.scripts["/v1/chat/completions"] = [stub.status(400, f"no: {KEY}")]
    assert "***" in str(run(url=server.url, api_key=KEY))
    assert "sk-" not in str(run(url=server.url, api_key=KEY))


def test_check_mode_asks_nothing(server: stub.StubOpenAI) -> None:
    result = run(True, url=server.url, min_pass_rate=1.0)
    assert (result["cases"], result["passed"], result["score"], result["verdict"]) == ([], 0, 0.0, "m was not asked.")
    assert server.requests == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cases": []}, "cases is empty"),
        ({"tries": 0}, "tries is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"min_pass_rate": 90.0}, "min_pass_rate is 90. It is a share"),
        ({"min_pass_rate": -0.1}, r"min_pass_rate is -0\.1"),
    ],
)
def test_numbers_that_make_no_sense(server: stub.StubOpenAI, options: dict[str, t.Any], words: str) -> None:
    with pytest.raises(ServingError, match=words):
        run(True, url=server.url, **options)
    assert server.requests == []
