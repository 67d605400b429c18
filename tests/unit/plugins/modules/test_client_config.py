# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing settings of clients: where the key comes from, and what happens to files that are there."""

from __future__ import annotations

import base64
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import client_config

KEY = "sk-0123456789abcdef"
SECRET = {"namespace": "chatbot", "name": "vllm-secrets", "key": "VLLM_API_KEY"}
ENDPOINT = {"url": "http://localhost:8000/v1", "model": "smoke", "key": {"command": "kubectl get", "path": None, "secret": SECRET}}


def run(folder: Path, check_mode: bool = False, connect: t.Any = None, **options: t.Any) -> dict[str, t.Any]:
    given = {"endpoint": ENDPOINT, "url": "", "folder": str(folder), "label": "", "fallbacks": [], "with_key": False, "api_key": None}
    return client_config.run({**given, "kubeconfig": None, "context": None, **options}, check_mode, connect)


def cluster(data: dict[str, str]) -> t.Callable[..., t.Any]:
    """A cluster that has the Secret, with *data*."""
    secret = {"data": {name: base64.b64encode(value.encode()).decode() for name, value in data.items()}}
    paths = {"/api/v1/namespaces/chatbot/secrets/vllm-secrets": secret}
    return lambda *_access: types.SimpleNamespace(get=paths.get)


def test_the_key_of_a_cluster_is_read_from_its_secret(tmp_path: Path) -> None:
    result = run(tmp_path, connect=cluster({"VLLM_API_KEY": KEY}), with_key=True)
    assert (tmp_path / "api-key").read_text() == f"{KEY}\n"
    assert {Path(file["path"]).name for file in result["files"] if file["holds_key"]} >= {"api-key", "env.sh", "profiles.yaml"}
    assert KEY not in str(result)


def test_the_cluster_is_not_asked_for_a_key_that_is_not_wanted(tmp_path: Path) -> None:
    assert run(tmp_path, connect=None)["changed"]


def test_a_secret_without_the_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"has no VLLM_API_KEY; it has: HF_TOKEN\."):
        run(tmp_path, connect=cluster({"HF_TOKEN": "x"}), with_key=True)


def test_a_key_that_nobody_can_read_here_is_told(tmp_path: Path) -> None:
    endpoint = {**ENDPOINT, "key": {"command": "cat /k", "path": "/k", "secret": None}}
    with pytest.raises(ServingError, match=r"with_key: the API key was not given\. Look whether it is printed by: cat /k"):
        run(tmp_path, endpoint=endpoint, with_key=True)


def test_a_key_is_of_no_use_where_none_is_wanted(tmp_path: Path) -> None:
    result = run(tmp_path, endpoint={**ENDPOINT, "key": None}, with_key=True)
    assert not any(file["holds_key"] for file in result["files"])
    assert result["summary"]["Key"] == "none is wanted"


def test_a_file_of_another_mode_is_mended(tmp_path: Path) -> None:
    run(tmp_path, with_key=True, api_key=KEY)
    (tmp_path / "api-key").chmod(0o644)
    result = run(tmp_path, with_key=True, api_key=KEY)
    assert [file["path"] for file in result["files"] if file["changed"]] == [str(tmp_path / "api-key")]
    assert (tmp_path / "api-key").stat().st_mode & 0o777 == 0o600


def test_what_a_link_points_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "profiles.yaml").write_text("mine")
    (tmp_path / "out/victor").mkdir(parents=True)
    (tmp_path / "out/victor/profiles.yaml").symlink_to(tmp_path / "profiles.yaml")
    assert run(tmp_path / "out")["changed"]
    assert (tmp_path / "profiles.yaml").read_text() == "mine"
    assert not run(tmp_path / "out")["changed"]


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ServingError, match=r"Cannot write .*taken.*: (File exists|Not a directory)\. Set client_config_folder"):
        run(tmp_path / "taken")


def test_check_mode_names_keys_that_would_be_removed_and_leaves_them(tmp_path: Path) -> None:
    run(tmp_path, with_key=True, api_key=KEY)
    result = run(tmp_path, check_mode=True)
    assert result["removed"] == [str(tmp_path / "api-key"), str(tmp_path / "picoclaw/api.key")]
    assert (tmp_path / "api-key").exists()
    assert KEY not in str(result["diff"])


def test_several_hosts_are_told_apart(tmp_path: Path) -> None:
    assert set(run(tmp_path, label="gpu-a")["summary"]) == {"Written (gpu-a)", "Model (gpu-a)", "Key (gpu-a)", "Try (gpu-a)"}
