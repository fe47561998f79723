"""Records of cameras and workers: causes of errors, and what is shown of a camera whose process is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

import valkka_async as va
from support.status import differing
from valkka_async.camera.status import WARNINGS, CameraState, CameraWarning, Cause, before_start, cause_of
from valkka_async.camera.workers.status import WorkerEnd, WorkerState, WorkerStatus, combine

SPEC = va.CameraSpec("cam", "rtsp://me:secretpw@10.0.0.7/live")
LIVE = differing(before_start(SPEC, CameraState.LIVE, pid=7, since_ns=5), fps=25.0, codec="h264")
RUNNING = WorkerStatus(("cam",), WorkerState.RUNNING, 7, 1, 0, None, None, "", 1.0, 1)
DEAD = WorkerStatus(
    ("cam",), WorkerState.WAITING, None, 9, 1, 3.0, WorkerEnd.KILLED, "was killed by SIGSEGV", 0.0, 0
)


def test_each_error_of_a_camera_has_a_cause_of_its_own() -> None:
    kinds = [kind for kind in va.CameraError.__subclasses__() if kind.__module__.startswith("valkka_async")]
    causes = [cause_of(kind("text")) for kind in kinds]
    assert len(kinds) >= 6 and len(set(causes)) == len(kinds) and Cause.INTERNAL not in causes


def test_each_warning_is_told_in_words() -> None:
    assert set(WARNINGS) == set(CameraWarning) and all(WARNINGS.values())


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (va.NameInUseError(98, "taken"), Cause.RING),
        (va.RingMemoryError("no memory"), Cause.RING),
        (va.CameraError("of no kind"), Cause.INTERNAL),
        (ZeroDivisionError(), Cause.INTERNAL),
    ],
)
def test_other_errors_have_a_cause_too(error: Exception, cause: Cause) -> None:
    assert cause_of(error) is cause


def test_a_camera_in_a_process_that_runs_speaks_for_itself() -> None:
    waiting = replace(
        LIVE, state=CameraState.WAITING, cause=Cause.TIMEOUT, reason="no frame", since_ns=6, retry_in=2.0
    )
    for camera, age, retry_in in ((LIVE, 0.5, None), (waiting, 0.5, 1.5), (waiting, 9.0, 0.0)):
        status = combine(camera, RUNNING, age)
        assert (status.state, status.cause, status.reason, status.since_ns) == (
            camera.state,
            camera.cause,
            camera.reason,
            camera.since_ns,
        )
        assert (status.retry_in, status.current) == (retry_in, True)


def test_the_last_word_of_a_camera_whose_process_is_gone_is_neither_changed_nor_shown() -> None:
    status = combine(LIVE, DEAD, 1.0)
    assert (status.state, status.cause, status.retry_in, status.since_ns) == ("waiting", Cause.WORKER, 3.0, 9)
    assert DEAD.last_exit in status.reason
    assert status.camera is LIVE and not status.current


@pytest.mark.parametrize("state", [WorkerState.STARTING, WorkerState.RUNNING])
def test_a_camera_of_which_the_new_process_has_said_nothing_is_connecting(state: WorkerState) -> None:
    first = combine(before_start(SPEC), replace(RUNNING, state=state), 0.0)
    assert (first.state, first.cause, first.reason) == ("connecting", None, "")
    again = combine(LIVE, replace(DEAD, state=state, pid=8, retry_in=None), 0.0)
    assert (again.state, again.cause, again.current) == ("connecting", Cause.WORKER, False)


def test_a_camera_that_does_not_run_shows_no_credentials() -> None:
    assert "secretpw" not in str(before_start(SPEC)) and before_start(SPEC).url
