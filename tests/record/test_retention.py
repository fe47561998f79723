# SPDX-License-Identifier: MIT
"""What is to go: within the bounds, the oldest first, and never a file that is being written."""

from __future__ import annotations

from collections.abc import Iterator
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


@given(
    rows=HELD,
    ahead=st.integers(0, 3),
    each=st.dictionaries(st.sampled_from("ab"), KEEPS),
    total=KEEPS,
    room=st.integers(0, 100),
)
def test_what_is_left_is_within_the_bounds_and_nothing_goes_in_vain(
    rows: list[tuple[str, int, bool, int | None]], ahead: int, each: dict[str, Keep], total: Keep, room: int
) -> None:
    now = 10**6 * S
    held = [
        Held(camera, Path(str(n)), begin - S, begin, size, busy, device)
        for n, (camera, size, busy, device) in enumerate(rows)
        # Some of a clock that is ahead, which come first.
        for begin in (now + 10**6 * S if n < ahead else now + (n - len(rows)) * S,)
    ]
    sizes = {camera: sum(one.size for one in held if one.camera == camera) for camera in "abc"}
    gone = list(victims(held, sizes, now, now + 3600 * S, each, total, {1: room, 2: 1000}))
    left = [one for one in held if one not in gone]
    assert not any(one.busy for one in gone)
    assert gone == [one for one in held if one in gone]

    def beyond(files: list[Held], one: Held, freed: int) -> bool:
        """May, or must, this one go, if these are there?"""
        own = each.get(one.camera, Keep())
        ages = [keep.age for keep in (own, total) if keep.age is not None]
        size = sum(other.size for other in files if other.camera == one.camera)
        return bool(
            (ages and one.end_ns < now - min(ages) * S)  # never of those that are ahead
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


def test_no_more_files_are_looked_at_than_it_takes() -> None:
    looked = []

    def held() -> Iterator[Held]:
        for n in range(1000):
            looked.append(n)
            yield Held("a", Path(str(n)), n * S, (n + 1) * S, 10, busy=False, device=None)

    gone = list(
        victims(held(), {"a": 10_000}, 1000 * S, 2000 * S, {"a": Keep(age=990)}, Keep(size=9_980), {})
    )
    assert [one.path.name for one in gone] == [str(n) for n in range(9)]
    assert len(looked) < 15
