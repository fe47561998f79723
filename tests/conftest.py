"""What every test gets: a runtime directory of its own, both event loops, and a check that it left
nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from support.require import missing
from support.rtsp import RtspServer, rtsp_available

# How long an example takes, or to make one up, says more of the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A shell ignores them for what it starts in the background, and so would all that is started here.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


def _debug_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 60  # the machine's speed is not what is tested
    return loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops; uvloop alone for what happens in other processes for the most part."""
    if item.get_closest_marker("one_loop"):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio-debug": _debug_loop, "uvloop": uvloop.new_event_loop}


# A file's tests stay in one process (--dist loadfile). Those that take longest come first, as measured, then
# the folders whose tests mostly wait for other processes, so that all are busy up to the end. (pytest-xdist
# alone would begin with the files of most tests, which are quick ones: hence --no-loadscope-reorder.)
_LONGEST = (
    "test_camera_sound.py",
    "test_run.py",
    "test_demo.py",
    "test_camera_keys.py",
    "test_packaging.py",
    "test_service_page.py",
    "test_camera_supervisor.py",
    "test_camera_inputs.py",
    "test_proof_model.py",
    "test_camera.py",
    "test_quality.py",
    "test_camera_early.py",
    "test_camera_bursts.py",
)
_FOLDERS = ("examples", "cli", "proof", "project", "service", "camera", "record", "support", "ring")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files = {name: number for number, name in enumerate(_LONGEST)}
    folders = {name: number for number, name in enumerate(_FOLDERS)}
    items.sort(
        key=lambda item: (files.get(item.path.name, len(files)), folders.get(item.path.parent.name, 0))
    )


def pytest_collection_finish() -> None:
    """What the tests' modules are made of stays: it need not be looked through at each test's gc.collect(),
    which would take a tenth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def uvloop_is_warm() -> None:
    """Its first loop makes a pair of pipes for the whole process."""
    uvloop.new_event_loop().close()


def _holdings() -> dict[str, list[str]]:
    """What this process holds that a test could have forgotten."""
    descriptors = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the one that lists the directory
            continue
        if not target.endswith((".py", ".log")):
            descriptors.append(target if ":[" not in target else target.split(":")[0])
    shared = ("/memfd:valkka", "/dev/shm/")
    maps = [
        fields[5]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if len(fields := line.split()) > 5 and fields[5].startswith(shared)
    ]
    children = []
    for task in Path("/proc/self/task").iterdir():
        try:
            children += (task / "children").read_text().split()
        except FileNotFoundError:
            pass
    return {
        "descriptors": sorted(descriptors),
        "mappings": sorted(maps),
        "threads": sorted(t.name for t in threading.enumerate()),
        "children": sorted(children),
        # Real-time priority, which an encoder may take for its caller, leaves nothing to other programs. (The
        # 41st field, as proc(5) counts: musl has no sched_getscheduler.)
        "scheduling": [Path("/proc/self/stat").read_text().rpartition(")")[2].split()[38]],
    }


def _surplus(before: dict[str, list[str]]) -> dict[str, list[str]]:
    surplus = {}
    for kind, now in _holdings().items():
        rest = list(before[kind])
        more = [x for x in now if x not in rest or rest.remove(x)]  # type: ignore[func-returns-value]
        if more:
            surplus[kind] = more
    return surplus


@pytest.fixture(autouse=True)
def leaves_nothing_behind(uvloop_is_warm: None) -> Iterator[None]:
    """Descriptors, mappings of shared memory, threads, children and priority are as before the test."""
    before = _holdings()
    yield
    deadline = time.monotonic() + 15
    while True:
        gc.collect()
        surplus = _surplus(before)
        if not surplus or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    if surplus:
        pytest.fail(f"left behind: {surplus}", pytrace=False)


@pytest.fixture(autouse=True)
def runtime_dir(leaves_nothing_behind: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path: a socket's is limited to 107 bytes. Empty again at the end of the test."""
    path = Path(tempfile.mkdtemp(prefix="va-"))
    monkeypatch.setenv("VALKKA_RUNTIME_DIR", str(path))
    state = Path(f"{path}-state")  # which services make when they need it
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    yield path
    shutil.rmtree(state, ignore_errors=True)
    left = os.listdir(path)
    shutil.rmtree(path)
    assert not left, f"left in the runtime directory: {left}"


@pytest.fixture(scope="session", autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """A blocking call in a coroutine of the library fails the test."""
    with blockbuster_ctx("valkka_async") as bb:
        # Local, bounded and once per server or connection: the directory, the lock and the memfd.
        for name in ("os.stat", "os.unlink", "os.mkdir", "os.rename", "os.scandir"):
            if name in bb.functions:
                bb.functions[name].can_block_in(
                    "valkka_async/ring/rendezvous.py", {"runtime_dir", "_take_lock", "servers", "sweep"}
                )
                bb.functions[name].can_block_in(
                    "valkka_async/ring/rendezvous.py",
                    {"_listen", "_identity", "_checked", "close"},
                )
                bb.functions[name].can_block_in("valkka_async/ring/directory.py", {"_modified"})
                bb.functions[name].can_block_in("valkka_async/ring/_looks.py", {"_state"})
        # The kernel answers from memory, and rings seldom grow.
        for name in ("os.stat", "io.TextIOWrapper.read"):
            bb.functions[name].can_block_in("valkka_async/cgroups.py", {"_read", "_folders"})
        for name in ("os.readlink", "io.TextIOWrapper.read"):
            bb.functions[name].can_block_in("valkka_async/camera/workers/spawn.py", {"_link", "_read"})
        bb.functions["io.BufferedReader.read"].can_block_in(
            "valkka_async/camera/source/deadline.py", {"is_ready"}
        )
        # Until exec(): a millisecond or two, which asyncio's own subprocesses take as well.
        bb.functions["os.read"].can_block_in("subprocess.py", {"_execute_child"})
        yield


@pytest.fixture(scope="session")
def shared_rtsp() -> Iterator[RtspServer]:
    if reason := rtsp_available():
        missing(reason)
    with RtspServer(deadline=1800) as server:  # it ends with its standard input, whatever becomes of us
        yield server


@pytest.fixture
def rtsp(shared_rtsp: RtspServer) -> Iterator[RtspServer]:
    """A real RTSP server without mounts. A test may freeze it; one that kills it should start its own."""
    yield shared_rtsp
    if not shared_rtsp.running:
        shared_rtsp.restart()
    shared_rtsp.thaw()
    for path in shared_rtsp.stats():
        shared_rtsp.unmount(path)
