#!/usr/bin/env python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove the models of a volume that are no longer served: from the hub's cache, and the smoke models.

A model is DIR/huggingface/hub/models--OWNER--NAME, with the locks and the marker of its fetching, or a folder DIR/models/NAME. All but
those that are to be kept are removed wholly. Nothing else is touched, and no link is followed out of DIR.

It needs Python 3.9 and nothing else.

    python3 prune_models.py --data /data --keep models--Qwen--Qwen3-8B models/smoke --dry-run
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
import shutil
import stat
import sys
import typing as t
from pathlib import Path

CACHED = "models--"
FOLDERS = "models/"
# huggingface_hub keeps what came by Xet once for all models, at hub/blobs/PREFIX/HASH, and links to it from theirs.
SHARED = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")


class CannotPruneError(Exception):
    """What a person is to read."""


class Model(t.NamedTuple):
    """A model on the volume. ``name``: as --keep takes it; ``paths``: all that belongs to it alone."""

    name: str
    path: Path
    paths: list[Path]
    shared: set[Path]

    @property
    def title(self) -> str:
        """Its name as a person knows it."""
        if self.name.startswith(CACHED):
            return self.name[len(CACHED) :].replace("--", "/", 1)
        return self.name


def models_of(data: Path) -> list[Model]:
    """Return the models on the volume *data*, those of the hub's cache first. Raises OSError."""
    home = data / "huggingface"
    hub = home / "hub"
    found = []
    for folder in _folders(hub):
        if folder.name.startswith(CACHED):
            markers = home / "llmops-serving"
            notes = sorted(markers.glob(f"{glob.escape(folder.name)}@*.json")) if _is_folder(markers) else []
            locks = hub / ".locks" / folder.name
            others = [*notes, *([locks] if _is_folder(locks.parent) and _is_folder(locks) else [])]
            found.append(Model(folder.name, folder, [folder, *others], _shared_files(folder, hub)))
    found += [Model(FOLDERS + folder.name, folder, [folder], set()) for folder in _folders(data / "models")]
    return found


def _is_folder(path: Path) -> bool:
    """Whether *path* is a folder itself, not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _folders(parent: Path) -> list[Path]:
    """Return the folders in *parent*, none if it is a link or is not there. Hidden ones are nobody's model."""
    if not _is_folder(parent) or not _is_folder(parent.parent):
        return []
    return sorted(path for path in parent.iterdir() if _is_folder(path) and not path.name.startswith("."))


def _shared_files(folder: Path, hub: Path) -> set[Path]:
    """Return the files of the shared store of *hub* that the repository in *folder* links to."""
    blobs, store = folder / "blobs", hub / "blobs"
    if not _is_folder(blobs) or not _is_folder(store):
        return set()
    targets = {Path(os.path.abspath(blobs / os.readlink(path))) for path in blobs.iterdir() if path.is_symlink()}
    base = Path(os.path.abspath(store))
    inside = {target for target in targets if base in target.parents and SHARED.fullmatch(target.relative_to(base).as_posix())}
    return {target for target in inside if _is_folder(target.parent) and target.is_file()}


def size_of(paths: t.Iterable[Path]) -> int:
    """Return the bytes of the files at and under *paths*: links are not followed, a file with two names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in paths:
        for folder, _folders_in, names in os.walk(path) if _is_folder(path) else [(str(path.parent), [], [path.name])]:
            for name in names:
                try:
                    found = os.lstat(os.path.join(folder, name))
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(found.st_mode):
                    seen[(found.st_dev, found.st_ino)] = found.st_size
    return sum(seen.values())


def kept_names(names: t.Iterable[str]) -> set[str]:
    """Return *names* as the names of models. Raises CannotPruneError: a misspelt one must not cost a model."""
    kept = set()
    for name in names:
        bare = name[len(FOLDERS) :] if name.startswith(FOLDERS) else name
        is_name = bare not in ("", ".", "..") and "/" not in bare and ".." not in bare.split("--")
        if not is_name or not (name.startswith(FOLDERS) or (name.startswith(CACHED) and name != CACHED)):
            raise CannotPruneError(f'--keep "{name}" is no model: it has to be models--OWNER--NAME or models/FOLDER. Nothing was removed.')
        kept.add(name)
    return kept


class Result(t.NamedTuple):
    """What became of a model."""

    name: str
    title: str
    path: str
    bytes: int
    kept: bool
    removed: bool


def prune(data: Path, keep: t.Iterable[str], dry_run: bool = False) -> tuple[list[Result], int]:
    """Remove the models in *data* that are not in *keep*; return what became of each, and the bytes that are free now.

    In a dry run, the bytes that would be. A model counts what it shares with others as its own; freed is what no other uses.
    Raises CannotPruneError, OSError.
    """
    kept = kept_names(keep)
    if not data.is_dir():
        raise CannotPruneError(f"{data} is no folder. Is the volume mounted?")
    # A link to the volume itself is fine, links in it are not followed.
    data = data.resolve()
    models = models_of(data)
    sizes = {model.name: size_of([*model.paths, *model.shared]) for model in models}
    gone = [model for model in models if model.name not in kept]
    freed = 0
    unused = {path for model in gone for path in model.shared}
    for folder in _folders(data / "huggingface/hub"):
        if folder.name not in {model.name for model in gone}:
            unused -= _shared_files(folder, data / "huggingface/hub")
    for model in gone:
        freed += size_of(model.paths)
        if not dry_run:
            for path in model.paths:
                _remove(path)
    freed += size_of(unused)
    if not dry_run:
        for path in unused:
            for ending in ("", ".refs", ".lock"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
    results = [
        Result(model.name, model.title, str(model.path), sizes[model.name], model.name in kept, model in gone and not dry_run)
        for model in models
    ]
    return results, freed


def _remove(path: Path) -> None:
    """Remove a folder and all in it, or a file. The marker goes after the files: it is nothing without them."""
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_text(count: int) -> str:
    """Return *count* bytes as a person reads them."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def lines_of(results: t.Sequence[Result], freed: int, dry_run: bool) -> list[str]:
    """Return what to say: a line for each model, and one for all."""
    width = max((len(result.title) for result in results), default=0)
    done = "removes" if dry_run else "removed"
    lines = [f"{'kept' if result.kept else done:7}  {result.title:{width}}  {size_text(result.bytes)}" for result in results]
    return [*lines, f"{'would free' if dry_run else 'freed'} {size_text(freed)}"]


def main() -> int:
    """Prune, and tell what became of each model."""
    parser = argparse.ArgumentParser(description="Remove the models of a volume that are no longer served.")
    parser.add_argument("--data", type=Path, required=True, help="the volume")
    parser.add_argument("--keep", nargs="*", default=[], action="extend", help="models--OWNER--NAME or models/FOLDER")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    parser.add_argument("--json", action="store_true", help="tell it as one JSON object")
    options = parser.parse_args()
    try:
        results, freed = prune(options.data, options.keep, options.dry_run)
    except CannotPruneError as exc:
        print(exc, file=sys.stderr)
        return 2
    except OSError as exc:
        print(
            f"{exc.filename or options.data} cannot be removed or read: {exc.strerror}. Run it again when that is mended.", file=sys.stderr
        )
        return 1
    if options.json:
        print(json.dumps({"models": [result._asdict() for result in results], "freed_bytes": freed}))
    else:
        print("\n".join(lines_of(results, freed, options.dry_run)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
