# SPDX-License-Identifier: MIT
"""A server in Python: frames are read, changed, and published again with metadata.

The program draws each frame's capture time into the image, in the memory where readers will look: the ring
"publish". Its brightness and source go into `frame.meta`.

What libValkka's version could not do: serve more than one client, let you draw in place, or carry your data
beside the frame.

    .venv/bin/pip install "opencv-python<5"
    .venv/bin/python examples/publish.py [URL, file, or the name of a ring]

See also client.py and blur.py, which read it with the argument "publish", and camera.py (the ring "camera").
"""

import contextlib
import os
import sys
from datetime import datetime

import valkka_async as va

try:
    import cv2
except ImportError as error:
    sys.exit(f'needs OpenCV: .venv/bin/pip install "opencv-python<5" ({error})')


def main(ring: str) -> None:
    print(f"waiting for {ring!r}", flush=True)
    with va.attach(ring, open_timeout=None) as reader, va.serve("publish") as server:
        for frame in reader:
            taken = frame.timestamp_ns
            meta = {
                "from": frame.source,
                "frame": frame.seq,
                "brightness": round(float(frame.array.mean()), 1),
            }
            # A slow reader must not stop us: with every slot in use, this frame is dropped and counted.
            with contextlib.suppress(va.NoFreeSlotError), frame:
                with server.loan(frame.shape, frame.format, timestamp_ns=taken, meta=meta) as slot:
                    slot.array[:] = frame.array
                    clock = f"{datetime.fromtimestamp(taken / 1e9):%H:%M:%S.%f}"[:-4]
                    cv2.putText(slot.array, clock, (8, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 0), 2)
            if (count := server.stats().published) % 5 == 0:
                print(f"{count} frames published, {server.readers} readers, {meta}", flush=True)


if __name__ == "__main__":
    ring = source = sys.argv[1] if sys.argv[1:] else "lavfi:testsrc2=size=1920x1080:rate=25"
    own: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if ":" in source or os.path.exists(source):  # not the ring of another program: a camera of our own
        ring = "publish.source"
        own = va.Camera(ring, source, [va.Output(ring, size=(480, None), fps=5)])
    with contextlib.suppress(KeyboardInterrupt), own:
        main(ring)
