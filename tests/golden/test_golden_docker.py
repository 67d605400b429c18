"""The containers of every case of the platform docker, and what is asked of the host, are exactly those in expected/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXPECTED = HERE / "expected"
CASES = sorted(yaml.safe_load((HERE / "docker.yaml").read_text())["all"]["hosts"])


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden-docker")
    environment = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
    playbook = Path(sys.executable).parent / "ansible-playbook"
    command = [playbook, "-i", HERE / "docker.yaml", HERE / "render_docker.yml", "-e", f"output={folder}"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    for path in folder.glob("*.yaml"):
        text = yaml.safe_dump(yaml.safe_load(path.read_text()), sort_keys=False, width=140, explicit_start=True)
        # the smoke models' script has a test of its own
        path.write_text(re.sub(r"-[0-9a-f]{12}\b", "-DIGEST", text))
        if os.environ.get("GOLDEN_WRITE"):
            shutil.copy(path, EXPECTED)
    return folder


def load(path):
    return yaml.safe_load(path.read_text())


def test_every_expected_file_belongs_to_a_case():
    assert sorted(path.stem for path in EXPECTED.glob("docker-*.yaml")) == CASES


@pytest.mark.parametrize("case", CASES)
def test_containers_are_the_expected_ones(rendered, case):
    actual, expected = load(rendered / f"{case}.yaml"), load(EXPECTED / f"{case}.yaml")
    assert actual == expected, "if this change is meant, run `make golden` and look at the diff"


@pytest.mark.parametrize("case", CASES)
def test_no_container_has_rights_that_it_does_not_need(rendered, case):
    for container in load(rendered / f"{case}.yaml")["containers"]:
        assert container["user"] == "1000:1000"
        assert container["cap_drop"] == ["ALL"]
        assert container["security_opts"] == ["no-new-privileges"]
        assert all(
            mount["read_only"] for mount in container["mounts"] if mount.get("target") in ("/opt/llmops-serving", "/run/llmops-serving")
        )


@pytest.mark.parametrize("case", CASES)
def test_no_container_is_told_a_secret_where_it_can_be_seen(rendered, case):
    for container in load(rendered / f"{case}.yaml")["containers"]:
        names = {"VLLM_API_KEY", "HF_TOKEN", "WEBUI_SECRET_KEY", "WEBUI_ADMIN_PASSWORD", "OPENAI_API_KEYS"}
        assert not names & set(container["env"]), container["name"]
