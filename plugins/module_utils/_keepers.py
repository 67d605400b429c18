# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What keeps programs running on a host, as whoever waits for them sees it: their states, their logs, and why one has ended."""

from __future__ import annotations

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._diagnosis import PATIENCE, log_cause
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._logs import START_MARK, cause_in
from ansible_collections.llmops.serving.plugins.module_utils._wait import NotYetError, laps

# States of a program in supervisord's words, which all keepers use. What is DOWN does not run, and nobody starts it again by itself.
DOWN = ("STOPPED", "EXITED", "FATAL")
PAUSE_S = 0.05


class ProcessInfo(t.NamedTuple):
    """What a keeper says about a program. ``state``: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL, UNKNOWN.

    ``pid`` is None while it does not run. Times are seconds, 0 for never. ``exit_status`` is that of the last end, -1 after a signal and
    0 before any end. ``spawn_error`` says why it did not start, and is empty when it did. ``log_at`` is where people find its log: a path
    or a command.
    """

    name: str
    state: str
    pid: t.Optional[int]
    exit_status: int
    started_at: int
    stopped_at: int
    spawn_error: str
    log_at: str


class Keeper(t.Protocol):
    """What keeps programs running. Both methods raise ServingError when it cannot be asked."""

    def processes(self) -> list[ProcessInfo]:
        """Return all programs that it keeps."""

    def log_of(self, info: ProcessInfo) -> str:
        """Return the end of a program's log, with several starts of it."""


def why_ended(program: ProcessInfo, log: str) -> str:
    """Return what the program's *log* says; of a program that could not even be started, what its keeper says."""
    if program.spawn_error:
        return program.spawn_error
    exit_code = f"exit code {program.exit_status}" if program.exit_status > 0 else "its log does not say why"
    return cause_in(log) or exit_code


class Watch:
    """Programs that have to stay up until something is reached. ``infos`` are those of the last look, by name."""

    def __init__(self, keeper: Keeper, goal: str) -> None:
        self.keeper = keeper
        self.goal = goal
        self.infos: dict[str, ProcessInfo] = {}
        self._ends: set[tuple[str, int]] = set()

    def look(self, names: t.Iterable[str]) -> None:
        """Raise ServingError when one of *names* is not there, has ended, or was started anew since the last look.

        It is a NotYetError where the keeper starts the program again, and its log has a cause that may be gone by then.
        """
        before, self.infos = self.infos, {info.name: info for info in self.keeper.processes()}
        for name in names:
            info = self.infos.get(name)
            if info is None:
                raise ServingError(f"Nothing keeps a program {name} here. Install again: make install-chat")
            again = name in before and info.pid != before[name].pid
            if info.state not in ("STARTING", "RUNNING") or again:
                raise self._ended(info)

    def _ended(self, info: ProcessInfo) -> ServingError:
        began = f"{info.name} ended before {self.goal}: "
        log = self.keeper.log_of(info)
        starts = [] if info.spawn_error else log.split(START_MARK)[-2:]
        found = next((cause for text in reversed(starts) for cause in [log_cause(text)] if cause), None)
        if found is None or found.cause == "crashed":
            return ServingError(f"{began}{why_ended(info, log).rstrip('.')}. Its log: {info.log_at}")
        self._ends.add((info.name, info.stopped_at))
        # what heals only once is not waited for here: here nothing else than this program can have caused it
        patience = float("inf") if found.cause not in PATIENCE else PATIENCE[found.cause] if PATIENCE[found.cause] > 1 else 0
        heals = not found.certain and info.state not in DOWN and sum(name == info.name for name, _end in self._ends) <= patience
        line = f' Its log {info.log_at}: "{found.line}".' if found.line else f" Its log: {info.log_at}."
        return (NotYetError if heals else ServingError)(f"{began}{found.what}.{line} {found.advice.rstrip('.')}.")


def until(look: t.Callable[[], bool], timeout_s: float, pause_s: float = PAUSE_S) -> bool:
    """Whether *look* returns True within *timeout_s* seconds. It is asked once more when they are over."""
    return any(look() for _lap in laps(timeout_s, pause_s, longest_pause_s=pause_s))
