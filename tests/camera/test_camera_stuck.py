"""What FFmpeg does that nothing can cut short holds up nobody who closes a camera."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import av
import pytest
from camera_tools import Clips

import valkka_async as va
from support.http import Answer, HttpServer, Request
from support.stream import free_port
from support.until import until, wait_for
from valkka_async.camera.source.deadline import is_ready

Opened = tuple[str, Callable[[], object]]  # its address, and what ends the wait


@contextmanager
def fifo(folder: Path, clips: Clips) -> Iterator[Opened]:
    """A file that nobody writes: open(2) waits."""
    path = folder / "fifo"
    os.mkfifo(path)
    yield str(path), lambda: os.close(os.open(path, os.O_WRONLY))


@contextmanager
def datagrams(folder: Path, clips: Clips) -> Iterator[Opened]:
    """A port to which nobody sends: a thread of FFmpeg's waits for it, and ours for that one."""
    yield f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}", lambda: None


@contextmanager
def playlist(folder: Path, clips: Clips) -> Iterator[Opened]:
    """HLS that stands still: FFmpeg sleeps until it is time to ask for the playlist again."""
    segment = folder / "s.ts"
    with av.open(str(clips())) as source, av.open(str(segment), "w", format="mpegts") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    text = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:9,\n/s.ts\n"

    def serve(request: Request) -> Answer:
        return 200, {}, text.encode() if request.path.endswith("m3u8") else segment.read_bytes()

    with HttpServer(serve) as server:
        yield server.url("/live.m3u8"), lambda: None


def threads(name: str) -> list[int]:
    return [t.native_id for t in threading.enumerate() if name in t.name and t.native_id is not None]


def sleeping(name: str) -> bool:
    """Do those threads sleep, and have they done so for a while?"""
    for _ in range(5):
        if not threads(name) or any(is_ready(tid) for tid in threads(name)):
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("source", [fifo, datagrams, playlist])
def test_closing_does_not_wait_for_what_cannot_be_cut(
    source: Callable[[Path, Clips], AbstractContextManager[Opened]], tmp_path: Path, clips: Clips
) -> None:
    with source(tmp_path, clips) as (url, go):
        camera = va.Camera("stuck", url, open_timeout=5, read_timeout=5)
        wait_for(lambda: sleeping("stuck"))
        camera.close()
        assert threads("stuck")  # they were not waited for
        with va.serve("stuck"):  # its name is free
            pass
        go()
        wait_for(lambda: not threads("stuck"))


@pytest.mark.asyncio(loop_factories=["asyncio-debug"])
async def test_closing_it_holds_up_no_loop(tmp_path: Path, clips: Clips) -> None:
    """What blocks a loop fails any test."""
    with fifo(tmp_path, clips) as (url, go):
        camera = va.Camera("stuck", url, open_timeout=5, read_timeout=5)
        await until(lambda: sleeping("stuck"))
        await camera.aclose()
        assert threads("stuck")
        go()
        await until(lambda: not threads("stuck"))
