"""The big models' manifests, and what is refused, against a real API server: nothing is deployed."""

from __future__ import annotations

import base64
import json
import subprocess

import pytest
from ansible_collections.llmops.serving.molecule.shared.chat import get, kubectl
from ansible_collections.llmops.serving.tests.cluster import runs

NAMESPACE = "test-models"
DRY = ("--check", "--diff")


def play(*options, kubeconfig=None, **variables):
    environ = {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
    return runs.run("chat.yml", *options, inventory="inventory.example.yaml", environ=environ, **{"llm_namespace": NAMESPACE, **variables})


@pytest.fixture(scope="module")
def namespace():
    """A namespace that is there, so that the API server judges every object in a dry run."""
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    yield NAMESPACE
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def kubeconfig_with(folder, token):
    """The kubeconfig in use, with another token in the place of its credentials."""
    config = kubectl("config", "view", "--raw", "-o", "json")
    config["users"][0]["user"] = {"token": token}
    path = folder / "config"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("model", ["gpt-oss-120b", "qwen-qwq-32b"])
def test_a_dry_run_is_accepted_and_shows_what_it_would_make(namespace, model):
    run = play(*DRY, vllm_model_name=model)
    assert run.status == 0, run.words
    for words in ("kind: Deployment", "name: vllm-backend", "name: open-webui", "nvidia.com/gpu: '1'", "(hidden)"):
        assert words in run.output, words
    assert "failed=0" in run.output
    assert get(namespace, "deployments,services,persistentvolumeclaims") == []


def test_a_dry_run_on_an_empty_cluster(namespace):
    run = play(*DRY, llm_namespace="test-models-new", vllm_model_name="gpt-oss-120b")
    assert run.status == 0, run.words
    assert "kind: Namespace" in run.output
    assert "test-models-new" not in kubectl("get", "namespaces")


TROUBLE = {
    "a GPU that is too small": ({"llm_min_gpu_memory_gb": 141}, "llm_min_gpu_memory_gb: 80 would pass"),
    "more GPUs than a node has": ({"vllm_gpu_count": 8}, "8 GPUs"),
    "a storage class that is not there": ({"vllm_storage_class": "fast"}, "asks for the StorageClass fast, which this cluster lacks"),
    "nodes without GPUs": ({"vllm_node_selector": {"no-such": "label"}}, "GPU"),
    "an fp8 cache that cannot be": ({"vllm_kv_cache_dtype": "fp8"}, "fp8 cannot be had for gpt-oss-120b on NVIDIA-A100-SXM4-80GB"),
}


@pytest.mark.parametrize(("variables", "message"), TROUBLE.values(), ids=TROUBLE)
def test_what_cannot_work_is_refused_before_anything_is_changed(namespace, variables, message):
    run = play(vllm_model_name="gpt-oss-120b", open_webui_storage_class="standard", **variables)
    assert run.status != 0
    assert message in run.words
    assert get(namespace, "deployments,persistentvolumeclaims,services") == []


def test_credentials_that_are_refused(tmp_path):
    run = play(vllm_model_name="gpt-oss-120b", kubeconfig=kubeconfig_with(tmp_path, "not-a-token"))
    assert run.status != 0
    assert "refuses the credentials" in run.words


def token_of(namespace, account):
    """A token of a service account; before Kubernetes 1.24 it is kept in a Secret of its own."""
    made = subprocess.run(["kubectl", "-n", namespace, "create", "token", account], capture_output=True, text=True, check=False)
    if made.returncode == 0:
        return made.stdout.strip()
    for secret in get(namespace, "secrets"):
        if secret["metadata"].get("annotations", {}).get("kubernetes.io/service-account.name") == account:
            return base64.b64decode(secret["data"]["token"]).decode()
    raise AssertionError(f"{account} has no token")


def test_a_permission_that_is_missing_is_named(namespace, tmp_path):
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": namespace}}
    kubectl("apply", "-f", "-", stdin=json.dumps(account))
    run = play(vllm_model_name="gpt-oss-120b", kubeconfig=kubeconfig_with(tmp_path, token_of(namespace, "reader")))
    assert run.status != 0
    assert 'cannot list resource "nodes"' in run.words
