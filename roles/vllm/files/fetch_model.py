#!/usr/bin/env python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch the files of a model that vLLM loads into the hub's own cache, whole and checked, so that the engine starts without a network.

What has arrived stays: after a kill, a lost connection or a full disk, the next run goes on where this one was. huggingface_hub itself
begins a file anew (since 2.0 each try has a file of its own, which it removes), and its Xet transfer does so too. So the bytes are
received here, by plain HTTP ranges, with its session, locks and layout. Nothing is put in place before its checksum is right.

It runs in the engine's own image or venv: it needs Python 3.10 and huggingface_hub 1.0 or later. The environment says where and how:
HF_HOME, HF_ENDPOINT, and HF_TOKEN or HF_TOKEN_PATH.

    HF_HOME=/data/huggingface python3 fetch_model.py --model Qwen/Qwen3-8B --revision main

It ends with 0 when all is there, with 3 when waiting cannot mend what is wrong (gated, no such model, no room), with 1 when it may heal.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import email.utils
import errno
import fnmatch
import hashlib
import http
import json
import os
import queue
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import typing as t
from pathlib import Path
from urllib.parse import quote

# waiting cannot mend it; it may heal
FINAL, MAY_HEAL = 3, 1

TELL_EVERY_S = 5.0
RATE_OVER_S = 30.0
PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
NO_ANSWER_S = 30.0
# At once. More connections bring the hub's rate limit closer, not the end.
CONNECTIONS = 8
# Of one request: what lies before the hub may refuse to send more than 50 GB at a time.
PIECE_BYTES = 16 * 2**30
# A file in a subfolder that is no weights is taken up to this size.
SMALL_BYTES = 16 * 2**20

# --- which files -----------------------------------------------------------------------------------------------------------------------


class File(t.NamedTuple):
    """A file of a repository. ``sha256``: of files in LFS; ``blob_id``: git's name of the others."""

    path: str
    size: int
    sha256: str = ""
    blob_id: str = ""

    @property
    def blob(self) -> str:
        """Its name in blobs/, as huggingface_hub names it (the ETag)."""
        return self.sha256 or self.blob_id


# Folders that hold the same weights for another engine, or what is left of the training.
OTHER_FOLDERS = ("original", "metal", "onnx", "openvino", "coreml", "gguf", "tf", "flax", "runs", ".*", "checkpoint-*", "global_step*")
# What else of a repository an engine, its tokenizer or its processor reads.
TEXTS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.bpe", "tokenizer*", "merges*", "vocab*")
NEVER = (
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.pkl", "*.npz",
    "*.tar", "*.gz", "*.zip", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.svg", "*.pdf", "*.md", "*.py",
    "trainer_state.json", "training_args*", "optimizer*", "scheduler.*", "rng_state*",
)  # fmt: skip
# As vLLM's filter_files_not_needed_for_inference.
TRAINING_STATE = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
SAFETENSORS_ONLY = ("mistral", "safetensors", "fastsafetensors", "instanttensor")
# Layers that sentence-transformers puts behind the model.
DENSE_FOLDER = re.compile(r"\d+_\w+")


def chosen(files: t.Sequence[File], load_format: str, remote_code: bool, indexed: t.Optional[t.Collection[str]] = None) -> list[File]:
    """Return those of *files* that vLLM loads (DefaultModelLoader._prepare_weights), the weights and all that stands beside them.

    *indexed* are the files that the index of the weights names, where there is one: vLLM loads no other.
    """
    weights = set(chosen_weights([file.path for file in files], load_format, indexed))
    return [file for file in files if file.path in weights or _stands_beside(file, remote_code)]


def chosen_weights(paths: t.Sequence[str], load_format: str, indexed: t.Optional[t.Collection[str]] = None) -> list[str]:
    """Return those of *paths* that are the weights, with the layers of sentence-transformers in their subfolders."""
    top = [path for path in paths if "/" not in path]
    safetensors = _safetensors(top, load_format)
    if indexed:
        safetensors = [path for path in safetensors if path in indexed]
    bins = [path for path in fnmatch.filter(top, "*.bin") if not path.endswith(TRAINING_STATE)]
    pts = [path for path in fnmatch.filter(top, "*.pt") if not path.endswith(TRAINING_STATE)]
    if load_format == "pt":
        weights = pts
    elif load_format == "npcache":
        weights = bins
    elif load_format in SAFETENSORS_ONLY:
        weights = safetensors
    else:
        weights = safetensors or bins or pts
    return weights + _dense_layers(paths)


def _safetensors(top: t.Sequence[str], load_format: str) -> list[str]:
    """Return either the weights in the format of transformers or those in Mistral's, which many repositories have both."""
    every = fnmatch.filter(top, "*.safetensors")
    mistral = fnmatch.filter(every, "consolidated*")
    others = [path for path in every if path not in mistral]
    if load_format == "mistral":
        return mistral
    return others if fnmatch.filter(others, "model*") else mistral or others


def _dense_layers(paths: t.Sequence[str]) -> list[str]:
    found = []
    for folder in sorted({path.split("/")[0] for path in paths if path.count("/") == 1}):
        names = [f"{folder}/{name}" for name in ("model.safetensors", "pytorch_model.bin")]
        if DENSE_FOLDER.fullmatch(folder):
            found += [name for name in names if name in paths][:1]
    return found


def _stands_beside(file: File, remote_code: bool) -> bool:
    *folders, name = file.path.split("/")
    if any(fnmatch.fnmatchcase(folder, other) for folder in folders for other in OTHER_FOLDERS):
        return False
    if folders and file.size > SMALL_BYTES:
        return False
    if remote_code and name.endswith(".py"):
        return True
    return _matches(name, TEXTS) and not _matches(name, NEVER)


def _matches(name: str, patterns: t.Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def index_of(load_format: str) -> str:
    """Return the name of the index that vLLM goes by."""
    return "consolidated.safetensors.index.json" if load_format == "mistral" else "model.safetensors.index.json"


# --- what is said ----------------------------------------------------------------------------------------------------------------------


class FetchError(Exception):
    """What a person is to read, and how the program ends."""

    def __init__(self, message: str, code: int = FINAL) -> None:
        super().__init__(message)
        self.code = code


class StoppedError(Exception):
    """Another thread has failed, or a signal has come."""


class Signalled(BaseException):
    """SIGTERM."""


def say(line: str) -> None:
    """Write *line* where the log of the container is read, at once."""
    print(line, flush=True)


def size_text(count: float, unit: str = "") -> str:
    """Return *count* bytes as a person reads them: ``60.8 GiB``, or ``7.9 MiB`` where there is less than a GiB."""
    unit = unit or unit_of(count)
    return f"{count / (2**30 if unit == 'GiB' else 2**20):.1f} {unit}"


def unit_of(count: float) -> str:
    """Return the unit in which to write *count* bytes."""
    return "GiB" if count >= 2**30 else "MiB"


def time_text(seconds: float) -> str:
    """Return *seconds* as a person reads them."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Meter:
    """Lines about how much there is of *total* bytes, with the rate of the last half minute."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def line(self, what: str, have: int, now: float) -> str:
        """Return the line for *have* bytes at *now* (seconds of a monotonic clock)."""
        self._seen.append((now, have))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_OVER_S:
            self._seen.popleft()
        unit = unit_of(self.total)
        line = f"{what}: {size_text(have, unit).split()[0]} of {size_text(self.total, unit)}"
        begun, first = self._seen[0]
        if now <= begun:
            return line
        rate = max(0.0, (have - first) / (now - begun))
        line += f", {rate / 2**20:.0f} MiB/s"
        return f"{line}, {time_text((self.total - have) / rate)} left" if rate >= 2**10 and have < self.total else line


# --- where the files lie ---------------------------------------------------------------------------------------------------------------


class Store:
    """The folder of one model in the hub's cache: blobs/NAME, snapshots/COMMIT/PATH (links to blobs), refs/REVISION."""

    def __init__(self, model: str, environ: t.Mapping[str, str]) -> None:
        self.model = model
        self.home = Path(environ.get("HF_HOME") or Path.home() / ".cache/huggingface").expanduser().absolute()
        cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
        self.cache = Path(cache).expanduser().absolute() if cache else self.home / "hub"
        self.name = "models--" + model.replace("/", "--")
        self.folder = self.cache / self.name

    def blob(self, file: File) -> Path:
        """Return where *file* lies when it is whole."""
        return self.folder / "blobs" / file.blob

    def part(self, file: File) -> Path:
        """Return where *file* lies as long as it is not."""
        return self.folder / "blobs" / f"{file.blob}.llmops.incomplete"

    def pointer(self, commit: str, path: str) -> Path:
        """Return where the engine looks for *path*."""
        return self.folder / "snapshots" / commit / path

    def lock(self, file: File) -> Path:
        """Return the lock that huggingface_hub takes for *file* too."""
        return self.cache / ".locks" / self.name / f"{file.blob}.lock"

    def marker(self, revision: str) -> Path:
        """Return the file that says what was found whole."""
        return self.home / "llmops-serving" / f"{self.name}@{quote(revision, safe='')}.json"

    def found(self, commit: str, file: File) -> t.Optional[Path]:
        """Return where the whole *file* lies, right or wrong. Where links cannot be made, it lies in the snapshot itself."""
        return next((path for path in (self.blob(file), self.pointer(commit, file.path)) if path.exists()), None)

    def received(self, commit: str, file: File) -> int:
        """Return how many bytes of *file* there are."""
        with contextlib.suppress(OSError):
            return min(file.size, (self.found(commit, file) or self.part(file)).stat().st_size)
        return 0

    def point(self, commit: str, file: File) -> None:
        """Put *file* where the engine looks for it, as a link to its blob."""
        blob, pointer = self.blob(file), self.pointer(commit, file.path)
        if not blob.exists() or (pointer.exists() and pointer.samefile(blob)):
            return
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except FileExistsError:
            # Another one was faster, where a network volume ignores locks.
            pass
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            blob.replace(pointer)

    def refer(self, revision: str, commit: str) -> None:
        """Note which commit *revision* is, for whoever asks without a network."""
        path = self.folder / "refs" / revision
        if revision != commit and not (path.is_file() and path.read_text(encoding="utf-8") == commit):
            write_whole(path, commit)

    def mark(self, revision: str, commit: str, files: t.Sequence[File], load_format: str, remote_code: bool) -> None:
        """Note that *files* are there and right."""
        noted = {
            "model": self.model,
            "revision": revision,
            "commit": commit,
            "load_format": load_format,
            "remote_code": remote_code,
            "total_bytes": sum(file.size for file in files),
            "files": {file.path: file.size for file in sorted(files)},
        }
        write_whole(self.marker(revision), json.dumps(noted, indent=1) + "\n")

    def marked(self, revision: str, load_format: str, remote_code: bool) -> t.Optional[dict[str, t.Any]]:
        """Return what was noted, if it was for the same files and all of them are still there with their sizes."""
        try:
            noted = json.loads(self.marker(revision).read_text(encoding="utf-8"))
            same = noted["load_format"] == load_format and (noted["remote_code"] or not remote_code)
            sizes = {path: self.pointer(noted["commit"], path).stat().st_size for path in noted["files"]}
            return noted if same and sizes and sizes == noted["files"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def write_whole(path: Path, text: str) -> None:
    """Write *text* to *path*; whoever reads it meanwhile sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(fresh, 0o644)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def no_room(missing: int, free: int, where: str) -> str:
    """Return what to say if *missing* bytes and one in a hundred more do not fit, nothing if they do."""
    needed = missing + missing // 100
    return "" if needed <= free else f"needs {size_text(needed)} more, {where} has {size_text(free)} free"


def volume_of(path: Path) -> Path:
    """Return the mount point that *path* lies under, or *path* where that is the root."""
    at = path
    while not os.path.ismount(at):
        at = at.parent
    return path if at == at.parent else at


def existing(path: Path) -> Path:
    """Return *path* or the nearest folder above that there is."""
    while not path.exists():
        path = path.parent
    return path


# --- the hub ---------------------------------------------------------------------------------------------------------------------------


class Patience:
    """How long trouble that may heal is borne: *limit_s* in a row, without a new byte. Shared by all connections."""

    def __init__(
        self,
        limit_s: float,
        stop: threading.Event,
        first_s: float = PAUSE_S,
        tell: t.Callable[[str], None] = say,
        clock: t.Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s = limit_s
        self._stop = stop
        self._first_s = first_s
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._since: t.Optional[float] = None
        self._pause_s = first_s
        self._until = 0.0

    def wait(self, trouble: str, asked_s: float = 0.0) -> None:
        """Tell *trouble* and pause, for *asked_s* at least. Raises FetchError when it is over, StoppedError when all is."""
        with self._lock:
            now = self._clock()
            # Others that wait have told it already.
            if now >= self._until:
                self._since = now if self._since is None else self._since
                pause = max(asked_s, self._pause_s)
                if now + pause - self._since > self.limit_s:
                    longer = f" and asks to wait {time_text(asked_s)}" if asked_s > self._pause_s else ""
                    raise FetchError(f"{trouble}{longer}; {time_text(self.limit_s)} of it is borne. What has arrived is kept", MAY_HEAL)
                self._pause_s = min(2 * self._pause_s, max(LONGEST_PAUSE_S, self._first_s))
                self._until = now + pause
                self._tell(f"{trouble}; trying again in {time_text(pause)}")
            pause = self._until - now
        if self._stop.wait(pause):
            raise StoppedError

    def progress(self) -> None:
        """Note that a byte has come."""
        if self._since is not None:
            with self._lock:
                self._since, self._pause_s = None, self._first_s


def asked_pause(headers: t.Mapping[str, str], now: float) -> float:
    """Return the seconds that an answer asks to wait, 0 if it does not. *now*: seconds since 1970."""
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("ratelimit") or "")
    after = (headers.get("retry-after") or "").strip()
    if after.isdecimal():
        return float(after)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - now)
    return float(limit[1]) if limit else 0.0


def shown(url: str) -> str:
    """Return *url* without the name and password that it may carry."""
    return re.sub(r"//[^/@]*@", "//", url)


class Judge:
    """Tells of each trouble with the hub or the disk what it means."""

    def __init__(self, model: str, revision: str, endpoint: str, has_token: bool, home: Path) -> None:
        self.model = model
        self.revision = revision
        self.endpoint = endpoint
        self.has_token = has_token
        self.home = home

    def trouble(self, exc: Exception) -> tuple[str, float]:
        """Return what to say while it may heal, and the seconds that the hub asks to wait. Raises FetchError when it cannot."""
        response = getattr(exc, "response", None)
        if response is not None:
            return self._answer(response)
        kinds = {kind.__name__ for kind in type(exc).__mro__}
        words = re.sub(r"^\[[^\]]*\]\s*", "", str(exc)).strip() or type(exc).__name__
        words = words.splitlines()[0][:160].rstrip(".")
        # Of httpx, whatever the name under which huggingface_hub brings it.
        if "TransportError" in kinds:
            if "CERTIFICATE_VERIFY_FAILED" in str(exc):
                raise FetchError(f"the certificate of {self.endpoint} is not trusted here: {words}. Set SSL_CERT_FILE, or HF_ENDPOINT")
            if "UnsupportedProtocol" in kinds:
                raise FetchError(f'HF_ENDPOINT: "{self.endpoint}" is not a URL like https://huggingface.co')
            if "TimeoutException" in kinds:
                words = f"no answer within {NO_ANSWER_S:g} s"
            reached = "ConnectError" in kinds or "ConnectTimeout" in kinds or "ProxyError" in kinds
            return f"the hub cannot be reached ({words})" if reached else f"the connection to the hub broke off ({words})", 0.0
        if isinstance(exc, (ConnectionError, TimeoutError)) or "SSLError" in kinds:
            return f"the connection to the hub broke off ({words})", 0.0
        if isinstance(exc, OSError):
            raise self.disk(exc)
        if isinstance(exc, ValueError):
            raise FetchError(f"{self.endpoint} does not answer as a hub does. Is HF_ENDPOINT right, or does a proxy stand in between?")
        raise FetchError(f"{type(exc).__name__}: {words}", MAY_HEAL)

    def disk(self, exc: OSError) -> FetchError:
        """Return what trouble with the disk means."""
        where = volume_of(existing(self.home))
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return FetchError(f"{where} is full. Make room and run again: what has arrived is kept")
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return FetchError(f"cannot write to {exc.filename or self.home}: {exc.strerror}. Does the volume belong to user {os.getuid()}?")
        named = f"{exc.filename}: " if exc.filename else ""
        return FetchError(f"{named}{exc.strerror or exc}", MAY_HEAL)

    def _answer(self, response: t.Any) -> tuple[str, float]:
        status, headers = response.status_code, response.headers
        code = headers.get("X-Error-Code") or ""
        if status in (408, 429) or status >= 500:
            phrase = http.HTTPStatus(status).phrase.lower() if status in list(http.HTTPStatus) else "trouble"
            return f"the hub answers {status} ({phrase})", asked_pause(headers, time.time())
        if code == "GatedRepo":
            raise FetchError(
                f"{self.model} is gated: accept its licence at {self.endpoint}/{self.model}, then give hf_token of that account"
            )
        if code == "RevisionNotFound":
            raise FetchError(f'{self.model} has no revision "{self.revision}" at {self.endpoint}')
        if status == 404 and code == "EntryNotFound":
            raise FetchError(f"{self.endpoint} lists a file of {self.model} that it does not have")
        if status == 404 or (code == "RepoNotFound" and self.has_token):
            hint = "or hf_token may not see it" if self.has_token else "or it needs hf_token"
            raise FetchError(f"{self.endpoint} has no model {self.model}, {hint} ({status})")
        if status == 401 and self.has_token:
            raise FetchError(f"{self.endpoint} does not accept hf_token (401): it is wrong or has expired")
        if status == 401:
            raise FetchError(f"{self.endpoint} shows {self.model} to nobody without hf_token (401): it is gated, private or misspelt")
        if status == 403:
            raise FetchError(f"{self.endpoint} refuses {self.model} (403): hf_token may not read it, or the model was disabled")
        raise FetchError(f"{self.endpoint} answered {status} for {self.model}")


def read_token(environ: t.Mapping[str, str], home: Path) -> str:
    """Return the token for the hub, empty if there is none. Raises FetchError, which never shows it."""
    token, source = (environ.get("HF_TOKEN") or "").strip(), "HF_TOKEN"
    if not token:
        source = environ.get("HF_TOKEN_PATH") or str(home / "token")
        try:
            token = Path(source).expanduser().read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return ""
        except OSError as exc:
            raise FetchError(f"the token in {source} cannot be read: {exc.strerror}") from None
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise FetchError(f"the token in {source} has a blank, a line break or another character that no token has")
    return token


class Hub:
    """What is asked of the hub, by the session of huggingface_hub."""

    def __init__(self, endpoint: str, token: str) -> None:
        import huggingface_hub
        from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status, http_stream_backoff

        self.endpoint = endpoint
        self._token: t.Union[str, bool] = token or False
        self._api = huggingface_hub.HfApi(endpoint=endpoint, token=self._token)
        self._headers = {**build_hf_headers(token=self._token, library_name="llmops.serving"), "Accept-Encoding": "identity"}
        self._stream = http_stream_backoff
        self._raise_for_status = hf_raise_for_status
        self.lock: t.Callable[[str], t.ContextManager[t.Any]] = WeakFileLock

    def files(self, model: str, revision: str) -> tuple[str, list[File]]:
        """Return the commit that *revision* is, and its files."""
        info = self._api.model_info(model, revision=revision, files_metadata=True, timeout=NO_ANSWER_S)
        commit = str(info.sha or "")
        files = [
            File(entry.rfilename, entry.lfs.size, entry.lfs.sha256, entry.blob_id or "")
            if entry.lfs
            else File(entry.rfilename, entry.size if entry.size is not None else -1, "", entry.blob_id or "")
            for entry in info.siblings or []
        ]
        # A mirror may know the tree only.
        if not files or any(file.size < 0 or not file.blob for file in files):
            files = [
                File(entry.path, entry.lfs.size if entry.lfs else entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id or "")
                for entry in self._api.list_repo_tree(model, revision=commit or revision, recursive=True)
                if hasattr(entry, "blob_id")
            ]
        if not re.fullmatch(r"[0-9a-f]{40}", commit) or not all(_is_plain(file) for file in files):
            raise ValueError("not what a hub lists")
        return commit, files

    @contextlib.contextmanager
    def bytes_of(self, model: str, commit: str, file: File, start: int, end: int) -> t.Iterator[tuple[int, t.Iterator[bytes]]]:
        """Yield where the bytes begin that come, and the bytes: from *start* up to *end*, or from 0 if the hub knows no ranges."""
        headers = dict(self._headers)
        if start or end < file.size:
            headers["Range"] = f"bytes={start}-{end - 1}"
        url = f"{self.endpoint}/{model}/resolve/{commit}/{quote(file.path)}"
        with self._stream(
            "GET", url, headers=headers, timeout=NO_ANSWER_S, retry_on_exceptions=(), retry_on_status_codes=()
        ) as response:  # fmt: skip
            self._raise_for_status(response)
            yield start if response.status_code == 206 else 0, response.iter_bytes()


def _is_plain(file: File) -> bool:
    """Whether *file* can be stored under its names."""
    parts = file.path.split("/")
    return file.size >= 0 and bool(re.fullmatch(r"[0-9a-f]{40,64}", file.blob)) and not {"", ".", ".."}.intersection(parts)


# --- fetching --------------------------------------------------------------------------------------------------------------------------


class Fetch:
    """The files of one commit on their way into *store*."""

    def __init__(self, hub: Hub, store: Store, commit: str, judge: Judge, patience: Patience, stop: threading.Event) -> None:
        self.hub = hub
        self.store = store
        self.commit = commit
        self.judge = judge
        self.patience = patience
        self.stop = stop
        self.checked: dict[File, int] = {}
        self.failure: t.Optional[FetchError] = None
        self._left: queue.SimpleQueue[File] = queue.SimpleQueue()

    def all(self, files: t.Sequence[File]) -> None:
        """Fetch *files* over some connections at once, and tell how it goes. Raises FetchError."""
        # The small ones first: they show whether the hub lets us in. Then the largest.
        for file in sorted(files, key=lambda file: (file.size > SMALL_BYTES, -file.size)):
            self._left.put(file)
        threads = [threading.Thread(target=self._work, daemon=True) for _number in range(min(CONNECTIONS, len(files)))]
        total = sum(file.size for file in files)
        weights, checks = Meter(total), Meter(total)
        say(weights.line("weights", self._received(files), time.monotonic()))
        for thread in threads:
            thread.start()
        told = time.monotonic()
        while any(thread.is_alive() for thread in threads) and not self.failure:
            self.stop.wait(0.1)
            now = time.monotonic()
            if now - told >= TELL_EVERY_S:
                told = now
                received = self._received(files)
                checked = sum(self.checked.values())
                say(checks.line("checking", checked, now) if received >= total else weights.line("weights", received, now))
        if self.failure:
            raise self.failure

    def _received(self, files: t.Iterable[File]) -> int:
        return sum(self.store.received(self.commit, file) for file in files)

    def _work(self) -> None:
        try:
            while not self.stop.is_set():
                self.one(self._left.get_nowait())
        except (queue.Empty, StoppedError):
            pass
        except FetchError as exc:
            self._fail(exc)
        except OSError as exc:
            self._fail(self.judge.disk(exc))
        except Exception as exc:
            self._fail(FetchError(f"{type(exc).__name__}: {exc}", MAY_HEAL))

    def _fail(self, failure: FetchError) -> None:
        self.failure = self.failure or failure
        self.stop.set()

    def one(self, file: File) -> None:
        """Put *file* into place, whole and right. Raises FetchError, OSError or StoppedError."""
        lock = self.store.lock(file)
        lock.parent.mkdir(parents=True, exist_ok=True)
        self.store.blob(file).parent.mkdir(parents=True, exist_ok=True)
        with self.hub.lock(str(lock)):
            for again in (False, True):
                self._receive(file)
                # Another one may have put it into place meanwhile, where a network volume ignores locks.
                lies_at = self.store.found(self.commit, file) or self.store.part(file)
                wrong = self._wrong(file, lies_at)
                if not wrong:
                    if lies_at == self.store.part(file):
                        lies_at.replace(self.store.blob(file))
                    self.store.point(self.commit, file)
                    return
                lies_at.unlink(missing_ok=True)
                if not again:
                    say(f"{file.path} is wrong ({wrong}); fetching it once more")
        raise FetchError(f"{file.path} of {self.store.model} came wrong twice ({wrong}): {self.hub.endpoint} does not send what it lists")

    def _receive(self, file: File) -> None:
        """Receive what is missing of *file*."""
        while not self.store.found(self.commit, file):
            try:
                self._transfer(file)
                return
            except (StoppedError, FetchError):
                raise
            except Exception as exc:
                if getattr(getattr(exc, "response", None), "status_code", 0) == 416:
                    self.store.part(file).unlink(missing_ok=True)
                    trouble, asked_s = f"the hub does not know the end of {file.path}", 0.0
                else:
                    trouble, asked_s = self.judge.trouble(exc)
                self.patience.wait(trouble, asked_s)

    def _transfer(self, file: File) -> None:
        """Receive *file* from where it ends, each byte at its own place.

        So even two that write at once, where a network volume ignores locks, write the same bytes to the same places.
        """
        part = os.open(self.store.part(file), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            have = os.fstat(part).st_size
            if have > file.size:
                os.ftruncate(part, 0)
                have = 0
            while have < file.size:
                before = have
                with self.hub.bytes_of(self.store.model, self.commit, file, have, min(file.size, have + PIECE_BYTES)) as (at, chunks):
                    for chunk in chunks:
                        if self.stop.is_set():
                            raise StoppedError
                        at += write_at(part, chunk[: file.size - at], at)
                        if at > have:
                            have = at
                            self.patience.progress()
                        if at >= file.size:
                            break
                if have == before:
                    raise ConnectionResetError(errno.ECONNRESET, "the hub sends nothing")
            os.fsync(part)
        finally:
            os.close(part)

    def _wrong(self, file: File, path: Path) -> str:
        """Return what is wrong with *file* as it lies at *path*, nothing if it is right."""
        size = path.stat().st_size
        if size != file.size:
            return f"{size} bytes instead of {file.size}"
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self.checked[file] = 0
        with path.open("rb") as stream:
            while chunk := stream.read(4 * 2**20):
                if self.stop.is_set():
                    raise StoppedError
                digest.update(chunk)
                self.checked[file] += len(chunk)
        return "" if digest.hexdigest() == file.blob else f"its checksum is {digest.hexdigest()[:12]}..., not {file.blob[:12]}..."


def write_at(handle: int, data: bytes, offset: int) -> int:
    """Write all of *data* at *offset* and return its length."""
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done:], offset + done)
    return done


def named_by_index(text: bytes, name: str) -> set[str]:
    """Return the files that the index *name* says hold the weights. Raises FetchError."""
    try:
        return {str(file) for file in json.loads(text)["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FetchError(f"{name} of the repository is not an index of weights: vLLM could not load it") from None


# --- the program -----------------------------------------------------------------------------------------------------------------------


def fetch_model(options: argparse.Namespace, environ: t.Mapping[str, str], stop: threading.Event) -> None:
    """Do what the command line asks. Raises FetchError."""
    model, revision = options.model, options.revision
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model, re.ASCII) or "--" in model or ".." in model:
        raise FetchError(f'"{model}" is no model of a hub: it has to be owner/name')
    if not re.fullmatch(r"\w[\w.+/-]*", revision, re.ASCII) or ".." in revision:
        raise FetchError(f'"{revision}" is no revision: it has to be a branch, a tag or a commit')
    store = Store(model, environ)
    noted = store.marked(revision, options.load_format, options.remote_code)
    if noted:
        with contextlib.suppress(PermissionError):
            store.refer(revision, noted["commit"])
        say(f"the weights of {model} were fetched before, the hub is not asked")
        say(_done(model, noted["total_bytes"], len(noted["files"]), noted["commit"]))
        return

    endpoint = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    token = read_token(environ, store.home)
    judge = Judge(model, revision, shown(endpoint), bool(token), store.home)
    patience = Patience(options.retry_minutes * 60, stop, options.pause)
    try:
        hub = Hub(endpoint, token)
    except ImportError as exc:
        raise FetchError(f"huggingface_hub 1.0 or later is missing ({exc}): run this with the engine's own Python") from None
    while True:
        try:
            commit, files = hub.files(model, revision)
            break
        except Exception as exc:
            patience.wait(*judge.trouble(exc))
    patience.progress()

    fetch = Fetch(hub, store, commit, judge, patience, stop)
    index = next((file for file in files if file.path == index_of(options.load_format)), None)
    indexed: t.Optional[set[str]] = None
    if index:
        fetch.one(index)
        indexed = named_by_index((store.found(commit, index) or store.blob(index)).read_bytes(), index.path)
        lacking = sorted(indexed - {file.path for file in files if "/" not in file.path})
        if lacking:
            raise FetchError(f"{model} lacks {lacking[0]}, which its {index.path} names: vLLM would not start")
    wanted = chosen(files, options.load_format, options.remote_code, indexed)
    if not chosen_weights([file.path for file in files], options.load_format, indexed):
        raise FetchError(f"{model} has no weights that vLLM loads: neither safetensors nor *.bin or *.pt")
    missing = sum(file.size - store.received(commit, file) for file in wanted)
    usage = existing(store.cache)
    shortage = no_room(missing, shutil.disk_usage(usage).free, str(volume_of(usage)))
    if shortage:
        raise FetchError(f"{model} {shortage}")
    fetch.all(wanted)
    store.refer(revision, commit)
    store.mark(revision, commit, wanted, options.load_format, options.remote_code)
    say(_done(model, sum(file.size for file in wanted), len(wanted), commit))


def _done(model: str, total: int, count: int, commit: str) -> str:
    return f"weights of {model} are complete: {size_text(total)} in {count} files (commit {commit[:7]})"


def _signalled(_number: int, _frame: t.Any) -> None:
    raise Signalled


def main() -> int:
    """Fetch the model that is asked for, unless it is there."""
    parser = argparse.ArgumentParser(description="Fetch the files of a model that vLLM loads into the hub's cache.")
    parser.add_argument("--model", required=True, help="owner/name")
    parser.add_argument("--revision", default="main", help="branch, tag or commit")
    parser.add_argument("--load-format", default="auto", help="as of the engine; it decides which weights are taken")
    parser.add_argument("--remote-code", action="store_true", help="take the model's own Python files too")
    parser.add_argument("--title", default="", help="name of the model's row; an error begins with it")
    parser.add_argument("--retry-minutes", type=float, default=15.0, help="how long trouble is borne that may heal")
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="seconds before the first new try; each pause doubles it")
    options = parser.parse_args()
    # Before the first import of huggingface_hub. This is the one step that asks the hub, whatever the engine may.
    os.environ.update(
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_VERBOSITY="error",
        HF_HUB_OFFLINE="0",
        TRANSFORMERS_OFFLINE="0",
    )
    stop = threading.Event()
    try:
        signal.signal(signal.SIGTERM, _signalled)
        try:
            fetch_model(options, os.environ, stop)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return 0
    except Signalled:
        message, code = "ended by SIGTERM; what has arrived is kept", 143
    except KeyboardInterrupt:
        message, code = "ended by Ctrl-C; what has arrived is kept", 130
    except FetchError as exc:
        message, code = str(exc), exc.code
    except OSError as exc:
        store = Store(options.model, os.environ)
        failure = Judge(options.model, options.revision, "", False, store.home).disk(exc)
        message, code = str(failure), failure.code
    except Exception as exc:
        message, code = f"{type(exc).__name__}: {exc}".splitlines()[0], MAY_HEAL
    stop.set()
    sys.stdout.flush()
    print(f"{options.title}: {message}" if options.title else message, file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    # Threads may still wait for the hub; what they have written is kept.
    os._exit(ended)
