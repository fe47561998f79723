# SPDX-License-Identifier: MIT
"""Many cameras in one plain program: one `select` waits for all of them.

A reader is a descriptor, like a socket, and goes into the same selector: no event loop, and no threads of
yours. Each second it prints the number of frames of each camera, and the age of the oldest one.

What libValkka's version could not do: a client had to repeat its server's frame size, number of slots and
event descriptor, a server had one client, and a server's death went unnoticed.

    .venv/bin/python examples/many_select.py [URL, file or ring ...]

See also camera.py: anything but a URL or a file is the name of a ring that another program serves."""

import collections
import contextlib
import os
import selectors
import sys
import time

import valkka_async as va

SOURCES = sys.argv[1:] or ["lavfi:testsrc2=size=1280x720:rate=25", "lavfi:testsrc=size=640x360:rate=15"]


def name_of(stack: contextlib.ExitStack, number: int, source: str) -> str:
    """The ring to read. For a URL or a file, starts a camera that serves it."""
    if ":" not in source and not os.path.exists(source):
        print(f"waiting for {source!r}", flush=True)
        return source
    name = f"select{number}"
    stack.enter_context(va.Camera(name, source, [va.Output(name, size=(480, 270))]))
    return name


def main() -> None:
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for number, source in enumerate(SOURCES, 1):
            reader = stack.enter_context(va.attach(name_of(stack, number, source), open_timeout=None))
            selector.register(reader, selectors.EVENT_READ, reader)
        counts, oldest, due = collections.Counter[str](), 0.0, time.monotonic() + 1
        while selector.get_map():
            for key, _ in selector.select(timeout=max(0.0, due - time.monotonic())):
                try:
                    while (frame := key.data.recv_nowait()) is not None:
                        with frame:  # released at the end of the block
                            counts[frame.source] += 1
                            oldest = max(oldest, frame.age)
                except va.ConnectionClosed as end:  # the server was closed, or its process died
                    print(f"{key.data.name} is gone: {end}", flush=True)
                    selector.unregister(key.fileobj)
            if time.monotonic() >= due:
                each = "  ".join(f"{name} {count}" for name, count in sorted(counts.items()))
                print(f"{each or 'no frames'}, {oldest * 1000:.0f} ms old at most", flush=True)
                counts, oldest, due = collections.Counter[str](), 0.0, time.monotonic() + 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
