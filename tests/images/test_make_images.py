# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""make pin-images, update-images, rollback-images and plan against a real registry.

The cluster is a file: the roles are the real ones up to what they would apply, which is written down, or refused as a bad image would be.
"""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _images
from ansible_collections.llmops.serving.plugins.modules import image_digest
from ansible_collections.llmops.serving.tests.images.registries import PASSWORD, USER, Authority, Registry
from ansible_collections.llmops.serving.tests.playbooks.playing import ROOT, Played, play

PLATFORM = {
    "vllm/tasks/platform/kubernetes/preflight.yml": [],
    "vllm/tasks/platform/kubernetes/switch.yml": [
        {"ansible.builtin.set_fact": {"vllm_switch": {"last_good": {"model": "smoke", "digest": "1"}, "digest": "2", "weights": {}}}}
    ],
    "vllm/tasks/platform/kubernetes/apply.yml": [
        {
            "ansible.builtin.copy": {"content": "{{ vllm_manifests | to_json }}", "dest": "{{ cluster }}/vllm.json", "mode": "0600"},
            "register": "__vllm_applied",
        }
    ],
    "vllm/tasks/platform/kubernetes/wait.yml": [{"ansible.builtin.set_fact": {"vllm_endpoint": "{{ vllm_plan.endpoint }}"}}],
    "vllm/tasks/platform/kubernetes/commit.yml": [
        {
            "ansible.builtin.assert": {
                "that": "vllm_plan.engine.image is not search(bad | default('nothing'))",
                "fail_msg": "The model calls no tools.",
            }
        }
    ],
    "vllm/tasks/platform/kubernetes/rollback.yml": [
        {"ansible.builtin.copy": {"content": "rolled back", "dest": "{{ cluster }}/vllm.json", "mode": "0600"}},
        {"ansible.builtin.set_fact": {"__vllm_rolled_back": True}},
    ],
    "ollama/tasks/platform/kubernetes/preflight.yml": [],
    "ollama/tasks/platform/kubernetes/prefetch.yml": [],
    "ollama/tasks/platform/kubernetes/switch.yml": [
        {
            "ansible.builtin.set_fact": {
                "ollama_switch": {"last_good": {"model": "gpt-oss:20b", "digest": "1"}, "digest": "2", "needed": False},
                "__ollama_backends": {"backends": {"ollama": {"weights": {}}, "vllm": {}}},
            }
        }
    ],
    "ollama/tasks/platform/kubernetes/apply.yml": [
        {
            "ansible.builtin.copy": {"content": "{{ ollama_manifests | to_json }}", "dest": "{{ cluster }}/ollama.json", "mode": "0600"},
            "register": "__ollama_applied",
        }
    ],
    "ollama/tasks/platform/kubernetes/wait.yml": [{"ansible.builtin.set_fact": {"ollama_endpoint": "{{ ollama_plan.endpoint }}"}}],
    "ollama/tasks/platform/kubernetes/commit.yml": [
        {
            "ansible.builtin.assert": {
                "that": "ollama_plan.engine.image is not search(bad | default('nothing'))",
                "fail_msg": "The model calls no tools.",
            }
        }
    ],
    "ollama/tasks/platform/kubernetes/rollback.yml": [
        {"ansible.builtin.copy": {"content": "rolled back", "dest": "{{ cluster }}/ollama.json", "mode": "0600"}}
    ],
    "open_webui/tasks/platform/kubernetes/apply.yml": [
        {
            "ansible.builtin.assert": {
                "that": "__open_webui_image.image is not search(bad_page | default('nothing'))",
                "fail_msg": "The page does not start.",
            }
        },
        {
            "ansible.builtin.copy": {"content": "{{ open_webui_manifests | to_json }}", "dest": "{{ cluster }}/page.json", "mode": "0600"},
            "register": "__open_webui_applied",
        },
        {"ansible.builtin.set_fact": {"open_webui_access": {}}},
    ],
}


class Site:
    """An inventory of images in a registry, and a cluster that is a file."""

    def __init__(self, folder: Path, registry: Registry, authority: Authority, names: t.Sequence[str]) -> None:
        self.folder = folder
        self.registry = registry
        self.authority = authority
        self.lock_path = folder / "images.lock.yml"
        self.cluster = folder / "cluster"
        self.cluster.mkdir()
        self.collections = folder / "collections"
        self._make_collection()
        self.made = {name: self.push(name) for name in names}
        self.write()

    def push(self, name: str, tag: str = "v1", salt: str = "") -> str:
        """Put an image there, or let its tag name another one. Returns the digest."""
        return str(self.registry.push_index(f"chat/{name}", tag, "linux/amd64", "linux/arm64", salt=salt or name)["digest"])

    def image(self, name: str, tag: str = "v1") -> str:
        return f"{self.registry.host}/chat/{name}:{tag}"

    def pin(self) -> None:
        """Write the lock file as make pin-images does, without its playbook."""
        defaults = {name: argument.get("default") for name, argument in image_digest.ARGUMENTS.items()}
        login = {"username": USER, "password": PASSWORD, "ca_path": str(self.authority.ca_path)}
        images = [self.image(name) for name in self.made]
        found = [{**image_digest.run({**defaults, **login, "image": image}), "written": image} for image in images]
        self.lock_path.write_text(yaml.safe_dump({"images": _images.next_lock(found, None, "2026-11-22T06:00:00Z")["images"]}))

    def write(self, **variables: t.Any) -> None:
        """Write the inventory."""
        given = {
            "vllm_image": self.image("vllm"),
            "vllm_router_image": self.image("router"),
            "open_webui_image": self.image("page"),
            "vllm_model_name": "smoke",
            "vllm_accelerator": "cpu",
            "llm_registry_username": USER,
            "llm_registry_password": PASSWORD,
            "llm_registry_ca_path": str(self.authority.ca_path),
            "cluster": str(self.cluster),
        }
        host = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        inventory = {"all": {"hosts": {"localhost": host}, "vars": {**given, **variables}}}
        (self.folder / "inventory.yaml").write_text(yaml.safe_dump(inventory))

    def _make_collection(self) -> None:
        """Make a collection of links to this checkout, where only what the platform does is another thing."""
        collection = self.collections / "ansible_collections/llmops/serving"
        self._link(ROOT, collection, {Path("roles") / path for path in PLATFORM})
        for path, tasks in PLATFORM.items():
            named = [{"name": f"Stand-in {number}", **task} for number, task in enumerate(tasks)]
            (collection / "roles" / path).write_text(json.dumps(named))

    def _link(self, source: Path, target: Path, others: set[Path]) -> None:
        target.mkdir(parents=True)
        for path in source.iterdir():
            below = {Path(*other.parts[1:]) for other in others if other.parts[0] == path.name}
            if path.name.startswith(".") or Path() in below:
                continue
            if below:
                self._link(path, target / path.name, below)
            else:
                (target / path.name).symlink_to(path)

    def play(self, playbook: str, *arguments: str, **variables: t.Any) -> Played:
        environ = {"ANSIBLE_COLLECTIONS_PATH": str(self.collections), "ANSIBLE_NOCOLOR": "1"}
        kubeconfig = {"KUBECONFIG": ""} if os.environ.get("KUBECONFIG") else {}
        played = play(playbook, *arguments, inventory=str(self.folder / "inventory.yaml"), environ={**environ, **kubeconfig}, **variables)
        assert PASSWORD not in played.output
        assert "Traceback" not in played.output
        return played

    @property
    def lock(self) -> dict[str, t.Any]:
        """The digests of the lock file by image."""
        return {image: pin["digest"] for image, pin in yaml.safe_load(self.lock_path.read_text())["images"].items()}

    def running(self, name: str = "vllm") -> set[str]:
        """The images of what was applied."""
        manifests = json.loads((self.cluster / f"{name}.json").read_text())
        pods = [manifest["spec"]["template"]["spec"] for manifest in manifests if manifest["kind"] == "Deployment"]
        return {container["image"] for pod in pods for container in pod["containers"]}


@pytest.fixture
def site(tmp_path: Path, registry: Registry, authority: Authority) -> Site:
    """Served by vLLM."""
    return Site(tmp_path, registry, authority, ("vllm", "router", "page"))


@pytest.fixture
def ollama(tmp_path: Path, registry: Registry, authority: Authority) -> Site:
    """Served by Ollama."""
    site = Site(tmp_path, registry, authority, ("ollama", "page"))
    site.write(llm_backend="ollama", ollama_model_name="gpt-oss:20b", ollama_image=site.image("ollama"))
    return site


def test_images_are_pinned_and_run_by_digest(site: Site) -> None:
    done = site.play("pin_images.yml", "--check")
    assert done.code == 0, done.output
    assert done.words[-1].startswith(f"Would be written: {site.lock_path}")
    assert not site.lock_path.exists()

    done = site.play("pin_images.yml")
    assert done.code == 0, done.output
    assert done.words[0].split() == ["image", "pinned", "now", "size"]
    assert done.words[1].split()[:3] == [site.image("vllm"), "-", site.made["vllm"][:19]]
    assert done.words[-1] == f"Written: {site.lock_path}; make install-chat runs these digests."
    assert site.lock == {site.image(name): digest for name, digest in site.made.items()}
    pin = yaml.safe_load(site.lock_path.read_text())["images"][site.image("vllm")]
    assert sorted(pin) == ["digest", "manifest_digest", "pinned", "platform", "registry", "size_bytes"]
    assert (pin["platform"], pin["registry"]) == ("linux/amd64", site.registry.host)

    text = site.lock_path.read_text()
    moved = site.push("vllm", salt="another")
    done = site.play("pin_images.yml")
    assert "changed=0" in done.output
    change = f"{site.made['vllm'][:19]} -> {moved[:19]}"
    assert f"{site.image('vllm')} names another image now ({change}). The pin holds; make update-images tries it." in done.words
    assert done.words[-1] == f"Nothing was changed: {site.lock_path} has them all."
    assert site.lock_path.read_text() == text

    done = site.play("chat.yml")
    assert done.code == 0, done.output
    assert site.running() == {f"{site.image(name)}@{site.made[name]}" for name in ("vllm", "router")}
    assert site.running("page") == {f"{site.image('page')}@{site.made['page']}"}


def test_a_tag_that_has_moved_is_taken_when_it_serves_and_there_is_a_way_back(site: Site) -> None:
    site.pin()
    before = site.lock_path.read_text()
    moved = site.push("vllm", salt="another")
    done = site.play("update_images.yml", "--check")
    assert done.code == 0, done.output
    assert done.words[1].split() == [site.image("vllm"), site.made["vllm"][:19], moved[:19], *done.words[1].split()[3:5], "moved"]
    assert done.words[-1] == "Nothing was changed (check mode)."
    done = site.play("update_images.yml", enable_chat=False)
    assert done.words[-1] == "Nothing was tried, because enable_chat is false. make pin-images pins what is new."
    assert site.lock_path.read_text() == before

    done = site.play("update_images.yml")
    assert done.code == 0, done.output
    assert [line.split()[0] for line in done.words] == ["image", *(site.image(name) for name in site.made), "Taken:"]
    assert "make rollback-images goes back to them." in done.words[-1]
    assert site.lock[site.image("vllm")] == moved
    assert f"{site.image('vllm')}@{moved}" in site.running()
    assert (site.folder / "images.lock.previous.yml").read_text() == before
    assert not (site.folder / "images.lock.candidate.yml").exists()

    done = site.play("update_images.yml")
    assert done.words[-1] == f"Nothing is to be done: every image is as {site.lock_path} pins it."
    assert "changed=0" in done.output

    done = site.play("update_images.yml", images_back=True)
    assert done.code == 0, done.output
    assert site.lock[site.image("vllm")] == site.made["vllm"]
    assert f"{site.image('vllm')}@{site.made['vllm']}" in site.running()
    previous = yaml.safe_load((site.folder / "images.lock.previous.yml").read_text())
    assert previous["images"][site.image("vllm")]["digest"] == moved


@pytest.mark.parametrize(("name", "fault"), [("vllm", "bad"), ("page", "bad_page")])
def test_a_candidate_that_does_not_serve_is_not_taken(site: Site, name: str, fault: str) -> None:
    site.pin()
    before = site.lock_path.read_text()
    moved = {other: site.push(other, salt=f"another {other}") for other in ("vllm", "page")}
    done = site.play("update_images.yml", **{fault: moved[name]})
    assert done.code != 0
    cause = "The model calls no tools." if name == "vllm" else "The page does not start."
    assert "smoke is not served" not in done.output
    assert any(line.startswith(f"Failed: {cause}") for line in done.words), done.output[-6000:]
    assert done.words[-1] == f"{site.lock_path} stays as it was, and the images that it names serve."
    assert site.lock_path.read_text() == before
    assert not (site.folder / "images.lock.candidate.yml").exists()
    assert site.running() == {f"{site.image(other)}@{site.made[other]}" for other in ("vllm", "router")}
    assert site.running("page") == {f"{site.image('page')}@{site.made['page']}"}


def test_the_image_of_ollama_is_pinned_tried_and_taken_as_the_others(ollama: Site) -> None:
    done = ollama.play("pin_images.yml")
    assert done.code == 0, done.output
    assert ollama.lock == {ollama.image(name): digest for name, digest in ollama.made.items()}
    moved = ollama.push("ollama", salt="another")

    done = ollama.play("plan.yml", report_path=str(ollama.folder / "report.json"))
    assert done.code == 0, done.output
    change = f"{ollama.made['ollama'][:19]} -> {moved[:19]}"
    assert json.loads((ollama.folder / "report.json").read_text())["warnings"] == [
        f"{ollama.image('ollama')} names another image now ({change}). The pin holds; make update-images tries it."
    ]
    assert not list(ollama.cluster.iterdir())

    done = ollama.play("update_images.yml")
    assert done.code == 0, done.output
    assert ollama.lock[ollama.image("ollama")] == moved
    assert ollama.running("ollama") == {f"{ollama.image('ollama')}@{moved}"}
    assert ollama.running("page") == {f"{ollama.image('page')}@{ollama.made['page']}"}

    done = ollama.play("update_images.yml", images_back=True)
    assert done.code == 0, done.output
    assert ollama.running("ollama") == {f"{ollama.image('ollama')}@{ollama.made['ollama']}"}


def test_an_ollama_that_does_not_serve_is_not_taken(ollama: Site) -> None:
    ollama.pin()
    before = ollama.lock_path.read_text()
    moved = ollama.push("ollama", salt="another")
    done = ollama.play("update_images.yml", bad=moved)
    assert done.code != 0
    assert any(line.startswith("Failed: The model calls no tools.") for line in done.words), done.output[-6000:]
    assert done.words[-1] == f"{ollama.lock_path} stays as it was, and the images that it names serve."
    assert ollama.lock_path.read_text() == before
    assert ollama.running("ollama") == {f"{ollama.image('ollama')}@{ollama.made['ollama']}"}


def test_what_ollama_needs_without_the_internet(ollama: Site) -> None:
    ollama.pin()
    done = ollama.play("mirror_list.yml")
    assert done.code == 0, done.output
    source = f"docker://{ollama.registry.host}/chat/ollama@{ollama.made['ollama']}"
    assert f"  skopeo copy --all --preserve-digests {source} docker://registry.example.com/chat/ollama:v1" in done.words
    assert done.words[-1] == "  ollama pull gpt-oss:20b"
    assert not any("hf download" in line for line in done.words)


def test_another_tag_than_the_pinned_one_is_refused_until_it_was_tried(site: Site) -> None:
    site.pin()
    newer = site.push("vllm", "v2", salt="newer")
    site.write(vllm_image=site.image("vllm", "v2"))
    done = site.play("chat.yml")
    assert done.code != 0
    assert f"vllm_image: {site.lock_path} pins {site.registry.host}/chat/vllm at the tag v1, not at v2." in done.words[-1]
    assert "at the tag v1" not in site.play("uninstall.yml").output
    done = site.play("update_images.yml")
    assert done.code == 0, done.output
    assert done.words[1].endswith("new tag")
    assert site.lock[site.image("vllm", "v2")] == newer
    assert site.image("vllm") not in site.lock


def test_make_plan_tells_what_has_moved_is_not_pinned_or_was_changed_by_hand(site: Site) -> None:
    site.pin()
    moved = site.push("vllm", salt="another")
    site.lock_path.write_text(site.lock_path.read_text().replace(site.made["router"], f"sha256:{64 * 'a'}"))
    site.write(open_webui_image="elsewhere.example/page:v1", report_path=str(site.folder / "report.json"))
    done = site.play("plan.yml")
    assert done.code == 0, done.output
    warnings = json.loads((site.folder / "report.json").read_text())["warnings"]
    changes = {"vllm": f"{site.made['vllm'][:19]} -> {moved[:19]}", "router": f"sha256:aaaaaaaaaaaa -> {site.made['router'][:19]}"}
    assert warnings == [
        f"open_webui_image: elsewhere.example/page:v1 is not in {site.lock_path}, so what its tag names is taken. make pin-images pins it.",
        *(
            f"{site.image(name)} names another image now ({change}). The pin holds; make update-images tries it."
            for name, change in changes.items()
        ),
    ]
    assert not list(site.cluster.iterdir())


def test_a_lock_file_that_was_damaged_is_told(site: Site) -> None:
    site.lock_path.write_text("images: {'vllm:v1': {digest: sha256:123}}")
    done = site.play("chat.yml")
    assert done.code != 0
    assert f"{site.lock_path}: vllm:v1 has no digest" in done.words[-1]


def test_a_registry_that_is_gone_changes_nothing(site: Site) -> None:
    site.pin()
    text = site.lock_path.read_text()
    site.registry.kill()
    done = site.play("update_images.yml")
    assert done.code != 0
    assert f"{site.registry.host} cannot be reached: Connection refused (4 times)." in done.words[-1]
    assert site.lock_path.read_text() == text


def test_what_a_site_without_the_internet_has_to_hold(site: Site) -> None:
    site.pin()
    site.write(
        llm_image_registry="registry.example.com/hub",
        vllm_model_name="mine",
        vllm_model_configs={"mine": {"model": "owner/mine", "max_model_len": 4096, "weights_gib": 2.5}},
        report_path=str(site.folder / "report.json"),
    )
    done = site.play("mirror_list.yml")
    assert done.code == 0, done.output
    source = f"docker://{site.registry.host}/chat/vllm@{site.made['vllm']}"
    command = f"skopeo copy --all --preserve-digests {source} docker://registry.example.com/hub/chat/vllm:v1"
    assert f"  {command}" in done.words
    listed = json.loads((site.folder / "report.json").read_text())
    assert [entry["pinned"] for entry in listed["images"]] == [True, True, True]
    assert [(entry["source"], entry["gib"]) for entry in listed["weights"]] == [("owner/mine", 2.5)]
