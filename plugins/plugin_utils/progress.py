# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Action plugins that show what their module tells while it runs."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import tempfile
import threading
import time
import typing as t

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.llmops.serving.plugins.module_utils._progress import duration

LOOK_S = 0.3
# Another machine is asked less often: each time is a command there.
LOOK_THERE_S = 2.0
# Within a phase, a person sees a line this often; a file or a pipe only the first of each phase.
PAUSE_S = 10.0
# Callbacks whose output is for programs, or a line a host: nothing may stand between.
QUIET_CALLBACKS = ("minimal", "oneline", "json", "jsonl", "tree", "null")

display = Display()


class ProgressAction(ActionBase):
    """Runs the module of the same name and prints its progress, also where the module runs on another machine, reached by SSH."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Run the module; its result is the task's."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        with contextlib.ExitStack() as stack:
            if not self._task.check_mode and not is_quiet() and not arguments.get("progress_path"):
                teller = Teller(display.display, is_terminal(), title=self._title(task_vars or {}))
                if self._connection.transport == "local":
                    arguments["progress_path"] = stack.enter_context(followed(teller))
                elif self._connection.transport.rpartition(".")[2] == "ssh":
                    # the folder is removed with the action
                    path = self._connection._shell.join_path(self._make_tmp_path(), "progress")
                    stack.enter_context(followed_there(teller, functools.partial(self._read_there, path)))
                    arguments["progress_path"] = path
            result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        return result

    def _title(self, task_vars: dict[str, t.Any]) -> str:
        """Return whose progress it is, where the play has several hosts."""
        return str(task_vars.get("inventory_hostname", "")) if len(task_vars.get("ansible_play_batch") or []) > 1 else ""

    def _read_there(self, path: str, start: int) -> str:
        """Return what the file *path* of the other machine has from the byte *start* on; empty where it cannot be read."""
        command = f"tail -c +{start + 1} {shlex.quote(path)} 2>/dev/null"
        try:
            found = self._low_level_execute_command(command, executable="/bin/sh")
        except AnsibleError:
            return ""
        return str(found.get("stdout") or "") if found.get("rc") == 0 else ""


class Teller:
    """Decides which of the lines that a module tells are printed.

    On a terminal, the last line is repeated with what is known by then, when nothing has been printed for long.
    """

    def __init__(self, say: t.Callable[[str], None], terminal: bool, now: t.Callable[[], float] = time.monotonic, title: str = "") -> None:
        self.say = say
        self.title = f"[{title}] " if title else ""
        self.terminal = terminal
        self._now = now
        self._start = now()
        self._phase: t.Optional[str] = None
        self._text = ""
        self._note = ""
        self._since = self._said_at = 0.0

    def hear(self, line: str) -> None:
        """Take one line of the module's file: print it when its phase is new or, on a terminal, when the last one is long ago."""
        try:
            told = json.loads(line)
            phase, text, note = told["phase"], told["text"], told.get("note") or ""
        except (ValueError, KeyError, TypeError):
            return
        now = self._now()
        self._text, self._note = text, note
        if phase != self._phase:
            self._phase, self._since = phase, now
            self._say(now)
        elif self.terminal and now - self._said_at >= PAUSE_S:
            self._say(now)

    def tick(self) -> None:
        """Say again what was heard last, and for how long it has been so, when a person has not seen a line for long."""
        now = self._now()
        if self.terminal and self._phase is not None and now - self._said_at >= PAUSE_S:
            self._say(now, f" (for {duration(now - self._since)})")

    def _say(self, now: float, lasting: str = "") -> None:
        self._said_at = now
        note = f"; {self._note}" if self._note else ""
        self.say(f"  {duration(now - self._start):>10}  {self.title}{self._text}{lasting}{note}")


def is_terminal(parent: t.Optional[int] = None) -> bool:
    """Whether a person looks at the output of ansible-playbook, the *parent* of the worker in which an action plugin runs.

    The worker itself is cut off from the terminal. Where there is no ``/proc``, and on a CI server, nobody is taken to look.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    try:
        return os.readlink(f"/proc/{parent or os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty", "/dev/console"))
    except OSError:
        return False


def is_quiet() -> bool:
    """Whether the output is in a form in which lines of progress would be in the way: ``ansible`` itself, and some callbacks."""
    callback = constants.config.get_config_value("DEFAULT_STDOUT_CALLBACK")
    return bool(context.CLIARGS.get("module_name")) or str(callback).rpartition(".")[2] in QUIET_CALLBACKS


@contextlib.contextmanager
def followed_there(teller: Teller, read: t.Callable[[int], str], pause_s: float = LOOK_THERE_S) -> t.Iterator[None]:
    """Let *teller* hear what *read*, which is given a number of bytes to pass over, returns while the block runs.

    A module that is done before the first pause is never asked after.
    """
    over = threading.Event()

    def follow() -> None:
        known, rest = 0, ""
        while not over.wait(pause_s):
            text = read(known)
            known += len(text.encode())
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                teller.hear(line)
            teller.tick()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()


@contextlib.contextmanager
def followed(teller: Teller) -> t.Iterator[str]:
    """Give the path of a file, and let *teller* hear each line that is appended to it while the block runs."""
    with tempfile.TemporaryDirectory(prefix="llmops-serving-") as folder:
        path = os.path.join(folder, "progress")
        with open(path, "w+", encoding="utf-8", errors="replace") as file:
            over = threading.Event()

            def follow() -> None:
                rest = ""
                while True:
                    last = over.is_set()
                    rest += file.read()
                    *lines, rest = rest.split("\n")
                    for line in lines:
                        teller.hear(line)
                    if last:
                        return
                    teller.tick()
                    over.wait(LOOK_S)

            follower = threading.Thread(target=follow, daemon=True)
            follower.start()
            try:
                yield path
            finally:
                over.set()
                follower.join()
