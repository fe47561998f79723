"""The files of a release, in dist/: `make wheels`. An sdist, and from it a wheel for each of TARGETS.

A wheel has modules of CPython's limited API: one serves each Python from 3.11 on. Zig's C compiler makes them
all here: it has the headers and the symbols of each glibc and of musl for each architecture.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import inspection

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
# What a wheel is tagged with: Zig's name of the machine.
TARGETS = {
    "manylinux_2_28_x86_64": "x86_64-linux-gnu.2.28",
    "manylinux_2_28_aarch64": "aarch64-linux-gnu.2.28",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
}
GLIBC = r"manylinux_(\d+)_(\d+)_(\w+)"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument(
        "--only", default="", help="the targets with this in their names: aarch64, musl, ..."
    )
    options.add_argument("--tag", default="", help="refuse, unless this tag names the version: v1.2.3")
    args = options.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if args.tag not in ("", f"v{version}"):
        sys.exit(f"pyproject.toml says version {version}: tag it v{version}, not {args.tag}")
    tags = [tag for tag in TARGETS if args.only in tag]
    if not tags:
        sys.exit(f"no target has {args.only!r} in its name: {', '.join(TARGETS)}")
    DIST.mkdir(exist_ok=True)
    for old in DIST.glob("*.tar.gz"):
        old.unlink()
    build("--sdist", str(ROOT))
    (sdist,) = DIST.glob("*.tar.gz")
    print(sdist.relative_to(ROOT), flush=True)
    wrong = inspection.complaints(sdist)
    for tag in tags:
        for old in DIST.glob(f"*-{tag}.whl"):
            old.unlink()
        with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
            cross_build(sdist, tag, Path(folder))
        (wheel,) = DIST.glob(f"*-{tag}.whl")
        print(wheel.relative_to(ROOT), flush=True)
        wrong += inspection.complaints(wheel)
        audit(wheel, tag)
    if wrong:
        sys.exit("\n".join(wrong))


def cross_build(sdist: Path, tag: str, folder: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    headers = python_headers(folder / "include")
    cc = compiler(TARGETS[tag])
    architecture = tag.removeprefix("manylinux_2_28_").removeprefix("musllinux_1_2_")
    environment = {
        "VALKKA_ABI3": "1",
        "CC": cc,
        "CFLAGS": f"-I{headers} -g0",
        "LDSHARED": f"{cc} -shared -s",
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture}",  # what setuptools takes this machine for
    }
    build("--wheel", f"--config-setting=--build-option=--plat-name={tag}", str(source), **environment)


def zig() -> Path:
    package = find_spec("ziglang")
    assert package is not None and package.origin is not None
    return Path(package.origin).with_name("zig")


def compiler(target: str) -> str:
    return f"{zig()} cc -target {target}"


def python_headers(folder: Path) -> Path:
    """This Python's headers alone: beside them may be those of this machine's C library.

    The limited API is the same on all 64-bit Linux, and so is what numpy's headers say of it.
    """
    shutil.copytree(sysconfig.get_path("include"), folder)
    shutil.copy(sysconfig.get_config_h_filename(), folder)  # Debian's is elsewhere, by architecture
    return folder


def build(*arguments: str, **environment: str) -> None:
    """With what is installed here: pyproject.toml's requirements of a build."""
    when = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    ).stdout.strip()
    run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST), *arguments],
        {"SOURCE_DATE_EPOCH": when, **environment},  # the same source gives the same bytes
    )


def audit(wheel: Path, tag: str) -> None:
    """What others' programs say of it: no symbol but those of the stable ABI, and of the named libc."""
    run([sys.executable, "-m", "abi3audit", "--strict", str(wheel)])
    if tag.startswith("musllinux"):
        return  # auditwheel would look for musl here; `make check-wheels` runs it with one
    said = run([sys.executable, "-m", "auditwheel", "show", str(wheel)])
    named, asked = re.search(f'"{GLIBC}"', said), re.fullmatch(GLIBC, tag)
    assert asked is not None
    if named is None or named[3] != asked[3] or release(named) > release(asked):
        sys.exit(f"{wheel.name} is not what it says:\n{said}")


def release(tag: re.Match[str]) -> tuple[int, int]:
    return int(tag[1]), int(tag[2])


def run(command: Iterable[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [*command],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
