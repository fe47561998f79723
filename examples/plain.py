# SPDX-License-Identifier: MIT
"""The plain reader, without an event loop: its descriptor, a frame's header, array and lease.

It waits with poll(), prints everything that a frame says of itself, and releases the frame explicitly.
`select`, `selectors` and `epoll` take a reader too, beside sockets and pipes (many_select.py).

What libValkka's version could not do: it gave the number of a slot, which could be overwritten while you read
it, and did not count the frames that you missed.

    .venv/bin/python examples/plain.py [URL, file, or the name of a ring]

See also camera.py (the ring "camera"); client.py is the same in asyncio."""

import contextlib
import os
import select
import sys

import valkka_async as va


def show(frame: va.Frame, reader: va.Reader) -> None:
    print(f"frame {frame.seq} of {frame.source}: {frame.format} {frame.shape}, {frame.nbytes} bytes")
    print(f"  taken {frame.timestamp_ns} ns (Unix), published {frame.published_ns} ns (monotonic)")
    print(
        f"  pts {frame.pts} x {frame.time_base} s, key {frame.key}, meta {frame.meta}, missed {frame.dropped}"
    )
    array = frame.array  # a view of the shared memory: no copy, and read-only
    print(
        f"  mean {array.mean():.1f}, writable {array.flags.writeable}, leases {reader.stats().leases}",
        end=", ",
    )
    del array  # a lease lasts as long as any view of the frame
    frame.release()
    try:
        frame.array  # noqa: B018
    except va.FrameReleasedError as error:
        print(f"then {reader.stats().leases} ({error})", flush=True)


def main(ring: str) -> None:
    print(f"waiting for {ring!r}", flush=True)
    with va.attach(ring, open_timeout=None) as reader:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        while True:
            if not poll.poll(2000):
                print("nothing for 2 s", flush=True)
            elif (frame := reader.recv_nowait()) is not None:  # None: woken, but there is no frame
                show(frame, reader)


if __name__ == "__main__":
    ring = source = sys.argv[1] if sys.argv[1:] else "lavfi:testsrc2=size=1920x1080:rate=25"
    own: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if ":" in source or os.path.exists(source):  # not the ring of another program: a camera of our own
        ring = "plain"
        own = va.Camera(ring, source, [va.Output(ring, size=(480, 270), fps=5)])
    with contextlib.suppress(KeyboardInterrupt, va.ConnectionClosedOK), own:
        main(ring)
