"""What is better or worse than before, and what is noise."""

from __future__ import annotations

import copy
import json
import math
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _comparison, _results
from ansible_collections.llmops.serving.plugins.module_utils._comparison import Change
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._results import Metric

FIXTURES = Path(__file__).parent / "fixtures" / "results"
Edit = t.Callable[[dict[str, t.Any]], t.Any]


def recorded(name: str = "benchmark", edit: t.Optional[Edit] = None) -> dict[str, t.Any]:
    found: dict[str, t.Any] = json.loads((FIXTURES / f"{name}.json").read_text())
    if edit:
        edit(found)
    return _results.document(found)


def loads(found: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    return t.cast("list[dict[str, t.Any]]", found["runs"][0]["result"]["loads"])


def slower(number: int, factor: float, key: str = "ttft_ms", share: str = "p50") -> Edit:
    def edit(found: dict[str, t.Any]) -> None:
        loads(found)[number][key][share] *= factor

    return edit


def verdicts(changes: t.Iterable[Change]) -> dict[str, str]:
    return {change.name: change.verdict for change in changes}


# --- properties ------------------------------------------------------------------------------------------------------------------------

EDITS: dict[str, Edit] = {
    "slower": slower(1, 1.5),
    "faster": slower(2, 0.5, "itl_ms", "p95"),
    "just beyond": slower(0, 1.101),
    "within": slower(0, 1.099),
    "less": lambda found: loads(found)[0].update(request_throughput=0.5),
    "failed": lambda found: loads(found)[1].update(completed=90, input_tokens=90 * 128, output_tokens=90 * 64),
    "a load less": lambda found: loads(found).pop(),
    "another gpu": lambda found: found["deployment"].update(gpu="NVIDIA H200"),
    "another name": lambda found: found["runs"][0].update(name="router"),
    "nothing": lambda found: loads(found)[0]["ttft_ms"].update(p50=0.0),
    "repeated": lambda found: found["runs"].extend(copy.deepcopy(found["runs"][:1] * 2)),
}


@pytest.mark.parametrize("name", ["benchmark", "probe-suite"])
def test_a_result_is_the_same_as_itself(name: str) -> None:
    found = recorded(name)
    changes = _comparison.compare(found, found)
    figures = [change for change in changes if change.verdict != _comparison.DOUBTFUL]
    assert {change.verdict for change in figures} == {"same"}
    assert len(figures) == len(_results.metrics(found))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_swapped_results_swap_better_and_worse(edit: Edit) -> None:
    one, other = recorded(), recorded(edit=edit)
    swapped = {"worse": "better", "better": "worse", "only old": "only new", "only new": "only old"}
    there, back = verdicts(_comparison.compare(one, other)), verdicts(_comparison.compare(other, one))
    assert back == {name: swapped.get(verdict, verdict) for name, verdict in there.items()}


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("slower", {"direct rate 4/s: TTFT p50": "worse"}),
        ("faster", {"direct rate 16/s: ITL p95": "better"}),
        ("just beyond", {"direct rate 1/s: TTFT p50": "worse"}),
        ("within", {}),
        ("less", {"direct rate 1/s: requests/s": "worse"}),
        ("failed", {"direct rate 4/s: requests answered": "worse"}),
        ("nothing", {"direct rate 1/s: TTFT p50": "better"}),
        ("another gpu", {"GPU": "differs"}),
        ("another name", {"Run of serving_benchmark": "differs"}),
        ("repeated", {}),
    ],
)
def test_what_one_edit_changes(edit: str, expected: dict[str, str]) -> None:
    changes = _comparison.compare(recorded(), recorded(edit=EDITS[edit]))
    assert {change.name: change.verdict for change in changes if change.verdict not in ("same", "doubtful")} == expected


# --- noise -----------------------------------------------------------------------------------------------------------------------------


def metric(*samples: float, answers: int = 100) -> Metric:
    return Metric(sorted(samples)[len(samples) // 2], "ms", "lower", samples, answers)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (metric(10.0), metric(10.0), 0.10),
        (metric(10.0, answers=9), metric(10.0), 0.30),
        (metric(10.0, 10.0, 10.0), metric(10.0, 10.0, 10.0), 0.05),
        (metric(10.0, 10.0, 10.0), metric(10.0, 10.0), 0.10),
        (metric(9.0, 10.0, 11.0), metric(10.0, 10.0, 10.0), 0.30),
        (metric(10.0), metric(8.0, 10.0, 12.0), 0.60),
        (metric(9.0, 10.0, 11.0, answers=3), metric(10.0, 10.0, 10.0, answers=3), 0.30),
        (metric(0.0, 0.0, 0.0), metric(0.0, 0.0, 0.0), 0.05),
    ],
)
def test_noise(old: Metric, new: Metric, expected: float) -> None:
    assert _comparison.noise(old, new) == pytest.approx(expected)


def repeated(*factors: float) -> Edit:
    def edit(found: dict[str, t.Any]) -> None:
        runs = [copy.deepcopy(found["runs"][0]) for _factor in factors]
        for run, factor in zip(runs, factors):
            run["result"]["loads"][0]["ttft_ms"]["p50"] *= factor
        found["runs"] = runs

    return edit


def test_repetitions_that_agree_show_a_smaller_difference() -> None:
    found = {
        change.name: change
        for change in _comparison.compare(recorded(edit=repeated(1, 1, 1.01)), recorded(edit=repeated(1.07, 1.07, 1.06)))
    }
    change = found["direct rate 1/s: TTFT p50"]
    assert (change.verdict, change.noise, change.share) == ("worse", 0.05, 0.07)


def test_repetitions_that_differ_hide_a_greater_one() -> None:
    found = verdicts(_comparison.compare(recorded(edit=repeated(0.9, 1, 1.1)), recorded(edit=repeated(1.2, 1.25, 1.3))))
    assert found["direct rate 1/s: TTFT p50"] == "same"


# --- shares of passes ------------------------------------------------------------------------------------------------------------------


def exact(passed_a: int, tried_a: int, passed_b: int, tried_b: int) -> float:
    """Count the ways in whole numbers."""
    passed = passed_a + passed_b
    ways = {a: math.comb(tried_a, a) * math.comb(tried_b, passed - a) for a in range(max(0, passed - tried_b), min(passed, tried_a) + 1)}
    return sum(count for count in ways.values() if count <= ways[passed_a]) / math.comb(tried_a + tried_b, passed)


@pytest.mark.parametrize(
    "counts",
    [(3, 4, 1, 4), (10, 10, 5, 10), (1, 10, 9, 10), (8, 10, 3, 12), (5, 5, 5, 5), (0, 7, 0, 3), (6, 6, 0, 1), (400, 400, 388, 400)],
)
def test_fisher(counts: tuple[int, int, int, int]) -> None:
    assert _comparison.fisher(*counts) == pytest.approx(exact(*counts))
    assert _comparison.fisher(*counts[2:], *counts[:2]) == pytest.approx(exact(*counts))


def test_fisher_on_the_lady_tasting_tea_and_on_many_answers() -> None:
    assert _comparison.fisher(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert _comparison.fisher(100000, 100000, 99000, 100000) < 1e-9


def passing(name: str, rate: float, tries: int) -> Edit:
    def edit(found: dict[str, t.Any]) -> None:
        for case in found["runs"][0]["result"]["cases"]:
            if case["name"] == name:
                case.update(pass_rate=rate, tries=tries, passed=rate == 1, skipped=False)

    return edit


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((1.0, 1), (0.0, 1), "worse"),
        ((0.0, 3), (1.0, 3), "better"),
        ((1.0, 3), (0.6667, 3), "same"),
        ((1.0, 10), (0.6, 10), "same"),
        ((1.0, 10), (0.5, 10), "worse"),
        ((0.5, 10), (1.0, 10), "better"),
    ],
)
def test_passes(old: tuple[float, int], new: tuple[float, int], verdict: str) -> None:
    changes = _comparison.compare(recorded("probe-suite", passing("auto", *old)), recorded("probe-suite", passing("auto", *new)))
    assert verdicts(changes)["smoke auto: passed"] == verdict


def test_a_total_over_other_cases_is_not_compared() -> None:
    def without(found: dict[str, t.Any]) -> None:
        del found["runs"][0]["result"]["cases"][2:]

    found = verdicts(_comparison.compare(recorded("probe-suite", without), recorded("probe-suite")))
    assert "smoke all cases: passed" not in found
    assert found["smoke required: passed"] == "only new"


# --- conditions ------------------------------------------------------------------------------------------------------------------------


def conditions(edit: Edit) -> dict[str, tuple[str, str]]:
    changes = _comparison.compare(recorded(), recorded(edit=edit))
    return {change.name: (change.old, change.new) for change in changes if change.verdict == "differs"}


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda found: found["deployment"].update(image_digest=None), {"Image digest": ("sha256:" + "3f" * 32, "not known")}),
        (lambda found: found["deployment"].update(rack="b2"), {"rack": ("not known", "b2")}),
        (
            lambda found: found["deployment"].update(flags=["--max-num-seqs", "64", "--max-model-len=8192", "--enforce-eager"]),
            {
                "Flag --max-num-seqs": ("16", "64"),
                "Flag --enable-prefix-caching": ("set", "not set"),
                "Flag --enforce-eager": ("not set", "set"),
            },
        ),
        (lambda found: found["runs"][0]["settings"].update(output_tokens=256), {"direct output_tokens": ("64", "256")}),
        (
            lambda found: loads(found)[0].update(rate=2),
            {"Load direct rate 1/s": ("rate 1/s", "rate 2/s")},
        ),
        (
            lambda found: loads(found)[2].update(output_tokens=200 * 96),
            {"Tokens of direct rate 16/s": ("prompt 128, answer 64", "prompt 128, answer 96")},
        ),
        (lambda found: loads(found)[2].update(output_tokens=200 * 66), {}),
    ],
)
def test_other_conditions(edit: Edit, expected: dict[str, tuple[str, str]]) -> None:
    assert conditions(edit) == expected


def test_goodput_for_another_objective_is_not_compared() -> None:
    def edit(found: dict[str, t.Any]) -> None:
        for load in loads(found):
            load["goodput"] = {"objective": {"ttft_ms": 500, "itl_ms": 50}, "requests_per_s": 0.1}

    assert conditions(edit) == {"Objective of the goodput": ("ttft_ms 200", "ttft_ms 500, itl_ms 50")}
    assert not [name for name in verdicts(_comparison.compare(recorded(), recorded(edit=edit))) if name.endswith(": goodput")]


def test_two_models_are_compared_with_each_other() -> None:
    def other(found: dict[str, t.Any]) -> None:
        found["deployment"]["model"] = found["runs"][0]["name"] = "qwen"
        found["runs"][0]["result"]["cases"][0].update(pass_rate=0.0, passed=False)

    changes = _comparison.compare(recorded("probe-suite"), recorded("probe-suite", other))
    assert [change[:4] for change in changes if change.verdict == "differs"] == [
        ("differs", "Model", "smoke", "qwen"),
        ("differs", "Run of tool_call_probe", "smoke", "qwen"),
    ]
    assert verdicts(changes)["auto: passed"] == "worse"
    assert not [change for change in changes if change.verdict.startswith("only")]


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ServingError, match="A benchmark cannot be compared with a probe-suite"):
        _comparison.compare(recorded("probe-suite"), recorded())


# --- lines -----------------------------------------------------------------------------------------------------------------------------


def test_lines_name_conditions_first_and_the_worst_before_the_rest() -> None:
    def edit(found: dict[str, t.Any]) -> None:
        found["deployment"]["gpu"] = "NVIDIA H200"
        slower(0, 1.3)(found)
        slower(1, 3.0, "itl_ms", "p95")(found)
        slower(2, 0.5, "e2e_ms")(found)
        EDITS["failed"](found)
        loads(found)[3].update(name="rate 128/s", rate=128, client={"limited": False})

    lines = _comparison.comparison(recorded(), recorded(edit=edit))
    assert lines[0] == "Against Benchmark of smoke, 2026-11-21 19:18:49 UTC:"
    assert [line.split("  ")[0] for line in lines[1:-1]] == [
        *("differs", "doubtful", "worse", "worse", "worse", "better", "only old", "only new"),
    ]
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "differs GPU NVIDIA L4 -> NVIDIA H200",
        "doubtful direct rate 64/s the client was the bottleneck (old: it used 95% of one core, which is all that one process has)",
        "worse direct rate 4/s: requests answered 100 of 100 -> 90 of 100 (by chance: p = 0.0015)",
        "worse direct rate 4/s: ITL p95 11.9 ms -> 35.7 ms +200 % (noise up to 10 %)",
        "worse direct rate 1/s: TTFT p50 28.4 ms -> 36.9 ms +30 % (noise up to 10 %)",
        "better direct rate 16/s: E2E p50 760 ms -> 380 ms -50 % (noise up to 10 %)",
        "only old direct rate 64/s 10 figures",
        "only new direct rate 128/s 10 figures",
        "3 worse, 1 better, 26 within noise",
    ]


def test_figures_stand_in_columns() -> None:
    def edit(found: dict[str, t.Any]) -> None:
        slower(3, 20, "e2e_ms")(found)
        slower(0, 2)(found)

    worse = [line for line in _comparison.comparison(recorded(), recorded(edit=edit)) if line.startswith("worse")]
    assert worse == [
        "worse     direct rate 64/s: E2E p50  4120 ms -> 82400 ms  +1900 %  (noise up to 10 %)",
        "worse     direct rate 1/s: TTFT p50  28.4 ms -> 56.8 ms   +100 %   (noise up to 10 %)",
    ]


def test_one_doubt_about_both_results_is_told_once() -> None:
    (line,) = [line for line in _comparison.comparison(recorded(), recorded()) if line.startswith("doubtful")]
    assert line.endswith("the client was the bottleneck (old and new: it used 95% of one core, which is all that one process has)")


def test_lines_of_the_same_result_only_count() -> None:
    found = recorded("probe-suite")
    assert _comparison.comparison(found, found) == [f"0 worse, 0 better, {len(_results.metrics(found))} within noise"]
