# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the runner of recordings joins streams and judges answers, and that the recordings are complete. It needs no vLLM."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PARSERS = ROOT / "tests" / "parsers"
FAMILIES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((PARSERS / "recordings").glob("*.yml"))}
ROWS = yaml.safe_load((ROOT / "roles/vllm/vars/models.yml").read_text(encoding="utf-8"))["vllm_models"]
TOOLS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in yaml.safe_load((PARSERS / "tools.yml").read_text())["tools"]}
TOOL_CASES = {"one_call", "two_calls", "text_before_call", "nested_arguments", "quotes_and_braces", "no_call"}
THOUGHT_CASES = {"thought_and_answer", "thought_and_call", "no_thought"}


def parsers(source):
    return source.get("tool_call_parser"), source.get("reasoning_parser")


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_parsers", PARSERS / "run_parsers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the recordings ------------------------------------------------------------------------------------------------------------------


def test_the_runner_is_read_without_vllm(runner):
    assert "vllm" not in sys.modules


@pytest.mark.parametrize("row", [name for name, row in ROWS.items() if parsers(row) != (None, None)])
def test_the_parsers_of_every_row_are_recorded_together(row):
    assert parsers(ROWS[row]) in [parsers(family) for family in FAMILIES.values()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_every_case(family):
    spec = FAMILIES[family]
    cases = (TOOL_CASES if spec.get("tool_call_parser") else set()) | (THOUGHT_CASES if spec.get("reasoning_parser") else set())
    absent = set(spec.get("absent") or {})
    assert cases - absent <= set(spec["recordings"])
    assert not absent & set(spec["recordings"])
    assert set(spec["tokenizer"]) <= {"kind", "file", "end", "special", "added"}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, spec in FAMILIES.items() for name in spec["recordings"]])
def test_a_recording_says_what_it_expects(runner, family, name):
    recording = FAMILIES[family]["recordings"][name]
    assert set(recording) <= {"output", "prompt", "chat_template_kwargs", "ended", "reasoning", "content", "calls", "limits"}
    assert recording.get("calls") or recording.get("content") or recording.get("reasoning")
    assert set(recording.get("limits") or {}) <= set(runner.MODES)
    for call in recording.get("calls") or []:
        assert set(call["arguments"]) <= set(TOOLS[call["name"]]["properties"])
        assert set(TOOLS[call["name"]].get("required") or []) <= set(call["arguments"])


# --- streams -------------------------------------------------------------------------------------------------------------------------


def call(index, name=None, arguments=None, call_id=None):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{"index": index, "function": function, **({"id": call_id} if call_id else {})}]}


def test_the_deltas_of_a_stream_are_joined(runner):
    deltas = [
        {"reasoning": "Hm"},
        {"reasoning": "m."},
        None,
        {"content": "I lo"},
        {"content": "ok."},
        call(0, "get_weather", call_id="a"),
        call(0, arguments='{"city": '),
        {"tool_calls": [*call(0, arguments='"Paris"}')["tool_calls"], *call(1, "get_time", "{}", "b")["tool_calls"]]},
    ]
    expected = runner.Answer("Hmm.", "I look.", [("get_weather", '{"city": "Paris"}'), ("get_time", "{}")], [])
    assert runner.join(deltas) == expected


@pytest.mark.parametrize(
    ("deltas", "fault"),
    [
        ([call(1, "get_time", "{}", "a")], "a piece of call 1 comes after 0 calls"),
        ([call(0, arguments="{}", call_id="a"), call(0, "get_time")], "arguments of call 0 come before its name"),
        ([call(0, "get_time", "{}")], "call 0 has no id"),
    ],
)
def test_a_broken_stream_is_told(runner, deltas, fault):
    assert fault in runner.join(deltas).faults


def test_tokens_are_cut_into_pieces(runner):
    assert runner.cut([1, 2, 3, 4, 5, 6], 1, 2) == [[1], [2, 3], [4, 5], [6]]
    assert runner.cut([1, 2, 3, 4], 2, 2) == [[1, 2], [3, 4]]
    assert runner.cut([1, 2], 10, 10) == [[1, 2]]


def test_marks_are_parts_of_their_own(runner):
    assert runner.split_marks("a<x>b<x|y>", ["<x>", "<x|y>"]) == ["a", "<x>", "b", "<x|y>"]
    assert runner.split_marks("a", []) == ["a"]


# --- verdicts ------------------------------------------------------------------------------------------------------------------------

EXPECTED = {"reasoning": "Hm.", "content": "I look.", "calls": [{"name": "get_weather", "arguments": {"city": "北京"}}]}
RIGHT = ("Hm.\n", "\nI look.", [("get_weather", '{"city": "\\u5317京"}')])


def test_the_right_answer_passes_white_space_aside(runner):
    assert runner.problem(EXPECTED, runner.Answer(*RIGHT)) == ""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"calls": []}, "0 calls in place of 1, text"),
        ({"calls": [*RIGHT[2], *RIGHT[2]]}, "2 calls in place of 1"),
        ({"calls": [("get_time", "{}")]}, 'name "get_time" in place of get_weather'),
        ({"calls": [("get_weather", '{"city": ')]}, "the arguments are no JSON"),
        ({"calls": [("get_weather", '{"city": "Oslo"}')]}, "call 0: arguments"),
        ({"content": "<tool_call>"}, 'content "<tool_call>" in place of "I look."'),
        ({"reasoning": ""}, 'reasoning "" in place of "Hm."'),
        ({"faults": ["call 0 has no id"]}, "call 0 has no id"),
    ],
)
def test_a_wrong_answer_is_told(runner, wrong, words):
    assert words in runner.problem(EXPECTED, runner.Answer(*RIGHT)._replace(**wrong))


def test_a_known_limit_is_told_apart_from_a_failure_and_has_to_be_there(runner):
    recording = {**EXPECTED, "limits": {"token": "the parser drops the last brace"}}
    assert runner.verdict(recording, "token", "broken") == {"status": "limit", "found": "broken"}
    assert runner.verdict(recording, "whole", "broken") == {"status": "failed", "found": "broken"}
    assert runner.verdict(recording, "whole", "") == {"status": "passed"}
    gone = runner.verdict(recording, "token", "")
    assert gone["status"] == "failed"
    assert "drops the last brace" in gone["found"]


def results(runner, **families):
    return {"vllm": "1.2.3", "families": families}


def test_what_failed_is_counted_and_what_did_not_run_is_not_passed(runner):
    cells = {mode: {"status": "passed"} for mode in runner.MODES}
    families = {name: {"recordings": {}} for name in ("a", "b", "c")}
    families["a"]["absent"] = {"two_calls": "it makes one"}
    found = results(
        runner,
        a={"classes": ["A"], "recordings": {"one_call": {**cells, "token": {"status": "failed", "found": "0 calls"}}}},
        b={"not_run": "no tokenizer"},
        c={"refused": "TypeError: no mark"},
    )
    assert runner.failures(found) == ["a: one_call, token: 0 calls", "c: vLLM refuses its parsers: TypeError: no mark"]
    lines = runner.table(found, families)
    assert lines[-1] == "vLLM 1.2.3: 3 passed, 0 limit, 1 failed; 1 families not run"
    assert any("not run: no tokenizer" in line for line in lines)
    assert any("absent: it makes one" in line for line in lines)


def test_the_exit_code_is_that_of_the_recordings(runner, monkeypatch, tmp_path, capsys):
    cells = {mode: {"status": "passed"} for mode in runner.MODES}
    found = results(runner, hermes={"classes": ["A"], "recordings": {"one_call": cells}})
    monkeypatch.setattr(runner, "run", lambda families, tools: found if list(families) == ["hermes"] else None)
    target = tmp_path / "results.json"
    assert runner.main(["hermes", "--output", str(target)]) == 0
    assert json.loads(target.read_text()) == found
    cells["whole"] = {"status": "failed", "found": "0 calls"}
    assert runner.main(["hermes"]) == 1
    assert runner.main(["nobody"]) == 2
    assert "Known: " in capsys.readouterr().err
