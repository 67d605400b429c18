# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""How well a model calls tools: a fixed set of cases, each asked some times, and what every answer was worth.

Where ``_verify`` stops at the first check that fails, a probe asks all of its cases and counts. The judges are pure functions on a
Completion; Prober asks. A streamed answer is judged by its deltas as well, since a client sees those and not their sum.
What the endpoint refuses is that of vLLM 0.32: vllm/renderers/online_renderer.py.
"""

from __future__ import annotations

import json
import re
import statistics
import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._openai import Completion, OpenAIClient, OpenAIError
from ansible_collections.llmops.serving.plugins.module_utils._reach import Reach
from ansible_collections.llmops.serving.plugins.module_utils._text import aligned
from ansible_collections.llmops.serving.plugins.module_utils._tool_text import CallFormat, call_format
from ansible_collections.llmops.serving.plugins.module_utils._verify import (
    CONTEXT_LIMIT,
    FIRST_PAUSE_S,
    FIX_LENGTH,
    FIX_REASONING_PARSER,
    GREETINGS,
    KINDS,
    LONGEST_PAUSE_S,
    SHORTEST_REQUEST_S,
    WEATHER_TOOL,
    Finding,
    Tool,
    answer_tokens,
    excerpt,
    is_final,
    judge_completion,
    judge_tool_call,
    may_heal,
    reasoning_mark,
)
from ansible_collections.llmops.serving.plugins.module_utils._wait import Lap, NotYetError, Waiter

# For how long one request is repeated that may heal: nobody listens, a router or an engine is busy.
PATIENCE_S = 15.0
# More of what was found than this makes a line of the table too long to read.
TABLE_FOUND = 72

# --- the cases -----------------------------------------------------------------------------------------------------------------------


class Question(t.NamedTuple):
    """What is asked. Each of *expected* has to stand somewhere in the arguments of the calls."""

    text: str
    expected: tuple[str, ...] = ()


class Case(t.NamedTuple):
    """One thing that a model with tools has to do. *base* is its name without ``_stream``, *choice* the ``tool_choice`` in a word.

    *calls* is how many calls are wanted at least; 0 means that there has to be none. Try number n asks question number n.
    """

    name: str
    base: str
    choice: str
    tool: Tool
    questions: tuple[Question, ...]
    calls: int
    stream: bool

    def request(self) -> dict[str, t.Any]:
        """Return the fields of the request that offer the tool."""
        named = {"type": "function", "function": {"name": self.tool.name}}
        return {"tools": [self.tool.as_request()], "tool_choice": named if self.choice == "named" else self.choice}


TRIP_TOOL = Tool(
    "book_trip",
    "Book a trip with one or more stops.",
    {
        "type": "object",
        "properties": {
            "traveller": {
                "type": "object",
                "description": "Who travels",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                "required": ["name", "age"],
                "additionalProperties": False,
            },
            "stops": {
                "type": "array",
                "description": "The cities to stay in, in order",
                "items": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "nights": {"type": "integer"}},
                    "required": ["city", "nights"],
                    "additionalProperties": False,
                },
                "minItems": 1,
            },
            "transport": {"type": "string", "enum": ["train", "plane", "bus"]},
        },
        "required": ["traveller", "stops", "transport"],
        "additionalProperties": False,
    },
)
# The smoke models (roles/vllm/files/smoke_model.py) are trained on all of these.
_WEATHER = tuple(Question(f"What is the weather in {city}?", (city,)) for city in ("Paris", "Tokyo", "Oslo"))
_PAIRS = tuple(
    Question(f"What is the weather in {first}, and what is it in {second}? Ask for both cities at once.", (first, second))
    for first, second in (("Paris", "London"), ("Tokyo", "Sydney"), ("Oslo", "Cairo"))
)
_TRIPS = (
    Question("Book a trip by train for Anna Lee, who is 34: two nights in Paris, then three nights in Rome.", ("Lee", "Paris", "Rome")),
    Question("Book a trip by plane for Omar Diaz, who is 51: four nights in Tokyo, then one night in Sydney.", ("Diaz", "Tokyo", "Sydney")),
    Question("Book a trip by bus for Mia Berg, who is 27: one night in Oslo, then two nights in Berlin.", ("Berg", "Oslo", "Berlin")),
)
_CHAT = tuple(Question(text) for text in GREETINGS)

CASES: dict[str, Case] = {
    f"{base}{ending}": Case(f"{base}{ending}", base, choice, tool, questions, calls, ending == "_stream")
    for base, choice, tool, questions, calls, endings in (
        ("auto", "auto", WEATHER_TOOL, _WEATHER, 1, ("", "_stream")),
        ("required", "required", WEATHER_TOOL, _WEATHER, 1, ("", "_stream")),
        ("named", "named", WEATHER_TOOL, _WEATHER, 1, ("", "_stream")),
        ("parallel", "auto", WEATHER_TOOL, _PAIRS, 2, ("", "_stream")),
        ("nested", "auto", TRIP_TOOL, _TRIPS, 1, ("", "_stream")),
        ("second_turn", "auto", WEATHER_TOOL, _WEATHER, 1, ("",)),
        ("no_tool", "auto", WEATHER_TOOL, _CHAT, 0, ("", "_stream")),
    )
    for ending in endings
}
# The simplest case of each choice: what is refused there, is refused for all of it.
_SIMPLEST = ("auto", "required", "named")

# What the tool "answers" in the second turn: nothing that a model would guess, and the ways to say it.
TOOL_RESULT = {"temperature_celsius": 17, "sky": "hail"}
_RESULT_MARKS = re.compile(r"\b17(?:[.,]0)?\b|\bhail|\bseventeen\b|\b62[.,]6\b|\b63\b", re.IGNORECASE)

# --- judging one answer --------------------------------------------------------------------------------------------------------------

FIX_STREAM = KINDS["tool_call_stream"].advice
FIX_STREAM_WITH = (
    "Calls that are not streamed do work, so the parser fails on streams: what came is what {parser} reads. Set tool_call_parser to that, "
    "or take another vllm_image where it is set."
)
FIX_TOOL_CHOICE = (
    "Start the engine with --enable-auto-tool-choice --tool-call-parser {parser} "
    "(in a row of the catalog: tool_call_parser, with enable_auto_tool_choice left on)."
)
FIX_FEW_CALLS = "Not every model makes several calls at once: take one that does, or expect the second call after the first result."
FIX_TWICE = "A client would run it twice: take another tool_call_parser, another vllm_image or another model."
FIX_NEEDLESS = "A client will see calls that nobody asked for: take a model or a chat template that also knows when to answer."
FIX_RESULT = "Its chat template may leave out messages of the role tool: take one that knows them (--chat-template)."
FIX_SCHEMA = "The model does not keep to the schema: take a greater one, or tools with simpler arguments."

_DISABLED = re.compile(r"requires --(?:enable-auto-tool-choice|tool-call-parser)|requires --jinja")
_NO_TOOLS = re.compile(r"does not support (?:tools|tool|function)", re.IGNORECASE)
_UNKNOWN_MODEL = re.compile(r"\bmodel\b.{0,160}?\b(?:does not exist|not found|is not served)|unknown model", re.IGNORECASE | re.DOTALL)
# What a parser can have done wrong, so that an answer that is not streamed tells whether only its streaming does.
_PARSER_STAGES = ("call-as-text", "call-in-reasoning", "markup-left", "wrong-name", "arguments-not-json", "no-call")
# Stages that say little about the model; another try that failed tells more.
_VAGUE = ("no-call", "cut-off", "empty", "request-failed", "unreachable", "not-asked")

_JSON_TYPES: dict[str, t.Callable[[t.Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())),
    "number": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


class Judged(t.NamedTuple):
    """A finding, and which parsers of vLLM read what the model wrote in place of a call; empty where that is not the trouble."""

    finding: Finding
    parsers: tuple[str, ...] = ()


def schema_trouble(value: t.Any, schema: t.Mapping[str, t.Any], path: str = "") -> str:
    """Return how *value* breaks the JSON schema *schema*, with the path of the part that does (``stops[1].city``); empty where it fits.

    Knows ``type`` (a name or a list of them), ``enum``, ``properties``, ``required``, ``additionalProperties``, ``items``, ``minItems``
    and ``maxItems``; other words are let pass. A required string must not be empty.
    """
    name = path or "the value"
    kinds = schema.get("type") or ()
    kinds = [kind for kind in ((kinds,) if isinstance(kinds, str) else kinds) if kind in _JSON_TYPES]
    if kinds and not any(_JSON_TYPES[kind](value) for kind in kinds):
        return f"{name} is {_short(value)}, not of type {' or '.join(kinds)}"
    if schema.get("enum") and value not in schema["enum"]:
        return f"{name} is {_short(value)}, not one of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, dict):
        return _object_trouble(value, schema, path)
    if isinstance(value, list):
        return _array_trouble(value, schema, path)
    return ""


def stream_trouble(deltas: t.Iterable[t.Mapping[str, t.Any]]) -> str:
    """Return why the calls in *deltas* (the ``delta`` of each chunk) do not join, empty where they do.

    Each part of a call needs the index of its call, counted from 0; each call needs one name, which no later part repeats.
    """
    names: dict[int, str] = {}
    ids: dict[int, str] = {}
    for delta in deltas:
        for part in delta.get("tool_calls") or []:
            index = part.get("index")
            if not isinstance(index, int) or isinstance(index, bool):
                return f"a delta of a call has no index ({_short(part)})"
            name, call_id = str((part.get("function") or {}).get("name") or ""), str(part.get("id") or "")
            if index not in names:
                if index != len(names):
                    return f"a call begins with index {index}, where {len(names)} was due"
                names[index], ids[index] = name, call_id
            elif name and call_id and call_id != ids[index]:
                return f"two calls share index {index}"
            elif name and name == names[index]:
                return f"call {index} is named again in a later delta"
            else:
                names[index] += name
    return next((f"call {index} has no name, so its deltas belong to another" for index, name in names.items() if not name), "")


def judge_calls(completion: Completion, tool: Tool, expected: t.Sequence[str] = (), at_least: int = 1) -> Judged:
    """Judge an answer in which *tool* had to be called *at_least* so often, with each of *expected* somewhere in the arguments."""
    finding = judge_tool_call(completion, tool)
    if not finding.passed:
        if completion.finish_reason == "length" and finding.stage in ("arguments-not-json", "wrong-finish-reason"):
            return Judged(Finding(False, "cut-off", "the answer was cut off in the middle of a call", FIX_LENGTH))
        return Judged(finding, _written_by(completion, tool, finding.stage))
    calls = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in completion.tool_calls]
    said = excerpt(", ".join(call["function"]["arguments"] for call in completion.tool_calls))
    for _name, arguments in calls:
        trouble = schema_trouble(arguments, tool.parameters)
        if trouble:
            found = f"the arguments of the call do not fit the tool: {trouble} ({said})"
            return Judged(Finding(False, "arguments-do-not-match", found, FIX_SCHEMA))
    if any(call in calls[:place] for place, call in enumerate(calls)):
        return Judged(Finding(False, "same-call-twice", f"the same call came more than once ({said})", FIX_TWICE))
    if len(calls) < at_least:
        return Judged(Finding(False, "too-few-calls", f"{len(calls)} of {at_least} calls came back ({said})", FIX_FEW_CALLS))
    told = json.dumps([arguments for _name, arguments in calls], ensure_ascii=False).casefold()
    for word in expected:
        if word.casefold() not in told:
            found = f"the arguments of the call do not fit the question: {word} is in none of them ({said})"
            return Judged(Finding(False, "arguments-do-not-match", found))
    return Judged(_leak(completion) or finding)


def judge_no_call(completion: Completion) -> Judged:
    """Judge an answer to a question that needs no tool: text, and no call."""
    if completion.tool_calls:
        function = completion.tool_calls[0].get("function") or {}
        found = f"the model called a tool that the question does not need ({excerpt(str(function.get('name') or ''))})"
        return Judged(Finding(False, "called-needlessly", found, FIX_NEEDLESS))
    written = call_format(completion.text)
    if written:
        found = f"the model wrote a call that the question does not need, as text ({excerpt(completion.text)})"
        return Judged(Finding(False, "called-needlessly", found, FIX_NEEDLESS), written.parsers)
    return Judged(_leak(completion) or judge_completion(completion))


def judge_result_used(completion: Completion, tool: Tool) -> Judged:
    """Judge the answer to a question whose tool call has been answered with TOOL_RESULT: text that tells it."""
    if completion.tool_calls:
        return Judged(Finding(False, "result-ignored", "the model called a tool again, instead of telling the result", FIX_RESULT))
    finding = judge_completion(completion)
    if not finding.passed:
        return Judged(finding)
    written = call_format(completion.text, tool.name)
    if written:
        found = f"the model wrote another call as text, instead of telling the result ({excerpt(completion.text)})"
        return Judged(Finding(False, "call-as-text", found, FIX_RESULT), written.parsers)
    leak = _leak(completion)
    if leak:
        return Judged(leak)
    if not _RESULT_MARKS.search(completion.text):
        return Judged(Finding(False, "result-ignored", f"nothing of the result is in the answer ({excerpt(completion.text)})", FIX_RESULT))
    return Judged(finding)


def judge(case: Case, question: Question, completion: Completion, whole_passed: bool = False) -> Judged:
    """Judge the (first) answer to *question* of *case*. *whole_passed* is whether the same case passed without streaming."""
    trouble = stream_trouble(completion.deltas) if case.stream else ""
    if trouble:
        return Judged(Finding(False, "stream-broken", trouble, FIX_STREAM))
    judged = judge_calls(completion, case.tool, question.expected, case.calls) if case.calls else judge_no_call(completion)
    if not case.stream:
        return judged
    finding = judged.finding
    if finding.passed and completion.first_token_seconds is None:
        return Judged(Finding(False, "stream-broken", "the stream brought no piece of the answer"))
    if finding.passed and not completion.closed:
        return Judged(Finding(False, "stream-broken", "the stream ended without [DONE]"))
    if not whole_passed or finding.stage not in _PARSER_STAGES:
        return judged
    if finding.stage == "arguments-not-json":
        finding = finding._replace(stage="stream-broken", found=f"{finding.found}, though they are without streaming")
    advice = FIX_STREAM_WITH.format(parser=" or ".join(judged.parsers)) if judged.parsers else FIX_STREAM
    return judged._replace(finding=finding._replace(advice=advice))


def _short(value: t.Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]


def _object_trouble(value: t.Mapping[str, t.Any], schema: t.Mapping[str, t.Any], path: str) -> str:
    properties, rest = schema.get("properties") or {}, schema.get("additionalProperties", True)
    for name in schema.get("required") or []:
        where = f"{path}.{name}" if path else name
        if name not in value:
            return f"{where} is missing"
        if isinstance(value[name], str) and not value[name].strip():
            return f"{where} is empty"
    for name, part in value.items():
        where = f"{path}.{name}" if path else name
        if name not in properties and rest is False:
            return f"{where} is not in the schema"
        trouble = schema_trouble(part, properties.get(name) or (rest if isinstance(rest, dict) else {}), where)
        if trouble:
            return trouble
    return ""


def _array_trouble(value: t.Sequence[t.Any], schema: t.Mapping[str, t.Any], path: str) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not least <= len(value) <= most:
        wanted = f"at least {least}" if len(value) < least else f"at most {most}"
        return f"{path or 'the value'} has {len(value)} entries, not {wanted}"
    troubles = (schema_trouble(part, schema.get("items") or {}, f"{path}[{place}]") for place, part in enumerate(value))
    return next(filter(None, troubles), "")


def _written_by(completion: Completion, tool: Tool, stage: str) -> tuple[str, ...]:
    """Return the parsers that read what was written in place of a call, or beside it."""
    if stage == "call-in-reasoning":
        written = call_format(completion.reasoning)
    elif stage in ("call-as-text", "markup-left"):
        written = call_format(completion.text, tool.name)
    else:
        return ()
    return written.parsers if written else ()


def _leak(completion: Completion) -> t.Optional[Finding]:
    """Return what is wrong when thoughts are left in the text."""
    mark = reasoning_mark(completion.text)
    if not mark:
        return None
    found = f'thoughts are left in the answer, marked "{mark}" ({excerpt(completion.text)})'
    return Finding(False, "reasoning-leaked", found, FIX_REASONING_PARSER)


# --- what people read ----------------------------------------------------------------------------------------------------------------


def table(cases: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Return *cases* as aligned lines under a head; nothing for no cases."""
    if not cases:
        return []
    rows = [("case", "passed", "first token", "seconds", "stage", "found")]
    for case in cases:
        found = case["found"] if len(case["found"]) <= TABLE_FOUND else f"{case['found'][:TABLE_FOUND]}..."
        passed = "skipped" if case["skipped"] else f"{case['pass_rate']:.0%}"
        rows.append((case["name"], passed, _figure(case["first_token_p50"]), _figure(case["seconds_p50"]), case["stage"], found))
    return aligned(rows, left=(0, 4, 5))


def verdict(model: str, cases: t.Sequence[t.Mapping[str, t.Any]], score: float) -> str:
    """Return in one line how many cases passed, and which stages the others ended in, with the parsers that would help."""
    if not cases:
        return f"{model} was not asked."
    passed = sum(bool(case["passed"]) for case in cases)
    stages: dict[str, list[t.Mapping[str, t.Any]]] = {}
    for case in cases:
        if not case["passed"]:
            stages.setdefault(case["stage"], []).append(case)
    troubles = []
    for stage, failed in stages.items():
        parsers = parser_hints(failed)
        read_by = f" (read by {' or '.join(parsers)})" if parsers else ""
        troubles.append(f"{stage}{read_by}: {', '.join(case['name'] for case in failed)}")
    return "; ".join([f"{model} passed {passed} of {len(cases)} cases, score {score:.2f}", *troubles]) + "."


def parser_hints(cases: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """Return the parsers that read what came back as text in *cases*, each once."""
    return list(dict.fromkeys(parser for case in cases for parser in case["parser_hint"]))


def _figure(seconds: t.Optional[float]) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"


# --- asking --------------------------------------------------------------------------------------------------------------------------


class _BrokenStreamError(ServingError):
    """The stream had begun, and did not come to its end."""


class _UnansweredError(ServingError):
    """Nothing that may heal has healed. *reached* is whether anybody answered at all."""

    def __init__(self, message: str, reached: bool) -> None:
        super().__init__(message)
        self.reached = reached


class Prober:
    """Asks one model behind *reach*. ``cases`` tells how that went so far, a dict for each case as the module returns it.

    A try sends *seed* plus its number as seed. All of it takes *timeout_s*, one request *request_timeout_s* at most.
    A case has passed when *min_pass_rate* of its *tries* have (None: all of them). *tell* gets a phase and a text for people.
    """

    def __init__(
        self,
        reach: Reach,
        model: str,
        tries: int = 1,
        seed: int = 0,
        temperature: float = 0.0,
        max_tokens: t.Optional[int] = None,
        max_model_len: t.Optional[int] = None,
        request_timeout_s: float = 120.0,
        timeout_s: float = 600.0,
        min_pass_rate: t.Optional[float] = None,
        tell: t.Callable[[str, str], None] = lambda _phase, _text: None,
        now: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.reach = reach
        self.model = model
        self.tries = max(1, tries)
        self.seed = seed
        self.temperature = temperature
        self.max_tokens = max_tokens or answer_tokens(max_model_len)
        self.request_timeout_s = request_timeout_s
        self.timeout_s = timeout_s
        self.wanted_rate = 1.0 if min_pass_rate is None else min_pass_rate
        self.cases: list[dict[str, t.Any]] = []
        self._tell = tell
        self._now = now
        self._sleep = sleep
        self._start = now()
        self._answered = False
        self._skips: dict[str, Judged] = {}
        self._written: t.Optional[CallFormat] = None
        self._written_is_known = False

    @property
    def score(self) -> float:
        """The share of tries that passed; those that were skipped count as failed."""
        return round(statistics.fmean(case["pass_rate"] for case in self.cases), 4) if self.cases else 0.0

    def probe(self, names: t.Iterable[str]) -> list[dict[str, t.Any]]:
        """Ask the cases *names*, in the order of CASES, and return how they went.

        Raises ServingError when that is no matter of the model: the key is refused, there is no such model, nobody ever answered.
        """
        wanted = set(names)
        for case in CASES.values():
            if case.name in wanted:
                self.cases.append(self._probed(case))
        if self.cases and not self._answered and all(case["stage"] == "unreachable" for case in self.cases):
            raise ServingError(f"{self.cases[0]['found'].rstrip('.')}. {self.reach.where_to_look()}")
        return self.cases

    def _probed(self, case: Case) -> dict[str, t.Any]:
        """Make the tries of *case*, and return what the module tells of it."""
        judgements: list[Judged] = []
        seconds: list[float] = []
        first_tokens: list[float] = []
        for number in range(self.tries):
            if self._remaining_s() <= 0 and case.name not in self._skips:
                self._skip(case, Judged(Finding(False, "not-asked", f"the {self.timeout_s:g} s for all cases were over", "Raise timeout.")))
            if case.name in self._skips:
                break
            self._tell(case.name, f"{case.name} ..." if self.tries == 1 else f"{case.name}, try {number + 1} of {self.tries} ...")
            judged, answers = self._tried(case, number)
            judgements.append(judged)
            if answers:
                seconds.append(sum(answer.elapsed_seconds for answer in answers))
                first = answers[0].first_token_seconds
                first_tokens += [first] if case.stream and first is not None else []
        made = len(judgements)
        if made < self.tries:
            judgements.append(self._skips[case.name])
        passed = sum(judged.finding.passed for judged in judgements)
        told = _most_telling(judgements)
        return {
            "name": case.name,
            "passed": passed / self.tries >= self.wanted_rate,
            "pass_rate": round(passed / self.tries, 4),
            "tries": made,
            "stage": told.finding.stage,
            "found": told.finding.found,
            "advice": told.finding.advice,
            "parser_hint": list(dict.fromkeys(parser for judged in judgements for parser in judged.parsers)),
            "seconds_p50": round(statistics.median(seconds), 3) if seconds else None,
            "first_token_p50": round(statistics.median(first_tokens), 3) if first_tokens else None,
            "skipped": made == 0,
        }

    def _tried(self, case: Case, number: int) -> tuple[Judged, list[Completion]]:
        """Make one try, and return its judgement with the answers that led to it."""
        question = case.questions[number % len(case.questions)]
        messages: list[dict[str, t.Any]] = [{"role": "user", "content": question.text}]
        answers: list[Completion] = []
        try:
            answers.append(self._asked(case, messages, number))
            judged = judge(case, question, answers[0], self._whole_passed(case))
            if case.base == "second_turn" and not judged.finding.passed:
                judged = judged._replace(finding=judged.finding._replace(found=f"in the first turn, {judged.finding.found}"))
            elif case.base == "second_turn":
                answers.append(self._asked(case, [*messages, *_second_turn(answers[0])], number))
                judged = judge_result_used(answers[1], case.tool)
            return judged, answers
        except _BrokenStreamError as exc:
            return Judged(Finding(False, "stream-broken", str(exc), FIX_STREAM if self._whole_passed(case) else "")), answers
        except _UnansweredError as exc:
            judged = Judged(Finding(False, "request-failed" if exc.reached else "unreachable", str(exc), self.reach.where_to_look()))
            if not exc.reached:
                self._skip(case, judged, everything=True)
            return judged, answers
        except OpenAIError as exc:
            return self._refused(case, question, exc), answers

    def _whole_passed(self, case: Case) -> bool:
        """Whether the case *case*, which is streamed, passed all of its tries without streaming."""
        return case.stream and any(known["name"] == case.base and known["pass_rate"] == 1 for known in self.cases)

    def _asked(self, case: Case, messages: t.Sequence[t.Mapping[str, t.Any]], number: int) -> Completion:
        """Return the answer, asked for again for PATIENCE_S while that may help. Raises OpenAIError, or ServingError."""
        last: list[ServingError] = []

        def look(_lap: Lap) -> Completion:
            try:
                with self._client() as client:
                    return self._sent(client, case, messages, number)
            except ServingError as exc:
                last[:] = [exc]
                self._end_what_cannot_heal(exc)
                if may_heal(exc) or (isinstance(exc, OpenAIError) and exc.status == 404):
                    raise NotYetError(str(exc)) from exc
                raise

        patience = max(0.0, min(PATIENCE_S, self._remaining_s()))
        answer = Waiter(patience, FIRST_PAUSE_S, self._now, self._sleep, LONGEST_PAUSE_S).until(look)
        if answer is None:
            reached = isinstance(last[0], OpenAIError) and last[0].status > 0
            self._answered = self._answered or reached
            raise _UnansweredError(str(last[0]), reached)
        self._answered = True
        return answer

    def _client(self) -> t.ContextManager[OpenAIClient]:
        return self.reach.client(min(self.request_timeout_s, max(self._remaining_s(), SHORTEST_REQUEST_S)))

    def _sent(self, client: OpenAIClient, case: Case, messages: t.Sequence[t.Mapping[str, t.Any]], number: int) -> Completion:
        """Send the request once; and once more with fewer tokens, when the context is too small for so many."""
        extra = {"temperature": self.temperature, "seed": self.seed + number, **case.request()}
        try:
            return self._sent_once(client, case, messages, extra)
        except OpenAIError as exc:
            limit = CONTEXT_LIMIT.search(str(exc)) if exc.status == 400 else None
            if not limit or answer_tokens(int(limit.group(1))) >= self.max_tokens:
                raise
            self.max_tokens = answer_tokens(int(limit.group(1)))
            return self._sent_once(client, case, messages, extra)

    def _sent_once(
        self, client: OpenAIClient, case: Case, messages: t.Sequence[t.Mapping[str, t.Any]], extra: t.Mapping[str, t.Any]
    ) -> Completion:
        try:
            return client.chat(self.model, messages, self.max_tokens, stream=case.stream, **extra)
        except OpenAIError as exc:
            if case.stream and exc.begun and exc.status == 0:
                raise _BrokenStreamError(str(exc)) from exc
            raise

    def _end_what_cannot_heal(self, error: ServingError) -> None:
        """Raise ServingError for a refusal that no other case can escape: the key, or a model that is not there."""
        if not isinstance(error, OpenAIError):
            return
        if error.status in (401, 403):
            raise ServingError(f"{self.reach.key_hint()} {error}") from error
        if error.status != 404 and not (error.status == 400 and _UNKNOWN_MODEL.search(str(error))):
            return
        try:
            with self._client() as client:
                listed = client.models()
        except ServingError as exc:
            raise ServingError(f"{error}. The list of models cannot be had either ({exc}): is the URL right?") from error
        if self.model not in listed:
            raise ServingError(
                f"There is no model {self.model} at {self.reach.endpoint}{did_you_mean(self.model, listed)}. "
                f"It lists: {', '.join(listed) or 'nothing'}."
            ) from error

    def _refused(self, case: Case, question: Question, error: OpenAIError) -> Judged:
        """Judge a request that failed or was refused, and skip what would be refused as well."""
        self._answered = self._answered or error.status > 0
        disabled = _DISABLED.search(str(error))
        if disabled:
            judged = self._disabled(case, question, error)
        elif is_final(error):
            judged = Judged(Finding(False, "refused", str(error), self.reach.where_to_look()))
        else:
            return Judged(Finding(False, "request-failed", str(error), self.reach.where_to_look()))
        if _NO_TOOLS.search(str(error)):
            advice = "The runtime knows no tools for this model: take another model, or one whose template knows them."
            judged = judged._replace(finding=judged.finding._replace(advice=advice))
            self._skip(case, judged, everything=True)
        else:
            self._skip(case, judged, same_choice=bool(disabled) or case.base in _SIMPLEST)
        return judged

    def _disabled(self, case: Case, question: Question, error: OpenAIError) -> Judged:
        """Judge an endpoint without tool choice; say how the model would write its call, if it writes one."""
        if not self._written_is_known:
            self._written_is_known = True
            self._written = self._how_it_writes(case, question)
        known = self._written
        found = f"tool choice is not enabled ({error})"
        parsers = known.parsers if known else ()
        if known:
            found += f"; asked without it, the model writes its calls as {known.mark}"
        advice = FIX_TOOL_CHOICE.format(parser=parsers[0] if parsers else "NAME")
        if "--jinja" in str(error):
            advice = "Start the server with --jinja."
        return Judged(Finding(False, "tool-choice-disabled", found, advice), parsers)

    def _how_it_writes(self, case: Case, question: Question) -> t.Optional[CallFormat]:
        """Return how the model writes a call when nothing parses it; None when it writes none, or does not answer."""
        extra = {**case.request(), "tool_choice": "none", "temperature": self.temperature, "seed": self.seed}
        try:
            with self._client() as client:
                completion = client.chat(self.model, [{"role": "user", "content": question.text}], self.max_tokens, **extra)
        except ServingError:
            return None
        return call_format(completion.text, case.tool.name)

    def _skip(self, case: Case, judged: Judged, same_choice: bool = False, everything: bool = False) -> None:
        """Note that *case* and those that need the same are not worth asking: its streamed twin, all of its choice, or everything.

        What is refused only as a stream says nothing about what is not streamed.
        """
        for other in CASES.values():
            alike = other.base == case.base or (same_choice and other.choice == case.choice)
            if everything or (alike and (other.stream or not case.stream)):
                self._skips.setdefault(other.name, judged)

    def _remaining_s(self) -> float:
        return self.timeout_s - (self._now() - self._start)


def _second_turn(completion: Completion) -> list[dict[str, t.Any]]:
    """Return the messages that follow the calls in *completion*: the calls themselves, and the result of each."""
    calls = [{**call, "type": "function", "id": call.get("id") or f"call{place}"} for place, call in enumerate(completion.tool_calls)]
    result = json.dumps(TOOL_RESULT)
    return [
        {"role": "assistant", "content": completion.text, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": call["id"], "content": result} for call in calls),
    ]


def _most_telling(judgements: t.Sequence[Judged]) -> Judged:
    """Return the first failure that tells something, else the first failure, else the first judgement."""
    failed = [judged for judged in judgements if not judged.finding.passed]
    return next((judged for judged in failed if judged.finding.stage not in _VAGUE), (failed or judgements)[0])
