# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""make pin-images, update-images and rollback-images on the cluster of $KUBECONFIG, with images that its node pulls from a real registry.

The registry listens on the loopback interface, where container runtimes take plain HTTP, so the node has to be this machine. It gets the
images that the node has from its containerd: $CONTAINERD_ADDRESS, as for ctr. Then the router's tag names other images: the same one with
another name, and one that ends. The tests go on from each other, in their order. $TEST_NAMESPACE is the beginning of the namespace's name.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
import tempfile
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.molecule.shared import chat, trained
from ansible_collections.llmops.serving.tests.cluster import runs
from ansible_collections.llmops.serving.tests.images import registries
from ansible_collections.llmops.serving.tests.images.registries import Registry

VARIABLES = {"engine": "vllm_image", "router": "vllm_router_image", "page": "open_webui_image"}
IMAGES = {
    "engine": os.environ.get("TEST_VLLM_IMAGE") or "localhost/vllm-openai-cpu:test",
    "router": os.environ.get("TEST_ROUTER_IMAGE") or "localhost/vllm-router:test",
    "page": os.environ.get("TEST_OPEN_WEBUI_IMAGE") or "localhost/open-webui:test",
}
CTR = ("ctr", "-n", "k8s.io")
LAYER = "application/vnd.oci.image.layer.v1.tar"
CAUSE = "RuntimeError: this router was built without its program"

pytestmark = [
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="needs a cluster: export KUBECONFIG"),
    pytest.mark.skipif(not shutil.which(registries.PROGRAM), reason=f"needs a registry: apt install {registries.PROGRAM}"),
    pytest.mark.skipif(
        "CONTAINERD_ADDRESS" not in os.environ, reason="needs the images of a node that is this machine: export CONTAINERD_ADDRESS"
    ),
]


def ctr(*words: str) -> bytes:
    """Return what containerd says."""
    return subprocess.run([*CTR, *words], check=True, capture_output=True).stdout


def content(digest: str) -> t.Any:
    """Return what containerd has under *digest*, which is JSON."""
    return json.loads(ctr("content", "get", digest))


class Site:
    """A stack whose images come from a registry, and the inventory that asks for them."""

    def __init__(self, namespace: str, folder: Path, registry: Registry) -> None:
        self.namespace = namespace
        self.registry = registry
        self.lock_path = folder / "images.lock.yml"
        self.parts: dict[str, t.Any] = {}

    # --- the registry

    def image(self, name: str) -> str:
        return f"{self.registry.host}/chat/{name}:v1"

    def copy(self, name: str) -> str:
        """Put an image of the node there, as it is. Returns its digest."""
        listed = ctr("images", "ls", f"name=={IMAGES[name]}").decode()
        digest = next(word for word in listed.split() if word.startswith("sha256:"))
        manifest = self.parts[name] = content(digest)
        for blob in (manifest["config"], *manifest["layers"]):
            with subprocess.Popen([*CTR, "content", "get", blob["digest"]], stdout=subprocess.PIPE) as stream:
                assert stream.stdout
                self.registry.push_stream(f"chat/{name}", blob["digest"], blob["size"], t.cast(t.BinaryIO, stream.stdout))
        return self.push(name)

    def push(self, name: str, program: str = "", **labels: str) -> str:
        """Let the tag name the image of the node with *labels*, and with another *program*, a script. Returns its digest."""
        manifest, repository = self.parts[name], f"chat/{name}"
        config = content(manifest["config"]["digest"])
        config["config"]["Labels"] = labels
        layers = list(manifest["layers"])
        if program:
            layer = layer_with("usr/local/bin/vllm-router", program)
            layers.append({"mediaType": LAYER, "digest": self.registry.push_blob(repository, layer), "size": len(layer)})
            config["rootfs"]["diff_ids"].append(layers[-1]["digest"])
        data = json.dumps(config).encode()
        part = {**manifest["config"], "digest": self.registry.push_blob(repository, data), "size": len(data)}
        digest, _length = self.registry.push_manifest(repository, "v1", {**manifest, "config": part, "layers": layers})
        return digest

    # --- runs

    def run(self, playbook: str, *options: str, **variables: t.Any) -> runs.Ended:
        return runs.run(
            playbook,
            *options,
            llm_namespace=self.namespace,
            llm_images_lock=str(self.lock_path),
            vllm_accelerator="cpu",
            vllm_model_name="smoke",
            vllm_shutdown_timeout=5,
            **{variable: self.image(name) for name, variable in VARIABLES.items()},
            **variables,
        )

    # --- what is there

    @property
    def lock(self) -> dict[str, str]:
        """The digests of the lock file by the image's name."""
        pins = yaml.safe_load(self.lock_path.read_text())["images"]
        return {name: pins[self.image(name)]["digest"] for name in VARIABLES}

    def pods(self) -> dict[str, dict[str, str]]:
        """Return uid and digest of each pod that serves, by the image's name; each has to be the only one, and ready."""
        found: dict[str, dict[str, str]] = {}
        for pod in chat.get(self.namespace, "pods"):
            [container] = pod["spec"]["containers"]
            name = container["image"].partition("/chat/")[2].partition(":")[0]
            if "deletionTimestamp" in pod["metadata"] or pod["status"]["phase"] == "Succeeded":
                continue
            assert name not in found, f"two pods of {name}"
            [state] = pod["status"]["containerStatuses"]
            assert state["ready"], pod["metadata"]["name"]
            image, _at, digest = container["image"].partition("@")
            assert image == self.image(name)
            assert state["imageID"].endswith(f"@{digest}")
            found[name] = {"uid": pod["metadata"]["uid"], "digest": digest}
        return found

    def answers(self) -> bool:
        """Whether a chat with the model succeeds, as the router passes it on."""
        key = chat.secret(self.namespace, "vllm-secrets", "VLLM_API_KEY")
        with chat.port_forward(self.namespace, "service/vllm-router", 8000) as url:
            return bool(chat.complete(url, "chat", key=key).ok)


def layer_with(path: str, script: str) -> bytes:
    """Return a layer that has one program."""
    out, data = io.BytesIO(), script.encode()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = len(data), 0o755
        archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    namespace = f"{os.environ.get('TEST_NAMESPACE', 'test-images')}-{secrets.token_hex(3)}"
    # what is in it is large, and pytest would keep it
    with tempfile.TemporaryDirectory(prefix="registry-") as folder, Registry(Path(folder)) as registry:
        site = Site(namespace, tmp_path_factory.mktemp("images"), registry)
        for name in VARIABLES:
            site.copy(name)
        try:
            trained.volume(namespace, "vllm-models")
            yield site
        finally:
            subprocess.run(["kubectl", "delete", "namespace", namespace, "--ignore-not-found", "--wait=false"], check=False)


def test_what_is_installed_runs_by_the_digests_that_were_pinned(site: Site) -> None:
    done = site.run("pin_images.yml")
    assert done.status == 0, done.words
    done = site.run("chat.yml")
    assert done.status == 0, done.words
    assert {name: pod["digest"] for name, pod in site.pods().items()} == site.lock


def test_a_moved_tag_is_shown_tried_and_taken(site: Site) -> None:
    before, pins = site.pods(), site.lock
    text = site.lock_path.read_text()
    moved = site.push("router", build="2")
    done = site.run("update_images.yml")
    assert done.status == 0, done.words
    [line] = [line.split() for line in done.lines if line.startswith(site.image("router"))]
    assert (line[1], line[2], line[-1]) == (pins["router"][:19], moved[:19], "moved")
    assert f"Taken: {site.lock_path}." in done.words
    assert site.lock == {**pins, "router": moved}
    assert site.lock_path.with_name("images.lock.previous.yml").read_text() == text
    after = site.pods()
    assert {name: pod["digest"] for name, pod in after.items()} == site.lock
    assert (after["engine"], after["page"]) == (before["engine"], before["page"])
    assert site.answers()


def test_a_moved_tag_that_does_not_serve_is_refused_and_the_old_image_serves_on(site: Site) -> None:
    before, text = site.pods(), site.lock_path.read_text()
    site.push("router", program=f"#!/bin/sh\necho '{CAUSE}' >&2\nexit 3\n")
    done = site.run("update_images.yml")
    assert done.status != 0
    assert "Deployment/vllm-router has failed to roll out" in done.words
    assert CAUSE in done.words
    assert "smoke answers again; the change is taken back." in done.words
    assert done.words.endswith(f"{site.lock_path} stays as it was, and the images that it names serve.")
    assert site.lock_path.read_text() == text
    assert not site.lock_path.with_name("images.lock.candidate.yml").exists()
    assert site.pods() == before
    assert site.answers()
    again = site.run("chat.yml")
    assert again.status == 0
    assert "Nothing was changed" in again.words


def test_there_is_a_way_back(site: Site) -> None:
    before = site.pods()
    done = site.run("update_images.yml", images_back=True)
    assert done.status == 0, done.words
    after = site.pods()
    assert {name: pod["digest"] for name, pod in after.items()} == site.lock
    assert after["router"]["digest"] != before["router"]["digest"]
    assert site.answers()
