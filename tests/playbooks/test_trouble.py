"""What a user reads when something is wrong: one message at the very end, exit code not 0, nothing asked of a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TROUBLE = {
    "an unknown model": (
        ["vllm_model_name=gpt-oss-12b"],
        'vllm_model_name: "gpt-oss-12b" is not in the catalog (did you mean "gpt-oss-120b"?)',
    ),
    "a typing error in a variable": (["vllm_modelname=smoke"], 'vllm_modelname: no such variable (did you mean "vllm_model_name"?)'),
    "a typing error for the page": (["open_webui_imgae=x:1"], 'open_webui_imgae: no such variable (did you mean "open_webui_image"?)'),
    "a typing error for all": (["llm_min_gpu_memory=80"], 'llm_min_gpu_memory: no such variable (did you mean "llm_min_gpu_memory_gb"?)'),
    "a value out of the choices": (
        ["vllm_router_type=rust"],
        "value of vllm_router_type must be one of: auto, production-stack, vllm-router, got: rust",
    ),
    "a context beyond the model's": (
        ["{vllm_model_configs: {gpt-oss-120b: {max_model_len: 200000}}}"],
        "vllm_model_configs.gpt-oss-120b.max_model_len: 200000 is beyond the model's 131072 tokens",
    ),
    "a model that vLLM cannot serve": (["vllm_model_name=qwen2.5-7b-instruct-1m"], "vllm_model_name: qwen2.5-7b-instruct-1m: "),
    "a backend that is not there": (["llm_backend=tgi"], "llm_backend: tgi is not known. It may be vllm or ollama."),
    "a variable of hosts for Ollama on a cluster": (
        ["llm_backend=ollama", "ollama_archive=/srv/ollama.tgz"],
        "ollama_archive: it is for single hosts only. Remove it, or choose another llm_platform.",
    ),
    "a model of Ollama's with a typing error": (
        ["llm_backend=ollama", "ollama_model_name=gpt-oss:12b"],
        'ollama_model_name: "gpt-oss:12b" is not in the catalog (did you mean "gpt-oss:120b"?)',
    ),
    "a typing error for Ollama": (
        ["llm_backend=ollama", "ollama_imgae=x:1"],
        'ollama_imgae: no such variable (did you mean "ollama_image"?)',
    ),
    "a key that cannot be sent": (["vllm_api_key=two;keys"], "vllm_api_key may hold neither blanks nor semicolons"),
    "no kubeconfig": (["llm_kubeconfig=/nonexistent/config"], "No kubeconfig: /nonexistent/config does not exist. Set llm_kubeconfig"),
    "a cluster that does not answer": (["llm_kubeconfig={unreachable}"], "The Kubernetes API at https://127.0.0.1:1 cannot be reached"),
}


def play(playbook, *extra, inventory="inventory.example.yaml", kubeconfig=None):
    words = [word for variable in extra for word in ("-e", variable)]
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", ROOT / inventory, ROOT / "playbooks" / playbook, *words]
    environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    environment |= {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def unreachable(tmp_path):
    path = tmp_path / "config"
    path.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], users: [{name: u, user: {token: t}}]}"
    )
    return path


@pytest.mark.parametrize(("variables", "message"), TROUBLE.values(), ids=TROUBLE)
def test_the_last_words_say_what_is_wrong(variables, message, unreachable):
    run = play("chat.yml", *(variable.replace("{unreachable}", str(unreachable)) for variable in variables), kubeconfig=unreachable)
    last_words = run.stdout.rpartition("PLAY RECAP")[2]
    assert run.returncode != 0
    assert message in " ".join(last_words.split())
    assert "Traceback" not in run.stdout + run.stderr


def test_enable_chat_false_deploys_nothing_and_says_so(unreachable):
    run = play("chat.yml", "enable_chat=false", kubeconfig=unreachable)
    assert run.returncode == 0
    assert "enable_chat is false, so nothing was deployed" in run.stdout.rpartition("PLAY RECAP")[2]


def test_the_example_inventory_is_complete(unreachable):
    """Every line of it that is commented out may be used as it stands."""
    example = (ROOT / "inventory.example.yaml").read_text()
    names = {line.strip().lstrip("# ").partition(":")[0] for line in example.splitlines() if line.strip().startswith("# ")}
    options = set()
    for role in ("vllm", "open_webui", "ollama"):
        options |= {name for name in names if name.startswith(role)}
    known = "".join((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text() for role in ("vllm", "open_webui", "ollama"))
    assert len(options) > 20
    assert [name for name in sorted(options) if f"      {name}:\n" not in known] == []


@pytest.mark.parametrize("playbook", ["prune.yml", "benchmark.yml", "probe.yml"])
def test_what_is_for_vllm_only_says_so(playbook, unreachable):
    run = play(playbook, "llm_backend=ollama", kubeconfig=unreachable)
    assert run.returncode != 0
    assert "llm_backend is ollama, and this is for vLLM only. See docs/ollama.md" in " ".join(run.stdout.split())
    assert "127.0.0.1:1" not in run.stdout  # the cluster was not asked


@pytest.mark.parametrize("playbook", ["pin_images.yml", "update_images.yml", "mirror_list.yml"])
def test_images_of_a_backend_that_is_not_there_are_refused(playbook):
    run = play(playbook, "llm_backend=tgi")
    assert run.returncode != 0
    assert "llm_backend: tgi is not known. It may be vllm or ollama." in " ".join(run.stdout.split())


@pytest.mark.parametrize("runtime", [[], ["guard_runtime=ollama"]])
def test_the_guard_looks_for_the_gpus_of_ollamas_plan(runtime, unreachable):
    run = play("guard.yml", "llm_backend=ollama", "ollama_gpu_count=none", *runtime, kubeconfig=unreachable)
    assert run.returncode != 0
    assert 'ollama_gpu_count: "none" is not a whole number' in " ".join(run.stdout.split())
    # where the inventory wants vLLM, Ollama has no plan
    run = play("guard.yml", "ollama_gpu_count=none", "guard_runtime=ollama", kubeconfig=unreachable)
    assert "The Kubernetes API at https://127.0.0.1:1 cannot be reached" in " ".join(run.stdout.split())
