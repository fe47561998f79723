"""Players under asyncio (debug) and uvloop: waiting, cancelling, closing."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import valkka_async as va
from support.until import until
from valkka_async.camera.play import play

SHORT = "lavfi:testsrc=size=64x48:rate=25:duration=0.4"
LONGER = "lavfi:testsrc=size=64x48:rate=25:duration=2"  # on a busy machine it still runs when it is looked at
ENDLESS = "lavfi:testsrc=size=64x48:rate=25"


async def test_await_returns_at_the_end_of_a_file() -> None:
    with va.serve("cam") as server:
        async with asyncio.timeout(10):
            player = play(SHORT, server)
            assert player.running
            await player
            await player.wait()
        assert player.stats().published == 10
        assert not player.running
        assert not [t for t in threading.enumerate() if t.name.startswith("valkka-play")]


async def test_await_raises_what_the_player_ended_with_each_time() -> None:
    with va.serve("cam") as server:
        player = play("nothing-here.mp4", server)
        for _ in range(2):
            with pytest.raises(va.CameraNotFoundError):
                await player
        tasks = [asyncio.ensure_future(player.wait()) for _ in range(3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(r) for r in results] == [va.CameraNotFoundError] * 3


async def test_cancelling_the_wait_stops_nothing_and_loses_nothing() -> None:
    with va.serve("cam") as server:
        async with play(LONGER, server) as player:
            waits = [asyncio.create_task(player.wait()) for _ in range(4)]
            await until(lambda: player.stats().published)
            for wait in waits[:3]:
                wait.cancel()
            results = await asyncio.gather(*waits[:3], return_exceptions=True)
            assert all(isinstance(r, asyncio.CancelledError) for r in results)
            assert player.running
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await player
            await waits[3]
            await player
            assert player.stats().published == 50


async def test_aclose_ends_a_player_blocked_in_open_without_blocking_the_loop(silent_port: int) -> None:
    with va.serve("cam") as server:
        player = play(f"rtsp://127.0.0.1:{silent_port}/x", server, open_timeout=60)
        wait = asyncio.create_task(player.wait())
        await asyncio.sleep(0.2)
        begin = time.monotonic()
        await player.aclose()
        await player.aclose()
        assert time.monotonic() - begin < 30
        await wait
        assert player.error is None and not player.running


async def test_a_cancelled_aclose_closes_nevertheless(silent_port: int) -> None:
    with va.serve("cam") as server:
        player = play(f"rtsp://127.0.0.1:{silent_port}/x", server, open_timeout=60)
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(player.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await until(lambda: not player.running)


async def test_async_with_closes_also_on_an_exception() -> None:
    with va.serve("cam") as server:
        with pytest.raises(KeyError):
            async with play(ENDLESS, server) as player:
                await until(lambda: player.stats().published)
                raise KeyError("mine")
        assert not player.running and player.error is None


async def test_a_client_sees_the_frames_of_a_player_in_the_same_loop() -> None:
    async with va.serve("cam") as server, play(ENDLESS, server, fps=20) as player:
        async with va.connect("cam") as client, asyncio.timeout(10):
            for _ in range(5):
                with await client.recv() as frame:
                    assert frame.shape == (48, 64, 3)
                    assert 0 <= frame.age < 5
        assert player.running


async def test_a_player_outlives_the_loop_of_a_task_that_waited() -> None:
    def other_loop() -> None:
        async def give_up() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await player

        asyncio.run(give_up())

    with va.serve("cam") as server:
        player = play(LONGER, server)
        thread = threading.Thread(target=other_loop)
        thread.start()
        await player
        await until(lambda: not thread.is_alive())
