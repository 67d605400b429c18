# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What a waiter sees of a cluster: lists of objects and logs that keep themselves up to date, and a bell for whoever waits.

``Live`` watches and follows in the background. ``Still`` has the same methods, asks anew each time, and starts nothing: for a single
look, and for tests.
"""

from __future__ import annotations

import collections
import functools
import threading
import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._diagnosis import Surroundings
from ansible_collections.llmops.serving.plugins.module_utils._kube import PAGE_SIZE, Kube, KubeError, Object, _http_error

# A watch is begun anew so often, with a new list, so that a connection that died silently is noticed.
WATCH_S = 30
POLL_S = 2.0
RETRY_S = 1.0
FIRST_LIST_S = 90.0
# What arrives so soon after a change is looked at together with it.
TOGETHER_S = 0.05
# vLLM writes little while it loads; a follow that hears nothing so long is begun anew.
SILENCE_S = 120.0
LOG_LINES = 300


class Collection:
    """The objects under one path, listed once and then watched. ``wake`` is set at each change, also of ``error``.

    ``start`` does that in a thread of its own. The API server may go away and come back: then it is listed anew. Where watching is not
    permitted, it is listed every two seconds.
    """

    def __init__(
        self,
        kube: Kube,
        path: str,
        label_selector: str = "",
        field_selector: str = "",
        wake: t.Optional[threading.Event] = None,
        now: t.Callable[[], float] = time.monotonic,
    ) -> None:
        self.kube = kube
        self.path = path
        self.label_selector = label_selector
        self.field_selector = field_selector
        self.wake = wake or threading.Event()
        self._now = now
        self._objects: dict[tuple[str, str], Object] = {}
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._over = threading.Event()
        self._watchable = True
        self._failure: t.Optional[KubeError] = None
        self._away_since: t.Optional[float] = None

    def start(self) -> Collection:
        """Keep it up to date in the background, until ``stop``."""
        threading.Thread(target=self._run, name=f"watch {self.path}", daemon=True).start()
        return self

    def stop(self) -> None:
        """Let the thread end with the next thing that it hears; nobody waits for it."""
        self._over.set()

    def items(self) -> list[Object]:
        """Return the objects as they are now, waiting for the first list. Raises KubeError while the API server is away or refuses."""
        if not self._answered.wait(FIRST_LIST_S):
            raise KubeError(f"The Kubernetes API did not answer within {FIRST_LIST_S:g} s.")
        with self._lock:
            if self._failure is not None:
                raise KubeError(str(self._failure), self._failure.status, self._failure.reason)
            return list(self._objects.values())

    @property
    def error(self) -> str:
        """Why the objects are not up to date, and since when; empty while they are."""
        with self._lock:
            if self._failure is None or self._away_since is None:
                return ""
            return f"{str(self._failure).rstrip('.')} (for {self._now() - self._away_since:.0f} s)"

    def cycle(self) -> float:
        """List, then watch until the stream ends. Return after how many seconds to do so again. Raises nothing."""
        try:
            version = self._list()
        except KubeError as exc:
            return self._failed(exc)
        except (OSError, ValueError) as exc:
            return self._failed(KubeError(f"The Kubernetes API broke off: {exc}."))
        if not self._watchable:
            return POLL_S
        began = self._now()
        try:
            for kind, changed in self.kube.watch(self.path, self.label_selector, self.field_selector, version, WATCH_S):
                if self._over.is_set():
                    return 0.0
                if kind == "ERROR":
                    break  # most often 410: the version is too old by now, which a new list mends
                if kind in ("ADDED", "MODIFIED", "DELETED"):
                    self._change(kind, changed)
        except KubeError as exc:
            if exc.status in (403, 405):
                self._watchable = False
                return POLL_S
            return RETRY_S  # the next list tells whether the API server is away
        except (OSError, ValueError):
            return RETRY_S
        # whoever ends each stream at once must not be asked without a pause
        return 0.0 if self._now() - began >= RETRY_S else RETRY_S

    def _run(self) -> None:
        while not self._over.is_set():
            self._over.wait(self.cycle())

    def _list(self) -> str:
        """Take in all objects, and return the version from which on to watch."""
        found: list[Object] = []
        token: t.Optional[str] = None
        while True:
            query = {
                "limit": PAGE_SIZE,
                "labelSelector": self.label_selector,
                "fieldSelector": self.field_selector,
                "continue": token,
            }
            page = self.kube.call("GET", self.path, query=query)
            found += page.get("items") or []
            metadata = page.get("metadata") or {}
            token = metadata.get("continue")
            if not token:
                break
        objects = {_name(item): item for item in found}
        with self._lock:
            changed = objects != self._objects or self._failure is not None or not self._answered.is_set()
            self._objects, self._failure, self._away_since = objects, None, None
        self._answered.set()
        if changed:
            self.wake.set()
        return str(metadata.get("resourceVersion") or "")

    def _change(self, kind: str, changed: Object) -> None:
        with self._lock:
            if kind == "DELETED":
                self._objects.pop(_name(changed), None)
            else:
                self._objects[_name(changed)] = changed
        self.wake.set()

    def _failed(self, failure: KubeError) -> float:
        with self._lock:
            self._failure = failure
            if self._away_since is None:
                self._away_since = self._now()
        self._answered.set()
        self.wake.set()
        return RETRY_S


def _name(item: Object) -> tuple[str, str]:
    return str(item["metadata"].get("namespace")), str(item["metadata"]["name"])


def follow_logs(kube: Kube, namespace: str, pod: str, container: str = "", tail_lines: int = LOG_LINES) -> t.Iterator[str]:
    """Yield the last lines of a container's log, then each new one as it is written, until the container ends or the stream breaks off.

    A container without a log yields nothing. Raises KubeError when the API server cannot be reached.
    """
    query = {"container": container, "follow": "true", "tailLines": tail_lines}
    response = kube.request("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query=query, read_timeout_s=SILENCE_S)
    if response.status != 200:
        response.read()
        return
    rest = b""
    try:
        for chunk in response.response.stream(amt=None, decode_content=True):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace").rstrip("\r")
        if rest:
            yield rest.decode("utf-8", "replace")
    except _http_error():
        return
    finally:
        response.response.close()


class FollowedLog:
    """The end of one container's log, kept up to date. *heard* is called with each line that is new, in the thread that follows."""

    def __init__(self, follow: t.Callable[[], t.Iterator[str]], heard: t.Callable[[str], None] = lambda line: None) -> None:
        self._follow = follow
        self._heard = heard
        self._lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._over = threading.Event()

    def start(self) -> FollowedLog:
        """Follow in the background, until ``stop``."""
        threading.Thread(target=self._run, name="log", daemon=True).start()
        return self

    def stop(self) -> None:
        """Let the thread end with the next line."""
        self._over.set()

    def text(self) -> str:
        """Return what has been heard, without a container's earlier runs."""
        return "\n".join(self._lines.copy())

    def cycle(self) -> None:
        """Follow once, until the stream ends. Raises nothing that the API server is to blame for."""
        try:
            for number, line in enumerate(self._follow()):
                if number == 0:
                    self._lines.clear()  # it begins with the last lines again
                self._lines.append(line)
                self._heard(line)
                if self._over.is_set():
                    return
        except (KubeError, OSError):
            return

    def _run(self) -> None:
        while not self._over.is_set():
            self.cycle()
            self._over.wait(RETRY_S)


class Items(t.Protocol):
    """Objects as they are now."""

    def items(self) -> list[Object]:
        """Return them. Raises KubeError."""


class Live:
    """A cluster that is watched. ``pause`` ends early when something has changed.

    *notable* tells which lines of a log are worth a look.
    """

    def __init__(self, kube: t.Callable[[], Kube], notable: t.Callable[[str], object] = bool) -> None:
        self.wake = threading.Event()
        self._kube = kube
        self._notable = notable
        self._collections: list[Collection] = []
        self._logs: dict[tuple[str, str, str], tuple[object, FollowedLog]] = {}

    def collection(self, path: str, label_selector: str = "", field_selector: str = "") -> Items:
        """Return the objects under *path*, watched from now on."""
        made = Collection(self._kube(), path, label_selector, field_selector, self.wake).start()
        self._collections.append(made)
        return made

    def log(self, namespace: str, pod: str, container: str, run: object = None) -> str:
        """Return the end of the log of a container that runs, followed from the first call on; *run* tells a later run of it from this."""
        key = (namespace, pod, container)
        known = self._logs.get(key)
        if known is None or known[0] != run:
            if known:
                known[1].stop()

            def heard(line: str) -> None:
                if self._notable(line):
                    self.wake.set()

            known = (run, FollowedLog(lambda: follow_logs(self._kube(), namespace, pod, container), heard).start())
            self._logs[key] = known
        return known[1].text()

    def forget_logs(self, pods: t.Collection[str]) -> None:
        """Follow only the logs of *pods*, by name, from now on."""
        for key in [key for key in self._logs if key[1] not in pods]:
            self._logs.pop(key)[1].stop()

    def pause(self, seconds: float) -> None:
        """Wait until something changes, but not longer than *seconds*."""
        if self.wake.wait(seconds):
            time.sleep(min(TOGETHER_S, seconds))
        self.wake.clear()

    def close(self) -> None:
        """Let all threads end."""
        for collection in self._collections:
            collection.stop()
        self.forget_logs(())


class Still:
    """A cluster that is asked anew each time. *pause* is what ``pause`` calls."""

    def __init__(self, kube: t.Callable[[], Kube], pause: t.Callable[[float], None] = time.sleep) -> None:
        self.pause = pause
        self._kube = kube

    def collection(self, path: str, label_selector: str = "", field_selector: str = "") -> Items:
        """Return the objects under *path*, listed each time that somebody asks for them."""
        return _Listed(self._kube(), path, label_selector, field_selector)

    def log(self, namespace: str, pod: str, container: str, run: object = None) -> str:
        """Return the end of the log of a container; which *run* of it, nobody asks here."""
        return self._kube().logs(namespace, pod, container, tail_lines=LOG_LINES)

    def forget_logs(self, pods: t.Collection[str]) -> None:
        """Do nothing: no log is followed."""

    def close(self) -> None:
        """Do nothing: nothing was begun."""


class _Listed(t.NamedTuple):
    kube: Kube
    path: str
    label_selector: str
    field_selector: str

    def items(self) -> list[Object]:
        return list(self.kube.list(self.path, self.label_selector, self.field_selector, missing_ok=False))


class EndedLogs:
    """Logs of containers that have ended: read once, because they no longer change."""

    def __init__(self) -> None:
        self._known: dict[tuple[t.Any, ...], str] = {}

    def read(self, kube: Kube, namespace: str, pod: Object, container: str, run: t.Any, previous: bool) -> str:
        """Return the end of the log; *run* is what tells one run of the container from the next (its restart count)."""
        key = (pod["metadata"].get("uid"), pod["metadata"]["name"], container, run, previous)
        if not self._known.get(key):
            self._known[key] = kube.logs(namespace, pod["metadata"]["name"], container, tail_lines=LOG_LINES, previous=previous)
        return self._known[key]


# --- what stands around a namespace ----------------------------------------------------------------------------------------------------

# Nodes of clouds whose node pools may grow without anything of it being seen in the cluster.
_MANAGED = (
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
    "doks.digitalocean.com/node-pool",
)
_AUTOSCALER_STATUS = "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status"


def look_around(kube: Kube) -> Surroundings:
    """Return the nodes, the storage classes, and whether something adds nodes by itself. What is not permitted to be seen is None.

    Raises KubeError when the API server is away.
    """
    nodes = _permitted(lambda: list(kube.list("/api/v1/nodes")))
    classes = _permitted(lambda: list(kube.list("/apis/storage.k8s.io/v1/storageclasses")))
    return Surroundings(nodes=nodes, autoscaler=_autoscaler(kube, nodes), classes=classes)


def _autoscaler(kube: Kube, nodes: t.Optional[t.Sequence[Object]]) -> t.Optional[bool]:
    labels = {label for node in nodes or [] for label in node["metadata"].get("labels") or {}}
    if any(label.startswith("karpenter.sh/") for label in labels):
        return True
    signs = [_permitted(functools.partial(_is_there, kube, path)) for path in (_AUTOSCALER_STATUS, "/apis/karpenter.sh")]
    if any(signs):
        return True
    return None if None in signs or nodes is None or labels.intersection(_MANAGED) else False


def _is_there(kube: Kube, path: str) -> bool:
    return kube.get(path) is not None


T = t.TypeVar("T")


def _permitted(ask: t.Callable[[], T]) -> t.Optional[T]:
    try:
        return ask()
    except KubeError as exc:
        if exc.status in (401, 403):
            return None
        raise
