// Logit fusion on CPU (see kernels/fusion): all groups of a batch in one call, sums in float32 and double.
//
// Python describes the groups by a table of 64-bit integers, pointers among them. The code is compiled for three
// instruction sets, and chosen when the module is loaded.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "number.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

// The layout of the tables; kernels/fusion/cpu.py has the same names.
enum GroupField { GROUP_KIND, GROUP_STREAMS, GROUP_ROWS, GROUP_PARAMETERS, GROUP_OUT, GROUP_RECORD, GROUP_FIELDS };
enum Kind { LINEAR, MEAN_PROBABILITIES, ONE_AT_A_TIME, JOINT };
enum Parameter { SCALE, PLAUSIBLE, LOW, STEP, COUNT, RHO, SWEEPS, WEIGHTS };
enum Measure { KL_FROM_BASE, KL_TO_BASE, TARGET_FROM, TARGET_TO, CHOSEN, STREAM_WEIGHTS };

constexpr float MASKED = -1e30f, NOTHING = -std::numeric_limits<float>::infinity();
constexpr int MAX_CANDIDATES = 64;

// Numbers that are too small to matter cost a hundred times as much where they are kept.
class TinyIsZero {
  public:
#if defined(__x86_64__)
    TinyIsZero() : before(_mm_getcsr()) { _mm_setcsr(before | 0x8040); }
    ~TinyIsZero() { _mm_setcsr(before); }

  private:
    unsigned before;
#endif
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define POLYAD_X86 1
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512 {
constexpr int LANES = 16;
#include "fusion_kernel.h"
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int LANES = 8;
#include "fusion_kernel.h"
}  // namespace avx2
#pragma GCC pop_options
#endif
namespace portable {
constexpr int LANES = 4;
#include "fusion_kernel.h"
}  // namespace portable

struct Variant {
    const char* name;
    int lanes;
    void (*run)(const int64_t*, int64_t, int64_t, bool);
    bool supported;
};

std::vector<Variant> variants() {
    std::vector<Variant> found;
#ifdef POLYAD_X86
    __builtin_cpu_init();
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    found.push_back({"avx512", avx512::LANES, avx512::run, wide});
    const bool fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    found.push_back({"avx2", avx2::LANES, avx2::run, fused});
#endif
    found.push_back({"portable", portable::LANES, portable::run, true});
    return found;
}

const std::vector<Variant> VARIANTS = variants();

PyObject* supported(PyObject*, PyObject*) {
    PyObject* result = PyDict_New();
    if (!result) return nullptr;
    for (const Variant& variant : VARIANTS) {
        if (!variant.supported) continue;
        PyObject* lanes = PyLong_FromLong(variant.lanes);
        if (!lanes || PyDict_SetItemString(result, variant.name, lanes)) {
            Py_XDECREF(lanes);
            Py_DECREF(result);
            return nullptr;
        }
        Py_DECREF(lanes);
    }
    return result;
}

// fuse(lanes, groups, group count, vocabulary, bf16)
PyObject* fuse(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "fuse takes 5 integers");
        return nullptr;
    }
    int64_t value[5];
    for (int i = 0; i < 5; ++i) {
        value[i] = PyLong_AsLongLong(arguments[i]);
        if (value[i] == -1 && PyErr_Occurred()) return nullptr;
    }
    for (const Variant& variant : VARIANTS) {
        if (variant.lanes != value[0] || !variant.supported) continue;
        Py_BEGIN_ALLOW_THREADS variant.run((const int64_t*)value[1], value[2], value[3], value[4] != 0);
        Py_END_ALLOW_THREADS
        Py_RETURN_NONE;
    }
    PyErr_Format(PyExc_ValueError, "no instruction set with %lld lanes here", (long long)value[0]);
    return nullptr;
}

PyMethodDef METHODS[] = {
    {"supported", supported, METH_NOARGS, "Lanes of each instruction set that this machine has, the widest first."},
    {"fuse", (PyCFunction)(void (*)())fuse, METH_FASTCALL, "Fuse the groups of a batch."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_fusion", nullptr, -1, METHODS, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__fusion() { return PyModule_Create(&MODULE); }
