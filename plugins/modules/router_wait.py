#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until a model answers through its router."""

from __future__ import annotations

DOCUMENTATION = r"""
module: router_wait
short_description: Wait until a model answers through its router
version_added: "0.1.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - A model is ready when the router lists it and a real completion of a few tokens has come back through the router, with the API key.
    An engine can be Ready, and list its model, and still die of the first completion.
  - The router is reached by O(url), or, as O(service), by a port-forward that the module opens and closes itself; nothing has to be
    exposed, C(kubectl) is not needed.
  - Deployment, pods and events are watched, and the logs of engines that load are followed, so that a change is seen when it happens.
    While engines load, the router is not asked.
  - What waiting cannot mend ends the wait at once, with its cause, the decisive line of the log and what to do, also as RV(verdict) -
    for example an image that does not exist, a flag that vLLM does not know, or a request that no node can satisfy.
  - Refused connections, timeouts, the statuses 404, 429 and 5xx, an API server that is away, a hub that is busy, and pods that are not
    ready may heal and are waited for.
  - The module also fails on a refused API key (401, 403), a refused completion (400), and, with O(engine_deployment), a model that the
    router does not list, or completions that fail alike, although all engine pods have been ready for 30 seconds. Two completions
    that get no answer within O(request_timeout), while models are listed, are taken for an engine that hangs.
  - On a host, with O(supervised), a program that has ended, or that its keeper has given up, ends the wait, too; the message has the
    decisive line of its log.
  - Where O(engine_deployment) is given, what the router says is judged only when the rollout is over, because pods of before may still
    answer.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.progress, llmops.serving.reach]
attributes:
  check_mode:
    support: full
    description: Looks once, patches nothing and never fails; RV(ready) says what was found.
  diff_mode:
    support: none
    description: There is nothing to compare, the module changes nothing.
  idempotent:
    support: full
    description: >-
      The module changes nothing, but the label that hides a new pod where O(held) is true. Each completion has at most O(max_tokens)
      tokens.
options:
  model:
    description: Name of the model, as requests have it and as C(GET /v1/models) lists it.
    type: str
    required: true
  aliases:
    description: Further names that have to be listed, too.
    type: list
    elements: str
    default: []
    version_added: "0.2.0"
  engine_deployment:
    description:
      - Deployment of the engines, in the namespace of O(service).
      - With it, its rollout has to be over before a completion is asked for, so that an engine of before is not taken for a new one, and
        messages tell what is wrong with engines that are not ready.
    type: str
  held:
    description:
      - The rollout of O(engine_deployment) is held by C(minReadySeconds), so that new engines come up beside those of before.
      - Ready means that all pods of the newest version are ready, and that the newest of them has answered a completion, asked directly and
        not through the router.
      - New pods that are not ready yet get the label C(serving.llmops/routed=false), which keeps them out of the routers' sight.
    type: bool
    default: false
    version_added: "0.2.0"
  engines:
    description:
      - Engines on other hosts that O(url) leads to, their URLs by the names of the hosts. All of them have to be reached from here, and are
        expected to be up; one that is not reached for 10 seconds ends the wait with its name.
    type: dict
    default: {}
    version_added: "0.2.0"
  supervised:
    description:
      - Engine and router on a host, as M(llmops.serving.supervisor_apply), M(llmops.serving.systemd_apply) or Docker keeps them running.
    type: dict
    version_added: "0.2.0"
    suboptions:
      by:
        description: What keeps them running.
        type: str
        choices: [supervisord, systemd, docker]
        default: supervisord
      suffix:
        description: What the names of units have beside those of programs, as O(supervised.by=systemd) was given it.
        type: str
        default: ""
      docker_host:
        description: Socket of Docker, with O(supervised.by=docker).
        type: str
        default: unix:///var/run/docker.sock
      state_dir:
        description: Folder of the deployment.
        type: path
        required: true
      programs:
        description: Names of the programs that have to run. The log of the first is where to look when it takes too long.
        type: list
        elements: str
        required: true
  wait:
    description: Whether to wait. V(false) looks once and does not fail; RV(ready) says what was found.
    type: bool
    default: true
  wait_timeout:
    description: For how many seconds to wait.
    type: int
    default: 600
  wait_sleep:
    description:
      - Seconds between two looks at the router. A change that is watched is looked at when it happens.
      - While engines load, the router is not asked.
    type: float
    default: 0.5
  request_timeout:
    description: Seconds after which one HTTP request is given up. Shortened to what is left of O(wait_timeout), but not below one second.
    type: float
    default: 60
  max_tokens:
    description: How many tokens the completion may have.
    type: int
    choices: [1, 2, 3, 4, 5, 6, 7, 8]
    default: 8
"""

EXAMPLES = r"""
- name: Wait for the engines that were just rolled out, and for the first answer
  llmops.serving.router_wait:
    model: gpt-oss-120b
    service:
      namespace: chatbot
      name: vllm-router
    api_key_secret:
      namespace: chatbot
      name: vllm-api-key
      key: api-key
    engine_deployment: vllm-backend
    wait_timeout: 3600

- name: Wait for a router on this host
  llmops.serving.router_wait:
    model: smoke
    url: http://127.0.0.1:8000
    api_key: "{{ vllm_api_key }}"

- name: Wait for new engines that come up beside those of before
  llmops.serving.router_wait:
    model: gpt-oss-120b
    service:
      namespace: chatbot
      name: vllm-router
    api_key_secret:
      namespace: chatbot
      name: vllm-api-key
      key: api-key
    engine_deployment: vllm-backend
    held: true

- name: See whether the model answers at this moment
  llmops.serving.router_wait:
    model: smoke
    url: https://llm.example.com
    wait: false
  register: router

- name: Tell
  ansible.builtin.debug:
    msg: "{{ router.ready | ternary('It answers.', router.last_error) }}"
"""

RETURN = r"""
ready:
  description: Whether the model is listed and answered.
  returned: always
  type: bool
  sample: true
model:
  description: The model that was waited for.
  returned: always
  type: str
  sample: gpt-oss-120b
endpoint:
  description: Where the router was reached, a URL or C(service NAMESPACE/NAME:PORT).
  returned: always
  type: str
  sample: service chatbot/vllm-router:8000
models:
  description: What the router listed in the last look.
  returned: always
  type: list
  elements: str
  sample: [gpt-oss-120b]
engines_ready:
  description: How many engine pods were ready in the last look.
  returned: when O(engine_deployment) is given and the pods could be read
  type: int
  sample: 1
attempts:
  description: How many looks were made.
  returned: always
  type: int
  sample: 41
elapsed_seconds:
  description: How long the module waited.
  returned: always
  type: float
  sample: 83.2
first_token_seconds:
  description: Time from request to first token of the completion that proved the model ready.
  returned: when the model is ready and wrote a token
  type: float
  sample: 0.341
last_error:
  description: Why the last look did not find the model ready. Empty when it did.
  returned: always
  type: str
  sample: the router lists no model; 1 of 1 engine pods are ready
pods:
  description: >-
    The engines of the newest version, whether routers see them or not, as the option of this name of M(llmops.serving.router_verify).
  returned: with O(held), when the model is ready
  type: dict
  version_added: "0.2.0"
  sample: {namespace: chatbot, label_selector: "app=vllm-backend,pod-template-hash=6d6489b798", port: 8000}
phases:
  description: The phases that were seen, in their order.
  returned: always
  type: list
  elements: dict
  version_added: "0.2.0"
  contains:
    name:
      description: >-
        V(absent), V(unscheduled), V(scheduled), V(pulling), V(starting), V(again) after an end, V(weights), V(loading), V(compiling),
        V(serving), V(engine) for one that is ready, V(router) when the router lists the model, or V(ready).
      type: str
    seconds:
      description: How long it took.
      type: float
  sample:
    - {name: loading, seconds: 61.2}
    - {name: compiling, seconds: 20.5}
    - {name: engine, seconds: 1.1}
    - {name: router, seconds: 0.4}
    - {name: ready, seconds: 0.0}
verdict:
  description: What is wrong, where a cause was found.
  returned: when the model is not ready and a cause was found
  type: dict
  version_added: "0.2.0"
  contains:
    cause:
      description: A stable word.
      type: str
    what:
      description: What is wrong.
      type: str
    where:
      description: The object that shows it.
      type: str
    since:
      description: Since when, in RFC 3339. Empty when nobody knows.
      type: str
    log:
      description: The decisive line of the log. Empty when there is none.
      type: str
    advice:
      description: What to do.
      type: str
  sample:
    cause: image-not-found
    what: the image registry.example.com/vllm:9 does not exist
    where: container vllm of pod vllm-backend-6d6489b798-q85kg
    since: "2026-11-21T09:13:34Z"
    log: ""
    advice: Set vllm_image to an image that exists
"""

import contextlib
import re
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._diagnosis import Surroundings, Verdict, View, diagnose, log_cause
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._failure_signs import ANY_ROW
from ansible_collections.llmops.serving.plugins.module_utils._keepers import Watch
from ansible_collections.llmops.serving.plugins.module_utils._kube import (
    KUBERNETES_ARGS,
    Kube,
    KubeError,
    Object,
    connected_once,
    container_states,
    is_ready,
    selector_text,
)
from ansible_collections.llmops.serving.plugins.module_utils._logs import START_MARK
from ansible_collections.llmops.serving.plugins.module_utils._openai import Completion, OpenAIClient, OpenAIError
from ansible_collections.llmops.serving.plugins.module_utils._phases import (
    ABSENT,
    ENGINE_READY,
    FOUND,
    READY,
    STARTING,
    Course,
    Phase,
    phase_of_line,
    phase_of_log,
    phase_of_pod,
    slowest,
)
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress
from ansible_collections.llmops.serving.plugins.module_utils._reach import (
    REACH_ARGS,
    REACH_MUTUALLY_EXCLUSIVE,
    REACH_REQUIRED_ONE_OF,
    Reach,
    first_trouble,
)
from ansible_collections.llmops.serving.plugins.module_utils._rollout import rollout_pending
from ansible_collections.llmops.serving.plugins.module_utils._supervised import KEEPERS, SUPERVISED_OPTIONS
from ansible_collections.llmops.serving.plugins.module_utils._switch import HASH, hide_new, newest
from ansible_collections.llmops.serving.plugins.module_utils._wait import Lap, NotYetError, Waiter
from ansible_collections.llmops.serving.plugins.module_utils._watch import EndedLogs, Items, Live, Still, look_around

# So long, what the router says of ready engines may still change by itself.
GRACE_S = 30.0
# So long, an API server that has never answered may be about to start.
API_GRACE_S = 30.0
# While engines load, something that changes wakes the wait; a look so often finds what only time decides.
LOADING_PAUSE_S = 5.0
SHORTEST_REQUEST_S = 1.0
# A list of models is at hand at once; what takes longer is better asked again.
MODELS_S = 5.0
HANGS = 2
# An engine that answers on its own host is reached from here within so long, or something keeps it away.
UNREACHED_S = 10.0
HEALTH_S = 3.0
AROUND_S = 30.0
GREETING = [{"role": "user", "content": "Say hello."}]

Scene = t.Union[Live, Still]


class StuckError(ServingError):
    """Waiting cannot mend it; ``verdict`` says what it is."""

    def __init__(self, verdict: Verdict, now: float) -> None:
        super().__init__(verdict.text(now))
        self.verdict = verdict


class Engines(t.NamedTuple):
    """The engines of a Deployment. ``settled``: the rollout is over, and no pod of before is left that may still answer."""

    ready: int
    wanted: int
    pending: str
    settled: bool
    trouble: str = ""

    @classmethod
    def seen(cls, deployment: Object, pods: t.Iterable[Object]) -> Engines:
        """Judge *deployment* and those of *pods* that have not ended."""
        running = _running(pods)
        ready, wanted = sum(map(is_ready, running)), deployment["spec"].get("replicas", 1)
        pending = rollout_pending(deployment) or ("" if ready >= wanted else "an engine is not ready")
        return cls(ready, wanted, pending, settled=not pending and ready == len(running))

    @classmethod
    def held(cls, deployment: Object, new: t.Iterable[Object]) -> Engines:
        """Judge the *new* pods of a *deployment* whose rollout is held: those of before stay, and do not count."""
        running = _running(new)
        ready, wanted = sum(map(is_ready, running)), deployment["spec"].get("replicas", 1)
        pending = ""
        if not _is_taken_up(deployment):
            pending = rollout_pending(deployment)
        elif len(running) < wanted:
            pending = f"{len(running)} of {wanted} new pods made"
        elif ready < wanted:
            pending = "an engine is not ready"
        return cls(ready, wanted, pending, settled=not pending)

    def __str__(self) -> str:
        """Tell the count, and what is missing."""
        missing = f": {self.pending}" + (f" ({self.trouble})" if self.trouble else "") if self.pending else ""
        return f"{self.ready} of {self.wanted} engine pods are ready{missing}"


def _running(pods: t.Iterable[Object]) -> list[Object]:
    return [pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]


def _is_taken_up(deployment: Object) -> bool:
    """Whether the cluster has seen the last change of *deployment*, so that what is there belongs to it."""
    return bool((deployment.get("status") or {}).get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0))


class Stack:
    """Engines and router pods in the cluster, as they are seen in each look.

    ``engines``, ``new`` (the engines' newest pods), ``phase`` and ``verdict`` (what may still heal) are those of the last look.
    """

    def __init__(self, params: t.Mapping[str, t.Any], scene: Scene, kube: t.Callable[[], Kube], wall: t.Callable[[], float]) -> None:
        self.params = params
        self.scene = scene
        self.engines: t.Optional[Engines] = None
        self.deployment: t.Optional[Object] = None
        self.new: list[Object] = []
        self.phase: t.Optional[Phase] = None
        self.verdict: t.Optional[Verdict] = None
        self.routers: t.Optional[frozenset[str]] = None
        self._kube = kube
        self._wall = wall
        self._collections: dict[str, Items] = {}
        self._ended_logs = EndedLogs()
        self._service: t.Optional[Object] = None
        self._around: t.Optional[tuple[float, Surroundings]] = None

    @property
    def namespace(self) -> str:
        """The namespace of the Service, in which the engines are, too."""
        return str(self.params["service"]["namespace"])

    def look(self, kubectl: str, hide: bool) -> None:
        """See engines and router pods. Raises ServingError for what waiting cannot mend; with *hide*, new pods are hidden first."""
        self.engines, self.phase, self.verdict = None, None, None
        verdicts = [] if not self.params["engine_deployment"] else self._look_at_engines(kubectl, hide)
        verdicts += self._look_at_routers()
        verdicts.sort(key=lambda verdict: not verdict.certain)
        if verdicts and verdicts[0].certain:
            raise StuckError(verdicts[0], self._wall())
        self.verdict = verdicts[0] if verdicts else None

    def _look_at_engines(self, kubectl: str, hide: bool) -> list[Verdict]:
        name = self.params["engine_deployment"]
        self.deployment = next(iter(self._items("deployments", "/apis/apps/v1", "", f"metadata.name={name}")), None)
        if self.deployment is None:
            raise ServingError(f"There is no Deployment {name} in namespace {self.namespace}. Look: {kubectl} get deployments")
        selector = selector_text(self.deployment["spec"]["selector"]["matchLabels"])
        pods = self._items("pods", "/api/v1", selector)
        self.new = self._newest(self.deployment, selector, pods)
        if hide and _is_taken_up(self.deployment):
            hide_new(self._kube(), self.namespace, self.deployment, pods)
        held = self.params["held"]
        self.engines = Engines.held(self.deployment, self.new) if held else Engines.seen(self.deployment, pods)
        if not self.engines.pending:
            self.phase = ENGINE_READY._replace(text="the new engine is ready, and is asked directly") if held else ENGINE_READY
            self.scene.forget_logs(())
            return []
        self.phase = self._phase(len(pods))
        self.engines = self.engines._replace(trouble=first_trouble(_running(self.new if held else pods)))
        # what the cluster has not taken up yet is not to be judged by what was before
        failed = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Failed"]
        return self._diagnosed(self.deployment, [*self.new, *failed]) if _is_taken_up(self.deployment) else []

    def _newest(self, deployment: Object, selector: str, pods: list[Object]) -> list[Object]:
        """Return the pods of the newest version, all of them where nobody may see which that is."""
        try:
            replica_sets = self._items("replicasets", "/apis/apps/v1", selector)
        except KubeError as exc:
            if exc.status != 403 or self.params["held"]:
                raise
            return pods
        return newest(deployment, replica_sets, pods)[0]

    def _phase(self, number: int) -> Phase:
        """Return how far the slowest of the new engines is."""
        coming = [pod for pod in _running(self.new) if not pod["metadata"].get("deletionTimestamp")]
        if not coming:
            return ABSENT._replace(text=f"{number} engine pods of before end") if number else ABSENT
        self.scene.forget_logs({pod["metadata"]["name"] for pod in coming if not is_ready(pod)})
        events = self._events()

        def phase_of(pod: Object) -> Phase:
            return phase_of_pod(pod, events, lambda container: self._log(pod, container, False))

        phase = slowest(map(phase_of, coming))
        wanted = self.engines.wanted if self.engines else 1
        return phase if wanted == 1 else phase._replace(text=f"{phase.text} ({sum(map(is_ready, coming))} of {wanted} engines ready)")

    def _look_at_routers(self) -> list[Verdict]:
        """See the pods of the Service; what is wrong with them counts while none of them is ready."""
        if self._service is None:
            self._service = self._kube().get(f"/api/v1/namespaces/{self.namespace}/services/{self.params['service']['name']}")
        selector = ((self._service or {}).get("spec") or {}).get("selector")
        if not selector:
            return []  # whoever asks the router tells what is wrong with its Service
        pods = self._items("pods", "/api/v1", selector_text(selector))
        self.routers = frozenset(pod["metadata"]["name"] for pod in pods if is_ready(pod))
        return [] if self.routers else self._diagnosed(None, pods)

    def _diagnosed(self, deployment: t.Optional[Object], pods: list[Object]) -> list[Verdict]:
        by_name = {pod["metadata"]["name"]: pod for pod in pods}

        def log_of(pod: str, container: str, previous: bool) -> str:
            return self._log(by_name[pod], container, previous) if pod in by_name else ""

        unscheduled = [pod for pod in pods if not (pod.get("spec") or {}).get("nodeName")]
        view = View(
            deployment=deployment,
            pods=pods,
            events=self._events(),
            claims=self._claims(unscheduled) if unscheduled else (),
            log_of=log_of,
            surroundings=self._surroundings,
        )
        return list(diagnose(view, self._wall()))

    def _log(self, pod: Object, container: str, previous: bool) -> str:
        """Return the end of a container's log: followed while it runs, read once when it has ended."""
        found = next((status for status in container_states(pod) if status["name"] == container), {})
        run, state = found.get("restartCount"), found.get("state") or {}
        if "running" in state and not previous:
            return self.scene.log(self.namespace, pod["metadata"]["name"], container, run)
        return self._ended_logs.read(self._kube(), self.namespace, pod, container, (run, "terminated" in state), previous)

    def _claims(self, pods: list[Object]) -> list[Object]:
        volumes = [volume for pod in pods for volume in pod["spec"].get("volumes") or []]
        names = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes if volume.get("persistentVolumeClaim")}
        return [claim for claim in self._seen("persistentvolumeclaims") if claim["metadata"]["name"] in names] if names else []

    def _events(self) -> list[Object]:
        return self._seen("events")

    def _seen(self, kind: str) -> list[Object]:
        """Return the objects of *kind* as far as they may be seen."""
        try:
            return self._items(kind, "/api/v1")
        except KubeError as exc:
            if exc.status == 403:
                return []
            raise

    def _surroundings(self) -> Surroundings:
        if self._around is None or self._wall() - self._around[0] > AROUND_S:
            self._around = (self._wall(), look_around(self._kube()))
        return self._around[1]

    def _items(self, kind: str, group: str, label_selector: str = "", field_selector: str = "") -> list[Object]:
        key = f"{kind} {label_selector}"
        if key not in self._collections:
            path = f"{group}/namespaces/{self.namespace}/{kind}"
            self._collections[key] = self.scene.collection(path, label_selector, field_selector)
        return self._collections[key].items()


class Router:
    """Looks whether the model answers. ``models``, ``phase`` and ``verdict`` are those of the last look."""

    def __init__(
        self,
        params: t.Mapping[str, t.Any],
        once: bool,
        scene: Scene,
        kube: t.Callable[[], Kube],
        progress: Progress,
        now: t.Callable[[], float] = time.monotonic,
        wall: t.Callable[[], float] = time.time,
    ) -> None:
        self.params = params
        self.once = once
        self._progress = progress
        self.models: list[str] = []
        self.phase: t.Optional[Phase] = None
        self.course = Course(now)
        self.stack = Stack(params, scene, kube, wall)
        self.reach = Reach(params, kube)
        self._asked = self.reach
        self._wall = wall
        self._kube = kube
        self._watch: t.Optional[Watch] = None
        self._opened = contextlib.ExitStack()
        self._client: t.Optional[OpenAIClient] = None
        self._leads_to: object = None
        self._unconnected = ""
        self._api_answered = False
        self._settled_since_s: t.Optional[float] = None
        self._refused: t.Optional[tuple[str, float]] = None
        self._hangs = 0
        self._unreached_since_s: t.Optional[float] = None

    @property
    def engines(self) -> t.Optional[Engines]:
        """The engines of the last look; None when nobody asked for them, or they could not be seen."""
        return self.stack.engines

    @property
    def verdict(self) -> t.Optional[Verdict]:
        """What was found wrong in the last look, and may heal."""
        return self.stack.verdict

    @property
    def pause_s(self) -> float:
        """How long to wait for something to change before the next look."""
        return LOADING_PAUSE_S if self.engines and self.engines.pending else float(self.params["wait_sleep"])

    def close(self) -> None:
        """Close the port-forward."""
        self._client = None
        self._opened.close()

    def look(self, lap: Lap) -> Completion:
        """Return the completion that came back. Raises NotYetError for what may heal, another ServingError for what does not."""
        self.models, self.phase = [], None
        self.stack.engines = self.stack.verdict = None
        try:
            return self._look(lap)
        except NotYetError as exc:
            cause = str(exc)
        except KubeError as exc:
            if not self._heals(exc, lap):
                raise
            cause = str(exc)
        if self.verdict:
            cause = self.verdict.text(self._wall())
            if self.engines:
                self.stack.engines = self.engines._replace(trouble="")
        raise NotYetError(cause if self.engines is None else f"{cause.rstrip('.')}; {self.engines}")

    def _enter(self, phase: t.Optional[Phase]) -> None:
        self.phase = phase
        if phase:
            self.course.enter(phase)

    def _heals(self, exc: KubeError, lap: Lap) -> bool:
        """Whether the API server may give another answer by and by."""
        if exc.status == 0:
            distrusted = "CERTIFICATE_VERIFY_FAILED" in str(exc)
            return not distrusted and (self.once or self._api_answered or lap.elapsed_s < API_GRACE_S)
        self._api_answered = True
        return exc.status == 429 or exc.status >= 500

    def _look(self, lap: Lap) -> Completion:
        self._look_at_programs()
        self._look_at_other_hosts(lap)
        if self.params["service"]:
            try:
                self.stack.look(self.reach.kubectl(), hide=self.params["held"] and not self.once)
            finally:
                self._enter(self.stack.phase)
            self._api_answered = True
        if self._watch:
            self._enter(self._phase_of_programs())
        settled = self._settle(lap)
        client = self._connected(lap)
        if self.engines and self.engines.pending:
            raise NotYetError("the rollout of the engines is not over")
        if client is None:
            raise NotYetError(self._unconnected)
        try:
            return self._ask(client, lap, settled)
        except OpenAIError as exc:
            if exc.status == 0:
                self.close()
            if exc.status in (401, 403) and settled:
                raise ServingError(f"{self.reach.key_hint()} {exc}") from exc
            if self.params["supervised"] and "Connection refused" in str(exc):
                # its router listens only when the engine has answered, so this is how every start looks
                raise NotYetError(f"the engine is loading; nobody answers at {client.base_url} yet") from exc
            raise NotYetError(str(exc)) from exc

    def _settle(self, lap: Lap) -> bool:
        """Return whether what the router says now holds: no rollout goes on, as far as is known."""
        if not self.params["engine_deployment"]:
            return True
        settled = self.engines is not None and self.engines.settled
        if not settled:
            self._settled_since_s, self._refused, self._hangs = None, None, 0
        elif self._settled_since_s is None:
            self._settled_since_s = lap.elapsed_s
        return settled

    def _look_at_programs(self) -> None:
        """Raise ServingError when a program has ended, or is started again and again."""
        supervised = self.params["supervised"]
        if not supervised:
            return
        if self._watch is None:
            self._watch = Watch(KEEPERS[supervised["by"]](supervised), "the model answered")
        self._watch.look(supervised["programs"])

    def _look_at_other_hosts(self, lap: Lap) -> None:
        """Raise NotYetError for an engine of another host that is not reached, StuckError when that lasts."""
        for host, url in (self.params.get("engines") or {}).items():
            try:
                OpenAIClient(url, timeout_s=HEALTH_S, use_proxy=False).text("/health")
            except OpenAIError as exc:
                what = f"the engine of {host} is not reached from the router's host: {exc}"
                self._unreached_since_s = lap.elapsed_s if self._unreached_since_s is None else self._unreached_since_s
                if lap.elapsed_s - self._unreached_since_s >= UNREACHED_S:
                    advice = f"Let the router's host through to {url} in the firewall of {host}, or see whether its engine still runs"
                    self._give_up("engine-not-reached", what, "", advice, lap.elapsed_s - self._unreached_since_s)
                raise NotYetError(what) from exc
        self._unreached_since_s = None

    def _phase_of_programs(self) -> Phase:
        """Return how far the engine on this host is, by its log."""
        return phase_of_log(self._log_of_program()) or STARTING

    def _log_of_program(self) -> str:
        """Return the log of the engine on this host since its last start; empty where there is none."""
        name = self.params["supervised"]["programs"][0] if self.params["supervised"] else ""
        info = self._watch.infos.get(name) if self._watch else None
        return self._watch.keeper.log_of(info).rpartition(START_MARK)[2] if info and self._watch else ""

    # The router, or in a held rollout the newest engine

    def _connected(self, lap: Lap) -> t.Optional[OpenAIClient]:
        """Return the client of before or, where that leads to nothing any more, a new one; None when no pod is ready to be asked."""
        leads_to: object = self.stack.routers
        if self.params["held"]:
            leads_to = frozenset(pod["metadata"]["name"] for pod in self.stack.new if is_ready(pod))
        if self._client is not None and leads_to != self._leads_to:
            self.close()
        if self._client is None and (lap.attempt == 1 or not (self.engines and self.engines.pending)):
            if self.params["held"]:
                self._asked = Reach({**self.params, "url": None, "service": None, "pods": self.newest_pods()}, self._kube)
            self._unconnected = ""
            try:
                # also in the first look, when nobody can be asked yet: a missing Secret is told at once
                self._client = self._opened.enter_context(self._asked.client(self.params["request_timeout"]))
            except NotYetError as exc:
                self._unconnected = str(exc)
            self._leads_to = leads_to
        return self._client

    def newest_pods(self) -> dict[str, t.Any]:
        """Return the option ``pods`` that leads to the newest engines, past the router."""
        deployment, pod = self.stack.deployment or {}, next(iter(self.stack.new), {})
        labels = dict(deployment["spec"]["selector"]["matchLabels"])
        version = ((pod.get("metadata") or {}).get("labels") or {}).get(HASH, "none-yet")
        spec = pod.get("spec") or deployment["spec"]["template"]["spec"]
        ports = [port["containerPort"] for container in spec["containers"] for port in container.get("ports") or []]
        return {
            "namespace": self.stack.namespace,
            "label_selector": selector_text({**labels, HASH: version}),
            "port": ports[0] if ports else 8000,
        }

    def _ask(self, client: OpenAIClient, lap: Lap, settled: bool) -> Completion:
        longest_s = self.params["request_timeout"]
        if not self.once:
            longest_s = min(longest_s, max(lap.remaining_s, SHORTEST_REQUEST_S))
        client.timeout_s = longest_s if self.once else min(longest_s, MODELS_S)
        self.models = client.models()
        self._judge_models(lap)
        self._enter(FOUND._replace(text="the new engine lists the model") if self.params["held"] else FOUND)
        self._progress.tell(FOUND.name, f"{self.params['model']}: {self.phase.text if self.phase else ''}")
        client.timeout_s = longest_s
        completion = self._complete(client, lap, settled)
        if completion.is_empty:
            raise NotYetError("the completion came back empty")
        self._enter(READY)
        return completion

    def _judge_models(self, lap: Lap) -> None:
        missing = [name for name in (self.params["model"], *self.params["aliases"]) if name not in self.models]
        if not missing:
            return
        whoever = "the engine" if self.params["held"] else "the router"
        if self.models:
            found = f"{whoever} lists {', '.join(self.models)}, not {missing[0]}{did_you_mean(missing[0], self.models)}"
            advice = "Ask for a model that is listed, or serve this one under its name (--served-model-name of the engines)"
        else:
            found = f"{whoever} lists no model"
            advice = f"See why it finds no engine. {self._asked.where_to_look()}"
        if self._settled_since_s is not None and lap.elapsed_s - self._settled_since_s >= GRACE_S:
            self._give_up("model-not-listed", f"{found}, although all engine pods have been ready for {GRACE_S:g} s", "", advice, GRACE_S)
        raise NotYetError(found)

    def _complete(self, client: OpenAIClient, lap: Lap, settled: bool) -> Completion:
        try:
            completion = client.chat(self.params["model"], GREETING, max_tokens=self.params["max_tokens"], stream=True, temperature=0)
        except OpenAIError as exc:
            if exc.status == 400 and settled:
                raise ServingError(f"The model is listed, but refuses a plain completion: {exc}. {self._where_to_look()}") from exc
            self._judge_failure(exc, client, lap, settled)
            raise
        self._refused, self._hangs = None, 0
        return completion

    def _judge_failure(self, exc: OpenAIError, client: OpenAIClient, lap: Lap, settled: bool) -> None:
        """Raise StuckError for a completion that fails in the same way for too long, though engines are there to answer it."""
        known = settled and bool(self.params["engine_deployment"] or self.params["supervised"])
        if exc.status == 500 and known:
            words = re.sub(r"[0-9a-f-]{8,}|\d+", "#", str(exc))
            if self._refused is None or self._refused[0] != words:
                self._refused = (words, lap.elapsed_s)
            elif lap.elapsed_s - self._refused[1] >= GRACE_S:
                lasted = lap.elapsed_s - self._refused[1]
                what = f"the model is listed, but each completion has failed for {GRACE_S:g} s, while the engines stay ready: {exc}"
                self._give_up("completion-fails", what, self._log_of_engine(), self._where_to_look(), lasted)
        else:
            self._refused = None
        if exc.status == 0 and "no whole answer within" in str(exc) and settled:
            self._hangs += client.timeout_s >= self.params["request_timeout"]
            if self._hangs >= HANGS:
                what = (
                    f"the model is listed, but {HANGS} completions of {self.params['max_tokens']} tokens got no whole answer "
                    f"within {client.timeout_s:g} s: the engine hangs"
                )
                advice = f"Restart the engine, or give request_timeout if it is that slow. {self._where_to_look()}"
                self._give_up("engine-hangs", what, self._log_of_engine(), advice, HANGS * client.timeout_s)
        else:
            self._hangs = 0

    def _give_up(self, cause: str, what: str, log: str, advice: str, lasted_s: float) -> t.NoReturn:
        found = log_cause(log) if log else None
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall() - lasted_s))
        line = found.line if found else ""
        raise StuckError(Verdict(cause, what, self._asked.endpoint, since, line, advice, certain=True), self._wall())

    def _log_of_engine(self) -> str:
        """Return the end of the log of the engine that was started last."""
        if self._watch:
            return self._log_of_program()
        pods = sorted(self.stack.new, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        if not pods:
            return ""
        container = pods[-1]["spec"]["containers"][0]["name"]
        return self._kube().logs(self.stack.namespace, pods[-1]["metadata"]["name"], container, tail_lines=300)

    def timed_out(self, waiter: Waiter) -> str:
        """Return the message for a wait that came to its end."""
        phase = f" Last phase: {self.course.last.text}." if self.course.last else ""
        return (
            f"Model {self.params['model']} did not answer within {waiter.timeout_s:g} s ({waiter.attempts} attempts). "
            f"Last cause: {waiter.last_error.rstrip('.')}.{phase} {self._where_to_look()}"
        )

    def _where_to_look(self) -> str:
        """Return commands: the log of the engines while too few are ready, that of the router otherwise."""
        if self._watch:
            info = self._watch.infos.get(self.params["supervised"]["programs"][0])
            return f"Look: {info.log_at}" if info else f"Look: {self.params['supervised']['state_dir']}/logs"
        deployment = self.params["engine_deployment"]
        if deployment and (self.params["held"] or self.engines is None or self.engines.pending):
            kubectl = self.reach.kubectl()
            return f"Look: {kubectl} get pods; {kubectl} logs deployment/{deployment} --tail=50"
        return self.reach.where_to_look()


def run(
    params: t.Mapping[str, t.Any],
    once: bool = False,
    connect: t.Callable[..., Kube] = Kube.connect,
    now: t.Callable[[], float] = time.monotonic,
    pause: t.Optional[t.Callable[[float], None]] = None,
    wall: t.Callable[[], float] = time.time,
) -> dict[str, t.Any]:
    """Wait, and return what the module returns. With *once*, look once and tell instead of raising.

    With a *pause* of the caller's, nothing runs in the background: the cluster is asked anew in each look. *wall* is the time of day.
    Raises ServingError, with the return values as its details, when the model cannot become ready or did not in time.
    """
    kube = connected_once(params, connect)
    scene: Scene = Still(kube, pause or time.sleep) if once or pause else Live(kube, phase_of_line)
    progress = Progress(params["progress_path"])
    router = Router(params, once, scene, kube, progress, now, wall)
    waiter = Waiter(0 if once else params["wait_timeout"], lambda: router.pause_s, now, scene.pause)

    def look(lap: Lap) -> Completion:
        try:
            return router.look(lap)
        except NotYetError as exc:
            _tell(progress, router, str(exc))
            raise

    completion, failure, verdict = None, None, None
    try:
        completion = waiter.until(look)
    except StuckError as exc:
        failure, verdict = str(exc), exc.verdict
    except ServingError as exc:
        failure = str(exc)
    finally:
        router.close()
        scene.close()
    result: dict[str, t.Any] = {
        "ready": completion is not None,
        "model": params["model"],
        "endpoint": router.reach.endpoint,
        "models": router.models,
        "attempts": waiter.attempts,
        "elapsed_seconds": round(waiter.elapsed_s, 3),
        "last_error": waiter.last_error,
        "phases": router.course.told(),
    }
    if router.engines is not None:
        result["engines_ready"] = router.engines.ready
    if completion is not None:
        if params["held"]:
            result["pods"] = router.newest_pods()
        progress.tell(READY.name, f"{params['model']}: {READY.text}")
        if completion.first_token_seconds is not None:
            result["first_token_seconds"] = round(completion.first_token_seconds, 3)
    verdict = verdict or (None if completion else router.verdict)
    if verdict is not None:
        advice = verdict.advice.replace(ANY_ROW, params["model"])
        found = {field: getattr(verdict, field) for field in ("cause", "what", "where", "since", "log")}
        result["verdict"] = {**found, "advice": advice}
    if completion is None and not once:
        raise ServingError((failure or router.timed_out(waiter)).replace(ANY_ROW, params["model"]), **result)
    return result


def _tell(progress: Progress, router: Router, cause: str) -> None:
    """Tell the phase and, what keeps it from going on, where something does."""
    model, phase, verdict = router.params["model"], router.phase, router.verdict
    if phase is None:
        progress.tell(cause, f"{model}: {cause}")
    elif verdict is not None:
        progress.tell(f"{phase.name} {verdict.cause}", f"{model}: {phase.text}", verdict.what)
    else:
        progress.tell(phase.name, f"{model}: {phase.text}", "" if phase.rank < ENGINE_READY.rank else cause)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str", "required": True},
            "aliases": {"type": "list", "elements": "str", "default": []},
            "engine_deployment": {"type": "str"},
            "held": {"type": "bool", "default": False},
            "engines": {"type": "dict", "default": {}},
            "supervised": {
                "type": "dict",
                "options": {**SUPERVISED_OPTIONS, "programs": {"type": "list", "elements": "str", "required": True}},
            },
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 600},
            "wait_sleep": {"type": "float", "default": 0.5},
            "request_timeout": {"type": "float", "default": 60},
            "max_tokens": {"type": "int", "choices": list(range(1, 9)), "default": 8, "no_log": False},
            **REACH_ARGS,
            **PROGRESS_ARGS,
            **KUBERNETES_ARGS,
        },
        mutually_exclusive=[*REACH_MUTUALLY_EXCLUSIVE, ("supervised", "engine_deployment")],
        required_one_of=REACH_REQUIRED_ONE_OF,
        required_by={"engine_deployment": "service"},
        required_if=[("held", True, ["engine_deployment"])],
        supports_check_mode=True,
    )
    try:
        result = run(module.params, once=module.check_mode or not module.params["wait"])
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
