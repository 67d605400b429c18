# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Deployments, Jobs and pods say of themselves."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _rollout
from ansible_collections.llmops.serving.plugins.module_utils._kube import Object


def document(kind: str, **fields: t.Any) -> Object:
    metadata = {"name": "x", **fields.pop("metadata", {})}
    return {"kind": kind, "metadata": metadata, **fields}


def rollout(replicas: int = 2, generation: int = 3, **status: t.Any) -> Object:
    counts = {"observedGeneration": 3, "replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas}
    return document("Deployment", metadata={"generation": generation}, spec={"replicas": replicas}, status={**counts, **status})


def condition(name: str, status: str = "True", **words: str) -> list[dict[str, str]]:
    return [{"type": name, "status": status, **words}]


@pytest.mark.parametrize(
    ("deployment", "words"),
    [
        (rollout(), ""),
        (rollout(replicas=0), ""),
        (rollout(generation=4), "its change has not been taken up by the cluster yet"),
        (rollout(updatedReplicas=1), "1 of 2 new pods made"),
        (
            rollout(updatedReplicas=0, conditions=condition("ReplicaFailure", message="exceeded quota")),
            "0 of 2 new pods made (exceeded quota)",
        ),
        (document("Deployment"), "0 of 1 new pods made"),
        (rollout(availableReplicas=1), "1 of 2 pods available"),
    ],
)
def test_rollout_pending(deployment: Object, words: str) -> None:
    assert _rollout.rollout_pending(deployment) == words


def test_old_pods_are_part_of_a_rollout() -> None:
    deployment = rollout()
    deployment["status"]["replicas"] = 3
    assert _rollout.rollout_pending(deployment) == "1 old pods still run"


def test_an_older_object_says_nothing_about_the_change() -> None:
    given_up = condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="timed out")
    deployment = rollout(conditions=given_up)
    assert _rollout.rollout_failure(deployment) == "timed out"
    assert _rollout.rollout_failure(deployment, generation=4) == ""
    assert _rollout.rollout_pending(deployment, generation=4) == "its change has not been taken up by the cluster yet"
    assert _rollout.rollout_failure(rollout(generation=4, conditions=given_up)) == ""
    assert _rollout.rollout_failure(rollout(conditions=condition("Progressing", "True", reason="NewReplicaSetAvailable"))) == ""


@pytest.mark.parametrize(
    ("conditions", "complete", "failure"),
    [
        ([], False, ""),
        (condition("Complete"), True, ""),
        (condition("Complete", "False"), False, ""),
        (condition("Failed", reason="DeadlineExceeded", message="too long"), False, "DeadlineExceeded: too long"),
        (condition("Failed"), False, "no reason given"),
        (condition("Suspended"), False, ""),
    ],
)
def test_job_states(conditions: list[dict[str, str]], complete: bool, failure: str) -> None:
    job = document("Job", status={"conditions": conditions})
    assert (_rollout.job_complete(job), _rollout.job_failure(job)) == (complete, failure)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"phase": "Succeeded", "containerStatuses": [{"name": "c", "state": {"terminated": {"reason": "Completed"}}}]}, ""),
        ({"containerStatuses": [{"name": "c", "ready": True, "state": {"running": {}}}]}, "just created"),
        ({"containerStatuses": [{"name": "c", "ready": False, "state": {"running": {}}}]}, "container c runs, but is not ready"),
        (
            {"conditions": condition("PodScheduled", "False", message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")},
            "not scheduled: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        ),
        (
            {
                "initContainerStatuses": [
                    {"name": "fetch", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}}
                ],
                "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "PodInitializing"}}}],
            },
            "container fetch: CrashLoopBackOff (back-off 10s)",
        ),
        ({"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, "container c: ContainerCreating"),
        ({"containerStatuses": [{"name": "c", "state": {"terminated": {"reason": "OOMKilled"}}}]}, "container c: OOMKilled"),
        ({}, "just created"),
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Running", "conditions": condition("Ready")}, ""),
        ({"phase": "Failed", "reason": "Evicted", "message": "The node was\nlow on memory."}, "Evicted (The node was low on memory.)"),
    ],
)
def test_pod_trouble(status: Object, words: str) -> None:
    assert _rollout.pod_trouble(document("Pod", status=status)) == words


def test_a_pod_that_goes_is_not_ready() -> None:
    going = document("Pod", metadata={"deletionTimestamp": "now"}, status={"phase": "Running", "conditions": condition("Ready")})
    assert _rollout.pod_trouble(going) == "terminating"


# --- whose pods, and what they tell ----------------------------------------------------------------------------------------------------


def owned(kind: str, name: str, owner: str, made: str = "1", **metadata: t.Any) -> Object:
    reference = {"kind": {"ReplicaSet": "Deployment", "Pod": "ReplicaSet"}[kind], "name": owner, "uid": f"uid-{owner}"}
    metadata = {"name": name, "uid": f"uid-{name}", "ownerReferences": [reference], "creationTimestamp": made, **metadata}
    return document(kind, metadata=metadata)


def revised(number: str) -> Object:
    return {"annotations": {"deployment.kubernetes.io/revision": number}}


def test_pods_of_the_present_template_come_newest_first() -> None:
    deployment = document("Deployment", metadata={"name": "engine", "uid": "uid-engine", **revised("2")})
    sets = [owned("ReplicaSet", f"engine-{number}", "engine", **revised(number)) for number in ("1", "2")]
    theirs = owned("ReplicaSet", "page-2", "page", **revised("2"))
    pods = [owned("Pod", f"{name}-{made}", name, made) for name in ("engine-1", "engine-2", "page-2") for made in ("1", "2")]
    current = _rollout.current_sets(deployment, [*sets, theirs])
    assert current == [sets[1]]
    assert [pod["metadata"]["name"] for pod in _rollout.pods_of_sets(current, pods)] == ["engine-2-2", "engine-2-1"]


def test_a_template_without_a_number_has_no_replica_set_yet() -> None:
    deployment = document("Deployment", metadata={"name": "engine", "uid": "uid-engine"})
    assert _rollout.current_sets(deployment, [owned("ReplicaSet", "engine-1", "engine")]) == []


def test_pods_of_a_job_are_not_those_of_the_job_before() -> None:
    labels = {"labels": {"job-name": "fetch"}}
    pods = [owned("Pod", "fetch-a", "before", **labels), owned("Pod", "fetch-b", "now", "2", **labels), owned("Pod", "other", "now")]
    pods.append(owned("Pod", "fetch-c", "now", "3", **labels))
    assert [pod["metadata"]["name"] for pod in _rollout.pods_of_job("fetch", "uid-now", pods)] == ["fetch-c", "fetch-b"]


@pytest.mark.parametrize(
    ("generation", "seen", "asked", "answer"),
    [(3, 3, 0, True), (3, 3, 3, True), (3, 2, 0, False), (3, 3, 4, False), (4, 4, 3, True)],
)
def test_taken_up(generation: int, seen: int, asked: int, answer: bool) -> None:
    deployment = document("Deployment", metadata={"generation": generation}, status={"observedGeneration": seen})
    assert _rollout.taken_up(deployment, asked) is answer


def exit_of(code: int, reason: str = "Error", key: str = "state", phase: str = "Failed", init: bool = False) -> Object:
    container = {"name": "prepare" if init else "main", key: {"terminated": {"exitCode": code, "reason": reason}}}
    return document("Pod", status={"phase": phase, "initContainerStatuses" if init else "containerStatuses": [container]})


@pytest.mark.parametrize(
    ("pod", "container", "left"),
    [
        (exit_of(3), "main", True),
        (exit_of(3, init=True), "prepare", True),
        (exit_of(3, key="lastState", phase="Running"), "main", True),
        (exit_of(1), "", True),
        (exit_of(1, key="lastState", phase="Running"), "", True),
        (exit_of(137), "", True),
        (exit_of(137, "OOMKilled"), "", False),
        (exit_of(128, "StartError"), "", False),
        (exit_of(0, "Completed", phase="Running"), "", False),
        (document("Pod", status={"phase": "Failed", "reason": "Evicted"}), "", True),
        (document("Pod", status={"phase": "Pending"}), "", False),
        (document("Pod"), "", False),
    ],
)
def test_how_the_pod_of_a_job_ended(pod: Object, container: str, left: bool) -> None:
    assert (_rollout.given_up(pod), _rollout.left_to_job(pod)) == (container, left)


@pytest.mark.parametrize(
    ("dying", "node", "state", "matters"),
    [
        (True, "gpu-1", {"waiting": {"reason": "ErrImageNeverPull"}}, False),
        (False, "gpu-1", {"waiting": {"reason": "ErrImageNeverPull"}}, True),
        (True, "gpu-1", {"waiting": {"reason": "ContainerCreating"}}, True),
        (True, "gpu-1", {"running": {}}, True),
        (True, "gpu-1", {"terminated": {"exitCode": 1}}, True),
        (True, "gpu-1", {}, True),
        (True, "", {}, False),
    ],
)
def test_a_deleted_pod_that_could_not_be_started_is_not_waited_for(dying: bool, node: str, state: Object, matters: bool) -> None:
    metadata = {"deletionTimestamp": "now"} if dying else {}
    pod = document("Pod", metadata=metadata, spec={"nodeName": node}, status={"containerStatuses": [{"name": "c", "state": state}]})
    assert bool(_rollout.still_matter([pod])) is matters


def test_the_container_that_runs_is_the_one_that_prepares_as_long_as_it_does() -> None:
    prepare, main = {"name": "prepare", "state": {"running": {}}}, {"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}
    pod = document("Pod", status={"initContainerStatuses": [prepare], "containerStatuses": [main]})
    assert _rollout.running_container(pod) == "prepare"
    prepare["state"] = {"terminated": {"exitCode": 0}}
    assert _rollout.running_container(pod) == ""
    main["state"] = {"running": {}}
    assert _rollout.running_container(pod) == "main"


@pytest.mark.parametrize(("log", "line"), [("a\nb \n\n  \n", "b"), ("", ""), ("\n \n", ""), ("one", "one")])
def test_last_line(log: str, line: str) -> None:
    assert _rollout.last_line(log) == line
