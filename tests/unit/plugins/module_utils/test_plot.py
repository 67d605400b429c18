"""The picture of latency against load."""

from __future__ import annotations

import copy
import json
import os
import re
import typing as t
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _plot, _results
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

FIXTURES = Path(__file__).parent / "fixtures" / "results"
SVG = "{http://www.w3.org/2000/svg}"


def recorded(**deployment: t.Any) -> dict[str, t.Any]:
    found = json.loads((FIXTURES / "benchmark.json").read_text())
    found["deployment"].update(deployment)
    return _results.document(found)


def loads(found: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    return t.cast("list[dict[str, t.Any]]", found["runs"][0]["result"]["loads"])


def panel(svg: str, key: str) -> ET.Element:
    (found,) = [group for group in ET.fromstring(svg).iter(f"{SVG}g") if group.get("id") == key]
    return found


def curves(group: ET.Element, share: str) -> list[list[tuple[float, float]]]:
    lines = [line for line in group.iter(f"{SVG}polyline") if line.get("class") == f"curve {share}"]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in (line.get("points") or "").split())] for line in lines]


def texts(group: ET.Element) -> list[str]:
    return [text.text or "" for text in group.iter(f"{SVG}text")]


def test_the_picture_is_as_recorded() -> None:
    svg = _plot.latency_against_load(recorded())
    if os.environ.get("GOLDEN_WRITE"):
        (FIXTURES / "benchmark.svg").write_text(svg)
    assert svg == (FIXTURES / "benchmark.svg").read_text()


def test_points_go_right_with_the_throughput_and_up_with_the_latency() -> None:
    svg = _plot.latency_against_load(recorded())
    for key in ("ttft_ms", "itl_ms"):
        group = panel(svg, key)
        ((*p50,), (*p95,)) = curves(group, "p50")[0], curves(group, "p95")[0]
        assert len(p50) == len(p95) == 4
        assert [x for x, _y in p50] == sorted(x for x, _y in p50) == [x for x, _y in p95]
        assert [y for _x, y in p50] == sorted((y for _x, y in p50), reverse=True)
        assert all(slow < fast for (_x, fast), (_x2, slow) in zip(p50, p95))


def test_a_line_follows_what_was_offered_even_where_the_throughput_falls() -> None:
    found = recorded()
    loads(found)[3]["request_throughput"] = 9.0
    loads(found).reverse()
    ((*points,),) = curves(panel(_plot.latency_against_load(found), "itl_ms"), "p50")
    assert [number for _x, number in sorted((x, number) for number, (x, _y) in enumerate(points))] == [0, 1, 3, 2]


def test_dots_stand_on_the_lines_and_tell_their_figures() -> None:
    group = panel(_plot.latency_against_load(recorded()), "ttft_ms")
    dots = [dot for dot in group.iter(f"{SVG}circle") if dot.get("class") == "dot p50"]
    assert [(float(dot.get("cx") or 0), float(dot.get("cy") or 0)) for dot in dots] == curves(group, "p50")[0]
    assert dots[1].findtext(f"{SVG}title") == "direct, rate 4/s: 3.98 requests/s, Time to first token p50 31.2 ms"


def test_an_axis_is_logarithmic_where_values_are_far_apart() -> None:
    svg = _plot.latency_against_load(recorded())
    assert "Time to first token, ms (logarithmic)" in texts(panel(svg, "ttft_ms"))
    assert {"20", "100", "10000"} & set(texts(panel(svg, "ttft_ms")))
    assert "Time between tokens, ms" in texts(panel(svg, "itl_ms"))
    assert "0" in texts(panel(svg, "itl_ms"))


def test_everything_is_inside_the_picture() -> None:
    root = ET.fromstring(_plot.latency_against_load(recorded(), [recorded(model="m" * 40)]))
    width, height = map(float, (root.get("viewBox") or "").split()[2:])
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name) or 0) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name) or 0) <= height


def test_it_is_told_in_words_and_holds_no_script() -> None:
    svg = _plot.latency_against_load(recorded())
    root = ET.fromstring(svg)
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", "title desc")
    assert root.findtext(f"{SVG}title") == "Latency against load: Benchmark of smoke, 2026-11-21 19:18:49 UTC"
    words = root.findtext(f"{SVG}desc") or ""
    assert "rate 64/s, 31.2 requests/s: TTFT p50 2140 ms, TTFT p95 5230 ms, ITL p50 31.0 ms, ITL p95 72.5 ms" in words
    assert {element.tag.replace(SVG, "") for element in root.iter()} == {
        *("svg", "title", "desc", "style", "rect", "text", "g", "line", "polyline", "circle"),
    }
    assert not re.search(r"script|\bon\w+=|href|url\(|@import", svg)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear))


def test_lines_and_words_can_be_read_on_white_and_on_dark() -> None:
    style = ET.fromstring(_plot.latency_against_load(recorded())).findtext(f"{SVG}style") or ""
    for theme in style.split("@media (prefers-color-scheme:dark)"):
        (page,) = re.findall(r"\.page\{fill:(#\w{6})\}", theme)
        inks = re.findall(r"\.c\d\{color:(#\w{6})\}", theme) + re.findall(r"(?:\}|\{)text\{fill:(#\w{6})\}", theme)
        assert len(inks) == len(_plot.COLOURS) + 1
        for ink in inks:
            light, dark = sorted((luminance(page), luminance(ink)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (page, ink)


def test_several_results_lie_over_each_other() -> None:
    older = recorded()
    older["date"] = "2026-11-20T08:00:00Z"
    svg = _plot.latency_against_load(recorded(), [older])
    assert len(curves(panel(svg, "itl_ms"), "p95")) == 2
    assert texts(panel(svg, "legend"))[:2] == ["direct, smoke, 2026-11-21 19:18:49 UTC", "direct, smoke, 2026-11-20 08:00:00 UTC"]
    colours = [group.get("class") for group in panel(svg, "itl_ms") if group.find(f"{SVG}polyline") is not None]
    assert colours == ["c0", "c0", "c1", "c1"]


def test_runs_of_one_result_are_curves_of_their_own_and_repetitions_are_not() -> None:
    found = recorded()
    found["runs"] += [{**copy.deepcopy(found["runs"][0]), "name": name} for name in ("router", "direct")]
    svg = _plot.latency_against_load(found)
    assert texts(panel(svg, "legend"))[:2] == ["direct", "router"]
    assert len(curves(panel(svg, "itl_ms"), "p50")) == 2


def test_loads_without_an_answer_are_left_out() -> None:
    found = recorded()
    for key in ("ttft_ms", "itl_ms"):
        loads(found)[2][key] = dict.fromkeys(("p50", "p95"))
    assert len(curves(panel(_plot.latency_against_load(found), "itl_ms"), "p50")[0]) == 3


def test_one_load_is_a_dot() -> None:
    found = recorded()
    del loads(found)[1:]
    assert len(curves(panel(_plot.latency_against_load(found), "ttft_ms"), "p50")[0]) == 1


def test_names_cannot_break_the_picture() -> None:
    found = recorded(model='<b>&"\x00\x1b]')
    found["runs"][0]["name"] = "a<b"
    root = ET.fromstring(_plot.latency_against_load(found))
    assert 'of <b>&" ' in (root.findtext(f"{SVG}title") or "")


def test_nothing_to_draw_is_said() -> None:
    suite = _results.document(json.loads((FIXTURES / "probe-suite.json").read_text()))
    assert not _plot.can_draw(suite)
    with pytest.raises(ServingError, match="nothing to draw"):
        _plot.latency_against_load(suite)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 31.2, [0, 10, 20, 30, 40]),
        (0, 72.5, [0, 20, 40, 60, 80]),
        (0, 0.31, [0, 0.1, 0.2, 0.3, 0.4]),
        (0, 6, [0, 1, 2, 3, 4, 5, 6]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (95, 105, [94, 96, 98, 100, 102, 104, 106]),
        (5, 5, [5, 6, 7, 8, 9, 10]),
    ],
)
def test_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert _plot.nice_ticks(low, high) == ticks


@pytest.mark.parametrize("high", [10.0**exponent * factor for exponent in range(-5, 8) for factor in (1, 1.0001, 3.3, 9.99)])
def test_ticks_enclose_what_is_shown(high: float) -> None:
    for ticks, low in ((_plot.nice_ticks(0, high), 0.0), (_plot.log_ticks(high / 70, high), high / 70)):
        assert ticks[0] <= low * 1.000001
        assert ticks[-1] >= high * 0.999999
        assert 2 <= len(ticks) <= 8
        assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (28.4, 5230, [10, 100, 1000, 10000]),
        (2, 100, [2, 5, 10, 20, 50, 100]),
        (0.5, 0.5, [0.5, 1]),
        (1, 30, [1, 2, 5, 10, 20, 50]),
        (0.011, 0.9, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]),
    ],
)
def test_logarithmic_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert _plot.log_ticks(low, high) == ticks
