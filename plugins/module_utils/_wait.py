# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Looking again and again until something is there, on a clock that nobody sets back."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

T = t.TypeVar("T")

BACK_OFF = 1.5
LONGEST_PAUSE_S = 10.0


class NotYetError(ServingError):
    """What was looked for is not there, and may still come by itself: worth another look."""


class Lap(t.NamedTuple):
    """One look out of many. ``attempt`` counts from 1; ``remaining_s`` is 0 in the last look, made when the time is up."""

    attempt: int
    elapsed_s: float
    remaining_s: float


def laps(
    timeout_s: float,
    pause_s: t.Union[float, t.Callable[[], float]],
    now: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
    longest_pause_s: float = LONGEST_PAUSE_S,
) -> t.Iterator[Lap]:
    """Yield a lap at once, then one after each pause, the last when *timeout_s* have passed.

    Pauses begin with *pause_s* and grow by half each time, up to *longest_pause_s* (or *pause_s*, when that is longer). A *pause_s* that
    can be called is asked before each pause, which then does not grow; a *sleep* that ends early makes the next lap come early.
    Time that the looks take counts too.
    """
    start = now()
    attempt = 0
    while True:
        attempt += 1
        elapsed = now() - start
        yield Lap(attempt, elapsed, max(0.0, timeout_s - elapsed))
        remaining = timeout_s - (now() - start)
        if remaining <= 0:
            return
        if callable(pause_s):
            sleep(min(pause_s(), remaining))
            continue
        sleep(min(pause_s, remaining))
        pause_s = max(pause_s, min(pause_s * BACK_OFF, longest_pause_s))


class Waiter:
    """Waits for one thing, and remembers how that went.

    ``attempts`` and ``elapsed_s`` hold at any time; ``last_error`` is the cause that the last look gave, empty when it gave none.
    """

    def __init__(
        self,
        timeout_s: float,
        pause_s: t.Union[float, t.Callable[[], float]],
        now: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self.timeout_s = timeout_s
        self.pause_s = pause_s
        self.attempts = 0
        self.elapsed_s = 0.0
        self.last_error = ""
        self._now = now
        self._sleep = sleep
        self._longest_pause_s = longest_pause_s

    def until(self, look: t.Callable[[Lap], T]) -> t.Optional[T]:
        """Return what *look* returns, as soon as it returns; None when it said NotYetError until the time was up.

        Any other exception of *look* cannot be waited out: it ends the wait at once.
        """
        start = self._now()
        for lap in laps(self.timeout_s, self.pause_s, self._now, self._sleep, self._longest_pause_s):
            self.attempts = lap.attempt
            self.last_error = ""
            try:
                return look(lap)
            except NotYetError as exc:
                self.last_error = str(exc)
            except ServingError as exc:
                self.last_error = str(exc)
                raise
            finally:
                self.elapsed_s = self._now() - start
        return None
