# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging answers as vLLM gives them when a parser fits and when it does not, and asking a server that plays them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _verify
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KubeError
from ansible_collections.llmops.serving.plugins.module_utils._openai import Completion, OpenAIClient, OpenAIError
from ansible_collections.llmops.serving.plugins.module_utils._reach import Reach
from ansible_collections.llmops.serving.plugins.module_utils._verify import Finding, Verifier
from ansible_collections.llmops.serving.plugins.module_utils._wait import NotYetError
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub
from ansible_collections.llmops.serving.tests.unit.clock import Clock

PARIS = stub.call("get_weather", {"city": "Paris"})
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
SMOKE_MODEL = Path(__file__).parents[4] / "roles/vllm/files/smoke_model.py"


def judged(text: str = "", finish: t.Optional[str] = "tool_calls", calls: t.Sequence[t.Any] = (), reasoning: str = "") -> Finding:
    completion = Completion(text=text, reasoning=reasoning, tool_calls=list(calls), finish_reason=finish)
    return _verify.judge_tool_call(completion, _verify.WEATHER_TOOL)


# Judging tool calls


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_a_call_is_found_good(finish: str) -> None:
    assert judged(calls=[PARIS], finish=finish) == Finding(True, "ok", 'get_weather({"city": "Paris"})')
    assert judged("I look it up.", calls=[PARIS, PARIS], reasoning="Use get_weather(city)").passed


# How the families write a call, and what is left of it where the engine hides special tokens.
WRITTEN = [
    (HERMES, "hermes"),
    ('Sure.\n<tool_call>{"name"', "hermes"),
    ("<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>", "qwen3_coder"),
    ("<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>", "glm45"),
    ('<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]', "granite"),
    ('<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}]', "granite"),
    ("<seed:tool_call>\n<function=get_weather>", "seed_oss"),
    ('<minimax:tool_call>\n<invoke name="get_weather">', "minimax_m2"),
    ('<longcat_tool_call>{"name": "get_weather"', "longcat"),
    ('{"name": "get_weather", "parameters": {"city": "Paris"}}', "llama3_json"),
    ('```json\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```', "llama3_json"),
    ('<|python_tag|>{"name": "get_weather", "parameters": {}}', "llama3_json"),
    ('[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}]', "mistral"),
    ('[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', "mistral"),
    ('get_weather[ARGS]{"city": "Paris"}', "mistral"),
    ('get_weather{"city": "Paris"}', "mistral"),
    ('[{"name": "get_weather", "arguments": {"city": "Paris"}}]', "mistral or granite or xlam"),
    ('[get_weather(city="Paris")]', "pythonic or llama4_pythonic"),
    ('<|python_start|>[get_weather(city="Paris")]<|python_end|>', "llama4_pythonic"),
    ('<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}', "openai"),
    ('analysisWe need the tool.assistantcommentary to=functions.get_weather json{"city": "Paris"}', "openai"),
    ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{}\n```", "deepseek_v3"),  # noqa: RUF001
    ('<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}', "deepseek_v31"),  # noqa: RUF001
    ("<｜tool▁calls▁begin｜>", "deepseek_v3 or deepseek_v31"),  # noqa: RUF001
    ('<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">', "deepseek_v32"),  # noqa: RUF001
    ("<｜DSML｜tool_calls>", "deepseek_v4"),  # noqa: RUF001
    ("<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0", "kimi_k2"),
    ('<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>', "lfm2"),
    ("<|tool_call>call:get_weather{city:Paris}<tool_call|>", "gemma4"),
    ("<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>", "functiongemma"),
    ('<function_calls>\nget_weather(city="Paris")\n</function_calls>', "olmo3"),
    ('<function_call> {"name": "get_weather"', "granite-20b-fc"),
    ('functools[{"name": "get_weather", "arguments": {"city": "Paris"}}]', "phi4_mini_json"),
    ('<|action_start|><|plugin|>\n{"name": "get_weather"', "internlm"),
]


@pytest.mark.parametrize(("text", "parsers"), WRITTEN)
def test_a_call_that_is_left_as_text_is_named_with_the_parser_that_reads_it(text: str, parsers: str) -> None:
    finding = judged(text, "stop")
    assert (finding.passed, finding.stage) == (False, "call-as-text")
    assert finding.found.startswith('the call came back as text ("')
    assert f"are read by {parsers}: set tool_call_parser of the row to that, or remove it." in finding.advice


@pytest.mark.parametrize(
    "text", ['get_weather(city="Paris")', 'I call {"function": {"name": "get_weather"}}', "get_weather (Paris)", "{'name': 'get_weather'}"]
)
def test_a_call_in_no_known_form_is_told_from_none(text: str) -> None:
    finding = judged(text, "stop")
    assert (finding.stage, finding.advice) == ("call-as-text", _verify.FIX_TOOL_PARSER)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot know the weather in Paris.",
        "A tool such as get_weather would tell.",
        '{"weather": "sunny", "name": "Paris"}',
        "[1] Paris (France) is sunny.",
        "[]",
        "{",
        "The city [Paris] has (as always) rain.",
    ],
)
def test_an_answer_in_place_of_a_call_is_no_call(text: str) -> None:
    finding = judged(text, "stop")
    assert (finding.stage, finding.advice) == ("no-call", _verify.OFFER_TOOLS)
    assert "did not call the tool, but answered" in finding.found


def test_the_excerpt_begins_where_the_call_does_and_is_short() -> None:
    found = judged(f"{'Let me see. ' * 40}\n{HERMES}{' x' * 200}").found
    assert '("<tool_call> {"name": "get_weather"' in found
    assert len(found) < 130
    assert "\n" not in found


def test_nothing_at_all_is_told_with_the_finish_reason() -> None:
    finding = judged(" ", "stop")
    assert (finding.stage, finding.advice) == ("no-call", _verify.FIX_TOOL_PARSER)
    assert 'neither a call nor text came back (finish reason "stop")' in finding.found


def test_a_call_that_the_reasoning_parser_swallowed() -> None:
    finding = judged("", "stop", reasoning=f"Hm.\n{HERMES}")
    assert (finding.stage, "inside the reasoning" in finding.found) == ("call-in-reasoning", True)
    assert judged("", "stop", reasoning='I could write get_weather(city="Paris").').stage == "no-call"


def test_an_answer_that_was_cut_off() -> None:
    finding = judged("", "length", reasoning="Hm" * 900)
    assert (finding.stage, finding.advice) == ("cut-off", _verify.FIX_LENGTH)


@pytest.mark.parametrize(
    ("call", "stage", "words"),
    [
        (stub.call("get_weatherget_weather", {"city": "Paris"}), "wrong-name", '"get_weatherget_weather", not of get_weather'),
        (stub.call("functions.get_weather", {"city": "Paris"}), "wrong-name", "functions.get_weather"),
        ({"id": "1", "function": None}, "wrong-name", 'of "", not'),
        (stub.call("get_weather", '{"city": "Par'), "arguments-not-json", '("{"city": "Par")'),
        (stub.call("get_weather", ""), "arguments-not-json", '("")'),
        ({"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}, "arguments-not-json", '{"city": "Paris"}'),
        ({"function": {"name": "get_weather"}}, "arguments-not-json", "null"),
        (stub.call("get_weather", ["Paris"]), "arguments-do-not-match", 'they are ["Paris"], not an object'),
        (stub.call("get_weather", '"{}"'), "arguments-do-not-match", "not an object"),
        (stub.call("get_weather", {}), "arguments-do-not-match", "city is missing"),
        (stub.call("get_weather", {"location": "Paris"}), "arguments-do-not-match", "city is missing"),
        (stub.call("get_weather", {"city": " "}), "arguments-do-not-match", "city is empty"),
        (stub.call("get_weather", {"city": {"type": "string"}}), "arguments-do-not-match", "not of type string"),
        (stub.call("get_weather", {"city": None}), "arguments-do-not-match", "city is null, not of type string"),
    ],
)
def test_a_call_that_is_not_right(call: t.Any, stage: str, words: str) -> None:
    for calls in ([call], [PARIS, call]):
        finding = judged(calls=calls)
        assert (finding.passed, finding.stage) == (False, stage)
        assert words in finding.found


@pytest.mark.parametrize("text", ["<tool_call>", HERMES, '[TOOL_CALLS]get_weather{"city": "Paris"}'])
def test_a_call_that_came_through_must_not_be_left_in_the_text(text: str) -> None:
    assert judged(text, calls=[PARIS]).stage == "markup-left"


@pytest.mark.parametrize("finish", ["length", None, "error"])
def test_a_call_has_to_end_as_one(finish: t.Optional[str]) -> None:
    assert judged(calls=[PARIS], finish=finish).stage == "wrong-finish-reason"


@pytest.mark.parametrize(
    ("arguments", "trouble"),
    [
        ({"n": 1, "unit": "C", "other": []}, ""),
        ({"n": 1.5}, "n is 1.5, not of type integer"),
        ({"n": True}, "n is true, not of type integer"),
        ({"n": 1, "share": False}, "share is false, not of type number"),
        ({"n": 1, "share": 1}, ""),
        ({"n": 1, "sure": True}, ""),
        ({"n": 1, "unit": "K"}, 'unit is "K", not one of C, F'),
    ],
)
def test_arguments_are_held_against_the_schema(arguments: dict[str, t.Any], trouble: str) -> None:
    schema = {
        "properties": {
            "n": {"type": "integer"},
            "share": {"type": "number"},
            "sure": {"type": "boolean"},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
        "required": ["n"],
    }
    assert _verify.argument_trouble(arguments, schema) == trouble


# Judging answers and thoughts


@pytest.mark.parametrize(
    ("completion", "stage"),
    [
        (Completion(text="Hello", finish_reason="stop"), "ok"),
        (Completion(text="Hello", finish_reason="length"), "ok"),
        (Completion(text="Hello"), "no-finish-reason"),
        (Completion(text=" \n", finish_reason="stop"), "empty"),
        (Completion(reasoning="Hello", finish_reason="stop"), "answer-in-reasoning"),
        (Completion(reasoning="Hm", finish_reason="length"), "cut-off"),
    ],
)
def test_plain_answers(completion: Completion, stage: str) -> None:
    finding = _verify.judge_completion(completion)
    assert (finding.passed, finding.stage) == (stage == "ok", stage)
    completion.first_token_seconds = 0.1
    assert _verify.judge_stream(completion) == finding


def test_a_stream_needs_a_piece() -> None:
    assert _verify.judge_stream(Completion(text="Hello", finish_reason="stop")).stage == "stream-broken"


@pytest.mark.parametrize(
    "mark",
    [
        *("<think>", "</think>", "<|channel|>", "<|start|>", "<|message|>", "[THINK]", "[/THINK]", "<seed:think>", "</mm:think>"),
        *("<|START_THINKING|>", "<|END_THINKING|>", "<|channel>", "<channel|>", "<thinking>", "◁think▷", "<ifm|think_fast>"),
        *("<|inner_prefix|>", "<|inner_suffix|>", "<think:abc>", "<|open|>think"),
    ],
)
@pytest.mark.parametrize("reasoning", ["", "Hm"])
def test_thoughts_in_the_answer_are_seen(mark: str, reasoning: str) -> None:
    finding = _verify.judge_reasoning(Completion(text=f"So {mark}18", reasoning=reasoning, finish_reason="stop"))
    assert (finding.stage, f'"{mark}"' in finding.found) == ("reasoning-leaked", True)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("Here is my thought process: ...", "Here is my thought process:"),
        ("analysisWe count.assistantfinal18", "analysisWe count.assistantfinal"),
        ("I think <b>so</b>: rethink [it].", ""),
        ("analysis: 9 + 18 = 27", ""),
        ("So, here is my thought process: ...", ""),
    ],
)
def test_thoughts_without_special_tokens(text: str, mark: str) -> None:
    assert _verify.reasoning_mark(text) == mark


def test_thoughts_that_come_apart() -> None:
    finding = _verify.judge_reasoning(Completion(text="27", reasoning="9 are left.", finish_reason="stop"))
    assert finding == Finding(True, "ok", '"9 are left."')
    assert _verify.judge_reasoning(Completion(text="27", reasoning=" ", finish_reason="stop")).stage == "no-reasoning"


# How long answers may be, and what may heal


@pytest.mark.parametrize(
    ("max_model_len", "tokens"), [(None, 2048), (0, 2048), (-1, 2048), (131072, 2048), (3072, 2048), (2048, 1024), (512, 256), (1, 1)]
)
def test_the_prompt_has_room_beside_the_answer(max_model_len: t.Optional[int], tokens: int) -> None:
    assert _verify.answer_tokens(max_model_len) == tokens


@pytest.mark.parametrize(
    ("error", "heals"),
    [
        (NotYetError("no pod is ready"), True),
        (OpenAIError(0, "POST /x of y got no whole answer: Connection refused"), True),
        (OpenAIError(0, "POST /x of y got no whole answer within 5 s"), False),
        (OpenAIError(0, "POST /x of y broke off in the middle of its stream, after: x"), False),
        *((OpenAIError(status, ""), True) for status in (429, 502, 503, 504)),
        *((OpenAIError(status, ""), False) for status in (400, 401, 403, 404, 500)),
        *((KubeError("", status), True) for status in (0, 429, 500, 503)),
        *((KubeError("", status), False) for status in (401, 403)),
        (ServingError("There is no Secret"), False),
    ],
)
def test_what_may_heal(error: ServingError, heals: bool) -> None:
    assert _verify.may_heal(error) is heals


@pytest.mark.parametrize("row", ["smoke", "smoke-json"])
def test_the_smoke_models_know_the_questions(row: str) -> None:
    spec = importlib.util.spec_from_file_location("smoke_model_of_verify", SMOKE_MODEL)
    assert spec
    assert spec.loader
    smoke = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(smoke)
    greetings = {question.rstrip("?.").lower() for questions in smoke.ANSWERS.values() for question in questions}
    assert all(greeting.rstrip("?.").lower() in greetings for greeting in _verify.GREETINGS)
    weather = {way.format(city).rstrip("?").lower() for way in smoke.WEATHER for city in smoke.CITIES}
    assert all(question.rstrip("?.").lower() in weather for question in _verify.WEATHER[:2])
    argument = _verify.WEATHER_TOOL.parameters["required"][0]
    assert (_verify.WEATHER_TOOL.name, argument) in smoke.WEATHER_TOOLS
    # what the engine makes of the answer when its parser is missing
    assert judged(smoke.tool_calls(row, "get_weather", {"city": "Paris"}), "stop").stage == "call-as-text"


# Asking


def serving(**faults: stub.Reply) -> stub.Reply:
    """A model that does all of it well, but for *faults* (by name of the check)."""

    def choose(body: t.Any) -> stub.Reply:
        asked = body["messages"][0]["content"]
        stream = body["stream"]
        if "tools" in body:
            kind, reply = "tool_call", stub.answer(None, "tool_calls", stream, tool_calls=[PARIS])
        elif asked in _verify.PUZZLES:
            kind, reply = "reasoning", stub.answer("27", stream=stream, reasoning="9 are left.")
        else:
            kind, reply = "completion", stub.answer("Hello!", stream=stream)
        return faults.get({"completion": "stream"}.get(kind, f"{kind}_stream") if stream else kind, reply)

    return stub.by_request(choose)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("m", "chat")], chat=[serving()]) as running:
        yield running


def verifier(server: stub.StubOpenAI, clock: Clock, **options: t.Any) -> Verifier:
    reach = Reach({"url": server.url}, lambda: pytest.fail("the cluster was asked"))
    return Verifier(reach, "m", now=clock.now, sleep=clock.sleep, **options)


def failure(made: Verifier, **wanted: t.Any) -> str:
    """Return the message with which the checks end."""
    with pytest.raises(ServingError) as caught:
        made.verify(**wanted)
    assert caught.value.details["checks"] == made.checks
    assert [check["passed"] for check in made.checks] == [True] * (len(made.checks) - 1) + [False]
    return str(caught.value)


def chats(server: stub.StubOpenAI) -> list[t.Any]:
    return [request.body for request in server.requests if request.method == "POST"]


def test_all_checks_of_a_good_model(server: stub.StubOpenAI, clock: Clock) -> None:
    checks = verifier(server, clock).verify(tool_calls=True, reasoning=True, aliases=["chat"])
    assert checks == [
        {"name": name, "passed": True, "attempts": 1, "seconds": 0.0, "found": found}
        for name, found in (
            ("completion", '"Hello!"'),
            ("stream", '"Hello!"'),
            ("alias chat", '"Hello!"'),
            ("tool_call", 'get_weather({"city": "Paris"})'),
            ("tool_call_stream", 'get_weather({"city": "Paris"})'),
            ("reasoning", '"9 are left."'),
        )
    ]
    asked = chats(server)
    assert [body["stream"] for body in asked] == [False, True, False, False, True, False]
    assert [body["model"] for body in asked] == ["m", "m", "chat", "m", "m", "m"]
    assert {(body["max_tokens"], body["temperature"]) for body in asked} == {(2048, 0)}
    assert asked[3]["tool_choice"] == "auto"
    assert asked[3]["tools"][0]["function"]["name"] == "get_weather"
    assert asked[3]["tools"][0]["function"]["parameters"]["required"] == ["city"]
    assert "tools" not in asked[0]


def test_a_model_that_does_not_think_passes_unless_a_thought_is_left_in_its_answer(server: stub.StubOpenAI, clock: Clock) -> None:
    answers = [serving(), serving(), stub.answer("27")]
    server.scripts["/v1/chat/completions"] = list(answers)
    check = verifier(server, clock).verify(reasoning=True)[-1]
    assert (check["name"], check["passed"], check["attempts"]) == ("reasoning", True, 3)
    assert "without a thought" in check["found"]
    server.scripts["/v1/chat/completions"] = [*answers, stub.answer("<think>Hm</think>27")]
    assert 'marked "<think>"' in failure(verifier(server, clock), reasoning=True)


def test_only_what_is_wanted_is_checked(server: stub.StubOpenAI, clock: Clock) -> None:
    assert [check["name"] for check in verifier(server, clock).verify()] == ["completion", "stream"]


def test_another_attempt_has_other_words_and_some_chance(server: stub.StubOpenAI, clock: Clock) -> None:
    told: list[tuple[str, str]] = []
    server.scripts["/v1/chat/completions"] = [serving(), serving(), *([stub.answer("Sunny.")] * 2), serving()]
    checks = verifier(server, clock, tell=lambda phase, text: told.append((phase, text))).verify(tool_calls=True)
    assert (checks[2]["passed"], checks[2]["attempts"], clock.time) == (True, 3, 0)
    asked = chats(server)[2:5]
    assert [body["temperature"] for body in asked] == [0, 0.6, 0.6]
    assert [body["messages"][0]["content"] for body in asked] == list(_verify.WEATHER)
    assert told == [
        ("completion", "completion ..."),
        ("completion, streamed", "completion, streamed ..."),
        ("tool call", "tool call ..."),
        ("tool call", "tool call, attempt 2 of 3 ..."),
        ("tool call", "tool call, attempt 3 of 3 ..."),
        ("tool call, streamed", "tool call, streamed ..."),
    ]


def test_a_call_left_as_text_is_told_with_what_to_do(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts["/v1/chat/completions"] = [serving(tool_call=stub.answer(HERMES))]
    made = verifier(server, clock)
    assert failure(made, tool_calls=True, reasoning=True) == (
        'm answers, but its tool calls do not work: the call came back as text ("<tool_call> {"name": "get_weather", "arguments": '
        '{"city": "Paris"}} </tool_call>") (3 attempts). '
        "Calls written as <tool_call> are read by hermes: set tool_call_parser of the row to that, or remove it."
    )
    assert made.checks[-1]["found"].startswith("the call came back as text")
    assert (made.checks[-1]["name"], made.checks[-1]["attempts"]) == ("tool_call", 3)


def test_the_attempt_that_tells_most_is_told(server: stub.StubOpenAI, clock: Clock) -> None:
    script = [serving(), serving(), stub.answer("Sunny."), stub.answer(HERMES), stub.answer("Rain.")]
    server.scripts["/v1/chat/completions"] = script
    assert "read by hermes" in failure(verifier(server, clock), tool_calls=True)


def test_a_parser_that_fails_on_streams_only(server: stub.StubOpenAI, clock: Clock) -> None:
    broken = stub.call("get_weather", '{"city": "Par')
    fault = stub.answer(None, "tool_calls", stream=True, tool_calls=[broken])
    server.scripts["/v1/chat/completions"] = [serving(tool_call_stream=fault)]
    message = failure(verifier(server, clock, attempts=1), tool_calls=True)
    assert message.startswith(
        'm answers, but its streamed tool calls do not work: the arguments of the call are not JSON ("{"city": "Par").'
    )
    assert "Calls that are not streamed do work" in message


def test_thoughts_that_leak(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts["/v1/chat/completions"] = [serving(reasoning=stub.answer("<think>9 are left.</think>27"))]
    message = failure(verifier(server, clock, attempts=1), reasoning=True)
    assert message.startswith('m answers, but its reasoning does not work: thoughts are left in the answer, marked "<think>"')
    assert message.endswith(_verify.FIX_REASONING_PARSER)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (stub.breaks_off("Hel"), "broke off in the middle of its stream, after: Hel|got no whole answer"),
        (stub.events("Hel", finish=None, done=False), "broke off in the middle of its stream, after: Hel"),
        (stub.answer("Hello"), "something that is not a stream"),
        (stub.events(finish="stop"), "the answer is empty"),
        (stub.events("Hello", finish=None), "no finish reason"),
    ],
)
def test_a_broken_stream(server: stub.StubOpenAI, clock: Clock, fault: stub.Reply, words: str) -> None:
    server.scripts["/v1/chat/completions"] = [serving(stream=fault)]
    message = failure(verifier(server, clock, attempts=2, timeout_s=20))
    assert message.startswith(("m answers, but not as a stream: ", "m could not be asked for a stream within 20 s: "))
    assert any(part in message for part in words.split("|"))
    assert message.endswith(f"Look at the log of what serves {server.url}.")


def test_an_engine_without_a_tool_parser_is_told_at_once(server: stub.StubOpenAI, clock: Clock) -> None:
    refusal = stub.status(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    server.scripts["/v1/chat/completions"] = [serving(tool_call=refusal)]
    made = verifier(server, clock)
    message = failure(made, tool_calls=True)
    assert "m answers, but its tool calls do not work: the engine runs without a parser for them (POST /v1/chat/completions" in message
    assert "Set tool_call_parser in the row" in message
    assert made.checks[-1]["attempts"] == 1


def test_another_refusal_is_quoted_at_once(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(400, "no chat template")]
    message = failure(verifier(server, clock))
    assert message.startswith(f"m does not answer as it should: POST /v1/chat/completions of {server.url} answered 400:")
    assert "no chat template" in message
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_at_once(server: stub.StubOpenAI, clock: Clock, status: int) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(status)]
    assert failure(verifier(server, clock)).startswith("The engines want an API key, and none was given.")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_trouble_that_heals_costs_no_attempt(server: stub.StubOpenAI, clock: Clock, status: int) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(status)]
    clock.events[60] = lambda: server.scripts.update({"/v1/chat/completions": [serving()]})
    checks = verifier(server, clock).verify()
    assert [(check["attempts"], check["passed"]) for check in checks] == [(1, True), (1, True)]
    assert 60 <= checks[0]["seconds"] < 66


def test_a_refused_connection_is_waited_for(clock: Clock) -> None:
    with contextlib.ExitStack() as stack:
        late = stub.StubOpenAI(chat=[serving()])
        clock.events[5] = lambda: stack.enter_context(late)
        assert verifier(late, clock).verify()[0]["attempts"] == 1


def test_trouble_that_does_not_heal_ends_with_the_time(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts["/v1/chat/completions"] = [serving(), serving(), stub.status(503, "no engine")]
    message = failure(verifier(server, clock, timeout_s=40), tool_calls=True)
    assert message.startswith("m could not be asked for a tool call within 40 s: POST /v1/chat/completions")
    assert "no engine" in message
    assert clock.time == 40


def test_an_engine_that_fails_inside_uses_up_attempts(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(500, "engine died"), serving()]
    assert verifier(server, clock).verify()[0]["attempts"] == 2
    assert clock.time == _verify.PAUSE_S
    server.scripts["/v1/chat/completions"] = [stub.status(500, "engine died")]
    assert "engine died" in failure(verifier(server, clock))
    assert clock.time == 3 * _verify.PAUSE_S


def test_no_attempt_begins_when_the_time_is_up(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(500, "engine died")]
    made = verifier(server, clock, timeout_s=3)
    assert "engine died" in failure(made)
    assert (made.checks[0]["attempts"], clock.time) == (2, 2)


def test_a_stream_that_broke_off_tells_more_than_what_failed_after_it(server: stub.StubOpenAI, clock: Clock) -> None:
    broken = stub.events("Hel", finish=None, done=False)
    server.scripts["/v1/chat/completions"] = [serving(), broken, stub.status(500)]
    assert "broke off" in failure(verifier(server, clock))


def test_a_request_that_hangs_is_given_up(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts["/v1/chat/completions"] = [stub.hangs(), serving()]
    assert verifier(server, clock, request_timeout_s=2).verify()[0]["attempts"] == 2


def test_an_alias_has_to_be_listed_and_to_answer(server: stub.StubOpenAI, clock: Clock) -> None:
    made = verifier(server, clock)
    message = failure(made, aliases=["chats"])
    assert message.startswith('m answers, but not as "chats": GET /v1/models')
    assert 'lists m, chat, not chats (did you mean "chat"?)' in message
    assert "--served-model-name" in message
    assert "chats" not in {body["model"] for body in chats(server)}
    server.scripts["/v1/chat/completions"] = [serving(), serving(), stub.status(404, "unknown model")]
    assert "unknown model" in failure(verifier(server, clock), aliases=["chat"])
    server.scripts["/v1/chat/completions"] = [serving(), serving(), stub.status(400, "no chat template")]
    assert failure(verifier(server, clock), aliases=["chat"]).endswith(f"Look at the log of what serves {server.url}.")


def test_an_alias_that_the_router_learns_a_moment_later(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts["/v1/models"] = [stub.models("m"), stub.models("m", "chat")]
    assert verifier(server, clock).verify(aliases=["chat"])[2]["attempts"] == 2


def test_a_small_context_is_not_asked_for_more_than_it_holds(server: stub.StubOpenAI, clock: Clock) -> None:
    verifier(server, clock, max_model_len=512).verify()
    assert {body["max_tokens"] for body in chats(server)} == {256}


def test_a_context_that_nobody_named_is_learnt_from_the_refusal(server: stub.StubOpenAI, clock: Clock) -> None:
    words = "max_tokens=2048 cannot be greater than max_model_len=512. Please request fewer output tokens."
    server.scripts["/v1/chat/completions"] = [stub.status(400, words), serving()]
    assert verifier(server, clock).verify()[0]["attempts"] == 1
    assert [body["max_tokens"] for body in chats(server)] == [2048, 256, 256]


def test_a_refusal_that_fewer_tokens_do_not_mend_is_told(server: stub.StubOpenAI, clock: Clock) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(400, "This model's maximum context length is 512 tokens.")]
    assert "maximum context length is 512" in failure(verifier(server, clock))
    assert len(server.requests) == 2


def test_pods_that_are_not_ready_are_waited_for(server: stub.StubOpenAI, clock: Clock) -> None:
    class Late(Reach):
        @contextlib.contextmanager
        def client(self, timeout_s: float) -> t.Iterator[OpenAIClient]:
            if clock.time < 10:
                raise NotYetError("no pod is ready")
            with super().client(timeout_s) as client:
                yield client

    reach = Late({"url": server.url}, lambda: pytest.fail("the cluster was asked"))
    assert Verifier(reach, "m", now=clock.now, sleep=clock.sleep).verify()[0]["passed"]
    clock.time = 0
    message = failure(Verifier(reach, "m", timeout_s=5, now=clock.now, sleep=clock.sleep))
    assert "within 5 s: no pod is ready" in message


def test_a_missing_secret_is_told_at_once(clock: Clock) -> None:
    class Empty:
        def get(self, _path: str) -> None:
            return None

    params = {"url": "http://127.0.0.1:9", "api_key_secret": {"namespace": "n", "name": "s", "key": "k"}}
    made = Verifier(Reach(params, lambda: t.cast(t.Any, Empty())), "m", now=clock.now, sleep=clock.sleep)
    assert failure(made) == "There is no Secret n/s to read the API key from."
    assert clock.time == 0
    assert json.dumps(made.checks)
