# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From vLLM to Ollama and back, on the cluster of $KUBECONFIG: what was verified last serves, and what both have on volumes stays.

vLLM is the real one, with smoke. Ollama is tests/fakes/ollama.py, which the tests put onto its volume beforehand: its program and its
library are not to be had everywhere. Both ask for a GPU, which the node has to offer (it may be simulated), so one ends before the
other starts. The tests go on from each other, in their order. $TEST_NAMESPACE is the beginning of the namespace's name.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.molecule.shared.chat import get, kubectl
from ansible_collections.llmops.serving.tests.cluster import runs
from ansible_collections.llmops.serving.tests.cluster.runs import ROOT, Ended

FAKE = ROOT / "tests/fakes/ollama.py"
REGISTRY = {"tiny:1": {"size": 4 * 2**20}, "other:1": {"size": 2**20}, "mute:1": {"size": 2**20}}
PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.include_role": {"name": "llmops.serving.{{ llm_backend }}"}},
            {
                "ansible.builtin.set_stats": {
                    "data": {"serving_summary": {"API": "{{ lookup('ansible.builtin.vars', llm_backend ~ '_endpoint').url }}"}}
                }
            },
        ],
    }
]

pytestmark = pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="needs a cluster: export KUBECONFIG")


class Stack:
    """A stack without a page, and the runs that change its backend."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace = namespace
        self.play = folder / "play.yml"
        self.play.write_text(json.dumps(PLAY))

    def run(
        self, backend: str, playbook: t.Union[Path, str, None] = None, fake: t.Optional[dict[str, t.Any]] = None, **variables: t.Any
    ) -> Ended:
        told = {
            "llm_namespace": self.namespace,
            "llm_backend": backend,
            "vllm_model_name": "smoke",
            "vllm_shutdown_timeout": 2,
            "vllm_startup_timeout": 900,
            "vllm_model_configs": {"smoke": {"min_gpu_memory_gb": 80}},
            "ollama_model_name": "tiny:1",
            "ollama_model_configs": {name: {"weights_gib": 0.1, "tools": True} for name in REGISTRY},
            "ollama_cpu_request": "100m",
            "ollama_memory_request": "64Mi",
            "ollama_storage_size": "1Gi",
            "ollama_image": os.environ.get("TEST_VLLM_IMAGE", "localhost/vllm-openai-cpu:test"),
            "ollama_extra_env": {
                "PATH": "/data/bin:/usr/local/bin:/usr/bin:/bin",
                "FAKE_OLLAMA": json.dumps({"registry": REGISTRY, **(fake or {})}),
            },
            **variables,
        }
        return runs.run(playbook or self.play, **told)

    def deployments(self) -> dict[str, int]:
        """Return how many pods of each Deployment are ready."""
        found = get(self.namespace, "deployments")
        return {item["metadata"]["name"]: item["status"].get("readyReplicas", 0) for item in found}

    def claims(self) -> dict[str, str]:
        found = get(self.namespace, "persistentvolumeclaims")
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in found}

    def record(self, backend: str) -> dict[str, t.Any]:
        data = kubectl("-n", self.namespace, "get", "configmap", f"{backend}-state", "-o", "json")["data"]
        return {"model": data.get("model"), "weights": json.loads(data["weights"])}

    def put_program(self) -> None:
        """Make Ollama's volume as the role would, and put the stand-in for its program there."""
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        image = os.environ.get("TEST_VLLM_IMAGE", "localhost/vllm-openai-cpu:test")
        put = "mkdir -p /data/bin && cp /program/ollama /data/bin/ollama && chmod 755 /data/bin/ollama"
        container = {
            "name": "put",
            "image": image,
            "command": ["sh", "-c", put],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "program", "mountPath": "/program"}],
        }
        volumes = [
            {"name": "data", "persistentVolumeClaim": {"claimName": "ollama"}},
            {"name": "program", "configMap": {"name": "program"}},
        ]
        documents = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "program"},
                "data": {"ollama": f"#!/usr/bin/env python3\n{FAKE.read_text()}"},
            },
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "ollama"}, "spec": claim},
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "put"},
                "spec": {"restartPolicy": "Never", "containers": [container], "volumes": volumes},
            },
        ]
        kubectl("-n", self.namespace, "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
        kubectl("-n", self.namespace, "wait", "pod/put", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
        kubectl("-n", self.namespace, "delete", "pod/put", "configmap/program")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Stack]:
    namespace = f"{os.environ.get('TEST_NAMESPACE', 'test-ollama')}-{secrets.token_hex(3)}"
    stack = Stack(namespace, tmp_path_factory.mktemp("ollama"))
    kubectl("create", "namespace", namespace)
    try:
        stack.put_program()
        run = stack.run("vllm")
        assert run.status == 0, run.words
        yield stack
    finally:
        subprocess.run(["kubectl", "delete", "namespace", namespace, "--wait=false"], check=False)


def test_a_model_that_nobody_has_ends_the_run_while_vllm_serves(stack: Stack) -> None:
    run = stack.run("ollama", ollama_model_name="none:1", ollama_model_configs={"none:1": {}})
    assert run.status != 0
    assert "none:1 cannot be pulled: the library has no such model" in run.words
    assert stack.deployments() == {"vllm-backend": 1, "vllm-router": 1}


def test_a_model_that_does_not_answer_brings_vllm_back(stack: Stack) -> None:
    run = stack.run("ollama", fake={"mute": True}, ollama_model_name="mute:1")
    assert run.status != 0
    assert "smoke of vLLM answers again; mute:1 is not served." in run.words
    assert stack.deployments() == {"vllm-backend": 1, "vllm-router": 1}
    assert stack.record("vllm")["model"] == "smoke"


def test_ollama_takes_the_place_of_vllm(stack: Stack) -> None:
    before = stack.claims()
    run = stack.run("ollama")
    assert run.status == 0, run.words
    assert f"http://ollama.{stack.namespace}:11434/v1" in run.words
    assert stack.deployments() == {"ollama": 1}
    assert stack.claims() == before
    assert stack.record("vllm")["model"] is None
    assert [entry["model"] for entry in stack.record("vllm")["weights"].values()] == ["smoke"]
    record = stack.record("ollama")
    assert record["model"] == "tiny:1"
    assert re.fullmatch("[0-9a-f]{64}", record["weights"]["tiny:1"]["digest"])

    again = stack.run("ollama")
    assert again.status == 0
    assert "Nothing was changed" in again.words
    verified = stack.run("ollama", playbook="verify.yml")
    assert verified.status == 0, verified.words
    assert "5 of 5 passed" in verified.words


def test_ollama_changes_its_model_and_goes_back_from_one_that_fails(stack: Stack) -> None:
    run = stack.run("ollama", fake={"mute": True}, ollama_model_name="mute:1")
    assert run.status != 0
    assert "tiny:1 answers again; mute:1 is not served." in run.words
    assert stack.run("ollama", ollama_model_name="other:1").status == 0
    assert stack.record("ollama")["model"] == "other:1"


def test_an_engine_that_cannot_start_brings_ollama_back(stack: Stack) -> None:
    run = stack.run("vllm", vllm_model_configs={"smoke": {"min_gpu_memory_gb": 80, "extra_args": ["--no-such-flag"]}})
    assert run.status != 0
    assert "--no-such-flag" in run.words
    assert "other:1 of Ollama answers again; smoke is not served." in run.words
    assert stack.deployments() == {"ollama": 1}
    assert stack.record("ollama")["model"] == "other:1"


def test_vllm_takes_the_place_of_ollama_without_training_again(stack: Stack) -> None:
    before = stack.claims()
    run = stack.run("vllm")
    assert run.status == 0, run.words
    assert stack.deployments() == {"vllm-backend": 1, "vllm-router": 1}
    assert stack.claims() == before
    assert set(stack.record("ollama")["weights"]) >= {"tiny:1", "other:1"}
    assert stack.record("ollama")["model"] is None


def test_uninstalling_removes_both(stack: Stack) -> None:
    run = stack.run("ollama", playbook="uninstall.yml", purge=True)
    assert run.status == 0, run.words
    assert stack.deployments() == {}
    assert stack.claims() == {}
