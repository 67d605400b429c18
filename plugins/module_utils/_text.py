# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Tables for people."""

from __future__ import annotations

import re
import typing as t

_BREAKS = re.compile(r"\s*[\x00-\x1f\x7f-\x9f\u2028\u2029]+\s*")


def one_line(text: str) -> str:
    """Return *text*, which a model may have written, as one line that does nothing to a terminal."""
    return _BREAKS.sub(" ", text).strip()


def aligned(rows: t.Sequence[t.Sequence[str]], left: t.Container[int] = (0,)) -> list[str]:
    """Return *rows*, equally long, as lines with their cells in columns: those of *left* flush left, the others, mostly numbers, right."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(padded(cell, width, place in left) for place, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in cells]


def padded(cell: str, width: int, left: bool) -> str:
    """Return *cell* with blanks behind it, or before it."""
    return cell.ljust(width) if left else cell.rjust(width)
