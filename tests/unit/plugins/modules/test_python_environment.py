# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real environments, the real pip, and wheels of a few lines."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import typing as t
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._python_environment import STAMP, Environment, failure
from ansible_collections.llmops.serving.plugins.modules import python_environment

ROOT = Path(__file__).resolve().parents[4]
LOCK = "# a lock\nserving-one==1.0  # via serving-two\nserving_two==2.0 ; python_version >= '3'\nnever==1 ; python_version < '3'\n"
ALIAS = {"name": "serving", "version": "9.0+cpu", "of": "serving-one"}


def wheel(folder: Path, name: str, version: str, says: str = "", tag: str = "py3-none-any") -> None:
    """Write a wheel of one module, NAME.py, with SAYS = *says*, and of the script NAME."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"SAYS = {says!r}\ndef main(): print(SAYS)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: none-such\n\nName: of the body\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    sums = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode() for path, text in files.items()}
    files[f"{info}/RECORD"] = "".join(f"{path},sha256={total},\n" for path, total in sums.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def index(folder: Path) -> str:
    """Make the wheels in *folder* a simple index, and return its URL."""
    for path in folder.glob("*.whl"):
        page = folder / "simple" / path.name.partition("-")[0].replace("_", "-") / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f'<!DOCTYPE html><html><body><a href="{path.as_uri()}">{path.name}</a></body></html>')
    (folder / "simple").mkdir(parents=True, exist_ok=True)
    return (folder / "simple").as_uri()


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place from which pip takes anything."""
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    folder = tmp_path / "wheels"
    wheel(folder, "serving_one", "1.0", "one")
    wheel(folder, "serving_two", "2.0", "two")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def venvs(tmp_path: Path) -> Path:
    return tmp_path / "state" / "venvs"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Filled by the first test that wants an environment of LOCK, copied by the others."""
    return {"path": tmp_path_factory.mktemp("template") / "tests-1a2b"}


@pytest.fixture
def made(template: dict[str, Path], venvs: Path) -> str:
    """An environment as the module leaves it, in the path that `row` has."""
    if not template["path"].exists():
        make({**row(venvs), "path": str(template["path"])})
    path = venvs / "tests-1a2b"
    shutil.copytree(template["path"], path, symlinks=True)
    return str(path)


def row(venvs: Path, **changed: t.Any) -> dict[str, t.Any]:
    return {"title": "Tests 1.0", "path": str(venvs / "tests-1a2b"), "requirements": LOCK, "distribution_aliases": [], **changed}


def params(*rows: dict[str, t.Any], **changed: t.Any) -> dict[str, t.Any]:
    return {"environments": list(rows), "python": sys.executable, "extra_index_url": "", "progress_path": None, **changed}


def make(*rows: dict[str, t.Any], **changed: t.Any) -> dict[str, t.Any]:
    return python_environment.run(params(*rows, **changed))


def only(result: dict[str, t.Any]) -> dict[str, t.Any]:
    (environment,) = result["environments"]
    assert environment["changed"] == result["changed"]
    return environment


def says(path: str, code: str) -> str:
    """Return what *code* prints in the environment *path*."""
    return subprocess.run([f"{path}/bin/python", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def nothing_starts(*_command: t.Any, **_options: t.Any) -> t.NoReturn:
    raise AssertionError("a process was started")


def site(path: str) -> Path:
    (folder,) = Path(path).glob("lib/python3*/site-packages")
    return folder


def test_what_the_lock_says_is_installed_once(venvs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tests-0000", "tests-ffff.tmp", "tests-other-0000", "other-0000"):
        (venvs / name).mkdir(parents=True)
    monkeypatch.setenv("PIP_USER", "1")
    (tmp_path / "pip.py").write_text("raise SystemExit('another pip')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = row(venvs, distribution_aliases=[ALIAS])
    progress = tmp_path / "progress"

    would = python_environment.run(params(asked), check_mode=True)
    assert (would["changed"], only(would)["packages"], (venvs / "tests-1a2b").exists()) == (True, 3, False)

    first = only(make(asked, progress_path=str(progress)))
    path = first["path"]
    assert (first["changed"], first["packages"]) == (True, 2)
    assert first["older"] == [str(venvs / "tests-0000"), str(venvs / "tests-ffff.tmp")]
    assert says(path, "import serving_one, serving_two; print(serving_one.SAYS, serving_two.SAYS)") == "one two"
    assert {one.name for one in venvs.iterdir()} == {"tests-1a2b", "tests-0000", "tests-ffff.tmp", "tests-other-0000", "other-0000"}
    told = [json.loads(line)["text"] for line in progress.read_text().splitlines()]
    assert told[0] == "Tests 1.0: making the environment"
    assert all(text.startswith("Tests 1.0: ") for text in told)
    assert any("of 2 packages" in text for text in told)

    ask = "from importlib.metadata import *; d = distribution('serving'); print(d.metadata['Name'], d.version, version('serving-one'))"
    assert says(path, ask) == "serving 9.0+cpu 1.0"
    scripts = "from importlib.metadata import *; print([e.name for e in entry_points(group='console_scripts') if 'serving' in e.name])"
    assert says(path, scripts) == "['serving_one', 'serving_two']"

    monkeypatch.setattr(subprocess, "Popen", nothing_starts)
    again = make(row(venvs, distribution_aliases=[ALIAS], requirements="# other words\n" + LOCK))
    assert (again["changed"], only(again)["packages"], again["older"]) == (False, 2, first["older"])
    assert python_environment.run(params(asked), check_mode=True)["changed"] is False


def test_half_an_environment_is_mended(made: str, venvs: Path) -> None:
    path = made
    # what an interruption leaves: no stamp, one package not there, one with its dist-info but without its script
    (Path(path) / STAMP).unlink()
    shutil.rmtree(site(path) / "serving_two-2.0.dist-info")
    (site(path) / "serving_two.py").unlink()
    (site(path) / "serving_one-1.0.dist-info" / "RECORD").write_text("serving_one.py,,\n")
    (Path(path) / "bin" / "serving_one").unlink()
    (Path(path) / "kept").touch()
    (venvs / "tests-1a2b.tmp").mkdir()

    mended = only(make(row(venvs)))
    assert (mended["changed"], mended["packages"]) == (True, 2)
    assert (Path(path) / "kept").exists()
    assert says(path, "import serving_two; print(serving_two.SAYS)") == "two"
    assert subprocess.run([f"{path}/bin/serving_one"], check=True, capture_output=True, text=True).stdout == "one\n"

    # an alias that is no longer asked for goes, and nothing else
    assert make(row(venvs, distribution_aliases=[ALIAS]))["changed"]
    assert make(row(venvs))["changed"]
    assert not list(site(path).glob("serving-*"))
    assert (Path(path) / "kept").exists()


def test_an_environment_without_its_python_begins_with_nothing(made: str, venvs: Path, tmp_path: Path) -> None:
    assert not make(row(venvs))["changed"]
    (Path(made) / "kept").touch()
    (Path(made) / "bin" / "python").unlink()
    (Path(made) / "bin" / "python").symlink_to(tmp_path / "gone")
    assert make(row(venvs))["changed"]
    assert not (Path(made) / "kept").exists()
    assert says(made, "import serving_one; print(serving_one.SAYS)") == "one"


def test_another_lock_in_the_same_path_begins_with_nothing(made: str, venvs: Path, wheels: Path) -> None:
    path = made
    wheel(wheels, "serving_one", "1.1", "newer")
    changed = only(make(row(venvs, requirements="serving-one==1.1\n")))
    assert (changed["changed"], changed["packages"]) == (True, 1)
    assert says(path, "import serving_one; print(serving_one.SAYS)") == "newer"
    assert not (site(path) / "serving_two.py").exists()


def test_a_version_that_the_index_lacks(venvs: Path, wheels: Path) -> None:
    wheel(wheels, "serving_two", "3.0", tag="cp311-cp311-win_amd64")
    asked = row(venvs, requirements="serving_two==3.0\n")
    with pytest.raises(ServingError) as caught:
        make(asked)
    message = str(caught.value)
    assert "lacks a version, or its wheel for Python 3." in message
    assert "No matching distribution found for serving_two==3.0" in message
    log = venvs / "tests-1a2b.pip.log"
    assert message.endswith(f"\nThe whole log is {log}")
    assert caught.value.details == {"log_path": str(log)}
    assert "Could not find a version that satisfies the requirement serving_two==3.0" in log.read_text()
    assert not (venvs / "tests-1a2b.tmp").exists()

    # the next run goes on from there, and leaves no log
    wheel(wheels, "serving_two", "3.0", "three")
    assert make(asked)["changed"]
    assert not log.exists()


def test_only_local_versions_come_from_the_extra_index(venvs: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", index(tmp_path / "empty"))
    asked = row(venvs, requirements="serving_one==1.0\nserving_two==2.0+cpu\n")
    with pytest.raises(ServingError, match=r"the package index has no serving-two==2\.0\+cpu .*Name an index .*: vllm_pip_extra_index_url"):
        make(asked)

    extra = tmp_path / "extra"
    wheel(extra, "serving_one", "1.0", "not mine")
    with pytest.raises(ServingError, match=r"neither the package index nor extra_index_url file://.* has serving-two==2\.0\+cpu"):
        make(asked, extra_index_url=index(tmp_path / "empty"))
    with pytest.raises(ServingError, match=r"has no serving-two==2\.0\+cpu, and the one that has could not be reached: .*127\.0\.0\.1:9"):
        make(asked, extra_index_url="http://127.0.0.1:9/simple")
    # pip does not like such a URL, and prints it
    with pytest.raises(ServingError, match=r"file://\*\*\*\*@elsewhere/") as caught:
        make(asked, extra_index_url="file://ada:secret@elsewhere/simple")
    assert "secret" not in Path(caught.value.details["log_path"]).read_text()

    wheel(extra, "serving_two", "2.0+cpu", "for CPUs")
    path = only(make(asked, extra_index_url=index(extra)))["path"]
    assert says(path, "import serving_one, serving_two; print(serving_one.SAYS, serving_two.SAYS)") == "one for CPUs"


def test_the_users_own_index_comes_first(venvs: Path, wheels: Path, tmp_path: Path) -> None:
    wheel(wheels, "serving_two", "2.0+cpu", "mine")
    wheel(tmp_path / "extra", "serving_two", "2.0+cpu", "extra")
    path = only(make(row(venvs, requirements="serving_two==2.0+cpu\n"), extra_index_url=index(tmp_path / "extra")))["path"]
    assert says(path, "import serving_two; print(serving_two.SAYS)") == "mine"


def test_a_folder_of_wheels_is_enough(venvs: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = tmp_path / "carried"
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    names = ["serving_one==1.0", "serving-two==2.0+cpu", *(f"serving_{word}==1.0" for word in ("three", "four", "five", "six"))]
    asked = row(venvs, requirements="\n".join([*names, "elsewhere==1.0; sys_platform == 'win32'"]), download_mib=300)

    with pytest.raises(
        ServingError, match=r"cannot read the wheel folder \S+/carried \(No such file or directory\)\. Copy it to this host"
    ):
        make(asked, wheel_dir=str(carried))
    wheel(carried, "serving_one", "1.0", "carried")
    with pytest.raises(ServingError, match=r"the wheel folder \S+ lacks serving-two, serving-three, serving-four and 2 more\. Fill it"):
        make(asked, wheel_dir=str(carried))
    assert not venvs.exists()

    for name in ("three", "four", "five", "six"):
        wheel(carried, f"serving_{name}", "1.0")
    wheel(carried, "serving_two", "2.0")
    with pytest.raises(ServingError, match=r"the wheel folder \S+ lacks a version, .*serving-two==2\.0\+cpu\. .* or fill it again"):
        make(asked, wheel_dir=str(carried), extra_index_url=index(wheels))
    wheel(carried, "serving_two", "2.0+cpu", "for CPUs")
    done = only(make(asked, wheel_dir=str(carried)))
    assert (done["packages"], done["download_mib"]) == (6, 0)
    assert says(done["path"], "import serving_one, serving_two; print(serving_one.SAYS, serving_two.SAYS)") == "carried for CPUs"
    shutil.rmtree(carried)
    assert not make(asked, wheel_dir=str(carried))["changed"]


def test_an_index_that_cannot_be_reached(venvs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://ada:secret@127.0.0.1:9/simple")
    asked = row(venvs, requirements="elsewhere==1.0+cpu\nserving_one==1.0\n")
    with pytest.raises(ServingError, match=r"could not be reached: .*Connection refused .*127.0.0.1:9/simple.*pip config set") as caught:
        make(asked, extra_index_url="http://127.0.0.1:9/extra")
    assert "secret" not in str(caught.value) + Path(caught.value.details["log_path"]).read_text()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_pythons_that_make_no_environment(venvs: Path, tmp_path: Path) -> None:
    debian = "echo 'The virtual environment was not created successfully because ensurepip is not'; echo available.; exit 1"
    with pytest.raises(ServingError, match=r"python-debian cannot make a virtual environment, it lacks .* apt install python3-venv"):
        make(row(venvs), python=script(tmp_path / "python-debian", debian))
    with pytest.raises(ServingError, match=r"python-odd cannot make a virtual environment: odd\n"):
        make(row(venvs), python=script(tmp_path / "python-odd", "echo odd; exit 1"))
    with pytest.raises(ServingError, match="there is no interpreter '/nowhere/python3'"):
        make(row(venvs), python="/nowhere/python3")
    assert not (venvs / "tests-1a2b").exists()


def test_a_folder_of_somebody_else_is_not_removed(venvs: Path) -> None:
    (venvs / "tests-1a2b" / "letters").mkdir(parents=True)
    (venvs / "tests-1a2b" / "letters" / "one").touch()
    with pytest.raises(ServingError, match=r"is no virtual environment\. Move it away\."):
        make(row(venvs))
    assert (venvs / "tests-1a2b" / "letters" / "one").exists()


@pytest.mark.parametrize("line", ["one>=1.0", "one", "--index-url https://example.com", "one==1.*", "./one"])
def test_a_lock_pins_everything(venvs: Path, line: str) -> None:
    with pytest.raises(ServingError, match=r"Tests 1\.0: line 2 of requirements is .*has to be NAME==VERSION"):
        make(row(venvs, requirements=f"# lock\n{line}\n"))


def test_a_lock_is_not_empty(venvs: Path) -> None:
    with pytest.raises(ServingError, match="requirements name no package"):
        make(row(venvs, requirements="# nothing\n\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "no space is left: [0-9]+ MiB are free for"),
        ("ERROR: Could not install packages: [Errno 13] Permission denied: '/x'", "'/x'. Everything under .* has to belong to the user"),
        ("MemoryError", "because memory ran out"),
        ("ERROR: something new", "pip failed with code 1: something new$"),
    ],
)
def test_causes_that_cannot_be_made_here(venvs: Path, line: str, message: str) -> None:
    with pytest.raises(ServingError, match=rf"^Tests 1\.0: .*{message}"):
        raise failure(Environment.parse(row(venvs)), [line])


class Silent(BaseHTTPRequestHandler):
    """An index that takes requests and never answers."""

    over = threading.Event()

    def do_GET(self) -> None:
        self.over.wait(60)


@pytest.fixture
def silent_index(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[None]:
    Silent.over.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_address[1]}/simple")
    yield
    Silent.over.set()
    server.shutdown()
    server.server_close()


def pips(path: str) -> list[int]:
    """Return the processes of pip that install into the environment *path*."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"install" in command and command[0].startswith(path.encode()):
            found.append(int(folder.name))
    return found


@pytest.mark.usefixtures("silent_index")
def test_pip_does_not_outlive_the_module(venvs: Path) -> None:
    asked = row(venvs)
    code = (
        "import sys, json; from ansible_collections.llmops.serving.plugins.modules.python_environment import run; run(json.load(sys.stdin))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT / ".venv" / "collections")}
    module = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True)
    try:
        stdin = t.cast(t.IO[str], module.stdin)
        stdin.write(json.dumps(params(asked)))
        stdin.close()
        while not pips(asked["path"]):
            assert module.poll() is None
            time.sleep(0.05)
        module.terminate()
        assert module.wait() == 128 + signal.SIGTERM
        assert pips(asked["path"]) == []
        assert not (venvs / "tests-1a2b.tmp").exists()
    finally:
        module.kill()
        module.wait()


@pytest.mark.usefixtures("silent_index")
def test_a_pip_that_is_killed(venvs: Path) -> None:
    asked = row(venvs)
    errors: list[ServingError] = []

    def install() -> None:
        try:
            make(asked)
        except ServingError as exc:
            errors.append(exc)

    thread = threading.Thread(target=install)
    thread.start()
    while thread.is_alive():
        for pid in pips(asked["path"]):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    thread.join()
    assert "memory ran out" in str(errors[0])
