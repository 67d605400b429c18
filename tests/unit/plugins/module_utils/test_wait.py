# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting on a clock that only the test moves."""

from __future__ import annotations

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._wait import Lap, NotYetError, Waiter, laps


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_pauses_grow_by_half_up_to_ten_seconds(clock: Clock) -> None:
    list(laps(60, 2, clock.now, clock.sleep))
    assert clock.pauses == [2, 3, 4.5, 6.75, 10, 10, 10, 10, pytest.approx(3.75)]


def test_a_longer_pause_than_the_cap_stays_as_it_was_asked_for(clock: Clock) -> None:
    list(laps(60, 30, clock.now, clock.sleep))
    assert clock.pauses == [30, 30]


def test_the_last_lap_is_at_the_time_limit(clock: Clock) -> None:
    assert list(laps(4, 3, clock.now, clock.sleep)) == [Lap(1, 0, 4), Lap(2, 3, 1), Lap(3, 4, 0)]


def test_no_time_means_one_lap(clock: Clock) -> None:
    assert list(laps(0, 1, clock.now, clock.sleep)) == [Lap(1, 0, 0)]
    assert clock.pauses == []


def test_a_pause_that_is_asked_for_each_time_does_not_grow(clock: Clock) -> None:
    pauses = iter([5, 0.5, 0.5, 30])
    assert [lap.elapsed_s for lap in laps(10, lambda: next(pauses), clock.now, clock.sleep)] == [0, 5, 5.5, 6, 10]


def test_a_sleep_that_ends_early_makes_the_next_lap_come_early(clock: Clock) -> None:
    def woken(seconds: float) -> None:
        clock.time += min(seconds, 1)

    assert [lap.elapsed_s for lap in laps(3, lambda: 5, clock.now, woken)] == [0, 1, 2, 3]


def test_time_that_a_look_takes_counts(clock: Clock) -> None:
    seen = []
    for lap in laps(100, 1, clock.now, clock.sleep):
        seen.append(lap.elapsed_s)
        clock.time += 60
    assert seen == [0, 61]


def test_recovery_forgets_the_trouble_before(clock: Clock) -> None:
    waiter = Waiter(60, 1, clock.now, clock.sleep)

    def look(lap: Lap) -> str:
        if lap.attempt < 3:
            raise NotYetError(f"trouble {lap.attempt}")
        return "answer"

    assert waiter.until(look) == "answer"
    assert (waiter.attempts, waiter.elapsed_s, waiter.last_error) == (3, 2.5, "")


def test_time_out_tells_the_last_cause(clock: Clock) -> None:
    waiter = Waiter(10, 1, clock.now, clock.sleep)

    def look(lap: Lap) -> None:
        raise NotYetError(f"trouble {lap.attempt}")

    assert waiter.until(look) is None
    assert waiter.elapsed_s == 10
    assert waiter.last_error == f"trouble {waiter.attempts}"


@pytest.mark.parametrize("error", [ServingError("never"), ValueError("bug")])
def test_what_cannot_heal_ends_the_wait_at_once(clock: Clock, error: Exception) -> None:
    waiter = Waiter(600, 1, clock.now, clock.sleep)

    def look(lap: Lap) -> None:
        clock.time += 5
        raise NotYetError("may heal") if lap.attempt == 1 else error

    with pytest.raises(type(error)) as caught:
        waiter.until(look)
    assert caught.value is error
    assert (waiter.attempts, waiter.elapsed_s) == (2, 11)
    assert waiter.last_error == ("never" if isinstance(error, ServingError) else "")
