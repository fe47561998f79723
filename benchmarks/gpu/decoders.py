# SPDX-License-Identifier: MIT
"""Frames per second from H.264 to (N, 3, 640, 640) on the GPU: decoded in other processes and batched here,
beside PyNvVideoCodec and torchcodec, where they are installed."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
from common import arguments

import valkka_async as va


def clip(path: Path, width: int, height: int, frames: int) -> None:
    """A moving pattern, H.264."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"preset": "ultrafast", "g": "30"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        noise = np.random.default_rng(1).integers(0, 256, (height * 3 // 2, width), np.uint8)
        noise[::2] = noise[1::2]
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, number * 8, 1), format="yuv420p")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def decode(name: str, path: str, hwaccel: bool, stop: Event) -> None:
    """A process that decodes a clip again and again, into a ring."""
    import av
    from av.codec.hwaccel import HWAccel

    with va.serve(name, slots=8) as server:
        while not stop.is_set():
            with av.open(path, hwaccel=HWAccel("cuda") if hwaccel else None) as source:
                for frame in source.decode(video=0):
                    server.publish(frame.to_ndarray(format="nv12"), format="nv12")
                    if stop.is_set():
                        return


async def ours(path: Path, model: tuple[int, int], seconds: float, processes: int, hwaccel: bool) -> float:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    names = [f"{'gpu' if hwaccel else 'cpu'}{i}" for i in range(processes)]
    children = [context.Process(target=decode, args=(name, str(path), hwaccel, stop)) for name in names]
    for child in children:
        child.start()
    try:
        async with va.merge(*names) as cameras:
            batches = cameras.batches(size=model, layout="NCHW", dtype="float16", device="cuda")
            async with asyncio.timeout(40):
                while len(await anext(batches)) < processes:
                    pass
                frames, begun = 0, time.perf_counter()
                while time.perf_counter() < begun + seconds:
                    frames += len(await anext(batches))
            return frames / (time.perf_counter() - begun)
    finally:
        stop.set()
        for child in children:
            child.join(10)
            if child.is_alive():
                child.kill()


def torchcodec(path: Path, model: tuple[int, int], frames: int) -> float:
    import torch
    from torchcodec.decoders import VideoDecoder

    begun = time.perf_counter()
    decoder = VideoDecoder(str(path), device="cuda")
    for at in range(0, frames, 16):
        data = decoder.get_frames_in_range(at, min(at + 16, frames)).data.half() / 255
        torch.nn.functional.interpolate(data, model[::-1], mode="area")
    torch.cuda.synchronize()
    return frames / (time.perf_counter() - begun)


def pynvvideocodec(path: Path, model: tuple[int, int], frames: int) -> float:
    import PyNvVideoCodec as nvc
    import torch

    begun = time.perf_counter()
    decoder = nvc.SimpleDecoder(str(path), use_device_memory=True, output_color_type=nvc.OutputColorType.RGBP)
    for at in range(0, frames, 16):
        batch = decoder.get_batch_frames(min(16, frames - at))
        data = torch.stack([torch.from_dlpack(frame) for frame in batch]).half() / 255
        torch.nn.functional.interpolate(data, model[::-1], mode="area")
    torch.cuda.synchronize()
    return frames / (time.perf_counter() - begun)


def line(name: str, measure: Callable[[], float], optional: bool = True) -> None:
    try:
        print(f"{name:48} {measure():8.1f} frames/s")
    except Exception as e:
        if not optional:
            raise
        print(f"{name:48} {type(e).__name__}: {e}")  # not installed, or another version of it


def main() -> None:
    fake = arguments().fake
    size, model, frames, seconds = (1920, 1080), (640, 640), 300, 15.0
    if fake:
        size, model, frames, seconds = (128, 64), (32, 32), 10, 0.3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        clip(path, *size, frames)
        for processes in (1,) if fake else (1, 8):
            line(
                f"valkka-async, {processes} processes, decoding on the CPU",
                lambda n=processes: asyncio.run(ours(path, model, seconds, n, False)),  # type: ignore[misc]
                optional=False,
            )
        if not fake:
            line(
                'valkka-async, 8 processes, hwaccel="cuda"',
                lambda: asyncio.run(ours(path, model, seconds, 8, True)),
            )
        line("torchcodec, one process", lambda: torchcodec(path, model, frames))
        line("PyNvVideoCodec, one process", lambda: pynvvideocodec(path, model, frames))


if __name__ == "__main__":
    main()
