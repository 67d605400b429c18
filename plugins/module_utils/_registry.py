# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""A registry of images by the OCI distribution API, read only: which digest a tag names, for a platform, and how large it is.

Every manifest is hashed here, so what is returned is the digest of what was read, and not what somebody on the way says it is.
"""

from __future__ import annotations

import base64
import difflib
import functools
import hashlib
import json
import os
import re
import ssl
import time
import typing as t
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin, urlsplit

from ansible.module_utils.urls import ConnectionError as UrlsConnectionError
from ansible.module_utils.urls import Request as UrlsRequest
from ansible.module_utils.urls import make_context
from ansible_collections.llmops.serving.plugins.module_utils import _images
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

HUB_HOST = "registry-1.docker.io"
# Under these names docker login keeps what is for docker.io.
HUB_LOGINS = ("https://index.docker.io/v1/", "index.docker.io", _images.DOCKER_HUB, HUB_HOST)

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
ACCEPT = ", ".join((*INDEXES, *MANIFESTS))

REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
PASSING = (500, 502, 503, 504)
# Registries refuse manifests beyond 4 MiB.
MOST_BYTES = 8 * 2**20
MOST_PAGES = 5
NEAR_TAGS = 3
FIRST_PAUSE_S = 0.5

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_NEXT = re.compile(r'<([^>]*)>;\s*rel="?next"?')


class Login(t.NamedTuple):
    """A user of one registry."""

    username: str
    password: str


class Place(t.NamedTuple):
    """Where an image may be read. ``prefix`` stands before the image's path; ``login`` is for this host only."""

    host: str
    prefix: str
    scheme: str = ""
    login: t.Optional[Login] = None


class Answer(t.NamedTuple):
    """What a registry answered."""

    status: int
    headers: t.Any
    body: bytes = b""


class UnreachableError(Exception):
    """A registry that does not answer, or breaks off, also when asked again."""


class RefusedError(Exception):
    """A registry that answers, but does not give the image."""


class Found(t.NamedTuple):
    """An image in its registry. ``digest`` is of what the tag names: the index of an image for several platforms."""

    digest: str
    manifest_digest: str
    platform: str
    platforms: list[str]
    size_bytes: int
    media_type: str


# --- where ---------------------------------------------------------------------------------------------------------------------------


def place_of(given: str, variable: str) -> Place:
    """Return the registry that *given* names: host, port and path, perhaps behind http:// or https://. Raises ServingError."""
    scheme, separator, rest = given.rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise ServingError(f'{variable}: "{given}" is no registry. It looks like registry.example.com:5000/mirror.')
    host, _slash, prefix = rest.rstrip("/").partition("/")
    if not host or "@" in host:
        raise ServingError(f'{variable}: "{given}" is no registry. It looks like registry.example.com:5000/mirror, without a password.')
    return Place(HUB_HOST if host == _images.DOCKER_HUB else host, prefix, scheme)


def login_of(config_path: str, host: str) -> t.Optional[Login]:
    """Return who docker login has let in at *host*, by the docker config.json at *config_path*; None for nobody. Raises ServingError."""
    try:
        with open(os.path.expanduser(config_path), encoding="utf-8") as file:
            auths = json.load(file).get("auths") or {}
        names = HUB_LOGINS if host == HUB_HOST else (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/")
        entry: t.Mapping[str, t.Any] = next((auths[name] for name in names if auths.get(name)), {})
        username, colon, password = base64.b64decode(entry.get("auth") or "").decode().partition(":")
    except (OSError, ValueError, AttributeError, TypeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not what docker login writes"
        raise ServingError(f"{config_path} cannot be read: {why}. Set llm_registry_auth_file to a docker config.json.") from None
    if colon:
        return Login(username, password)
    return Login(entry["username"], entry.get("password") or "") if entry.get("username") else None


def is_loopback(host: str) -> bool:
    """Whether *host* (perhaps with a port) is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None


# --- asking --------------------------------------------------------------------------------------------------------------------------


class Registry:
    """One registry. It logs in where it is asked to, once, and is asked again where it breaks off."""

    def __init__(
        self,
        place: Place,
        ca_path: t.Optional[str] = None,
        insecure: bool = False,
        timeout_s: float = 15.0,
        retries: int = 3,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.place = place
        self.timeout_s = timeout_s
        self.retries = retries
        self.requests = 0
        self._ca_path = ca_path
        self._insecure = insecure
        self._sleep = sleep
        self._scheme = place.scheme or "https"
        self._authorization = ""
        if place.scheme == "http" and not self._may_be_plain(place.host):
            raise ServingError(f"http://{place.host} would be asked without TLS. Use https, or allow it with llm_registry_insecure: true.")

    @property
    def host(self) -> str:
        """Where it is."""
        return self.place.host

    @functools.cached_property
    def tls(self) -> t.Any:
        """The TLS context, made once: the system's certificates, and those of ca_path."""
        context = make_context()
        if self._ca_path:
            try:
                context.load_verify_locations(cafile=os.path.expanduser(self._ca_path))
            except (OSError, ssl.SSLError) as exc:
                raise ServingError(f"The certificates in {self._ca_path} cannot be used: {exc.strerror or exc}.") from exc
        return context

    def ask(self, path: str, accept: str = "*/*") -> Answer:
        """Return the answer to GET *path*, logged in where that is wanted. Raises UnreachableError."""
        why = ""
        for attempt in range(self.retries + 1):
            if attempt:
                self._sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                answer = self._ask(path, accept)
            except OSError as exc:
                why = str(exc)
                continue
            if answer.status not in PASSING:
                return answer
            why = f"it answered {answer.status}"
        times = f" ({self.retries + 1} times)" if self.retries else ""
        raise UnreachableError(f"{why}{times}")

    def _ask(self, path: str, accept: str) -> Answer:
        answer = self._get(path, accept)
        challenge = str(answer.headers.get("WWW-Authenticate") or "")
        if answer.status == 401 and challenge:
            authorization = self._answer_to(challenge)
            if authorization:
                self._authorization = authorization
                answer = self._get(path, accept)
        return answer

    def _answer_to(self, challenge: str) -> str:
        """Return the Authorization that the registry asks for, an empty text where there is none to give."""
        kind, _blank, rest = challenge.partition(" ")
        login = self.place.login
        basic = "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode() if login else ""
        if kind.lower() == "basic":
            return basic
        asked = dict(_CHALLENGE.findall(rest))
        realm = asked.get("realm", "")
        if kind.lower() != "bearer" or not realm:
            return ""
        parts = urlsplit(realm)
        if parts.scheme != "https" and not (parts.scheme == "http" and self._may_be_plain(parts.netloc)):
            raise ServingError(
                f"{self.host} wants a token from {realm}, which is not https; nothing was sent there. "
                "llm_registry_insecure: true allows it."
            )
        query = urlencode({key: asked[key] for key in ("service", "scope") if key in asked})
        answer = self._send(f"{realm}{'&' if parts.query else '?'}{query}", {"Authorization": basic} if basic else {})
        if answer.status in PASSING:
            raise OSError(f"{parts.hostname}, which gives its tokens, answered {answer.status}")
        told = _parsed(answer.body) if answer.status == 200 else None
        token = (told.get("token") or told.get("access_token")) if isinstance(told, t.Mapping) else None
        return f"Bearer {token}" if token else ""

    def _get(self, path: str, accept: str) -> Answer:
        """Return the answer after redirects. What is elsewhere must not see the Authorization."""
        own = f"{self._scheme}://{self.host}"
        url = f"{own}/v2/{path}"
        for _hop in range(MOST_REDIRECTS + 1):
            headers = {"Accept": accept}
            if self._authorization and _origin(url) == _origin(own):
                headers["Authorization"] = self._authorization
            try:
                answer = self._send(url, headers)
            except _PlainError:
                if self.place.scheme or self._scheme == "http" or not self._may_be_plain(self.host):
                    raise ServingError(
                        f"{self.host} speaks plain HTTP, in which anybody on the way can change an image. Give it a certificate, or "
                        "allow it with llm_registry_insecure: true."
                    ) from None
                self._scheme = "http"
                return self._get(path, accept)
            location = answer.headers.get("Location")
            if answer.status not in REDIRECTS or not location:
                return answer
            url = urljoin(url, location)
            parts = urlsplit(url)
            if parts.scheme != "https" and not (parts.scheme == "http" and self._may_be_plain(parts.netloc)):
                break
        raise OSError("its redirects do not end well")

    def _send(self, url: str, headers: t.Mapping[str, str]) -> Answer:
        self.requests += 1
        try:
            with UrlsRequest().open(
                "GET",
                url,
                headers={"Accept-Encoding": "identity", **headers},
                follow_redirects="none",
                use_netrc=False,
                http_agent="llmops.serving",
                timeout=self.timeout_s,
                context=self.tls,
            ) as response:
                body = bytes(response.read(MOST_BYTES))
                if response.length and len(body) < MOST_BYTES:
                    raise HTTPException("the answer broke off")
                return Answer(response.status, response.headers, body)
        except HTTPError as exc:
            return Answer(exc.code, exc.headers, _words_of(exc))
        except (OSError, ValueError, HTTPException, UrlsConnectionError) as exc:
            cause = exc.reason if isinstance(exc, URLError) else exc
            raise self._failure(url, cause) from None

    def _failure(self, url: str, cause: t.Any) -> Exception:
        """Return what a request that has failed means."""
        host = urlsplit(url).netloc
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ServingError(
                f"{host} shows a certificate that cannot be trusted: {cause.verify_message}. Set llm_registry_ca_path to the certificate "
                "of its authority."
            )
        if isinstance(cause, ssl.SSLError) and (cause.reason or "") in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            return _PlainError()
        if isinstance(cause, TimeoutError) or "timed out" in str(cause):
            return OSError(f"no answer within {self.timeout_s:g} s")
        return OSError(getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)

    def _may_be_plain(self, host: str) -> bool:
        return self._insecure or is_loopback(host)


class _PlainError(Exception):
    """A server that was asked in TLS, and speaks plain HTTP."""


# --- reading -------------------------------------------------------------------------------------------------------------------------


def resolve(registries: t.Sequence[Registry], paths: t.Sequence[str], image: _images.Reference, platform: str) -> tuple[Found, Registry]:
    """Return *image* for *platform*, and which of *registries* has given it: the first that has it. Raises ServingError.

    *paths*: what the image is called in each of them. The last is the image's own, and its word is what the user reads.
    """
    tried: list[str] = []
    for at, (registry, path) in enumerate(zip(registries, paths)):
        last = at == len(registries) - 1
        try:
            return _read(registry, path, image, platform), registry
        except UnreachableError as exc:
            words = f"{registry.host} cannot be reached: {exc}. {_if_unreachable(registry)}"
            tried.append(f"{registry.host}: {exc}")
        except RefusedError as exc:
            words = str(exc)
            tried.append(f"{registry.host}: {exc}")
        if last:
            mirrors = f" The mirrors do not have it either: {'; '.join(tried[:-1])}" if len(tried) > 1 else ""
            raise ServingError(f"{words}{mirrors}", tried=tried)
    raise ServingError("There is no registry to ask.")


def _if_unreachable(registry: Registry) -> str:
    mirror = "a mirror of it in llm_registry_mirrors" if registry.host == HUB_HOST else "another in llm_image_registry"
    return f"Try again when it is back, check name and proxy, or set {mirror}."


def _read(registry: Registry, path: str, image: _images.Reference, platform: str) -> Found:
    body, media_type, digest = _manifest(registry, path, image.digest or image.tag, image)
    told = f"{registry.host}/{path}:{image.tag}" if image.tag else f"{registry.host}/{path}"
    if media_type in INDEXES:
        entries = [(platform_text(entry.get("platform")), entry) for entry in body.get("manifests") or [] if isinstance(entry, t.Mapping)]
        entries = [(text, entry) for text, entry in entries if text and not text.startswith("unknown/")]
        chosen = next((pair for pair in entries if matches(platform, pair[0])), None)
        if chosen is None:
            raise RefusedError(_no_platform(told, platform, [text for text, _entry in entries]))
        manifest, _type, manifest_digest = _manifest(registry, path, str(chosen[1].get("digest")), image)
        return Found(digest, manifest_digest, chosen[0], [text for text, _entry in entries], _size(manifest), media_type)
    if media_type in MANIFESTS:
        found = _platform_of(registry, path, body)
        if found and not matches(platform, found):
            raise RefusedError(_no_platform(told, platform, [found]))
        return Found(digest, digest, found or platform, [found] if found else [], _size(body), media_type)
    raise RefusedError(f"{told} is {media_type or 'of no known kind'}, not an image that runtimes of today run. Ask for a newer tag.")


def _manifest(registry: Registry, path: str, wanted: str, image: _images.Reference) -> tuple[t.Mapping[str, t.Any], str, str]:
    """Return a manifest, its type, and its digest as computed here."""
    answer = registry.ask(f"{path}/manifests/{wanted}", ACCEPT)
    if answer.status != 200:
        raise RefusedError(_refusal(registry, path, wanted, image, answer))
    digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
    promised = wanted if wanted.startswith("sha256:") else answer.headers.get("Docker-Content-Digest") or digest
    if promised.startswith("sha256:") and promised != digest:
        raise ServingError(
            f"{registry.host}/{path}: what was sent is not {_images.short(promised)}, but {_images.short(digest)}. Something on the way, "
            "or in the registry, has changed it: do not use it, and look at proxies and mirrors."
        )
    body = _parsed(answer.body)
    if not isinstance(body, t.Mapping):
        raise RefusedError(
            f"{registry.host} answered for {path} with something that is no manifest. A proxy may have answered in its place."
        )
    media_type = str(body.get("mediaType") or answer.headers.get("Content-Type") or "").partition(";")[0].strip()
    return body, media_type, digest


def _platform_of(registry: Registry, path: str, manifest: t.Mapping[str, t.Any]) -> str:
    """Return the platform of an image for one platform, which its configuration tells; an empty text where it is not given."""
    config = manifest.get("config")
    answer = registry.ask(f"{path}/blobs/{config.get('digest')}") if isinstance(config, t.Mapping) else None
    told = _parsed(answer.body) if answer and answer.status == 200 else None
    return platform_text(told)


def _size(manifest: t.Mapping[str, t.Any]) -> int:
    parts = [manifest.get("config"), *(manifest.get("layers") or [])]
    return sum(int(part.get("size") or 0) for part in parts if isinstance(part, t.Mapping))


def platform_text(platform: t.Any) -> str:
    """Return ``os/architecture/variant`` of a manifest's platform or an image's configuration; an empty text for none."""
    if not isinstance(platform, t.Mapping) or not platform.get("os") or not platform.get("architecture"):
        return ""
    return "/".join(str(platform[key]) for key in ("os", "architecture", "variant") if platform.get(key))


def matches(wanted: str, found: str) -> bool:
    """Whether *found* is the platform that is *wanted*. A variant counts where one is asked for."""
    asked, there = wanted.split("/"), found.split("/")
    return asked == there[: len(asked)]


def _no_platform(told: str, platform: str, platforms: t.Sequence[str]) -> str:
    there = ", ".join(platforms) or "nothing that it names"
    return f"{told} is not made for {platform}, only for {there}. Set llm_image_platform to one of these."


def _refusal(registry: Registry, path: str, wanted: str, image: _images.Reference, answer: Answer) -> str:
    """Return what an answer other than 200 means."""
    host, status, login = registry.host, answer.status, registry.place.login
    codes = _codes(answer.body)
    if status == 404 and wanted.startswith("sha256:"):
        return f"{host} has no {path}@{_images.short(wanted)} (any more). Pin another one: make update-images."
    if status == 404 and "NAME_UNKNOWN" not in codes:
        near = _near_tags(registry, path, wanted)
        return (
            f"{host}/{path} has no tag {wanted}. {near}"
            if near
            else f"{host} has no {path}:{wanted}. Check the spelling of name and tag, and llm_image_registry."
        )
    if status == 404:
        return f"{host} has no repository {path}. Check the spelling, and llm_image_registry."
    if status in (401, 403) and login:
        return f"{host} does not let {login.username} read {path}: the password is wrong, or the account may not."
    if status in (401, 403):
        return (
            f"{host} lets nobody read {path} without a login, or has no such image. Check the spelling; a login is llm_registry_username "
            "and llm_registry_password, or llm_registry_auth_file."
        )
    if status == 429:
        return f"{host} answers 429, too many requests. Log in (llm_registry_username), ask a mirror (llm_registry_mirrors), or wait."
    return f"{host} answered {status} for {path}. Try again later, or ask a mirror (llm_registry_mirrors)."


def _codes(body: bytes) -> list[str]:
    told = _parsed(body)
    errors = told.get("errors") if isinstance(told, t.Mapping) else None
    return [str(error.get("code")) for error in errors or [] if isinstance(error, t.Mapping)] if isinstance(errors, list) else []


def _near_tags(registry: Registry, path: str, tag: str) -> str:
    """Return which tags there are that look like *tag*, in words; an empty text where the registry does not tell."""
    tags: list[str] = []
    query = f"{path}/tags/list?n=1000"
    for _page in range(MOST_PAGES):
        try:
            answer = registry.ask(query)
        except UnreachableError:
            break
        told = _parsed(answer.body) if answer.status == 200 else None
        tags += [str(name) for name in (told.get("tags") if isinstance(told, t.Mapping) else None) or []]
        more = _NEXT.search(str(answer.headers.get("Link") or ""))
        if not more:
            break
        query = more[1].partition("/v2/")[2]
    near = difflib.get_close_matches(tag, tags, n=NEAR_TAGS, cutoff=0.5) or sorted(tags)[-NEAR_TAGS:]
    return f"Near it: {', '.join(near)}." if near else ""


def _origin(url: str) -> tuple[str, t.Optional[str], t.Optional[int]]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _words_of(refusal: HTTPError) -> bytes:
    """Return the body of an answer that is no success, as far as it has come."""
    try:
        with refusal:
            return bytes(refusal.read(MOST_BYTES))
    except (OSError, HTTPException):
        return b""


def _parsed(text: bytes) -> t.Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
