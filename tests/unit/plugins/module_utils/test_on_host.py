# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The serving plan on the platform local, from the role's variables as it hands them over."""

from __future__ import annotations

import json
import re
import typing as t
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _on_docker, _on_host, _plan, _router_hosts, _routers
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ROLE = Path(__file__).parents[4] / "roles/vllm"
CATALOG = yaml.safe_load((ROLE / "vars/models.yml").read_text())["vllm_models"]
OPTIONS = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
SECRETS = ("vllm_api_key", "vllm_hf_token")
DEFAULTS = {name: spec.get("default") for name, spec in OPTIONS.items() if name not in SECRETS}
DIGESTS = {name: digit * 64 for name, digit in (("supervisor", "a"), ("vllm-router", "b"), ("vllm-cpu", "c"), ("vllm-nvidia", "d"))}
LOCAL = {
    "vllm_platform": "local",
    "vllm_accelerator": "cpu",
    "vllm_model_name": "qwen2.5-1.5b-instruct",
    "vllm_state_dir": "/srv/ada/chat",
    "vllm_lock_dir": "/role/files/local",
    "vllm_lock_digests": DIGESTS,
    "vllm_smoke_model_digest": "0123456789abcdef",
}
VENVS = "/srv/ada/chat/venvs"
HOMES = ("HOME", "HF_HOME", "VLLM_CACHE_ROOT", "XDG_CACHE_HOME")


def plan(host: t.Optional[dict[str, t.Any]] = None, options: t.Optional[dict[str, t.Any]] = OPTIONS, **changes: t.Any) -> dict[str, t.Any]:
    settings = {**DEFAULTS, **LOCAL, **{f"vllm_{key}": value for key, value in changes.items()}}
    assert set(settings) == set(DEFAULTS) | set(LOCAL), "a test sets a variable that does not exist"
    return _plan.make_plan(settings, CATALOG, host=host, options=options)


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def of_systemd(**changes: t.Any) -> dict[str, t.Any]:
    return plan(platform="systemd", state_dir="/opt/llmops-serving/chat", host_user="llmops-serving", **changes)


# --- where programs listen ----------------------------------------------------------------------------------------------------------


def test_everything_listens_on_this_machine_only() -> None:
    made = plan()
    router = made["router"]["command"]
    listening = [value_of(router, "--host"), value_of(router, "--prometheus-host"), value_of(made["engine"]["args"], "--host")]
    assert listening == 3 * ["127.0.0.1"]
    assert "0.0.0.0" not in json.dumps(made)


def test_ports_are_those_that_were_found() -> None:
    made = plan(host={"ports": {"vllm-router": 9000, "vllm-backend": 9100, "vllm-router-metrics": 9200}})
    router = made["router"]["command"]
    assert value_of(made["engine"]["args"], "--port") == str(made["engine"]["port"]) == "9100"
    assert (value_of(router, "--port"), value_of(router, "--prometheus-port")) == ("9000", "9200")
    assert value_of(router, "--worker-urls") == "http://127.0.0.1:9100"
    assert made["endpoint"]["url"] == made["endpoint"]["session_url"] == "http://127.0.0.1:9000/v1"
    assert made["endpoint"]["router_url"] == "http://127.0.0.1:9000"


def test_usual_ports_differ_while_nobody_has_looked() -> None:
    made = plan()
    ports = [made["engine"]["port"], made["router"]["port"], int(value_of(made["router"]["command"], "--prometheus-port"))]
    assert len(set(ports)) == 3


def test_ports_to_ask_the_machine_for() -> None:
    wanted = {port["name"]: port for port in plan(router_port="9000")["host"]["ports"]}
    assert set(wanted) == {"vllm-router", "vllm-backend", "vllm-router-metrics"}
    assert (wanted["vllm-router"]["port"], wanted["vllm-router"]["variable"]) == (9000, "vllm_router_port")
    assert (wanted["vllm-backend"]["port"], wanted["vllm-backend"]["variable"]) == (None, "vllm_engine_port")


# --- programs -----------------------------------------------------------------------------------------------------------------------


def test_the_router_is_the_one_that_needs_no_cluster() -> None:
    router = plan()["router"]
    assert router["type"] == "vllm-router"
    assert router["command"][0] == f"{VENVS}/vllm-router-bbbbbbbb/bin/vllm-router"
    flags = {word for word in router["command"] if word.startswith("--")}
    assert flags <= _routers.VLLM_ROUTER_FLAGS
    assert plan(router_type="vllm-router") == plan()


@pytest.mark.parametrize(
    ("accelerator", "lock", "aliases"), [("cpu", "vllm-cpu-cccccccc", ["vllm"]), ("nvidia", "vllm-nvidia-dddddddd", [])]
)
def test_the_engine_has_an_environment_of_its_own(accelerator: str, lock: str, aliases: list[str]) -> None:
    made = plan(accelerator=accelerator)
    assert made["engine"]["command"][:4] == [f"{VENVS}/{lock}/bin/python", "-m", "vllm.entrypoints.cli.main", "serve"]
    assert made["engine"]["command"][4:] == made["engine"]["args"]
    environments = {environment["path"]: environment for environment in made["environments"]}
    assert set(environments) == {f"{VENVS}/supervisor-aaaaaaaa", f"{VENVS}/vllm-router-bbbbbbbb", f"{VENVS}/{lock}"}
    engine = environments[f"{VENVS}/{lock}"]
    assert engine["lock"] == f"/role/files/local/{lock[:-9]}.txt"
    assert [alias["name"] for alias in engine["distribution_aliases"]] == aliases
    assert made["supervisord"] == f"{VENVS}/supervisor-aaaaaaaa/bin/supervisord"


def test_everything_is_in_the_state_folder() -> None:
    env = plan()["engine"]["env"]
    assert all(env[key].startswith("/srv/ada/chat/") for key in ("HOME", "HF_HOME", "VLLM_CACHE_ROOT", "XDG_CACHE_HOME"))
    assert all(path.startswith("/srv/ada/chat/") for path in plan()["owned_paths"])


def test_weights_from_the_hub() -> None:
    made = plan()
    assert made["hub_model"] == made["engine"]["args"][0] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert made["hub_cache"] == "/srv/ada/chat/huggingface/hub/models--Qwen--Qwen2.5-1.5B-Instruct"
    assert made["hub_cache"].startswith(made["engine"]["env"]["HF_HOME"])
    assert made["hub_cache"] in made["prefetch"]["creates"]
    assert made["prefetch"]["command"][:2] == [made["engine"]["command"][0], made["prefetch"]["path"]]
    assert (made["prefetch"]["path"], made["prefetch"]["script"]) == ("/srv/ada/chat/scripts/fetch_model.py", "fetch_model.py")
    assert ("HF_HUB_OFFLINE" in made["prefetch"]["env"], made["engine"]["env"]["HF_HUB_OFFLINE"]) == (False, "1")


def test_memory_of_the_engine_before_is_waited_for_on_gpus_only() -> None:
    before = plan(accelerator="nvidia", model_configs={"qwen2.5-1.5b-instruct": {"gpu_memory_utilization": 0.5}})["engine"]["before"]
    assert before[1:] == ["/srv/ada/chat/scripts/wait_for_gpu.py", "--min-free-share", "0.5"]
    assert plan(accelerator="nvidia")["scripts"] == {"scripts/wait_for_gpu.py": "wait_for_gpu.py"}
    assert plan()["scripts"] == {}
    assert plan()["engine"]["before"] == []


def test_the_smoke_model_is_made_by_the_engines_interpreter() -> None:
    made = plan(model_name="smoke")
    path = "/srv/ada/chat/models/smoke-0123456789ab"
    script = "/srv/ada/chat/scripts/smoke_model.py"
    assert made["prefetch"]["command"] == [made["engine"]["command"][0], script, "--row", "smoke", "--out", path]
    assert made["prefetch"]["model_path"] == made["engine"]["args"][0] == path
    assert (made["hub_model"], made["engine"]["env"]["HF_HUB_OFFLINE"]) == (None, "1")


def test_a_model_of_this_machine_asks_no_hub() -> None:
    made = plan(model_name="mine", model_configs={"mine": {"model": "/srv/mine", "max_model_len": 8192}})
    assert (made["hub_model"], made["engine"]["args"][0], made["engine"]["env"]["HF_HUB_OFFLINE"]) == (None, "/srv/mine", "1")


def test_the_engine_may_take_as_long_to_stop_as_it_drains() -> None:
    engine = plan(shutdown_timeout=90)["engine"]
    assert engine["stop_s"] > 90
    assert value_of(engine["args"], "--shutdown-timeout") == "90"


def test_the_plan_is_plain_data() -> None:
    assert json.loads(json.dumps(plan())) == plan()


# --- GPUs ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ids", "visible"), [([], None), ([1], "1"), ([2, 0], "2,0")])
def test_gpus_by_the_numbers_of_nvidia_smi(ids: list[int], visible: t.Optional[str]) -> None:
    made = plan(accelerator="nvidia", gpu_ids=ids)
    env = made["engine"]["env"]
    assert env.get("CUDA_VISIBLE_DEVICES") == visible
    assert env.get("CUDA_DEVICE_ORDER") == (visible and "PCI_BUS_ID")
    assert made["engine"]["gpu_count"] == made["gpu_check"]["gpus_per_node"] == max(1, len(ids))
    assert ("--tensor-parallel-size" in made["engine"]["args"]) is (len(ids) > 1)


def test_no_gpu_is_looked_for_on_cpus() -> None:
    made = plan()
    assert (made["gpu_check"]["enabled"], made["engine"]["gpu_count"]) == (False, 0)
    assert (made["host"]["cpu_check"], made["host"]["compiler_check"]) == (True, False)
    on_gpu = plan(accelerator="nvidia")
    assert (on_gpu["gpu_check"]["enabled"], on_gpu["host"]["cpu_check"], on_gpu["host"]["compiler_check"]) == (True, False, True)


def test_ports_that_are_asked_for_hold_before_anybody_has_looked() -> None:
    made = plan(router_port=18000, engine_port=18100)
    assert made["endpoint"]["url"] == "http://127.0.0.1:18000/v1"
    assert "http://127.0.0.1:18100" in made["router"]["command"]


# --- memory and disk ----------------------------------------------------------------------------------------------------------------


def test_the_kv_cache_is_bounded_on_cpus_only() -> None:
    args = plan()["engine"]["args"]
    assert value_of(args, "--kv-cache-memory-bytes") == str(2 * 2**30)
    assert "--enforce-eager" in args
    row = {"qwen2.5-1.5b-instruct": {"kv_cache_memory_bytes": 2**30, "enforce_eager": False}}
    own = plan(model_configs=row)["engine"]["args"]
    assert (value_of(own, "--kv-cache-memory-bytes"), "--enforce-eager" in own) == (str(2**30), False)
    assert "--kv-cache-memory-bytes" not in plan(accelerator="nvidia")["engine"]["args"]


def test_a_small_model_and_the_page_fit_into_8_gb() -> None:
    page = yaml.safe_load((ROLE.parent / "open_webui/vars/main.yml").read_text())["__open_webui_memory_mib"]
    assert "1000 if" in page
    assert 7000 < plan()["host"]["memory_mib"] + 1000 < 8500


def test_memory_grows_with_weights_and_kv_cache() -> None:
    base, name = plan()["host"]["memory_mib"], "qwen2.5-1.5b-instruct"
    assert plan(model_configs={name: {"weights_gib": 3.9}})["host"]["memory_mib"] > base + 1024
    assert plan(model_configs={name: {"kv_cache_memory_bytes": 3 * 2**30}})["host"]["memory_mib"] == base + 1024
    assert plan(memory_check=False)["host"]["memory_mib"] == 0
    # weights are in the memory of the GPU
    small, large = (plan(accelerator="nvidia", model_name=model)["host"]["memory_mib"] for model in ("smoke", "gpt-oss-120b"))
    assert small == large


def test_disk_for_programs_and_weights() -> None:
    disk = {item["paths"][0]: item["mib"] for item in plan()["host"]["disk"]}
    assert len(disk) == len(plan()["host"]["disk"])
    assert disk[f"{plan()['hub_cache']}/refs"] == pytest.approx(2.88 * 1024, abs=1)
    for environment in plan()["environments"]:
        assert sum(mib for path, mib in disk.items() if path.startswith(f"{environment['path']}/")) > 0
    assert not any("huggingface" in item["paths"][0] for item in plan(model_name="smoke")["host"]["disk"])


# --- secrets ------------------------------------------------------------------------------------------------------------------------


def test_secrets_are_references() -> None:
    made = plan()
    assert made["engine"]["secret_env"] == {"VLLM_API_KEY": "vllm/VLLM_API_KEY", "HF_TOKEN": "vllm/HF_TOKEN"}
    assert made["secrets"]["generate"] == ["VLLM_API_KEY"]
    assert made["endpoint"]["api_key_secret"]["path"] == "/srv/ada/chat/secrets/vllm/VLLM_API_KEY"
    assert not {"VLLM_API_KEY", "HF_TOKEN"} & set(made["engine"]["env"])
    assert "--api-key" not in made["engine"]["args"] + made["router"]["command"]


def test_no_value_of_a_secret_gets_into_the_plan() -> None:
    settings = {**DEFAULTS, **LOCAL, "vllm_api_key": "sk-hidden", "vllm_hf_token": "hf_hidden"}
    assert "hidden" not in json.dumps(_plan.make_plan(settings, CATALOG, options=OPTIONS))
    with pytest.raises(ServingError, match=r"^HF_TOKEN would stand in") as caught:
        plan(extra_env={"HF_TOKEN": "hf_hidden"})
    assert "hidden" not in str(caught.value)


def test_without_an_api_key_nothing_asks_for_one() -> None:
    made = plan(api_key_enabled=False)
    assert made["endpoint"]["api_key_secret"] is None
    assert made["secrets"]["generate"] == []
    assert "VLLM_API_KEY" not in json.dumps(made)


# --- systemd -------------------------------------------------------------------------------------------------------------------------


def test_units_run_as_a_user_that_may_write_to_one_folder_only() -> None:
    made = of_systemd(model_name="smoke")
    assert (made["user"], plan()["user"]) == ("llmops-serving", None)
    data = made["data_dir"]
    assert data == "/opt/llmops-serving/chat/data"
    written = [made["prefetch"]["model_path"], *(value for key, value in made["engine"]["env"].items() if key in HOMES)]
    assert len(written) == 1 + len(HOMES)
    assert all(path.startswith(f"{data}/") for path in written)
    assert made["prune"]["command"][-2:] == ["--data", data]
    read = [made["engine"]["command"][0], made["router"]["command"][0], made["prefetch"]["path"]]
    assert not any(path.startswith(f"{data}/") for path in read)


def test_systemd_itself_keeps_its_programs() -> None:
    made = of_systemd()
    assert made["supervisord"] is None
    assert not any("supervisor" in environment["path"] for environment in made["environments"])
    assert made["supervised"]["by"] == "systemd"
    assert (made["host"]["systemd"], made["host"]["state_dir_mode"]) == (True, "0755")
    assert (plan()["host"]["systemd"], plan()["host"]["state_dir_mode"]) == (False, "0700")


@pytest.mark.parametrize(("stack", "suffix"), [("chat", ""), ("second", "-second")])
def test_units_of_another_stack_have_names_of_their_own(stack: str, suffix: str) -> None:
    made = of_systemd(stack_name=stack)
    assert made["suffix"] == made["supervised"]["suffix"] == suffix
    assert plan(stack_name=stack)["suffix"] == ""


def test_purging_takes_all_of_the_engines_and_nothing_of_the_page() -> None:
    owned = of_systemd()["owned_paths"]
    assert "/opt/llmops-serving/chat/data" in owned
    assert not any(fnmatch("/opt/llmops-serving/chat/open-webui", path) for path in owned)
    assert not any(fnmatch("/opt/llmops-serving/chat/venvs/open-webui-0123abcd", path) for path in owned)


# --- refused ------------------------------------------------------------------------------------------------------------------------

REFUSED = {
    "AMD": ({"accelerator": "amd"}, "vllm_accelerator: amd is not there yet on the platform local. It may be cpu or nvidia."),
    "production stack": ({"router_type": "production-stack"}, "vllm_router_type: production-stack is published as an image only"),
    "GPUs without GPUs": ({"gpu_ids": [0]}, "vllm_gpu_ids: [0] with vllm_accelerator: cpu. Remove one of the two."),
    "a GPU twice": ({"accelerator": "nvidia", "gpu_ids": [1, 1]}, "vllm_gpu_ids: [1, 1] names a GPU twice"),
    "other count of GPUs": ({"accelerator": "nvidia", "gpu_ids": [0, 1], "gpu_count": 1}, "names 2 GPUs, vllm_gpu_count: 1"),
    "one port for two": ({"router_port": 9000, "engine_port": "9000"}, "vllm_router_port and vllm_engine_port are both 9000"),
    "no port": ({"router_port": "web"}, 'vllm_router_port: "web" is not a whole number'),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(changes: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ServingError, match=re.escape(message)) as refusal:
        plan(**changes)
    assert "\n" not in str(refusal.value)


ELSEWHERE = {"bool": True, "int": 7, "list": ["x"], "dict": {"x": "y"}, "str": "7Gi", "path": "/x"}


@pytest.mark.parametrize("name", _on_host.KUBERNETES_ONLY)
def test_what_is_for_kubernetes_is_refused_when_it_is_set(name: str) -> None:
    spec = OPTIONS[name]
    other = next(choice for choice in spec["choices"] if choice != spec.get("default")) if "choices" in spec else ELSEWHERE[spec["type"]]
    with pytest.raises(ServingError, match=f"^{name}: the platform local has nothing that this could set"):
        plan(**{name[len("vllm_") :]: other})
    # nobody knows what is a default
    plan(options=None, **{name[len("vllm_") :]: other})


@pytest.mark.parametrize(
    ("name", "same"),
    [("replicas", "1"), ("volume_permissions", "false"), ("image", None), ("shm_size", ""), ("tolerations", []), ("hf_token_secret", {})],
)
def test_what_is_for_kubernetes_may_be_at_its_default(name: str, same: t.Any) -> None:
    assert plan(**{name: same}) == plan()


@pytest.mark.parametrize(
    ("name", "setting"),
    [("state_dir", "/srv/chat"), ("router_port", 9000), ("engine_port", 9000), ("gpu_ids", [0]), ("python", "python3.11")],
)
def test_what_is_for_this_machine_is_refused_on_kubernetes(name: str, setting: t.Any) -> None:
    kubernetes = {"platform": "kubernetes", "state_dir": ""}
    with pytest.raises(ServingError, match=f"^vllm_{name}: only single hosts have this.*llm_platform: local"):
        plan(**{**kubernetes, name: setting})
    assert plan(**kubernetes)["platform"] == "kubernetes"


# What all platforms honour, and what one of them may ignore without anybody missing anything.
FOR_BOTH = """model_name model_configs kv_cache_dtype backend platform namespace stack_name accelerator min_gpu_memory_gb gpu_count
    fit_check tensor_parallel_size hf_endpoint router_type pip_extra_index_url memory_check api_key_enabled api_key hf_token startup_timeout
    shutdown_timeout prefetch rollback served_model_alias switch_strategy verify extra_env service_monitor_enabled purge cpu_threads
    cpu_kv_cache_gib endpoint_url endpoint_api_key endpoint_ca endpoint_tool_calls host_user image_registry images_lock"""


def test_of_every_variable_it_is_known_where_it_works() -> None:
    everywhere = {f"vllm_{name}" for name in FOR_BOTH.split()}
    groups = [everywhere, _on_host.HOST_ONLY, _on_host.KUBERNETES_ONLY, _on_docker.ONLY, _router_hosts.OPTIONS]
    assert {name for group in groups for name in group} == set(OPTIONS)
    assert sum(map(len, groups)) == len(OPTIONS)


def test_a_chat_template_of_the_image_is_asked_for() -> None:
    with pytest.raises(ServingError, match=r"llama3.2_json.jinja.*Save it .*vllm_model_configs.llama-3.2-3b-instruct.chat_template"):
        plan(model_name="llama-3.2-3b-instruct")
    own = {"llama-3.2-3b-instruct": {"chat_template": "/srv/ada/template.jinja"}}
    made = plan(model_name="llama-3.2-3b-instruct", model_configs=own)
    assert value_of(made["engine"]["args"], "--chat-template") == "/srv/ada/template.jinja"
