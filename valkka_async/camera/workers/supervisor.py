# SPDX-License-Identifier: MIT
"""Supervisor: cameras in worker processes of their own, looked after from an event loop.

messages.py has what the two say to each other, place.py and process.py look after the processes. PyAV is not
loaded here: whatever a codec library does to a process, it does to a worker.
"""

from __future__ import annotations

import asyncio
import math
import os
import warnings
from collections.abc import Callable, Iterable
from numbers import Real
from types import TracebackType
from typing import Any, Self, Unpack, overload

from valkka_async.camera.spec import CameraSettings, CameraSpec, Output
from valkka_async.camera.workers.messages import LONGEST, Configure, encode
from valkka_async.camera.workers.nurseries import Nurseries
from valkka_async.camera.workers.place import Entry, Place
from valkka_async.camera.workers.process import Limits, Process
from valkka_async.camera.workers.status import SupervisedStatus, WorkerStatus
from valkka_async.ring import fork
from valkka_async.ring.events import Event

_KILL = 2.0  # s for a killed process to be gone


def _nobody_asks(event: Event) -> None:
    pass


class Supervisor:
    """Runs each camera in a worker process of its own, and a crash there costs that camera a gap::

        async with va.Supervisor() as supervisor:
            await supervisor.add("front", "rtsp://me:pw@10.0.0.7/live", [va.Output("front")])
            await supervisor.add("yard", "rtsp://me:secret@10.0.0.8/live")
            ...
            for status in supervisor.status().values():
                print(status.name, status.state, status.reason)

    Readers connect to the rings by name as ever. A worker that crashes, is killed, or does not answer any
    more is started again, after a pause that grows with each failure; meanwhile its cameras are "waiting".

    Parameters
    ----------
    group_size
        Cameras per process. Fewer processes take less memory (about 8 MB each), but cameras of a group fall
        together.
    restart_max
        The longest pause in seconds before a worker is started again.
    hang_timeout
        Seconds, at least 1, without a sign of life after which a worker is killed. One whose camera does not
        come back from a library long after its own time-outs is killed too.
    stop_timeout
        Seconds that cameras have to close: a worker which has not ended by then is killed.

    on_event
        Called in the event loop with each :class:`Event` of the cameras' readers and workers. It must neither
        block nor raise.

    It belongs to the event loop in which it is used. Workers end with the thread of that loop, however it
    ends, and with this process, even if that is killed. Ctrl-C in a terminal does not reach them.
    Raises ValueError for settings that make no sense.
    """

    _closed = True  # until there is something to close

    def __init__(
        self,
        *,
        group_size: int = 1,
        restart_max: float = 30.0,
        hang_timeout: float = 10.0,
        stop_timeout: float = 5.0,
        on_event: Callable[[Event], object] = _nobody_asks,
    ) -> None:
        self._on_event = on_event
        self._places: list[Place] = []
        self._entries: dict[str, Entry] = {}
        if not isinstance(group_size, int) or isinstance(group_size, bool) or group_size < 1:
            raise ValueError(f"group_size is a whole number, at least 1, and not {group_size!r}")
        for key, value, least in (
            ("restart_max", restart_max, 0.0),
            ("hang_timeout", hang_timeout, 1.0),
            ("stop_timeout", stop_timeout, 0.0),
        ):
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and value >= least and value > 0):
                limit = f"at least {least:g}" if least else "above 0"
                raise ValueError(f"{key} is {limit} seconds, not {value!r}")
        self._group_size = group_size
        self._limits = Limits(float(restart_max), float(hang_timeout), float(stop_timeout))
        self._nurseries = Nurseries(self._all_specs)
        # Fifty interpreters that start at once would all be late.
        self._starting = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._closed = False
        fork.in_child(self, Supervisor._after_fork)

    # ------------------------------------------------------------------------------- cameras

    @overload
    async def add(self, camera: CameraSpec, /) -> None: ...
    @overload
    async def add(
        self,
        name: str,
        url: str | os.PathLike[str] | None = None,
        outputs: Output | Iterable[Output] | None = None,
        **settings: Unpack[CameraSettings],
    ) -> None: ...
    async def add(self, *args: Any, **settings: Any) -> None:
        """Run one more camera: a :class:`CameraSpec`, or what :class:`Camera` takes.

        Returns when its rings are served, or the first attempt to do so has failed: the attempts go on, and
        `status()` says why; or when the supervisor is closed meanwhile. Cancelling stops the waiting; the
        camera is there. A camera of that name that is being removed is waited for. Raises ValueError when
        there is a camera of that name, or one that feeds a ring of one of these names, TypeError and
        ValueError for settings that make no sense, RuntimeError after close.
        """
        spec = _described(args, settings)
        while (old := self._entries.get(spec.name)) is not None and old.leaving:
            await old.settled()
        if self._closed:
            raise RuntimeError("this supervisor was closed")
        if old is not None:
            raise ValueError(f"there is a camera {spec.name!r} already: change() or remove() it")
        self._check_rings(spec)
        place = next((p for p in self._places if p.has_room(self._group_size)), None)
        if place is None:
            place = Place(
                self._limits,
                self._nurseries,
                self._starting,
                on_gone=self._on_gone,
                on_end=self._on_end,
                on_event=self._on_event,
            )
            self._places.append(place)
        entry = self._entries[spec.name] = place.put(spec)
        await entry.settled()

    @overload
    async def change(self, camera: CameraSpec, /) -> None: ...
    @overload
    async def change(
        self,
        name: str,
        url: str | os.PathLike[str] | None = None,
        outputs: Output | Iterable[Output] | None = None,
        **settings: Unpack[CameraSettings],
    ) -> None: ...
    async def change(self, *args: Any, **settings: Any) -> None:
        """Give the camera of that name new settings. It alone is closed and opened again, in the process in
        which it is, and not even that if nothing differs.

        Arguments, errors and cancellation as with `add()`; ValueError when there is no such camera.
        """
        spec = _described(args, settings)
        entry = self._entry(spec.name)
        if spec == entry.spec:
            return
        self._check_rings(spec)
        entry.place.configure(entry, spec)
        await entry.settled()

    async def remove(self, name: str) -> None:
        """Close a camera and its rings. Raises ValueError when there is no such camera.

        Takes as long as the camera needs, at most about `stop_timeout`. Cancelling stops the waiting; the
        camera goes.
        """
        entry = self._entry(name)
        entry.place.configure(entry, None)
        await entry.settled()

    def status(self) -> dict[str, SupervisedStatus]:
        """How each camera is, as known here: workers tell it each second, and what changes at once.

        Counts begin again with each process of its worker.
        """
        return {name: entry.status() for name, entry in self._entries.items() if not entry.leaving}

    def specs(self) -> dict[str, CameraSpec]:
        """The settings of each camera, with the URLs' credentials: those that it was given last."""
        return {name: entry.spec for name, entry in self._entries.items() if not entry.leaving}

    def workers(self) -> list[WorkerStatus]:
        """How each worker is, as known here."""
        return [place.status() for place in self._places]

    def _entry(self, name: str) -> Entry:
        if self._closed:
            raise RuntimeError("this supervisor was closed")
        entry = self._entries.get(name)
        if entry is None or entry.leaving:
            raise ValueError(f"there is no camera {name!r}")
        return entry

    def _check_rings(self, spec: CameraSpec) -> None:
        wanted = {output.name for output in spec.outputs}
        for other in self._entries.values():
            if other.spec.name != spec.name:
                for ring in sorted(wanted & other.rings):
                    raise ValueError(f"the ring {ring!r} is fed by the camera {other.spec.name!r}")

    def _all_specs(self) -> list[CameraSpec]:
        return [entry.spec for entry in self._entries.values()]

    def _on_gone(self, entry: Entry) -> None:
        if self._entries.get(entry.spec.name) is entry:
            del self._entries[entry.spec.name]

    def _on_end(self, place: Place) -> None:
        if place in self._places:
            self._places.remove(place)

    # ----------------------------------------------------------------------------------- end

    @property
    def closed(self) -> bool:
        """True after close() or aclose()."""
        return self._closed

    async def aclose(self) -> None:
        """End all cameras and workers. Idempotent.

        Takes at most `stop_timeout`, and then what the kernel needs to kill a process. Cancelling kills at
        once those that are left.
        """
        self._closed = True
        places = list(self._places)
        for place in places:
            place.close()
        try:
            if places:
                await asyncio.wait([place.task for place in places])
            await self._nurseries.aclose()
        except asyncio.CancelledError:
            for place in places:
                place.hurry()
            self._nurseries.hurry()
            raise

    def close(self) -> None:
        """`aclose()` for where no loop runs any more: it blocks, for as long as that takes at most."""
        self._closed = True
        places = list(self._places)
        left = [process for place in places if (process := place.abandon()) is not None]
        for patience in (self._limits.stop_timeout, _KILL):
            left = Process.wait_for(left, patience)
            for process in left:
                process.hurry()
        for place in places:
            place.forget()
        self._nurseries.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    @fork.quiet_at_end
    def __del__(self) -> None:
        if not self._closed and (self._places or self._nurseries):
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._entries)} cameras in {len(self._places)} workers"
        return f"<Supervisor [{state}]>"

    def _after_fork(self) -> None:
        """In a forked child: the workers are the parent's, and must see it end when it ends."""
        self._closed = True
        for place in self._places:
            place.after_fork()
        self._nurseries.after_fork()
        self._places, self._entries = [], {}


def _described(args: tuple[Any, ...], settings: dict[str, Any]) -> CameraSpec:
    """The spec that add() and change() were given."""
    if len(args) == 1 and not settings and isinstance(args[0], CameraSpec):
        spec = args[0]
    else:
        spec = CameraSpec(*args, **settings)
    if len(encode(Configure(spec.name, 1, spec))) > LONGEST // 2:  # raises if a setting has a wrong type
        raise ValueError(f"camera {spec.name!r}: its settings are too long")
    return spec
