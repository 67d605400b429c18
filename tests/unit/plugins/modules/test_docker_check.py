# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What docker_check returns, and in which order it finds what is in the way."""

from __future__ import annotations

import shutil
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._docker import Docker
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import docker_check

ANSWERS = {
    "/version": {"Version": "28.2.2", "ApiVersion": "1.50", "Arch": "amd64", "Components": [{"Name": "Engine"}]},
    "/info": {"DockerRootDir": "/", "Runtimes": {"runc": {}, "nvidia": {}}, "SecurityOptions": []},
    "/images/here%3A1/json": {"Architecture": "amd64"},
    "/containers/vllm-router/json": {"NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}}},
}


class Known(Docker):
    """A Docker with the answers above."""

    def get(self, path: str, **_query: t.Any) -> t.Any:
        return ANSWERS[path]

    def _if_there(self, path: str) -> t.Any:
        return ANSWERS.get(path.replace(":", "%3A"))


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def run(check_mode: bool = False, user: int = 0, has_requests: bool = True, **changes: t.Any) -> dict[str, t.Any]:
    params: dict[str, t.Any] = {
        "docker_host": "unix:///var/run/docker.sock",
        "gpus": True,
        "images": [{"name": "here:1", "mib": 100}, {"name": "absent:1", "mib": 1}],
        "pull": "IfNotPresent",
        "containers": ["vllm-backend", "vllm-router"],
        "network": "llmops-serving-chat",
    }
    return docker_check.run({**params, **changes}, check_mode, Known, lambda: user, has_requests)


def test_what_is_there_and_what_has_to_be_pulled() -> None:
    found = run()
    assert not found["changed"]
    assert (found["engine"], found["missing_images"], found["missing_mib"]) == ("Docker 28.2.2", ["absent:1"], 1)
    assert found["ports"] == [8000]


def test_always_pulls_what_is_there_too() -> None:
    assert run(pull="Always")["missing_images"] == ["here:1", "absent:1"]


def test_a_rehearsal_has_no_network_to_compare_with() -> None:
    assert run()["network_usable"]
    assert not run(check_mode=True)["network_usable"]
    assert run(check_mode=True, network=None)["network_usable"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"user": 1000}, "llm_platform: docker needs root on the host.*ansible_become: true"),
        ({"has_requests": False}, "lacks the library requests"),
        ({"pull": "Never"}, "The image absent:1 is not on the host"),
    ],
)
def test_what_is_in_the_way(changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(ServingError, match=words):
        run(**changes)
