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
import re
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.llmops.serving.plugins.module_utils import _watch
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
EVENTS = f"{NAMESPACE}/events"
REPLICA_SETS = "/apis/apps/v1/namespaces/chatbot/replicasets"
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
        self.shaky: set[str] = set()
        self.failures: builtins.list[t.Optional[KubeError]] = []
        self.clock_s = 0.0
        self.numbers = itertools.count(1)

    def _answers(self, path: str) -> None:
        """Fail as the next of ``failures`` says, None being an answer."""
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

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
        if path in self.shaky:
            self._answers(path)
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
            among = re.fullmatch(r"(\S+) in \((.*)\)", label_selector)
            wanted = [(among[1], among[2].split(","))] if among else []
            wanted += [
                (key, [value]) for key, _eq, value in (pair.partition("=") for pair in label_selector.split(",") if not among) if key
            ]
            named = field_selector in ("", f"metadata.name={document['metadata']['name']}")
            if place.rpartition("/")[0] == path and named and all(labels.get(key) in values for key, values in wanted):
                found.append(copy.deepcopy(document))
        return found

    def apply(self, path: str, body: Object, field_manager: str, dry_run: bool = False) -> Object:
        self.sent.append(f"PATCH {path}")
        if path in self.shaky and not dry_run:
            self._answers(path)
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
        if path in self.shaky and not dry_run:
            self._answers(path)
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
        if path in self.shaky:
            self._answers(path)
        before = self._matching(path, label_selector, field_selector)
        yield from (("ADDED", document) for document in before)
        if self.events:
            self.events.pop(0)()
        after = self._matching(path, label_selector, field_selector)
        names = {document["metadata"]["name"] for document in after}
        yield from (("DELETED", document) for document in before if document["metadata"]["name"] not in names)
        yield from (("MODIFIED", document) for document in after)
        self.clock_s += timeout_s

    def logs(self, namespace: str, pod: str, container: str = "", tail_lines: int = 40, previous: bool = False) -> str:
        self.sent.append(f"LOG {pod}")
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

    def pause(self, seconds: float) -> None:
        """Let the next event happen, or time pass."""
        if self.events:
            self.events.pop(0)()
        else:
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
    return application(kube, params, check_mode).run()


def application(kube: FakeKube, params: dict[str, t.Any], check_mode: bool = False) -> Application:
    return Application(
        t.cast(Kube, kube),
        params,
        check_mode,
        clock=lambda: kube.clock_s,
        sleep=kube.sleep,
        now=lambda: 1_800_000_000 + kube.clock_s,
        eyes=lambda connect: _watch.Still(connect, kube.pause),
    )


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


def test_a_pod_that_could_not_be_started_is_not_waited_for(kube: FakeKube) -> None:
    apply(kube)
    kube.put(f"{PODS}/fetch-1", "Pod", {"job-name": "fetch", "controller-uid": kube.store[f"{JOBS}/fetch"]["metadata"]["uid"]})
    kube.store[f"{PODS}/fetch-1"].update(status=ABSENT_IMAGE, spec={"nodeName": "gpu-1"})
    kube.events = [lambda: kube.store[f"{PODS}/fetch-1"]["metadata"].update(deletionTimestamp="now")]
    assert changed(apply(kube, [*without("fetch"), job("train")])) == {"Job/fetch": "changed"}
    assert kube.events == []
    assert kube.clock_s == 0
    assert f"{PODS}/fetch-1" in kube.store


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
    real = kube.list
    looks: list[bool] = []

    def late(path: str, *selectors: t.Any, **options: t.Any) -> t.Iterator[Object]:
        found = list(real(path, *selectors, **options))
        if path == JOBS and found and found[0]["metadata"]["uid"] != before["metadata"]["uid"]:
            looks.append(len(looks) == 0)
            found = [before] if looks[-1] else found
        yield from found

    monkeypatch.setattr(kube, "list", late)
    kube.events = [lambda: None, kube.finish_jobs]
    apply(kube, wait_jobs=True)
    assert looks == [True, False, False]
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


def job_pod(kube: FakeKube, name: str, made: str = "1", **status: t.Any) -> Object:
    """Put a pod of the Job there, *made* at that time."""
    owner = {"kind": "Job", "name": "fetch", "uid": kube.store[f"{JOBS}/fetch"]["metadata"]["uid"]}
    metadata = {"ownerReferences": [owner], "creationTimestamp": f"2026-11-21T00:00:0{made}Z"}
    spec = {"nodeName": "gpu-1", "containers": [{"name": "main", "image": "x:1"}]}
    conditions = [{"type": "PodScheduled", "status": "True"}]
    return kube.put(
        f"{PODS}/{name}", "Pod", {"job-name": "fetch"}, metadata=metadata, spec=spec, status={"conditions": conditions, **status}
    )


def ended(code: int, reason: str = "Error") -> Object:
    return {"phase": "Failed", "containerStatuses": [{"name": "main", "state": {"terminated": {"exitCode": code, "reason": reason}}}]}


def waiting(reason: str, message: str = "") -> Object:
    return {"phase": "Pending", "containerStatuses": [{"name": "main", "image": "x:1", "state": waiting_state(reason, message)}]}


def waiting_state(reason: str, message: str) -> Object:
    return {"waiting": {"reason": reason, "message": message}}


RUNNING = {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]}
ABSENT_IMAGE = waiting("ErrImageNeverPull", 'Container image "x:1" is not present with pull policy of Never')


def test_a_job_whose_program_gives_up_ends_the_wait_with_its_last_line(kube: FakeKube) -> None:
    def give_up() -> None:
        job_pod(kube, "fetch-1", **ended(3))
        kube.log = f"weights: 0.0 of 60.8 GiB\nx/y is gated: give the token of an account that may read it, not {data_of(kube)['API']}\n\n"

    kube.events = [give_up]
    with pytest.raises(ServingError) as failure:
        apply(kube, wait_jobs=True)
    assert str(failure.value) == (
        "Job/fetch has failed: x/y is gated: give the token of an account that may read it, not (hidden).\n"
        "Its log: kubectl -n chatbot logs fetch-1 -c main"
    )
    assert failure.value.details["verdict"]["cause"] == "given-up"
    assert failure.value.details["results"][-1] == {"kind": "Job", "name": "fetch", "action": "created"}
    assert kube.clock_s == 0
    assert f"{DEPLOYMENTS}/router" not in kube.store


def test_a_job_that_gave_up_and_has_failed_for_good_says_the_same(kube: FakeKube) -> None:
    def fail() -> None:
        job_pod(kube, "fetch-1", **ended(3))
        kube.finish_jobs("Failed", reason="BackoffLimitExceeded")
        kube.log = "no room\n"

    kube.events = [fail]
    with pytest.raises(ServingError, match=r"^Job/fetch has failed: no room\."):
        apply(kube, wait_jobs=True)


@pytest.mark.parametrize("code", [1, 137])
def test_any_other_end_is_left_to_the_job_which_tries_again(kube: FakeKube, code: int) -> None:
    kube.log = "ERROR: the hub is busy"
    kube.events = [lambda: job_pod(kube, "fetch-1", **ended(code)), lambda: job_pod(kube, "fetch-2", "2", **RUNNING), kube.finish_jobs]
    assert apply(kube, wait_jobs=True)["jobs"] == [{"name": "fetch", "last_line": "ERROR: the hub is busy"}]


def test_only_the_newest_try_of_a_job_counts(kube: FakeKube) -> None:
    def mended() -> None:
        job_pod(kube, "fetch-1", "1", **ended(3))
        job_pod(kube, "fetch-2", "2", **RUNNING)

    kube.events = [mended, kube.finish_jobs]
    assert apply(kube, wait_jobs=True)["jobs"]


def test_a_job_whose_pod_can_never_start_ends_the_wait_at_once(kube: FakeKube) -> None:
    kube.events = [lambda: job_pod(kube, "fetch-1", **ABSENT_IMAGE)]
    with pytest.raises(ServingError, match=r"^Job/fetch has failed: .*fetch-1.*x:1") as failure:
        apply(kube, wait_jobs=True)
    assert failure.value.details["verdict"]["certain"] is True
    assert kube.clock_s == 0


def test_a_job_that_was_given_up_is_made_anew_by_the_next_run(kube: FakeKube) -> None:
    kube.events = [lambda: job_pod(kube, "fetch-1", **ABSENT_IMAGE)]
    with pytest.raises(ServingError):
        apply(kube, wait_jobs=True)
    kube.events = [lambda: kube.remove(f"{PODS}/fetch-1"), kube.finish_jobs]
    kube.store[f"{PODS}/fetch-1"]["metadata"]["labels"]["controller-uid"] = kube.store[f"{JOBS}/fetch"]["metadata"]["uid"]
    foreseen = apply(kube, check_mode=True)
    assert actions(foreseen)["Job/fetch"] == "changed"
    assert "# deleted and made anew: Job/fetch has failed: " in json.dumps(foreseen["diff"])
    assert actions(apply(kube, wait_jobs=True))["Job/fetch"] == "changed"
    assert not apply(kube, wait_jobs=True)["changed"]


def test_a_job_that_still_runs_is_left_running_and_waited_for(kube: FakeKube) -> None:
    apply(kube)
    job_pod(kube, "fetch-1", **RUNNING)
    kube.writes.clear()
    kube.log = "weights: 60.8 of 60.8 GiB\n"
    kube.events = [kube.finish_jobs]
    result = apply(kube, wait_jobs=True)
    assert not result["changed"]
    assert kube.writes == []
    assert result["jobs"] == [{"name": "fetch", "last_line": "weights: 60.8 of 60.8 GiB"}]
    assert apply(kube, wait_jobs=True)["jobs"] == [], "a Job that was complete before has not run in this call"


def test_a_job_that_failed_for_a_known_cause_says_what_to_do_before_its_log(kube: FakeKube) -> None:
    def fail() -> None:
        job_pod(kube, "fetch-1", **ended(1))
        kube.finish_jobs("Failed", reason="BackoffLimitExceeded")
        kube.log = "fetching\nOSError: [Errno 28] No space left on device\n"

    kube.events = [fail]
    with pytest.raises(
        ServingError, match=r"^Job/fetch has failed \(BackoffLimitExceeded\)\. .*vllm_storage_size.*\nThe log of fetch-1 ends:"
    ):
        apply(kube, wait_jobs=True)


@pytest.mark.parametrize("before", [True, False])
def test_a_job_whose_pod_the_cluster_refuses_ends_the_wait_unless_that_was_the_one_before(kube: FakeKube, before: bool) -> None:
    def refuse() -> None:
        uid = "uid-before" if before else kube.store[f"{JOBS}/fetch"]["metadata"]["uid"]
        about = {"kind": "Job", "name": "fetch", "uid": uid}
        message = 'Error creating: pods "fetch-1" is forbidden: exceeded quota: small, requested: pods=1, used: pods=0, limited: pods=0'
        kube.put(f"{EVENTS}/e", "Event", involvedObject=about, reason="FailedCreate", message=message, lastTimestamp="2026-11-21T00:00:00Z")

    kube.events = [refuse, kube.finish_jobs]
    if before:
        assert apply(kube, wait_jobs=True)["changed"]
    else:
        with pytest.raises(ServingError, match=r"^Job/fetch has failed: .*quota"):
            apply(kube, wait_jobs=True)


def test_each_job_is_told_once_even_if_the_look_that_saw_it_broke_off(kube: FakeKube) -> None:
    other = job()
    other["metadata"]["name"] = "train"

    def finish() -> None:
        kube.finish_jobs()
        kube.log = f"made with {data_of(kube)['API']}\n"
        # the pods of both, those of the first, and of the second there is no answer
        kube.shaky, kube.failures = {PODS}, [None, None, KubeError("Nobody answers.")]

    def make_pods() -> None:
        job_pod(kube, "fetch-1", **RUNNING)

    kube.events = [make_pods, finish]
    result = apply(kube, [*stack(), other], wait_jobs=True)
    assert kube.failures == []
    assert result["jobs"] == [{"name": "fetch", "last_line": "made with (hidden)"}, {"name": "train", "last_line": ""}]


def test_a_failure_tells_the_jobs_that_had_run(kube: FakeKube) -> None:
    kube.refused[f"{SERVICES}/router"] = KubeError("no.", status=422)
    kube.put(NAMESPACE, "Namespace")
    real, kube.refused = kube.refused, {}

    def finish() -> None:
        kube.finish_jobs()
        kube.refused = real

    kube.events = [finish]
    with pytest.raises(ServingError, match=r"^Service/router: no\.") as failure:
        apply(kube, wait_jobs=True)
    assert failure.value.details["jobs"] == [{"name": "fetch", "last_line": ""}]


# --- progress ------------------------------------------------------------------------------------------------------------------------


def told(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_a_job_tells_how_far_its_pod_is_and_then_what_that_writes(kube: FakeKube, tmp_path: Path) -> None:
    def listen() -> None:
        job_pod(kube, "fetch-1", **RUNNING)
        kube.log = f"begin\nweights: 12.4 of 60.8 GiB with {data_of(kube)['API']}\n\n"

    def listen_on() -> None:
        kube.clock_s += 2
        kube.log = "weights: 60.8 of 60.8 GiB\n"

    def pull() -> None:
        uid = job_pod(kube, "fetch-1", **waiting("ContainerCreating"))["metadata"]["uid"]
        about = {"kind": "Pod", "name": "fetch-1", "uid": uid}
        kube.put(f"{EVENTS}/e", "Event", involvedObject=about, reason="Pulling", message='Pulling image "x:1"', lastTimestamp="2026")

    def again() -> None:
        job_pod(kube, "fetch-1", **ended(1))

    kube.events = [pull, listen, listen_on, again, kube.finish_jobs]
    path = tmp_path / "progress"
    apply(kube, wait_jobs=True, progress_path=str(path))
    assert told(path) == [
        "Job/fetch: its pod is being made",
        "Job/fetch: pulling image x:1",
        "weights: 12.4 of 60.8 GiB with (hidden)",
        "weights: 60.8 of 60.8 GiB",
        "Job/fetch: its pod has failed, and another try follows",
    ]


def test_a_rollout_tells_which_deployment_and_what_is_missing(kube: FakeKube, tmp_path: Path) -> None:
    def make_pods() -> None:
        rolling(kube)
        router_pod(kube, "router-2-a", **{**RUNNING, "conditions": [{"type": "PodScheduled", "status": "True"}]})

    kube.events = [make_pods, kube.finish_rollout]
    path = tmp_path / "progress"
    apply(kube, wait=True, progress_path=str(path))
    assert told(path) == [
        "Deployment/router: its change has not been taken up by the cluster yet",
        "Deployment/router: 0 of 1 pods available (container main runs, but is not ready)",
    ]


def test_without_somebody_who_listens_no_log_is_read(kube: FakeKube) -> None:
    kube.events = [lambda: job_pod(kube, "fetch-1", **RUNNING), lambda: None, kube.finish_jobs]
    apply(kube, wait_jobs=True)
    assert [request for request in kube.sent if request.startswith("LOG")] == ["LOG fetch-1"], "once, for the result"


# --- an API server that goes away ----------------------------------------------------------------------------------------------------

AWAY = KubeError("The Kubernetes API at https://cluster.test cannot be reached: [Errno 111] Connection refused. Check that it runs.")
BUSY = KubeError("The Kubernetes API answered 503 to GET x: apiserver not ready.", status=503)


@pytest.mark.parametrize("failure", [AWAY, BUSY])
def test_an_api_server_that_goes_away_while_a_job_runs_is_asked_again(kube: FakeKube, tmp_path: Path, failure: KubeError) -> None:
    def go() -> None:
        kube.shaky = {PODS}
        kube.failures = [failure, failure, failure]
        kube.events = [lambda: None, lambda: None, lambda: None, kube.finish_jobs]

    kube.events = [go]
    path = tmp_path / "progress"
    result = apply(kube, wait_jobs=True, progress_path=str(path))
    assert len(result["jobs"]) == 1
    assert kube.failures == []
    assert f"{str(failure).partition('. ')[0].rstrip('.')}; trying again" in told(path)


def test_an_api_server_that_stays_away_ends_with_what_was_applied(kube: FakeKube) -> None:
    def go() -> None:
        kube.shaky = {JOBS}
        kube.failures = [AWAY] * 1000

    kube.events = [go]
    with pytest.raises(ServingError) as failure:
        apply(kube, wait_jobs=True, wait_timeout=60)
    assert str(failure.value) == (
        f"{AWAY} Applied so far: Namespace/chatbot, Secret/keys, ConfigMap/settings and 2 more. Run again: it goes on from there."
    )
    assert failure.value.details["changed"] is True
    assert 60 <= kube.clock_s < 70
    assert f"{DEPLOYMENTS}/router" not in kube.store


def test_what_is_no_outage_is_not_asked_again(kube: FakeKube) -> None:
    kube.shaky = {JOBS}
    kube.failures = [None, KubeError("Not permitted: no.", status=403)]
    with pytest.raises(ServingError, match=r"^Not permitted: no\.$"):
        apply(kube, wait_jobs=True)
    kube.remove(f"{JOBS}/fetch")
    kube.shaky = {f"{JOBS}/fetch"}
    kube.failures = [KubeError("Not permitted: no.", status=403)]
    with pytest.raises(ServingError, match=r"^Job/fetch: Not permitted: no\.$"):
        apply(kube)
    assert kube.clock_s == 0


def test_pods_that_may_not_be_seen_do_not_stop_a_wait(kube: FakeKube) -> None:
    kube.forbidden = {PODS, EVENTS}
    kube.events = [kube.finish_rollout]
    assert apply(kube, wait=True)["changed"]


@pytest.mark.parametrize("tries", [1, 4])
def test_a_change_that_nobody_answers_is_sent_again(kube: FakeKube, tries: int) -> None:
    kube.shaky = {f"{SERVICES}/router"}
    kube.failures = [AWAY] * tries
    assert apply(kube)["changed"]
    assert f"{SERVICES}/router" in kube.store
    kube.failures = [AWAY] * tries
    assert changed(apply(kube, without("router", "Service"))) == {"Service/router": "deleted"}
    assert f"{SERVICES}/router" not in kube.store


def test_a_change_that_nobody_answers_for_long_fails_and_the_next_run_goes_on(kube: FakeKube) -> None:
    kube.shaky = {f"{SERVICES}/router"}
    kube.failures = [AWAY] * 5
    with pytest.raises(ServingError, match=r"Connection refused.* and 2 more\. Run again: it goes on from there\.$"):
        apply(kube)
    assert 10 <= kube.clock_s <= 20
    assert list(changed(apply(kube))) == ["Service/router", "Deployment/router", "ServiceMonitor/router"]


def test_an_outage_during_the_rehearsal_changes_nothing_and_says_so(kube: FakeKube) -> None:
    apply(kube)
    kube.writes.clear()
    kube.refused[f"{SERVICES}/router"] = AWAY
    with pytest.raises(ServingError) as failure:
        apply(kube, [*without("router", "Service"), manifest("Service", "router", spec={"ports": [{"port": 1}]})])
    assert str(failure.value) == f"{AWAY} Nothing was changed. Run again."
    assert kube.writes == []


@pytest.mark.parametrize("place", ["list", "watch"])
def test_an_outage_while_something_goes_is_outlasted(kube: FakeKube, place: str) -> None:
    apply(kube)
    kube.finish_jobs()
    kube.dying(f"{CLAIMS}/models")
    kube.shaky = {CLAIMS}
    # the first list reads what is there, the second one looks whether it has gone, then it is watched
    kube.failures = [None, AWAY, AWAY] if place == "list" else [None, None, AWAY]
    assert actions(apply(kube))["PersistentVolumeClaim/models"] == "created"
    assert kube.failures == []


# --- waiting -------------------------------------------------------------------------------------------------------------------------


def test_wait_ends_with_the_rollout(kube: FakeKube) -> None:
    kube.events = [lambda: None, kube.finish_rollout, lambda: pytest.fail("it goes on waiting")]
    apply(kube, wait=True)
    assert len(kube.events) == 1
    assert kube.clock_s == 0


def test_a_timeout_names_the_deployment_and_what_its_pod_waits_for(kube: FakeKube) -> None:
    state = {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image x:1"}}}
    metadata = {"ownerReferences": [{"kind": "ReplicaSet", "name": "router-5d"}]}
    labels = {"app": "router", "pod-template-hash": "5d"}
    kube.put(f"{PODS}/router-5d-a", "Pod", labels, metadata=metadata, status={"containerStatuses": [state]})
    with pytest.raises(ServingError) as failure:
        apply(kube, wait=True, wait_timeout=90)
    assert str(failure.value).startswith("Deployment/router is not ready after 90 s: its change has not been taken up by the cluster yet.")
    assert "Pod router-5d-a: container main: ImagePullBackOff (Back-off pulling image x:1)." in str(failure.value)
    assert kube.clock_s >= 90


def rolling(kube: FakeKube, hidden: int = 0) -> None:
    """Let the cluster take up the Deployment as its second version, with one new pod that is not available."""
    document = kube.store[f"{DEPLOYMENTS}/router"]
    document["metadata"].setdefault("annotations", {})["deployment.kubernetes.io/revision"] = "2"
    counts = {"replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1}
    document["status"] = {"observedGeneration": document["metadata"]["generation"] - hidden, **counts}
    for number in ("1", "2"):
        owner = {"kind": "Deployment", "name": "router", "uid": document["metadata"]["uid"]}
        metadata = {"ownerReferences": [owner], "annotations": {"deployment.kubernetes.io/revision": number}}
        kube.put(f"{REPLICA_SETS}/router-{number}", "ReplicaSet", metadata=metadata)


def router_pod(kube: FakeKube, name: str, **status: t.Any) -> Object:
    number = name.split("-")[1]
    owner = {"kind": "ReplicaSet", "name": f"router-{number}", "uid": kube.store[f"{REPLICA_SETS}/router-{number}"]["metadata"]["uid"]}
    spec = {"nodeName": "gpu-1", "containers": [{"name": "main", "image": "x:1"}]}
    return kube.put(f"{PODS}/{name}", "Pod", {"app": "router"}, metadata={"ownerReferences": [owner]}, spec=spec, status=status)


def test_a_deployment_whose_new_pod_can_never_start_ends_the_wait_at_once(kube: FakeKube) -> None:
    def fail() -> None:
        rolling(kube)
        router_pod(kube, "router-2-a", **ABSENT_IMAGE)

    kube.events = [fail]
    with pytest.raises(ServingError, match=r"^Deployment/router has failed to roll out: .*router-2-a.*x:1") as failure:
        apply(kube, wait=True)
    assert failure.value.details["verdict"]["where"]
    assert kube.clock_s == 0


def test_no_secret_is_in_a_verdict(kube: FakeKube) -> None:
    def fail() -> None:
        rolling(kube)
        again = {"exitCode": 1, "reason": "Error"}
        crashed = {"name": "main", "restartCount": 2, "state": {"terminated": again}, "lastState": {"terminated": again}}
        router_pod(kube, "router-2-a", phase="Running", containerStatuses=[crashed])
        kube.log = f"ValueError: the key {data_of(kube)['API']} is bad\n"

    kube.events = [fail]
    with pytest.raises(ServingError, match=r"the key \(hidden\) is bad") as failure:
        apply(kube, wait=True)
    assert data_of(kube)["API"] not in f"{failure.value} {failure.value.details}"


@pytest.mark.parametrize(("pod", "hidden"), [("router-1-a", 0), ("router-2-a", 1)])
def test_a_pod_of_the_version_before_says_nothing_about_this_one(kube: FakeKube, tmp_path: Path, pod: str, hidden: int) -> None:
    def fail() -> None:
        rolling(kube, hidden)
        router_pod(kube, pod, **ABSENT_IMAGE)

    kube.events = [fail, kube.finish_rollout]
    path = tmp_path / "progress"
    apply(kube, wait=True, progress_path=str(path))
    assert kube.events == []
    assert not any("(" in text for text in told(path)), "it tells nothing of that pod either"


def test_a_cause_that_may_heal_is_told_and_named_when_the_time_is_up(kube: FakeKube, tmp_path: Path) -> None:
    def fail() -> None:
        rolling(kube)
        router_pod(kube, "router-2-a", **waiting("ErrImagePull", "dial tcp 192.0.2.1:443: i/o timeout"))

    kube.events = [fail]
    path = tmp_path / "progress"
    with pytest.raises(
        ServingError, match=r"^Deployment/router is not ready after 60 s: 0 of 1 pods available\. router-2-a, .*i/o timeout"
    ) as failure:
        apply(kube, wait=True, wait_timeout=60, progress_path=str(path))
    assert failure.value.details["verdict"]["certain"] is False
    assert re.fullmatch(r"Deployment/router: 0 of 1 pods available \(.*i/o timeout\)", told(path)[-1])


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
