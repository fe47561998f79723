# SPDX-License-Identifier: MIT
"""`valkka-async clip`: a range of time of a camera's recordings as one MP4, without re-encoding."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from valkka_async.cli import outfile
from valkka_async.errors import ConnectError, DataError, ValkkaError
from valkka_async.record import contents as files
from valkka_async.record.archive import index_of
from valkka_async.record.clip import Clip, ClipCause, ClipError, bounded, plan
from valkka_async.record.contents import Contents
from valkka_async.record.index import Index, readable
from valkka_async.service.control import ask_status, services
from valkka_async.units import in_bytes, parse_seconds

_ASK_SECONDS = 5.0
_LAST_NS = 1 << 62  # in 2116; the index has 64 bits


class NoClipError(ValkkaError):
    """There is no clip, and why."""


def moment(text: str, now: float, begin: float | None = None) -> float:
    """A time as people write it, in Unix seconds: "2026-11-30T14:00:00Z" or without a zone, "14:00" (today),
    "-10m" (ago), and with `begin` "+30s" (from there on). Raises ValueError."""
    plain = text.strip()
    try:
        if plain.startswith("-"):
            return now - parse_seconds(plain[1:])
        if plain.startswith("+") and begin is not None:
            return begin + parse_seconds(plain[1:])
        if "-" not in plain:
            if ":" not in plain:  # Unix seconds would be a time of today
                raise ValueError
            plain = f"{datetime.fromtimestamp(now):%Y-%m-%d}T{plain}"
        return datetime.fromisoformat(plain).timestamp()
    except (ValueError, OverflowError, OSError):
        also = "" if begin is None else ", +30s after the beginning"
        raise ValueError(
            f"{text!r} is not a time: write 2026-11-30T14:00, 14:00 for today, or -10m for ten minutes ago"
            + also
        ) from None


def clip(
    camera: str, begin: float, end: float, file: str | None, *, config: Path | None, force: bool
) -> None:
    """Write it, and print where it is. A camera that changes its codec or size in between makes several
    files. Raises NoClipError, ConnectError, OSError."""
    if any("\ud800" <= sign <= "\udfff" for sign in camera):
        raise NoClipError("the camera's name is no text")
    if not begin < end:
        raise NoClipError("a clip ends after it begins: --to is later than --from")
    if file is not None and not force and Path(file).is_file():
        raise outfile.exists(file)
    from_ns, to_ns = (min(max(0, round(one * 1e9)), _LAST_NS) for one in (begin, end))
    with_index = _index(camera, config)
    try:
        sources = list(bounded(_sources(with_index, camera, from_ns, to_ns)))
        known = with_index.cameras()
    except ClipError as e:
        raise NoClipError(f"{camera}: {e}") from None
    except sqlite3.Error as e:
        raise NoClipError(f"the index of recordings cannot be read: {e}") from None
    finally:
        with_index.close()
    try:
        clips = [plan(sources, from_ns, to_ns)]
    except ClipError as e:
        if e.cause is not ClipCause.CHANGED:
            others = "" if camera in known else f"; there are recordings of {', '.join(known) or 'no camera'}"
            raise NoClipError(f"{camera}: {e}{others}") from None
        clips = list(_each(sources, e.parts))
        if not clips:
            raise NoClipError(f"{camera}: the files of this time are damaged") from None
    for number, one in enumerate(clips, 1):
        path = _path(camera, file, one, number)
        try:
            outfile.write(path, one.read(), force)
        except (ClipError, ValueError) as e:
            raise NoClipError(f"{camera}: {e}") from None
        lasts = (one.end_ns - one.begin_ns) / 1e9
        print(f"{path}: {lasts:.1f} s from {_when(one.begin_ns)}, {in_bytes(one.size)}", flush=True)


def _each(sources: list[tuple[Path, Contents]], parts: Iterable[tuple[int, int]]) -> Iterator[Clip]:
    """The clips of parts of which there is something: files may be shorter than they were."""
    for begin, end in parts:
        try:
            yield plan(sources, begin, end)
        except ClipError as e:
            if e.cause is not ClipCause.EMPTY:
                raise


def _sources(index: Index, camera: str, from_ns: int, to_ns: int) -> Iterator[tuple[Path, Contents]]:
    """Files with something of that time, in their order."""
    found: list[tuple[int, Path, Contents | None]] = [
        (one.begin_ns, one.path, None) for one in index.between(camera, from_ns, to_ns) if one.whole
    ]
    for path in index.unfinished(camera):
        with contextlib.suppress(OSError, ValueError):  # gone, or without a frame
            contents = files.read(path)
            found.append((contents.begin_ns, path, contents))
    for _, path, known in sorted(found, key=lambda one: one[0]):
        with contextlib.suppress(OSError, ValueError):
            yield path, known or index.contents(path) or files.read(path)


def _index(camera: str, config: Path | None) -> Index:
    """Raises NoClipError, ConnectError."""
    path = _running(camera) if config is None else _configured(config)
    try:
        return readable(path)
    except (sqlite3.Error, DataError) as e:
        raise NoClipError(f"the index of recordings, {path}, cannot be read: {e}") from None


def _running(camera: str) -> Path:
    """The index of the service that has the camera, or of the only one."""
    found = {}
    for name in services():
        try:
            status = ask_status(name, _ASK_SECONDS)
        except (TimeoutError, ConnectError):
            continue
        if status is not None:
            found[name] = status
    having = [status for status in found.values() if status.camera(camera) is not None]
    chosen = having or list(found.values())
    if len(chosen) != 1:
        why = "no service is running" if not chosen else f"several services are running: {', '.join(found)}"
        raise NoClipError(f"{why}; name its config: --config cameras.yaml")
    recordings = chosen[0].recordings
    if recordings.index is None:
        raise NoClipError(recordings.problem or "nothing has been recorded yet")
    return Path(recordings.index)


def _configured(config: Path) -> Path:
    from valkka_async.service.config.file import load

    said = load(config)
    return index_of(said.recordings, said.name)


def _path(camera: str, file: str | None, one: Clip, number: int) -> Path:
    when = datetime.fromtimestamp(one.begin_ns / 1e9)
    path = Path(file or "")
    if file is None or path.is_dir():
        return path / f"{camera}-{when:%Y%m%d-%H%M%S}.mp4"
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def _when(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns / 1e9))
