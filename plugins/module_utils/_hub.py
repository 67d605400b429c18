# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The facts of a model that the table lacks, out of its own files: config.json, and the size of its weights.

Nothing large is read: the index of the weights tells their size, or the length of the one file does. The files come from a Hugging Face
hub, from a mirror of it that may know no more than its ``/resolve/`` URLs, or from a folder. ``_model_config`` says what a config means.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
import re
import typing as t
import zlib
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit

from ansible.module_utils.urls import ConnectionError as UrlsConnectionError
from ansible.module_utils.urls import Request as UrlsRequest
from ansible.module_utils.urls import make_context
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._model_config import Row, number, row_from_config, whole

HUB = "https://huggingface.co"

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
# The index of a model of 671 billion parameters has 9 MB.
MOST_BYTES = 64 * 2**20

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)

# -- files -------------------------------------------------------------------------------------------------------------


class Reading(t.NamedTuple):
    """What was read. ``source``: the URL of config.json, or the folder."""

    row: Row
    source: str
    notes: list[str]


class Weights(t.NamedTuple):
    """What is known of the weights; ``why`` they are not known otherwise."""

    size_bytes: t.Optional[int] = None
    parameters: t.Optional[int] = None
    why: str = ""


def loaded_files(names: t.Iterable[str]) -> list[str]:
    """Return those of *names* that vLLM loads of a repository without an index (DefaultModelLoader._prepare_weights)."""
    top = _safetensors(names)
    return fnmatch.filter(top, "consolidated*") or top


def _safetensors(names: t.Iterable[str]) -> list[str]:
    return [name for name in names if "/" not in name and name.endswith(".safetensors")]


def index_size(index: t.Any) -> t.Optional[int]:
    """Return the size that an index of safetensors tells; None where its files are not those that vLLM loads."""
    if not isinstance(index, t.Mapping):
        return None
    files, metadata = index.get("weight_map"), index.get("metadata")
    if not isinstance(files, t.Mapping) or not files or set(files.values()) != set(_safetensors(map(str, files.values()))):
        return None
    size = number(metadata.get("total_size")) if isinstance(metadata, t.Mapping) else None
    return int(size) if size else None


def _reading(title: str, source: str, config: t.Any, weights: Weights) -> Reading:
    if not isinstance(config, t.Mapping):
        raise ServingError(f"{title}: {source} is not a JSON object. A mirror or a proxy may have answered with a page of its own.")
    notes = [f"weights_gib is left out: {weights.why}."] if weights.why else []
    return Reading(row_from_config(config, weights.size_bytes, weights.parameters, notes), source, notes)


def _parsed(text: t.Union[str, bytes]) -> t.Any:
    """Return *text* parsed as JSON, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _add_by_hand(title: str) -> str:
    return f"add the facts to vllm_model_configs.{title} (see its card), or waive the check with vllm_fit_check: false"


def _no_safetensors(names: t.Iterable[str], where: str) -> str:
    others = sorted({os.path.splitext(name)[1] for name in names} & {".bin", ".gguf", ".pt", ".pth", ".msgpack", ".h5", ".onnx"})
    return f"{where} has no safetensors, only {' and '.join(others)}" if others else f"{where} has no safetensors"


def read_folder(folder: str, title: str) -> Reading:
    """Return the facts of the model in *folder*. Raises ServingError."""
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            config = _parsed(file.read())
        weights = _weights_of_folder(folder, sorted(os.listdir(folder)), title)
    except OSError as exc:
        raise ServingError(
            f"{title}: {exc.filename or path} cannot be read: {exc.strerror}. "
            f"Set vllm_model_configs.{title}.model to the folder that holds config.json and the weights; or {_add_by_hand(title)}."
        ) from exc
    return _reading(title, path if config is None else folder, config, weights)


def _weights_of_folder(folder: str, names: t.Sequence[str], title: str) -> Weights:
    files = loaded_files(names)
    if INDEX in names and not fnmatch.filter(files, "consolidated*"):
        with open(os.path.join(folder, INDEX), encoding="utf-8", errors="replace") as file:
            index = _parsed(file.read())
        listed = index.get("weight_map") if isinstance(index, t.Mapping) else None
        wanted = {str(name) for name in listed.values()} if isinstance(listed, t.Mapping) else set()
        missing = sorted(wanted - set(names))
        if missing:
            raise ServingError(f"{title}: {folder} lacks {missing[0]}, which its {INDEX} names: vLLM would not start. Copy the model anew.")
        files = [name for name in files if name in wanted] or files
    if not files:
        return Weights(why=_no_safetensors(names, "the folder"))
    return Weights(sum(os.path.getsize(os.path.join(folder, name)) for name in files))


# -- the hub -----------------------------------------------------------------------------------------------------------


class Answer(t.NamedTuple):
    """What the hub answered."""

    status: int
    headers: t.Any
    body: bytes = b""


class Hub:
    """A Hugging Face hub or a mirror of it, and the token for it.

    Redirects are followed here rather than by the client: a repository that was renamed redirects within the hub, which has to see the
    token again, while its files may lie on another host, which must not.
    """

    def __init__(self, endpoint: str, token: t.Optional[str] = None, timeout_s: float = 15.0) -> None:
        self.endpoint = endpoint.rstrip("/")
        if not _is_http(self.endpoint):
            raise ServingError(f'vllm_hf_endpoint: "{_shown(endpoint)}" is not a URL like https://huggingface.co.')
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise ServingError(
                "hf_token has a blank, a line break or another character that an HTTP header cannot carry. Store it without."
            )
        self.timeout_s = timeout_s
        self.requests = 0
        self._token = token

    @property
    def has_token(self) -> bool:
        """Whether it is asked with a token."""
        return bool(self._token)

    @functools.cached_property
    def tls(self) -> t.Any:
        """The TLS context, made once."""
        return make_context()

    def ask(self, method: str, path: str) -> Answer:
        """Return the answer to *method* *path* after redirects, of a HEAD to the first that tells the size of the file. Raises OSError."""
        url = self.endpoint + path
        for _hop in range(MOST_REDIRECTS + 1):
            answer = self._send(method, url)
            location = answer.headers.get("Location")
            is_told = method == "HEAD" and answer.headers.get("X-Linked-Size")
            if answer.status not in REDIRECTS or not location or is_told:
                return answer
            url = urljoin(url, location)
            if not _is_http(url):
                break
        raise OSError(f"its redirects do not end well, the last leads to {urlsplit(url).hostname or 'nowhere'}")

    def _send(self, method: str, url: str) -> Answer:
        self.requests += 1
        # a compressed answer would have another length than the file
        headers = {"Accept-Encoding": "gzip" if method == "GET" else "identity"}
        if self._token and _origin(url) == _origin(self.endpoint):
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            with UrlsRequest().open(
                method,
                url,
                headers=headers,
                follow_redirects="none",
                use_netrc=False,
                decompress=False,
                http_agent="llmops.serving",
                timeout=self.timeout_s,
                context=self.tls,
            ) as response:
                return Answer(response.status, response.headers, b"" if method == "HEAD" else _body(response))
        except HTTPError as exc:
            with exc:
                return Answer(exc.code, exc.headers)
        except (OSError, ValueError, HTTPException, UrlsConnectionError, zlib.error) as exc:
            cause = exc.reason if isinstance(exc, URLError) else exc
            late = isinstance(cause, TimeoutError) or "timed out" in str(cause)
            words = (
                f"no answer within {self.timeout_s:g} s" if late else getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            )
            raise OSError(words) from None


def _body(response: t.Any) -> bytes:
    """Return the whole body of *response*, as far as it is worth reading."""
    data = bytes(response.read(MOST_BYTES))
    if response.length and len(data) < MOST_BYTES:
        raise HTTPException("the answer broke off")
    if response.headers.get("Content-Encoding", "").lower() == "gzip":
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(data, MOST_BYTES)
    return data


def read_hub(hub: Hub, model: str, revision: str, title: str) -> Reading:
    """Return the facts of *model* on *hub*. Raises ServingError."""
    if not _HUB_ID.fullmatch(model):
        raise ServingError(
            f'{title}: vllm_model_configs.{title}.model: "{model}" is neither a Hugging Face id (owner/name) nor an absolute path.'
        )
    try:
        return _read_hub(hub, model, revision, title)
    except OSError as exc:
        raise ServingError(
            f"{title}: {_shown(hub.endpoint)} cannot be reached, so the facts of {model} cannot be read: {exc}. "
            f"The catalog's models need no hub. Set a mirror in vllm_hf_endpoint; or {_add_by_hand(title)}."
        ) from exc


def _read_hub(hub: Hub, model: str, revision: str, title: str) -> Reading:
    files = f"/{model}/resolve/{quote(revision, safe='')}"
    source = f"{_shown(hub.endpoint)}{files}/config.json"
    answer = hub.ask("GET", f"{files}/config.json")
    if answer.status != 200:
        raise _refusal(answer, hub, model, revision, title)
    config = _parsed(answer.body)
    if not isinstance(config, t.Mapping):
        return _reading(title, source, config, Weights())
    index = hub.ask("GET", f"{files}/{INDEX}")
    if index.status not in (200, 404):
        raise _refusal(index, hub, model, revision, title)
    size = index_size(_parsed(index.body)) if index.status == 200 else None
    weights = Weights(size) if size else _weights_of_hub(hub, model, revision, files, has_index=index.status == 200)
    return _reading(title, source, config, weights)


def _weights_of_hub(hub: Hub, model: str, revision: str, files: str, has_index: bool) -> Weights:
    """Return what there is to know of weights without a usable index."""
    if not has_index:
        size = _size(hub.ask("HEAD", f"{files}/{SINGLE}"))
        if size:
            return Weights(size)
    answer = hub.ask("GET", f"/api/models/{model}/revision/{quote(revision, safe='')}?blobs=true")
    info = _parsed(answer.body) if answer.status == 200 else None
    siblings = info.get("siblings") if isinstance(info, t.Mapping) else None
    if not isinstance(info, t.Mapping) or not isinstance(siblings, list):
        told = f"{INDEX} does not tell it" if has_index else f"{_shown(hub.endpoint)} has neither {INDEX} nor {SINGLE}"
        return Weights(why=f"{told}, and the hub does not list its files")
    sizes = {str(file.get("rfilename")): whole(file, "size") for file in siblings if isinstance(file, t.Mapping)}
    loaded = [sizes[name] or 0 for name in loaded_files(sizes)]
    if not loaded:
        return Weights(why=_no_safetensors(sizes, "the repository"))
    if not all(loaded):
        return Weights(why=f"{_shown(hub.endpoint)} does not tell the sizes of its files")
    counted = info.get("safetensors")
    return Weights(sum(loaded), whole(counted, "total") if isinstance(counted, t.Mapping) else None)


def _size(answer: Answer) -> t.Optional[int]:
    """Return the size of the file that was asked for: as the hub tells it of a file elsewhere, or as its length."""
    told = answer.headers.get("X-Linked-Size") or (answer.headers.get("Content-Length") if answer.status == 200 else None)
    return int(told) if told and told.isdecimal() else None


def _refusal(answer: Answer, hub: Hub, model: str, revision: str, title: str) -> ServingError:
    """Return what an answer other than 200 means. The hub answers 401 to strangers also for what does not exist."""
    code = answer.headers.get("X-Error-Code", "")
    status, where = answer.status, _shown(hub.endpoint)
    spelling = f"Check the spelling of vllm_model_configs.{title}.model (owner/name; case counts)"
    if code == "RevisionNotFound":
        found = f'{model} has no revision "{revision}". Set vllm_model_configs.{title}.revision to a branch, tag or commit of it'
    elif code == "EntryNotFound":
        found = f"{model} has no config.json, so it is not in the format of transformers. If vLLM can serve it: {_add_by_hand(title)}"
    elif status == 404 or (code == "RepoNotFound" and hub.has_token):
        found = f"{where} has no model {model}, or the token in hf_token may not see it. {spelling}"
        if not hub.has_token:
            found = f"{where} has no model {model}. {spelling}; a private model needs hf_token"
    elif status == 401 and hub.has_token:
        found = f"{where} does not accept the token in hf_token: it is wrong or has expired. Make a new one with read access"
    elif status == 401 and code == "GatedRepo":
        found = f"{model} is gated, and there is no token. Accept its licence at {where}/{model}, then set hf_token or export HF_TOKEN"
    elif status == 401:
        found = f"{where} shows {model} to nobody without a token: it is gated, private, or misspelt. {spelling}, and set hf_token"
    elif status == 403:
        found = (
            f"the token in hf_token has no access to {model}. Accept its licence at {where}/{model} with the same account; "
            "a fine-grained token also has to allow reading gated repositories"
        )
        if not hub.has_token:
            found = f"{where} refuses {model} (403). Set hf_token, or check the mirror in vllm_hf_endpoint"
    elif status == 429:
        found = f"{where} answers 429, too many requests from this address. Set hf_token, or try again in some minutes"
    else:
        found = f"{where} answered {status} for {model}. Try again later, or set a mirror in vllm_hf_endpoint; or {_add_by_hand(title)}"
    return ServingError(f"{title}: {found}.")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, t.Optional[str], t.Optional[int]]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _shown(url: str) -> str:
    """Return *url* without the name and password that it may carry."""
    return re.sub(r"//[^/@]*@", "//", url.rstrip("/"))
