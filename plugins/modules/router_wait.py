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
  - Refused connections, timeouts, the statuses 404, 429 and 5xx, and pods that are not ready may heal and are waited for. The module
    fails at once on what does not - a refused API key (401, 403), a refused completion (400), and, with O(engine_deployment), a model that
    the router does not list although it lists others and all engine pods have been ready for 30 seconds.
  - On a host, with O(supervised), a program that has ended, or that supervisord has given up, ends the wait, too; the message has the
    decisive line of its log.
  - Where O(engine_deployment) is given, these three are judged only when its rollout is over, because pods of before may still answer.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.progress]
attributes:
  check_mode:
    support: full
    description: Looks once and never fails; RV(ready) says what was found.
  diff_mode:
    support: none
    description: There is nothing to compare, the module changes nothing.
  idempotent:
    support: full
    description: The module changes nothing. Each look makes the model write at most O(max_tokens) tokens.
options:
  model:
    description: Name of the model, as requests have it and as C(GET /v1/models) lists it.
    type: str
    required: true
  url:
    description:
      - URL of the router or engine, without C(/v1).
      - Exactly one of O(url) and O(service) is needed.
    type: str
  service:
    description: The Kubernetes Service of the router. A port-forward goes to the newest of its pods that is ready.
    type: dict
    suboptions:
      namespace:
        description: Namespace of the Service.
        type: str
        required: true
      name:
        description: Name of the Service.
        type: str
        required: true
      port:
        description: Port of the Service.
        type: int
        default: 8000
  api_key:
    description:
      - API key of the router.
      - At most one of O(api_key), O(api_key_secret) and O(api_key_file) can be given. Without them, requests carry no key.
    type: str
  api_key_file:
    description: File that holds the API key, where the module runs. It is read there, so that the key never passes through Ansible.
    type: path
    version_added: "0.2.0"
  api_key_secret:
    description: Where the API key is kept in the cluster. The module reads it there, so that the key never passes through Ansible.
    type: dict
    suboptions:
      namespace:
        description: Namespace of the Secret.
        type: str
        required: true
      name:
        description: Name of the Secret.
        type: str
        required: true
      key:
        description: Which entry of the Secret's data.
        type: str
        required: true
  engine_deployment:
    description:
      - Deployment of the engines, in the namespace of O(service).
      - With it, its rollout has to be over before a completion is asked for, so that an engine of before is not taken for a new one, and
        messages tell what is wrong with engines that are not ready.
    type: str
  supervised:
    description: Engine and router on a host, as M(llmops.serving.supervisor_apply) keeps them running.
    type: dict
    version_added: "0.2.0"
    suboptions:
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
      - Seconds between the first look and the second. Later pauses grow by half each, up to ten seconds.
      - With O(supervised) they do not grow; a look at one's own machine costs little.
    type: float
    default: 1
  request_timeout:
    description: Seconds after which one HTTP request is given up. Shortened to what is left of O(wait_timeout), but not below one second.
    type: float
    default: 60
  max_tokens:
    description: How many tokens the completion may have.
    type: int
    choices: [1, 2, 3, 4, 5, 6, 7, 8]
    default: 8
  validate_certs:
    description: Whether the certificate of an HTTPS O(url) has to be valid.
    type: bool
    default: true
  ca_path:
    description: File with the certificates of the authorities to trust for an HTTPS O(url). Without it, those of the system.
    type: path
notes:
  - With O(url) and without O(api_key_secret), no Python package beside Ansible's own is needed, and the module can run on any host.
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
  sample: the router lists no model; 0 of 1 engine pods are ready
"""

import base64
import binascii
import contextlib
import os
import shlex
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._kube import (
    KUBERNETES_ARGS,
    Kube,
    KubeError,
    Object,
    is_ready,
    selector_text,
)
from ansible_collections.llmops.serving.plugins.module_utils._openai import Completion, OpenAIClient, OpenAIError
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress
from ansible_collections.llmops.serving.plugins.module_utils._rollout import pod_trouble, rollout_pending
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import Supervisor, Watch
from ansible_collections.llmops.serving.plugins.module_utils._wait import LONGEST_PAUSE_S, Lap, NotYetError, Waiter

UNLISTED_GRACE_S = 30.0
SHORTEST_REQUEST_S = 1.0
GREETING = [{"role": "user", "content": "Say hello."}]


class Engines(t.NamedTuple):
    """The engines of a Deployment. ``settled``: the rollout is over, and no pod of before is left that may still answer."""

    ready: int
    wanted: int
    pending: str
    settled: bool

    @classmethod
    def seen(cls, deployment: Object, pods: t.Iterable[Object]) -> Engines:
        """Judge *deployment* and those of *pods* that have not ended."""
        running = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]
        ready = sum(map(is_ready, running))
        wanted = deployment["spec"].get("replicas", 1)
        pending = rollout_pending(deployment) or ("" if ready >= wanted else "an engine is not ready")
        trouble = first_trouble(running)
        return cls(
            ready, wanted, f"{pending} ({trouble})" if pending and trouble else pending, settled=not pending and ready == len(running)
        )

    def __str__(self) -> str:
        """Tell the count, and what is missing."""
        return f"{self.ready} of {self.wanted} engine pods are ready" + (f": {self.pending}" if self.pending else "")


def first_trouble(pods: t.Iterable[Object]) -> str:
    """Return the name of the first pod that is not ready, and why, in the cluster's own words; empty when all are."""
    return next((f"{pod['metadata']['name']}: {trouble}" for pod in pods for trouble in [pod_trouble(pod)] if trouble), "")


class Router:
    """Looks whether the model answers. ``models`` and ``engines`` are those of the last look."""

    def __init__(self, params: t.Mapping[str, t.Any], once: bool, connect: t.Callable[..., Kube]) -> None:
        self.params = params
        self.once = once
        self.models: list[str] = []
        self.engines: t.Optional[Engines] = None
        self._connect = connect
        self._kube: t.Optional[Kube] = None
        self._service: t.Optional[Object] = None
        self._api_key: t.Optional[str] = params["api_key"]
        self._settled_since_s: t.Optional[float] = None
        self._watch: t.Optional[Watch] = None

    @property
    def endpoint(self) -> str:
        """Where the router is, as people call it."""
        service = self.params["service"]
        return f"service {service['namespace']}/{service['name']}:{service['port']}" if service else str(self.params["url"])

    @property
    def kube(self) -> Kube:
        """The cluster, connected at first use: a URL needs none."""
        if self._kube is None:
            self._kube = self._connect(self.params["kubeconfig"], self.params["context"])
        return self._kube

    def look(self, lap: Lap) -> Completion:
        """Return the completion that came back. Raises NotYetError for what may heal, another ServingError for what does not."""
        self.models, self.engines = [], None
        try:
            return self._look(lap)
        except NotYetError as exc:
            cause = str(exc)
        except KubeError as exc:
            unreachable = exc.status == 0 and lap.attempt > 1
            if not (unreachable or exc.status == 429 or exc.status >= 500):
                raise
            cause = str(exc)
        raise NotYetError(cause if self.engines is None else f"{cause.rstrip('.')}; {self.engines}")

    def _look(self, lap: Lap) -> Completion:
        settled = self._look_at_engines(lap)
        self._look_at_programs()
        request_timeout_s = self.params["request_timeout"]
        if not self.once:
            request_timeout_s = min(request_timeout_s, max(lap.remaining_s, SHORTEST_REQUEST_S))
        api_key = self._read_api_key()
        with self._reach() as url:
            client = OpenAIClient(
                url,
                api_key,
                request_timeout_s,
                name=self.endpoint,
                validate_certs=self.params["validate_certs"],
                ca_path=self.params["ca_path"],
                use_proxy=self.params["service"] is None,
            )
            try:
                self.models = client.models()
                self._judge_models(lap)
                if self.engines and self.engines.pending:
                    raise NotYetError("the rollout of the engines is not over")
                return self._complete(client, settled)
            except OpenAIError as exc:
                if exc.status in (401, 403) and settled:
                    raise ServingError(f"{self._key_hint()} {exc}") from exc
                if self.params["supervised"] and "Connection refused" in str(exc):
                    # its router listens only when the engine has answered, so this is how every start looks
                    raise NotYetError(f"the engine is loading; nobody answers at {url} yet") from exc
                raise NotYetError(str(exc)) from exc

    def _look_at_engines(self, lap: Lap) -> bool:
        """Return whether what the router says now holds: no rollout goes on, as far as is known."""
        name = self.params["engine_deployment"]
        if not name:
            return True
        namespace = self.params["service"]["namespace"]
        deployment = self.kube.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
        if deployment is None:
            raise ServingError(f"There is no Deployment {name} in namespace {namespace}. Look: {self._kubectl()} get deployments")
        selector = selector_text(deployment["spec"]["selector"]["matchLabels"])
        self.engines = Engines.seen(deployment, self.kube.list(f"/api/v1/namespaces/{namespace}/pods", selector))
        if not self.engines.settled:
            self._settled_since_s = None
        elif self._settled_since_s is None:
            self._settled_since_s = lap.elapsed_s
        return self.engines.settled

    def _look_at_programs(self) -> None:
        """Raise ServingError when a program has ended, or is started again and again."""
        supervised = self.params["supervised"]
        if not supervised:
            return
        if self._watch is None:
            self._watch = Watch(Supervisor(os.path.join(supervised["state_dir"], "supervisord.sock")), "the model answered")
        self._watch.look(supervised["programs"])

    def _judge_models(self, lap: Lap) -> None:
        model = self.params["model"]
        if model in self.models:
            return
        if not self.models:
            raise NotYetError("the router lists no model")
        found = f"the router lists {', '.join(self.models)}, not {model}{did_you_mean(model, self.models)}"
        if self._settled_since_s is not None and lap.elapsed_s - self._settled_since_s >= UNLISTED_GRACE_S:
            raise ServingError(
                f"{found[0].upper()}{found[1:]}, although all engine pods have been ready for {UNLISTED_GRACE_S:g} s. "
                "Ask for a model that is listed, or serve this one under its name (--served-model-name of the engines)."
            )
        raise NotYetError(found)

    def _complete(self, client: OpenAIClient, settled: bool) -> Completion:
        try:
            completion = client.chat(self.params["model"], GREETING, max_tokens=self.params["max_tokens"], stream=True, temperature=0)
        except OpenAIError as exc:
            if exc.status == 400 and settled:
                raise ServingError(f"The model is listed, but refuses a plain completion: {exc}. {self._where_to_look()}") from exc
            raise
        if completion.is_empty:
            raise NotYetError("the completion came back empty")
        return completion

    @contextlib.contextmanager
    def _reach(self) -> t.Iterator[str]:
        """Give the URL of the router while the block runs."""
        service = self.params["service"]
        if not service:
            yield self.params["url"]
            return
        pod, port = self._router_pod(service["namespace"], service["name"], service["port"])
        with self.kube.port_forward(service["namespace"], pod, port) as url:
            yield url

    def _router_pod(self, namespace: str, name: str, port: int) -> tuple[str, int]:
        """Return the newest ready pod of the Service, and its port behind *port* of the Service."""
        if self._service is None:
            self._service = self.kube.get(f"/api/v1/namespaces/{namespace}/services/{name}")
            if self._service is None:
                raise ServingError(f"There is no Service {name} in namespace {namespace}. Look: {self._kubectl()} get services")
        selector = self._service["spec"].get("selector")
        if not selector:
            raise ServingError(f"The Service {namespace}/{name} selects no pods, so there is nothing to forward a port to. Give a url.")
        ports = {entry["port"]: entry.get("targetPort") or entry["port"] for entry in self._service["spec"].get("ports") or []}
        if port not in ports:
            raise ServingError(f"The Service {namespace}/{name} has no port {port}, but {', '.join(map(str, sorted(ports)))}.")
        pods = list(self.kube.list(f"/api/v1/namespaces/{namespace}/pods", selector_text(selector)))
        ready = sorted(filter(is_ready, pods), key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        if not ready:
            trouble = first_trouble(pods) or f"there is none of {namespace}/{name}"
            raise NotYetError(f"no router pod is ready ({trouble})")
        return ready[-1]["metadata"]["name"], _container_port(ready[-1], ports[port])

    def _read_api_key(self) -> t.Optional[str]:
        """Return the key, read from its Secret or its file once."""
        path = self.params["api_key_file"]
        if self._api_key is None and path:
            try:
                with open(path, encoding="utf-8") as file:
                    self._api_key = file.read().strip()
            except OSError as exc:
                raise ServingError(f"Cannot read the API key from {path}: {exc.strerror}. Install again: make install-chat") from exc
        secret = self.params["api_key_secret"]
        if self._api_key is None and secret:
            name = f"{secret['namespace']}/{secret['name']}"
            found = self.kube.get(f"/api/v1/namespaces/{secret['namespace']}/secrets/{secret['name']}")
            if found is None:
                raise ServingError(f"There is no Secret {name} to read the API key from.")
            data = found.get("data") or {}
            if not data.get(secret["key"]):
                raise ServingError(f"The Secret {name} has no {secret['key']}; it has: {', '.join(sorted(data)) or 'nothing'}.")
            try:
                self._api_key = base64.b64decode(data[secret["key"]]).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise ServingError(f"{secret['key']} of the Secret {name} is not text, so it cannot be an API key.") from None
        return self._api_key

    def _key_hint(self) -> str:
        secret = self.params["api_key_secret"]
        if secret:
            return (
                f"The API key in {secret['key']} of the Secret {secret['namespace']}/{secret['name']} is not the one that the engines use; "
                "restart the engines if it was changed since they started."
            )
        if self.params["api_key_file"]:
            return f"The API key in {self.params['api_key_file']} is not the one that the engine uses; restart it: make install-chat"
        if self._api_key:
            return "The API key is not the one that the engines use. Give theirs."
        return "The engines want an API key, and none was given. Set api_key or api_key_secret."

    def timed_out(self, waiter: Waiter) -> str:
        """Return the message for a wait that came to its end."""
        return (
            f"Model {self.params['model']} did not answer within {waiter.timeout_s:g} s ({waiter.attempts} attempts). "
            f"Last cause: {waiter.last_error.rstrip('.')}. {self._where_to_look()}"
        )

    def _where_to_look(self) -> str:
        """Return commands: the log of the engines while too few are ready, that of the router otherwise."""
        service, deployment = self.params["service"], self.params["engine_deployment"]
        if self._watch:
            return f"Look: {self._watch.infos[self.params['supervised']['programs'][0]].log_path}"
        if not service:
            return f"Look at the log of what serves {self.params['url']}."
        of_engines = deployment and (self.engines is None or self.engines.pending)
        logs = f"deployment/{deployment} --tail=50" if of_engines else f"service/{service['name']}"
        return f"Look: {self._kubectl()} get pods; {self._kubectl()} logs {logs}"

    def _kubectl(self) -> str:
        """Return the beginning of a command line that asks the same cluster."""
        flags = {"--kubeconfig": self.params["kubeconfig"], "--context": self.params["context"], "-n": self.params["service"]["namespace"]}
        return " ".join(["kubectl", *(f"{flag} {shlex.quote(value)}" for flag, value in flags.items() if value)])


def _container_port(pod: Object, target: t.Union[int, str]) -> int:
    """Return the number of the port that a Service calls by number or by name."""
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or []:
            if port.get("name") == target:
                return int(port["containerPort"])
    raise NotYetError(f"the pod {pod['metadata']['name']} has no port named {target}")


def run(
    params: t.Mapping[str, t.Any],
    once: bool = False,
    connect: t.Callable[..., Kube] = Kube.connect,
    now: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> dict[str, t.Any]:
    """Wait, and return what the module returns. With *once*, look once and tell instead of raising.

    Raises ServingError, with the return values as its details, when the model cannot become ready or did not in time.
    """
    longest_pause_s = params["wait_sleep"] if params["supervised"] else LONGEST_PAUSE_S
    waiter = Waiter(0 if once else params["wait_timeout"], params["wait_sleep"], now, sleep, longest_pause_s)
    router = Router(params, once, connect)
    progress = Progress(params["progress_path"])

    def look(lap: Lap) -> Completion:
        try:
            return router.look(lap)
        except NotYetError as exc:
            progress.tell(str(exc), f"{params['model']}: {exc}")
            raise

    completion, failure = None, None
    try:
        completion = waiter.until(look)
    except ServingError as exc:
        failure = str(exc)
    result: dict[str, t.Any] = {
        "ready": completion is not None,
        "model": params["model"],
        "endpoint": router.endpoint,
        "models": router.models,
        "attempts": waiter.attempts,
        "elapsed_seconds": round(waiter.elapsed_s, 3),
        "last_error": waiter.last_error,
    }
    if router.engines is not None:
        result["engines_ready"] = router.engines.ready
    if completion is not None and completion.first_token_seconds is not None:
        result["first_token_seconds"] = round(completion.first_token_seconds, 3)
    if completion is None and not once:
        raise ServingError(failure or router.timed_out(waiter), **result)
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str", "required": True},
            "url": {"type": "str"},
            "service": {
                "type": "dict",
                "options": {
                    "namespace": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                    "port": {"type": "int", "default": 8000},
                },
            },
            "api_key": {"type": "str", "no_log": True},
            "api_key_secret": {
                "type": "dict",
                "no_log": False,
                "options": {
                    "namespace": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                    "key": {"type": "str", "required": True, "no_log": False},
                },
            },
            "api_key_file": {"type": "path", "no_log": False},
            "engine_deployment": {"type": "str"},
            "supervised": {
                "type": "dict",
                "options": {
                    "state_dir": {"type": "path", "required": True},
                    "programs": {"type": "list", "elements": "str", "required": True},
                },
            },
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 600},
            "wait_sleep": {"type": "float", "default": 1},
            "request_timeout": {"type": "float", "default": 60},
            "max_tokens": {"type": "int", "choices": list(range(1, 9)), "default": 8, "no_log": False},
            "validate_certs": {"type": "bool", "default": True},
            "ca_path": {"type": "path"},
            **PROGRESS_ARGS,
            **KUBERNETES_ARGS,
        },
        mutually_exclusive=[("url", "service"), ("api_key", "api_key_secret", "api_key_file"), ("supervised", "engine_deployment")],
        required_one_of=[("url", "service")],
        required_by={"engine_deployment": "service"},
        supports_check_mode=True,
    )
    try:
        result = run(module.params, once=module.check_mode or not module.params["wait"])
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
