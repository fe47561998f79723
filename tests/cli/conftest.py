# SPDX-License-Identifier: MIT
"""Fixtures of the tests of commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import valkka_async as va
from support import program
from support.commands import Commands
from support.footage import encode


@pytest.fixture(scope="session", autouse=True)
def commands_are_forked() -> Iterator[None]:
    """Those that end by themselves: there are more than a hundred."""
    program.forked = Commands()
    yield
    program.forked.close()
    program.forked = None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, in which commands run that write where they are."""
    folder = tmp_path / "here"
    folder.mkdir()
    # They find the package although they run elsewhere.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(va.__file__).parents[1]), *sys.path]))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 320x192, in GOPs of 0.4 s."""
    return encode(tmp_path_factory.mktemp("clip") / "clip.h264", (320, 192), 50, gop=10)
