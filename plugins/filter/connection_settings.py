# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter connection_settings: how the chat page is told of its connections."""

from __future__ import annotations

DOCUMENTATION = r"""
name: connection_settings
short_description: Tell the chat page of its connections
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns the environment of Open WebUI 0.12 that belongs to its connections, and references to the keys, as the platforms take them.
options:
  _input:
    description: The connections, as P(llmops.serving.page_connections#filter) returns them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the environment
  ansible.builtin.debug:
    msg: >-
      {{ (vllm_endpoint | llmops.serving.page_connections(own_secret={'name': 'open-webui'})
          | llmops.serving.connection_settings).environment }}
"""

RETURN = r"""
_value:
  description: What the page is told.
  type: dict
  contains:
    environment:
      description: Plain variables.
      type: dict
      sample:
        OPENAI_API_BASE_URLS: http://vllm-router.chatbot:8000/v1
        OPENAI_API_CONFIGS: '{"0": {"model_ids": ["gpt-oss-120b"]}}'
    keys:
      description: References to the keys, in the order of the connections, null for one without. Empty where none has a key.
      type: list
      elements: dict
      sample:
        - name: vllm-secrets
          key: VLLM_API_KEY
    secret_environment:
      description: The keys as M(llmops.serving.supervisor_apply) has them in C(secret_environment).
      type: dict
      sample:
        OPENAI_API_KEYS: vllm/VLLM_API_KEY
    container_env:
      description: The keys as entries of C(env) of a container of Kubernetes.
      type: list
      elements: dict
      sample:
        - name: OPENAI_API_KEYS
          valueFrom:
            secretKeyRef:
              name: vllm-secrets
              key: VLLM_API_KEY
"""

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._connections import settings


def connection_settings(connections: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """Return what the page is told of *connections*."""
    return settings(connections)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"connection_settings": connection_settings}
