# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter router_hosts_missing: why a host may not go on without those that share its router."""

from __future__ import annotations

DOCUMENTATION = r"""
name: router_hosts_missing
short_description: Tell which hosts behind a router are not as far as this one
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns an empty text where all hosts behind a router are as far as this one, and what is in the way otherwise.
  - It is asked of each host at the same task, so those that are not as far have failed, or this run leaves them out.
options:
  _input:
    description: The part C(together) of the serving plan of this host.
    type: dict
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
  host:
    description: Name of this host.
    type: str
    required: true
  playing:
    description: The hosts of this run.
    type: list
    elements: str
    required: true
  stage:
    description: How far this host is. With V(agreed), the plans of all have to be for the same model.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse to go on without the others
  ansible.builtin.assert:
    that: missing | length == 0
    fail_msg: "{{ missing }}"
  vars:
    missing: >-
      {{ vllm_plan.together | llmops.serving.router_hosts_missing(hostvars, inventory_hostname, playing=ansible_play_hosts_all,
                                                                  stage='agreed') }}
"""

RETURN = r"""
_value:
  description: What is in the way; empty for nothing.
  type: str
"""

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._router_hosts import HostVars, missing


def router_hosts_missing(together: t.Mapping[str, t.Any], hostvars: HostVars, host: str, playing: t.Sequence[str], stage: str) -> str:
    """Return why *host* may not go on without the others, an empty text where all are as far."""
    return missing(hostvars, together, host, playing, stage)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"router_hosts_missing": router_hosts_missing}
