# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trained smoke models that the tests keep: only what this smoke_model.py made is taken, and only what is whole."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.molecule.shared import trained

SCRIPT = Path(__file__).resolve().parents[3] / "roles/vllm/files/smoke_model.py"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(trained, "KEPT", str(tmp_path / "kept"))
    return tmp_path / "kept"


def model(models: Path, name: str, weights: str = "w") -> Path:
    folder = models / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


def test_the_name_is_the_plans() -> None:
    assert trained.name("smoke-json") == f"smoke-json-{hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:12]}"


def test_what_was_trained_last_is_what_is_put(tmp_path: Path) -> None:
    for weights in ("first", "last"):
        model(tmp_path / weights, trained.name("smoke"), weights)
        trained.keep(tmp_path / weights)
    assert trained.put("smoke", tmp_path / "models")
    assert (tmp_path / "models" / trained.name("smoke") / "model.safetensors").read_text() == "last"
    assert not trained.put("smoke-json", tmp_path / "models")


def test_another_script_has_nothing_to_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path, trained.name("smoke"))
    trained.keep(tmp_path)
    other = tmp_path / "smoke_model.py"
    other.write_bytes(SCRIPT.read_bytes() + b"\n")
    monkeypatch.setattr(trained, "SCRIPT", other)
    assert not trained.put("smoke", tmp_path / "models")
    assert not trained.engine("nowhere", "smoke")
    assert not trained.volume("nowhere", "vllm-models")


@pytest.mark.parametrize("name", ["smoke-0123456789ab", ".smoke.unfinished"])
def test_nothing_else_is_kept(tmp_path: Path, kept: Path, name: str) -> None:
    model(tmp_path / "models", name)
    (tmp_path / "models" / trained.name("smoke")).mkdir()  # not whole
    trained.keep(tmp_path / "models")
    assert not kept.exists()


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "KEPT", "")
    model(tmp_path, trained.name("smoke"))
    trained.keep(tmp_path)
    assert trained.kept("smoke") is None


def test_on_a_volume_the_files_are_the_engines(tmp_path: Path) -> None:
    model(tmp_path, trained.name("smoke"))
    trained.keep(tmp_path)
    out = io.BytesIO()
    trained.packed("smoke", out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        entries = archive.getmembers()
    assert {(entry.uid, entry.gid) for entry in entries} == {(1000, 1000)}
    assert f"{trained.name('smoke')}/config.json" in {entry.name for entry in entries}
