// What resident deltas add to the output of one linear layer, for a whole batch, on CPU (see kernels/cpu.py).
//
// Python describes a layer and a batch by tables of 64-bit integers, pointers among them; nothing is allocated per call
// but scratch space that is kept. The code is compiled for four instruction sets, and chosen when the module is loaded.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "instruction_set.h"
#include "number.h"

#ifdef POLYAD_X86
#include <immintrin.h>
#endif

namespace {

// The layout of the tables; kernels/cpu.py has the same names.
enum SlotField { SLOT_USED, SLOT_RANKS, SLOT_A, SLOT_SPARSE, SLOT_FIELDS };
enum TermField {
    TERM_RANK,
    TERM_RANK_BEGIN,
    TERM_B,
    TERM_ROW_SCALE,
    TERM_BIAS,
    TERM_STARTS,
    TERM_COLUMNS,
    TERM_VALUES,
    TERM_FIELDS
};
enum GroupField { GROUP_SLOT, GROUP_SIZE, GROUP_TOKENS, GROUP_WEIGHTS, GROUP_FIELDS };
enum LayerField { LAYER_INPUTS, LAYER_BF16, LAYER_SLICES, LAYER_FIELDS };

struct Layer {
    const int64_t* header;  // LAYER_FIELDS, then where each slice begins, then where the last one ends
    const int64_t* slots;
    int64_t inputs, slices;
    bool bf16;

    Layer(const int64_t* header, const int64_t* slots)
        : header(header), slots(slots), inputs(header[LAYER_INPUTS]), slices(header[LAYER_SLICES]),
          bf16(header[LAYER_BF16]) {}
    int64_t begin(int64_t slice) const { return header[LAYER_FIELDS + slice]; }
    int64_t width(int64_t slice) const { return begin(slice + 1) - begin(slice); }
    const int64_t* slot(int64_t index) const { return slots + index * (SLOT_FIELDS + slices * TERM_FIELDS); }
    const int64_t* terms(const int64_t* slot, int64_t slice) const { return slot + SLOT_FIELDS + slice * TERM_FIELDS; }
};

struct Call {
    const int64_t* table;
    int64_t groups, tokens;
    void* y;
    int64_t y_stride;
    const void* x;
    int64_t x_stride;
    const float* base_bias;

    const int64_t* group(int64_t index) const { return table + index * GROUP_FIELDS; }
};

struct Scratch {
    std::vector<char> x, v;
    std::vector<float> xt;
};

#ifdef POLYAD_X86
#define PAIRS 1
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512_bf16 {
constexpr int LANES = 16, TILE = 8;
#include "delta_kernel.h"
}  // namespace avx512_bf16
#pragma GCC pop_options
#undef PAIRS
#define PAIRS 0
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512 {
constexpr int LANES = 16, TILE = 8;
#include "delta_kernel.h"
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int LANES = 8, TILE = 6;
#include "delta_kernel.h"
}  // namespace avx2
#pragma GCC pop_options
#else
#define PAIRS 0
#endif
namespace portable {
constexpr int LANES = 4, TILE = 4;
#include "delta_kernel.h"
}  // namespace portable

typedef void (*Run)(const Layer&, const Call&, Scratch&);

// By how many bf16 of a column lie together.
const Variants<Run> ONE_BY_ONE = POLYAD_VARIANTS(run);
const Variants<Run> IN_PAIRS = {
#ifdef POLYAD_X86
    {"avx512_bf16", avx512_bf16::LANES, avx512_bf16::run, has_avx512() && __builtin_cpu_supports("avx512bf16")},
#endif
};

PyObject* supported(PyObject*, PyObject* in_pairs) {
    const int pairs = PyObject_IsTrue(in_pairs);
    return pairs < 0 ? nullptr : supported_of(pairs ? IN_PAIRS : ONE_BY_ONE);
}

// A call's arguments; false, with an exception, if they are not so many integers.
bool integers(PyObject* const* arguments, Py_ssize_t count, int64_t* value, Py_ssize_t wanted) {
    if (count != wanted) {
        PyErr_Format(PyExc_TypeError, "takes %zd integers", wanted);
        return false;
    }
    for (Py_ssize_t i = 0; i < wanted; ++i) {
        value[i] = PyLong_AsLongLong(arguments[i]);
        if (value[i] == -1 && PyErr_Occurred()) return false;
    }
    return true;
}

// apply(lanes, bf16 together, layer, slots, groups, group count, tokens, y, y stride, x, x stride, base bias)
PyObject* apply(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    int64_t value[12];
    if (!integers(arguments, count, value, 12)) return nullptr;
    const auto* run = with_lanes(value[1] == 2 ? IN_PAIRS : ONE_BY_ONE, value[0]);
    if (!run) return nullptr;
    const Layer layer((const int64_t*)value[2], (const int64_t*)value[3]);
    const Call call{(const int64_t*)value[4], value[5], value[6], (void*)value[7], value[8],
                    (const void*)value[9], value[10], (const float*)value[11]};
    static thread_local Scratch scratch;
    Py_BEGIN_ALLOW_THREADS (*run)(layer, call, scratch);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// Rows of `depth` numbers into panels of `lanes` rows, whose numbers lie side by side, TOGETHER of each; the first row
// is `begin`.
template <int64_t TOGETHER, class Number>
void lay_rows(Number* panels, const Number* rows, int64_t lanes, int64_t begin, int64_t count, int64_t depth,
              int64_t stride) {
    // So many numbers of each row of a panel stay in the cache until all of its rows are there.
    constexpr int64_t BLOCK = 64;
    const int64_t padded = (depth + TOGETHER - 1) / TOGETHER * TOGETHER;
    for (int64_t first = 0; first < count;) {
        const int64_t lane = (begin + first) % lanes, next = std::min(count, first + lanes - lane);
        Number* panel = panels + (begin + first) / lanes * lanes * padded + lane * TOGETHER;
        for (int64_t block = 0; block < depth; block += BLOCK)
            for (int64_t row = first; row < next; ++row)
                for (int64_t k = block; k < std::min(depth, block + BLOCK); ++k)
                    panel[(k / TOGETHER * lanes + row - first) * TOGETHER + k % TOGETHER] = rows[row * stride + k];
        first = next;
    }
}

// lay(lanes, together, panels, begin, rows, row count, depth, stride, bytes of a number)
PyObject* lay(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    int64_t value[9];
    if (!integers(arguments, count, value, 9)) return nullptr;
    const auto [lanes, together, panels, begin, rows, number, depth, stride, size] = value;
    Py_BEGIN_ALLOW_THREADS
    if (size == 4)
        lay_rows<1>((uint32_t*)panels, (const uint32_t*)rows, lanes, begin, number, depth, stride);
    else if (together == 1)
        lay_rows<1>((uint16_t*)panels, (const uint16_t*)rows, lanes, begin, number, depth, stride);
    else
        lay_rows<2>((uint16_t*)panels, (const uint16_t*)rows, lanes, begin, number, depth, stride);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef METHODS[] = {
    {"supported", supported, METH_O,
     "Lanes of each instruction set that this machine has, the widest first; of those that multiply pairs, or not."},
    {"apply", (PyCFunction)(void (*)())apply, METH_FASTCALL, "Add the deltas of a batch to a layer's output."},
    {"lay", (PyCFunction)(void (*)())lay, METH_FASTCALL, "Copy rows into the panels that apply reads."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_delta", nullptr, -1, METHODS, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__delta() { return PyModule_Create(&MODULE); }
