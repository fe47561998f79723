# SPDX-License-Identifier: MIT
"""Archive: the recordings that there are. Keeps their index, deletes what is no longer to be kept, and finds
ranges of time in them.

A thread does the work, in order: recorders' threads tell of files, the event loop asks. What it cannot write
(a full disk) it tries again; the files have it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Self, TypeAlias, TypeVar

from valkka_async.errors import RecorderError
from valkka_async.foreign import start
from valkka_async.record import contents as files
from valkka_async.record.clip import MOST_MARKS, Clip, plan
from valkka_async.record.contents import CLOCK_SET_NS, Contents
from valkka_async.record.diary import Diary
from valkka_async.record.disk import is_written, make_folder
from valkka_async.record.index import Entry, Index, Stored, broken, entry, is_damage
from valkka_async.record.pattern import Found, Pattern
from valkka_async.record.retention import Held, Keep, victims
from valkka_async.record.timeline import Line, Timeline
from valkka_async.timeouts import timeout

T = TypeVar("T")
_Source: TypeAlias = "tuple[Entry, Contents | None]"  # what there is of one that is being written
_EVERY = 5.0  # s from one look at what is kept to the next, at most
_WALK = 3600.0  # s from one look through the folders to the next
_MEMORY = 60.0  # the same, while the index is in memory
_CLOSE_SECONDS = 10.0
_STEP_NS = 3600 * 10**9  # by which a clock that is set tells nothing of how old files are
_DOUBT_NS = 24 * _STEP_NS  # for so long: time to set it right again
_WAITING = 1000  # jobs, with which events are no longer noted: the disk does not keep up
_AHEAD_NS = 24 * _STEP_NS  # by which a file ends later than now, if it is of a clock that was wrong
_ALWAYS_NS = (1 << 63) - 1
_AT_ONCE = 100  # files that are read before somebody else has a turn
_SOME = 200  # the same, of those that the index knows
_LONG_NS = 24 * 3600 * 10**9  # of a clip

log = logging.getLogger("valkka_async.service")


@dataclass(frozen=True, slots=True)
class Kept:
    """A camera's recordings: where they go, and their bounds, if they have their own."""

    pattern: Pattern
    keep: Keep


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """All recordings together."""

    index: str | None  # its file; None: there is none yet, or it cannot be written and is in memory
    ready: bool  # all files have been found
    bytes: int
    files: int
    oldest_ns: int | None  # when the oldest file begins; None: there is none
    free: int | None  # bytes of the file system that they are on, the fullest of these
    deleted_files: int  # since the beginning, to keep within bounds
    deleted_bytes: int
    problem: str  # what keeps the index from being written, or files from being deleted; "": nothing does


def index_of(recordings: str, service: str) -> Path:
    """Where a service of this name, whose recordings have this pattern, has their index."""
    above_cameras = Pattern(recordings.replace("{name}", "{n}"), "-").root
    return above_cameras / f".index-{service}.sqlite"


class Archive:
    """Use it with ``async with``; then follow() says of what. `place`: the index's file, which is made with
    the first recording. All times are Unix nanoseconds, of `clock_ns`. Methods but journal() belong to the
    event loop."""

    def __init__(self, place: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._place = place
        self._clock_ns = clock_ns
        self._cameras: Mapping[str, Kept] = {}
        self._total = Keep()
        self._other: Callable[[str], Pattern] | None = None
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._ended_event = asyncio.Event()
        self._over = False
        self._long = asyncio.Lock()
        self._ticker: asyncio.Task[None] | None = None
        # The thread's own:
        self._index: Index | None = None
        self._diary = Diary(place.with_name(place.name.replace(".index", ".events")))
        self._open: dict[Path, tuple[str, Contents]] = {}  # being written
        self._recorded: set[str] = set()  # cameras that have recordings, as far as is known
        self._behind = False  # the index lacks something
        self._walking = False
        self._left: dict[Path, Held] = {}  # what cannot be deleted, or is nobody's that the config names
        self._ahead_ns: int | None = None  # of the clock, against one that nobody sets
        self._doubted_ns: int | None = None  # since when, by that one, it is not trusted
        self._deleted_files = self._deleted_bytes = 0
        self._trouble = self._memory = self._undeleted = self._small = ""
        # Written by the thread, read by all:
        self._stored: dict[str, Stored] = {}
        self._free: int | None = None
        self._ready = False

    # ------------------------------------------------------------------------------- the loop's side

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        start(threading.Thread(target=self._run, args=(loop,), name="valkka-archive", daemon=True))
        self._ticker = asyncio.create_task(self._tick(), name="keep recordings")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End, once what was told is in the index. Idempotent. A disk that has not answered after 10 seconds
        is left to the thread. Cancelling leaves it ending by itself."""
        if self._ticker is None:
            return
        if not self._over:
            self._over = True
            self._jobs.put(None)
        self._ticker.cancel()
        await asyncio.wait([self._ticker])
        try:
            async with timeout(_CLOSE_SECONDS):
                await self._ended_event.wait()
        except TimeoutError:
            log.warning("the disk does not answer; the index of recordings is left to a thread")

    def follow(self, cameras: Mapping[str, Kept], total: Keep, other: Callable[[str], Pattern]) -> None:
        """These are the cameras now, with the bounds of all together. `other`: where the recordings of a
        camera are that is no longer among them."""
        self._cameras, self._total, self._other = dict(cameras), total, other
        self._submit(self._walk)

    def journal(self, camera: str) -> _Journal:
        """For a camera's recorder."""
        return _Journal(self, camera)

    def stored(self, camera: str) -> Stored | None:
        """What there is of a camera; None: nothing."""
        return self._stored.get(camera)

    def stored_by_camera(self) -> dict[str, Stored]:
        """What there is of each camera of which there is something, in the config or not any more."""
        return dict(self._stored)

    def status(self) -> ArchiveStatus:
        """All together."""
        stored = list(self._stored.values())
        index = self._index
        return ArchiveStatus(
            index=None if index is None or index.path is None else str(index.path),
            ready=self._ready,
            bytes=sum(one.bytes for one in stored),
            files=sum(one.files for one in stored),
            oldest_ns=min((one.oldest_ns for one in stored), default=None),
            free=self._free,
            deleted_files=self._deleted_files,
            deleted_bytes=self._deleted_bytes,
            problem=self._trouble or self._memory or self._undeleted or self._small,
        )

    async def timeline(self, camera: str, from_ns: int, to_ns: int) -> Timeline:
        """When a camera was recorded. Raises RecorderError where the index cannot be read. May be
        cancelled."""
        line = Line(from_ns, to_ns)

        def add(files: list[_Source]) -> bool:
            line.add(one for one, _ in files)
            return False

        await self._each(camera, from_ns, to_ns, add)
        stored = self._stored.get(camera)
        oldest = None if stored is None else stored.oldest_ns
        newest = None if stored is None else stored.newest_ns
        noted = await self._ask(lambda: self._diary.between(camera, from_ns, to_ns))
        events = tuple(sorted([*line.events(), *noted], key=lambda event: event.at_ns))
        return Timeline(camera, from_ns, to_ns, oldest, newest, line.spans(), line.gaps(), events)

    async def clip(self, camera: str, from_ns: int, to_ns: int) -> Clip:
        """A range of a camera's recordings. Raises ClipError, OSError (RecorderError is one). May be
        cancelled."""
        sources: list[tuple[Path, Contents]] = []

        def collect(found: list[_Source]) -> bool:
            sources.extend(self._with_contents(found))
            return sum(len(contents.marks) for _, contents in sources) > MOST_MARKS

        # Long ones take memory while they are made, so there is one at a time; and others do not wait for it.
        async with self._long if to_ns - from_ns > _LONG_NS else contextlib.nullcontext():
            await self._each(camera, from_ns, to_ns, collect)
            if len(sources) < _AT_ONCE:
                return await self._ask(lambda: plan(sources, from_ns, to_ns))
            return await asyncio.to_thread(plan, sources, from_ns, to_ns)

    async def settled(self) -> None:
        """Wait until what was told is done. May be cancelled."""
        await self._ask(lambda: None)
        while self._walking:  # noqa: ASYNC110 - the thread's, in turns
            await asyncio.sleep(0.01)
        await self._ask(lambda: None)  # a look at what is kept

    async def _each(
        self, camera: str, from_ns: int, to_ns: int, work: Callable[[list[_Source]], bool]
    ) -> None:
        """Do something with the files of that time, in their order, some at a time; until it is True."""
        after: Entry | None = None

        def some() -> Entry | None:
            found, last = self._entries(camera, from_ns, to_ns, after)
            return None if work(found) else last

        while (after := await self._ask(some)) is not None:
            pass

    async def _ask(self, work: Callable[[], T]) -> T:
        if self._over or self._ticker is None:
            raise RuntimeError("the archive of recordings is not open")
        answer: Future[T] = Future()

        def job() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(self._do(work))
                except sqlite3.Error as e:
                    answer.set_exception(RecorderError(f"the index of recordings cannot be read: {e}"))
                except BaseException as e:
                    answer.set_exception(e)

        self._jobs.put(job)
        return await asyncio.wrap_future(answer)

    async def _tick(self) -> None:
        walked = time.monotonic()
        while True:
            await asyncio.sleep(_EVERY)
            # One after the other: another program may have the index locked for long.
            await self._ask(lambda: self._try(self._keep))
            every = _EVERY if self._behind else _MEMORY if self._memory else _WALK
            if time.monotonic() - walked > every:
                await self._ask(lambda: self._try(self._walk))
                walked = time.monotonic()

    # --------------------------------------------------------------------------------- any thread's

    def _submit(self, work: Callable[[], object]) -> None:
        self._jobs.put(lambda: self._try(work))

    def happened(self, camera: str, at_ns: int, code: str, text: str) -> None:
        """Note what no recording says, for timeline(). Nothing is noted before there are recordings."""
        if self._jobs.qsize() < _WAITING:
            self._jobs.put(lambda: self._diary.note(camera, at_ns, code, text))

    def begun(self, camera: str, path: Path, contents: Contents) -> None:
        """As of a Journal."""
        self._submit(lambda: self._begun(camera, path, contents))
        self._submit(self._keep)

    def ended(self, camera: str, path: Path, contents: Contents | None) -> None:
        """As of a Journal."""
        self._submit(lambda: self._ended(camera, path, contents))
        self._submit(self._keep)

    # --------------------------------------------------------------------------------- the thread's

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        finally:
            self._close()
            self._diary.close()
            with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits any more
                loop.call_soon_threadsafe(self._ended_event.set)

    def _try(self, work: Callable[[], object]) -> None:
        """Do what nobody waits for."""
        try:
            self._do(work)
        except (sqlite3.Error, OSError) as e:
            self._behind = True
            text = f"the index of recordings: {e}"
            if self._trouble != text:
                self._trouble = text
                log.warning("%s; trying again", text)
        except Exception:
            log.exception("an error in the archive of recordings")

    def _do(self, work: Callable[[], T]) -> T:
        """Once more with another index, if this one is damaged. Raises what `work` does."""
        try:
            return work()
        except sqlite3.Error as e:
            if not is_damage(e):
                raise
            log.warning("the index of recordings is damaged (%s); it is made again from the files", str(e))
            if self._index is not None:
                self._index.discard()
                self._index = None
            self._ready = False
            self._submit(self._walk)
        return work()

    def _close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def _known(self, *, make: bool = False, walk: bool = True) -> Index | None:
        """The index; None: there is none yet. `make`: then there is now. Raises OSError, sqlite3.Error."""
        lost = self._index is not None and not self._index.is_there()
        if lost:  # somebody has deleted it, or put another in its place
            self._close()
        if self._index is None and (make or self._place.parent.is_dir()):
            self._index = self._with_file() or Index(None)
            if (self._index.fresh or lost) and walk:
                self._ready = False
                self._submit(self._walk)
        return self._index

    def _with_file(self) -> Index | None:
        """The index with its file; None: that cannot be written. Raises sqlite3.Error where it is damaged."""
        text = ""
        try:
            make_folder(self._place.parent)
            return Index(self._place)
        except (OSError, sqlite3.Error) as e:
            if isinstance(e, sqlite3.Error) and is_damage(e):
                raise
            text = f"the index of recordings is in memory; {self._place} cannot be written: {e}"
            if text != self._memory:
                log.warning("%s", text)
            return None
        finally:
            self._memory = text

    def _begun(self, camera: str, path: Path, contents: Contents) -> None:
        self._open[path] = camera, contents
        if camera not in self._recorded:
            self._recorded.add(camera)
            self._diary.recorded(camera)
        if self._behind:  # the next walk finds it; another attempt would take its time
            return
        index = self._known(make=True)
        assert index is not None
        index.put([(entry(camera, path, contents, 0, whole=False), None)])

    def _ended(self, camera: str, path: Path, contents: Contents | None) -> None:
        try:
            if self._behind:
                return
            index = self._known(make=True)
            assert index is not None
            found = _found(camera, path, contents)
            if found is None:
                index.forget([path])
            else:
                index.put([found])
        finally:
            self._open.pop(path, None)

    # ----------------------------------------------------------------------- what there is on disk

    def _walk(self) -> None:
        """Compare the index with the folders."""
        self._trouble = self._undeleted = ""
        self._left.clear()
        if self._index is not None and self._index.path is None and (other := self._with_file()) is not None:
            self._index.close()  # there is room now
            self._index = other
        index = self._known(walk=False)
        if index is None or self._over:
            self._ready = True
            return
        seen: dict[Path, tuple[str, Found]] = {}
        for camera, kept in self._cameras.items():
            for found in kept.pattern.files():
                before = seen.get(found.path)
                if before is None or (found.exact and not before[1].exact):
                    seen[found.path] = camera, found
        known = index.known()
        # Also of cameras that left the config, of which an index that was made again does not know. Any other
        # folder that looks like a camera's may be a copy that somebody keeps, or another service's.
        for camera in self._diary.cameras().difference(self._cameras):
            pattern = self._pattern(camera)
            for found in () if pattern is None else pattern.files():
                seen.setdefault(found.path, (camera, found))
        recorded = {camera for camera, _ in seen.values()} | {camera for camera, *_ in known.values()}
        if recorded != self._recorded:
            self._recorded = recorded
            self._diary.keep_cameras(recorded)
        index.forget([path for path in known if path not in seen and not _is_file(path)])
        new = [
            (found.mtime_ns, camera, path)
            for path, (camera, found) in seen.items()
            if path not in self._open and not self._is_right(known.get(path), camera, path, found.size)
        ]
        self._behind = False
        self._walking = True
        self._read_some([(camera, path) for _, camera, path in sorted(new)])

    def _is_right(self, known: tuple[str, int, bool] | None, camera: str, path: Path, size: int) -> bool:
        """Is what the index knows of a file of this camera and size all there is to know?"""
        if known is None or known[1:] != (size, True):
            return False
        # The camera may have another name now. Of two whose patterns fit, the one that has written it knows.
        before = self._cameras.get(known[0])
        return known[0] == camera or (before is not None and before.pattern.owns(path) is not False)

    def _read_some(self, left: list[tuple[str, Path]]) -> None:
        """The newest files first, a few at a time."""
        now, later = left[-_AT_ONCE:], left[:-_AT_ONCE]
        found: list[tuple[Entry, Contents | None]] = []
        gone = []
        try:
            for camera, path in now:
                if path in self._open:
                    continue
                one = _found(camera, path)
                if one is None:
                    gone.append(path)
                else:
                    found.append(one)
            index = self._known()
            if index is not None:
                index.put(found)
                index.forget(gone)
        except BaseException:
            self._walking = False
            self._submit(self._keep)  # it may be for want of room
            raise
        if later and not self._over:
            self._submit(lambda: self._read_some(later))
        else:
            self._walking = False
            self._ready = True
            self._submit(self._keep)

    # ----------------------------------------------------------------------------- what is kept

    def _keep(self) -> None:
        """Count, and delete what is beyond the bounds."""
        index = self._known()
        if index is None:
            return
        self._date(index)
        stored, growing = index.stored(), self._growing()
        self._count(stored, growing)
        devices, free = self._file_systems()
        each, total = self._bounds()
        if not (self._ready or self._behind):  # a full disk keeps the index from being complete
            return
        sizes = Counter({camera: one.bytes for camera, one in stored.items()})
        for path, size in growing.items():
            sizes[self._open[path][0]] += size
        for one in self._left.values():
            sizes[one.camera] -= one.size
        now_ns = self._clock_ns()
        latest_ns = now_ns + _AHEAD_NS if self._doubted_ns is None else _ALWAYS_NS
        wrong = any(one.newest_ns > latest_ns for one in stored.values())
        with contextlib.closing(self._held(index, latest_ns, wrong, growing, devices)) as held:
            found = victims(held, sizes, now_ns, latest_ns, each, total, free)
            gone = [one.path for one in found if self._delete(one)]
        if gone:
            index.forget(gone)
            self._count(index.stored(), growing)

    def _date(self, index: Index) -> None:
        """Give recordings of a clock that was not set their times, once it is: as those of their files, which
        outlast the index. Where nobody knows when it was set, the newest one ends now."""
        now_ns = self._clock_ns()
        if now_ns < CLOCK_SET_NS or self._walking or self._behind:
            return
        found = [
            one
            for one in index.before(CLOCK_SET_NS)
            if one.path not in self._open and one.path not in self._left
        ]
        if not found:
            return
        newest_ns = max(one.end_ns for one in found)
        step_ns = self._step_ns(now_ns)
        by_ns = step_ns if step_ns > CLOCK_SET_NS - newest_ns else now_ns - newest_ns
        dated = [
            (one.camera, one.path) for one in found if self._end_at(one, min(now_ns, one.end_ns + by_ns))
        ]
        log.warning("recordings of before the clock was set get their times: %d", len(dated))
        self._diary.shift(CLOCK_SET_NS, by_ns)
        self._walking = True
        self._read_some(dated)

    def _end_at(self, one: Entry, ns: int) -> bool:
        """Have its file say so. False: that cannot be, and it stays."""
        try:
            files.end_at(one.path, ns)
            return True
        except FileNotFoundError:
            return True
        except OSError as e:
            trouble = e.strerror
        self._left[one.path] = Held(one.camera, one.path, one.begin_ns, one.end_ns, one.size, False, None)
        self._undeleted = f"{one.path} is of a clock that was not set, and stays: {trouble}"
        log.error("%s", self._undeleted, extra={"camera": one.camera})
        return False

    def _held(
        self,
        index: Index,
        latest_ns: int,
        ahead: bool,
        growing: Mapping[Path, int],
        devices: Mapping[str, int],
    ) -> Generator[Held, None, None]:
        """Files in the order in which they are to go. `ahead`: some end later than `latest_ns`."""
        dated_ns = CLOCK_SET_NS if self._clock_ns() >= CLOCK_SET_NS else 0
        first = index.oldest_first(latest_ns, ahead=True) if ahead else iter(())
        for one in chain(first, index.oldest_first(latest_ns)):
            busy = one.path in self._open
            if (one.whole or busy) and one.path not in self._left and one.end_ns >= dated_ns:
                size, device = growing.get(one.path, one.size), devices.get(one.camera)
                yield Held(one.camera, one.path, one.begin_ns, one.end_ns, size, busy, device)

    def _bounds(self) -> tuple[dict[str, Keep], Keep]:
        """Of each camera and of all; without ages, while the clock is not to be trusted."""
        each, total = {camera: kept.keep for camera, kept in self._cameras.items()}, self._total
        if self._is_clock_good():
            return each, total
        return {camera: replace(keep, age=None) for camera, keep in each.items()}, replace(total, age=None)

    def _is_clock_good(self) -> bool:
        """A clock that is set forward by a year makes everything old, and one that is set back makes it be of
        the future. So it is not believed for a day."""
        steady_ns, now_ns = _steady_ns(), self._clock_ns()
        step_ns = self._step_ns(now_ns)
        if abs(step_ns) > _STEP_NS and self._doubted_ns is None:
            self._doubted_ns = steady_ns
            text = "the clock was set by %+.0f h: no recording is deleted for its age in the next 24 h"
            log.warning(text, step_ns / _STEP_NS)
        if abs(step_ns) <= _STEP_NS or (
            self._doubted_ns is not None and steady_ns - self._doubted_ns > _DOUBT_NS
        ):
            self._ahead_ns, self._doubted_ns = now_ns - steady_ns, None
        return self._doubted_ns is None

    def _step_ns(self, now_ns: int) -> int:
        """By which the clock was set since it was last believed."""
        return 0 if self._ahead_ns is None else now_ns - _steady_ns() - self._ahead_ns

    def _growing(self) -> dict[Path, int]:
        sizes = {}
        for path in self._open:
            with contextlib.suppress(OSError):
                sizes[path] = path.stat().st_size
        return sizes

    def _count(self, known: Mapping[str, Stored], growing: Mapping[Path, int]) -> None:
        stored = dict(known)
        for path, (camera, contents) in self._open.items():
            before = stored.get(camera)
            oldest_ns = contents.begin_ns if before is None else min(before.oldest_ns, contents.begin_ns)
            count, size = (0, 0) if before is None else (before.files, before.bytes)
            stored[camera] = Stored(size + growing.get(path, 0), count + 1, oldest_ns, contents.end_ns)
        self._stored = stored

    def _pattern(self, camera: str) -> Pattern | None:
        """Where the recordings of a camera are; None: nobody has said so yet."""
        kept = self._cameras.get(camera)
        return kept.pattern if kept is not None else self._other(camera) if self._other else None

    def _file_systems(self) -> tuple[dict[str, int], dict[int, int]]:
        """On which each camera's recordings are, and what these have free, if they can have as much as is to
        be."""
        devices, free, unfit, small = {}, {}, set(), ""
        for camera in {*self._cameras, *self._stored}:
            with contextlib.suppress(OSError):
                if (pattern := self._pattern(camera)) is None:
                    continue
                root = pattern.root
                while not root.exists() and root != root.parent:
                    root = root.parent
                device = root.stat().st_dev
                devices[camera] = device
                if device not in free:
                    status = os.statvfs(root)
                    free[device] = status.f_bavail * status.f_frsize
                    if (self._total.free or 0) > status.f_blocks * status.f_frsize:
                        small = f"keep.free is more than there is where {root} is: nothing is deleted for it"
                        unfit.add(device)
        self._free = min(free.values(), default=None)
        if small != self._small:
            self._small = small
            if small:
                log.error("%s", small)
        return devices, {device: room for device, room in free.items() if device not in unfit}

    def _delete(self, held: Held) -> bool:
        """Whatever the index says: only what recordings may have written. False: it stays."""
        pattern = self._pattern(held.camera)
        try:
            if pattern is None or pattern.owns(held.path) is False or not self._is_known(held, pattern.root):
                self._left[held.path] = held
                return False
            os.unlink(held.path)
        except FileNotFoundError:
            return True
        except OSError as e:
            self._left[held.path] = held
            self._undeleted = f"{held.path} cannot be deleted: {e.strerror}"
            log.error("%s", self._undeleted, extra={"camera": held.camera})
            return False
        self._deleted_files += 1
        self._deleted_bytes += held.size
        log.info("%s: %s deleted", held.camera, held.path, extra={"camera": held.camera})
        folder, root = held.path.parent, pattern.root
        with contextlib.suppress(OSError):  # it is not empty
            while folder != root and len(folder.parts) > len(root.parts):
                os.rmdir(folder)
                folder = folder.parent
        return True

    def _is_known(self, held: Held, root: Path) -> bool:
        """Is it still the file that the index has, and does nobody write it? Folders that somebody has moved
        away, with a link in their place, are theirs. Raises OSError."""
        status = os.lstat(held.path)
        folder = held.path.parent
        there = os.path.normpath(os.path.join(os.path.realpath(root), folder.relative_to(root)))
        if not stat.S_ISREG(status.st_mode) or os.path.realpath(folder) != there:
            return False
        if status.st_size != held.size:  # another one, of which the next walk reads what it is
            return False
        return not is_written(held.path)

    # ------------------------------------------------------------------------------ what is asked

    def _entries(
        self, camera: str, from_ns: int, to_ns: int, after: Entry | None
    ) -> tuple[list[_Source], Entry | None]:
        """The first files of that time `after` one, those that are being written among them, in their order;
        and the last one, unless these are all."""
        index = self._known()
        known = [] if index is None else index.between(camera, from_ns, to_ns, after, _SOME)
        last = known[-1] if len(known) == _SOME else None
        found: list[_Source] = [(one, None) for one in known if one.whole and one.path not in self._open]
        least = -1 if after is None else after.begin_ns
        most = to_ns if last is None else last.begin_ns
        for path, (name, growing) in self._open.items():
            if name == camera and growing.begin_ns < to_ns and growing.end_ns > from_ns:
                marks, gaps, events = [*growing.marks], [*growing.gaps], [*growing.events]
                now = replace(growing, marks=marks, gaps=gaps, events=events)
                if least < now.begin_ns <= most:
                    found.append((entry(camera, path, now, now.size, whole=False), now))
        return sorted(found, key=lambda one: one[0].begin_ns), last

    def _with_contents(self, found: list[_Source]) -> list[tuple[Path, Contents]]:
        index, known = self._known(), []
        for one, contents in found:
            if contents is None and index is not None:
                contents = index.contents(one.path)
            if contents is None:
                with contextlib.suppress(OSError, ValueError):
                    contents = files.read(one.path)
            if contents is not None:
                known.append((one.path, contents))
        return known


def _found(camera: str, path: Path, contents: Contents | None = None) -> tuple[Entry, Contents | None] | None:
    """What the index is to have of a file that nobody writes; None: it is no recording, or none any more."""
    try:
        if contents is None:
            contents = files.read(path)
        return entry(camera, path, contents, path.stat().st_size, whole=True), contents
    except (OSError, ValueError):
        pass
    try:
        return (broken(camera, path, path.stat()), None) if files.is_begun(path) else None
    except OSError:
        return None


def _steady_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)  # which nobody sets


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


class _Journal:
    """A camera's recorder tells an archive."""

    def __init__(self, archive: Archive, camera: str) -> None:
        self._archive = archive
        self._camera = camera

    def begun(self, path: Path, contents: Contents) -> None:
        self._archive.begun(self._camera, path, contents)

    def ended(self, path: Path, contents: Contents | None) -> None:
        self._archive.ended(self._camera, path, contents)
