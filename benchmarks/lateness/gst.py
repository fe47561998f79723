# SPDX-License-Identifier: MIT
"""GStreamer as a contender: ``/usr/bin/python3 gst.py URL WIDTH HEIGHT``, as worker.py. It runs under the
system's Python, for which the bindings are made, and needs nothing but them."""

import sys
import time

import gi  # type: ignore[import-not-found]

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # type: ignore[import-not-found]  # noqa: E402

DECODERS = {"avdec_h264": "max-threads=1", "openh264dec": ""}
BITS, ROW = 16, 12  # as in tests/support/footage.py


def number(data, stride, width, height):  # type: ignore[no-untyped-def]
    row = height // ROW
    found = 0
    for bit in range(BITS):
        column = (2 * bit + 1) * width // (2 * BITS)
        above = data[(row // 2) * stride + column]
        below = data[(row + row // 2) * stride + column]
        if abs(above - below) < 64:
            return -1
        found = found << 1 | (above > below)
    return found


def main() -> None:
    url, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    Gst.init(None)
    decoder = next(name for name in DECODERS if Gst.ElementFactory.find(name))
    print("decoder", decoder, flush=True)
    pipeline = Gst.parse_launch(
        f"rtspsrc location={url} latency=0 protocols=tcp ! rtph264depay ! {decoder} {DECODERS[decoder]} ! "
        "video/x-raw,format=I420 ! appsink name=sink sync=false max-buffers=1 drop=true"
    )
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    while (sample := sink.emit("try-pull-sample", 20 * Gst.SECOND)) is not None:
        now = time.monotonic()
        found, mapped = sample.get_buffer().map(Gst.MapFlags.READ)
        if found:
            stride = (width + 3) // 4 * 4
            print(number(mapped.data, stride, width, height), now, flush=True)
            sample.get_buffer().unmap(mapped)


if __name__ == "__main__":
    main()
