"""Other systems on this one: a folder with a system in it, and programs that run there.

Needs root. A program has its own mounts and processes; all of them end with it. It uses this machine's
network, certificates and pip configuration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Run by sh with the folder, then the command. The mounts are the namespace's, and end with it.
ENTER = """
set -e
root=$1; shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then
        mkdir -p "$root${file%/*}"
        [ -e "$root$file" ] || : > "$root$file"
        mount --bind "$file" "$root$file"
    fi
done
# Not exec: process 1 gets all orphans, and neither timeout nor pytest can be that. It has a session of its
# own, as everywhere: else the kernel would take no group of processes for orphaned.
setsid --wait chroot "$root" "$@"
exit $?
"""
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"  # which other distributions may lack
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
PASSED_ON = ("PIP_", "SSL_CERT_FILE", "CI", "http_proxy", "https_proxy", "HTTPS_PROXY")


class CommandError(Exception):
    """A program failed in a chroot. Its text is what the program wrote."""


def output(enter: Sequence[str | Path], command: tuple[str, ...], env: dict[str, str], check: bool) -> str:
    """What a program wrote, run by way of ``enter``. Raises CommandError if it failed and ``check``."""
    done = subprocess.run(
        [*enter, *command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode and check:
        raise CommandError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
    return done.stdout


@dataclass(frozen=True)
class Chroot:
    folder: Path

    def run(
        self, *command: str, cwd: str = "/", env: dict[str, str] | None = None, check: bool = True
    ) -> str:
        """What the program wrote. Raises CommandError if it failed and ``check``."""
        environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        environment |= {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
        }
        there = ("sh", "-c", 'cd "$1"; shift; exec "$@"', "sh", cwd)
        enter = (*NAMESPACES, "sh", "-c", ENTER, "sh", self.folder, *there)
        return output(enter, command, environment | (env or {}), check)


def debian(folder: Path, suite: str, packages: tuple[str, ...], arch: str = "") -> Chroot:
    """A Debian system with these packages; made once. ``arch`` as Debian names it; "": this machine's."""
    if not (folder / "etc/debian_version").exists():
        require({"mmdebstrap": "mmdebstrap", KEYS: "debian-archive-keyring"})
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
        if arch:
            command.append(f"--architectures={arch}")
        # A mirror that stands still has release files past their date.
        command += ['--aptopt=Acquire::Check-Valid-Until "false"', suite]
        fresh = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*command, str(fresh)], check=True)
        fresh.rename(folder)
    return Chroot(folder)


def copied(made: Chroot) -> Chroot:
    """One as it was made, to be changed, in a folder beside it. The former one is removed."""
    fresh = Chroot(made.folder.with_name(f"{made.folder.name}.run"))
    shutil.rmtree(fresh.folder, ignore_errors=True)
    subprocess.run(["cp", "--archive", made.folder, fresh.folder], check=True)
    return fresh


def require(programs: dict[str, str]) -> None:
    """Installs the packages of absent programs, or files. Ends this one in words if it cannot."""
    if os.geteuid() != 0:
        sys.exit("this makes chroots and mounts, so it needs root: sudo make ...")
    absent = [
        package
        for program, package in programs.items()
        if not (shutil.which(program) or Path(program).is_file())
    ]
    if not absent:
        return
    print(f"installing {', '.join(absent)} ...", flush=True)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *absent]
    for command in (install, ["apt-get", "update", "-qq"], install):
        done = subprocess.run(
            command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL
        )
        if command is install and done.returncode == 0:
            return
    sys.exit(f"this machine lacks {', '.join(absent)}, and they could not be installed")


def emulate(arch: str) -> None:
    """Have programs of this architecture, as uname has it, run here. They are found by the kernel."""
    require(
        {
            f"qemu-{arch}-static": "qemu-user-static",
            "update-binfmts": "binfmt-support",
            "arch-test": "arch-test",
        }
    )
    known = Path("/proc/sys/fs/binfmt_misc")
    if not (known / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "none", known], check=True)
    if not (known / f"qemu-{arch}").exists():
        subprocess.run(["update-binfmts", "--enable", f"qemu-{arch}"], check=True)
