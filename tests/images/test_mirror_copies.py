# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that make mirror-list prints, run with skopeo from one registry to another: the pins are right there, too."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import typing as t
from pathlib import Path

from ansible_collections.llmops.serving.plugins.module_utils import _images, _mirror
from ansible_collections.llmops.serving.plugins.modules import image_digest
from ansible_collections.llmops.serving.tests.images.registries import Registry


def ask(image: str, **given: t.Any) -> dict[str, t.Any]:
    defaults = {name: argument.get("default") for name, argument in image_digest.ARGUMENTS.items()}
    return image_digest.run({**defaults, "image": image, **given})


def test_a_copy_has_the_digests_of_the_pins(plain: Registry, tmp_path: Path) -> None:
    assert shutil.which("skopeo"), "This test needs the program skopeo: apt-get install skopeo"
    made = plain.push_index("chat/vllm", "v1", "linux/amd64", "linux/arm64")
    page, _length, _size = plain.push_image("chat/page", "v1")
    images = [f"{plain.host}/chat/vllm:v1", f"{plain.host}/chat/page@{page}"]
    lock = {"path": "x", **_images.next_lock([{**ask(image), "written": image} for image in images], None, "now")}
    with Registry(tmp_path / "inside") as inside:
        inside_name = f"{inside.host}/hub"
        listed = _mirror.mirror_list([_images.choose("x", image) for image in images], lock, [], [], inside_name)
        for entry in listed["images"]:
            program, verb, *words = shlex.split(entry["command"])
            command = [program, "--insecure-policy", verb, "--src-tls-verify=false", "--dest-tls-verify=false", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        plain.kill()
        copied = ask(images[0], registry=inside_name, platform="linux/arm64")
        assert (copied["digest"], copied["manifest_digest"]) == (made["digest"], made["linux/arm64"]["digest"])
        pinned = _images.choose("x", images[0], lock, inside_name)
        assert ask(pinned["by_digest"])["digest"] == lock["images"][images[0]]["digest"]
        assert ask(images[1], registry=inside_name)["digest"] == page
