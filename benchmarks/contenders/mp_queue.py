# SPDX-License-Identifier: MIT
"""multiprocessing.Queue: frames pickled through a pipe."""

import multiprocessing as mp

from .base import DEPTH, Contender, FrameReader, Publisher


class QueueWriter(Publisher):
    def __init__(self, queues):
        self.queues = queues

    def publish(self, image):
        for queue in self.queues:
            queue.put(image.copy())  # a thread pickles it later, when the image may be the next one


class QueueReader(FrameReader):
    def __init__(self, queue):
        self.queue = queue

    def frames(self):
        while True:
            yield self.queue.get()


class MpQueue(Contender):
    name = "mp-queue"
    family = "peer"
    lossy = False
    note = "a Queue of 8 numpy arrays per reader; the writer waits when it is full"

    def prepare(self, spec):
        context = mp.get_context("fork")
        return [context.Queue(DEPTH) for _ in range(spec.readers)]

    def writer(self, spec, shared):
        return QueueWriter(shared)

    def reader(self, spec, shared, index):
        return QueueReader(shared[index])
