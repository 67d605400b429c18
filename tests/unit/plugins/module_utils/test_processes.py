# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding and ending real processes of a deployment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _processes
from ansible_collections.llmops.serving.plugins.module_utils._processes import MARK, belonging, end, family, marked, started_ticks

WAIT = "print('ready', flush=True); import signal; signal.pause()"

# What a library that sets the title of a process does to its environment: fields 50 and 51 of stat say where that is.
WIPE = """
import ctypes
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
first, last = int(fields[47]), int(fields[48])
ctypes.memset(first, 0, last - first)
"""
# Has a file in memory, as a program has its libraries.
MAP = """
import mmap, sys
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
"""


class Processes:
    """Starts Python programs that say when they are ready."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()

    def start(self, code: str, *arguments: str, mark: t.Optional[Path] = None) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], **({MARK: str(mark)} if mark else {})}
        command = [sys.executable, "-c", code, *arguments]
        process = self.stack.enter_context(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
        self.stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process


@pytest.fixture
def processes() -> t.Iterator[Processes]:
    started = Processes()
    with started.stack:
        yield started


def pids(state_dir: Path) -> list[int]:
    return [process.pid for process in marked(str(state_dir))]


def test_processes_of_one_deployment_oldest_first(processes: Processes, tmp_path: Path) -> None:
    started = [processes.start(WAIT, mark=tmp_path / "chat").pid for _process in range(2)]
    processes.start(WAIT, mark=tmp_path / "chat2")
    processes.start(WAIT)
    assert pids(tmp_path / "chat") == started
    assert pids(tmp_path / "chat" / ".." / "chat") == started
    assert [process.pid for process in marked(f"{tmp_path}/chat/")] == started


def test_what_a_process_of_a_deployment_has_started_belongs_to_it(processes: Processes, tmp_path: Path) -> None:
    child = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], env={})"
    parent = processes.start(f"{child}; print('ready', flush=True); child.wait()", mark=tmp_path)
    found = belonging(str(tmp_path))
    try:
        assert pids(tmp_path) == [parent.pid]
        assert [process.parent for process in found if process.pid != parent.pid] == [parent.pid]
    finally:
        end(found, 0.0)
    assert belonging(f"{tmp_path}/other") == []


def test_what_is_said_about_a_process(processes: Processes, tmp_path: Path) -> None:
    code = f"block = bytearray(64 * 2**20); {WAIT}"
    started = processes.start(code, "an argument", mark=tmp_path)
    [process] = marked(str(tmp_path))
    assert (process.pid, process.parent, process.started) == (started.pid, os.getpid(), started_ticks(started.pid))
    assert process.command.endswith("an argument")
    assert 64 <= process.resident_mib < 1024


def test_children_carry_the_mark(processes: Processes, tmp_path: Path) -> None:
    code = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {WAIT!r}]); {WAIT}"
    parent = processes.start(code, mark=tmp_path)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"  # both say so
    children = [process for process in marked(str(tmp_path)) if process.parent == parent.pid]
    end(children, 10)
    assert len(children) == 1
    assert pids(tmp_path) == [parent.pid]


def test_a_process_that_wrote_over_its_environment_is_known_by_its_libraries(processes: Processes, tmp_path: Path) -> None:
    library = tmp_path / "real" / "venvs" / "vllm-1" / "library.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"x" * 4096)
    (tmp_path / "chat").symlink_to("real")
    wiped = processes.start(WIPE + MAP + WAIT, str(library), mark=tmp_path / "chat")
    processes.start(MAP + WAIT, str(library))  # not of the deployment: it only looks
    processes.start(WIPE + WAIT)  # of nobody
    assert b"=" not in Path(f"/proc/{wiped.pid}/environ").read_bytes()
    assert pids(tmp_path / "chat") == [wiped.pid]
    assert pids(tmp_path / "chat" / "venvs" / "vllm") == []


def test_a_zombie_is_no_process(processes: Processes, tmp_path: Path) -> None:
    process = processes.start("print('ready', flush=True)", mark=tmp_path)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert pids(tmp_path) == []


def test_family_is_this_process_and_all_above(processes: Processes) -> None:
    other = processes.start(WAIT)
    assert {os.getpid(), os.getppid()} <= family()
    assert other.pid not in family()


def test_end_asks_first(processes: Processes, tmp_path: Path) -> None:
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); {WAIT}"
    process = processes.start(code, mark=tmp_path)
    end(marked(str(tmp_path)), 60)
    assert process.wait() == 7


def test_end_kills_what_does_not_listen(processes: Processes, tmp_path: Path) -> None:
    deaf = processes.start(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}", mark=tmp_path)
    end(marked(str(tmp_path)), 0.1)
    assert deaf.wait() == -signal.SIGKILL


def test_end_spares_whoever_got_the_id_of_a_process_that_is_gone(processes: Processes, tmp_path: Path) -> None:
    process = processes.start(WAIT, mark=tmp_path)
    [found] = marked(str(tmp_path))
    end([found._replace(started=found.started - 1)], 60)
    assert process.poll() is None


def test_end_of_what_is_gone_already_does_nothing(processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = processes.start(WAIT, mark=tmp_path)
    found = marked(str(tmp_path))
    process.kill()
    process.wait()
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(_processes.os, "kill", lambda pid, number: sent.append((pid, number)))
    end(found, 60)
    assert sent == []


def test_a_process_that_is_not_there(processes: Processes) -> None:
    process = processes.start(WAIT)
    process.kill()
    process.wait()
    with pytest.raises(OSError, match=str(process.pid)):
        started_ticks(process.pid)
