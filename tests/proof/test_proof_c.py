# SPDX-License-Identifier: MIT
"""The C programs in proof/ find nothing wrong with ring.h, and something wrong with each broken twin of it.

A twin is ring.h with a line or two changed. VALKKA_STRESS_SECONDS sets how long stress.c runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.require import missing

ROOT = Path(__file__).parents[2]
SHM = ROOT / "_shm"
PROOF = ROOT / "proof"
SECONDS = float(os.environ.get("VALKKA_STRESS_SECONDS", "2"))
TWIN_SECONDS = 4.0
PATIENCE_MS = 10_000  # on a machine that does other things too
TWIN_PATIENCE_MS = 1_000

SANITIZERS = {
    "thread": ["-fsanitize=thread"],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "none": [],
}

pytestmark = pytest.mark.timeout(300 + SECONDS * 22)


def build(program: str, sanitizer: str, where: Path, twin: list[tuple[str, str]] | None = None) -> Path:
    """The program, compiled against ring.h or, in `where`, a twin of it."""
    if shutil.which("gcc") is None:
        missing("gcc is not installed: apt-get install gcc libc6-dev")
    headers = SHM
    if twin is not None:
        headers = where
        shutil.copy(SHM / "layout.h", where)
        text = (SHM / "ring.h").read_text()
        for right, wrong in twin:
            assert text.count(right) == 1, f"ring.h has changed; adapt the twin: {right}"
            text = text.replace(right, wrong)
        (where / "ring.h").write_text(text)
    target = where / program
    # -fno-builtin: an inlined memcpy is not seen by ThreadSanitizer. GNU C for the hooks of planted.c.
    # The states that are planted are answered one after the other: the compiler takes longer than they do.
    optimise = "-O0" if program == "planted" and twin is not None else "-O2"
    command = [
        "gcc", "-std=c11" if program == "stress" else "-std=gnu11",
        optimise, "-g", "-fno-builtin", "-pthread",
        "-Wall", "-Wextra", *(["-Werror"] if twin is None else ["-w"]), *SANITIZERS[sanitizer],
        f"-I{headers}", str(PROOF / f"{program}.c"), "-o", str(target),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode and "cannot find" in done.stderr:
        missing(f"gcc has no library for -fsanitize={sanitizer}")
    assert done.returncode == 0, done.stderr
    return target


def run(*command: str, seconds: float) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "", "UBSAN_OPTIONS": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60 + seconds)
    if "unexpected memory mapping" in done.stderr and command[0] != "setarch":
        # ThreadSanitizer of older compilers and address layouts of newer kernels
        return run("setarch", "-R", *command, seconds=seconds)
    return done


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_no_sanitizer_and_no_check_complains_at_full_speed(sanitizer: str, tmp_path: Path) -> None:
    program = str(build("stress", sanitizer, tmp_path))
    for seconds in (SECONDS, 10 * SECONDS):  # longer on a machine that does other things too
        done = run(program, str(seconds), str(PATIENCE_MS), seconds=seconds)
        assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
        rounds = re.findall(r"^(\w+): (\d+) frames", done.stdout, re.MULTILINE)
        assert [name for name, _ in rounds] == ["camera", "file", "delta", "late", "ping"]
        if enough := all(int(frames) > 100 for _, frames in rounds):
            break
    assert enough, done.stdout


def test_every_planted_state_is_answered_rightly(tmp_path: Path) -> None:
    done = run(str(build("planted", "address", tmp_path)), seconds=0)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 60


RACE = "data race"
TORN = "changed under its lease"
UNDEFINED = (TORN, RACE, "makes no sense")  # whatever is seen first

SECOND_SCAN = ("n->leased = va_leases_slot(&w->peers[i], word);", "(void)word;")
NUMBER = "atomic_store_explicit(&slot->seq, n, memory_order_release);"
NEWEST = "atomic_store_explicit(&r->head, n, memory_order_seq_cst);"
UNPIN = "atomic_store_explicit(&page->lease[k], 0, memory_order_seq_cst);  "
LOOK_AGAIN = (
    "return v == NULL || atomic_load_explicit(&va_ring_of(v)->head, memory_order_seq_cst) <= c->seen;"
)

# Which sanitizer, which round of stress.c ("": all of them), what is changed, and what is complained of.
STRESS_TWINS = {
    "the reader does not check": (
        "thread", "camera", [("memory_order_seq_cst) == seq)", "memory_order_seq_cst) != 0)")], UNDEFINED,
    ),
    "the writer does not look again": ("thread", "camera", [SECOND_SCAN], UNDEFINED),
    "the writer ignores leases": (
        "address", "camera", [SECOND_SCAN, ("w->note[s].leased = true;", "(void)w;")], (TORN,),
    ),
    "the newest frame is overwritten": (
        "thread", "camera", [("n->seq == w->head || ", "")], ("newest frame was destroyed", "makes no sense"),
    ),
    "a number is stored before its payload": (
        "thread", "camera",
        [(NUMBER, NUMBER.replace("release", "relaxed")), (NEWEST, NEWEST.replace("seq_cst", "relaxed"))],
        UNDEFINED,
    ),
    "a lease ends before the reading does": (
        "thread", "camera", [(UNPIN, UNPIN.replace("seq_cst", "relaxed"))], UNDEFINED,
    ),
    "the number is taken away too late": (
        "none", "camera",
        [("atomic_store_explicit(&slot->seq, 0, memory_order_seq_cst);",
          "atomic_store_explicit(&slot->seq, 0, memory_order_relaxed);")],
        (TORN,),
    ),
    "a lease is never returned": (
        "none", "", [(UNPIN, "(void)page, (void)k;")], ("lease was not returned", "not told of room"),
    ),
    "the reader does not look once more": (
        "thread", "ping", [(LOOK_AGAIN, "(void)c, (void)v; return true;")], ("slept through", "never saw"),
    ),
    "the bell is not rung": (
        "thread", "ping", [("armed, 0, memory_order_seq_cst) == 1", "armed, 0, memory_order_seq_cst) == 2")],
        ("slept through", "never saw"),
    ),
    "the writer is not signalled": (
        "thread", "file",
        [("waiting, 0, memory_order_seq_cst) == 1", "waiting, 0, memory_order_seq_cst) == 2")],
        ("not told of room",),
    ),
    "the backlog lacks a frame": (
        "none", "late", [("if (va_outgrows(w, best, nbytes)) {", "if (0) {")],
        ("lost a frame", "without the one before"),
    ),
    "a new ring has no backlog and says it has": (
        "none", "late",
        [("const uint64_t gop = carry ? w->gop : 0;", "const uint64_t gop = 0, kept = w->gop;"),
         ("    w->gop = gop;", "    w->gop = kept;")],
        ("lost a frame", "without the one before", "makes no sense"),
    ),
    "unread frames of a lossless reader go": (
        "thread", "file", [("|| n->seq > lossless))", "|| (n->seq > lossless && 0)))")], ("lost a frame",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("twin", STRESS_TWINS)
def test_a_broken_twin_is_caught_at_full_speed(twin: str, tmp_path: Path) -> None:
    sanitizer, only, changes, complaints = STRESS_TWINS[twin]
    program = build("stress", sanitizer, tmp_path, changes)
    for seed, seconds in enumerate((TWIN_SECONDS, 10 * TWIN_SECONDS), 1):  # longer on a busy machine
        done = run(str(program), str(seconds), str(TWIN_PATIENCE_MS), str(seed), only, seconds=seconds)
        if done.returncode:
            break
    assert done.returncode != 0, f"went unnoticed: {done.stdout}"
    assert any(c in done.stderr for c in complaints), done.stderr


PLANTED_TWINS = {
    "a_frame_that_is_gone_leaves_no_lease": (
        "    va_unpin(page, k);\n    return VA_GONE;",
        "    return VA_GONE;",
    ),
    "a_lease_of_an_older_ring_does_not_keep_the_slot_of_that_number": (
        "word >> 32 == v->generation && s < w->depth", "s < w->depth",
    ),
    "nonsense_in_a_lease_word_does_not_count": (
        "word >> 32 == v->generation && s < w->depth", "word >> 32 == v->generation",
    ),
    "a_lease_that_comes_after_the_first_look_is_found_by_the_second": (
        "atomic_store_explicit(&slot->seq, n->seq, memory_order_release);", "",
    ),
    "of_free_slots_the_one_written_last_is_taken": (
        "n->used > w->note[best].used", "n->used < w->note[best].used",
    ),
    "of_unread_frames_the_oldest_goes": ("n->seq < w->note[best].seq", "n->seq > w->note[best].seq"),
    "a_slot_that_was_never_used_comes_before_an_unread_frame": ("n->seq > ordered ? UNREAD", "0 ? UNREAD"),
    "a_slot_never_used_comes_before_the_backlog": ("if (w->gop - 1 < ordered)", "if (0)"),
    "a_frame_that_is_dropped_ends_the_backlog": ("va_forget(w); /* this frame will be missing */", ""),
    "the_backlog_does_not_make_the_ring_grow_beyond_its_bytes": ("> w->backlog_bytes", "> UINT64_MAX"),
    "of_free_slots_the_one_that_fits_best_is_taken": ("misfit < least ||", ""),
    "a_new_ring_takes_the_backlog_along": ("gop ? gop - 1 : w->head;", "w->head;"),
    "an_index_that_points_outside_is_corrupt_and_leases_nothing": ("(s >= v->slots)", "(s > v->slots)"),
    "latest_goes_back_to_the_newest_key_frame_over_a_gap": ("back > first;", "back > want;"),
    "a_frame_that_comes_while_the_bell_is_armed_is_seen": (LOOK_AGAIN, "(void)c, (void)v; return true;"),
}  # fmt: skip


@pytest.mark.parametrize("test", PLANTED_TWINS)
def test_a_broken_twin_is_caught_by_the_planted_state_that_asks(test: str, tmp_path: Path) -> None:
    done = run(str(build("planted", "address", tmp_path, [PLANTED_TWINS[test]])), test, seconds=0)
    assert done.returncode != 0, f"went unnoticed: {done.stdout}"
    assert any(c in done.stderr for c in (f"FAILED {test}", "AddressSanitizer", "runtime error")), done.stderr
