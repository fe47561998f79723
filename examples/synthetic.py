# SPDX-License-Identifier: MIT
"""Ten seconds of H.264, for examples that want what a camera sends when there is no camera.

MP4 is made of the camera's own packets, and nothing is encoded for it; FFmpeg's synthetic pictures
("lavfi:testsrc2") are not encoded, so they will not do.

    .venv/bin/python examples/synthetic.py [FILE.mp4]

Goes with all_at_once.py, fmp4.py and fmp4_web.py, which have it made into a file that is gone afterwards.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator


def encode(path: str) -> None:
    """A moving test picture, 1280x720, 25 per second, each 25th a key frame."""
    import av  # not sooner: who imports this may want OpenCV's windows, which hang if PyAV was loaded first

    pictures = av.open("testsrc2=size=1280x720:rate=25:duration=10", format="lavfi")
    with pictures, av.open(path, "w") as file:
        options = {"preset": "ultrafast", "g": "25"}
        stream = file.add_stream("libx264", 25, width=1280, height=720, pix_fmt="yuv420p", options=options)
        for picture in pictures.decode(video=0):
            picture.pict_type = 0  # "I" of each would make all of them key frames
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


@contextlib.contextmanager
def source() -> Iterator[str]:
    """What the command line names: the URL or file of a camera; else a synthetic file."""
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
