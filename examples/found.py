# SPDX-License-Identifier: MIT
"""Frames with what was found in them: `va.join` of a camera's ring and of its results.

Whoever analyses the frames is another process, which reads them as this one does, and publishes boxes with
the number and time of each frame (`Server.publish_result`). A frame waits for its boxes for 0.3 s at most.
What libValkka's version could not do: tell which frame a result belongs to, once it had left the analyser.

    .venv/bin/pip install opencv-python
    .venv/bin/python examples/one_model.py &
    .venv/bin/python examples/found.py one1 [found.jpg]
"""

import asyncio
import contextlib
import os
import sys
import time

import cv2

import valkka_async as va

TO_BGR = {"nv12": cv2.COLOR_YUV2BGR_NV12, "yuv420p": cv2.COLOR_YUV2BGR_I420, "rgb24": cv2.COLOR_RGB2BGR}
TO_BGR |= {"bgra": cv2.COLOR_BGRA2BGR, "rgba": cv2.COLOR_RGBA2BGR}


def draw(frame: va.Frame, result: va.Result, path: str) -> None:
    code = TO_BGR.get(frame.format)  # none for bgr24; a copy, as what is in the ring cannot be written
    image = frame.array.copy() if code is None else cv2.cvtColor(frame.array, code)
    for box in result.boxes:
        corners = [(round(box.x1), round(box.y1)), (round(box.x2), round(box.y2))]
        cv2.rectangle(image, *corners, (0, 140, 255), 2)
        cv2.putText(image, box.label, corners[0], cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 140, 255))
    cv2.imwrite(f"{path}.new.jpg", image)
    os.replace(f"{path}.new.jpg", path)  # a viewer never sees half an image


async def main(camera: str, path: str) -> None:
    said = 0.0
    async with va.join(camera, f"{camera}.boxes", wait=0.3) as found:
        async for frame, result in found:
            with frame:
                if result is not None:
                    await asyncio.to_thread(draw, frame, result, path)
            if time.monotonic() - said > 1:
                said, counts = time.monotonic(), found.stats()
                told = f"frame {frame.seq}, {frame.age * 1000:.0f} ms old"
                print(
                    f"{told}: {counts.matched} frames with a result, {counts.unmatched} without", flush=True
                )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], *(sys.argv[2:] or ["found.jpg"])))
