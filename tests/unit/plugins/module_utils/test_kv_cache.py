"""Expected figures are literals: from logs of vLLM 0.32.0, from its own planner, or from published logs. None is computed as we do."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _kv_cache
from ansible_collections.llmops.serving.plugins.module_utils._kv_cache import Cache, Engine, Shape

MIB, GIB = 2**20, 2**30
CPU = Engine(block_tokens=128, kernel_tokens=32, concurrent_batches=1)
CPU_MLA = Engine(block_tokens=16, kernel_tokens=16, concurrent_batches=1)
GPU = Engine()
HOPPER = Engine(max_num_batched_tokens=8192)


def of(engine: Engine, **changes: t.Any) -> Engine:
    return dataclasses.replace(engine, **changes)


def fp8(engine: Engine, **changes: t.Any) -> Engine:
    return of(engine, kv_cache_dtype="fp8", element_bytes=1, **changes)


def attention(heads: int, dim: int, window: int = 0, **layers: int) -> Shape:
    return Shape(layers, heads, dim, window)


GPT_OSS_120B = attention(8, 64, 128, full=18, sliding_window=18)
GEMMA_2_9B = attention(8, 256, 4096, full=21, sliding_window=21)
GEMMA_3_27B = attention(16, 128, 1024, full=10, sliding_window=52)
QWQ_32B = attention(8, 128, full=64)
QWEN3_0_6B = attention(8, 128, full=28)
DEEPSEEK_V3 = Shape({"mla": 61}, mla_width=576)
SCOUT = Shape({"full": 12, "chunked": 36}, 8, 128, attention_chunk_size=8192)
QWEN3_NEXT = Shape({"full": 12, "linear": 36}, 2, 256, linear_state_bytes=2150400)
# with a block more, for a checkpoint of the prefill
MAMBA_2 = Shape({"full": 4, "linear": 28}, 8, 128, linear_state_bytes=3340001, linear_state_blocks=3)
KIMI_LINEAR = Shape({"mla": 7, "linear": 20}, mla_width=576, linear_state_bytes=2200000)
TINY_GEMMA_2 = attention(2, 64, 512, full=3, sliding_window=3)
TINY_GPT_OSS = attention(2, 64, 128, full=2, sliding_window=2)
# 4 heads of 64 x 64 in float32, which CPUs want, and a convolution of 512 channels over 3 steps, 2 bytes each
TINY_QWEN3_NEXT = Shape({"full": 2, "linear": 6}, 2, 128, linear_state_bytes=68608)
# 8 heads of 64 x 64 in float32, and a convolution of 640 channels over 3 steps
TINY_GRANITE_4 = Shape({"full": 2, "linear": 4}, 2, 64, linear_state_bytes=134912, linear_state_blocks=3)

# The line "CPU KV cache size: N tokens, Maximum concurrency for L tokens per request: X.XXx" and the number of blocks, as vLLM 0.32.0
# logged them for small models with random weights (benchmarks/kv_cache.py).
LOGGED = {
    "full attention, float32": (attention(4, 64, full=4), of(CPU, element_bytes=4), 4096, 256, 32768, 8.0, 256),
    "full attention, blocks of 32": (attention(4, 64, full=4), of(CPU, block_tokens=32), 4096, 256, 65536, 16.0, 2048),
    "heads of 96": (attention(2, 96, full=4), CPU, 5000, 100, 33250, 6.65, 266),
    "GQA, heads of 128": (attention(2, 128, full=4), of(CPU, block_tokens=64), 32768, 256, 65536, 2.0, 1024),
    "MQA": (attention(1, 64, full=4), of(CPU, block_tokens=32), 131072, 256, 262144, 2.0, 8192),
    "a length that no block divides": (attention(2, 64, full=4), CPU, 5000, 100, 50000, 10.0, 400),
    "fp8 cache": (attention(2, 64, full=4), fp8(CPU), 8192, 256, 262144, 32.0, 2048),
    "all layers sliding": (
        attention(4, 64, 512, sliding_window=4), of(CPU, max_num_batched_tokens=1024), 16384, 256, 645277, 39.38, 512,
    ),
    "all layers sliding, window of 2047": (attention(4, 64, 2047, sliding_window=4), CPU, 4096, 200, 49648, 12.12, 400),
    "half sliding": (TINY_GEMMA_2, CPU, 8192, 256, 131553, 16.06, 1365),
    "half sliding, blocks of 64": (TINY_GEMMA_2, of(CPU, block_tokens=64), 8192, 256, 132332, 16.15, 2730),
    "half sliding, blocks of 16": (TINY_GEMMA_2, of(CPU, block_tokens=16), 8192, 256, 132749, 16.2, 5461),
    "half sliding, manager off": (TINY_GEMMA_2, of(CPU, hybrid=False), 8192, 256, 87296, 10.66, 682),
    "5 of 6 sliding": (attention(1, 64, 1024, full=2, sliding_window=10), CPU, 32768, 256, 352277, 10.75, 4096),
    "7 sliding, 5 full": (
        attention(1, 64, 1024, full=5, sliding_window=7), of(CPU, max_num_batched_tokens=512), 10000, 256, 127173, 12.72, 1170,
    ),
    "8 sliding, 3 full": (attention(1, 64, 1024, full=3, sliding_window=8), CPU, 10000, 99, 68571, 6.86, 1056),
    "sinks, half sliding": (TINY_GPT_OSS, CPU, 131072, 512, 515231, 3.93, 4096),
    "sinks, fp8 cache": (TINY_GPT_OSS, fp8(CPU, block_tokens=64), 65536, 256, 506960, 7.74, 8192),
    "MLA": (Shape({"mla": 3}, mla_width=576), CPU_MLA, 16384, 256, 77664, 4.74, 4854),
    "MLA, float32": (Shape({"mla": 3}, mla_width=576), of(CPU_MLA, element_bytes=4), 16384, 256, 38832, 2.37, 2427),
    "gated delta nets and full attention": (TINY_QWEN3_NEXT, CPU, 8192, 256, 119837, 14.63, 1024),
    "Mamba-2 and full attention": (TINY_GRANITE_4, CPU, 8192, 256, 199533, 24.36, 682),
    "Mamba-2 and full attention, no prefix caching": (TINY_GRANITE_4, of(CPU, prefix_caching=False), 8192, 256, 232789, 28.42, 682),
}  # fmt: skip


@pytest.mark.parametrize(("shape", "engine", "length", "cache_mib", "tokens", "concurrency", "blocks"), LOGGED.values(), ids=LOGGED)
def test_what_vllm_logs(
    shape: Shape, engine: Engine, length: int, cache_mib: int, tokens: int, concurrency: float, blocks: int
) -> None:  # fmt: skip
    pool = Cache(shape, engine).pool(cache_mib * MIB, length)
    assert (pool.tokens, round(pool.concurrency, 2), pool.blocks) == (tokens, concurrency, blocks)


def test_the_published_log_of_an_a100() -> None:
    """vllm-project/vllm issue 24577: Qwen3-0.6B, 69.66 GiB for the cache."""
    pool = Cache(QWEN3_0_6B, GPU).pool(69.66 * GIB, 40960)
    assert pool.tokens == pytest.approx(652144, abs=100)


# What the functions of vllm/v1/core/kv_cache_utils.py return for 10 GiB, where a CPU cannot serve the model.
PLANNED = {
    # bytes of a block and of a request, and for 10 GiB: blocks, tokens, the longest request
    "gpt-oss-120b on an A100": (GPT_OSS_120B, GPU, 131072, 589824, 4988141568, 18204, 282137, 131072),
    "gpt-oss-120b on an H100": (GPT_OSS_120B, HOPPER, 131072, 589824, 5441126400, 18204, 258648, 131072),
    "gpt-oss-120b, fp8": (GPT_OSS_120B, fp8(HOPPER), 131072, 294912, 2720563200, 36408, 517297, 131072),
    "gpt-oss-120b on 2 GPUs": (GPT_OSS_120B, of(GPU, tensor_parallel=2), 131072, 294912, 2494070784, 36408, 564274, 131072),
    "gpt-oss-120b on 16 GPUs": (GPT_OSS_120B, of(GPU, tensor_parallel=16), 131072, 73728, 623517696, 145635, 2257144, 131072),
    "gpt-oss-120b, manager off": (GPT_OSS_120B, of(GPU, hybrid=False), 131072, 1179648, 9663676416, 9102, 145632, 131072),
    "gemma-2-9b": (GEMMA_2_9B, GPU, 8192, 2752512, 2821324800, 3900, 31169, 8192),
    "gemma-3-27b": (GEMMA_3_27B, HOPPER, 131072, 1310720, 19301662720, 8192, 72914, 26512),
    "gemma-3-27b, manager off": (GEMMA_3_27B, of(GPU, hybrid=False), 131072, 8126464, 66571993088, 1321, 21136, 21120),
    "sliding only, manager off": (
        attention(8, 128, 4096, sliding_window=32), of(GPU, hybrid=False), 32768, 2097152, 1075838976, 5120, 327041, 32768,
    ),
    "Llama 4 Scout": (SCOUT, GPU, 262144, 3145728, 51539607552, 3413, 54608, 54592),
    "Llama 4 Scout, manager allowed": (SCOUT, of(GPU, chunked_hybrid=True), 262144, 786432, 14696841216, 13653, 191516, 181568),
    "chunked only": (dataclasses.replace(SCOUT, layers={"chunked": 36}), GPU, 100000, 2359296, 1811939328, 4551, 592578, 100000),
    "DeepSeek-V3": (DEEPSEEK_V3, GPU, 163840, 1124352, 11513364480, 9549, 152784, 152768),
    "DeepSeek-V3, fp8 on 8 GPUs": (
        DEEPSEEK_V3, fp8(GPU, block_tokens=64, tensor_parallel=8), 163840, 2248704, 5756682240, 4774, 305536, 163840,
    ),
    "MLA packed": (
        DEEPSEEK_V3, of(GPU, kv_cache_dtype="fp8_ds_mla", block_tokens=64), 163840, 2561024, 6556221440, 4192, 268288, 163840,
    ),
    "MLA packed in 4 bits": (
        DEEPSEEK_V3, of(GPU, kv_cache_dtype="nvfp4_ds_mla", block_tokens=64), 163840, 1374208, 3517972480, 7813, 500032, 163840,
    ),
    "Qwen3-Next": (QWEN3_NEXT, GPU, 262144, 25952256, 6617825280, 413, 424570, 262144),
    "Qwen3-Next without prefix caching": (QWEN3_NEXT, of(GPU, prefix_caching=False), 262144, 25952256, 6539968512, 413, 429624, 262144),
    "Mamba-2 hybrid": (MAMBA_2, GPU, 131072, 13369344, 2433220608, 803, 578301, 131072),
    "Mamba-2 hybrid without prefix caching": (MAMBA_2, of(GPU, prefix_caching=False), 131072, 13369344, 2246049792, 803, 626492, 131072),
    "Mamba hybrid on 2 GPUs": (
        Shape({"full": 4, "linear": 28}, 8, 128, linear_state_bytes=3340001), of(GPU, tensor_parallel=2),
        131072, 6684672, 1169817600, 1606, 1202866, 131072,
    ),
    "MLA and linear": (KIMI_LINEAR, GPU, 100000, 15482880, 913489920, 693, 1174576, 100000),
    "sliding and linear": (
        Shape({"sliding_window": 8, "linear": 16}, 1, 256, 2048, linear_state_bytes=123456), GPU,
        8192, 1048576, 55574528, 10240, 1582756, 8192,
    ),
    "full, sliding and linear": (
        Shape({"full": 1, "sliding_window": 8, "linear": 16}, 4, 128, 2048, linear_state_bytes=700000), GPU,
        65536, 720896, 267452416, 14894, 2630978, 65536,
    ),
    "linear only": (
        Shape({"linear": 48}, linear_state_bytes=1234567), of(GPU, prefix_caching=False), 8192, 59259216, 59259216, 181, 1482752, 8192,
    ),
    "2 full, 3 sliding": (attention(1, 64, 1024, full=2, sliding_window=3), GPU, 10000, 8192, 10379264, 1310720, 10345067, 10000),
    "a window that ends with a block": (attention(1, 64, 17, full=4, sliding_window=4), GPU, 8192, 16384, 12615680, 655360, 6972349, 8192),
    "MLA and linear, blocks of 128": (
        dataclasses.replace(KIMI_LINEAR, linear_state_bytes=2300000), GPU, 100000, 16515072, 908328960, 650, 1181818, 100000,
    ),
    "a window with smaller blocks": (
        attention(1, 64, 1024, full=2, sliding_window=4), of(GPU, block_tokens=48, kernel_tokens=32),
        10000, 24576, 13049856, 436906, 8227984, 10000,
    ),
    "a window with larger blocks": (
        attention(1, 64, 1024, full=2, sliding_window=4), of(GPU, kernel_tokens=64), 10000, 32768, 10452992, 327680, 10272100, 10000,
    ),
    "a block that the window's kernel lacks": (
        attention(1, 64, 1024, full=2, sliding_window=4), of(GPU, block_tokens=48), 10000, 24576, 10444800, 436906, 10280141, 10000,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "engine", "length", "block_bytes", "request_bytes", "blocks", "tokens", "longest"), PLANNED.values(), ids=PLANNED
)
def test_what_the_planner_of_vllm_returns(
    shape: Shape, engine: Engine, length: int, block_bytes: int, request_bytes: int, blocks: int, tokens: int, longest: int
) -> None:
    cache = Cache(shape, engine)
    pool = cache.pool(10 * GIB, length)
    assert (cache.block_bytes, cache.request_bytes(length)) == (block_bytes, request_bytes)
    assert (pool.blocks, pool.tokens) == (blocks, tokens)
    assert cache.longest(10 * GIB, length) == longest


@pytest.mark.parametrize(
    ("shape", "engine", "length", "gib"),
    [
        (GPT_OSS_120B, GPU, 131072, 4.65),
        (GPT_OSS_120B, HOPPER, 131072, 5.07),
        (GPT_OSS_120B, of(GPU, hybrid=False), 131072, 9.0),
        (QWQ_32B, GPU, 32768, 8.0),
        (QWQ_32B, fp8(GPU), 32768, 4.0),
        (QWQ_32B, of(GPU, tensor_parallel=2), 32768, 4.0),
        (QWQ_32B, fp8(GPU, tensor_parallel=2), 32768, 2.0),
        (DEEPSEEK_V3, GPU, 163840, 10.72),
        (DEEPSEEK_V3, of(GPU, tensor_parallel=8), 163840, 10.72),
        (DEEPSEEK_V3, fp8(GPU, tensor_parallel=8), 163840, 5.36),
        (GEMMA_2_9B, GPU, 8192, 2.63),
    ],
)
def test_a_chat_of_full_length(shape: Shape, engine: Engine, length: int, gib: float) -> None:
    assert round(Cache(shape, engine).request_bytes(length) / GIB, 2) == gib


def test_heads_are_repeated_where_there_are_more_gpus_than_heads() -> None:
    sizes = [Cache(attention(4, 128, full=10), of(GPU, tensor_parallel=gpus)).block_bytes for gpus in (1, 2, 4, 8, 16)]
    assert sizes == [327680, 163840, 81920, 81920, 81920]


@pytest.mark.parametrize(("shape", "engine"), [(GPT_OSS_120B, GPU), (QWQ_32B, HOPPER), (DEEPSEEK_V3, GPU), (QWEN3_NEXT, GPU), (SCOUT, GPU)])
class TestStart:
    def test_one_block_is_held_back(self, shape: Shape, engine: Engine) -> None:
        cache = Cache(shape, engine)
        enough = cache.request_bytes(32768) + cache.block_bytes
        assert cache.starts(enough, 32768)
        assert not cache.starts(enough - 1, 32768)
        assert cache.pool(enough - cache.block_bytes, 32768).concurrency == 1

    @pytest.mark.parametrize("available", [GIB // 3, 2 * GIB, 5 * GIB])
    def test_the_longest_starts_and_one_more_does_not(self, shape: Shape, engine: Engine, available: int) -> None:
        cache = Cache(shape, engine)
        longest = cache.longest(available, 10**7)
        assert 0 < longest < 10**7
        assert cache.starts(available, longest)
        assert not cache.starts(available, longest + 1)
        assert cache.longest(available, longest - 1) == longest - 1

    def test_nothing_fits_into_nothing(self, shape: Shape, engine: Engine) -> None:
        cache = Cache(shape, engine)
        for available in (-GIB, 0, cache.block_bytes):
            assert not cache.starts(available, 1)
            assert cache.longest(available, 131072) == 0
        assert cache.pool(-GIB, 4096) == _kv_cache.Pool(0, 0.0, 0)

    def test_more_is_never_less(self, shape: Shape, engine: Engine) -> None:
        cache = Cache(shape, engine)
        lengths = [1, 15, 16, 17, 1000, 8192, 32768, 131072]
        needs = [cache.request_bytes(length) for length in lengths]
        assert needs == sorted(needs)
        assert cache.longest(3 * GIB, 10**7) <= cache.longest(4 * GIB, 10**7)
        assert Cache(shape, of(engine, tensor_parallel=2)).request_bytes(131072) <= needs[-1]
        assert fp8_is_half(shape, engine) or shape.linear_state_bytes


def fp8_is_half(shape: Shape, engine: Engine) -> bool:
    return 2 * Cache(shape, fp8(engine)).request_bytes(131072) == Cache(shape, engine).request_bytes(131072)


def test_a_window_costs_no_more_once_it_is_full() -> None:
    sliding = Cache(attention(8, 128, 4096, sliding_window=32), GPU)
    assert sliding.request_bytes(4096) < sliding.request_bytes(16384) == sliding.request_bytes(131072)
    full = Cache(attention(8, 128, full=32), GPU)
    assert 2 * full.request_bytes(16384) == full.request_bytes(32768)


@pytest.mark.parametrize(
    ("shape", "element_bytes", "kib"),
    [(GPT_OSS_120B, 2, 72), (GPT_OSS_120B, 1, 36), (QWQ_32B, 2, 256), (DEEPSEEK_V3, 2, 68.625), (QWEN3_NEXT, 2, 24)],
)
def test_what_one_more_token_costs(shape: Shape, element_bytes: int, kib: float) -> None:
    assert _kv_cache.token_bytes(shape, element_bytes) / 1024 == kib


def test_a_row_of_the_table_is_a_shape() -> None:
    row = {"layers": {"full": 18, "sliding_window": 18}, "num_kv_heads": 8, "head_dim": 64, "sliding_window": 128, "model": "a/b"}
    assert Shape.of_row(row) == GPT_OSS_120B
    assert Shape.of_row({"layers": {"mla": 61}, "kv_lora_rank": 512, "qk_rope_head_dim": 64}) == DEEPSEEK_V3
    linear = {"layers": {"full": 4, "linear": 28}, "num_kv_heads": 8, "head_dim": 128, "linear_state_bytes": 3340001}
    assert Shape.of_row({**linear, "linear_state_blocks": 3}) == MAMBA_2
    assert Shape.of_row(linear) == dataclasses.replace(MAMBA_2, linear_state_blocks=2)
    assert Shape.of_row({**linear, "layers": {"chunked": 4}, "attention_chunk_size": 8192}).attention_chunk_size == 8192
