# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker's API over a socket, what is judged of it, and containers as programs that are kept running."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
import typing as t
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _docker
from ansible_collections.llmops.serving.plugins.module_utils._docker import Containers, Docker, Engine, Image
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._keepers import Watch
from ansible_collections.llmops.serving.plugins.module_utils._logs import START_MARK

# As Docker 20.10 of Debian 12 answers.
VERSION = {"Version": "20.10.24+dfsg1", "ApiVersion": "1.41", "Arch": "amd64", "Components": [{"Name": "Engine"}, {"Name": "containerd"}]}
INFO = {
    "DockerRootDir": "/var/lib/docker",
    "Runtimes": {"io.containerd.runc.v2": {"path": "runc"}, "runc": {"path": "runc"}},
    "SecurityOptions": ["name=seccomp,profile=default"],
}
RUNNING = {
    "Status": "running",
    "Pid": 4711,
    "ExitCode": 0,
    "StartedAt": "2026-11-22T06:45:43.058093Z",
    "FinishedAt": "0001-01-01T00:00:00Z",
}


def nowhere(_name: str) -> None:
    return None


def engine(gpus: bool = False, info: t.Optional[dict[str, t.Any]] = None, version: t.Optional[dict[str, t.Any]] = None) -> Engine:
    return _docker.engine({**VERSION, **(version or {})}, {**INFO, **(info or {})}, lambda name: f"/usr/bin/{name}" if gpus else None)


class Answers:
    """An API that gives fixed answers: by path a status and a body."""

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, tuple[int, t.Any]] = {}
        self.url = f"unix://{path}"
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = outer.answers.get(urlsplit(self.path).path, (404, {"message": "no such thing"}))
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def address_string(self) -> str:
                return "test"

            def log_message(self, *_args: t.Any) -> None:
                return None

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def api(tmp_path: Path) -> t.Iterator[Answers]:
    answers = Answers(tmp_path / "docker.sock")
    yield answers
    answers.close()


def frame(text: str, stream: int = 1) -> bytes:
    data = text.encode()
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


# --- the API ------------------------------------------------------------------------------------------------------------------------


def test_what_is_there_and_what_is_not(api: Answers) -> None:
    api.answers["/containers/vllm-backend/json"] = (200, {"State": RUNNING})
    docker = Docker(api.url)
    assert docker.container("vllm-backend") == {"State": RUNNING}
    assert docker.container("open-webui") is None
    assert docker.image("vllm/vllm-openai:v0.32.0") is None


def test_an_error_of_docker_is_told_in_its_words(api: Answers) -> None:
    api.answers["/info"] = (500, {"message": "disk on fire"})
    with pytest.raises(ServingError, match="Docker answers 500 to GET /info: disk on fire"):
        Docker(api.url).get("/info")


def test_a_log_is_both_streams_in_their_order(api: Answers) -> None:
    api.answers["/containers/vllm-backend/logs"] = (200, frame("first\n") + frame("second\n", 2) + frame("third\n"))
    assert Docker(api.url).log("vllm-backend") == "first\nsecond\nthird\n"


def test_a_log_of_a_terminal_has_no_frames() -> None:
    assert _docker.demultiplexed(b"plain words, and more of them\n") == "plain words, and more of them\n"
    assert _docker.demultiplexed(b"") == ""


@pytest.mark.parametrize(
    ("url", "programs", "paths", "words"),
    [
        (_docker.SOCKET, [], [], "Docker is not installed. Install it: apt install docker.io"),
        (_docker.SOCKET, ["dockerd"], [], "Docker is installed, and does not run. Start it: systemctl enable --now docker"),
        (_docker.SOCKET, ["podman"], ["/run/podman/podman.sock"], "Podman's service is there. Set llm_docker_host: unix:///run/podman/"),
        (_docker.SOCKET, ["podman"], [], "systemctl enable --now podman.socket, and llm_docker_host"),
        ("unix:///run/other.sock", ["dockerd"], [], "Check llm_docker_host"),
    ],
)
def test_nobody_listens(url: str, programs: list[str], paths: list[str], words: str) -> None:
    told = _docker._absent(url, lambda name: name if name in programs else None, lambda path: path in paths)
    assert told.startswith(f"Nothing answers at {url}")
    assert words in told


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"Nothing answers at unix:///.*Check llm_docker_host"):
        Docker(f"unix://{tmp_path}/none.sock").get("/version")


# --- what is judged -----------------------------------------------------------------------------------------------------------------


def test_debians_docker_serves_without_gpus() -> None:
    found = engine()
    assert (found.title, found.root_dir, found.architecture) == ("Docker 20.10.24+dfsg1", "/var/lib/docker", "amd64")
    _docker.check_engine(found, gpus=False)
    with pytest.raises(ServingError, match=r"has no NVIDIA Container Toolkit: its runtimes are io.containerd.runc.v2, runc. Install"):
        _docker.check_engine(found, gpus=True)


@pytest.mark.parametrize(
    "found",
    [
        engine(gpus=True),
        engine(info={"Runtimes": {"nvidia": {"path": "nvidia-container-runtime"}, "runc": {}}}),
        engine(info={"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}),
    ],
    ids=["hook", "runtime", "cdi"],
)
def test_three_ways_to_a_gpu(found: Engine) -> None:
    _docker.check_engine(found, gpus=True)


@pytest.mark.parametrize(
    ("found", "gpus", "words"),
    [
        (engine(version={"ApiVersion": "1.39"}), False, "speaks API 1.39; 1.40 is needed"),
        (engine(info={"SecurityOptions": ["name=rootless"]}), False, r"\(rootless\): its containers have other users"),
        (engine(info={"SecurityOptions": ["name=userns"]}), False, "userns-remap"),
        (engine(gpus=True, version={"Components": [{"Name": "Podman Engine"}]}), True, "Podman .* takes no GPUs through Docker's API"),
    ],
)
def test_engines_that_cannot_serve(found: Engine, gpus: bool, words: str) -> None:
    with pytest.raises(ServingError, match=words):
        _docker.check_engine(found, gpus)


def test_podman_serves_on_cpus() -> None:
    found = engine(version={"Version": "4.3.1", "Components": [{"Name": "Podman Engine"}]})
    _docker.check_engine(found, gpus=False)
    assert found.title == "Podman 4.3.1"


def test_programs_and_libraries_that_are_missing() -> None:
    with pytest.raises(ServingError, match=r"/usr/bin/python3 lacks the library requests.*apt install python3-requests"):
        _docker.check_programs("docker", has_requests=False, python="/usr/bin/python3", which=str)
    with pytest.raises(ServingError, match=r"The program docker is not there.*apt install docker-cli"):
        _docker.check_programs("docker", has_requests=True, python="/usr/bin/python3", which=nowhere)
    with pytest.raises(ServingError, match="apt install podman-docker"):
        _docker.check_programs("podman", has_requests=True, python="/usr/bin/python3", which=nowhere)
    _docker.check_programs("docker", has_requests=True, python="/usr/bin/python3", which=str)


def test_images_that_are_missing_are_pulled_and_never_where_that_is_asked() -> None:
    here, absent = Image("here:1", 100, {"Architecture": "amd64"}), Image("absent:1", 200, None)
    assert _docker.check_images([here, absent], "amd64", "IfNotPresent") == [absent]
    assert _docker.check_images([here], "amd64", "Never") == []
    with pytest.raises(ServingError, match="The image absent:1 is not on the host, and vllm_image_pull_policy is Never"):
        _docker.check_images([here, absent], "amd64", "Never")


def test_an_image_for_another_processor() -> None:
    with pytest.raises(ServingError, match="The image here:1 is for arm64, and this host is amd64"):
        _docker.check_images([Image("here:1", 100, {"Architecture": "arm64"})], "amd64", "IfNotPresent")


def test_a_disk_that_is_too_small_for_images() -> None:
    _docker.check_disk("/var/lib/docker", 100, ["a:1"], lambda path: 101 * 2**20)
    with pytest.raises(ServingError, match=r"a:1 and b:1 will take about 30,000 MiB in /var/lib/docker; 99 MiB are free"):
        _docker.check_disk("/var/lib/docker", 30000, ["a:1", "b:1"], lambda path: 99 * 2**20)


def test_ports_that_containers_have() -> None:
    container = {"NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8002"}], "29000/tcp": None}}}
    assert _docker.published_ports([container, None, {"NetworkSettings": {"Ports": {}}}]) == [8002]


# --- containers as programs ---------------------------------------------------------------------------------------------------------


def test_a_container_that_runs() -> None:
    info = _docker.process_info("vllm-backend", {"State": RUNNING})
    assert (info.state, info.pid, info.started_at, info.stopped_at) == ("RUNNING", 4711, 1795329943, 0)
    assert info.log_at == "docker logs vllm-backend"
    assert _docker.process_info("a", {"State": RUNNING}, "unix:///x.sock").log_at == "DOCKER_HOST=unix:///x.sock docker logs a"


@pytest.mark.parametrize(
    ("state", "expected", "exit_status"),
    [
        ({"Status": "restarting", "ExitCode": 1}, "BACKOFF", 1),
        ({"Status": "exited", "ExitCode": 137}, "EXITED", -1),
        ({"Status": "created", "ExitCode": 0}, "STOPPED", 0),
        ({"Status": "paused", "ExitCode": 0}, "UNKNOWN", 0),
    ],
)
def test_states_in_the_words_of_keepers(state: dict[str, t.Any], expected: str, exit_status: int) -> None:
    info = _docker.process_info("x", {"State": state})
    assert (info.state, info.exit_status, info.pid) == (expected, exit_status, None)


def test_times_with_and_without_a_zone() -> None:
    assert _docker.seconds("2026-11-22T08:45:43+02:00") == _docker.seconds("2026-11-22T06:45:43Z") == 1795329943
    assert _docker.seconds("0001-01-01T00:00:00Z") == _docker.seconds(None) == 0


def test_what_ended_an_engine_is_told_with_the_line_of_its_log(api: Answers) -> None:
    api.answers["/containers/vllm-backend/json"] = (200, {"State": {"Status": "restarting", "ExitCode": 1}})
    log = f"{START_MARK} vllm-backend, 2026-11-22 07:00:00\nmain.py: error: unrecognized arguments: --no-such-flag\n"
    api.answers["/containers/vllm-backend/logs"] = (200, frame(log, 2))
    watch = Watch(Containers(Docker(api.url), ["vllm-backend"]), "the model answered")
    with pytest.raises(ServingError, match=r"vllm-backend ended before the model answered: .*no-such-flag"):
        watch.look(["vllm-backend"])


def test_a_container_that_the_kernel_killed(api: Answers) -> None:
    state = {"Status": "restarting", "ExitCode": 137, "OOMKilled": True}
    api.answers["/containers/vllm-backend/json"] = (200, {"State": state, "HostConfig": {"Memory": 2**30}})
    api.answers["/containers/vllm-backend/logs"] = (200, b"")
    watch = Watch(Containers(Docker(api.url), ["vllm-backend"]), "the model answered")
    with pytest.raises(ServingError, match=r"the kernel killed it, because its container may have no more memory \(1024 MiB\)"):
        watch.look(["vllm-backend"])


def test_a_container_that_was_started_anew_has_ended_before(api: Answers) -> None:
    containers = Containers(Docker(api.url), ["vllm-router"])
    watch = Watch(containers, "the model answered")
    api.answers["/containers/vllm-router/json"] = (200, {"State": RUNNING})
    api.answers["/containers/vllm-router/logs"] = (200, frame("thread 'main' panicked at src/main.rs\n"))
    watch.look(["vllm-router"])
    api.answers["/containers/vllm-router/json"] = (200, {"State": {**RUNNING, "Pid": 4712}})
    with pytest.raises(ServingError, match=r"vllm-router ended .*Its log: DOCKER_HOST=unix://.* docker logs vllm-router"):
        watch.look(["vllm-router"])


def test_a_container_that_is_not_there(api: Answers) -> None:
    with pytest.raises(ServingError, match="open-webui"):
        Watch(Containers(Docker(api.url), ["open-webui"]), "it was ready").look(["open-webui"])
