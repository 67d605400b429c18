"""What a newcomer reads when this machine cannot serve: one message at the very end, and nothing half-made."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TROUBLE = {
    "a variable of another platform": (
        ["vllm_storage_size=5Gi"],
        "vllm_storage_size: the platform local has nothing that this could set; it is for Kubernetes. Remove it from the inventory.",
    ),
    "a router that is an image only": (["vllm_router_type=production-stack"], "Remove the line, and vllm-router is taken."),
    "a router in front of Ollama": (
        ["llm_backend=ollama", "vllm_router_host=localhost"],
        "vllm_router_host: localhost with llm_backend: ollama, and nothing is in front of an Ollama.",
    ),
    "an accelerator that is not there": (["vllm_accelerator=amd"], "vllm_accelerator: amd is not there yet on the platform local."),
    "a Python that is not there": (
        ["llm_python=/nonexistent/python"],
        "llm_python: /nonexistent/python: Open WebUI 0.12.4 needs Python 3.11 to 3.12",
    ),
    "a port that is taken": (["open_webui_port={port}"], "open_webui_port: port {port} is taken by process {pid} ("),
    "a port given twice": (
        ['{"vllm_router_port": 18000, "vllm_engine_port": 18000}'],
        "vllm_router_port and vllm_engine_port are both 18000. Give two, or none, and free ones are chosen.",
    ),
    "a file where the folder should be": (["llm_state_dir={file}/chat"], "{file} is not a folder, so nothing can be installed."),
    "a path too long for a socket": (["llm_state_dir={folder}/" + 90 * "x"], "is too long for a socket in it"),
    "a cache that holds no chat": (
        ["{vllm_model_configs: {smoke: {kv_cache_memory_bytes: 1000000}}}"],
        "vllm_model_configs.smoke: {kv_cache_memory_bytes: 26214400}. vllm_fit_check: false deploys it all the same.",
    ),
    "a model that the catalog lacks, without a line": (
        ["{vllm_model_name: my-model, vllm_model_configs: {my-model: {model: example/my-model}}, vllm_hf_endpoint: 'http://127.0.0.1:9'}"],
        "vllm_fit_check: false",
    ),
    "a hub that does not answer": (
        ["vllm_model_name=qwen2.5-0.5b-instruct", "vllm_hf_endpoint=http://127.0.0.1:9"],
        "The hub does not give Qwen/Qwen2.5-0.5B-Instruct",
    ),
    "a chat template that only the image has": (["vllm_model_name=llama-3.2-3b-instruct"], "needs the chat template"),
    "an address that is not this machine": (
        ["ansible_connection=ssh"],
        "is reached by ssh. Run it there, with ansible_connection: local, or set llm_platform: systemd.",
    ),
}


def play(*variables, state_dir, **environment):
    words = [word for variable in (f"llm_state_dir={state_dir}", *variables) for word in ("-e", variable)]
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", ROOT / "inventory.local.yaml", ROOT / "playbooks/chat.yml", *words]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    return run, " ".join(run.stdout.rpartition("PLAY RECAP")[2].split())


@pytest.mark.parametrize(("variables", "message"), TROUBLE.values(), ids=TROUBLE)
def test_the_last_words_say_what_is_wrong(variables, message, tmp_path):
    state_dir, file = tmp_path / "state", tmp_path / "file"
    file.write_text("")
    with socket.create_server(("127.0.0.1", 0)) as server:
        facts = {"port": server.getsockname()[1], "pid": os.getpid(), "file": file, "folder": tmp_path}
        for name, value in facts.items():
            message = message.replace(f"{{{name}}}", str(value))
            variables = [variable.replace(f"{{{name}}}", str(value)) for variable in variables]
        run, last_words = play(*variables, state_dir=state_dir)
    assert run.returncode != 0
    assert message in last_words
    assert "Traceback" not in run.stdout + run.stderr
    assert not (state_dir / "venvs").exists()


def test_an_index_that_cannot_be_reached_is_named_and_the_next_run_goes_on(tmp_path):
    state_dir = tmp_path / "state"
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    for _time in range(2):
        run, last_words = play(state_dir=state_dir, **nowhere)
        assert run.returncode != 0
        assert "supervisor 4.3.0" in last_words
        assert "127.0.0.1:9" in last_words or "cannot be reached" in last_words
        assert "Traceback" not in run.stdout + run.stderr
    assert not (state_dir / "supervisord.sock").exists()
