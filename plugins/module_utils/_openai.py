# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""A client of the OpenAI-compatible API that vLLM and its routers serve: models and chat completions, streamed or whole.

It needs nothing but Ansible, so that modules which use it run on any target host.
Source of the shapes: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

import dataclasses
import functools
import json
import socket
import ssl
import time
import typing as t
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from ansible.module_utils.urls import ConnectionError as UrlsConnectionError
from ansible.module_utils.urls import Request as UrlsRequest
from ansible.module_utils.urls import make_context
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

EXCERPT_CHARACTERS = 200
PIECE_BYTES = 65536


class OpenAIError(ServingError):
    """The endpoint refused, or gave no whole answer. ``status`` is the HTTP status, 0 when there was no answer that can be used.

    ``kind`` is a stable word: ``status-NNN`` for a refusal; without a status ``refused``, ``unknown-host``, ``tls`` and ``unreachable``
    for a connection that did not come about, ``timeout``, ``broke-off`` and ``bad-answer`` for what came of it. ``begun`` is whether
    a part of a 200 had come in before.
    """

    def __init__(self, status: int, message: str, kind: str = "", begun: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or (f"status-{status}" if status else "bad-answer")
        self.begun = begun


@dataclasses.dataclass
class Completion:
    """One answer of the model. Seconds count from the moment the request was sent.

    ``first_token_seconds`` is the arrival of the first content, reasoning or tool call; None when the answer had none of them, or
    was not streamed. ``piece_seconds`` has the arrival of every piece that brought one of them, the first included. ``tool_calls`` are
    whole, as in an answer that is not streamed: a list of ``{"id", "type", "function": {"name", "arguments"}}``, the arguments being the
    text that the model wrote. ``usage`` is what the endpoint has counted, empty where it told nothing; a stream has it when
    ``stream_options`` asks for it. ``deltas`` has what each chunk of a stream brought, ``closed`` whether ``[DONE]`` was its end.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    finish_reason: t.Optional[str] = None
    first_token_seconds: t.Optional[float] = None
    elapsed_seconds: float = 0.0
    piece_seconds: list[float] = dataclasses.field(default_factory=list)
    usage: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    deltas: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    closed: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether the model said nothing at all, not even that it is done."""
        return not (self.text or self.reasoning or self.tool_calls or self.finish_reason)


class OpenAIClient:
    """One endpoint and the key for it. Nothing is asked before the first call of a method.

    ``timeout_s`` is for a whole request, ``name`` what errors call the endpoint (by default its URL). The key goes into one header,
    which redirects do not carry on, and is cut out of every message.
    """

    def __init__(
        self,
        base_url: str,
        api_key: t.Optional[str] = None,
        timeout_s: float = 60.0,
        *,
        name: str = "",
        validate_certs: bool = True,
        ca_path: t.Optional[str] = None,
        use_proxy: bool = True,
        now: t.Callable[[], float] = time.monotonic,
    ) -> None:
        if not _is_http(base_url):
            raise ServingError(f'The URL "{base_url}" cannot be asked: it has to be like http://HOST:PORT or https://HOST.')
        if api_key and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise ServingError(
                "The API key has a blank, a line break or another character that an HTTP header cannot carry. "
                "Often it was stored with a line break at its end: store it without (echo -n, or base64 -w0)."
            )
        base_url = base_url.rstrip("/")
        self.base_url = base_url[: -len("/v1")] if base_url.endswith("/v1") else base_url
        self.name = name or self.base_url
        self.timeout_s = timeout_s
        self.validate_certs = validate_certs
        self.ca_path = ca_path
        self.use_proxy = use_proxy
        self._api_key = api_key
        self._now = now

    @functools.cached_property
    def tls(self) -> t.Any:
        """The TLS context, made once: reading the certificates of the system takes longer than many a request."""
        try:
            return make_context(cafile=self.ca_path, validate_certs=self.validate_certs)
        except OSError as exc:
            raise ServingError(f"The certificates in {self.ca_path} cannot be used: {exc.strerror or exc}.") from exc

    def models(self) -> list[str]:
        """Return the names that the endpoint serves. Raises OpenAIError."""
        return [str(entry["id"]) for entry in self.model_entries()]

    def model_entries(self) -> list[dict[str, t.Any]]:
        """Return what the endpoint tells of each model: ``id``, and mostly ``root`` and ``max_model_len``. Raises OpenAIError."""
        request = _Request(self, "GET", "/v1/models")
        document = request.document()
        entries = document.get("data")
        if not isinstance(entries, list):
            raise request.error(0, f"answered 200 without a list of models: {self._excerpt(json.dumps(document))}")
        return [entry for entry in entries if isinstance(entry, dict) and entry.get("id")]

    def get(self, path: str) -> dict[str, t.Any]:
        """Return the JSON object at *path*, which stands beside ``/v1``. Raises OpenAIError."""
        return _Request(self, "GET", path).document()

    def text(self, path: str) -> str:
        """Return the text at *path*, which stands beside ``/v1``, such as ``/metrics``. Raises OpenAIError."""
        return b"".join(_Request(self, "GET", path).pieces()).decode("utf-8", "replace")

    def post(self, path: str, body: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """Send *body* to *path*, which stands beside ``/v1``, and return the JSON object of the answer. Raises OpenAIError."""
        return _Request(self, "POST", path, body).document()

    def call(self, path: str, body: t.Mapping[str, t.Any]) -> None:
        """Send *body* to *path*, whose answer has nothing in it. Raises OpenAIError."""
        for _piece in _Request(self, "POST", path, body).pieces():
            pass

    def json_lines(self, path: str, body: t.Mapping[str, t.Any]) -> t.Iterator[dict[str, t.Any]]:
        """Send *body* to *path*, and yield the JSON objects of the answer, one a line, as they come in. Raises OpenAIError."""
        request = _Request(self, "POST", path, body)
        for line in filter(None, _lines(request.pieces())):
            try:
                document = json.loads(line)
            except ValueError:
                document = None
            if not isinstance(document, dict):
                excerpt = self._excerpt(line.decode("utf-8", "replace"))
                raise request.error(0, f"answered 200 with a line that is not a JSON object: {excerpt}")
            yield document

    def chat(
        self, model: str, messages: t.Sequence[t.Mapping[str, t.Any]], max_tokens: int, stream: bool = False, **extra: t.Any
    ) -> Completion:
        """Ask for one completion; *extra* are further fields of the request (``temperature``, ``tools``, ...).

        Raises OpenAIError, also when a stream breaks off or carries an error.
        """
        body = {"model": model, "messages": list(messages), "max_tokens": max_tokens, "stream": stream, **extra}
        request = _Request(self, "POST", "/v1/chat/completions", body)
        completion = _joined(request) if stream else _whole(request)
        completion.elapsed_seconds = request.elapsed()
        return completion

    def _excerpt(self, answer: str) -> str:
        """Return the first characters of *answer* on one line, without the key."""
        if self._api_key:
            answer = answer.replace(self._api_key, "***")
        return " ".join(answer.split())[:EXCERPT_CHARACTERS] or "(empty)"


class _Request:
    """One request, from its first byte to the last of the answer, under one deadline."""

    def __init__(self, client: OpenAIClient, method: str, path: str, body: t.Optional[t.Mapping[str, t.Any]] = None) -> None:
        self.client = client
        self.method = method
        self.path = path
        self.body = body
        self.tls = client.tls
        self.begun = False
        self.start = client._now()

    def elapsed(self) -> float:
        """Return the seconds since the request was begun."""
        return self.client._now() - self.start

    def error(self, status: int, found: str, kind: str = "") -> OpenAIError:
        return OpenAIError(status, f"{self.method} {self.path} of {self.client.name} {found}", kind, self.begun)

    def pieces(self) -> t.Iterator[bytes]:
        """Send the request and yield the body of a 200, as it comes in."""
        try:
            response = self._open()
            with response:
                while True:
                    piece = response.read1(PIECE_BYTES)
                    if not piece:
                        return
                    self.begun = True
                    yield piece
                    if self.elapsed() > self.client.timeout_s:
                        raise self._late()
        except HTTPError as exc:
            raise self.error(exc.code, f"answered {exc.code}: {self.client._excerpt(_rest(exc))}") from None
        except (OSError, HTTPException, UrlsConnectionError) as exc:
            cause = exc.reason if isinstance(exc, URLError) else exc
            if isinstance(cause, TimeoutError) or "timed out" in str(cause):
                raise self._late() from None
            words = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            raise self.error(0, f"got no whole answer: {self.client._excerpt(words)}", _kind_of(cause)) from None

    def document(self) -> dict[str, t.Any]:
        """Send the request and return the JSON object of the answer."""
        return self.decoded(b"".join(self.pieces()))

    def decoded(self, data: bytes) -> dict[str, t.Any]:
        """Return *data* as a JSON object; raise what it tells of an error."""
        text = data.decode("utf-8", "replace")
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self.error(0, f"answered 200 with something that is not a JSON object: {self.client._excerpt(text)}")
        if document.get("error"):
            told = document["error"]
            code = told.get("code") if isinstance(told, dict) else None
            status = code if isinstance(code, int) else 500
            raise self.error(status, f"answered 200, then error {status}: {self.client._excerpt(text)}")
        return document

    def _late(self) -> OpenAIError:
        return self.error(0, f"got no whole answer within {self.client.timeout_s:g} s", "timeout")

    def _open(self) -> t.Any:
        headers = {"Accept": "application/json, text/event-stream"}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.client._api_key:
            headers["Authorization"] = f"Bearer {self.client._api_key}"
        return UrlsRequest().open(
            self.method,
            self.client.base_url + self.path,
            data=None if self.body is None else json.dumps(self.body),
            headers=headers,
            unredirected_headers=["Authorization"],
            follow_redirects="safe",
            use_netrc=False,
            decompress=False,
            http_agent="llmops.serving",
            timeout=self.client.timeout_s,
            use_proxy=self.client.use_proxy,
            context=self.tls,
        )


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _kind_of(cause: t.Any) -> str:
    """Return the word for a connection that failed; see OpenAIError."""
    if isinstance(cause, ConnectionRefusedError):
        return "refused"
    if isinstance(cause, socket.gaierror):
        return "unknown-host"
    if isinstance(cause, ssl.SSLError):
        return "tls"
    return "broke-off" if isinstance(cause, (ConnectionError, HTTPException)) else "unreachable"


def _whole(request: _Request) -> Completion:
    document = request.document()
    choice = _choice(document)
    message = choice.get("message") or {}
    return Completion(
        text=message.get("content") or "",
        reasoning=_reasoning(message),
        tool_calls=list(message.get("tool_calls") or []),
        finish_reason=choice.get("finish_reason"),
        usage=_usage(document),
    )


def _joined(request: _Request) -> Completion:
    """Join a stream of server-sent events, each ``data: {"choices": [{"delta": {...}}]}``, closed by ``data: [DONE]``."""
    completion = Completion()
    calls: dict[int, dict[str, t.Any]] = {}
    for data in _events(request):
        if data == b"[DONE]":
            break
        document = request.decoded(data)
        choice = _choice(document)
        delta = choice.get("delta") or {}
        content, reasoning, parts = delta.get("content") or "", _reasoning(delta), delta.get("tool_calls") or []
        if content or reasoning or parts:
            completion.piece_seconds.append(request.elapsed())
        completion.deltas.append(delta)
        completion.usage = _usage(document) or completion.usage
        completion.text += content
        completion.reasoning += reasoning
        completion.finish_reason = choice.get("finish_reason") or completion.finish_reason
        for part in parts:
            _add_part(calls, part)
    else:
        if not completion.finish_reason:
            said = completion.text or completion.reasoning
            raise request.error(0, f"broke off in the middle of its stream, after: {request.client._excerpt(said)}", "broke-off")
        completion.closed = False
    completion.first_token_seconds = next(iter(completion.piece_seconds), None)
    completion.tool_calls = [calls[index] for index in sorted(calls)]
    return completion


def _events(request: _Request) -> t.Iterator[bytes]:
    """Yield what follows ``data:`` in each line of the stream; comments and other fields of an event are passed over."""
    for line in _lines(request.pieces()):
        field, _colon, value = line.partition(b":")
        if field == b"data":
            yield value.strip()
        elif line and field not in (b"", b"event", b"id", b"retry"):
            excerpt = request.client._excerpt(line.decode("utf-8", "replace"))
            raise request.error(0, f"answered 200 with something that is not a stream: {excerpt}")


def _lines(pieces: t.Iterable[bytes]) -> t.Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.strip() for line in lines)
    yield rest.strip()


def _add_part(calls: dict[int, dict[str, t.Any]], part: t.Mapping[str, t.Any]) -> None:
    """Add one delta of a tool call: the first names it, those after it lengthen its arguments."""
    call = calls.setdefault(part.get("index") or 0, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    function = part.get("function") or {}
    call["id"] = part.get("id") or call["id"]
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def _choice(document: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the first choice; an empty one where there is none, as in the chunk that carries the usage."""
    choices = document.get("choices") or [{}]
    return dict(choices[0])


def _usage(document: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return what was counted; a stream tells it in its last chunk, and says null before."""
    usage = document.get("usage")
    return usage if isinstance(usage, dict) else {}


def _reasoning(message: t.Mapping[str, t.Any]) -> str:
    """Return the reasoning; older vLLM calls it ``reasoning_content``."""
    return str(message.get("reasoning") or message.get("reasoning_content") or "")


def _rest(response: t.Any) -> str:
    """Return the beginning of the body of an error, as far as it can be had."""
    try:
        return bytes(response.read(PIECE_BYTES)).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return ""
