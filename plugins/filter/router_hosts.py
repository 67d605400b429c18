# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter router_hosts: who shares a router with a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: router_hosts
short_description: Find the hosts that share a router
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns which hosts of an inventory have the same C(vllm_router_host) as one of them, and where their engines listen.
  - Fails where the inventory contradicts itself.
options:
  _input:
    description: The variables of all hosts, C(hostvars).
    type: dict
    required: true
  host:
    description: Name of the host. It may stand without its name, as the first argument.
    type: str
    required: true
  among:
    description: All hosts that the play is for, those that C(--limit) leaves out as well.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Tell who shares a router with this host
  ansible.builtin.debug:
    msg: "{{ (hostvars | llmops.serving.router_hosts(inventory_hostname, among=groups.llm)).hosts }}"
"""

RETURN = r"""
_value:
  description:
    - C(me), C(router), C(hosts), and C(engines), each with C(asked), C(address) and C(port). Null for a host with a router of its own.
    - C(address) and C(port) are those that M(llmops.serving.host_check) has found in this run, or those that the inventory asks for.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._router_hosts import HostVars, find


def router_hosts(hostvars: HostVars, host: str, among: t.Sequence[str]) -> t.Optional[dict[str, t.Any]]:
    """Return who shares the router of *host*; the reason as AnsibleFilterError where the inventory contradicts itself."""
    try:
        return find(hostvars, host, among)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"router_hosts": router_hosts}
