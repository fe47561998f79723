"""Why a recording fails, as a code."""

from __future__ import annotations

import errno

import pytest

import valkka_async as va
from valkka_async.record.cause import RecordingCause, cause_of


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (va.RecorderError(errno.ENOSPC, "full", "/x"), RecordingCause.DISK_FULL),
        (va.RecorderError(errno.EDQUOT, "quota", "/x"), RecordingCause.DISK_FULL),
        (va.RecorderError(errno.EACCES, "denied", "/x"), RecordingCause.PERMISSION),
        (va.RecorderError(errno.EROFS, "read-only", "/x"), RecordingCause.PERMISSION),
        (va.RecorderError(errno.EIO, "broken", "/x"), RecordingCause.DISK),
        (va.RecorderError("the ring has JPEGs"), RecordingCause.FORMAT),
        (va.ConnectError(errno.EPERM, "refused"), RecordingCause.RING),
        (ZeroDivisionError(), RecordingCause.INTERNAL),
    ],
)
def test_each_error_has_a_cause(error: Exception, cause: RecordingCause) -> None:
    assert cause_of(error) is cause


def test_the_text_of_an_error_is_a_sentence_about_the_file() -> None:
    error = va.RecorderError(errno.ENOSPC, "cannot be written: No space left on device", "/x/a.mp4")
    assert str(error) == "/x/a.mp4: cannot be written: No space left on device"
    assert str(va.RecorderError("only this")) == "only this"
