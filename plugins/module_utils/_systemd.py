# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Programs of a host as units of systemd: the text of a unit, what it may do, and what systemd and the journal say of it.

Texts are rendered by pure functions; what is asked of systemd goes through Systemd. Version 247 is needed, for LoadCredential.
"""

from __future__ import annotations

import re
import subprocess
import typing as t
from pathlib import Path

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._keepers import ProcessInfo
from ansible_collections.llmops.serving.plugins.module_utils._logs import TAIL_BYTES
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import Layout, Program, credential

UNITS = Path("/etc/systemd/system")
RUNTIME = Path("/run")
# Where a unit says whose it is; systemd passes over keys that begin with X-.
OWNER_KEY = "X-LlmopsServing"
VERSION_VARIABLE = "LLMOPS_SERVING_VERSION"
# Seconds between the end of a program and its next start.
RESTART_S = 2
JOURNAL_LINES = 600
ANSWER_S = 60.0
# What systemd may take beyond the time that a program has to stop.
STOP_S = 30

SHOWN = (
    "Id", "LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "MainPID", "NRestarts", "NeedDaemonReload",
    "ExecMainStatus", "ExecMainCode", "ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic",
)  # fmt: skip

# What a program of ours never needs. `systemd-analyze security` rates it; see docs/hosts.md.
SANDBOX = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "LockPersonality=yes",
    "PrivateMounts=yes",
    "PrivateTmp=yes",
    "PrivateUsers=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHome=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "ProtectSystem=strict",
    "RemoveIPC=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallErrorNumber=EPERM",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged",
    # numactl's calls, by which vLLM places the memory of its threads
    "SystemCallFilter=mbind set_mempolicy get_mempolicy migrate_pages move_pages",
    "UMask=0077",
)
# A unit with a GPU sees its devices, and no others.
NO_DEVICES = ("PrivateDevices=yes", "DevicePolicy=closed")
GPU_DEVICES = ("PrivateDevices=no", "DevicePolicy=closed", "DeviceAllow=char-nvidia* rw", "DeviceAllow=char-drm rw")

_UNIT_STATES = {"deactivating": "STOPPING", "failed": "FATAL", "reloading": "RUNNING"}
# Ends that a signal caused, by systemd's number for it (waitid's si_code).
_KILLED = ("2", "3")


class Unit(t.NamedTuple):
    """A program as a unit. ``suffix`` is what other stacks than ``chat`` add to its name; ``after`` are units that start before it."""

    program: Program
    suffix: str
    component: str
    user: str
    after: t.Sequence[str] = ()

    @property
    def name(self) -> str:
        """The name of the unit, without ``.service``."""
        return self.program.name + self.suffix

    @property
    def path(self) -> Path:
        """The file of the unit."""
        return UNITS / f"{self.name}.service"


def unit_text(unit: Unit, layout: Layout, secrets: t.Iterable[str], version: str = "") -> str:
    """Return the text of *unit*, which is given *secrets*, as ``component/KEY``. A new *version* is what makes a run start it anew."""
    program = unit.program
    # as supervisord: whoever ends before it counts as started, so many times in a row, is given up
    window_s = (program.start_seconds + RESTART_S + 5) * (program.start_retries + 1)
    order = ["network-online.target", *(f"{name}{unit.suffix}.service" for name in unit.after)]
    return "\n".join(
        [
            "# Written by llmops.serving; `make install-chat` writes it anew, so changes made here are lost.",
            f"# Own settings belong into a drop-in: systemctl edit {unit.name}",
            "[Unit]",
            f"Description={program.name} of the private chat in {_escaped(str(layout.state_dir))}",
            f"After={' '.join(order)}",
            "Wants=network-online.target",
            f"StartLimitIntervalSec={window_s}",
            f"StartLimitBurst={program.start_retries + 1}",
            f"{OWNER_KEY}={_escaped(str(layout.state_dir))} {unit.component}",
            "",
            "[Service]",
            "Type=exec",
            f"User={unit.user}",
            f"Group={unit.user}",
            f"ExecStart={_escaped(str(layout.script(program.name)))}",
            f"SyslogIdentifier={unit.name}",
            f"Environment={VERSION_VARIABLE}={version}",
            f"RuntimeDirectory={runtime_name(unit.name)}",
            *(f"LoadCredential={credential(ref)}:{_escaped(str(layout.secret(ref)))}" for ref in sorted(set(secrets))),
            "Restart=always",
            f"RestartSec={RESTART_S}",
            # the program ends its own processes in order; what is left after that is killed
            "KillMode=mixed",
            f"TimeoutStopSec={program.stop_seconds}",
            "SuccessExitStatus=130 143",
            *(f"ReadWritePaths={_escaped(path)}" for path in program.writable),
            *SANDBOX,
            *(GPU_DEVICES if program.gpu else NO_DEVICES),
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def runtime_name(unit: str) -> str:
    """Return the folder below /run in which the launch script of *unit* says with which version it was started."""
    return f"llmops-serving-{unit}"


def running_version(unit: str) -> str:
    """Return the version with which *unit* was started last; empty while it does not run."""
    try:
        return (RUNTIME / runtime_name(unit) / "version").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def owner(text: str) -> tuple[str, str]:
    """Return the state folder and the component that the *text* of a unit names; two empty texts where it is none of ours."""
    found = re.search(rf"^{OWNER_KEY}=(.+) (\S+)$", text, re.MULTILINE)
    return (found[1].replace("%%", "%"), found[2]) if found else ("", "")


def stop_timeout(text: str) -> int:
    """Return how many seconds the unit with this *text* may take to stop."""
    found = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


class Shown(t.NamedTuple):
    """What ``systemctl show`` tells of a unit."""

    info: ProcessInfo
    loaded: bool
    enabled: bool
    needs_reload: bool


class Systemd:
    """The systemd of this host, asked by its own commands. Every method raises ServingError when it refuses."""

    def __init__(self, names: t.Sequence[str] = (), suffix: str = "") -> None:
        self.names = names
        self.suffix = suffix

    def processes(self) -> list[ProcessInfo]:
        """Return the programs that were named to the constructor, those without a unit left out."""
        return [shown.info for shown in self.show(self.names).values() if shown.loaded]

    def log_of(self, info: ProcessInfo) -> str:
        """Return the end of what the journal has of a program, with several starts of it."""
        unit = info.name + self.suffix
        text = self._run(["journalctl", "--unit", unit, "--output", "cat", "--lines", str(JOURNAL_LINES), "--no-pager", "--quiet"])
        return text[-TAIL_BYTES:]

    def show(self, names: t.Sequence[str]) -> dict[str, Shown]:
        """Return what systemd knows of the programs *names*."""
        if not names:
            return {}
        units = [f"{name}{self.suffix}.service" for name in names]
        text = self._run(["systemctl", "show", f"--property={','.join(SHOWN)}", *units])
        return dict(zip(names, (parse_show(block, name, self.suffix) for name, block in zip(names, text.strip("\n").split("\n\n")))))

    def reload(self) -> None:
        """Let systemd read the files of its units again."""
        self._run(["systemctl", "daemon-reload"])

    def do(self, verb: str, names: t.Iterable[str], timeout_s: float = ANSWER_S) -> None:
        """Have systemd do *verb* (``enable``, ``disable``, ``start``, ``stop``, ``restart``, ``reset-failed``) with all of *names*."""
        units = [f"{name}{self.suffix}.service" for name in names]
        if units:
            self._run(["systemctl", "--quiet", verb, *units], timeout_s)

    @staticmethod
    def _run(command: t.Sequence[str], timeout_s: float = ANSWER_S) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
        except FileNotFoundError:
            raise ServingError(f"There is no {command[0]} on this host; the platform systemd needs a host that systemd runs.") from None
        except subprocess.TimeoutExpired:
            raise ServingError(f"{' '.join(command)} has not ended within {timeout_s:.0f} s. Look: systemctl list-jobs") from None
        if done.returncode:
            words = " ".join((done.stderr or done.stdout).split())
            raise ServingError(f"{' '.join(command)} failed: {words[:300] or f'exit code {done.returncode}'}")
        return done.stdout


def parse_show(block: str, name: str, suffix: str = "") -> Shown:
    """Return what a block of ``systemctl show`` tells of the program *name*."""
    told = dict(line.partition("=")[::2] for line in block.splitlines())
    active, sub = told.get("ActiveState", ""), told.get("SubState", "")
    if active == "active":
        state = "RUNNING" if sub == "running" else "EXITED"
    elif active == "activating":
        state = "BACKOFF" if sub == "auto-restart" else "STARTING"
    elif active == "inactive":
        state = "STOPPED"
    else:
        state = _UNIT_STATES.get(active, "UNKNOWN")
    # codes above 200 are systemd's own: the program was not started
    status = int(told.get("ExecMainStatus") or 0)
    not_started = told.get("ExecMainCode") == "1" and status >= 200 and told.get("Result") not in ("success", "", None)
    info = ProcessInfo(
        name=name,
        state=state,
        pid=int(told.get("MainPID") or 0) or None,
        exit_status=-1 if told.get("ExecMainCode") in _KILLED else status,
        started_at=int(told.get("ExecMainStartTimestampMonotonic") or 0) // 10**6,
        stopped_at=int(told.get("ExecMainExitTimestampMonotonic") or 0) // 10**6,
        spawn_error=f"systemd could not start it (status {status}, systemd.exec(5) says what that is)" if not_started else "",
        log_at=f"journalctl --unit {name}{suffix}",
    )
    return Shown(info, told.get("LoadState") == "loaded", told.get("UnitFileState") == "enabled", told.get("NeedDaemonReload") == "yes")
