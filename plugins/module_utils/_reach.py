# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""How a module reaches an OpenAI-compatible endpoint: by its URL, or by a port-forward to a pod; and with which key.

Partner: plugins/doc_fragments/reach.py.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import shlex
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, Object, is_ready, selector_text
from ansible_collections.llmops.serving.plugins.module_utils._openai import OpenAIClient
from ansible_collections.llmops.serving.plugins.module_utils._rollout import pod_trouble
from ansible_collections.llmops.serving.plugins.module_utils._wait import NotYetError

REACH_ARGS: dict[str, t.Any] = {
    "url": {"type": "str"},
    "service": {
        "type": "dict",
        "options": {
            "namespace": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "port": {"type": "int", "default": 8000},
        },
    },
    "pods": {
        "type": "dict",
        "options": {
            "namespace": {"type": "str", "required": True},
            "label_selector": {"type": "str", "required": True},
            "port": {"type": "int", "default": 8000},
        },
    },
    "api_key": {"type": "str", "no_log": True},
    "api_key_env": {"type": "str", "no_log": False},
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
    "validate_certs": {"type": "bool", "default": True},
    "ca_path": {"type": "path"},
}
API_KEYS = ("api_key", "api_key_env", "api_key_file", "api_key_secret")
# The rules for AnsibleModule that belong to these options.
REACH_MUTUALLY_EXCLUSIVE: list[tuple[str, ...]] = [("url", "service", "pods"), API_KEYS]
REACH_REQUIRED_ONE_OF: list[tuple[str, ...]] = [("url", "service", "pods")]


class Reach:
    """One endpoint, as the options of REACH_ARGS name it. Nothing is asked before the first call of a method.

    *kube* gives the cluster; it is called only where a Service, a pod or a Secret has to be looked at. ``kubeconfig`` and ``context``
    among *params* go into the commands that messages advise.
    """

    def __init__(self, params: t.Mapping[str, t.Any], kube: t.Callable[[], Kube]) -> None:
        self.params = params
        self._kube = kube
        self._found_service: t.Optional[Object] = None
        self._api_key: t.Optional[str] = params.get("api_key")

    @property
    def endpoint(self) -> str:
        """Where the endpoint is, as people call it."""
        service, pods = self.params.get("service"), self.params.get("pods")
        if service:
            return f"service {service['namespace']}/{service['name']}:{service['port']}"
        if pods:
            return f"pods {pods['namespace']}/{pods['label_selector']}:{pods['port']}"
        return str(self.params["url"])

    @contextlib.contextmanager
    def client(self, timeout_s: float) -> t.Iterator[OpenAIClient]:
        """Give a client of the endpoint while the block runs; *timeout_s* is for each of its requests.

        Opens a port-forward to the newest ready pod where one is needed, and reads the key at the first call.
        Raises NotYetError when no pod is ready, and another ServingError for what does not heal: no such Service, Secret, entry or file.
        """
        api_key = self.api_key()
        with contextlib.ExitStack() as stack:
            yield OpenAIClient(
                stack.enter_context(self._url()),
                api_key,
                timeout_s,
                name=self.endpoint,
                validate_certs=bool(self.params.get("validate_certs", True)),
                ca_path=self.params.get("ca_path"),
                use_proxy=self._forwards_to is None,
            )

    def api_key(self) -> t.Optional[str]:
        """Return the key, read from where it is once; None without any. Raises ServingError when it cannot be read."""
        path, secret, variable = (self.params.get(f"api_key_{kind}") for kind in ("file", "secret", "env"))
        if self._api_key is None and variable:
            self._api_key = os.environ.get(variable)
            if not self._api_key:
                raise ServingError(f"api_key_env names {variable}, which is not set in the environment of the host that asks.")
        if self._api_key is None and path:
            try:
                with open(path, encoding="utf-8") as file:
                    self._api_key = file.read().strip()
            except (OSError, UnicodeDecodeError) as exc:
                cause = getattr(exc, "strerror", None) or "it is not text"
                raise ServingError(f"Cannot read the API key from {path}: {cause}. Install again: make install-chat") from None
        if self._api_key is None and secret:
            self._api_key = self._key_of(secret)
        return self._api_key

    def key_hint(self) -> str:
        """Return what to tell when the endpoint refuses the key (401, 403)."""
        secret = self.params.get("api_key_secret")
        if secret:
            return (
                f"The API key in {secret['key']} of the Secret {secret['namespace']}/{secret['name']} is not the one that the engines use; "
                "restart the engines if it was changed since they started."
            )
        if self.params.get("api_key_env"):
            return f"The API key in the environment variable {self.params['api_key_env']} is not the one that the engines use. Give theirs."
        if self.params.get("api_key_file"):
            return f"The API key in {self.params['api_key_file']} is not the one that the engine uses; restart it: make install-chat"
        if self._api_key:
            return "The API key is not the one that the engines use. Give theirs."
        return "The engines want an API key, and none was given. Set api_key or api_key_secret."

    def kubectl(self) -> str:
        """Return the beginning of a command line that asks the same cluster, in the namespace of the endpoint."""
        namespace = self._forwards_to["namespace"] if self._forwards_to else None
        flags = {"--kubeconfig": self.params.get("kubeconfig"), "--context": self.params.get("context"), "-n": namespace}
        return " ".join(["kubectl", *(f"{flag} {shlex.quote(value)}" for flag, value in flags.items() if value)])

    def where_to_look(self) -> str:
        """Return what shows the log of the endpoint."""
        service, pods = self.params.get("service"), self.params.get("pods")
        if service:
            return f"Look: {self.kubectl()} get pods; {self.kubectl()} logs service/{service['name']}"
        if pods:
            return f"Look: {self.kubectl()} logs -l {shlex.quote(pods['label_selector'])} --tail=50"
        return f"Look at the log of what serves {self.params['url']}."

    @property
    def _forwards_to(self) -> t.Optional[t.Mapping[str, t.Any]]:
        """What the port-forward leads to; None for a URL."""
        return self.params.get("service") or self.params.get("pods") or None

    @contextlib.contextmanager
    def _url(self) -> t.Iterator[str]:
        goal = self._forwards_to
        if goal is None:
            yield self.params["url"]
            return
        if "label_selector" in goal:
            pod, port = self._ready_pod(goal["namespace"], goal["label_selector"], ""), goal["port"]
        else:
            pod, port = self._pod_of_service(goal["namespace"], goal["name"], goal["port"])
        with self._kube().port_forward(goal["namespace"], pod["metadata"]["name"], port) as url:
            yield url

    def _pod_of_service(self, namespace: str, name: str, port: int) -> tuple[Object, int]:
        """Return the newest ready pod of the Service, and its port behind *port* of the Service."""
        if self._found_service is None:
            self._found_service = self._kube().get(f"/api/v1/namespaces/{namespace}/services/{name}")
            if self._found_service is None:
                raise ServingError(f"There is no Service {name} in namespace {namespace}. Look: {self.kubectl()} get services")
        spec = self._found_service["spec"]
        if not spec.get("selector"):
            raise ServingError(f"The Service {namespace}/{name} selects no pods, so there is nothing to forward a port to. Give a url.")
        ports = {entry["port"]: entry.get("targetPort") or entry["port"] for entry in spec.get("ports") or []}
        if port not in ports:
            raise ServingError(f"The Service {namespace}/{name} has no port {port}, but {', '.join(map(str, sorted(ports)))}.")
        pod = self._ready_pod(namespace, selector_text(spec["selector"]), name)
        return pod, _container_port(pod, ports[port])

    def _ready_pod(self, namespace: str, label_selector: str, service: str) -> Object:
        """Return the newest ready pod; *service* is for the message when there is none, empty when the pods were asked for directly."""
        pods = list(self._kube().list(f"/api/v1/namespaces/{namespace}/pods", label_selector))
        ready = sorted(filter(is_ready, pods), key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        if ready:
            return ready[-1]
        trouble = first_trouble(pods) or f"there is none of {namespace}/{service or label_selector}"
        raise NotYetError(f"no router pod is ready ({trouble})" if service else f"no pod is ready ({trouble})")

    def _key_of(self, secret: t.Mapping[str, str]) -> str:
        name = f"{secret['namespace']}/{secret['name']}"
        found = self._kube().get(f"/api/v1/namespaces/{secret['namespace']}/secrets/{secret['name']}")
        if found is None:
            raise ServingError(f"There is no Secret {name} to read the API key from.")
        data = found.get("data") or {}
        if not data.get(secret["key"]):
            raise ServingError(f"The Secret {name} has no {secret['key']}; it has: {', '.join(sorted(data)) or 'nothing'}.")
        try:
            return base64.b64decode(data[secret["key"]]).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise ServingError(f"{secret['key']} of the Secret {name} is not text, so it cannot be an API key.") from None


def first_trouble(pods: t.Iterable[Object]) -> str:
    """Return the name of the first pod that is not ready, and why, in the cluster's own words; empty when all are."""
    return next((f"{pod['metadata']['name']}: {trouble}" for pod in pods for trouble in [pod_trouble(pod)] if trouble), "")


def _container_port(pod: Object, target: t.Union[int, str]) -> int:
    """Return the number of the port that a Service calls by number or by name."""
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or []:
            if port.get("name") == target:
                return int(port["containerPort"])
    raise NotYetError(f"the pod {pod['metadata']['name']} has no port named {target}")
