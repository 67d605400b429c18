# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading tool calls from texts as the model families write them, and from prose that only looks like one."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _tool_text
from ansible_collections.llmops.serving.plugins.module_utils._tool_text import CallFormat, call_format, call_start, parse

# Marks as the models write them; they look like ASCII, and are not.
BAR = "\uff5c"
V3 = (
    f"<{BAR}tool▁call▁begin{BAR}>function<{BAR}tool▁sep{BAR}>%s\n```json\n%s\n```<{BAR}tool▁call▁end{BAR}>",
    f"<{BAR}tool▁calls▁begin{BAR}>%s<{BAR}tool▁calls▁end{BAR}>",
)
V31 = (f"<{BAR}tool▁call▁begin{BAR}>%s<{BAR}tool▁sep{BAR}>%s<{BAR}tool▁call▁end{BAR}>", V3[1])
KIMI = (
    "<|tool_call_begin|>functions.%s:0<|tool_call_argument_begin|>%s<|tool_call_end|>",
    "<|tool_calls_section_begin|>%s<|tool_calls_section_end|>",
)
OBJECT = '{"name": "%s", "arguments": %s}'
PARAMETERS = '{"name": "%s", "parameters": %s}'


class Form(t.NamedTuple):
    """How a family writes calls: one of them with its name and its arguments, what is between two, what is around all, and the parser."""

    one: str
    between: str
    around: str
    parsers: str
    mark: str


JSON_FORMS = {
    "fence json": Form(OBJECT, "\n", "```json\n%s\n```", "llama3_json", "```json"),
    "fence tool_call": Form(OBJECT, "\n", "```tool_call\n%s\n```", "llama3_json", "```json"),
    "fence without a language": Form(PARAMETERS, "\n", "```\n%s\n```", "llama3_json", "```json"),
    "fence on one line": Form(OBJECT, ", ", "```json %s ```", "llama3_json", "```json"),
    "fence with a list": Form(OBJECT, ",\n  ", "```json\n[%s]\n```", "llama3_json xlam", "```json"),
    "fences": Form(f"```json\n{OBJECT}\n```", "\n\n", "%s", "llama3_json", "```json"),
    "TOOL_OUTPUT": Form(f"<TOOL_OUTPUT>{OBJECT}</TOOL_OUTPUT>", "\n", "%s", "", "<TOOL_OUTPUT>"),
    "TOOL_OUTPUT with a list": Form(OBJECT, ", ", "<TOOL_OUTPUT>\n[%s]\n</TOOL_OUTPUT>", "", "<TOOL_OUTPUT>"),
    "hermes": Form(f"<tool_call>\n{OBJECT}\n</tool_call>", "\n", "%s", "hermes", "<tool_call>"),
    "hermes, not closed": Form(f"<tool_call>\n{OBJECT}", "\n", "%s", "hermes", "<tool_call>"),
    "granite 3.0": Form(OBJECT, ", ", "<|tool_call|>[%s]", "granite", "<|tool_call|>"),
    "granite 3.1": Form(OBJECT, ", ", "<tool_call> [%s]", "granite", "<|tool_call|>"),
    "granite 20b": Form(f"<function_call> {OBJECT}", "", "%s", "granite-20b-fc", "<function_call>"),
    "longcat": Form(f"<longcat_tool_call>{OBJECT}</longcat_tool_call>", "\n", "%s", "longcat", "<longcat_tool_call>"),
    "jamba": Form(OBJECT, ",\n", "<tool_calls>[\n%s\n]</tool_calls>", "jamba hunyuan_a13b", "<tool_calls>"),
    "internlm": Form(f"<|action_start|><|plugin|>\n{PARAMETERS}<|action_end|>", "\n", "%s", "internlm", "<|action_start|>"),
    "mistral before 11": Form(OBJECT, ", ", "[TOOL_CALLS] [%s]", "mistral", "[TOOL_CALLS]"),
    "mistral": Form("[TOOL_CALLS]%s[ARGS]%s", "", "%s", "mistral", "[TOOL_CALLS]"),
    "mistral with ids": Form("[TOOL_CALLS]%s[CALL_ID]a1B2c3D4e[ARGS]%s", "", "%s", "mistral", "[TOOL_CALLS]"),
    "mistral without ARGS": Form("[TOOL_CALLS]%s%s", "", "%s", "mistral", "[TOOL_CALLS]"),
    "mistral, marks dropped": Form("%s%s", "", "%s", "mistral", "name{...}"),
    "mistral, one mark dropped": Form("%s[ARGS]%s", "", "%s", "mistral", "name{...}"),
    "llama": Form(PARAMETERS, "; ", "<|python_tag|>%s", "llama3_json", "<|python_tag|>"),
    "llama without a mark": Form(PARAMETERS, "; ", "%s", "llama3_json", '{"name": ..., "parameters": ...}'),
    "lines": Form(OBJECT, "\n", "%s", "llama3_json", '{"name": ..., "parameters": ...}'),
    "bare list": Form(OBJECT, ", ", "[%s]", "mistral granite xlam", '[{"name": ..., "arguments": ...}]'),
    "OpenAI": Form('{"type": "function", "function": {"name": "%s", "arguments": %s}}', ", ", "[%s]", "mistral granite xlam", "[{"),
    "phi 4 mini": Form(OBJECT, ", ", "functools[%s]", "phi4_mini_json", "functools[...]"),
    "harmony": Form(
        "<|channel|>commentary to=functions.%s <|constrain|>json<|message|>%s<|call|>", "<|start|>assistant", "%s", "openai", "<|channel|>"
    ),
    "harmony, recipient first": Form(
        "<|start|>assistant to=functions.%s<|channel|>commentary json<|message|>%s<|call|>", "", "%s", "openai", "<|channel|>"
    ),
    "harmony, marks dropped": Form("assistantcommentary to=functions.%s json%s", "", "%s", "openai", "<|channel|>"),
    "kimi": Form(KIMI[0], "", KIMI[1], "kimi_k2", "<|tool_calls_section_begin|>"),
    "kimi without a section": Form(KIMI[0], "\n", "%s", "kimi_k2", "<|tool_calls_section_begin|>"),
    "deepseek v3": Form(V3[0], "\n", V3[1], "deepseek_v3", f"<{BAR}tool▁calls▁begin{BAR}>"),
    "deepseek v31": Form(V31[0], "", V31[1], "deepseek_v31", f"<{BAR}tool▁calls▁begin{BAR}>"),
    "deepseek v31 without a section": Form(V31[0], "", "%s", "deepseek_v31", f"<{BAR}tool▁calls▁begin{BAR}>"),
}


class Tagged(t.NamedTuple):
    """A family that does not write JSON: how an argument is written, and the rest as in Form. ``value`` writes one value."""

    argument: str
    form: Form
    value: t.Callable[[t.Any], str]
    separator: str = "\n"


def plain(value: t.Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


QWEN = "<function=%s>\n%s\n</function>"
PARAMETER = "<parameter=%s>\n%s\n</parameter>"
ARG_KEY = "<arg_key>%s</arg_key>\n<arg_value>%s</arg_value>"
OTHER_FORMS = {
    "qwen3_coder": Tagged(PARAMETER, Form(f"<tool_call>\n{QWEN}\n</tool_call>", "\n", "%s", "qwen3_coder", "<function=...>"), plain),
    "qwen3_coder in one tag": Tagged(PARAMETER, Form(QWEN, "\n", "<tool_call>\n%s\n</tool_call>", "qwen3_coder", "<function=...>"), plain),
    "qwen3_coder, tag forgotten": Tagged(PARAMETER, Form(QWEN, "\n", "%s", "qwen3_coder", "<function=...>"), plain),
    "seed_oss": Tagged(
        "<parameter=%s>%s</parameter>", Form(QWEN, "", "<seed:tool_call>%s</seed:tool_call>", "seed_oss", "<seed:tool_call>"), plain
    ),
    "glm45": Tagged(ARG_KEY, Form("<tool_call>%s\n%s\n</tool_call>", "\n", "%s", "glm45", "<arg_key>"), plain),
    "glm47": Tagged(ARG_KEY, Form("<tool_call>%s%s</tool_call>", "", "%s", "glm45", "<arg_key>"), plain, ""),
    "pythonic": Tagged("%s=%s", Form("%s(%s)", ", ", "[%s]", "pythonic llama4_pythonic", "[name("), repr, ", "),
    "pythonic over lines": Tagged("%s=%s", Form("%s(%s)", ",\n", "[\n%s\n]", "pythonic llama4_pythonic", "[name("), repr, ",\n  "),
    "llama 4": Tagged(
        "%s=%s", Form("%s(%s)", ", ", "<|python_start|>[%s]<|python_end|>", "llama4_pythonic", "<|python_start|>"), repr, ", "
    ),
    "lfm2": Tagged("%s=%s", Form("%s(%s)", ", ", "<|tool_call_start|>[%s]<|tool_call_end|>", "lfm2", "<|tool_call_start|>"), repr, ", "),
    "olmo3": Tagged("%s=%s", Form("%s(%s)", "\n", "<function_calls>\n%s\n</function_calls>", "olmo3", "<function_calls>"), repr, ", "),
}

PARIS: dict[str, t.Any] = {"city": "Paris"}
NESTED: dict[str, t.Any] = {
    "stops": [{"city": "Genève", "nights": 2}, {"city": "Zürich {old town}", "nights": 1}],
    "budget": {"amount": -12.5, "currency": "CHF", "notes": {"tags": ["a]b", "c}d"], "strict": False, "limit": None}},
    "say": 'He said: "Grüße, {friend}" \\ and left',
    "by_train": True,
}
GREET = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
TOOLS = ("get_weather", "plan_trip", "now")
Calls = list[tuple[str, dict[str, t.Any]]]


def written(form: t.Union[Form, Tagged], calls: Calls) -> str:
    """Return *calls* as text in *form*."""
    if isinstance(form, Form):
        return form.around % form.between.join(form.one % (name, json.dumps(args, ensure_ascii=False)) for name, args in calls)
    ones = (
        form.form.one % (name, form.separator.join(form.argument % (key, form.value(value)) for key, value in args.items()))
        for name, args in calls
    )
    return form.form.around % form.form.between.join(ones)


def read(text: str, tools: t.Optional[t.Sequence[str]] = TOOLS) -> Calls:
    return [(call.name, call.arguments) for call in parse(text, tools).calls]


FORMS: list[tuple[str, t.Union[Form, Tagged]]] = [*JSON_FORMS.items(), *OTHER_FORMS.items()]
each_form = pytest.mark.parametrize("form", [form for _name, form in FORMS], ids=[name for name, _form in FORMS])


# Forms


@each_form
@pytest.mark.parametrize(
    "calls",
    [
        [("get_weather", PARIS)],
        [("get_weather", PARIS), ("get_weather", {"city": "London", "days": 3})],
        [("plan_trip", NESTED)],
        [("plan_trip", NESTED), ("get_weather", PARIS), ("plan_trip", NESTED)],
    ],
    ids=["one", "two", "nested", "three"],
)
def test_calls_are_read_in_every_form(form: t.Union[Form, Tagged], calls: Calls) -> None:
    about = form if isinstance(form, Form) else form.form
    parsed = parse(written(form, calls), TOOLS)
    assert [(call.name, call.arguments) for call in parsed.calls] == calls
    assert {" ".join(call.parsers) for call in parsed.calls} == {about.parsers}
    assert all(call.format.startswith(about.mark) for call in parsed.calls)
    assert parsed.text == ""


@each_form
def test_prose_around_calls_is_left(form: t.Union[Form, Tagged]) -> None:
    text = written(form, [("get_weather", PARIS), ("get_weather", {"city": "London"})])
    parsed = parse(f"Let me see: {{both}} of [them].\n\n{text}", TOOLS)
    assert [call.arguments["city"] for call in parsed.calls] == ["Paris", "London"]
    assert parsed.text == "Let me see: {both} of [them]."


@pytest.mark.parametrize("name", [name for name, _form in FORMS if "not closed" not in name and name not in ("granite 20b",)])
def test_prose_after_calls_is_left(name: str) -> None:
    text = written(dict(FORMS)[name], [("get_weather", PARIS), ("get_weather", {"city": "London"})])
    if name == "harmony, marks dropped":
        text += "assistantfinal"
    parsed = parse(f"{text}\nI wait.", TOOLS)
    assert [call.arguments["city"] for call in parsed.calls] == ["Paris", "London"]
    assert parsed.text.endswith("I wait.")
    assert "Paris" not in parsed.text


@each_form
def test_a_call_tells_where_it_stands(form: t.Union[Form, Tagged]) -> None:
    text = f"First.\n{written(form, [('get_weather', PARIS), ('get_weather', {'city': 'London'})])}\n"
    first, second = parse(text, TOOLS).calls
    assert 7 <= first.start < first.end <= second.start < second.end <= len(text)
    assert "Paris" in text[first.start : first.end]
    assert "London" not in text[first.start : first.end]
    assert "London" in text[second.start : second.end]


@each_form
def test_a_single_call_has_its_marks_for_itself(form: t.Union[Form, Tagged]) -> None:
    text = written(form, [("get_weather", PARIS)])
    (call,) = parse(f"First.\n{text}", TOOLS).calls
    assert (call.start, call.end) == (7, 7 + len(text))


@each_form
def test_only_the_names_of_the_tools_count(form: t.Union[Form, Tagged]) -> None:
    text = written(form, [("plan_trip", {"city": "Rome"})])
    assert read(text, ["plan_trip", "now"]) == [("plan_trip", {"city": "Rome"})]
    assert parse(text, ["now"]) == ([], text)
    assert parse(text, []) == ([], text)


@each_form
def test_a_call_that_is_cut_off_is_none(form: t.Union[Form, Tagged]) -> None:
    text = written(form, [("get_weather", {"city": "a city with a long name"})])
    for end in range(text.index("long name") + 1):
        assert parse(text[:end], TOOLS) == ([], text[:end].strip())


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "glm45", "mistral", "kimi", "deepseek v3", "deepseek v31", "harmony", "llama"])
def test_whole_calls_before_one_that_is_cut_off_count(name: str) -> None:
    form = dict(FORMS)[name]
    text = written(form, [("get_weather", PARIS), ("get_weather", {"city": "a city with a long name"})])
    cut = text[: text.index("long name")]
    parsed = parse(cut, TOOLS)
    assert [call.arguments for call in parsed.calls] == [PARIS]
    assert parsed.text.endswith("a city with a")


@pytest.mark.parametrize(
    "name", ["fence with a list", "granite 3.0", "mistral before 11", "phi 4 mini", "bare list", "pythonic", "llama 4"]
)
def test_a_list_that_is_cut_off_is_none(name: str) -> None:
    text = written(dict(FORMS)[name], [("get_weather", PARIS), ("get_weather", {"city": "a city with a long name"})])
    cut = text[: text.index("long name")]
    assert parse(cut, TOOLS) == ([], cut.strip())


def test_calls_of_other_names_stay_in_the_text() -> None:
    unknown = '{"name": "rm", "arguments": {"path": "/"}}'
    known = OBJECT % ("now", "{}")
    assert parse(f"[TOOL_CALLS][{known}, {unknown}]", TOOLS).text == unknown
    assert read(f"[TOOL_CALLS][{known}, {unknown}]") == [("now", {})]
    assert parse(f"<tool_call>{unknown}</tool_call>\n<tool_call>{known}</tool_call>", TOOLS).text == f"<tool_call>{unknown}</tool_call>"


def test_without_tools_any_name_counts_that_can_be_one() -> None:
    assert read(OBJECT % ("mcp.files-read_2", "{}"), None) == [("mcp.files-read_2", {})]
    assert read(OBJECT % ("Jane Doe", "{}"), None) == []
    assert read(OBJECT % ("", "{}"), None) == []
    # a known name may be any
    assert read(OBJECT % ("Jane Doe", "{}"), ["Jane Doe"]) == [("Jane Doe", {})]


def test_different_forms_are_read_from_one_text() -> None:
    parsed = parse(f"<tool_call>{OBJECT % ('now', '{}')}</tool_call>\nand\n```json\n{OBJECT % ('get_weather', '{}')}\n```\nthen.", TOOLS)
    assert [(call.name, call.parsers) for call in parsed.calls] == [("now", ("hermes",)), ("get_weather", ("llama3_json",))]
    assert parsed.text.split() == ["and", "then."]


def test_a_fence_may_begin_behind_text() -> None:
    for text in (f"I call: ```json\n{GREET}\n```", f"I call: ```json {GREET}```"):
        parsed = parse(text, TOOLS)
        assert [(call.arguments, call.format) for call in parsed.calls] == [(PARIS, "```json")]
        assert parsed.text == "I call:"


# Arguments


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('"{\\"city\\": \\"Paris\\"}"', PARIS),
        ('""', {}),
        ("null", {}),
        ("{}", {}),
    ],
)
def test_arguments_may_be_json_in_a_string_or_nothing(arguments: str, expected: dict[str, t.Any]) -> None:
    assert read(f"<tool_call>{OBJECT % ('get_weather', arguments)}</tool_call>") == [("get_weather", expected)]


@pytest.mark.parametrize("arguments", ['"Paris"', '"[1]"', "[1]", "3", '"{"', '{"a": NaN}', f'{{"a": {"9" * 400}}}', "[" * 50_000])
def test_other_arguments_make_no_call(arguments: str) -> None:
    assert read(f"<tool_call>{OBJECT % ('get_weather', arguments)}</tool_call>") == []


def test_values_without_types_are_json_where_they_can_be() -> None:
    values = {"a": "5", "b": "[1, 2]", "c": "true", "d": "05", "e": '"quoted"', "f": "", "g": "5 days", "h": "-", "i": "{x}", "j": "NaN"}
    text = written(OTHER_FORMS["qwen3_coder"], [("now", values)])
    assert read(text) == [("now", {**values, "a": 5, "b": [1, 2], "c": True})]


def test_lines_of_a_value_are_kept() -> None:
    code = "\n  if a < b and c > d:\n    print('</x>')\n\n"
    assert read(written(OTHER_FORMS["qwen3_coder"], [("now", {"code": code})])) == [("now", {"code": code})]
    assert read(written(OTHER_FORMS["glm45"], [("now", {"code": code})])) == [("now", {"code": code})]


def test_a_parameter_may_be_closed_by_the_next() -> None:
    assert read("<function=now><parameter=a>1<parameter=b>x</parameter></function>") == [("now", {"a": 1, "b": "x"})]


def test_python_literals_are_read_and_nothing_is_run() -> None:
    values = "a=-1, b=+2.5, c=(1, 'x'), d={'k': [None, true, false, null]}, e='it\\'s', f=\"\\d\""
    expected = {"a": -1, "b": 2.5, "c": [1, "x"], "d": {"k": [None, True, False, None]}, "e": "it's", "f": "\\d"}
    assert read(f"[now({values})]") == [("now", expected)]
    for value in ("open('/etc/passwd')", "x", "b'1'", "1j", "...", "-'a'", "-True", "not 1", "1 + 1", "f'{a}'", "{1: 2}", "[*a]", "{**a}"):
        assert read(f"[now(a={value})]") == [], value
    for call in (
        "now('x')",
        "now(**{'a': 1})",
        "now(a=1)(b=2)",
        "now(a=1).then(b=2)",
        "now(a=1) + now(a=2)",
        "now(a=1, a=2)",
        "now(a=1",
        "a",
    ):
        assert read(f"[{call}]") == [], call


def test_dotted_names_are_read() -> None:
    assert read("[files.open(path='/tmp')]", None) == [("files.open", {"path": "/tmp"})]


def test_a_call_without_arguments_needs_a_known_name_where_nothing_else_tells() -> None:
    for text in ("[now()]", "<tool_call>now</tool_call>", "<tool_call>\nnow\n</tool_call>"):
        assert read(text) == [("now", {})]
        assert read(text, None) == []
    assert read("<tool_call><function=now></function></tool_call>", None) == [("now", {})]


# Prose

PROSE = {
    "a sentence": f"For example, {GREET} would call it.",
    "end of a sentence": f"You would call it with {GREET}",
    "a sentence after": f"{GREET} would call it.",
    "a list item": f"- {GREET}",
    "a quotation": f"> {GREET}",
    "indented code": f"Like this:\n\n    {GREET}\n",
    "in backticks": f"`{GREET}`",
    "a mark in backticks": f"Write `<tool_call>{GREET}</tool_call>` to call it.",
    "python": f"```python\ncall = json.loads('''\n{GREET}\n''')\n```",
    "python, not closed": f"```python\n{GREET}\n",
    "a mark in xml": f"```xml\n<tool_call>{GREET}</tool_call>\n```",
    "a mark in a fence": f"Write\n```\n<tool_call>{GREET}</tool_call>\n```\nto call it.",
    "a longer fence": f"````markdown\n```json\n{GREET}\n```\n````",
    "a fence in a longer one": f"````markdown\n```\nOr:\n```\n{GREET}\n````",
    "python behind text": f"Use ```python\n{GREET}\n```",
    "code on one line": f"```{GREET} is how```\n",
    "more in the fence": f"```json\n{GREET}\n// that is how\n```",
    "other data in the fence": f'```json\n{{"name": "get_weather", "version": 2}}\n{GREET}\n```',
    "a list with other data": f"[{GREET}, 5]",
    "more keys": '{"name": "get_weather", "arguments": {"city": "Paris"}, "description": "Weather"}',
    "both keys": '{"name": "get_weather", "arguments": {}, "parameters": {}}',
    "no arguments": '{"name": "get_weather"}',
    "a person": '{"name": "Paris", "arguments": "none"}',
    "a definition": '{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}',
    "a definition in a fence": '```json\n{"type": "function", "function": {"name": "now", "description": "", "parameters": {}}}\n```',
    "a name that is no text": '{"name": ["get_weather"], "arguments": {}}',
    "broken": '{"name": "get_weather", "arguments": {"city": "Paris"}',
    "single quotes": "{'name': 'get_weather', 'arguments': {'city': 'Paris'}}",
    "a comma too many": '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris",}}</tool_call>',
    "more in the tag": f"<tool_call>{GREET} and more</tool_call>",
    "a newline in a string": '<tool_call>{"name": "get_weather", "arguments": {"city": "Pa\nris"}}</tool_call>',
    "thoughts": f"<think>I could write\n<tool_call>{GREET}</tool_call>\nbut no.</think>It is sunny.",
    "thoughts that do not end": f"<think>I could write\n<tool_call>{GREET}</tool_call>\n",
    "thoughts that the prompt began": f"I could write\n<tool_call>{GREET}</tool_call>\nbut no.</think>It is sunny.",
    "a fence in such thoughts": f"```python\nx = 1\n{GREET}\n</think>It is sunny.",
    "thoughts of Mistral": f"[THINK]\n{GREET}\n[/THINK]It is sunny.",
    "thoughts of gpt-oss": f"<|channel|>analysis<|message|>Perhaps\n{GREET}\n<|end|><|start|>assistant<|channel|>final<|message|>Sunny.",
    "another recipient": '<|channel|>commentary to=python <|constrain|>json<|message|>{"city": "Paris"}<|call|>',
    "a call in python": "get_weather(city='Paris')",
    "a call in a sentence": "[get_weather(city='Paris')] would call it.",
    "positional": "[get_weather('Paris')]",
    "a reference": "[get_weather(city)] shows the weather.",
    "an unknown tag": '<function name="get_weather">Paris</function>',
    "a parameter that is not closed": "<tool_call><function=get_weather><parameter=city>Paris</function></tool_call>",
    "text in a function": "<tool_call><function=get_weather>Paris</function></tool_call>",
    "a message that goes on": 'commentary to=functions.get_weather json{"city": "Paris"} would call it.',
    "no end of the function": "<tool_call><function=get_weather><parameter=city>Paris</parameter></tool_call>",
    "a key without a value": "<tool_call>get_weather<arg_key>city</arg_key></tool_call>",
    "part of a word": f"myfunctools[{GREET}]",
    "no arguments in the call": '<tool_call>{"name": "get_weather"}</tool_call>',
    "data with marks": '{"note": "<function=get_weather><parameter=city>Paris</parameter></function>"}',
    "python over lines": "[get_weather(city='Paris')\n",
    "a name and an object": 'Use get_weather{"city": "Paris"} for it.',
    "a sentence that begins so": 'get_weather{"city": "Paris"} would call it.',
    "nothing": "",
    "brackets": "[1] Paris (France) {sunny}\n{\n[\n```",
}


@pytest.mark.parametrize("text", PROSE.values(), ids=PROSE.keys())
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["any", "tools"])
def test_prose_is_no_call(text: str, tools: t.Optional[t.Sequence[str]]) -> None:
    assert parse(text, tools) == ([], text.strip())


@pytest.mark.parametrize(
    "before",
    [
        "<think>I call it.</think>\n",
        "I call it.</think>\n",
        f"Not {GREET}, but now\n```json\n{{broken\n```\n",
        "```python\nx = '<tool_call>'\n```\n",
        "<tool_call>{broken\n",
        "<tool_call>\n",
        "[link(foo, and then\n",
        "Don't [say('no\n",
        '{"a": \n',
        "<|channel|>analysis<|message|>Weather.<|end|><|start|>assistant",
        "A ``` in a line, and ```one``` more.\n",
        "```js``` is a language\n",
        "```python\nnot closed</think>\n",
        "Fences begin with ```\n",
        "Fences begin with ``` in Markdown.\n",
        "Fences begin with ``` mostly\n",
        "Code is ```one```two\n",
    ],
)
@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "harmony", "mistral", "fence json"])
def test_a_call_after_prose_that_is_none_is_read(before: str, name: str) -> None:
    text = written(dict(FORMS)[name], [("get_weather", PARIS)])
    assert read(f"{before}\n{text}") == [("get_weather", PARIS)]


def test_marks_inside_arguments_are_only_text() -> None:
    arguments = {"code": f"</think>```json {GREET}``` [TOOL_CALLS]<tool_call><function=now></function></tool_call>"}
    assert read(f"<tool_call>{OBJECT % ('now', json.dumps(arguments))}</tool_call>") == [("now", arguments)]


# Work


class Counting:
    """A decoder that counts the characters which it looks at; where a failure does not tell, all of them."""

    def __init__(self) -> None:
        self.looked_at = 0
        self.decoder = json.JSONDecoder()

    def raw_decode(self, text: str, start: int = 0) -> tuple[t.Any, int]:
        end = len(text)
        try:
            value, end = self.decoder.raw_decode(text, start)
        except json.JSONDecodeError as exc:
            end = exc.pos
            raise
        finally:
            self.looked_at += end - start
        return value, end

    def decode(self, text: str) -> t.Any:
        self.looked_at += len(text)
        return self.decoder.decode(text)


HOSTILE = {
    "nested lines": '{"arguments":\n',
    "nested lists": "[\n",
    "nested objects": '{"name": "now", "arguments": {"x":\n',
    "tags": "<tool_call>",
    "tags with objects": '<tool_call>{"name": ',
    "tags in strings": '<tool_call>{"name": "<tool_call>[',
    "escaped quotes": '<tool_call>{"a\\"',
    "functions": "<tool_call><function=now>",
    "parameters": "<function=now><parameter=a>",
    "keys": "<tool_call>now<arg_key>a</arg_key><arg_value>",
    "python": "[now(a=(\n",
    "python strings": "[now(a='\\'\n",
    "fences": "```json\n{\n",
    "thoughts": "<think",
    "words": "abc",
    "spaces": "    ",
    "braces": "    {",
    "sections": "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0",
    "harmony": "<|channel|>commentary to=functions.",
    "numbers": '<tool_call>{"a": 111111111',
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_work_is_in_proportion_to_the_text(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tool_text, "_VAIN", 1000)
    text = unit * (30_000 // len(unit))
    counting = Counting()
    monkeypatch.setattr(_tool_text, "_DECODER", counting)
    assert parse(text, TOOLS) == ([], text.strip())
    scan = _tool_text._Scan(text, TOOLS)
    scan.parsed()
    assert scan.spent <= 6 * len(text)
    assert counting.looked_at <= 40 * len(text)


class Text(str):
    """A text that counts what is taken out of it, and what is looked through for a mark."""

    looked_at = 0

    def find(self, mark: str, start: int = 0) -> int:  # type: ignore[override]
        found = super().find(mark, start)
        self.looked_at += (found if found >= 0 else len(self)) - start
        return found

    def __getitem__(self, where: t.Any) -> str:
        piece = super().__getitem__(where)
        self.looked_at += len(piece)
        return piece


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_place_is_looked_at_again_and_again(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tool_text, "_VAIN", 1000)
    text = Text(unit * (60_000 // len(unit)))
    assert parse(text, TOOLS).calls == []
    assert text.looked_at <= 100 * len(text)


def test_arguments_of_any_length_are_read() -> None:
    for length in (480, 490, 495, 500, 505, 510, 515, 4090, 100_000):
        for end in ('"', '\\u00e9"', '\\\\"', '", "more": [true, 12.5e3, null]'):
            arguments = f'{{"text": "{"x" * length}{end}}}'
            text = f"<tool_call>{OBJECT % ('now', arguments)}</tool_call>\n" * 2
            assert read(text) == [("now", json.loads(arguments))] * 2


def test_text_after_much_that_is_broken_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    call = f"\n<tool_call>{GREET}</tool_call>"
    broken = "[now(a=(\n" * 300
    assert read(broken + call) == [("get_weather", PARIS)]
    monkeypatch.setattr(_tool_text, "_VAIN", 1000)
    assert read(broken + call) == []


# Naming the form


def test_blocks_of_json_and_tool_output_are_named() -> None:
    assert call_format(f"```json\n{GREET}\n```") == CallFormat("```json", ("llama3_json",))
    assert call_format(GREET) == CallFormat('{"name": ..., "parameters": ...}', ("llama3_json",))
    assert call_format(f"<TOOL_OUTPUT>{GREET}</TOOL_OUTPUT>") == CallFormat("<TOOL_OUTPUT>", ())
    assert call_format("Sunny.") is None


def test_forms_without_a_mark_are_named_after_prose_where_the_tool_is_known() -> None:
    text = f"I look it up.\n```json\n{GREET}\n```"
    assert call_format(text) is None
    known = call_format(text, "get_weather")
    assert known == CallFormat("```json", ("llama3_json",))
    assert call_start(text, known) == text.index("```")
    # another tool than the one that was asked for
    assert call_format(text.replace("get_weather", "now"), "get_weather") is None


def test_where_a_form_begins_is_found_by_its_mark() -> None:
    text = f"Let me see.\n<tool_call>{GREET}</tool_call>"
    known = call_format(text)
    assert known is not None
    assert call_start(text, known) == text.index("<tool_call>")
    assert call_start("Sunny.", known) == 0


@each_form
def test_every_form_that_is_read_is_also_named(form: t.Union[Form, Tagged]) -> None:
    text = written(form, [("get_weather", PARIS)])
    call = parse(text, TOOLS).calls[0]
    known = call_format(text, "get_weather")
    assert known is not None
    assert set(call.parsers) <= set(known.parsers)
