# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router in miniature: an OpenAI-compatible HTTP server that plays a script of replies. Standard library only.

Each path has its own script, a list of replies; the last one is played for ever. Until start() the port refuses connections.
"""

from __future__ import annotations

import http.server
import json
import threading
import typing as t

Reply = t.Callable[["Handler"], None]


def status(code: int, message: str = "") -> Reply:
    """Answer *code* with an error in OpenAI's shape."""
    return lambda handler: handler.send_json(code, {"error": {"message": message, "code": code}})


def document(body: t.Any) -> Reply:
    """Answer 200 with *body* as JSON."""
    return lambda handler: handler.send_json(200, body)


def models(*names: str) -> Reply:
    """List *names*."""
    return document({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


def page(text: str) -> Reply:
    """Answer 200 with a page of HTML, as a login page in front of a router does."""
    return lambda handler: handler.send_whole(200, "text/html", text.encode())


def events(*deltas: t.Any, finish: t.Optional[str] = "stop", done: bool = True) -> Reply:
    """Stream *deltas* (a string is a delta of content), then the finish reason and [DONE], where they are wanted."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": d} if isinstance(d, str) else d}]} for d in deltas]
    if finish:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    lines = [json.dumps(chunk) for chunk in chunks] + (["[DONE]"] if done else [])
    return raw_events(*lines)


def call(name: str, arguments: t.Any) -> dict[str, t.Any]:
    """A tool call, as an answer that is not streamed has it; *arguments* that are no text are written as JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": "call-1", "type": "function", "function": {"name": name, "arguments": text}}


def answer(text: t.Optional[str] = "", finish: t.Optional[str] = "stop", stream: bool = False, **message: t.Any) -> Reply:
    """Answer with *text*, whole or streamed in one piece; *message* are ``reasoning`` and ``tool_calls``."""
    said = {"role": "assistant", "content": text, **message}
    if not stream:
        return document({"choices": [{"index": 0, "message": said, "finish_reason": finish}]})
    calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls") or [])]
    return events({**said, "tool_calls": calls}, finish=finish)


def by_request(choose: t.Callable[[t.Any], Reply]) -> Reply:
    """Answer what *choose* makes of the body of the request."""
    return lambda handler: choose(handler.stub.requests[-1].body)(handler)


def raw_events(*lines: str) -> Reply:
    """Stream each of *lines* as one event, and end the stream as it should end."""

    def play(handler: Handler) -> None:
        handler.begin_stream()
        for line in lines:
            handler.send_piece(f"data: {line}\n\n".encode())
        handler.send_piece(b"")

    return play


def breaks_off(*contents: str) -> Reply:
    """Stream *contents*, then drop the connection as a dying engine does."""

    def play(handler: Handler) -> None:
        handler.begin_stream()
        for content in contents:
            event = json.dumps({"choices": [{"index": 0, "delta": {"content": content}}]})
            handler.send_piece(f"data: {event}\n\n".encode())
        handler.close_connection = True

    return play


def hangs() -> Reply:
    """Say nothing until the server is closed."""

    def play(handler: Handler) -> None:
        handler.stub.closing.wait()
        handler.close_connection = True

    return play


def drops() -> Reply:
    """Close the connection without a word, as a port-forward does when nothing listens behind it."""

    def play(handler: Handler) -> None:
        handler.close_connection = True

    return play


def redirects(to: str) -> Reply:
    """Send the client elsewhere."""

    def play(handler: Handler) -> None:
        handler.send_response(307)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return play


class Request(t.NamedTuple):
    """What a client asked."""

    method: str
    path: str
    authorization: t.Optional[str]
    body: t.Any


class StubOpenAI(http.server.ThreadingHTTPServer):
    """The server. With *api_key*, requests without it are answered 401, as the engine does, and the wrong key is quoted."""

    daemon_threads = True

    def __init__(
        self, models: t.Sequence[Reply] = (), chat: t.Sequence[Reply] = (), api_key: str = "", address: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__((address, port), Handler, bind_and_activate=False)
        self.server_bind()
        self.scripts = {"/v1/models": list(models), "/v1/chat/completions": list(chat)}
        self.api_key = api_key
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._thread: t.Optional[threading.Thread] = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> StubOpenAI:
        """Listen. Does nothing when it listens already."""
        if self._thread is None:
            self.server_activate()
            self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            self._thread.start()
        return self

    def __enter__(self) -> StubOpenAI:
        return self.start()

    def __exit__(self, *_args: object) -> None:
        self.closing.set()
        if self._thread is not None:
            self.shutdown()
        self.server_close()

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """Say nothing of clients that went away."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    @property
    def stub(self) -> StubOpenAI:
        return t.cast(StubOpenAI, self.server)

    def log_message(self, format: str, *args: t.Any) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        self._play(None)

    def do_POST(self) -> None:
        self._play(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _play(self, body: t.Any) -> None:
        authorization = self.headers["Authorization"]
        self.stub.requests.append(Request(self.command, self.path, authorization, body))
        script = self.stub.scripts.get(self.path)
        if self.stub.api_key and authorization != f"Bearer {self.stub.api_key}":
            reply = status(401, f"Unauthorized: {authorization}")
        elif not script:
            reply = status(404, f"no such path: {self.path}")
        else:
            reply = script.pop(0) if len(script) > 1 else script[0]
        reply(self)

    def send_whole(self, code: int, content_type: str, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_json(self, code: int, body: t.Any) -> None:
        self.send_whole(code, "application/json", json.dumps(body).encode())

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()
