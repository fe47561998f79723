# SPDX-License-Identifier: MIT
# Memory as a DLPack tensor (https://dmlc.github.io/dlpack/latest/): the structs of version 1.0 and of those
# before, and what frees them. Part of _shm.pyx.

cdef enum:
    DL_CPU = 1                # DLDeviceType

cdef enum:
    DL_READ_ONLY = 1          # DLManagedTensorVersioned.flags
    DL_COPIED = 2

cdef struct DLDevice:
    int32_t device_type
    int32_t device_id

cdef struct DLDataType:
    uint8_t code
    uint8_t bits
    uint16_t lanes

cdef struct DLTensor:
    void *data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    int64_t *shape
    int64_t *strides          # in elements
    uint64_t byte_offset

cdef struct DLPackVersion:
    uint32_t major
    uint32_t minor

cdef struct DLManagedTensor:
    DLTensor tensor
    void *manager
    void (*deleter)(DLManagedTensor *) noexcept nogil

cdef struct DLManagedTensorVersioned:
    DLPackVersion version
    void *manager
    void (*deleter)(DLManagedTensorVersioned *) noexcept nogil
    uint64_t flags
    DLTensor tensor

# What a capsule points into: one of the two tensors is used, both know where this is.
cdef struct _Lent:
    DLManagedTensor plain
    DLManagedTensorVersioned versioned
    PyObject *owner
    int64_t shape[4]
    int64_t strides[4]

cdef extern from "Python.h" nogil:
    int Py_IsInitialized()

cdef const char *PLAIN = "dltensor"
cdef const char *VERSIONED = "dltensor_versioned"


cdef object _capsule(Frame frame, bint versioned, uint64_t flags):
    """A capsule with the frame in it; the memory stays as it is until the consumer calls the deleter."""
    return _lend(frame.view(), frame.data_ptr, DLDevice(DL_CPU, 0), frame.info.dtype, <int>frame.info.ndim, frame.dims,
                 versioned, flags)


def lend(owner, size_t address, tuple device, dtype, tuple shape not None, bint versioned):
    """A DLPack capsule of writable memory, packed in row-major order: ``owner`` lives until the consumer is done with
    it. ``device`` is (type, number), as of DLPack; ``shape`` has up to four axes. Raises ValueError."""
    cdef Py_ssize_t dims[4]
    cdef int d
    if len(shape) > 4:
        raise ValueError(f"up to four axes, and not {shape}")
    for d in range(len(shape)):
        dims[d] = shape[d]
    return _lend(owner, <void *>address, DLDevice(device[0], device[1]), DTYPES.index(dtype), <int>len(shape), dims,
                 versioned, 0)


cdef object _lend(object owner, void *data, DLDevice device, uint32_t dtype, int ndim, const Py_ssize_t *dims,
                  bint versioned, uint64_t flags):
    cdef _Lent *lent = <_Lent *>malloc(sizeof(_Lent))
    cdef DLTensor *tensor
    cdef int64_t step = 1
    cdef int d
    if lent == NULL:
        raise MemoryError
    memset(lent, 0, sizeof(_Lent))
    tensor = &lent.versioned.tensor if versioned else &lent.plain.tensor
    tensor.data = data
    tensor.device = device
    tensor.dtype = DLDataType(KNOWN_DTYPES[dtype].dl_code, <uint8_t>(va_itemsize(dtype) * 8), 1)
    tensor.ndim = ndim
    for d in range(ndim - 1, -1, -1):
        lent.shape[d] = dims[d]
        lent.strides[d] = step
        step *= dims[d]
    tensor.shape = lent.shape
    tensor.strides = lent.strides
    lent.versioned.version = DLPackVersion(1, 0)
    lent.versioned.flags = flags
    lent.versioned.manager = lent.plain.manager = lent
    lent.versioned.deleter = _delete_versioned
    lent.plain.deleter = _delete_plain
    try:
        if versioned:
            capsule = PyCapsule_New(&lent.versioned, VERSIONED, _forget)
        else:
            capsule = PyCapsule_New(&lent.plain, PLAIN, _forget)
    except BaseException:
        free(lent)
        raise
    lent.owner = <PyObject *>owner
    Py_INCREF(owner)
    return capsule


cdef void _forget(capsule) noexcept:
    """The capsule goes. A consumer would have renamed it, so the tensor in this one is ours to free."""
    if PyCapsule_IsValid(capsule, VERSIONED):
        _give_back((<DLManagedTensorVersioned *>PyCapsule_GetPointer(capsule, VERSIONED)).manager)
    elif PyCapsule_IsValid(capsule, PLAIN):
        _give_back((<DLManagedTensor *>PyCapsule_GetPointer(capsule, PLAIN)).manager)


cdef void _delete_versioned(DLManagedTensorVersioned *tensor) noexcept nogil:
    _delete(tensor.manager)


cdef void _delete_plain(DLManagedTensor *tensor) noexcept nogil:
    _delete(tensor.manager)


cdef void _delete(void *lent) noexcept nogil:
    """Called by the consumer, in any thread; after the interpreter's end there is nothing to give back."""
    if Py_IsInitialized():
        with gil:
            _give_back(lent)


cdef void _give_back(void *lent) noexcept:
    cdef PyObject *owner = (<_Lent *>lent).owner
    free(lent)
    Py_DECREF(<object>owner)
