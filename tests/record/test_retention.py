# SPDX-License-Identifier: MIT
"""What is to go: within the bounds, the oldest first, and never a file that is being written."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from valkka_async.record.retention import Held, Keep, victims

S = 10**9
KEEPS = st.builds(
    Keep,
    age=st.none() | st.integers(0, 50).map(float),
    size=st.none() | st.integers(0, 200),
    free=st.none() | st.integers(0, 200),
)
HELD = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1, 2])),
    max_size=20,
)


@given(rows=HELD, each=st.dictionaries(st.sampled_from("ab"), KEEPS), total=KEEPS, room=st.integers(0, 100))
def test_what_is_left_is_within_the_bounds_and_nothing_goes_in_vain(
    rows: list[tuple[str, int, bool, int | None]], each: dict[str, Keep], total: Keep, room: int
) -> None:
    held = [
        Held(camera, Path(str(n)), n * S, size, busy, device)
        for n, (camera, size, busy, device) in enumerate(rows)
    ]
    now = len(rows) * S
    gone = list(victims(held, now, each, total, {1: room, 2: 1000}))
    left = [one for one in held if one not in gone]
    assert not any(one.busy for one in gone)
    assert gone == sorted(gone, key=lambda one: one.end_ns)

    def beyond(files: list[Held], one: Held, freed: int) -> bool:
        """May, or must, this one go, if these are there?"""
        own = each.get(one.camera, Keep())
        ages = [keep.age for keep in (own, total) if keep.age is not None]
        size = sum(other.size for other in files if other.camera == one.camera)
        return bool(
            (ages and one.end_ns < now - min(ages) * S)
            or (own.size is not None and size > own.size)
            or (total.size is not None and sum(other.size for other in files) > total.size)
            or (total.free is not None and one.device == 1 and room + freed < total.free)
        )

    freed = sum(one.size for one in gone if one.device == 1)
    assert not any(beyond(left, one, freed) for one in left if not one.busy)
    there, freed = list(held), 0
    for one in gone:
        assert beyond(there, one, freed)
        there.remove(one)
        freed += one.size if one.device == 1 else 0
