# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock for tests of what waits."""

from __future__ import annotations

import typing as t


class Clock:
    """A clock that only sleeping moves; ``events`` happen when their time (seconds since the start) has come."""

    def __init__(self) -> None:
        self.time = 0.0
        self.events: dict[float, t.Callable[[], object]] = {}

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        for moment in [moment for moment in self.events if moment <= self.time]:
            self.events.pop(moment)()
