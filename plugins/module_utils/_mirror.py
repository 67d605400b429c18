# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What a site without the internet has to hold: images and weights, how large they are, and the commands that copy them."""

from __future__ import annotations

import shlex
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _images
from ansible_collections.llmops.serving.plugins.module_utils._text import aligned

EXAMPLE_REGISTRY = "registry.example.com"
EXAMPLE_FOLDER = "/srv/models"
# What repositories hold beside the files that vLLM loads.
OTHER_FILES = ("original/*", "metal/*", "*.gguf", "*.pth")

Entry = dict[str, t.Any]


def mirror_list(
    wanted: t.Sequence[t.Mapping[str, t.Any]],
    lock: t.Optional[_images.Lock],
    found: t.Sequence[t.Mapping[str, t.Any]],
    models: t.Sequence[t.Mapping[str, t.Any]],
    registry: str = "",
) -> Entry:
    """Return ``images`` and ``weights``, each once.

    *wanted*: images as _images.choose tells them. *found*: results of image_digest with ``written``, for those that *lock* does not know;
    one that has failed has ``msg``. *models*: name, row, GiB and backend of the plans' models. *registry*: where the images are to go.
    """
    pins = {_images.parse(image): pin for image, pin in ((lock or {}).get("images") or {}).items()}
    told = {str(result["written"]): result for result in found}
    images = {str(entry["written"]): entry for entry in wanted}
    weights = {str(model["name"]): model for model in models}
    return {
        "registry": registry or None,
        "images": [_image(image, pins.get(_images.parse(image)), told.get(image) or {}, registry) for image in images],
        "weights": [_weights(model) for model in weights.values()],
    }


def _image(image: str, pin: t.Optional[t.Mapping[str, t.Any]], told: t.Mapping[str, t.Any], registry: str) -> Entry:
    reference = _images.parse(image)
    facts = pin or (told if told.get("digest") else {})
    digest = reference.digest or facts.get("digest")
    source = f"{reference.name}@{digest}" if digest else f"{reference.name}:{reference.tag}"
    target = _images.in_registry(image, registry or EXAMPLE_REGISTRY).partition("@")[0]
    if not reference.tag:
        target += f":{str(digest)[7:19]}"  # a registry keeps what has a tag
    command = ["skopeo", "copy", "--all", "--preserve-digests", f"docker://{source}", f"docker://{target}"]
    return {
        "image": image,
        "digest": digest,
        "platform": facts.get("platform"),
        "size_bytes": facts.get("size_bytes"),
        "pinned": pin is not None or bool(reference.digest),
        "source": source,
        "target": target,
        "command": shlex.join(command),
        "note": "" if digest else str(told.get("msg") or "its registry was not asked"),
    }


def _weights(model: t.Mapping[str, t.Any]) -> Entry:
    row, name = model["row"], str(model["name"])
    if model.get("backend") == "ollama":
        return _of_ollama(name, model.get("gib"))
    source, revision = str(row["model"]), str(row.get("revision") or "main")
    kind = "smoke" if row.get("source") == "smoke" else "folder" if source.startswith("/") else "hub"
    folder = f"{EXAMPLE_FOLDER}/{name}"
    words = ["hf", "download", source, "--revision", revision, "--local-dir", folder, *(w for f in OTHER_FILES for w in ("--exclude", f))]
    return {
        "model": name,
        "kind": kind,
        "source": source,
        "revision": revision if kind == "hub" else None,
        "gib": model.get("gib") if kind != "smoke" else None,
        "gated": bool(row.get("gated")),
        "command": shlex.join(words) if kind == "hub" else None,
    }


def _of_ollama(name: str, gib: t.Optional[float]) -> Entry:
    """A model of Ollama's library, which only an Ollama fetches: into its own folder of models."""
    return {
        "model": name,
        "kind": "ollama",
        "source": name,
        "revision": None,
        "gib": gib,
        "gated": False,
        "command": shlex.join(["ollama", "pull", name]),
    }


def mirror_lines(listed: t.Mapping[str, t.Any]) -> list[str]:
    """Return what mirror_list made as text: two tables, then the commands."""
    images, weights = listed["images"], listed["weights"]
    lines: list[str] = []
    if images:
        rows = [(entry["image"], entry["digest"] or "-", _images.size_words(entry["size_bytes"]), _state(entry)) for entry in images]
        lines += [*aligned([("image", "digest", "size", ""), *rows], left=(0, 1, 3)), ""]
    rows = [(entry["model"], _origin(entry), f"{entry['gib']:g} GiB" if entry["gib"] else "-", "") for entry in weights]
    lines += [*aligned([("weights", "from", "size", ""), *rows], left=(0, 1)), ""]
    notes = [f"{entry['image']}: {entry['note']}" for entry in images if entry["note"]]
    lines += [*notes, ""] if notes else []
    commands = [entry["command"] for entry in (*images, *weights) if entry["command"]]
    if commands:
        where = "" if listed["registry"] else f"; put your registry in the place of {EXAMPLE_REGISTRY}"
        lines += [f"These copy them{where}:", *(f"  {command}" for command in commands)]
    return lines


def _state(entry: t.Mapping[str, t.Any]) -> str:
    return "pinned" if entry["pinned"] else "not pinned; make pin-images" if entry["digest"] else "not known"


def _origin(entry: t.Mapping[str, t.Any]) -> str:
    if entry["kind"] == "smoke":
        return "nothing: trained where it runs"
    if entry["kind"] == "ollama":
        return "Ollama's library, through an Ollama"
    if entry["kind"] == "folder":
        return f"{entry['source']} (a folder of yours)"
    return f"{entry['source']}@{entry['revision']}{' (gated: wants a token)' if entry['gated'] else ''}"
