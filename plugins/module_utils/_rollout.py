# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What Deployments, Jobs and their pods say of themselves: over, under way, or failed, and why, in the cluster's own words."""

from __future__ import annotations

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._kube import Object, container_states, is_ready


def pods_of(deployment: Object, pods: t.Iterable[Object]) -> list[Object]:
    """Return those of *pods* that belong to *deployment*, by the name of their ReplicaSet."""
    return [pod for pod in pods if _replica_set_name(deployment, pod) in _owners(pod)]


def _replica_set_name(deployment: Object, pod: Object) -> str:
    return f"{deployment['metadata']['name']}-{(pod['metadata'].get('labels') or {}).get('pod-template-hash')}"


def _owners(pod: Object) -> set[str]:
    return {owner["name"] for owner in pod["metadata"].get("ownerReferences") or [] if owner.get("kind") == "ReplicaSet"}


def _condition(document: Object, name: str) -> Object:
    conditions: list[Object] = (document.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == name), {})


def rollout_pending(deployment: Object, generation: int = 0) -> str:
    """Return what is still missing of a rollout, in words; empty when every pod is of this version and available.

    *generation* is the one that the change made: an older object says nothing about it.
    """
    status = deployment.get("status") or {}
    wanted = (deployment.get("spec") or {}).get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    current = deployment["metadata"].get("generation", 0)
    if current < generation or status.get("observedGeneration", 0) < current:
        return "its change has not been taken up by the cluster yet"
    if updated < wanted:
        refused = _condition(deployment, "ReplicaFailure").get("message")
        return f"{updated} of {wanted} new pods made" + (f" ({refused})" if refused else "")
    if status.get("replicas", 0) > updated:
        return f"{status['replicas'] - updated} old pods still run"
    if available < wanted:
        return f"{available} of {wanted} pods available"
    return ""


def rollout_failure(deployment: Object, generation: int = 0) -> str:
    """Return why the rollout has been given up, empty while it has not."""
    current = deployment["metadata"].get("generation", 0)
    if current < generation or (deployment.get("status") or {}).get("observedGeneration", 0) < current:
        return ""
    progress = _condition(deployment, "Progressing")
    if progress.get("status") == "False" and progress.get("reason") == "ProgressDeadlineExceeded":
        return str(progress.get("message") or progress["reason"])
    return ""


def job_complete(job: Object) -> bool:
    """Whether *job* has done its work."""
    return _condition(job, "Complete").get("status") == "True"


def job_failure(job: Object) -> str:
    """Return why *job* failed for good, empty while it has not."""
    failed = _condition(job, "Failed")
    if failed.get("status") != "True":
        return ""
    return ": ".join(str(failed[key]) for key in ("reason", "message") if failed.get(key)) or "no reason given"


def pod_trouble(pod: Object) -> str:
    """Return what keeps *pod* from being ready, in words; empty for one that is, or that is done."""
    status = pod.get("status") or {}
    if status.get("phase") == "Succeeded" or is_ready(pod):
        return ""
    if pod["metadata"].get("deletionTimestamp"):
        return "terminating"
    if status.get("phase") == "Failed" and status.get("reason"):
        return _said(status)
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"not scheduled: {_one_line(scheduled.get('message') or scheduled.get('reason'))}"
    troubles = []
    for container in container_states(pod):
        state = container.get("state") or {}
        told = state.get("waiting") or state.get("terminated") or {}
        if told.get("reason") and told["reason"] != "Completed":
            # a container that merely waits for its turn explains nothing while another has a reason of its own
            troubles.append((told["reason"] in ("PodInitializing", "ContainerCreating"), f"container {container['name']}: {_said(told)}"))
        elif "running" in state and not container.get("ready"):
            troubles.append((False, f"container {container['name']} runs, but is not ready"))
    return min(troubles)[1] if troubles else str(status.get("phase") or "just created")


def _said(told: Object) -> str:
    """Join reason and message of a state."""
    message = _one_line(told.get("message"))[-200:]
    return f"{told['reason']} ({message})" if message else str(told["reason"])


def _one_line(text: t.Any) -> str:
    return " ".join(str(text or "").split())
