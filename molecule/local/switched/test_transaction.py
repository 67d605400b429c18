"""A switch arrives, or leaves the user where they were; weights come from a hub once. The tests of this file build on each other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import local
import pytest
import yaml

testinfra_hosts = ["local://"]
ROWS = yaml.safe_load((local.ROOT / "roles/vllm/vars/models.yml").read_text())["vllm_models"]
HUB = local.ROOT / "tests/unit/stub_hub.py"
# the smoke model under another name, as a repository of a hub
TINY = {key: value for key, value in ROWS["smoke"].items() if key != "source"} | {"model": "acme/tiny"}


def install(model, hub=None, **row):
    rows = {"tiny": TINY, model: row} if row else {"tiny": TINY}
    extra = {"vllm_model_name": model, "vllm_model_configs": rows, **({"vllm_hf_endpoint": hub} if hub else {})}
    return local.playbook("chat", "-e", json.dumps(extra))


def last_lines(done, count=3):
    return "\n".join(done.stdout.strip().splitlines()[-count:])


def record():
    return json.loads((local.STATE / "last-good.json").read_text())


def starts():
    """How often the engine was started, by its log."""
    return (local.STATE / "logs/vllm-backend.log").read_text(errors="replace").count("=== start of")


@contextlib.contextmanager
def hub(*words):
    """Serve the weights of the smoke model as acme/tiny; give the address."""
    (folder,) = (path for path in (local.STATE / "models").glob("smoke-*") if not path.name.startswith("smoke-json"))
    command = [sys.executable, HUB, "--folder", folder, "--repo", "acme/tiny", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            for line in process.stdout:
                if line.startswith("serving at "):
                    break
            yield line.split()[-1]
        finally:
            process.terminate()


def test_what_was_verified_is_remembered_for_its_user_alone():
    assert record()["model"] == "smoke-json"
    assert (local.STATE / "last-good.json").stat().st_mode & 0o777 == 0o600
    assert local.key() not in (local.STATE / "last-good.json").read_text()
    assert local.answers("chat")


def test_a_switch_that_fails_is_taken_back():
    done = install("smoke", extra_args=["--no-such-flag"])
    assert done.returncode != 0
    assert "--no-such-flag" in last_lines(done)
    assert last_lines(done, 1) == "smoke-json answers again; smoke is not served."
    assert local.answers("smoke-json")
    assert record()["model"] == "smoke-json"
    again = install("smoke-json")
    assert "Nothing was changed" in last_lines(again), again.stdout[-3000:]


def test_a_repository_that_may_not_be_read_touches_nothing():
    before = starts()
    with hub("--token", "hf_right") as address:
        done = install("tiny", address)
    assert done.returncode != 0
    assert "acme/tiny" in last_lines(done)
    assert last_lines(done, 1) == "smoke-json was not touched and answers; tiny is not served."
    assert starts() == before


def test_weights_come_from_the_hub_once_and_the_engine_needs_no_hub():
    with hub() as address:
        done = install("tiny", address)
    assert done.returncode == 0, done.stdout[-3000:]
    assert local.answers("tiny")
    assert local.answers("chat")
    assert "HF_HUB_OFFLINE=1" in (local.STATE / "bin/vllm-backend").read_text()
    again = install("tiny", address)  # the hub is gone
    assert "Nothing was changed" in last_lines(again), again.stdout[-3000:]


@pytest.mark.parametrize("check", [True, False])
def test_weights_that_nothing_serves_from_are_pruned(check):
    extra = json.dumps({"vllm_model_name": "tiny", "vllm_model_configs": {"tiny": TINY}})
    done = local.playbook("prune", "-e", extra, *(["--check"] if check else []))
    assert done.returncode == 0, done.stdout[-3000:]
    assert "acme/tiny" in next(line for line in done.stdout.splitlines() if line.startswith("Kept"))
    assert len(list((local.STATE / "models").iterdir())) == (2 if check else 0)
    assert (local.STATE / "huggingface/hub/models--acme--tiny").is_dir()
    assert local.answers("tiny")
