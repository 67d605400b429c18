"""Make ansible_collections.llmops.serving importable from this checkout, as ansible itself does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parent.parent

init_plugin_loader([str(ROOT / ".venv" / "collections")])
os.environ.pop("ANSIBLE_FORCE_COLOR", None)  # the tests read what playbooks print
# what a shell starts in the background ignores Ctrl-C, and so would all that the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
