"""What is published arrives, and a frame lives exactly as long as somebody looks at it."""

from __future__ import annotations

import gc
import time
from fractions import Fraction

import numpy as np
import pytest

import valkka_async as va
from support.program import Child


@pytest.mark.parametrize(
    ("shape", "format", "seen"),
    [
        ((6, 8, 3), None, "rgb24"),
        ((6, 8, 3), "bgr24", "bgr24"),
        ((6, 8, 4), None, "rgba"),
        ((6, 8, 4), "bgra", "bgra"),
        ((6, 8), None, "gray8"),
        ((6, 8), "nv12", "nv12"),
        ((6, 8), "yuv420p", "yuv420p"),
        ((100,), None, "bytes"),
        ((100,), "jpeg", "jpeg"),
        ((100,), "fmp4", "fmp4"),
        ((1080, 1920, 3), None, "rgb24"),
    ],
)
def test_every_format_arrives_as_it_was_sent(shape: tuple[int, ...], format: str | None, seen: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    with va.serve("s") as server, va.attach("s") as reader:
        assert server.publish(image, format=format)
        with reader.recv(5) as frame:
            assert frame.format == seen
            assert frame.shape == shape
            assert frame.nbytes == image.size
            assert np.array_equal(frame.array, image)
            assert bytes(frame.data) == image.tobytes()


@pytest.mark.parametrize("data", [b"hello", bytearray(b"hello"), memoryview(b"hello")])
def test_bytes_arrive(data: bytes | bytearray | memoryview) -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(data)
        frame = reader.recv(5)
        assert frame.format == "bytes"
        assert bytes(frame.data) == b"hello"


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::2],
        lambda a: a[:, ::3],
        lambda a: a[:, :, ::-1],
        lambda a: a[::-1],
        lambda a: a.transpose(1, 0, 2),
        lambda a: np.asfortranarray(a),
        lambda a: a[:, 5:10],
    ],
)
@pytest.mark.parametrize("size", [(48, 64), (600, 800)])  # below and above where the GIL is let go
def test_a_strided_view_is_copied_right(view, size) -> None:  # type: ignore[no-untyped-def]
    image = view(np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8))
    assert not image.flags.c_contiguous
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(image)
        assert np.array_equal(reader.recv(5).array, image)


def test_a_frame_can_be_published_onwards() -> None:
    with va.serve("a") as a, va.serve("b") as b, va.attach("a") as ra, va.attach("b") as rb:
        a.publish(np.full((4, 4, 3), 7, np.uint8))
        frame = ra.recv(5)
        b.publish(frame, format=frame.format, timestamp_ns=frame.timestamp_ns)
        onward = rb.recv(5)
        assert np.array_equal(onward.array, frame.array)
        assert onward.timestamp_ns == frame.timestamp_ns


def test_a_frame_says_all_about_itself() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        before = time.monotonic_ns()
        server.publish(
            b"x",
            format="h264",
            timestamp_ns=time.time_ns() - 2_000_000_000,
            pts=-5,
            dts=-9,
            duration=3600,
            time_base=(1, 90000),
            key=True,
            meta={"boxes": [[1, 2]], "name": "Åsa"},
        )
        frame = reader.recv(5)
        assert (frame.source, frame.seq, frame.dropped, frame.key) == ("s", 1, 0, True)
        assert (frame.pts, frame.dts, frame.duration) == (-5, -9, 3600)
        assert frame.time_base == Fraction(1, 90000)
        assert frame.meta == {"boxes": [[1, 2]], "name": "Åsa"}
        assert before <= frame.published_ns <= time.monotonic_ns()
        assert 2 <= frame.age < 60
        assert repr(frame) == "<Frame s #1 h264 1>"


def test_what_was_not_said_is_absent() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        before = time.time_ns()
        server.publish(b"x")
        frame = reader.recv(5)
        assert (frame.pts, frame.dts, frame.duration, frame.time_base) == (None, None, None, None)
        assert (frame.meta, frame.key) == ({}, True)
        server.publish(b"x", pts=0, dts=0, duration=0)  # zero is known
        frame = reader.recv(5)
        assert (frame.pts, frame.dts, frame.duration) == (0, 0, 0)
        assert before <= frame.timestamp_ns <= time.time_ns()


def test_a_loaned_slot_is_published_at_the_end_of_the_block() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        with server.loan((4, 6, 3), "bgr24", pts=3, dts=2, duration=1) as slot:
            assert slot.array.shape == slot.shape == (4, 6, 3)
            slot.array[:] = 9
            assert reader.recv_nowait() is None
        frame = reader.recv(5)
        assert frame.format == "bgr24"
        assert (frame.pts, frame.dts, frame.duration) == (3, 2, 1)
        assert (frame.array == 9).all()
        with pytest.raises(va.FrameReleasedError):
            slot.array  # noqa: B018
        with pytest.raises(va.FrameReleasedError):
            slot.publish()


def test_a_loan_is_discarded_on_an_exception() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        with pytest.raises(ZeroDivisionError), server.loan((4, 4), "gray8") as slot:
            slot.array[:] = 1
            1 / 0  # noqa: B018
        assert reader.recv_nowait() is None
        assert server.stats().published == 0
        server.publish(b"next")
        assert reader.recv(5).seq == 1


def test_slots_come_back_from_discarded_and_forgotten_loans() -> None:
    with va.serve("s", slots=2) as server:
        for _ in range(10):
            server.loan((4, 4), "gray8").discard()
            server.loan((4, 4), "gray8")  # forgotten at once
        held = [server.loan((4, 4), "gray8") for _ in range(2)]
        with pytest.raises(va.NoFreeSlotError, match="slots are in use"):
            server.loan((4, 4), "gray8")
        assert not server.publish(np.zeros((4, 4), np.uint8))
        assert server.stats().dropped == 2
        for slot in held:
            slot.discard()
            slot.discard()


def test_a_discarded_slot_is_not_reused_while_a_view_of_it_lives() -> None:
    with va.serve("s", slots=3) as server:
        slot = server.loan((4, 4), "gray8")
        view = slot.array
        slot.discard()
        for i in range(5):
            server.publish(np.full((4, 4), i, np.uint8))
        view[:] = 77  # would spoil a published frame if the slot had been given away
        with va.attach("s") as reader:
            assert (reader.recv(5).array == 4).all()


def test_a_view_keeps_the_slot_and_release_gives_it_back() -> None:
    image = np.zeros((4, 4), np.uint8)
    with va.serve("s") as server, va.attach("s", max_leases=1) as reader:
        server.publish(image)
        frame = reader.recv(5)
        view = frame.array[1:3, 1:]
        frame.release()
        frame.release()
        assert frame.released
        assert reader.stats().leases == 1
        with pytest.raises(va.LeaseLimitError, match=r"release\(\).*copy\(\)"):
            reader.recv_nowait()
        del view
        assert reader.stats().leases == 0
        server.publish(image)
        assert reader.recv(5).seq == 2


def test_the_last_reference_gives_the_slot_back() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(b"x")
        frame = reader.recv(5)
        data = frame.data
        del frame
        assert reader.stats().leases == 1
        data.release()
        del data
        gc.collect()
        assert reader.stats().leases == 0


def test_a_released_frame_is_inert_and_says_so() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(np.zeros((4, 4), np.uint8))
        frame = reader.recv(5)
        frame.release()
        for look in (
            lambda: frame.array,
            lambda: frame.data,
            lambda: np.asarray(frame),
            frame.copy,
            frame.__enter__,
        ):
            with pytest.raises(va.FrameReleasedError, match="released"):
                look()
        assert "[released]" in repr(frame)
        assert frame.seq == 1


def test_a_look_at_a_released_frame_writes_to_no_memory() -> None:
    # It did: what had no frame yet counted down beside the object None, whose type then was no more.
    with Child(
        """
        with va.serve("s") as server, va.attach("s") as reader:
            server.publish(np.zeros((4, 4), np.uint8))
            frame = reader.recv(5)
            frame.release()
            for look in (lambda: frame.array, frame.copy, lambda: frame.__dlpack__(max_version=(1, 0))):
                for _ in range(1000):
                    try:
                        look()
                    except va.FrameReleasedError:
                        pass
        say(str(None), type(None))
        """
    ) as child:
        assert child.line() == "None <class 'NoneType'>"


def test_frames_are_read_only_and_copies_are_not() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(np.full((4, 4), 5, np.uint8), meta={"a": 1}, pts=9)
        frame = reader.recv(5)
        with pytest.raises(ValueError, match="read-only"):
            frame.array[0] = 1
        copy = frame.copy()
        frame.release()
        assert reader.stats().leases == 0
        copy.array[0] = 1
        assert copy.array.tolist() == [[1] * 4] + [[5] * 4] * 3
        assert (copy.source, copy.seq, copy.pts, copy.meta, copy.format) == ("s", 1, 9, {"a": 1}, "gray8")
        copy.release()
        with pytest.raises(va.FrameReleasedError):
            copy.array  # noqa: B018


def test_numpy_sees_a_frame_as_an_array() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(np.full((4, 4), 5, np.uint8))
        frame = reader.recv(5)
        assert np.asarray(frame).sum() == 80
        assert np.asarray(frame, dtype=np.float32).dtype == np.float32
        assert np.array(frame).flags.writeable
        assert np.mean(frame) == 5  # type: ignore[call-overload]


def test_frames_outlive_their_reader_and_their_server() -> None:
    with va.serve("s", slots=2) as server:
        with va.attach("s") as reader:
            server.publish(np.full((4, 4), 1, np.uint8))
            frame = reader.recv(5)
        # The reader is closed, its frame is not: the slot stays taken.
        for i in range(2, 20):
            server.publish(np.full((4, 4), i, np.uint8))
        assert (frame.array == 1).all()
    assert (frame.array == 1).all()


def test_frames_cannot_be_made_up() -> None:
    with pytest.raises(TypeError, match="recv"):
        va.Frame()
    with pytest.raises(TypeError, match="loan"):
        va.Slot()


@pytest.mark.parametrize(
    ("image", "options", "hint"),
    [
        (np.zeros((4, 4, 3)), {"format": "rgb24"}, "float64.*astype.*array"),
        (np.zeros((4, 4), np.uint16), {"format": "gray8"}, "uint16.*astype"),
        (np.zeros((4, 4), np.uint8), {"format": "gray16"}, "uint16"),
        (np.zeros((4, 4), bool), {"format": "gray8"}, "bool"),
        (np.zeros((4, 4), np.int8), {"format": "gray8"}, "int8"),
        (np.zeros((4, 4), "datetime64[s]"), {}, "datetime64"),
        (np.zeros((4, 4), [("a", np.uint8)]), {}, "uint8"),
        (np.zeros((4, 4), complex), {}, "complex128"),
        (np.zeros((4, 4), np.longdouble), {}, "longdouble|float128"),
        (np.zeros((4, 4), object), {"format": "array"}, "object"),
        (np.zeros((0, 4), np.float32), {}, "empty"),
        (np.zeros((0, 4, 3), np.uint8), {}, "empty"),
        (np.zeros((), np.uint8), {}, "empty"),
        (b"", {}, "empty"),
        (np.zeros((4, 4, 2), np.uint8), {"format": "rgb24"}, r"\(H, W, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), {"format": "rgb24"}, r"\(H, W, 3\)"),
        (np.zeros((1, 2, 3, 4, 5), np.uint8), {}, "up to 4 axes"),
        (np.zeros((4, 4, 3), np.uint8), {"format": "gray8"}, r"\(H, W\)"),
        (np.zeros((4, 4), np.uint8), {"format": "nv12"}, r"H \* 3 // 2"),
        (np.zeros((6, 5), np.uint8), {"format": "yuv420p"}, "even"),
        (np.zeros((4, 4, 3), np.uint8), {"format": "rgb42"}, "rgb24"),
        ("text", {}, "uint8"),
        (None, {}, "numpy array or bytes"),
        (b"x", {"meta": {"a": object()}}, "JSON"),
        (b"x", {"meta": {"a": "x" * 5000}}, "4096"),
        (b"x", {"meta": [1]}, "dict"),
        (b"x", {"time_base": (1, 0)}, "time_base"),
        (b"x", {"time_base": (1, 1 << 40)}, "32 bits"),
    ],
)
def test_a_frame_that_is_none_is_refused_with_a_hint(image, options, hint) -> None:  # type: ignore[no-untyped-def]
    with va.serve("s") as server, va.attach("s") as reader:
        with pytest.raises(va.FrameError, match=hint) as raised:
            server.publish(image, **options)
        assert isinstance(raised.value, ValueError)
        server.publish(b"fine")  # and the server serves on
        assert bytes(reader.recv(5).data) == b"fine"


def test_publishing_after_close_says_so() -> None:
    server = va.serve("s")
    slot = server.loan((4, 4), "gray8")
    server.close()
    server.close()
    assert server.closed
    with pytest.raises(va.ConnectionClosedOK, match="closed"):
        server.publish(b"x")
    with pytest.raises(va.ConnectionClosedOK, match="closed"):
        slot.publish()


def test_memory_that_cannot_be_had_is_an_error_at_the_call() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with va.serve("s") as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(va.RingMemoryError, match="ulimit"):
                server.publish(np.zeros((1000, 1000, 3), np.uint8))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert server.publish(np.zeros((1000, 1000, 3), np.uint8))
