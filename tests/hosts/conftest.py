"""Tests on machines of their own. Each needs root and minutes, so `make unit` leaves them out; `make test-hosts` runs them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "molecule/shared"))  # the chat page as a client
