# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The programs of a component on a host, whatever keeps them running: options, folders, secrets, scripts, ports, and their end.

Partner: plugins/doc_fragments/component.py. What is of one keeper only is in the modules supervisor_apply and systemd_apply.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import http.client
import os
import pwd
import secrets
import shutil
import stat
import tempfile
import typing as t
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.llmops.serving.plugins.module_utils import _host, _processes, _supervisor
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._host import LONGEST_STATE_DIR
from ansible_collections.llmops.serving.plugins.module_utils._keepers import Keeper, ProcessInfo, Watch
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import Layout
from ansible_collections.llmops.serving.plugins.module_utils._wait import laps

ADDED = "added"
NONE = "none"
REMOVED = "removed"
RESTARTED = "restarted"
STARTED = "started"
# Between two looks whether a program is ready.
READY_PAUSE_S = 0.5
# What host_check leaves in the state folder: the lock of a run, and the ports that were chosen.
RESERVED = {"run.lock", "ports.json"}

# What all need that write into a state folder; COMPONENT_ARGS, whoever keeps programs as well.
FOLDER_ARGS: dict[str, t.Any] = {
    "state_dir": {"type": "path", "required": True},
    "component": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "files": {"type": "dict", "default": {}},
    "secret_data": {"type": "dict", "default": {}, "no_log": True},
    "generate_secrets": {"type": "list", "elements": "str", "default": [], "no_log": False},
    "remove_paths": {"type": "list", "elements": "path", "default": []},
    "remove_secrets": {"type": "bool", "default": False, "no_log": False},
}
COMPONENT_ARGS: dict[str, t.Any] = {
    **FOLDER_ARGS,
    "programs": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "environment": {"type": "dict", "default": {}},
            "secret_environment": {"type": "dict", "default": {}, "no_log": False},
            "directory": {"type": "path"},
            "before": {"type": "list", "elements": "str", "default": []},
            "start_seconds": {"type": "int", "default": 5},
            "start_retries": {"type": "int", "default": 3},
            "stop_seconds": {"type": "int", "default": 10},
            "ready_url": {"type": "str"},
            "ports": {"type": "list", "elements": "int", "default": []},
            "writable": {"type": "list", "elements": "path", "default": []},
            "gpu": {"type": "bool", "default": False},
            "log_mib": {"type": "int", "default": 10},
            "log_backups": {"type": "int", "default": 3},
        },
    },
    "wait_timeout": {"type": "int", "default": 300},
    **PROGRESS_ARGS,
}


class Runnable(t.Protocol):
    """A component whose options are right."""

    def run(self) -> dict[str, t.Any]:
        """Act, and return the result of the module."""


class Component:
    """What all keepers and both states share: where things are, what is there, and a note of every change."""

    def __init__(self, params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> None:
        self.params = params
        self.check_mode = check_mode
        self.environ = os.environ if environ is None else environ
        self.layout = Layout(Path(os.path.abspath(params["state_dir"])))
        self.name: str = params["component"]
        self.diff: list[dict[str, str]] = []
        self.changed = False
        self.generated: list[str] = []
        self.given: list[str] = []
        if not _supervisor.NAME.fullmatch(self.name):
            raise ServingError(f"The component {self.name!r} has to be letters, digits and . _ - only.")

    @property
    def state_dir(self) -> Path:
        """The state folder."""
        return self.layout.state_dir

    def note(self, path: Path, before: str, after: str) -> None:
        """Take down that *path* changes, for ``--diff``."""
        self.changed = True
        self.diff.append({"before": before, "after": after, "before_header": str(path), "after_header": str(path)})

    def result(self, infos: t.Iterable[ProcessInfo], actions: t.Mapping[str, str]) -> dict[str, t.Any]:
        """Return the result of the module; *actions* are those of each program."""
        found = {info.name: info for info in infos}
        programs: list[dict[str, t.Any]] = []
        for name, action in actions.items():
            info = found.get(name)
            programs.append({"name": name, "state": info.state if info else "", "pid": info.pid if info else None, "action": action})
        return {
            "changed": self.changed or any(action != NONE for action in actions.values()),
            "programs": programs,
            "secrets_generated": self.generated,
            "secrets_changed": self.given,
            "log_dir": str(self.layout.logs),
            "diff": self.diff,
        }

    def remove(self, path: Path) -> None:
        """Remove a file or a folder, and take that down."""
        if not os.path.lexists(path):
            return
        self.note(path, "present\n", "absent\n")
        if not self.check_mode:
            remove(path)


class Wanted(Component):
    """The programs are to run. The constructor checks the options."""

    # Modes of folders and scripts: a supervisord has all of its own user, units run as another one.
    FOLDER_MODE, SCRIPT_MODE = 0o700, 0o700

    def __init__(self, params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> None:
        super().__init__(params, check_mode, environ)
        _supervisor.check_path(str(self.state_dir))
        length = len(os.fsencode(self.state_dir))
        if length > LONGEST_STATE_DIR:
            raise ServingError(
                f"The path of the state folder {self.state_dir} has {length} bytes; a socket in it allows {LONGEST_STATE_DIR}. "
                "Choose a shorter llm_state_dir."
            )
        self.wanted = {options["name"]: _supervisor.program_from(options) for options in params["programs"]}
        if len(self.wanted) < len(params["programs"]):
            raise ServingError(
                f"Two programs of {self.name} have the same name. Names: {', '.join(o['name'] for o in params['programs'])}."
            )
        self.values = secret_values(params["secret_data"], params["generate_secrets"])

    def check_place(self) -> None:
        """Raise ServingError when the state folder is none, or somebody else's."""
        try:
            found = os.stat(self.state_dir)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise ServingError(f"The state folder {self.state_dir} is a file. Remove it, or choose another llm_state_dir.")
        if found.st_uid != os.geteuid():
            raise ServingError(
                f"The state folder {self.state_dir} belongs to {user_name(found.st_uid)}, and this run is {user_name(os.geteuid())}. "
                "Run as its owner, or choose another llm_state_dir."
            )

    def refuse_twins(self, elsewhere: t.Mapping[str, str]) -> None:
        """Raise ServingError for a program that another component has, too. *elsewhere*: components by the names of their programs."""
        for name in self.wanted:
            if name in elsewhere:
                raise ServingError(f"The program {name} of {self.name} is already one of {elsewhere[name]}. Give it another name.")

    def check_executables(self, more: t.Mapping[str, str]) -> None:
        """Raise ServingError for a program, or one of *more*, whose executable is not there."""
        path = _supervisor.environment(self.environ, str(self.state_dir))["PATH"]
        commands = {**more, **{name: program.command[0] for name, program in self.wanted.items()}}
        for name, command in commands.items():
            search = self.wanted[name].environment.get("PATH", path) if name in self.wanted else path
            if "/" in command and not os.path.isabs(command):
                raise ServingError(f"The executable of {name} is {command}; give its whole path.")
            if shutil.which(command, path=search) is None:
                state = "is not executable" if os.path.exists(command) else "does not exist"
                raise ServingError(f"The executable of {name}, {command}, {state}. Nothing was changed. Install it, then run again.")
        for program in self.wanted.values():
            if program.directory and not self._is_ours(program.directory) and not os.path.isdir(program.directory):
                raise ServingError(f"The folder {program.directory} of {program.name} does not exist. Make it, then run again.")

    def _is_ours(self, directory: str) -> bool:
        return Path(os.path.abspath(directory)).is_relative_to(self.state_dir)

    # --- files -----------------------------------------------------------------------------------------------------------------------

    def make_folders(self, folders: t.Iterable[Path]) -> None:
        """Make *folders* and that of the secrets, and those of the state folder in which programs run."""
        layout = self.layout
        modes = dict.fromkeys((layout.state_dir, *folders), self.FOLDER_MODE)
        for folder, mode in {**modes, layout.secrets: 0o700, layout.secrets / self.name: 0o700}.items():
            if folder.is_dir():
                self.set_mode(folder, mode)
                continue
            self.changed = True
            if not self.check_mode:
                folder.mkdir(parents=True)
                folder.chmod(mode)
        for program in self.wanted.values():
            if program.directory and self._is_ours(program.directory) and not os.path.isdir(program.directory):
                self.changed = True
                if not self.check_mode:
                    os.makedirs(program.directory, mode=0o700)

    def write_files(self) -> None:
        """Write the files that were given with their texts."""
        for name, text in self.params["files"].items():
            path = Path(os.path.abspath(self.state_dir / name))
            if self.state_dir not in path.parents:
                raise ServingError(f"files has {name}, which is not in the state folder {self.state_dir}. Nothing was started.")
            if not self.check_mode:
                path.parent.mkdir(mode=self.FOLDER_MODE, parents=True, exist_ok=True)
            self.write_text(path, text, 0o644)

    def write_secrets(self) -> None:
        """Write the secrets that were given, and make those that are missing. ``pending``: those that are new."""
        self.pending: set[str] = set()
        for key, value in self.values.items():
            reference = f"{self.name}/{key}"
            path = self.layout.secret(reference)
            before = read_text(path)
            if before and value in (None, before):
                self.set_mode(path, 0o600)
                continue
            (self.generated if value is None else self.given).append(reference)
            word = "generated" if value is None else "changed" if before else "new"
            self.pending.add(reference)
            self.note(path, "(hidden)\n" if before else "", f"(hidden, {word})\n")
            if not self.check_mode:
                write(path, secrets.token_urlsafe(32) if value is None else value, 0o600)

    def secret_versions(self, references: t.Iterable[str]) -> list[str]:
        """Return what changes with each of the secrets *references*."""
        return [
            "pending" if self.check_mode and reference in self.pending else _supervisor.secret_version(self.layout.secret(reference))
            for reference in references
        ]

    def write_text(self, path: Path, text: str, mode: int) -> bool:
        """Write a file, and return whether there was one with another text."""
        before = read_text(path)
        if before == text:
            self.set_mode(path, mode)
            return False
        self.note(path, before or "", text)
        if not self.check_mode:
            write(path, text, mode)
        return before is not None

    def set_mode(self, path: Path, mode: int) -> None:
        """Give a file or a folder *mode*, and take down when it had another."""
        if stat.S_IMODE(path.stat().st_mode) != mode:
            self.changed = True
            if not self.check_mode:
                path.chmod(mode)

    # --- programs --------------------------------------------------------------------------------------------------------------------

    def check_ports(self, names: t.Container[str]) -> None:
        """Raise ServingError when somebody else has taken a port of one of *names* since it was chosen."""
        own = {process.pid for process in _processes.marked(str(self.state_dir))}
        for options in self.params["programs"]:
            for port in options["ports"] if options["name"] in names else []:
                if not _host.usable(port, own):
                    raise ServingError(
                        f"Port {port}, which {options['name']} was to have, has been taken by {_host.port_holder(port)} in the meantime. "
                        "Run again, and another one is chosen."
                    )

    def wait_until_ready(self, keeper: Keeper) -> None:
        """Wait for the programs that tell when they are ready. Raises ServingError for one that ends before, or takes too long."""
        urls = {options["name"]: options["ready_url"] for options in self.params["programs"] if options["ready_url"]}
        until_ready(keeper, urls, self.params["wait_timeout"], Progress(self.params["progress_path"]))


class Unwanted(Component):
    """The programs are to be gone. The constructor checks the options."""

    def __init__(self, params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> None:
        super().__init__(params, check_mode, environ)
        self.paths = [path for text in params["remove_paths"] for path in self._matching(self._inside(text))]

    def _inside(self, text: str) -> Path:
        """Return the path *text*, which has to be in the state folder, also after links have been followed."""
        path = Path(os.path.abspath(text))
        parent = Path(os.path.realpath(path.parent))
        if self.state_dir not in path.parents or not parent.is_relative_to(os.path.realpath(self.state_dir)):
            raise ServingError(f"remove_paths has {text}, which is not in the state folder {self.state_dir}. Nothing was changed.")
        return path

    @staticmethod
    def _matching(path: Path) -> list[Path]:
        """Return what is called *path*, whose name may be a pattern."""
        return sorted(Path(found) for found in glob.glob(os.path.join(glob.escape(str(path.parent)), path.name)))

    def remove_rest(self, last: bool) -> None:
        """Remove what was asked for beside the programs, and the folders that are empty then; *last*: no other component is left."""
        layout = self.layout
        for path in self.paths:
            self.remove(path)
        if self.params["remove_secrets"]:
            self.remove(layout.secrets / self.name)
            if last:
                self.remove(layout.logs)
        if not self.check_mode:
            self._tidy(last)

    def _tidy(self, last: bool) -> None:
        """Remove the folders that are empty now: those of this module, those above a removed path, and the state folder itself."""
        layout = self.layout
        folders = [layout.secrets / self.name, layout.secrets, layout.scripts, layout.confs]
        if last:  # other components would miss it, though it is empty
            folders.append(layout.logs)
        for path in self.paths:
            folders += [parent for parent in path.parents if self.state_dir in parent.parents]
        for folder in folders:
            remove_if_empty(folder)
        if last and self.state_dir.is_dir() and set(os.listdir(self.state_dir)) <= RESERVED:
            for name in RESERVED:
                remove(self.state_dir / name)
        remove_if_empty(self.state_dir)


def until_ready(keeper: Keeper, urls: t.Mapping[str, str], timeout_s: float, progress: Progress) -> None:
    """Wait until each program's URL answers. Raises ServingError for a program that ends before, or takes longer than *timeout_s*."""
    left = dict(urls)
    watch = Watch(keeper, "it was ready")
    for _lap in laps(timeout_s, READY_PAUSE_S, longest_pause_s=READY_PAUSE_S) if left else ():
        left = {name: url for name, url in left.items() if not answers(url)}
        if not left:
            return
        watch.look(left)
        progress.tell("wait", f"{', '.join(left)}: starting")
    if left:
        logs = ", ".join(watch.infos[name].log_at for name in left)
        raise ServingError(f"{', '.join(left)} not ready within {timeout_s:g} s. Look: {logs}")


def secret_values(given: t.Mapping[str, t.Any], generate: t.Iterable[str]) -> dict[str, t.Optional[str]]:
    """Return ``{key: value}`` for all keys, None for what is to be generated where there is none. Errors name keys, never values."""
    values: dict[str, t.Optional[str]] = dict.fromkeys(generate)
    for key, value in given.items():
        if isinstance(value, (dict, list, bool)):
            raise ServingError(f"secret_data.{key} has to be a text, and it is a {type(value).__name__}.")
        if value not in (None, ""):
            values[key] = str(value)
            if "\0" in str(value):
                raise ServingError(f"secret_data.{key} holds a zero byte, which no process can be given.")
    for key in values:
        if not _supervisor.NAME.fullmatch(key):
            raise ServingError(f"The key {key!r} of a secret has to be letters, digits and . _ - only.")
    return values


def answers(url: str) -> bool:
    """Whether *url*, on this machine, answers with a status below 400."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=5)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def user_name(uid: int) -> str:
    """Return the name of a user, or its number when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def read_text(path: Path) -> t.Optional[str]:
    """Return what is in a file, None when there is none."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: Path, text: str, mode: int) -> None:
    """Write a file as a whole: whoever reads it meets the old one or the new one, and never one with wider permissions."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            os.fchmod(file.fileno(), mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def remove_if_empty(folder: Path) -> None:
    """Remove *folder*, if there is one and nothing is in it."""
    try:
        folder.rmdir()
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise


def run_component(
    kind: type[t.Any], params: t.Mapping[str, t.Any], check_mode: bool, environ: t.Optional[t.Mapping[str, str]]
) -> dict[str, t.Any]:
    """Return the result of a module. Raises ServingError, also for a disk that is full or may not be written to."""
    try:
        component: Runnable = kind(params, check_mode, environ)
        return component.run()
    except OSError as exc:
        place = exc.filename2 or exc.filename or params["state_dir"]
        advice = "Free some space" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else "Give this user the right to write there"
        raise ServingError(
            f"Cannot change {place}: {exc.strerror or exc}. {advice}, or choose another llm_state_dir, then run again."
        ) from None
