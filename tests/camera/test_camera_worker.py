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
from valkka_async.camera.workers.channel import LONGEST, Channel, Message
from valkka_async.camera.workers.process import ended, environment
from valkka_async.camera.workers.supervisor import Supervisor

PASSWORD = "s3cr et/@%#?:ü"
TRACES = ("s3cr", "czNjc")  # plain and percent-encoded, and base64, begin like this
PICTURES = "lavfi:testsrc=size=160x120:rate=25"
one_loop = pytest.mark.asyncio(loop_factories=["asyncio-debug"])


class End:
    """One end of a channel, and what came out of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[Message] = []
        self.ends: list[str] = []
        self.channel = Channel(sock, self.messages.append, self.ends.append)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def test_messages_of_any_size_arrive_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = End(pair[0]), End(pair[1])
    sent = [{"n": n, "text": "ü\n" * (n * 997 % 60_000)} for n in range(40)]  # more than the socket takes
    for message in sent:
        assert a.channel.send(message)
        assert b.channel.send({"n": message["n"]})
    await until(lambda: len(b.messages) == len(sent) and len(a.messages) == len(sent))
    assert b.messages == sent
    assert a.messages == [{"n": n} for n in range(40)]
    with pytest.raises(ValueError, match="too long"):
        a.channel.send({"text": "x" * LONGEST})
    a.channel.send({"last": "words"})
    a.channel.close()
    assert not a.channel.send({})
    await until(lambda: b.ends)
    assert b.messages[-1] == {"last": "words"} and b.ends == ["closed its connection"] and a.ends == []
    b.channel.close()


@pytest.mark.parametrize(
    "data", [b"nonsense\n", b'"text"\n', b"\xff\n", b"[" * 100_000 + b"\n", b"x" * (LONGEST + 1)]
)
@one_loop
async def test_what_is_no_message_ends_the_channel(
    pair: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    end = End(pair[0])
    sending = asyncio.create_task(asyncio.to_thread(_send, pair[1], b'{"good": 1}\n' + data))
    await until(lambda: end.ends)
    assert end.messages == [{"good": 1}] and end.ends == ["sent what is no message"]
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
    message = {"text": "x" * 10_000}
    kept = sum(end.channel.send(message, optional=True) for _ in range(1000))
    assert 20 < kept < 100
    assert end.channel.send({"must": "arrive"})
    other = End(pair[1])
    await until(lambda: {"must": "arrive"} in other.messages)
    assert len(other.messages) == kept + 1
    assert end.channel.send(message, optional=True)
    for e in (end, other):
        e.channel.close()


def test_how_a_process_ended_in_words() -> None:
    assert ended(0) == "ended with status 0"
    assert ended(-11) == "was killed by SIGSEGV"
    assert ended(-40) == "was killed by signal 40"


def test_the_environment_of_a_worker_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "rtsp://dora:" + quote(PASSWORD, safe="") + "@127.0.0.1/x"
    monkeypatch.setenv("CAMERA_PASSWORD", PASSWORD)
    monkeypatch.setenv("CAMERA_URL", url)
    monkeypatch.setenv("CAMERA_LIST", f"a=1;front={url}")
    monkeypatch.setenv("CAMERA_USER", "dora")
    specs = [va.CameraSpec("one", url), va.CameraSpec("two", PICTURES)]
    kept = environment(specs)
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
    told = []
    async with Supervisor(restart_max=0.1, group_size=2) as supervisor:
        await asyncio.gather(
            supervisor.add("good", good, options={"user_agent": PASSWORD}),
            supervisor.add("bad", bad, retry_refused=0.2),
            supervisor.add("nobody", nobody, retry_max=0.2),
        )
        await until(lambda: supervisor.status()["good"].state == "live")
        await until(lambda: supervisor.status()["bad"].attempts >= 2)
        await until(lambda: supervisor.status()["nobody"].attempts >= 2)
        for worker in supervisor.workers():
            told.append(Path(f"/proc/{worker.pid}/cmdline").read_text())
            told.append(Path(f"/proc/{worker.pid}/environ").read_text())
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGABRT)  # a stack trace on stderr
        told += [str(supervisor.status()), str(supervisor.workers()), repr(supervisor)]
        await until(lambda: all(worker.restarts for worker in supervisor.workers()))
        told.append(str(supervisor.status()))
        await until(lambda: supervisor.status()["good"].state == "live")
        await supervisor.change("nobody", nobody + "y")
    out, err = capfd.readouterr()
    assert "Fatal Python error: Aborted" in err
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
    assert (record.name, record.levelname, record.process) == ("valkka_async.camera", "WARNING", pid)
    assert record.threadName == "valkka-camera one"
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
        assert supervisor.workers()[0].last_exit == "was killed by SIGTERM"


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
        "if 'valkka_async.camera.workers.worker' in ' '.join(sys.orig_argv):\n"
        f"    said = {str(tmp_path / 'said')!r}\n"
        "    lines = open(said).read().splitlines()\n"
        "    if lines:\n"
        "        open(said, 'w').write('\\n'.join(lines[1:]))\n"
        "        os.write(int(sys.orig_argv[-1]), lines[0].encode() + b'\\n')\n"
        "        import time; time.sleep(30)\n"
    )
    (tmp_path / "said").write_text('{"op": "hel\n{"op": "status", "cpu_s": "much"}\n')
    monkeypatch.syspath_prepend(tmp_path)
    async with Supervisor(restart_max=0.1) as supervisor:
        await supervisor.add("one", PICTURES)
        await until(lambda: supervisor.workers()[0].restarts == 1)
        assert supervisor.workers()[0].last_exit == "sent what is no message and was killed"
        await until(lambda: supervisor.workers()[0].restarts == 2)
        assert "makes no sense (ValueError) and was killed" in supervisor.workers()[0].last_exit
        await until(lambda: supervisor.status()["one"].state == "live")
