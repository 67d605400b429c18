"""The programs of every case of a single host, and what is asked of the machine, are exactly those in expected/."""

from __future__ import annotations

import re

import pytest
import yaml
from ansible_collections.llmops.serving.tests.golden.rendering import EXPECTED, cases, render, text_of

CASES = cases("local.yaml")
# engines that a router on another host has to reach
ADDRESSES = {("systemd-router-and-engine", "vllm-backend"): "10.0.0.1", ("systemd-engine-behind-it", "vllm-backend"): "10.0.0.2"}


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    return render("local.yaml", "render_local.yml", tmp_path_factory.mktemp("golden-local"), tidy)


def tidy(found):
    # locks and the smoke models' script have tests of their own; where this checkout lies is nobody's business
    text = re.sub(r"/\S*/ansible_collections/llmops/serving/", "/collection/", text_of(found))
    return re.sub(r"-[0-9a-f]{12}\b", "-DIGEST", re.sub(r"-[0-9a-f]{8}/", "-DIGEST/", text))


def load(path):
    return yaml.safe_load(path.read_text())


def test_every_expected_file_belongs_to_a_case():
    assert sorted(path.stem for prefix in ("local", "systemd") for path in EXPECTED.glob(f"{prefix}-*.yaml")) == CASES


@pytest.mark.parametrize("case", CASES)
def test_programs_are_the_expected_ones(rendered, case):
    actual, expected = load(rendered / f"{case}.yaml"), load(EXPECTED / f"{case}.yaml")
    assert actual == expected, "if this change is meant, run `make golden` and look at the diff"


@pytest.mark.parametrize("case", CASES)
def test_nothing_listens_or_is_asked_beyond_the_loopback_interface(rendered, case):
    for program in load(rendered / f"{case}.yaml")["programs"]:
        words = " ".join(program["command"])
        assert "0.0.0.0" not in words
        assert f"--host{'=' if '--host=' in words else ' '}{ADDRESSES.get((case, program['name']), '127.0.0.1')}" in words, program["name"]


@pytest.mark.parametrize("case", CASES)
def test_everything_is_in_the_state_folder(rendered, case):
    for program in load(rendered / f"{case}.yaml")["programs"]:
        assert program["command"][0].startswith("/state/venvs/")
        homes = {
            key: value for key, value in program.get("environment", {}).items() if key in ("HOME", "HF_HOME", "DATA_DIR", "XDG_CACHE_HOME")
        }
        assert all(value.startswith("/state/") for value in homes.values()), homes
