# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Why an engine or a router does not come up: what is wrong, where, since when, and what to do. Pure predicates over the cluster's objects.

A verdict that is certain ends a wait; the others are told while it goes on.
The words by which causes are known are in _failure_signs.py. How the scheduler and the volume controller speak, in 1.20 and now:
pkg/scheduler/framework/plugins and pkg/controller/volume/persistentvolume of Kubernetes.
"""

from __future__ import annotations

import collections
import datetime
import functools
import itertools
import re
import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._failure_signs import (
    CONFIG_SIGNS,
    IMAGE_SIGNS,
    LOG_SIGNS,
    REFUSAL_SIGNS,
    ROUTER_ADVICE,
    START_SIGNS,
    LogCause,
    recognise,
)
from ansible_collections.llmops.serving.plugins.module_utils._gpu import node_obstacle
from ansible_collections.llmops.serving.plugins.module_utils._kube import container_states, is_ready
from ansible_collections.llmops.serving.plugins.module_utils._logs import LONGEST_LINE, error_texts
from ansible_collections.llmops.serving.plugins.module_utils._progress import duration
from ansible_collections.llmops.serving.plugins.module_utils._quantity import quantity_bytes

if t.TYPE_CHECKING:
    from ansible_collections.llmops.serving.plugins.module_utils._kube import Object

# Name of the pod, name of the container, whether the log of its previous run is meant.
LogOf = t.Callable[[str, str, bool], str]

# How long an autoscaler that nobody knows of gets to show itself, and a provisioner to say that it is at work.
AUTOSCALER_S = 60
PROVISIONER_S = 30
# A container that ran longer than this has served: its end says little about the next start.
SERVED_S = 3600
# With what a program ends that Kubernetes has told to: by itself, or by SIGKILL or SIGTERM.
SIGNAL_CODES = (0, 137, 143)
# How many failures in a row may still heal, of causes that are not certain at once. What is not here heals, however often it comes.
PATIENCE = {
    "crashed": 1,
    "killed": 1,
    "cuda-error": 1,
    "nccl": 1,
    "container-not-created": 1,
    "evicted": 1,
    "liveness-probe": 1,
    "gpu-memory-taken": 2,
    "host-memory-taken": 2,
}


class Verdict(t.NamedTuple):
    """What is wrong. ``certain``: waiting cannot mend it.

    ``cause`` is a word that does not change, ``what`` a sentence without a full stop, ``where`` the object ("container vllm of pod x"),
    ``since`` an RFC 3339 time or empty, ``log`` the decisive line of the log or empty, ``advice`` what to do now.
    """

    cause: str
    what: str
    where: str
    since: str
    log: str
    advice: str
    certain: bool

    def text(self, now: t.Optional[float] = None) -> str:
        """Return all of it in words. *now*, in seconds since 1970, adds how long it has been so."""
        container = re.fullmatch(r"container (\S+) of pod (\S+)", self.where)
        where = f"{container[2]}, container {container[1]}" if container else self.where
        began = _seconds(self.since)
        age = f" (for {duration(now - began)})" if now is not None and began is not None else ""
        log = f' Its log: "{self.log}".' if self.log else ""
        advice = f" {self.advice.rstrip('.')}." if self.advice else ""
        return f"{where}: {self.what}{age}.{log}{advice}"


class Surroundings(t.NamedTuple):
    """What is around the pods: ``nodes`` and ``classes`` (StorageClasses) are None where nobody may look at them.

    ``autoscaler``: whether something adds nodes; None where that is not known.
    """

    nodes: t.Optional[t.Sequence[Object]]
    autoscaler: t.Optional[bool]
    classes: t.Optional[t.Sequence[Object]]


def _no_log(pod: str, container: str, previous: bool) -> str:
    return ""


def _nothing_known() -> Surroundings:
    return Surroundings(None, None, None)


class View(t.NamedTuple):
    """What is known of a namespace: a Deployment or Job, its pods, the namespace's events, and the claims that the pods use.

    ``log_of`` and ``surroundings`` are asked only where their answer matters, ``surroundings`` at most once.
    """

    deployment: t.Optional[Object]
    pods: t.Sequence[Object]
    events: t.Sequence[Object] = ()
    claims: t.Sequence[Object] = ()
    log_of: LogOf = _no_log
    surroundings: t.Callable[[], Surroundings] = _nothing_known


def log_cause(log: str) -> t.Optional[LogCause]:
    """Return what the end of *log* says about why its program ended, None where it shows no failure."""
    texts = error_texts(log)
    if not texts:
        return None
    line = texts[0].partition("\n")[0][:LONGEST_LINE]
    unknown = LogCause("crashed", "it failed with an error that has no better name here", line, "Read the whole log", False)
    return recognise(LOG_SIGNS, "\n".join(texts)) or unknown


# -- what all predicates need ------------------------------------------------------------------------------------------


def _seconds(text: t.Optional[str]) -> t.Optional[float]:
    """Return an RFC 3339 time in seconds since 1970, None where it is none."""
    try:
        return datetime.datetime.fromisoformat(str(text or "").replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def _last(event: Object) -> str:
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or _first(event))


def _first(event: Object) -> str:
    return str(event.get("firstTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _events_of(events: t.Iterable[Object], kind: str, name: str) -> list[Object]:
    """Return the events of one object, the newest last."""
    own = [event for event in events if (event["involvedObject"].get("kind"), event["involvedObject"].get("name")) == (kind, name)]
    return sorted(own, key=lambda event: _seconds(_last(event)) or 0)


def _message(event: Object) -> str:
    return " ".join(str(event.get("message") or "").split())


def _condition(document: Object, name: str) -> Object:
    conditions: list[Object] = (document.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == name), {})


def _container_spec(pod: Object, name: str) -> Object:
    spec = pod["spec"]
    containers: list[Object] = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    return next((container for container in containers if container["name"] == name), {})


def _variable(name: str, suffix: str) -> str:
    """Return the inventory's variable for a container or claim called *name*."""
    prefix = "vllm_router" if name.startswith("router") else "open_webui" if name.startswith("open-webui") else "vllm"
    return f"{prefix}_{suffix}"


def _quantity(amount: t.Any) -> float:
    try:
        return quantity_bytes(amount)
    except (KeyError, ValueError):
        return 0.0


# -- placement ---------------------------------------------------------------------------------------------------------

_HEALING_TAINTS = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
_TAINT = re.compile(r"taint(?:\(s\))?(?: \{([^:}]+)(?:: ([^}]*))?\})?")
_PERMANENT = {
    "no-node-matches": (
        r"didn't match (?:Pod's )?node (?:affinity|selector)",
        "do not match its node selector or affinity",
        "Correct vllm_node_selector and llm_min_gpu_memory_gb, or label the nodes",
    ),
    "volume-elsewhere": (
        r"volume node affinity conflict|didn't match PersistentVolume's node affinity",
        "do not reach its volume",
        "Make room on the node that has the volume, or delete the claim so that the volume is made anew",
    ),
}
_UNBOUND = re.compile(r"unbound immediate PersistentVolumeClaims|didn't find available persistent volumes to bind")


def _unschedulable(
    pod: Object,
    condition: Object,
    own: t.Sequence[Object],
    claims: t.Container[str],
    around: t.Callable[[], Surroundings],
    now: float,
) -> t.Optional[Verdict]:
    """Return why no node takes *pod*, by the words of the scheduler."""
    name, since, message = pod["metadata"]["name"], str(condition.get("lastTransitionTime") or ""), _message(condition)
    where = f"pod {name}"
    if not message:
        message = next((_message(event) for event in reversed(own) if event["reason"] == "FailedScheduling"), "")
    absent = re.search(r'persistentvolumeclaim "([^"]+)" not found', message)
    if absent and absent[1] in claims:
        return None  # the scheduler has not heard of it yet
    if absent:
        what, advice = (
            f"it uses the PersistentVolumeClaim {absent[1]}, which does not exist",
            "Make it, or correct vllm_storage_existing_claim",
        )
        return Verdict("claim-missing", what, where, since, "", advice, True)
    total, reasons = _reasons(message)
    if not reasons:
        advice = "Look: kubectl describe pod"
        return Verdict("not-scheduled", f"it has no node: {message or condition.get('reason')}", where, since, "", advice, False)
    short: list[str] = []
    ruled_out: dict[str, int] = {}
    words = []
    for count, reason in reasons:
        taint = _TAINT.search(reason)
        kind = next((kind for kind, words in _PERMANENT.items() if re.search(words[0], reason)), "")
        if reason.startswith("Insufficient "):
            short.append(reason.split()[1])
            words.append(f"{count} of {total} nodes have too little {short[-1]}")
        elif taint:
            label = f"the taint {taint[1]}" + (f"={taint[2]}" if taint[2] else "") if taint[1] else "a taint"
            words.append(f"{count} of {total} have {label}, which it does not tolerate")
            if taint[1] and not taint[1].startswith(_HEALING_TAINTS):
                ruled_out["taint"] = ruled_out.get("taint", 0) + count
        elif kind:
            words.append(f"{count} of {total} {_PERMANENT[kind][1]}")
            ruled_out[kind] = ruled_out.get(kind, 0) + count
        else:
            words.append(f"{count} of {total}: {reason}")
    surroundings = around()
    too_large = _too_large(pod, short, surroundings.nodes)
    hopeless = bool(too_large) or sum(ruled_out.values()) >= total or _all_ruled_out(pod, short, surroundings.nodes)
    if too_large:
        cause, advice = "too-large-for-nodes", _smaller(pod, too_large[0])
        words.append(too_large[1])
    elif short and not hopeless:
        cause, advice = "resources-taken", "Remove what holds it (kubectl describe nodes), or wait"
    elif ruled_out or hopeless:
        # current schedulers do not name the taint; the nodes do
        cause = max(ruled_out, key=lambda kind: ruled_out[kind], default="taint" if "taint" in message else "no-node-matches")
        advice = "Add the taint to vllm_tolerations, or take it off a node" if cause == "taint" else _PERMANENT[cause][2]
    else:
        cause, advice = "not-scheduled", f"Look: kubectl describe {'pvc' if _UNBOUND.search(message) else 'pod'}"
    # What the autoscaler says itself counts more than that one is there.
    scaling = [event for event in own if event["reason"] in ("TriggeredScaleUp", "NotTriggerScaleUp", "Nominated")]
    autoscaler = surroundings.autoscaler
    if scaling:
        autoscaler = scaling[-1]["reason"] != "NotTriggerScaleUp" or "in backoff" in _message(scaling[-1])
        if not autoscaler:
            words.append("the autoscaler adds no node for it")
    age = now - (_seconds(since) or now)
    certain = hopeless and (age >= AUTOSCALER_S if autoscaler is None else not autoscaler)
    return Verdict(cause, f"no node can take it: {', '.join(words)}", where, since, "", advice, certain)


def _reasons(message: str) -> tuple[int, list[tuple[int, str]]]:
    """Return the number of nodes, and how many of them each reason of the scheduler's *message* is about."""
    found = re.match(r"\d+/(\d+) nodes are available: (.+)", message)
    if not found:
        return 0, []
    total, text = int(found[1]), found[2].partition(" preemption: ")[0].rstrip(" .")
    reasons = []
    for part in re.split(r", (?=\d+ )", text):
        counted = re.match(r"(\d+) (.+)", part)
        reasons.append((int(counted[1]), counted[2]) if counted else (total, part))
    return total, reasons


def _requests(pod: Object, resource: str) -> float:
    """Return how much *pod* asks of *resource*: its containers together, or its most demanding init container."""

    def asked(container: Object) -> float:
        return _quantity(((container.get("resources") or {}).get("requests") or {}).get(resource, 0))

    spec = pod["spec"]
    return max(sum(map(asked, spec["containers"])), *map(asked, spec.get("initContainers") or []), 0.0)


def _offer(node: Object, resource: str) -> float:
    """Return how much of *resource* *node* can ever give. A device plugin that starts anew leaves the capacity as it was."""
    status = node.get("status") or {}
    offers = [(status.get("allocatable") or {}).get(resource, 0)]
    if "/" in resource:
        offers.append((status.get("capacity") or {}).get(resource, 0))
    return max(map(_quantity, offers))


def _too_large(pod: Object, short: t.Iterable[str], nodes: t.Optional[t.Sequence[Object]]) -> t.Optional[tuple[str, str]]:
    """Return the resource of which *pod* asks more than any node has, and the numbers."""
    for resource in short if nodes else ():
        asked, most = _requests(pod, resource), max(_offer(node, resource) for node in nodes or ())
        if asked > most:
            return resource, f"it asks for {_amount(resource, asked)} {resource}, and no node has more than {_amount(resource, most)}"
    return None


def _all_ruled_out(pod: Object, short: t.Iterable[str], nodes: t.Optional[t.Sequence[Object]]) -> bool:
    """Whether each of *nodes* has too little for *pod* even when empty, a taint that stays, or not its labels."""
    tolerations = pod["spec"].get("tolerations") or []
    selector = pod["spec"].get("nodeSelector") or {}
    for node in nodes or ():
        obstacle = node_obstacle(node, tolerations)
        tainted = obstacle.startswith("taint ") and not obstacle.split()[1].startswith(_HEALING_TAINTS)
        labels = node["metadata"].get("labels") or {}
        matches = all(labels.get(key) == value for key, value in selector.items())
        if matches and not tainted and all(_offer(node, resource) >= _requests(pod, resource) for resource in short):
            return False
    return bool(nodes)


def _amount(resource: str, amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB" if resource in ("memory", "ephemeral-storage") else f"{amount:g}"


def _smaller(pod: Object, resource: str) -> str:
    container = pod["spec"]["containers"][0]["name"]
    variable = _variable(container, f"{resource}_request") if resource in ("cpu", "memory") else "vllm_gpu_count"
    return f"Lower {variable}, or add a node that has as much"


# -- volumes -----------------------------------------------------------------------------------------------------------

NO_PROVISIONER = "kubernetes.io/no-provisioner"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_STAYS_UNPROVISIONED = re.compile(
    r"invalid (?:argument|parameter|option|value)|InvalidArgument|InvalidParameter|unknown parameter|quota|Unauthorized|PermissionDenied"
    r"|no volume plugin matched",
    re.IGNORECASE,
)


def _unbound(
    claim: Object, events: t.Sequence[Object], around: t.Callable[[], Surroundings], now: float, wanted: bool = False
) -> t.Optional[Verdict]:
    """Return why *claim* has no volume; None while that is normal. *wanted*: a pod has been found to lack it."""
    name, spec = claim["metadata"]["name"], claim["spec"]
    variable = _variable(name, "storage_class")
    created = str(claim["metadata"].get("creationTimestamp") or "")
    phase = (claim.get("status") or {}).get("phase")

    def verdict(cause: str, what: str, advice: str, certain: bool = True, since: str = created) -> Verdict:
        return Verdict(cause, what, f"PersistentVolumeClaim {name}", since, "", advice, certain)

    if phase == "Lost":
        return verdict("claim-lost", "its volume is gone, and the data with it", "Delete the claim and run again")
    if phase != "Pending":
        return None
    own = _events_of(events, "PersistentVolumeClaim", name)
    signs = {event["reason"]: event for event in own}  # the newest of each reason
    failed = signs.get("ProvisioningFailed")
    words = _message(failed) if failed else ""
    classes = around().classes
    named = spec.get("storageClassName")
    found = next((item for item in classes or () if item["metadata"]["name"] == named), None)
    if not named:
        default = any((item["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true" for item in classes or ())
        told = "no storage class is set" in _message(signs.get("FailedBinding", {}))
        if (told and (named == "" or not default)) or (named is None and classes is not None and not default):
            missing = "asks for no StorageClass" if named == "" else "names no StorageClass, and the cluster has no default one"
            return verdict("no-storage-class", f"it {missing}, and no volume fits", f"Set {variable}")
        return None
    if (classes is not None and not found) or f'"{named}" not found' in words:
        known = f" ({', '.join(item['metadata']['name'] for item in classes)})" if classes else ""
        return verdict("storage-class-missing", f"there is no StorageClass {named}", f"Set {variable} to one that is there{known}")
    manual = (found or {}).get("provisioner") == NO_PROVISIONER
    if NO_PROVISIONER in words or (manual and (wanted or failed)):
        what = f"volumes of the StorageClass {named} are made by hand, and none fits"
        return verdict("no-volume", what, f"Make a PersistentVolume for it, or set {variable} to another class")
    if failed and own[-1]["reason"] not in ("Provisioning", "ProvisioningSucceeded"):
        certain = bool(_STAYS_UNPROVISIONED.search(words))
        advice = f"Correct the StorageClass {named}, or set {variable} to another"
        return verdict("provisioning-failed", f"its volume cannot be made: {words[-LONGEST_LINE:]}", advice, certain, _first(failed))
    waiting = signs.get("ExternalProvisioning")
    if waiting and not signs.keys() & {"Provisioning", "ProvisioningSucceeded"}:
        since = _first(waiting)
        if now - (_seconds(since) or now) >= PROVISIONER_S:
            provisioner = re.search(r"provisioner ['\"]([^'\"]+)", _message(waiting))
            what = f"the provisioner {provisioner[1] if provisioner else named} gives no sign of making its volume"
            return verdict("provisioner-silent", what, f"Look whether it runs, or set {variable} to another class", True, since)
    return None


# -- a pod -------------------------------------------------------------------------------------------------------------


def pod_verdict(
    pod: Object,
    events: t.Sequence[Object],
    log_of: LogOf,
    surroundings: t.Callable[[], Surroundings],
    claims: t.Sequence[Object] = (),
    now: t.Optional[float] = None,
) -> t.Optional[Verdict]:
    """Return what is wrong with *pod*; None for one that is ready, done, on its way out, or coming up as it should.

    *now* is in seconds since 1970, by default this moment. For the other arguments see View.
    """
    now = time.time() if now is None else now
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    if pod["metadata"].get("deletionTimestamp") or status.get("phase") == "Succeeded" or is_ready(pod):
        return None
    own = _events_of(events, "Pod", name)
    if status.get("reason") and (status.get("phase") == "Failed" or status["reason"] == "NodeLost"):
        return _put_off(pod)
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        if scheduled.get("reason") not in (None, "Unschedulable"):
            return None
        used = {(volume.get("persistentVolumeClaim") or {}).get("claimName") for volume in pod["spec"].get("volumes") or []}
        lacks = bool(_UNBOUND.search(_message(scheduled)))
        unbound = [_unbound(claim, events, surroundings, now, lacks) for claim in claims if claim["metadata"]["name"] in used]
        found = [verdict for verdict in unbound if verdict]
        existing = {claim["metadata"]["name"] for claim in claims}
        return found[0] if found else _unschedulable(pod, scheduled, own, existing, surroundings, now)
    if own and own[-1]["reason"] in ("NodeNotReady", "TaintManagerEviction"):
        return _node_lost(pod, _last(own[-1]))
    judged = [_container(pod, state, own, log_of) for state in container_states(pod)]
    found = [verdict for verdict in judged if verdict]
    return min(found, key=lambda verdict: not verdict.certain) if found else _not_made(pod, own)


def _put_off(pod: Object) -> Verdict:
    """Return why the node has given up *pod*."""
    status, where = pod["status"], f"pod {pod['metadata']['name']}"
    message = _message(status).rstrip(" .")
    since = str(status.get("startTime") or "")
    if status["reason"] == "Evicted":
        disk = re.search(r"ephemeral|EmptyDir|disk", message)
        over = "exceeds" in message
        cause = "evicted" if over else "evicted-by-node"
        advice = "Make room on the node" if disk else "Lower what other pods of the node use"
        if over:
            advice = "Raise vllm_shm_size, if that is the volume; else keep large files on the claim" if disk else "Raise vllm_memory_limit"
        return Verdict(cause, f"the node has evicted it: {message}", where, since, "", advice, False)
    if status["reason"] == "NodeLost":
        return _node_lost(pod, since)
    what = f"its node has ended it: {status['reason']}" + (f" ({message})" if message else "")
    return Verdict("node-refused", what, where, since, "", "The cluster makes another one", False)


def _node_lost(pod: Object, since: str) -> Verdict:
    what = f"its node {pod['spec'].get('nodeName')} does not answer"
    return Verdict("node-lost", what, f"pod {pod['metadata']['name']}", since, "", "Mend the node; the cluster replaces the pod", False)


def _not_made(pod: Object, own: t.Sequence[Object]) -> t.Optional[Verdict]:
    """Return what keeps the containers of *pod* from being made at all: volumes, sandbox, network."""
    waiting = [(state.get("state") or {}).get("waiting") or {} for state in container_states(pod)]
    if waiting and not any(state.get("reason") in ("ContainerCreating", "PodInitializing") for state in waiting):
        return None
    if any("running" in (state.get("state") or {}) for state in container_states(pod)):
        return None
    where = f"pod {pod['metadata']['name']}"
    # what came before the image was asked for is over
    over = [number for number, event in enumerate(own) if event["reason"] in ("Pulling", "Pulled", "Created", "Started")]
    own = own[over[-1] + 1 if over else 0 :]
    troubles = [event for event in own if event["reason"] in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")]
    for event in reversed(troubles):
        message = _message(event)
        known = recognise([*CONFIG_SIGNS, *START_SIGNS], message, variable="vllm_image")
        # every namespace gets this one, a moment after it has been made
        if known and "kube-root-ca.crt" not in message:
            return Verdict(known.cause, known.what, where, _first(event), "", known.advice, known.certain)
    for event in reversed(troubles):
        message = _message(event)
        if "timed out waiting for the condition" in message and event is not troubles[0]:
            continue  # says less than the others
        if "Multi-Attach" in message:
            what = f"its volume is still attached elsewhere: {message}"
            return Verdict("volume-attached-elsewhere", what, where, _first(event), "", "It goes on when the other pod has ended", False)
        sandbox = event["reason"] == "FailedCreatePodSandBox"
        cause, what = ("sandbox-failed", "its network cannot be made") if sandbox else ("mount-failed", "its volume cannot be mounted")
        return Verdict(cause, f"{what}: {message[-LONGEST_LINE:]}", where, _first(event), "", "Look: kubectl describe pod", False)
    return None


def _container(pod: Object, status: Object, own: t.Sequence[Object], log_of: LogOf) -> t.Optional[Verdict]:
    """Return what is wrong with a container of *pod*, by its state, its events and the log of its last run."""
    name = status["name"]
    where = f"container {name} of pod {pod['metadata']['name']}"
    state = status.get("state") or {}
    waiting, running, ended = state.get("waiting") or {}, state.get("running"), state.get("terminated")
    reason, message = str(waiting.get("reason") or ""), _message(waiting)
    since = str(pod["status"].get("startTime") or "")
    if status.get("ready"):
        return None
    if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"):
        return _image(pod, name, reason, message, own, where)
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        known = recognise([*CONFIG_SIGNS, *START_SIGNS], message, variable=_variable(name, "image"))
        failures = status.get("restartCount", 0) + 1
        if not known:
            cause = "container-not-configured" if reason == "CreateContainerConfigError" else "container-not-created"
            known = LogCause(cause, f"it cannot be made: {message[-LONGEST_LINE:]}", "", "Look: kubectl describe pod", False)
        return Verdict(known.cause, known.what, where, since, "", known.advice, _is_certain(known, failures))
    last = ended or (status.get("lastState") or {}).get("terminated")
    probed = _probed(pod, status, last, own, where, log_of)
    if probed or not last or reason in ("ContainerCreating", "PodInitializing"):
        return probed
    if last.get("exitCode") == 0 and pod["spec"].get("restartPolicy", "Always") != "Always":
        return None
    failures = status.get("restartCount", 0) + (0 if running is not None else 1)
    return _crash(pod, name, last, failures, where, _log(pod, status, log_of))


def _image(pod: Object, name: str, reason: str, message: str, own: t.Sequence[Object], where: str) -> Verdict:
    """Return why the image of a container is not there."""
    image, variable = str(_container_spec(pod, name).get("image")), _variable(name, "image")
    fields = {"image": image, "variable": variable, "secrets": f"{variable}_pull_secrets".replace("router_", "")}
    failed = [event for event in own if event["reason"] == "Failed" and "ull image" in _message(event) and image in _message(event)]
    since = _first(failed[0]) if failed else str(pod["status"].get("startTime") or "")
    if reason == "InvalidImageName":
        return Verdict("image-name-invalid", f"{image} is no name of an image", where, since, "", f"Correct {variable}", True)
    if reason == "ErrImageNeverPull":
        advice = f"Load it on the node, or set {variable}_pull_policy: IfNotPresent".replace("router_", "")
        return Verdict("image-not-on-node", f"{image} is not on the node, and may not be pulled", where, since, "", advice, True)
    told = message if message and not re.fullmatch(r"Back-off pulling image \"[^\"]+\"", message) else ""
    told = told or (_message(failed[-1]) if failed else "")
    # the name of the image can hold words of a sign
    known = recognise(IMAGE_SIGNS, told.replace(image, "IMAGE"), **fields)
    if known:
        return Verdict(known.cause, known.what, where, since, "", known.advice, known.certain)
    what = f"{image} cannot be pulled" + (f": {told[-LONGEST_LINE:]}" if told else "")
    return Verdict("image-pull-failed", what, where, since, "", f"Look at {variable}, and whether the nodes reach the registry", False)


def _log(pod: Object, status: Object, log_of: LogOf) -> str:
    """Return the log of the last run of a container that has ended; nothing of one that still runs."""
    name, state = pod["metadata"]["name"], status.get("state") or {}
    if "terminated" in state:
        return log_of(name, status["name"], False)
    return log_of(name, status["name"], True) or ("" if "running" in state else log_of(name, status["name"], False))


def _is_certain(known: LogCause, failures: int) -> bool:
    return known.certain or (known.cause in PATIENCE and failures > PATIENCE[known.cause])


def _probed(
    pod: Object, status: Object, last: t.Optional[Object], own: t.Sequence[Object], where: str, log_of: LogOf
) -> t.Optional[Verdict]:
    """Return the verdict on a container that Kubernetes has ended because a probe failed; probes that fail while it loads are normal."""
    name = status["name"]
    run = last or (status.get("state") or {}).get("running") or {}
    # the node drops events that come often, so that the last one may be of an earlier run: then the exit code has to be that of a signal
    told_to_end = run.get("exitCode") in SIGNAL_CODES and run.get("reason") != "OOMKilled"
    for event in reversed(own):
        killed = re.search(rf"[Cc]ontainer {re.escape(name)} failed (startup|liveness) probe", _message(event))
        late = (_seconds(_last(event)) or 0) >= (_seconds(run.get("startedAt")) or 0)
        if not killed or event["reason"] != "Killing" or not (late or told_to_end):
            continue
        known = log_cause(_log(pod, status, log_of)) if last else None
        line = known.line if known else ""
        probe = _container_spec(pod, name).get(f"{killed[1]}Probe") or {}
        period, threshold = probe.get("periodSeconds", 10), probe.get("failureThreshold", 3)
        if killed[1] == "startup":
            allowed = duration(probe.get("initialDelaySeconds", 0) + period * threshold)
            what = f"it did not answer within the {allowed} that it has for its start, and was ended"
            # only the engine's time can be set
            advice = "Raise vllm_startup_timeout" if name == "vllm" else "Read its log"
            return Verdict("startup-timeout", what, where, _first(event), line, advice, True)
        times = max(event.get("count") or 1, (event.get("series") or {}).get("count") or 1)
        what = f"it did not answer for {duration(period * threshold)} and was ended" + (f", {times} times" if times > 1 else "")
        advice = "Read its log (kubectl logs --previous): it hangs, or has too little CPU"
        return Verdict("liveness-probe", what, where, _first(event), line, advice, times > PATIENCE["liveness-probe"])
    return None


def _crash(pod: Object, name: str, last: Object, failures: int, where: str, log: str) -> Verdict:
    """Return why the last run of a container ended, by its exit code and its log."""
    since, code = str(last.get("finishedAt") or ""), last.get("exitCode")
    memory = _variable(name, "memory_limit")
    message = _message(last)
    if last.get("reason") == "OOMKilled":
        limit = ((_container_spec(pod, name).get("resources") or {}).get("limits") or {}).get("memory")
        what = f"it went over its memory limit of {limit} and was killed" if limit else "the node's memory ran out, and it was killed"
        return Verdict("out-of-memory", what, where, since, "", f"Raise {memory}" if limit else f"Set {memory}, or relieve the node", True)
    known: t.Optional[LogCause]
    if last.get("reason") in ("StartError", "ContainerCannotRun"):
        known = recognise(START_SIGNS, message, variable=_variable(name, "image"))
        what = f"it cannot be started: {message[-LONGEST_LINE:]}"
        known = known or LogCause("container-not-created", what, "", "Look at its image", False)
        return Verdict(known.cause, known.what, where, since, "", known.advice, _is_certain(known, failures))
    # "message" is the end of the log where the pod asks for that
    known = log_cause(log) or log_cause(str(last.get("message") or ""))
    runs = f"it has ended {failures} times, last" if failures > 1 else "it has ended"
    if known is None or known.cause == "crashed":
        what = f"{runs} with exit code {code}" + (f" (signal {code - 128})" if isinstance(code, int) and code > 128 else "")
        known = LogCause("crashed", what, known.line if known else "", "Read the whole log: kubectl logs --previous", False)
    advice = ROUTER_ADVICE.get(known.cause, known.advice) if name.startswith("router") else known.advice
    began, finished = _seconds(last.get("startedAt")), _seconds(since)
    served = began is not None and finished is not None and finished - began > SERVED_S
    return Verdict(known.cause, known.what, where, since, known.line, advice, _is_certain(known, failures) and not served)


# -- all of them -------------------------------------------------------------------------------------------------------


def diagnose(view: View, now: float) -> list[Verdict]:
    """Return what is wrong, certain verdicts first, then those on the newest pods. *now* is in seconds since 1970.

    Pods of an older generation are told of, but are never certain: the rollout replaces them. Terminating pods are left out.
    """
    around = functools.cache(view.surroundings)
    living = [pod for pod in view.pods if not pod["metadata"].get("deletionTimestamp")]
    newest = _newest_generation(view.deployment, living)
    verdicts = _refused(view, living)
    ranks = [0] * len(verdicts)
    judged = []
    for pod in sorted(living, key=_created, reverse=True):
        verdict = pod_verdict(pod, view.events, view.log_of, around, view.claims, now)
        if verdict:
            judged.append((pod, verdict))
    ends = collections.Counter(verdict.cause for pod, verdict in judged if pod["status"].get("phase") == "Failed")
    for pod, verdict in judged:
        old = _generation(pod) != newest
        often = verdict.cause in PATIENCE and ends[verdict.cause] > PATIENCE[verdict.cause]
        found = verdict._replace(certain=(verdict.certain or often) and not old)
        if found not in verdicts:
            verdicts.append(found)
            ranks.append(2 * old + (verdict.cause in ("crashed", "not-scheduled", "image-pull-failed")))
    order = sorted(zip(itertools.count(), ranks, verdicts), key=lambda item: (not item[2].certain, item[1], item[0]))
    return [entry[-1] for entry in order]


def _created(pod: Object) -> float:
    return _seconds(pod["metadata"].get("creationTimestamp")) or 0.0


def _generation(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get("pod-template-hash") or "")


def _newest_generation(deployment: t.Optional[Object], pods: t.Iterable[Object]) -> t.Optional[str]:
    """Return the hash of the newest pods: those whose first is the youngest, as old ones are replaced one by one, too.

    None while the Deployment as it is now has no pods.
    """
    status = (deployment or {}).get("status") or {}
    observed = status.get("observedGeneration")
    if deployment and deployment.get("kind") != "Job" and observed is not None:
        taken_up = observed >= deployment["metadata"].get("generation", 0)
        if not (taken_up and status.get("updatedReplicas")):
            return None
    first: dict[str, float] = {}
    for pod in pods:
        key = _generation(pod)
        first[key] = min(first.get(key, float("inf")), _created(pod))
    return max(first, key=lambda key: first[key], default="")


def _refused(view: View, living: t.Sequence[Object]) -> list[Verdict]:
    """Return why the cluster does not even make the pods."""
    if view.deployment is None:
        return []
    kind, name = view.deployment.get("kind") or "Deployment", view.deployment["metadata"]["name"]
    failure = _condition(view.deployment, "ReplicaFailure")
    message, since = _message(failure), str(failure.get("lastTransitionTime") or "")
    if failure.get("status") != "True":
        tries = [event for event in view.events if event["reason"] in ("FailedCreate", "SuccessfulCreate") and _made_by(event, kind, name)]
        tries.sort(key=lambda event: _seconds(_last(event)) or 0)
        if living or not tries or tries[-1]["reason"] != "FailedCreate":
            return []
        message, since = _message(tries[-1]), _first(tries[-1])
    known = recognise(REFUSAL_SIGNS, message)
    # pods that are still ending count for the quota
    ending = len(living) < len(view.pods) and known is not None and known.cause == "quota"
    known = known or LogCause("pods-refused", f"its pods cannot be made: {message[-LONGEST_LINE:]}", "", "Look at its events", False)
    return [Verdict(known.cause, known.what, f"{kind} {name}", since, "", known.advice, known.certain and not ending)]


def _made_by(event: Object, kind: str, name: str) -> bool:
    """Whether *event* is of what makes the pods of the Deployment or Job *name*."""
    about = event["involvedObject"]
    if kind == "Deployment":
        return about.get("kind") == "ReplicaSet" and str(about.get("name")).rpartition("-")[0] == name
    return (about.get("kind"), about.get("name")) == (kind, name)
