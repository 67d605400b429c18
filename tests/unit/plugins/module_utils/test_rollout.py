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
