# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real registry (Debian's docker-registry) on the loopback interface, images made by hand in it, and what may stand in front of it."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import http.client
import http.server
import ipaddress
import json
import os
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import typing as t
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

PROGRAM = "docker-registry"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
USER, PASSWORD = "reader", "open sesame"
# bcrypt of the password, which is all that the registry reads
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"
STARTS_IN_S = 30


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Authority:
    """Certificates for this machine, by an authority that nobody else knows."""

    def __init__(self, folder: Path) -> None:
        self.ca_path = folder / "ca.pem"
        self.cert_path = folder / "server.pem"
        self.key_path = folder / "server.key"
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ca = self._certificate("Authority of the tests", self.key, None)
        server_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        server = self._certificate("registry of the tests", server_key, self.ca)
        self.ca_path.write_bytes(self.ca.public_bytes(serialization.Encoding.PEM))
        self.cert_path.write_bytes(server.public_bytes(serialization.Encoding.PEM))
        self.key_path.write_bytes(
            server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )

    def _certificate(self, name: str, key: rsa.RSAPrivateKey, issuer: t.Optional[x509.Certificate]) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Registry:
    """The program, with what is pushed to it. With an *authority*, it speaks TLS; *auth*: what its configuration says of logins."""

    def __init__(self, folder: Path, authority: t.Optional[Authority] = None, auth: str = "none", token_url: str = "") -> None:
        program = shutil.which(PROGRAM)
        assert program, f"These tests need the program {PROGRAM}: apt-get install {PROGRAM}"
        self.program = program
        self.folder = folder
        self.authority = authority
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.auth = auth
        self.token_url = token_url
        self.process: t.Optional[subprocess.Popen[bytes]] = None

    def _config(self) -> dict[str, t.Any]:
        http: dict[str, t.Any] = {"addr": self.host, "secret": "of the tests"}
        config: dict[str, t.Any] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage")}, "delete": {"enabled": True}},
            "http": http,
        }
        if self.authority:
            http["tls"] = {"certificate": str(self.authority.cert_path), "key": str(self.authority.key_path)}
        if self.auth == "htpasswd":
            (self.folder / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(self.folder / "htpasswd")}}
        if self.auth == "token":
            assert self.authority
            bundle = str(self.authority.ca_path)
            config["auth"] = {"token": {"realm": self.token_url, "service": "tests", "issuer": "tests", "rootcertbundle": bundle}}
        return config

    def start(self) -> Registry:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config.yml"
        path.write_text(json.dumps(self._config()))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.program, "serve", str(path)], stdout=log, stderr=log)
        deadline = time.monotonic() + STARTS_IN_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            time.sleep(0.05)
        raise AssertionError(f"{self.program} did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> Registry:
        return self.start()

    def __exit__(self, *_exc: t.Any) -> None:
        self.kill()

    # --- what is in it

    def ask(self, method: str, path: str, body: t.Union[bytes, t.BinaryIO] = b"", **headers: str) -> tuple[int, t.Any, bytes]:
        """Ask the registry as who may do all; fails the test where it refuses."""
        if self.authority:
            context = ssl.create_default_context(cafile=str(self.authority.ca_path))
            connection: http.client.HTTPConnection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, blocksize=2**20)
        if self.auth == "htpasswd":
            headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.auth == "token":
            assert self.authority
            headers["Authorization"] = (
                f"Bearer {token(self.authority, path.split('/v2/')[-1].partition('/blobs/')[0].partition('/manifests/')[0])}"
            )
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            data = response.read()
        assert response.status < 400, (method, path, response.status, data)
        return response.status, response.headers, data

    def push_blob(self, name: str, data: bytes) -> str:
        digest = digest_of(data)
        self.push_stream(name, digest, len(data), data)
        return digest

    def push_stream(self, name: str, digest: str, size: int, data: t.Union[bytes, t.BinaryIO]) -> None:
        """Put there what is not all in memory, and of which the digest is known."""
        _status, headers, _body = self.ask("POST", f"/v2/{name}/blobs/uploads/", Content_Length="0")
        parts = urlsplit(headers["Location"])
        query = f"{parts.query}&digest={digest}" if parts.query else f"digest={digest}"
        self.ask("PUT", f"{parts.path}?{query}", data, Content_Type="application/octet-stream", Content_Length=str(size))

    def push_manifest(self, name: str, what: str, manifest: t.Mapping[str, t.Any]) -> tuple[str, int]:
        data = json.dumps(manifest).encode()
        digest = digest_of(data)
        self.ask("PUT", f"/v2/{name}/manifests/{what or digest}", data, Content_Type=str(manifest["mediaType"]))
        return digest, len(data)

    def push_image(self, name: str, tag: str = "", platform: str = "linux/amd64", salt: str = "") -> tuple[str, int, int]:
        """Put an image for one platform there. Returns its digest, the length of its manifest, and the size of what a node pulls."""
        system, architecture, *variant = platform.split("/")
        config = json.dumps({"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {}), "salt": salt})
        layer = os.urandom(2000) if not salt else salt.encode() * 100
        blobs = [(CONFIG, config.encode()), (LAYER, layer)]
        parts = [{"mediaType": kind, "digest": self.push_blob(name, data), "size": len(data)} for kind, data in blobs]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
        digest, length = self.push_manifest(name, tag, manifest)
        return digest, length, sum(len(data) for _kind, data in blobs)

    def push_index(self, name: str, tag: str, *platforms: str, salt: str = "") -> dict[str, t.Any]:
        """Put an image for several *platforms* there. Returns the digest of the index, and digest and size by platform."""
        entries, made = [], {}
        for platform in platforms:
            digest, length, size = self.push_image(name, platform=platform, salt=f"{salt} {platform}")
            names = dict(zip(("os", "architecture", "variant"), platform.split("/")))
            entries.append({"mediaType": MANIFEST, "digest": digest, "size": length, "platform": names})
            made[platform] = {"digest": digest, "size": size}
        unknown = {**entries[0], "platform": {"os": "unknown", "architecture": "unknown"}}  # an attestation, as BuildKit adds it
        index, _length = self.push_manifest(name, tag, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*entries, unknown]})
        return {"digest": index, **made}


# --- tokens --------------------------------------------------------------------------------------------------------------------------


def token(authority: Authority, name: str, actions: t.Sequence[str] = ("pull", "push")) -> str:
    """Return a token with which *name* may be read and written for a while, signed as the registry wants it."""

    def part(value: t.Any) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    der = authority.ca.public_bytes(serialization.Encoding.DER)
    head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
    now = int(time.time())
    access = [{"type": "repository", "name": name, "actions": list(actions)}]
    claims = {"iss": "tests", "aud": "tests", "sub": "", "exp": now + 300, "nbf": now - 60, "iat": now - 60, "jti": "1", "access": access}
    text = f"{part(head)}.{part(claims)}"
    return f"{text}.{part(authority.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


class Tokens(http.server.ThreadingHTTPServer):
    """Gives tokens for reading to whom it knows; for ``public/`` to everybody. ``asked``: the login and the scope of each request."""

    daemon_threads = True

    def __init__(self, authority: Authority) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.authority = authority
        self.asked: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/token"

    def __enter__(self) -> Tokens:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exc: t.Any) -> None:
        self.shutdown()
        self.server_close()


class _TokenHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = t.cast(Tokens, self.server)
        scope = parse_qs(urlsplit(self.path).query).get("scope", [""])[0]
        login = base64.b64decode(self.headers.get("Authorization", "").partition(" ")[2]).decode()
        server.asked.append((login, scope))
        name = scope.split(":")[1] if scope else ""
        allowed = login == f"{USER}:{PASSWORD}" or (not login and name.startswith("public/"))
        body = json.dumps({"token": token(server.authority, name, ["pull"] if allowed else [])}).encode()
        self.send_response(200 if allowed or not login else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: t.Any) -> None:
        """Say nothing."""


# --- what goes wrong on the way -----------------------------------------------------------------------------------------------------


class Way(socketserver.ThreadingTCPServer):
    """A way to the registry on which *happens* is called with the number of each connection (1, 2, ...).

    It returns after how many bytes of the answer the connection is cut, None for never. *swap*: what of plain answers becomes what.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, registry: Registry, happens: t.Callable[[int], t.Optional[int]], swap: tuple[bytes, bytes] = (b"", b"")) -> None:
        super().__init__(("127.0.0.1", 0), _WayHandler)
        self.registry = registry
        self.happens = happens
        self.swap = swap
        self.connections = 0
        self.host = f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Way:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exc: t.Any) -> None:
        self.shutdown()
        self.server_close()


class _WayHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        way = t.cast(Way, self.server)
        way.connections += 1
        left = way.happens(way.connections)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", way.registry.port), timeout=30) as beyond:
            threading.Thread(target=self._forward, args=(beyond,), daemon=True).start()
            while left is None or left > 0:
                data = beyond.recv(65536).replace(*way.swap) if way.swap[0] else beyond.recv(65536)
                if not data:
                    return
                self.request.sendall(data if left is None else data[:left])
                left = None if left is None else left - len(data)

    def _forward(self, beyond: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = self.request.recv(65536)
                if not data:
                    return
                beyond.sendall(data)
