# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""How far an engine is on its way to its first answer: read from its pod, the events of that, and its log. vLLM 0.32 is meant."""

from __future__ import annotations

import re
import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._kube import Object, is_ready


class Phase(t.NamedTuple):
    """A step on the way. ``rank`` orders the steps, ``name`` is a stable word, ``text`` is for people."""

    rank: int
    name: str
    text: str


ABSENT = Phase(0, "absent", "the cluster makes the engine's pod")
STARTING = Phase(4, "starting", "starting the engine")
LOADING = Phase(6, "loading", "loading weights")
COMPILING = Phase(7, "compiling", "compiling and warming up")
SERVING = Phase(8, "serving", "the engine listens, and is about to be found ready")
ENGINE_READY = Phase(9, "engine", "the engine is ready, and the router looks for it")
FOUND = Phase(10, "router", "router: engine found")
READY = Phase(11, "ready", "ready")

# "Loading safetensors checkpoint shards:  40% Completed | 4/10 [00:02<00:03,  2.00it/s]"; the runai streamer counts tensors
_SHARDS = re.compile(r"[Ll]oading ([\w .()]+): +(\d+)% Completed \| (\d+)/(\d+)")
_WEIGHTS = re.compile(r"^weights: *(\S.*)$")
_MARKS: tuple[tuple[Phase, re.Pattern[str]], ...] = (
    (
        SERVING,
        re.compile(r"Starting vLLM server on|Application startup complete|init engine \(profile, create kv cache, warmup model\) took"),
    ),
    (
        COMPILING,
        re.compile(
            r"Loading weights took|Model loading took|for vLLM's torch\.compile|Starting torch\.compile|torch\.compile took"
            r"|Dynamo bytecode transform|Compiling a graph|Cache the graph"
            r"|Directly load the compiled graph|[Ww]arming up|Warming up done|Capturing CUDA graphs?|Profiling CUDA graph memory"
            r"|Graph capturing finished|Available KV cache memory|KV cache size"
        ),
    ),
    (LOADING, re.compile(r"Starting to load model|Loading model from scratch|Time spent downloading weights")),
)


def phase_of_line(line: str) -> t.Optional[Phase]:
    """Return the phase that *line* of a log shows; None for most lines."""
    weights = _WEIGHTS.match(line)
    if weights:
        return Phase(5, "weights", f"weights {weights[1]}")
    shards = _SHARDS.search(line)
    if shards:
        parts = "shards" if "shard" in shards[1] else "parts"
        return LOADING._replace(text=f"loading weights {shards[2]} % ({shards[3]} of {shards[4]} {parts})")
    return next((phase for phase, mark in _MARKS if mark.search(line)), None)


def phase_of_log(log: str) -> t.Optional[Phase]:
    """Return the furthest phase that *log* shows, as its last such line has it; None when no line tells."""
    told = [phase for line in reversed(log.splitlines()) for phase in [phase_of_line(line)] if phase]
    return max(told, default=None, key=lambda phase: phase.rank)


def phase_of_pod(pod: Object, events: t.Iterable[Object], log_of: t.Callable[[str], str]) -> Phase:
    """Return how far *pod* is. *events* are those of its namespace, *log_of* gives the log of a container that runs, by its name."""
    if is_ready(pod):
        return ENGINE_READY
    name, status, node = pod["metadata"]["name"], pod.get("status") or {}, (pod.get("spec") or {}).get("nodeName")
    if not node:
        return Phase(1, "unscheduled", f"{name} waits for a node")
    starting = _container_that_starts(status)
    if starting is None:
        return Phase(2, "scheduled", f"scheduled on node {node}")
    container, is_init = starting
    state = container.get("state") or {}
    if "running" in state:
        told = phase_of_log(log_of(container["name"]))
        return told or (STARTING._replace(text=f"running {container['name']}") if is_init else STARTING)
    if "terminated" in state or (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff":
        return STARTING._replace(name="again", text=f"{container['name']} of {name} ended, and is started again")
    images = _images_being_pulled(pod, events)
    if images or (state.get("waiting") or {}).get("reason") in ("ErrImagePull", "ImagePullBackOff"):
        return Phase(3, "pulling", f"pulling image {images[0] if images else container.get('image')}")
    return Phase(2, "scheduled", f"scheduled on node {node}")


def _container_that_starts(status: Object) -> t.Optional[tuple[Object, bool]]:
    """Return the status of the container whose turn it is, and whether it is an init container; None before kubelet has told any."""
    for container in status.get("initContainerStatuses") or []:
        if ((container.get("state") or {}).get("terminated") or {}).get("exitCode") != 0 and not container.get("ready"):
            return container, True
    unready = [container for container in status.get("containerStatuses") or [] if not container.get("ready")]
    return (unready[0], False) if unready else None


_IMAGE = re.compile(r'[Ii]mage "([^"]+)"')


def _images_being_pulled(pod: Object, events: t.Iterable[Object]) -> list[str]:
    """Return the images whose pull was begun for *pod*, and not ended."""
    begun: dict[str, None] = {}
    ended: set[str] = set()
    uid, name = pod["metadata"].get("uid"), pod["metadata"]["name"]
    for event in events:
        about = event.get("involvedObject") or {}
        image = _IMAGE.search(str(event.get("message") or ""))
        if not image or about.get("name") != name or (uid and about.get("uid") not in (uid, None)):
            continue
        if event.get("reason") == "Pulling":
            begun[image[1]] = None
        elif event.get("reason") == "Pulled":
            ended.add(image[1])
    return [image for image in begun if image not in ended]


def slowest(phases: t.Iterable[Phase]) -> Phase:
    """Return the phase that is furthest from the goal; that of an engine without a pod when there is none."""
    return min(phases, default=ABSENT, key=lambda phase: phase.rank)


class Course:
    """The phases in the order in which they came, and how long each took."""

    def __init__(self, now: t.Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._entered: list[tuple[str, float]] = []
        self.last: t.Optional[Phase] = None

    def enter(self, phase: Phase) -> None:
        """Be in *phase* from now on; nothing new begins when its name is that of the phase before."""
        if self.last is None or self.last.name != phase.name:
            self._entered.append((phase.name, self._now()))
        self.last = phase

    def told(self) -> list[dict[str, t.Any]]:
        """Return ``{"name", "seconds"}`` of each phase; the last has lasted until now."""
        ends = [began for _name, began in self._entered[1:]] + [self._now()]
        return [{"name": name, "seconds": round(end - began, 3)} for (name, began), end in zip(self._entered, ends)]
