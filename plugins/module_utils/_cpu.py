# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What an engine on CPUs is told beside its row: element type, size of the KV cache, threads. And what CPUs cannot do.

All of it follows vllm/platforms/cpu.py, utils/ompmultiprocessing.py and v1/attention/backends/cpu_attn.py of vLLM 0.32; docs/cpu.md says
why. *found* is ``cpu`` as host_check returns it: ``cores``, ``numa_nodes`` and ``features``; None where nobody has looked, as on
Kubernetes, where it is not known on which node the engine will be.
"""

from __future__ import annotations

import math
import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _capacity, _catalog
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kv_cache import MLA

Row = t.Mapping[str, t.Any]
Settings = t.Mapping[str, t.Any]
Found = t.Optional[t.Mapping[str, t.Any]]

MIB, GIB = 2**20, 2**30
BIND, THREADS, CACHE = "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE"
# Variables of the role that say nothing where GPUs serve.
VARIABLES = ("vllm_cpu_threads", "vllm_cpu_kv_cache_gib")

LEAST_CACHE_GIB = 2
# Where a memory limit leaves room, the cache is made for so many chats of full length, or for max_num_seqs if that is less.
CHATS = 4
BATCH = 2048  # max_num_batched_tokens of vLLM's server on CPUs (engine/arg_utils.py)

# Features by which a CPU computes in bfloat16 itself: x86-64, and the last aarch64.
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
# Weights that are computed as they are shipped, unless another element type is asked for.
PLAIN_FORMATS = frozenset({"bf16", "fp16", "fp32"})
# Weights that vLLM 0.32 has kernels for only with AMX tiles (scaled_mm/cpu.py, fused_moe/experts/cpu_moe.py).
AMX_FORMATS = frozenset({"fp8", "mxfp4"})
KV_CACHE_DTYPES = ("auto", "fp8", "fp8_e4m3", "fp8_e5m2")
# Flags that move something out of a GPU's memory, or choose a kernel of GPUs.
GPU_FLAGS = ("--cpu-offload-gb", "--kv-offloading-size", "--enable-sleep-mode", "--attention-backend", "--attention-config")

_CPU_LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def refuse_elsewhere(settings: Settings) -> None:
    """Raise ServingError where a variable is set that only engines on CPUs have."""
    for name in VARIABLES:
        if settings[name] not in (None, ""):
            raise ServingError(
                f"{name}: only vllm_accelerator: cpu has this, and it is {settings['vllm_accelerator']}. Remove one of the two."
            )


def settle(settings: Settings, name: str, row: Row, memory_mib: t.Optional[int], found: Found) -> dict[str, t.Any]:
    """Return *row* with what CPUs need. *memory_mib*: what the engine may use, None where nothing limits it.

    Raises ServingError for what CPUs cannot do.
    """
    _check(settings, name, row, found)
    # left alone, an engine on CPUs wants a C++ compiler
    settled: dict[str, t.Any] = {"enforce_eager": True, **row}
    if "dtype" not in row and _features(found) & BFLOAT16 and row.get("weights_format", "other") in PLAIN_FORMATS:
        settled["dtype"] = "bfloat16"
    _settle_batch(name, settled)
    asked = _asked_cache_gib(settings, name, row)
    if asked is not None:
        settled["kv_cache_memory_bytes"] = round(asked * GIB)
    settled.setdefault("kv_cache_memory_bytes", usual_cache_gib(settled, memory_mib) * GIB)
    return settled


def usual_cache_gib(row: Row, memory_mib: t.Optional[int]) -> int:
    """Return how large the cache of *row* is when nobody says, in whole GiB. Left alone, vLLM takes 92 % of the memory.

    Two, or what one chat of full length needs. Where *memory_mib* limits the engine, what weights and overhead leave of it, up to CHATS
    such chats.
    """
    if _catalog.missing_facts(dict(row)):
        return LEAST_CACHE_GIB
    serving = _capacity.Serving.of_row(row)
    cache = _capacity.cache_of(row, serving, None)
    # the first block of a cache is never given out
    chat, rest = cache.request_bytes(serving.max_model_len), cache.block_bytes
    one = math.ceil((chat + rest) / GIB)
    usual = max(one, LEAST_CACHE_GIB)
    if memory_mib is None:
        return usual
    several = math.ceil((chat * min(serving.max_num_seqs or CHATS, CHATS) + rest) / GIB)
    left = (memory_mib - _capacity.cpu_memory_mib({**row, "kv_cache_memory_bytes": 0})) * MIB // GIB
    return max(one, min(max(usual, several), left))


def environment(settings: Settings, row: Row, cpu_limit: t.Optional[float], found: Found) -> dict[str, str]:
    """Return what the engine's environment says of cache and threads. *cpu_limit*: CPUs of the pod, None on a machine of its own."""
    env = {}
    cache, odd = divmod(row["kv_cache_memory_bytes"], GIB)
    if not odd:
        # the same as --kv-cache-memory-bytes, for images whose vLLM does not know that on CPUs yet
        env[CACHE] = str(cache)
    threads = settings["vllm_cpu_threads"]
    if isinstance(threads, str):
        return {**env, BIND: threads}
    if threads is None:
        threads = _usual_threads(cpu_limit, found)
    # vLLM binds threads to cores without regard to a quota of CPUs, or to other engines, which bind theirs to the same ones
    return {**env, BIND: "nobind", THREADS: str(threads)} if threads else env


def pod_cpus(settings: Settings) -> dict[str, int]:
    """Return ``cpu_request`` and ``cpu_limit`` that follow from the threads; empty where no number of threads is asked for."""
    threads = settings["vllm_cpu_threads"]
    if not isinstance(threads, int):
        return {}
    # one more for the server and the scheduler, which are processes of their own
    return {"cpu_request": threads, "cpu_limit": threads + 1}


def check_threads(settings: Settings, cpu_limit: float) -> None:
    """Raise ServingError for more threads than *cpu_limit* CPUs: they would be stopped for a part of each moment, all at once."""
    threads = settings["vllm_cpu_threads"]
    if isinstance(threads, int) and threads > cpu_limit:
        raise ServingError(
            f"vllm_cpu_threads: {threads} on a CPU limit of {cpu_limit:g}. Set vllm_cpu_limit: {threads + 1} or more, or remove it, and it "
            "follows the threads."
        )


def threads_of(value: t.Any, on_kubernetes: bool) -> t.Union[int, str, None]:
    """Return ``vllm_cpu_threads`` as a number, ``auto``, a list of CPUs, or None for none. Raises ServingError."""
    text = str(value).strip() if value not in (None, "") else ""
    if not text or text == "auto":
        return text or None
    if text.isdigit() and int(text) > 0:
        return int(text)
    if not _CPU_LIST.fullmatch(text) or text.isdigit():
        raise ServingError(f'vllm_cpu_threads: "{value}" is neither a number of threads, nor a list of CPUs (0-7,16-23), nor auto.')
    if on_kubernetes:
        raise ServingError(
            f"vllm_cpu_threads: {text} names CPUs, which differ from node to node. Give a number; or auto, where the kubelet gives pods "
            "CPUs of their own (cpuManagerPolicy: static)."
        )
    return text


def check_kv_cache_dtype(key: str, wanted: str, name: str, row: Row, found: Found) -> None:
    """Raise ServingError where CPUs have no KV cache of the type *wanted*. *key* is the variable that says it."""
    kinds, head_dim, features = row.get("layers", {}), row.get("head_dim", 0), _features(found)
    if wanted not in KV_CACHE_DTYPES:
        why = f"on CPUs vLLM 0.32 has {', '.join(KV_CACHE_DTYPES)} only"
    elif wanted == "auto":
        return
    elif MLA in kinds:
        why = f"{name} has MLA, for which vLLM 0.32 has no fp8 on CPUs"
    elif head_dim % 32:
        why = f"fp8 on CPUs needs heads of a multiple of 32, and those of {name} have {head_dim}"
    elif found and "avx512f" not in features:
        why = "fp8 on CPUs needs AVX-512, which this one lacks"
    else:
        return
    raise ServingError(f"{key}: {wanted} cannot be had with vllm_accelerator: cpu: {why}. Set auto.")


def _check(settings: Settings, name: str, row: Row, found: Found) -> None:
    if (settings["vllm_tensor_parallel_size"] or 1) > 1:
        raise ServingError(
            f"vllm_tensor_parallel_size: {settings['vllm_tensor_parallel_size']} with vllm_accelerator: cpu. An engine on CPUs is not "
            "split; remove the line."
        )
    flags = {str(word).split("=", 1)[0].replace("_", "-") for word in row.get("extra_args", [])}
    gpu_flag = next((flag for flag in GPU_FLAGS if flag in flags), None)
    if gpu_flag:
        raise ServingError(f"vllm_model_configs.{name}.extra_args: {gpu_flag} is for GPUs, and vllm_accelerator is cpu. Remove it.")
    if row.get("weights_format") in AMX_FORMATS and found and "amx_tile" not in _features(found):
        raise ServingError(
            f"{name} is shipped in {row['weights_format']}, which vLLM 0.32 computes on CPUs with AMX only (Intel Sapphire Rapids and "
            "newer); this one has none. Serve a model whose weights_format is bf16: docs/catalog.md"
        )


def _settle_batch(name: str, row: dict[str, t.Any]) -> None:
    """Without chunked prefill a prompt is computed in one batch, which then has to hold the longest one."""
    length = row.get("max_model_len") or row.get("max_context")
    if "--no-enable-chunked-prefill" not in map(str, row.get("extra_args", [])) or not length:
        return
    if row.setdefault("max_num_batched_tokens", max(BATCH, length)) < length:
        raise ServingError(
            f"vllm_model_configs.{name}.max_num_batched_tokens: {row['max_num_batched_tokens']} is smaller than max_model_len ({length}), "
            "and --no-enable-chunked-prefill wants a whole prompt in one batch. Remove either."
        )


def _asked_cache_gib(settings: Settings, name: str, row: Row) -> t.Optional[float]:
    """Return the size that was asked for, in the variable or in vLLM's own environment variable; None where it was not."""
    asked = {}
    for where, env in ((f"vllm_model_configs.{name}.env", row.get("env", {})), ("vllm_extra_env", settings["vllm_extra_env"])):
        if CACHE in env:
            text = str(env[CACHE])
            if not text.isdigit() or not int(text):
                raise ServingError(f'{where}.{CACHE}: "{text}" is not a whole number of GiB. Or set vllm_cpu_kv_cache_gib: 0.5')
            asked[f"{where}.{CACHE}"] = float(text)
    if settings["vllm_cpu_kv_cache_gib"] is not None:
        asked["vllm_cpu_kv_cache_gib"] = settings["vllm_cpu_kv_cache_gib"]
    if len(set(asked.values())) > 1:
        said = " and ".join(f"{where}: {size:g}" for where, size in asked.items())
        raise ServingError(f"{said} are two sizes of one KV cache. Keep one of them.")
    return next(iter(asked.values()), None)


def _usual_threads(cpu_limit: t.Optional[float], found: Found) -> t.Optional[int]:
    """Return how many threads compute when nobody says: one core is left to the server. None: vLLM binds them as it sees fit."""
    if cpu_limit is not None:
        return max(1, int(cpu_limit) - 1)
    if not found or found["numa_nodes"] > 1:
        # vLLM keeps threads and memory on one of several NUMA nodes, which is worth more than what is said above
        return None
    return max(1, int(found["cores"]) - 1)


def _features(found: Found) -> frozenset[str]:
    return frozenset(found["features"]) if found else frozenset()
