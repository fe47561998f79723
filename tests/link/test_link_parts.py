"""The parts of a link by themselves: units, losses, clocks, limits, names, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

import valkka_async as va
from support.until import until, wait_for
from valkka_async.camera.status import CameraState
from valkka_async.errors import InvalidNameError, ProtocolError
from valkka_async.link import peer as peer_module
from valkka_async.link.budget import Budget
from valkka_async.link.clock import PeerClock
from valkka_async.link.faults import Complaints, Fault, lines_of_a_host
from valkka_async.link.foreign import ForeignCamera
from valkka_async.link.keys import Content, Key, Live, parse, parse_live
from valkka_async.link.messages import Failure, Import, Work, decode_alive
from valkka_async.link.messages import encode as encode_message
from valkka_async.link.peer import Peer
from valkka_async.link.receiver import Receiver
from valkka_async.link.spec import Certificates, LinkSpec, PeerSpec
from valkka_async.link.status import Level
from valkka_async.link.unit import MAX_BYTES, Unit, decode, encode
from valkka_async.link.worker import DecoderProcess
from valkka_async.ring.names import matches
from valkka_async.ring.rendezvous import servers
from valkka_async.ring.server import Server
from valkka_async.seldom import Seldom

UNIT = Unit(1, 1, "h264", True, 1_790_000_000_000_000_000, 9, -3, 40, Fraction(1, 90000), 2, {"a": [1]})


@pytest.fixture
def ring() -> Iterator[tuple[Receiver, va.Reader]]:
    with va.serve("cam1", slots=64, backlog="gop") as server:
        with va.attach("cam1", policy="ordered") as reader:
            yield Receiver("garage", server), reader


def take(receiver: Receiver, seq: int, *, key: bool = False, stream: int = 1, skipped: int = 0) -> None:
    unit = UNIT._replace(seq=seq, key=key, stream=stream, skipped=skipped, meta=None)
    receiver.take(encode(unit, b"sets" if key else b"", b"data"))


def seen(reader: va.Reader) -> list[va.Frame]:
    frames = []
    while (frame := reader.recv_nowait()) is not None:
        frames.append(frame.copy())
        frame.release()
    return frames


def ring_of_another_host(name: str) -> Server:
    return Server(
        name,
        slots=64,
        max_clients=8,
        mode=0o600,
        group=None,
        backlog="gop",
        backlog_bytes=1 << 20,
        watch="thread",
    )


# ------------------------------------------------------------------------------------------ units


@pytest.mark.parametrize(
    "unit", [UNIT, Unit(2**32 - 1, 2**63, "jpeg", False, 1), UNIT._replace(pts=None, dts=None, meta=None)]
)
def test_a_unit_arrives_as_it_was(unit: Unit) -> None:
    again, header, data = decode(encode(unit, b"sets", b"data"))
    assert (again, header, bytes(data)) == (unit, b"sets", b"data")


def test_metadata_that_would_leave_no_room_stay_behind() -> None:
    assert decode(encode(UNIT._replace(meta={"a": "x" * 3900}), b"", b"data"))[0].meta is None


def test_hostile_descriptions_are_refused_and_nothing_else_is_raised() -> None:
    good, dice = encode(UNIT, b"sets", b""), random.Random(7)
    for bad in (good, good[:-1], good[:30], b"", good + bytes(MAX_BYTES)):
        with pytest.raises(ProtocolError):
            decode(bad)
    good += b"data"
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            decode(bytes(data))
        except ProtocolError:
            pass


def test_the_link_itself_loads_no_video_library() -> None:
    """What another host sends is decoded by the importing worker alone."""
    code = "import sys, valkka_async.link.link, valkka_async.cli.link; print('av' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_hostile_units_leave_a_ring_as_it_is(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, reader = ring
    dice = random.Random(11)
    take(receiver, 1, key=True)
    for _ in range(1000):
        data = bytearray(encode(UNIT._replace(seq=dice.randrange(2**64)), b"", b"x" * dice.randrange(20)))
        data[dice.randrange(len(data))] = dice.randrange(256)
        receiver.take(bytes(data))
    take(receiver, 1, key=True, stream=99)
    assert bytes(seen(reader)[-1].data) == b"data" and receiver.counts().refused > 0


@contextlib.contextmanager
def importing(*names: str) -> Iterator[BinaryIO]:
    """A worker, in this process, for these cameras: what it says."""
    from valkka_async.link.decoder import Worker

    work = Work(tuple(Import(name, "rgb24", CameraState.LIVE, None, "") for name in names))
    (commands, tell), (hear, answers) = os.pipe(), os.pipe()
    with open(tell, "wb") as telling, open(hear, "rb") as hearing, open(commands), open(answers):
        telling.write(encode_message(work))
        telling.flush()
        worker = Worker(commands, answers)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield hearing
        finally:
            telling.close()
            thread.join()
            worker.close()
    assert wait_for(lambda: not [one for one in threading.enumerate() if one.name.startswith("garage/")])


def test_rings_of_many_cameras_do_not_hold_up_the_sign_of_life() -> None:
    """The link takes an importing worker that says nothing for hung."""
    names = [f"garage/cam{number}" for number in range(40)]
    with importing(*names) as hearing:
        had = [decode_alive(hearing.readline()).cameras]
        assert had[0] < len(names)
        while had[-1] < len(names):
            had.append(decode_alive(hearing.readline()).cameras)


@pytest.mark.parametrize(
    ("read", "format", "fault"),
    [
        ("garage/cam1", "h264", Fault.DECODE),
        ("garage/cam1", "jpeg", Fault.DECODE),
        ("garage/cam1/fmp4", "jpeg", Fault.MUX),
    ],
)
def test_units_that_the_worker_cannot_use_are_counted(read: str, format: Any, fault: Fault) -> None:
    with (
        ring_of_another_host("garage/cam1/packets") as packets,
        importing("garage/cam1", "garage/cam2") as hearing,
    ):
        packets.publish(b"\0\0\1\x65", format=format, key=True)
        with va.attach(read, open_timeout=60):
            said: list[Failure] = []
            for _ in range(10):
                said += decode_alive(hearing.readline()).failures
                if said:
                    break
            assert [(one.name, one.fault) for one in said] == [("garage/cam1", fault)]
            if fault is Fault.MUX:  # is tried again
                assert 0 < said[0].count < 10
            else:
                assert said[0].count == 1 and decode_alive(hearing.readline()).failures == ()


# ----------------------------------------------------------------------------------------- losses


def test_a_loss_is_counted_and_reading_goes_on_at_a_key_frame(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, reader = ring
    for seq, key in ((5, True), (6, False), (9, False), (10, False), (11, True), (12, False)):
        take(receiver, seq, key=key)
    frames = seen(reader)
    assert [frame.key for frame in frames] == [True, False, True, False]
    assert [frame.meta["link"].get("lost", 0) for frame in frames] == [0, 0, 4, 0]
    counts = receiver.counts()
    assert (counts.received, counts.lost, counts.left_out, counts.restarts) == (6, 2, 2, 0)


def test_a_new_stream_is_a_restart_and_not_a_loss(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, reader = ring
    take(receiver, 900, key=True)
    take(receiver, 3, stream=2)  # its key frame was not for us
    take(receiver, 4, stream=2, key=True)
    assert [frame.meta["link"].get("lost", 0) for frame in seen(reader)] == [0, 1]
    assert (receiver.counts().lost, receiver.counts().restarts) == (0, 1)


def test_what_was_left_out_for_the_limit_is_not_lost(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, reader = ring
    take(receiver, 1, key=True)
    take(receiver, 26, key=True, skipped=24)
    assert len(seen(reader)) == 2
    assert (receiver.counts().lost, receiver.counts().limited) == (0, 24)


def test_a_camera_sends_no_metadata_and_metadata_no_access_units(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, reader = ring
    take(receiver, 1, key=True)
    other = Receiver("garage", receiver.server, Content.METADATA)
    metadata = UNIT._replace(seq=2, format="bytes", meta=None)
    receiver.take(encode(metadata, b"", b"boxes"))
    take(other, 1, key=True)
    other.take(encode(metadata, b"", bytes(1 << 17)))
    assert (receiver.counts().refused, other.counts().refused, len(seen(reader))) == (1, 2, 1)
    other.take(encode(metadata, b"", b"boxes"))
    assert bytes(seen(reader)[0].data) == b"boxes"


FLOODS: dict[Fault, Any] = {
    Fault.DESCRIPTION: lambda n: bytes(n % 60),
    Fault.CONTENT: lambda n: encode(UNIT._replace(seq=n, format="rgb24"), bytes(n), b"x"),
    Fault.REPEAT: lambda n: encode(UNIT._replace(seq=0), bytes(n), b"x"),
    Fault.SIZE: lambda n: encode(UNIT._replace(seq=n), bytes(70_000 + n), b"x"),
    # Metadata that are longer here than they were on the way.
    Fault.RING: lambda n: encode(UNIT._replace(seq=n, meta={"a": [11111] * (500 + n)}), b"", b"x").replace(
        b"11111", b"1e015"
    ),
}


@pytest.mark.parametrize("fault", FLOODS)
def test_what_is_wrong_all_the_time_is_counted_and_said_once(
    fault: Fault, ring: tuple[Receiver, va.Reader], caplog: pytest.LogCaptureFixture
) -> None:
    """However much the texts differ."""
    receiver, _ = ring
    take(receiver, 0, key=True)
    for n in range(1, 100):
        receiver.take(FLOODS[fault](n))
        receiver.take(FLOODS[Fault.DESCRIPTION](n))
    counts = receiver.counts()
    bad = 198 if fault is not Fault.RING else 99
    assert (counts.refused, counts.lost) == (bad, 198 - bad)
    assert len(caplog.records) == (1 if fault is Fault.DESCRIPTION else 2)
    receiver.take(FLOODS[fault](100))
    assert receiver.fault is not None and receiver.fault[1] is fault


def test_a_frame_for_which_readers_leave_no_slot_is_lost() -> None:
    with va.serve("cam1", slots=2) as server, va.attach("cam1", policy="ordered", max_leases=2) as reader:
        receiver = Receiver("garage", server)
        held = []
        for seq in range(5):
            take(receiver, seq, key=True)
            if seq < 2:
                held.append(reader.recv(5))
        assert (receiver.counts().lost, receiver.fault and receiver.fault[1]) == (3, Fault.SLOTS)
        for frame in held:
            frame.release()
        take(receiver, 5, key=True)
        with reader.recv(5) as frame:
            assert frame.meta["link"]["lost"] == 3


def test_no_number_of_a_host_is_too_large_for_the_state(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, _ = ring
    for stream in (1, 2, 3):
        take(receiver, 0, key=True, stream=stream)
        take(receiver, 2**64 - 1, key=True, stream=stream)
    assert 0 < receiver.counts().lost < 2**63


def test_all_cameras_of_a_host_have_so_many_lines_together(caplog: pytest.LogCaptureFixture) -> None:
    lines = lines_of_a_host()
    for number in range(1000):
        Complaints(f"garage/cam{number}", lines)(Fault.REPEAT, "an access unit that came before")
    assert 0 < len(caplog.records) < 100


def test_however_often_a_host_offers_what_has_no_ring_the_log_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus: Any = None
    lines = lines_of_a_host()
    for _ in range(150):
        one = ForeignCamera("garage", "x" * 60, "attic", bus, lambda: None, Content.RAW, lines)
        one.look(0.0, "", None)
        one.look(100.0, "", None)
        assert one.status().reason
    assert 0 < len(caplog.records) < 100


def test_a_camera_whose_units_fail_says_how_many_and_why_last(ring: tuple[Receiver, va.Reader]) -> None:
    bus: Any = None
    one = ForeignCamera("garage", "cam2", "attic", bus, lambda: None, Content.CAMERA, lines_of_a_host())
    one.look(0.0, "", None)
    try:
        assert (one.status().failed, one.status().fault) == (0, None)
        one.note_failure(Failure(one.name, 3, Fault.DECODE))
        one.note_failure(Failure(one.name, 4, Fault.MUX))
        assert (one.status().failed, one.status().fault) == (7, Fault.MUX)
        one.note_failure(Failure(one.name, 2**70, Fault.PIXELS))
        assert 7 < one.status().failed < 2**63
    finally:
        one.close()


def test_what_the_worker_says_reaches_the_camera_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[DecoderProcess] = []

    class Noted(DecoderProcess):
        def __init__(self, host: str, failed: Callable[[Failure], None]) -> None:
            super().__init__(host, failed)
            self.fail = failed
            workers.append(self)

    monkeypatch.setattr(peer_module, "DecoderProcess", Noted)
    bus: Any = SimpleNamespace(answer_time=lambda key: None, ask_time=lambda key, told: None)
    peer = Peer(PeerSpec("garage"), "attic", "0a", bus, lambda: 1, lambda: None)
    peer.hear_live(Live("garage", "1", "0b"), True)
    for name in ("cam1", "cam2"):
        peer.hear_offer(Key("garage", "0b", Content.CAMERA.offer, "attic", name), True)
    try:
        peer.look(0.0)
        (worker,) = workers
        worker.fail(Failure("garage/cam2", 3, Fault.DECODE))
        worker.fail(Failure("garage/gone", 3, Fault.DECODE))
        seen = {one.name: (one.failed, one.fault) for one in peer.status().imports}
        assert seen == {"garage/cam1": (0, None), "garage/cam2": (3, Fault.DECODE)}
    finally:
        assert peer.close() == []


@pytest.mark.parametrize("before", [{}, {"0b": True}, {"0b": False}])
def test_offers_of_lives_that_were_never_seen_leave_room_for_those_that_are(before: dict[str, bool]) -> None:
    """However many came and went."""
    bus: Any = SimpleNamespace(answer_time=lambda key: None, ask_time=lambda key, told: None)
    peer = Peer(PeerSpec("garage"), "attic", "0a", bus, lambda: 1, lambda: None)

    def offer(epoch: str, there: bool) -> None:
        peer.hear_offer(Key("garage", epoch, Content.CAMERA.offer, "attic", "cam1"), there)

    for epoch, there in before.items():
        offer(epoch, there)
    for number in range(1000):
        for there in (True, False):
            offer(f"{number}", there)
    offer("0b", True)
    peer.hear_live(Live("garage", "1", "0b"), True)
    peer.look(0.0)
    assert [one.name for one in peer.status().imports] == ["garage/cam1"]
    peer.close()


def test_a_name_that_was_taken_is_tried_again_soon() -> None:
    bus: Any = None
    first, second = (
        ForeignCamera("garage", "cam2", "attic", bus, lambda: None, Content.RAW, lines_of_a_host())
        for _ in range(2)
    )
    first.look(0.0, "", None)
    for at in (0.0, 2.0):
        second.look(at, "", None)
        assert not second.up and second.status().reason
    first.close()
    second.look(10.0, "", None)
    assert second.up and not second.status().reason
    second.close()


def test_the_worker_tries_a_name_that_was_taken_again_soon() -> None:
    from valkka_async.link.decoder import Worker

    worker = Worker(-1, -1)
    with ring_of_another_host("garage/cam1"):
        worker._hear(encode_message(Work((Import("garage/cam1", "rgb24", CameraState.LIVE, None, ""),))))
        worker._make(0.0)
    try:
        for at, there in ((0.0, False), (10.0, True)):
            worker._make(at)
            assert ("garage/cam1" in servers()) is there
    finally:
        worker.close()


def test_what_is_said_so_often_a_minute_is_said_again_the_next_one() -> None:
    says = Seldom(2)
    assert [says(at) for at in (0.0, 1.0, 2.0, 59.0, 60.0, 61.0, 62.0)] == [1, 1, 0, 0, 1, 1, 0]


def test_a_repeat_is_refused(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, reader = ring
    for _ in range(2):
        take(receiver, 1, key=True)
    assert len(seen(reader)) == 1 and receiver.counts().refused == 1


def test_capture_times_are_by_our_clock(ring: tuple[Receiver, va.Reader]) -> None:
    receiver, reader = ring
    clock = PeerClock()
    clock.take(1_000, 5_001_000, 3_000)  # theirs is 5 ms ahead
    receiver.difference = clock.difference(3_000)
    take(receiver, 1, key=True)
    (frame,) = seen(reader)
    assert frame.timestamp_ns == UNIT.timestamp_ns - 4_999_000
    assert frame.meta["link"] == {"host": "garage", "clock_offset_ns": 4_999_000, "clock_error_ns": 1_000}


# ----------------------------------------------------------------------------------------- clocks


def test_the_quickest_answer_counts_and_the_truth_is_within_its_error() -> None:
    clock, dice, offset = PeerClock(), random.Random(3), 123_456_789
    now = 10**18
    for _ in range(100):
        out, back = (dice.randrange(50_000, 20_000_000) for _ in range(2))
        clock.take(now, now + out + offset, now + out + back)
        now += 10**9
        found = clock.difference(now)
        assert found is not None and abs(found.offset_ns - offset) <= found.error_ns


@pytest.mark.parametrize("step", [3_600 * 10**9, -50_000_000, 10**18])
def test_a_clock_that_is_set_is_believed_at_once(step: int) -> None:
    clock = PeerClock()
    for n in range(20):
        at = n * 10**9
        clock.take(at, at + 100_000 + (step if n >= 10 else 0), at + 200_000)
        found = clock.difference(at + 200_000)
        assert found is not None and abs(found.offset_ns - (step if n >= 10 else 0)) <= found.error_ns


def test_our_own_clock_set_back_within_an_answer_forgets_all() -> None:
    clock = PeerClock()
    clock.take(0, 50, 100)
    clock.take(10**9, 60, 5)
    assert clock.difference(100) is None


# ----------------------------------------------------------------------------------------- limits


def test_without_a_limit_all_is_sent() -> None:
    budget = Budget(None)
    assert all(budget.admit(10**9, False, 0.0) for _ in range(10))


def test_beyond_the_limit_key_frames_alone_are_sent_and_later_all_again() -> None:
    budget = Budget(1000.0)
    sent = [budget.admit(100, n % 25 == 0, n / 25) for n in range(250)]
    first: Level = budget.level
    assert first is Level.KEYS and 0 < sum(sent) * 100 <= 1000 * 10 + 1000
    assert all(sent[n] for n in range(0, 250, 25)), "key frames fit"
    calm = [budget.admit(1, n % 25 == 0, 10 + n / 25) for n in range(250)]
    level: Level = budget.level
    assert level is Level.ALL and calm[-1]


def test_where_key_frames_do_not_fit_smaller_streams_are_sent_and_not_for_ever() -> None:
    budget = Budget(1000.0)
    sent = [budget.admit(3000 if n % 25 == 0 else 100, n % 25 == 0, n / 25) for n in range(500)]
    assert budget.level is Level.SMALLER and not all(sent)
    small = [budget.admit(20, n % 25 == 0, 20 + n / 25, smaller=True) for n in range(100)]
    assert all(small)
    assert not budget.admit(20, False, 24.0), "of a camera without one, key frames alone"
    for n in range(1000):
        budget.admit(20, n % 25 == 0, 24 + n / 25, smaller=True)
    level: Level = budget.level
    assert level is Level.ALL


def test_what_was_too_much_is_tried_again_ever_more_rarely() -> None:
    budget = Budget(1000.0)
    levels = []
    for n in range(25 * 120):
        size = 20 if budget.level is Level.SMALLER else 3000 if n % 25 == 0 else 100
        budget.admit(size, n % 25 == 0, n / 25, smaller=budget.level is Level.SMALLER)
        levels.append(budget.level)
    rises = [n for n in range(1, len(levels)) if levels[n] < levels[n - 1]]
    assert 0 < len(rises) < 12 and levels.count(Level.SMALLER) > len(levels) / 2


def test_a_key_frame_larger_than_the_limit_goes_when_there_is_a_whole_burst() -> None:
    budget = Budget(1000.0)
    assert budget.admit(5000, True, 0.0)
    assert not budget.admit(5000, True, 1.0)
    assert budget.admit(5000, True, 6.0)


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "pattern", "meant"),
    [
        ("cam1", "*", True),
        ("garage/cam1", "*", False),
        ("garage/cam1", "*/*", True),
        ("garage/cam1", "garage/cam?", True),
        ("garage/cam1", "*/cam2", False),
        ("garage/cam1/packets", "*/*", False),
        ("garage/cam1/packets", "garage/*/packets", True),
    ],
)
def test_patterns_mean_names_part_by_part(name: str, pattern: str, meant: bool) -> None:
    assert matches(name, pattern) is meant


def test_a_name_of_another_host_is_for_readers_alone() -> None:
    with pytest.raises(InvalidNameError):
        va.serve("garage/cam1")
    va.connect("garage/cam1")
    for bad in ("/cam1", "garage/", "a//b", "a/../b", "a/b/c/d", "a/" + "b" * 63, "a+b", "a/b+c"):
        with pytest.raises(InvalidNameError):
            va.connect(bad)


@pytest.mark.parametrize(
    "key", [Key("garage", "0a", "want", "attic", "cam.1", "7"), Key("g", "0a", "clock", "attic")]
)
def test_keys_come_back_as_they_were(key: Key) -> None:
    assert parse(key.text) == key


@pytest.mark.parametrize(
    "text", ["", "va/1", "va/2/a/b/c/d", "va/1/a/b/c/**", "x" * 9999, "va/1/a/b/c/d/e/f/g"]
)
def test_other_keys_are_none(text: str) -> None:
    assert parse(text) is None and parse_live(text) is None


def test_a_host_of_another_version_is_understood_to_be_one() -> None:
    assert parse_live("va/live/garage/2/0a") == Live("garage", "2", "0a")


# ----------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("listen", "files", "peer"),
    [
        (("tcp/0.0.0.0:7447",), False, {}),
        (("tcp/10.0.0.1:7447",), False, {}),
        (("tls/127.0.0.1:7447",), False, {}),
        (("tcp/127.0.0.1:7447",), True, {}),
        (("udp/127.0.0.1:7447",), False, {}),
        (("tcp/127.0.0.1:0",), False, {}),
        ((), False, {}),
        (("tcp/127.0.0.1:7447",), False, {"name": "attic"}),
        (("tcp/127.0.0.1:7447",), False, {"name": "x" * 25}),
        (("tcp/127.0.0.1:7447",), False, {"export": ("a/b",)}),
        (("tcp/127.0.0.1:7447",), False, {"raw": ("a/b",)}),
        (("tcp/127.0.0.1:7447",), False, {"connect": ("tcp/192.168.0.9:7447",)}),
        (("tcp/127.0.0.1:7447",), False, {"max_rate": 0}),
    ],
)
def test_a_link_that_cannot_be_or_is_not_safe_is_refused(
    listen: tuple[str, ...], files: bool, peer: dict[str, Any]
) -> None:
    certificates = Certificates("a", "b", "c") if files else None
    with pytest.raises(ValueError):
        LinkSpec("attic", (PeerSpec(**{"name": "garage", **peer}),), listen, certificates)


@pytest.mark.parametrize("pattern", ["*", "**", "cam*", "c**m*", "*.*"])
def test_a_pattern_gives_the_rights_that_it_means(pattern: str) -> None:
    """Zenoh's access control, which knows other patterns, agrees with ours."""
    zenoh = pytest.importorskip("zenoh")
    from valkka_async.link.engine import access

    for peer in (PeerSpec("attic", export=(pattern,)), PeerSpec("attic", raw=(pattern,))):
        rules = access(LinkSpec("garage", (peer,), listen=("tcp/127.0.0.1:1",)))["rules"]
        for content in Content:
            to = f"/{content.units}/attic/"
            keys = [zenoh.KeyExpr(key) for rule in rules for key in rule["key_exprs"] if to in key]
            for name in ("cam1", "cm", "yard", "cam1.sub"):
                given = any(key.includes(zenoh.KeyExpr(f"va/1/garage/0{to}{name}/1")) for key in keys)
                assert given is peer.may_read(name, content), (name, content)


class Session:
    """Zenoh's, as far as one that is opened and closed needs it."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("how", ["cancelled", "refused", "broken"])
async def test_a_link_that_is_not_entered_leaves_no_session_open(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the thread that made it."""
    from valkka_async.link import bus as bus_module
    from valkka_async.link import link as link_module

    opened, go_on, session = threading.Event(), threading.Event(), Session()

    def open_session(spec: LinkSpec) -> Session:
        opened.set()
        go_on.wait(60)
        if how == "refused":
            raise va.ConnectError(None, "the endpoint is taken")
        return session

    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(bus_module, "open_session", open_session)
    if how == "broken":
        monkeypatch.setattr(link_module, "Peer", broken)
    spec = LinkSpec("attic", (PeerSpec("garage"),), ("tcp/127.0.0.1:7447",), None)
    entering = asyncio.create_task(link_module.Link(spec).__aenter__())
    await until(opened.is_set)
    if how == "cancelled":
        entering.cancel()
        await asyncio.sleep(0)
    go_on.set()
    expected = {"cancelled": asyncio.CancelledError, "refused": va.ConnectError, "broken": MemoryError}
    with pytest.raises(expected[how]):
        await entering
    assert session.closed or how == "refused"
    await until(lambda: not [one for one in threading.enumerate() if one.name.startswith("zenoh")])


def test_no_repr_shows_where_the_key_is() -> None:
    assert "secret.pem" not in repr(Certificates("a", "secret.pem", "c"))
