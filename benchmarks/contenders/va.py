# SPDX-License-Identifier: MIT
"""valkka-async."""

import asyncio
import os
import time

import bench

from .base import DEPTH, Channels, Publisher, Reader, take_turns


class VaWriter(Publisher):
    def __init__(self, va, name, readers):
        # With 16 readers that each hold a frame, 8 slots would not do.
        self.server = va.serve(name, slots=max(DEPTH, readers + 2))

    def publish(self, image):
        return self.server.publish(image)

    def close(self):
        self.server.close()


class LoanWriter(VaWriter):
    def send(self, image, kind):
        made = time.monotonic_ns()
        with self.server.loan(image.shape) as slot:
            bench.stamp(slot, kind, made)


class LosslessWriter(VaWriter):
    def publish(self, image):
        while not self.server.publish(image):
            self.server.wait_writable(1)


class ConnectReader(Reader):
    def __init__(self, va, name, runner, policy="latest"):
        self.va, self.name, self.runner, self.policy = va, name, runner, policy

    def read(self, touch):
        with self.runner() as runner:
            runner.run(self.main(touch))

    async def main(self, touch):
        async with self.va.connect(self.name, policy=self.policy) as client:
            async for frame in client:
                with frame:  # back before waiting for the next: a third slot would cool the cache
                    if touch(frame.array):
                        return


class AttachReader(Reader):
    def __init__(self, va, name):
        self.va, self.name = va, name

    def read(self, touch):
        with self.va.attach(self.name) as reader:
            for frame in reader:
                with frame:
                    if touch(frame.array):
                        return


class MergeReader(ConnectReader):
    async def main(self, touch):
        async with self.va.merge(*self.name) as merge:
            async for frame in merge:
                with frame:
                    if touch(frame.array):
                        return


class ClientsReader(ConnectReader):
    async def main(self, touch):
        over = asyncio.Event()

        async def one(name):
            async with self.va.connect(name) as client:
                async for frame in client:
                    with frame:
                        if touch(frame.array):
                            over.set()
                            return

        tasks = [asyncio.create_task(one(name)) for name in self.name]
        await over.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Ours(Channels):
    family = "ours"
    modules = ("valkka-async",)
    writing = VaWriter
    many = MergeReader

    def load(self):
        import valkka_async

        self.va = valkka_async

    def prepare(self, spec):
        os.environ["VALKKA_RUNTIME_DIR"] = spec.folder

    @staticmethod
    def runner():
        return asyncio.Runner()

    def writer(self, spec, shared):
        return self.writing(self.va, spec.token, spec.readers)

    def reader(self, spec, shared, index):
        return ConnectReader(self.va, spec.token, self.runner)

    def channel_writer(self, spec, shared, first, count):
        writers = [VaWriter(self.va, f"{spec.token}.{i}", 1) for i in range(first, first + count)]
        return take_turns(writers)

    def channel_reader(self, spec, shared):
        names = [f"{spec.token}.{i}" for i in range(spec.channels)]
        return self.many(self.va, names, self.runner)


class OnUvloop(Ours):
    modules = ("valkka-async", "uvloop")

    def load(self):
        super().load()
        import uvloop

        self.uvloop = uvloop

    def runner(self):
        return asyncio.Runner(loop_factory=self.uvloop.new_event_loop)


class Connect(Ours):
    name = "va-asyncio"
    note = "serve().publish(); `async for frame in connect()`, policy latest; frame.array"


class ConnectUvloop(OnUvloop):
    name = "va-uvloop"
    note = "va-asyncio on uvloop"


class Attach(Ours):
    name = "va-attach"
    note = "serve().publish(); `for frame in attach()`, no event loop"

    def reader(self, spec, shared, index):
        return AttachReader(self.va, spec.token)


class Loan(Ours):
    name = "va-loan"
    copies = False
    note = "serve().loan(): a lent slot is stamped in place, nothing is copied; read by connect() on asyncio"
    writing = LoanWriter


class Lossless(Ours):
    name = "va-lossless"
    lossy = False
    note = "va-asyncio with policy lossless: the writer waits with wait_writable() when 8 slots are full"
    writing = LosslessWriter

    def reader(self, spec, shared, index):
        return ConnectReader(self.va, spec.token, self.runner, "lossless")


class Merge(Ours):
    name = "va-merge"
    streams, channels = False, True
    note = "one `async for frame in merge(...)` over all channels"


class MergeUvloop(OnUvloop):
    name = "va-merge-uvloop"
    streams, channels = False, True
    note = "va-merge on uvloop"


class Clients(Ours):
    name = "va-clients"
    streams, channels = False, True
    note = "one connect() and one task for each channel"
    many = ClientsReader


class ClientsUvloop(OnUvloop):
    name = "va-clients-uvloop"
    streams, channels = False, True
    note = "va-clients on uvloop"
    many = ClientsReader
