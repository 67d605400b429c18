# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/parser-matrix.md is what its sources say, and these belong together."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _catalog

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def matrix():
    spec = importlib.util.spec_from_file_location("parser_matrix", ROOT / "scripts" / "parser_matrix.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(matrix):
    return matrix.load(matrix.PROBES)


def test_the_committed_page_is_up_to_date(matrix, capsys):
    assert matrix.main(["--check"]) == 0, capsys.readouterr().err


def test_check_fails_on_another_page_and_leaves_it(matrix, tmp_path, monkeypatch, capsys):
    page = tmp_path / "parser-matrix.md"
    page.write_text("old")
    monkeypatch.setattr(matrix, "PAGE", page)
    assert matrix.main(["--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert page.read_text() == "old"
    assert matrix.main([]) == 0
    assert matrix.main(["--check"]) == 0


def test_the_catalog_takes_the_parsers_that_vllm_declares(sources):
    assert set(sources.registry["tool_call_parsers"]) == set(_catalog.TOOL_CALL_PARSERS)
    assert set(sources.registry["reasoning_parsers"]) == set(_catalog.REASONING_PARSERS)


def test_the_results_are_of_the_recordings_that_are_there_and_nothing_failed(matrix, sources):
    assert sources.results["vllm"] == sources.registry["vllm"]
    assert set(sources.results["families"]) == set(sources.families)
    for name, family in sources.families.items():
        found = sources.results["families"][name]["recordings"]
        assert set(found) == set(family["recordings"]), name
        for recording, modes in found.items():
            limits = family["recordings"][recording].get("limits") or {}
            expected = {mode: "limit" if mode in limits else "passed" for mode in matrix.MODES}
            assert {mode: cell["status"] for mode, cell in modes.items()} == expected, (name, recording)


def test_every_row_with_a_parser_stands_in_the_overview(matrix, sources):
    page = "\n".join(line[3] for line in matrix.overview(sources))
    for name, row in sources.rows.items():
        assert (f"`{name}`" in page) == (matrix.pair(row) != (None, None)), name


def test_what_was_not_run_is_not_shown_as_passed(matrix, sources):
    families = {name: {"not_run": "no | tokenizer"} for name in sources.families}
    page = matrix.render(sources._replace(results={"vllm": "1.2.3", "families": families}))
    assert "not run: no \\| tokenizer" in page
    assert " of 7" not in page


def test_kept_results_of_probes_stand_in_the_page(matrix, tmp_path):
    cases = [{"name": "auto", "passed": True}, {"name": "auto_stream", "passed": False, "stage": "call-as-text"}]
    document = {
        "date": "2026-11-21T19:18:49Z",
        "deployment": {
            "model": "smoke",
            "vllm_version": "0.32.0",
            "flags": ["--enable-auto-tool-choice", "--tool-call-parser", "pythonic"],
        },
        "runs": [
            {"probe": "tool_call_probe", "result": {"model": "smoke", "score": 0.5, "cases": cases}},
            {"probe": "runtime_probe", "result": {}},
        ],
    }
    (tmp_path / "one.json").write_text(json.dumps(document))
    sources = matrix.load(tmp_path)
    line = "| smoke | `pythonic` | 0.32.0 | 2026-11-21 | 50 % | 1 of 2 | call-as-text: auto_stream |"
    assert line in matrix.render(sources)
    assert len(list(matrix.measured(sources))) == 1


@pytest.mark.parametrize(
    ("flags", "value"),
    [(["--a", "1", "--b", "2"], "2"), (["--b=2"], "2"), (["--b"], ""), (["--c", "2"], "")],
)
def test_the_value_of_a_flag(matrix, flags, value):
    assert matrix.flag(flags, "--b") == value
