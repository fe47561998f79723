# SPDX-License-Identifier: MIT
"""What `top` makes of the answers it gets: rates, rows, and a table that fits."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from rich.console import Console

from support.status import NOTHING_STORED, differing
from valkka_async import typed
from valkka_async.camera.spec import CameraSpec, Output
from valkka_async.camera.status import (
    WARNINGS,
    CameraState,
    CameraStatus,
    CameraWarning,
    Cause,
    before_start,
    of_streams,
)
from valkka_async.camera.workers.status import WorkerEnd, WorkerState, WorkerStatus
from valkka_async.cli import reports
from valkka_async.cli.figures import (
    GONE,
    IDLE,
    MISSING,
    OTHER,
    SILENT,
    CameraFigures,
    Collector,
    Figures,
    Look,
    RingFigures,
    Silence,
)
from valkka_async.cli.reports import ReaderReport, ServerReport
from valkka_async.cli.survey import program
from valkka_async.cli.topview import View, document, lines, widths
from valkka_async.errors import DataError
from valkka_async.service.status import CameraReport, RecordingState, RecordingStatus, ServiceStatus

T0 = 1_700_000_000_000_000_000  # Unix, ns
URL = "rtsp://127.0.0.1/cam"
LIVE, STALLED, WAITING = CameraState.LIVE, CameraState.STALLED, CameraState.WAITING


def client(id: int, received: int, dropped: int, **more: Any) -> ReaderReport:
    return replace(ReaderReport(id, 70 + id, "latest", received, dropped, 0), **more)


def camera(name: str, rings: list[str], **more: Any) -> CameraStatus:
    """A camera's status, of which each of its rings speaks."""
    outputs = tuple(Output(ring, "fmp4" if ring.endswith("fmp4") else "rgb24") for ring in rings)
    values = {
        "state": LIVE,
        "codec": "h264",
        "width": 1920,
        "height": 1080,
        "fps": 25.0,
        "last_packet_ns": T0,
    }
    return differing(before_start(CameraSpec(name, URL, outputs), since_ns=T0), **values | more)


def ring(at: float, published: int, **more: Any) -> ServerReport:
    """A server's answer, given at that second."""
    now_ns = int(at * 1e9)
    last_ns = now_ns if published else 0
    frame = ("rgb24", (192, 320, 3)) if published else ("", ())
    report = ServerReport(
        50, now_ns, last_ns, published, 0, published * 1000, 0, 16, 3, 0, False, *frame, (), None
    )
    return replace(report, **more)


def worker(name: str, **more: Any) -> WorkerStatus:
    state = WorkerStatus((name,), WorkerState.RUNNING, 50, T0, 0, None, None, "", 1.0, 9_000_000)
    return replace(state, **more)


def service(*cameras: CameraStatus, **more: Any) -> ServiceStatus:
    """One that says `more` of each of them."""
    return ServiceStatus(
        "home", "1", 7, T0, T0, True, tuple(report(one, **more) for one in cameras), NOTHING_STORED, None
    )


def report(of: CameraStatus, **more: Any) -> CameraReport:
    values: dict[str, Any] = {
        "title": of.name,
        "group": "",
        "state": of.state,
        "cause": of.cause,
        "reason": of.reason,
        "since_ns": T0,
        "retry_in": of.retry_in,
        "age": None,
        "cpu": 0.0,
        "ring_fps": {},
        "live": None,
        "still": None,
        "recording": None,
        "stored": None,
        "worker": worker(of.name),
    }
    return CameraReport(name=of.name, camera=of, **values | more)


def look(servers: dict[str, Any], services: dict[str, Any] | None = None, at: float = 0) -> Look:
    return Look(T0 + int(at * 1e9), servers, services or {}, {71: "detect.py"})


def shown(figures: Figures, width: int = 200, height: int | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    return [
        "".join(s.text for s in line).rstrip() for line in console.render_lines(View(figures, (), height))
    ]


def one_camera(figures: Figures) -> CameraFigures:
    (row,) = figures.cameras
    return row


def one_server(figures: Figures) -> RingFigures:
    (row,) = figures.servers
    return row


# -------------------------------------------------------------------------------------------- rates


def test_rates_are_counts_over_the_time_that_the_servers_tell() -> None:
    collector = Collector()
    first = collector.take(look({"a": ring(10, 100, clients=(client(1, 90, 10),))}))
    assert (one_server(first).fps, one_server(first).clients[0].fps) == (None, None)  # nobody can know yet
    row = one_server(collector.take(look({"a": ring(12, 150, dropped=4, clients=(client(1, 110, 40),))})))
    assert (row.fps, row.drop_rate, row.bit_rate) == (25.0, 2.0, None)  # a bit rate of pixels says nothing
    (reader,) = row.clients
    assert (reader.fps, reader.drop_rate, reader.process, reader.pid) == (10.0, 15.0, "detect.py", 71)


def test_a_stream_has_a_bit_rate() -> None:
    collector = Collector()
    collector.take(look({"a": ring(10, 100, format="h264", shape=(1000,))}))
    figures = collector.take(look({"a": ring(12, 150, format="h264", shape=(1000,))}))
    assert one_server(figures).bit_rate == 200_000.0
    assert any("h264 0.2 Mb/s" in line for line in shown(figures))


def test_rates_are_those_of_the_last_seconds() -> None:
    collector = Collector()
    for second in range(8):
        collector.take(look({"a": ring(second, 25 * second)}))
    for second in range(8, 12):
        row = one_server(collector.take(look({"a": ring(second, 175)})))
    assert row.fps == 0.0


def test_a_late_answer_that_was_counted_already_is_no_news() -> None:
    collector = Collector()
    for _ in range(3):
        row = one_server(collector.take(look({"a": ring(10, 100)})))
        assert row.fps is None
    assert one_server(collector.take(look({"a": ring(12, 150)}))).fps == 25.0


@pytest.mark.parametrize("again", [{"pid": 50}, {"pid": 51}], ids=["same process", "other process"])
def test_no_rate_spans_the_restart_of_a_server(again: dict[str, object]) -> None:
    collector = Collector()
    collector.take(look({"a": ring(10, 100)}))
    collector.take(look({"a": ring(11, 125)}))
    published = 5 if again["pid"] == 50 else 500
    row = one_server(collector.take(look({"a": ring(12, published, **again)})))
    assert row.fps is None
    assert one_server(collector.take(look({"a": ring(13, published + 30, **again)}))).fps == 30.0


def test_two_readers_of_one_process_are_told_apart_whatever_their_order() -> None:
    collector = Collector()
    one, two = client(1, 10, 90, pid=71), client(2, 100, 0, pid=71)
    collector.take(look({"a": ring(10, 100, clients=(one, two))}))
    one, two = client(1, 20, 180, pid=71), client(2, 200, 200, pid=71)
    row = one_server(collector.take(look({"a": ring(20, 200, clients=(two, one))})))
    assert [(c.id, c.fps, c.drop_rate) for c in row.clients] == [(2, 10.0, 20.0), (1, 1.0, 9.0)]


def test_cpu_is_of_the_cameras_thread_between_two_answers() -> None:
    collector = Collector()
    collector.take(look({"cam": ring(10, 0, camera=camera("cam", ["cam"], cpu_s=7.0))}))
    row = one_camera(collector.take(look({"cam": ring(12, 0, camera=camera("cam", ["cam"], cpu_s=7.5))})))
    assert row.cpu == 0.25


def test_nothing_is_remembered_of_who_is_gone() -> None:
    collector = Collector()
    for second in range(50):
        name = f"cam{second}"
        answer = ring(second, 1, camera=camera(name, [name]), clients=(client(second, 1, 0),))
        collector.take(look({name: answer}, {f"s{second}": service()}))
    sizes = [len(value) for value in vars(collector).values() if isinstance(value, dict | set)]
    assert max(sizes) == 1


# --------------------------------------------------------------------------------------------- rows


def test_rings_of_a_camera_are_below_it_and_its_newest_word_counts() -> None:
    rings = ["cam", "cam.fmp4"]
    old = camera("cam", rings, state=LIVE, reconnects=1)
    new = camera("cam", rings, state=STALLED, reason="no frame for 3 s", fps=20.0, reconnects=2)
    figures = Collector().take(
        look({"cam.fmp4": ring(11, 5, camera=new), "cam": ring(10, 5, camera=old), "other": ring(10, 5)})
    )
    row = one_camera(figures)
    assert (row.name, row.state, row.reason, row.reconnects) == ("cam", "stalled", "no frame for 3 s", 2)
    assert row.fps == 0.0  # whatever it had in its last good seconds
    assert [(r.name, r.format) for r in row.rings] == [("cam", "rgb24"), ("cam.fmp4", "fmp4")]
    assert one_server(figures).name == "other"


def test_cameras_of_one_name_in_two_processes_are_two() -> None:
    figures = Collector().take(
        look(
            {
                "a": ring(10, 5, pid=50, camera=camera("cam", ["a"])),
                "b": ring(10, 5, pid=51, camera=camera("cam", ["b"])),
            }
        )
    )
    assert [(row.name, row.pid) for row in figures.cameras] == [("cam", 50), ("cam", 51)]


def test_a_camera_without_rings_is_known_from_its_service() -> None:
    collector = Collector()
    alive = camera("cam", ["cam"])
    collector.take(look({"cam": ring(10, 1, camera=alive)}))
    dead = service(
        alive,
        state=WAITING,
        reason="the worker process was killed by SIGKILL",
        retry_in=3.0,
        cpu=0.4,
        worker=worker("cam", state=WorkerState.WAITING, pid=None, restarts=2, last_end=WorkerEnd.KILLED),
    )
    figures = collector.take(look({"cam": Silence(GONE)}, {"home": dead}))
    row = one_camera(figures)
    assert (row.service, row.state, row.retry_in, row.restarts, row.rings) == ("home", "waiting", 3.0, 2, ())
    assert (row.fps, figures.servers) == (None, ())
    text = "\n".join(shown(figures))
    assert "waiting 3 s" in text and "cam: the worker process was killed by SIGKILL" in text


def test_what_rings_and_service_say_of_a_camera_is_one_row() -> None:
    alive = camera("cam", ["cam"])
    recording = RecordingStatus(RecordingState.WRITING, True, True, T0, "x", 1.0, T0, 1, 1, 0, None, None)
    again = worker("cam", restarts=1, last_end=WorkerEnd.KILLED, last_exit="was killed by SIGSEGV")
    known = service(alive, state=CameraState.CONNECTING, worker=again, recording=recording)
    row = one_camera(figures := Collector().take(look({"cam": ring(10, 1, camera=alive)}, {"home": known})))
    assert (row.state, row.service, row.restarts, row.rss) == ("live", "home", 1, 9_000_000)
    assert (row.last_end, row.recording) == (WorkerEnd.KILLED, recording)
    assert "cam: started again once: its process was killed by SIGSEGV" in shown(figures)


def test_what_could_be_better_is_told_once_for_all_cameras() -> None:
    slow = [camera(name, [name], warnings=(CameraWarning.SLOW_PIXELS,)) for name in ("a", "b")]
    figures = Collector().take(look({one.name: ring(10, 1, camera=one) for one in slow}))
    assert f"a, b: {WARNINGS[CameraWarning.SLOW_PIXELS]}" in shown(figures)


def test_a_service_that_hangs_is_said_so_and_its_cameras_stay() -> None:
    collector = Collector()
    home = service(camera("cam", ["cam"]), worker=worker("cam", restarts=3))
    collector.take(look({"cam": ring(10, 1, camera=camera("cam", ["cam"]))}, {"home": home}))
    silent = Silence(SILENT, "it has not answered for long")
    figures = collector.take(look({"cam": ring(11, 1, camera=camera("cam", ["cam"]))}, {"home": silent}))
    assert (one_camera(figures).restarts, one_camera(figures).state) == (3, "live")
    assert "service home: it has not answered for long" in shown(figures)
    figures = collector.take(look({}, {}))
    assert figures.cameras == ()


def test_a_camera_whose_process_hangs_stays_and_says_so() -> None:
    collector = Collector()
    collector.take(look({"cam": ring(10, 1, camera=camera("cam", ["cam"], reconnects=4))}))
    for _ in range(3):
        figures = collector.take(look({"cam": Silence(SILENT, "not for long")}))
        row = one_camera(figures)
        assert (row.state, row.reason, row.reconnects, row.fps, row.cpu) == (
            SILENT,
            "not for long",
            4,
            None,
            None,
        )
        assert figures.servers == ()
    assert (
        one_camera(collector.take(look({"cam": ring(30, 9, camera=camera("cam", ["cam"]))}))).state == "live"
    )


def test_a_camera_whose_process_died_stays_as_long_as_its_sockets() -> None:
    collector = Collector()
    collector.take(look({"cam": ring(10, 1, camera=camera("cam", ["cam"])), "old": Silence(GONE)}))
    for _ in range(3):
        figures = collector.take(look({"cam": Silence(GONE), "old": Silence(GONE)}))
        assert (one_camera(figures).state, figures.servers) == (GONE, ())
        assert "cam: its process (50) has died" in shown(figures)
    assert collector.take(look({})).cameras == ()


def test_a_server_that_is_no_camera_is_live_or_idle_or_says_why_not() -> None:
    collector = Collector()
    other = Silence(OTHER, "the other side has version 7")
    for at in (10, 11):
        figures = collector.take(
            look(
                {
                    "on": ring(at, at),
                    "off": ring(at, 3, last_published_ns=1),
                    "new": ring(at, 0),
                    "odd": other,
                }
            )
        )
    assert {row.name: row.state for row in figures.servers} == {
        "on": "live",
        "off": IDLE,
        "new": IDLE,
        "odd": OTHER,
    }
    assert "odd: the other side has version 7" in shown(figures)


def test_rows_are_sorted_by_name_with_numbers_as_numbers() -> None:
    names = ["demo10", "demo2", "a-1-2", "a-1-10", "Demo1", "demo"]
    cameras = {name: ring(1, 0, camera=camera(name, [name])) for name in names}
    figures = Collector().take(look(cameras))
    assert [row.name for row in figures.cameras] == ["Demo1", "a-1-2", "a-1-10", "demo", "demo2", "demo10"]


def test_names_and_patterns_choose_cameras_and_servers() -> None:
    servers = {
        "cam1": ring(1, 0, camera=camera("cam1", ["cam1", "small1"])),
        "small1": ring(1, 0, camera=camera("cam1", ["cam1", "small1"])),
        "cam2": ring(1, 0, camera=camera("cam2", ["cam2"])),
        "plain": ring(1, 0),
    }

    def chosen(*names: str) -> tuple[list[str], list[tuple[str, str]]]:
        figures = Collector(names).take(look(servers))
        return [row.name for row in figures.cameras], [(row.name, row.state) for row in figures.servers]

    assert chosen("cam*") == (["cam1", "cam2"], [])
    assert chosen("small1") == (["cam1"], [])  # by its ring
    assert chosen("plain", "nope") == ([], [("nope", MISSING), ("plain", IDLE)])
    assert chosen("none*") == ([], [])


def answer(**more: object) -> dict[str, object]:
    """What comes through a server's socket."""
    status = typed.encode(camera("cam", ["cam"]))
    return {**asdict(ring(10, 5)), "clients": [asdict(client(1, 2, 3))], "camera": status} | more


def test_an_answer_is_read_whatever_else_there_is_in_it() -> None:
    known = reports.decode(answer(news=7, clients=[asdict(client(1, 2, 3)) | {"uid": 0}]))
    assert known == ring(10, 5, clients=(client(1, 2, 3),), camera=camera("cam", ["cam"]))
    plain = asdict(ring(10, 5))
    del plain["clients"], plain["camera"]
    assert reports.decode(plain) == ring(10, 5)


@pytest.mark.parametrize(
    "more",
    [
        {"now_ns": "soon"},
        {"published": None},
        {"clients": 7},
        {"clients": [7]},
        {"clients": [{"pid": "x"}]},
        {"camera": "front"},
        {"camera": {}},
        {"camera": typed.encode(camera("cam", ["cam"])) | {"state": "dreaming"}},
        {"camera": typed.encode(camera("cam", ["cam"])) | {"schema": 99}},
    ],
)
def test_an_answer_of_another_version_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(DataError):
        reports.decode(answer(**more))


# ------------------------------------------------------------------------------------------- a view


def fleet(cameras: int, *, down: int = 0, readers: int = 1) -> Figures:
    """The first of them are down, each for a reason of its own. Every other one has so many readers, of which
    all but the first lose frames; the others have one."""
    collector = Collector()
    for at in (10, 12):
        servers = {}
        for n in range(cameras):
            name = f"camera-with-a-long-name-{n}"
            names = [name, f"{name}.fmp4", f"{name}.jpeg"]
            why = {"state": WAITING, "reason": f"{URL}: reason {n}", "retry_in": 2.0} if n < down else {}
            status = camera(name, names, **why)
            count = readers if n % 2 == 0 else 1
            clients = tuple(client(i, at * 10, at * i, policy="ordered") for i in range(count))
            servers[name] = ring(at, at * 25, readers=count, clients=clients, camera=status)
            servers |= {other: ring(at, 0, camera=status) for other in names[1:]}
        figures = collector.take(look(servers))
    return figures


@pytest.mark.parametrize("cameras, down", [(1, 0), (4, 1), (16, 3), (40, 40)])
def test_the_table_fits_a_terminal_of_any_size(cameras: int, down: int) -> None:
    figures = fleet(cameras, down=down, readers=2)
    for width, height in itertools.product((60, 80, 104, 140), (8, 12, 24, 50)):
        view = shown(figures, width, height)
        assert len(view) <= height
        assert all(len(line) <= width for line in view)
        if cameras < 16 and height == 50:
            assert view == shown(figures, width)
        # However many are down: each camera has its line before the second has its reason.
        if (cameras, height) != (16, 24):
            continue
        states = [line.split()[1] for line in view if line.strip().startswith("camera-")]
        assert [state for state in states if state in ("live", "waiting")] == ["waiting"] * 3 + ["live"] * 13


def test_what_does_not_fit_goes_in_order_of_what_it_says() -> None:
    figures = fleet(4, readers=2)

    def has(height: int | None) -> str:
        text = "\n".join(shown(figures, 140, height))
        marks = {
            "idle": "2 rings",
            "well": "  70",  # readers without trouble
            "ring": "1 reader ",  # of which all readers are well
            "slow": "71 detect.py",
            "camera": "camera-with-a-long-name-3",
        }
        return " ".join(name for name, mark in marks.items() if mark in text)

    full = len(shown(figures, 140))
    assert has(None) == has(full) == "idle well ring slow camera"
    assert has(full - 1) == "well ring slow camera"
    assert has(15) == "ring slow camera"
    assert has(11) == "slow camera"
    assert has(8) == "camera"
    assert "(2 losing)" in shown(figures, 140, 8)[0]  # it is not passed over in silence


def test_rings_that_nobody_reads_are_one_row() -> None:
    (row,) = [line.split() for line in shown(fleet(1, readers=1), 140) if "no reader" in line]
    assert row == ["2", "rings", "no", "reader", "fmp4,", "rgb24", "0"]


def test_drops_of_a_reader_stand_beside_its_pid_and_name() -> None:
    figures = fleet(1, readers=2)
    (line,) = [line for line in shown(figures) if "71 detect.py" in line]
    assert line.split() == ["71", "detect.py", "ordered", "loses", "1.0/s", "10.0", "12"]
    (line,) = [line for line in lines(figures) if "71 detect.py" in line]
    assert line.endswith("/71 detect.py  ordered  10.0 fps  12 dropped (1.0/s)")


def test_a_reader_that_has_stopped_reading_is_named() -> None:
    collector = Collector()
    for at in (10, 12):
        figures = collector.take(look({"a": ring(at, at * 25, readers=1, clients=(client(1, 3, 0),))}))
    assert any("71 detect.py" in line and "reads nothing" in line for line in shown(figures))


def test_the_same_reason_is_said_once() -> None:
    servers = {
        f"cam{n}": ring(1, 0, camera=camera(f"cam{n}", [f"cam{n}"], state=WAITING, reason=f"{URL}: refused"))
        for n in range(8)
    }
    assert "cam0, cam1, cam2, cam3 and 4 more: refused" in shown(Collector().take(look(servers)))


def test_nothing_from_outside_reaches_the_terminal_as_a_command() -> None:
    evil = "\x1b]0;evil\x07\x1b[2J\r\n"
    status = camera("cam", ["cam"], state=CameraState.FAILED, reason=f"no{evil}")
    answer = ring(1, 0, camera=status, readers=1, clients=(client(1, 0, 0),))
    figures = Collector().take(Look(T0, {"cam": answer}, {}, {71: f"sh{evil}"}))
    for line in [*shown(figures), *lines(figures)]:
        assert line.isprintable()
    assert any("71 sh?" in line for line in shown(figures))


def test_a_lying_reader_does_not_spoil_the_table() -> None:
    answer = ring(1, 5, readers=1, clients=(client(1, 2**64 - 1, 2**64 - 1),))
    assert any(">999T" in line for line in shown(Collector().take(look({"a": answer})), 80))


def test_names_are_whole_as_long_as_a_terminal_has_room_for_them() -> None:
    """The other columns go first."""
    figures = fleet(2, down=1)
    for width in range(58, 140):
        assert sum("camera-with-a-long-name-" in line for line in shown(figures, width)) >= 4, width
    for width in range(widths(figures)[0], 140):
        view = shown(figures, width)
        assert all(len(line) <= width for line in view)
        for n in range(2):
            row = next(line for line in view if line.lstrip().startswith(f"camera-with-a-long-name-{n} "))
            assert ("waiting 2 s", "live")[n] in row


def test_where_nobody_looks_nothing_is_cut() -> None:
    figures = fleet(2, down=1, readers=3)
    assert not any("\u2026" in line for line in shown(figures, widths(figures)[1]))


def test_the_document_has_every_figure_and_only_what_json_has() -> None:
    figures = fleet(2, down=1, readers=2)
    values = json.loads(json.dumps(document(figures), allow_nan=False))
    first, second = values["cameras"]
    assert (first["state"], first["retry_in"], second["readers"]) == ("waiting", 2.0, 1)
    reader = first["rings"][0]["clients"][1]
    assert (reader["pid"], reader["process"], reader["policy"]) == (71, "detect.py", "ordered")
    assert (reader["fps"], reader["dropped"], reader["drop_rate"]) == (10.0, 12, 1.0)


# ------------------------------------------------------------------------------------------- names


def test_a_python_is_called_by_its_script_and_no_argument_is_shown() -> None:
    for arguments, name in {
        "detect.py rtsp://user:secret@host": "detect.py",
        "-u -W error -X dev /opt/app/main.py": "main.py",
        "-um my_app.main --password secret": "my-app",
        "-m valkka_async top": "valkka-async",
        "-c secret": "",
        "-Ic secret": "",
        "--check-hash-based-pycs never secret": "",
        "": "",
    }.items():
        assert program(["/usr/bin/python3", *arguments.split(" ")]) == name


@pytest.mark.parametrize("field", ["now_ns", "published", "last_published_ns", "pid"])
@pytest.mark.parametrize("value", [10**400, 1 << 63, -(1 << 63) - 1])
def test_a_report_with_numbers_that_no_counter_reaches_is_refused(field: str, value: int) -> None:
    """One such server would otherwise end `top` for all, as no float is so large."""
    values = {
        "bytes": 0, "clients": [], "dropped": 0, "format": "rgb24", "last_published_ns": 1, "now_ns": 2,
        "pid": 1, "published": 1, "readers": 0, "shape": [4, 4, 3], "slots": 4, "slots_used": 1,
        "backlog": 1, "backlog_outgrown": False,
    }  # fmt: skip
    assert reports.decode(values).pid == 1
    with pytest.raises(DataError):
        reports.decode(values | {field: value})


def test_what_others_say_of_themselves_does_not_reach_the_terminal_as_commands() -> None:
    evil = "\x1b[31m\n"
    cam = camera("c", ["r"], codec=evil, width=4, height=4)
    servers: dict[str, Any] = {
        "r": replace(ring(0, 1, clients=(client(1, 1, 0, policy=evil),)), format=evil, camera=cam),
        "s": replace(ring(0, 1, clients=(client(2, 1, 0, policy=evil),)), format=evil),
    }
    figures = Collector().take(look(servers))
    text = "\n".join([*lines(figures), *shown(figures)])
    assert "?[31m?" in text and "\x1b[31m" not in text


# -------------------------------------------------------------------------------------- streams


def two_streams(main: dict[str, Any], sub: dict[str, Any], **more: Any) -> CameraStatus:
    """A camera whose two streams have these values."""
    outputs = (Output("cam", stream="sub"), Output("cam.fmp4", "fmp4", stream="main"))
    spec = CameraSpec("cam", outputs=outputs, streams={"main": f"{URL}/1", "sub": f"{URL}/2"})
    status = differing(before_start(spec, LIVE, pid=50, since_ns=T0), codec="h264", last_packet_ns=T0)
    streams = (replace(status.streams[0], **main), replace(status.streams[1], **sub))
    return of_streams("cam", 50, streams, (), status.outputs)


def test_each_of_several_streams_has_a_row_and_its_own_figures() -> None:
    collector = Collector()
    for second in (0, 2):
        cam = two_streams(
            {"fps": 25.0, "width": 1920, "height": 1080, "cpu_s": 0.2 * second},
            {"fps": 10.0, "width": 640, "height": 360, "cpu_s": 0.1 * second},
        )
        answers = {name: ring(second, second * 10, camera=cam) for name in ("cam", "cam.fmp4")}
        figures = collector.take(look(answers, at=second))
    (row,) = figures.cameras
    assert [(s.name, s.fps, s.width) for s in row.streams] == [("main", 25.0, 1920), ("sub", 10.0, 640)]
    assert [s.cpu for s in row.streams] == pytest.approx([0.2, 0.1]) and row.cpu == pytest.approx(0.3)
    rows = [" ".join(line.split()) for line in shown(figures)]
    assert any(line.startswith("main live h264 1920x1080 25.0") for line in rows)
    assert any(line.startswith("sub live h264 640x360 10.0") for line in rows)
    assert sum("live" in line.split() for line in rows[1:]) == 3
    assert any(line.startswith("cam/sub  live") for line in lines(figures))
    data = document(figures)["cameras"][0]["streams"]
    assert [one["name"] for one in data] == ["main", "sub"]


def test_where_there_is_little_room_only_streams_in_trouble_have_a_row_and_all_reasons_are_told() -> None:
    waits = {"state": WAITING, "cause": Cause.BUSY, "reason": f"{URL}/2: too many viewers", "retry_in": 3.0}
    cam = two_streams({"fps": 25.0}, waits)
    figures = Collector().take(look({"cam": ring(0, 1, camera=cam, readers=1, clients=(client(1, 1, 0),))}))
    (row,) = figures.cameras
    assert (row.state, row.cause) == (WAITING, Cause.BUSY)
    tall, low = shown(figures), shown(figures, height=7)
    assert "cam: sub: too many viewers" in tall[-1] and URL not in "".join(tall)
    assert any(line.split()[:2] == ["main", "live"] for line in tall)
    assert not any(line.split()[:2] == ["main", "live"] for line in low)
    assert any(line.split()[:2] == ["sub", "waiting"] for line in low)


def test_a_camera_of_one_stream_has_no_row_for_it() -> None:
    figures = Collector().take(look({"r": ring(0, 1, camera=camera("c", ["r"]))}))
    assert len([line for line in shown(figures) if "h264" in line]) == 1
    assert [one.name for one in figures.cameras[0].streams] == [""]
