# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter serving_plan: the role's variables become one dict of decisions."""

from __future__ import annotations

DOCUMENTATION = r"""
name: serving_plan
short_description: Make the serving plan from the role's variables
version_added: "0.1.0"
author: The llmops.serving authors (@llmops)
description:
  - Merges the catalog's row with the user's overrides, checks everything that can be checked without asking a machine, fills every default
    and lists the engine's and the router's arguments.
  - The plan holds references to secrets, never their values.
options:
  _input:
    description: The variables of the role P(llmops.serving.vllm#role) by name, without its secrets.
    type: dict
    required: true
  catalog:
    description: The model table, rows by name.
    type: dict
    required: true
  gpus:
    description:
      - GPUs on which the engine may land, as RV(llmops.serving.gpu_memory_check#module:eligible).
      - Without them, nothing is decided that depends on a GPU's kind.
    type: list
    elements: dict
  host:
    description:
      - What M(llmops.serving.host_check) found on the machine (ports, Python), for the platform V(local).
      - Without it, the usual ports are taken.
    type: dict
  options:
    description:
      - Options of the role's argument specification.
      - With them, variables that the platform cannot honour are refused when they are not at their defaults.
    type: dict
  facts:
    description:
      - Facts of the model as RV(llmops.serving.model_info#module:row), for a model that the catalog lacks.
      - Keys of the user's own row win over them.
    type: dict
    version_added: "0.2.0"
"""

EXAMPLES = r"""
- name: Show the engine's arguments
  ansible.builtin.debug:
    msg: "{{ (vllm_settings | llmops.serving.serving_plan(catalog=vllm_models)).engine.args }}"
"""

RETURN = r"""
_value:
  description: The plan; C(docs/architecture.md) lists its parts.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._plan import make_plan


def serving_plan(
    settings: t.Mapping[str, t.Any],
    catalog: t.Mapping[str, t.Any],
    gpus: t.Optional[t.Sequence[t.Mapping[str, t.Any]]] = None,
    host: t.Optional[t.Mapping[str, t.Any]] = None,
    options: t.Optional[t.Mapping[str, t.Any]] = None,
    facts: t.Optional[t.Mapping[str, t.Any]] = None,
) -> dict[str, t.Any]:
    """Return the plan for the role variables *settings*; the reason as AnsibleFilterError where there can be none."""
    try:
        return make_plan(settings, catalog, gpus, host, options, facts)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"serving_plan": serving_plan}
