"""A Debian with a systemd that runs, of its own, on this machine: systemd-nspawn boots a folder.

Needs root. It has its own network, of the loopback alone. All of it ends with `booted`.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chroot import CommandError, output

BOOT_SECONDS = 120
END_SECONDS = 60
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd=/")


@dataclass(frozen=True)
class Machine:
    pid: int  # of its first process, as this machine counts

    def run(self, *command: str, check: bool = True) -> str:
        """What the program wrote. Raises CommandError if it failed and ``check``."""
        env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8", "HOME": "/root"}
        return output(("nsenter", f"--target={self.pid}", *NAMESPACES), command, env, check)

    def until(self, what: Callable[[], bool], seconds: float, words: str) -> float:
        """Wait, and return for how long. Raises CommandError."""
        begun = time.monotonic()
        while not what():
            if time.monotonic() > begun + seconds:
                raise CommandError(f"not within {seconds} s: {words}")
            time.sleep(0.2)
        return time.monotonic() - begun


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Raises CommandError if its systemd does not come up."""
    # This machine's first process may be no systemd, which would be asked for a unit and a name.
    command = ("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network")
    with subprocess.Popen(
        [*command, "--console=pipe", f"--directory={folder}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield _up(process)
        finally:
            process.send_signal(signal.SIGTERM)  # which it takes for: power off
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _up(process: subprocess.Popen[str]) -> Machine:
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            assert process.stdout is not None
            raise CommandError(f"systemd-nspawn: status {process.returncode}\n{process.stdout.read()}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            machine = Machine(int(children[0]))
            said = machine.run("systemctl", "is-system-running", check=False).strip()
            if said in ("running", "degraded"):
                return machine
        time.sleep(0.5)
    raise CommandError(f"systemd is not up within {BOOT_SECONDS} s")
