# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units as systemd reads them, and what systemctl says of them. The real systemd is in tests/hosts."""

from __future__ import annotations

import re
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _supervisor, _systemd
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._systemd import Systemd, Unit

LAYOUT = _supervisor.Layout(Path("/opt/llmops-serving/chat"))
# As `systemctl show` of systemd 252 printed it for an engine that was killed (kill -9) and waits for its next start.
KILLED = """\
Id=vllm-backend.service
LoadState=loaded
UnitFileState=enabled
ActiveState=activating
SubState=auto-restart
Result=signal
MainPID=0
NRestarts=1
NeedDaemonReload=no
ExecMainStatus=9
ExecMainCode=2
ExecMainStartTimestampMonotonic=95120000
ExecMainExitTimestampMonotonic=171480000
"""


def unit(suffix: str = "", after: t.Sequence[str] = (), **options: t.Any) -> Unit:
    given = {"name": "vllm-backend", "command": ["/opt/vllm/bin/python", "serve"], **options}
    return Unit(_supervisor.program_from(given), suffix, "vllm", "llmops-serving", after)


def settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^([A-Za-z-]+)=(.*)$", text, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_a_unit_starts_its_script_as_its_user_after_what_it_needs() -> None:
    told = settings(_systemd.unit_text(unit(after=["vllm-router"], suffix="-two"), LAYOUT, []))
    assert told["ExecStart"] == ["/opt/llmops-serving/chat/bin/vllm-backend"]
    assert told["User"] == ["llmops-serving"]
    assert told["After"] == ["network-online.target vllm-router-two.service"]
    assert told["Restart"] == ["always"]
    assert told["WantedBy"] == ["multi-user.target"]


def test_secrets_are_handed_over_by_name_and_never_by_value() -> None:
    text = _systemd.unit_text(unit(secret_environment={"VLLM_API_KEY": "vllm/VLLM_API_KEY"}), LAYOUT, ["vllm/VLLM_API_KEY"])
    assert settings(text)["LoadCredential"] == ["vllm.VLLM_API_KEY:/opt/llmops-serving/chat/secrets/vllm/VLLM_API_KEY"]
    script = _supervisor.script_text(unit(secret_environment={"KEY": "vllm/VLLM_API_KEY"}).program, LAYOUT, unit=True)
    assert 'KEY="$(cat "$CREDENTIALS_DIRECTORY"/vllm.VLLM_API_KEY)"' in script
    assert "/secrets/" not in script


@pytest.mark.parametrize(("gpu", "devices"), [(False, []), (True, ["char-nvidia* rw", "char-drm rw"])])
def test_devices_of_gpus_are_seen_by_the_program_that_uses_them(gpu: bool, devices: list[str]) -> None:
    told = settings(_systemd.unit_text(unit(gpu=gpu), LAYOUT, []))
    assert told.get("DeviceAllow", []) == devices
    assert (told["PrivateDevices"], told["DevicePolicy"]) == (["no" if gpu else "yes"], ["closed"])


def test_a_unit_may_write_to_its_folders_only() -> None:
    told = settings(_systemd.unit_text(unit(writable=["/opt/llmops-serving/chat/data"]), LAYOUT, []))
    assert (told["ReadWritePaths"], told["ProtectSystem"]) == (["/opt/llmops-serving/chat/data"], ["strict"])


def test_a_unit_says_whose_it_is() -> None:
    layout = _supervisor.Layout(Path("/opt/100%/chat"))
    text = _systemd.unit_text(unit(), layout, [])
    assert _systemd.owner(text) == ("/opt/100%/chat", "vllm")
    assert "ExecStart=/opt/100%%/chat/bin/vllm-backend" in text
    assert _systemd.owner("[Unit]\nDescription=of somebody else\n") == ("", "")


def test_a_program_that_ends_at_once_again_and_again_is_given_up() -> None:
    told = settings(_systemd.unit_text(unit(start_seconds=60, start_retries=3), LAYOUT, []))
    window_s, times = int(told["StartLimitIntervalSec"][0]), int(told["StartLimitBurst"][0])
    assert times == 4
    # each of them may take nearly the time after which a start counts
    assert window_s > times * 60


@pytest.mark.parametrize(
    ("changes", "state", "exit_status"),
    [
        ({}, "BACKOFF", -1),
        ({"ActiveState": "active", "SubState": "running", "MainPID": "42"}, "RUNNING", -1),
        ({"ActiveState": "activating", "SubState": "start"}, "STARTING", -1),
        ({"ActiveState": "failed", "SubState": "failed", "ExecMainCode": "1", "ExecMainStatus": "3"}, "FATAL", 3),
        ({"ActiveState": "inactive", "SubState": "dead", "ExecMainCode": "1", "ExecMainStatus": "0"}, "STOPPED", 0),
        ({"ActiveState": "deactivating", "SubState": "stop-sigterm"}, "STOPPING", -1),
    ],
)
def test_states_are_those_of_all_keepers(changes: dict[str, str], state: str, exit_status: int) -> None:
    told = dict(line.split("=", 1) for line in KILLED.splitlines())
    shown = _systemd.parse_show("\n".join(f"{key}={value}" for key, value in {**told, **changes}.items()), "vllm-backend", "-two")
    assert (shown.info.state, shown.info.exit_status) == (state, exit_status)
    assert shown.info.pid == (int(changes["MainPID"]) if "MainPID" in changes else None)
    assert shown.info.log_at == "journalctl --unit vllm-backend-two"
    assert (shown.info.started_at, shown.info.stopped_at, shown.enabled, shown.loaded) == (95, 171, True, True)


def test_a_program_that_systemd_could_not_start_says_so() -> None:
    text = KILLED.replace("ExecMainStatus=9", "ExecMainStatus=243").replace("ExecMainCode=2", "ExecMainCode=1")
    text = text.replace("Result=signal", "Result=exit-code")
    assert "status 243" in _systemd.parse_show(text, "vllm-backend").info.spawn_error


class Answers:
    """Stands in for subprocess.run: gives each program's answer, and keeps what was asked."""

    def __init__(self, **answers: t.Any) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []

    def __call__(self, command: list[str], **_options: t.Any) -> subprocess.CompletedProcess[str]:
        self.asked.append(list(command))
        answer = self.answers[command[0]]
        if isinstance(answer, BaseException):
            raise answer
        code, out, err = answer
        return subprocess.CompletedProcess(command, code, out, err)


def test_programs_without_a_unit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = KILLED.replace("LoadState=loaded", "LoadState=not-found")
    answers = Answers(systemctl=(0, f"{KILLED}\n{missing}", ""))
    monkeypatch.setattr(subprocess, "run", answers)
    assert [info.name for info in Systemd(["vllm-backend", "vllm-router"], "-two").processes()] == ["vllm-backend"]
    assert answers.asked[0][-2:] == ["vllm-backend-two.service", "vllm-router-two.service"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            (1, "", "Failed to restart vllm-backend.service:\n Unit is masked."),
            "restart vllm-backend.service failed: Failed to restart .* masked",
        ),
        (FileNotFoundError(), r"There is no systemctl on this host; the platform systemd needs a host that systemd runs\."),
        (subprocess.TimeoutExpired("systemctl", 1), "has not ended within 60 s. Look: systemctl list-jobs"),
    ],
)
def test_what_systemd_refuses_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, answer: t.Any, message: str) -> None:
    monkeypatch.setattr(subprocess, "run", Answers(systemctl=answer))
    with pytest.raises(ServingError, match=message) as refusal:
        Systemd().do("restart", ["vllm-backend"])
    assert "\n" not in str(refusal.value)
