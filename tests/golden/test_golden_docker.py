"""The containers of every case of the platform docker, and what is asked of the host, are exactly those in expected/."""

from __future__ import annotations

import re

import pytest
import yaml
from ansible_collections.llmops.serving.tests.golden.rendering import EXPECTED, cases, render, text_of

CASES = cases("docker.yaml")


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    return render("docker.yaml", "render_docker.yml", tmp_path_factory.mktemp("golden-docker"), tidy)


def tidy(found):
    # the smoke models' script has a test of its own
    return re.sub(r"-[0-9a-f]{12}\b", "-DIGEST", text_of(found))


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
