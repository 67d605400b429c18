# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""References of images, and the lock file that says which digest a tag stands for.

A reference is read as container runtimes read it: ``vllm/vllm-openai:v1`` is an image of docker.io, ``registry.example:5000/v:1`` is not.
The lock holds references as the inventory writes them, so it stays true when ``llm_image_registry`` puts another registry in front.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._text import aligned

DOCKER_HUB = "docker.io"
LOCK_NAME = "images.lock.yml"
SHORT_DIGEST = len("sha256:") + 12

Lock = t.Mapping[str, t.Any]
Entry = dict[str, t.Any]

_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:\d{1,5})?")
_PATH = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")


class Reference(t.NamedTuple):
    """An image by registry (with its port), path, tag and digest. Tag and digest are empty where the reference has none."""

    host: str
    path: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        """The repository, which the tags of an image have in common."""
        return f"{self.host}/{self.path}"


def parse(image: str) -> Reference:
    """Return what *image* names. Raises ServingError."""
    name, at, digest = image.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ServingError(f'"{image}": the part behind @ is no digest. It looks like sha256: and 64 hexadecimal digits.')
    host, path = _host_and_path(name)
    path, colon, tag = path.partition(":")
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not _HOST.fullmatch(host) or not _PATH.fullmatch(path) or (colon and not _TAG.fullmatch(tag)):
        raise ServingError(f'"{image}" is no image. It looks like vllm/vllm-openai:v0.32.0, or registry.example.com:5000/vllm:v1.')
    return Reference(host, path, tag, digest)


def _host_and_path(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or any(sign in first for sign in ".:") or first != first.lower()):
        return (DOCKER_HUB if first in ("index.docker.io", "registry-1.docker.io") else first), rest
    return DOCKER_HUB, name


def without_tag(image: str) -> str:
    """Return *image* as ``name@digest``, which every container runtime takes; as it is where it has no digest."""
    name, at, digest = image.partition("@")
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}{at}{digest}" if at else image


def with_digest(image: str, digest: str) -> str:
    """Return *image* with its tag, which people read, and *digest*, which counts."""
    return f"{image.partition('@')[0]}@{digest}" if digest else image


def in_registry(image: str, registry: str) -> str:
    """Return *image* as it is called in *registry* (``registry.example.com/mirror``), which takes the place of its own; "": its own."""
    if not registry:
        return image
    reference = parse(image)
    tag, digest = (f":{reference.tag}" if reference.tag else ""), (f"@{reference.digest}" if reference.digest else "")
    return f"{checked_registry(registry)}/{reference.path}{tag}{digest}"


def checked_registry(registry: str) -> str:
    """Return *registry* without a slash at its end, or raise ServingError where no image could be named by it."""
    given = registry.rstrip("/")
    host, slash, path = given.partition("/")
    is_host = _HOST.fullmatch(host) and (host == "localhost" or any(sign in host for sign in ".:"))
    if not is_host or (slash and not _PATH.fullmatch(path)):
        raise ServingError(
            f'llm_image_registry: "{registry}" is no registry. It is a host, perhaps with a port and a path, and without https://: '
            "registry.example.com:5000/mirror"
        )
    return given


def check(variable: str, image: str) -> Reference:
    """Return what *image* names, or raise ServingError where it may change under the user. *variable* is where it is set."""
    try:
        reference = parse(image)
    except ServingError as exc:
        raise ServingError(f"{variable}: {exc}") from None
    if not reference.digest and reference.tag in ("", "latest"):
        raise ServingError(
            f'{variable}: "{image}" may be another image tomorrow. Name a tag other than latest (name:v0.32.0), or a digest '
            "(name@sha256:...)."
        )
    return reference


def choose(variable: str, image: str, lock: t.Optional[Lock] = None, registry: str = "") -> Entry:
    """Return which image is used where *variable* asks for *image*: by the digest that *lock* has for it, from *registry*.

    ``written``: as asked for. ``image``: as it is used, with tag and digest. ``by_digest``: the same without a tag, where there is a
    digest. ``note``: why there is none, though there is a lock. Raises ServingError where the lock is for another tag.
    """
    reference = check(variable, image)
    digest, note = reference.digest, ""
    if lock and lock["images"] and not digest:
        pins = {parse(pinned): pin for pinned, pin in lock["images"].items()}
        others = [pin.tag for pin in pins if pin.name == reference.name and not pin.digest]
        if reference in pins:
            digest = pins[reference]["digest"]
        elif others:
            raise ServingError(
                f"{variable}: {lock['path']} pins {image.rpartition(':')[0]} at the tag {' and '.join(others)}, not at {reference.tag}. "
                f"make update-images tries {reference.tag} and pins it when it serves; make pin-images pins it untried."
            )
        else:
            note = f"{variable}: {image} is not in {lock['path']}, so what its tag names is taken. make pin-images pins it."
    used = with_digest(in_registry(image, registry), digest)
    return {
        "variable": variable,
        "written": image,
        "image": used,
        "by_digest": without_tag(used),
        "digest": digest or None,
        "note": note,
    }


def lock_path(given: str, beside: str) -> str:
    """Return where the lock is: at *given*, seen from the folder *beside*, or there under its usual name."""
    return os.path.normpath(os.path.join(os.path.abspath(beside or "."), os.path.expanduser(given or LOCK_NAME)))


def checked_lock(document: t.Any, path: str) -> Entry:
    """Return the lock that the file at *path* holds: ``path``, and ``images`` by reference. Raises ServingError."""
    images = document.get("images") if isinstance(document, t.Mapping) else None
    if not isinstance(images, t.Mapping):
        raise ServingError(f"{path} is no lock file of images. Remove it, and make pin-images makes one.")
    for image, pin in images.items():
        parse(str(image))
        if not isinstance(pin, t.Mapping) or not _DIGEST.fullmatch(str(pin.get("digest"))):
            raise ServingError(
                f"{path}: {image} has no digest (sha256: and 64 hexadecimal digits). Remove its lines, and make pin-images adds them."
            )
    return {"path": path, "images": {str(image): dict(pin) for image, pin in images.items()}}


# --- what a lock becomes ------------------------------------------------------------------------------------------------------------

SAME, NEW, MOVED, RETAGGED, DROPPED = "same", "new", "moved", "new tag", "no longer used"


def next_lock(found: t.Sequence[t.Mapping[str, t.Any]], lock: t.Optional[Lock], when: str, keep: bool = False) -> dict[str, t.Any]:
    """Return the lock for the images that were *found* in their registries, and what differs from *lock*.

    *found*: results of image_digest, each with ``written``. *when*: the time, for what is new. *keep*: a pin is not changed, also where its
    tag names another image now. ``images``: the pins. ``rows``: a dict for each image: ``image``, ``state``, ``old``, ``new``,
    ``size_bytes``; ``lines``: they as a table. ``notes``: what is to be said of tags that have moved. ``differs``: whether anything does.
    """
    before: t.Mapping[str, t.Any] = (lock or {}).get("images") or {}
    pins = {parse(image): pin for image, pin in before.items()}
    images: dict[str, t.Any] = {}
    rows: list[dict[str, t.Any]] = []
    for result in found:
        image = str(result["written"])
        if image in images:
            continue
        reference = parse(image)
        old = pins.get(reference)
        other = next((pin for known, pin in pins.items() if known.name == reference.name and not known.digest), None)
        new = {key: result[key] for key in ("digest", "manifest_digest", "platform", "size_bytes", "registry")} | {"pinned": when}
        same = old is not None and (old["digest"], old.get("platform")) == (new["digest"], new["platform"])
        state = SAME if same else MOVED if old else RETAGGED if other and not reference.digest else NEW
        images[image] = dict(old) if old is not None and (same or (keep and state == MOVED and old["digest"] != new["digest"])) else new
        rows.append(_row(image, state, (old or (other if state == RETAGGED else None) or {}).get("digest"), new))
    asked = {parse(image).name for image in images}
    for image, pin in before.items():
        if parse(image) not in {parse(kept) for kept in images} and parse(image).name not in asked:
            rows.append(_row(image, DROPPED, pin["digest"], {**pin, "digest": None}))
    return _told(images, rows)


def _told(images: t.Mapping[str, t.Any], rows: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    notes = [
        f"{row['image']} names another image now ({short(row['old'])} -> {short(row['new'])}). The pin holds; make update-images tries it."
        for row in rows
        if row["state"] == MOVED
    ]
    by_state = {state: [row["image"] for row in rows if row["state"] == state] for state in (MOVED, RETAGGED, NEW, DROPPED)}
    return {
        "images": dict(images),
        "rows": rows,
        "lines": lock_lines(rows),
        "notes": notes,
        "differs": any(by_state.values()),
    }


def lock_lines(rows: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Return *rows* as a table for people."""
    if not rows:
        return []
    head = ("image", "pinned", "now", "size", "")
    cells = [(row["image"], short(row["old"]), short(row["new"]), size_words(row["size_bytes"]), row["state"]) for row in rows]
    return aligned([head, *cells], left=(0, 1, 2, 4))


def back_to(lock: Lock, previous: Lock) -> dict[str, t.Any]:
    """Return *previous* in the form of next_lock: what differs when it takes the place of *lock*."""
    found = [
        {"manifest_digest": None, "platform": None, "size_bytes": None, "registry": None, **pin, "written": image}
        for image, pin in previous["images"].items()
    ]
    return _told(previous["images"], next_lock(found, lock, "")["rows"])


def _row(image: str, state: str, old: t.Optional[str], pin: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {"image": image, "state": state, "old": old, "new": pin["digest"], "size_bytes": pin.get("size_bytes")}


def moved_notes(found: t.Sequence[t.Mapping[str, t.Any]], lock: t.Optional[Lock]) -> list[str]:
    """Return a line for each of the images that were *found* whose tag names another image than *lock* has pinned, or was not seen."""
    failed = [result for result in found if not result.get("digest")]
    unseen = [f"{result['written']}: whether its tag has moved is not known. {result.get('msg')}" for result in failed]
    return unseen + list(next_lock([result for result in found if result.get("digest")], lock, "")["notes"])


def short(digest: t.Optional[str]) -> str:
    """Return as much of *digest* as people compare."""
    return (digest or "-")[:SHORT_DIGEST]


def size_words(size_bytes: t.Optional[int]) -> str:
    """Return a size for people."""
    if size_bytes is None:
        return "?"
    power = 3 if size_bytes >= 2**30 else 2 if size_bytes >= 2**20 else 1
    return f"{size_bytes / 2 ** (10 * power):.1f} {'?KMG'[power]}iB"
