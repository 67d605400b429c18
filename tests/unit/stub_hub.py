# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Hugging Face hub in miniature: repositories of models, and the faults that a test asks for. Standard library only.

Weights are in LFS, as on the hub: asked for, they redirect to another origin (the CDN) that must not see the token.

It serves folders as a program too:

    python3 stub_hub.py --port 8080 --bind 0.0.0.0 --folder /models/smoke --repo llmops/smoke
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import json
import re
import sys
import threading
import typing as t
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
LFS_FROM_BYTES = 10 * 2**20
CHUNK_BYTES = 64 * 2**10

Content = t.Union[bytes, Path]


class File:
    """A file of a repository: bytes, or a file on the disk. ``size`` may be set to a lie."""

    def __init__(self, path: str, content: Content) -> None:
        self.path = path
        self.content = content
        self.size = len(content) if isinstance(content, bytes) else content.stat().st_size
        self.is_lfs = path.endswith(LFS) or self.size >= LFS_FROM_BYTES

    @functools.cached_property
    def sha256(self) -> str:
        return self._digest(hashlib.sha256())

    @functools.cached_property
    def blob_id(self) -> str:
        """Git's name of it; for a file in LFS, some name of its pointer."""
        if self.is_lfs:
            return hashlib.sha1(f"pointer to {self.sha256}".encode()).hexdigest()
        return self._digest(hashlib.sha1(b"blob %d\0" % self.size))

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id

    def _digest(self, digest: t.Any) -> str:
        for chunk in self.chunks(0, self.size):
            digest.update(chunk)
        return str(digest.hexdigest())

    def chunks(self, start: int, end: int) -> t.Iterator[bytes]:
        """Yield the bytes from *start* up to *end*."""
        if isinstance(self.content, bytes):
            for at in range(start, min(end, len(self.content)), CHUNK_BYTES):
                yield self.content[at : min(at + CHUNK_BYTES, end)]
            return
        with self.content.open("rb") as stream:
            stream.seek(start)
            while start < end and (chunk := stream.read(min(CHUNK_BYTES, end - start))):
                start += len(chunk)
                yield chunk


class Repository:
    """A model with one commit, under the names of *revisions*. With *token*, it is private; gated, its files want a licence accepted."""

    def __init__(
        self, name: str, files: t.Mapping[str, Content], revisions: t.Sequence[str] = ("main",), token: str = "", gated: bool = False
    ) -> None:
        self.name = name
        self.files = {path: File(path, content) for path, content in sorted(files.items())}
        listing = "".join(f"{file.path} {file.etag}\n" for file in self.files.values())
        self.commit = hashlib.sha1(listing.encode()).hexdigest()
        self.revisions = {*revisions, self.commit}
        self.token = token
        self.gated = gated


def folder_files(folder: Path) -> dict[str, Content]:
    """Return the files of *folder* as a repository has them; hidden ones are left out."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if not any(part.startswith(".") for part in name.split("/"))}


# A fault is played instead of the answer. It gets the file that was asked for, None for the API, and where its bytes begin.
Fault = t.Callable[["Handler", t.Optional[File], int], None]


def status(code: int, error_code: str = "", message: str = "", **headers: str) -> Fault:
    """Answer *code*; of *headers*, retry_after becomes Retry-After."""

    def play(handler: Handler, _file: t.Optional[File], _start: int) -> None:
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        handler.refuse(code, error_code, message, **named)

    return play


def breaks_off(after: int) -> Fault:
    """Announce the whole file, send *after* bytes of it, and hang up."""

    def play(handler: Handler, file: t.Optional[File], start: int) -> None:
        if file:
            handler.send_file(file, start, file.size, stop_after=after)
        handler.close_connection = True

    return play


def stalls(after: int) -> Fault:
    """Send *after* bytes of the file, then nothing until the hub is stopped or let go on."""

    def play(handler: Handler, file: t.Optional[File], start: int) -> None:
        if file:
            handler.send_file(file, start, file.size, stop_after=after)
        handler.hub.stalled.set()
        handler.hub.go_on.wait(60)
        handler.close_connection = True

    return play


def wrong_bytes() -> Fault:
    """Send as many bytes as the file has, but others."""

    def play(handler: Handler, file: t.Optional[File], start: int) -> None:
        if file:
            handler.send_file(File(file.path, b"?" * file.size), start, file.size)

    return play


def ignores_range() -> Fault:
    """Send the whole file, whatever part of it was asked for."""

    def play(handler: Handler, file: t.Optional[File], _start: int) -> None:
        if file:
            handler.send_file(file, 0, file.size, code=200)

    return play


def page(text: str) -> Fault:
    """Answer 200 with a page of HTML, as a login page in front of a hub does."""
    return lambda handler, _file, _start: handler.send_whole(200, text.encode(), {"Content-Type": "text/html"})


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection, to the hub or to its CDN."""

    protocol_version = "HTTP/1.1"
    server: _Server

    @property
    def hub(self) -> StubHub:
        return self.server.hub

    def log_message(self, format: str, *args: t.Any) -> None:
        if self.hub.verbose:
            super().log_message(format, *args)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.note(self, path)
        if self.server.is_cdn:
            sha256 = path.rsplit("/", 1)[-1]
            found = (file for repo in self.hub.repositories.values() for file in repo.files.values() if file.sha256 == sha256)
            self._file(next(found), {})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            self._api(match[1], match[2] or "revision", match[3] or "main", parse_qs(url.query))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+)", path):
            self._resolve(match[1], match[2])
        else:
            self.refuse(404, "", "Not Found")

    # -- the API

    def _api(self, name: str, kind: str, revision: str, query: t.Mapping[str, list[str]]) -> None:
        if fault := self.hub.fault("api"):
            return fault(self, None, 0)
        repo = self._repository(name)
        if not repo:
            return None
        if revision not in repo.revisions:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repo.files.values()
        if kind == "tree":
            return self.send_json([self._tree_entry(file) for file in files])
        blobs = query.get("blobs", ["false"])[0].lower() in ("true", "1") and self.hub.tells_blobs
        siblings = [self._sibling(file) if blobs else {"rfilename": file.path} for file in files]
        about = {"id": name, "modelId": name, "sha": repo.commit, "private": bool(repo.token), "gated": "manual" if repo.gated else False}
        return self.send_json({**about, "tags": [], "downloads": 0, "siblings": siblings})

    @staticmethod
    def _sibling(file: File) -> dict[str, t.Any]:
        told: dict[str, t.Any] = {"rfilename": file.path, "size": file.size, "blobId": file.blob_id}
        if file.is_lfs:
            told["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 135}
        return told

    @staticmethod
    def _tree_entry(file: File) -> dict[str, t.Any]:
        told: dict[str, t.Any] = {"type": "file", "path": file.path, "size": file.size, "oid": file.blob_id}
        if file.is_lfs:
            told["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 135}
        return told

    # -- files

    def _resolve(self, name: str, rest: str) -> None:
        repo = self._repository(name)
        if not repo:
            return None
        revision = next((known for known in repo.revisions if rest.startswith(f"{known}/")), None)
        if not revision:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        if repo.gated:
            known = "Authorization" in self.headers
            return self.refuse(403 if known else 401, "GatedRepo", f"Access to model {name} is restricted.")
        file = repo.files.get(rest[len(revision) + 1 :])
        told = {"X-Repo-Commit": repo.commit}
        if not file:
            return self.refuse(404, "EntryNotFound", "Entry not found", **told)
        if file.is_lfs and self.hub.cdn_url:
            told |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
            return self.send_whole(302, b"", {**told, "Location": f"{self.hub.cdn_url}/{quote(name)}/{file.sha256}"})
        return self._file(file, told)

    def _file(self, file: File, told: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        end = min(file.size, int(asked[2]) + 1) if asked and asked[2] else file.size
        if self.command == "GET" and (fault := self.hub.fault(file.path)):
            return fault(self, file, start)
        if asked and start >= file.size:
            return self.refuse(416, "", "Range Not Satisfiable", **{"Content-Range": f"bytes */{file.size}"})
        return self.send_file(file, start, end, told, code=206 if asked else 200)

    def send_file(
        self,
        file: File,
        start: int,
        end: int,
        told: t.Optional[dict[str, str]] = None,
        code: int = 0,
        stop_after: t.Optional[int] = None,
    ) -> None:
        """Send the bytes of *file* from *start* up to *end*; announce them all even where it stops after *stop_after* of them."""
        code = code or (206 if "Range" in self.headers else 200)
        self.send_response(code)
        headers = {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes", "Content-Length": str(end - start), **(told or {})}
        if code == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for chunk in file.chunks(start, end if stop_after is None else min(end, start + stop_after)):
            try:
                self.wfile.write(chunk)
            except OSError:
                self.close_connection = True
                return
            self.hub.count(file.path, len(chunk))

    # -- answers

    def _repository(self, name: str) -> t.Optional[Repository]:
        """Return the repository *name* if whoever asks may know of it; refuse otherwise, as the hub does."""
        repo = self.hub.repositories.get(name)
        sent = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if sent and sent not in self.hub.tokens:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif not repo or (repo.token and repo.token != sent):
            # To strangers, the hub does not tell what is private and what does not exist.
            self.refuse(404 if sent else 401, "RepoNotFound", "Repository not found")
        else:
            return repo
        return None

    def refuse(self, code: int, error_code: str = "", message: str = "", **headers: str) -> None:
        """Answer an error as the hub does."""
        named = {"X-Error-Code": error_code, "X-Error-Message": message}
        body = json.dumps({"error": message}).encode()
        self.send_whole(code, body, {**headers, **{name: value for name, value in named.items() if value}})

    def send_json(self, body: t.Any) -> None:
        self.send_whole(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send_whole(self, code: int, body: bytes, headers: t.Mapping[str, str]) -> None:
        """Answer *code* with *body*."""
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    hub: StubHub
    is_cdn = False


class Request(t.NamedTuple):
    """A request as it came. ``is_cdn``: not to the hub."""

    method: str
    path: str
    range: t.Optional[str]
    has_token: bool
    is_cdn: bool


class StubHub:
    """A hub at ``url``; a context manager. What it was asked is in ``requests``, the bytes it sent of each file in ``sent``."""

    def __init__(self, *repositories: Repository, bind: str = "127.0.0.1", port: int = 0, cdn: bool = False, verbose: bool = False) -> None:
        self.repositories = {repo.name: repo for repo in repositories}
        self.tokens = {repo.token for repo in repositories if repo.token}
        self.tells_blobs = True
        self.verbose = verbose
        self.requests: list[Request] = []
        self.sent: dict[str, int] = {}
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self._faults: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()
        self._servers = [_Server((bind, port), Handler)]
        if cdn:
            self._servers.append(_Server((bind, 0), Handler))
            self._servers[1].is_cdn = True
        for server in self._servers:
            server.hub = self
        self.url, self.cdn_url = f"http://{bind}:{self._servers[0].server_port}", ""
        if cdn:
            self.cdn_url = f"http://{bind}:{self._servers[1].server_port}"

    def __enter__(self) -> StubHub:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, in threads of its own."""
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.go_on.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def serve(self) -> None:
        """Serve until a signal comes."""
        for server in self._servers[1:]:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        self._servers[0].serve_forever()

    def fail(self, what: str, *faults: Fault) -> None:
        """Play *faults*, one after the other, when the file *what* is asked for, or "api"."""
        self._faults.setdefault(what, []).extend(faults)

    def fault(self, what: str) -> t.Optional[Fault]:
        with self._lock:
            faults = self._faults.get(what)
            return faults.pop(0) if faults else None

    def note(self, handler: Handler, path: str) -> None:
        headers = handler.headers
        request = Request(handler.command, path, headers.get("Range"), "Authorization" in headers, handler.server.is_cdn)
        with self._lock:
            self.requests.append(request)

    def count(self, path: str, size: int) -> None:
        with self._lock:
            self.sent[path] = self.sent.get(path, 0) + size


def main() -> int:
    """Serve folders as repositories."""
    parser = argparse.ArgumentParser(description="Serve folders as repositories of a Hugging Face hub.")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--folder", type=Path, action="append", required=True, help="may be given more than once, with --repo each")
    parser.add_argument("--repo", action="append", required=True, help="owner/name")
    parser.add_argument("--revision", action="append", help="names of the one commit, main by default")
    parser.add_argument("--token", default="", help="make them private")
    options = parser.parse_args()
    if len(options.folder) != len(options.repo):
        parser.error("each --folder needs its --repo")
    lost = [folder for folder in options.folder if not folder.is_dir()]
    if lost:
        parser.error(f"{lost[0]} is no folder")
    revisions = options.revision or ["main"]
    repositories = [Repository(name, folder_files(folder), revisions, options.token) for name, folder in zip(options.repo, options.folder)]
    hub = StubHub(*repositories, bind=options.bind, port=options.port, verbose=True)
    for repo in repositories:
        print(f"{repo.name} at {repo.commit}: {len(repo.files)} files, {sum(file.size for file in repo.files.values())} bytes")
    print(f"serving at {hub.url}", flush=True)
    try:
        hub.serve()
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
