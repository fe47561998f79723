# SPDX-License-Identifier: MIT
"""The importing worker: a process that decodes one host's cameras, each into a ring, while somebody reads it.

    python -m valkka_async.link.decoder

What that host sends is decoded here and nowhere else. messages.py has what comes on standard input and what
is
said on standard output; the process ends with its input.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from fractions import Fraction
from typing import Any, NoReturn, cast

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from valkka_async import typed
from valkka_async.camera.decode import Decoder
from valkka_async.camera.pixels.convert import Converter
from valkka_async.camera.status import OutputStatus, StreamStatus, no_sound, of_streams
from valkka_async.errors import (
    CameraFormatError,
    ConnectError,
    ConnectionClosed,
    NoFreeSlotError,
    ValkkaError,
)
from valkka_async.link.messages import Alive, Import, decode_work, encode
from valkka_async.link.receiver import META
from valkka_async.rates import EventRate
from valkka_async.ring.frame import Frame
from valkka_async.ring.reader import Reader, attach
from valkka_async.ring.server import Server

_LOOK = 0.5  # s between looks for what has no readers any more
_LINGER = 2.0  # s without readers after which decoding ends
_SOON = 0.02
_OPEN = 5.0
_PATIENCE = 0.03  # s for the next unit, while the newest frame is looked for,
_FRESH = 0.3  # s of age, which it has at most,
_CATCH_UP = 3.0  # s for that
_SLOTS = 16
_BEAT = 1.0
_CODECS = {"h264": "h264", "h265": "hevc", "jpeg": "mjpeg"}
_Stamp = tuple[int, Fraction | None, dict[str, Any]]  # capture time, time base, metadata

log = logging.getLogger("valkka_async.link")


class Foreign:
    """One camera: its ring, and the thread that decodes into it."""

    def __init__(self, spec: Import) -> None:
        self.spec = spec
        self.errors = 0
        self._server = Server(
            spec.name,
            slots=_SLOTS,
            max_clients=64,
            mode=0o600,
            group=None,
            backlog=None,
            backlog_bytes=1,
            watch="thread",
        )
        self._server.describe(self._describe)
        self._since_ns = time.time_ns()
        self._converter = Converter(spec.format)
        self._rate = EventRate()
        self._codec, self._size = "", (0, 0)
        self._packets = self._decoded = self._dropped = 0
        self._last_ns = 0
        self._cpu_s = 0.0
        self._read_at = -_LINGER  # when it last had readers
        self._wanted = threading.Event()
        self._stop = False
        self._said = ""
        self._thread = threading.Thread(target=self._run, name=spec.name, daemon=True)
        self._thread.start()
        self._server.when_readers_change(self._note_readers)

    def _note_readers(self) -> None:
        if self._server.readers:
            self._read_at = time.monotonic()
            self._wanted.set()

    def look(self, now: float) -> None:
        """Has it readers?"""
        self._note_readers()
        if now - self._read_at > _LINGER and not self._stop:
            self._wanted.clear()

    def follow(self, spec: Import) -> None:
        """Another word of what it is doing."""
        if spec.state != self.spec.state:
            self._since_ns = time.time_ns()
        self.spec = spec

    def close(self) -> None:
        """Close the ring. Its thread is left alone: it may hang in a library."""
        self._stop = True
        self._wanted.set()
        self._server.close()

    # ---------------------------------------------------------------------------------- decoding

    def _run(self) -> None:
        while not self._stop:
            self._wanted.wait()
            try:
                with attach(f"{self.spec.name}/packets", policy="ordered", open_timeout=_OPEN) as reader:
                    self._decode_all(reader)
            except ConnectionClosed:
                time.sleep(_SOON)  # one is closed and another served, or the link has ended
            except Exception as e:
                if str(e) != self._said:
                    self._said = str(e)
                    log.warning("%s: %s; trying again", self.spec.name, e)
                time.sleep(_OPEN / 10)
            if not self._server.closed:
                self._server.expire()

    def _decode_all(self, reader: Reader) -> None:
        """While somebody wants it: first through what came before, without converting, to the newest
        frame."""
        decoder: Decoder[_Stamp] | None = None
        made_of: tuple[str, bytes] | None = None
        newest: tuple[VideoFrame, _Stamp] | None = None
        late, until = True, time.monotonic() + _CATCH_UP
        while not self._stop and self._wanted.is_set():
            try:
                frame = reader.recv(_PATIENCE if newest is not None else _LINGER)
            except TimeoutError:
                if newest is not None:
                    self._publish(*newest)
                    newest, late = None, False
                continue
            with frame:
                self._note(frame)
                if frame.key and made_of != (frame.format, reader.header):
                    made_of = frame.format, reader.header
                    decoder = Decoder(_context(*made_of), 1, prompt=True)
                elif frame.key and decoder is not None and (frame.dropped or _lost(frame)):
                    decoder.reset()
                if decoder is None:
                    continue
                before = decoder.errors
                stamp = frame.timestamp_ns, frame.time_base, frame.meta
                made = decoder.decode(_packet(frame), stamp)
                self.errors += decoder.errors - before
                if late and (frame.age < _FRESH or time.monotonic() > until):
                    late, newest = False, None
                    made = made[-1:]
            if late:
                newest = made[-1] if made else newest
            else:
                for one in made:
                    self._publish(*one)
            self._cpu_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)

    def _note(self, frame: Frame) -> None:
        self._packets += 1
        self._codec = _CODECS.get(frame.format, frame.format)
        self._last_ns = frame.timestamp_ns
        self._rate.note(time.monotonic())

    def _publish(self, image: VideoFrame, stamp: _Stamp) -> None:
        self._decoded += 1
        self._size = image.width, image.height
        try:
            slot = self._server.loan(
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
            self._dropped += 1
        except (CameraFormatError, av.error.FFmpegError) as e:
            self._dropped += 1
            if str(e) != self._said:
                self._said = str(e)
                log.warning("%s: %s", self.spec.name, e)

    # ------------------------------------------------------------------------------------ telling

    def _describe(self) -> dict[str, Any]:
        """For `top` and `snap`."""
        spec, stats = self.spec, self._server.stats()
        output = OutputStatus(
            spec.name, spec.format, "", stats.readers, stats.published, self._dropped, 0, 0, False
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
            codec=self._codec,
            width=self._size[0],
            height=self._size[1],
            fps=self._rate.rate(time.monotonic()) or 0.0,
            key_interval=0.0,
            clock_disagrees=False,
            early=True,
            packets=self._packets,
            decoded=self._decoded,
            errors=self.errors,
            last_packet_ns=self._last_ns,
            cpu_s=self._cpu_s,
            sound=no_sound(),
        )
        status = of_streams(spec.name, os.getpid(), (stream,), (), (output,))
        return {"camera": typed.encode(status)}


def _context(format: str, header: bytes) -> VideoCodecContext:
    context = cast("VideoCodecContext", av.CodecContext.create(_CODECS[format], "r"))
    if header:
        context.extradata = header
    return context


def _packet(frame: Frame) -> Any:
    packet: Any = Packet(bytes(frame.data))
    packet.pts, packet.dts = frame.pts, frame.dts
    packet.is_keyframe = frame.key
    if frame.duration is not None:
        packet.duration = frame.duration
    if frame.time_base is not None:
        packet.time_base = frame.time_base
    return packet


def _lost(frame: Frame) -> bool:
    link = frame.meta.get(META)
    return isinstance(link, dict) and bool(link.get("lost"))


class Worker:
    """Reads what there is to do, and looks at the rings between."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._cameras: dict[str, Foreign] = {}
        self._buffer = b""
        self._retry = 0.0
        self._work: tuple[Import, ...] = ()

    def run(self) -> None:
        """Until the link closes its end."""
        poll = select.poll()
        poll.register(self._commands, select.POLLIN)
        beat = 0.0
        while True:
            if poll.poll(_LOOK * 1e3):
                data = os.read(self._commands, 1 << 16)
                if not data:
                    return
                self._hear(data)
            now = time.monotonic()
            for camera in self._cameras.values():
                camera.look(now)
            if len(self._cameras) < len(self._work) and now >= self._retry:
                self._follow()
            if now >= beat:
                beat = now + _BEAT
                errors = sum(camera.errors for camera in self._cameras.values())
                os.write(self._answers, encode(Alive(len(self._cameras), errors)))

    def _hear(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if lines:  # each has all
            self._work = decode_work(lines[-1]).imports
            self._follow()

    def _follow(self) -> None:
        wanted = {spec.name: spec for spec in self._work}
        for name in self._cameras.keys() - wanted.keys():
            self._cameras.pop(name).close()
        for name, spec in wanted.items():
            if (there := self._cameras.get(name)) is not None:
                there.follow(spec)
                continue
            try:
                self._cameras[name] = Foreign(spec)
            except (ConnectError, ValkkaError) as e:  # its name is taken
                self._retry = time.monotonic() + _OPEN
                log.warning("%s: %s; trying again", name, e)

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
