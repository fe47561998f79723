"""va.Supervisor: whatever happens to a worker process costs its camera a gap, and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from camera_tools import Clips

import valkka_async as va
from support.program import Child
from support.rtsp import RtspServer
from support.until import until
from valkka_async.camera.workers.supervisor import Supervisor
from valkka_async.ring.rendezvous import servers

PICTURES = "lavfi:testsrc=size=160x120:rate=25"
LARGER = "lavfi:testsrc=size=320x240:rate=25"
FRAMES = 10  # that must come before something is called going on
ENDS = {  # what is done to a worker, and what is said of it
    signal.SIGSEGV: va.WorkerEnd.KILLED,
    signal.SIGKILL: va.WorkerEnd.KILLED,
    signal.SIGSTOP: va.WorkerEnd.SILENT,
}
one_loop = pytest.mark.asyncio(loop_factories=["asyncio-debug"])  # a process takes its time to start


class Watch:
    """Reads rings all the time, and keeps what it sees."""

    def __init__(self, *names: str) -> None:
        self.merge = va.merge(*names, policy="ordered")
        self.seen: dict[str, list[tuple[int, tuple[int, ...]]]] = {name: [] for name in names}

    async def _read(self) -> None:
        async for frame in self.merge:
            with frame:
                self.seen[frame.source].append((frame.seq, frame.shape))

    async def more(self, *names: str, count: int = FRAMES, seconds: float = 15) -> None:
        """Wait until each of them has given so many frames more."""
        before = {name: len(self.seen[name]) for name in names}
        await until(lambda: all(len(self.seen[n]) >= before[n] + count for n in names), seconds)

    def gaps(self, name: str) -> list[tuple[int, int]]:
        """Neighbours whose numbers do not follow each other."""
        seqs = [seq for seq, _ in self.seen[name]]
        return [(a, b) for a, b in zip(seqs, seqs[1:], strict=False) if b != a + 1]

    async def __aenter__(self) -> Watch:
        await self.merge.__aenter__()
        self.task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.merge.__aexit__(None, None, None)


def rings(name: str) -> list[va.Output]:
    """One from which nothing is lost when this process stands still for a moment."""
    return [va.Output(name, slots=64)]


def pids(supervisor: Supervisor) -> dict[str, int | None]:
    """Which process each camera is in."""
    return {name: worker.pid for worker in supervisor.workers() for name in worker.cameras}


def state(supervisor: Supervisor, name: str) -> str:
    return supervisor.status()[name].state


def running(pid: int) -> bool:
    """Is there such a process, other than as a zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.asynccontextmanager
async def supervised(*names: str, url: str = PICTURES, **settings: object) -> AsyncIterator[Supervisor]:
    options: dict[str, object] = {"restart_max": 0.2}
    async with Supervisor(**(options | settings)) as supervisor:  # type: ignore[arg-type]
        await asyncio.gather(*(supervisor.add(name, url, rings(name)) for name in names))
        yield supervisor


@one_loop
async def test_what_happens_to_a_worker_costs_its_camera_a_gap_and_the_others_nothing(
    rtsp: RtspServer, clips: Clips
) -> None:
    for path in ("/one", "/two"):
        rtsp.mount(path, clips())
    async with (
        Supervisor(restart_max=0.3, hang_timeout=3) as supervisor,
        Watch("one", "two") as watch,
    ):
        names = ("one", "two")
        await asyncio.gather(*(supervisor.add(name, rtsp.url(f"/{name}"), rings(name)) for name in names))
        await until(lambda: state(supervisor, "one") == "live")
        await watch.more("one", "two")
        second = pids(supervisor)["two"]
        for round, (number, end) in enumerate(ENDS.items(), start=1):
            first = pids(supervisor)["one"]
            assert first is not None and second not in (None, first)
            os.kill(first, number)
            await until(lambda: state(supervisor, "one") == "waiting")
            status = supervisor.status()["one"]
            assert status.cause is va.Cause.WORKER and status.reason
            assert status.retry_in is not None and status.retry_in <= 0.3
            # The camera's own record is left as it was, and says that it is old.
            assert status.camera.state == "live" and status.camera.pid == first and not status.current
            await watch.more("one", "two")
            assert len(watch.gaps("one")) == round and watch.gaps("two") == []
            after = pids(supervisor)
            assert after["two"] == second and after["one"] not in (None, first)
            one, two = (next(w for w in supervisor.workers() if n in w.cameras) for n in ("one", "two"))
            assert (one.restarts, one.last_end) == (round, end)
            assert (two.restarts, two.last_end, two.last_exit) == (0, None, "")
            await until(lambda: state(supervisor, "one") == "live")
            status = supervisor.status()["one"]
            assert (status.cause, status.reason, status.current) == (None, "", True)


@one_loop
@pytest.mark.parametrize("group_size", [1, 3])
async def test_to_add_change_and_remove_a_camera_touches_no_other(group_size: int) -> None:
    async with (
        supervised("one", "two", group_size=group_size) as supervisor,
        Watch("one", "two", "three") as watch,
    ):
        await watch.more("one", "two")
        before = pids(supervisor)
        assert (before["one"] == before["two"]) == (group_size > 1)

        await supervisor.add("three", PICTURES, rings("three"))
        await watch.more("three")
        assert (pids(supervisor)["three"] in before.values()) == (group_size > 1)

        await supervisor.change("two", PICTURES, rings("two"))  # nothing differs
        await watch.more("two")
        assert watch.gaps("two") == []
        await supervisor.change("two", LARGER, rings("two"))
        await watch.more("two")
        assert watch.seen["two"][-1][1] == (240, 320, 3) and len(watch.gaps("two")) == 1

        await supervisor.remove("three")
        assert list(supervisor.status()) == ["one", "two"]
        assert servers() == ["one", "two"]
        await watch.more("one", "two")
        assert watch.gaps("one") == [] and len(watch.gaps("two")) == 1
        assert pids(supervisor) == before
        assert [worker.restarts for worker in supervisor.workers()] == [0] * len(set(before.values()))


@one_loop
async def test_status_and_workers_say_how_it_is(clips: Clips) -> None:
    async with supervised("one", "two") as supervisor:
        await until(lambda: all(s.state == "live" for s in supervisor.status().values()))
        assert {w.state for w in supervisor.workers()} == {va.WorkerState.RUNNING}
        await until(lambda: all(w.cpu_s > 0 and w.rss > 10e6 for w in supervisor.workers()))
        await supervisor.change("two", str(clips.folder / "nothing"), retry_refused=5)
        await until(lambda: state(supervisor, "two") == "failed")
        status = supervisor.status()["two"]
        assert status.cause is va.Cause.NOT_FOUND and status.reason == status.camera.reason
        first, second = status.retry_in, supervisor.status()["two"].retry_in
        assert first is not None and second is not None and 0 < second <= first <= 5


@one_loop
async def test_a_worker_that_falls_again_and_again_is_started_ever_more_slowly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with supervised("one") as supervisor:
        held = len(os.listdir("/proc/self/fd"))
        for round in range(1, 5):
            await until(lambda: pids(supervisor)["one"] is not None)
            pid = pids(supervisor)["one"]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)  # also one that has not come up yet
            await until(lambda round=round: supervisor.workers()[0].restarts == round)  # type: ignore[misc]
            assert not running(pid)
        await until(lambda: state(supervisor, "one") == "live")
        assert len(os.listdir("/proc/self/fd")) == held
    assert caplog.text.count("was killed by SIGKILL") == 4


@pytest.mark.parametrize("how", ["frozen camera", "stopped worker", "worker that starts"])
async def test_a_stop_ends_within_its_deadline(rtsp: RtspServer, clips: Clips, how: str) -> None:
    rtsp.mount("/cam", clips())
    supervisor = Supervisor(stop_timeout=3)
    if how == "worker that starts":
        adding = asyncio.create_task(supervisor.add("cam", rtsp.url("/cam")))
        await until(lambda: pids(supervisor).get("cam"))
    else:
        await supervisor.add("cam", rtsp.url("/cam"))
        await until(lambda: state(supervisor, "cam") == "live")
        adding = asyncio.create_task(asyncio.sleep(0))
    pid = pids(supervisor)["cam"]
    assert pid is not None
    if how == "frozen camera":
        rtsp.freeze()
    elif how == "stopped worker":
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    await supervisor.aclose()
    took = time.monotonic() - began
    assert took < 20 and (took > 2.9 or how != "stopped worker"), took
    assert not Path(f"/proc/{pid}").exists()  # not even as a zombie
    await adding
    assert supervisor.closed and supervisor.status() == {} and supervisor.workers() == []
    await supervisor.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await supervisor.add("cam", PICTURES)


@one_loop
async def test_removing_the_camera_of_a_stopped_worker_ends_too() -> None:
    async with (
        supervised("one", "two", stop_timeout=0.5, hang_timeout=60) as supervisor,
        Watch("two") as watch,
    ):
        pid = pids(supervisor)["one"]
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(5):
            await supervisor.remove("one")
        assert not running(pid)
        await watch.more("two")
        await supervisor.add("one", PICTURES)


@one_loop
async def test_a_camera_in_a_group_that_does_not_go_is_not_waited_for_forever() -> None:
    async with supervised("one", "two", group_size=2, stop_timeout=0.5, hang_timeout=60) as supervisor:
        pid = pids(supervisor)["one"]
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(10):
            await supervisor.remove("one")
        assert not running(pid)
        await until(lambda: state(supervisor, "two") == "live")
        assert supervisor.workers()[0].last_end is va.WorkerEnd.OVERDUE


@one_loop
async def test_cameras_of_a_worker_that_waits_can_be_changed_and_removed() -> None:
    async with supervised("one", "two", group_size=2, restart_max=60) as supervisor:
        while (wait := supervisor.workers()[0].retry_in or 0.0) < 2.0:  # it draws how long
            await until(lambda: pids(supervisor)["one"] is not None)
            pid = pids(supervisor)["one"]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: pids(supervisor)["one"] is None)
        assert state(supervisor, "one") == "waiting" and wait <= 60
        assert supervisor.workers()[0].state is va.WorkerState.WAITING
        async with asyncio.timeout(wait * 0.9):  # it is not waited for
            await supervisor.change("one", LARGER)
            await supervisor.remove("two")
            assert list(supervisor.status()) == ["one"]
        await supervisor.add("two", PICTURES)  # elsewhere: that place has just failed
        assert len(supervisor.workers()) == 2
        async with asyncio.timeout(1):
            await supervisor.remove("one")
        assert servers() == ["two"]
        await until(lambda: len(supervisor.workers()) == 1)


@one_loop
async def test_what_hangs_in_a_library_costs_its_process_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named pipe without a writer: open() does not return, and no socket is there to be shut down."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'valkka_async.camera.workers.nursery' in sys.orig_argv:\n"
        "    import valkka_async.camera.keeper as camera\n"
        "    camera._STUCK = 0.5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    async with Supervisor(hang_timeout=3, stop_timeout=1, restart_max=0.2) as supervisor:
        await supervisor.add("good", PICTURES, rings("good"))
        async with Watch("good") as watch:
            await supervisor.add("bad", tmp_path / "pipe", open_timeout=0.1, read_timeout=0.1)
            worker = next(w for w in supervisor.workers() if "bad" in w.cameras)
            await until(lambda: next(w for w in supervisor.workers() if "bad" in w.cameras).restarts == 1)
            last = next(w for w in supervisor.workers() if "bad" in w.cameras).last_end
            assert last is va.WorkerEnd.STUCK
            assert worker.pid is not None and not running(worker.pid)
            await until(lambda: pids(supervisor)["bad"] is not None)
            await watch.more("good")
            async with asyncio.timeout(5):
                await supervisor.remove("bad")
            assert watch.gaps("good") == []
            await watch.more("good")


@one_loop
async def test_what_hangs_in_a_library_leaves_its_group_without_harm(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with supervised("good", group_size=2, stop_timeout=0.5) as supervisor, Watch("good") as watch:
        await supervisor.add("bad", tmp_path / "pipe")
        before = pids(supervisor)
        await supervisor.remove("bad")
        await supervisor.add("bad", PICTURES)  # its ring is free
        await until(lambda: state(supervisor, "bad") == "live")
        await watch.more("good")
        assert watch.gaps("good") == [] and pids(supervisor) == before


@one_loop
async def test_a_ring_that_another_program_serves_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async with Supervisor() as supervisor:
        with va.serve("one"):
            await supervisor.add("one", PICTURES)
            status = supervisor.status()["one"]
            assert status.state == "failed" and status.cause is va.Cause.RING
            assert status.retry_in is not None and 0 <= status.retry_in <= 10
        await until(lambda: state(supervisor, "one") == "live")
        await until(lambda: supervisor.status()["one"].reason == "")
        assert supervisor.workers()[0].restarts == 0
    assert caplog.text.count("served already") == 1


@one_loop
async def test_names_are_new_and_rings_have_one_owner() -> None:
    async with supervised("one") as supervisor:
        with pytest.raises(ValueError, match="already"):
            await supervisor.add("one", PICTURES)
        with pytest.raises(ValueError, match="'one' is fed by"):
            await supervisor.add("two", PICTURES, [va.Output("one")])
        for call in (supervisor.change("two", PICTURES), supervisor.remove("two")):
            with pytest.raises(ValueError, match="no camera 'two'"):
                await call
        with pytest.raises(ValueError, match="host"):
            await supervisor.add("two", "rtsp://")
        with pytest.raises(TypeError):
            await supervisor.add("two", PICTURES, colour="blue")  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="options"):
            await supervisor.add("two", PICTURES, options={"probesize": 32})  # type: ignore[dict-item]
        await supervisor.change(va.CameraSpec("one", PICTURES, (va.Output("other"),)))
        await supervisor.add(name="two", url=PICTURES, outputs=[va.Output("one")])
        async with va.connect("one") as client:
            (await client.recv()).release()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"group_size": 0}, {"group_size": 1.5}, {"group_size": True}, {"group_size": "2"}),
        *({"hang_timeout": 0.5}, {"hang_timeout": True}, {"hang_timeout": "9"}, {"hang_timeout": None}),
        *({"stop_timeout": 0}, {"restart_max": float("inf")}),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Supervisor(**wrong)  # type: ignore[arg-type]


async def test_cancelling_stops_the_waiting_and_not_the_work() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await supervisor.add("one", PICTURES)
        assert "one" in supervisor.status()
        await until(lambda: state(supervisor, "one") == "live")
        pid = pids(supervisor)["one"]
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await supervisor.aclose()
        await until(lambda: not Path(f"/proc/{pid}").exists(), 4)  # and not after stop_timeout


@pytest.mark.parametrize("how", ["close", "forget"])
def test_without_a_running_loop(how: str) -> None:
    with asyncio.Runner() as runner:
        supervisor = Supervisor(stop_timeout=20)

        async def begin() -> None:
            await supervisor.add("one", PICTURES)

        runner.run(begin())
        pid = pids(supervisor)["one"]
        assert pid is not None and running(pid)
        if how == "close":
            began = time.monotonic()
            supervisor.close()
            assert time.monotonic() - began < 15
            assert not Path(f"/proc/{pid}").exists()
    # Runner.close() has cancelled what was running in the loop.
    assert not Path(f"/proc/{pid}").exists()
    assert supervisor.workers() == []
    supervisor.close()


PROGRAM = """
import signal
async def main():
    async with va.Supervisor(**eval(sys.argv[1])) as supervisor:
        url = "lavfi:testsrc=size=160x120:rate=25"
        await asyncio.gather(supervisor.add("one", url), supervisor.add("two", url))
        assert "av" not in sys.modules
        say(*(worker.pid for worker in supervisor.workers()))
        %s
"""


def program(body: str, *settings: object, before: str = "") -> str:
    return before + PROGRAM % body + "\nasyncio.run(main())\n"


def two_pids(child: Child) -> list[int]:
    return [int(word) for word in child.line().split()]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pids: list[int], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while any(running(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


INHERITED = """
        import subprocess
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                    os.set_inheritable(fd, True)
            except FileNotFoundError:
                pass
        other = subprocess.Popen(["sleep", "30"], close_fds=False)
        say(other.pid)
"""


@pytest.mark.parametrize("how", ["alone", "with its sockets inherited", "after its nursery"])
def test_workers_end_with_a_supervisor_that_is_killed(how: str, runtime_dir: Path) -> None:
    inherited = how == "with its sockets inherited"
    body = (INHERITED if inherited else "") + "        await asyncio.sleep(60)"
    with Child(program(body.lstrip()), {}) as child:
        workers = two_pids(child)
        (nursery,) = {parent(pid) for pid in workers}
        other = int(child.line()) if inherited else 0
        if how == "after its nursery":
            os.kill(nursery, signal.SIGKILL)
            assert gone([nursery])
        child.kill()
        try:
            assert gone([*workers, nursery])
        finally:
            if other:
                os.kill(other, signal.SIGKILL)
        assert os.listdir(runtime_dir) == []  # they ended in order


def test_workers_end_with_the_thread_of_their_loop(runtime_dir: Path) -> None:
    code = """
        import threading
        supervisor = None
        async def begin():
            global supervisor
            supervisor = va.Supervisor()
            await supervisor.add("one", "lavfi:testsrc=size=160x120:rate=25")
            await supervisor.add("two", "lavfi:testsrc=size=160x120:rate=25")
            say(*(worker.pid for worker in supervisor.workers()))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=(begin(),))
        thread.start()
        thread.join()
        time.sleep(60)
    """
    with Child(code) as child:
        assert gone(two_pids(child))


def test_ctrl_c_in_the_terminal_is_for_the_supervisor(runtime_dir: Path) -> None:
    body = """try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.5)
            assert all(worker.last_end is None for worker in supervisor.workers())
            say("in order")
    """
    with Child(program(body, before="import os\nos.setpgid(0, 0)\n"), {}) as child:
        workers = two_pids(child)
        with va.attach("one") as reader:
            reader.recv(10).release()
            os.killpg(child.pid, signal.SIGINT)
            assert child.line() == "in order"
            with pytest.raises(va.ConnectionClosedOK):
                while True:
                    reader.recv(10).release()
        child.wait()
        assert gone(workers)


def test_a_supervisor_that_was_stopped_does_not_blame_its_workers(runtime_dir: Path) -> None:
    body = """while True:
            await asyncio.to_thread(sys.stdin.readline)
            await asyncio.sleep(0.7)
            say(*(worker.pid for worker in supervisor.workers()))
    """
    with Child(program(body), {"hang_timeout": 1}) as child:
        workers = two_pids(child)
        child.signal(signal.SIGSTOP)
        time.sleep(2)
        child.signal(signal.SIGCONT)
        child.tell("")
        assert two_pids(child) == workers
        child.kill()
        assert gone(workers)


def test_a_forked_child_of_the_supervisors_process_has_nothing_to_do_with_the_workers(
    runtime_dir: Path,
) -> None:
    body = """child = os.fork()
        if child == 0:
            supervisor.close()
            del supervisor
            time.sleep(60)
        say(child)
        while True:
            await asyncio.to_thread(sys.stdin.readline)
            await asyncio.sleep(1.7)  # time enough to miss the workers' signs of life
            say(*(worker.pid for worker in supervisor.workers()))
    """
    with Child(program(body), {"hang_timeout": 1}) as child:
        workers = two_pids(child)
        forked = int(child.line())
        try:
            child.tell("")
            assert two_pids(child) == workers
            assert all(map(running, workers))
            child.kill()
            assert gone(workers)
        finally:
            os.kill(forked, signal.SIGKILL)
