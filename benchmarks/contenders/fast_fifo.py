# SPDX-License-Identifier: MIT
"""faster-fifo: a byte queue in shared memory."""

from .base import DEPTH, Contender, FrameReader, Publisher, as_image


def dumps(image):
    return image.tobytes()


class FifoWriter(Publisher):
    def __init__(self, queues):
        self.queues = queues

    def publish(self, image):
        for queue in self.queues:
            queue.put(image)


class FifoReader(FrameReader):
    def __init__(self, queue, shape):
        self.queue, self.shape = queue, shape

    def frames(self):
        while True:
            yield as_image(self.queue.get(), self.shape)


class FasterFifo(Contender):
    name = "faster-fifo"
    family = "peer"
    modules = ("faster-fifo",)
    lossy = False
    note = (
        "a Queue for 8 frames per reader, put and get; bytes instead of pickles (tobytes, which is one more "
        "copy; the reader gets a view of its receive buffer); the writer waits when it is full"
    )

    def load(self):
        import faster_fifo

        self.fifo = faster_fifo

    def prepare(self, spec):
        size = DEPTH * (spec.nbytes + 64)
        return [
            self.fifo.Queue(max_size_bytes=size, loads=lambda data: data, dumps=dumps)
            for _ in range(spec.readers)
        ]

    def writer(self, spec, shared):
        return FifoWriter(shared)

    def reader(self, spec, shared, index):
        return FifoReader(shared[index], spec.shape)
