# SPDX-License-Identifier: MIT
"""zenoh with shared memory, peers joined by a Unix socket."""

import json
import time

from .base import DEPTH, Channels, FrameReader, Publisher, as_image, take_turns


def session(zenoh, listen, connect):
    config = zenoh.Config()
    for key, value in {
        "mode": "peer",
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "transport/shared_memory/enabled": True,
        "listen/endpoints": listen,
        "connect/endpoints": connect,
    }.items():
        config.insert_json5(key, json.dumps(value))
    until = time.monotonic() + 8
    while True:
        try:
            return zenoh.open(config)
        except zenoh.ZError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


class ZenohWriter(Publisher):
    def __init__(self, zenoh, opened, provider, key):
        self.zenoh, self.session, self.provider = zenoh, opened, provider
        self.policy = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())
        self.publisher = opened.declare_publisher(key, congestion_control=zenoh.CongestionControl.BLOCK)

    def publish(self, image):
        buffer = self.provider.alloc(image.nbytes, self.policy)
        # Takes bytes or a bytearray only; the picture lies in a bytearray, so this is the one copy.
        buffer[0 : image.nbytes] = bytearray_of(image)
        self.publisher.put(buffer)


def bytearray_of(image):
    data = image
    while not isinstance(data, bytearray):
        data = data.obj if isinstance(data, memoryview) else data.base
    return data


class ZenohReader(FrameReader):
    def __init__(self, zenoh, address, key, shape):
        self.shape = shape
        self.session = session(zenoh, [], address)
        self.subscriber = self.session.declare_subscriber(key, zenoh.handlers.FifoChannel(DEPTH))

    def frames(self):
        for sample in self.subscriber:
            shared = sample.payload.as_shm()
            # No buffer protocol: to look at a frame is to copy it.
            yield as_image(bytes(shared) if shared is not None else sample.payload.to_bytes(), self.shape)


class Zenoh(Channels):
    name = "zenoh"
    family = "peer"
    modules = ("eclipse-zenoh",)
    lossy = False
    channels = True
    note = (
        "ShmProvider of 8 frames, publisher that blocks, FifoChannel(8), unixsock-stream; the Python binding "
        "has no view of a shared buffer, so the reader copies; channels: one subscription to a wildcard"
    )

    def load(self):
        import zenoh
        import zenoh.shm

        zenoh.init_log_from_env_or("off")
        self.zenoh = zenoh

    def provider(self, spec, frames):
        # Room for alignment and the allocator's own needs.
        return self.zenoh.shm.ShmProvider.default_backend(frames * (spec.nbytes + 4096) + 65536)

    def writer(self, spec, shared):
        opened = session(self.zenoh, [f"unixsock-stream/{spec.folder}/0"], [])
        return ZenohWriter(self.zenoh, opened, self.provider(spec, DEPTH), "bench/0")

    def reader(self, spec, shared, index):
        return ZenohReader(self.zenoh, [f"unixsock-stream/{spec.folder}/0"], "bench/0", spec.shape)

    def channel_writer(self, spec, shared, first, count):
        opened = session(self.zenoh, [f"unixsock-stream/{spec.folder}/w{first}"], [])
        provider = self.provider(spec, DEPTH * count)
        return take_turns(
            [ZenohWriter(self.zenoh, opened, provider, f"bench/{i}") for i in range(first, first + count)]
        )

    def channel_reader(self, spec, shared):
        half = spec.channels // 2
        address = [f"unixsock-stream/{spec.folder}/w{first}" for first in (0, half)]
        return ZenohReader(self.zenoh, address, "bench/*", spec.shape)
