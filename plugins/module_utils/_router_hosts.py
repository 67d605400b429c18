# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Several hosts behind one router: who belongs together, what each of them has, and whether all have come as far as one of them.

Each host makes its own plan. What it has to know of the others is in the variables of the play, ``hostvars``: what the inventory says of
them, and what this run has found out there. None of it is secret.
"""

from __future__ import annotations

import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._stack import USUAL

Settings = t.Mapping[str, t.Any]
Program = t.Mapping[str, t.Any]
HostVars = t.Mapping[str, t.Mapping[str, t.Any]]

# Platforms that have it: on Kubernetes the cluster finds engines, and `local` is one machine.
PLATFORMS = ("systemd", "docker")
OPTIONS = ("vllm_router_host", "vllm_router_only", "vllm_engine_address")
ENGINE, USUAL_ENGINE_PORT = "vllm-backend", 8100
# What this run has found out about a host: the result of host_check, the plan, and how far the host is (tasks/together.yml).
FOUND, PLAN, STAGE = "__vllm_host", "vllm_plan", "__vllm_stage"
# Ansible's own: the result of the task that has failed, in a block with a rescue.
FAILED = "ansible_failed_result"
# How far hosts have to be before any of them goes on: all have a plan, and it is for one model; nothing is in the way; weights are there;
# there is one key; each engine answers; what they serve is verified.
AGREED = "agreed"


class Member(t.NamedTuple):
    """What a host is among those behind one router.

    ``router`` is the host that has the router, ``hosts`` are all of them. ``address`` is where the engine of this host listens, ``urls``
    are those of all engines by host.
    """

    me: str
    router: str
    hosts: tuple[str, ...]
    address: str
    urls: t.Mapping[str, str]

    @property
    def has_router(self) -> bool:
        """Whether this host has the router, and the page."""
        return self.me == self.router

    @property
    def has_engine(self) -> bool:
        """Whether this host has an engine."""
        return self.me in self.urls

    @property
    def url(self) -> t.Optional[str]:
        """The URL of this host's own engine; None where there is none."""
        return self.urls.get(self.me)

    def told(self) -> dict[str, t.Any]:
        """Return it as the plan has it."""
        return {
            "router": self.router,
            "hosts": list(self.hosts),
            "engines": dict(self.urls),
            "url": self.url,
            "has_router": self.has_router,
            "has_engine": self.has_engine,
        }


def find(hostvars: HostVars, me: str, among: t.Sequence[str]) -> t.Optional[dict[str, t.Any]]:
    """Return who shares the router of the host *me*, and where their engines listen as far as that is known; None without a shared router.

    *among*: all hosts that the play is for, whether this run has them or not. Raises ServingError for an inventory that contradicts
    itself.
    """
    router = _text(hostvars, me, "vllm_router_host")
    if not router:
        return None
    if router not in among:
        raise ServingError(f'vllm_router_host: "{router}" is none of the hosts here{did_you_mean(router, among)}: {", ".join(among)}.')
    theirs = _text(hostvars, router, "vllm_router_host")
    if theirs != router:
        instead = f"has its own on {theirs}" if theirs else "does not know it"
        raise ServingError(
            f"vllm_router_host: {router} is to have the router of {me}, and {instead}. "
            f"Set vllm_router_host: {router} for both of them, in the variables of their group."
        )
    stack = _stack(hostvars, me)
    hosts = [host for host in among if _text(hostvars, host, "vllm_router_host") == router and _stack(hostvars, host) == stack]
    only = [host for host in hosts if _text(hostvars, host, "vllm_router_only").lower() in ("true", "yes", "on", "1")]
    for host in only:
        if host != router:
            raise ServingError(
                f"vllm_router_only: {host} would have neither an engine nor a router, as that is on {router}. Remove it from {host}."
            )
    if only == hosts:
        raise ServingError(
            f"vllm_router_only: {router} would have no engine behind it. Give vllm_router_host: {router} to other hosts, too."
        )
    return {"me": me, "router": router, "hosts": hosts, "engines": {host: _where(hostvars, host) for host in hosts if host not in only}}


def _text(hostvars: HostVars, host: str, name: str) -> str:
    value = hostvars[host].get(name)
    return "" if value is None else str(value)


def _stack(hostvars: HostVars, host: str) -> str:
    return _text(hostvars, host, "vllm_stack_name") or USUAL


def _where(hostvars: HostVars, host: str) -> dict[str, t.Any]:
    """Return address and port of an engine: as found on *host* or, before anybody has looked, as asked for."""
    found = hostvars[host].get(FOUND) or {}
    asked = _text(hostvars, host, "vllm_engine_address") or _text(hostvars, host, "ansible_host") or host
    port = (found.get("ports") or {}).get(ENGINE) or hostvars[host].get("vllm_engine_port") or USUAL_ENGINE_PORT
    return {"asked": asked, "address": found.get("address") or asked, "port": int(port)}


def check(settings: Settings) -> None:
    """Raise ServingError where a router for several hosts cannot be had, or something is set that is for it only."""
    if not settings["vllm_router_host"]:
        for name in OPTIONS[1:]:
            if settings[name]:
                raise ServingError(f"{name}: only hosts behind one router have this. Remove it, or set vllm_router_host.")
        return
    if settings["vllm_platform"] not in PLATFORMS:
        raise ServingError(
            f"vllm_router_host: the platform {settings['vllm_platform']} has nothing that this could set; it is for "
            f"{' and '.join(PLATFORMS)}. Remove it from the inventory."
        )
    if not settings["vllm_api_key_enabled"]:
        raise ServingError(
            "vllm_api_key_enabled is false, but engines behind a router on another host listen in the network, where the key alone keeps "
            "others out. Remove it, or vllm_router_host."
        )
    if settings["vllm_router_type"] == "production-stack":
        raise ServingError(
            "vllm_router_type: production-stack does not notice that a host is gone, unless it is a cluster's. With vllm_router_host, set "
            "vllm_router_type: vllm-router."
        )


def member(settings: Settings, port: int, address: t.Optional[str]) -> t.Optional[Member]:
    """Return what this host is, None where it has a router of its own.

    *port* and *address* are where the engine of this host listens, None where nobody has looked for an address.
    """
    found = settings.get("vllm_together")
    if not settings["vllm_router_host"] or not found:
        return None
    engines = {host: dict(where) for host, where in found["engines"].items()}
    me = found["me"]
    if me in engines:
        engines[me] = {**engines[me], "address": address or engines[me]["address"], "port": port}
    urls = {host: f"http://{where['address']}:{where['port']}" for host, where in engines.items()}
    return Member(me, found["router"], tuple(found["hosts"]), engines[me]["address"] if me in engines else "", urls)


def asked_address(settings: Settings) -> str:
    """Return where the engine of this host shall listen, as the inventory has it: an address, or a name that the host knows as its own."""
    found = settings["vllm_together"]
    return str(found["engines"][found["me"]]["asked"])


def missing(hostvars: HostVars, together: t.Mapping[str, t.Any], me: str, playing: t.Container[str], stage: str) -> str:
    """Return why the host *me* may not go on by itself, an empty text where all are as far as *stage*.

    *together*: that part of its plan. *playing*: the hosts that this run is for.
    """
    others = [host for host in together["hosts"] if host != me]
    left_out = [host for host in others if host not in playing]
    if left_out:
        return (
            f"{me} is behind one router with {', '.join(left_out)}, and they change together; this run leaves out {', '.join(left_out)}. "
            "Run it without --limit, or take what is to stay away out of the inventory. Nothing was changed."
        )
    failed = [host for host in others if hostvars[host].get(STAGE) != stage]
    if failed:
        reasons = [f"{host}: {reason}" for host in failed for reason in [_reason(hostvars[host].get(FAILED))] if reason]
        told = f" {' '.join(reasons)}" if reasons else ""
        return f"{', '.join(failed)} has failed, and hosts behind one router change together, so {me} does not go on.{told}"
    return _disagreement({host: hostvars[host][PLAN] for host in together["hosts"]}, me) if stage == AGREED else ""


def _reason(result: t.Any) -> str:
    """Return the first line of the message of a failed task."""
    message = str(result.get("msg") or "").strip() if isinstance(result, t.Mapping) else ""
    return message.splitlines()[0] if message else ""


def _disagreement(plans: t.Mapping[str, t.Mapping[str, t.Any]], me: str) -> str:
    """Return in what the engines of *plans* differ from that of the host *me*, though a router may send a request to each of them."""
    mine = plans[me]
    for host, plan in plans.items():
        for what, of_plan in _ALIKE.items():
            ours, theirs = of_plan(mine), of_plan(plan)
            if ours != theirs:
                return (
                    f"{host} and {me} are behind one router, which sends a request to any of its engines, but {what} is {theirs} on {host} "
                    f"and {ours} on {me}. Set it alike, in the variables of their group. Nothing was changed."
                )
    return ""


# What a client notices of an engine.
_ALIKE: dict[str, t.Callable[[t.Mapping[str, t.Any]], t.Any]] = {
    "llm_platform": lambda plan: plan["platform"],
    "vllm_model_name": lambda plan: plan["model"]["name"],
    "vllm_served_model_alias": lambda plan: plan["model"]["alias"],
    "max_model_len": lambda plan: plan["model"]["max_model_len"],
    "tool_call_parser": lambda plan: plan["model"]["tool_call_parser"],
    "reasoning_parser": lambda plan: plan["model"]["reasoning_parser"],
}


def way_back_url(programs: t.Sequence[Program], router: str, router_url: str, engine: str) -> str:
    """Return where *programs*, those that were verified last, answer: at the router where there is one, else at their engine.

    *router* and *engine* are what these two are called. What runs now may have been installed with another inventory, so the engine's
    address is taken from its own command line, or from the port that its container publishes.
    """
    by_name = {program["name"]: program for program in programs}
    if router in by_name or engine not in by_name:
        return router_url
    published = by_name[engine].get("published_ports") or []
    if published:
        address, port, _inside = str(published[0]).rsplit(":", 2)
        return f"http://{address}:{port}"
    words = [str(word) for word in by_name[engine]["command"]]
    return f"http://{words[words.index('--host') + 1]}:{words[words.index('--port') + 1]}"
