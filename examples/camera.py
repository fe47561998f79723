# SPDX-License-Identifier: MIT
"""A camera in 10 lines: opened, decoded, one frame per second, a quarter of full HD, into shared memory.

Each second it prints how the camera is, and who reads. A camera that goes is tried again for ever; one that
nobody reads is not decoded. Readers may come before it, after it, and as many as like to.

What libValkka's version could not do: have two readers of one ring, or tell them its pictures' size: they had
to repeat it. It decoded for nobody, too.

    .venv/bin/python examples/camera.py [URL or file]

Goes with client.py, plain.py, blur.py and publish.py, which read its ring if they are told its name:
`.venv/bin/python examples/client.py camera` in another terminal.
"""

import contextlib
import sys
import time

import valkka_async as va

URL = sys.argv[1] if sys.argv[1:] else "lavfi:testsrc2=size=1920x1080:rate=25"


def main() -> None:
    with va.Camera("camera", URL, [va.Output("camera", size=(1920 // 4, 1080 // 4), fps=1)]) as camera:
        while True:
            time.sleep(1)
            now = camera.status()
            ring = now.outputs[0]
            print(f"{now.state}{now.reason and f' ({now.reason})'}, {now.width}x{now.height}:", end=" ")
            print(
                f"{ring.readers} readers, {now.decoded} pictures decoded, {ring.published} published",
                flush=True,
            )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
