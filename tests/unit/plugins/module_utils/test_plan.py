from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _plan, _quantity, _routers
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ROLE = Path(__file__).parents[4] / "roles/vllm"
CATALOG = yaml.safe_load((ROLE / "vars/models.yml").read_text())["vllm_models"]
OPTIONS = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
DEFAULTS = {name: spec.get("default") for name, spec in OPTIONS.items()} | {"vllm_smoke_model_digest": "0123456789abcdef", "vllm_pins": {}}

A100 = {"node": "gpu-a", "product": "NVIDIA-A100-SXM4-80GB", "compute_capability": "8.0"}
H100 = {"node": "gpu-h", "product": "NVIDIA-H100-80GB-HBM3", "compute_capability": "9.0"}
T4 = {"node": "gpu-t", "product": "Tesla-T4", "compute_capability": "7.5"}
UNKNOWN = {"node": "gpu-x", "product": "NVIDIA-X", "compute_capability": None}


def plan(gpus=None, facts=None, **changes):
    settings = {**DEFAULTS, **{f"vllm_{key}": value for key, value in changes.items()}}
    assert set(settings) == set(DEFAULTS), "a test sets a variable that does not exist"
    return _plan.make_plan(settings, CATALOG, gpus, facts=facts)


def value_of(args, flag):
    return args[args.index(flag) + 1]


def test_the_names_that_users_know():
    made = plan()
    assert made["namespace"] == "chatbot"
    assert made["names"] == {
        "engine": "vllm-backend",
        "router": "vllm-router",
        "claim": "vllm-models",
        "secret": "vllm-secrets",
        "prefetch": "vllm-prefetch",
        "prune": "vllm-prune",
        "scripts": "vllm-scripts",
        "state": "vllm-state",
    }
    assert made["labels"]["app"] == "vllm-backend"
    assert made["endpoint"]["url"] == "http://vllm-router.chatbot:8000/v1"


def test_a_second_stack_has_names_and_engines_of_its_own():
    one, two = plan(), plan(stack_name="lab")
    assert set(one["names"].values()).isdisjoint(two["names"].values())
    assert two["labels"] == {"app": "vllm-backend", "app.kubernetes.io/instance": "lab"}
    assert one["label_selector"] != two["label_selector"]
    selector = value_of(two["router"]["listeners"][0]["args"], "--k8s-label-selector")
    assert selector == "app=vllm-backend,app.kubernetes.io/instance=lab,serving.llmops/routed=true"


def test_the_engine_of_gpt_oss_starts_on_80_gb():
    args = plan()["engine"]["args"]
    assert args[0] == "openai/gpt-oss-120b"
    assert value_of(args, "--served-model-name") == "gpt-oss-120b"
    assert value_of(args, "--gpu-memory-utilization") == "0.95"
    assert value_of(args, "--max-model-len") == "131072"
    assert value_of(args, "--tool-call-parser") == "openai"
    assert "--enable-auto-tool-choice" in args
    assert int(value_of(args, "--shutdown-timeout")) > 0


def test_the_plan_is_plain_data():
    assert json.loads(json.dumps(plan([A100]))) == plan([A100])


@pytest.mark.parametrize(
    ("model", "gpus", "expected"),
    [
        ("gpt-oss-120b", [A100], "auto"),
        ("gpt-oss-120b", [H100], "fp8"),
        ("gpt-oss-120b", [A100, H100], "auto"),
        ("qwen-qwq-32b", [A100], "fp8"),
        ("qwen-qwq-32b", [UNKNOWN], "auto"),
        ("qwen-qwq-32b", [], "auto"),
        ("qwen-qwq-32b", None, "auto"),
        ("smoke", [H100], "auto"),
    ],
)
def test_fp8_where_model_and_every_gpu_allow_it(model, gpus, expected):
    made = plan(gpus, model_name=model)
    assert made["engine"]["kv_cache_dtype"] == expected
    assert ("--kv-cache-dtype" in made["engine"]["args"]) is (expected != "auto")


def test_auto_turns_fp8_off():
    assert "--kv-cache-dtype" not in plan([H100], kv_cache_dtype="auto")["engine"]["args"]


def test_a_row_decides_for_itself():
    made = plan([H100], model_configs={"gpt-oss-120b": {"kv_cache_dtype": "auto"}})
    assert made["engine"]["kv_cache_dtype"] == "auto"


def test_fp8_is_refused_where_it_cannot_start():
    with pytest.raises(ServingError, match=r"fp8 cannot be had for gpt-oss-120b on NVIDIA-A100.*attention sinks.*Set auto"):
        plan([H100, A100], kv_cache_dtype="fp8")
    with pytest.raises(ServingError, match=r"vllm_model_configs\.gpt-oss-120b\.kv_cache_dtype: fp8"):
        plan([A100], model_configs={"gpt-oss-120b": {"kv_cache_dtype": "fp8"}})
    assert plan([H100], kv_cache_dtype="fp8")["engine"]["kv_cache_dtype"] == "fp8"


def test_a_gpu_that_is_too_old_is_refused():
    with pytest.raises(ServingError, match=r"compute capability 8\.0; gpu-t has Tesla-T4 \(7\.5\)"):
        plan([T4, A100])


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(None, None, (1, "1")), (2, None, (2, "2")), (None, 2, (2, "2")), (2, 2, (2, "2")), ("4", "4", (4, "4"))],
)
def test_gpus_and_tensor_parallel(count, size, expected):
    engine = plan(gpu_count=count, tensor_parallel_size=size)["engine"]
    assert (engine["gpu_count"], engine["resources"]["limits"]["nvidia.com/gpu"]) == expected
    parallel = value_of(engine["args"], "--tensor-parallel-size") if "--tensor-parallel-size" in engine["args"] else "1"
    assert parallel == expected[1]


def test_dev_shm_is_always_sized_and_grows_with_the_gpus():
    assert plan()["engine"]["shm_size"] == "2Gi"
    assert plan(gpu_count=4)["engine"]["shm_size"] == "8Gi"
    assert plan(shm_size="1Gi")["engine"]["shm_size"] == "1Gi"


REFUSED = {
    "more parallel than GPUs": ({"gpu_count": 2, "tensor_parallel_size": 4}, "4 GPUs are asked of vllm_gpu_count: 2"),
    "GPUs that would idle": ({"gpu_count": 4, "tensor_parallel_size": 2}, "the rest would idle"),
    "heads not divided": ({"gpu_count": 3}, "does not divide the 64 attention heads"),
    "GPUs without GPUs": ({"accelerator": "cpu", "gpu_count": 1}, "Remove one of the two"),
    "no number": ({"replicas": "two"}, 'vllm_replicas: "two" is not a whole number'),
    "too few": ({"replicas": 0}, "the least is 1"),
    "latest": ({"image": "vllm/vllm-openai:latest"}, "may be another image tomorrow"),
    "no tag": ({"image": "registry.example:5000/vllm"}, "may be another image tomorrow"),
    "no digest": ({"image": "vllm@sha256:123"}, "is no digest"),
    "no image for AMD": ({"accelerator": "amd"}, "vllm_image has to be set"),
    "no image of the Rust router": ({"router_type": "vllm-router"}, "vllm_router_image has to be set"),
    "router": ({"router_type": "vllm_router"}, '(did you mean "vllm-router"?)'),
    "accelerator": ({"accelerator": "nvida"}, '(did you mean "nvidia"?)'),
    "memory": ({"min_gpu_memory_gb": "80Gi"}, 'llm_min_gpu_memory_gb: "80Gi" is not a number'),
    "quantity": ({"storage_size": "100 GB"}, "no Kubernetes quantity"),
    "namespace": ({"namespace": "Chat_Bot"}, "no Kubernetes name"),
    "KV cache type": ({"kv_cache_dtype": "fp16"}, 'vLLM 0.32 does not know "fp16"'),
    "secret in the environment": ({"extra_env": {"HF_TOKEN": "hf_x"}}, "They go into a Secret"),
    "secret reference": ({"api_key_secret": {"name": "x"}}, "name and key of an existing Secret"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(changes, message):
    with pytest.raises(ServingError) as refusal:
        plan(**changes)
    assert message.lower() in str(refusal.value).lower()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "image", ["vllm/vllm-openai:v0.32.0", f"registry.example:5000/v@sha256:{64 * 'a'}", f"r.example/v:t@sha256:{64 * '0'}"]
)
def test_images_by_tag_or_digest(image):
    assert plan(image=image)["engine"]["image"] == image


def test_images_run_by_the_digest_of_the_lock_and_from_another_registry():
    pins = {"path": "/site/images.lock.yml", "images": {"vllm/vllm-openai:v0.32.0": {"digest": f"sha256:{64 * 'a'}"}}}
    made = plan(pins=pins, image_registry="r.example/hub", volume_permissions=True)
    engine, router = made["images"]
    assert engine["image"] == f"r.example/hub/vllm/vllm-openai:v0.32.0@sha256:{64 * 'a'}"
    assert router["image"] == f"r.example/hub/{_routers.PRODUCTION_STACK_IMAGE}"
    assert made["engine"]["image"] == made["volume_permissions"]["image"] == engine["image"]
    assert made["router"]["image"] == router["image"]
    assert [entry["note"][:38] for entry in made["images"]] == ["", f"vllm_router_image: {_routers.PRODUCTION_STACK_IMAGE}"[:38]]


def test_a_lock_for_another_tag_is_refused():
    pins = {"path": "/site/images.lock.yml", "images": {"vllm/vllm-openai:v0.31.0": {"digest": f"sha256:{64 * 'a'}"}}}
    with pytest.raises(ServingError, match=r"vllm_image: .* pins vllm/vllm-openai at the tag v0\.31\.0, not at v0\.32\.0"):
        plan(pins=pins)


def test_the_startup_budget_grows_with_the_weights():
    sizes = [0.01, 6, 61, 131]
    budgets = [_plan.startup_budget_s({"weights_gib": gib}, prefetched=False) for gib in sizes]
    assert budgets == sorted(budgets)
    # 61 GiB over 50 MiB/s alone take 1249 s
    assert budgets[2] > 1249 + _plan.START_S
    assert _plan.startup_budget_s({}, prefetched=False) >= _plan.startup_budget_s({"weights_gib": 99}, prefetched=False)
    # what is on the volume need not be fetched
    assert budgets[2] - _plan.startup_budget_s({"weights_gib": 61}, prefetched=True) > 1200
    assert plan()["wait"]["prefetch_timeout_s"] > 61 * 1024 / 5


def test_probes_cover_the_whole_budget_and_the_engine_knows_it():
    engine = plan()["engine"]
    assert engine["startup_failure_threshold"] * engine["probe_period_s"] >= engine["startup_budget_s"]
    assert engine["env"]["VLLM_ENGINE_READY_TIMEOUT_S"] == str(engine["startup_budget_s"])
    assert plan()["wait"]["timeout_s"] > engine["startup_budget_s"]


def test_the_grace_period_is_longer_than_the_drain():
    engine = plan(shutdown_timeout=90)["engine"]
    assert engine["termination_grace_s"] > engine["pre_stop_s"] + 90
    assert value_of(engine["args"], "--shutdown-timeout") == "90"


@pytest.mark.parametrize(("gb", "mib"), [(80, 76294), (24, 22889), (16, 15259)])
def test_decimal_gb_against_mib_labels(gb, mib):
    assert _plan.memory_label_minimum_mib(gb) == mib


@pytest.mark.parametrize(("sold_gb", "label_mib"), [(80, 81920), (80, 81559), (141, 143771), (48, 46068), (24, 23034), (16, 15360)])
def test_cards_pass_their_own_size_in_the_node_affinity(sold_gb, label_mib):
    term = plan(min_gpu_memory_gb=sold_gb)["engine"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    expression = term["nodeSelectorTerms"][0]["matchExpressions"][0]
    assert expression["operator"] == "Gt"
    assert label_mib > int(expression["values"][0])


def test_a_40_gb_card_does_not_pass_for_80():
    term = plan()["engine"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert int(term["nodeSelectorTerms"][0]["matchExpressions"][0]["values"][0]) >= 40960


def test_zero_turns_check_and_affinity_off():
    made = plan(min_gpu_memory_gb=0)
    assert not made["gpu_check"]["enabled"]
    assert "nodeAffinity" not in made["engine"]["affinity"]


def test_without_a_word_the_row_decides_the_minimum():
    check = plan()["gpu_check"]
    assert (check["enabled"], check["min_memory_gb"], check["gpus_per_node"], check["replicas"]) == (True, 80, 1, 1)
    assert plan(model_name="smoke")["gpu_check"]["min_memory_gb"] == 0


def test_tensor_parallel_needs_its_gpus_on_one_node():
    assert plan(gpu_count=4)["gpu_check"]["gpus_per_node"] == 4


def test_replicas_share_a_node_when_only_one_can_mount_the_volume():
    made = plan(replicas=2)
    assert made["engine"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert (made["gpu_check"]["gpus_per_node"], made["gpu_check"]["replicas"]) == (2, 1)
    spread = plan(replicas=2, storage_access_mode="ReadWriteMany")
    assert "podAffinity" not in spread["engine"]["affinity"]
    assert (spread["gpu_check"]["gpus_per_node"], spread["gpu_check"]["replicas"]) == (1, 2)


def test_a_gpu_is_freed_first_and_a_cpu_need_not_be():
    assert plan()["engine"]["strategy"] == {"type": "Recreate"}
    assert plan(accelerator="cpu")["engine"]["strategy"]["type"] == "RollingUpdate"


def test_cpu_asks_for_no_gpu_and_no_check():
    made = plan(accelerator="cpu")
    assert not any("gpu" in key for key in made["engine"]["resources"]["limits"])
    assert not made["gpu_check"]["enabled"]
    assert made["engine"]["tolerations"] == []


def test_sizes_are_the_users_then_the_rows_then_ours():
    assert plan()["engine"]["resources"]["requests"]["cpu"] == "8"
    assert plan(model_name="smoke")["engine"]["resources"]["requests"]["cpu"] == "500m"
    assert plan(model_name="smoke", cpu_request="2")["engine"]["resources"]["requests"]["cpu"] == "2"


def test_secrets_are_references():
    made = plan()
    assert made["secrets"]["api_key"] == {"name": "vllm-secrets", "key": "VLLM_API_KEY"}
    assert made["endpoint"]["api_key_secret"] == {"namespace": "chatbot", "name": "vllm-secrets", "key": "VLLM_API_KEY"}
    given = plan(api_key_secret={"name": "mine", "key": "k"})
    assert given["secrets"]["api_key"] == {"name": "mine", "key": "k"}
    assert not given["secrets"]["generate"]
    off = plan(api_key_enabled=False)
    assert off["secrets"]["api_key"] is None
    assert off["endpoint"]["api_key_secret"] is None


def test_smoke_models_are_trained_onto_the_volume_and_never_look_at_the_hub():
    made = plan(model_name="smoke")
    assert made["prefetch"]["model_path"] == made["engine"]["args"][0] == "/data/models/smoke-0123456789ab"
    assert made["engine"]["env"]["HF_HUB_OFFLINE"] == "1"
    other = plan(model_name="smoke", smoke_model_digest="f" * 64)
    assert other["prefetch"]["job"] != made["prefetch"]["job"]


def test_weights_and_caches_are_on_the_volume():
    env = plan()["engine"]["env"]
    assert all(env[key].startswith("/data/") for key in ("HOME", "HF_HOME", "VLLM_CACHE_ROOT"))
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["PYTHONHASHSEED"] == "0"


def test_weights_are_fetched_by_a_job_that_may_ask_the_hub():
    made = plan(hf_endpoint="https://mirror.example.com", model_configs={"gpt-oss-120b": {"revision": "abc", "trust_remote_code": True}})
    fetch = made["prefetch"]
    assert fetch["command"][:2] == ["python3", "/scripts/fetch_model.py"]
    assert (value_of(fetch["command"], "--model"), value_of(fetch["command"], "--revision")) == ("openai/gpt-oss-120b", "abc")
    assert "--remote-code" in fetch["command"]
    assert (fetch["env"]["HF_ENDPOINT"], "HF_HUB_OFFLINE" in fetch["env"]) == ("https://mirror.example.com", False)
    assert fetch["env"]["HF_HOME"] == made["engine"]["env"]["HF_HOME"]
    assert made["scripts"] == ["fetch_model.py", "wait_for_gpu.py"]
    assert made["weights"] == {"models--openai--gpt-oss-120b": {"model": "gpt-oss-120b", "gib": 60.77}}


def test_a_job_of_its_own_for_all_that_may_be_fetched():
    jobs = [
        plan(model_configs={"gpt-oss-120b": changes}, **others)["prefetch"]["job"]
        for changes, others in (({}, {}), ({"revision": "abc"}, {}), ({"model": "me/gpt"}, {}), ({}, {"hf_endpoint": "https://a.b"}))
    ]
    assert len(set(jobs)) == 4
    assert all(job.startswith("vllm-prefetch-gpt-oss-120b-") for job in jobs)
    long = plan(model_name="x" * 63, model_configs={"x" * 63: {"model": "a/b"}})["prefetch"]["job"]
    assert len(long) <= 63
    assert long[-9] == "-"


def test_without_a_prefetch_the_engine_asks_the_hub():
    made = plan(prefetch=False, hf_endpoint="https://mirror.example.com")
    assert made["prefetch"] is None
    assert "HF_HUB_OFFLINE" not in made["engine"]["env"]
    assert made["engine"]["env"]["HF_ENDPOINT"] == "https://mirror.example.com"
    assert "kubernetes/prefetch-job.yaml.j2" not in made["templates"]
    assert made["weights"] == {}


def test_a_folder_of_the_volume_is_not_fetched():
    assert plan(model_name="mine", model_configs={"mine": {"model": "/data/models/mine"}})["prefetch"] is None


def test_the_alias_answers_beside_the_name():
    args = plan()["engine"]["args"]
    assert args[args.index("--served-model-name") :][1:4] == ["gpt-oss-120b", "chat", "--host"]
    assert plan()["endpoint"]["alias"] == "chat"
    for none in ("", "gpt-oss-120b"):
        made = plan(served_model_alias=none)
        assert made["engine"]["args"][made["engine"]["args"].index("--served-model-name") :][1:3] == ["gpt-oss-120b", "--host"]
        assert (made["endpoint"]["alias"], made["verify"]["request"]["aliases"]) == (None, [])


@pytest.mark.parametrize(
    ("alias", "words"), [("two words", 'alias: "two words" is no name'), ("smoke", '"smoke" is the name of another model')]
)
def test_an_alias_that_would_mislead_is_refused(alias, words):
    with pytest.raises(ServingError, match=words):
        plan(served_model_alias=alias)


def test_what_is_verified_is_what_the_row_says():
    request = plan(model_name="qwen-qwq-32b")["verify"]["request"]
    assert (request["tool_calls"], request["reasoning"], request["aliases"]) == (True, True, ["chat"])
    request = plan(model_name="plain", model_configs={"plain": {"model": "a/b", "max_model_len": 4096}})["verify"]["request"]
    assert (request["tool_calls"], request["reasoning"], request["max_model_len"]) == (False, False, 4096)
    by_hand = {"qwen-qwq-32b": {"enable_auto_tool_choice": False}}
    assert not plan(model_name="qwen-qwq-32b", model_configs=by_hand)["verify"]["request"]["tool_calls"]


def test_old_and_new_engines_share_the_node_of_the_volume():
    def term(made):
        return made["engine"]["affinity"]["podAffinity"]

    assert list(term(plan())) == ["preferredDuringSchedulingIgnoredDuringExecution"]
    assert list(term(plan(replicas=2))) == ["requiredDuringSchedulingIgnoredDuringExecution"]
    assert "podAffinity" not in plan(storage_access_mode="ReadWriteMany")["engine"]["affinity"]


def test_gpu_memory_of_the_engine_before_is_waited_for():
    assert plan()["engine"]["gpu_wait"] == {"share": 0.95}
    assert plan(model_name="smoke", accelerator="cpu")["engine"]["gpu_wait"] is None


def test_a_strategy_that_nobody_knows_is_refused():
    with pytest.raises(ServingError, match=r'vllm_switch_strategy: "recreat" is not known .did you mean "recreate"'):
        plan(switch_strategy="recreat")


def test_what_a_cluster_may_lack_and_what_few_replicas_do_not_need():
    one, two = plan()["templates"], plan(replicas=2, router_replicas=2)["templates"]
    assert not any("poddisruptionbudget" in name for name in one)
    assert sum("poddisruptionbudget" in name for name in two) == 2
    assert not any("servicemonitor" in name for name in plan(service_monitor_enabled=False)["templates"])


@pytest.mark.parametrize(
    ("router_type", "flags"), [("production-stack", _routers.PRODUCTION_STACK_FLAGS), ("vllm-router", _routers.VLLM_ROUTER_FLAGS)]
)
def test_each_router_gets_only_flags_that_its_version_knows(router_type, flags):
    listeners = plan(router_type=router_type, router_image="r:1", replicas=2)["router"]["listeners"]
    used = {word for listener in listeners for word in listener["args"] if word.startswith("--")}
    assert used
    assert used <= flags


def test_sessions_with_the_production_stack():
    router = plan()["router"]
    args = router["listeners"][0]["args"]
    assert value_of(args, "--routing-logic") == "session"
    assert value_of(args, "--session-key") == "x-session-id"
    assert router["session_port"] == 8000


def test_sessions_and_spreading_with_the_rust_router_need_two_processes():
    router = plan(router_type="vllm-router", router_image="r:1", replicas=2)["router"]
    policies = {listener["port"]: value_of(listener["args"], "--policy") for listener in router["listeners"]}
    assert policies == {8000: "power_of_two", 8001: "consistent_hash"}
    assert router["session_port"] == 8001
    ports = [port["port"] for port in router["service_ports"]]
    assert len(ports) == len(set(ports))
    assert len(plan(router_type="vllm-router", router_image="r:1")["router"]["listeners"]) == 1


@pytest.mark.parametrize("kind", ["production-stack", "vllm-router"])
def test_a_router_stays_as_it_is_when_the_model_changes(kind):
    """What a router carries would be cut off by its restart."""
    small, large = (plan(router_type=kind, router_image="r:1", model_name=name) for name in ("smoke", "gpt-oss-120b"))
    assert small["engine"]["startup_budget_s"] < large["engine"]["startup_budget_s"]
    assert small["router"] == large["router"]


def test_unknown_names():
    _plan.unknown_names(["vllm_replicas"], ["vllm_replicas"])
    with pytest.raises(ServingError, match=r'vllm_replica: no such variable \(did you mean "vllm_replicas"\?\)'):
        _plan.unknown_names(["vllm_replica"], ["vllm_replicas", "vllm_image"])


# --- what model_fit and model_info are asked ----------------------------------------------------------------------------------------

OWN = {"own": {"model": "example/own", "max_model_len": 4096}}
FACTS = {
    "weights_gib": 14.2,
    "vocab_size": 32000,
    "num_attention_heads": 32,
    "num_kv_heads": 8,
    "head_dim": 128,
    "layers": {"full": 32},
    "max_context": 8192,
}


def test_a_row_of_the_catalog_needs_no_hub():
    fit = plan()["fit"]
    assert fit["info"] is None
    assert (fit["enforce"], fit["volume_gib"], fit["gpu_count"], fit["kv_cache_dtype"]) == (True, 100, 1, "auto")
    assert fit["row"]["layers"] == {"full": 18, "sliding_window": 18}


def test_facts_that_are_missing_are_read_from_the_hub():
    assert plan(model_name="own", model_configs=OWN)["fit"]["info"] == {"model": "example/own", "revision": None}


@pytest.mark.parametrize("changes", [{"fit_check": False}, {"model_configs": {"own": {"model": "/data/own"}}}])
def test_nobody_asks_the_hub_where_that_is_waived_or_no_use(changes):
    assert plan(model_name="own", **{"model_configs": OWN, **changes})["fit"]["info"] is None


def test_facts_that_were_read_complete_the_row_and_its_own_keys_win():
    made = plan(model_name="own", model_configs={"own": {**OWN["own"], "weights_gib": 15.0}}, facts=FACTS)
    assert made["fit"]["info"] is None
    assert made["model"]["weights_gib"] == made["fit"]["row"]["weights_gib"] == 15.0
    assert made["fit"]["row"]["num_kv_heads"] == 8


def test_a_model_that_cannot_be_served_by_its_own_files_is_refused_unless_waived():
    facts = {**FACTS, "unservable": "It has no backend."}
    with pytest.raises(ServingError, match=r"It has no backend\. To waive this: set vllm_model_configs\.own\.unservable: null"):
        plan(model_name="own", model_configs=OWN, facts=facts)
    assert plan(model_name="own", model_configs={"own": {**OWN["own"], "unservable": None}}, facts=facts)


def test_facts_that_were_read_are_heeded():
    with pytest.raises(ServingError, match="max_model_len: 9000 is beyond the model's 8192 tokens"):
        plan(model_name="own", model_configs={"own": {"model": "example/own", "max_model_len": 9000}}, facts=FACTS)
    with pytest.raises(ServingError, match="3 does not divide the 32 attention heads"):
        plan(model_name="own", model_configs=OWN, facts=FACTS, gpu_count=3)


@pytest.mark.parametrize(
    ("changes", "volume_gib"),
    [({"storage_size": "1Ti"}, 1024), ({"storage_existing_claim": "mine"}, None), ({"model_name": "smoke"}, None)],
)
def test_the_volume_is_judged_where_its_size_is_ours(changes, volume_gib):
    assert plan(**changes)["fit"]["volume_gib"] == volume_gib


def test_what_an_engine_on_cpus_may_use_is_its_limit():
    assert plan(accelerator="cpu", model_name="smoke")["fit"]["memory_mib"] == 4096
    assert plan(accelerator="cpu", model_name="smoke", memory_limit="8G")["fit"]["memory_mib"] == 7629


@pytest.mark.parametrize(
    ("quantity", "size"),
    [("32Gi", 32 * 2**30), ("500M", 5e8), ("1k", 1000), ("1.5Gi", 1.5 * 2**30), (1024, 1024), ("1500m", 1.5), ("2Ti", 2**41)],
)
def test_a_quantity_in_bytes(quantity, size):
    assert _quantity.quantity_bytes(quantity) == size


def test_pods_that_make_room_are_the_engines_and_an_ollama_of_the_stack():
    replaced = plan(stack_name="lab")["gpu_check"]["replaced_pods"]
    assert replaced == {"namespace": "chatbot", "label_selector": "app.kubernetes.io/instance=lab,app in (vllm-backend,ollama)"}


def test_the_share_that_has_to_be_free_is_the_engines():
    assert plan()["gpu_check"]["min_free_share"] == 0.95
    assert (
        plan(model_name="phi-3-mini-4k-instruct", model_configs={"phi-3-mini-4k-instruct": {"gpu_memory_utilization": None}})["gpu_check"][
            "min_free_share"
        ]
        == 0.92
    )


# --- what a command line hands over -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["false", "False", "no", "off", "0", False])
def test_a_switch_may_be_text(word):
    assert plan(fit_check=word)["fit"]["enforce"] is False
    assert plan(api_key_enabled=word)["endpoint"]["api_key_secret"] is None


@pytest.mark.parametrize("word", ["true", "yes", 1, True])
def test_a_switch_that_is_on(word):
    assert plan(fit_check=word)["fit"]["enforce"] is True


def test_a_switch_of_another_word_is_refused():
    with pytest.raises(ServingError, match='vllm_fit_check: "maybe" is neither true nor false'):
        plan(fit_check="maybe")
