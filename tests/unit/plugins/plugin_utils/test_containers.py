# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers as a file for docker compose, and what was done to them; the containers are those of the golden cases."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.plugin_utils import containers
from ansible_collections.llmops.serving.plugins.plugin_utils.report import _changes

ROOT = Path(__file__).parents[4]
EXPECTED = ROOT / "tests/golden/expected"
TASKS = ("roles/vllm/tasks/platform/docker/containers.yml", "roles/open_webui/tasks/platform/docker/apply.yml")


def case(name: str) -> list[dict[str, t.Any]]:
    return list(yaml.safe_load((EXPECTED / f"docker-{name}.yaml").read_text())["containers"])


def task_options(path: str) -> dict[str, t.Any]:
    tasks = yaml.safe_load((ROOT / path).read_text())
    return dict(next(task["community.docker.docker_container"] for task in tasks if "community.docker.docker_container" in task))


# --- Compose ------------------------------------------------------------------------------------------------------------------------


def test_compose_says_of_each_container_what_docker_is_told() -> None:
    made = case("qwq-on-two-gpus")
    services = containers.compose(made, "llmops-serving-chat")["services"]
    assert list(services) == ["vllm-backend", "vllm-router", "open-webui"]
    for container in made:
        service = services[container["name"]]
        for ours, theirs in containers.SAME.items():
            assert service.get(theirs, container[ours]) == container[ours], theirs
        assert [volume["target"] for volume in service["volumes"]] == [mount["target"] for mount in container["mounts"]]


def test_gpus_as_compose_asks_for_them() -> None:
    services = containers.compose(case("qwq-on-two-gpus"), "x")["services"]
    devices = services["vllm-backend"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "device_ids": ["2", "3"], "capabilities": ["gpu"]}]
    services = containers.compose(case("gpt-oss-120b"), "x")["services"]
    devices = services["vllm-backend"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_the_chat_waits_for_a_router_that_answers() -> None:
    made = case("smoke")
    services = containers.compose(made, "x")["services"]
    assert "depends_on" not in services["vllm-backend"]
    assert services["vllm-router"]["depends_on"] == {"vllm-backend": {"condition": "service_healthy"}}
    page = containers.compose(made[2:], "x", after=["vllm-router"], own=False)
    assert page["services"]["open-webui"]["depends_on"] == {"vllm-router": {"condition": "service_healthy"}}
    assert "networks" not in page, "the other file makes it"


def test_in_the_hosts_network() -> None:
    document = containers.compose(case("in-the-hosts-network"), None)
    assert "networks" not in document
    assert all(service["network_mode"] == "host" and "ports" not in service for service in document["services"].values())


def test_text_for_compose_doubles_dollars() -> None:
    made = [{**case("smoke")[0], "env": {"A": "costs $5"}}]
    text = containers.compose_text(made, "x")
    assert text.startswith("---\n# Written by llmops.serving")
    assert yaml.safe_load(text)["services"]["vllm-backend"]["environment"] == {"A": "costs $$5"}


def test_an_option_without_a_word_in_compose_is_not_passed_over() -> None:
    with pytest.raises(ServingError, match="vllm-backend: no word of Compose is known for privileged"):
        containers.compose([{**case("smoke")[0], "privileged": True}], "x")


@pytest.mark.parametrize(("size", "count"), [("2G", 2 * 2**30), ("1024B", 1024), ("1.5M", 1536 * 2**10), ("7", 7)])
def test_sizes(size: str, count: int) -> None:
    assert containers._bytes(size) == count


@pytest.mark.parametrize("path", TASKS)
def test_every_option_of_a_template_reaches_docker(path: str) -> None:
    given = set(task_options(path)) - {"docker_host", "state", "pull", "comparisons", "debug"}
    assert given == set(containers.SAME) | set(containers.OTHERS)
    assert all(set(container) == given for name in ("smoke", "qwq-on-two-gpus") for container in case(name))


def test_both_roles_hand_over_the_same() -> None:
    vllm, page = (task_options(path) for path in TASKS)
    assert list(vllm) == list(page)
    assert vllm["comparisons"] == page["comparisons"] == {"*": "strict"}


# --- what was done ------------------------------------------------------------------------------------------------------------------


def result(name: str, changed: bool, before: dict[str, t.Any], after: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"ansible_loop_var": "it", "it": {"name": name}, "changed": changed, "diff": {"before": before, "after": after}}


def test_what_was_done_in_the_words_of_keepers() -> None:
    results = [
        result("a", False, {}, {}),
        result("b", True, {"exists": False, "running": False}, {"exists": True, "running": True}),
        result("c", True, {"running": False}, {"running": True}),
        result("d", True, {"command": ["vllm", "serve", "/m"], "running": True}, {"command": ["vllm", "serve", "/n"], "running": True}),
    ]
    done = containers.applied(results, {"changed": False, "secrets_generated": ["vllm/VLLM_API_KEY"]})
    assert {program["name"]: program["action"] for program in done["programs"]} == {
        "a": "none",
        "b": "added",
        "c": "started",
        "d": "restarted",
    }
    assert done["changed"]
    assert done["secrets_generated"] == ["vllm/VLLM_API_KEY"]
    assert not containers.applied(results[:1], {"changed": False})["changed"]
    assert containers.applied(results[:1], {"changed": True})["changed"]


def test_what_was_taken_away_is_told_where_it_was_there() -> None:
    done = containers.applied(
        [], {"changed": False}, [{"item": "vllm-router", "changed": True}, {"item": "vllm-sessions", "changed": False}]
    )
    assert done["programs"] == [{"name": "vllm-router", "action": "removed"}]
    assert done["changed"]


def test_the_report_of_a_plan_names_what_differs() -> None:
    before = {"command": ["vllm", "serve", "/data/models/a", "--served-model-name", "smoke", "--max-num-seqs", "8"]}
    after = {"command": ["vllm", "serve", "/data/models/b", "--served-model-name", "smoke-json", "--max-num-seqs", "8"]}
    change = _changes(containers.applied([result("vllm-backend", True, before, after)], {}))[0]
    assert (change["object"], change["action"], change["restarts"]) == ("vllm-backend", "restarted", True)
    assert change["details"] == ["model /data/models/a -> /data/models/b", "--served-model-name smoke -> smoke-json"]
