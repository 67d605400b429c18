# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What the moments of many requests say together. Everything here is pure.

The definitions are those of vLLM's own client (vllm/benchmarks/serve.py, 0.32), so that figures can be laid side by side:

- TTFT: from the sending of a request to its first chunk with a choice.
- ITL: each gap between two such chunks of one request; the gaps of all requests together make the percentiles.
- E2E: from the sending to the last such chunk.
- TPOT: (E2E - TTFT) / (tokens of the answer - 1), a figure a request; answers of one token have none.
- Throughputs count what was completed, over the time from the first sending to the last end.

Only completed requests count in them. Percentiles are interpolated linearly, as numpy does.
"""

from __future__ import annotations

import array
import dataclasses
import math
import random
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._text import aligned

# A process that needs more of one core than this cannot keep up with what comes.
MOST_CPU_SHARE = 0.9
# So late may the event loop be, and so late may requests be sent, at the 99th percentile, in milliseconds.
MOST_LAG_MS = 20.0


class Timing(t.Protocol):
    """One request that has ended; see _load_http.Exchange."""

    start: float
    has_usage: bool
    input_tokens: int
    output_tokens: int
    kind: str
    error: str

    @property
    def stamps(self) -> t.Sequence[float]:
        """When its chunks came."""


def percentile(ordered: t.Sequence[float], percent: float) -> float:
    """Return the percentile of values that are in order, at least one, interpolated linearly."""
    place = (len(ordered) - 1) * percent / 100.0
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summary_ms(seconds: t.Iterable[float]) -> dict[str, t.Optional[float]]:
    """Return mean, p50, p90, p95, p99 and max in milliseconds; each None where there are no values."""
    ordered = sorted(seconds)
    if not ordered:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"))
    figures = {"mean": math.fsum(ordered) / len(ordered)}
    figures.update({f"p{percent}": percentile(ordered, percent) for percent in (50, 90, 95, 99)}, max=ordered[-1])
    return {key: round(value * 1000, 3) for key, value in figures.items()}


def schedule(rate: float, count: int, burstiness: float = 1.0, seed: int = 0) -> list[float]:
    """Return when each of *count* requests is due, in seconds from the beginning.

    Gaps follow a gamma distribution of the shape *burstiness*: 1 is a Poisson process, less comes in bursts, more is steadier, and
    ``math.inf`` is constant. All are stretched so that the last is due after ``count / rate``, which makes the rate exact.
    """
    if math.isinf(burstiness):
        return [(index + 1) / rate for index in range(count)]
    draw = random.Random(seed)
    moments: list[float] = []
    moment = 0.0
    for _index in range(count):
        moment += draw.gammavariate(burstiness, 1.0 / (rate * burstiness))
        moments.append(moment)
    stretch = count / rate / moment if moment else 1.0
    return [moment * stretch for moment in moments]


@dataclasses.dataclass
class Latencies:
    """Those of one completed request, in seconds. ``tpot`` is None for an answer of one token."""

    ttft: float
    itl: t.Sequence[float]
    tpot: t.Optional[float]
    e2e: float

    @classmethod
    def of(cls, timing: Timing) -> Latencies:
        """Return those of *timing*, which has completed."""
        stamps = timing.stamps
        ttft, e2e = stamps[0] - timing.start, stamps[-1] - timing.start
        tokens = tokens_of(timing)
        gaps = array.array("d", (after - before for before, after in zip(stamps, stamps[1:])))
        return cls(ttft, gaps, (e2e - ttft) / (tokens - 1) if tokens > 1 else None, e2e)

    def meets(self, objective: t.Mapping[str, float]) -> bool:
        """Return whether no limit of *objective* (milliseconds) is passed. That of the ITL is for the 95th percentile of its gaps."""
        reached = {
            "ttft_ms": self.ttft,
            "itl_ms": percentile(sorted(self.itl), 95) if self.itl else 0.0,
            "tpot_ms": self.tpot or 0.0,
            "e2e_ms": self.e2e,
        }
        return all(reached[name] * 1000 <= limit for name, limit in objective.items())


def tokens_of(timing: Timing) -> int:
    """Return the tokens of the answer: by its usage, else its chunks."""
    return timing.output_tokens or len(timing.stamps)


@dataclasses.dataclass
class ClientState:
    """How the client itself has fared during a load.

    ``cpu_share`` is the process's share of one core. ``loop_lag_ms`` tells how late its event loop was, ``send_lag_ms`` how late requests
    were sent (None without a schedule), both at the 99th percentile. ``held_back`` requests waited for max_in_flight, and ``unsent`` were
    never sent because the time was over. ``connections`` were opened, and ``repeated`` requests sent again on a new one.
    """

    cpu_share: float
    loop_lag_ms: float
    send_lag_ms: t.Optional[float]
    held_back: int = 0
    unsent: int = 0
    connections: int = 0
    repeated: int = 0

    def why_limited(self) -> str:
        """Return in words why this client was the bottleneck; empty when it was not."""
        reasons = []
        if self.cpu_share > MOST_CPU_SHARE:
            reasons.append(f"it used {self.cpu_share:.0%} of one core, which is all that one process has")
        if self.loop_lag_ms > MOST_LAG_MS:
            reasons.append(f"it woke up {self.loop_lag_ms:.0f} ms late at the 99th percentile")
        if self.send_lag_ms is not None and self.send_lag_ms > MOST_LAG_MS:
            reasons.append(f"it sent requests {self.send_lag_ms:.0f} ms late at the 99th percentile")
        return "; ".join(reasons)

    def told(self) -> dict[str, t.Any]:
        """Return it as a module does."""
        why = self.why_limited()
        return {
            "cpu_share": round(self.cpu_share, 3),
            "loop_lag_ms_p99": round(self.loop_lag_ms, 3),
            "send_lag_ms_p99": None if self.send_lag_ms is None else round(self.send_lag_ms, 3),
            "held_back": self.held_back,
            "unsent": self.unsent,
            "connections": self.connections,
            "repeated": self.repeated,
            "limited": bool(why),
            "why": why,
        }


@dataclasses.dataclass
class Result:
    """The figures of one load. Latencies are ``{mean, p50, p90, p95, p99, max}`` in milliseconds.

    ``errors`` has an entry a kind: ``{"count", "example"}``. ``goodput`` is None without an objective, else the completed requests that
    meet it, as ``requests``, ``requests_per_s`` and ``share`` of all. ``without_usage`` completed answers did not tell their tokens; their
    chunks were counted instead. ``unfinished`` were under way when a signal ended the load, and count nowhere else.
    """

    requests: int
    completed: int
    failed: int
    unfinished: int
    errors: dict[str, dict[str, t.Any]]
    error_rate: float
    duration_s: float
    request_throughput: float
    output_token_throughput: float
    total_token_throughput: float
    input_tokens: int
    output_tokens: int
    without_usage: int
    ttft_ms: dict[str, t.Optional[float]]
    itl_ms: dict[str, t.Optional[float]]
    tpot_ms: dict[str, t.Optional[float]]
    e2e_ms: dict[str, t.Optional[float]]
    goodput: t.Optional[dict[str, t.Any]]
    peak_in_flight: int
    client: dict[str, t.Any]


def result_of(
    timings: t.Sequence[Timing],
    duration_s: float,
    client: ClientState,
    objective: t.Optional[t.Mapping[str, float]] = None,
    peak_in_flight: int = 0,
    unfinished: int = 0,
) -> Result:
    """Return the figures of requests that have ended, within *duration_s* altogether."""
    completed = [timing for timing in timings if not timing.kind]
    latencies = [Latencies.of(timing) for timing in completed]
    inputs = sum(timing.input_tokens for timing in completed)
    outputs = sum(map(tokens_of, completed))

    def per_second(count: float) -> float:
        return round(count / duration_s, 3) if duration_s > 0 else 0.0

    def share(count: int) -> float:
        return round(count / len(timings), 4) if timings else 0.0

    goodput = None
    if objective:
        good = sum(entry.meets(objective) for entry in latencies)
        goodput = {"objective": dict(objective), "requests": good, "requests_per_s": per_second(good), "share": share(good)}
    return Result(
        requests=len(timings),
        completed=len(completed),
        failed=len(timings) - len(completed),
        unfinished=unfinished,
        errors=errors_of(timings),
        error_rate=share(len(timings) - len(completed)),
        duration_s=round(duration_s, 3),
        request_throughput=per_second(len(completed)),
        output_token_throughput=per_second(outputs),
        total_token_throughput=per_second(inputs + outputs),
        input_tokens=inputs,
        output_tokens=outputs,
        without_usage=sum(not timing.has_usage for timing in completed),
        ttft_ms=summary_ms(entry.ttft for entry in latencies),
        itl_ms=summary_ms(gap for entry in latencies for gap in entry.itl),
        tpot_ms=summary_ms(entry.tpot for entry in latencies if entry.tpot is not None),
        e2e_ms=summary_ms(entry.e2e for entry in latencies),
        goodput=goodput,
        peak_in_flight=peak_in_flight,
        client=client.told(),
    )


def errors_of(timings: t.Iterable[Timing]) -> dict[str, dict[str, t.Any]]:
    """Return count and first example of each kind of error, the most frequent first."""
    found: dict[str, dict[str, t.Any]] = {}
    for timing in timings:
        if timing.kind:
            entry = found.setdefault(timing.kind, {"count": 0, "example": timing.error})
            entry["count"] += 1
    return dict(sorted(found.items(), key=lambda item: -item[1]["count"]))


_HEAD = (
    ("load", "requests", "failed", "req/s", "tok/s", "in/out"),
    ("ttft p50", "p95", "itl p50", "p95", "e2e p50", "p95 ms"),
)


def table(loads: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Return lines for people: a head, and one for each of *loads*, as the module returns them; then what has to be known beside."""
    if not loads:
        return []
    wants_goodput = any(load["goodput"] for load in loads)
    rows = [[*_HEAD[0], *_HEAD[1], *(["goodput"] if wants_goodput else [])]]
    notes = []
    for load in loads:
        per = load["completed"] or 1
        latencies = [_number(load[name][point]) for name in ("ttft_ms", "itl_ms", "e2e_ms") for point in ("p50", "p95")]
        row = [
            load["name"],
            str(load["requests"]),
            str(load["failed"]),
            f"{load['request_throughput']:.2f}",
            f"{load['output_token_throughput']:.0f}",
            f"{load['input_tokens'] / per:.0f}/{load['output_tokens'] / per:.0f}",
            *latencies,
        ]
        if wants_goodput:
            row.append(f"{load['goodput']['requests_per_s']:.2f}/s" if load["goodput"] else "-")
        rows.append(row)
        notes += [f"{load['name']}: {note}" for note in _notes(load)]
    return aligned(rows) + notes


def _notes(load: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    client = load["client"]
    if client["limited"]:
        yield f"the client was the bottleneck, not only the server: {client['why']}"
    if client["held_back"]:
        yield f"max_in_flight held back {client['held_back']} requests, so the rate was not reached"
    if client["unsent"]:
        yield f"{client['unsent']} requests were due and not sent when the time was over"
    for kind, entry in load["errors"].items():
        yield f"{entry['count']} x {kind}, like: {entry['example']}"


def _number(value: t.Optional[float]) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
