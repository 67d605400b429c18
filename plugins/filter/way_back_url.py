# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter way_back_url: where the programs answer that were verified last."""

from __future__ import annotations

DOCUMENTATION = r"""
name: way_back_url
short_description: Tell where programs of a host answer
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns the URL of the router, or that of the engine where the programs have no router.
options:
  _input:
    description: Programs or containers, as the templates of the role P(llmops.serving.vllm#role) make them.
    type: list
    elements: dict
    required: true
  router:
    description: Name of the router.
    type: str
    required: true
  router_url:
    description: Where the router answers.
    type: str
    required: true
  engine:
    description: Name of the engine.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: See whether what was verified last answers
  llmops.serving.router_wait:
    model: smoke
    url: "{{ switch.way_back | llmops.serving.way_back_url('vllm-router', 'http://127.0.0.1:8000', 'vllm-backend') }}"
    wait: false
"""

RETURN = r"""
_value:
  description: The URL.
  type: str
"""

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _router_hosts


def way_back_url(programs: t.Sequence[t.Mapping[str, t.Any]], router: str, router_url: str, engine: str) -> str:
    """Return where *programs* answer."""
    return _router_hosts.way_back_url(programs, router, router_url, engine)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"way_back_url": way_back_url}
