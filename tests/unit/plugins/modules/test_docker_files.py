# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets, scripts and folders of containers, in a state folder of this test's; the containers' user is that of the test."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import docker_files

LAUNCHER = Path(__file__).parents[4] / "roles/vllm/files/launch.sh"
USER = os.getuid()
ENGINE = {"name": "vllm-backend", "user": USER, "variables": {"VLLM_API_KEY": ["vllm/VLLM_API_KEY"], "HF_TOKEN": ["vllm/HF_TOKEN"]}}


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "chat"


def run(state_dir: Path, check_mode: bool = False, **changes: t.Any) -> dict[str, t.Any]:
    params: dict[str, t.Any] = {
        "state_dir": str(state_dir),
        "component": "vllm",
        "state": "present",
        "containers": [ENGINE],
        "folders": {f"{state_dir}/data": USER},
        "files": {"bin/launch.sh": LAUNCHER.read_text(), "compose.yaml": "services: {}\n"},
        "secret_data": {},
        "generate_secrets": ["VLLM_API_KEY"],
        "remove_paths": [],
        "remove_secrets": False,
    }
    return docker_files.run({**params, **changes}, check_mode)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def copies(state_dir: Path, container: str = "vllm-backend") -> dict[str, str]:
    return {path.name: path.read_text() for path in (state_dir / "containers" / container).iterdir()}


def test_a_container_gets_its_secrets_and_nothing_else(state_dir: Path) -> None:
    result = run(state_dir)
    key = (state_dir / "secrets/vllm/VLLM_API_KEY").read_text()
    assert copies(state_dir) == {"VLLM_API_KEY": key}
    assert len(key) >= 32
    assert result["secrets_generated"] == ["vllm/VLLM_API_KEY"]
    assert mode(state_dir) == mode(state_dir / "containers") == mode(state_dir / "containers/vllm-backend") == 0o700
    assert mode(state_dir / "containers/vllm-backend/VLLM_API_KEY") == 0o400
    assert (mode(state_dir / "bin"), mode(state_dir / "bin/launch.sh")) == (0o755, 0o644), "containers read them as another user"


def test_a_second_run_changes_nothing(state_dir: Path) -> None:
    first, second = run(state_dir), run(state_dir)
    assert first["changed"]
    assert not second["changed"]
    assert second["diff"] == []
    assert first["versions"] == second["versions"]


def test_another_secret_is_another_version_that_tells_nothing_of_it(state_dir: Path) -> None:
    before = run(state_dir)["versions"]
    after = run(state_dir, secret_data={"HF_TOKEN": "hf_0123456789"})
    assert after["versions"] != before
    assert copies(state_dir)["HF_TOKEN"] == "hf_0123456789"
    assert "hf_0123456789" not in json.dumps(after)


def test_a_secret_that_is_gone_is_taken_from_the_container(state_dir: Path) -> None:
    run(state_dir, secret_data={"HF_TOKEN": "hf_0123456789"})
    (state_dir / "secrets/vllm/HF_TOKEN").unlink()
    assert run(state_dir)["changed"]
    assert set(copies(state_dir)) == {"VLLM_API_KEY"}


def test_a_variable_that_is_no_longer_asked_for_is_taken_away(state_dir: Path) -> None:
    run(state_dir)
    run(state_dir, containers=[{**ENGINE, "variables": {}}])
    assert copies(state_dir) == {}


def test_several_secrets_in_one_variable(state_dir: Path) -> None:
    run(state_dir, secret_data={"VLLM_API_KEY": "first"})
    page = {"name": "open-webui", "user": USER, "variables": {"OPENAI_API_KEYS": ["vllm/VLLM_API_KEY", "open-webui/CLOUD"]}}
    run(state_dir, component="open-webui", containers=[page], secret_data={"CLOUD": "second\n"}, generate_secrets=[])
    assert copies(state_dir, "open-webui") == {"OPENAI_API_KEYS": "first;second"}


def test_check_mode_writes_nothing_and_says_what_would_be(state_dir: Path) -> None:
    result = run(state_dir, check_mode=True)
    assert result["changed"]
    assert not state_dir.exists()
    run(state_dir)
    key = copies(state_dir)
    rehearsed = run(state_dir, check_mode=True, secret_data={"VLLM_API_KEY": "another"})
    assert rehearsed["changed"]
    assert rehearsed["versions"] != run(state_dir, check_mode=True)["versions"]
    assert copies(state_dir) == key


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"containers": [{**ENGINE, "variables": {"A-B": ["vllm/A"]}}]}, "'A-B' of the container vllm-backend cannot be the name"),
        ({"containers": [{**ENGINE, "variables": {"A": "vllm/A"}}]}, "it has to be a list of COMPONENT/KEY"),
        ({"containers": [{**ENGINE, "variables": {"A": ["../A"]}}]}, "it has to be a list of COMPONENT/KEY"),
        ({"folders": {"/srv/other": USER}}, "folders has /srv/other, which is not in the state folder"),
    ],
)
def test_what_cannot_be(state_dir: Path, changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(ServingError, match=words):
        run(state_dir, **changes)


# --- removal ------------------------------------------------------------------------------------------------------------------------


def both(state_dir: Path) -> dict[str, t.Any]:
    run(state_dir)
    page = {"name": "open-webui", "user": USER, "variables": {}}
    run(state_dir, component="open-webui", containers=[page], folders={f"{state_dir}/open-webui": USER}, files={}, generate_secrets=[])
    return page


def test_the_first_that_goes_leaves_the_other_what_it_reads(state_dir: Path) -> None:
    page = both(state_dir)
    result = run(state_dir, state="absent", component="open-webui", containers=[page], files={"compose.override.yaml": ""})
    assert not result["last"]
    assert (state_dir / "bin/launch.sh").exists()
    assert not (state_dir / "containers/open-webui").exists()
    assert copies(state_dir)


def test_a_component_that_was_never_there_takes_nothing_from_the_other(state_dir: Path) -> None:
    run(state_dir)
    page = {"name": "open-webui", "user": USER, "variables": {}}
    assert not run(state_dir, state="absent", component="open-webui", containers=[page], files={"compose.override.yaml": ""})["changed"]
    assert not run(state_dir)["changed"]


def test_the_last_that_goes_keeps_weights_and_secrets(state_dir: Path) -> None:
    page = both(state_dir)
    run(state_dir, state="absent", component="open-webui", containers=[page], files={})
    result = run(state_dir, state="absent", files={"compose.yaml": ""})
    assert result["last"]
    assert {path.name for path in state_dir.iterdir()} == {"data", "open-webui", "secrets"}
    assert run(state_dir, state="absent", files={"compose.yaml": ""}) == {**result, "changed": False, "diff": []}


def test_purged_nothing_is_left(state_dir: Path) -> None:
    run(state_dir)
    run(state_dir, state="absent", files={"compose.yaml": ""}, remove_paths=[f"{state_dir}/data"], remove_secrets=True)
    assert not state_dir.exists()


# --- the script that reads them -----------------------------------------------------------------------------------------------------


def test_the_launcher_exports_each_file_and_marks_the_start(state_dir: Path) -> None:
    run(state_dir, secret_data={"VLLM_API_KEY": "a key; with $igns"})
    script = (state_dir / "bin/launch.sh").read_text().replace("/run/llmops-serving", str(state_dir / "containers/vllm-backend"))
    words = [
        "sh",
        "-c",
        script,
        "launch.sh",
        "vllm-backend",
        "sh",
        "-c",
        'echo "$VLLM_API_KEY"; echo "${HF_TOKEN-none}"; echo "$@"',
        "x",
        "a b",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    first, *rest = done.stdout.splitlines()
    assert first.startswith("=== start of vllm-backend, ")
    assert rest == ["a key; with $igns", "none", "a b"]
