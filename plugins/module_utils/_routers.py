# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Two routers behind one shape: how each is started, where it listens, what it needs."""

from __future__ import annotations

import typing as t

# The header that carries a chat's id from Open WebUI to the router. The Rust router looks at this name first, the production stack's
# router at whatever --session-key says.
SESSION_HEADER = "X-Session-ID"


class Listener(t.TypedDict):
    """A port of the router, and the arguments of the process (a container) that listens there."""

    name: str
    port: int
    metrics_port: int
    args: list[str]


class Router(t.TypedDict):
    """What a template needs to know of a router."""

    type: str
    image: str
    command: list[str]
    listeners: list[Listener]
    session_port: int
    health_path: str
    needs_api_key: bool
    memory_request: str
    memory_limit: str
    cpu_request: str


class Backends(t.NamedTuple):
    """Engines that stay at *urls*, all under the same *models* (a name and its aliases).

    The router listens on *host* and *port*. *startup_budget_s*: how long the engines may take to answer for the first time.
    *sessions_port* and *sessions_metrics_port*: where a router with several engines listens for sessions.
    """

    urls: t.Sequence[str]
    models: t.Sequence[str]
    host: str
    port: int
    metrics_port: int
    startup_budget_s: int
    sessions_port: int = 0
    sessions_metrics_port: int = 0


class Fleet(t.NamedTuple):
    """The engines that a router shall find: pods of *namespace* with all *labels*, listening on *port*."""

    namespace: str
    labels: t.Mapping[str, str]
    port: int
    replicas: int


# The Rust router takes pods that are ready, so it never waits that long. It is the same for all models: a router that a switch changed
# would restart, and end the streams that it carries.
DISCOVERED_S = 300


# https://github.com/vllm-project/production-stack src/vllm_router/parsers/parser.py at v0.1.12; an unknown flag is fatal.
PRODUCTION_STACK_IMAGE = "lmcache/lmstack-router:v0.1.12"
PRODUCTION_STACK_FLAGS = frozenset(
    """--backend-health-check-timeout-seconds --batch-processor --callbacks --decode-model-labels --dynamic-config-json
    --dynamic-config-yaml --enable-batch-api --engine-stats-interval --external-providers-config --feature-gates --file-storage-class
    --file-storage-path --host --k8s-label-selector --k8s-namespace --k8s-port --k8s-service-discovery-type --k8s-watcher-timeout-seconds
    --kv-aware-threshold --lmcache-controller-heartbeat-port --lmcache-controller-port --lmcache-controller-reply-port
    --lmcache-health-check-interval --lmcache-worker-timeout --log-format --log-level --log-stats --log-stats-interval
    --max-instance-failover-reroute-attempts --otel-endpoint --otel-secure --otel-service-name --port --prefill-model-labels
    --prefix-min-match-length --request-rewriter --request-stats-window --root-path --routing-logic --sentry-dsn
    --sentry-profile-session-sample-rate --sentry-traces-sample-rate --service-discovery --session-key --static-aliases
    --static-backend-health-check-interval --static-backend-health-check-timeout-seconds --static-backend-health-checks --static-backends
    --static-model-labels --static-model-types --static-models --version""".split()
)

# `vllm-router --help` of version 0.1.17 from PyPI: those of its flags that we may want.
VLLM_ROUTER_VERSION = "0.1.17"
VLLM_ROUTER_FLAGS = frozenset(
    """--balance-abs-threshold --balance-rel-threshold --cache-threshold --cb-failure-threshold --cb-success-threshold
    --cb-timeout-duration-secs --cb-window-duration-secs --cors-allowed-origins --disable-circuit-breaker --disable-retries
    --eviction-interval-secs --health-check-endpoint --health-check-interval-secs --health-check-timeout-secs --health-failure-threshold
    --health-success-threshold --host --log-dir --log-level --max-concurrent-requests --max-payload-size --max-tree-size --policy --port
    --prometheus-host --prometheus-port --queue-size --queue-timeout-secs --rate-limit-tokens-per-second --request-id-headers
    --request-timeout-secs --retry-backoff-multiplier --retry-initial-backoff-ms --retry-jitter-factor --retry-max-backoff-ms
    --retry-max-retries --selector --service-discovery --service-discovery-namespace --service-discovery-port
    --worker-startup-check-interval --worker-startup-timeout-secs --worker-urls""".split()
)

# Between two looks of the Rust router whether an engine is well.
LOOK_S = 5
# In front of engines that nobody watches but the router itself: five tries at 0, 0.5, 1.3, 2.4 and 4.1 s, while two looks two seconds
# apart find out that an engine is gone.
FAIL_OVER_LOOK_S = 2
FAIL_OVER = ("--health-failure-threshold", "2", "--retry-initial-backoff-ms", "500")

PORT = 8000
SESSION_PORT = 8001
METRICS_PORT = 29000


def production_stack(image: str, fleet: Fleet) -> Router:
    """The production stack's Python router: a session sticks to an engine, a request without one goes where the rate is lowest."""
    args = [
        "--host", "0.0.0.0",
        "--port", str(PORT),
        "--service-discovery", "k8s",
        "--k8s-service-discovery-type", "pod-ip",
        "--k8s-namespace", fleet.namespace,
        "--k8s-port", str(fleet.port),
        "--k8s-label-selector", ",".join(f"{key}={value}" for key, value in fleet.labels.items()),
        "--routing-logic", "session",
        "--session-key", SESSION_HEADER.lower(),
        "--engine-stats-interval", "15",
        "--request-stats-window", "60",
    ]  # fmt: skip
    return _production_stack(image, PORT, args, needs_api_key=True)


def vllm_router(image: str, fleet: Fleet) -> Router:
    """The Rust router. Version 0.1.17 needs two listeners for what the other does with one.

    Its consistent_hash keeps a session on an engine, but sends every chat completion without a session header to one and the same engine;
    its power_of_two spreads, but knows no sessions. So with several engines there is a process of each kind: ``http`` for clients
    without sessions, ``sessions`` for Open WebUI and others that send the header. With one engine there is one process.
    """
    spread = _vllm_router_args(fleet, "power_of_two", PORT, METRICS_PORT)
    sticky = _vllm_router_args(fleet, "consistent_hash", SESSION_PORT, METRICS_PORT + 1)
    listeners: list[Listener] = [{"name": "http", "port": PORT, "metrics_port": METRICS_PORT, "args": spread}]
    if fleet.replicas > 1:
        listeners.append({"name": "sessions", "port": SESSION_PORT, "metrics_port": METRICS_PORT + 1, "args": sticky})
    return _vllm_router(image, listeners)


def production_stack_static(image: str, backends: Backends) -> Router:
    """The production stack's router in front of engines that stay where they are.

    It takes one name for each backend and asks no engine for more, so an engine with an alias is two backends. It passes over a backend
    whose host is neither IPv4 nor localhost nor a name with a dot and letters behind the last one, and then ends, because names and
    backends are not of the same number. Its own health checks send no API key, so they are not turned on.
    """
    pairs = [(url, model) for url in backends.urls for model in backends.models]
    args = [
        "--host", backends.host,
        "--port", str(backends.port),
        "--service-discovery", "static",
        "--static-backends", ",".join(url for url, _model in pairs),
        "--static-models", ",".join(model for _url, model in pairs),
        "--routing-logic", "session",
        "--session-key", SESSION_HEADER.lower(),
        "--engine-stats-interval", "15",
        "--request-stats-window", "60",
    ]  # fmt: skip
    return _production_stack(image, backends.port, args, needs_api_key=False)


def vllm_router_static(image: str, backends: Backends) -> Router:
    """The Rust router in front of engines that stay where they are: one process in front of one engine, two in front of several.

    Where an engine of several is gone, a request is tried again until the router has found that out, and then goes to another one.
    """
    where = ["--worker-urls", *backends.urls]

    several = len(backends.urls) > 1

    def listener(name: str, policy: str, port: int, metrics_port: int) -> Listener:
        look_s = FAIL_OVER_LOOK_S if several else LOOK_S
        args = _vllm_router_process(backends.host, port, metrics_port, policy, where, backends.startup_budget_s, look_s)
        return {"name": name, "port": port, "metrics_port": metrics_port, "args": [*args, *(FAIL_OVER if several else ())]}

    # power_of_two refuses to start in front of a single engine
    listeners = [listener("http", "power_of_two" if several else "consistent_hash", backends.port, backends.metrics_port)]
    if several:
        listeners.append(listener("sessions", "consistent_hash", backends.sessions_port, backends.sessions_metrics_port))
    return _vllm_router(image, listeners)


def _production_stack(image: str, port: int, args: list[str], needs_api_key: bool) -> Router:
    return {
        "type": "production-stack",
        "image": image,
        "command": [],
        "listeners": [{"name": "http", "port": port, "metrics_port": port, "args": args}],
        "session_port": port,
        "health_path": "/health",
        "needs_api_key": needs_api_key,
        "cpu_request": "400m",
        # The image brings a whole vLLM; with less than this it is killed at start (production-stack issue 782).
        "memory_request": "1Gi",
        "memory_limit": "4Gi",
    }


def _vllm_router(image: str, listeners: list[Listener]) -> Router:
    return {
        "type": "vllm-router",
        "image": image,
        "command": ["vllm-router"],
        "listeners": listeners,
        "session_port": listeners[-1]["port"],
        "health_path": "/liveness",
        "needs_api_key": False,
        "cpu_request": "100m",
        "memory_request": "128Mi",
        "memory_limit": "1Gi",
    }


def _vllm_router_args(fleet: Fleet, policy: str, port: int, metrics_port: int) -> list[str]:
    where = [
        "--service-discovery",
        "--selector", *(f"{key}={value}" for key, value in fleet.labels.items()),
        "--service-discovery-namespace", fleet.namespace,
        "--service-discovery-port", str(fleet.port),
    ]  # fmt: skip
    return _vllm_router_process("0.0.0.0", port, metrics_port, policy, where, DISCOVERED_S)


def _vllm_router_process(
    host: str, port: int, metrics_port: int, policy: str, where: list[str], startup_budget_s: int, look_s: int = LOOK_S
) -> list[str]:
    return [
        "--host", host,
        "--port", str(port),
        "--policy", policy,
        *where,
        "--worker-startup-timeout-secs", str(startup_budget_s),
        "--worker-startup-check-interval", "2",
        "--health-check-interval-secs", str(look_s),
        "--prometheus-host", host,
        "--prometheus-port", str(metrics_port),
        # its INFO lines carry prompts
        "--log-level", "warning",
    ]  # fmt: skip


ROUTERS: dict[str, t.Callable[[str, Fleet], Router]] = {"production-stack": production_stack, "vllm-router": vllm_router}
STATIC_ROUTERS: dict[str, t.Callable[[str, Backends], Router]] = {
    "production-stack": production_stack_static,
    "vllm-router": vllm_router_static,
}
