# SPDX-License-Identifier: MIT
"""momentumx: streams of buffers in /dev/shm."""

import time

import numpy as np

from .base import DEPTH, Contender, FrameReader, Publisher, as_image

POLLING_SECONDS = 0.001  # its default of 0.01 would be most of the latency


class MxWriter(Publisher):
    def __init__(self, mx, name, nbytes):
        self.stream = mx.Producer(name, nbytes, DEPTH, False, polling_interval=POLLING_SECONDS)

    def publish(self, image):
        buffer = self.stream.next_to_send()
        np.copyto(as_image(buffer, image.shape), image)
        return buffer.send(image.nbytes)


class MxReader(FrameReader):
    def __init__(self, mx, name, shape):
        self.shape = shape
        until = time.monotonic() + 5
        while True:
            try:
                self.stream = mx.Consumer(name, polling_interval=POLLING_SECONDS)
                break
            except mx.StreamUnavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(0.001)

    def frames(self):
        while True:
            buffer = self.stream.receive()
            if buffer is None:
                return
            yield as_image(buffer, self.shape)
            buffer.release()


class MomentumX(Contender):
    name = "momentumx"
    family = "peer"
    modules = ("momentumx",)
    note = "stream mode (drops), 8 buffers, next_to_send and receive, polling_interval 1 ms instead of 10"

    def load(self):
        import momentumx

        self.mx = momentumx

    def writer(self, spec, shared):
        return MxWriter(self.mx, f"bench-{spec.token}", spec.nbytes)

    def reader(self, spec, shared, index):
        return MxReader(self.mx, f"bench-{spec.token}", spec.shape)
