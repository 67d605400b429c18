# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter parse_tool_calls on texts, messages and responses, called as a template calls it."""

from __future__ import annotations

import typing as t

import pytest
import yaml
from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.llmops.serving.plugins.filter import parse_tool_calls as plugin

parse_tool_calls = plugin.FilterModule().filters()["parse_tool_calls"]
TEXT = 'I look.\n<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
READ = [{"name": "get_weather", "arguments": {"city": "Paris"}, "format": "<tool_call>", "parsers": ["hermes"]}]
READY = {"id": "1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
PARSED = [{"name": "now", "arguments": {"zone": "UTC"}, "format": "tool_calls", "parsers": []}]


def message(content: t.Any = None, tool_calls: t.Any = None) -> dict[str, t.Any]:
    return {"role": "assistant", "content": content, "tool_calls": tool_calls}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (TEXT, READ),
        ("It is sunny.", []),
        ("", []),
        (message(TEXT), READ),
        ({"content": TEXT}, READ),
        (message([{"type": "text", "text": TEXT}, {"type": "image_url"}]), READ),
        (message(TEXT, []), READ),
        (message(TEXT, [READY]), PARSED),
        (message(None, [READY]), PARSED),
        ({"tool_calls": [READY]}, PARSED),
        (message(), []),
        ({"choices": [{"message": message(TEXT)}, {"message": message(None, [READY])}]}, READ),
        ({"choices": [{"message": message(None, [READY]), "finish_reason": "tool_calls"}]}, PARSED),
        ({"choices": [{"text": TEXT}]}, READ),
    ],
)
def test_texts_messages_and_responses_are_read(answer: t.Any, expected: list[dict[str, t.Any]]) -> None:
    assert parse_tool_calls(answer) == expected


def test_only_the_names_of_the_tools_count() -> None:
    assert parse_tool_calls(TEXT, tools=["get_weather"]) == READ
    assert parse_tool_calls(TEXT, tools=["now"]) == []
    assert parse_tool_calls(message(TEXT, [READY]), tools=["now"]) == PARSED
    assert parse_tool_calls(message(TEXT, [READY]), tools=["get_weather"]) == []


@pytest.mark.parametrize("arguments", [{"zone": "UTC"}, '{"zone": "UTC"}'])
def test_arguments_may_be_decoded_already(arguments: t.Any) -> None:
    assert parse_tool_calls(message(None, [{"function": {"name": "now", "arguments": arguments}}])) == PARSED


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (None, "but this is nothing (null). Give it the whole message or response."),
        (5, "but this is a number"),
        ([TEXT], "but this is a list"),
        ({}, "but this is an empty dict"),
        ({"error": {"message": "hunter2"}}, "but this is a dict with the keys error"),
        ({"choices": []}, "has no choice"),
        ({"choices": [{"message": None}]}, "but this is nothing (null)"),
        (message(7), "these are a number and a list"),
        (message("", "x"), "these are a text and a text"),
        (message("", ["x"]), "has no function with a name, but is a text"),
        (message("", [{"function": {"name": None}}]), "has no function with a name, but is a dict with the keys function"),
        (
            message("", [{"function": {"name": "now", "arguments": "hunter2"}}]),
            "arguments of the call of now in tool_calls are no JSON",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_it_is(answer: t.Any, found: str) -> None:
    with pytest.raises(AnsibleFilterError) as failed:
        parse_tool_calls(answer)
    assert found in str(failed.value)
    assert "hunter2" not in str(failed.value)


@pytest.mark.parametrize("tools", ["get_weather", [{"name": "get_weather"}]])
def test_tools_have_to_be_names(tools: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"tools has to be a list of names of functions, not a (text|list)"):
        parse_tool_calls(TEXT, tools=tools)


def rendered(expression: str, **variables: t.Any) -> t.Any:
    return Templar(loader=DataLoader(), variables=variables).template(trust_as_template("{{ " + expression + " }}"))


def test_a_template_finds_the_filter_by_its_name() -> None:
    assert rendered("answer | llmops.serving.parse_tool_calls(tools=['get_weather'])", answer=TEXT) == READ
    response = {"choices": [{"message": message(TEXT)}]}
    assert rendered("(response | llmops.serving.parse_tool_calls)[0].arguments.city", response=response) == "Paris"
    with pytest.raises(AnsibleError, match="Tool calls are looked for in a text"):
        rendered("5 | llmops.serving.parse_tool_calls")


def test_the_documentation_tells_what_comes_back() -> None:
    contains = yaml.safe_load(plugin.RETURN)["_value"]["contains"]
    assert {name: entry["sample"] for name, entry in contains.items()} == READ[0]
