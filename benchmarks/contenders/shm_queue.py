# SPDX-License-Identifier: MIT
"""multiprocessing.shared_memory for the pixels, multiprocessing.Queue for "frame n is ready"."""

import asyncio
import multiprocessing as mp
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from .base import DEPTH, Channels, FrameReader, Publisher, Reader, take_turns


class ShmWriter(Publisher):
    def __init__(self, slots, queues):
        self.slots, self.queues, self.n = slots, queues, 0

    def publish(self, image):
        i = self.n % DEPTH
        self.n += 1
        np.copyto(self.slots[i], image)
        for queue in self.queues:
            queue.put(i)


class ShmReader(FrameReader):
    def __init__(self, slots, queue):
        self.slots, self.queue = slots, queue

    def frames(self):
        while True:
            yield self.slots[self.queue.get()]


class ShmChannels(Reader):
    """In asyncio, on the pipes inside the queues: nothing public can be waited for."""

    def __init__(self, shared):
        self.shared = shared

    def read(self, touch):
        asyncio.run(self.main(touch))

    async def main(self, touch):
        loop = asyncio.get_running_loop()
        over = loop.create_future()

        def on_pipe(slots, queue):
            if touch(slots[queue.get()]) and not over.done():
                over.set_result(None)

        for _, slots, (queue,) in self.shared:
            loop.add_reader(queue._reader.fileno(), on_pipe, slots, queue)
        await over


class ShmQueue(Channels):
    name = "shm-queue"
    family = "peer"
    lossy = False
    channels = True
    note = (
        "shared_memory of 8 frames, one Queue of slot numbers per reader; the queues hold 6, so that the "
        "writer waits instead of overwriting a frame that is being read; channels: loop.add_reader on the "
        "pipe of each Queue"
    )

    def prepare(self, spec):
        if spec.channels:
            return [self.make(spec, f"-{i}") for i in range(spec.channels)]
        return self.make(spec, "")

    @staticmethod
    def make(spec, suffix):
        # Forked children inherit the mapping: nobody opens it by name, and the name goes at once.
        memory = SharedMemory(create=True, size=DEPTH * spec.nbytes, name=f"bench-{spec.token}{suffix}")
        memory.unlink()
        slots = [np.ndarray(spec.shape, np.uint8, memory.buf, offset=i * spec.nbytes) for i in range(DEPTH)]
        context = mp.get_context("fork")
        return memory, slots, [context.Queue(DEPTH - 2) for _ in range(spec.readers)]

    def writer(self, spec, shared):
        return ShmWriter(shared[1], shared[2])

    def reader(self, spec, shared, index):
        return ShmReader(shared[1], shared[2][index])

    def channel_writer(self, spec, shared, first, count):
        return take_turns([ShmWriter(*shared[i][1:]) for i in range(first, first + count)])

    def channel_reader(self, spec, shared):
        return ShmChannels(shared)
