# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter plan_lines: the report of what an installation would do, for people."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_lines
short_description: Write the report of an installation as text
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns what P(llmops.serving.plan_report#filter) made as lines of text, a label before each.
options:
  _input:
    description: The report.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what would happen
  ansible.builtin.debug:
    msg: "{{ report | llmops.serving.plan_lines }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.llmops.serving.plugins.plugin_utils.report import lines


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"plan_lines": lines}
