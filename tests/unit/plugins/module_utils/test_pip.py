# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines as pip 26 prints them, and what is told of them."""

from __future__ import annotations

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._pip import PipOutput, lacks, last_line, unreachable

MIB = 2**20


class Clock:
    def __init__(self) -> None:
        self.time = 500.0

    def now(self) -> float:
        return self.time


def heard(*lines: str, total: int = 4, clock: Clock | None = None) -> PipOutput:
    output = PipOutput(total, (clock or Clock()).now)
    for line in lines:
        output.hear(line)
    return output


def test_metadata_comes_before_any_package() -> None:
    output = heard(
        "Collecting torch==2.13.0 (from -r requirements.txt (line 1))",
        "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (30 kB)",
        "Collecting numpy==2.4.6 (from -r requirements.txt (line 2))",
        "  Using cached numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (62 kB)",
    )
    assert output.describe(0, 900) == ("look up", "looking up 2 of 4 packages")


def test_a_package_counts_when_all_of_it_is_here() -> None:
    output = heard("Collecting a==1", "  Downloading a-1-py3-none-any.whl (8.4 MB)", f"Progress 0 of {8 * MIB}")
    assert output.describe(0) == ("download", "downloading, 0 of 4 packages, 0 MiB")
    output.hear(f"Progress {3 * MIB} of {8 * MIB}")
    assert output.describe(0)[1] == "downloading, 0 of 4 packages, 3 MiB"
    output.hear(f"Progress {8 * MIB} of {8 * MIB}")
    assert output.describe(0)[1] == "downloading, 1 of 4 packages, 8 MiB"


def test_small_packages_have_no_progress_and_count_at_once() -> None:
    output = heard(*(f"  Downloading a{number}-1-py3-none-any.whl (524 kB)" for number in range(3)))
    assert output.describe(0)[1] == "downloading, 3 of 4 packages, 1 MiB"


def test_what_is_on_this_machine_counts_as_well(tmp_path) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    wheel.write_bytes(bytes(5 * MIB))
    output = heard(
        f"Processing {wheel} (from -r requirements.txt (line 1))",
        "  Using cached b-1-py3-none-any.whl (2.1 MB)",
        "Requirement already satisfied: c==1 in ./lib/python3.11/site-packages (from -r requirements.txt (line 3)) (1)",
    )
    assert output.describe(0)[1] == "downloading, 3 of 4 packages, 7 MiB"


def test_packages_of_other_pythons_are_not_waited_for() -> None:
    output = heard(
        """Ignoring numpy: markers 'python_full_version >= "3.12"' don't match your environment""",
        "  Downloading a-1-py3-none-any.whl (8 kB)",
    )
    assert output.describe(0)[1] == "downloading, 1 of 3 packages, 0 MiB"


def test_the_remaining_time_follows_from_the_rate_so_far() -> None:
    clock = Clock()
    output = heard("  Downloading a-1-py3-none-any.whl (104.9 MB)", f"Progress {20 * MIB} of {100 * MIB}", clock=clock)
    clock.time += 1
    assert output.describe(0, 300)[1] == "downloading, 0 of 4 packages, 20 of about 300 MiB"
    clock.time += 3
    output.hear(f"Progress {60 * MIB} of {100 * MIB}")
    assert output.describe(0, 300)[1] == "downloading, 0 of 4 packages, 60 of about 300 MiB, about 16 s left"
    assert output.describe(0, 50)[1] == "downloading, 0 of 4 packages, 60 MiB"


def test_unpacking_is_told_of_the_last_run_only() -> None:
    output = heard("  Downloading a-1-py3-none-any.whl (8 kB)")
    output.last_run = False
    output.hear("Installing collected packages: a")
    assert output.describe(1)[0] == "download"
    output.last_run = True
    output.hear("Installing collected packages: b, c, d")
    assert output.describe(2) == ("unpack", "unpacking, 2 of 4 packages")


NO_MATCH = "ERROR: No matching distribution found for a==2"
REFUSED = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by "
    "'NewConnectionError('<pip._vendor.urllib3.connection.HTTPConnection object at 0x7f5d6b6156d0>: "
    "Failed to establish a new connection: [Errno 111] Connection refused')': /simple/a/"
)
TLS = (
    "Could not fetch URL https://127.0.0.1:8765/simple/a/: There was a problem confirming the ssl certificate: "
    "HTTPSConnectionPool(host='127.0.0.1', port=8765): Max retries exceeded with url: /simple/a/ "
    "(Caused by SSLError(SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)'))) - skipping"
)
FORBIDDEN = "WARNING: Could not fetch URL http://127.0.0.1/simple/a/: 403 Client Error: Forbidden for url: http://127.0.0.1/simple/a/"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (REFUSED, "[Errno 111] Connection refused"),
        (TLS, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
        (FORBIDDEN, "403 Client Error: Forbidden"),
        (REFUSED.replace("[Errno 111] Connection refused", "[Errno -2] Name or service not known"), "[Errno -2] Name or service not known"),
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='x', port=443): Read timed out.", "Read timed out"),
    ],
)
def test_an_index_that_cannot_be_reached_is_not_taken_for_an_empty_one(line: str, reason: str) -> None:
    none = "ERROR: Could not find a version that satisfies the requirement a==2 (from versions: none)"
    lines = ["Looking in indexes: http://127.0.0.1/simple", line, none, NO_MATCH]
    assert not lacks(lines)
    assert unreachable(lines) == f"{reason} (index: http://127.0.0.1/simple)"


def test_one_of_several_indexes_may_be_unreachable() -> None:
    assert lacks([REFUSED, "ERROR: Could not find a version that satisfies the requirement a==2 (from versions: 1.0)", NO_MATCH])


def test_the_cause_of_a_crash_is_the_last_line_of_its_traceback() -> None:
    assert last_line(["ERROR: Exception:", "Traceback (most recent call last):", "OSError: [Errno 5] Input/output error", ""]) == (
        "OSError: [Errno 5] Input/output error"
    )
    assert last_line([NO_MATCH, "[notice] A new release of pip is available"]) == "No matching distribution found for a==2"
    assert last_line([]) == "it printed nothing"
