"""make plan: it tells what a run would do, and does nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import chat
import pytest

NAMESPACE = "molecule-default"
ROOT = Path(__file__).parents[3]
testinfra_hosts = ["local://"]


def words(variables):
    """What is given to ansible-playbook."""
    extra = json.dumps({"llm_namespace": NAMESPACE, "vllm_model_name": "smoke", **variables})
    return ["-i", ROOT / "molecule/inventory.yaml", "-e", extra]


def plan(**variables):
    """The report for machines, and the exit status."""
    command = [ROOT / "scripts/plan", "--output", "json", *words(variables)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done.returncode


def install(**variables):
    """The last words of make install-chat, and the exit status."""
    command = [ROOT / ".venv/bin/ansible-playbook", *words(variables), ROOT / "playbooks/chat.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return " ".join(done.stdout.rpartition("PLAY RECAP")[2].split()), done.returncode


@pytest.fixture
def untouched():
    """Nothing of the namespace may change while a test runs."""

    def versions():
        kinds = "deployments,services,secrets,persistentvolumeclaims,configmaps,jobs"
        return {(item["kind"], item["metadata"]["name"]): item["metadata"]["uid"] for item in chat.get(NAMESPACE, kinds)} | {
            item["metadata"]["name"]: item["metadata"]["generation"] for item in chat.get(NAMESPACE, "deployments")
        }

    before = versions()
    yield
    assert versions() == before


@pytest.mark.usefixtures("untouched")
class TestPlan:
    def test_what_is_as_it_should_be_stays(self):
        report, status = plan()
        assert status == 0
        assert (report["changed"], report["changes"], report["restarts"], report["gap"], report["deletes"]) == (False, [], [], None, [])
        assert report["model"] == {"name": "smoke", "source": "smoke", "running": "smoke", "license": "GPL-3.0-or-later"}
        assert report["fit"]["verdict"] == "fits"
        assert report["gpus"]["candidates"][0]["product"]

    def test_a_shorter_context_restarts_the_engine_only(self):
        report, status = plan(vllm_model_configs={"smoke": {"max_model_len": 4096}})
        assert (status, report["restarts"]) == (0, ["Deployment/vllm-backend"])
        (engine,) = [change for change in report["changes"] if change["object"] == "Deployment/vllm-backend"]
        assert "--max-model-len 8192 -> 4096" in engine["details"]
        assert report["download_gib"] == 0

    def test_what_the_switch_costs_is_told_before(self):
        row = {"smoke": {"max_model_len": 4096}}
        beside, _status = plan(vllm_model_configs=row)
        assert (beside["switch"]["strategy"], beside["gap"]) == ("surge", None)
        assert "room for old and new" in beside["switch"]["why"]
        anew, _status = plan(vllm_model_configs=row, vllm_switch_strategy="recreate")
        assert anew["switch"]["strategy"] == "recreate"
        assert anew["gap"]["seconds"] > 0

    def test_another_model_names_the_one_that_runs(self):
        report, status = plan(vllm_model_name="smoke-json")
        assert (status, report["model"]["running"], report["model"]["name"]) == (0, "smoke", "smoke-json")
        assert "Deployment/vllm-backend" in report["restarts"]
        assert any(name.startswith("Job/") for name in report["deletes"])

    def test_what_would_be_refused_is_told_with_its_numbers(self):
        report, status = plan(vllm_model_name="gpt-oss-120b")
        assert status != 0
        assert "5 GiB cannot hold gpt-oss-120b" in report["refusals"][0]
        assert report["fit"]["memory_gib"]["weights"] > 60
        assert report["download_gib"] == pytest.approx(60.77)

    def test_an_installation_of_what_does_not_fit_changes_nothing(self):
        tight = {"gpt-oss-120b": {"gpu_memory_utilization": 0.8}}
        last_words, status = install(vllm_model_name="gpt-oss-120b", vllm_model_configs=tight, vllm_storage_size="100Gi")
        assert status != 0
        assert "gpt-oss-120b does not fit on 1 x NVIDIA-A100-SXM4-80GB" in last_words
        assert "vllm_gpu_count: 2" in last_words

    def test_no_secret_is_told(self):
        report, _status = plan(vllm_extra_env={"PLAIN": "1"})
        assert chat.secret(NAMESPACE, "vllm-secrets", "VLLM_API_KEY") not in json.dumps(report)
