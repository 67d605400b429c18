# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter docker_applied: what was done to containers."""

from __future__ import annotations

DOCUMENTATION = r"""
name: docker_applied
short_description: Tell what was done to containers
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns what a loop of M(community.docker.docker_container) has done, as M(llmops.serving.supervisor_apply) returns it.
options:
  _input:
    description: The registered result of the loop, over containers with a C(name), with C(debug=true).
    type: dict
    required: true
  files:
    description: Result of M(llmops.serving.docker_files).
    type: dict
    default: {}
  taken:
    description: The registered result of a loop over names of containers that were taken away.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Say which containers were made anew
  ansible.builtin.debug:
    msg: "{{ (containers | llmops.serving.docker_applied).programs }}"
"""

RETURN = r"""
_value:
  description:
    - "C(changed), C(programs) (C(name), and C(action): V(none), V(added), V(started), V(restarted), V(removed)), C(diff),
      C(secrets_generated), C(secrets_changed)."
  type: dict
"""

import typing as t

from ansible_collections.llmops.serving.plugins.plugin_utils.containers import applied


def docker_applied(
    looped: t.Mapping[str, t.Any], files: t.Optional[t.Mapping[str, t.Any]] = None, taken: t.Optional[t.Mapping[str, t.Any]] = None
) -> dict[str, t.Any]:
    """Return what was done, from the results of the loops and that of docker_files."""
    return applied(looped.get("results") or [], files or {}, (taken or {}).get("results") or [])


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"docker_applied": docker_applied}
