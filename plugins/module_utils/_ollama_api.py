# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Ollama's own API: which models it has, how one is pulled, and how much of it is on a GPU.

Source of the shapes: https://docs.ollama.com/api, and server/ of https://github.com/ollama/ollama.
Partner: plugins/modules/ollama_model.py.
"""

from __future__ import annotations

import re
import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._openai import OpenAIClient, OpenAIError
from ansible_collections.llmops.serving.plugins.module_utils._wait import NotYetError, Waiter

GIB = 2**30
PAUSE_S = 2.0
# So many pulls in a row that end early, and bring nothing, are one too many.
FRUITLESS = 5
# So often a model is loaded again that did not fit beside memory which is about to come back.
LOADS = 3
SETTLE_S = 10.0

# What Ollama says of a pull that no other try mends, and what to do. The words are those of its server/images.go and download.go.
_HOPELESS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"file does not exist|manifest unknown|\b404\b|invalid model name|not found"),
        "the library has no such model",
        "Look for its name and tag at https://ollama.com/library",
    ),
    (
        re.compile(r"newer version of Ollama|\b412\b"),
        "the model wants a newer Ollama",
        "Set ollama_image to a newer version; on a host without containers, ollama_archive",
    ),
    (
        re.compile(r"no space left|disk quota"),
        "the volume is full",
        "Set a greater ollama_storage_size, make room on a host's disk, or remove models: ollama rm NAME",
    ),
    (
        re.compile(r"unauthorized|\b401\b|\b403\b|access denied", re.IGNORECASE),
        "the registry refuses it",
        "Give a model that may be pulled without signing in",
    ),
    (
        re.compile(r"permission denied|read-only file system"),
        "its folder cannot be written",
        "Set ollama_volume_permissions: true where the volume belongs to root; on a host, give the folder to the server's user",
    ),
)

Tell = t.Callable[[str, str], None]


class Model(t.NamedTuple):
    """A model that Ollama has: its name with the tag, the digest of its manifest, its size in bytes."""

    name: str
    digest: str
    size: int


class Loaded(t.NamedTuple):
    """A model in memory: *size* bytes in all, *size_vram* of them on GPUs, room for *context_length* tokens (0: not told)."""

    name: str
    size: int
    size_vram: int
    context_length: int

    @property
    def gpu_share(self) -> float:
        """The part of it that is on GPUs."""
        return self.size_vram / self.size if self.size else 0.0


def tagged(name: str) -> str:
    """Return *name* as Ollama lists it, with its tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def parse_tags(document: t.Mapping[str, t.Any]) -> list[Model]:
    """Return the models of the reply to ``GET /api/tags``."""
    found = []
    for entry in document.get("models") or []:
        name = entry.get("name") or entry.get("model") if isinstance(entry, dict) else None
        if name:
            digest = str(entry.get("digest") or "").rpartition(":")[2]
            found.append(Model(str(name), digest, int(entry.get("size") or 0)))
    return found


def parse_loaded(document: t.Mapping[str, t.Any]) -> list[Loaded]:
    """Return the models of the reply to ``GET /api/ps``."""
    found = []
    for entry in document.get("models") or []:
        name = entry.get("name") or entry.get("model") if isinstance(entry, dict) else None
        if name:
            numbers = (int(entry.get(key) or 0) for key in ("size", "size_vram", "context_length"))
            found.append(Loaded(str(name), *numbers))
    return found


class Pull:
    """How far a pull has come, by the lines that Ollama writes of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = False
        self.error = ""
        self.status = "pull"
        self._parts: dict[str, tuple[int, int]] = {}

    def hear(self, line: t.Mapping[str, t.Any]) -> None:
        """Take one line."""
        self.error = str(line.get("error") or self.error)
        self.status = str(line.get("status") or self.status)
        self.done = self.status == "success" and not self.error
        if line.get("digest") and line.get("total"):
            self._parts[str(line["digest"])] = (int(line.get("completed") or 0), int(line["total"]))

    @property
    def completed(self) -> int:
        """Bytes that are there."""
        return sum(completed for completed, _total in self._parts.values())

    @property
    def text(self) -> str:
        """What a person is told."""
        total = sum(total for _completed, total in self._parts.values())
        if total and self.completed < total:
            return f"{self.name}: {_size(self.completed)} of {_size(total)} pulled"
        return f"{self.name}: {self.status}"

    @property
    def phase(self) -> str:
        """A word that changes when something else begins."""
        return self.status.partition(" ")[0]


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def why_hopeless(error: str) -> str:
    """Return why no other try mends a pull that ended with *error*, and what to do; empty where one may."""
    for pattern, what, advice in _HOPELESS:
        if pattern.search(error):
            return f"{what}. {advice}."
    return ""


class Ollama:
    """One Ollama behind *client*, whose time for one request is set here. *tell* gets a phase and a text for people."""

    def __init__(
        self,
        client: OpenAIClient,
        tell: Tell = lambda _phase, _text: None,
        now: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.client = client
        self._tell = tell
        self._now = now
        self._sleep = sleep

    def find(self, name: str) -> t.Optional[Model]:
        """Return the model *name*, None where Ollama has none. Raises OpenAIError."""
        wanted = tagged(name)
        return next((model for model in parse_tags(self.client.get("/api/tags")) if model.name == wanted), None)

    def loaded(self, name: str) -> t.Optional[Loaded]:
        """Return the model *name* where it is in memory. Raises OpenAIError."""
        wanted = tagged(name)
        return next((model for model in parse_loaded(self.client.get("/api/ps")) if model.name == wanted), None)

    def pull(self, name: str, timeout_s: float) -> None:
        """Pull *name*, and go on where it was interrupted as often as that helps. Raises ServingError."""
        waiter = Waiter(timeout_s, PAUSE_S, self._now, self._sleep)
        begun, most, fruitless = self._now(), 0, 0
        last = Pull(name)

        def attempt(_lap: t.Any) -> bool:
            nonlocal last, most, fruitless
            last = Pull(name)
            try:
                self.client.timeout_s = max(1.0, timeout_s - (self._now() - begun))
                for line in self.client.json_lines("/api/pull", {"model": name, "stream": True}):
                    last.hear(line)
                    self._tell(last.phase, last.text)
                    if last.error:
                        break
            except OpenAIError as exc:
                if exc.status and exc.status < 500 and exc.status not in (408, 429):
                    raise ServingError(f"{name} cannot be pulled: {exc}") from exc
                last.error = str(exc)
            if last.done:
                return True
            last.error = last.error or "the pull ended before it was done"
            hopeless = why_hopeless(last.error)
            if hopeless:
                raise ServingError(f"{name} cannot be pulled: {hopeless} Ollama says: {last.error}")
            fruitless = 0 if last.completed > most else fruitless + 1
            most = max(most, last.completed)
            if fruitless >= FRUITLESS:
                raise ServingError(
                    f"{name} cannot be pulled: {FRUITLESS} tries in a row brought nothing, the last ended with: {last.error} Where Ollama "
                    "reaches the internet by a proxy, set HTTPS_PROXY in ollama_extra_env. What is there stays: run again."
                )
            self._tell("again", f"{name}: the pull broke off, goes on ({last.error})")
            raise NotYetError(last.error)

        if waiter.until(attempt) is None:
            raise ServingError(
                f"{name} was not pulled within {timeout_s:g} s; {_size(last.completed)} are there and stay. Run again, it goes on. "
                f"Last: {waiter.last_error}"
            )

    def copy(self, name: str, alias: str) -> None:
        """Let Ollama serve *name* as *alias*, too. Raises OpenAIError."""
        self.client.call("/api/copy", {"source": name, "destination": alias})

    def load(self, name: str, timeout_s: float, gpu: bool) -> Loaded:
        """Return *name* as it is in memory, loaded first if need be.

        With *gpu*, a model that comes onto GPUs in part only is loaded anew a few times: memory of what has just ended comes back later.
        Raises ServingError when it cannot be loaded.
        """
        found = self.loaded(name)
        if found is not None:
            return found
        for attempt in range(LOADS):
            if attempt:
                self._generate(name, timeout_s, keep_alive=0)
                self._sleep(SETTLE_S)
            self._tell("load", f"{name}: loads")
            self._generate(name, timeout_s)
            found = self.loaded(name)
            if found is None or not gpu or found.gpu_share >= 1:
                break
            self._tell("part", f"{name}: {found.gpu_share:.0%} of it is on the GPU")
        if found is None:
            raise ServingError(f"Ollama says that {name} is loaded, but lists it nowhere in /api/ps. See its log.")
        return found

    def _generate(self, name: str, timeout_s: float, **extra: t.Any) -> None:
        """Load *name*, or with keep_alive 0 unload it: a request without a prompt does that and no more."""
        self.client.timeout_s = timeout_s
        try:
            self.client.post("/api/generate", {"model": name, "stream": False, **extra})
        except OpenAIError as exc:
            raise ServingError(f"{name} cannot be loaded: {exc}") from exc
