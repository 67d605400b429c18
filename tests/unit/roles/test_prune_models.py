# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing models that are no longer served, on volumes in miniature: what goes, and above all what stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "roles/vllm/files/prune_models.py"
NEW, OLD, SMOKE = "models--acme--new", "models--acme--old", "models/smoke"
MIB = 2**20


def cached(data: Path, name: str, size: int) -> Path:
    """Put a model into the hub's cache as huggingface_hub does: a blob, two links to it, a ref, a lock and a marker."""
    folder = data / "huggingface/hub" / name
    blob = folder / "blobs/aa"
    for parent in (blob.parent, folder / "snapshots/c1", folder / "snapshots/c2", folder / "refs"):
        parent.mkdir(parents=True)
    blob.write_bytes(b"w" * size)
    (folder / "snapshots/c1/model.safetensors").symlink_to("../../blobs/aa")
    (folder / "snapshots/c2/model.safetensors").symlink_to("../../blobs/aa")
    lock = data / "huggingface/hub/.locks" / name / "aa.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    marker = data / f"huggingface/llmops-serving/{name}@main.json"
    marker.parent.mkdir(exist_ok=True)
    marker.touch()
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    cached(data, NEW, 2 * MIB)
    cached(data, OLD, 3 * MIB)
    for path in ("models/smoke/model.safetensors", "models/smoke-json/model.safetensors", "huggingface/hub/version.txt", "other/file"):
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_bytes(b"s" * MIB)
    (data / "huggingface/hub/datasets--acme--old").mkdir()
    (data / "models/.smoke.unfinished").mkdir()
    return data


def prune(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-S", str(SCRIPT), "--data", str(data), *arguments]
    run = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert "Traceback" not in run.stderr
    return run


def everything(data: Path) -> set[str]:
    return {path.relative_to(data).as_posix() for path in data.rglob("*")}


def test_what_is_not_kept_is_removed_wholly_and_nothing_else(data: Path) -> None:
    before = everything(data)
    run = prune(data, "--keep", NEW, SMOKE)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "kept     acme/new           2.0 MiB",
        "removed  acme/old           3.0 MiB",
        "kept     models/smoke       1.0 MiB",
        "removed  models/smoke-json  1.0 MiB",
        "freed 4.0 MiB",
    ]
    removed = before - everything(data)
    assert removed == {path for path in before if OLD in path or path.startswith("models/smoke-json")}
    assert f"huggingface/llmops-serving/{OLD}@main.json" in removed
    assert f"huggingface/hub/.locks/{OLD}/aa.lock" in removed


def test_a_dry_run_removes_nothing(data: Path) -> None:
    before = everything(data)
    run = prune(data, "--keep", NEW, "--keep", SMOKE, "--dry-run")
    assert run.stdout.splitlines()[1] == "removes  acme/old           3.0 MiB"
    assert run.stdout.splitlines()[-1] == "would free 4.0 MiB"
    assert everything(data) == before


def test_as_json(data: Path) -> None:
    told = json.loads(prune(data, "--json", "--keep", NEW, SMOKE, "models/smoke-json").stdout)
    assert told["freed_bytes"] == 3 * MIB
    assert told["models"][:2] == [
        {"name": NEW, "title": "acme/new", "path": str(data / "huggingface/hub" / NEW), "bytes": 2 * MIB, "kept": True, "removed": False},
        {"name": OLD, "title": "acme/old", "path": str(data / "huggingface/hub" / OLD), "bytes": 3 * MIB, "kept": False, "removed": True},
    ]
    told = json.loads(prune(data, "--json", "--dry-run").stdout)
    assert told["freed_bytes"] == 4 * MIB
    assert [(model["name"], model["kept"], model["removed"]) for model in told["models"]] == [
        (NEW, False, False),
        (SMOKE, False, False),
        ("models/smoke-json", False, False),
    ]


@pytest.mark.parametrize(
    "name",
    ["..", "models/..", "models/../other", "models--..--x", "models/", "models--", "acme/new", "new", "/models/smoke", "models/a/b", ""],
)
def test_a_name_that_is_none_costs_no_model(data: Path, name: str) -> None:
    before = everything(data)
    run = prune(data, "--keep", NEW, name)
    assert run.returncode == 2
    assert run.stderr.startswith(f'--keep "{name}" is no model')
    assert everything(data) == before


def test_links_are_not_followed(data: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"o" * MIB)
    (data / "models/linked").symlink_to(outside)
    (data / "models/smoke/linked").symlink_to(outside)
    (data / "huggingface/hub/models--acme--linked").symlink_to(outside)
    (data / f"huggingface/hub/{OLD}/blobs/bb").symlink_to(outside / "file")
    run = prune(data, "--keep", NEW)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "freed 5.0 MiB"
    assert (outside / "file").exists()
    assert "linked" not in run.stdout
    assert (data / "models/linked").is_symlink()
    assert not (data / SMOKE).exists()


@pytest.mark.parametrize("link", ["models", "huggingface", "huggingface/hub"])
def test_a_volume_whose_folders_are_links_is_left_alone(data: Path, tmp_path: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (data / link).rename(elsewhere)
    (data / link).symlink_to(elsewhere)
    before = everything(elsewhere)
    assert prune(data).returncode == 0
    assert everything(elsewhere) == before


def test_a_file_with_two_names_counts_once(data: Path) -> None:
    os.link(data / "models/smoke/model.safetensors", data / "models/smoke/again.safetensors")
    assert "models/smoke       1.0 MiB" in prune(data, "--dry-run").stdout


def share(data: Path, content: str, *names: str) -> Path:
    """Put a file into the store that huggingface_hub shares between models, linked from *names*."""
    stored = data / "huggingface/hub/blobs" / content[:2] / content
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"x" * MIB)
    stored.with_name(f"{content}.refs").write_text("".join(f"{name}/blobs/{content}\n" for name in names))
    for name in names:
        (data / "huggingface/hub" / name / "blobs").mkdir(exist_ok=True)
        (data / "huggingface/hub" / name / "blobs" / content).symlink_to(f"../../blobs/{content[:2]}/{content}")
    return stored


def test_what_models_share_goes_with_the_last_of_them(data: Path) -> None:
    alone, shared, dataset = (share(data, digit * 64, OLD, *names) for digit, names in zip("abc", ((), (NEW,), ("datasets--acme--old",))))
    run = prune(data, "--keep", NEW, SMOKE, "models/smoke-json")
    assert run.stdout.splitlines()[0] == "kept     acme/new           3.0 MiB"
    assert run.stdout.splitlines()[1] == "removed  acme/old           6.0 MiB"
    assert run.stdout.splitlines()[-1] == "freed 4.0 MiB"
    assert [path.exists() for path in (alone, shared, dataset)] == [False, True, True]
    assert not alone.with_name(f"{alone.name}.refs").exists()


def test_an_empty_volume(tmp_path: Path) -> None:
    assert prune(tmp_path).stdout == "freed 0.0 MiB\n"


def test_a_volume_that_is_not_mounted(tmp_path: Path) -> None:
    run = prune(tmp_path / "none")
    assert run.returncode == 2
    assert run.stderr == f"{tmp_path / 'none'} is no folder. Is the volume mounted?\n"
