# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real jobs: small shell commands that make a file, or do not."""

from __future__ import annotations

import json
import os
import pwd
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import host_job


class Job:
    """A job of a folder, which shall make ``made`` there."""

    def __init__(self, folder: Path) -> None:
        self.made = folder / "made"
        self.log = folder / "logs" / "job.log"
        self.told = folder / "progress"

    def run(self, text: str, check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
        defaults: dict[str, t.Any] = {
            "title": "smoke",
            "command": ["sh", "-c", text],
            "creates": [str(self.made)],
            "chdir": None,
            "environment": {},
            "secret_environment": {},
            "files": {},
            "user": None,
            "log_path": str(self.log),
            "progress_path": str(self.told),
        }
        return host_job.run({**defaults, **params}, check_mode)

    def failure(self, text: str, **params: t.Any) -> str:
        with pytest.raises(ServingError) as caught:
            self.run(text, **params)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_it_runs_until_its_result_is_there(job: Job) -> None:
    result = job.run(f"echo step 1; echo '  ready  '; echo; echo x > {job.made}")
    assert result == {"changed": True, "last_line": "ready", "elapsed_seconds": result["elapsed_seconds"]}
    assert job.log.read_text() == "step 1\n  ready  \n\n"
    assert job.log.parent.stat().st_mode & 0o777 == 0o700
    assert job.run("exit 1") == {"changed": False, "elapsed_seconds": 0.0}
    assert job.made.read_text() == "x\n"


def test_it_runs_again_until_all_of_its_results_are_there(job: Job) -> None:
    both = [str(job.made), str(job.made.parent / "other")]
    assert "did not make" in job.failure(f"touch {both[0]}", creates=both)
    assert job.run(f"touch {both[1]}", creates=both)["changed"]
    assert not job.run("exit 1", creates=both)["changed"]


def test_a_secret_reaches_the_command_and_nothing_else(job: Job) -> None:
    result = job.run(f'[ "$TOKEN" = hf_0123456789 ] && touch {job.made}', secret_environment={"TOKEN": "hf_0123456789"})
    assert "hf_0123456789" not in json.dumps(result) + job.log.read_text()


def test_check_mode_says_whether_it_would_run(job: Job) -> None:
    assert job.run(f"touch {job.made}", check_mode=True)["changed"]
    assert not job.made.exists()
    assert not job.log.parent.exists()
    job.made.mkdir()
    assert not job.run("exit 1", check_mode=True)["changed"]


def test_folder_and_environment(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_MODULE", "kept")
    result = job.run('echo "$PWD $NUMBER $OF_THE_MODULE" | tee made', chdir=str(tmp_path), environment={"NUMBER": 3})
    assert result["last_line"] == f"{tmp_path} 3 kept"


def test_what_it_does_is_told(job: Job) -> None:
    job.run(f"echo step 1; touch {job.made}")
    told = [json.loads(line)["text"] for line in job.told.read_text().splitlines()]
    assert "step 1" in told[-1]


def test_a_failure_tells_the_last_lines_and_where_all_are(job: Job) -> None:
    assert job.failure("for i in 1 2 3 4; do echo line $i; echo; done; exit 3") == (
        f"smoke could not be made (exit code 3): line 2 | line 3 | line 4. The whole log: {job.log}"
    )
    assert job.log.read_text().startswith("line 1\n")
    assert job.failure("kill -9 $$") == f"smoke could not be made (exit code -9): no output. The whole log: {job.log}"
    assert job.log.read_text() == ""


def test_success_without_a_result_is_none(job: Job) -> None:
    assert job.failure("echo done") == f"smoke: the command succeeded, but did not make {job.made}. Its log: {job.log}"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"command": ["/absent/python", "x"]}, "smoke: cannot run /absent/python: No such file or directory: /absent/python"),
        ({"chdir": "/absent"}, "smoke: cannot run sh: No such file or directory: /absent"),
        ({"log_path": "/dev/null/logs/job.log"}, "smoke: cannot run sh: Not a directory: /dev/null"),
        ({"log_path": "/dev/full"}, "smoke: cannot run sh: No space left on device"),
        ({"command": []}, "smoke: the command is empty. Give a list: the executable, then its arguments."),
    ],
)
def test_what_cannot_be_run(job: Job, params: dict[str, t.Any], message: str) -> None:
    assert job.failure("echo x", **params).startswith(message)
    assert not job.made.exists()


def test_a_log_beside_the_module(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job.run(f"touch {job.made}; echo x", log_path="job.log")
    assert (tmp_path / "job.log").read_text() == "x\n"


def test_what_the_command_left_behind_ends_with_it(job: Job) -> None:
    pid = int(job.run(f"sleep 600 >/dev/null 2>&1 & echo $!; touch {job.made}")["last_line"])
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        state = "gone"
    assert state in ("gone", "Z")


def test_what_it_needs_is_written_first_and_all_may_read_it(job: Job, tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "make.sh"
    job.run("", command=["sh", str(script)], files={str(script): f"echo made > {job.made}\n"})
    assert job.made.read_text() == "made\n"
    assert (script.stat().st_mode & 0o777, script.parent.stat().st_mode & 0o777) == (0o644, 0o755)


def test_nothing_is_written_when_its_result_is_there(job: Job, tmp_path: Path) -> None:
    job.made.write_text("")
    assert not job.run("exit 1", files={str(tmp_path / "script"): "x"})["changed"]
    assert not (tmp_path / "script").exists()


def test_without_a_result_it_runs_each_time(job: Job) -> None:
    for _time in range(2):
        assert job.run("echo told", creates=[])["last_line"] == "told"


def test_a_user_that_there_is_not(job: Job) -> None:
    assert "There is no user nobody-of-this-name on this host" in job.failure("true", user="nobody-of-this-name")
    assert not job.made.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run commands as others")
def test_it_runs_as_another_user_with_its_groups_only(job: Job) -> None:
    nobody = pwd.getpwnam("nobody")
    assert job.run("id -u; id -g; id -G", creates=[], user="nobody")["last_line"] == str(nobody.pw_gid)
