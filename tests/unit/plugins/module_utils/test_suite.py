# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is asked next, what is kept of what tasks have registered, and the last lines."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.filter import probe_targets, result_lines, result_runs
from ansible_collections.llmops.serving.plugins.module_utils import _results, _suite
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

targets = probe_targets.FilterModule().filters()["probe_targets"]
runs = result_runs.FilterModule().filters()["result_runs"]
lines = result_lines.FilterModule().filters()["result_lines"]


def report(name: str, *asked: tuple[str, int], enabled: bool = True) -> dict[str, t.Any]:
    results = [{"model": model, "prompt": "latency", "asked": count} for model, count in asked]
    return {"name": name, "endpoint": f"http://{name}", "enabled": enabled, "results": results}


def test_models_that_were_asked_are_asked_for_tool_calls_once() -> None:
    found = targets([report("off", enabled=False), report("vllm", ("smoke", 6), ("smoke", 6), ("lost", 0)), report("off2", enabled=False)])
    assert found == [{"name": "smoke", "model": "smoke", "endpoint": "http://vllm", "number": 1}]


def test_models_of_several_runtimes_are_told_apart() -> None:
    found = targets([report("vllm", ("smoke", 6)), report("down"), report("ollama", ("smoke", 1), ("llama", 6))])
    assert [(target["name"], target["number"]) for target in found] == [("vllm smoke", 0), ("ollama smoke", 2), ("ollama llama", 2)]


def test_what_is_no_list_of_runtimes_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="the list runtimes of what runtime_probe returns"):
        targets({"runtimes": []})


CASES = [
    {"name": "auto", "passed": True, "pass_rate": 1.0, "tries": 3, "stage": "ok", "advice": ""},
    {"name": "named", "passed": False, "pass_rate": 0.0, "tries": 3, "stage": "wrong-name", "advice": "Take another model."},
    {"name": "parallel", "passed": False, "pass_rate": 0.0, "tries": 3, "stage": "too-few-calls", "advice": "One call at a time."},
    {"name": "parallel_stream", "passed": False, "pass_rate": 0.0, "tries": 3, "stage": "too-few-calls", "advice": "One call at a time."},
    {"name": "nested", "passed": False, "pass_rate": 0.0, "tries": 3, "stage": "no-call", "advice": ""},
]


def turn(name: str, **result: t.Any) -> dict[str, t.Any]:
    """A turn of a loop with failed_when: false, as Ansible registers it."""
    return {"item": {"name": name}, "ansible_loop_var": "item", "failed": False, "failed_when_result": False, "changed": False, **result}


def loop(*turns: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"results": list(turns), "changed": False, "msg": "All items completed"}


def test_turns_of_a_loop_are_runs_with_the_names_of_their_items() -> None:
    found = runs(loop(turn("a", model="smoke", cases=CASES), turn("b", msg="Nobody answers.")), "tool_call_probe", {"tries": 3})
    assert [(run["name"], run["settings"], run["result"]["failed"]) for run in found] == [
        ("a", {"tries": 3}, False),
        ("b", {"tries": 3}, True),
    ]
    kept = _results.document({"kind": "probe-suite", "runs": found})
    assert kept["runs"][0]["result"] == {"model": "smoke", "cases": CASES}
    assert kept["runs"][1]["result"] == {"msg": "Nobody answers.", "failed": True}


def test_turns_without_a_name_are_repetitions() -> None:
    rounds = [{"item": number, "ansible_loop_var": "item", "failed": number == 2, "loads": []} for number in (1, 2)]
    found = runs(loop(*rounds, {"item": 3, "skipped": True}), "serving_benchmark")
    assert [run.get("name") for run in found] == [None, None]
    assert [run["result"]["failed"] for run in found] == [False, True]
    assert "item" not in found[0]["result"]


def test_a_task_without_a_loop_is_one_run() -> None:
    assert [run["result"]["ok"] for run in runs({"ok": True, "runtimes": []}, "runtime_probe")] == [True]
    assert runs({"skipped": True, "changed": False}, "runtime_probe") == []


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="what a task with runtime_probe has registered, not list"):
        runs([], "runtime_probe")
    with pytest.raises(ServingError, match="not str"):
        _suite.runs(t.cast("t.Any", "text"), "runtime_probe")


def kept(**more: t.Any) -> dict[str, t.Any]:
    return {
        "table": ["Head", "Row"],
        "comparison": [],
        "counts": None,
        "compared_with": None,
        "paths": {"markdown": "results/x.md"},
        **more,
    }


def test_the_path_stands_last_when_all_is_well() -> None:
    assert lines(kept(), notes=["A note."]) == ["Head", "Row", "", "A note.", "Kept: results/x.md"]
    passed = runs(loop(turn("smoke", cases=CASES[:1])), "tool_call_probe")
    assert lines(kept(comparison=["0 worse"], counts={"worse": 0}), passed)[-3:] == ["0 worse", "", "Kept: results/x.md"]


def test_what_got_worse_stands_last() -> None:
    told = lines(kept(comparison=["worse ...", "2 worse"], counts={"worse": 2}, compared_with="results/w.json"))
    assert told[-1] == "2 figures are worse than in results/w.json, beyond noise: look above at what else differs."
    assert told[-2] == "Kept: results/x.md"
    assert lines(kept(counts={"worse": 1}, compared_with="results/w.json"))[-1].startswith("1 figure is worse")


def test_advice_stands_last_what_concerns_most_cases_first() -> None:
    turns = [turn("smoke", cases=CASES), turn("lost", msg="Nobody\nanswers."), turn("llama", cases=CASES[2:3])]
    found = runs(loop(*turns), "tool_call_probe") + runs({"runtimes": [], "msg": "not this"}, "runtime_probe")
    assert lines(kept(), found)[-4:] == [
        "Kept: results/x.md",
        "too-few-calls in parallel, parallel_stream of smoke; parallel of llama. One call at a time.",
        "wrong-name in named of smoke. Take another model.",
        "lost: Nobody answers.",
    ]


def test_much_advice_is_counted() -> None:
    found = runs(loop(*[turn(f"model {number}", msg=f"No {number}.") for number in range(8)]), "tool_call_probe")
    told = lines(kept(), found)
    assert told[-2:] == ["model 4: No 4.", "And 3 more, see there."]
