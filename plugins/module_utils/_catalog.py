# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Rows of the model table: merging a user's overrides over the catalog, and refusing what vLLM would refuse later."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._kv_cache import CHUNKED, FULL, LINEAR, MLA, SLIDING

Row = dict[str, t.Any]

# Names registered in vLLM 0.32.0 (vllm/tool_parsers/__init__.py, vllm/reasoning/__init__.py).
TOOL_CALL_PARSERS = frozenset(
    """apertus cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4 deepseek_v41 dots ernie45 functiongemma
    gemma4 gigachat3 glm45 glm47 granite granite-20b-fc granite4 hermes hf hunyuan_a13b hy_v3 hy_v4 inkling internlm jamba k2_horizon
    kimi_k2 kimi_k3 lfm2 ling3 llama3_json llama4_json llama4_pythonic longcat mimo minicpm5 minimax_m2 minimax_m3 mistral muse_glimmer
    olmo3 openai phi4_mini_json plamo3 poolside_v1 pythonic qwen3_coder qwen3_json qwen3_xml seed_oss step3 step3p5 xlam""".split()
)
REASONING_PARSERS = frozenset(
    """cohere_command3 cohere_command4 deepseek_r1 deepseek_v3 deepseek_v4 deepseek_v41 ernie45 gemma4 glm45 glm47 granite
    granite_thinking_parser hf holo2 hunyuan_a13b hy_v3 hy_v4 inkling k2_horizon kimi_k2 kimi_k3 ling3 mimo minicpmv minimax_m2
    minimax_m2_append_think minimax_m3 mistral muse_glimmer nemotron_v3 olmo3 openai_gptoss plamo3 poolside_v1 qwen3 seed_oss step3
    step3p5""".split()
)
# Numbers of GPUs that are tried for one engine.
GPU_COUNTS = (1, 2, 4, 8, 16)
# What `--kv-cache-dtype` of vLLM 0.32 takes.
KV_CACHE_DTYPES = frozenset(
    """auto float16 bfloat16 fp8 fp8_e4m3 fp8_e5m2 fp8_inc fp8_ds_mla nvfp4 nvfp4_4over6 nvfp4_ds_mla turboquant_k8v4 turboquant_4bit_nc
    turboquant_k3v4_nc turboquant_3bit_nc ultraquant_4bit int4_per_token_head int8_per_token_head fp8_per_token_head""".split()
)
# FlashInferBackend.get_supported_head_sizes
FLASHINFER_HEAD_DIMS = frozenset({64, 128, 256, 512})
DTYPES = frozenset({"auto", "float16", "bfloat16", "float32", "half", "float"})
# How weights are shipped.
WEIGHTS_FORMATS = frozenset({"bf16", "fp16", "fp32", "fp8", "mxfp4", "awq", "gptq", "other"})
# Kinds of attention that a layer may have, and the facts that a row has exactly when it has layers of that kind.
LAYER_KINDS: dict[str, tuple[str, ...]] = {
    FULL: (),
    SLIDING: ("sliding_window",),
    CHUNKED: ("attention_chunk_size",),
    MLA: ("kv_lora_rank", "qk_rope_head_dim"),
    LINEAR: ("linear_state_bytes",),
}

# Flags that the plan sets itself (given twice they would fight), and one that would put a secret into the process list.
MANAGED_FLAGS = {
    "--api-key": "the key lives in a Secret: set vllm_api_key or vllm_api_key_secret",
    "--host": "the role sets it",
    "--port": "the role sets it",
    "--model": "set the row's key model",
    "--served-model-name": "it is the row's name",
    "--max-model-len": "set the row's key max_model_len",
    "--max-num-seqs": "set the row's key max_num_seqs",
    "--max-num-batched-tokens": "set the row's key max_num_batched_tokens",
    "--gpu-memory-utilization": "set the row's key gpu_memory_utilization",
    "--kv-cache-memory-bytes": "set the row's key kv_cache_memory_bytes",
    "--kv-cache-dtype": "set vllm_kv_cache_dtype",
    "--tensor-parallel-size": "set vllm_tensor_parallel_size",
    "--tool-call-parser": "set the row's key tool_call_parser",
    "--enable-auto-tool-choice": "set the row's key enable_auto_tool_choice",
    "--reasoning-parser": "set the row's key reasoning_parser",
    "--chat-template": "set the row's key chat_template",
    "--dtype": "set the row's key dtype",
    "--revision": "set the row's key revision",
    "--enforce-eager": "set the row's key enforce_eager",
    "--trust-remote-code": "set the row's key trust_remote_code",
    "--shutdown-timeout": "set vllm_shutdown_timeout",
}


class Key(t.NamedTuple):
    """One key of a row: its type, whether it has to be there, and bounds of a number (inclusive)."""

    type: type
    required: bool = False
    minimum: t.Optional[float] = None
    maximum: t.Optional[float] = None
    choices: frozenset[str] = frozenset()


_FACTS: dict[str, Key] = {
    "description": Key(str),
    "model": Key(str, required=True),
    "source": Key(str, choices=frozenset({"hub", "smoke"})),
    "revision": Key(str),
    "architecture": Key(str),
    "parameters_b": Key(float, minimum=0),
    "active_parameters_b": Key(float, minimum=0),
    "weights_gib": Key(float, minimum=0),
    "weights_format": Key(str, choices=WEIGHTS_FORMATS),
    "vocab_size": Key(int, minimum=1),
    "num_attention_heads": Key(int, minimum=1),
    "num_kv_heads": Key(int, minimum=1),
    "head_dim": Key(int, minimum=1),
    "layers": Key(dict),
    "sliding_window": Key(int, minimum=1),
    "attention_chunk_size": Key(int, minimum=1),
    "kv_lora_rank": Key(int, minimum=1),
    "qk_rope_head_dim": Key(int, minimum=1),
    "linear_state_bytes": Key(int, minimum=1),
    "linear_state_blocks": Key(int, minimum=1),
    "attention_sinks": Key(bool),
    "max_context": Key(int, minimum=1),
    "min_compute_capability": Key(str),
    "gated": Key(bool),
    "license": Key(str),
    "production_use": Key(bool),
    "unservable": Key(str),
}
_CHOICES: dict[str, Key] = {
    "min_gpu_memory_gb": Key(float, minimum=0),
    "max_model_len": Key(int, minimum=1),
    "max_num_seqs": Key(int, minimum=1),
    "max_num_batched_tokens": Key(int, minimum=1),
    "gpu_memory_utilization": Key(float, minimum=0.05, maximum=1.0),
    "kv_cache_memory_bytes": Key(int, minimum=1),
    "kv_cache_dtype": Key(str, choices=KV_CACHE_DTYPES),
    "tensor_parallel_size": Key(int, minimum=1),
    "dtype": Key(str, choices=DTYPES),
    "enforce_eager": Key(bool),
    "trust_remote_code": Key(bool),
    "chat_template": Key(str),
    "tool_call_parser": Key(str, choices=TOOL_CALL_PARSERS),
    "enable_auto_tool_choice": Key(bool),
    "reasoning_parser": Key(str, choices=REASONING_PARSERS),
    "extra_args": Key(list),
    "env": Key(dict),
    "cpu_request": Key(str),
    "cpu_limit": Key(str),
    "memory_request": Key(str),
    "memory_limit": Key(str),
}
KEYS: dict[str, Key] = {**_FACTS, **_CHOICES}
# What a row says of the model; every other key says how it is served.
FACTS = frozenset(_FACTS)

_TYPE_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list of strings",
    dict: "a mapping",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LABEL_VALUE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_CAPABILITY = re.compile(r"\d+\.\d")


def resolve_row(
    catalog: t.Mapping[str, t.Any], overrides: t.Mapping[str, t.Any], name: str, facts: t.Optional[t.Mapping[str, t.Any]] = None
) -> Row:
    """Return the complete row *name*: the catalog's, with the user's keys merged over it, validated.

    Every override is validated, not only the one that is served, so that a mistake shows when it is made.
    Raises ServingError naming row, key, value and what would be right, or why vLLM cannot serve the row.
    """
    if not isinstance(overrides, t.Mapping):
        raise ServingError(f"vllm_model_configs has to be a mapping of row names to rows, not {_show(overrides)}.")
    table: dict[str, Row] = {key: dict(row) for key, row in catalog.items()}
    if facts:
        table[name] = {**facts, **table.get(name, {})}
    for row_name, changes in overrides.items():
        if not isinstance(changes, t.Mapping):
            raise ServingError(
                f"vllm_model_configs.{row_name}: {_show(changes)} is not a mapping of keys. Example: {{max_model_len: 8192}}"
            )
        table[str(row_name)] = merge(table.get(str(row_name), {}), changes)
    if name not in table:
        hint = did_you_mean(name, table)
        raise ServingError(
            f'vllm_model_name: "{name}" is not in the catalog{hint}. Known: {", ".join(sorted(table))}. '
            "A model of your own is a new row of vllm_model_configs with at least the key model."
        )
    for row_name in {name, *map(str, overrides)}:
        check_row(row_name, table[row_name])
    if "unservable" in table[name]:
        raise ServingError(
            f"vllm_model_name: {name}: {table[name]['unservable']} To waive this: set vllm_model_configs.{name}.unservable: null"
        )
    return table[name]


def merge(base: t.Mapping[str, t.Any], changes: t.Mapping[str, t.Any]) -> Row:
    """Return *base* with *changes* merged deeply: mappings key by key, everything else replaced; None takes a key away."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, t.Mapping) and isinstance(merged.get(key), t.Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def check_row(name: str, row: Row) -> None:
    """Raise ServingError for the first thing in *row* that vLLM or Kubernetes would refuse."""
    _check_name(name)
    for key, value in row.items():
        _check_value(f"vllm_model_configs.{name}.{key}", key, value)
    missing = [key for key, spec in KEYS.items() if spec.required and key not in row]
    if missing:
        raise ServingError(f"vllm_model_configs.{name}: the key {missing[0]} is missing. Example: model: Qwen/Qwen2.5-7B-Instruct")
    _check_model(name, row)
    _check_capability(name, row)
    _check_layers(name, row)
    _check_lengths(name, row)
    _check_tools(name, row)
    _check_extra_args(name, row.get("extra_args", []))


def missing_facts(row: Row) -> list[str]:
    """Return the facts that *row* lacks and without which nobody can compute whether the model fits on a GPU.

    Where ``layers`` itself is missing, the attention is taken for ordinary, so num_kv_heads and head_dim are asked for, too.
    """
    layers: t.Mapping[str, int] = row.get("layers", {})
    needed = ["weights_gib", "vocab_size", "num_attention_heads", "layers", "max_context"]
    if not layers or set(layers) - {MLA, LINEAR}:
        needed += ["num_kv_heads", "head_dim"]
    for kind in layers:
        needed += LAYER_KINDS.get(kind, ())
    return [key for key in needed if key not in row]


def check_tensor_parallel(name: str, row: Row, size: int) -> None:
    """Raise ServingError when *size* GPUs cannot share the attention heads of *row* (vLLM: heads % size == 0)."""
    heads = row.get("num_attention_heads")
    if heads and heads % size:
        fitting = [str(n) for n in GPU_COUNTS if heads % n == 0]
        raise ServingError(
            f"vllm_tensor_parallel_size: {size} does not divide the {heads} attention heads of {name}. It may be {', '.join(fitting)}."
        )
    kv_heads = row.get("num_kv_heads")
    if kv_heads and not _share_kv_heads(kv_heads, size):
        raise ServingError(
            f"vllm_tensor_parallel_size: {size} and the {kv_heads} KV heads of {name}: one has to divide the other. "
            f"It may be {', '.join(str(n) for n in GPU_COUNTS if _share_kv_heads(kv_heads, n))}."
        )


def splits(row: t.Mapping[str, t.Any], size: int) -> bool:
    """Whether *size* GPUs can share the attention heads of *row*, by the rule of check_tensor_parallel."""
    return bool(row["num_attention_heads"] % size == 0 and _share_kv_heads(row.get("num_kv_heads", 1), size))


def _share_kv_heads(kv_heads: int, size: int) -> bool:
    return kv_heads % size == 0 or size % kv_heads == 0


def supports_fp8_kv_cache(row: Row, compute_capability: t.Optional[str]) -> bool:
    """Whether vLLM 0.32 starts *row* with an fp8 KV cache on a GPU of *compute_capability* ("8.0"); False where it is unknown.

    vllm/platforms/cuda.py and v1/attention/backends: from 8.9 on everything does. On 8.0 to 8.8 FlashInfer stores fp8 for ordinary
    attention, but attention sinks, MLA and head sizes that FlashInfer lacks are left to Triton, which refuses an fp8 cache below 8.9
    (vllm-project/vllm PR 43914).
    """
    if not compute_capability:
        return False
    capability = capability_tuple(compute_capability)
    if capability >= (8, 9):
        return True
    return (
        capability >= (8, 0)
        and not row.get("attention_sinks")
        and MLA not in row.get("layers", {})
        and row.get("head_dim", 128) in FLASHINFER_HEAD_DIMS
    )


def capability_tuple(text: str) -> tuple[int, int]:
    """Return (8, 0) for "8.0"."""
    major, _dot, minor = text.partition(".")
    return int(major), int(minor or 0)


def _check_name(name: str) -> None:
    if ":" in name:
        raise ServingError(
            f'vllm_model_name: "{name}" is written as Ollama names models. Rows have plain names ({name.replace(":", "-").lower()}), '
            "and their key model is the Hugging Face id (Qwen/Qwen3-8B)."
        )
    if len(name) > 63 or not _LABEL_VALUE.fullmatch(name):
        raise ServingError(
            f'vllm_model_configs: the row name "{name}" cannot be a Kubernetes label: lower-case letters, digits, "-" and ".", '
            "at most 63 characters, a letter or digit at both ends."
        )


def _check_value(where: str, key: str, value: t.Any) -> None:
    if key not in KEYS:
        hint = did_you_mean(key, KEYS)
        extra = "" if hint else ". A flag of vLLM that has no key of its own goes into extra_args"
        raise ServingError(f"{where}: unknown key{hint}{extra}.")
    spec = KEYS[key]
    wrong = (
        (spec.type is not bool and isinstance(value, bool))
        or (spec.type is float and not isinstance(value, (int, float)))
        or (spec.type is not float and not isinstance(value, spec.type))
    )
    if spec.type is str and key.endswith(("_request", "_limit")) and isinstance(value, (int, float)) and not isinstance(value, bool):
        wrong = False  # cpu_limit: 4
    if wrong:
        raise ServingError(f"{where}: {_show(value)} is not {_TYPE_NAMES[spec.type]}.")
    if spec.choices and value not in spec.choices:
        hint = did_you_mean(str(value), spec.choices)
        known = f" Known: {', '.join(sorted(spec.choices))}." if not hint and len(spec.choices) < 12 else ""
        unknown = f"{_show(value)} is not known" if key in FACTS else f"vLLM 0.32 does not know {_show(value)}"
        raise ServingError(f"{where}: {unknown}{hint}.{known}")
    if isinstance(value, (int, float)) and spec.minimum is not None and value < spec.minimum:
        raise ServingError(f"{where}: {value} is too small, the least is {spec.minimum:g}.")
    if isinstance(value, (int, float)) and spec.maximum is not None and value > spec.maximum:
        raise ServingError(f"{where}: {value} is too large, the most is {spec.maximum:g}.")


def _check_model(name: str, row: Row) -> None:
    model = row["model"]
    where = f"vllm_model_configs.{name}.model"
    if row.get("source", "hub") == "smoke" or model.startswith("/"):
        return
    if ":" in model:
        raise ServingError(
            f'{where}: "{model}" is written as Ollama names models. vLLM takes the Hugging Face id, with a dash: '
            f'"{model.replace(":", "-")}".'
        )
    if not _HUB_ID.fullmatch(model):
        raise ServingError(
            f'{where}: "{model}" is neither a Hugging Face id (owner/name, for instance Qwen/QwQ-32B) nor an absolute path on the volume.'
        )


def _check_capability(name: str, row: Row) -> None:
    value = row.get("min_compute_capability")
    if value is not None and not _CAPABILITY.fullmatch(value):
        raise ServingError(f'vllm_model_configs.{name}.min_compute_capability: "{value}" is not of the form "8.0".')


def _check_layers(name: str, row: Row) -> None:
    """Refuse layers of an unknown kind, and facts of a kind without such layers or the other way round."""
    where = f"vllm_model_configs.{name}"
    layers = row.get("layers", {})
    for kind, count in layers.items():
        if kind not in LAYER_KINDS:
            raise ServingError(
                f"{where}.layers.{kind}: unknown kind of attention{did_you_mean(str(kind), LAYER_KINDS)}. Known: {', '.join(LAYER_KINDS)}."
            )
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ServingError(
                f"{where}.layers.{kind}: {_show(count)} is not a number of layers. Give a whole number, at least 1, or leave {kind} out."
            )
    if "layers" in row and not layers:
        raise ServingError(f"{where}.layers: it is empty. Example: layers: {{full: 28}}")
    for kind, facts in LAYER_KINDS.items():
        for fact in facts:
            if kind in layers and fact not in row:
                raise ServingError(f"{where}.{fact}: it is missing, though the row has layers.{kind}. See config.json of the model.")
            if fact in row and kind not in layers:
                raise ServingError(f"{where}.{fact}: it belongs to layers.{kind}, which the row lacks. Set that, too, or remove {fact}.")


def _check_lengths(name: str, row: Row) -> None:
    length, limit = row.get("max_model_len"), row.get("max_context")
    if length and limit and length > limit:
        raise ServingError(f"vllm_model_configs.{name}.max_model_len: {length} is beyond the model's {limit} tokens. Set at most {limit}.")
    batch, seqs = row.get("max_num_batched_tokens"), row.get("max_num_seqs")
    if batch and seqs and batch < seqs:
        raise ServingError(
            f"vllm_model_configs.{name}.max_num_batched_tokens: {batch} is less than max_num_seqs ({seqs}), which vLLM refuses. "
            f"Set at least {seqs}."
        )


def _check_tools(name: str, row: Row) -> None:
    if row.get("enable_auto_tool_choice") and not row.get("tool_call_parser"):
        raise ServingError(
            f"vllm_model_configs.{name}.enable_auto_tool_choice: vLLM does not start with it unless tool_call_parser is set, too. "
            "Set one (hermes for Qwen, llama3_json for Llama 3, mistral, openai for gpt-oss), or false."
        )


def _check_extra_args(name: str, args: t.Sequence[t.Any]) -> None:
    where = f"vllm_model_configs.{name}.extra_args"
    for arg in args:
        if not isinstance(arg, str):
            raise ServingError(f'{where}: {_show(arg)} is not a string. Each word of the command line is one: ["--block-size", "32"]')
        flag = arg.split("=", 1)[0].replace("_", "-")
        if flag in MANAGED_FLAGS:
            raise ServingError(f"{where}: {flag} is not taken here; {MANAGED_FLAGS[flag]}.")
        if arg.startswith("-") and " " in arg:
            raise ServingError(f'{where}: "{arg}" holds more than one word. Write each as its own item: {arg.split()}')


def _show(value: t.Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
