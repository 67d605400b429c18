# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts out of real config.json files, cut to the keys that matter; what is expected is what vLLM 0.32.0 makes of the same files."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _catalog
from ansible_collections.llmops.serving.plugins.module_utils._model_config import Row, row_from_config

FIXTURES = Path(__file__).parent / "fixtures" / "hub"


def config(name: str, **changes: t.Any) -> dict[str, t.Any]:
    """Return a recorded config.json with *changes*; None takes a key away."""
    document: dict[str, t.Any] = json.loads((FIXTURES / f"{name}.json").read_text())
    return {key: value for key, value in {**document, **changes}.items() if value is not None or key not in changes}


def facts(architecture: str, **more: t.Any) -> Row:
    return {"architecture": architecture, "weights_format": "bf16", **more}


def grouped(heads: int, kv_heads: int, head_dim: int, vocab_size: int, max_context: int, **more: t.Any) -> Row:
    return {
        "num_attention_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocab_size,
        "max_context": max_context,
        **more,
    }


def latent(heads: int, vocab_size: int, **more: t.Any) -> Row:
    return {
        "num_attention_heads": heads,
        "vocab_size": vocab_size,
        "max_context": 163840,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        **more,
    }


EXPECTED: dict[str, Row] = {
    "Llama-3.1-70B-Instruct": facts("LlamaForCausalLM", **grouped(64, 8, 128, 128256, 131072), layers={"full": 80}),
    "Meta-Llama-3.1-8B-Instruct-FP8-dynamic": facts(
        "LlamaForCausalLM", **grouped(32, 8, 128, 128256, 131072), layers={"full": 32}, weights_format="fp8"
    ),
    "Llama-2-7B-AWQ": facts("LlamaForCausalLM", **grouped(32, 32, 128, 32000, 4096), layers={"full": 32}, weights_format="awq"),
    # tells no num_key_value_heads
    "Llama-2-7B-GPTQ": facts("LlamaForCausalLM", **grouped(32, 32, 128, 32000, 4096), layers={"full": 32}, weights_format="gptq"),
    "Qwen2.5-7B-Instruct": facts("Qwen2ForCausalLM", **grouped(28, 4, 128, 152064, 32768), layers={"full": 28}),
    "Qwen3-8B": facts("Qwen3ForCausalLM", **grouped(32, 8, 128, 151936, 40960), layers={"full": 36}),
    # head_dim is not hidden_size / heads
    "Qwen3-4B-Instruct-2507-FP8": facts(
        "Qwen3ForCausalLM", **grouped(32, 8, 128, 151936, 262144), layers={"full": 36}, weights_format="fp8"
    ),
    "Qwen3-Coder-30B-A3B-Instruct": facts(
        "Qwen3MoeForCausalLM", **grouped(32, 4, 128, 151936, 262144), layers={"full": 48}, active_parameters_b=3.3
    ),
    "Qwen2.5-VL-7B-Instruct": facts("Qwen2_5_VLForConditionalGeneration", **grouped(28, 4, 128, 152064, 128000), layers={"full": 28}),
    "Mistral-7B-v0.1": facts("MistralForCausalLM", **grouped(32, 8, 128, 32000, 32768), layers={"sliding_window": 32}, sliding_window=4096),
    "Mistral-7B-Instruct-v0.3": facts("MistralForCausalLM", **grouped(32, 8, 128, 32768, 32768), layers={"full": 32}),
    "Mixtral-8x7B-v0.1": facts("MixtralForCausalLM", **grouped(32, 8, 128, 32000, 32768), layers={"full": 32}, active_parameters_b=12.9),
    "Phi-3-mini-4k-instruct": facts(
        "Phi3ForCausalLM", **grouped(32, 32, 96, 32064, 4096), layers={"sliding_window": 32}, sliding_window=2047
    ),
    "Phi-3-mini-128k-instruct": facts(
        "Phi3ForCausalLM", **grouped(32, 32, 96, 32064, 131072), layers={"sliding_window": 32}, sliding_window=262144
    ),
    "gemma-2-9b-it": facts(
        "Gemma2ForCausalLM", **grouped(16, 8, 256, 256000, 8192), layers={"full": 21, "sliding_window": 21}, sliding_window=4096
    ),
    "gemma-3-1b-it": facts(
        "Gemma3ForCausalLM", **grouped(4, 1, 256, 262144, 32768), layers={"full": 4, "sliding_window": 22}, sliding_window=512
    ),
    # vocab_size and max_position_embeddings are those of the class
    "gemma-3-27b-it": facts(
        "Gemma3ForConditionalGeneration",
        **grouped(32, 16, 128, 262208, 131072),
        layers={"full": 10, "sliding_window": 52},
        sliding_window=1024,
    ),
    "llava-1.5-7b-hf": facts(
        "LlavaForConditionalGeneration", **grouped(32, 32, 128, 32064, 4096), layers={"full": 32}, weights_format="fp16"
    ),
    "glm-4-9b": facts("ChatGLMModel", **grouped(32, 2, 128, 151552, 8192), layers={"full": 40}),
    "gpt-oss-120b": facts(
        "GptOssForCausalLM",
        **grouped(64, 8, 64, 201088, 131072),
        layers={"full": 18, "sliding_window": 18},
        sliding_window=128,
        attention_sinks=True,
        weights_format="mxfp4",
        active_parameters_b=5.7,
    ),
    "gpt-oss-20b": facts(
        "GptOssForCausalLM",
        **grouped(64, 8, 64, 201088, 131072),
        layers={"full": 12, "sliding_window": 12},
        sliding_window=128,
        attention_sinks=True,
        weights_format="mxfp4",
        active_parameters_b=4.2,
    ),
    "Llama-4-Scout-17B-16E-Instruct": facts(
        "Llama4ForConditionalGeneration",
        **grouped(40, 8, 128, 202048, 10485760),
        layers={"full": 12, "chunked": 36},
        attention_chunk_size=8192,
        active_parameters_b=17.2,
    ),
    "DeepSeek-Coder-V2-Lite-Instruct": facts("DeepseekV2ForCausalLM", **latent(16, 102400), layers={"mla": 27}, active_parameters_b=2.7),
    "DeepSeek-V3": facts(
        "DeepseekV3ForCausalLM", **latent(128, 129280), layers={"mla": 61}, weights_format="fp8", active_parameters_b=37.4
    ),
    "Qwen3-Next-80B-A3B-Thinking": facts(
        "Qwen3NextForCausalLM",
        **grouped(16, 2, 256, 151936, 262144),
        layers={"full": 12, "linear": 36},
        linear_state_bytes=(3 * 8192 + 32 * 128 * 128) * 2,
        active_parameters_b=3.7,
    ),
    # its config asks for a state in float32
    "Qwen3.5-27B": facts(
        "Qwen3_5ForConditionalGeneration",
        **grouped(24, 4, 256, 248320, 262144),
        layers={"full": 16, "linear": 48},
        linear_state_bytes=3 * 10240 * 2 + 48 * 128 * 128 * 4,
    ),
    "Falcon-H1-0.5B-Instruct": facts(
        "FalconH1ForCausalLM",
        **grouped(8, 2, 64, 32784, 16384),
        layers={"full": 36, "linear": 36},
        linear_state_bytes=(3 * 1792 + 24 * 64 * 128) * 2,
        linear_state_blocks=3,
    ),
    "granite-4.0-h-1b": facts(
        "GraniteMoeHybridForCausalLM",
        **grouped(12, 4, 128, 100352, 131072),
        layers={"full": 4, "linear": 36},
        linear_state_bytes=(3 * 3328 + 48 * 64 * 128) * 2,
        linear_state_blocks=3,
    ),
    # of Nemotron-H the state is in float32 unless its config tells otherwise
    "NVIDIA-Nemotron-Nano-9B-v2": facts(
        "NemotronHForCausalLM",
        **grouped(40, 8, 128, 131072, 131072),
        layers={"full": 4, "linear": 27},
        linear_state_bytes=3 * 12288 * 2 + 128 * 80 * 128 * 4,
        linear_state_blocks=3,
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_facts_of_real_models(name: str) -> None:
    notes: list[str] = []
    assert row_from_config(config(name), notes=notes) == EXPECTED[name]
    assert notes == []


@pytest.mark.parametrize("name", EXPECTED)
def test_the_facts_make_a_row_that_nothing_is_missing_of(name: str) -> None:
    row = {"model": f"owner/{name}", **row_from_config(config(name), weights_bytes=2**30)}
    _catalog.check_row("mine", row)
    assert _catalog.missing_facts(row) == []


@pytest.mark.parametrize("name", EXPECTED)
def test_the_order_of_facts_is_that_of_the_table(name: str) -> None:
    row = row_from_config(config(name), weights_bytes=2**30, parameters=10**9)
    assert list(row) == [key for key in _catalog.KEYS if key in row]


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_and_parameters() -> None:
    row = row_from_config(config("Qwen2.5-7B-Instruct"), weights_bytes=15_231_233_024, parameters=7_615_616_512)
    assert (row["weights_gib"], row["parameters_b"]) == (14.19, 7.62)
    # packed tensors have fewer elements than the model has parameters
    assert "parameters_b" not in row_from_config(config("gpt-oss-20b"), weights_bytes=1, parameters=11_000_000_000)


@pytest.mark.parametrize(
    ("changes", "weights_format"),
    [
        ({"torch_dtype": "float32"}, "fp32"),
        ({"torch_dtype": None, "dtype": "float16"}, "fp16"),
        ({"torch_dtype": "float8_e4m3fn"}, "other"),
        ({"torch_dtype": None}, None),
        ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "other"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, "other"),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4}}},
                }
            },
            "other",
        ),
        ({"compression_config": {"quant_method": "compressed_tensors"}}, "other"),
    ],
)
def test_formats_of_weights(changes: dict[str, t.Any], weights_format: t.Optional[str]) -> None:
    assert row_from_config(config("Qwen3-8B", **changes)).get("weights_format") == weights_format


def test_a_model_for_pictures_tells_its_quantization_in_the_part_for_text() -> None:
    document = config("gemma-3-27b-it")
    document["text_config"]["quantization_config"] = {"quant_method": "gptq"}
    assert row_from_config(document)["weights_format"] == "gptq"


# -- the longest request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "max_context"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 163840),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 81920),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 40960),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 40960),
        ({"rope_scaling": {"type": "su", "factor": 32.0}}, 40960),
        ({"rope_scaling": {"rope_type": "linear", "factor": None}}, 40960),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}}, 81920),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}, 81920),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 40960),
        ({"seq_length": 8192}, 8192),
        ({"model_max_length": 131072}, 131072),
        ({"rope_scaling": {"rope_type": "linear", "factor": float("inf")}}, 40960),
        ({"rope_scaling": {"rope_type": "linear", "factor": 10**400}}, 40960),
        ({"max_position_embeddings": "40960"}, None),
        ({"max_position_embeddings": 10**400}, None),
    ],
)
def test_scaled_positions(changes: dict[str, t.Any], max_context: t.Optional[int]) -> None:
    document = {**config("Qwen3-8B"), "model_type": "plain", **changes}
    assert row_from_config(document).get("max_context") == max_context


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "layers"),
    [
        # names of layers decide where they are told, patterns where not
        ("gpt-oss-20b", {"layer_types": None}, {"full": 12, "sliding_window": 12}),
        ("gemma-3-1b-it", {"sliding_window_pattern": 2}, {"full": 13, "sliding_window": 13}),
        ("gemma-3-1b-it", {"layer_types": ["sliding_attention"] * 25 + ["full_attention"]}, {"full": 1, "sliding_window": 25}),
        ("Qwen3-Next-80B-A3B-Thinking", {"full_attention_interval": 6}, {"full": 8, "linear": 40}),
        ("Qwen2.5-7B-Instruct", {"use_sliding_window": True}, {"full": 28}),
        ("Qwen3-Coder-30B-A3B-Instruct", {"sliding_window": 4096}, {"full": 48}),
        ("Qwen3-Coder-30B-A3B-Instruct", {"sliding_window": 4096, "use_sliding_window": True}, {"sliding_window": 48}),
        ("Mistral-7B-v0.1", {"sliding_window": 0}, {"full": 32}),
        ("Llama-3.1-70B-Instruct", {"layer_types": ["full_attention", "chunked_attention"] * 40}, None),
        ("granite-4.0-h-1b", {"layer_types": ["attention"] * 40}, {"full": 40}),
        (
            "Qwen3-8B",
            {
                "model_type": "new",
                "layer_types": ["sliding_attention", "full_attention"] * 18,
                "sliding_window": 512,
                "sliding_window_pattern": "LG",
            },
            {"full": 18, "sliding_window": 18},
        ),
        ("NVIDIA-Nemotron-Nano-9B-v2", {"hybrid_override_pattern": "M-*E"}, {"full": 1, "linear": 1}),
        (
            "NVIDIA-Nemotron-Nano-9B-v2",
            {"hybrid_override_pattern": None, "layers_block_type": ["mamba", "moe", "attention"]},
            {"full": 1, "linear": 1},
        ),
        ("NVIDIA-Nemotron-Nano-9B-v2", {"hybrid_override_pattern": "M*X"}, None),
    ],
)
def test_kinds_of_layers(name: str, changes: dict[str, t.Any], layers: t.Optional[dict[str, int]]) -> None:
    assert row_from_config(config(name, **changes)).get("layers") == layers


def test_the_window_of_cohere_does_not_count_the_token_itself() -> None:
    row = row_from_config(config("gemma-2-9b-it", model_type="cohere2"))
    assert row["layers"] == {"full": 10, "sliding_window": 32}
    assert row["sliding_window"] == 4097


def test_layers_of_llama_4() -> None:
    document = config("Llama-4-Scout-17B-16E-Instruct")
    document["text_config"]["no_rope_layers"] = [1, 0] * 24
    assert row_from_config(document)["layers"] == {"full": 24, "chunked": 24}
    document["text_config"]["attention_chunk_size"] = None
    row = row_from_config(document)
    assert row["layers"] == {"full": 48}
    assert "attention_chunk_size" not in row


def test_kimi_has_latent_vectors_in_some_layers_and_states_in_the_others() -> None:
    linear = {
        "kda_layers": [1, 2, 3, 5, 6, 7],
        "full_attn_layers": [4, 8],
        "num_heads": 32,
        "head_dim": 128,
        "short_conv_kernel_size": 4,
    }
    row = row_from_config(config("DeepSeek-V3", model_type="kimi_linear", num_hidden_layers=8, linear_attn_config=linear))
    assert row["layers"] == {"mla": 2, "linear": 6}
    assert row["linear_state_bytes"] == 3 * 3 * 32 * 128 * 2 + 32 * 128 * 128 * 4


@pytest.mark.parametrize(
    ("changes", "state_bytes"),
    [
        ({"mamba_ssm_cache_dtype": "bfloat16"}, 3 * 12288 * 2 + 128 * 80 * 128 * 2),
        ({"mamba_d_conv": 5}, 4 * 12288 * 2 + 128 * 80 * 128 * 4),
    ],
)
def test_the_state_of_nemotron(changes: dict[str, t.Any], state_bytes: int) -> None:
    assert row_from_config(config("NVIDIA-Nemotron-Nano-9B-v2", **changes))["linear_state_bytes"] == state_bytes


@pytest.mark.parametrize(
    ("changes", "kv_heads", "head_dim"),
    [
        ({"num_key_value_heads": None}, 32, 128),
        ({"head_dim": None}, 8, 128),
        ({"head_dim": 0}, 8, 128),
        ({"head_dim": 96}, 8, 96),
        ({"num_key_value_heads": 1}, 1, 128),
        ({"multi_query": True, "model_type": "falcon"}, 1, 128),
        ({"multi_query": True, "model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 8}, 8, 128),
        ({"num_key_value_heads": None, "attn_config": {"kv_n_heads": 4}, "model_type": "dbrx"}, 4, 128),
    ],
)
def test_heads(changes: dict[str, t.Any], kv_heads: int, head_dim: int) -> None:
    row = row_from_config(config("Qwen3-8B", **{"model_type": "llama", **changes}))
    assert (row["num_kv_heads"], row["head_dim"]) == (kv_heads, head_dim)


def test_names_that_older_models_use() -> None:
    document = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": 48,
        "n_head": 25,
        "n_embd": 1600,
        "n_positions": 1024,
    }
    row = row_from_config({**document, "vocab_size": 50257, "torch_dtype": "float32"})
    assert row == facts("GPT2LMHeadModel", **grouped(25, 25, 64, 50257, 1024), layers={"full": 48}, weights_format="fp32")


# -- what is not known -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("gemma-4-31B-it", {}, "its full attention has other heads than its sliding window (gemma4_text)"),
        ("DeepSeek-V3", {"model_type": "deepseek_v32", "index_topk": 2048}, "its sparse attention keeps an index beside the cache"),
        ("Qwen3-8B", {"model_type": "mimo_v2_flash"}, "its cache is of a build of its own (mimo_v2_flash)"),
        ("Qwen3-8B", {"model_type": "minimax_m3_vl_text"}, "its cache is of a build of its own"),
        ("DeepSeek-V3", {"model_type": "kimi_linear"}, "config.json does not tell kda_layers"),
        ("DeepSeek-V3", {"model_type": "unheard_of"}, "what kv_lora_rank means for the cache of unheard_of is not known here"),
        ("granite-4.0-h-1b", {"model_type": "unheard_of"}, "means for the cache of unheard_of is not known here"),
        ("Qwen3-8B", {"model_type": "unheard_of", "sliding_window": 1024}, "which layers of unheard_of have its sliding window"),
        ("Qwen3-8B", {"layer_types": ["full_attention", "compressed_attention"] * 18}, "compressed_attention is a kind of layer"),
        ("Qwen3-8B", {"num_hidden_layers": None, "model_type": "x"}, "config.json does not tell num_hidden_layers"),
        ("Qwen3-8B", {"num_hidden_layers": 10**12}, "1000000000000 layers are none that a model has"),
        ("Qwen3-8B", {"num_hidden_layers": "36", "model_type": "x"}, "config.json does not tell num_hidden_layers"),
        ("Qwen3-8B", {"num_key_value_heads": [1, 2, 4], "model_type": "x"}, "config.json does not tell num_key_value_heads"),
        ("gpt-oss-20b", {"layer_types": ["linear_attention"] * 24}, "means for the cache of gpt_oss is not known here"),
        ("NVIDIA-Nemotron-Nano-9B-v2", {"hybrid_override_pattern": "MMM"}, "no layer of it has attention"),
        ("NVIDIA-Nemotron-Nano-9B-v2", {"ssm_state_size": None}, "config.json does not tell ssm_state_size"),
    ],
)
def test_layers_that_are_not_known_are_left_out(name: str, changes: dict[str, t.Any], why: str) -> None:
    notes: list[str] = []
    row = row_from_config(config(name, **changes), notes=notes)
    assert "layers" not in row
    [note] = [note for note in notes if note.startswith("layers is left out: ")]
    assert why in note
    # what is known all the same
    assert row["vocab_size"] > 0
    assert row["max_context"] > 0
    assert not set(row) & {"num_kv_heads", "sliding_window", "kv_lora_rank", "linear_state_bytes"}


@pytest.mark.parametrize(
    ("model_type", "told", "sinks"), [("granite_swa", {}, True), ("granite_swa", {"attention_sinks": False}, None), ("granite", {}, None)]
)
def test_sinks_are_told_even_where_layers_are_not_known(model_type: str, told: dict[str, t.Any], sinks: t.Optional[bool]) -> None:
    row = row_from_config(config("Qwen3-8B", model_type=model_type, layer_types=["new"], **told))
    assert row.get("attention_sinks") is sinks
    assert "layers" not in row


def test_experts_of_another_build() -> None:
    notes: list[str] = []
    row = row_from_config(config("granite-4.0-h-1b", num_local_experts=64, num_experts_per_tok=6), notes=notes)
    assert "active_parameters_b" not in row
    assert notes == ["active_parameters_b is left out: it is a mixture of experts whose size is not computed here."]


@pytest.mark.parametrize(
    "document", [{}, {"architectures": None}, {"text_config": {}}, {"model_type": 7, "layer_types": "full", "rope_scaling": []}]
)
def test_a_config_that_tells_nothing(document: dict[str, t.Any]) -> None:
    notes: list[str] = []
    assert row_from_config(document, notes=notes) == {}
    assert len(notes) == 4


# -- what cannot be served ---------------------------------------------------------------------------------------------


def test_dual_chunk_attention_has_no_backend() -> None:
    row = row_from_config(config("Qwen2.5-7B-Instruct-1M"))
    assert row["unservable"].startswith("vLLM 0.32 has no backend for the dual chunk attention")
    assert row["max_context"] == 1010000


def test_bamba_is_no_longer_known_to_vllm() -> None:
    row = row_from_config(config("granite-4.0-h-1b", model_type="bamba", layer_types=None, attn_layer_indices=[9, 18, 27]))
    assert row["layers"] == {"full": 3, "linear": 37}
    assert row["unservable"].startswith("vLLM knows Bamba up to version 0.23 only.")


def test_a_window_of_some_layers_is_refused_for_qwen2() -> None:
    row = row_from_config(config("Qwen2.5-7B-Instruct", use_sliding_window=True, max_window_layers=20, sliding_window=4096))
    assert row["layers"] == {"full": 20, "sliding_window": 8}
    assert "max_window_layers" in row["unservable"]
