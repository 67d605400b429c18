# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Processes of this machine that belong to a deployment, found by a mark in their environment. Linux only: it reads ``/proc``.

What a program starts inherits the mark, so nothing of a deployment is overlooked, even when the process that kept it is dead.
"""

from __future__ import annotations

import os
import signal
import time
import typing as t
from pathlib import Path

# The environment variable that every program of a deployment has, with its state folder as value.
MARK = "LLMOPS_SERVING_STATE"

# How long a killed process may take to be gone: it has memory to give back.
KILLED_WITHIN_S = 5.0


class Process(t.NamedTuple):
    """A process that runs. ``resident_mib`` is its resident memory, pages shared with others included.

    ``started`` is the moment of its start, as started_ticks returns it.
    """

    pid: int
    parent: int
    command: str
    resident_mib: int
    started: int


def marked(state_dir: str, proc: Path = Path("/proc")) -> list[Process]:
    """Return the processes that carry the mark of *state_dir*, oldest first; those of other users cannot be seen.

    A process that sets its own title, as vLLM's do, writes over its environment. It is known by the files of *state_dir* that it
    has in memory, the libraries of its virtual environment.
    """
    state_dir = os.path.abspath(state_dir)
    mark = os.fsencode(f"{MARK}={state_dir}")
    library = b" " + os.fsencode(os.path.realpath(state_dir)) + b"/"
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            wiped = bool(environment) and b"=" not in environment
            if mark in environment.split(b"\0") or (wiped and library in (folder / "maps").read_bytes()):
                found.append(_read(folder))
        except (OSError, ValueError, IndexError):
            continue  # gone, or not ours
    return sorted(found, key=lambda process: (process.started, process.pid))


def belonging(state_dir: str, proc: Path = Path("/proc")) -> list[Process]:
    """Return what marked returns, and all that these have started, oldest first.

    In a container a process that sets its own title has no file of *state_dir* in memory; the first process there keeps the mark.
    """
    found = {process.pid: process for process in marked(state_dir, proc)}
    others: dict[int, Process] = {}
    for folder in proc.glob("[0-9]*") if found else ():
        try:
            others[int(folder.name)] = _read(folder)
        except (OSError, ValueError, IndexError):
            continue  # gone
    for pid, process in others.items():
        above = process.parent
        while above in others and above not in found:
            above = others[above].parent
        if above in found:
            found.setdefault(pid, process)
    return sorted(found.values(), key=lambda process: (process.started, process.pid))


def started_ticks(pid: int, proc: Path = Path("/proc")) -> int:
    """Return when *pid* was started, in clock ticks since the machine booted; with the pid it names a process for good.

    Raises OSError when there is no such process.
    """
    return int(stat(pid, proc)[19])


def runs(pid: int, started: int, proc: Path = Path("/proc")) -> bool:
    """Whether the process *pid* that began at *started* is still there: its id may be another's by now, and a zombie is over."""
    try:
        fields = stat(pid, proc)
        return fields[0] != "Z" and int(fields[19]) == started
    except (OSError, ValueError, IndexError):
        return False


def stat(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """Return the fields of ``stat`` from the third on: the second, the command in brackets, may hold blanks and brackets.

    [0] is the state, [1] the parent, [3] the session, [19] the start. Raises OSError when there is no such process.
    """
    return (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def ancestors(pid: int, proc: Path = Path("/proc")) -> t.Iterator[int]:
    """Yield the ids of the processes above *pid*, the nearest first, as far as they can be seen."""
    while True:
        try:
            pid = int(stat(pid, proc)[1])
        except (OSError, ValueError, IndexError):
            return
        if pid <= 0:
            return
        yield pid


def family(proc: Path = Path("/proc")) -> set[int]:
    """Return the ids of this process and of all above it. A run that a marked process started must not end itself."""
    return {os.getpid(), *ancestors(os.getpid(), proc)}


def end(processes: t.Iterable[Process], grace_s: float) -> None:
    """Tell *processes* to stop, and kill after *grace_s* seconds what still runs. Returns when they are gone."""
    left = _signal(processes, signal.SIGTERM)
    if not _gone(left, grace_s):
        _gone(_signal(left, signal.SIGKILL), KILLED_WITHIN_S)


def _read(folder: Path) -> Process:
    fields = stat(int(folder.name), folder.parent)
    if fields[0] == "Z":
        raise ValueError("a zombie holds nothing")
    pages = int((folder / "statm").read_text(encoding="utf-8").split()[1])
    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(int(folder.name), int(fields[1]), command, pages * os.sysconf("SC_PAGE_SIZE") // 2**20, int(fields[19]))


def _signal(processes: t.Iterable[Process], number: signal.Signals) -> list[Process]:
    """Send the signal, and return those that got it."""
    reached = []
    for process in processes:
        try:
            if runs(process.pid, process.started):
                os.kill(process.pid, number)
                reached.append(process)
        except (ProcessLookupError, PermissionError):
            continue
    return reached


def _gone(processes: t.Iterable[Process], within_s: float) -> bool:
    left = list(processes)
    deadline = time.monotonic() + within_s
    while True:
        left = [process for process in left if runs(process.pid, process.started)]
        if not left or time.monotonic() >= deadline:
            return not left
        time.sleep(0.05)
