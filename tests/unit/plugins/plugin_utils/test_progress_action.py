# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Showing what a module tells while it runs: whose lines are printed, to whom, and a real play."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._progress import Progress
from ansible_collections.llmops.serving.plugins.plugin_utils.progress import Teller, followed, followed_there, is_terminal

ROOT = Path(__file__).parents[4]


class Told:
    """A Teller on a clock that the test moves, with what it has printed."""

    def __init__(self, terminal: bool) -> None:
        self.said: list[str] = []
        self.time = 1000.0
        self.teller = Teller(self.said.append, terminal, lambda: self.time)

    def hear(self, moment: float, phase: str, text: str, note: str = "") -> None:
        self.time = 1000 + moment
        self.teller.hear(json.dumps({"phase": phase, "text": text, "note": note}))

    def tick(self, moment: float) -> None:
        self.time = 1000 + moment
        self.teller.tick()

    @property
    def texts(self) -> list[str]:
        return [line.split()[-1] for line in self.said]


@pytest.mark.parametrize(("terminal", "texts"), [(False, ["1", "5", "6"]), (True, ["1", "3", "5", "6", "7"])])
def test_who_looks_sees_more(terminal: bool, texts: list[str]) -> None:
    told = Told(terminal)
    for moment, phase, text in (
        (0, "get", "1"),
        (9.9, "get", "2"),
        (10, "get", "3"),
        (19, "get", "4"),
        (20.5, "put", "5"),
        (21, "get", "6"),
        (60, "get", "7"),
    ):
        told.hear(moment, phase, text)
    assert told.texts == texts


def test_a_person_who_waits_long_is_told_again_what_is_known_and_since_when() -> None:
    told = Told(terminal=True)
    told.tick(5)
    told.hear(10, "load", "loading weights 10 %")
    told.hear(12, "load", "loading weights 20 %", "the hub is busy")
    for moment in (19.9, 20, 20.3, 29.9, 30.1):
        told.tick(moment)
    assert [line.split(maxsplit=2)[2] for line in told.said] == [
        "loading weights 10 %",
        "loading weights 20 % (for 10 s); the hub is busy",
        "loading weights 20 % (for 20 s); the hub is busy",
    ]


def test_what_is_waited_for_is_printed_with_the_phase() -> None:
    told = Told(terminal=False)
    told.hear(0, "pull", "pulling image x", "the registry cannot be reached")
    assert told.said[0].endswith("pulling image x; the registry cannot be reached")


def test_nobody_who_reads_a_file_is_told_again() -> None:
    told = Told(terminal=False)
    told.hear(0, "load", "1")
    told.tick(600)
    assert told.texts == ["1"]


def test_a_line_has_the_time_since_the_start() -> None:
    told = Told(terminal=False)
    told.hear(125, "get", "vLLM: 62 of 131 packages")
    assert [line.split(maxsplit=4) for line in told.said] == [["2", "min", "5", "s", "vLLM: 62 of 131 packages"]]


@pytest.mark.parametrize("line", ["", "no JSON", '{"phase": "a"}', '{"text": "a"}', "[]", "1", "null", '"phase"'])
def test_a_line_that_is_none_is_skipped(line: str) -> None:
    told = Told(terminal=True)
    told.teller.hear(line)
    assert told.said == []


def test_lines_of_another_process_arrive(tmp_path: Path) -> None:
    told = Told(terminal=False)
    with followed(told.teller) as path:
        lines = ['{"phase": "a", "text": "1"}', "damaged", '{"phase": "b", "text": "2"}', '{"phase": "c", "te']
        subprocess.run(["sh", "-c", 'printf "%s\\n" "$@" >> "$0"; printf "\\377\\n" >> "$0"', path, *lines], check=True)
        for _look in range(600):
            if len(told.said) < 2:
                time.sleep(0.05)
        assert told.texts == ["1", "2"]
        Progress(path).tell("d", "last")
    assert told.texts == ["1", "2", "last"]
    assert not os.path.exists(os.path.dirname(path))


def test_half_a_line_waits_for_its_rest() -> None:
    told = Told(terminal=False)
    with followed(told.teller) as path, open(path, "a", encoding="utf-8") as file:
        for piece in ('{"phase": "a", ', '"text": "1"}', "\n"):
            print(piece, end="", file=file, flush=True)
    assert told.texts == ["1"]


def test_an_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="of the module"), followed(Told(terminal=False).teller):
        raise ValueError("of the module")


@pytest.fixture
def terminal() -> t.Iterator[int]:
    """The end of a terminal that programs write to."""
    ours, theirs = os.openpty()
    yield theirs
    os.close(ours)
    os.close(theirs)


def test_on_a_ci_server_nobody_looks(terminal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "600"], stdout=terminal) as parent:
        for value, expected in (("true", False), ("1", False), ("false", True), ("", True)):
            monkeypatch.setenv("CI", value)
            assert is_terminal(parent.pid) is expected
        parent.kill()


def test_a_terminal_is_what_the_parent_writes_to(terminal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    for output, expected in ((terminal, True), (subprocess.PIPE, False), (subprocess.DEVNULL, False)):
        with subprocess.Popen(["sleep", "600"], stdout=output) as parent:
            assert is_terminal(parent.pid) is expected
            parent.kill()
    assert is_terminal(parent.pid) is False


def test_a_worker_without_a_terminal_asks_its_parent(terminal: int) -> None:
    code = "from ansible_collections.llmops.serving.plugins.plugin_utils.progress import is_terminal; print(is_terminal())"
    worker = (
        f"import subprocess, sys; sys.exit(b'True' not in subprocess.run([sys.executable, '-c', {code!r}], capture_output=True).stdout)"
    )
    environment = {**os.environ, "CI": "", "PYTHONPATH": str(ROOT / ".venv/collections")}
    assert subprocess.run([sys.executable, "-c", worker], env=environment, stdout=terminal, check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", worker], env=environment, stdout=subprocess.PIPE, check=False).returncode == 1


PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - llmops.serving.host_job:
        title: smoke
        command: [sh, -c, "echo step 1; touch {folder}/made"]
        creates: "{folder}/made"
        log_path: "{folder}/job.log"
"""


@pytest.mark.parametrize(
    ("words", "callback", "shown"),
    [([], "default", True), (["--check"], "default", False), ([], "oneline", False), ([], "ansible.builtin.minimal", False)],
)
def test_a_play_shows_what_its_module_tells(tmp_path: Path, words: list[str], callback: str, shown: bool) -> None:
    (tmp_path / "play.yml").write_text(PLAY.format(folder=tmp_path))
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        "localhost,",
        "-e",
        f"ansible_python_interpreter={sys.executable}",
        *words,
        str(tmp_path / "play.yml"),
    ]
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": callback}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout
    assert bool(re.search(r"^ +\d+ s  .*step 1$", done.stdout, re.MULTILINE)) is shown
    assert (tmp_path / "made").exists() is not bool(words)


@pytest.mark.parametrize("words", [[], ["-o"]])
def test_a_single_task_at_the_command_line_shows_its_result_only(tmp_path: Path, words: list[str]) -> None:
    made = str(tmp_path / "made")
    job = {"title": "smoke", "command": ["sh", "-c", f"echo step 1; touch {made}"], "creates": made, "log_path": f"{tmp_path}/job.log"}
    command = [str(Path(sys.executable).parent / "ansible"), "localhost", "-i", "localhost,", "-c", "local", *words]
    command += ["-e", f"ansible_python_interpreter={sys.executable}", "-m", "llmops.serving.host_job", "-a", json.dumps(job)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("localhost | ")


def test_another_machine_is_read_from_where_the_last_look_ended() -> None:
    told, lines, asked = Told(terminal=False), [], []

    def read(start: int) -> str:
        asked.append(start)
        text = "".join(f"{line}\n" for line in lines)[start:]
        lines.append(json.dumps({"phase": str(len(lines)), "text": f"step {len(lines)}"}))
        return text

    with followed_there(told.teller, read, pause_s=0.01):
        while len(told.said) < 3:
            time.sleep(0.01)
    assert [line.split(maxsplit=2)[2] for line in told.said[:3]] == ["step 0", "step 1", "step 2"]
    assert asked[:4] == [0, 0, *(sum(len(line) + 1 for line in lines[:count]) for count in (1, 2))]


def test_a_module_that_is_soon_done_is_not_asked_after() -> None:
    asked: list[int] = []
    with followed_there(Told(terminal=False).teller, lambda start: str(asked.append(start)), pause_s=60):
        pass
    assert not asked


def test_with_several_hosts_each_line_says_whose_it_is() -> None:
    said: list[str] = []
    Teller(said.append, terminal=False, title="gpu1").hear(json.dumps({"phase": "get", "text": "loading"}))
    assert said[0].endswith("[gpu1] loading")
