# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The load generator against a server that streams piece by piece."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import itertools
import json
import os
import re
import resource
import signal
import socket
import ssl
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _load
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._load import FirstRequestError, Load, Report, Settings, loads_of, measure
from ansible_collections.llmops.serving.plugins.module_utils._load_figures import Result
from ansible_collections.llmops.serving.plugins.module_utils._load_http import Endpoint
from ansible_collections.llmops.serving.tests.unit import stub_stream as stub
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

KEY = "sk-0123456789abcdef"
ANSWER = stub.whole(stub.token(" a"), stub.token(" b", "length"), stub.usage(7, 2), stub.DONE)


def sweep(url: str, *loads: Load, tell: t.Any = None, tls: t.Any = None, now: t.Any = None, **settings: t.Any) -> Report:
    given: dict[str, t.Any] = {"model": "m", "prompts": ["Hi"], "warmup_requests": 0, "request_timeout": 5.0, **settings}
    more = {**({"tell": tell} if tell else {}), **({"now": now} if now else {})}
    return measure(Endpoint(url, KEY, tls), Settings(**given), loads, **more)


def once(url: str, requests: int = 1, concurrency: int = 1, **settings: t.Any) -> Result:
    """Return the figures of a closed loop."""
    return sweep(url, Load(concurrency=concurrency, requests=requests), **settings).loads[0][1]


def asked(*events: bytes, **settings: t.Any) -> Result:
    """Return the figures of one answer with *events*."""
    with stub.StubStream(stub.raw(stub.whole(*events))) as server:
        return once(server.url, **settings)


# -- closed and open loop ----------------------------------------------------------------------------------------------


def test_a_closed_loop_keeps_so_many_callers_busy() -> None:
    with stub.StubStream(stub.says(3, inputs=7)) as server:
        result = once(server.url, requests=12, concurrency=4)
        assert len(server.asked()) == 12
        assert server.peak <= 4
    assert (result.requests, result.completed, result.failed) == (12, 12, 0)
    assert (result.peak_in_flight, result.client["connections"], result.client["send_lag_ms_p99"]) == (4, 4, None)
    assert (result.input_tokens, result.output_tokens, result.without_usage) == (84, 36, 0)


def test_no_more_callers_than_requests() -> None:
    with stub.StubStream() as server:
        assert once(server.url, requests=2, concurrency=9).peak_in_flight <= 2
        assert len(server.asked()) == 2


def test_an_open_loop_sends_all_that_is_due() -> None:
    with stub.StubStream() as server:
        result = sweep(server.url, Load(rate=200.0, requests=20)).loads[0][1]
        assert len(server.asked()) == 20
    assert (result.completed, result.client["held_back"]) == (20, 0)
    assert result.client["send_lag_ms_p99"] >= 0
    # the last is due after 20 / 200 s, and no load is over before
    assert result.duration_s >= 0.1


@pytest.mark.parametrize(
    ("load", "count"),
    [
        (Load(rate=100.0, duration_s=0.1), 10),
        (Load(rate=100.0, duration_s=0.1, requests=4), 4),
        (Load(rate=100.0, duration_s=60.0, requests=5), 5),
        (Load(rate=0.29, duration_s=100.0), 29),
        (Load(concurrency=2, duration_s=1.0), None),
    ],
)
def test_bounds_say_how_many_are_sent(load: Load, count: t.Optional[int]) -> None:
    assert load.count == count


def test_a_closed_loop_ends_with_its_time() -> None:
    with stub.StubStream() as server:
        result = sweep(server.url, Load(concurrency=2, duration_s=0.2)).loads[0][1]
        assert result.requests == result.completed == len(server.asked())
    assert result.completed >= 2
    assert result.duration_s >= 0.2


def test_no_more_are_under_way_than_allowed() -> None:
    with stub.StubStream() as server:
        result = sweep(server.url, Load(rate=5000.0, requests=30), max_in_flight=2).loads[0][1]
        assert server.peak <= 2
    assert (result.completed, result.peak_in_flight, result.client["unsent"]) == (30, 2, 0)
    assert result.client["held_back"] > 0


def test_what_still_waits_when_the_time_is_over_is_not_sent() -> None:
    with stub.StubStream(stub.says(60)) as server:
        result = sweep(server.url, Load(rate=400.0, duration_s=0.05), max_in_flight=1).loads[0][1]
        assert len(server.asked()) == result.requests
    assert result.client["unsent"] > 0
    assert result.requests + result.client["unsent"] == 20


def test_loads_come_one_after_the_other_each_with_figures_of_its_own() -> None:
    first, second = Load(concurrency=1, requests=2, name="one"), Load(rate=500.0, requests=3, name="two")
    with stub.StubStream() as server:
        report = sweep(server.url, first, second)
    assert [(load.name, result.requests) for load, result in report.loads] == [("one", 2), ("two", 3)]


def test_warm_up_requests_are_made_before_each_load_and_not_counted() -> None:
    with stub.StubStream() as server:
        report = sweep(server.url, Load(concurrency=1, requests=2), Load(concurrency=2, requests=2), warmup_requests=3)
        assert len(server.asked()) == 10
    assert [result.requests for _load, result in report.loads] == [2, 2]


def test_progress_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "_TELL_S", 0.02)
    told: list[tuple[str, str]] = []
    with stub.StubStream() as server:
        loads = [Load(rate=100.0, requests=20), Load(concurrency=1, duration_s=0.2)]
        sweep(server.url, *loads, tell=lambda *words: told.append(words), warmup_requests=1)
    assert ("warm 2", "load 2 of 2: concurrency 1, warming up") in told
    some = [text for phase, text in told if phase == "load 1"]
    assert re.fullmatch(r"load 1 of 2: rate 100/s, \d+ of 20 requests, [\d.]+/s, ttft p50 \d+ ms", some[-1])
    others = [text for phase, text in told if phase == "load 2"]
    assert re.fullmatch(r"load 2 of 2: concurrency 1, \d+ requests in 0 of 0\.2 s, [\d.]+/s, ttft p50 \d+ ms", others[-1])


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_a_request_asks_for_a_stream_with_its_usage() -> None:
    with stub.StubStream() as server:
        once(server.url, output_tokens=9, extra_body={"temperature": 0.5}, ignore_eos=True)
        request = server.asked()[0]
    usage = {"include_usage": True, "continuous_usage_stats": False}
    common = {"model": "m", "prompt": "Hi", "max_tokens": 9, "stream": True, "stream_options": usage}
    assert request.body == {**common, "ignore_eos": True, "temperature": 0.5}
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "x-session-id" not in request.headers


def test_chats_go_to_their_own_path() -> None:
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    text = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    reply = stub.raw(stub.whole(stub.event(role), stub.event(text), stub.DONE))
    with stub.StubStream(**{"v1/chat/completions": reply}) as server:
        result = once(server.url, api="chat")
        assert server.asked("/v1/chat/completions")[0].body["messages"] == [{"role": "user", "content": "Hi"}]
    # each chunk with a choice, as vLLM's own client counts
    assert (result.completed, result.output_tokens) == (1, 2)


def test_sessions_take_turns() -> None:
    with stub.StubStream() as server:
        once(server.url, requests=4, sessions=2, seed=5)
        assert [request.headers["x-session-id"] for request in server.asked()] == ["5-0", "5-1", "5-0", "5-1"]


def tokenizes(context: int = 0) -> stub.Reply:
    """A word is a token, and a chat has nine more."""

    async def reply(connection: stub.Connection, request: stub.Request) -> None:
        body = request.body
        texts = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
        found = re.findall(r" ?\S+", texts)
        document: dict[str, t.Any] = {"count": len(found) + (0 if "prompt" in body else 9), "max_model_len": context or None}
        if body.get("return_token_strs"):
            document["token_strs"] = [text.replace(" ", "\u0120") for text in found]
        await stub.status(200, document)(connection, request)

    return reply


@pytest.mark.parametrize(("api", "words"), [("completions", 40), ("chat", 31)])
def test_made_up_prompts_have_the_stated_length(api: str, words: int) -> None:
    replies = {"tokenize": tokenizes(), "v1/chat/completions": stub.says()}
    with stub.StubStream(**replies) as server:
        report = sweep(server.url, Load(concurrency=1, requests=3), prompts=(), input_tokens=40, api=api, warmup_requests=1)
        bodies = [request.body for request in server.requests if request.path != "/tokenize"]
    texts = [body["prompt"] if api == "completions" else body["messages"][0]["content"] for body in bodies]
    assert [len(text.split()) for text in texts] == [words] * 4
    assert len(set(texts)) == 4
    assert (report.lengths, report.ignore_eos) == ("counted", True)
    assert all(body["ignore_eos"] is True for body in bodies)


def test_lengths_are_estimated_where_nobody_counts() -> None:
    with stub.StubStream() as server:
        report = sweep(server.url, Load(concurrency=1, requests=1), prompts=(), input_tokens=40)
        body = server.asked()[0].body
    assert (report.lengths, report.ignore_eos) == ("estimated", False)
    assert len(body["prompt"].split()) == 40
    assert "ignore_eos" not in body


def test_a_seed_makes_the_same_prompts_again() -> None:
    def prompts(seed: int) -> list[str]:
        with stub.StubStream() as server:
            once(server.url, requests=3, prompts=(), seed=seed)
            return [request.body["prompt"] for request in server.asked()]

    assert prompts(1) == prompts(1)
    assert not set(prompts(1)) & set(prompts(2))


def test_what_the_model_cannot_take_is_said_before_anything_is_asked() -> None:
    with stub.StubStream(tokenize=tokenizes(context=100)) as server:
        with pytest.raises(ServingError, match="input_tokens 90 and output_tokens 20 are 110 together, and m takes 100"):
            once(server.url, prompts=(), input_tokens=90, output_tokens=20)
        assert not server.asked()


# -- what comes back ---------------------------------------------------------------------------------------------------


def test_an_answer_is_read_wherever_it_is_cut() -> None:
    answer = stub.whole(stub.token(" caf\u00e9"), b": ping\n\n", stub.token(" \u4f60", "stop") + b"event: x\n", stub.DONE)
    cuts = iter(range(1, len(answer)))

    async def reply(connection: stub.Connection, _request: stub.Request) -> None:
        cut = next(cuts)
        await connection.send(answer[:cut], answer[cut:])

    with stub.StubStream(reply) as server:
        result = once(server.url, requests=len(answer) - 1, concurrency=40)
    assert not result.errors
    # without usage, chunks are counted
    assert (result.completed, result.output_tokens) == (len(answer) - 1, 2 * (len(answer) - 1))


def test_an_answer_is_read_byte_by_byte() -> None:
    with stub.StubStream(stub.raw(*(ANSWER[at : at + 1] for at in range(len(ANSWER))))) as server:
        result = once(server.url)
    assert (result.completed, result.output_tokens, result.input_tokens) == (1, 2, 7)


def test_tokens_of_one_read_came_at_the_same_moment() -> None:
    ticks = itertools.count()
    with stub.StubStream(stub.raw(stub.HEAD, ANSWER[len(stub.HEAD) :])) as server:
        result = once(server.url, now=lambda: float(next(ticks)), request_timeout=1e9)
    assert (result.itl_ms["max"], result.completed) == (0.0, 1)
    with stub.StubStream(stub.says(3)) as server:
        result = once(server.url, now=lambda: float(next(ticks)), request_timeout=1e9)
    assert result.itl_ms["mean"] is not None
    assert result.itl_ms["mean"] > 0


def test_text_that_looks_like_a_field_is_a_token_and_no_more() -> None:
    texts = ['"choices":[{', '"usage":{"completion_tokens":5}', "error", "completion_tokens", 'data: [DONE]\n\n{"error":"x"}', "\r\n0\r\n"]
    result = asked(*map(stub.token, texts), stub.DONE)
    assert not result.errors
    assert (result.output_tokens, result.without_usage) == (len(texts), 1)


def test_the_usage_counts_more_than_the_chunks() -> None:
    result = asked(stub.token(" a b c"), stub.token(" d e", "stop"), stub.usage(11, 5), stub.DONE)
    assert (result.output_tokens, result.input_tokens, result.without_usage) == (5, 11, 0)


def test_usage_in_the_last_chunk_of_tokens_is_read() -> None:
    last = {"choices": [{"index": 0, "text": " b", "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}
    result = asked(stub.token(" a"), stub.event(last), stub.DONE)
    assert (result.output_tokens, result.input_tokens) == (9, 3)


def test_json_with_blanks_and_empty_fields_is_read() -> None:
    chunk = json.dumps({"choices": [{"index": 0, "text": " a"}], "usage": None, "error": None}).encode()
    result = asked(b"data: " + chunk + b"\r\n\r\n", b"data:" + chunk + b"\n\n", b'data: {"choices": []}\n\n', b"data: [DONE]\r\n\r\n")
    assert (result.completed, result.output_tokens) == (1, 2)


PLAIN = stub.token(" a") + stub.token(" b", "stop") + stub.DONE
TYPE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (TYPE + b"Content-Length: %d\r\n\r\n" % len(PLAIN) + PLAIN, False),
        (TYPE + b"\r\n" + PLAIN, True),
        (TYPE.replace(b"1.1", b"1.0") + b"\r\n" + PLAIN.rstrip(), True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + stub.whole(PLAIN), False),
        (TYPE + b"transfer-encoding: CHUNKED\r\n\r\n" + b"0%X;x=y\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (len(PLAIN), PLAIN), False),
        # the last chunk says why it ends, so that nothing is missing
        (stub.whole(stub.token(" a"), stub.token(" b", "length")), False),
    ],
    ids=["counted", "until close", "until close, HTTP/1.0", "100", "trailer", "no DONE"],
)
def test_answers_come_in_all_forms_of_http(answer: bytes, closes: bool) -> None:
    with stub.StubStream(stub.raw(answer, close=closes)) as server:
        result = once(server.url, requests=2)
    assert not result.errors
    assert (result.completed, result.output_tokens) == (2, 4)
    assert result.client["connections"] == (2 if closes else 1)


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (stub.status(503, {"detail": "no engine"}), "status 503", '{"detail": "no engine"}'),
        (stub.status(429, {}, close=True), "status 429", "{}"),
        (stub.status(200, {"choices": []}), "broken stream", "answered application/json where a stream was asked for"),
        (stub.raw(stub.whole(stub.event({"error": {"message": "engine died"}}))), "broken stream", "error came in the stream.*engine died"),
        (stub.raw(stub.whole(stub.event({"choices": [{"text": ""}], "error": {"code": 500}}))), "broken stream", '{"code": 500}'),
        (stub.raw(stub.HEAD + stub.chunk(stub.token(" a")), close=True), "broken stream", "closed in the middle, after 1 chunks"),
        (stub.raw(TYPE + b"Content-Length: 900\r\n\r\n" + PLAIN, close=True), "broken stream", "closed in the middle, after 2 chunks"),
        (stub.raw(stub.whole(stub.token(" a"))), "broken stream", r"without \[DONE\], after 1 chunks"),
        (stub.raw(TYPE + b"\r\n" + stub.token(" a"), close=True), "broken stream", r"without \[DONE\], after 1 chunks"),
        (stub.raw(stub.whole(stub.DONE)), "broken stream", "without a token"),
        (stub.raw(stub.whole(b"data: {broken\n\n")), "broken stream", "not a JSON object: {broken"),
        (stub.raw(TYPE + b"\r\ndata: {broken", close=True), "broken stream", "not a JSON object: {broken"),
        (stub.raw(stub.HEAD + b"zz\r\n"), "broken stream", "length of a chunk is no number: zz"),
        (stub.raw(b"SSH-2.0-OpenSSH\r\n\r\n"), "broken stream", "not HTTP/1.1: SSH-2.0"),
        (stub.raw(TYPE + b"Content-Length: many\r\n\r\n"), "broken stream", "length of the answer is no number: many"),
        (stub.raw(close=True), "connection", "closed before an answer"),
    ],
)
def test_errors_are_counted_by_kind_with_an_example(reply: stub.Reply, kind: str, words: str) -> None:
    with stub.StubStream(reply) as server:
        result = once(server.url, requests=2)
    assert (result.requests, result.completed, result.error_rate) == (2, 0, 1.0)
    assert {found: entry["count"] for found, entry in result.errors.items()} == {kind: 2}
    assert re.search(words, result.errors[kind]["example"])


def test_errors_among_answers_do_not_stop_the_load() -> None:
    count = itertools.count()

    async def reply(connection: stub.Connection, request: stub.Request) -> None:
        await (stub.status(500, "x") if next(count) % 3 == 0 else stub.says(2))(connection, request)

    with stub.StubStream(reply) as server:
        result = once(server.url, requests=9)
    assert (result.completed, result.failed, result.errors["status 500"]["count"], result.output_tokens) == (6, 3, 3, 12)


def test_the_key_is_in_no_message() -> None:
    with stub.StubStream(stub.status(403, {"detail": f"bad key: Bearer {KEY}"})) as server:
        example = once(server.url).errors["status 403"]["example"]
    assert example == '{"detail": "bad key: Bearer ***"}'


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = once(f"http://127.0.0.1:{unused.getsockname()[1]}", requests=2, concurrency=2)
    assert result.errors["connection"]["count"] == 2
    assert "refused" in result.errors["connection"]["example"]


def test_a_host_without_an_address_is_said_at_once() -> None:
    with pytest.raises(ServingError, match=r"The host no-such-host\.invalid of http://no-such-host\.invalid cannot be found"):
        once("http://no-such-host.invalid")


def test_what_takes_too_long_is_dropped() -> None:
    with stub.StubStream(stub.hangs) as server:
        result = once(server.url, requests=2, request_timeout=0.1)
    assert result.errors == {"timeout": {"count": 2, "example": "no whole answer within 0.1 s, after 0 chunks"}}


def test_a_stream_that_stalls_is_dropped_and_the_next_is_read_on_a_new_connection() -> None:
    dropped = threading.Event()

    async def reply(connection: stub.Connection, request: stub.Request) -> None:
        if len(server.requests) > 1:
            for _look in range(40):
                if not dropped.is_set():
                    await asyncio.sleep(0.01)
            await (stub.says(2) if dropped.is_set() else stub.status(500, "still open"))(connection, request)
            return
        await connection.send(stub.HEAD + stub.chunk(stub.token(" a")))
        try:
            while True:
                await connection.send(stub.chunk(b": ping\n\n"))
        except ConnectionError:
            dropped.set()

    with stub.StubStream(reply) as server:
        result = once(server.url, requests=2, request_timeout=0.6)
    assert result.errors == {"timeout": {"count": 1, "example": "no whole answer within 0.6 s, after 1 chunks"}}
    assert (result.completed, result.output_tokens, result.client["connections"]) == (1, 2, 2)


# -- connections -------------------------------------------------------------------------------------------------------


def test_connections_are_kept_open() -> None:
    with stub.StubStream() as server:
        result = once(server.url, requests=6, concurrency=1)
        assert [request.on_connection for request in server.asked()] == [1, 2, 3, 4, 5, 6]
    assert (result.client["connections"], result.client["repeated"]) == (1, 0)


def test_a_request_on_a_connection_that_the_server_has_left_is_sent_again() -> None:
    async def reply(connection: stub.Connection, request: stub.Request) -> None:
        if request.on_connection == 1:
            await stub.says(2)(connection, request)
        else:
            connection.close()

    with stub.StubStream(reply) as server:
        result = once(server.url, requests=5)
    assert (result.completed, result.errors, result.output_tokens) == (5, {}, 10)
    assert (result.client["repeated"], result.client["connections"]) == (4, 5)


def test_connections_that_the_server_closes_in_time_need_no_repetition() -> None:
    reply = stub.raw(ANSWER.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), close=True)
    with stub.StubStream(reply) as server:
        result = once(server.url, requests=4)
    assert (result.completed, result.client["connections"], result.client["repeated"]) == (4, 4, 0)


def certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stub")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - datetime.timedelta(1), now + datetime.timedelta(1))
    made = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "stub.pem"
    path.write_bytes(private + made.public_bytes(pem))
    return path


def test_tls_is_spoken_and_certificates_are_looked_at(tmp_path: Path) -> None:
    path = certificate(tmp_path)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(path)
    with stub.StubStream(tls=ours) as server:
        good = once(server.url, requests=3, tls=ssl.create_default_context(cafile=str(path)))
        bad = once(server.url, tls=ssl.create_default_context())
    assert (good.completed, good.client["connections"]) == (3, 1)
    assert "certificate" in bad.errors["connection"]["example"].lower()


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_sweep_with_what_was_measured(number: signal.Signals) -> None:
    async def reply(connection: stub.Connection, request: stub.Request) -> None:
        if len(server.requests) == 8:
            os.kill(os.getpid(), number)
        if len(server.requests) >= 8:
            await stub.hangs(connection, request)
        await stub.says(2)(connection, request)

    before = signal.getsignal(number)
    with stub.StubStream(reply) as server:
        report = sweep(server.url, Load(concurrency=1, requests=5), Load(concurrency=1, requests=9), Load(concurrency=1, requests=1))
    assert report.stopped_by == number.name
    assert [(result.requests, result.completed, result.unfinished) for _load, result in report.loads] == [(5, 5, 0), (2, 2, 1)]
    assert signal.getsignal(number) is before


def test_a_signal_in_an_open_loop_sends_nothing_more() -> None:
    async def reply(connection: stub.Connection, request: stub.Request) -> None:
        if len(server.requests) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        await stub.says(2)(connection, request)

    with stub.StubStream(reply) as server:
        report = sweep(server.url, Load(rate=20.0, requests=1000))
    assert report.loads[0][1].requests <= len(server.asked()) <= 10


def test_a_signal_before_the_first_load_ends_it_too() -> None:
    async def counts(connection: stub.Connection, request: stub.Request) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stub.hangs(connection, request)

    with stub.StubStream(tokenize=counts) as server:
        report = sweep(server.url, Load(concurrency=1, requests=1), prompts=())
        assert not server.asked()
    assert (report.stopped_by, report.loads) == ("SIGTERM", [])


def test_a_first_request_that_is_refused_ends_it() -> None:
    with stub.StubStream(stub.status(401, {"error": "Unauthorized"})) as server:
        with pytest.raises(FirstRequestError, match=r"did not answer the first request \(status 401\).*Unauthorized") as caught:
            once(server.url, requests=50, warmup_requests=2)
        assert len(server.asked()) == 2
    assert caught.value.kind == "status 401"


# -- options -----------------------------------------------------------------------------------------------------------


def test_loads_have_the_bounds_at_the_top_unless_they_have_their_own() -> None:
    entries = [{"rate": 4.0}, {"concurrency": 2, "requests": 7}, {"rate": 0.5, "duration_s": 9.0, "name": "slow"}]
    assert loads_of({"loads": entries, "requests": 50, "duration_s": 30.0}) == [
        Load(4.0, None, 50, 30.0, "rate 4/s"),
        Load(None, 2, 7, None, "concurrency 2"),
        Load(0.5, None, None, 9.0, "slow"),
    ]
    assert loads_of({"concurrency": 3}) == [Load(None, 3, 100, None, "concurrency 3")]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"loads": [{"rate": 1.0}, {}]}, r"loads\[1\] needs a rate or a concurrency"),
        ({"rate": 1.0, "concurrency": 1}, "The load needs a rate or a concurrency, and not both"),
        ({"rate": 0.0}, "The load has rate 0"),
        ({"rate": float("inf")}, "The load has rate inf"),
        ({"concurrency": -1}, "The load has concurrency -1"),
        ({"rate": 1.0, "requests": 0}, "The load has requests 0"),
        ({"rate": 0.1, "duration_s": 9.0}, r"The load sends nothing: at rate 0\.1/s, no request is due within 9 s"),
        ({"loads": [{"rate": 1.0}, {"rate": 1.0}]}, 'Two loads are called "rate 1/s"'),
    ],
)
def test_loads_that_cannot_be_are_refused(params: dict[str, t.Any], words: str) -> None:
    with pytest.raises(ServingError, match=words):
        loads_of(params)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"input_tokens": 0}, "input_tokens is 0"),
        ({"output_tokens": -1}, "output_tokens is -1"),
        ({"warmup_requests": -1}, "warmup_requests is -1"),
        ({"max_in_flight": 0}, "max_in_flight is 0"),
        ({"sessions": -1}, "sessions is -1"),
        ({"burstiness": 0.0}, "burstiness is 0"),
        ({"request_timeout": float("nan")}, "request_timeout is nan"),
        ({"shared_prefix_share": 1.5}, "shared_prefix_share is 1.5"),
        ({"session_header": "x: y\r\nz"}, "session_header is"),
        ({"objective": {"itl": 5.0}}, "An objective cannot be set for itl, but for: ttft_ms"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_asked(settings: dict[str, t.Any], words: str) -> None:
    with stub.StubStream() as server:
        with pytest.raises(ServingError, match=words):
            once(server.url, **settings)
        assert not server.requests


def test_more_connections_than_the_host_allows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (100, 100))
    with pytest.raises(ServingError, match="500 requests at once need as many open files, and this host allows 100 to a process"):
        once("http://127.0.0.1:9", requests=500, concurrency=500)
