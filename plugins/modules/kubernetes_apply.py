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
    Job that has failed, or that can never end, is made anew.
  - What is waited for is watched with its pods and their events. As soon as they show a cause that waiting cannot mend, the wait ends
    with it, and not first when Kubernetes gives up.
  - An API server that goes away while something is waited for is asked again until O(wait_timeout). A change that it does not answer is
    sent again for about 15 seconds.
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
      - Wait until the Deployments of the set are rolled out, and until the pods of pruned Deployments are gone. Fails at once when a pod
        shows why it can never be ready.
    type: bool
    default: false
  wait_jobs:
    description:
      - Wait until the Jobs of the set are complete before Services, Deployments and what comes behind them are applied, so that what runs
        is not touched until a Job has prepared its successor. Fails at once, with the last lines of the log, when one fails.
      - A container of a Job that ends with exit code 3 says that no other try can mend it; the last line of its log becomes the error.
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
  - llmops.serving.progress
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
jobs:
  description: The Jobs of the set that ran during this call, when O(wait_jobs) was set.
  returned: success, and on a failure after the first change those that had completed until then
  type: list
  elements: dict
  contains:
    name:
      description: Name of the Job.
      type: str
      sample: vllm-prefetch
    last_line:
      description: The last line that its pod wrote, empty when it wrote none.
      type: str
      sample: "weights: 60.8 of 60.8 GiB are there"
  sample:
    - {name: vllm-prefetch, last_line: "weights: 60.8 of 60.8 GiB are there"}
verdict:
  description: What a pod that was waited for showed.
  returned: on a failure, when the pods have shown the cause
  type: dict
  contains:
    cause: {description: A word for the cause., type: str, sample: image-not-found}
    what: {description: What is wrong., type: str, sample: the image vllm/vllm-openai:v9 does not exist}
    where: {description: The object that shows it., type: str, sample: container vllm of pod vllm-backend-7d9-x}
    since: {description: Since when it shows it; empty when unknown., type: str, sample: "2026-11-21T09:13:34Z"}
    log: {description: The decisive line of the log; empty when there is none., type: str, sample: ""}
    advice: {description: What to do., type: str, sample: Set vllm_image to one that exists}
    certain: {description: Whether waiting cannot mend it; that ended the wait., type: bool, sample: true}
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

import contextlib
import functools
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _apply, _diagnosis, _rollout, _watch
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
from ansible_collections.llmops.serving.plugins.module_utils._kube import (
    KUBERNETES_ARGS,
    Kube,
    KubeError,
    Object,
    container_states,
    selector_text,
)
from ansible_collections.llmops.serving.plugins.module_utils._phases import phase_of_pod
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress

T = t.TypeVar("T")

PARALLEL = 8
# What is applied only when the Jobs of the set are complete.
BEHIND_JOBS = list(KINDS)[list(KINDS).index("Job") + 1 :]
WATCH_S = 30
LOG_LINES = 10
# Between two looks while nothing changes: a log has grown, something is overdue.
LOOK_S = 2.0
# Pauses between the tries of a change that nobody answers.
PAUSES_S = (1.0, 2.0, 4.0, 8.0)
EVENTS = Kind("v1", "Event", "events")
STORAGE_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
NOT_THERE = "it is not there"
REPLICA_SETS = Kind("apps/v1", "ReplicaSet", "replicasets")
NAMESPACE = KINDS["Namespace"]

ARGS: dict[str, t.Any] = {
    **KUBERNETES_ARGS,
    **PROGRESS_ARGS,
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


Eyes = t.Union[_watch.Live, _watch.Still]


class Scene(t.NamedTuple):
    """What is seen of the namespace while something is followed. Nothing is in it of what is not permitted to be seen."""

    objects: t.Sequence[Object]
    pods: t.Sequence[Object]
    events: t.Sequence[Object]
    claims: t.Sequence[Object]
    replica_sets: t.Sequence[Object]


class Application:
    """One call of the module: read, decide, rehearse, carry out, wait. The constructor stores, ``run`` acts."""

    def __init__(
        self,
        kube: Kube,
        params: t.Mapping[str, t.Any],
        check_mode: bool = False,
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
        now: t.Callable[[], float] = time.time,
        eyes: t.Callable[[t.Callable[[], Kube]], Eyes] = functools.partial(_watch.Live, notable=lambda line: False),
    ) -> None:
        self.kube = kube
        self.params = params
        self.check_mode = check_mode
        self.clock = clock
        self.sleep = sleep
        self.now = now
        self.eyes = eyes
        self.progress = Progress(params.get("progress_path"), clock)
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
        self.jobs: list[dict[str, str]] = []
        self.verdicts: dict[str, _diagnosis.Verdict] = {}
        self._surroundings: t.Optional[_diagnosis.Surroundings] = None
        self._ended_logs = _watch.EndedLogs()

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
            failure = _apply.interrupted(exc, self.steps) if isinstance(exc, KubeError) and _apply.may_heal(exc) else exc
            done = self._results([step for step in self.steps if step.done])
            failure.details.update(changed=any(result["action"] != UNCHANGED for result in done), results=done, jobs=self.jobs)
            raise failure from exc.__cause__
        return {
            "changed": any(step.action != UNCHANGED for step in self.steps),
            "results": self._results(self.steps) + [{"kind": s["kind"], "name": s["name"], "action": SKIPPED} for s in self.skipped],
            "skipped": self.skipped,
            "jobs": self.jobs,
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
        if step.kind.name == "Job":
            step.replace = self._hopeless(step, live)
        step.action = UNCHANGED if not step.replace and _apply.contains(live, step.desired) else CHANGED
        return step

    def _hopeless(self, step: Step, job: Object) -> str:
        """Return why a Job that is there can no longer do its work, empty while it can."""
        failure = _rollout.job_failure(job)
        if failure:
            return f"it failed ({failure})"
        if _rollout.job_complete(job):
            return ""
        # A run before this one may have given it up for a cause that is mended by now, while its pod goes on in the old way.
        collections = self._collections(_watch.Still(lambda: self.kube), [step])
        try:
            self._judge(step, job, self._scene(collections))
        except KubeError:
            raise
        except ServingError as exc:
            return str(exc).partition("\n")[0]
        return ""

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
        away = next((error for error in errors if isinstance(error, KubeError) and _apply.may_heal(error)), None)
        if away:
            raise away
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
            classes = list(self.kube.list(STORAGE_CLASSES))
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
            self._insist(lambda: self.kube.delete(self._path(step)))
            return
        if step.gone_first:
            self._wait_until_gone(step)
        if step.replace and step.live is not None:
            self._insist(lambda: self.kube.delete(self._path(step)))
            self._wait_until_gone(step)
            self._wait_until_pods_gone(step.title, f"controller-uid={step.live['metadata']['uid']}", _rollout.still_matter)
        desired = step.desired
        step.after = self._insist(lambda: self.kube.apply(self._path(step), desired, MANAGER))

    def _insist(self, change: t.Callable[[], T]) -> T:
        """Return what *change* returns. It is made again a few times when nobody answers: none of them does anything twice."""
        for pause_s in PAUSES_S:
            try:
                return change()
            except KubeError as exc:
                self._bear(exc)
            self.sleep(pause_s)
        return change()

    def _outlast(self, look: t.Callable[[], T]) -> T:
        """Return what *look* returns, asked again until the deadline when nobody answers."""
        while True:
            try:
                return look()
            except KubeError as exc:
                self._bear(exc)
                if self.clock() >= self.deadline:
                    raise
            self.sleep(min(LOOK_S, max(0.0, self.deadline - self.clock())))

    def _bear(self, error: KubeError) -> None:
        """Tell of *error* if it may heal, else raise it."""
        if not _apply.may_heal(error):
            raise error
        self.progress.tell("away", f"{str(error).partition('. ')[0].rstrip('.')}; trying again")

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
        """Watch the objects of a kind and their pods until *state* has nothing more to say; it raises for a hopeless one."""
        steps = [step for step in self.steps if step.kind.name == kind_name and step.desired is not None]
        # what was read at the start may be good already, if nothing was changed since
        pending = [step for step in steps if step.action != UNCHANGED or state(step, step.live)]
        if not pending:
            return
        with contextlib.closing(self.eyes(lambda: self.kube)) as eyes:
            collections = self._collections(eyes, pending)
            while True:
                out_of_time = self.clock() >= self.deadline
                try:
                    pending = self._look(pending, state, eyes, self._scene(collections), out_of_time)
                    if not pending:
                        return
                except KubeError as exc:
                    self._bear(exc)
                    if out_of_time:
                        raise
                eyes.pause(min(LOOK_S, max(0.1, self.deadline - self.clock())))

    def _collections(self, eyes: Eyes, steps: t.Sequence[Step]) -> list[_watch.Items]:
        """Return what *eyes* shall see of the namespace while *steps*, all of one kind, are followed, in the order of Scene."""
        kind = steps[0].kind
        of_jobs = f"job-name in ({','.join(sorted(step.name for step in steps))})" if kind.name == "Job" else ""
        claims = KINDS["PersistentVolumeClaim"]
        watched = [(kind, self.owner.selector), (PODS, of_jobs), (EVENTS, ""), (claims, "")]
        if kind.name == "Deployment":
            watched.append((REPLICA_SETS, ""))
        return [eyes.collection(kind.path(self.namespace), selector) for kind, selector in watched]

    @staticmethod
    def _scene(collections: t.Sequence[_watch.Items]) -> Scene:
        """Return what is there now. Raises KubeError while nobody answers, or when the objects that are followed may not be seen."""
        seen: list[list[Object]] = []
        for collection in collections:
            try:
                seen.append(collection.items())
            except KubeError as exc:
                if exc.status != 403 or not seen:
                    raise
                seen.append([])
        seen += [[]] * (len(Scene._fields) - len(seen))
        return Scene(*seen)

    def _look(
        self, pending: list[Step], state: t.Callable[[Step, t.Optional[Object]], str], eyes: Eyes, scene: Scene, out_of_time: bool
    ) -> list[Step]:
        """Return those of *pending* that are not over yet; raise ServingError for one that cannot be, KubeError when nobody answers."""
        live = {document["metadata"]["name"]: document for document in scene.objects}
        left: list[tuple[Step, str]] = []
        for step in pending:
            document = live.get(step.name)
            missing = state(step, document)
            if missing:
                left.append((step, missing))
            elif step.kind.name == "Job":
                self._remember(step)
            if missing and missing != NOT_THERE and document is not None:
                self._judge(step, document, scene)
        if left and out_of_time:
            raise self._timed_out(*left[0])
        if left and self.progress.path:
            step, missing = left[0]
            self._tell(step, missing, self._own_pods(step, live.get(step.name), scene), scene.events, eyes)
        return [step for step, _missing in left]

    def _remember(self, step: Step) -> None:
        """Add a Job that is complete to the module's result."""
        if step.name in {job["name"] for job in self.jobs}:
            return
        pods = self._pods(step)
        line = _rollout.last_line(self._log(pods[0], LOG_LINES)) if pods else ""
        self.jobs.append({"name": step.name, "last_line": _apply.redact(line, self.secret_texts)})

    def _log(self, pod: Object, lines: int, container: str = "") -> str:
        """Return the end of a log of *pod*; without *container* that of the first one."""
        container = container or ((pod.get("spec") or {}).get("containers") or [{}])[0].get("name", "")
        return self.kube.logs(self.namespace, pod["metadata"]["name"], container=container, tail_lines=lines)

    def _own_pods(self, step: Step, document: t.Optional[Object], scene: Scene) -> list[Object]:
        """Return the pods of this version of the Job or Deployment, the newest first."""
        if document is None:
            return []
        if step.kind.name == "Job":
            return _rollout.pods_of_job(step.name, document["metadata"].get("uid"), scene.pods)
        if not _rollout.taken_up(document, self._generation(step)):
            return []
        return _rollout.pods_of_sets(_rollout.current_sets(document, scene.replica_sets), scene.pods)

    def _judge(self, step: Step, document: Object, scene: Scene) -> None:
        """Raise ServingError when the pods of *step* show a cause that waiting cannot mend; remember one that it may."""
        self.verdicts.pop(step.title, None)
        if step.kind.name == "Deployment" and not _rollout.taken_up(document, self._generation(step)):
            return
        pods = self._own_pods(step, document, scene)
        if step.kind.name == "Job" and pods:
            pods = pods[:1]
            container = _rollout.given_up(pods[0])
            if container:
                raise self._given_up(step, pods[0], container)
            if _rollout.left_to_job(pods[0]):
                return
        things = (document, *pods, *scene.claims, *_rollout.current_sets(document, scene.replica_sets))
        about = {thing["metadata"].get("uid") for thing in things}
        view = _diagnosis.View(
            deployment={**document, "kind": step.kind.name},
            pods=pods,
            # those about pods and Jobs of the same name before them say nothing
            events=[event for event in scene.events if (event.get("involvedObject") or {}).get("uid") in about],
            claims=scene.claims,
            log_of=functools.partial(self._ended_log, {pod["metadata"]["name"]: pod for pod in pods}),
            surroundings=self._look_around,
        )
        for verdict in _diagnosis.diagnose(view, self.now())[:1]:
            verdict = self._hide(verdict)
            if verdict.certain:
                words = "has failed" if step.kind.name == "Job" else "has failed to roll out"
                raise ServingError(f"{step.title} {words}: {verdict.text(self.now())}", verdict=verdict._asdict())
            self.verdicts[step.title] = verdict

    def _ended_log(self, pods: t.Mapping[str, Object], name: str, container: str, previous: bool) -> str:
        run = [state.get("restartCount") for state in container_states(pods[name]) if state["name"] == container]
        return self._ended_logs.read(self.kube, self.namespace, pods[name], container, tuple(run), previous)

    def _hide(self, verdict: _diagnosis.Verdict) -> _diagnosis.Verdict:
        """Return *verdict* without the secrets of the set."""
        what, log = (_apply.redact(text, self.secret_texts) for text in (verdict.what, verdict.log))
        return verdict._replace(what=what, log=log)

    def _given_up(self, step: Step, pod: Object, container: str) -> ServingError:
        """Return the error for a Job whose container has said that no other try can mend it."""
        name = pod["metadata"]["name"]
        said = _rollout.last_line(self._log(pod, LOG_LINES, container))
        said = _apply.redact(said, self.secret_texts) or f"it ended with exit code {_rollout.GIVEN_UP} and has written no log"
        verdict = _diagnosis.Verdict("given-up", said, f"container {container} of pod {name}", "", said, "", True)
        where = f"Its log: kubectl -n {self.namespace} logs {name} -c {container}"
        return ServingError(f"{step.title} has failed: {said.rstrip('.')}.\n{where}", verdict=verdict._asdict())

    def _look_around(self) -> _diagnosis.Surroundings:
        """Return what the cluster has beside the namespace, as far as that may be seen. Asked once in a run."""
        if self._surroundings is None:
            self._surroundings = _watch.look_around(self.kube)
        return self._surroundings

    def _tell(self, step: Step, missing: str, pods: t.Sequence[Object], events: t.Sequence[Object], eyes: Eyes) -> None:
        """Tell how far *step* is: what a Job says itself, else what is missing and what its first pod that is not ready waits for."""
        if step.kind.name == "Job" and pods and _rollout.running_container(pods[0]):
            log = eyes.log(self.namespace, pods[0]["metadata"]["name"], _rollout.running_container(pods[0]))
            line = _apply.redact(_rollout.last_line(log), self.secret_texts)
            self.progress.tell(f"{step.title} {'runs' if line else 'starts'}", line or f"{step.title}: running")
            return
        verdict, waiting = self.verdicts.get(step.title), next((pod for pod in pods if _rollout.pod_trouble(pod)), None)
        stage = verdict.what if verdict else self._stage(waiting, events) if waiting else ""
        if step.kind.name == "Job":
            told = stage or (missing if pods else "its pod is being made")
        else:
            told = f"{missing} ({stage})" if stage else missing
        text = _apply.redact(f"{step.title}: {told}", self.secret_texts)
        self.progress.tell(text, text)

    @staticmethod
    def _stage(pod: Object, events: t.Sequence[Object]) -> str:
        """Return what *pod*, which is not ready, waits for."""
        if (pod.get("status") or {}).get("phase") == "Failed":
            return "its pod has failed, and another try follows"
        if _rollout.running_container(pod):
            return _rollout.pod_trouble(pod)
        return phase_of_pod(pod, events, lambda container: "").text

    def _timed_out(self, step: Step, missing: str) -> ServingError:
        verdict = self.verdicts.get(step.title)
        cause = f" {verdict.text(self.now())}" if verdict else self._pods_say(step)
        return ServingError(
            f"{step.title} is not ready after {self.params['wait_timeout']} s: {missing}.{cause}\n"
            f"Look: kubectl -n {self.namespace} describe {step.kind.name.lower()} {step.name}",
            **({"verdict": verdict._asdict()} if verdict else {}),
        )

    def _watch(self, path: str, label_selector: str = "", field_selector: str = "", longest_s: int = WATCH_S) -> t.Iterator[t.Any]:
        """Yield the events of one watch, which begins with all that is there. A watch that the server gives up ends."""
        timeout_s = int(max(1, min(longest_s, self.deadline - self.clock())))
        for event, document in self.kube.watch(path, label_selector, field_selector, timeout_s=timeout_s):
            if event == "ERROR":
                return
            yield event, document

    @staticmethod
    def _generation(step: Step) -> int:
        """Return the generation of a Deployment that this run made, 0 when it made none."""
        return int(((step.after or {}).get("metadata") or {}).get("generation", 0))

    def _rollout_state(self, step: Step, deployment: t.Optional[Object]) -> str:
        if deployment is None:
            return NOT_THERE
        generation = self._generation(step)
        failure = _rollout.rollout_failure(deployment, generation)
        if failure:
            raise ServingError(f"{step.title} has failed to roll out: {failure.rstrip('.')}.{self._pods_say(step)}")
        return _rollout.rollout_pending(deployment, generation)

    def _job_state(self, step: Step, job: t.Optional[Object]) -> str:
        uid = ((step.after or step.live or {}).get("metadata") or {}).get("uid")
        if job is None or job["metadata"].get("uid") != uid:
            return NOT_THERE
        failure = _rollout.job_failure(job)
        if failure:
            raise self._job_failed(step, failure.rstrip("."))
        return "" if _rollout.job_complete(job) else "it still runs"

    def _job_failed(self, step: Step, failure: str) -> ServingError:
        """Return the error for a Job that Kubernetes has given up, with the end of the log of its newest pod."""
        pod = next(iter(self._pods(step)), None)
        if pod is None:
            return ServingError(f"{step.title} has failed ({failure}). It has left no pod behind.")
        container = _rollout.given_up(pod)
        if container:
            return self._given_up(step, pod, container)
        name, trouble = pod["metadata"]["name"], _rollout.pod_trouble(pod)
        log = self._log(pod, _watch.LOG_LINES, trouble.partition("container ")[2].partition(":")[0]).strip()
        cause = _diagnosis.log_cause(log) if log else None
        known = f" {cause.what[:1].upper()}{cause.what[1:]}. {cause.advice.rstrip('.')}." if cause and cause.cause != "crashed" else ""
        end = "\n".join(log.splitlines()[-LOG_LINES:])
        words = f"\nThe log of {name} ends:\n{end}" if log else f" Pod {name}: {trouble or 'it has written no log'}."
        return ServingError(_apply.redact(f"{step.title} has failed ({failure}).{known}{words}", self.secret_texts))

    def _pods(self, step: Step) -> list[Object]:
        """Return the pods of a Deployment or Job, the newest first."""
        if step.kind.name == "Job":
            uid = ((step.after or step.live or {}).get("metadata") or {}).get("uid")
            return _rollout.pods_of_job(step.name, uid, self._list(PODS, f"job-name={step.name}"))
        deployment = step.desired or {}
        labels = ((deployment.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
        return _rollout.newest_first(_rollout.pods_of(deployment, self._list(PODS, selector_text(labels))))

    def _pods_say(self, step: Step) -> str:
        for pod in self._pods(step):
            trouble = _rollout.pod_trouble(pod)
            if trouble:
                return f" Pod {pod['metadata']['name']}: {_apply.redact(trouble, self.secret_texts)}."
        return ""

    def _wait_until_gone(self, step: Step) -> None:
        """Wait until the object that had the name of *step* is no more."""
        path, selector = step.kind.path(self.namespace), f"metadata.name={step.name}"
        while True:
            left = self._outlast(lambda: list(self.kube.list(path, field_selector=selector)))
            if not left:
                return
            self._pause_or_give_up(path, "", selector, step.title, left)

    def _wait_until_pods_gone(self, title: str, label_selector: str, chosen: t.Callable[[list[Object]], list[Object]]) -> None:
        path = PODS.path(self.namespace)
        while True:
            left = chosen(self._outlast(lambda: list(self.kube.list(path, label_selector=label_selector))))
            if not left:
                return
            self._pause_or_give_up(path, label_selector, "", f"Pod/{left[0]['metadata']['name']} of {title}", left, chosen)

    def _pause_or_give_up(
        self,
        path: str,
        label_selector: str,
        field_selector: str,
        title: str,
        left: list[Object],
        chosen: t.Callable[[list[Object]], list[Object]] = list,
    ) -> None:
        """Return when something of *left* is gone or no longer *chosen*, or after a few seconds; raise ServingError at the deadline."""
        if self.clock() >= self.deadline:
            finalizers = left[0]["metadata"].get("finalizers") or []
            holds = f" (held by {', '.join(finalizers)})" if finalizers else ""
            raise ServingError(
                f"{title} is deleted, but has not gone within {self.params['wait_timeout']} s{holds}. "
                "Remove what still uses it, then run again."
            )
        waited_for = {document["metadata"]["uid"] for document in left}
        self.progress.tell(f"{title} goes", f"{title}: being deleted")
        try:
            for event, document in self._watch(path, label_selector, field_selector, longest_s=2):
                if document["metadata"]["uid"] in waited_for and (event == "DELETED" or not chosen([document])):
                    return
        except KubeError as exc:
            self._bear(exc)
            self.sleep(LOOK_S)


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
