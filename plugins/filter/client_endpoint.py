# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter client_endpoint: what clients have to know of what a serving plan serves."""

from __future__ import annotations

DOCUMENTATION = r"""
name: client_endpoint
short_description: Describe an endpoint for its clients
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns the description of an endpoint that O(llmops.serving.client_config#module:endpoint) takes, made from a serving plan.
  - On Kubernetes clients reach the router by a port-forward to C(localhost:8000).
options:
  _input:
    description: The serving plan, as P(llmops.serving.serving_plan#filter) makes it.
    type: dict
    required: true
  kubeconfig:
    description: Path of the kubeconfig that the commands for clients name. Without it, they name none.
    type: str
  context:
    description: Context of the kubeconfig that the commands for clients name. Without it, they name none.
    type: str
  ssh:
    description: How people log in to the machine that serves, C(user@host). An empty text for the machine that they are on.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Write settings for the clients of a deployment
  llmops.serving.client_config:
    endpoint: "{{ vllm_plan | llmops.serving.client_endpoint(ssh='ops@gpu-a') }}"
    folder: client-config
"""

RETURN = r"""
_value:
  description: The description; its keys are those of O(llmops.serving.client_config#module:endpoint).
  type: dict
  sample:
    name: chat
    provider: vllm
    url: http://localhost:8000/v1
    inside_url: http://vllm-router.chatbot:8000/v1
    reached_by: kubectl -n chatbot port-forward service/vllm-router 8000:8000
    model: gpt-oss-120b
    aliases: [chat]
    max_model_len: 131072
    tool_calls: true
    tool_call_parser: openai
    reasoning: true
    session_header: X-Session-ID
    key:
      command: "kubectl -n chatbot get secret vllm-secrets -o jsonpath='{.data.VLLM_API_KEY}' | base64 -d"
      path: null
      secret: {namespace: chatbot, name: vllm-secrets, key: VLLM_API_KEY}
"""

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._clients import of_plan


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"client_endpoint": of_plan}
