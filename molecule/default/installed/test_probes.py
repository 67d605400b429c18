"""What make verify and make probe-suite say of the engine in its pod, through a port-forward."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import chat
import test_plan

NAMESPACE = "molecule-default"
ROOT = Path(__file__).parents[3]
testinfra_hosts = ["local://"]


def play(name, **variables):
    """Run a playbook as `make` does; return its last words and all that it said."""
    command = [ROOT / ".venv/bin/ansible-playbook", *test_plan.words(variables), ROOT / f"playbooks/{name}.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert chat.secret(NAMESPACE, "vllm-secrets", "VLLM_API_KEY") not in done.stdout + done.stderr
    return chat.last_words(done.stdout)


def test_make_verify_passes_all_steps():
    assert "6 of 6 passed" in play("verify")[-1]


def test_the_smoke_model_passes_every_case_and_its_pod_is_described(tmp_path):
    play("probe", probe_tries=1, probe_iterations=2, results_folder=str(tmp_path))
    (kept,) = tmp_path.glob("*.json")
    document = json.loads(kept.read_text())
    (tools,) = (run["result"] for run in document["runs"] if run["probe"] == "tool_call_probe")
    assert len(tools["cases"]) == 13
    assert [case["name"] for case in tools["cases"] if not case["passed"]] == []
    deployment = document["deployment"]
    assert (deployment["platform"], deployment["engines"], deployment["model"]) == ("kubernetes", 1, "smoke")
    assert deployment["vllm_version"].startswith("0.32.")
    assert deployment["router"].startswith("vllm-router")
    assert "--tool-call-parser" in deployment["flags"]
