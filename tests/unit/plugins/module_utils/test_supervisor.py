# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts for supervisord, and a supervisord that is asked over its socket. Whole deployments are tested with supervisor_apply."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _processes, _supervisor
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import Layout, NotRunningError, Program, Supervisor

SUPERVISORD = str(Path(sys.executable).parent / "supervisord")
CHAT = Layout(Path("/srv/ada/chat"))

SCRIPT = r"""#!/bin/sh
# Starts vllm-router. Written by llmops.serving; `make install-chat` writes it anew, so changes made here are lost.
# It can be run by hand, while supervisord does not run the program.
export LLMOPS_SERVING_STATE=/srv/ada/chat
export HF_HOME='/data/hugging face'
if [ -f /srv/ada/chat/secrets/vllm/VLLM_API_KEY ]; then
  VLLM_API_KEY="$(cat /srv/ada/chat/secrets/vllm/VLLM_API_KEY)"
  export VLLM_API_KEY
fi
echo "=== start of vllm-router, $(date '+%Y-%m-%d %H:%M:%S')"
cd /data || exit 1
exec /opt/bin/router serve \
  --port 8000 \
  --greeting 'it'"'"'s me'
"""

SECTION = """[program:vllm-router]
command = /srv/ada/chat/bin/vllm-router
environment = LLMOPS_SERVING_VERSION="0a1b"
autostart = true
autorestart = true
startsecs = 5
startretries = 3
stopwaitsecs = 30
stopasgroup = true
killasgroup = true
redirect_stderr = true
stdout_logfile = /srv/ada/chat/logs/vllm-router.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 3
"""


def options(**changes: t.Any) -> dict[str, t.Any]:
    return {"name": "vllm-router", "command": ["/opt/bin/router"], **changes}


# --- texts -----------------------------------------------------------------------------------------------------------------------------


def test_script() -> None:
    program = Program(
        "vllm-router",
        ["/opt/bin/router", "serve", "--port", "8000", "--greeting", "it's me"],
        {"HF_HOME": "/data/hugging face"},
        {"VLLM_API_KEY": ("vllm/VLLM_API_KEY",)},
        "/data",
    )
    assert _supervisor.script_text(program, CHAT) == SCRIPT


def test_section() -> None:
    assert _supervisor.program_section(Program("vllm-router", ["x"], stop_seconds=30), CHAT, "0a1b") == SECTION


def test_sections_are_read_back() -> None:
    texts = [_supervisor.program_section(Program(name, ["x"], stop_seconds=seconds), CHAT, "1") for name, seconds in (("a", 5), ("b", 45))]
    found = _supervisor.sections(_supervisor.component_conf(texts))
    assert list(found) == ["a", "b"]
    assert _supervisor.stop_seconds(found) == 45
    assert _supervisor.stop_seconds({}) == 10


def test_a_text_that_is_no_configuration_has_no_sections() -> None:
    assert _supervisor.sections("half a li") == {}


def test_what_runs_before_does_not_keep_the_program_from_starting(tmp_path: Path) -> None:
    program = _supervisor.program_from(options(command=["/bin/echo", "started"], before=["/bin/sh", "-c", "echo waited; exit 3"]))
    script = tmp_path / "run"
    script.write_text(_supervisor.script_text(program, Layout(tmp_path)))
    done = subprocess.run(["/bin/sh", str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["waited", "started"]


def test_the_version_of_a_program_changes_with_its_script_and_its_secrets(tmp_path: Path) -> None:
    path = tmp_path / "KEY"
    versions = [_supervisor.secret_version(path)]
    for value in ("one", "two"):
        new = tmp_path / "new"
        new.write_text(value)
        new.replace(path)
        versions.append(_supervisor.secret_version(path))
    digests = [_supervisor.digest("script", [version]) for version in versions] + [_supervisor.digest("other", versions[-1:])]
    assert len(set(digests)) == 4
    assert _supervisor.digest("script", [_supervisor.secret_version(path)]) == digests[2]


def test_the_environment_of_supervisord_is_small() -> None:
    given = {
        "PATH": "/v/bin::/usr/bin",
        "VIRTUAL_ENV": "/v",
        "HOME": "/srv/ada",
        "LD_LIBRARY_PATH": "/x",
        "NO_PROXY": "localhost",
        "USER": "",
    }
    assert _supervisor.environment(given, "/s") == {
        "PATH": "/usr/bin",
        "LANG": "C.UTF-8",
        "HOME": "/srv/ada",
        "NO_PROXY": "localhost",
        "LLMOPS_SERVING_STATE": "/s",
    }
    assert _supervisor.environment({}, "/s")["PATH"] == "/usr/local/bin:/usr/bin:/bin"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "a b"}, "program name 'a b' has to be letters"),
        ({"name": "../x"}, "program name '../x' has to be letters"),
        ({"command": []}, "vllm-router has no command"),
        ({"environment": {"A": True}}, r"environment.A of vllm-router has to be a text, and it is True"),
        ({"environment": {"A B": "x"}}, "'A B' of the program vllm-router cannot be the name"),
        ({"secret_environment": {"A;": "vllm/KEY"}}, "'A;' of the program vllm-router cannot be the name"),
        ({"secret_environment": {"A": "../KEY"}}, r"secret_environment.A of vllm-router is '../KEY'; it has to be COMPONENT/KEY"),
        ({"secret_environment": {"A": "vllm/../../KEY"}}, "it has to be COMPONENT/KEY"),
        ({"secret_environment": {"A": ["vllm/KEY", "/etc/passwd"]}}, "it has to be COMPONENT/KEY"),
        ({"secret_environment": {"A": ""}}, "it has to be COMPONENT/KEY"),
        ({"environment": {"A": "x"}, "secret_environment": {"A": "vllm/A"}}, "A of the program vllm-router is in environment and in"),
        ({"environment": {"A": "x\0y"}}, "holds a zero byte"),
        ({"stop_seconds": 0}, "stop_seconds of the program vllm-router is 0; it has to be 1 or more"),
        ({"log_mib": -1}, "log_mib of the program vllm-router is -1; it has to be 1 or more"),
    ],
)
def test_options_of_a_program_that_cannot_be(wrong: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        _supervisor.program_from(options(**wrong))


@pytest.mark.parametrize(
    ("references", "text"),
    [
        (["vllm/KEY", "page/KEY"], "one;two words"),
        (["", "page/KEY"], ";two words"),
        (["vllm/KEY", "page/NONE", None], "one;;"),
    ],
)
def test_several_secrets_make_one_variable(tmp_path: Path, references: list[t.Optional[str]], text: str) -> None:
    for name, value in (("vllm", "one\n"), ("page", "two words")):
        (tmp_path / "it's a state/secrets" / name).mkdir(parents=True)
        (tmp_path / "it's a state/secrets" / name / "KEY").write_text(value)
    program = _supervisor.program_from(options(command=["/bin/sh", "-c", 'printf %s "$KEYS"'], secret_environment={"KEYS": references}))
    script = tmp_path / "run"
    script.write_text(_supervisor.script_text(program, Layout(tmp_path / "it's a state")))
    done = subprocess.run(["/bin/sh", str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == [text]


def test_options_that_are_left_out_have_the_defaults_of_the_module() -> None:
    assert _supervisor.program_from(options(log_mib=None)) == Program("vllm-router", ["/opt/bin/router"])


@pytest.mark.parametrize("path", ["/srv/ada/chat; x", "/srv/#1", "/srv/[ada]", "/srv/a*", "/srv/a\nb"])
def test_paths_that_supervisord_reads_differently(path: str) -> None:
    with pytest.raises(ServingError, match="supervisord cannot read"):
        _supervisor.check_path(path)


# --- a supervisord that runs -----------------------------------------------------------------------------------------------------------


def eventually(look: t.Callable[[], bool], what: str) -> None:
    """Wait for what another process is about to do; the limit is only there so that a failing test ends."""
    deadline = time.monotonic() + 60
    while not look():
        if time.monotonic() > deadline:
            pytest.fail(f"not within a minute: {what}")
        time.sleep(0.02)


class Chat:
    """A supervisord with programs that are shell commands."""

    def __init__(self, state_dir: Path) -> None:
        self.layout = Layout(state_dir)
        for folder in (self.layout.confs, self.layout.scripts, self.layout.logs):
            folder.mkdir(parents=True)
        self.layout.conf.write_text(_supervisor.supervisord_conf(self.layout))

    def write(self, version: str = "1", **commands: str) -> None:
        sections = []
        for name, command in commands.items():
            program = Program(name, ["/bin/sh", "-c", command], start_seconds=0 if "sleep" in command else 1, start_retries=0)
            self.layout.script(name).write_text(_supervisor.script_text(program, self.layout))
            self.layout.script(name).chmod(0o700)
            sections.append(_supervisor.program_section(program, self.layout, version))
        self.layout.component_conf("vllm").write_text(_supervisor.component_conf(sections))

    def pids(self) -> set[t.Optional[int]]:
        """Processes with the mark; one that is just replaced by another program (exec) has none for a moment."""
        return {process.pid for process in _processes.marked(str(self.layout.state_dir))}

    def start(self) -> Supervisor:
        return _supervisor.start_supervisord(SUPERVISORD, self.layout, os.environ)


@pytest.fixture
def chat(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Chat]:
    # a short name, for the socket
    chat = Chat(tmp_path_factory.mktemp("s") / "chat")
    yield chat
    for _attempt in range(3):
        _processes.end(_processes.marked(str(chat.layout.state_dir)), 0.0)


def test_what_supervisord_says_about_programs(chat: Chat) -> None:
    chat.write(good="exec sleep 1000", bad="echo no >&2; exit 3")
    began = int(time.time())
    supervisor = chat.start()
    eventually(lambda: [info.state for info in supervisor.processes()] == ["FATAL", "RUNNING"], "bad is given up, good runs")
    bad, good = supervisor.processes()
    assert (bad.name, bad.pid, good.name) == ("bad", None, "good")
    assert bad.spawn_error == ""  # it did start
    assert [line for line in supervisor.log_of(bad).splitlines() if not line.startswith("=== start of bad, 20")] == ["no"]
    eventually(lambda: good.pid in chat.pids(), "good has the mark")
    assert (good.spawn_error, good.stopped_at) == ("", 0)
    assert min(good.started_at, bad.started_at, bad.stopped_at) >= began


def test_the_end_of_a_program_is_remembered(chat: Chat) -> None:
    chat.write(engine="sleep 0.2; exit 3")
    supervisor = chat.start()
    before = supervisor.processes()[0].pid
    eventually(lambda: supervisor.processes()[0].exit_status == 3, "the first end")
    eventually(lambda: supervisor.processes()[0].pid not in (None, before), "another process")
    assert supervisor.processes()[0].stopped_at > 0


def test_reload_tells_what_differs_and_touches_nothing(chat: Chat) -> None:
    chat.write(same="exec sleep 1000", gone="exec sleep 1000")
    supervisor = chat.start()
    pids = [info.pid for info in supervisor.processes()]
    chat.write(same="exec sleep 1000", new="exec sleep 1000")
    assert supervisor.reload() == (["new"], [], ["gone"])
    chat.write("2", same="exec sleep 1000", gone="exec sleep 1000")
    assert supervisor.reload() == ([], ["gone", "same"], [])
    assert [info.pid for info in supervisor.processes()] == pids


def test_a_configuration_that_cannot_be_read(chat: Chat) -> None:
    chat.write(engine="exec sleep 1000")
    supervisor = chat.start()
    chat.layout.component_conf("vllm").write_text("[program:engine]\nstartsecs = soon\n")
    with pytest.raises(ServingError, match=r"cannot read its configuration: .*'soon'"):
        supervisor.reload()
    assert [info.name for info in supervisor.processes()] == ["engine"]


def test_stop_is_for_all_at_once_and_waits(chat: Chat) -> None:
    slow = "trap 'sleep 0.5; exit 0' TERM; while :; do sleep 0.05; done"
    chat.write(a=slow, b=slow, c="exec sleep 1000")
    supervisor = chat.start()
    eventually(lambda: {info.state for info in supervisor.processes()} == {"RUNNING"}, "all run")
    supervisor.stop(["a", "b"], 60)
    assert {info.name: info.state for info in supervisor.processes()} == {"a": "STOPPED", "b": "STOPPED", "c": "RUNNING"}
    supervisor.stop(["a", "nobody"], 60)
    supervisor.start("a")
    supervisor.start("c")
    assert supervisor.processes()[0].pid is not None


def test_a_program_that_does_not_stop(chat: Chat) -> None:
    chat.write(deaf="trap '' TERM; echo ready; while :; do sleep 0.05; done")
    supervisor = chat.start()
    eventually(lambda: "ready" in chat.layout.log("deaf").read_text(), "it listens to nobody")
    with pytest.raises(ServingError, match=r"could not stop deaf \(process \d+\) within 0 s"):
        supervisor.stop(["deaf"], 0.1)


def test_an_order_that_supervisord_refuses(chat: Chat) -> None:
    chat.write(engine="exec sleep 1000")
    supervisor = chat.start()
    with pytest.raises(ServingError, match=r"answers BAD_NAME: nobody to startProcess\(nobody, False\)"):
        supervisor.start("nobody")
    with pytest.raises(ServingError, match="answers STILL_RUNNING: engine to removeProcessGroup"):
        supervisor.remove("engine")


def test_nobody_listens(chat: Chat) -> None:
    with pytest.raises(NotRunningError, match="No supervisord listens at"):
        Supervisor(chat.layout.socket).processes()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(chat.layout.socket))  # the file stays, as after a kill
    with pytest.raises(NotRunningError, match="No supervisord listens at"):
        Supervisor(chat.layout.socket).processes()


def test_a_supervisord_that_is_about_to_end_does_not_run(chat: Chat) -> None:
    chat.write(slow="trap 'sleep 2; exit 0' TERM; while :; do sleep 0.05; done")
    supervisor = chat.start()
    supervisor.shutdown()
    with pytest.raises(NotRunningError):
        supervisor.processes()
    eventually(lambda: not chat.layout.socket.exists(), "supervisord is gone")


def test_a_supervisord_that_hangs(chat: Chat) -> None:
    chat.write(engine="exec sleep 1000")
    pid = chat.start().pid()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ServingError, match="does not answer within 1 s") as caught:
        Supervisor(chat.layout.socket, timeout_s=1).processes()
    assert not isinstance(caught.value, NotRunningError)
    os.kill(pid, signal.SIGCONT)
    assert Supervisor(chat.layout.socket).pid() == pid


def test_what_listens_is_no_supervisord(chat: Chat) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(chat.layout.socket))
        listener.listen()

        def answer() -> None:
            connection, _address = listener.accept()
            with connection:
                asked = b""
                while not asked.rstrip().endswith(b"</methodCall>"):
                    asked += connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ServingError, match="cannot be asked: SSH"):
            Supervisor(chat.layout.socket).processes()
        thread.join()


def test_a_configuration_with_which_supervisord_does_not_start(chat: Chat) -> None:
    chat.layout.component_conf("vllm").write_text("[program:engine]\n")
    with pytest.raises(ServingError, match=r"does not start \(exit status 2\). It says: .*does not specify a command"):
        chat.start()


def test_a_supervisord_that_cannot_be_run(chat: Chat) -> None:
    with pytest.raises(ServingError, match="/no/supervisord: No such file or directory"):
        _supervisor.start_supervisord("/no/supervisord", chat.layout, os.environ)


def test_leftovers_are_all_but_the_run_itself(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    chat.write(a="exec sleep 1000", b="exec sleep 1000")
    supervisor = chat.start()
    pid = supervisor.pid()
    state_dir = str(chat.layout.state_dir)
    # until then, the scripts still run, and what they start for a moment
    eventually(lambda: [process.command for process in _processes.marked(state_dir)].count("sleep 1000") == 2, "both programs are there")
    assert chat.pids() == {pid, *(info.pid for info in supervisor.processes())}
    inside = chat.pids()
    with monkeypatch.context() as patch:
        patch.setattr(_processes, "family", lambda: {os.getpid(), pid})
        assert {process.pid for process in _supervisor.leftovers(state_dir)} == inside - {pid}
    assert {process.pid for process in _supervisor.end_leftovers(state_dir, 30)} >= inside
    assert _processes.marked(state_dir) == []
