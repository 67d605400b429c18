# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter plan_report: what an installation would do."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_report
short_description: Tell what an installation would do
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Makes the report of C(make plan) from the serving plan and from what the modules returned in check mode.
options:
  _input:
    description: The serving plan.
    type: dict
    required: true
  gpus:
    description: Result of M(llmops.serving.gpu_memory_check).
    type: dict
    default: {}
  guard:
    description: Result of M(llmops.serving.gpu_runtime_guard).
    type: dict
    default: {}
  fit:
    description: Result of M(llmops.serving.model_fit).
    type: dict
    default: {}
  switch:
    description: Result of M(llmops.serving.switch_plan).
    type: dict
    default: {}
  applied:
    description:
      - Results of M(llmops.serving.kubernetes_apply) or M(llmops.serving.supervisor_apply) in check mode, as C(vllm) and C(open-webui),
        and of M(llmops.serving.python_environment), as C(installed) and C(page_installed).
    type: dict
    default: {}
  weights_there:
    description: Whether the weights are known to be there already.
    type: bool
    default: false
  endpoint:
    description: Where others serve, C(summary) and C(refusal) of what asked their endpoint.
    type: dict
  idle:
    description: The model of engines of our own that run beside such an endpoint; empty for none.
    type: str
    default: ""
  notes:
    description: What else a person should know, as of images that are not pinned.
    type: list
    elements: str
    default: []
    version_added: "0.2.0"
"""

EXAMPLES = r"""
- name: Say which pods would be made anew
  ansible.builtin.debug:
    msg: "{{ (vllm_plan | llmops.serving.plan_report(applied={'vllm': result})).restarts }}"
"""

RETURN = r"""
_value:
  description:
    - "The report: C(model), C(gpus), C(fit), C(download_gib), C(install_mib), C(changes), C(restarts), C(stops), C(switch), C(gap),
      C(unused_weights), C(deletes), C(warnings), C(refusals), C(changed)."
  type: dict
"""

import typing as t

from ansible_collections.llmops.serving.plugins.plugin_utils.report import make_report


def plan_report(
    plan: t.Mapping[str, t.Any],
    gpus: t.Optional[t.Mapping[str, t.Any]] = None,
    guard: t.Optional[t.Mapping[str, t.Any]] = None,
    fit: t.Optional[t.Mapping[str, t.Any]] = None,
    switch: t.Optional[t.Mapping[str, t.Any]] = None,
    applied: t.Optional[t.Mapping[str, t.Mapping[str, t.Any]]] = None,
    weights_there: bool = False,
    endpoint: t.Optional[t.Mapping[str, t.Any]] = None,
    idle: str = "",
    notes: t.Sequence[str] = (),
) -> dict[str, t.Any]:
    """Return what an installation would do."""
    return make_report(plan, gpus or {}, guard or {}, fit or {}, switch or {}, applied or {}, weights_there, endpoint, idle, notes)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"plan_report": plan_report}
