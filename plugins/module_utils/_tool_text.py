# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Tool calls that a model wrote as text: how they are written, which parser of vLLM reads that, and the calls themselves.

call_format names a form, also that of a call which is broken or cut off. parse reads whole calls, and is strict about what is one.
Marks are those of vLLM 0.32: vllm/tool_parsers and vllm/parser. An engine drops marks that are special tokens of a model unless a parser
asks for them, so some forms are known by what is left.
"""

from __future__ import annotations

import ast
import json
import re
import typing as t
import warnings

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

# --- forms ---------------------------------------------------------------------------------------------------------------------------


class CallFormat(t.NamedTuple):
    """A way of writing a tool call as text. ``parsers`` of vLLM read it; empty where none is known to."""

    mark: str
    parsers: tuple[str, ...]


_TOOL_OUTPUT = CallFormat("<TOOL_OUTPUT>", ())
_SEED_OSS = CallFormat("<seed:tool_call>", ("seed_oss",))
_LONGCAT = CallFormat("<longcat_tool_call>", ("longcat",))
_QWEN3_CODER = CallFormat("<function=...>", ("qwen3_coder",))
_GLM45 = CallFormat("<arg_key>", ("glm45",))
_GRANITE = CallFormat("<|tool_call|>", ("granite",))
_HERMES = CallFormat("<tool_call>", ("hermes",))
_MISTRAL = CallFormat("[TOOL_CALLS]", ("mistral",))
_HARMONY = CallFormat("<|channel|>commentary to=functions.", ("openai",))
_DEEPSEEK_V3 = CallFormat("<\uff5ctool▁calls▁begin\uff5c>", ("deepseek_v3",))
_DEEPSEEK_V31 = CallFormat("<\uff5ctool▁calls▁begin\uff5c>", ("deepseek_v31",))
_KIMI_K2 = CallFormat("<|tool_calls_section_begin|>", ("kimi_k2",))
_LFM2 = CallFormat("<|tool_call_start|>", ("lfm2",))
_OLMO3 = CallFormat("<function_calls>", ("olmo3",))
_GRANITE_20B = CallFormat("<function_call>", ("granite-20b-fc",))
_JAMBA = CallFormat("<tool_calls>", ("jamba", "hunyuan_a13b"))
_INTERNLM = CallFormat("<|action_start|>", ("internlm",))
_PHI4_MINI = CallFormat("functools[...]", ("phi4_mini_json",))
_LLAMA4_PYTHONIC = CallFormat("<|python_start|>", ("llama4_pythonic",))
_PYTHONIC = CallFormat("[name(argument=...)]", ("pythonic", "llama4_pythonic"))
_LLAMA3_JSON = CallFormat("<|python_tag|>", ("llama3_json",))

# The first pattern that is found decides, so those that contain others come first.
_CALL_FORMATS: tuple[tuple[t.Pattern[str], CallFormat], ...] = tuple(
    (re.compile(pattern, re.DOTALL), known)
    for pattern, known in (
        (r"<TOOL_OUTPUT>", _TOOL_OUTPUT),
        (r"<seed:tool_call>", _SEED_OSS),
        (r"<minimax:tool_call>", CallFormat("<minimax:tool_call>", ("minimax_m2",))),
        (r"<longcat_tool_call>", _LONGCAT),
        (r"<function=", _QWEN3_CODER),
        (r"<arg_key>", _GLM45),
        (r"<\|tool_call\|>|<tool_call>\s*\[", _GRANITE),
        (r"<tool_call>", _HERMES),
        (r"\[TOOL_CALLS\]|\w\[ARGS\]", _MISTRAL),
        (r"<\|channel\|>commentary|\bto=functions\.|commentary to=", _HARMONY),
        (r"<\uff5cDSML\uff5cfunction_calls>", CallFormat("<\uff5cDSML\uff5cfunction_calls>", ("deepseek_v32",))),
        (r"<\uff5cDSML\uff5ctool_calls>", CallFormat("<\uff5cDSML\uff5ctool_calls>", ("deepseek_v4",))),
        (r"<\uff5cDSML\uff5c calls>", CallFormat("<\uff5cDSML\uff5c calls>", ("deepseek_v41",))),
        (r"<\uff5ctool_calls_begin\uff5c>", CallFormat("<\uff5ctool_calls_begin\uff5c>", ("step3",))),
        (r"<\uff5ctool▁sep\uff5c>\w+\s*```json", _DEEPSEEK_V3),
        (r"<\uff5ctool▁sep\uff5c>\s*\{", _DEEPSEEK_V31),
        (r"<\uff5ctool▁calls?▁begin\uff5c>", CallFormat("<\uff5ctool▁calls▁begin\uff5c>", ("deepseek_v3", "deepseek_v31"))),
        (r"<\|tool_calls_section_begin\|>|<\|tool_call_begin\|>", _KIMI_K2),
        (r"<\|tool_call_start\|>", _LFM2),
        (r"<\|tool_call>", CallFormat("<|tool_call>", ("gemma4",))),
        (r"<start_function_call>", CallFormat("<start_function_call>", ("functiongemma",))),
        (r"<function_calls>", _OLMO3),
        (r"<function_call>", _GRANITE_20B),
        (r"<tool_calls>", _JAMBA),
        (r"<\|action_start\|>", _INTERNLM),
        (r"<\|START_ACTION\|>", CallFormat("<|START_ACTION|>", ("cohere_command3",))),
        (r"<\|tools_prefix\|>", CallFormat("<|tools_prefix|>", ("apertus",))),
        (r"\bfunctools\[", _PHI4_MINI),
        (r"<\|python_start\|>", _LLAMA4_PYTHONIC),
        (r"^\s*\[\s*[A-Za-z_][\w.]*\([^()]*=.*\)\s*\]\s*$", _PYTHONIC),
        (r"<\|python_tag\|>", _LLAMA3_JSON),
    )
)
_FENCED = CallFormat("```json", ("llama3_json",))
_FENCED_LIST = CallFormat("```json", ("llama3_json", "xlam"))
_BARE_OBJECT = CallFormat('{"name": ..., "parameters": ...}', ("llama3_json",))
_BARE_LIST = CallFormat('[{"name": ..., "arguments": ...}]', ("mistral", "granite", "xlam"))
_NAME_AND_OBJECT = CallFormat("name{...}", ("mistral",))
_UNKNOWN = CallFormat("a form that is not known here", ())


def call_format(text: str, tool_name: str = "") -> t.Optional[CallFormat]:
    """Return how a tool call is written in *text*, None where there is none.

    With *tool_name*, forms that have no mark, only this name and something like arguments, count as well.
    """
    for pattern, known in _CALL_FORMATS:
        if pattern.search(text):
            return known
    bare = _leading_json(text)
    fenced = text.lstrip().startswith("```")
    if isinstance(bare, list) and bare and all(map(_is_call, bare)):
        return _FENCED_LIST if fenced else _BARE_LIST
    if _is_call(bare):
        return _FENCED if fenced else _BARE_OBJECT
    if tool_name:
        for call in parse(text, (tool_name,)).calls:
            return CallFormat(call.format, call.parsers)
        name = re.escape(tool_name)
        if re.search(rf"^\s*{name}\s*\{{", text):
            return _NAME_AND_OBJECT
        if re.search(rf"\b{name}\s*[({{]|[\"']name[\"']\s*:\s*[\"']{name}[\"']", text):
            return _UNKNOWN
    return None


def call_start(text: str, known: CallFormat) -> int:
    """Return where in *text* the first call that is written as *known* begins, 0 where that is not known."""
    for pattern, other in _CALL_FORMATS:
        found = pattern.search(text) if other == known else None
        if found:
            return found.start()
    return next((call.start for call in parse(text).calls if (call.format, call.parsers) == known), 0)


def _leading_json(text: str) -> t.Any:
    """Return the JSON value with which *text* begins, perhaps in a fence of Markdown; None where there is none."""
    text = re.sub(r"^\s*```(?:json)?\s*", "", text).lstrip()
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _is_call(value: t.Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str) and ("parameters" in value or "arguments" in value)


# --- calls ---------------------------------------------------------------------------------------------------------------------------


class Call(t.NamedTuple):
    """One tool call that was written as text. ``format`` and ``parsers`` are those of a CallFormat.

    ``start`` and ``end`` tell where it stands; the marks around it are inside where it has them for itself.
    """

    name: str
    arguments: dict[str, t.Any]
    format: str
    parsers: tuple[str, ...]
    start: int
    end: int


class Parsed(t.NamedTuple):
    """``calls`` of a text in its order, and the ``text`` that is left without them and their marks, trimmed."""

    calls: list[Call]
    text: str


def parse(text: str, tools: t.Optional[t.Sequence[str]] = None) -> Parsed:
    """Return the tool calls that are written in *text*. With *tools*, only calls of these names count; the others stay in the text.

    A call has a mark of a model family, or stands in a fence of Markdown (``json``, ``tool_call`` or without a language), or fills whole
    lines. JSON without a mark has to be just a call: a name, an object of arguments, and no other keys than ``id`` and ``type``.
    No calls are: what is broken or cut off, what stands in thoughts, in code of a language or in backticks, and definitions of tools.
    Arguments of forms that do not tell types (``<parameter=a>5``) are JSON where they can be, else strings.

    The work is in proportion to the length of *text*, whatever it holds: after more that is broken than a model writes, the rest is text.
    """
    return _Scan(text, tools).parsed()


def calls_of(answer: t.Any, tools: t.Optional[t.Sequence[str]] = None) -> list[dict[str, t.Any]]:
    """Return the tool calls of *answer* as dicts with ``name``, ``arguments``, ``format`` and ``parsers``.

    *answer* is a text, or a message or a whole response of the OpenAI API. Its ``tool_calls`` win over calls in its text; their format is
    ``tool_calls``, which needs no parser. Of several choices the first is read. With *tools*, only calls of these names count.
    Raises ServingError where there is nothing to read.
    """
    if tools is not None and (isinstance(tools, str) or not all(isinstance(name, str) for name in tools)):
        raise ServingError(f"tools has to be a list of names of functions, not {_kind(tools)}. For one tool, write ['name'].")
    text, ready = _parts(answer)
    if ready:
        return [call for call in map(_ready_call, ready) if tools is None or call["name"] in tools]
    return [
        {"name": call.name, "arguments": call.arguments, "format": call.format, "parsers": list(call.parsers)}
        for call in parse(text, tools).calls
    ]


def _parts(answer: t.Any) -> tuple[str, t.Sequence[t.Any]]:
    """Return the text of *answer* and its tool calls."""
    if isinstance(answer, str):
        return answer, ()
    message = answer
    if isinstance(answer, t.Mapping) and "choices" in answer:
        choices = answer["choices"]
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], t.Mapping):
            raise ServingError("The response has no choice, so there is no answer in which to look for tool calls.")
        # completions have a text where chat completions have a message
        message = choices[0].get("message", {"content": choices[0].get("text")})
    if not isinstance(message, t.Mapping) or not ("content" in message or "tool_calls" in message):
        raise ServingError(
            "Tool calls are looked for in a text, or in a message or a response of the OpenAI API as a dict, "
            f"but this is {_kind(message)}. Give it the whole message or response."
        )
    content, ready = message.get("content") or "", message.get("tool_calls") or ()
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, t.Mapping))
    if not isinstance(content, str) or not isinstance(ready, (list, tuple)):
        raise ServingError(
            f"content and tool_calls of a message are a text and a list, but these are {_kind(content)} and {_kind(ready)}. "
            "Give it the message as the endpoint sent it."
        )
    return content, ready


def _ready_call(call: t.Any) -> dict[str, t.Any]:
    """Return one entry of ``tool_calls``, decoded."""
    function = call.get("function") if isinstance(call, t.Mapping) else None
    name = function.get("name") if isinstance(function, t.Mapping) else None
    if not isinstance(function, t.Mapping) or not isinstance(name, str):
        raise ServingError(f"An entry of tool_calls has no function with a name, but is {_kind(call)}. Look at the endpoint's answer.")
    arguments = _arguments(function.get("arguments"))
    if arguments is None:
        raise ServingError(f"The arguments of the call of {name} in tool_calls are no JSON object. Try another tool_call_parser.")
    return {"name": name, "arguments": arguments, "format": "tool_calls", "parsers": []}


def _kind(value: t.Any) -> str:
    """Return what *value* is in words, without what it holds: answers may hold what nobody else should see."""
    if isinstance(value, t.Mapping):
        return f"a dict with the keys {', '.join(sorted(map(str, value)))[:80]}" if value else "an empty dict"
    kinds: dict[t.Any, str] = {
        type(None): "nothing (null)",
        str: "a text",
        bool: "a boolean",
        (int, float): "a number",
        (list, tuple): "a list",
    }
    return next((words for kind, words in kinds.items() if isinstance(value, kind)), type(value).__name__)


# --- reading ---------------------------------------------------------------------------------------------------------------------------

# Text that was looked at in vain, in characters: this much for each that there is, and this much anyway.
_VAIN_PER_CHARACTER = 4
_VAIN = 1_000_000
# What counts as looked at where a failure does not tell.
_FAILED_SOMEWHERE = 65_536
_LONGEST_PYTHON = 65_536
# How much is decoded at first, and what may be cut at its end: a word or an escape of JSON.
_PIECE = 512
_LONGEST_WORD = 16
# int() of very many digits takes long, or is refused
_LONGEST_NUMBER = 300

_THOUGHTS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<seed:think>": "</seed:think>",
    "<mm:think>": "</mm:think>",
    "[THINK]": "[/THINK]",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "◁think▷": "◁/think▷",
}
_FENCE_LANGUAGES = ("", "json", "tool_call", "tool_calls")

_NAME = r"[A-Za-z_][\w.-]{0,127}"
_IS_NAME = re.compile(_NAME, re.ASCII)
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s;,]*")
_BETWEEN_ON_LINE = re.compile(r"[ \t]*;[ \t]*|")
_LINE_END = re.compile(r"[ \t]*;?[ \t]*\r?(?=\n|\Z)")
_FENCE = re.compile(r"(`{3,})[ \t]*([\w+.-]*)[ \t]*([^\r\n]?)[^\n]*")
_FENCE_END = re.compile(r"^[ \t]*(`{3,})[ \t]*\r?$", re.MULTILINE)
_FUNCTION = re.compile(r"<function=\s*([^\s<>=\"']{1,128})\s*>")
_PARAMETER = re.compile(r"<parameter=([^<>\n]{1,200})>")
_ARG_NAME = re.compile(r"([^\s<>{}\[\]]{1,128})\s*(?=<)")
_ARG_KEY = re.compile(r"<arg_key>([^<>]{1,200})</arg_key>\s*<arg_value>")
_NAME_AND_ARGS = re.compile(rf"({_NAME})(?:\[CALL_ID\]\w{{1,64}})?(?:\[ARGS\])?\s*(?=\{{)", re.ASCII)
_KIMI_HEAD = re.compile(rf"<\|tool_call_begin\|>\s*(?:functions\.)?({_NAME}):\d+\s*<\|tool_call_argument_begin\|>\s*", re.ASCII)
_DEEPSEEK_HEAD = re.compile(
    r"<\uff5ctool▁call▁begin\uff5c>\s*([^\s<>]{1,128})\s*<\uff5ctool▁sep\uff5c>\s*(?:([^\s<>`{]{1,128})\s*```json\s*)?(?=\{)"
)
_HARMONY_HEAD = re.compile(
    rf"(?:<\|start\|>)?(?:assistant)?(?: to=functions\.(?P<before>{_NAME}))?(?:<\|channel\|>)?(?:commentary|analysis|final)"
    rf"(?: to=functions\.(?P<after>{_NAME}))?\s*(?:<\|constrain\|>)?\s*(?:json|code)?\s*(?:<\|message\|>)?\s*(?=\{{)",
    re.ASCII,
)
_HARMONY_END = re.compile(r"\s*(?:<\|(?:call|end|return)\|>|(?=\Z|<|assistant|commentary))")
_HARMONY_THOUGHT = re.compile(r"<\|channel\|>analysis\s*<\|message\|>")
_HARMONY_THOUGHT_END = re.compile(r"<\|(?:end|start|channel|return)\|>")
# a list of calls in Python; a quote alone is one that nothing closes
_PYTHON_LIST = re.compile(r"\[\s*[A-Za-z_][\w.]{0,127}\(")
_PYTHON_TOKEN = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|[\[\](){},'"]""", re.DOTALL)
_JSON_WORDS = {"null": None, "true": True, "false": False}


def _number(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError("a number of too many digits")
    return int(digits)


def _no_constant(word: str) -> t.NoReturn:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(parse_int=_number, parse_constant=_no_constant)


def _arguments(value: t.Any) -> t.Optional[dict[str, t.Any]]:
    """Return arguments that are given as an object, as JSON of one, or not at all; None for anything else."""
    if isinstance(value, str):
        try:
            value = _DECODER.decode(value) if value.strip() else None
        except (ValueError, RecursionError):
            return None
    if value is None:
        return {}
    return dict(value) if isinstance(value, t.Mapping) else None


def _typed(written: str) -> t.Any:
    """Return an argument of a form that does not tell types: JSON where it is other JSON than a string, else the text itself."""
    if written.lstrip()[:1] in tuple("{[-0123456789tfn"):
        try:
            return _DECODER.decode(written)
        except (ValueError, RecursionError):
            pass
    return written


def _inside_newlines(written: str) -> str:
    """Return *written* without the newline that stands after its opening tag and the one before its closing tag."""
    return written[written.startswith("\n") : len(written) - (len(written) > 1 and written.endswith("\n"))]


def _call_in(value: t.Any, strict: bool) -> t.Optional[tuple[str, dict[str, t.Any]]]:
    """Return name and arguments that *value* holds, None where it is no call.

    *strict* is for JSON without a mark: it must not have other keys, and its arguments must not be a schema.
    """
    extra: set[str] = set()
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        extra = set(value) - {"function", "id", "type", "index"}
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    keys = [key for key in ("arguments", "parameters") if key in value]
    arguments = _arguments(value[keys[0]]) if keys else None
    if arguments is None:
        return None
    if strict:
        extra |= set(value) - {"name", keys[0], "id", "type"}
        if extra or (arguments.get("type") == "object" and isinstance(arguments.get("properties"), dict)):
            return None
    return value["name"], arguments


def _literal(node: ast.expr) -> t.Any:
    """Return the value of a literal that JSON has as well. Raises ValueError for all else."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (str, int, float))):
        return node.value
    if isinstance(node, ast.Name) and node.id in _JSON_WORDS:
        return _JSON_WORDS[node.id]
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_literal(key) if key else None for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            return dict(zip(keys, map(_literal, node.values)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _literal(node.operand)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return -number if isinstance(node.op, ast.USub) else number
    raise ValueError("not a literal")


def _python_call(source: str) -> t.Optional[tuple[str, dict[str, t.Any]]]:
    """Return name and arguments of ``name(argument=literal, ...)``, None for any other expression."""
    try:
        with warnings.catch_warnings():
            # of escapes that Python does not know
            warnings.simplefilter("ignore")
            called = ast.parse(source.strip(), mode="eval").body
        if not isinstance(called, ast.Call) or called.args:
            return None
        arguments = {keyword.arg: _literal(keyword.value) for keyword in called.keywords}
        name = ast.unparse(called.func)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    named = {key: value for key, value in arguments.items() if key is not None}
    return (name, named) if len(named) == len(called.keywords) else None


class _Read(t.NamedTuple):
    """What was found at a mark: calls, of any name, and where to go on; what is in between holds no more of them."""

    calls: t.Sequence[Call]
    end: int


def _alone(calls: t.Sequence[Call], start: int, end: int) -> _Read:
    """Return *calls* as what was found from *start* to *end*; a single one has all of that for itself."""
    return _Read([calls[0]._replace(start=start, end=end)] if len(calls) == 1 else calls, end)


# JSON objects, each with where it begins and ends
_Values = list[tuple[t.Any, int, int]]


class _Scan:
    """One way through a text, from mark to mark. ``spent`` is how many characters were looked at in vain."""

    def __init__(self, text: str, tools: t.Optional[t.Sequence[str]] = None) -> None:
        self.text = text
        self.tools = None if tools is None else frozenset(tools)
        self.spent = 0
        self._calls: list[Call] = []
        # what is taken out of the text: from, to, and the calls in between that stay
        self._cuts: list[tuple[int, int, list[Call]]] = []
        self._thought = False
        self._lead = self._skip(_SPACE, 0)
        # where the last attempt broke
        self._broken = 0
        # for each mark that was looked for: from where, and where it is
        self._seen: dict[str, tuple[int, int]] = {}

    def parsed(self) -> Parsed:
        """Return what the text holds."""
        position = 0
        while self.spent <= _VAIN + _VAIN_PER_CHARACTER * len(self.text):
            mark = _MARKS.search(self.text, position)
            if not mark:
                break
            position = self._after(mark.group(), mark.start(), mark.end())
        pieces: list[str] = []
        last = 0
        for start, end, staying in self._cuts:
            pieces.append(self.text[last:start])
            pieces.append("\n".join(self.text[call.start : call.end] for call in staying))
            last = end
        pieces.append(self.text[last:])
        return Parsed(self._calls, "".join(pieces).strip())

    def _after(self, mark: str, start: int, end: int) -> int:
        """Read what stands at *mark* and return where to go on."""
        if mark in _THOUGHTS:
            self._thought = True
            close = self._find(_THOUGHTS[mark], end)
            return close + len(_THOUGHTS[mark]) if close >= 0 else len(self.text)
        if mark not in _READERS:
            # an end of thoughts; where the prompt has opened them, all up to here was one
            if not self._thought:
                self._calls.clear()
                self._cuts.clear()
            self._thought = True
            return end
        if mark != "```" and self.text[start - 1 : start] == "`":
            return end
        self._broken = end
        read = _READERS[mark](self, start, end)
        counting = [self._counts(call.name) for call in read.calls]
        if any(counting):
            self._calls += [call for call, counts in zip(read.calls, counting) if counts]
            staying = [call for call, counts in zip(read.calls, counting) if not counts]
            self._cuts.append((min(start, read.calls[0].start), read.end, staying))
        return max(read.end, end)

    def _counts(self, name: str) -> bool:
        return bool(_IS_NAME.fullmatch(name)) if self.tools is None else name in self.tools

    # pieces that readers are made of

    def _skip(self, pattern: t.Pattern[str], position: int) -> int:
        found = pattern.match(self.text, position)
        return found.end() if found else position

    def _find(self, mark: str, start: int) -> int:
        """Return where *mark* is next, -1 where it is not; asking again does not look again."""
        begun, found = self._seen.get(mark, (len(self.text) + 1, -1))
        if start < begun or -1 < found < start:
            found = self.text.find(mark, start)
            self._seen[mark] = (start, found)
        return found

    def _past(self, mark: str, position: int) -> int:
        """Return the place after *mark* if that is what comes next, else *position*."""
        at = self._skip(_SPACE, position)
        return at + len(mark) if mark and self.text.startswith(mark, at) else position

    def _begins_line(self, start: int, indent: int = 3) -> bool:
        line = self.text[max(0, start - indent - 1) : start].rpartition("\n")[2]
        return start <= self._lead or (not line.strip() and len(line) <= indent)

    def _fail(self, start: int, broken: int) -> None:
        self.spent += broken - start
        self._broken = broken

    def _json(self, start: int) -> t.Optional[tuple[t.Any, int]]:
        """Return the JSON value that begins at *start* and where it ends, None where it is broken."""
        size = _PIECE
        while True:
            # a piece, because an error counts the lines of all of the text before it
            piece = self.text[start : start + size]
            try:
                value, end = _DECODER.raw_decode(piece)
                return value, start + end
            except json.JSONDecodeError as exc:
                broken = exc.pos
                if exc.msg.startswith("Unterminated string"):
                    newline = piece.find("\n", broken)
                    broken = newline if newline >= 0 else len(piece)
                if broken > len(piece) - _LONGEST_WORD and start + size < len(self.text):
                    size *= 8
                    continue
                # one bracket that was taken for JSON may begin a mark
                self._fail(start, start + broken - (broken > 1 and piece[broken - 1] in "[{"))
            except (ValueError, RecursionError):
                self.spent += min(len(self.text) - start, _FAILED_SOMEWHERE)
                self._broken = start + 1
            return None

    def _values(self, start: int, between: t.Pattern[str]) -> tuple[_Values, int]:
        """Return the objects of a list, or those that stand one after another with *between*, and where they end; none is none at all."""
        if self.text.startswith("[", start):
            return self._listed(start)
        values: _Values = []
        position = end = start
        while self.text.startswith("{", position):
            decoded = self._json(position)
            if decoded is None:
                break
            value, end = decoded
            values.append((value, position, end))
            position = self._skip(between, end)
        return values, end

    def _listed(self, start: int) -> tuple[_Values, int]:
        values: _Values = []
        position = self._skip(_SPACE, start + 1)
        while self.text.startswith("{", position):
            decoded = self._json(position)
            if decoded is None:
                return [], start
            values.append((decoded[0], position, decoded[1]))
            position = self._skip(_SPACE, decoded[1])
            if self.text.startswith("]", position):
                return values, position + 1
            if not self.text.startswith(",", position):
                break
            position = self._skip(_SPACE, position + 1)
        if values:
            self._fail(start, position)
        return [], start

    def _calls_in(self, values: _Values, known: CallFormat, start: int, end: int, strict: bool = False) -> list[Call]:
        """Return *values* as calls, none where one of them is something else. From *start* to *end* is all of it."""
        calls = []
        for value, begins, ends in values:
            found = _call_in(value, strict)
            if found is None:
                return []
            begins, ends = (start, end) if len(values) == 1 else (begins, ends)
            calls.append(Call(*found, known.mark, known.parsers, begins, ends))
        return calls

    def _series(self, start: int, position: int, one: t.Callable[[int], t.Optional[Call]], close: str) -> _Read:
        """Return the calls that *one* reads from *position* on, one after another; a mark around them begins at *start*."""
        calls: list[Call] = []
        end = position
        call = one(position)
        while call:
            calls.append(call)
            end = call.end
            call = one(self._skip(_SPACE, end))
        if not calls:
            return _Read((), self._broken)
        return _alone(calls, start, self._past(close, end))

    # readers: from the start and the end of a mark to what stands there

    def tagged(self, start: int, end: int) -> _Read:
        """JSON between two tags. The second may be missing where the text ends, or the next call begins."""
        tag = self.text[start:end]
        close, known = _TAGS[tag]
        values, last = self._values(self._skip(_SPACE, end), _BETWEEN)
        if not values:
            return _Read((), self._broken)
        after = self._past(close, last)
        following = self._skip(_SPACE, last)
        if after == last and following < len(self.text) and not self.text.startswith(tag, following):
            return _Read((), last)
        return _Read(self._calls_in(values, known, start, after), after)

    def tool_call(self, start: int, end: int) -> _Read:
        """``<tool_call>``, which families follow with JSON, a list, ``<function=...>`` or a name and ``<arg_key>``."""
        position = self._skip(_SPACE, end)
        if self.text.startswith("{", position):
            return self.tagged(start, end)
        if self.text.startswith("[", position):
            read = self._marked(start, position, _GRANITE)
            return read._replace(end=self._past("</tool_call>", read.end)) if read.calls else read
        if self.text.startswith("<function=", position):
            return self._series(start, position, lambda at: self._function(at, _QWEN3_CODER), "</tool_call>")
        return self._arg_keys(start, position)

    def seed_tool_call(self, start: int, end: int) -> _Read:
        """Functions as those of function, in a tag of their own."""
        position = self._skip(_SPACE, end)
        return self._series(start, position, lambda at: self._function(at, _SEED_OSS), "</seed:tool_call>")

    def function(self, start: int, _end: int) -> _Read:
        """``<function=name><parameter=a>value</parameter></function>`` without ``<tool_call>``, which models forget."""
        return self._series(start, start, lambda at: self._function(at, _QWEN3_CODER), "</tool_call>")

    def _function(self, start: int, known: CallFormat) -> t.Optional[Call]:
        head = _FUNCTION.match(self.text, start)
        stop = self._find("</function>", start)
        if not head or stop < 0:
            return None
        written: dict[str, str] = {}
        position = self._skip(_SPACE, head.end())
        parameter = _PARAMETER.match(self.text, position)
        while parameter:
            begins = parameter.end()
            ends = self._find("</parameter>", begins)
            after = ends + len("</parameter>")
            following = self._find("<parameter=", begins)
            if -1 < following < ends:
                ends = after = following
            if ends < 0:
                return None
            written[parameter.group(1).strip()] = self.text[begins:ends]
            position = self._skip(_SPACE, after)
            parameter = _PARAMETER.match(self.text, position)
        if position != stop:
            return None
        arguments = {key: _typed(_inside_newlines(value)) for key, value in written.items()}
        return Call(head.group(1), arguments, known.mark, known.parsers, start, stop + len("</function>"))

    def _arg_keys(self, start: int, position: int) -> _Read:
        head = _ARG_NAME.match(self.text, position)
        stop = self._find("</tool_call>", position)
        if not head or stop < 0:
            return _Read((), position)
        written: dict[str, str] = {}
        position = head.end()
        key = _ARG_KEY.match(self.text, position)
        while key:
            ends = self._find("</arg_value>", key.end())
            if not -1 < ends < stop:
                return _Read((), position)
            written[key.group(1).strip()] = self.text[key.end() : ends]
            position = self._skip(_SPACE, ends + len("</arg_value>"))
            key = _ARG_KEY.match(self.text, position)
        # a name alone may be anything that was put between the tags
        if position != stop or not (written or self.tools):
            return _Read((), position)
        end = stop + len("</tool_call>")
        arguments = {name: _typed(value) for name, value in written.items()}
        return _Read([Call(head.group(1), arguments, _GLM45.mark, _GLM45.parsers, start, end)], end)

    def _marked(self, start: int, position: int, known: CallFormat) -> _Read:
        """JSON after a mark that nothing closes."""
        values, last = self._values(self._skip(_SPACE, position), _BETWEEN)
        return _Read(self._calls_in(values, known, start, last), last if values else self._broken)

    def granite(self, start: int, end: int) -> _Read:
        """``<|tool_call|>`` and a list."""
        return self._marked(start, end, _GRANITE)

    def python_tag(self, start: int, end: int) -> _Read:
        """``<|python_tag|>`` and objects, perhaps with semicolons between them."""
        return self._marked(start, end, _LLAMA3_JSON)

    def functools(self, start: int, end: int) -> _Read:
        """``functools`` and a list."""
        if re.match(r"[\w.]", self.text[start - 1 : start]):
            return _Read((), end)
        return self._marked(start, end - 1, _PHI4_MINI)

    def mistral(self, start: int, end: int) -> _Read:
        """``[TOOL_CALLS]`` and a list, an object, or a name and its arguments."""
        position = self._skip(_SPACE, end)
        if self.text.startswith(("[", "{"), position):
            return self._marked(start, position, _MISTRAL)
        call = self._headed(position, _NAME_AND_ARGS, _MISTRAL)
        return _Read([call._replace(start=start)], call.end) if call else _Read((), self._broken)

    def _headed(self, start: int, pattern: t.Pattern[str], known: CallFormat, close: str = "") -> t.Optional[Call]:
        """A head with the name in its last group that is there, an object of arguments, and perhaps *close*."""
        head = pattern.match(self.text, start)
        decoded = self._json(head.end()) if head and self.text.startswith("{", head.end()) else None
        if not head or not head.lastindex or not decoded:
            return None
        return Call(head.group(head.lastindex), decoded[0], known.mark, known.parsers, start, self._past(close, decoded[1]))

    def kimi(self, start: int, end: int) -> _Read:
        """Calls with a head such as ``functions.name:0``, in a section or without."""
        position = self._skip(_SPACE, end) if self.text.startswith("<|tool_calls", start) else start
        return self._series(
            start, position, lambda at: self._headed(at, _KIMI_HEAD, _KIMI_K2, "<|tool_call_end|>"), "<|tool_calls_section_end|>"
        )

    def deepseek(self, start: int, end: int) -> _Read:
        """Calls of V3, whose arguments are in a fence, and of V3.1, in a section or without."""
        position = self._skip(_SPACE, end) if self.text.startswith("<\uff5ctool▁calls", start) else start
        return self._series(start, position, self._deepseek_call, "<\uff5ctool▁calls▁end\uff5c>")

    def _deepseek_call(self, start: int) -> t.Optional[Call]:
        head = _DEEPSEEK_HEAD.match(self.text, start)
        fenced = bool(head and head.group(2))
        call = self._headed(start, _DEEPSEEK_HEAD, _DEEPSEEK_V3 if fenced else _DEEPSEEK_V31)
        if not call:
            return None
        end = self._past("```", call.end) if fenced else call.end
        return call._replace(end=self._past("<\uff5ctool▁call▁end\uff5c>", end))

    def harmony(self, start: int, end: int) -> _Read:
        """A message to ``functions.name``, with its marks or what is left of them. The channel of thoughts is passed over."""
        thought = _HARMONY_THOUGHT.match(self.text, start)
        if thought:
            over = _HARMONY_THOUGHT_END.search(self.text, thought.end())
            return _Read((), over.start() if over else len(self.text))
        head = _HARMONY_HEAD.match(self.text, start)
        names = [name for name in (head.group("before"), head.group("after")) if name] if head else []
        decoded = self._json(head.end()) if head and len(names) == 1 else None
        if not decoded:
            return _Read((), self._broken)
        over = _HARMONY_END.match(self.text, decoded[1])
        if not over:
            return _Read((), decoded[1])
        return _Read([Call(names[0], decoded[0], _HARMONY.mark, _HARMONY.parsers, start, over.end())], over.end())

    def pythonic(self, start: int, end: int) -> _Read:
        """A list of calls in Python between two tags; the second may be missing."""
        close, known = _PYTHON_TAGS[self.text[start:end]]
        position = self._skip(_SPACE, end)
        calls, last = self._python(position, known)
        return _alone(calls, start, self._past(close, last)) if calls else _Read((), self._broken)

    def function_calls(self, start: int, end: int) -> _Read:
        """``<function_calls>`` and a call in Python on each line."""
        close = "</function_calls>"
        stop = self._find(close, end)
        if stop < 0 or stop - end > _LONGEST_PYTHON:
            return _Read((), end)
        spans: list[tuple[int, int]] = []
        position = end
        for line in self.text[end:stop].splitlines(keepends=True):
            if line.strip():
                spans.append((position + len(line) - len(line.lstrip()), position + len(line.rstrip())))
            position += len(line)
        calls = self._python_calls(spans, _OLMO3)
        if not calls:
            self.spent += stop - start
            return _Read((), end)
        return _alone(calls, start, stop + len(close))

    def _python(self, start: int, known: CallFormat) -> tuple[list[Call], int]:
        """Return the calls of the list that begins at *start* and where it ends; none where it is no list of calls."""
        if not _PYTHON_LIST.match(self.text, start):
            return [], start
        spans: list[tuple[int, int]] = []
        depth, first, last = 0, start + 1, start
        for token in _PYTHON_TOKEN.finditer(self.text, start, start + _LONGEST_PYTHON):
            sign, last = token.group(), token.end()
            if sign in "([{":
                depth += 1
            elif sign in ("'", '"'):
                break
            elif sign in ")]}":
                depth -= 1
            if depth == 0 or (depth == 1 and sign == ","):
                spans.append((first, token.start()))
                first = last
            if depth == 0:
                calls = self._python_calls(spans, known)
                if calls:
                    return calls, last
                break
        self.spent += last - start
        return [], start

    def _python_calls(self, spans: t.Sequence[tuple[int, int]], known: CallFormat) -> list[Call]:
        """Return what stands at *spans* as calls, none where one of it is something else."""
        calls = []
        for start, end in spans:
            found = _python_call(self.text[start:end])
            if not found:
                return []
            calls.append(Call(*found, known.mark, known.parsers, self._skip(_SPACE, start), end))
        return calls

    def fence(self, start: int, end: int) -> _Read:
        """A block of code of Markdown: calls in JSON, or code that is passed over."""
        head = _FENCE.match(self.text, start)
        if not head:
            return _Read((), end)
        marks, language, rest = head.groups()
        if not self._begins_line(start, indent=12):
            # models begin one behind text as well: behind a space, with a language, and with nothing else
            named = language and head.end(1) == head.start(2) and self.text[start - 1].isspace()
            if not named or not (rest == "" or language.lower() in _FENCE_LANGUAGES):
                return _Read((), head.end(1))
        content = head.start(3) if rest in ("{", "[") else head.end()
        if language.lower() in _FENCE_LANGUAGES and rest in ("", "{", "["):
            begins = self._skip(_SPACE, content)
            values, last = self._values(begins, _BETWEEN)
            after = self._past(marks, last)
            known = _FENCED_LIST if self.text.startswith("[", begins) else _FENCED
            calls = self._calls_in(values, known, start, after, strict=True)
            if calls and (after > last or self._skip(_SPACE, last) == len(self.text)):
                return _Read(calls, after)
        if "`" in self.text[head.end(1) : head.end()]:
            # code within a line
            return _Read((), head.end())
        # thoughts that the prompt has opened may end before their code does
        ends = [] if self._thought else [self._find(close, content) for close in _THOUGHTS.values()]
        over = min((at for at in ends if at >= 0), default=len(self.text))
        for closing in _FENCE_END.finditer(self.text, content, over):
            if len(closing.group(1)) >= len(marks):
                return _Read((), closing.end())
        return _Read((), over)

    def inline(self, start: int, end: int) -> _Read:
        """JSON or a list in Python that fills whole lines, without any mark."""
        if not self._begins_line(start):
            return self._name_and_object(start, end)
        if _PYTHON_LIST.match(self.text, start):
            calls, last = self._python(start, _PYTHONIC)
            if not calls or not (self.tools or any(call.arguments for call in calls)):
                return _Read((), max(last, end))
        else:
            values, last = self._values(start, _BETWEEN_ON_LINE)
            if not values:
                return _Read((), self._broken)
            calls = self._calls_in(values, _BARE_OBJECT if self.text[start] == "{" else _BARE_LIST, start, last, strict=True)
        return _alone(calls if _LINE_END.match(self.text, last) else (), start, last)

    def _name_and_object(self, start: int, end: int) -> _Read:
        """``name{...}`` on lines of its own, for names that are known: Mistral's form when the engine has dropped its marks."""
        line = self.text.rfind("\n", max(0, start - 140), start) + 1
        if not self.tools or (line == 0 and start > 140):
            return _Read((), end)
        name = self.text[line:start].strip()
        if name not in self.tools:
            return _Read((), end)
        position = line + self.text[line:start].index(name)
        calls: list[Call] = []
        start = self._past("[ARGS]", start)
        while name in self.tools and self.text.startswith("{", start):
            decoded = self._json(start)
            if not decoded:
                break
            calls.append(Call(name, decoded[0], _NAME_AND_OBJECT.mark, _NAME_AND_OBJECT.parsers, position, decoded[1]))
            position = decoded[1]
            head = _NAME_AND_ARGS.match(self.text, position)
            name, start = (head.group(1), head.end()) if head else ("", position)
        if not calls or not _LINE_END.match(self.text, position):
            return _Read((), max(position, self._broken))
        return _Read(calls, position)


_TAGS = {
    "<TOOL_OUTPUT>": ("</TOOL_OUTPUT>", _TOOL_OUTPUT),
    "<tool_call>": ("</tool_call>", _HERMES),
    "<longcat_tool_call>": ("</longcat_tool_call>", _LONGCAT),
    "<function_call>": ("</function_call>", _GRANITE_20B),
    "<tool_calls>": ("</tool_calls>", _JAMBA),
    "<|action_start|><|plugin|>": ("<|action_end|>", _INTERNLM),
}
_PYTHON_TAGS = {
    "<|python_start|>": ("<|python_end|>", _LLAMA4_PYTHONIC),
    "<|tool_call_start|>": ("<|tool_call_end|>", _LFM2),
}
_READERS: dict[str, t.Callable[[_Scan, int, int], _Read]] = {
    **dict.fromkeys(_TAGS, _Scan.tagged),
    **dict.fromkeys(_PYTHON_TAGS, _Scan.pythonic),
    **dict.fromkeys(("<|tool_calls_section_begin|>", "<|tool_call_begin|>"), _Scan.kimi),
    **dict.fromkeys(("<\uff5ctool▁calls▁begin\uff5c>", "<\uff5ctool▁call▁begin\uff5c>"), _Scan.deepseek),
    **dict.fromkeys(("<|start|>assistant", "<|channel|>", "assistantcommentary to=", "commentary to="), _Scan.harmony),
    **dict.fromkeys(("{", "["), _Scan.inline),
    "<tool_call>": _Scan.tool_call,
    "<seed:tool_call>": _Scan.seed_tool_call,
    "<function=": _Scan.function,
    "<function_calls>": _Scan.function_calls,
    "<|tool_call|>": _Scan.granite,
    "<|python_tag|>": _Scan.python_tag,
    "functools[": _Scan.functools,
    "[TOOL_CALLS]": _Scan.mistral,
    "```": _Scan.fence,
}
_MARKS = re.compile("|".join(map(re.escape, sorted([*_READERS, *_THOUGHTS, *_THOUGHTS.values()], key=len, reverse=True))))
