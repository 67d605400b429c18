# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The facts of a model out of its config.json, as keys of a row.

What a config means for the KV cache is what vLLM 0.32.0 makes of it: the classes of transformers 5.19 fill in what a file leaves out,
then transformers_utils/model_arch_config_convertor.py, config/model.py and the model's own code read it. Where that is not known here,
``layers`` is left out, and a note says why; a guess would let an engine start that cannot.
"""

from __future__ import annotations

import collections
import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._kv_cache import CHUNKED, FULL, LAYER_KINDS, LINEAR, MLA, SLIDING

Row = dict[str, t.Any]
Config = t.Mapping[str, t.Any]

GIB = 2**30

# -- what a config leaves out ------------------------------------------------------------------------------------------

# The part of a config that describes the language model; the rest is about pictures and sound.
TEXT_CONFIGS = ("text_config", "language_config", "llm_config", "thinker_config")

# Values of transformers' classes for keys that a file leaves out when it has the same. Only those of classes that are nested in others:
# a config at the top is written out in full.
_COLUMNS = (
    "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size max_position_embeddings sliding_window"
)
_VALUES = """
llama        4096 32 32  -   -  32000   2048    -
mistral      4096 32 32  8   -  32000 131072 4096
ministral3   4096 34 32  8 128 131072 262144    -
mixtral      4096 32 32  8   -  32000 131072    -
qwen2        4096 32 32 32   - 151936  32768 4096
qwen3        4096 32 32 32 128 151936  32768 4096
phi3         3072 32 32  -   -  32064   4096    -
gemma        3072 28 16 16 256 256000   8192    -
gemma2       2304 26  8  4 256 256000   8192 4096
gemma3_text  2304 26  8  4 256 262208 131072 4096
gemma3n_text 2048 35  8  2 256 262400  32768  512
llama4_text  5120 48 40  8 128 202048 131072    -
"""
_MORE: dict[str, Config] = {
    "qwen2": {"max_window_layers": 28},
    "qwen3": {"max_window_layers": 28},
    "gemma3n_text": {"num_kv_shared_layers": 15},
    "llama4_text": {"attention_chunk_size": 8192, "no_rope_layer_interval": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1},
    "gpt_oss": {"sliding_window": 128},
    "cohere2": {"sliding_window": 4096},
    "olmo3": {"sliding_window": 4096},
}


def _defaults() -> dict[str, Config]:
    table: dict[str, Config] = dict(_MORE)
    for name, *values in map(str.split, _VALUES.strip().splitlines()):
        given = {key: int(value) for key, value in zip(_COLUMNS.split(), values) if value != "-"}
        table[name] = {**given, **_MORE.get(name, {})}
    return table


DEFAULTS = _defaults()


def text_config(config: Config) -> dict[str, t.Any]:
    """Return the part of *config* that describes the language model, with what transformers takes for what it leaves out."""
    text: Config = config
    for key in TEXT_CONFIGS * 2:
        nested = text.get(key)
        if isinstance(nested, t.Mapping):
            text = nested
    return {**DEFAULTS.get(str(text.get("model_type")), {}), **text}


# -- the row -----------------------------------------------------------------------------------------------------------

FORMATS_OF_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
FORMATS_OF_METHODS = {"mxfp4": "mxfp4", "fp8": "fp8", "fbgemm_fp8": "fp8", "awq": "awq", "gptq": "gptq"}
# Formats whose tensors have one element for each parameter.
COUNTABLE_FORMATS = ("bf16", "fp16", "fp32", "fp8")

_LENGTH_KEYS = (
    "max_position_embeddings n_positions max_seq_len seq_length model_max_length max_target_positions max_sequence_length "
    "max_seq_length seq_len"
).split()
# Of these, max_position_embeddings is what the scaling leads to (config/model.py, _get_and_verify_max_len); others multiply it.
_SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "telechat3-yarn", "deepseek_yarn", "deepseek_llama_scaling")

DUAL_CHUNK = (
    "vLLM 0.32 has no backend for the dual chunk attention that its config.json asks for. "
    "Serve Qwen/Qwen3-4B-Instruct-2507 (262,144 tokens) or Qwen/Qwen2.5-7B-Instruct instead."
)
BAMBA = "vLLM knows Bamba up to version 0.23 only. Serve a model of ibm-granite/granite-4.0-h, which is built alike, instead."
PARTLY_SLIDING = (
    "vLLM 0.32 refuses a sliding window that only the layers from max_window_layers on have. Serve another model of its family."
)


def row_from_config(
    config: Config, weights_bytes: t.Optional[int] = None, parameters: t.Optional[int] = None, notes: t.Optional[list[str]] = None
) -> Row:
    """Return the facts that *config*, a model's config.json, tells, as keys of a row.

    *weights_bytes*: size of the safetensors. *parameters*: how many numbers they hold. What cannot be told is left out, and *notes*
    gets the reason.
    """
    notes = [] if notes is None else notes
    text = text_config(config)
    weights_format = _weights_format(config, text)
    row: Row = {}
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        row["architecture"] = architectures[0]
    if parameters and weights_format in COUNTABLE_FORMATS:
        row["parameters_b"] = round(parameters / 1e9, 2)
    if whole(text, *_EXPERTS):
        active = _active_parameters(text)
        if active:
            row["active_parameters_b"] = round(active / 1e9, 1)
        else:
            notes.append("active_parameters_b is left out: it is a mixture of experts whose size is not computed here.")
    if weights_bytes:
        row["weights_gib"] = round(weights_bytes / GIB, 2)
    _set(row, "weights_format", weights_format)
    _set(row, "vocab_size", whole(text, "vocab_size", "padded_vocab_size"))
    _set(row, "num_attention_heads", _heads(text))
    try:
        row.update(_attention(text))
    except _UnknownError as exc:
        notes.append(f"layers is left out: {exc}.")
    if _has_sinks(text):
        row["attention_sinks"] = True
    _set(row, "max_context", _max_context(text))
    untold = [key for key in ("vocab_size", "num_attention_heads", "max_context") if key not in row]
    notes += [f"{key} is left out: config.json does not tell it." for key in untold]
    if config.get("dual_chunk_attention_config") or text.get("dual_chunk_attention_config"):
        row["unservable"] = DUAL_CHUNK
    return row


def _set(row: Row, key: str, value: t.Any) -> None:
    if value is not None:
        row[key] = value


def whole(text: Config, *keys: str) -> t.Optional[int]:
    """Return the first of *keys* that is a positive whole number."""
    for key in keys:
        value = text.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63:
            return value
    return None


def number(value: t.Any) -> t.Optional[float]:
    """Return *value* where it is a number above 0, not larger than any that means something."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2**63
    return float(value) if usable else None


def _need(text: Config, *keys: str) -> int:
    value = whole(text, *keys)
    if value is None:
        raise _UnknownError(f"config.json does not tell {keys[0]}")
    return value


def _weights_format(config: Config, text: Config) -> t.Optional[str]:
    """Return how the weights are stored (ModelArchConfigConvertorBase.get_quantization_config, get_torch_dtype)."""
    for part in (config, text):
        quantization: t.Any = part.get("quantization_config") or part.get("compression_config")
        if isinstance(quantization, t.Mapping):
            return _quantized_format(quantization)
    for key in ("dtype", "torch_dtype"):
        dtype = config.get(key) or text.get(key)
        if dtype:
            return FORMATS_OF_DTYPES.get(str(dtype), "other")
    return None


def _quantized_format(quantization: Config) -> str:
    method = str(quantization.get("quant_method", "")).lower().replace("_", "-")
    if method == "compressed-tensors":
        groups = quantization.get("config_groups")
        weights = (
            [group.get("weights") for group in groups.values() if isinstance(group, t.Mapping)] if isinstance(groups, t.Mapping) else []
        )
        eight = [part for part in weights if isinstance(part, t.Mapping) and (part.get("type"), part.get("num_bits")) == ("float", 8)]
        return "fp8" if weights and len(eight) == len(weights) else "other"
    if method == "modelopt" or "quant_algo" in quantization:
        return "fp8" if str(quantization.get("quant_algo", "")).upper().startswith("FP8") else "other"
    return FORMATS_OF_METHODS.get(method.replace("-", "_"), "other")


def _max_context(text: Config) -> t.Optional[int]:
    """Return the longest request that vLLM takes (config/model.py, _get_and_verify_max_len); None where nothing limits it."""
    lengths = [length for length in (whole(text, key) for key in _LENGTH_KEYS) if length]
    if not lengths:
        return None
    length = float(whole(text, "model_max_length") or min(lengths))
    if "gemma3" not in str(text.get("model_type")):
        factors = [_factor(rope) for rope in _ropes(text)]
        length *= factors[-1] if factors else 1.0
    return int(length)


def _ropes(text: Config) -> list[Config]:
    """Return the scaling of the positions: one, or one for each kind of layer."""
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(rope, t.Mapping):
        return []
    nested = [part for part in rope.values() if isinstance(part, t.Mapping)]
    return nested if len(nested) == len(rope) else [rope]


def _factor(rope: Config) -> float:
    factor = number(rope.get("factor"))
    return 1.0 if factor is None or (rope.get("rope_type") or rope.get("type")) in _SCALED_ALREADY else factor


# -- attention ---------------------------------------------------------------------------------------------------------


class _UnknownError(Exception):
    """Why it is not known what the layers keep."""


# vLLM's list (ModelArchConfigConvertorBase.is_deepseek_mla), without those whose cache has more than the latent vectors.
MLA_TYPES = frozenset({"deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_k2", "kimi_linear", "pangu_ultra_moe"})
GATED_DELTA_NET_TYPES = frozenset({"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid"})
MAMBA2_TYPES = frozenset({"bamba", "falcon_h1", "granitemoehybrid", "nemotron_h"})
# Every so many layers there is one of full attention. All others have a sliding window, or linear attention.
PATTERNS = {
    **dict.fromkeys(GATED_DELTA_NET_TYPES, 4),
    "gemma2": 2,
    "gpt_oss": 2,
    "cohere2": 4,
    "exaone4": 4,
    "olmo3": 4,
    "gemma3n_text": 5,
    "gemma3_text": 6,
}
# Whose `sliding_window` means nothing unless `use_sliding_window` is true.
SWITCHED_WINDOW = re.compile(r"qwen2|qwen3|smollm3")
# Whose layers all have the window of their config, where it names no kinds of layers (EngineArgs.create_engine_config).
WINDOWED_TYPES = frozenset({"llama", "mistral", "ministral3", "mixtral", "phi3", "phimoe", "starcoder2", "granite", "qwen3_moe"})
# Names of kinds, those of older files included.
KINDS = {
    **dict.fromkeys(("full_attention", "attention"), FULL),
    "sliding_attention": SLIDING,
    "chunked_attention": CHUNKED,
    **dict.fromkeys(("linear_attention", "mamba", "conv"), LINEAR),
    **dict.fromkeys(("mlp", "moe"), ""),
}
# What `hybrid_override_pattern` calls the layers of Nemotron-H.
PATTERN_KINDS = {"M": LINEAR, "*": FULL, "-": "", "E": ""}

# Keys that change what a layer keeps in ways that are not computed here, and what they stand for.
_OTHER_HEADS = "its full attention has other heads than its sliding window"
STRANGE_KEYS = {
    "index_topk": "its sparse attention keeps an index beside the cache",
    "compress_ratios": "its layers compress the cache at different ratios",
    **dict.fromkeys(("block_configs", "per_layer_config", "num_attention_heads_per_layer"), "its layers differ from one another"),
    **dict.fromkeys(("global_head_dim", "num_global_key_value_heads", "swa_head_dim", "swa_num_key_value_heads"), _OTHER_HEADS),
    **dict.fromkeys(("cross_attention_layers", "is_encoder_decoder"), "it has cross attention"),
}
STRANGE_TYPES = {
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), _OTHER_HEADS),
    "longcat_flash": "its layers have two attentions each",
    "zamba2": "its layers share attention",
}
# Families for which vLLM has a cache of its own build (vllm/models), or whose layers differ without a key that tells.
STRANGE_FAMILIES = re.compile(
    r"deepseek_v(32|4)|bailing|dots3|glm5_next|hy_v4|inkling|kimi_k3|laguna|mimo_v2|minimax_(m3|text|m1)|muse_|qwen4_exp|step3p"
)
# Signs of such a key in a model that is not known here.
STRANGE_NAME = re.compile(
    r"kv_lora_rank|mamba|ssm_|linear_(attn|num|key)|hybrid|lightning|sparse_att|index(er)?_|interleaved|kv_shared|window_pattern|swa_|"
    r"attn_(layer|type)|conv_L_cache"
)
# More layers than any model has; a file that tells more is broken.
MOST_LAYERS = 10_000


def _heads(text: Config) -> t.Optional[int]:
    return whole(text, "num_attention_heads", "n_head", "n_heads")


def _attention(text: Config) -> Row:
    """Return ``layers`` and the facts that belong to them. Raises _UnknownError."""
    model_type = str(text.get("model_type"))
    strange = [why for key, why in STRANGE_KEYS.items() if text.get(key)]
    if model_type in STRANGE_TYPES:
        strange.insert(0, STRANGE_TYPES[model_type])
    elif STRANGE_FAMILIES.match(model_type):
        strange.append("its cache is of a build of its own")
    if strange:
        raise _UnknownError(f"{strange[0]} ({model_type})")
    counts = collections.Counter(kind for kind in _kinds(text, model_type) if kind)
    if not set(counts) - {LINEAR}:
        raise _UnknownError(f"no layer of it has attention ({model_type})")
    row: Row = {}
    if counts[FULL] + counts[SLIDING] + counts[CHUNKED]:
        row.update(num_kv_heads=_kv_heads(text, model_type), head_dim=_head_dim(text, model_type))
    row["layers"] = {kind: counts[kind] for kind in LAYER_KINDS if counts[kind]}
    if counts[SLIDING]:
        # commandr.py: the window of Cohere does not count the token itself
        row[SLIDING] = _need(text, "sliding_window") + (1 if model_type.startswith("cohere2") else 0)
    if counts[CHUNKED]:
        row["attention_chunk_size"] = _need(text, "attention_chunk_size")
    if counts[MLA]:
        row.update(kv_lora_rank=_need(text, "kv_lora_rank"), qk_rope_head_dim=_need(text, "qk_rope_head_dim"))
    if counts[LINEAR]:
        row["linear_state_bytes"] = _state_bytes(text, model_type)
        if model_type in MAMBA2_TYPES:
            row["linear_state_blocks"] = 3  # mamba_mixer2.py, get_kv_cache_spec: one more, for a checkpoint of the prefill
    if model_type == "bamba":
        row["unservable"] = BAMBA
    if model_type in ("qwen2", "qwen3") and counts[FULL] and counts[SLIDING]:
        row["unservable"] = PARTLY_SLIDING
    return row


def _kinds(text: Config, model_type: str) -> list[str]:
    """Return the kind of each layer, an empty one for a layer that keeps nothing."""
    pattern = text.get("hybrid_override_pattern")
    if model_type == "nemotron_h" and isinstance(pattern, str):
        if set(pattern) - set(PATTERN_KINDS):
            raise _UnknownError(f"its hybrid_override_pattern has other layers than {''.join(PATTERN_KINDS)}")
        return [PATTERN_KINDS[letter] for letter in pattern]
    named = text.get("layer_types") or text.get("layers_block_type")
    if model_type == "nemotron_h" and isinstance(named, list):
        return _named_kinds(named)
    count = _need(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if count > MOST_LAYERS:
        raise _UnknownError(f"{count} layers are none that a model has")
    if model_type in MLA_TYPES and text.get("kv_lora_rank"):
        return _mla_kinds(text, model_type, count)
    if model_type == "falcon_h1":
        return [FULL, LINEAR] * count
    if isinstance(named, list) and named and model_type != "llama4_text":
        kinds = _named_kinds(named[:count])
        _refuse_strange(text, model_type, kinds)
    else:
        kinds = _derived_kinds(text, model_type, count)
    # the last layers of Gemma 3n read the cache of earlier ones
    return kinds[: count - (whole(text, "num_kv_shared_layers") or 0)]


def _named_kinds(named: t.Sequence[t.Any]) -> list[str]:
    other = sorted({str(name) for name in named} - set(KINDS))
    if other:
        raise _UnknownError(f"{other[0]} is a kind of layer that is not known here")
    return [KINDS[name] for name in named]


def _refuse_strange(text: Config, model_type: str, kinds: t.Sequence[str] = ()) -> None:
    """Raise _UnknownError for a model that nothing is known of here and whose config has a sign of something special."""
    known = MLA_TYPES | GATED_DELTA_NET_TYPES | MAMBA2_TYPES | {"jamba", "lfm2", "lfm2_moe", "gemma3n_text", "minicpm3"}
    if model_type in known or (model_type in PATTERNS and LINEAR not in kinds):
        return
    signs = [key for key, value in text.items() if STRANGE_NAME.search(key) and value not in (None, False, 0, [])]
    if kinds:  # what a pattern would tell is told
        signs = [key for key in signs if not key.endswith("window_pattern")]
    if signs or LINEAR in kinds:
        raise _UnknownError(f"what {signs[0] if signs else 'linear attention'} means for the cache of {model_type} is not known here")


def _mla_kinds(text: Config, model_type: str, count: int) -> list[str]:
    if model_type != "kimi_linear":
        return [MLA] * count
    linear = text.get("linear_attn_config")
    layers = linear.get("kda_layers") if isinstance(linear, t.Mapping) else None  # counted from 1
    if not isinstance(layers, list):
        raise _UnknownError("config.json does not tell kda_layers")
    return [LINEAR if at + 1 in layers else MLA for at in range(count)]


def _derived_kinds(text: Config, model_type: str, count: int) -> list[str]:
    """Return the kinds of a config that does not list them."""
    window = whole(text, "sliding_window")
    if model_type == "llama4_text":
        return _llama4_kinds(text, count)
    if model_type in ("bamba", "jamba", "lfm2", "lfm2_moe", "granitemoehybrid"):
        return [FULL if _is_full(text, model_type, at) else LINEAR for at in range(count)]
    if model_type in PATTERNS:
        every = whole(text, "sliding_window_pattern", "full_attention_interval") or PATTERNS[model_type]
        other = LINEAR if model_type in GATED_DELTA_NET_TYPES else SLIDING
        if other == SLIDING and not window:
            return [FULL] * count
        return [other if (at + 1) % every else FULL for at in range(count)]
    _refuse_strange(text, model_type)
    if not window or (SWITCHED_WINDOW.match(model_type) and not text.get("use_sliding_window")):
        return [FULL] * count
    if model_type in ("qwen2", "qwen3"):
        first = text.get("max_window_layers")
        return [SLIDING if isinstance(first, int) and at >= first else FULL for at in range(count)]
    if model_type in WINDOWED_TYPES:
        return [SLIDING] * count
    raise _UnknownError(f"which layers of {model_type} have its sliding window is not known here")


def _llama4_kinds(text: Config, count: int) -> list[str]:
    """Layers with rotary positions look at a chunk, those without at everything (llama4.py)."""
    if not text.get("attention_chunk_size"):
        return [FULL] * count
    listed = text.get("no_rope_layers")
    every = _need(text, "no_rope_layer_interval")
    has_rope = listed if isinstance(listed, list) and listed else [(at + 1) % every for at in range(count)]
    return [CHUNKED if rope else FULL for rope in has_rope[:count]]


def _is_full(text: Config, model_type: str, at: int) -> bool:
    """Whether the layer *at* of a hybrid has attention."""
    if model_type == "jamba":
        return at % _need(text, "attn_layer_period") == (whole(text, "attn_layer_offset") or 0)
    indices = text.get("full_attn_idxs" if model_type.startswith("lfm2") else "attn_layer_indices")
    return isinstance(indices, list) and at in indices


def _kv_heads(text: Config, model_type: str) -> int:
    """ModelArchConfigConvertorBase.get_total_num_kv_heads, and that of Falcon and DBRX."""
    if text.get("multi_query") and not text.get("new_decoder_architecture"):
        return 1
    if model_type == "minicpm3":
        return _need(text, "num_attention_heads")
    if isinstance(text.get("attn_config"), t.Mapping):
        return _need({**text["attn_config"], "heads": _heads(text)}, "kv_n_heads", "heads")
    keys = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups")
    given = [key for key in keys if text.get(key) is not None]
    return _need(text, given[0]) if given else _need(text, "num_attention_heads", "n_head", "n_heads")


def _head_dim(text: Config, model_type: str) -> int:
    """ModelArchConfigConvertorBase.get_head_size."""
    if model_type == "minicpm3":
        return _need(text, "qk_nope_head_dim") + _need(text, "qk_rope_head_dim")
    given = whole(text, "head_dim", "attention_head_dim", "hidden_size_per_head", "kv_channels")
    return given or _need(text, "hidden_size", "n_embd", "d_model") // _need(text, "num_attention_heads", "n_head", "n_heads")


def _has_sinks(text: Config) -> bool:
    """gpt_oss.py; granite.py, granite_layer_attn_params."""
    if text.get("model_type") in ("granite_swa", "granitemoe_swa"):
        return bool(text.get("attention_sinks", True))
    return text.get("model_type") == "gpt_oss"


# -- the state of linear attention -------------------------------------------------------------------------------------


def _state_bytes(text: Config, model_type: str) -> int:
    """Return the bytes that a linear layer keeps of a request: of its convolution, and its recurrent state.

    Shapes: model_executor/layers/mamba/mamba_utils.py. The convolution is kept in the model's type, of 2 bytes. So is the state, unless
    the model asks for another (models/config.py): Qwen3.5 by mamba_ssm_dtype, Nemotron-H by default, Kimi's delta attention always.
    """
    wide = {"float32": 4}
    if model_type in GATED_DELTA_NET_TYPES:
        keys, values = (
            _need(text, "linear_num_key_heads", "num_attention_heads"),
            _need(text, "linear_num_value_heads", "num_attention_heads"),
        )
        key_dim, value_dim = _need(text, "linear_key_head_dim"), _need(text, "linear_value_head_dim")
        convolution = (2 * keys * key_dim + values * value_dim) * (_need(text, "linear_conv_kernel_dim") - 1)
        asked = text.get("mamba_ssm_dtype") if model_type.startswith("qwen3_5") else None
        return 2 * convolution + values * value_dim * key_dim * wide.get(str(asked), 2)
    if model_type == "nemotron_h":
        heads, head_dim = _need(text, "mamba_num_heads"), _need(text, "mamba_head_dim")
        groups, kernel = _need(text, "mamba_n_groups", "n_groups"), _need(text, "mamba_d_conv", "conv_kernel")
        size = wide.get(str(text.get("mamba_ssm_cache_dtype", "float32")), 2)
        return _mamba2_bytes(heads * head_dim, groups, heads, head_dim, _need(text, "ssm_state_size"), kernel, size)
    if model_type in MAMBA2_TYPES:
        inner = whole(text, "mamba_d_ssm") or _need(text, "mamba_expand") * _need(text, "hidden_size")
        heads = _need(text, "mamba_n_heads")
        head_dim = whole(text, "mamba_d_head") or inner // heads
        groups, kernel = _need(text, "mamba_n_groups"), _need(text, "mamba_d_conv")
        return _mamba2_bytes(inner, groups, heads, head_dim, _need(text, "mamba_d_state"), kernel, 2)
    if model_type == "jamba":
        inner = _need(text, "mamba_expand") * _need(text, "hidden_size")
        return 2 * inner * (_need(text, "mamba_d_conv") - 1 + _need(text, "mamba_d_state"))
    if model_type in ("lfm2", "lfm2_moe"):
        return 2 * _need(text, "conv_dim", "hidden_size") * (_need(text, "conv_L_cache") - 1)
    linear = text.get("linear_attn_config")
    if model_type == "kimi_linear" and isinstance(linear, t.Mapping):
        heads, head_dim = _need(linear, "num_heads"), _need(linear, "head_dim")
        return heads * head_dim * (2 * 3 * (_need(linear, "short_conv_kernel_size") - 1) + 4 * head_dim)
    raise _UnknownError(f"what the linear attention of {model_type} keeps is not known here")


def _mamba2_bytes(inner: int, groups: int, heads: int, head_dim: int, state: int, kernel: int, size: int) -> int:
    return 2 * (inner + 2 * groups * state) * (kernel - 1) + heads * head_dim * state * size


# -- mixtures of experts -----------------------------------------------------------------------------------------------

_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k")


def _active_parameters(text: Config) -> t.Optional[float]:
    """Return about how many parameters a token uses; None for a model of another build than the usual one.

    The usual one has attention, or gated delta nets, and experts of three matrices each.
    """
    hidden, per_token = whole(text, "hidden_size"), whole(text, *_PER_TOKEN)
    inner, vocabulary = whole(text, "moe_intermediate_size", "intermediate_size"), whole(text, "vocab_size")
    model_type = str(text.get("model_type"))
    if not (hidden and per_token and inner and vocabulary) or model_type in MAMBA2_TYPES | {"jamba", "kimi_linear", "lfm2_moe"}:
        return None
    try:
        kinds = _kinds(text, model_type)
        attention = sum(_attention_parameters(text, model_type, kind, hidden) for kind in kinds)
    except _UnknownError:
        return None
    shared = (whole(text, "n_shared_experts") or 0) * inner + (whole(text, "shared_expert_intermediate_size") or 0)
    if model_type == "llama4_text":
        shared = inner
    dense_inner = whole(text, "intermediate_size_mlp", "intermediate_size") or inner
    experts = sum(_has_experts(text, at) for at in range(len(kinds)))
    wide = experts * (per_token * inner + shared) + (len(kinds) - experts) * dense_inner
    embeddings = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    return attention + 3 * hidden * wide + embeddings


def _has_experts(text: Config, at: int) -> bool:
    """Whether the layer *at* has experts."""
    only_dense = text.get("mlp_only_layers")
    if isinstance(only_dense, list) and at in only_dense:
        return False
    if at < (whole(text, "first_k_dense_replace") or 0):
        return False
    return (at + 1) % (whole(text, "decoder_sparse_step", "interleave_moe_layer_step") or 1) == 0


def _attention_parameters(text: Config, model_type: str, kind: str, hidden: int) -> int:
    heads = _need(text, "num_attention_heads")
    if kind == MLA:
        latent, rope, nope = _need(text, "kv_lora_rank"), _need(text, "qk_rope_head_dim"), _need(text, "qk_nope_head_dim")
        value, query = _need(text, "v_head_dim"), whole(text, "q_lora_rank")
        wide = heads * (nope + rope)
        queries = query * (hidden + wide) if query else hidden * wide
        return queries + hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden
    if kind == LINEAR:
        keys = _need(text, "linear_num_key_heads") * _need(text, "linear_key_head_dim")
        values = _need(text, "linear_num_value_heads") * _need(text, "linear_value_head_dim")
        return hidden * (2 * keys + 3 * values)
    return 2 * hidden * _head_dim(text, model_type) * (heads + _kv_heads(text, model_type))
