# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The serving plan: everything that is decided before anything is touched, in one dict.

``make_plan`` takes the role's variables, the catalog and what is known of the GPUs, and returns a dict of plain values that templates
and modules only read. It holds references to secrets (name and key of a Secret), never their values.
"""

from __future__ import annotations

import hashlib
import math
import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import (
    _capacity,
    _catalog,
    _cpu,
    _images,
    _on_docker,
    _on_host,
    _remote,
    _router_hosts,
    _routers,
)
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._kube import selector_text
from ansible_collections.llmops.serving.plugins.module_utils._quantity import quantity_bytes
from ansible_collections.llmops.serving.plugins.module_utils._stack import stack_suffix

Plan = dict[str, t.Any]
Gpus = t.Sequence[t.Mapping[str, t.Any]]

FP8_IF_SUPPORTED = "fp8_if_supported"
ENGINE_PORT = 8000
DATA = "/data"
MAX_LABEL = 63
# Routers see the engines that carry it. On a switch it is taken off the new ones until they are verified, then off the old ones.
ROUTED = {"serving.llmops/routed": "true"}

# Which router stands in front where the user says `auto`.
USUAL_ROUTERS = {"kubernetes": "production-stack", "docker": "production-stack", "local": "vllm-router", "systemd": "vllm-router"}


class Place(t.NamedTuple):
    """Where the engine finds its files, and where it listens."""

    data: str
    host: str
    port: int


# What the image of an accelerator is, and the extended resource that its GPUs are asked by (None: no GPU).
ENGINE_IMAGES = {"nvidia": "vllm/vllm-openai:v0.32.0", "cpu": "vllm/vllm-openai-cpu:v0.31.0", "amd": ""}
GPU_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "cpu": None}
# MiB label that GPU feature discovery puts on a node. AMD's labeller writes text ("191G"), which no affinity can compare.
GPU_MEMORY_LABELS = {"nvidia": "nvidia.com/gpu.memory"}

# Kinds of all that this role may make.
KINDS = [
    "Namespace",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "Secret",
    "ConfigMap",
    "PersistentVolumeClaim",
    "Job",
    "Service",
    "Deployment",
    "PodDisruptionBudget",
    "ServiceMonitor",
]
# Kinds that a cluster may lack; objects of them are left out there, and the run says so.
OPTIONAL_KINDS = ["monitoring.coreos.com/v1/ServiceMonitor", "policy/v1/PodDisruptionBudget"]

# What every container of ours is denied.
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

# Rates for the startup budget, on the safe side: a 1 Gbit/s line at half its speed, a slow network disk, and what every start costs
# (Python, CUDA, compilation, profile run).
DOWNLOAD_MIB_PER_S = 50
# A line so slow that whoever waits for it had better look why. What is on the volume by then stays there.
SLOWEST_DOWNLOAD_MIB_PER_S = 5
LOAD_MIB_PER_S = 200
START_S = 300
UNKNOWN_WEIGHTS_GIB = 100.0
# Routers watch the engines' pods, so they know at once that one is leaving.
PRE_STOP_S = 2
MEMORY_LIMIT = "32Gi"

# Variables that are true or false, and the words for that in YAML and on a command line.
SWITCHES = (
    "vllm_api_key_enabled",
    "vllm_endpoint_tool_calls",
    "vllm_docker_host_network",
    "vllm_docker_ipc_host",
    "vllm_fit_check",
    "vllm_memory_check",
    "vllm_prefetch",
    "vllm_rollback",
    "vllm_router_only",
    "vllm_service_monitor_enabled",
    "vllm_verify",
    "vllm_volume_permissions",
)
WORDS_OF_SWITCHES = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}

_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]i?)?")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_ALIAS = re.compile(r"[A-Za-z0-9][\w./-]*")


def make_plan(
    settings: t.Mapping[str, t.Any],
    catalog: t.Mapping[str, t.Any],
    gpus: t.Optional[Gpus] = None,
    host: t.Optional[t.Mapping[str, t.Any]] = None,
    options: t.Optional[t.Mapping[str, t.Any]] = None,
    facts: t.Optional[t.Mapping[str, t.Any]] = None,
) -> Plan:
    """Return the plan for *settings* (the role's variables by name), or raise ServingError for the first thing that cannot work.

    *gpus*: the GPUs that the engine may land on, as gpu_memory_check returns them in ``eligible``; None when nobody looked.
    *host*: what host_check found on the machine, on other platforms than Kubernetes; None when nobody looked.
    *options*: the role's argument specification, which tells what the user has set from what is a default.
    *facts*: what model_info has read of a model that the catalog lacks; keys of the user's own row win over them.
    """
    settings = _checked(settings)
    if settings["vllm_endpoint_url"]:
        return _remote.make_plan(settings)
    on_host, on_docker = settings["vllm_platform"] in _on_host.PLATFORMS, settings["vllm_platform"] == _on_docker.PLATFORM
    if on_host:
        _on_host.check(settings, options)
    elif not on_docker:
        _refuse_host(settings)
    (_on_docker.check if on_docker else _on_docker.refuse)(settings, options)
    _router_hosts.check(settings)
    name = settings["vllm_model_name"]
    row = _catalog.resolve_row(catalog, settings["vllm_model_configs"], name, facts)
    if on_host:
        _on_host.check_row(name, row)
    cpu_found = (host or {}).get("cpu")
    if settings["vllm_accelerator"] == "cpu":
        row = _cpu.settle(settings, name, row, None if on_host or on_docker else _memory_limit_mib(settings, row), cpu_found)
    else:
        _cpu.refuse_elsewhere(settings)
    port_of = _on_host.ports(host, settings)
    member = _router_hosts.member(settings, port_of[_on_host.ENGINE], (host or {}).get("address"))
    place = Place(DATA, "0.0.0.0", ENGINE_PORT)
    if on_host:
        place = Place(_on_host.data_dir(settings), _on_host.engine_address(member), port_of[_on_host.ENGINE])
    elif on_docker:
        place = Place(DATA, *_on_docker.listens_at(settings, port_of, member))
    stack = settings["vllm_stack_name"]
    gpu_count, tensor_parallel = _gpus_wanted(settings, name, row)
    _check_capability(name, row, gpus)
    alias = _alias(settings, catalog)
    has_engine = member is None or member.has_engine
    prefetch = _prefetch(settings, row, place)
    budget_s = settings["vllm_startup_timeout"] or startup_budget_s(row, prefetch is not None)
    model = prefetch["model_path"] if prefetch else row["model"]
    kv_cache_dtype = _kv_cache_dtype(settings, name, row, gpus, cpu_found)
    args = _engine_args(settings, name, alias, row, kv_cache_dtype, tensor_parallel, model, place)
    cpu_limit = None if on_host or on_docker else quantity_bytes(_sizes(settings, row)["cpu_limit"])
    cpu_env = _cpu.environment(settings, row, cpu_limit, cpu_found) if settings["vllm_accelerator"] == "cpu" else {}
    env = _engine_env(settings, row, budget_s, prefetch is not None or model.startswith("/"), place, cpu_env)
    if prefetch:
        prefetch["env"] = _prefetch_env(env, settings["vllm_hf_endpoint"]) if prefetch["hub"] else env
    if not has_engine:
        prefetch = None
    common = {
        "stack": stack,
        "platform": settings["vllm_platform"],
        "accelerator": settings["vllm_accelerator"],
        "remote": None,
        "together": member.told() if member else None,
        "owner": {"instance": stack, "component": "vllm"},
        "model": {
            "name": name,
            "alias": alias,
            "source": model,
            "license": row.get("license"),
            "gated": row.get("gated", False),
            "max_model_len": row.get("max_model_len"),
            "max_num_seqs": row.get("max_num_seqs"),
            "tool_call_parser": row.get("tool_call_parser"),
            "reasoning_parser": row.get("reasoning_parser"),
            "weights_gib": row.get("weights_gib"),
        },
        "gpu_check": _gpu_check(settings, row, gpu_count if has_engine else 0),
        "fit": _fit(settings, row, kv_cache_dtype, gpu_count),
        "images": [],
        "wait": {"timeout_s": budget_s + 120, "prefetch_timeout_s": _prefetch_timeout_s(row)},
        "switch": {"strategy": settings["vllm_switch_strategy"], "rollback": settings["vllm_rollback"]},
        # what this plan puts beside other weights, by the names of prune_models.py
        "weights": {prefetch["weights"]: {"model": name, "gib": row.get("weights_gib")}} if prefetch else {},
        "verify": {
            "enabled": settings["vllm_verify"],
            "request": {
                "model": name,
                "aliases": list(filter(None, [alias])),
                "tool_calls": "tool_call_parser" in row and row.get("enable_auto_tool_choice", True),
                "reasoning": bool(row.get("reasoning_parser")),
                "max_model_len": row.get("max_model_len"),
            },
        },
    }
    if on_host:
        part = _on_host.make(settings, row, port_of, args, env, prefetch, gpu_count, budget_s, member)
    elif on_docker:
        entries = {"engine": engine_image(settings), "router": router_image(settings)}
        common["images"] = list(entries.values())
        images = {name: entry["by_digest"] for name, entry in entries.items()}
        models = [name, *filter(None, [alias])]
        part = _on_docker.make(settings, row, port_of, args, env, prefetch, gpu_count, tensor_parallel, budget_s, images, models, member)
    else:
        part = _on_kubernetes(settings, row, kv_cache_dtype, args, env, prefetch, gpu_count, tensor_parallel, budget_s)
    if member and not has_engine:
        # as serving_facts would find it, were an engine here
        engines = len(member.urls)
        part["deployment"] = {"model": name, "stack": stack, "platform": settings["vllm_platform"], "node": member.me, "engines": engines}
    return {**common, **part, "endpoint": {**part["endpoint"], "alias": alias}}


def _on_kubernetes(
    settings: t.Mapping[str, t.Any],
    row: _catalog.Row,
    kv_cache_dtype: str,
    args: list[str],
    env: dict[str, str],
    prefetch: t.Optional[dict[str, t.Any]],
    gpu_count: int,
    tensor_parallel: int,
    budget_s: int,
) -> Plan:
    """Return what the plan holds for this platform only: what the manifests say beside the engine's arguments."""
    stack, namespace = settings["vllm_stack_name"], settings["vllm_namespace"]
    names = object_names(stack)
    labels = {"app": "vllm-backend", "app.kubernetes.io/instance": stack}
    if prefetch:
        prefetch = {**prefetch, **_prefetch_job(settings, row, names, prefetch)}
    engine = _engine(settings, row, kv_cache_dtype, args, env, gpu_count, tensor_parallel, budget_s)
    router = _router(settings, namespace, {**labels, **ROUTED})
    secrets = _secrets(settings, names)
    return {
        "namespace": namespace,
        "names": names,
        "labels": labels,
        "pod_labels": {**labels, **ROUTED},
        "label_selector": selector_text(labels),
        "images": [engine_image(settings), router_image(settings)],
        "engine": engine,
        "router": {**router, "service": {"namespace": namespace, "name": names["router"], "port": _routers.PORT}},
        "prefetch": prefetch,
        "prune": {
            "command": ["python3", "/scripts/prune_models.py", "--data", DATA],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
            "affinity": _prefetch_affinity(settings, row),
            "templates": ["kubernetes/prune-configmap.yaml.j2", "kubernetes/prune-job.yaml.j2"],
        },
        "pod_security": pod_security(settings["vllm_run_as_user"]),
        "container_security": CONTAINER_SECURITY,
        "volume_permissions": volume_permissions(engine) if engine["volume_permissions"] else None,
        "storage": {
            "claim": settings["vllm_storage_existing_claim"] or names["claim"],
            "create": not settings["vllm_storage_existing_claim"],
            "size": settings["vllm_storage_size"],
            "class": settings["vllm_storage_class"],
            "access_mode": settings["vllm_storage_access_mode"],
        },
        "secrets": secrets,
        "monitoring": {"enabled": settings["vllm_service_monitor_enabled"], "labels": settings["vllm_service_monitor_labels"]},
        "scripts": [*([prefetch["script"]] if prefetch else []), *(["wait_for_gpu.py"] if engine["gpu_wait"] else [])],
        "templates": _templates(settings, engine, router, prefetch),
        "kinds": KINDS,
        "optional_kinds": OPTIONAL_KINDS,
        "endpoint": {
            "url": f"http://{names['router']}.{namespace}:{_routers.PORT}/v1",
            "session_url": f"http://{names['router']}.{namespace}:{router['session_port']}/v1",
            "session_header": _routers.SESSION_HEADER,
            "model": settings["vllm_model_name"],
            "service": names["router"],
            "port": _routers.PORT,
            "api_key_secret": {"namespace": namespace, **secrets["api_key"]} if secrets["api_key"] else None,
        },
    }


def startup_budget_s(row: _catalog.Row, prefetched: bool) -> int:
    """Seconds that an engine may take from its start to its first answer.

    Weights as shipped (GiB) over a slow disk, and a fixed part; before that, unless they are *prefetched*, over a slow line. Rounded up to
    whole minutes.
    """
    if row.get("source") == "smoke":
        return START_S
    mib = _weights_mib(row)
    return math.ceil((START_S + (0 if prefetched else mib / DOWNLOAD_MIB_PER_S) + mib / LOAD_MIB_PER_S) / 60) * 60


def _prefetch_timeout_s(row: _catalog.Row) -> int:
    """Seconds that fetching the weights may take: as long as a line takes that is hopelessly slow."""
    return 1800 if row.get("source") == "smoke" else 900 + math.ceil(_weights_mib(row) / SLOWEST_DOWNLOAD_MIB_PER_S)


def _weights_mib(row: _catalog.Row) -> float:
    return float(row.get("weights_gib") or UNKNOWN_WEIGHTS_GIB) * 1024


def memory_label_minimum_mib(min_gpu_memory_gb: float) -> int:
    """Return the least ``nvidia.com/gpu.memory`` (MiB) of a card sold as *min_gpu_memory_gb* (decimal GB): 80 is 76294."""
    return math.ceil(min_gpu_memory_gb * 1e9 / 2**20)


def unknown_names(names: t.Iterable[str], known: t.Iterable[str]) -> None:
    """Raise ServingError for the first of *names* that is not *known*: a variable of the inventory with a typing error."""
    known = set(known)
    for name in sorted(set(names) - known):
        raise ServingError(f"{name}: no such variable{did_you_mean(name, known)}. The inventory sets it, nothing reads it.")


# --- variables ---------------------------------------------------------------------------------------------------------------------


def _checked(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return *settings* with numbers and booleans as such (``-e`` hands over text), or raise ServingError for what cannot be right."""
    checked = dict(settings)
    for key in SWITCHES:
        checked[key] = switch_value(key, settings[key])
    for key in ("vllm_replicas", "vllm_router_replicas", "vllm_shutdown_timeout", "vllm_run_as_user"):
        checked[key] = whole(key, settings[key], least=0 if key in ("vllm_shutdown_timeout", "vllm_run_as_user") else 1)
    for key in ("vllm_gpu_count", "vllm_tensor_parallel_size", "vllm_startup_timeout", "vllm_router_port", "vllm_engine_port"):
        checked[key] = None if settings[key] in (None, "") else whole(key, settings[key], least=1)
    if settings["vllm_min_gpu_memory_gb"] not in (None, ""):
        try:
            checked["vllm_min_gpu_memory_gb"] = float(settings["vllm_min_gpu_memory_gb"])
        except (TypeError, ValueError):
            raise ServingError(
                f'llm_min_gpu_memory_gb: "{settings["vllm_min_gpu_memory_gb"]}" is not a number. Give decimal GB, as cards are sold: 80'
            ) from None
    else:
        checked["vllm_min_gpu_memory_gb"] = None
    for key in ("vllm_stack_name", "vllm_namespace"):
        check_dns_label(key, settings[key])
    choice(settings, "vllm_accelerator", list(GPU_RESOURCES))
    checked["vllm_cpu_threads"] = _cpu.threads_of(settings["vllm_cpu_threads"], settings["vllm_platform"] == "kubernetes")
    checked["vllm_cpu_kv_cache_gib"] = _positive("vllm_cpu_kv_cache_gib", settings["vllm_cpu_kv_cache_gib"])
    choice(settings, "vllm_router_type", ["auto", *_routers.ROUTERS])
    if settings["vllm_router_type"] == "auto":
        checked["vllm_router_type"] = "vllm-router" if settings["vllm_router_host"] else USUAL_ROUTERS[settings["vllm_platform"]]
    choice(settings, "vllm_storage_access_mode", ["ReadWriteOnce", "ReadWriteMany"])
    choice(settings, "vllm_switch_strategy", ["auto", "surge", "recreate"])
    for key in ("vllm_storage_size", "vllm_shm_size", "vllm_cpu_request", "vllm_cpu_limit", "vllm_memory_request", "vllm_memory_limit"):
        value = settings[key]
        if value not in (None, "") and not _QUANTITY.fullmatch(str(value)):
            raise ServingError(f'{key}: "{value}" is no Kubernetes quantity. Examples: 100Gi, 16, 500m')
    wanted = settings["vllm_kv_cache_dtype"]
    if wanted != FP8_IF_SUPPORTED and wanted not in _catalog.KV_CACHE_DTYPES:
        known = {*_catalog.KV_CACHE_DTYPES, FP8_IF_SUPPORTED}
        raise ServingError(f'vllm_kv_cache_dtype: vLLM 0.32 does not know "{wanted}"{did_you_mean(str(wanted), known)}. Usual: auto, fp8.')
    return checked


def _refuse_host(settings: t.Mapping[str, t.Any]) -> None:
    for name in _on_host.HOST_ONLY:
        if settings[name] not in (None, "", []):
            raise ServingError(f"{name}: only single hosts have this. Remove it, or set llm_platform: local (or docker, systemd).")


def check_dns_label(key: str, value: t.Any) -> None:
    """Raise ServingError where *value* of the variable *key* cannot be the name of an object, with a suffix behind it."""
    if not _DNS_LABEL.fullmatch(str(value)) or len(str(value)) > 40:
        raise ServingError(f'{key}: "{value}" is no Kubernetes name: lower-case letters, digits and "-", at most 40 characters.')


def whole(key: str, value: t.Any, least: int) -> int:
    """Return the *value* of the variable *key* as a whole number, or raise ServingError."""
    try:
        number = int(str(value))
    except ValueError:
        raise ServingError(f'{key}: "{value}" is not a whole number.') from None
    if number < least:
        raise ServingError(f"{key}: {number} is too small, the least is {least}.")
    return number


def _positive(key: str, value: t.Any) -> t.Optional[float]:
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0
    if not 0 < number < math.inf:
        raise ServingError(f'{key}: "{value}" is not a number above 0.')
    return number


def switch_value(key: str, value: t.Any) -> bool:
    """Return the *value* of the variable *key* as true or false, or raise ServingError."""
    if str(value).lower() not in WORDS_OF_SWITCHES:
        raise ServingError(f'{key}: "{value}" is neither true nor false.')
    return WORDS_OF_SWITCHES[str(value).lower()]


def choice(settings: t.Mapping[str, t.Any], key: str, choices: t.Sequence[str]) -> None:
    """Raise ServingError where the variable *key* has none of *choices*."""
    value = settings[key]
    if value not in choices:
        raise ServingError(f'{key}: "{value}" is not known{did_you_mean(str(value), choices)}. It may be {", ".join(choices)}.')


def engine_image(settings: t.Mapping[str, t.Any]) -> _images.Entry:
    """Return which image the engines have, as _images.choose tells it. Raises ServingError."""
    accelerator = settings["vllm_accelerator"]
    image = settings["vllm_image"] or ENGINE_IMAGES[accelerator]
    return _image(settings, "vllm_image", image, f"no image is known for vllm_accelerator: {accelerator}")


def router_image(settings: t.Mapping[str, t.Any]) -> _images.Entry:
    """Return the same of the router."""
    default = _routers.PRODUCTION_STACK_IMAGE if settings["vllm_router_type"] == "production-stack" else ""
    why_empty = "vllm-router publishes no versioned image; build one from PyPI in two lines (docs/routers.md)"
    return _image(settings, "vllm_router_image", settings["vllm_router_image"] or default, why_empty)


def _image(settings: t.Mapping[str, t.Any], key: str, image: str, why_empty: str) -> _images.Entry:
    if not image:
        raise ServingError(f"{key} has to be set: {why_empty}.")
    return _images.choose(key, image, settings.get("vllm_pins"), settings["vllm_image_registry"])


# --- parts of the plan -------------------------------------------------------------------------------------------------------------


def _alias(settings: t.Mapping[str, t.Any], catalog: t.Mapping[str, t.Any]) -> t.Optional[str]:
    """Return the name by which clients can ask for whatever is served, None for none."""
    alias = str(settings["vllm_served_model_alias"] or "")
    if not alias or alias == settings["vllm_model_name"]:
        return None
    if not _ALIAS.fullmatch(alias):
        raise ServingError(f'vllm_served_model_alias: "{alias}" is no name: letters, digits and "._/-", a letter or a digit first.')
    if alias in {*catalog, *settings["vllm_model_configs"]}:
        raise ServingError(
            f'vllm_served_model_alias: "{alias}" is the name of another model of the table; clients could not tell the two apart. '
            "Choose another alias, or set it to an empty text for none."
        )
    return alias


def object_names(stack: str) -> dict[str, str]:
    """Names of the objects: as documented for the stack "chat", with the stack's name behind them for every other."""
    suffix = stack_suffix(stack)
    return {
        "engine": f"vllm-backend{suffix}",
        "router": f"vllm-router{suffix}",
        "claim": f"vllm-models{suffix}",
        "secret": f"vllm-secrets{suffix}",
        "prefetch": f"vllm-prefetch{suffix}",
        "prune": f"vllm-prune{suffix}",
        "scripts": f"vllm-scripts{suffix}",
        "state": f"vllm-state{suffix}",
    }


def _gpus_wanted(settings: t.Mapping[str, t.Any], name: str, row: _catalog.Row) -> tuple[int, int]:
    """Return (GPUs of one replica, tensor parallel size)."""
    count, size = settings["vllm_gpu_count"], settings["vllm_tensor_parallel_size"] or row.get("tensor_parallel_size")
    ids = settings["vllm_gpu_ids"]
    if ids and count and len(ids) != count:
        raise ServingError(f"vllm_gpu_ids names {len(ids)} GPUs, vllm_gpu_count: {count}. Let them agree, or remove vllm_gpu_count.")
    count = count or len(ids) or None
    if settings["vllm_accelerator"] == "cpu":
        if count:
            raise ServingError(f"vllm_gpu_count: {count} GPUs with vllm_accelerator: cpu. Remove one of the two.")
        return 0, 1
    count, size = count or size or 1, size or count or 1
    if size > count:
        raise ServingError(
            f"vllm_tensor_parallel_size: {size} GPUs are asked of vllm_gpu_count: {count}. Set vllm_gpu_count: {size}, or "
            f"vllm_tensor_parallel_size: {count}."
        )
    if count > size:
        raise ServingError(
            f"vllm_gpu_count: {count} GPUs, of which vllm_tensor_parallel_size: {size} uses {size}; the rest would idle. "
            f"Set vllm_tensor_parallel_size: {count}, or vllm_replicas for more engines."
        )
    _catalog.check_tensor_parallel(name, row, size)
    return count, size


def _check_capability(name: str, row: _catalog.Row, gpus: t.Optional[Gpus]) -> None:
    least = row.get("min_compute_capability")
    for gpu in gpus or []:
        found = gpu.get("compute_capability")
        if least and found and _catalog.capability_tuple(found) < _catalog.capability_tuple(least):
            raise ServingError(
                f"{name} needs GPUs of compute capability {least}; {gpu['node']} has {gpu['product']} ({found}), where it cannot start. "
                "Keep the engine off such nodes with vllm_node_selector, or serve another model."
            )


def _kv_cache_dtype(
    settings: t.Mapping[str, t.Any], name: str, row: _catalog.Row, gpus: t.Optional[Gpus], cpu: t.Optional[t.Mapping[str, t.Any]]
) -> str:
    """Return what ``--kv-cache-dtype`` shall be.

    A row's own key wins over the default. fp8 by default only where the model and *every* GPU that the engine may land on can.
    """
    wanted = settings["vllm_kv_cache_dtype"]
    key = "vllm_kv_cache_dtype"
    if wanted == FP8_IF_SUPPORTED and "kv_cache_dtype" in row:
        wanted, key = row["kv_cache_dtype"], f"vllm_model_configs.{name}.kv_cache_dtype"
    if wanted == FP8_IF_SUPPORTED:
        able = settings["vllm_accelerator"] == "nvidia" and row.get("source") != "smoke" and bool(gpus)
        return "fp8" if able and all(_catalog.supports_fp8_kv_cache(row, gpu.get("compute_capability")) for gpu in gpus or []) else "auto"
    if settings["vllm_accelerator"] == "cpu":
        _cpu.check_kv_cache_dtype(key, wanted, name, row, cpu)
    elif wanted.startswith("fp8"):
        for gpu in gpus or []:
            found = gpu.get("compute_capability")
            if found and not _catalog.supports_fp8_kv_cache(row, found):
                kind = "attention sinks" if row.get("attention_sinks") else "MLA" if "mla" in row.get("layers", {}) else "this attention"
                raise ServingError(
                    f"{key}: {wanted} cannot be had for {name} on {gpu['product']} (compute capability {found}): vLLM 0.32 has no fp8 KV "
                    f"cache for {kind} there. Set auto, or keep the engine off {gpu['node']} with vllm_node_selector."
                )
    return str(wanted)


def _engine_args(
    settings: t.Mapping[str, t.Any],
    name: str,
    alias: t.Optional[str],
    row: _catalog.Row,
    kv_cache_dtype: str,
    tensor_parallel: int,
    model: str,
    place: Place,
) -> list[str]:
    """Return the words behind ``vllm serve``: flags of vLLM 0.32 only."""
    args = [model, "--served-model-name", name, *([alias] if alias else []), "--host", place.host, "--port", str(place.port)]
    for key, flag in (
        ("revision", "--revision"),
        ("dtype", "--dtype"),
        ("max_model_len", "--max-model-len"),
        ("max_num_seqs", "--max-num-seqs"),
        ("max_num_batched_tokens", "--max-num-batched-tokens"),
        ("gpu_memory_utilization", "--gpu-memory-utilization"),
        ("kv_cache_memory_bytes", "--kv-cache-memory-bytes"),
    ):
        if key in row:
            args += [flag, str(row[key])]
    if kv_cache_dtype != "auto":
        args += ["--kv-cache-dtype", kv_cache_dtype]
    if tensor_parallel > 1:
        args += ["--tensor-parallel-size", str(tensor_parallel)]
    if row.get("tool_call_parser"):
        args += ["--tool-call-parser", row["tool_call_parser"]]
        if row.get("enable_auto_tool_choice", True):
            args.append("--enable-auto-tool-choice")
    if row.get("reasoning_parser"):
        args += ["--reasoning-parser", row["reasoning_parser"]]
    if row.get("chat_template"):
        args += ["--chat-template", row["chat_template"]]
    for key, flag in (("enforce_eager", "--enforce-eager"), ("trust_remote_code", "--trust-remote-code")):
        if row.get(key):
            args.append(flag)
    args += ["--shutdown-timeout", str(settings["vllm_shutdown_timeout"])]
    args += ["--disable-access-log-for-endpoints", "/health,/metrics"]
    return args + [str(arg) for arg in row.get("extra_args", [])]


def _engine_env(
    settings: t.Mapping[str, t.Any], row: _catalog.Row, budget_s: int, offline: bool, place: Place, cpu_env: t.Mapping[str, str]
) -> dict[str, str]:
    """Return the plain environment; secrets are added by the template, by reference."""
    data = place.data
    env = {
        "HOME": f"{data}/home",
        "USER": "vllm",
        "HF_HOME": f"{data}/huggingface",
        "VLLM_CACHE_ROOT": f"{data}/vllm-cache",
        "XDG_CACHE_HOME": f"{data}/cache",
        "TORCHINDUCTOR_CACHE_DIR": f"{data}/cache/inductor",
        "TRITON_CACHE_DIR": f"{data}/cache/triton",
        "FLASHINFER_WORKSPACE_BASE": f"{data}/cache",
        "PYTHONHASHSEED": "0",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(budget_s),
        "VLLM_MAX_N_SEQUENCES": "64",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        **cpu_env,
    }
    if offline:
        env["HF_HUB_OFFLINE"] = "1"
    elif settings["vllm_hf_endpoint"]:
        env["HF_ENDPOINT"] = settings["vllm_hf_endpoint"]
    env.update({key: str(value) for key, value in row.get("env", {}).items()})
    env.update({key: str(value) for key, value in settings["vllm_extra_env"].items()})
    for key in ("VLLM_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if key in env:
            raise ServingError(f"{key} would stand in a plain manifest. Set vllm_api_key or hf_token instead: they go into a Secret.")
    return env


def _engine(
    settings: t.Mapping[str, t.Any],
    row: _catalog.Row,
    kv_cache_dtype: str,
    args: list[str],
    env: dict[str, str],
    gpu_count: int,
    tensor_parallel: int,
    budget_s: int,
) -> dict[str, t.Any]:
    accelerator, replicas = settings["vllm_accelerator"], settings["vllm_replicas"]
    resource = GPU_RESOURCES[accelerator]
    sizes = _sizes(settings, row)
    requests = {"cpu": sizes["cpu_request"], "memory": sizes["memory_request"]}
    limits = {"cpu": sizes["cpu_limit"], "memory": sizes["memory_limit"]}
    if resource:
        requests[resource] = limits[resource] = str(gpu_count)
    drain_s = settings["vllm_shutdown_timeout"]
    probe_period_s = 1
    return {
        "image": engine_image(settings)["image"],
        "image_pull_policy": settings["vllm_image_pull_policy"],
        "image_pull_secrets": [{"name": secret} for secret in settings["vllm_image_pull_secrets"]],
        "command": ["vllm", "serve"],
        "args": args,
        "env": env,
        "port": ENGINE_PORT,
        "replicas": replicas,
        "gpu_count": gpu_count,
        "gpu_resource": resource,
        "kv_cache_dtype": kv_cache_dtype,
        "resources": {"requests": requests, "limits": limits},
        # Tensor parallel workers talk through it, and the engine's processes do, too; the runtime's own default is 64 MiB.
        "shm_size": settings["vllm_shm_size"] or f"{2 * max(1, tensor_parallel)}Gi",
        # A GPU cannot be held by two pods, so the old engine has to go first; on CPUs both may run.
        "strategy": {"type": "Recreate"} if resource else {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        # what has to be free before it starts: memory of a process that has just ended comes back a little later
        "gpu_wait": {"share": row.get("gpu_memory_utilization", _capacity.UTILIZATION)} if accelerator == "nvidia" else None,
        "startup_budget_s": budget_s,
        "probe_period_s": probe_period_s,
        "startup_failure_threshold": math.ceil(budget_s / probe_period_s),
        "pre_stop_s": PRE_STOP_S,
        "termination_grace_s": PRE_STOP_S + drain_s + 20,
        "run_as_user": settings["vllm_run_as_user"],
        "volume_permissions": settings["vllm_volume_permissions"],
        "runtime_class": settings["vllm_runtime_class"],
        "priority_class": settings["vllm_priority_class"],
        "node_selector": settings["vllm_node_selector"],
        "tolerations": _tolerations(settings),
        "affinity": _affinity(settings, row),
        "data_path": DATA,
    }


def _sizes(settings: t.Mapping[str, t.Any], row: _catalog.Row) -> dict[str, str]:
    """What a pod of the engine asks of its node, and what it may use: the user's word, else what follows from it, else the row's."""
    implied = _cpu.pod_cpus(settings) if settings["vllm_accelerator"] == "cpu" else {}
    sizes = {
        key: str(settings[f"vllm_{key}"] or implied.get(key) or row.get(key) or default)
        for key, default in (("cpu_request", 8), ("cpu_limit", 16), ("memory_request", "16Gi"), ("memory_limit", MEMORY_LIMIT))
    }
    if implied:
        _cpu.check_threads(settings, quantity_bytes(sizes["cpu_limit"]))
    return sizes


def _memory_limit_mib(settings: t.Mapping[str, t.Any], row: _catalog.Row) -> int:
    return int(quantity_bytes(settings["vllm_memory_limit"] or row.get("memory_limit") or MEMORY_LIMIT) / 2**20)


def pod_security(user: int) -> dict[str, t.Any]:
    """The pods' security context: never root, files of the volume for the same group, the runtime's own seccomp profile."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def volume_permissions(engine: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The init container that gives the volume to the engine's user, for volumes that do not honour fsGroup."""
    return {
        "name": "volume-permissions",
        "image": engine["image"],
        "imagePullPolicy": engine["image_pull_policy"],
        "command": ["chown", f"{engine['run_as_user']}:{engine['run_as_user']}", DATA],
        "securityContext": {
            "runAsUser": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
        },
        "volumeMounts": [{"name": "data", "mountPath": DATA}],
    }


def _tolerations(settings: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """GPU nodes are often tainted with the resource's own name, so that nothing else lands there."""
    resource = GPU_RESOURCES[settings["vllm_accelerator"]]
    own = [{"key": resource, "operator": "Exists", "effect": effect} for effect in ("NoSchedule", "NoExecute")] if resource else []
    return own + list(settings["vllm_tolerations"])


def _min_gpu_memory_gb(settings: t.Mapping[str, t.Any], row: _catalog.Row) -> float:
    """Decimal GB that each GPU has to have: the user's word, else the row's. 0: whatever there is."""
    if settings["vllm_accelerator"] == "cpu":
        return 0
    asked = settings["vllm_min_gpu_memory_gb"]
    return float(row.get("min_gpu_memory_gb", 0) if asked is None else asked)


def _affinity(settings: t.Mapping[str, t.Any], row: _catalog.Row) -> dict[str, t.Any]:
    affinity: dict[str, t.Any] = {}
    label, gb = GPU_MEMORY_LABELS.get(settings["vllm_accelerator"]), _min_gpu_memory_gb(settings, row)
    if label and gb:
        enough = {"key": label, "operator": "Gt", "values": [str(memory_label_minimum_mib(gb) - 1)]}
        affinity["nodeAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [enough]}]}
        }
    if settings["vllm_storage_access_mode"] != "ReadWriteMany":
        # A volume of this access mode is mounted by one node at a time: replicas have to share it, old and new engines of a switch, too.
        same_node = _beside_engines(settings)
        affinity["podAffinity"] = (
            {"requiredDuringSchedulingIgnoredDuringExecution": [same_node]} if settings["vllm_replicas"] > 1 else _rather(same_node)
        )
    return affinity


def _beside_engines(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The node on which engines of this stack run."""
    return {
        "labelSelector": {"matchLabels": {"app": "vllm-backend", "app.kubernetes.io/instance": settings["vllm_stack_name"]}},
        "topologyKey": "kubernetes.io/hostname",
    }


def _rather(term: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}


def _prefetch_affinity(settings: t.Mapping[str, t.Any], row: _catalog.Row) -> dict[str, t.Any]:
    """Nodes on which the engine may run, and rather the one where an engine holds the volume already."""
    affinity = {key: value for key, value in _affinity(settings, row).items() if key == "nodeAffinity"}
    return {**affinity, "podAffinity": _rather(_beside_engines(settings))}


def _gpu_check(settings: t.Mapping[str, t.Any], row: _catalog.Row, gpu_count: int) -> dict[str, t.Any]:
    one_node = settings["vllm_replicas"] > 1 and settings["vllm_storage_access_mode"] != "ReadWriteMany"
    asked = settings["vllm_min_gpu_memory_gb"]
    return {
        "enabled": gpu_count > 0 and asked != 0,
        "min_memory_gb": _min_gpu_memory_gb(settings, row),
        "gpus_per_node": gpu_count * (settings["vllm_replicas"] if one_node else 1),
        "replicas": 1 if one_node else settings["vllm_replicas"],
        "accelerator": settings["vllm_accelerator"],
        # vLLM refuses to start where less than its share of a GPU is free
        "min_free_share": row.get("gpu_memory_utilization", _capacity.UTILIZATION),
        # the engines are replaced, and an Ollama of ours is stopped before they start
        "replaced_pods": {
            "namespace": settings["vllm_namespace"],
            "label_selector": f"app.kubernetes.io/instance={settings['vllm_stack_name']},app in (vllm-backend,ollama)",
        },
    }


def _fit(settings: t.Mapping[str, t.Any], row: _catalog.Row, kv_cache_dtype: str, gpu_count: int) -> dict[str, t.Any]:
    """What model_fit is asked, and what model_info has to read for it first (``info``; None when the facts are there)."""
    on_kubernetes, hub = settings["vllm_platform"] == "kubernetes", row.get("source") != "smoke"
    missing = _catalog.missing_facts(row)
    # a path names a folder of the volume, which can be read only where the volume is this machine's disk
    readable = hub and not (on_kubernetes and row["model"].startswith("/"))
    return {
        "enforce": settings["vllm_fit_check"],
        "info": {"model": row["model"], "revision": row.get("revision")} if missing and readable and settings["vllm_fit_check"] else None,
        "row": row,
        "gpu_count": max(1, gpu_count),
        "kv_cache_dtype": kv_cache_dtype,
        "memory_mib": _memory_limit_mib(settings, row) if on_kubernetes else None,
        "volume_gib": quantity_bytes(settings["vllm_storage_size"]) / 2**30
        if on_kubernetes and hub and not settings["vllm_storage_existing_claim"]
        else None,
    }


def _router(settings: t.Mapping[str, t.Any], namespace: str, labels: t.Mapping[str, str]) -> dict[str, t.Any]:
    fleet = _routers.Fleet(namespace, labels, ENGINE_PORT, settings["vllm_replicas"])
    router = _routers.ROUTERS[settings["vllm_router_type"]](router_image(settings)["image"], fleet)
    sizes: tuple[t.Literal["cpu_request", "memory_request", "memory_limit"], ...] = ("cpu_request", "memory_request", "memory_limit")
    for key in sizes:
        if settings[f"vllm_router_{key}"]:
            router[key] = str(settings[f"vllm_router_{key}"])
    listeners = router["listeners"]
    ports = [_listener_ports(listener) for listener in listeners]
    return {
        **router,
        "listeners": [{**listener, "ports": own} for listener, own in zip(listeners, ports)],
        "service_ports": [
            {"name": port["name"], "port": port["containerPort"], "targetPort": port["name"], "protocol": "TCP"}
            for own in ports
            for port in own
        ],
        "scrape": [{"port": own[-1]["name"], "path": "/metrics", "interval": "15s"} for own in ports],
        "replicas": settings["vllm_router_replicas"],
        "labels": {"app": "vllm-router", "app.kubernetes.io/instance": settings["vllm_stack_name"]},
    }


def _listener_ports(listener: _routers.Listener) -> list[dict[str, t.Any]]:
    """Container ports of a listener; the last one is where its metrics are."""
    ports: list[dict[str, t.Any]] = [{"name": listener["name"], "containerPort": listener["port"]}]
    if listener["metrics_port"] != listener["port"]:
        name = "metrics" if listener["name"] == "http" else f"metrics-{listener['name']}"
        ports.append({"name": name[:15], "containerPort": listener["metrics_port"]})
    return ports


def _secrets(settings: t.Mapping[str, t.Any], names: t.Mapping[str, str]) -> dict[str, t.Any]:
    """References to what is secret: each None, or name and key of a Secret in the namespace."""
    api_key: t.Optional[dict[str, str]] = None
    if settings["vllm_api_key_enabled"]:
        api_key = _secret_reference("vllm_api_key_secret", settings["vllm_api_key_secret"]) or {
            "name": names["secret"],
            "key": "VLLM_API_KEY",
        }
    hf_token = _secret_reference("vllm_hf_token_secret", settings["vllm_hf_token_secret"]) or {"name": names["secret"], "key": "HF_TOKEN"}
    return {"api_key": api_key, "hf_token": hf_token, "generate": bool(api_key) and not settings["vllm_api_key_secret"]}


def _secret_reference(variable: str, given: t.Any) -> t.Optional[dict[str, str]]:
    if not given:
        return None
    if not isinstance(given, t.Mapping) or set(given) != {"name", "key"}:
        raise ServingError(f"{variable}: name and key of an existing Secret are expected: {{name: my-secret, key: VLLM_API_KEY}}")
    return {"name": str(given["name"]), "key": str(given["key"])}


def _prefetch(settings: t.Mapping[str, t.Any], row: _catalog.Row, place: Place) -> t.Optional[dict[str, t.Any]]:
    """What has to be there before the engine starts, and how it is made; None for a folder of the user's, or where the engine fetches it.

    ``weights``: its name below the data folder, as prune_models.py has it. ``model_path``: what ``vllm serve`` is given.
    ``creates``: what is there when it is done.
    """
    if row.get("source") == "smoke":
        name = f"{row['model']}-{settings['vllm_smoke_model_digest'][:12]}"
        path = f"{place.data}/models/{name}"
        return {
            "name": name,
            "weights": f"models/{name}",
            "model_path": path,
            "creates": [path],
            "script": "smoke_model.py",
            "arguments": ["--row", row["model"], "--out", path],
            "hub": False,
        }
    if row["model"].startswith("/") or not settings["vllm_prefetch"]:
        return None
    folder = f"models--{row['model'].replace('/', '--')}"
    revision = str(row.get("revision") or "main")
    flags = [str(word) for word in row.get("extra_args", [])]
    load_format = flags[flags.index("--load-format") + 1] if "--load-format" in flags[:-1] else None
    return {
        "name": folder,
        "weights": folder,
        "model_path": row["model"],
        "creates": [f"{place.data}/huggingface/llmops-serving/{folder}@{revision}.json", f"{place.data}/huggingface/hub/{folder}"],
        "script": "fetch_model.py",
        "arguments": [
            *["--title", settings["vllm_model_name"], "--model", row["model"], "--revision", revision],
            *(["--load-format", load_format] if load_format else []),
            *(["--remote-code"] if row.get("trust_remote_code") else []),
        ],
        "hub": True,
    }


def _prefetch_env(env: t.Mapping[str, str], hf_endpoint: str) -> dict[str, str]:
    """Return the environment of what fetches: the engine's *env*, with the hub."""
    online = {key: value for key, value in env.items() if key != "HF_HUB_OFFLINE"}
    return {**online, **({"HF_ENDPOINT": hf_endpoint} if hf_endpoint else {})}


def _prefetch_job(
    settings: t.Mapping[str, t.Any], row: _catalog.Row, names: t.Mapping[str, str], prefetch: t.Mapping[str, t.Any]
) -> dict[str, t.Any]:
    """What the Job needs that prefetches. Its name tells apart all that it may be asked for."""
    asked = "\0".join([*prefetch["arguments"], settings["vllm_hf_endpoint"]])
    # a smoke model's own name ends in the digest of its script
    digest = hashlib.sha256(asked.encode()).hexdigest()[:8] if prefetch["hub"] else prefetch["name"].rpartition("-")[2]
    readable = re.sub(r"[^a-z0-9]+", "-", f"{names['prefetch']}-{settings['vllm_model_name']}".lower())
    return {
        "job": f"{readable[: MAX_LABEL - 1 - len(digest)].strip('-')}-{digest}",
        "command": ["python3", f"/scripts/{prefetch['script']}", *prefetch["arguments"]],
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        "affinity": _prefetch_affinity(settings, row),
    }


def _templates(
    settings: t.Mapping[str, t.Any], engine: t.Mapping[str, t.Any], router: t.Mapping[str, t.Any], prefetch: t.Optional[t.Any]
) -> list[str]:
    """Names of the templates to render."""
    names = ["namespace", "secret"]
    if not settings["vllm_storage_existing_claim"]:
        names.append("persistentvolumeclaim")
    if prefetch or engine["gpu_wait"]:
        names.append("scripts-configmap")
    if prefetch:
        names.append("prefetch-job")
    names += ["engine-deployment", "engine-service", "router-serviceaccount", "router-role", "router-rolebinding"]
    names += ["router-deployment", "router-service"]
    if settings["vllm_service_monitor_enabled"]:
        names += ["engine-servicemonitor", "router-servicemonitor"]
    if engine["replicas"] > 1:
        names.append("engine-poddisruptionbudget")
    if router["replicas"] > 1:
        names.append("router-poddisruptionbudget")
    return [f"kubernetes/{name}.yaml.j2" for name in names]
