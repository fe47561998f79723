# SPDX-License-Identifier: MIT
"""`on` of a config: programs and webhooks are told what happens; none of them costs the others anything."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import hmac
import json
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support.http import HttpServer, Request
from support.until import SECONDS, until
from valkka_async import typed
from valkka_async.service import handler, webhook
from valkka_async.service import hooks as module
from valkka_async.service.config.hooks import Hook
from valkka_async.service.hearing import Hearing
from valkka_async.service.hooks import Hooks
from valkka_async.service.status import HookStatus

SECRET = "correct-horse-battery"
pytestmark = pytest.mark.one_loop


@pytest.fixture
async def hooks(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hooks]:
    monkeypatch.setattr(module, "_PAUSES", (0.01, 0.02))
    hearing = Hearing("events")
    hooks = Hooks("service", hearing)
    yield hooks
    await hooks.aclose()
    await hearing.aclose()


@pytest.fixture
def cam1() -> Any:
    with va.serve("cam1") as server:
        server.emit("first")  # the ring is there
        yield server


async def told(hooks: Hooks, done: Callable[[HookStatus], bool], hook: int = 0) -> HookStatus:
    await until(lambda: done(hooks.status()[hook]))
    return hooks.status()[hook]


def script(folder: Path, text: str) -> str:
    path = folder / "hook.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


async def test_a_webhook_gets_what_happens_signed(hooks: Hooks, cam1: va.Server) -> None:
    with HttpServer(lambda request: (204, {}, b"")) as server:
        await hooks.follow(
            (Hook(url=server.url("/in?key=k"), secret=SECRET, events="person", cameras="cam*"),)
        )
        cam1.emit("cat")
        cam1.emit("person", "at the door", score=0.5)
        await told(hooks, lambda status: status.delivered == 1)
        (request,) = server.requests
    assert request.path == "/in?key=k"
    content = json.loads(request.body)
    assert content.pop("time_ns") > 0
    assert content == {
        "code": "person",
        "camera": "cam1",
        "text": "at the door",
        "fields": {"score": 0.5},
        "source": "cam1",
        "seq": 3,
        "missed": 0,
        "service": "service",
    }
    expected = hmac.new(SECRET.encode(), request.body, hashlib.sha256).hexdigest()
    assert request.headers["X-Hub-Signature-256"] == f"sha256={expected}"
    assert request.headers["X-Valkka-Event"] == "person"


async def test_what_fails_for_now_is_tried_again(hooks: Hooks, cam1: va.Server) -> None:
    answers = iter([500, 429, 200, 200])
    with HttpServer(lambda request: (next(answers), {}, b"")) as server:
        await hooks.follow((Hook(url=server.url()),))
        cam1.emit("one")
        cam1.emit("two")
        status = await told(hooks, lambda status: status.delivered == 2)
        bodies = [json.loads(request.body)["code"] for request in server.requests]
    assert bodies == ["one", "one", "one", "two"]
    assert (status.failed, status.dropped, status.error) == (0, 0, None)


@pytest.mark.parametrize("code", [404, 301])
async def test_what_is_refused_is_not_tried_again(hooks: Hooks, cam1: va.Server, code: int) -> None:
    def answer(request: Request) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, b"") if request.path == "/other" else (code, {"Location": "/other"}, b"")

    with HttpServer(answer) as server:
        await hooks.follow((Hook(url=server.url()),))
        cam1.emit("one")
        status = await told(hooks, lambda status: status.failed == 1)
        assert [request.path for request in server.requests] == ["/"]
    assert status.error is not None and str(code) in status.error.text


async def test_one_that_hangs_costs_the_others_nothing(hooks: Hooks, cam1: va.Server, tmp_path: Path) -> None:
    """One answers never, one a byte a second and has no end; the third one gets all."""
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.send(b"HTTP/1.1 200 OK\r\nX-More: ")
            while not over.wait(0.2):
                connection.send(b"x")

    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.create_server(("127.0.0.1", 0)) as slow,
        HttpServer(lambda request: (200, {}, b"")) as good,
    ):
        thread = threading.Thread(target=drip, args=(slow,))
        thread.start()
        addresses = [f"http://127.0.0.1:{sock.getsockname()[1]}/" for sock in (silent, slow)]
        hung = [Hook(url=address, timeout=600) for address in addresses]
        await hooks.follow((*hung, Hook(url=good.url())))
        for n in range(600):
            cam1.emit("n", number=n)
            if n % 100 == 99:
                await told(hooks, lambda status, n=n: status.delivered == n + 1, 2)  # type: ignore[misc]
        numbers = [json.loads(request.body)["fields"]["number"] for request in good.requests]
        assert numbers == list(range(600))
        for status in hooks.status()[:2]:
            assert status.waiting == 256 and status.delivered == 0
            assert status.waiting + status.dropped == 599
        async with asyncio.timeout(30):
            await hooks.aclose()
        over.set()
        await asyncio.to_thread(thread.join)


async def test_a_time_out_is_a_failure(hooks: Hooks, cam1: va.Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        await hooks.follow((Hook(url=f"http://127.0.0.1:{port}/", timeout=0.05, retries=1),))
        cam1.emit("one")
        status = await told(hooks, lambda status: status.failed == 1)
    assert status.error is not None and status.error.text == "it takes longer than 0.05 s"


async def test_a_program_gets_what_happens(hooks: Hooks, cam1: va.Server, tmp_path: Path) -> None:
    program = script(tmp_path, 'cat > "$1"; echo "$VALKKA_EVENT $VALKKA_CAMERA" >> "$1"')
    out = tmp_path / "it's; out"
    await hooks.follow((Hook(run=(program, str(out))),))
    cam1.emit("person", score=1)
    await told(hooks, lambda status: status.delivered == 1)
    event, environment = out.read_text().rsplit("}", 1)
    assert json.loads(event + "}")["fields"] == {"score": 1}
    assert environment == "person cam1\n"


async def test_a_program_that_fails_is_told_of(hooks: Hooks, cam1: va.Server, tmp_path: Path) -> None:
    program = script(tmp_path, "head -c 100000 /dev/zero | tr '\\0' x >&2; echo 'no such door' >&2; exit 3")
    await hooks.follow((Hook(run=(program,)), Hook(run=(str(tmp_path / "none"),))))
    cam1.emit("person")
    failed = await told(hooks, lambda status: status.failed == 1)
    assert failed.error is not None and len(failed.error.text) < 600
    assert failed.error.text.startswith("it ended with status 3: ") and "no such door" in failed.error.text
    absent = await told(hooks, lambda status: status.failed == 1, 1)
    assert absent.error is not None and "cannot be started" in absent.error.text


async def test_a_program_that_hangs_is_killed_with_all_it_has_started(
    hooks: Hooks, cam1: va.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script(
        tmp_path, 'trap "" TERM; sh -c \'trap "" TERM; echo $$ >> pids; sleep 600\' & echo $$ >> pids; wait'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(handler, "_TERM_SECONDS", 0.1)
    await hooks.follow((Hook(run=(program,), timeout=2),))
    pids: list[str] = []
    for number in range(1, 20):  # a busy machine may kill it before it has started the other
        cam1.emit("person")
        await told(hooks, lambda status, number=number: status.failed == number)  # type: ignore[misc]
        pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
        if len(pids) > 1:
            break
    assert len(pids) > 1
    await until(lambda: not any(Path("/proc", pid, "exe").exists() for pid in pids))


async def test_no_secret_is_told(hooks: Hooks, cam1: va.Server, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    hook = Hook(url=f"https://me:passw0rd@127.0.0.1:{port}/T0KEN", secret=SECRET, retries=1)
    await hooks.follow((hook,))
    cam1.emit("one")
    status = await told(hooks, lambda status: status.failed == 1)
    text = caplog.text + typed.dumps(status) + repr(hook)
    for secret in ("passw0rd", "T0KEN", SECRET, "127.0.0.1", str(port)):
        assert secret not in text
    assert "cannot be reached" in caplog.text


async def test_other_hooks_take_effect_and_the_same_go_on(hooks: Hooks, cam1: va.Server) -> None:
    with HttpServer(lambda request: (200, {}, b"")) as server:
        one, two = Hook(url=server.url("/one")), Hook(url=server.url("/two"))
        await hooks.follow((one,))
        cam1.emit("a")
        await told(hooks, lambda status: status.delivered == 1)
        await hooks.follow((two, one))
        cam1.emit("b")
        await told(hooks, lambda status: status.delivered == 2, 1)
        await told(hooks, lambda status: status.delivered == 1)
        await hooks.follow((two,))
        cam1.emit("c")
        await told(hooks, lambda status: status.delivered == 2)
        paths = [request.path for request in server.requests]
        assert sorted(paths) == ["/one", "/one", "/two", "/two"]
        await hooks.follow(())
        await until(lambda: cam1.emit("d") and hooks.status() == ())


async def test_what_happens_last_is_delivered_before_the_end(hooks: Hooks, cam1: va.Server) -> None:
    with HttpServer(lambda request: (200, {}, b"")) as server:
        await hooks.follow((Hook(url=server.url()),))
        cam1.emit("service.stopping")
        await hooks.aclose()
        assert [json.loads(request.body)["code"] for request in server.requests] == ["service.stopping"]


async def test_what_did_not_get_through_is_told_by_what_does(hooks: Hooks, cam1: va.Server) -> None:
    """Lost in the ring before events that this hook does not want, and in its own queue."""
    gate = threading.Event()

    def answer(request: Request) -> tuple[int, dict[str, str], bytes]:
        gate.wait(SECONDS)
        return 200, {}, b""

    with HttpServer(answer) as server:
        await hooks.follow((Hook(url=server.url(), events="n"),))
        cam1.emit("n", number=0)
        await until(lambda: server.requests)
        for n in range(1, 1001):
            cam1.emit("n" if n % 4 == 0 else "cat", number=n)
        await told(hooks, lambda status: status.dropped > 0)  # the ring
        for n in range(1001, 1601):
            cam1.emit("n", number=n)
            if n % 100 == 0:
                await asyncio.sleep(0.01)  # not more at once than the ring has room for
        gate.set()
        await until(lambda: b'"number":1600' in server.requests[-1].body)
        status = await told(hooks, lambda status: status.delivered == len(server.requests))
        events = [json.loads(request.body) for request in server.requests]
    assert events[-1]["fields"]["number"] == 1600
    assert sum(event["missed"] for event in events) == status.dropped
    numbers = [event["fields"]["number"] for event in events]
    for before, after, event in zip(numbers, numbers[1:], events[1:], strict=False):
        between = range(before + 1, after)
        assert event["missed"] >= sum(n > 1000 or n % 4 == 0 for n in between)


async def test_whatever_a_ring_has_the_hooks_go_on(hooks: Hooks, cam1: va.Server) -> None:
    with HttpServer(lambda request: (200, {}, b"")) as server, va.serve("odd.events") as odd:
        odd.emit("first")
        await hooks.follow((Hook(url=server.url(), events="*"),))
        head = b'{"code":"x","camera":"odd","text":"\\ud800","fields":{"n":%s}}'
        for value in (
            b"NaN",
            b"1e999",
            b"[" * 900 + b"]" * 900,
            b'{"a":' * 40 + b"1" + b"}" * 40,
            b"9" * 5000,
        ):
            odd.publish(head % value)
        odd.publish(head % b"1")
        cam1.emit("last")
        await told(hooks, lambda status: status.delivered == 2)
        bodies = [json.loads(request.body) for request in server.requests]
    assert sorted(body["code"] for body in bodies) == ["last", "x"]


async def test_nobody_is_a_guest(hooks: Hooks, cam1: va.Server) -> None:
    """What a server gives us to remember is not kept, and its address is sent as it was given."""
    with HttpServer(lambda request: (200, {"Set-Cookie": "a=b; Path=/"}, b"")) as server:
        await hooks.follow((Hook(url=server.url("/a%2Fb?sig=x%2Fy%3D+z")),))
        cam1.emit("one")
        cam1.emit("two")
        await told(hooks, lambda status: status.delivered == 2)
    assert server.asked("Cookie") == []
    assert {request.path for request in server.requests} == {"/a%2Fb?sig=x%2Fy%3D+z"}


async def test_a_server_says_when_to_try_again(
    hooks: Hooks, cam1: va.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = email.utils.formatdate(time.time() + 3600, usegmt=True)  # more than it may ask for
    monkeypatch.setattr(module, "_LONGEST", 0.5)
    answers = iter([(503, {"Retry-After": "9999"}, b""), (429, {"Retry-After": soon}, b""), (200, {}, b"")])
    with HttpServer(lambda request: next(answers)) as server:
        await hooks.follow((Hook(url=server.url()),))
        cam1.emit("one")
        await told(hooks, lambda status: status.delivered == 1)
        times = [request.time for request in server.requests]
    # A loop's clock may be a millisecond off.
    assert all(later - earlier >= 0.49 for earlier, later in zip(times, times[1:], strict=False))


def test_how_long_a_server_asks_us_to_wait() -> None:
    for said in (
        "",
        "soon",
        "-1",
        "1.5",
        "²",
        "Mon, 99 Jan 2026 00:00:00 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
    ):
        assert webhook._seconds(said) == 0.0, said
    assert webhook._seconds("120") == 120.0
    assert webhook._seconds("9" * 400) > 1e6
    assert 3500 < webhook._seconds(email.utils.formatdate(time.time() + 3600, usegmt=True)) <= 3600


async def test_a_time_out_may_be_as_long_as_the_config_says() -> None:
    receiver = webhook.Webhook("http://h/", None)
    assert receiver._open().timeout.total is None and receiver._open().timeout.sock_connect is None
    await receiver.aclose()


async def test_names_that_nobody_answers_for_cost_the_service_nothing(
    hooks: Hooks, cam1: va.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """getaddrinfo() cannot be ended. It may take one thread of each hook, and none of the event loop's."""
    answered, asked = threading.Event(), []
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "silent.example":
            asked.append(host)
            answered.wait(SECONDS)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        silent = [Hook(url=f"http://silent.example/{n}", timeout=0.05, retries=9) for n in range(40)]
        await hooks.follow(tuple(silent))
        cam1.emit("one")
        for n in range(len(silent)):
            await told(hooks, lambda status: status.failed == 1, n)
        assert len(asked) == len(silent)
        async with asyncio.timeout(SECONDS):
            await asyncio.to_thread(str)
            await hooks.aclose()
    finally:
        answered.set()


async def test_what_a_program_says_is_told_once_and_on_one_line(
    hooks: Hooks, cam1: va.Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = script(tmp_path, 'cat >&2; echo; echo "WARNING front: faked" >&2; exit 1')
    await hooks.follow((Hook(run=(program,)),))
    for n in range(5):
        cam1.emit("person", number=n)
    await told(hooks, lambda status: status.failed == 5)
    (record,) = [record for record in caplog.records if "status 1" in record.getMessage()]
    assert "\n" not in record.getMessage() and "WARNING front: faked" in record.getMessage()
