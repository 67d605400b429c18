"""Cases of an inventory, rendered by a playbook, one file for each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXPECTED = HERE / "expected"


def cases(inventory):
    """The hosts of an inventory of this folder; each is a case."""
    return sorted(yaml.safe_load((HERE / inventory).read_text())["all"]["hosts"])


def render(inventory, playbook, folder, tidy):
    """Render the cases of *inventory* with *playbook* into *folder*.

    *tidy* is given what was rendered and returns it without what has tests of its own; with GOLDEN_WRITE set it is what is expected.
    """
    environment = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", HERE / inventory, HERE / playbook, "-e", f"output={folder}"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    for path in folder.glob("*.yaml"):
        path.write_text(tidy(yaml.safe_load(path.read_text())))
        if os.environ.get("GOLDEN_WRITE"):
            shutil.copy(path, EXPECTED)
    return folder


def text_of(rendered):
    """The text of what was rendered, as it lies in expected/."""
    return yaml.safe_dump(rendered, sort_keys=False, width=140, explicit_start=True)
