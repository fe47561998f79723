"""README's two commands on a machine that has nothing: `make fresh`.

Chroots of Debian with the packages that README names and no other, made once in .cache/chroots. Each run has
a copy of one, clones this repository there (what is committed), and gives it `make demo` and `make test`,
which takes two cores a quarter of an hour. `make fresh ONLY=sid TESTS=none` runs the demo alone.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import matrix
import trial
from chroot import Chroot, CommandError, copied, debian, require
from pythons import CHROOTS, ROOT, WHAT

SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13", "sid": "Debian sid"}
HOME = "/srv/valkka-async"
SECONDS = 3600  # for the tests


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--only", choices=["", *SUITES], default="", help="this Debian alone")
    options.add_argument("--tests", choices=["all", "none"], default="all")
    args = options.parse_args()
    require({"git": "git"})
    failed = False
    for suite, system in SUITES.items():
        if args.only in ("", suite):
            print(f"{system} ...", flush=True)
            try:
                for row in run(suite, system, args.tests == "all"):
                    print(f"{system}, Python {row.python}, {row.tests}: {row.result}", flush=True)
                    matrix.put([row])
                    failed = failed or bool(row.failed)
            except CommandError as e:
                print(e)
                failed = True
    sys.exit(failed)


def packages() -> tuple[str, ...]:
    """What README says that a Debian needs."""
    said = re.search(r"`apt-get install ([a-z0-9 -]+)`", (ROOT / "README.md").read_text())
    assert said is not None
    return tuple(said[1].split())


def run(suite: str, name: str, tests: bool) -> Iterator[matrix.Row]:
    """One row for each command. Raises CommandError if there is no demo, or no result of the tests."""
    system = copied(debian(CHROOTS / f"fresh-{suite}", suite, packages()))
    clone(system)
    took = system.run("python3", "machines/demo.py", cwd=HOME).strip()
    python, libc, arch, pyav = json.loads(system.run(".venv/bin/python", "-c", WHAT, cwd=HOME))
    about = (name, python, libc, arch, pyav)
    yield matrix.Row(*about, "make demo", 1, 0, 0, f"four cameras after {took} s, from nothing")
    if tests:
        begun = time.monotonic()
        counts = trial.counted(system, HOME, SECONDS, "make", "test")
        minutes = (time.monotonic() - begun) / 60
        yield matrix.Row(*about, "make test", *counts, f"from nothing, in {minutes:.0f} minutes")


def clone(system: Chroot) -> None:
    """By the chroot's own git. A bundle carries the repository there, as this one is not seen from inside."""
    bundle = system.folder / "srv" / "repository.bundle"
    git = ("git", "-C", ROOT)
    subprocess.run([*git, "bundle", "create", "-q", bundle, "HEAD"], check=True)
    system.run("git", "clone", "-q", "/srv/repository.bundle", HOME)
    bundle.unlink()


if __name__ == "__main__":
    main()
