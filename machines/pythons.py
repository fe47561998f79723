"""The tests under each Python that Debian has: `make pythons`.

Chroots of Debian, made once in .cache/chroots, in which the working tree is copied, built and tested. The
newest Python gets all tests, the others those of the ring and of what does not depend on FFmpeg: that takes
two cores half an hour. `make pythons ONLY=3.14 TESTS=all` runs one. The free-threaded one, which is compiled
first, is run by its name alone: ONLY=3.13t.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import free_threaded
import matrix
import trial
from chroot import Chroot, CommandError, debian, require

ROOT = Path(__file__).parents[1]
CHROOTS = ROOT / ".cache" / "chroots"
SCOPES = {
    "few": tuple(
        f"tests/ring/test_{name}.py"
        for name in ("api", "client", "frames", "generations", "gil", "messages", "policies", "storm")
    ),
    "core": ("tests/ring", "tests/record", "tests/test_rates.py", "tests/test_backoff.py"),
    "camera": ("tests/camera",),
    "all": ("tests",),
}
# suite: its name, and what to run there, what costs least first
SYSTEMS = {
    "bookworm": ("Debian 12", {"3.11": "core"}),
    "sid": ("Debian sid", {"3.13": "core", "3.14": "core", "3.15": "all"}),
    "free-threaded": ("Debian 13", {free_threaded.VERSION: "few"}),
}
NEEDED = ("ca-certificates", "gcc", "git", "libc6-dev", "make")
SECONDS = 5400  # for one run
WHAT = """
import json, os, platform
try:
    from av import __version__ as pyav
except ImportError:
    pyav = ""
libc = " ".join(os.confstr("CS_GNU_LIBC_VERSION").split())
print(json.dumps([platform.python_version(), libc, platform.machine(), pyav]))
"""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--only", help="this Python alone, as 3.14")
    options.add_argument("--tests", choices=SCOPES, help="these tests, instead of what is planned")
    options.add_argument("--jobs", default="2", help="processes that run tests")
    args = options.parse_args()
    plan = [
        (suite, system, version, args.tests or tests)
        for suite, (system, versions) in SYSTEMS.items()
        for version, tests in versions.items()
        if args.only == version or (not args.only and version != free_threaded.VERSION)
    ]
    if not plan:
        sys.exit(f"no Debian that is known here has Python {args.only}")
    require({"git": "git"})
    failed = False
    for suite, system, version, tests in plan:
        print(f"Python {version} on {system}: {tests} tests ...", flush=True)
        try:
            row = run(chroot(suite), system, version, tests, args.jobs)
        except CommandError as e:
            print(e)
            failed = True
            continue
        print(f"Python {row.python}, PyAV {row.pyav}: {row.result}", flush=True)
        matrix.put([row])
        failed = failed or bool(row.failed)
    sys.exit(failed)


def chroot(suite: str) -> Chroot:
    if suite == "free-threaded":
        return free_threaded.system(CHROOTS / suite)
    versions = SYSTEMS[suite][1]
    pythons = [f"python{version}-{part}" for version in versions for part in ("venv", "dev")]
    return debian(CHROOTS / suite, suite, (*NEEDED, "python3", *pythons))


def run(system: Chroot, name: str, version: str, tests: str, jobs: str) -> matrix.Row:
    """Raises CommandError if the tests cannot be run."""
    there = f"/src/{version}"
    copy(system.folder / there[1:])
    if tests not in ("core", "few"):
        system.run("tests/system-packages", cwd=there)
    python, env, note = ".venv/bin/python", dict[str, str](), ""
    if version == free_threaded.VERSION:
        free_threaded.install(system, there)
        env, note = free_threaded.ENV, free_threaded.refused(system, there)
    else:
        system.run("make", f"PYTHON=python{version}", ".venv/installed-for-tests", cwd=there)
    options = ("-n", jobs, "--dist", "loadfile")
    counts = trial.tests(system, there, python, SECONDS, *options, *SCOPES[tests], env=env)
    release, libc, arch, pyav = json.loads(system.run(python, "-c", WHAT, cwd=there))
    release += version.lstrip("0123456789.")
    return matrix.Row(name, release, libc, arch, pyav, tests, *counts, note)


def copy(folder: Path) -> None:
    """The working tree, as a repository of its own, which some tests clone. What was built there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    wanted = listed(ROOT, "--cached", "--others", "--exclude-standard")
    for name in listed(folder, "--cached") - wanted:
        (folder / name).unlink(missing_ok=True)
    for name in wanted:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "The working tree")


def listed(folder: Path, *which: str) -> set[str]:
    names = git(folder, "ls-files", "-z", *which).split("\0")
    return {name for name in names if name and (folder / name).exists()}


def git(folder: Path, *command: str) -> str:
    author = ("-c", "user.name=machines", "-c", "user.email=machines@localhost")
    return subprocess.run(
        ["git", *author, *command], cwd=folder, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


if __name__ == "__main__":
    main()
