# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The serving plan of the backend Ollama: the same contract as _plan's, for one server that has models instead of engines that are one.

``make_plan`` takes the variables of the role ollama and its catalog. Where both backends have a part, it has the same name and shape,
so that report, endpoint and page read either. What a platform adds is a function of its own, as ``_on_kubernetes``.
The variables of its environment: https://docs.ollama.com/faq, and envconfig/config.go of https://github.com/ollama/ollama.
"""

from __future__ import annotations

import math
import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import (
    _catalog,
    _images,
    _ollama_on_docker,
    _ollama_on_host,
    _plan,
    _routers,
)
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._kube import selector_text
from ansible_collections.llmops.serving.plugins.module_utils._quantity import quantity_bytes
from ansible_collections.llmops.serving.plugins.module_utils._stack import stack_suffix

PORT = _ollama_on_host.PORT
DATA = "/data"
PLATFORMS = ("kubernetes", *_ollama_on_host.PLATFORMS, _ollama_on_docker.PLATFORM)
VERSION = "0.35.1"
# The image for AMD has ROCm in place of CUDA; the other one runs on CPUs, too.
IMAGES = {"nvidia": f"ollama/ollama:{VERSION}", "cpu": f"ollama/ollama:{VERSION}", "amd": f"ollama/ollama:{VERSION}-rocm"}
KINDS = ["Namespace", "PersistentVolumeClaim", "Service", "Deployment"]
KV_CACHE_TYPES = ("f16", "q8_0", "q4_0")
# What a pull writes beside the model's layers, and room for the file system.
VOLUME_SHARE = 1.05
START_S = 300
LOOPBACK = "127.0.0.1"
MODEL_VARIABLE = "LLMOPS_SERVING_MODEL"
KEEP_ALIVE = re.compile(r"-?\d+|-?(\d+(\.\d+)?(ns|us|ms|s|m|h))+")
# [HOST[:PORT]/][NAMESPACE/]NAME:TAG
MODEL = re.compile(r"([A-Za-z0-9][\w.-]*(:\d+)?/)?([A-Za-z0-9][\w.-]*/)*[A-Za-z0-9][\w.-]*:[A-Za-z0-9][\w.-]*")
DIGEST = re.compile(r"(sha256:)?[0-9a-f]{12,64}")
SWITCHES = (
    "ollama_flash_attention",
    "ollama_update",
    "ollama_verify",
    "ollama_rollback",
    "ollama_volume_permissions",
    "ollama_memory_check",
    "ollama_docker_host_network",
)

KEYS: dict[str, tuple[type, ...]] = {
    "description": (str,),
    "vllm": (str,),
    "parameters_b": (int, float),
    "quantization": (str,),
    "weights_gib": (int, float),
    "max_context": (int,),
    "license": (str,),
    "tools": (bool,),
    "thinking": (bool,),
    "min_gpu_memory_gb": (int, float),
    "gpu_count": (int,),
    "context_length": (int,),
    "num_parallel": (int,),
    "digest": (str,),
    "cpu_request": (int, float, str),
    "cpu_limit": (int, float, str),
    "memory_request": (str,),
    "memory_limit": (str,),
}

Row = dict[str, t.Any]


def object_names(stack: str) -> dict[str, str]:
    """Names of the objects: as documented for the stack "chat", with the stack's name behind them for every other."""
    suffix = stack_suffix(stack)
    return {
        "engine": f"ollama{suffix}",
        "claim": f"ollama{suffix}",
        "prefetch": f"ollama-prefetch{suffix}",
        "state": f"ollama-state{suffix}",
    }


def make_plan(
    settings: t.Mapping[str, t.Any],
    catalog: t.Mapping[str, t.Any],
    host: t.Optional[t.Mapping[str, t.Any]] = None,
    options: t.Optional[t.Mapping[str, t.Any]] = None,
) -> dict[str, t.Any]:
    """Return the plan for *settings* (the role's variables by name), or raise ServingError for the first thing that cannot work.

    *host*: what host_check found on the machine, on other platforms than Kubernetes; None when nobody looked. *options*: the role's
    argument specification, by which variables are refused that the platform does not have.
    """
    settings = _checked(settings, options)
    table = _table(catalog, settings["ollama_model_configs"])
    name = _model_name(settings, table)
    row = _complete(settings, name, table[name])
    gpu_count = _gpus_wanted(settings, row)
    weights_gib = float(row.get("weights_gib") or _plan.UNKNOWN_WEIGHTS_GIB)
    load_s = math.ceil((START_S + weights_gib * 1024 / _plan.LOAD_MIB_PER_S) / 60) * 60
    alias = _alias(settings, name)
    common = {
        "stack": settings["ollama_stack_name"],
        "platform": settings["ollama_platform"],
        "accelerator": settings["ollama_accelerator"],
        "backend": "ollama",
        "owner": {"instance": settings["ollama_stack_name"], "component": "ollama"},
        "model": {
            "name": name,
            "alias": alias,
            "source": name,
            "license": row.get("license"),
            "max_model_len": row["context_length"],
            "max_num_seqs": row["num_parallel"],
            "tools": row.get("tools", False),
            "weights_gib": row.get("weights_gib"),
            "digest": str(row.get("digest") or "").rpartition(":")[2] or None,
        },
        "pull": {"refresh": settings["ollama_update"], "timeout_s": 900 + math.ceil(weights_gib * 1024 / _plan.SLOWEST_DOWNLOAD_MIB_PER_S)},
        "load": {"gpu": gpu_count > 0, "timeout_s": load_s},
        "wait": {"timeout_s": START_S},
        "weights": {name: {"model": name, "gib": row.get("weights_gib")}},
        "verify": {
            "enabled": settings["ollama_verify"],
            "request": {
                "model": name,
                # as Ollama lists it
                "aliases": [f"{word}:latest" for word in filter(None, [alias])],
                "tool_calls": row.get("tools", False),
                "reasoning": False,
                "max_model_len": row["context_length"],
            },
        },
        "switch": {"strategy": "recreate", "rollback": settings["ollama_rollback"]},
        # what the report reads of a plan: a model of a hub, which is downloaded
        "fit": {"row": {"model": name, "source": "hub"}},
        "images": [engine_image(settings)] if settings["ollama_platform"] in ("kubernetes", "docker") else [],
    }
    if settings["ollama_platform"] in _ollama_on_host.PLATFORMS:
        listens = f"{LOOPBACK}:{_ollama_on_host.port(settings, host)}"
        env = _environment_on_one_machine(settings, name, row, gpu_count, load_s, _ollama_on_host.data_dir(settings), listens)
        part = _ollama_on_host.make(settings, row, name, gpu_count, env, host, VERSION, alias)
        return {**common, "gpu_check": _gpu_check(settings, row, gpu_count), **part}
    if settings["ollama_platform"] == _ollama_on_docker.PLATFORM:
        listens = _ollama_on_docker.listens_at(settings, _ollama_on_host.port(settings, host))
        env = _environment_on_one_machine(settings, name, row, gpu_count, load_s, DATA, listens)
        part = _ollama_on_docker.make(settings, row, name, gpu_count, env, host, engine_image(settings)["by_digest"], alias)
        return {**common, "gpu_check": _gpu_check(settings, row, gpu_count), **part}
    _check_volume(settings, name, row)
    return {**common, **_on_kubernetes(settings, name, row, gpu_count, load_s)}


# --- variables ---------------------------------------------------------------------------------------------------------------------


def _checked(settings: t.Mapping[str, t.Any], options: t.Optional[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    checked = dict(settings)
    platform = settings["ollama_platform"]
    if platform not in PLATFORMS:
        raise ServingError(f"llm_platform: {platform} is not known. It may be {', '.join(PLATFORMS)}.")
    for key in SWITCHES:
        checked[key] = _plan.switch_value(key, settings[key])
    checked["ollama_run_as_user"] = _plan.whole(key="ollama_run_as_user", value=settings["ollama_run_as_user"], least=1)
    for key in ("ollama_gpu_count", "ollama_context_length", "ollama_num_parallel", "ollama_port"):
        checked[key] = None if settings[key] in (None, "") else _plan.whole(key, settings[key], least=1)
    asked = settings["ollama_min_gpu_memory_gb"]
    try:
        checked["ollama_min_gpu_memory_gb"] = None if asked in (None, "") else float(asked)
    except (TypeError, ValueError):
        raise ServingError(f'llm_min_gpu_memory_gb: "{asked}" is not a number. Give decimal GB, as cards are sold: 80') from None
    for key in ("ollama_stack_name", "ollama_namespace"):
        _plan.check_dns_label(key, settings[key])
    _plan.choice(settings, "ollama_accelerator", list(_plan.GPU_RESOURCES))
    _plan.choice(settings, "ollama_kv_cache_type", KV_CACHE_TYPES)
    keep = str(settings["ollama_keep_alive"])
    if not KEEP_ALIVE.fullmatch(keep):
        raise ServingError(f'ollama_keep_alive: "{keep}" is no time for Ollama. Give seconds, a duration like 30m, or -1 for ever.')
    if checked["ollama_kv_cache_type"] != "f16" and not checked["ollama_flash_attention"]:
        raise ServingError(
            f"ollama_kv_cache_type: {settings['ollama_kv_cache_type']} needs ollama_flash_attention: true; without it Ollama takes f16."
        )
    if platform in _ollama_on_host.PLATFORMS:
        _ollama_on_host.check(checked, options)
    elif platform == _ollama_on_docker.PLATFORM:
        _ollama_on_docker.check(checked, options)
    else:
        _ollama_on_host.refuse(checked, options, (*_ollama_on_host.HOST_ONLY, *_ollama_on_host.PROGRAM_ONLY), "single hosts")
    if platform != _ollama_on_docker.PLATFORM:
        _ollama_on_host.refuse(checked, options, _ollama_on_docker.ONLY, "the platform docker")
    return checked


def _table(catalog: t.Mapping[str, t.Any], overrides: t.Any) -> dict[str, Row]:
    """Return the catalog with the user's rows merged over it; every override is checked, not only the one that is served."""
    if not isinstance(overrides, t.Mapping):
        raise ServingError("ollama_model_configs has to be a mapping of model names to rows.")
    table: dict[str, Row] = {str(name): dict(row) for name, row in catalog.items()}
    for name, changes in overrides.items():
        where = f"ollama_model_configs.{name}"
        if not isinstance(changes, t.Mapping):
            raise ServingError(f"{where}: a mapping of keys is expected. Example: {{context_length: 8192}}")
        if not MODEL.fullmatch(str(name)):
            raise ServingError(f'{where}: "{name}" is no name of Ollama\'s with its tag. Write it like gpt-oss:20b')
        for key, value in changes.items():
            if key not in KEYS:
                raise ServingError(f"{where}.{key}: no such key{did_you_mean(str(key), KEYS)}. Known: {', '.join(KEYS)}.")
            if value is not None and (not isinstance(value, KEYS[key]) or isinstance(value, bool) != (KEYS[key] == (bool,))):
                raise ServingError(f"{where}.{key}: {value!r} is not {' or '.join(kind.__name__ for kind in KEYS[key])}.")
        if changes.get("digest") and not DIGEST.fullmatch(changes["digest"]):
            raise ServingError(f"{where}.digest: 12 to 64 hexadecimal digits are expected, as `ollama list` and /api/tags show them.")
        table[str(name)] = _catalog.merge(table.get(str(name), {}), changes)
    return table


def _model_name(settings: t.Mapping[str, t.Any], table: t.Mapping[str, Row]) -> str:
    """Return the model to serve: the one asked for, else what Ollama's library calls the model that vLLM would serve."""
    name, counterpart = settings["ollama_model_name"], settings["ollama_counterpart_of"]
    if name:
        if name not in table:
            raise ServingError(
                f'ollama_model_name: "{name}" is not in the catalog{did_you_mean(str(name), table)}. Known: {", ".join(sorted(table))}. '
                f'Any other model is a new row, which may be empty: ollama_model_configs: {{"{name}": {{}}}}'
            )
        return str(name)
    found = next((key for key, row in table.items() if row.get("vllm") == counterpart), None)
    if found is None:
        raise ServingError(
            f"vllm_model_name: {counterpart} has no counterpart in Ollama's library that the catalog knows. "
            "Set ollama_model_name, for example to gpt-oss:20b."
        )
    return found


def _complete(settings: t.Mapping[str, t.Any], name: str, row: Row) -> Row:
    """Return *row* with what the variables say beside it, and with defaults."""
    asked = {key: settings[f"ollama_{key}"] for key in ("context_length", "num_parallel") if settings[f"ollama_{key}"]}
    whole = {"context_length": min(8192, row.get("max_context", 8192)), "num_parallel": 1, **row, **asked}
    if whole["context_length"] > row.get("max_context", whole["context_length"]):
        raise ServingError(
            f"{name} knows {row['max_context']} tokens, {whole['context_length']} are asked for. Set a context_length up to that."
        )
    return whole


def _gpus_wanted(settings: t.Mapping[str, t.Any], row: Row) -> int:
    if settings["ollama_accelerator"] == "cpu":
        if settings["ollama_gpu_count"]:
            asked = settings["ollama_gpu_count"]
            raise ServingError(f"ollama_gpu_count: {asked} GPUs with ollama_accelerator: cpu. Remove one of the two.")
        return 0
    return int(settings["ollama_gpu_count"] or len(settings["ollama_gpu_ids"]) or row.get("gpu_count") or 1)


def _alias(settings: t.Mapping[str, t.Any], name: str) -> t.Optional[str]:
    alias = str(settings["ollama_served_model_alias"] or "")
    if not alias or alias == name:
        return None
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", alias):
        raise ServingError(f'ollama_served_model_alias: "{alias}" is no name: letters, digits and "._-", a letter or a digit first.')
    return alias


def _check_volume(settings: t.Mapping[str, t.Any], name: str, row: Row) -> None:
    needed = float(row.get("weights_gib") or 0) * VOLUME_SHARE
    size = quantity_bytes(settings["ollama_storage_size"]) / 2**30
    if needed > size and not settings["ollama_storage_existing_claim"]:
        raise ServingError(
            f"{name} takes {needed:.0f} GiB of the volume, ollama_storage_size is {settings['ollama_storage_size']}. "
            f"Set ollama_storage_size: {math.ceil(needed / 10) * 10}Gi or more."
        )


# --- parts of the plan -------------------------------------------------------------------------------------------------------------


def environment(
    settings: t.Mapping[str, t.Any], row: Row, gpu_count: int, load_s: int, data: str = DATA, listens: str = f"0.0.0.0:{PORT}"
) -> dict[str, str]:
    """Return the environment of the server, on whichever platform."""
    env = {
        "HOME": data,
        "OLLAMA_HOST": listens,
        "OLLAMA_MODELS": f"{data}/models",
        "OLLAMA_CONTEXT_LENGTH": str(row["context_length"]),
        "OLLAMA_NUM_PARALLEL": str(row["num_parallel"]),
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": str(settings["ollama_keep_alive"]),
        "OLLAMA_LOAD_TIMEOUT": f"{load_s}s",
        "OLLAMA_FLASH_ATTENTION": "1" if settings["ollama_flash_attention"] else "0",
        "OLLAMA_KV_CACHE_TYPE": settings["ollama_kv_cache_type"],
        # a start would remove what an interrupted pull has brought
        "OLLAMA_NOPRUNE": "1",
        # nothing of a private chat goes to models that others run
        "OLLAMA_NO_CLOUD": "1",
    }
    if gpu_count > 1:
        env["OLLAMA_SCHED_SPREAD"] = "1"
    return {**env, **{str(key): str(value) for key, value in settings["ollama_extra_env"].items()}}


def engine_image(settings: t.Mapping[str, t.Any]) -> _images.Entry:
    """Return which image the server has, as _images.choose tells it. Raises ServingError."""
    image = settings["ollama_image"] or IMAGES[settings["ollama_accelerator"]]
    return _images.choose("ollama_image", image, settings.get("ollama_pins"), settings["ollama_image_registry"])


def _environment_on_one_machine(
    settings: t.Mapping[str, t.Any], name: str, row: Row, gpu_count: int, load_s: int, data: str, listens: str
) -> dict[str, str]:
    """Return it with the model's name: another model is another plan, whose server starts anew."""
    return {**environment(settings, row, gpu_count, load_s, data, listens), MODEL_VARIABLE: name}


def _gpu_check(settings: t.Mapping[str, t.Any], row: Row, gpu_count: int) -> dict[str, t.Any]:
    return {
        "enabled": gpu_count > 0 and settings["ollama_min_gpu_memory_gb"] != 0,
        "min_memory_gb": _min_gpu_memory_gb(settings, row),
        "gpus_per_node": gpu_count,
        "replicas": 1,
        "accelerator": settings["ollama_accelerator"],
    }


def _on_kubernetes(settings: t.Mapping[str, t.Any], name: str, row: Row, gpu_count: int, load_s: int) -> dict[str, t.Any]:
    stack, namespace = settings["ollama_stack_name"], settings["ollama_namespace"]
    names = object_names(stack)
    labels = {"app": "ollama", "app.kubernetes.io/instance": stack}
    prefetch_labels = {**labels, "app": "ollama-prefetch"}
    engine = _engine(settings, row, gpu_count, load_s)
    service = {"namespace": namespace, "name": names["engine"], "port": PORT}
    url = f"http://{names['engine']}.{namespace}:{PORT}/v1"
    templates = ["namespace", *([] if settings["ollama_storage_existing_claim"] else ["persistentvolumeclaim"])]
    return {
        "namespace": namespace,
        "names": names,
        "labels": labels,
        "engine": engine,
        "service": service,
        "prefetch": {
            "owner": {"instance": stack, "component": "ollama-prefetch"},
            "labels": prefetch_labels,
            "pods": {"namespace": namespace, "label_selector": selector_text(prefetch_labels), "port": PORT},
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "4Gi"}},
            "env": {key: value for key, value in engine["env"].items() if not key.startswith("OLLAMA_KV")},
            "templates": ["kubernetes/prefetch-deployment.yaml.j2"],
        },
        "gpu_check": {
            **_gpu_check(settings, row, gpu_count),
            "replaced_pods": {"namespace": namespace, "label_selector": f"app.kubernetes.io/instance={stack},app in (vllm-backend,ollama)"},
        },
        "pod_security": _plan.pod_security(settings["ollama_run_as_user"]),
        "container_security": _plan.CONTAINER_SECURITY,
        "volume_permissions": _plan.volume_permissions(engine) if settings["ollama_volume_permissions"] else None,
        "storage": {
            "claim": settings["ollama_storage_existing_claim"] or names["claim"],
            "size": settings["ollama_storage_size"],
            "class": settings["ollama_storage_class"],
            "access_mode": settings["ollama_storage_access_mode"],
        },
        "kinds": KINDS,
        "storage_templates": [f"kubernetes/{template}.yaml.j2" for template in templates],
        "templates": [f"kubernetes/{template}.yaml.j2" for template in (*templates, "deployment", "service")],
        "endpoint": {
            "url": url,
            # the page's own way: there is no router that would keep a chat on its engine, and no key
            "session_url": url,
            "session_header": _routers.SESSION_HEADER,
            "model": name,
            "alias": _alias(settings, name),
            "service": names["engine"],
            "port": PORT,
            "api_key_secret": None,
        },
    }


def _engine(settings: t.Mapping[str, t.Any], row: Row, gpu_count: int, load_s: int) -> dict[str, t.Any]:
    accelerator = settings["ollama_accelerator"]
    resource = _plan.GPU_RESOURCES[accelerator]
    # on CPUs the weights are in the container's memory, on GPUs they pass through it
    memory_gi = 32 if resource else max(8, math.ceil(float(row.get("weights_gib") or 16) * 1.2) + 4)
    sizes = {
        key: str(settings[f"ollama_{key}"] or row.get(key) or default)
        for key, default in (
            ("cpu_request", 4),
            ("cpu_limit", 16),
            ("memory_request", "8Gi" if resource else f"{memory_gi}Gi"),
            ("memory_limit", f"{memory_gi}Gi"),
        )
    }
    requests = {"cpu": sizes["cpu_request"], "memory": sizes["memory_request"]}
    limits = {"cpu": sizes["cpu_limit"], "memory": sizes["memory_limit"]}
    if resource:
        requests[resource] = limits[resource] = str(gpu_count)
    return {
        "image": engine_image(settings)["image"],
        "image_pull_policy": settings["ollama_image_pull_policy"],
        "image_pull_secrets": [{"name": secret} for secret in settings["ollama_image_pull_secrets"]],
        "command": ["ollama", "serve"],
        "env": environment(settings, row, gpu_count, load_s),
        "port": PORT,
        "replicas": 1,
        "gpu_count": gpu_count,
        "gpu_resource": resource,
        "resources": {"requests": requests, "limits": limits},
        # two servers must neither write one volume nor hold one GPU
        "strategy": {"type": "Recreate"},
        "run_as_user": settings["ollama_run_as_user"],
        "runtime_class": settings["ollama_runtime_class"],
        "priority_class": settings["ollama_priority_class"],
        "node_selector": settings["ollama_node_selector"],
        "tolerations": _tolerations(settings),
        "affinity": _affinity(settings, row),
        "data_path": DATA,
        "termination_grace_s": 30,
    }


def _tolerations(settings: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    resource = _plan.GPU_RESOURCES[settings["ollama_accelerator"]]
    own = [{"key": resource, "operator": "Exists", "effect": effect} for effect in ("NoSchedule", "NoExecute")] if resource else []
    return own + list(settings["ollama_tolerations"])


def _min_gpu_memory_gb(settings: t.Mapping[str, t.Any], row: Row) -> float:
    if settings["ollama_accelerator"] == "cpu":
        return 0
    asked = settings["ollama_min_gpu_memory_gb"]
    return float(row.get("min_gpu_memory_gb", 0) if asked is None else asked)


def _affinity(settings: t.Mapping[str, t.Any], row: Row) -> dict[str, t.Any]:
    """Nodes whose GPUs have the memory; the pod that pulls goes there, too, so that a volume that is bound late is bound there."""
    label, gb = _plan.GPU_MEMORY_LABELS.get(settings["ollama_accelerator"]), _min_gpu_memory_gb(settings, row)
    if not label or not gb:
        return {}
    enough = {"key": label, "operator": "Gt", "values": [str(_plan.memory_label_minimum_mib(gb) - 1)]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [enough]}]}}}
