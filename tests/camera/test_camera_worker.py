"""Worker processes: what goes between them and their supervisor, and what must never get out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from camera_tools import Clips

import valkka_async as va
from support.rtsp import RtspServer
from support.until import until
from valkka_async.camera.status import before_start
from valkka_async.camera.workers import messages
from valkka_async.camera.workers.channel import Channel, Ending
from valkka_async.camera.workers.exits import ended
from valkka_async.camera.workers.messages import (
    LONGEST,
    Applied,
    Begin,
    Configure,
    Hello,
    Log,
    Message,
    Status,
    Stop,
)
from valkka_async.camera.workers.spawn import environment
from valkka_async.camera.workers.status import WorkerEnd
from valkka_async.camera.workers.supervisor import Supervisor

PASSWORD = "s3cr et/@%#?:ü"
TRACES = ("s3cr", "czNjc")  # plain and percent-encoded, and base64, begin like this
PICTURES = "lavfi:testsrc=size=160x120:rate=25"
one_loop = pytest.mark.asyncio(loop_factories=["asyncio-debug"])


class End:
    """One end of a channel, and what came out of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[Message] = []
        self.ends: list[Ending] = []
        self.channel = Channel(sock, self.messages.append, lambda ending, text: self.ends.append(ending))


def log(number: int, text: str = "") -> Log:
    return Log("name", number, 0.0, "thread", "", text)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def test_messages_of_any_size_arrive_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = End(pair[0]), End(pair[1])
    sent = [log(n, "ü\n" * (n * 997 % 60_000)) for n in range(40)]  # more than the socket takes
    for message in sent:
        assert a.channel.send(message)
        assert b.channel.send(log(message.level))
    await until(lambda: len(b.messages) == len(sent) and len(a.messages) == len(sent))
    assert b.messages == sent
    assert a.messages == [log(n) for n in range(40)]
    with pytest.raises(va.DataError, match="too long"):
        a.channel.send(log(0, "x" * LONGEST))
    a.channel.send(log(0, "last words"))
    a.channel.close()
    assert not a.channel.send(Stop())
    await until(lambda: b.ends)
    assert b.messages[-1] == log(0, "last words") and b.ends == [Ending.CLOSED] and a.ends == []
    b.channel.close()


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\n",
        b'"text"\n',
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b"x" * (LONGEST + 1),
        b'{"op": "dance"}\n',
        b'{"op": ["stop"]}\n',
        b'{"op": "stop", "now": true}\n',
        b'{"op": "hello"}\n',
        b'{"op": "status", "cpu_s": "much", "rss": 1, "cameras": [], "stuck": []}\n',
    ],
)
@one_loop
async def test_what_is_no_message_ends_the_channel(
    pair: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    end = End(pair[0])
    sending = asyncio.create_task(asyncio.to_thread(_send, pair[1], b'{"op": "stop"}\n' + data))
    await until(lambda: end.ends)
    assert end.messages == [Stop()] and end.ends == [Ending.GARBLED]
    end.channel.close()
    pair[0].close()
    await sending


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except OSError:  # the other side has seen enough
        pass


async def test_a_peer_that_does_not_read_costs_little_memory(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    end = End(pair[0])
    message = log(0, "x" * 10_000)
    queued = sum(end.channel.send(message, optional=True) for _ in range(1000))
    assert 20 < queued < 100
    assert end.channel.send(Stop())
    other = End(pair[1])
    await until(lambda: Stop() in other.messages)
    assert len(other.messages) == queued + 1
    assert end.channel.send(message, optional=True)
    for e in (end, other):
        e.channel.close()


SPEC = va.CameraSpec("one", "rtsp://me:pw@host/x", (va.Output("a", size=(640, None)), va.Output("b", "fmp4")))
BOTH = va.CameraSpec(
    "two",
    outputs=(va.Output("c"), va.Output("d", "fmp4")),
    streams={"main": "rtsp://me:pw@host/1", "sub": "rtsp://me:pw@host/2"},
    connect="on_demand",
)
ALL = [
    Begin(1.0, 5.0, 20),
    Configure("one", 2, SPEC),
    Configure("one", 3, None),
    Stop(),
    Hello(1),
    Applied("one", 2, before_start(SPEC)),
    Applied("one", 3, None),
    Configure("two", 1, BOTH),
    Applied("two", 1, before_start(BOTH)),
    Status(1.5, 30_000_000, (before_start(SPEC),), ("one",)),
    Log("name", 20, 1.5, "thread", "one", "text"),
]


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    line = messages.encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert messages.decode(line) == message


def test_a_status_of_another_version_says_so() -> None:
    line = messages.encode(Status(1.0, 1, (before_start(SPEC),), ()))
    with pytest.raises(va.DataError, match="schema 99") as info:
        messages.decode(line.replace(f'"schema": {va.CameraStatus.SCHEMA}'.encode(), b'"schema": 99'))
    assert info.value.field == "cameras[0]"


def test_a_message_is_not_too_long_however_many_cameras_a_worker_has() -> None:
    streams = {f"s{n}": f"rtsp://10.0.0.7/Streaming/Channels/{n}" for n in range(16)}
    outputs = [va.Output(f"cam.{name}", stream=name) for name in streams]
    many = [before_start(va.CameraSpec("cam", outputs=outputs, streams=streams))] * 200
    many += [before_start(SPEC)] * 500
    parts = list(messages.in_parts(many))
    assert [camera for part in parts for camera in part] == many
    assert all(len(messages.encode(Status(1.0, 1, part, ()))) < messages.LONGEST / 2 for part in parts)
    assert list(messages.in_parts([])) == [()]


@pytest.mark.parametrize(
    ("status", "end", "words"),
    [
        (0, WorkerEnd.EXITED, "status 0"),
        (-11, WorkerEnd.KILLED, "SIGSEGV"),
        (-40, WorkerEnd.KILLED, "signal 40"),
        (None, WorkerEnd.UNKNOWN, ""),
    ],
)
def test_how_a_process_ended(status: int | None, end: WorkerEnd, words: str) -> None:
    assert ended(status).end is end
    assert ended(status).text.endswith(words)


def test_the_environment_of_a_worker_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "rtsp://dora:" + quote(PASSWORD, safe="") + "@127.0.0.1/x"
    monkeypatch.setenv("CAMERA_PASSWORD", PASSWORD)
    monkeypatch.setenv("CAMERA_URL", url)
    monkeypatch.setenv("CAMERA_LIST", f"a=1;front={url}")
    monkeypatch.setenv("CAMERA_USER", "dora")
    outputs = (va.Output("two"), va.Output("all", stream="main"))
    both = va.CameraSpec("two", outputs=outputs, streams={"main": PICTURES, "sub": url})
    for one in (va.CameraSpec("one", url), both):
        kept = environment([one, va.CameraSpec("three", PICTURES)])
        assert not {"CAMERA_PASSWORD", "CAMERA_URL", "CAMERA_LIST"} & kept.keys()
        assert not [name for name, value in kept.items() for trace in TRACES if trace in value]
        assert {"CAMERA_USER", "PATH", "VALKKA_RUNTIME_DIR", "PYTHONPATH"} <= kept.keys()


@one_loop
async def test_no_credential_gets_out(
    rtsp: RtspServer,
    clips: Clips,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(1)
    monkeypatch.setenv("CAMERA_PASSWORD", PASSWORD)
    rtsp.mount("/cam", clips(), auth=("dora", PASSWORD, "digest"))
    good, bad = (rtsp.url("/cam", "dora", password) for password in (PASSWORD, PASSWORD + "x"))
    nobody = f"rtsp://dora:{quote(PASSWORD, safe='')}@127.0.0.1:1/x"
    outputs = [va.Output("both"), va.Output("both.all", stream="main")]
    told = []
    async with Supervisor(restart_max=0.1, group_size=2) as supervisor:
        await asyncio.gather(
            supervisor.add("good", good, options={"user_agent": PASSWORD}),
            supervisor.add("bad", bad, retry_refused=0.2),
            supervisor.add("nobody", nobody, retry_max=0.2),
            supervisor.add("both", None, outputs, streams={"main": bad, "sub": good}, retry_refused=0.2),
        )
        await until(lambda: supervisor.status()["good"].state == "live")
        await until(lambda: supervisor.status()["bad"].camera.attempts >= 2)
        await until(lambda: supervisor.status()["nobody"].camera.attempts >= 2)
        await until(lambda: supervisor.status()["both"].cause is va.Cause.AUTH)
        for worker in supervisor.workers():
            told.append(Path(f"/proc/{worker.pid}/cmdline").read_text())
            told.append(Path(f"/proc/{worker.pid}/environ").read_text())
            nursery = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1]
            told.append(Path(f"/proc/{nursery}/cmdline").read_text())
            told.append(Path(f"/proc/{nursery}/environ").read_text())
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGABRT)  # where its threads are
        told += [str(supervisor.status()), str(supervisor.workers()), repr(supervisor)]
        await until(lambda: all(worker.restarts for worker in supervisor.workers()))
        told.append(str(supervisor.status()))
        await until(lambda: supervisor.status()["good"].state == "live")
        await supervisor.change("nobody", nobody + "y")
    out, err = capfd.readouterr()
    assert "Fatal Python error: Aborted" in caplog.text and "Fatal" not in err
    assert "password" in caplog.text and "dora:***@" in caplog.text
    told += [out, err, caplog.text, *(str(vars(record)) for record in caplog.records)]
    assert not [text for text in told for trace in TRACES if trace in text]


@one_loop
async def test_workers_log_into_the_supervisors_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "valkka_async")
    async with Supervisor() as supervisor:
        await supervisor.add("one", tmp_path / "nothing")
        await until(lambda: "no such" in caplog.text)
        (pid,) = (worker.pid for worker in supervisor.workers())
    (record,) = (record for record in caplog.records if "no such" in record.message)
    assert (record.name, record.levelname, record.process) == ("valkka_async.camera.attempts", "WARNING", pid)
    assert (record.threadName, record.camera) == ("valkka-camera one", "one")  # type: ignore[attr-defined]
    assert abs(record.created - Path(tmp_path).stat().st_mtime) < 60
    assert capfd.readouterr().err == ""  # once is enough


@one_loop
async def test_a_worker_ends_in_order_on_sigterm(runtime_dir: Path) -> None:
    async with Supervisor(restart_max=60) as supervisor:
        await supervisor.add("one", PICTURES)
        async with va.connect("one") as client:
            (await client.recv()).release()
            (worker,) = supervisor.workers()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGINT)  # is not for it
            os.kill(worker.pid, signal.SIGTERM)
            with pytest.raises(va.ConnectionClosedOK):
                while True:
                    (await client.recv()).release()
        await until(lambda: supervisor.workers()[0].restarts == 1)
        assert supervisor.workers()[0].last_end is WorkerEnd.KILLED
        assert "SIGTERM" in supervisor.workers()[0].last_exit


@one_loop
async def test_a_worker_imports_what_its_supervisor_imports_and_nothing_from_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("select.py", "json.py", "av.py", "numpy.py"):
        (here / name).write_text("raise SystemExit(7)")
    monkeypatch.chdir(here)
    async with Supervisor() as supervisor:
        await supervisor.add("one", PICTURES)
        await until(lambda: supervisor.status()["one"].state == "live")
        assert supervisor.workers()[0].restarts == 0


@one_loop
async def test_a_worker_that_talks_nonsense_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'valkka_async.camera.workers.nursery' in sys.orig_argv:\n"
        "    import valkka_async.camera.workers.worker as worker\n"
        "    run = worker.run\n"
        "    def talk(fd, *rest):\n"
        f"        said = {str(tmp_path / 'said')!r}\n"
        "        if not (lines := open(said).read().splitlines()):\n"
        "            run(fd, *rest)\n"
        "        open(said, 'w').write('\\n'.join(lines[1:]))\n"
        "        os.write(fd, lines[0].encode() + b'\\n')\n"
        "        import time; time.sleep(30)\n"
        "    worker.run = talk\n"
    )
    wrong = ['{"op": "hel', '{"op": "status", "cpu_s": "much"}', '{"op": "hello", "protocol": 99}']
    (tmp_path / "said").write_text("\n".join(wrong) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    async with Supervisor(restart_max=0.1) as supervisor:
        await supervisor.add("one", PICTURES)
        for round, words in ((1, "not a message"), (2, "Status.cpu_s"), (3, "another version (99")):
            await until(lambda round=round: supervisor.workers()[0].restarts == round)  # type: ignore[misc]
            assert supervisor.workers()[0].last_end is WorkerEnd.GARBLED
            assert words in supervisor.workers()[0].last_exit
        await until(lambda: supervisor.status()["one"].state == "live")
