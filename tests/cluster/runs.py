# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks as make plays them, on the cluster of $KUBECONFIG."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

from ansible_collections.llmops.serving.molecule.shared import chat

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = "molecule/inventory.yaml"


class Ended(t.NamedTuple):
    """A run that has ended; ``words`` is what stands below its recap, as one line."""

    status: int
    output: str

    @property
    def lines(self) -> list[str]:
        """What stands below its recap, line by line."""
        return t.cast("list[str]", chat.last_words(self.output))

    @property
    def words(self) -> str:
        return " ".join(self.output.rpartition("PLAY RECAP")[2].split())


def command(playbook: t.Union[Path, str], *options: str, inventory: str = INVENTORY, **variables: t.Any) -> list[str]:
    """Return the command that plays *playbook*, a path or the name of one of the collection's; *inventory* is seen from the checkout."""
    program = Path(sys.executable).parent / "ansible-playbook"
    return [str(word) for word in (program, "-i", ROOT / inventory, "-e", json.dumps(variables), *options, ROOT / "playbooks" / playbook)]


def environment() -> dict[str, str]:
    """Return the environment of a run: no token of the hub."""
    return {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}


def run(
    playbook: t.Union[Path, str],
    *options: str,
    inventory: str = INVENTORY,
    environ: t.Optional[t.Mapping[str, str]] = None,
    **variables: t.Any,
) -> Ended:
    """Play *playbook*, print what it says, and return how it ended."""
    done = subprocess.run(
        command(playbook, *options, inventory=inventory, **variables),
        cwd=ROOT,
        env={**environment(), **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout, flush=True)
    return Ended(done.returncode, done.stdout)
