# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Whether a model serves as its row of the catalog says: judgements of single answers, and the requests that lead to them.

The judges are pure functions on a Completion. Verifier asks, again where that may help, until each check has passed once.
Marks of thoughts are those of vLLM 0.32: vllm/reasoning and vllm/parser. Those of tool calls are in _tool_text.
"""

from __future__ import annotations

import functools
import json
import re
import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._kube import KubeError
from ansible_collections.llmops.serving.plugins.module_utils._openai import Completion, OpenAIError
from ansible_collections.llmops.serving.plugins.module_utils._reach import Reach
from ansible_collections.llmops.serving.plugins.module_utils._tool_text import CallFormat, call_format, call_start
from ansible_collections.llmops.serving.plugins.module_utils._wait import Lap, NotYetError, Waiter

MAX_TOKENS = 2048
# Tokens left for the prompt where the context is small: a template with one tool takes some hundred.
PROMPT_TOKENS = 1024
EXCERPT_CHARACTERS = 80
SHORTEST_REQUEST_S = 1.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
# After a request that failed; a router needs a moment to see that an engine is gone.
PAUSE_S = 2.0
TEMPERATURE = 0.6

# --- judging one answer --------------------------------------------------------------------------------------------------------------


class Finding(t.NamedTuple):
    """What was found in one answer. ``stage`` is a stable word, ``found`` a sentence without a full stop, ``advice`` one or more with."""

    passed: bool
    stage: str
    found: str
    advice: str = ""


class Tool(t.NamedTuple):
    """A function that the model may call; *parameters* is its JSON schema."""

    name: str
    description: str
    parameters: t.Mapping[str, t.Any]

    def as_request(self) -> dict[str, t.Any]:
        """Return it as an entry of ``tools`` in a request."""
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}}


# What has to be gone from an answer when a reasoning parser has done its work.
_REASONING_MARKS = re.compile(
    r"</?(?:seed:|mm:|ifm\|)?think(?:ing|_fast|_faster)?(?::\w+)?>|\[/?THINK\]|<\|(?:channel|start|message)\|>|<\|channel>|<channel\|>"
    r"|<\|(?:START|END)_THINKING\|>|<\|inner_(?:prefix|suffix)\|>|◁/?think▷|<\|(?:open|close)\|>think"
    r"|^\s*Here(?:'s| is) my thought process:|^analysis.*assistant(?:final|commentary)",
    re.DOTALL,
)
_JSON_TYPES: dict[str, t.Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}

FIX_TOOL_PARSER = "Set tool_call_parser of the row to what the model writes, or remove it."
FIX_REASONING_PARSER = "Set reasoning_parser of the row to what the model writes, or remove it."
FIX_LENGTH = "Give the row a greater max_model_len, or one that thinks less."
OFFER_TOOLS = (
    "Its chat template may leave out the tools: take one that knows them (--chat-template in extra_args of the row), or remove "
    "tool_call_parser of the row."
)


def reasoning_mark(text: str) -> str:
    """Return the first mark of thoughts that is left in *text*, empty where there is none."""
    found = _REASONING_MARKS.search(text)
    return " ".join(found.group(0).split())[:40] if found else ""


def argument_trouble(arguments: t.Any, schema: t.Mapping[str, t.Any]) -> str:
    """Return how *arguments*, decoded, break *schema*; empty where they fit. Required strings must not be empty.

    Looks at ``required``, and at ``type`` and ``enum`` of each property; arguments that the schema lacks are let pass.
    """
    if not isinstance(arguments, dict):
        return f"they are {json.dumps(arguments)[:40]}, not an object"
    properties = schema.get("properties") or {}
    for name in schema.get("required") or []:
        if name not in arguments:
            return f"{name} is missing"
        if isinstance(arguments[name], str) and not arguments[name].strip():
            return f"{name} is empty"
    for name, value in arguments.items():
        wanted = properties.get(name) or {}
        kind = wanted.get("type")
        number_for_bool = isinstance(value, bool) and kind in ("integer", "number")
        if kind in _JSON_TYPES and (number_for_bool or not isinstance(value, _JSON_TYPES[kind])):
            return f"{name} is {json.dumps(value)[:40]}, not of type {kind}"
        if wanted.get("enum") and value not in wanted["enum"]:
            return f"{name} is {json.dumps(value)[:40]}, not one of {', '.join(map(str, wanted['enum']))}"
    return ""


def judge_completion(completion: Completion) -> Finding:
    """Judge a plain answer: it needs text and a finish reason."""
    if not completion.text.strip():
        if completion.finish_reason == "length":
            spent = "thoughts" if completion.reasoning else "nothing that can be seen"
            return Finding(False, "cut-off", f"all tokens of the answer went into {spent}", FIX_LENGTH)
        if completion.reasoning:
            return Finding(
                False,
                "answer-in-reasoning",
                f"the whole answer came back as reasoning ({excerpt(completion.reasoning)})",
                FIX_REASONING_PARSER,
            )
        return Finding(False, "empty", "the answer is empty")
    if not completion.finish_reason:
        return Finding(False, "no-finish-reason", f"the answer has no finish reason ({excerpt(completion.text)})")
    return Finding(True, "ok", excerpt(completion.text))


def judge_stream(completion: Completion) -> Finding:
    """Judge a plain answer that was streamed: beside what judge_completion wants, at least one piece has to have come."""
    finding = judge_completion(completion)
    if finding.passed and completion.first_token_seconds is None:
        return Finding(False, "stream-broken", "the stream brought no piece of the answer")
    return finding


def judge_tool_call(completion: Completion, tool: Tool) -> Finding:
    """Judge an answer, streamed or not, in which *tool* had to be called: name, arguments, finish reason, and no rest of a call as text."""
    if not completion.tool_calls:
        return _no_call(completion, tool)
    for call in completion.tool_calls:
        function = call.get("function") or {}
        name: t.Any = function.get("name")
        arguments: t.Any = function.get("arguments")
        if name != tool.name:
            return Finding(False, "wrong-name", f'the call is of "{name or ""}", not of {tool.name}', FIX_TOOL_PARSER)
        try:
            decoded = json.loads(arguments)
        except (TypeError, ValueError):
            said = excerpt(arguments if isinstance(arguments, str) else json.dumps(arguments))
            return Finding(False, "arguments-not-json", f"the arguments of the call are not JSON ({said})", FIX_TOOL_PARSER)
        trouble = argument_trouble(decoded, tool.parameters)
        if trouble:
            return Finding(
                False, "arguments-do-not-match", f"the arguments of the call do not fit the tool: {trouble} ({excerpt(arguments)})"
            )
    left = call_format(completion.text)
    if left:
        return Finding(
            False,
            "markup-left",
            f"the call came through, but is left in the text as well ({excerpt(completion.text)})",
            _fix_parser(left),
        )
    if completion.finish_reason not in ("tool_calls", "stop"):
        return Finding(False, "wrong-finish-reason", f'the finish reason is "{completion.finish_reason or ""}", not "tool_calls"')
    function = completion.tool_calls[0]["function"]
    return Finding(True, "ok", f"{function['name']}({' '.join(function['arguments'].split())})"[:EXCERPT_CHARACTERS])


def judge_reasoning(completion: Completion) -> Finding:
    """Judge an answer that needed a thought: the thought has to be apart, and none of its marks in the answer."""
    mark = reasoning_mark(completion.text)
    if mark:
        return Finding(
            False,
            "reasoning-leaked",
            f'thoughts are left in the answer, marked "{mark}" ({excerpt(completion.text)})',
            FIX_REASONING_PARSER,
        )
    if not completion.reasoning.strip():
        return Finding(
            False,
            "no-reasoning",
            f"the answer came without any ({excerpt(completion.text)})",
            f"{FIX_REASONING_PARSER} Some models think only when told to (--default-chat-template-kwargs in extra_args).",
        )
    return Finding(True, "ok", excerpt(completion.reasoning))


def excerpt(text: str) -> str:
    """Return the beginning of *text* on one line, in quotes."""
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= EXCERPT_CHARACTERS else f'"{line[:EXCERPT_CHARACTERS]}..."'


def _no_call(completion: Completion, tool: Tool) -> Finding:
    """Tell what came in place of the call."""
    for text, stage, where in (
        (completion.text, "call-as-text", "as text"),
        (completion.reasoning, "call-in-reasoning", "inside the reasoning"),
    ):
        written = call_format(text, tool.name if stage == "call-as-text" else "")
        if written:
            return Finding(False, stage, f"the call came back {where} ({_around(text, written)})", _fix_parser(written))
    if completion.finish_reason == "length":
        return Finding(False, "cut-off", "the answer was cut off before a call", FIX_LENGTH)
    if not completion.text.strip():
        return Finding(
            False, "no-call", f'neither a call nor text came back (finish reason "{completion.finish_reason or ""}")', FIX_TOOL_PARSER
        )
    return Finding(False, "no-call", f"the model did not call the tool, but answered {excerpt(completion.text)}", OFFER_TOOLS)


def _around(text: str, written: CallFormat) -> str:
    """Return an excerpt of *text* that begins where the call does."""
    return excerpt(text[call_start(text, written) :])


def _fix_parser(written: CallFormat) -> str:
    if not written.parsers:
        return FIX_TOOL_PARSER
    parsers = " or ".join(written.parsers)
    return f"Calls written as {written.mark} are read by {parsers}: set tool_call_parser of the row to that, or remove it."


# --- asking ---------------------------------------------------------------------------------------------------------------------------

# The first question of each kind is one that the smoke models know as well (roles/vllm/files/smoke_model.py), and so is the second.
GREETINGS = ("Hello, who are you?", "What can you do?", "Introduce yourself.")
WEATHER = (
    "What is the weather in Paris?",
    "Please check the weather in London.",
    "What is the weather in Tokyo right now? Use the tool get_weather.",
)
PUZZLES = (
    "A farmer has 17 sheep. All but 9 run away. Then she buys twice as many as are left. How many sheep has she? Think step by step.",
    "Which is larger, 9.11 or 9.9? Think about it before you answer.",
    "I need 150 pens, which are sold in packs of 12. How many packs do I have to buy, and how many pens are left over?",
)
WEATHER_TOOL = Tool(
    "get_weather",
    "Get the current weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string", "description": "Name of the city"}}, "required": ["city"]},
)
NO_PARSER = "requires --enable-auto-tool-choice"
CONTEXT_LIMIT = re.compile(r"max(?:imum)?[_ ](?:model_len|total_tokens|context length)\D{0,6}(\d+)")


class Kind(t.NamedTuple):
    """One kind of check. ``label`` is for progress, ``trouble`` follows the name of the model in messages, ``about`` what was asked for."""

    label: str
    trouble: str
    about: str
    questions: tuple[str, ...]
    judge: t.Callable[[Completion], Finding]
    stream: bool = False
    tools: bool = False
    advice: str = ""


_JUDGE_WEATHER = functools.partial(judge_tool_call, tool=WEATHER_TOOL)
KINDS: dict[str, Kind] = {
    "completion": Kind("completion", "does not answer as it should", "for a completion", GREETINGS, judge_completion),
    "stream": Kind("completion, streamed", "answers, but not as a stream", "for a stream", GREETINGS, judge_stream, stream=True),
    "alias": Kind(
        "alias",
        "answers, but not as",
        "under its alias",
        GREETINGS,
        judge_completion,
        advice="Serve it under this name as well (--served-model-name of the engines), or take the alias away.",
    ),
    "tool_call": Kind("tool call", "answers, but its tool calls do not work", "for a tool call", WEATHER, _JUDGE_WEATHER, tools=True),
    "tool_call_stream": Kind(
        "tool call, streamed",
        "answers, but its streamed tool calls do not work",
        "for a streamed tool call",
        WEATHER,
        _JUDGE_WEATHER,
        stream=True,
        tools=True,
        advice="Calls that are not streamed do work, so the parser fails on streams: take another tool_call_parser, or another vllm_image.",
    ),
    "reasoning": Kind("reasoning", "answers, but its reasoning does not work", "to think", PUZZLES, judge_reasoning),
}


def answer_tokens(max_model_len: t.Optional[int]) -> int:
    """Return how many tokens an answer may have, so that the prompt has room as well; *max_model_len* None or 0 is unknown."""
    if not max_model_len or max_model_len < 0:
        return MAX_TOKENS
    return max(1, min(MAX_TOKENS, max_model_len - min(PROMPT_TOKENS, max_model_len // 2)))


def may_heal(error: ServingError) -> bool:
    """Whether the same request can succeed in a moment: nobody listened, somebody was busy, an engine or a pod was just gone."""
    if isinstance(error, NotYetError):
        return True
    if isinstance(error, KubeError):
        return error.status in (0, 429) or error.status >= 500
    if isinstance(error, OpenAIError):
        # status 0 is also that of streams that break off and of answers that are late, which asking again at once seldom mends
        return error.status in (429, 502, 503, 504) or (error.status == 0 and " got no whole answer: " in str(error))
    return False


def is_final(error: OpenAIError) -> bool:
    """Whether the endpoint will refuse the same kind of request again. 404 is what a router says that has just started."""
    return 400 <= error.status <= 499 and error.status not in (404, 408, 409, 429)


class Verifier:
    """Asks one model behind *reach*. ``checks`` tells how that went so far: ``name, passed, attempts, seconds, found`` of each check.

    All of it takes *timeout_s* at most, one request *request_timeout_s*. *tell* gets a phase and a text for people.
    """

    def __init__(
        self,
        reach: Reach,
        model: str,
        attempts: int = 3,
        request_timeout_s: float = 120.0,
        timeout_s: float = 300.0,
        max_model_len: t.Optional[int] = None,
        tell: t.Callable[[str, str], None] = lambda _phase, _text: None,
        now: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.reach = reach
        self.model = model
        self.attempts = max(1, attempts)
        self.request_timeout_s = request_timeout_s
        self.timeout_s = timeout_s
        self.max_tokens = answer_tokens(max_model_len)
        self.checks: list[dict[str, t.Any]] = []
        self._tell = tell
        self._now = now
        self._sleep = sleep
        self._start = now()

    def verify(self, tool_calls: bool = False, reasoning: bool = False, aliases: t.Sequence[str] = ()) -> list[dict[str, t.Any]]:
        """Make the checks and return them. Raises ServingError, with ``checks`` as its details, at the first that fails."""
        names = ["completion", "stream", *(f"alias {alias}" for alias in aliases)]
        names += ["tool_call", "tool_call_stream"] if tool_calls else []
        names += ["reasoning"] if reasoning else []
        for name in names:
            self._check(name)
        return self.checks

    def _check(self, name: str) -> None:
        kind, _blank, alias = name.partition(" ")
        check: dict[str, t.Any] = {"name": name, "passed": False, "attempts": 0, "seconds": 0.0, "found": ""}
        self.checks.append(check)
        begun = self._now()
        failure = ""
        try:
            finding = self._tried(KINDS[kind], alias, check)
            check["passed"], check["found"] = finding.passed, finding.found
            if not finding.passed:
                failure = self._words(KINDS[kind], alias, finding, check["attempts"])
        except ServingError as exc:
            check["found"] = failure = str(exc)
        check["seconds"] = round(self._now() - begun, 3)
        if failure:
            raise ServingError(failure, checks=self.checks)

    def _tried(self, kind: Kind, alias: str, check: dict[str, t.Any]) -> Finding:
        """Return the first finding that passed, else the one that tells most."""
        label = f"{kind.label} {alias}".rstrip()
        failed: list[Finding] = []
        for attempt in range(1, self.attempts + 1):
            check["attempts"] = attempt
            self._tell(label, f"{label} ..." if attempt == 1 else f"{label}, attempt {attempt} of {self.attempts} ...")
            question = kind.questions[(attempt - 1) % len(kind.questions)]
            try:
                finding = kind.judge(self._asked(kind, alias, question, 0 if attempt == 1 else TEMPERATURE))
            except OpenAIError as exc:
                if is_final(exc):
                    return self._refused(kind, exc)
                stage = "stream-broken" if kind.stream and exc.status in (0, 200) else "request-failed"
                finding = Finding(False, stage, str(exc))
            if finding.passed:
                return finding
            failed.append(finding)
            if self._remaining_s() <= PAUSE_S:
                break
            if finding.stage in ("request-failed", "stream-broken") and attempt < self.attempts:
                self._sleep(PAUSE_S)
        if all(finding.stage == "no-reasoning" for finding in failed):
            # many models think only when they are told to; what matters is that no thought is left in an answer
            return Finding(True, "no-reasoning", "the model answered without a thought, and no mark of one is left in its answer")
        vague = ("no-call", "cut-off", "empty", "request-failed", "no-reasoning")
        return next((finding for finding in failed if finding.stage not in vague), failed[-1])

    def _asked(self, kind: Kind, alias: str, question: str, temperature: float) -> Completion:
        """Return the answer, asked for again and again while that may help. Raises OpenAIError, or ServingError when time is up."""
        extra: dict[str, t.Any] = {"temperature": temperature}
        if kind.tools:
            extra.update(tools=[WEATHER_TOOL.as_request()], tool_choice="auto")
        messages = [{"role": "user", "content": question}]

        def look(lap: Lap) -> Completion:
            try:
                with self.reach.client(min(self.request_timeout_s, max(lap.remaining_s, SHORTEST_REQUEST_S))) as client:
                    if alias:
                        self._look_for(alias, client.models(), client.name)
                    try:
                        return client.chat(alias or self.model, messages, self.max_tokens, stream=kind.stream, **extra)
                    except OpenAIError as exc:
                        limit = CONTEXT_LIMIT.search(str(exc)) if exc.status == 400 else None
                        if not limit or answer_tokens(int(limit.group(1))) >= self.max_tokens:
                            raise
                        self.max_tokens = answer_tokens(int(limit.group(1)))
                        return client.chat(alias or self.model, messages, self.max_tokens, stream=kind.stream, **extra)
            except ServingError as exc:
                if may_heal(exc):
                    raise NotYetError(str(exc)) from exc
                raise

        waiter = Waiter(max(0.0, self._remaining_s()), FIRST_PAUSE_S, self._now, self._sleep, LONGEST_PAUSE_S)
        completion = waiter.until(look)
        if completion is None:
            raise ServingError(
                f"{self.model} could not be asked {f'{kind.about} {alias}'.rstrip()} within {self.timeout_s:g} s: "
                f"{waiter.last_error.rstrip('.')}. {self.reach.where_to_look()}"
            )
        return completion

    def _look_for(self, alias: str, listed: t.Sequence[str], endpoint: str) -> None:
        if alias not in listed:
            found = ", ".join(listed) or "nothing"
            raise OpenAIError(404, f"GET /v1/models of {endpoint} lists {found}, not {alias}{did_you_mean(alias, listed)}")

    def _refused(self, kind: Kind, error: OpenAIError) -> Finding:
        """Tell what to do about a refusal. Raises ServingError for one that has nothing to do with the model."""
        if error.status in (401, 403):
            raise ServingError(f"{self.reach.key_hint()} {error}") from error
        if kind.tools and NO_PARSER in str(error):
            advice = "Set tool_call_parser in the row of the model and keep enable_auto_tool_choice on, or do without tool calls."
            return Finding(False, "refused", f"the engine runs without a parser for them ({error})", advice)
        return Finding(False, "refused", str(error), self.reach.where_to_look())

    def _words(self, kind: Kind, alias: str, finding: Finding, attempts: int) -> str:
        """Return the message for a check that failed."""
        trouble = f'{kind.trouble} "{alias}"' if alias else kind.trouble
        advice = finding.advice
        if finding.stage in ("request-failed", "stream-broken", "empty", "no-finish-reason"):
            advice = kind.advice or self.reach.where_to_look()
        elif finding.stage != "refused":
            advice = kind.advice or advice
        tries = f" ({attempts} attempts)" if attempts > 1 else ""
        return f"{self.model} {trouble}: {finding.found.rstrip('.')}{tries}. {advice}".rstrip()

    def _remaining_s(self) -> float:
        return self.timeout_s - (self._now() - self._start)
