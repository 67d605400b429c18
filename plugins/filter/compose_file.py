# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter compose_file: containers as a file for docker compose."""

from __future__ import annotations

DOCUMENTATION = r"""
name: compose_file
short_description: Write containers as a file for docker compose
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns the text of a Compose file with the same containers, for those who rather use C(docker compose).
  - Each container waits until the one before it is healthy.
options:
  _input:
    description: The containers, each with options of M(community.docker.docker_container).
    type: list
    elements: dict
    required: true
  network:
    description: Name of the network that all are in. Without it, they are in the host's.
    type: str
  after:
    description: Containers of another file for which the first one waits.
    type: list
    elements: str
    default: []
  own:
    description: Whether this file makes the network. False where another file does that is read together with it.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Write the file
  ansible.builtin.copy:
    content: "{{ containers | llmops.serving.compose_file(network='chat') }}"
    dest: /srv/chat/compose.yaml
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The text of the file.
  type: str
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.plugin_utils.containers import compose_text


def compose_file(
    containers: t.Sequence[t.Mapping[str, t.Any]], network: t.Optional[str] = None, after: t.Sequence[str] = (), own: bool = True
) -> str:
    """Return the text of a Compose file with *containers*."""
    try:
        return compose_text(containers, network, after, own)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"compose_file": compose_file}
