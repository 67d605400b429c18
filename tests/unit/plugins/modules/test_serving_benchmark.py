# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the load generator: what it returns, how it fails, and that its documents fit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _load
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import Object
from ansible_collections.llmops.serving.plugins.modules import serving_benchmark
from ansible_collections.llmops.serving.tests.unit import stub_stream as stub

KEY = "sk-0123456789abcdef"
DOCUMENTED = yaml.safe_load(serving_benchmark.DOCUMENTATION)["options"]


def run(check_mode: bool = False, connect: t.Any = None, **params: t.Any) -> dict[str, t.Any]:
    """Run the module with the defaults that its documents state, but for the warm-up."""
    given = dict.fromkeys(("url", "service", "pods", "api_key", "api_key_secret", "api_key_file", "ca_path", "kubeconfig", "context"))
    defaults = {name: option.get("default") for name, option in DOCUMENTED.items()}
    given.update(defaults, model="m", validate_certs=True, progress_path=None, warmup_requests=0, prompts=["Hi"])
    return serving_benchmark.run({**given, **params}, check_mode, connect)


def test_what_is_returned() -> None:
    with stub.StubStream() as server:
        result = run(url=server.url, loads=[{"concurrency": 2, "requests": 4}, {"rate": 200.0, "requests": 3, "name": "open"}], seed=7)
    told = [(load["name"], load["rate"], load["concurrency"], load["completed"]) for load in result["loads"]]
    assert told == [("concurrency 2", None, 2, 4), ("open", 200.0, None, 3)]
    assert (result["model"], result["endpoint"], result["seed"], result["lengths"]) == ("m", server.url, 7, "given")
    assert (result["stopped_by"], result["ignore_eos"]) == ("", False)
    assert result["table"][2].startswith("open ")
    json.dumps(result)


def test_all_that_is_returned_is_documented() -> None:
    with stub.StubStream() as server:
        result = run(url=server.url, concurrency=1, requests=1, objective={"ttft_ms": 60000.0, "itl_ms": None})
    documented = yaml.safe_load(serving_benchmark.RETURN)
    assert set(result) == set(documented)
    load, loads = result["loads"][0], documented["loads"]["contains"]
    assert set(load) == set(loads)
    assert set(load["client"]) == set(loads["client"]["contains"])
    for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "goodput"):
        assert set(load[name]) == set(loads[name]["sample"])
    assert load["goodput"]["objective"] == {"ttft_ms": 60000.0}
    assert load["goodput"]["share"] == 1.0


def test_a_new_seed_is_taken_and_told() -> None:
    seeds = {run(url="http://127.0.0.1:9", check_mode=True, concurrency=1)["seed"] for _run in range(3)}
    assert len(seeds) == 3


def test_check_mode_asks_nothing() -> None:
    with stub.StubStream() as server:
        result = run(url=server.url, check_mode=True, concurrency=1, requests=1)
        assert not server.requests
    assert (result["loads"], result["table"]) == ([], [])


@pytest.mark.parametrize(
    ("params", "words"),
    [({"rate": 1.0, "requests": 0}, "requests 0"), ({"rate": 1.0, "shared_prefix_share": 2.0}, "shared_prefix_share is 2")],
)
def test_check_mode_refuses_what_cannot_be(params: dict[str, t.Any], words: str) -> None:
    with pytest.raises(ServingError, match=words):
        run(url="http://127.0.0.1:9", check_mode=True, **params)


def test_a_wrong_key_is_said_with_what_to_do() -> None:
    with stub.StubStream(stub.status(401, {"error": "Unauthorized"})) as server, pytest.raises(ServingError) as caught:
        run(url=server.url, concurrency=1, warmup_requests=1, api_key=KEY)
    words = 'did not answer the first request (status 401): {"error": "Unauthorized"}. The API key is not the one that the engines use.'
    assert words in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_load_without_a_single_answer_fails_with_its_figures() -> None:
    words = r"No request was completed \(status 503\).*no engine.*Look at the log of what serves"
    with stub.StubStream(stub.status(503, {"detail": "no engine"})) as server, pytest.raises(ServingError, match=words) as caught:
        run(url=server.url, concurrency=1, requests=3)
    assert caught.value.details["loads"][0]["errors"]["status 503"]["count"] == 3


def test_a_signal_fails_the_module_with_what_was_measured() -> None:
    async def reply(connection: stub.Connection, request: stub.Request) -> None:
        if len(server.requests) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            await stub.hangs(connection, request)
        await stub.says(2)(connection, request)

    words = "SIGTERM ended the benchmark in load 1 of 2, after 2 requests of it"
    with stub.StubStream(reply) as server, pytest.raises(ServingError, match=words) as caught:
        run(url=server.url, loads=[{"concurrency": 1}, {"concurrency": 2}])
    details = caught.value.details
    assert (details["stopped_by"], details["loads"][0]["completed"], len(details["table"])) == ("SIGTERM", 2, 2)


def test_progress_goes_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "_TELL_S", 0.0)
    path = tmp_path / "progress"
    with stub.StubStream(stub.says(20)) as server:
        run(url=server.url, concurrency=1, requests=3, warmup_requests=1, progress_path=str(path))
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["phase"] for line in told] == ["warm 1", "load 1"]
    assert told[0]["text"] == "load 1 of 1: concurrency 1, warming up"


class Cluster:
    """A pod; the port-forward leads to the stub."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, _kubeconfig: t.Optional[str], _context: t.Optional[str]) -> t.Any:
        return self

    def list(self, _path: str, _label_selector: str = "") -> t.Iterator[Object]:
        yield {"metadata": {"name": "pod-1"}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}

    @contextlib.contextmanager
    def port_forward(self, _namespace: str, _pod: str, _port: int) -> t.Iterator[str]:
        yield self.url


def test_a_pod_is_asked_through_a_port_forward() -> None:
    with stub.StubStream() as server:
        goal = {"namespace": "chat", "label_selector": "app=vllm", "port": 8000}
        result = run(connect=Cluster(server.url), pods=goal, concurrency=1, requests=2)
        assert len(server.asked()) == 2
    assert result["endpoint"] == "pods chat/app=vllm:8000"
    assert result["loads"][0]["completed"] == 2


def test_the_options_of_the_code_are_those_of_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    specs: list[dict[str, t.Any]] = []

    class Module:
        def __init__(self, **arguments: t.Any) -> None:
            specs.append(arguments)
            raise SystemExit

    monkeypatch.setattr(serving_benchmark, "AnsibleModule", Module)
    with pytest.raises(SystemExit):
        serving_benchmark.main()
    spec = {name: option for name, option in specs[0]["argument_spec"].items() if name in DOCUMENTED}
    assert set(spec) == set(DOCUMENTED)
    for name, option in DOCUMENTED.items():
        assert (spec[name]["type"], spec[name].get("default")) == (option["type"], option.get("default")), name
        assert set(spec[name].get("options", {})) == set(option.get("suboptions", {})), name
