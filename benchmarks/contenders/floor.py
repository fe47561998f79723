# SPDX-License-Identifier: MIT
"""The floor: a bare ring in C. See ../floor.c."""

import asyncio
from collections import deque

import bench
import numpy as np

from .base import DEPTH, Channels, Contender, Reader, Writer


class CWriter(Writer):
    def send(self, image, kind):
        bench.floor_pace(image, kind, 0, 1, 0, 1)

    def pace(self, image, kind, fps, count):
        bench.floor_pace(image, kind, int(1e9 / fps), count, 0, 1)

    def flood(self, image, seconds):
        return bench.floor_flood(image, int(seconds * 1e9)), 0


class CReader(Reader):
    def __init__(self, index):
        self.index = index

    def read(self, touch):
        bench.floor_read(self.index)


def slots_of(spec, ring):
    return [np.frombuffer(s, np.uint8).reshape(spec.shape) for s in bench.floor_slots(ring)]


class CallbackReader(Reader):
    """Frames are looked at in the callback of add_reader: nothing in asyncio can be quicker."""

    def __init__(self, spec, index, rings, runner):
        self.spec, self.index, self.rings, self.runner = spec, index, rings, runner

    def read(self, touch):
        with self.runner() as runner:
            runner.run(self.main(touch))

    async def main(self, touch):
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        stopped = 0

        def watch(ring):
            slots, reader = slots_of(self.spec, ring), self.index
            newest, arm, drain = bench.floor_newest, bench.floor_arm, bench.floor_drain

            def on_bell():
                nonlocal stopped
                drain(ring, reader)
                while True:
                    slot = newest(ring)
                    if slot >= 0:
                        if touch(slots[slot]):
                            stopped += 1
                            if not over.done():
                                over.set_result(None)
                    elif arm(ring, reader):
                        return

            loop.add_reader(bench.floor_bell(ring, reader), on_bell)
            on_bell()

        for ring in range(self.rings):
            watch(ring)
        await over


class AwaitReader(CallbackReader):
    """A coroutine gets the frames, as with any library that has an ``await recv()``: the callback wakes a
    future, and the task runs in the loop's next round."""

    async def main(self, touch):
        loop = asyncio.get_running_loop()
        reader, waiter, rang = self.index, None, deque(range(self.rings))
        slots = [slots_of(self.spec, ring) for ring in range(self.rings)]

        def on_bell(ring):
            bench.floor_drain(ring, reader)
            rang.append(ring)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

        for ring in range(self.rings):
            loop.add_reader(bench.floor_bell(ring, reader), on_bell, ring)
        while True:
            while rang:
                ring = rang[0]
                slot = bench.floor_newest(ring)
                if slot >= 0:
                    if touch(slots[ring][slot]):
                        return
                elif bench.floor_arm(ring, reader):
                    rang.popleft()
            waiter = loop.create_future()
            await waiter


class Floor(Contender):
    family = "floor"
    slots = 2

    def prepare(self, spec):
        bench.floor_make(max(1, spec.channels), self.slots, spec.nbytes, spec.readers)

    def writer(self, spec, shared):
        return CWriter()

    def reader(self, spec, shared, index):
        return CReader(index)


class Hot(Floor):
    name = "floor-hot"
    note = (
        "C writer, C reader on epoll; two slots, so that both stay in the cache; no protection from tearing"
    )


class RoundRobin(Floor):
    name = "floor-rr"
    slots = DEPTH
    note = "the same with eight slots in turn"


class Asyncio(Floor, Channels):
    name = "floor-asyncio"
    channels = True
    note = "C writer; Python reader that looks at the frame in the callback of loop.add_reader; two slots"
    reading = CallbackReader

    @staticmethod
    def runner():
        return asyncio.Runner()

    def reader(self, spec, shared, index):
        return self.reading(spec, index, 1, self.runner)

    def channel_writer(self, spec, shared, first, count):
        def pace(image, kind, fps, frames):
            bench.floor_pace(image, kind, int(1e9 / fps), frames, first, count)

        return pace

    def channel_reader(self, spec, shared):
        return self.reading(spec, 0, spec.channels, self.runner)


class Uvloop(Asyncio):
    name = "floor-uvloop"
    modules = ("uvloop",)
    note = "floor-asyncio on uvloop"

    def load(self):
        import uvloop

        self.uvloop = uvloop

    def runner(self):
        return asyncio.Runner(loop_factory=self.uvloop.new_event_loop)


class Await(Asyncio):
    name = "floor-await"
    note = "floor-asyncio, but a coroutine gets the frame: the callback wakes the future that it awaits"
    reading = AwaitReader
