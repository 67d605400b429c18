#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let an Ollama have a model, and hold it in memory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model
short_description: Pull a model with Ollama, and load it
version_added: "0.3.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Lets a running Ollama pull a model, tells how far that has come, and goes on where it was interrupted. Bytes that are there are never
    pulled again.
  - The digest of the model is returned, compared with the one that is pinned, and with the one that was there before; a tag that has
    moved is reported.
  - With O(load=true), the model is in memory afterwards. A model that came onto the GPUs in part only, which makes it many times slower,
    is loaded anew a few times, then reported; one of which nothing is on a GPU is an error.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.progress, llmops.serving.reach]
attributes:
  check_mode:
    support: full
    description: Looks at the models that are there, where an Ollama answers, and says what would be pulled.
  diff_mode:
    support: none
    description: RV(digest) and RV(moved) say all that is changed.
  idempotent:
    support: full
    description: A model that is there is pulled again with O(update=true) only, and then changes only what the registry has changed.
options:
  model:
    description: Name and tag, as Ollama has them.
    type: str
    required: true
  digest:
    description: Digest that the model has to have, or its first 12 digits or more. Another one is an error.
    type: str
  known_digest:
    description: Digest that the model had when it was verified last. Another one is reported as RV(moved).
    type: str
  update:
    description: Ask the registry for the tag although the model is there, and take what it is now.
    type: bool
    default: false
  alias:
    description: A second name under which Ollama serves the model.
    type: str
  load:
    description: Load the model into memory.
    type: bool
    default: false
  gpu:
    description: Whether the model has to be on GPUs. Used with O(load=true).
    type: bool
    default: false
  load_timeout:
    description: Seconds that loading may take.
    type: int
    default: 600
  timeout:
    description: Seconds that pulling may take.
    type: int
    default: 3600
"""

EXAMPLES = r"""
- name: Pull a model, and hold it in memory
  llmops.serving.ollama_model:
    model: gpt-oss:20b
    service: {namespace: chatbot, name: ollama, port: 11434}
    load: true
    gpu: true

- name: Take what the tag is now, on this machine
  llmops.serving.ollama_model:
    model: qwen3:8b
    url: http://127.0.0.1:11434
    update: true
"""

RETURN = r"""
model:
  description: The model.
  returned: always
  type: str
  sample: gpt-oss:20b
endpoint:
  description: Where Ollama was reached, a URL or C(service NAMESPACE/NAME:PORT).
  returned: always
  type: str
  sample: service chatbot/ollama:11434
present:
  description: Whether the model was there before.
  returned: always
  type: bool
  sample: false
pulled:
  description: Whether it was pulled, or would be in check mode.
  returned: always
  type: bool
  sample: true
digest:
  description: Digest of the model's manifest. Empty where it is not there.
  returned: always
  type: str
  sample: 17052f91a42e97930aa6e28a6c6c06a983e6a58dbb00434885a0cf5313e376f7
size_bytes:
  description: Its size on the volume.
  returned: always
  type: int
  sample: 13793441244
moved:
  description: The digest of before and that of now, where the tag has moved. Null where it has not.
  returned: always
  type: dict
  sample:
    from: aa4295ac10c3afb60e6d711289fc6896f5aef82258997b9efdaed6d0cc4cd8b8
    to: 17052f91a42e97930aa6e28a6c6c06a983e6a58dbb00434885a0cf5313e376f7
aliased:
  description: Whether the alias was made or turned to this model.
  returned: always
  type: bool
  sample: true
loaded:
  description: How the model is in memory. Null where that was not asked for.
  returned: always
  type: dict
  contains:
    size_bytes:
      description: All of it, room for the context included.
      type: int
    gpu_share:
      description: The part that is on GPUs, from 0 to 1.
      type: float
    context_length:
      description: Tokens that there is room for; 0 where Ollama does not tell.
      type: int
  sample: {size_bytes: 15482937344, gpu_share: 1.0, context_length: 65536}
elapsed_seconds:
  description: How long it took.
  returned: always
  type: float
  sample: 214.8
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube, connected_once
from ansible_collections.llmops.serving.plugins.module_utils._ollama_api import Model, Ollama
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress
from ansible_collections.llmops.serving.plugins.module_utils._reach import (
    REACH_ARGS,
    REACH_MUTUALLY_EXCLUSIVE,
    REACH_REQUIRED_ONE_OF,
    Reach,
)

LOOK_S = 30.0
SHOWN_DIGITS = 12


class Keeper:
    """Keeps one model as *params* ask. The constructor stores, ``run`` acts; ``result`` is what the module returns by then."""

    def __init__(self, ollama: Ollama, params: t.Mapping[str, t.Any], check_mode: bool, result: dict[str, t.Any]) -> None:
        self.ollama = ollama
        self.params = params
        self.check_mode = check_mode
        self.result = result
        self.warnings: list[str] = []

    def run(self) -> None:
        """Pull, name and load the model. Raises ServingError."""
        name, update = self.params["model"], self.params["update"]
        before = self.ollama.find(name)
        self.result.update(present=before is not None, pulled=before is None or update)
        self._note(before)
        if self.result["pulled"]:
            if self.check_mode:
                return
            self.ollama.pull(name, self.params["timeout"])
            self.ollama.client.timeout_s = LOOK_S
            after = self.ollama.find(name)
            if after is None:
                raise ServingError(f"Ollama says that {name} is pulled, but does not list it. Look: ollama list, and its log.")
            self.result["pulled"] = before is None or after.digest != before.digest
            self._note(after)
        self._compare(before)
        self._name()
        if self.params["load"] and not self.check_mode:
            self._load()

    def _note(self, model: t.Optional[Model]) -> None:
        if model is not None:
            self.result.update(digest=model.digest, size_bytes=model.size)

    def _compare(self, before: t.Optional[Model]) -> None:
        """Judge the digest: against the pin, against what was verified last, and against what was there before."""
        name, digest = self.params["model"], self.result["digest"]
        pin = (self.params["digest"] or "").rpartition(":")[2]
        if pin and not digest.startswith(pin):
            raise ServingError(
                f"{name} has the digest {digest[:SHOWN_DIGITS]}, the row pins {pin[:SHOWN_DIGITS]}: the tag has moved, or is another one. "
                f"To take what it is now, set digest: {digest[:SHOWN_DIGITS]} in its row of ollama_model_configs."
            )
        known = self.params["known_digest"] or (before.digest if before else "")
        if known and known != digest:
            self.result["moved"] = {"from": known, "to": digest}
            self.warnings.append(
                f"The tag {name} has moved: it was {known[:SHOWN_DIGITS]} and is {digest[:SHOWN_DIGITS]} now. A digest in its row keeps it."
            )

    def _name(self) -> None:
        alias = self.params["alias"]
        if not alias:
            return
        found = self.ollama.find(alias)
        self.result["aliased"] = found is None or found.digest != self.result["digest"]
        if self.result["aliased"] and not self.check_mode:
            self.ollama.copy(self.params["model"], alias)

    def _load(self) -> None:
        name = self.params["model"]
        loaded = self.ollama.load(name, self.params["load_timeout"], self.params["gpu"])
        share = round(loaded.gpu_share, 3)
        self.result["loaded"] = {"size_bytes": loaded.size, "gpu_share": share, "context_length": loaded.context_length}
        if not self.params["gpu"] or share >= 1:
            return
        gib = loaded.size / 2**30
        advice = "Set a smaller context_length, num_parallel: 1 or ollama_kv_cache_type: q8_0, or serve a smaller model"
        if share <= 0:
            raise ServingError(
                f"{name} ({gib:.1f} GiB) is loaded, but nothing of it is on a GPU, so it would answer at the speed of a CPU. "
                f"See what Ollama's log says of GPUs; then: {advice[0].lower()}{advice[1:]}."
            )
        self.warnings.append(f"{name} takes {gib:.1f} GiB, of which {share:.0%} are on the GPU: it answers much slower. {advice}.")


def run(
    params: t.Mapping[str, t.Any],
    check_mode: bool = False,
    connect: t.Callable[..., Kube] = Kube.connect,
    now: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> dict[str, t.Any]:
    """Do what was asked, and return what the module returns, ``warnings`` included. Raises ServingError, with the same as its details."""
    reach = Reach(params, connected_once(params, connect))
    result: dict[str, t.Any] = {
        "model": params["model"],
        "endpoint": reach.endpoint,
        "present": False,
        "pulled": check_mode,
        "digest": "",
        "size_bytes": 0,
        "moved": None,
        "aliased": False,
        "loaded": None,
    }
    begun = now()
    warnings: list[str] = []
    try:
        with reach.client(LOOK_S) as client:
            keeper = Keeper(Ollama(client, Progress(params["progress_path"]).tell, now, sleep), params, check_mode, result)
            warnings = keeper.warnings
            keeper.run()
    except ServingError as exc:
        if not check_mode:  # where nothing is deployed yet, there is nobody to ask
            exc.details.update(result, elapsed_seconds=round(now() - begun, 3))
            raise
    changed = result["pulled"] or result["aliased"]
    return {**result, "changed": changed, "elapsed_seconds": round(now() - begun, 3), "warnings": warnings}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str", "required": True},
            "digest": {"type": "str"},
            "known_digest": {"type": "str"},
            "update": {"type": "bool", "default": False},
            "alias": {"type": "str"},
            "load": {"type": "bool", "default": False},
            "gpu": {"type": "bool", "default": False},
            "load_timeout": {"type": "int", "default": 600},
            "timeout": {"type": "int", "default": 3600},
            **REACH_ARGS,
            **PROGRESS_ARGS,
            **KUBERNETES_ARGS,
        },
        mutually_exclusive=REACH_MUTUALLY_EXCLUSIVE,
        required_one_of=REACH_REQUIRED_ONE_OF,
        supports_check_mode=True,
    )
    try:
        result = run(module.params, check_mode=module.check_mode)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
