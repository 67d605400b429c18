# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What a set of manifests means for a cluster: its order, its secrets, what differs, what is to go, and what to say about it.

Nothing here asks a cluster. Partner: plugins/modules/kubernetes_apply.py, which does.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import re
import secrets
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._kube import KubeError, Object, selector_text
from ansible_collections.llmops.serving.plugins.module_utils._rollout import pods_of

try:
    import yaml
except ImportError:  # the kubernetes client brings PyYAML, and nobody gets as far as a diff without that client
    pass
else:

    class _Dumper(yaml.SafeDumper):
        """Texts of several lines as literal blocks, no anchors."""

        def ignore_aliases(self, data: t.Any) -> bool:
            return True

    def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    _Dumper.add_representer(str, _represent_text)


MANAGER = "llmops.serving"
MANAGED_BY = "app.kubernetes.io/managed-by"
INSTANCE = "app.kubernetes.io/instance"
PART_OF = "app.kubernetes.io/part-of"

APPLIED = "serving.llmops/applied"
AUTOGENERATE = "serving.llmops/autogenerate"
DATA_VERSION = "serving.llmops/data-version"
SECRETS = "serving.llmops/secrets"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"

CREATED, CHANGED, UNCHANGED, DELETED, SKIPPED = "created", "changed", "unchanged", "deleted", "skipped"

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LONGEST_WORDS = 400
# Statuses of an API server that is about to stop or to start, of what stands before it, and of no answer at all.
_HEALING = (0, 429, 502, 503, 504)

_UNSHOWN_METADATA = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")
_UNSHOWN_ANNOTATIONS = ("kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision")
_JOB_LABELS = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")

# What Kubernetes distributions put into every namespace themselves.
_STANDING_CONFIG_MAPS = ("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert")
_SERVICE_ACCOUNT_OF_SECRET = "kubernetes.io/service-account.name"

Key = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of objects and where the API keeps it."""

    api_version: str
    name: str
    plural: str

    @property
    def title(self) -> str:
        """``group/version/Kind``, as users write it in O(optional_kinds)."""
        return f"{self.api_version}/{self.name}"

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of the collection, or of the object called *name*."""
        root = "/apis" if "/" in self.api_version else "/api"
        scope = "" if self.name == "Namespace" else f"/namespaces/{namespace}"
        return f"{root}/{self.api_version}{scope}/{self.plural}" + (f"/{name}" if name else "")


# In the order of applying: what others need comes first.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("v1", "Namespace", "namespaces"),
        Kind("v1", "ServiceAccount", "serviceaccounts"),
        Kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
        Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
        Kind("v1", "Secret", "secrets"),
        Kind("v1", "ConfigMap", "configmaps"),
        Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
        Kind("batch/v1", "Job", "jobs"),
        Kind("v1", "Service", "services"),
        Kind("apps/v1", "Deployment", "deployments"),
        Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
        Kind("networking.k8s.io/v1", "Ingress", "ingresses"),
        Kind("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors"),
    )
}
_ORDER = list(KINDS)
PODS = Kind("v1", "Pod", "pods")

# Kinds of which one object is enough to leave a namespace alone.
CONTENTS: tuple[Kind, ...] = (
    PODS,
    Kind("apps/v1", "StatefulSet", "statefulsets"),
    Kind("apps/v1", "DaemonSet", "daemonsets"),
    *(KINDS[name] for name in ("PersistentVolumeClaim", "Deployment", "Job", "Service", "Ingress", "Secret", "ConfigMap")),
)


@dataclasses.dataclass(frozen=True)
class Owner:
    """Whose objects these are. The labels are how a later run finds what an earlier one made."""

    instance: str
    component: str

    def __post_init__(self) -> None:
        for option, value in dataclasses.asdict(self).items():
            if not _LABEL_VALUE.fullmatch(value):
                raise ServingError(
                    f"owner.{option} is {value!r}, but it becomes a label: 1 to 63 letters, digits, '-', '_' and '.', "
                    "the first and the last one a letter or a digit."
                )

    @property
    def labels(self) -> dict[str, str]:
        """The labels on the metadata of every object of this owner, but the Namespace."""
        return {MANAGED_BY: MANAGER, INSTANCE: self.instance, PART_OF: self.component}

    @property
    def selector(self) -> str:
        """The label selector that finds these objects."""
        return selector_text(self.labels)


@dataclasses.dataclass
class Step:
    """What happens to one object. ``live`` is the object before, ``after`` the server's word on what it will be."""

    kind: Kind
    name: str
    action: str
    desired: t.Optional[Object] = None
    live: t.Optional[Object] = None
    after: t.Optional[Object] = None
    replace: str = ""
    """Why the object has to be deleted and made anew; empty where it need not."""
    gone_first: bool = False
    """An object of this name is being deleted: it has to be gone before this one can be made."""
    done: bool = False

    @property
    def title(self) -> str:
        """``Kind/name``."""
        return f"{self.kind.name}/{self.name}"


def key_of(document: Object) -> Key:
    """Return kind and name of *document*."""
    return document["kind"], document["metadata"]["name"]


def labels_of(document: Object) -> dict[str, str]:
    """Return the labels of *document*."""
    return document["metadata"].get("labels") or {}


def annotations_of(document: Object) -> dict[str, str]:
    """Return the annotations of *document*."""
    return document["metadata"].get("annotations") or {}


def is_dying(document: Object) -> bool:
    """Whether the object is being deleted and only waits for its finalizers."""
    return bool(document["metadata"].get("deletionTimestamp"))


def prepare(manifests: t.Sequence[Object], namespace: str, owner: Owner) -> list[Object]:
    """Return copies of *manifests*, checked, labelled, with their namespace, in the order of applying.

    Raises ServingError for a kind that the table lacks, a missing or doubled name, another namespace, or a Secret with values.
    """
    prepared: dict[Key, Object] = {}
    for index, manifest in enumerate(manifests):
        kind = _known_kind(manifest, f"manifests[{index}]")
        document: Object = json.loads(json.dumps(manifest))
        metadata = document.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if not isinstance(metadata, dict) or not isinstance(name, str) or not _OBJECT_NAME.fullmatch(name):
            raise ServingError(
                f"manifests[{index}], a {kind.name}: metadata.name is {name!r}. "
                "It takes lowercase letters, digits, '-' and '.', at most 253 characters."
            )
        title = f"{kind.name}/{name}"
        if (kind.name, name) in prepared:
            raise ServingError(f"{title} is in the manifests twice. Remove or rename one of them.")
        place = name if kind.name == "Namespace" else metadata.get("namespace") or namespace
        if place != namespace:
            raise ServingError(f"{title} is for the namespace {place}, but this set lives in {namespace}. Apply it by a call of its own.")
        if kind.name == "Secret" and any(document.get(field) for field in ("data", "stringData")):
            raise ServingError(
                f"{title} has values in its manifest, where a log would show them. Give them in secret_data, "
                f'or let them be generated by the annotation "{AUTOGENERATE}".'
            )
        if kind.name != "Namespace":
            metadata["namespace"] = namespace
            metadata["labels"] = {**(metadata.get("labels") or {}), **owner.labels}
        _write_out_defaults(document)
        prepared[kind.name, name] = document
    return sorted(prepared.values(), key=lambda document: _ORDER.index(document["kind"]))


def _known_kind(manifest: Object, where: str) -> Kind:
    name, api_version = str(manifest.get("kind")), str(manifest.get("apiVersion"))
    kind = KINDS.get(name)
    if kind is None:
        raise ServingError(f"{where}: kind {name} is not among those applied here{did_you_mean(name, KINDS)}. Known: {', '.join(KINDS)}.")
    if api_version != kind.api_version:
        raise ServingError(f"{where}, a {name}: apiVersion is {api_version}, write {kind.api_version}.")
    return kind


def _write_out_defaults(document: Object) -> None:
    """Write out defaults of the server where leaving them to it has a price.

    - The parameters of a rolling update: only fields that an applier owns go away when it no longer sends them. Those that the server
      filled in would stay, and make a later change to ``Recreate`` invalid.
    - The protocol of a Service's port: Kubernetes before 1.21 refuses to apply a port without it.
    """
    spec = document.get("spec")
    if not isinstance(spec, dict):
        return
    if document["kind"] == "Service":
        spec.update(ports=[{"protocol": "TCP", **port} for port in spec.get("ports") or []])
    strategy = spec.get("strategy") or {}
    if document["kind"] == "Deployment" and strategy.get("type", "RollingUpdate") == "RollingUpdate":
        rolling = {"maxSurge": "25%", "maxUnavailable": "25%", **(strategy.get("rollingUpdate") or {})}
        spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": rolling}


def optional_kinds(titles: t.Iterable[str]) -> set[str]:
    """Return the kinds' names of ``group/version/Kind`` texts; raise ServingError for one that the table lacks."""
    known = {kind.title: name for name, kind in KINDS.items()}
    for title in titles:
        if title not in known:
            raise ServingError(f"optional_kinds: {title} is not among the kinds applied here{did_you_mean(title, known)}.")
    return {known[title] for title in titles}


def claim_namespace(desired: Object, live: t.Optional[Object]) -> Object:
    """Label a Namespace as ours if it is not there yet, or if we made it. One that somebody else made stays theirs.

    It gets none of the other labels: the components and stacks in it share it.
    """
    if live is not None and not made_by_us(live):
        return desired
    metadata = {**desired["metadata"], "labels": {**labels_of(desired), MANAGED_BY: MANAGER}}
    return {**desired, "metadata": metadata}


def made_by_us(document: Object) -> bool:
    """Whether *document* carries the managed-by label of this collection."""
    return labels_of(document).get(MANAGED_BY) == MANAGER


def other_owner(live: Object, owner: Owner) -> str:
    """Return who else of this collection has *live*, as ``instance/component``; empty where nobody has."""
    labels = labels_of(live)
    if not made_by_us(live) or all(labels.get(key) == value for key, value in owner.labels.items()):
        return ""
    return f"{labels.get(INSTANCE)}/{labels.get(PART_OF)}"


# --- secrets -------------------------------------------------------------------------------------------------------------------------


def secret_values(manifests: t.Iterable[t.Any]) -> t.Iterator[str]:
    """Yield every value that a Secret among *manifests* carries, plain and encoded: none of them may be logged."""
    for manifest in manifests:
        if not isinstance(manifest, dict) or manifest.get("kind") != "Secret":
            continue
        for field in ("data", "stringData"):
            values = manifest.get(field)
            for value in values.values() if isinstance(values, dict) else ():
                if isinstance(value, str) and value:
                    yield value
                    yield from (decoded for decoded in [_decoded(value)] if field == "data" and decoded)


def given_values(secret_data: t.Mapping[str, t.Any], wanted: t.Iterable[Object]) -> dict[str, dict[str, str]]:
    """Check ``secret_data`` and return ``{secret: {key: text}}``; an empty value is no value.

    Raises ServingError, which names keys and never values.
    """
    names = [document["metadata"]["name"] for document in wanted if document["kind"] == "Secret"]
    given: dict[str, dict[str, str]] = {}
    for name, values in secret_data.items():
        if name not in names:
            raise ServingError(
                f"secret_data has values for {name}, but no Secret of this name is in the manifests{did_you_mean(name, names)}."
            )
        if not isinstance(values, dict):
            raise ServingError(f"secret_data.{name} has to be a dictionary of keys and values.")
        for key, value in values.items():
            if isinstance(value, (dict, list, bool)):
                raise ServingError(f"secret_data.{name}.{key} has to be a text, and it is a {type(value).__name__}.")
        given[name] = {key: str(value) for key, value in values.items() if value not in (None, "")}
    return given


def fill_secret(
    desired: Object,
    live: t.Optional[Object],
    given: t.Mapping[str, str],
    generate: t.Callable[[], str] = lambda: secrets.token_urlsafe(32),
) -> tuple[Object, list[str]]:
    """Return the Secret with its data, and the keys that were generated.

    A given value wins, then the live one, then, for the keys of the annotation, a generated one. No live key is lost.
    Data that differ from the live ones get a new version, by which pods learn of it without a hash of a secret.
    """
    before = (live or {}).get("data") or {}
    data = {**before, **{key: base64.b64encode(value.encode()).decode() for key, value in given.items()}}
    wanted_keys = [key.strip() for key in annotations_of(desired).get(AUTOGENERATE, "").split(",") if key.strip()]
    generated = [key for key in wanted_keys if not data.get(key)]
    for key in generated:
        data[key] = base64.b64encode(generate().encode()).decode()
    version = annotations_of(live).get(DATA_VERSION) if live else None
    if data != before or not version:
        version = secrets.token_hex(4)
    metadata = {**desired["metadata"], "annotations": {**annotations_of(desired), DATA_VERSION: version}}
    filled = {key: value for key, value in desired.items() if key != "stringData"}
    return {**filled, "metadata": metadata, "data": data}, generated


def plain_values(secret: Object) -> t.Iterator[str]:
    """Yield the decoded values of *secret* that are texts."""
    for value in (secret.get("data") or {}).values():
        text = _decoded(value)
        if text:
            yield text


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def redact(text: str, values: t.Iterable[str]) -> str:
    """Return *text* without *values*. Values of fewer than 4 characters stay: they are found in any text."""
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= 4:
            text = text.replace(value, "(hidden)")
    return text


def roll_on_secrets(deployment: Object, versions: t.Mapping[str, str]) -> Object:
    """Return *deployment* with the *versions* of the Secrets that its pods use in an annotation of the pod template."""
    template = (deployment.get("spec") or {}).get("template") or {}
    used = sorted(set(versions) & set(_secret_references(template.get("spec") or {})))
    if not used:
        return deployment
    metadata = template.get("metadata") or {}
    note = ",".join(f"{name}={versions[name]}" for name in used)
    metadata = {**metadata, "annotations": {**(metadata.get("annotations") or {}), SECRETS: note}}
    return {**deployment, "spec": {**deployment["spec"], "template": {**template, "metadata": metadata}}}


def secrets_used(deployments: t.Iterable[Object]) -> set[str]:
    """Return the names of the Secrets that the pods of *deployments* use."""
    specs = [((document.get("spec") or {}).get("template") or {}).get("spec") or {} for document in deployments]
    return {name for spec in specs for name in _secret_references(spec) if name}


def _secret_references(pod_spec: Object) -> t.Iterator[str]:
    for container in [*(pod_spec.get("initContainers") or []), *(pod_spec.get("containers") or [])]:
        for variable in container.get("env") or []:
            yield ((variable.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name", "")
        for source in container.get("envFrom") or []:
            yield (source.get("secretRef") or {}).get("name", "")
    for volume in pod_spec.get("volumes") or []:
        yield (volume.get("secret") or {}).get("secretName", "")
        for source in (volume.get("projected") or {}).get("sources") or []:
            yield (source.get("secret") or {}).get("name", "")


# --- comparing -----------------------------------------------------------------------------------------------------------------------


def seal(desired: Object) -> Object:
    """Return *desired* with a digest of itself in an annotation, so that a field which it no longer has shows as a difference.

    Secret values are not part of the digest; the data's version is. A Namespace gets no digest: its users may describe it differently.
    """
    if desired["kind"] == "Namespace":
        return desired
    covered = {**desired, "data": sorted(desired["data"])} if desired["kind"] == "Secret" else desired
    canonical = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    return {**desired, "metadata": {**desired["metadata"], "annotations": {**annotations_of(desired), APPLIED: digest}}}


def contains(live: t.Any, desired: t.Any) -> bool:
    """Whether *desired* is in *live*: keys recursively, lists element by element.

    A false answer costs a request, no more: the server normalises texts (``1000m`` is ``1``), which is left to it to judge.
    It drops empty values, so those are in everything that lacks them.
    """
    if isinstance(desired, dict):
        return (live is None or isinstance(live, dict)) and all(contains((live or {}).get(key), value) for key, value in desired.items())
    if live is None:
        return not desired
    if isinstance(desired, list):
        return isinstance(live, list) and len(live) == len(desired) and all(map(contains, live, desired))
    return bool(live == desired) or (isinstance(live, str) != isinstance(desired, str) and str(live) == str(desired))


def same(before: Object, after: Object) -> bool:
    """Whether two answers of the server describe the same object, bookkeeping of the server aside."""
    return _visible(before, unshown=_UNSHOWN_ANNOTATIONS) == _visible(after, unshown=_UNSHOWN_ANNOTATIONS)


def diff_entry(step: Step) -> dict[str, str]:
    """Return before and after of *step* as Ansible's ``--diff`` wants them, without a secret and without the server's bookkeeping."""
    before = step.live if step.action != CREATED else None
    after = None if step.action == DELETED else step.after if before is not None and step.after is not None else step.desired
    texts = []
    for document, other in ((before, None), (after, before)):
        texts.append("" if document is None else _to_yaml(_hidden(_visible(document, unshown=(*_UNSHOWN_ANNOTATIONS, APPLIED)), other)))
    if texts[0] == texts[1] and before is not None and after is not None:
        texts = [f"{APPLIED}: {annotations_of(document).get(APPLIED, 'absent')}\n" for document in (before, after)]
    if step.replace:
        texts[1] = f"# deleted and made anew: {step.replace}\n{texts[1]}"
    return {"before": texts[0], "after": texts[1], "before_header": step.title, "after_header": step.title}


def _visible(document: Object, unshown: t.Sequence[str]) -> Object:
    metadata = {key: value for key, value in document["metadata"].items() if key not in _UNSHOWN_METADATA}
    annotations = {key: value for key, value in annotations_of(document).items() if key not in unshown}
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    shown = {key: value for key, value in document.items() if key != "status"}
    shown["metadata"] = metadata
    if "template" in (document.get("spec") or {}):
        shown["spec"] = _as_written(document["spec"], document["kind"])
    return shown


def _as_written(spec: Object, kind: str) -> Object:
    """Return a spec with a pod template without what the server puts there: for each new Job a selector and labels with its uid."""
    template = dict(spec["template"])
    metadata = {key: value for key, value in (template.pop("metadata", None) or {}).items() if key not in _UNSHOWN_METADATA}
    if kind == "Job":
        labels = {key: value for key, value in (metadata.pop("labels", None) or {}).items() if key not in _JOB_LABELS}
        spec = {key: value for key, value in spec.items() if key != "selector"}
        metadata.update({"labels": labels} if labels else {})
    template.update({"metadata": metadata} if metadata else {})
    return {**spec, "template": template}


def _hidden(document: Object, other: t.Optional[Object]) -> Object:
    if document["kind"] != "Secret":
        return document
    before = (other or {}).get("data") or {}
    data = document.get("data") or {}
    return {**document, "data": {k: "(hidden, changed)" if k in before and before[k] != v else "(hidden)" for k, v in data.items()}}


def _to_yaml(document: Object) -> str:
    return str(yaml.dump(document, Dumper=_Dumper, width=1000, allow_unicode=True))


# --- pruning -------------------------------------------------------------------------------------------------------------------------


def to_prune(live: t.Iterable[Object], wanted: t.Collection[Key], keep_kinds: t.Collection[str]) -> list[Object]:
    """Return what of *live* nobody wants any more, in the order of deleting: users before what they use, claims last."""
    doomed = [d for d in live if key_of(d) not in wanted and d["kind"] not in keep_kinds and not is_dying(d)]
    return sorted(doomed, key=lambda d: (d["kind"] == "PersistentVolumeClaim", -_ORDER.index(d["kind"])))


def class_trouble(claim: Object, classes: t.Sequence[Object]) -> str:
    """Return why none of the StorageClasses *classes* would fill *claim*, in words; empty when one would."""
    title, wanted = f"PersistentVolumeClaim/{claim['metadata']['name']}", claim["spec"].get("storageClassName")
    names = sorted(found["metadata"]["name"] for found in classes)
    known = f"It has: {', '.join(names)}." if names else "It has none at all."
    if wanted is None:
        if any(annotations_of(found).get(DEFAULT_CLASS) == "true" for found in classes):
            return ""
        return f"{title} names no StorageClass, and this cluster has no default one. {known} Name one of them, or mark it as default."
    if wanted == "" or wanted in names:
        return ""
    return f"{title} asks for the StorageClass {wanted}, which this cluster lacks{did_you_mean(wanted, names)}. {known}"


def left_in_namespace(contents: t.Iterable[Object], doomed: t.Sequence[Object]) -> list[str]:
    """Return what stays in a namespace when *doomed* is gone, as ``Kind/name``.

    Pods of doomed Deployments and Jobs go with them; what every namespace has by itself does not count.
    """
    contents = list(contents)
    going = {key_of(document) for document in doomed}
    jobs = {name for kind, name in going if kind == "Job"}
    pods = [document for document in contents if document["kind"] == "Pod"]
    followers = {key_of(pod) for deployment in doomed if deployment["kind"] == "Deployment" for pod in pods_of(deployment, pods)}
    followers |= {key_of(pod) for pod in pods if labels_of(pod).get("job-name") in jobs}
    return sorted(
        f"{document['kind']}/{document['metadata']['name']}"
        for document in contents
        if key_of(document) not in going | followers and not is_dying(document) and not _stands_everywhere(document)
    )


def _stands_everywhere(document: Object) -> bool:
    if document["kind"] == "ConfigMap":
        return document["metadata"]["name"] in _STANDING_CONFIG_MAPS
    return document["kind"] == "Secret" and _SERVICE_ACCOUNT_OF_SECRET in annotations_of(document)


def brief(names: t.Sequence[str], most: int = 3) -> str:
    """Return the first *most* of *names* and how many there are beyond."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


# --- an API server that goes away ----------------------------------------------------------------------------------------------------


def may_heal(error: KubeError) -> bool:
    """Whether the same request may succeed a little later: nobody answered, or somebody who was busy or cut off from the API server."""
    return error.status in _HEALING


def interrupted(error: KubeError, steps: t.Iterable[Step]) -> ServingError:
    """Return what to tell the user when the API server went away and did not come back: what *steps* had changed, and how to go on."""
    changed = [step.title for step in steps if step.done and step.action != UNCHANGED]
    so_far = f"Applied so far: {brief(changed)}. Run again: it goes on from there." if changed else "Nothing was changed. Run again."
    return ServingError(f"{error} {so_far}", **error.details)


# --- words ---------------------------------------------------------------------------------------------------------------------------


def refusal(step: Step, error: KubeError, namespace: str) -> ServingError:
    """Return what to tell the user when the server refuses *step*: the object, the server's words, what to do."""
    if may_heal(error) or error.status == 401:
        return error
    message = f"{step.title}: {_server_words(error)}"
    if step.action == DELETED:
        return ServingError(message)
    if step.kind.name == "PersistentVolumeClaim" and step.live is not None:
        back = _claim_back(step.desired or {}, step.live)
        message += " The claim and its data are kept as they are." + (f" Set back {back}." if back else "")
    elif error.status == 422 and re.search(r"immutable|cannot change", str(error)):
        message += f" It cannot be changed in place: kubectl -n {namespace} delete {step.kind.name.lower()} {step.name}, then run again."
    return ServingError(message)


def _server_words(error: KubeError) -> str:
    """Return the first line of the server's answer, and the next after a colon, without what the title says already, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    words = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    words = re.sub(r"^The Kubernetes API answered \d+ to [A-Z]+ \S+: ", "", words)
    words = re.sub(r'^[A-Za-z.0-9]+ "[^"]+" is invalid: \[?', "", words)
    if len(words) > _LONGEST_WORDS:
        words = f"{words[: _LONGEST_WORDS // 2]} … {words[-_LONGEST_WORDS // 2 :]}"
    return words if words.endswith(".") else f"{words}."


def _claim_back(desired: Object, live: Object) -> str:
    """Return which fields of a claim ask for what it does not have, and the values that it has."""
    asked, has = desired.get("spec") or {}, live.get("spec") or {}
    changes = [
        f"{field} to {_scalar(has.get(field))} (asked for: {_scalar(asked[field])})"
        for field in ("storageClassName", "accessModes", "volumeMode", "volumeName", "selector", "dataSource")
        if asked.get(field) is not None and asked[field] != has.get(field)
    ]
    size_asked, size_has = (((spec.get("resources") or {}).get("requests") or {}).get("storage") for spec in (asked, has))
    if size_asked is not None and str(size_asked) != str(size_has):
        changes.append(f"the size to {size_has} (asked for: {size_asked})")
    return ", ".join(changes)


def _scalar(value: t.Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "none" if value in (None, "") else str(value)
