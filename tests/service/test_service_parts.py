# SPDX-License-Identifier: MIT
"""The smaller parts of a service: control socket, rates."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from valkka_async.ring.rendezvous import servers
from valkka_async.service.control import Control, ask, services

# ------------------------------------------------------------------------------------------ control


async def _good() -> dict[str, int]:
    return {"answer": 42}


async def _bad() -> None:
    raise ValueError("two\nlines")


async def _broken() -> None:
    raise RuntimeError("secret details")


async def test_a_service_answers_and_tells_what_it_refuses(caplog: pytest.LogCaptureFixture) -> None:
    async with Control("home", {"status": _good, "bad": _bad, "broken": _broken}):
        assert services() == ["home"]
        assert servers() == []  # it is no ring
        assert await asyncio.to_thread(ask, "home", "status", 5.0) == {"answer": 42}
        with pytest.raises(va.ValkkaError, match="two\nlines"):
            await asyncio.to_thread(ask, "home", "bad", 5.0)
        with pytest.raises(va.ValkkaError, match="one of status, bad, broken"):
            await asyncio.to_thread(ask, "home", "nonsense", 5.0)
        with pytest.raises(va.ValkkaError, match="log") as info:
            await asyncio.to_thread(ask, "home", "broken", 5.0)
        assert "secret" not in str(info.value) and "secret details" in caplog.text
    assert await asyncio.to_thread(ask, "home", "status", 5.0) is None


async def test_two_services_cannot_have_one_name() -> None:
    async with Control("home", {}):
        with pytest.raises(va.NameInUseError, match=f"process {os.getpid()}"):
            Control("home", {})


async def test_a_service_that_hangs_is_not_waited_for() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async with Control("home", {"status": never}):
        with pytest.raises(TimeoutError, match="'home' did not answer within 0.2 s"):
            await asyncio.to_thread(ask, "home", "status", 0.2)


async def test_a_request_without_end_does_not_fill_the_memory() -> None:
    async with Control("home", {"status": _good}):
        path = os.path.join(os.environ["VALKKA_RUNTIME_DIR"], "home.control")
        reader, writer = await asyncio.open_unix_connection(path)
        with pytest.raises((ConnectionError, EOFError)):
            for _ in range(100):
                writer.write(b"x" * 65536)
                await writer.drain()
            if not await reader.read():
                raise EOFError
        writer.close()
        with pytest.raises((ConnectionError, BrokenPipeError)):
            await writer.wait_closed()
            raise BrokenPipeError


@pytest.mark.parametrize(
    "said",
    [b"", b"{", b'{"ok": {"answer": 4', b'{"ok": 1}', b"\xff\n", b"[]\n", b'{"ok": 1' + b"0" * 5000 + b"}\n"],
)
async def test_an_answer_that_is_cut_off_or_none_is_an_error_of_ours(said: bytes) -> None:
    class Short(Control):
        async def _answer(self, line: bytes) -> Any:
            raise ConnectionError

        async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(said)
            await writer.drain()
            writer.close()

    async with Short("home", {}):
        if said.endswith(b"\n"):
            with pytest.raises(va.DataError, match="'home' answers something else"):
                await asyncio.to_thread(ask, "home", "status", 5.0)
        else:  # it has just ended
            assert await asyncio.to_thread(ask, "home", "status", 5.0) is None


def test_a_killed_service_leaves_no_trace_in_the_way_of_the_next(runtime_dir: Path) -> None:
    program = (
        "import asyncio\n"
        "from valkka_async.service.control import Control\n"
        "async def main():\n"
        "    async with Control('home', {}):\n"
        "        print('up', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        child.send_signal(signal.SIGKILL)
    assert services() == ["home"]
    assert ask("home", "status", 1.0) is None

    async def again() -> object:
        async with Control("home", {"status": _good}):
            return await asyncio.to_thread(ask, "home", "status", 5.0)

    assert asyncio.run(again()) == {"answer": 42}
    assert os.listdir(runtime_dir) == []
