# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The one exception type that modules turn into fail_json and filters into AnsibleFilterError."""

from __future__ import annotations

import difflib
import typing as t


class ServingError(Exception):
    """What a user is told: what was asked, what was found, what to do next, in one or two lines.

    ``details`` become return values of the module that failed.
    """

    def __init__(self, message: str, **details: t.Any) -> None:
        super().__init__(message)
        self.details = details


def did_you_mean(word: str, known: t.Iterable[str]) -> str:
    """Return `` (did you mean "x"?)`` for the closest of *known*, or an empty string."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""
