# SPDX-License-Identifier: MIT
"""iceoryx2: publish-subscribe of byte slices, and an event service to wake the reader."""

import ctypes

from .base import DEPTH, Channels, FrameReader, Publisher, Spec, as_image, take_turns


class Node:
    """A node with its own root directory and prefix, so that nothing is shared with anybody else."""

    def __init__(self, iox, spec: Spec, overflow: bool):
        self.iox, self.overflow = iox, overflow
        config = iox.config.default()
        config.global_cfg.root_path = iox.Path.new(spec.folder)
        config.global_cfg.prefix = iox.FileName.new(f"bench-{spec.token}-")
        iox.set_log_level(iox.LogLevel.Fatal)
        self.node = iox.NodeBuilder.new().config(config).create(iox.ServiceType.Ipc)
        self.readers = spec.readers

    def data(self, channel):
        name = self.iox.ServiceName.new(f"data{channel}")
        return (
            self.node.service_builder(name)
            .publish_subscribe(self.iox.Slice[ctypes.c_uint8])
            .enable_safe_overflow(self.overflow)
            .subscriber_max_buffer_size(DEPTH)
            .max_publishers(1)
            .max_subscribers(self.readers)
            .open_or_create()
        )

    def event(self, channel):
        name = self.iox.ServiceName.new(f"event{channel}")
        return (
            self.node.service_builder(name)
            .event()
            .max_notifiers(1)
            .max_listeners(self.readers)
            .open_or_create()
        )


class IoxWriter(Publisher):
    def __init__(self, node, nbytes, channel=0):
        self.node = node
        strategies = node.iox.BackpressureStrategy
        self.publisher = (
            node.data(channel)
            .publisher_builder()
            .initial_max_slice_len(nbytes)
            .backpressure_strategy(
                strategies.DiscardData if node.overflow else strategies.RetryUntilDelivered
            )
            .create()
        )
        self.notifier = node.event(channel).notifier_builder().create()

    def publish(self, image):
        sample = self.publisher.loan_slice_uninit(image.nbytes)
        ctypes.memmove(sample.payload().as_ptr(), image.ctypes.data, image.nbytes)
        sample.assume_init().send()
        self.notifier.notify()


def waiting_in(subscriber, shape):
    """What is in the subscriber's buffer."""
    while (sample := subscriber.receive()) is not None:
        yield as_image(sample.payload().as_memory_view(), shape)
        sample.delete()


class IoxReader(FrameReader):
    def __init__(self, node, shape):
        self.node, self.shape = node, shape
        self.listener = node.event(0).listener_builder().create()
        self.subscriber = node.data(0).subscriber_builder().create()

    def frames(self):
        while True:
            self.listener.blocking_wait()
            yield from waiting_in(self.subscriber, self.shape)


class IoxChannels(FrameReader):
    def __init__(self, node, spec):
        self.node, self.shape = node, spec.shape
        iox = node.iox
        self.waitset = iox.WaitSetBuilder.new().create(iox.ServiceType.Ipc)
        self.channels, self.guards = {}, []
        for channel in range(spec.channels):
            listener = node.event(channel).listener_builder().create()
            subscriber = node.data(channel).subscriber_builder().create()
            guard = self.waitset.attach_notification(listener)
            self.channels[iox.WaitSetAttachmentId.from_guard(guard)] = listener, subscriber
            self.guards.append(guard)

    def frames(self):
        while True:
            ids, _ = self.waitset.wait_and_process()
            for i in ids:
                listener, subscriber = self.channels[i]
                listener.try_wait()
                yield from waiting_in(subscriber, self.shape)


class Iceoryx2(Channels):
    name = "iceoryx2"
    family = "peer"
    modules = ("iceoryx2",)
    channels = True
    overflow = True
    note = (
        "loan_slice_uninit, memmove, send, notify; the reader waits on a Listener and takes all samples; "
        "buffer of 8 with safe overflow (the oldest is dropped); channels: a WaitSet over one Listener each"
    )

    def load(self):
        import iceoryx2

        self.iox = iceoryx2

    def node(self, spec):
        return Node(self.iox, spec, self.overflow)

    def writer(self, spec, shared):
        return IoxWriter(self.node(spec), spec.nbytes)

    def reader(self, spec, shared, index):
        return IoxReader(self.node(spec), spec.shape)

    def channel_writer(self, spec, shared, first, count):
        node = self.node(spec)
        return take_turns([IoxWriter(node, spec.nbytes, i) for i in range(first, first + count)])

    def channel_reader(self, spec, shared):
        return IoxChannels(self.node(spec), spec)


class Reliable(Iceoryx2):
    name = "iceoryx2-reliable"
    channels = False
    lossy = False
    overflow = False
    note = "iceoryx2 without overflow: RetryUntilDelivered, the writer waits"
