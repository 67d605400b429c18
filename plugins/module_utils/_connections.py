# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Endpoints that are served by others, and the chat page's connections: the private model first, and a provider behind it where one is set.

A connection is a dict: ``url``, ``key`` (reference to a secret, in the platform's words, or None), ``models`` (names that are shown),
``headers``, ``tags``, ``prefix``, and ``private``. The keys of OPENAI_API_CONFIGS are those that routers/openai.py of Open WebUI 0.12
reads.
"""

from __future__ import annotations

import json
import re
import typing as t
from urllib.parse import urlsplit

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

Connection = dict[str, t.Any]

# Keys of the page's own Secret.
ENDPOINT_KEY, FALLBACK_KEY = "ENDPOINT_API_KEY", "FALLBACK_API_KEY"
# Where Open WebUI takes URLs and keys apart.
SEPARATOR = ";"
CHAT = "{{CHAT_ID}}"

_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
# What people paste along with the base of an API.
_PATHS = re.compile(r"/(chat/completions|completions|models|embeddings|responses)/?$")
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1|0\.0\.0\.0")


def base_url(variable: str, url: str, example: str) -> str:
    """Return *url* without slashes at its end, or raise ServingError, which names *variable*, for what is no base of an API."""
    text = url.strip().rstrip("/")
    wrong = ""
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _port = parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or any(character in text for character in f"{SEPARATOR} \t\n"):
        wrong = "is no URL"
    elif parts.username or parts.password:
        # neither a log nor a manifest may show it
        raise ServingError(f"{variable} has a name or a password before the @. Take them out; a key goes into a variable of its own.")
    elif parts.query or parts.fragment:
        wrong = "has something behind its path"
    elif _PATHS.search(parts.path):
        wrong = "names one function of the API"
    if wrong:
        raise ServingError(f'{variable}: "{url}" {wrong}. Give the base of the API, like {example}')
    return text


def is_loopback(url: str) -> bool:
    """Whether *url* names the very machine that asks."""
    return bool(_LOOPBACK.fullmatch(urlsplit(url).hostname or ""))


def connections(
    endpoint: t.Mapping[str, t.Any], own_secret: t.Mapping[str, t.Any], fallback: t.Optional[t.Mapping[str, t.Any]] = None
) -> list[Connection]:
    """Return the connections of the page, in their order.

    *endpoint*: what the role vllm hands on, empty where nobody knows it yet. *own_secret*: the page's Secret, a reference without ``key``.
    *fallback*: ``url``, ``models``, ``label`` and ``has_key``. Raises ServingError for a fallback that cannot work.
    """
    found: list[Connection] = []
    if endpoint:
        key = {**own_secret, "key": ENDPOINT_KEY} if endpoint.get("own_key") else endpoint.get("api_key_secret")
        headers = {endpoint["session_header"]: CHAT} if endpoint.get("session_header") else {}
        found.append(_connection(endpoint["session_url"], key or None, [endpoint["model"]], headers))
    provider = _provider(fallback or {}, own_secret)
    return [*found, provider] if provider else found


def settings(found: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """Return how the page is told of the connections *found*.

    ``environment``: plain variables. ``keys``: for each connection a reference, or None; empty where none has a key. ``secret_environment``
    and ``container_env``: the same as supervisor_apply and as a container of Kubernetes take them.
    """
    keys = [connection["key"] for connection in found]
    while keys and keys[-1] is None:
        keys.pop()
    return {
        "environment": {
            "OPENAI_API_BASE_URLS": SEPARATOR.join(connection["url"] for connection in found),
            "OPENAI_API_CONFIGS": json.dumps({str(at): _config(each, len(found) > 1) for at, each in enumerate(found)}),
        },
        "keys": keys,
        "secret_environment": _secret_environment(keys),
        "container_env": _container_env(keys),
    }


def _connection(url: str, key: t.Any, models: list[str], headers: dict[str, str], label: str = "") -> Connection:
    tags = [label] if label else []
    return {"url": url, "key": key, "models": models, "headers": headers, "tags": tags, "prefix": label, "private": not label}


def _provider(fallback: t.Mapping[str, t.Any], own_secret: t.Mapping[str, t.Any]) -> t.Optional[Connection]:
    models = [str(name) for name in fallback.get("models") or []]
    if not fallback.get("url"):
        for key, variable in (("models", "open_webui_fallback_models"), ("has_key", "open_webui_fallback_api_key")):
            if fallback.get(key):
                raise ServingError(f"{variable} is set, and open_webui_fallback_url is not, so nothing reads it. Set both, or neither.")
        return None
    url = base_url("open_webui_fallback_url", str(fallback["url"]), "https://api.example.com/v1")
    if not models:
        raise ServingError(
            "open_webui_fallback_url is set, and open_webui_fallback_models is not. Name the models that people may choose; without it, "
            "all that the provider has would be shown."
        )
    label = str(fallback.get("label") or "")
    if not _LABEL.fullmatch(label):
        raise ServingError(
            f'open_webui_fallback_label: "{label}" has to be lower-case letters, digits and "-": it stands before the names of the models, '
            "so that people see which chats leave the house."
        )
    reference = {**own_secret, "key": FALLBACK_KEY} if fallback.get("has_key") else None
    return _connection(url, reference, models, {}, label)


def _config(connection: t.Mapping[str, t.Any], among_others: bool) -> dict[str, t.Any]:
    config: dict[str, t.Any] = {}
    if connection["headers"]:
        config["headers"] = dict(connection["headers"])
    config["model_ids"] = list(connection["models"])
    if connection["prefix"]:
        config["prefix_id"] = connection["prefix"]
    if connection["tags"]:
        config["tags"] = [{"name": tag} for tag in connection["tags"]]
    if among_others:
        # the page groups models by this word
        config["connection_type"] = "local" if connection["private"] else "external"
    return config


def _secret_environment(keys: t.Sequence[t.Optional[t.Mapping[str, str]]]) -> dict[str, t.Any]:
    names = [f"{key['component']}/{key['key']}" if key and "component" in key else "" for key in keys]
    return {"OPENAI_API_KEYS": names[0] if len(names) == 1 else names} if any(names) else {}


def _container_env(keys: t.Sequence[t.Optional[t.Mapping[str, str]]]) -> list[dict[str, t.Any]]:
    """Return environment entries in an order in which the last may refer to those before it."""
    if len(keys) == 1:
        return [_from_secret("OPENAI_API_KEYS", keys[0])]
    names = [f"OPENAI_API_KEY_OF_{at}" if key else "" for at, key in enumerate(keys)]
    parts = [_from_secret(name, key) for name, key in zip(names, keys) if name]
    joined = SEPARATOR.join(f"$({name})" if name else "" for name in names)
    return [*parts, {"name": "OPENAI_API_KEYS", "value": joined}] if parts else []


def _from_secret(name: str, key: t.Optional[t.Mapping[str, str]]) -> dict[str, t.Any]:
    reference = key or {}
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": reference.get("name"), "key": reference.get("key")}}}
