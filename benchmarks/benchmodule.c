/* SPDX-License-Identifier: MIT
 *
 * frame.h and floor.c for Python, as the module `bench`; compiled by build.py when a run starts.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "floor.c"
#include <signal.h>
#include <sys/prctl.h>

static ring_t *rings;
static uint64_t *seen;
static Py_ssize_t nrings;

/* stamp(frame, kind, made=now): write the header into a writable buffer */
static PyObject *py_stamp(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    Py_buffer b;
    long kind;
    long long made;
    if (n < 2 || (kind = PyLong_AsLong(args[1])) < 0)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "stamp(frame, kind, made)");
    made = n > 2 ? PyLong_AsLongLong(args[2]) : now_ns(CLOCK_MONOTONIC);
    if (PyObject_GetBuffer(args[0], &b, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS))
        return NULL;
    stamp_frame(b.buf, (uint64_t)b.len, (uint64_t)kind, made);
    PyBuffer_Release(&b);
    Py_RETURN_NONE;
}

/* touch(frame) -> bool: look at a frame; True: it was the last */
static PyObject *py_touch(PyObject *self, PyObject *frame)
{
    Py_buffer b;
    if (PyObject_GetBuffer(frame, &b, PyBUF_C_CONTIGUOUS))
        return NULL;
    bool stop = touch_frame(b.buf, (uint64_t)b.len);
    PyBuffer_Release(&b);
    return PyBool_FromLong(stop);
}

static PyObject *py_tell(PyObject *self, PyObject *fd)
{
    tell_fd = (int)PyLong_AsLong(fd);
    Py_RETURN_NONE;
}

static PyObject *py_cpu(PyObject *self, PyObject *none) { return PyLong_FromLongLong(cpu_ns()); }

static PyObject *py_die_with_parent(PyObject *self, PyObject *none)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Py_RETURN_NONE;
}

/* results() -> ([(count, torn, lost, first_ns, last_ns, cpu_ns) of each kind], hand, touched) */
static PyObject *py_results(PyObject *self, PyObject *none)
{
    PyObject *list = PyList_New(0);
    for (int k = 0; k < KINDS; k++) {
        phase_t *p = &phases[k];
        PyObject *t = Py_BuildValue("KKKLLL", p->count, p->torn, p->lost, p->first, p->last, p->cpu);
        PyList_Append(list, t);
        Py_XDECREF(t);
    }
    uint64_t n = phases[LATENCY].count < MAX_SAMPLES ? phases[LATENCY].count : MAX_SAMPLES;
    return Py_BuildValue("Ny#y#", list, (char *)hand, (Py_ssize_t)(n * 8), (char *)touched, (Py_ssize_t)(n * 8));
}

/* floor_make(rings, slots, frame bytes, readers) */
static PyObject *py_floor_make(PyObject *self, PyObject *args)
{
    unsigned long long slots, size;
    int readers;
    if (!PyArg_ParseTuple(args, "nKKi", &nrings, &slots, &size, &readers))
        return NULL;
    rings = calloc((size_t)nrings, sizeof *rings);
    seen = calloc((size_t)nrings, sizeof *seen);
    for (Py_ssize_t i = 0; i < nrings; i++)
        if (readers > MAX_READERS || !rings || !seen || !ring_make(&rings[i], slots, size, readers))
            return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

/* floor_pace(image, kind, period ns, count, first ring, rings) */
static PyObject *py_floor_pace(PyObject *self, PyObject *args)
{
    Py_buffer b;
    unsigned long long kind, count;
    long long period;
    Py_ssize_t first, of;
    if (!PyArg_ParseTuple(args, "w*KLKnn", &b, &kind, &period, &count, &first, &of))
        return NULL;
    floor_pace(rings + first, (uint64_t)of, b.buf, kind, period, count);
    PyBuffer_Release(&b);
    Py_RETURN_NONE;
}

static PyObject *py_floor_flood(PyObject *self, PyObject *args)
{
    Py_buffer b;
    long long ns;
    if (!PyArg_ParseTuple(args, "w*L", &b, &ns))
        return NULL;
    uint64_t n = floor_flood(rings, b.buf, ns);
    PyBuffer_Release(&b);
    return PyLong_FromUnsignedLongLong(n);
}

static PyObject *py_floor_read(PyObject *self, PyObject *reader)
{
    floor_read(rings, (int)PyLong_AsLong(reader));
    Py_RETURN_NONE;
}

/* For the reader under asyncio: floor_bell(ring, reader) -> fd, floor_slots(ring) -> memoryviews,
 * floor_newest(ring) -> slot or -1, floor_arm(ring, reader) -> bool, floor_drain(ring, reader) */
static PyObject *py_floor_bell(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return PyLong_FromLong(rings[PyLong_AsSsize_t(args[0])].bell[PyLong_AsLong(args[1])]);
}

static PyObject *py_floor_slots(PyObject *self, PyObject *ring)
{
    ring_t *r = &rings[PyLong_AsSsize_t(ring)];
    PyObject *list = PyList_New((Py_ssize_t)r->slots);
    for (uint64_t s = 0; s < r->slots; s++)
        PyList_SET_ITEM(list, (Py_ssize_t)s,
                        PyMemoryView_FromMemory(r->data + s * r->stride, (Py_ssize_t)r->size, PyBUF_READ));
    return list;
}

static PyObject *py_floor_newest(PyObject *self, PyObject *ring)
{
    Py_ssize_t i = PyLong_AsSsize_t(ring);
    return PyLong_FromLong(ring_newest(&rings[i], &seen[i]));
}

static PyObject *py_floor_arm(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    Py_ssize_t i = PyLong_AsSsize_t(args[0]);
    return PyBool_FromLong(ring_arm(&rings[i], (int)PyLong_AsLong(args[1]), seen[i]));
}

static PyObject *py_floor_drain(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    ring_drain(&rings[PyLong_AsSsize_t(args[0])], (int)PyLong_AsLong(args[1]));
    Py_RETURN_NONE;
}

#define FAST(f) (PyCFunction)(void (*)(void))f, METH_FASTCALL, NULL

static PyMethodDef methods[] = {
    {"stamp", FAST(py_stamp)},
    {"touch", py_touch, METH_O, NULL},
    {"tell", py_tell, METH_O, NULL},
    {"cpu", py_cpu, METH_NOARGS, NULL},
    {"results", py_results, METH_NOARGS, NULL},
    {"die_with_parent", py_die_with_parent, METH_NOARGS, NULL},
    {"floor_make", py_floor_make, METH_VARARGS, NULL},
    {"floor_pace", py_floor_pace, METH_VARARGS, NULL},
    {"floor_flood", py_floor_flood, METH_VARARGS, NULL},
    {"floor_read", py_floor_read, METH_O, NULL},
    {"floor_bell", FAST(py_floor_bell)},
    {"floor_slots", py_floor_slots, METH_O, NULL},
    {"floor_newest", py_floor_newest, METH_O, NULL},
    {"floor_arm", FAST(py_floor_arm)},
    {"floor_drain", FAST(py_floor_drain)},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "bench", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_bench(void)
{
    PyObject *m = PyModule_Create(&module);
    PyModule_AddIntMacro(m, WARM);
    PyModule_AddIntMacro(m, LATENCY);
    PyModule_AddIntMacro(m, FLOOD);
    PyModule_AddIntMacro(m, STOP);
    return m;
}
