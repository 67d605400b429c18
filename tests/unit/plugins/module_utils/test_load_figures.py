# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of requests whose moments are given."""

from __future__ import annotations

import dataclasses
import math
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._load_figures import (
    ClientState,
    percentile,
    result_of,
    schedule,
    summary_ms,
    table,
)

IDLE = ClientState(cpu_share=0.1, loop_lag_ms=1.0, send_lag_ms=None)


@dataclasses.dataclass
class Moments:
    start: float = 0.0
    stamps: list[float] = dataclasses.field(default_factory=list)
    has_usage: bool = True
    input_tokens: int = 10
    output_tokens: int = 0
    kind: str = ""
    error: str = ""


def told(name: str, *args: t.Any, **more: t.Any) -> dict[str, t.Any]:
    return {"name": name, **dataclasses.asdict(result_of(*args, **more))}


def test_percentiles_are_interpolated_as_numpy_does() -> None:
    # numpy.percentile([1, 2, 4, 8, 16], ...) and of two values
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert [percentile(values, percent) for percent in (0, 25, 50, 90, 99, 100)] == pytest.approx([1, 2, 4, 12.8, 15.68, 16])
    assert percentile([10.0, 20.0], 95) == pytest.approx(19.5)
    assert percentile([7.0], 99) == 7.0


def test_a_summary_is_in_milliseconds_and_does_not_need_order() -> None:
    assert summary_ms([0.003, 0.001, 0.002]) == {"mean": 2.0, "p50": 2.0, "p90": 2.8, "p95": 2.9, "p99": 2.98, "max": 3.0}
    assert set(summary_ms([]).values()) == {None}


def test_a_schedule_keeps_its_rate_and_repeats_with_its_seed() -> None:
    moments = schedule(8.0, 400, 1.0, seed=1)
    assert len(moments) == 400
    assert moments == sorted(moments)
    assert moments[-1] == pytest.approx(50.0)
    assert moments == schedule(8.0, 400, 1.0, seed=1)
    assert moments != schedule(8.0, 400, 1.0, seed=2)


def test_burstiness_says_how_steady_a_schedule_is() -> None:
    def variation(burstiness: float) -> float:
        moments = schedule(10.0, 2000, burstiness, seed=3)
        gaps = [after - before for before, after in zip(moments, moments[1:])]
        mean = sum(gaps) / len(gaps)
        return math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean

    # that of a gamma distribution is 1 / sqrt(shape)
    assert variation(0.25) == pytest.approx(2.0, rel=0.15)
    assert variation(1.0) == pytest.approx(1.0, rel=0.1)
    assert variation(4.0) == pytest.approx(0.5, rel=0.1)
    assert schedule(4.0, 3, math.inf) == [0.25, 0.5, 0.75]


def test_the_definitions_are_those_of_vllm() -> None:
    # two chunks carry four tokens, so that TPOT is not the mean of the ITL
    two = [Moments(1.0, [1.1, 1.2, 1.4], output_tokens=5), Moments(2.0, [2.3, 2.3], output_tokens=2)]
    result = result_of(two, 2.0, IDLE)
    assert result.ttft_ms["p50"] == pytest.approx(200.0)
    assert result.e2e_ms["max"] == pytest.approx(400.0)
    # gaps of all requests together: 100, 200, 0
    assert (result.itl_ms["p50"], result.itl_ms["mean"]) == (pytest.approx(100.0), pytest.approx(100.0))
    # (400 - 100) / 4 and 0 / 1
    assert (result.tpot_ms["max"], result.tpot_ms["mean"]) == (pytest.approx(75.0), pytest.approx(37.5))
    assert (result.input_tokens, result.output_tokens) == (20, 7)
    assert (result.request_throughput, result.output_token_throughput, result.total_token_throughput) == (1.0, 3.5, 13.5)


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    result = result_of([Moments(0.0, [0.5], output_tokens=1)], 1.0, IDLE, {"tpot_ms": 1.0})
    assert result.tpot_ms["mean"] is None
    assert result.itl_ms["p50"] is None
    assert result.goodput is not None
    assert result.goodput["requests"] == 1


def test_chunks_are_counted_where_the_server_tells_no_usage() -> None:
    result = result_of([Moments(0.0, [0.1, 0.2, 0.3], has_usage=False, input_tokens=0)], 1.0, IDLE)
    assert (result.output_tokens, result.without_usage, result.input_tokens) == (3, 1, 0)


def test_failed_requests_count_in_the_error_rate_only() -> None:
    bad = [Moments(0.0, [0.1], kind="status 503", error=f"no engine {index}") for index in range(2)]
    late = Moments(0.0, [0.1], kind="timeout", error="late")
    result = result_of([late, *bad, Moments(0.0, [0.2, 0.3], output_tokens=2)], 1.0, IDLE)
    assert (result.requests, result.completed, result.failed, result.error_rate) == (4, 1, 3, 0.75)
    assert list(result.errors.items()) == [
        ("status 503", {"count": 2, "example": "no engine 0"}),
        ("timeout", {"count": 1, "example": "late"}),
    ]
    assert (result.ttft_ms["mean"], result.output_tokens) == (200.0, 2)


def test_nothing_at_all_makes_figures_too() -> None:
    result = result_of([], 0.0, IDLE)
    assert (result.requests, result.error_rate, result.request_throughput, result.goodput) == (0, 0.0, 0.0, None)


@pytest.mark.parametrize(
    ("objective", "good"),
    [
        ({"ttft_ms": 150.0}, 1),
        ({"ttft_ms": 250.0}, 2),
        ({"ttft_ms": 250.0, "e2e_ms": 350.0}, 1),
        # the 95th percentile of 10 and 190 is 181
        ({"itl_ms": 185.0}, 2),
        ({"itl_ms": 175.0}, 1),
        ({"tpot_ms": 90.0}, 1),
    ],
)
def test_goodput_wants_all_limits_kept(objective: dict[str, float], good: int) -> None:
    uneven = Moments(0.0, [0.2, 0.21, 0.4], output_tokens=3)
    even = Moments(0.0, [0.1, 0.18, 0.26], output_tokens=3)
    failed = Moments(0.0, [0.1], kind="timeout")
    goodput = result_of([uneven, even, failed], 2.0, IDLE, objective).goodput
    assert goodput == {"objective": objective, "requests": good, "requests_per_s": good / 2, "share": round(good / 3, 4)}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (ClientState(0.97, 2.0, 2.0), ["97% of one core"]),
        (ClientState(0.5, 35.0, None), ["woke up 35 ms late"]),
        (ClientState(0.5, 2.0, 120.0), ["sent requests 120 ms late"]),
        (ClientState(1.0, 50.0, 60.0), ["100% of one core", "50 ms late", "60 ms late"]),
    ],
)
def test_a_client_that_cannot_keep_up_says_why(state: ClientState, words: list[str]) -> None:
    client = state.told()
    assert client["limited"] is True
    assert all(word in client["why"] for word in words)
    assert client["why"].count(";") == len(words) - 1


def test_a_client_that_keeps_up_says_nothing() -> None:
    client = ClientState(0.9, 20.0, 20.0).told()
    assert (client["limited"], client["why"]) == (False, "")
    assert (client["cpu_share"], client["loop_lag_ms_p99"], client["send_lag_ms_p99"]) == (0.9, 20.0, 20.0)
    assert IDLE.told()["send_lag_ms_p99"] is None


def test_a_table_stands_in_columns_and_tells_what_was_wrong() -> None:
    one = Moments(0.0, [0.1, 0.2], input_tokens=512, output_tokens=128)
    bad = Moments(0.0, [], kind="timeout", error="no whole answer within 5 s")
    busy = ClientState(1.0, 1.0, 1.0, held_back=3, unsent=2)
    lines = table([told("rate 4/s", [one], 1.0, IDLE), told("concurrency 128", [one, bad], 1.0, busy)])
    assert lines[0].split() == "load requests failed req/s tok/s in/out ttft p50 p95 itl p50 p95 e2e p50 p95 ms".split()
    assert lines[1].split() == ["rate", "4/s", "1", "0", "1.00", "128", "512/128", "100", "100", "100", "100", "200", "200"]
    assert len({len(line) for line in lines[:3]}) == 1
    assert lines[3:] == [
        "concurrency 128: the client was the bottleneck, not only the server: it used 100% of one core, which is all that one process has",
        "concurrency 128: max_in_flight held back 3 requests, so the rate was not reached",
        "concurrency 128: 2 requests were due and not sent when the time was over",
        "concurrency 128: 1 x timeout, like: no whole answer within 5 s",
    ]


def test_a_table_has_goodput_where_there_was_an_objective() -> None:
    lines = table([told("a", [Moments(0.0, [0.1], output_tokens=1)], 2.0, IDLE, {"ttft_ms": 500.0})])
    assert lines[0].endswith("goodput")
    assert lines[1].endswith(" 0.50/s")
    assert table([]) == []
