# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter parse_tool_calls: the tool calls that a model wrote as text."""

from __future__ import annotations

DOCUMENTATION = r"""
name: parse_tool_calls
short_description: Read the tool calls that a model wrote as text
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - For clients of engines that run without a tool parser, whose models write their calls into the text of the answer.
  - Reads the marks of the model families (V(<tool_call>), V([TOOL_CALLS]), V(<|python_tag|>), V(<TOOL_OUTPUT>) and so on), JSON in fences
    of Markdown, and JSON or Python lists of calls that fill whole lines.
  - It is strict. Calls that are broken or cut off, that stand in thoughts, in code of a language or within a sentence, and definitions of
    tools are no calls. An engine with the right parser is faster, streams calls, and knows the types of their arguments.
options:
  _input:
    description:
      - The text of an answer, or a message or a whole response of the OpenAI API as a dict. Of several choices the first is read.
      - The C(tool_calls) of a message win. Only where it has none, its text is read.
    type: raw
    required: true
  tools:
    description:
      - Names of the tools that were offered. Calls of other names do not count. Without it, any name counts.
      - Some forms have nothing but the name of a tool to be known by, so they are only read with it.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Ask an engine that runs without a tool parser
  ansible.builtin.uri:
    url: http://127.0.0.1:8000/v1/chat/completions
    method: POST
    body_format: json
    body:
      model: smoke
      messages:
        - role: user
          content: What is the weather in Paris?
  register: answer

- name: Show what it wants to call
  ansible.builtin.debug:
    msg: "{{ answer.json | llmops.serving.parse_tool_calls(tools=['get_weather']) }}"

- name: Read a text
  ansible.builtin.debug:
    msg: >-
      {{ '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>' | llmops.serving.parse_tool_calls }}
"""

RETURN = r"""
_value:
  description: The calls in their order, none as an empty list.
  type: list
  elements: dict
  contains:
    name:
      description: Name of the tool.
      type: str
      sample: get_weather
    arguments:
      description: Arguments by name, decoded.
      type: dict
      sample:
        city: Paris
    format:
      description: The mark of the form in which the call is written; V(tool_calls) for one that the engine had parsed.
      type: str
      sample: <tool_call>
    parsers:
      description: Tool parsers of vLLM that read this form; none where none is known to, or none is needed.
      type: list
      elements: str
      sample:
        - hermes
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._tool_text import calls_of


def parse_tool_calls(answer: t.Any, tools: t.Optional[t.Sequence[str]] = None) -> list[dict[str, t.Any]]:
    """Return the tool calls in *answer*; AnsibleFilterError where that is nothing which can hold some."""
    try:
        return calls_of(answer, tools)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"parse_tool_calls": parse_tool_calls}
