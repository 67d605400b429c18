# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the program Ollama, of which neither the program nor its models can be had everywhere: ``ollama serve``.

It listens where OLLAMA_HOST says, keeps its models under OLLAMA_MODELS in Ollama's own layout (manifests/ and blobs/, with ``-partial``
behind what is not whole), removes partial blobs at its start unless OLLAMA_NOPRUNE is set, and speaks the part of Ollama's API and of
its OpenAI-compatible one that this collection uses. Shapes and words are those of https://docs.ollama.com/api, server/ and openai/ of
https://github.com/ollama/ollama. It computes nothing: answers are fixed. Standard library only.

FAKE_OLLAMA is JSON: ``registry`` (models by name and tag: ``size`` in bytes, ``seed`` for its digest, ``tools``), ``pull_error`` (what
every pull ends with), ``break_after`` (bytes after which the first pull of a model breaks off), ``rate`` (bytes a second), ``vram`` (the
share of each load that comes onto GPUs, the last for ever), ``load_error`` (what each load ends with), ``mute`` (completions are empty).
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import signal
import sys
import threading
import time
import typing as t
import urllib.request
from pathlib import Path

VERSION = "0.35.1"
PIECE = 65536
Reply = tuple[int, dict[str, t.Any]]


class RefusedError(Exception):
    """An error in Ollama's shape."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Store:
    """Models on the disk, in Ollama's layout."""

    def __init__(self, folder: Path, options: t.Mapping[str, t.Any], prune: bool) -> None:
        self.folder = folder
        self.options = options
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.broken: set[str] = set()
        if prune:
            for partial in self.blobs.glob("*-partial"):
                partial.unlink()

    def manifest(self, name: str) -> Path:
        path, _colon, tag = with_tag(name).rpartition(":")
        path = path if "/" in path else f"library/{path}"
        return self.folder / "manifests" / "registry.ollama.ai" / path / tag

    def get(self, name: str) -> dict[str, t.Any]:
        """Return what is known of a model that is there."""
        path = self.manifest(name)
        if not path.exists():
            raise RefusedError(404, f"model '{name}' not found")
        text = path.read_bytes()
        layers = json.loads(text)["layers"]
        return {
            "name": with_tag(name),
            "model": with_tag(name),
            "modified_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime)),
            "size": sum(layer["size"] for layer in layers),
            "digest": hashlib.sha256(text).hexdigest(),
            "details": {"format": "gguf", "family": "fake", "families": ["fake"], "parameter_size": "1M", "quantization_level": "F16"},
        }

    def names(self) -> list[str]:
        root = self.folder / "manifests" / "registry.ollama.ai"
        found = [path for path in root.rglob("*") if path.is_file()]
        return sorted(f"{str(p.parent.relative_to(root)).removeprefix('library/')}:{p.name}" for p in found)

    def pull(self, name: str) -> t.Iterator[dict[str, t.Any]]:
        """Pull, and yield what Ollama writes meanwhile."""
        yield {"status": "pulling manifest"}
        model = self.options.get("registry", {}).get(with_tag(name))
        if self.options.get("pull_error"):
            yield {"error": self.options["pull_error"]}
            return
        if model is None:
            yield {"error": "pull model manifest: file does not exist"}
            return
        content = hashlib.sha256(str(model.get("seed", name)).encode()).digest()
        size = int(model["size"])
        body = (content * (size // len(content) + 1))[:size]
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        blob = self.blobs / digest.replace(":", "-")
        partial = blob.with_name(f"{blob.name}-partial")
        status = f"pulling {digest[7:19]}"
        if not blob.exists():
            done = partial.stat().st_size if partial.exists() else 0
            with partial.open("ab") as file:
                while done < size:
                    piece = body[done : done + PIECE]
                    file.write(piece)
                    file.flush()
                    done += len(piece)
                    yield {"status": status, "digest": digest, "total": size, "completed": done}
                    if self.options.get("break_after") and done >= self.options["break_after"] and name not in self.broken:
                        self.broken.add(name)
                        raise ConnectionError
                    if self.options.get("rate"):
                        time.sleep(len(piece) / self.options["rate"])
            partial.rename(blob)
        yield {"status": status, "digest": digest, "total": size, "completed": size}
        yield {"status": "verifying sha256 digest"}
        yield {"status": "writing manifest"}
        layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size}
        manifest = {"schemaVersion": 2, "layers": [layer], "tools": model.get("tools", True)}
        path = self.manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))
        yield {"status": "success"}

    def tools(self, name: str) -> bool:
        return bool(json.loads(self.manifest(name).read_text()).get("tools", True))


class Fake:
    """The server's state: the store, and what is loaded."""

    def __init__(self, store: Store, options: t.Mapping[str, t.Any]) -> None:
        self.store = store
        self.options = options
        self.loaded: dict[str, float] = {}
        self.loads = 0
        self.requests: list[str] = []

    def load(self, name: str) -> dict[str, t.Any]:
        model = self.store.get(name)
        if self.options.get("load_error"):
            raise RefusedError(500, self.options["load_error"])
        if model["digest"] not in self.loaded:
            shares = self.options.get("vram", [1.0])
            self.loaded = {model["digest"]: shares[min(self.loads, len(shares) - 1)]}
            self.loads += 1
        return model

    def running(self) -> list[dict[str, t.Any]]:
        found = []
        for name in self.store.names():
            model = self.store.get(name)
            if model["digest"] in self.loaded:
                size = model["size"] + 2**20
                context = int(os.environ.get("OLLAMA_CONTEXT_LENGTH", "4096"))
                vram = int(size * self.loaded[model["digest"]])
                found.append({**model, "size": size, "size_vram": vram, "context_length": context, "expires_at": "2318-01-01T00:00:00Z"})
        return found

    def generate(self, body: t.Mapping[str, t.Any]) -> Reply:
        name = body["model"]
        if not body.get("prompt") and body.get("keep_alive") in (0, "0"):
            self.loaded.pop(self.store.get(name)["digest"], None)
            reason = "unload"
        else:
            self.load(name)
            reason = "load"
        return 200, {"model": name, "created_at": "2026-11-21T16:06:00Z", "response": "", "done": True, "done_reason": reason}

    def chat(self, body: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """Return the message of a completion."""
        name = body["model"]
        self.load(name)
        asked = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        tools = body.get("tools") or []
        if tools and not self.store.tools(name):
            raise RefusedError(400, f"registry.ollama.ai/library/{with_tag(name)} does not support tools")
        if self.options.get("mute"):
            return {"role": "assistant", "content": ""}
        if tools:
            function = tools[0]["function"]
            arguments = json.dumps(filled(function.get("parameters") or {}, asked))
            call = {"id": "call_1", "index": 0, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        return {"role": "assistant", "content": f"Hello! I am {name}, and I compute nothing."}


def with_tag(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def filled(schema: t.Mapping[str, t.Any], asked: str) -> dict[str, t.Any]:
    """Return arguments that fit *schema*, with a proper name of the question where text is wanted."""
    names = re.findall(r"(?<=\s)[A-Z][a-z]+", asked) or ["Paris"]
    kinds: dict[str, t.Any] = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}
    return {
        key: (value.get("enum") or [kinds.get(value.get("type", ""), names[0])])[0]
        for key, value in (schema.get("properties") or {}).items()
    }


class Handler(http.server.BaseHTTPRequestHandler):
    """Speaks HTTP for ``self.server.fake``."""

    protocol_version = "HTTP/1.1"

    @property
    def fake(self) -> Fake:
        return t.cast("Server", self.server).fake

    def log_message(self, format: str, *args: t.Any) -> None:
        print(f"[GIN] {format % args}", flush=True)

    def do_GET(self) -> None:
        store = self.fake.store
        if self.path == "/":
            self.whole(200, "text/plain", b"Ollama is running")
        elif self.path == "/api/version":
            self.json(200, {"version": VERSION})
        elif self.path == "/api/tags":
            self.json(200, {"models": [store.get(name) for name in store.names()]})
        elif self.path == "/api/ps":
            self.json(200, {"models": self.fake.running()})
        elif self.path == "/v1/models":
            data = [{"id": name, "object": "model", "created": 1763700000, "owned_by": "library"} for name in store.names()]
            self.json(200, {"object": "list", "data": data or None})
        else:
            self.whole(404, "text/plain", b"404 page not found")

    def do_DELETE(self) -> None:
        body = self.body()
        self.guarded(lambda: self.delete(body))

    def delete(self, body: t.Mapping[str, t.Any]) -> None:
        self.fake.store.get(body["model"])
        self.fake.store.manifest(body["model"]).unlink()
        self.whole(200, "text/plain", b"")

    def do_POST(self) -> None:
        body = self.body()
        self.fake.requests.append(self.path)
        actions: dict[str, t.Callable[[t.Mapping[str, t.Any]], None]] = {
            "/api/pull": self.pull,
            "/api/show": self.show,
            "/api/copy": self.copy,
            "/api/generate": lambda asked: self.json(*self.fake.generate(asked)),
            "/v1/chat/completions": self.completions,
        }
        if self.path in actions:
            self.guarded(lambda: actions[self.path](body))
        else:
            self.whole(404, "text/plain", b"404 page not found")

    def guarded(self, action: t.Callable[[], None]) -> None:
        try:
            action()
        except RefusedError as exc:
            message: t.Any = str(exc)
            if self.path.startswith("/v1/"):
                kind = "api_error" if exc.status >= 500 else "invalid_request_error"
                message = {"message": str(exc), "type": kind, "param": None, "code": None}
            self.json(exc.status, {"error": message})

    def show(self, body: t.Mapping[str, t.Any]) -> None:
        model = self.fake.store.get(body["model"])
        capabilities = ["completion", *(["tools"] if self.fake.store.tools(body["model"]) else [])]
        self.json(200, {"details": model["details"], "capabilities": capabilities, "modified_at": model["modified_at"]})

    def copy(self, body: t.Mapping[str, t.Any]) -> None:
        store = self.fake.store
        store.get(body["source"])
        target = store.manifest(body["destination"])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.manifest(body["source"]).read_bytes())
        self.whole(200, "text/plain", b"")

    def pull(self, body: t.Mapping[str, t.Any]) -> None:
        self.begin("application/x-ndjson")
        try:
            for line in self.fake.store.pull(body["model"]):
                self.chunk(json.dumps(line).encode() + b"\n")
        except ConnectionError:
            self.close_connection = True  # the stream breaks off
            return
        self.chunk(b"")

    def completions(self, body: t.Mapping[str, t.Any]) -> None:
        message = self.fake.chat(body)
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        head = {"id": "chatcmpl-1", "created": 1763700000, "model": body["model"], "system_fingerprint": "fp_ollama"}
        if not body.get("stream"):
            usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            self.json(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        self.begin("text/event-stream")
        head = {**head, "object": "chat.completion.chunk"}
        pieces = [{"role": "assistant", "content": word} for word in re.findall(r"\S+\s*", message["content"])]
        pieces += [message] if message.get("tool_calls") else []
        for piece in pieces:
            self.event({**head, "choices": [{"index": 0, "delta": piece, "finish_reason": None}]})
        self.event({**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": finish}]})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, document: t.Mapping[str, t.Any]) -> None:
        self.chunk(f"data: {json.dumps(document)}\n\n".encode())

    def body(self) -> dict[str, t.Any]:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return t.cast("dict[str, t.Any]", json.loads(text or b"{}"))

    def begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}".encode() + b"\r\n" + data + b"\r\n")
        self.wfile.flush()

    def json(self, status: int, document: t.Any) -> None:
        self.whole(status, "application/json; charset=utf-8", json.dumps(document).encode())

    def whole(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(http.server.ThreadingHTTPServer):
    """Listens, and knows the state."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], fake: Fake) -> None:
        super().__init__(address, Handler)
        self.fake = fake

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """A client that is gone is no error."""


def start(folder: Path, options: t.Mapping[str, t.Any], prune: bool = True) -> Server:
    """Serve on a free port of this machine, in the background."""
    server = Server(("127.0.0.1", 0), Fake(Store(folder, options, prune), options))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


def main() -> None:
    """Be ``ollama serve``, ``ollama list`` or ``ollama --version``."""
    options = json.loads(os.environ.get("FAKE_OLLAMA", "{}"))
    host, _colon, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    if sys.argv[1:] == ["--version"]:
        print(f"ollama version is {VERSION}")
        return
    if sys.argv[1:] == ["list"]:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{host}:{port}/api/tags", timeout=5) as reply:
            print("\n".join(["NAME", *(model["name"] for model in json.load(reply)["models"])]))
        return
    if sys.argv[1:] != ["serve"]:
        sys.exit("usage: ollama serve|list|--version")
    # as the first process of a container it would not hear it otherwise
    signal.signal(signal.SIGTERM, lambda _signal, _frame: os._exit(0))
    store = Store(Path(os.environ["OLLAMA_MODELS"]), options, os.environ.get("OLLAMA_NOPRUNE", "") == "")
    print(f"Listening on {host}:{port} (version {VERSION})", flush=True)
    Server((host, int(port)), Fake(store, options)).serve_forever()


if __name__ == "__main__":
    main()
