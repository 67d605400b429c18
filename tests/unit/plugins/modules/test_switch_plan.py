# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""switch_plan, switch_commit and switch_traffic on a cluster in memory, and the first two on a state folder."""

from __future__ import annotations

import builtins
import copy
import io
import json
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.llmops.serving.plugins.module_utils import _switch
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import HOLDING
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, KubeError, Object
from ansible_collections.llmops.serving.plugins.modules import switch_commit, switch_plan, switch_traffic

NAMESPACE = "/api/v1/namespaces/chatbot"
STATE = f"{NAMESPACE}/configmaps/vllm-state"
PODS = f"{NAMESPACE}/pods"
ENGINE = "/apis/apps/v1/namespaces/chatbot/deployments/vllm-backend"
SETS = "/apis/apps/v1/namespaces/chatbot/replicasets"
LABELS = {"app": "vllm-backend", "app.kubernetes.io/instance": "chat"}
ROUTED = "serving.llmops/routed"
GPU = "nvidia.com/gpu"


def manifests(model: str = "a", replicas: int = 1, router: str = "1") -> list[Object]:
    containers = {"containers": [{"name": "vllm", "args": [model], "resources": {"requests": {GPU: "1"}}}]}
    template = {"metadata": {"labels": {**LABELS, ROUTED: "true"}}, "spec": containers}
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    spec = {"replicas": replicas, "strategy": rolling, "selector": {"matchLabels": dict(LABELS)}, "template": template}
    routers = {"metadata": {"name": "vllm-router"}, "spec": {"template": {"spec": {"containers": [{"image": router}]}}}}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vllm-backend"}, "spec": spec},
        {"apiVersion": "apps/v1", "kind": "Deployment", **routers},
    ]


class FakeKube:
    """The API as far as the modules use it, with a node, and a controller that makes pods of what is applied."""

    def __init__(self, gpus: int = 2) -> None:
        allocatable = {GPU: str(gpus), "pods": "110"}
        conditions = [{"type": "Ready", "status": "True"}]
        self.nodes = [{"metadata": {"name": "gpu-1"}, "spec": {}, "status": {"allocatable": allocatable, "conditions": conditions}}]
        self.store: dict[str, Object] = {}
        self.sets: builtins.list[Object] = []
        self.pods: builtins.list[Object] = []
        self.sent: builtins.list[str] = []
        self.writes: builtins.list[str] = []
        self.forbidden: set[str] = set()
        self.gone: set[str] = set()

    def get(self, path: str) -> t.Optional[Object]:
        self.sent.append(f"GET {path}")
        return copy.deepcopy(self.store.get(path))

    def list(self, path: str, label_selector: str = "", field_selector: str = "", missing_ok: bool = True) -> t.Iterator[Object]:
        self.sent.append(f"LIST {path}")
        if path in self.forbidden:
            raise KubeError("Not permitted: cannot list.", status=403)
        if path == "/api/v1/pods":
            assert field_selector == HOLDING
        found = {"/api/v1/nodes": self.nodes, "/api/v1/pods": self.pods, PODS: self.pods, SETS: self.sets}[path]
        wanted = dict(pair.split("=") for pair in label_selector.split(",") if pair)
        yield from copy.deepcopy([entry for entry in found if wanted.items() <= (entry["metadata"].get("labels") or {}).items()])

    def apply(self, path: str, body: Object, field_manager: str, dry_run: bool = False) -> Object:
        self.writes.append(f"apply {path.rpartition('/')[2]}")
        self.store[path] = copy.deepcopy(body)
        return self.store[path]

    def delete(self, path: str, dry_run: bool = False) -> None:
        self.writes.append(f"delete {path.rpartition('/')[2]}")
        del self.store[path]

    def patch(self, path: str, body: Object) -> Object:
        assert path.startswith(f"{PODS}/")
        name = path.rpartition("/")[2]
        self.writes.append(f"{name} {body['metadata']['labels'][ROUTED]}")
        if name in self.gone:
            raise KubeError("not found.", status=404)
        found = self.pod(name)
        found["metadata"]["labels"].update(body["metadata"]["labels"])
        return found

    def pod(self, name: str) -> Object:
        return next(entry for entry in self.pods if entry["metadata"]["name"] == name)

    def roll_out(self, documents: builtins.list[Object]) -> None:
        """Do with the engine among *documents* as Kubernetes does; its pods are called ``model-number``."""
        engine = copy.deepcopy(documents[0])
        engine["metadata"].update(uid="d", namespace="chatbot")
        self.store[ENGINE] = engine
        spec = engine["spec"]
        model, hold = spec["template"]["spec"]["containers"][0]["args"][0], spec.get("minReadySeconds", 0)
        template = copy.deepcopy(spec["template"])
        template["metadata"]["labels"]["pod-template-hash"] = model
        owner = {"kind": "Deployment", "name": "vllm-backend", "uid": "d"}
        metadata = {"name": f"vllm-backend-{model}", "ownerReferences": [owner], "labels": dict(LABELS)}
        self.sets = [entry for entry in self.sets if entry["metadata"]["name"] != metadata["name"]]
        self.sets.append({"metadata": metadata, "spec": {"template": template, "minReadySeconds": hold}})
        for number in range(spec["replicas"]):
            if not any(entry["metadata"]["name"] == f"{model}-{number}" for entry in self.pods):
                self.pods.append(self._new_pod(model, number, template))
        if not hold:
            self.pods = [entry for entry in self.pods if entry["metadata"]["name"].startswith(f"{model}-")]
        engine["status"] = {"replicas": len(self.pods)}

    @staticmethod
    def _new_pod(model: str, number: int, template: Object) -> Object:
        name = f"{model}-{number}"
        owners = [{"kind": "ReplicaSet", "name": f"vllm-backend-{model}"}]
        metadata = {"name": name, "namespace": "chatbot", "uid": f"uid-{name}", "ownerReferences": owners, **template["metadata"]}
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        return copy.deepcopy({"metadata": metadata, "spec": {"nodeName": "gpu-1", **template["spec"]}, "status": status})

    def routed(self) -> builtins.list[str]:
        return [entry["metadata"]["name"] for entry in self.pods if entry["metadata"]["labels"][ROUTED] == "true"]


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


def options(module: t.Any, **given: t.Any) -> dict[str, t.Any]:
    return {**{name: copy.deepcopy(option.get("default")) for name, option in module.ARGS.items()}, **given}


def plan(kube: FakeKube, model: str = "a", **given: t.Any) -> dict[str, t.Any]:
    documents = given.pop("manifests", None) or manifests(model)
    kube.sent.clear()
    params = options(switch_plan, namespace="chatbot", name="vllm-state", engine="vllm-backend", manifests=documents, **given)
    result = switch_plan.run(params, lambda *_cluster: t.cast(Kube, kube))
    assert not result["changed"]
    assert kube.writes == []
    return result


def commit(kube: FakeKube, check_mode: bool = False, at: float = 0, **given: t.Any) -> dict[str, t.Any]:
    params = options(switch_commit, namespace="chatbot", name="vllm-state", **{"stack": "chat", **given})
    try:
        return switch_commit.run(params, check_mode, lambda *_cluster: t.cast(Kube, kube), lambda: at)
    finally:
        if not check_mode:
            kube.writes.clear()


def of_plan(planned: dict[str, t.Any], model: str) -> dict[str, t.Any]:
    return {"model": model, "manifests": planned["manifests"], **{key: planned[key] for key in ("digest", "strategy")}}


def serve(kube: FakeKube, model: str = "a", **given: t.Any) -> dict[str, t.Any]:
    """Let *model* be what runs and what was verified last."""
    planned = plan(kube, model, **given)
    kube.roll_out(planned["manifests"])
    commit(kube, **of_plan(planned, model), verify={"model": model}, weights={f"models--{model}": {"model": model, "gib": 1.5}})
    return planned


def traffic(kube: FakeKube, to: str, check_mode: bool = False) -> dict[str, t.Any]:
    kube.writes.clear()
    return switch_traffic.run(t.cast(Kube, kube), options(switch_traffic, namespace="chatbot", engine="vllm-backend", to=to), check_mode)


def strategy(documents: list[Object]) -> t.Any:
    return documents[0]["spec"]["strategy"]["type"]


# --- switch_plan ---------------------------------------------------------------------------------------------------------------------


def test_a_first_install_takes_what_the_manifest_has(kube: FakeKube) -> None:
    result = plan(kube)
    assert {key: result[key] for key in ("needed", "committed", "unfinished", "last_good", "weights", "held_manifests")} == {
        "needed": False,
        "committed": False,
        "unfinished": False,
        "last_good": None,
        "weights": {},
        "held_manifests": [],
    }
    assert (result["strategy"], result["why"]) == ("surge", "no engine runs")
    recreating = manifests()
    recreating[0]["spec"]["strategy"] = {"type": "Recreate"}
    assert plan(kube, manifests=recreating)["strategy"] == "recreate"


def test_a_run_that_changes_nothing_costs_two_requests(kube: FakeKube) -> None:
    first = serve(kube)
    result = plan(kube)
    assert (result["needed"], result["committed"], result["requests"]) == (False, True, 2)
    assert kube.sent == [f"GET {STATE}", f"GET {ENGINE}"]
    assert (result["manifests"], result["digest"]) == (first["manifests"], first["digest"])
    assert result["last_good"]["model"] == "a"
    assert result["last_good"]["manifests"] == first["manifests"]
    assert result["last_good"]["verify"] == {"model": "a"}
    assert result["weights"]["models--a"]["gib"] == 1.5


def test_another_model_with_room_is_held_beside_the_old_one(kube: FakeKube) -> None:
    serve(kube)
    result = plan(kube, "b")
    assert (result["needed"], result["committed"], result["strategy"]) == (True, False, "surge")
    assert result["why"] == "surge: node gpu-1 has room for old and new"
    assert result["held_manifests"][0]["spec"]["minReadySeconds"] == _switch.HOLD_S
    assert "minReadySeconds" not in result["manifests"][0]["spec"]
    assert result["last_good"]["model"] == "a"
    assert kube.sent == [f"GET {STATE}", f"GET {ENGINE}", "LIST /api/v1/nodes", "LIST /api/v1/pods"]


def test_another_model_without_room_is_a_recreate() -> None:
    kube = FakeKube(gpus=1)
    serve(kube)
    result = plan(kube, "b")
    assert (result["strategy"], result["held_manifests"], strategy(result["manifests"])) == ("recreate", [], "Recreate")
    assert result["why"] == "recreate: node gpu-1 has 0 of 1 nvidia.com/gpu free beside the old engine"
    with pytest.raises(ServingError, match=r"vllm_switch_strategy is surge, but node gpu-1 has 0 of 1 nvidia.com/gpu free"):
        plan(kube, "b", strategy="surge")


def test_the_way_back_makes_room_as_the_way_there() -> None:
    kube = FakeKube(gpus=2)
    assert plan(kube)["way_back"] == []
    serve(kube)
    surge = plan(kube, "b")
    assert (surge["strategy"], strategy(surge["way_back"])) == ("surge", "RollingUpdate")
    recreate = plan(kube, "b", strategy="recreate")
    assert strategy(recreate["way_back"]) == "Recreate"
    back = recreate["way_back"][0]
    assert back["spec"]["template"] == recreate["last_good"]["manifests"][0]["spec"]["template"]
    assert "minReadySeconds" not in back["spec"]


def test_recreate_and_a_volume_of_one_pod(kube: FakeKube) -> None:
    serve(kube)
    assert plan(kube, "b", strategy="recreate")["strategy"] == "recreate"
    assert kube.sent == [f"GET {STATE}", f"GET {ENGINE}"]
    assert plan(kube, "b", access_mode="ReadWriteOncePod")["strategy"] == "recreate"


def test_a_router_or_replicas_alone_move_no_engine(kube: FakeKube) -> None:
    serve(kube)
    for documents, why in (
        (manifests(router="2"), "the engines stay as they are"),
        (manifests(replicas=3), "the engines stay as they are, 3 instead of 1"),
    ):
        result = plan(kube, manifests=documents, strategy="surge")
        assert (result["needed"], result["why"], result["strategy"], result["held_manifests"]) == (True, why, "surge", [])


def test_nothing_is_switched_where_no_engine_runs(kube: FakeKube) -> None:
    serve(kube, strategy="recreate")
    kube.store[ENGINE]["status"] = {}
    result = plan(kube, "b")
    assert (result["needed"], result["why"], result["strategy"]) == (False, "no engine runs", "surge")
    del kube.store[ENGINE]
    assert plan(kube, "b")["needed"] is False
    assert plan(kube, "a")["committed"] is False


def test_where_no_engine_runs_the_recorded_strategy_stays() -> None:
    kube = FakeKube(gpus=1)
    serve(kube)
    kube.roll_out(plan(kube, "b")["manifests"])
    assert commit(kube, **of_plan(plan(kube, "b"), "b"))["changed"]
    kube.store[ENGINE]["status"] = {}
    kube.store[ENGINE]["spec"]["strategy"] = {"type": "RollingUpdate"}
    assert plan(kube, "c")["strategy"] == "recreate"
    del kube.store[ENGINE]
    assert plan(kube, "c")["strategy"] == "recreate"


def test_engines_without_a_record_are_replaced_with_care(kube: FakeKube) -> None:
    kube.roll_out(manifests("a"))
    result = plan(kube, "b")
    assert (result["needed"], result["strategy"], result["last_good"]) == (True, "surge", None)


def test_what_was_applied_and_not_committed_is_only_to_be_verified(kube: FakeKube) -> None:
    serve(kube)
    kube.roll_out(plan(kube, "b", strategy="recreate")["manifests"])
    result = plan(kube, "b", strategy="surge")
    assert (result["needed"], result["committed"], result["why"], result["strategy"]) == (False, False, "it runs already", "recreate")


def test_the_way_back_from_what_was_not_committed_is_a_switch(kube: FakeKube) -> None:
    serve(kube)
    kube.roll_out(plan(kube, "b", strategy="recreate")["manifests"])
    result = plan(kube, "a")
    assert (result["needed"], result["committed"], result["strategy"]) == (True, False, "surge")
    # also where it differs from what was verified last by the router alone
    assert plan(kube, manifests=manifests(router="2"))["why"] == "surge: node gpu-1 has room for old and new"


def test_an_interrupted_surge_goes_on(kube: FakeKube) -> None:
    serve(kube)
    first = plan(kube, "b")
    kube.roll_out(first["held_manifests"])
    result = plan(kube, "b")
    assert (result["needed"], result["unfinished"], result["requests"]) == (True, False, 2)
    assert result["why"] == "surge: goes on where an earlier run was interrupted"
    assert result["held_manifests"] == first["held_manifests"]


def test_an_interrupted_surge_is_undone(kube: FakeKube) -> None:
    serve(kube)
    kube.roll_out(plan(kube, "b")["held_manifests"])
    result = plan(kube, "a")
    assert (result["needed"], result["committed"], result["unfinished"]) == (False, False, True)
    assert (result["why"], result["held_manifests"], result["strategy"]) == ("an interrupted switch is undone", [], "surge")


def test_what_an_interrupted_surge_left_makes_room_for_another(kube: FakeKube) -> None:
    serve(kube)
    kube.roll_out(plan(kube, "b")["held_manifests"])
    result = plan(kube, "c")
    assert (result["needed"], result["unfinished"], result["strategy"], result["requests"]) == (True, True, "surge", 5)
    # but an engine that was never verified is none to keep
    kube.pods = [entry for entry in kube.pods if not entry["metadata"]["name"].startswith("a-")]
    reason = "an interrupted switch has left no engine that was verified"
    assert plan(kube, "c")["why"] == f"recreate: {reason}"
    with pytest.raises(ServingError, match=reason):
        plan(kube, "c", strategy="surge")


def test_who_may_not_look_at_nodes_recreates_or_says_what_he_wants(kube: FakeKube) -> None:
    serve(kube)
    kube.forbidden = {"/api/v1/nodes"}
    assert plan(kube, "b")["why"] == "recreate: nodes and pods of the cluster may not be listed (403)"
    asked = plan(kube, "b", strategy="surge")
    assert asked["why"] == "surge: as asked; nodes and pods of the cluster may not be listed (403)"
    assert asked["held_manifests"]


def test_a_damaged_record_is_told_and_counts_as_none(kube: FakeKube) -> None:
    serve(kube)
    kube.store[STATE]["data"]["manifests"] = "!"
    result = plan(kube)
    assert result["trouble"].startswith("The ConfigMap chatbot/vllm-state does not tell any more the plan")
    assert (result["last_good"], result["needed"], set(result["weights"])) == (None, False, {"models--a"})


def test_a_config_map_of_somebody_else_is_left_alone(kube: FakeKube) -> None:
    kube.store[STATE] = {"metadata": {"name": "vllm-state"}, "data": {"a": "b"}}
    with pytest.raises(ServingError, match=r"The ConfigMap chatbot/vllm-state is not the record of this stack"):
        plan(kube)
    labels = {"app.kubernetes.io/managed-by": "llmops.serving", "app.kubernetes.io/part-of": "vllm"}
    kube.store[STATE]["metadata"]["labels"] = {**labels, "app.kubernetes.io/instance": "chat"}
    with pytest.raises(ServingError, match="is not the record of this stack"):
        commit(kube, weights={"x": {}})


def test_a_record_of_another_stack_is_left_alone(kube: FakeKube) -> None:
    serve(kube)
    with pytest.raises(ServingError, match="is not the record of this stack"):
        commit(kube, stack="other", weights={"x": {}})


def test_the_engine_has_to_be_named(kube: FakeKube) -> None:
    with pytest.raises(ServingError, match="no Deployment vllm-backend"):
        plan(kube, manifests=manifests()[1:])


# --- switch_commit -------------------------------------------------------------------------------------------------------------------


def test_a_commit_is_idempotent_and_keeps_its_time(kube: FakeKube) -> None:
    given = {**of_plan(plan(kube), "a"), "weights": {"models--a": {"model": "a", "gib": 1.5}}}
    first = commit(kube, at=0, **given)
    assert (first["changed"], first["committed_at"]) == (True, "1970-01-01T00:00:00Z")
    assert kube.store[STATE]["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "llmops.serving",
        "app.kubernetes.io/instance": "chat",
        "app.kubernetes.io/part-of": "vllm-state",
    }
    again = commit(kube, at=60, **given)
    assert (again["changed"], again["committed_at"], again["weights"]) == (False, first["committed_at"], first["weights"])
    # weights are no commit, another plan is
    more = commit(kube, at=60, **{**given, "weights": {"models--b": {"model": "b"}}})
    assert (more["changed"], more["committed_at"], sorted(more["weights"])) == (True, first["committed_at"], ["models--a", "models--b"])
    assert more["weights"]["models--b"]["since"] == "1970-01-01T00:01:00Z"
    assert commit(kube, at=120, **{**given, "verify": {"reasoning": True}})["committed_at"] == "1970-01-01T00:02:00Z"


def test_the_way_back_by_another_strategy_is_the_same_commit(kube: FakeKube) -> None:
    given = of_plan(plan(kube), "a")
    first = commit(kube, at=0, **given)
    other = "recreate" if given["strategy"] == "surge" else "surge"
    back = commit(kube, at=60, **{**given, "strategy": other})
    assert (back["changed"], back["committed_at"]) == (True, first["committed_at"])


def test_weights_of_what_serves_stay_its_own_when_another_row_with_them_fails(kube: FakeKube) -> None:
    given = {**of_plan(plan(kube), "a"), "weights": {"models--a": {"model": "a", "gib": 1.5}}}
    first = commit(kube, at=0, **given)
    failed = commit(kube, at=60, **{**given, "weights": {"models--a": {"model": "b", "gib": 1.5}, "models--c": {"model": "b"}}})
    assert failed["weights"]["models--a"] == first["weights"]["models--a"]
    assert failed["weights"]["models--c"]["model"] == "b"
    # once the other row is what was verified last, they are its
    good = commit(kube, at=120, **{**given, "model": "b", "digest": "1", "weights": {"models--a": {"model": "b", "gib": 1.5}}})
    assert good["weights"]["models--a"]["model"] == "b"


def test_check_mode_writes_nothing_and_shows_the_same(kube: FakeKube) -> None:
    given = of_plan(plan(kube), "a")
    foreseen = commit(kube, check_mode=True, **given)
    assert kube.store == {}
    assert foreseen == commit(kube, **given)
    assert foreseen["diff"]["before"] == ""
    shown = json.loads(foreseen["diff"]["after"])
    assert shown == {"model": "a", "digest": given["digest"], "strategy": "surge", "weights": {}}


def test_weights_can_be_forgotten_alone(kube: FakeKube) -> None:
    serve(kube)
    result = commit(kube, weights_removed=["models--a"], stack=None)
    assert (result["changed"], result["weights"], result["model"]) == (True, {}, "a")
    assert kube.store[STATE]["metadata"]["labels"]["app.kubernetes.io/instance"] == "chat"
    assert plan(kube)["last_good"]["model"] == "a"
    assert commit(kube, weights_removed=["models--a"])["changed"] is False


def test_nothing_to_remember_makes_no_record(kube: FakeKube) -> None:
    assert commit(kube, weights_removed=["x"])["changed"] is False
    assert kube.store == {}
    assert commit(kube, weights={"x": {"model": "a"}})["changed"]
    assert commit(kube, weights_removed=["x"])["changed"]
    assert kube.store == {}


def test_a_plan_needs_its_manifests(kube: FakeKube) -> None:
    with pytest.raises(ServingError, match="manifests is missing: the plan of a cannot be remembered"):
        commit(kube, model="a", digest="0", strategy="surge")


def test_what_is_gone_leaves_its_weights_behind_unless_they_are_forgotten(kube: FakeKube) -> None:
    serve(kube)
    assert commit(kube, check_mode=True, state="absent")["changed"]
    assert plan(kube)["last_good"] is not None
    assert commit(kube, state="absent")["model"] == ""
    result = plan(kube)
    assert (result["last_good"], set(result["weights"])) == (None, {"models--a"})
    assert commit(kube, state="absent")["changed"] is False
    assert commit(kube, state="absent", forget_weights=True)["changed"]
    assert STATE not in kube.store
    assert commit(kube, state="absent", forget_weights=True)["changed"] is False


def test_a_record_without_weights_goes_wholly(kube: FakeKube) -> None:
    commit(kube, **of_plan(plan(kube), "a"))
    assert commit(kube, state="absent")["changed"]
    assert STATE not in kube.store


def test_a_newer_record_is_not_overwritten_but_can_be_removed(kube: FakeKube) -> None:
    serve(kube)
    kube.store[STATE]["data"]["version"] = "2"
    with pytest.raises(ServingError, match="newer version"):
        commit(kube, weights={"x": {}})
    assert commit(kube, state="absent", forget_weights=True)["changed"]


def test_a_damaged_record_is_written_anew(kube: FakeKube) -> None:
    planned = serve(kube)
    kube.store[STATE]["data"]["manifests"] = "!"
    result = commit(kube, **of_plan(planned, "a"))
    assert result["changed"]
    assert "does not tell any more" in result["trouble"]
    kube.store[STATE]["data"]["manifests"] = "!"
    assert commit(kube, weights_removed=["x"])["changed"], "what is left of it is written anew, too"
    assert plan(kube)["trouble"] == ""
    assert commit(kube, **of_plan(planned, "a"))["changed"]
    assert plan(kube)["last_good"]["model"] == "a"


# --- switch_traffic ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def held(kube: FakeKube) -> FakeKube:
    """Two engines of a serve, two of b are held beside them and hidden."""
    serve(kube, manifests=manifests("a", replicas=2))
    kube.nodes[0]["status"]["allocatable"][GPU] = "4"
    kube.roll_out(plan(kube, manifests=manifests("b", replicas=2))["held_manifests"])
    for name in ("b-0", "b-1"):
        kube.pod(name)["metadata"]["labels"][ROUTED] = "false"
    return kube


def test_traffic_goes_over_and_back_and_the_seen_side_comes_first(held: FakeKube) -> None:
    foreseen = traffic(held, "new", check_mode=True)
    assert (held.writes, held.routed()) == ([], ["a-0", "a-1"])
    result = traffic(held, "new")
    assert result == foreseen == {"changed": True, "routed": ["b-0", "b-1"], "hidden": ["a-0", "a-1"]}
    assert held.writes == ["b-0 true", "b-1 true", "a-0 false", "a-1 false"]
    again = traffic(held, "new")
    assert (again["changed"], held.writes) == (False, [])
    assert traffic(held, "old") == {"changed": True, "routed": ["a-0", "a-1"], "hidden": ["b-0", "b-1"]}
    assert held.writes == ["a-0 true", "a-1 true", "b-0 false", "b-1 false"]
    assert traffic(held, "all")["routed"] == held.routed() == ["a-0", "a-1", "b-0", "b-1"]


def test_traffic_never_goes_where_nobody_is(held: FakeKube) -> None:
    for name in ("b-0", "b-1"):
        held.pod(name)["status"]["conditions"][0]["status"] = "False"
    with pytest.raises(ServingError, match="to the new engines of chatbot/vllm-backend: there are 2 of the new engines, 0 of them ready"):
        traffic(held, "new")
    held.pods = [held.pod("b-0"), held.pod("b-1")]
    with pytest.raises(ServingError, match=r"to the old engines .* and 0 of the old ones\. Nothing was changed"):
        traffic(held, "old")
    assert held.writes == []


def test_new_engines_that_end_meanwhile_leave_the_requests_where_they_are(held: FakeKube) -> None:
    held.gone = {"b-0", "b-1"}
    with pytest.raises(ServingError, match="have just ended"):
        traffic(held, "new")
    assert held.routed() == ["a-0", "a-1"]
    held.gone = {"b-0"}
    assert traffic(held, "new")["routed"] == ["b-1"]


def test_the_old_side_has_nothing_that_was_never_committed(held: FakeKube) -> None:
    held.roll_out(plan(held, "c")["held_manifests"])
    traffic(held, "new")
    assert held.routed() == ["c-0"]
    held.pod("b-0")["metadata"]["labels"][ROUTED] = "true"
    assert traffic(held, "old") == {"changed": True, "routed": ["a-0", "a-1"], "hidden": ["b-0", "b-1", "c-0"]}
    assert held.routed() == ["a-0", "a-1"]


def test_a_deployment_that_is_not_there(kube: FakeKube) -> None:
    with pytest.raises(ServingError, match="There is no Deployment vllm-backend in namespace chatbot"):
        traffic(kube, "new")


def test_a_whole_switch_and_the_next_run(kube: FakeKube) -> None:
    serve(kube)
    planned = plan(kube, "b")
    kube.roll_out(planned["held_manifests"])
    new = _switch.hide_new(t.cast(Kube, kube), "chatbot", kube.store[ENGINE], kube.pods)
    assert (new, kube.routed()) == (["b-0"], ["a-0"])
    traffic(kube, "new")
    assert kube.routed() == ["b-0"]
    kube.roll_out(planned["manifests"])
    commit(kube, **of_plan(planned, "b"))
    assert [entry["metadata"]["name"] for entry in kube.pods] == ["b-0"]
    result = plan(kube, "b")
    assert (result["committed"], result["manifests"], sorted(result["weights"])) == (True, planned["manifests"], ["models--a"])


# --- one machine ---------------------------------------------------------------------------------------------------------------------

PROGRAMS = [{"name": "vllm-engine", "command": ["vllm", "serve", "a"]}, {"name": "vllm-router", "command": ["vllm-router"]}]
OTHERS = [{"name": "vllm-engine", "command": ["vllm", "serve", "b"]}, PROGRAMS[1]]


def no_cluster(*_cluster: t.Any) -> Kube:
    raise AssertionError("a cluster was asked")


def local_plan(state_dir: Path, programs: list[Object], **given: t.Any) -> dict[str, t.Any]:
    return switch_plan.run(options(switch_plan, state_dir=str(state_dir), programs=programs, **given), no_cluster)


def local_commit(state_dir: Path, check_mode: bool = False, **given: t.Any) -> dict[str, t.Any]:
    return switch_commit.run(options(switch_commit, state_dir=str(state_dir), **given), check_mode, no_cluster, lambda: 0)


def test_one_machine_always_recreates(tmp_path: Path) -> None:
    first = local_plan(tmp_path / "absent", PROGRAMS)
    assert (first["needed"], first["strategy"], first["last_good"], first["held_manifests"]) == (False, "recreate", None, [])
    given = {"model": "a", "digest": first["digest"], "strategy": "recreate", "programs": PROGRAMS}
    assert local_commit(tmp_path, check_mode=True, **given)["changed"]
    assert list(tmp_path.iterdir()) == []
    assert local_commit(tmp_path, **given)["changed"]
    assert local_commit(tmp_path, **given)["changed"] is False
    same = local_plan(tmp_path, PROGRAMS)
    assert (same["needed"], same["committed"], same["last_good"]["programs"]) == (False, True, PROGRAMS)
    other = local_plan(tmp_path, OTHERS)
    assert (other["needed"], other["committed"]) == (True, False)
    assert other["why"] == "recreate: on one machine the router's engines are fixed at its start"
    with pytest.raises(ServingError, match="vllm_switch_strategy is surge, but on one machine the router's engines are fixed"):
        local_plan(tmp_path, OTHERS, strategy="surge")
    assert local_commit(tmp_path, state="absent")["changed"]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_a_machine_needs_its_programs(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="programs is missing"):
        local_commit(tmp_path, model="a", digest="0", strategy="recreate")


# --- as modules ----------------------------------------------------------------------------------------------------------------------


def call(module: t.Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **given: t.Any) -> dict[str, t.Any]:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with patch_module_args(given), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, t.Any] = json.loads(capsys.readouterr().out)
    return answer


def test_mains(kube: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    serve(kube)
    kube.store[STATE]["data"]["manifests"] = "!"
    monkeypatch.setattr(Kube, "connect", lambda *_cluster: kube)
    warnings: list[str] = []
    for module in (switch_plan, switch_commit):
        monkeypatch.setattr(module.AnsibleModule, "warn", staticmethod(warnings.append))
    where = {"namespace": "chatbot", "name": "vllm-state"}
    planned = call(switch_plan, monkeypatch, capsys, **where, engine="vllm-backend", manifests=manifests())
    assert planned["changed"] is False
    assert "trouble" not in planned
    committed = call(switch_commit, monkeypatch, capsys, **where, **of_plan(planned, "a"))
    assert (committed["changed"], committed["model"], "trouble" in committed) == (True, "a", False)
    assert [warning.partition(" (")[0] for warning in warnings] == ["The ConfigMap chatbot/vllm-state does not tell any more the plan"] * 2
    turned = call(switch_traffic, monkeypatch, capsys, namespace="chatbot", engine="vllm-backend", to="new")
    assert (turned["changed"], turned["routed"]) == (False, ["a-0"])
    refused = call(switch_traffic, monkeypatch, capsys, namespace="chatbot", engine="vllm-backend", to="old")
    assert (refused["failed"], "0 of the old ones" in refused["msg"]) == (True, True)


@pytest.mark.parametrize(
    ("module", "given", "words"),
    [
        (switch_plan, {}, "one of the following is required: namespace, state_dir"),
        (switch_plan, {"namespace": "x", "name": "y", "engine": "z"}, "missing parameter(s) required by 'namespace': manifests"),
        (switch_plan, {"state_dir": "/x"}, "missing parameter(s) required by 'state_dir': programs"),
        (switch_commit, {"namespace": "x"}, "missing parameter(s) required by 'namespace': name"),
        (switch_commit, {"state_dir": "/x", "model": "a"}, "parameters are required together: model, digest, strategy"),
    ],
)
def test_options_that_belong_together(
    module: t.Any, given: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in call(module, monkeypatch, capsys, **given)["msg"]
