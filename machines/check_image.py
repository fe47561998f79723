"""Runs the image of `make image` with podman, as a user would: `make check-image`. As root.

Everything has names of its own, and is removed at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from chroot import require

ROOT = Path(__file__).parents[1]
SECONDS = 60  # for each step
NAME, RINGS = "valkka-check", "valkka-check-rings"
UNIFIED = "/sys/fs/cgroup/unified"
CAMERAS = 4
CONFIG = {
    "web": {"host": "0.0.0.0", "token": "only-for-this-check"},
    "cameras": {f"cam{n}": {"url": f"lavfi:testsrc=size=640x360:rate={10 + 5 * n}"} for n in range(CAMERAS)},
}
READER = """
import asyncio, valkka_async as va
async def read():
    seen = {}
    async with asyncio.timeout(30), va.merge(*(f"cam{n}" for n in range(4))) as cameras:
        async for frame in cameras:
            with frame:
                assert frame.shape == (360, 640, 3)
                seen[frame.source] = seen.get(frame.source, 0) + 1
            if len(seen) == 4 and min(seen.values()) >= 10:
                return
asyncio.run(read())
"""
HEALTH = "import urllib.request as r; r.urlopen('http://127.0.0.1:8088/healthz', timeout=5)"
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", "--memory=600m", "--no-healthcheck")
MAPPED = ("--uidmap=0:100000:65536", "--gidmap=0:100000:65536")


def podman(*words: str, check: bool = True) -> str:
    """Where this machine has control groups of both versions, podman sees the first alone."""
    command = ["podman", *words]
    if Path(UNIFIED).is_dir():
        command = ["unshare", "-m", "sh", "-c", f'umount {UNIFIED}; exec "$@"', "sh", *command]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode and check:
        raise SystemExit(f"podman {' '.join(words)}: status {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


def until(what: Callable[[], bool], words: str) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        if time.monotonic() > end:
            raise SystemExit(f"not within {SECONDS} s: {words}\n{podman('logs', NAME, check=False)}")
        time.sleep(0.2)


def remove() -> None:
    podman("rm", "--force", NAME, check=False)
    podman("volume", "rm", "--force", RINGS, check=False)


def check(image: str, runtime: str, options: tuple[str, ...], folder: Path) -> None:
    rings = f"--volume={RINGS}:/run/valkka-async"
    common = (f"--runtime={runtime}", "--read-only", "--cap-drop=ALL", rings, *LIMITS, *options)
    config = f"--volume={folder / 'cameras.yaml'}:/etc/valkka-async/cameras.yaml:ro"
    podman("run", "--detach", f"--name={NAME}", config, *common, image)

    def live() -> bool:
        status = podman("exec", NAME, "valkka-async", "top", "--once", "--json", check=False)
        return status.count('"live"') >= CAMERAS

    until(live, "the cameras are live")
    podman("exec", NAME, "python3", "-c", HEALTH)
    reader = f"--volume={folder / 'reader.py'}:/reader.py:ro"
    podman("run", "--rm", "--network=none", "--entrypoint=python3", reader, *common, image, "/reader.py")
    about = "id -u; ls -A /dev/shm | wc -l; touch /file 2>/dev/null && echo written"
    if (found := podman("exec", NAME, "sh", "-c", about, check=False)) != "1000\n0":
        raise SystemExit(f"not user 1000, or something in /dev/shm, or a root that can be written: {found}")
    podman("stop", "--time=20", NAME)
    if (status := podman("inspect", "--format={{.State.ExitCode}}", NAME)) != "0":
        raise SystemExit(f"SIGTERM ended it with status {status}:\n{podman('logs', NAME)}")


def main() -> None:
    require({"podman": "podman", "crun": "crun", "runc": "runc"})
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    image = f"valkka-async:{version}"
    if subprocess.run(["podman", "image", "exists", image]).returncode:
        sys.exit(f"there is no image {image}: make image")
    with tempfile.TemporaryDirectory(prefix="valkka-image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "cameras.yaml").write_text(json.dumps(CONFIG))
        (folder / "reader.py").write_text(READER)
        for runtime, options in (("crun", ()), ("runc", ()), ("crun", MAPPED)):
            remove()
            try:
                check(image, runtime, options, folder)
            finally:
                remove()
            print(f"{runtime}{', user numbers mapped' if options else ''}: ok", flush=True)


if __name__ == "__main__":
    main()
