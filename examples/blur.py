# SPDX-License-Identifier: MIT
"""OpenCV as a client: every frame is blurred and shown in a window.

Close the window, or press q in it, to end. Without a window (no display, or opencv-python-headless, which has
none) the program writes the newest blurred frame to blurred.jpg and prints its path.

What libValkka's version could not do: OpenCV worked on memory that the next frame could overwrite. Here the
frame does not change until it is released, and nothing is copied for that.

    .venv/bin/pip install "opencv-python<5"
    .venv/bin/python examples/blur.py [URL, file, or the name of a ring]

See also window.py (the window), camera.py (the ring "camera") and publish.py (the ring "publish").
"""

import contextlib
import os
import sys

from window import WINDOW, show

import valkka_async as va

try:
    import cv2
except ImportError as error:
    sys.exit(f'needs OpenCV: .venv/bin/pip install "opencv-python<5" ({error})')

# OpenCV's own order is bgr24; another program's ring may have others.
TO_BGR = {"nv12": cv2.COLOR_YUV2BGR_NV12, "yuv420p": cv2.COLOR_YUV2BGR_I420, "rgb24": cv2.COLOR_RGB2BGR}


def main(ring: str) -> None:
    print(f"waiting for {ring!r}", flush=True)
    with va.attach(ring, open_timeout=None) as reader:
        for frame in reader:
            with frame:
                code = TO_BGR.get(frame.format)
                image = frame.array if code is None else cv2.cvtColor(frame.array, code)
                image = cv2.GaussianBlur(image, (21, 21), 0)
            if WINDOW:
                show("blurred", image)
            else:
                cv2.imwrite("blurred.jpg", image)
                print(f"frame {frame.seq}: wrote {os.path.abspath('blurred.jpg')}", flush=True)


if __name__ == "__main__":
    ring = source = sys.argv[1] if sys.argv[1:] else "lavfi:testsrc2=size=1920x1080:rate=25"
    own: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if ":" in source or os.path.exists(source):  # not the ring of another program: a camera of our own
        ring = "blur"
        own = va.Camera(ring, source, [va.Output(ring, "bgr24", size=(480, None), fps=5)])
    with contextlib.suppress(KeyboardInterrupt), own:
        main(ring)
