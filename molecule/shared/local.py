"""What the tests of the platform local ask: files and processes of one state folder, and the page in a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import chat
import requests

ROOT = Path(__file__).parents[2]
STATE = Path(os.environ.get("TEST_STATE_DIR") or "~/.cache/llmops-serving-test").expanduser()
PROGRAMS = {"vllm-backend", "vllm-router", "open-webui"}
ARTEFACTS = ROOT / "tests/output/browser"
NO_BROWSER = (
    "There is no browser for this test. Install Debian's (apt install chromium), or Playwright's own: .venv/bin/playwright install chromium"
)


def port(program):
    return json.loads((STATE / "ports.json").read_text())[program]


def url(program):
    return f"http://127.0.0.1:{port(program)}"


def secret(component, key):
    return (STATE / "secrets" / component / key).read_text().strip()


def key():
    return secret("vllm", "VLLM_API_KEY")


def page():
    return chat.OpenWebUI(url("open-webui"), "admin@localhost", secret("open-webui", "WEBUI_ADMIN_PASSWORD"))


def programs():
    """Process id of each program, as supervisord tells."""
    supervisorctl = next(STATE.glob("venvs/supervisor-*/bin/supervisorctl"))
    out = subprocess.run([supervisorctl, "-c", STATE / "supervisord.conf", "status"], capture_output=True, text=True, check=False).stdout
    return {found[1]: int(found[2]) for found in re.finditer(r"^(\S+)\s+\S+\s+pid (\d+)", out, re.MULTILINE)}


def running():
    """Process id of each program once all run: supervisord names none while a program counts as starting."""
    found = until(lambda: set(now := programs()) == PROGRAMS and now)
    assert found, f"not all of {sorted(PROGRAMS)} run: {programs()}"
    return found


def processes():
    """Process ids that carry the mark of this state folder in their environment."""
    mark = f"LLMOPS_SERVING_STATE={STATE}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


def until(look, timeout_s=120):
    """Return the first true value of *look*; its last value when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not (value := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return value


def answers(model="smoke"):
    """Whether the model answers through the router."""
    try:
        return chat.complete(url("vllm-router"), model, key=key()).status_code == 200
    except requests.RequestException:
        return False


def environment():
    """The environment of a run of ansible-playbook from anywhere."""
    paths = {"ANSIBLE_CONFIG": ROOT / "ansible.cfg", "ANSIBLE_COLLECTIONS_PATH": ROOT / ".venv/collections"}
    return {**os.environ, **{name: str(path) for name, path in paths.items()}}


def playbook(name, *words):
    """Run a playbook as `make` does; return the finished process."""
    command = [ROOT / ".venv/bin/ansible-playbook", "-i", ROOT / "inventory.local.yaml", "-e", f"llm_state_dir={STATE}", *words]
    return subprocess.run(
        [*command, ROOT / f"playbooks/{name}.yml"], capture_output=True, text=True, check=False, env=environment(), cwd=ROOT
    )


def browser_path():
    """Path of the system's browser; None for Playwright's own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
