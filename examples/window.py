# SPDX-License-Identifier: MIT
"""A window in which examples show frames, where there can be one.

Closing it, or pressing q in it, is the same as Ctrl-C. There is no window without a display, without OpenCV,
or with opencv-python-headless.

    .venv/bin/pip install "opencv-python<5"
    .venv/bin/python examples/window.py [image file]

See also blur.py and all_at_once.py, which show frames.
"""

import contextlib
import os
import signal
import sys
import time

import numpy as np

try:
    import cv2  # before va.Camera loads PyAV, or windows hang (docs/troubleshooting.md)
except ImportError:
    WINDOW = False
else:
    WINDOW = bool(os.environ.get("DISPLAY") and cv2.currentUIFramework())


def show(title: str, image: np.ndarray) -> None:
    """Show an image (bgr24 or gray8) in the window of this title. Only if WINDOW."""
    cv2.imshow(title, image)
    try:
        ended = cv2.waitKey(1) == ord("q") or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1
    except cv2.error:  # Qt raises this when its last window is gone
        ended = True
    if ended:
        signal.raise_signal(signal.SIGINT)  # in asyncio too, where an exception here would end one task


if __name__ == "__main__":
    if not WINDOW:
        sys.exit('no window: it needs a display, and .venv/bin/pip install "opencv-python<5"')
    image = cv2.imread(sys.argv[1]) if sys.argv[1:] else np.full((270, 480, 3), 90, np.uint8)
    if image is None:
        sys.exit(f"not an image: {sys.argv[1]}")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            show("image", image)
            time.sleep(0.05)
