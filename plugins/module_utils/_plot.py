# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Latency against load, as a picture: SVG without scripts or fonts of its own, for pages that are white and pages that are dark."""

from __future__ import annotations

import html
import math
import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _results
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._results import Document, Series

PANELS = {"ttft_ms": "Time to first token, ms", "itl_ms": "Time between tokens, ms"}
SHARES = ("p50", "p95")
# From which ratio of the largest to the smallest value on an axis is logarithmic: an engine that is full is slower by far.
LOGARITHMIC_FROM = 30
MOST_TICKS = 6

# Pixels. A panel is the area between the axes.
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 64, 24, 66, 40
PANEL_HEIGHT, PANEL_GAP, LEGEND_LINE = 220, 62, 20

# On white, and on dark; told apart by people who do not see all colours, too.
COLOURS = (
    ("#0b62a4", "#7cc4ff"),
    ("#b45309", "#ffb86b"),
    ("#15803d", "#7ee2a0"),
    ("#7e22ce", "#d8b4fe"),
    ("#be123c", "#fda4af"),
    ("#0f766e", "#5eead4"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Curve(t.NamedTuple):
    """The loads of one run, in the order of what was offered; *name* stands in the legend."""

    name: str
    loads: list[Series]


class Scale(t.NamedTuple):
    """An axis: what its ends mean, and where they are in pixels."""

    ticks: list[float]
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return the pixel of *value*."""
        low, high = self.ticks[0], self.ticks[-1]
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def can_draw(found: Document) -> bool:
    """Return whether *found* has a load with a throughput and a latency."""
    return any(_drawable(load) for load in _results.loads(found))


def latency_against_load(found: Document, others: t.Sequence[Document] = ()) -> str:
    """Return a picture of TTFT and ITL (p50 and p95, ms) against the requests that were answered per second.

    *others*: earlier results, drawn over it. Raises ServingError when *found* has no load with a throughput and a latency.
    """
    curves = [curve for number, each in enumerate([found, *others]) for curve in _curves(each, number if others else None)]
    if not can_draw(found):
        raise ServingError("There is no load with a throughput and a latency, so there is nothing to draw. A benchmark has them.")
    highest = max(_x(load) for curve in curves for load in curve.loads)
    x_axis = Scale(nice_ticks(0, highest), LEFT, WIDTH - RIGHT)
    bodies = []
    for row, (key, title) in enumerate(PANELS.items()):
        top = TOP + row * (PANEL_HEIGHT + PANEL_GAP)
        bodies.append(_panel(key, title, curves, x_axis, top))
    below = TOP + len(PANELS) * (PANEL_HEIGHT + PANEL_GAP) - PANEL_GAP
    bodies.append(_text((LEFT + WIDTH - RIGHT) / 2, below + 34, "Requests answered per second", "middle"))
    legend_top = below + BOTTOM + 18
    bodies.append(_legend(curves, legend_top))
    height = legend_top + LEGEND_LINE * (len(curves) + 1)
    return "\n".join(_document(found, curves, height, bodies)) + "\n"


def nice_ticks(low: float, high: float, most: int = MOST_TICKS) -> list[float]:
    """Return round numbers, steps of 1, 2 or 5 times a power of ten, that enclose *low* to *high*: no more than *most* steps."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    while True:
        for factor in (1, 2, 5):
            step = factor * power
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
            if last - first <= most:
                digits = max(0, -math.floor(math.log10(step)))
                return [round(count * step, digits) for count in range(first, last + 1)]
        power *= 10


def log_ticks(low: float, high: float, most: int = MOST_TICKS) -> list[float]:
    """Return round numbers for a logarithmic axis that enclose *low* to *high*, both above 0: 1, 2 and 5 times powers of ten, or powers."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    powers = [_power(exponent) for exponent in range(first, last + 1)]
    fine = [_rounded(factor * power) for power in powers for factor in (1, 2, 5)]
    start = max(number for number, tick in enumerate(fine) if tick <= low * (1 + 1e-9))
    end = min(number for number, tick in enumerate(fine) if tick >= high * (1 - 1e-9) and number > start)
    ticks = fine[start : end + 1]
    return ticks if len(ticks) <= most + 1 else powers


def _power(exponent: int) -> float:
    return _rounded(10.0**exponent)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


# --- what is drawn ---------------------------------------------------------------------------------------------------------------------


def _curves(found: Document, number: t.Optional[int]) -> list[Curve]:
    """Return the curves of *found*; *number*: which of several results it is, the first being the new one."""
    when = "" if number is None else f"{_results.subject(found)}, {found['date'].replace('T', ' ').replace('Z', ' UTC')}"
    by_label: dict[str, list[Series]] = {}
    for load in _results.loads(found):
        if _drawable(load):
            by_label.setdefault(load.label, []).append(load)
    return [Curve(", ".join(word for word in (label, when) if word) or _results.subject(found), group) for label, group in by_label.items()]


def _drawable(load: Series) -> bool:
    times = [load.median(f"{key}.{share}") for key in PANELS for share in SHARES]
    return load.median("request_throughput") is not None and times != [None] * len(times)


def _x(load: Series) -> float:
    return load.median("request_throughput") or 0.0


def _y_axis(values: t.Sequence[float], top: float) -> Scale:
    positive = [value for value in values if value > 0]
    bottom = top + PANEL_HEIGHT
    if positive and len(positive) == len(values) and max(positive) / min(positive) >= LOGARITHMIC_FROM:
        return Scale(log_ticks(min(positive), max(positive)), bottom, top, logarithmic=True)
    return Scale(nice_ticks(0, max(values, default=1.0)), bottom, top)


def _panel(key: str, title: str, curves: t.Sequence[Curve], x_axis: Scale, top: float) -> str:
    found = [load.median(f"{key}.{share}") for curve in curves for load in curve.loads for share in SHARES]
    y_axis = _y_axis([value for value in found if value is not None], top)
    bottom = top + PANEL_HEIGHT
    title += " (logarithmic)" if y_axis.logarithmic else ""
    lines = [f'<g class="panel" id="{key}">', _text(LEFT, top - 10, title, "start", "head")]
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        lines += [_line("grid", LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, f"{tick:g}", "end")]
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        lines += [_line("axis", x, bottom, x, bottom + 5), _text(x, bottom + 18, f"{tick:g}", "middle")]
    lines += [_line("axis", LEFT, bottom, WIDTH - RIGHT, bottom), _line("axis", LEFT, top, LEFT, bottom)]
    for number, curve in enumerate(curves):
        for share in reversed(SHARES):
            lines += _drawn(curve, f"{key}.{share}", f"{PANELS[key].split(',')[0]} {share}", share, number, x_axis, y_axis)
    return "\n".join([*lines, "</g>"])


def _drawn(curve: Curve, path: str, words: str, share: str, number: int, x_axis: Scale, y_axis: Scale) -> list[str]:
    """Return a line through the loads, and a dot with its figures in words at each."""
    places, dots = [], []
    for load in curve.loads:
        value = load.median(path)
        if value is None:
            continue
        x, y = x_axis.place(_x(load)), y_axis.place(value)
        places.append(f"{x:.1f},{y:.1f}")
        told = f"{curve.name}, {load.title}: {_results.figure(_x(load))} requests/s, {words} {_results.figure(value)} ms"
        dots.append(f'<circle class="dot {share}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{_escaped(told)}</title></circle>')
    if not places:
        return []
    colour = number % len(COLOURS)
    return [f'<g class="c{colour}">', f'<polyline class="curve {share}" points="{" ".join(places)}"/>', *dots, "</g>"]


def _legend(curves: t.Sequence[Curve], top: float) -> str:
    lines = ['<g id="legend">']
    for number, curve in enumerate(curves):
        y = top + number * LEGEND_LINE
        lines.append(f'<g class="c{number % len(COLOURS)}">{_line("curve", LEFT, y, LEFT + 28, y)}</g>')
        lines.append(_text(LEFT + 36, y + 4, curve.name, "start"))
    y = top + len(curves) * LEGEND_LINE
    for share, words, x in (("p50", "p50: half are faster", LEFT), ("p95", "p95: 19 of 20 are faster", LEFT + 200)):
        lines.append(f'<g class="plain">{_line(f"curve {share}", x, y, x + 28, y)}</g>')
        lines.append(_text(x + 36, y + 4, words, "start"))
    return "\n".join([*lines, "</g>"])


def _document(found: Document, curves: t.Sequence[Curve], height: float, bodies: t.Sequence[str]) -> t.Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" '
        'role="img" aria-labelledby="title desc">'
    )
    title = f"Latency against load: {_results.headline(found)}"
    yield f'<title id="title">{_escaped(title)}</title>'
    yield f'<desc id="desc">{_escaped(_in_words(curves))}</desc>'
    yield f"<style>{_style()}</style>"
    yield f'<rect class="page" width="{WIDTH}" height="{height:.0f}"/>'
    yield _text(LEFT, 22, title, "start", "head")
    yield from bodies
    yield "</svg>"


def _in_words(curves: t.Sequence[Curve]) -> str:
    """Return the figures of the picture for those who do not see it."""
    told = []
    for curve in curves:
        points = []
        for load in curve.loads:
            times = [
                f"{_results.TIMES[key]} {share} {_results.figure(value)} ms"
                for key in PANELS
                for share in SHARES
                for value in [load.median(f"{key}.{share}")]
                if value is not None
            ]
            points.append(f"{load.title}, {_results.figure(_x(load))} requests/s: {', '.join(times)}")
        told.append(f"{curve.name}: {'; '.join(points)}.")
    return " ".join(["Time to first token (TTFT) and between tokens (ITL) against requests answered per second.", *told])


def _style() -> str:
    def theme(dark: bool) -> str:
        page, text, grid, axis = ("#0d1117", "#e6edf3", "#30363d", "#9198a1") if dark else ("#ffffff", "#1f2328", "#d8dee4", "#59636e")
        colours = "".join(f".c{number}{{color:{pair[dark]}}}" for number, pair in enumerate(COLOURS))
        return (
            f".page{{fill:{page}}}text{{fill:{text}}}.grid{{stroke:{grid}}}.axis{{stroke:{axis}}}.plain{{color:{axis}}}"
            f".dot.p95{{fill:{page}}}{colours}"
        )

    return (
        "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif}text.head{font-weight:600}"
        ".curve{fill:none;stroke:currentColor;stroke-width:2}.curve.p95{stroke-dasharray:6 4}"
        f".dot{{fill:currentColor;stroke:currentColor;stroke-width:1.5}}{theme(False)}"
        f"@media (prefers-color-scheme:dark){{{theme(True)}}}"
    )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text{of_kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escaped(words)}</text>'


def _escaped(text: str) -> str:
    return html.escape(_CONTROL.sub(" ", text))
