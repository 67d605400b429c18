# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""make benchmark against an engine in miniature: what is kept and compared, what the last lines and the exit code say."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.tests.playbooks.playing import Played, deployed, kept, play
from ansible_collections.llmops.serving.tests.unit import stub_stream as stub

SMALL = {"benchmark_requests": 4, "benchmark_repeats": 2, "benchmark_loads": [{"concurrency": 1}, {"concurrency": 2}]}


@pytest.fixture
def server() -> t.Iterator[stub.StubStream]:
    with stub.StubStream(stub.says(3)) as running:
        yield running


def benchmark(tmp_path: Path, server: t.Optional[stub.StubStream] = None, *arguments: str, **variables: t.Any) -> Played:
    """Measure the deployment of *tmp_path*, whose router is *server*."""
    if server and not (tmp_path / "state").exists():
        deployed(tmp_path, int(server.url.rpartition(":")[2]))
    given = {"llm_state_dir": tmp_path / "state", "results_folder": tmp_path / "results", **SMALL, **variables}
    return play("benchmark.yml", *arguments, **given)


def test_what_is_measured_is_kept(server: stub.StubStream, tmp_path: Path) -> None:
    code, words, output = benchmark(tmp_path, server)
    assert code == 0, output
    assert words[0].startswith("Benchmark of smoke, ")
    assert [line.split("  ")[0] for line in words if line.startswith("concurrency")] == ["concurrency 1", "concurrency 2"]
    assert words[-1].startswith(f"Kept: {tmp_path}/results/")
    assert words[-1].endswith("-smoke-benchmark.md")
    assert "(item=repetition 2 of 2)" in output
    assert "load 2 of 2: concurrency 2" in output
    (result,) = kept(tmp_path / "results")
    assert [(run["probe"], run["name"]) for run in result["runs"]] == [("serving_benchmark", "")] * 2
    assert result["runs"][0]["settings"] == {
        "reached": "its URL",
        "api": "completions",
        "input_tokens": 512,
        "output_tokens": 128,
        "shared_prefix_share": 0.0,
        "sessions": 0,
        "duration_s": 30.0,
    }
    assert [load["completed"] for run in result["runs"] for load in run["result"]["loads"]] == [4] * 4
    assert sorted(path.suffix for path in (tmp_path / "results").iterdir()) == [".json", ".md", ".svg"]


def test_paths_are_meant_from_where_the_command_was_given(server: stub.StubStream, tmp_path: Path) -> None:
    first = benchmark(tmp_path, server, folder=tmp_path, results_folder="kept here", benchmark_repeats=1)
    assert first.words[-1].startswith("Kept: kept here/"), first.output
    (path,) = (tmp_path / "kept here").glob("*.json")
    second = benchmark(
        tmp_path, server, folder=tmp_path, results_folder="kept here", benchmark_repeats=1, results_compare_with=f"kept here/{path.name}"
    )
    assert second.code == 0, second.output
    assert any("within noise" in line for line in second.words)


@pytest.mark.parametrize("fails", [False, True])
def test_what_got_worse_is_told_and_fails_only_where_it_is_to(server: stub.StubStream, tmp_path: Path, fails: bool) -> None:
    load = {"concurrency": 1, "requests": 4, "completed": 4, "request_throughput": 1e6, "ttft_ms": {"p50": 1e6}}
    run = {"probe": "serving_benchmark", "settings": {"reached": "a port-forward"}, "result": {"loads": [load]}}
    earlier = tmp_path / "results" / "2026-01-01T00-00-00Z-smoke-benchmark.json"
    earlier.parent.mkdir()
    document = {"kind": "benchmark", "date": "2026-01-01T00:00:00Z", "deployment": {"model": "smoke"}, "runs": [run]}
    earlier.write_text(json.dumps(document))
    compare = {"results_compare_with": "latest" if fails else earlier, "benchmark_fail_when_worse": fails}
    code, words, output = benchmark(tmp_path, server, **compare)
    assert (code != 0) == fails, output
    for begin in (
        "differs serving_benchmark reached a port-forward -> its URL",
        "worse concurrency 1: requests/s",
        "better concurrency 1: TTFT",
    ):
        assert any(" ".join(line.split()).startswith(begin) for line in words), begin
    told = f"1 figure is worse than in {earlier}, beyond noise: look above at what else differs."
    failed = f"Failed: 1 of the figures got worse than in {earlier}, beyond noise, and benchmark_fail_when_worse is set."
    assert words[-2:] == ([told, failed] if fails else [words[-2], told])
    assert len(kept(tmp_path / "results")) == 2


def test_check_mode_asks_and_keeps_nothing(server: stub.StubStream, tmp_path: Path) -> None:
    code, words, output = benchmark(tmp_path, server, "--check")
    assert code == 0, output
    assert words == [f"Nothing was asked and nothing is kept (check mode). {server.url} would be."]
    assert not server.requests
    assert not (tmp_path / "results").exists()


def test_an_endpoint_that_refuses_ends_it_at_once_with_the_cause(tmp_path: Path) -> None:
    with stub.StubStream(stub.status(503, {"detail": "no engine is ready"})) as server:
        code, words, output = benchmark(tmp_path, server)
        assert len(server.asked()) == 1, output
    assert code != 0
    assert words[-1].startswith(f"Failed: {server.url} did not answer the first request (status 503): ")
    assert "no engine is ready" in words[-1]
    assert not (tmp_path / "results").exists()


def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path) -> None:
    async def reply(connection: stub.Connection, request: stub.Request) -> None:
        # a repetition is two loads, each with a request to warm up
        answer = stub.says(3) if len(server.asked()) <= 10 else stub.status(503, {"detail": "gone"})
        await answer(connection, request)

    with stub.StubStream(reply) as server:
        code, words, output = benchmark(tmp_path, server, benchmark_repeats=4)
        assert len(server.asked()) == 11, output
    assert code != 0
    assert words[-1].startswith(f"Failed: {server.url} did not answer the first request (status 503): ")
    assert words[-2].startswith("Kept: ")
    (result,) = kept(tmp_path / "results")
    assert [run["result"].get("failed", False) for run in result["runs"]] == [False, True]


def test_on_kubernetes_the_engine_is_looked_for_in_the_cluster() -> None:
    code, words, output = play("benchmark.yml", inventory="inventory.example.yaml", llm_kubeconfig="/nonexistent/config")
    assert code != 0, output
    assert words[-1].startswith("Failed: No kubeconfig: /nonexistent/config does not exist. Set llm_kubeconfig")
