# SPDX-License-Identifier: MIT
"""`run` and `reload`, as processes with real cameras: begin, change, end."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.footage import encode
from support.program import SECONDS, Program, eventually, one_line, processes, run
from support.rtsp import RtspServer
from valkka_async.ring.rendezvous import servers
from valkka_async.service.control import ask


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("run") / "clip.h264", (320, 192), 50, gop=10)


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


def happens(condition: Callable[[], object]) -> None:
    assert eventually(condition)


@pytest.mark.timeout(150)
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
        happens(lambda: cameras() == {"one": "live"})
        worker = get(url + "api/status")["cameras"][0]["worker"]["pid"]

        write(path, "secrets: s.env\n" + config(one, two))
        reloaded = run("reload")
        assert (reloaded.returncode, reloaded.stdout, reloaded.stderr) == (0, "added two\n", "")
        happens(lambda: cameras() == {"one": "live", "two": "live"})

        # A file with errors changes nothing, and each is told.
        write(path, config(one, "two: {url: 1, trnsport: tcp}", "'bad name': {url: x}"))
        refused = run("reload")
        assert refused.returncode == 1 and "cameras.yaml:5" in refused.stderr
        assert "transport" in refused.stderr and "Traceback" not in refused.stderr
        assert cameras() == {"one": "live", "two": "live"}
        program.process.send_signal(signal.SIGHUP)  # the same, into the log

        time.sleep(0.2)
        write(path, config("three: {url: '" + rtsp.url("/a") + "'}", one))
        program.process.send_signal(signal.SIGHUP)
        happens(lambda: set(cameras()) == {"one", "three"})
        now = {c["name"]: c for c in get(url + "api/status")["cameras"]}
        assert now["one"]["worker"]["pid"] == worker and now["one"]["attempts"] == 1

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


@pytest.mark.timeout(60)
def test_a_service_that_is_killed_takes_its_cameras_with_it(
    rtsp: RtspServer, clip: Path, tmp_path: Path, runtime_dir: Path
) -> None:
    rtsp.mount("/a", clip)
    path = write(tmp_path / "cameras.yaml", config(f"one: {{url: '{rtsp.url('/a')}'}}"))
    with Program("run", str(path)) as program:
        program.line()
        happens(lambda: cameras() == {"one": "live"})
        program.end(signal.SIGKILL)
        happens(lambda: processes(runtime_dir) == [])
        with Program("run", str(path)) as again:  # what it left is in nobody's way
            again.line()
            happens(lambda: cameras() == {"one": "live"})
            assert again.end()[0] == 0
    happens(lambda: servers() == [])


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
    for arguments, words in ((), "no service is running"), (("--name", "x"), "no service 'x' is running"):
        refused = run("reload", *arguments)
        assert refused.returncode == 1 and words in one_line(refused.stderr)


@pytest.mark.timeout(60)
def test_a_second_service_of_the_name_and_a_port_that_is_taken_are_refused(tmp_path: Path) -> None:
    camera = "one: {url: 'rtsp://127.0.0.1:9/x'}"
    path = write(tmp_path / "a.yaml", config(camera))
    with Program("run", str(path)) as program:
        port = program.line().rstrip("/").rpartition(":")[2]
        second = run("run", str(path))
        assert second.returncode == 1 and f"process {program.process.pid}" in one_line(second.stderr)
        other = write(tmp_path / "b.yaml", "name: other\n" + config().replace("port: 0", f"port: {port}"))
        other.write_text(other.read_text() + "  " + camera.replace("one", "two") + "\n")
        third = run("run", str(other))
        assert third.returncode == 1 and port in third.stderr and "Traceback" not in third.stderr
        assert program.end()[0] == 0


def test_the_schema_is_printed_for_editors() -> None:
    schema = json.loads(run("schema").stdout)
    assert "cameras" in schema["properties"]
