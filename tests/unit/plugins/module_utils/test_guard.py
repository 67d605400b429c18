# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds GPU memory and what is said about it: processes of a made-up /proc, recorded replies of Ollama, pods that do not go."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _guard
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import GpuProcess, Gpus, Holder
from ansible_collections.llmops.serving.plugins.module_utils._kube import Object
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

# GET /api/ps as Ollama's documentation has it, of 2024 and of 2026, and a model that a CPU runs
MISTRAL = {
    "name": "mistral:latest",
    "model": "mistral:latest",
    "size": 5137025024,
    "digest": "2ae6f6dd7a3dd734790bbbf58b8909a606e0e7e97e94b7604e0aa7ae4490e6d8",
    "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "7.2B"},
    "expires_at": "2024-06-04T14:38:31.83753-07:00",
    "size_vram": 5137025024,
}
GEMMA = {
    "name": "gemma3",
    "model": "gemma3",
    "size": 6591830464,
    "digest": "a2af6cc3eb7fa8be8504abaf9b04e88f17a119ec3f04a3addf55f92841195f5a",
    "details": {"parent_model": "", "format": "gguf", "family": "gemma3", "families": ["gemma3"], "parameter_size": "4.3B"},
    "expires_at": "2025-10-17T16:47:07.93355-07:00",
    "size_vram": 5333539264,
    "context_length": 4096,
}
ON_CPU = {**MISTRAL, "name": "phi3:mini", "model": "phi3:mini", "size_vram": 0}


@pytest.fixture
def ollama() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI() as server:
        yield server


def test_models_of_an_ollama_that_answers(ollama: stub.StubOpenAI) -> None:
    ollama.scripts["/api/ps"] = [stub.document({"models": [MISTRAL, GEMMA, ON_CPU]})]
    first, second = _guard.loaded_models(ollama.url + "/")
    assert first.report() == {
        "kind": "ollama_model",
        "name": "mistral:latest",
        "memory_mib": 4899,
        "expires_at": "2024-06-04T14:38:31.83753-07:00",
        "remedy": "ollama stop mistral:latest, or OLLAMA_KEEP_ALIVE=0, or systemctl stop ollama",
        "text": "Ollama's mistral:latest (4,899 MiB): ollama stop mistral:latest, or OLLAMA_KEEP_ALIVE=0, or systemctl stop ollama",
    }
    assert (second.name, second.memory_mib) == ("gemma3", 5086)


@pytest.mark.parametrize(
    "reply",
    [
        stub.status(404),
        stub.status(500, "no"),
        stub.page("<html>It works!</html>"),
        stub.drops(),
        stub.breaks_off("half"),
        stub.document({"models": None}),
        stub.document({"models": []}),
        stub.document({"models": [None, {"name": "x"}, {"name": "x", "size_vram": "much"}, {"size_vram": 5}]}),
        stub.document(["models"]),
        stub.document("Ollama is running"),
    ],
)
def test_what_is_no_ollama_or_has_loaded_nothing_holds_nothing(ollama: stub.StubOpenAI, reply: stub.Reply) -> None:
    ollama.scripts["/api/ps"] = [reply]
    assert _guard.loaded_models(ollama.url) == []


def test_an_ollama_that_is_not_there_holds_nothing() -> None:
    server = stub.StubOpenAI()  # takes a port and does not listen
    assert _guard.loaded_models(server.url) == []
    server.server_close()


def test_an_ollama_that_hangs_holds_nothing(ollama: stub.StubOpenAI) -> None:
    ollama.scripts["/api/ps"] = [stub.hangs()]
    assert _guard.loaded_models(ollama.url, timeout_s=0.2) == []


def test_a_proxy_is_not_asked_for_this_host(ollama: stub.StubOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    ollama.scripts["/api/ps"] = [stub.document({"models": [GEMMA]})]
    assert len(_guard.loaded_models(ollama.url)) == 1


@pytest.mark.parametrize("url", ["127.0.0.1:11434", "file:///etc/passwd", ""])
def test_a_url_that_cannot_be_asked(url: str) -> None:
    with pytest.raises(ServingError, match=r"ollama_url: .* cannot be asked: it has to be like http://127\.0\.0\.1:11434"):
        _guard.loaded_models(url)


# -- whose process -----------------------------------------------------------------------------------------------------


class Proc:
    """A /proc of processes that are written down: id, command line, and the id of the parent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, pid: int, command: str, parent: int = 0) -> None:
        place = self.folder / str(pid)
        place.mkdir()
        (place / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
        (place / "comm").write_text(command.split()[0][:15] + "\n")
        (place / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0\n")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.mark.parametrize(
    ("told", "command", "kind"),
    [
        ("VLLM::EngineCore", "", "vllm"),
        ("VLLM::Worker_TP0", "VLLM::Worker_TP0", "vllm"),
        ("/usr/bin/python3", "/usr/bin/python3 /opt/venv/bin/vllm serve Qwen/Qwen2.5-7B", "vllm"),
        ("vllm serve x", "", "vllm"),
        ("python3", "python3 -u -m vllm.entrypoints.openai.api_server --model x", "vllm"),
        ("python3", "python3 train.py --out /data/vllm", ""),
        ("python3", "python3 -m vllmish", ""),
        ("python3", "python3 -m", ""),
        ("/usr/local/bin/ollama", "/usr/local/bin/ollama runner --model /var/lib/ollama/blobs/sha256-1 --port 4", "ollama"),
        ("N/A", "/tmp/ollama123/runners/cuda_v12/ollama_llama_server --model x", "ollama"),
        ("/usr/local/lib/ollama/llama-server", "", "ollama"),
        ("/opt/llama.cpp/llama-server", "/opt/llama.cpp/llama-server -m /models/ollama.gguf", ""),
        ("[Not Found]", "vllm serve x", ""),  # the id is that of another process here
        ("", "", ""),
    ],
)
def test_whose_process_it_is(proc: Proc, told: str, command: str, kind: str) -> None:
    if command:
        proc.add(100, command)
    assert _guard.runtime_of(GpuProcess(0, 100, False, told, 1), proc.folder) == kind


@pytest.mark.parametrize(("parents", "kind"), [(1, "vllm"), (3, "vllm"), (4, "")])
def test_a_worker_is_known_by_what_has_started_it(proc: Proc, parents: int, kind: str) -> None:
    proc.add(100, "python3 -c from_multiprocessing_import_spawn", 99)
    for pid in range(99, 100 - parents, -1):
        proc.add(pid, "sh -c run", pid - 1)
    proc.add(100 - parents, "python3 /usr/bin/vllm serve x")
    assert _guard.runtime_of(GpuProcess(0, 100, False, "python3", 1), proc.folder) == kind


# -- judging a host ----------------------------------------------------------------------------------------------------

TOTAL = 24564
ENGINE = GpuProcess(0, 10, False, "VLLM::EngineCore", 20000)
XORG = GpuProcess(0, 11, True, "/usr/lib/xorg/Xorg", 1600)
SHELL = GpuProcess(0, 12, True, "/usr/bin/gnome-shell", 900)
TRAINING = GpuProcess(0, 13, False, "/usr/bin/python3", 12000)
OLLAMA = GpuProcess(0, 14, False, "/usr/local/bin/ollama", 5500)
ELSEWHERE = GpuProcess(0, 15, False, "[Not Found]", None)
MODEL = Holder("ollama_model", "gemma3", memory_mib=5086, remedy="ollama stop gemma3")


class Host:
    """One GPU and what is on it; ``judge`` says whether a runtime may start."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc

    def judge(
        self,
        *processes: GpuProcess,
        free: t.Optional[int] = None,
        models: t.Sequence[Holder] = (),
        own: t.Container[int] = (),
        runtime: str = "vllm",
        share: float = 0.92,
        total: t.Optional[int] = TOTAL,
        own_end: bool = False,
    ) -> dict[str, t.Any]:
        left = free if free is not None else 24000 - sum(process.memory_mib or 0 for process in processes)
        rows = [Gpus("box", "RTX 4090", 1, 1, total, "8.9", index=0, memory_free_mib=left if total else None)]
        return _guard.judge_host(rows, processes, models, own, runtime, share, self.proc, own_end)

    def refusal(self, *processes: GpuProcess, **options: t.Any) -> str:
        with pytest.raises(ServingError) as caught:
            self.judge(*processes, **options)
        message = str(caught.value)
        assert caught.value.details["summary"] == message
        assert (caught.value.details["changed"], caught.value.details["stopped"]) == (False, [])
        assert "\n" not in message
        return message


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("runtime", ["vllm", "ollama"])
def test_a_gpu_that_nothing_else_holds(host: Host, runtime: str) -> None:
    assert host.judge(runtime=runtime) == {"changed": False, "stopped": [], "holders": [], "summary": "nothing else holds GPU 0"}


def test_ollama_is_in_the_way_of_vllm_and_named_once(host: Host) -> None:
    assert host.refusal(OLLAMA, models=[MODEL]) == (
        "GPU guard: vLLM wants 92% of the memory; GPU 0 has 75% free (18,500 of 24,564 MiB). Held by Ollama's gemma3 (5,086 MiB): "
        "ollama stop gemma3. To let both run, budget memory for each: gpu_memory_utilization in vLLM's row, and guard_min_free_share here."
    )


@pytest.mark.parametrize(
    ("process", "told"),
    [
        (OLLAMA, "ollama (pid 14, 5,500 MiB of GPU 0): ollama ps names its models: ollama stop MODEL"),
        (TRAINING, "python3 (pid 13, 12,000 MiB of GPU 0): kill 13, or wait until it has ended."),
        (
            ENGINE,
            "VLLM::EngineCore (pid 10, 20,000 MiB of GPU 0): make uninstall-chat if it is this chat's, else kill 10 or stop its container.",
        ),
        (ELSEWHERE, "a process that nvidia-smi does not name (pid 15, on GPU 0): it is of another container, or of Windows: end it there."),
    ],
)
def test_each_holder_has_its_remedy(host: Host, process: GpuProcess, told: str) -> None:
    assert f"Held by {told}" in host.refusal(process, free=10000)


def test_the_largest_is_named_first_and_a_desktop_once(host: Host) -> None:
    assert host.refusal(XORG, TRAINING, SHELL).endswith(
        "Held by python3 (pid 13, 12,000 MiB of GPU 0): kill 13, or wait until it has ended; Xorg (pid 11, 1,600 MiB of GPU 0) and "
        "gnome-shell (pid 12, 900 MiB of GPU 0): end the desktop session, or use another GPU (vllm_gpu_ids)."
    )


def test_a_message_stays_short_whatever_runs(host: Host) -> None:
    jobs = [GpuProcess(0, pid, False, "python3", 100) for pid in range(200)]
    message = host.refusal(*jobs)
    assert "; and 194 more, see nvidia-smi." in message
    assert len(message) < 800


def test_a_budget_is_talked_of_only_where_two_runtimes_meet(host: Host) -> None:
    assert "budget" not in host.refusal(TRAINING)
    assert "budget" in host.refusal(ENGINE)


def test_memory_that_nobody_is_seen_to_hold(host: Host) -> None:
    message = host.refusal(free=3000)
    assert message.endswith("It is held by a process that nvidia-smi does not name: look outside of this container, or in Windows.")


@pytest.mark.parametrize("held", [20000, None])
def test_what_will_be_replaced_is_not_in_the_way(host: Host, held: t.Optional[int]) -> None:
    engine = ENGINE._replace(memory_mib=held)
    assert host.judge(engine, free=4000, own={10})["holders"] == []
    assert "VLLM::EngineCore" in host.refusal(engine, free=4000, own={11})


def test_little_that_is_held_is_a_warning(host: Host) -> None:
    result = host.judge(SHELL)
    assert result["summary"] == "GPU 0 has 94% free (23,100 of 24,564 MiB), beside gnome-shell (pid 12, 900 MiB of GPU 0)"
    assert result["warnings"] == [
        "Something else holds memory of GPU 0: gnome-shell (pid 12, 900 MiB of GPU 0): end the desktop session, "
        "or use another GPU (vllm_gpu_ids)."
    ]


def test_a_budget_lets_others_hold_the_rest(host: Host) -> None:
    assert host.judge(OLLAMA, models=[MODEL], share=0.7)["warnings"] == [
        "Something else holds memory of GPU 0: Ollama's gemma3 (5,086 MiB): ollama stop gemma3."
    ]
    assert "vLLM wants 80% of the memory;" in host.refusal(OLLAMA, models=[MODEL], share=0.8)


def test_an_engine_is_in_the_way_of_ollama(host: Host) -> None:
    assert host.refusal(ENGINE, runtime="ollama", own={10}).startswith(
        "GPU guard: a vLLM engine has the GPU, beside which Ollama runs out of memory. End it first. "
        "Held by VLLM::EngineCore (pid 10, 20,000 MiB of GPU 0): make uninstall-chat. To let both run, budget"
    )
    assert "kill 10" in host.refusal(ENGINE, runtime="ollama")
    assert "kill 10" in host.refusal(ENGINE._replace(memory_mib=100), runtime="ollama")


def test_an_engine_that_is_ended_first_is_not_in_the_way_of_ollama(host: Host) -> None:
    assert host.judge(ENGINE, runtime="ollama", own={10}, own_end=True)["holders"] == []
    assert "VLLM::EngineCore" in host.refusal(ENGINE, runtime="ollama", own={11}, own_end=True)


def test_the_models_of_an_ollama_that_is_ended_first_are_not_in_the_way_of_vllm(host: Host) -> None:
    assert host.judge(OLLAMA, models=[MODEL], own={14})["holders"] == []
    assert "gemma3" in host.refusal(OLLAMA, OLLAMA._replace(pid=16), models=[MODEL], own={14})


def test_ollama_beside_an_engine_by_budget(host: Host) -> None:
    engine = ENGINE._replace(memory_mib=12000)
    assert "VLLM::EngineCore" in host.judge(engine, runtime="ollama", share=0.4)["warnings"][0]
    assert "Ollama wants 60% of the memory; GPU 0 has 48%" in host.refusal(engine, runtime="ollama", share=0.6)


def test_what_ollama_itself_holds_is_not_in_its_way(host: Host) -> None:
    engine = ENGINE._replace(memory_mib=12000)
    result = host.judge(OLLAMA, engine, runtime="ollama", share=0.4)
    assert [holder["pid"] for holder in result["holders"]] == [10]
    assert result["summary"].startswith("GPU 0 has 48%")
    assert host.judge(OLLAMA, runtime="ollama")["holders"] == []


def test_ollama_gets_along_with_a_desktop(host: Host) -> None:
    result = host.judge(XORG, TRAINING, runtime="ollama")
    assert [holder["name"] for holder in result["holders"]] == ["python3", "Xorg"]


@pytest.mark.parametrize(("gpu", "names"), [(0, ["gemma3"]), (1, [])])
def test_models_are_where_the_processes_of_ollama_are(host: Host, gpu: int, names: list[str]) -> None:
    result = host.judge(OLLAMA._replace(gpu=gpu), free=23000, models=[MODEL])
    assert [holder["name"] for holder in result["holders"]] == names


def test_memory_shared_with_the_cpu(host: Host) -> None:
    assert "whose driver does not tell how much memory is free. Held by Ollama's gemma3" in host.refusal(models=[MODEL], total=None)
    result = host.judge(SHELL, total=None)
    assert result["summary"].startswith("the driver does not tell how much of GPU 0 is free, beside gnome-shell")
    assert host.judge(ENGINE, total=None, share=0.4)["holders"][0]["pid"] == 10
    assert host.judge(ENGINE, total=None, own={10})["holders"] == []


def test_each_gpu_has_to_be_free(tmp_path: Path) -> None:
    rows = [Gpus("box", "L4", 1, 1, 23034, "8.9", index=index, memory_free_mib=free) for index, free in ((0, 22500), (1, 3000), (3, 2000))]
    processes = [TRAINING._replace(gpu=1), TRAINING._replace(gpu=2, pid=99)]
    with pytest.raises(ServingError) as caught:
        _guard.judge_host(rows, processes, [], (), "vllm", 0.92, tmp_path)
    assert "GPU 1 has 13% free (3,000 of 23,034 MiB) and GPU 3 has 8% free (2,000 of 23,034 MiB). Held by python3 (pid 13" in str(
        caught.value
    )
    assert "99" not in str(caught.value)
    rows[1].memory_free_mib = rows[2].memory_free_mib = 22500
    assert _guard.judge_host(rows, [], [], (), "vllm", 0.92, tmp_path)["summary"] == "nothing else holds the 3 GPUs"


@pytest.mark.parametrize(
    ("products", "count", "wanted"),
    [(["L4", "L4", "L4"], 2, [0, 1]), (["L4", "L4"], 0, [0, 1]), (["L4", "A100"], 1, [0, 1]), (["L4"], 2, [0])],
)
def test_the_gpus_that_will_be_taken(products: list[str], count: int, wanted: list[int]) -> None:
    rows = [Gpus("box", product, 1, 1, 23034, "8.9", index=index) for index, product in enumerate(products)]
    assert [gpus.index for gpus in _guard.wanted_gpus(rows, count)] == wanted


# -- a cluster ---------------------------------------------------------------------------------------------------------


def test_only_what_carries_our_labels_is_looked_for() -> None:
    ours = "app.kubernetes.io/instance=chat,app.kubernetes.io/managed-by=llmops.serving,app.kubernetes.io/part-of="
    assert _guard.rival_selector("vllm", "chat") == f"{ours}ollama"
    assert _guard.rival_selector("ollama", "chat") == f"app=vllm-backend,{ours}vllm"


def pod(**metadata: t.Any) -> Object:
    requests = {"requests": {"nvidia.com/gpu": "1"}}
    return {
        "metadata": {"name": "ollama-1-x", "namespace": "chatbot", **metadata},
        "spec": {"nodeName": "gpu-a", "containers": [{"resources": requests}, {"resources": {"requests": {"amd.com/gpu": "2"}}}]},
    }


def node(ready: str) -> Object:
    return {"metadata": {"name": "gpu-a"}, "spec": {"unschedulable": True}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


GOING = {"deletionTimestamp": "2026-11-21T12:00:30Z", "deletionGracePeriodSeconds": 30}


@pytest.mark.parametrize(
    ("left", "at", "why"),
    [
        (pod(), node("True"), "nobody has told it to end: the cluster's controllers lag behind"),
        (pod(**GOING), node("Unknown"), "its node gpu-a is not ready and does not confirm that it has ended"),
        (pod(**GOING, finalizers=["a/b", "c/d"]), node("True"), "the finalizer a/b, c/d holds it"),
        (pod(**GOING), node("True"), "it is terminating on gpu-a; it may take until 2026-11-21T12:00:30Z (grace period 30 s)"),
        (pod(**GOING), None, "it is terminating on gpu-a"),
    ],
)
def test_why_a_pod_stays(left: Object, at: t.Optional[Object], why: str) -> None:
    assert _guard.why_it_stays("chatbot", left, at).startswith(why)


def test_a_deployment_holds_what_its_pods_hold() -> None:
    found = _guard.cluster_holders("chatbot", {"metadata": {"name": "ollama"}}, [pod(), pod()])
    assert [holder.text for holder in found] == ["Deployment/ollama (6 GPUs)", *["chatbot/ollama-1-x (3 GPUs of gpu-a)"] * 2]
    assert {holder.remedy for holder in found} == {"kubectl -n chatbot scale deployment/ollama --replicas=0"}
    assert json.dumps([holder.report() for holder in found])


@pytest.mark.parametrize(
    ("metadata", "status", "idle"),
    [
        ({"generation": 2}, {"observedGeneration": 2}, True),
        ({"generation": 2}, {"observedGeneration": 2, "replicas": 0}, True),
        ({"generation": 2}, {"observedGeneration": 2, "replicas": 1}, False),
        ({"generation": 3}, {"observedGeneration": 2}, False),
        ({"generation": 1}, None, False),
    ],
)
def test_a_deployment_that_is_idle(metadata: Object, status: Object, idle: bool) -> None:
    assert _guard.is_idle({"metadata": metadata, "status": status}) is idle
