# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lookup images_lock, called as a template calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

DIGEST = f"sha256:{64 * 'a'}"


def look_up(given: str, beside: Path, **options: bool) -> object:
    words = "".join(f", {name}={value}" for name, value in options.items())
    template = f"{{{{ lookup('llmops.serving.images_lock', '{given}', beside='{beside}'{words}) }}}}"
    return Templar(loader=DataLoader(), variables={}).template(trust_as_template(template))


def test_the_file_beside_the_inventory(tmp_path: Path) -> None:
    path = tmp_path / "images.lock.yml"
    assert look_up("", tmp_path) == {"path": str(path), "images": {}}
    path.write_text(f"images: {{'vllm:v1': {{digest: '{DIGEST}', size_bytes: 3}}}}")
    expected = {"path": str(path), "images": {"vllm:v1": {"digest": DIGEST, "size_bytes": 3}}}
    assert look_up("", tmp_path) == expected
    assert look_up("images.lock.yml", tmp_path) == expected
    assert look_up(str(path), Path("/nonexistent")) == expected


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(AnsibleError, match=r"llm_images_lock: .*/pins.yml is not there. make pin-images makes it"):
        look_up("pins.yml", tmp_path)
    assert look_up("pins.yml", tmp_path, optional=True) == {"path": str(tmp_path / "pins.yml"), "images": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images: [", "cannot be read: "),
        ("- vllm", "is no lock file of images. Remove it, and make pin-images makes one."),
        ("", "is no lock file of images"),
        ("images: {'vllm:v1': {digest: sha256:123}}", "vllm:v1 has no digest"),
        ("images: {'vllm:v1': }", "vllm:v1 has no digest"),
        (f"images: {{'VLLM:v1': {{digest: '{DIGEST}'}}}}", "is no image"),
    ],
)
def test_what_is_no_lock_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "images.lock.yml").write_text(text)
    with pytest.raises(AnsibleError, match=words):
        look_up("", tmp_path)
