# SPDX-License-Identifier: MIT
"""The OpenCV process of one camera: detects motion, and serves frames with boxes in a ring of its own.

It reads the ring NAME and serves NAME.motion: the same frames with `frame.meta["boxes"]`, a list of [x, y,
width, height]. It may start before its camera, and outlives it: it waits a minute for the next one.

What libValkka's version could not do: boxes had no place beside a frame, each process had to be forked before
the first thread was started, and the slots and sizes of all servers agreed by hand.

    .venv/bin/python examples/surveillance_motion.py [NAME]

See also surveillance.py, which runs one of these for each camera, and camera.py, which serves "camera"."""

import signal
import sys

import numpy as np

import valkka_async as va

try:
    import cv2
except ImportError as error:
    sys.exit(f'needs OpenCV: .venv/bin/pip install "opencv-python<5" ({error})')
WIDTH = 320  # of the image in which motion is detected


def moving(background: cv2.BackgroundSubtractor, picture: np.ndarray) -> list[list[int]]:
    """The largest boxes around what differs from the background, at most sixteen."""
    scale = picture.shape[1] / WIDTH
    small = cv2.resize(picture, (WIDTH, round(picture.shape[0] / scale)), interpolation=cv2.INTER_AREA)
    mask = cv2.morphologyEx(background.apply(small), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = cv2.dilate(mask, np.ones((7, 7), np.uint8))
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = sorted(outlines, key=cv2.contourArea, reverse=True)[:16]
    return [[round(n * scale) for n in cv2.boundingRect(outline)] for outline in outlines]


def main(name: str) -> None:
    cv2.setNumThreads(1)  # the processes of all cameras keep the cores busy
    background = cv2.createBackgroundSubtractorMOG2(history=200, varThreshold=25, detectShadows=False)
    with va.serve(f"{name}.motion") as server:
        while True:
            try:
                print(f"motion: waiting for {name!r}", flush=True)
                with va.attach(name, open_timeout=60) as camera:
                    for frame in camera:
                        meta = frame.meta | {"boxes": moving(background, frame.array)}
                        when = frame.timestamp_ns
                        server.publish(frame.array, format=frame.format, timestamp_ns=when, meta=meta)
            except va.ConnectionClosedError:  # the camera's process died: another will come
                continue
            except TimeoutError as error:
                sys.exit(str(error))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    main(sys.argv[1] if sys.argv[1:] else "camera")
