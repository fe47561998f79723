"""Where workers come from: one warm process, on which none of them depends."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from pathlib import Path

import pytest

import valkka_async as va
from support.until import until
from valkka_async.camera.workers import births, nurseries
from valkka_async.camera.workers.births import Birth, Ended, Ready, Refused, Start, Started
from valkka_async.camera.workers.supervisor import Supervisor

PICTURES = "lavfi:testsrc=size=160x120:rate=25"
NURSERY = "valkka_async.camera.workers.nursery"
one_loop = pytest.mark.asyncio(loop_factories=["asyncio-debug"])


def pids(supervisor: Supervisor) -> dict[str, int]:
    """Of the workers that there are, by their cameras."""
    return {name: w.pid for w in supervisor.workers() for name in w.cameras if w.pid is not None}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def held(pid: int) -> set[str]:
    """What its descriptors are, but for those that everybody has. libffi keeps its own file open."""
    found = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    everybody = {"/dev/null", os.readlink("/proc/self/fd/2")}
    return {
        what
        for what in found - everybody
        if what.startswith(("socket:", "pipe:", "/")) and "/libffi.so" not in what
    }


def customize(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have the code run in nurseries, before anything else."""
    lines = "\n".join(f"    {line}" for line in code.splitlines())
    (folder / "sitecustomize.py").write_text(f"import os, sys\nif {NURSERY!r} in sys.orig_argv:\n{lines}\n")
    monkeypatch.syspath_prepend(folder)


async def live(supervisor: Supervisor, *names: str) -> None:
    await until(lambda: all((s := supervisor.status()[n]).current and s.state == "live" for n in names))


@one_loop
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
async def test_workers_outlive_what_they_come_from(
    number: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nurseries, "_ANSWER", 0.5)
    async with Supervisor(restart_max=0.2) as supervisor:
        await asyncio.gather(supervisor.add("one", PICTURES), supervisor.add("two", PICTURES))
        before = pids(supervisor)
        (nursery,) = {parent(pid) for pid in before.values()}
        async with va.connect("one") as client:
            (await client.recv()).release()
            os.kill(nursery, number)
            if number != signal.SIGSTOP:
                await until(lambda: str(nursery) in caplog.text)
            await supervisor.add("three", PICTURES)
            await live(supervisor, "one", "two", "three")
            assert {name: pid for name, pid in pids(supervisor).items() if name != "three"} == before
            (await client.recv()).release()  # over the same connection
        assert parent(pids(supervisor)["three"]) != nursery
        assert not exists(nursery) and str(nursery) in caplog.text
        # Nobody can say how this one ends, but it is noticed, and the next one comes.
        os.kill(before["one"], signal.SIGKILL)
        await until(lambda: pids(supervisor).get("one", before["one"]) != before["one"])
        await live(supervisor, "one")
        (worker,) = (w for w in supervisor.workers() if "one" in w.cameras)
        assert (worker.restarts, worker.last_end) == (1, va.WorkerEnd.UNKNOWN)
        assert parent(pids(supervisor)["one"]) == parent(pids(supervisor)["three"])


@one_loop
async def test_a_worker_that_ends_while_the_nursery_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nurseries, "_ANSWER", 0.5)
    async with Supervisor(restart_max=0.2) as supervisor:
        await supervisor.add("one", PICTURES)
        first = pids(supervisor)["one"]
        nursery = parent(first)
        os.kill(nursery, signal.SIGSTOP)
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.workers()[0].restarts)
        assert supervisor.workers()[0].last_end is va.WorkerEnd.UNKNOWN
        await until(lambda: pids(supervisor).get("one", first) != first)
        await live(supervisor, "one")
        assert parent(pids(supervisor)["one"]) != nursery
        await until(lambda: not exists(nursery))


@one_loop
@pytest.mark.parametrize("signals", [[], [signal.SIGSTOP]], ids=["well", "stopped"])
async def test_a_supervisor_that_is_closed_leaves_none(signals: list[int]) -> None:
    async with Supervisor() as supervisor:
        await supervisor.add("one", PICTURES)
        nursery = parent(pids(supervisor)["one"])
        for number in signals:
            os.kill(nursery, number)
        async with asyncio.timeout(10):
            await supervisor.aclose()
        assert not exists(nursery)


@one_loop
async def test_a_supervisor_that_is_closed_does_not_wait_for_one_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun = tmp_path / "begun"
    customize(tmp_path, monkeypatch, f"open({str(begun)!r}, 'w').close()\nimport time\ntime.sleep(60)")
    supervisor = Supervisor()
    adding = asyncio.create_task(supervisor.add("one", PICTURES))
    await until(begun.exists)
    await supervisor.aclose()  # what is left behind fails the test
    await adding
    assert caplog.records == []


@one_loop
async def test_signals_to_all_processes_of_a_service_are_not_for_it() -> None:
    async with Supervisor() as supervisor:
        await supervisor.add("one", PICTURES)
        nursery = parent(pids(supervisor)["one"])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(nursery, number)
        await supervisor.add("two", PICTURES)
        assert parent(pids(supervisor)["two"]) == nursery


@one_loop
async def test_what_a_program_ignores_is_no_affair_of_its_workers() -> None:
    both = (signal.SIGCHLD, signal.SIGALRM)
    before = [signal.signal(number, signal.SIG_IGN) for number in both]
    try:
        async with Supervisor(restart_max=0.2) as supervisor:
            await supervisor.add("one", PICTURES)
            first = pids(supervisor)["one"]
            nursery = parent(first)
            os.kill(first, signal.SIGKILL)
            await until(lambda: pids(supervisor).get("one", first) != first)
            (worker,) = supervisor.workers()
            assert worker.last_end == va.WorkerEnd.KILLED
            assert worker.pid is not None and parent(worker.pid) == nursery
            status = Path(f"/proc/{worker.pid}/status").read_text().split()
            ignored = int(status[status.index("SigIgn:") + 1], 16)
            assert not any(ignored >> (number - 1) & 1 for number in both)
    finally:
        for number, handler in zip(both, before, strict=True):
            signal.signal(number, handler)


@one_loop
async def test_a_worker_has_what_is_its_own_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime_dir: Path
) -> None:
    drawn = tmp_path / "drawn"
    customize(
        tmp_path,
        monkeypatch,
        "import random, numpy.random\n"
        "def draw():\n"
        f"    with open({str(drawn)!r}, 'a') as file:\n"
        "        print(random.random(), file=file)\n"
        "os.register_at_fork(after_in_child=draw)",
    )
    async with Supervisor() as supervisor:
        names = ("one", "two", "three")
        await asyncio.gather(*(supervisor.add(name, PICTURES) for name in names))
        await live(supervisor, *names)
        found = pids(supervisor)
        nursery = parent(found["one"])
        everything = [what for pid in (*found.values(), nursery) for what in held(pid)]
        assert {what for what in everything if everything.count(what) > 1} <= {str(runtime_dir)}
        for pid in found.values():
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert links.count("anon_inode:[pidfd]") <= 1  # the supervisor's
            status = Path(f"/proc/{pid}/status").read_text().split()
            assert status[status.index("SigBlk:") + 1].strip("0") == ""
        assert len(set(drawn.read_text().split())) == len(names)
        assert not list(Path(f"/proc/{nursery}/task").glob("*"))[1:]


@one_loop
@pytest.mark.parametrize("what", ["environment", "directory", "limit"])
async def test_a_worker_is_as_if_its_supervisor_had_just_started_it(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    async with Supervisor() as supervisor:
        try:
            await supervisor.add("one", PICTURES)
            if what == "environment":
                monkeypatch.setenv("NEWS", "good")
            elif what == "directory":
                monkeypatch.chdir(tmp_path)
            else:
                resource.setrlimit(resource.RLIMIT_CORE, (0 if limits[0] else 1 << 20, limits[1]))
            await supervisor.add("two", PICTURES)
            await supervisor.add("three", PICTURES)
            found = pids(supervisor)
            pid = found["two"]
            if what == "environment":
                assert b"NEWS=good\0" in Path(f"/proc/{pid}/environ").read_bytes()
            elif what == "directory":
                assert os.readlink(f"/proc/{pid}/cwd") == str(tmp_path)
            else:
                assert resource.prlimit(pid, resource.RLIMIT_CORE) == resource.getrlimit(resource.RLIMIT_CORE)
            assert parent(found["one"]) != parent(pid) == parent(found["three"])
            old, first = parent(found["one"]), found["one"]
            os.kill(first, signal.SIGABRT)  # what it came from still says how it ends
            await until(lambda: supervisor.workers()[0].restarts)
            assert supervisor.workers()[0].last_end is va.WorkerEnd.KILLED
            await until(lambda: not exists(old))  # and then nobody needs it
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, limits)


@one_loop
async def test_a_credential_that_is_known_later_is_in_no_later_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cret-of-two")
    async with Supervisor() as supervisor:
        await supervisor.add("one", PICTURES)
        await supervisor.add("two", "rtsp://dora:s3cret-of-two@127.0.0.1:1/x")
        pid = pids(supervisor)["two"]
        for process in (pid, parent(pid)):
            assert b"s3cret" not in Path(f"/proc/{process}/environ").read_bytes()
            assert b"s3cret" not in Path(f"/proc/{process}/cmdline").read_bytes()


@one_loop
async def test_threads_of_others_are_not_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    customize(
        tmp_path,
        monkeypatch,
        "import threading, time\nthreading.Thread(target=time.sleep, args=(300,), daemon=True).start()",
    )
    async with Supervisor(restart_max=0.2) as supervisor:
        await supervisor.add("one", PICTURES)
        await live(supervisor, "one")
        pid = pids(supervisor)["one"]
        assert NURSERY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        os.kill(pid, signal.SIGABRT)
        await until(lambda: supervisor.workers()[0].restarts)
        assert supervisor.workers()[0].last_end is va.WorkerEnd.KILLED
        await live(supervisor, "one")


@one_loop
@pytest.mark.parametrize(
    "trouble",
    [
        "raise SystemExit(7)",
        "def fork(): raise BlockingIOError(11, 'no')\nos.fork = fork",
        "os.fork = lambda: os._exit(7)",
        "os.write(int(sys.orig_argv[-1]), b'nonsense')",
    ],
    ids=["cannot be loaded", "cannot fork", "ends", "talks nonsense"],
)
async def test_what_cannot_start_workers_says_so_and_is_tried_again(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    customize(tmp_path, monkeypatch, f"if os.path.exists({str(broken)!r}):\n    exec({trouble!r})")
    async with Supervisor(restart_max=0.2) as supervisor:
        adding = asyncio.create_task(supervisor.add("one", PICTURES))
        await until(lambda: supervisor.workers() and supervisor.workers()[0].restarts >= 2)
        assert supervisor.workers()[0].last_end is va.WorkerEnd.NOT_STARTED
        assert supervisor.status()["one"].cause is va.Cause.WORKER
        broken.unlink()
        if "fork():" in trouble:  # that nursery lives, and is still what it was
            monkeypatch.setenv("NEWS", "good")
        await live(supervisor, "one")
        await adding


ALL = [Start(1, 2), Ready(), Started(1, 2, 0), Refused(1, 11), Ended(2, -9)]


@pytest.mark.parametrize("birth", ALL, ids=lambda birth: type(birth).__name__)
def test_a_message_arrives_with_its_descriptor(birth: Birth) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open("/dev/null") as null:
        births.send(ours, birth)
        assert births.receive(theirs) == (birth, ())
        births.send(ours, birth, null.fileno(), null.fileno())
        heard = births.receive(theirs)
        assert heard is not None and heard[0] == birth and len(heard[1]) == 2
        for fd in heard[1]:
            assert not os.get_inheritable(fd) and os.path.sameopenfile(fd, null.fileno())
            os.close(fd)
        ours.close()
        assert births.receive(theirs) is None


@pytest.mark.parametrize("packet", [b"nonsense", b"[" * 900, b'{"op": "dance"}', b'{"op": "ended"}', b"\xff"])
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open("/dev/null") as null:
        socket.send_fds(ours, [packet], [null.fileno()])
        with pytest.raises(va.DataError):
            births.receive(theirs)
