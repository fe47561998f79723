# SPDX-License-Identifier: MIT
"""What it costs to bring a picture into a slot, beside decoding it: ``python benchmarks/convert.py``.

Real footage is encoded as 1080p H.264 and decoded with one thread. Then the same frames are converted by
each contender in turn, round after round, into shared memory; what is reported are medians over the rounds
of CPU time per frame, and their ratio to decoding. ``--quality`` compares the ways to make a
smaller picture with a careful one instead. ``--video`` takes a film of one's own; without it the footage of
the tests is fetched, which needs apt-get or pip.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from machine import describe

from valkka_async.camera.pixels import swscale
from valkka_async.camera.pixels.convert import Converter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support import footage  # noqa: E402

SIZE = (1920, 1080)
FRAMES = 25
PIX_FMT = {"gray8": "gray"}
FULL = [(format, None) for format in ("rgb24", "bgr24", "rgba", "gray8", "nv12", "yuv420p")]
SMALLER = [
    ("rgb24", (1280, 720)),
    ("rgb24", (960, 540)),
    ("rgb24", (640, 640)),
    ("rgb24", (640, 360)),
    ("rgb24", (416, 416)),
    ("rgb24", (320, 180)),
    ("gray8", (640, 360)),
    ("nv12", (640, 360)),
    ("yuv420p", (640, 360)),
    ("rgb24", (2560, 1440)),
]
CARE = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP

Write = Callable[[VideoFrame], None]


def slot(shape: tuple[int, ...]) -> np.ndarray:
    """Memory like a ring's, touched before."""
    size = int(np.prod(shape))
    array = np.frombuffer(mmap.mmap(-1, size), np.uint8).reshape(shape)
    array[:] = 1
    return array


def by_to_ndarray(format: str, size: tuple[int, int] | None, out: np.ndarray) -> Write:
    width, height = size or (None, None)

    def write(frame: VideoFrame) -> None:
        np.copyto(out, frame.to_ndarray(format=PIX_FMT.get(format, format), width=width, height=height))

    return write


def by_reformat(filter: Interpolation) -> Callable[..., Write]:
    """A VideoReformatter of one's own with one thread, then the rows without their padding."""

    def contender(format: str, size: tuple[int, int] | None, out: np.ndarray) -> Write:
        reformatter = VideoReformatter()
        width, height = size or SIZE
        halved = format in ("nv12", "yuv420p")

        def write(frame: VideoFrame) -> None:
            made = reformatter.reformat(
                frame, width, height, PIX_FMT.get(format, format), interpolation=filter, threads=1
            )
            flat, at = out.reshape(-1), 0
            for plane in made.planes:
                row = out.shape[1] * (out.shape[2] if out.ndim == 3 else 1)
                if halved and plane.height < height and format == "yuv420p":
                    row //= 2
                rows = np.frombuffer(plane, np.uint8, plane.line_size * plane.height)
                part = flat[at : at + row * plane.height].reshape(plane.height, row)
                np.copyto(part, rows.reshape(plane.height, plane.line_size)[:, :row])
                at += part.size

        return write

    return contender


def by_converter(short: bool) -> Callable[..., Write]:
    def contender(format: str, size: tuple[int, int] | None, out: np.ndarray) -> Write:
        converter = Converter(format, size)

        def write(frame: VideoFrame) -> None:
            # Both kinds of converters take turns, and which ways there are is asked once for each.
            load = swscale.load
            try:
                if not short:
                    swscale.load = lambda: None  # type: ignore[assignment]
                converter.write(frame, out)
            finally:
                swscale.load = load

        return write

    return contender


CONTENDERS: dict[str, Callable[..., Write]] = {
    "to_ndarray+copy": by_to_ndarray,
    "reformat+copy": by_reformat(Interpolation.BILINEAR),
    "ours": by_converter(True),
    "ours, PyAV only": by_converter(False),
}
FILTERS: dict[str, Callable[..., Write]] = {
    "reformat FAST_BILINEAR": by_reformat(Interpolation.FAST_BILINEAR),
    "reformat AREA": by_reformat(Interpolation.AREA),
    "reformat BICUBIC": by_reformat(Interpolation.BICUBIC),
}


def decoded(clip: Path) -> Iterator[VideoFrame]:
    with av.open(str(clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        yield from itertools.islice(container.decode(video=0), FRAMES)


def decoding(clip: Path) -> float:
    """Milliseconds of CPU per frame."""
    before = time.process_time()
    for _ in decoded(clip):
        pass
    return (time.process_time() - before) / FRAMES * 1e3


def converting(clip: Path, write: Write) -> float:
    """The same, of converting: each frame fresh from the decoder, as a camera has it."""
    spent = 0.0
    for frame in decoded(clip):
        before = time.process_time()
        write(frame)
        spent += time.process_time() - before
    return spent / FRAMES * 1e3


def speed(clip: Path, rounds: int) -> None:
    work: dict[tuple[str, tuple[int, int] | None, str], Write] = {}
    frame = next(decoded(clip))
    for format, size in (*FULL, *SMALLER):
        out = slot(Converter(format, size).shape(frame))
        for name, contender in {**CONTENDERS, **(FILTERS if size else {})}.items():
            work[format, size, name] = contender(format, size, out)
            work[format, size, name](frame)  # tables and proofs are made at the first frame
    took: dict[object, list[float]] = {"decode": []}
    for _ in range(rounds):
        for key, write in work.items():
            took.setdefault(key, []).append(converting(clip, write))
            if len(took[key]) > len(took["decode"]):
                took["decode"].append(decoding(clip))
    decode = statistics.median(took.pop("decode"))
    print(f"bare decoding, one thread: {decode:.2f} ms per frame\n")
    print(f"{'':18}{'':24}{'ms':>8}{'/ decode':>10}{'/ reformat':>12}")
    for (format, size, name), times in took.items():  # type: ignore[misc]
        ms = statistics.median(times)
        usual = statistics.median(took[format, size, "reformat+copy"])
        what = format if size is None else f"{format} {size[0]}x{size[1]}"
        print(f"{what:18}{name:24}{ms:8.3f}{ms / decode:10.3f}{ms / usual:12.2f}")


def quality(video: Path) -> None:
    """dB, of RGB, beside a Lanczos filter over the whole picture in full colour resolution."""
    contenders = {**CONTENDERS, **FILTERS}
    names = ["ours", "reformat+copy", *FILTERS]
    print(f"{video.name}: PSNR in dB beside Lanczos / beside exact area means")
    print(f"{'':26}" + "".join(f"{name:>26}" for name in names))
    with av.open(str(video)) as container:
        frames = list(itertools.islice(container.decode(video=0), 20, 61, 20))
    width, height = frames[0].width, frames[0].height
    ratios = (1.2, 1.5, 2, 2.4, 3, 4, 4.6, 6)
    for ratio in ratios:
        size = (round(width / ratio / 2) * 2, round(height / ratio / 2) * 2)
        if ratio == int(ratio) and (width % (2 * ratio) or height % (2 * ratio)):
            continue
        references = []
        for filter in (Interpolation.LANCZOS, Interpolation.AREA):
            whole = [f.reformat(format="gbrp", interpolation=Interpolation.BICUBIC | CARE) for f in frames]
            small = [f.reformat(*size, "gbrp", interpolation=filter | CARE) for f in whole]
            references.append([f.to_ndarray(format="rgb24").astype(float) for f in small])
        line = f"{f'{ratio}: {width}x{height} to {size[0]}x{size[1]}':26}"
        for name in names:
            out = np.empty((size[1], size[0], 3), np.uint8)
            write = contenders[name]("rgb24", size, out)
            made = []
            for frame in frames:
                write(frame)
                made.append(out.astype(float))
            near = [
                statistics.mean(psnr(a, b) for a, b in zip(made, wanted, strict=True))
                for wanted in references
            ]
            line += f"{f'{near[0]:.1f} / {near[1]:.1f}':>26}"
        print(line)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((a - b) ** 2).mean(), 1e-9)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, help="a film to take the pictures from")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quality", action="store_true", help="compare pictures, not times")
    options = parser.parse_args()
    machine = describe({}, [])
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}; load {machine['load_before']}")
    versions = ", ".join(f"{k} {'.'.join(map(str, v))}" for k, v in av.library_versions.items() if "sw" in k)
    print(f"PyAV {av.__version__}, {versions}; straight into slots: {swscale.load() is not None}")
    video = options.video or footage.vtest(ROOT / ".cache")
    if options.quality:
        quality(video)
        return
    with tempfile.TemporaryDirectory() as folder:
        speed(
            footage.to_elementary(video, Path(folder, "1080p.h264"), frames=FRAMES, size=SIZE), options.rounds
        )


if __name__ == "__main__":
    main()
