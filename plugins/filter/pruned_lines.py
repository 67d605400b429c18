# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter pruned_lines: what was done about unused weights, for people."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pruned_lines
short_description: Tell which weights were removed and which were kept
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns what the script C(prune_models.py) of the role C(vllm) printed as pairs of label and text.
options:
  _input:
    description: The document that the script printed.
    type: dict
    required: true
  check:
    description: Whether nothing was removed, because this was check mode.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what was removed
  ansible.builtin.debug:
    msg: "{{ vllm_pruned | llmops.serving.pruned_lines }}"
"""

RETURN = r"""
_value:
  description: Texts by label, C(Removed), C(Kept) and C(Freed).
  type: dict
"""

import typing as t

from ansible_collections.llmops.serving.plugins.plugin_utils.report import pruned_lines


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"pruned_lines": pruned_lines}
