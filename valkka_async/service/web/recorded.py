# SPDX-License-Identifier: MIT
"""Recordings over HTTP: when there are some, any range of time as one MP4, and a picture of any time.

Requests name cameras and times, and never files.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from aiohttp import hdrs, web

from valkka_async import typed
from valkka_async.errors import CameraFormatError
from valkka_async.record.clip import Clip, ClipCause, ClipError
from valkka_async.service.web.contract import Archive, Find
from valkka_async.service.web.problems import Code, Part, problem
from valkka_async.service.web.stills import Stills, TooMany

_CLIPS = 32  # that are sent at once
_DAY_NS = 24 * 3600 * 1_000_000_000
_LAST_NS = 1 << 62
_WIDTHS = range(16, 1921)  # px, of pictures
_WIDTH = 320


@dataclass(frozen=True, slots=True)
class Listed:
    """A camera of which there are recordings, which the config may not have any more."""

    name: str
    configured: bool
    bytes: int
    files: int
    oldest_ns: int  # when the oldest file begins, Unix
    newest_ns: int  # when the newest one ends, as far as it is written


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is. `ready`: all files have been found."""

    cameras: tuple[Listed, ...]
    ready: bool


class Recorded:
    """Handlers of /api/recordings, /api/recordings/CAMERA, its clip.mp4 and its still.jpg. Times (``from``,
    ``to``, ``at``) are RFC 3339 (2026-11-30T14:00:00Z; without a zone, this machine's), or Unix seconds."""

    def __init__(self, archive: Archive, find: Find) -> None:
        self._archive = archive
        self._find = find
        self._clips = 0
        self._stills = Stills()

    async def cameras(self, request: web.Request) -> web.Response:
        """GET /api/recordings"""
        cameras = tuple(
            Listed(name, self._find(name) is not None, one.bytes, one.files, one.oldest_ns, one.newest_ns)
            for name, one in sorted(self._archive.stored_by_camera().items())
        )
        return web.json_response(typed.encode(Listing(cameras, self._archive.status().ready)))

    async def timeline(self, request: web.Request) -> web.Response:
        """GET /api/recordings/CAMERA: by default the last 24 hours."""
        camera = request.match_info["camera"]
        now = time.time_ns()
        try:
            to_ns = _time(request.query.get("to"), now)
            from_ns = _time(request.query.get("from"), to_ns - _DAY_NS)
        except ValueError as e:
            return problem(Code.TIME, str(e))
        if from_ns >= to_ns:
            return problem(Code.TIME, "`from` is before `to`")
        try:
            found = await self._archive.timeline(camera, from_ns, to_ns)
        except OSError as e:
            return problem(Code.DISK, str(e))
        if found.oldest_ns is None and self._find(camera) is None:
            return problem(Code.CAMERA, f"there is no camera {camera}, and nothing recorded of it")
        return web.json_response(typed.encode(found))

    async def clip(self, request: web.Request) -> web.StreamResponse:
        """GET /api/recordings/CAMERA/clip.mp4, with byte ranges. ``download=1``: as a file to be saved."""
        camera = request.match_info["camera"]
        if "from" not in request.query or "to" not in request.query:
            return problem(Code.TIME, "say from when and to when: ?from=2026-11-30T14:00:00Z&to=...")
        try:
            from_ns, to_ns = _time(request.query["from"], 0), _time(request.query["to"], 0)
        except ValueError as e:
            return problem(Code.TIME, str(e))
        if from_ns >= to_ns:
            return problem(Code.TIME, "`from` is before `to`")
        if self._clips >= _CLIPS:
            return problem(Code.BUSY, "too many clips are being sent; try again", Retry_After="2")
        self._clips += 1
        try:
            return await self._answer(request, camera, from_ns, to_ns)
        finally:
            self._clips -= 1

    async def _answer(
        self, request: web.Request, camera: str, from_ns: int, to_ns: int
    ) -> web.StreamResponse:
        try:
            clip = await self._archive.clip(camera, from_ns, to_ns)
        except ClipError as e:
            return self._refused(camera, e)
        except (OSError, ValueError) as e:
            return problem(Code.DISK, f"the recording cannot be read: {e}")
        part = _part(request, clip)
        if part is None:
            answer = problem(Code.RANGE, f"the clip has {clip.size} bytes")
            answer.headers[hdrs.CONTENT_RANGE] = f"bytes */{clip.size}"
            return answer
        return await _send(request, camera, clip, part)

    async def still(self, request: web.Request) -> web.Response:
        """GET /api/recordings/CAMERA/still.jpg: the key frame at or before a time."""
        camera = request.match_info["camera"]
        if "at" not in request.query:
            return problem(Code.TIME, "say of when: ?at=2026-11-30T14:00:00Z")
        try:
            at_ns = _time(request.query["at"], 0)
        except ValueError as e:
            return problem(Code.TIME, str(e))
        said = request.query.get("width", str(_WIDTH))
        width = int(said) if said.isascii() and said.isdecimal() and len(said) < 9 else 0
        if width not in _WIDTHS:
            return problem(Code.WIDTH, f"a width is {_WIDTHS[0]} to {_WIDTHS[-1]} pixels")
        try:
            clip = await self._archive.clip(camera, at_ns, at_ns + 1)
            jpeg = await self._stills.jpeg(camera, clip, width)
        except ClipError as e:
            return self._refused(camera, e)
        except TooMany:
            return problem(Code.BUSY, "too many pictures are being made; try again", Retry_After="1")
        except CameraFormatError as e:
            return problem(Code.FORMAT, str(e))
        except (OSError, ValueError) as e:
            return problem(Code.DISK, f"the recording cannot be read: {e}")
        return web.Response(body=jpeg, content_type="image/jpeg", headers={"X-At-Ns": str(clip.begin_ns)})

    def _refused(self, camera: str, error: ClipError) -> web.Response:
        if error.cause is ClipCause.EMPTY:
            if not self._archive.status().ready:
                text = "the recordings are still being looked through; try again"
                return problem(Code.STARTING, text, Retry_After="2")
            if self._find(camera) is None:
                return problem(Code.CAMERA, f"there is no camera {camera}, and nothing recorded of it")
        return problem(Code(error.cause), str(error), [Part(begin, end) for begin, end in error.parts])


async def _send(
    request: web.Request, camera: str, clip: Clip, part: tuple[int, int, bool]
) -> web.StreamResponse:
    begin, end, partial = part
    when = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(clip.begin_ns / 1e9))
    how = "attachment" if request.query.get("download") == "1" else "inline"
    headers = {
        hdrs.CONTENT_TYPE: "video/mp4",
        hdrs.CONTENT_LENGTH: str(end - begin),
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.ETAG: f'"{clip.tag}"',
        hdrs.CONTENT_DISPOSITION: f'{how}; filename="{camera}-{when}.mp4"',
        # Where it really begins and ends, which key frames decide.
        "X-From-Ns": str(clip.begin_ns),
        "X-To-Ns": str(clip.end_ns),
    }
    if partial:
        headers[hdrs.CONTENT_RANGE] = f"bytes {begin}-{end - 1}/{clip.size}"
    answer = web.StreamResponse(status=206 if partial else 200, headers=headers)
    await answer.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return answer
    blocks = clip.read(begin, end)
    try:
        while (block := await asyncio.to_thread(_next, blocks)) is not None:
            await answer.write(block)
        await answer.write_eof()
    except (ClipError, OSError, ValueError):
        # The browser has gone; or files have, and it is too late for a status: what is missing says so.
        if request.transport is not None:
            request.transport.abort()
    finally:
        with contextlib.suppress(ValueError):  # the thread is still in there: it closes its file itself
            blocks.close()
    return answer


def _next(blocks: Iterator[bytes]) -> bytes | None:
    return next(blocks, None)


def _part(request: web.Request, clip: Clip) -> tuple[int, int, bool] | None:
    """From which byte to which, and is it a part? None: there are no such bytes."""
    condition = request.headers.get(hdrs.IF_RANGE)
    asked = request.headers.get(hdrs.RANGE) if request.method == hdrs.METH_GET else None
    if asked is None or (condition is not None and condition != f'"{clip.tag}"'):
        return 0, clip.size, False
    if re.fullmatch("bytes=-0+", asked):  # the last none of them, which is not all
        return None
    try:
        wanted = request.http_range
    except ValueError:  # not bytes, or several: all of it is an answer too
        return 0, clip.size, False
    begin, end = wanted.start, wanted.stop
    if begin is None:
        return 0, clip.size, False
    begin = max(0, clip.size + begin) if begin < 0 else begin
    end = clip.size if end is None else min(end, clip.size)
    return (begin, end, True) if begin < end else None


def _time(text: str | None, default: int) -> int:
    """Unix ns. Raises ValueError, with a text for people."""
    if text is None:
        return default
    try:
        found = round(float(text) * 1e9)
    except (ValueError, OverflowError):
        try:
            text = text.strip()
            # A "+" of an address is a space once it is decoded.
            text = text.replace(" ", "+") if "T" in text.upper() else text
            found = round(datetime.fromisoformat(text).timestamp() * 1e9)
        except (ValueError, OverflowError, OSError):
            raise ValueError("a time is written 2026-11-30T14:00:00Z, or as Unix seconds") from None
    if not 0 <= found < _LAST_NS:
        raise ValueError("a time is between 1970 and 2116")
    return found
