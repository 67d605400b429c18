# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What a module that takes long tells the person who waits.

The module appends a JSON object a line to a file, ``{"phase": "download", "text": "vLLM: 62 of 131 packages"}``; the action plugin of
the same name follows that file and decides what is printed. A third entry, ``note``, says what is waited for meanwhile.
"""

from __future__ import annotations

import json
import time
import typing as t

# What the option of a module looks like that can tell its progress.
PROGRESS_ARGS: dict[str, t.Any] = {"progress_path": {"type": "path"}}


class Progress:
    """Writes to *path*; without one, nothing. A file that cannot be written never fails the work itself."""

    PAUSE_S = 0.5

    def __init__(self, path: t.Optional[str] = None, now: t.Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._now = now
        self._phase = ""
        self._told_at = float("-inf")

    def tell(self, phase: str, text: str, note: str = "") -> None:
        """Say *text*, and with *note* what is waited for.

        A new *phase* (a word that nobody reads) is always told, what follows in it at most twice a second.
        """
        now = self._now()
        if self.path is None or (phase == self._phase and now - self._told_at < self.PAUSE_S):
            return
        self._phase, self._told_at = phase, now
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"phase": phase, "text": text, **({"note": note} if note else {})}) + "\n")
        except OSError:
            self.path = None


def duration(seconds: float) -> str:
    """Return *seconds* as people say them: ``8 s``, ``2 min 5 s``."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
