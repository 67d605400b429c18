# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_runtime_guard against the cluster of $KUBECONFIG, in namespaces of its own: what is ours ends, all else stays.

$TEST_IMAGE is an image with a shell that the nodes have or can pull, $TEST_NAMESPACE the beginning of the namespaces' names.
"""

from __future__ import annotations

import json
import os
import secrets
import time
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._apply import KINDS, Owner
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, Object
from ansible_collections.llmops.serving.plugins.modules.gpu_runtime_guard import Rivals
from ansible_collections.llmops.serving.plugins.modules.kubernetes_apply import ARGS
from ansible_collections.llmops.serving.plugins.modules.kubernetes_apply import run as apply
from ansible_collections.llmops.serving.tests.cluster import runs

IMAGE = os.environ.get("TEST_IMAGE", "localhost/busybox:test")
BOTH = "app.kubernetes.io/instance=chat,app in (vllm-backend,ollama)"

pytestmark = pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="needs a cluster: export KUBECONFIG")


class Place:
    """A namespace of this test, with the guard called on it."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace

    def deploy(self, name: str, owner: t.Optional[dict[str, str]] = None, prune: bool = True, **spec: t.Any) -> dict[str, t.Any]:
        """Apply a Deployment with a volume, and wait until its pod runs; without *owner*, as somebody else would."""
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
        labels = {"app": name, "app.kubernetes.io/instance": "chat"}
        container = {
            "name": "main",
            "image": IMAGE,
            "command": ["sh", "-c", "sleep 3600"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": name}}
        pod = {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": [volume], **spec}
        template = {"metadata": {"labels": labels}, "spec": pod}
        manifests = [
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": claim},
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "labels": labels},
                "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
            },
        ]
        options = {key: option["default"] for key, option in ARGS.items() if "default" in option}
        if owner:
            return apply(self.kube, {**options, "manifests": manifests, "namespace": self.namespace, "owner": owner, "wait": True})
        for document in manifests:
            self.kube.call("POST", KINDS[document["kind"]].path(self.namespace), body=document)
        self.until(lambda: (self.get("Deployment", name).get("status") or {}).get("availableReplicas") == 1)
        return {}

    def guard(self, check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
        defaults = {"runtime": "vllm", "namespace": self.namespace, "instance": "chat", "stop": True, "wait_timeout": 120}
        return Rivals(self.kube, {**defaults, "progress_path": None, **params}, check_mode).run()

    def get(self, kind: str, name: str) -> Object:
        found = self.kube.get(KINDS[kind].path(self.namespace, name))
        assert found is not None, f"{kind}/{name}"
        return found

    def pods(self, selector: str) -> list[Object]:
        return list(self.kube.list(f"/api/v1/namespaces/{self.namespace}/pods", label_selector=selector))

    def until(self, there: t.Callable[[], bool]) -> None:
        """Wait for what the cluster does by itself."""
        for _look in range(600):
            if there():
                return
            time.sleep(0.1)
        raise AssertionError("it has not come")


@pytest.fixture
def place() -> t.Iterator[Place]:
    kube = Kube.connect()
    place = Place(kube, f"{os.environ.get('TEST_NAMESPACE', 'test-guard')}-{secrets.token_hex(3)}")
    kube.call("POST", "/api/v1/namespaces", body={"metadata": {"name": place.namespace}})
    yield place
    kube.delete(KINDS["Namespace"].path("", place.namespace))


OLLAMA = {"instance": "chat", "component": "ollama"}


def test_ollama_of_ours_ends_and_all_else_stays(place: Place) -> None:
    place.deploy("ollama", OLLAMA)
    place.deploy("somebody-elses")
    uid = place.get("PersistentVolumeClaim", "ollama")["metadata"]["uid"]
    assert len(place.pods(BOTH)) == 1  # the pods that gpu_memory_check counts as free

    told = place.guard(stop=False)
    assert (told["changed"], [holder["kind"] for holder in told["holders"]]) == (False, ["deployment", "pod"])
    foreseen = place.guard(check_mode=True)
    assert (foreseen["changed"], foreseen["stopped"]) == (True, ["Deployment/ollama"])
    assert len(place.pods("app=ollama")) == 1

    done = place.guard()
    assert (done["changed"], done["stopped"], done["holders"]) == (True, ["Deployment/ollama"], told["holders"])
    assert place.pods("app=ollama") == []
    assert place.get("Deployment", "ollama")["spec"]["replicas"] == 0
    assert place.get("PersistentVolumeClaim", "ollama")["metadata"]["uid"] == uid
    assert len(place.pods("app=somebody-elses")) == 1
    assert place.get("Deployment", "somebody-elses")["spec"]["replicas"] == 1

    again = place.guard()
    assert (again["changed"], again["holders"]) == (False, [])
    back = place.deploy("ollama", OLLAMA)
    actions = {entry["kind"]: entry["action"] for entry in back["results"]}
    assert actions == {"PersistentVolumeClaim": "unchanged", "Deployment": "changed"}
    assert len(place.pods("app=ollama")) == 1


def test_the_engines_end_for_ollama(place: Place) -> None:
    place.deploy("vllm-backend", {"instance": "chat", "component": "vllm"})
    assert not place.guard(runtime="ollama", instance="another")["changed"]
    assert place.guard(runtime="ollama")["stopped"] == ["Deployment/vllm-backend"]
    assert place.pods("app=vllm-backend") == []


def test_a_pod_that_does_not_go_is_named(place: Place) -> None:
    place.deploy("ollama", OLLAMA)
    [pod] = place.pods("app=ollama")
    path = f"/api/v1/namespaces/{place.namespace}/pods/{pod['metadata']['name']}"
    held = {"metadata": {"finalizers": ["example.com/slow"]}}
    place.kube.call("PATCH", path, body=held, content_type="application/merge-patch+json")
    with pytest.raises(ServingError, match=rf"its pod {place.namespace}/ollama-\S+ does not go: the finalizer example\.com/slow holds it"):
        place.guard(wait_timeout=8)
    with pytest.raises(ServingError, match="does not go"):
        place.guard(wait_timeout=1)
    place.kube.call("PATCH", path, body={"metadata": {"finalizers": None}}, content_type="application/merge-patch+json")
    last = place.guard()
    assert (last["changed"], last["stopped"]) == (False, [])


def test_labels_are_those_that_the_apply_writes(place: Place) -> None:
    place.deploy("ollama", OLLAMA)
    labels = place.get("Deployment", "ollama")["metadata"]["labels"]
    assert Owner(**OLLAMA).labels.items() <= labels.items()


def play(runtime: str = "vllm", **variables: t.Any) -> runs.Ended:
    return runs.run("guard.yml", inventory="inventory.example.yaml", **{"guard_runtime": runtime, **variables})


def test_the_playbook_tells_it_in_lines_and_changes_nothing(place: Place) -> None:
    place.deploy("ollama", OLLAMA)
    run = play(llm_namespace=place.namespace, vllm_accelerator="nvidia", llm_min_gpu_memory_gb=0)
    assert run.status == 0, run.words
    assert "changed=0" in run.words
    assert f"Ollama runs in {place.namespace}: Deployment/ollama (0 GPUs); it is stopped first" in run.words
    assert [line.split("  ")[0] for line in run.lines if line.startswith(("GPUs ", "Beside "))] == ["GPUs", "Beside"]
    run = play("ollama", llm_namespace=place.namespace)
    assert run.status == 0, run.words
    assert "runs in" not in run.words
    assert len(place.pods("app=ollama")) == 1
    assert json.dumps(place.get("Deployment", "ollama")["spec"]["replicas"]) == "1"


def test_ollamas_own_gpus_are_looked_for_where_it_serves(place: Place) -> None:
    wanted = {"llm_namespace": place.namespace, "llm_backend": "ollama", "ollama_model_name": "llama3.1:70b", "llm_min_gpu_memory_gb": 1}
    run = play("ollama", **wanted, ollama_gpu_count=99)
    assert run.status != 0
    assert "99 GPUs" in run.words
    assert play("ollama", **wanted, vllm_gpu_count=99, ollama_gpu_count=1).status == 0
