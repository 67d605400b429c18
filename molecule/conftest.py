"""The scenarios' tests run where kubectl is; testinfra's host is this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "shared"))
os.environ.pop("ANSIBLE_FORCE_COLOR", None)  # molecule sets it; the tests read what playbooks print
