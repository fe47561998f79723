# SPDX-License-Identifier: MIT
"""GET /metrics: the service's status, for Prometheus.

Counts of a camera begin again with its worker process, as those of any process do: `rate()` and `increase()`
take that into account.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from valkka_async.camera.status import CameraState, OutputStatus, SoundState, StreamStatus
from valkka_async.record.index import Stored
from valkka_async.service.status import (
    CameraReport,
    HookStatus,
    RecordingState,
    RecordingStatus,
    ServiceStatus,
)
from valkka_async.service.tls import Certificate
from valkka_async.service.web.contract import Service
from valkka_async.service.web.happening import Happening
from valkka_async.service.web.live import Hubs
from valkka_async.service.web.statuses import Statuses
from valkka_async.service.web.visits import Visits

_SCRAPES = 4  # at once

# name, what it is, its value; None: there is no sample
_StreamMetric = tuple[str, str, Callable[[CameraReport, StreamStatus], float | None]]


def _up(camera: CameraReport, stream: StreamStatus) -> float | None:
    if not camera.current:
        return 0.0
    # That of a report whose process runs is the stream's own, if there is but one.
    return None if stream.state == CameraState.IDLE else float(stream.state == CameraState.LIVE)


def _age(camera: CameraReport, stream: StreamStatus) -> float | None:
    if camera.current and stream.state == CameraState.IDLE:
        return None
    if len(camera.camera.streams) == 1:
        return camera.age
    return max(0.0, (time.time_ns() - stream.last_packet_ns) / 1e9) if stream.last_packet_ns else None


def _sounds(camera: CameraReport, stream: StreamStatus) -> float | None:
    if stream.sound.state is SoundState.OFF or (camera.current and stream.state == CameraState.IDLE):
        return None
    return float(camera.current and stream.sound.state in (SoundState.LIVE, SoundState.IDLE))


_STREAM_GAUGES: tuple[_StreamMetric, ...] = (
    (
        "valkka_camera_up",
        "1: frames come from the camera; missing while it is idle, as nobody wants any.",
        _up,
    ),
    (
        "valkka_camera_last_frame_age_seconds",
        "Time since the last packet; missing if there was none, and while it is idle.",
        _age,
    ),
    (
        "valkka_camera_fps",
        "Frames per second, as received in the last seconds.",
        lambda r, s: s.fps if r.current else 0.0,
    ),
    (
        "valkka_camera_key_interval_seconds",
        "Time between the last key frames; 0: not known.",
        lambda r, s: s.key_interval,
    ),
    (
        "valkka_camera_sound_up",
        "1: sound comes from the camera; missing if it is not asked for, and while it is idle.",
        _sounds,
    ),
    ("valkka_camera_width_pixels", "Width of the frames; 0: not known.", lambda r, s: s.width),
    ("valkka_camera_height_pixels", "Height of the frames; 0: not known.", lambda r, s: s.height),
)
_STREAM_COUNTERS: tuple[_StreamMetric, ...] = (
    ("valkka_camera_packets", "Packets received.", lambda r, s: s.packets),
    ("valkka_camera_decoded", "Frames decoded.", lambda r, s: s.decoded),
    ("valkka_camera_errors", "Packets that could not be decoded or muxed.", lambda r, s: s.errors),
    ("valkka_camera_sound_packets", "Packets of sound received.", lambda r, s: s.sound.packets),
    (
        "valkka_camera_sound_errors",
        "Packets of sound that could not be decoded.",
        lambda r, s: s.sound.errors,
    ),
    ("valkka_camera_attempts", "Attempts to connect.", lambda r, s: s.attempts),
    ("valkka_camera_reconnects", "Attempts that gave frames, after the first.", lambda r, s: s.reconnects),
    ("valkka_camera_cpu_seconds", "CPU time of the camera's thread.", lambda r, s: s.cpu_s),
)
_OUTPUT_COUNTERS: tuple[tuple[str, str, Callable[[OutputStatus], float]], ...] = (
    ("valkka_output_published", "Frames published in the ring.", lambda o: o.published),
    (
        "valkka_output_dropped",
        "Frames for which the ring had no slot: readers hold them all.",
        lambda o: o.dropped,
    ),
    (
        "valkka_output_skipped",
        "Frames left out because of the output's fps, or as decoding was behind.",
        lambda o: o.skipped,
    ),
)
_RECORDING_GAUGES: tuple[tuple[str, str, Callable[[RecordingStatus | None], bool]], ...] = (
    (
        "valkka_recording_active",
        "1: frames of the camera are being written to a file.",
        lambda r: r is not None and r.active and r.state is RecordingState.WRITING,
    ),
    (
        "valkka_recording_failed",
        "1: the camera should be recorded, and that fails.",
        lambda r: r is not None and r.state is RecordingState.FAILED,
    ),
    (
        "valkka_recording_wanted",
        "1: the camera is to be recorded now, and not only when something happens.",
        lambda r: r is not None and r.state is not RecordingState.ARMED,
    ),
)
_RECORDING_COUNTERS: tuple[tuple[str, str, Callable[[RecordingStatus], float]], ...] = (
    ("valkka_recording_written_bytes", "Bytes written to files.", lambda r: r.bytes),
    ("valkka_recording_files", "Files begun.", lambda r: r.files),
    ("valkka_recording_dropped_frames", "Frames that were published and not recorded.", lambda r: r.dropped),
)


_STORED_GAUGES: tuple[tuple[str, str, Callable[[Stored], float]], ...] = (
    ("valkka_recordings_bytes", "Recordings that there are.", lambda s: s.bytes),
    ("valkka_recordings_files", "Files that there are.", lambda s: s.files),
    (
        "valkka_recordings_oldest_timestamp_seconds",
        "When the oldest one begins, Unix.",
        lambda s: s.oldest_ns / 1e9,
    ),
)


class Metrics:
    """The handler."""

    def __init__(
        self,
        service: Service,
        hubs: Hubs,
        statuses: Statuses,
        happening: Happening,
        visits: Visits,
        certificate: Certificate | None,
    ) -> None:
        self._service = service
        self._certificate = certificate
        self._hubs = hubs
        self._statuses = statuses
        self._happening = happening
        self._visits = visits
        self._scrapes = asyncio.Semaphore(_SCRAPES)

    async def handle(self, request: web.Request) -> web.Response:
        # Collected here, in the loop; rendered in a thread, where reading the process's own figures may
        # block.
        families = [*service_families(self._service.status()), *self._page()]
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Ready(families))
        async with self._scrapes:
            text = await asyncio.to_thread(_render, registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    def _page(self) -> Iterator[Metric]:
        if self._certificate is not None and (end := self._certificate.newest.end) is not None:
            yield GaugeMetricFamily(
                "valkka_page_certificate_end_timestamp_seconds",
                "When the page's certificate expires, Unix.",
                end,
            )
        viewers = GaugeMetricFamily(
            "valkka_page_viewers", "Browsers that are sent live video.", labels=["format"]
        )
        for format, count in self._hubs.viewers().items():
            viewers.add_metric([format], count)
        yield viewers
        yield GaugeMetricFamily(
            "valkka_page_listeners", "Browsers that follow the status.", len(self._statuses)
        )
        yield GaugeMetricFamily(
            "valkka_page_event_clients", "Clients that are sent events.", len(self._happening)
        )
        yield CounterMetricFamily(
            "valkka_page_dropped_events", "Events that clients were too slow for.", self._happening.dropped
        )
        yield GaugeMetricFamily("valkka_page_connections", "Streams that are open.", len(self._visits))
        yield GaugeMetricFamily(
            "valkka_page_connections_limit", "Streams that may be open.", self._visits.limit
        )
        yield CounterMetricFamily(
            "valkka_page_refused_connections", "Streams beyond the limit.", self._visits.refused
        )
        yield CounterMetricFamily(
            "valkka_page_skipped_frames",
            "Frames left out for browsers that are too slow.",
            self._hubs.skipped,
        )


class _Ready(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families

    def describe(self) -> Iterable[Metric]:
        return ()


def _render(registry: CollectorRegistry) -> bytes:
    ProcessCollector(registry=registry)
    return generate_latest(registry)


def service_families(status: ServiceStatus) -> Iterator[Metric]:
    """The families of metrics of a service's status."""
    info = InfoMetricFamily("valkka_service", "The service.")
    info.add_metric([], {"name": status.name, "version": status.version})
    yield info
    yield GaugeMetricFamily(
        "valkka_service_start_time_seconds", "When the service was started, Unix.", status.since_ns / 1e9
    )
    yield GaugeMetricFamily("valkka_service_ready", "1: all cameras have been started.", status.ready)
    yield GaugeMetricFamily("valkka_service_cameras", "Cameras of the config.", len(status.cameras))
    yield from _camera_families(status.cameras)
    yield from _output_families(status.cameras)
    yield from _recording_families(status.cameras)
    yield from _archive_families(status)
    yield from _hook_families(status.hooks)
    yield from _worker_families(status.cameras)


def _camera_families(cameras: Sequence[CameraReport]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "valkka_camera_state", "1 for the state that the camera is in.", labels=["camera", "state"]
    )
    for camera in cameras:
        for one in CameraState:
            state.add_metric([camera.name, one], camera.state is one)
    yield state
    for family, end, metrics in (
        (GaugeMetricFamily, "", _STREAM_GAUGES),
        (CounterMetricFamily, "_total", _STREAM_COUNTERS),
    ):
        for name, text, value in metrics:
            metric = family(name, text)
            for camera in cameras:
                for stream in camera.camera.streams:
                    if (number := value(camera, stream)) is not None:
                        metric.add_sample(name + end, _labels(camera, stream), number)
            yield metric


def _labels(camera: CameraReport, stream: StreamStatus) -> dict[str, str]:
    """A camera of one stream has no label for it: its figures are the camera's."""
    labels = {"camera": camera.name}
    return labels if len(camera.camera.streams) == 1 else labels | {"stream": stream.name}


def _output_families(cameras: Sequence[CameraReport]) -> Iterator[Metric]:
    labels = ["camera", "output", "format"]
    outputs = [
        ([camera.name, output.name, output.format], camera, output)
        for camera in cameras
        for output in camera.camera.outputs
    ]
    for name, text, value in _OUTPUT_COUNTERS:
        counter = CounterMetricFamily(name, text, labels=labels)
        for values, _, output in outputs:
            counter.add_metric(values, value(output))
        yield counter
    readers = GaugeMetricFamily("valkka_output_readers", "Readers of the ring.", labels=labels)
    fps = GaugeMetricFamily(
        "valkka_output_fps", "Frames per second published in the last seconds.", labels=labels
    )
    outgrown = GaugeMetricFamily(
        "valkka_output_backlog_outgrown",
        "1: the GOP is longer than the ring's slots reach: readers that come late wait for a key frame.",
        labels=labels,
    )
    for values, camera, output in outputs:
        readers.add_metric(values, output.readers if camera.current else 0)
        fps.add_metric(values, camera.ring_fps.get(output.name, 0.0))
        outgrown.add_metric(values, output.backlog_outgrown)
    yield from (readers, fps, outgrown)


def _recording_families(cameras: Sequence[CameraReport]) -> Iterator[Metric]:
    for name, text, holds in _RECORDING_GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=["camera"])
        for camera in cameras:
            gauge.add_metric([camera.name], holds(camera.recording))
        yield gauge
    for name, text, value in _RECORDING_COUNTERS:
        counter = CounterMetricFamily(name, text, labels=["camera"])
        for camera in cameras:
            if camera.recording is not None:
                counter.add_metric([camera.name], value(camera.recording))
        yield counter


def _archive_families(status: ServiceStatus) -> Iterator[Metric]:
    for name, text, value in _STORED_GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=["camera"])
        for camera in status.cameras:
            if camera.stored is not None:
                gauge.add_metric([camera.name], value(camera.stored))
        yield gauge
    archive = status.recordings
    if archive.free is not None:
        yield GaugeMetricFamily(
            "valkka_recordings_free_bytes", "What the disk of the recordings has left.", archive.free
        )
    yield GaugeMetricFamily(
        "valkka_recordings_problem",
        "1: their index cannot be written, or a file cannot be deleted.",
        bool(archive.problem),
    )
    yield CounterMetricFamily(
        "valkka_recordings_deleted_bytes", "Deleted to keep within the bounds.", archive.deleted_bytes
    )
    yield CounterMetricFamily(
        "valkka_recordings_deleted_files", "Files deleted to keep within the bounds.", archive.deleted_files
    )


def _hook_families(hooks: Sequence[HookStatus]) -> Iterator[Metric]:
    for name, text, value in _HOOK_COUNTERS:
        counter = CounterMetricFamily(name, text, labels=["hook"])
        for hook in hooks:
            counter.add_metric([hook.name], value(hook))
        yield counter
    waiting = GaugeMetricFamily("valkka_hook_waiting", "Events that wait for it.", labels=["hook"])
    problem = GaugeMetricFamily(
        "valkka_hook_problem", "1: the newest event was not delivered.", labels=["hook"]
    )
    for hook in hooks:
        waiting.add_metric([hook.name], hook.waiting)
        problem.add_metric([hook.name], hook.error is not None)
    yield from (waiting, problem)


_HOOK_COUNTERS: tuple[tuple[str, str, Callable[[HookStatus], float]], ...] = (
    ("valkka_hook_delivered", "Events that it has taken.", lambda hook: hook.delivered),
    ("valkka_hook_failed", "Events that were given up.", lambda hook: hook.failed),
    ("valkka_hook_dropped", "Events that were dropped, as too many waited.", lambda hook: hook.dropped),
)


def _worker_families(cameras: Sequence[CameraReport]) -> Iterator[Metric]:
    """Of each process once, called after the first of its cameras: several may share it."""
    restarts = CounterMetricFamily(
        "valkka_worker_restarts", "Processes started after the first.", labels=["worker"]
    )
    memory = GaugeMetricFamily(
        "valkka_worker_resident_bytes", "Memory that the process has.", labels=["worker"]
    )
    cpu = CounterMetricFamily("valkka_worker_cpu_seconds", "CPU time of the process.", labels=["worker"])
    seen = set()
    for camera in cameras:
        worker = camera.worker
        if worker.cameras in seen:
            continue
        seen.add(worker.cameras)
        restarts.add_metric([camera.name], worker.restarts)
        if worker.pid is not None:
            memory.add_metric([camera.name], worker.rss)
            cpu.add_metric([camera.name], worker.cpu_s)
    yield from (restarts, memory, cpu)
