#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply a whole set of manifests in one call, and take away what an earlier run made and the set no longer has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_apply
short_description: Apply a set of manifests to Kubernetes, and prune
version_added: "0.1.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Applies all manifests of a component server-side, in the order in which they need each other, and deletes what an earlier run made
    and O(manifests) no longer have.
  - Everything is tried by a dry run of the server before anything is changed, so that a missing permission, a quota or a field that
    cannot be changed leaves the cluster as it was.
  - An object that already is as it should be costs no request. A run that changes nothing makes one request for each kind.
  - It can be interrupted at any point; the next run completes the work. Objects that are still being deleted are waited for, and a
    Job that has failed is made anew.
  - "Kinds that it knows, in the order of applying: Namespace, ServiceAccount, Role, RoleBinding, Secret, ConfigMap,
    PersistentVolumeClaim, Job, Service, Deployment, PodDisruptionBudget, Ingress, ServiceMonitor."
notes:
  - Every object but the Namespace gets the labels C(app.kubernetes.io/managed-by=llmops.serving), C(app.kubernetes.io/instance) and
    C(app.kubernetes.io/part-of) of its O(owner). By these labels pruning finds what an earlier run made.
  - A Namespace gets the label C(app.kubernetes.io/managed-by=llmops.serving) only if this module makes it. One that was there before
    is used, and never deleted.
  - "A Secret with the annotation C(serving.llmops/autogenerate: KEY[,KEY...]) gets a random value for each of these keys that it
    lacks. When its data change, the pods of the Deployments that use it are replaced: the pod template names the version of the data,
    in the annotation C(serving.llmops/secrets)."
  - A Job whose pod template has changed is deleted and made anew.
attributes:
  check_mode:
    description: Can run in check mode, also where the namespace does not exist yet.
    support: full
  diff_mode:
    description: Shows each changed object before and after, as the server sees them. Values of Secrets are never shown.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
options:
  manifests:
    description:
      - The objects, as in the API. V([]) together with O(prune) removes what an earlier run made.
      - A Secret has no values here, see O(secret_data).
    type: list
    elements: dict
    required: true
  namespace:
    description:
      - The namespace that the set lives in. Objects without a namespace get it.
    type: str
    required: true
  owner:
    description:
      - Whose objects these are.
    type: dict
    required: true
    suboptions:
      instance:
        description: The stack, for example V(chat).
        type: str
        required: true
      component:
        description: The part of the stack, for example V(vllm).
        type: str
        required: true
  prune:
    description:
      - Delete the objects of this O(owner) that O(manifests) do not have.
    type: bool
    default: true
  keep_kinds:
    description:
      - Kinds of which nothing is pruned.
      - Without V(Namespace) in it, and without a Namespace in O(manifests), the namespace is deleted too, if this module made it and
        nothing else lives in it.
    type: list
    elements: str
    choices:
      - Namespace
      - ServiceAccount
      - Role
      - RoleBinding
      - Secret
      - ConfigMap
      - PersistentVolumeClaim
      - Job
      - Service
      - Deployment
      - PodDisruptionBudget
      - Ingress
      - ServiceMonitor
    default: [Namespace, PersistentVolumeClaim, Secret]
  kinds:
    description:
      - Kinds that this owner's set may ever have had. Others are neither looked for nor pruned, which saves a request each.
      - Without it, all kinds that O(keep_kinds) may name.
    type: list
    elements: str
    default: []
  secret_data:
    description:
      - "Values of the Secrets in O(manifests): C({name of the Secret: {key: plain value}})."
      - They win over the values in the cluster. An empty value counts as not given.
    type: dict
    default: {}
  wait:
    description:
      - Wait until the Deployments of the set are rolled out, and until the pods of pruned Deployments are gone.
    type: bool
    default: false
  wait_jobs:
    description:
      - Wait until the Jobs of the set are complete before Services, Deployments and what comes behind them are applied, so that what runs
        is not touched until a Job has prepared its successor. Fails at once, with the last lines of the log, when one fails.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait, all waiting together.
    type: int
    default: 600
  optional_kinds:
    description:
      - Kinds, as C(group/version/Kind), whose objects are skipped where the cluster does not know the kind.
    type: list
    elements: str
    default: [monitoring.coreos.com/v1/ServiceMonitor]
extends_documentation_fragment:
  - llmops.serving.kubernetes
"""

EXAMPLES = r"""
- name: Apply the router and its key
  llmops.serving.kubernetes_apply:
    namespace: chatbot
    owner: {instance: chat, component: router}
    manifests:
      - apiVersion: v1
        kind: Namespace
        metadata: {name: chatbot}
      - apiVersion: v1
        kind: Secret
        metadata:
          name: vllm-api-key
          annotations: {serving.llmops/autogenerate: VLLM_API_KEY}
      - "{{ lookup('ansible.builtin.template', 'router.yaml.j2') | from_yaml }}"
    secret_data:
      vllm-api-key:
        VLLM_API_KEY: "{{ vllm_api_key | default('') }}"
    wait: true

- name: Remove the router, keep its key
  llmops.serving.kubernetes_apply:
    namespace: chatbot
    owner: {instance: chat, component: router}
    manifests: []
    keep_kinds: [Secret]
    wait: true
"""

RETURN = r"""
results:
  description: What happened to each object, in the order of applying, then of deleting. In check mode, what would happen.
  returned: success, and on a failure after the first change what was done until then
  type: list
  elements: dict
  contains:
    kind:
      description: Kind of the object.
      type: str
      sample: Deployment
    name:
      description: Name of the object.
      type: str
      sample: vllm-router
    action:
      description: One of V(created), V(changed), V(unchanged), V(deleted), V(skipped).
      type: str
      sample: changed
  sample:
    - {kind: Namespace, name: chatbot, action: unchanged}
    - {kind: Deployment, name: vllm-router, action: changed}
refused:
  description: The error of each object that the cluster refuses.
  returned: when the dry run fails
  type: list
  elements: str
  sample: ["Deployment/vllm-router: spec.replicas: Invalid value: -1: must be greater than or equal to 0."]
skipped:
  description: What was left out or left alone, and why.
  returned: success
  type: list
  elements: dict
  sample:
    - {kind: ServiceMonitor, name: vllm-router, reason: this cluster does not know monitoring.coreos.com/v1/ServiceMonitor}
secrets_generated:
  description: Keys whose values were generated in this run, as C(secret/key). The values are in the Secrets only.
  returned: success
  type: list
  elements: str
  sample: [open-webui/WEBUI_ADMIN_PASSWORD]
requests:
  description: Number of requests made to the Kubernetes API.
  returned: success
  type: int
  sample: 13
"""

import functools
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _apply, _rollout
from ansible_collections.llmops.serving.plugins.module_utils._apply import (
    CHANGED,
    CREATED,
    DELETED,
    KINDS,
    MANAGER,
    PODS,
    SKIPPED,
    UNCHANGED,
    Kind,
    Owner,
    Step,
)
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube, KubeError, Object, selector_text

PARALLEL = 8
# What is applied only when the Jobs of the set are complete.
BEHIND_JOBS = list(KINDS)[list(KINDS).index("Job") + 1 :]
WATCH_S = 30
LOG_LINES = 10
NAMESPACE = KINDS["Namespace"]

ARGS: dict[str, t.Any] = {
    **KUBERNETES_ARGS,
    "manifests": {"type": "list", "elements": "dict", "required": True},
    "namespace": {"type": "str", "required": True},
    "owner": {
        "type": "dict",
        "required": True,
        "options": {"instance": {"type": "str", "required": True}, "component": {"type": "str", "required": True}},
    },
    "prune": {"type": "bool", "default": True},
    "keep_kinds": {
        "type": "list",
        "elements": "str",
        "choices": list(KINDS),
        "default": ["Namespace", "PersistentVolumeClaim", "Secret"],
    },
    "secret_data": {"type": "dict", "default": {}, "no_log": True},
    "wait": {"type": "bool", "default": False},
    "kinds": {"type": "list", "elements": "str", "default": []},
    "wait_jobs": {"type": "bool", "default": False},
    "wait_timeout": {"type": "int", "default": 600},
    "optional_kinds": {"type": "list", "elements": "str", "default": ["monitoring.coreos.com/v1/ServiceMonitor"]},
}


class Application:
    """One call of the module: read, decide, rehearse, carry out, wait. The constructor stores, ``run`` acts."""

    def __init__(
        self,
        kube: Kube,
        params: t.Mapping[str, t.Any],
        check_mode: bool = False,
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.kube = kube
        self.params = params
        self.check_mode = check_mode
        self.clock = clock
        self.sleep = sleep
        self.namespace: str = params["namespace"]
        others = set(KINDS) - set(params["kinds"]) if params["kinds"] else set()
        self.keep: t.Collection[str] = {*params["keep_kinds"], *others}
        self.home: t.Optional[Object] = None
        self.live: dict[_apply.Key, Object] = {}
        self.steps: list[Step] = []
        self.skipped: list[dict[str, str]] = []
        self.generated: list[str] = []
        self.secret_texts: set[str] = set()
        self.deadline = 0.0
        self.jobs_followed = False

    def run(self) -> dict[str, t.Any]:
        """Do it all, or in check mode all but the changes, and return the module's result, ``diff`` included."""
        self.owner = Owner(**self.params["owner"])
        optional = _apply.optional_kinds(self.params["optional_kinds"])
        wanted = _apply.prepare(self.params["manifests"], self.namespace, self.owner)
        given = _apply.given_values(self.params["secret_data"], wanted)
        self.deadline = self.clock() + self.params["wait_timeout"]

        wanted = self._read(wanted, optional)
        wanted = self._fill_secrets(wanted, given)
        self.steps = [self._decide(document) for document in wanted] + self._prune(wanted)
        try:
            self._act()
        except ServingError as exc:
            done = self._results([step for step in self.steps if step.done])
            exc.details.update(changed=any(result["action"] != UNCHANGED for result in done), results=done)
            raise
        return {
            "changed": any(step.action != UNCHANGED for step in self.steps),
            "results": self._results(self.steps) + [{"kind": s["kind"], "name": s["name"], "action": SKIPPED} for s in self.skipped],
            "skipped": self.skipped,
            "secrets_generated": self.generated,
            "requests": len(self.kube.sent),
            "diff": [_apply.diff_entry(step) for step in self.steps if step.action != UNCHANGED],
        }

    def _act(self) -> None:
        """Rehearse, change, wait. What is in a namespace can be rehearsed no earlier than the namespace is there."""
        first = 0 if self._there() else 1
        self._rehearse(self.steps[:first] or self.steps)
        self._check_claims()
        if self.check_mode:
            return
        if first:
            self._carry_out(self.steps[:first])
            self._rehearse(self.steps[first:])
        self._carry_out(self.steps[first:])
        self._wait()

    @staticmethod
    def _results(steps: t.Iterable[Step]) -> list[dict[str, str]]:
        return [{"kind": step.kind.name, "name": step.name, "action": step.action} for step in steps]

    def _path(self, step: Step) -> str:
        return step.kind.path(self.namespace, step.name)

    # --- read --------------------------------------------------------------------------------------------------------------------

    def _read(self, wanted: list[Object], optional: t.Collection[str]) -> list[Object]:
        """Read what is there of this owner, and return *wanted* without the optional kinds that this cluster lacks."""
        asked = {document["kind"] for document in wanted}
        kinds = [kind for kind in KINDS.values() if kind.name in asked or (self.params["prune"] and kind.name not in self.keep)]
        with ThreadPoolExecutor(PARALLEL) as pool:
            home = pool.submit(self.kube.get, NAMESPACE.path("", self.namespace))
            found = pool.map(lambda kind: self._of_owner(kind, kind.name in optional, kind.name in asked), kinds)
            for kind, documents in zip(kinds, found):
                if documents is not None:
                    self.live.update((_apply.key_of(document), document) for document in documents)
                    continue
                absent = [document["metadata"]["name"] for document in wanted if document["kind"] == kind.name]
                if absent and kind.name not in optional:
                    raise ServingError(
                        f"This cluster does not know {kind.title}, asked for by {kind.name}/{absent[0]}. "
                        "Add it to optional_kinds to go without it, or update the cluster."
                    )
                reason = f"this cluster does not know {kind.title}"
                self.skipped += [{"kind": kind.name, "name": name, "reason": reason} for name in absent]
                wanted = [document for document in wanted if document["kind"] != kind.name]
            self.home = home.result()
        if self.home is None or _apply.is_dying(self.home):
            self.live = {}
            if wanted and "Namespace" not in asked:
                state = "does not exist" if self.home is None else "is being deleted"
                raise ServingError(
                    f"The namespace {self.namespace} {state}, and no manifest makes it. Create it, or add a Namespace to them."
                )
        if self.home is not None:
            self.live[NAMESPACE.name, self.namespace] = {"apiVersion": NAMESPACE.api_version, "kind": NAMESPACE.name, **self.home}
        return wanted

    def _of_owner(self, kind: Kind, optional: bool, asked: bool) -> t.Optional[list[Object]]:
        """Return the objects of *kind* that carry the owner's labels, None where the cluster lacks the kind."""
        if kind is NAMESPACE:
            return []
        try:
            return self._list(kind, self.owner.selector, missing_ok=False)
        except KubeError as exc:
            if exc.status == 404:
                return None
            # The server checks the permission before it looks whether the kind exists at all.
            if exc.status == 403 and optional and not (asked and self._is_served(kind)):
                return None
            raise

    def _is_served(self, kind: Kind) -> bool:
        root = "/apis" if "/" in kind.api_version else "/api"
        group = self.kube.get(f"{root}/{kind.api_version}") or {}
        return any(resource.get("kind") == kind.name for resource in group.get("resources") or [])

    def _list(self, kind: Kind, label_selector: str = "", missing_ok: bool = True) -> list[Object]:
        documents = self.kube.list(kind.path(self.namespace), label_selector=label_selector, missing_ok=missing_ok)
        return [{"apiVersion": kind.api_version, "kind": kind.name, **document} for document in documents]

    # --- decide ------------------------------------------------------------------------------------------------------------------

    def _there(self) -> bool:
        """Whether there is a namespace to look into."""
        return self.home is not None and not _apply.is_dying(self.home)

    def _fill_secrets(self, wanted: list[Object], given: t.Mapping[str, t.Mapping[str, str]]) -> list[Object]:
        """Return *wanted* with the data of its Secrets, and with their versions in the Deployments that use them."""
        if self._there():
            for document in wanted:
                key = _apply.key_of(document)
                if document["kind"] == "Secret" and key not in self.live:
                    stray = self.kube.get(KINDS["Secret"].path(self.namespace, key[1]))
                    if stray is not None:
                        self.live[key] = stray
        filled: list[Object] = []
        versions = self._versions_elsewhere(wanted)
        for document in wanted:
            if document["kind"] == "Secret":
                name = document["metadata"]["name"]
                document, keys = _apply.fill_secret(document, self.live.get(("Secret", name)), given.get(name, {}))
                self.generated += [f"{name}/{key}" for key in keys]
                self.secret_texts.update(_apply.plain_values(document))
                versions[name] = _apply.annotations_of(document)[_apply.DATA_VERSION]
            elif document["kind"] == "Deployment":
                document = _apply.roll_on_secrets(document, versions)
            filled.append(document)
        return filled

    def _versions_elsewhere(self, wanted: t.Sequence[Object]) -> dict[str, str]:
        """Return the data versions of Secrets that Deployments of *wanted* use, and that another call of this module keeps."""
        own = {document["metadata"]["name"] for document in wanted if document["kind"] == "Secret"}
        others = _apply.secrets_used(document for document in wanted if document["kind"] == "Deployment") - own if self._there() else set()
        versions: dict[str, str] = {}
        for name in sorted(others):
            found = self.kube.get(KINDS["Secret"].path(self.namespace, name)) or {"metadata": {}}
            version = _apply.annotations_of(found).get(_apply.DATA_VERSION)
            if version:
                versions[name] = version
        return versions

    def _decide(self, document: Object) -> Step:
        """Return what is to be done with *document*, as far as it can be told without the server."""
        name, live = document["metadata"]["name"], self.live.get(_apply.key_of(document))
        gone_first = live is not None and _apply.is_dying(live)
        if gone_first:
            live = None
        if document["kind"] == NAMESPACE.name:
            document = _apply.claim_namespace(document, live)
        step = Step(KINDS[document["kind"]], name, CREATED, desired=_apply.seal(document), live=live, gone_first=gone_first)
        if live is None:
            return step
        failure = _rollout.job_failure(live) if step.kind.name == "Job" else ""
        if failure:
            step.replace = f"it failed ({failure})"
        step.action = UNCHANGED if not failure and _apply.contains(live, step.desired) else CHANGED
        return step

    def _refuse_other_owner(self, step: Step) -> None:
        """Volumes and Secrets outlive their owner and may be taken over; anything else of another owner is in use."""
        other = "" if step.live is None or step.kind.name in self.keep else _apply.other_owner(step.live, self.owner)
        if other and step.kind is not NAMESPACE:
            raise ServingError(
                f"{step.title} in the namespace {self.namespace} belongs to {other} (instance/component), and this is "
                f"{self.owner.instance}/{self.owner.component}. Give it another name or namespace, or uninstall the other one first."
            )

    def _prune(self, wanted: t.Sequence[Object]) -> list[Step]:
        if not self.params["prune"] or not self._there():
            return []
        keys = {_apply.key_of(document) for document in wanted}
        ours = [document for document in self.live.values() if document["kind"] != NAMESPACE.name]
        doomed = _apply.to_prune(ours, keys, self.keep)
        home = self.live[NAMESPACE.name, self.namespace]
        if NAMESPACE.name not in self.keep and _apply.key_of(home) not in keys:
            reason = self._namespace_stays(home, doomed)
            if reason:
                self.skipped.append({"kind": NAMESPACE.name, "name": self.namespace, "reason": reason})
            else:
                doomed.append(home)
        return [Step(KINDS[d["kind"]], d["metadata"]["name"], DELETED, live=d) for d in doomed]

    def _namespace_stays(self, home: Object, doomed: t.Sequence[Object]) -> str:
        """Return why the namespace is left, empty where it can go."""
        if not _apply.made_by_us(home):
            return f"it was not made by {MANAGER}"
        with ThreadPoolExecutor(PARALLEL) as pool:
            contents = [document for documents in pool.map(self._list, _apply.CONTENTS) for document in documents]
        left = _apply.left_in_namespace(contents, doomed)
        return f"it still has {_apply.brief(left)}" if left else ""

    # --- rehearse ----------------------------------------------------------------------------------------------------------------

    def _rehearse(self, steps: t.Sequence[Step]) -> None:
        """Let the server judge every change of *steps* before the first one; raise ServingError if it refuses any."""
        trials = [step for step in steps if step.action != UNCHANGED and not step.gone_first]
        with ThreadPoolExecutor(PARALLEL) as pool:
            errors = [error for error in pool.map(self._try, trials) if error is not None]
        if errors:
            changed = [step.title for step in self.steps if step.done and step.action != UNCHANGED]
            state = f"Nothing but {changed[0]} was changed" if changed else "Nothing was changed"
            more = f" ({len(errors) - 1} more below, in refused.)" if len(errors) > 1 else ""
            raise ServingError(f"{state}, because the cluster refuses this: {errors[0]}{more}", refused=[str(error) for error in errors])

    def _try(self, step: Step) -> t.Optional[ServingError]:
        """Send *step* as a dry run, and let the answer say what it would change. Returns the error of a refusal."""
        path = self._path(step)
        try:
            if step.desired is None:
                self.kube.delete(path, dry_run=True)
                return None
            if not step.replace:
                try:
                    step.after = self.kube.apply(path, step.desired, MANAGER, dry_run=True)
                except KubeError as exc:
                    step.live = step.live or (self.kube.get(path) if exc.status == 422 else None)
                    if step.kind.name != "Job" or step.live is None or "immutable" not in str(exc):
                        raise
                    step.replace = "its pod template cannot be changed in place"
            if step.replace:
                self._try_anew(step, step.desired)
            if step.live is None and step.after is not None and step.after["metadata"].get("resourceVersion"):
                step.live = self.kube.get(path)  # somebody made it without our labels: it is taken over
            if step.live is not None:
                self._refuse_other_owner(step)
                step.action = UNCHANGED if not step.replace and step.after and _apply.same(step.live, step.after) else CHANGED
        except KubeError as exc:
            return None if self._waits_for_role(step, exc) else _apply.refusal(step, exc, self.namespace)
        except ServingError as exc:
            return exc
        return None

    def _try_anew(self, step: Step, desired: Object) -> None:
        """Rehearse the deletion, and the creation under another name, since its own one is taken."""
        name = f"{step.name[:50].rstrip('-.')}-dry-run"
        trial = {**desired, "metadata": {**desired["metadata"], "name": name}}
        step.after = self.kube.apply(step.kind.path(self.namespace, name), trial, MANAGER, dry_run=True)
        step.after["metadata"]["name"] = step.name
        self.kube.delete(self._path(step), dry_run=True)

    def _check_claims(self) -> None:
        """Refuse new claims that nobody would fill: the server takes them, and their pods would wait for ever."""
        claims = [
            step.desired for step in self.steps if step.kind.name == "PersistentVolumeClaim" and step.action == CREATED and step.desired
        ]
        if not claims:
            return
        try:
            classes = list(self.kube.list("/apis/storage.k8s.io/v1/storageclasses"))
        except KubeError as exc:
            if exc.status == 403:
                return  # who may not look cannot be told
            raise
        for claim in claims:
            trouble = _apply.class_trouble(claim, classes)
            if trouble:
                raise ServingError(f"Nothing was changed: {trouble}")

    def _waits_for_role(self, step: Step, error: KubeError) -> bool:
        """Whether a RoleBinding cannot be judged yet because its Role is made in this run."""
        role = ((step.desired or {}).get("roleRef") or {}).get("name")
        created = {s.name for s in self.steps if s.kind.name == "Role" and s.action == CREATED}
        return step.kind.name == "RoleBinding" and error.status == 404 and role in created

    # --- carry out ---------------------------------------------------------------------------------------------------------------

    def _carry_out(self, steps: t.Sequence[Step]) -> None:
        for step in steps:
            if step.desired is None or step.kind.name in BEHIND_JOBS:
                self._follow_jobs()
            if step.action != UNCHANGED:
                try:
                    self._change(step)
                except KubeError as exc:
                    raise _apply.refusal(step, exc, self.namespace) from exc
            step.done = True

    def _change(self, step: Step) -> None:
        if step.desired is None:
            self.kube.delete(self._path(step))
            return
        if step.gone_first:
            self._wait_until_gone(step)
        if step.replace and step.live is not None:
            self.kube.delete(self._path(step))
            self._wait_until_gone(step)
            self._wait_until_pods_gone(step.title, f"controller-uid={step.live['metadata']['uid']}", lambda pods: pods)
        answer = self.kube.apply(self._path(step), step.desired, MANAGER)
        step.after = answer

    # --- wait --------------------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        self._follow_jobs()
        if not self.params["wait"]:
            return
        self._follow("Deployment", self._rollout_state)
        deleted = [step for step in self.steps if step.action == DELETED]
        if deleted and deleted[-1].kind is NAMESPACE:
            self._wait_until_gone(deleted[-1])
            return
        for step in deleted:
            if step.kind.name == "Deployment" and step.live is not None:
                deployment = step.live
                labels = ((deployment.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
                self._wait_until_pods_gone(step.title, selector_text(labels), functools.partial(_rollout.pods_of, deployment))

    def _follow_jobs(self) -> None:
        """Wait once, where that was asked for, until the Jobs of the set are complete."""
        if self.params["wait_jobs"] and not self.jobs_followed:
            self.jobs_followed = True
            self._follow("Job", self._job_state)

    def _follow(self, kind_name: str, state: t.Callable[[Step, t.Optional[Object]], str]) -> None:
        """Watch the objects of a kind until *state* has nothing more to say about any; *state* raises for a hopeless one."""
        steps = [step for step in self.steps if step.kind.name == kind_name and step.desired is not None]
        # what was read at the start may be good already, if nothing was changed since
        pending = [step for step in steps if step.action != UNCHANGED or state(step, step.live)]
        latest: dict[str, Object] = {}
        while pending:
            latest.clear()
            for event, document in self._watch(KINDS[kind_name].path(self.namespace), label_selector=self.owner.selector):
                name = document["metadata"]["name"]
                if event == "DELETED":
                    latest.pop(name, None)
                else:
                    latest[name] = document
                pending = [step for step in pending if step.name != name or state(step, latest.get(name))]
                if not pending:
                    return
            if self.clock() >= self.deadline:
                step = pending[0]
                missing = state(step, latest.get(step.name))
                raise ServingError(
                    f"{step.title} is not ready after {self.params['wait_timeout']} s: {missing}.{self._pods_say(step)}\n"
                    f"Look: kubectl -n {self.namespace} describe {kind_name.lower()} {step.name}"
                )
            self.sleep(1)

    def _watch(self, path: str, label_selector: str = "", field_selector: str = "", longest_s: int = WATCH_S) -> t.Iterator[t.Any]:
        """Yield the events of one watch, which begins with all that is there. A watch that the server gives up ends."""
        timeout_s = int(max(1, min(longest_s, self.deadline - self.clock())))
        for event, document in self.kube.watch(path, label_selector, field_selector, timeout_s=timeout_s):
            if event == "ERROR":
                return
            yield event, document

    def _rollout_state(self, step: Step, deployment: t.Optional[Object]) -> str:
        if deployment is None:
            return "it is not there"
        generation = ((step.after or {}).get("metadata") or {}).get("generation", 0)
        failure = _rollout.rollout_failure(deployment, generation)
        if failure:
            raise ServingError(f"{step.title} has failed to roll out: {failure.rstrip('.')}.{self._pods_say(step)}")
        return _rollout.rollout_pending(deployment, generation)

    def _job_state(self, step: Step, job: t.Optional[Object]) -> str:
        uid = ((step.after or step.live or {}).get("metadata") or {}).get("uid")
        if job is None or job["metadata"].get("uid") != uid:
            return "it is not there"
        failure = _rollout.job_failure(job)
        if failure:
            raise ServingError(f"{step.title} has failed ({failure.rstrip('.')}).{self._last_words(step)}")
        return "" if _rollout.job_complete(job) else "it still runs"

    def _pods(self, step: Step) -> list[Object]:
        """Return the pods of a Deployment or Job, the newest first."""
        if step.kind.name == "Job":
            pods = self._list(PODS, f"job-name={step.name}")
        else:
            deployment = step.desired or {}
            labels = ((deployment.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
            pods = _rollout.pods_of(deployment, self._list(PODS, selector_text(labels)))
        return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)

    def _pods_say(self, step: Step) -> str:
        for pod in self._pods(step):
            trouble = _rollout.pod_trouble(pod)
            if trouble:
                return f" Pod {pod['metadata']['name']}: {_apply.redact(trouble, self.secret_texts)}."
        return ""

    def _last_words(self, step: Step) -> str:
        """Return the end of the log of the newest pod of a Job."""
        pod = next(iter(self._pods(step)), None)
        if pod is None:
            return " It has left no pod behind."
        name = pod["metadata"]["name"]
        trouble = _rollout.pod_trouble(pod)
        container = trouble.partition("container ")[2].partition(":")[0]
        log = self.kube.logs(self.namespace, name, container=container, tail_lines=LOG_LINES).strip()
        words = f"\nThe log of {name} ends:\n{log}" if log else f" Pod {name}: {trouble or 'it has written no log'}."
        return _apply.redact(words, self.secret_texts)

    def _wait_until_gone(self, step: Step) -> None:
        """Wait until the object that had the name of *step* is no more."""
        path, selector = step.kind.path(self.namespace), f"metadata.name={step.name}"
        while True:
            left = list(self.kube.list(path, field_selector=selector))
            if not left:
                return
            self._pause_or_give_up(path, "", selector, step.title, left)

    def _wait_until_pods_gone(self, title: str, label_selector: str, chosen: t.Callable[[list[Object]], list[Object]]) -> None:
        path = PODS.path(self.namespace)
        while True:
            left = chosen(list(self.kube.list(path, label_selector=label_selector)))
            if not left:
                return
            self._pause_or_give_up(path, label_selector, "", f"Pod/{left[0]['metadata']['name']} of {title}", left)

    def _pause_or_give_up(self, path: str, label_selector: str, field_selector: str, title: str, left: t.Sequence[Object]) -> None:
        """Return when something has been deleted under *path*, or after a few seconds; raise ServingError at the deadline."""
        if self.clock() >= self.deadline:
            finalizers = left[0]["metadata"].get("finalizers") or []
            holds = f" (held by {', '.join(finalizers)})" if finalizers else ""
            raise ServingError(
                f"{title} is deleted, but has not gone within {self.params['wait_timeout']} s{holds}. "
                "Remove what still uses it, then run again."
            )
        for event, _document in self._watch(path, label_selector, field_selector, longest_s=5):
            if event == "DELETED":
                return


def run(kube: Kube, params: t.Mapping[str, t.Any], check_mode: bool = False) -> dict[str, t.Any]:
    """Apply what *params*, the module's options, ask for. Raises ServingError."""
    return Application(kube, params, check_mode).run()


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(argument_spec=ARGS, supports_check_mode=True)
    # Values in a manifest are refused; until then they must not be shown either.
    module.no_log_values.update(_apply.secret_values(module.params["manifests"]))
    try:
        result = run(Kube.connect(module.params["kubeconfig"], module.params["context"]), module.params, module.check_mode)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    if not (module._diff or module.check_mode):  # in check mode it is what a person, or make plan, wants to know
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
