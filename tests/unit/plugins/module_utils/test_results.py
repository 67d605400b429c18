"""What is kept of probes and benchmarks: the document, its secrets, its figures and its tables."""

from __future__ import annotations

import copy
import datetime
import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _results
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

FIXTURES = Path(__file__).parent / "fixtures" / "results"
NOON = datetime.datetime(2026, 11, 21, 12, 0, 0, 999, tzinfo=datetime.timezone.utc)


def recorded(name: str) -> dict[str, t.Any]:
    return _results.document(json.loads((FIXTURES / f"{name}.json").read_text()))


def document(**changes: t.Any) -> dict[str, t.Any]:
    run = {"probe": "serving_benchmark", "result": {"loads": []}}
    return _results.document({"kind": "benchmark", "runs": [run], **changes}, NOON)


def expect_golden(path: Path, text: str) -> None:
    """Compare *text* with a file; GOLDEN_WRITE=1 writes it, as for the golden manifests."""
    if os.environ.get("GOLDEN_WRITE"):
        path.write_text(text)
    assert text == path.read_text()


# --- the document ----------------------------------------------------------------------------------------------------------------------


def test_a_document_is_completed_and_stays_the_same_when_it_is_read_again() -> None:
    found = document(deployment={"model": "smoke", "rack": "b2"})
    assert found["date"] == "2026-11-21T12:00:00Z"
    assert found["deployment"]["rack"] == "b2"
    assert found["deployment"]["gpu"] is None
    assert found["runs"] == [{"probe": "serving_benchmark", "name": "", "settings": {}, "result": {"loads": []}}]
    assert _results.document(json.loads(json.dumps(found))) == found


@pytest.mark.parametrize(
    ("given", "date"),
    [
        ("2026-11-21T19:18:49Z", "2026-11-21T19:18:49Z"),
        ("2026-11-21T19:18:49", "2026-11-21T19:18:49Z"),
        ("2026-11-21T20:18:49.731+01:00", "2026-11-21T19:18:49Z"),
        (None, "2026-11-21T12:00:00Z"),
    ],
)
def test_dates(given: t.Any, date: str) -> None:
    assert document(date=given)["date"] == date


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "bench"}, 'document.kind: "bench" is not one of benchmark, probe-suite.'),
        ({"runs": []}, "there is no run"),
        ({"runs": [{"probe": "tool_probe", "result": {}}]}, 'document.runs[0].probe: "tool_probe" is not one of'),
        ({"runs": [{"probe": "tool_call_probe"}]}, "document.runs[0] has to be a dictionary with probe and result"),
        ({"runs": [{"probe": "tool_call_probe", "result": {}, "setting": {}}]}, 'no such key (did you mean "settings"?)'),
        ({"runs": [{"probe": "tool_call_probe", "result": {"cases": {"a": 1}}}]}, "runs[0].result.cases has to be a list of dictionaries"),
        ({"runs": [{"probe": "runtime_probe", "result": {"runtimes": [{"results": ["a"]}]}}]}, "runs[0].result.runtimes has to be a list"),
        ({"date": "yesterday"}, 'document.date: "yesterday" is no time such as 2026-11-21T19:18:49Z.'),
        ({"schema": 2}, "has schema 2, and this release reads 1"),
        ({"deployment": ["smoke"]}, "document.deployment has to be a dictionary"),
        ({"deploiment": {}}, 'document.deploiment: no such key (did you mean "deployment"?)'),
    ],
)
def test_what_is_no_document(changes: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ServingError) as raised:
        document(**changes)
    assert message in str(raised.value)


def test_what_ansible_adds_is_left_out() -> None:
    result = {"model": "smoke", "cases": [], "changed": False, "invocation": {"module_args": {}}, "table": ["x"], "_ansible_no_log": False}
    found = document(kind="probe-suite", runs=[{"probe": "tool_call_probe", "name": None, "result": result}])
    assert found["runs"][0] == {"probe": "tool_call_probe", "name": "smoke", "settings": {}, "result": {"model": "smoke", "cases": []}}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"deployment": {"model": "smoke"}}, "2026-11-21T12-00-00Z-smoke-benchmark.json"),
        ({"deployment": {"model": "Qwen/QwQ 32B"}}, "2026-11-21T12-00-00Z-Qwen-QwQ-32B-benchmark.json"),
        ({"deployment": {"model": "../../etc/x"}}, "2026-11-21T12-00-00Z-etc-x-benchmark.json"),
        ({"runs": [{"probe": "serving_benchmark", "result": {"model": "a"}}] * 2}, "2026-11-21T12-00-00Z-a-benchmark.json"),
        ({}, "2026-11-21T12-00-00Z-models-benchmark.json"),
        ({"runs": [{"probe": "tool_call_probe", "result": {"model": m}} for m in "ab"]}, "2026-11-21T12-00-00Z-models-benchmark.json"),
    ],
)
def test_file_names(changes: dict[str, t.Any], name: str) -> None:
    assert _results.file_name(document(**changes)) == name


# --- secrets ---------------------------------------------------------------------------------------------------------------------------

HIDDEN = "s3cret-value"


@pytest.mark.parametrize(
    "deployment",
    [
        {"flags": ["--api-key", HIDDEN, "other-" + HIDDEN, "--port", "8000"]},
        {"flags": [f"--api-key={HIDDEN}"]},
        {"flags": f"serve m --hf-token {HIDDEN}"},
        {"flags": [f"serve m --hf-token '{HIDDEN} and more'"]},
        {"flags": ["--hf-overrides", f'{{"token": "{HIDDEN}"}}']},
        {"env": {"VLLM_API_KEY": HIDDEN}},
        {"env": {"MY_TOKEN_VALUE": HIDDEN}},
        {"env": [{"name": "DB_PASSWORD", "value": HIDDEN}]},
        {"env": [f"HF_TOKEN={HIDDEN}"]},
        {"apiKey": HIDDEN},
        {"api_keys": [HIDDEN]},
        {"password": 1234567},
        {"url": f"https://me:{HIDDEN}@llm.example.org/v1"},
        {"url": f"https://llm.example.org/v1?api_key={HIDDEN}&a=b"},
        {"note": f"Authorization: Bearer {HIDDEN}"},
        {"note": "it ran with hf_abcdefghijklmnop"},
    ],
)
def test_secrets_are_masked(deployment: dict[str, t.Any]) -> None:
    run = {"probe": "runtime_probe", "settings": deployment, "result": {"deep": [deployment]}}
    text = json.dumps(document(deployment=deployment, runs=[run]))
    assert "***" in text
    for hidden in (HIDDEN, "1234567", "hf_abc"):
        assert hidden not in text


@pytest.mark.parametrize(
    "value",
    [
        {"flags": ["--max-num-batched-tokens", "8192", "--long-prefill-token-threshold", "1024", "--tool-call-parser", "hermes"]},
        {"flags": ["--tokenizer", "mistral", "--max-tokens=5", "--port", "8000"]},
        {"env": ["TOKENIZERS_PARALLELISM=false", "MAX_TOKENS=5"]},
        {"output_tokens": 64, "first_token_p50": 0.12, "tokens_per_second": {"p50": 3.0}, "token": 5, "skipped": False, "stage": None},
        {"api_key": "", "secret": None, "key": True},
        {"url": "https://llm.example.org:8000/v1?page=2", "found": "the key of it: none"},
    ],
)
def test_what_is_no_secret_stays(value: dict[str, t.Any]) -> None:
    assert _results.masked(value) == value


def test_what_json_cannot_hold_becomes_null() -> None:
    assert _results.masked({"a": float("nan"), "b": [float("inf"), 1.5]}) == {"a": None, "b": [None, 1.5]}


# --- figures ---------------------------------------------------------------------------------------------------------------------------


def load(name: str = "", ttft: t.Optional[float] = 30.0, **changes: t.Any) -> dict[str, t.Any]:
    return {
        "name": name,
        "requests": 100,
        "completed": 100,
        "request_throughput": 4.0,
        "ttft_ms": {"p50": ttft, "p95": 2 * (ttft or 0)},
        **changes,
    }


def benchmark(*runs: t.Sequence[dict[str, t.Any]], names: t.Sequence[str] = ()) -> dict[str, t.Any]:
    named = names or [""] * len(runs)
    return document(runs=[{"probe": "serving_benchmark", "name": name, "result": {"loads": list(run)}} for name, run in zip(named, runs)])


def test_figures_of_loads_have_units_and_directions() -> None:
    found = _results.metrics(recorded("benchmark"))
    metric = found["direct rate 4/s: TTFT p95"]
    assert (metric.value, metric.unit, metric.direction, metric.answers, metric.spread) == (58.0, "ms", "lower", 100, None)
    assert (found["direct rate 16/s: requests/s"].value, found["direct rate 16/s: requests/s"].direction) == (15.6, "higher")
    assert found["direct rate 64/s: goodput"].value == 1.25
    answered = found["direct rate 64/s: requests answered"]
    assert (answered.passed, answered.tried, answered.direction) == (388, 400, "higher")
    assert len(found) == 4 * (4 + 3 * 2)


def test_repetitions_give_a_median_and_a_spread() -> None:
    found = benchmark([load("a", 30.0)], [load("a", 33.0)], [load("a", 50.0)], [load("b", 1.0)])
    metric = _results.metrics(found)["a: TTFT p50"]
    assert (metric.value, metric.samples, metric.spread) == (33.0, (30.0, 33.0, 50.0), pytest.approx(3 / 33))
    assert _results.metrics(found)["a: requests answered"].tried == 300
    assert _results.metrics(found)["b: TTFT p50"].spread is None
    assert "! Each figure is the median of up to 3 repetitions." in _results.table(found)


def test_runs_of_other_names_are_no_repetitions() -> None:
    found = _results.metrics(benchmark([load("a", 30.0)], [load("a", 40.0)], names=["direct", "router"]))
    assert (found["direct a: TTFT p50"].value, found["router a: TTFT p50"].value) == (30.0, 40.0)


def test_the_95th_percentile_of_few_answers_is_not_compared() -> None:
    found = _results.metrics(benchmark([load("few", completed=19, requests=19), load("enough", completed=20, requests=20)]))
    assert "few: TTFT p95" not in found
    assert "enough: TTFT p95" in found


def test_figures_that_are_missing_are_left_out() -> None:
    found = _results.metrics(benchmark([load("none", None, completed=0, goodput=None)]))
    assert "none: TTFT p50" not in found
    assert "none: goodput" not in found
    assert found["none: requests answered"].value == 0


def test_loads_are_in_the_order_of_what_was_offered() -> None:
    shuffled = [load(rate=8), load(concurrency=4), load(rate=0.5), load("burst", rate=2), load(concurrency=1)]
    found = _results.loads(benchmark(shuffled))
    assert [series.title for series in found] == ["rate 0.5/s", "burst", "rate 8/s", "concurrency 1", "concurrency 4"]


def test_figures_of_a_probe_suite() -> None:
    found = _results.metrics(recorded("probe-suite"))
    shares = {name: (metric.passed, metric.tried) for name, metric in found.items() if metric.tried is not None}
    assert shares == {
        "smoke auto: passed": (3, 3),
        "smoke auto_stream: passed": (2, 3),
        "smoke required: passed": (0, 3),
        "smoke required_stream: passed": (0, 3),
        "smoke all cases: passed": (5, 12),
        "vllm: reachable": (1, 1),
        "ollama: reachable": (0, 1),
        "vllm smoke latency: requests answered": (6, 6),
    }
    assert found["smoke auto_stream: first token p50"].value == 0.12
    assert "smoke required_stream: p50" not in found
    assert (found["vllm smoke latency: tokens/s p50"].value, found["vllm smoke latency: tokens/s p50"].direction) == (118.0, "higher")
    assert found["vllm smoke latency: TTFT p50"].answers == 5


def test_a_model_that_could_not_be_asked_has_not_answered() -> None:
    missing = {"model": "x", "prompt": "p", "asked": 0, "answered": 0, "errors": [{"kind": "no-such-model", "count": 1, "example": "no x"}]}
    runtime = {"name": "vllm", "reachable": True, "error": "", "results": [missing]}
    found = document(kind="probe-suite", runs=[{"probe": "runtime_probe", "result": {"runtimes": [runtime]}}])
    metric = _results.metrics(found)["vllm x p: requests answered"]
    assert (metric.passed, metric.tried) == (0, 1)
    assert "! vllm x p: 1 x no-such-model, such as: no x" in _results.table(found)


def test_a_run_that_failed_is_told() -> None:
    result = {"failed": True, "msg": "GET /v1/models: 401 | with --api-key " + HIDDEN, "changed": False}
    found = document(kind="probe-suite", runs=[{"probe": "tool_call_probe", "name": "a", "result": result}])
    lines = _results.table(found)
    assert lines[-1].split("  ") == ["tool_call_probe a", "GET /v1/models: 401 | with --api-key ***"]
    assert "| tool_call_probe a | GET /v1/models: 401 \\| with --api-key *** |" in _results.markdown(found)


# --- tables ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["benchmark", "probe-suite"])
def test_the_markdown_is_as_recorded(name: str) -> None:
    plot = "benchmark.svg" if name == "benchmark" else ""
    expect_golden(FIXTURES / f"{name}.md", _results.markdown(recorded(name), plot=plot))


@pytest.mark.parametrize("name", ["benchmark", "probe-suite"])
def test_every_row_of_a_markdown_table_has_the_width_of_its_head(name: str) -> None:
    text = _results.markdown(recorded(name))
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(line.replace("\\|", "xx")) for line in lines}) <= 1, block


def test_markdown_takes_a_comparison_and_a_picture() -> None:
    text = _results.markdown(recorded("benchmark"), ["worse  a ``` b", "1 worse"], "x.svg")
    assert "![Latency against load](x.svg)" in text
    assert "````text\nworse  a ``` b\n1 worse\n````" in text


def test_the_table_for_a_terminal() -> None:
    lines = _results.table(recorded("benchmark"))
    assert lines[:2] == [
        "Benchmark of smoke, 2026-11-21 19:18:49 UTC",
        "kubernetes, NVIDIA L4, vLLM 0.32.0, vllm/vllm-openai:v0.32.0, router vllm",
    ]
    rows = [line for line in lines if line.startswith("rate ")]
    assert [row.split()[2:5] for row in rows] == [
        ["1.00", "64.0", "28.4"],
        ["3.98", "255", "31.2"],
        ["15.6", "998", "47.5"],
        ["31.2", "1997", "2140"],
    ]
    assert len({len(row) for row in rows}) == 1
    assert rows[-1].endswith(" 3.00")
    assert "! rate 64/s: the client was the bottleneck: it used 95% of one core, which is all that one process has" in lines
    assert "! rate 64/s: 12 x timeout, such as: no answer within 60 s" in lines


def test_the_table_of_a_probe_suite_names_what_failed() -> None:
    lines = _results.table(recorded("probe-suite"))
    assert "Tool calls of smoke: 5 of 12 passed" in lines
    assert any(line.split() == ["auto_stream", "stream-broken", "2", "of", "3", "0.500", "0.120"] for line in lines)
    assert "! auto_stream: the deltas of the arguments | do not join: <b>" in lines
    assert not any("as required" in line for line in lines)
    assert any(line.startswith("! ollama: not reachable: GET /v1/models: connection refused.") for line in lines)
    assert not any("spare" in line for line in lines)


def test_answers_that_were_not_streamed_are_told() -> None:
    found = copy.deepcopy(recorded("probe-suite"))
    (run,) = (run for run in found["runs"] if run["probe"] == "runtime_probe")
    run["result"]["runtimes"][0]["results"][0]["came_together"] = 2
    assert any("2 of" in line and "came in clumps" in line for line in _results.table(found))


def test_text_of_a_model_breaks_no_line_and_no_table() -> None:
    found = copy.deepcopy(recorded("probe-suite"))
    found["runs"][0]["result"]["cases"][1]["found"] = "one\r\n two\x1b[2J | <script>"
    assert "- auto_stream: one two [2J \\| &lt;script>" in _results.markdown(found).splitlines()
    assert "! auto_stream: one two [2J | <script>" in _results.table(found)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.00042, "0.000"),
        (0.1234, "0.123"),
        (0.9999, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (12345.6, "12346"),
        (-3.14159, "-3.14"),
    ],
)
def test_numbers_have_about_three_digits(value: t.Optional[float], text: str) -> None:
    assert _results.figure(value) == text


def test_options_of_a_command() -> None:
    flags = ["serve", "model", "--a", "1", "2", "--b=3", "--c", "--seed", "-1"]
    assert _results.options(flags) == [("serve", "model"), ("--a", "1 2"), ("--b", "3"), ("--c", ""), ("--seed", "-1")]
