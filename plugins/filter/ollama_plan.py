# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter ollama_plan: the variables of the role ollama become one dict of decisions."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ollama_plan
short_description: Make the serving plan of the backend Ollama
version_added: "0.3.0"
author: The llmops.serving authors (@llmops)
description:
  - Does for the role P(llmops.serving.ollama#role) what P(llmops.serving.serving_plan#filter) does for P(llmops.serving.vllm#role).
options:
  _input:
    description: The variables of the role by name.
    type: dict
    required: true
  catalog:
    description: The model table, rows by Ollama's name of the model.
    type: dict
    required: true
  host:
    description:
      - What M(llmops.serving.host_check) found on the machine (ports, its kind), on other platforms than V(kubernetes).
      - Without it, the usual port is taken.
    type: dict
  options:
    description:
      - Options of the role's argument specification.
      - With them, variables that the platform cannot honour are refused when they are not at their defaults.
    type: dict
"""

EXAMPLES = r"""
- name: Show the server's environment
  ansible.builtin.debug:
    msg: "{{ (ollama_settings | llmops.serving.ollama_plan(catalog=ollama_models)).engine.env }}"
"""

RETURN = r"""
_value:
  description: The plan; its parts are those of C(docs/architecture.md), as far as Ollama has them.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._ollama import make_plan


def ollama_plan(
    settings: t.Mapping[str, t.Any],
    catalog: t.Mapping[str, t.Any],
    host: t.Optional[t.Mapping[str, t.Any]] = None,
    options: t.Optional[t.Mapping[str, t.Any]] = None,
) -> dict[str, t.Any]:
    """Return the plan for the role variables *settings*; the reason as AnsibleFilterError where there can be none."""
    try:
        return make_plan(settings, catalog, host, options)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"ollama_plan": ollama_plan}
