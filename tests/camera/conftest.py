"""Fixtures of the camera tests."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `support`, when only this folder is tested

from camera_tools import Clips  # noqa: E402

from support.require import missing  # noqa: E402
from support.rtsp import RtspServer, rtsp_available  # noqa: E402


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def shared_rtsp() -> Iterator[RtspServer]:
    if reason := rtsp_available():
        missing(reason)
    with RtspServer(deadline=1800) as server:  # it ends with its standard input, whatever becomes of us
        yield server


@pytest.fixture
def rtsp(shared_rtsp: RtspServer) -> Iterator[RtspServer]:
    """A real RTSP server without mounts. A test may freeze it; one that kills it should start its own."""
    yield shared_rtsp
    if not shared_rtsp.running:
        shared_rtsp.restart()
    shared_rtsp.thaw()
    for path in shared_rtsp.stats():
        shared_rtsp.unmount(path)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
