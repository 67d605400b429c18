# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter probe_targets: which models are worth asking for tool calls."""

from __future__ import annotations

DOCUMENTATION = r"""
name: probe_targets
short_description: Choose the models that are worth asking for tool calls
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns each model of each runtime that M(llmops.serving.runtime_probe) has asked anything.
  - Models that are not listed, and those of runtimes that cannot be reached, are left out.
options:
  _input:
    description: The return value C(runtimes) of M(llmops.serving.runtime_probe).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Measure how fast they are
  llmops.serving.runtime_probe:
    config: runtime_matrix.json
  register: probe

- name: Show whom to ask for tool calls
  ansible.builtin.debug:
    msg: "{{ probe.runtimes | llmops.serving.probe_targets }}"
"""

RETURN = r"""
_value:
  description: The models, in the order in which they were asked.
  type: list
  elements: dict
  contains:
    name:
      description: What results call it, the model, with its runtime before it where several are enabled.
      type: str
      sample: ollama llama3.1:latest
    model:
      description: The model.
      type: str
      sample: llama3.1:latest
    endpoint:
      description: Where its runtime was asked.
      type: str
      sample: http://127.0.0.1:11434
    number:
      description: Place of its runtime in the input, from 0.
      type: int
      sample: 1
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._suite import targets


def probe_targets(reports: t.Sequence[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return the models that were asked anything; AnsibleFilterError where *reports* are none."""
    try:
        return targets(reports)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"probe_targets": probe_targets}
