# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""One run at a time on a state folder, also where the folder is on a host that the run reaches by SSH. Linux only: it reads ``/proc``.

A lock ends with its run, however that ends. A run is a process of the node that it was started on. Another host cannot look at that
process, but at the SSH connection by which its tasks come. That lasts a little longer than the run (ControlPersist of ssh, a minute with
Ansible), so a node that meets a run of its own looks for the process itself.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import platform
import typing as t
from pathlib import Path

from ansible_collections.llmops.serving.plugins.module_utils import _processes
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

PROC = Path("/proc")
# Commands of Ansible that run a play from its beginning to its end.
RUNS = (b"ansible", b"ansible-console", b"ansible-playbook")
# What a server of SSH calls the process of a connection: OpenSSH to 9.7, from 9.8 on, and Dropbear.
CONNECTIONS = ("sshd", "sshd-session", "dropbear")


class Process(t.NamedTuple):
    """A process, named for good: its id, and when it was started, in clock ticks since its machine booted."""

    pid: int
    started: int


class Run(t.NamedTuple):
    """A run of Ansible: the node that it was started on, and its process there."""

    node: str
    pid: int
    started: int

    @property
    def host(self) -> str:
        """What people call the node."""
        return self.node.partition("/")[0]


class Lock(t.NamedTuple):
    """Who works on a state folder: a run, and the process here by which its tasks come."""

    run: Run
    connection: Process


def take(state_dir: Path, run: t.Optional[Run] = None, over: t.Optional[Run] = None, proc: Path = PROC) -> None:
    """Write into ``run.lock`` that *run* works on *state_dir*, or raise ServingError with ``holder`` while another one does.

    *run*: by default the one above this process. *over*: a run of which is known that it has ended.
    """
    path = state_dir / "run.lock"
    # what lasts here as long as the run's way to this machine: the run itself, where it is one of this machine
    way = this_run(proc)
    mine = Lock(run or way, Process(way.pid, way.started))
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        held = _read(file.read())
        if held == mine:
            return
        if held is not None and held.run not in (mine.run, over) and _lasts(held, proc):
            since = datetime.datetime.fromtimestamp(path.stat().st_mtime).strftime("%H:%M:%S")
            here = held.run.node == mine.run.node
            raise ServingError(
                f"Another run works on {state_dir} since {since} (process {held.run.pid}{'' if here else f' on {held.run.host}'}). "
                f"Wait until it is done{'' if here else ' and a minute more'}, or end it: kill {held.run.pid}",
                holder=held.run._asdict(),
            )
        file.seek(0)
        file.truncate(0)
        file.write(json.dumps({"run": mine.run._asdict(), "connection": mine.connection._asdict()}))


def this_run(proc: Path = PROC, start: t.Optional[int] = None) -> Run:
    """Return the run that this process, or *start*, belongs to: the topmost ansible-playbook above it, a connection, or what started it.

    Raises OSError where there is no ``/proc``.
    """
    pid = os.getpid() if start is None else start
    above = list(_processes.ancestors(pid, proc))
    found = _topmost_ansible(above, proc) or _nearest_connection(above, proc) or next(iter(above), pid)
    return Run(_node(proc), found, _processes.started_ticks(found, proc))


def has_ended(run: Run, proc: Path = PROC) -> bool:
    """Whether *run* is one of this node, and its process is no more."""
    return run.node == _node(proc) and not _processes.runs(run.pid, run.started, proc)


def _topmost_ansible(above: t.Iterable[int], proc: Path) -> t.Optional[int]:
    found = None
    # whoever may not see the processes of others (hidepid) sees those of the run
    with contextlib.suppress(OSError):
        for pid in above:
            words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")[:2]
            if any(os.path.basename(word) in RUNS for word in words):
                found = pid
    return found


def _nearest_connection(above: t.Iterable[int], proc: Path) -> t.Optional[int]:
    with contextlib.suppress(OSError):
        for pid in above:
            if (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip() in CONNECTIONS:
                return pid
    return None


def _node(proc: Path) -> str:
    """Return what names this machine until it boots again; a container of it, with processes of its own, is another node."""
    boot = (proc / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{platform.node()}/{boot}/{os.readlink(proc / 'self/ns/pid')}"


def _lasts(lock: Lock, proc: Path) -> bool:
    """Whether the holder is still there. In a container, a process that was killed can stay a zombie for ever."""
    watched = lock.run if lock.run.node == _node(proc) else lock.connection
    return _processes.runs(watched.pid, watched.started, proc)


def _read(text: str) -> t.Optional[Lock]:
    """Return the lock that a file holds; None for one that is damaged, or none."""
    try:
        held = json.loads(text)
        lock = Lock(Run(**held["run"]), Process(**held["connection"]))
    except (ValueError, KeyError, TypeError):
        return None
    return lock if isinstance(lock.run.node, str) else None
