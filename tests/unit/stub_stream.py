# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An engine in miniature for tests of load: it streams, byte by byte if it has to, and keeps connections open. Standard library only.

A reply is a coroutine that writes to a connection; each path has one, which may look at the request.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import typing as t

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


class Request(t.NamedTuple):
    """What came. ``on_connection`` counts the requests of its connection, from 1."""

    path: str
    headers: dict[str, str]
    body: t.Any
    on_connection: int


class Connection:
    """What a reply writes to."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.closes = False

    async def send(self, *pieces: bytes) -> None:
        """Send *pieces*, so that each is read by itself."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0.001)

    def close(self) -> None:
        """Close when the reply is over."""
        self.closes = True


Reply = t.Callable[[Connection, Request], t.Awaitable[None]]


def chunk(data: bytes) -> bytes:
    """Return *data* as a chunk of HTTP."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(document: t.Any) -> bytes:
    """Return an event as vLLM writes it: no blanks in the JSON."""
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def token(text: str, finish: t.Optional[str] = None) -> bytes:
    return event({"id": "cmpl-1", "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]})


def usage(inputs: int, outputs: int) -> bytes:
    numbers = {"prompt_tokens": inputs, "total_tokens": inputs + outputs, "completion_tokens": outputs}
    return event({"id": "cmpl-1", "choices": [], "usage": numbers})


DONE = b"data: [DONE]\n\n"


def whole(*events: bytes) -> bytes:
    """Return an answer with *events*, each a chunk of its own."""
    return HEAD + b"".join(map(chunk, events)) + LAST


def says(count: int = 3, inputs: int = 7) -> Reply:
    """Stream *count* tokens, then the usage and [DONE]."""

    async def reply(connection: Connection, _request: Request) -> None:
        texts = [token(f" t{index}", "length" if index == count - 1 else None) for index in range(count)]
        await connection.send(HEAD, *map(chunk, [*texts, usage(inputs, count), DONE]), LAST)

    return reply


def raw(*pieces: bytes, close: bool = False) -> Reply:
    """Send *pieces* as they are."""

    async def reply(connection: Connection, _request: Request) -> None:
        await connection.send(*pieces)
        if close:
            connection.close()

    return reply


def status(code: int, body: t.Any, close: bool = False) -> Reply:
    """Answer with a JSON document."""
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {code} X", "Content-Type: application/json", f"Content-Length: {len(data)}", *(["Connection: close"] * close)]
    return raw("\r\n".join([*lines, "", ""]).encode() + data, close=close)


async def hangs(_connection: Connection, _request: Request) -> None:
    """Say nothing until the server is closed."""
    await asyncio.Event().wait()


class StubStream:
    """The server, in a thread of its own. ``replies`` are by path; ``requests`` is what came, ``peak`` how many at once at most."""

    def __init__(self, completions: t.Optional[Reply] = None, tls: t.Optional[ssl.SSLContext] = None, **replies: Reply) -> None:
        self.replies = {"/v1/completions": completions or says(), **{f"/{name}": reply for name, reply in replies.items()}}
        self.requests: list[Request] = []
        self.peak = 0
        self.url = ""
        self._tls = tls
        self._now = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def asked(self, path: str = "/v1/completions") -> list[Request]:
        """Return the requests to *path*."""
        return [request for request in self.requests if request.path == path]

    def __enter__(self) -> StubStream:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    def __exit__(self, *_args: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, backlog=1000)
        return int(self._server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        self._server.close()
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, count = Connection(writer), 0
        try:
            while not connection.closes:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _colon, value in (line.partition(":") for line in head[1:])}
                body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"null")
                count += 1
                request = Request(head[0].split(" ")[1], headers, body, count)
                self.requests.append(request)
                self._now += 1
                self.peak = max(self.peak, self._now)
                try:
                    await self.replies.get(request.path, status(404, {"detail": "Not Found"}))(connection, request)
                finally:
                    self._now -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
