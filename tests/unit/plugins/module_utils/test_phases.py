# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far an engine is: by lines that vLLM 0.32 writes, and by what its pod and the events say."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._kube import Object
from ansible_collections.llmops.serving.plugins.module_utils._phases import (
    ABSENT,
    ENGINE_READY,
    LOADING,
    Course,
    Phase,
    phase_of_line,
    phase_of_log,
    phase_of_pod,
    slowest,
)

CORE = "(EngineCore pid=130) INFO 11-21 09:13:34 "
SHARDS = "Loading safetensors checkpoint shards:  40% Completed | 4/10 [00:02<00:03,  2.00it/s]"


@pytest.mark.parametrize(
    ("line", "name", "text"),
    [
        ("weights: 12.4 of 60.8 GiB, 110 MiB/s, 7 min 30 s left", "weights", "weights 12.4 of 60.8 GiB, 110 MiB/s, 7 min 30 s left"),
        (f"{CORE}[cpu_model_runner.py:68] Starting to load model /data/models/x...", "loading", "loading weights"),
        (SHARDS, "loading", "loading weights 40 % (4 of 10 shards)"),
        (f"(EngineCore pid=130) {SHARDS}", "loading", "loading weights 40 % (4 of 10 shards)"),
        ("Loading pt checkpoint shards: 100% Completed | 2/2 [00:02<00:00]", "loading", "loading weights 100 % (2 of 2 shards)"),
        ("Multi-thread loading shards:   0% Completed | 0/9 [00:00<?, ?it/s]", "loading", "loading weights 0 % (0 of 9 shards)"),
        (
            "Loading safetensors using Runai Model Streamer:   5% Completed | 20/399 [00:01<00:20]",
            "loading",
            "loading weights 5 % (20 of 399 parts)",
        ),
        (f"{CORE}[default_loader.py:502] Loading weights took 3.21 seconds", "compiling", "compiling and warming up"),
        (f"{CORE}[gpu_model_runner.py:5150] Model loading took 15.2 GiB memory and 9.1 seconds", "compiling", None),
        (f"{CORE}[backends.py:1105] Using cache directory: /data/x for vLLM's torch.compile", "compiling", None),
        (f"{CORE}[cpu_model_runner.py:87] Warming up model for the compilation...", "compiling", None),
        ("Capturing CUDA graphs (decode, FULL):  10%|#         | 3/35 [00:01<00:10]", "compiling", None),
        (f"{CORE}[core.py:403] init engine (profile, create kv cache, warmup model) took 20.10 s", "serving", None),
        ("(APIServer pid=1) INFO 11-21 09:13:50 [entry.py:140] Starting vLLM server on http://0.0.0.0:8000", "serving", None),
        ("(APIServer pid=1) INFO:     Application startup complete.", "serving", None),
    ],
)
def test_lines_that_tell(line: str, name: str, text: t.Optional[str]) -> None:
    phase = phase_of_line(line)
    assert phase is not None
    assert phase.name == name
    assert text is None or phase.text == text


@pytest.mark.parametrize(
    "line",
    [
        "",
        "INFO 11-21 09:13:20 [api_server.py:1] vLLM API server version 0.32.0",
        "the weights: are somewhere else",
        "Loading a plugin: 5 of 9",
        f"{CORE}[vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.",
        '(APIServer pid=1) INFO:     127.0.0.1:1 - "GET /health HTTP/1.1" 200 OK',
    ],
)
def test_lines_that_do_not_tell(line: str) -> None:
    assert phase_of_line(line) is None


def test_the_furthest_telling_line_counts() -> None:
    log = "\n".join([f"{CORE}Starting to load model x...", "\r", SHARDS, "noise", ""])
    phase = phase_of_log(log)
    assert phase is not None
    assert phase.text == "loading weights 40 % (4 of 10 shards)"
    assert phase_of_log("noise\n") is None
    far = phase_of_log("\n".join([f"{CORE}[default_loader.py:502] Loading weights took 3.21 seconds", SHARDS]))
    assert far is not None
    assert far.name == "compiling"


def pod(node: str = "gpu-1", init: t.Sequence[Object] = (), **state: t.Any) -> Object:
    containers = [{"name": "vllm", "image": "vllm:9", "ready": False, "state": state}] if state else []
    return {
        "metadata": {"name": "vllm-1", "uid": "u1"},
        "spec": {"nodeName": node},
        "status": {"initContainerStatuses": list(init), "containerStatuses": containers},
    }


def event(reason: str, message: str, name: str = "vllm-1", uid: str = "u1") -> Object:
    return {"reason": reason, "message": message, "involvedObject": {"kind": "Pod", "name": name, "uid": uid}}


CREATING = {"waiting": {"reason": "ContainerCreating"}}
PULLING = event("Pulling", 'Pulling image "vllm:9"')
PULLED = event("Pulled", 'Successfully pulled image "vllm:9" in 4.1s')


@pytest.mark.parametrize(
    ("seen", "events", "log", "text"),
    [
        (pod(node=""), [], "", "vllm-1 waits for a node"),
        (pod(), [], "", "scheduled on node gpu-1"),
        (pod(**CREATING), [], "", "scheduled on node gpu-1"),
        (pod(**CREATING), [PULLING], "", "pulling image vllm:9"),
        (pod(**CREATING), [PULLING, PULLED], "", "scheduled on node gpu-1"),
        (pod(**CREATING), [event("Pulling", 'Pulling image "vllm:9"', name="other")], "", "scheduled on node gpu-1"),
        (pod(**CREATING), [event("Pulling", 'Pulling image "vllm:9"', uid="u0")], "", "scheduled on node gpu-1"),
        (pod(waiting={"reason": "ImagePullBackOff"}), [], "", "pulling image vllm:9"),
        (pod(running={}), [], "", "starting the engine"),
        (pod(running={}), [PULLING, PULLED], SHARDS, "loading weights 40 % (4 of 10 shards)"),
        (pod(waiting={"reason": "CrashLoopBackOff"}), [], SHARDS, "vllm of vllm-1 ended, and is started again"),
        (pod(terminated={"exitCode": 1}), [], SHARDS, "vllm of vllm-1 ended, and is started again"),
        (
            pod(init=[{"name": "prefetch", "state": {"running": {}}}], waiting={"reason": "PodInitializing"}),
            [],
            "weights: 1 of 2 GiB",
            "weights 1 of 2 GiB",
        ),
        (pod(init=[{"name": "permissions", "state": {"running": {}}}], **CREATING), [], "", "running permissions"),
        (pod(init=[{"name": "permissions", "state": {"terminated": {"exitCode": 0}}}], running={}), [], "", "starting the engine"),
        (
            pod(init=[{"name": "permissions", "state": {"waiting": {"reason": "PodInitializing"}}}], **CREATING),
            [PULLING],
            "",
            "pulling image vllm:9",
        ),
    ],
)
def test_pods(seen: Object, events: list[Object], log: str, text: str) -> None:
    assert phase_of_pod(seen, events, lambda container: log).text == text


def test_a_ready_pod_is_an_engine_whatever_its_log_says() -> None:
    ready = pod(running={})
    ready["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert phase_of_pod(ready, [], lambda container: SHARDS) == ENGINE_READY


def test_the_log_of_the_container_whose_turn_it_is_is_read() -> None:
    asked: list[str] = []
    phase_of_pod(pod(init=[{"name": "prefetch", "state": {"running": {}}}], **CREATING), [], lambda name: asked.append(name) or "")
    assert asked == ["prefetch"]


def test_the_slowest_engine_counts() -> None:
    pulling = Phase(3, "pulling", "pulling image x")
    assert slowest([LOADING, pulling, ENGINE_READY]) == pulling
    assert slowest([]) == ABSENT


def test_the_course_has_each_phase_once_and_how_long_it_took() -> None:
    moment = [100.0]
    course = Course(lambda: moment[0])
    for time, phase in ((100, LOADING), (104, LOADING._replace(text="loading weights 40 %")), (110, ENGINE_READY), (111, LOADING)):
        moment[0] = time
        course.enter(phase)
    moment[0] = 111.5
    assert course.told() == [{"name": "loading", "seconds": 10}, {"name": "engine", "seconds": 1}, {"name": "loading", "seconds": 0.5}]
    assert course.last == LOADING
    assert Course().told() == []
