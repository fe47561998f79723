"""The clips that hosts have for cameras."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.footage import encode

GOP = 250  # ten seconds


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of a small camera, in GOPs of ten seconds."""
    return encode(tmp_path_factory.mktemp("link") / "clip.h264", size=(320, 180), frames=1500, gop=GOP)


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a key frame each second."""
    return encode(tmp_path_factory.mktemp("link") / "short.h264", size=(320, 180), frames=1500, gop=25)
