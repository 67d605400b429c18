# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""image_digest against a real registry: logins, platforms, tags, and what goes wrong on the way."""

from __future__ import annotations

import base64
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import image_digest
from ansible_collections.llmops.serving.tests.images.registries import PASSWORD, USER, Authority, Registry, Tokens, Way

LOGIN = {"username": USER, "password": PASSWORD}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.llmops.serving.plugins.module_utils._registry.FIRST_PAUSE_S", 0.0)


def ask(image: str, **given: t.Any) -> dict[str, t.Any]:
    defaults = {name: argument.get("default") for name, argument in image_digest.ARGUMENTS.items()}
    return image_digest.run({**defaults, "image": image, **given})


def refusal(image: str, **given: t.Any) -> str:
    with pytest.raises(ServingError) as failure:
        ask(image, **given)
    assert len(str(failure.value)) < 400
    return str(failure.value)


@pytest.fixture
def reading(registry: Registry) -> dict[str, t.Any]:
    """With these, the registry lets in."""
    assert registry.authority
    return {**LOGIN, "ca_path": str(registry.authority.ca_path)}


def test_an_image_for_several_platforms(registry: Registry, reading: dict[str, t.Any]) -> None:
    made = registry.push_index("vllm/vllm-openai", "v1", "linux/amd64", "linux/arm64/v8")
    found = ask(f"{registry.host}/vllm/vllm-openai:v1", **reading)
    requests = found.pop("requests")
    assert found == {
        "changed": False,
        "image": f"{registry.host}/vllm/vllm-openai:v1@{made['digest']}",
        "digest": made["digest"],
        "manifest_digest": made["linux/amd64"]["digest"],
        "platform": "linux/amd64",
        "platforms": ["linux/amd64", "linux/arm64/v8"],
        "size_bytes": made["linux/amd64"]["size"],
        "media_type": "application/vnd.oci.image.index.v1+json",
        "registry": registry.host,
    }
    assert requests == 3  # of which one was refused, to hear what login is wanted
    for platform in ("linux/arm64", "linux/arm64/v8"):
        found = ask(f"{registry.host}/vllm/vllm-openai:v1", platform=platform, **reading)
        assert (found["digest"], found["manifest_digest"]) == (made["digest"], made["linux/arm64/v8"]["digest"])
    words = refusal(f"{registry.host}/vllm/vllm-openai:v1", platform="linux/arm64/v7", **reading)
    assert words == (
        f"{registry.host}/vllm/vllm-openai:v1 is not made for linux/arm64/v7, only for linux/amd64, linux/arm64/v8. "
        "Set llm_image_platform to one of these."
    )


def test_an_image_for_one_platform_and_one_by_digest(registry: Registry, reading: dict[str, t.Any]) -> None:
    digest, _length, size = registry.push_image("page", "v1", "linux/amd64")
    by_tag, by_digest = ask(f"{registry.host}/page:v1", **reading), ask(f"{registry.host}/page@{digest}", **reading)
    for found in (by_tag, by_digest):
        assert (found["digest"], found["manifest_digest"], found["size_bytes"]) == (digest, digest, size)
        assert found["platforms"] == ["linux/amd64"]
    assert by_digest["image"] == f"{registry.host}/page@{digest}"
    assert "is not made for linux/arm64, only for linux/amd64" in refusal(f"{registry.host}/page:v1", platform="linux/arm64", **reading)


def test_a_tag_that_moves_is_another_digest_and_the_old_one_stays(registry: Registry, reading: dict[str, t.Any]) -> None:
    image = f"{registry.host}/router:v1"
    registry.push_index("router", "v1", "linux/amd64", salt="a")
    before = ask(image, **reading)["digest"]
    registry.push_index("router", "v1", "linux/amd64", salt="b")
    assert ask(image, **reading)["digest"] != before
    assert ask(f"{registry.host}/router@{before}", **reading)["digest"] == before


def test_what_is_not_there(registry: Registry, reading: dict[str, t.Any]) -> None:
    for tag in ("v0.31.0", "v0.32.0", "nightly"):
        registry.push_image("vllm", tag)
    assert refusal(f"{registry.host}/vllm:v0.33.0", **reading) == (f"{registry.host}/vllm has no tag v0.33.0. Near it: v0.32.0, v0.31.0.")
    assert "has no vlm:v1. Check the spelling of name and tag, and llm_image_registry." in refusal(f"{registry.host}/vlm:v1", **reading)
    words = refusal(f"{registry.host}/vllm@sha256:{64 * 'a'}", **reading)
    assert "has no vllm@sha256:aaaaaaaaaaaa (any more)" in words


def test_who_is_not_let_in(registry: Registry, reading: dict[str, t.Any]) -> None:
    registry.push_image("vllm", "v1")
    image = f"{registry.host}/vllm:v1"
    ca_path = reading["ca_path"]
    assert "lets nobody read vllm without a login" in refusal(image, ca_path=ca_path)
    words = refusal(image, ca_path=ca_path, username=USER, password="wrong secret")
    assert f"{registry.host} does not let {USER} read vllm: the password is wrong" in words
    assert "wrong secret" not in words
    assert "shows a certificate that cannot be trusted" in refusal(image, **LOGIN)
    assert "llm_registry_ca_path" in refusal(image, **LOGIN, insecure=True)
    assert "cannot be used" in refusal(image, **LOGIN, ca_path="/nonexistent.pem")


def test_the_login_of_docker(registry: Registry, reading: dict[str, t.Any], tmp_path: Path) -> None:
    registry.push_image("vllm", "v1")
    path = tmp_path / "config.json"
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    path.write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    image, ca_path = f"{registry.host}/vllm:v1", reading["ca_path"]
    assert ask(image, ca_path=ca_path, auth_file=str(path))["platform"] == "linux/amd64"
    path.write_text(json.dumps({"auths": {"elsewhere.example": {"auth": auth}}}))
    assert "without a login" in refusal(image, ca_path=ca_path, auth_file=str(path))
    path.write_text("{")
    assert "it is not what docker login writes" in refusal(image, ca_path=ca_path, auth_file=str(path))


def test_tokens(tmp_path: Path, authority: Authority) -> None:
    with Tokens(authority) as tokens, Registry(tmp_path / "r", authority, auth="token", token_url=tokens.url) as registry:
        for name in ("public/vllm", "private/vllm"):
            registry.push_index(name, "v1", "linux/amd64")
        ca = {"ca_path": str(authority.ca_path)}
        assert ask(f"{registry.host}/public/vllm:v1", **ca)["requests"] == 4
        assert tokens.asked == [("", "repository:public/vllm:pull")]
        assert "lets nobody read private/vllm without a login" in refusal(f"{registry.host}/private/vllm:v1", **ca)
        assert ask(f"{registry.host}/private/vllm:v1", **ca, **LOGIN)["platform"] == "linux/amd64"
        assert tokens.asked[-1] == (f"{USER}:{PASSWORD}", "repository:private/vllm:pull")
        assert "the password is wrong" in refusal(f"{registry.host}/private/vllm:v1", **ca, username=USER, password="x")
        assert "has no tag v2. Near it: v1." in refusal(f"{registry.host}/private/vllm:v2", **ca, **LOGIN)


def test_plain_http_is_for_this_machine_only(plain: Registry) -> None:
    plain.push_image("vllm", "v1")
    assert ask(f"{plain.host}/vllm:v1")["registry"] == plain.host
    assert ask(f"localhost:{plain.port}/vllm:v1")["registry"] == f"localhost:{plain.port}"
    with pytest.raises(ServingError, match=r"http://mirror\.example would be asked without TLS"):
        ask("vllm:v1", mirrors=["http://mirror.example"])


def test_mirrors_are_asked_before_in_their_order(registry: Registry, plain: Registry, reading: dict[str, t.Any]) -> None:
    registry.push_image("vllm", "v1")
    image = f"{registry.host}/vllm:v1"
    assert ask(image, mirrors=[plain.host], **reading)["registry"] == registry.host
    plain.push_image("vllm", "v1")
    plain.push_image("hub/vllm", "v1")
    found = ask(image, mirrors=[f"{plain.host}/hub", plain.host], **reading)
    assert found["image"].startswith(f"{plain.host}/hub/vllm:v1@sha256:")
    with pytest.raises(ServingError) as failure:
        ask(f"{registry.host}/vllm:v3", mirrors=["127.0.0.1:9", plain.host], **reading)
    assert [line.partition(": ")[0] for line in failure.value.details["tried"]] == ["127.0.0.1:9", plain.host, registry.host]
    assert str(failure.value).startswith(f"{registry.host}/vllm has no tag v3. Near it: v1. The mirrors do not have it either: ")


def test_another_registry_takes_the_place_of_the_images_own(plain: Registry) -> None:
    plain.push_image("mirror/open-webui/open-webui", "v1")
    found = ask("ghcr.io/open-webui/open-webui:v1", registry=f"{plain.host}/mirror")
    assert found["image"].startswith(f"{plain.host}/mirror/open-webui/open-webui:v1@")


def test_what_was_changed_on_the_way_is_told(plain: Registry) -> None:
    plain.push_index("vllm", "v1", "linux/amd64")
    with Way(plain, lambda _number: None, swap=(b'"os": "linux"', b'"os": "Linux"')) as way:
        words = refusal(f"{way.host}/vllm:v1")
    assert "Something on the way, or in the registry, has changed it: do not use it" in words


def test_a_registry_that_breaks_off_is_asked_again(registry: Registry, reading: dict[str, t.Any]) -> None:
    made = registry.push_index("vllm", "v1", "linux/amd64")
    # of TLS' own words, of the answer, and none at all
    with Way(registry, {1: 0, 2: 100, 4: 2600}.get) as way:
        assert ask(f"{way.host}/vllm:v1", **reading)["digest"] == made["digest"]
        assert way.connections > 4


def test_a_registry_that_dies_in_between_is_named(registry: Registry, reading: dict[str, t.Any]) -> None:
    registry.push_index("vllm", "v1", "linux/amd64")

    def dies(number: int) -> t.Optional[int]:
        if number == 3:  # the index has been read, the manifest has not
            registry.kill()
        return None

    with Way(registry, dies) as way:
        words = refusal(f"{way.host}/vllm:v1", **reading)
        assert words.startswith(f"{way.host} cannot be reached: ")
        assert words.endswith(" (4 times). Try again when it is back, check name and proxy, or set another in llm_image_registry.")
        assert way.connections == 6
    registry.start()
    assert ask(f"{registry.host}/vllm:v1", **reading)["platform"] == "linux/amd64"


def test_a_registry_that_is_not_there() -> None:
    assert "127.0.0.1:9 cannot be reached: Connection refused (4 times)." in refusal("127.0.0.1:9/vllm:v1")
    assert "cannot be reached" in refusal("127.0.0.1:9/vllm:v1", retries=0)
    assert 'platform: "amd64" is none' in refusal("127.0.0.1:9/vllm:v1", platform="amd64")
