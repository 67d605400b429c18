# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What Deployments, Jobs and their pods say of themselves: over, under way, or failed, and why, in the cluster's own words."""

from __future__ import annotations

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._kube import Object, container_states, is_ready

# The exit code by which a script of this collection says that neither time nor another try can mend it. Its last line says what can.
GIVEN_UP = 3
_REVISION = "deployment.kubernetes.io/revision"


def pods_of(deployment: Object, pods: t.Iterable[Object]) -> list[Object]:
    """Return those of *pods* that belong to *deployment*, by the name of their ReplicaSet."""
    return [pod for pod in pods if _replica_set_name(deployment, pod) in _owners(pod)]


def _replica_set_name(deployment: Object, pod: Object) -> str:
    return f"{deployment['metadata']['name']}-{(pod['metadata'].get('labels') or {}).get('pod-template-hash')}"


def _owners(pod: Object) -> set[str]:
    return {owner["name"] for owner in pod["metadata"].get("ownerReferences") or [] if owner.get("kind") == "ReplicaSet"}


def current_sets(deployment: Object, replica_sets: t.Iterable[Object]) -> list[Object]:
    """Return those of *replica_sets* that stand for the present pod template of *deployment*: one, or none yet.

    To be asked only when its change is ``taken_up``.
    """
    return [document for document in replica_sets if _is_current(document, deployment)]


def pods_of_sets(replica_sets: t.Iterable[Object], pods: t.Iterable[Object]) -> list[Object]:
    """Return those of *pods* that belong to one of *replica_sets*, the newest first."""
    names = {document["metadata"]["name"] for document in replica_sets}
    return newest_first(pod for pod in pods if _owners(pod) & names)


def revision(document: Object) -> str:
    """Return the number that the cluster gave to the pod template of a Deployment or ReplicaSet, empty while it has none."""
    return str((document["metadata"].get("annotations") or {}).get(_REVISION, ""))


def _is_current(replica_set: Object, deployment: Object) -> bool:
    owners = {owner.get("uid") for owner in replica_set["metadata"].get("ownerReferences") or []}
    return deployment["metadata"].get("uid") in owners and revision(replica_set) == revision(deployment) != ""


def pods_of_job(name: str, uid: t.Optional[str], pods: t.Iterable[Object]) -> list[Object]:
    """Return those of *pods* that the Job called *name* made, the newest first. Pods of an earlier Job of this name do not count."""
    found = []
    for pod in pods:
        owners = {owner.get("uid") for owner in pod["metadata"].get("ownerReferences") or []}
        if (pod["metadata"].get("labels") or {}).get("job-name") == name and (not owners or uid in owners):
            found.append(pod)
    return newest_first(found)


def newest_first(pods: t.Iterable[Object]) -> list[Object]:
    """Return *pods* by the time at which they were made."""
    return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)


def _condition(document: Object, name: str) -> Object:
    conditions: list[Object] = (document.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == name), {})


def taken_up(deployment: Object, generation: int = 0) -> bool:
    """Whether what *deployment* says of itself is about this version. *generation* is the one that the change made."""
    current = deployment["metadata"].get("generation", 0)
    return bool(generation <= current <= (deployment.get("status") or {}).get("observedGeneration", 0))


def rollout_pending(deployment: Object, generation: int = 0) -> str:
    """Return what is still missing of a rollout, in words; empty when every pod is of this version and available.

    *generation* is the one that the change made: an older object says nothing about it.
    """
    status = deployment.get("status") or {}
    wanted = (deployment.get("spec") or {}).get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if not taken_up(deployment, generation):
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
    if not taken_up(deployment, generation):
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


def given_up(pod: Object) -> str:
    """Return the container of a Job's *pod* that ended with GIVEN_UP, empty when none did."""
    return next((name for name, ended in _ends(pod) if ended.get("exitCode") == GIVEN_UP), "")


def left_to_job(pod: Object) -> bool:
    """Whether a Job's *pod* failed in a way that its Job answers with another try: the program itself ended with an error, or was moved.

    A container that never ran, or was killed for its memory, is no such case: another try ends the same way.
    """
    ends = [ended for _name, ended in _ends(pod) if ended.get("exitCode")]
    if any(ended.get("reason") not in (None, "Error") for ended in ends):
        return False
    return bool(ends) or (pod.get("status") or {}).get("phase") == "Failed"


def _ends(pod: Object) -> t.Iterator[tuple[str, Object]]:
    """Yield name and state of each container of *pod* that has ended, those that run again included."""
    for container in container_states(pod):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if state.get("terminated"):
                yield container["name"], state["terminated"]


def still_matter(pods: t.Iterable[Object]) -> list[Object]:
    """Return those of *pods*, which are to go, that may still run. One that could not be started is slow to go, and does no harm."""
    return [pod for pod in pods if not (pod["metadata"].get("deletionTimestamp") and _never_ran(pod))]


def _never_ran(pod: Object) -> bool:
    states = [container.get("state") or {} for container in container_states(pod)]
    stuck = [(state.get("waiting") or {}).get("reason") for state in states]
    if any("running" in state or "terminated" in state for state in states):
        return False
    return not (pod.get("spec") or {}).get("nodeName") or any(
        reason not in (None, "PodInitializing", "ContainerCreating") for reason in stuck
    )


def running_container(pod: Object) -> str:
    """Return the container of *pod* that runs and is to be listened to: the one that prepares, else the first; empty when none runs."""
    return next((container["name"] for container in container_states(pod) if "running" in (container.get("state") or {})), "")


def last_line(log: str) -> str:
    """Return the last line of *log* that says something."""
    return next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")


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
