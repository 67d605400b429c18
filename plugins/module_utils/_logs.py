# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The line of a log that tells why a program ended."""

from __future__ import annotations

import os
import re
import typing as t

TAIL_BYTES = 65536
# Begins the line that a launch script writes before its program.
START_MARK = "=== start of"
LONGEST_LINE = 300
# How much of an error of many lines is looked at.
MOST_LINES = 16

# What vLLM writes before a message: "(EngineCore pid=130) ERROR 11-21 09:13:34 [core.py:1090] ", or only the part in brackets.
_PREFIX = re.compile(r"(?:\(\S+ pid=\d+\) )?(?:([A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d \[[^]]+\] )?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NAME = r"(?:\w+\.)*\w*(?:Error|Exception|NotFound|Timeout|OfflineModeIsEnabled|gaierror)"
# "ValueError: ...", "Something failed: torch.OutOfMemoryError: ...", or a name alone, as an assertion without a text has it, and
# errors of the hub, whose text begins two lines further down
_RAISED = re.compile(rf"(?:^|\s)({_NAME}: .+)$|^({_NAME}:?)$")
# "main.py: error: ..." of an argument parser, "ERROR:    ..." of uvicorn
_TOLD = re.compile(r"^(?:[\w. -]+: error|ERROR|error): +(\S.*)$")
# pydantic has the cause in the line below, and the settings, which can hold a secret, behind it
_INVALID = re.compile(r"ValidationError: \d+ validation errors? for ")
_SETTINGS = re.compile(r" \[type=\w+, input_value=.*$")
# The end of a program that raised nothing: a shell's words, the kernel's, a container runtime's. (A program that may not place its memory
# on NUMA nodes says so, and goes on.)
_BARE = re.compile(
    r"^(?:exec \S+: exec format error|Bus error|Segmentation fault|Illegal instruction|Fatal Python error: .+|thread '.*' panicked at .+"
    r"|.*nvidia-container-cli: .+|(?!INFO|WARNING|DEBUG|set_mempolicy)[\w./-]+: (?:.*: )?(?:Permission denied|Operation not permitted"
    r"|Read-only file system|No space left on device|exec format error|(?:command )?not found))",
    re.IGNORECASE,
)
# What Python writes between two errors of which the second came of the first.
_LINK = re.compile(r"^(?:The above exception was the direct cause of|During handling of the above exception, another exception)")
_SECRET = re.compile(r"\bhf_\w{8,}|(?<=Bearer )\S+|(--[\w-]*(?:key|token|secret|password)[ =])\S+", re.IGNORECASE)
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


def cause_in(log: str) -> str:
    """Return the decisive line of *log*: of the last start or, when that has not failed yet, of the one before."""
    starts = log.split(START_MARK)
    return next((cause for log in reversed(starts[-2:]) for cause in [decisive_line(log)] if cause), "")


def decisive_line(log: str) -> str:
    """Return the error in *log* that began its end: the last cause that is not an echo of another one; empty when there is none."""
    return next(iter(error_texts(log)), "").partition("\n")[0][:LONGEST_LINE]


def error_texts(log: str) -> list[str]:
    """Return the error that decisive_line names with the lines that belong to it, then those that it came of, the nearest first.

    Secrets are masked. Empty when there is no error.
    """
    errors, bare = _errors(log)
    told = [number for number, error in enumerate(errors) if not _ECHO.search(error.lines[0])]
    if any(_KILLED.search(error.lines[0]) for error in errors[told[-1] + 1 if told else 0 :]):
        return ["its process was killed (signal 9), as Linux does when memory runs out"]
    if not errors:
        return [_masked(bare)] if bare else []
    number = told[-1] if told else len(errors) - 1
    texts = [errors[number]]
    while errors[number].linked and number:
        number -= 1
        texts.append(errors[number])
    return [_masked("\n".join(error.lines)) for error in texts]


def _masked(text: str) -> str:
    return _SECRET.sub(lambda found: f"{found[1] or ''}***", text)


class _Error(t.NamedTuple):
    """The lines of an error; ``linked``: it came of the one before."""

    lines: list[str]
    linked: bool


def _errors(log: str) -> tuple[list[_Error], str]:
    """Return the errors of *log* as they came, and the last line that tells of an end without one."""
    errors: list[_Error] = []
    bare = ""
    unraisable = linked = inside = wanted = False
    for line in log.splitlines():
        message = _message(line)
        if message is None or message.startswith(("Traceback (most recent call last)", "Process ")):
            inside = wanted = False
            continue
        if message.startswith("Exception ignored in"):
            unraisable, inside = True, False  # what follows happened while Python cleaned up, and ended nothing
            continue
        if _LINK.search(message):
            linked, inside = True, False
            continue
        found = None if wanted else _RAISED.search(message) or _TOLD.search(message)
        if found and unraisable:
            unraisable = False
        elif found:
            text = next(filter(None, found.groups()))
            # pydantic's own line says only that there is something: the next one takes its place
            wanted = bool(_INVALID.search(text))
            errors.append(_Error([_SETTINGS.sub("", text).strip()], linked))
            linked, inside = False, True
        elif wanted and message.strip():
            errors[-1].lines[0] = _SETTINGS.sub("", message).strip()
            wanted = False
        elif inside and message.strip() and len(errors[-1].lines) < MOST_LINES:
            text = _SETTINGS.sub("", message).strip()
            if len(errors[-1].lines) == 1 and errors[-1].lines[0].endswith(":"):
                errors[-1].lines[0] += f" {text}"
            else:
                errors[-1].lines.append(text)
        elif _BARE.search(message):
            bare = message.strip()
    return errors, bare


def _message(line: str) -> t.Optional[str]:
    """Return *line* without what a logger writes before it; None when the logger says that it is no error."""
    line = _COLOUR.sub("", line)
    prefix = _PREFIX.match(line)
    if prefix is None or prefix[1] in ("DEBUG", "INFO", "WARNING"):
        return None
    return line[prefix.end() :].rstrip()
