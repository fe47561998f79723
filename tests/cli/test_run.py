# SPDX-License-Identifier: MIT
"""`run` and `reload`, as processes with real cameras: begin, change, end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import valkka_async as va
import valkka_async.cli.run as service
from support.program import SECONDS, Program, one_line, processes, run
from support.rtsp import RtspServer
from support.stream import free_port
from support.until import wait_for
from valkka_async.ring.rendezvous import servers
from valkka_async.service.config.config import Config
from valkka_async.service.control import ask, services
from valkka_async.service.service import Changes, Service
from valkka_async.service.web import live


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return json.loads(answer.read())


def cameras(name: str = "service") -> dict[str, str]:
    """The states, by name, as the service tells them."""
    status = ask(name, "status", SECONDS)
    return {} if status is None else {c["name"]: c["state"] for c in status["cameras"]}


def config(*lines: str) -> str:
    return "web: {port: 0}\nlog: {format: json}\ncameras:\n" + "".join(f"  {line}\n" for line in lines)


def test_a_service_runs_is_reloaded_and_ends_without_a_trace(
    rtsp: RtspServer, clip: Path, tmp_path: Path, runtime_dir: Path
) -> None:
    rtsp.mount("/a", clip)
    rtsp.mount("/b", clip, auth=("me", "s3cret/pw", "digest"))
    one = f"one: {{url: '{rtsp.url('/a')}'}}"
    two = f"two: {{url: 'rtsp://me:${{TWO}}@127.0.0.1:{rtsp.port}/b'}}"
    path = write(tmp_path / "cameras.yaml", "secrets: s.env\n" + config(one))
    write(tmp_path / "s.env", "TWO=s3cret/pw\n").chmod(0o600)
    with Program("run", str(path)) as program:
        url = program.line()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        wait_for(lambda: cameras() == {"one": "live"})
        worker = get(url + "api/status")["cameras"][0]["worker"]["pid"]

        write(path, "secrets: s.env\n" + config(one, two))
        reloaded = run("reload")
        assert (reloaded.returncode, reloaded.stdout, reloaded.stderr) == (0, "added two\n", "")
        wait_for(lambda: cameras() == {"one": "live", "two": "live"})

        # A file with errors changes nothing, and each is told.
        write(path, config(one, "two: {url: 1, trnsport: tcp}", "'bad name': {url: x}"))
        refused = run("reload")
        assert refused.returncode == 1 and "cameras.yaml:5" in refused.stderr
        assert "transport" in refused.stderr and "Traceback" not in refused.stderr
        assert cameras() == {"one": "live", "two": "live"}
        program.signal(signal.SIGHUP)  # the same, into the log

        time.sleep(0.2)
        write(path, config("three: {url: '" + rtsp.url("/a") + "'}", one))
        program.signal(signal.SIGHUP)
        wait_for(lambda: set(cameras()) == {"one", "three"})
        now = {c["name"]: c for c in get(url + "api/status")["cameras"]}
        assert now["one"]["worker"]["pid"] == worker and now["one"]["camera"]["streams"][0]["attempts"] == 1

        # Another port: the page moves, and the cameras stay.
        write(path, config(one).replace("{port: 0}", "false"))
        assert run("reload").returncode == 0
        with pytest.raises(OSError):
            get(url + "api/status")
        status, errors = program.end(signal.SIGTERM)
    assert status == 0
    entries = [json.loads(line) for line in errors.splitlines()]
    assert {"one", "two"} <= {e.get("camera") for e in entries}
    assert any("goes on as before" in e["message"] for e in entries)
    assert "s3cret" not in errors + program.seen and "s3cret" not in str(now)
    assert os.listdir(runtime_dir) == [] and processes(runtime_dir) == []


def test_a_service_that_is_killed_takes_its_cameras_with_it(
    rtsp: RtspServer, clip: Path, tmp_path: Path, runtime_dir: Path
) -> None:
    rtsp.mount("/a", clip)
    path = write(tmp_path / "cameras.yaml", config(f"one: {{url: '{rtsp.url('/a')}'}}"))
    with Program("run", str(path)) as program:
        program.line()
        wait_for(lambda: cameras() == {"one": "live"})
        program.end(signal.SIGKILL)
        wait_for(lambda: processes(runtime_dir) == [])
        with Program("run", str(path)) as again:  # what it left is in nobody's way
            again.line()
            wait_for(lambda: cameras() == {"one": "live"})
            assert again.end()[0] == 0
    wait_for(lambda: servers() == [])


def test_what_is_wrong_with_a_file_is_said_before_anything_starts(tmp_path: Path) -> None:
    good = write(tmp_path / "good.yaml", config("one: {url: 'rtsp://10.0.0.1/x'}"))
    checked = run("run", "--check", str(good))
    assert (checked.returncode, checked.stdout) == (0, f"{good}: good, 1 camera\n")
    bad = write(tmp_path / "bad.yaml", "cameras:\n  one: {url: 'rtsp://10.0.0.1/x',\n    fsp: 5}\n")
    for command in (("run", "--check", str(bad)), ("run", str(bad))):
        refused = run(*command)
        assert refused.returncode == 1 and refused.stdout == ""
        first, last = refused.stderr.splitlines()
        assert first.startswith(f"{bad}:3: ") and "fsp" in first
        assert last == f"valkka-async: {bad}: 1 error; nothing was started"
    missing = run("run", str(tmp_path / "none.yaml"))
    assert missing.returncode == 1 and "none.yaml" in missing.stderr


def test_reload_needs_a_service() -> None:
    for arguments, words in (
        ((), "no service is running"),
        (("--name", "x"), "no service 'x' is running"),
        (("--name", "a b"), "'a b'"),
    ):
        refused = run("reload", *arguments)
        assert refused.returncode == 1 and words in one_line(refused.stderr)


def test_a_second_service_of_the_name_and_a_port_that_is_taken_are_refused(tmp_path: Path) -> None:
    camera = "one: {url: 'rtsp://127.0.0.1:9/x'}"
    path = write(tmp_path / "a.yaml", config(camera))
    with Program("run", str(path)) as program:
        port = program.line().rstrip("/").rpartition(":")[2]
        second = run("run", str(path))  # which logs JSON
        assert second.returncode == 1
        assert f"process {program.pid}" in json.loads(second.stderr)["message"]
        path.write_text(path.read_text().replace("json", "text"))
        assert f"process {program.pid}" in one_line(run("run", str(path)).stderr)
        other = write(tmp_path / "b.yaml", "name: other\n" + config().replace("port: 0", f"port: {port}"))
        other.write_text(other.read_text() + "  " + camera.replace("one", "two") + "\n")
        third = run("run", str(other))
        assert third.returncode == 1 and port in json.loads(third.stderr)["message"]
        assert program.end()[0] == 0


def test_the_schema_is_printed_for_editors() -> None:
    schema = json.loads(run("schema").stdout)
    assert "cameras" in schema["properties"]


# ------------------------------------------------------------------------------------------ signals

NOWHERE = "{url: 'rtsp://127.0.0.1:9/x'}"
MOMENTS = int(os.environ.get("VALKKA_EXAMPLES", "60")) // 10


def messages(errors: str) -> list[str]:
    """All that was logged, each line of which is JSON."""
    return [json.loads(line)["message"] for line in errors.split("\n")[:-1]]


def test_whatever_is_in_the_file_a_reload_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "cameras.yaml", config(f"one: {NOWHERE}"))
    good = path.read_text()
    with Program("run", str(path)) as program:
        url = program.line()
        wait_for(lambda: set(cameras()) == {"one"})
        pid = wait_for(lambda: get(url + "api/status")["cameras"][0]["worker"]["pid"])
        seen = 0
        for bad in (
            b'cameras: {one: {url: x, title: "\\UFFFFFFFF"}}',
            b"cameras: {one: {url: x, title: a\xc2\x85b}}",
            b"web: {port: 0x" + b"f" * 5000 + b"}\n" + good.encode(),
            b"recordings: '{name}/{n:9999999999}.mp4'\n" + good.encode(),
            b"\xff\xfe",
            b"[" * 100_000,
        ):
            path.write_bytes(bad)
            program.signal(signal.SIGHUP)
            seen += 1
            with pytest.raises(va.ValkkaError, match=r"cameras\.yaml"):
                ask("service", "reload", SECONDS)  # done after the one that the signal asked for
        path.unlink()
        with pytest.raises(va.ValkkaError, match="no such file"):
            ask("service", "reload", SECONDS)
        path.mkdir()
        with pytest.raises(va.ValkkaError, match="is not a file"):
            ask("service", "reload", SECONDS)
        path.rmdir()
        assert get(url + "api/status")["cameras"][0]["worker"]["pid"] == pid
        path.write_text(good)
        assert ask("service", "reload", SECONDS)["text"] == "nothing has changed"
        status, errors = program.end(signal.SIGTERM)
    assert status == 0
    told = [m for m in messages(errors) if "goes on as before" in m]
    assert len(told) >= seen + 2 and "Traceback" not in errors


def test_a_reload_that_is_asked_for_while_the_service_starts_is_done_after(tmp_path: Path) -> None:
    path = write(tmp_path / "cameras.yaml", config(f"one: {NOWHERE}"))
    with Program("run", str(path)) as program:
        program.catches(signal.SIGHUP)
        sent = 0
        while not program.seen and sent < 10_000:  # from before its modules are loaded until it has started
            program.signal(signal.SIGHUP)
            sent += 1
            program.line_if_any(0.01)
        assert ask("service", "reload", SECONDS)["text"] == "nothing has changed"  # after or with them
        status, errors = program.end(signal.SIGTERM)
    assert status == 0 and "Traceback" not in errors
    reloads = [m for m in messages(errors) if m.endswith(": nothing has changed")]
    assert 1 <= len(reloads) < sent, sent  # one answers all that came before it, while it started


@pytest.mark.timeout(300)
def test_a_signal_to_end_at_any_moment_of_the_start_leaves_nothing(tmp_path: Path, runtime_dir: Path) -> None:
    path = write(tmp_path / "cameras.yaml", config(f"one: {NOWHERE}", f"two: {NOWHERE}"))
    for step in range(MOMENTS):
        number = (signal.SIGTERM, signal.SIGINT)[step % 2]
        with Program("run", str(path)) as program:
            # (Python catches SIGINT from its first moment on.)
            program.catches(signal.SIGTERM)
            time.sleep(2.0 * step / MOMENTS)
            status, errors = program.end(number)
        assert (status, "Traceback" in errors, processes(runtime_dir)) == (0, False, []), (step, errors)
        assert os.listdir(runtime_dir) == []
        messages(errors)


def test_a_service_runs_without_standard_output(tmp_path: Path) -> None:
    path = write(tmp_path / "cameras.yaml", config(f"one: {NOWHERE}"))
    with Program("run", str(path)) as program:
        program.hang_up()
        wait_for(lambda: set(cameras()) == {"one"})
        status, errors = program.end(signal.SIGTERM)
    assert status == 0 and "BrokenPipe" not in errors


# ------------------------------------------------------------------------------------------ systemd


def test_systemd_is_told_in_the_order_that_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "cameras.yaml", config(f"one: {NOWHERE}"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Program("run", str(path)) as program:
            program.catches(signal.SIGHUP)
            program.signal(signal.SIGHUP)  # an early reload
            told = [manager.recv(1000).decode() for _ in range(3)]
            before = time.monotonic_ns() // 1000
            path.write_text("cameras: x\n")
            assert run("reload").returncode == 1  # one that fails
            told += [manager.recv(1000).decode() for _ in range(2)]
            assert program.end(signal.SIGTERM)[0] == 0
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(manager.recv(1000).decode())
    first, *rest = told
    assert first == "READY=1\nSTATUS=1 cameras"
    assert [line.split("\n")[0] for line in rest] == [
        "RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"
    ]  # fmt: skip
    moment = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", rest[2])
    assert moment is not None and before <= int(moment[1]) <= time.monotonic_ns() // 1000


# ---------------------------------------------------------------------------------- steps that fail


@pytest.fixture
def own_logging() -> Iterator[None]:
    """A service in this process makes the root logger its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[service._Runner]:
    config = await asyncio.to_thread(service.read, path)
    runner = service._Runner(path, config, False, asyncio.Event())
    task = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(SECONDS):
            while (
                runner._service.name not in services()
                or not runner._service.ready
                or (runner._page is None and config.web is not None)
            ):
                await asyncio.sleep(0.02)
                assert not task.done()
        yield runner
    finally:
        task.cancel()
        await asyncio.wait([task])


async def status_of(url: str) -> dict[str, Any] | None:
    try:
        return dict(await asyncio.to_thread(get, url + "api/status"))
    except OSError:
        return None


async def asked(name: str = "service") -> str:
    return str((await asyncio.to_thread(ask, name, "reload", SECONDS))["text"])


@pytest.mark.one_loop
async def test_a_reload_that_fails_halfway_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_logging: None
) -> None:
    ports = free_port(), free_port()
    texts = [
        f"web: {{port: {port}}}\nlog: {{format: json}}\ncameras:\n  {name}: {NOWHERE}\n"
        for port, name in zip(ports, ("one", "two"), strict=True)
    ]
    path = write(tmp_path / "cameras.yaml", texts[0])
    apply = Service.apply
    errors = [RuntimeError("a bug"), OSError(24, "no descriptors"), KeyError("x")]

    async def failing(self: Service, config: Config) -> Changes:
        changes = await apply(self, config)
        if "two" in config.cameras:
            raise errors.pop()
        return changes

    monkeypatch.setattr(Service, "apply", failing)
    async with running(path):
        old, new = (f"http://127.0.0.1:{port}/" for port in ports)
        path.write_text(texts[1])
        while errors:
            with pytest.raises(va.ValkkaError, match="log says how"):
                await asked()
        status = await status_of(old)
        assert status is not None and [c["name"] for c in status["cameras"]] == ["one"]
        assert await status_of(new) is None
        monkeypatch.setattr(Service, "apply", apply)
        assert await asked() == f"added two; removed one; the page is at {new}"
        assert await status_of(old) is None and await status_of(new) is not None


async def test_a_page_can_change_its_address_and_settings_on_its_port(
    tmp_path: Path, own_logging: None
) -> None:
    port = free_port()

    def text(web: str) -> str:
        return f"web: {{port: {port}, {web}}}\nlog: {{format: json}}\ncameras:\n  one: {NOWHERE}\n"

    path = write(tmp_path / "cameras.yaml", text("host: 127.0.0.1"))
    async with running(path):
        for host, keys in (("127.0.0.2", ""), ("127.0.0.2", ", max_connections: 5"), ("127.0.0.1", "")):
            path.write_text(text(f"host: {host}{keys}"))
            assert await asked() == f"the page is at http://{host}:{port}/"
            assert await status_of(f"http://{host}:{port}/") is not None
        pem = Path(__file__).parents[1] / "support" / "tls-name.pem"
        path.write_text(text(f"host: 127.0.0.1, tls: {{cert: {pem}, key: {pem}}}"))
        assert await asked() == f"the page is at https://127.0.0.1:{port}/"
        path.write_text(text("host: 127.0.0.1"))
        assert await asked() == f"the page is at http://127.0.0.1:{port}/"
        # Where it cannot go, it stays.
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.2", port))
            other.listen()
            path.write_text(text("host: 127.0.0.2"))
            with pytest.raises(va.ValkkaError, match="another program"):
                await asked()
            assert await status_of(f"http://127.0.0.1:{port}/") is not None
        assert await asked() == f"the page is at http://127.0.0.2:{port}/"
        path.write_text(text("").replace(f"{{port: {port}, }}", "false"))
        assert await asked() == "the page is closed"


async def closed(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    """The code with which the other side closes it, whatever comes before."""
    while not socket.closed:
        await socket.receive(timeout=SECONDS)
    return socket.close_code


async def test_a_page_that_moves_to_another_port_says_so_and_lets_its_viewers_go(
    tmp_path: Path, own_logging: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live, "_LINGER", 0.05)
    text = "web: {port: %d}\ncameras:\n  one: " + NOWHERE + "\n"
    before, after = free_port(), free_port()
    path = write(tmp_path / "cameras.yaml", text % before)
    async with running(path), aiohttp.ClientSession(f"http://127.0.0.1:{before}") as client:
        sockets = [
            await client.ws_connect(f"/api/{what}")
            for what in (
                "status/live",
                "cameras/one/live",
                "cameras/one/live?format=jpeg",
                "cameras/one/boxes",
            )
        ]
        for one in sockets:
            await one.receive(timeout=SECONDS)
        path.write_text(text % after)
        said, *codes = await asyncio.gather(asked(), *map(closed, sockets))
        assert said == f"the page is at http://127.0.0.1:{after}/" and codes == [1001] * 4
        assert await status_of(f"http://127.0.0.1:{after}/") is not None
        assert await status_of(f"http://127.0.0.1:{before}/") is None
        await asyncio.sleep(0.2)  # for hubs that would linger
    assert [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR] == []


async def test_reloads_that_are_asked_for_together_are_one(tmp_path: Path, own_logging: None) -> None:
    path = write(tmp_path / "cameras.yaml", config(f"one: {NOWHERE}").replace("{port: 0}", "false"))
    async with running(path) as runner:
        count = 0
        reload = runner._reload

        async def counted() -> dict[str, Any]:
            nonlocal count
            count += 1
            return await reload()

        runner._reload = counted  # type: ignore[method-assign]
        # Each of these, and the reload itself, takes one of few threads.
        assert {*await asyncio.gather(*(asked() for _ in range(3)))} == {"nothing has changed"}
        for _ in range(1000):
            runner._hangups.set()
        assert await asked() == "nothing has changed"
        assert 1 <= count <= 6
