# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What a machine has, and whether programs can be installed and kept running there: CPU, memory, disk, Python, ports.

Linux only. Memory and disk are in MiB (2**20 bytes).
"""

from __future__ import annotations

import contextlib
import ctypes.util
import errno
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import typing as t
from pathlib import Path

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

MIB = 2**20
LOOPBACK = "127.0.0.1"
# A port that is taken is replaced by the next free one among so many.
PORT_RANGE = 100
LAST_PORT = 65535
# What of a CPU decides how vLLM computes there, in the kernel's words.
CPU_FEATURES = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "bf16"})
SOCKET = "supervisord.sock"
# The first systemd that hands secrets to units (LoadCredential).
LEAST_SYSTEMD = 247
# sun_path of a Unix socket holds 108 bytes with the last zero (unix(7)); supervisord makes it under its name with a dot and its pid first.
LONGEST_STATE_DIR = 107 - len("/" + SOCKET + ".1234567")


class Python(t.NamedTuple):
    """An interpreter: the path of the real one, not of a virtual environment or a shim, and its version, as (3, 11, 7)."""

    path: str
    version: tuple[int, ...]

    @property
    def text(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))


# --- what the machine is ------------------------------------------------------------------------------------------------------------


def check_platform(system: str = "", machine: str = "", cpuinfo: t.Optional[str] = None, avx2: bool = True) -> None:
    """Raise ServingError where nothing of this runs: it wants Linux on x86-64 or aarch64 and, with *avx2*, that of an x86-64."""
    system, machine = system or platform.system(), machine or platform.machine()
    if system != "Linux" or machine not in ("x86_64", "aarch64"):
        raise ServingError(f"A host has to run Linux on x86-64 or aarch64, this is {system} on {machine}. Use a Linux machine.")
    if machine != "x86_64" or not avx2:
        return
    if cpuinfo is None:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if flags and "avx2" not in flags[1].split():
        model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
        raise ServingError(
            f"vLLM for CPUs needs AVX2, which this CPU lacks ({model[1] if model else 'model unknown'}). "
            "Use a machine of 2014 or newer; in a virtual machine, hand the host's CPU through."
        )


def check_systemd(units: Path = Path("/run/systemd/system"), ask: t.Optional[t.Callable[[], str]] = None) -> None:
    """Raise ServingError where this process may not make units of a systemd that runs this machine and is new enough."""
    if not units.is_dir():
        raise ServingError(
            "llm_platform: systemd needs a host that systemd runs, and this one is run by something else. Choose llm_platform: docker, or "
            "local to serve from a user's own folder."
        )
    if os.geteuid():
        raise ServingError(
            "llm_platform: systemd needs root on the host, and this run is another user. Set ansible_become: true for it in the inventory."
        )
    found = re.match(r"systemd (\d+)", (ask or _systemd_version)())
    if found and int(found[1]) < LEAST_SYSTEMD:
        raise ServingError(f"llm_platform: systemd needs systemd {LEAST_SYSTEMD} or newer; this host has {found[1]}. Update the host.")


def _systemd_version() -> str:
    return subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False).stdout


def check_library(name: str, package: str, find: t.Callable[[str], t.Optional[str]] = ctypes.util.find_library) -> None:
    """Raise ServingError when the shared library *name*, which Debian has in *package*, is not there."""
    if not find(name):
        raise ServingError(f"vLLM for CPUs needs lib{name}, and it is not there. Install it: apt install {package}")


def check_commands(names: t.Iterable[str], title: str) -> None:
    """Raise ServingError when one of the programs *names*, by which *title* is installed, is not there."""
    for name in names:
        if shutil.which(name) is None:
            raise ServingError(f"{title} is installed by the program {name}, and it is not there. Install it: apt install {name}")


class Cpu(t.NamedTuple):
    """The CPUs that processes of this machine may use, of a container with its quota: physical cores, NUMA nodes, and what they can."""

    cores: int
    numa_nodes: int
    features: list[str]


def find_cpu(
    allowed: t.Optional[t.Collection[int]] = None,
    proc: Path = Path("/proc"),
    devices: Path = Path("/sys/devices/system"),
    cgroup: Path = Path("/sys/fs/cgroup"),
) -> Cpu:
    """Return what there is for computing. *allowed*: numbers of the CPUs; by default those that this process may run on."""
    numbers = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    cores: set[tuple[str, str]] = set()
    nodes: set[str] = set()
    for number in numbers:
        folder = devices / "cpu" / f"cpu{number}"
        core = (f"cpu{number}", "")
        with contextlib.suppress(OSError):
            core = ((folder / "topology/physical_package_id").read_text().strip(), (folder / "topology/core_id").read_text().strip())
        cores.add(core)
        nodes.update(node.name for node in folder.glob("node[0-9]*"))
    count = len(cores)
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int(word) for word in (cgroup / "cpu.max").read_text().split())
        count = max(1, min(count, quota // period))
    cpuinfo = ""
    with contextlib.suppress(OSError):
        cpuinfo = (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return Cpu(count, len(nodes) or 1, sorted(set(flags[1].split()) & CPU_FEATURES) if flags else [])


def find_python(wanted: str, least: tuple[int, int], most: tuple[int, int], title: str) -> Python:
    """Return *wanted*, or the first interpreter of a usual name, whose version is from *least* to *most* and that can make environments.

    Raises ServingError, naming what was found, when there is none. *title* is what needs it.
    """
    names = [wanted] if wanted else ["python3", *(f"python3.{minor}" for minor in range(most[1], least[1] - 1, -1))]
    found: list[str] = []
    for name in names:
        python = _ask_python(name)
        if python is None:
            continue
        if not least <= python.version[:2] <= most:
            found.append(f"{python.text} ({name})")
        elif not _can_make_environments(python):
            found.append(f"{python.text} ({name}) without venv: apt install python{python.version[0]}.{python.version[1]}-venv")
        else:
            return python
    asked = f"Python {least[0]}.{least[1]}" + (f" to {most[0]}.{most[1]}" if most != least else "")
    what = f"llm_python: {wanted}: " if wanted else ""
    raise ServingError(
        f"{what}{title} needs {asked}; found {', '.join(found) or 'none'}. Install one (apt install python3.{most[1]}-venv, "
        f"or uv python install 3.{most[1]}) and name it: llm_python: /path/to/python3.{most[1]}"
    )


def _ask_python(name: str) -> t.Optional[Python]:
    program = shutil.which(os.path.expanduser(name))
    if program is None:
        return None
    question = "import sys; print(getattr(sys, '_base_executable', sys.executable), *sys.version_info[:3])"
    try:
        answer = subprocess.run([program, "-I", "-c", question], capture_output=True, text=True, timeout=30, check=True).stdout
        path, *version = answer.rsplit(maxsplit=3)
        return Python(path, tuple(int(part) for part in version))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # a shim without a version behind it, for instance


def _can_make_environments(python: Python) -> bool:
    return subprocess.run([python.path, "-I", "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode == 0


def check_compiler(python: Python) -> None:
    """Raise ServingError when what Triton compiles at run time cannot be compiled: it needs a C compiler and Python's headers."""
    if not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        raise ServingError("vLLM on a GPU needs a C compiler, and there is none. Install one: apt install gcc")
    question = "import os, sysconfig; print(os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h')))"
    answer = subprocess.run([python.path, "-I", "-c", question], capture_output=True, text=True, check=False).stdout
    if answer.strip() != "True":
        raise ServingError(f"vLLM on a GPU needs the headers of Python {python.text}. Install them: apt install python3-dev")


# --- memory and disk ----------------------------------------------------------------------------------------------------------------


def available_memory_mib(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much memory may still be used without swapping: the kernel's estimate, or what a container's limit leaves of it."""
    meminfo = (proc / "meminfo").read_text(encoding="utf-8")
    kib = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo, re.MULTILINE)
    if kib is None:
        raise ServingError(f"{proc}/meminfo does not tell MemAvailable; the kernel is too old.")
    available = int(kib[1]) // 1024
    for limit, use, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most = int((cgroup / limit).read_text(encoding="utf-8"))
            used = int((cgroup / use).read_text(encoding="utf-8"))
            stat = (cgroup / limit).with_name("memory.stat").read_text(encoding="utf-8")
            reclaimable = re.search(rf"^{cache} (\d+)$", stat, re.MULTILINE)
            available = min(available, (most - used + (int(reclaimable[1]) if reclaimable else 0)) // MIB)
    return available


def check_memory(needed_mib: int, available_mib: int, own_mib: int, what: str) -> None:
    """Raise ServingError when *needed_mib* are not there; *own_mib* of the deployment's own processes will be given back."""
    if available_mib + own_mib < needed_mib:
        raise ServingError(
            f"{what} needs {needed_mib:,} MiB of memory; {available_mib + own_mib:,} MiB are free. "
            "End other programs, serve a smaller model, or turn this check off: llm_memory_check: false"
        )


def check_disk(folder: Path, needed_mib: int, what: str, free: t.Callable[[str], int] = lambda path: shutil.disk_usage(path).free) -> int:
    """Return the free MiB of the file system that *folder* (which need not exist yet) is on; raise ServingError when too few are."""
    free_mib = free(str(existing(folder))) // MIB
    if free_mib < needed_mib:
        raise ServingError(
            f"{what} needs {needed_mib:,} MiB of disk in {folder}; {free_mib:,} MiB are free. "
            "Make room, or put it elsewhere: llm_state_dir: /path/on/a/larger/disk"
        )
    return free_mib


def existing(folder: Path) -> Path:
    """Return *folder*, or the nearest of its parents that exists."""
    # os.path: what is in a folder that is closed to this user does not exist for it, and is no error
    return folder if os.path.exists(folder) or folder == folder.parent else existing(folder.parent)


def make_state_dir(folder: Path, dry: bool, mode: int = 0o700) -> bool:
    """Make *folder*, and return whether that was needed. Raises ServingError where nothing can be written.

    With the usual *mode* it is for this user alone; what programs of another user have to reach is made with 0755.
    """
    if len(os.fsencode(str(folder))) > LONGEST_STATE_DIR:
        raise ServingError(
            f"The path of the state folder is too long for a socket in it: {folder}. Choose one of at most {LONGEST_STATE_DIR} bytes: "
            "llm_state_dir: /path"
        )
    nearest = existing(folder)
    problem = "is not a folder" if not nearest.is_dir() else "" if os.access(nearest, os.W_OK | os.X_OK) else "cannot be written to"
    if not problem and nearest == folder and folder.stat().st_uid != os.geteuid():
        problem = "belongs to another user"
    if problem:
        raise ServingError(f"{nearest} {problem}, so nothing can be installed. Mend that, or choose another folder: llm_state_dir: /path")
    if nearest == folder:
        return False
    if not dry:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    return True


# --- ports --------------------------------------------------------------------------------------------------------------------------


def own_address(wanted: str) -> str:
    """Return *wanted*, an address or a name, as the IPv4 address at which others reach this machine. Raises ServingError for none."""
    hint = "Set vllm_engine_address to the one by which the router's host reaches this one."
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(wanted, None, socket.AF_INET, socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise ServingError(f'vllm_engine_address: this host knows no IPv4 address of "{wanted}". {hint}') from None
    outside = sorted(address for address in found if address != "0.0.0.0" and not address.startswith("127."))
    if not outside:
        raise ServingError(f'vllm_engine_address: "{wanted}" is {", ".join(found)}, where nobody reaches this host. {hint}')
    for address in outside:
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind((address, 0))
            return address
    raise ServingError(f"vllm_engine_address: {', '.join(outside)} is no address of this host, but perhaps of a router before it. {hint}")


class PortRequest(t.NamedTuple):
    """A port on the loopback interface: *port* when a user wants this very one, otherwise *usual* or the next one that is free.

    With *address*, it has to be free there, too.
    """

    name: str
    usual: int
    port: t.Optional[int] = None
    variable: str = ""
    address: str = ""

    def is_free(self, port: int, own_pids: t.Container[int]) -> bool:
        """Whether *port* is free, or held by one of the processes *own_pids*."""
        return usable(port, own_pids) and (not self.address or usable(port, own_pids, self.address))


def choose_ports(requests: t.Sequence[PortRequest], reserved: t.Mapping[str, int], own_pids: t.Container[int]) -> dict[str, int]:
    """Return a port for the name of each request.

    A port in *reserved* (what an earlier run chose) is kept while nobody else took it. Ports that processes in *own_pids* listen on
    count as free. Raises ServingError for a port that is asked for and taken.
    """
    chosen: dict[str, int] = {}
    asked = {request.name for request in requests}
    for request in requests:
        taken = {port for name, port in {**reserved, **chosen}.items() if name != request.name}
        if request.port is not None:
            if not 1 <= request.port <= LAST_PORT:
                raise ServingError(f"{request.variable}: {request.port} is no port. Give one from 1024 to {LAST_PORT}, or none.")
            # programs that nobody asks a port for here, those of another component, keep theirs where they run
            others = {name: port for name, port in reserved.items() if name not in asked and not usable(port, ())}
            twice = next((name for name, port in {**others, **chosen}.items() if port == request.port), None)
            if twice:
                raise ServingError(f"{request.variable}: {request.port} is the port of {twice}, too. Give another one, or none.")
            if request.port < 1024 and not _permitted(request.port):
                raise ServingError(f"{request.variable}: only root may listen on port {request.port}. Give one from 1024, or none.")
            if not request.is_free(request.port, own_pids):
                raise ServingError(
                    f"{request.variable}: port {request.port} is taken by {port_holder(request.port)}. End that, give another port, or "
                    "leave the variable out, and a free one is chosen."
                )
            chosen[request.name] = request.port
            continue
        candidates = [reserved[request.name]] if request.name in reserved else []
        candidates += [port for port in range(request.usual, request.usual + PORT_RANGE) if port not in taken]
        free = next((port for port in candidates if port not in chosen.values() and request.is_free(port, own_pids)), None)
        if free is None:
            raise ServingError(f"No port from {request.usual} to {request.usual + PORT_RANGE - 1} is free for {request.name}.")
        chosen[request.name] = free
    return chosen


def _permitted(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError as exc:
            return exc.errno not in (errno.EACCES, errno.EPERM)
        return True


def usable(port: int, own_pids: t.Container[int], address: str = LOOPBACK) -> bool:
    """Whether *port* of the loopback interface, or of another *address*, is free, or held by one of the processes *own_pids*."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            holder = listener(port)
            return holder is not None and holder in own_pids
        return True


def port_holder(port: int) -> str:
    """Return who listens on *port*, as people call it."""
    pid = listener(port)
    if pid is None:
        return "a process of another user"
    with contextlib.suppress(OSError):
        return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text(encoding='utf-8').strip()})"
    return "a process that has just ended"


def listener(port: int) -> t.Optional[int]:
    """Return the id of the process that listens on *port*; None when it is of another user."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="utf-8").splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{words[9]}]")
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            for link in folder.iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(link) in inodes:
                        return int(folder.parent.name)
    return None


def read_ports(path: Path) -> dict[str, int]:
    """Return the ports that earlier runs reserved; a file that is damaged counts as none."""
    try:
        ports = {str(name): int(port) for name, port in json.loads(path.read_text(encoding="utf-8")).items()}
        return {name: port for name, port in ports.items() if 1 <= port <= LAST_PORT}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write_ports(path: Path, ports: t.Mapping[str, int]) -> None:
    """Keep *ports* for later runs."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(dict(sorted(ports.items())), indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
