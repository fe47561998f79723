"""A server keeps its name, whatever becomes of its files, and takes nothing that is another's."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import valkka_async as va
from support.program import Child
from support.require import missing
from support.until import wait_for
from valkka_async.ring.connection import report
from valkka_async.ring.rendezvous import Claim, sweep

LOST = [
    pytest.param(("s.sock",), id="socket"),
    pytest.param(("s.lock",), id="lock"),
    pytest.param(("s.sock", "s.lock"), id="both"),
]


def lose(directory: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (directory / name).unlink()


@pytest.mark.parametrize("names", LOST)
def test_a_name_stays_in_use_although_its_files_were_deleted(
    runtime_dir: Path, names: tuple[str, ...]
) -> None:
    with va.serve("s"):
        lose(runtime_dir, names)
        with pytest.raises(va.NameInUseError):
            va.serve("s")
        wait_for(lambda: (runtime_dir / "s.sock").exists() and (runtime_dir / "s.lock").exists())
        with va.attach("s", open_timeout=5):
            pass


def test_a_name_stays_in_use_by_another_process_too(runtime_dir: Path) -> None:
    with Child('s = va.serve("s"); say("up"); time.sleep(60)') as child:
        child.line()
        lose(runtime_dir, ("s.sock", "s.lock"))
        with pytest.raises(va.NameInUseError):
            va.serve("s")
        child.kill()
    va.serve("s").close()  # and is free with the end of that
    sweep("s")


def test_closing_leaves_alone_what_another_has_put_there(runtime_dir: Path) -> None:
    server = va.serve("s")
    lose(runtime_dir, ("s.sock", "s.lock"))
    (runtime_dir / "s.lock").write_text("another's")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(runtime_dir / "s.sock"))
        other.listen()
        server.close()
        assert (runtime_dir / "s.sock").exists() and (runtime_dir / "s.lock").read_text() == "another's"
    for name in ("s.sock", "s.lock"):
        (runtime_dir / name).unlink()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_socket_that_answers_is_not_taken_over(runtime_dir: Path, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(runtime_dir / "s.sock"))
        other.listen()
        with pytest.raises(va.NameInUseError):
            va.serve("s")
        assert os.listdir(runtime_dir) == ["s.sock"]
    va.serve("s").close()  # one that does not, is


def _link(path: Path) -> None:
    path.symlink_to("/nonexistent/nowhere")


@pytest.mark.parametrize("name", ["s.sock", "s.lock"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, _link, Path.touch])
def test_what_is_neither_a_socket_nor_a_lock_is_left_and_told_of(
    runtime_dir: Path, name: str, make: Callable[[Path], None]
) -> None:
    path = runtime_dir / name
    make(path)
    if name == "s.lock" and make is Path.touch:
        va.serve("s").close()  # a lock that nobody holds
        return
    with pytest.raises(va.ConnectError, match=f"{name} is a .*: move it away") as caught:
        va.serve("s")
    assert caught.value.errno == errno.EEXIST
    sweep("s")
    assert os.listdir(runtime_dir) == [name]
    path.rmdir() if make is Path.mkdir else path.unlink()


def test_a_server_stays_in_its_directory_although_the_process_leaves_its_own(
    runtime_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a daemon does, whose VALKKA_RUNTIME_DIR is relative."""
    monkeypatch.chdir(runtime_dir.parent)
    monkeypatch.setenv("VALKKA_RUNTIME_DIR", runtime_dir.name)
    with va.serve("s") as server:
        monkeypatch.chdir(tmp_path)
        lose(runtime_dir, ("s.sock",))
        wait_for(lambda: (runtime_dir / "s.sock").exists())
        with va.attach("s", open_timeout=5) as reader:
            server.publish(b"x")
            assert bytes(reader.recv(5).data) == b"x"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("names", LOST)
def test_sweeping_spares_a_live_server(runtime_dir: Path, names: tuple[str, ...]) -> None:
    with va.serve("s") as server:
        lose(runtime_dir, names)
        if "s.lock" in names:
            (runtime_dir / "s.lock").touch()
        sweep("s")
        wait_for(lambda: (runtime_dir / "s.lock").exists() and (runtime_dir / "s.lock").read_text())
        wait_for(lambda: report("s", 5) is not None)
        assert not server.closed


async def test_readers_find_a_server_again_that_lost_its_files(runtime_dir: Path) -> None:
    async with va.serve("s") as server, va.merge("s*") as merged:
        lose(runtime_dir, ("s.sock", "s.lock"))
        async with va.connect("s", open_timeout=10) as client:
            server.publish(b"x")
            assert bytes((await asyncio.wait_for(client.recv(), 10)).data) == b"x"
        assert bytes((await asyncio.wait_for(merged.recv(), 10)).data) == b"x"


def test_a_server_comes_back_although_its_directory_was_deleted(runtime_dir: Path) -> None:
    with va.serve("s") as server:
        shutil.rmtree(runtime_dir)
        with va.attach("s", open_timeout=10) as reader:
            server.publish(b"x")
            assert bytes(reader.recv(5).data) == b"x"
        assert (runtime_dir.stat().st_mode & 0o777) == 0o700


def test_a_reconnecting_reader_survives_both_losses(runtime_dir: Path) -> None:
    with va.serve("s") as server, va.attach("s", reconnect=True) as reader:
        lose(runtime_dir, ("s.sock", "s.lock"))
        server.publish(b"1")
        assert bytes(reader.recv(5).data) == b"1"
        wait_for((runtime_dir / "s.sock").exists)
        server.close()
        with va.serve("s") as second:
            wait_for(lambda: reader.recv_nowait() is not None or second.readers)
            second.publish(b"2")
            assert bytes(reader.recv(5).data) == b"2"


def test_a_server_is_listed_by_the_kernel_under_its_name(runtime_dir: Path) -> None:
    with va.serve("s"):
        assert f" {runtime_dir}/s.sock\n" in Path("/proc/net/unix").read_text()


@pytest.mark.parametrize("nested", [False, True])
def test_a_cleaner_of_tmp_does_not_part_a_server_from_its_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    if shutil.which("systemd-tmpfiles") is None:
        missing("systemd-tmpfiles is not installed: apt-get install systemd")
    directory = tmp_path / "run" if nested else tmp_path
    monkeypatch.setenv("VALKKA_RUNTIME_DIR", str(directory))
    rules = tmp_path.parent / f"{tmp_path.name}-{nested}.conf"
    rules.write_text(f"e {tmp_path} - - - 1us\n")
    with va.serve("s") as server:
        (directory / "rubbish").touch()
        lock = (directory / "s.lock").stat().st_ino
        subprocess.run(["systemd-tmpfiles", "--clean", str(rules)], check=True, timeout=60)
        # A directory below the cleaned one is left alone as a whole: the server holds a lock on it.
        assert (directory / "rubbish").exists() == nested
        assert not nested or (directory / "s.lock").stat().st_ino == lock
        with va.attach("s", open_timeout=10) as reader:
            server.publish(b"x")
            assert bytes(reader.recv(5).data) == b"x"
        with pytest.raises(va.NameInUseError):
            va.serve("s")
        wait_for(lambda: (directory / "s.lock").exists())
    assert not (directory / "s.sock").exists() and not (directory / "s.lock").exists()


def test_one_that_fails_for_want_of_descriptors_leaks_nothing_and_may_be_tried_again(
    runtime_dir: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(8):
        free = [os.open("/dev/null", os.O_RDONLY) for _ in range(spare + 1)]
        for fd in free:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1 if spare else min(free), hard))
        try:
            server = va.serve("s")
        except va.ConnectError as e:
            assert e.errno is not None
            left = os.listdir(runtime_dir) if spare > 1 else []
        else:
            left = []
            server.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert left == [] == os.listdir(runtime_dir)
    with va.serve("s"), va.attach("s", open_timeout=5):
        pass


def test_one_that_fails_for_want_of_a_thread_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(va.ConnectError):
            va.serve("s")
    with va.serve("s"), va.attach("s", open_timeout=5):
        pass


def test_a_server_whose_name_is_another_s_by_now_leaks_nothing_however_often_it_looks(
    runtime_dir: Path,
) -> None:
    """Its directory was moved away, another server came, and that one's lock was deleted."""
    claims = [Claim("s", mode=0o600, group=-1, backlog=1)]
    runtime_dir.rename(runtime_dir.with_name("moved"))
    claims.append(Claim("s", mode=0o600, group=-1, backlog=1))
    os.unlink(runtime_dir / "s.lock")
    with pytest.raises(va.NameInUseError):
        claims[0].restore()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(va.NameInUseError):
            claims[0].restore()
    assert len(os.listdir("/proc/self/fd")) == before
    for claim in claims:
        claim.close()
    shutil.rmtree(runtime_dir.with_name("moved"))
