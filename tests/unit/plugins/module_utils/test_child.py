# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real commands, listened to and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _child
from ansible_collections.llmops.serving.plugins.module_utils._child import Child


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def runs(pid: int) -> bool:
    """Whether it is there and no zombie: in a container nobody may collect those."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def heard(command: list[str], **options: t.Any) -> tuple[list[str], int]:
    with Child(command, **options) as child:
        return list(child.lines()), child.wait()


def test_lines_of_both_outputs_and_the_last_without_a_line_break() -> None:
    lines, code = heard(shell(r"echo one; echo two >&2; printf '\n\303\244\377\r\nlast'"))
    assert lines == ["one", "two", "", "\u00e4\ufffd", "last"]
    assert code == 0


@pytest.mark.parametrize(("text", "code"), [("true", 0), ("exit 7", 7), ("kill -9 $$", -9)])
def test_exit_codes(text: str, code: int) -> None:
    assert heard(shell(text)) == ([], code)


def test_folder_and_environment(tmp_path: Path) -> None:
    lines, _code = heard(shell('pwd -P; echo "$WORD"'), cwd=str(tmp_path.resolve()), env={"PATH": os.environ["PATH"], "WORD": "a b"})
    assert lines == [str(tmp_path.resolve()), "a b"]


def test_a_command_reads_nothing() -> None:
    before, (ours, theirs) = os.dup(0), os.pipe()
    os.dup2(ours, 0)
    try:
        assert heard(shell("readlink /proc/self/fd/0")) == (["/dev/null"], 0)
    finally:
        os.dup2(before, 0)
        for number in (before, ours, theirs):
            os.close(number)


def test_silence_is_told(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Child(shell(f"echo one; cat {fifo}; echo two")) as child:
        lines = child.lines(pause_s=0.01)
        assert next(lines) == "one"
        assert [next(lines), next(lines)] == ["", ""]
        fifo.write_text("")
        assert list(filter(None, lines)) == ["two"]


def test_leaving_ends_what_the_command_has_started() -> None:
    with Child(shell("sleep 600 & echo $!; wait")) as child:
        grandchild = int(next(child.lines()))
        assert runs(grandchild)
    assert not runs(grandchild)
    assert child.wait() == -signal.SIGTERM


def test_leaving_ends_what_a_command_that_is_over_left_behind() -> None:
    # with the outputs of its own, so that nobody waits for them
    with Child(shell("sleep 600 >/dev/null 2>&1 & echo $!")) as child:
        [line] = child.lines()
        assert child.wait() == 0
        assert runs(int(line))
    assert not runs(int(line))


def test_what_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_child, "GRACE_S", 0.2)
    with Child(shell("trap '' TERM; echo ready; while true; do sleep 0.1; done")) as child:
        next(child.lines())
    assert child.wait() == -signal.SIGKILL


def test_an_error_in_the_block_ends_the_command() -> None:
    child = Child(["sleep", "600"])
    with pytest.raises(ValueError, match="of the block"), child:
        raise ValueError("of the block")
    assert child.wait() == -signal.SIGTERM


def handlers() -> list[t.Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]


def test_signals_mean_afterwards_what_they_meant_before(tmp_path: Path) -> None:
    before = handlers()
    with Child(["true"]):
        assert handlers() != before
    assert handlers() == before
    absent = Child([str(tmp_path / "absent")])
    with pytest.raises(FileNotFoundError, match="absent"), absent:
        pass
    assert handlers() == before


def test_a_thread_that_cannot_have_signals_can_have_a_command() -> None:
    found: list[tuple[list[str], int]] = []
    thread = threading.Thread(target=lambda: found.append(heard(shell("echo one"))))
    thread.start()
    thread.join()
    assert found == [(["one"], 0)]


INTERRUPTED = """
from ansible_collections.llmops.serving.plugins.module_utils._child import Child
with Child(["sh", "-c", "echo $$; sleep 600 & echo $!; wait"]) as child:
    for line in child.lines():
        print(line, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_module_ends_the_command(number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(_child.__file__).parents[5])}
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED], env=environment, stdout=subprocess.PIPE) as module:
        assert module.stdout is not None
        pids = [int(module.stdout.readline()) for _process in range(2)]
        module.send_signal(number)
        assert module.wait() == 128 + number
    assert not any(runs(pid) for pid in pids)


def test_a_second_signal_does_not_keep_the_command_from_being_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_child, "GRACE_S", 0.5)
    child = Child(shell("trap 'kill -TERM $PPID' TERM; echo ready; while true; do sleep 0.1; done"))

    def interrupt() -> None:
        with child:
            next(child.lines())
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        interrupt()
    ended_by = child.process.poll()
    child.process.kill()
    assert ended_by == -signal.SIGKILL


LISTENER = """
import sys
from ansible_collections.llmops.serving.plugins.module_utils import _child
_child.ABANDONED_S = 0.1
with _child.Child(["sh", "-c", "echo $$; sleep 1000"]) as child:
    for line in child.lines():
        print(line, flush=True)
"""


def test_a_command_ends_when_nobody_waits_for_its_module_any_more() -> None:
    """As over SSH without a terminal, where no signal tells that the run is gone."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4] / ".venv/collections")}
    module = subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ)
    assert module.stdout is not None
    command = int(module.stdout.readline())
    assert runs(command)
    module.stdout.close()
    assert module.wait(timeout=30) != 0
    assert not runs(command)
