# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The part of Ollama's plan that is for the platform ``docker``: a container of one host, in the network of the stack.

Memory and disk are in MiB. What all containers of a stack have is that of _on_docker.
"""

from __future__ import annotations

import math
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _ollama_on_host, _on_docker, _on_host, _processes
from ansible_collections.llmops.serving.plugins.module_utils._docker import SCRIPTS

Settings = t.Mapping[str, t.Any]
Row = t.Mapping[str, t.Any]

PLATFORM = _on_docker.PLATFORM
DATA = "/data"
# What the image takes on disk once it is unpacked (an estimate).
IMAGE_MIB = 9000
LABELS = _on_docker.LABELS

# Variables of the cluster that mean something here, too, and those that are for this platform only.
SHARED = (
    "ollama_image",
    "ollama_image_pull_policy",
    "ollama_cpu_limit",
    "ollama_memory_limit",
    "ollama_run_as_user",
)
ELSEWHERE = (*(name for name in _ollama_on_host.KUBERNETES_ONLY if name not in SHARED), *_ollama_on_host.PROGRAM_ONLY)
ONLY = ("ollama_docker_host", "ollama_docker_host_network", "ollama_bind_address")


def check(settings: Settings, options: t.Optional[t.Mapping[str, t.Any]]) -> None:
    """Raise ServingError for what the platform does not have."""
    _ollama_on_host.refuse(settings, options, ELSEWHERE, "other platforms than docker")
    _on_docker.check_place(settings["ollama_docker_host"], settings["ollama_bind_address"])
    _ollama_on_host.check_choices(settings)


def listens_at(settings: Settings, port: int) -> str:
    """Return on which address and port the server listens, as its container sees it."""
    if settings["ollama_docker_host_network"]:
        return f"{settings['ollama_bind_address']}:{port}"
    return f"0.0.0.0:{_ollama_on_host.PORT}"


def make(
    settings: Settings,
    row: Row,
    name: str,
    gpu_count: int,
    env: dict[str, str],
    found: t.Optional[t.Mapping[str, t.Any]],
    image: str,
    alias: t.Optional[str],
) -> dict[str, t.Any]:
    """Return what the plan holds for this platform only; see docs/architecture.md.

    *env*: the server's environment, as _ollama.environment returns it. *found*: what host_check returned, None when nobody has looked.
    """
    stack, state_dir, user = settings["ollama_stack_name"], str(settings["ollama_state_dir"]), settings["ollama_run_as_user"]
    host_network = settings["ollama_docker_host_network"]
    network = None if host_network else _on_docker.names(stack).network
    server, prefetch = (_on_docker.name_of(stack, each) for each in (_ollama_on_host.SERVER, _ollama_on_host.PREFETCH))
    data, port = f"{state_dir}/{_on_docker.DATA}/ollama", _ollama_on_host.port(settings, found)
    outside = f"http://{_on_docker.reached_at(settings['ollama_bind_address'])}:{port}"
    inside = outside if host_network else f"http://{server}:{_ollama_on_host.PORT}"
    manifest = _ollama_on_host.manifest_path(data, name)
    common = {
        "image": image,
        "command": ["ollama", "serve"],
        "networks": [] if host_network else [{"name": network}],
        "user": f"{user}:{user}",
        "mounts": [_on_docker.bind(data, DATA), _on_docker.scripts_mount(state_dir)],
        "published_ports": [] if host_network else [f"{settings['ollama_bind_address']}:{port}:{_ollama_on_host.PORT}"],
    }
    env = {**env, _processes.MARK: state_dir}
    return {
        "state_dir": state_dir,
        "log_dir": f"{state_dir}/{_on_docker.LOGS}",
        "data_dir": data,
        "docker_host": settings["ollama_docker_host"],
        "network": network,
        "network_mode": "host" if host_network else network,
        "labels": {f"{LABELS}/stack": stack, f"{LABELS}/component": "ollama"},
        # it is the stack's, and the role vllm would make it just so
        "network_labels": {f"{LABELS}/stack": stack, f"{LABELS}/component": "vllm"},
        "image_check": {"wanted": [{"name": image, "mib": IMAGE_MIB}], "pull": settings["ollama_image_pull_policy"]},
        "supervised": {
            "by": PLATFORM,
            "docker_host": settings["ollama_docker_host"],
            "state_dir": state_dir,
            "programs": [server],
        },
        "address": _on_docker.reached_at(settings["ollama_bind_address"]),
        "folders": {data: user},
        "scripts": {f"{SCRIPTS}/{_on_docker.LAUNCHER}": _on_docker.LAUNCHER},
        # it has no secrets, and a folder for them, by which others know that it is there
        "secret_containers": [{"name": server, "user": user, "variables": {}}],
        "engine": {
            **common,
            "name": server,
            "entrypoint": _on_docker.launched(server),
            "env": env,
            "port": port,
            "gpu_count": gpu_count,
            "device_requests": _on_docker.device_requests(settings["ollama_gpu_ids"], gpu_count),
            "cpus": _on_docker.cpus(settings["ollama_cpu_limit"]),
            "memory": _on_docker.size(settings["ollama_memory_limit"]),
            "stop_s": 30,
        },
        "ready_url": f"{outside}/api/version",
        "prefetch": {
            **common,
            "owner": {"instance": stack, "component": _ollama_on_host.PREFETCH},
            "name": prefetch,
            "entrypoint": _on_docker.launched(prefetch),
            "env": {key: value for key, value in env.items() if not key.startswith("OLLAMA_KV")},
            "templates": ["docker/prefetch-container.yaml.j2"],
        },
        "manifest_path": manifest,
        "host": {
            "title": f"{name} on this host",
            "systemd": False,
            "state_dir_mode": "0700",
            "find": [manifest],
            "python_versions": [],
            "memory_mib": _ollama_on_host.memory_mib(settings, row),
            "disk": [
                {"paths": [manifest], "mib": math.ceil(float(row.get("weights_gib") or 0) * 1024)},
                {"paths": [f"{state_dir}/{_on_docker.LOGS}"], "mib": _on_host.LOG_MIB},
            ],
            "ports": [_ollama_on_host.port_request(settings)],
            "containers": [server],
            "gpus": gpu_count > 0,
        },
        "templates": ["docker/container.yaml.j2"],
        "endpoint": _ollama_on_host.endpoint(outside, inside, name, alias),
    }
