# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Programs of one machine under supervisord: its API over a Unix socket, its configuration, and the scripts that it starts.

Texts are rendered by pure functions; what is asked of a running supervisord goes through Supervisor. supervisord 4.3 is meant.
"""

from __future__ import annotations

import configparser
import hashlib
import http.client
import os
import re
import shlex
import socket
import subprocess
import typing as t
import xmlrpc.client
from pathlib import Path
from xml.parsers.expat import ExpatError

from ansible_collections.llmops.serving.plugins.module_utils import _processes
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._keepers import DOWN, ProcessInfo, until
from ansible_collections.llmops.serving.plugins.module_utils._logs import START_MARK, tail

# What is neither stopped nor on its way up or running: to be taken out and put in anew, which also forgets failed attempts.
STUCK = ("BACKOFF", "STOPPING", "UNKNOWN")

# How supervisord's words begin for a program that did start, and ended: its log knows more.
ENDED = ("Exited too quickly", "Bad exit code")

ANSWER_S = 10.0
START_S = 60.0
# supervisord kills what has not stopped in time; so much later it must be gone.
KILL_S = 15.0

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
REFERENCE = re.compile(rf"{NAME.pattern}/{NAME.pattern}")
# supervisord takes what follows ; or # for a comment, and expands the others as a pattern.
_NO_PATH = re.compile(r"[\x00-\x1f\x7f;#*?\[\]]")

# All that supervisord, and so every program, gets of the environment of whoever ran the module.
KEPT_VARIABLES = (
    "HOME",
    "USER",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    *(name for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (proxy, proxy.upper())),
)
USUAL_PATH = "/usr/local/bin:/usr/bin:/bin"

_SHUTDOWN_STATE, _BAD_NAME, _CANT_REREAD = 6, 10, 92
_ALREADY_STARTED, _NOT_RUNNING, _ALREADY_ADDED = 60, 70, 90


class NotRunningError(ServingError):
    """Nobody listens on the socket, or whoever does is about to shut down."""


# --- what is asked for -----------------------------------------------------------------------------------------------------------------


class Layout(t.NamedTuple):
    """Where things are in the state folder."""

    state_dir: Path

    @property
    def conf(self) -> Path:
        """The configuration of supervisord itself."""
        return self.state_dir / "supervisord.conf"

    @property
    def socket(self) -> Path:
        """The socket on which supervisord listens."""
        return self.state_dir / "supervisord.sock"

    @property
    def pid(self) -> Path:
        """The file with the process id of supervisord."""
        return self.state_dir / "supervisord.pid"

    @property
    def confs(self) -> Path:
        """The folder with the programs of each component."""
        return self.state_dir / "conf.d"

    @property
    def scripts(self) -> Path:
        """The folder with a launch script for each program."""
        return self.state_dir / "bin"

    @property
    def logs(self) -> Path:
        """The folder with all logs."""
        return self.state_dir / "logs"

    @property
    def secrets(self) -> Path:
        """The folder with a folder of secrets for each component."""
        return self.state_dir / "secrets"

    def component_conf(self, component: str) -> Path:
        """Return the file with the programs of *component*."""
        return self.confs / f"{component}.conf"

    def script(self, program: str) -> Path:
        """Return the launch script of *program*."""
        return self.scripts / program

    def log(self, program: str) -> Path:
        """Return the log of *program*."""
        return self.logs / f"{program}.log"

    def secret(self, reference: str) -> Path:
        """Return the file of a secret named ``component/KEY``."""
        return self.secrets / reference


class Program(t.NamedTuple):
    """A program to keep running. ``secret_environment`` names for a variable a secret, as ``component/KEY``.

    Several of them are joined by semicolons; an empty one among them stands for an empty text. ``writable`` and ``gpu`` say what it may do
    beside reading; supervisord does not keep anybody from anything.
    """

    name: str
    command: t.Sequence[str]
    environment: t.Mapping[str, str] = {}
    secret_environment: t.Mapping[str, tuple[str, ...]] = {}
    directory: str = ""
    before: t.Sequence[str] = ()
    start_seconds: int = 5
    start_retries: int = 3
    stop_seconds: int = 10
    log_mib: int = 10
    log_backups: int = 3
    writable: t.Sequence[str] = ()
    gpu: bool = False

    @property
    def references(self) -> list[str]:
        """All secrets that it is given, as ``component/KEY``."""
        return [reference for references in self.secret_environment.values() for reference in references if reference]


def program_from(options: t.Mapping[str, t.Any]) -> Program:
    """Return the program that *options* of the module describe. Raises ServingError, which names the field."""
    name = options["name"]
    if not NAME.fullmatch(name):
        raise ServingError(f"The program name {name!r} has to be letters, digits and . _ - only.")
    if not options["command"] or not options["command"][0]:
        raise ServingError(f"The program {name} has no command. Give it a list: the executable, then its arguments.")
    environment = {}
    for variable, value in (options.get("environment") or {}).items():
        if value is None or isinstance(value, (dict, list, bool)):
            raise ServingError(f"environment.{variable} of {name} has to be a text, and it is {value!r}. Write it in quotes.")
        environment[str(variable)] = str(value)
    secret_environment = {
        str(variable): tuple(str(each or "") for each in (value if isinstance(value, (list, tuple)) else [value]))
        for variable, value in (options.get("secret_environment") or {}).items()
    }
    for variable in [*environment, *secret_environment]:
        if not VARIABLE.fullmatch(variable):
            raise ServingError(f"{variable!r} of the program {name} cannot be the name of an environment variable.")
    twice = sorted(set(environment) & set(secret_environment))
    if twice:
        raise ServingError(f"{twice[0]} of the program {name} is in environment and in secret_environment. Keep one of them.")
    for variable, references in secret_environment.items():
        for reference in references:
            if not REFERENCE.fullmatch(reference) and (reference or len(references) == 1):
                raise ServingError(f"secret_environment.{variable} of {name} is {reference!r}; it has to be COMPONENT/KEY.")
    directory = options.get("directory") or ""
    if any("\0" in text for text in [*options["command"], *(options.get("before") or []), *environment.values(), directory]):
        raise ServingError(f"The command or the environment of the program {name} holds a zero byte, which no process can be given.")
    numbers = {}
    for field, least in (("start_seconds", 0), ("start_retries", 0), ("stop_seconds", 1), ("log_mib", 1), ("log_backups", 0)):
        value = options.get(field)
        numbers[field] = Program._field_defaults[field] if value is None else value
        if numbers[field] < least:
            raise ServingError(f"{field} of the program {name} is {numbers[field]}; it has to be {least} or more.")
    before = tuple(options.get("before") or ())
    writable, gpu = tuple(options.get("writable") or ()), bool(options.get("gpu"))
    command = list(options["command"])
    return Program(name, command, environment, secret_environment, directory, before, writable=writable, gpu=gpu, **numbers)


def check_path(state_dir: str) -> None:
    """Raise ServingError when supervisord's configuration cannot express the path *state_dir*."""
    found = _NO_PATH.search(state_dir)
    if found:
        raise ServingError(
            f"The state folder {state_dir} has {found.group()!r} in its path, which supervisord cannot read. Choose another llm_state_dir."
        )


# --- texts -----------------------------------------------------------------------------------------------------------------------------


def script_text(program: Program, layout: Layout, unit: bool = False) -> str:
    """Return the shell script that starts *program*. It names the files of secrets, and holds none.

    In a *unit* of systemd it takes them from the credentials of the unit, and leaves word with which version it was started.
    """
    lines = [
        "#!/bin/sh",
        f"# Starts {program.name}. Written by llmops.serving; `make install-chat` writes it anew, so changes made here are lost.",
        *([] if unit else ["# It can be run by hand, while supervisord does not run the program."]),
        f"export {_processes.MARK}={shlex.quote(str(layout.state_dir))}",
    ]
    lines += [f"export {variable}={shlex.quote(value)}" for variable, value in program.environment.items()]
    for variable, references in program.secret_environment.items():
        paths = [_secret_path(reference, layout, unit) if reference else "" for reference in references]
        if len(paths) == 1:
            lines += [f"if [ -f {paths[0]} ]; then", f'  {variable}="$(cat {paths[0]})"', f"  export {variable}", "fi"]
            continue
        texts = [f"$([ ! -f {path} ] || cat {path})" if path else "" for path in paths]
        lines += [f'{variable}="{";".join(texts)}"', f"export {variable}"]
    lines += ['echo "$LLMOPS_SERVING_VERSION" >"$RUNTIME_DIRECTORY/version"'] if unit else []
    # a log holds several starts; whoever looks for the cause of an end looks behind the last of these lines
    lines += [f"echo \"{START_MARK} {program.name}, $(date '+%Y-%m-%d %H:%M:%S')\""]
    lines += [f"cd {shlex.quote(program.directory or str(layout.state_dir))} || exit 1"]
    if program.before:
        lines += [f"{_command_text(program.before)} || true"]
    lines += [f"exec {_command_text(program.command)}"]
    return "\n".join(lines) + "\n"


def _secret_path(reference: str, layout: Layout, unit: bool) -> str:
    """Return, for a shell, where a program finds a secret: a unit among its credentials, others in its file."""
    if unit:
        return f'"$CREDENTIALS_DIRECTORY"/{shlex.quote(credential(reference))}'
    return shlex.quote(str(layout.secret(reference)))


def credential(reference: str) -> str:
    """Return the name by which a unit knows the secret ``component/KEY``: secrets of two components may have the same key."""
    return reference.replace("/", ".")


def _command_text(command: t.Sequence[str]) -> str:
    """Return *command* for a shell, each option on a line of its own."""
    text = shlex.quote(command[0])
    for word in command[1:]:
        text += (" \\\n  " if word.startswith("-") else " ") + shlex.quote(word)
    return text


def digest(script: str, secrets: t.Iterable[str]) -> str:
    """Return 12 hex digits that change with the *script* and with the versions of the *secrets* that it reads."""
    return hashlib.sha256("\n".join([script, *secrets]).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def secret_version(path: Path) -> str:
    """Return what changes whenever the file of a secret is written. It tells nothing about the value, which may be easy to guess."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return "absent"
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


def program_section(program: Program, layout: Layout, version: str) -> str:
    """Return the section of *program* in supervisord's configuration. A new *version* makes supervisord start it anew."""
    settings = {
        "command": shlex.quote(str(layout.script(program.name))),
        "environment": f'LLMOPS_SERVING_VERSION="{version}"',
        "autostart": "true",
        "autorestart": "true",
        "startsecs": program.start_seconds,
        "startretries": program.start_retries,
        "stopwaitsecs": program.stop_seconds,
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        # supervisord expands this one setting twice
        "stdout_logfile": str(layout.log(program.name)).replace("%", "%%"),
        "stdout_logfile_maxbytes": f"{program.log_mib}MB",
        "stdout_logfile_backups": program.log_backups,
    }
    return _section(f"program:{program.name}", settings)


def component_conf(sections: t.Iterable[str]) -> str:
    """Return the configuration file of a component out of the *sections* of its programs."""
    return "\n".join(["; Written by llmops.serving; `make install-chat` writes it anew.\n", *sections])


def supervisord_conf(layout: Layout) -> str:
    """Return the configuration of supervisord itself, which takes in those of the components.

    It asks for fewer file descriptors and processes than supervisord does by itself, which an unprivileged user may not be granted.
    """
    return "\n".join(
        [
            "; Written by llmops.serving; `make install-chat` writes it anew.",
            f"; To look: supervisorctl -c {shlex.quote(str(layout.conf))} status\n",
            _section("unix_http_server", {"file": layout.socket, "chmod": "0700"}),
            _section(
                "supervisord",
                {
                    "logfile": layout.logs / "supervisord.log",
                    "logfile_maxbytes": "5MB",
                    "logfile_backups": 2,
                    "loglevel": "info",
                    "pidfile": layout.pid,
                    "childlogdir": layout.logs,
                    "directory": layout.state_dir,
                    "nodaemon": "false",
                    "nocleanup": "true",
                    "umask": "077",
                    "minfds": 256,
                    "minprocs": 50,
                    "identifier": "llmops-serving",
                },
            ),
            _section("rpcinterface:supervisor", {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"}),
            _section("supervisorctl", {"serverurl": f"unix://{layout.socket}"}),
            # relative to this file: the setting is a list of patterns, divided by blanks
            _section("include", {"files": f"{layout.confs.name}/*.conf"}),
        ]
    )


def _section(title: str, settings: t.Mapping[str, object]) -> str:
    lines = [f"{key} = {str(value).replace('%', '%%')}" for key, value in settings.items()]
    return "\n".join([f"[{title}]", *lines]) + "\n"


def sections(conf: str) -> dict[str, dict[str, str]]:
    """Return the settings of each program in the text of a component's configuration; of a text that is none, nothing."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(conf)
    except configparser.Error:
        return {}
    return {title[len("program:") :]: dict(parser.items(title)) for title in parser.sections() if title.startswith("program:")}


def stop_seconds(programs: t.Mapping[str, t.Mapping[str, str]]) -> int:
    """Return how long the slowest of *programs*, as sections returns them, may take to stop; at least 10."""
    given = [settings.get("stopwaitsecs", "") for settings in programs.values()]
    return max([10, *(int(text) for text in given if text.isdigit())])


def environment(environ: t.Mapping[str, str], state_dir: str) -> dict[str, str]:
    """Return the environment of supervisord out of *environ*: little of it, and the mark of the deployment.

    A virtual environment of whoever runs the module, and what changes how programs are loaded, would reach every program.
    """
    own = os.path.join(environ["VIRTUAL_ENV"], "bin") if environ.get("VIRTUAL_ENV") else None
    path = [folder for folder in environ.get("PATH", "").split(os.pathsep) if folder and folder != own]
    kept = {name: environ[name] for name in KEPT_VARIABLES if environ.get(name)}
    return {"PATH": os.pathsep.join(path) or USUAL_PATH, "LANG": "C.UTF-8", **kept, _processes.MARK: state_dir}


# --- a supervisord that runs -----------------------------------------------------------------------------------------------------------


class Changes(t.NamedTuple):
    """Names of programs by which the configuration differs from what supervisord runs."""

    added: list[str]
    changed: list[str]
    removed: list[str]


class Supervisor:
    """A supervisord, reached through its socket. Connects with the first question.

    Every method raises NotRunningError when nobody listens, and ServingError when the answer is an error or does not come.
    """

    def __init__(self, socket_path: t.Union[str, Path], timeout_s: float = ANSWER_S) -> None:
        self.socket_path = str(socket_path)
        self.timeout_s = timeout_s
        self._proxy = xmlrpc.client.ServerProxy("http://supervisord", transport=_UnixTransport(self.socket_path, timeout_s))

    def processes(self) -> list[ProcessInfo]:
        """Return all programs that supervisord knows."""
        found = self._call("getAllProcessInfo")
        return [
            ProcessInfo(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"] or None,
                exit_status=info["exitstatus"],
                started_at=info["start"],
                stopped_at=info["stop"],
                # its words for a program that did start, and ended, are none: its log knows more
                spawn_error="" if info["spawnerr"].startswith(ENDED) else info["spawnerr"],
                log_at=info["stdout_logfile"],
            )
            for info in found
        ]

    def log_of(self, info: ProcessInfo) -> str:
        """Return the end of a program's log."""
        return tail(info.log_at)

    def pid(self) -> int:
        """Return the process id of supervisord."""
        return int(self._call("getPID"))

    def reload(self) -> Changes:
        """Let supervisord read its configuration again, and return what differs. Nothing is started or stopped by it."""
        return Changes(*(list(names) for names in self._call("reloadConfig")[0]))

    def add(self, name: str) -> None:
        """Take in a program of the configuration, which starts it."""
        self._call("addProcessGroup", name, fine=[_ALREADY_ADDED])

    def remove(self, name: str) -> None:
        """Forget a program that is stopped."""
        self._call("removeProcessGroup", name, fine=[_BAD_NAME])

    def start(self, name: str) -> None:
        """Start a program that is down, without waiting for it."""
        self._call("startProcess", name, False, fine=[_ALREADY_STARTED])

    def stop(self, names: t.Iterable[str], timeout_s: float) -> None:
        """Stop the programs *names* all at once, and wait until they are. Raises ServingError after *timeout_s* seconds."""
        names = list(names)
        for name in names:
            self._call("stopProcess", name, False, fine=[_NOT_RUNNING, _BAD_NAME])
        if names and not until(lambda: not self._unstopped(names), timeout_s):
            left = ", ".join(f"{info.name} (process {info.pid})" for info in self._unstopped(names))
            raise ServingError(f"supervisord could not stop {left} within {timeout_s:.0f} s. End it by hand, then run again.")

    def _unstopped(self, names: t.Collection[str]) -> list[ProcessInfo]:
        return [info for info in self.processes() if info.name in names and info.state not in DOWN]

    def shutdown(self) -> None:
        """Tell supervisord to stop all and to end, without waiting for it."""
        self._call("shutdown")

    def _call(self, method: str, *arguments: t.Union[str, bool], fine: t.Collection[int] = ()) -> t.Any:
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as exc:
            if exc.faultCode in fine:
                return None
            if exc.faultCode == _SHUTDOWN_STATE:
                raise NotRunningError(f"supervisord at {self.socket_path} is shutting down.") from None
            if exc.faultCode == _CANT_REREAD:
                raise ServingError(f"supervisord cannot read its configuration: {_one_line(exc.faultString)}") from None
            raise ServingError(f"supervisord answers {_one_line(exc.faultString)} to {method}({', '.join(map(str, arguments))}).") from None
        except socket.timeout:
            raise ServingError(
                f"supervisord at {self.socket_path} does not answer within {self.timeout_s:.0f} s. "
                f"End it, then run again; its process id is in {os.path.splitext(self.socket_path)[0]}.pid."
            ) from None
        except (FileNotFoundError, ConnectionError):
            raise NotRunningError(f"No supervisord listens at {self.socket_path}.") from None
        except (OSError, xmlrpc.client.Error, http.client.HTTPException, ExpatError) as exc:
            raise ServingError(f"supervisord at {self.socket_path} cannot be asked: {exc}") from None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("supervisord", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s
        self._http: t.Optional[_UnixConnection] = None

    def make_connection(self, host: t.Any) -> http.client.HTTPConnection:
        if self._http is None:
            self._http = _UnixConnection(self._path, self._timeout_s)
        return self._http

    def close(self) -> None:
        # called after each failure: what is left of an answer must not be taken for the next one
        if self._http is not None:
            self._http.close()
            self._http = None


# --- its beginning and its end ---------------------------------------------------------------------------------------------------------


def start_supervisord(executable: str, layout: Layout, environ: t.Mapping[str, str]) -> Supervisor:
    """Start supervisord, which starts all its programs, and return it when it answers. Raises ServingError with its last words."""
    command = [executable, "-c", str(layout.conf)]
    try:
        done = subprocess.run(
            command,
            env=environment(environ, str(layout.state_dir)),
            cwd=layout.state_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            umask=0o077,
            timeout=START_S,
            check=False,
        )
    except OSError as exc:
        raise ServingError(f"supervisord cannot be started: {executable}: {exc.strerror}. Install it anew.") from None
    except subprocess.TimeoutExpired:
        raise ServingError(f"supervisord did not start within {START_S:.0f} s. {_last_words('', layout)}") from None
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        raise ServingError(f"supervisord does not start (exit status {done.returncode}). {_last_words(output, layout)}")
    supervisor = Supervisor(layout.socket)
    if not until(lambda: _answers(supervisor), START_S):
        raise ServingError(f"supervisord was started, but does not answer. {_last_words(output, layout)}")
    return supervisor


def _answers(supervisor: Supervisor) -> bool:
    try:
        return supervisor.pid() > 0
    except NotRunningError:
        return False


def _last_words(output: str, layout: Layout, most: int = 3) -> str:
    """Return the cause that supervisord itself printed, else the last lines of its log."""
    errors = [line for line in output.splitlines() if line.startswith("Error:")]
    if errors:
        return f"It says: {errors[-1][len('Error:') :].strip()}"
    path = layout.logs / "supervisord.log"
    try:
        output = output or path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        output = output or ""
    lines = [line for line in output.splitlines() if line.strip()][-most:]
    return f"Its last words: {' | '.join(lines)}" if lines else f"It left no word; see {path}."


def leftovers(state_dir: str) -> list[_processes.Process]:
    """Return the processes of the deployment, without this one and those above it."""
    family = _processes.family()
    return [process for process in _processes.marked(state_dir) if process.pid not in family]


def end_leftovers(state_dir: str, grace_s: float) -> list[_processes.Process]:
    """End every process of the deployment, and return them. What they start meanwhile is ended, too."""
    ended: list[_processes.Process] = []
    for _attempt in range(5):
        found = leftovers(state_dir)
        if not found:
            return ended
        ended += found
        _processes.end(found, grace_s)
    found = leftovers(state_dir)
    if found:
        raise ServingError(f"The process {found[0].pid} ({found[0].command[:60]}) cannot be ended. End it by hand, then run again.")
    return ended


def _one_line(text: str) -> str:
    return " ".join(text.split())
