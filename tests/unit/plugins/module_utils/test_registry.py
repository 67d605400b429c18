# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What real registries do only now and then: redirects, refusals, logins in several forms. The rest is in tests/images."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _images, _registry
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._registry import Login, Place, Registry

LOGIN = Login("reader", "open sesame")
CONFIG = json.dumps({"os": "linux", "architecture": "amd64"}).encode()
CONFIG_DIGEST = f"sha256:{hashlib.sha256(CONFIG).hexdigest()}"
MANIFEST = json.dumps(
    {"mediaType": _registry.MANIFESTS[0], "config": {"digest": CONFIG_DIGEST, "size": len(CONFIG)}, "layers": [{"size": 1000}]}
).encode()

Reply = tuple[int, dict[str, str], bytes]


class Stub(http.server.ThreadingHTTPServer):
    """Answers what *replies* has for the end of a path, once each, the last one always; ``asked``: path and Authorization."""

    daemon_threads = True

    def __init__(self, replies: t.Optional[dict[str, list[Reply]]] = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = replies or {}
        self.asked: list[tuple[str, t.Optional[str]]] = []
        self.host = f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Stub:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exc: t.Any) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = t.cast(Stub, self.server)
        server.asked.append((self.path, self.headers.get("Authorization")))
        key = next((key for key in server.replies if self.path.endswith(key)), None)
        waiting = server.replies[key] if key else [(404, {}, b"")]
        status, headers, body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: t.Any) -> None:
        """Say nothing."""


def registry(host: str, login: t.Optional[Login] = None, **given: t.Any) -> Registry:
    return Registry(Place(host, "", "http", login), sleep=lambda _seconds: None, **given)


def read(host: str, login: t.Optional[Login] = None, **given: t.Any) -> _registry.Found:
    return _registry.resolve([registry(host, login, **given)], ["vllm"], _images.parse(f"{host}/vllm:v1"), "linux/amd64")[0]


def ok(body: bytes, **headers: str) -> Reply:
    return 200, {name.replace("_", "-"): value for name, value in headers.items()}, body


def test_what_lies_elsewhere_does_not_see_the_login() -> None:
    with Stub({CONFIG_DIGEST: [ok(CONFIG)]}) as elsewhere:
        away = (307, {"Location": f"http://{elsewhere.host}/storage/{CONFIG_DIGEST}"}, b"")
        wanted = (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
        with Stub({"/manifests/v1": [wanted, ok(MANIFEST)], CONFIG_DIGEST: [away]}) as own:
            found = read(own.host, LOGIN)
        basic = "Basic " + base64.b64encode(b"reader:open sesame").decode()
        assert [authorization for _path, authorization in own.asked] == [None, basic, basic]
        assert elsewhere.asked == [(f"/storage/{CONFIG_DIGEST}", None)]
    assert (found.platform, found.size_bytes, found.manifest_digest) == ("linux/amd64", 1000 + len(CONFIG), found.digest)


def test_an_error_of_the_registry_is_asked_again() -> None:
    with Stub({"/manifests/v1": [(503, {}, b""), (500, {}, b""), ok(MANIFEST)], CONFIG_DIGEST: [ok(CONFIG)]}) as own:
        assert read(own.host).platform == "linux/amd64"
    with Stub({"/manifests/v1": [(502, {}, b"")]}) as own, pytest.raises(ServingError, match=r"it answered 502 \(4 times\)"):
        read(own.host)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((429, {}, b""), "answers 429, too many requests. Log in"),
        ((403, {}, b""), "lets nobody read vllm without a login"),
        ((404, {}, b'{"errors": [{"code": "NAME_UNKNOWN"}]}'), "has no repository vllm. Check the spelling"),
        ((404, {}, b"<html>"), "has no vllm:v1. Check the spelling of name and tag"),
        ((418, {}, b""), "answered 418 for vllm"),
        (ok(b"<html>"), "something that is no manifest. A proxy may have answered in its place"),
        (
            ok(b'{"schemaVersion": 1}', Content_Type="application/vnd.docker.distribution.manifest.v1+prettyjws"),
            "not an image that runtimes",
        ),
        (ok(MANIFEST, Docker_Content_Digest=f"sha256:{64 * 'a'}"), "what was sent is not sha256:aaaaaaaaaaaa"),
        ((307, {"Location": "http://elsewhere.example/"}, b""), "its redirects do not end well"),
    ],
)
def test_refusals(reply: Reply, words: str) -> None:
    with Stub({"/manifests/v1": [reply]}) as own, pytest.raises(ServingError) as failure:
        read(own.host)
    assert words in str(failure.value)


def test_near_tags_over_several_pages() -> None:
    pages = [
        ok(b'{"tags": ["v1.0", "nightly"]}', Link='</v2/vllm/tags/list?n=1000&last=nightly>; rel="next"'),
        ok(b'{"tags": ["v1.1", "v1.2"]}'),
    ]
    replies = {"/manifests/v1": [(404, {}, b"")], "n=1000": pages[:1], "last=nightly": pages[1:]}
    with Stub(replies) as own, pytest.raises(ServingError, match=r"has no tag v1\. Near it: v1\.2, v1\.1, v1\.0\."):
        read(own.host)


@pytest.mark.parametrize("realm", ["http://auth.example/token", "ftp://auth.example/token", "/token"])
def test_a_login_is_sent_to_no_place_without_tls(realm: str) -> None:
    wanted = (401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}, b"")
    with Stub({"/manifests/v1": [wanted]}) as own, pytest.raises(ServingError, match=r"which is not https; nothing was sent there"):
        read(own.host, LOGIN)


def test_who_gives_tokens_may_break_off_too() -> None:
    with Stub({"scope=s": [(503, {}, b""), ok(b'{"access_token": "t"}')]}) as tokens:
        challenge = f'Bearer realm="http://{tokens.host}/token",service="x",scope="s"'
        wanted = (401, {"WWW-Authenticate": challenge}, b"")
        with Stub({"/manifests/v1": [wanted, wanted, ok(MANIFEST)], CONFIG_DIGEST: [ok(CONFIG)]}) as own:
            read(own.host)
    assert tokens.asked == [("/token?service=x&scope=s", None)] * 2
    assert own.asked[-1][1] == "Bearer t"


def test_plain_http_has_to_be_asked_for() -> None:
    with pytest.raises(ServingError, match=r"http://registry\.example would be asked without TLS"):
        Registry(Place("registry.example", "", "http"))
    assert Registry(Place("registry.example", "", "http"), insecure=True).host == "registry.example"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1:5000", True), ("localhost", True), ("[::1]:5000", True), ("127.0.0.1.example", False), ("localhost.example:5000", False)],
)
def test_what_is_this_machine(host: str, expected: bool) -> None:
    assert _registry.is_loopback(host) is expected


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("docker.io", Place("registry-1.docker.io", "")),
        ("mirror.example:5000/hub/", Place("mirror.example:5000", "hub")),
        ("http://mirror.example", Place("mirror.example", "", "http")),
    ],
)
def test_places(given: str, place: Place) -> None:
    assert _registry.place_of(given, "x") == place


@pytest.mark.parametrize("given", ["", "ftp://mirror.example", "https://", "me:secret@mirror.example"])
def test_what_is_no_place(given: str) -> None:
    with pytest.raises(ServingError, match=r"llm_registry_mirrors: .* is no registry"):
        _registry.place_of(given, "llm_registry_mirrors")


def test_the_file_of_docker_login(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    auth = base64.b64encode(b"me:pass:word").decode()
    auths = {"https://index.docker.io/v1/": {"auth": auth}, "https://r.example/v2/": {"username": "you", "password": "p"}, "s.example": {}}
    path.write_text(json.dumps({"auths": auths, "credsStore": "desktop"}))
    assert _registry.login_of(str(path), _registry.HUB_HOST) == Login("me", "pass:word")
    assert _registry.login_of(str(path), "r.example") == Login("you", "p")
    assert _registry.login_of(str(path), "s.example") is None
    with pytest.raises(ServingError, match=r"/nonexistent cannot be read: No such file"):
        _registry.login_of("/nonexistent", "r.example")


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", False),
        ("linux/arm", "linux/arm64", False),
    ],
)
def test_platforms(wanted: str, found: str, expected: bool) -> None:
    assert _registry.matches(wanted, found) is expected


def test_one_platform_of_an_index_may_be_missing_from_a_mirror() -> None:
    entry = {"digest": f"sha256:{64 * 'a'}", "platform": {"os": "linux", "architecture": "amd64"}}
    index = json.dumps({"mediaType": _registry.INDEXES[0], "manifests": [entry]}).encode()
    with Stub({"/manifests/v1": [ok(index)]}) as own, pytest.raises(ServingError, match=r"has no vllm@sha256:aaaaaaaaaaaa \(any more\)"):
        read(own.host)
