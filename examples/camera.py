# SPDX-License-Identifier: MIT
"""A camera in 10 lines: opened, decoded, scaled to a quarter of full HD, one frame per second.

Each second it prints the camera's state and the number of readers. A lost camera is tried again for ever, and
a camera without readers is not decoded. Any number of readers may start before it or after it.

What libValkka's version could not do: serve two readers from one ring, or tell them the size of its frames,
which they had to repeat. And it decoded without readers, too.

    .venv/bin/python examples/camera.py [URL or file]

See also client.py, plain.py, blur.py and publish.py, which read its ring if you give them its name:
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
                f"{ring.readers} readers, {now.decoded} frames decoded, {ring.published} published",
                flush=True,
            )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
