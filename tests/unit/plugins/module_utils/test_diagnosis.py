# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with pods, claims and programs. The fixtures were recorded: objects of a cluster, logs of vLLM 0.32."""

from __future__ import annotations

import copy
import datetime
import json
import re
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._diagnosis import (
    LogCause,
    Surroundings,
    Verdict,
    View,
    diagnose,
    log_cause,
    pod_verdict,
)
from ansible_collections.llmops.serving.plugins.module_utils._failure_signs import IMAGE_SIGNS, LOG_SIGNS, REFUSAL_SIGNS
from ansible_collections.llmops.serving.plugins.module_utils._kube import Object

FIXTURES = Path(__file__).parent / "fixtures" / "diagnosis"
T0 = "2026-11-21T16:10:00Z"


def seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


NOW = seconds(T0) + 600


def recorded(name: str) -> Object:
    return t.cast(Object, json.loads((FIXTURES / f"{name}.json").read_text()))


def around(nodes: t.Any = None, autoscaler: t.Optional[bool] = False, classes: t.Any = None) -> t.Callable[[], Surroundings]:
    return lambda: Surroundings(nodes, autoscaler, classes)


def never() -> Surroundings:
    raise AssertionError("nobody needs to know the surroundings")


def judge(fault: Object, log: str = "", surroundings: t.Callable[[], Surroundings] = never, now: float = NOW) -> t.Optional[Verdict]:

    def log_of(_pod: str, _container: str, _previous: bool) -> str:
        return log

    return pod_verdict(fault["pod"], fault.get("events", []), log_of, surroundings, fault.get("claims", []), now)


def found(verdict: t.Optional[Verdict]) -> Verdict:
    assert verdict is not None
    return verdict


# -- made objects ------------------------------------------------------------------------------------------------------


def a_pod(state: t.Optional[Object] = None, last: t.Optional[Object] = None, restarts: int = 0, **status: t.Any) -> Object:
    container = {"name": "vllm", "image": "vllm/vllm-openai:v0.32.0", "resources": {"requests": {"nvidia.com/gpu": "2", "memory": "16Gi"}}}
    states = [{"name": "vllm", "ready": False, "restartCount": restarts, "state": state or {}, "lastState": last or {}}]
    return {
        "metadata": {"name": "vllm-0", "creationTimestamp": T0, "labels": {"pod-template-hash": "a"}},
        "spec": {"nodeName": "gpu-a", "containers": [container]},
        "status": {"phase": "Running", "startTime": T0, "containerStatuses": states if state else [], **status},
    }


def an_event(reason: str, message: str, kind: str = "Pod", name: str = "vllm-0", at: str = T0, count: int = 1) -> Object:
    times = {"firstTimestamp": at, "lastTimestamp": at, "count": count}
    return {"metadata": {"name": "x"}, "involvedObject": {"kind": kind, "name": name}, "reason": reason, "message": message, **times}


def unscheduled(message: str, **spec: t.Any) -> Object:
    pod = a_pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}], phase="Pending")
    pod["status"]["conditions"][0]["lastTransitionTime"] = T0
    pod["spec"].update(spec)
    return pod


def a_node(name: str = "gpu-a", gpus: int = 4, taint: str = "", capacity: t.Optional[int] = None, **labels: str) -> Object:
    offer = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": str(gpus)}
    taints = [{"key": taint, "value": "yes", "effect": "NoSchedule"}] if taint else []
    full = {**offer, "nvidia.com/gpu": str(gpus if capacity is None else capacity)}
    conditions = [{"type": "Ready", "status": "True"}]
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {"allocatable": offer, "capacity": full, "conditions": conditions},
    }


# -- placement ---------------------------------------------------------------------------------------------------------

TAINT_1_20 = "2 node(s) had taint {nvidia.com/gpu: present}, that the pod didn't tolerate"
TAINT_NOW = "2 node(s) had untolerated taint {nvidia.com/gpu: present}"
TAIL = " preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."


@pytest.mark.parametrize("taint", [TAINT_1_20, TAINT_NOW])
@pytest.mark.parametrize("tail", ["", TAIL])
def test_shortage_and_taint_are_told_with_their_numbers(taint: str, tail: str) -> None:
    pod = unscheduled(f"0/3 nodes are available: 1 Insufficient nvidia.com/gpu, {taint}.{tail}")
    verdict = found(judge({"pod": pod}, surroundings=around([a_node(), a_node("b", taint="dedicated")])))
    assert verdict.cause == "resources-taken"
    assert "1 of 3 nodes have too little nvidia.com/gpu" in verdict.what
    assert "2 of 3 have the taint nvidia.com/gpu=present, which it does not tolerate" in verdict.what
    assert "reemption" not in verdict.what
    assert (verdict.where, verdict.since, verdict.certain) == ("pod vllm-0", T0, False)


def test_a_request_beyond_every_node_is_certain() -> None:
    fault = recorded("unschedulable_gpus")
    verdict = found(judge(fault, surroundings=around([a_node(gpus=8)])))
    assert (verdict.cause, verdict.certain) == ("too-large-for-nodes", True)
    assert "it asks for 64 nvidia.com/gpu, and no node has more than 8" in verdict.what
    assert "vllm_gpu_count" in verdict.advice
    assert not found(judge(fault, surroundings=around([a_node(gpus=64)]))).certain
    assert not found(judge(fault, surroundings=around(None))).certain


def test_a_device_plugin_that_starts_anew_is_no_shortage_for_ever() -> None:
    pod = unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    assert not found(judge({"pod": pod}, surroundings=around([a_node(gpus=0, capacity=4)]))).certain
    assert found(judge({"pod": pod}, surroundings=around([a_node(gpus=0)]))).certain


def test_memory_is_compared_as_memory() -> None:
    pod = unscheduled("0/1 nodes are available: 1 Insufficient memory.")
    pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = "100Gi"
    verdict = found(judge({"pod": pod}, surroundings=around([a_node()])))
    assert "100.0 GiB memory, and no node has more than 64.0 GiB" in verdict.what
    assert "vllm_memory_request" in verdict.advice


@pytest.mark.parametrize(
    ("reason", "cause", "variable"),
    [
        (TAINT_NOW.replace("2", "3"), "taint", "vllm_tolerations"),
        (TAINT_1_20.replace("2", "3"), "taint", "vllm_tolerations"),
        ("3 node(s) didn't match Pod's node affinity/selector", "no-node-matches", "vllm_node_selector"),
        ("3 node(s) didn't match node selector", "no-node-matches", "vllm_node_selector"),
        ("1 node(s) had volume node affinity conflict, " + TAINT_NOW, "taint", "vllm_tolerations"),
        ("3 node(s) had volume node affinity conflict", "volume-elsewhere", "claim"),
        ("3 node(s) didn't match PersistentVolume's node affinity", "volume-elsewhere", "claim"),
    ],
)
def test_what_rules_out_every_node_is_certain(reason: str, cause: str, variable: str) -> None:
    verdict = found(judge({"pod": unscheduled(f"0/3 nodes are available: {reason}.")}, surroundings=around()))
    assert (verdict.cause, verdict.certain) == (cause, True)
    assert variable in verdict.advice


@pytest.mark.parametrize(
    "reason",
    [
        "3 node(s) had untolerated taint {node.kubernetes.io/not-ready: }",
        "3 node(s) were unschedulable",
        "3 Too many pods",
        "2 node(s) didn't match Pod's node affinity/selector, 1 Too many pods",
        "pod has unbound immediate PersistentVolumeClaims",
    ],
)
def test_what_passes_is_not_certain(reason: str) -> None:
    verdict = found(judge({"pod": unscheduled(f"0/3 nodes are available: {reason}.")}, surroundings=around([a_node()])))
    assert not verdict.certain


def test_the_nodes_tell_of_taints_that_the_scheduler_does_not_name() -> None:
    pod = unscheduled("0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s).")
    tainted = a_node("b", taint="dedicated")
    verdict = found(judge({"pod": pod}, surroundings=around([a_node(gpus=0), tainted])))
    assert (verdict.cause, verdict.certain) == ("taint", True)
    pod["spec"]["tolerations"] = [{"key": "dedicated", "operator": "Exists"}]
    assert not found(judge({"pod": pod}, surroundings=around([a_node(gpus=0), tainted]))).certain


def test_the_labels_of_the_nodes_count() -> None:
    fault = recorded("unschedulable_selector")
    assert found(judge(fault, surroundings=around([a_node()]))).certain
    pod = unscheduled("0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 strange reason.", nodeSelector={"zone": "a"})
    assert not found(judge({"pod": pod}, surroundings=around([a_node(zone="a")]))).certain
    assert found(judge({"pod": pod}, surroundings=around([a_node(zone="b")]))).certain


def test_an_autoscaler_may_add_a_node() -> None:
    pod = unscheduled(f"0/2 nodes are available: {TAINT_NOW}.")
    no = an_event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 node(s) didn't match Pod's node affinity/selector")
    backoff = an_event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 in backoff after failed scale-up")
    yes = an_event("TriggeredScaleUp", "pod triggered scale-up: [{a 1->2}]")

    def certain(autoscaler: t.Optional[bool], *events: Object, age: float = 300) -> bool:
        return found(judge({"pod": pod, "events": list(events)}, "", around(None, autoscaler), seconds(T0) + age)).certain

    assert certain(False)
    assert not certain(True)
    assert certain(True, no)
    assert not certain(True, backoff)
    assert not certain(False, yes)
    assert not certain(None, age=59)
    assert certain(None, age=60)


def test_what_the_autoscaler_says_is_told() -> None:
    pod = unscheduled("0/2 nodes are available: 2 Insufficient cpu.")
    no = an_event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached")
    assert "the autoscaler adds no node for it" in found(judge({"pod": pod, "events": [no]}, "", around())).what
    assert "autoscaler" not in found(judge({"pod": pod}, "", around())).what


def test_events_of_current_schedulers_have_other_times() -> None:
    # a Series has the time of the last one; an event without any has the time of its object
    pod = unscheduled(f"0/2 nodes are available: {TAINT_NOW}.")
    no, yes = an_event("NotTriggerScaleUp", "no"), an_event("TriggeredScaleUp", "yes")
    for event, last in ((no, "2026-11-21T16:12:00.000001Z"), (yes, "2026-11-21T16:11:00.000001Z")):
        event.update(firstTimestamp=None, lastTimestamp=None, eventTime=T0, series={"count": 2, "lastObservedTime": last})
    assert found(judge({"pod": pod, "events": [no, yes]}, "", around())).certain
    no["series"] = None
    assert not found(judge({"pod": pod, "events": [yes, no]}, "", around())).certain
    no.update(eventTime=None)
    no["metadata"]["creationTimestamp"] = "2026-11-21T16:13:00Z"
    assert found(judge({"pod": pod, "events": [no, yes]}, "", around())).certain


def test_a_condition_without_words_is_told_by_the_event() -> None:
    pod = unscheduled("")
    events = [
        an_event("FailedScheduling", f"0/2 nodes are available: {TAINT_NOW}."),
        an_event("Other", "something", at="2026-11-21T16:12:00Z"),
    ]
    assert found(judge({"pod": pod, "events": events}, "", around())).cause == "taint"
    silent = found(judge({"pod": pod}))
    assert (silent.cause, silent.certain) == ("not-scheduled", False)
    assert "Unschedulable" in silent.what


def test_a_pod_that_nobody_has_looked_at_is_not_judged() -> None:
    assert judge({"pod": a_pod(phase="Pending")}) is None
    gated = unscheduled("Scheduling is blocked")
    gated["status"]["conditions"][0]["reason"] = "SchedulingGated"
    assert judge({"pod": gated}) is None


# -- volumes -----------------------------------------------------------------------------------------------------------


def a_class(name: str, provisioner: str = "csi.example.com", default: bool = False) -> Object:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}, "provisioner": provisioner}


def with_claim(fault: Object, message: str = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.") -> Object:
    name = fault["claims"][0]["metadata"]["name"]
    return {**fault, "pod": unscheduled(message, volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": name}}])}


@pytest.mark.parametrize("classes", [None, [a_class("standard")]])
def test_a_class_that_does_not_exist(classes: t.Any) -> None:
    verdict = found(judge(recorded("claim_class_missing"), surroundings=around(classes=classes)))
    assert (verdict.cause, verdict.where, verdict.certain) == ("storage-class-missing", "PersistentVolumeClaim noclass", True)
    assert "vllm_storage_class" in verdict.advice
    assert ("(standard)" in verdict.advice) == (classes is not None)


def test_a_claim_that_is_not_there() -> None:
    fault = recorded("claim_missing")
    verdict = found(judge(fault))
    assert (verdict.cause, verdict.certain) == ("claim-missing", True)
    assert "PersistentVolumeClaim notthere" in verdict.what
    made = {**fault, "claims": [{"metadata": {"name": "notthere"}, "spec": {}, "status": {"phase": "Bound"}}]}
    assert judge(made) is None


def test_no_class_is_named() -> None:
    fault = with_claim(recorded("claim_no_class"))
    verdict = found(judge(fault, surroundings=around(classes=[a_class("a", default=True)])))
    assert (verdict.cause, verdict.since) == ("no-storage-class", fault["claims"][0]["metadata"]["creationTimestamp"])
    assert "asks for no StorageClass" in verdict.what
    # before the cluster has said so, a volume may be found yet
    assert found(judge({**fault, "events": []}, surroundings=around())).cause == "not-scheduled"
    del fault["claims"][0]["spec"]["storageClassName"]
    assert found(judge(fault, surroundings=around())).cause == "no-storage-class"
    assert found(judge(fault, surroundings=around(classes=[a_class("a")]))).certain
    assert "names no StorageClass" in found(judge({**fault, "events": []}, surroundings=around(classes=[a_class("a")]))).what
    assert found(judge({**fault, "events": []}, surroundings=around())).cause == "not-scheduled"
    # a current cluster gives it the default class afterwards
    assert found(judge(fault, surroundings=around(classes=[a_class("a", default=True)]))).cause == "not-scheduled"


def test_volumes_made_by_hand() -> None:
    fault = with_claim(recorded("claim_no_provisioner"))
    assert (found(judge(fault, surroundings=around())).cause, found(judge(fault, surroundings=around())).certain) == ("no-volume", True)
    # a class that waits for the pod says nothing before the scheduler has looked
    waiting = {**fault, "events": [an_event("WaitForFirstConsumer", "waiting", "PersistentVolumeClaim", "noprov")]}
    manual = around(classes=[a_class("manual", "kubernetes.io/no-provisioner")])
    assert found(judge(waiting, surroundings=manual)).cause == "no-volume"
    waiting["pod"] = unscheduled("0/1 nodes are available: 1 Insufficient cpu.", volumes=waiting["pod"]["spec"]["volumes"])
    assert found(judge(waiting, surroundings=manual)).cause == "resources-taken"


def test_a_provisioner_that_gives_no_sign() -> None:
    fault = with_claim(recorded("claim_provisioner_silent"))
    began = seconds(fault["events"][0]["firstTimestamp"])
    classes = around(classes=[a_class("ghost", "nfs.example.com")])
    verdict = found(judge(fault, "", classes, began + 30))
    assert (verdict.cause, verdict.certain) == ("provisioner-silent", True)
    assert "nfs.example.com" in verdict.what
    assert found(judge(fault, "", classes, began + 29)).cause == "not-scheduled"
    at_work = an_event("Provisioning", "External provisioner is provisioning volume", "PersistentVolumeClaim", "noanswer")
    assert found(judge({**fault, "events": [*fault["events"], at_work]}, "", classes, began + 30)).cause == "not-scheduled"


@pytest.mark.parametrize(
    ("words", "certain"),
    [("rpc error: code = InvalidArgument desc = type", True), ("exceeded quota: disks", True), ("rpc error: code = Unavailable", False)],
)
def test_a_volume_that_cannot_be_made(words: str, certain: bool) -> None:
    fault = with_claim(recorded("claim_provisioner_silent"))
    failed = an_event(
        "ProvisioningFailed", f'failed to provision volume with StorageClass "ghost": {words}', "PersistentVolumeClaim", "noanswer"
    )
    again = an_event("Provisioning", "once more", "PersistentVolumeClaim", "noanswer", at="2026-11-21T16:20:00Z")
    fault["events"] = [failed]
    verdict = found(judge(fault, surroundings=around()))
    assert (verdict.cause, verdict.certain) == ("provisioning-failed", certain)
    assert words in verdict.what
    fault["events"] = [failed, again]
    assert found(judge(fault, surroundings=around())).cause == "not-scheduled"


def test_a_claim_that_waits_for_its_pod_is_normal() -> None:
    fault = with_claim(recorded("claim_provisioner_silent"), "0/1 nodes are available: 1 Insufficient cpu.")
    fault["events"] = [an_event("WaitForFirstConsumer", "waiting", "PersistentVolumeClaim", "noanswer")]
    assert found(judge(fault, surroundings=around())).cause == "resources-taken"
    fault["claims"][0]["status"]["phase"] = "Lost"
    assert found(judge(fault, surroundings=around())).cause == "claim-lost"


# -- images ------------------------------------------------------------------------------------------------------------

PULL = 'Failed to pull image "vllm/vllm-openai:v0.32.0": rpc error: code = Unknown desc = failed to pull and unpack image '
UNAUTHORIZED = (
    "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://r/token: 401 Unauthorized"
)
IMAGES = [
    (
        'failed to resolve reference "docker.io/vllm/vllm-openai:v0.32.0": docker.io/vllm/vllm-openai:v0.32.0: not found',
        "image-not-found",
        True,
    ),
    ("manifest for vllm/vllm-openai:v0.32.0 not found: manifest unknown: manifest unknown", "image-not-found", True),
    (UNAUTHORIZED, "image-not-allowed", True),
    ("pull access denied, repository does not exist or may require authorization: insufficient_scope", "image-not-allowed", True),
    ("unexpected status from HEAD request to https://r/v2/x/manifests/1: 403 Forbidden", "image-not-allowed", True),
    ("no match for platform in manifest: not found", "wrong-cpu", True),
    ("dial tcp: lookup registry.example.com: no such host", "registry-unreachable", False),
    ("failed to fetch anonymous token: Get https://r/token: net/http: TLS handshake timeout", "registry-unreachable", False),
    ("unexpected status code 503 Service Unavailable", "registry-unreachable", False),
    ("429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit", "image-rate-limit", False),
    ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "registry-certificate", True),
    ("write /var/lib/x: no space left on device", "node-disk-full", False),
    ("something new", "image-pull-failed", False),
]


@pytest.mark.parametrize(("words", "cause", "certain"), IMAGES)
@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_images_that_do_not_come(words: str, cause: str, certain: bool, reason: str) -> None:
    # the state says why on the first failure only; afterwards the event does
    message = PULL + words if reason == "ErrImagePull" else 'Back-off pulling image "vllm/vllm-openai:v0.32.0"'
    events = [an_event("Pulling", "Pulling image"), an_event("Failed", PULL + words), an_event("Failed", "Error: ErrImagePull")]
    fault = {"pod": a_pod({"waiting": {"reason": reason, "message": message}}, phase="Pending"), "events": events}
    verdict = found(judge(fault))
    assert (verdict.cause, verdict.certain, verdict.where) == (cause, certain, "container vllm of pod vllm-0")
    assert {sign.cause for sign in IMAGE_SIGNS} <= {image[1] for image in IMAGES}


def test_the_name_of_an_image_says_nothing_of_its_fate() -> None:
    pod = a_pod({"waiting": {"reason": "ErrImagePull", "message": 'Failed to pull image "x/not-found-denied:1": something new'}})
    pod["spec"]["containers"][0]["image"] = "x/not-found-denied:1"
    assert found(judge({"pod": pod})).cause == "image-pull-failed"


def test_recorded_images() -> None:
    refused = found(judge(recorded("image_registry_refuses_connection")))
    assert (refused.cause, refused.certain) == ("registry-unreachable", False)
    assert "connection refused" in refused.what
    invalid, absent = found(judge(recorded("image_invalid_name"))), found(judge(recorded("image_never_pulled")))
    assert (invalid.cause, invalid.certain, invalid.advice) == ("image-name-invalid", True, "Correct vllm_image")
    assert (absent.cause, absent.certain) == ("image-not-on-node", True)
    assert "vllm_image_pull_policy" in absent.advice


def test_a_slow_pull_is_no_verdict() -> None:
    pod = a_pod({"waiting": {"reason": "ContainerCreating"}}, phase="Pending")
    mount = an_event("FailedMount", 'MountVolume.SetUp failed for volume "s" : secret "nope" not found', at="2026-11-21T16:09:00Z")
    assert judge({"pod": pod, "events": [mount, an_event("Pulling", "Pulling image")]}) is None


def test_the_router_has_variables_of_its_own() -> None:
    pod = a_pod({"waiting": {"reason": "ErrImagePull", "message": PULL + "x: not found"}})
    pod["spec"]["containers"][0]["name"] = pod["status"]["containerStatuses"][0]["name"] = "router"
    assert found(judge({"pod": pod})).advice == "Correct vllm_router_image"
    denied = copy.deepcopy(pod)
    denied["status"]["containerStatuses"][0]["state"]["waiting"]["message"] = PULL + "denied"
    assert found(judge({"pod": denied})).advice.endswith("vllm_image_pull_secrets")


# -- containers that are not made --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("secret_missing", "secret-missing", "nope"),
        ("secret_key_missing", "key-missing", "key k"),
        ("runs_as_root", "runs-as-root", "root"),
        ("mount_secret_missing", "configmap-missing", "nopec"),
        ("executable_missing", "executable-missing", "/nope"),
    ],
)
def test_recorded_refusals_of_a_container(name: str, cause: str, words: str) -> None:
    verdict = found(judge(recorded(name)))
    assert (verdict.cause, verdict.certain) == (cause, True)
    assert words in verdict.what


RUNC = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "


@pytest.mark.parametrize(
    ("words", "cause", "certain"),
    [
        ("nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, please update your driver", "driver-too-old", True),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown", "no-gpu", True),
        ("nvidia-container-cli: mount error: file creation failed", "no-gpu", True),
        ("exec /usr/bin/python3: exec format error", "wrong-cpu", True),
        ('error mounting "/x": not a directory', "container-not-created", False),
    ],
)
@pytest.mark.parametrize("waits", [True, False])
def test_containers_that_cannot_be_started(words: str, cause: str, certain: bool, waits: bool) -> None:
    told = {"message": RUNC + words}
    state = (
        {"waiting": {"reason": "RunContainerError", **told}} if waits else {"terminated": {"reason": "StartError", "exitCode": 128, **told}}
    )
    verdict = found(judge({"pod": a_pod(state)}))
    assert (verdict.cause, verdict.certain) == (cause, certain)
    assert found(judge({"pod": a_pod(state, restarts=1)})).certain


@pytest.mark.parametrize(
    ("event", "cause", "certain"),
    [
        (
            ("FailedAttachVolume", 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) x'),
            "volume-attached-elsewhere",
            False,
        ),
        (("FailedMount", "MountVolume.MountDevice failed for volume: exit status 32"), "mount-failed", False),
        (("FailedMount", 'MountVolume.SetUp failed for volume "t" : configmap "kube-root-ca.crt" not found'), "mount-failed", False),
        (("FailedCreatePodSandBox", 'failed to get sandbox runtime: no runtime for "nvidia" is configured'), "runtime-class", True),
        (("FailedCreatePodSandBox", "plugin type=cni failed: no addresses"), "sandbox-failed", False),
    ],
)
def test_what_keeps_a_pod_from_being_made(event: tuple[str, str], cause: str, certain: bool) -> None:
    vague = an_event("FailedMount", "Unable to attach or mount volumes: timed out waiting for the condition", at="2026-11-21T16:11:00Z")
    fault = {"pod": a_pod({"waiting": {"reason": "ContainerCreating"}}, phase="Pending"), "events": [an_event(*event), vague]}
    verdict = found(judge(fault))
    assert (verdict.cause, verdict.certain) == (cause, certain)
    running = {"pod": a_pod({"running": {"startedAt": T0}}), "events": fault["events"]}
    assert judge(running) is None
    # where nothing else is said, the vague words are
    assert found(judge({**fault, "events": [vague]})).cause == "mount-failed"


# -- containers that end -----------------------------------------------------------------------------------------------


def ended(code: int = 1, reason: str = "Error", ran_s: int = 10, **more: t.Any) -> Object:
    finish = datetime.datetime.fromtimestamp(seconds(T0) + ran_s, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": T0, "finishedAt": finish, **more}}


BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
FLAG = "api_server.py: error: unrecognized arguments: --foo\n"
TAKEN = (
    "ValueError: Free memory on device cuda:0 (3.2/79.1 GiB) on startup is less than desired GPU memory utilization (0.92, 72.8 GiB). "
    "Decrease GPU memory utilization or reduce GPU memory used by other processes.\n"
)


def test_a_crash_is_told_by_its_log() -> None:
    verdict = found(judge(recorded("crash_loop"), FLAG))
    assert verdict == Verdict(
        cause="unknown-flag",
        what="its program does not know the flag --foo",
        where="container vllm of pod crash",
        since="2026-11-21T16:13:00Z",
        log="unrecognized arguments: --foo",
        advice="Remove it from vllm_model_configs.<row>.extra_args, or take a vllm_image that knows it",
        certain=True,
    )
    assert verdict.text(seconds(verdict.since) + 12) == (
        "crash, container vllm: its program does not know the flag --foo (for 12 s). "
        'Its log: "unrecognized arguments: --foo". '
        "Remove it from vllm_model_configs.<row>.extra_args, or take a vllm_image that knows it."
    )
    assert "(for" not in verdict.text()


def test_a_verdict_without_a_container_or_a_log() -> None:
    verdict = Verdict("quota", "no room", "Deployment vllm-backend", "", "", "", True)
    assert verdict.text(NOW) == "Deployment vllm-backend: no room."


def test_a_crash_without_a_known_cause_is_certain_the_second_time() -> None:
    strange = "ValueError: the moon is full\n"
    first = found(judge({"pod": a_pod(ended())}, strange))
    assert (first.cause, first.log, first.certain) == ("crashed", "ValueError: the moon is full", False)
    assert found(judge({"pod": a_pod(BACK_OFF, ended(), restarts=1)}, strange)).certain
    assert not found(judge({"pod": a_pod({"running": {}}, ended(), restarts=1)}, strange)).certain
    recorded_one = found(judge(recorded("crash_unknown"), ""))
    assert (recorded_one.cause, recorded_one.certain, recorded_one.log) == ("crashed", True, "")
    assert "ended 4 times, last with exit code 1" in recorded_one.what


@pytest.mark.parametrize(("restarts", "certain"), [(0, False), (1, False), (2, True)])
def test_memory_held_by_another_process_may_come_free(restarts: int, certain: bool) -> None:
    verdict = found(judge({"pod": a_pod(ended(), restarts=restarts)}, TAKEN))
    assert (verdict.cause, verdict.certain) == ("gpu-memory-taken", certain)
    assert "3.2 of 79.1 GiB of GPU cuda:0 are free" in verdict.what


def test_a_cause_that_heals_never_becomes_certain() -> None:
    log = "huggingface_hub.errors.HfHubHTTPError: \n\n429 Too Many Requests for url: https://huggingface.co/api\n"
    assert not found(judge({"pod": a_pod(BACK_OFF, ended(), restarts=9)}, log)).certain


def test_only_the_log_of_a_run_that_has_ended_is_read() -> None:
    asked = []

    def log_of(pod: str, container: str, previous: bool) -> str:
        asked.append((pod, container, previous))
        return FLAG

    assert pod_verdict(a_pod({"running": {}}), [], log_of, never, now=NOW) is None
    assert asked == []
    for state, last in ((ended(), None), (BACK_OFF, ended()), ({"running": {}}, ended())):
        assert found(pod_verdict(a_pod(state, last), [], log_of, never, now=NOW)).cause == "unknown-flag"
    assert [question[-1] for question in asked] == [False, True, True]

    def only_current(pod: str, container: str, previous: bool) -> str:
        return "" if previous else FLAG

    assert found(pod_verdict(a_pod(BACK_OFF, ended()), [], only_current, never, now=NOW)).cause == "unknown-flag"
    assert found(pod_verdict(a_pod({"running": {}}, ended()), [], only_current, never, now=NOW)).cause == "crashed"


def test_of_two_containers_the_one_that_is_certain_counts() -> None:
    pod = a_pod({"waiting": {"reason": "ErrImagePull", "message": "i/o timeout"}})
    second = {**pod["status"]["containerStatuses"][0], "name": "second", "state": {"waiting": {"reason": "InvalidImageName"}}}
    pod["spec"]["containers"].append({"name": "second", "image": "A"})
    pod["status"]["containerStatuses"].append(second)
    verdict = found(judge({"pod": pod}))
    assert (verdict.cause, verdict.where, verdict.since) == ("image-name-invalid", "container second of pod vllm-0", T0)


def test_a_log_may_be_had_only_from_the_state() -> None:
    verdict = found(judge({"pod": a_pod(ended(message=FLAG))}))
    assert verdict.cause == "unknown-flag"


def test_an_engine_that_has_served_says_little_about_its_next_start() -> None:
    out = "torch.OutOfMemoryError: CUDA out of memory.\n"
    assert found(judge({"pod": a_pod({"running": {}}, ended(ran_s=60), restarts=1)}, out)).certain
    assert not found(judge({"pod": a_pod({"running": {}}, ended(ran_s=9000), restarts=1)}, out)).certain


def test_pods_that_need_no_verdict() -> None:
    ready = a_pod({"running": {}}, ended(), restarts=3, conditions=[{"type": "Ready", "status": "True"}])
    assert judge({"pod": ready}, FLAG) is None
    done = a_pod(ended(0, "Completed"), phase="Succeeded")
    assert judge({"pod": done}, FLAG) is None
    dying = a_pod(ended())
    dying["metadata"]["deletionTimestamp"] = T0
    assert judge({"pod": dying}, FLAG) is None
    job = a_pod(ended(0, "Completed"))
    assert found(judge({"pod": job})).cause == "crashed"
    job["spec"]["restartPolicy"] = "Never"
    assert judge({"pod": job}) is None


def test_memory_limits() -> None:
    verdict = found(judge(recorded("out_of_memory")))
    assert (verdict.cause, verdict.certain, verdict.advice) == ("out-of-memory", True, "Raise vllm_memory_limit")
    assert "limit of 16Mi" in verdict.what
    no_limit = found(judge({"pod": a_pod(ended(137, "OOMKilled"))}))
    assert "the node's memory ran out" in no_limit.what
    assert found(judge({"pod": a_pod(ended(137, "Error"))})).cause == "crashed"


def test_a_probe_that_ends_a_loading_engine() -> None:
    fault = recorded("startup_probe")
    verdict = found(judge(fault))
    assert (verdict.cause, verdict.certain) == ("startup-timeout", True)
    assert "within the 6 s that it has for its start" in verdict.what
    assert "vllm_startup_timeout" in verdict.advice
    # probes that fail while it loads are how it should be
    fault["events"] = [event for event in fault["events"] if event["reason"] != "Killing"]
    running = {**fault, "pod": {**fault["pod"], "status": {**a_pod({"running": {"startedAt": T0}})["status"]}}}
    assert any("Startup probe failed" in event["message"] for event in running["events"])
    assert judge(running) is None


def test_an_engine_that_is_being_ended_is_judged_at_once() -> None:
    killing = an_event("Killing", "Container vllm failed startup probe, will be restarted", at="2026-11-21T16:12:00Z")
    assert found(judge({"pod": a_pod({"running": {"startedAt": T0}}), "events": [killing]})).cause == "startup-timeout"
    assert judge({"pod": a_pod({"running": {"startedAt": "2026-11-21T16:13:00Z"}}), "events": [killing]}) is None


def test_a_probe_that_ended_an_earlier_run_says_nothing_of_a_crash() -> None:
    killing = an_event("Killing", "Container vllm failed startup probe, will be restarted", at="2026-11-21T16:00:00Z")
    stopping = an_event("Killing", "Stopping container vllm", at="2026-11-21T16:20:00Z")
    assert found(judge({"pod": a_pod(ended()), "events": [killing, stopping]}, FLAG)).cause == "unknown-flag"


def test_a_liveness_probe_may_fail_once() -> None:
    fault = recorded("liveness_probe")
    verdict = found(judge(fault))
    assert (verdict.cause, verdict.certain) == ("liveness-probe", True)
    assert "3 times" in verdict.what
    for event in fault["events"]:
        event["count"] = 1
    assert not found(judge(fault)).certain


def test_evicted_pods() -> None:
    fault = recorded("evicted_emptydir")
    verdict = found(judge(fault))
    assert (verdict.cause, verdict.certain) == ("evicted", False)
    assert verdict.what.endswith('volume "e" exceeds the limit "5Mi"')
    assert verdict.since == fault["pod"]["status"]["startTime"]
    again = copy.deepcopy(fault["pod"])
    again["metadata"]["name"] = "again"
    assert [verdict.certain for verdict in diagnose(View(None, [fault["pod"], again]), NOW)] == [True, True]
    assert [verdict.certain for verdict in diagnose(View(None, [fault["pod"]]), NOW)] == [False]
    pressure = a_pod(phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage.")
    assert found(judge({"pod": pressure})).cause == "evicted-by-node"
    shutdown = a_pod(phase="Failed", reason="NodeShutdown", message="Pod was terminated")
    assert (found(judge({"pod": shutdown})).cause, found(judge({"pod": shutdown})).certain) == ("node-refused", False)


def test_a_lost_node_may_come_back() -> None:
    gone = an_event("NodeNotReady", "Node is not ready")
    verdict = found(judge({"pod": a_pod({"running": {}}), "events": [gone]}))
    assert (verdict.cause, verdict.certain) == ("node-lost", False)
    assert "gpu-a" in verdict.what
    back = an_event("Started", "Started container vllm", at="2026-11-21T16:11:00Z")
    assert judge({"pod": a_pod({"running": {}}), "events": [gone, back]}) is None
    assert found(judge({"pod": a_pod(reason="NodeLost")})).cause == "node-lost"


# -- logs --------------------------------------------------------------------------------------------------------------

KV = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is needed, which is larger than "
    "the available KV cache memory (9.25 GiB). {}Try increasing `gpu_memory_utilization`"
)
ESTIMATE = "Based on the available memory, the estimated maximum model length is 75776. "
OOM = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.07 GiB is free. Including"
CPU_SHORT = "Available memory on node 0 (3.1/31.0 GiB) on {} ({}"
LOGS: list[tuple[str, str, str, bool]] = [
    (KV.format(ESTIMATE), "kv-cache-too-small", "one chat of 131072 tokens needs 16.00 GiB of KV cache, and 9.25 GiB are left", True),
    (KV.format("").replace("model's", "models's"), "kv-cache-too-small", "9.25 GiB are left", True),
    ("ValueError: No available memory for the cache blocks. Try increasing", "kv-cache-too-small", "leaves no memory", True),
    (TAKEN, "gpu-memory-taken", "gpu_memory_utilization 0.92 asks for 72.8 GiB", False),
    (
        "ValueError: " + CPU_SHORT.format("startup is less than desired CPU memory utilization", "0.92, 28.5 GiB)."),
        "host-memory-taken",
        "3.1 of 31.0 GiB of memory are free, and gpu_memory_utilization 0.92 asks for 28.5 GiB",
        False,
    ),
    (
        "ValueError: " + CPU_SHORT.format("kv cache allocation is less than requested memory for kv", "8.0 GiB)."),
        "host-memory-taken",
        "the KV cache asks for 8.0 GiB",
        False,
    ),
    (
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests.",
        "gpu-out-of-memory",
        "256 requests",
        True,
    ),
    (f"torch.OutOfMemoryError: {OOM}", "gpu-out-of-memory", "GPU 0 has no room for 2.00 GiB more: 1.07 GiB of 79.11 GiB are free", True),
    ("torch.AcceleratorError: CUDA error: out of memory", "gpu-out-of-memory", "full", True),
    ("RuntimeError: Engine core initialization failed. Failed core proc(s): {'EngineCore': -9}", "killed", "signal 9", False),
    (
        "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, unhandled system error, NCCL version 2.27\n"
        "Last error:\nError while creating shared memory segment /dev/shm/nccl-x (size 9637888), error: No space left on device (28)",
        "shm-too-small",
        "/dev/shm",
        True,
    ),
    (
        "RuntimeError: Insufficient space in /dev/shm for shared-memory allocation: 160 MiB required, 64 MiB free. Increase /dev/shm "
        "(e.g. --shm-size or --ipc=host).",
        "shm-too-small",
        "160 MiB are needed at once, 64 MiB are free",
        True,
    ),
    ("Bus error (core dumped)", "shm-too-small", "/dev/shm", True),
    ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "host-out-of-memory", "memory", True),
    (
        "ValueError: User-specified max_model_len (99999) is greater than the derived max_model_len (max_position_embeddings=32768 or x",
        "max-model-len-too-long",
        "max_model_len 99999 is more than the 32768 tokens",
        True,
    ),
    ("ValueError: max_num_batched_tokens (2048) is smaller than max_model_len (16384).", "bad-flag-value", "16384", True),
    ("ValueError: max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (256).", "bad-flag-value", "64", True),
    (FLAG, "unknown-flag", "--foo", True),
    ("error: unexpected argument '--bar' found", "unknown-flag", "--bar", True),
    ("api_server.py: error: argument --dtype: invalid choice: 'float17' (choose from 'auto')", "bad-flag-value", '"float17"', True),
    ("api_server.py: error: argument --max-model-len: invalid int_or_auto value: 'abc'", "bad-flag-value", '"abc"', True),
    ("api_server.py: error: argument --port: expected one argument", "bad-flag-value", "--port lacks its value", True),
    ("ValueError: Configuration validation failed: Validation failed: no selector", "bad-flag-value", "together: no selector", True),
    ("KeyError: 'invalid tool call parser: hermez (chose from { hermes })'", "unknown-tool-parser", '"hermez"', True),
    ("KeyError: \"Reasoning parser 'qwn' not found. Available parsers: x\"", "unknown-reasoning-parser", '"qwn"', True),
    ("TypeError: Error: --enable-auto-tool-choice requires --tool-call-parser", "tool-parser-missing", "parser", True),
    ("ValueError: Total number of attention heads (14) must be divisible by tensor parallel size (4).", "tensor-parallel", "14", True),
    ("ValueError: World size (4) is larger than the number of available GPUs (2) in this node.", "too-few-gpus", "4 GPUs are wanted", True),
    ("AssertionError: 151936 is not divisible by 3", "tensor-parallel", "151936", True),
    (
        "VLLMValidationError: The supplied chat template (x.jinja) looks like a file path, but it failed to be opened.",
        "chat-template",
        "",
        True,
    ),
    (
        "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. Current capability: 75.",
        "gpu-too-old",
        "fp8 needs a GPU of compute capability 8.9, and this one has 7.5",
        True,
    ),
    (
        "ValueError: FP8 KV cache is not supported by the Triton attention backend on NVIDIA A100 (compute capability 8.0); native",
        "gpu-too-old",
        "NVIDIA A100 (compute capability 8.0) has no fp8 KV cache",
        True,
    ),
    ("ValueError: No valid attention backend found for NVIDIA T4 with AttnSelectorConfig(x)", "no-attention-backend", "NVIDIA T4", True),
    (
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has compute",
        "dtype-unsupported",
        "Tesla T4",
        True,
    ),
    (
        "ValueError: torch.bfloat16 is not supported for quantization method awq. Supported dtypes: [torch.float16]",
        "dtype-unsupported",
        "awq weights cannot be computed in bfloat16",
        True,
    ),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "gpu-unsupported", "generation", True),
    ("RuntimeError: The NVIDIA driver on your system is too old (found version 12020).", "driver-too-old", "CUDA 12020", True),
    ("nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, please", "driver-too-old", "cuda>=12.8 is needed", True),
    ("RuntimeError: CUDA driver version is insufficient for CUDA runtime version", "driver-too-old", "too old", True),
    ("ImportError: libcuda.so.1: cannot open shared object file: No such file or directory", "no-gpu", "no GPU", True),
    ("RuntimeError: Failed to infer device type, please set the environment variable", "no-gpu", "no GPU", True),
    ("RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)", "nccl", "NCCL", False),
    ("torch.AcceleratorError: CUDA error: an illegal memory access was encountered", "cuda-error", "illegal memory access", False),
    ("exec /usr/local/bin/vllm: exec format error", "wrong-cpu", "another CPU", True),
    ("ValueError: Model architectures ['FooForCausalLM'] are not supported for now.", "architecture-unsupported", "'FooForCausalLM'", True),
    (
        "ValueError: The checkpoint you are trying to load has model type `foo` but Transformers does not recognize this architecture.",
        "architecture-unsupported",
        "foo",
        True,
    ),
    ("RuntimeError: Failed to load the model config. Consider setting `trust_remote_code=True` in LLM", "trust-remote-code", "code", True),
    ("torch._inductor.exc.InductorError: RuntimeError: Failed to find C compiler.", "no-compiler", "compiler", True),
    (
        "kubernetes.client.exceptions.ApiException: (403)\nReason: Forbidden\nHTTP response body: pods is forbidden",
        "router-not-permitted",
        "may not look at the pods",
        True,
    ),
    (
        "huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: x)\n\nCannot access gated repo for url https://huggingface.co",
        "hub-gated",
        "gated",
        True,
    ),
    ("huggingface_hub.errors.RevisionNotFoundError: 404 Client Error.", "hub-revision-missing", "revision", True),
    (
        "huggingface_hub.errors.HfHubHTTPError: Client error '401 Unauthorized'\n\nInvalid credentials in Authorization header",
        "hub-token",
        "token",
        True,
    ),
    (
        "httpx.HTTPStatusError: Client error '401 Unauthorized' for url 'https://huggingface.co/api/models/Qwen/Nope'\n\n"
        "The above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n"
        "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: x)",
        "hub-repository-missing",
        "no such model",
        True,
    ),
    (
        "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.\n\n"
        "Repository Not Found for url: http://hub.example.com/some/model/resolve/main/config.json.\n"
        "Please make sure you specified the correct `repo_id` and `repo_type`.\n"
        "If you are trying to access a private or gated repo, make sure you are authenticated and your token has the permissions.\n"
        "\nThe above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n"
        "OSError: some/model is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'",
        "hub-repository-missing",
        "no such model",
        True,
    ),
    ("OSError: You are trying to access a gated repo.\nMake sure to have access to it at https://x", "hub-gated", "is gated", True),
    ("huggingface_hub.errors.HfHubHTTPError: \n\n403 Forbidden: None.\nCannot access content at: https://x", "hub-gated", "allow", True),
    ("huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized for url: https://x", "hub-token", "token", True),
    ("huggingface_hub.errors.HfHubHTTPError: \n\n429 Too Many Requests for url: https://x", "hub-rate-limit", "too many", False),
    (
        "huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://x: offline mode is enabled.",
        "weights-not-fetched",
        "not there",
        True,
    ),
    (
        "huggingface_hub.errors.HfHubHTTPError: Server error '503 Service Unavailable' for url 'https://huggingface.co/api'",
        "hub-unreachable",
        "https://huggingface.co cannot be reached",
        False,
    ),
    ("socket.gaierror: [Errno -3] Temporary failure in name resolution", "name-resolution", "host name", False),
    ("OSError: Repo id must be in the form 'repo_name' or 'x/y': '/data/qwen'. Use", "model-missing", "no folder /data/qwen", True),
    ("OSError: Repo id must be in the form 'repo_name' or 'x/y': 'a/b/c'. Use", "hub-repository-missing", "a/b/c is no name", True),
    ("OSError: /data/qwen does not appear to have a file named config.json. Checkout", "no-config", "/data/qwen", True),
    ("RuntimeError: Cannot find any model weights with `/data/qwen`", "weights-missing", "/data/qwen", True),
    ("OSError: [Errno 28] No space left on device", "disk-full", "full", True),
    ("OSError: [Errno 30] Read-only file system: '/data/hub'", "read-only", "/data/hub", True),
    ("mkdir: cannot create directory 'x': Read-only file system", "read-only", "read-only", True),
    ("PermissionError: [Errno 13] Permission denied: '/data/hub'", "permission-denied", "/data/hub", True),
    ("chown: /data: Operation not permitted", "permission-denied", "", True),
    (
        "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered",
        "weights-corrupt",
        "damaged",
        True,
    ),
    ("RuntimeError: PytorchStreamReader failed reading zip archive: not a ZIP archive.", "weights-corrupt", "damaged", True),
    ("AssertionError: Attempted to load weight (torch.Size([1])) into parameter (torch.Size([2]))", "weights-corrupt", "damaged", True),
    ("OSError: [Errno 98] Address already in use", "port-taken", "port", True),
    ('pyo3_runtime.PanicException: failed: FailedToCreateHTTPListener("Address already in use (os error 98)")', "port-taken", "port", True),
    ("sh: 1: vllm: not found", "executable-missing", "no program vllm", True),
]


@pytest.mark.parametrize(("log", "cause", "words", "certain"), LOGS, ids=[f"{row[1]}-{number}" for number, row in enumerate(LOGS)])
def test_what_a_log_says(log: str, cause: str, words: str, certain: bool) -> None:
    known = log_cause(log)
    assert known is not None
    assert (known.cause, known.certain) == (cause, certain)
    assert words in known.what
    assert known.advice
    assert known.line
    assert "\n" not in known.line
    assert not re.search(r"\bpods?\b|{", known.what + known.advice) or cause == "router-not-permitted"


def test_every_sign_is_tried() -> None:
    texts = [known[0] for known in LOGS] + ["its process was killed (signal 9)"]
    texts += [(FIXTURES / f"log_{name}.txt").read_text() for name in RECORDED]
    first = {next((n for n, sign in enumerate(LOG_SIGNS) if re.search(sign.pattern, text, re.MULTILINE)), -1) for text in texts}
    assert [sign.pattern for n, sign in enumerate(LOG_SIGNS) if n not in first] == []


RECORDED = {
    "flag": ("unknown-flag", "--foo"),
    "choice": ("bad-flag-value", 'the flag --kv-cache-dtype does not take "fp9"'),
    "missing": ("model-missing", "there is no folder /nosuch/model"),
    "offline": ("weights-not-fetched", "HF_HUB_OFFLINE"),
    "unreachable": ("hub-unreachable", "https://huggingface.co cannot be reached"),
    "empty": ("no-config", "/data/qwen3 has no config.json"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_logs(name: str) -> None:
    known = log_cause((FIXTURES / f"log_{name}.txt").read_text())
    assert known is not None
    assert known.cause == RECORDED[name][0]
    assert RECORDED[name][1] in known.what


def test_the_estimate_of_vllm_is_the_advice() -> None:
    known = log_cause(KV.format(ESTIMATE))
    assert known is not None
    assert known.advice == "Set vllm_model_configs.<row>.max_model_len: 75776"


def test_offline_mode_is_told_from_a_hub_that_is_down() -> None:
    # both end with the same words; what the error came of tells which it is
    end = "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached files.\n"
    link = "\nThe above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n"
    offline = (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the files in the disk cache and outgoing traffic has been disabled.\n"
    )
    assert t.cast(LogCause, log_cause(offline + link + end)).cause == "weights-not-fetched"
    assert t.cast(LogCause, log_cause(offline + end)).cause == "hub-unreachable"


@pytest.mark.parametrize(
    "log",
    [
        "",
        "INFO 11-21 09:13:01 [x.py:1] Started\n",
        "(EngineCore pid=1) WARNING 11-21 09:13:01 [x.py:1] CUDA out of memory. Tried to allocate 2.00 GiB\n",
        'INFO:     10.0.0.1:1 - "GET /v1/models HTTP/1.1" 404 Not Found\n',
        "'[Errno -2] Name or service not known' thrown while requesting HEAD https://huggingface.co/x\nRetrying in 8s [Retry 4/5].\n",
    ],
)
def test_a_log_without_a_failure(log: str) -> None:
    assert log_cause(log) is None


@pytest.mark.parametrize(
    "log",
    [
        "ValueError: the KV cache is fine\n",
        "KeyError: 'layers.0.weight'\n",
        "OSError: [Errno 24] Too many open files\n",
        "torch.OutOfMemoryError: of an earlier attempt that was handled: 429 Client Error\nValueError: the moon is full\n",
    ],
)
def test_a_failure_without_a_name(log: str) -> None:
    known = log_cause(log)
    assert known is not None
    assert (known.cause, known.line, known.certain) == ("crashed", log.splitlines()[-1], False)


# -- all of them -------------------------------------------------------------------------------------------------------


def a_deployment(message: str = "", **status: t.Any) -> Object:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message, "lastTransitionTime": T0}
    return {"kind": "Deployment", "metadata": {"name": "vllm-backend"}, "status": {"conditions": [failure] if message else [], **status}}


REFUSALS = [
    (
        'pods "x" is forbidden: exceeded quota: q, requested: memory=9Gi, used: memory=8Gi, limited: memory=10Gi',
        "quota",
        True,
    ),
    ('pods "x" is forbidden: failed quota: q: must specify limits.cpu', "quota", True),
    ('pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false', "pod-security", True),
    ('admission webhook "validate.kyverno.svc" denied the request: no', "admission", True),
    ('Internal error occurred: failed calling webhook "mutate.example.com": Post "https://x": no endpoints', "webhook-unreachable", False),
    ('pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi', "limit-range", True),
    ('pods "x" is forbidden: no PriorityClass with name urgent was found', "priority-class", True),
    ('pods "x" is forbidden: pod rejected: RuntimeClass "nvidia" not found', "runtime-class", True),
    ('pods "x" is forbidden: error looking up service account chatbot/x: serviceaccount "x" not found', "pods-refused", False),
]


@pytest.mark.parametrize(("message", "cause", "certain"), REFUSALS)
def test_pods_that_are_refused(message: str, cause: str, certain: bool) -> None:
    (verdict,) = diagnose(View(a_deployment(message), []), NOW)
    assert (verdict.cause, verdict.certain, verdict.where, verdict.since) == (cause, certain, "Deployment vllm-backend", T0)
    assert {sign.cause for sign in REFUSAL_SIGNS} <= {refused[1] for refused in REFUSALS}


def test_a_recorded_quota() -> None:
    fault = recorded("quota")
    (verdict,) = diagnose(View(fault["deployment"], [], fault["events"]), NOW)
    assert (verdict.cause, verdict.certain) == ("quota", True)
    assert "requests.nvidia.com/gpu=64 asked, requests.nvidia.com/gpu=64 in use, requests.nvidia.com/gpu=70 allowed" in verdict.what
    # what still ends makes room
    ending = a_pod({"running": {}})
    ending["metadata"]["deletionTimestamp"] = T0
    assert not diagnose(View(fault["deployment"], [ending], fault["events"]), NOW)[0].certain


def test_refusals_of_a_job_are_in_its_events() -> None:
    job = {"kind": "Job", "metadata": {"name": "prefetch"}, "status": {}}
    no = an_event("FailedCreate", "Error creating: exceeded quota: q, requested: a=1, used: a=1, limited: a=1", "Job", "prefetch")
    yes = an_event("SuccessfulCreate", "Created pod", "Job", "prefetch", at="2026-11-21T16:12:00Z")
    assert [verdict.where for verdict in diagnose(View(job, [], [no]), NOW)] == ["Job prefetch"]
    assert diagnose(View(job, [], [no, yes]), NOW) == []
    assert diagnose(View(job, [], [{**no, "involvedObject": {"kind": "Job", "name": "other"}}]), NOW) == []


def of_generation(pod: Object, name: str, generation: str, created: str) -> Object:
    pod["metadata"].update(name=name, labels={"pod-template-hash": generation}, creationTimestamp=created)
    return pod


def test_pods_of_an_older_generation_do_not_decide() -> None:
    old = of_generation(a_pod(ended()), "old", "a", "2026-11-21T15:00:00Z")
    new = of_generation(a_pod(ended()), "new", "b", "2026-11-21T16:00:00Z")
    late = of_generation(a_pod(ended()), "late", "a", "2026-11-21T16:05:00Z")
    view = View(a_deployment(), [old, late, new], log_of=lambda pod, container, previous: FLAG)
    verdicts = diagnose(view, NOW)
    assert [(verdict.where.split()[-1], verdict.certain) for verdict in verdicts] == [("new", True), ("late", False), ("old", False)]


def test_a_deployment_without_new_pods_is_not_judged_by_its_old_ones() -> None:
    pods = [a_pod(ended())]

    def log_of(_pod: str, _container: str, _previous: bool) -> str:
        return FLAG

    for status, certain in (({"observedGeneration": 2}, False), ({"observedGeneration": 2, "updatedReplicas": 1}, True), ({}, True)):
        deployment = a_deployment(**status)
        deployment["metadata"]["generation"] = 2
        assert [verdict.certain for verdict in diagnose(View(deployment, pods, log_of=log_of), NOW)] == [certain]
    deployment = a_deployment(observedGeneration=1, updatedReplicas=1)
    deployment["metadata"]["generation"] = 2
    assert not diagnose(View(deployment, pods, log_of=log_of), NOW)[0].certain


def test_certain_verdicts_come_first_and_the_surroundings_are_asked_once() -> None:
    asked = []

    def surroundings() -> Surroundings:
        asked.append(1)
        return Surroundings([a_node()], False, None)

    waiting = of_generation(unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu."), "w", "a", "2026-11-21T16:02:00Z")
    other = of_generation(unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu."), "x", "a", "2026-11-21T16:03:00Z")
    broken = of_generation(a_pod(ended()), "b", "a", "2026-11-21T16:01:00Z")
    view = View(a_deployment(), [waiting, other, broken], log_of=lambda pod, container, previous: FLAG, surroundings=surroundings)
    assert [verdict.cause for verdict in diagnose(view, NOW)] == ["unknown-flag", "resources-taken", "resources-taken"]
    assert asked == [1]
    diagnose(view._replace(pods=[broken], surroundings=never), NOW)


def test_a_job_that_failed_twice_the_same_way_is_certain() -> None:
    def failed(name: str) -> Object:
        pod = of_generation(a_pod(ended(), phase="Failed"), name, "", T0)
        pod["spec"]["restartPolicy"] = "Never"
        return pod

    job = {"kind": "Job", "metadata": {"name": "prefetch"}, "status": {}}

    def strange(_pod: str, _container: str, _previous: bool) -> str:
        return "ValueError: the moon is full\n"

    assert [verdict.certain for verdict in diagnose(View(job, [failed("a")], log_of=strange), NOW)] == [False]
    assert [verdict.certain for verdict in diagnose(View(job, [failed("a"), failed("b")], log_of=strange), NOW)] == [True, True]


def test_nothing_is_wrong() -> None:
    ready = a_pod({"running": {}}, conditions=[{"type": "Ready", "status": "True"}])
    assert diagnose(View(a_deployment(), [ready, a_pod({"running": {}})], surroundings=never), NOW) == []
    assert diagnose(View(None, []), NOW) == []
