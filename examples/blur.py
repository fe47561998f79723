# SPDX-License-Identifier: MIT
"""OpenCV as a client: every frame blurred, and shown in a window.

Where there is no window (no display, or opencv-python-headless, which has none) the newest blurred frame is
written to blurred.jpg, and its path printed.

What libValkka's version could not do: OpenCV worked on memory that the next frame could overwrite. Here the
frame stays as it is until it is given back, and nothing is copied for that.

    .venv/bin/pip install opencv-python
    .venv/bin/python examples/blur.py [URL, file, or the name of a ring]

Goes with camera.py, whose ring is named "camera", and publish.py ("publish").
"""

import contextlib
import os
import sys

import valkka_async as va

try:
    import cv2
except ImportError:
    sys.exit("This example needs OpenCV: .venv/bin/pip install opencv-python")
DISPLAY = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
WINDOW = bool(DISPLAY and cv2.currentUIFramework())


def main(ring: str) -> None:
    with va.attach(ring, timeout=None) as reader:  # as soon as it is there
        for frame in reader:
            with frame:
                image = cv2.GaussianBlur(frame.array, (21, 21), 0)
                if frame.format == "rgb24":  # OpenCV's own order is bgr24, which a ring may have too
                    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            if WINDOW:
                cv2.imshow("blurred", image)
                cv2.waitKey(1)
            else:
                cv2.imwrite("blurred.jpg", image)
                print(f"frame {frame.seq}: wrote {os.path.abspath('blurred.jpg')}", flush=True)


if __name__ == "__main__":
    ring = source = sys.argv[1] if sys.argv[1:] else "lavfi:testsrc2=size=1920x1080:rate=25"
    own: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if ":" in source or os.path.exists(source):  # not the ring of another program: a camera of our own
        ring = "blur"
        own = va.Camera(ring, source, [va.Output(ring, "bgr24", size=(480, 270), fps=5)])
    with contextlib.suppress(KeyboardInterrupt), own:
        main(ring)
