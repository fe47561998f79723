"""How long a batch waits, and for whom: plain figures, no clock of this machine's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from valkka_async.ring.arrivals import Arrivals


def known(window: float | None = None, **phases: tuple[float, float]) -> Arrivals:
    """Of sources with (period, phase) that gave frames up to time 0."""
    arrivals = Arrivals(window)
    for name, (period, phase) in phases.items():
        for number in range(1, 11):
            arrivals.note(name, number, phase + (number - 10) * period)
    return arrivals


def test_it_waits_for_all_whose_frames_are_due_before_the_first_has_another() -> None:
    arrivals = known(a=(0.04, -0.04), b=(0.04, -0.02), c=(0.04, -0.01), slow=(1.0, -0.5))
    plan = arrivals.plan(["a"], ["b", "c", "slow"], 0.0)
    assert {name for _, name in plan.awaited} == {"b", "c"}
    assert 0.039 < plan.deadline < 0.041


def test_it_ends_before_a_clear_gap_so_that_the_next_one_begins_with_the_cluster() -> None:
    arrivals = known(a=(0.04, -0.04), b=(0.04, -0.038), c=(0.04, -0.005))
    assert [name for _, name in arrivals.plan(["a"], ["b", "c"], 0.0).awaited] == ["b"]
    arrivals = known(a=(0.04, 0.0), b=(0.04, 0.002), c=(0.04, -0.005))
    assert {name for _, name in arrivals.plan(["c"], ["a", "b"], 0.035).awaited} == {"a", "b"}


def test_who_is_late_is_not_waited_for() -> None:
    arrivals = known(a=(0.04, -0.04), b=(0.04, -0.039), stalled=(0.04, -0.1))
    assert [name for _, name in arrivals.plan(["a"], ["b", "stalled", "new"], 0.0).awaited] == ["b"]


def test_who_comes_back_after_a_stall_has_not_waited_since_its_frame_was_due() -> None:
    arrivals = known(0.1, a=(0.04, -2.0), b=(0.04, 0.0))
    plan = arrivals.plan(["a"], ["b"], 0.01, since=0.005)
    assert (plan.begun, round(plan.deadline, 6), [name for _, name in plan.awaited]) == (0.01, 0.11, ["b"])
    plan = arrivals.plan(["a", "b"], [], 0.05, since=0.005)  # while the model worked, b's came, and then a's
    assert round(plan.begun, 6) == 0.04


def test_a_window_that_is_given_is_for_all_that_live() -> None:
    arrivals = known(0.3, a=(0.04, -0.04), b=(1.0, -0.5), stalled=(0.04, -1.5))
    plan = arrivals.plan(["a"], ["b", "stalled", "new"], 0.0)
    assert [name for _, name in plan.awaited] == ["b"] and abs(plan.deadline - 0.3) < 1e-9


def test_frames_that_were_missed_do_not_make_a_source_slow() -> None:
    arrivals = Arrivals(None)
    for number in range(1, 40, 4):
        arrivals.note("a", number, number * 0.04)
    assert abs(arrivals.plan(["a"], [], 10.0).deadline - (37 * 0.04 + 0.08)) < 1e-9


def test_a_server_that_was_started_again_is_another_source() -> None:
    arrivals = known(a=(0.04, -0.04))
    arrivals.note("a", 1, 5.0)
    assert arrivals.plan([], ["a"], 5.0).awaited == [(5.02, "a")], "its rate is not known yet"


def test_sources_that_left_are_forgotten() -> None:
    arrivals = known(a=(0.04, 0), b=(0.04, 0))
    arrivals.forget(["b", "c"])
    assert len(arrivals) == 1


TIMES = st.lists(st.floats(0, 1e4), min_size=1, max_size=12)


@given(
    window=st.none() | st.floats(0, 10),
    frames=st.dictionaries(st.sampled_from("abcdef"), TIMES),
    ready=st.sets(st.sampled_from("abcdef")),
    now=st.floats(0, 2e4),
)
def test_a_plan_is_always_within_its_window(
    window: float | None, frames: dict[str, list[float]], ready: set[str], now: float
) -> None:
    arrivals = Arrivals(window)
    for name, times in frames.items():
        for number, at in enumerate(sorted(times), 1):
            arrivals.note(name, number, at)
    plan = arrivals.plan(ready, set("abcdef") - ready, now)
    assert plan.begun <= now
    assert plan.deadline <= plan.begun + (0.05 if window is None else window) + 1e-6
    assert all(now < late <= plan.deadline and name not in ready for late, name in plan.awaited)
    assert plan.awaited == sorted(plan.awaited)
