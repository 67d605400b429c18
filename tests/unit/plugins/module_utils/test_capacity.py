from __future__ import annotations

import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _capacity
from ansible_collections.llmops.serving.plugins.module_utils._capacity import DOES_NOT_FIT, FITS, GIB, MIB, WITHIN_ERROR, Fit, Gpu, Serving

Row = dict[str, t.Any]

GPT_OSS_120B: Row = {
    "weights_gib": 60.77,
    "weights_format": "mxfp4",
    "vocab_size": 201088,
    "num_attention_heads": 64,
    "num_kv_heads": 8,
    "head_dim": 64,
    "layers": {"full": 18, "sliding_window": 18},
    "sliding_window": 128,
    "active_parameters_b": 5.1,
    "max_context": 131072,
}
QWQ_32B: Row = {
    "weights_gib": 61.03,
    "weights_format": "bf16",
    "vocab_size": 152064,
    "num_attention_heads": 40,
    "num_kv_heads": 8,
    "head_dim": 128,
    "layers": {"full": 64},
    "max_context": 131072,
}
DEEPSEEK_V3: Row = {
    "weights_gib": 641.28,
    "weights_format": "fp8",
    "vocab_size": 129280,
    "num_attention_heads": 128,
    "layers": {"mla": 61},
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "active_parameters_b": 37,
    "max_context": 163840,
}
SMALL: Row = {
    "weights_gib": 2.88,
    "weights_format": "bf16",
    "vocab_size": 151936,
    "num_attention_heads": 12,
    "num_kv_heads": 2,
    "head_dim": 128,
    "layers": {"full": 28},
    "max_context": 32768,
}
A100 = Gpu("NVIDIA-A100-SXM4-80GB", 81920, "8.0")
H100 = Gpu("NVIDIA-H100-80GB-HBM3", 81559, "9.0")
H200 = Gpu("NVIDIA-H200", 143771, "9.0")
B200 = Gpu("NVIDIA-B200", 183359, "10.0")
L4 = Gpu("NVIDIA-L4", 23034, "8.9")


def serving(length: int, **choices: t.Any) -> Serving:
    return Serving(max_model_len=length, **choices)


def lean(length: int, **choices: t.Any) -> Serving:
    return serving(length, **{"gpu_memory_utilization": 0.95, "max_num_batched_tokens": 2048, "max_num_seqs": 16, **choices})


# Row, GPU and number of them, how it is served, the verdict, and roughly how many chats of full length it has room for: from vLLM's own
# planner, with estimates of weights and overhead that were made from logs and not by us.
WORKED: list[tuple[Row, Gpu, int, Serving, str, float]] = [
    (GPT_OSS_120B, A100, 1, serving(131072), WITHIN_ERROR, 0.98),
    (GPT_OSS_120B, A100, 1, lean(131072), FITS, 1.6),
    (GPT_OSS_120B, A100, 1, serving(65536), FITS, 1.91),
    (GPT_OSS_120B, A100, 1, serving(32768), FITS, 3.59),
    (GPT_OSS_120B, A100, 2, serving(131072), FITS, 15.9),
    (GPT_OSS_120B, H100, 1, serving(131072), DOES_NOT_FIT, 0.0),
    (GPT_OSS_120B, H100, 1, serving(131072, kv_cache_dtype="fp8"), DOES_NOT_FIT, 0.0),
    (GPT_OSS_120B, H100, 1, lean(131072, max_num_seqs=64), FITS, 1.45),
    (GPT_OSS_120B, H100, 1, lean(131072, max_num_seqs=64, kv_cache_dtype="fp8"), FITS, 2.90),
    (GPT_OSS_120B, H100, 2, serving(131072), FITS, 12.7),
    (GPT_OSS_120B, H100, 2, serving(131072, kv_cache_dtype="fp8"), FITS, 25.4),
    (GPT_OSS_120B, H200, 1, serving(131072), FITS, 10.9),
    (GPT_OSS_120B, H200, 1, serving(131072, kv_cache_dtype="fp8"), FITS, 21.8),
    (QWQ_32B, A100, 1, serving(32768), FITS, 1.16),
    (QWQ_32B, A100, 1, serving(32768, kv_cache_dtype="fp8"), FITS, 2.32),
    (QWQ_32B, A100, 1, serving(16384), FITS, 2.32),
    (QWQ_32B, A100, 1, serving(8192, kv_cache_dtype="fp8"), FITS, 9.3),
    (QWQ_32B, A100, 1, serving(131072), DOES_NOT_FIT, 0.29),
    (QWQ_32B, A100, 2, serving(32768), FITS, 9.8),
    (QWQ_32B, A100, 2, serving(32768, kv_cache_dtype="fp8"), FITS, 19.6),
    (QWQ_32B, H100, 1, serving(32768), DOES_NOT_FIT, 0.91),
    (QWQ_32B, H100, 1, lean(32768), FITS, 1.54),
    (QWQ_32B, H200, 1, serving(32768), FITS, 7.8),
    (QWQ_32B, H200, 1, serving(32768, kv_cache_dtype="fp8"), FITS, 15.6),
    (QWQ_32B, L4, 1, lean(4096), DOES_NOT_FIT, 0.0),
    (SMALL, L4, 1, serving(16384), FITS, 38.0),
    (DEEPSEEK_V3, H200, 8, serving(163840), FITS, 3.8),
    (DEEPSEEK_V3, H100, 8, serving(163840), DOES_NOT_FIT, 0.0),
]


@pytest.mark.parametrize(("row", "gpu", "count", "how", "verdict", "concurrency"), WORKED)
def test_worked_numbers(row: Row, gpu: Gpu, count: int, how: Serving, verdict: str, concurrency: float) -> None:
    fit = _capacity.fit_gpu(row, how, gpu, count)
    assert fit.verdict == verdict
    assert fit.concurrency == pytest.approx(concurrency, rel=0.15, abs=0.35)


@pytest.mark.parametrize(("row", "gpu", "count", "how"), [worked[:4] for worked in WORKED])
def test_figures_agree_with_each_other(row: Row, gpu: Gpu, count: int, how: Serving) -> None:
    fit = _capacity.fit_gpu(row, how, gpu, count)
    memory, report = fit.memory, fit.report()
    assert memory.kv_cache == pytest.approx(memory.budget - memory.weights - memory.overhead)
    assert memory.budget == pytest.approx(gpu.total_bytes * how.gpu_memory_utilization, abs=1)
    assert fit.longest_surely <= fit.longest <= row["max_context"]
    assert (fit.longest_surely >= how.max_model_len) == (fit.verdict == FITS)
    # one block is held back, so a request that fills the cache does not fit
    assert (fit.longest >= how.max_model_len) == (fit.concurrency > 1)
    assert report["chats"]["full_length"] == int(fit.concurrency)
    gib = report["memory_gib"]
    assert gib["budget"] + gib["left"] == pytest.approx(gib["total"], abs=0.02)
    assert gib["kv_cache"] == 0 or gib["missing"] == 0
    assert gib["weights"] + gib["overhead"] + gib["kv_cache"] - gib["missing"] == pytest.approx(gib["budget"], abs=0.03)
    assert all(value >= 0 for value in gib.values())


@pytest.mark.parametrize(
    ("gpu", "batch", "sequences"),
    [
        (A100, 2048, 256),
        (H100, 8192, 1024),
        (H200, 8192, 1024),
        (B200, 16384, 1024),
        (L4, 2048, 256),
        (Gpu("NVIDIA-H100-80GB-HBM3-MIG-3g.40gb", 40448, "9.0"), 2048, 256),
        (Gpu("NVIDIA A100-SXM4-80GB", 81920, "8.0"), 2048, 256),
    ],
)
def test_defaults_that_vllm_chooses_by_the_gpu(gpu: Gpu, batch: int, sequences: int) -> None:
    assert gpu.gpu_class[:2] == (batch, sequences)


def test_cuda_tells_less_memory_than_the_driver() -> None:
    """vllm-project/vllm issues: 79.25 GiB on an A100, 79.2 on an H100, 139.8 on an H200."""
    for gpu, gib in ((A100, 79.25), (H100, 79.2), (H200, 139.8)):
        assert gpu.total_bytes / GIB == pytest.approx(gib, rel=0.005)
        assert gpu.total_bytes < gpu.memory_mib * MIB


class TestOverhead:
    @pytest.mark.parametrize("gpu", [A100, H100])
    def test_what_makes_it_less(self, gpu: Gpu) -> None:
        usual = _capacity.overhead_bytes(GPT_OSS_120B, serving(4096), gpu)
        for less in ({"max_num_seqs": 16}, {"max_num_batched_tokens": 64}, {"enforce_eager": True}):
            assert _capacity.overhead_bytes(GPT_OSS_120B, serving(4096, **less), gpu) < usual
        dense = {key: value for key, value in GPT_OSS_120B.items() if key != "active_parameters_b"}
        assert _capacity.overhead_bytes(dense, serving(4096), gpu) < usual
        assert _capacity.overhead_bytes(GPT_OSS_120B, serving(4096), gpu, 2) > usual

    def test_no_more_sequences_are_rehearsed_than_a_batch_has_tokens(self) -> None:
        assert _capacity.overhead_bytes(QWQ_32B, serving(4096, max_num_batched_tokens=256), H100) == _capacity.overhead_bytes(
            QWQ_32B, serving(4096, max_num_batched_tokens=256, max_num_seqs=256), H100
        )


class TestWeights:
    @pytest.mark.parametrize(
        ("weights_format", "dtype", "times"),
        [
            ("bf16", "auto", 1),
            ("bf16", "float32", 2),
            ("fp16", "float", 2),
            ("fp16", "half", 1),
            ("fp32", "auto", 0.5),
            ("fp32", "bfloat16", 0.5),
            ("fp32", "float32", 1),
            ("fp8", "float32", 1),
            ("awq", "auto", 1),
        ],
    )
    def test_elements_are_loaded_as_they_are_served(self, weights_format: str, dtype: str, times: float) -> None:
        row = {**SMALL, "weights_format": weights_format}
        assert _capacity.loaded_bytes(row, serving(4096, dtype=dtype)) / GIB == pytest.approx(times * 2.88, rel=0.02)

    def test_mxfp4_is_padded(self) -> None:
        """vllm-project/vllm issues 33155 and 23278: 64.4 to 66.0 GiB of 60.8."""
        assert 64 < _capacity.loaded_bytes(GPT_OSS_120B, serving(4096)) / GIB < 67

    def test_they_are_split(self) -> None:
        whole, half = (_capacity.loaded_bytes(QWQ_32B, serving(4096), gpus) for gpus in (1, 2))
        assert half == whole / 2


def test_float32_doubles_the_cache_unless_it_has_a_type_of_its_own() -> None:
    usual, wide = (_capacity.fit_gpu(SMALL, serving(8192, dtype=dtype), L4) for dtype in ("auto", "float32"))
    assert wide.request_bytes == 2 * usual.request_bytes
    narrow = _capacity.fit_gpu(SMALL, serving(8192, dtype="float32", kv_cache_dtype="fp8"), L4)
    assert 2 * narrow.request_bytes == usual.request_bytes


def test_a_cache_of_the_size_that_was_asked_for() -> None:
    def fit(gib: float, length: int = 32768) -> Fit:
        return _capacity.fit_gpu(QWQ_32B, serving(length, kv_cache_memory_bytes=int(gib * GIB), gpu_memory_utilization=0.5), A100)

    assert fit(8.5).verdict == FITS
    assert fit(8.5).tokens == 34816
    assert fit(8.5).memory.budget == fit(8.5).memory.weights + fit(8.5).memory.overhead + 8.5 * GIB
    # 8 GiB hold one request, but not the block that is held back
    assert fit(8).verdict == DOES_NOT_FIT
    assert fit(8, 32752).verdict == FITS
    # more than there is, surely and perhaps
    assert fit(40).verdict == DOES_NOT_FIT
    assert fit((A100.total_bytes - fit(8).memory.weights - fit(8).memory.overhead) / GIB).verdict == WITHIN_ERROR


@pytest.mark.parametrize(
    ("row", "gpu", "gpus"),
    [
        (GPT_OSS_120B, H200, 1),
        (GPT_OSS_120B, A100, 2),
        (GPT_OSS_120B, H100, 2),
        (GPT_OSS_120B, L4, 8),
        (QWQ_32B, L4, 4),
        # 40 heads cannot be split over 16
        ({**QWQ_32B, "weights_gib": 500.0}, A100, 8),
        ({**QWQ_32B, "weights_gib": 700.0}, A100, None),
        (QWQ_32B, H200, 1),
        # 12 heads: 1, 2 or 4
        (SMALL, L4, 1),
        ({**SMALL, "weights_gib": 100.0}, A100, 2),
        ({**SMALL, "weights_gib": 200.0}, A100, 4),
        ({**SMALL, "weights_gib": 400.0}, A100, None),
        ({**SMALL, "weights_gib": 100.0, "num_attention_heads": 15}, A100, None),
        ({**SMALL, "weights_gib": 100.0, "num_kv_heads": 3}, A100, None),
        (DEEPSEEK_V3, H200, 8),
        (DEEPSEEK_V3, A100, 16),
    ],
)
def test_least_gpus(row: Row, gpu: Gpu, gpus: t.Optional[int]) -> None:
    length = min(131072, row["max_context"]) if row is not QWQ_32B else 32768
    assert _capacity.least_gpus(row, serving(length), gpu) == gpus


@pytest.mark.parametrize(
    ("gpu", "kv_cache_dtype", "tokens"),
    [(A100, "auto", 16), (H100, "auto", 16), (H100, "fp8", 64), (B200, "auto", 32), (B200, "fp8", 32), (Gpu("GPU", 81920), "auto", 16)],
)
def test_blocks_of_mla(gpu: Gpu, kv_cache_dtype: str, tokens: int) -> None:
    """platforms/cuda.py: Triton and FlashAttention take 16, FlashMLA 64, FlashInfer 32."""
    cache = _capacity.cache_of(DEEPSEEK_V3, serving(4096, kv_cache_dtype=kv_cache_dtype), gpu)
    assert cache.block_bytes == 61 * tokens * 576 * (1 if kv_cache_dtype == "fp8" else 2)


class TestCpu:
    ROW: t.ClassVar[Row] = {**SMALL, "kv_cache_memory_bytes": 2 * GIB, "max_model_len": 16384}

    def fit(self, memory_mib: t.Optional[int] = None, **changes: t.Any) -> Fit:
        row = {**self.ROW, **changes}
        return _capacity.fit_cpu(row, Serving.of_row(row), memory_mib)

    def test_it_needs_weights_cache_and_itself(self) -> None:
        needed = _capacity.cpu_memory_mib(self.ROW)
        assert needed == pytest.approx(1024 * (2.88 * 1.1 + 2) + 1500, abs=2)
        assert self.fit().memory.budget / MIB == pytest.approx(needed, abs=2)
        assert _capacity.cpu_memory_mib({"kv_cache_memory_bytes": GIB}) == 2524
        assert _capacity.cpu_memory_mib({**self.ROW, "dtype": "float32"}) == pytest.approx(1024 * (2 * 2.88 * 1.1 + 2) + 1500, abs=2)

    @pytest.mark.parametrize(
        ("less_mib", "verdict"), [(0, FITS), (1, FITS), (300, WITHIN_ERROR), (2000, DOES_NOT_FIT), (8000, DOES_NOT_FIT)]
    )
    def test_memory(self, less_mib: int, verdict: str) -> None:
        assert self.fit(_capacity.cpu_memory_mib(self.ROW) - less_mib + 1).verdict == verdict

    def test_unknown_memory_is_not_judged_but_the_cache_is(self) -> None:
        assert self.fit().verdict == FITS
        assert self.fit(kv_cache_memory_bytes=GIB // 4).verdict == DOES_NOT_FIT

    def test_the_cache_is_laid_out_as_on_cpus(self) -> None:
        fit = self.fit()
        # 28 layers, 2 heads of 128, 2 bytes, blocks of 128 tokens
        assert (fit.tokens, fit.request_bytes) == (74880, 469762048)
        assert (fit.gpu, fit.count, fit.report()["product"]) == (None, 0, None)

    def test_mla_has_small_blocks(self) -> None:
        assert _capacity.cache_of(DEEPSEEK_V3, serving(4096, block_size=128), None).block_bytes == 61 * 16 * 576 * 2


class TestRow:
    def of(self, *extra_args: str, kv_cache_dtype: str = "auto", **keys: t.Any) -> Serving:
        return Serving.of_row({**QWQ_32B, "extra_args": list(extra_args), **keys}, kv_cache_dtype)

    def test_defaults_are_those_of_vllm(self) -> None:
        assert self.of() == Serving(max_model_len=131072)
        assert self.of() == Serving(131072, None, None, 0.92, None, "auto", "auto", False, None, True, False, True, ())

    def test_choices(self) -> None:
        keys: Row = {
            "max_model_len": 8192,
            "max_num_seqs": 4,
            "max_num_batched_tokens": 1024,
            "gpu_memory_utilization": 0.5,
            "kv_cache_memory_bytes": GIB,
            "dtype": "half",
            "enforce_eager": True,
        }
        assert self.of(**keys) == Serving(**keys)
        assert self.of(**keys, kv_cache_dtype="fp8") == Serving(**keys, kv_cache_dtype="fp8")

    @pytest.mark.parametrize(
        ("extra_args", "changes"),
        [
            (["--block-size", "32"], {"block_size": 32}),
            (["--block-size=32"], {"block_size": 32}),
            (["--block_size", "64", "--max-logprobs", "5"], {"block_size": 64}),
            (["--block-size=16", "--block-size", "32"], {"block_size": 32}),
            (["--block-size", "many"], {}),
            (["--block-size"], {}),
            (["--disable-hybrid-kv-cache-manager"], {"hybrid": False}),
            (["--disable_hybrid_kv_cache_manager"], {"hybrid": False}),
            (["--no-enable-prefix-caching"], {"prefix_caching": False}),
            (["--max-logprobs", "5", "--seed=1", "--temperature", "-1"], {}),
            (["--speculative-config", '{"method": "ngram"}'], {"unknown_flags": ("--speculative-config",)}),
            (['--speculative_config={"method": "a=b"}'], {"unknown_flags": ("--speculative-config",)}),
            (["--speculative-config.method", "ngram"], {"unknown_flags": ("--speculative-config",)}),
            (["-dp", "2", "--enable-lora"], {"unknown_flags": ("--enable-lora", "-dp")}),
        ],
    )
    def test_extra_args(self, extra_args: list[str], changes: Row) -> None:
        assert self.of(*extra_args) == Serving(**{"max_model_len": 131072, **changes})

    def test_an_environment_that_keeps_the_manager_for_chunked_attention(self) -> None:
        row = {**QWQ_32B, "layers": {"full": 12, "chunked": 36}, "attention_chunk_size": 8192}
        kept = {**row, "env": {"VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE": "1"}}
        off, on = (_capacity.fit_gpu(each, Serving.of_row(each), H200) for each in (row, kept))
        assert on.request_bytes < off.request_bytes / 2

    def test_block_size_reaches_the_cache(self) -> None:
        small, large = (_capacity.cache_of(QWQ_32B, self.of(*args), A100).block_bytes for args in ((), ("--block-size=64",)))
        assert large == 4 * small

    @pytest.mark.parametrize("extra_args", [["--cpu-offload-gb", "40"], ["--cpu-offload-gb=40"], ["--quantization", "fp8"], ["-q=fp8"]])
    def test_what_is_not_computed_refuses_nothing(self, extra_args: list[str]) -> None:
        for row in (QWQ_32B, {**QWQ_32B, "kv_cache_memory_bytes": 90 * GIB}):
            refused = _capacity.fit_gpu(row, Serving.of_row(row), L4)
            row = {**row, "extra_args": extra_args}
            assert (refused.verdict, _capacity.fit_gpu(row, Serving.of_row(row), L4).verdict) == (DOES_NOT_FIT, WITHIN_ERROR)
            assert _capacity.fit_gpu(row, Serving.of_row(row), Gpu("NVIDIA-B300", 275000, "10.3")).verdict == FITS

    @pytest.mark.parametrize(("dtype", "known"), [("fp8", True), ("fp8_ds_mla", True), ("bfloat16", True), ("turboquant_4bit_nc", False)])
    def test_nor_does_a_type_of_the_cache_that_is_not_computed(self, dtype: str, known: bool) -> None:
        assert self.of(kv_cache_dtype=dtype).unknown_flags == (() if known else (f"--kv-cache-dtype {dtype}",))


@pytest.mark.parametrize(("element_bytes", "kib"), [(2, 72.0), (1, 36.0)])
def test_kib_per_token(element_bytes: int, kib: float) -> None:
    assert _capacity.kib_per_token(GPT_OSS_120B, element_bytes) == kib
