# SPDX-License-Identifier: MIT
"""One camera, opened and decoded once: shown, analysed and recorded at the same time.

One connection feeds three rings. The program prints brightness and motion, records files into rec/, and shows
a window until you press q in it. Without a display or OpenCV, it writes shown.jpg each second.

What libValkka's version could not do: its lesson says that all this is possible, but has no program for it.

    .venv/bin/python examples/all_at_once.py [URL or file, of H.264 or H.265]

See also synthetic.py (its default source), and its parts: window.py, blur.py, client.py and fmp4_web.py.
"""

import asyncio
import contextlib

from synthetic import source
from window import WINDOW, show

import valkka_async as va


async def look() -> None:
    async with va.connect("all.view") as view:
        async for frame in view:
            if WINDOW:
                show("all at once", frame.array)
            else:
                frame.array.tofile("shown.jpg")


async def analyse() -> None:
    async with va.connect("all.gray") as small:
        before = await small.recv()
        async for frame in small:
            motion = abs(frame.array.astype(int) - before.array).mean()
            print(f"brightness {frame.array.mean():.0f}, motion {motion:.1f}", flush=True)
            before = frame


async def main(url: str) -> None:
    view = va.Output("all.view", "bgr24") if WINDOW else va.Output("all.view", "jpeg", fps=1)
    outputs = [view, va.Output("all.gray", "gray8", size=(320, 180), fps=1), va.Output("all.mp4", "fmp4")]
    async with va.Camera("all", url, outputs), va.Recorder("all.mp4", "rec/%H%M%S.mp4", seconds=10) as files:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(look())
            tasks.create_task(analyse())
            async for path in files:
                print("recorded", path, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt), source() as url:
        asyncio.run(main(url))
