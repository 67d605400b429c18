#!/usr/bin/env python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until the GPUs have the memory free that the engine takes at its start, then start it.

An engine that was stopped gives its memory back seconds later. One that starts meanwhile finds too little and dies. This never
prevents a start: when the time is up, or nvidia-smi does not answer, it says so and goes on, and the engine judges for itself.

It runs in the engine's own image or venv: it needs Python 3.9 and nvidia-smi.

    python3 wait_for_gpu.py --min-free-share 0.92 --timeout 120 -- vllm serve Qwen/Qwen3-8B
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import typing as t

LOOK_EVERY_S = 1.0
TELL_EVERY_S = 5.0
NO_ANSWER_S = 20.0
QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits")


class Gpu(t.NamedTuple):
    """A GPU as nvidia-smi tells it. Memory in MiB; None where it does not know, as of a GPU that shares the memory of the host."""

    number: int
    uuid: str
    total_mib: t.Optional[int]
    free_mib: t.Optional[int]

    def lacks(self, share: float) -> bool:
        """Whether less than *share* of its memory is free."""
        return self.total_mib is not None and self.free_mib is not None and self.free_mib < share * self.total_mib

    def line(self, share: float) -> str:
        """Return what to say while it is waited for."""
        total, free = self.total_mib or 0, self.free_mib or 0
        return f"GPU {self.number}: {free / 1024:.1f} of {total / 1024:.1f} GiB free, waiting for {share * total / 1024:.1f} GiB"


def parsed(text: str) -> list[Gpu]:
    """Return the GPUs that nvidia-smi lists in *text*. Raises ValueError."""
    found = []
    for line in text.strip().splitlines():
        index, uuid, total, free = (part.strip() for part in line.split(","))
        found.append(Gpu(int(index), uuid, *(int(part) if part.isdecimal() else None for part in (total, free))))
    return found


def visible(gpus: t.Sequence[Gpu], wanted: t.Optional[str]) -> list[Gpu]:
    """Return those of *gpus* that CUDA_VISIBLE_DEVICES (*wanted*: indexes or the beginnings of UUIDs) leaves, all without it.

    CUDA ends the list at the first entry that is no GPU; so ``-1`` hides them all. An entry for a part of a GPU (MIG) means none here.
    """
    if wanted is None:
        return list(gpus)
    found = []
    for entry in (part.strip() for part in wanted.split(",")):
        if entry.startswith("MIG-"):
            continue
        match = [gpu for gpu in gpus if entry and (str(gpu.number) == entry or (entry.startswith("GPU-") and gpu.uuid.startswith(entry)))]
        if len(match) != 1:
            break
        found += match
    return found


def ask() -> list[Gpu]:
    """Return the GPUs of this machine. Raises OSError, subprocess.SubprocessError or ValueError."""
    run = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=NO_ANSWER_S, stdin=subprocess.DEVNULL)
    if "No devices" in run.stdout:
        return []
    return parsed(run.stdout)


def why(exc: Exception) -> str:
    """Return in words why nvidia-smi tells nothing."""
    if isinstance(exc, FileNotFoundError):
        return "there is no nvidia-smi"
    if isinstance(exc, subprocess.TimeoutExpired):
        return f"nvidia-smi does not answer within {NO_ANSWER_S:g} s"
    if isinstance(exc, subprocess.CalledProcessError):
        said = (exc.stderr or exc.stdout or "").strip().splitlines()
        return f"nvidia-smi ended with {exc.returncode}" + (f" ({said[0][:120]})" if said else "")
    if isinstance(exc, ValueError):
        return "nvidia-smi answers something else than was asked"
    return f"nvidia-smi cannot be run ({getattr(exc, 'strerror', None) or exc})"


def wait(
    share: float,
    timeout_s: float,
    wanted: t.Optional[str],
    look: t.Callable[[], list[Gpu]] = ask,
    tell: t.Callable[[str], None] = print,
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> None:
    """Return when *share* of the memory of all visible GPUs is free, after *timeout_s* at the latest."""
    begun = clock()
    told: t.Optional[float] = None
    while True:
        try:
            lacking = [gpu for gpu in visible(look(), wanted) if gpu.lacks(share)]
        except (OSError, subprocess.SubprocessError, ValueError) as exc:
            tell(f"{why(exc)}: not waiting for free GPU memory")
            return
        now = clock()
        if not lacking:
            if told is not None:
                tell(f"the GPU memory is free after {now - begun:.0f} s")
            return
        if now - begun >= timeout_s:
            tell(f"GPU {lacking[0].number} still lacks free memory after {timeout_s:g} s: going on, the engine will judge")
            return
        if told is None or now - told >= TELL_EVERY_S:
            told = now
            for gpu in lacking:
                tell(gpu.line(share))
        sleep(min(LOOK_EVERY_S, timeout_s - (now - begun)))


def share_of(text: str) -> float:
    """Return *text* as a share. Raises ValueError."""
    share = float(text)
    if not 0 < share <= 1:
        raise ValueError
    return share


def main() -> int:
    """Wait, then become the command that is given, if one is."""
    parser = argparse.ArgumentParser(description="Wait until the GPUs have free memory, then start a command.")
    parser.add_argument("--min-free-share", type=share_of, required=True, help="of the memory of each visible GPU; more than 0, at most 1")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds after which it goes on whatever is free")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --, what to start")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    try:
        wait(
            options.min_free_share,
            options.timeout,
            os.environ.get("CUDA_VISIBLE_DEVICES"),
            tell=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        return 130
    if command:
        sys.stdout.flush()
        try:
            os.execvp(command[0], command)
        except OSError as exc:
            print(f"{command[0]} cannot be started: {exc.strerror}", file=sys.stderr)
            return 127
    return 0


if __name__ == "__main__":
    sys.exit(main())
