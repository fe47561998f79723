# SPDX-License-Identifier: MIT
"""The Spin models in proof/ hold in every state, and each of their broken twins does not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.require import missing

PROOF = Path(__file__).parents[2] / "proof"
MEGABYTES = 1900
DEPTH = 20_000
LATE = "LATE BACKLOG POLICY1=LOSSLESS"  # a reader comes late and starts at the backlog
BOTH_LOSSLESS = "POLICY0=LOSSLESS POLICY1=LOSSLESS"

pytestmark = pytest.mark.timeout(600)


def explore(model: str, switches: str, where: Path, *, all_states: bool) -> str:
    """What Spin's verifier says of a model after all its states, or at the first error."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            missing(f"{tool} is not installed: apt-get install spin gcc libc6-dev")

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for source in PROOF.glob("*.pml"):
        shutil.copy(source, where)
    run("spin", *(f"-D{s}" for s in switches.split()), "-a", f"{model}.pml")
    # SAFETY: assertions and deadlocks, which is all there is. COLLAPSE: states packed, none left out.
    # The compiler takes longer than Spin takes for a twin, and for the large model of few states.
    optimise = "-O1" if all_states and model != "generation" else "-O0"
    run("gcc", optimise, "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEGABYTES}", "-o", "pan", "pan.c")
    return run("./pan", f"-m{DEPTH}", "-b", "-w22")


@pytest.mark.parametrize(
    ("model", "switches"),
    [
        ("lease", "FRAMES=3"),
        pytest.param("lease", "FRAMES=4", marks=pytest.mark.long),
        ("lease", "FRAMES=4 SLOTS=2 SPAN=2 POLICY0=ORDERED POLICY1=LOSSLESS"),
        ("lease", f"FRAMES=3 SLOTS=2 SPAN=2 {LATE}"),
        ("bell", "FRAMES=5"),
        ("room", "FRAMES=3"),
        ("room", "FRAMES=3 POLICY1=LOSSLESS"),
        pytest.param("room", "FRAMES=4 POLICY1=LOSSLESS", marks=pytest.mark.long),
        # one reader, step by step
        ("generation", "READERS=1 FINE=1 FRAMES=2 GENERATIONS=2 POLICY0=LATEST"),
        pytest.param(
            "generation",
            "READERS=1 FINE=1 FRAMES=2 GENERATIONS=3 POLICY0=LATEST",
            marks=pytest.mark.long,
        ),
        ("generation", "READERS=1 FINE=1 FRAMES=1 GENERATIONS=4 WINDOW=1 POLICY0=ORDERED"),
        ("generation", "READERS=1 FINE=1 FRAMES=3 GENERATIONS=2 POLICY0=LOSSLESS"),
        ("generation", "READERS=1 FINE=1 FRAMES=1 GENERATIONS=4 WINDOW=1 POLICY0=LOSSLESS"),
        # two, of which both, one or none go step by step
        pytest.param("generation", "FINE=2 FRAMES=1 GENERATIONS=2 POLICY1=ORDERED", marks=pytest.mark.long),
        pytest.param("generation", "FINE=1 FRAMES=1 GENERATIONS=3 WINDOW=1", marks=pytest.mark.long),
        ("generation", f"FRAMES=1 GENERATIONS=4 WINDOW=1 {BOTH_LOSSLESS}"),
        # the window of the real server, and more rings than it lets through to a reader that lags
        ("generation", f"FRAMES=1 GENERATIONS=3 WINDOW=1 {LATE}"),
        ("generation", "FRAMES=0 GENERATIONS=6 WINDOW=4"),
        pytest.param(
            "generation",
            "FRAMES=1 GENERATIONS=7 WINDOW=4 KEPT=1 POLICY0=LOSSLESS POLICY1=ORDERED",
            marks=pytest.mark.long,
        ),
    ],
)
def test_the_model_holds_in_every_state(model: str, switches: str, tmp_path: Path) -> None:
    said = explore(model, switches, tmp_path, all_states=True)
    assert "errors: 0" in said, said
    assert "Full statespace search" in said
    for gap in ("max search depth", "not completed", "MEMLIM", "hash-compact"):
        assert gap not in said, said
    states = re.search(r"(\S+) states, stored", said)
    assert states and float(states[1]) > 10_000, "too few states to mean anything"


CHANGED = "==want"  # a frame under a lease is not, or no longer, the one asked for
NEWEST_LOST = "head>want"
LOSSLESS_LOST = r"!=2\)"  # a "lossless" reader missed a frame
SLEPT_ON = "<=seen"  # asleep for ever with a frame waiting
LEFT_BEHIND = "seen==published"  # the same, or in an old ring
STUCK = "invalid end state"  # somebody waits for ever
TOUCHED = ">=.final_rings"  # a final ring was written
NO_ROOM = "here>="  # a fresh ring has no slot free
TOO_MANY = "q_full"  # more messages in a socket than WINDOW
HELD_UP = r"^[^&]*final_rings=="  # the server does not go on
APART = r"sent\[1\]==gen"  # not a fault: one reader is done with a ring that the other was not even sent


@pytest.mark.parametrize(
    ("model", "twin", "switches", "error"),
    [
        ("lease", "NO_READER_CHECK", "", CHANGED),
        ("lease", "NO_SECOND_SCAN", "", CHANGED),
        ("lease", "PLAIN_LEASE_STORE", "", CHANGED),
        ("lease", "PLAIN_SEQ_STORE", "", CHANGED),
        ("lease", "COMMIT_BEFORE_PAYLOAD", "", CHANGED),
        ("lease", "REUSE_NEWEST", "", NEWEST_LOST),
        ("lease", "LATE_INDEX", "", NEWEST_LOST),
        ("lease", "WAIT_FOR_SLOT", "SLOTS=2 FRAMES=3", STUCK),
        ("lease", "KEEP_NOTHING", "POLICY0=LOSSLESS", LOSSLESS_LOST),
        ("lease", "PASS_BEFORE_PIN", "POLICY0=LOSSLESS", LOSSLESS_LOST),
        ("lease", "LOSE_ONE", f"FRAMES=3 SLOTS=2 SPAN=2 {LATE}", LOSSLESS_LOST),
        ("lease", "COUNTED_IN_LATER", f"FRAMES=3 SLOTS=2 SPAN=2 {LATE}", LOSSLESS_LOST),
        ("bell", "NO_REARM_CHECK", "", SLEPT_ON),
        ("bell", "PLAIN_ARMED_STORE", "", SLEPT_ON),
        ("bell", "PLAIN_HEAD_STORE", "", SLEPT_ON),
        ("bell", "RING_BEFORE_HEAD", "", SLEPT_ON),
        ("bell", "DRAIN_LATE", "", SLEPT_ON),
        ("room", "PLAIN_WAITING_STORE", "", STUCK),
        ("room", "PLAIN_UNPIN_STORE", "", STUCK),
        ("room", "WAITING_AFTER_SCAN", "", STUCK),
        ("room", "SIGNAL_DRAINED_LATE", "", STUCK),
        ("room", "NO_SIGNAL_AFTER_UNPIN", "", STUCK),
        ("room", "NO_SIGNAL_BEFORE_SLEEP", "", STUCK),
        ("generation", "WRITE_SUPERSEDED", "", TOUCHED),
        ("generation", "LEASE_WITHOUT_GENERATION", "READERS=1 FRAMES=3", NO_ROOM),
        ("generation", "LEAVE_EARLY", "POLICY1=LOSSLESS", LOSSLESS_LOST),
        ("generation", "SKIP_RINGS", "POLICY1=LOSSLESS GENERATIONS=4 WINDOW=1", LOSSLESS_LOST),
        ("generation", "ANY_ACK_WILL_DO", f"{BOTH_LOSSLESS} GENERATIONS=4 WINDOW=1", LOSSLESS_LOST),
        ("generation", "RETURN_UNARMED", "", LEFT_BEHIND),
        ("generation", "DEAF_TO_THE_SOCKET", "", LEFT_BEHIND),
        ("generation", "ONE_BELL_FOR_ALL", "", LEFT_BEHIND),
        ("generation", "OFFER_TO_ONE", "", LEFT_BEHIND),
        ("generation", "NO_OFFER_ON_ACK", "GENERATIONS=3 WINDOW=1", LEFT_BEHIND),
        ("generation", "NO_ACK_AFTER_MOVE", "GENERATIONS=3 WINDOW=1", LEFT_BEHIND),
        ("generation", "ONE_WINDOW_FOR_ALL", "GENERATIONS=3 WINDOW=1", LEFT_BEHIND),
        ("generation", "NO_WINDOW", "GENERATIONS=3 WINDOW=1", TOO_MANY),
        ("generation", "WAIT_FOR_EVERYBODY", "GENERATIONS=3 FRAMES=1", HELD_UP),
        ("generation", "CARRY_NOTHING", f"FRAMES=1 WINDOW=1 {LATE}", NEWEST_LOST),
        ("generation", "CARRIED_BEHIND_THE_BASE", f"FRAMES=1 WINDOW=1 {LATE}", LEFT_BEHIND),
        ("generation", "NEVER_APART", "FRAMES=0 GENERATIONS=7 WINDOW=4", APART),
    ],
)
def test_the_model_notices_what_breaks(
    model: str, twin: str, switches: str, error: str, tmp_path: Path
) -> None:
    said = explore(model, f"{twin} {switches}", tmp_path, all_states=False)
    first = re.search(r"^pan:1: .*", said, re.MULTILINE)
    assert first, f"{twin} went unnoticed:\n{said}"
    assert re.search(error, first[0]), f"{twin} broke something else: {first[0]}"
