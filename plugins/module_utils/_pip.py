# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What pip prints, read: how far it is, and why it failed."""

from __future__ import annotations

import os
import re
import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._progress import duration

# Before that, a rate of downloading is a guess.
RATE_AFTER_S = 3.0

_WHEEL = re.compile(r"\s+(?:Downloading|Using cached) \S+?(?P<metadata>\.metadata)? \((?P<size>[\d.]+) (?P<unit>bytes|kB|MB|GB)\)")
_PROCESSING = re.compile(r"Processing (?P<path>.+?\.whl)(?: \(from .*)?$")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_UNITS = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}

_NO_MATCH = "No matching distribution found for"
_UNREACHABLE = re.compile(
    r"connection broken by|Max retries exceeded|Could not fetch URL|Name or service not known|Temporary failure in name resolution|"
    r"(?:Connection|NameResolution|NewConnection|Proxy|SSL|ConnectTimeout|ReadTimeout|Protocol)Error\b|IncompleteRead|[Tt]imed out|"
    r"not enough bytes were received"
)
# the part of such a line that a person understands
_REASON = re.compile(
    r"\[Errno -?\d+\] [^'\")]+|\[SSL[^\]]*\] [^'\"()]+(?<! )|(?:Connect|Read) timed out|Tunnel connection failed: \d+ [^'\")]+|"
    r"too many \d+ error responses|\d{3} (?:Client|Server) Error: .+?(?= for url|$)"
)


class PipOutput:
    """What is known from the lines that pip prints: how many of ``total`` packages are here, and how many bytes."""

    def __init__(self, total: int, now: t.Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.looked_up = 0
        # pip may be run once for some of the packages, and then for the rest, after which unpacking is what people wait for
        self.last_run = True
        self.unpacking = False
        self._now = now
        self._here = 0
        self._bytes = 0
        self._current = 0
        self._current_size = 0
        self._since: t.Optional[float] = None

    @property
    def here(self) -> int:
        """Packages whose wheel has come, or needs not come."""
        return self._here - (self._current < self._current_size)

    @property
    def arrived_bytes(self) -> int:
        """Bytes that have come, also those that came from pip's cache or from this machine."""
        return self._bytes + self._current

    def hear(self, line: str) -> None:
        """Take one line."""
        progress, wheel, processing = _PROGRESS.match(line), _WHEEL.match(line), _PROCESSING.match(line)
        if progress:
            self._current, self._current_size = int(progress[1]), int(progress[2])
        elif wheel:
            size = int(float(wheel["size"]) * _UNITS[wheel["unit"]])
            self._next(size, is_package=not wheel["metadata"])
        elif processing:
            self.looked_up += 1
            self._next(_size(processing["path"]), is_package=True)
        elif line.startswith("Collecting "):
            self.looked_up += 1
        elif line.startswith("Requirement already satisfied: "):
            self.looked_up += 1
            self._here += 1
        elif line.startswith("Ignoring ") and ": markers " in line:
            self.total -= 1
        elif line.startswith("Installing collected packages"):
            self.unpacking = self.last_run

    def describe(self, unpacked: int, download_mib: int = 0) -> tuple[str, str]:
        """Return the phase and a line for people. *unpacked* packages stand in the environment; of *download_mib* 0 is unknown."""
        total = f"{self.total} package{'' if self.total == 1 else 's'}"
        if self.unpacking:
            return "unpack", f"unpacking, {min(unpacked, self.total)} of {total}"
        if not self._here:
            return "look up", f"looking up {self.looked_up} of {total}"
        text = f"downloading, {self.here} of {total}"
        mib = self.arrived_bytes // 2**20
        if mib >= download_mib:
            return "download", f"{text}, {mib} MiB"
        elapsed = self._now() - (self._since or 0.0) if self._since is not None else 0.0
        text += f", {mib} of about {download_mib} MiB"
        if elapsed >= RATE_AFTER_S and mib:
            text += f", about {duration((download_mib * 2**20 / self.arrived_bytes - 1) * elapsed)} left"
        return "download", text

    def _next(self, size: int, is_package: bool) -> None:
        # a small one is not followed by lines of progress, so it counts as come; the first line of progress takes that back
        self._bytes += self._current
        self._current = self._current_size = size
        self._here += is_package
        if is_package and self._since is None:
            self._since = self._now()


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def is_progress(line: str) -> bool:
    """Return whether *line* is one of the many that tell how far a download is."""
    return bool(_PROGRESS.match(line))


def without_passwords(line: str) -> str:
    """Return *line* with URLs as pip writes them most of the time: with stars for who logs in, and the password."""
    return re.sub(r"//[^/@\s]+@", "//****@", line)


def lacks(lines: t.Sequence[str]) -> bool:
    """Return whether pip reached its indexes, and none had a version that it was asked for."""
    text = "\n".join(lines)
    # an index that cannot be reached looks like an empty one
    return _NO_MATCH in text and not ("(from versions: none)" in text and _UNREACHABLE.search(text))


def unreachable(lines: t.Sequence[str]) -> str:
    """Return why an index could not be reached, and which ones there are; an empty string when that was not the cause."""
    line = next((line for line in lines if _UNREACHABLE.search(line)), "")
    if not line:
        return ""
    indexes = next((line.partition(": ")[2] for line in lines if line.startswith("Looking in indexes: ")), "PyPI")
    reason = _REASON.search(line)
    return f"{reason[0] if reason else line[:300]} (index: {indexes})"


def last_line(lines: t.Sequence[str]) -> str:
    """Return what pip gave as the cause: its last error, or else its last line."""
    errors = [line for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
    return next((line.replace("ERROR:", "").strip() for line in reversed(errors or lines) if line.strip()), "it printed nothing")[:300]
