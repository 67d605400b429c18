"""An engine of an installed vLLM on a port of its own, with the flags that a test wants."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE_S = 300
MODULE = "vllm.entrypoints.cli.main"


@contextlib.contextmanager
def running(python, model, name, flags, log):
    """Serve the folder *model* as *name* with *flags*, by the Python that has vLLM; give its URL. What it says is in the file *log*."""
    port = free_port()
    usual = [
        f"--port={port}",
        "--host=127.0.0.1",
        f"--served-model-name={name}",
        "--max-model-len=4096",
        "--max-num-seqs=2",
        "--enforce-eager",
    ]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(python).parent}:{environment['PATH']}"
    with Path(log).open("w", encoding="utf-8") as out:
        process = subprocess.Popen([python, "-m", MODULE, "serve", model, *usual, *flags], stdout=out, stderr=out, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not answers(f"{url}/health"):
            said = Path(log).read_text(encoding="utf-8")[-3000:]
            assert process.poll() is None, f"the engine has ended: {said}"
            assert time.monotonic() < deadline, f"the engine did not answer within {PATIENCE_S} s: {said}"
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
