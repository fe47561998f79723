# SPDX-License-Identifier: MIT
"""One camera, opened and decoded once: shown, analysed and recorded, at the same time.

One connection feeds three rings, whose readers do not wait for each other. It prints brightness and motion,
records into rec/, and shows a window, or without a display or opencv-python writes shown.jpg each second.
What libValkka's version could not do: its lesson says that all this is possible, and has no program for it.

    .venv/bin/python examples/all_at_once.py [URL or file, of H.264 or H.265]

Goes with synthetic.py (the default), blur.py (OpenCV), client.py and fmp4_web.py (MP4 in a browser)."""

import asyncio
import contextlib
import os

import numpy as np
from synthetic import source

import valkka_async as va

WINDOW = False
with contextlib.suppress(ImportError):
    import cv2

    WINDOW = "DISPLAY" in os.environ and cv2.currentUIFramework() != ""


async def show() -> None:
    async with va.connect("all.view") as view:
        async for frame in view:
            if WINDOW:
                cv2.imshow("all at once", frame.array)
                cv2.waitKey(1)
            else:
                frame.array.tofile("shown.jpg")


async def analyse() -> None:
    async with va.connect("all.gray") as small:
        before = await small.recv()
        async for frame in small:
            motion = np.abs(np.subtract(frame.array, before.array, dtype=np.int16)).mean()
            print(f"brightness {frame.array.mean():.0f}, motion {motion:.1f}", flush=True)
            before = frame


async def main(url: str) -> None:
    view = va.Output("all.view", "bgr24") if WINDOW else va.Output("all.view", "jpeg", fps=1)
    outputs = [view, va.Output("all.gray", "gray8", size=(320, 180), fps=1), va.Output("all.mp4", "fmp4")]
    async with va.Camera("all", url, outputs), va.Recorder("all.mp4", "rec/%H%M%S.mp4", seconds=10) as films:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(show())
            tasks.create_task(analyse())
            async for path in films:
                print("recorded", path, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt), source() as url:
        asyncio.run(main(url))
