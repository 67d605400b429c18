# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collections and logs that keep themselves up to date, against an API server that plays a script."""

from __future__ import annotations

import threading
import types
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._kube import KubeError, Object
from ansible_collections.llmops.serving.plugins.module_utils._watch import (
    POLL_S,
    RETRY_S,
    Collection,
    EndedLogs,
    FollowedLog,
    Live,
    Still,
    follow_logs,
    look_around,
)

PATH = "/api/v1/namespaces/chat/pods"
AWAY = KubeError("The Kubernetes API cannot be reached.", 0)


def pod(name: str, **status: t.Any) -> Object:
    return {"metadata": {"namespace": "chat", "name": name}, "status": status}


class Api:
    """Plays one list and one watch after the other; an exception among them is raised. ``time`` is moved by the test."""

    def __init__(self, lists: t.Sequence[t.Any] = (), watches: t.Sequence[t.Any] = ()) -> None:
        self.lists = list(lists)
        self.watches = list(watches)
        self.asked: list[t.Any] = []
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def call(self, method: str, path: str, query: t.Mapping[str, t.Any]) -> Object:
        self.asked.append((method, path, query["labelSelector"], query["fieldSelector"], query["continue"]))
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, dict) else page(*answer)

    def watch(self, path: str, label_selector: str, field_selector: str, version: str, timeout_s: int) -> t.Iterator[tuple[str, Object]]:
        self.asked.append(("watch", version))
        for change in self.watches.pop(0):
            if isinstance(change, Exception):
                raise change
            if callable(change):
                change()
            else:
                yield change


def page(*items: Object, version: str = "7", token: t.Optional[str] = None) -> Object:
    return {"metadata": {"resourceVersion": version, "continue": token}, "items": list(items)}


def collection(api: Api, **options: t.Any) -> Collection:
    return Collection(t.cast(t.Any, api), PATH, now=api.now, **options)


def names(found: Collection) -> list[str]:
    return [item["metadata"]["name"] for item in found.items()]


def test_a_list_is_followed_by_its_changes() -> None:
    api = Api(
        lists=[[pod("a"), pod("b")]],
        watches=[[("MODIFIED", pod("a", phase="Running")), ("DELETED", pod("b")), ("ADDED", pod("c")), ("BOOKMARK", {"metadata": {}})]],
    )
    found = collection(api, label_selector="app=x", field_selector="metadata.name=a")
    found.cycle()
    assert names(found) == ["a", "c"]
    assert found.items()[0]["status"] == {"phase": "Running"}
    assert api.asked == [("GET", PATH, "app=x", "metadata.name=a", None), ("watch", "7")]
    assert found.error == ""


def test_a_long_list_comes_in_pages_and_is_watched_from_the_last() -> None:
    api = Api(lists=[page(pod("a"), token="more"), page(pod("b"), version="9")], watches=[[]])
    found = collection(api)
    found.cycle()
    assert names(found) == ["a", "b"]
    assert api.asked[1:] == [("GET", PATH, "", "", "more"), ("watch", "9")]


def test_each_change_wakes_the_waiter_and_nothing_else_does() -> None:
    woken: list[bool] = []
    wake = threading.Event()

    def note() -> None:
        woken.append(wake.is_set())
        wake.clear()

    change = ("MODIFIED", pod("a", phase="Running"))
    api = Api(lists=[[pod("a")], [pod("a", phase="Running")]], watches=[[note, change, note, note], [note]])
    found = collection(api, wake=wake)
    found.cycle()
    found.cycle()
    assert woken == [True, True, False, False]


def test_what_vanished_while_nobody_watched_is_gone_after_the_next_list() -> None:
    api = Api(lists=[[pod("a"), pod("b")], [pod("b")]], watches=[[], []])
    found = collection(api)
    found.cycle()
    found.cycle()
    assert names(found) == ["b"]


@pytest.mark.parametrize(("lasted", "pause"), [(30.0, 0.0), (0.0, RETRY_S)])
def test_a_stream_that_ended_is_begun_anew_and_not_without_a_pause_when_it_ended_at_once(lasted: float, pause: float) -> None:
    api = Api(lists=[[]])
    api.watches = [[lambda: setattr(api, "time", lasted)]]
    assert collection(api).cycle() == pause


@pytest.mark.parametrize(
    "trouble", [("ERROR", {"code": 410, "reason": "Expired"}), KubeError("too old", 410), OSError("reset"), KubeError("away", 0)]
)
def test_a_watch_that_breaks_leads_to_a_new_list(trouble: t.Any) -> None:
    api = Api(lists=[[pod("a")], [pod("b")]], watches=[[trouble, ("ADDED", pod("lost"))], []])
    found = collection(api)
    assert found.cycle() == RETRY_S
    assert names(found) == ["a"]
    found.cycle()
    assert names(found) == ["b"]


def test_an_api_server_that_is_away_is_told_with_its_time_and_forgotten_when_it_is_back() -> None:
    wake = threading.Event()
    api = Api(lists=[[pod("a")], AWAY, AWAY, [pod("b")]], watches=[[], []])
    found = collection(api, wake=wake)
    found.cycle()
    wake.clear()
    api.time = 100
    assert found.cycle() == RETRY_S
    assert wake.is_set()
    api.time = 112
    found.cycle()
    assert found.error == "The Kubernetes API cannot be reached (for 12 s)"
    with pytest.raises(KubeError, match="cannot be reached") as caught:
        found.items()
    assert caught.value.status == 0
    wake.clear()
    found.cycle()
    assert (names(found), found.error, wake.is_set()) == (["b"], "", True)


def test_where_watching_is_not_permitted_it_is_listed_again_and_again() -> None:
    api = Api(lists=[[pod("a")], [pod("b")]], watches=[[KubeError("Not permitted.", 403)]])
    found = collection(api)
    assert [found.cycle(), found.cycle()] == [POLL_S, POLL_S]
    assert names(found) == ["b"]


def test_where_even_listing_is_not_permitted_whoever_asks_is_told() -> None:
    found = collection(Api(lists=[KubeError("Not permitted.", 403)]))
    found.cycle()
    with pytest.raises(KubeError, match="Not permitted") as caught:
        found.items()
    assert caught.value.status == 403


def test_a_thread_keeps_it_up_to_date() -> None:
    go_on, over = threading.Event(), threading.Event()
    api = Api(lists=[[pod("a")]] * 9, watches=[[go_on.wait, ("ADDED", pod("b")), over.wait]] * 9)
    live = Live(lambda: t.cast(t.Any, api))
    found = live.collection(PATH)
    assert len(found.items()) == 1
    live.pause(5)
    go_on.set()
    for _look in range(50):
        if len(found.items()) == 2:
            break
        live.pause(0.1)
    assert len(found.items()) == 2
    live.close()
    over.set()


def test_a_pause_ends_with_a_change_and_the_next_one_does_not() -> None:
    live = Live(lambda: t.cast(t.Any, None))
    live.wake.set()
    live.pause(600)
    assert not live.wake.is_set()
    live.pause(0.01)


class Stream:
    """A raw response whose body comes in *pieces*."""

    def __init__(self, pieces: t.Sequence[t.Union[bytes, Exception]], status: int = 200) -> None:
        self.status = status
        self.closed = False
        self.pieces = pieces
        self.response = self

    def stream(self, amt: t.Optional[int], decode_content: bool) -> t.Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def read(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def requesting(stream: Stream, asked: t.Optional[list[t.Any]] = None) -> t.Any:
    def request(method: str, path: str, query: t.Mapping[str, t.Any], read_timeout_s: float) -> Stream:
        if asked is not None:
            asked.append((method, path, dict(query)))
        return stream

    return types.SimpleNamespace(request=request)


def test_a_log_comes_line_by_line_however_it_is_cut() -> None:
    asked: list[t.Any] = []
    stream = Stream([b"one\ntw", b"o\r\nGr\xc3", b"\xb6\xc3\x9fe\nlast"])
    assert list(follow_logs(requesting(stream, asked), "chat", "vllm-1", "vllm", 50)) == ["one", "two", "Größe", "last"]
    assert asked == [
        ("GET", "/api/v1/namespaces/chat/pods/vllm-1/log", {"container": "vllm", "follow": "true", "tailLines": 50}),
    ]
    assert stream.closed


def test_a_log_that_breaks_off_ends_and_one_that_is_not_there_is_empty() -> None:
    from urllib3.exceptions import ProtocolError

    assert list(follow_logs(requesting(Stream([b"one\n", ProtocolError("broken")])), "chat", "vllm-1")) == ["one"]
    assert list(follow_logs(requesting(Stream([b"{}"], status=400)), "chat", "vllm-1")) == []


def test_a_log_that_is_followed_anew_is_not_doubled() -> None:
    streams = iter([["1", "2"], [], ["2", "3"]])
    heard: list[str] = []
    log = FollowedLog(lambda: iter(next(streams)), heard.append)
    log.cycle()
    assert log.text() == "1\n2"
    log.cycle()
    assert log.text() == "1\n2"
    log.cycle()
    assert (log.text(), heard) == ("2\n3", ["1", "2", "2", "3"])


def test_a_log_outlives_an_api_server_that_is_away() -> None:
    def away() -> t.Iterator[str]:
        raise AWAY

    log = FollowedLog(away)
    log.cycle()
    assert log.text() == ""


def test_live_logs_wake_for_what_matters_and_a_later_run_has_its_own() -> None:
    runs = [Stream([b"weights: 1\n"]), Stream([b"noise\n"])]
    over = threading.Event()
    asked: list[str] = []

    def request(method: str, path: str, query: t.Mapping[str, t.Any], read_timeout_s: float) -> Stream:
        asked.append(path)
        if not runs:
            over.wait()
        return runs.pop(0) if runs else Stream([], status=400)

    live = Live(lambda: t.cast(t.Any, types.SimpleNamespace(request=request)), lambda line: line.startswith("weights:"))
    live.log("chat", "vllm-1", "vllm", 0)
    assert live.wake.wait(10)
    assert live.log("chat", "vllm-1", "vllm", 0) == "weights: 1"
    live.wake.clear()
    live.log("chat", "vllm-1", "vllm", 1)
    for _look in range(100):
        if live.log("chat", "vllm-1", "vllm", 1):
            break
        threading.Event().wait(0.05)
    assert live.log("chat", "vllm-1", "vllm", 1) == "noise"
    assert not live.wake.is_set()
    live.forget_logs({"vllm-2"})
    live.close()
    over.set()


class Cluster:
    """As much of Kube as is asked where nothing is watched."""

    def __init__(self, objects: t.Mapping[str, t.Any]) -> None:
        self.objects = objects
        self.asked: list[t.Any] = []

    def list(self, path: str, label_selector: str = "", field_selector: str = "", missing_ok: bool = True) -> t.Iterator[Object]:
        self.asked.append((path, label_selector, field_selector))
        found = self.objects.get(path, [])
        if isinstance(found, Exception):
            raise found
        yield from found

    def get(self, path: str) -> t.Optional[Object]:
        found = self.objects.get(path)
        if isinstance(found, Exception):
            raise found
        return t.cast(t.Optional[Object], found)

    def logs(self, namespace: str, pod: str, container: str, tail_lines: int, previous: bool = False) -> str:
        self.asked.append((pod, container, previous))
        return str(self.objects.get((container, previous), ""))


def test_where_nothing_is_watched_each_question_is_a_request() -> None:
    cluster = Cluster({PATH: [pod("a")], ("vllm", False): "words"})
    pauses: list[float] = []
    still = Still(lambda: t.cast(t.Any, cluster), pauses.append)
    found = still.collection(PATH, "app=x", "metadata.name=a")
    assert (len(found.items()), len(found.items())) == (1, 1)
    assert cluster.asked == [(PATH, "app=x", "metadata.name=a")] * 2
    assert still.log("chat", "a", "vllm") == "words"
    still.pause(3)
    assert pauses == [3]


def test_the_log_of_a_run_that_ended_is_read_once() -> None:
    cluster = Cluster({("vllm", True): "words"})
    logs, kube = EndedLogs(), t.cast(t.Any, cluster)
    for _look in range(3):
        assert logs.read(kube, "chat", pod("a"), "vllm", 1, True) == "words"
    assert len(cluster.asked) == 1
    logs.read(kube, "chat", pod("a"), "vllm", 2, True)
    assert len(cluster.asked) == 2
    for _look in range(2):  # nothing yet is not known for good
        assert logs.read(kube, "chat", pod("a"), "vllm", 2, False) == ""
    assert len(cluster.asked) == 4


NODE = {"metadata": {"name": "gpu-1", "labels": {"kubernetes.io/os": "linux"}}}
NODES, CLASSES, KARPENTER = "/api/v1/nodes", "/apis/storage.k8s.io/v1/storageclasses", "/apis/karpenter.sh"
AUTOSCALER = "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status"
NO = KubeError("Not permitted.", 403)


@pytest.mark.parametrize(
    ("objects", "autoscaler"),
    [
        ({NODES: [NODE]}, False),
        ({NODES: [NODE], AUTOSCALER: {}}, True),
        ({NODES: [NODE], KARPENTER: {}}, True),
        ({NODES: [{"metadata": {"labels": {"karpenter.sh/nodepool": "x"}}}]}, True),
        ({NODES: [{"metadata": {"labels": {"cloud.google.com/gke-nodepool": "x"}}}]}, None),
        ({NODES: [NODE], AUTOSCALER: NO}, None),
        ({NODES: NO}, None),
        ({NODES: NO, KARPENTER: {}}, True),
    ],
)
def test_whether_something_adds_nodes(objects: dict[str, t.Any], autoscaler: t.Optional[bool]) -> None:
    assert look_around(t.cast(t.Any, Cluster(objects))).autoscaler is autoscaler


def test_what_may_not_be_seen_is_unknown_and_an_api_server_that_is_away_is_told() -> None:
    seen = look_around(t.cast(t.Any, Cluster({NODES: NO, CLASSES: NO})))
    assert (seen.nodes, seen.classes) == (None, None)
    seen = look_around(t.cast(t.Any, Cluster({NODES: [NODE], CLASSES: []})))
    assert (seen.nodes, seen.classes) == ([NODE], [])
    with pytest.raises(KubeError, match="cannot be reached"):
        look_around(t.cast(t.Any, Cluster({NODES: AWAY})))
