"""A system with musl in place of glibc, as Alpine is.

Debian's busybox, the musl of its newest release, and CPython from its source. Zig compiles it, for other
architectures too. Needs Python 3.11 here, which a build for another machine runs.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import wheels
from chroot import Chroot, CommandError, debian

VERSION = "3.11"  # bookworm's
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
SUITE = "bookworm"
NEWEST = "sid"  # PyAV's wheels need musl 1.2.4, for its relative relocations (DT_RELR)


def system(folder: Path, arch: str) -> Chroot:
    """Made once, in minutes. Raises CommandError."""
    if not (folder / "usr/bin/python3").exists():
        fresh, work = (folder.with_name(f"{folder.name}.{what}") for what in ("new", "build"))
        for old in (fresh, work):
            shutil.rmtree(old, ignore_errors=True)
            old.mkdir(parents=True)
        _fetch(work, arch)
        _base(fresh, work, arch)
        _python(fresh, work, arch)
        fresh.rename(folder)
        shutil.rmtree(work)
    return Chroot(folder)


def _fetch(work: Path, arch: str) -> None:
    """Packages and sources, into the folder, by a Debian's own apt: this machine may be none."""
    there = debian(work.with_name(f"sources-{SUITE}"), SUITE, ("ca-certificates",))
    apt = there.folder / "etc/apt"
    # Of the release itself: mirrors may lack the sources of what came later.
    (line,) = re.findall(f"^deb (.* {SUITE} .*)$", (apt / "sources.list").read_text(), re.M)
    newest = line.replace(f" {SUITE} ", f" {NEWEST} ")
    (apt / "sources.list.d" / "more.list").write_text(f"deb-src {line}\ndeb {newest}\n")
    options = {
        "APT::Architectures": DEBIAN[arch],
        "APT::Architecture": DEBIAN[arch],
        "APT::Sandbox::User": "root",
    }
    command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    there.run(*command, "update")
    fetched = there.folder / "fetched"
    shutil.rmtree(fetched, ignore_errors=True)
    fetched.mkdir()
    there.run(*command, "download", f"busybox-static/{SUITE}", f"musl/{NEWEST}", cwd="/fetched")
    sources = (f"python{VERSION}", "zlib", "libffi", "openssl", "sqlite3")
    there.run(*command, "source", "--download-only", *sources, cwd="/fetched")
    for file in fetched.iterdir():
        shutil.move(file, work / file.name)


def libc(there: Chroot, arch: str) -> str:
    """As "musl 1.2.6": what the loader says of itself."""
    said = there.run(f"/lib/ld-musl-{arch}.so.1", check=False)
    found = re.search(r"^Version (\S+)", said, re.M)
    assert found is not None, said
    return f"musl {found[1]}"


def _base(root: Path, work: Path, arch: str) -> None:
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    for package in work.glob("*.deb"):
        _run(work, "dpkg-deb", "-x", str(package), str(root))
    for name in ("dev", "etc", "proc", "root", "tmp", "usr/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for program in ("sh", "env", "cat", "ls", "timeout", "true", "sleep"):
        (root / "bin" / program).symlink_to("busybox")
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")


def _python(root: Path, work: Path, arch: str) -> None:
    for archive in sorted(path for path in work.glob("*.orig.tar.*") if path.suffix != ".asc"):
        with tarfile.open(archive) as opened:
            opened.extractall(work, filter="data")
    host, libraries = f"{arch}-linux-musl", work / "libraries"
    tools = {
        "CC": wheels.compiler(host),
        "AR": f"{wheels.zig()} ar",
        "RANLIB": f"{wheels.zig()} ranlib",
        "READELF": _found("readelf"),  # with its path: CPython asks for the target's own, and any will do
    }
    target = (f"--host={host}", f"--build={os.uname().machine}-linux-gnu")
    zlib, libffi, python = (_one(work, name) for name in ("zlib-*", "libffi-*", "Python-*"))
    # It would take this machine's own headers, by what dpkg and the compiler say, and name modules for this
    # machine's C library.
    _replace(python / "setup.py", r"self.add_(multiarch|cross_compiling)_paths\(\)", "pass")
    _replace(python / "configure", r'case "\$build_os" in\n  linux-musl', 'case "$host_os" in\n  linux-musl')
    flags = {"CFLAGS": "-O1 -fPIC", **tools}
    _run(zlib, "./configure", "--static", f"--prefix={libraries}", **flags)
    _run(zlib, "make", "-j2", "libz.a", **flags)
    _run(zlib, "make", "install", **flags)
    # And the shared one, which PyAV's wheels take from the system.
    shared = ("-shared", "-Wl,--whole-archive", "libz.a", "-Wl,-soname,libz.so.1")
    _run(zlib, *tools["CC"].split(), *shared, "-o", f"{root}/lib/{host}/libz.so.1")
    _run(
        libffi,
        "./configure",
        *target,
        "--disable-shared",
        "--disable-docs",
        "--disable-exec-static-tramp",
        f"--prefix={libraries}",
        **flags,
    )
    _run(libffi, "make", "-j2", "install")
    _openssl(_one(work, "openssl-*"), libraries, arch, tools)
    sqlite = _one(work, "sqlite3-*")  # which blockbuster needs, for the tests
    _run(
        sqlite,
        "./configure",
        *target,
        "--disable-shared",
        "--disable-tcl",
        "--disable-readline",
        f"--prefix={libraries}",
        **flags,
    )
    _run(sqlite, "make", "lib_install")
    shutil.copy(sqlite / "sqlite3.h", libraries / "include")
    _run(
        python,
        *("./configure", *target, "--prefix=/usr", f"--with-build-python={_build_python()}"),
        *(
            f"--with-openssl={libraries}",
            "--without-ensurepip",
            "--disable-test-modules",
            "ac_cv_file__dev_ptmx=yes",
            "ac_cv_file__dev_ptc=no",
        ),
        **tools,
        # Without -fPIC a program has an environ of its own, and musl its __environ: those should be one.
        OPT="-O1 -fPIC -Wno-date-time",
        CPPFLAGS=f"-I{libraries}/include",
        LDFLAGS=f"-L{libraries}/lib -dynamic",
        PKG_CONFIG="false",
        ac_cv_buggy_getaddrinfo="no",
        ac_cv_func_preadv2="no",  # Zig's musl has them, Debian's is older
        ac_cv_func_pwritev2="no",
    )
    _run(python, "make", "-j2")
    _run(python, "make", "install", f"DESTDIR={root}", "COMPILEALL_OPTS=-j0")


def _openssl(source: Path, prefix: Path, arch: str, tools: dict[str, str]) -> None:
    """What Python's ssl, pip and uvloop need."""
    options = ("no-shared", "no-tests", "no-engine", "no-dso", "no-module", "no-asm")
    place = (f"--prefix={prefix}", "--libdir=lib", "--openssldir=/etc/ssl")
    _run(source, "perl", "./Configure", f"linux-{arch}", "-fPIC", *place, *options, **tools)
    _run(source, "make", "-j2", "build_libs")
    _run(source, "make", "install_dev")


def _replace(file: Path, pattern: str, text: str) -> None:
    changed, count = re.subn(pattern, text, file.read_text())
    if not count:
        raise CommandError(f"{file} is not what was expected: no {pattern}")
    file.write_text(changed)


def _one(folder: Path, pattern: str) -> Path:
    (found,) = (path for path in folder.glob(pattern) if path.is_dir())
    return found


def _build_python() -> str:
    mine = ".".join(platform.python_version_tuple()[:2]) == VERSION
    return sys.executable if mine else _found(f"python{VERSION}")


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise CommandError(f"{program} is needed here, to compile CPython {VERSION} for musl")
    return path


def _run(folder: Path, *command: str, **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-5000:]}")
