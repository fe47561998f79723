# SPDX-License-Identifier: MIT
"""Fragmented MP4, received fragment by fragment and written into a file that any player opens.

This is the camera's own H.264 or H.265, neither decoded nor encoded again. The program prints the boxes of
the init segment (ftyp, moov) and of each fragment (moof, mdat: one frame). When the init segment changes, for
example with the resolution, it begins a new file. `va.Recorder` does all this for you, with a thread for the
disk.

What libValkka's version could not do: serve two readers, give a late reader the init segment, or resume at a
key frame after a lost fragment.

    .venv/bin/python examples/fmp4.py [URL or file, of H.264 or H.265]

See also fmp4_web.py, which sends the same to a browser.
"""

import contextlib
import os
import struct

from synthetic import source

import valkka_async as va


def boxes(data: memoryview | bytes) -> str:
    """The boxes side by side: each begins with its size in bytes, 32 bits, and its type."""
    found, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append(f"{kind.decode()} {size}")
        at += size
    return ", ".join(found)


def main(url: str) -> None:
    init, number = b"", 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(va.Camera("fmp4", url, [va.Output("fmp4", "fmp4")]))
        reader = stack.enter_context(va.attach("fmp4", policy="ordered"))
        for fragment in reader:  # the first is a key frame, as is the first after a loss
            with fragment:
                if reader.header != init:
                    init, number = reader.header, number + 1
                    file = stack.enter_context(open(f"fmp4-{number}.mp4", "wb", buffering=0))
                    file.write(init)
                    print(f"{os.path.abspath(file.name)}: {boxes(init)}", flush=True)
                file.write(fragment.data)
                what = "key frame" if fragment.key else "frame"
                print(f"{what} {fragment.seq}: {boxes(fragment.data)}; {fragment.dropped} lost", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt), source() as url:
        main(url)
