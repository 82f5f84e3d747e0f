// What is left of task vectors (see kernels/sieve.py): products of low-rank factors are sifted as they are multiplied
// out, and what is left is combined without ever being a matrix.

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
#include "product.h"
#include "select.h"

#ifdef POLYAD_X86
#include <immintrin.h>
#endif

namespace {

// A row of kernels/sieve.py: a matrix, or where there is none, the factors of one.
struct Source {
    const float *dense, *a, *b;
    int64_t rank, rows, columns;
    double scale;

    Product product() const { return {a, b, rank, rank, rows, columns, (float)scale}; }
};

// Room for what is left: a bit for each element, and values; a word and LANES values more may be written.
struct Left {
    uint16_t* where;
    float* values;
};

// What is left, of which magnitudes whose bits are at least `low` and below `end` count, times a factor.
struct Remaining {
    const uint16_t* where;
    const float* values;
    uint32_t low, end;
    float factor;
};

// Room for the result; without indices for all of it. LANES more than are not zero may be written.
struct Room {
    void* indices;
    bool wide;
    float* values;
};

// How many values are not zero, and the sum of their squares.
struct Found {
    int64_t count;
    double squared;
};

struct Kernels {
    int64_t (*above)(const Source&, uint32_t, const Left&);
    Bracket (*band)(const Source&, int64_t, int64_t, const Left&);
    void (*random)(const Source&, uint64_t, uint32_t, const Left&, double*);
    int64_t (*most)(const std::vector<Remaining>&, int64_t);
    Found (*combine)(const Consensus&, const std::vector<Remaining>&, int64_t, const Room&);
};

#ifdef POLYAD_X86
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512 {
constexpr int LANES = 16, TILE_ROWS = 6, TILE_COLUMNS = 4;
#include "vector.h"

#include "lanes_avx512.h"
#include "norms.h"
#include "product_kernel.h"
#include "select_kernel.h"
#include "consensus_kernel.h"

#include "sieve_kernel.h"
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int LANES = 8, TILE_ROWS = 6, TILE_COLUMNS = 2;
#include "vector.h"

#include "lanes_avx2.h"
#include "norms.h"
#include "product_kernel.h"
#include "select_kernel.h"
#include "consensus_kernel.h"

#include "sieve_kernel.h"
}  // namespace avx2
#pragma GCC pop_options
#endif
namespace portable {
constexpr int LANES = 4, TILE_ROWS = 2, TILE_COLUMNS = 4;
#include "vector.h"

#include "lanes.h"
#include "norms.h"
#include "product_kernel.h"
#include "select_kernel.h"
#include "consensus_kernel.h"

#include "sieve_kernel.h"
}  // namespace portable

const Variants<Kernels> VARIANTS = POLYAD_VARIANTS(KERNELS);

PyObject* supported(PyObject*, PyObject*) { return supported_of(VARIANTS); }

// above(lanes, source, low, where, values)
PyObject* above(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Kernels> a(VARIANTS, given, count, 5);
    if (!a.kernel) return nullptr;
    const Left left{a.pointer<uint16_t>(3), a.pointer<float>(4)};
    const uint32_t low = bits_of_number((float)a.real[2]);
    Py_BEGIN_ALLOW_THREADS a.kernel->above(*a.pointer<Source>(1), low, left);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// band(lanes, source, dropped, kept, where, values): the bounds
PyObject* band(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Kernels> a(VARIANTS, given, count, 6);
    if (!a.kernel) return nullptr;
    Bracket found;
    const Left left{a.pointer<uint16_t>(4), a.pointer<float>(5)};
    Py_BEGIN_ALLOW_THREADS found = a.kernel->band(*a.pointer<Source>(1), a.value[2], a.value[3], left);
    Py_END_ALLOW_THREADS
    const double end = found.high < UINT32_MAX ? number_of(found.high) : INFINITY;
    return Py_BuildValue("(dd)", (double)number_of(found.low), end);
}

// random(lanes, source, key, limit, where, values): sums of magnitudes before and after
PyObject* random(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Kernels> a(VARIANTS, given, count, 6);
    if (!a.kernel) return nullptr;
    double sums[2];
    const Left left{a.pointer<uint16_t>(4), a.pointer<float>(5)};
    Py_BEGIN_ALLOW_THREADS
    a.kernel->random(*a.pointer<Source>(1), (uint64_t)a.value[2], (uint32_t)a.value[3], left, sums);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(dd)", sums[0], sums[1]);
}

// A row of the table of kernels/sieve.py.
struct Row {
    const uint16_t* where;
    const float* values;
    double weight, low, end, factor;
};

std::vector<Remaining> remaining(const Row* rows, int64_t count) {
    std::vector<Remaining> tasks;
    for (const Row* row = rows; row < rows + count; ++row) {
        const uint32_t end = std::isinf(row->end) ? UINT32_MAX : bits_of_number((float)row->end);
        tasks.push_back({row->where, row->values, bits_of_number((float)row->low), end, (float)row->factor});
    }
    return tasks;
}

// most(lanes, rows, their count, n): no more elements than this are left in any of them
PyObject* most(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Kernels> a(VARIANTS, given, count, 4);
    if (!a.kernel) return nullptr;
    int64_t found;
    Py_BEGIN_ALLOW_THREADS
    found = a.kernel->most(remaining(a.pointer<const Row>(1), a.value[2]), a.value[3]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(found);
}

// combine(lanes, rows, their count, divide, elect, weighted, frequency, zero is positive, scale, n, indices or 0, whether
// they have 64 bits, out): how many are not zero, and the sum of their squares
PyObject* combine(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Kernels> a(VARIANTS, given, count, 13);
    if (!a.kernel) return nullptr;
    Consensus rule(a, 3);
    const Row* rows = a.pointer<const Row>(1);
    for (const Row* row = rows; row < rows + a.value[2]; ++row) rule.add((float)row->weight);
    Found found;
    const Room room{a.pointer<void>(10), a.value[11] != 0, a.pointer<float>(12)};
    Py_BEGIN_ALLOW_THREADS found = a.kernel->combine(rule, remaining(rows, a.value[2]), a.value[9], room);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(Ld)", (long long)found.count, found.squared);
}

PyMethodDef METHODS[] = {
    {"supported", supported, METH_NOARGS, "Lanes of each instruction set that this machine has, the widest first."},
    {"above", fast(above), METH_FASTCALL, "Keep magnitudes from a number on."},
    {"band", fast(band), METH_FASTCALL, "Keep magnitudes of some ranks, and some smaller ones; where they lie."},
    {"random", fast(random), METH_FASTCALL, "Keep elements at random; sums of magnitudes before and after."},
    {"most", fast(most), METH_FASTCALL, "How many elements are left at most in any of some task vectors."},
    {"combine", fast(combine), METH_FASTCALL, "The sum, or the mean of what agrees with the elected sign."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_sieve", nullptr, -1, METHODS, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__sieve() { return PyModule_Create(&MODULE); }
