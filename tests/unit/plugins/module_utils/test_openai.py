# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against a server that plays replies of vLLM, its routers, and what stands before them."""

from __future__ import annotations

import itertools
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._openai import OpenAIClient, OpenAIError
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

KEY = "sk-0123456789abcdef"
HELLO = [{"role": "user", "content": "Hi"}]


def chat(server: stub.StubOpenAI, **options: t.Any) -> t.Any:
    return OpenAIClient(server.url, KEY).chat("smoke", HELLO, max_tokens=8, stream=True, **options)


def test_models_are_listed_and_the_key_is_sent() -> None:
    with stub.StubOpenAI(models=[stub.models("a", "b")], api_key=KEY) as server:
        assert OpenAIClient(server.url, KEY).models() == ["a", "b"]
        assert server.requests == [("GET", "/v1/models", f"Bearer {KEY}", None)]


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_the_base_url_may_end_as_people_write_it(ending: str) -> None:
    with stub.StubOpenAI(models=[stub.models("a")]) as server:
        assert OpenAIClient(server.url + ending).models() == ["a"]
        assert server.requests[0].authorization is None


def test_a_stream_is_joined() -> None:
    ticks = itertools.count()
    reply = stub.events({"role": "assistant", "content": ""}, {"reasoning": "Hm"}, {"reasoning": "m."}, "Hel", "lo", finish="length")
    with stub.StubOpenAI(chat=[reply]) as server:
        client = OpenAIClient(server.url, now=lambda: float(next(ticks)))
        answer = client.chat("smoke", HELLO, max_tokens=5, stream=True, temperature=0)
        assert server.requests[0].body == {"model": "smoke", "messages": HELLO, "max_tokens": 5, "stream": True, "temperature": 0}
    assert (answer.text, answer.reasoning, answer.finish_reason, answer.tool_calls) == ("Hello", "Hmm.", "length", [])
    assert answer.first_token_seconds is not None
    assert 0 < answer.first_token_seconds < answer.elapsed_seconds


def test_reasoning_alone_is_a_token() -> None:
    with stub.StubOpenAI(chat=[stub.events({"reasoning_content": "Hm"}, finish="length")]) as server:
        answer = chat(server)
    assert answer.first_token_seconds is not None
    assert not answer.is_empty


def test_tool_calls_of_a_stream_are_put_together() -> None:
    def part(index: int, **function: str) -> dict[str, t.Any]:
        return {"tool_calls": [{"index": index, "function": function}]}

    first = {"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": {"name": "weather", "arguments": ""}}]}
    reply = stub.events(first, part(0, arguments='{"city"'), part(1, name="time", arguments="{}"), part(0, arguments=': "Ulm"}'))
    with stub.StubOpenAI(chat=[reply]) as server:
        answer = chat(server, tools=[])
    assert [call["function"] for call in answer.tool_calls] == [
        {"name": "weather", "arguments": '{"city": "Ulm"}'},
        {"name": "time", "arguments": "{}"},
    ]
    assert answer.tool_calls[0]["id"] == "call-1"
    assert answer.first_token_seconds is not None


def test_an_answer_that_is_not_streamed() -> None:
    message = {"content": None, "reasoning": "Hm", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
    reply = stub.document({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    with stub.StubOpenAI(chat=[reply]) as server:
        answer = OpenAIClient(server.url).chat("smoke", HELLO, max_tokens=5)
        assert server.requests[0].body["stream"] is False
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("", "Hm", "tool_calls")
    assert answer.tool_calls == message["tool_calls"]
    assert answer.first_token_seconds is None


def test_a_stream_may_carry_usage_and_comments() -> None:
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": 1}})
    hi = json.dumps({"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]})
    with stub.StubOpenAI(chat=[stub.raw_events(f"{hi}\n\n: ping\n\nevent: last", usage, "[DONE]")]) as server:
        assert chat(server).text == "Hi"


def test_an_answer_of_nothing_is_told_apart() -> None:
    with stub.StubOpenAI(chat=[stub.events(finish=None), stub.events(finish="stop")]) as server:
        assert chat(server).is_empty
        assert not chat(server).is_empty


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (stub.status(503, "no engine"), 503, "answered 503: .*no engine"),
        (stub.status(404, "The model does not exist"), 404, "answered 404: .*does not exist"),
        (stub.drops(), 0, "got no whole answer: Remote end closed"),
        (stub.breaks_off("Hel"), 0, "got no whole answer: IncompleteRead"),
        (stub.events("Hel", finish=None, done=False), 0, "broke off in the middle of its stream, after: Hel"),
        (stub.raw_events('{"error": {"message": "queue is full", "code": 503}}'), 503, "answered 200, then error 503: .*queue is full"),
        (stub.raw_events('{"error": "engine died"}'), 500, "answered 200, then error 500: .*engine died"),
        (stub.raw_events("not JSON"), 0, "answered 200 .* not a JSON object: not JSON"),
        (stub.page("<html>Log in</html>"), 0, "answered 200 .* not a stream: <html>Log in</html>"),
        (stub.redirects("/elsewhere"), 307, "answered 307"),
    ],
)
def test_what_goes_wrong_with_a_completion_is_told(reply: stub.Reply, status: int, words: str) -> None:
    with stub.StubOpenAI(chat=[reply]) as server:
        with pytest.raises(OpenAIError, match=f"^POST /v1/chat/completions of {server.url} {words}") as caught:
            chat(server)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (stub.page("<html>Log in</html>"), "not a JSON object: <html>"),
        (stub.document({"data": None}), 'without a list of models: {"data": null}'),
    ],
)
def test_a_list_of_models_that_is_none_is_told(reply: stub.Reply, words: str) -> None:
    with stub.StubOpenAI(models=[reply]) as server, pytest.raises(OpenAIError, match=words):
        OpenAIClient(server.url).models()


def test_nobody_listens() -> None:
    client = OpenAIClient(stub.StubOpenAI().url, name="chatbot/vllm-router")
    with pytest.raises(OpenAIError, match=r"^GET /v1/models of chatbot/vllm-router got no whole answer: Connection refused$") as caught:
        client.models()
    assert caught.value.status == 0


def test_silence_ends_with_the_timeout() -> None:
    with stub.StubOpenAI(models=[stub.hangs()]) as server, pytest.raises(OpenAIError, match=r"no whole answer within 0\.1 s"):
        OpenAIClient(server.url, timeout_s=0.1).models()


def test_a_trickle_ends_with_the_timeout_too() -> None:
    ticks = itertools.count(step=40)
    with stub.StubOpenAI(chat=[stub.events(*"abcdefgh")]) as server:
        client = OpenAIClient(server.url, timeout_s=60, now=lambda: float(next(ticks)))
        with pytest.raises(OpenAIError, match="no whole answer within 60 s"):
            client.chat("smoke", HELLO, max_tokens=8, stream=True)


def test_the_key_is_cut_out_of_what_a_server_says_and_long_answers_are_cut_short() -> None:
    reply = stub.status(401, f"Incorrect key {KEY}. " + 500 * "x")
    with stub.StubOpenAI(models=[reply]) as server, pytest.raises(OpenAIError) as caught:
        OpenAIClient(server.url, KEY, name="router").models()
    message = str(caught.value)
    assert KEY not in message
    assert "Incorrect key ***. xxx" in message
    assert len(message) == len("GET /v1/models of router answered 401: ") + 200


def test_a_redirect_does_not_carry_the_key_elsewhere() -> None:
    with stub.StubOpenAI(models=[stub.models("a")]) as other:
        with stub.StubOpenAI(models=[stub.redirects(other.url + "/v1/models")]) as server:
            assert OpenAIClient(server.url, KEY).models() == ["a"]
        assert other.requests[0].authorization is None


def test_a_proxy_of_the_environment_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", stub.StubOpenAI().url)
    monkeypatch.setenv("no_proxy", "")
    with stub.StubOpenAI(models=[stub.models("a")]) as server:
        assert OpenAIClient(server.url, use_proxy=False).models() == ["a"]
        with pytest.raises(OpenAIError, match="Connection refused"):
            OpenAIClient(server.url).models()


def test_certificates_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"The certificates in .*/ca\.pem cannot be used: No such file"):
        OpenAIClient("https://127.0.0.1", ca_path=str(tmp_path / "ca.pem")).models()


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY} ", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_telling_it(key: str) -> None:
    with pytest.raises(ServingError, match="line break") as caught:
        OpenAIClient("http://127.0.0.1", key)
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize("url", ["router:8000", "http://", "https://:8000", "http://router:port", "http://[::1", "http://router:99999"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ServingError, match=r'The URL ".*" cannot be asked: it has to be like http://HOST:PORT'):
        OpenAIClient(url)


def test_the_arrival_of_each_piece_and_the_usage_are_kept() -> None:
    ticks = itertools.count()
    pieces = [{"role": "assistant", "content": ""}, {"reasoning": "Hm"}, "Hel", {"tool_calls": [{"index": 0}]}]
    chunks = [{"choices": [{"delta": {"content": piece} if isinstance(piece, str) else piece}], "usage": None} for piece in pieces]
    chunks += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": {"completion_tokens": 3}}]
    with stub.StubOpenAI(chat=[stub.raw_events(*map(json.dumps, chunks), "[DONE]")]) as server:
        answer = OpenAIClient(server.url, now=lambda: float(next(ticks))).chat("smoke", HELLO, max_tokens=8, stream=True)
    assert len(answer.piece_seconds) == 3
    assert answer.piece_seconds == sorted(set(answer.piece_seconds))
    assert answer.first_token_seconds == answer.piece_seconds[0]
    assert answer.usage == {"completion_tokens": 3}


def test_an_answer_in_one_piece_has_a_usage_and_no_arrivals() -> None:
    reply = stub.document({"choices": [{"message": {"content": "Hi"}}], "usage": {"completion_tokens": 1}})
    with stub.StubOpenAI(chat=[reply, stub.answer("Hi")]) as server:
        client = OpenAIClient(server.url)
        answers = [client.chat("smoke", HELLO, max_tokens=8) for _time in range(2)]
    assert [(answer.usage, answer.piece_seconds) for answer in answers] == [({"completion_tokens": 1}, []), ({}, [])]


def test_what_stands_beside_v1_can_be_had() -> None:
    with stub.StubOpenAI(api_key=KEY) as server:
        server.scripts |= {"/metrics": [stub.page("vllm:x 1.0\n")], "/api/tags": [stub.document({"models": []})]}
        client = OpenAIClient(f"{server.url}/v1", KEY)
        assert client.text("/metrics") == "vllm:x 1.0\n"
        assert client.get("/api/tags") == {"models": []}
        with pytest.raises(OpenAIError, match=r"^GET /other of .* answered 404") as caught:
            client.text("/other")
    assert (caught.value.status, caught.value.kind) == (404, "status-404")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (stub.status(503, "busy"), "status-503"),
        (stub.drops(), "broke-off"),
        (stub.breaks_off("Hel"), "broke-off"),
        (stub.events("Hel", finish=None, done=False), "broke-off"),
        (stub.page("<html>"), "bad-answer"),
        (stub.hangs(), "timeout"),
    ],
)
def test_errors_are_of_a_kind(reply: stub.Reply, kind: str) -> None:
    with stub.StubOpenAI(chat=[reply]) as server, pytest.raises(OpenAIError) as caught:
        OpenAIClient(server.url, timeout_s=0.2).chat("smoke", HELLO, max_tokens=8, stream=True)
    assert caught.value.kind == kind


def test_connections_that_do_not_come_about_are_of_a_kind() -> None:
    unbound = stub.StubOpenAI()
    with stub.StubOpenAI() as plain:
        for url, kind in ((unbound.url, "refused"), ("http://no.such.host.invalid", "unknown-host"), (f"https{plain.url[4:]}", "tls")):
            with pytest.raises(OpenAIError) as caught:
                OpenAIClient(url, timeout_s=5, use_proxy=False).models()
            assert caught.value.kind == kind, caught.value
    unbound.server_close()
