# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several hosts behind one router: who belongs to whom, what each has, and when one of them may go on."""

from __future__ import annotations

import copy
import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _on_host, _plan, _router_hosts, _routers
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ROLE = Path(__file__).parents[4] / "roles/vllm"
CATALOG = yaml.safe_load((ROLE / "vars/models.yml").read_text())["vllm_models"]
OPTIONS = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
DEFAULTS = {name: spec.get("default") for name, spec in OPTIONS.items() if name not in ("vllm_api_key", "vllm_hf_token")}
DIGESTS = {name: digit * 64 for name, digit in (("vllm-router", "b"), ("vllm-cpu", "c"), ("vllm-nvidia", "d"))}
HERE = {
    "vllm_accelerator": "cpu",
    "vllm_model_name": "smoke",
    "vllm_state_dir": "/opt/llmops-serving/chat",
    "vllm_lock_dir": "/role/files/local",
    "vllm_lock_digests": DIGESTS,
    "vllm_smoke_model_digest": "0123456789abcdef",
    "vllm_image": "registry.example.com/vllm:1",
    "vllm_router_image": "registry.example.com/vllm-router:1",
}
PAIR: dict[str, dict[str, t.Any]] = {
    "gpu1": {"vllm_router_host": "gpu1", "ansible_host": "10.0.0.1"},
    "gpu2": {"vllm_router_host": "gpu1", "ansible_host": "10.0.0.2"},
    "alone": {},
}
HOSTS = tuple(PAIR)


def of(**changes: t.Any) -> dict[str, dict[str, t.Any]]:
    """The variables of three hosts, those of one changed: gpu2={"vllm_engine_port": 9000}."""
    hostvars = copy.deepcopy(PAIR)
    for host, variables in changes.items():
        hostvars.setdefault(host, {}).update(variables)
    return hostvars


def plan(me: str, hostvars: dict[str, dict[str, t.Any]], platform: str = "systemd", **changes: t.Any) -> dict[str, t.Any]:
    given = {name: value for name, value in hostvars[me].items() if name in DEFAULTS}
    settings = {**DEFAULTS, **HERE, "vllm_platform": platform, **given, **{f"vllm_{key}": value for key, value in changes.items()}}
    if platform == "systemd":
        settings.update(vllm_image="", vllm_router_image="")
    settings["vllm_together"] = _router_hosts.find(hostvars, me, HOSTS)
    return _plan.make_plan(settings, CATALOG, host=hostvars[me].get(_router_hosts.FOUND), options=OPTIONS)


def found(address: str, engine: int = 8100) -> dict[str, t.Any]:
    return {_router_hosts.FOUND: {"address": address, "ports": {"vllm-backend": engine}}}


def words_of(command: list[str], flag: str) -> list[str]:
    rest = command[command.index(flag) + 1 :]
    return rest[: next((at for at, word in enumerate(rest) if word.startswith("--")), len(rest))]


# --- who belongs together -----------------------------------------------------------------------------------------------------------


def test_hosts_with_the_same_router_belong_together() -> None:
    together = _router_hosts.find(of(), "gpu2", HOSTS)
    assert together is not None
    assert (together["me"], together["router"], together["hosts"]) == ("gpu2", "gpu1", ["gpu1", "gpu2"])
    assert together["engines"]["gpu2"] == {"asked": "10.0.0.2", "address": "10.0.0.2", "port": 8100}
    assert _router_hosts.find(of(), "alone", HOSTS) is None


def test_what_was_found_on_a_host_wins_over_what_was_asked_for() -> None:
    hostvars = of(gpu2={"vllm_engine_address": "gpu2.example.com", "vllm_engine_port": 9000, **found("192.0.2.7", 9001)})
    together = _router_hosts.find(hostvars, "gpu1", HOSTS)
    assert together
    assert together["engines"]["gpu2"] == {"asked": "gpu2.example.com", "address": "192.0.2.7", "port": 9001}


def test_another_stack_has_another_router() -> None:
    together = _router_hosts.find(of(gpu2={"vllm_stack_name": "lab"}), "gpu1", HOSTS)
    assert together
    assert together["hosts"] == ["gpu1"]


def test_a_host_may_have_the_router_only() -> None:
    together = _router_hosts.find(of(gpu1={"vllm_router_only": "yes"}), "gpu1", HOSTS)
    assert together
    assert list(together["engines"]) == ["gpu2"]


CONTRADICTIONS = {
    "no such host": ({"gpu2": {"vllm_router_host": "gpu3"}}, 'vllm_router_host: "gpu3" is none of the hosts here (did you mean "gpu2"?)'),
    "does not know": ({"gpu1": {"vllm_router_host": ""}}, "gpu1 is to have the router of gpu2, and does not know it. Set vllm_router_host"),
    "another one": ({"gpu1": {"vllm_router_host": "alone"}}, "and has its own on alone."),
    "neither": ({"gpu2": {"vllm_router_only": True}}, "vllm_router_only: gpu2 would have neither an engine nor a router"),
}


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_an_inventory_that_contradicts_itself_is_refused(changes: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ServingError, match=re.escape(message)):
        _router_hosts.find(of(**changes), "gpu2", HOSTS)


def test_a_router_without_any_engine_is_refused() -> None:
    with pytest.raises(ServingError, match="vllm_router_only: gpu1 would have no engine behind it"):
        _router_hosts.find(of(gpu1={"vllm_router_only": True}, gpu2={"vllm_router_host": ""}), "gpu1", HOSTS)


REFUSED = {
    "cluster": ({"platform": "kubernetes", "state_dir": ""}, "vllm_router_host: the platform kubernetes has nothing that this could set"),
    "this machine": ({"platform": "local"}, "vllm_router_host: the platform local has nothing that this could set"),
    "no key": ({"api_key_enabled": False}, "vllm_api_key_enabled is false, but engines behind a router on another host listen"),
    "production stack": ({"platform": "docker", "router_type": "production-stack"}, "set vllm_router_type: vllm-router"),
    "only, by itself": ({"router_host": "", "router_only": True}, "vllm_router_only: only hosts behind one router have this"),
    "address, by itself": ({"router_host": "", "engine_address": "10.0.0.1"}, "vllm_engine_address: only hosts behind one router"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_is_refused(changes: dict[str, t.Any], message: str) -> None:
    platform = changes.get("platform", "systemd")
    images = {} if platform in ("docker", "kubernetes") else {"image": "", "router_image": ""}
    with pytest.raises(ServingError, match=re.escape(message)):
        plan("gpu1", of(), **{"platform": "systemd", **images, **changes})


# --- what each of them has -----------------------------------------------------------------------------------------------------------


def test_the_router_s_host_has_all_three_and_leads_to_all_engines() -> None:
    made = plan("gpu1", of(gpu1=found("10.0.0.1"), gpu2=found("10.0.0.2", 8101)))
    urls = ["http://10.0.0.1:8100", "http://10.0.0.2:8101"]
    assert made["supervised"]["programs"] == ["vllm-backend", "vllm-router", "vllm-sessions"]
    assert len(made["templates"]) == 3
    for router, policy, port in ((made["router"], "power_of_two", 8000), (made["sessions"], "consistent_hash", 8001)):
        assert words_of(router["command"], "--worker-urls") == urls
        assert words_of(router["command"], "--policy") == [policy]
        assert words_of(router["command"], "--host") == ["127.0.0.1"]
        assert router["port"] == port
    assert made["endpoint"]["session_url"] == "http://127.0.0.1:8001/v1"
    assert made["endpoint"]["router_url"] == "http://127.0.0.1:8000"
    assert words_of(made["engine"]["args"], "--host") == ["10.0.0.1"]
    assert [port["name"] for port in made["host"]["ports"]] == [
        *("vllm-router", "vllm-backend", "vllm-router-metrics", "vllm-sessions", "vllm-sessions-metrics")
    ]


def test_the_other_hosts_have_an_engine_that_they_can_be_asked_by() -> None:
    made = plan("gpu2", of(gpu2=found("10.0.0.2", 8101)))
    assert made["supervised"]["programs"] == ["vllm-backend"]
    assert made["templates"] == ["host/engine-program.yaml.j2"]
    assert made["endpoint"]["router_url"] == "http://10.0.0.2:8101"
    assert [port["name"] for port in made["host"]["ports"]] == ["vllm-backend"]
    assert [entry["title"] for entry in made["environments"]] == ["vLLM 0.32.0 for CPUs"]
    assert made["host"]["address"] == "10.0.0.2"


def test_a_router_in_front_needs_nothing_of_an_engine() -> None:
    hostvars = of(gpu1={"vllm_router_only": True}, gpu2=found("10.0.0.2"))
    made = plan("gpu1", hostvars, accelerator="nvidia", model_name="gpt-oss-120b")
    assert made["supervised"]["programs"] == ["vllm-router"]
    assert made["templates"] == ["host/router-program.yaml.j2"]
    assert words_of(made["router"]["command"], "--worker-urls") == ["http://10.0.0.2:8100"]
    assert words_of(made["router"]["command"], "--policy") == ["consistent_hash"]
    assert made["sessions"] is None
    assert (made["prefetch"], made["hub_model"], made["gpu_check"]["enabled"], made["weights"]) == (None, None, False, {})
    assert made["deployment"]["engines"] == 1
    host = made["host"]
    assert (host["cpu_check"], host["compiler_check"], host["memory_mib"], host["address"]) == (False, False, _on_host.ROUTER_MIB, None)
    assert [entry["title"] for entry in made["environments"]] == ["vllm-router 0.1.17"]


def test_containers_publish_the_engine_at_its_address_and_nowhere_else() -> None:
    first = plan("gpu1", of(gpu1=found("10.0.0.1"), gpu2=found("10.0.0.2", 8101)), platform="docker")
    assert first["engine"]["published_ports"] == ["10.0.0.1:8100:8000"]
    assert words_of(first["router"]["command"], "--worker-urls") == ["http://vllm-backend.internal:8000", "http://10.0.0.2:8101"]
    assert first["sessions"]["published_ports"] == ["127.0.0.1:8001:8001"]
    assert first["endpoint"]["session_url"] == "http://vllm-sessions:8001/v1"
    assert first["router"]["type"] == "vllm-router"
    second = plan("gpu2", of(gpu2=found("10.0.0.2", 8101)), platform="docker")
    assert second["templates"] == ["docker/engine-container.yaml.j2"]
    assert second["image_check"]["wanted"] == [{"name": "registry.example.com/vllm:1", "mib": 8000}]
    assert second["endpoint"]["session_url"] == second["endpoint"]["url"] == "http://10.0.0.2:8101/v1"


def test_in_the_hosts_network_the_engine_itself_listens_at_its_address() -> None:
    made = plan("gpu1", of(gpu1=found("10.0.0.1")), platform="docker", docker_host_network=True)
    assert words_of(made["engine"]["args"], "--host") == ["10.0.0.1"]
    assert "http://10.0.0.1:8100/health" in made["engine"]["healthcheck"]["test"][-1]
    assert made["engine"]["published_ports"] == []


@pytest.mark.parametrize("platform", ["systemd", "docker"])
def test_a_host_by_itself_stays_on_its_loopback_interface(platform: str) -> None:
    made = plan("alone", of(), platform=platform, **({} if platform == "systemd" else {"router_type": "vllm-router"}))
    assert made["together"] is None
    assert made["sessions"] is None
    assert words_of(made["router"]["command"], "--policy") == ["consistent_hash"]
    assert made["engine"].get("published_ports", []) == []
    if platform == "systemd":
        assert words_of(made["engine"]["args"], "--host") == ["127.0.0.1"]


def test_every_flag_of_a_router_of_several_hosts_is_one_of_its_own() -> None:
    made = plan("gpu1", of())
    flags = {word for program in (made["router"], made["sessions"]) for word in program["command"] if word.startswith("--")}
    assert flags <= _routers.VLLM_ROUTER_FLAGS


# --- when one of them may go on ------------------------------------------------------------------------------------------------------


def planned(stage: str = _router_hosts.AGREED, **changes: t.Any) -> dict[str, dict[str, t.Any]]:
    hostvars = of(**changes)
    for host in ("gpu1", "gpu2"):
        hostvars[host].update({_router_hosts.PLAN: plan(host, hostvars), _router_hosts.STAGE: stage})
    return hostvars


def missing(hostvars: dict[str, dict[str, t.Any]], stage: str = _router_hosts.AGREED, playing: t.Sequence[str] = HOSTS) -> str:
    return _router_hosts.missing(hostvars, hostvars["gpu1"][_router_hosts.PLAN]["together"], "gpu1", playing, stage)


def test_they_go_on_when_all_are_as_far() -> None:
    assert missing(planned()) == ""
    assert missing(planned("answers"), "answers") == ""


def test_a_host_that_a_run_leaves_out_is_named() -> None:
    said = missing(planned(), playing=["gpu1"])
    assert said.startswith("gpu1 is behind one router with gpu2")
    assert "without --limit" in said


def test_a_host_that_has_failed_is_named_with_its_reason() -> None:
    hostvars = planned("answers")
    hostvars["gpu2"].update({_router_hosts.STAGE: "fetched", "ansible_failed_result": {"msg": "vllm-backend ended: no memory.\nMore."}})
    said = missing(hostvars, "answers")
    assert said.startswith("gpu2 has failed, and hosts behind one router change together")
    assert said.endswith("gpu2: vllm-backend ended: no memory.")


def test_a_host_that_was_never_reached_is_named_without_one() -> None:
    hostvars = planned()
    del hostvars["gpu2"][_router_hosts.STAGE]
    assert missing(hostvars).endswith("so gpu1 does not go on.")


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"vllm_model_name": "smoke-json"}, "vllm_model_name is smoke-json on gpu2 and smoke on gpu1"),
        ({"vllm_model_configs": {"smoke": {"max_model_len": 4096}}}, "max_model_len is 4096 on gpu2 and 8192 on gpu1"),
        ({"vllm_served_model_alias": ""}, "vllm_served_model_alias is None on gpu2 and chat on gpu1"),
    ],
)
def test_engines_of_different_models_are_refused(changes: dict[str, t.Any], differs: str) -> None:
    said = missing(planned(gpu2=changes))
    assert differs in said
    assert said.endswith("Nothing was changed.")


# --- the way back -----------------------------------------------------------------------------------------------------------------------

ENGINE = {"name": "vllm-backend", "command": ["vllm", "serve", "--host", "10.0.0.2", "--port", "8100"]}
ROUTER = {"name": "vllm-router", "command": []}


@pytest.mark.parametrize(
    ("programs", "url"),
    [
        ([ENGINE, ROUTER], "http://127.0.0.1:8000"),
        ([ENGINE], "http://10.0.0.2:8100"),
        ([{**ENGINE, "published_ports": ["10.0.0.2:8101:8000"]}], "http://10.0.0.2:8101"),
        ([ROUTER], "http://127.0.0.1:8000"),
    ],
)
def test_what_was_verified_last_is_waited_for_where_it_answers(programs: list[dict[str, t.Any]], url: str) -> None:
    assert _router_hosts.way_back_url(programs, "vllm-router", "http://127.0.0.1:8000", "vllm-backend") == url
