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

#include "arguments.h"
#include "instruction_set.h"
#include "number.h"

#ifdef POLYAD_X86
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

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

// What is left of a task vector: magnitudes whose bits are at least `low` and below `end`, times a factor. `ballot` is
// its weight in the election, `divisor` what one of its elements that agrees adds to the divisor.
struct Task {
    const float* values;
    float weight, factor, ballot, divisor;
    uint32_t low, end;
};

// How task vectors become one.
struct Combination {
    std::vector<Task> tasks;
    int64_t divide;
    bool elect, frequency, zero_is_positive;
};

struct Passes {
    Selected (*select)(const float*, int64_t, int64_t);
    Bracket (*band)(float*, int64_t, int64_t, int64_t);
    void (*drop)(float*, int64_t, uint64_t, uint32_t, double*);
    void (*combine)(const Combination&, int64_t, float*);
    double (*squared)(const float*, int64_t);
    int64_t (*count)(const float*, int64_t);
    void (*gather)(const float*, int64_t, int64_t, int32_t*, float*);
    void (*gather_wide)(const float*, int64_t, int64_t, int64_t*, float*);
};

#ifdef POLYAD_X86
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512 {
constexpr int LANES = 16;
#include "vector.h"

#include "lanes_avx512.h"
#include "merging_kernel.h"
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int LANES = 8;
#include "vector.h"

#include "lanes.h"
#include "merging_kernel.h"
}  // namespace avx2
#pragma GCC pop_options
#endif
namespace portable {
constexpr int LANES = 4;
#include "vector.h"

#include "lanes.h"
#include "merging_kernel.h"
}  // namespace portable

const Variants<Passes> VARIANTS = POLYAD_VARIANTS(PASSES);

PyObject* supported(PyObject*, PyObject*) { return supported_of(VARIANTS); }

float value_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// select(lanes, values, n, k)
PyObject* select(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Passes> a(VARIANTS, given, count, 4);
    if (!a.kernel) return nullptr;
    Selected found;
    Py_BEGIN_ALLOW_THREADS found = a.kernel->select(a.pointer<float>(1), a.value[2], a.value[3]);
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(value_of(found.bits));
}

// band(lanes, values, n, dropped, kept)
PyObject* band(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Passes> a(VARIANTS, given, count, 5);
    if (!a.kernel) return nullptr;
    Bracket found;
    Py_BEGIN_ALLOW_THREADS found = a.kernel->band(a.pointer<float>(1), a.value[2], a.value[3], a.value[4]);
    Py_END_ALLOW_THREADS
    const double end = found.high < UINT32_MAX ? value_of(found.high) : INFINITY;
    return Py_BuildValue("(dd)", (double)value_of(found.low), end);
}

// drop(lanes, values, n, key, limit)
PyObject* drop(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Passes> a(VARIANTS, given, count, 5);
    if (!a.kernel) return nullptr;
    double sums[2];
    Py_BEGIN_ALLOW_THREADS a.kernel->drop(a.pointer<float>(1), a.value[2], a.value[3], (uint32_t)a.value[4], sums);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(dd)", sums[0], sums[1]);
}

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// Of the table of kernels/merging.py.
struct Row {
    const float* values;
    float weight, factor, low, end;
};

// combine(lanes, rows, their count, divide, elect, weighted, frequency, zero is positive, n, out)
PyObject* combine(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Passes> a(VARIANTS, given, count, 10);
    if (!a.kernel) return nullptr;
    const int64_t divide = a.value[3];
    Combination rule{{}, divide, a.value[4] != 0, a.value[6] != 0, a.value[7] != 0};
    const Row* rows = a.pointer<const Row>(1);
    for (const Row* row = rows; row < rows + a.value[2]; ++row) {
        const float ballot = a.value[5] ? row->weight : 1.0f, divisor = divide == WEIGHTS ? row->weight : 1.0f;
        const uint32_t end = std::isinf(row->end) ? UINT32_MAX : bits_of(row->end);
        rule.tasks.push_back({row->values, row->weight, row->factor, ballot, divisor, bits_of(row->low), end});
    }
    Py_BEGIN_ALLOW_THREADS a.kernel->combine(rule, a.value[8], a.pointer<float>(9));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// squared(lanes, values, n)
PyObject* squared(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Passes> a(VARIANTS, given, count, 3);
    if (!a.kernel) return nullptr;
    double sum;
    Py_BEGIN_ALLOW_THREADS sum = a.kernel->squared(a.pointer<float>(1), a.value[2]);
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(sum);
}

// count(lanes, values, n)
PyObject* count_nonzero(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Passes> a(VARIANTS, given, count, 3);
    if (!a.kernel) return nullptr;
    int64_t found;
    Py_BEGIN_ALLOW_THREADS found = a.kernel->count(a.pointer<float>(1), a.value[2]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(found);
}

// gather(lanes, values, n, found, indices, whether they have 64 bits, out)
PyObject* gather(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Passes> a(VARIANTS, given, count, 7);
    if (!a.kernel) return nullptr;
    const float* values = a.pointer<float>(1);
    Py_BEGIN_ALLOW_THREADS
    if (a.value[5]) a.kernel->gather_wide(values, a.value[2], a.value[3], a.pointer<int64_t>(4), a.pointer<float>(6));
    else a.kernel->gather(values, a.value[2], a.value[3], a.pointer<int32_t>(4), a.pointer<float>(6));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// large_pages(address, bytes): whether the system was asked for them
PyObject* large_pages(PyObject*, Given given, Py_ssize_t count) {
    bool asked = false;
#ifdef MADV_HUGEPAGE
    if (count == 2) {
        const uint64_t at = PyLong_AsUnsignedLongLongMask(given[0]), size = PyLong_AsUnsignedLongLongMask(given[1]);
        if (PyErr_Occurred()) return nullptr;
        const uint64_t page = sysconf(_SC_PAGESIZE), start = (at + page - 1) / page * page, end = (at + size) / page * page;
        asked = start < end && madvise((void*)start, end - start, MADV_HUGEPAGE) == 0;
    }
#endif
    return PyBool_FromLong(asked);
}

PyMethodDef METHODS[] = {
    {"supported", supported, METH_NOARGS, "Lanes of each instruction set that this machine has, the widest first."},
    {"select", fast(select), METH_FASTCALL, "The k-th largest magnitude."},
    {"band", fast(band), METH_FASTCALL, "Where magnitudes of some ranks lie."},
    {"drop", fast(drop), METH_FASTCALL, "Keep elements at random; sums of magnitudes before and after."},
    {"combine", fast(combine), METH_FASTCALL, "The sum, or the mean of what agrees with the elected sign."},
    {"squared", fast(squared), METH_FASTCALL, "The sum of squares."},
    {"count", fast(count_nonzero), METH_FASTCALL, "How many values are not zero."},
    {"gather", fast(gather), METH_FASTCALL, "The values that are not zero, and their places."},
    {"large_pages", fast(large_pages), METH_FASTCALL, "Ask for large pages where memory will be written."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_merging", nullptr, -1, METHODS, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__merging() { return PyModule_Create(&MODULE); }
