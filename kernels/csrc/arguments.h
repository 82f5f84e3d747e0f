// What a function of an extension module is called with: integers, addresses among them, floats, and bytes, which stand
// for their address.

#pragma once

#include <Python.h>

#include <cstdint>
#include <cstring>

#include "instruction_set.h"

namespace {

using Given = PyObject* const*;

// The first of them chooses the instruction set. `kernel` is null where they are wrong; Python's error is set then.
template <class Kernel>
class Arguments {
  public:
    Arguments(const Variants<Kernel>& variants, Given given, Py_ssize_t count, Py_ssize_t expected) {
        if (count != expected || expected > MOST) {
            PyErr_Format(PyExc_TypeError, "takes %zd arguments", expected);
            return;
        }
        for (Py_ssize_t i = 0; i < count; ++i) {
            if (PyFloat_Check(given[i])) real[i] = PyFloat_AS_DOUBLE(given[i]);
            else if (PyBytes_Check(given[i])) value[i] = (int64_t)PyBytes_AS_STRING(given[i]);
            else value[i] = (int64_t)PyLong_AsUnsignedLongLongMask(given[i]);
            if (PyErr_Occurred()) return;
        }
        kernel = with_lanes(variants, value[0]);
    }

    template <class Type>
    Type* pointer(int place) const { return (Type*)value[place]; }

    const Kernel* kernel = nullptr;
    static constexpr int MOST = 16;
    int64_t value[MOST];
    double real[MOST];  // where a float was given
};

template <class Function>
PyCFunction fast(Function function) { return (PyCFunction)(void (*)())function; }

}  // namespace
