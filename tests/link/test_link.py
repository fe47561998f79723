"""Two hosts on this machine: what connect(), merge(), snap and top see of the other one's cameras."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from link_tools import Host, camera, cameras, pair

import valkka_async as va
from support.footage import read_index
from support.program import run
from support.until import wait_for
from valkka_async.ring.connection import report

pytestmark = pytest.mark.timeout(300)  # several programs have to start


@pytest.fixture(scope="module")
def hosts(clip: Path) -> Iterator[tuple[Host, Host]]:
    """They and their cameras are for all tests here, each of which leaves no readers."""
    with pair() as (garage, attic), cameras(garage, cam1=clip, cam2=clip):
        attic.eventually(lambda: attic.camera("garage/cam1") and attic.camera("garage/cam2"))
        yield garage, attic


def readers(garage: Host) -> int:
    """Of the camera's own ring, at its host."""
    with garage.here():
        said = report("cam1.packets", 5)
    assert said is not None
    return int(str(said["readers"]))


def test_nothing_is_sent_or_decoded_without_readers(hosts: tuple[Host, Host]) -> None:
    garage, attic = hosts
    time.sleep(0.5)
    before = attic.camera("garage/cam1")
    assert before is not None and not before.wanted and before.received == 0
    assert garage.sees("attic").exports == () and readers(garage) == 0
    with attic.here(), va.attach("garage/cam1", open_timeout=90) as reader:
        reader.recv(60)
        assert readers(garage) == 1
    wait_for(lambda: readers(garage) == 0, pause=0.1)  # some seconds after the last reader
    assert not attic.camera("garage/cam1").wanted  # type: ignore[union-attr]


def test_a_late_reader_begins_at_the_key_frame_and_misses_nothing(
    hosts: tuple[Host, Host], clip: Path
) -> None:
    """The GOP is ten seconds long: nobody has to wait for the next one. (Nobody has read cam2 before.)"""
    _, attic = hosts
    with av.open(str(clip)) as source:
        units = [bytes(packet) for packet in source.demux(video=0) if packet.size]
    with attic.here(), attic.reads("garage/cam2/packets") as first:
        frames = [first.recv(60).copy() for _ in range(60)]
        with attic.reads("garage/cam2/packets") as second:  # from the backlog here
            again = [second.recv(60).copy() for _ in range(30)]
    for read in (frames, again):
        assert read[0].key
        assert [frame.dropped for frame in read] == [0] * len(read)
        at = units.index(bytes(read[0].data))
        assert [bytes(frame.data) for frame in read] == (units + units)[at : at + len(read)], (
            "a gap or repeat"
        )


def test_a_camera_of_another_host_reads_like_one_of_this(hosts: tuple[Host, Host]) -> None:
    _, attic = hosts
    with attic.here(), va.attach("garage/cam1", open_timeout=90) as reader:
        frames = [reader.recv(60).copy() for _ in range(30)]
        said = run("snap", "garage/cam1", str(attic.directory / "image.jpg"))
        table = run("top", "--once", "garage/*").stdout
    numbers = [read_index(frame.array) for frame in frames]
    assert numbers == sorted(numbers) and len(set(numbers)) > 20
    assert all(frame.source == "garage/cam1" and frame.format == "rgb24" for frame in frames)
    assert frames[-1].meta["link"]["host"] == "garage"
    # Both hosts are this machine: its clock differs from itself by nothing, and the link knows that much.
    link = frames[-1].meta["link"]
    assert abs(link["clock_offset_ns"]) <= link["clock_error_ns"] < 1e9
    assert said.returncode == 0, said.stderr
    assert "garage/cam1" in table and "h264 320x180" in table


def test_it_is_recorded_like_one_of_this(hosts: tuple[Host, Host]) -> None:
    _, attic = hosts
    with attic.here():
        done = run("rec", "garage/cam1", str(attic.directory / "{name}.mp4"), "--for", "1s")
    assert done.returncode == 0, done.stderr
    with av.open(str(attic.directory / "garage-cam1.mp4")) as source:
        numbers = [read_index(frame.to_ndarray(format="rgb24")) for frame in source.decode(video=0)]
    assert len(numbers) > 10 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_patterns_go_over_hosts_and_a_plain_one_stays_here(hosts: tuple[Host, Host]) -> None:
    async def read() -> None:
        async with va.merge("garage/*") as cameras, va.merge("*/cam2") as second, va.merge("*") as mine:
            seen: set[str] = set()
            while seen != {"garage/cam1", "garage/cam2"}:
                with await cameras.recv() as frame:
                    seen.add(frame.source)
            with await second.recv():
                assert second.sources == ["garage/cam2"] and mine.sources == []

    with hosts[1].here():
        asyncio.run(asyncio.wait_for(read(), 90))


def test_one_import_serves_all_readers(hosts: tuple[Host, Host]) -> None:
    garage, attic = hosts
    with attic.here(), attic.reads("garage/cam1") as one, attic.reads("garage/cam1") as other:
        one.recv(60)
        other.recv(60)
        with attic.reads("garage/cam1/packets") as third:
            third.recv(60)
            assert readers(garage) == 1
            assert [camera.name for camera in garage.sees("attic").exports].count("cam1") == 1


def test_a_restart_of_the_camera_is_not_a_loss(hosts: tuple[Host, Host], short: Path) -> None:
    garage, attic = hosts
    with attic.here():
        with camera(garage, short, "cam3"):
            reader = attic.reads("garage/cam3/packets")
            for _ in range(30):
                reader.recv(60).release()
        with camera(garage, short, "cam3"):
            for _ in range(30):
                reader.recv(60).release()
        reader.close()
        status = attic.camera("garage/cam3")
        assert status is not None and (status.lost, status.restarts) == (0, 1)


def test_a_hostile_unit_ends_the_worker_and_nothing_else(hosts: tuple[Host, Host]) -> None:
    """The decoder is in a process of its own, which is started again."""
    _, attic = hosts
    with attic.here(), va.attach("garage/cam1", open_timeout=90, reconnect=True) as reader:
        reader.recv(60).release()
        before = attic.sees("garage")
        os.kill(before.decoder_pid, signal.SIGSEGV)
        attic.eventually(lambda: attic.sees("garage").decoder_pid not in (0, before.decoder_pid))
        reader.recv(30).release()
        while reader.recv(30).age > 5:
            pass
