"""make plan and the guard on a bare machine: they tell, and make nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_plan_of_a_first_installation(tmp_path):
    state_dir = tmp_path / "state"
    command = [ROOT / "scripts/plan", "--output", "json", "-i", ROOT / "inventory.local.yaml", "-e", f"llm_state_dir={state_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == {"name": "smoke", "source": "smoke", "running": None, "license": "GPL-3.0-or-later"}
    assert [change["object"] for change in report["changes"]] == ["vllm-backend", "vllm-router", "open-webui"]
    assert (report["restarts"], report["gap"], report["refusals"], report["changed"]) == ([], None, [], True)
    assert report["install_mib"] > 500
    assert report["fit"]["chats"]["full_length"] == 10
    assert "Nothing was changed. make install-chat does this." in done.stderr
    assert not state_dir.exists()


def test_the_wrong_word_for_the_output_is_refused():
    done = subprocess.run([ROOT / "scripts/plan", "--output", "yaml"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "--output yaml: it may be text or json.\n")


def test_the_guard_of_a_machine_that_uses_no_gpu(tmp_path):
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", ROOT / "inventory.local.yaml", ROOT / "playbooks/guard.yml"]
    done = subprocess.run([*command, "-e", f"llm_state_dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "GPUs  none is used, vllm_accelerator is cpu" in done.stdout
