# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""supervisor_apply with a real supervisord and small programs that write down how they were started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.llmops.serving.plugins.module_utils import _component, _host, _processes
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._host import usable
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import Supervisor
from ansible_collections.llmops.serving.plugins.modules import supervisor_apply
from ansible_collections.llmops.serving.plugins.modules.supervisor_apply import ARGS, run

SUPERVISORD = str(Path(sys.executable).parent / "supervisord")
SECRET = "sk-v3ry-s3cret-value"

# Writes what it was given into the file of its first argument, then waits to be told to stop.
NOTES = r"""
import json, os, signal, sys
note = {"environment": dict(os.environ), "arguments": sys.argv[2:], "directory": os.getcwd(), "pid": os.getpid()}
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(note, file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
print("started", flush=True)
signal.pause()
"""


def eventually(look: t.Callable[[], bool], what: str) -> None:
    """Wait for what another process is about to do; the limit is only there so that a failing test ends."""
    deadline = time.monotonic() + 60
    while not look():
        if time.monotonic() > deadline:
            pytest.fail(f"not within a minute: {what}")
        time.sleep(0.02)


class Machine:
    """A state folder, and what runs for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "chat"
        self.environ: dict[str, str] = dict(os.environ)

    def program(self, name: str, *arguments: str, **options: t.Any) -> dict[str, t.Any]:
        """A program that notes how it was started."""
        command = [sys.executable, "-c", NOTES, str(self.folder / f"{name}.json"), *arguments]
        defaults = {key: option.get("default") for key, option in ARGS["programs"]["options"].items()}
        return {**defaults, "start_seconds": 0, "name": name, "command": command, **options}

    def apply(self, *programs: dict[str, t.Any], check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        """Run the module, by default for the component vllm."""
        defaults = {key: option.get("default") for key, option in ARGS.items()}
        given = {"state_dir": str(self.state_dir), "component": "vllm", "supervisord": SUPERVISORD, "programs": list(programs)}
        return run({**defaults, **given, **options}, check, self.environ)

    def absent(self, check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        return self.apply(check=check, state="absent", supervisord=None, **options)

    def note(self, name: str, pid: t.Optional[int]) -> dict[str, t.Any]:
        """What the program *name* noted as the process *pid*."""
        path = self.folder / f"{name}.json"
        note: dict[str, t.Any] = {}

        def read() -> bool:
            if path.exists():
                note.update(json.loads(path.read_text()))
            return note.get("pid") == pid

        eventually(read, f"{name} runs as {pid}")
        return note

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.state_dir / "supervisord.sock")

    def wait_for(self, name: str, state: str) -> None:
        eventually(lambda: any(info.name == name and info.state == state for info in self.supervisor.processes()), f"{name} is {state}")

    def pids(self) -> dict[str, t.Optional[int]]:
        return {info.name: info.pid for info in self.supervisor.processes()}

    def processes(self) -> list[_processes.Process]:
        return _processes.marked(str(self.state_dir))

    def files(self) -> set[str]:
        return {str(path.relative_to(self.state_dir)) for path in self.state_dir.rglob("*") if not path.is_dir()}

    def snapshot(self) -> dict[str, tuple[int, bytes]]:
        paths = [path for path in self.state_dir.rglob("*") if path.is_file() and path.suffix != ".log"]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    def kill_supervisord(self) -> None:
        """Kill it once its programs have said what they say, so that they do not end by a broken pipe."""
        logs = [Path(info.log_at) for info in self.supervisor.processes()]
        eventually(lambda: all(log.exists() and "started" in log.read_text() for log in logs), "all programs have started")
        pid = self.supervisor.pid()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: pid not in [process.pid for process in self.processes()], "supervisord is dead")


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Machine]:
    # a short name, for the socket
    machine = Machine(tmp_path_factory.mktemp("s"))
    yield machine
    for _attempt in range(3):
        _processes.end(machine.processes(), 0.0)
    shutil.rmtree(machine.folder, ignore_errors=True)


def states(result: dict[str, t.Any]) -> dict[str, str]:
    return {program["name"]: program["action"] for program in result["programs"]}


def pid_of(result: dict[str, t.Any], name: str) -> int:
    pid = next(program["pid"] for program in result["programs"] if program["name"] == name)
    assert isinstance(pid, int)
    return pid


# --- present ---------------------------------------------------------------------------------------------------------------------------


def test_programs_run_with_what_they_were_given(machine: Machine) -> None:
    odd = 'it\'s 100% "odd" $HOME `id` \\n ; # é\nsecond line'
    place = machine.state_dir / "models 100%"
    program = machine.program("engine", odd, "--name", "a b", environment={"ODD": odd, "NUMBER": 5, "EMPTY": ""}, directory=str(place))
    result = machine.apply(program)
    assert result["changed"]
    assert states(result) == {"engine": "added"}
    assert result["programs"][0]["state"] in ("STARTING", "RUNNING")
    note = machine.note("engine", pid_of(result, "engine"))
    assert note["arguments"] == [odd, "--name", "a b"]
    assert {name: note["environment"][name] for name in ("ODD", "NUMBER", "EMPTY")} == {"ODD": odd, "NUMBER": "5", "EMPTY": ""}
    assert note["environment"]["LLMOPS_SERVING_STATE"] == str(machine.state_dir)
    assert note["directory"] == str(place)
    log = Path(result["log_dir"]) / "engine.log"
    eventually(lambda: "started" in log.read_text(), "the log has what the program says")


def test_a_second_run_changes_nothing(machine: Machine) -> None:
    programs = [machine.program("engine", secret_environment={"KEY": "vllm/KEY"}), machine.program("router")]
    machine.apply(*programs, generate_secrets=["KEY"], secret_data={"TOKEN": SECRET})
    before, pids = machine.snapshot(), machine.pids()
    result = machine.apply(*programs, generate_secrets=["KEY"], secret_data={"TOKEN": SECRET})
    assert not result["changed"]
    assert result["diff"] == []
    assert states(result) == {"engine": "none", "router": "none"}
    assert machine.snapshot() == before
    assert machine.pids() == pids


def test_only_the_program_that_changed_is_started_anew(machine: Machine) -> None:
    machine.apply(machine.program("engine"), machine.program("router"))
    before = machine.pids()
    result = machine.apply(machine.program("engine", "--new"), machine.program("router"))
    assert states(result) == {"engine": "restarted", "router": "none"}
    assert machine.note("engine", pid_of(result, "engine"))["arguments"] == ["--new"]
    assert machine.pids()["router"] == before["router"]
    assert before["engine"] not in [process.pid for process in machine.processes()]


def test_settings_of_supervisord_count_as_change(machine: Machine) -> None:
    machine.apply(machine.program("engine"))
    assert states(machine.apply(machine.program("engine", stop_seconds=7))) == {"engine": "restarted"}


def test_a_script_that_was_edited_is_mended(machine: Machine) -> None:
    machine.apply(machine.program("engine"))
    script = machine.state_dir / "bin/engine"
    text = script.read_text()
    script.write_text(text.replace("exec ", "exec env EDITED=1 "))
    assert states(machine.apply(machine.program("engine"))) == {"engine": "restarted"}
    assert script.read_text() == text


def test_a_program_that_is_no_longer_wanted_goes_and_its_log_stays(machine: Machine) -> None:
    machine.apply(machine.program("engine"), machine.program("router"))
    pids = machine.pids()
    result = machine.apply(machine.program("engine"))
    assert states(result) == {"engine": "none", "router": "removed"}
    assert machine.pids() == {"engine": pids["engine"]}
    assert pids["router"] not in [process.pid for process in machine.processes()]
    assert "bin/router" not in machine.files()
    assert "logs/router.log" in machine.files()
    assert not machine.apply(machine.program("engine"))["changed"]


def test_components_share_a_supervisord_and_leave_each_other_alone(machine: Machine) -> None:
    machine.apply(machine.program("engine"))
    pids, supervisord = machine.pids(), machine.supervisor.pid()
    assert states(machine.apply(machine.program("page"), component="open-webui")) == {"page": "added"}
    assert machine.supervisor.pid() == supervisord
    assert machine.pids()["engine"] == pids["engine"]
    with pytest.raises(ServingError, match="The program engine of open-webui is already one of vllm"):
        machine.apply(machine.program("engine"), component="open-webui")


def test_the_script_runs_by_hand(machine: Machine) -> None:
    machine.apply(machine.program("engine", environment={"A": "b c"}, secret_environment={"KEY": "vllm/KEY"}), secret_data={"KEY": SECRET})
    machine.supervisor.stop(["engine"], 30)
    with subprocess.Popen([str(machine.state_dir / "bin/engine")], stdout=subprocess.DEVNULL) as process:
        try:
            environment = machine.note("engine", process.pid)["environment"]
        finally:
            process.kill()
    assert (environment["A"], environment["KEY"]) == ("b c", SECRET)


def test_the_callers_environment_does_not_reach_programs(machine: Machine) -> None:
    machine.environ = {
        "PATH": "/srv/ada/venv/bin:/usr/bin:/bin",
        "VIRTUAL_ENV": "/srv/ada/venv",
        "HOME": "/srv/ada",
        "LD_PRELOAD": "",
        "PYTHONPATH": "/srv/ada/lib",
        "AWS_SECRET_ACCESS_KEY": "x",
        "https_proxy": "http://proxy.test:3128",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    environment = machine.note("engine", pid_of(machine.apply(machine.program("engine")), "engine"))["environment"]
    assert environment["PATH"] == "/usr/bin:/bin"
    assert (environment["HOME"], environment["https_proxy"]) == ("/srv/ada", "http://proxy.test:3128")
    assert environment["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert not {"VIRTUAL_ENV", "LD_PRELOAD", "PYTHONPATH", "AWS_SECRET_ACCESS_KEY"} & set(environment)


def test_others_cannot_look_into_the_state_folder(machine: Machine) -> None:
    machine.state_dir.mkdir(mode=0o755)
    machine.apply(machine.program("engine"), secret_data={"KEY": SECRET})
    modes = {name: stat.S_IMODE((machine.state_dir / name).stat().st_mode) for name in ("", "secrets", "secrets/vllm", "supervisord.sock")}
    assert set(modes.values()) == {0o700}
    assert stat.S_IMODE((machine.state_dir / "secrets/vllm/KEY").stat().st_mode) == 0o600
    assert stat.S_IMODE((machine.state_dir / "logs/engine.log").stat().st_mode) == 0o600


def test_blanks_and_percent_signs_in_the_path(machine: Machine) -> None:
    machine.state_dir = machine.folder / "it's 5% of a chat"
    result = machine.apply(machine.program("engine"))
    assert machine.note("engine", pid_of(result, "engine"))["directory"] == str(machine.state_dir)
    assert not machine.apply(machine.program("engine"))["changed"]
    machine.absent()
    assert machine.processes() == []


# --- secrets ---------------------------------------------------------------------------------------------------------------------------


def test_a_secret_reaches_its_program_and_nothing_else(machine: Machine) -> None:
    program = machine.program("engine", secret_environment={"KEY": "vllm/KEY", "NONE": "vllm/NONE"})
    result = machine.apply(program, secret_data={"KEY": SECRET})
    environment = machine.note("engine", pid_of(result, "engine"))["environment"]
    assert environment["KEY"] == SECRET
    assert "NONE" not in environment
    assert result["secrets_changed"] == ["vllm/KEY"]
    assert SECRET not in json.dumps(result)
    files = [machine.state_dir / name for name in machine.files() if not name.endswith(".sock")]
    assert [path.name for path in files if SECRET in path.read_text(errors="replace")] == ["KEY"]
    lines = [process.command for process in machine.processes()]
    assert len(lines) == 2
    assert not [line for line in lines if SECRET in line]


def test_a_changed_secret_restarts_who_reads_it(machine: Machine) -> None:
    programs = [machine.program("engine", secret_environment={"KEY": "vllm/KEY"}), machine.program("router")]
    machine.apply(*programs, secret_data={"KEY": "the first one"})
    result = machine.apply(*programs, secret_data={"KEY": SECRET})
    assert states(result) == {"engine": "restarted", "router": "none"}
    assert machine.note("engine", pid_of(result, "engine"))["environment"]["KEY"] == SECRET
    assert "the first one" not in json.dumps(result)
    assert SECRET not in json.dumps(result)
    assert not machine.apply(*programs, secret_data={"KEY": SECRET})["changed"]


def test_a_secret_of_another_component_restarts_its_reader_in_the_next_run(machine: Machine) -> None:
    page = machine.program("page", secret_environment={"KEY": "vllm/KEY"})
    machine.apply(machine.program("engine"), secret_data={"KEY": "the first one"})
    machine.apply(page, component="open-webui")
    machine.apply(machine.program("engine"), secret_data={"KEY": SECRET})
    result = machine.apply(page, component="open-webui")
    assert states(result) == {"page": "restarted"}
    assert machine.note("page", pid_of(result, "page"))["environment"]["KEY"] == SECRET


def test_a_generated_secret_is_kept_until_one_is_given(machine: Machine) -> None:
    program = machine.program("engine", secret_environment={"KEY": "vllm/KEY"})
    path = machine.state_dir / "secrets/vllm/KEY"
    assert machine.apply(program, generate_secrets=["KEY"])["secrets_generated"] == ["vllm/KEY"]
    value = path.read_text()
    assert len(value) >= 32
    result = machine.apply(program, generate_secrets=["KEY"], secret_data={"KEY": ""})
    assert (result["changed"], result["secrets_generated"], path.read_text()) == (False, [], value)
    machine.apply(program, generate_secrets=["KEY"], secret_data={"KEY": SECRET})
    assert path.read_text() == SECRET


# --- what goes wrong -------------------------------------------------------------------------------------------------------------------


def test_a_killed_program_is_started_again_by_supervisord(machine: Machine) -> None:
    pid = pid_of(machine.apply(machine.program("engine")), "engine")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: machine.pids()["engine"] not in (None, pid), "another process of engine")
    assert not machine.apply(machine.program("engine"))["changed"]


def test_orphans_of_a_killed_supervisord_are_ended_and_all_runs_again(machine: Machine) -> None:
    programs = [machine.program("engine"), machine.program("router")]
    machine.apply(*programs)
    machine.apply(machine.program("page"), component="open-webui")
    orphans = {pid for pid in machine.pids().values() if pid}
    machine.kill_supervisord()
    assert orphans == {process.pid for process in machine.processes()}
    result = machine.apply(*programs)
    assert states(result) == {"engine": "started", "router": "started"}
    assert set(machine.pids()) == {"engine", "page", "router"}
    assert not orphans & {process.pid for process in machine.processes()}
    assert not machine.apply(*programs)["changed"]


def test_a_state_folder_that_was_deleted_under_a_running_supervisord(machine: Machine) -> None:
    machine.apply(machine.program("engine"))
    before = {process.pid for process in machine.processes()}
    shutil.rmtree(machine.state_dir)
    assert states(machine.apply(machine.program("engine"))) == {"engine": "added"}
    assert not before & {process.pid for process in machine.processes()}


def test_a_program_that_was_given_up_is_started_again(machine: Machine) -> None:
    flag = machine.folder / "works"
    program = machine.program("engine", start_seconds=1, start_retries=0)
    program["command"] = ["/bin/sh", "-c", f"test -e {flag} || exit 3; exec {sys.executable} -c 'import signal; signal.pause()'"]
    machine.apply(program)
    machine.wait_for("engine", "FATAL")
    flag.touch()
    result = machine.apply(program)
    assert (result["changed"], states(result)) == (True, {"engine": "started"})
    machine.wait_for("engine", "RUNNING")


def test_a_program_between_two_attempts_is_started_at_once(machine: Machine) -> None:
    program = machine.program("engine", start_seconds=1, start_retries=99)
    flag = machine.folder / "works"
    program["command"] = ["/bin/sh", "-c", f"test -e {flag} || exit 3; exec sleep 1000"]
    machine.apply(program)
    machine.wait_for("engine", "BACKOFF")
    flag.touch()
    result = machine.apply(program)
    assert states(result) == {"engine": "started"}
    assert result["programs"][0]["state"] in ("STARTING", "RUNNING")


def test_a_program_that_was_stopped_by_hand_is_started(machine: Machine) -> None:
    machine.apply(machine.program("engine"), machine.program("router"))
    machine.supervisor.stop(["engine"], 30)
    assert states(machine.apply(machine.program("engine"), machine.program("router"))) == {"engine": "started", "router": "none"}


@pytest.mark.parametrize("moment", ["write", "reload", "remove", "add"])
def test_the_next_run_completes_one_that_was_interrupted(machine: Machine, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    machine.apply(machine.program("engine"), machine.program("router"))
    wanted = [machine.program("engine", "--new"), machine.program("extra")]

    def interrupt(*_arguments: object) -> t.NoReturn:
        raise KeyboardInterrupt

    written = _component.write

    def write(path: Path, text: str, mode: int) -> None:
        if path.name == "vllm.conf":
            interrupt()
        written(path, text, mode)

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(_component, "write", write)
        else:
            patch.setattr(Supervisor, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            machine.apply(*wanted)
    result = machine.apply(*wanted)
    assert set(machine.pids()) == {"engine", "extra"}
    assert machine.note("engine", pid_of(result, "engine"))["arguments"] == ["--new"]
    assert not machine.apply(*wanted)["changed"]
    assert "bin/router" not in machine.files()


def test_a_missing_executable_is_told_before_anything_changes(machine: Machine) -> None:
    program = machine.program("engine")
    program["command"] = [str(machine.folder / "venv/bin/vllm"), "serve"]
    with pytest.raises(ServingError, match=r"The executable of engine, .*/venv/bin/vllm, does not exist. Nothing was changed."):
        machine.apply(program)
    with pytest.raises(ServingError, match="The executable of supervisord, /no/supervisord, does not exist"):
        machine.apply(machine.program("engine"), supervisord="/no/supervisord")
    plain = machine.folder / "plain"
    plain.touch()
    with pytest.raises(ServingError, match="plain, is not executable"):
        machine.apply({**program, "command": [str(plain)]})
    assert not machine.state_dir.exists()


def test_a_supervisord_that_does_not_start_says_why(machine: Machine) -> None:
    broken = machine.folder / "supervisord"
    broken.write_text("#!/bin/sh\necho 'Error: no module named supervisor' >&2\nexit 2\n")
    broken.chmod(0o700)
    with pytest.raises(ServingError, match=r"does not start \(exit status 2\). It says: no module named supervisor"):
        machine.apply(machine.program("engine"), supervisord=str(broken))
    assert states(machine.apply(machine.program("engine"))) == {"engine": "started"}


def test_a_path_that_is_too_long_for_a_socket(machine: Machine) -> None:
    machine.state_dir = machine.folder / ("x" * 90)
    with pytest.raises(ServingError, match=r"has \d+ bytes; a socket in it allows \d+. Choose a shorter llm_state_dir"):
        machine.apply(machine.program("engine"))
    assert not machine.state_dir.exists()


def test_the_longest_path_that_is_allowed_works(machine: Machine) -> None:
    room = _host.LONGEST_STATE_DIR - len(os.fsencode(machine.folder)) - 1
    machine.state_dir = machine.folder / ("x" * room)
    assert states(machine.apply(machine.program("engine"))) == {"engine": "added"}


def test_a_path_that_supervisord_cannot_read(machine: Machine) -> None:
    machine.state_dir = machine.folder / "chat #1"
    with pytest.raises(ServingError, match="has '#' in its path, which supervisord cannot read"):
        machine.apply(machine.program("engine"))


def test_a_state_folder_that_is_a_file(machine: Machine) -> None:
    machine.state_dir.touch()
    with pytest.raises(ServingError, match="is a file"):
        machine.apply(machine.program("engine"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_state_folder_of_somebody_else(machine: Machine) -> None:
    machine.state_dir.mkdir()
    os.chown(machine.state_dir, 12345, 12345)
    with pytest.raises(ServingError, match="belongs to user 12345, and this run is root"):
        machine.apply(machine.program("engine"))


def test_a_folder_that_cannot_be_made(machine: Machine) -> None:
    (machine.folder / "file").touch()
    machine.state_dir = machine.folder / "file" / "chat"
    with pytest.raises(ServingError, match=r"Cannot change .*/file/chat: Not a directory. .*choose another llm_state_dir"):
        machine.apply(machine.program("engine"))


def test_a_full_disk(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str, mode: int) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(_component, "write", full)
    with pytest.raises(ServingError, match=r"Cannot change .*/bin/engine: No space left on device. Free some space"):
        machine.apply(machine.program("engine"))


def test_two_programs_of_one_name(machine: Machine) -> None:
    with pytest.raises(ServingError, match="Two programs of vllm have the same name"):
        machine.apply(machine.program("engine"), machine.program("engine"))


@pytest.mark.parametrize("key", ["../KEY", ".hidden", "a/b", ""])
def test_a_secret_cannot_leave_its_folder(machine: Machine, key: str) -> None:
    with pytest.raises(ServingError, match="of a secret has to be letters, digits"):
        machine.apply(secret_data={key: SECRET})


# --- check mode ------------------------------------------------------------------------------------------------------------------------


def test_check_mode_before_anything_is_there(machine: Machine) -> None:
    program = machine.program("engine", secret_environment={"KEY": "vllm/KEY"})
    result = machine.apply(program, check=True, supervisord="/not/yet/supervisord", generate_secrets=["KEY"])
    assert (result["changed"], states(result)) == (True, {"engine": "added"})
    headers = [entry["after_header"] for entry in result["diff"]]
    assert [Path(header).name for header in headers] == ["KEY", "engine", "vllm.conf", "supervisord.conf"]
    assert not machine.state_dir.exists()


def test_check_mode_tells_what_would_happen_and_does_nothing(machine: Machine) -> None:
    machine.apply(
        machine.program("engine", secret_environment={"KEY": "vllm/KEY"}),
        machine.program("router"),
        machine.program("same"),
        secret_data={"KEY": "the first one"},
    )
    wanted = [machine.program("engine", secret_environment={"KEY": "vllm/KEY"}), machine.program("same"), machine.program("extra")]
    before, pids = machine.snapshot(), machine.pids()
    foreseen = machine.apply(*wanted, check=True, secret_data={"KEY": SECRET})
    assert machine.snapshot() == before
    assert machine.pids() == pids
    done = machine.apply(*wanted, secret_data={"KEY": SECRET})
    assert states(foreseen) == states(done) == {"engine": "restarted", "same": "none", "extra": "added", "router": "removed"}
    assert [entry["after_header"] for entry in foreseen["diff"]] == [entry["after_header"] for entry in done["diff"]]
    again = machine.apply(*wanted, check=True, secret_data={"KEY": SECRET})
    assert not again["changed"]


def test_check_mode_of_absent_does_nothing(machine: Machine) -> None:
    machine.apply(machine.program("engine"), secret_data={"KEY": SECRET})
    before, pids = machine.snapshot(), machine.pids()
    assert states(machine.absent(check=True, remove_secrets=True)) == {"engine": "removed"}
    assert machine.snapshot() == before
    assert machine.pids() == pids


# --- absent ----------------------------------------------------------------------------------------------------------------------------


def test_absent_ends_everything_and_keeps_what_is_not_named(machine: Machine) -> None:
    machine.apply(machine.program("engine"), machine.program("router"), secret_data={"KEY": SECRET})
    for name in ("models/a/weights", "cache/big", "venvs/vllm-1/bin/x"):
        path = machine.state_dir / name
        path.parent.mkdir(parents=True)
        path.touch()
    result = machine.absent(remove_paths=[str(machine.state_dir / "cache"), str(machine.state_dir / "venvs/vllm-1")])
    assert states(result) == {"engine": "removed", "router": "removed"}
    assert machine.processes() == []
    assert machine.files() == {"models/a/weights", "secrets/vllm/KEY", "logs/engine.log", "logs/router.log", "logs/supervisord.log"}
    assert not (machine.state_dir / "venvs").exists()
    assert not machine.absent(remove_paths=[str(machine.state_dir / "cache")])["changed"]


def test_absent_can_leave_nothing(machine: Machine) -> None:
    machine.apply(machine.program("engine"), secret_data={"KEY": SECRET})
    (machine.state_dir / "run.lock").touch()
    result = machine.absent(remove_secrets=True)
    assert SECRET not in json.dumps(result)
    assert machine.processes() == []
    assert not machine.state_dir.exists()
    again = machine.absent(remove_secrets=True)
    assert (again["changed"], again["programs"]) == (False, [])


def test_absent_of_one_component_leaves_the_other(machine: Machine) -> None:
    machine.apply(machine.program("engine"), secret_data={"KEY": SECRET})
    pids = machine.pids()
    machine.apply(machine.program("page"), component="open-webui", secret_data={"ADMIN": "x"})
    result = machine.absent(component="open-webui", remove_secrets=True)
    assert states(result) == {"page": "removed"}
    assert machine.pids() == pids
    assert "secrets/vllm/KEY" in machine.files()
    assert not [name for name in machine.files() if "open-webui" in name or name == "bin/page"]
    assert not machine.absent(component="open-webui", remove_secrets=True)["changed"]
    machine.absent()
    assert machine.processes() == []


def test_absent_ends_a_program_that_ignores_being_told(machine: Machine) -> None:
    program = machine.program("engine", stop_seconds=1)
    program["command"] = [
        sys.executable,
        "-c",
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf', flush=True)\nwhile True: time.sleep(1)",
    ]
    log = Path(machine.apply(program)["log_dir"]) / "engine.log"
    eventually(lambda: "deaf" in log.read_text(), "it listens to nobody")
    machine.absent()
    assert machine.processes() == []


def test_absent_when_supervisord_is_dead(machine: Machine) -> None:
    machine.apply(machine.program("engine"))
    machine.kill_supervisord()
    assert len(machine.processes()) == 1
    assert machine.absent(remove_secrets=True)["changed"]
    assert machine.processes() == []
    assert not machine.state_dir.exists()


def test_absent_when_the_state_folder_was_deleted(machine: Machine) -> None:
    machine.apply(machine.program("engine"))
    shutil.rmtree(machine.state_dir)
    assert machine.absent()["changed"]
    assert machine.processes() == []
    assert not machine.absent()["changed"]


def test_only_paths_in_the_state_folder_are_removed(machine: Machine) -> None:
    machine.apply(machine.program("engine"))
    elsewhere = machine.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    link = machine.state_dir / "link"
    link.symlink_to(elsewhere)
    for path in (elsewhere, machine.state_dir, machine.state_dir / "..", machine.state_dir / "models/../../elsewhere", link / "mine"):
        with pytest.raises(ServingError, match="which is not in the state folder"):
            machine.absent(remove_paths=[str(path)])
    assert set(machine.pids()) == {"engine"}
    machine.absent(remove_paths=[str(link)])
    assert not link.is_symlink()
    assert (elsewhere / "mine").exists()


# --- as a module -----------------------------------------------------------------------------------------------------------------------


def test_main_returns_what_ansible_reads(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        "state_dir": str(machine.state_dir),
        "component": "vllm",
        "supervisord": SUPERVISORD,
        "programs": [{key: value for key, value in machine.program("engine").items() if value is not None}],
        "secret_data": {"KEY": SECRET},
    }
    with patch_module_args(options), pytest.raises(SystemExit):
        supervisor_apply.main()
    output = capsys.readouterr().out
    assert states(json.loads(output)) == {"engine": "added"}
    assert SECRET not in output


def test_main_fails_with_one_message(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({"state_dir": str(machine.state_dir), "component": "a b", "state": "absent"}), pytest.raises(SystemExit):
        supervisor_apply.main()
    answer = json.loads(capsys.readouterr().out)
    assert (answer["failed"], answer["msg"]) == (True, "The component 'a b' has to be letters, digits and . _ - only.")


def test_a_port_that_somebody_else_has_taken_meanwhile(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = machine.program("router", ports=[port])
        message = rf"Port {port}, which router was to have, has been taken by process {os.getpid()} .* Run again, and another one"
        with pytest.raises(ServingError, match=message):
            machine.apply(taken)
        assert machine.processes() == []
        machine.apply(machine.program("engine"))
        engine = machine.pids()["engine"]
        with pytest.raises(ServingError, match=message):
            machine.apply(machine.program("engine"), taken)
        assert machine.pids()["engine"] == engine
    assert {program["action"] for program in machine.apply(machine.program("engine"), taken)["programs"]} == {"none", "added"}


def test_a_port_of_its_own_is_no_obstacle_to_a_restart(machine: Machine) -> None:
    listen = (
        "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('started', flush=True); time.sleep(999)"
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", listen, str(port)]
    machine.apply(machine.program("router", ports=[port], command=command))
    eventually(lambda: not usable(port, ()), "the router listens")
    changed = machine.apply(machine.program("router", ports=[port], command=command, environment={"A": "1"}))
    assert [program["action"] for program in changed["programs"]] == ["restarted"]
