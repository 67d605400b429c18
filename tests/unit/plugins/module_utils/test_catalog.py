from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _catalog
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

CATALOG = yaml.safe_load((Path(__file__).parents[4] / "roles/vllm/vars/models.yml").read_text())["vllm_models"]


def resolve(overrides=None, name="gpt-oss-120b"):
    return _catalog.resolve_row(CATALOG, overrides or {}, name)


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_row_of_the_catalog_is_served_unless_it_says_why_not(name):
    if "unservable" in CATALOG[name]:
        with pytest.raises(ServingError, match=name):
            resolve(name=name)
    row = resolve({name: {"unservable": None}}, name)
    assert row == {key: value for key, value in CATALOG[name].items() if key != "unservable"}


def test_the_model_of_the_seeds_that_vllm_cannot_serve_names_another():
    with pytest.raises(ServingError, match=r"dual chunk attention.*Serve qwen2\.5-7b-instruct .*unservable: null"):
        resolve(name="qwen2.5-7b-instruct-1m")


def test_the_two_rows_of_the_seeds_are_as_promised():
    gpt, qwq = resolve(), resolve(name="qwen-qwq-32b")
    assert (gpt["model"], gpt["tool_call_parser"]) == ("openai/gpt-oss-120b", "openai")
    assert (gpt["max_model_len"], gpt["max_num_seqs"]) == (131072, 2)
    assert (qwq["model"], qwq["tool_call_parser"], qwq["reasoning_parser"]) == ("Qwen/QwQ-32B", "hermes", "deepseek_r1")
    assert (qwq["max_model_len"], qwq["max_num_seqs"]) == (32768, 4)


def test_an_override_keeps_every_other_key_of_the_row():
    row = resolve({"gpt-oss-120b": {"max_model_len": 65536}})
    assert row == {**CATALOG["gpt-oss-120b"], "max_model_len": 65536}
    assert CATALOG["gpt-oss-120b"]["max_model_len"] == 131072


def test_mappings_inside_a_row_are_merged_key_by_key():
    catalog = {"m": {"model": "o/m", "env": {"A": "1", "B": "2"}}}
    assert _catalog.resolve_row(catalog, {"m": {"env": {"B": "3"}}}, "m")["env"] == {"A": "1", "B": "3"}


def test_null_takes_a_key_away():
    assert "reasoning_parser" not in resolve({"gpt-oss-120b": {"reasoning_parser": None}})


def test_a_row_that_the_catalog_lacks_is_a_new_model():
    assert resolve({"mine": {"model": "example-org/mine"}}, "mine") == {"model": "example-org/mine"}


REFUSED = {
    "unknown row": (None, "gpt-oss-12b", 'vllm_model_name: "gpt-oss-12b" is not in the catalog (did you mean "gpt-oss-120b"?)'),
    "unknown key": ({"max_model_length": 1}, None, 'gpt-oss-120b.max_model_length: unknown key (did you mean "max_model_len"?)'),
    "unknown key, nothing near": ({"zzz": 1}, None, "goes into extra_args"),
    "text for a number": ({"max_model_len": "64k"}, None, 'gpt-oss-120b.max_model_len: "64k" is not a whole number'),
    "truth for a number": ({"max_num_seqs": True}, None, "gpt-oss-120b.max_num_seqs: True is not a whole number"),
    "text for a list": ({"extra_args": "--block-size 32"}, None, "is not a list of strings"),
    "number in a list": ({"extra_args": ["--block-size", 32]}, None, "extra_args: 32 is not a string"),
    "two words in one": ({"extra_args": ["--block-size 32"]}, None, "Write each as its own item: ['--block-size', '32']"),
    "secret in arguments": ({"extra_args": ["--api-key", "s"]}, None, "the key lives in a Secret"),
    "secret in arguments, joined": ({"extra_args": ["--api_key=s"]}, None, "the key lives in a Secret"),
    "a flag that has a key": ({"extra_args": ["--max-model-len=1"]}, None, "set the row's key max_model_len"),
    "too small": ({"max_num_seqs": 0}, None, "the least is 1"),
    "too large": ({"gpu_memory_utilization": 1.5}, None, "the most is 1"),
    "context beyond the model's": ({"max_model_len": 200000}, None, "is beyond the model's 131072 tokens. Set at most 131072"),
    "batch below sequences": ({"max_num_batched_tokens": 1}, None, "is less than max_num_seqs (2)"),
    "unknown tool parser": ({"tool_call_parser": "hermes2"}, None, 'vLLM 0.32 does not know "hermes2" (did you mean "hermes"?)'),
    "unknown reasoning parser": ({"reasoning_parser": "deepseek-r1"}, None, '(did you mean "deepseek_r1"?)'),
    "auto tools without parser": ({"tool_call_parser": None, "enable_auto_tool_choice": True}, None, "unless tool_call_parser is set"),
    "an Ollama name as model": ({"model": "Qwen/Qwen3:8B"}, None, 'the Hugging Face id, with a dash: "Qwen/Qwen3-8B"'),
    "no hub id": ({"model": "gpt-oss"}, None, "neither a Hugging Face id"),
    "unknown format of weights": ({"weights_format": "mxfp8"}, None, 'weights_format: "mxfp8" is not known (did you mean "mxfp4"?)'),
    "unknown kind of layer": ({"layers": {"sliding": 1}}, None, "gpt-oss-120b.layers.sliding: unknown kind of attention"),
    "no layers of a kind": ({"layers": {"full": 0}}, None, "layers.full: 0 is not a number of layers"),
    "truth for layers": ({"layers": {"full": True}}, None, "layers.full: True is not a number of layers"),
    "layers as a number": ({"layers": 36}, None, "gpt-oss-120b.layers: 36 is not a mapping"),
    "layers without their fact": ({"layers": {"mla": 1}}, None, "kv_lora_rank: it is missing, though the row has layers.mla"),
    "a fact without its layers": (
        {"attention_chunk_size": 8192},
        None,
        "attention_chunk_size: it belongs to layers.chunked, which the row",
    ),
    "a capability as a number": ({"min_compute_capability": 8.0}, None, "8.0 is not a string"),
    "not a mapping": (65536, None, "is not a mapping of keys"),
}


@pytest.mark.parametrize(("changes", "name", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_naming_row_key_value_and_remedy(changes, name, message):
    with pytest.raises(ServingError) as refusal:
        resolve({"gpt-oss-120b": changes} if changes is not None else {}, name or "gpt-oss-120b")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["Qwen3", "my_model", "-x", "x" * 64])
def test_names_that_kubernetes_refuses(name):
    with pytest.raises(ServingError, match="cannot be a Kubernetes label"):
        resolve({name: {"model": "o/m"}}, name)


def test_a_row_named_as_ollama_does():
    with pytest.raises(ServingError, match="as Ollama names models"):
        resolve({"qwen3:8b": {"model": "Qwen/Qwen3-8B"}}, "qwen3:8b")


def test_a_mistake_in_a_row_that_is_not_served_shows_too():
    with pytest.raises(ServingError, match=r"qwen-qwq-32b\.max_len"):
        resolve({"qwen-qwq-32b": {"max_len": 1}}, "gpt-oss-120b")


def test_a_new_row_without_model():
    with pytest.raises(ServingError, match=r"vllm_model_configs\.mine: the key model is missing"):
        resolve({"mine": {"max_model_len": 8}}, "mine")


@pytest.mark.parametrize(("size", "fits"), [(1, True), (2, True), (4, True), (8, True), (3, False), (16, False)])
def test_tensor_parallel_has_to_divide_the_heads(size, fits):
    row = CATALOG["qwen-qwq-32b"]  # 40 heads, 8 KV heads
    if fits:
        _catalog.check_tensor_parallel("qwen-qwq-32b", row, size)
    else:
        with pytest.raises(ServingError, match=rf"{size} does not divide the 40 attention heads.*1, 2, 4, 8\."):
            _catalog.check_tensor_parallel("qwen-qwq-32b", row, size)


@pytest.mark.parametrize(
    ("row", "capability", "able"),
    [
        ("gpt-oss-120b", "8.0", False),
        ("gpt-oss-120b", "8.6", False),
        ("gpt-oss-120b", "8.9", True),
        ("gpt-oss-120b", "9.0", True),
        ("qwen-qwq-32b", "8.0", True),
        ("qwen-qwq-32b", "10.0", True),
        ("qwen-qwq-32b", "7.5", False),
        ("qwen-qwq-32b", None, False),
    ],
)
def test_fp8_kv_cache_by_model_and_gpu(row, capability, able):
    assert _catalog.supports_fp8_kv_cache(CATALOG[row], capability) is able


@pytest.mark.parametrize("row", [{"layers": {"mla": 27}}, {"layers": {"full": 32}, "head_dim": 96}])
def test_fp8_kv_cache_for_mla_and_for_head_sizes_that_flashinfer_lacks_needs_capability_8_9(row):
    assert not _catalog.supports_fp8_kv_cache(row, "8.0")
    assert _catalog.supports_fp8_kv_cache(row, "8.9")


def test_layers_taken_away_leave_their_facts_behind():
    own = {"model": "o/m", "layers": {"full": 1, "sliding_window": 1}, "sliding_window": 128}
    with pytest.raises(ServingError, match=r"sliding_window: it belongs to layers\.sliding_window"):
        _catalog.resolve_row({"m": own}, {"m": {"layers": {"sliding_window": None}}}, "m")
    with pytest.raises(ServingError, match=r"m\.layers: it is empty"):
        _catalog.resolve_row({"m": {"model": "o/m", "layers": {}}}, {}, "m")


GQA = {"weights_gib": 1.0, "vocab_size": 10, "num_attention_heads": 4, "max_context": 8, "num_kv_heads": 2, "head_dim": 64}
MLA = {"weights_gib": 1.0, "vocab_size": 10, "num_attention_heads": 4, "max_context": 8}


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ({**GQA, "layers": {"full": 2}}, []),
        ({}, ["weights_gib", "vocab_size", "num_attention_heads", "layers", "max_context", "num_kv_heads", "head_dim"]),
        ({**MLA, "layers": {"full": 2}}, ["num_kv_heads", "head_dim"]),
        ({**GQA, "layers": {"sliding_window": 2}}, ["sliding_window"]),
        ({**GQA, "layers": {"full": 1, "chunked": 2}}, ["attention_chunk_size"]),
        ({**MLA, "layers": {"mla": 2}}, ["kv_lora_rank", "qk_rope_head_dim"]),
        ({**MLA, "layers": {"mla": 2}, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, []),
        ({**MLA, "layers": {"linear": 2}}, ["linear_state_bytes"]),
        ({**MLA, "layers": {"linear": 2, "full": 1}}, ["num_kv_heads", "head_dim", "linear_state_bytes"]),
    ],
)
def test_facts_without_which_nothing_can_be_computed(row, missing):
    assert _catalog.missing_facts(row) == missing
    assert set(missing) <= _catalog.FACTS <= set(_catalog.KEYS)


def test_a_row_that_cannot_be_served_is_refused_only_when_chosen():
    catalog = {"m": {"model": "o/m", "unservable": "vLLM 0.32 lacks it. Serve other-model."}, "n": {"model": "o/n"}}
    assert _catalog.resolve_row(catalog, {}, "n") == {"model": "o/n"}
    with pytest.raises(ServingError) as refusal:
        _catalog.resolve_row(catalog, {}, "m")
    assert str(refusal.value) == (
        "vllm_model_name: m: vLLM 0.32 lacks it. Serve other-model. To waive this: set vllm_model_configs.m.unservable: null"
    )
    assert _catalog.resolve_row(catalog, {"m": {"unservable": None}}, "m") == {"model": "o/m"}
