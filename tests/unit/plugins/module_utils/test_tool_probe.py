# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging calls, streams and answers in words, and probing a server that plays a model with one fault at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import ssl
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _openai, _tool_probe
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._openai import Completion, OpenAIClient
from ansible_collections.llmops.serving.plugins.module_utils._reach import Reach
from ansible_collections.llmops.serving.plugins.module_utils._tool_probe import CASES, TRIP_TOOL, Judged, Prober
from ansible_collections.llmops.serving.plugins.module_utils._verify import WEATHER_TOOL
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub
from ansible_collections.llmops.serving.tests.unit.clock import Clock

PARIS = stub.call("get_weather", {"city": "Paris"})
LONDON = stub.call("get_weather", {"city": "London"})
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NO_AUTO = stub.status(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
NO_REQUIRED = stub.status(400, 'tool_choice="required" requires --tool-call-parser to be set')
TRIP: dict[str, t.Any] = {
    "traveller": {"name": "Anna Lee", "age": 34},
    "stops": [{"city": "Paris", "nights": 2}, {"city": "Rome", "nights": 3}],
    "transport": "train",
}


def said(text: str = "", finish: t.Optional[str] = "tool_calls", calls: t.Sequence[t.Any] = (), reasoning: str = "") -> Completion:
    return Completion(text=text, reasoning=reasoning, tool_calls=list(calls), finish_reason=finish, first_token_seconds=0.1)


# Arguments against a schema


def changed(path: str, value: t.Any) -> dict[str, t.Any]:
    """TRIP, with *value* at *path*; None takes the entry away."""
    trip = json.loads(json.dumps(TRIP))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: t.Any = trip
    for part in way:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return t.cast("dict[str, t.Any]", trip)


@pytest.mark.parametrize(
    ("path", "value", "trouble"),
    [
        ("transport", "bus", ""),
        ("stops.0.nights", 2.0, ""),
        ("transport", "car", 'transport is "car", not one of train, plane, bus'),
        ("traveller", "Anna Lee", 'traveller is "Anna Lee", not of type object'),
        ("traveller.age", "34", 'traveller.age is "34", not of type integer'),
        ("traveller.age", True, "traveller.age is true, not of type integer"),
        ("traveller.name", " ", "traveller.name is empty"),
        ("traveller.email", "x", "traveller.email is not in the schema"),
        ("note", "x", "note is not in the schema"),
        ("traveller", None, "traveller is missing"),
        ("stops.1.city", None, "stops[1].city is missing"),
        ("stops.1.nights", 2.5, "stops[1].nights is 2.5, not of type integer"),
        ("stops", {"city": "Paris"}, 'stops is {"city": "Paris"}, not of type array'),
        ("stops", ["Paris"], 'stops[0] is "Paris", not of type object'),
        ("stops", [], "stops has 0 entries, not at least 1"),
    ],
)
def test_arguments_are_held_against_the_whole_schema(path: str, value: t.Any, trouble: str) -> None:
    assert _tool_probe.schema_trouble(changed(path, value), TRIP_TOOL.parameters) == trouble


@pytest.mark.parametrize(
    ("value", "schema", "trouble"),
    [
        (None, {"type": ["string", "null"]}, ""),
        (1, {"type": ["string", "null"]}, "the value is 1, not of type string or null"),
        ([1, 2, 3], {"type": "array", "maxItems": 2}, "the value has 3 entries, not at most 2"),
        ({"a": 1}, {"additionalProperties": {"type": "integer"}}, ""),
        ({"a": "x"}, {"additionalProperties": {"type": "integer"}}, 'a is "x", not of type integer'),
        ({"a": "x"}, {}, ""),
        ([["x"]], {"items": {"items": {"type": "number"}}}, '[0][0] is "x", not of type number'),
        (1, {"type": "money"}, ""),
        (0.5, {"type": "number"}, ""),
        (False, {"type": "number"}, "the value is false, not of type number"),
    ],
)
def test_words_of_a_schema(value: t.Any, schema: dict[str, t.Any], trouble: str) -> None:
    assert _tool_probe.schema_trouble(value, schema) == trouble


# Calls


@pytest.mark.parametrize(
    ("completion", "stage", "words", "parsers"),
    [
        (said(calls=[PARIS]), "ok", 'get_weather({"city": "Paris"})', ()),
        (said(calls=[PARIS], reasoning="<think> of Paris"), "ok", "", ()),
        (said(HERMES, "stop"), "call-as-text", "as text", ("hermes",)),
        (said("", "stop", reasoning=HERMES), "call-in-reasoning", "inside the reasoning", ("hermes",)),
        (said(HERMES, calls=[PARIS]), "markup-left", "left in the text", ("hermes",)),
        (said("Sunny.", "stop"), "no-call", "Sunny", ()),
        (said("", "length", reasoning="Hm"), "cut-off", "before a call", ()),
        (said("", "length", [stub.call("get_weather", '{"city": "Pa')]), "cut-off", "in the middle of a call", ()),
        (said("", "length", [PARIS]), "cut-off", "in the middle of a call", ()),
        (said("", "error", [PARIS]), "wrong-finish-reason", '"error"', ()),
        (said(calls=[stub.call("weather", {})]), "wrong-name", '"weather"', ()),
        (said(calls=[stub.call("get_weather", '{"city": "Pa')]), "arguments-not-json", "not JSON", ()),
        (said(calls=[stub.call("get_weather", {"town": "Paris"})]), "arguments-do-not-match", "city is missing", ()),
        (said(calls=[LONDON]), "arguments-do-not-match", "Paris is in none of them", ()),
        (said(calls=[PARIS, PARIS]), "same-call-twice", "more than once", ()),
        (said("<think>Hm</think>", calls=[PARIS]), "reasoning-leaked", 'marked "<think>"', ()),
    ],
)
def test_calls(completion: Completion, stage: str, words: str, parsers: tuple[str, ...]) -> None:
    judged = _tool_probe.judge_calls(completion, WEATHER_TOOL, ("paris",) if stage == "ok" else ("Paris",))
    assert (judged.finding.passed, judged.finding.stage, judged.parsers) == (stage == "ok", stage, parsers)
    assert words in judged.finding.found
    assert len(judged.finding.found) < 200


@pytest.mark.parametrize(
    ("calls", "stage", "words"),
    [
        ([PARIS, LONDON], "ok", ""),
        ([LONDON, PARIS], "ok", ""),
        ([PARIS], "too-few-calls", '1 of 2 calls came back ("{"city": "Paris"}")'),
        ([PARIS, stub.call("get_weather", '{ "city":"Paris" }')], "same-call-twice", "more than once"),
        ([PARIS, stub.call("get_weather", {"city": "Rome"})], "arguments-do-not-match", "London is in none of them"),
        ([PARIS, stub.call("get_weather", {})], "arguments-do-not-match", "city is missing"),
    ],
)
def test_parallel_calls(calls: list[t.Any], stage: str, words: str) -> None:
    finding = _tool_probe.judge_calls(said(calls=calls), WEATHER_TOOL, ("Paris", "London"), 2).finding
    assert (finding.stage, words in finding.found) == (stage, True)


def test_nested_arguments_are_judged_to_the_bottom() -> None:
    case = CASES["nested"]
    good = said(calls=[stub.call("book_trip", TRIP)])
    assert _tool_probe.judge(case, case.questions[0], good).finding.passed
    bad = said(calls=[stub.call("book_trip", changed("stops.1.city", ["Rome"]))])
    finding = _tool_probe.judge(case, case.questions[0], bad).finding
    assert (finding.stage, finding.advice) == ("arguments-do-not-match", _tool_probe.FIX_SCHEMA)
    assert 'stops[1].city is ["Rome"], not of type string' in finding.found


# Answers in words


@pytest.mark.parametrize(
    ("completion", "stage", "parsers"),
    [
        (said("Hello!", "stop"), "ok", ()),
        (said("Hello!", "stop", [PARIS]), "called-needlessly", ()),
        (said(HERMES, "stop"), "called-needlessly", ("hermes",)),
        (said("<think>Hi.</think>Hello!", "stop"), "reasoning-leaked", ()),
        (said("", "stop"), "empty", ()),
        (said("", "stop", reasoning="Hello!"), "answer-in-reasoning", ()),
        (said("", "length", reasoning="Hm"), "cut-off", ()),
    ],
)
def test_an_answer_that_needs_no_tool(completion: Completion, stage: str, parsers: tuple[str, ...]) -> None:
    judged = _tool_probe.judge_no_call(completion)
    assert (judged.finding.passed, judged.finding.stage, judged.parsers) == (stage == "ok", stage, parsers)


@pytest.mark.parametrize(
    ("completion", "stage", "parsers"),
    [
        (said("It is 17 degrees in Paris.", "stop"), "ok", ()),
        (said("17°C", "stop"), "ok", ()),
        (said("It hails.", "stop"), "ok", ()),
        (said("About 62.6 degrees Fahrenheit.", "stop"), "ok", ()),
        (said("It is sunny, 21 degrees.", "stop"), "result-ignored", ()),
        (said("There were 170 of them in 2017.", "stop"), "result-ignored", ()),
        (said("", "tool_calls", [PARIS]), "result-ignored", ()),
        (said(HERMES, "stop"), "call-as-text", ("hermes",)),
        (said("<think>17</think>It is 17 degrees.", "stop"), "reasoning-leaked", ()),
        (said("", "stop"), "empty", ()),
    ],
)
def test_an_answer_that_has_to_tell_the_result(completion: Completion, stage: str, parsers: tuple[str, ...]) -> None:
    judged = _tool_probe.judge_result_used(completion, WEATHER_TOOL)
    assert (judged.finding.passed, judged.finding.stage, judged.parsers) == (stage == "ok", stage, parsers)


# Streams


def part(index: t.Any = 0, name: t.Optional[str] = None, arguments: str = "", call_id: t.Optional[str] = None) -> dict[str, t.Any]:
    """A delta with one part of one call; *index* None leaves it out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value}
    made = {"index": index, "id": call_id, "function": function}
    return {"tool_calls": [{key: value for key, value in made.items() if value is not None}]}


FIRST = part(0, "get_weather", call_id="a")
GOOD = [{"role": "assistant"}, FIRST, part(0, arguments='{"city": '), {"content": None}, part(0, arguments='"Paris"}')]


@pytest.mark.parametrize(
    ("deltas", "trouble"),
    [
        (GOOD, ""),
        ([*GOOD, part(1, "get_weather", '{"city": "London"}', "b")], ""),
        ([part(0, call_id="a"), part(0, "get_weather"), part(0, arguments="{}")], ""),
        ([part(0, "get_", call_id="a"), part(0, "weather")], ""),
        ([{"content": "Hello"}, {}], ""),
        ([part(None, "get_weather", "{}")], 'a delta of a call has no index ({"function": {"name": "get_weather", "arguments": "{}"}})'),
        ([part("0", "get_weather")], "a delta of a call has no index"),
        ([part(True, "get_weather")], "a delta of a call has no index"),
        ([part(1, "get_weather", call_id="a")], "a call begins with index 1, where 0 was due"),
        ([FIRST, part(2, "get_weather", call_id="b")], "a call begins with index 2, where 1 was due"),
        ([FIRST, part(1, arguments='{"city": "Paris"}')], "call 1 has no name, so its deltas belong to another"),
        ([FIRST, part(0, "get_weather", "{}")], "call 0 is named again in a later delta"),
        ([FIRST, part(0, "get_weather", "{}", "a")], "call 0 is named again in a later delta"),
        ([FIRST, part(0, "get_weather", "{}", "b")], "two calls share index 0"),
    ],
)
def test_deltas_that_join_and_those_that_do_not(deltas: list[t.Any], trouble: str) -> None:
    found = _tool_probe.stream_trouble(deltas)
    assert found.startswith(trouble) if trouble else found == ""


def judged_stream(completion: Completion, whole_passed: bool = False, done: bool = True, deltas: t.Sequence[t.Any] = ()) -> Judged:
    case = CASES["auto_stream"]
    streamed = dataclasses.replace(completion, deltas=list(deltas), closed=done)
    return _tool_probe.judge(case, case.questions[0], streamed, whole_passed)


def test_a_stream_has_to_bring_pieces_and_to_be_closed() -> None:
    good = said(calls=[PARIS])
    assert judged_stream(good, deltas=GOOD).finding.passed
    assert judged_stream(good, done=False).finding.found == "the stream ended without [DONE]"
    good.first_token_seconds = None
    assert judged_stream(good).finding.found == "the stream brought no piece of the answer"
    assert judged_stream(good, deltas=[part(None)]).finding.found.startswith("a delta of a call has no index")


def test_what_fails_only_as_a_stream_is_the_fault_of_streaming() -> None:
    torn = said(calls=[stub.call("get_weather", '{"city": "Pa')])
    assert judged_stream(torn).finding.stage == "arguments-not-json"
    finding = judged_stream(torn, whole_passed=True).finding
    assert (finding.stage, finding.advice) == ("stream-broken", _tool_probe.FIX_STREAM)
    assert finding.found.endswith("though they are without streaming")
    as_text = judged_stream(said(HERMES, "stop"), whole_passed=True)
    assert (as_text.finding.stage, as_text.parsers) == ("call-as-text", ("hermes",))
    assert "what came is what hermes reads. Set tool_call_parser to that" in as_text.finding.advice
    assert judged_stream(said(calls=[PARIS, PARIS]), whole_passed=True).finding.advice == _tool_probe.FIX_TWICE


# What people read


def test_a_table_for_people() -> None:
    keys = ("name", "pass_rate", "skipped", "first_token_p50", "seconds_p50", "stage", "found")
    rows = [
        ("auto", 1.0, False, None, 0.844, "ok", "x"),
        ("no_tool", 0.0, True, None, None, "refused", ""),
        ("named", 0.333, False, 0.1, 12, "ok", "y" * 99),
    ]
    cases = [dict(zip(keys, row)) for row in rows]
    assert _tool_probe.table(cases) == [
        "case      passed  first token  seconds  stage    found",
        "auto        100%            -     0.84  ok       x",
        "no_tool  skipped            -        -  refused",
        f"named        33%         0.10    12.00  ok       {'y' * 72}...",
    ]
    assert _tool_probe.table([]) == []


def test_a_verdict_for_people() -> None:
    cases: list[dict[str, t.Any]] = [
        {"name": "auto", "passed": True, "stage": "ok", "parser_hint": []},
        {"name": "named", "passed": False, "stage": "call-as-text", "parser_hint": ["hermes"]},
        {"name": "parallel", "passed": False, "stage": "too-few-calls", "parser_hint": []},
        {"name": "nested", "passed": False, "stage": "call-as-text", "parser_hint": ["hermes", "xlam"]},
    ]
    assert _tool_probe.verdict("m", cases, 0.25) == (
        "m passed 1 of 4 cases, score 0.25; call-as-text (read by hermes or xlam): named, nested; too-few-calls: parallel."
    )
    assert _tool_probe.verdict("m", cases[:1], 1) == "m passed 1 of 1 cases, score 1.00."
    assert _tool_probe.verdict("m", [], 0) == "m was not asked."


# Asking


def kind_of(body: t.Any) -> str:
    """Return which case asks *body*: its name, ``told`` for the second request of second_turn, ``bare`` without tool choice."""
    question, choice = body["messages"][0]["content"], body["tool_choice"]
    if choice == "none":
        return "bare"
    if body["messages"][-1]["role"] == "tool":
        return "told"
    named = "named" if isinstance(choice, dict) else choice
    bases = (base for base, case in CASES.items() if case.choice == named and question in [asked.text for asked in case.questions])
    return next(bases) + ("_stream" if body["stream"] else "")


def good_reply(body: t.Any) -> stub.Reply:
    kind, stream = kind_of(body), body["stream"]
    if kind in ("bare", "told"):
        return stub.answer(HERMES if kind == "bare" else "It hails, at 17 degrees.")
    case = CASES[kind]
    question = next(asked for asked in case.questions if asked.text == body["messages"][0]["content"])
    calls = [stub.call("get_weather", {"city": city}) for city in question.expected]
    if case.base == "nested":
        name, first, second = question.expected
        stops = [{"city": first, "nights": 2}, {"city": second, "nights": 3}]
        calls = [stub.call("book_trip", {**TRIP, "traveller": {"name": name, "age": 34}, "stops": stops})]
    if not calls:
        return stub.answer("I am a model.", stream=stream)
    return stub.answer(None, "tool_calls", stream, tool_calls=calls)


def model(**faults: t.Union[stub.Reply, t.Sequence[stub.Reply]]) -> stub.Reply:
    """A model that does all of it well, but for *faults* (by name of the case; a list is played in order, then the case goes well)."""
    scripts = {name: list(fault) if isinstance(fault, (list, tuple)) else fault for name, fault in faults.items()}

    def choose(body: t.Any) -> stub.Reply:
        fault = scripts.get(kind_of(body))
        if isinstance(fault, list):
            return fault.pop(0) if fault else good_reply(body)
        return t.cast(stub.Reply, fault or good_reply(body))

    return stub.by_request(choose)


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading those of the system for each client would take most of the time, and nothing here speaks TLS."""
    monkeypatch.setattr(_openai, "make_context", lambda **_options: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("m", "other")], chat=[model()]) as running:
        yield running


def plays(server: stub.StubOpenAI, *replies: stub.Reply, **faults: t.Any) -> None:
    server.scripts["/v1/chat/completions"] = list(replies) or [model(**faults)]


def prober(server: stub.StubOpenAI, clock: Clock, **options: t.Any) -> Prober:
    reach = Reach({"url": server.url}, lambda: pytest.fail("the cluster was asked"))
    return Prober(reach, options.pop("model", "m"), now=clock.now, sleep=clock.sleep, **options)


def probed(server: stub.StubOpenAI, clock: Clock, *names: str, **options: t.Any) -> dict[str, dict[str, t.Any]]:
    return {case["name"]: case for case in prober(server, clock, **options).probe(names or CASES)}


def chats(server: stub.StubOpenAI) -> list[t.Any]:
    return [request.body for request in server.requests if request.method == "POST"]


def test_a_model_that_does_it_all(server: stub.StubOpenAI, clock: Clock) -> None:
    made = prober(server, clock)
    cases = made.probe(CASES)
    assert [case["name"] for case in cases] == list(CASES)
    told = {tuple(case[key] for key in ("passed", "pass_rate", "tries", "stage", "skipped")) for case in cases}
    assert told == {(True, 1, 1, "ok", False)}
    assert (made.score, cases[0]["found"], cases[0]["advice"], cases[0]["parser_hint"]) == (1.0, 'get_weather({"city": "Paris"})', "", [])
    assert {case["name"] for case in cases if case["first_token_p50"] is not None} == {name for name in CASES if name.endswith("_stream")}
    assert all(case["seconds_p50"] is not None for case in cases)
    asked = chats(server)
    assert {(body["model"], body["temperature"], body["seed"], body["max_tokens"]) for body in asked} == {("m", 0.0, 0, 2048)}
    choices = [body["tool_choice"] for body in asked]
    assert choices[:5] == ["auto", "auto", "required", "required", {"type": "function", "function": {"name": "get_weather"}}]
    assert [body["stream"] for body in asked] == [False, True] * 5 + [False, False, False, True]


def test_only_the_named_cases_are_asked_in_the_order_of_all(server: stub.StubOpenAI, clock: Clock) -> None:
    assert list(probed(server, clock, "no_tool", "auto_stream", "auto")) == ["auto", "auto_stream", "no_tool"]
    assert len(server.requests) == 3


def test_the_second_turn_brings_the_call_and_its_result(server: stub.StubOpenAI, clock: Clock) -> None:
    assert probed(server, clock, "second_turn")["second_turn"]["found"] == '"It hails, at 17 degrees."'
    question, assistant, tool = chats(server)[1]["messages"]
    assert (question["role"], assistant["role"], assistant["tool_calls"]) == ("user", "assistant", [PARIS])
    assert (tool["role"], tool["tool_call_id"]) == ("tool", PARIS["id"])
    assert json.loads(tool["content"]) == _tool_probe.TOOL_RESULT
    assert "tools" in chats(server)[1]
    plays(server, told=stub.answer("It is sunny."))
    assert probed(server, clock, "second_turn")["second_turn"]["stage"] == "result-ignored"
    plays(server, auto=stub.answer("Sunny."))
    case = probed(server, clock, "second_turn")["second_turn"]
    assert (case["stage"], case["found"].startswith("in the first turn, the model did not call")) == ("no-call", True)


def test_a_call_without_an_id_gets_one_for_its_result(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, auto=stub.answer(None, "tool_calls", tool_calls=[{"function": PARIS["function"]}]))
    assert probed(server, clock, "second_turn")["second_turn"]["passed"]
    assistant, tool = chats(server)[1]["messages"][1:]
    assert assistant["tool_calls"][0] == {"id": "call0", "type": "function", "function": PARIS["function"]}
    assert tool["tool_call_id"] == "call0"


@pytest.mark.parametrize(
    ("name", "fault", "stage"),
    [
        ("auto", stub.answer(HERMES), "call-as-text"),
        ("auto_stream", stub.answer(HERMES, stream=True), "call-as-text"),
        ("required", stub.answer("", reasoning=HERMES), "call-in-reasoning"),
        ("named_stream", stub.answer("", stream=True, reasoning=HERMES), "call-in-reasoning"),
        ("parallel", stub.answer(None, "tool_calls", tool_calls=[PARIS]), "too-few-calls"),
        ("parallel_stream", stub.answer(None, "tool_calls", True, tool_calls=[PARIS]), "too-few-calls"),
        ("nested", stub.answer(None, "tool_calls", tool_calls=[stub.call("book_trip", {})]), "arguments-do-not-match"),
        ("nested_stream", stub.answer(None, "tool_calls", True, tool_calls=[stub.call("trip", TRIP)]), "wrong-name"),
        ("no_tool", stub.answer(None, "tool_calls", tool_calls=[PARIS]), "called-needlessly"),
        ("no_tool_stream", stub.answer("<think>Hi</think>Hi", stream=True), "reasoning-leaked"),
        ("auto", stub.answer("", "length"), "cut-off"),
        ("auto_stream", stub.events(FIRST, part(None, arguments="{}"), finish="tool_calls"), "stream-broken"),
        ("auto_stream", stub.events(*GOOD, finish="tool_calls", done=False), "stream-broken"),
        ("auto_stream", stub.events(*GOOD[:3], finish=None, done=False), "stream-broken"),
        ("auto_stream", stub.breaks_off("Hel"), "stream-broken"),
        ("auto_stream", stub.page("<html>"), "stream-broken"),
        ("auto_stream", stub.events(*GOOD[:3], finish="tool_calls"), "stream-broken"),
        ("auto", stub.page("<html>"), "request-failed"),
        ("auto", stub.status(500, "engine died"), "request-failed"),
        ("auto", stub.status(503, "no engine"), "request-failed"),
        ("auto", stub.status(400, "no chat template"), "refused"),
        ("auto", NO_AUTO, "tool-choice-disabled"),
    ],
)
def test_each_stage_is_reached_by_an_answer(server: stub.StubOpenAI, clock: Clock, name: str, fault: stub.Reply, stage: str) -> None:
    plays(server, **{name: fault})
    cases = probed(server, clock, CASES[name].base, name)
    assert (cases[name]["passed"], cases[name]["stage"]) == (False, stage)
    if name != CASES[name].base:
        assert cases[CASES[name].base]["passed"]
    assert cases[name]["found"]


def test_a_good_stream_in_pieces(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, auto_stream=stub.events(*GOOD, finish="tool_calls"))
    assert probed(server, clock, "auto_stream")["auto_stream"]["passed"]


# Tries


def test_each_try_has_its_own_seed_and_question(server: stub.StubOpenAI, clock: Clock) -> None:
    told: list[tuple[str, str]] = []
    probed(server, clock, "auto", tries=4, seed=7, temperature=0.5, tell=lambda phase, text: told.append((phase, text)))
    asked = chats(server)
    assert [(body["seed"], body["temperature"]) for body in asked] == [(7, 0.5), (8, 0.5), (9, 0.5), (10, 0.5)]
    questions = [body["messages"][0]["content"] for body in asked]
    assert questions[0] == "What is the weather in Paris?"
    assert len(set(questions)) == 3
    assert questions[3] == questions[0]
    assert told[0] == ("auto", "auto, try 1 of 4 ...")


def test_a_flaky_model_has_a_pass_rate(server: stub.StubOpenAI, clock: Clock) -> None:
    def flaky() -> stub.Reply:
        return model(auto=[stub.answer("Sunny."), good_reply_of("Tokyo"), stub.answer(HERMES)])

    plays(server, flaky())
    made = prober(server, clock, tries=4)
    (case,) = made.probe(["auto"])
    assert (case["passed"], case["pass_rate"], case["tries"], made.score) == (False, 0.5, 4, 0.5)
    assert (case["stage"], case["parser_hint"]) == ("call-as-text", ["hermes"])
    for rate, passed in ((0.5, True), (0.51, False), (0.0, True), (1.0, False)):
        plays(server, flaky())
        assert probed(server, clock, "auto", tries=4, min_pass_rate=rate)["auto"]["passed"] is passed


def good_reply_of(city: str) -> stub.Reply:
    return stub.answer(None, "tool_calls", tool_calls=[stub.call("get_weather", {"city": city})])


def test_the_score_counts_all_tries_alike(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, no_tool=stub.answer(""), auto=[stub.answer("Sunny.")])
    made = prober(server, clock, tries=2)
    made.probe(["auto", "required", "no_tool"])
    assert made.score == 0.5
    assert prober(server, clock).score == 0


# What is refused as a whole


def test_an_endpoint_without_tool_choice_is_asked_once_for_each(server: stub.StubOpenAI, clock: Clock) -> None:
    autos = {name: NO_AUTO for name, case in CASES.items() if case.choice == "auto"}
    plays(server, **autos, required=NO_REQUIRED)
    cases = probed(server, clock, tries=3)
    assert {name for name, case in cases.items() if case["stage"] != "ok"} == {*autos, "required", "required_stream"}
    assert {name for name, case in cases.items() if case["skipped"]} == {*autos, "required_stream"} - {"auto"}
    assert [kind_of(body) for body in chats(server)] == ["auto", "bare", "required", *["named"] * 3, *["named_stream"] * 3]
    auto, twin = cases["auto"], cases["auto_stream"]
    assert (auto["stage"], auto["tries"], twin["tries"], auto["pass_rate"]) == ("tool-choice-disabled", 1, 0, 0)
    assert [twin[key] for key in ("stage", "found", "advice", "parser_hint")] == [
        auto[key] for key in ("stage", "found", "advice", "parser_hint")
    ]
    assert "answered 400" in auto["found"]
    assert auto["found"].endswith("; asked without it, the model writes its calls as <tool_call>")
    assert auto["parser_hint"] == ["hermes"]
    assert "--enable-auto-tool-choice --tool-call-parser hermes" in auto["advice"]
    assert "requires --tool-call-parser" in cases["required"]["found"]
    assert chats(server)[1]["tools"]


@pytest.mark.parametrize("bare", [stub.answer("Sunny."), stub.status(500)])
def test_an_endpoint_without_tool_choice_whose_model_writes_no_call(server: stub.StubOpenAI, clock: Clock, bare: stub.Reply) -> None:
    plays(server, parallel=NO_AUTO, bare=bare)
    cases = probed(server, clock, "parallel", "nested")
    assert (cases["nested"]["stage"], cases["nested"]["skipped"]) == ("tool-choice-disabled", True)
    assert (cases["parallel"]["parser_hint"], "--tool-call-parser NAME" in cases["parallel"]["advice"]) == ([], True)
    assert cases["parallel"]["found"].endswith(")")


def test_a_runtime_that_knows_no_tools_is_asked_once(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, stub.status(400, "library/x does not support tools"))
    cases = probed(server, clock)
    assert len(server.requests) == 1
    assert {case["stage"] for case in cases.values()} == {"refused"}
    assert "another model" in cases["no_tool"]["advice"]


def test_a_server_that_wants_another_flag(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, auto=stub.status(500, "tools param requires --jinja flag"))
    case = probed(server, clock, "auto")["auto"]
    assert (case["stage"], case["advice"]) == ("tool-choice-disabled", "Start the server with --jinja.")


@pytest.mark.parametrize(
    ("refused", "skipped"),
    [
        ("nested", {"nested_stream"}),
        ("nested_stream", set()),
        ("named", {"named_stream"}),
        ("auto", {name for name, case in CASES.items() if case.choice == "auto"} - {"auto"}),
        ("auto_stream", {"parallel_stream", "nested_stream", "no_tool_stream"}),
    ],
)
def test_another_refusal_reaches_as_far_as_it_goes(server: stub.StubOpenAI, clock: Clock, refused: str, skipped: set[str]) -> None:
    plays(server, **{refused: stub.status(400, "the grammar is not supported")})
    cases = probed(server, clock)
    assert {name for name, case in cases.items() if case["skipped"]} == skipped
    assert {name for name, case in cases.items() if case["stage"] == "refused"} == {refused, *skipped}
    assert all(cases[name]["passed"] for name in cases if name not in {refused, *skipped})


# What is no matter of the model


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_it(server: stub.StubOpenAI, clock: Clock, status: int) -> None:
    plays(server, stub.status(status))
    with pytest.raises(ServingError, match="The engines want an API key, and none was given"):
        probed(server, clock)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "refusal", [stub.status(404, "The model `others` does not exist."), stub.status(400, "Model others not found"), stub.status(404)]
)
def test_a_model_that_is_not_there_ends_it(server: stub.StubOpenAI, clock: Clock, refusal: stub.Reply) -> None:
    plays(server, refusal)
    with pytest.raises(ServingError) as caught:
        probed(server, clock, model="others")
    assert str(caught.value) == f'There is no model others at {server.url} (did you mean "other"?). It lists: m, other.'


def test_a_wrong_path_ends_it(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts = {}
    with pytest.raises(ServingError, match=r"The list of models cannot be had either .*is the URL right"):
        probed(server, clock)


def test_a_model_that_is_listed_but_not_yet_served_is_waited_for(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, auto=[stub.status(404), stub.status(404)])
    assert probed(server, clock, "auto")["auto"]["passed"]
    plays(server, auto=stub.status(404))
    assert probed(server, clock, "auto")["auto"]["stage"] == "request-failed"


def test_nobody_there_ends_it(clock: Clock) -> None:
    nobody = stub.StubOpenAI()
    made = prober(nobody, clock)
    with pytest.raises(ServingError, match=r"got no whole answer: .*refused.* Look at the log of what serves"):
        made.probe(CASES)
    assert clock.time == _tool_probe.PATIENCE_S
    assert {(case["stage"], case["skipped"]) for case in made.cases[1:]} == {("unreachable", True)}
    nobody.server_close()


def test_an_endpoint_that_goes_away_is_told_once(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, model(), stub.drops())
    cases = probed(server, clock, "auto", "required", "no_tool")
    assert [(case["stage"], case["skipped"]) for case in cases.values()] == [("ok", False), ("unreachable", False), ("unreachable", True)]


def test_what_heals_costs_no_try(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, auto=[stub.status(503), stub.status(429)])
    case = probed(server, clock, "auto")["auto"]
    assert (case["passed"], case["tries"]) == (True, 1)
    assert 0 < clock.time < _tool_probe.PATIENCE_S


def test_a_request_that_hangs_is_given_up(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, auto=stub.hangs())
    cases = probed(server, clock, "auto", "no_tool", request_timeout_s=0.1)
    assert ("within 0.1 s" in cases["auto"]["found"], cases["auto"]["stage"]) == (True, "request-failed")
    assert cases["no_tool"]["passed"]


def test_a_request_gets_what_is_left_of_the_time(server: stub.StubOpenAI, clock: Clock) -> None:
    given: list[float] = []

    class Noted(Reach):
        @contextlib.contextmanager
        def client(self, timeout_s: float) -> t.Iterator[OpenAIClient]:
            given.append(timeout_s)
            clock.time += 3.5
            with super().client(timeout_s) as client:
                yield client

    reach = Noted({"url": server.url}, lambda: pytest.fail("the cluster was asked"))
    Prober(reach, "m", tries=9, request_timeout_s=8, timeout_s=11, now=clock.now, sleep=clock.sleep).probe(["auto"])
    assert given == [8, 7.5, 4, 1]


def test_what_the_time_leaves_out_is_not_asked(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, required=stub.status(503))
    cases = probed(server, clock, "auto", "required", "no_tool", tries=2, timeout_s=20)
    assert [(case["stage"], case["tries"], case["skipped"]) for case in cases.values()] == [
        ("ok", 2, False),
        ("request-failed", 2, False),
        ("not-asked", 0, True),
    ]
    assert clock.time == 20
    assert "the 20 s for all cases were over" in cases["no_tool"]["found"]


def test_a_case_that_the_time_cuts_short_has_not_passed(server: stub.StubOpenAI, clock: Clock) -> None:
    def late(body: t.Any) -> stub.Reply:
        clock.time += 6
        return good_reply(body)

    plays(server, stub.by_request(late))
    case = probed(server, clock, "auto", tries=3, timeout_s=10)["auto"]
    assert (case["stage"], case["passed"], case["tries"], case["pass_rate"], case["skipped"]) == ("not-asked", False, 2, 0.6667, False)


# Tokens


def test_how_long_answers_may_be(server: stub.StubOpenAI, clock: Clock) -> None:
    probed(server, clock, "auto", max_model_len=512)
    probed(server, clock, "auto", max_model_len=512, max_tokens=99)
    assert [body["max_tokens"] for body in chats(server)] == [256, 99]


@pytest.mark.parametrize("name", ["auto", "auto_stream"])
def test_a_context_that_nobody_named_is_learnt_from_the_refusal(server: stub.StubOpenAI, clock: Clock, name: str) -> None:
    words = "max_tokens=2048 cannot be greater than max_model_len=512. Please request fewer output tokens."
    plays(server, **{name: [stub.status(400, words)]})
    assert probed(server, clock, name, "no_tool")[name]["passed"]
    assert [body["max_tokens"] for body in chats(server)] == [2048, 256, 256]


def test_a_refusal_that_fewer_tokens_do_not_mend_is_told(server: stub.StubOpenAI, clock: Clock) -> None:
    plays(server, stub.status(400, "This model's maximum context length is 512 tokens."))
    assert "maximum context length is 512" in probed(server, clock, "auto")["auto"]["found"]
    assert len(server.requests) == 2
