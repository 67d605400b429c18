# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The HTTP/1.1 client of the load generator: as fast as one Python process allows, and exact about when a token came.

Arrivals are stamped once per read of a socket, before anything is parsed. A chunk of a stream that shows by a few searches that it carries
tokens is counted without decoding its JSON; all others are decoded. No proxies, no redirects, no compression.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
import ssl
import time
import typing as t
from urllib.parse import urlsplit

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._openai import EXCERPT_CHARACTERS, OpenAIClient

# Kinds of errors, beside "status NNN".
TIMEOUT = "timeout"
CONNECTION = "connection"
BROKEN = "broken stream"

# None of these can stand inside a JSON string, where the second quotation mark would be escaped: a string can only end with the last two.
_CHOICES = (b'"choices":[{', b'"choices": [{')
_USAGE = b'completion_tokens"'
_ERROR = b'"error"'

_READ_BYTES = 65536
_HEAD_BYTES = 65536
_LINE_BYTES = 4 * 1024 * 1024
_EXCERPT_BYTES = 4096


class Endpoint:
    """Where requests go, and with which key. ``name`` is what people are told."""

    def __init__(self, base_url: str, api_key: t.Optional[str] = None, tls: t.Optional[ssl.SSLContext] = None, name: str = "") -> None:
        parts = urlsplit(base_url)
        secure = parts.scheme == "https"
        self.name = name or base_url
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if secure else 80)
        self.tls = (tls or ssl.create_default_context()) if secure else None
        self._api_key = api_key
        self._host_header = parts.netloc.rpartition("@")[2]
        self._prefix = parts.path.rstrip("/")

    @classmethod
    def of(cls, client: OpenAIClient, api_key: t.Optional[str]) -> Endpoint:
        """Return the endpoint that *client* asks; *api_key* is its key."""
        return cls(client.base_url, api_key, client.tls, client.name)

    def head(self, path: str) -> bytes:
        """Return what each POST to *path* begins with; its length and its body follow, see :func:`post`."""
        lines = [
            f"POST {self._prefix}{path} HTTP/1.1",
            f"Host: {self._host_header}",
            "User-Agent: llmops.serving",
            "Accept: text/event-stream, application/json",
            "Content-Type: application/json",
            *([f"Authorization: Bearer {self._api_key}"] if self._api_key else []),
        ]
        return "".join(line + "\r\n" for line in lines).encode("latin-1")

    def excerpt(self, text: t.Union[bytes, str]) -> str:
        """Return the first characters of *text* on one line, without the key."""
        words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        if self._api_key:
            words = words.replace(self._api_key, "***")
        return " ".join(words.split())[:EXCERPT_CHARACTERS] or "(empty)"


def post(head: bytes, body: bytes) -> bytes:
    """Return the bytes of a request that begins with *head*, whole lines, and carries *body*."""
    return b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


class Exchange:
    """One request and what came back. Moments are seconds of the client's clock.

    ``stamps`` are the arrivals of the chunks that carry tokens, as vLLM's own client counts them: each chunk with a choice. ``kind`` and
    ``error`` are empty when all went well. ``status`` and ``body`` are those of an answer that is no stream.
    """

    __slots__ = (
        "body",
        "connection",
        "done",
        "error",
        "has_usage",
        "input_tokens",
        "kind",
        "last",
        "on_over",
        "output_tokens",
        "over",
        "payload",
        "repeated",
        "stamps",
        "start",
        "status",
        "streamed",
        "told",
    )

    def __init__(self, payload: bytes, on_over: t.Callable[[Exchange], None], streamed: bool = True) -> None:
        self.payload = payload
        self.on_over = on_over
        self.streamed = streamed
        self.start = 0.0
        self.stamps: t.MutableSequence[float] = array.array("d")
        self.has_usage = False
        self.input_tokens = 0
        self.output_tokens = 0
        self.status = 0
        self.body = b""
        self.kind = ""
        self.error = ""
        self.over = False
        self.repeated = False
        self.done = False
        self.told = ""
        self.last = b""
        self.connection: t.Optional[_Connection] = None

    def end(self, kind: str = "", error: str = "") -> None:
        """Note how it went, and tell it once."""
        if not self.over:
            self.over, self.kind, self.error = True, kind, error
            self.payload, self.connection = b"", None
            self.on_over(self)


class Client:
    """Connections to one endpoint, kept open between requests. Needs a running event loop; call open() first, close() last.

    ``opened`` counts the connections made, ``repeated`` the requests sent a second time because the server had closed the idle connection
    on which they were sent first.
    """

    def __init__(self, endpoint: Endpoint, now: t.Callable[[], float] = time.perf_counter) -> None:
        self.endpoint = endpoint
        self.now = now
        self.opened = 0
        self.repeated = 0
        # one for all connections: what is read is taken out before another reads
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self.idle: list[_Connection] = []
        self.connections: set[_Connection] = set()
        self._addresses: list[str] = []
        self._connecting: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Find the addresses of the host, once. Raises ServingError."""
        host, port = self.endpoint.host, self.endpoint.port
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            words = getattr(exc, "strerror", None) or exc
            raise ServingError(f"The host {host} of {self.endpoint.name} cannot be found: {words}.") from None
        self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def close(self) -> None:
        """Drop all connections. Exchanges under way are not told of it."""
        connecting = list(self._connecting)
        for task in connecting:
            task.cancel()
        for connection in list(self.connections):
            connection.drop()
        await asyncio.gather(*connecting, return_exceptions=True)
        await asyncio.sleep(0)

    def ask(self, exchange: Exchange) -> None:
        """Send *exchange*; it is told by its ``on_over`` when it has ended, never before this returns."""
        exchange.start = self.now()
        while self.idle:
            connection = self.idle.pop()
            if not connection.is_closing():
                connection.send(exchange)
                return
        self._send_anew(exchange)

    async def call(self, path: str, body: t.Mapping[str, t.Any], timeout_s: float) -> Exchange:
        """POST *body* as JSON and return the whole answer, that is no stream."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell(_exchange: Exchange) -> None:
            if not over.done():
                over.set_result(None)

        exchange = Exchange(post(self.endpoint.head(path), json.dumps(body).encode()), tell, streamed=False)
        self.ask(exchange)
        try:
            await asyncio.wait_for(over, timeout_s)
        except asyncio.TimeoutError:
            self.cancel(exchange, f"no whole answer within {timeout_s:g} s")
        return exchange

    def cancel(self, exchange: Exchange, error: str) -> None:
        """Give *exchange* up; it ends with a time-out."""
        connection = exchange.connection
        if connection is not None:
            connection.drop()
        exchange.end(TIMEOUT, error)

    def _send_anew(self, exchange: Exchange) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(exchange))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def repeat(self, exchange: Exchange) -> None:
        """Send *exchange* once more, on a new connection."""
        self.repeated += 1
        exchange.repeated = True
        exchange.connection = None
        self._send_anew(exchange)

    async def _connect(self, exchange: Exchange) -> None:
        loop, endpoint = asyncio.get_running_loop(), self.endpoint
        failure = ""
        for address in list(self._addresses):
            try:
                _transport, connection = await loop.create_connection(
                    lambda: _Connection(self),
                    address,
                    endpoint.port,
                    ssl=endpoint.tls,
                    server_hostname=endpoint.host if endpoint.tls else None,
                )
            except OSError as exc:
                failure = failure or _words(exc)
                continue
            if self._addresses[0] != address:
                self._addresses.remove(address)
                self._addresses.insert(0, address)
            self.opened += 1
            if exchange.over:
                connection.rest()
            else:
                connection.send(exchange, fresh=True)
            return
        exchange.end(CONNECTION, endpoint.excerpt(failure))


def _words(exc: Exception) -> str:
    """Return what the system says; asyncio puts words of its own in the place of them."""
    number = None if isinstance(exc, ssl.SSLError) else getattr(exc, "errno", None)
    return os.strerror(number) if number else str(exc) or type(exc).__name__


class _BrokenError(Exception):
    """The answer is not what HTTP or a stream of events should be."""


class _Connection(asyncio.BufferedProtocol):
    """One connection. Each reader takes the bytes that have come; what it cannot use yet stays in ``_kept`` for its next call.

    It reads into the buffer of its client: asyncio's other kind of protocol makes room for 256 KiB at each read, which takes several times
    as long as all the rest.
    """

    transport: asyncio.Transport

    def __init__(self, client: Client) -> None:
        self._client = client
        self._exchange: t.Optional[Exchange] = None
        self._fresh = True
        self._reset()

    def _reset(self) -> None:
        self._reader: t.Callable[[bytes, float], None] = self._head
        self._kept = b""
        self._answered = False

    # -- what the client does ------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def send(self, exchange: Exchange, fresh: bool = False) -> None:
        self._reset()
        self._exchange, self._fresh = exchange, fresh
        exchange.connection = self
        self.transport.write(exchange.payload)

    def rest(self) -> None:
        """Wait for the next request."""
        self._client.idle.append(self)

    def drop(self) -> None:
        """Close at once; nobody is told."""
        self._exchange = None
        self.transport.abort()

    # -- what the event loop tells -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = t.cast(asyncio.Transport, transport)
        self._client.connections.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._client.buffer

    def buffer_updated(self, nbytes: int) -> None:
        now = self._client.now()
        if self._exchange is None:
            # nobody has asked, or nobody waits any more
            self.transport.abort()
            return
        data = bytes(self._client.buffer[:nbytes])
        if self._kept:
            data, self._kept = self._kept + data, b""
        self._answered = True
        try:
            self._reader(data, now)
        except _BrokenError as exc:
            self._fail(BROKEN, self._client.endpoint.excerpt(str(exc)))

    def connection_lost(self, exc: t.Optional[Exception]) -> None:
        self._client.connections.discard(self)
        if self in self._client.idle:
            self._client.idle.remove(self)
        exchange = self._exchange
        if exchange is None:
            return
        if not self._answered:
            self._exchange = None
            if self._fresh or exchange.repeated:
                words = _words(exc) if exc else "closed before an answer came"
                exchange.end(CONNECTION, self._client.endpoint.excerpt(words))
            else:
                self._client.repeat(exchange)
        elif exc is None and self._reader == self._until_close:
            self._whole(b"", keep=False)
        else:
            self._fail(BROKEN, f"the connection was closed in the middle, after {len(exchange.stamps)} chunks")

    # -- readers: head -> chunks -> trailer, or head -> counted, or head -> until close --------------------------------

    def _head(self, data: bytes, now: float) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _HEAD_BYTES:
                raise _BrokenError("the head of the answer does not end")
            self._kept = data
            return
        first, *lines = data[:end].split(b"\r\n")
        rest = data[end + 4 :]
        version, _space, status = first.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not status[:3].isdigit():
            raise _BrokenError(f"the answer is not HTTP/1.1: {self._client.endpoint.excerpt(first)}")
        code = int(status[:3])
        if code < 200:
            if rest:
                self._head(rest, now)
            return
        fields = {name.strip().lower(): value.strip().lower() for name, _colon, value in (line.partition(b":") for line in lines)}
        exchange = t.cast(Exchange, self._exchange)
        exchange.status = code
        connection = fields.get(b"connection", b"")
        self._keep = b"close" not in connection and (version != b"HTTP/1.0" or b"keep-alive" in connection)
        self._type = fields.get(b"content-type", b"")
        no_stream = self._type.startswith((b"application/json", b"text/html"))
        self._is_stream = exchange.streamed and code == 200 and not no_stream
        self._body = self._events if self._is_stream else self._collect
        self._tail = b""
        self._left = 0
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            self._reader = self._chunks
        elif code in (204, 304):
            self._left, self._reader = 0, self._counted
        elif b"content-length" in fields:
            length = fields[b"content-length"]
            if not length.isdigit():
                raise _BrokenError(f"the length of the answer is no number: {self._client.endpoint.excerpt(length)}")
            self._left, self._reader = int(length), self._counted
        else:
            self._reader = self._until_close
        if rest or (self._reader == self._counted and not self._left):
            self._reader(rest, now)

    def _chunks(self, data: bytes, now: float) -> None:
        at, end = 0, len(data)
        while at < end:
            if not self._left:
                eol = data.find(b"\r\n", at)
                if eol < 0:
                    if end - at > _HEAD_BYTES:
                        raise _BrokenError("a chunk of the answer has no length")
                    self._kept = data[at:]
                    return
                length = data[at:eol].partition(b";")[0].strip()
                try:
                    size = int(length, 16)
                except ValueError:
                    size = -1
                if size < 0:
                    raise _BrokenError(f"the length of a chunk is no number: {self._client.endpoint.excerpt(length)}")
                at = eol + 2
                if size == 0:
                    self._reader = self._trailer
                    self._trailer(data[at:], now)
                    return
                # with the line break after it
                self._left = size + 2
            upto = at + self._left
            if upto <= end:
                if self._left > 2:
                    self._body(data[at : upto - 2], now)
                self._left = 0
                at = upto
            else:
                have = end - at
                usable = min(have, self._left - 2)
                if usable > 0:
                    self._body(data[at : at + usable], now)
                self._left -= have
                return

    def _trailer(self, data: bytes, _now: float) -> None:
        """Read to the empty line that ends the chunks."""
        while True:
            line, found, rest = data.partition(b"\r\n")
            if not found:
                self._kept = line
                return
            data = rest
            if not line:
                self._whole(rest, self._keep)
                return

    def _counted(self, data: bytes, now: float) -> None:
        piece, rest = data[: self._left], data[self._left :]
        self._left -= len(piece)
        if piece:
            self._body(piece, now)
        if not self._left:
            self._whole(rest, self._keep)

    def _until_close(self, data: bytes, now: float) -> None:
        self._body(data, now)

    # -- what the body is read into ------------------------------------------------------------------------------------

    def _collect(self, piece: bytes, _now: float) -> None:
        exchange = t.cast(Exchange, self._exchange)
        if len(exchange.body) < (_EXCERPT_BYTES if exchange.streamed else _LINE_BYTES):
            exchange.body += piece

    def _events(self, piece: bytes, now: float) -> None:
        if self._tail:
            piece = self._tail + piece
        lines = piece.split(b"\n")
        self._tail = lines.pop()
        exchange = t.cast(Exchange, self._exchange)
        for line in lines:
            if line[:5] != b"data:":
                continue
            if (_CHOICES[0] in line or _CHOICES[1] in line) and _USAGE not in line and _ERROR not in line:
                exchange.stamps.append(now)
                exchange.last = line
            else:
                _read_event(exchange, line, now)
        if len(self._tail) > _LINE_BYTES:
            raise _BrokenError("a line of the stream does not end")

    # -- the end -------------------------------------------------------------------------------------------------------

    def _fail(self, kind: str, error: str) -> None:
        exchange = t.cast(Exchange, self._exchange)
        self.drop()
        exchange.end(kind, error)

    def _whole(self, rest: bytes, keep: bool) -> None:
        """The answer is complete; *rest* is what came after it, and should be nothing."""
        exchange = t.cast(Exchange, self._exchange)
        if self._is_stream and self._tail:
            # the last line, when nothing ended it
            try:
                self._events(b"\n", self._client.now())
            except _BrokenError as exc:
                self._fail(BROKEN, self._client.endpoint.excerpt(str(exc)))
                return
        self._exchange = None
        if keep and not rest and not self.transport.is_closing():
            self.rest()
        else:
            self.transport.abort()
        if exchange.streamed:
            exchange.end(*self._verdict(exchange))
        else:
            exchange.end()

    def _verdict(self, exchange: Exchange) -> tuple[str, str]:
        excerpt = self._client.endpoint.excerpt
        if exchange.status != 200:
            return f"status {exchange.status}", excerpt(exchange.body)
        if not self._is_stream:
            return BROKEN, f"answered {self._type.decode('latin-1')} where a stream was asked for: {excerpt(exchange.body)}"
        if exchange.told:
            return BROKEN, f"an error came in the stream: {excerpt(exchange.told)}"
        if not exchange.stamps:
            return BROKEN, "the stream ended without a token"
        if not exchange.done and not _has_finished(exchange.last):
            return BROKEN, f"the stream ended without [DONE], after {len(exchange.stamps)} chunks"
        return "", ""


def _read_event(exchange: Exchange, line: bytes, now: float) -> None:
    """Take an event that does not show at first sight what it is."""
    data = line[5:].strip()
    if data == b"[DONE]":
        exchange.done = True
        return
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise _BrokenError(f"an event of the stream is not a JSON object: {data[:_EXCERPT_BYTES].decode('utf-8', 'replace')}")
    if event.get("error"):
        exchange.told = exchange.told or json.dumps(event["error"])
        return
    if event.get("choices"):
        exchange.stamps.append(now)
        exchange.last = line
    usage = event.get("usage")
    if isinstance(usage, dict):
        exchange.has_usage = True
        exchange.input_tokens = int(usage.get("prompt_tokens") or 0)
        exchange.output_tokens = int(usage.get("completion_tokens") or 0)


def _has_finished(line: bytes) -> bool:
    """Return whether the chunk says why the model has stopped."""
    try:
        choices = json.loads(line[5:]).get("choices") or []
        return any(choice.get("finish_reason") for choice in choices)
    except (ValueError, AttributeError):
        return False
