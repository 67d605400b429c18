# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Containers as the platform ``docker`` has them: as a file for ``docker compose``, and what was done to them.

A container is a dict of options of community.docker.docker_container, as the templates make it.
"""

from __future__ import annotations

import json
import re
import typing as t

import yaml
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

Container = t.Mapping[str, t.Any]

HEADER = """\
---
# Written by llmops.serving; `make install-chat` writes it anew, so changes made here are lost.
# The same containers for `docker compose`, in place of those that run: docker rm -f {names}; docker compose up -d
"""
# Options of docker_container, and what Compose calls those of the same meaning and form.
SAME = {
    "image": "image",
    "entrypoint": "entrypoint",
    "command": "command",
    "env": "environment",
    "labels": "labels",
    "init": "init",
    "user": "user",
    "read_only": "read_only",
    "cap_drop": "cap_drop",
    "security_opts": "security_opt",
    "healthcheck": "healthcheck",
    "restart_policy": "restart",
    "published_ports": "ports",
}
OTHERS = (
    "name", "device_requests", "ipc_mode", "shm_size", "cpus", "memory", "mounts", "network_mode", "networks", "stop_timeout", "log_driver",
    "log_options",
)  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([BKMGT]?)")


def compose(containers: t.Sequence[Container], network: t.Optional[str], after: t.Sequence[str] = (), own: bool = True) -> dict[str, t.Any]:
    """Return the document for Compose. Each container starts when the one before it is healthy, the first after those named in *after*.

    *network*: the one that all are in, None for the host's. *own*: whether this file is the one that makes it.
    """
    services = {}
    before = list(after)
    for container in containers:
        services[container["name"]] = _service(container, before)
        before = [container["name"]]
    document: dict[str, t.Any] = {"services": services}
    if network and own:
        document["networks"] = {network: {"name": network}}
    return document


def compose_text(containers: t.Sequence[Container], network: t.Optional[str], after: t.Sequence[str] = (), own: bool = True) -> str:
    """Return that document as text. A dollar sign stands for itself."""
    document = compose(containers, network, after, own)
    text = _yaml(document)
    return HEADER.format(names=" ".join(document["services"])) + text.replace("$", "$$")


def _yaml(value: t.Any) -> str:
    """Return *value* as YAML; Ansible's own kinds of texts become plain ones."""
    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, width=1000)


def _service(container: Container, after: t.Iterable[str]) -> dict[str, t.Any]:
    unknown = set(container) - set(SAME) - set(OTHERS)
    if unknown:
        raise ServingError(f"{container['name']}: no word of Compose is known for {', '.join(sorted(unknown))}.")
    service: dict[str, t.Any] = {"container_name": container["name"]}
    service.update({theirs: container[ours] for ours, theirs in SAME.items() if container.get(ours) not in (None, [], {})})
    waits = {name: {"condition": "service_healthy"} for name in after}
    if waits:
        service["depends_on"] = waits
    service["volumes"] = [
        {key: value for key, value in mount.items() if key in ("type", "source", "target", "read_only")} for mount in container["mounts"]
    ]
    if container["networks"]:
        # what Compose does not ask for is none at all
        service["networks"] = {network["name"]: {"aliases": network.get("aliases", [])} for network in container["networks"]}
    else:
        service["network_mode"] = container["network_mode"]
    if container["ipc_mode"] != "private":
        service["ipc"] = container["ipc_mode"]
    service["shm_size"] = _bytes(container["shm_size"])
    for ours, theirs in (("memory", "mem_limit"), ("cpus", "cpus")):
        if container[ours]:
            service[theirs] = _bytes(container[ours]) if ours == "memory" else container[ours]
    service["stop_grace_period"] = f"{container['stop_timeout']}s"
    service["logging"] = {"driver": container["log_driver"], "options": container["log_options"]}
    if container["device_requests"]:
        devices = [_device(request) for request in container["device_requests"]]
        service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    return service


def _device(request: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    which = {key: request[key] for key in ("count", "device_ids") if request.get(key)}
    return {"driver": request["driver"], **which, "capabilities": request["capabilities"][0]}


def _bytes(size: str) -> int:
    """Return a size as Docker takes it (``2G``, ``1024B``) in bytes."""
    found = _SIZE.fullmatch(str(size))
    if not found:
        raise ServingError(f"{size} is no size. Write it like 2G or 500M.")
    return int(float(found[1]) * 1024 ** "BKMGT".index(found[2] or "B"))


def applied(
    results: t.Sequence[t.Mapping[str, t.Any]], files: t.Mapping[str, t.Any], taken: t.Sequence[t.Mapping[str, t.Any]] = ()
) -> dict[str, t.Any]:
    """Return what was done, in the words of the modules that keep programs: ``changed``, ``programs`` with an ``action``, ``diff``.

    *results*: those of docker_container in a loop. *files*: the result of docker_files. *taken*: results of docker_container in a loop over
    the names of containers that are to be gone.
    """
    programs, diff = [], []
    for result in results:
        name = result[result["ansible_loop_var"]]["name"]
        before, after = (dict((result.get("diff") or {}).get(side) or {}) for side in ("before", "after"))
        programs.append({"name": name, "action": _action(bool(result.get("changed")), before)})
        texts = [_yaml(side) if side else "" for side in (before, after)]
        if result.get("changed") and before.get("exists") is not False:
            diff.append({"before": texts[0], "after": texts[1], "before_header": name, "after_header": name})
    programs += [{"name": result["item"], "action": "removed"} for result in taken if result.get("changed")]
    return {
        "changed": bool(files.get("changed")) or any(program["action"] != "none" for program in programs),
        "programs": programs,
        "diff": diff,
        "secrets_generated": files.get("secrets_generated", []),
        "secrets_changed": files.get("secrets_changed", []),
    }


def _action(changed: bool, before: t.Mapping[str, t.Any]) -> str:
    """Return what happened to a container, of which *before* has what was not as it should be."""
    if not changed:
        return "none"
    if before.get("exists") is False:
        return "added"
    return "started" if set(before) == {"running"} else "restarted"
