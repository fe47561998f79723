"""Several streams of one camera: one status, and each stream by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from camera_tools import Clips

import valkka_async as va
from support import footage
from support.rtsp import RtspServer
from support.rtsp_camera import RtspCamera, access_units
from support.until import until, wait_for
from valkka_async import typed
from valkka_async.camera import keeper
from valkka_async.camera.status import CameraState, Cause, StreamStatus, before_start, of_streams

LARGE, SMALL = (640, 384), (320, 192)
IDLE, LIVE = CameraState.IDLE, CameraState.LIVE
URLS = {"main": "rtsp://10.0.0.7/1", "sub": "rtsp://10.0.0.7/2"}
OUTPUTS = (va.Output("cam"), va.Output("cam.fmp4", "fmp4"))


@pytest.fixture
def two(rtsp: RtspServer, clips: Clips) -> Iterator[dict[str, str]]:
    """The addresses of a large and a small stream."""
    rtsp.mount("/main", clips(size=LARGE))
    rtsp.mount("/sub", clips(size=SMALL))
    yield {"main": rtsp.url("/main"), "sub": rtsp.url("/sub")}


def stream(camera: va.Camera, name: str) -> StreamStatus:
    found = camera.status().stream(name)
    assert found is not None
    return found


def states(camera: va.Camera) -> dict[str, CameraState]:
    return {one.name: CameraState(one.state) for one in camera.status().streams}


def live(camera: va.Camera) -> None:
    wait_for(lambda: set(states(camera).values()) == {LIVE} and camera.status().state == "live")


# ------------------------------------------------------------------------------------- settings


def test_pixels_are_of_the_small_stream_and_the_rest_is_of_the_main_one() -> None:
    formats: tuple[va.OutputFormat, ...] = ("rgb24", "jpeg", "nv12", "fmp4", "packets")
    outputs = [va.Output(format, format) for format in formats]
    for streams in (URLS, dict(reversed(URLS.items()))):
        spec = va.CameraSpec("cam", outputs=outputs, streams=streams)
        assert [o.stream for o in spec.outputs] == ["sub", "sub", "sub", "main", "main"]
        assert list(spec.urls) == ["main", "sub"]
    chosen = [va.Output("a", stream="main"), va.Output("b", "fmp4", stream="sub")]
    assert [o.stream for o in va.CameraSpec("cam", outputs=chosen, streams=URLS).outputs] == ["main", "sub"]


@pytest.mark.parametrize(
    ("names", "stream_of_pixels", "stream_of_fragments"),
    [(["hd", "sd"], "hd", "hd"), (["sub", "hd"], "sub", "hd"), (["sub"], "sub", "sub"), (["x"], "x", "x")],
)
def test_without_a_main_stream_it_is_the_first_that_is_not_sub(
    names: list[str], stream_of_pixels: str, stream_of_fragments: str
) -> None:
    rest = [va.Output(f"all.{name}", stream=name) for name in names]
    spec = va.CameraSpec("cam", outputs=[*OUTPUTS, *rest], streams=dict.fromkeys(names, "rtsp://10.0.0.7/"))
    assert [o.stream for o in spec.outputs[:2]] == [stream_of_pixels, stream_of_fragments]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"streams": URLS, "url": "rtsp://10.0.0.7/1"}, "not both"),
        ({"streams": {}}, "empty"),
        ({"streams": URLS | {"third": "rtsp://10.0.0.7/3"}}, "'third'"),
        ({"streams": URLS, "outputs": va.Output("cam", stream="sbu")}, "main and sub"),
        ({"url": "rtsp://10.0.0.7/1", "outputs": va.Output("cam", stream="sub")}, "no streams"),
        ({"streams": {"rtsp://me:hunter2@10.0.0.7/1": "main"}}, "the name of a stream"),
        ({"streams": {"main": "rtsp:/me:hunter2@10.0.0.7/1"}}, ""),
        ({"streams": URLS, "connect": "never"}, "connect"),
        ({"streams": {f"s{n}": "rtsp://10.0.0.7/" for n in range(17)}}, "16"),
        ({}, ""),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        va.CameraSpec("cam", **{"outputs": OUTPUTS} | settings)
    assert words in str(caught.value) and "hunter2" not in str(caught.value)
    with pytest.raises(TypeError):
        va.CameraSpec("cam", streams=["rtsp://10.0.0.7/1"])  # type: ignore[arg-type]


def test_a_stream_is_called_by_a_name_and_not_by_its_address() -> None:
    with pytest.raises(ValueError) as caught:
        va.Output("cam", stream="rtsp://me:hunter2@10.0.0.7/1")
    assert "hunter2" not in str(caught.value)


# --------------------------------------------------------------------------------------- status


@pytest.mark.parametrize(
    ("main", "sub", "state"),
    [
        (("live", None), ("live", None), "live"),
        (("live", None), ("failed", Cause.AUTH), "failed"),
        (("waiting", Cause.BUSY), ("live", None), "waiting"),
        (("live", None), ("stalled", Cause.TIMEOUT), "stalled"),
        (("connecting", None), ("live", None), "connecting"),
        (("connecting", Cause.TIMEOUT), ("live", None), "connecting"),
        (("idle", None), ("live", None), "live"),
        (("idle", None), ("connecting", None), "connecting"),
        (("idle", None), ("idle", None), "idle"),
        (("waiting", Cause.BUSY), ("failed", Cause.AUTH), "failed"),
    ],
)
def test_a_camera_is_as_that_stream_is_that_needs_attention_most(
    main: tuple[str, Cause | None], sub: tuple[str, Cause | None], state: str
) -> None:
    spec = va.CameraSpec("cam", outputs=OUTPUTS, streams=URLS)
    several = [
        replace(one, state=CameraState(how), cause=cause, reason="why" if cause else "", since_ns=number)
        for number, (one, (how, cause)) in enumerate(
            zip(before_start(spec).streams, (main, sub), strict=True), 1
        )
    ]
    status = of_streams("cam", 1, several, (), ())
    (one,) = [s for s in several if s.since_ns == status.since_ns]
    assert (status.state, status.cause) == (state, one.cause) == (one.state, one.cause)
    assert status.reason == (f"{one.name}: why" if one.cause else "")


def test_a_status_has_all_streams_and_another_version_is_refused() -> None:
    status = before_start(va.CameraSpec("cam", outputs=OUTPUTS, streams=URLS))
    data = typed.encode(status)
    assert typed.decode(va.CameraStatus, data) == status
    with pytest.raises(va.DataError):
        typed.decode(va.CameraStatus, data | {"schema": 3})
    assert [output.stream for output in status.outputs] == ["sub", "main"]
    ring = status.stream_of("cam.fmp4")
    assert ring is not None and ring.name == "main" and status.stream_of("none") is None


# -------------------------------------------------------------------------------------- streams


def test_one_camera_has_frames_of_both(two: dict[str, str]) -> None:
    with (
        va.Camera("cam", streams=two, outputs=[*OUTPUTS, va.Output("large", stream="main")]) as camera,
        va.attach("cam") as small,
        va.attach("large") as large,
        va.attach("cam.fmp4") as fragments,
    ):
        with small.recv(10) as frame:
            assert frame.shape == (SMALL[1], SMALL[0], 3)
        with large.recv(10) as frame:
            assert frame.shape == (LARGE[1], LARGE[0], 3)
        with fragments.recv(10):
            assert va.codec_string(fragments.header).startswith("avc1")
        live(camera)
        status = camera.status()
        assert [(s.name, s.codec, s.width, s.height) for s in status.streams] == [
            ("main", "h264", *LARGE),
            ("sub", "h264", *SMALL),
        ]
        assert (status.url, status.width, status.attempts) == (two["main"], LARGE[0], 2)
        assert status.packets >= stream(camera, "sub").packets > 0


@pytest.mark.parametrize("lost", ["main", "sub"])
def test_a_stream_that_dies_and_comes_back_costs_the_other_one_nothing(
    rtsp: RtspServer, clips: Clips, two: dict[str, str], lost: str
) -> None:
    other = "sub" if lost == "main" else "main"
    outputs = [va.Output(name, stream=name, slots=64) for name in two]  # nothing is lost while we do not read
    with (
        va.Camera("cam", streams=two, outputs=outputs, retry_max=0.5, retry_refused=0.5) as camera,
        va.attach(other, policy="ordered") as reader,
    ):
        live(camera)
        rtsp.unmount(f"/{lost}")
        numbers = []

        def read() -> None:
            with reader.recv(10) as frame:
                assert frame.dropped == 0 or not numbers
                numbers.append(footage.read_index(frame.array))

        read()
        while camera.status().state not in ("waiting", "failed"):
            read()
        status = camera.status()
        assert status.cause is not None and status.reason.startswith(f"{lost}: ")
        assert (stream(camera, other).state, stream(camera, other).cause) == ("live", None)
        rtsp.mount(f"/{lost}", clips(size=LARGE if lost == "main" else SMALL))
        while camera.status().state != "live":
            read()
        assert stream(camera, lost).reconnects == 1
        assert (stream(camera, other).attempts, stream(camera, other).reconnects) == (1, 0)
    steps = {(b - a) % 30 for a, b in zip(numbers, numbers[1:], strict=False)}
    assert steps == {1} and len(numbers) > 3


def test_a_wrong_password_of_one_is_of_that_one_alone(
    rtsp: RtspServer, clips: Clips, two: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rtsp.mount("/locked", clips(size=LARGE), auth=("me", "right", "digest"))
    streams = {"main": rtsp.url("/locked", "me", "hunter2"), "sub": two["sub"]}
    with va.Camera("cam", streams=streams, outputs=OUTPUTS) as camera, va.attach("cam") as reader:
        with reader.recv(10) as frame:
            assert frame.shape == (SMALL[1], SMALL[0], 3)
        wait_for(lambda: camera.status().state == "failed" and LIVE in states(camera).values())
        status = camera.status()
        assert status.cause is Cause.AUTH and status.retry_in is not None
        assert [(s.state, s.cause) for s in status.streams] == [("failed", Cause.AUTH), ("live", None)]
        said = repr(camera) + repr(status) + repr(camera.spec) + caplog.text
        assert "hunter2" not in said and "cam (main)" in caplog.text


@pytest.mark.parametrize("how", ["silent", "gone", "no camera"])
def test_whatever_is_the_matter_with_the_small_stream_the_main_one_is_recorded(
    two: dict[str, str], clips: Clips, how: str
) -> None:
    with contextlib.ExitStack() as stack:
        url = "rtsp://127.0.0.1:1/sub"
        if how != "gone":
            units = access_units(clips())
            refuse = {"DESCRIBE": ("200 OK", ["Content-Type: text/html"])} if how == "no camera" else {}
            url = stack.enter_context(RtspCamera(units, silent=True, refuse=refuse)).url()
        streams = {"main": two["main"], "sub": url}
        camera = stack.enter_context(
            va.Camera("cam", streams=streams, outputs=OUTPUTS, open_timeout=1, read_timeout=1, retry_max=0.2)
        )
        recorder = stack.enter_context(va.attach("cam.fmp4", policy="ordered"))
        while stream(camera, "sub").attempts < 2 or camera.status().packets < 20:
            with recorder.recv(10) as frame:
                assert frame.dropped == 0
            assert camera.status().state != "live"
        assert stream(camera, "sub").cause is not None
        assert (stream(camera, "main").state, stream(camera, "main").attempts) == ("live", 1)


# ------------------------------------------------------------------------------------ on demand


def test_on_demand_each_stream_is_connected_while_it_has_readers(
    rtsp: RtspServer, two: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_LINGER", 0.3)
    with va.Camera("cam", streams=two, outputs=OUTPUTS, connect="on_demand") as camera:
        wait_for(lambda: camera.status().state == IDLE)
        assert camera.status().attempts == 0
        with va.attach("cam") as pixels:
            pixels.recv(10).release()
            wait_for(lambda: states(camera) == {"main": IDLE, "sub": LIVE})
            assert camera.status().state == "live"
            assert rtsp.stats()["/main"].clients == 0
            with va.attach("cam.fmp4") as fragments:
                fragments.recv(10).release()
                wait_for(lambda: states(camera) == {"main": LIVE, "sub": LIVE})
            wait_for(lambda: states(camera) == {"main": IDLE, "sub": LIVE})
            assert camera.status().streams[0].fps == 0 < camera.status().streams[1].fps
            rtsp.wait_clients("/main", 0)
            pixels.recv(10).release()
        wait_for(lambda: camera.status().state == IDLE)
        rtsp.wait_clients("/sub", 0)
        assert camera.status().cause is None and not camera.stuck()


def test_on_demand_a_camera_that_cannot_be_reached_is_let_alone_without_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper, "_LINGER", 0.0)
    with va.Camera("cam", "rtsp://127.0.0.1:1/x", connect="on_demand", retry_max=0.2) as camera:
        wait_for(lambda: camera.status().state == IDLE)
        with va.attach("cam"):
            wait_for(lambda: camera.status().attempts >= 2)
            assert camera.status().cause is Cause.UNREACHABLE
        wait_for(lambda: camera.status().state == IDLE)
        attempts = camera.status().attempts
        with pytest.raises(TimeoutError):
            wait_for(lambda: camera.status().attempts > attempts, 1.0)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("count", [30, pytest.param(100, marks=pytest.mark.long)])
def test_many_switches_of_readers_leave_nothing_behind(
    count: int, rtsp: RtspServer, two: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_LINGER", 0.0)

    def holdings() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    outputs = [va.Output(name, stream=name, size=(64, 48)) for name in two]
    with va.Camera("cam", streams=two, outputs=outputs, connect="on_demand") as camera:
        before = (0, 0)
        for number in range(count):
            with va.attach(("main", "sub")[number % 2]) as reader:
                reader.recv(20).release()
            if number == 9:
                wait_for(lambda: camera.status().state == IDLE)
                before = holdings()
        wait_for(lambda: camera.status().state == IDLE)
        wait_for(lambda: holdings() <= before)
        # A busy machine may find a reader again before it has seen that there was none.
        assert {one.reconnects for one in camera.status().streams} <= set(range(1, count // 2 + 1))
    for path in ("/main", "/sub"):
        rtsp.wait_clients(path, 0)


# -------------------------------------------------------------------------------------- changes


async def test_a_change_of_one_stream_leaves_the_other_one_alone(
    rtsp: RtspServer, clips: Clips, two: dict[str, str]
) -> None:
    rtsp.mount("/other", clips(size=(256, 144)))
    async with va.Camera("cam", streams=two, outputs=OUTPUTS) as camera:
        async with va.connect("cam.fmp4", policy="ordered") as recorder, va.connect("cam") as viewer:
            (await recorder.recv()).release()
            (await viewer.recv()).release()
            spec = replace(camera.spec, streams=two | {"sub": rtsp.url("/other")})
            await camera.achange(spec)
            with pytest.raises(va.ConnectionClosedOK):
                while True:
                    (await viewer.recv()).release()
            for _ in range(10):
                with await recorder.recv() as frame:
                    assert frame.dropped == 0
            await until(lambda: camera.status().state == "live")
            assert camera.spec == spec and stream(camera, "main").attempts == 1
            # One less: what stays is open all the time.
            await camera.achange(replace(spec, streams={"main": two["main"]}, outputs=OUTPUTS[1:]))
            with await recorder.recv() as frame:
                assert frame.dropped == 0
            assert [s.name for s in camera.status().streams] == ["main"]
            assert [o.name for o in camera.status().outputs] == ["cam.fmp4"]
    assert camera.closed and camera.status().state == "stopped"


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("names", [("main",), ("main", "sub")])
async def test_closing_that_is_cancelled_leaves_no_ring(names: tuple[str, ...], steps: int) -> None:
    outputs = [va.Output(f"cam.{name}", stream=name) for name in names]
    pictures = dict.fromkeys(names, "lavfi:testsrc=size=64x48:rate=5")
    camera = va.Camera("cam", streams=pictures, outputs=outputs)
    closing = asyncio.create_task(camera.aclose())
    for _ in range(steps):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    for output in outputs:
        va.serve(output.name).close()


@pytest.mark.parametrize("other", ["url", "outputs", "streams"])
async def test_a_change_of_all_there_is(other: str) -> None:
    pictures = "lavfi:testsrc=size=64x48:rate="
    specs = {
        "url": va.CameraSpec("cam", pictures + "10"),
        "outputs": va.CameraSpec("cam", pictures + "5", (va.Output("cam", "gray8"),)),
        "streams": va.CameraSpec("cam", streams={"main": pictures + "5"}),
    }
    async with va.Camera("cam", pictures + "5") as camera:
        change = asyncio.create_task(camera.achange(specs[other]))
        await asyncio.sleep(0)
        assert not camera.closed
        await change
        assert camera.spec == specs[other] and not camera.closed
        async with va.connect("cam") as client:
            (await client.recv()).release()


async def test_a_change_that_cannot_be_made_closes_the_camera(two: dict[str, str]) -> None:
    camera = va.Camera("cam", streams=two, outputs=OUTPUTS)
    await until(lambda: camera.status().state == "live")
    with va.serve("taken"):
        with pytest.raises(va.NameInUseError):
            await camera.achange(replace(camera.spec, outputs=(*OUTPUTS, va.Output("taken"))))
        assert camera.closed
        with pytest.raises(va.CameraError):
            await camera.achange(camera.spec)
        await camera.aclose()


async def test_one_change_at_a_time(rtsp: RtspServer, two: dict[str, str]) -> None:
    async with va.Camera("cam", streams=two, outputs=OUTPUTS) as camera:
        # GStreamer's server blocks if a mount goes that somebody has just asked for.
        await until(lambda: camera.status().state == "live")
        other = replace(camera.spec, outputs=(va.Output("cam", fps=1), OUTPUTS[1]))
        first = asyncio.create_task(camera.achange(other))
        await asyncio.sleep(0)
        with pytest.raises(va.ConcurrencyError):
            await camera.achange(camera.spec)
        with pytest.raises(ValueError):
            await camera.achange(va.CameraSpec("another", two["main"]))
        await first
        assert camera.spec == other and not camera.closed
        await until(lambda: camera.status().state == "live")


@pytest.mark.one_loop
async def test_a_worker_restarts_the_stream_that_has_changed(two: dict[str, str], tmp_path: Path) -> None:
    async with va.Supervisor() as supervisor:
        await supervisor.add("cam", streams=two, outputs=OUTPUTS)

        def camera() -> va.CameraStatus:
            return supervisor.status()["cam"].camera

        await until(lambda: camera().state == "live" and camera().packets > 10)
        pid = camera().pid
        spec = supervisor.specs()["cam"]
        await supervisor.change(replace(spec, outputs=(va.Output("cam", fps=1), OUTPUTS[1])))
        await until(lambda: camera().state == "live" and camera().outputs[0].name == "cam")
        main, sub = camera().streams
        assert main.packets > 5 and main.attempts == 1 and camera().pid == pid
        # All of it changes, from streams to one.
        assert sub.attempts == 1
        await supervisor.change("cam", two["main"])
        await until(lambda: camera().state == "live" and [s.name for s in camera().streams] == [""])


@pytest.mark.one_loop
async def test_a_stream_that_takes_long_to_end_does_not_end_its_worker() -> None:
    """It is busy, which is not stuck: it has its time to end, and no more when the camera is closed then."""
    slow = "lavfi:testsrc=size=3840x2160,nlmeans=r=61"  # minutes for a frame
    streams = {"main": slow, "sub": "lavfi:testsrc=size=64x48:rate=5"}
    outputs = [va.Output(name, stream=name) for name in streams]
    async with va.Supervisor(stop_timeout=4) as supervisor:
        await supervisor.add("cam", streams=streams, outputs=outputs)
        await until(lambda: any(s.state == "live" for s in supervisor.status()["cam"].camera.streams))
        pid = supervisor.status()["cam"].camera.pid
        await supervisor.change("cam", streams=streams | {"main": streams["sub"]}, outputs=outputs)
        assert supervisor.status()["cam"].camera.pid == pid
        assert supervisor.workers()[0].restarts == 0
