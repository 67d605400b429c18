# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/coverage.md names tests, files, make targets and variables that are there. Nothing is left to come."""

from __future__ import annotations

import ast
import functools
import re
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/coverage.md"
TEXT = PAGE.read_text(encoding="utf-8")
TEST = re.compile(r"`([\w./-]*test_\w+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")
VARIABLE = re.compile(r"\b((?:vllm|llm|open_webui|client_config)_[a-z0-9_]+)\b")
# Set once in the inventory for all roles, or names of others that begin like variables of ours.
OTHER_NAMES = {"llm_backend", "llm_bind_address", "llm_docker_host_network", "llm_platform", "llm_state_dir", "llm_min_gpu_memory_gb"}
METRICS = {"vllm_num_requests_waiting"}


class Row(t.NamedTuple):
    """A line of a table. ``there`` is what a document says, ``here`` what does it, ``shown`` what shows that."""

    there: str
    here: str
    shown: str


def rows() -> list[Row]:
    lines = [line for line in TEXT.splitlines() if line.startswith("|") and not line.startswith(("| There", "|---"))]
    return [Row(*(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])) for line in lines]


ROWS = rows()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.there[:50])


@functools.cache
def files_with_tests() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for folder in ("tests", "molecule") for path in (ROOT / folder).rglob("test_*.py")]


@functools.cache
def names_of_tests(file: str) -> set[str]:
    return {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)}


@functools.cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@functools.cache
def variables() -> set[str]:
    defaults = (yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/defaults/main.yml"))
    return {name for found in defaults for name in found} | OTHER_NAMES


def heading_anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_document_has_its_table() -> None:
    assert len(re.findall(r"^## [1-5]\. ", TEXT, re.MULTILINE)) == TEXT.count("| There | Here |") == 5
    assert len(ROWS) > 130


@each_row
def test_a_row_says_what_shows_it_or_why_not(row: Row) -> None:
    assert row.there
    assert row.here
    assert row.shown


@each_row
def test_tests_that_are_named_are_there(row: Row) -> None:
    for file, name in TEST.findall(row.shown):
        found = [path for path in files_with_tests() if path.endswith(f"/{file}")]
        assert len(found) == 1, f"{file} is {found or 'not there'}"
        assert not name or name in names_of_tests(found[0]), f"{found[0]} has no {name}"
    assert "test_" not in TEST.sub("", row.shown)


@each_row
def test_targets_and_variables_that_are_named_are_there(row: Row) -> None:
    assert set(re.findall(r"`make ([a-z-]+)", row.here)) <= targets()
    assert set(VARIABLE.findall(row.here)) - METRICS <= variables()


def test_links_lead_somewhere() -> None:
    for target, anchor in LINK.findall(TEXT):
        path = PAGE.parent / target if target else PAGE
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
        assert not anchor or anchor in {heading_anchor(heading) for heading in headings}, f"{target}#{anchor}"


def test_nothing_is_left_to_come() -> None:
    assert "TODO" not in TEXT
