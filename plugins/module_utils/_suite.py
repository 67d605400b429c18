# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What lies between the probes of `make probe-suite` and `make benchmark`: who is asked next, what is kept, and the last lines."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

Map = t.Mapping[str, t.Any]

# So many different pieces of advice stand in the last lines.
MOST_ADVICE = 5

# What Ansible adds to the result of a task with a loop, or with failed_when.
_OF_THE_TASK = ("item", "ansible_loop_var", "ansible_loop", "ansible_index_var", "failed_when_result")


def targets(reports: t.Sequence[Map]) -> list[dict[str, t.Any]]:
    """Return the models that are worth asking for tool calls, out of the ``runtimes`` that runtime_probe has returned.

    Those are the ones that were asked anything, each once: what is not listed, or of a runtime that cannot be reached, is left out.
    ``name`` is what results call it, ``number`` the place of its runtime among *reports*, ``endpoint`` where that was asked.
    """
    if not isinstance(reports, (list, tuple)) or not all(isinstance(report, t.Mapping) for report in reports):
        raise ServingError("probe_targets needs the list runtimes of what runtime_probe returns.")
    several = sum(bool(report.get("enabled", True)) for report in reports) > 1
    found: dict[tuple[int, str], dict[str, t.Any]] = {}
    for number, report in enumerate(reports):
        for result in report.get("results") or []:
            model = str(result["model"])
            if result.get("asked"):
                name = f"{report['name']} {model}" if several else model
                found[number, model] = {"name": name, "model": model, "endpoint": report["endpoint"], "number": number}
    return list(found.values())


def runs(found: Map, probe: str, settings: t.Optional[Map] = None) -> list[dict[str, t.Any]]:
    """Return what a task with the module *probe* has *found* as runs of a document for serving_results.

    *found* is the result of the task, or of all turns of its loop. A turn is named as its item is, where that has a ``name``; turns without
    one are repetitions. Turns that were skipped are left out.
    """
    if not isinstance(found, t.Mapping):
        raise ServingError(f"result_runs needs what a task with {probe} has registered, not {type(found).__name__}.")
    turns = found["results"] if isinstance(found.get("results"), (list, tuple)) else [found]
    kept = []
    for turn in turns:
        if turn.get("skipped"):
            continue
        item = turn.get("item")
        result = {key: value for key, value in turn.items() if key not in _OF_THE_TASK}
        # with failed_when: false, only the message says that the module has failed
        result["failed"] = bool(turn.get("failed") or (turn.get("failed_when_result") is False and turn.get("msg")))
        name = {"name": item["name"]} if isinstance(item, t.Mapping) and item.get("name") else {}
        kept.append({"probe": probe, **name, "settings": dict(settings or {}), "result": result})
    return kept


def last_lines(kept: Map, found: t.Sequence[Map] = (), notes: t.Sequence[str] = ()) -> list[str]:
    """Return what a person reads at the end: the tables, the comparison, *notes*, and where it is *kept*, the return of serving_results.

    *found* are the runs of the document. What they advise stands last, and so does what got worse.
    """
    lines = list(kept["table"])
    if kept["comparison"]:
        lines += ["", *kept["comparison"]]
    lines += ["", *notes, f"Kept: {_near(kept['paths']['markdown'])}"]
    worse = (kept.get("counts") or {}).get("worse", 0)
    if worse:
        figures = "1 figure is" if worse == 1 else f"{worse} figures are"
        lines.append(f"{figures} worse than in {_near(kept['compared_with'])}, beyond noise: look above at what else differs.")
    return lines + advice(found)


def _near(path: str) -> str:
    """Return *path* as a person names it who stands where the run was started."""
    here = os.path.join(os.getcwd(), "")
    return path[len(here) :] if path.startswith(here) else path


def advice(found: t.Sequence[Map]) -> list[str]:
    """Return what to do about the tool calls that failed, a line for each piece of advice, and what kept a model from being asked."""
    told: dict[tuple[str, str], dict[str, list[str]]] = {}
    unasked = []
    for run in found:
        if run["probe"] != "tool_call_probe":
            continue
        result = run["result"]
        name = str(run.get("name") or result.get("model") or "")
        cases = [case for case in result.get("cases") or [] if not case.get("passed")]
        if result.get("failed") and not cases:
            unasked.append(f"{name}: {result.get('msg')}")
        for case in cases:
            if case.get("advice"):
                key = (str(case.get("stage")), str(case["advice"]))
                told.setdefault(key, {}).setdefault(name, []).append(str(case.get("name")))
    # what concerns most cases first, else in the order of the probes
    ordered = sorted(told.items(), key=lambda entry: -sum(map(len, entry[1].values())))
    lines = [f"{stage} in {_places(places)}. {words}" for (stage, words), places in ordered] + unasked
    more = len(lines) - MOST_ADVICE
    return [" ".join(line.split()) for line in lines[:MOST_ADVICE]] + ([f"And {more} more, see there."] if more > 0 else [])


def _places(places: t.Mapping[str, t.Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(cases)} of {name}" for name, cases in places.items())
