# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a site without the internet has to hold."""

from __future__ import annotations

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _images, _mirror

A, B = (f"sha256:{64 * digit}" for digit in "ab")
LOCK = {"path": "/site/images.lock.yml", "images": {"vllm/vllm:v1": {"digest": A, "platform": "linux/amd64", "size_bytes": 10 * 2**30}}}


def listed(*images: str, registry: str = "", **given: t.Any) -> dict[str, t.Any]:
    return _mirror.mirror_list(
        [_images.choose("x", image) for image in images], LOCK, given.get("found", []), given.get("models", []), registry
    )


def test_images_are_copied_by_digest_to_their_tag() -> None:
    found = [
        {"written": "ghcr.io/a/page:v1", "digest": B, "platform": "linux/amd64", "size_bytes": 2**20},
        {"written": "c:v1", "msg": "gone."},
    ]
    told = listed("vllm/vllm:v1", "ghcr.io/a/page:v1", "c:v1", f"d@{B}", registry="r.example:5000/hub", found=found)
    assert [entry["command"] for entry in told["images"]] == [
        f"skopeo copy --all --preserve-digests docker://docker.io/vllm/vllm@{A} docker://r.example:5000/hub/vllm/vllm:v1",
        f"skopeo copy --all --preserve-digests docker://ghcr.io/a/page@{B} docker://r.example:5000/hub/a/page:v1",
        "skopeo copy --all --preserve-digests docker://docker.io/library/c:v1 docker://r.example:5000/hub/library/c:v1",
        f"skopeo copy --all --preserve-digests docker://docker.io/library/d@{B} docker://r.example:5000/hub/library/d:bbbbbbbbbbbb",
    ]
    assert [entry["pinned"] for entry in told["images"]] == [True, False, False, True]
    lines = _mirror.mirror_lines(told)
    assert [line.split()[0::2][:2] for line in lines[:2]] == [["image", "size"], ["vllm/vllm:v1", "10.0"]]
    assert "c:v1: gone." in lines
    assert "These copy them:" in lines


def test_weights_by_where_they_come_from() -> None:
    models = [
        {"name": "big", "row": {"model": "owner/big", "revision": "abc", "gated": True}, "gib": 60.77},
        {"name": "mine", "row": {"model": "/srv/models/mine"}, "gib": 2},
        {"name": "smoke", "row": {"model": "smoke", "source": "smoke"}, "gib": None},
        {"name": "big", "row": {"model": "owner/big"}, "gib": 60.77},
    ]
    told = listed(models=models)
    assert [(entry["kind"], entry["gib"]) for entry in told["weights"]] == [("hub", 60.77), ("folder", 2), ("smoke", None)]
    lines = _mirror.mirror_lines(told)
    assert lines[0].split() == ["weights", "from", "size"]
    assert "smoke    nothing: trained where it runs" in "\n".join(lines)
    assert "(a folder of yours)" in "\n".join(lines)
    assert told["weights"][1]["command"] is None


def test_models_of_ollama_are_pulled_by_an_ollama() -> None:
    told = listed(models=[{"name": "gpt-oss:120b", "row": {"model": "gpt-oss:120b", "source": "hub"}, "gib": 60.9, "backend": "ollama"}])
    [entry] = told["weights"]
    assert (entry["kind"], entry["revision"], entry["gib"], entry["command"]) == ("ollama", None, 60.9, "ollama pull gpt-oss:120b")
    lines = _mirror.mirror_lines(told)
    assert lines[1].split("  ") == ["gpt-oss:120b", "Ollama's library, through an Ollama", "60.9 GiB"]
    assert lines[-1] == "  ollama pull gpt-oss:120b"


def test_without_a_registry_the_reader_puts_in_their_own() -> None:
    lines = _mirror.mirror_lines(listed("vllm/vllm:v1"))
    assert "These copy them; put your registry in the place of registry.example.com:" in lines
    assert lines[-1].endswith(f"docker://docker.io/vllm/vllm@{A} docker://registry.example.com/vllm/vllm:v1")
