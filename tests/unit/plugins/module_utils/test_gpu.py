# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import gc
import json
import typing as t
import weakref
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import (
    GpuProcess,
    Gpus,
    Holder,
    Request,
    check,
    cluster_gpus,
    cluster_place,
    compute_capability,
    give_back,
    held_by,
    host_place,
    judge,
    name_holders,
    node_obstacle,
    parse_nvidia_smi,
    parse_processes,
    pod_requests,
    pods_that_make_room,
    process_name,
    sold_gb,
)
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, Object

FIXTURES = Path(__file__).parent / "fixtures" / "gpu"
NODES = {node["metadata"]["name"]: node for node in json.loads((FIXTURES / "nodes.json").read_text())}
PODS = json.loads((FIXTURES / "pods.json").read_text())
GPU_TAINT_TOLERATED = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


class Cluster:
    """Lists some nodes of the fixtures and all their pods, and applies selectors as the API server does."""

    def __init__(self, *names: str) -> None:
        self.nodes = [NODES[name] for name in names]
        self.asked: list[str] = []

    def list(self, path: str, label_selector: str = "", field_selector: str = "", missing_ok: bool = True) -> t.Iterator[Object]:
        self.asked.append(path)
        if path == "/api/v1/nodes":
            labels = dict(pairs(label_selector, "="))
            return iter([node for node in self.nodes if labels.items() <= node["metadata"]["labels"].items()])
        namespace = path.split("/")[4] if path.startswith("/api/v1/namespaces/") else None
        return (
            pod
            for pod in PODS
            if (namespace is None or pod["metadata"]["namespace"] == namespace)
            and all(pod["metadata"]["labels"].get(key) == value for key, value in pairs(label_selector, "="))
            and all(field(pod, path) != value for path, value in pairs(field_selector, "!="))
        )


def pairs(selector: str, operator: str) -> t.Iterator[tuple[str, str]]:
    for clause in filter(None, selector.split(",")):
        key, value = clause.split(operator)
        yield key, value


def field(pod: Object, path: str) -> t.Any:
    first, second = path.split(".")
    return pod[first].get(second, "")


def gpus_of(*names: str, accelerator: str = "nvidia", replaced_pods: t.Optional[dict[str, str]] = None) -> list[Gpus]:
    kube = t.cast(Kube, Cluster(*names))
    return cluster_gpus(kube, accelerator, GPU_TAINT_TOLERATED, lambda: pods_that_make_room(kube, **replaced_pods) if replaced_pods else ())


def verdict(*names: str, accelerator: str = "nvidia", **request: t.Any) -> dict[str, t.Any]:
    return check(gpus_of(*names, accelerator=accelerator), Request(**request), cluster_place(accelerator))


def failure(*names: str, **request: t.Any) -> ServingError:
    with pytest.raises(ServingError) as caught:
        verdict(*names, **request)
    return caught.value


def reason(name: str, **request: t.Any) -> str:
    """Return why the only group of GPUs of a node is not usable."""
    [reason] = judge(gpus_of(name), Request(**request)).reasons
    return reason


# -- reading a cluster -------------------------------------------------------------------------------------------------


def test_labels_become_product_memory_and_capability() -> None:
    [row] = verdict("a100-80-a", min_memory_gb=80)["gpus"]
    assert row == {
        "node": "a100-80-a",
        "product": "NVIDIA-A100-SXM4-80GB",
        "memory_mib": 81920,
        "memory_gb": 85.9,
        "compute_capability": "8.0",
        "count": 4,
        "free": 2,
        "sharing": "none",
        "mig": None,
        "usable": True,
        "reason": "",
    }


@pytest.mark.parametrize(
    ("node", "free"),
    [
        ("a100-80-a", 2),  # two containers of one pod; neither finished pods nor those of other nodes
        ("a100-80-b", 1),  # two of the engine, one of a Pending pod that is bound
        ("h100", 3),  # an init container that asks for three; a container with its sidecar
        ("a100-40", 2),
    ],
)
def test_free_is_what_no_pod_holds(node: str, free: int) -> None:
    assert gpus_of(node)[0].free == free


def test_replaced_pods_make_room() -> None:
    replaced = {"namespace": "chatbot", "label_selector": "app=vllm-backend"}
    assert gpus_of("a100-80-b", replaced_pods=replaced)[0].free == 3
    assert gpus_of("a100-80-b", replaced_pods={**replaced, "namespace": "other"})[0].free == 1


def test_more_requests_than_allocatable_is_not_less_than_none_free() -> None:
    node = json.loads(json.dumps(NODES["a100-80-b"]))
    node["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    cluster = Cluster()
    cluster.nodes = [node]
    assert cluster_gpus(t.cast(Kube, cluster))[0].free == 0


def test_only_nodes_that_the_pods_select_are_looked_at() -> None:
    name, other = "a100-80-a", "a100-80-b"
    selector = {"kubernetes.io/hostname": NODES[name]["metadata"]["labels"]["kubernetes.io/hostname"]}
    cluster = t.cast(Kube, Cluster(name, other))
    assert {gpus.node for gpus in cluster_gpus(cluster, node_selector=selector)} == {name}


def test_pods_are_not_listed_where_there_are_no_gpus() -> None:
    cluster = Cluster("cpu-1", "no-plugin")
    cluster_gpus(t.cast(Kube, cluster))
    assert cluster.asked == ["/api/v1/nodes"]


@pytest.mark.parametrize(
    ("init", "containers", "held"),
    [
        ([], [2, 1], 3),
        ([(4, None)], [2, 1], 4),
        ([(1, None), (2, None)], [1], 2),
        ([(1, "Always")], [2], 3),
        ([(1, "Always"), (3, None)], [2], 4),  # the sidecar runs while the ordinary one does
        ([(3, None), (1, "Always")], [2], 3),  # here it does not yet
    ],
)
def test_requests_of_a_pod(init: list[tuple[int, t.Optional[str]]], containers: list[int], held: int) -> None:
    def container(amount: int, policy: t.Optional[str] = None) -> Object:
        return {"restartPolicy": policy, "resources": {"requests": {"nvidia.com/gpu": str(amount), "cpu": "500m"}}}

    spec = {"initContainers": [container(*one) for one in init], "containers": [container(one) for one in containers]}
    assert pod_requests(spec, "nvidia.com/gpu") == {"nvidia.com/gpu": held}


def test_thousands_of_shared_gpus_are_written_with_a_suffix() -> None:
    spec = {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "2k"}}}]}
    assert pod_requests(spec, "nvidia.com/gpu") == {"nvidia.com/gpu": 2000}


# -- who holds them ----------------------------------------------------------------------------------------------------


def test_who_holds_gpus_is_told_of_nodes_that_could_serve() -> None:
    result = verdict("a100-80-a", "a100-40", min_memory_gb=80)
    assert result["holders"] == [
        {
            "kind": "pod",
            "name": "two-containers",
            "namespace": "team",
            "node": "a100-80-a",
            "gpus": 2,
            "text": "team/two-containers (2 GPUs of a100-80-a)",
        }
    ]
    assert result["holders_total"] == 1
    assert [holder["name"] for holder in verdict("h100", "a100-80-b", min_memory_gb=80)["holders"]] == [
        "init-peak",
        "engine",
        "sidecars",
        "pending-bound",
    ]


def test_what_makes_room_holds_nothing() -> None:
    [row] = gpus_of("a100-80-b", replaced_pods={"namespace": "chatbot", "label_selector": "app=vllm-backend"})
    assert [holder.title for holder in row.holders] == ["team/pending-bound"]


def test_nothing_is_kept_of_pods_where_none_can_be_placed() -> None:
    node = json.loads(json.dumps(NODES["a100-80-b"]))
    node["spec"]["unschedulable"] = True
    cluster = Cluster()
    cluster.nodes = [node]
    [row] = cluster_gpus(t.cast(Kube, cluster))
    assert (row.free, row.holders) == (1, [])


def test_pods_are_folded_one_by_one() -> None:
    class Pod(dict[str, t.Any]):
        """A pod that can be seen going."""

    alive: list[weakref.ref[Pod]] = []

    class Big(Cluster):
        def list(self, path: str, label_selector: str = "", field_selector: str = "", missing_ok: bool = True) -> t.Iterator[Object]:
            if path == "/api/v1/nodes":
                yield from super().list(path, label_selector, field_selector, missing_ok)
                return
            for number in range(100):
                made = Pod(
                    metadata={"name": f"pod-{number}", "namespace": "ml", "uid": str(number)},
                    spec={"nodeName": "a100-80-a", "containers": [{"resources": {"requests": {"nvidia.com/gpu": str(number % 2)}}}]},
                )
                alive.append(weakref.ref(made))
                yield made
                del made
                gc.collect(0)
                assert sum(ref() is not None for ref in alive) <= 1

    [row] = cluster_gpus(t.cast(Kube, Big("a100-80-a")), tolerations=GPU_TAINT_TOLERATED)
    assert len(alive) == 100
    assert [holder.name for holder in row.holders] == [f"pod-{number}" for number in range(1, 100, 2)]


def rows_with(holders: dict[str, list[tuple[str, int]]], **fields: t.Any) -> list[Gpus]:
    """Rows of eight GPUs, none of them free, each with these pods on it."""
    rows = [Gpus(node, "H100", 8, 0, 81559, "9.0", **fields) for node in holders]
    for gpus in rows:
        gpus.holders = [Holder("pod", name, "ml", gpus.node, number) for name, number in holders[gpus.node]]
    return rows


@pytest.mark.parametrize(
    ("holders", "words"),
    [
        ({"gpu-a": [("train-0", 4)]}, "ml/train-0 (4) on gpu-a"),
        ({"gpu-a": [("train-1", 2), ("train-0", 4)]}, "ml/train-0 (4) and ml/train-1 (2) on gpu-a"),
        ({"gpu-a": [("a", 1), ("c", 4)], "gpu-b": [("b", 2)]}, "ml/c (4) and ml/a (1) on gpu-a and ml/b (2) on gpu-b"),
        (
            {"gpu-a": [("a", 8)], "gpu-b": [("b", 2), ("c", 2), ("d", 1), ("e", 1)]},
            "ml/a (8) on gpu-a, ml/b (2) and ml/c (2) on gpu-b and 2 more",
        ),
    ],
)
def test_the_largest_are_named(holders: dict[str, list[tuple[str, int]]], words: str) -> None:
    with pytest.raises(ServingError, match="GPU check") as caught:
        check(rows_with(holders), Request(80), cluster_place("nvidia"))
    assert f"they are held by {words}: remove such a pod, or wait." in str(caught.value)


def test_a_big_cluster_has_more_than_are_named() -> None:
    rows = rows_with({f"gpu-{node}": [(f"pod-{node}-{number}", 1) for number in range(8)] for node in range(500)})
    with pytest.raises(ServingError, match=r"and 3997 more: remove") as caught:
        check(rows, Request(80), cluster_place("nvidia"))
    assert (len(caught.value.details["holders"]), caught.value.details["holders_total"]) == (20, 4000)
    assert len(str(caught.value)) < 600


def test_pods_on_the_same_cards_are_named_though_there_is_room() -> None:
    [row] = rows_with({"gpu-a": [("train-0", 1)]}, sharing="mps", shared_by=4)
    row.free = 7
    result = check([row], Request(80), cluster_place("nvidia"))
    assert result["summary"].endswith("(80 GB, 7 free); on the same cards: ml/train-0 (1) on gpu-a")
    row.sharing = "none"
    assert "train-0" not in check([row], Request(80), cluster_place("nvidia"))["summary"]


def test_pods_on_cards_without_memory_of_their_own_are_named() -> None:
    [row] = rows_with({"gpu-a": [("train-0", 1)]}, sharing="time-slicing", shared_by=8)
    row.free = 7
    with pytest.raises(ServingError, match=r"Cards that are shared are in use by ml/train-0 \(1\) on gpu-a\. llm_min_gpu") as caught:
        check([row], Request(80), cluster_place("nvidia"))
    assert [holder["name"] for holder in caught.value.details["holders"]] == ["train-0"]
    row.obstacle = "cordoned"
    with pytest.raises(ServingError) as caught:
        check([row], Request(80), cluster_place("nvidia"))
    assert "train-0" not in str(caught.value)
    assert caught.value.details["holders"] == []


# -- judging nodes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ("cordoned", "cordoned"),
        ("not-ready", "not ready"),
        ("dedicated", "taint dedicated=training:NoExecute is not tolerated"),
        ("a100-40", "less than 80 GB"),
        ("no-labels", "memory unknown"),
        ("time-sliced", "each card shared by 4 (time-slicing), no memory of its own"),
        ("mps", "less than 80 GB"),
        ("no-plugin", "offers no nvidia.com/gpu: its device plugin does not run, its cards are unhealthy, or it uses DRA"),
        ("h100", ""),
    ],
)
def test_reasons(node: str, why: str) -> None:
    assert reason(node, min_memory_gb=80) == why


def test_all_reasons_are_told() -> None:
    assert reason("cordoned", min_memory_gb=100) == "cordoned, less than 100 GB"


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "dedicated", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "dedicated", "value": "training"}, True),
        ({"key": "dedicated", "operator": "Equal", "value": "training", "effect": "NoExecute"}, True),
        ({"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}, False),
        ({"key": "dedicated", "value": "serving"}, False),
        ({"key": "dedicated", "operator": "Gt", "value": "training"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration: dict[str, str], tolerated: bool) -> None:
    assert (node_obstacle(NODES["dedicated"], [toleration]) == "") is tolerated


def test_the_taint_of_gpu_nodes_needs_its_toleration() -> None:
    assert node_obstacle(NODES["a100-40"], []) == "taint nvidia.com/gpu=present:NoSchedule is not tolerated"
    assert node_obstacle(NODES["a100-40"], GPU_TAINT_TOLERATED) == ""


def test_a_cordon_is_tolerated_as_the_scheduler_does() -> None:
    assert node_obstacle(NODES["cordoned"], [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]) == ""


def test_nothing_tolerates_a_node_that_is_not_ready() -> None:
    assert node_obstacle(NODES["not-ready"], [{"operator": "Exists"}]) == "not ready"


# -- shared cards and slices -------------------------------------------------------------------------------------------


def test_time_slicing_does_not_divide_memory_and_meets_no_minimum() -> None:
    error = failure("time-sliced", min_memory_gb=1)
    [row] = error.details["gpus"]
    assert (row["sharing"], row["memory_mib"], row["count"]) == ("time-slicing", 81920, 4)
    assert error.details["largest_min_gb"] is None
    assert "llm_min_gpu_memory_gb: 0 would pass; it does not look at memory." in str(error)
    assert verdict("time-sliced", min_memory_gb=0)["replicas_possible"] == 4


def test_renamed_shares_are_found_but_pods_do_not_ask_for_them() -> None:
    [row] = failure("time-sliced-renamed", min_memory_gb=0).details["gpus"]
    assert (row["sharing"], row["count"], row["usable"]) == ("time-slicing", 4, False)
    assert row["reason"] == "offered as nvidia.com/gpu.shared, not as nvidia.com/gpu"


def test_mps_divides_memory() -> None:
    [row] = verdict("mps", min_memory_gb=40)["gpus"]
    assert (row["sharing"], row["memory_mib"], row["usable"]) == ("mps", 40960, True)


@pytest.mark.parametrize("node", ["time-sliced", "mps"])
def test_two_shares_may_be_the_same_card(node: str) -> None:
    assert reason(node, min_memory_gb=0, gpus_per_node=2).endswith("two may be the same card")


def test_a_single_strategy_slice_has_its_own_memory() -> None:
    [row] = verdict("mig-single", min_memory_gb=5)["gpus"]
    assert (row["mig"], row["memory_mib"], row["compute_capability"], row["count"]) == ("1g.5gb", 4864, "8.0", 14)
    assert failure("mig-single", min_memory_gb=40).details["largest_min_gb"] == 5
    assert reason("mig-single", min_memory_gb=0, gpus_per_node=2) == "MIG slices cannot work together"


def test_mixed_strategy_slices_are_reported_and_never_counted() -> None:
    result = verdict("mig-mixed", min_memory_gb=30)
    whole, slices = result["gpus"]
    assert (whole["count"], whole["free"], whole["mig"]) == (1, 1, None)
    assert (slices["count"], slices["free"], slices["mig"], slices["memory_mib"]) == (2, 1, "3g.40gb", 40192)
    assert slices["reason"] == "offered as nvidia.com/mig-3g.40gb, not as nvidia.com/gpu"
    assert result["eligible"] == [whole]
    assert result["replicas_possible"] == 1


def test_amd_memory_is_labelled_in_gib() -> None:
    [row] = verdict("mi300x", accelerator="amd", min_memory_gb=192)["gpus"]
    assert (row["product"], row["memory_mib"], row["free"], row["compute_capability"]) == ("AMD_Instinct_MI300X_OAM", 196608, 5, None)
    [old] = verdict("mi210", accelerator="amd", min_memory_gb=64)["gpus"]
    assert (old["product"], old["memory_mib"]) == ("amd.com/gpu", 65536)


def test_each_accelerator_counts_its_own() -> None:
    assert gpus_of("mi300x") == []
    assert gpus_of("h100", accelerator="amd") == []


# -- what passes -------------------------------------------------------------------------------------------------------


def test_gpus_of_a_replica_are_on_one_node() -> None:
    assert verdict("a100-80-a", "a100-80-b", min_memory_gb=80, gpus_per_node=2)["fits"] == ["a100-80-a"]
    error = failure("a100-80-a", "a100-80-b", min_memory_gb=80, gpus_per_node=5)
    assert "needed on one node" in error.details["gpus"][0]["reason"]
    assert "No usable node has more than 2 of them free." in str(error)
    assert error.details["replicas_possible"] == 0


def test_replicas_may_spread_over_nodes() -> None:
    assert verdict("a100-80-a", "h100", min_memory_gb=80, gpus_per_node=2, replicas=2)["replicas_possible"] == 2
    assert verdict("a100-80-b", "h100", min_memory_gb=80, gpus_per_node=2)["replicas_possible"] == 1  # 1 and 3 free
    error = failure("a100-80-a", "h100", min_memory_gb=80, gpus_per_node=2, replicas=3)
    assert "3 times 2 GPUs of at least 80 GB on one node were asked for; there is room for 2; found 12 on 2 nodes" in str(error)


def test_eligible_does_not_mind_who_holds_them() -> None:
    error = failure("a100-80-b", "a100-40", min_memory_gb=80, gpus_per_node=4)
    assert [row["node"] for row in error.details["eligible"]] == ["a100-80-b"]
    assert (
        "Enough of them exist, but they are held by chatbot/engine (2) and team/pending-bound (1) on a100-80-b: remove such a pod, or wait."
        in str(error)
    )


def test_eligible_is_only_what_could_serve_a_whole_replica() -> None:
    result = verdict("a100-40", "h100", min_memory_gb=0, gpus_per_node=3)
    assert [row["compute_capability"] for row in result["eligible"]] == ["9.0"]
    assert result["gpus"][0]["reason"] == "2 of the 3 GPUs that are needed on one node"


@pytest.mark.parametrize(
    ("node", "minimum", "passes"), [("h100", 80, True), ("h100", 85, True), ("h100", 86, False), ("a100-40", 40, True)]
)
def test_a_minimum_is_decimal_gb(node: str, minimum: float, passes: bool) -> None:
    assert (reason(node, min_memory_gb=minimum) == "") is passes


def test_zero_does_not_look_at_memory_but_counts() -> None:
    assert verdict("no-labels", min_memory_gb=0)["fits"] == ["no-labels"]
    assert failure("no-labels", min_memory_gb=0, gpus_per_node=3).details["fits"] == []


@pytest.mark.parametrize(
    ("nodes", "request_", "largest"),
    [
        (["a100-40", "a100-80-a"], {}, 80),
        (["a100-40", "a100-80-a"], {"replicas": 3}, 40),
        (["h100", "a100-80-b"], {"gpus_per_node": 3}, 80),
        (["no-labels"], {}, None),
        (["cordoned"], {}, None),
    ],
)
def test_largest_minimum_that_passes(nodes: list[str], request_: dict[str, int], largest: t.Optional[int]) -> None:
    assert check_anyway(nodes, Request(min_memory_gb=500, **request_))["largest_min_gb"] == largest


def check_anyway(nodes: list[str], request: Request) -> dict[str, t.Any]:
    with pytest.raises(ServingError) as caught:
        check(gpus_of(*nodes), request, cluster_place("nvidia"))
    return caught.value.details


@pytest.mark.parametrize(
    ("memory_mib", "size"),
    [
        (15360, 16),  # T4
        (23034, 24),  # L4
        (40960, 40),  # A100
        (46068, 48),  # L40S
        (81920, 80),  # A100
        (81559, 80),  # H100
        (95830, 94),  # H100 NVL
        (97887, 96),  # RTX PRO 6000
        (143771, 141),  # H200
        (183359, 180),  # B200
        (196608, 192),  # MI300X
        (4864, 5),  # MIG 1g.5gb
        (60000, 62),  # no such card
    ],
)
def test_sizes_that_cards_are_sold_by(memory_mib: int, size: int) -> None:
    assert sold_gb(memory_mib) == size


def test_the_reported_minimum_passes() -> None:
    for memory_mib in range(1000, 300000, 500):
        row = Gpus("n", "p", 1, 1, memory_mib, None)
        assert judge([row], Request(sold_gb(memory_mib))).fits == ["n"]


@pytest.mark.parametrize(
    ("product", "capability"),
    [
        ("NVIDIA-A100-SXM4-80GB", "8.0"),
        ("NVIDIA-A10", "8.6"),
        ("NVIDIA-A10G", "8.6"),
        ("NVIDIA-L4", "8.9"),
        ("NVIDIA-L40S", "8.9"),
        ("NVIDIA-RTX-6000-Ada-Generation", "8.9"),
        ("NVIDIA-RTX-A6000", "8.6"),
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("NVIDIA-GH200-480GB", "9.0"),
        ("NVIDIA-B200", "10.0"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "12.0"),
        ("Tesla-V100-SXM2-16GB", "7.0"),
        ("Tesla-T4-SHARED", "7.5"),
        ("NVIDIA-Z999", None),
    ],
)
def test_compute_capability_by_name(product: str, capability: t.Optional[str]) -> None:
    assert compute_capability(product) == capability


# -- what people read --------------------------------------------------------------------------------------------------


def test_failure_says_what_was_asked_found_and_would_pass() -> None:
    error = failure("a100-40", "cordoned", min_memory_gb=80)
    assert str(error) == (
        "GPU check: 1 GPU of at least 80 GB on one node was asked for; found 10 on 2 nodes: "
        "cordoned 8 x NVIDIA-A100-SXM4-80GB (80 GB, 8 free, cordoned); a100-40 2 x NVIDIA-A100-SXM4-40GB (40 GB, 2 free). "
        "llm_min_gpu_memory_gb: 40 would pass."
    )
    assert error.details["summary"] == str(error)


def test_success_says_where() -> None:
    assert verdict("a100-40", "a100-80-a", min_memory_gb=80, gpus_per_node=2)["summary"] == (
        "GPU check: 2 GPUs of at least 80 GB on one node: room for 1 replica: a100-80-a 4 x NVIDIA-A100-SXM4-80GB (80 GB, 2 free)"
    )


def test_missing_labels_name_the_remedy() -> None:
    message = str(failure("no-labels", min_memory_gb=24))
    assert "no-labels 2 x nvidia.com/gpu (memory unknown, 2 free)" in message
    assert "install GPU feature discovery. llm_min_gpu_memory_gb: 0 would pass" in message


def test_a_cluster_without_gpus_names_the_remedy() -> None:
    message = str(failure("cpu-1", min_memory_gb=80))
    assert "no node of the cluster offers nvidia.com/gpu. Install the NVIDIA GPU operator" in message
    assert "DRA" in message


def test_identical_nodes_are_told_together() -> None:
    rows = [Gpus(f"gpu-{n}", "L4", 8, 8, 23034, "8.9") for n in range(32)]
    rows += [Gpus("other", "T4", 1, 0, 15360, "7.5")]
    with pytest.raises(ServingError, match=r"gpu-0, gpu-1 and 30 more each 8 x L4 \(24 GB, 8 free\); other 1 x T4 \(16 GB, in use\)"):
        check(rows, Request(80), cluster_place("nvidia"))


def test_a_message_stays_short_whatever_the_cluster() -> None:
    rows = [Gpus(f"gpu-{n}", "L4", 500, n, 23034, "8.9") for n in range(500)]
    with pytest.raises(ServingError) as caught:
        check(rows, Request(80), cluster_place("nvidia"))
    assert "; and others on 494 nodes." in str(caught.value)
    assert len(str(caught.value)) < 500


# -- a host ------------------------------------------------------------------------------------------------------------


def host(name: str) -> list[Gpus]:
    return parse_nvidia_smi((FIXTURES / name).read_text(), "box")


def test_a_card_of_a_host_is_free_when_vllm_would_start_on_it() -> None:
    result = check(host("two-a100-one-busy.csv"), Request(80), host_place("box"))
    assert [(row["index"], row["memory_free_mib"], row["free"]) for row in result["gpus"]] == [(0, 81038, 1), (1, 9216, 0)]
    assert result["summary"].endswith("box 2 x NVIDIA A100-SXM4-80GB (80 GB, 1 free)")
    with pytest.raises(ServingError, match="processes hold over 8% of the memory"):
        check(host("two-a100-one-busy.csv"), Request(80, gpus_per_node=2), host_place("box"))


def test_cards_of_a_host_count_together() -> None:
    text = "".join(f"{index}, NVIDIA L4, 23034, 22500, 8.9, Disabled\n" for index in range(4))
    result = check(parse_nvidia_smi(text, "box"), Request(24, gpus_per_node=2), host_place("box"))
    assert (result["replicas_possible"], result["fits"]) == (2, ["box"])


def test_a_card_in_mig_mode_is_not_whole() -> None:
    result = check(host("mig-and-whole.csv"), Request(80), host_place("box"))
    assert [(row["mig"], row["usable"]) for row in result["gpus"]] == [("enabled", False), (None, True)]
    assert "nvidia-smi -i 0 -mig 0" in result["gpus"][0]["reason"]


def test_unified_memory_is_unknown() -> None:
    [row] = check(host("unified-memory.csv"), Request(0), host_place("box"))["gpus"]
    assert (row["memory_mib"], row["memory_free_mib"], row["free"], row["compute_capability"]) == (None, None, 1, "12.1")
    with pytest.raises(ServingError, match="llm_min_gpu_memory_gb: 0 would pass"):
        check(host("unified-memory.csv"), Request(24), host_place("box"))


def test_a_driver_without_compute_cap_leaves_the_name() -> None:
    assert host("old-driver.csv")[0].compute_capability == "7.5"


def test_no_card_names_the_host() -> None:
    with pytest.raises(ServingError, match="nvidia-smi lists no GPU on box"):
        check([], Request(0), host_place("box"))


def test_what_is_no_table_is_told_in_its_own_words() -> None:
    with pytest.raises(ServingError, match=r"does not work on box: Unable to determine the device handle for GPU0: Unknown Error\."):
        parse_nvidia_smi("Unable to determine the device handle for GPU0: Unknown Error\n", "box")


UUIDS = "0, GPU-aaaa\n1, GPU-bbbb\n"


@pytest.mark.parametrize(
    ("processes", "free_mib"),
    [
        ("GPU-bbbb, 10, 40000\nGPU-bbbb, 11, 30000\n", [81038, 79216]),
        ("GPU-bbbb, 10, 70000\n", [81038, 79216]),
        ("GPU-aaaa, 10, 882\nGPU-bbbb, 12, 70000\n", [81920, 9216]),  # 12 is of somebody else
        ("GPU-bbbb, 10, 99999\n", [81038, 81920]),
        ("GPU-bbbb, 10, [N/A]\n", [81038, 81920]),  # a driver that does not tell
        ("GPU-bbbb, [Not Found], 70000\nMIG-cccc, 10, 70000\nGPU-dddd, 10, 1\n", [81038, 9216]),
        ("NVIDIA-SMI has failed because it couldn't communicate\n\n", [81038, 9216]),
        ("", [81038, 9216]),
    ],
)
def test_what_makes_room_counts_as_free(processes: str, free_mib: list[int]) -> None:
    rows = host("two-a100-one-busy.csv")
    give_back(rows, UUIDS, processes, {10, 11})
    assert [gpus.memory_free_mib for gpus in rows] == free_mib
    assert [gpus.free for gpus in rows] == [1, int(free_mib[1] > 75367)]


@pytest.mark.parametrize("uuids", ["", "Unable to determine the device handle\n", "[N/A], GPU-bbbb\n"])
def test_without_the_names_of_gpus_nothing_is_given_back(uuids: str) -> None:
    rows = host("two-a100-one-busy.csv")
    give_back(rows, uuids, "GPU-bbbb, 10, 70000\n", {10})
    assert rows == host("two-a100-one-busy.csv")


def test_memory_that_is_unknown_stays_so() -> None:
    rows = host("unified-memory.csv")
    give_back(rows, UUIDS, "GPU-aaaa, 10, 1000\n", {10})
    assert (rows[0].memory_free_mib, rows[0].free) == (None, 1)


# nvidia-smi -q -d PIDS, driver 580: a desktop on the first GPU, an engine on the second; a process that computes and draws is listed twice
TWO_GPUS = """
==============NVSMI LOG==============

Timestamp                                 : Sat Nov 21 12:00:00 2026
Driver Version                            : 580.82.07
CUDA Version                              : 13.0

Attached GPUs                             : 3
GPU 00000000:01:00.0
    Processes
        GPU instance ID                   : N/A
        Compute instance ID               : N/A
        Process ID                        : 2553
            Type                          : G
            Name                          : /usr/lib/xorg/Xorg
            Used GPU Memory               : 310 MiB
        GPU instance ID                   : N/A
        Compute instance ID               : N/A
        Process ID                        : 100
            Type                          : C
            Name                          : /opt/x/bin/python3 train.py --ratio=1 : 2
            Used GPU Memory               : 20434 MiB
        GPU instance ID                   : N/A
        Compute instance ID               : N/A
        Process ID                        : 100
            Type                          : G
            Name                          : /opt/x/bin/python3 train.py --ratio=1 : 2
            Used GPU Memory               : 20434 MiB

GPU 00000000:02:00.0
    Processes                             : None

GPU 00000000:C1:00.0
    Processes
        GPU instance ID                   : N/A
        Compute instance ID               : N/A
        Process ID                        : 415592
            Type                          : C
            Name                          : VLLM::EngineCore
            Used GPU Memory               : 69564 MiB
"""

MIG = """
Attached GPUs                             : 1
GPU 00000000:07:00.0
    Processes
        GPU instance ID                   : 1
        Compute instance ID               : 0
        Process ID                        : 77
            Type                          : C
            Name                          : python
            Used GPU Memory               : 9800 MiB
        GPU instance ID                   : 2
        Compute instance ID               : 0
        Process ID                        : 78
            Type                          : C
            Name                          : [Not Found]
            Used GPU Memory               : N/A
"""

# WSL: what Windows runs has no memory that it tells; what WSL runs, neither
WSL = """
Driver Version                            : 465.42
Attached GPUs                             : 1
GPU 00000000:01:00.0
    Processes
        GPU instance ID                   : N/A
        Compute instance ID               : N/A
        Process ID                        : 2936
            Type                          : C+G
            Name                          : C:\\Windows\\SystemApps\\TextInputHost.exe
            Used GPU Memory               : Not available in WDDM driver model
        Process ID                        : 524
            Type                          : C+G
            Name                          : [Insufficient Permissions]
            Used GPU Memory               : N/A
        Process ID                        : 30
            Type                          : G
            Name                          : /Xwayland
            Used GPU Memory               : N/A
"""


@pytest.mark.parametrize(
    ("text", "processes"),
    [
        (
            TWO_GPUS,
            [
                GpuProcess(0, 2553, True, "/usr/lib/xorg/Xorg", 310),
                GpuProcess(0, 100, False, "/opt/x/bin/python3 train.py --ratio=1 : 2", 20434),
                GpuProcess(2, 415592, False, "VLLM::EngineCore", 69564),
            ],
        ),
        (MIG, [GpuProcess(0, 77, False, "python", 9800), GpuProcess(0, 78, False, "[Not Found]", None)]),
        (
            WSL,
            [
                GpuProcess(0, 2936, False, r"C:\Windows\SystemApps\TextInputHost.exe", None),
                GpuProcess(0, 524, False, "[Insufficient Permissions]", None),
                GpuProcess(0, 30, True, "/Xwayland", None),
            ],
        ),
        ("GPU 00000000:01:00.0\n    Processes                             : N/A\n", []),
        ("GPU 00000000:01:00.0\n        Process ID     : N/A\n            Used GPU Memory   : 5 MiB\n", []),
        ("0, NVIDIA L4, 23034, 3000, 8.9, Disabled\n", []),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", []),
        ("", []),
    ],
)
def test_processes_that_nvidia_smi_lists(text: str, processes: list[GpuProcess]) -> None:
    assert parse_processes(text) == processes


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("/usr/lib/xorg/Xorg", "Xorg"),
        ("/opt/x/bin/python3 train.py /data/set", "python3"),
        ("VLLM::EngineCore", "VLLM::EngineCore"),
        (r"C:\Windows\System32\dwm.exe", "dwm.exe"),
        ("N/A", "pt_main_thread"),
        ("[N/A]", "pt_main_thread"),
        ("", "pt_main_thread"),
        ("[Not Found]", "a process that nvidia-smi does not name"),  # its id is that of another process here
        ("[Insufficient Permissions]", "a process that nvidia-smi does not name"),
    ],
)
def test_what_people_call_a_process(told: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "100").mkdir()
    (tmp_path / "100" / "comm").write_text("pt_main_thread\n")
    assert process_name(GpuProcess(0, 100, False, told, 1), tmp_path) == name


def test_a_process_that_nobody_can_name(tmp_path: Path) -> None:
    assert process_name(GpuProcess(0, 100, False, "N/A", 1), tmp_path) == "a process that nvidia-smi does not name"


def test_processes_of_a_host_are_named_with_their_ids() -> None:
    rows = host("two-a100-one-busy.csv")
    processes = [GpuProcess(1, 42, False, "python", 40000), GpuProcess(1, 43, False, "Xorg", None), GpuProcess(1, 44, False, "own", 30000)]
    name_holders(rows, [*processes, GpuProcess(7, 45, False, "elsewhere", 1)], {44})
    with pytest.raises(ServingError, match="GPU check") as caught:
        check(rows, Request(80, gpus_per_node=2), host_place("box"))
    assert str(caught.value).endswith(
        "over 8% of the memory is held by python (pid 42, 40,000 MiB of GPU 1) and Xorg (pid 43, on GPU 1): end what need not run, or wait."
    )
    assert caught.value.details["holders"] == [
        {"kind": "process", "name": "python", "pid": 42, "gpu": 1, "memory_mib": 40000, "text": "python (pid 42, 40,000 MiB of GPU 1)"},
        {"kind": "process", "name": "Xorg", "pid": 43, "gpu": 1, "text": "Xorg (pid 43, on GPU 1)"},
    ]


def test_several_processes_are_one_list() -> None:
    holders = [Holder("process", "p", pid=number, gpu=0, memory_mib=number) for number in range(1, 6)]
    words = "p (pid 5, 5 MiB of GPU 0), p (pid 4, 4 MiB of GPU 0), p (pid 3, 3 MiB of GPU 0) and 2 more"
    assert held_by(holders) == words
