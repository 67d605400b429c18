# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A switch of the model: what counts as a change, where new engines find room, what is remembered, and whose pods are whose."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import stat
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _switch
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import placement_obstacle
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, KubeError, Object
from ansible_collections.llmops.serving.plugins.module_utils._switch import Choice, Record

GPU = "nvidia.com/gpu"
LABELS = {"app": "vllm-backend", "app.kubernetes.io/instance": "chat"}


def deployment(name: str = "vllm-backend", model: str = "a", replicas: int = 1, **pod_spec: t.Any) -> Object:
    container = {"name": "vllm", "args": [model], "resources": {"requests": {"cpu": "8", "memory": "16Gi", GPU: "1"}}}
    template = {"metadata": {"labels": dict(LABELS)}, "spec": {"containers": [container], **pod_spec}}
    spec = {"replicas": replicas, "selector": {"matchLabels": dict(LABELS)}, "strategy": {"type": "Recreate"}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "chatbot"}, "spec": spec}


def manifests(model: str = "a", replicas: int = 1) -> list[Object]:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "vllm-router"}, "spec": {}}
    return [deployment(model=model, replicas=replicas), deployment("vllm-router", "router"), service]


# --- digest and manifests ------------------------------------------------------------------------------------------------------------


def test_a_digest_does_not_depend_on_how_a_deployment_gets_there_nor_on_order() -> None:
    other = manifests()
    other[0]["spec"] = dict(reversed(list(other[0]["spec"].items())))
    other[0]["spec"].update(strategy={"type": "RollingUpdate"}, minReadySeconds=5, progressDeadlineSeconds=7)
    other[0]["metadata"]["annotations"] = {"note": "x"}
    other[2]["spec"] = {"type": "NodePort"}
    digest = _switch.digest(manifests())
    assert _switch.digest(reversed(other)) == digest
    assert len(digest) == 12
    assert int(digest, 16) >= 0


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("change", ["template", "replicas"])
def test_a_digest_changes_with_engine_and_router(index: int, change: str) -> None:
    other = manifests()
    if change == "replicas":
        other[index]["spec"]["replicas"] = 2
    else:
        other[index]["spec"]["template"]["spec"]["containers"][0]["args"] = ["b"]
    assert _switch.digest(other) != _switch.digest(manifests())


def test_the_digest_of_programs_has_all_of_them() -> None:
    programs = [{"name": "engine", "command": ["vllm"], "ports": [1]}, {"name": "router", "command": ["r"]}]
    digest = _switch.programs_digest(programs)
    assert _switch.programs_digest([dict(reversed(list(program.items()))) for program in reversed(programs)]) == digest
    assert _switch.programs_digest([{**programs[0], "ports": [2]}, programs[1]]) != digest
    assert _switch.programs_digest(programs[:1]) != digest


def test_held_manifests_differ_from_the_final_ones_by_the_hold_alone() -> None:
    given = manifests()
    before = copy.deepcopy(given)
    final, held = _switch.with_strategy(given, "vllm-backend", "surge"), _switch.held(given, "vllm-backend")
    assert given == before
    assert held[0]["spec"].pop("minReadySeconds") == 365 * 86400
    assert held[0]["spec"].pop("progressDeadlineSeconds") == 365 * 86400 + 1
    assert held == final
    assert final[0]["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}}
    assert final[0]["metadata"]["annotations"] == {"serving.llmops/plan": _switch.digest(given)}
    assert final[1:] == given[1:]
    assert _switch.digest(held) == _switch.digest(given)


def test_recreate_is_final() -> None:
    [engine, *_others] = _switch.with_strategy(manifests(), "vllm-backend", "recreate")
    assert engine["spec"]["strategy"] == {"type": "Recreate"}
    assert not _switch.is_held(engine)
    assert _switch.is_held(_switch.held(manifests(), "vllm-backend")[0])
    assert not _switch.is_held(None)


def test_the_engine_has_to_be_among_the_manifests() -> None:
    with pytest.raises(ServingError, match=r"no Deployment vllm, the engine's; Deployments there: vllm-backend, vllm-router"):
        _switch.held(manifests(), "vllm")


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (manifests(), "the engines stay as they are"),
        (manifests(replicas=3), "the engines stay as they are, 3 instead of 1"),
        (manifests("b"), ""),
        ([], ""),
    ],
)
def test_what_changes_beside_the_engines(after: list[Object], words: str) -> None:
    assert _switch.only_beside(manifests(), after, "vllm-backend") == words


# --- room ----------------------------------------------------------------------------------------------------------------------------


def node(name: str = "gpu-1", gpus: int = 2, cpu: str = "32", memory: str = "128Gi", pods: str = "110", **fields: t.Any) -> Object:
    allocatable = {"cpu": cpu, "memory": memory, "pods": pods, **({GPU: str(gpus)} if gpus else {})}
    status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": {"name": name, "labels": fields.pop("labels", {})}, "spec": fields, "status": status}


def pod(at: str = "gpu-1", namespace: str = "chatbot", labels: t.Optional[dict[str, str]] = None, **requests: str) -> Object:
    resources = {"requests": requests or {"cpu": "8", "memory": "16Gi", GPU: "1"}}
    metadata = {"name": "p", "namespace": namespace, "labels": LABELS if labels is None else labels}
    return {"metadata": metadata, "spec": {"nodeName": at, "containers": [{"name": "main", "resources": resources}]}}


def choose(
    nodes: list[Object],
    pods: list[Object],
    wanted: str = "auto",
    access_mode: str = "ReadWriteOnce",
    engine: t.Optional[Object] = None,
) -> Choice:
    return _switch.decide(wanted, engine or deployment(model="b"), access_mode, nodes, pods, LABELS)


def refused(*arguments: t.Any, **options: t.Any) -> str:
    with pytest.raises(ServingError) as caught:
        choose(*arguments, wanted="surge", **options)
    return str(caught.value)


def test_room_for_both_is_a_surge() -> None:
    assert choose([node()], [pod()]) == Choice("surge", "surge: node gpu-1 has room for old and new")
    assert choose([node()], [pod()], wanted="surge").strategy == "surge"


def test_no_free_gpu_is_a_recreate_with_numbers() -> None:
    why = "recreate: node gpu-1 has 0 of 1 nvidia.com/gpu free beside the old engine"
    assert choose([node(gpus=1)], [pod()]) == Choice("recreate", why)
    message = refused([node(gpus=1)], [pod()])
    assert "vllm_switch_strategy is surge, but node gpu-1 has 0 of 1 nvidia.com/gpu free beside the old engine" in message
    assert "vllm_switch_strategy: auto" in message


def test_recreate_on_demand_looks_at_nothing() -> None:
    assert choose([], [], wanted="recreate") == Choice("recreate", "recreate: as vllm_switch_strategy says")


@pytest.mark.parametrize(
    ("fields", "short"),
    [
        ({"cpu": "12500m"}, "4.5 of 8 cpu"),
        ({"memory": "24Gi"}, "8.0 of 16.0 GiB memory"),
        ({"pods": "1"}, "0 of 1 pods"),
        ({"gpus": 0}, "0 of 1 nvidia.com/gpu"),
        ({"cpu": "8", "gpus": 1}, "0 of 8 cpu and 0 of 1 nvidia.com/gpu"),
    ],
)
def test_what_is_short(fields: dict[str, t.Any], short: str) -> None:
    assert choose([node(**fields)], [pod()]).why == f"recreate: node gpu-1 has {short} free beside the old engine"


def test_pods_of_others_hold_what_they_hold() -> None:
    other = pod(namespace="ml", labels={}, cpu="17000m")
    assert choose([node()], [pod(), other]).why == "recreate: node gpu-1 has 7 of 8 cpu free beside the old engine"
    other["spec"]["nodeName"] = "gpu-2"
    assert choose([node()], [pod(), other]).strategy == "surge"


def test_an_engine_that_ends_already_makes_room_and_no_other_pod_does() -> None:
    ending, other = pod(), pod(namespace="ml")
    for leaving in (ending, other):
        leaving["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    assert choose([node()], [pod(), ending], wanted="surge").strategy == "surge"
    assert choose([node()], [pod(), other]).why == "recreate: node gpu-1 has 0 of 1 nvidia.com/gpu free beside the old engine"


def test_requests_are_the_sum_of_containers_or_the_largest_init_container_with_overhead() -> None:
    exact = {"cpu": "32", "memory": "33Gi"}
    assert choose([node(**exact)], [pod()]).strategy == "surge"
    initial = {"name": "fetch", "resources": {"requests": {"memory": "18Gi"}}}
    assert "17.0 of 18.0 GiB memory" in choose([node(**exact)], [pod()], engine=deployment(initContainers=[initial])).why
    sidecar = {"name": "log", "restartPolicy": "Always", "resources": {"requests": {"memory": "1Gi"}}}
    assert choose([node(**exact)], [pod()], engine=deployment(initContainers=[sidecar])).strategy == "surge"
    assert "17.0 of 19.0 GiB memory" in choose([node(**exact)], [pod()], engine=deployment(initContainers=[sidecar, initial])).why
    assert "17.0 of 18.0 GiB memory" in choose([node(**exact)], [pod()], engine=deployment(overhead={"memory": "2Gi"})).why


def test_limits_stand_in_for_requests_that_are_not_given() -> None:
    engine = deployment()
    engine["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {GPU: 1, "memory": "20Gi"}, "requests": {"memory": "1Gi"}}
    assert choose([node(gpus=1, memory="17Gi")], [pod()], engine=engine).why.startswith(
        "recreate: node gpu-1 has 0 of 1 nvidia.com/gpu free"
    )
    assert choose([node(memory="17Gi")], [pod()], engine=engine).strategy == "surge"


def test_a_quantity_that_is_none() -> None:
    engine = deployment()
    engine["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"memory": "16 gigs"}}
    with pytest.raises(ServingError, match="memory: 16 gigs is not a quantity"):
        choose([node()], [], engine=engine)


def test_a_volume_of_one_node_keeps_the_new_engines_on_it() -> None:
    nodes = [node(gpus=1), node("gpu-2")]
    why = "recreate: node gpu-1 has 0 of 1 nvidia.com/gpu free beside the old engine (its volume is mounted there)"
    assert choose(nodes, [pod()]).why == why
    assert choose(nodes, [pod()], access_mode="ReadWriteMany").why == "surge: node gpu-2 has room for old and new"
    elsewhere = "recreate: node gpu-9, where the volume is, is not there"
    assert choose(nodes, [pod("gpu-9")]).why == elsewhere
    # the engine of a stack of the same name in another namespace says nothing about this volume
    assert choose(nodes, [pod(namespace="other")]).why == "surge: node gpu-2 has room for old and new"


def test_replicas_share_the_node_of_their_volume() -> None:
    old = [pod(), pod()]
    engine = deployment(replicas=2)
    short = "recreate: node gpu-1 has 1 of 2 nvidia.com/gpu free beside the old engines"
    assert choose([node(gpus=3)], old, engine=engine).why == short
    assert choose([node(gpus=4)], old, engine=engine).strategy == "surge"
    # before any is placed, one node has to take all
    apart = [node("a", gpus=1), node("b", gpus=1)]
    assert "1 of 2 new engines: node a has 1 of 2 nvidia.com/gpu free" in choose(apart, [], engine=engine).why
    assert choose([*apart, node("c", gpus=2)], [], engine=engine).why == "surge: node c has room for old and new"


def test_replicas_spread_over_nodes_with_a_volume_of_many() -> None:
    engine, shared = deployment(replicas=3), "ReadWriteMany"
    nodes = [node("a", gpus=1), node("b", gpus=3), node("c", gpus=1)]
    old = [pod("a"), pod("b")]
    assert choose(nodes, old, access_mode=shared, engine=engine).why == "surge: nodes b and c have room for old and new"
    why = choose(nodes, [*old, pod("c")], access_mode=shared, engine=engine).why
    assert why == (
        "recreate: there is room for 2 of 3 new engines: node a has 0 of 1 nvidia.com/gpu free beside the old engines, "
        "node c has 0 of 1 nvidia.com/gpu free beside the old engines"
    )
    enough = [node("a", gpus=1), node("b", gpus=1)]
    assert (
        choose(enough, [], access_mode=shared, engine=engine).why == "recreate: there is room for 2 of 3 new engines beside the old engine"
    )


def test_a_volume_of_one_pod_is_never_a_surge() -> None:
    assert (
        choose([node()], [pod()], access_mode="ReadWriteOncePod").why == "recreate: one pod at a time may use the volume (ReadWriteOncePod)"
    )
    assert "one pod at a time" in refused([node()], [pod()], access_mode="ReadWriteOncePod")


def test_cards_that_are_shared_in_time_have_no_memory_to_spare() -> None:
    labels = {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.product": "NVIDIA-L4-SHARED"}
    assert "shared by time-slicing" in choose([node(gpus=4, labels=labels)], [pod()]).why
    by_mps = {**labels, "nvidia.com/gpu.sharing-strategy": "mps"}
    assert choose([node(gpus=4, labels=by_mps)], [pod()]).strategy == "surge"


def test_many_nodes_are_told_in_short() -> None:
    nodes = [node(f"n{number}", unschedulable=True) for number in range(9)] + [node("m", gpus=1)]
    why = choose(nodes, [pod("m")], access_mode="ReadWriteMany").why
    assert why.startswith("recreate: node m has 0 of 1 nvidia.com/gpu free beside the old engine, node n0 cannot take one (cordoned), ")
    assert why.endswith("and 7 more nodes do not help")
    assert choose([], [], access_mode="ReadWriteMany").why == "recreate: the cluster has no node"


def in_terms(*terms: Object) -> dict[str, t.Any]:
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}}


def expression(key: str, operator: str, *values: str) -> Object:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


def field(name: str) -> list[Object]:
    return [{"key": "metadata.name", "operator": "In", "values": [name]}]


@pytest.mark.parametrize(
    ("spec", "obstacle"),
    [
        ({}, ""),
        ({"nodeSelector": {"zone": "a"}}, ""),
        ({"nodeSelector": {"zone": "b"}}, "no label zone=b"),
        (in_terms(expression("zone", "In", "a", "b")), ""),
        (in_terms(expression("zone", "In", "b")), "affinity"),
        (in_terms(expression("rack", "In", "")), "affinity"),
        (in_terms(expression("zone", "NotIn", "b")), ""),
        (in_terms(expression("zone", "NotIn", "a")), "affinity"),
        (in_terms(expression("rack", "NotIn", "a")), ""),
        (in_terms(expression("zone", "Exists")), ""),
        (in_terms(expression("rack", "Exists")), "affinity"),
        (in_terms(expression("rack", "DoesNotExist")), ""),
        (in_terms(expression("zone", "DoesNotExist")), "affinity"),
        (in_terms(expression("mib", "Gt", "79999")), ""),
        (in_terms(expression("mib", "Gt", "81920")), "affinity"),
        (in_terms(expression("mib", "Lt", "81921")), ""),
        (in_terms(expression("mib", "Lt", "81920")), "affinity"),
        (in_terms(expression("zone", "Gt", "1")), "affinity"),
        (in_terms(expression("zone", "In", "b"), expression("mib", "Exists")), ""),
        (
            in_terms({**expression("zone", "In", "a"), "matchFields": field("n2")}),
            "affinity",
        ),
        (in_terms({"matchFields": field("gpu-1")}), ""),
        (in_terms({}), "affinity"),
        (in_terms(), "affinity"),
    ],
)
def test_where_a_pod_may_go(spec: Object, obstacle: str) -> None:
    found = placement_obstacle(node(labels={"zone": "a", "mib": "81920"}), spec)
    assert (obstacle in found) if obstacle else found == ""


def test_taints_count_unless_tolerated() -> None:
    tainted = node(taints=[{"key": GPU, "value": "present", "effect": "NoSchedule"}])
    assert "taint nvidia.com/gpu=present:NoSchedule is not tolerated" in choose([tainted], [pod()]).why
    engine = deployment(tolerations=[{"key": GPU, "operator": "Exists"}])
    assert choose([tainted], [pod()], engine=engine).strategy == "surge"


# --- the record ----------------------------------------------------------------------------------------------------------------------

WEIGHTS = {"models--Qwen--Qwen3-8B": {"model": "qwen3-8b", "gib": 15.26, "since": "2026-11-20T09:00:00Z"}}
RECORD = Record("qwen3-8b", "0a1b2c3d4e5f", "surge", "2026-11-21T16:06:00Z", manifests(), {"tool_calls": True}, WEIGHTS)


def test_a_record_comes_back_as_it_was() -> None:
    data = RECORD.to_data()
    assert _switch.from_data(data, "x") == (RECORD, "")
    assert data == RECORD.to_data()
    assert {data[key] for key in ("version", "model", "digest", "strategy")} == {"1", "qwen3-8b", "0a1b2c3d4e5f", "surge"}
    assert json.loads(data["weights"]) == WEIGHTS
    assert base64.b64decode(data["manifests"])[4:8] == bytes(4), "the time of packing is no part of it"
    assert json.loads(gzip.decompress(base64.b64decode(data["manifests"]))) == manifests()


def test_a_record_keeps_the_order_of_keys() -> None:
    programs = [{"name": "x", "environment": {"B": "1", "A": "2"}}]
    record, _trouble = _switch.from_data(RECORD._replace(manifests=programs).to_data(), "x")
    assert list(record.manifests[0]["environment"]) == ["B", "A"]


def test_a_record_of_weights_only_has_nothing_to_go_back_to() -> None:
    data = Record(weights=WEIGHTS).to_data()
    assert set(data) == {"version", "weights"}
    record, trouble = _switch.from_data(data, "x")
    assert (record, trouble, record.is_good) == (Record(weights=WEIGHTS), "", False)
    assert _switch.from_data(None, "x") == (Record(), "")


@pytest.mark.parametrize(
    "damage",
    [
        {"manifests": "!"},
        {"manifests": base64.b64encode(b"plain").decode()},
        {"manifests": base64.b64encode(gzip.compress(b"[")).decode()},
        {"manifests": base64.b64encode(gzip.compress(b"[1]")).decode()},
        {"manifests": base64.b64encode(gzip.compress(b"[]")[:-6]).decode()},
        {"manifests": None},
        {"verify": "["},
        {"strategy": "sideways"},
        {"model": None},
    ],
)
def test_a_damaged_plan_counts_as_none_and_its_weights_are_kept(damage: dict[str, t.Any]) -> None:
    record, trouble = _switch.from_data({**RECORD.to_data(), **damage}, "The ConfigMap chatbot/vllm-state")
    assert record == Record(weights=WEIGHTS)
    assert trouble.startswith("The ConfigMap chatbot/vllm-state does not tell any more the plan (")


def test_damaged_weights_leave_the_plan() -> None:
    record, trouble = _switch.from_data({**RECORD.to_data(), "weights": '{"x": 1}'}, "x")
    assert record == RECORD._replace(weights={})
    assert "which weights are there" in trouble
    assert _switch.from_data({}, "x") == (Record(), "x does not tell any more what it is; it counts as unknown and is written anew")


def test_a_record_of_a_newer_version_is_not_touched() -> None:
    with pytest.raises(ServingError, match=r"x was written by a newer version .*\(format 2, this one reads 1\). Update the collection"):
        _switch.from_data({**RECORD.to_data(), "version": "2"}, "x")


def test_weights_are_added_and_forgotten() -> None:
    known = _switch.known_weights(WEIGHTS, {"models/smoke": {"model": "smoke", "gib": None}}, (), "now")
    assert known == {**WEIGHTS, "models/smoke": {"model": "smoke", "gib": None, "since": "now"}}
    again = _switch.known_weights(known, {"models/smoke": {"model": "smoke", "gib": 0.1}}, ["models--Qwen--Qwen3-8B", "absent"], "later")
    assert again == {"models/smoke": {"model": "smoke", "gib": 0.1, "since": "now"}}


def test_a_file_is_for_its_user_only(tmp_path: Path) -> None:
    store = _switch.FileStore(str(tmp_path))
    assert store.load() is None
    store.write(RECORD)
    store.write(RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["last-good.json"]
    assert stat.S_IMODE((tmp_path / "last-good.json").stat().st_mode) == 0o600
    assert _switch.from_data(store.load(), store.where) == (RECORD, "")
    (tmp_path / "last-good.json").write_text("{")
    assert _switch.from_data(store.load(), store.where)[0] == Record()
    store.delete()
    store.delete()
    assert list(tmp_path.iterdir()) == []


def test_each_backend_has_a_file_of_its_own(tmp_path: Path) -> None:
    _switch.FileStore(str(tmp_path), "ollama").write(RECORD)
    assert _switch.FileStore(str(tmp_path)).load() is None
    assert [path.name for path in tmp_path.iterdir()] == ["last-good-ollama.json"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"Cannot write .*last-good\.json: No such file"):
        _switch.FileStore(str(tmp_path / "absent")).write(RECORD)
    (tmp_path / "last-good.json").mkdir()
    with pytest.raises(ServingError, match=r"Cannot read .*last-good\.json: Is a directory"):
        _switch.FileStore(str(tmp_path)).load()
    with pytest.raises(ServingError, match=r"Cannot write .*last-good\.json: Is a directory"):
        _switch.FileStore(str(tmp_path)).write(RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["last-good.json"], "nothing half-written stays"


# --- whose pods ----------------------------------------------------------------------------------------------------------------------


class Pods:
    """A Deployment with generations of pods, and the requests that change or list them."""

    def __init__(self) -> None:
        self.deployment: Object = {
            "metadata": {"name": "vllm-backend", "uid": "d"},
            "spec": {"selector": {"matchLabels": LABELS}, "template": self.template("a")},
        }
        self.sets: list[Object] = []
        self.pods: list[Object] = []
        self.sent: list[str] = []
        self.gone: set[str] = set()

    @staticmethod
    def template(version: str) -> Object:
        return {"metadata": {"labels": {**LABELS, "serving.llmops/routed": "true"}, "annotations": {"model": version}}, "spec": {}}

    def generation(self, version: str, *names: str, routed: bool = True, ready: bool = True, hold: bool = False) -> None:
        """Add a ReplicaSet of *version*, which becomes that of the Deployment, and its pods."""
        name = f"vllm-backend-{version}"
        template = self.template(version)
        self.deployment["spec"]["template"] = copy.deepcopy(template)
        template["metadata"]["labels"]["pod-template-hash"] = version
        metadata = {"name": name, "ownerReferences": [{"kind": "Deployment", "name": "vllm-backend", "uid": "d"}]}
        metadata["creationTimestamp"] = f"2026-11-21T00:00:{len(self.sets):02}Z"
        self.sets.append({"metadata": metadata, "spec": {"template": template, "minReadySeconds": _switch.HOLD_S if hold else 0}})
        for pod_name in names:
            labels = {**LABELS, "pod-template-hash": version, "serving.llmops/routed": str(routed).lower()}
            owners = [{"kind": "ReplicaSet", "name": name}]
            conditions = [{"type": "Ready", "status": str(ready)}]
            entry = {"metadata": {"name": pod_name, "labels": labels, "ownerReferences": owners}, "status": {"conditions": conditions}}
            self.pods.append(entry)

    def __getitem__(self, name: str) -> Object:
        return next(entry for entry in self.pods if entry["metadata"]["name"] == name)

    def list(self, path: str, label_selector: str = "") -> t.Iterator[Object]:
        self.sent.append(f"LIST {path}?{label_selector}")
        return iter(self.sets)

    def patch(self, path: str, body: Object) -> Object:
        name = path.rpartition("/")[2]
        self.sent.append(f"PATCH {name} {body['metadata']['labels']['serving.llmops/routed']}")
        if name in self.gone:
            raise KubeError("not found.", status=404)
        self[name]["metadata"]["labels"].update(body["metadata"]["labels"])
        return self[name]

    def newest(self) -> tuple[list[str], list[str]]:
        new, old = _switch.newest(self.deployment, self.sets, self.pods)
        return [entry["metadata"]["name"] for entry in new], [entry["metadata"]["name"] for entry in old]

    def hide_new(self) -> list[str]:
        self.sent.clear()
        return _switch.hide_new(t.cast(Kube, self), "chatbot", self.deployment, self.pods)


@pytest.fixture
def cluster() -> Pods:
    cluster = Pods()
    cluster.generation("a", "a1", "a2")
    return cluster


def test_the_newest_are_those_of_the_template(cluster: Pods) -> None:
    assert cluster.newest() == (["a1", "a2"], [])
    cluster.generation("b", "b1")
    assert cluster.newest() == (["b1"], ["a1", "a2"])
    # back to an older template, before the cluster has counted it as a new revision
    cluster.deployment["spec"]["template"] = Pods.template("a")
    assert cluster.newest() == (["a1", "a2"], ["b1"])
    # of two alike, Kubernetes takes the older one
    cluster.generation("c", "c1")
    cluster.sets[-1]["spec"]["template"]["metadata"]["annotations"] = {"model": "b"}
    cluster.sets.reverse()
    cluster.deployment["spec"]["template"] = Pods.template("b")
    assert cluster.newest() == (["b1"], ["a1", "a2", "c1"])
    # a template of which there is no ReplicaSet yet: all pods are older ones
    cluster.deployment["spec"]["template"] = Pods.template("d")
    assert cluster.newest() == ([], ["a1", "a2", "b1", "c1"])


def test_pods_that_end_and_those_of_others_do_not_count(cluster: Pods) -> None:
    cluster["a1"]["metadata"]["deletionTimestamp"] = "2026-11-21T00:00:00Z"
    cluster["a2"]["status"]["phase"] = "Failed"
    assert cluster.newest() == ([], [])
    cluster.generation("b", "b1")
    cluster.sets[-1]["metadata"]["ownerReferences"][0]["uid"] = "another"
    assert cluster.newest() == ([], ["b1"])
    cluster["b1"]["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "vllm-backend-b"}]
    assert cluster.newest() == ([], [])


def test_what_an_interrupted_switch_has_left(cluster: Pods) -> None:
    cluster.generation("b", "b1", hold=True)
    assert _switch.never_committed(cluster.deployment, cluster.sets, cluster.pods) == []
    cluster.generation("c", "c1", hold=True)
    assert _switch.never_committed(cluster.deployment, cluster.sets, cluster.pods) == [cluster["b1"]]


def test_new_pods_are_hidden_before_they_are_ready(cluster: Pods) -> None:
    assert cluster.hide_new() == []
    assert cluster.sent == []
    cluster.generation("b", "b1", "b2", ready=False, hold=True)
    assert cluster.hide_new() == ["b1", "b2"]
    assert cluster.sent[0].startswith("LIST /apis/apps/v1/namespaces/chatbot/replicasets?app=vllm-backend,")
    assert cluster.sent[1:] == ["PATCH b1 false", "PATCH b2 false"]
    assert cluster.hide_new() == []
    assert cluster.sent == []


def test_an_old_pod_that_is_not_ready_stays(cluster: Pods) -> None:
    cluster["a1"]["status"]["conditions"][0]["status"] = "False"
    cluster.generation("b", "b1", ready=False, routed=False)
    assert cluster.hide_new() == []
    assert _switch.is_routed(cluster["a1"])


def test_a_new_pod_that_became_ready_unseen_is_hidden_only_while_an_old_one_serves(cluster: Pods) -> None:
    cluster.generation("b", "b1")
    for name in ("a1", "a2"):
        cluster[name]["status"]["conditions"][0]["status"] = "False"
    assert cluster.hide_new() == []
    cluster["a1"]["status"]["conditions"][0]["status"] = "True"
    assert cluster.hide_new() == ["b1"]
    # after the cut-over the new ones are all that routers see
    for name, routed in (("a1", "false"), ("a2", "false"), ("b1", "true")):
        cluster[name]["metadata"]["labels"]["serving.llmops/routed"] = routed
    assert cluster.hide_new() == []
    assert cluster.sent == []


def test_a_pod_that_has_just_gone_is_no_error(cluster: Pods) -> None:
    cluster.generation("b", "b1", "b2", ready=False)
    cluster.gone = {"b1"}
    assert cluster.hide_new() == ["b2"]


def test_any_other_refusal_is_one(cluster: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: str, body: Object) -> Object:
        raise KubeError("Not permitted: cannot patch pods.", status=403)

    cluster.generation("b", "b1", ready=False)
    monkeypatch.setattr(cluster, "patch", forbidden)
    with pytest.raises(KubeError, match="cannot patch pods"):
        cluster.hide_new()
