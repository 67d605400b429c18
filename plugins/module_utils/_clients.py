# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Settings for programs that speak to an endpoint, all from one description of it.

The description is a dict with the keys of KEYS, whatever serves: of_plan() makes it of a serving plan, and what else serves needs only the
dict. It holds no API key, but where the key is. Texts hold the key only where it is handed to files().
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
import typing as t
import urllib.parse

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean

Map = t.Mapping[str, t.Any]

PROVIDERS = ("vllm", "ollama", "openai")
# Each key of a description with what it is where nothing is said.
KEYS: dict[str, t.Any] = {
    "name": "chat",
    "provider": "vllm",
    "url": "",
    "inside_url": "",
    "reached_by": "",
    "model": "",
    "aliases": [],
    "max_model_len": None,
    "tool_calls": True,
    "tool_call_parser": None,
    "reasoning": False,
    "session_header": "",
    "key": None,
}
KEY_KEYS = ("command", "path", "secret")
FALLBACK_KEYS = ("model", "url")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# What Victor's system prompt and a conversation need.
VICTOR_CONTEXT = 16384
MAX_TOKENS = 4096
PRIVATE, READABLE, RUNNABLE = 0o600, 0o644, 0o755
# Files that are there for the key alone: removed where it is no longer asked for.
KEY_FILE = "api-key"
PICOCLAW_KEY_FILE = "picoclaw/api.key"
KEY_FILES = (KEY_FILE, PICOCLAW_KEY_FILE)
NO_KEY = "not-needed"
WRITTEN = "Written by make client-config, which writes it again: copy it before you change it."

_PLAIN = re.compile(r"[^\s'\"`$\\;]+")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_VARIABLE = "VLLM_API_KEY"


class ClientFile(t.NamedTuple):
    """A file below the folder. ``secret`` says that the key stands in it."""

    name: str
    text: str
    mode: int
    secret: bool


# --- the description -------------------------------------------------------------------------------------------------------------------


def of_plan(plan: Map, kubeconfig: t.Optional[str] = None, context: t.Optional[str] = None, ssh: str = "") -> dict[str, t.Any]:
    """Return the description of what *plan* serves.

    On Kubernetes clients reach it through a port-forward, by the kubectl of *kubeconfig* and *context*. Elsewhere *ssh* is how people log
    in to the machine (``user@host``), empty for the one that they are on.
    """
    endpoint, model = plan["endpoint"], plan.get("model") or {}
    request = (plan.get("verify") or {}).get("request") or {}
    secret = endpoint.get("api_key_secret") or {}
    url, inside_url, reached_by, read = endpoint["url"], "", "", ""
    if plan.get("remote"):
        # others serve it, and clients ask them directly; their key is known to who has it
        read = f"printenv {_VARIABLE}"
    elif plan.get("platform") == "kubernetes":
        flags = {"--kubeconfig": kubeconfig, "--context": context, "-n": plan["namespace"]}
        kubectl = " ".join(["kubectl", *(f"{flag} {shlex.quote(value)}" for flag, value in flags.items() if value)])
        inside_url, url = url, f"http://localhost:{endpoint['port']}/v1"
        reached_by = f"{kubectl} port-forward service/{endpoint['service']} {endpoint['port']}:{endpoint['port']}"
        read = f"{kubectl} get secret {secret.get('name')} -o jsonpath='{{.data.{secret.get('key')}}}' | base64 -d"
    else:
        parts = urllib.parse.urlsplit(url)
        if ssh and parts.hostname in LOOPBACK:
            reached_by = f"ssh -N -L {parts.port}:{parts.hostname}:{parts.port} {ssh}"
        read = f"cat {shlex.quote(str(secret.get('path')))}"
        if ssh:
            read = f"ssh {ssh} {shlex.quote(read)}"
    return {
        "name": plan.get("stack") or KEYS["name"],
        "provider": "openai" if plan.get("remote") else plan.get("backend") or KEYS["provider"],
        "url": url,
        "inside_url": inside_url,
        "reached_by": reached_by,
        "model": endpoint["model"],
        "aliases": [endpoint["alias"]] if endpoint.get("alias") else [],
        "max_model_len": model.get("max_model_len"),
        "tool_calls": bool(request.get("tool_calls", True)),
        "tool_call_parser": model.get("tool_call_parser"),
        "reasoning": bool(request.get("reasoning")),
        # a router with a listener of its own for sessions takes the header there, and clients of both kinds come here
        "session_header": endpoint.get("session_header") or "" if endpoint.get("session_url") == endpoint["url"] else "",
        "key": {
            "command": read,
            "path": secret.get("path"),
            "secret": {key: secret[key] for key in ("namespace", "name", "key")} if "namespace" in secret else None,
        }
        if secret or endpoint.get("own_key")
        else None,
    }


def description(given: Map, url: str = "") -> dict[str, t.Any]:
    """Return *given* complete and checked; *url*, where it is set, is how clients reach it instead. Raises ServingError."""
    for key in given:
        if key not in KEYS:
            raise ServingError(f"endpoint.{key}: no such key{did_you_mean(str(key), KEYS)}. It has {', '.join(KEYS)}.")
    found = {**KEYS, **{key: value for key, value in given.items() if value is not None}}
    if url:
        found.update(url=url, reached_by="")
    found["url"] = _with_version(_checked_url("client_config_url" if url else "endpoint.url", found["url"]))
    if found["inside_url"]:
        found["inside_url"] = _with_version(_checked_url("endpoint.inside_url", found["inside_url"]))
    if found["provider"] not in PROVIDERS:
        raise ServingError(f'endpoint.provider: "{found["provider"]}" is not one of {", ".join(PROVIDERS)}.')
    for key, value in (("model", found["model"]), *(("aliases", alias) for alias in found["aliases"])):
        if not _PLAIN.fullmatch(str(value)):
            raise ServingError(
                f"endpoint.{key}: {value!r} is no name of a model: it is empty, or has blanks or quotes. Give one as served."
            )
    for key in ("name", "session_header"):
        if found[key] and not _NAME.fullmatch(found[key]):
            raise ServingError(f"endpoint.{key}: {found[key]!r} may have letters, digits, dots and dashes only.")
    if found["key"]:
        found["key"] = {**dict.fromkeys(KEY_KEYS), **found["key"]}
        if not found["key"]["command"]:
            raise ServingError("endpoint.key.command is missing: a command that prints the API key, such as cat /path/of/the/key.")
    return found


def _checked_url(option: str, url: t.Any) -> str:
    parts = urllib.parse.urlsplit(str(url))
    if parts.scheme not in ("http", "https") or not parts.hostname or not _PLAIN.fullmatch(str(url)):
        raise ServingError(f"{option}: {url!r} is no URL. Give one like http://localhost:8000/v1.")
    if parts.password or parts.username:
        raise ServingError(f"{option} has a password in it, which would stand in every file. Give it without.")
    return str(url).rstrip("/")


def _with_version(url: str) -> str:
    return url if urllib.parse.urlsplit(url).path.strip("/") else f"{url}/v1"


def checked_fallbacks(given: t.Iterable[Map]) -> list[dict[str, str]]:
    """Return *given* as a list of ``{"model", "url"}``. Raises ServingError for what is none."""
    found = []
    for number, entry in enumerate(given):
        unknown = [key for key in entry if key not in FALLBACK_KEYS]
        if unknown or "/" not in str(entry.get("model") or "") or not _PLAIN.fullmatch(str(entry["model"])):
            raise ServingError(
                f"client_config_fallbacks[{number}] has to be {{model: openrouter/meta-llama/llama-3.2-3b-instruct}}, with the provider "
                "before the model, and url where it is not the provider's own."
            )
        if entry.get("url"):
            _checked_url(f"client_config_fallbacks[{number}].url", entry["url"])
        found.append({"model": str(entry["model"]), "url": str(entry.get("url") or "")})
    return found


# --- the files -------------------------------------------------------------------------------------------------------------------------


def files(endpoint: Map, key: t.Optional[str] = None, fallbacks: t.Sequence[Map] = ()) -> list[ClientFile]:
    """Return the files for *endpoint*, a checked description. With *key* they hold it, and need nothing else to work."""
    if key is not None and not _PLAIN.fullmatch(key):
        raise ServingError("The API key has blanks, quotes or characters that a shell takes apart, so it cannot stand in settings.")
    texts = {
        "README.md": _readme(endpoint, key, fallbacks),
        "env.sh": _env_sh(endpoint, key),
        "endpoint.env": _endpoint_env(endpoint, key),
        "chat.sh": _chat_sh(endpoint),
        "chat.py": _chat_py(endpoint, key),
        "chat_openai.py": _chat_openai_py(endpoint, key),
        "runtime_matrix.json": _json(_runtime_matrix(endpoint)),
        "open-webui.env": _open_webui_env(endpoint, key),
        "victor/profiles.yaml": _victor(endpoint, key),
        "archi/config.yaml": _archi(endpoint, key),
        "picoclaw/config.json": _json(_picoclaw(endpoint, fallbacks)),
        "picoclaw/config.legacy.json": _json(_picoclaw_legacy(endpoint, key, fallbacks)),
    }
    if key is not None:
        texts.update(dict.fromkeys(KEY_FILES, f"{key}\n"))
    return [_file(name, text, key) for name, text in texts.items()]


def _file(name: str, text: str, key: t.Optional[str]) -> ClientFile:
    secret = key is not None and key in text
    mode = PRIVATE if secret else RUNNABLE if name.startswith("chat") else READABLE
    return ClientFile(name, text, mode, secret)


def variables(endpoint: Map, key: t.Optional[str] = None) -> dict[str, str]:
    """Return the environment of programs that take their endpoint from there; the key is in it only where it is handed over."""
    found = {
        "OPENAI_BASE_URL": endpoint["url"],
        "OPENAI_MODEL": endpoint["model"],
        "VLLM_BASE_URL": endpoint["url"],
        "SMOKE_PROVIDER": endpoint["provider"],
        "SMOKE_VLLM_BASE_URL": endpoint["url"],
        "SMOKE_VLLM_MODEL": endpoint["model"],
    }
    if not endpoint["key"] and key is None:
        return {**found, "OPENAI_API_KEY": NO_KEY}
    if key is not None:
        found.update({"OPENAI_API_KEY": key, _VARIABLE: key, "SMOKE_VLLM_API_KEY": key})
    return found


def _env_sh(endpoint: Map, key: t.Optional[str]) -> str:
    lines = [
        f"# {WRITTEN}",
        f"# Points programs of this shell to {endpoint['model']}. usage: . ./env.sh",
        *(f"# {line}" for line in _meanwhile(endpoint)),
        *(f"export {name}={shlex.quote(value)}" for name, value in variables(endpoint, key).items()),
    ]
    if endpoint["key"] and key is None:
        lines += [
            f'if [ -z "${{{_VARIABLE}:-}}" ]; then',
            f"  {_VARIABLE}=$({endpoint['key']['command']})",
            f'  [ -n "${_VARIABLE}" ] || echo "No API key: nothing was printed by the command in env.sh" >&2',
            "fi",
            f'export {_VARIABLE} OPENAI_API_KEY="${_VARIABLE}" SMOKE_VLLM_API_KEY="${_VARIABLE}"',
        ]
    return "\n".join(lines) + "\n"


def _endpoint_env(endpoint: Map, key: t.Optional[str]) -> str:
    lines = [
        f"# {WRITTEN}",
        "# For docker run --env-file, Compose, EnvironmentFile= and libraries that read .env.",
        *_no_key(endpoint, key),
    ]
    lines += [f"# {line}" for line in _meanwhile(endpoint)]
    return "\n".join([*lines, *(f"{name}={value}" for name, value in variables(endpoint, key).items())]) + "\n"


def _open_webui_env(endpoint: Map, key: t.Optional[str]) -> str:
    config: dict[str, t.Any] = {"model_ids": [endpoint["model"]]}
    if endpoint["session_header"]:
        config["headers"] = {endpoint["session_header"]: "{{CHAT_ID}}"}
    values = {
        "ENABLE_OPENAI_API": "true",
        "OPENAI_API_BASE_URLS": endpoint["url"],
        "OPENAI_API_CONFIGS": json.dumps({"0": config}),
        "DEFAULT_MODELS": endpoint["model"],
    }
    if key is not None:
        values["OPENAI_API_KEYS"] = key
    lines = [
        f"# {WRITTEN}",
        "# For an Open WebUI of your own: docker run --env-file. Name its key OPENAI_API_KEYS.",
        *_no_key(endpoint, key),
    ]
    return "\n".join([*lines, *(f"{name}={value}" for name, value in values.items())]) + "\n"


def _no_key(endpoint: Map, key: t.Optional[str]) -> list[str]:
    return [f"# The API key does not stand here. It is printed by: {endpoint['key']['command']}"] if endpoint["key"] and key is None else []


def _meanwhile(endpoint: Map) -> list[str]:
    return [f"Works while this runs: {endpoint['reached_by']}"] if endpoint["reached_by"] else []


def _json(document: t.Any) -> str:
    return json.dumps(document, indent=2) + "\n"


# --- the clients of whom we know the form ------------------------------------------------------------------------------------------------


def _runtime_matrix(endpoint: Map) -> dict[str, t.Any]:
    runtime: dict[str, t.Any] = {"name": endpoint["provider"], "enabled": True, "url": endpoint["url"], "models": [endpoint["model"]]}
    if endpoint["key"]:
        runtime["api_key_env"] = _VARIABLE
    return {"latency_prompt": "Hello, who are you?", "iterations": 5, "timeout_sec": 60, "runtimes": [runtime]}


def max_tokens(endpoint: Map) -> int:
    """Return how long answers may be, so that the prompt has half of a short context."""
    return min(MAX_TOKENS, endpoint["max_model_len"] // 2) if endpoint["max_model_len"] else MAX_TOKENS


def _victor(endpoint: Map, key: t.Optional[str]) -> str:
    # its provider vllm sends no key (0.9.5), the one of OpenAI does
    provider = "openai" if endpoint["key"] and endpoint["provider"] == "vllm" else endpoint["provider"]
    settings: dict[str, t.Any] = {"base_url": _root(endpoint["url"]) if provider == "ollama" else endpoint["url"], "timeout": 300}
    if endpoint["key"]:
        settings["api_key"] = key or f"${{{_VARIABLE}}}"
    profile = {
        "provider": provider,
        "model": endpoint["model"],
        "max_tokens": max_tokens(endpoint),
        "description": f"{endpoint['model']} at {endpoint['url']}",
    }
    return _yaml(
        f"{WRITTEN}\nFor Victor: put it into ~/.victor/profiles.yaml, then: victor chat -p {endpoint['name']}",
        {"profiles": {endpoint["name"]: profile}, "providers": {provider: settings}},
    )


def _archi(endpoint: Map, key: t.Optional[str]) -> str:
    parser = {"tool_parser": endpoint["tool_call_parser"]} if endpoint["tool_call_parser"] else {}
    provider: dict[str, t.Any] = {
        "enabled": True,
        "base_url": endpoint["url"],
        "default_model": endpoint["model"],
        **{f"tool_call_{name[5:]}": value for name, value in parser.items()},
        "models": [endpoint["model"]],
    }
    notes = [
        WRITTEN,
        "For Archi: merge it into the file of archi create -c. The chat needs no --services vllm-server, since it serves already.",
    ]
    if endpoint["key"]:
        notes.append("Its provider sends no key of its own accord, only what stands in extra_kwargs.api_key.")
    if key is not None:
        provider["extra_kwargs"] = {"api_key": key}
    pipeline = {"CMSCompOpsAgent": {"models": {"required": {"agent_model": f"vllm/{endpoint['model']}"}}}}
    services = {"vllm": {"model": endpoint["model"], **parser}, "chat_app": {"providers": {"vllm": provider}}}
    return _yaml("\n".join(notes), {"archi": {"pipeline_map": pipeline}, "services": services})


def _picoclaw(endpoint: Map, fallbacks: t.Sequence[Map]) -> dict[str, t.Any]:
    own: dict[str, t.Any] = {
        "model_name": endpoint["model"],
        "model": f"{endpoint['provider']}/{endpoint['model']}",
        "api_base": endpoint["url"],
        "request_timeout": 300,
        "enabled": True,
    }
    if endpoint["key"]:
        own["api_keys"] = [f"file://{posixpath.basename(PICOCLAW_KEY_FILE)}"]
    others = [
        {
            "model_name": fallback["model"],
            "model": fallback["model"],
            **({"api_base": fallback["url"]} if fallback["url"] else {}),
            "api_keys": [f"file://{_provider(fallback)}.key"],
            "enabled": True,
        }
        for fallback in fallbacks
    ]
    defaults: dict[str, t.Any] = {"model_name": endpoint["model"], "max_tokens": max_tokens(endpoint)}
    if endpoint["max_model_len"]:
        defaults["context_window"] = endpoint["max_model_len"]
    if others:
        defaults["model_fallbacks"] = [other["model_name"] for other in others]
    return {"version": 2, "agents": {"defaults": defaults}, "model_list": [own, *others]}


def _picoclaw_legacy(endpoint: Map, key: t.Optional[str], fallbacks: t.Sequence[Map]) -> dict[str, t.Any]:
    defaults: dict[str, t.Any] = {"model": f"{endpoint['provider']}/{endpoint['model']}", "max_tokens": max_tokens(endpoint)}
    if fallbacks:
        defaults["model_fallbacks"] = [fallback["model"] for fallback in fallbacks]
    providers: dict[str, dict[str, str]] = {endpoint["provider"]: {"api_base": endpoint["url"], **({"api_key": key} if key else {})}}
    for fallback in fallbacks:
        providers.setdefault(_provider(fallback), {"api_base": fallback["url"]} if fallback["url"] else {})
    return {"agents": {"defaults": defaults}, "providers": providers}


def _provider(fallback: Map) -> str:
    return str(fallback["model"]).partition("/")[0]


def _root(url: str) -> str:
    return url[: -len("/v1")] if url.endswith("/v1") else url


def _yaml(notes: str, document: Map) -> str:
    """Return *document*, of dicts, lists of plain values and plain values, as YAML below *notes*."""
    return "\n".join(["---", *(f"# {line}" for line in notes.splitlines()), *_yaml_lines(document, "")]) + "\n"


def _yaml_lines(document: Map, indent: str) -> t.Iterator[str]:
    for key, value in document.items():
        if isinstance(value, t.Mapping):
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, f"{indent}  ")
        elif isinstance(value, list):
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {json.dumps(entry)}" for entry in value)
        else:
            yield f"{indent}{key}: {json.dumps(value)}"


# --- examples --------------------------------------------------------------------------------------------------------------------------

QUESTION = "Hello, who are you?"
TOOL_QUESTION = "What is the weather in Paris?"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def _body(endpoint: Map, question: str, **more: t.Any) -> dict[str, t.Any]:
    return {"model": endpoint["model"], "messages": [{"role": "user", "content": question}], **more}


def _chat_sh(endpoint: Map) -> str:
    bodies = {
        "answer": _body(endpoint, QUESTION),
        "stream": _body(endpoint, QUESTION, stream=True),
        **({"tools": _body(endpoint, TOOL_QUESTION, tools=[TOOL])} if endpoint["tool_calls"] else {}),
    }
    session = f" \\\n      -H '{endpoint['session_header']}: example'" if endpoint["session_header"] else ""
    cases = "\n".join(f"  {name}) ask chat/completions -d {shlex.quote(json.dumps(body))} ;;" for name, body in bodies.items())
    words = "|".join(["models", *bodies])
    return f"""#!/bin/sh
# {WRITTEN}
# Asks {endpoint["model"]} with curl (7.76 or newer), and prints what comes back. usage: chat.sh [{words}]
set -eu
. "$(dirname "$0")/env.sh"

# the key goes through a pipe, so that no list of processes shows it
ask() {{
  path=$1
  shift
  printf 'Authorization: Bearer %s\\n' "$OPENAI_API_KEY" |
    curl --fail-with-body --silent --show-error --no-buffer -H @- -H 'Content-Type: application/json'{session} \\
      "$@" "$OPENAI_BASE_URL/$path"
  echo
}}

case "${{1:-answer}}" in
  models) ask models ;;
{cases}
  *) echo "usage: $0 [{words}]" >&2; exit 2 ;;
esac
"""


def _api_key_py(endpoint: Map, key: t.Optional[str]) -> str:
    """Return the body of the function api_key() of a Python example."""
    if key is not None:
        return f'    return Path(__file__).with_name("{KEY_FILE}").read_text().strip()'
    if not endpoint["key"]:
        return f'    return "{NO_KEY}"'
    return f"""    key = os.environ.get("{_VARIABLE}")
    if not key:
        key = subprocess.run(KEY_COMMAND, shell=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return key or sys.exit(f"No API key: nothing was printed by {{KEY_COMMAND}}")"""


def _imports(names: t.Iterable[str], endpoint: Map, key: t.Optional[str]) -> str:
    asks = bool(endpoint["key"]) and key is None
    lines = [f"import {name}" for name in sorted({*names, *(("os", "subprocess") if asks else ())})]
    return "\n".join(lines + (["from pathlib import Path"] if key is not None else []))


def _constants(endpoint: Map, key: t.Optional[str]) -> str:
    lines = [f"URL = {json.dumps(endpoint['url'])}", f"MODEL = {json.dumps(endpoint['model'])}"]
    if endpoint["session_header"]:
        header = {endpoint["session_header"]: "example"}
        lines += ["# an id of the conversation keeps it on one engine, which still knows what was said", f"HEADERS = {json.dumps(header)}"]
    if endpoint["key"] and key is None:
        lines.append(f"KEY_COMMAND = {json.dumps(endpoint['key']['command'])}")
    return "\n".join(lines)


def _hint(endpoint: Map) -> str:
    return " " + json.dumps(f" Does this run: {endpoint['reached_by']}") if endpoint["reached_by"] else ""


def _chat_py(endpoint: Map, key: t.Optional[str]) -> str:
    headers = ", **HEADERS" if endpoint["session_header"] else ""
    return f'''#!/usr/bin/env python3
# {WRITTEN}
"""Ask {endpoint["model"]}, and print the answer as it comes. Needs nothing but Python. usage: chat.py [what to ask]"""

{_imports(("json", "sys", "urllib.error", "urllib.request"), endpoint, key)}

{_constants(endpoint, key)}


def api_key():
{_api_key_py(endpoint, key)}


def answer(question):
    """Yield the answer in pieces."""
    asked = {{"model": MODEL, "messages": [{{"role": "user", "content": question}}], "stream": True}}
    headers = {{"Authorization": f"Bearer {{api_key()}}", "Content-Type": "application/json"{headers}}}
    request = urllib.request.Request(f"{{URL}}/chat/completions", json.dumps(asked).encode(), headers)
    with urllib.request.build_opener().open(request, timeout=300) as reply:
        for line in reply:
            data = line.decode().partition("data: ")[2].strip()
            if data and data != "[DONE]":
                for choice in json.loads(data)["choices"]:
                    yield choice["delta"].get("content") or ""


try:
    for piece in answer(" ".join(sys.argv[1:]) or {json.dumps(QUESTION)}):
        print(piece, end="", flush=True)
    print()
except urllib.error.HTTPError as error:
    sys.exit(f"{{URL}} answers {{error.code}}: {{error.read(400).decode(errors='replace')}}")
except urllib.error.URLError as error:
    sys.exit(f"{{URL}} cannot be reached: {{error.reason}}."{_hint(endpoint)})
'''


def _chat_openai_py(endpoint: Map, key: t.Optional[str]) -> str:
    headers = ", default_headers=HEADERS" if endpoint["session_header"] else ""
    tools = f'''

TOOLS = [{json.dumps(TOOL)}]


def get_weather(city):
    return "It is sunny, 21 C."


def use_a_tool(client):
    """Let the model ask for a tool, answer it, and let the model go on."""
    messages = [{{"role": "user", "content": {json.dumps(TOOL_QUESTION)}}}]
    asked = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    messages.append(asked)
    for call in asked.tool_calls or []:
        result = get_weather(**json.loads(call.function.arguments))
        print(f"{{call.function.name}}({{call.function.arguments}}) -> {{result}}")
        messages.append({{"role": "tool", "tool_call_id": call.id, "content": result}})
    if asked.tool_calls:
        print(client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message.content)'''
    return f'''#!/usr/bin/env python3
# {WRITTEN}
"""Ask {endpoint["model"]} with the client of OpenAI (pip install openai). usage: chat_openai.py [what to ask]"""

{_imports(("json", "sys") if endpoint["tool_calls"] else ("sys",), endpoint, key)}

import openai

{_constants(endpoint, key)}


def api_key():
{_api_key_py(endpoint, key)}


def answer(client, question):
    """Print the answer as it comes."""
    messages = [{{"role": "user", "content": question}}]
    for chunk in client.chat.completions.create(model=MODEL, messages=messages, stream=True):
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
    print()
{tools if endpoint["tool_calls"] else ""}

try:
    client = openai.OpenAI(base_url=URL, api_key=api_key(){headers})
    answer(client, " ".join(sys.argv[1:]) or {json.dumps(QUESTION)})
{"    use_a_tool(client)" + chr(10) if endpoint["tool_calls"] else ""}except openai.APIConnectionError as error:
    sys.exit(f"{{URL}} cannot be reached: {{error.__cause__ or error}}."{_hint(endpoint)})
except openai.APIError as error:
    sys.exit(f"{{URL}}: {{error}}")
'''


# --- words -----------------------------------------------------------------------------------------------------------------------------


def _readme(endpoint: Map, key: t.Optional[str], fallbacks: t.Sequence[Map]) -> str:
    facts = [
        ("Address", f"`{endpoint['url']}`"),
        *([("works while this runs", f"`{endpoint['reached_by']}`")] if endpoint["reached_by"] else []),
        *([("inside the cluster", f"`{endpoint['inside_url']}`")] if endpoint["inside_url"] else []),
        ("Model", ", ".join(f"`{name}`" for name in [endpoint["model"], *endpoint["aliases"]])),
        *([("Tokens of one chat", str(endpoint["max_model_len"]))] if endpoint["max_model_len"] else []),
        ("Tool calls", "yes" if endpoint["tool_calls"] else "no"),
        ("Reasoning", "in the field `reasoning` of a message" if endpoint["reasoning"] else "no"),
        *([("Header for an id of the conversation", f"`{endpoint['session_header']}`")] if endpoint["session_header"] else []),
        ("API key", _key_words(endpoint, key, "`")),
    ]
    rows = [
        ("`chat.sh`, `chat.py`, `chat_openai.py`", "examples that run: curl, Python alone, OpenAI's client"),
        ("`env.sh`", "`. ./env.sh` points the programs of a shell here, `make verify` among them"),
        ("`endpoint.env`", "the same for `docker run --env-file`, Compose, `EnvironmentFile=`, `archi create -e`"),
        ("`runtime_matrix.json`", "for `make probe-suite MATRIX=...`, after `. ./env.sh`, and tools that read this form"),
        ("`open-webui.env`", "for an Open WebUI of your own"),
        ("`victor/profiles.yaml`", f"Victor: into `~/.victor/profiles.yaml`, then `victor chat -p {endpoint['name']}`"),
        ("`archi/config.yaml`", "Archi: merge into the file of `archi create -c`"),
        ("`picoclaw/config.json`", "PicoClaw: into `~/.picoclaw/config.json`; `config.legacy.json` is for releases without `model_list`"),
    ]
    notes = []
    if endpoint["key"]:
        source = PICOCLAW_KEY_FILE if key is not None else ""
        command = f"cp {source} ~/.picoclaw/api.key" if source else f"(umask 077; {endpoint['key']['command']} > ~/.picoclaw/api.key)"
        notes.append(f"PicoClaw reads the key from a file beside its settings: `{command}`")
        notes.append("Victor's own provider for vLLM sends no key, so the profile takes the one for OpenAI, with this address.")
    if fallbacks:
        names = sorted({f"`~/.picoclaw/{_provider(fallback)}.key`" for fallback in fallbacks})
        notes.append(f"The keys of the fallback models are yours: put them into {', '.join(names)}.")
    if endpoint["max_model_len"] and endpoint["max_model_len"] < VICTOR_CONTEXT:
        notes.append(
            f"Victor's system prompt takes about 6,500 tokens; serve it {VICTOR_CONTEXT} or more, not {endpoint['max_model_len']}."
        )
    return "\n".join(
        [
            f"# {endpoint['model']}",
            "",
            WRITTEN,
            "",
            "| | |",
            "|---|---|",
            *(f"| {label} | {_cell(words)} |" for label, words in facts),
            "",
            "| File | What |",
            "|---|---|",
            *(f"| {name} | {words} |" for name, words in rows),
            *(["", *(f"- {note}" for note in notes)] if notes else []),
            "",
        ]
    )


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


def _key_words(endpoint: Map, key: t.Optional[str], quote: str = "") -> str:
    if not endpoint["key"] and key is None:
        return "none is wanted"
    if key is not None:
        return "in the files, which only you can read; give them to nobody else"
    return f"in no file; it is taken from ${_VARIABLE}, or printed by: {quote}{endpoint['key']['command']}{quote}"


class Done(t.NamedTuple):
    """What became of the files: all that belong there, and which of them were written; which were removed. Or would be, in a *dry* run."""

    names: t.Sequence[str]
    written: t.Sequence[str]
    removed: t.Sequence[str]
    dry: bool


def summary(endpoint: Map, folder: str, done: Done, key: t.Optional[str]) -> dict[str, str]:
    """Return what a person is told at the end, as pairs."""
    told = {}
    if done.written:
        told["Would write" if done.dry else "Written"] = f"{folder}: {', '.join(done.written)}"
    if done.removed:
        told["Would remove" if done.dry else "Removed"] = f"{folder}: {', '.join(done.removed)}"
    if not told:
        told["Files"] = f"{folder}: {len(done.names)}, all as they should be"
    told["Model"] = f"{endpoint['model']} at {endpoint['url']}"
    if endpoint["aliases"]:
        told["Model"] += f", also as {', '.join(endpoint['aliases'])}"
    told["Key"] = _key_words(endpoint, key)
    if endpoint["reached_by"]:
        told["Reach"] = f"run meanwhile: {endpoint['reached_by']}"
    told["Try"] = f"{shlex.quote(posixpath.join(folder, 'chat.sh'))}, or read {posixpath.join(folder, 'README.md')}"
    return told
