# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pulling and loading against a stand-in for Ollama; what Ollama itself does there, nobody can have in a test without its library."""

from __future__ import annotations

import json

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._ollama_api import Pull, parse_loaded, parse_tags, why_hopeless
from ansible_collections.llmops.serving.plugins.modules.ollama_model import run
from ansible_collections.llmops.serving.tests.fakes import ollama as fake

SIZE = 8 * fake.PIECE
REGISTRY = {"tiny:1": {"size": SIZE, "seed": "first"}, "bare:1": {"size": SIZE, "tools": False}}


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(prune=True, **options):
        server = fake.start(tmp_path / "models", {"registry": REGISTRY, **options}, prune)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, tmp_path=None, check_mode=False, **params):
    usual = dict.fromkeys(("digest", "known_digest", "alias", "progress_path", "kubeconfig", "context"))
    options = {"model": "tiny:1", "url": server.url, "update": False, "load": False, "gpu": False, "load_timeout": 20, "timeout": 20}
    return run({**usual, **options, **params}, check_mode, sleep=lambda _seconds: None)


def test_a_model_is_pulled_once_with_progress(serve, tmp_path):
    server = serve()
    foreseen = ask(server, check_mode=True)
    assert (foreseen["changed"], foreseen["present"]) == (True, False)
    path = tmp_path / "progress"
    done = ask(server, progress_path=str(path))
    assert (done["changed"], done["present"], done["pulled"], done["size_bytes"]) == (True, False, True, SIZE)
    assert len(done["digest"]) == 64
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["phase"] for entry in told] == ["pulling", "pulling", "verifying", "writing", "success"][-len(told) :]
    again = ask(server)
    assert (again["changed"], again["pulled"], again["digest"]) == (False, False, done["digest"])
    assert "/api/pull" not in server.fake.requests[server.fake.requests.index("/api/pull") + 1 :]


def test_check_mode_passes_where_nobody_answers(serve):
    server = serve()
    server.shutdown()
    server.server_close()
    assert ask(server, check_mode=True)["changed"]


def test_a_pull_that_breaks_off_goes_on(serve):
    server = serve(break_after=3 * fake.PIECE)
    assert ask(server)["pulled"]
    assert server.fake.requests.count("/api/pull") == 2


def test_bytes_outlive_a_restart_of_the_server(serve, tmp_path):
    first = serve(break_after=3 * fake.PIECE)
    with pytest.raises(ServingError, match=r"was not pulled within 0 s; 0\.2 MiB are there and stay"):
        ask(first, timeout=0)
    [partial] = (tmp_path / "models/blobs").glob("*-partial")
    assert partial.stat().st_size == 3 * fake.PIECE
    serve(prune=False)
    assert partial.exists()
    serve()  # without OLLAMA_NOPRUNE they would be gone, so the plan sets it
    assert not partial.exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("pull model manifest: file does not exist", "the library has no such model. Look for its name and tag at https://ollama.com"),
        (
            "pull model manifest: 412: The model you are attempting to pull requires a newer version of Ollama.",
            "Set ollama_image to a newer version",
        ),
        ("write /data/models/blobs/sha256-1-partial: no space left on device", "Set a greater ollama_storage_size"),
        ("mkdir /data/models/blobs: permission denied", "Set ollama_volume_permissions: true"),
    ],
)
def test_what_no_other_try_mends_ends_at_once(serve, error, words):
    server = serve(pull_error=error)
    with pytest.raises(ServingError) as caught:
        ask(server)
    assert words in str(caught.value)
    assert error in str(caught.value)
    assert server.fake.requests.count("/api/pull") == 1


def test_a_line_that_is_down_is_tried_and_then_named(serve):
    server = serve(pull_error="dial tcp: lookup registry.ollama.ai: no such host")
    with pytest.raises(ServingError, match=r"5 tries in a row brought nothing.*no such host.*HTTPS_PROXY in ollama_extra_env"):
        ask(server)
    assert server.fake.requests.count("/api/pull") == 5


def test_a_tag_that_has_moved_is_told_and_a_pin_holds(serve):
    server = serve()
    first = ask(server)["digest"]
    server.fake.store.options = {"registry": {"tiny:1": {"size": SIZE, "seed": "second"}}}
    assert ask(server)["digest"] == first  # nobody asked the registry
    moved = ask(server, update=True)
    assert moved["moved"] == {"from": first, "to": moved["digest"]}
    assert moved["pulled"]
    assert f"it was {first[:12]} and is {moved['digest'][:12]} now" in moved["warnings"][0]
    assert not ask(server, update=True)["changed"]
    assert ask(server, known_digest=first)["moved"]["from"] == first
    assert ask(server, digest=f"sha256:{moved['digest']}")["digest"] == moved["digest"]
    with pytest.raises(ServingError, match=f"has the digest {moved['digest'][:12]}, the row pins {first[:12]}"):
        ask(server, digest=first[:12])


def test_the_alias_follows_the_model(serve):
    server = serve()
    assert ask(server, alias="chat")["aliased"]
    assert not ask(server, alias="chat")["changed"]
    assert ask(server, model="bare:1", alias="chat")["aliased"]
    assert {"chat:latest", "tiny:1", "bare:1"} == set(server.fake.store.names())


def test_a_model_is_loaded_once_and_wholly_onto_the_gpu(serve):
    server = serve(vram=[0.4, 1.0])
    done = ask(server, load=True, gpu=True)
    assert done["loaded"]["gpu_share"] == 1.0
    assert done["warnings"] == []
    assert server.fake.loads == 2  # memory of the engine that had just ended came back
    ask(server, load=True, gpu=True)
    assert server.fake.loads == 2


def test_a_model_that_does_not_fit_is_told_and_one_without_a_gpu_refused(serve):
    assert "40% are on the GPU: it answers much slower" in ask(serve(vram=[0.4]), load=True, gpu=True)["warnings"][0]
    assert ask(serve(vram=[0.0]), load=True)["warnings"] == []  # on CPUs that is as it should be
    with pytest.raises(ServingError, match="nothing of it is on a GPU"):
        ask(serve(vram=[0.0]), load=True, gpu=True)
    with pytest.raises(ServingError, match=r"tiny:1 cannot be loaded: .*llama runner process has terminated"):
        ask(serve(load_error="llama runner process has terminated: cudaMalloc failed: out of memory"), load=True, gpu=True)


def test_replies_of_every_age_are_read():
    tags = {"models": [{"model": "a:1", "digest": "sha256:ab", "size": 3}, {}, "x"]}
    assert parse_tags(tags) == [("a:1", "ab", 3)]
    assert parse_tags({"models": None}) == []
    assert [(m.name, m.gpu_share) for m in parse_loaded({"models": [{"name": "a:1", "size": 0}]})] == [("a:1", 0.0)]
    pull = Pull("a:1")
    pull.hear({"status": "pulling x", "digest": "x", "total": 2 * 2**30, "completed": 2**30})
    assert pull.text == "a:1: 1.00 GiB of 2.00 GiB pulled"
    assert why_hopeless("EOF") == ""
