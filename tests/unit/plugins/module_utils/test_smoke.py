# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The six steps against endpoints that lack something: what each is told to be, and what is tried after it."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _smoke, _verify
from ansible_collections.llmops.serving.plugins.module_utils._reach import Reach
from ansible_collections.llmops.serving.plugins.module_utils._smoke import Smoke
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

KEY = "sk-0123456789abcdef"
METRICS = """# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 0.0
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_bucket{le="0.3"} 1.0
vllm:e2e_request_latency_seconds_count 1.0
vllm:e2e_request_latency_seconds_created 1.7e+09
vllm_router_requests_total{route="/v1"} 4
python_info 1.0
"""
NO_PARSER = stub.status(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')


def good(body: t.Any) -> stub.Reply:
    calls = {"tool_calls": [stub.call("get_weather", {"city": "Paris"})]} if "tools" in body else {}
    return stub.answer("" if calls else "Hello!", "tool_calls" if calls else "stop", body["stream"], **calls)


def refusing(reply: stub.Reply, tools: bool = True, stream: t.Optional[bool] = None) -> stub.Reply:
    """Answer well, but *reply* to requests with (or without) tools, streamed or not."""

    def choose(body: t.Any) -> stub.Reply:
        meant = ("tools" in body) is tools and stream in (None, body["stream"])
        return reply if meant else good(body)

    return stub.by_request(choose)


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("m", "chat")], chat=[stub.by_request(good)]) as running:
        running.scripts["/metrics"] = [stub.page(METRICS)]
        yield running


def smoke(url: str, model: t.Optional[str] = "m", api_key: t.Optional[str] = None, **options: t.Any) -> Smoke:
    reach = Reach({"url": url, "api_key": api_key}, lambda: None)  # type: ignore[arg-type, return-value]
    taken = Smoke(reach, model, **{"sleep": lambda _seconds: None, "attempts": 2, "request_timeout_s": 5.0, "timeout_s": 5.0, **options})
    taken.run()
    return taken


def states(taken: Smoke) -> list[str]:
    return [step["status"] for step in taken.steps]


def found(taken: Smoke, name: str) -> str:
    return str(next(step["found"] for step in taken.steps if step["name"] == name))


def test_all_six_steps_pass(server: stub.StubOpenAI) -> None:
    told: list[str] = []
    taken = smoke(server.url, tell=lambda _phase, text: told.append(text))
    assert taken.passed
    assert [step["name"] for step in taken.steps] == list(_smoke.STEPS)
    assert states(taken) == ["passed"] * 6
    assert found(taken, "model listed") == "m, chat"
    assert found(taken, "completion") == '"Hello!"'
    assert found(taken, "tool call") == 'get_weather({"city": "Paris"})'
    assert found(taken, "metrics") == "3 series, such as vllm:num_requests_running"
    assert told == [
        "reachable ...",
        "model listed ...",
        "m: completion ...",
        "m: completion, streamed ...",
        "m: tool call ...",
        "m: tool call, streamed ...",
        "metrics ...",
    ]


def test_without_a_name_the_first_model_is_asked(server: stub.StubOpenAI) -> None:
    assert smoke(server.url, model=None).model == "m"
    assert {request.body["model"] for request in server.requests if request.body} == {"m"}


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (stub.drops(), "Remote end closed"),
        (stub.hangs(), "no whole answer within 0.2 s"),
        (stub.status(503, "no engine"), "a proxy or router answers, but nothing serves behind it: "),
    ],
)
def test_what_cannot_be_reached_is_asked_nothing_more(server: stub.StubOpenAI, reply: stub.Reply, words: str) -> None:
    server.scripts["/v1/models"] = [reply]
    taken = smoke(server.url, request_timeout_s=0.2)
    assert states(taken) == ["failed"] + ["not tried"] * 5
    assert words in found(taken, "reachable")
    assert f"Look at the log of what serves {server.url}" in found(taken, "reachable")
    assert len(server.requests) == 1


def test_a_key_that_cannot_be_read_says_itself_what_to_do() -> None:
    reach = Reach({"url": "http://127.0.0.1:1", "api_key_file": "/nonexistent"}, lambda: None)  # type: ignore[arg-type, return-value]
    taken = Smoke(reach, "m")
    assert not taken.run()
    assert found(taken, "reachable").endswith("No such file or directory. Install again: make install-chat.")


def test_a_wrong_key_is_no_model_listed(server: stub.StubOpenAI) -> None:
    server.api_key = KEY
    taken = smoke(server.url, api_key="sk-other-0123456789")
    assert states(taken)[:5] == ["passed", "failed", "not tried", "not tried", "not tried"]
    assert "The API key is not the one" in found(taken, "model listed")
    assert "sk-other" not in str(taken.steps)


@pytest.mark.parametrize(("foreign", "ending"), [(False, "or deploy M: make install-chat"), (True, "or deploy M")])
def test_a_model_that_is_not_listed_leaves_the_metrics_to_try(server: stub.StubOpenAI, foreign: bool, ending: str) -> None:
    taken = smoke(server.url, model="M", foreign=foreign)
    assert states(taken) == ["passed", "failed", "not tried", "not tried", "not tried", "passed"]
    assert found(taken, "model listed").startswith(f"{server.url} lists m, chat, not M")
    assert found(taken, "model listed").endswith(ending)


def test_an_endpoint_without_models_is_told(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.models()]
    assert "lists no model" in found(smoke(server.url, model=None), "model listed")


@pytest.mark.parametrize(
    ("tools", "stream", "expected"),
    [
        (False, False, ["failed", "not tried", "not tried"]),
        (False, True, ["passed", "failed", "not tried"]),
        (True, False, ["passed", "passed", "failed"]),
        (True, True, ["passed", "passed", "failed"]),
    ],
)
def test_the_step_that_fails_is_named(server: stub.StubOpenAI, tools: bool, stream: bool, expected: list[str]) -> None:
    server.scripts["/v1/chat/completions"] = [refusing(stub.status(400, "broken"), tools, stream)]
    taken = smoke(server.url)
    assert states(taken) == ["passed", "passed", *expected, "passed"]
    assert not taken.passed
    assert "answered 400: " in _smoke.causes(taken.steps)


def test_ours_has_to_offer_tools_and_a_foreign_one_need_not(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/chat/completions"] = [refusing(NO_PARSER)]
    ours, foreign = smoke(server.url), smoke(server.url, foreign=True)
    assert states(ours)[4] == "failed"
    assert states(foreign)[4] == "skipped"
    assert foreign.passed
    assert found(foreign, "tool call").startswith("not offered: the engine runs without a parser for them")
    assert _smoke.summary("http://x", foreign.steps, 3.21) == "smoke at http://x: 5 of 5 passed in 3.2 s; tool call not offered"


def test_a_foreign_engine_whose_tool_calls_are_broken_fails_all_the_same(server: stub.StubOpenAI) -> None:
    text = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
    server.scripts["/v1/chat/completions"] = [
        stub.by_request(lambda body: stub.answer(text, stream=body["stream"]) if "tools" in body else good(body))
    ]
    taken = smoke(server.url, foreign=True)
    assert states(taken)[4] == "failed"
    assert "are read by hermes: set --tool-call-parser of the engine" in found(taken, "tool call")
    assert "of the row" in found(smoke(server.url), "tool call")


@pytest.mark.parametrize(
    "advice",
    [_verify.FIX_TOOL_PARSER, _verify.FIX_REASONING_PARSER, _verify.FIX_LENGTH, _verify.OFFER_TOOLS, _verify.KINDS["stream"].advice],
)
def test_no_advice_speaks_of_rows_to_those_who_have_none(advice: str) -> None:
    assert " row" not in _smoke._for_any_engine(advice)


def test_a_model_of_ollama_may_know_no_tools_and_needs_no_tag(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.models("llama3:latest")]
    server.scripts["/v1/chat/completions"] = [refusing(stub.status(400, "llama3:latest does not support tools"))]
    taken = smoke(server.url, model="llama3", provider="ollama", foreign=True)
    assert states(taken) == ["passed", "passed", "passed", "passed", "skipped", "skipped"]
    assert not [request for request in server.requests if request.path == "/metrics"]
    assert _smoke.summary("x", taken.steps, 1).endswith("4 of 4 passed in 1.0 s; tool call not offered; metrics not applicable")


def test_a_row_without_a_parser_is_asked_for_no_call(server: stub.StubOpenAI) -> None:
    taken = smoke(server.url, tool_calls=False)
    assert (states(taken)[4], taken.passed) == ("skipped", True)
    assert not [request for request in server.requests if request.body and "tools" in request.body]


@pytest.mark.parametrize(
    "reply", [stub.status(404, "no such path"), stub.page("<html>Log in</html>"), stub.page("# TYPE up gauge\nup 1\n")]
)
def test_only_vllm_has_to_have_metrics(server: stub.StubOpenAI, reply: stub.Reply) -> None:
    server.scripts["/metrics"] = [reply]
    taken = smoke(server.url)
    assert states(taken) == ["passed"] * 5 + ["failed"]
    assert "GET /metrics of " in found(taken, "metrics")
    assert "SMOKE_PROVIDER=openai" in found(taken, "metrics")
    assert states(smoke(server.url, provider="openai"))[5] == "skipped"


def test_metrics_that_are_there_count_for_any_provider(server: stub.StubOpenAI) -> None:
    assert states(smoke(server.url, provider="openai"))[5] == "passed"


def test_a_series_counts_once() -> None:
    assert _smoke.series(METRICS) == ["vllm:e2e_request_latency_seconds", "vllm:num_requests_running", "vllm_router_requests_total"]
    assert _smoke.series("up 1\nmyvllm:x 1\n") == []


def test_the_steps_are_a_table_and_their_causes_a_line() -> None:
    steps = [
        {"name": "reachable", "status": "passed", "seconds": 0.04, "found": "http://x answers"},
        {"name": "model listed", "status": "failed", "seconds": 1.25, "found": "lists a,\nnot b"},
        {"name": "stream", "status": "not tried", "seconds": 0.0, "found": ""},
        {"name": "metrics", "status": "failed", "seconds": 0.0, "found": "none."},
    ]
    assert _smoke.table(steps[:3]) == [
        "reachable     passed     0.0 s  http://x answers",
        "model listed  failed     1.2 s  lists a, not b",
        "stream        not tried",
    ]
    assert _smoke.causes(steps) == "model listed: lists a, not b. metrics: none."
    assert _smoke.summary("http://x", steps, 12.34) == "smoke at http://x: 1 of 4 passed in 12.3 s"
