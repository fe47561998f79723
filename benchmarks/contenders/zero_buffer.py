# SPDX-License-Identifier: MIT
"""zerobuffer-ipc: one buffer per reader, semaphores in both directions."""

import contextlib
import logging
import multiprocessing as mp

import numpy as np

from .base import DEPTH, Contender, FrameReader, Publisher, as_image


class ZbWriter(Publisher):
    def __init__(self, zb, names, opened):
        for _ in names:
            opened.acquire()
        self.writers = [zb.Writer(name) for name in names]

    def publish(self, image):
        for writer in self.writers:
            lent = writer.get_frame_buffer(image.nbytes)
            np.copyto(as_image(lent, image.shape), image)
            writer.commit_frame()


class ZbReader(FrameReader):
    def __init__(self, zb, name, spec, turn, opened):
        config = zb.BufferConfig(metadata_size=64, payload_size=DEPTH * (spec.nbytes + 64))
        self.zb, self.shape = zb, spec.shape
        with turn:
            self.reader = zb.Reader(name, config)
        opened.release()

    def frames(self):
        while True:
            frame = None
            with contextlib.suppress(self.zb.WriterDeadException):  # also said while none has come yet
                frame = self.reader.read_frame(timeout=1.0)
            if frame is not None:
                with frame:
                    yield as_image(frame.data, self.shape)

    def close(self):
        self.reader.close()


class ZeroBuffer(Contender):
    name = "zerobuffer"
    family = "peer"
    modules = ("zerobuffer-ipc",)
    lossy = False
    note = (
        "get_frame_buffer, copy, commit_frame; a buffer for 8 frames; the writer waits when it is full; a "
        "buffer has one reader, so the writer copies once per reader"
    )

    def load(self):
        import zerobuffer

        logging.getLogger("zerobuffer").setLevel(logging.ERROR)
        self.zb = zerobuffer

    def prepare(self, spec):
        # Readers that open at once clear each other away as stale, and a writer that comes too early finds
        # half a buffer; so they go in turn.
        context = mp.get_context("fork")
        self.zb.platform.get_temp_directory = lambda: spec.folder  # for its lock files; else in /tmp
        return context.Lock(), context.Semaphore(0)

    def writer(self, spec, shared):
        names = [f"bench-{spec.token}-{i}" for i in range(spec.readers)]
        return ZbWriter(self.zb, names, shared[1])

    def reader(self, spec, shared, index):
        return ZbReader(self.zb, f"bench-{spec.token}-{index}", spec, *shared)
