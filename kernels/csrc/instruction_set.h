// The instruction sets that kernels are compiled for, and which of them this machine has.

#pragma once

#include <Python.h>

#include <cstdint>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define POLYAD_X86 1
#endif

namespace {

template <class Kernel>
struct Variant {
    const char* name;
    int lanes;
    Kernel kernel;
    bool supported;
};

template <class Kernel>
using Variants = std::vector<Variant<Kernel>>;

// One for each namespace that a kernel was compiled in, the widest first.
#ifdef POLYAD_X86
inline bool has_avx512() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

inline bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#define POLYAD_VARIANTS(kernel)                                 \
    {                                                           \
        {"avx512", avx512::LANES, avx512::kernel, has_avx512()}, \
        {"avx2", avx2::LANES, avx2::kernel, has_avx2()},        \
        {"portable", portable::LANES, portable::kernel, true},  \
    }
#else
#define POLYAD_VARIANTS(kernel) {{"portable", portable::LANES, portable::kernel, true}}
#endif

// A dict of names and lanes.
template <class Kernel>
PyObject* supported_of(const Variants<Kernel>& variants) {
    PyObject* result = PyDict_New();
    if (!result) return nullptr;
    for (const Variant<Kernel>& variant : variants) {
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

// The kernel for vectors of so many floats; ValueError and null if this machine has none.
template <class Kernel>
const Kernel* with_lanes(const Variants<Kernel>& variants, int64_t lanes) {
    for (const Variant<Kernel>& variant : variants)
        if (variant.lanes == lanes && variant.supported) return &variant.kernel;
    PyErr_Format(PyExc_ValueError, "no instruction set with %lld lanes here", (long long)lanes);
    return nullptr;
}

}  // namespace
