# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The Kubernetes API as plain dicts, over the transport of the ``kubernetes`` client.

The client's generated models drop fields that they do not know and cost a request for discovery; this
collection knows the paths of its own kinds, so objects travel as the API's JSON.
Partner: plugins/doc_fragments/kubernetes.py.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import select
import socket
import socketserver
import threading
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

Object = dict[str, t.Any]

PAGE_SIZE = 500
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

KUBERNETES_ARGS: dict[str, t.Any] = {
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
}


class KubeError(ServingError):
    """The API server said no, or could not be asked. ``status`` is the HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Kube:
    """A connection to one cluster. Nothing is asked before the first call of a method.

    ``sent`` lists the requests made so far, as ``METHOD path``.
    """

    def __init__(self, api: t.Any) -> None:
        self.api = api
        self.sent: list[str] = []

    @classmethod
    def connect(cls, kubeconfig: t.Optional[str] = None, context: t.Optional[str] = None) -> Kube:
        """Read the kubeconfig (given, ``KUBECONFIG``, ``~/.kube/config``) or the service account of the pod this runs in."""
        try:
            # here, because it takes half a second, which modules that talk to no cluster need not spend
            from kubernetes import client as k8s_client
            from kubernetes import config as k8s_config
        except ImportError:
            raise ServingError(
                "The Python package kubernetes is missing where this module runs. Install it: pip install kubernetes"
            ) from None
        configuration = k8s_client.Configuration()
        places = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        found = [path for path in (os.path.expanduser(place) for place in places.split(os.pathsep)) if path and os.path.exists(path)]
        try:
            if not found and not kubeconfig and "KUBERNETES_SERVICE_HOST" in os.environ:
                k8s_config.load_incluster_config(client_configuration=configuration)
            elif not found:
                raise ServingError(
                    f"No kubeconfig: {places} does not exist. Set llm_kubeconfig in the inventory, or export KUBECONFIG, "
                    "to the file with which kubectl reaches your cluster."
                )
            else:
                k8s_config.load_kube_config(os.pathsep.join(found), context=context, client_configuration=configuration)
        except k8s_config.ConfigException as exc:
            raise ServingError(f"The kubeconfig {places} cannot be used: {exc}") from exc
        configuration.retries = 2
        return cls(k8s_client.ApiClient(configuration))

    @property
    def host(self) -> str:
        """URL of the API server."""
        return str(self.api.configuration.host)

    def request(
        self,
        method: str,
        path: str,
        query: t.Optional[t.Mapping[str, t.Any]] = None,
        body: t.Optional[Object] = None,
        content_type: str = "application/json",
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> t.Any:
        """Send one request and return the raw response (``status``, ``data`` after ``read()``).

        Raises KubeError when the server cannot be reached.
        """
        pairs = [(key, value) for key, value in (query or {}).items() if value not in (None, "")]
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        self.sent.append(f"{method} {path}")
        call = self.api.param_serialize(method, path, query_params=pairs, header_params=headers, body=body, auth_settings=["BearerToken"])
        try:
            return self.api.call_api(*call, _request_timeout=(CONNECT_TIMEOUT_S, read_timeout_s))
        except _http_error() as exc:
            raise KubeError(
                f"The Kubernetes API at {self.host} cannot be reached: {_root_cause(exc)}. "
                "Check that the cluster runs and that llm_kubeconfig and llm_kube_context name it."
            ) from exc

    def call(self, method: str, path: str, **options: t.Any) -> Object:
        """Send one request and return the decoded answer; raise KubeError with the server's own words otherwise."""
        response = self.request(method, path, **options)
        response.read()
        document = _decode(response.data)
        if 200 <= response.status <= 299:
            return document
        raise _refusal(response.status, document, f"{method} {path}")

    def get(self, path: str) -> t.Optional[Object]:
        """Return the object at *path*, None where there is none."""
        try:
            return self.call("GET", path)
        except KubeError as exc:
            if exc.status == 404:
                return None
            raise

    def list(
        self, path: str, label_selector: str = "", field_selector: str = "", page_size: int = PAGE_SIZE, missing_ok: bool = True
    ) -> t.Iterator[Object]:
        """Yield the objects under *path*, page by page; nothing where the cluster has no such path, unless *missing_ok* is false."""
        token: t.Optional[str] = None
        while True:
            query = {"limit": page_size, "labelSelector": label_selector, "fieldSelector": field_selector, "continue": token}
            try:
                page = self.call("GET", path, query=query)
            except KubeError as exc:
                if exc.status == 404 and missing_ok:
                    return
                raise
            yield from page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return

    def apply(self, path: str, body: Object, field_manager: str, dry_run: bool = False) -> Object:
        """Apply *body* server-side, taking over fields of other managers. Returns the object as the server has it."""
        query = {"fieldManager": field_manager, "force": "true", "dryRun": "All" if dry_run else None}
        return self.call("PATCH", path, query=query, body=body, content_type=APPLY)

    def patch(self, path: str, body: Object) -> Object:
        """Change the fields in *body* of the object at *path*, and no others; None in *body* takes a field away. Returns the object.

        A list in *body* replaces the whole list. Raises KubeError with status 404 when there is no such object.
        """
        return self.call("PATCH", path, body=body, content_type=MERGE)

    def delete(self, path: str, dry_run: bool = False) -> None:
        """Delete the object at *path* and, in the background, what it owns. No error when it is gone already."""
        query = {"propagationPolicy": "Background", "dryRun": "All" if dry_run else None}
        try:
            self.call("DELETE", path, query=query)
        except KubeError as exc:
            if exc.status != 404:
                raise

    def watch(
        self, path: str, label_selector: str = "", field_selector: str = "", resource_version: str = "", timeout_s: int = 30
    ) -> t.Iterator[tuple[str, Object]]:
        """Yield ``(type, object)`` of each change until *timeout_s* have passed or the server ends the stream."""
        query = {
            "watch": "true",
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "resourceVersion": resource_version,
            "timeoutSeconds": max(1, timeout_s),
        }
        response = self.request("GET", path, query=query, read_timeout_s=timeout_s + 10)
        if response.status != 200:
            response.read()
            raise _refusal(response.status, _decode(response.data), f"watch {path}")
        buffer = b""
        try:
            for chunk in response.response.stream(amt=None, decode_content=True):
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    if line.strip():
                        event = json.loads(line)
                        yield event["type"], event["object"]
        except _http_error():
            return  # a stream that breaks off is a stream that ended: the caller looks again
        finally:
            response.response.close()

    def logs(self, namespace: str, pod: str, container: str = "", tail_lines: int = 40, previous: bool = False) -> str:
        """Return the last lines of a container's log, an empty string when there is none yet."""
        query = {"container": container, "tailLines": tail_lines, "previous": "true" if previous else None}
        response = self.request("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query=query)
        response.read()
        return response.data.decode("utf-8", "replace") if response.status == 200 and response.data else ""

    @contextlib.contextmanager
    def port_forward(self, namespace: str, pod: str, port: int) -> t.Iterator[str]:
        """Give a URL on the loopback interface behind which *port* of *pod* answers, as long as the block runs.

        A block that fails after the API server has refused the forward raises KubeError with the server's words.
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"

        def connect() -> t.Any:
            ports = [("ports", str(port))]
            call = self.api.param_serialize("GET", path, query_params=ports, header_params={}, auth_settings=["BearerToken"])
            from kubernetes.stream import ws_client

            return ws_client.portforward_call(self.api.configuration, "GET", call[1], headers=call[2])

        bridge = _Bridge(connect, port)
        thread = threading.Thread(target=bridge.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{bridge.server_address[1]}"
        except Exception as exc:
            if bridge.refusal:
                raise _handshake_refusal(bridge.refusal, f"a port-forward to {namespace}/{pod}") from exc
            raise
        finally:
            bridge.shutdown()
            bridge.server_close()


class _Bridge(socketserver.ThreadingTCPServer):
    """A listener on a free loopback port; each connection gets a port-forward of its own."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, connect: t.Callable[[], t.Any], port: int) -> None:
        super().__init__(("127.0.0.1", 0), _BridgeHandler)
        self.connect = connect
        self.port = port
        self.refusal = ""

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """Say nothing: the client of the bridge sees its connection closed, and judges that."""


class _BridgeHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        from kubernetes.client import ApiException

        bridge = t.cast(_Bridge, self.server)
        try:
            forward = bridge.connect()
        except ApiException as exc:
            bridge.refusal = str(exc.reason)
            raise
        far: socket.socket = forward.socket(bridge.port)
        peers = {self.request: far, far: self.request}
        try:
            while True:
                readable, _writable, _broken = select.select([self.request.fileno(), far.fileno()], [], [], 60)
                for near in peers:
                    if near.fileno() in readable:
                        data = near.recv(65536)
                        if not data:
                            return
                        peers[near].sendall(data)
        finally:
            forward.close()


def _http_error() -> type[Exception]:
    """Return the exception of the transport; only called when one has been raised, so that its library is there."""
    from urllib3.exceptions import HTTPError

    return HTTPError


def selector_text(labels: t.Mapping[str, t.Any]) -> str:
    """Return *labels* as the API wants a label selector."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def container_states(pod: Object) -> t.Iterator[Object]:
    """Yield the statuses of the containers of *pod*, init containers first."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def is_ready(pod: Object) -> bool:
    """Whether *pod* has the condition Ready and is not on its way out."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def _decode(data: t.Optional[bytes]) -> Object:
    try:
        document = json.loads(data or b"{}")
    except ValueError:
        return {"message": (data or b"").decode("utf-8", "replace")[:200]}
    return document if isinstance(document, dict) else {}


def _refusal(status: int, document: Object, asked: str) -> KubeError:
    """Turn a Status object into a message for people."""
    reason = str(document.get("reason") or "")
    words = str(document.get("message") or reason or "no reason given").strip().rstrip(".")
    if status == 401:
        words = f"The Kubernetes API refuses the credentials of the kubeconfig (401 {words}). Log in again, or name another llm_kubeconfig"
    elif status == 403 and " cannot " in words:
        words = f"Not permitted: {words}. Ask for a role that allows this verb, or name another llm_kubeconfig"
    elif status not in (404, 409, 422):
        words = f"The Kubernetes API answered {status} to {asked}: {words}"
    return KubeError(words + ".", status=status, reason=reason)


def _handshake_refusal(reason: str, asked: str) -> KubeError:
    """Turn what the websocket client says of a refused handshake ("Handshake status 403 Forbidden ... {Status}") into a KubeError."""
    status = re.search(r"status (\d{3})", reason)
    body = re.search(r'\{"kind":"Status".*\}', reason)
    return _refusal(int(status.group(1)) if status else 0, _decode(body.group(0).encode()) if body else {"message": reason[:200]}, asked)


def _root_cause(exc: BaseException) -> str:
    """Return the innermost words of a urllib3 error, without the pools and objects around them."""
    reason = getattr(exc, "reason", None)
    if isinstance(reason, BaseException):
        return _root_cause(reason)
    text = str(exc)
    return text[text.index("[Errno") :] if "[Errno" in text else text


def connected_once(params: t.Mapping[str, t.Any], connect: t.Callable[..., Kube] = Kube.connect) -> t.Callable[[], Kube]:
    """Return what gives the cluster of the options KUBERNETES_ARGS: it connects when it is first called, and never again."""

    @functools.cache
    def kube() -> Kube:
        return connect(params["kubeconfig"], params["context"])

    return kube
