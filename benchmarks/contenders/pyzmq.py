# SPDX-License-Identifier: MIT
"""pyzmq: PUB and SUB over ipc://, a Unix socket."""

from .base import DEPTH, Channels, FrameReader, Publisher, as_image, take_turns


def publisher(zmq, context, address):
    socket = context.socket(zmq.PUB)
    socket.setsockopt(zmq.SNDHWM, DEPTH)
    socket.setsockopt(zmq.XPUB_NODROP, 1)  # wait for a slow subscriber
    socket.setsockopt(zmq.LINGER, 0)
    socket.bind(address)
    return socket


class ZmqWriter(Publisher):
    def __init__(self, zmq, context, address):
        self.socket = publisher(zmq, context, address)

    def publish(self, image):
        self.socket.send(image)  # copies: the image is the camera's and will be overwritten


class ZmqReader(FrameReader):
    def __init__(self, zmq, addresses, shape):
        self.shape = shape
        self.socket = zmq.Context.instance().socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, DEPTH)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.setsockopt(zmq.LINGER, 0)
        for address in addresses:
            self.socket.connect(address)

    def frames(self):
        while True:
            yield as_image(self.socket.recv(copy=False).buffer, self.shape)


class PyZmq(Channels):
    name = "pyzmq"
    family = "peer"
    modules = ("pyzmq",)
    lossy = False
    channels = True
    note = (
        "PUB and SUB over ipc://, high-water marks of 8, XPUB_NODROP (the writer waits), recv(copy=False); "
        "channels: one SUB socket connected to all"
    )

    def load(self):
        import zmq

        self.zmq = zmq

    def writer(self, spec, shared):
        return ZmqWriter(self.zmq, self.zmq.Context.instance(), f"ipc://{spec.folder}/0")

    def reader(self, spec, shared, index):
        return ZmqReader(self.zmq, [f"ipc://{spec.folder}/0"], spec.shape)

    def channel_writer(self, spec, shared, first, count):
        context = self.zmq.Context.instance()
        context.set(self.zmq.MAX_SOCKETS, 4096)
        return take_turns(
            [ZmqWriter(self.zmq, context, f"ipc://{spec.folder}/{i}") for i in range(first, first + count)]
        )

    def channel_reader(self, spec, shared):
        return ZmqReader(self.zmq, [f"ipc://{spec.folder}/{i}" for i in range(spec.channels)], spec.shape)
