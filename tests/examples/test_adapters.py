"""The adapters to other libraries. Those whose libraries take gigabytes are `long`: `make adapters` installs
them, without what they need for more than is used here."""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import valkka_async as va
from support.program import ROOT, Example, Process
from support.require import missing
from support.stream import free_port
from support.until import wait_for

ADAPTERS = ROOT / "examples" / "adapters"
RED = np.full((48, 64, 3), (0, 0, 255), np.uint8)  # bgr24


def adapter(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ADAPTERS)  # as for a program there
        return importlib.import_module(name)


def jpeg() -> bytes:
    return bytes(cv2.imencode(".jpg", RED)[1])


# ------------------------------------------------------------------------------------- VideoCapture


@pytest.fixture(scope="module")
def capture() -> Any:
    return adapter("capture").Capture


FORMATS = ["bgr24", "rgb24", "bgra", "rgba", "nv12", "yuv420p", "jpeg"]


def red(format: str) -> Any:
    """RED, as such a ring has it."""
    images: dict[str, Any] = {
        "bgr24": RED,
        "rgb24": RED[..., ::-1],
        "bgra": np.dstack([RED, RED[..., 0]]),
        "rgba": np.dstack([RED[..., ::-1], RED[..., 0]]),
        "nv12": np.concatenate([np.full((48, 64), 82), np.tile([90, 240], (24, 32))]).astype(np.uint8),
        "yuv420p": np.repeat([82, 90, 240], [48, 12, 12])[:, None].repeat(64, 1).astype(np.uint8),
        "jpeg": np.frombuffer(jpeg(), np.uint8),
    }
    return np.ascontiguousarray(images[format])


@pytest.mark.parametrize("format", FORMATS)
def test_a_capture_reads_what_opencv_would(capture: Any, format: Any) -> None:
    image = red(format)
    with va.serve("cam1") as server:
        begin = time.time_ns()
        server.publish(image, format=format, timestamp_ns=begin)
        with released(capture("cam1")) as cap:
            assert cap.isOpened()
            ok, seen = cap.read()
            assert ok and seen.shape == (48, 64, 3) and seen.flags.writeable
            assert np.abs(seen.astype(int) - RED).max() <= 4
            server.publish(image, format=format, timestamp_ns=begin + 20_000_000)
            server.publish(image, format=format, timestamp_ns=begin + 40_000_000)
            assert cap.read()[0]
            assert cap.get(cv2.CAP_PROP_FRAME_WIDTH) == 64 and cap.get(cv2.CAP_PROP_FRAME_HEIGHT) == 48
            assert round(cap.get(cv2.CAP_PROP_FPS)) == 50
            assert cap.get(cv2.CAP_PROP_POS_MSEC) == (begin + 40_000_000) / 1e6
            assert cap.get(cv2.CAP_PROP_GAIN) == 0.0
        assert not cap.isOpened() and cap.read() == (False, None)


@contextlib.contextmanager
def released(cap: Any) -> Iterator[Any]:
    try:
        yield cap
    finally:
        cap.release()


def test_a_capture_says_false_when_nothing_comes_and_goes_on_after_a_restart(capture: Any) -> None:
    with va.serve("cam1") as server:
        server.publish(RED, format="bgr24")
        cap = capture("cam1", 0.05)
        assert cap.read()[0]
    with released(cap):
        assert cap.read() == (False, None) and cap.isOpened()
        with va.serve("cam1") as server:
            server.publish(RED, format="bgr24")
            wait_for(lambda: cap.read()[0])


def test_what_is_not_there_is_not_opened_and_what_is_no_jpeg_is_not_read(capture: Any) -> None:
    with released(capture("nobody", 0.01)) as cap:
        assert not cap.isOpened() and cap.read() == (False, None)
    with va.serve("cam1") as server, released(capture("cam1")) as cap:
        server.publish(b"cut off", format="jpeg")
        assert cap.read() == (False, None) and cap.isOpened()
        server.publish(jpeg(), format="jpeg")
        assert cap.read()[0]


# ------------------------------------------------------------------------ FastAPI, vision and language


@pytest.fixture
def model() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server with OpenAI's interface: its address, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append({"path": self.path, **json.loads(body)})
            answer = json.dumps({"choices": [{"message": {"content": "a red wall"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def ask(port: int, camera: str) -> tuple[int, dict[str, Any]]:
    url = f"http://127.0.0.1:{port}/ask/{camera}?question=What+colour"
    request = urllib.request.Request(url, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.loads(e.read())


def test_a_model_is_shown_the_newest_frame_and_its_answer_is_a_result(
    model: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    try:
        import fastapi
        import uvicorn
    except ImportError:
        missing("FastAPI is needed: pip install --group test")
    del fastapi, uvicorn
    port = free_port()
    url, asked = model
    options = {"MODEL_URL": url, "PORT": str(port)}
    with Example("adapters/vision_language.py", folder=tmp_path, **options) as service:

        def up() -> bool:
            assert service.process.poll() is None, service.stderr()
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        wait_for(up)
        for number, format in enumerate(FORMATS, 1):
            with va.serve("cam1") as camera:
                for _ in range(number):
                    camera.publish(red(format), format=format)
                status, answer = ask(port, "cam1")
                assert (status, answer["answer"], answer["seq"]) == (200, "a red wall", number)
                request = asked.pop()
                text, image = request["messages"][0]["content"]
                assert request["path"] == "/v1/chat/completions" and text["text"] == "What colour"
                head, data = image["image_url"]["url"].split(",")
                shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
                assert head == "data:image/jpeg;base64" and shown.shape == (48, 64, 3)
                assert np.abs(shown - RED[..., ::-1].astype(int)).max() < 8, format
                with va.attach("cam1.text") as reader, reader.recv(30) as frame:
                    result = va.Result.of(frame)
                assert (result.source, result.seq, result.text) == ("cam1", number, "a red wall")
        assert ask(port, "a+name")[0] == 503
        with va.serve("depth") as camera:
            camera.publish(np.zeros((4, 4), np.uint16))
            status, answer = ask(port, "depth")
            assert status == 503 and "a ring of pictures is needed" in answer["detail"]
        assert service.interrupt() == ""


# ------------------------------------------------------------------- libraries that take gigabytes


class Peer(Process):
    """Code for the Python that has them."""

    def __init__(self, code: str) -> None:
        python = Path(os.environ.get("VALKKA_PEERS", ROOT / ".venv-bench")) / "bin" / "python"
        if not python.exists():
            missing(f"no {python}: `make adapters` installs what these adapters are tested with")
        folders = os.pathsep.join(map(str, (ROOT, ADAPTERS)))
        offline = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        super().__init__([python, "-c", code], env={**os.environ, **offline, "PYTHONPATH": folders})


@contextlib.contextmanager
def published(**formats: Any) -> Iterator[list[va.Server]]:
    """Servers whose frames of these formats come fifty times a second."""
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(va.serve(name)) for name in formats]
        images = [red(format) for format in formats.values()]

        def run() -> None:
            while not stop.wait(0.02):
                for server, image, format in zip(servers, images, formats.values(), strict=True):
                    server.publish(image, format=format)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield servers
        finally:
            stop.set()
            thread.join()


YOLO = """
import sys, types
import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.utils.nms import TorchNMS
try:
    import torchvision
except Exception:  # made for CUDA, beside a torch for CPUs: Ultralytics has what it takes of it
    sys.modules["torchvision"] = types.SimpleNamespace(ops=types.SimpleNamespace(nms=TorchNMS.nms))
from ultralytics_source import Rings, main
torch.manual_seed(1)
model = YOLO("yolov8n.yaml", task="detect")
source = Rings("cam*", max_age=5.0)
seen, red = set(), np.array([0, 0, 255])
for result in model.predict(source, stream=True, verbose=False, save=False, imgsz=64, conf=1e-6, max_det=5):
    frame = next(frame for frame in source.taken if frame.source == result.path)
    seen.add(result.path)
    assert result.orig_img.shape == (48, 64, 3) and abs(result.orig_img - red).max() < 5
    if seen == {"cam1", "cam2"}:
        break
source.close()
print("both", flush=True)
model.overrides |= {"imgsz": 64, "conf": 1e-6, "max_det": 5, "save": False}
main(model, Rings("cam1"))
"""


@pytest.mark.long
@pytest.mark.timeout(300)
def test_ultralytics_takes_rings_for_its_source() -> None:
    with published(cam1="bgr24", cam2="nv12"), Peer(YOLO) as peer:
        peer.match("^both$", 200)
        with va.attach("cam1.boxes", open_timeout=100) as reader, reader.recv(60) as frame:
            result = va.Result.of(frame)
        assert (result.source, result.size) == ("cam1", (64, 48))
        assert all(0 <= box.x1 <= box.x2 <= 64 and box.label and box.score for box in result.boxes)
        peer.kill()
    va.serve("cam1.boxes").close()  # what it left behind


PIPELINE = """
import numpy as np
from functools import partial
from streamvision.camera.utils import multiplex_videos
from streamvision.camera.video_source import VideoSource
from streamvision_producer import Producer
sources = [VideoSource.init(partial(Producer, f"cam{n + 1}"), source_id=n) for n in range(2)]
for source in sources:
    source.start()
seen = set()
for batch in multiplex_videos(videos=sources):
    for frame in batch:
        assert frame.image.shape == (48, 64, 3) and abs(frame.image - np.array([0, 0, 255])).max() < 5
        seen.add(frame.source_id)
    if seen == {0, 1}:
        break
for source in sources:
    source.terminate(wait_on_frames_consumption=False, purge_frames_buffer=True)
producer = Producer("cam1")
print(producer.discover_source_properties(), flush=True)
producer.release()
print(producer.isOpened(), producer.grab(), flush=True)
"""


@pytest.mark.long
@pytest.mark.timeout(150)
def test_roboflow_s_pipeline_takes_rings_for_its_sources() -> None:
    with published(cam1="rgb24", cam2="yuv420p") as servers, Peer(PIPELINE) as peer:
        assert "width=64, height=48" in peer.line(100)
        assert peer.line() == "False False"
        assert peer.finish()[0] == 0
        wait_for(lambda: not any(server.readers for server in servers))


ROS = """
import numpy as np
import valkka_async as va
from ros2 import publish, to_message
from rosbags.typesys import Stores, get_typestore
store = get_typestore(Stores.ROS2_JAZZY)
names = "sensor_msgs/msg/CompressedImage", "std_msgs/msg/Header", "builtin_interfaces/msg/Time"
types = [store.types[name] for name in names]
with va.attach("cam1.jpg") as reader, reader.recv(30) as frame:
    cdr = store.serialize_cdr(to_message(frame, *types), types[0].__msgtype__)
    message = store.deserialize_cdr(cdr, types[0].__msgtype__)
    assert (message.header.frame_id, message.format) == ("cam1.jpg", "jpeg")
    with va.serve("again") as server:
        assert publish(message, server)
        with va.attach("again") as again, again.recv(30) as other:
            assert bytes(other.data) == bytes(frame.data) and other.timestamp_ns == frame.timestamp_ns
with va.serve("raw") as server, va.attach("raw") as reader:
    server.publish(np.zeros((4, 4), np.uint8))
    try:
        to_message(reader.recv(30), *types)
    except ValueError as e:
        print(e, flush=True)
"""


@pytest.mark.long
def test_a_ring_is_a_topic_of_ros_and_a_topic_is_a_ring() -> None:
    with va.serve("cam1.jpg") as server:
        server.publish(jpeg(), format="jpeg")
        with Peer(ROS) as peer:
            assert "a ring of JPEGs is needed" in peer.line(60)
            assert peer.finish()[0] == 0
