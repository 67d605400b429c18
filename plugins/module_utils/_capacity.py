# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Whether a model fits: weights, overhead and KV cache against the memory of a GPU, or of a machine without one.

What vLLM 0.32 does at its start (v1/worker/gpu_worker.py): it takes ``gpu_memory_utilization`` of the GPU, loads its part of the weights,
runs a step of the largest batch to see what that needs beside them, and gives the rest to the KV cache. The rest is computed here before
anything is downloaded. The weights and the cache are arithmetic (``_kv_cache``); what the run needs is an estimate with an error band,
fitted to published logs (docs/capacity.md). So there are three verdicts: it fits even if the estimate is too low by its error, it does
not even if the estimate is too high by its error, or it lies within the error.
"""

from __future__ import annotations

import dataclasses
import math
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._catalog import GPU_COUNTS, splits
from ansible_collections.llmops.serving.plugins.module_utils._gpu import FREE_SHARE
from ansible_collections.llmops.serving.plugins.module_utils._kv_cache import (
    ELEMENT_BYTES,
    MLA,
    PACKED_MLA_BYTES,
    Cache,
    Engine,
    Shape,
    token_bytes,
)

Row = t.Mapping[str, t.Any]

MIB, GIB = 2**20, 2**30

FITS, WITHIN_ERROR, DOES_NOT_FIT, UNKNOWN = "fits", "within_error", "does_not_fit", "unknown"
# from the worst on
VERDICTS = (DOES_NOT_FIT, WITHIN_ERROR, UNKNOWN, FITS)

UTILIZATION = FREE_SHARE  # vLLM takes this share by default, and refuses to start where less is free
# A long answer with its question; what people mean by a chat when they ask for how many users there is room.
TYPICAL_TOKENS = 8192

# Loaded weights against the files: buffers and padding of dense models; MXFP4 experts are padded from 2880 to 3072 and repacked
# (64.4 to 66.0 GiB of 60.8, vllm-project/vllm issues 33155 and 23278).
LOADED = {"mxfp4": 1.09}
LOADED_USUALLY = 1.01
# What vLLM for CPUs holds beside weights and cache, measured with the smoke model; and weights are copied while they are loaded.
CPU_ENGINE_MIB = 1500
CPU_LOADED = 1.1

# Flags of `extra_args` that change what is needed in ways that are not computed here: then the verdict is a warning at most.
UNKNOWN_FLAGS = frozenset(
    """--pipeline-parallel-size --data-parallel-size --decode-context-parallel-size --prefill-context-parallel-size --cpu-offload-gb
    --speculative-config --quantization --enable-lora --kv-transfer-config --load-format --num-gpu-blocks-override --hf-overrides
    --additional-config --kv-offloading-size --limit-mm-per-prompt --language-model-only --performance-mode --enable-expert-parallel
    --compilation-config --max-cudagraph-capture-size --cudagraph-capture-sizes --attention-config --attention-backend
    --kv-cache-dtype-skip-layers --mamba-cache-mode --mamba-block-size --mamba-cache-dtype --mamba-ssm-cache-dtype
    --no-enable-chunked-prefill --no-async-scheduling -pp -dp -dcp -pcp -ep -q -sc -cc -ac -O -O0 -O1 -O2 -O3""".split()
)
# Lets Llama 4 keep the hybrid KV cache manager (config/vllm.py).
CHUNKED_HYBRID = "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE"


class GpuClass(t.NamedTuple):
    """Defaults that vLLM chooses by the size of the GPU (EngineArgs.get_batch_defaults), and our estimate of the overhead there.

    ``base_gib``: context and activations. ``logits_copies``: how often the sampler's pass holds the logits of all sequences in float32.
    ``error_gib``: by how much the estimate may be wrong. All three are fitted to published logs, see benchmarks/published_logs.py.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    base_gib: float
    logits_copies: int
    error_gib: float


BLACKWELL = GpuClass(16384, 1024, 1.0, 8, 1.5)
HOPPER = GpuClass(8192, 1024, 1.0, 8, 1.5)
SMALLER = GpuClass(2048, 256, 0.4, 3, 1.0)
# What more an engine takes: CUDA graphs (subtracted since vLLM 0.21), experts, and buffers of several GPUs that work together.
GRAPHS_GIB, EXPERTS_GIB, PARALLEL_GIB = 0.4, 0.4, 0.5


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as drivers and node labels describe it. ``memory_mib`` is what nvidia-smi calls memory.total."""

    product: str
    memory_mib: int
    compute_capability: t.Optional[str] = None

    @property
    def total_bytes(self) -> float:
        """Memory that CUDA tells a program of, which the share is taken of: less than nvidia-smi's, see benchmarks/cuda_totals.yml."""
        return (self.memory_mib * 0.995 - 300) * MIB

    @property
    def gpu_class(self) -> GpuClass:
        """What vLLM takes this GPU for."""
        if self.total_bytes >= 160 * GIB:
            return BLACKWELL
        if self.total_bytes >= 70 * GIB and "a100" not in self.product.lower():
            return HOPPER
        return SMALLER


@dataclasses.dataclass(frozen=True)
class Serving:
    """How a row is to be served. None: vLLM's own choice."""

    max_model_len: int
    max_num_seqs: t.Optional[int] = None
    max_num_batched_tokens: t.Optional[int] = None
    gpu_memory_utilization: float = UTILIZATION
    kv_cache_memory_bytes: t.Optional[int] = None
    kv_cache_dtype: str = "auto"
    dtype: str = "auto"
    enforce_eager: bool = False
    block_size: t.Optional[int] = None
    hybrid: bool = True
    chunked_hybrid: bool = False
    prefix_caching: bool = True
    unknown_flags: tuple[str, ...] = ()

    @classmethod
    def of_row(cls, row: Row, kv_cache_dtype: str = "auto") -> Serving:
        """Read the choices of *row*, those that stand in ``extra_args`` too."""
        # vLLM takes --block_size for --block-size, and --speculative-config.method for a key of --speculative-config
        words = [(_flag(word), str(word)) for arg in row.get("extra_args", []) for word in str(arg).split("=", 1)]
        flags = {flag for flag, _word in words}
        sizes = [after for (flag, _word), (_flag_after, after) in zip(words, words[1:]) if flag == "--block-size"]
        block_size = int(sizes[-1]) if sizes and sizes[-1].isdigit() else None
        unknown = sorted(flags & UNKNOWN_FLAGS)
        if kv_cache_dtype not in ELEMENT_BYTES and kv_cache_dtype not in PACKED_MLA_BYTES:
            unknown.append(f"--kv-cache-dtype {kv_cache_dtype}")
        return cls(
            max_model_len=row.get("max_model_len") or row["max_context"],
            max_num_seqs=row.get("max_num_seqs"),
            max_num_batched_tokens=row.get("max_num_batched_tokens"),
            gpu_memory_utilization=float(row.get("gpu_memory_utilization", UTILIZATION)),
            kv_cache_memory_bytes=row.get("kv_cache_memory_bytes"),
            kv_cache_dtype=kv_cache_dtype,
            dtype=row.get("dtype", "auto"),
            enforce_eager=bool(row.get("enforce_eager", False)),
            block_size=block_size,
            hybrid="--disable-hybrid-kv-cache-manager" not in flags,
            prefix_caching="--no-enable-prefix-caching" not in flags,
            chunked_hybrid=str(row.get("env", {}).get(CHUNKED_HYBRID, "0")) not in ("0", ""),
            unknown_flags=tuple(unknown),
        )

    @property
    def is_float32(self) -> bool:
        """Whether the model computes in 4 bytes an element."""
        return self.dtype in ("float32", "float")

    @property
    def element_bytes(self) -> int:
        """Bytes of an element of the cache; types that are not in the table are taken for one byte."""
        return 4 if self.kv_cache_dtype == "auto" and self.is_float32 else ELEMENT_BYTES.get(self.kv_cache_dtype, 1)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Where the memory of one GPU, or of the machine, goes; bytes. ``overhead`` may be wrong by ``error`` either way."""

    total: float
    budget: float
    weights: float
    overhead: float
    error: float
    kv_cache: float


@dataclasses.dataclass(frozen=True)
class Fit:
    """What one engine gets on *count* GPUs, or on CPUs (*gpu* None).

    ``longest``: tokens of the longest request that fits, ``longest_surely`` even if the estimate is too low by its error.
    ``typical``: requests of TYPICAL_TOKENS that fit at a time.
    """

    verdict: str
    serving: Serving
    gpu: t.Optional[Gpu]
    count: int
    memory: Memory
    concurrency: float
    tokens: int
    typical: int
    request_bytes: int
    longest: int
    longest_surely: int

    def report(self) -> dict[str, t.Any]:
        """Return it as a module does: GiB with two decimals, and never a negative cache."""
        memory = self.memory
        return {
            "verdict": self.verdict,
            "product": None if self.gpu is None else self.gpu.product,
            "gpu_count": self.count,
            "memory_gib": {
                "total": _gib(memory.total),
                "budget": _gib(memory.budget),
                "weights": _gib(memory.weights),
                "overhead": _gib(memory.overhead),
                "overhead_error": _gib(memory.error),
                "kv_cache": _gib(max(0.0, memory.kv_cache)),
                "missing": _gib(max(0.0, -memory.kv_cache)),
                "left": _gib(max(0.0, memory.total - memory.budget)),
            },
            "max_model_len": self.serving.max_model_len,
            "request_gib": _gib(self.request_bytes),
            "kv_cache_tokens": self.tokens,
            "concurrency": round(self.concurrency, 2),
            "chats": {
                "full_length": int(self.concurrency),
                "typical": self.typical,
                "typical_tokens": min(TYPICAL_TOKENS, self.serving.max_model_len),
                "at_a_time": self.serving.max_num_seqs,
            },
            "longest_tokens": self.longest,
            "longest_tokens_surely": self.longest_surely,
        }


def loaded_bytes(row: Row, serving: Serving, tensor_parallel: int = 1) -> float:
    """Bytes of the weights on one GPU: as shipped, with what loading adds, split over *tensor_parallel* GPUs."""
    weights_format = row.get("weights_format", "")
    gib = float(row["weights_gib"]) * _widening(weights_format, serving.dtype)
    return gib * GIB * LOADED.get(weights_format, LOADED_USUALLY) / tensor_parallel


def overhead_bytes(row: Row, serving: Serving, gpu: Gpu, tensor_parallel: int = 1) -> float:
    """Bytes that an engine needs on a GPU beside weights and cache: CUDA context, activations, CUDA graphs. An estimate.

    The sampler's pass over ``max_num_seqs`` rows of the whole vocabulary is the part that differs most: vLLM rehearses it with 1024
    sequences on an H100 and 256 on an A100, unless it is told otherwise.
    """
    kind = gpu.gpu_class
    sequences = serving.max_num_seqs or min(kind.max_num_seqs, serving.max_num_batched_tokens or kind.max_num_batched_tokens)
    more = 0.0 if serving.enforce_eager else GRAPHS_GIB
    more += EXPERTS_GIB if "active_parameters_b" in row else 0.0
    more += PARALLEL_GIB if tensor_parallel > 1 else 0.0
    return (kind.base_gib + more) * GIB + kind.logits_copies * sequences * int(row["vocab_size"]) * 4


def cache_of(row: Row, serving: Serving, gpu: t.Optional[Gpu], tensor_parallel: int = 1) -> Cache:
    """Return the layout of the KV cache on *gpu*, or on CPUs for None."""
    mla = bool(row["layers"].get(MLA))
    if gpu is None:
        # platforms/cpu.py: blocks of 128, kernels of 32; MLA in blocks of 16 only; no asynchronous scheduling
        block, kernel, batches, batch = (16, 16, 1, 2048) if mla else (serving.block_size or 128, 32, 1, 2048)
    else:
        usual = _mla_block(gpu, serving) if mla else 16
        block, kernel, batches, batch = serving.block_size or usual, 16, 2, gpu.gpu_class.max_num_batched_tokens
    engine = Engine(
        kv_cache_dtype=serving.kv_cache_dtype,
        element_bytes=serving.element_bytes,
        block_tokens=block,
        kernel_tokens=kernel,
        tensor_parallel=tensor_parallel,
        max_num_batched_tokens=serving.max_num_batched_tokens or batch,
        concurrent_batches=batches,
        prefix_caching=serving.prefix_caching,
        hybrid=serving.hybrid,
        chunked_hybrid=serving.chunked_hybrid,
    )
    return Cache(Shape.of_row(row), engine)


def fit_gpu(row: Row, serving: Serving, gpu: Gpu, count: int = 1) -> Fit:
    """Return what an engine over *count* GPUs like *gpu* gets. *row* is complete (``_catalog.missing_facts`` has nothing)."""
    total = gpu.total_bytes
    weights = loaded_bytes(row, serving, count)
    overhead = overhead_bytes(row, serving, gpu, count)
    error = gpu.gpu_class.error_gib * GIB
    if serving.kv_cache_memory_bytes:
        # --kv-cache-memory-bytes: the share does not matter, but it all has to be there
        budget, cache = weights + overhead + serving.kv_cache_memory_bytes, float(serving.kv_cache_memory_bytes)
        return _judged(row, serving, gpu, count, Memory(total, budget, weights, overhead, error, cache))
    budget = math.ceil(total * serving.gpu_memory_utilization)
    return _judged(row, serving, gpu, count, Memory(total, budget, weights, overhead, error, budget - weights - overhead))


def fit_cpu(row: Row, serving: Serving, memory_mib: t.Optional[int] = None) -> Fit:
    """Return what an engine on CPUs gets; its cache has the size that the row says. *memory_mib*: what it may use, None: unknown."""
    weights = float(row["weights_gib"]) * GIB * _widening(row.get("weights_format", ""), serving.dtype) * CPU_LOADED
    overhead, cache = float(CPU_ENGINE_MIB * MIB), float(serving.kv_cache_memory_bytes or 0)
    budget = weights + overhead + cache
    total = budget if memory_mib is None else float(memory_mib * MIB)
    error = 0.25 * overhead + (1 - 1 / CPU_LOADED) * weights
    return _judged(row, serving, None, 0, Memory(total, budget, weights, overhead, error, cache))


def cpu_memory_mib(row: Row) -> int:
    """MiB of memory that an engine on CPUs needs: weights, cache, and itself. A *row* without facts counts as no weights."""
    weights_gib = float(row.get("weights_gib") or 0) * _widening(row.get("weights_format", ""), row.get("dtype", "auto"))
    return CPU_ENGINE_MIB + math.ceil(weights_gib * 1024 * CPU_LOADED) + (row.get("kv_cache_memory_bytes") or 0) // MIB


def least_gpus(row: Row, serving: Serving, gpu: Gpu) -> t.Optional[int]:
    """Return the smallest number of GPUs like *gpu*, over which the heads can be split, with which *row* surely fits; None: none."""
    counts = [count for count in GPU_COUNTS if splits(row, count)]
    return next((count for count in counts if fit_gpu(row, serving, gpu, count).verdict == FITS), None)


def kib_per_token(row: Row, element_bytes: int = 2) -> float:
    """KiB of cache that a token takes in all layers, before any window is full."""
    return token_bytes(Shape.of_row(row), element_bytes) / 1024


def _judged(row: Row, serving: Serving, gpu: t.Optional[Gpu], count: int, memory: Memory) -> Fit:
    """Return the Fit: the verdict follows from the cache that is left when the estimate is wrong by its error, either way."""
    if serving.kv_cache_memory_bytes:
        # the cache is as large as was asked for; what may be missing is the room for all of it. On CPUs the budget is on the safe side
        margin = memory.error if gpu else 0.0
        surely = memory.kv_cache if memory.budget + margin <= memory.total else 0.0
        possibly = memory.kv_cache if memory.budget - memory.error <= memory.total else 0.0
    else:
        surely, possibly = memory.kv_cache - memory.error, memory.kv_cache + memory.error
    cache = cache_of(row, serving, gpu, max(1, count))
    length = serving.max_model_len
    if cache.starts(surely, length):
        verdict = FITS
    elif cache.starts(possibly, length) or serving.unknown_flags:
        verdict = WITHIN_ERROR
    else:
        verdict = DOES_NOT_FIT
    pool = cache.pool(memory.kv_cache, length)
    most = row.get("max_context") or length
    return Fit(
        verdict=verdict,
        serving=serving,
        gpu=gpu,
        count=count,
        memory=memory,
        concurrency=pool.concurrency,
        tokens=pool.tokens,
        typical=int(cache.pool(memory.kv_cache, min(TYPICAL_TOKENS, length)).concurrency),
        request_bytes=cache.request_bytes(length),
        longest=cache.longest(memory.kv_cache, most),
        longest_surely=cache.longest(surely, most),
    )


def _flag(word: t.Any) -> str:
    """Return *word* as the flag that vLLM reads it for; an empty string where it is none."""
    text = str(word)
    return text.split(".", 1)[0].replace("_", "-") if text.startswith("-") and not text[1:2].isdigit() else ""


def _widening(weights_format: str, dtype: str) -> float:
    """Return how much more an element takes than it is shipped with: weights that are not quantized are loaded as *dtype*."""
    if dtype in ("float32", "float"):
        return 2.0 if weights_format in ("bf16", "fp16") else 1.0
    return 0.5 if weights_format == "fp32" else 1.0


def _mla_block(gpu: Gpu, serving: Serving) -> int:
    """Return the block of the first backend for MLA that takes *gpu* (platforms/cuda.py, _get_backend_priorities)."""
    major = int((gpu.compute_capability or "0").split(".")[0])
    if major == 9 and serving.element_bytes == 1:
        return 64  # FlashMLA; FlashAttention has no fp8 for MLA, and takes 16 otherwise
    return 32 if major == 10 else 16  # FlashInfer; Triton


def _gib(size: float) -> float:
    return round(size / GIB, 2)
