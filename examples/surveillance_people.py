# SPDX-License-Identifier: MIT
"""One detector for many cameras: it finds people in batches of the newest frames, and draws one image of all.

It reads every ring called *.motion, as they come and go. OpenCV's HOG looks for people when `frame.meta` says
that something moves. HOG is slow, but no queue grows: a batch has the newest frame of each camera.
What libValkka's version could not do: no metadata came with a frame, so each client needed a second channel.

    .venv/bin/python examples/surveillance_people.py [people.jpg]

See also surveillance.py, which runs all of it, and surveillance_motion.py, which serves such rings."""

import asyncio
import contextlib
import os
import sys

import numpy as np

import valkka_async as va

try:
    import cv2

    HOG = cv2.HOGDescriptor()
except (ImportError, AttributeError) as error:  # OpenCV 5 keeps it in opencv-contrib-python
    sys.exit(f'needs OpenCV 4: .venv/bin/pip install "opencv-python<5" ({error})')
HOG.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())


def find(frame: va.Frame) -> tuple[str, tuple[np.ndarray, str]]:
    """The frame's source; its image with all boxes, 576 pixels high; and a line of text."""
    with frame:
        scale = 576 / frame.shape[0]
        picture = cv2.resize(frame.array, None, fx=scale, fy=scale)
        moving = [[round(n * scale) for n in box] for box in frame.meta["boxes"]]
        people = HOG.detectMultiScale(picture, winStride=(8, 8), scale=1.1)[0] if moving else ()
        said = f"{frame.source.removesuffix('.motion')}: {len(people)} people, {frame.age * 1000:.0f} ms"
    for boxes, colour, width in ((moving, (220, 220, 220), 1), (people, (0, 140, 255), 3)):
        for box in boxes:
            cv2.rectangle(picture, box, colour, width)
    picture[:48] = picture[:48] // 3  # dark enough to read the text on it
    cv2.putText(picture, said, (12, 36), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 140, 255), 2)
    return frame.source, (picture, said)


async def watch(path: str) -> None:
    found: dict[str, tuple[np.ndarray, str]] = {}
    print("people: waiting for *.motion", flush=True)
    async with va.merge("*.motion") as cameras:
        async for batch in cameras.batches(window=0.1):
            found.update(await asyncio.gather(*(asyncio.to_thread(find, frame) for frame in batch)))
            found = {name: found[name] for name in sorted(found) if name in cameras.sources}
            print("; ".join(said for _, said in found.values()), flush=True)
            cv2.imwrite(f"{path}.new.jpg", np.hstack([picture for picture, _ in found.values()]))
            os.replace(f"{path}.new.jpg", path)  # a viewer never sees half an image


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watch(sys.argv[1] if sys.argv[1:] else "people.jpg"))
