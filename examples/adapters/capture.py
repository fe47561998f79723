# SPDX-License-Identifier: MIT
"""cv2.VideoCapture for a program that is not to be rewritten: one line of it changes.

    cap = cv2.VideoCapture("rtsp://...")   ->   cap = Capture("cam1")

`read()` gives the newest frame, which OpenCV's own does not, and False when none comes for some seconds.

    .venv/bin/pip install opencv-python
    .venv/bin/python examples/adapters/capture.py [the name of a ring]
"""

import contextlib
import sys
from typing import Any

import cv2
from bgr import to_bgr

import valkka_async as va


class Capture:
    def __init__(self, name: str, timeout: float = 5.0) -> None:
        self._timeout, self._size, self._time, self._fps = timeout, (0, 0), 0, 0.0
        self._reader: va.Reader | None = None
        with contextlib.suppress(TimeoutError, va.ConnectError):  # as OpenCV, which says so by isOpened()
            self._reader = va.attach(name, open_timeout=timeout, reconnect=True)

    def isOpened(self) -> bool:
        return self._reader is not None and not self._reader.closed

    def read(self, image: Any = None) -> tuple[bool, Any]:
        if self._reader is None:
            return False, None
        try:
            with self._reader.recv(self._timeout) as frame:
                image = to_bgr(frame)
                if image is None:  # no JPEG, whatever it says
                    return False, None
                passed = (frame.timestamp_ns - self._time) / (1 + frame.dropped)
                self._fps = 1e9 / passed if self._time and passed > 0 else 0.0
                self._time, self._size = frame.timestamp_ns, image.shape[1::-1]
                return True, image
        except (TimeoutError, va.ConnectionClosed):
            return False, None

    def get(self, prop: int) -> float:
        known = {cv2.CAP_PROP_FRAME_WIDTH: self._size[0], cv2.CAP_PROP_FRAME_HEIGHT: self._size[1],
                 cv2.CAP_PROP_FPS: self._fps, cv2.CAP_PROP_POS_MSEC: self._time / 1e6}  # fmt: skip
        return float(known.get(prop, 0))

    def release(self) -> None:
        if self._reader is not None:
            self._reader.close()


if __name__ == "__main__":
    cap = Capture(sys.argv[1] if sys.argv[1:] else "camera")
    with contextlib.suppress(KeyboardInterrupt):
        while cap.read()[0]:
            print(f"{cap.get(cv2.CAP_PROP_FPS):.1f} fps", flush=True)
