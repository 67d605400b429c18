# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a page in a container: until it answers, or has ended."""

from __future__ import annotations

import http.server
import threading
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._docker import Docker
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import docker_wait


class Ended(Docker):
    """A Docker whose container ends again and again."""

    def container(self, name: str) -> t.Optional[dict[str, t.Any]]:
        return {"State": {"Status": "restarting", "ExitCode": 1}}

    def log(self, name: str, lines: int = 0) -> str:
        return "=== start of open-webui, 2026-11-22 07:00:00\nsqlite3.OperationalError: unable to open database file\n"


class Page(http.server.BaseHTTPRequestHandler):
    """A page that is ready."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_args: t.Any) -> None:
        return None


@pytest.fixture
def page() -> t.Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/ready"
        server.shutdown()
        thread.join()


def run(url: str, check_mode: bool = False) -> dict[str, t.Any]:
    params = {"docker_host": "unix:///none.sock", "ready_urls": {"open-webui": url}, "wait_timeout": 30, "progress_path": None}
    return docker_wait.run(params, check_mode, Ended)


def test_a_page_that_answers_is_ready(page: str) -> None:
    assert run(page) == {"changed": False, "ready": True}


def test_a_page_that_ends_is_not_waited_for() -> None:
    with pytest.raises(ServingError, match=r"open-webui ended before it was ready: .*unable to open database file"):
        run("http://127.0.0.1:1/ready")


def test_a_rehearsal_does_not_wait() -> None:
    assert run("http://127.0.0.1:1/ready", check_mode=True) == {"changed": False, "ready": False}
