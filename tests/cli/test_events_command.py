# SPDX-License-Identifier: MIT
"""`valkka-async events`: a line for each event."""

from __future__ import annotations

import json
import os
import select
import signal

import pytest

import valkka_async as va
from support.program import Program, one_line, run
from support.until import SECONDS, wait_for


def test_events_are_lines_for_people_and_for_programs() -> None:
    with va.serve("cam1") as server:
        server.emit("first")
        with Program("events", "cam*") as people, Program("events", "--json", "--code", "per*") as machines:
            wait_for(lambda: _readers(server) == 2)
            server.emit("cat", camera="yard")
            server.emit("person", "\x1b[31mred\n", camera="cam1", score=0.5)
            server.emit("dog", score=0.5, name="Rex")
            assert people.line()[20:] == "cam1 person: \\u001b[31mred\\u000a"
            assert people.line()[20:] == "cam1 dog: score=0.5 name=Rex"
            event = json.loads(machines.line())
            assert (event["code"], event["fields"], event["missed"]) == ("person", {"score": 0.5}, 0)
            for program in (people, machines):
                program.signal(signal.SIGINT)
                assert program.finish() == (0, "")


def _readers(server: va.Server) -> int:
    """Of its ring of events."""
    from valkka_async.ring.connection import report

    said = report(f"{server.name}.events", 1.0)
    return 0 if said is None else said["readers"]


def test_rings_of_events_are_shown_by_top_only_when_they_are_asked_for() -> None:
    with va.serve("cam1", events=True):
        shown = json.loads(run("top", "--once", "--json").stdout)
        assert [one["name"] for one in shown["servers"]] == ["cam1"]
        shown = json.loads(run("top", "--once", "--json", "cam1.events").stdout)
        assert [one["name"] for one in shown["servers"]] == ["cam1.events"]


def test_a_name_that_is_none_is_refused() -> None:
    done = run("events", "a b")
    assert done.returncode == 1 and "neither a name nor a pattern" in one_line(done.stderr)


def test_it_can_be_ended_while_nobody_reads_them() -> None:
    with va.serve("cam1") as server:
        server.emit("first")
        with Program("events", "--json") as program:
            wait_for(lambda: _readers(server) == 1)
            wait_for(lambda: server.emit("n", "ü" * 900) and _filled(program))
            program.signal(signal.SIGTERM)
            assert program.process.wait(SECONDS) == 0
            codes = [json.loads(program.line())["code"] for _ in range(5)]
            assert codes == ["n"] * 5  # what was printed is whole


def _filled(program: Program) -> bool:
    """Nothing more fits into the pipe of its output."""
    pipe = os.open(f"/proc/{program.pid}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [pipe], [], 0)[1]
    finally:
        os.close(pipe)


def test_a_terminal_that_does_not_know_all_letters_gets_them_written_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with va.serve("cam1") as server:
        server.emit("first")
        with Program("events") as program:
            wait_for(lambda: _readers(server) == 1)
            server.emit("n", "Tür \u2028")
            assert program.line().endswith(" cam1 n: T\\xfcr \\u2028")
            assert program.end(signal.SIGTERM) == (0, "")
