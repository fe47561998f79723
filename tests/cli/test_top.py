# SPDX-License-Identifier: MIT
"""`top` beside real cameras, servers and readers to which things are done: it tells just that."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import valkka_async as va
from support.program import SECONDS, Child, Program, one_line, run
from support.require import missing
from support.rtsp import RtspServer, rtsp_available
from support.status import NOTHING_STORED
from support.terminal import Terminal
from support.until import until
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import CameraState, before_start
from valkka_async.camera.workers.status import WorkerState, WorkerStatus
from valkka_async.cli.figures import GONE, MISSING, SILENT, CameraFigures, Figures
from valkka_async.cli.survey import Survey
from valkka_async.cli.top import Top
from valkka_async.service.config.config import Config
from valkka_async.service.control import Control
from valkka_async.service.service import Service
from valkka_async.service.status import CameraReport, ServiceStatus

SLOW = """
with va.attach(sys.argv[1]) as reader:
    say("ready")
    while not os.path.exists(sys.argv[2]):
        reader.recv(30).release()
        time.sleep(0.2)
    stats = reader.stats()
    say(stats.received, stats.dropped)
    sys.stdin.readline()
"""
SERVER = """
with va.serve(sys.argv[1]) as server:
    server.publish(b"x")
    say("ready")
    sys.stdin.readline()
"""


@pytest.fixture
def mortal(clip: Path) -> Iterator[RtspServer]:
    """An RTSP server that a test may kill, with a camera at /cam."""
    if reason := rtsp_available():
        missing(reason)
    with RtspServer() as server:
        server.mount("/cam", clip)
        yield server


class Documents(Program):
    """`top --json`, read until it says what it should."""

    def __enter__(self) -> Documents:
        return self

    def until_said(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while True:
            document: dict[str, Any] = json.loads(self.line())
            if condition(document):
                return document
            assert time.monotonic() < deadline, document

    def camera(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The only camera, when it is like that."""
        (camera,) = self.until_said(lambda d: d["cameras"] and condition(d["cameras"][0]))["cameras"]
        assert isinstance(camera, dict)
        return camera


# ---------------------------------------------------------------------------------------- cameras


@pytest.mark.timeout(180)
def test_what_a_camera_and_its_reader_suffer_is_told_as_it_is(mortal: RtspServer, tmp_path: Path) -> None:
    outputs = [va.Output("cam"), va.Output("cam.small", "gray8", size=(160, 96))]
    with (
        va.Camera("cam", mortal.url("/cam"), outputs, read_timeout=20, retry_max=0.5) as camera,
        Documents("top", "--json") as top,
    ):
        row = top.camera(lambda c: c["state"] == "live" and c["fps"] > 5 and c["cpu"] is not None)
        assert (row["codec"], row["width"], row["height"], row["pid"]) == ("h264", 320, 192, os.getpid())
        assert (row["readers"], row["reconnects"], row["retry_in"], row["reason"]) == (0, 0, None, "")
        assert row["age"] < SECONDS and 0 <= row["cpu"] < 2
        assert row["packets"] > 0 and row["decoded"] == 0  # that we ask makes nobody decode

        # Two readers: one takes five frames a second and misses the others.
        enough = tmp_path / "enough"
        with Child(SLOW, "cam", enough) as slow, va.attach("cam") as quick:
            row = top.camera(
                lambda c: any(r["pid"] == slow.pid and r["drop_rate"] for r in c["rings"][0]["clients"])
            )
            (ring, small) = row["rings"]
            assert (ring["name"], ring["format"], ring["readers"]) == ("cam", "rgb24", 2)
            assert ring["fps"] > 0 and ring["published"] > 0
            assert (small["name"], small["readers"], small["published"]) == ("cam.small", 0, 0)
            reader, ours = ring["clients"]  # most drops first
            assert reader["pid"] == slow.pid and reader["process"].startswith("python")
            assert reader["policy"] == "latest" and reader["fps"] > 0
            assert (ours["pid"], ours["received"]) == (os.getpid(), 0)
            enough.touch()
            assert slow.line() == "ready"
            received, dropped = map(int, slow.line(SECONDS).split())
            row = top.camera(
                lambda c: (r := c["rings"][0]["clients"][0])["fps"] == 0 and r["received"] == received
            )
            reader = row["rings"][0]["clients"][0]
            assert (reader["pid"], reader["dropped"]) == (slow.pid, dropped) and dropped > 0
            quick.recv(10).release()
        top.camera(lambda c: c["readers"] == 0)

        mortal.freeze()
        row = top.camera(lambda c: c["state"] == "stalled")
        assert re.fullmatch(r"no frame for \d+ s", row["reason"]) and row["fps"] == 0 and row["age"] > 1
        mortal.thaw()
        row = top.camera(lambda c: c["state"] == "live")
        mortal.kill()
        row = top.camera(lambda c: c["state"] == "waiting" and "refused" in c["reason"])
        assert row["retry_in"] >= 0 and row["fps"] is None
        before = camera.status().reconnects
        mortal.restart()
        row = top.camera(lambda c: c["state"] == "live")
        assert row["reconnects"] == camera.status().reconnects == before + 1
        assert top.end() == (0, "")


def of(figures: Figures) -> CameraFigures:
    (camera,) = figures.cameras
    return camera


async def test_a_camera_whose_worker_was_killed_is_known_from_its_service(
    rtsp: RtspServer, clip: Path
) -> None:
    rtsp.mount("/cam", clip)
    config = Config.model_validate(
        {
            "name": "home",
            "web": False,
            "workers": {"restart_max": 2.0},
            "cameras": {"cam": {"url": rtsp.url("/cam"), "live": False}},
        }
    )

    async def status() -> ServiceStatus:
        return service.status()

    async with Service(config) as service, Control("home", {"status": status}), Top() as top:
        async with asyncio.timeout(SECONDS):
            while not (now := await top.figures()).cameras or of(now).state != "live":
                await asyncio.sleep(0.05)
        assert (of(now).service, of(now).restarts, now.servers) == ("home", 0, ())
        pid = of(now).pid
        assert pid is not None and pid != os.getpid() and [ring.name for ring in of(now).rings] == ["cam"]
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            while "was killed by SIGKILL" not in of(now := await top.figures()).reason:
                await asyncio.sleep(0.05)
        assert (of(now).state in ("waiting", "connecting"), of(now).fps, now.servers) == (True, None, ())
        async with asyncio.timeout(SECONDS):
            while of(now := await top.figures()).state != "live" or of(now).rings == ():
                await asyncio.sleep(0.05)
        assert of(now).pid not in (pid, None) and (of(now).restarts or 0) >= 1
        assert of(now).last_exit == "was killed by SIGKILL"
    await until(lambda: not rtsp.stats()["/cam"].clients)


async def test_a_service_of_this_process_needs_no_socket() -> None:
    spec = CameraSpec("cam", "rtsp://127.0.0.1:9/cam", (va.Output("cam"),))
    camera = before_start(spec, CameraState.WAITING, reason="refused", retry_in=3.0)
    worker = WorkerStatus(("cam",), WorkerState.RUNNING, 7, 0, 0, None, None, "", 0.0, 0)
    report = CameraReport(
        "cam",
        "cam",
        "",
        camera.state,
        None,
        "refused",
        0,
        3.0,
        None,
        0.0,
        {},
        None,
        None,
        None,
        None,
        camera,
        worker,
    )
    home = ServiceStatus("home", "1", 7, 0, 0, True, (report,), NOTHING_STORED, None)
    async with Top(["cam"], services={"home": lambda: home}) as top:
        now = await top.figures()
    assert (of(now).service, of(now).state, of(now).retry_in, now.servers) == ("home", "waiting", 3.0, ())


# ---------------------------------------------------------------------------------------- servers


@pytest.mark.one_loop
async def test_a_server_that_hangs_says_so_and_delays_nobody() -> None:
    with Child(SERVER, "hangs") as hangs, va.serve("works") as works:
        assert await asyncio.to_thread(hangs.line) == "ready"
        async with Top() as top:

            async def states() -> dict[str, str]:
                # With such patience one that hangs would be noticed here, if it were waited for again.
                patience = 60 if stopped else 2.0
                return {server.name: server.state for server in (await top.figures(patience)).servers}

            stopped = False
            async with asyncio.timeout(SECONDS):
                while (await states()).get("hangs") not in ("live", "idle"):  # that it was asked
                    await asyncio.sleep(0.05)
            hangs.signal(signal.SIGSTOP)
            async with asyncio.timeout(SECONDS):
                while (await states())["hangs"] != SILENT:
                    await asyncio.sleep(0.05)
            stopped = True
            async with asyncio.timeout(SECONDS):
                for _ in range(5):
                    works.publish(b"x")
                    assert await states() == {"hangs": SILENT, "works": "live"}
            stopped = False
            hangs.signal(signal.SIGCONT)
            async with asyncio.timeout(SECONDS):
                while (await states())["hangs"] == SILENT:
                    await asyncio.sleep(0.05)
            hangs.kill()
            async with asyncio.timeout(SECONDS):
                while (await states())["hangs"] != GONE:
                    await asyncio.sleep(0.05)
    va.serve("hangs").close()  # clears up


async def test_many_that_hang_are_asked_once_each_and_the_others_answer(runtime_dir: Path) -> None:
    with ExitStack() as stack:
        listeners = []
        for n in range(40):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(str(runtime_dir / f"hangs{n}.sock"))
            stack.callback((runtime_dir / f"hangs{n}.sock").unlink)
            listener.listen(16)
            listener.setblocking(False)
            listeners.append(listener)
        with va.serve("works"):
            async with Survey() as survey:
                for _ in range(3):
                    look = await survey.look(2.0)
                    assert not isinstance(look.servers["works"], type(look.servers.get("hangs0")))
                for listener in listeners:
                    listener.accept()[0].close()
                    with pytest.raises(BlockingIOError):
                        listener.accept()


async def test_an_answer_that_makes_no_sense_is_one_row_and_no_end(runtime_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, va.serve("works"):
        listener.bind(str(runtime_dir / "odd.sock"))
        listener.listen(4)
        listener.setblocking(False)
        loop = asyncio.get_running_loop()

        async def answer() -> None:
            sock, _ = await loop.sock_accept(listener)
            with sock:
                await loop.sock_recv(sock, 4096)
                sock.send(b"HTTP/1.1 400 Bad Request")

        try:
            async with Top() as top, asyncio.TaskGroup() as group:
                group.create_task(answer())
                odd, works = (await top.figures(SECONDS)).servers
                assert (odd.name, odd.reason, works.state) == (
                    "odd",
                    "what answers there is not valkka-async",
                    "idle",
                )
        finally:
            (runtime_dir / "odd.sock").unlink()


async def test_what_the_frames_of_a_server_are_is_shown() -> None:
    """Although it is no camera's, and although nothing is read from it."""
    async with Top() as top:
        with va.serve("plain") as server:

            async def made_of() -> tuple[str, tuple[int, ...]]:
                (ring,) = (await top.figures(SECONDS)).servers
                return ring.format, ring.shape

            assert await made_of() == ("", ())
            server.publish(np.zeros((90, 160, 3), np.uint8))
            assert await made_of() == ("rgb24", (90, 160, 3))
            with server.loan((40, 50), "gray8"):
                pass
            assert await made_of() == ("gray8", (40, 50))
            assert server.publish(b"x" * 7, format="h264", key=True)
            assert await made_of() == ("h264", (7,))
            assert server.stats().readers == 0


async def test_a_name_that_is_not_there_is_waited_for() -> None:
    async with Top(["cam", "x*"]) as top:
        assert [(s.name, s.state) for s in (await top.figures()).servers] == [("cam", MISSING)]
        with va.serve("cam"), va.serve("xy"), va.serve("other"):
            assert [s.name for s in (await top.figures(2.0)).servers] == ["cam", "xy"]


# ---------------------------------------------------------------------------------------- command


def test_once_is_a_table_for_people_and_a_document_for_programs() -> None:
    with va.serve("demo10"), va.serve("demo2") as server, va.attach("demo2", policy="ordered"):
        for _ in range(3):
            server.publish(b"x")
        table, data = run("top", "--once"), run("top", "--once", "--json", "demo2", "nope")
    assert (table.returncode, table.stderr, data.returncode, data.stderr) == (0, "", 0, "")
    assert "\x1b" not in table.stdout  # colours are for terminals
    names = re.findall(rf"^ *(demo\d+|{os.getpid()}) ", table.stdout, re.M)
    assert names == ["demo2", str(os.getpid()), "demo10"]
    document = json.loads(data.stdout)
    assert [(s["name"], s["state"]) for s in document["servers"]] == [("demo2", "idle"), ("nope", MISSING)]
    (reader,) = document["servers"][0]["clients"]
    assert (reader["pid"], reader["policy"], reader["fps"]) == (os.getpid(), "ordered", 0.0)


def test_once_on_a_narrow_terminal_shows_names_whole() -> None:
    name = "a-server-whose-name-is-as-long-as-names-may-be"
    with va.serve(name), Terminal("top", "--once", columns=40) as top:
        assert top.wait() == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", top.shown)
    assert re.search(rf"^{name} +idle", shown, re.M)


def test_where_there_is_nothing_top_says_what_to_do(runtime_dir: Path) -> None:
    done = run("top", "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(runtime_dir) in done.stdout and "valkka-async demo" in done.stdout
    os.chmod(runtime_dir, 0o777)
    done = run("top", "--once")
    assert done.returncode == 1 and "chmod o-w" in one_line(done.stderr)


def test_without_a_terminal_each_line_says_whose_it_is() -> None:
    with va.serve("plain") as server, va.attach("plain") as reader, Program("top") as top:
        server.publish(b"x")
        reader.recv(10).release()
        top.until(rf"^plain/{os.getpid()} .*  latest  \d+\.\d fps  0 dropped", r"^plain  \w+  ")
        assert top.end() == (0, "")
        assert "\x1b" not in top.seen


def test_on_a_terminal_it_is_a_table_in_colour_that_fits() -> None:
    over = threading.Event()

    def publish() -> None:
        while not over.wait(0.05):
            server.publish(b"x")

    with va.serve("a-server-whose-name-is-as-long-as-names-may-be") as server:
        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            with Terminal("top") as top:
                top.until(r"a-server-whose(?s:.)*\x1b\[32mlive")  # drawn, and drawn again
                top.press("\x03")
                assert top.wait() == 0
        finally:
            over.set()
            publisher.join()
    assert "\x1b[32mlive" in top.shown and top.shown.rstrip().endswith("\x1b[?25h")  # the cursor is back
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\^C", "", top.shown)
    assert max(map(len, re.split(r"[\r\n]+", shown))) <= 100
