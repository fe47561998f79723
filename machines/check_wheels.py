"""The wheels of dist/ in a system without a compiler: the tests of rings: `make check-wheels`.

Chroots of Debian, and one with musl, made once in .cache/chroots; those of aarch64 are emulated, so that only
some of the tests end in time there.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import matrix
import musl
import trial
from chroot import Chroot, CommandError, debian, emulate, require
from pythons import CHROOTS, ROOT, listed
from versions import requirements

DIST = ROOT / "dist"
SECONDS = 1800  # for the tests of one wheel under one Python
INSTALL_SECONDS = 20  # what is promised, with all extras, where nothing is emulated
# What the tests of rings need.
NEEDED = ("pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "blockbuster", "hypothesis")
ALL = ("tests/ring",)
EMULATED = tuple(
    f"tests/ring/test_{name}.py"
    for name in ("api", "frames", "generations", "lossless", "messages", "policies", "client")
)
MUSL_EXTRA = "service"  # zenoh, for [link], has no wheels for musl
WHAT = """
import av, json, platform
from valkka_async.camera.pixels import _pixels
from valkka_async.camera.source import _rtp
from valkka_async.ring import _rows, _shm
here = platform.python_version(), platform.libc_ver(), platform.machine()
print(json.dumps([*here, av.__version__, [one.__file__ for one in (_shm, _rows, _pixels, _rtp)]]))
"""


@dataclass(frozen=True)
class System:
    name: str
    wheel: str  # the end of its name
    pythons: tuple[str, ...]
    make: Callable[[], Chroot]
    arch: str = "x86_64"
    extra: str = "all"

    @property
    def emulated(self) -> bool:
        return self.arch != platform.machine()


def plain(suite: str, *pythons: str, arch: str = "") -> Callable[[], Chroot]:
    """Debian with these Pythons and no compiler."""
    packages = ("ca-certificates", *(f"python{version}-venv" for version in pythons))
    name = "-".join(filter(None, ("plain", suite, arch)))
    return lambda: debian(CHROOTS / name, suite, packages, arch)


def with_musl(arch: str) -> Callable[[], Chroot]:
    return lambda: musl.system(CHROOTS / f"musl-{arch}", arch)


SYSTEMS = (
    System("Debian 12", "manylinux_2_28_x86_64", ("3.11",), plain("bookworm", "3.11")),
    System(
        "Debian sid",
        "manylinux_2_28_x86_64",
        ("3.13", "3.14", "3.15"),
        plain("sid", "3.13", "3.14", "3.15"),
    ),
    System("musl", "musllinux_1_2_x86_64", (musl.VERSION,), with_musl("x86_64"), extra=MUSL_EXTRA),
    System(
        "Debian 12", "manylinux_2_28_aarch64", ("3.11",), plain("bookworm", "3.11", arch="arm64"), "aarch64"
    ),
    System("musl", "musllinux_1_2_aarch64", (musl.VERSION,), with_musl("aarch64"), "aarch64", MUSL_EXTRA),
)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--only", default="", help="the wheels with this in their names: aarch64, musl, ...")
    options.add_argument("--python", default="", help="this Python alone, as 3.14")
    options.add_argument("--jobs", default="2", help="processes that run tests")
    args = options.parse_args()
    plan = [
        (system, version)
        for system in SYSTEMS
        for version in system.pythons
        if args.only in system.wheel and args.python in ("", version)
        # ONLY=musl alone: the systems are compiled first, which takes twenty minutes
        if system.name != "musl" or "musl" in args.only
    ]
    if not plan:
        sys.exit("no system that is known here is meant")
    require({"git": "git"})
    for arch in {system.arch for system, _ in plan if system.emulated}:
        emulate(arch)
    failed = False
    for system, version in plan:
        what = f"{system.name}, {system.arch}, Python {version}"
        print(f"{what} ...", flush=True)
        try:
            row, slow = check(system, version, args.jobs)
        except CommandError as e:
            print(e)
            failed = True
            continue
        print(f"{what}: {row.result}", flush=True)
        matrix.put([row])
        failed = failed or bool(row.failed) or slow
    sys.exit(failed)


def check(system: System, version: str, jobs: str) -> tuple[matrix.Row, bool]:
    """And whether the wheel took too long to install. Raises CommandError."""
    (wheel,) = DIST.glob(f"*-{system.wheel}.whl")
    there = system.make()
    folder = there.folder / "src" / f"wheel-{version}"
    inside = f"/src/wheel-{version}"
    shutil.rmtree(folder, ignore_errors=True)
    for name in listed(ROOT, "--cached", "--others", "--exclude-standard"):
        if name.startswith("tests/") or name == "pyproject.toml":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copy2(wheel, folder)
    if said := there.run("sh", "-c", "command -v cc gcc clang tcc", check=False):
        raise CommandError(f"there is a compiler: {said}")
    python = f"{inside}/venv/bin/python"
    there.run(f"python{version}", "-m", "venv", f"{inside}/venv")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    seconds = []
    begun = time.monotonic()
    for extra in ("", f"[{system.extra}]"):
        there.run(*pip, "--no-cache-dir", "--only-binary=:all:", f"./{wheel.name}{extra}", cwd=inside)
        seconds.append(time.monotonic() - begun)
    asked = requirements()
    there.run(*pip, *(f"{name}>={asked[name]}" for name in NEEDED))
    release, glibc, arch, pyav, modules = json.loads(there.run(python, "-c", WHAT, cwd=inside))
    for module in modules:
        if not module.startswith(f"{inside}/venv/") or ".abi3." not in module:
            raise CommandError(f"this is not the wheel's: {module}")
    slower = ("--timeout", "600", *EMULATED) if system.emulated else ALL
    counts = trial.tests(there, inside, python, SECONDS, "-n", jobs, "--dist", "loadfile", *slower)
    note = f"pip takes {seconds[0]:.0f} s, with [{system.extra}] {seconds[1]:.0f} s"
    if system.emulated:
        note += ", emulated; some of the tests"
    libc = " ".join(glibc) if all(glibc) else musl.libc(there, arch)  # which Python does not know
    row = matrix.Row(system.name, release, libc, arch, pyav, "wheel", *counts, note)
    return row, seconds[-1] > INSTALL_SECONDS and not system.emulated


if __name__ == "__main__":
    main()
