# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decisions of kubernetes_apply, without a cluster."""

from __future__ import annotations

import base64
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _apply
from ansible_collections.llmops.serving.plugins.module_utils._apply import KINDS, Owner, Step
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KubeError, Object

OWNER = Owner("chat", "vllm")
OURS = OWNER.labels


def document(kind: str, name: str = "x", **fields: t.Any) -> Object:
    metadata = {"name": name, **fields.pop("metadata", {})}
    return {"apiVersion": KINDS[kind].api_version if kind in KINDS else "v1", "kind": kind, "metadata": metadata, **fields}


def encoded(**values: str) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


# --- preparing -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Namespace", "/api/v1/namespaces/x"),
        ("Secret", "/api/v1/namespaces/ns/secrets/x"),
        ("RoleBinding", "/apis/rbac.authorization.k8s.io/v1/namespaces/ns/rolebindings/x"),
    ],
)
def test_paths(kind: str, path: str) -> None:
    assert KINDS[kind].path("ns", "x") == path
    assert KINDS[kind].path("ns") == path[:-2]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"apiVersion": "apps/v1", "kind": "Deploymnet"}, r'manifests\[0\]: kind Deploymnet .* \(did you mean "Deployment"\?\)'),
        ({"apiVersion": "batch/v1beta1", "kind": "Job"}, r"manifests\[0\], a Job: apiVersion is batch/v1beta1, write batch/v1\."),
        ({"kind": "Job"}, r"apiVersion is None, write batch/v1\."),
        ({}, r"kind None is not among those"),
        ({"apiVersion": "v1", "kind": "Service"}, r"manifests\[0\], a Service: metadata.name is None\."),
        (document("Service", "../secrets/x"), r"metadata.name is '../secrets/x'"),
        (document("Service", metadata={"namespace": "other"}), r"Service/x is for the namespace other, but this set lives in ns"),
        (document("Namespace", "other"), r"Namespace/other is for the namespace other"),
        (document("Secret", data=encoded(a="b")), r"Secret/x has values in its manifest"),
        (document("Secret", stringData={"a": "b"}), r"Secret/x has values in its manifest"),
    ],
)
def test_manifests_that_are_refused(manifest: Object, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        _apply.prepare([manifest], "ns", OWNER)


def test_a_name_may_stand_once_for_each_kind() -> None:
    assert len(_apply.prepare([document("Service"), document("Deployment")], "ns", OWNER)) == 2
    with pytest.raises(ServingError, match="Service/x is in the manifests twice"):
        _apply.prepare([document("Service"), document("Service")], "ns", OWNER)


def test_labels_are_added_to_the_object_and_to_nothing_within() -> None:
    labels = {"app.kubernetes.io/component": "router", "app.kubernetes.io/instance": "wrong"}
    manifest = document("Deployment", metadata={"labels": labels}, spec={"template": {"metadata": {"labels": {"app": "x"}}}})
    prepared = _apply.prepare([manifest], "ns", OWNER)[0]
    assert prepared["metadata"]["labels"] == {"app.kubernetes.io/component": "router", **OURS}
    assert prepared["metadata"]["namespace"] == "ns"
    assert prepared["spec"]["template"]["metadata"]["labels"] == {"app": "x"}
    assert manifest["metadata"]["labels"] == labels, "the caller's manifest stays as it is"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
        ({"rollingUpdate": {"maxSurge": 0}}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}}),
        ({"type": "Recreate"}, {"type": "Recreate"}),
    ],
)
def test_a_rolling_update_is_written_out_so_that_it_can_be_given_up(given: t.Any, expected: t.Any) -> None:
    spec = {"strategy": given} if given else {"replicas": 1}
    assert _apply.prepare([document("Deployment", spec=spec)], "ns", OWNER)[0]["spec"]["strategy"] == expected


def test_ports_of_a_service_get_a_protocol() -> None:
    manifest = document("Service", spec={"ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}]})
    ports = _apply.prepare([manifest], "ns", OWNER)[0]["spec"]["ports"]
    assert ports == [{"port": 1, "protocol": "TCP"}, {"port": 2, "protocol": "UDP"}]


@pytest.mark.parametrize("value", ["", "with space", "-x", "x" * 64])
def test_an_owner_has_to_fit_a_label(value: str) -> None:
    with pytest.raises(ServingError, match=r"owner\.instance is .*, but it becomes a label"):
        Owner(value, "vllm")


def test_optional_kinds() -> None:
    assert _apply.optional_kinds(["policy/v1/PodDisruptionBudget"]) == {"PodDisruptionBudget"}
    with pytest.raises(ServingError, match=r'policy/v1beta1/PodDisruptionBudget .* \(did you mean "policy/v1/PodDisruptionBudget"\?\)'):
        _apply.optional_kinds(["policy/v1beta1/PodDisruptionBudget"])


# --- secrets -------------------------------------------------------------------------------------------------------------------------


def filled(live: t.Optional[Object], given: t.Optional[dict[str, str]] = None, keys: str = "A,B") -> tuple[Object, list[str]]:
    numbers = iter(("first", "second", "third"))
    desired = document("Secret", metadata={"annotations": {_apply.AUTOGENERATE: keys}})
    return _apply.fill_secret(desired, live, given or {}, generate=lambda: next(numbers))


def test_given_then_live_then_generated() -> None:
    live = document("Secret", data=encoded(A="live-a", B="live-b", OTHER="kept"))
    secret, generated = filled(live, {"B": "given"}, keys="A, B,C")
    assert secret["data"] == encoded(A="live-a", B="given", OTHER="kept", C="first")
    assert generated == ["C"]


def test_a_live_value_that_is_empty_is_generated() -> None:
    assert filled(document("Secret", data={"A": "", **encoded(B="b")}))[1] == ["A"]


def test_the_version_changes_with_the_data_only() -> None:
    first, _keys = filled(None)
    version = _apply.annotations_of(first)[_apply.DATA_VERSION]
    assert version
    again, _keys = filled(first)
    assert _apply.annotations_of(again)[_apply.DATA_VERSION] == version
    other, _keys = filled(first, {"A": "given"})
    assert _apply.annotations_of(other)[_apply.DATA_VERSION] != version


def test_generated_values_differ_and_are_long() -> None:
    desired = document("Secret", metadata={"annotations": {_apply.AUTOGENERATE: "A,B"}})
    values = list(_apply.plain_values(_apply.fill_secret(desired, None, {})[0]))
    assert len(set(values)) == 2
    assert min(map(len, values)) >= 32


def test_the_digest_does_not_tell_a_secret_value() -> None:
    one, other = (document("Secret", data=encoded(A=value)) for value in ("one", "other"))
    assert _apply.annotations_of(_apply.seal(one)) == _apply.annotations_of(_apply.seal(other))
    more = document("Secret", data=encoded(A="one", B="two"))
    assert _apply.annotations_of(_apply.seal(one)) != _apply.annotations_of(_apply.seal(more))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kesy": {"A": "b"}}, r'secret_data has values for kesy.*\(did you mean "keys"\?\)'),
        ({"keys": "hush"}, r"secret_data\.keys has to be a dictionary"),
        ({"keys": {"A": ["hush"]}}, r"secret_data\.keys\.A has to be a text, and it is a list"),
        ({"keys": {"A": True}}, r"secret_data\.keys\.A has to be a text, and it is a bool"),
    ],
)
def test_secret_data_that_is_refused(data: t.Any, message: str) -> None:
    with pytest.raises(ServingError, match=message) as refusal:
        _apply.given_values(data, [document("Secret", "keys")])
    assert "hush" not in str(refusal.value)


def test_empty_values_are_not_given() -> None:
    data = {"keys": {"A": "", "B": None, "C": 12345}}
    assert _apply.given_values(data, [document("Secret", "keys")]) == {"keys": {"C": "12345"}}


@pytest.mark.parametrize(
    "pod",
    [
        {"containers": [{"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "A"}}}]}]},
        {"initContainers": [{"envFrom": [{"secretRef": {"name": "keys"}}]}], "containers": []},
        {"volumes": [{"name": "v", "secret": {"secretName": "keys"}}]},
        {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "keys"}}]}}]},
    ],
)
def test_pods_that_use_a_secret_name_its_version(pod: Object) -> None:
    deployment = document("Deployment", spec={"template": {"metadata": {"annotations": {"a": "b"}}, "spec": pod}})
    annotated = _apply.roll_on_secrets(deployment, {"keys": "v1", "unused": "v2"})
    assert annotated["spec"]["template"]["metadata"]["annotations"] == {"a": "b", _apply.SECRETS: "keys=v1"}


def test_pods_without_a_secret_of_the_set_stay_as_they_are() -> None:
    pod = {"containers": [{"env": [{"name": "K", "value": "keys"}], "envFrom": [{"secretRef": {"name": "theirs"}}]}]}
    deployment = document("Deployment", spec={"template": {"spec": pod}})
    assert _apply.roll_on_secrets(deployment, {"keys": "v1"}) == deployment


def test_values_to_hide_are_found_plain_and_encoded() -> None:
    manifests = [
        document("Secret", data=encoded(A="plain")),
        document("Secret", stringData={"B": "text", "C": 1}),
        document("ConfigMap"),
        7,
    ]
    assert set(_apply.secret_values(manifests)) == {"plain", *encoded(A="plain").values(), "text"}


def test_redact_hides_the_longest_first_and_leaves_what_is_everywhere() -> None:
    assert _apply.redact("token-1-long and token-1, no", ["token-1", "token-1-long", "no"]) == "(hidden) and (hidden), no"


# --- comparing -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "live", "expected"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, False),
        ({"a": {"b": 1}}, {}, False),
        ({"a": {"b": 1}}, {"a": "text"}, False),
        ([{"a": 1}], [{"a": 1, "default": True}], True),
        ([1], [1, 2], False),
        ([1, 2], [2, 1], False),
        ([1], None, False),
        ([1], {"a": 1}, False),
        # what the server drops because it is empty
        ({"value": ""}, {}, True),
        ({"tolerations": []}, {}, True),
        ({"nodeSelector": {}}, {}, True),
        ({"hostNetwork": False}, {}, True),
        ({"strategy": {"rollingUpdate": None}}, {"strategy": {}}, True),
        # but what it keeps counts
        ({"replicas": 0}, {"replicas": 1}, False),
        ({"enableServiceLinks": False}, {"enableServiceLinks": True}, False),
        ({"value": ""}, {"value": "x"}, False),
        ({"tolerations": []}, {"tolerations": [1]}, False),
        # numbers and texts
        ({"cpu": 4}, {"cpu": "4"}, True),
        ({"cpu": "1000m"}, {"cpu": "1"}, False),
        ({"port": 1}, {"port": 2}, False),
    ],
)
def test_contains(desired: t.Any, live: t.Any, expected: bool) -> None:
    assert _apply.contains(live, desired) is expected


def test_an_object_is_the_same_whatever_the_server_counts() -> None:
    before = document("Service", metadata={"resourceVersion": "1", "uid": "a", "managedFields": [1]}, status={"x": 1}, spec={"a": 1})
    after = document("Service", metadata={"resourceVersion": "2", "uid": "a", "generation": 3}, spec={"a": 1})
    assert _apply.same(before, after)
    assert not _apply.same(before, {**after, "spec": {"a": 2}})
    assert not _apply.same(before, document("Service", metadata={"annotations": {_apply.APPLIED: "new"}}, spec={"a": 1}))


def test_diff_shows_what_matters() -> None:
    live = document("ConfigMap", metadata={"uid": "u", "managedFields": [], "annotations": {_apply.APPLIED: "1"}}, data={"f": "a\nb\n"})
    after = document("ConfigMap", metadata={"annotations": {_apply.APPLIED: "2"}}, data={"f": "a\nc\n"})
    step = Step(KINDS["ConfigMap"], "x", _apply.CHANGED, desired={}, live=live, after=after)
    text = "apiVersion: v1\ndata:\n  f: |\n    a\n    {}\nkind: ConfigMap\nmetadata:\n  name: x\n"
    assert _apply.diff_entry(step) == {
        "before": text.format("b"),
        "after": text.format("c"),
        "before_header": "ConfigMap/x",
        "after_header": "ConfigMap/x",
    }


def test_diff_of_bookkeeping_alone_is_not_empty() -> None:
    live, after = (document("ConfigMap", metadata={"annotations": {_apply.APPLIED: value}}) for value in "12")
    entry = _apply.diff_entry(Step(KINDS["ConfigMap"], "x", _apply.CHANGED, desired=after, live=live, after=after))
    assert (entry["before"], entry["after"]) == (f"{_apply.APPLIED}: 1\n", f"{_apply.APPLIED}: 2\n")


def test_diff_of_a_secret_shows_keys_only() -> None:
    live = document("Secret", data=encoded(SAME="one", OTHER="two"))
    after = document("Secret", data=encoded(SAME="one", OTHER="three", NEW="four"))
    entry = _apply.diff_entry(Step(KINDS["Secret"], "x", _apply.CHANGED, desired=after, live=live, after=after))
    assert "data:\n  OTHER: (hidden)\n  SAME: (hidden)\n" in entry["before"]
    assert "data:\n  NEW: (hidden)\n  OTHER: (hidden, changed)\n  SAME: (hidden)\n" in entry["after"]


def test_diff_of_creation_and_deletion() -> None:
    service = document("Service")
    created = _apply.diff_entry(Step(KINDS["Service"], "x", _apply.CREATED, desired=service, after={"metadata": {}}))
    deleted = _apply.diff_entry(Step(KINDS["Service"], "x", _apply.DELETED, live=service))
    assert created["before"] == deleted["after"] == ""
    assert created["after"] == deleted["before"] == "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n"


def test_diff_of_a_job_leaves_out_its_uid() -> None:
    def job(uid: str, image: str) -> Object:
        labels = {"controller-uid": uid, "job-name": "x", "app": "fetch"}
        template = {"metadata": {"labels": labels, "creationTimestamp": None}, "spec": {"image": image}}
        return document("Job", spec={"selector": {"matchLabels": {"controller-uid": uid}}, "template": template})

    step = Step(KINDS["Job"], "x", _apply.CHANGED, desired={}, live=job("1", "a"), after=job("2", "b"), replace="it failed")
    entry = _apply.diff_entry(step)
    assert entry["after"] == "# deleted and made anew: it failed\n" + entry["before"].replace("image: a", "image: b")
    assert "app: fetch" in entry["before"]


# --- pruning -------------------------------------------------------------------------------------------------------------------------


def test_prune_takes_users_before_what_they_use_and_claims_last() -> None:
    live = [document(kind) for kind in ("PersistentVolumeClaim", "ServiceAccount", "ConfigMap", "Deployment", "Service", "Secret")]
    live += [document("ConfigMap", "wanted"), document("ConfigMap", "going", metadata={"deletionTimestamp": "now"})]
    doomed = _apply.to_prune(live, {("ConfigMap", "wanted")}, keep_kinds=["Secret"])
    assert [d["kind"] for d in doomed] == ["Deployment", "Service", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim"]


def test_what_a_namespace_has_by_itself_does_not_hold_it() -> None:
    deployment, job = document("Deployment", "router"), document("Job", "fetch")
    owner = {"ownerReferences": [{"kind": "ReplicaSet", "name": "router-5d"}], "labels": {"pod-template-hash": "5d"}}
    other = {"ownerReferences": [{"kind": "ReplicaSet", "name": "router-2-5d"}], "labels": {"pod-template-hash": "5d"}}
    contents = [
        deployment,
        job,
        document("Pod", "router-5d-a", metadata=owner),
        document("Pod", "fetch-a", metadata={"labels": {"job-name": "fetch"}}),
        document("Pod", "going", metadata={"deletionTimestamp": "now"}),
        document("ConfigMap", "kube-root-ca.crt"),
        document("Secret", "default-token", metadata={"annotations": {"kubernetes.io/service-account.name": "default"}}),
    ]
    assert _apply.left_in_namespace(contents, [deployment, job]) == []
    contents += [document("Pod", "router-2-5d-a", metadata=other), document("ConfigMap", "theirs"), document("Secret", "theirs")]
    assert _apply.left_in_namespace(contents, [deployment, job]) == ["ConfigMap/theirs", "Pod/router-2-5d-a", "Secret/theirs"]


@pytest.mark.parametrize(("count", "text"), [(1, "a"), (3, "a, b, c"), (5, "a, b, c and 2 more")])
def test_brief(count: int, text: str) -> None:
    assert _apply.brief(list("abcde"[:count])) == text


@pytest.mark.parametrize(
    ("live", "labelled"),
    [
        (None, True),
        ({"metadata": {"name": "x"}}, False),
        ({"metadata": {"name": "x", "labels": {_apply.MANAGED_BY: "llmops.serving"}}}, True),
    ],
)
def test_a_namespace_is_ours_if_we_make_it(live: t.Optional[Object], labelled: bool) -> None:
    assert _apply.made_by_us(_apply.claim_namespace(document("Namespace"), live)) is labelled


@pytest.mark.parametrize(
    ("labels", "owner"),
    [({}, ""), (OURS, ""), ({**OURS, _apply.INSTANCE: "test"}, "test/vllm"), ({_apply.MANAGED_BY: "Helm", _apply.INSTANCE: "test"}, "")],
)
def test_other_owner(labels: dict[str, str], owner: str) -> None:
    assert _apply.other_owner(document("Service", metadata={"labels": labels}), OWNER) == owner


# --- words ---------------------------------------------------------------------------------------------------------------------------


def refused(kind: str, status: int, words: str, **fields: t.Any) -> str:
    step = Step(KINDS[kind], "x", _apply.CHANGED, **fields)
    return str(_apply.refusal(step, KubeError(words, status=status), "ns"))


def test_refusals_name_the_object_once() -> None:
    assert refused("Service", 422, 'Service "x" is invalid: spec.ports: Required value.') == "Service/x: spec.ports: Required value."
    forbidden = 'The Kubernetes API answered 403 to PATCH /api/v1/x: pods "x" is forbidden: exceeded quota.'
    assert refused("Service", 403, forbidden) == 'Service/x: pods "x" is forbidden: exceeded quota.'
    typed = "failed to create typed patch object: errors:\n  .spec.limits.gpu: expected string, got 64\n  .spec.requests.gpu: expected\n."
    assert refused("Job", 400, typed) == "Job/x: failed to create typed patch object: errors: .spec.limits.gpu: expected string, got 64."
    assert refused("Service", 0, "The Kubernetes API cannot be reached.") == "The Kubernetes API cannot be reached."


def test_an_immutable_field_comes_with_the_way_out() -> None:
    words = f'Deployment.apps "x" is invalid: spec.selector: Invalid value: {"v" * 2000}: field is immutable.'
    message = refused("Deployment", 422, words)
    assert message.endswith("field is immutable. It cannot be changed in place: kubectl -n ns delete deployment x, then run again.")
    assert len(message) < 600


def test_a_claim_is_never_to_be_deleted() -> None:
    live = document("PersistentVolumeClaim", spec={"accessModes": ["ReadWriteOnce"], "storageClassName": "standard"})
    desired = document("PersistentVolumeClaim", spec={"accessModes": ["ReadWriteMany"]})
    words = 'PersistentVolumeClaim "x" is invalid: [spec: Forbidden: spec is immutable\n  lots: of Go'
    message = refused("PersistentVolumeClaim", 422, words, live=live, desired=desired)
    assert message == (
        "PersistentVolumeClaim/x: spec: Forbidden: spec is immutable. The claim and its data are kept as they are. "
        "Set back accessModes to ReadWriteOnce (asked for: ReadWriteMany)."
    )


# --- claims --------------------------------------------------------------------------------------------------------------------------


def storage_class(name: str, default: bool = False) -> Object:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return document("StorageClass", name, metadata={"annotations": annotations})


@pytest.mark.parametrize(
    ("wanted", "classes", "words"),
    [
        ({}, [storage_class("slow"), storage_class("std", default=True)], ""),
        ({}, [storage_class("slow")], "has no default one. It has: slow. Name one of them"),
        ({}, [], "It has none at all."),
        ({"storageClassName": "fast"}, [storage_class("fast")], ""),
        ({"storageClassName": "fsat"}, [storage_class("fast")], 'lacks (did you mean "fast"?). It has: fast.'),
        ({"storageClassName": ""}, [], ""),
    ],
)
def test_a_claim_that_nobody_would_fill(wanted: Object, classes: list[Object], words: str) -> None:
    trouble = _apply.class_trouble(document("PersistentVolumeClaim", "models", spec=wanted), classes)
    assert words in trouble
    assert bool(trouble) is bool(words)


# --- an API server that goes away ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "heals"),
    [(0, True), (429, True), (502, True), (503, True), (504, True), (401, False), (403, False), (404, False), (409, False), (500, False)],
)
def test_what_may_heal(status: int, heals: bool) -> None:
    error = KubeError("no.", status=status)
    assert _apply.may_heal(error) is heals
    step = Step(KINDS["Service"], "x", _apply.CHANGED, desired={})
    # the error stays what it is, so that it is known for what it is further up
    assert (_apply.refusal(step, error, "ns") is error) is (heals or status == 401)


def test_an_interruption_names_what_was_changed_and_nothing_else() -> None:
    done = [
        Step(KINDS["Namespace"], "ns", _apply.UNCHANGED, done=True),
        Step(KINDS["ConfigMap"], "x", _apply.CHANGED, done=True),
        Step(KINDS["Service"], "y", _apply.DELETED, done=True),
        Step(KINDS["Deployment"], "z", _apply.CREATED),
    ]
    away = KubeError("Nobody answers.")
    assert (
        str(_apply.interrupted(away, done)) == "Nobody answers. Applied so far: ConfigMap/x, Service/y. Run again: it goes on from there."
    )
    assert str(_apply.interrupted(away, [done[0], done[3]])) == "Nobody answers. Nothing was changed. Run again."
