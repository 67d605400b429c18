# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter result_runs: what probes have found, as results are kept."""

from __future__ import annotations

DOCUMENTATION = r"""
name: result_runs
short_description: Turn what a probe has found into runs of a result
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns what a task has registered in the form that M(llmops.serving.serving_results) takes as C(document.runs).
  - Of a task with a loop, each turn is a run. It is named as its item is, where that is a dict with a C(name). Turns without one are
    repetitions of each other. Turns that were skipped are left out.
options:
  _input:
    description: What the task has registered.
    type: dict
    required: true
  probe:
    description: The module of the task, V(serving_benchmark), V(tool_call_probe) or V(runtime_probe).
    type: str
    required: true
  settings:
    description: Options of the task that a comparison has to know of.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Measure three times
  llmops.serving.serving_benchmark:
    url: http://127.0.0.1:8000
    model: smoke
    concurrency: 4
    input_tokens: 512
  loop: [1, 2, 3]
  register: benchmark

- name: Keep it
  llmops.serving.serving_results:
    document:
      kind: benchmark
      runs: "{{ benchmark | llmops.serving.result_runs('serving_benchmark', settings={'input_tokens': 512}) }}"
"""

RETURN = r"""
_value:
  description: The runs.
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._suite import runs


def result_runs(found: t.Mapping[str, t.Any], probe: str, settings: t.Optional[t.Mapping[str, t.Any]] = None) -> list[dict[str, t.Any]]:
    """Return the runs; AnsibleFilterError where *found* is no result."""
    try:
        return runs(found, probe, settings)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"result_runs": result_runs}
