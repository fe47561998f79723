# SPDX-License-Identifier: MIT
"""Server and clients in processes of their own, from one file, by `multiprocessing`: spawned or forked.

This does what is considered dangerous: it forks workers while there are a camera (with its thread) and a
reader. That is safe: what a child inherits is inert and says so, and the child opens its own by name. The
usual rule for fork still holds: the child has none of the parent's threads, and a lock that one of them held
stays locked, so do not use the parent's PyAV, OpenCV or logging there. "spawn", the default here, has no such
rule.

What libValkka's version could not do: "fork must go before threading". All processes had to be made before
the first object of the library, and then told in which order to begin.

    .venv/bin/python examples/processes.py [spawn or fork] [URL or file]

See also one_file.py, which needs no processes.
"""

import contextlib
import multiprocessing
import signal
import sys

import valkka_async as va

METHOD = sys.argv.pop(1) if sys.argv[1:2] in (["spawn"], ["fork"]) else "spawn"
inherited: va.Reader | None = None  # a forked worker sees the parent's, a spawned one does not


def work(number: int) -> None:
    if inherited is not None:
        try:
            inherited.recv()
        except va.InheritedError as error:
            print(f"worker {number}, forked: {error}", flush=True)
    # Until the camera is closed, or its process has died.
    with contextlib.suppress(va.ConnectionClosed, TimeoutError), va.attach("processes") as reader:
        for frame in reader:
            with frame:
                print(f"worker {number}: frame {frame.seq}, brightness {frame.array.mean():.0f}", flush=True)


def main(url: str) -> None:
    global inherited
    output = va.Output("processes", size=(480, 270), fps=2)
    with va.Camera("processes", url, [output]), va.attach("processes") as inherited:
        print(f"parent: frame {inherited.recv().seq}, and now {METHOD}", flush=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # workers ignore Ctrl-C, and end with the parent
        multiprocessing.set_start_method(METHOD)
        for number in (1, 2):
            multiprocessing.Process(target=work, args=(number,), daemon=True).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for frame in inherited:  # still the parent's own
            with frame:
                print(f"parent: frame {frame.seq}, brightness {frame.array.mean():.0f}", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1] if sys.argv[1:] else "lavfi:testsrc2=size=1920x1080:rate=25")
