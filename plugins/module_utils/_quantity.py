# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Quantities as Kubernetes writes them; the role's variables have them on every platform."""

from __future__ import annotations

import typing as t

UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, **{f"{unit}i": 2.0 ** (10 * power) for power, unit in enumerate("KMGTPE", 1)}}
UNITS.update({unit: 10.0 ** (3 * power) for power, unit in enumerate("MGTPE", 2)})


def quantity_bytes(quantity: t.Any) -> float:
    """Return a quantity of memory (``32Gi``, ``500M``) in bytes, of CPUs (``500m``) in pieces."""
    text = str(quantity)
    number = text.rstrip("mkKMGTPEi")
    return float(number) * UNITS[text[len(number) :]]
