# SPDX-License-Identifier: MIT
"""What a NAME on the command line may mean: a ring, or a camera that feeds several."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from valkka_async.camera.status import CameraState, CameraStatus, StreamStatus
from valkka_async.cli.program import explain
from valkka_async.cli.reports import ask
from valkka_async.errors import ValkkaError
from valkka_async.ring.names import EVENTS
from valkka_async.ring.rendezvous import runtime_dir, servers

_ANSWER_SECONDS = 1.0
_AT_ONCE = 32  # servers asked at a time: those that hang must not add up
_SHOWN = 8  # names in an error message
# The rings that a service adds to each camera, and what is in them.
SUFFIXES = {".jpeg": "jpeg", ".fmp4": "fmp4"}


@dataclass(frozen=True, slots=True)
class Ring:
    """A server that is running. `camera` and `format`: as its camera says; "" for a server that has none.
    `main`: it is of the camera's main stream."""

    name: str
    camera: str = ""
    format: str = ""
    main: bool = True


def rings() -> list[Ring]:
    """The servers that are running, with what they say of themselves. Those that do not answer within a
    second are among them. Blocks for about that long at most. Raises ConnectError."""
    names = [name for name in servers() if not name.endswith(EVENTS)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [ring for ring in pool.map(_ask, names) if ring is not None]


def _ask(name: str) -> Ring | None:
    """None for the socket that a killed server has left behind."""
    try:
        report = ask(name, _ANSWER_SECONDS)
    except (TimeoutError, ValkkaError):  # it hangs, refuses us, or is another version
        return Ring(name)
    if report is None:
        return None
    if report.camera is None:
        return Ring(name)
    formats = {output.name: output.format for output in report.camera.outputs}
    main = report.camera.stream_of(name) == report.camera.streams[0]
    return Ring(name, report.camera.name, formats.get(name, ""), main)


def pick(name: str, known: Collection[Ring], formats: Collection[str]) -> Ring | None:
    """The ring that `name` means, when one in any of `formats` (best first) is wanted: the ring of that
    name, or one of the camera of that name (of its main stream, if there is one), or the one with a suffix
    that tells. Failing these, the ring of
    that name with another or an unknown format; or the one that a link will serve soon, as it has that
    camera's packets already. None: there is none."""
    exact = next((ring for ring in known if ring.name == name), None)
    if exact is not None and exact.format in formats:
        return exact
    for format in formats:
        its = [ring for ring in known if ring.format == format and ring.camera == name]
        if its:
            return next((ring for ring in its if ring.main), its[0])
    if exact is not None and not exact.format:
        return exact
    for suffix, format in SUFFIXES.items():
        if format in formats:
            for ring in known:
                if ring.name == name + suffix and ring.format in ("", format):
                    return ring
    if exact is None and any(ring.name == f"{name}/packets" for ring in known):
        return Ring(name if "rgb24" in formats else f"{name}/fmp4", name)
    return exact


def absent(name: str, known: Iterable[Ring]) -> str:
    """A text: there is no such server, and these there are, the nearest name first."""
    names = {ring.name for ring in known} | {ring.camera for ring in known if ring.camera}
    if not names:
        return (
            f"no server called {name!r}: none is running in {runtime_dir()}; start one with "
            "`valkka-async run`, `play` or `demo` (both sides must have the same VALKKA_RUNTIME_DIR)"
        )
    ordered = sorted(names, key=lambda other: (-_likeness(name, other), other))
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"no server called {name!r}; there are: {', '.join(ordered[:_SHOWN])}{more}"


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()


@dataclass(frozen=True, slots=True)
class Word:
    """What a ring's server says of its camera."""

    state: CameraState | None  # None: it is no camera's, or there is no answer
    text: str  # for people, as "the camera is waiting: ..."; "": nothing is known


def ask_why(name: str) -> Word:
    """What keeps frames from the ring, as far as its server says. Blocks for a second at most, and never
    raises."""
    try:
        report = ask(name, _ANSWER_SECONDS)
    except (ValkkaError, OSError) as e:
        return Word(None, explain(e))
    if report is None:
        return Word(None, f"no server called {name!r} is running")
    camera = report.camera
    if camera is None:
        return Word(None, "")
    source = camera.stream_of(name)
    if source is None or len(camera.streams) == 1:
        return Word(camera.state, _says("the camera", camera))
    return Word(source.state, _says(f"the stream {source.name}", source))


def _says(what: str, source: CameraStatus | StreamStatus) -> str:
    return f"{what} is {source.state}" + (f": {source.reason}" if source.reason else "")


def complete(incomplete: str) -> list[str]:
    """Names for the shell to complete: of servers, and of cameras that their rings' suffixes tell. No server
    is asked: a shell should not wait. Never raises."""
    try:
        names = {name for name in servers() if not name.endswith(EVENTS)}
    except (ValkkaError, OSError):
        return []
    for suffix in SUFFIXES:
        names |= {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    return sorted(name for name in names if name and name.startswith(incomplete))
