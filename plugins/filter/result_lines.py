# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter result_lines: the last lines of a run that has measured something."""

from __future__ import annotations

DOCUMENTATION = r"""
name: result_lines
short_description: Write a result that was kept as text
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns tables, comparison and path of what M(llmops.serving.serving_results) has kept as lines of text.
  - The last of them say what got worse, and what to do about tool calls that failed. Without any of that, the last one is the path.
options:
  _input:
    description: What M(llmops.serving.serving_results) has returned.
    type: dict
    required: true
  runs:
    description: The runs of its document, for what they advise.
    type: list
    elements: dict
    default: []
  notes:
    description: Lines to write before the path.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show it at the end
  ansible.builtin.set_stats:
    data:
      serving_report: "{{ kept | llmops.serving.result_lines(runs=runs) }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._suite import last_lines


def result_lines(kept: t.Mapping[str, t.Any], runs: t.Sequence[t.Mapping[str, t.Any]] = (), notes: t.Sequence[str] = ()) -> list[str]:
    """Return the lines."""
    return last_lines(kept, runs, notes)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"result_lines": result_lines}
