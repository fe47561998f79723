"""What the system or another user refuses is our error, says the way out, and may be tried again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import pwd
import resource
import select
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import valkka_async as va
from support.program import Child
from support.until import until
from valkka_async.ring import reader as reader_module
from valkka_async.ring.connection import dial

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def in_namespace(mounts: str, code: str, *flags: str) -> str:
    """What Python code prints where other file systems are mounted. Skips where that is not allowed."""
    unshare = ["unshare", "-rm", *flags]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], stderr=subprocess.PIPE).returncode
    ):
        pytest.skip("no namespaces here")
    prelude = "import errno, os, sys, valkka_async as va\n"
    done = subprocess.run(
        [
            *unshare,
            "sh",
            "-ec",
            f'{mounts}\nexec "$0" -c "$1"',
            sys.executable,
            prelude + textwrap.dedent(code),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


REFUSED = """
try:
    va.serve("s")
except va.ConnectError as e:
    print(errno.errorcode[e.errno], e)
"""


@pytest.mark.parametrize(
    ("options", "code", "hint"),
    [
        ("ro", "EROFS", "VALKKA_RUNTIME_DIR"),
        ("nr_inodes=1", "ENOSPC", "make room"),
        ("nr_inodes=2", "ENOSPC", "full"),
    ],
)
def test_a_directory_that_takes_nothing_says_so(
    runtime_dir: Path, options: str, code: str, hint: str
) -> None:
    said = in_namespace(
        f"mount -t tmpfs -o {options} none {runtime_dir}",
        REFUSED + "print(os.listdir(os.environ['VALKKA_RUNTIME_DIR']))",
    )
    first, left = said.splitlines()
    assert first.startswith(code) and hint in first
    assert left == "[]"


@as_root
@pytest.mark.parametrize(("owner", "hint"), [(12345, "chmod u+rwx"), (0, "chown 12345")])
def test_a_directory_that_may_not_be_entered_says_so_to_servers_and_readers(
    runtime_dir: Path, owner: int, hint: str
) -> None:
    with (
        va.serve("s"),
        Child(
            """
        va.attach, va.serve
        os.setgroups([]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)
        for use in (lambda: va.attach("s", open_timeout=20), lambda: va.serve("t")):
            try:
                sys.stdin.readline()
                use()
            except va.ConnectError as e:
                say(e.errno, e)
        """
        ) as child,
    ):
        os.chown(runtime_dir, owner, -1)
        runtime_dir.chmod(0o600)
        try:
            for _ in range(2):
                child.tell("go")
                said = child.line()
                assert said.startswith(str(errno.EACCES)) and hint in said
        finally:
            os.chown(runtime_dir, os.geteuid(), -1)
            runtime_dir.chmod(0o700)


def test_a_disk_without_room_for_a_byte_is_left_as_it_was(runtime_dir: Path) -> None:
    said = in_namespace(
        f"mount -t tmpfs -o size=4k none {runtime_dir}; head -c 4096 /dev/zero > {runtime_dir}/full",
        REFUSED + "print(os.listdir(os.environ['VALKKA_RUNTIME_DIR']))",
    )
    first, left = said.splitlines()
    assert first.startswith("ENOSPC") and left == "['full']"


def test_a_directory_that_was_full_takes_a_server_later(runtime_dir: Path) -> None:
    said = in_namespace(
        f"mount -t tmpfs -o nr_inodes=3 none {runtime_dir}; touch {runtime_dir}/a",
        REFUSED
        + """
        os.unlink(os.environ["VALKKA_RUNTIME_DIR"] + "/a")
        with va.serve("s") as server, va.attach("s") as reader:
            server.publish(b"x")
            print(bytes(reader.recv(5).data))
        """.replace("\n        ", "\n"),
    )
    assert said.splitlines()[0].startswith("ENOSPC") and said.splitlines()[1] == "b'x'"


def test_a_user_that_the_namespace_does_not_know_is_told_of_it(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir))
    monkeypatch.delenv("VALKKA_RUNTIME_DIR")
    if os.geteuid() == 0:
        os.chown(runtime_dir, NOBODY - 1, -1)
        said = in_namespace("", REFUSED)
        assert "user namespace" in said and "a directory that is shared" in said
        os.chown(runtime_dir, 0, -1)


@as_root
def test_root_with_the_environment_of_a_user_leaves_its_directory_alone(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir))
    monkeypatch.delenv("VALKKA_RUNTIME_DIR")
    os.chown(runtime_dir, NOBODY, -1)
    with pytest.raises(va.ConnectError, match="sudo without -E") as raised:
        va.serve("s")
    assert raised.value.errno == errno.EPERM
    assert os.listdir(runtime_dir) == []
    (runtime_dir / "valkka-async").mkdir(mode=0o700)
    os.chown(runtime_dir / "valkka-async", NOBODY, -1)
    for call in (lambda: va.serve("s"), lambda: va.attach("s", open_timeout=0)):
        with pytest.raises(va.ConnectError, match="sudo without -E"):
            call()
    with pytest.raises(va.ConnectError, match="VALKKA_RUNTIME_DIR on both sides$"):
        va.serve("s")
    (runtime_dir / "valkka-async").rmdir()


def test_a_runtime_directory_that_is_not_there_says_so(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir / "gone"))
    monkeypatch.delenv("VALKKA_RUNTIME_DIR")
    with pytest.raises(va.ConnectError, match="XDG_RUNTIME_DIR is .*unset it"):
        va.serve("s")


AS_NOBODY = """
va.serve, va.attach, va.ConnectError  # imported as long as that is allowed
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
"""


@as_root
def test_a_lock_that_root_has_left_says_how_to_remove_it(runtime_dir: Path) -> None:
    (runtime_dir / "s.lock").touch(mode=0o600)
    os.chown(runtime_dir, NOBODY, -1)
    with Child(
        AS_NOBODY + textwrap.dedent(REFUSED).replace("print(errno.errorcode[e.errno], e)", "say(e)")
    ) as child:
        assert f"sudo rm {runtime_dir}/s.lock" in child.line()
    (runtime_dir / "s.lock").unlink()


@as_root
def test_root_may_take_what_another_has_left_in_a_shared_directory(runtime_dir: Path) -> None:
    runtime_dir.chmod(0o1777)
    (runtime_dir / "s.lock").touch(mode=0o600)
    os.chown(runtime_dir / "s.lock", NOBODY, -1)
    va.serve("s").close()


@as_root
@pytest.mark.parametrize(
    ("owner", "mode", "trusted"),
    [(0, 0o1777, False), (NOBODY, 0o1777, False), (NOBODY, 0o755, True), (0, 0o770, True)],
)
def test_readers_check_who_serves_them(runtime_dir: Path, owner: int, mode: int, trusted: bool) -> None:
    os.chown(runtime_dir, owner, NOBODY)
    runtime_dir.chmod(mode)
    with Child(
        AS_NOBODY
        + 's = va.serve("s", mode=0o666); s.publish(b"x"); say("up"); sys.stdin.readline(); s.close()'
    ) as child:
        child.line()
        if trusted:
            with va.attach("s", open_timeout=5) as reader:
                assert bytes(reader.recv(5).data) == b"x"
        else:
            with pytest.raises(va.ConnectError, match=f"user {pwd.getpwuid(NOBODY).pw_name}") as raised:
                va.attach("s", open_timeout=5)
            assert raised.value.errno == errno.EPERM
        child.tell("end")
        child.wait()


@as_root
def test_a_group_that_is_given_can_enter_the_directory(runtime_dir: Path) -> None:
    group = grp.getgrgid(NOBODY)
    with va.serve("s", mode=0o660, group=group.gr_name) as server:
        server.publish(b"x")
        assert stat.S_IMODE(runtime_dir.stat().st_mode) == 0o750
        with Child(
            AS_NOBODY + 'with va.attach("s", open_timeout=5) as r: say(bytes(r.recv(5).data))'
        ) as child:
            assert child.line() == "b'x'"


@as_root
def test_a_group_that_cannot_enter_is_told_of(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir))
    monkeypatch.delenv("VALKKA_RUNTIME_DIR")
    with caplog.at_level(logging.WARNING), va.serve("s", mode=0o660, group=NOBODY):
        assert "VALKKA_RUNTIME_DIR" in caplog.text
    shutil.rmtree(runtime_dir / "valkka-async")


# ------------------------------------------------------------------------------- memory, descriptors


@contextlib.contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")


def test_a_ring_without_memory_is_our_error_and_comes_when_there_is_some() -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)
    with va.serve("s", slots=64) as server, va.attach("s") as reader:
        with limited(resource.RLIMIT_AS, address_space() + (32 << 20)), pytest.raises(va.RingMemoryError):
            server.publish(image)
        assert server.publish(image)
        reader.recv(5).release()


def test_a_reader_without_memory_is_told_and_reads_later() -> None:
    with va.serve("s", slots=64) as server:
        server.publish(np.ones((1000, 1000, 3), np.uint8))
        with Child(
            """
            import resource
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGESIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), hard))
            try:
                va.attach("s", open_timeout=5)
            except va.ConnectError as e:
                say(e.errno)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            with va.attach("s", open_timeout=5) as reader:
                say(reader.recv(5).array.sum())
            """
        ) as child:
            assert child.line() == str(errno.ENOMEM)
            assert child.line() == "3000000"


def test_no_descriptor_for_a_ring_is_our_error_and_passes() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        with limited(resource.RLIMIT_NOFILE, 3), pytest.raises(va.RingMemoryError, match="ulimit -n"):
            server.publish(b"x")
        assert server.publish(b"x")
        reader.recv(5).release()


def test_no_descriptor_for_select_is_our_error_and_passes() -> None:
    with va.serve("s") as server, va.attach("s", reconnect=True) as reader:
        server.publish(b"x")
        with limited(resource.RLIMIT_NOFILE, 3), pytest.raises(va.ConnectError, match="ulimit -n"):
            reader.fileno()
        assert reader.fileno() >= 0
        reader.recv(5).release()


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize("before", [1, 2])
def test_a_reader_under_a_selector_needs_no_descriptor_when_it_has_a_frame(
    reconnect: bool, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that comes just when the doorbell was drained is handed out, and the reader is readable on."""
    real = reader_module.drain

    def drain(fd: int) -> bool:
        rang = real(fd)
        if fd == reader._connection.bell and server.stats().published == before:  # type: ignore[union-attr]
            server.publish(b"x")
        return rang

    with va.serve("s") as server, va.attach("s", policy="ordered", reconnect=reconnect) as reader:
        for _ in range(before):
            server.publish(b"x")
        fd = reader.fileno()
        for _ in range(before):
            reader.recv_nowait().release()  # type: ignore[union-attr]
        monkeypatch.setattr(reader_module, "drain", drain)
        with limited(resource.RLIMIT_NOFILE, 3):
            frame = reader.recv_nowait()
        assert frame is not None and frame.seq == before + 1
        assert select.select([fd], [], [], 0)[0]
        assert reader.recv_nowait() is None
        assert not select.select([fd], [], [], 0)[0]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EACCES])
def test_a_seccomp_filter_without_memfd_is_our_error(number: int) -> None:
    with Child(
        """
        import ctypes, platform, struct
        call = {"x86_64": 319, "aarch64": 279}[platform.machine()]
        program = b"".join(struct.pack("HBBI", *line) for line in (
            (0x20, 0, 0, 0), (0x15, 0, 1, call),
            (0x06, 0, 0, 0x50000 | int(sys.argv[1])), (0x06, 0, 0, 0x7FFF0000)))
        held = ctypes.create_string_buffer(program)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(38, 1, 0, 0, 0)
        assert libc.prctl(22, 2, struct.pack("HxxxxxxP", 4, ctypes.addressof(held)), 0, 0) == 0
        with va.serve("s") as server:
            try:
                server.publish(b"x")
            except va.RingMemoryError as e:
                say(e)
            try:
                va.attach("s", open_timeout=5)
            except va.ConnectError as e:
                say(e)
        """,
        number,
    ) as child:
        assert "seccomp" in child.line()
        assert "seccomp" in child.line()
        child.wait()


def test_no_descriptor_for_a_socket_is_an_error_of_ours() -> None:
    with va.serve("s"):
        with limited(resource.RLIMIT_NOFILE, 3), pytest.raises(va.ConnectError) as raised:
            dial("s")
        assert raised.value.errno == errno.EMFILE


@pytest.mark.parametrize("merged", [False, True], ids=["client", "merge"])
async def test_no_descriptor_for_a_moment_ends_no_patient_reader(merged: bool) -> None:
    """Neither one that connects again, nor the source of a merge."""
    if merged:
        readers: va.Merge | va.Client = va.merge("s")
    else:
        async with va.serve("s"):
            readers = await va.connect("s", reconnect=True)
    async with readers:
        receiving = asyncio.create_task(readers.recv())
        with limited(resource.RLIMIT_NOFILE, 3):
            await asyncio.sleep(0.2)
        async with va.serve("s") as server:
            await until(lambda: server.readers)
            server.publish(b"x")
            assert bytes((await asyncio.wait_for(receiving, 10)).data) == b"x"
