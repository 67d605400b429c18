# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter mirror_lines: what a site without the internet has to hold, for people."""

from __future__ import annotations

DOCUMENTATION = r"""
name: mirror_lines
short_description: Write the list of images and weights as text
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns what P(llmops.serving.mirror_list#filter) made as lines of text.
options:
  _input:
    description: The list.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what has to be copied
  ansible.builtin.debug:
    msg: "{{ listed | llmops.serving.mirror_lines }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._mirror import mirror_lines


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"mirror_lines": mirror_lines}
