# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter known_names: refuse variables that nothing reads."""

from __future__ import annotations

DOCUMENTATION = r"""
name: known_names
short_description: Refuse variable names that nothing reads
version_added: "0.1.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns its input, unless one of the names is unknown. Then it fails and says which name was probably meant.
options:
  _input:
    description: Names of variables that are set.
    type: list
    elements: str
    required: true
  known:
    description: Names that are read.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Find typing errors in the inventory
  ansible.builtin.assert:
    that: query('ansible.builtin.varnames', '^vllm_') | llmops.serving.known_names(known=options | list)
"""

RETURN = r"""
_value:
  description: The input.
  type: list
  elements: str
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._plan import unknown_names


def known_names(names: t.Sequence[str], known: t.Sequence[str]) -> list[str]:
    """Return *names* when all of them are *known*."""
    try:
        unknown_names(names, known)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc
    return list(names)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"known_names": known_names}
