# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a matrix asks, what becomes of the answers, and what a runtime that misbehaves is told to be."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _runtimes
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._openai import Completion, OpenAIClient, OpenAIError
from ansible_collections.llmops.serving.plugins.module_utils._runtimes import Matrix, Prober, Prompt, Runtime, figures, make_matrix
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

KEY = "sk-0123456789abcdef"
# As the hand-made matrix of teams has it.
FILE = {
    "latency_prompt": "Say hello in one sentence.",
    "iterations": 3,
    "timeout_sec": 30,
    "runtimes": [
        {"name": "ollama", "url": "http://127.0.0.1:11434/v1/chat/completions", "models": ["llama3.1:latest"], "note": "slow"},
        {"name": "vllm", "models": ["Qwen/Qwen2.5-7B-Instruct"], "enabled": False},
    ],
}


def stream(*pieces: float, total: float = 0.0, tokens: t.Optional[int] = None) -> Completion:
    """An answer whose pieces came at these seconds."""
    usage = {} if tokens is None else {"completion_tokens": tokens}
    return Completion(text="x", elapsed_seconds=total or pieces[-1], piece_seconds=list(pieces), usage=usage)


def from_file(tmp_path: Path, document: t.Any, environ: t.Optional[dict[str, str]] = None, **options: t.Any) -> Matrix:
    path = tmp_path / "matrix.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return make_matrix({"config": str(path), **options}, environ or {})


# --- the matrix


def test_a_matrix_file_is_read(tmp_path: Path) -> None:
    matrix = from_file(tmp_path, FILE)
    ollama, vllm = matrix.runtimes
    assert (ollama.name, ollama.api, ollama.reach["url"], ollama.models) == (
        "ollama",
        "ollama",
        "http://127.0.0.1:11434",
        ["llama3.1:latest"],
    )
    assert (vllm.api, vllm.reach["url"], vllm.enabled) == ("openai", "http://127.0.0.1:8000", False)
    assert matrix.prompts == [Prompt("latency", "Say hello in one sentence.", 64)]
    assert (matrix.iterations, matrix.timeout_s, matrix.unread) == (3, 30.0, ("runtimes[0].note",))


def test_options_come_before_the_file(tmp_path: Path) -> None:
    prompts = [{"name": "own", "text": "Hi", "max_tokens": 8}]
    matrix = from_file(tmp_path, FILE, iterations=9, timeout=1.5, prompts=prompts)
    assert (matrix.prompts, matrix.iterations, matrix.timeout_s) == ([Prompt("own", "Hi", 8)], 9, 1.5)


def test_without_anything_said_there_are_defaults() -> None:
    matrix = make_matrix({"runtimes": [{"name": "vllm"}]})
    assert (matrix.prompts, matrix.iterations, matrix.timeout_s) == ([Prompt("latency", "Hello, who are you?", 64)], 5, 60.0)
    assert (matrix.runtimes[0].enabled, matrix.runtimes[0].models, matrix.runtimes[0].reach["validate_certs"]) == (True, [], True)


@pytest.mark.parametrize(
    ("latency", "prompt"),
    [
        ({"text": "Hi", "max_tokens": 8}, Prompt("latency", "Hi", 8)),
        ({"prompt": "Hi", "name": "short"}, Prompt("short", "Hi", 64)),
        (None, Prompt("latency", "Hello, who are you?", 64)),
    ],
)
def test_the_prompt_of_a_file_may_be_a_text_or_more(tmp_path: Path, latency: t.Any, prompt: Prompt) -> None:
    assert from_file(tmp_path, {**FILE, "latency_prompt": latency}).prompts == [prompt]


@pytest.mark.parametrize("key", ["url", "base_url", "api_base"])
@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/models"])
def test_a_url_may_be_written_as_people_do(tmp_path: Path, key: str, ending: str) -> None:
    runtime = from_file(tmp_path, {"runtimes": [{"name": "x", key: f"https://h:1/api{ending}"}]}).runtimes[0]
    assert runtime.reach["url"] == "https://h:1/api"


def test_keys_come_from_the_environment_or_the_file(tmp_path: Path) -> None:
    runtimes = [{"name": "vllm", "api_key_env": "K"}, {"name": "b", "url": "http://b", "api_key": "plain"}]
    runtimes += [{"name": "c", "url": "http://c", "api_key_file": "~/key"}, {"name": "ollama", "enabled": False, "api_key_env": "MISSING"}]
    found = from_file(tmp_path, {"runtimes": runtimes}, {"K": KEY}).runtimes
    assert [runtime.reach["api_key"] for runtime in found] == [KEY, "plain", None, None]
    assert found[2].reach["api_key_file"] == str(Path.home() / "key")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runtimes": []}, "has to be a list of runtimes"),
        ({"runtimes": {"vllm": {}}}, "has to be a list of runtimes"),
        ({"runtimes": ["vllm"]}, r"runtimes\[0\] has to be like"),
        ({"runtimes": [{"name": " "}]}, r"runtimes\[0\] has to be like"),
        ({"runtimes": [{"name": "x"}]}, r"runtimes\[0\] \(x\): it has no url. Only vllm and ollama"),
        ({"runtimes": [{"name": "vllm", "url": 8000}]}, "url has to be a text"),
        ({"runtimes": [{"name": "vllm", "models": "smoke"}]}, "models has to be a list of names"),
        ({"runtimes": [{"name": "vllm", "enabled": "yes"}]}, 'enabled is "yes"'),
        ({"runtimes": [{"name": "vllm", "api": "grpc"}]}, 'api is "grpc". It may be openai or ollama'),
        ({"runtimes": [{"name": "vllm", "api_key_env": "MISSING"}]}, "names MISSING, which is not set"),
        ({"runtimes": [{"name": "vllm", "api_key": "a", "api_key_env": "K"}]}, "api_key and api_key_env are given"),
        ({"runtimes": [{"name": "vllm"}, {"name": "vllm"}]}, "two runtimes are called vllm"),
        ({"runtimes": [{"name": "vllm", "enabled": False}]}, "no runtime is enabled. Set enabled: true for one of vllm"),
        ({"iterations": 0}, "iterations is 0"),
        ({"iterations": True}, "iterations is true"),
        ({"timeout_sec": "60"}, 'the timeout is "60"'),
        ({"latency_prompt": " "}, "prompt 1 has no text"),
        ({"prompts": [{"name": "a", "text": "x"}, {"name": "a", "text": "y"}]}, "two prompts are called a"),
        ({"prompts": [{"text": "x", "max_tokens": 0}]}, "max_tokens of prompt 1 is 0"),
    ],
)
def test_what_cannot_be_asked_is_told(tmp_path: Path, change: dict[str, t.Any], words: str) -> None:
    with pytest.raises(ServingError, match=words) as caught:
        from_file(tmp_path, {**FILE, **change})
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("{", "is not JSON"), ("[]", "is not a JSON object like")])
def test_a_file_that_is_no_matrix_is_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ServingError, match=words):
        from_file(tmp_path, text)


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(ServingError, match=r"Cannot read the matrix /nonexistent\.json: No such file"):
        make_matrix({"config": "/nonexistent.json"})


# --- figures


def test_values_are_told_as_their_spread() -> None:
    assert _runtimes.spread([4.0, 1.0, 3.0, 2.004]) == {"p50": 2.5, "p95": 3.85, "min": 1.0, "max": 4.0}
    assert _runtimes.spread([]) is None


def test_the_first_answer_is_in_no_other_figure() -> None:
    found = figures(stream(9.0, 9.5, total=10.0, tokens=2), [stream(0.1, 0.2, 0.4, total=0.5, tokens=3)])
    assert found["first"] == {"ttft_ms": 9000.0, "itl_ms": 500.0, "tokens_per_second": 2.0, "total_ms": 10000.0, "output_tokens": 2}
    assert found["ttft_ms"] == {"p50": 100.0, "p95": 100.0, "min": 100.0, "max": 100.0}
    assert (found["itl_ms"]["min"], found["itl_ms"]["max"]) == (100.0, 200.0)
    assert found["tokens_per_second"]["p50"] == pytest.approx(6.67)
    assert found["total_ms"]["max"] == 500.0
    assert (found["tokens_from"], found["output_tokens"]) == ("usage", 2)


@pytest.mark.parametrize(("first", "slow"), [(0.21, True), (0.19, False)])
def test_a_first_answer_that_was_slow_is_told(first: float, slow: bool) -> None:
    assert figures(stream(first), [stream(0.1), stream(0.1), stream(5.0)])["warmed_up"] is slow


def test_pieces_are_counted_where_not_every_answer_has_a_usage() -> None:
    found = figures(stream(1.0, 2.0, tokens=20), [stream(1.0, 2.0, 3.0), stream(1.0, 2.0, 3.0, tokens=30)])
    assert (found["tokens_from"], found["output_tokens"], found["first"]["output_tokens"]) == ("pieces", 3, 2)
    assert found["tokens_per_second"]["max"] == 1.0


def test_an_answer_in_one_piece_has_no_speed() -> None:
    found = figures(None, [stream(1.0, tokens=7)])
    assert (found["itl_ms"], found["tokens_per_second"], found["first"], found["output_tokens"]) == (None, None, None, 7)


def test_answers_whose_pieces_came_together_have_no_speed() -> None:
    clump = stream(1.0, 1.00001, 1.00002, 1.00003, 1.5, total=1.6, tokens=5)
    found = figures(clump, [clump, stream(0.1, 0.2, 0.4, total=0.5, tokens=3)])
    assert (found["came_together"], found["first"]["itl_ms"], found["first"]["tokens_per_second"]) == (1, None, None)
    assert (found["itl_ms"]["min"], found["itl_ms"]["max"]) == (100.0, 200.0)
    assert found["tokens_per_second"]["max"] == pytest.approx(6.67)
    assert found["ttft_ms"]["max"] == 1000.0


def test_of_nothing_there_are_no_figures() -> None:
    found = figures(None, [])
    assert (found["ttft_ms"], found["total_ms"], found["output_tokens"], found["tokens_from"]) == (None, None, None, None)
    assert found["warmed_up"] is False


# --- asking

GOOD = stub.raw_events(
    *(json.dumps({"choices": [{"delta": {"content": word}}]}) for word in ("a", "b", "c")),
    json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
    json.dumps({"choices": [], "usage": {"completion_tokens": 4}}),
    "[DONE]",
)


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("m")], chat=[GOOD]) as running:
        yield running


def probe(server: stub.StubOpenAI, iterations: int = 2, timeout_s: float = 5.0, nonce: str = "", **options: t.Any) -> dict[str, t.Any]:
    reach = {"url": server.url, "api_key": options.pop("api_key", None)}
    runtime = Runtime(**{"name": "vllm", "api": "openai", "reach": reach, "models": [], **options})
    matrix = Matrix([runtime], [Prompt("latency", "Hi", 8)], iterations, timeout_s)
    told: list[str] = []
    report = Prober(matrix, lambda: None, lambda _phase, text: told.append(text), nonce).reports()[0]  # type: ignore[arg-type, return-value]
    report["told"] = told
    return report


def chats(server: stub.StubOpenAI) -> list[t.Any]:
    return [request.body for request in server.requests if request.method == "POST"]


def test_every_model_is_asked_once_more_than_there_are_iterations(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.models("m", "n")]
    report = probe(server)
    assert (report["reachable"], report["error"], report["models"]) == (True, "", ["m", "n"])
    assert report["models_ms"] > 0
    assert [(found["model"], found["ok"], found["asked"], found["answered"]) for found in report["results"]] == [
        ("m", True, 3, 3),
        ("n", True, 3, 3),
    ]
    assert report["results"][0]["output_tokens"] == 4
    assert report["results"][0]["first"]["ttft_ms"] > 0
    assert [body["model"] for body in chats(server)] == ["m"] * 3 + ["n"] * 3
    assert chats(server)[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 8,
        "stream": True,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    assert _runtimes.is_ok([report])
    assert report["told"][0] == f"vllm: {server.url}"
    assert report["told"][1] == "vllm, m: latency, request 1 of 3"
    assert report["told"][3].startswith("vllm, m: latency, request 3 of 3, the last began to answer after ")


def test_names_of_the_same_weights_are_asked_once(server: stub.StubOpenAI) -> None:
    entries = [{"id": "m", "root": "/w"}, {"id": "chat", "root": "/w"}, {"id": "lora", "root": "/w", "parent": "m"}, {"id": "other"}]
    server.scripts["/v1/models"] = [stub.document({"data": entries})]
    report = probe(server)
    assert report["models"] == ["m", "chat", "lora", "other"]
    assert [found["model"] for found in report["results"]] == ["m", "lora", "other"]
    assert [found["model"] for found in probe(server, models=["chat"])["results"]] == ["chat"]


def test_a_nonce_makes_each_request_new(server: stub.StubOpenAI) -> None:
    probe(server, nonce="ab")
    assert [body["messages"][0]["content"] for body in chats(server)] == ["[ab-1] Hi", "[ab-2] Hi", "[ab-3] Hi"]


def test_a_model_that_is_not_listed_is_not_asked(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.models("Qwen/Qwen3-8B")]
    found = probe(server, models=["Qwen/Qwen3:8B"])["results"][0]
    assert (found["ok"], found["asked"], found["first"]) == (False, 0, None)
    assert found["errors"][0]["kind"] == "not-found"
    assert 'vllm lists Qwen/Qwen3-8B, not Qwen/Qwen3:8B (did you mean "Qwen/Qwen3-8B"?)' in found["errors"][0]["example"]
    assert chats(server) == []


def test_an_old_ollama_is_asked_for_its_tags_and_knows_models_without_theirs(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.status(404)]
    server.scripts["/api/tags"] = [stub.document({"models": [{"name": "llama3.1:latest"}]})]
    report = probe(server, api="ollama", models=["llama3.1"])
    assert (report["models"], report["results"][0]["ok"]) == (["llama3.1:latest"], True)


def test_without_a_list_the_models_that_are_named_are_asked(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.status(404, "no such path")]
    report = probe(server, models=["m"])
    assert (report["reachable"], report["error"], report["models_ms"], report["results"][0]["ok"]) == (True, "", None, True)
    report = probe(server)
    assert (report["error_kind"], report["results"]) == ("not-found", [])


def test_an_empty_list_is_told(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.models()]
    report = probe(server)
    assert "lists no model. Load one, or name one in models" in report["error"]
    assert not _runtimes.is_ok([report])


def test_an_endpoint_that_does_not_know_stream_options_is_asked_without(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(400, "unknown field stream_options"), stub.events("a", "b")]
    found = probe(server)["results"][0]
    assert (found["ok"], found["asked"], found["tokens_from"], found["output_tokens"]) == (True, 3, "pieces", 2)
    assert ["stream_options" in body for body in chats(server)] == [True, False, False, False]


@pytest.mark.parametrize(
    ("replies", "asked", "answered", "errors"),
    [
        ([GOOD, stub.status(503, "busy"), GOOD], 5, 4, [("status-503", 1)]),
        # the first that was answered is the first, so what warms the model is in no figure
        ([stub.status(503, "loading"), GOOD], 5, 4, [("status-503", 1)]),
        ([stub.status(503, "busy")], 3, 0, [("status-503", 3)]),
        ([stub.status(400, "too long")], 1, 0, [("status-400", 1)]),
        ([stub.status(404, "no such model")], 1, 0, [("not-found", 1)]),
        ([stub.drops(), stub.events(finish="stop"), GOOD], 5, 3, [("broke-off", 1), ("empty-answer", 1)]),
        ([stub.hangs(), GOOD], 5, 4, [("timeout", 1)]),
    ],
)
def test_errors_are_counted_by_kind(
    server: stub.StubOpenAI, replies: list[stub.Reply], asked: int, answered: int, errors: list[tuple[str, int]]
) -> None:
    server.scripts["/v1/chat/completions"] = replies
    found = probe(server, iterations=4, timeout_s=0.3)["results"][0]
    assert (found["asked"], found["answered"], found["ok"]) == (asked, answered, False)
    assert [(error["kind"], error["count"]) for error in found["errors"]] == errors
    assert (found["first"] is None) is (answered == 0)


def test_a_runtime_that_is_not_there_is_told(server: stub.StubOpenAI) -> None:
    gone = stub.StubOpenAI()
    report = probe(gone)
    gone.server_close()
    assert (report["reachable"], report["error_kind"], report["results"]) == (False, "refused", [])
    assert "Connection refused. Nothing listens there: start it" in report["error"]
    assert _runtimes.is_silent([report])


def test_a_key_that_is_wrong_is_told_and_not_shown() -> None:
    with stub.StubOpenAI(models=[stub.models("m")], chat=[GOOD], api_key=KEY) as server:
        report = probe(server, api_key="sk-other-0123456789")
        assert (report["reachable"], report["error_kind"]) == (True, "unauthorized")
        assert "The API key is not the one that the engines use" in report["error"]
        assert "sk-other" not in json.dumps(report)
        assert _runtimes.is_silent([report])
        assert not _runtimes.is_silent([report, probe(server, api_key=KEY)])


def test_a_url_that_is_none_is_an_error_of_its_runtime_alone(server: stub.StubOpenAI) -> None:
    report = probe(server, reach={"url": "localhost:8000"})
    assert (report["reachable"], report["error_kind"]) == (False, "unreachable")
    assert 'The URL "localhost:8000" cannot be asked' in report["error"]


def test_what_is_not_enabled_is_not_asked_and_counts_for_nothing(server: stub.StubOpenAI) -> None:
    report = probe(server, enabled=False)
    assert (report["enabled"], server.requests) == (False, [])
    assert not _runtimes.is_ok([report])
    assert _runtimes.is_ok([report, probe(server)])


@pytest.mark.parametrize(
    ("status", "kind", "hopeless"),
    [(401, "", True), (404, "", True), (408, "", False), (429, "", False), (503, "", False), (0, "refused", True), (0, "timeout", False)],
)
def test_what_will_not_heal_is_known(status: int, kind: str, hopeless: bool) -> None:
    assert _runtimes.is_hopeless(OpenAIError(status, "x", kind)) is hopeless


def test_models_are_listed_whole_and_by_their_weights(server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.document({"data": [{"id": "m", "root": "r"}, {"id": "chat", "root": "r"}]})]
    assert _runtimes.listed_models(OpenAIClient(server.url)) == (["m", "chat"], ["m"])


# --- for people


def result(model: str = "m", **changes: t.Any) -> dict[str, t.Any]:
    found = figures(stream(0.3, 0.4, tokens=2), [stream(0.1, 0.2, total=0.25, tokens=2)])
    return {"model": model, "prompt": "latency", "ok": True, "asked": 2, "answered": 2, "errors": [], **found, **changes}


def report(name: str = "vllm", *results: dict[str, t.Any], **changes: t.Any) -> dict[str, t.Any]:
    return {"name": name, "enabled": True, "reachable": True, "error": "", "results": list(results), **changes}


def test_the_table_is_aligned_and_has_words_below() -> None:
    errors = [{"kind": "timeout", "count": 1, "example": "m got no whole answer within 5 s."}]
    dead = report("ollama", reachable=False, error="Connection refused.")
    lines = _runtimes.table([report("vllm", result(), result("a-longer-name", ok=False, errors=errors)), dead, report("x", enabled=False)])
    assert lines == [
        "Runtime  Model          Prompt   First TTFT  TTFT p50  p95  ITL p50  p95  Total p50  p95  Tokens/s  Tokens  Errors",
        "vllm     m              latency        300*       100  100      100  100        250  250      10.0       2  0 of 2",
        "vllm     a-longer-name  latency        300*       100  100      100  100        250  250      10.0       2  1 of 2",
        "* more than twice as slow as the others: it has warmed up",
        "vllm, a-longer-name, latency: m got no whole answer within 5 s.",
        "ollama: not reachable: Connection refused.",
        "x: not enabled",
    ]


def test_the_table_of_nothing_is_words() -> None:
    assert _runtimes.table([report(error="It lists no model.")]) == ["vllm: It lists no model."]
    empty = {**figures(None, []), "model": "m", "prompt": "p", "asked": 0, "errors": []}
    assert _runtimes.table([report("vllm", empty)])[1].split()[3:] == ["-"] * 9 + ["not", "asked"]


def test_the_summary_counts() -> None:
    reports = [report("a", result("m"), result("m", ok=False), result("n")), report("b", reachable=False), report("c", enabled=False)]
    assert _runtimes.summary(reports) == "1 of 2 runtimes reached, 1 of 2 models answered every request"
