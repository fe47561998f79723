# SPDX-License-Identifier: MIT
"""Zenoh's session as an event loop may use it.

Zenoh has no asyncio and some of its calls wait, so they are made in order in one thread; what it says comes
in threads of its own, and from there into the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import zenoh

from valkka_async.link.engine import open_session
from valkka_async.link.spec import LinkSpec

_ANSWER = 1.0  # s for a question for the time
_INT = 8

log = logging.getLogger("valkka_async.link")


_here = threading.local()


def stay() -> None:
    """Have Python know this thread of Zenoh's for as long as it lives.

    Else each call from there makes a thread state, maps a stack for its first frame and throws both away:
    10 us, as much as Zenoh itself takes for a unit. There are as many as Zenoh has threads, and none calls
    any more once the session is closed.
    """
    if not hasattr(_here, "known"):
        ctypes.pythonapi.PyGILState_Ensure()  # and never released
        _here.known = True


class Request:
    """A camera that is wanted: its units go to `take`, in a thread of Zenoh's, until it is given up."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self.active = True
        self.declared: list[Any] = []  # in the bus's thread

    def hear(self, sample: zenoh.Sample) -> None:
        stay()
        if self.active:
            self._take(sample.payload.to_bytes())


class Bus:
    """Made with open(). What is declared stays declared over all connections, until it is given up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(1, "zenoh")
        self._session: Any = None
        self._tokens: dict[str, Any] = {}
        self._others: list[Any] = []
        self._closed = False

    async def open(self, spec: LinkSpec) -> None:
        """Raises ConnectError."""

        def work() -> None:
            self._session = open_session(spec)

        await self._loop.run_in_executor(self._pool, work)

    async def aclose(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            await self._loop.run_in_executor(self._pool, self._end)
            self._pool.shutdown(wait=False)

    def _end(self) -> None:
        self._tokens.clear()
        self._others.clear()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _post(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # it was closed, maybe at this moment
            if not self._closed:
                self._pool.submit(work).add_done_callback(_logged)

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        """In the loop, from a thread of Zenoh's."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed
            pass

    # ------------------------------------------------------------------------------------ tokens

    def follow_tokens(self, pattern: str, told: Callable[[str, bool], None]) -> None:
        """`told` hears in the loop of each token that matches: its key, and whether it is there or gone."""

        def hear(sample: zenoh.Sample) -> None:
            self._call(told, str(sample.key_expr), sample.kind == zenoh.SampleKind.PUT)

        def work() -> None:
            handler: Any = zenoh.handlers.Callback(hear, indirect=False)
            subscriber = self._session.liveliness().declare_subscriber(pattern, handler, history=True)
            self._others.append(subscriber)

        self._post(work)

    def show(self, key: str) -> None:
        """Declare a token."""

        def work() -> None:
            self._tokens[key] = self._session.liveliness().declare_token(key)

        self._post(work)

    def hide(self, key: str) -> None:
        """Take a token back."""

        def work() -> None:
            if (token := self._tokens.pop(key, None)) is not None:
                token.undeclare()

        self._post(work)

    # -------------------------------------------------------------------------------------- time

    def answer_time(self, key: str) -> None:
        """Tell what our clock shows to whom asks there."""

        def hear(query: zenoh.Query) -> None:
            with query:
                query.reply(key, time.time_ns().to_bytes(_INT, "little"))

        def work() -> None:
            handler: Any = zenoh.handlers.Callback(hear, indirect=False)
            self._others.append(self._session.declare_queryable(key, handler))

        self._post(work)

    def ask_time(self, key: str, told: Callable[[int, int, int], None]) -> None:
        """`told` hears in the loop when it was asked, what that clock showed, and when the answer came."""

        def work() -> None:
            asked = time.time_ns()

            def hear(reply: zenoh.Reply) -> None:
                answered = time.time_ns()
                if reply.ok is not None and len(data := reply.ok.payload.to_bytes()) == _INT:
                    self._call(told, asked, int.from_bytes(data, "little"), answered)

            handler: Any = zenoh.handlers.Callback(hear, indirect=False)
            self._session.get(key, handler, timeout=_ANSWER)

        self._post(work)

    # ------------------------------------------------------------------------------------- units

    def request(self, units: str, token: str, take: Callable[[bytes], None]) -> Request:
        """Listen there, and then say so by a token."""
        request = Request(take)

        def work() -> None:
            handler: Any = zenoh.handlers.Callback(request.hear, indirect=False)
            request.declared = [
                self._session.declare_subscriber(units, handler),
                self._session.liveliness().declare_token(token),
            ]

        self._post(work)
        return request

    def give_up(self, request: Request) -> None:
        """From now on nothing more is taken."""
        request.active = False

        def work() -> None:
            for one in reversed(request.declared):
                one.undeclare()
            request.declared = []

        self._post(work)

    def put_to(self, key: str, *, last: bool = False) -> Callable[[bytes], None]:
        """What sends units there, from any thread. It waits for room for a second at most; what finds none is
        dropped, and nobody says so: units are numbered. `last`: all others go first, also between the parts
        of one of these."""
        checked, drop = zenoh.KeyExpr(key), zenoh.CongestionControl.DROP
        priority = zenoh.Priority.BACKGROUND if last else zenoh.Priority.DATA

        def put(payload: bytes) -> None:
            session = self._session
            if session is not None:
                session.put(checked, payload, congestion_control=drop, priority=priority)

        return put

    def hear_puts(self, pattern: str, told: Callable[[str, bytes], None]) -> None:
        """`told` gets the key and what was put there, in a thread of Zenoh's."""

        def hear(sample: zenoh.Sample) -> None:
            stay()
            told(str(sample.key_expr), sample.payload.to_bytes())

        def work() -> None:
            handler: Any = zenoh.handlers.Callback(hear, indirect=False)
            self._others.append(self._session.declare_subscriber(pattern, handler))

        self._post(work)

    def newest_to(self, key: str) -> Callable[[bytes], None]:
        """What says something there, from any thread, at once and without waiting. What is said meanwhile
        takes the place of what was to be said before."""
        checked, lock, due = zenoh.KeyExpr(key), threading.Lock(), list[bytes]()
        drop, first = zenoh.CongestionControl.DROP, zenoh.Priority.INTERACTIVE_HIGH

        def work() -> None:
            with lock:
                data = due.pop()
            if self._session is not None:
                self._session.put(checked, data, congestion_control=drop, priority=first, express=True)

        def say(data: bytes) -> None:
            with lock:
                posted = bool(due)
                due[:] = [data]
            if not posted:
                self._post(work)

        return say


def _logged(done: Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.error("the link: %s: %s", type(error).__name__, error)
