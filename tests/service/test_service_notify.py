# SPDX-License-Identifier: MIT
"""What systemd is told, in which order, and what happens where it does not listen."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.until import until
from valkka_async.service.notify import Manager


@pytest.fixture
def systemd(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    path = runtime_dir / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield sock
    path.unlink(missing_ok=True)


@pytest.fixture
def manager(systemd: socket.socket) -> Iterator[Manager]:
    one = Manager()
    yield one
    one.close()
    one.close()


def told(systemd: socket.socket) -> list[str]:
    """All that has arrived."""
    found = []
    try:
        while True:
            found.append(systemd.recv(1000).decode())
    except BlockingIOError:
        return found


def test_a_reload_is_told_between_reloading_and_ready(manager: Manager, systemd: socket.socket) -> None:
    manager.ready("4 cameras\nREADY=0")
    before = time.monotonic_ns() // 1000
    with manager.reloading():
        begun = told(systemd)
    with pytest.raises(ZeroDivisionError), manager.reloading():
        raise ZeroDivisionError  # one that fails is over, too
    assert begun[0] == "READY=1\nSTATUS=4 cameras READY=0"
    moment = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", begun[1])
    assert moment is not None and before <= int(moment[1]) <= time.monotonic_ns() // 1000
    assert [text.split("\n")[0] for text in told(systemd)] == ["READY=1", "RELOADING=1", "READY=1"]


def test_a_reload_before_the_start_is_over_does_not_say_that_it_is(
    manager: Manager, systemd: socket.socket
) -> None:
    with manager.reloading():
        pass
    assert told(systemd) == []
    manager.ready()
    assert told(systemd) == ["READY=1"]


def test_nothing_but_the_end_is_told_after_the_end(manager: Manager, systemd: socket.socket) -> None:
    manager.ready()
    with manager.reloading():
        manager.stopping()
    manager.ready()
    assert [text.split("\n")[0] for text in told(systemd)] == ["READY=1", "RELOADING=1", "STOPPING=1"]


async def test_the_watchdog_is_told_twice_as_often_as_it_asks(
    manager: Manager, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    dog = asyncio.create_task(manager.watchdog())
    beats: list[str] = []

    def heard() -> bool:
        beats.extend(told(systemd))
        return len(beats) >= 3

    await until(heard)
    dog.cancel()
    await asyncio.wait([dog])
    assert {*beats} == {"WATCHDOG=1"}


@pytest.mark.parametrize(
    ("microseconds", "pid"), [("0", ""), ("", ""), ("x", ""), ("-1", ""), ("1000", "1"), ("1000", "x")]
)
async def test_a_watchdog_that_nobody_has_asked_for_says_nothing_and_takes_no_time(
    microseconds: str, pid: str, manager: Manager, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    dog = asyncio.create_task(manager.watchdog())
    for _ in range(100):
        await asyncio.sleep(0)
    assert told(systemd) == [] and not dog.done()
    dog.cancel()
    await asyncio.wait([dog])


@pytest.mark.parametrize("address", ["", "vsock:2:1", "relative", "/nowhere/at/all", "/" + "x" * 200, "@"])
def test_where_nobody_listens_nothing_fails(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    manager = Manager()
    manager.ready("good")
    with manager.reloading():
        pass
    manager.stopping()
    manager.close()


def test_an_abstract_socket_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        systemd.bind(b"")  # the kernel chooses a name
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + systemd.getsockname()[1:].decode())
        manager = Manager()
        manager.ready()
        manager.close()
        assert told(systemd) == ["READY=1"]


def test_without_descriptors_it_is_told_what_it_can_be(manager: Manager, systemd: socket.socket) -> None:
    manager.ready()
    other = Manager()  # which has not told anything yet
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        manager.stopping()
        other.ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert told(systemd) == ["READY=1", "STOPPING=1"]
    other.ready()
    other.close()
    assert told(systemd) == ["READY=1"]
