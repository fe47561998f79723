"""Cameras and players begin and end as a whole: forgotten, without a thread, in a forked child."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support.footage import encode
from support.program import Child
from support.until import until, wait_for
from valkka_async.camera.decode import Decoder
from valkka_async.camera.source.deadline import Deadline
from valkka_async.ring.rendezvous import servers

ENDLESS = "lavfi:testsrc=size=64x48:rate=25"


def camera_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("valkka-camera")]


@pytest.fixture
def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Threads whose names begin like one in the set cannot be started."""
    full: set[str] = set()
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if any(self.name.startswith(name) for name in full):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    yield full


def test_a_forgotten_camera_warns_and_closes(silent_port: int) -> None:
    for url in (ENDLESS, f"rtsp://127.0.0.1:{silent_port}/x"):
        camera = va.Camera("cam", url, [va.Output("one"), va.Output("two", "jpeg")])
        with va.attach("one") as reader:
            with pytest.warns(ResourceWarning, match="Camera cam .* was never closed"):
                del camera
                gc.collect()
            with pytest.raises(va.ConnectionClosedOK):
                while reader.recv(10):
                    pass
        assert servers() == []
        wait_for(lambda: not camera_threads())


async def test_a_camera_forgotten_in_a_loop_warns_and_closes() -> None:
    camera = va.Camera("cam", ENDLESS)
    async with va.connect("cam") as client:
        (await client.recv()).release()
        with pytest.warns(ResourceWarning, match="was never closed"):
            del camera
            gc.collect()
        async for frame in client:
            frame.release()
    assert servers() == []
    await until(lambda: not camera_threads())


def test_a_closed_camera_may_be_forgotten() -> None:
    camera = va.Camera("cam", ENDLESS)
    assert not camera.closed
    camera.close()
    assert camera.closed
    del camera
    gc.collect()  # warnings are errors here


def test_a_camera_whose_thread_cannot_start_serves_nothing(no_more_threads: set[str]) -> None:
    no_more_threads.add("valkka-camera")
    with va.serve("other"):
        with pytest.raises(va.CameraError, match="can't start new thread"):
            va.Camera("cam", ENDLESS, [va.Output("one"), va.Output("two")])
        gc.collect()
        assert servers() == ["other"]
    no_more_threads.clear()
    with va.Camera("cam", ENDLESS, [va.Output("one"), va.Output("two")]), va.attach("two") as reader:
        reader.recv(10).release()


def test_a_camera_one_of_whose_rings_is_taken_serves_none_of_them() -> None:
    with va.serve("two"):
        with pytest.raises(va.NameInUseError):
            va.Camera("cam", ENDLESS, [va.Output("one"), va.Output("two")])
        gc.collect()
        assert servers() == ["two"]


def test_a_player_whose_thread_cannot_start_leaves_the_server_as_it_was(no_more_threads: set[str]) -> None:
    no_more_threads.add("valkka-play")
    with va.serve("cam") as server, va.attach("cam") as reader:
        with pytest.raises(va.CameraError):
            va.play(ENDLESS, server)
        no_more_threads.clear()
        with va.play(ENDLESS, server):
            reader.recv(10).release()


def test_deadlines_are_watched_once_their_thread_can_start(no_more_threads: set[str]) -> None:
    no_more_threads.add("valkka-deadlines")
    with va.Camera("cam", ENDLESS, retry_max=0.1) as camera:
        wait_for(lambda: camera.status().state == "waiting")
        assert "can't start new thread" in camera.status().reason
        no_more_threads.clear()
        wait_for(lambda: camera.status().state == "live")
    deadline = Deadline()
    assert "valkka-deadlines" in [t.name for t in threading.enumerate()]
    deadline.close()


async def test_many_tasks_may_close_a_camera(silent_port: int) -> None:
    camera = va.Camera("cam", f"rtsp://127.0.0.1:{silent_port}/x", open_timeout=60)
    await asyncio.sleep(0.1)
    await asyncio.gather(*(camera.aclose() for _ in range(5)))
    assert camera_threads() == [] and servers() == []


async def test_a_cancelled_aclose_of_a_camera_closes_nevertheless(silent_port: int) -> None:
    camera = va.Camera("cam", f"rtsp://127.0.0.1:{silent_port}/x", open_timeout=60)
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(camera.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert servers() == []
    await until(lambda: not camera_threads())


def test_in_a_forked_child_a_camera_is_inert() -> None:
    with va.Camera("cam", ENDLESS) as camera, va.attach("cam") as reader:
        reader.recv(10).release()
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            ok = camera.closed
            camera.close()
            del camera
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        reader.recv(10).release()
        assert not camera.closed


def test_a_source_slower_than_its_time_outs_is_not_taken_for_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valkka_async.camera.keeper._STUCK", 0.0)
    with va.Camera("cam", "lavfi:testsrc=size=64x48:rate=1/100", read_timeout=0.1) as camera:
        wait_for(lambda: camera.status().packets >= 1)
        time.sleep(0.5)  # it waits for the second frame
        assert not camera.stuck()


def test_a_file_of_which_nothing_can_be_decoded_fails_instead_of_being_live_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("valkka_async.camera.decode.Decoder.decode", lambda *args: [])
    with va.Camera("cam", "lavfi:testsrc=size=64x48:rate=25:duration=0.2") as camera, va.attach("cam"):
        wait_for(lambda: camera.status().state == "failed")


def test_seldom_frames_of_a_stream_of_whole_pictures_are_no_sign_of_a_broken_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between two frames that a limit lets pass nothing is decoded, for as long as it takes."""
    monkeypatch.setattr("valkka_async.camera.feed._UNDECODABLE", 0.05)
    with va.Camera("cam", ENDLESS, [va.Output("cam", fps=2)]) as camera, va.attach("cam") as reader:
        for _ in range(3):
            reader.recv(10).release()
        assert (camera.status().state, camera.status().attempts) == ("live", 1)


def test_a_key_frame_that_came_damaged_does_not_cost_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where key frames alone are decoded the next one may be a minute away."""
    monkeypatch.setattr("valkka_async.camera.feed._UNDECODABLE", 0.05)
    decode, failures = Decoder.decode, iter([True, True])

    def damaged(self: Decoder[Any], packet: Any, stamp: Any) -> Any:
        return [] if next(failures, False) else decode(self, packet, stamp)

    monkeypatch.setattr(Decoder, "decode", damaged)
    with va.Camera("cam", ENDLESS, va.Output("cam", fps=4)) as camera, va.attach("cam") as reader:
        reader.recv(10).release()
        assert camera.status().attempts == 1
        assert next(failures, None) is None


def test_a_decoder_whose_threads_log_can_be_dropped_at_work(tmp_path: Path) -> None:
    """PyAV hands their lines on with the GIL, with which it waits for them."""
    clip = encode(tmp_path / "clip.h264", (1280, 720), 40)
    with Child(
        """
        import av, av.logging
        from valkka_async.camera.decode import Decoder
        av.logging.set_level(av.logging.INFO)
        with av.open(sys.argv[1]) as container:
            packets = list(container.demux(video=0))[:-1]  # but for the end
        for _ in range(5):
            decoder = Decoder(av.CodecContext.create("h264", "r"), 4)
            for packet in packets:
                decoder.decode(packet, None)
            del decoder
        say("dropped")
        """,
        clip,
    ) as child:
        assert child.line() == "dropped"
