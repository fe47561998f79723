# SPDX-License-Identifier: MIT
"""Recorder: a ring of fragmented MP4 into files that any player opens."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from valkka_async.camera.mp4 import boxes, edits, sound
from valkka_async.errors import ConnectionClosed, RecorderError
from valkka_async.record.contents import CLOCK_SET_NS, GAP_NS, Contents
from valkka_async.record.disk import Disk, Journal
from valkka_async.record.held import Held, Piece
from valkka_async.record.pattern import Pattern
from valkka_async.ring.client import Client, connect
from valkka_async.ring.frame import Frame
from valkka_async.ring.names import check_source
from valkka_async.timeouts import check_timeout, timeout

log = logging.getLogger("valkka_async")

_CLOSE_SECONDS = 10.0  # for a disk to take what is still to be written
_EARLY = 0.005  # s before `seconds` are over, by which a key frame may come and still be on time
_LATE = 1.0  # s that a frame may come after it was taken, and still be in the file
_LEAD = 2  # s of sound that may be in a file before its picture
_UNREAD = 10_000  # finished files whose paths wait for the iteration


@dataclass(frozen=True, slots=True)
class RecorderStats:
    """``files`` begun, ``frames`` and ``bytes`` written to them, frames ``dropped`` (published, but not
    recorded), the ``path`` that is being written (None: none) and its ``duration`` in seconds so far; when
    something was written last (``written_ns``, Unix; None: nothing was) and bytes that the disk has still to
    take (``pending``). ``waits``: it is for clip(), and none is asked for; ``held_ns``: when the newest frame
    was taken that is kept for it. ``quiet``: seconds since a frame was written, or kept while it waits (None:
    none was), whatever has become of the clock."""

    files: int
    frames: int
    bytes: int
    dropped: int
    path: Path | None
    duration: float
    written_ns: int | None
    pending: int
    waits: bool = False
    held_ns: int | None = None
    quiet: float | None = None


class _Part:
    """What is known of the file that is being written. Times are decode times, in units of `time_base`."""

    def __init__(self, init_segment: bytes, base: int, begin: int, time_base: Fraction) -> None:
        self.contents = Contents.of(init_segment)
        self.init_segment = init_segment
        self.base = base  # the time that is 0 in the file
        self.later = 0  # by which the picture begins later, as the file's head says
        self.time_base = time_base
        self.newest = begin
        self.latest_ns = 0  # when a frame was taken, Unix
        self.sequence = 0
        self.gop = 0  # bytes from the last key frame on
        self.largest_gop = 0

    def seconds(self, dts: int) -> float:
        """That time in the file."""
        return float((dts - self.base) * self.time_base)


class Recorder:
    """Records the ring called ``name``, an output of format "fmp4", into files::

        async with va.Recorder("cam1.mp4", "/recordings/{name}/%Y-%m-%d/%H-%M-%S.mp4") as recorder:
            async for path in recorder:
                print("finished", path)

    The recording begins with the newest key frame that the ring has, which may be from before it was started
    (by up to a GOP). Each file begins with a key frame, near time 0, and ends before one. Sound, which comes
    a moment after the picture, is cut where it is: a file ends with a moment of picture alone, whose sound
    begins the next file. The next one begins
    when the file is ``seconds`` long or would outgrow ``max_bytes``, when frames were lost, when the server
    was restarted, the frames' size or codec changed, or the clock was set back, or for the first time since
    1970; a camera that reconnects leaves a gap in the file's times. A server that is not there (yet, or any
    more) is waited for.

    Files are written under their final names from the first byte on, and each frame with one system call: a
    recorder that is killed leaves files that play up to the last frame. (A power cut may cost what the
    kernel has not written yet, as with any file.) A file that exists is never overwritten.

    Writing is a thread's work. While the disk is too slow, up to ``buffer_bytes`` wait in memory; then frames
    stay in the ring until it drops them, which is counted, and the file ends there.

    Parameters
    ----------
    pattern
        The path of a file. Fields of ``strftime`` give the local time at which it begins, ``{name}`` the
        ring's name (as folders, where it has slashes), ``{n}`` the file's number, from 1 on (``{n:04}`` with
        leading zeros). Folders are made. Where a path is taken already, "-2", "-3" ... is added to the
        file's name.
    seconds, max_bytes
        When to begin the next file: at the first key frame then. None: never for this reason.
    buffer_bytes
        Most that may wait for the disk.
    open_timeout
        Seconds to wait for the server at the beginning; None: for ever.
    before
        Record what clip() asks for, and nothing else. This many seconds before it are kept in memory for
        it, as far as they fit into ``buffer_bytes``.
    journal
        Is told of each file as it begins and ends; see record/disk.py.

    Raises ValueError, InvalidNameError. What goes wrong later (the disk is full: RecorderError, which is
    an OSError too; no such server: TimeoutError; refused: ConnectError) ends the recording and is raised by
    wait(), by the iteration, and at the end of ``async with`` if neither was used. If nobody waits when it
    happens, it is logged at once.
    """

    def __init__(
        self,
        name: str,
        pattern: str | os.PathLike[str],
        *,
        seconds: float | None = 60.0,
        max_bytes: int | None = None,
        buffer_bytes: int = 32 << 20,
        open_timeout: float | None = None,
        before: float | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._name = check_source(name)
        self._pattern = Pattern(os.fspath(pattern), name)
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"seconds is above 0 or None, not {seconds!r}")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes is at least 1 or None, not {max_bytes!r}")
        if buffer_bytes < 1:
            raise ValueError(f"buffer_bytes is at least 1, not {buffer_bytes!r}")
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._buffer_bytes = buffer_bytes
        if before is not None and not (math.isfinite(before) and before >= 0):
            raise ValueError(f"before is 0 or more seconds, or None, not {before!r}")
        self._held = None if before is None else Held(before, buffer_bytes)
        self._until_ns = 0  # up to which frames are written, Unix; without `before` all are
        self._happened_ns = 0  # the event of which no file knows yet; 0: there is none
        self._ending: asyncio.TimerHandle | None = None
        self._open_timeout = check_timeout(open_timeout, "open_timeout")
        self._journal = journal
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._raised = False
        self._waiters = 0  # tasks in wait() or the iteration, which raise what goes wrong
        self._disk_failed = False
        self._client: Client | None = None
        self._lost = 0  # frames dropped on connections that are over
        self._disk: Disk | None = None
        self._part: _Part | None = None
        self._heard: int | None = None  # the end of the sound so far
        self._number = 0
        self._finished: deque[Path] = deque(maxlen=_UNREAD)

    # ------------------------------------------------------------------------------------ use

    async def wait(self) -> None:
        """Wait until the recording is over: by aclose(), or by an error, which this raises. Cancelling
        the wait does not end the recording."""
        task = self._begun()
        self._waiters += 1
        try:
            await asyncio.wait([task])
        finally:
            self._waiters -= 1
        self._raise()

    def __aiter__(self) -> Self:
        """The paths of finished files, as they are finished, until the recording is over.

        The last 10 000 that were not taken yet are remembered.
        """
        return self

    async def __anext__(self) -> Path:
        self._begun()
        while True:
            ended = self._disk is None or self._disk.ended  # before looking for what it has completed
            if self._disk is not None:
                self._finished.extend(self._disk.complete())
            if self._finished:
                return self._finished.popleft()
            if ended:
                self._raise()
                raise StopAsyncIteration
            self._changed.clear()
            self._waiters += 1
            try:
                await self._changed.wait()
            finally:
                self._waiters -= 1

    def clip(self, before: float | None = None, after: float = 20.0) -> None:
        """Record from ``before`` seconds ago (by default, and at most, those that the recorder keeps) until
        ``after`` seconds from now, and return at once. The file begins with a key frame. Asked for again
        before that is over, it goes on for longer. For a recorder with `before`, that was begun.

        Raises ValueError, RuntimeError.
        """
        if self._held is None:
            raise ValueError("clip() is for a recorder that waits for it: Recorder(..., before=10)")
        for name, value in (("before", before or 0.0), ("after", after)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is 0 or more seconds, not {value!r}")
        if self._begun().done() or self._disk is None:
            raise RuntimeError(f"{self!r}: it is over")
        now = time.time_ns()
        self._until_ns = max(self._until_ns, now + int(after * 1e9))
        if self._part is None:
            for piece in self._held.take(0 if before is None else now - int(before * 1e9)):
                self._write(self._disk, piece)
        if self._part is not None:
            self._part.contents.happened(now)
        else:  # the file begins when a frame comes
            self._happened_ns = now
        if self._ending is not None:
            self._ending.cancel()
        # Also if no frame comes that would tell that it is over.
        left = (self._until_ns - now) / 1e9 + _LATE
        self._ending = asyncio.get_running_loop().call_later(left, self._over, self._disk)

    def stats(self) -> RecorderStats:
        """Counters since the beginning."""
        disk, part = self._disk, self._part
        dropped = self._lost + (self._client.stats().dropped if self._client is not None else 0)
        if disk is None:
            return RecorderStats(0, 0, 0, dropped, None, 0.0, None, 0, self._held is not None)
        path = disk.path
        duration = part.seconds(part.newest) if part is not None and path is not None else 0.0
        counts = disk.files, disk.pieces, disk.bytes, dropped
        waits = self._held is not None and time.time_ns() > self._until_ns
        held_ns, at = None, disk.written_at
        if self._held is not None:
            held_ns, at = self._held.newest_ns, self._held.newest_at if waits else at
        quiet = None if at is None else time.monotonic() - at
        return RecorderStats(*counts, path, duration, disk.written_ns, disk.pending, waits, held_ns, quiet)

    @property
    def name(self) -> str:
        """The ring's name."""
        return self._name

    async def aclose(self) -> None:
        """Write what is in memory, complete the file, and end. Idempotent.

        A disk that has not answered after 10 seconds is left to its thread. Cancelling leaves it closing by
        itself.
        """
        if self._task is None or self._disk is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        with contextlib.suppress(TimeoutError):
            async with timeout(_CLOSE_SECONDS):
                while not self._disk.ended:
                    self._changed.clear()
                    await self._changed.wait()
        if not self._disk.ended:
            log.warning("%s: the disk does not answer; %d bytes are left to a thread", self._name,
                        self._disk.pending)  # fmt: skip

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a recorder records once: make another")
        loop = asyncio.get_running_loop()
        changed = partial(_call_in, loop, self._on_change)
        self._disk = Disk(self._buffer_bytes // 2, changed, self._journal)
        self._task = loop.create_task(self._run(self._disk), name=f"record {self._name}")
        self._task.add_done_callback(self._stop)  # also if it is cancelled before it runs
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        if error is None and not self._raised:
            self._raise()

    def __repr__(self) -> str:
        over = self._task is not None and self._task.done()
        state = "not begun" if self._task is None else "over" if over else "recording"
        return f"<Recorder of {self._name} [{state}]>"

    def _raise(self) -> None:
        self._check_disk()
        if self._error is not None:
            self._raised = True
            raise self._error

    def _begun(self) -> asyncio.Task[None]:
        if self._task is None:
            raise RuntimeError(f"{self!r}: record with `async with`")
        return self._task

    # ------------------------------------------------------------------------------ the recording

    async def _run(self, disk: Disk) -> None:
        try:
            await self._record(disk)
        except asyncio.CancelledError:  # by aclose()
            pass
        except Exception as e:
            self._fail(e)

    def _stop(self, task: asyncio.Task[None]) -> None:
        self._part = None
        if self._ending is not None:
            self._ending.cancel()
        if self._disk is not None:
            self._disk.stop()

    async def _record(self, disk: Disk) -> None:
        timeout = self._open_timeout
        while True:
            client = connect(self._name, policy="ordered", open_timeout=timeout)
            timeout = None
            async with client:
                self._client = client
                try:
                    while True:
                        with await client.recv() as frame:
                            piece = self._piece(frame, client.header)
                        self._take(disk, piece)
                        await self._room(disk)
                except ConnectionClosed as e:
                    log.info("recording %s: %s", self._name, str(e))
                finally:
                    self._client = None
                    self._lost += client.stats().dropped
            self._finish(disk)
            if self._held is not None:
                self._held.clear()

    async def _room(self, disk: Disk) -> None:
        """Wait while the disk is behind."""
        if disk.pending > self._buffer_bytes:
            log.warning("recording %s: the disk is too slow; frames may be lost", self._name)
            while disk.pending > self._buffer_bytes // 2 and disk.error is None:
                self._changed.clear()
                await self._changed.wait()

    def _piece(self, frame: Frame, init_segment: bytes) -> Piece:
        if frame.format != "fmp4":
            raise RecorderError(
                f"{self._name} is {frame.format} and cannot be recorded: it takes an output of format 'fmp4'"
            )
        dts, time_base = frame.dts, frame.time_base
        if dts is None or not time_base:
            raise RecorderError(f"{self._name} cannot be recorded: its frames have no dts and time_base")
        about = frame.key, frame.dropped, dts, time_base, frame.timestamp_ns
        return Piece(bytearray(frame.data), *about, init_segment)

    def _take(self, disk: Disk, piece: Piece) -> None:
        """Write it, or hold it until something happens."""
        if self._held is None:
            self._write(disk, piece)
            return
        part = self._part
        if part is not None and part.contents.begin_ns < CLOCK_SET_NS <= piece.timestamp_ns:
            if self._until_ns < CLOCK_SET_NS:  # it lasts as long as it was to
                self._until_ns += piece.timestamp_ns - part.contents.end_ns
        # What is written is held too: the next clip may begin before this one ends.
        wanted = piece.timestamp_ns <= self._until_ns
        self._held.add(Piece(bytearray(piece.data), *piece[1:]) if wanted else piece)
        if wanted:
            self._write(disk, piece)
        else:
            self._finish(disk)

    def _write(self, disk: Disk, piece: Piece) -> None:
        data, dts, time_base, init_segment = piece.data, piece.dts, piece.time_base, piece.init_segment
        try:
            part = self._part
            if part is not None and self._ends(part, piece):
                part = self._part = None
                disk.finish()
            begins = part is None
            if part is None:
                if not piece.key:  # rare: the ring goes on with a key frame when it has lost one
                    self._finish(disk)
                    return
                part = _Part(init_segment, self._base(data, dts, time_base, piece.dropped), dts, time_base)
            part.sequence += 1
            part.newest = dts
            part.latest_ns = max(part.latest_ns, piece.timestamp_ns)
            heard = sound.span(data)
            if heard is not None:
                self._heard = heard[1]
                if heard[0] < part.base:  # it came too late for the file before
                    data = bytearray(sound.fragment_without(data))
            if begins and part.base < dts:
                init_segment, part.later = edits.with_picture_later(init_segment, dts - part.base)
                part.contents = Contents.of(init_segment)
            boxes.move(data, part.sequence, part.base, part.later)
            data = _noted(part.contents, data, piece)
        except ValueError as e:
            raise RecorderError(f"{self._name} is not fragmented MP4 as it should be: {e}") from None
        self._part = part
        if begins and self._happened_ns:
            part.contents.happened(self._happened_ns)
            self._happened_ns = 0
        if begins:
            data = bytearray(init_segment + data)
            disk.begin(self._path(piece), data, part.contents)
        else:
            disk.write(data)
        if piece.key:
            part.gop = 0
        part.gop += len(data)
        part.largest_gop = max(part.largest_gop, part.gop)

    def _base(self, data: bytearray, dts: int, time_base: Fraction, dropped: int) -> int:
        """The time that is to be 0 in a file that begins with this fragment. Sound comes a little later than
        the picture: what there is of it from before begins the file, so that none is lost."""
        heard = sound.span(data)
        begin = heard[0] if heard is not None else None if dropped else self._heard
        return dts if begin is None or not 0 < dts - begin < _LEAD / time_base else begin

    def _ends(self, part: _Part, piece: Piece) -> bool:
        """Does the file end before this frame?"""
        other = piece.init_segment != part.init_segment or piece.time_base != part.time_base
        if piece.dropped or other or piece.dts < part.newest:
            return True
        if not piece.key:
            return False
        if piece.timestamp_ns < part.latest_ns - GAP_NS:  # the clock was set back
            return True
        if part.contents.begin_ns < CLOCK_SET_NS <= piece.timestamp_ns:  # it was set at last
            return True
        if self._seconds is not None and part.seconds(piece.dts) >= self._seconds - _EARLY:
            return True
        # The GOP that begins here will be about as large as the largest so far.
        return self._max_bytes is not None and part.contents.whole_size + part.largest_gop > self._max_bytes

    def _over(self, disk: Disk) -> None:
        """The time of a clip is, also by a clock that was set back."""
        self._until_ns = 0
        self._finish(disk)

    def _finish(self, disk: Disk) -> None:
        self._heard = None
        if self._part is not None:
            self._part = None
            disk.finish()

    def _path(self, piece: Piece) -> Path:
        self._number += 1
        begin = datetime.fromtimestamp(piece.timestamp_ns / 1e9).astimezone()
        return self._pattern.path(begin, self._number)

    def _on_change(self) -> None:
        """The disk has completed a file, has room again, has failed or has ended."""
        self._changed.set()
        self._check_disk()

    def _check_disk(self) -> None:
        e = self._disk.error if self._disk is not None else None
        if e is None or self._disk_failed:
            return
        self._disk_failed = True
        text = f"cannot be written: {e.strerror}"
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            text += "; make room, and record again"
        if self._disk is not None and self._disk.bytes:
            text += "; what was written before plays"
        self._fail(RecorderError(e.errno, text, e.filename))
        if self._task is not None:
            self._task.cancel()

    def _fail(self, error: Exception) -> None:
        if not self._waiters:  # nothing else tells it now
            log.error("recording %s: %s", self._name, str(error))
        self._error = self._error or error


def _noted(contents: Contents, data: bytearray, piece: Piece) -> bytearray:
    """A fragment as it goes into the file: with the time at which it was taken, if it is to be marked."""
    about, ns = boxes.about(data), piece.timestamp_ns
    if 0 < contents.begin_ns < CLOCK_SET_NS <= ns:  # up to the next key frame, which begins another file
        ns = contents.end_ns
    mark = contents.marks_next(ns, piece.key)
    if mark:
        data = bytearray(boxes.reference_time(about.decode, ns) + data)
    contents.add(len(data), ns, about.decode, about.duration, mark)
    return data


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits any more
        loop.call_soon_threadsafe(function)
