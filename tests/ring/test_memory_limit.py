"""A ring that would reach the limit of its control group says so; the kernel would kill for the page."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from support.require import missing
from support.until import wait_for
from valkka_async.cgroups import Cgroups, has_room

MB = 1 << 20
PROGRAM = """
    import sys
    import numpy as np
    import valkka_async as va
    from valkka_async.cgroups import Cgroups

    large, small = np.zeros((1000, 1000, 3), np.uint8), np.zeros((100, 100, 3), np.uint8)
    with open(sys.argv[1], "w") as group:
        group.write("0")
    before = Cgroups().memory()[1]
    with va.serve("s", slots=200) as server, va.attach("s", policy="lossless") as reader:
        published = 0
        try:
            while server.publish(large):
                published += 1
        except va.RingMemoryError as e:
            assert "control group" in str(e), e
        else:
            sys.exit(f"{published} frames, and no error")
        assert published >= before // large.nbytes - 8, (published, before)
        # What was published is there, nothing is torn, and the ring goes on with the slots that it has.
        for _ in range(published):
            reader.recv(5).release()
        for _ in range(3):
            assert server.publish(large)
            reader.recv(5).release()
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(small)
        reader.recv(5).release()
    print("alive")
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """The tasks file of a memory group of 100 MB."""
    for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
        folder = top / f"valkka-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
            limit = next(
                folder / name for name in ("memory.max", "memory.limit_in_bytes") if (folder / name).exists()
            )
            limit.write_text(str(100 * MB))
        except (OSError, StopIteration):
            if folder.exists():
                folder.rmdir()
            continue
        try:
            yield folder / "cgroup.procs"
        finally:
            wait_for(partial(_gone, folder))
        return
    missing("control groups for memory: run as root, in a container with them writable")


def _gone(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # a process that was killed is on its way out
        return False
    return True


def test_a_ring_never_reaches_the_limit(group: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(group)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def machine(folder: Path, version: int, *, used: int, swap_free: int = 0, **files: object) -> Cgroups:
    """A process of a machine where a group of 100 MB is mounted."""
    top, proc = folder / "top", folder / "proc" / "self"
    (top / "g").mkdir(parents=True)
    proc.mkdir(parents=True)
    kind, number, controllers = ("cgroup2", "0", "") if version == 2 else ("cgroup", "5", "memory")
    (proc / "cgroup").write_text(f"{number}:{controllers}:/g\n")
    (proc / "mountinfo").write_text(f"30 25 0:27 / {top} rw - {kind} {kind} rw,memory\n")
    (proc.parent / "meminfo").write_text(f"MemTotal: 1000 kB\nSwapFree: {swap_free // 1024} kB\n")
    names = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    for name, value in zip(names, (100 * MB, used), strict=True):
        (top / "g" / name).write_text(f"{value}\n")
    for name, value in files.items():
        (top / "g" / f"memory.{name.replace('_', '.')}").write_text(f"{value}\n")
    return Cgroups(proc)


@pytest.mark.parametrize("version", [1, 2])
def test_what_the_kernel_can_take_back_is_room(version: int, tmp_path: Path) -> None:
    there = machine(
        tmp_path, version, used=90 * MB, stat=f"inactive_file {20 * MB}\nactive_file {10 * MB}\nanon 5"
    )
    assert there.memory() == (100 * MB, 40 * MB)
    assert has_room(30 * MB, there) and not has_room(38 * MB, there)


@pytest.mark.parametrize(
    ("most", "left"), [("max", 60 * MB), (str(20 * MB), 25 * MB), ("0", 10 * MB)], ids=["all", "some", "none"]
)
def test_what_may_be_swapped_out_is_room(most: str, left: int, tmp_path: Path) -> None:
    there = machine(
        tmp_path, 2, used=90 * MB, swap_free=50 * MB, swap_max=most, swap_current=5 * MB if most != "0" else 0
    )
    assert there.memory() == (100 * MB, left)


def test_without_a_limit_there_is_room(tmp_path: Path) -> None:
    there = machine(tmp_path, 2, used=90 * MB)
    (tmp_path / "top" / "g" / "memory.max").write_text("max\n")
    assert there.memory() is None and has_room(1 << 40, there)
    assert has_room(1 << 40, Cgroups(tmp_path / "nothing"))
