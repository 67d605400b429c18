# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The part of the serving plan that is for the platform ``docker``: containers of one host, in a network of their own.

Memory and disk are in MiB. Paths of the host are below the state folder, those of the containers are fixed.
"""

from __future__ import annotations

import math
import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _capacity, _catalog, _on_host, _processes, _router_hosts, _routers
from ansible_collections.llmops.serving.plugins.module_utils._docker import CONTAINERS, SCRIPTS
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._quantity import quantity_bytes
from ansible_collections.llmops.serving.plugins.module_utils._stack import stack_suffix

Settings = t.Mapping[str, t.Any]

PLATFORM = "docker"
ENGINE, ROUTER, ROUTER_METRICS = _on_host.ENGINE, _on_host.ROUTER, _on_host.ROUTER_METRICS
PREFETCH, PRUNE = "vllm-prefetch", "vllm-prune"
ENGINE_PORT = 8000
# By this name the router knows the engine: the production stack's router takes no host without a dot.
ENGINE_ALIAS = f"{ENGINE}.internal"

# Folders of the state folder, and where containers see them.
DATA, LOGS = "data", "logs"
IN_CONTAINER = {DATA: "/data", SCRIPTS: "/opt/llmops-serving", CONTAINERS: "/run/llmops-serving"}
LAUNCHER = "launch.sh"
# The scripts of the role that containers run.
ROLE_SCRIPTS = (LAUNCHER, "fetch_model.py", "prune_models.py", "smoke_model.py", "wait_for_gpu.py")
LABELS = "serving.llmops"

# What an image takes on disk once it is unpacked (estimates).
IMAGE_MIB = {"nvidia": 30000, "cpu": 8000, "production-stack": 16000, "vllm-router": 500}
ROUTER_MIB = {"production-stack": 1000, "vllm-router": 100}

# Variables of the cluster that mean something here, too, and those that are for this platform only.
SHARED = (
    "vllm_image",
    "vllm_image_pull_policy",
    "vllm_router_image",
    "vllm_router_memory_limit",
    "vllm_cpu_limit",
    "vllm_memory_limit",
    "vllm_shm_size",
    "vllm_run_as_user",
)
ELSEWHERE = (*(name for name in _on_host.KUBERNETES_ONLY if name not in SHARED), "vllm_python", "vllm_wheel_dir", "vllm_host_user")
ONLY = ("vllm_docker_host", "vllm_docker_host_network", "vllm_docker_ipc_host", "vllm_bind_address")

_SOCKET = re.compile(r"unix://(/.+)")
_BINDABLE = re.compile(r"\d{1,3}(\.\d{1,3}){3}|\[?[0-9a-fA-F:]*:[0-9a-fA-F:]*\]?")
_EVERYWHERE = ("0.0.0.0", "::", "[::]")


class Names(t.NamedTuple):
    """What the stack's things are called: as people look for them, with the stack's name behind them unless it is ``chat``."""

    engine: str
    router: str
    sessions: str
    prefetch: str
    prune: str
    network: str


def names(stack: str) -> Names:
    """Return the names of the stack *stack*."""
    return Names(
        engine=name_of(stack, ENGINE),
        router=name_of(stack, ROUTER),
        sessions=name_of(stack, _on_host.SESSIONS),
        prefetch=name_of(stack, PREFETCH),
        prune=name_of(stack, PRUNE),
        network=f"llmops-serving-{stack}",
    )


def name_of(stack: str, name: str) -> str:
    """Return what the container *name* is called in *stack*."""
    return name + stack_suffix(stack)


def check(settings: Settings, options: t.Optional[t.Mapping[str, t.Any]]) -> None:
    """Raise ServingError for what the platform does not have. *options* is the role's argument specification, for the defaults."""
    for name in _on_host.set_among(ELSEWHERE, settings, options):
        raise ServingError(f"{name}: the platform docker has nothing that this could set. Remove it from the inventory.")
    if settings["vllm_accelerator"] not in ("nvidia", "cpu"):
        raise ServingError(
            f"vllm_accelerator: {settings['vllm_accelerator']} is not there yet on the platform docker. It may be nvidia or cpu."
        )
    check_place(settings["vllm_docker_host"], settings["vllm_bind_address"])
    if settings["vllm_engine_port"] and not settings["vllm_docker_host_network"] and not settings["vllm_router_host"]:
        raise ServingError(
            "vllm_engine_port: the engine's port is not published, only the router's is. Remove it, or set vllm_docker_host_network: true."
        )
    _on_host.check_choices(settings)


def check_place(docker_host: t.Any, address: t.Any) -> None:
    """Raise ServingError where *docker_host* is no socket, or containers cannot be published on *address*."""
    if not _SOCKET.fullmatch(str(docker_host)):
        raise ServingError(
            f'llm_docker_host: "{docker_host}" is no socket of the host. Give it as unix:///var/run/docker.sock; another machine\'s Docker '
            "is reached by making that machine a host of the inventory."
        )
    if not _BINDABLE.fullmatch(str(address)):
        raise ServingError(f'llm_bind_address: "{address}" is no address. Give one of the host, or 0.0.0.0 for all of them.')


def refuse(settings: Settings, options: t.Optional[t.Mapping[str, t.Any]]) -> None:
    """Raise ServingError for a variable of this platform that another one was given."""
    for name in _on_host.set_among(ONLY, settings, options):
        raise ServingError(f"{name}: only the platform docker has this. Remove it, or set llm_platform: docker.")


def listens_at(settings: Settings, port_of: t.Mapping[str, int], member: t.Optional[_router_hosts.Member] = None) -> tuple[str, int]:
    """Return on which address and port the engine listens, as its container sees it."""
    return (_on_host.engine_address(member), port_of[ENGINE]) if settings["vllm_docker_host_network"] else ("0.0.0.0", ENGINE_PORT)


def device_requests(ids: t.Sequence[t.Any], gpu_count: int) -> list[dict[str, t.Any]]:
    """Return what ``docker run --gpus`` would ask for: GPUs by *ids*, or the first *gpu_count*."""
    if not gpu_count:
        return []
    # Docker keeps a count of 0 beside ids, and a difference to that would look like a change
    which = {"count": 0, "device_ids": [str(number) for number in ids]} if ids else {"count": gpu_count}
    return [{"driver": "nvidia", **which, "capabilities": [["gpu"]]}]


def make(
    settings: Settings,
    row: _catalog.Row,
    port_of: t.Mapping[str, int],
    engine_args: list[str],
    engine_env: dict[str, str],
    prefetch: t.Optional[t.Mapping[str, t.Any]],
    gpu_count: int,
    tensor_parallel: int,
    budget_s: int,
    images: t.Mapping[str, str],
    models: t.Sequence[str],
    member: t.Optional[_router_hosts.Member] = None,
) -> dict[str, t.Any]:
    """Return what the plan holds for this platform only; see docs/architecture.md.

    *port_of*: the ports by program, as _on_host.ports returns. *images*: those of ``engine`` and ``router``. *models*: the names under
    which the engine serves. *member*: what this host is among those behind one router.
    """
    has_engine, has_router = member is None or member.has_engine, member is None or member.has_router
    stack, state_dir, accelerator = settings["vllm_stack_name"], settings["vllm_state_dir"], settings["vllm_accelerator"]
    called, host_network = names(stack), settings["vllm_docker_host_network"]
    user = f"{settings['vllm_run_as_user']}:{settings['vllm_run_as_user']}"
    address, port = listens_at(settings, port_of, member)
    own_url = f"http://{address if host_network else ENGINE_ALIAS}:{port}"
    backends = _routers.Backends(
        # the engine of this host is reached without leaving the containers' network
        urls=[own_url if name == member.me else url for name, url in member.urls.items()] if member else [own_url],
        models=models,
        host=str(settings["vllm_bind_address"]) if host_network else "0.0.0.0",
        port=port_of[ROUTER] if host_network else _routers.PORT,
        metrics_port=port_of[ROUTER_METRICS] if host_network else _routers.METRICS_PORT,
        startup_budget_s=budget_s,
        sessions_port=port_of[_on_host.SESSIONS] if host_network else _routers.SESSION_PORT,
        sessions_metrics_port=port_of[_on_host.SESSIONS_METRICS] if host_network else _routers.METRICS_PORT + 1,
    )
    kind = settings["vllm_router_type"]
    router = _routers.STATIC_ROUTERS[kind](images["router"], backends)
    reached = reached_at(settings["vllm_bind_address"])
    # each process of the router is a container: its name, and the port of the host that leads to it
    placed = list(zip(((called.router, port_of[ROUTER]), (called.sessions, port_of[_on_host.SESSIONS])), router["listeners"]))
    routers = [_router(settings, router, listener, name, host_port, budget_s) for (name, host_port), listener in placed]
    router_url = f"http://{reached}:{port_of[ROUTER]}"
    # without a router, this host's part of it is asked by itself
    outside = router_url if member is None or member.has_router else str(member.url)
    (sessions_name, sessions_port), sessions = placed[-1]
    inside = f"http://{reached}:{sessions_port}" if host_network else f"http://{sessions_name}:{sessions['port']}"
    secret_env = {key: [f"vllm/{key}"] for key in (["VLLM_API_KEY"] if settings["vllm_api_key_enabled"] else []) + ["HF_TOKEN"]}
    share = row.get("gpu_memory_utilization", _capacity.UTILIZATION)
    weights_mib = math.ceil(float(row.get("weights_gib") or 0) * 1024)
    hub = has_engine and row.get("source") != "smoke" and not row["model"].startswith("/")
    hub_cache = f"{state_dir}/{DATA}/huggingface/hub/models--{row['model'].replace('/', '--')}" if hub else None
    mark = {_processes.MARK: state_dir}
    # a network of its own keeps others away
    rendezvous = _on_host.PRIVATE_RENDEZVOUS if host_network else {}
    found = [_on_host_path(state_dir, path) for path in (prefetch["creates"] if prefetch else [])]
    job = _Job(settings, called, user, images["engine"])
    return {
        "state_dir": state_dir,
        "log_dir": f"{state_dir}/{LOGS}",
        "docker_host": settings["vllm_docker_host"],
        "network": None if host_network else called.network,
        "network_mode": "host" if host_network else called.network,
        "labels": {f"{LABELS}/stack": stack, f"{LABELS}/component": "vllm"},
        "user": None,
        "image_check": {
            "wanted": [
                *([{"name": images["engine"], "mib": IMAGE_MIB[accelerator]}] if has_engine else []),
                *([{"name": images["router"], "mib": IMAGE_MIB[kind]}] if has_router else []),
            ],
            "pull": settings["vllm_image_pull_policy"],
        },
        "address": address,
        # how router_wait sees whether they run
        "supervised": {
            "by": PLATFORM,
            "docker_host": settings["vllm_docker_host"],
            "state_dir": state_dir,
            "programs": [*([called.engine] if has_engine else []), *(program["name"] for program in routers if has_router)],
        },
        "scripts": {f"{SCRIPTS}/{name}": name for name in ROLE_SCRIPTS},
        "folders": {f"{state_dir}/{DATA}": settings["vllm_run_as_user"]},
        "engine": {
            "name": called.engine,
            "image": images["engine"],
            "entrypoint": launched(called.engine),
            "command": ["vllm", "serve", *engine_args],
            "args": engine_args,
            # memory of an engine that has just ended comes back a little later
            "env": {**rendezvous, **engine_env, **mark, **({"WAIT_FOR_GPU_SHARE": str(share)} if gpu_count else {})},
            "secret_env": secret_env,
            "networks": [] if host_network else [{"name": called.network, "aliases": [ENGINE_ALIAS]}],
            "port": port,
            "gpu_count": gpu_count,
            "device_requests": device_requests(settings["vllm_gpu_ids"], gpu_count),
            "ipc_mode": "host" if settings["vllm_docker_ipc_host"] else "private",
            "shm_size": size(settings["vllm_shm_size"] or f"{2 * max(1, tensor_parallel)}Gi"),
            "cpus": cpus(settings["vllm_cpu_limit"]),
            "memory": size(settings["vllm_memory_limit"]),
            "user": user,
            "mounts": [
                bind(f"{state_dir}/{DATA}", IN_CONTAINER[DATA]),
                scripts_mount(state_dir),
                secrets_mount(state_dir, called.engine),
                *(bind(path, path, read_only=True) for path in _folders_of_user(row)),
            ],
            "published_ports": [f"{member.address}:{port_of[ENGINE]}:{port}"] if member and has_engine and not host_network else [],
            "healthcheck": healthcheck(port, "/health", budget_s, address if host_network else _on_host.LOOPBACK),
            "stop_s": settings["vllm_shutdown_timeout"] + 20,
        },
        "router": {**routers[0], "url": router_url},
        "sessions": routers[1] if len(routers) > 1 else None,
        # each variable of a container is a file, in a folder that it alone has
        "secret_containers": [
            {"name": called.engine, "user": settings["vllm_run_as_user"], "variables": secret_env},
            {"name": called.prefetch, "user": settings["vllm_run_as_user"], "variables": {"HF_TOKEN": ["vllm/HF_TOKEN"]}},
        ],
        "secrets": {"generate": ["VLLM_API_KEY"] if settings["vllm_api_key_enabled"] else []},
        "prefetch": prefetch and {**prefetch, "container": called.prefetch, "creates": found, "command": job.prefetch(prefetch)},
        "prune": {"command": job.prune()},
        "hub_model": row["model"] if hub else None,
        "hub_cache": hub_cache,
        "host": {
            "title": f"{settings['vllm_model_name']} on this host",
            "state_dir_mode": "0700",
            "systemd": False,
            "cpu_check": False,
            "compiler_check": False,
            "python_versions": [],
            "find": [*found, *([f"{hub_cache}/refs"] if hub_cache else [])],
            "memory_mib": _on_host.memory_mib(settings, accelerator if has_engine else None, row, ROUTER_MIB[kind]),
            "address": _router_hosts.asked_address(settings) if member and has_engine else None,
            "disk": [
                *([{"paths": [f"{hub_cache}/refs"], "mib": weights_mib}] if hub_cache else []),
                {"paths": [f"{state_dir}/{LOGS}"], "mib": _on_host.LOG_MIB},
            ],
            "ports": _on_host.port_requests(settings, member, engine=host_network or member is not None, metrics=host_network),
            "containers": [called.engine, called.router, called.sessions],
            "gpus": has_engine and gpu_count > 0,
        },
        "templates": [
            *(["docker/engine-container.yaml.j2"] if has_engine else []),
            *(["docker/router-container.yaml.j2"] if has_router else []),
            *(["docker/sessions-container.yaml.j2"] if has_router and len(routers) > 1 else []),
        ],
        "owned_paths": [f"{state_dir}/{name}" for name in (DATA, SCRIPTS)],
        "endpoint": {
            "url": f"{outside}/v1",
            "session_url": f"{inside if has_router else outside}/v1",
            "session_header": _routers.SESSION_HEADER,
            "router_url": outside,
            "model": settings["vllm_model_name"],
            "api_key_secret": {"component": "vllm", "key": "VLLM_API_KEY", "path": f"{state_dir}/secrets/vllm/VLLM_API_KEY"}
            if settings["vllm_api_key_enabled"]
            else None,
        },
    }


def _router(
    settings: Settings, router: _routers.Router, listener: _routers.Listener, name: str, host_port: int, budget_s: int
) -> dict[str, t.Any]:
    """Return the container *name* of the *router*'s process with *listener*, which *host_port* of the host leads to."""
    called, host_network = names(settings["vllm_stack_name"]), settings["vllm_docker_host_network"]
    user = f"{settings['vllm_run_as_user']}:{settings['vllm_run_as_user']}"
    asked_at = reached_at(settings["vllm_bind_address"]) if host_network else _on_host.LOOPBACK
    return {
        "name": name,
        "type": router["type"],
        "image": router["image"],
        "entrypoint": launched(name),
        "command": ["vllm-router", *listener["args"]],
        "env": {"HOME": "/tmp", _processes.MARK: settings["vllm_state_dir"]},
        "networks": [] if host_network else [{"name": called.network}],
        "port": host_port,
        "memory": size(settings["vllm_router_memory_limit"] or router["memory_limit"]),
        "user": user,
        "mounts": [scripts_mount(settings["vllm_state_dir"])],
        "published_ports": [] if host_network else [f"{settings['vllm_bind_address']}:{host_port}:{listener['port']}"],
        # the Rust router listens when its engine answers
        "healthcheck": healthcheck(listener["port"], router["health_path"], budget_s, asked_at),
        "stop_s": 20,
    }


def launched(name: str) -> list[str]:
    """Return the entrypoint of the container *name*: it gives the program its secrets, and says in the log that it begins."""
    return ["/bin/sh", f"{IN_CONTAINER[SCRIPTS]}/{LAUNCHER}", name]


def bind(source: str, target: str, read_only: bool = False) -> dict[str, t.Any]:
    """Return a mount of a folder or file of the host, as community.docker.docker_container takes it."""
    return {"type": "bind", "source": source, "target": target, "read_only": read_only}


def scripts_mount(state_dir: str) -> dict[str, t.Any]:
    """Return the mount of the scripts, which all containers have."""
    return bind(f"{state_dir}/{SCRIPTS}", IN_CONTAINER[SCRIPTS], read_only=True)


def secrets_mount(state_dir: str, container: str) -> dict[str, t.Any]:
    """Return the mount of the secrets of *container*, which it alone has."""
    return bind(f"{state_dir}/{CONTAINERS}/{container}", IN_CONTAINER[CONTAINERS], read_only=True)


def healthcheck(port: int, path: str, start_period_s: int, address: str = _on_host.LOOPBACK) -> dict[str, t.Any]:
    """Return a health check by the Python of the image: curl is not in all of them."""
    script = f"import urllib.request as r; r.build_opener(r.ProxyHandler({{}})).open('http://{address}:{port}{path}', timeout=5)"
    return {
        "test": ["CMD", "python3", "-c", script],
        "interval": "10s",
        "timeout": "10s",
        "retries": 6,
        # what fails so long does not count
        "start_period": f"{start_period_s}s",
    }


class _Job(t.NamedTuple):
    """Containers that run once and are gone, by ``docker run``: its output is their progress."""

    settings: Settings
    called: Names
    user: str
    image: str

    def prefetch(self, prefetch: t.Mapping[str, t.Any]) -> list[str]:
        """Return the command that fetches or makes the weights."""
        name, state_dir = self.called.prefetch, self.settings["vllm_state_dir"]
        mounts = [bind(f"{state_dir}/{DATA}", IN_CONTAINER[DATA]), scripts_mount(state_dir), secrets_mount(state_dir, name)]
        network = "host" if self.settings["vllm_docker_host_network"] else self.called.network
        script = ["python3", f"{IN_CONTAINER[SCRIPTS]}/{prefetch['script']}", *prefetch["arguments"]]
        return self._command(name, network, mounts, prefetch["env"], launched(name), script)

    def prune(self) -> list[str]:
        """Return the command that lists or removes weights; what to keep follows it."""
        state_dir = self.settings["vllm_state_dir"]
        mounts = [bind(f"{state_dir}/{DATA}", IN_CONTAINER[DATA]), scripts_mount(state_dir)]
        script = [f"{IN_CONTAINER[SCRIPTS]}/prune_models.py", "--data", IN_CONTAINER[DATA]]
        return self._command(self.called.prune, "none", mounts, {}, ["python3"], script)

    def _command(
        self,
        name: str,
        network: str,
        mounts: t.Sequence[t.Mapping[str, t.Any]],
        env: t.Mapping[str, str],
        entrypoint: t.Sequence[str],
        words: t.Sequence[str],
    ) -> list[str]:
        return [
            *["docker", "run", "--rm", "--init", "--name", name, "--network", network, "--user", self.user, "--log-driver", "none"],
            *["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pull", "never"],
            *["--label", f"{LABELS}/stack={self.settings['vllm_stack_name']}"],
            *(word for mount in mounts for word in ("--mount", _mount_words(mount))),
            *(word for key, value in env.items() for word in ("--env", f"{key}={value}")),
            *["--entrypoint", entrypoint[0], self.image, *entrypoint[1:], *words],
        ]


def _mount_words(mount: t.Mapping[str, t.Any]) -> str:
    words = f"type={mount['type']},source={mount['source']},target={mount['target']}"
    return f"{words},readonly" if mount["read_only"] else words


def _on_host_path(state_dir: str, path: str) -> str:
    """Return where the host has *path* of the containers' data."""
    return f"{state_dir}/{DATA}{path[len(IN_CONTAINER[DATA]) :]}"


def _folders_of_user(row: _catalog.Row) -> list[str]:
    """Return the paths of the host that the user's *row* names: a folder with weights, a chat template."""
    template = row.get("chat_template", "")
    named = [row["model"], template if template.startswith("/") and not template.startswith(_on_host.IMAGE_FOLDER) else ""]
    return [path for path in named if path.startswith("/") and row.get("source") != "smoke"]


def reached_at(address: t.Any) -> str:
    """Return the address at which the host itself reaches what is published on *address*."""
    return _on_host.LOOPBACK if str(address) in _EVERYWHERE else str(address)


def size(quantity: t.Any) -> t.Optional[str]:
    """Return a quantity of memory (``2Gi``) in bytes, as Docker takes it; None for none."""
    return None if quantity in (None, "") else f"{round(quantity_bytes(quantity))}B"


def cpus(quantity: t.Any) -> t.Optional[float]:
    """Return a number of CPUs (``8``, ``500m``); None for none."""
    return None if quantity in (None, "") else quantity_bytes(quantity)
