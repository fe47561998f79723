"""A storm of signals whose handler raises, anywhere in publish, set_header, attach, recv, close and serve.

`python storm_program.py NUMBER [SEED]` ends after so many have raised inside a call. After each the object
works or says that it is closed; now and then all descriptors, mappings and threads are counted.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np

import valkka_async as va
from support.until import wait_for

PATIENCE = 20.0


class Interrupt(BaseException):
    """What the handler raises."""


class Storm:
    """Calls functions, and has a signal come at some moment of most calls."""

    def __init__(self, rng: random.Random) -> None:
        self.raised: Counter[str] = Counter()
        self._rng = rng
        self._armed = ""
        self._seconds: dict[str, float] = {}  # that a call of this kind takes
        signal.signal(signal.SIGALRM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        kind, self._armed = self._armed, ""
        if kind:
            self.raised[kind] += 1
            raise Interrupt

    def call(self, kind: str, function: Callable[[], object]) -> bool:
        """True: it came to its end. What it returns is lost at times, so let it note that itself."""
        usual = self._seconds.get(kind, 0.001)
        try:
            began = time.perf_counter()
            self._armed = kind
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, self._rng.uniform(0, 1.2 * usual)))
            function()
            self._armed = ""
        except Interrupt:
            return False
        self._seconds[kind] = usual + 0.05 * (min(time.perf_counter() - began, 0.01) - usual)
        return True


class Program:
    """One server that lives through it all, and a reader that misses nothing."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.storm = Storm(self.rng)
        self.server = va.serve("s", slots=32, max_clients=1000)
        self.steady = va.attach("s", policy="ordered")
        self.stormy = va.attach("s", reconnect=True)
        self.seen = 0
        self.read(self.stormy)
        self.holdings = self.count()

    # ------------------------------------------------------------------------------- what is right

    def image(self, number: int) -> np.ndarray:
        size = 1000 if self.rng.random() < 0.8 else self.rng.randrange(1000, 300_000)
        return np.full(size, number % 251, np.uint8)

    def publish(self) -> None:
        """The server publishes, and what it publishes is read, whatever was interrupted before."""
        number = self.server.stats().published + 1
        assert self.server.publish(self.image(number)), "no slot is free"
        assert self.server.stats().published == number
        while self.seen < number:
            with self.steady.recv(PATIENCE) as frame:
                assert (frame.seq, frame.dropped) == (self.seen + 1, 0), (frame, self.seen)
                assert (frame.array == frame.seq % 251).all(), "torn"
                self.seen = frame.seq

    def read(self, reader: va.Reader) -> None:
        """The reader gets the newest frame, over another connection if need be."""
        self.publish()
        while True:
            with reader.recv(PATIENCE) as frame:
                if frame.seq == self.seen:
                    return

    def count(self) -> tuple[int, int, int, int]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text().count("/memfd:valkka")
        # The kernel's threads: one that was interrupted while it was started is listed by Python for ever.
        threads = len(os.listdir("/proc/self/task"))
        return len(os.listdir("/proc/self/fd")), maps, threads, self.server.readers

    def check(self) -> None:
        assert sorted(os.listdir(os.environ["VALKKA_RUNTIME_DIR"])) == ["s.lock", "s.sock"]
        va.serve("other").close()  # the name is free
        self.read(self.stormy)
        try:
            wait_for(lambda: self.count() == self.holdings, PATIENCE)
        except TimeoutError:
            print("left behind:", self.count(), "and not", self.holdings, file=sys.stderr)
            raise

    # --------------------------------------------------------------------- what is interrupted

    def publishing(self) -> None:
        image = self.image(self.server.stats().published + 1)
        self.storm.call("publish", lambda: self.server.publish(image))
        self.publish()

    def heading(self) -> None:
        header = self.rng.randbytes(8)
        self.storm.call("set_header", lambda: self.server.set_header(header))
        self.server.set_header(header)
        self.publish()
        assert self.steady.header == header

    def receiving(self) -> None:
        self.storm.call("recv", lambda: self.stormy.recv(PATIENCE).release())
        self.publish()

    def attaching(self) -> None:
        made: list[va.Reader] = []
        self.storm.call("attach", lambda: made.append(va.attach("s")))
        for reader in made:
            with reader:
                self.read(reader)

    def closing(self) -> None:
        reader = va.attach("s")
        self.publish()
        frame = reader.recv(PATIENCE)
        self.storm.call("close", reader.close)
        if not reader.closed:
            reader.close()
        assert reader.closed
        self.publish()
        assert (frame.array == frame.seq % 251).all(), "written over"

    def serving(self) -> None:
        made: list[va.Server] = []
        self.storm.call("serve", lambda: made.append(va.serve("other")))
        for server in made:
            server.publish(b"x")
            server.close()

    def ending(self) -> None:
        server = va.serve("other")
        server.publish(b"x")
        self.storm.call("close server", server.close)
        server.close()
        assert server.closed

    def run(self, number: int) -> None:
        kinds = {
            self.publishing: 6, self.heading: 1, self.receiving: 2, self.attaching: 3, self.closing: 3,
            self.serving: 2, self.ending: 2,
        }  # fmt: skip
        while (raised := sum(self.storm.raised.values())) < number:
            for _ in range(min(300, number - raised)):
                self.rng.choices([*kinds], [*kinds.values()])[0]()
            self.check()
        stats = self.steady.stats()
        assert (stats.received, stats.dropped) == (self.server.stats().published, 0)
        self.stormy.close()
        self.steady.close()
        self.server.close()
        print("raised", sum(self.storm.raised.values()), dict(self.storm.raised))


if __name__ == "__main__":
    sys.unraisablehook = lambda _: None  # of __del__ and callbacks that the handler met
    Program(int(sys.argv[2]) if len(sys.argv) > 2 else 1).run(int(sys.argv[1]))
