"""What `make install-chat` costs on a bare machine: wall time of the first run, of a second one, memory and disk.

Usage: .venv/bin/python benchmarks/local_install.py [--alternative]
It installs into a new folder under ~/.cache, with pip's cache off, and takes everything away again. Memory is the sum of the
proportional set sizes (PSS) of all processes of the deployment and of the run itself, looked at twice a second. The alternative, for the
largest of the three programs, is what its own documentation says: `pip install open-webui` into a new environment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPEN_WEBUI = "open-webui==0.12.4"


class Memory(threading.Thread):
    """Watches the proportional memory of a run's children and of whatever carries the deployment's mark."""

    def __init__(self, state_dir: Path, root_pid: int) -> None:
        super().__init__(daemon=True)
        self.state_dir, self.root_pid = str(state_dir), root_pid
        self.peak_mib = self.last_mib = 0
        self.over = threading.Event()

    def run(self) -> None:
        """Look until told that it is over."""
        while not self.over.wait(0.5):
            self.last_mib = sum(self.pss_mib(pid) for pid in self.pids())
            self.peak_mib = max(self.peak_mib, self.last_mib)

    def pids(self) -> set[int]:
        """Processes of the deployment, and those below the run."""
        parents, found = {}, set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if self.state_dir in (folder / "maps").read_text() or self.state_dir.encode() in (folder / "environ").read_bytes():
                    found.add(int(folder.name))
            except (OSError, ValueError):
                continue
        below = {self.root_pid}
        while more := {pid for pid, parent in parents.items() if parent in below} - below:
            below |= more
        return found | (below & set(parents))

    @staticmethod
    def pss_mib(pid: int) -> float:
        """Memory of a process, pages that it shares divided among those who share them; 0 when it has gone."""
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            return 0


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alternative", action="store_true", help="install Open WebUI by hand, too (some minutes and GiB more)")
    arguments = parser.parse_args()
    cache = Path("~/.cache").expanduser()
    cache.mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=cache, prefix="llm-bench-"))
    environment = {**os.environ, "PIP_NO_CACHE_DIR": "1"}
    try:
        times, peak = {}, 0.0
        for run in ("first", "second", "third"):
            begun = time.monotonic()
            process = make("install-chat", work / "chat", environment)
            memory = Memory(work / "chat", process.pid)
            memory.start()
            output = process.communicate()[0]
            times[run] = time.monotonic() - begun
            if run == "third":
                time.sleep(2)
            memory.over.set()
            peak = max(peak, memory.peak_mib)
            if process.returncode:
                print(output[-2000:])
                return 1
            if run != "first" and "changed=0 " not in output:
                print(f"The {run} run changed something:\n{output[-2000:]}")
                return 1
        disk = {path.name.rpartition("-")[0]: mib(path) for path in (work / "chat/venvs").iterdir()}
        print(f"first run   {times['first']:7.1f} s   (pip's cache off)")
        print(f"second run  {min(times['second'], times['third']):7.1f} s   (changed=0; the better of two)")
        print(f"memory      {peak:7.0f} MiB at the peak, {memory.last_mib:.0f} MiB when all runs (PSS)")
        print(f"disk        {mib(work / 'chat'):7.0f} MiB: " + ", ".join(f"{name} {size:.0f}" for name, size in sorted(disk.items())))
        if arguments.alternative:
            by_hand(work, environment)
        return 0
    finally:
        make("uninstall-chat", work / "chat", environment, "-e purge=true").communicate()
        shutil.rmtree(work, ignore_errors=True)


def make(verb: str, state_dir: Path, environment: dict[str, str], extra: str = "") -> subprocess.Popen[str]:
    """Start a verb of the Makefile on a state folder."""
    words = ["make", verb, "INVENTORY=inventory.local.yaml", f"ANSIBLE_ARGS=-e llm_state_dir={state_dir} {extra}".strip()]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def by_hand(work: Path, environment: dict[str, str]) -> None:
    """Install Open WebUI as its documentation says and from our lock, one after the other."""
    seconds, size = {}, {}
    lock = ROOT / "roles/open_webui/files/local/open-webui.txt"
    for name, words in (("by hand", [OPEN_WEBUI]), ("from the lock", ["--no-deps", "--no-compile", "-r", str(lock)])):
        folder = work / name.replace(" ", "-")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        begun = time.monotonic()
        subprocess.run([folder / "bin/pip", "install", "-q", *words], check=True, env=environment, capture_output=True)
        seconds[name], size[name] = time.monotonic() - begun, mib(folder)
        print(f"{name:<14}{seconds[name]:7.1f} s {size[name]:7.0f} MiB   {OPEN_WEBUI}")
    ratios = [values["by hand"] / values["from the lock"] for values in (seconds, size)]
    print("by hand / from the lock: time {:.1f}, disk {:.1f}".format(*ratios))


def mib(folder: Path) -> float:
    """Disk that a folder takes, MiB."""
    out = subprocess.run(["du", "-sk", folder], capture_output=True, text=True, check=True).stdout
    return int(out.split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
