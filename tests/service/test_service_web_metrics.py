"""/metrics says what the status says, in words that Prometheus reads."""

from __future__ import annotations

import re

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from web_tools import Stand, camera, looking, once, recording, served, worker

from valkka_async.camera.status import CameraState
from valkka_async.record.cause import RecordingCause
from valkka_async.record.index import Stored
from valkka_async.service.status import RecordingError, RecordingState, RecordingStatus

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(client: aiohttp.ClientSession) -> Samples:
    async with client.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await answer.text()
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert re.fullmatch(r"(valkka|process)_[a-z_]+", family.name), family.name
        assert family.documentation
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, key
            assert (family.type == "counter") == sample.name.endswith("_total"), sample
            samples[key] = sample.value
    return samples


def value(samples: Samples, metric: str, /, **labels: str) -> float | None:
    return samples.get((metric, tuple(sorted(labels.items()))))


@once
async def test_metrics_tell_what_the_status_tells() -> None:
    stand = Stand()
    wrong = {"state": CameraState.FAILED, "reason": 'a "wrong\\ one', "age": None, "fps": 0.0}
    stand.cameras["yard"] = camera("yard", **wrong)
    stand.change("front", recording=recording(bytes=12345, dropped=6, files=2, always=True))
    stand.change("front", stored=Stored(777, 3, 1_600_000_000 * 10**9, 0))
    async with served(stand) as client:
        got = await scrape(client)
    front, yard = stand.cameras["front"], stand.cameras["yard"]
    for metric, key in (
        ("fps", "fps"),
        ("packets_total", "packets"),
        ("decoded_total", "decoded"),
        ("errors_total", "errors"),
        ("reconnects_total", "reconnects"),
        ("attempts_total", "attempts"),
        ("cpu_seconds_total", "cpu_s"),
    ):
        for report in (front, yard):
            there = value(got, f"valkka_camera_{metric}", camera=report.name)
            assert there == getattr(report.camera, key)
    for report in (front, yard):
        assert value(got, "valkka_camera_last_frame_age_seconds", camera=report.name) == report.age
    assert value(got, "valkka_camera_up", camera="front") == 1
    assert value(got, "valkka_camera_up", camera="yard") == 0
    states = {
        dict(labels)["state"]: number
        for (name, labels), number in got.items()
        if name == "valkka_camera_state" and dict(labels)["camera"] == "yard"
    }
    assert states == dict.fromkeys(CameraState, 0) | {"failed": 1}
    for output in front.camera.outputs:
        labels = {"camera": "front", "output": output.name, "format": output.format}
        for metric in ("published_total", "dropped_total", "skipped_total", "readers"):
            there = value(got, f"valkka_output_{metric}", **labels)
            assert there == getattr(output, metric.removesuffix("_total"))
        assert value(got, "valkka_output_fps", **labels) == front.ring_fps[output.name]
    assert value(got, "valkka_recording_active", camera="front") == 1
    assert value(got, "valkka_recording_active", camera="yard") == 0
    assert value(got, "valkka_recording_written_bytes_total", camera="front") == 12345
    assert value(got, "valkka_recording_dropped_frames_total", camera="front") == 6
    assert value(got, "valkka_recording_written_bytes_total", camera="yard") is None
    assert value(got, "valkka_recordings_bytes", camera="front") == 777
    assert value(got, "valkka_recordings_oldest_timestamp_seconds", camera="front") == 1_600_000_000
    assert value(got, "valkka_recordings_bytes", camera="yard") is None
    assert value(got, "valkka_recordings_problem") == 0
    assert value(got, "valkka_recordings_deleted_bytes_total") == 0
    assert value(got, "valkka_service_info", name="stand", version="1.2.3") == 1
    assert value(got, "valkka_service_start_time_seconds") == 1_700_000_000
    assert value(got, "valkka_service_ready") == 1
    assert value(got, "process_open_fds") and value(got, "process_resident_memory_bytes")


FULL = RecordingError(RecordingCause.DISK_FULL, "the disk is full", 1)


@once
@pytest.mark.parametrize(
    ("status", "active", "failed", "wanted"),
    [
        (None, 0, 0, 0),
        (recording(), 1, 0, 1),
        (recording(state=RecordingState.WAITING, path=None), 0, 0, 1),
        (recording(state=RecordingState.FAILED, error=FULL), 0, 1, 1),
        (recording(state=RecordingState.FAILED, error=FULL, active=False), 0, 1, 1),
        (recording(active=False), 0, 0, 1),
        (recording(state=RecordingState.ARMED, path=None), 0, 0, 0),
    ],
)
async def test_a_recording_is_active_while_it_is_written(
    status: RecordingStatus | None, active: int, failed: int, wanted: int
) -> None:
    stand = Stand({"front": camera(recording=status)}, ready=False)
    async with served(stand) as client:
        got = await scrape(client)
    assert value(got, "valkka_recording_active", camera="front") == active
    assert value(got, "valkka_recording_failed", camera="front") == failed
    assert value(got, "valkka_recording_wanted", camera="front") == wanted
    assert value(got, "valkka_service_ready") == 0


@once
async def test_a_process_that_several_cameras_share_is_counted_once() -> None:
    shared, dead = worker(7, "a", "b", restarts=1), worker(None, "c", "d", restarts=4)
    workers = {"a": shared, "b": shared, "c": dead, "d": dead}
    stand = Stand({name: camera(name, worker=one) for name, one in workers.items()})
    async with served(stand) as client:
        got = await scrape(client)
    restarts = {dict(labels)["worker"]: n for (name, labels), n in got.items() if "worker_restarts" in name}
    assert restarts == {"a": 1, "c": 4}
    memory = {dict(labels)["worker"]: n for (name, labels), n in got.items() if "resident_bytes" in name}
    assert memory == {"a": 30_000_000}
    # The last word of a camera whose process is gone is no rate of now.
    assert value(got, "valkka_camera_fps", camera="c") == 0
    assert value(got, "valkka_camera_packets_total", camera="c") == 1000


@once
async def test_what_browsers_do_is_counted() -> None:
    async with served(Stand()) as client:
        async with (
            looking(client),
            looking(client, format="jpeg"),
            client.ws_connect("/api/status/live") as events,
        ):
            await events.receive_str(timeout=5)
            got = await scrape(client)
            assert value(got, "valkka_page_viewers", format="fmp4") == 1
            assert value(got, "valkka_page_viewers", format="jpeg") == 1
            assert value(got, "valkka_page_listeners") == 1
            assert value(got, "valkka_page_connections") == 3
            assert value(got, "valkka_page_connections_limit") == 256
            assert value(got, "valkka_page_skipped_frames_total") == 0


@once
async def test_a_service_without_cameras_has_metrics_too() -> None:
    async with served(Stand({})) as client:
        assert value(await scrape(client), "valkka_service_cameras") == 0
