"""The pixels are PyAV's own: in every format, at every width, in all colour spaces, by whichever way."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from camera_tools import Clips

from support import footage
from valkka_async.camera.pixels import convert, swscale
from valkka_async.camera.pixels.convert import Converter
from valkka_async.camera.pixels.resize import pixels
from valkka_async.errors import CameraFormatError

FORMATS = ("rgb24", "bgr24", "rgba", "bgra", "gray8", "nv12", "yuv420p")
EVEN = ("nv12", "yuv420p")
WIDTHS = (854, 852, 1366, 640)
ALL_WIDTHS = (*range(2, 131), 852, 854, 1278, 1366, 1918, 1920)
COLOURS = {"bt601": (6, 1), "bt709": (1, 1), "full": (1, 2), "nothing said": (2, 0), "bt2020": (9, 1)}
SOURCES = (
    *("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "yuyv422"),
    *("yuv420p10le", "p010le", "gray", "rgb24", "gbrp"),
)
BEFORE_RGB = {"nv12": "yuv420p", "yuv420p10le": "yuv420p", "p010le": "yuv420p", "yuyv422": "yuv422p"}
GUARD = 4096


def pictures(path: Any, count: int = 3) -> list[VideoFrame]:
    with av.open(str(path)) as container:
        frames = []
        for frame in container.decode(video=0):
            frames.append(frame)
            if len(frames) == count:
                break
        return frames


def noise(format: str, width: int, height: int, colour: str = "bt601", seed: int = 1) -> VideoFrame:
    """Every pixel another colour: nothing can be right by chance."""
    frame = VideoFrame(width, height, format)
    frame.colorspace, frame.color_range = COLOURS[colour]
    rng = np.random.default_rng(seed)
    for plane in frame.planes:
        values = rng.integers(0, 256, plane.buffer_size, np.uint8)
        if format.endswith("10le"):
            values = values[: len(values) // 2 * 2].view(np.uint16)
            values = (values << 6 if format == "p010le" else values >> 6).view(np.uint8)
        view = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
        view[: values.size] = values
    return frame


def converted(converter: Converter, frame: VideoFrame) -> Any:
    """What both ways write: the first frame of a kind takes the long one. A camera's slot has another
    frame behind it, hence the guards."""
    first = np.full(converter.shape(frame), 77, np.uint8)
    converter.write(frame, first)
    for fill in (0x55, 0xAA):
        memory = np.full(first.size + 2 * GUARD, fill, np.uint8)
        out = memory[GUARD:-GUARD].reshape(first.shape)
        converter.write(frame, out)
        assert np.array_equal(out, first)
        assert (memory[:GUARD] == fill).all() and (memory[-GUARD:] == fill).all()
    return first


@pytest.fixture
def short_ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[VideoFrame]]:
    """The frames that took the long way: of each kind, the first should be the only one."""
    went_long = []
    write_long = Converter._write_long

    def counted(self: Converter, frame: VideoFrame, out: convert.Image) -> None:
        went_long.append(frame)
        write_long(self, frame, out)

    monkeypatch.setattr(Converter, "_write_long", counted)
    yield went_long


def expected(frame: VideoFrame, format: str, size: tuple[int, int] | None = None) -> Any:
    """By PyAV alone: in another size first scaled in YUV, if that becomes RGB fast."""
    w, h = size or (frame.width, frame.height)
    enlarged = w > frame.width or h > frame.height
    filter = Interpolation.BILINEAR if enlarged else Interpolation.AREA
    name = frame.format.name
    if (w, h) != (frame.width, frame.height) and format not in ("gray8", *EVEN) and w % 2 == h % 2 == 0:
        if name in ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", *BEFORE_RGB):
            frame = frame.reformat(w, h, BEFORE_RGB.get(name, name), interpolation=filter, threads=1)
    if format in ("rgba", "bgra") and (w, h) == (frame.width, frame.height):
        # PyAV's own is not right at all widths (see convert.py), nor the same twice
        rgb = expected(frame, "rgb24" if format == "rgba" else "bgr24")
        return np.concatenate([rgb, np.full((h, w, 1), 255, np.uint8)], axis=2)
    pix_fmt = "gray" if format == "gray8" else format
    made = frame.reformat(w, h, pix_fmt, interpolation=filter, threads=1)
    if format in EVEN and w == 2:  # to_ndarray() of these has a shape of its own
        rows = [pixels(p, w if len(made.planes) == 2 or not i else w // 2) for i, p in enumerate(made.planes)]
        return np.concatenate([r.reshape(-1) for r in rows]).reshape(h * 3 // 2, w)
    return made.to_ndarray()


def blocks(frame: VideoFrame, across: int, down: int) -> VideoFrame:
    """The means of blocks, rounded half up, as a frame."""
    if across == down == 1:
        return frame
    small = VideoFrame(frame.width // across, frame.height // down, frame.format.name)
    small.colorspace, small.color_range = frame.colorspace, frame.color_range
    for index, (plane, to) in enumerate(zip(frame.planes, small.planes, strict=True)):
        n = 2 if index and frame.format.name == "nv12" else 1
        source = pixels(plane, to.width * across * n)[: to.height * down].astype(np.uint32)
        sums = source.reshape(to.height, down, to.width, across, n).sum(axis=(1, 3))
        mean = (sums + across * down // 2) // (across * down)
        pixels(to, to.width * n)[:] = mean.reshape(to.height, to.width * n)
    return small


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("colorspace", [None, "bt709"])
def test_pixels_are_those_of_to_ndarray(clips: Clips, width: int, colorspace: str | None) -> None:
    for frame in pictures(clips(size=(width, 480), colorspace=colorspace)):
        for format in FORMATS:
            assert np.array_equal(converted(Converter(format), frame), expected(frame, format)), format


@pytest.mark.parametrize("colour", COLOURS)
def test_every_width_is_right_and_nothing_is_written_besides(
    colour: str, short_ways: list[VideoFrame]
) -> None:
    for width in ALL_WIDTHS:
        frame = noise("yuv420p", width, 18, colour)
        for format in FORMATS:
            if format in EVEN and width % 2:
                continue
            short_ways.clear()
            got = converted(Converter(format), frame)
            assert np.array_equal(got, expected(frame, format)), (format, width)
            if width >= 32:
                assert len(short_ways) == 1, (format, width)


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_source_is_right(source: str) -> None:
    for width, height in ((64, 18), (86, 18), (118, 34), (130, 17), (854, 20)):
        for colour in COLOURS:
            frame = noise(source, width, height, colour)
            for format in FORMATS:
                if format in EVEN and height % 2:
                    continue
                got = converted(Converter(format), frame)
                assert np.array_equal(got, expected(frame, format)), (width, height, colour, format)


@pytest.mark.parametrize("source", ["yuv420p", "yuvj420p", "nv12"])
def test_grey_is_made_of_the_luma_where_that_is_the_same(
    source: str, short_ways: list[VideoFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swscale, "load", lambda: None)
    for colour, took_long in (("bt601", 1), ("full", 3), ("nothing said", 1), ("bt709", 3)):
        frame = noise(source, 854, 18, colour)
        short_ways.clear()
        assert np.array_equal(converted(Converter("gray8"), frame), expected(frame, "gray8"))
        assert len(short_ways) == took_long
        frame.colorspace, frame.color_range = 5, 2
        assert np.array_equal(converted(Converter("gray8"), frame), pixels(frame.planes[0], 854))
        assert len(short_ways) == took_long + 1


def test_transparency_is_kept_at_all_widths() -> None:
    for width in (64, 66, 852, 854):
        frame = noise("yuva420p", width, 18)
        got = converted(Converter("rgba"), frame)
        assert np.array_equal(got[..., :3], expected(frame, "rgb24"))
        assert np.array_equal(got[..., 3], pixels(frame.planes[3], width))


# 384x216 to these: by blocks of whole pixels, by those and then a filter, by a filter alone
PROPORTIONS = {
    (192, 108): (2, 2),
    (128, 72): (3, 3),
    (96, 54): (4, 4),
    (64, 36): (6, 6),
    (192, 216): (2, 1),
    (384, 72): (1, 3),
    (80, 46): (2, 2),
    (48, 108): (8, 2),
    (34, 18): (4, 12),
    (384, 214): (1, 1),
    (300, 150): (1, 1),
    (250, 108): (1, 2),
    (191, 107): (1, 1),
    (500, 300): (1, 1),
    (500, 100): (1, 1),
    (385, 217): (1, 1),
}


@pytest.mark.parametrize("source", ["yuv420p", "yuvj422p", "yuv444p", "nv12", "yuyv422", "yuv420p10le"])
def test_another_size_is_means_of_blocks_and_then_what_pyav_makes(
    source: str, short_ways: list[VideoFrame]
) -> None:
    for colour, size in itertools.product(("bt601", "bt709", "full"), PROPORTIONS):
        frame = noise(source, 384, 216, colour)
        small = frame
        if source not in ("yuyv422", "yuv420p10le"):  # whose bytes are no pixels
            small = blocks(frame, *PROPORTIONS[size])
        for format in FORMATS:
            if format in EVEN and (size[0] % 2 or size[1] % 2):
                continue
            short_ways.clear()
            got = converted(Converter(format, size), frame)
            assert np.array_equal(got, expected(small, format, size)), (colour, size, format)
            assert len(short_ways) == 1


def test_means_of_blocks_are_what_pyav_calls_area(clips: Clips) -> None:
    clip = pictures(clips(size=(960, 540), colorspace="bt709"), 1)[0]
    for across in (2, 3, 5):
        width, height = 960 // across, 540 // across
        # The clip says that its colour is sited to the left, which libswscale takes account of.
        for frame, rows in ((clip, height), (noise("yuv420p", 960, 540), height * 3 // 2)):
            ours = converted(Converter("yuv420p", (width, height)), frame).astype(int)
            theirs = frame.reformat(width, height, "yuv420p", interpolation=Interpolation.AREA).to_ndarray()
            assert np.abs(ours - theirs)[:rows].max() <= 1


def test_thin_lines_do_not_flicker_in_a_smaller_picture() -> None:
    """A filter that skips lines of the source shows or hides one as it moves."""
    sums = []
    for row in range(60, 80):
        frame = VideoFrame(640, 360, "gray")
        pixels(frame.planes[0], 640)[:] = 20
        pixels(frame.planes[0], 640)[row] = 220
        sums.append(int(converted(Converter("gray8", (160, 90)), frame).astype(int).sum()))
    assert max(sums) - min(sums) < 0.02 * (max(sums) - 20 * 160 * 90)


@pytest.mark.parametrize("size", [(854, 480), (426, 240), (320, 180), (1366, 768), (64, 64)])
def test_scaled_pictures_of_a_camera_are_right(clips: Clips, size: tuple[int, int]) -> None:
    frame = pictures(clips(size=(854, 480), colorspace="bt709"), 1)[0]
    for format in FORMATS:
        got = converted(Converter(format, size), frame)
        by = blocks(frame, *{(426, 240): (1, 2), (64, 64): (1, 3)}.get(size, (1, 1)))
        assert np.array_equal(got, expected(by, format, size)), format


@pytest.mark.parametrize("size", [(853, 479), (1, 1), (33, 17)])
def test_odd_sizes_work_where_colour_is_not_halved(clips: Clips, size: tuple[int, int]) -> None:
    frame = pictures(clips(size=(854, 480)), 1)[0]
    by = blocks(frame, 7, 12) if size == (33, 17) else frame
    for format in ("rgb24", "bgra", "gray8"):
        assert np.array_equal(converted(Converter(format, size), frame), expected(by, format, size))


@pytest.mark.parametrize("height", [216, 218])
def test_interlaced_pictures_are_right(height: int, short_ways: list[VideoFrame]) -> None:
    """FFmpeg converts their fields one by one, and at other widths than multiples of 16 the second is
    written over the first. There, and in another size, they are taken for whole pictures."""
    library = swscale.load()
    assert library is not None
    for width in (368, 374, 380):
        frame, whole = noise("yuv420p", width, height, "bt709"), noise("yuv420p", width, height, "bt709")
        library.head(frame).flags |= 8
        assert frame.interlaced_frame
        for format in FORMATS:
            for size in (None, (300, 150), (width // 2, height // 2)):
                if format in EVEN and size is not None and (size[0] % 2 or size[1] % 2):
                    continue
                by = frame if size is None and width % 16 == 0 else whole
                if size == (width // 2, height // 2):
                    by = blocks(whole, *(2 if n % 4 == 0 else 1 for n in (width, height)))
                short_ways.clear()
                got = converted(Converter(format, size), frame)
                assert np.array_equal(got, expected(by, format, size)), (width, format, size)
                # A field of 109 rows has 55 of colour: in nv12 those of two fields are one too many.
                assert len(short_ways) == 1 or format in EVEN
        assert frame.interlaced_frame


def test_the_long_way_gives_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another PyAV or FFmpeg than the known ones changes the cost and nothing else."""
    for source in ("yuv420p", "nv12", "yuvj422p", "yuv420p10le"):
        frame = noise(source, 372, 216, "bt709")
        for format in FORMATS:
            for size in (None, (300, 150), (124, 72), (500, 300), (71, 53)):
                if size == (71, 53) and format in EVEN:
                    continue
                short = converted(Converter(format, size), frame)
                with monkeypatch.context() as patch:
                    patch.setattr(swscale, "load", lambda: None)
                    assert np.array_equal(converted(Converter(format, size), frame), short), (format, size)


def test_a_way_that_leaves_columns_or_writes_besides_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, short_ways: list[VideoFrame]
) -> None:
    monkeypatch.setattr(convert, "_GROUPED", set())  # straight into the slot, though the width forbids it
    for width in (852, 856, 860):
        for format in ("rgb24", "bgra"):
            frame = noise("yuv420p", width, 18)
            short_ways.clear()
            assert np.array_equal(converted(Converter(format), frame), expected(frame, format))
            assert len(short_ways) == 3  # all the frames


def test_flat_pictures_prove_as_much_as_others(
    monkeypatch: pytest.MonkeyPatch, short_ways: list[VideoFrame]
) -> None:
    """A camera that starts with grey pictures must not make a way look right."""
    monkeypatch.setattr(convert, "_GROUPED", set())
    for luma in (16, 126, 235):  # black, grey and white
        grey, after = noise("yuv420p", 852, 18), noise("yuv420p", 852, 18)
        for plane, value in zip(grey.planes, (luma, 128, 128), strict=True):
            pixels(plane, plane.line_size)[:] = value
        converter = Converter("rgb24")
        converted(converter, grey)
        assert np.array_equal(converted(converter, after), expected(after, "rgb24"))


def test_the_library_is_only_used_where_it_is_as_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert swscale.load() is not None and swscale.reason() == ""

    def fresh() -> swscale.Library | None:
        library, reason = swscale._look.__wrapped__()
        assert (library is None) == (reason != "")
        return library

    with monkeypatch.context() as patch:
        patch.setattr(swscale, "_KNOWN", {(99, 99)})
        assert fresh() is None
    with monkeypatch.context() as patch:
        patch.setattr(swscale.reformatter, "__file__", np.__file__)
        assert fresh() is None
    with monkeypatch.context() as patch:  # a scaler that does something else
        patch.setattr(swscale, "BILINEAR", swscale.AREA)
        patch.setattr(swscale.Scaler.__init__, "__defaults__", (swscale.AREA,))
        assert fresh() is None
    assert fresh() is not None


@pytest.mark.parametrize("shift", [-16, -8, 8, 16, 24, 32, 40])
def test_a_frame_laid_out_otherwise_is_noticed_before_it_is_used(shift: int) -> None:
    library = swscale.Library()
    library._offset += shift
    with pytest.raises((LookupError, OSError)):
        library.check()


def test_cameras_in_threads_of_their_own_do_not_disturb_each_other() -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        try:
            converter = Converter("rgb24", (106, 60) if seed % 2 else None)
            for n in range(30):
                frame = noise("yuv420p", 318, 180, "bt709", seed * 100 + n)
                out = np.empty(converter.shape(frame), np.uint8)
                converter.write(frame, out)
                by = blocks(frame, 3, 3) if seed % 2 else frame
                if not np.array_equal(out, expected(by, "rgb24", converter.size)):
                    wrong.append((seed, n))
        except BaseException as e:
            wrong.append(e)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_converters_that_go_take_their_memory_along() -> None:
    """At once: a camera that reconnects must not wait for the garbage collector."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    frame = noise("yuv420p", 1278, 720)

    def use(count: int) -> None:
        for _ in range(count):
            out = np.empty((360, 638, 3), np.uint8)
            converter = Converter("rgb24", (638, 360))
            converter.write(frame, out)
            converter.write(frame, out)

    use(20)
    gc.collect()
    gc.disable()
    try:
        before = resident()
        use(100)
    finally:
        gc.enable()
    assert resident() - before < 30e6  # each has 3 MB


def test_an_array_of_another_kind_is_refused() -> None:
    frame = noise("yuv420p", 64, 32)
    converter = Converter("rgb24")
    converted(converter, frame)
    for out in (
        np.empty((32, 63, 3), np.uint8),
        np.empty((32, 64), np.uint8),
        np.empty((32, 64, 3), np.int8),
        np.empty((32, 128, 3), np.uint8)[:, ::2],
        np.empty((64, 32, 3), np.uint8).transpose(1, 0, 2),
    ):
        with pytest.raises(ValueError, match="contiguous"):
            converter.write(frame, out)


def test_a_stream_that_keeps_changing_is_followed(short_ways: list[VideoFrame]) -> None:
    converter = Converter("rgb24")
    for turn in range(3):
        for width in range(32, 132, 2):  # more kinds than are remembered
            frame = noise("yuv420p", width, 18, "bt709", turn)
            out = np.empty(converter.shape(frame), np.uint8)
            converter.write(frame, out)
            assert np.array_equal(out, expected(frame, "rgb24"))
    assert len(converter._ways) <= 64


def test_full_range_jpeg_is_not_squeezed(clips: Clips) -> None:
    for frame in pictures(clips("mjpeg", size=(854, 480))):
        assert frame.format.name == "yuvj420p"
        for format in FORMATS:
            assert np.array_equal(converted(Converter(format), frame), expected(frame, format)), format


@pytest.mark.parametrize("colorspace", ["bt709", "bt601"])
@pytest.mark.parametrize("range", ["limited", "full"])
def test_colours_are_right_whatever_the_stream_is_in(clips: Clips, colorspace: str, range: str) -> None:
    frame = pictures(clips(size=(854, 480), colorspace=colorspace, range=range), 1)[0]
    got = footage.read_patches(converted(Converter("rgb24"), frame))
    for patch, wanted in zip(got, footage.PATCHES, strict=True):
        assert patch == pytest.approx(wanted, abs=8)


def test_one_converter_follows_a_stream_that_changes(clips: Clips) -> None:
    converter = Converter("rgb24")
    small, hd, jpeg = (
        pictures(clips(size=(426, 240)), 1)[0],
        pictures(clips(size=(854, 480), colorspace="bt709"), 1)[0],
        pictures(clips("mjpeg", size=(854, 480)), 1)[0],
    )
    for frame in (small, hd, jpeg, small, jpeg, hd, small):
        assert np.array_equal(converted(converter, frame), expected(frame, "rgb24"))


def test_the_source_frame_is_left_as_it_was(clips: Clips) -> None:
    frame = pictures(clips(size=(854, 480), colorspace="bt709"), 1)[0]
    before = bytes(frame.planes[0]), frame.colorspace, frame.color_range
    converted(Converter("rgb24", (64, 64)), frame)
    assert before == (bytes(frame.planes[0]), frame.colorspace, frame.color_range)


def test_half_resolution_colour_of_an_odd_picture_is_a_clear_error() -> None:
    frame = VideoFrame(33, 17, "rgb24")
    for format in ("nv12", "yuv420p"):
        with pytest.raises(CameraFormatError, match=r"33x17 .* even .* size="):
            Converter(format).shape(frame)
        assert Converter(format, (32, 16)).shape(frame) == (24, 32)


def test_a_bottom_up_picture_is_never_read_from_its_wrong_end() -> None:
    with av.open("testsrc=size=64x48:duration=0.1,format=yuv420p,vflip", format="lavfi") as container:
        frame = next(container.decode(video=0))
        assert np.array_equal(converted(Converter("rgb24"), frame), expected(frame, "rgb24"))
        if frame.planes[0].line_size < 0:
            with pytest.raises(CameraFormatError, match="another format"):
                converted(Converter("yuv420p"), frame)


@pytest.mark.parametrize(
    ("format", "size"),
    [
        ("jpeg", None),
        ("gray", None),
        ("rgb24", (0, 5)),
        ("rgb24", (5,)),
        ("rgb24", (99999, 5)),
        ("nv12", (5, 4)),
        ("rgb24", (6.0, 4.0)),
    ],
)
def test_arguments_that_make_no_sense_are_refused(format: str, size: Any) -> None:
    with pytest.raises(ValueError, match="format|size"):
        Converter(format, size)


@pytest.mark.parametrize("source", ["gray16le", "gray10le", "yuv420p", "yuv420p10le", "rgb24"])
@pytest.mark.parametrize("size", [None, (96, 54)])
@pytest.mark.parametrize("width", [129, 640])
def test_sixteen_bits_of_grey_are_those_of_pyav(
    source: str, size: tuple[int, int] | None, width: int
) -> None:
    frame = noise(source, width, 108)
    converter = Converter("gray16", size)
    out = np.zeros(converter.shape(frame), np.uint16)
    w, h = size or (width, 108)
    if source == "yuv420p" and size is not None:  # means of blocks first
        frame, whole = blocks(frame, 1 if width % 2 else 2, 2), frame
    else:
        whole = frame
    wanted = frame.reformat(w, h, "gray16le", interpolation=Interpolation.AREA, threads=1)
    for _ in range(3):
        out[:] = 0
        converter.write(whole, out)
        assert np.array_equal(out, wanted.to_ndarray())


def test_what_a_thermal_camera_measures_reaches_the_ring_as_it_is() -> None:
    """Raw values of 16 bits, encoded without loss in no format that gray8 could carry."""
    values = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    frame = VideoFrame.from_ndarray(values, format="gray16le")
    out = np.zeros((48, 64), np.uint16)
    Converter("gray16").write(frame, out)
    assert np.array_equal(out, values)
