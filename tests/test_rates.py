"""Rates of events and of counters, of fast sources and slow ones, and of sources that begin again."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valkka_async.rates import CounterRate, CounterRates, EventRate


def test_the_rate_of_even_events_is_exact_and_of_the_last_seconds() -> None:
    rate = EventRate(window=5.0)
    assert rate.rate(0.0) is None and rate.last is None
    for n in range(100):
        rate.note(100 + n / 25)
    assert rate.rate(104.0) == pytest.approx(25)
    for n in range(100):
        rate.note(104 + n / 10)
    assert rate.rate(114.0) == pytest.approx(10)  # nothing of the faster part is left
    assert rate.last == pytest.approx(113.9)


def test_a_source_of_one_event_a_minute_has_a_rate_and_is_not_taken_for_silent() -> None:
    rate = EventRate(window=5.0)
    rate.note(0.0)
    assert rate.rate(1.0) is None  # one event is no rate
    rate.note(60.0)
    assert rate.rate(61.0) == pytest.approx(1 / 60)
    assert rate.rate(60.0 + 179.0) == pytest.approx(1 / 60)
    assert rate.rate(60.0 + 181.0) == 0.0


def test_a_source_that_has_stopped_has_the_rate_zero() -> None:
    rate = EventRate(window=5.0)
    for n in range(50):
        rate.note(n / 25)
    assert rate.rate(1.96 + 4.9) == pytest.approx(25)
    assert rate.rate(1.96 + 5.1) == 0.0


def test_events_of_one_moment_have_no_rate_and_clear_forgets() -> None:
    rate = EventRate()
    rate.note(1.0)
    rate.note(1.0)
    assert rate.rate(1.0) is None
    rate.note(2.0)
    assert rate.rate(2.0) == pytest.approx(2)
    rate.clear()
    assert rate.rate(2.0) is None and rate.last is None


def test_a_rate_may_be_read_while_another_thread_notes_events() -> None:
    rate, stop = EventRate(window=0.5), threading.Event()

    def note() -> None:
        at = 0.0
        while not stop.is_set():
            rate.note(at := at + 0.001)

    thread = threading.Thread(target=note)
    thread.start()
    try:
        for _ in range(2000):
            assert (rate.rate(rate.last or 0.0) or 1000) == pytest.approx(1000)
    finally:
        stop.set()
        thread.join()


def test_counters_become_rates_over_the_window_with_two_samples_at_least() -> None:
    rates = CounterRate(window=3.0)
    assert rates.rate("frames") is None and rates.last is None
    rates.sample(10.0, {"frames": 1000, "bytes": 0})
    assert rates.rate("frames") is None
    rates.sample(11.0, {"frames": 1025, "bytes": 500})
    assert (rates.rate("frames"), rates.rate("bytes"), rates.rate("none")) == (25, 500, None)
    for second in range(12, 20):
        rates.sample(float(second), {"frames": 1025 + 10 * (second - 11), "bytes": 500})
    assert rates.rate("frames") == 10  # the faster second is out of the window
    assert rates.rate("bytes") == 0
    rates.sample(119.0, {"frames": 1105 + 100, "bytes": 500})
    assert rates.rate("frames") == 1  # however far apart: better than nothing


def test_a_sample_that_is_no_newer_is_no_news() -> None:
    rates = CounterRate()
    rates.sample(1.0, {"n": 0})
    rates.sample(2.0, {"n": 7})
    rates.sample(2.0, {"n": 900})
    rates.sample(1.5, {"n": 900})
    assert rates.rate("n") == 7


def test_an_owner_that_has_not_been_heard_of_for_the_window_has_no_rate() -> None:
    rates = CounterRate(window=3.0)
    rates.sample(1.0, {"n": 0})
    rates.sample(2.0, {"n": 5})
    assert rates.rate("n", now=4.9) == 5
    assert rates.rate("n", now=5.1) is None
    assert rates.rate("n") == 5


@pytest.mark.parametrize("after", [{"a": 3, "b": 60}, {"a": 30}, {"b": 60}])
def test_counters_that_begin_again_forget_what_was_before(after: dict[str, float]) -> None:
    rates = CounterRate()
    rates.sample(1.0, {"a": 20, "b": 40})
    rates.sample(2.0, {"a": 21, "b": 50})
    rates.sample(3.0, after)
    assert rates.rate("a") is None and rates.rate("b") is None
    rates.sample(4.0, {name: count + 1 for name, count in after.items()})
    assert [rates.rate(name) for name in after] == [1] * len(after)


def test_a_counter_that_comes_later_has_a_rate_from_its_second_sample_on() -> None:
    rates = CounterRate()
    rates.sample(1.0, {"a": 0})
    rates.sample(2.0, {"a": 1, "b": 7})
    assert (rates.rate("a"), rates.rate("b")) == (1, None)
    rates.sample(3.0, {"a": 2, "b": 9})
    assert (rates.rate("a"), rates.rate("b")) == (1, 2)


def test_many_owners_are_kept_apart_and_those_that_are_gone_forgotten() -> None:
    rates = CounterRates()
    for at in (1.0, 2.0):
        for number, key in enumerate(["cam", ("ring", "cam", 7)], start=1):
            rates.sample(key, at, {"n": at * number})
    rates.forget_others()
    assert (rates.rate("cam", "n"), rates.rate(("ring", "cam", 7), "n")) == (1, 2)
    assert rates.rate("other", "n") is None
    assert rates.sample("cam", 3.0, {"n": 3.0}).rate("n") == 1
    rates.forget_others()
    assert (rates.rate("cam", "n"), rates.rate(("ring", "cam", 7), "n")) == (1, None)


@given(
    st.lists(
        st.tuples(st.floats(0.01, 10), st.dictionaries(st.sampled_from("ab"), st.integers(0, 1000))),
        max_size=30,
    )
)
def test_whatever_is_sampled_no_rate_is_negative(steps: list[tuple[float, dict[str, float]]]) -> None:
    rates, at = CounterRate(), 0.0
    for step, counts in steps:
        at += step
        rates.sample(at, counts)
        assert all((rates.rate(name) or 0.0) >= 0 for name in "ab")
        assert rates.last == at
