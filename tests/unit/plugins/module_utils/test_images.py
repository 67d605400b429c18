# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""References as container runtimes read them, and what a lock file makes of them."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _images
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._images import Reference

A, B = (f"sha256:{64 * digit}" for digit in "ab")
ENGINE = "vllm/vllm-openai:v1"


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ("redis", ("docker.io", "library/redis", "", "")),
        ("redis:7", ("docker.io", "library/redis", "7", "")),
        ("docker.io/redis:7", ("docker.io", "library/redis", "7", "")),
        ("index.docker.io/vllm/vllm-openai:v1", ("docker.io", "vllm/vllm-openai", "v1", "")),
        (ENGINE, ("docker.io", "vllm/vllm-openai", "v1", "")),
        ("ghcr.io/open-webui/open-webui:v0.12.4", ("ghcr.io", "open-webui/open-webui", "v0.12.4", "")),
        ("registry.example:5000/vllm", ("registry.example:5000", "vllm", "", "")),
        ("localhost/vllm:v1", ("localhost", "vllm", "v1", "")),
        ("[::1]:5000/vllm:v1", ("[::1]:5000", "vllm", "v1", "")),
        (f"registry.example:5000/a/b__c:v1@{A}", ("registry.example:5000", "a/b__c", "v1", A)),
        (f"vllm@{A}", ("docker.io", "library/vllm", "", A)),
    ],
)
def test_references(image: str, reference: tuple[str, str, str, str]) -> None:
    assert _images.parse(image) == Reference(*reference)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("", "is no image"),
        ("vllm/VLLM:v1", "is no image"),
        ("vllm:", "is no image"),
        ("vllm:a b", "is no image"),
        ("https://registry.example/vllm:v1", "is no image"),
        ("vllm@sha256:123", "is no digest"),
        (f"vllm@{A.upper()}", "is no digest"),
    ],
)
def test_what_is_no_reference(image: str, words: str) -> None:
    with pytest.raises(ServingError, match=words):
        _images.parse(image)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (f"registry.example:5000/a/b:v1@{A}", f"registry.example:5000/a/b@{A}"),
        (f"a:v1@{A}", f"a@{A}"),
        (f"a@{A}", f"a@{A}"),
        ("registry.example:5000/a:v1", "registry.example:5000/a:v1"),
    ],
)
def test_without_a_tag_only_where_there_is_a_digest(image: str, expected: str) -> None:
    assert _images.without_tag(image) == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (ENGINE, "r.example:5000/hub/vllm/vllm-openai:v1"),
        ("redis:7", "r.example:5000/hub/library/redis:7"),
        (f"ghcr.io/a/b:v1@{A}", f"r.example:5000/hub/a/b:v1@{A}"),
    ],
)
def test_another_registry(image: str, expected: str) -> None:
    assert _images.in_registry(image, "r.example:5000/hub/") == expected
    assert _images.in_registry(image, "") == image


@pytest.mark.parametrize("registry", ["https://r.example", "mirror", "r.example/Hub", "r.example/hub:v1", "user:pw@r.example"])
def test_what_is_no_registry(registry: str) -> None:
    with pytest.raises(ServingError, match=r"llm_image_registry: .*without https://"):
        _images.in_registry(ENGINE, registry)


def lock(**images: str) -> dict[str, t.Any]:
    pins = {image.replace("__", "/").replace("_", ":"): {"digest": digest, "platform": "linux/amd64"} for image, digest in images.items()}
    return {"path": "/site/images.lock.yml", "images": pins}


def test_a_pinned_image_keeps_its_tag_for_people() -> None:
    chosen = _images.choose("vllm_image", "docker.io/vllm/vllm:v1", lock(vllm__vllm_v1=A), "r.example")
    assert chosen == {
        "variable": "vllm_image",
        "written": "docker.io/vllm/vllm:v1",
        "image": f"r.example/vllm/vllm:v1@{A}",
        "by_digest": f"r.example/vllm/vllm@{A}",
        "digest": A,
        "note": "",
    }


@pytest.mark.parametrize("pins", [None, {}, lock(), lock(other_v1=A)])
def test_without_a_pin_an_image_is_used_as_it_is_written(pins: t.Any) -> None:
    chosen = _images.choose("vllm_image", ENGINE, pins)
    assert (chosen["image"], chosen["by_digest"], chosen["digest"]) == (ENGINE, ENGINE, None)
    assert chosen["note"] == (
        f"vllm_image: {ENGINE} is not in /site/images.lock.yml, so what its tag names is taken. make pin-images pins it."
        if pins and pins["images"]
        else ""
    )


def test_a_digest_of_the_inventory_wins() -> None:
    assert _images.choose("vllm_image", f"vllm:v2@{B}", lock(vllm_v1=A))["image"] == f"vllm:v2@{B}"


def test_a_pin_of_another_tag_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        ServingError, match=r"vllm_image: /site/images.lock.yml pins vllm at the tag v1, not at v2\. make update-images tries"
    ):
        _images.choose("vllm_image", "vllm:v2", lock(vllm_v1=A))


@pytest.mark.parametrize("image", ["vllm", "vllm:latest", "vllm:v1@"])
def test_what_may_be_another_image_tomorrow_is_refused(image: str) -> None:
    with pytest.raises(ServingError, match=r"^vllm_image: "):
        _images.choose("vllm_image", image)


def result(image: str, digest: str, platform: str = "linux/amd64") -> dict[str, t.Any]:
    return {
        "written": image,
        "digest": digest,
        "manifest_digest": digest,
        "platform": platform,
        "size_bytes": 3 * 2**30,
        "registry": "r.example",
        "changed": False,
        "requests": 3,
    }


def states(told: dict[str, t.Any]) -> dict[str, str]:
    return {row["image"]: row["state"] for row in told["rows"]}


FOUND = [result("a:v1", A), result("b:v1", B), result("c:v2", B), result("d:v1", A), result("d:v1", A)]
OLD = lock(a_v1=A, b_v1=A, c_v1=A, e_v1=A)


def test_what_becomes_of_each_image() -> None:
    told = _images.next_lock(FOUND, OLD, "2026-11-22T06:00:00Z")
    assert states(told) == {"a:v1": "same", "b:v1": "moved", "c:v2": "new tag", "d:v1": "new", "e:v1": "no longer used"}
    assert {image: pin["digest"] for image, pin in told["images"].items()} == {"a:v1": A, "b:v1": B, "c:v2": B, "d:v1": A}
    assert told["images"]["a:v1"] == OLD["images"]["a:v1"]  # with the time of then
    assert told["images"]["b:v1"]["pinned"] == "2026-11-22T06:00:00Z"
    assert told["lines"] == [
        "image  pinned               now                     size",
        "a:v1   sha256:aaaaaaaaaaaa  sha256:aaaaaaaaaaaa  3.0 GiB  same",
        "b:v1   sha256:aaaaaaaaaaaa  sha256:bbbbbbbbbbbb  3.0 GiB  moved",
        "c:v2   sha256:aaaaaaaaaaaa  sha256:bbbbbbbbbbbb  3.0 GiB  new tag",
        "d:v1   -                    sha256:aaaaaaaaaaaa  3.0 GiB  new",
        "e:v1   sha256:aaaaaaaaaaaa  -                          ?  no longer used",
    ]
    assert told["differs"]


def test_pinning_changes_no_pin() -> None:
    told = _images.next_lock(FOUND, OLD, "now", keep=True)
    assert {image: pin["digest"] for image, pin in told["images"].items()} == {"a:v1": A, "b:v1": A, "c:v2": B, "d:v1": A}
    (note,) = told["notes"]
    assert note == "b:v1 names another image now (sha256:aaaaaaaaaaaa -> sha256:bbbbbbbbbbbb). The pin holds; make update-images tries it."


def test_the_same_index_for_another_platform_is_noted_also_when_pinning() -> None:
    told = _images.next_lock([result("a:v1", A, "linux/arm64")], OLD, "now", keep=True)
    assert told["images"]["a:v1"]["platform"] == "linux/arm64"


def test_when_all_is_as_pinned_nothing_differs() -> None:
    told = _images.next_lock([result("a:v1", A)], lock(a_v1=A), "now")
    assert not told["differs"]
    assert told["images"] == lock(a_v1=A)["images"]


def test_the_way_back() -> None:
    told = _images.back_to(lock(a_v2=B, b_v1=B), lock(a_v1=A, b_v1=A))
    assert told["images"] == lock(a_v1=A, b_v1=A)["images"]
    assert states(told) == {"a:v1": "new tag", "b:v1": "moved"}


def test_what_has_moved_behind_the_pins() -> None:
    gone = {"written": "b:v1", "msg": "r.example cannot be reached: no answer within 5 s.", "changed": False}
    notes = _images.moved_notes([result("a:v1", B), gone, result("c:v1", A)], OLD)
    assert notes == [
        "b:v1: whether its tag has moved is not known. r.example cannot be reached: no answer within 5 s.",
        "a:v1 names another image now (sha256:aaaaaaaaaaaa -> sha256:bbbbbbbbbbbb). The pin holds; make update-images tries it.",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", "/site/images.lock.yml"), ("../pins.yml", "/pins.yml"), ("/etc/pins.yml", "/etc/pins.yml")],
)
def test_where_the_lock_is(given: str, expected: str) -> None:
    assert _images.lock_path(given, "/site") == expected
