"""Raw frames between hosts: for whom the config says so, whole, from what others leave, and checked."""

from __future__ import annotations

import functools
import itertools
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from link_tools import Host, camera, fresh, pair
from numpy.typing import NDArray

import valkka_async as va
from support.program import run
from support.until import wait_for
from valkka_async.cli.doctor.link import links
from valkka_async.errors import ProtocolError
from valkka_async.link.budget import Budget
from valkka_async.link.bus import Bus
from valkka_async.link.exporter import Catalogue
from valkka_async.link.geometry import encode, image
from valkka_async.link.keys import Content, parse
from valkka_async.link.peer import Peer
from valkka_async.link.receiver import Receiver
from valkka_async.link.sender import Sender
from valkka_async.link.spec import PeerSpec
from valkka_async.link.status import Level
from valkka_async.link.unit import MAX_DATA, Unit, decode
from valkka_async.link.unit import encode as encode_unit
from valkka_async.ring.connection import report

pytestmark = pytest.mark.timeout(300)  # several programs have to start

RGB, GRAY = np.dtype(np.uint8), np.dtype(np.float32)
DATA = bytes(range(24))
PICTURE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


# ------------------------------------------------------------------------------------------ units


@pytest.mark.parametrize("dtype", ["u1", "u2", "u8", "i8", "f2", "f4", "f8", "?"])
def test_a_geometry_arrives_as_it_was(dtype: str) -> None:
    made = np.ones((2, 3, 1, 2), dtype)
    again = image("array", encode(made.shape, made.dtype), memoryview(made.tobytes()))
    assert again.dtype == made.dtype and np.array_equal(again, made)


@pytest.mark.parametrize(
    ("format", "geometry"),
    [
        ("rgb24", encode((2, 4, 2), RGB)),  # fewer bytes than there are
        ("rgb24", encode((2, 8, 3), RGB)),  # more
        ("array", encode((2**31, 2**31, 2**31, 2**31), RGB)),
        ("array", encode((2**32 - 1,) * 4, RGB)),
        ("array", encode((0, 24), RGB)),
        ("array", encode((24, 1), GRAY)),  # as many elements, of another size
        ("rgb24", encode((6,), GRAY)),  # as many bytes, of a dtype that rgb24 has not
        ("rgb24", encode((24,), RGB)),
        ("nv12", encode((4, 6), RGB)),
        ("array", b"|O8" + struct.pack("<I", 3)),
        ("array", b">f4" + struct.pack("<I", 6)),
        ("array", b"|u1"),
        ("array", b"|u1" + struct.pack("<5I", 24, 1, 1, 1, 1)),
        ("array", b"|u1" + struct.pack("<I", 24) + b"\0"),
        ("array", b""),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(format: Any, geometry: bytes) -> None:
    with pytest.raises(ProtocolError):
        image(format, geometry, memoryview(DATA))


@pytest.fixture
def ring() -> Iterator[tuple[Receiver, va.Reader]]:
    with va.serve("cam1") as server, va.attach("cam1", policy="ordered") as reader:
        yield Receiver("garage", server, Content.RAW), reader


def unit(seq: int, **of: Any) -> bytes:
    made = Unit(1, seq, "rgb24", True, 1_790_000_000_000_000_000)._replace(**of)
    return encode_unit(made, encode(PICTURE.shape, RGB), DATA)


def test_hostile_units_leave_a_ring_as_it_is(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, reader = ring
    dice = random.Random(5)
    for _ in range(3000):
        data = bytearray(unit(dice.randrange(2**64)))
        data[dice.randrange(len(data))] = dice.randrange(256)
        receiver.take(bytes(data))
    receiver.take(encode_unit(Unit(1, 2**64 - 1, "h264", True, 1), b"", DATA))  # none that was asked for
    receiver.take(unit(1, stream=99))
    while (frame := reader.recv_nowait()) is not None:
        last = frame.copy()
        frame.release()
    assert np.array_equal(last.array, PICTURE) and receiver.counts().refused > 0


def test_a_loss_is_counted_and_the_next_frame_is_whole(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, reader = ring
    for seq, skipped in ((5, 0), (8, 0), (12, 2)):
        receiver.take(unit(seq, skipped=skipped, key=seq == 5))
    frames = [reader.recv(5).copy() for _ in range(3)]
    assert [frame.meta["link"].get("lost", 0) for frame in frames] == [0, 2, 1]
    assert (receiver.counts().lost, receiver.counts().limited) == (3, 2)
    assert reader.header == b""


# ----------------------------------------------------------------------------------------- config


class Said:
    """A bus that notes what is offered."""

    def __init__(self) -> None:
        self.shown: set[str] = set()

    def show(self, key: str) -> None:
        self.shown.add(key)

    def hide(self, key: str) -> None:
        self.shown.remove(key)

    def answer_time(self, key: str) -> None:
        pass

    def hear_puts(self, pattern: str, told: object) -> None:
        pass


def offered(catalogue: Catalogue, **peer: tuple[str, ...]) -> set[tuple[str, str]]:
    bus = Said()
    made = Peer(PeerSpec("attic", **peer), "garage", "0a", cast(Bus, bus), lambda: 1, lambda: None)
    made.offer(catalogue)
    return {(key.kind, key.camera) for text in bus.shown if (key := parse(text)) is not None}


def test_raw_frames_are_for_whom_the_config_says_so(caplog: pytest.LogCaptureFixture) -> None:
    catalogue = Catalogue(lambda: None)
    catalogue.rings = {"cam1": "cam1.packets"}
    catalogue.raw = frozenset({"cam1", "yard.small"})
    assert offered(catalogue, export=("*",), metadata=("*",)) == {("cam", "cam1")}
    assert not caplog.records
    assert offered(catalogue, export=("yard.small",)) == set()
    assert "`raw`" in caplog.records[0].message, "why not, and how"
    assert offered(catalogue, raw=("yard.*",)) == {("raw", "yard.small")}
    assert len(caplog.records) == 1
    # Two things cannot have the name garage/cam1, and the encoded one costs less.
    assert offered(catalogue, export=("cam1",), raw=("*",)) == {("cam", "cam1"), ("raw", "yard.small")}
    assert len(caplog.records) == 2


# ----------------------------------------------------------------------------------------- limits


def test_without_a_limit_all_raw_frames_are_sent() -> None:
    assert all(Budget(None).admit_raw(10**9, 0.0) for _ in range(10))


def test_raw_frames_get_what_the_cameras_leave_and_cost_these_nothing() -> None:
    alone, beside = Budget(1000.0), Budget(1000.0)
    sent = 0
    for n in range(1000):
        at, key = n / 25, n % 25 == 0
        assert beside.admit(20, key, at) is alone.admit(20, key, at)  # 500 in a second
        sent += 300 * beside.admit_raw(300, at)
    assert beside.level is Level.ALL and 0.8 < sent / (500 * 40) <= 1.0


def test_a_raw_frame_larger_than_the_limit_goes_when_it_has_been_saved_up() -> None:
    budget = Budget(1000.0)
    times = [at / 10 for at in range(400) if budget.admit_raw(5000, at / 10)]
    assert len(times) == 8 and min(np.diff(times)) > 4.9


def test_no_raw_frames_while_cameras_get_less_than_all() -> None:
    budget = Budget(1000.0)
    for n in range(250):
        budget.admit(100, n % 25 == 0, n / 25)
    assert budget.level is Level.KEYS and not budget.admit_raw(1, 10.0)


def test_what_a_limit_or_its_size_keeps_back_is_left_out_whole_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The ring has frames that are too large for a link, and then more than the limit of each second."""
    units: list[tuple[Unit, bytes, memoryview]] = []
    sender = Sender("attic", Budget(10.0 * PICTURE.nbytes), itertools.count(1).__next__)
    with va.serve("yard.small") as server:
        try:
            stream = sender.add(
                "yard.small", lambda payload: units.append(decode(payload)), None, Content.RAW
            )
            assert wait_for(lambda: server.readers)
            for more in (1, 2, 3):
                server.publish(np.zeros(MAX_DATA + more, np.int8))
                assert wait_for(functools.partial(lambda most: stream.skipped == most, more))
            assert sum("bytes is not sent" in one.message for one in caplog.records) == 1
            while stream.sent < 3:
                server.publish(PICTURE)
                wait_for(lambda: stream.sent + stream.skipped == server.stats().published)
            published = server.stats().published
        finally:
            sender.stop()
            assert sender.join(30)
    assert stream.skipped == published - 3 > 1 and stream.rate()
    for one, geometry, data in units:
        assert np.array_equal(image(one.format, geometry, data), PICTURE)
    assert units[-1][0].skipped == stream.skipped


# ------------------------------------------------------------------------------------------ hosts


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with pair(export=["*"], raw=["yard.*"]) as (garage, attic):
        yield garage, attic


def readers(garage: Host, name: str) -> object:
    with garage.here():
        said = report(name, 5)
    return said and said["readers"]


def pictures() -> dict[str, NDArray[Any]]:
    noise = np.random.default_rng(1)
    return {
        "rgb24": noise.integers(0, 256, (480, 640, 3), np.uint8),
        "rgba": noise.integers(0, 256, (2160, 3840, 4), np.uint8),  # the largest that is meant to go
        "nv12": noise.integers(0, 256, (540, 640), np.uint8),
        "array": noise.random((3, 4, 5, 6), np.float32),
    }


@pytest.mark.parametrize("format", pictures())
def test_raw_frames_arrive_as_they_were(hosts: tuple[Host, Host], format: Any) -> None:
    garage, attic = hosts
    name, made = f"yard.{format}", pictures()[format]
    with garage.here():
        server, other = va.serve(name), va.serve(f"cam.{format}")
    with server, other, attic.here():
        other.publish(made, format=format)
        server.publish(made, format=format, pts=7, time_base=(1, 90000), meta={"by": "yard"})
        attic.eventually(lambda: attic.camera(f"garage/{name}"))
        assert attic.camera(f"garage/cam.{format}") is None, "not by `export`"
        assert readers(garage, name) == 0 and garage.sees("attic").exports == (), "nobody reads it"
        with attic.reads(f"garage/{name}") as reader:
            with reader.recv(60) as frame:  # at once: the newest
                assert (frame.format, frame.pts, frame.meta["by"]) == (format, 7, "yard")
                assert frame.dtype == made.dtype and np.array_equal(frame.array, made)
                assert frame.meta["link"]["host"] == "garage"
            assert readers(garage, name) == 1
            smaller = made[: made.shape[0] // 3 or 1].copy() if format != "nv12" else made[:270].copy()
            for again in (smaller, made):  # another size in the middle of it
                server.publish(again, format=format)
                with reader.recv(60) as frame:
                    assert np.array_equal(frame.array, again)
        seen = attic.camera(f"garage/{name}")
        assert seen is not None and (seen.codec, seen.received, seen.lost, seen.refused) == (format, 3, 0, 0)
        assert wait_for(lambda: readers(garage, name) == 0, pause=0.1), "some seconds after the last reader"


def test_what_they_take_is_said(hosts: tuple[Host, Host]) -> None:
    """By the status, to those who send, and by doctor; before anybody reads them, their size."""
    garage, attic = hosts

    def doctor() -> str:
        with garage.here():
            return next((one.found for one in links() if one.name == "raw frames yard.said"), "")

    with garage.here():
        server = va.serve("yard.said")
    with server, attic.here():
        server.publish(np.zeros((100, 100, 3), np.uint8))
        assert "0.03 MB for each frame" in garage.eventually(doctor)
        with attic.reads("garage/yard.said") as reader:
            for _ in range(20):
                reader.recv(60).release()
                server.publish(np.zeros((100, 100, 3), np.uint8))
            (sent,) = garage.sees("attic").exports
            assert sent.raw and sent.rate and sent.bytes >= 20 * 30_000
            with garage.here():
                shown = run("link", "--status")
            assert "MB/s" in shown.stdout, shown.stderr


@pytest.mark.parametrize("first", ["raw", "metadata"])
def test_a_name_may_become_another_kind_of_ring(first: str) -> None:
    """And nobody is told that the name is taken."""
    frames: dict[str, Any] = {"raw": PICTURE, "metadata": b"{}"}
    second = "metadata" if first == "raw" else "raw"
    with pair(raw=["yard"], metadata=["yard"]) as (garage, attic):
        for content in (first, second):
            with garage.here():
                server = va.serve("yard")
            with server, attic.here():
                server.publish(frames[content])
                format = "rgb24" if content == "raw" else "bytes"

                def arrived(format: str = format) -> bool:
                    with va.attach("garage/yard", policy="ordered", open_timeout=1) as reader:
                        return reader.recv(2).format == format

                attic.eventually(arrived)
        assert attic.process is not None
        _, errors = attic.process.end()
        assert "served already" not in errors


def test_a_server_may_go_over_to_another_kind_of_frames() -> None:
    """And back, while somebody reads the ring."""
    frames: list[Any] = [PICTURE, b"{}", PICTURE]
    with pair(raw=["yard"], metadata=["yard"]) as (garage, attic):
        with garage.here():
            server = va.serve("yard")
        with server, attic.here():
            for frame in frames:
                server.publish(frame)
                format = "bytes" if isinstance(frame, bytes) else "rgb24"

                def arrived(format: str = format) -> bool:
                    with va.attach("garage/yard", policy="ordered", open_timeout=1) as reader:
                        return reader.recv(2).format == format

                attic.eventually(arrived)


def test_a_camera_may_become_a_ring_of_raw_frames(short: Path) -> None:
    """The worker's ring of this name is there a moment longer than the camera."""
    with pair(raw=["cam1"]) as (garage, attic):
        with camera(garage, short), attic.here(), attic.reads("garage/cam1") as reader:
            reader.recv(60).release()
        with garage.here():
            server = va.serve("cam1")
        with server, attic.here():
            server.publish(PICTURE)

            def arrived() -> bool:
                with attic.reads("garage/cam1") as reader, reader.recv(2) as frame:
                    return frame.shape == PICTURE.shape

            attic.eventually(arrived)
        assert attic.process is not None
        _, errors = attic.process.end()
        assert "served already" not in errors


def test_a_limit_keeps_raw_frames_back_and_lets_cameras_through(short: Path) -> None:
    """The frames would take far more than the limit, the camera a part of it."""
    large = np.zeros((480, 640, 3), np.uint8)
    limit = 2 * short.stat().st_size // 60 + large.nbytes
    with pair(raw=["yard"], max_rate=limit) as (garage, attic), camera(garage, short):
        with garage.here():
            server = va.serve("yard")
        with server, attic.here(), attic.reads("garage/cam1/packets") as reader:
            server.publish(large)
            with attic.reads("garage/yard") as raw:
                fresh(reader)
                got = 0
                while got < 3:
                    reader.recv(60).release()
                    for _ in range(4):
                        server.publish(large)
                    while (frame := raw.recv_nowait()) is not None:
                        with frame:
                            assert np.array_equal(frame.array, large)
                        got += 1
                encoded, yard = attic.camera("garage/cam1"), attic.camera("garage/yard")
        assert encoded is not None and (encoded.lost, encoded.limited) == (0, 0)
        assert yard is not None and yard.limited > 0
        assert garage.sees("attic").level == Level.ALL
