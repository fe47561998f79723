# SPDX-License-Identifier: MIT
"""The importing worker: a process that decodes one host's cameras, each into a ring, while somebody reads it,
and makes fragmented MP4 of them for recorders.

    python -m valkka_async.link.decoder

What that host sends is looked into here and nowhere else. messages.py has what comes on standard input and
what is said on standard output; the process ends with its input.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from fractions import Fraction
from typing import Any, NoReturn

import av
from av.video.frame import VideoFrame

from valkka_async import typed
from valkka_async.camera.decode import Decoder
from valkka_async.camera.pixels.convert import Converter
from valkka_async.camera.status import OutputStatus, StreamStatus, no_sound, of_streams
from valkka_async.errors import CameraFormatError, NoFreeSlotError, RingMemoryError, ValkkaError
from valkka_async.link.faults import Fault, lines_of_a_host
from valkka_async.link.messages import Alive, Failure, Import, decode_work, encode
from valkka_async.link.muxed import Muxed
from valkka_async.link.ondemand import LINGER, OnDemand, received
from valkka_async.link.packets import CODECS, context, is_after_loss, packet
from valkka_async.link.receiver import STREAM_SLOTS
from valkka_async.rates import EventRate
from valkka_async.ring.frame import Frame
from valkka_async.ring.reader import Reader
from valkka_async.ring.server import BACKLOG_BYTES, Backlog, Server

_LOOK = 0.5  # s between looks for what has no readers any more
_AT_ONCE = 16  # cameras whose rings are made before anything else has its turn
_AGAIN = 5.0  # s until a ring is made again whose name was taken
_PATIENCE = 0.03  # s for the next unit, while the newest frame is looked for,
_FRESH = 0.3  # s of age, which it has at most,
_CATCH_UP = 3.0  # s for that
_SLOTS = 16
_BEAT = 1.0
_FAILURES = 128  # cameras in one sign of life
_Stamp = tuple[int, Fraction | None, dict[str, Any]]  # capture time, time base, metadata

log = logging.getLogger("valkka_async.link")


class Decoded(OnDemand):
    """HOST/CAMERA: its pixels."""

    fault = Fault.DECODE

    def __init__(self, spec: Import) -> None:
        self.errors = 0
        self.cpu_s = 0.0
        self.size = 0, 0
        self.codec = ""
        self.packets = self.decoded = self.dropped = 0
        self.last_ns = 0
        self.rate = EventRate()
        self._converter = Converter(spec.format)
        super().__init__(_serve(spec.name, None), f"{spec.name}/packets")

    def work(self, reader: Reader) -> None:
        """First through what came before, without converting, to the newest frame."""
        decoder: Decoder[_Stamp] | None = None
        made_of: tuple[str, bytes] | None = None
        newest: tuple[VideoFrame, _Stamp] | None = None
        late, until = True, time.monotonic() + _CATCH_UP
        while self.going:
            frame = received(reader, _PATIENCE if newest is not None else LINGER)
            if frame is None:
                if newest is not None:
                    self._publish(*newest)
                    newest, late = None, False
                continue
            with frame:
                self._note(frame)
                if frame.key and made_of != (frame.format, reader.header):
                    made_of = frame.format, reader.header
                    decoder = Decoder(context(*made_of), 1, prompt=True)
                elif frame.key and decoder is not None and is_after_loss(frame):
                    decoder.reset()
                if decoder is None:
                    continue
                before = decoder.errors
                stamp = frame.timestamp_ns, frame.time_base, frame.meta
                made = decoder.decode(packet(frame), stamp)
                if decoder.errors > before:
                    self.errors += 1
                    self.fail(Fault.DECODE)
                if late and (frame.age < _FRESH or time.monotonic() > until):
                    late, newest = False, None
                    made = made[-1:]
            if late:
                newest = made[-1] if made else newest
            else:
                for one in made:
                    self._publish(*one)
            self.cpu_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)

    def _note(self, frame: Frame) -> None:
        self.packets += 1
        self.codec = CODECS.get(frame.format, frame.format)
        self.last_ns = frame.timestamp_ns
        self.rate.note(time.monotonic())

    def _publish(self, image: VideoFrame, stamp: _Stamp) -> None:
        self.decoded += 1
        self.size = image.width, image.height
        try:
            slot = self.server.loan(
                self._converter.shape(image),
                self._converter.format,
                timestamp_ns=stamp[0],
                pts=image.pts,
                duration=image.duration or None,
                time_base=stamp[1],
                meta=stamp[2],
            )
            try:
                self._converter.write(image, slot.array)
                slot.publish()
            except BaseException:
                slot.discard()
                raise
        except NoFreeSlotError:
            self.dropped += 1
            self.fail(Fault.SLOTS)
        except (CameraFormatError, av.error.FFmpegError) as e:
            self.dropped += 1
            self.fail(Fault.PIXELS, e)
        except RingMemoryError as e:
            self.dropped += 1
            self.fail(Fault.RING, e)


class Foreign:
    """One camera: its rings, and what `top` and `snap` are told."""

    def __init__(self, spec: Import) -> None:
        self.spec = spec
        self._since_ns = time.time_ns()
        self._said = 0  # failures
        self._pixels = Decoded(spec)
        try:
            self._muxed = Muxed(spec.name, _serve(f"{spec.name}/fmp4", "gop"))
        except BaseException:
            self._pixels.close()
            raise
        self._pixels.server.describe(self._describe)
        self._muxed.server.describe(self._describe)

    def failure(self) -> Failure | None:
        """Since the last time that this was asked. None: there was none."""
        works: tuple[OnDemand, ...] = self._pixels, self._muxed
        failed = sum(work.failed for work in works)
        count, self._said = failed - self._said, failed
        newest = next((work.newest for work in works if work.newest is not None), None)
        if not count or newest is None:
            return None
        for work in works:
            work.newest = None
        return Failure(self.spec.name, count, newest)

    def look(self, now: float) -> None:
        """Have they readers?"""
        self._pixels.look(now)
        self._muxed.look(now)

    def follow(self, spec: Import) -> None:
        """Another word of what it is doing."""
        if spec.state != self.spec.state:
            self._since_ns = time.time_ns()
        self.spec = spec

    def close(self) -> None:
        """Close the rings."""
        self._pixels.close()
        self._muxed.close()

    def _describe(self) -> dict[str, Any]:
        spec, pixels = self.spec, self._pixels
        outputs = (
            _output(pixels.server, spec.format, pixels.dropped),
            _output(self._muxed.server, "fmp4", self._muxed.dropped),
        )
        stream = StreamStatus(
            name="",
            url=f"link:{spec.name}",
            state=spec.state,
            cause=spec.cause,
            reason=spec.reason,
            since_ns=self._since_ns,
            attempts=1,
            reconnects=0,
            retry_in=None,
            codec=pixels.codec,
            width=pixels.size[0],
            height=pixels.size[1],
            fps=pixels.rate.rate(time.monotonic()) or 0.0,
            key_interval=0.0,
            clock_disagrees=False,
            early=True,
            packets=pixels.packets,
            decoded=pixels.decoded,
            errors=pixels.errors,
            last_packet_ns=pixels.last_ns,
            cpu_s=pixels.cpu_s,
            sound=no_sound(),
        )
        status = of_streams(spec.name, os.getpid(), (stream,), (), outputs)
        return {"camera": typed.encode(status)}


def _serve(name: str, backlog: Backlog | None) -> Server:
    return Server(
        name,
        slots=STREAM_SLOTS if backlog else _SLOTS,
        max_clients=64,
        mode=0o600,
        group=None,
        backlog=backlog,
        backlog_bytes=BACKLOG_BYTES,
        watch="thread",
    )


def _output(server: Server, format: str, dropped: int) -> OutputStatus:
    stats = server.stats()
    return OutputStatus(
        server.name,
        format,
        "",
        stats.readers,
        stats.published,
        dropped,
        0,
        stats.backlog,
        stats.backlog_outgrown,
    )


class Worker:
    """Reads what there is to do, and looks at the rings between."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._cameras: dict[str, Foreign] = {}
        self._buffer = b""
        self._work: dict[str, Import] = {}
        self._lines = lines_of_a_host()
        self._retry: dict[str, float] = {}  # by the name of a camera whose rings could not be made

    def run(self) -> None:
        """Until the link closes its end."""
        poll = select.poll()
        poll.register(self._commands, select.POLLIN)
        beat = 0.0
        more = False
        while True:
            if poll.poll(0 if more else _LOOK * 1e3):
                data = os.read(self._commands, 1 << 16)
                if not data:
                    return
                self._hear(data)
            now = time.monotonic()
            more = self._make(now)
            for camera in self._cameras.values():
                camera.look(now)
            if now >= beat:
                beat = now + _BEAT
                os.write(self._answers, encode(Alive(len(self._cameras), self._failures())))

    def _failures(self) -> tuple[Failure, ...]:
        """Of the cameras that were asked longest ago, as many as a line has room for."""
        found: list[Failure] = []
        for name in [*self._cameras]:
            if len(found) == _FAILURES:
                break
            camera = self._cameras[name] = self._cameras.pop(name)
            if (failure := camera.failure()) is not None:
                found.append(failure)
        return tuple(found)

    def _hear(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if not lines:
            return
        self._work = {spec.name: spec for spec in decode_work(lines[-1]).imports}  # each has all
        self._retry.clear()
        for name in self._cameras.keys() - self._work.keys():
            self._cameras.pop(name).close()
        for name, camera in self._cameras.items():
            camera.follow(self._work[name])

    def _make(self, now: float) -> bool:
        """Cameras that have no rings yet, a few at a time: the sign of life must not wait for a thousand.
        True: there are more."""
        due = [
            spec
            for name, spec in self._work.items()
            if name not in self._cameras and self._retry.get(name, now) <= now
        ]
        for spec in due[:_AT_ONCE]:
            try:
                self._cameras[spec.name] = Foreign(spec)
            except (ValkkaError, OSError) as e:  # its name is taken; no room for a file or a thread
                self._retry[spec.name] = now + _AGAIN
                if self._lines():
                    log.warning("%s: %s; trying again", spec.name, e)
        return len(due) > _AT_ONCE

    def close(self) -> None:
        """All rings."""
        for camera in self._cameras.values():
            camera.close()


def main() -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the link, which decides
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    worker = Worker(sys.stdin.fileno(), sys.stdout.fileno())
    status = 1
    try:
        worker.run()
        status = 0
    except BrokenPipeError:
        status = 0
    finally:
        worker.close()
        # Not through Python's own end, which would wait for threads that hang in a library.
        os._exit(status)


if __name__ == "__main__":
    main()
