"""Pauses between attempts grow, differ, have bounds, and are short again after a success that lasted."""

from __future__ import annotations

from valkka_async.backoff import Backoff


def test_delays_grow_to_the_bound_and_differ() -> None:
    bounds, delays = [], []
    backoff = Backoff(first=0.5, last=30.0)
    for _ in range(200):
        bounds.append(backoff.bound)
        delays.append(backoff.next())
    assert bounds[:7] == [0.5, 1, 2, 4, 8, 16, 30] and set(bounds[6:]) == {30}
    assert all(0.1 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    assert len(set(delays)) > 190  # a herd is spread
    assert max(delays) > 15


def test_a_peer_that_refuses_at_once_is_never_asked_in_a_loop() -> None:
    backoff = Backoff(first=0.001, last=0.01)
    assert all(backoff.next() == 0.1 for _ in range(10))


def test_only_a_success_that_lasted_makes_delays_short_again() -> None:
    backoff = Backoff(first=0.5, last=30.0, stable=60.0)
    for _ in range(10):
        backoff.next()
    backoff.lived(59.9)
    assert backoff.bound == 30
    backoff.lived(60.0)
    assert backoff.bound == 0.5
