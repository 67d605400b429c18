# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the Kubernetes API, over a transport that answers from a script."""

from __future__ import annotations

import json
import types
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, KubeError

POD = "/api/v1/namespaces/chatbot/pods/vllm-backend-1"


class Answer:
    def __init__(self, status: int, document: t.Any) -> None:
        self.status = status
        self.data = b""
        self._document = document

    def read(self) -> None:
        self.data = json.dumps(self._document).encode()


class Transport:
    """As much of the client's ApiClient as Kube uses; ``calls`` are the requests as they would be sent."""

    configuration = types.SimpleNamespace(host="https://cluster.test")

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.calls: list[dict[str, t.Any]] = []

    def param_serialize(self, method: str, path: str, **options: t.Any) -> tuple[t.Any, ...]:
        self.calls.append({"method": method, "path": path, **options})
        return (method, path)

    def call_api(self, *_call: t.Any, _request_timeout: tuple[float, float]) -> Answer:
        return self.answers.pop(0)


def test_a_patch_sends_the_fields_that_change_and_returns_the_object() -> None:
    body = {"metadata": {"labels": {"serving.llmops/routed": "false"}}}
    transport = Transport(Answer(200, {"kind": "Pod", **body}))
    kube = Kube(transport)
    assert kube.patch(POD, body) == {"kind": "Pod", **body}
    [call] = transport.calls
    assert (call["method"], call["path"], call["body"], call["query_params"]) == ("PATCH", POD, body, [])
    assert call["header_params"]["Content-Type"] == "application/merge-patch+json"
    assert kube.sent == [f"PATCH {POD}"]


def test_a_patch_of_what_is_not_there_says_so() -> None:
    kube = Kube(Transport(Answer(404, {"kind": "Status", "reason": "NotFound", "message": 'pods "vllm-backend-1" not found'})))
    with pytest.raises(KubeError, match=r'^pods "vllm-backend-1" not found\.$') as caught:
        kube.patch(POD, {})
    assert caught.value.status == 404
