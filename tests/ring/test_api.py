"""The ring's names, as programs, editors and type checkers see them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import get_args

import pytest

import valkka_async as va
from valkka_async.ring.formats import FORMATS
from valkka_async.ring.policy import NUMBERS


def test_every_public_name_is_there_and_can_be_found() -> None:
    assert set(va.__all__) <= set(dir(va))
    pytest.importorskip("av")  # which some are made with
    for name in va.__all__:
        assert getattr(va, name) is not None


def test_what_stats_returns_is_public() -> None:
    for kind in (va.ServerStats, va.PeerStats, va.ReaderStats, va.MergeStats):
        assert dataclasses.is_dataclass(kind) and kind.__doc__
    with va.serve("s") as server, va.attach("s") as reader:
        assert type(server.stats()) is va.ServerStats
        assert [type(one) for one in server.reader_stats()] == [va.PeerStats]
        assert type(reader.stats()) is va.ReaderStats


def test_what_has_to_be_awaited_is_a_coroutine_function() -> None:
    for method in (
        va.Client.recv, va.Client.open, va.Client.aclose, va.connect("s").recv,
        va.Merge.recv, va.Merge.aclose, va.merge("s").recv,
        va.Server.writable, va.Server.aclose,
    ):  # fmt: skip
        assert inspect.iscoroutinefunction(method)


def test_every_error_is_named_as_one_and_hangs_below_the_base() -> None:
    pytest.importorskip("av")
    errors = [getattr(va, name) for name in va.__all__ if inspect.isclass(getattr(va, name))]
    errors = [error for error in errors if issubclass(error, BaseException)]
    assert len(errors) > 15
    for error in errors:
        assert issubclass(error, va.ValkkaError)
        assert re.search(r"Error$|^ConnectionClosed(OK)?$", error.__name__)


def test_literals_say_what_is_accepted() -> None:
    assert get_args(va.Policy) == tuple(NUMBERS)
    assert get_args(va.FrameFormat) == FORMATS
    assert all(len(format) <= 16 and format.isascii() for format in FORMATS)


def test_attach_and_connect_take_the_same_arguments() -> None:
    assert inspect.signature(va.attach).parameters == inspect.signature(va.connect).parameters
