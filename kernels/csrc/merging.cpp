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
#include "consensus.h"
#include "instruction_set.h"
#include "number.h"
#include "select.h"

#ifdef POLYAD_X86
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace {

struct Passes {
    float (*kth_largest)(const float*, int64_t, int64_t);
    void (*combine)(const Consensus&, const std::vector<const float*>&, int64_t, float*);
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
#include "norms.h"
#include "select_kernel.h"
#include "consensus_kernel.h"

#include "merging_kernel.h"
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int LANES = 8;
#include "vector.h"

#include "lanes_avx2.h"
#include "norms.h"
#include "select_kernel.h"
#include "consensus_kernel.h"

#include "merging_kernel.h"
}  // namespace avx2
#pragma GCC pop_options
#endif
namespace portable {
constexpr int LANES = 4;
#include "vector.h"

#include "lanes.h"
#include "norms.h"
#include "select_kernel.h"
#include "consensus_kernel.h"

#include "merging_kernel.h"
}  // namespace portable

const Variants<Passes> VARIANTS = POLYAD_VARIANTS(PASSES);

PyObject* supported(PyObject*, PyObject*) { return supported_of(VARIANTS); }

// select(lanes, values, n, k)
PyObject* select(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Passes> a(VARIANTS, given, count, 4);
    if (!a.kernel) return nullptr;
    float found;
    Py_BEGIN_ALLOW_THREADS found = a.kernel->kth_largest(a.pointer<float>(1), a.value[2], a.value[3]);
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(found);
}

// Of the table of kernels/merging.py.
struct Row {
    const float* values;
    double weight;
};

// combine(lanes, rows, their count, divide, elect, weighted, frequency, zero is positive, scale, n, out)
PyObject* combine(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Passes> a(VARIANTS, given, count, 11);
    if (!a.kernel) return nullptr;
    Consensus rule(a, 3);
    std::vector<const float*> tasks;
    const Row* rows = a.pointer<const Row>(1);
    for (const Row* row = rows; row < rows + a.value[2]; ++row) {
        rule.add((float)row->weight);
        tasks.push_back(row->values);
    }
    Py_BEGIN_ALLOW_THREADS a.kernel->combine(rule, tasks, a.value[9], a.pointer<float>(10));
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
