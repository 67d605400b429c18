# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time: real processes hold the lock; runs of other nodes and their connections are files of a /proc that the test wrote."""

from __future__ import annotations

import json
import os
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _processes, _run_lock
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._run_lock import Run

LAPTOP, DESK = (f"{name}/1b4e28ba/pid:[1]" for name in ("laptop", "desk"))


@pytest.fixture
def other() -> t.Iterator[subprocess.Popen[bytes]]:
    """Another process, which sleeps until it is killed."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def of(pid: int) -> Run:
    """Return the run that the process *pid* of this machine is."""
    return Run(_run_lock.this_run().node, pid, _processes.started_ticks(pid))


def holder(folder: Path) -> Run:
    return Run(**json.loads((folder / "run.lock").read_text())["run"])


def test_a_lock_is_its_holders_until_that_ends(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    _run_lock.take(tmp_path, of(other.pid))
    _run_lock.take(tmp_path, of(other.pid))
    with pytest.raises(
        ServingError, match=rf"Another run works on {tmp_path} since .*Wait until it is done, or end it: kill {other.pid}$"
    ) as refused:
        _run_lock.take(tmp_path)
    assert refused.value.details == {"holder": of(other.pid)._asdict()}
    other.kill()
    other.wait()
    _run_lock.take(tmp_path)
    assert holder(tmp_path) == _run_lock.this_run()


def test_a_zombie_holds_no_lock(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    run = of(other.pid)
    _run_lock.take(tmp_path, run)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert _run_lock.has_ended(run)
    _run_lock.take(tmp_path)
    assert holder(tmp_path) == _run_lock.this_run()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"pid": 1, "started": 1}',
        b'{"run": {"node": 7, "pid": 1, "started": 1}, "connection": {"pid": 1, "started": 1}}',
        b'{"run": {"node": "a", "pid": 1}, "connection": {"pid": 1, "started": 1}}',
    ],
)
def test_a_damaged_lock_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.lock").write_bytes(content)
    _run_lock.take(tmp_path)
    assert holder(tmp_path) == _run_lock.this_run()


def test_whoever_got_the_id_of_a_holder_that_is_gone_does_not_hold_its_lock(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    run = of(other.pid)
    gone = run._replace(started=run.started - 1)
    _run_lock.take(tmp_path, gone)
    assert _run_lock.has_ended(gone)
    assert not _run_lock.has_ended(run)
    _run_lock.take(tmp_path)
    assert holder(tmp_path) == _run_lock.this_run()


# --- who it is ----------------------------------------------------------------------------------------------------------------------

# processes by id, each with its parent and its command line
PLAY = {
    1: (0, "init"),
    10: (1, "bash"),
    20: (10, "make install-chat"),
    30: (20, "/opt/venv/bin/python /opt/venv/bin/ansible-playbook chat.yml"),
    31: (30, "/opt/venv/bin/python /opt/venv/bin/ansible-playbook chat.yml"),
    40: (31, "/bin/sh -c python3 ansible-tmp-1/module"),
    50: (40, "python3 ansible-tmp-1/module"),
}
# what one host sees of a run: sshd listens (100), has a process for the connection (120), and a session below it (140, 150)
OVER_SSH = {
    1: (0, "init"),
    100: (1, "sshd"),
    110: (100, "sshd"),
    120: (110, "sshd"),
    140: (120, "sudo"),
    150: (140, "python3 ansible-tmp-1/module"),
}


def proc_of(folder: Path, processes: dict[int, tuple[int, str]], boot: str = "1b4e28ba", started: int = 7) -> Path:
    """Write what the kernel tells of *processes*."""
    for number, (parent, command) in processes.items():
        (folder / str(number)).mkdir(parents=True)
        (folder / f"{number}/stat").write_text(f"{number} (a) b) S {parent}" + " 1" * 17 + f" {started} 1")
        (folder / f"{number}/cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
        (folder / f"{number}/comm").write_text(command.split()[0].rpartition("/")[2] + "\n")
    (folder / "sys/kernel/random").mkdir(parents=True)
    (folder / "sys/kernel/random/boot_id").write_text(f"{boot}\n")
    (folder / "self/ns").mkdir(parents=True)
    (folder / "self/ns/pid").symlink_to("pid:[4026531836]")
    return folder


@pytest.mark.parametrize(
    ("processes", "start", "run"),
    [
        (PLAY, 50, 30),
        ({**PLAY, 10: (1, "vim ansible.cfg")}, 50, 30),
        # a play that starts another one is the run
        ({**PLAY, 10: (1, "/usr/bin/ansible localhost -m shell")}, 50, 10),
        ({**PLAY, 30: (20, "python3 own.py"), 31: (30, "sh")}, 50, 40),
        # parents of another user are hidden
        ({number: process for number, process in PLAY.items() if number > 20}, 50, 30),
        (OVER_SSH, 150, 120),
        ({**OVER_SSH, 120: (110, "sshd-session: admin@notty")}, 150, 110),
        # a container that runs nothing else
        ({1: (0, "python3 /usr/bin/ansible-playbook chat.yml"), 50: (1, "python3 module")}, 50, 1),
        # whoever works on this machine by SSH
        ({**PLAY, 1: (0, "init"), 5: (1, "sshd"), 10: (5, "bash")}, 50, 30),
    ],
)
def test_a_run_is_the_topmost_ansible_or_the_connection(
    tmp_path: Path, processes: dict[int, tuple[int, str]], start: int, run: int
) -> None:
    assert _run_lock.this_run(proc_of(tmp_path, processes), start).pid == run


def test_a_machine_without_proc_tells_no_run(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="boot_id"):
        _run_lock.this_run(tmp_path, 1)


# --- over SSH -----------------------------------------------------------------------------------------------------------------------


class Host:
    """A host that runs come to by SSH, from nodes whose processes it does not see."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.state_dir.mkdir()
        # a connection of each node; the module is started anew below it for each task
        me = os.getpid()
        self.proc = {
            node: proc_of(folder / name, {100: (1, "sshd"), connection: (100, "sshd"), me: (connection, "python3 module")})
            for name, node, connection in (("first", LAPTOP, 120), ("second", DESK, 220))
        }
        # all of them are processes of the one host
        self.lasting = {120: LAPTOP, 220: DESK}
        for number, node in self.lasting.items():
            for folder_of in self.proc.values():
                if not (folder_of / str(number)).exists():
                    (folder_of / str(number)).symlink_to(self.proc[node] / str(number))

    def take(self, node: str, pid: int, over: t.Optional[Run] = None) -> Run:
        run = Run(node, pid, 1)
        _run_lock.take(self.state_dir, run, over, self.proc[node])
        return run

    def ends(self, node: str) -> None:
        """End the connection of *node*."""
        number = next(number for number, its in self.lasting.items() if its == node)
        (self.proc[node] / str(number) / "stat").unlink()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_tasks_of_one_run_follow_each_other(host: Host) -> None:
    host.take(LAPTOP, 4711)
    host.take(LAPTOP, 4711)


def test_a_run_from_elsewhere_is_refused_while_the_connection_lasts(host: Host) -> None:
    host.take(LAPTOP, 4711)
    with pytest.raises(ServingError, match=r"\(process 4711 on laptop\)\. Wait until it is done and a minute more, or end it: kill 4711$"):
        host.take(DESK, 5000)
    host.ends(LAPTOP)
    host.take(DESK, 5000)
    assert holder(host.state_dir).node == DESK


def test_another_run_of_the_same_node_is_refused_until_the_node_says_that_it_has_ended(host: Host) -> None:
    first = host.take(LAPTOP, 4711)
    with pytest.raises(ServingError) as refused:
        host.take(LAPTOP, 4712)
    assert Run(**refused.value.details["holder"]) == first
    host.take(LAPTOP, 4712, over=first)
    assert holder(host.state_dir).pid == 4712


def test_whoever_has_ended_meanwhile_gives_no_lock_of_a_third_away(host: Host) -> None:
    first = host.take(LAPTOP, 4711)
    host.take(LAPTOP, 4712, over=first)
    with pytest.raises(ServingError, match="process 4712"):
        host.take(DESK, 5000, over=first)


def test_a_node_knows_nothing_of_the_runs_of_others(host: Host) -> None:
    assert not _run_lock.has_ended(Run(LAPTOP, 4711, 1), host.proc[DESK])
