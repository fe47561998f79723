# SPDX-License-Identifier: MIT
"""The files that a pattern may have named, and no others."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valkka_async.record.pattern import Pattern

PATTERNS = [
    "/r/{name}/%Y-%m-%d/%H-%M-%S.mp4",
    "/r/%Y/%j/{name} %H%M%S {n:03}.mp4",
    "/r.d/100%%/{name}-{n}",
    "/r/%A %B/{{x}}{name}.%S.mp4",
    "r/{name}.mp4",
    "/r/{name}/%D/%H.mp4",
    "/r/{name}/%EY-%Om-%10d_%-H.mp4",
    "/r/{name}/%F_%T.mp4",
    "{n}.mp4",
]


@given(
    pattern=st.sampled_from(PATTERNS),
    name=st.text("abc.-_9", min_size=1),
    at=st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1)),
    number=st.integers(1, 10**6),
    taken=st.none() | st.integers(2, 99),
)
def test_a_pattern_owns_what_it_names(
    pattern: str, name: str, at: datetime, number: int, taken: int | None
) -> None:
    it = Pattern(pattern, name)
    path = it.path(at, number)
    if taken is not None:
        path = path.with_stem(f"{path.stem}-{taken}")
    assert it.owns(path) is not False
    assert path.is_relative_to(it.root)
    assert it.owns(path.parent) is False and it.owns(path / "x") is False
    assert it.owns(path.parent / ".." / path.parent.name / path.name) is False


@pytest.mark.parametrize(
    ("path", "owned"),
    [
        ("/r/a/2026-11-30/10-00-00.mp4", True),
        ("/r/a/2026-11-30/10-00-00-2.mp4", None),
        ("/r/a/2026-11-30/10-00-00-x.mp4", False),
        ("/r/a/2026-11-30/10-00-00.mp4.part", False),
        ("/r/a/2026-11-30/10-00-00.mkv", False),
        ("/r/a/2026-11-30/holiday.mp4", False),
        ("/r/b/2026-11-30/10-00-00.mp4", False),
        ("/r/a/latest/10-00-00.mp4", False),
        ("/q/a/2026-11-30/10-00-00.mp4", False),
    ],
)
def test_what_others_put_there_is_theirs(path: str, owned: bool | None) -> None:
    assert Pattern(PATTERNS[0], "a").owns(Path(path)) is owned


@pytest.mark.parametrize("pattern", ["/r/{name}/%x.mp4", "/r/{name}/%c/%Ex %H.mp4"])
def test_a_pattern_whose_files_nobody_would_find_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="found again"):
        Pattern(pattern, "a")


def test_files_in_a_folder_of_another_encoding_are_found_again_or_refused() -> None:
    """Before Python 3.14 strftime() does not take it."""
    try:
        pattern = Pattern("/r/\udcff/{name}/%H.mp4", "a")
    except ValueError as e:
        assert sys.version_info < (3, 14) and "found again" in str(e)
    else:
        assert pattern.owns(pattern.path(datetime(2026, 11, 30, 10), 1)) is not False


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/r/{name}-%A.mp4", "/r/a-b-Monday.mp4"),  # of the camera a-b
        ("/r/{name}/%F_%T.mp4", "/r/a/holiday_trip.mp4"),
        ("/r/{name}/%f/%H.mp4", "/r/a/../10.mp4"),
    ],
)
def test_fields_stand_for_what_they_can_be_alone(pattern: str, path: str) -> None:
    assert Pattern(pattern, "a").owns(Path(path)) is False


def test_files_are_found_where_the_pattern_has_them(tmp_path: Path) -> None:
    it = Pattern(f"{tmp_path}/{{name}}/%Y-%m-%d/%H.mp4", "a")
    good = [tmp_path / "a/2026-11-29/10.mp4", tmp_path / "a/2026-11-30/11-2.mp4"]
    bad = [tmp_path / "a/trash/10.mp4", tmp_path / "b/2026-11-30/10.mp4", tmp_path / "a/2026-11-30/x.mp4"]
    for path in good + bad:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("abc")
    (tmp_path / "a/2026-12-01").symlink_to(tmp_path / "b/2026-11-30")
    (tmp_path / "a/2026-11-30/12.mp4").symlink_to(bad[0])
    (tmp_path / "a/2026-11-30/13.mp4").mkdir()
    found = list(it.files())
    assert [one.path for one in found] == good
    assert [one.exact for one in found] == [True, False] and {one.size for one in found} == {3}
    assert list(Pattern("/nowhere/%Y/x.mp4", "a").files()) == []
