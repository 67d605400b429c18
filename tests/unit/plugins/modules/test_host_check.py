# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checking this very machine: small wishes that it can fulfil, and such that no machine can."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _host, _processes, _run_lock
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import host_check

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
FREE = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); input()"


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state" / "chat"


def run(state_dir: Path, check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
    defaults: dict[str, t.Any] = {
        "title": "smoke",
        "create": True,
        "state_dir_mode": "0700",
        "systemd": False,
        "find": [],
        "cpu_check": False,
        "compiler_check": False,
        "python": "",
        "python_versions": [],
        "memory_mib": 0,
        "disk": [],
        "disk_mib": 0,
        "ports": [],
    }
    return host_check.run({"state_dir": str(state_dir), **defaults, **params}, check_mode)


def port(name: str, usual: int, wanted: t.Optional[int] = None) -> dict[str, t.Any]:
    return {"name": name, "usual": usual, "port": wanted, "variable": f"{name}_port"}


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_is_told(state_dir: Path) -> None:
    usual = free_port()
    params = {"python": sys.executable, "python_versions": [HERE], "memory_mib": 1, "disk_mib": 1, "ports": [port("app", usual)]}
    first = run(state_dir, **params)
    assert first["changed"]
    assert first["ports"] == {"app": usual}
    assert os.path.samefile(first["python"], sys._base_executable)  # type: ignore[attr-defined]
    assert first["python_version"] == ".".join(map(str, sys.version_info[:3]))
    assert first["disk_free_mib"] > 1
    assert first["memory_available_mib"] > 1
    second = run(state_dir, **params)
    assert (second["changed"], second["ports"]) == (False, {"app": usual})


def test_an_address_of_this_machine_is_taken(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"gpu1": ["127.0.1.1", "192.0.2.10"], "public": ["198.51.100.1"], "this": ["127.0.1.1"], "all": ["0.0.0.0"]}

    def lookup(name: str, *_args: t.Any) -> list[tuple[t.Any, ...]]:
        if name not in known:
            raise socket.gaierror("Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known[name]]

    def bind(_self: t.Any, where: tuple[str, int]) -> None:
        if where[0] != "192.0.2.10":
            raise OSError("Cannot assign requested address")

    monkeypatch.setattr(_host.socket, "getaddrinfo", lookup)
    monkeypatch.setattr(_host.socket, "socket", type("Probe", (socket.socket,), {"bind": bind}))
    assert run(state_dir, address="gpu1")["address"] == "192.0.2.10"
    for name, message in {
        "public": "vllm_engine_address: 198.51.100.1 is no address of this host, but perhaps of a router before it.",
        "this": 'vllm_engine_address: "this" is 127.0.1.1, where nobody reaches this host.',
        "all": 'vllm_engine_address: "all" is 0.0.0.0, where nobody reaches this host.',
        "other": 'vllm_engine_address: this host knows no IPv4 address of "other".',
    }.items():
        with pytest.raises(ServingError, match=re.escape(message)):
            run(state_dir, address=name)


def test_a_port_for_others_has_to_be_free_at_their_address_too(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # all of 127/8 is this machine, so a second loopback address stands for that of a network
    monkeypatch.setattr(_host, "own_address", lambda _wanted: "127.0.0.2")
    usual = free_port()
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.2", usual))
        taken.listen()
        assert run(state_dir, True, address="gpu1", ports=[port("app", usual)])["ports"] == {"app": usual}
        outside = {**port("app", usual), "outside": True}
        assert run(state_dir, True, address="gpu1", ports=[outside])["ports"]["app"] > usual


def test_check_mode_writes_nothing(state_dir: Path) -> None:
    result = run(state_dir, check_mode=True, ports=[port("app", free_port())])
    assert result["changed"]
    assert not state_dir.parent.exists()
    run(state_dir)
    before = sorted(path.name for path in state_dir.iterdir())
    assert run(state_dir, check_mode=True, ports=[port("app", free_port())])["changed"]
    assert sorted(path.name for path in state_dir.iterdir()) == before


def test_the_lock_is_the_runs(state_dir: Path) -> None:
    run(state_dir)
    assert json.loads((state_dir / "run.lock").read_text())["run"] == _run_lock.this_run()._asdict()


def test_another_run_keeps_it_from_all(state_dir: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        state_dir.mkdir(parents=True)
        holder = _run_lock.this_run()._replace(pid=other.pid, started=_processes.started_ticks(other.pid))._asdict()
        run(state_dir, run=holder)
        with pytest.raises(ServingError, match="Another run works on") as refused:
            run(state_dir, ports=[port("app", free_port())])
        assert refused.value.details == {"holder": holder}
        assert not (state_dir / "ports.json").exists()
        run(state_dir, over=holder)
        other.kill()


def test_a_component_keeps_the_ports_of_the_others(state_dir: Path) -> None:
    one, two = free_port(), free_port()
    run(state_dir, ports=[port("vllm-router", one)])
    assert run(state_dir, ports=[port("open-webui", one)])["ports"] != {"open-webui": one}
    run(state_dir, ports=[port("open-webui", two, two)])
    assert _host.read_ports(state_dir / "ports.json") == {"vllm-router": one, "open-webui": two}


def test_what_processes_of_the_deployment_hold_counts_as_free(state_dir: Path) -> None:
    environment = {"LLMOPS_SERVING_STATE": str(state_dir)}
    code = f"block = bytearray(64 * 2**20); {FREE}"
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        taken = int(engine.stdout.readline())
        result = run(state_dir, ports=[port("engine", taken)])
        other = run(state_dir.parent / "lab", ports=[port("engine", taken)])
        engine.communicate(b"\n")
    assert result["ports"] == {"engine": taken}
    assert other["ports"] != {"engine": taken}


def test_memory_of_the_deployment_is_added(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host, "available_memory_mib", lambda: 1000)
    code = "block = bytearray(64 * 2**20); print(flush=True); input()"
    environment = {"LLMOPS_SERVING_STATE": str(state_dir)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        result = run(state_dir, memory_mib=1050)
        engine.communicate(b"\n")
    assert result["memory_available_mib"] >= 1064
    with pytest.raises(ServingError, match="smoke needs 1,050 MiB of memory; 1,000 MiB are free"):
        run(state_dir, memory_mib=1050)


def test_what_unpacks_an_archive_is_looked_for_before_it_is_fetched(state_dir: Path) -> None:
    disk = [{"paths": [str(state_dir / "program")], "mib": 1, "commands": ["sh", "no-such-unpacker"]}]
    with pytest.raises(ServingError, match=r"smoke is installed by the program no-such-unpacker, .* apt install no-such-unpacker"):
        run(state_dir, disk=disk)
    (state_dir / "program").mkdir()
    assert run(state_dir, disk=disk)["machine"] == os.uname().machine


def test_what_is_on_the_disk_already_is_not_counted(state_dir: Path) -> None:
    huge = 2**40
    whole = [str(state_dir / "venvs" / "vllm" / part) for part in ("stamp", "bin/python")]
    disk = [{"paths": whole, "mib": huge}, {"paths": [str(state_dir / "logs")], "mib": 3}]
    with pytest.raises(ServingError, match=f"smoke needs {huge + 3:,} MiB of disk in {state_dir}"):
        run(state_dir, disk=disk)
    (state_dir / "venvs" / "vllm" / "bin").mkdir(parents=True)
    Path(whole[0]).write_text("")
    Path(whole[1]).symlink_to("/nonexistent/python")  # an interpreter that has been removed
    with pytest.raises(ServingError, match=f"needs {huge + 3:,} MiB"):
        run(state_dir, disk=disk)
    Path(whole[1]).unlink()
    Path(whole[1]).symlink_to(sys.executable)
    assert run(state_dir, disk=disk)["disk_mib"] == 3
    with pytest.raises(ServingError, match=f"needs {huge + 3:,} MiB"):
        run(state_dir, disk=disk, disk_mib=huge)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"memory_mib": 2**40}, "of memory"),
        ({"python_versions": ["3.98", "3.99"]}, r"smoke needs Python 3\.98 to 3\.99; found"),
        ({"ports": [{"name": "app", "usual": 8000, "port": 70000, "variable": "app_port"}]}, "app_port: 70000 is no port"),
    ],
)
def test_what_cannot_be_had_reserves_nothing(state_dir: Path, params: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        run(state_dir, **params)
    assert not (state_dir / "ports.json").exists()


def test_the_wheels_are_checked_before_anything_is_made(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host.platform, "machine", lambda: "riscv64")
    with pytest.raises(ServingError, match="riscv64"):
        run(state_dir)
    assert not state_dir.exists()


def test_a_compiler_is_asked_of_the_interpreter_that_was_found(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[_host.Python] = []
    monkeypatch.setattr(_host, "check_compiler", asked.append)
    params = {"python": sys.executable, "python_versions": [HERE]}
    run(state_dir, **params)
    assert asked == []
    found = run(state_dir, compiler_check=True, **params)["python"]
    assert [python.path for python in asked] == [found]


def test_what_is_looked_for_and_there(state_dir: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("")
    assert run(state_dir, find=[str(there), str(tmp_path / "not-there")])["found"] == [str(there)]


@pytest.mark.parametrize("mode", ["0700", "0755"])
def test_the_state_folder_has_its_mode_whatever_the_umask_is(state_dir: Path, mode: str) -> None:
    before = os.umask(0o077)
    try:
        run(state_dir, state_dir_mode=mode)
    finally:
        os.umask(before)
    assert state_dir.stat().st_mode & 0o777 == int(mode, 8)


def test_a_look_makes_nothing(state_dir: Path) -> None:
    assert not run(state_dir, create=False)["changed"]
    assert not state_dir.exists()


def test_a_host_that_systemd_does_not_run(state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host.check_systemd, "__defaults__", (tmp_path / "none", None))
    with pytest.raises(ServingError, match=r"needs a host that systemd runs.*Choose llm_platform: docker, or local"):
        run(state_dir, systemd=True)
    assert not state_dir.exists()
