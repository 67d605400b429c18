# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kubernetes_apply against a cluster in memory that behaves as the API does where it matters here."""

from __future__ import annotations

import base64
import builtins
import copy
import itertools
import json
import typing as t

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.llmops.serving.plugins.module_utils._apply import KINDS
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, KubeError, Object
from ansible_collections.llmops.serving.plugins.modules import kubernetes_apply
from ansible_collections.llmops.serving.plugins.modules.kubernetes_apply import ARGS, Application

NAMESPACE = "/api/v1/namespaces/chatbot"
DEPLOYMENTS = "/apis/apps/v1/namespaces/chatbot/deployments"
JOBS = "/apis/batch/v1/namespaces/chatbot/jobs"
CLAIMS = f"{NAMESPACE}/persistentvolumeclaims"
SECRETS = f"{NAMESPACE}/secrets"
SERVICES = f"{NAMESPACE}/services"
PODS = f"{NAMESPACE}/pods"
MONITORS = "/apis/monitoring.coreos.com/v1/namespaces/chatbot/servicemonitors"
BUDGETS = "/apis/policy/v1/namespaces/chatbot/poddisruptionbudgets"


def merged(old: t.Any, previous: t.Any, new: t.Any) -> t.Any:
    """What a server-side apply makes of *old*: fields of *previous* that *new* lacks go, all others stay."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return copy.deepcopy(new)
    previous = previous if isinstance(previous, dict) else {}
    kept = {key: value for key, value in old.items() if key in new or key not in previous}
    return {**kept, **{key: merged(old.get(key), previous.get(key), value) for key, value in new.items()}}


CLASSES = "/apis/storage.k8s.io/v1/storageclasses"


class FakeKube:
    """The API as far as the module uses it. ``sent`` counts requests as Kube does, ``writes`` the changes."""

    host = "https://cluster.test"

    def __init__(self) -> None:
        self.store: dict[str, Object] = {}
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        self.classes: builtins.list[Object] = [{"metadata": {"name": "standard", "annotations": default}}]
        self.applied: dict[str, Object] = {}
        self.sent: list[str] = []
        self.writes: list[str] = []
        self.absent: set[str] = set()
        self.forbidden: set[str] = set()
        self.refused: dict[str, KubeError] = {}
        self.events: list[t.Callable[[], None]] = []
        self.log = ""
        self.clock_s = 0.0
        self.numbers = itertools.count(1)

    def _served(self, path: str) -> None:
        collection = path if path in self.absent | self.forbidden else path.rpartition("/")[0]
        if collection in self.forbidden:
            raise KubeError(f"Not permitted: cannot reach {collection}.", status=403)
        if collection in self.absent:
            raise KubeError("the server could not find the requested resource.", status=404)

    def get(self, path: str) -> t.Optional[Object]:
        self.sent.append(f"GET {path}")
        return copy.deepcopy(self.store.get(path))

    def list(self, path: str, label_selector: str = "", field_selector: str = "", missing_ok: bool = True) -> t.Iterator[Object]:
        self.sent.append(f"LIST {path}")
        try:
            self._served(path)
        except KubeError as exc:
            if exc.status == 404 and missing_ok:
                return
            raise
        if path == CLASSES:
            yield from self.classes
        for document in self._matching(path, label_selector, field_selector):
            # the API leaves out what is the same for every item of a list
            yield {key: value for key, value in document.items() if key not in ("apiVersion", "kind")}

    def _matching(self, path: str, label_selector: str, field_selector: str) -> builtins.list[Object]:
        found = []
        for place, document in self.store.items():
            labels = document["metadata"].get("labels", {})
            pairs = [pair.split("=") for pair in label_selector.split(",") if pair]
            named = field_selector in ("", f"metadata.name={document['metadata']['name']}")
            if place.rpartition("/")[0] == path and named and all(labels.get(key) == value for key, value in pairs):
                found.append(copy.deepcopy(document))
        return found

    def apply(self, path: str, body: Object, field_manager: str, dry_run: bool = False) -> Object:
        self.sent.append(f"PATCH {path}")
        self._served(path)
        if path in self.refused:
            raise self.refused[path]
        if path != NAMESPACE and NAMESPACE not in self.store:
            raise KubeError('namespaces "chatbot" not found.', status=404)
        old = self.store.get(path)
        template = (body.get("spec") or {}).get("template")
        if old and body["kind"] == "Job" and merged(old["spec"]["template"], None, template) != old["spec"]["template"]:
            raise KubeError('Job.batch "x" is invalid: spec.template: Invalid value: …: field is immutable.', status=422)
        new = merged(old or {}, self.applied.get(path, {}), body)
        if new != old:
            if not old:
                new["metadata"]["uid"] = f"uid-{next(self.numbers)}"
            if old or not dry_run:
                new["metadata"]["resourceVersion"] = str(next(self.numbers))
            new["metadata"]["generation"] = (old or new)["metadata"].get("generation", 0) + 1
            if not dry_run:
                self.writes.append(f"apply {body['kind']}/{body['metadata']['name']}")
                self.store[path] = new
        if not dry_run:
            self.applied[path] = copy.deepcopy(body)
        return copy.deepcopy(new)

    def delete(self, path: str, dry_run: bool = False) -> None:
        self.sent.append(f"DELETE {path}")
        self._served(path)
        if path in self.refused:
            raise self.refused[path]
        if not dry_run and path in self.store:
            document = self.store[path]
            self.writes.append(f"delete {document['kind']}/{document['metadata']['name']}")
            self.remove(path)

    def remove(self, path: str) -> None:
        """Take away an object, and a namespace with all that is in it."""
        for place in [place for place in self.store if place == path or (path == NAMESPACE and "/namespaces/chatbot/" in place)]:
            del self.store[place]
            self.applied.pop(place, None)

    def watch(self, path: str, label_selector: str = "", field_selector: str = "", timeout_s: int = 30) -> t.Iterator[tuple[str, Object]]:
        self.sent.append(f"WATCH {path}")
        before = self._matching(path, label_selector, field_selector)
        yield from (("ADDED", document) for document in before)
        if self.events:
            self.events.pop(0)()
        after = self._matching(path, label_selector, field_selector)
        names = {document["metadata"]["name"] for document in after}
        yield from (("DELETED", document) for document in before if document["metadata"]["name"] not in names)
        yield from (("MODIFIED", document) for document in after)
        self.clock_s += timeout_s

    def logs(self, namespace: str, pod: str, container: str = "", tail_lines: int = 40) -> str:
        return self.log

    def put(self, path: str, kind: str, labels: t.Optional[dict[str, str]] = None, **fields: t.Any) -> Object:
        """Put an object there as somebody else would."""
        name = path.rpartition("/")[2]
        metadata = {"name": name, "labels": labels or {}, "uid": f"uid-{next(self.numbers)}", **fields.pop("metadata", {})}
        self.store[path] = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields}
        return self.store[path]

    def dying(self, path: str) -> None:
        """Let the object at *path* wait for a finalizer, and go at the next event."""
        self.store[path]["metadata"].update(deletionTimestamp="2026-11-21T00:00:00Z", finalizers=["test/hold"])
        self.events.append(lambda: self.remove(path))

    def sleep(self, seconds: float) -> None:
        self.clock_s += seconds

    def finish_rollout(self) -> None:
        for path, document in self.store.items():
            if path.startswith(DEPLOYMENTS):
                generation, replicas = document["metadata"]["generation"], document["spec"].get("replicas", 1)
                counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), replicas)
                document["status"] = {"observedGeneration": generation, **counts}

    def finish_jobs(self, condition: str = "Complete", **words: str) -> None:
        for path, document in self.store.items():
            if path.startswith(JOBS):
                document["status"] = {"conditions": [{"type": condition, "status": "True", **words}]}


def manifest(kind: str, name: str, **fields: t.Any) -> Object:
    return {"apiVersion": KINDS[kind].api_version, "kind": kind, "metadata": {"name": name}, **fields}


def deployment(name: str = "router", **spec: t.Any) -> Object:
    variable = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "API"}}}
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "x:1", "env": [variable]}]}}
    return manifest("Deployment", name, spec={"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod, **spec})


def job(command: str = "fetch") -> Object:
    pod = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x:1", "command": [command]}]}}
    return manifest("Job", "fetch", spec={"template": pod})


def secret() -> Object:
    document = manifest("Secret", "keys")
    document["metadata"]["annotations"] = {"serving.llmops/autogenerate": "API, ADMIN"}
    return document


def claim(**spec: t.Any) -> Object:
    size = {"resources": {"requests": {"storage": "100Gi"}}}
    return manifest("PersistentVolumeClaim", "models", spec={"accessModes": ["ReadWriteOnce"], **size, **spec})


def stack() -> list[Object]:
    return [
        deployment(),
        manifest("Service", "router", spec={"ports": [{"port": 8000}]}),
        manifest("ConfigMap", "settings", data={"a": "1"}),
        claim(),
        job(),
        secret(),
        manifest("ServiceMonitor", "router", spec={"endpoints": []}),
        manifest("Namespace", "chatbot"),
    ]


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


def apply(kube: FakeKube, manifests: t.Optional[list[Object]] = None, check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
    params = {name: copy.deepcopy(option.get("default")) for name, option in ARGS.items()}
    params.update(manifests=stack() if manifests is None else manifests, namespace="chatbot")
    params.update({"owner": {"instance": "chat", "component": "vllm"}, **options})
    kube.sent.clear()
    return Application(t.cast(Kube, kube), params, check_mode, clock=lambda: kube.clock_s, sleep=kube.sleep).run()


def without(name: str, kind: str = "") -> list[Object]:
    return [document for document in stack() if document["metadata"]["name"] != name or kind not in ("", document["kind"])]


def actions(result: dict[str, t.Any]) -> dict[str, str]:
    return {f"{entry['kind']}/{entry['name']}": entry["action"] for entry in result["results"]}


def changed(result: dict[str, t.Any]) -> dict[str, str]:
    return {title: action for title, action in actions(result).items() if action != "unchanged"}


# --- a run, and a run again ----------------------------------------------------------------------------------------------------------


def test_first_run_creates_everything_in_the_order_of_need(kube: FakeKube) -> None:
    result = apply(kube)
    assert result["changed"]
    assert set(actions(result).values()) == {"created"}
    kinds = [write.split()[1].split("/")[0] for write in kube.writes]
    assert kinds == ["Namespace", "Secret", "ConfigMap", "PersistentVolumeClaim", "Job", "Service", "Deployment", "ServiceMonitor"]


def test_second_run_costs_one_list_for_each_kind_and_changes_nothing(kube: FakeKube) -> None:
    apply(kube)
    kube.finish_rollout()
    kube.finish_jobs()
    kube.writes.clear()
    result = apply(kube, wait=True, wait_jobs=True)
    assert not result["changed"]
    assert result["diff"] == []
    assert kube.writes == []
    assert {request.split()[0] for request in kube.sent} == {"GET", "LIST"}
    assert result["requests"] == len(kube.sent) == len(ARGS["keep_kinds"]["choices"])


def test_a_field_that_the_manifest_no_longer_has_is_a_change(kube: FakeKube) -> None:
    apply(kube, [*without("settings"), manifest("ConfigMap", "settings", data={"a": "1", "b": "2"})])
    result = apply(kube)
    assert changed(result) == {"ConfigMap/settings": "changed"}
    assert "b: '2'" in result["diff"][0]["before"]
    assert "b: '2'" not in result["diff"][0]["after"]


def test_a_change_by_hand_is_undone_and_a_field_of_others_is_left(kube: FakeKube) -> None:
    apply(kube)
    live = kube.store[f"{DEPLOYMENTS}/router"]
    live["spec"]["replicas"] = 7
    live["spec"]["paused"] = False
    assert changed(apply(kube)) == {"Deployment/router": "changed"}
    assert kube.store[f"{DEPLOYMENTS}/router"]["spec"]["replicas"] == 1
    assert "paused" in kube.store[f"{DEPLOYMENTS}/router"]["spec"]


def test_what_only_the_server_can_compare_is_tried_and_not_changed(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = {"name": "main", "resources": {"limits": {"cpu": "1000m"}}}
    manifests = [*without("router", "Deployment"), deployment(template={"spec": {"containers": [limited]}})]
    real = kube.apply

    def normalising(path: str, body: Object, field_manager: str, dry_run: bool = False) -> Object:
        return real(path, json.loads(json.dumps(body).replace("1000m", "1")), field_manager, dry_run)

    monkeypatch.setattr(kube, "apply", normalising)
    apply(kube, manifests)
    kube.writes.clear()
    result = apply(kube, manifests)
    assert not result["changed"]
    assert kube.writes == []
    assert [request for request in kube.sent if request.startswith("PATCH")] == [f"PATCH {DEPLOYMENTS}/router"]


def test_check_mode_says_what_the_real_run_then_does_and_changes_nothing(kube: FakeKube) -> None:
    foreseen = apply(kube, check_mode=True)
    assert kube.store == {}
    assert actions(foreseen) == actions(apply(kube))
    altered = [*without("router", "Service"), manifest("Service", "web", spec={"ports": [{"port": 80}]})]
    before = copy.deepcopy(kube.store)
    foreseen = apply(kube, altered, check_mode=True)
    assert kube.store == before
    real = apply(kube, altered)
    assert (foreseen["results"], foreseen["diff"]) == (real["results"], real["diff"])
    assert changed(real) == {"Service/web": "created", "Service/router": "deleted"}


@pytest.mark.parametrize("writes", range(8))
def test_an_interrupted_run_is_completed_by_the_next(kube: FakeKube, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    real = kube.apply

    def interrupted(path: str, body: Object, field_manager: str, dry_run: bool = False) -> Object:
        if not dry_run and len(kube.writes) == writes:
            raise KeyboardInterrupt
        return real(path, body, field_manager, dry_run)

    monkeypatch.setattr(kube, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply(kube)
    password = copy.deepcopy(kube.store.get(f"{SECRETS}/keys", {}).get("data"))
    monkeypatch.setattr(kube, "apply", real)
    apply(kube)
    assert len(kube.store) == len(stack())
    assert password in (None, kube.store[f"{SECRETS}/keys"]["data"])
    assert not apply(kube)["changed"]


# --- refusals ------------------------------------------------------------------------------------------------------------------------


def test_a_refused_object_leaves_everything_as_it_was(kube: FakeKube) -> None:
    apply(kube)
    before = copy.deepcopy(kube.store)
    kube.refused[f"{SERVICES}/web"] = KubeError('services "web" is forbidden: exceeded quota: small.', status=403)
    kube.refused[f"{DEPLOYMENTS}/router"] = KubeError(
        'Deployment.apps "router" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0.', status=422
    )
    manifests = [*without("router", "Deployment"), deployment(replicas=-1), manifest("Service", "web")]
    with pytest.raises(ServingError, match=r"^Nothing was changed.*Service/web: .*exceeded quota: small\. \(1 more") as refusal:
        apply(kube, manifests)
    assert kube.store == before
    assert refusal.value.details["changed"] is False
    assert refusal.value.details["refused"][1] == "Deployment/router: spec.replicas: Invalid value: -1: must be greater than or equal to 0."


def test_a_refusal_in_a_new_namespace_leaves_only_the_namespace(kube: FakeKube) -> None:
    kube.refused[f"{SERVICES}/router"] = KubeError("no.", status=422)
    with pytest.raises(ServingError, match=r"^Nothing but Namespace/chatbot was changed.*Service/router: no\.") as refusal:
        apply(kube)
    assert list(kube.store) == [NAMESPACE]
    assert refusal.value.details["results"] == [{"kind": "Namespace", "name": "chatbot", "action": "created"}]


def test_a_refused_deletion_stops_the_run_before_its_first_change(kube: FakeKube) -> None:
    apply(kube)
    kube.writes.clear()
    kube.refused[f"{SERVICES}/router"] = KubeError("Not permitted: cannot delete.", status=403)
    with pytest.raises(ServingError, match="Service/router: Not permitted"):
        apply(kube, [*without("router", "Service"), manifest("ConfigMap", "new")])
    assert kube.writes == []


def test_a_refused_claim_is_kept_and_the_way_back_is_named(kube: FakeKube) -> None:
    apply(kube, [*without("models"), claim(storageClassName="standard")])
    kube.refused[f"{CLAIMS}/models"] = KubeError("spec: Forbidden: spec is immutable after creation", status=422)
    smaller = claim(storageClassName="fast", resources={"requests": {"storage": "50Gi"}})
    with pytest.raises(ServingError) as refusal:
        apply(kube, [*without("models"), smaller])
    message = str(refusal.value)
    assert "PersistentVolumeClaim/models: spec: Forbidden: spec is immutable after creation. The claim and its data are kept" in message
    assert "Set back storageClassName to standard (asked for: fast), the size to 100Gi (asked for: 50Gi)." in message


def test_no_namespace_and_none_in_the_manifests(kube: FakeKube) -> None:
    with pytest.raises(ServingError, match="The namespace chatbot does not exist, and no manifest makes it"):
        apply(kube, without("chatbot"))


def test_another_owners_object_is_not_taken(kube: FakeKube) -> None:
    apply(kube)
    with pytest.raises(ServingError, match=r"belongs to chat/vllm \(instance/component\), and this is test/vllm"):
        apply(kube, [deployment()], owner={"instance": "test", "component": "vllm"})
    # what outlives its owner may be taken over
    result = apply(kube, [claim()], owner={"instance": "test", "component": "vllm"})
    assert changed(result) == {"PersistentVolumeClaim/models": "changed"}


def test_an_object_made_by_hand_is_taken_over_and_shown_as_a_change(kube: FakeKube) -> None:
    apply(kube, without("router"))
    kube.put(f"{SERVICES}/router", "Service", metadata={"resourceVersion": "7"}, spec={"ports": [{"port": 1, "protocol": "TCP"}]})
    result = apply(kube)
    assert actions(result)["Service/router"] == "changed"
    entry = next(entry for entry in result["diff"] if entry["after_header"] == "Service/router")
    assert "port: 1\n" in entry["before"]
    assert "port: 8000\n" in entry["after"]


def test_a_binding_may_wait_for_the_role_that_is_made_with_it(kube: FakeKube) -> None:
    apply(kube)
    binding_path = "/apis/rbac.authorization.k8s.io/v1/namespaces/chatbot/rolebindings/router"
    kube.refused[binding_path] = KubeError('roles "router" not found.', status=404)
    role = manifest("Role", "router", rules=[])
    binding = manifest("RoleBinding", "router", roleRef={"kind": "Role", "name": "router"})
    assert changed(apply(kube, [*stack(), role, binding], check_mode=True)) == {"Role/router": "created", "RoleBinding/router": "created"}
    with pytest.raises(ServingError, match="RoleBinding/router"):
        apply(kube, [*stack(), binding], check_mode=True)


# --- kinds that a cluster may lack ---------------------------------------------------------------------------------------------------


def test_an_optional_kind_is_skipped_where_the_cluster_lacks_it(kube: FakeKube) -> None:
    kube.absent = {MONITORS, BUDGETS}
    result = apply(kube)
    assert result["skipped"] == [
        {"kind": "ServiceMonitor", "name": "router", "reason": "this cluster does not know monitoring.coreos.com/v1/ServiceMonitor"}
    ]
    assert actions(result)["ServiceMonitor/router"] == "skipped"
    assert not apply(kube)["changed"]


def test_any_other_kind_is_an_error_before_anything_is_changed(kube: FakeKube) -> None:
    kube.absent = {BUDGETS}
    with pytest.raises(ServingError, match="does not know policy/v1/PodDisruptionBudget, asked for by PodDisruptionBudget/router"):
        apply(kube, [*stack(), manifest("PodDisruptionBudget", "router")])
    assert kube.store == {}


def test_whoever_may_not_list_an_optional_kind_can_still_run(kube: FakeKube) -> None:
    kube.forbidden = {MONITORS}
    assert apply(kube)["skipped"][0]["kind"] == "ServiceMonitor"  # it does not exist: the permission is checked first
    kube.store["/apis/monitoring.coreos.com/v1"] = {"metadata": {"name": "v1"}, "resources": [{"kind": "ServiceMonitor"}]}
    assert not apply(kube, without("router", "ServiceMonitor"))["changed"]
    with pytest.raises(ServingError, match="Not permitted"):
        apply(kube)


def test_a_forbidden_list_of_any_other_kind_is_an_error(kube: FakeKube) -> None:
    kube.forbidden = {SERVICES}
    with pytest.raises(ServingError, match="Not permitted"):
        apply(kube, [])


# --- pruning -------------------------------------------------------------------------------------------------------------------------


def test_what_the_set_no_longer_has_goes_but_not_what_is_kept_or_of_others(kube: FakeKube) -> None:
    kube.put(f"{SERVICES}/theirs", "Service")
    apply(kube)
    result = apply(kube, [deployment(), manifest("Namespace", "chatbot")])
    assert [title for title, action in changed(result).items() if action == "deleted"] == [
        "ServiceMonitor/router",
        "Service/router",
        "Job/fetch",
        "ConfigMap/settings",
    ]
    assert {NAMESPACE, f"{CLAIMS}/models", f"{SECRETS}/keys", f"{SERVICES}/theirs", f"{DEPLOYMENTS}/router"} == set(kube.store)


def test_without_prune_nothing_goes(kube: FakeKube) -> None:
    apply(kube)
    assert not apply(kube, [], prune=False, keep_kinds=[])["changed"]
    assert kube.sent == [f"GET {NAMESPACE}"]


def test_purge_deletes_claims_last_but_the_namespace(kube: FakeKube) -> None:
    apply(kube)
    foreseen = apply(kube, [], keep_kinds=[], check_mode=True)
    result = apply(kube, [], keep_kinds=[], wait=True)
    assert foreseen["results"] == result["results"]
    assert list(actions(result))[-2:] == ["PersistentVolumeClaim/models", "Namespace/chatbot"]
    assert kube.store == {}
    assert not apply(kube, [], keep_kinds=[])["changed"]


def test_a_namespace_that_still_has_something_is_left(kube: FakeKube) -> None:
    apply(kube)
    result = apply(kube, [], keep_kinds=["PersistentVolumeClaim", "Secret"])
    assert result["skipped"] == [
        {"kind": "Namespace", "name": "chatbot", "reason": "it still has PersistentVolumeClaim/models, Secret/keys"}
    ]
    assert NAMESPACE in kube.store
    kube.put(f"{PODS}/theirs", "Pod")
    result = apply(kube, [], keep_kinds=[])
    assert result["skipped"][0]["reason"] == "it still has Pod/theirs"
    assert set(kube.store) == {NAMESPACE, f"{PODS}/theirs"}


def test_a_namespace_that_somebody_else_made_is_used_and_left(kube: FakeKube) -> None:
    kube.put(NAMESPACE, "Namespace")
    assert actions(apply(kube))["Namespace/chatbot"] == "unchanged"
    result = apply(kube, [], keep_kinds=[])
    assert result["skipped"] == [{"kind": "Namespace", "name": "chatbot", "reason": "it was not made by llmops.serving"}]
    assert set(kube.store) == {NAMESPACE}


def test_components_share_a_namespace_without_a_fight(kube: FakeKube) -> None:
    page = [manifest("Namespace", "chatbot"), manifest("Service", "page", spec={"ports": []})]
    apply(kube)
    apply(kube, page, owner={"instance": "chat", "component": "open-webui"})
    assert not apply(kube)["changed"]
    assert not apply(kube, page, owner={"instance": "chat", "component": "open-webui"})["changed"]


def test_with_wait_the_pods_of_a_pruned_deployment_are_gone_at_the_end(kube: FakeKube) -> None:
    apply(kube)
    labels = {"app": "router", "pod-template-hash": "5d"}
    owner = {"ownerReferences": [{"kind": "ReplicaSet", "name": "router-5d"}]}
    kube.put(f"{PODS}/router-5d-a", "Pod", labels, metadata=owner)
    kube.put(f"{PODS}/router-b", "Pod", {"app": "router"})  # of somebody else, with the same label
    kube.events = [lambda: kube.remove(f"{PODS}/router-5d-a")]
    apply(kube, without("router", "Deployment"), wait=True)
    assert f"{PODS}/router-5d-a" not in kube.store

    apply(kube)
    kube.put(f"{PODS}/router-5d-a", "Pod", labels, metadata={**owner, "finalizers": ["test/hold"]})
    with pytest.raises(ServingError, match=r"Pod/router-5d-a of Deployment/router .* not gone within 600 s \(held by test/hold\)"):
        apply(kube, without("router", "Deployment"), wait=True)


# --- secrets -------------------------------------------------------------------------------------------------------------------------


def data_of(kube: FakeKube, name: str = "keys") -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in kube.store[f"{SECRETS}/{name}"]["data"].items()}


def template_note(kube: FakeKube) -> str:
    template = kube.store[f"{DEPLOYMENTS}/router"]["spec"]["template"]
    return str(template["metadata"]["annotations"]["serving.llmops/secrets"])


def test_secrets_are_generated_once(kube: FakeKube) -> None:
    assert apply(kube)["secrets_generated"] == ["keys/API", "keys/ADMIN"]
    values = data_of(kube)
    assert len(set(values.values())) == 2
    assert min(map(len, values.values())) >= 32
    assert apply(kube)["secrets_generated"] == []
    assert data_of(kube) == values


def test_a_given_value_wins_and_rolls_the_pods_that_use_it(kube: FakeKube) -> None:
    apply(kube)
    admin, note = data_of(kube)["ADMIN"], template_note(kube)
    result = apply(kube, secret_data={"keys": {"API": "given-value", "ADMIN": ""}})
    assert changed(result) == {"Secret/keys": "changed", "Deployment/router": "changed"}
    assert data_of(kube) == {"API": "given-value", "ADMIN": admin}
    assert template_note(kube) != note
    assert template_note(kube) == "keys=" + kube.store[f"{SECRETS}/keys"]["metadata"]["annotations"]["serving.llmops/data-version"]
    assert not apply(kube)["changed"], "a value that was given once is kept when it is not given again"


def test_an_existing_secret_loses_nothing(kube: FakeKube) -> None:
    kube.put(NAMESPACE, "Namespace")
    old = {"API": base64.b64encode(b"old").decode(), "OTHER": base64.b64encode(b"kept").decode()}
    kube.put(f"{SECRETS}/keys", "Secret", data=old)
    assert apply(kube)["secrets_generated"] == ["keys/ADMIN"]
    values = data_of(kube)
    assert (values["API"], values["OTHER"]) == ("old", "kept")
    kube.store[f"{SECRETS}/keys"]["data"]["MORE"] = base64.b64encode(b"by hand").decode()
    apply(kube, secret_data={"keys": {"API": "new"}})
    assert data_of(kube) == {**values, "API": "new", "MORE": "by hand"}


def test_no_value_is_in_any_result(kube: FakeKube) -> None:
    given = {"keys": {"API": "given-value"}}
    outputs = [apply(kube, check_mode=True, secret_data=given), apply(kube, secret_data=given)]
    first = data_of(kube)
    outputs += [apply(kube, secret_data={"keys": {"API": "other-value"}}), apply(kube, [], keep_kinds=[])]
    text = json.dumps(outputs)
    assert "API: (hidden, changed)" in outputs[2]["diff"][0]["after"]
    for value in ("given-value", "other-value", first["ADMIN"]):
        assert value not in text
        assert base64.b64encode(value.encode()).decode() not in text


# --- jobs ----------------------------------------------------------------------------------------------------------------------------


def test_a_job_with_another_template_is_made_anew(kube: FakeKube) -> None:
    apply(kube)
    uid = kube.store[f"{JOBS}/fetch"]["metadata"]["uid"]
    manifests = [*without("fetch"), job("train")]
    foreseen = apply(kube, manifests, check_mode=True)
    assert kube.store[f"{JOBS}/fetch"]["metadata"]["uid"] == uid
    result = apply(kube, manifests)
    assert changed(foreseen) == changed(result) == {"Job/fetch": "changed"}
    assert kube.store[f"{JOBS}/fetch"]["metadata"]["uid"] != uid
    assert result["diff"][0]["after"].startswith("# deleted and made anew: its pod template cannot be changed in place")
    assert "train" in result["diff"][0]["after"]
    assert not apply(kube, manifests)["changed"]


def test_a_replacement_that_would_be_refused_does_not_cost_the_old_job(kube: FakeKube) -> None:
    apply(kube)
    kube.refused[f"{JOBS}/fetch-dry-run"] = KubeError("spec.template.spec.containers[0].image: Required value.", status=422)
    with pytest.raises(ServingError, match=r"Job/fetch: .*image: Required value"):
        apply(kube, [*without("fetch"), job("train")])
    assert f"{JOBS}/fetch" in kube.store


def test_a_job_that_failed_is_made_anew(kube: FakeKube) -> None:
    apply(kube)
    kube.finish_jobs("Failed", reason="BackoffLimitExceeded")
    kube.events = [kube.finish_jobs]
    result = apply(kube, wait_jobs=True)
    assert changed(result) == {"Job/fetch": "changed"}
    assert not apply(kube, wait_jobs=True)["changed"]


def test_the_job_before_says_nothing_about_the_one_made_anew(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(kube)
    kube.finish_jobs("Failed", reason="BackoffLimitExceeded")
    before = copy.deepcopy(kube.store[f"{JOBS}/fetch"])
    real = kube.watch

    def late(path: str, *selectors: t.Any, **options: t.Any) -> t.Iterator[tuple[str, Object]]:
        yield "ADDED", before
        yield from real(path, *selectors, **options)

    monkeypatch.setattr(kube, "watch", late)
    kube.events = [lambda: None, kube.finish_jobs]
    apply(kube, wait_jobs=True)
    assert kube.events == [], "it waited for the new one"


def test_a_failing_job_ends_the_wait_with_its_last_words(kube: FakeKube) -> None:
    def fail() -> None:
        kube.finish_jobs("Failed", reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit")
        state = {"name": "main", "state": {"terminated": {"reason": "Error"}}}
        kube.put(f"{PODS}/fetch-1", "Pod", {"job-name": "fetch"}, status={"containerStatuses": [state]})
        kube.log = f"downloading\nHTTP 401 with {data_of(kube)['API']}\n"

    kube.events = [fail]
    with pytest.raises(ServingError, match=r"Job/fetch has failed \(BackoffLimitExceeded: .*\)\.\nThe log of fetch-1 ends:") as failure:
        apply(kube, wait_jobs=True)
    assert str(failure.value).endswith("downloading\nHTTP 401 with (hidden)")
    assert failure.value.details["changed"] is True
    assert kube.clock_s == 0, "it must not wait for the timeout"


# --- waiting -------------------------------------------------------------------------------------------------------------------------


def test_wait_ends_with_the_rollout(kube: FakeKube) -> None:
    kube.events = [lambda: None, kube.finish_rollout]
    apply(kube, wait=True)
    assert len([request for request in kube.sent if request.startswith("WATCH")]) == 2


def test_a_timeout_names_the_deployment_and_what_its_pod_waits_for(kube: FakeKube) -> None:
    waiting = {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image x:1"}}}
    metadata = {"ownerReferences": [{"kind": "ReplicaSet", "name": "router-5d"}]}
    labels = {"app": "router", "pod-template-hash": "5d"}
    kube.put(f"{PODS}/router-5d-a", "Pod", labels, metadata=metadata, status={"containerStatuses": [waiting]})
    with pytest.raises(ServingError) as failure:
        apply(kube, wait=True, wait_timeout=90)
    assert str(failure.value).startswith("Deployment/router is not ready after 90 s: its change has not been taken up by the cluster yet.")
    assert "Pod router-5d-a: container main: ImagePullBackOff (Back-off pulling image x:1)." in str(failure.value)
    assert kube.clock_s >= 90


def test_a_rollout_that_is_given_up_ends_the_wait(kube: FakeKube) -> None:
    def give_up() -> None:
        condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out progressing."}
        kube.store[f"{DEPLOYMENTS}/router"]["status"] = {"observedGeneration": 1, "conditions": [condition]}

    kube.events = [give_up]
    with pytest.raises(ServingError, match=r"Deployment/router has failed to roll out: timed out progressing\."):
        apply(kube, wait=True)
    assert kube.clock_s == 0


@pytest.mark.parametrize("path", [NAMESPACE, f"{CLAIMS}/models"])
def test_what_is_being_deleted_is_waited_for_and_made_anew(kube: FakeKube, path: str) -> None:
    apply(kube)
    uid = kube.store[path]["metadata"]["uid"]
    kube.dying(path)
    assert apply(kube, check_mode=True)["changed"]
    result = apply(kube)
    assert actions(result)[{NAMESPACE: "Namespace/chatbot"}.get(path, "PersistentVolumeClaim/models")] == "created"
    assert kube.store[path]["metadata"]["uid"] != uid
    assert not apply(kube)["changed"]


def test_what_never_goes_is_named_with_what_holds_it(kube: FakeKube) -> None:
    apply(kube)
    kube.dying(f"{CLAIMS}/models")
    kube.events.clear()
    with pytest.raises(ServingError, match=r"PersistentVolumeClaim/models is deleted, but has not gone within 60 s \(held by test/hold\)"):
        apply(kube, wait_timeout=60)


# --- the module ----------------------------------------------------------------------------------------------------------------------


def test_a_secret_in_a_manifest_is_refused_and_not_echoed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Kube, "connect", lambda *_args: FakeKube())
    options = {
        "manifests": [manifest("Secret", "keys", stringData={"API": "plain-in-manifest"})],
        "secret_data": {"keys": {"API": "plain-in-option"}},
        "namespace": "chatbot",
        "owner": {"instance": "chat", "component": "vllm"},
    }
    with patch_module_args(options), pytest.raises(SystemExit):
        kubernetes_apply.main()
    output = capsys.readouterr().out
    answer = json.loads(output)
    assert answer["failed"]
    assert answer["msg"].startswith("Secret/keys has values in its manifest")
    assert "plain-in" not in output


@pytest.mark.parametrize(("diff", "check_mode"), [(True, False), (False, True), (False, False)])
def test_main_returns_what_its_documentation_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], diff: bool, check_mode: bool
) -> None:
    monkeypatch.setattr(Kube, "connect", lambda *_args: FakeKube())
    options = {"manifests": stack(), "namespace": "chatbot", "owner": {"instance": "chat", "component": "vllm"}}
    with patch_module_args({**options, "_ansible_diff": diff, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
        kubernetes_apply.main()
    answer = json.loads(capsys.readouterr().out)
    assert answer["changed"]
    assert answer["requests"] > 0
    assert {"results", "skipped", "secrets_generated"} <= set(answer)
    assert ("diff" in answer) is (diff or check_mode)


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_claim_that_nobody_would_fill_is_refused_before_anything_is_changed(kube: FakeKube, check_mode: bool) -> None:
    kube.classes = []
    with pytest.raises(ServingError, match=r"Nothing was changed: PersistentVolumeClaim/models names no StorageClass"):
        apply(kube, stack(), check_mode)
    assert kube.writes == []


def test_classes_are_not_looked_at_for_a_claim_that_is_there(kube: FakeKube) -> None:
    apply(kube, stack())
    kube.classes = []
    assert apply(kube, stack())["changed"] is False


def test_who_may_not_see_classes_is_not_stopped(kube: FakeKube) -> None:
    kube.forbidden.add(CLASSES)
    assert apply(kube, stack())["changed"] is True


def test_nothing_that_runs_is_touched_before_the_jobs_of_the_set_are_complete(kube: FakeKube) -> None:
    kube.events.append(lambda: kube.finish_jobs("Failed", reason="BackoffLimitExceeded"))
    with pytest.raises(ServingError, match="Job/fetch has failed"):
        apply(kube, stack(), wait_jobs=True)
    assert not any("deployments" in path or "services/" in path for path in kube.writes)


def test_kinds_that_the_set_never_has_are_not_looked_for(kube: FakeKube) -> None:
    few = [manifest("ConfigMap", "settings", data={"a": "1"}), manifest("Namespace", "chatbot")]
    apply(kube, few)
    kube.sent.clear()
    apply(kube, few, kinds=["ConfigMap", "Service"])
    assert sorted(path.rpartition("/")[2] for path in kube.sent) == ["chatbot", "configmaps", "services"]


def test_a_deployment_rolls_when_a_secret_of_another_call_changes(kube: FakeKube) -> None:
    page = [manifest("Namespace", "chatbot"), deployment("page")]
    other = {"owner": {"instance": "chat", "component": "open-webui"}}
    apply(kube, [manifest("Namespace", "chatbot"), secret()])
    apply(kube, page, **other)
    assert not apply(kube, page, **other)["changed"]
    apply(kube, [manifest("Namespace", "chatbot"), secret()], secret_data={"keys": {"API": "another"}})
    assert [result for result in apply(kube, page, **other)["results"] if result["kind"] == "Deployment"] == [
        {"kind": "Deployment", "name": "page", "action": "changed"}
    ]
