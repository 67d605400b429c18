# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Registries for the tests of this folder."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.tests.images.registries import Authority, Registry


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def registry(tmp_path: Path, authority: Authority) -> t.Iterator[Registry]:
    """A registry with TLS and a login."""
    with Registry(tmp_path / "registry", authority, auth="htpasswd") as running:
        yield running


@pytest.fixture
def plain(tmp_path: Path) -> t.Iterator[Registry]:
    """A registry that speaks plain HTTP and lets everybody in."""
    with Registry(tmp_path / "plain") as running:
        yield running
