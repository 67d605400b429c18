# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine of `tests/hosts/machine`: seen by its console (``run``), as its user by SSH (``ssh``), and by who installs on it (``play``)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import typing as t
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("machine")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
FILES = Path(os.environ.get("TEST_MACHINES_STATE") or CACHE / "llmops-serving-tests") / "machines"
KEEP = os.environ.get("TEST_KEEP_MACHINES") == "1"


class Played(t.NamedTuple):
    """How a run ended. ``words`` are its last lines, below the recap; ``output`` is all that it said."""

    code: int
    words: list[str]
    output: str

    @property
    def recap(self) -> str:
        return next(line for line in self.output.rpartition("PLAY RECAP")[2].splitlines() if "ok=" in line)


def verb(*words: str) -> str:
    """Do a verb of the script; return what it printed. What it says on the way is seen when a test fails."""
    done = subprocess.run([SCRIPT, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"machine {' '.join(words)} ended with {done.returncode}: {done.stdout}"
    return done.stdout


class Machine:
    """One machine by its name."""

    def __init__(self, name: str):
        self.name = name

    def up(self, *options: str) -> None:
        verb("up", self.name, *options)

    def down(self) -> None:
        verb("down", self.name)

    def variables(self) -> dict[str, str]:
        """Return what an inventory has to know of it."""
        return yaml.safe_load(verb("ssh-config", self.name))[self.name]

    @property
    def address(self) -> str:
        return self.variables()["ansible_host"]

    def run(self, *command: str) -> str:
        """Run *command* on it as root."""
        return verb("exec", self.name, *command)

    def shell(self, text: str) -> str:
        return self.run("sh", "-c", text)

    def succeeds(self, text: str) -> bool:
        command = [SCRIPT, "exec", self.name, "sh", "-c", text]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0

    def ssh(self, text: str) -> str:
        return verb("ssh", self.name, text)

    def reboot(self) -> None:
        verb("reboot", self.name)

    def reaches(self, port: int) -> bool:
        """Whether *port* of it answers from here."""
        try:
            with socket.create_connection((self.address, port), timeout=3):
                return True
        except OSError:
            return False

    @contextlib.contextmanager
    def tunnel(self, port: int) -> t.Iterator[str]:
        """Give the URL here of a *port* that it has for itself, as a person does it: ``ssh -L``."""
        host = self.variables()
        with socket.create_server(("127.0.0.1", 0)) as free:
            here = free.getsockname()[1]
        options = ["-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-i", host["ansible_ssh_private_key_file"]]
        command = ["ssh", "-N", *options, *host["ansible_ssh_common_args"].split(), "-L", f"{here}:127.0.0.1:{port}"]
        with subprocess.Popen([*command, f"{host['ansible_user']}@{host['ansible_host']}"], stdin=subprocess.DEVNULL) as process:
            try:
                assert until(lambda: process.poll() is not None or accepts(here), 30), "ssh did not open the tunnel"
                yield f"http://127.0.0.1:{here}"
            finally:
                process.kill()  # an ssh 9.2 that waits misses the gentler signal now and then


def machine_files(machine: Machine) -> Path:
    """Return where the files of *machine* are here."""
    return FILES / machine.name / "tree"


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=3):
        return True
    return False


def until(look: t.Callable[[], t.Any], timeout_s: float = 120) -> t.Any:
    """Return the first true value of *look*; its last value when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not (value := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return value


def inventory(path: Path, machines: list[Machine], **variables: t.Any) -> Path:
    """Write the inventory that a user would write: the group ``llm`` with *machines*, and what is to be served."""
    hosts = {machine.name: machine.variables() for machine in machines}
    path.write_text(yaml.safe_dump({"llm": {"hosts": hosts, "vars": variables}}), encoding="utf-8")
    return path


def play(
    playbook: str,
    path: Path,
    *words: str,
    through: t.Sequence[str] = (),
    environ: t.Optional[dict[str, str]] = None,
    **variables: t.Any,
) -> Played:
    """Play *playbook* with the inventory at *path* as make does; *through* is a command that runs another one."""
    command = [ROOT / ".venv/bin/ansible-playbook", "-i", path, *words, ROOT / f"playbooks/{playbook}.yml"]
    if variables:
        command[1:1] = ["-e", json.dumps(variables)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SMOKE_") and key != "KUBECONFIG"}
    paths = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections")}
    done = subprocess.run(
        [*through, *command],
        cwd=ROOT,
        env=kept | paths | (environ or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    last = [line for line in done.stdout.rpartition("PLAY RECAP")[2].splitlines()[1:] if line and "ok=" not in line]
    return Played(done.returncode, last, done.stdout + done.stderr)
