# SPDX-License-Identifier: MIT
"""A ring as a cv2.VideoCapture, for loaders that know nothing else."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import valkka_async as va


class RingCapture:
    """What the loaders here use of cv2.VideoCapture. ``retrieve`` copies, as OpenCV's does."""

    def __init__(self, name: str) -> None:
        self._reader = va.attach(name)
        self._frame = self._reader.recv(10)

    def isOpened(self) -> bool:
        return not self._reader.closed

    def grab(self) -> bool:
        self._frame.release()
        self._frame = self._reader.recv(10)
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        return True, self._frame.array.copy()

    def read(self) -> tuple[bool, NDArray[np.uint8]]:
        self.grab()
        return self.retrieve()

    def get(self, what: int) -> float:
        height, width, _ = self._frame.shape
        known = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FPS: 15}
        return float(known.get(what, 0))

    def set(self, what: int, value: float) -> bool:
        return False

    def release(self) -> None:
        self._frame.release()
        self._reader.close()


def stamp(image: NDArray[Any]) -> int:
    """When it was published: the writer puts that (ns) into the first pixels of each frame."""
    return int(image[0, :3].tobytes()[:8].hex(), 16)
