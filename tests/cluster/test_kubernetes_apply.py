# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kubernetes_apply against the cluster of $KUBECONFIG, in namespaces of its own: pytest tests/cluster.

$TEST_IMAGE is an image with a shell that the nodes have or can pull, $TEST_NAMESPACE the beginning of the namespaces' names.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import secrets
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._apply import KINDS
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, Object
from ansible_collections.llmops.serving.plugins.modules.kubernetes_apply import ARGS, run

IMAGE = os.environ.get("TEST_IMAGE", "localhost/busybox:test")
ROOT = Path(__file__).resolve().parents[2]
OWNER = {"instance": "chat", "component": "vllm"}

pytestmark = pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="needs a cluster: export KUBECONFIG")


class Place:
    """A namespace of this test, and the module called on it."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace

    def options(self, manifests: list[Object], **options: t.Any) -> dict[str, t.Any]:
        defaults = {name: copy.deepcopy(option["default"]) for name, option in ARGS.items() if "default" in option}
        return {**defaults, "manifests": manifests, "namespace": self.namespace, "owner": OWNER, **options}

    def apply(self, manifests: list[Object], check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
        self.kube.sent.clear()
        return run(self.kube, self.options(manifests, **options), check_mode)

    def get(self, kind: str, name: str) -> Object | None:
        return self.kube.get(KINDS[kind].path(self.namespace, name))

    def secret(self, name: str, key: str) -> str:
        return base64.b64decode((self.get("Secret", name) or {})["data"][key]).decode()

    def create(self, path: str, document: Object) -> Object:
        return self.kube.call("POST", path, body=document)


@pytest.fixture
def place() -> t.Iterator[Place]:
    kube = Kube.connect()
    place = Place(kube, f"{os.environ.get('TEST_NAMESPACE', 'test-apply')}-{secrets.token_hex(3)}")
    yield place
    kube.delete(KINDS["Namespace"].path("", place.namespace))


def manifest(kind: str, name: str, **fields: t.Any) -> Object:
    return {"apiVersion": KINDS[kind].api_version, "kind": kind, "metadata": {"name": name}, **fields}


def pod_template(name: str, command: str, **spec: t.Any) -> Object:
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["sh", "-c", command],
        "env": [{"name": "EMPTY", "value": ""}, {"name": "API", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "API"}}}],
        "ports": [{"containerPort": 8000}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    return {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec}}


def deployment(name: str, command: str = "sleep 3600", **spec: t.Any) -> Object:
    template = pod_template(name, command)
    return manifest("Deployment", name, spec={"selector": {"matchLabels": {"app": name}}, "template": template, **spec})


def service(name: str) -> Object:
    return manifest("Service", name, spec={"selector": {"app": name}, "ports": [{"name": "http", "port": 8000}]})


def monitor(name: str) -> Object:
    return manifest("ServiceMonitor", name, spec={"selector": {"matchLabels": {"app": name}}, "endpoints": [{"port": "http"}]})


def job(command: str = "echo done") -> Object:
    return manifest("Job", "fetch", spec={"backoffLimit": 0, "template": pod_template("fetch", command, restartPolicy="Never")})


def keys() -> Object:
    document = manifest("Secret", "keys", type="Opaque")
    document["metadata"]["annotations"] = {"serving.llmops/autogenerate": "API,ADMIN"}
    return document


def claim(**spec: t.Any) -> Object:
    size = {"resources": {"requests": {"storage": "1Gi"}}}
    return manifest("PersistentVolumeClaim", "models", spec={"accessModes": ["ReadWriteOnce"], **size, **spec})


def role() -> list[Object]:
    subject = {"kind": "ServiceAccount", "name": "router"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "router"}
    return [
        manifest("ServiceAccount", "router"),
        manifest("Role", "router", rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]),
        manifest("RoleBinding", "router", roleRef=reference, subjects=[subject]),
    ]


def stack(namespace: str) -> list[Object]:
    return [
        manifest("Namespace", namespace),
        keys(),
        manifest("Secret", "hub"),
        manifest("ConfigMap", "settings", data={"settings.yaml": "a: 1\nb: 2\n"}),
        claim(),
        job(),
        *role(),
        *(make(name) for make in (deployment, service, monitor) for name in ("engine", "router")),
    ]


def changed(result: dict[str, t.Any]) -> dict[str, str]:
    return {f"{entry['kind']}/{entry['name']}": entry["action"] for entry in result["results"] if entry["action"] != "unchanged"}


def test_from_nothing_to_nothing(place: Place) -> None:
    manifests = stack(place.namespace)
    foreseen = place.apply(manifests, check_mode=True)
    assert place.get("Namespace", place.namespace) is None
    first = place.apply(manifests, wait=True, wait_jobs=True, secret_data={"hub": {"HF_TOKEN": "hf_given"}})
    assert foreseen["results"] == first["results"]
    assert set(changed(first).values()) == {"created"}
    assert place.secret("hub", "HF_TOKEN") == "hf_given"
    password = place.secret("keys", "ADMIN")

    second = place.apply(manifests, wait=True, wait_jobs=True)
    assert not second["changed"]
    assert second["requests"] == len(KINDS), "a LIST for each kind and a GET of the namespace"

    # both strategies, both ways: what one of them left behind must not make the other invalid
    for strategy in ("Recreate", "RollingUpdate"):
        altered = [*manifests[:-6], deployment("engine", strategy={"type": strategy}), *manifests[-5:]]
        foreseen = place.apply(altered, check_mode=True)
        result = place.apply(altered, wait=True)
        assert (foreseen["results"], foreseen["diff"]) == (result["results"], result["diff"])
        assert changed(result) == {"Deployment/engine": "changed"}
        assert not place.apply(altered)["changed"]

    rolled = place.apply(manifests, wait=True, secret_data={"keys": {"API": "another"}})
    assert changed(rolled) == {"Secret/keys": "changed", "Deployment/engine": "changed", "Deployment/router": "changed"}
    assert place.secret("keys", "ADMIN") == password

    kept = place.apply([], wait=True, keep_kinds=["PersistentVolumeClaim", "Secret"])
    assert kept["skipped"][0]["reason"] == "it still has PersistentVolumeClaim/models, Secret/hub, Secret/keys"
    assert place.secret("keys", "ADMIN") == password
    assert list(place.kube.list(f"/api/v1/namespaces/{place.namespace}/pods", label_selector="app=engine")) == []
    gone = place.apply([], wait=True, keep_kinds=[])
    assert changed(gone)[f"Namespace/{place.namespace}"] == "deleted"
    assert place.get("Namespace", place.namespace) is None


def test_a_namespace_that_is_going_is_waited_for(place: Place) -> None:
    # without pods: old kubelets take a minute to let one go
    manifests = [document for document in stack(place.namespace) if document["kind"] not in ("Deployment", "Job")]
    place.apply(manifests)
    place.apply([], keep_kinds=[])
    assert place.apply(manifests)["changed"]
    assert not place.apply(manifests)["changed"]


def test_a_quota_is_found_before_anything_is_changed(place: Place) -> None:
    place.apply([manifest("Namespace", place.namespace), manifest("ConfigMap", "settings", data={"a": "1"})])
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"services": "0"}}}
    quotas = f"/api/v1/namespaces/{place.namespace}/resourcequotas"
    place.create(quotas, quota)
    # a quota is in force when its controller has counted what is there
    next(document for _event, document in place.kube.watch(quotas, timeout_s=60) if (document.get("status") or {}).get("hard"))
    wanted = [manifest("ConfigMap", "settings", data={"a": "2"}), service("router")]
    for check_mode in (True, False):
        with pytest.raises(ServingError, match=r"^Nothing was changed.*Service/router: .*exceeded quota: small"):
            place.apply(wanted, check_mode)
    assert (place.get("ConfigMap", "settings") or {})["data"] == {"a": "1"}


def test_a_claim_that_cannot_change_is_kept(place: Place) -> None:
    place.apply([manifest("Namespace", place.namespace), claim()])
    uid = (place.get("PersistentVolumeClaim", "models") or {})["metadata"]["uid"]
    other = claim(storageClassName="another", resources={"requests": {"storage": "500Mi"}})
    with pytest.raises(ServingError, match=r"data are kept as they are\. Set back storageClassName to .* the size to 1Gi"):
        place.apply([other])
    assert (place.get("PersistentVolumeClaim", "models") or {})["metadata"]["uid"] == uid


def test_jobs_are_made_anew_when_they_changed_or_failed(place: Place) -> None:
    base = [manifest("Namespace", place.namespace), keys()]
    place.apply([*base, job()], wait_jobs=True)
    broken = [*base, job('echo "the hub said no to $API"; exit 1')]
    for _attempt in range(2):
        with pytest.raises(ServingError, match=r"(?s)Job/fetch has failed \(BackoffLimitExceeded: .*\nthe hub said no to \(hidden\)$"):
            place.apply(broken, wait_jobs=True)
    with pytest.raises(ServingError, match=r"^Job/fetch has failed: the hub said no to \(hidden\)\.\n"):
        place.apply([*base, job('echo "the hub said no to $API"; exit 3')], wait_jobs=True)
    mended = place.apply([*base, job()], wait_jobs=True)
    assert (changed(mended), mended["jobs"]) == ({"Job/fetch": "changed"}, [{"name": "fetch", "last_line": "done"}])
    assert not place.apply([*base, job()], wait_jobs=True)["changed"]


def test_a_rollout_that_cannot_succeed_is_explained(place: Place) -> None:
    wanted = deployment("engine")
    wanted["spec"]["template"]["spec"]["containers"][0].update(image="localhost/absent:1", imagePullPolicy="Never")
    with pytest.raises(ServingError, match=r"Deployment/engine has failed to roll out: .*container main: localhost/absent:1 is not on"):
        place.apply([manifest("Namespace", place.namespace), keys(), wanted], wait=True)


def test_a_namespace_admin_can_run_it_in_a_namespace_of_the_cluster_admin(place: Place, tmp_path: Path) -> None:
    space = f"/api/v1/namespaces/{place.namespace}"
    place.create("/api/v1/namespaces", {"metadata": {"name": place.namespace}})
    place.create(f"{space}/serviceaccounts", {"metadata": {"name": "tenant"}})
    place.create(
        f"/apis/rbac.authorization.k8s.io/v1/namespaces/{place.namespace}/rolebindings",
        {
            "metadata": {"name": "tenant"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": place.namespace}],
        },
    )
    token = place.create(f"{space}/serviceaccounts/tenant/token", {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    cluster = {"server": place.kube.host, "certificate-authority": place.kube.api.configuration.ssl_ca_cert}
    config = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    tenant = Place(Kube.connect(str(path)), place.namespace)

    # No permission for ServiceMonitors: without them the run works, with them it says what is missing.
    manifests = [document for document in stack(place.namespace) if document["kind"] != "ServiceMonitor"]
    assert set(changed(tenant.apply(manifests, check_mode=True)).values()) == {"created"}
    assert set(changed(tenant.apply(manifests)).values()) == {"created"}
    assert not tenant.apply(manifests)["changed"]
    if place.kube.get("/apis/monitoring.coreos.com/v1") is not None:
        with pytest.raises(ServingError, match=r"Not permitted: servicemonitors\.monitoring\.coreos\.com is forbidden"):
            tenant.apply([*manifests, monitor("router")])
    purged = tenant.apply([], keep_kinds=[])
    assert purged["skipped"] == [{"kind": "Namespace", "name": place.namespace, "reason": "it was not made by llmops.serving"}]


def test_no_secret_is_in_the_output_of_ansible(place: Place, tmp_path: Path) -> None:
    task = {
        "name": "Apply",
        "llmops.serving.kubernetes_apply": {
            "manifests": stack(place.namespace),
            "namespace": place.namespace,
            "owner": OWNER,
            "secret_data": {"hub": {"HF_TOKEN": "{{ token }}"}},
        },
    }
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "-vvv", "--diff", str(playbook)]
    outputs = []
    for token, options in (("hf_first-token", ["--check"]), ("hf_first-token", []), ("hf_second-token", [])):
        environment = {**os.environ, "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
        extra = ["-e", json.dumps({"token": token, "ansible_python_interpreter": sys.executable})]
        done = subprocess.run([*command, *options, *extra], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout + done.stderr)
    text = "".join(outputs)
    assert "HF_TOKEN: (hidden, changed)" in outputs[2]
    for value in ("hf_first-token", "hf_second-token", place.secret("keys", "API"), place.secret("keys", "ADMIN")):
        assert value not in text
        assert base64.b64encode(value.encode()).decode() not in text
