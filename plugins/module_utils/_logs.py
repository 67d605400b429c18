# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The line of a log that tells why a program ended."""

from __future__ import annotations

import os
import re

TAIL_BYTES = 65536
# Begins the line that a launch script writes before its program.
START_MARK = "=== start of"
LONGEST_LINE = 300

# What vLLM writes before a message: "(EngineCore pid=130) ERROR 11-21 09:13:34 [core.py:1090] ", or only the part in brackets.
_PREFIX = re.compile(r"(?:\(\S+ pid=\d+\) )?(?:([A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d \[[^]]+\] )?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NAME = r"(?:\w+\.)*\w*(?:Error|Exception|NotFound|Timeout)"
# "ValueError: ...", "Something failed: torch.OutOfMemoryError: ...", or a name alone, as an assertion without a text has it
_RAISED = re.compile(rf"(?:^|\s)({_NAME}: .+)$|^({_NAME})$")
# "main.py: error: ..." of an argument parser, "ERROR:    ..." of uvicorn
_TOLD = re.compile(r"^(?:[\w. -]+: error|ERROR|error): +(\S.*)$")
# pydantic has the cause in the line below, and the settings, which can hold a secret, behind it
_INVALID = re.compile(r"ValidationError: \d+ validation errors? for ")
_SETTINGS = re.compile(r" \[type=\w+, input_value=.*$")
# Lines that only say that something else has failed before.
_ECHO = re.compile(
    r"See root cause above|see stack trace|check the (?:stack trace above|logs)|EngineDeadError|Failed core proc|Application startup failed"
    r"|Traceback \(most recent call last\)|died with exit code|died unexpectedly",
    re.IGNORECASE,
)
_KILLED = re.compile(r"Failed core proc\(s\): \{.*: -9\b|died with exit code -9\b")


def tail(path: str, size: int = TAIL_BYTES) -> str:
    """Return the last *size* bytes of the file at *path* as text; empty when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def cause_of_end(path: str) -> str:
    """Return the decisive line of the log at *path*: of the last start or, when that has not failed yet, of the one before."""
    starts = tail(path).split(START_MARK)
    return next((cause for log in reversed(starts[-2:]) for cause in [decisive_line(log)] if cause), "")


def decisive_line(log: str) -> str:
    """Return the error in *log* that began its end: the last cause that is not an echo of another one; empty when there is none."""
    cause = echo = ""
    unraisable = False
    lines = iter(log.splitlines())
    for line in lines:
        message = _message(line)
        if message.startswith("Exception ignored in"):
            unraisable = True  # what follows happened while Python cleaned up, and ended nothing
            continue
        found = _RAISED.search(message) or _TOLD.search(message)
        if not found:
            continue
        text = next(filter(None, found.groups()))
        if unraisable:
            unraisable = False
            continue
        if _INVALID.search(text):
            text = _message(next(lines, "")).strip() or text
        text = _SETTINGS.sub("", text).strip()
        if _ECHO.search(text):
            echo = text
        else:
            cause, echo = text, ""
    if _KILLED.search(echo):
        return "its process was killed (signal 9), as Linux does when memory runs out"
    return (cause or echo)[:LONGEST_LINE]


def _message(line: str) -> str:
    """Return *line* without what a logger writes before it; empty when the logger says that it is no error."""
    line = _COLOUR.sub("", line)
    prefix = _PREFIX.match(line)
    if prefix is None or prefix[1] in ("DEBUG", "INFO", "WARNING"):
        return ""
    return line[prefix.end() :].rstrip()
