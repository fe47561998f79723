"""CPython without the GIL, compiled from Debian's source, as Debian has none: `make pythons ONLY=3.13t`.

That of the release: mirrors lack the sources of what is newer.
"""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from chroot import Chroot, CommandError, debian
from versions import requirements

VERSION = "3.13t"
SUITE = "trixie"
PACKAGES = (
    *("ca-certificates", "gcc", "git", "libc6-dev", "make", "pkgconf"),
    *("libffi-dev", "libsqlite3-dev", "libssl-dev", "zlib1g-dev"),
    *("autoconf", "automake", "libtool"),  # for uvloop, which has no wheel for it
)
ENV = {"PYTHON_GIL": "1"}  # of the tests
# Most of the others have wheels for a Python with the GIL alone.
NEEDED = ("uvloop", "pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "blockbuster", "hypothesis")


def system(folder: Path) -> Chroot:
    """Made once, in ten minutes. Raises CommandError."""
    there = debian(folder, SUITE, PACKAGES)
    if not (folder / f"usr/local/bin/python{VERSION}").exists():
        apt = folder / "etc/apt"
        (line,) = re.findall(f"^deb (.* {SUITE} .*)$", (apt / "sources.list").read_text(), re.M)
        (apt / "sources.list.d" / "source.list").write_text(f"deb-src {line}\n")
        there.run("apt-get", "-qq", "update")
        fetch = ("apt-get", "-qq", "-oAPT::Sandbox::User=root", "source", "--download-only")
        there.run(*fetch, f"python{VERSION.rstrip('t')}", cwd="/usr/src")
        (archive,) = (path for path in (folder / "usr/src").glob("*.orig.tar.*") if path.suffix != ".asc")
        with tarfile.open(archive) as opened:
            opened.extractall(folder / "usr/src", filter="data")
        (source,) = (path for path in (folder / "usr/src").iterdir() if path.is_dir())
        inside = f"/usr/src/{source.name}"
        there.run("./configure", "--quiet", "--disable-gil", "--disable-test-modules", cwd=inside)
        there.run("make", "--quiet", "-j2", cwd=inside)
        there.run("make", "--quiet", "altinstall", cwd=inside)
    return there


def install(there: Chroot, folder: str) -> None:
    """The package and what its tests need, in .venv there. Raises CommandError."""
    python = ".venv/bin/python"
    there.run(f"python{VERSION}", "-m", "venv", ".venv", cwd=folder)
    # numpy's newest has no wheel for it.
    pip = (python, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--prefer-binary")
    asked = requirements()
    there.run(*pip, "-e", ".", *(f"{name}>={asked[name]}" for name in NEEDED), cwd=folder)


def refused(there: Chroot, folder: str) -> str:
    """A row's note, where the import refuses to be without the GIL. Raises CommandError where it does not."""
    said = there.run(".venv/bin/python", "-c", "import valkka_async", cwd=folder, check=False)
    if "ImportError" not in said or "PYTHON_GIL=1" not in said:
        raise CommandError(f"the import does not refuse a Python without the GIL:\n{said}")
    return "with PYTHON_GIL=1; without it, the import refuses"
