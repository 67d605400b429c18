# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine has, on files of a /proc that the test wrote; interpreters and ports of this machine are real."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _host
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._host import PortRequest

MIB = 2**20
HERE = sys.version_info[:2]


# --- what there is for computing ----------------------------------------------------------------------------------------------------


def machine_of(folder: Path, cpus: dict[int, tuple[int, int, int]], flags: str = "fpu avx2 avx512f") -> dict[str, t.Any]:
    """Make the files of a kernel that tells of *cpus* by number: socket, core, NUMA node."""
    for number, (socket_id, core, node) in cpus.items():
        cpu = folder / f"devices/cpu/cpu{number}"
        (cpu / "topology").mkdir(parents=True)
        (cpu / "topology/physical_package_id").write_text(f"{socket_id}\n")
        (cpu / "topology/core_id").write_text(f"{core}\n")
        (cpu / f"node{node}").mkdir()
    (folder / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    (folder / "cgroup").mkdir()
    return {"allowed": list(cpus), "proc": folder, "devices": folder / "devices", "cgroup": folder / "cgroup"}


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    found = _host.find_cpu(**machine_of(tmp_path, {0: (0, 0, 0), 1: (0, 1, 0), 2: (0, 0, 0), 3: (0, 1, 0)}))
    assert found == (2, 1, ["avx2", "avx512f"])


def test_sockets_have_cores_of_the_same_number(tmp_path: Path) -> None:
    paths = machine_of(tmp_path, {0: (0, 0, 0), 1: (1, 0, 1)}, "avx512_bf16 amx_tile sse")
    assert _host.find_cpu(**paths) == (2, 2, ["amx_tile", "avx512_bf16"])
    assert _host.find_cpu(**{**paths, "allowed": [1]})[:2] == (1, 1)


@pytest.mark.parametrize(("quota", "cores"), [("250000 100000", 2), ("50000 100000", 1), ("max 100000", 4), ("900000 100000", 4)])
def test_a_containers_quota_of_cpus_counts(tmp_path: Path, quota: str, cores: int) -> None:
    paths = machine_of(tmp_path, {number: (0, number, 0) for number in range(4)})
    (paths["cgroup"] / "cpu.max").write_text(f"{quota}\n")
    assert _host.find_cpu(**paths).cores == cores


def test_a_kernel_that_tells_nothing_of_cores(tmp_path: Path) -> None:
    assert _host.find_cpu([0, 1], tmp_path, tmp_path, tmp_path) == (2, 1, [])


def test_the_cpu_of_this_machine() -> None:
    found = _host.find_cpu()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert set(found.features) <= _host.CPU_FEATURES


# --- what the machine is ------------------------------------------------------------------------------------------------------------

CPUINFO = "processor\t: 0\nmodel name\t: Old CPU @ 2GHz\nflags\t\t: fpu sse4_2 avx {}\nbugs\t\t:\n"


@pytest.mark.parametrize(("machine", "cpuinfo"), [("x86_64", CPUINFO.format("avx2 avx512f")), ("aarch64", "Features : asimd\n")])
def test_machines_that_can(machine: str, cpuinfo: str) -> None:
    _host.check_platform("Linux", machine, cpuinfo)


@pytest.mark.parametrize(
    ("system", "machine", "message"),
    [
        ("Linux", "x86_64", r"needs AVX2, which this CPU lacks \(Old CPU @ 2GHz\)"),
        ("Linux", "riscv64", "this is Linux on riscv64"),
        ("Darwin", "arm64", "this is Darwin on arm64"),
    ],
)
def test_machines_that_cannot(system: str, machine: str, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        _host.check_platform(system, machine, CPUINFO.format("fma"))


def test_avx2_is_not_asked_of_a_machine_with_a_gpu() -> None:
    _host.check_platform("Linux", "x86_64", CPUINFO.format("fma"), avx2=False)
    with pytest.raises(ServingError, match="this is Darwin on arm64"):
        _host.check_platform("Darwin", "arm64", avx2=False)


class Pythons:
    """A folder that is all of PATH, with interpreters that the test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def script(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def version(self, name: str, version: str, venv: bool = True) -> Path:
        """Make one that says it is *version*; asked to import what environments need, it ends as told."""
        return self.script(name, f'case "$*" in *ensurepip*) exit {int(not venv)};; *) echo "$0 {version.replace(".", " ")}";; esac')


@pytest.fixture
def pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pythons:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Pythons(tmp_path)


def find(wanted: str = "", least: tuple[int, int] = (3, 11), most: tuple[int, int] = (3, 12)) -> _host.Python:
    return _host.find_python(wanted, least, most, "vLLM")


def test_the_interpreter_behind_a_virtual_environment() -> None:
    python = find(sys.executable, HERE, HERE)
    assert python.version == sys.version_info[:3]
    assert python.text.startswith("3.")
    assert os.path.samefile(python.path, sys._base_executable)  # type: ignore[attr-defined]


def test_the_first_name_with_a_version_that_fits(pythons: Pythons) -> None:
    pythons.version("python3", "3.13.0")
    pythons.script("python3.12", "echo no such version >&2; exit 127")
    expected = pythons.version("python3.11", "3.11.7")
    assert find() == _host.Python(str(expected), (3, 11, 7))
    usual = pythons.version("python3", "3.12.1")
    assert find().path == str(usual)


def test_the_wanted_one_is_taken_whatever_is_usual(pythons: Pythons) -> None:
    pythons.version("python3", "3.12.1")
    wanted = pythons.version("my python", "3.11.0")
    assert find(str(wanted)).path == str(wanted)


def test_none_that_fits(pythons: Pythons) -> None:
    with pytest.raises(ServingError, match=r"^vLLM needs Python 3\.11 to 3\.12; found none\. Install one \(apt install python3\.12-venv"):
        find()
    pythons.version("python3", "3.13.0")
    pythons.version("python3.11", "3.11.7", venv=False)
    with pytest.raises(ServingError) as caught:
        find()
    assert "found 3.13.0 (python3), 3.11.7 (python3.11) without venv: apt install python3.11-venv." in str(caught.value)


@pytest.mark.parametrize(("name", "found"), [("old", r"3\.9\.2 \(old\)"), ("absent", "none"), ("broken", "none"), ("silent", "none")])
def test_a_wanted_one_that_does_not_fit_is_not_replaced(pythons: Pythons, name: str, found: str) -> None:
    pythons.version("python3", "3.12.1")
    pythons.version("old", "3.9.2")
    pythons.script("broken", "exit 1")
    pythons.script("silent", "exit 0")
    with pytest.raises(ServingError, match=rf"^llm_python: {name}: vLLM needs .*; found {found}\."):
        find(name)


def test_a_compiler_and_headers(pythons: Pythons) -> None:
    with_headers = _host.Python(str(pythons.script("a", "echo True")), (3, 11, 7))
    with pytest.raises(ServingError, match=r"needs a C compiler.*apt install gcc"):
        _host.check_compiler(with_headers)
    pythons.script("clang", "exit 0")
    _host.check_compiler(with_headers)
    with pytest.raises(ServingError, match=r"needs the headers of Python 3\.11\.7"):
        _host.check_compiler(_host.Python(str(pythons.script("b", "echo False")), (3, 11, 7)))


# --- memory and disk ----------------------------------------------------------------------------------------------------------------

V1_NO_LIMIT = 9223372036854771712


def memory(tmp_path: Path, files: t.Mapping[str, object], available_kib: int = 8 * 2**20) -> int:
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {available_kib} kB\n")
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return _host.available_memory_mib(tmp_path, tmp_path / "cgroup")


@pytest.mark.parametrize(
    ("files", "mib"),
    [
        ({}, 8192),
        ({"memory.max": "max", "memory.current": 5 * MIB, "memory.stat": ""}, 8192),
        ({"memory.max": 1000 * MIB, "memory.current": 400 * MIB, "memory.stat": f"anon 1\ninactive_file {100 * MIB}"}, 700),
        ({"memory.max": 1000 * MIB, "memory.current": 400 * MIB, "memory.stat": "anon 1"}, 600),
        ({"memory.max": 90000 * MIB, "memory.current": 0, "memory.stat": ""}, 8192),
        (
            {
                "memory/memory.limit_in_bytes": 1000 * MIB,
                "memory/memory.usage_in_bytes": 900 * MIB,
                "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * MIB}",
            },
            150,
        ),
        ({"memory/memory.limit_in_bytes": V1_NO_LIMIT, "memory/memory.usage_in_bytes": MIB, "memory/memory.stat": ""}, 8192),
    ],
    ids=["no cgroup", "v2 without limit", "v2", "v2 without cache", "v2 above the machine", "v1", "v1 without limit"],
)
def test_a_containers_limit_counts(tmp_path: Path, files: dict[str, object], mib: int) -> None:
    assert memory(tmp_path, files) == mib


def test_a_kernel_that_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\n")
    with pytest.raises(ServingError, match="does not tell MemAvailable"):
        _host.available_memory_mib(tmp_path, tmp_path)


def test_memory_of_its_own_processes_counts_as_free() -> None:
    _host.check_memory(8000, available_mib=3000, own_mib=5000, what="smoke")
    with pytest.raises(ServingError, match=r"^smoke needs 8,001 MiB of memory; 8,000 MiB are free\. .*llm_memory_check: false$"):
        _host.check_memory(8001, available_mib=3000, own_mib=5000, what="smoke")


def test_disk_is_looked_at_where_the_folder_will_be(tmp_path: Path) -> None:
    asked = []

    def free(path: str) -> int:
        asked.append(path)
        return 500 * MIB

    assert _host.check_disk(tmp_path / "not" / "yet", 500, "smoke", free) == 500
    assert asked == [str(tmp_path)]
    with pytest.raises(ServingError, match=rf"^smoke needs 5,001 MiB of disk in {tmp_path}; 500 MiB are free"):
        _host.check_disk(tmp_path, 5001, "smoke", free)


def test_a_state_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "chat"
    assert _host.make_state_dir(folder, dry=True)
    assert not folder.parent.exists()
    assert _host.make_state_dir(folder, dry=False)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not _host.make_state_dir(folder, dry=False)


@pytest.mark.parametrize("below", ["", "chat", "state/chat"])
def test_a_file_in_the_way_of_a_state_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match=rf"^{tmp_path}/file is not a folder, so nothing can be installed.*llm_state_dir: /path$"):
        _host.make_state_dir(tmp_path / "file" / below, dry=False)


def test_a_state_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host.os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ServingError, match=f"^{tmp_path} belongs to another user"):
        _host.make_state_dir(tmp_path, dry=False)


def refusal(call: t.Callable[[], object]) -> str:
    """Return what *call* is refused with when somebody makes it who is not root."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        words = ""
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            call()
        except ServingError as exc:
            words = str(exc)
        except BaseException as exc:
            words = f"{exc!r} is no refusal"
        finally:
            os.write(writer, words.encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader) as file:
        return file.read()


def test_a_closed_folder_above_the_state_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    words = refusal(lambda: _host.make_state_dir(closed / "chat", dry=False))
    # where the test is root's, a folder above is closed to others already
    assert str(closed).startswith(words.partition(" ")[0])
    assert "cannot be written to, so nothing can be installed" in words


@pytest.mark.parametrize("letter", ["x", "ä"])
def test_a_state_folder_holds_a_socket(letter: str) -> None:
    size = len(letter.encode())
    folder = Path("/tmp") / (letter * ((_host.LONGEST_STATE_DIR - len("/tmp/")) // size))
    _host.make_state_dir(folder, dry=True)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as unix, pytest.raises(FileNotFoundError):
        unix.bind(f"{folder}/{_host.SOCKET}.1234567")
    with pytest.raises(ServingError, match=f"too long for a socket in it.*at most {_host.LONGEST_STATE_DIR} bytes"):
        _host.make_state_dir(Path(f"{folder}{letter}{letter}"), dry=True)


# --- ports --------------------------------------------------------------------------------------------------------------------------


class Ports:
    """Three ports side by side that nobody has, and sockets of this process that listen on some of them."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.first = next(port for port in range(20000, 30000, 10) if self._free(range(port, port + 3)))

    def _free(self, ports: t.Iterable[int]) -> bool:
        try:
            for port in ports:
                self.listen(port).close()
        except OSError:
            return False
        return True

    def listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        self.stack.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        return listener


@pytest.fixture
def ports() -> t.Iterator[Ports]:
    found = Ports()
    with found.stack:
        yield found


def choose(*requests: PortRequest, reserved: t.Optional[dict[str, int]] = None, own_pids: t.Container[int] = ()) -> list[int]:
    return list(_host.choose_ports(requests, reserved or {}, own_pids).values())


def test_usual_ports_while_they_are_free(ports: Ports) -> None:
    first = ports.first
    assert choose(PortRequest("a", first), PortRequest("b", first + 1)) == [first, first + 1]
    assert choose(PortRequest("a", first), PortRequest("b", first)) == [first, first + 1]
    ports.listen(first)
    assert choose(PortRequest("a", first), PortRequest("b", first + 1)) == [first + 1, first + 2]


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_listener_on_all_addresses_has_the_port_of_the_loopback_interface(ports: Ports, address: str) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)) as listener:
        try:
            listener.bind((address, ports.first))
        except OSError:
            pytest.skip(f"this machine has no {address}")
        listener.listen()
        assert choose(PortRequest("a", ports.first)) == [ports.first + 1]
        assert choose(PortRequest("a", ports.first), own_pids={os.getpid()}) == [ports.first]


def test_a_reserved_port_is_kept_until_somebody_else_takes_it(ports: Ports) -> None:
    first, reserved = ports.first, {"a": ports.first + 2}
    assert choose(PortRequest("a", first), reserved=reserved) == [first + 2]
    ports.listen(first + 2)
    assert choose(PortRequest("a", first), reserved=reserved, own_pids={os.getpid()}) == [first + 2]
    assert choose(PortRequest("a", first), reserved=reserved) == [first]


def test_what_is_reserved_for_another_program_is_left_to_it(ports: Ports) -> None:
    assert choose(PortRequest("a", ports.first), reserved={"b": ports.first}) == [ports.first + 1]


def test_a_port_that_is_asked_for_wins_over_usual_and_reserved(ports: Ports) -> None:
    first = ports.first
    wanted = PortRequest("a", first, first + 1, "a_port")
    assert choose(wanted, reserved={"a": first + 2}) == [first + 1]
    # its program was removed; nobody listens there any more
    assert choose(wanted, reserved={"b": first + 1}) == [first + 1]
    ports.listen(first + 1)
    assert choose(wanted, own_pids={os.getpid()}) == [first + 1]


def test_a_port_that_is_asked_for_and_taken_names_the_holder(ports: Ports) -> None:
    ports.listen(ports.first)
    holder = rf"process {os.getpid()} \({Path('/proc/self/comm').read_text().strip()}\)"
    with pytest.raises(ServingError, match=rf"^a_port: port {ports.first} is taken by {holder}\. End that, give another port"):
        choose(PortRequest("a", ports.first + 1, ports.first, "a_port"))


def test_a_port_that_is_asked_for_twice(ports: Ports) -> None:
    with pytest.raises(ServingError, match=f"^b_port: {ports.first} is the port of a, too"):
        choose(PortRequest("a", 1, ports.first, "a_port"), PortRequest("b", 1, ports.first, "b_port"))


def test_a_port_of_another_component_that_runs_is_taken_though_it_is_our_own(ports: Ports) -> None:
    ports.listen(ports.first)
    with pytest.raises(ServingError, match=f"^b_port: {ports.first} is the port of a, too"):
        choose(PortRequest("b", 1, ports.first, "b_port"), reserved={"a": ports.first}, own_pids={os.getpid()})


@pytest.mark.parametrize("port", [0, 65536, 80000])
def test_what_is_no_port(port: int) -> None:
    with pytest.raises(ServingError, match=f"^a_port: {port} is no port"):
        choose(PortRequest("a", 1, port, "a_port"))


def test_a_port_for_root_only() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 999:
        pytest.skip("everybody may listen on any port here")
    assert refusal(lambda: choose(PortRequest("a", 1, 999, "a_port"))).startswith("a_port: only root may listen on port 999")


def test_no_port_at_all(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host, "PORT_RANGE", 1)
    ports.listen(ports.first)
    with pytest.raises(ServingError, match=f"^No port from {ports.first} to {ports.first} is free for a"):
        choose(PortRequest("a", ports.first))


def test_ports_are_kept_for_later_runs(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    assert _host.read_ports(path) == {}
    _host.write_ports(path, {"b": 8001, "a": 8000})
    assert _host.read_ports(path) == {"a": 8000, "b": 8001}
    assert [path.name for path in tmp_path.iterdir()] == ["ports.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[8000]", b'{"a": "x"}', b'{"a": null}', b"\xff", b'{"a": 70000}'])
def test_a_damaged_file_of_ports_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ports.json").write_bytes(content)
    assert _host.read_ports(tmp_path / "ports.json") == {}


@pytest.mark.parametrize(
    ("root", "version", "message"),
    [
        (True, "systemd 252 (252.39-1~deb12u1)", None),
        (True, "systemd 241 (241)", "needs systemd 247 or newer; this host has 241"),
        (False, "systemd 252 (252)", "needs root on the host.*ansible_become: true"),
    ],
)
def test_a_systemd_that_takes_units_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool, version: str, message: t.Optional[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    if message is None:
        _host.check_systemd(tmp_path, lambda: version)
        return
    with pytest.raises(ServingError, match=message):
        _host.check_systemd(tmp_path, lambda: version)


def test_a_library_that_is_missing_is_named_with_its_package() -> None:
    _host.check_library("numa", "libnuma1", lambda name: f"lib{name}.so.1")
    with pytest.raises(ServingError, match=r"needs libnuma, and it is not there\. Install it: apt install libnuma1"):
        _host.check_library("numa", "libnuma1", lambda name: None)
