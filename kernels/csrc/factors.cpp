// Arithmetic of low-rank factors on CPU (see kernels/factors.py): their product, and their products with themselves.
//
// Factors are float32, in one piece: a of shape [rank, in], b of shape [out, rank].

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "arguments.h"
#include "instruction_set.h"
#include "number.h"
#include "product.h"

namespace {

// A row of the table of kernels/factors.py.
struct Term {
    const float *a, *b;
    int64_t rank;
    double scale;
};

struct Kernels {
    void (*multiply)(const Product&, float*);
    void (*disagree)(const std::vector<Term>&, int64_t, int64_t, int64_t, int64_t*);
    void (*join)(const std::vector<Term>&, int64_t, int64_t, float*, float*);
    void (*gram_of_rows)(const std::vector<Term>&, int64_t, double*);
    void (*gram_of_columns)(const std::vector<Term>&, int64_t, double*);
};

#ifdef POLYAD_X86
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512 {
constexpr int LANES = 16, TILE_ROWS = 6, TILE_COLUMNS = 4;
#include "vector.h"

#include "product_kernel.h"

#include "factors_kernel.h"
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int LANES = 8, TILE_ROWS = 6, TILE_COLUMNS = 2;
#include "vector.h"

#include "product_kernel.h"

#include "factors_kernel.h"
}  // namespace avx2
#pragma GCC pop_options
#endif
namespace portable {
constexpr int LANES = 4, TILE_ROWS = 2, TILE_COLUMNS = 4;
#include "vector.h"

#include "product_kernel.h"

#include "factors_kernel.h"
}  // namespace portable

const Variants<Kernels> VARIANTS = POLYAD_VARIANTS(KERNELS);

PyObject* supported(PyObject*, PyObject*) { return supported_of(VARIANTS); }

// multiply(lanes, a, b, step of b's rows, rank, rows, columns, scale, out)
PyObject* multiply(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Kernels> a(VARIANTS, given, count, 9);
    if (!a.kernel) return nullptr;
    const Product product{a.pointer<float>(1), a.pointer<float>(2), a.value[3],      a.value[4],
                          a.value[5],          a.value[6],          (float)a.real[7]};
    Py_BEGIN_ALLOW_THREADS a.kernel->multiply(product, a.pointer<float>(8));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// disagree(lanes, table of terms, their count, step from row to row, rows, in)
PyObject* disagree(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Kernels> a(VARIANTS, given, count, 6);
    if (!a.kernel) return nullptr;
    const Term* table = a.pointer<const Term>(1);
    int64_t found[2];
    Py_BEGIN_ALLOW_THREADS
    a.kernel->disagree(std::vector<Term>(table, table + a.value[2]), a.value[3], a.value[4], a.value[5], found);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(LL)", (long long)found[0], (long long)found[1]);
}

// join(lanes, table of terms, their count, in, out, a, b)
PyObject* join(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Kernels> a(VARIANTS, given, count, 7);
    if (!a.kernel) return nullptr;
    const Term* table = a.pointer<const Term>(1);
    Py_BEGIN_ALLOW_THREADS
    const std::vector<Term> terms(table, table + a.value[2]);
    a.kernel->join(terms, a.value[3], a.value[4], a.pointer<float>(5), a.pointer<float>(6));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// Of each term with each: the sum of the products of what both grams have for them.
void inner_products(const std::vector<Term>& terms, const double* a, const double* b, double* out) {
    for (const Term& one : terms) {
        for (int64_t row = 0; row < one.rank; ++row) {
            double* to = out;
            for (const Term& other : terms) {
                double sum = 0;
                for (int64_t r = 0; r < other.rank; ++r) sum += *a++ * *b++;
                *to++ += sum * one.scale * other.scale;
            }
        }
        out += terms.size();
    }
}

// A square as a list of lists.
PyObject* rows_of(const double* values, size_t side) {
    PyObject* rows = PyList_New(side);
    for (size_t i = 0; rows && i < side; ++i) {
        PyObject* row = PyList_New(side);
        for (size_t j = 0; row && j < side; ++j) {
            PyObject* value = PyFloat_FromDouble(*values++);
            if (value) PyList_SET_ITEM(row, j, value);
            else Py_CLEAR(row);
        }
        if (row) PyList_SET_ITEM(rows, i, row);
        else Py_CLEAR(rows);
    }
    return rows;
}

// grams(lanes, table of terms, their count, in, out, gram of the rows of a, gram of the columns of b): inner products
PyObject* grams(PyObject*, Given given, Py_ssize_t count) {
    const Arguments<Kernels> a(VARIANTS, given, count, 7);
    if (!a.kernel) return nullptr;
    const Term* table = a.pointer<const Term>(1);
    const std::vector<Term> terms(table, table + a.value[2]);
    std::vector<double> products(terms.size() * terms.size());
    Py_BEGIN_ALLOW_THREADS
    a.kernel->gram_of_rows(terms, a.value[3], a.pointer<double>(5));
    a.kernel->gram_of_columns(terms, a.value[4], a.pointer<double>(6));
    inner_products(terms, a.pointer<double>(5), a.pointer<double>(6), products.data());
    Py_END_ALLOW_THREADS
    return rows_of(products.data(), terms.size());
}

PyMethodDef METHODS[] = {
    {"supported", supported, METH_NOARGS, "Lanes of each instruction set that this machine has, the widest first."},
    {"multiply", fast(multiply), METH_FASTCALL, "scale * b a."},
    {"disagree", fast(disagree), METH_FASTCALL, "How many elements have opposite signs, and how many have several."},
    {"join", fast(join), METH_FASTCALL, "Terms side by side, the scales in b."},
    {"grams", fast(grams), METH_FASTCALL, "a aT and bT b of terms side by side, in double; their inner products."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_factors", nullptr, -1, METHODS, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__factors() { return PyModule_Create(&MODULE); }
