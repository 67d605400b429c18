# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter page_connections: the endpoints that the chat page speaks to."""

from __future__ import annotations

DOCUMENTATION = r"""
name: page_connections
short_description: List the endpoints that the chat page speaks to
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - The private model comes first, and a provider behind it where one is set.
  - Keys are references to secrets, never their values.
options:
  _input:
    description: What the role P(llmops.serving.vllm#role) hands on in C(vllm_endpoint). Empty where it is not known yet.
    type: dict
    required: true
  own_secret:
    description: The secret of the page itself, a reference that lacks the key.
    type: dict
    required: true
  fallback:
    description: The provider, with C(url), C(models), C(label) and C(has_key). Without a URL, there is none.
    type: dict
"""

EXAMPLES = r"""
- name: Show where chats go
  ansible.builtin.debug:
    msg: "{{ vllm_endpoint | llmops.serving.page_connections(own_secret={'name': 'open-webui'}) | map(attribute='url') }}"
"""

RETURN = r"""
_value:
  description: The connections in their order.
  type: list
  elements: dict
  contains:
    url:
      description: Base of the API.
      type: str
      sample: http://vllm-router.chatbot:8000/v1
    key:
      description: Reference to the API key, in the words of the platform. Null for none.
      type: dict
      sample:
        name: vllm-secrets
        key: VLLM_API_KEY
    models:
      description: Names of the models that are shown.
      type: list
      elements: str
      sample: [gpt-oss-120b]
    headers:
      description: Headers of each request.
      type: dict
      sample:
        X-Session-ID: "{{CHAT_ID}}"
    tags:
      description: Tags of the models.
      type: list
      elements: str
      sample: []
    prefix:
      description: What stands before the names of the models, with a dot.
      type: str
      sample: ""
    private:
      description: Whether it is the endpoint of the inventory, not a provider's.
      type: bool
      sample: true
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils._connections import connections
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError


def page_connections(
    endpoint: t.Mapping[str, t.Any], own_secret: t.Mapping[str, t.Any], fallback: t.Optional[t.Mapping[str, t.Any]] = None
) -> list[dict[str, t.Any]]:
    """Return the connections; the reason as AnsibleFilterError where there can be none."""
    try:
        return connections(endpoint, own_secret, fallback)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"page_connections": page_connections}
