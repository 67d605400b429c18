# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The part of Ollama's plan that is for programs of a host: ``local``, kept by supervisord, and ``systemd``, kept by its units.

The program comes from the archive of Ollama's release (https://docs.ollama.com/linux). Memory and disk are in MiB.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _on_host, _routers
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._stack import stack_suffix

Settings = t.Mapping[str, t.Any]
Row = t.Mapping[str, t.Any]

PLATFORMS = _on_host.PLATFORMS
SERVER, PREFETCH = "ollama", "ollama-prefetch"
ACCELERATORS = ("nvidia", "cpu")
PORT = 11434

# The release's archives by what `uname -m` says; bin/ollama and lib/ollama are in them, for GPUs of NVIDIA and for CPUs.
RELEASES = "https://github.com/ollama/ollama/releases/download"
ARCHIVES = {"x86_64": "ollama-linux-amd64.tar.zst", "aarch64": "ollama-linux-arm64.tar.zst"}
SUMS = "sha256sum.txt"
# What tar calls to read an archive with this ending.
UNPACKERS = {".zst": "zstd", ".tzst": "zstd", ".gz": "gzip", ".tgz": "gzip"}
# The archive, and with it what is in it (estimates).
ARCHIVE_MIB, PROGRAM_MIB = 2000, 9000
# What says that an archive was unpacked wholly.
MARKER = ".llmops-serving.json"
# What the server holds beside weights and context (an estimate); on a GPU nearly all of it.
SERVER_MIB = 1000
GPU_SERVER_MIB = 2500
PROXIES = re.compile(r"(https?|all|no)_proxy", re.IGNORECASE)
CHECKSUM = re.compile(r"sha256:([0-9a-f]{64}|https?://\S+|file://\S+)")

# Variables that say something about a cluster only. Where one is set, somebody expects what will not happen.
KUBERNETES_ONLY = (
    "ollama_kubeconfig",
    "ollama_kube_context",
    "ollama_image",
    "ollama_image_pull_policy",
    "ollama_image_pull_secrets",
    "ollama_cpu_request",
    "ollama_cpu_limit",
    "ollama_memory_request",
    "ollama_memory_limit",
    "ollama_node_selector",
    "ollama_tolerations",
    "ollama_run_as_user",
    "ollama_runtime_class",
    "ollama_priority_class",
    "ollama_storage_size",
    "ollama_storage_class",
    "ollama_storage_access_mode",
    "ollama_storage_existing_claim",
    "ollama_volume_permissions",
)
# Those that only programs of a host have, and those that a container has, too.
PROGRAM_ONLY = ("ollama_archive", "ollama_archive_checksum")
HOST_ONLY = ("ollama_port", "ollama_gpu_ids")


def check(settings: Settings, options: t.Optional[t.Mapping[str, t.Any]]) -> None:
    """Raise ServingError for what the platform does not have."""
    platform = settings["ollama_platform"]
    for name in _on_host.set_among(KUBERNETES_ONLY, settings, options):
        raise ServingError(
            f"{name}: the platform {platform} has nothing that this could set; it is for Kubernetes. Remove it from the inventory."
        )
    check_choices(settings)
    checksum = str(settings["ollama_archive_checksum"] or "")
    if checksum and not CHECKSUM.fullmatch(checksum):
        raise ServingError(
            f'ollama_archive_checksum: "{checksum}" is none. Give sha256: and 64 hexadecimal digits, or sha256: and a URL of sums.'
        )


def check_choices(settings: Settings) -> None:
    """Raise ServingError for what no host has, and for GPUs that contradict each other."""
    accelerator, ids = settings["ollama_accelerator"], settings["ollama_gpu_ids"]
    if accelerator not in ACCELERATORS:
        raise ServingError(
            f"ollama_accelerator: {accelerator} is not there yet on the platform {settings['ollama_platform']}. It may be "
            f"{' or '.join(ACCELERATORS)}."
        )
    if ids and accelerator == "cpu":
        raise ServingError(f"ollama_gpu_ids: {ids} with ollama_accelerator: cpu. Remove one of the two.")
    if len(set(map(str, ids))) < len(ids):
        raise ServingError(f"ollama_gpu_ids: {ids} names a GPU twice. Name each once.")
    if ids and settings["ollama_gpu_count"] and len(ids) != settings["ollama_gpu_count"]:
        raise ServingError(
            f"ollama_gpu_ids names {len(ids)} GPUs, ollama_gpu_count is {settings['ollama_gpu_count']}. Remove one of the two."
        )


def refuse(settings: Settings, options: t.Optional[t.Mapping[str, t.Any]], variables: t.Sequence[str], where: str) -> None:
    """Raise ServingError for one of *variables* that a platform was given which is not *where*."""
    for name in _on_host.set_among(variables, settings, options):
        raise ServingError(f"{name}: it is for {where} only. Remove it, or choose another llm_platform.")


def port(settings: Settings, found: t.Optional[t.Mapping[str, t.Any]]) -> int:
    """Return the port: as host_check has found it or, before it has looked, the one that is wanted or usual."""
    return int((found or {}).get("ports", {}).get(SERVER) or settings["ollama_port"] or PORT)


def port_request(settings: Settings) -> dict[str, t.Any]:
    """Return the port of the host to reserve, as host_check takes it."""
    return {"name": SERVER, "usual": PORT, "port": settings["ollama_port"], "variable": "ollama_port"}


def data_dir(settings: Settings) -> str:
    """Return the folder of models, beside that of vLLM's weights."""
    state_dir = str(settings["ollama_state_dir"])
    return f"{state_dir}/ollama" if settings["ollama_platform"] == "local" else f"{state_dir}/data/ollama"


def manifest_path(data: str, model: str) -> str:
    """Return where Ollama notes that it has all of *model* ([HOST/][NAMESPACE/]NAME:TAG)."""
    name, _colon, tag = model.rpartition(":")
    parts = name.split("/")
    return "/".join([data, "models", "manifests", *["registry.ollama.ai", "library"][: 3 - len(parts)], *parts, tag])


def archive(settings: Settings, version: str, machine: str) -> dict[str, t.Any]:
    """Return the archive for a *machine*, as get_url takes it, and what unpacks it."""
    given = str(settings["ollama_archive"] or "")
    release = f"{RELEASES}/v{version}"
    name = ARCHIVES.get(machine, ARCHIVES["x86_64"])
    url = given or f"{release}/{name}"
    checksum = str(settings["ollama_archive_checksum"] or ("" if given else f"sha256:{release}/{SUMS}"))
    unpacker = next((program for ending, program in UNPACKERS.items() if url.endswith(ending)), None)
    return {
        "url": f"file://{url}" if url.startswith("/") else url,
        "checksum": checksum,
        "commands": ["tar", *([unpacker] if unpacker else [])],
        "environment": {key: str(value) for key, value in settings["ollama_extra_env"].items() if PROXIES.fullmatch(str(key))},
    }


def make(
    settings: Settings,
    row: Row,
    name: str,
    gpu_count: int,
    env: dict[str, str],
    found: t.Optional[t.Mapping[str, t.Any]],
    version: str,
    alias: t.Optional[str],
) -> dict[str, t.Any]:
    """Return what the plan holds for this platform only; see docs/architecture.md.

    *env*: the server's environment, as _ollama.environment returns it. *found*: what host_check returned, None when nobody has looked.
    """
    platform, state_dir, stack = settings["ollama_platform"], str(settings["ollama_state_dir"]), settings["ollama_stack_name"]
    data, listens = data_dir(settings), port(settings, found)
    source = archive(settings, version, (found or {}).get("machine", "x86_64"))
    digest = hashlib.sha256(f"{source['url']} {source['checksum']}".encode()).hexdigest()[:8]
    folder = f"{state_dir}/programs/ollama-{'' if settings['ollama_archive'] else f'{version}-'}{digest}"
    program = f"{folder}/bin/ollama"
    user = settings["ollama_host_user"] if platform == "systemd" else None
    suffix = "" if platform == "local" else stack_suffix(stack)
    url = f"http://{_on_host.LOOPBACK}:{listens}"
    environments = [_supervisor(settings)] if platform == "local" else []
    ids = [str(number) for number in settings["ollama_gpu_ids"]]
    manifest = manifest_path(data, name)
    installed = [f"{folder}/{MARKER}", program]
    return {
        "state_dir": state_dir,
        "log_dir": f"{state_dir}/logs",
        "data_dir": data,
        # units of vLLM and of Ollama have one user, whose folder that above is
        "data_root": os.path.dirname(data) if platform == "systemd" else data,
        "user": user,
        "suffix": suffix,
        "environments": environments,
        "supervisord": f"{environments[0]['path']}/bin/supervisord" if environments else None,
        "supervised": {
            "by": "supervisord" if platform == "local" else platform,
            "state_dir": state_dir,
            "programs": [SERVER],
            "suffix": suffix,
        },
        "program": {
            "title": f"Ollama {version}" if not settings["ollama_archive"] else "Ollama",
            "path": folder,
            "command": program,
            "installed": installed,
            "download_mib": ARCHIVE_MIB,
            "download": f"{folder}.archive",
            "archive": source,
        },
        "engine": {
            "name": SERVER,
            "command": [program, "serve"],
            "env": {**env, **_gpu_selection(ids)},
            "port": listens,
            "ready_url": f"{url}/api/version",
            "gpu_count": gpu_count,
            "writable": [data],
            # as supervisord and systemd count it: who ends sooner did not start
            "start_s": 5,
            "stop_s": 30,
        },
        "prefetch": {
            "owner": {"instance": stack, "component": PREFETCH},
            "name": PREFETCH,
            # it pulls only, and leaves the GPUs to who serves
            "env": {**{key: value for key, value in env.items() if not key.startswith("OLLAMA_KV")}, "CUDA_VISIBLE_DEVICES": "-1"},
            "templates": ["host/prefetch-program.yaml.j2"],
        },
        "manifest_path": manifest,
        "host": {
            "title": f"{name} on this machine",
            "systemd": platform == "systemd",
            "state_dir_mode": "0700" if platform == "local" else "0755",
            "find": [*installed, manifest],
            "python_versions": _on_host.PYTHON_VERSIONS if environments else [],
            "memory_mib": memory_mib(settings, row),
            "disk": [
                *({"paths": _environment_files(each), "mib": _on_host.SUPERVISOR_ENVIRONMENT.disk_mib} for each in environments),
                {"paths": installed, "mib": PROGRAM_MIB, "commands": source["commands"]},
                {"paths": [manifest], "mib": math.ceil(float(row.get("weights_gib") or 0) * 1024)},
                {"paths": [f"{state_dir}/logs"], "mib": _on_host.LOG_MIB},
            ],
            "ports": [port_request(settings)],
        },
        "templates": ["host/program.yaml.j2"],
        "endpoint": endpoint(url, url, name, alias),
    }


def endpoint(url: str, inside: str, name: str, alias: t.Optional[str]) -> dict[str, t.Any]:
    """Return what other roles need to know; *inside* is where the page asks."""
    return {
        "url": f"{url}/v1",
        # the page's own way: there is no router that would keep a chat on its engine, and no key
        "session_url": f"{inside}/v1",
        "session_header": _routers.SESSION_HEADER,
        "router_url": url,
        "model": name,
        "alias": alias,
        "api_key_secret": None,
        # those of the host that answer, the last of them to others
        "programs": [SERVER],
    }


def memory_mib(settings: Settings, row: Row) -> int:
    """Return what has to be free: weights and context only where they stay in host memory. 0: nobody looks."""
    if not settings["ollama_memory_check"]:
        return 0
    if settings["ollama_accelerator"] != "cpu":
        return GPU_SERVER_MIB
    return SERVER_MIB + math.ceil(float(row.get("weights_gib") or 0) * 1024 * 1.2)


def _supervisor(settings: Settings) -> dict[str, t.Any]:
    """Return the environment of supervisord, the very one that the roles vllm and open_webui have."""
    kind = _on_host.SUPERVISOR_ENVIRONMENT
    return {
        "title": kind.title,
        "path": f"{settings['ollama_state_dir']}/venvs/{kind.lock}-{settings['ollama_supervisor_digest'][:8]}",
        "lock": settings["ollama_supervisor_lock"],
        "download_mib": kind.download_mib,
    }


def _environment_files(environment: t.Mapping[str, t.Any]) -> list[str]:
    return [f"{environment['path']}/{part}" for part in _on_host.INSTALLED]


def _gpu_selection(ids: t.Sequence[str]) -> dict[str, str]:
    # CUDA by itself has the fastest GPU first, nvidia-smi goes by the bus
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(ids)} if ids else {}
