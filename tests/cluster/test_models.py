"""The big models' manifests, and what is refused, against a real API server: nothing is deployed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMESPACE = "test-models"


def kubectl(*words, text=None):
    return subprocess.run(["kubectl", *words], input=text, check=True, capture_output=True, text=True).stdout


def play(*variables, kubeconfig=None, check=True):
    words = [word for variable in (f"llm_namespace={NAMESPACE}", *variables) for word in ("-e", variable)]
    playbook = Path(sys.executable).parent / "ansible-playbook"
    command = [
        playbook,
        "-i",
        ROOT / "inventory.example.yaml",
        ROOT / "playbooks/chat.yml",
        *(["--check", "--diff"] if check else []),
        *words,
    ]
    environment = {**os.environ, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def last_words(run):
    return " ".join(run.stdout.rpartition("PLAY RECAP")[2].split())


@pytest.fixture(scope="module")
def namespace():
    """A namespace that is there, so that the API server judges every object in a dry run."""
    kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    yield NAMESPACE
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def kubeconfig_with(folder, token):
    """The kubeconfig in use, with another token in the place of its credentials."""
    config = json.loads(kubectl("config", "view", "--raw", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    path = folder / "config"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("model", ["gpt-oss-120b", "qwen-qwq-32b"])
def test_a_dry_run_is_accepted_and_shows_what_it_would_make(namespace, model):
    run = play(f"vllm_model_name={model}")
    assert run.returncode == 0, last_words(run)
    for words in ("kind: Deployment", "name: vllm-backend", "name: open-webui", "nvidia.com/gpu: '1'", "(hidden)"):
        assert words in run.stdout, words
    assert "failed=0" in run.stdout
    objects = json.loads(kubectl("-n", namespace, "get", "deployments,services,persistentvolumeclaims", "-o", "json"))
    assert objects["items"] == []


def test_a_dry_run_on_an_empty_cluster(namespace):
    run = play("llm_namespace=test-models-new", "vllm_model_name=gpt-oss-120b")
    assert run.returncode == 0, last_words(run)
    assert "kind: Namespace" in run.stdout
    assert "test-models-new" not in kubectl("get", "namespaces")


TROUBLE = {
    "a GPU that is too small": (["llm_min_gpu_memory_gb=141"], "llm_min_gpu_memory_gb: 80 would pass"),
    "more GPUs than a node has": (["vllm_gpu_count=8"], "8 GPUs"),
    "a storage class that is not there": (["vllm_storage_class=fast"], "asks for the StorageClass fast, which this cluster lacks"),
    "nodes without GPUs": (["{vllm_node_selector: {no-such: label}}"], "GPU"),
    "an fp8 cache that cannot be": (["vllm_kv_cache_dtype=fp8"], "fp8 cannot be had for gpt-oss-120b on NVIDIA-A100-SXM4-80GB"),
}


@pytest.mark.parametrize(("variables", "message"), TROUBLE.values(), ids=TROUBLE)
def test_what_cannot_work_is_refused_before_anything_is_changed(namespace, variables, message):
    run = play("vllm_model_name=gpt-oss-120b", "open_webui_storage_class=standard", *variables, check=False)
    assert run.returncode != 0
    assert message in last_words(run)
    assert json.loads(kubectl("-n", namespace, "get", "deployments,persistentvolumeclaims,services", "-o", "json"))["items"] == []


def test_credentials_that_are_refused(tmp_path):
    run = play("vllm_model_name=gpt-oss-120b", kubeconfig=kubeconfig_with(tmp_path, "not-a-token"), check=False)
    assert run.returncode != 0
    assert "refuses the credentials" in last_words(run)


def token_of(namespace, account):
    """A token of a service account; before Kubernetes 1.24 it is kept in a Secret of its own."""
    made = subprocess.run(["kubectl", "-n", namespace, "create", "token", account], capture_output=True, text=True, check=False)
    if made.returncode == 0:
        return made.stdout.strip()
    for secret in json.loads(kubectl("-n", namespace, "get", "secrets", "-o", "json"))["items"]:
        if secret["metadata"].get("annotations", {}).get("kubernetes.io/service-account.name") == account:
            return base64.b64decode(secret["data"]["token"]).decode()
    raise AssertionError(f"{account} has no token")


def test_a_permission_that_is_missing_is_named(namespace, tmp_path):
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": namespace}}
    kubectl("apply", "-f", "-", text=json.dumps(account))
    run = play("vllm_model_name=gpt-oss-120b", kubeconfig=kubeconfig_with(tmp_path, token_of(namespace, "reader")), check=False)
    assert run.returncode != 0
    assert 'cannot list resource "nodes"' in last_words(run)
