# SPDX-License-Identifier: MIT
"""What a host has for others is known as its servers say it, and those that hang cost the others nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import itertools
import os
import random
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

import valkka_async as va
from support.program import Child
from support.until import until, wait_for
from valkka_async.link import inquiry
from valkka_async.link import sender as sender_module
from valkka_async.link.budget import Budget
from valkka_async.link.exporter import Catalogue, known_by
from valkka_async.link.inquiry import Inquiry
from valkka_async.link.keys import Content
from valkka_async.link.sender import Sender
from valkka_async.link.unit import decode
from valkka_async.ring.rendezvous import runtime_dir, socket_path

FROZEN = 150
SOON = 10.0  # s: the servers that hang, each waited for, would take longer
FRAMES: dict[str, Any] = {
    "raw": np.zeros((2, 4, 3), np.uint8),
    "metadata": b"{}",
    "camera": (b"unit", "h264"),
}


@pytest.fixture
def frozen() -> Iterator[Child]:
    """A process with many rings that does not go on."""
    code = f"""
    servers = [va.serve(f"frozen{{n}}") for n in range({FROZEN})]
    for server in servers:
        server.publish(b"[]")
    say("there")
    sys.stdin.read()
    for server in servers:
        server.close()
    """
    with Child(code) as child:
        child.match("there")
        child.signal(signal.SIGSTOP)
        try:
            yield child
        finally:
            child.signal(signal.SIGCONT)
            child.end_input()
            child.wait()


@contextlib.asynccontextmanager
async def followed() -> AsyncIterator[Catalogue]:
    catalogue = Catalogue(lambda: None)
    following = asyncio.create_task(catalogue.follow())
    try:
        yield catalogue
    finally:
        following.cancel()
        await asyncio.wait([following])


def publish(server: va.Server, content: str) -> None:
    made = FRAMES[content]
    if isinstance(made, tuple):
        server.publish(made[0], format=made[1])
    else:
        server.publish(made)


async def test_rings_that_hang_hold_up_no_other(frozen: Child) -> None:
    async with followed() as catalogue:
        with va.serve("first") as first:
            first.publish(b"[]")
            await until(lambda: catalogue.metadata == {"first"}, SOON)
            with va.serve("second") as second:
                second.publish(b"[]")
                await until(lambda: catalogue.metadata == {"first", "second"}, SOON)
            await until(lambda: catalogue.metadata == {"first"}, SOON)
            frozen.signal(signal.SIGCONT)
            await until(lambda: len(catalogue.metadata) == FROZEN + 1)


@pytest.mark.parametrize("descriptors", [None, 64])
def test_a_ring_that_hangs_holds_up_no_other_that_is_sent(
    frozen: Child, descriptors: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it for good where not all can be waited for at once."""
    if descriptors is not None:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (descriptors, descriptors))
    sent: list[bytes] = []
    sender = Sender("attic", Budget(None), itertools.count(1).__next__)
    try:
        for number in range(FROZEN):
            sender.add(f"frozen{number}", sent.append, None, Content.METADATA)
        with va.serve("lively") as lively:
            lively.publish(b"{}")
            sender.add("lively", sent.append, None, Content.METADATA)
            wait_for(lambda: sent, SOON if descriptors is None else 60)  # some wait for their turn
            assert bytes(decode(sent[0])[2]) == b"{}"
            frozen.signal(signal.SIGCONT)
            wait_for(lambda: len(sent) == FROZEN + 1)
    finally:
        sender.stop()
        assert sender.join(30)


async def test_more_that_hang_than_may_be_asked_at_once_hold_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They come and go meanwhile, and no question is left over."""
    asked: set[str] = set()
    most = 0

    async def ask(name: str) -> dict[str, object] | None:
        nonlocal most
        assert name not in asked, "one question at a time"
        asked.add(name)
        most = max(most, len(asked))
        try:
            if name.startswith("hangs"):
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            return {}
        finally:
            asked.discard(name)

    said: set[str] = set()

    def told(name: str, answer: dict[str, object] | None) -> float:
        assert answer is not None
        said.add(name)
        return 0.05

    monkeypatch.setattr(inquiry, "ask", ask)
    dice, inquiring = random.Random(4), Inquiry(told, most=4)
    running = asyncio.create_task(inquiring.run())
    for number in range(20):
        for name in (f"hangs{number}", f"answers{number}"):
            inquiring.soon(name)
    for _ in range(300):
        name = f"hangs{dice.randrange(20)}"
        inquiring.forget(name) if dice.random() < 0.5 else inquiring.soon(name)
        await asyncio.sleep(0)
    await until(lambda: len(said) == 20)
    assert most == 4
    running.cancel()
    await asyncio.wait([running])
    assert not asked


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(FRAMES, 2)])
async def test_a_ring_whose_frames_become_another_kind_is_that(
    before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same server, whether somebody reads it or not."""
    monkeypatch.setattr("valkka_async.link.exporter._KIND", 0.1)

    def kinds(catalogue: Catalogue) -> set[str]:
        kinds = {"raw": catalogue.raw, "metadata": catalogue.metadata, "camera": catalogue.rings.keys()}
        return {kind for kind, names in kinds.items() if "yard" in names}

    async with followed() as catalogue:
        with va.serve("yard") as server:
            publish(server, before)
            await until(lambda: kinds(catalogue) == {before})
            publish(server, after)
            await until(lambda: kinds(catalogue) == {after})


async def test_who_reads_a_ring_of_another_kind_has_it_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not when its turn has come."""
    monkeypatch.setattr("valkka_async.link.exporter._KIND", 1e6)
    async with followed() as catalogue:
        sender = Sender("attic", Budget(None), itertools.count(1).__next__, catalogue.doubt)
        try:
            with va.serve("yard") as server:
                publish(server, "raw")
                await until(lambda: catalogue.raw == {"yard"})
                stream = sender.add("yard", lambda payload: None, None, Content.RAW)
                await until(lambda: stream.sent == 1)
                publish(server, "metadata")
                await until(lambda: catalogue.metadata == {"yard"} and not catalogue.raw)
        finally:
            sender.stop()
            assert await asyncio.to_thread(sender.join, 30)


async def test_a_ring_whose_kind_changes_all_the_time_is_asked_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However often it is doubted."""
    told = 0
    catalogue = Catalogue(lambda: None)
    hear = catalogue._hear

    def counted(ring: str, said: Any) -> float:
        nonlocal told
        told += 1
        return hear(ring, said)

    monkeypatch.setattr(catalogue, "_hear", counted)
    following = asyncio.create_task(catalogue.follow())
    with va.serve("yard") as server:
        began = time.monotonic()
        for number in itertools.count():
            publish(server, ("raw", "metadata", "camera")[number % 3])
            catalogue.doubt("yard")
            await asyncio.sleep(0.001)
            if number > 200 and told > 2:
                break
        assert told < 5 + (time.monotonic() - began) * 2
    following.cancel()
    await asyncio.wait([following])


def test_however_often_a_host_asks_for_what_cannot_be_sent_the_log_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    doubted: list[str] = []
    sender = Sender("attic", Budget(None), itertools.count(1).__next__, doubted.append)
    try:
        with va.serve("yard") as server:
            server.publish(b"{}")
            for count in range(1, 151):
                stream = sender.add("yard", lambda payload: None, None, Content.RAW)
                wait_for(functools.partial(lambda least: len(doubted) >= least, count))
                sender.discard(stream)
    finally:
        sender.stop()
        assert sender.join(30)
    assert 0 < len(caplog.records) < 100


@pytest.mark.parametrize(("descriptors", "waits"), [(64, 5), (1024, 20), (8, 2)])
def test_rings_that_hang_take_a_part_of_the_descriptors(
    descriptors: int, waits: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Others have theirs all the same, and the log says why not all are waited for."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (descriptors, descriptors))
    most, sent = 0, list[bytes]()

    def put(data: bytes) -> None:
        nonlocal most
        most = max(most, sum(stream.waits_for_server for stream in streams))
        sent.append(data)

    sender = Sender("attic", Budget(None), itertools.count(1).__next__)
    with contextlib.ExitStack() as stack:
        for number in range(20):
            hanging = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            hanging.bind(path := socket_path(runtime_dir(), f"hanging{number}"))
            stack.callback(os.unlink, path)
            hanging.listen()
        server = stack.enter_context(va.serve("lively"))
        server.publish(b"{}")
        stack.callback(lambda: sender.join(30))
        stack.callback(sender.stop)
        streams = [sender.add(f"hanging{n}", put, None, Content.METADATA) for n in range(20)]
        wait_for(lambda: sum(stream.waits_for_server for stream in streams) >= waits)
        sender.add("lively", put, None, Content.METADATA)
        for _ in range(50):
            server.publish(b"{}")
            time.sleep(0.001)
        wait_for(lambda: sent)
        if waits < len(streams):
            wait_for(lambda: all(stream.let_go for stream in streams))
    assert most <= waits
    assert ["do not answer" in record.message for record in caplog.records] == [True] * (waits < 20)


def test_a_socket_that_comes_is_looked_for_at_once_and_one_that_does_not_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[bytes] = []
    sender = Sender("attic", Budget(None), itertools.count(1).__next__)
    try:
        dead = sender.add("dead", sent.append, None, Content.METADATA)
        wait_for(lambda: dead.pauses.bound >= 4 * sender_module._RETRY)
        monkeypatch.setattr(sender_module, "_RETRY", 1e6)
        monkeypatch.setattr(sender_module, "_LAST_RETRY", 1e6)
        stream = sender.add("yard", sent.append, None, Content.METADATA)
        wait_for(lambda: stream.retry_at > time.monotonic())
        with va.serve("yard") as server:
            server.publish(b"{}")
            sender.look_for({"dead", "shed"})
            time.sleep(0.05)
            assert not sent
            sender.look_for({"yard"})
            wait_for(lambda: sent)
    finally:
        sender.stop()
        assert sender.join(30)


async def test_the_catalogue_tells_which_sockets_have_come_and_gone() -> None:
    moved: set[str] = set()
    catalogue = Catalogue(lambda: None, moved=lambda rings: moved.update(rings or ["all"]))
    following = asyncio.create_task(catalogue.follow())
    with va.serve("first") as first:
        first.publish(b"{}")
        await until(lambda: catalogue.metadata)
        for name in ("yard", "shed"):
            moved.clear()
            with va.serve(name):
                await until(lambda name=name: moved & {name, "all"})
                moved.clear()
            await until(lambda name=name: moved & {name, "all"})
    following.cancel()
    await asyncio.wait([following])


def failing(times: int, function: Any) -> Any:
    """As the function, which finds no descriptor at first."""
    left = itertools.chain(range(times), itertools.repeat(-1))

    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        if next(left) >= 0:
            raise va.ConnectError(errno.EMFILE, "no descriptor left")
        return function(*args, **options)

    return called


@pytest.mark.parametrize("step", ["fileno", "recv_nowait", "begin"])
def test_a_ring_for_which_no_descriptor_was_left_is_sent_when_there_is_one(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: Any = sender_module if step == "begin" else va.Reader
    monkeypatch.setattr(where, step, failing(2, getattr(where, step)))
    sent: list[bytes] = []
    sender = Sender("attic", Budget(None), itertools.count(1).__next__)
    try:
        with va.serve("yard") as server:
            server.publish(b"{}")
            sender.add("yard", sent.append, None, Content.METADATA)
            wait_for(lambda: sent)
    finally:
        sender.stop()
        assert sender.join(30)


def test_a_sender_without_a_thread_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(thread: object) -> None:
        raise OSError(errno.EAGAIN, "no room for a thread")

    monkeypatch.setattr(sender_module, "start", no_room)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="no room") as caught:
        Sender("attic", Budget(None), itertools.count(1).__next__)
    assert os.listdir("/proc/self/fd") == before, caught


@pytest.mark.parametrize("error", [ValueError, MemoryError, RuntimeError])
def test_a_ring_that_cannot_be_read_for_whatever_reason_holds_up_no_other(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = sender_module.begin

    def begun(name: str, **options: Any) -> va.Reader:
        if name.startswith("bad"):
            raise error
        return begin(name, **options)

    monkeypatch.setattr(sender_module, "begin", begun)
    sent: list[bytes] = []
    sender = Sender("attic", Budget(None), itertools.count(1).__next__)
    try:
        with va.serve("yard") as server:
            server.publish(b"{}")
            for name in [*(f"bad{n}" for n in range(100)), "yard"]:
                sender.add(name, sent.append, None, Content.METADATA)
            wait_for(lambda: sent, SOON)
    finally:
        sender.stop()
        assert sender.join(30)


@pytest.mark.parametrize("call", ["add", "discard", "look_for", "stop"])
def test_who_wakes_a_sender_that_ends_writes_into_no_file_of_others(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor's number may be another file's as soon as it is closed."""
    closed: list[bool] = []
    sender = Sender("attic", Budget(None), itertools.count(1).__next__)
    stream = sender.add("yard", lambda payload: None, None, Content.METADATA)
    write = os.eventfd_write

    def written(fd: int, value: int) -> None:
        write(fd, value)
        if not closed:
            closed.append(sender.join(0.3))  # it would end now
            os.fstat(fd)

    sender._stop = True
    monkeypatch.setattr(os, "eventfd_write", written)
    calls: dict[str, Any] = {
        "add": lambda: sender.add("shed", lambda payload: None, None, Content.METADATA),
        "discard": lambda: sender.discard(stream),
        "look_for": lambda: sender.look_for({"yard"}),
        "stop": sender.stop,
    }
    calls[call]()
    assert sender.join(30)
    for again in calls.values():
        again()
    assert len(closed) == 1


async def test_a_new_ring_is_asked_again_soon_and_one_that_never_answers_rarely() -> None:
    catalogue = Catalogue(lambda: None)
    young = [catalogue._hear("yard", {"format": ""}) for _ in range(9)]
    dead = [catalogue._hear("shed", None) for _ in range(9)]
    assert young == sorted(young) and dead == sorted(dead)
    assert young[0] == dead[0] < young[-1] < dead[-1]
    known = catalogue._hear("yard", {"format": "bytes"})
    assert young[-1] < known < 10, "it may be of another kind by then"
    assert catalogue._hear("yard", None) == young[0]


@pytest.mark.parametrize("name", ["a/b", "**", "", "\ud800", "x" * 65, 7, None, ["a"], {}])
def test_a_camera_whose_name_cannot_be_one_is_not_offered(name: object) -> None:
    """It would become a part of a key, in which "**" means all."""
    output = {"name": "ring", "format": "packets", "stream": name}
    cameras = [{"name": name, "outputs": [output]}]
    cameras += [{"name": "cam1", "outputs": [output], "streams": [{"name": "main"}, {"name": name}]}]
    for camera, named in zip(cameras, ("", "cam1"), strict=True):
        known = known_by("ring", {"camera": camera})
        assert known is not None and (known.camera, known.stream) == (named, "")
