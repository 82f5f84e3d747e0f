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

#include "instruction_set.h"
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

#ifdef POLYAD_X86
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

const Variants<void (*)(const int64_t*, int64_t, int64_t, bool)> VARIANTS = POLYAD_VARIANTS(run);

PyObject* supported(PyObject*, PyObject*) { return supported_of(VARIANTS); }

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
    const auto* run = with_lanes(VARIANTS, value[0]);
    if (!run) return nullptr;
    Py_BEGIN_ALLOW_THREADS (*run)((const int64_t*)value[1], value[2], value[3], value[4] != 0);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef METHODS[] = {
    {"supported", supported, METH_NOARGS, "Lanes of each instruction set that this machine has, the widest first."},
    {"fuse", (PyCFunction)(void (*)())fuse, METH_FASTCALL, "Fuse the groups of a batch."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_fusion", nullptr, -1, METHODS, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__fusion() { return PyModule_Create(&MODULE); }
