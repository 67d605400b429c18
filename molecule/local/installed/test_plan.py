"""make plan on this machine: it tells what a run would do, and does nothing."""

from __future__ import annotations

import json
import subprocess

import local

testinfra_hosts = ["local://"]


def plan(**variables):
    extra = json.dumps({"llm_state_dir": str(local.STATE), **variables})
    command = [local.ROOT / "scripts/plan", "--output", "json", "-i", local.ROOT / "inventory.local.yaml", "-e", extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done.returncode


def test_what_is_as_it_should_be_stays():
    report, status = plan()
    assert (status, report["changed"], report["changes"], report["install_mib"]) == (0, False, [], 0)
    assert report["model"]["running"] == "smoke"
    assert report["fit"]["memory_gib"]["kv_cache"] == 0.25


def test_another_context_restarts_the_engine_and_nothing_was_done():
    before = local.running()
    report, status = plan(vllm_model_configs={"smoke": {"max_model_len": 4096}})
    assert (status, report["restarts"]) == (0, ["vllm-backend"])
    assert "--max-model-len 8192 -> 4096" in report["changes"][0]["details"]
    assert local.programs() == before


def test_a_cache_that_holds_no_chat_is_refused_with_its_numbers():
    report, status = plan(vllm_model_configs={"smoke": {"kv_cache_memory_bytes": 1000000}})
    assert status != 0
    assert "kv_cache_memory_bytes" in report["refusals"][0]
    assert report["fit"]["verdict"] == "does_not_fit"
