# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module writes of its progress."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._progress import Progress, duration


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time


def told(path: Path) -> list[t.Any]:
    return [tuple(json.loads(line).values()) for line in path.read_text().splitlines()]


def test_within_a_phase_little_is_told_and_a_new_one_always(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "progress"
    progress = Progress(str(path), clock.now)
    for moment, phase, text in (
        (0, "get", "1"),
        (0.1, "get", "2"),
        (0.49, "get", "3"),
        (0.5, "get", "4"),
        (0.6, "put", "5"),
        (0.7, "get", "6"),
        (1.1, "get", "7"),
    ):
        clock.time = 100 + moment
        progress.tell(phase, text)
    assert told(path) == [("get", "1"), ("get", "4"), ("put", "5"), ("get", "6")]


def test_what_is_waited_for_is_a_third_entry(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    Progress(str(path)).tell("pull", "pulling image x", "the registry cannot be reached")
    assert json.loads(path.read_text()) == {"phase": "pull", "text": "pulling image x", "note": "the registry cannot be reached"}


def test_a_text_is_one_line_and_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    path.write_text('{"phase": "a", "text": "before"}\n')
    Progress(str(path)).tell("b", 'Größe: "2"\nlines')
    assert told(path) == [("a", "before"), ("b", 'Größe: "2"\nlines')]


def test_without_a_file_nothing_is_told() -> None:
    progress = Progress()
    progress.tell("a", "text")
    assert progress.path is None


def test_a_file_that_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "progress"
    progress = Progress(str(path))
    progress.tell("a", "text")
    path.parent.mkdir()
    progress.tell("b", "text")
    assert not path.exists()


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0 s"), (0.4, "0 s"), (8.2, "8 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (3600, "60 min 0 s")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
