"""Arrays of any dtype and shape arrive as they were, in every way to look at them."""

from __future__ import annotations

import copy
import ctypes
import gc
import multiprocessing
import pickle
import sys
import threading
import weakref
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import valkka_async as va
from support.program import Child
from support.require import missing

DTYPES = (
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "bool"),
)


def sample(dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2, shape) if dtype == "bool" else rng.integers(-128, 128, shape)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives_in_another_process_with_up_to_four_axes(dtype: str) -> None:
    code = """
    with va.attach("s", policy="ordered") as reader:
        say("in")
        for frame in reader:
            say(frame.format, frame.dtype, frame.shape, frame.array.tobytes().hex())
    """
    shapes = ((5,), (2, 3), (3, 2, 1), (2, 1, 3, 2))
    with va.serve("s", slots=8) as server, Child(code) as child:
        assert child.line() == "in"
        for shape in shapes:
            server.publish(sample(dtype, shape), format="array")
        for shape in shapes:
            assert child.line() == f"array {dtype} {shape} {sample(dtype, shape).tobytes().hex()}"


@pytest.mark.parametrize(
    ("dtype", "shape", "format"),
    [
        ("uint8", (5,), "bytes"),
        ("uint8", (6, 8), "gray8"),
        ("uint8", (6, 8, 3), "rgb24"),
        ("uint8", (6, 8, 1), "array"),
        ("uint8", (3, 6, 8), "array"),
        ("uint8", (1, 6, 8, 3), "array"),
        ("uint16", (6, 8), "gray16"),
        ("uint16", (6, 8, 3), "array"),
        ("uint16", (6,), "array"),
        ("int16", (6, 8), "array"),
        ("float32", (6, 8), "array"),
        ("float32", (6, 8, 3), "array"),
        ("bool", (6, 8), "array"),
    ],
)
def test_an_array_without_a_format_gets_the_one_that_it_suggests(
    dtype: str, shape: tuple[int, ...], format: str
) -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(np.zeros(shape, dtype))
        with reader.recv(5) as frame:
            assert (frame.format, frame.dtype, frame.shape) == (format, dtype, shape)
            assert frame.nbytes == np.zeros(shape, dtype).nbytes


@pytest.fixture(scope="module")
def names() -> Iterator[Iterator[str]]:
    yield iter(f"s{n}" for n in range(1 << 20))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_array_arrives_equal_to_the_bit(names: Iterator[str], data: st.DataObject) -> None:
    """Whatever its dtype, byte order, axes and strides."""
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    order = data.draw(st.sampled_from("<>="))
    shape = data.draw(nps.array_shapes(min_dims=1, max_dims=4, max_side=5))
    image = data.draw(nps.arrays(dtype.newbyteorder(order), shape))
    view = image[tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1, -3]))) for _ in shape)]
    view = np.transpose(view, data.draw(st.permutations(range(view.ndim))))
    name = next(names)
    with va.serve(name) as server, va.attach(name) as reader:
        server.publish(view, format="array")
        with reader.recv(5) as frame:
            right = np.ascontiguousarray(view).astype(dtype)  # in the machine's order
            assert (frame.dtype, frame.shape) == (dtype, view.shape)
            assert frame.array.dtype.isnative
            for seen in (frame.array, np.asarray(frame.data), np.from_dlpack(frame), frame.copy().array):
                assert seen.dtype == dtype and seen.shape == view.shape
                assert seen.tobytes() == right.tobytes()
            del seen


def test_a_stream_may_change_its_dtype_and_shape_with_each_frame() -> None:
    with va.serve("s", slots=32) as server, va.attach("s", policy="ordered") as reader:
        sent = [sample(d, s) for s in ((4, 4), (4, 4, 2), (16,)) for d in DTYPES for _ in range(2)]
        for image in sent[:24]:
            server.publish(image)
        for image in sent[:24]:
            frame = reader.recv(5)
            assert frame.dtype == image.dtype and np.array_equal(frame.array, image)


def test_threads_that_publish_different_arrays_to_one_server_get_each_described_rightly() -> None:
    kinds = {"a": ("uint8", (300, 300, 3)), "b": ("float32", (9, 300, 400)), "c": ("uint16", (70, 80))}
    with va.serve("s", slots=64) as server, va.attach("s", policy="ordered") as reader:
        server.publish(np.zeros((9, 300, 400), "float32"))  # the largest, so that there is one ring
        reader.recv(5).release()

        def publish(name: str) -> None:
            image = np.full(kinds[name][1], ord(name), kinds[name][0])
            for _ in range(200):
                server.publish(image, meta={"who": name})

        threads = [threading.Thread(target=publish, args=name) for name in kinds]
        for thread in threads:
            thread.start()
        seen = 0
        while seen + reader.stats().dropped < 600:
            with reader.recv(10) as frame:
                who = frame.meta["who"]
                assert (frame.dtype, frame.shape) == kinds[who]
                assert (frame.array == ord(who)).all()
            seen = reader.stats().received - 1
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("image", [
    (ctypes.c_float * 6)(1, 2, 3, 4, 5, 6),
    memoryview(np.arange(6, dtype=np.float32)),
    np.arange(6, dtype=np.float32).astype("<f4"),
    np.arange(6, dtype=np.float32).astype(">f4"),
    np.arange(6, dtype=np.float32).view(type("Sub", (np.ndarray,), {})),
])  # fmt: skip
def test_anything_that_numpy_sees_as_an_array_can_be_published(image: Any) -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        for _ in range(3):
            server.publish(image)
            frame = reader.recv(5)
            assert frame.dtype == np.float32 and np.array_equal(frame.array, np.asarray(image))


def test_equal_dtypes_are_one() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        for dtype in (np.longlong, np.int_, "<i8", ">i8"):
            for _ in range(2):
                server.publish(np.array([1, -2], dtype))
                frame = reader.recv(5)
                assert (frame.dtype, frame.array.tolist()) == (np.int64, [1, -2])


def test_a_list_of_numbers_is_an_array_of_int64() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish([[1, -2], [3, 4]])
        frame = reader.recv(5)
        assert (frame.dtype, frame.array.tolist()) == (np.int64, [[1, -2], [3, 4]])


def test_a_loan_may_be_of_any_dtype() -> None:
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        for dtype in ("float32", np.int16, np.dtype(">f8"), bool):
            with server.loan((2, 3, 4), format="array", dtype=dtype) as slot:
                assert slot.dtype == np.dtype(dtype).newbyteorder("=")
                slot.array[:] = np.arange(24).reshape(2, 3, 4) % 2
            frame = reader.recv(5)
            assert frame.dtype == slot.dtype
            assert frame.array.sum() == 12
        with server.loan((4, 4), "gray16") as slot:
            assert slot.dtype == np.uint16
        with server.loan((4,), "array") as slot:
            assert slot.dtype == np.uint8
        with pytest.raises(va.FrameError):
            server.loan((4, 4, 3), "rgb24", dtype="float32")
        for wrong in ("complex64", "nonsense", object):
            with pytest.raises(va.FrameError):
                server.loan((4, 4, 3), "array", dtype=wrong)


def test_a_memoryview_of_a_frame_has_its_dtype_and_shape() -> None:
    image = sample("int32", (3, 4))
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(image)
        frame = reader.recv(5)
        data = frame.data
        assert (data.format, data.itemsize, data.shape, data.readonly) == ("i", 4, (3, 4), True)
        assert data.tolist() == image.tolist() and bytes(data) == image.tobytes()
        assert b"".join([frame]) == image.tobytes()  # type: ignore[list-item]  # a consumer that wants bytes


# --------------------------------------------------------------------------------------- DLPack


@pytest.fixture
def frame() -> Iterator[va.Frame]:
    """The only frame of a ring that has two slots: a writer shows whether it is still held."""
    with va.serve("s", slots=2) as server, va.attach("s", max_leases=1) as reader:
        server.publish(np.arange(24, dtype=np.float32).reshape(2, 3, 4), pts=7, meta={"a": 1}, key=False)
        server.publish(np.arange(24, dtype=np.float32).reshape(2, 3, 4), pts=7, dts=5, duration=2,
                       time_base=(1, 25), meta={"a": 1})  # fmt: skip
        frame = reader.recv(5)
        yield frame
        frame.release()


def held() -> bool:
    """Is the frame's slot still taken?"""
    gc.collect()
    (reader,) = [thing for thing in gc.get_objects() if type(thing) is va.Reader and not thing.closed]
    return reader.stats().leases > 0


def test_numpy_takes_a_frame_by_dlpack_and_keeps_the_slot_until_it_lets_go(frame: va.Frame) -> None:
    array = np.from_dlpack(frame)
    assert not array.flags.writeable
    assert np.shares_memory(array, frame.array)
    part = array[1:, 1]
    del array
    frame.release()
    assert held()
    assert part.tolist() == [[16, 17, 18, 19]]
    del part
    assert not held()


class Capsule:
    """A consumer that speaks DLPack by hand, as C does."""

    class Tensor(ctypes.Structure):
        _fields_ = (
            ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
            ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
            ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
            ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
        )  # fmt: skip

    class Plain(ctypes.Structure):
        pass

    class Versioned(ctypes.Structure):
        pass

    Plain._fields_ = (
        ("tensor", Tensor),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.POINTER(Plain))),
    )
    Versioned._fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("manager", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.POINTER(Versioned))), ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )  # fmt: skip

    def __init__(self, capsule: object) -> None:
        api = ctypes.pythonapi
        api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
        self.name = api.PyCapsule_GetName(capsule)
        kind = self.Versioned if self.name == b"dltensor_versioned" else self.Plain
        self.managed = kind.from_address(api.PyCapsule_GetPointer(capsule, self.name))
        self.used = b"used_" + self.name  # the capsule keeps the pointer
        api.PyCapsule_SetName(capsule, self.used)

    def delete(self) -> None:
        self.managed.deleter(ctypes.byref(self.managed))


def test_a_capsule_says_what_the_tensor_is_and_the_deleter_gives_the_slot_back(frame: va.Frame) -> None:
    assert frame.__dlpack_device__() == (1, 0)
    capsule = frame.__dlpack__(max_version=(1, 1), dl_device=(1, 0), copy=False)
    consumer = Capsule(capsule)
    assert consumer.name == b"dltensor_versioned"
    managed = consumer.managed
    assert (managed.major, managed.flags) == (1, 1), "read-only"
    tensor = managed.tensor
    assert (tensor.device_type, tensor.device_id, tensor.byte_offset) == (1, 0, 0)
    assert (tensor.ndim, tensor.shape[:3], tensor.strides[:3]) == (3, [2, 3, 4], [12, 4, 1])
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 32, 1)
    assert tensor.data == frame.array.__array_interface__["data"][0]
    del capsule
    frame.release()
    assert held(), "the consumer has the capsule's contents"
    thread = threading.Thread(target=consumer.delete)  # which holds no GIL, as ctypes lets it go
    thread.start()
    thread.join()
    assert not held()


def test_a_capsule_that_nobody_uses_gives_the_slot_back(frame: va.Frame) -> None:
    capsules = [frame.__dlpack__(max_version=(1, 0)), frame.__dlpack__(copy=True)]
    frame.release()
    assert held()
    del capsules
    assert not held()


@pytest.mark.parametrize("version", [None, (0, 8)])
def test_a_consumer_that_cannot_take_read_only_memory_is_refused_or_gets_a_copy(
    frame: va.Frame, version: tuple[int, int] | None
) -> None:
    with pytest.raises(BufferError, match=r"read-only.*copy\(\)"):
        frame.__dlpack__(max_version=version)
    for capsule in (
        frame.__dlpack__(max_version=version, copy=True),
        frame.copy().__dlpack__(max_version=version),
    ):
        consumer = Capsule(capsule)
        assert consumer.name == b"dltensor"
        tensor = consumer.managed.tensor
        values = (ctypes.c_float * 24).from_address(tensor.data)
        assert list(values) == list(range(24))
        values[0] = 99.0  # it may be written
        consumer.delete()
    assert frame.array[0, 0, 0] == 0


def test_dlpack_gives_a_writable_copy_when_asked(frame: va.Frame) -> None:
    array = np.from_dlpack(frame, copy=True)
    assert not np.shares_memory(array, frame.array)
    # Before 2.3 numpy lets nobody write what came by DLPack.
    assert array.flags.writeable or np.lib.NumpyVersion(np.__version__) < "2.3.0"
    consumer = Capsule(frame.__dlpack__(max_version=(1, 0), copy=True))
    assert consumer.managed.flags == 2, "copied, and not read-only"
    consumer.delete()
    if array.flags.writeable:
        array[:] = 1
    assert frame.array[1, 2, 3] == 23
    frame.release()
    assert not held()


def test_dlpack_of_another_device_or_of_a_released_frame_is_an_error(frame: va.Frame) -> None:
    with pytest.raises(BufferError):
        frame.__dlpack__(max_version=(1, 0), dl_device=(2, 0))
    with pytest.raises(BufferError):
        frame.__dlpack__(max_version=(1, 0), stream=1)  # type: ignore[arg-type]
    frame.release()
    for version in (None, (1, 0)):
        with pytest.raises(va.FrameReleasedError):
            frame.__dlpack__(max_version=version)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_names_every_dtype(dtype: str) -> None:
    image = sample(dtype, (3, 5))
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(image)
        array = np.from_dlpack(reader.recv(5))
        assert array.dtype == dtype and np.array_equal(array, image)


# --------------------------------------------------------------------------- copies and references


def fields(frame: va.Frame) -> tuple[object, ...]:
    return (
        frame.source, frame.seq, frame.dropped, frame.key, frame.format, frame.shape, frame.dtype,
        frame.nbytes, frame.timestamp_ns, frame.published_ns, frame.pts, frame.dts, frame.duration,
        frame.time_base, frame.meta, frame.array.tolist(),
    )  # fmt: skip


@pytest.mark.parametrize(
    "twin",
    [
        va.Frame.copy,
        copy.copy,
        copy.deepcopy,
        *(lambda f, p=p: pickle.loads(pickle.dumps(f, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
        lambda f: pickle.loads(pickle.dumps(f.copy())),
    ],
    ids=["copy()", "copy.copy", "copy.deepcopy", *(f"pickle {p}" for p in range(6)), "pickle of a copy"],
)
def test_a_copy_is_the_same_frame_and_holds_no_slot(frame: va.Frame, twin: Any) -> None:
    before = fields(frame)
    other = twin(frame)
    frame.release()
    assert not held()
    assert fields(other) == before
    assert (other.pts, other.dts, other.duration, other.time_base) == (7, 5, 2, Fraction(1, 25))
    other.array[:] = 0
    assert other.array.sum() == 0 and other.array.flags.writeable
    again = copy.copy(other)
    again.array[:] = 1
    assert other.array.sum() == 0


def test_a_pickle_with_buffers_beside_it_can_be_written_too(frame: va.Frame) -> None:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(frame, 5, buffer_callback=buffers.append)
    frame.release()
    assert not held()
    for memory in (buffers, [bytes(b) for b in buffers]):
        other = pickle.loads(data, buffers=memory)
        other.array[:] = 3


def test_a_frame_goes_through_a_pipe_of_multiprocessing(frame: va.Frame) -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ours.send(frame)
        frame.release()
        assert not held()
        other = theirs.recv()
        assert (other.seq, other.array[1, 2, 3]) == (2, 23)


def test_a_released_frame_is_not_copied_or_pickled(frame: va.Frame) -> None:
    frame.release()
    for look in (copy.copy, copy.deepcopy, pickle.dumps, lambda f: f.__array_interface__):
        with pytest.raises(va.FrameReleasedError):
            look(frame)


def test_a_frame_may_be_referred_to_weakly(frame: va.Frame) -> None:
    other = frame.copy()
    known = weakref.WeakValueDictionary({1: other})
    gone: list[object] = []
    reference = weakref.ref(other, gone.append)
    assert reference() is other and known[1] is other
    del other
    assert gone == [reference] and not known


def test_the_array_interface_keeps_the_slot(frame: va.Frame) -> None:
    class Other:
        __array_interface__ = frame.__array_interface__

    array = np.asarray(Other())
    assert np.shares_memory(array, frame.array) and not array.flags.writeable
    assert (array.dtype, array.shape) == (np.float32, (2, 3, 4))
    del Other
    frame.release()
    assert held()
    del array
    assert not held()


def test_pillow_takes_frames_as_images() -> None:
    try:
        from PIL import Image
    except ImportError:
        missing("Pillow is not installed")
    rgb, gray, depth = sample("uint8", (6, 8, 3)), sample("uint8", (6, 8)), sample("uint16", (6, 8))
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        for image in (rgb, gray, depth):
            server.publish(image)
            frame = reader.recv(5)
            picture = Image.fromarray(frame)  # type: ignore[arg-type]
            frame.release()
            assert np.array_equal(np.asarray(picture), image)
            picture.close()


def test_a_frame_counts_its_references() -> None:
    """Neither the views nor the capsules leak a frame or its memory."""
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(sample("float32", (10, 10)))
        frame = reader.recv(5)
        before = sys.getrefcount(frame)
        for _ in range(1000):
            np.from_dlpack(frame)
            np.from_dlpack(frame, copy=True)
            pickle.dumps(frame)
            memoryview(frame).release()
            frame.array  # noqa: B018
        assert sys.getrefcount(frame) == before
