# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The backends of a stack, vLLM and Ollama: how each is called in a namespace or on a host, and which of them was verified last.

At most one has a record of a plan: who is verified forgets the other's plan, so that "what was verified last" has one answer.
What the records know of weights stays, as the volumes do.
Partner: plugins/modules/backend_info.py.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _guard, _ollama, _ollama_on_host, _on_host, _plan, _routers
from ansible_collections.llmops.serving.plugins.module_utils._keepers import ProcessInfo
from ansible_collections.llmops.serving.plugins.module_utils._kube import Object
from ansible_collections.llmops.serving.plugins.module_utils._switch import Record

BACKENDS = (_guard.VLLM, _guard.OLLAMA)
API_KEY = "VLLM_API_KEY"
USUAL_WAIT_S = 1800
# The programs of each on a host; the last one is who is asked.
PROGRAMS = {_guard.VLLM: (_on_host.ENGINE, _on_host.ROUTER), _guard.OLLAMA: (_ollama_on_host.SERVER,)}
# A keeper that counts seconds calls a program running a little later than it answers.
UP = ("STARTING", "RUNNING")
USUAL_PORTS = {_on_host.ROUTER: _routers.PORT, _ollama_on_host.SERVER: _ollama.PORT}


def place(backend: str, stack: str, namespace: str) -> dict[str, t.Any]:
    """Return where *backend* of *stack* is: its owner and kinds, its Deployment, its Service and the name of its record."""
    owner = {"instance": stack, "component": backend}
    common = {"backend": backend, "title": _guard.TITLES[backend], "namespace": namespace, "owner": owner}
    if backend == _guard.VLLM:
        names = _plan.object_names(stack)
        service = {"namespace": namespace, "name": names["router"], "port": _routers.PORT}
        kinds, optional = _plan.KINDS, _plan.OPTIONAL_KINDS
    else:
        names = _ollama.object_names(stack)
        service = {"namespace": namespace, "name": names["engine"], "port": _ollama.PORT}
        kinds, optional = _ollama.KINDS, []
    return {
        **common,
        "deployment": names["engine"],
        "state": names["state"],
        "service": service,
        "kinds": list(kinds),
        "optional_kinds": list(optional),
    }


def told(where: t.Mapping[str, t.Any], record: Record, deployment: t.Optional[Object]) -> dict[str, t.Any]:
    """Return what is known of the backend at *where*: its *record*, and its live *deployment*, None where there is none."""
    last_good = None
    if record.is_good:
        last_good = {
            **{key: getattr(record, key) for key in ("model", "digest", "committed_at", "verify")},
            "manifests": list(record.manifests),
            "api_key_secret": api_key_secret(record.manifests, where),
            "wait_timeout": wait_s(record.manifests, where["deployment"]),
        }
    return {
        **where,
        "wants_pods": bool(deployment and _guard.wanted_replicas(deployment)),
        "serves": bool(((deployment or {}).get("status") or {}).get("readyReplicas")),
        "last_good": last_good,
        "weights": dict(record.weights),
    }


def api_key_secret(manifests: t.Iterable[Object], where: t.Mapping[str, t.Any]) -> t.Optional[dict[str, str]]:
    """Return the reference to the API key that the engines of *manifests* ask for, None where they ask for none."""
    for container in _containers(manifests, where["deployment"]):
        for variable in container.get("env") or []:
            reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if variable.get("name") == API_KEY and reference:
                return {"namespace": where["namespace"], "name": reference["name"], "key": reference["key"]}
    return None


def wait_s(manifests: t.Iterable[Object], deployment: str) -> int:
    """Return how many seconds the Deployment may take to come back."""
    found = _deployment(manifests, deployment)
    return int((found or {}).get("spec", {}).get("progressDeadlineSeconds") or USUAL_WAIT_S)


def _deployment(manifests: t.Iterable[Object], name: str) -> t.Optional[Object]:
    return next((m for m in manifests if m.get("kind") == "Deployment" and m["metadata"]["name"] == name), None)


def _containers(manifests: t.Iterable[Object], name: str) -> t.Iterator[Object]:
    found = _deployment(manifests, name)
    if found:
        yield from found["spec"]["template"]["spec"]["containers"]


# --- on a host -------------------------------------------------------------------------------------------------------------------------


def place_on_host(backend: str, stack: str, state_dir: str, suffix: str = "") -> dict[str, t.Any]:
    """Return where *backend* of *stack* is: its owner and its programs, whose names end with *suffix*."""
    programs = [name + suffix for name in PROGRAMS[backend]]
    owner = {"instance": stack, "component": backend}
    return {
        "backend": backend,
        "title": _guard.TITLES[backend],
        "state_dir": state_dir,
        "owner": owner,
        "programs": programs,
        "prefetch": f"{backend}-prefetch{suffix}",
    }


def told_on_host(
    where: t.Mapping[str, t.Any], record: Record, infos: t.Iterable[ProcessInfo], address: str, ports: t.Mapping[str, int]
) -> dict[str, t.Any]:
    """Return what is known of the backend at *where*: its *record*, and what a keeper says of its programs.

    *address* and *ports*, by program, are where the programs of this host are reached.
    """
    backend = where["backend"]
    states = {info.name: info.state for info in infos}
    asked = PROGRAMS[backend][-1]
    last_good = None
    if record.is_good:
        key = os.path.join(where["state_dir"], "secrets", backend, API_KEY)
        last_good = {
            **{name: getattr(record, name) for name in ("model", "digest", "committed_at", "verify")},
            "programs": list(record.manifests),
            "url": f"http://{address}:{ports.get(asked, USUAL_PORTS[asked])}",
            "api_key_file": key if os.path.exists(key) else None,
            "wait_timeout": USUAL_WAIT_S,
        }
    return {
        **where,
        "kept": [name for name in where["programs"] if name in states],
        "wants_pods": any(name in states for name in where["programs"]),
        "serves": all(states.get(name) in UP for name in where["programs"]),
        "last_good": last_good,
        "weights": dict(record.weights),
    }
