# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""A command that a module runs and listens to, and that never outlives it."""

from __future__ import annotations

import contextlib
import os
import pwd
import queue
import select
import signal
import subprocess
import threading
import time
import typing as t
from pathlib import Path

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._processes import stat

GRACE_S = 10.0
LOOK_S = 0.05
# Between two looks whether somebody waits for the module that runs the command.
ABANDONED_S = 2.0


class Child:
    """A running command, with what it writes to both outputs as lines. Leaving the ``with`` block ends it and all it has started.

    With *user* it runs as that user, which needs root. Raises ServingError for a user that the machine does not know.
    """

    def __init__(
        self,
        command: t.Sequence[str],
        cwd: t.Optional[str] = None,
        env: t.Optional[t.Mapping[str, str]] = None,
        user: t.Optional[str] = None,
    ) -> None:
        self.command = list(command)
        self.cwd = cwd
        self.env = env
        self._identity = identity(user) if user else {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Child:
        """Start the command, in a session of its own, so that a signal reaches everything it has started."""
        self._stack.enter_context(_interruptible())
        try:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._identity,
            )
        except OSError:
            self._stack.close()
            raise
        self._lines: queue.Queue[t.Optional[str]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_exc: t.Any) -> None:
        """End what still runs, also what the command left behind: politely, then for good."""
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                for pid in self._left():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                deadline = time.monotonic() + GRACE_S
                while self._left() and time.monotonic() < deadline:
                    time.sleep(LOOK_S)
        finally:
            self._stack.close()

    def _left(self) -> list[int]:
        """Return the ids of what still runs of the command's session; the command alone where there is no ``/proc``."""
        alive = self.process.poll() is None
        return _session(self.process.pid) or ([self.process.pid] if alive else [])

    def lines(self, pause_s: t.Optional[float] = None) -> t.Iterator[str]:
        """Yield what the command writes, line by line, until it ends; with *pause_s*, an empty line whenever it is silent so long.

        Raises ServingError when nobody waits for this module any more: its run was ended, or its connection is gone.
        """
        silent_s = 0.0
        while True:
            wait_s = ABANDONED_S if pause_s is None else min(pause_s - silent_s, ABANDONED_S)
            try:
                line = self._lines.get(timeout=wait_s)
            except queue.Empty:
                if is_abandoned():
                    raise ServingError(f"{self.command[0]} was ended: the run that started it is gone.") from None
                silent_s += wait_s
                if pause_s is not None and silent_s >= pause_s:
                    silent_s = 0.0
                    yield ""
                continue
            silent_s = 0.0
            if line is None:
                return
            yield line

    def wait(self) -> int:
        """Return the exit code; negative is the signal that killed it."""
        return self.process.wait()

    def _read(self) -> None:
        if self.process.stdout:
            with self.process.stdout as out:
                for line in out:
                    self._lines.put(line.decode(errors="replace").rstrip("\r\n"))
        self._lines.put(None)


def is_abandoned(fd: int = 1) -> bool:
    """Whether nobody reads any more what this process writes: *fd* is a pipe, or a socket, whose other end is closed.

    No signal tells so on a host that is reached by SSH without a terminal.
    """
    watch = select.poll()
    watch.register(fd, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _fd, event in watch.poll(0))


def identity(user: str) -> dict[str, t.Any]:
    """Return the arguments with which Popen starts a process as *user*, with that user's groups and no others."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise ServingError(f"There is no user {user} on this host. Make it, or name another one.") from None
    if found.pw_uid == os.geteuid():
        return {}
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": os.getgrouplist(user, found.pw_gid)}


def _session(leader: int) -> list[int]:
    """Return the ids of the processes in the session of *leader*, those that are over left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(folder.name)
            fields = stat(pid)
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(pid)
    return found


@contextlib.contextmanager
def _interruptible() -> t.Iterator[None]:
    """Let a polite end of this process raise SystemExit, so that ``finally`` and ``with`` blocks run."""

    def leave(number: int, _frame: t.Any) -> t.NoReturn:
        # once is enough: the next one would interrupt the clean-up
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
