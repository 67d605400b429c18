# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Docker on this host: its API over a Unix socket, whether it can serve, and its containers as programs that are kept running.

What is asked goes through Docker; what is judged are pure functions. Podman's service speaks the same API.
"""

from __future__ import annotations

import calendar
import contextlib
import getpass
import http.client
import json
import os
import re
import shutil
import socket
import time
import typing as t
from urllib.parse import quote, urlencode

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._keepers import ProcessInfo

Object = dict[str, t.Any]

SOCKET = "unix:///var/run/docker.sock"
PODMAN_SOCKET = "unix:///run/podman/podman.sock"
ANSWER_S = 30.0
LOG_LINES = 600
# The first API that takes GPUs (Docker 19.03).
LEAST_API = (1, 40)
NEVER = "Never"
# Folders of the state folder: what all containers read, and the secrets of each.
SCRIPTS, CONTAINERS = "bin", "containers"
# Beside a runtime of this name, Docker hands out GPUs where it found this program at its start.
GPU_HOOK = "nvidia-container-runtime-hook"

# States of a container in the words of ProcessInfo.
_STATES = {"running": "RUNNING", "created": "STOPPED", "restarting": "BACKOFF", "exited": "EXITED", "dead": "FATAL", "removing": "STOPPING"}
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")
_OUT_OF_MEMORY = "the kernel killed it, because its container may have no more memory ({limit} MiB)"


class DockerError(ServingError):
    """Docker's answer is an error; ``status`` is that of HTTP, 0 where none came."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Docker:
    """The API behind *url* (``unix:///path``). Every method raises DockerError when it does not answer, or answers with an error."""

    def __init__(self, url: str = SOCKET, timeout_s: float = ANSWER_S) -> None:
        self.url = url
        self.path = url[len("unix://") :]
        self.timeout_s = timeout_s

    def get(self, path: str, **query: t.Any) -> t.Any:
        """Return what stands at *path*, read from JSON."""
        return json.loads(self.read(path, **query) or b"null")

    def read(self, path: str, **query: t.Any) -> bytes:
        """Return the bytes at *path*."""
        connection = _UnixConnection(self.path, self.timeout_s)
        try:
            connection.request("GET", f"{path}?{urlencode(query)}" if query else path, headers={"Host": "docker"})
            answer = connection.getresponse()
            body = answer.read()
        except socket.timeout:
            raise DockerError(
                f"Docker at {self.url} does not answer within {self.timeout_s:.0f} s. Look: systemctl status docker"
            ) from None
        except PermissionError:
            raise DockerError(_forbidden(self.path)) from None
        except (FileNotFoundError, ConnectionError):
            raise DockerError(_absent(self.url)) from None
        except (OSError, http.client.HTTPException) as exc:
            raise DockerError(f"Docker at {self.url} cannot be asked: {exc}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise DockerError(f"Docker answers {answer.status} to GET {path}: {_message(body)}", answer.status)
        return body

    def container(self, name: str) -> t.Optional[Object]:
        """Return a container as ``docker inspect`` shows it, None where there is none."""
        return self._if_there(f"/containers/{quote(name)}/json")

    def image(self, name: str) -> t.Optional[Object]:
        """Return an image as ``docker image inspect`` shows it, None where there is none."""
        return self._if_there(f"/images/{quote(name)}/json")

    def network(self, name: str) -> t.Optional[Object]:
        """Return a network as ``docker network inspect`` shows it, None where there is none."""
        return self._if_there(f"/networks/{quote(name)}")

    def log(self, name: str, lines: int = LOG_LINES) -> str:
        """Return the last *lines* that a container wrote, in all of its starts."""
        return demultiplexed(self.read(f"/containers/{quote(name)}/logs", stdout=1, stderr=1, tail=lines))

    def _if_there(self, path: str) -> t.Optional[Object]:
        try:
            return t.cast("Object", self.get(path))
        except DockerError as exc:
            if exc.status != 404:
                raise
            return None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def demultiplexed(data: bytes) -> str:
    """Return the text in *data*: frames with a header of 8 bytes, or, of a container with a terminal, the text itself."""
    parts, at = [], 0
    while at < len(data):
        header = data[at : at + 8]
        if len(header) < 8 or header[0] > 2 or header[1:4] != b"\0\0\0":
            parts.append(data[at:])
            break
        size = int.from_bytes(header[4:], "big")
        parts.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return b"".join(parts).decode(errors="replace")


def _message(body: bytes) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(body).get("message") or "no reason given")
    return body.decode(errors="replace").strip() or "no reason given"


# --- whether it can serve --------------------------------------------------------------------------------------------------------------


def _forbidden(path: str) -> str:
    user = getpass.getuser()
    return (
        f"{user} may not use Docker: no permission for {path}. Set ansible_become: true in the inventory, or add {user} to the group "
        f"docker (usermod -aG docker {user}), which makes it as mighty as root, and connect anew."
    )


def _absent(url: str, which: t.Callable[[str], t.Optional[str]] = shutil.which, exists: t.Callable[[str], bool] = os.path.exists) -> str:
    """Return what to do where nobody listens at *url*."""
    began = f"Nothing answers at {url}"
    if which("dockerd") and url == SOCKET:
        return f"{began}: Docker is installed, and does not run. Start it: systemctl enable --now docker"
    if exists(PODMAN_SOCKET[len("unix://") :]) and url == SOCKET:
        return f"{began}, but Podman's service is there. Set llm_docker_host: {PODMAN_SOCKET}, or install Docker: apt install docker.io"
    if which("podman") and url in (SOCKET, PODMAN_SOCKET):
        return (
            f"{began}. Podman is installed; its service: systemctl enable --now podman.socket, and llm_docker_host: {PODMAN_SOCKET}. "
            "Or install Docker: apt install docker.io"
        )
    if url != SOCKET:
        return f"{began}. Check llm_docker_host, and that the service behind it runs."
    return f"{began}: Docker is not installed. Install it: apt install docker.io (https://docs.docker.com/engine/install/)"


class Engine(t.NamedTuple):
    """What serves the API: ``kind`` is docker or podman; ``gpus``: whether it can hand out those of NVIDIA."""

    kind: str
    version: str
    api_version: str
    architecture: str
    root_dir: str
    rootless: bool
    maps_users: bool
    gpus: bool
    runtimes: list[str]

    @property
    def title(self) -> str:
        """The engine and its version, for people."""
        return f"{self.kind.capitalize()} {self.version}{' (rootless)' if self.rootless else ''}"


def engine(version: Object, info: Object, which: t.Callable[[str], t.Optional[str]] = shutil.which) -> Engine:
    """Return what the answers of ``/version`` and ``/info`` say."""
    components = [str(component.get("Name")) for component in version.get("Components") or []]
    podman = any("Podman" in name for name in components)
    security = " ".join(info.get("SecurityOptions") or [])
    runtimes = sorted(info.get("Runtimes") or {})
    cdi = any("nvidia" in str(device.get("ID")) for device in info.get("DiscoveredDevices") or [])
    return Engine(
        kind="podman" if podman else "docker",
        version=str(version.get("Version")),
        api_version=str(version.get("ApiVersion")),
        architecture=str(version.get("Arch")),
        root_dir=str(info.get("DockerRootDir") or "/var/lib/docker"),
        rootless="rootless" in security,
        maps_users="userns" in security,
        gpus=not podman and ("nvidia" in runtimes or cdi or bool(which(GPU_HOOK))),
        runtimes=runtimes,
    )


def check_engine(found: Engine, gpus: bool) -> None:
    """Raise ServingError where *found* cannot serve; *gpus*: whether the model needs some."""
    if tuple(int(part) for part in found.api_version.split(".")) < LEAST_API:
        least = ".".join(map(str, LEAST_API))
        raise ServingError(f"{found.title} speaks API {found.api_version}; {least} is needed, as Docker 19.03 has it. Update it.")
    if found.maps_users and not found.rootless:
        raise ServingError(
            f"{found.title} maps the users of its containers (userns-remap), so they could not read their files of the host. Turn that off "
            "in /etc/docker/daemon.json, or choose llm_platform: systemd."
        )
    if found.rootless:
        raise ServingError(
            f"{found.title}: its containers have other users than the host, so they could not read their files. Use the Docker of the "
            "whole host (llm_docker_host), or llm_platform: local, which needs no root either."
        )
    if gpus and found.kind == "podman":
        raise ServingError(
            f"{found.title} takes no GPUs through Docker's API. Use Docker for this model, llm_platform: systemd, or vllm_accelerator: cpu."
        )
    if gpus and not found.gpus:
        raise ServingError(
            f"{found.title} has no NVIDIA Container Toolkit: its runtimes are {', '.join(found.runtimes) or 'not told'}. Install "
            "nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker && systemctl restart docker. Without a GPU: "
            "vllm_accelerator: cpu."
        )


def check_programs(kind: str, has_requests: bool, python: str, which: t.Callable[[str], t.Optional[str]] = shutil.which) -> None:
    """Raise ServingError where a program or a library is missing that Ansible or this collection runs on the host."""
    if not has_requests:
        raise ServingError(
            f"{python} lacks the library requests, which community.docker needs on the host. Install it: apt install python3-requests"
        )
    if not which("docker"):
        package = "podman-docker" if kind == "podman" else "docker-cli (or docker.io)"
        raise ServingError(f"The program docker is not there; images are pulled by it. Install it: apt install {package}")


class Image(t.NamedTuple):
    """An image that is wanted: what it takes on disk (MiB, roughly), and what Docker knows of it, None where it is not there."""

    name: str
    mib: int
    found: t.Optional[Object]


def check_images(images: t.Iterable[Image], architecture: str, pull: str) -> list[Image]:
    """Return the images that have to be pulled. Raises ServingError for one that is for another processor, or may not be pulled."""
    missing = []
    for image in images:
        theirs = str((image.found or {}).get("Architecture") or architecture)
        if theirs != architecture:
            raise ServingError(f"The image {image.name} is for {theirs}, and this host is {architecture}. Name one for {architecture}.")
        if image.found is None:
            missing.append(image)
    if missing and pull == NEVER:
        raise ServingError(
            f"The image {missing[0].name} is not on the host, and vllm_image_pull_policy is Never. Bring it there (docker load -i FILE), "
            "or remove the line."
        )
    return missing


def check_disk(
    root_dir: str, needed_mib: int, names: t.Sequence[str], free: t.Callable[[str], int] = lambda path: shutil.disk_usage(path).free
) -> None:
    """Raise ServingError where the images *names* do not fit onto the disk of *root_dir*; where nobody can look, they do."""
    with contextlib.suppress(OSError):
        free_mib = free(root_dir) // 2**20
        if free_mib < needed_mib:
            raise ServingError(
                f"{' and '.join(names)} will take about {needed_mib:,} MiB in {root_dir}; {free_mib:,} MiB are free. Make room (docker "
                "image prune), or give Docker a larger disk (data-root in /etc/docker/daemon.json)."
            )


def published_ports(containers: t.Iterable[t.Optional[Object]]) -> list[int]:
    """Return the ports of the host on which *containers* that run listen."""
    ports: set[int] = set()
    for container in containers:
        settings = (container or {}).get("NetworkSettings") or {}
        for bindings in (settings.get("Ports") or {}).values():
            ports.update(int(binding["HostPort"]) for binding in bindings or [] if binding.get("HostPort"))
    return sorted(ports)


# --- containers as programs ------------------------------------------------------------------------------------------------------------


class Containers:
    """The containers *names* of this host, which Docker keeps running: a Keeper."""

    def __init__(self, docker: Docker, names: t.Iterable[str]) -> None:
        self.docker = docker
        self.names = list(names)

    def processes(self) -> list[ProcessInfo]:
        """Return those of the containers that are there."""
        found = [self.docker.container(name) for name in self.names]
        return [process_info(name, container, self.docker.url) for name, container in zip(self.names, found) if container]

    def log_of(self, info: ProcessInfo) -> str:
        """Return the end of a container's log."""
        return self.docker.log(info.name)


def process_info(name: str, container: Object, url: str = SOCKET) -> ProcessInfo:
    """Return what ``docker inspect`` says of a *container* as what keepers say of a program."""
    state = container.get("State") or {}
    runs = state.get("Status") == "running"
    exit_code = int(state.get("ExitCode") or 0)
    error = "" if runs else str(state.get("Error") or "")
    if state.get("OOMKilled") and not runs:
        error = _OUT_OF_MEMORY.format(limit=int((container.get("HostConfig") or {}).get("Memory") or 0) // 2**20)
    return ProcessInfo(
        name=name,
        state=_STATES.get(str(state.get("Status")), "UNKNOWN"),
        pid=state.get("Pid") or None,
        # 128 and a signal's number, as a shell has it
        exit_status=-1 if exit_code > 128 else exit_code,
        started_at=seconds(state.get("StartedAt")),
        stopped_at=seconds(state.get("FinishedAt")),
        spawn_error=error,
        log_at=f"{'' if url == SOCKET else f'DOCKER_HOST={url} '}docker logs {name}",
    )


def seconds(moment: t.Any) -> int:
    """Return *moment* (``2026-11-22T06:45:43.058Z``) in seconds since 1970; 0 for none."""
    found = _TIME.match(str(moment))
    if not found:
        return 0
    since = calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S"))
    if found[2] != "Z":
        sign, hours, minutes = found[2][0], int(found[2][1:3]), int(found[2][4:])
        since -= (1 if sign == "+" else -1) * (hours * 3600 + minutes * 60)
    return max(0, since)
