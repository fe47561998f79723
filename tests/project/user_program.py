"""A user's program that uses every public name. It is not run: test_quality.py gives it to mypy --strict."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import valkka_async as va

URL = "rtsp://camera.local/stream"


def serve_frames(image: NDArray[np.uint8]) -> va.ServerStats:
    with va.serve("cam1", slots=8) as server:
        published: bool = server.publish(image, format="bgr24", meta={"boxes": []})
        try:
            slot: va.Slot = server.loan((480, 640, 3), "bgr24")
            with slot:
                slot.array[...] = image
            with server.loan((4, 4), "array", dtype="float32") as tensor:
                tensor.array[:] = 0
        except va.NoFreeSlotError:
            published = False
        except (va.FrameError, va.RingMemoryError, va.NameInUseError, va.InvalidNameError) as e:
            print(e, published)
        readers: list[va.PeerStats] = server.reader_stats()
        print(readers[0].dropped)
        return server.stats()


def read_frames(server: va.Server) -> int:
    policy: va.Policy = "ordered"
    reader: va.Reader = va.attach("cam1", policy=policy, open_timeout=5.0)
    with reader:
        frame: va.Frame = reader.recv(timeout=1.0)
        with frame:
            format: va.FrameFormat = frame.format
            print(format, frame.array.mean(), frame.age, frame.dtype.itemsize, frame.dts, frame.duration)
            server.publish(frame, format=frame.format, time_base=frame.time_base, pts=1)
            if frame.format == "gray16":
                print(server.name)
        stats: va.ReaderStats = reader.stats()
        return stats.dropped


async def happens(server: va.Server) -> None:
    told: bool = server.emit("line.crossed", "somebody came in", track=17)
    print(told)
    happening: va.Events
    async with va.events("front*", "*/*", codes=("camera.*",)) as happening:
        async for event in happening:
            one: va.Event = event
            if one.code == va.EventCode.CAMERA_FAILED:
                print(one.camera, one.time_ns, one.fields.get("cause"), one.missed)
        stats: va.EventsStats = happening.stats()
        print(stats.missed)
    with va.attach("cam1.events", policy="ordered") as reader:
        print(va.Event.of(reader.recv()).to_json())


async def read_many() -> None:
    client: va.Client
    merged: va.Merge
    try:
        async with va.connect("cam1", policy="latest", reconnect=True) as client:
            async for frame in client:
                print(frame.seq)
        async with va.merge("cam*", policy="latest") as merged:
            batches: va.Batches = merged.batches(max_frames=16, max_age=0.5, align="sender", size=(640, 640))
            async for batch in batches:
                together: va.Batch = batch
                print([frame.source for frame in together], together.names, together.spread)
                place: va.Placement = together.placements[0]
                print(together.array.shape, place.to_frame([[0, 0, 10, 10]]), together.to_frame(0, [1, 2]))
            try:
                print(anext(merged.batches(size=(640, 640), device="cuda:1")), together.device)
            except va.GpuError as e:
                print(e)
            counts: va.BatchStats = batches.stats()
            print(counts.too_old)
            totals: va.MergeStats = merged.stats()
            print(totals.received)
        found: va.Join = va.join("cam1", "cam1.boxes", wait=0.2, policy="ordered")
        async with found, va.serve("cam1.boxes") as server:
            async for picture, result in found:
                told: va.Result | None = result
                boxes: list[va.Box] = [va.Box(0, 0, 10, 10.5, "car", 0.9)]
                boxes += () if told is None else told.boxes
                print(picture.seq, server.publish_result(picture, boxes, text="a car", data={"lane": 1}))
            paired: va.JoinStats = found.stats()
            print(paired.matched, paired.frames.received)
    except (va.ConnectError, va.ProtocolError, va.LeaseLimitError, va.ConcurrencyError) as e:
        print(e)
    except (va.ConnectionClosedOK, va.ConnectionClosedError) as closed:
        ended: va.ConnectionClosed = closed
        print(ended)
    except va.NotOpenError:
        print("it was never opened")
    except (va.FrameReleasedError, va.InheritedError) as released:
        print(released)


def use_camera() -> va.CameraStatus:
    transport: va.Transport = "udp"
    pixels: va.PixelFormat = "gray8"
    encoded: va.OutputFormat = "fmp4"
    outputs = [va.Output("cam1", pixels, size=(640, None), fps=5), va.Output("cam1.fmp4", encoded)]
    with va.Camera("cam1", URL, outputs, transport=transport, retry_max=10.0, audio=True) as camera:
        status = camera.status()
        if status.state is va.CameraState.LIVE or status.state == va.CameraState.STALLED:
            output: va.OutputStatus = status.outputs[0]
            print(output.readers)
        if status.cause is va.Cause.AUTH:
            print("wrong password")
        if va.CameraWarning.SLOW_PIXELS in status.warnings:
            print("slow")
        sound: va.SoundStatus = status.sound
        if sound.state is va.SoundState.LIVE or sound.state == va.SoundState.SILENT:
            print(sound.codec)
        return status


async def use_both_streams() -> None:
    connect: va.ConnectMode = "on_demand"
    outputs = [va.Output("cam1"), va.Output("cam1.main", stream="main")]
    async with va.Camera(
        "cam1", streams={"main": URL, "sub": URL}, outputs=outputs, connect=connect
    ) as camera:
        stream: va.StreamStatus = camera.status().streams[0]
        print(stream.state is va.CameraState.IDLE)


async def supervise() -> None:
    settings: va.CameraSettings = {"transport": "tcp", "read_timeout": 5.0}
    async with va.Supervisor(group_size=4) as supervisor:
        await supervisor.add("cam1", URL, va.Output("cam1"), **settings)
        await supervisor.add("cam2", URL, [va.Output("cam2")], transport="udp")
        await supervisor.add(va.CameraSpec("cam3", URL, (va.Output("cam3"),)))
        for status in supervisor.status().values():
            supervised: va.SupervisedStatus = status
            worker: va.WorkerStatus = supervised.worker
            if supervised.state == va.CameraState.WAITING and worker.state is va.WorkerState.WAITING:
                print(worker.last_end is va.WorkerEnd.KILLED)


async def play_file(server: va.Server) -> va.PlayerStats:
    player: va.Player = va.play(Path("clip.mp4"), server, format="rgb24", loop=True)
    try:
        async with player:
            await player
    except (va.CameraBusyError, va.CameraRefusedError) as e:
        print("try again later, or another transport", e)
    except (va.CameraOpenError, va.CameraAuthError, va.CameraNotFoundError) as e:
        refused: va.CameraError = e
        print(refused)
    except (va.CameraTimeoutError, va.CameraFormatError, va.CameraEndedError):
        pass
    return player.stats()


async def record(init_segment: bytes) -> va.RecorderStats:
    print(va.codec_string(init_segment))
    async with va.Recorder("cam1.fmp4", "{name}-{n}.mp4", seconds=60) as recorder:
        try:
            async for path in recorder:
                print(path.stat().st_size)
        except va.RecorderError as e:
            print(e.errno)
        except (va.DataError, va.ValkkaError) as other:
            print(other)
        return recorder.stats()


asyncio.run(read_many())
