# SPDX-License-Identifier: MIT
"""GET /metrics: what the service knows, for Prometheus.

Counts of a camera begin again with its worker process, as those of any process do: `rate()` and `increase()`
take that into account.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from valkka_async.camera.status import CameraState
from valkka_async.service.web.contract import Service, Status
from valkka_async.service.web.events import Events
from valkka_async.service.web.live import Hubs
from valkka_async.service.web.sockets import Sockets

_SCRAPES = 4  # at once

# name, what it is, the status's key
_CAMERA_GAUGES = (
    ("valkka_camera_fps", "Frames per second, as received in the last seconds.", "fps"),
    ("valkka_camera_key_interval_seconds", "Time between the last key frames; 0: not known.", "key_interval"),
    ("valkka_camera_width_pixels", "Width of the picture; 0: not known.", "width"),
    ("valkka_camera_height_pixels", "Height of the picture; 0: not known.", "height"),
)
_CAMERA_COUNTERS = (
    ("valkka_camera_packets", "Packets received.", "packets"),
    ("valkka_camera_decoded", "Pictures decoded.", "decoded"),
    ("valkka_camera_errors", "Packets that could not be decoded or muxed.", "errors"),
    ("valkka_camera_attempts", "Attempts to connect.", "attempts"),
    ("valkka_camera_reconnects", "Attempts that gave frames, after the first.", "reconnects"),
    ("valkka_camera_cpu_seconds", "Processor time of the camera's thread.", "cpu_s"),
)
_OUTPUT_COUNTERS = (
    ("valkka_output_published", "Frames published in the ring.", "published"),
    ("valkka_output_dropped", "Frames for which the ring had no slot: readers hold them all.", "dropped"),
    ("valkka_output_skipped", "Frames left out because of the output's fps.", "skipped"),
)
_OUTPUT_GAUGES = (
    ("valkka_output_readers", "Readers of the ring.", "readers"),
    ("valkka_output_fps", "Frames per second published in the last seconds.", "fps"),
)
_RECORDING_COUNTERS = (
    ("valkka_recording_written_bytes", "Bytes written to files.", "bytes"),
    ("valkka_recording_files", "Files begun.", "files"),
    ("valkka_recording_dropped_frames", "Frames that were published and not recorded.", "dropped"),
)


class Metrics:
    """The handler."""

    def __init__(self, service: Service, hubs: Hubs, events: Events, sockets: Sockets) -> None:
        self._service = service
        self._hubs = hubs
        self._events = events
        self._sockets = sockets
        self._scrapes = asyncio.Semaphore(_SCRAPES)

    async def handle(self, request: web.Request) -> web.Response:
        # Looked at here, in the loop; put into words elsewhere, where the process's own figures may be read.
        families = [*service_families(self._service.status(), self._service.ready), *self._page()]
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Ready(families))
        async with self._scrapes:
            text = await asyncio.to_thread(_render, registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    def _page(self) -> Iterator[Metric]:
        viewers = GaugeMetricFamily(
            "valkka_page_viewers", "Browsers that are sent live pictures.", labels=["format"]
        )
        for format, count in self._hubs.viewers().items():
            viewers.add_metric([format], count)
        yield viewers
        yield GaugeMetricFamily("valkka_page_listeners", "Browsers that are told events.", len(self._events))
        yield GaugeMetricFamily("valkka_page_connections", "WebSockets that are open.", len(self._sockets))
        yield GaugeMetricFamily(
            "valkka_page_connections_limit", "WebSockets that may be open.", self._sockets.limit
        )
        yield CounterMetricFamily(
            "valkka_page_refused_connections", "WebSockets beyond the limit.", self._sockets.refused
        )
        yield CounterMetricFamily(
            "valkka_page_skipped_frames", "Frames that browsers were too slow for.", self._hubs.skipped
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


def service_families(status: Status, ready: bool) -> Iterator[Metric]:
    """The families of metrics of a service's status."""
    info = InfoMetricFamily("valkka_service", "The service.")
    info.add_metric([], {"name": str(status["name"]), "version": str(status["version"])})
    yield info
    yield GaugeMetricFamily(
        "valkka_service_start_time_seconds", "When the service was started, Unix.", status["since_ns"] / 1e9
    )
    yield GaugeMetricFamily("valkka_service_ready", "1: all cameras have been started.", ready)
    yield GaugeMetricFamily("valkka_service_cameras", "Cameras there are.", len(status["cameras"]))
    cameras = status["cameras"]
    yield from _camera_families(cameras)
    yield from _output_families(cameras)
    yield from _recording_families(cameras)
    yield from _worker_families(cameras)


def _camera_families(cameras: list[Status]) -> Iterator[Metric]:
    up = GaugeMetricFamily("valkka_camera_up", "1: frames come from the camera.", labels=["camera"])
    state = GaugeMetricFamily(
        "valkka_camera_state", "1 for the state that the camera is in.", labels=["camera", "state"]
    )
    age = GaugeMetricFamily(
        "valkka_camera_last_frame_age_seconds",
        "Time since the last packet; missing if there was none.",
        labels=["camera"],
    )
    for camera in cameras:
        name = camera["name"]
        up.add_metric([name], camera["state"] == CameraState.LIVE)
        for one in CameraState:
            state.add_metric([name, one], camera["state"] == one)
        if camera["age"] is not None:
            age.add_metric([name], camera["age"])
    yield from (up, state, age)
    for called, text, key in _CAMERA_GAUGES:
        gauge = GaugeMetricFamily(called, text, labels=["camera"])
        for camera in cameras:
            gauge.add_metric([camera["name"]], camera[key])
        yield gauge
    for called, text, key in _CAMERA_COUNTERS:
        counter = CounterMetricFamily(called, text, labels=["camera"])
        for camera in cameras:
            counter.add_metric([camera["name"]], camera[key])
        yield counter


def _output_families(cameras: list[Status]) -> Iterator[Metric]:
    labels = ["camera", "output", "format"]
    outputs = [
        ([camera["name"], output["name"], output["format"]], output)
        for camera in cameras
        for output in camera["outputs"]
    ]
    for called, text, key in _OUTPUT_COUNTERS:
        counter = CounterMetricFamily(called, text, labels=labels)
        for values, output in outputs:
            counter.add_metric(values, output[key])
        yield counter
    for called, text, key in _OUTPUT_GAUGES:
        gauge = GaugeMetricFamily(called, text, labels=labels)
        for values, output in outputs:
            gauge.add_metric(values, output[key])
        yield gauge


def _recording_families(cameras: list[Status]) -> Iterator[Metric]:
    active = GaugeMetricFamily("valkka_recording_active", "1: the camera is recorded.", labels=["camera"])
    failed = GaugeMetricFamily(
        "valkka_recording_failed", "1: it should be recorded, and that fails.", labels=["camera"]
    )
    recordings = [(camera["name"], camera["recording"]) for camera in cameras]
    for name, recording in recordings:
        failing = recording is not None and bool(recording["error"])
        active.add_metric([name], recording is not None and not failing)
        failed.add_metric([name], failing)
    yield from (active, failed)
    for called, text, key in _RECORDING_COUNTERS:
        counter = CounterMetricFamily(called, text, labels=["camera"])
        for name, recording in recordings:
            if recording is not None and key in recording:
                counter.add_metric([name], recording[key])
        yield counter


def _worker_families(cameras: list[Status]) -> Iterator[Metric]:
    """Of each process once, called after the first of its cameras: several may share it."""
    restarts = CounterMetricFamily(
        "valkka_worker_restarts", "Processes started after the first.", labels=["worker"]
    )
    memory = GaugeMetricFamily(
        "valkka_worker_resident_bytes", "Memory that the process has.", labels=["worker"]
    )
    cpu = CounterMetricFamily(
        "valkka_worker_cpu_seconds", "Processor time of the process.", labels=["worker"]
    )
    seen = set()
    for camera in cameras:
        worker = camera["worker"]
        if worker is None or worker["pid"] in seen:
            continue
        if worker["pid"] is not None:
            seen.add(worker["pid"])
        restarts.add_metric([camera["name"]], worker["restarts"])
        if worker["pid"] is not None:
            memory.add_metric([camera["name"]], worker["rss"])
            cpu.add_metric([camera["name"]], worker["cpu_s"])
    yield from (restarts, memory, cpu)
