#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write settings and examples for programs that speak to an endpoint."""

from __future__ import annotations

DOCUMENTATION = r"""
module: client_config
short_description: Write settings and examples for programs that speak to an endpoint
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Writes environment files, settings of Open WebUI, Victor, Archi and PicoClaw, a matrix for M(llmops.serving.runtime_probe), and examples
    with curl and Python that run, all from one description of the endpoint.
  - The API key stands in none of them, unless O(with_key=true). Settings then say how to get at it, and examples do so by themselves.
  - It runs where the files are wanted, so C(delegate_to=localhost).
attributes:
  check_mode:
    support: full
    description: Says which files would be written or removed, and touches none.
  diff_mode:
    support: full
    description: Shows what changes, with C(***) in place of the key. What stood before in a file that held a key is not shown.
  idempotent:
    support: full
    description: Files that are as they should be are not written again.
options:
  endpoint:
    description: What clients have to know, whatever serves. P(llmops.serving.client_endpoint#filter) makes it of a serving plan.
    type: dict
    required: true
    suboptions:
      name:
        description: What clients call this endpoint, where they have several.
        type: str
        default: chat
      provider:
        description: What answers; C(openai) for anything that speaks this API.
        type: str
        choices: [vllm, ollama, openai]
        default: vllm
      url:
        description: URL of the API. Without a path, C(/v1) is added.
        type: str
        required: true
      inside_url:
        description: URL for programs in the same cluster or network, where it is another one.
        type: str
        default: ""
      reached_by:
        description: Command that has to run meanwhile, such as a port-forward.
        type: str
        default: ""
      model:
        description: Name of the model in requests.
        type: str
        required: true
      aliases:
        description: Other names under which it answers.
        type: list
        elements: str
        default: []
      max_model_len:
        description: Tokens of one chat.
        type: int
      tool_calls:
        description: Whether the model calls tools. Examples then do it.
        type: bool
        default: true
      tool_call_parser:
        description: Which parser of vLLM reads its calls, for clients that ask for it.
        type: str
      reasoning:
        description: Whether it tells its reasoning apart from its answer.
        type: bool
        default: false
      session_header:
        description: Header for an id of the conversation, by which a router keeps it on one engine.
        type: str
        default: ""
      key:
        description: Where the API key is. Without it, none is wanted.
        type: dict
        suboptions:
          command:
            description: Command that prints the key, for people and scripts.
            type: str
            required: true
          path:
            description: File that holds it, on the machine that serves.
            type: path
          secret:
            description: Secret of a cluster that holds it. With O(with_key=true) it is read there.
            type: dict
            suboptions:
              namespace:
                description: Namespace of the Secret.
                type: str
                required: true
              name:
                description: Name of the Secret.
                type: str
                required: true
              key:
                description: Which entry of the Secret's data.
                type: str
                required: true
  url:
    description: URL by which clients reach the endpoint, in place of the one in O(endpoint), such as that of an Ingress.
    type: str
    default: ""
  folder:
    description: Where to write. It is made when it is missing.
    type: path
    default: client-config
  label:
    description: What tells this endpoint from others in RV(summary), such as the name of its host.
    type: str
    default: ""
  fallbacks:
    description: Models of others that PicoClaw asks when this one does not answer.
    type: list
    elements: dict
    default: []
    suboptions:
      model:
        description: Provider and model, such as C(openrouter/meta-llama/llama-3.2-3b-instruct).
        type: str
        required: true
      url:
        description: URL of its API, where it is not the provider's own.
        type: str
        default: ""
  with_key:
    description: Whether the files hold the API key; those that do have mode 0600. Where it is V(false), keys of an earlier run are removed.
    type: bool
    default: false
  api_key:
    description: The API key, where it is read elsewhere. Only used with O(with_key=true).
    type: str
extends_documentation_fragment:
  - llmops.serving.kubernetes
notes:
  - Without a Secret in O(endpoint), or without O(with_key), no Python package beside Ansible's own is needed.
"""

EXAMPLES = r"""
- name: Write settings for the clients of an endpoint
  delegate_to: localhost
  llmops.serving.client_config:
    endpoint:
      url: https://llm.example.com/v1
      model: gpt-oss-120b
      max_model_len: 131072
      key:
        command: pass show llm.example.com
    folder: client-config
"""

RETURN = r"""
files:
  description: The files that belong there, in check mode those that would.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: Where it is.
      type: str
    mode:
      description: Its mode.
      type: str
    holds_key:
      description: Whether the API key stands in it.
      type: bool
    changed:
      description: Whether it was written, or would be.
      type: bool
  sample:
    - {path: /srv/ada/client-config/env.sh, mode: "0644", holds_key: false, changed: true}
removed:
  description: Files of an earlier run that held nothing but a key, and are removed.
  returned: always
  type: list
  elements: str
  sample: [/srv/ada/client-config/api-key]
summary:
  description: What a person is told at the end of a run.
  returned: always
  type: dict
  sample:
    Written: "/srv/ada/client-config: README.md, env.sh, endpoint.env, chat.sh"
    Model: gpt-oss-120b at http://localhost:8000/v1, also as chat
    Key: "in no file; it is taken from $VLLM_API_KEY, or printed by: kubectl -n chatbot get secret ..."
    Reach: "run meanwhile: kubectl -n chatbot port-forward service/vllm-router 8000:8000"
    Try: /srv/ada/client-config/chat.sh, or read /srv/ada/client-config/README.md
"""

import contextlib
import os
import stat
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _clients
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube, connected_once
from ansible_collections.llmops.serving.plugins.module_utils._reach import Reach

ARGS: dict[str, t.Any] = {
    "endpoint": {
        "type": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "default": "chat"},
            "provider": {"type": "str", "choices": list(_clients.PROVIDERS), "default": "vllm"},
            "url": {"type": "str", "required": True},
            "inside_url": {"type": "str", "default": ""},
            "reached_by": {"type": "str", "default": ""},
            "model": {"type": "str", "required": True},
            "aliases": {"type": "list", "elements": "str", "default": []},
            "max_model_len": {"type": "int"},
            "tool_calls": {"type": "bool", "default": True},
            "tool_call_parser": {"type": "str"},
            "reasoning": {"type": "bool", "default": False},
            "session_header": {"type": "str", "default": ""},
            "key": {
                "type": "dict",
                "no_log": False,
                "options": {
                    "command": {"type": "str", "required": True},
                    "path": {"type": "path"},
                    "secret": {
                        "type": "dict",
                        "no_log": False,
                        "options": {
                            "namespace": {"type": "str", "required": True},
                            "name": {"type": "str", "required": True},
                            "key": {"type": "str", "required": True, "no_log": False},
                        },
                    },
                },
            },
        },
    },
    "url": {"type": "str", "default": ""},
    "folder": {"type": "path", "default": "client-config"},
    "label": {"type": "str", "default": ""},
    "fallbacks": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"model": {"type": "str", "required": True}, "url": {"type": "str", "default": ""}},
    },
    "with_key": {"type": "bool", "default": False, "no_log": False},
    "api_key": {"type": "str", "no_log": True},
    **KUBERNETES_ARGS,
}
MASK = "***"


class Found(t.NamedTuple):
    """A file as it is."""

    text: str
    mode: int

    @property
    def private(self) -> bool:
        """Whether nobody but its owner may read it, so that it may hold a key."""
        return not self.mode & 0o077


def run(params: t.Mapping[str, t.Any], check_mode: bool, connect: t.Callable[..., Kube] = Kube.connect) -> dict[str, t.Any]:
    """Write what is not there yet, unless in *check_mode*, and return the result of the module."""
    endpoint = _clients.description(params["endpoint"], params["url"])
    key = _key(params, endpoint, connect) if params["with_key"] else None
    wanted = _clients.files(endpoint, key, _clients.checked_fallbacks(params["fallbacks"]))
    folder = Path(params["folder"])
    try:
        found = {file.name: _found(folder / file.name) for file in wanted}
        changed = [file for file in wanted if found[file.name] != Found(file.text, file.mode)]
        names = {file.name for file in wanted}
        removed = [name for name in _clients.KEY_FILES if name not in names and os.path.lexists(folder / name)]
        if not check_mode:
            for file in changed:
                _write(folder / file.name, file)
            for name in removed:
                (folder / name).unlink()
    except OSError as exc:
        raise ServingError(
            f"Cannot write {exc.filename or folder}: {exc.strerror}. Set client_config_folder to one that you may write to."
        ) from exc
    done = _clients.Done(sorted(names), [file.name for file in changed], removed, check_mode)
    told = _clients.summary(endpoint, str(folder), done, key)
    label = params["label"]
    return {
        "changed": bool(changed or removed),
        "files": [
            {"path": str(folder / file.name), "mode": f"{file.mode:04o}", "holds_key": file.secret, "changed": file in changed}
            for file in wanted
        ],
        "removed": [str(folder / name) for name in removed],
        "summary": {f"{word} ({label})" if label else word: text for word, text in told.items()},
        "diff": [_difference(folder / file.name, found[file.name], file, key) for file in changed]
        + [{"before_header": str(folder / name), "before": f"{MASK}\n", "after_header": "removed", "after": ""} for name in removed],
    }


def _key(params: t.Mapping[str, t.Any], endpoint: t.Mapping[str, t.Any], connect: t.Callable[..., Kube]) -> t.Optional[str]:
    """Return the key that the files are to hold; None where none is wanted. Raises ServingError where it cannot be had."""
    if params["api_key"]:
        return str(params["api_key"]).strip()
    if not endpoint["key"]:
        return None
    secret = endpoint["key"]["secret"]
    if not secret:
        raise ServingError(f"with_key: the API key was not given. Look whether it is printed by: {endpoint['key']['command']}")
    return Reach({"api_key_secret": secret, **{name: params[name] for name in KUBERNETES_ARGS}}, connected_once(params, connect)).api_key()


def _found(path: Path) -> t.Optional[Found]:
    """Return the file at *path*; None when there is none."""
    try:
        return Found(path.read_text(encoding="utf-8", errors="replace"), stat.S_IMODE(path.stat().st_mode))
    except FileNotFoundError:
        return None


def _difference(path: Path, before: t.Optional[Found], file: _clients.ClientFile, key: t.Optional[str]) -> dict[str, str]:
    """Return what a diff shows: never a key, neither the new one nor one of before, which nobody knows here."""
    after = file.text.replace(key, MASK) if key else file.text
    was = "" if before is None else "(may hold a key, so it is not shown)\n" if before.private else before.text
    return {"before_header": str(path), "before": was, "after_header": f"{path} (mode {file.mode:04o})", "after": after}


def _write(path: Path, file: _clients.ClientFile) -> None:
    """Write a file as a whole, with its mode from the start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as target:
            target.write(file.text.encode())
            os.fchmod(target.fileno(), file.mode)
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGS, supports_check_mode=True)
    try:
        result = run(module.params, module.check_mode)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
