// Passes over task vectors on CPU (see kernels/merging.py): each does at once what torch does in many passes.
//
// Task vectors are float32, in one piece. The code is compiled for three instruction sets, and chosen by the caller.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "instruction_set.h"
#include "number.h"

namespace {

struct Selected {
    uint32_t bits;         // of the magnitude
    int64_t above, equal;  // how many are larger, how many are this
};

// Bits of magnitudes.
struct Bracket {
    uint32_t low, high;
};
constexpr Bracket EVERYTHING{0, 0x7fffffff};

enum Divide { NOTHING, WEIGHTS, COUNT };

struct Ballot {
    const float* const* tasks;
    const float* weights;
    int64_t count, divide;
    bool weighted, frequency, zero_is_positive;
};

struct Passes {
    Selected (*select)(const float*, int64_t, int64_t);
    void (*keep_band)(float*, int64_t, int64_t, int64_t);
    void (*drop)(float*, int64_t, uint64_t, uint32_t, double*);
    void (*elect)(const Ballot&, int64_t, float*);
    int64_t (*count)(const float*, int64_t);
    void (*gather_narrow)(const float*, int64_t, int32_t*, float*);
    void (*gather_wide)(const float*, int64_t, int64_t*, float*);
};

#ifdef POLYAD_X86
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512 {
constexpr int LANES = 16;
#include "merging_kernel.h"
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int LANES = 8;
#include "merging_kernel.h"
}  // namespace avx2
#pragma GCC pop_options
#endif
namespace portable {
constexpr int LANES = 4;
#include "merging_kernel.h"
}  // namespace portable

const Variants<Passes> VARIANTS = POLYAD_VARIANTS(PASSES);

PyObject* supported(PyObject*, PyObject*) { return supported_of(VARIANTS); }

// The integers of a call, the first of which chooses the instruction set.
class Arguments {
  public:
    Arguments(PyObject* const* given, Py_ssize_t count, Py_ssize_t expected) {
        if (count != expected || expected > MOST) {
            PyErr_Format(PyExc_TypeError, "takes %zd integers", expected);
            return;
        }
        for (Py_ssize_t i = 0; i < count; ++i) {
            value[i] = (int64_t)PyLong_AsUnsignedLongLongMask(given[i]);
            if (PyErr_Occurred()) return;
        }
        passes = with_lanes(VARIANTS, value[0]);
    }

    template <class Type>
    Type* pointer(int place) const { return (Type*)value[place]; }

    const Passes* passes = nullptr;
    static constexpr int MOST = 10;
    int64_t value[MOST];
};

using Given = PyObject* const*;

// select(lanes, values, n, k)
PyObject* select(PyObject*, Given given, Py_ssize_t count) {
    const Arguments a(given, count, 4);
    if (!a.passes) return nullptr;
    Selected found;
    Py_BEGIN_ALLOW_THREADS found = a.passes->select(a.pointer<float>(1), a.value[2], a.value[3]);
    Py_END_ALLOW_THREADS
    float value;
    std::memcpy(&value, &found.bits, 4);
    return PyFloat_FromDouble(value);
}

// keep_band(lanes, values, n, dropped, kept)
PyObject* keep_band(PyObject*, Given given, Py_ssize_t count) {
    const Arguments a(given, count, 5);
    if (!a.passes) return nullptr;
    Py_BEGIN_ALLOW_THREADS a.passes->keep_band(a.pointer<float>(1), a.value[2], a.value[3], a.value[4]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// drop(lanes, values, n, key, limit)
PyObject* drop(PyObject*, Given given, Py_ssize_t count) {
    const Arguments a(given, count, 5);
    if (!a.passes) return nullptr;
    double sums[2];
    Py_BEGIN_ALLOW_THREADS a.passes->drop(a.pointer<float>(1), a.value[2], a.value[3], (uint32_t)a.value[4], sums);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(dd)", sums[0], sums[1]);
}

// elect(lanes, tasks, weights, tasks' count, divide, weighted, frequency, zero is positive, n, out)
PyObject* elect(PyObject*, Given given, Py_ssize_t count) {
    const Arguments a(given, count, 10);
    if (!a.passes) return nullptr;
    const Ballot ballot{a.pointer<const float*>(1), a.pointer<float>(2), a.value[3], a.value[4],
                        a.value[5] != 0, a.value[6] != 0, a.value[7] != 0};
    Py_BEGIN_ALLOW_THREADS a.passes->elect(ballot, a.value[8], a.pointer<float>(9));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// count(lanes, values, n)
PyObject* count_nonzero(PyObject*, Given given, Py_ssize_t count) {
    const Arguments a(given, count, 3);
    if (!a.passes) return nullptr;
    int64_t found;
    Py_BEGIN_ALLOW_THREADS found = a.passes->count(a.pointer<float>(1), a.value[2]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(found);
}

// gather(lanes, values, found, indices, whether they have 64 bits, out)
PyObject* gather(PyObject*, Given given, Py_ssize_t count) {
    const Arguments a(given, count, 6);
    if (!a.passes) return nullptr;
    const float* values = a.pointer<float>(1);
    Py_BEGIN_ALLOW_THREADS
    if (a.value[4]) a.passes->gather_wide(values, a.value[2], a.pointer<int64_t>(3), a.pointer<float>(5));
    else a.passes->gather_narrow(values, a.value[2], a.pointer<int32_t>(3), a.pointer<float>(5));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

template <class Function>
PyCFunction fast(Function function) { return (PyCFunction)(void (*)())function; }

PyMethodDef METHODS[] = {
    {"supported", supported, METH_NOARGS, "Lanes of each instruction set that this machine has, the widest first."},
    {"select", fast(select), METH_FASTCALL, "The k-th largest magnitude."},
    {"keep_band", fast(keep_band), METH_FASTCALL, "Keep magnitudes by their rank."},
    {"drop", fast(drop), METH_FASTCALL, "Keep elements at random; sums of magnitudes before and after."},
    {"elect", fast(elect), METH_FASTCALL, "The mean of what agrees with the elected sign."},
    {"count", fast(count_nonzero), METH_FASTCALL, "How many values are not zero."},
    {"gather", fast(gather), METH_FASTCALL, "The values that are not zero, and their places."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_merging", nullptr, -1, METHODS, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__merging() { return PyModule_Create(&MODULE); }
