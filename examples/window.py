# SPDX-License-Identifier: MIT
"""A window in which examples show pictures, where there can be one.

To close it, or to press q in it, is the same as Ctrl-C. There is none without a display, without OpenCV, and
with opencv-python-headless.

    .venv/bin/pip install "opencv-python<5"
    .venv/bin/python examples/window.py [a picture's file]

Goes with blur.py and all_at_once.py, which show frames.
"""

import contextlib
import os
import signal
import sys
import time

import numpy as np

try:
    import cv2  # before va.Camera loads PyAV, for after it windows hang (docs/troubleshooting.md)
except ImportError:
    WINDOW = False
else:
    WINDOW = bool(os.environ.get("DISPLAY") and cv2.currentUIFramework())


def show(title: str, picture: np.ndarray) -> None:
    """A picture of bgr24 or gray8, in the window of this title. Only if WINDOW."""
    cv2.imshow(title, picture)
    try:
        ended = cv2.waitKey(1) == ord("q") or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1
    except cv2.error:  # what Qt says of the last window when it is gone
        ended = True
    if ended:
        signal.raise_signal(signal.SIGINT)  # in asyncio too, where an exception here would end one task


if __name__ == "__main__":
    if not WINDOW:
        sys.exit('no window: it takes a display, and .venv/bin/pip install "opencv-python<5"')
    picture = cv2.imread(sys.argv[1]) if sys.argv[1:] else np.full((270, 480, 3), 90, np.uint8)
    if picture is None:
        sys.exit(f"not a picture: {sys.argv[1]}")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            show("picture", picture)
            time.sleep(0.05)
