# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for free GPU memory, on a clock that only the test moves, and with an nvidia-smi that the test writes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "roles/vllm/files/wait_for_gpu.py"
spec = importlib.util.spec_from_file_location("wait_for_gpu", SCRIPT)
wait_for_gpu = importlib.util.module_from_spec(spec)
sys.modules["wait_for_gpu"] = wait_for_gpu
spec.loader.exec_module(wait_for_gpu)

FIRST, SECOND = "GPU-1b2c0000-aaaa", "GPU-1b2d0000-bbbb"
TOTAL = 81559
LOW, HIGH = 12595, 81000


def gpus(*free: int) -> list[t.Any]:
    return [wait_for_gpu.Gpu(index, uuid, TOTAL, mib) for index, (uuid, mib) in enumerate(zip((FIRST, SECOND), free))]


def waited(looks: list[t.Any], share: float = 0.92, timeout_s: float = 120, wanted: t.Optional[str] = None) -> tuple[list[str], float]:
    """Return the lines that were told and the seconds that it took; the last of *looks* is seen for ever."""
    now, lines = [0.0], []

    def look() -> t.Any:
        seen = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(seen, Exception):
            raise seen
        return seen

    wait_for_gpu.wait(
        share, timeout_s, wanted, look, lines.append, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds)
    )  # fmt: skip
    return lines, now[0]


def test_free_gpus_are_not_waited_for() -> None:
    assert waited([gpus(HIGH, HIGH)]) == ([], 0)


def test_a_gpu_is_waited_for_until_it_is_free() -> None:
    looks = [gpus(HIGH, LOW)] * 7 + [gpus(HIGH, HIGH)]
    line = "GPU 1: 12.3 of 79.6 GiB free, waiting for 73.3 GiB"
    assert waited(looks) == ([line, line, "the GPU memory is free after 7 s"], 7)


def test_it_goes_on_when_the_time_is_up() -> None:
    lines, seconds = waited([gpus(LOW)], timeout_s=12.5)
    assert seconds == 12.5
    assert len(lines) == 4
    assert lines[-1] == "GPU 0 still lacks free memory after 12.5 s: going on, the engine will judge"


@pytest.mark.parametrize(
    ("wanted", "is_waited_for"),
    [
        (None, True),
        ("0,1", True),
        ("1", True),
        ("0", False),
        (SECOND, True),
        (FIRST, False),
        ("GPU-1b2d", True),
        ("GPU-1b", False),
        ("", False),
        ("-1", False),
        ("7,1", False),
        ("0, 1", True),
        ("MIG-1b2d", False),
    ],
)
def test_only_visible_gpus_count(wanted: t.Optional[str], is_waited_for: bool) -> None:
    lines, _seconds = waited([gpus(HIGH, LOW)], timeout_s=3, wanted=wanted)
    assert bool(lines) == is_waited_for


def test_no_gpu_at_all() -> None:
    assert waited([[]]) == ([], 0)


def test_exactly_the_share_is_enough() -> None:
    assert waited([[wait_for_gpu.Gpu(0, FIRST, 1000, 920)]]) == ([], 0)
    assert waited([[wait_for_gpu.Gpu(0, FIRST, 1000, 919)]], timeout_s=2)[1] == 2


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (FileNotFoundError(2, "No such file"), "there is no nvidia-smi"),
        (PermissionError(13, "Permission denied"), "nvidia-smi cannot be run (Permission denied)"),
        (subprocess.TimeoutExpired("nvidia-smi", 20), "nvidia-smi does not answer within 20 s"),
        (subprocess.CalledProcessError(9, "nvidia-smi", "", "NVIDIA-SMI has failed\n"), "nvidia-smi ended with 9 (NVIDIA-SMI has failed)"),
        (ValueError("x"), "nvidia-smi answers something else than was asked"),
    ],
)
def test_without_an_answer_it_goes_on(trouble: Exception, words: str) -> None:
    assert waited([gpus(LOW), trouble])[0][-1] == f"{words}: not waiting for free GPU memory"


def test_what_nvidia_smi_prints() -> None:
    text = f"0, {FIRST}, 81559, 12595\n1, {SECOND}, [N/A], [N/A]\n"
    first, second = wait_for_gpu.parsed(text)
    assert first == wait_for_gpu.Gpu(0, FIRST, TOTAL, LOW)
    # a GPU that shares the memory of the host does not tell it
    assert second.total_mib is None
    assert not second.lacks(0.92)
    assert wait_for_gpu.parsed("") == []
    with pytest.raises(ValueError, match="not enough values"):
        wait_for_gpu.parsed("NVIDIA-SMI has failed")


def run(tmp_path: Path, script: t.Optional[str], *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin" if script is not None else str(tmp_path), "HOME": os.environ.get("HOME", "/"), **environ}
    argv = [sys.executable, "-S", str(SCRIPT), *arguments]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=30)


def test_it_becomes_the_command(tmp_path: Path) -> None:
    ran = run(tmp_path, f'echo "0, {FIRST}, 1000, 990"', "--min-free-share", "0.9", "--", "sh", "-c", 'echo "$1"; exit 7', "sh", "--flag")
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "--flag\n", "")


def test_the_lines_come_before_the_command(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    script = f'echo "$@" >> {asked}; echo "0, {FIRST}, 1000, 100"; echo "1, {SECOND}, 1000, 1000"'
    arguments = ("--min-free-share", "0.9", "--timeout", "0.1", "--", "echo", "started")
    ran = run(tmp_path, script, *arguments)
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[0] == "GPU 0: 0.1 of 1.0 GiB free, waiting for 0.9 GiB"
    assert ran.stdout.splitlines()[-1] == "started"
    assert asked.read_text().splitlines()[0] == "--query-gpu=index,uuid,memory.total,memory.free --format=csv,noheader,nounits"
    assert run(tmp_path, script, *arguments, CUDA_VISIBLE_DEVICES="1").stdout == "started\n"


def test_without_nvidia_smi_the_command_is_started(tmp_path: Path) -> None:
    ran = run(tmp_path, None, "--min-free-share", "0.9", "--", "/bin/echo", "started")
    assert (ran.returncode, ran.stdout) == (0, "there is no nvidia-smi: not waiting for free GPU memory\nstarted\n")
    assert run(tmp_path, None, "--min-free-share", "0.9").returncode == 0


def test_no_gpu_is_found(tmp_path: Path) -> None:
    assert run(tmp_path, "echo No devices were found", "--min-free-share", "0.9").stdout == ""


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    ran = run(tmp_path, "true", "--min-free-share", "0.9", "--", "/none/vllm")
    assert ran.returncode == 127
    assert ran.stderr == "/none/vllm cannot be started: No such file or directory\n"


def test_a_share_is_a_share(tmp_path: Path) -> None:
    assert run(tmp_path, "true", "--min-free-share", "92").returncode == 2
