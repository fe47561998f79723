"""Fixtures of the tests of the examples."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `support`, when only this folder is tested

from support import footage  # noqa: E402
from support.program import ROOT  # noqa: E402
from support.require import missing  # noqa: E402
from support.rtsp import RtspServer, rtsp_available  # noqa: E402


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtspServer]:
    """A real RTSP server: /bikes, cyclists in a street, and /people, pedestrians before a CCTV camera."""
    if reason := rtsp_available():
        missing(reason)
    folder, cache = tmp_path_factory.mktemp("clips"), ROOT / ".cache"
    try:
        bikes = footage.to_elementary(footage.bikes(cache), folder / "bikes.h264", frames=75)
        people = footage.to_elementary(footage.vtest(cache), folder / "people.h264", frames=60, gop=10)
    except footage.FootageUnavailable as e:
        missing(str(e))
    with RtspServer() as server:
        server.mount("/bikes", bikes, fps=25)
        server.mount("/people", people, fps=10)
        yield server
