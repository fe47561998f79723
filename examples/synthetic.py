# SPDX-License-Identifier: MIT
"""Ten seconds of H.264, for examples that need encoded video when there is no camera.

Fragmented MP4 is made of the camera's own packets, and nothing is encoded for it. FFmpeg's test patterns
("lavfi:testsrc2") are not encoded, so they are no source for it.

    .venv/bin/python examples/synthetic.py [FILE.mp4]

See also all_at_once.py, fmp4.py and fmp4_web.py, which use it as a temporary file.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator


def encode(path: str) -> None:
    """A moving test pattern, 1280x720, 25 frames per second, each 25th a key frame."""
    import av  # not at the top: OpenCV's windows hang if PyAV is loaded first

    pattern = av.open("testsrc2=size=1280x720:rate=25:duration=10", format="lavfi")
    with pattern, av.open(path, "w") as file:
        options = {"preset": "ultrafast", "g": "25"}
        stream = file.add_stream("libx264", 25, width=1280, height=720, pix_fmt="yuv420p", options=options)
        for frame in pattern.decode(video=0):
            frame.pict_type = 0  # else all of them would be key frames
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


@contextlib.contextmanager
def source() -> Iterator[str]:
    """The URL or file on the command line; otherwise a synthetic file."""
    if sys.argv[1:]:
        yield sys.argv[1]
    else:
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            encode(file.name)
            yield file.name


if __name__ == "__main__":
    path = sys.argv[1] if sys.argv[1:] else "synthetic.mp4"
    encode(path)
    print("wrote", path)
