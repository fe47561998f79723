"""Many servers as one stream."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

import valkka_async as va
from support.program import Child
from support.until import until
from valkka_async import backoff
from valkka_async.ring import _kernel, directory, sources, subscription
from valkka_async.ring.connection import Connection


async def test_frames_of_all_servers_arrive_with_their_source() -> None:
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b", policy="ordered") as merged:
        await until(lambda: a.stats().readers and b.stats().readers)
        for i in range(4):
            a.publish(b"%d" % i)
            b.publish(b"%d" % i)
        seen = Counter()
        for _ in range(8):
            with await merged.recv() as frame:
                seen[frame.source] += 1
        assert seen == {"a": 4, "b": 4}
        stats = merged.stats()
        assert (stats.received, stats.dropped, set(stats.sources)) == (8, 0, {"a", "b"})


async def test_a_busy_server_does_not_starve_the_others() -> None:
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b") as merged:
        await until(lambda: a.stats().readers and b.stats().readers)
        b.publish(b"b")
        seen = []
        for _ in range(3):
            a.publish(b"a")
            with await merged.recv() as frame:
                seen.append(frame.source)
        assert "b" in seen


async def test_servers_may_come_later_and_come_back() -> None:
    async with va.merge("a") as merged:
        for life in range(3):
            async with va.serve("a") as a:
                a.publish(b"%d" % life)
                async with asyncio.timeout(10):
                    with await merged.recv() as frame:
                        assert bytes(frame.data) == b"%d" % life


async def test_a_pattern_follows_servers_that_come_and_go() -> None:
    async with va.merge("cam*") as merged:
        for names in (["cam1"], ["cam2", "cam3"], ["cam1", "cam3"]):
            opened = [va.serve(n) for n in [*names, "other"]]
            for server in opened:
                server.publish(server.name.encode())
            async with asyncio.timeout(10):
                seen = {(await merged.recv()).source for _ in names}
            assert seen == set(names)
            for server in opened:
                server.close()
            await until(lambda: merged.recv_nowait() is None and not merged.sources)


@pytest.mark.parametrize("notices", [False, True])
async def test_a_server_that_is_back_before_its_end_was_noticed_is_dialled_at_once(
    monkeypatch: pytest.MonkeyPatch, notices: bool
) -> None:
    """However often, and whether the directory or the connection was heard of first."""
    monkeypatch.setattr(sources, "_DEAD_SECONDS", 1e6)
    server = va.serve("cam1")
    async with va.merge("cam*") as merged:
        for life in range(6):
            server.publish(b"%d" % life)
            async with asyncio.timeout(20):
                with await merged.recv() as frame:
                    assert bytes(frame.data) == b"%d" % life
            server.close()
            server = va.serve("cam1")
            if notices:  # the directory has been looked at since, and nobody receives
                with va.serve(f"cam1.{life}") as other:
                    await until(lambda name=other.name: name in merged.sources)
    server.close()


async def test_sources_can_be_added_and_discarded_while_receiving() -> None:
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a") as merged:
        a.publish(b"a")
        assert (await merged.recv()).source == "a"
        waiting = asyncio.create_task(merged.recv())
        await asyncio.sleep(0.01)
        merged.add("b")
        merged.add("b")
        b.publish(b"b")
        assert (await waiting).source == "b"
        merged.discard("a")
        merged.discard("nobody")
        await until(lambda: not a.stats().readers)
        a.publish(b"a")
        b.publish(b"b")
        assert (await merged.recv()).source == "b"
        merged.add("*")
        assert (await merged.recv()).source == "a"
        merged.discard("*")
        assert merged.sources == ["b"]


async def test_a_client_can_be_merged_and_stays_its_owners() -> None:
    async with va.serve("a") as a, va.connect("a") as client:
        async with va.merge(client) as merged:
            a.publish(b"1")
            assert bytes((await merged.recv()).data) == b"1"
        a.publish(b"2")
        async with asyncio.timeout(5):
            assert bytes((await client.recv()).data) == b"2"


@pytest.mark.parametrize("reconnect", [False, True])
async def test_a_merged_client_that_its_owner_closes_leaves_the_merge(reconnect: bool) -> None:
    async with va.serve("a"), va.connect("a") as client, va.merge(client, reconnect=reconnect) as merged:
        waiting = asyncio.create_task(merged.recv())
        await until(lambda: merged.stats().sources["a"])
        client.close()
        assert merged.stats().sources == {"a": None}
        if reconnect:
            await until(lambda: not merged.sources)
            merged.close()
        async with asyncio.timeout(10):
            with pytest.raises(va.ConnectionClosedOK):
                await waiting


async def test_a_client_is_in_one_merge_at_a_time() -> None:
    async with va.serve("a") as a, va.connect("a", policy="ordered") as client:
        async with va.merge(client) as merged:
            async with va.merge("b") as other:
                with pytest.raises(ValueError, match="another merge"):
                    other.add(client)
            with pytest.raises(ValueError, match="another merge"):
                va.merge(client)
            a.publish(b"1")
            assert bytes((await merged.recv()).data) == b"1"  # as if nothing had been
            merged.discard(client)
            with pytest.raises(ValueError, match="merged already"):
                va.merge(client, "a", client)
            va.merge(client)  # is forgotten at once
            async with va.merge(client) as other:
                a.publish(b"2")
                assert bytes((await other.recv()).data) == b"2"
        async with va.merge(client) as merged:
            a.publish(b"3")
            assert bytes((await merged.recv()).data) == b"3"


async def test_a_discarded_name_stays_away_until_it_is_added_again() -> None:
    async with va.serve("cam1") as cam1, va.merge("*") as merged:
        await until(lambda: cam1.readers)
        for again in ("cam1", "cam*"):
            merged.discard("cam1")
            await until(lambda: not cam1.readers)
            async with va.serve("cam2"):
                await until(lambda: "cam2" in merged.sources)
                assert merged.sources == ["cam2"]
            merged.add("b*")
            assert "cam1" not in merged.sources
            merged.add(again)
            await until(lambda: cam1.readers)


async def test_a_file_that_has_no_servers_name_is_no_server(
    runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [runtime_dir / name for name in (".sock", "..sock", "...sock", "a b.sock", "x" * 65 + ".sock")]
    for path in files:
        path.touch()
    try:
        async with va.serve("a") as a, va.merge("*") as merged:
            a.publish(b"1")
            async with asyncio.timeout(10):
                assert (await merged.recv()).source == "a"
            assert merged.sources == ["a"] and not caplog.records
    finally:
        for path in files:
            path.unlink()


async def test_what_nobody_foresaw_is_said_and_does_not_end_the_following(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def look(looker: directory.Directory) -> list[str]:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(sources, "_AGAIN_SECONDS", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(directory.Directory, "look", look)
        merged = await va.merge("*")
        await until(lambda: caplog.records)
        await asyncio.sleep(0.05)
        assert len(caplog.records) == 1 and "unforeseen" in caplog.text
    async with va.serve("a") as a, merged:
        a.publish(b"1")
        async with asyncio.timeout(10):
            assert (await merged.recv()).source == "a"


@pytest.mark.parametrize("pattern", [False, True])
async def test_a_loop_that_cannot_wait_for_a_descriptor_is_asked_again(
    pattern: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """epoll has a limit of its own: ENOSPC."""
    monkeypatch.setattr(subscription, "REFUSED_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    add_reader, failed = loop.add_reader, 0

    def fail(fd: int, *call: object) -> None:
        nonlocal failed
        failed += 1
        if failed in (1, 2, 4):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add_reader(fd, *call)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "add_reader", fail)
    async with va.serve("a") as a, va.merge("a*" if pattern else "a") as merged:
        a.publish(b"1")
        async with asyncio.timeout(10):
            assert (await merged.recv()).source == "a"
        assert "cannot follow" not in caplog.text
    failed = 0
    with pytest.raises(va.ConnectError, match="max_user_watches"):
        async with va.serve("a"), va.connect("a"):
            pass


async def test_without_reconnect_it_ends_with_the_last_server() -> None:
    async with va.serve("a") as a, va.serve("b") as b:
        merged = va.merge("a", "b", policy="ordered", reconnect=False)
        async with merged:
            await until(lambda: a.stats().readers and b.stats().readers)
            for server in (a, b):
                server.publish(b"last")
                server.close()
            assert sorted([f.source async for f in merged]) == ["a", "b"]


async def test_a_killed_server_raises_without_reconnect_and_the_others_go_on() -> None:
    with Child('s = va.serve("a"); s.publish(b"x"); say("up"); time.sleep(60)') as child:
        child.line()
        async with va.serve("b") as b, va.merge("a", "b", reconnect=False) as merged:
            assert (await merged.recv()).source == "a"
            child.kill()
            with pytest.raises(va.ConnectionClosedError) as raised:
                await merged.recv()
            assert (raised.value.pid, raised.value.last_seq) == (child.pid, 1)
            b.publish(b"x")
            assert (await merged.recv()).source == "b"
    with va.serve("a"):  # takes over what the killed one left
        pass


@pytest.mark.parametrize("source", ["a", "a*"])
async def test_merge_carries_on_when_a_killed_server_is_back(source: str) -> None:
    code = 's = va.serve("a")\nwhile True: s.publish(sys.argv[1].encode()); time.sleep(0.005)'
    async with va.merge(source) as merged:
        for life in (b"one", b"two", b"three"):
            with Child(code, life.decode()) as child:
                async with asyncio.timeout(20):
                    while True:
                        with await merged.recv() as frame:
                            if bytes(frame.data) == life:
                                break
                child.kill()
    with va.serve("a"):
        pass


async def test_one_task_receives_at_a_time() -> None:
    async with va.merge() as merged:
        waiting = asyncio.create_task(merged.recv())
        await asyncio.sleep(0.01)
        with pytest.raises(va.ConcurrencyError):
            await merged.recv()
        merged.close()
        with pytest.raises(va.ConnectionClosedOK):
            await waiting


async def test_too_many_held_frames_of_one_source_are_an_error() -> None:
    async with va.serve("a") as a, va.merge("a", max_leases=1) as merged:
        a.publish(b"1")
        frame = await merged.recv()
        a.publish(b"2")
        with pytest.raises(va.LeaseLimitError):
            await merged.recv()
        frame.release()
        assert bytes((await merged.recv()).data) == b"2"


async def test_cancelling_recv_a_thousand_times_loses_nothing() -> None:
    rng = random.Random(7)
    servers = [va.serve(f"s{i}", slots=64) for i in range(3)]
    async with va.merge("s*", policy="ordered") as merged:
        await until(lambda: all(s.stats().readers for s in servers))
        last = dict.fromkeys(["s0", "s1", "s2"], 0)

        def note(frame: va.Frame) -> None:
            assert frame.dropped == 0
            assert frame.seq == last[frame.source] + 1
            last[frame.source] = frame.seq
            frame.release()

        async def receive() -> None:
            note(await merged.recv())

        cancelled = 0
        while cancelled < 1000:
            task = asyncio.create_task(receive())
            for _ in range(rng.randrange(4)):
                if rng.random() < 0.3:
                    rng.choice(servers).publish(b"x")
                await asyncio.sleep(0)
            cancelled += task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
        while (frame := merged.recv_nowait()) is not None:
            note(frame)
        assert last == {s.name: s.stats().published for s in servers}
        assert merged.stats().leases == 0
    for server in servers:
        server.close()


async def test_one_process_reads_64_servers_at_30_frames_a_second() -> None:
    code = """
    servers = [va.serve(f"cam{i:02}", slots=32) for i in range(64)]
    image = np.zeros((54, 96, 3), np.uint8)
    say("up")
    sys.stdin.readline()
    start = time.monotonic()
    for n in range(90):
        for s in servers:
            s.publish(image, pts=n)
        time.sleep(max(0, start + (n + 1) / 30 - time.monotonic()))
    say(*(s.stats().dropped for s in servers))
    sys.stdin.readline()
    for s in servers: s.close()
    """
    with Child(code) as child:
        await asyncio.to_thread(child.line)
        async with va.merge("cam*", policy="ordered") as merged:
            await until(lambda: len(merged.sources) == 64 and None not in merged.stats().sources.values(), 20)
            child.tell("go")
            last: Counter[str] = Counter()
            lost: Counter[str] = Counter()
            async with asyncio.timeout(30):
                while sum(last.values()) < 64 * 90:
                    with await merged.recv() as frame:
                        assert frame.seq == last[frame.source] + frame.dropped + 1
                        last[frame.source] = frame.seq
                        lost[frame.source] += frame.dropped
            assert sum(lost.values()) == 0
            assert set((await asyncio.to_thread(child.line)).split()) == {"0"}
            child.tell("end")
            await asyncio.to_thread(child.wait)


async def test_a_merge_of_nothing_costs_nothing() -> None:
    async with va.merge("a", "nobody*") as merged:
        waiting = asyncio.create_task(merged.recv())
        await asyncio.sleep(0.2)
        used = time.thread_time()
        await asyncio.sleep(0.5)
        assert time.thread_time() - used < 0.25
        waiting.cancel()


async def test_names_alone_need_no_look_at_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    monkeypatch.setattr(directory, "servers", lambda: looks.append("look") or [])  # type: ignore[func-returns-value]
    tasks = len(asyncio.all_tasks())
    async with va.serve("a") as a, va.merge("a") as merged:
        a.publish(b"x")
        assert (await merged.recv()).source == "a"
        await asyncio.sleep(0.3)
        assert not looks
        assert len(asyncio.all_tasks()) == tasks, "nothing runs for it"
        merged.add("b*")
        await until(lambda: looks)
        merged.discard("b*")
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == tasks


async def test_a_quiet_directory_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    runtime_dir = directory.runtime_dir

    def look() -> Path:
        nonlocal looks
        looks += 1
        return runtime_dir()

    monkeypatch.setattr(directory, "runtime_dir", look)
    async with va.merge("cam*") as merged, va.serve("cam1"):
        await until(lambda: merged.sources)
        await asyncio.sleep(0.1)
        before = looks
        await asyncio.sleep(0.5)
        assert looks == before


def no_inotify() -> int:
    raise OSError(errno.EMFILE, "no inotify instance left")


async def test_without_inotify_the_directory_is_followed_by_its_time(
    monkeypatch: pytest.MonkeyPatch, runtime_dir: Path
) -> None:
    monkeypatch.setattr(_kernel, "inotify", no_inotify)
    async with va.merge("cam*") as merged:
        for life in range(5):
            async with va.serve("cam1") as server:
                server.publish(b"%d" % life)
                async with asyncio.timeout(10):
                    assert bytes((await merged.recv()).data) == b"%d" % life
            await until(lambda: merged.recv_nowait() is None and not merged.sources)


async def test_a_directory_that_is_made_later_or_again_is_followed(
    monkeypatch: pytest.MonkeyPatch, runtime_dir: Path
) -> None:
    place = runtime_dir / "later"
    monkeypatch.setenv("VALKKA_RUNTIME_DIR", str(place))
    async with va.merge("cam*") as merged:
        await asyncio.sleep(0.05)
        for _ in range(2):
            async with va.serve("cam1") as server:  # makes the directory
                server.publish(b"x")
                async with asyncio.timeout(10):
                    assert (await merged.recv()).source == "cam1"
            await until(lambda: merged.recv_nowait() is None and not merged.sources)
            place.rmdir()


async def test_sockets_of_killed_servers_cost_a_merge_next_to_nothing(runtime_dir: Path) -> None:
    """They are there, and nobody listens; beside them a live camera loses nothing."""
    dead = [runtime_dir / f"dead{i}.sock" for i in range(300)]
    for path in dead:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(str(path))
    try:
        async with va.serve("live") as server, va.merge("*", policy="ordered") as merged:
            await until(lambda: server.readers)
            for n in range(1, 101):
                server.publish(b"x")
                async with asyncio.timeout(10):
                    with await merged.recv() as frame:
                        assert (frame.seq, frame.dropped) == (n, 0)
                await asyncio.sleep(0.005)
            assert len(merged.sources) == 301
            dead[7].unlink()
            async with va.serve("dead7") as back:  # which is noticed at once all the same
                back.publish(b"x")
                async with asyncio.timeout(10):
                    assert (await merged.recv()).source == "dead7"
    finally:
        for path in dead:
            path.unlink(missing_ok=True)


async def test_a_dead_socket_is_dialled_twice_and_few_in_each_round_of_the_loop(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand would hold up the frames of all others. Later dials are a minute away, drawn at random."""
    dead = [runtime_dir / f"dead{i}.sock" for i in range(50)]
    for path in dead:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(str(path))
    loop = asyncio.get_running_loop()
    dials: dict[str, list[int]] = {}
    rounds = 0
    dial = Connection.dial

    def counted(name: str, policy: int, max_leases: int) -> Connection | None:
        dials.setdefault(name, []).append(rounds)
        return dial(name, policy, max_leases)

    def count() -> None:
        nonlocal rounds, turning
        rounds += 1
        turning = loop.call_soon(count)

    turning = loop.call_soon(count)
    monkeypatch.setattr(Connection, "dial", counted)
    try:
        async with va.merge("*"):
            await until(lambda: len(dials) == 50 and all(len(when) > 1 for when in dials.values()))
            await asyncio.sleep(0.2)
        assert max(Counter(when[0] for when in dials.values()).values()) <= 8
        assert sum(map(len, dials.values())) < 110
    finally:
        turning.cancel()
        for path in dead:
            path.unlink()


async def test_what_was_awaited_is_not_awaited_again() -> None:
    async with va.serve("a") as a, va.merge("a") as merged:
        await until(lambda: a.readers)
        a.publish(b"1")
        first = anext(merged)
        (await first).release()
        with pytest.raises(RuntimeError, match="awaited already"):
            await first
        a.publish(b"2")
        assert bytes((await anext(merged)).data) == b"2"


async def test_a_server_in_the_place_of_a_killed_one_is_noticed_however_long_the_pause(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff.random, "uniform", lambda shortest, longest: 3600.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(runtime_dir / "cam1.sock"))
    async with va.merge("cam*") as merged:
        await until(lambda: merged.sources)
        await asyncio.sleep(0.05)  # it was dialled
        async with va.serve("cam1") as server:
            server.publish(b"x")
            async with asyncio.timeout(10):
                assert (await merged.recv()).source == "cam1"


async def test_a_change_that_leaves_the_directorys_time_as_it_was_is_seen(
    monkeypatch: pytest.MonkeyPatch, runtime_dir: Path
) -> None:
    """The clock of a file system has ticks of milliseconds."""
    monkeypatch.setattr(_kernel, "inotify", no_inotify)
    looker = directory.Directory()
    (runtime_dir / "cam1.sock").touch()
    before = runtime_dir.stat().st_mtime_ns
    assert looker.look() == ["cam1"]
    (runtime_dir / "cam2.sock").touch()
    os.utime(runtime_dir, ns=(before, before))
    async with asyncio.timeout(5):
        assert await looker.changed() is None
    assert looker.look() == ["cam1", "cam2"]
    for path in runtime_dir.iterdir():
        path.unlink()
    looker.close()


async def test_a_merge_that_is_forgotten_warns_and_cleans_up() -> None:
    tasks = len(asyncio.all_tasks())
    async with va.serve("a") as a, va.serve("b") as b:
        merged = await va.merge("a", "b*", "nowhere")
        await until(lambda: a.readers and b.readers)
        with pytest.warns(ResourceWarning, match="never closed"):
            del merged
        await until(lambda: not a.readers and not b.readers)
        await until(lambda: len(asyncio.all_tasks()) == tasks)


@pytest.mark.parametrize("source", ["a", "b*", "client"])
@pytest.mark.parametrize("used", [True, False])
async def test_a_merge_that_is_closed_takes_no_more(source: str, used: bool) -> None:
    async with va.serve("c"), va.connect("c") as client:
        merged = va.merge("a")
        if used:
            await merged
        merged.close()
        with pytest.raises(va.ConnectionClosedOK):
            merged.add(client if source == "client" else source)
        assert not merged.sources
        async with va.merge(client):  # it is free
            pass


async def test_batches_of_a_merge_that_nobody_else_has_go_on() -> None:
    async with va.serve("a") as a:
        batches = va.merge("a").batches()
        reading = asyncio.create_task(anext(batches))
        await until(lambda: a.readers)
        a.publish(b"x")
        async with asyncio.timeout(10):
            assert len(await reading) == 1
        with pytest.warns(ResourceWarning, match="never closed"):
            del batches, reading
            gc.collect()


async def test_a_directory_that_cannot_be_trusted_is_said_once_and_looked_at_again(
    runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime_dir.chmod(0o777)
    async with va.merge("cam*") as merged:
        await until(lambda: caplog.records)
        await asyncio.sleep(0.3)
        assert [r.getMessage().count("may be written by anybody") for r in caplog.records] == [1]
        runtime_dir.chmod(0o700)
        async with va.serve("cam1") as server:
            server.publish(b"x")
            async with asyncio.timeout(10):
                assert (await merged.recv()).source == "cam1"


async def test_the_next_frame_is_waited_for_as_any_coroutine_is() -> None:
    """By wait_for(), which gives up in time and loses nothing, gather(), wait() and a task."""
    async with va.serve("s") as server, va.merge("s", policy="ordered") as merged:
        merged.recv_nowait()
        await until(lambda: server.readers)
        for wait in (
            lambda: asyncio.wait_for(anext(merged), 10),
            lambda: asyncio.gather(anext(merged)),
            lambda: asyncio.create_task(anext(merged)),
            lambda: asyncio.shield(anext(merged)),
            lambda: asyncio.wait_for(merged.recv(), 10),
        ):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(merged), 0.01)
            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0.01)
            server.publish(b"x")
            got = await waiting
            frame = got[0] if isinstance(got, list) else got
            assert bytes(frame.data) == b"x" and frame.dropped == 0
            frame.release()
