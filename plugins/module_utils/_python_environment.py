# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Virtual environments made from lock files, once: what is there is found by a stamp, without starting a process."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import typing as t
from pathlib import Path

from ansible_collections.llmops.serving.plugins.module_utils._child import Child
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._pip import (
    PipOutput,
    is_progress,
    lacks,
    last_line,
    unreachable,
    without_passwords,
)
from ansible_collections.llmops.serving.plugins.module_utils._progress import Progress

STAMP = ".llmops-serving.json"
REQUIREMENTS = "requirements.txt"
LOCAL_REQUIREMENTS = "requirements-local.txt"
# pip tells its progress to programs since 24.1. One that is older is replaced by this one, which all locks were tried with.
PIP_WITH_PROGRESS = (24, 1)
PIP_VERSION = "26.0.1"
# A look at how far unpacking is, of which pip tells nothing.
LOOK_S = 0.5
# What would install to somewhere else, or other packages than the lock has.
NOT_FOR_PIP = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_PYTHON")

_PIN = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9.!+_-]+)(?:\s*;.*)?")


class Pin(t.NamedTuple):
    """One line of a lock. ``name`` is normalised, ``line`` has no comment."""

    name: str
    version: str
    line: str

    @property
    def local(self) -> bool:
        """Whether the version is local, such as ``2.13.0+cpu``: most indexes, PyPI first, have no such."""
        return "+" in self.version


class Environment(t.NamedTuple):
    """An environment to have. ``aliases`` are dicts of ``name``, ``version`` and ``of``; ``download_mib`` 0 is unknown."""

    title: str
    path: Path
    pins: tuple[Pin, ...]
    aliases: tuple[dict[str, str], ...] = ()
    download_mib: int = 0

    @classmethod
    def parse(cls, row: dict[str, t.Any]) -> Environment:
        """Return the environment that *row* of the module's option asks for. Raises ServingError when its lock is none."""
        aliases = tuple({key: alias[key] for key in ("name", "version", "of")} for alias in row.get("distribution_aliases") or ())
        # not resolved: a link that a person made stays as it is
        path = Path(os.path.abspath(row["path"]))
        return cls(row["title"], path, parse_lock(row["requirements"], row["title"]), aliases, row.get("download_mib") or 0)

    @property
    def requirements(self) -> dict[str, str]:
        """The lock as pip gets it, without comments: the text of a file for local versions, and of one for all others."""
        return {
            name: "".join(f"{pin.line}\n" for pin in self.pins if pin.local == local)
            for name, local in ((LOCAL_REQUIREMENTS, True), (REQUIREMENTS, False))
        }

    @property
    def wanted(self) -> dict[str, t.Any]:
        """What the stamp has to say."""
        lock = "".join(self.requirements.values())
        return {"requirements": hashlib.sha256(lock.encode()).hexdigest(), "aliases": list(self.aliases)}

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def log_path(self) -> Path:
        """Where the output of pip is, and stays after a failure."""
        return self.path.parent / f"{self.path.name}.pip.log"

    def stamp(self) -> t.Optional[dict[str, t.Any]]:
        """Return what the stamp says when the environment is whole and as wanted, otherwise None. Starts no process."""
        try:
            stamp = json.loads((self.path / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(stamp, dict) or any(stamp.get(key) != value for key, value in self.wanted.items()):
            return None
        # A system that replaced its Python left packages behind that the new one does not see.
        interpreter = os.path.realpath(self.python)
        return stamp if interpreter == stamp.get("interpreter") and os.access(interpreter, os.X_OK) else None

    def older(self) -> list[str]:
        """Return the folders beside it that are environments of the same name: ``NAME-*`` where it is ``NAME-DIGEST``."""
        name = self.path.name.rpartition("-")[0]
        if not name or not self.path.parent.is_dir():
            return []
        same = (other for other in self.path.parent.iterdir() if other.name.rpartition("-")[0] == name)
        return sorted(str(other) for other in same if other.name != self.path.name and other.is_dir())


def parse_lock(text: str, title: str) -> tuple[Pin, ...]:
    """Return the pins of a lock file. Raises ServingError for a line that is not ``NAME==VERSION``, with or without a marker."""
    pins = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = re.sub(r"(^|\s+)#.*", "", line).strip()
        if not stripped:
            continue
        match = _PIN.fullmatch(stripped)
        if not match:
            raise ServingError(
                f"{title}: line {number} of requirements is {stripped!r}; each line has to be NAME==VERSION, with or without a marker."
            )
        pins.append(Pin(normalised(match["name"]), match["version"], stripped))
    if not pins:
        raise ServingError(f"{title}: requirements name no package. Give the text of a lock file.")
    return tuple(pins)


def normalised(name: str) -> str:
    """Return the name of a distribution in the one spelling that all of its spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Installer:
    """Makes environments with the interpreter *python*, from *wheel_dir* alone where that is given."""

    def __init__(
        self,
        python: str,
        extra_index_url: str = "",
        progress: t.Optional[Progress] = None,
        now: t.Callable[[], float] = time.monotonic,
        wheel_dir: str = "",
    ) -> None:
        self.python = python
        self.extra_index_url = extra_index_url
        self.wheel_dir = wheel_dir
        self.progress = progress or Progress()
        self._now = now

    def ensure(self, environment: Environment, check_mode: bool = False) -> dict[str, t.Any]:
        """Make *environment*, or leave it when it is as wanted. Return what the module does for each.

        Raises ServingError, with the path of the log as detail ``log_path``, when it cannot be made.
        """
        start = self._now()
        stamp = environment.stamp()
        if not stamp and self.wheel_dir:
            check_wheels(environment, self.wheel_dir)
        packages = stamp["packages"] if stamp else len({pin.name for pin in environment.pins})
        if not stamp and not check_mode:
            packages = self._install(environment)
        return {
            "path": str(environment.path),
            "changed": not stamp,
            "packages": packages,
            "download_mib": 0 if stamp or self.wheel_dir else environment.download_mib,
            "seconds": round(self._now() - start, 1),
            "older": environment.older(),
        }

    def _install(self, environment: Environment) -> int:
        python = shutil.which(self.python)
        if not python:
            raise ServingError(f"{environment.title}: there is no interpreter {self.python!r} to make the environment with.")
        scratch = environment.path.parent / f"{environment.path.name}.tmp"
        try:
            _remove(scratch)
            # pip unpacks downloads there: so all of it needs the space of one file system only
            scratch.mkdir(parents=True)
            with open(environment.log_path, "w", encoding="utf-8", buffering=1) as log:
                packages = _Run(self, environment, scratch, log).install(python)
            environment.log_path.unlink()
        except OSError as exc:
            raise failure(environment, [f"{exc.strerror}: {exc.filename}" if exc.filename else str(exc)]) from exc
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return packages


class _Run:
    """One installation: its folder for temporary files, its log and what is known of its progress."""

    def __init__(self, installer: Installer, environment: Environment, scratch: Path, log: t.TextIO) -> None:
        self.installer = installer
        self.environment = environment
        self.log = log
        self.output = PipOutput(len(environment.pins))
        self.environ = {key: value for key, value in os.environ.items() if key not in NOT_FOR_PIP}
        # of these, only PIP_USER is a setting that a person may have made: --user is refused in an environment
        self.environ.update(TMPDIR=str(scratch), PYTHONUNBUFFERED="1", PIP_USER="0", LC_ALL="C.UTF-8")

    def install(self, python: str) -> int:
        """Make, mend or make anew the environment, and return how many packages of the lock stand in it."""
        environment = self.environment
        self._tell("venv", "making the environment")
        (environment.path / STAMP).unlink(missing_ok=True)
        version = self._mendable()
        if version is None:
            if _foreign(environment.path):
                raise told(environment, f"{environment.path} is there already, and is no virtual environment. Move it away.")
            _remove(environment.path)
            code, lines = self._command([python, "-m", "venv", str(environment.path)])
            version = self._pip_version() if code == 0 else None
            if version is None:
                raise no_venv(environment, python, lines, code)
            for name, text in environment.requirements.items():
                _write(environment.path / name, text)
        if version < PIP_WITH_PROGRESS:
            code, _lines = self._command([*self._pip_install, f"pip=={PIP_VERSION}"])
            version = self._pip_version() if code == 0 else version
        self._packages(raw=version is not None and version >= PIP_WITH_PROGRESS)
        count = len(self._installed())
        self._aliases()
        stamp = {
            **environment.wanted,
            "interpreter": os.path.realpath(environment.python),
            "python": _python_version(environment.path),
            "packages": count,
        }
        _write(environment.path / STAMP, json.dumps(stamp, indent=2) + "\n")
        return count

    def _mendable(self) -> t.Optional[tuple[int, ...]]:
        """Return the version of pip in a half-made environment of the same lock that can be mended, else None."""
        for name, text in self.environment.requirements.items():
            try:
                if (self.environment.path / name).read_text(encoding="utf-8") != text:
                    return None
            except OSError:
                return None
        for folder in self._dist_infos():
            # pip writes RECORD last, anew, with INSTALLER in it; without that, parts may be missing, and pip would not notice.
            # Aliases have no RECORD, so they go, too.
            try:
                whole = f"{folder.name}/INSTALLER" in (folder / "RECORD").read_text(encoding="utf-8")
            except OSError:
                whole = False
            if not whole:
                shutil.rmtree(folder)
        return self._pip_version()

    def _pip_version(self) -> t.Optional[tuple[int, ...]]:
        if not os.access(self.environment.python, os.X_OK):
            return None
        code, lines = self._command([str(self.environment.python), "-m", "pip", "--version"])
        found = re.search(r"^pip (\d+)\.(\d+)", "\n".join(lines), re.MULTILINE)
        return tuple(int(part) for part in found.groups()) if code == 0 and found else None

    def _packages(self, raw: bool) -> None:
        """Install the lock: what has a local version from the user's own index or from the extra one, all else from the former only."""
        local = ", ".join(f"{pin.name}=={pin.version}" for pin in self.environment.pins if pin.local)
        if local:
            code, lines = self._pip(LOCAL_REQUIREMENTS, raw)
            if code and lacks(lines) and not self.installer.wheel_dir:
                code, lines = self._from_extra_index(local, raw)
            if code:
                raise failure(self.environment, lines, code, self.installer.wheel_dir)
        if not all(pin.local for pin in self.environment.pins):
            code, lines = self._pip(REQUIREMENTS, raw)
            if code:
                raise failure(self.environment, lines, code, self.installer.wheel_dir)

    def _from_extra_index(self, local: str, raw: bool) -> tuple[int, list[str]]:
        url = self.installer.extra_index_url
        if not url:
            cause = f"the package index has no {local} for this machine and Python. Name an index that has it: vllm_pip_extra_index_url"
            raise told(self.environment, cause)
        # by the environment, because a URL may hold a password, and command lines are for all to see
        code, lines = self._pip(LOCAL_REQUIREMENTS, raw, {"PIP_INDEX_URL": url})
        if code and unreachable(lines):
            cause = f"the package index has no {local}, and the one that has could not be reached: {unreachable(lines)}."
            raise told(self.environment, f"{cause} Check the network, or name a mirror of it: vllm_pip_extra_index_url")
        if code and lacks(lines):
            cause = f"neither the package index nor extra_index_url {without_passwords(url)} has {local} for this machine and Python."
            raise told(self.environment, cause)
        return code, lines

    def _pip(self, requirements: str, raw: bool, environ: t.Optional[dict[str, str]] = None) -> tuple[int, list[str]]:
        """Install a file of the environment with pip, which tells its progress if *raw*."""
        self.output.last_run = requirements == REQUIREMENTS or all(pin.local for pin in self.environment.pins)
        what = ["-r", str(self.environment.path / requirements)]
        return self._command([*self._pip_install, *(["--progress-bar", "raw"] if raw else []), *what], environ, hear=True)

    @property
    def _pip_install(self) -> list[str]:
        options = "--no-deps --no-compile --only-binary=:all: --no-input --disable-pip-version-check --retries 2"
        source = ["--no-index", "--find-links", self.installer.wheel_dir] if self.installer.wheel_dir else []
        return [str(self.environment.python), "-m", "pip", "install", *options.split(), *source]

    def _command(self, command: list[str], environ: t.Optional[dict[str, str]] = None, hear: bool = False) -> tuple[int, list[str]]:
        """Run *command*, and return its exit code and its lines; with *hear*, its lines are those of the packages' installation."""
        self.log.write(f"$ {' '.join(command)}\n")
        lines: list[str] = []
        with Child(command, env={**self.environ, **(environ or {})}) as child:
            for line in child.lines(LOOK_S):
                if hear:
                    self.output.hear(line)
                if hear and self.output.looked_up:
                    self._tell_output()
                if line and not is_progress(line):
                    lines.append(without_passwords(line))
                    self.log.write(f"{lines[-1]}\n")
            return child.wait(), lines

    def _tell_output(self) -> None:
        unpacked = len(self._installed()) if self.output.unpacking else 0
        self._tell(*self.output.describe(unpacked, self.environment.download_mib))

    def _tell(self, phase: str, text: str) -> None:
        self.installer.progress.tell(f"{self.environment.path} {phase}", f"{self.environment.title}: {text}")

    def _dist_infos(self) -> list[Path]:
        return list(self.environment.path.glob("lib/python3*/site-packages/*.dist-info"))

    def _installed(self) -> dict[str, Path]:
        """Return the dist-info folders of the lock's packages, by name."""
        names = {pin.name for pin in self.environment.pins}
        found = {normalised(folder.name[: -len(".dist-info")].rpartition("-")[0]): folder for folder in self._dist_infos()}
        return {name: folder for name, folder in found.items() if name in names}

    def _aliases(self) -> None:
        """Write a dist-info for each alias, of METADATA only: no files and entry points that would belong to two distributions."""
        installed = self._installed()
        for alias in self.environment.aliases:
            source = installed.get(normalised(alias["of"]))
            if source is None:
                raise told(self.environment, f"distribution_aliases: {alias['of']} is not among the packages that were installed.")
            folder = source.parent / f"{re.sub('[-_.]+', '_', alias['name'])}-{alias['version']}.dist-info"
            folder.mkdir(exist_ok=True)
            head, blank, body = (source / "METADATA").read_text(encoding="utf-8").partition("\n\n")
            for key in ("name", "version"):
                head = re.sub(rf"(?im)^{key}:.*$", f"{key.capitalize()}: {alias[key]}", head, count=1)
            (folder / "METADATA").write_text(head + blank + body, encoding="utf-8")


def check_wheels(environment: Environment, folder: str) -> None:
    """Raise ServingError when *folder* has no wheel of a package. Which versions they are, and for which machine, is for pip to say."""
    try:
        there = {normalised(name.partition("-")[0]) for name in os.listdir(folder) if name.endswith(".whl")}
    except OSError as exc:
        raise ServingError(
            f"{environment.title}: cannot read the wheel folder {folder} ({exc.strerror}). Copy it to this host, or remove llm_wheel_dir."
        ) from None
    # a marker may say that this machine does not want it
    missing = [pin.name for pin in environment.pins if ";" not in pin.line and pin.name not in there]
    if missing:
        named = f"{', '.join(missing[:3])} and {len(missing) - 3} more" if len(missing) > 4 else ", ".join(missing)
        raise ServingError(
            f"{environment.title}: the wheel folder {folder} lacks {named}. Fill it with pip download, as docs/hosts.md says."
        )


def failure(environment: Environment, lines: t.Sequence[str], code: int = 1, wheel_dir: str = "") -> ServingError:
    """Return the error for a pip that ended with *code*, having printed *lines*."""
    line, text = last_line(lines), "\n".join(lines)
    if code == -9 or "MemoryError" in text:
        cause = "pip was killed, or failed, because memory ran out. Free some memory and run it again."
    elif "No space left on device" in text or "Disk quota exceeded" in text:
        cause = f"no space is left: {_free_mib(environment.path)} MiB are free for {environment.path.parent}. Make room and run it again."
    elif "Permission denied" in text or "Read-only file system" in text:
        cause = f"{line}. Everything under {environment.path.parent} has to belong to the user who runs this."
    elif lacks(lines):
        machine = f"Python {_python_version(environment.path)} on this {os.uname().machine} machine"
        source, way_out = (f"the wheel folder {wheel_dir}", "fill it again") if wheel_dir else ("the package index", "another index")
        cause = f"{source} lacks a version, or its wheel for {machine}: {line}. Try another Python, or {way_out}."
    elif unreachable(lines):
        cause = (
            f"the package index could not be reached: {unreachable(lines)}. "
            "Check the network, or name a mirror: pip config set global.index-url URL"
        )
    else:
        cause = f"pip failed with code {code}: {line}"
    return told(environment, cause)


def no_venv(environment: Environment, python: str, lines: t.Sequence[str], code: int) -> ServingError:
    """Return the error for *python* that could make no environment."""
    text = "\n".join(lines)
    if re.search(r"ensurepip|No module named '?(venv|pip)", text):
        cause = f"{python} cannot make a virtual environment, it lacks venv or ensurepip. On Debian and Ubuntu: apt install python3-venv"
    elif re.search(r"No space left|Disk quota|Permission denied|Read-only file", text) or code == -9:
        return failure(environment, lines, code)
    else:
        cause = f"{python} cannot make a virtual environment: {last_line(lines)}"
    return told(environment, cause)


def told(environment: Environment, cause: str) -> ServingError:
    """Return the error with *cause*, and where to read more."""
    log = environment.log_path
    if not log.exists():
        return ServingError(f"{environment.title}: {cause}")
    return ServingError(f"{environment.title}: {cause}\nThe whole log is {log}", log_path=str(log))


def _free_mib(path: Path) -> int:
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 2**20


def _python_version(path: Path) -> str:
    try:
        found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+\.\d+)", (path / "pyvenv.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def _foreign(path: Path) -> bool:
    """Return whether *path* holds what no venv has made; one that was interrupted early has folders and links only."""
    if path.is_file():
        return True
    return path.is_dir() and not (path / "pyvenv.cfg").exists() and any(one.is_file() for one in path.rglob("*"))


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _write(path: Path, text: str) -> None:
    """Write *text* so that *path* has all of it or is not there."""
    fresh = path.with_name(f"{path.name}.new")
    with open(fresh, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
