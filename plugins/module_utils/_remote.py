# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The serving plan for an endpoint that others serve: nothing is deployed, so there is little to decide.

It has the parts of the ordinary plan that those need who ask an endpoint, and those who point the page at it; and ``remote``, which the
ordinary plan has as None.
"""

from __future__ import annotations

import os
import typing as t
from urllib.parse import urlsplit

from ansible_collections.llmops.serving.plugins.module_utils import _connections, _routers
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

EXAMPLE = "https://vllm.example.com/v1"


def make_plan(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the plan for ``vllm_endpoint_url``; raise ServingError for a URL that the page cannot use."""
    # vLLM has its API at /v1; people write the URL with it and without
    base = _connections.base_url("vllm_endpoint_url", str(settings["vllm_endpoint_url"]), EXAMPLE).removesuffix("/v1").rstrip("/")
    platform, name, stack = settings["vllm_platform"], settings["vllm_model_name"], settings["vllm_stack_name"]
    if platform == "kubernetes" and _connections.is_loopback(base):
        raise ServingError(
            f"vllm_endpoint_url: {base} is this machine, which the pod of the page takes for itself. Give a name or an address that is "
            "reached from the cluster."
        )
    ca = os.path.expanduser(settings["vllm_endpoint_ca"] or "")
    if ca and not base.startswith("https:"):
        raise ServingError(f"vllm_endpoint_ca: {ca} with vllm_endpoint_url: {base}, which uses no TLS. Is it https?")
    return {
        "stack": stack,
        "platform": platform,
        "namespace": settings["vllm_namespace"],
        "state_dir": settings["vllm_state_dir"],
        "owner": {"instance": stack, "component": "vllm"},
        "images": [],
        "together": None,
        "remote": {"url": base, "ca": ca or None, "tool_calls": settings["vllm_endpoint_tool_calls"]},
        "model": {"name": name, "alias": None, "source": base, "license": None},
        "verify": {
            "enabled": True,
            "request": {
                "model": name,
                "aliases": [],
                "tool_calls": settings["vllm_endpoint_tool_calls"],
                "reasoning": False,
                "max_model_len": None,
            },
        },
        # as serving_facts would find it, were it ours
        "deployment": {"model": name, "stack": stack, "platform": "remote", "node": urlsplit(base).netloc},
        "endpoint": {
            "url": f"{base}/v1",
            "session_url": f"{base}/v1",
            "session_header": _routers.SESSION_HEADER,
            "router_url": base,
            "model": name,
            "alias": None,
            "api_key_secret": None,
            # the key is a secret of whoever uses it, not of whoever serves
            "own_key": settings["vllm_endpoint_has_key"],
            "remote": True,
        },
    }
