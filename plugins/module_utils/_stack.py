# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""How the names of a stack differ from those of another one beside it."""

from __future__ import annotations

# The stack whose names are those of the documentation.
USUAL = "chat"


def stack_suffix(stack: str) -> str:
    """Return what the names of objects, units and containers of *stack* end with: nothing for "chat", ``-STACK`` for every other."""
    return "" if stack == USUAL else f"-{stack}"
