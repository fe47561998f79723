# SPDX-License-Identifier: MIT
"""Plants each mutant of the list (those named, or all) in a copy of the tree, and runs the tests that should
notice.

A verdict is remembered in build/mutants/ while the mutant, its file and its tests stay as they are, so a run
may be interrupted and goes on later.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

import numpy
from listed import ROOT, Mutant, complaints, read_all

VERDICTS = ROOT / "build" / "mutants" / "verdicts.json"
MODULE = f"valkka_async/ring/_shm{sysconfig.get_config_var('EXT_SUFFIX')}"
SOURCE = "_shm/_shm.pyx"
COPIED = ("_shm", "_rows", "_pixels", "valkka_async", "tests", "proof", "examples")
KILLED, SURVIVED, ERROR = "killed", "survived", "error"
TESTS_FAILED, TESTS_PASSED = 1, 0  # pytest's exit statuses
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)

Verdict = tuple[str, str]  # and what there is to say about it


class Bench:
    """A copy of the tree, in which one mutant at a time is planted."""

    def __init__(self, place: Path, seconds: float) -> None:
        self.tree = place / "tree"
        self._seconds = seconds
        self._temporary = place / "tmp"
        self._temporary.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._planted = 0
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *COPIED],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
        modules = [str(path.relative_to(ROOT)) for path in (ROOT / "valkka_async").rglob("*.so")]
        for name in [*filter(None, listed.split("\0")), *modules, "pyproject.toml", "setup.py"]:
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)

    def judge(self, mutant: Mutant) -> Verdict:
        """Plant it, test, take it out again."""
        file, module = self.tree / mutant.file, self.tree / MODULE
        text, status = file.read_text(), file.stat()
        file.write_text(text.replace(mutant.before, mutant.after))
        # Compiled Python is told from its source by size and second: each mutant has a second of its own.
        self._planted += 1
        os.utime(file, (status.st_mtime + self._planted,) * 2)
        try:
            if mutant.compiled and any(not test.startswith("tests/proof/") for test in mutant.tests):
                if said := self._compile(again=mutant.file.endswith((".pyx", ".pxi", ".pxd"))):
                    return ERROR, f"does not compile: {said}"
            return self.test(mutant.tests)
        finally:
            file.write_text(text)
            os.utime(file, (status.st_mtime,) * 2)
            shutil.copy2(ROOT / MODULE, module)

    def test(self, tests: Iterable[str]) -> Verdict:
        """Run tests up to the first that fails. Survived: none did."""
        status, said = self._pytest(self._seconds, "-x", *tests)
        if status is None:
            return KILLED, f"no end within {self._seconds:g} s"
        if status == TESTS_PASSED:
            return SURVIVED, ""
        if status == TESTS_FAILED and (failed := _FAILED.search(said)):
            return KILLED, failed[1]
        if status < 0 and -status != signal.SIGKILL:  # by us, who were interrupted, or for want of memory
            return KILLED, f"the tests' process died of {signal.Signals(-status).name}"
        return ERROR, f"pytest ended with status {status}: {said[-1500:]}"

    def fails_anyway(self, tests: Iterable[str], jobs: int) -> str:
        """What fails with no mutant at all; "" if nothing does."""
        status, said = self._pytest(20 * self._seconds, "-n", str(jobs), "--dist", "loadfile", *tests)
        return "" if status == TESTS_PASSED else ", ".join(_FAILED.findall(said)) or said[-1500:]

    def _pytest(self, seconds: float, *arguments: str) -> tuple[int | None, str]:
        options = ["-q", "-p", "no:cacheprovider", "--timeout", "60"]
        return self._run([sys.executable, "-m", "pytest", *options, *arguments], seconds)

    def _compile(self, *, again: bool) -> str:
        """As setup.py does, but sooner. Whatever it has to complain of."""
        generated = self.tree / "_shm.c"
        if again or not generated.exists():
            status, said = self._run(
                [sys.executable, "-m", "cython", "-I", "_shm", "--module-name", "valkka_async.ring._shm",
                 "-o", str(generated), SOURCE], 120,
            )  # fmt: skip
            if status:
                return said
        includes = ["_shm", numpy.get_include(), sysconfig.get_path("include")]
        status, said = self._run(
            [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-std=c11", "-O1", "-w",
             "-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION", *(f"-I{path}" for path in includes),
             str(generated), "-o", MODULE], 120,
        )  # fmt: skip
        if again:
            generated.unlink()
        return said if status else ""

    def _run(self, command: list[str], seconds: float) -> tuple[int | None, str]:
        """Exit status (None: it had to be ended) and what it said. Nothing that it started stays."""
        env = {**os.environ, "PYTHONPATH": str(self.tree), "TMPDIR": str(self._temporary)}
        with tempfile.TemporaryFile() as said:
            self._process = process = subprocess.Popen(
                command, cwd=self.tree, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip
            fd = os.pidfd_open(process.pid)
            try:
                ended = bool(select.select([fd], [], [], seconds)[0])
            finally:
                os.close(fd)
                self.stop()
            status = process.wait()
            said.seek(0)
            return (status if ended else None), said.read().decode(errors="replace")

    def stop(self) -> None:
        """End what it runs, as long as that was not waited for: the group is its own."""
        process = self._process
        if process is not None and process.returncode is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def fingerprint(mutant: Mutant) -> str:
    """Of all that a verdict depends on, as far as it is likely to change."""
    files = {mutant.file, *(test.partition("::")[0] for test in mutant.tests)}
    parts = [repr(mutant), *((ROOT / name).read_text() for name in sorted(files))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_right(mutant: Mutant, verdict: str) -> bool:
    return verdict == (SURVIVED if mutant.survives else KILLED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", metavar="TEXT", help="with this in name or file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--seconds", type=float, default=120, help="until the tests of one are ended")
    parser.add_argument("--again", action="store_true", help="forget the verdicts of earlier runs")
    given = parser.parse_args()

    mutants = read_all()
    if wrong := complaints(mutants):
        print("\n".join(wrong))
        return 1
    if given.only:
        mutants = [m for m in mutants if any(text in m.name or text in m.file for text in given.only)]
        if not mutants:
            print("no mutant is called that")
            return 1
    known: dict[str, Verdict] = {}
    if VERDICTS.exists():
        known = {key: (verdict[0], verdict[1]) for key, verdict in json.loads(VERDICTS.read_text()).items()}
    keys = {m: fingerprint(m) for m in mutants}
    began = time.monotonic()
    waiting = {m: key for m, key in keys.items() if given.again or key not in known}
    if waiting and (failed := look(waiting, known, given.jobs, given.seconds)):
        print(f"these fail without any mutant: {failed}")
        return 1

    verdicts = [(m, *known[key]) for m, key in keys.items()]
    print()
    for mutant, verdict, _ in verdicts:
        if mutant.survives and verdict == SURVIVED:
            print(f"survives, and may: {mutant.name}: {mutant.survives}")
    wrong = [f"{verdict}: {m.name}: {said}" for m, verdict, said in verdicts if not is_right(m, verdict)]
    print("".join(f"WRONG: {line}\n" for line in wrong), end="")
    killed = sum(verdict == KILLED for _, verdict, _ in verdicts)
    print(
        f"{len(mutants)} mutants: {killed} killed, {len(mutants) - killed} not, "
        f"{len(wrong) or 'nothing'} wrong; {len(waiting)} looked at in {time.monotonic() - began:.0f} s"
    )
    return 1 if wrong else 0


def look(mutants: dict[Mutant, str], known: dict[str, Verdict], jobs: int, seconds: float) -> str:
    """Judge mutants, into ``known`` by their fingerprints, and into the file. Returns what fails without."""
    VERDICTS.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        os.chmod(place, 0o755)  # some tests are other users for a while
        everyone = [Bench(Path(place, str(number)), seconds) for number in range(min(jobs, len(mutants)))]
        free: SimpleQueue[Bench] = SimpleQueue()
        for bench in everyone:
            free.put(bench)
        lock = threading.Lock()

        def judge(mutant: Mutant) -> None:
            bench = free.get()
            try:
                verdict = bench.judge(mutant)
            finally:
                free.put(bench)
            with lock:
                known[mutants[mutant]] = verdict
                VERDICTS.write_text(json.dumps({k: v for k, v in known.items() if v[0] != ERROR}))
                note = "" if is_right(mutant, verdict[0]) else "WRONG  "
                print(f"{note}{verdict[0]:10}{mutant.name}  ({verdict[1]})", flush=True)

        with ThreadPoolExecutor(len(everyone)) as pool:
            try:
                # What fails anyway proves nothing.
                tests = sorted({test for mutant in mutants for test in mutant.tests})
                print(f"{len(mutants)} mutants; first their tests without any of them ...", flush=True)
                if failed := everyone[0].fails_anyway(tests, jobs):
                    return failed
                for future in as_completed([pool.submit(judge, mutant) for mutant in mutants]):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for bench in everyone:
                    bench.stop()
                raise
    return ""


if __name__ == "__main__":
    os.nice(10)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; what was found is remembered")
