"""A container image of the service, without a registry: `make image`. As root.

Debian by mmdebstrap, the wheel of dist/ and what it needs by pip, made into an image by buildah: in its
storage as valkka-async:VERSION, and in build/ as an archive for `docker load` and `podman load`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from chroot import debian, require

ROOT = Path(__file__).parents[1]
SUITE, PYTHON = "bookworm", "3.11"
USER, UID = "valkka", 1000
CONFIG, RUN, STATE = "/etc/valkka-async", "/run/valkka-async", "/var/lib/valkka-async"
# What nobody reads there.
USELESS = ("var/lib/apt/lists", "var/cache", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale")
# A page that speaks TLS answers this too.
HEALTH = (
    "import socket; s = socket.create_connection(('127.0.0.1', 8088), 5); "
    "s.sendall(b'GET /healthz HTTP/1.0' + bytes((13, 10, 13, 10))); assert s.recv(7) == b'HTTP/1.'"
)


def main() -> None:
    require({"buildah": "buildah"})
    wheel = wheel_of(platform.machine())
    base = debian(ROOT / ".cache/chroots/image", SUITE, ("ca-certificates", "python3"))
    print("making the image ...", flush=True)
    container = run("buildah", "from", "--format=docker", "scratch")
    try:
        tree = Path(run("buildah", "mount", container))
        run("cp", "--archive", f"{base.folder}/.", tree)
        install(wheel, tree)
        for folder in USELESS:
            shutil.rmtree(tree / folder, ignore_errors=True)
        prepare(tree)
        archive = finish(container, wheel.name.split("-")[1])
    finally:
        run("buildah", "rm", container)
    print(f"{archive.relative_to(ROOT)} ({archive.stat().st_size / 1e6:.0f} MB)")


def wheel_of(machine: str) -> Path:
    wheels = sorted((ROOT / "dist").glob(f"valkka_async-*manylinux*{machine}.whl"))
    if not wheels:
        sys.exit(f"there is no wheel for {machine} in dist/: make wheels ONLY=manylinux_2_28_{machine}")
    return wheels[-1]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def install(wheel: Path, tree: Path) -> None:
    """From outside: the image needs neither pip nor a compiler."""
    machine = platform.machine()
    tags = (f"manylinux2014_{machine}", *(f"manylinux_2_{minor}_{machine}" for minor in (17, 28, 34)))
    there = ["--only-binary=:all:", f"--python-version={PYTHON}", *(f"--platform={tag}" for tag in tags)]
    folder = tree / f"usr/local/lib/python{PYTHON}/dist-packages"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-compile")
    run(*pip, *there, f"--target={folder}", f"{wheel}[all]")


def prepare(tree: Path) -> None:
    """The user, its folders, and the program."""
    for name, line in (
        ("passwd", f"{USER}:x:{UID}:{UID}::/nonexistent:/usr/sbin/nologin"),
        ("group", f"{USER}:x:{UID}:"),
    ):
        with open(tree / "etc" / name, "a") as file:
            file.write(line + "\n")
    for folder, mode in ((RUN, 0o700), (STATE, 0o700), (CONFIG, 0o755), (f"{CONFIG}/recordings", 0o750)):
        path = tree / folder.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        os.chown(path, UID, UID)
    program = tree / "usr/local/bin/valkka-async"
    program.write_text('#!/bin/sh\nexec python3 -m valkka_async "$@"\n')
    program.chmod(0o755)


def finish(container: str, version: str) -> Path:
    """Say how it is run, and put it into buildah's storage and into an archive."""
    name = f"valkka-async:{version}"
    run(
        "buildah", "config", f"--user={UID}:{UID}", f"--env=VALKKA_RUNTIME_DIR={RUN}",
        "--env=PYTHONDONTWRITEBYTECODE=1", f"--env=STATE_DIRECTORY={STATE}", "--port=8088",
        f"--volume={RUN}", f"--volume={STATE}", f"--volume={CONFIG}/recordings",
        "--stop-signal=SIGTERM", f"--workingdir={CONFIG}",
        f"--entrypoint={json.dumps(['valkka-async'])}", f"--cmd=run {CONFIG}/cameras.yaml",
        f'--healthcheck=CMD python3 -c "{HEALTH}"', "--healthcheck-interval=30s",
        "--label=org.opencontainers.image.title=valkka-async",
        f"--label=org.opencontainers.image.version={version}", container,
    )  # fmt: skip
    # OCI's own format has no health check; Docker's is understood by all.
    run("buildah", "commit", "--quiet", "--format=docker", container, name)
    archive = ROOT / "build" / f"valkka-async-{version}-image.tar"
    archive.parent.mkdir(exist_ok=True)
    archive.unlink(missing_ok=True)
    run("buildah", "push", "--quiet", name, f"docker-archive:{archive}:{name}")
    return archive


if __name__ == "__main__":
    main()
