// One pass of a layer's deltas over a block of tokens, for vectors of LANES floats. Included once per instruction set.
//
// Weights lie in panels of LANES columns, padded with zeros: the A factors of a slot's slices stacked as
// [ranks / LANES][inputs][LANES], each B as [width / LANES][rank][LANES]. Where the machine multiplies pairs of bf16,
// two numbers of a column lie side by side, [inputs / 2][LANES][2], and x and V are bf16 as well.

#include "vector.h"

// What is multiplied with weights that are Numbers, and how many of it at once.
template <class Number>
using Operand = std::conditional_t<PAIRS && std::is_same<Number, bfloat16>::value, bfloat16, float>;
template <class Number>
constexpr int64_t STEP = std::is_same<Operand<Number>, float>::value ? 1 : 2;

// The numbers of a column, or of a row of x, as they are stored.
template <class Number>
static inline int64_t padded(int64_t depth) {
    return (depth + STEP<Number> - 1) / STEP<Number> * STEP<Number>;
}

// LANES columns of W at one place, or at two that lie together, and what a row of x adds to their sums there.
template <class In>
struct Weights;

template <>
struct Weights<float> {
    Vector column;

    Weights() = default;
    template <class Number>
    explicit Weights(const Number* from) : column(load(from)) {}
    Vector add_product(const float* x, Vector sum) const { return sum + *x * column; }
};

#if PAIRS
template <>
struct Weights<bfloat16> {
    __m512i columns;

    Weights() = default;
    explicit Weights(const bfloat16* from) : columns(_mm512_loadu_si512(from)) {}
    Vector add_product(const bfloat16* x, Vector sum) const {
        int32_t both;
        std::memcpy(&both, x, sizeof both);
        return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)columns);
    }
};
#endif

// c[row][0 .. PANELS * LANES) = or += x[row][0 .. depth) W; panel p of W begins at w + p * depth * LANES.
template <int ROWS, int PANELS, bool ADD, class Number>
static inline void multiply_tile(
    const Operand<Number>* const* x, int64_t depth, const Number* w, float* const* c, int64_t at) {
    Vector sum[ROWS][PANELS];
    for (int row = 0; row < ROWS; ++row)
        for (int panel = 0; panel < PANELS; ++panel)
            sum[row][panel] = ADD ? load(c[row] + at + panel * LANES) : Vector{};
    for (int64_t k = 0; k < depth; k += STEP<Number>) {
        Weights<Operand<Number>> column[PANELS];
        for (int panel = 0; panel < PANELS; ++panel)
            column[panel] = Weights<Operand<Number>>(w + (panel * depth + k) * LANES);
        for (int row = 0; row < ROWS; ++row)
            for (int panel = 0; panel < PANELS; ++panel)
                sum[row][panel] = column[panel].add_product(x[row] + k, sum[row][panel]);
    }
    for (int row = 0; row < ROWS; ++row)
        for (int panel = 0; panel < PANELS; ++panel) store(c[row] + at + panel * LANES, sum[row][panel]);
}

// All panels for a few rows, which thereby are read and written from one end to the other.
template <int ROWS, bool ADD, class Number>
static void multiply_rows(
    int64_t rows, const Operand<Number>* const* x, int64_t depth, const Number* w, int64_t panels, float* const* c) {
    if (rows == ROWS) {
        int64_t panel = 0;
        for (; panel + 2 <= panels; panel += 2)
            multiply_tile<ROWS, 2, ADD>(x, depth, w + panel * depth * LANES, c, panel * LANES);
        if (panel < panels) multiply_tile<ROWS, 1, ADD>(x, depth, w + panel * depth * LANES, c, panel * LANES);
    } else if constexpr (ROWS > 1) {
        multiply_rows<ROWS - 1, ADD>(rows, x, depth, w, panels, c);
    }
}

// Tiles of nearly equal height: a low one loads as much of W as a high one.
template <bool ADD, class Number>
static void multiply(
    int64_t rows, const Operand<Number>* const* x, int64_t depth, const Number* w, int64_t panels, float* const* c) {
    for (int64_t tiles = (rows + TILE - 1) / TILE, row = 0; tiles > 0; --tiles) {
        const int64_t height = (rows - row + tiles - 1) / tiles;
        multiply_rows<TILE, ADD>(height, x + row, depth, w, panels, c + row);
        row += height;
    }
}

template <class Number>
class Pass {
  public:
    Pass(const Layer& layer, const Call& call, Scratch& scratch)
        : layer(layer), call(call), scratch(scratch), depth(padded<Number>(layer.inputs)) {}

    void run() {
        for (int64_t first = 0; first < call.tokens; first += BLOCK) {
            select(first, std::min(first + BLOCK, call.tokens));
            if (groups.empty()) continue;
#pragma omp parallel
            {
#pragma omp for schedule(static)
                for (int64_t token = 0; token < block_tokens; ++token) convert(token);
#pragma omp for schedule(dynamic)
                for (size_t item = 0; item < shrinks.size(); ++item) shrink(shrinks[item]);
#pragma omp for schedule(dynamic)
                for (int64_t item = 0; item < expands; ++item) expand(item);
            }
        }
    }

  private:
    typedef Operand<Number> In;
    struct Group {  // the rows of this block that use one slot; each has v_stride numbers of V
        const int64_t* slot;
        int64_t rows, ranks, v_stride, v, xt;
        const int32_t* token;
        const float* weight;
    };
    struct Shrink {
        int32_t group, panel;
        int64_t row;
    };
    // Where a few columns are summed up: in y itself where it holds floats and nobody needs it as it was.
    struct Sum {
        float* first;
        int64_t stride;

        float* row(int64_t token) const { return first + token * stride; }
    };
    static constexpr int64_t BLOCK = 128, ROWS = 64, COLUMNS = 128;

    // Which rows use which slot, and where their intermediate results go.
    void select(int64_t first, int64_t last) {
        groups.clear();
        shrinks.clear();
        block_first = first;
        block_tokens = last - first;
        touched.assign(block_tokens, 0);
        int64_t v = 0, xt = 0;
        for (int64_t i = 0; i < call.groups; ++i) {
            const int64_t* entry = call.group(i);
            const int32_t* tokens = (const int32_t*)entry[GROUP_TOKENS];
            const int32_t* begin = std::lower_bound(tokens, tokens + entry[GROUP_SIZE], (int32_t)first);
            const int32_t* end = std::lower_bound(begin, tokens + entry[GROUP_SIZE], (int32_t)last);
            const int64_t* slot = layer.slot(entry[GROUP_SLOT]);
            if (begin == end || !slot[SLOT_USED]) continue;
            const float* weights = (const float*)entry[GROUP_WEIGHTS] + (begin - tokens);
            // Behind an odd last rank its pair ends with a number of its own, which stays zero.
            const int64_t v_stride = slot[SLOT_RANKS] + STEP<Number> - 1;
            groups.push_back({slot, end - begin, slot[SLOT_RANKS], v_stride, v, xt, begin, weights});
            v += (end - begin) * v_stride;
            if (slot[SLOT_SPARSE]) xt += (end - begin + LANES - 1) / LANES * LANES * layer.inputs;
            for (const int32_t* token = begin; token < end; ++token) touched[*token - first] = 1;
            const int32_t group = (int32_t)groups.size() - 1;
            for (int64_t row = 0; row < end - begin; row += ROWS)
                for (int64_t panel = 0; panel * LANES < std::max<int64_t>(slot[SLOT_RANKS], 1); panel += 2)
                    shrinks.push_back({group, (int32_t)panel, row});
        }
        scratch.x.resize(as_it_is() ? 0 : block_tokens * depth * sizeof(In));
        scratch.v.resize(v * sizeof(In));
        scratch.xt.resize(xt);
        expands = 0;
        for (int64_t s = 0; s < layer.slices; ++s) expands += (layer.width(s) + COLUMNS - 1) / COLUMNS;
    }

    const Number* x_row(int64_t token) const { return (const Number*)call.x + (block_first + token) * call.x_stride; }

    bool as_it_is() const { return std::is_same<Number, In>::value && depth == layer.inputs; }

    const In* in_row(int64_t token) const {
        if constexpr (std::is_same<Number, In>::value)
            if (as_it_is()) return x_row(token);
        return (const In*)scratch.x.data() + token * depth;
    }

    void convert(int64_t token) {
        if (as_it_is() || !touched[token]) return;
        const Number* from = x_row(token);
        In* to = (In*)scratch.x.data() + token * depth;
        for (int64_t i = 0; i < layer.inputs; ++i) to[i] = from_float<In>(to_float(from[i]));
        for (int64_t i = layer.inputs; i < depth; ++i) to[i] = In{};
    }

    In* v_row(const Group& group, int64_t row) const {
        return (In*)scratch.v.data() + group.v + row * group.v_stride;
    }

    // V = weight * (x Aᵀ) for some rows of a slot and two panels of its ranks; once, too, x transposed for S.
    void shrink(const Shrink& item) {
        const Group& group = groups[item.group];
        const int64_t rows = std::min(ROWS, group.rows - item.row);
        const In* x[ROWS];
        float sums[ROWS][2 * LANES], *sum[ROWS];
        for (int64_t row = 0; row < rows; ++row) {
            x[row] = in_row(group.token[item.row + row] - block_first);
            sum[row] = sums[row];
        }
        if (item.panel == 0 && group.slot[SLOT_SPARSE]) transpose(group, item.row, rows, x);
        const int64_t panels = std::min<int64_t>(2, group.ranks / LANES - item.panel);
        if (panels <= 0) return;
        const Number* a = (const Number*)group.slot[SLOT_A] + item.panel * depth * LANES;
        multiply<false>(rows, x, depth, a, panels, sum);
        for (int64_t row = 0; row < rows; ++row) {
            In* v = v_row(group, item.row + row);
            for (int64_t rank = 0; rank < panels * LANES; ++rank)
                v[item.panel * LANES + rank] = from_float<In>(group.weight[item.row + row] * sums[row][rank]);
            if (item.panel == 0)
                for (int64_t rank = group.ranks; rank < group.v_stride; ++rank) v[rank] = In{};
        }
    }

    void transpose(const Group& group, int64_t first, int64_t rows, const In* const* x) {
        for (int64_t row = 0; row < (rows + LANES - 1) / LANES * LANES; ++row) {
            float* to = scratch.xt.data() + group.xt + (first + row) / LANES * LANES * layer.inputs + row % LANES;
            for (int64_t i = 0; i < layer.inputs; ++i) to[i * LANES] = row < rows ? to_float(x[row][i]) : 0;
        }
    }

    // All that the block's slots add to a few columns of y, summed in float32 and rounded once.
    void expand(int64_t item) {
        int64_t slice = 0;
        for (; item >= (layer.width(slice) + COLUMNS - 1) / COLUMNS; ++slice)
            item -= (layer.width(slice) + COLUMNS - 1) / COLUMNS;
        const int64_t column = item * COLUMNS, columns = std::min(COLUMNS, layer.width(slice) - column);
        bool direct = std::is_same<Number, float>::value && columns % LANES == 0;
        for (const Group& group : groups) direct &= !layer.terms(group.slot, slice)[TERM_ROW_SCALE];
        alignas(64) float buffer[BLOCK * COLUMNS];
        Sum sum{buffer, COLUMNS};
        if (direct)
            sum = {(float*)y_at(0, slice, column), call.y_stride};
        else
            std::memset(buffer, 0, sizeof(float) * block_tokens * COLUMNS);
        for (const Group& group : groups) {
            const int64_t* terms = layer.terms(group.slot, slice);
            if (terms[TERM_RANK]) add_low_rank(group, terms, column, columns, sum);
            if (terms[TERM_ROW_SCALE] || terms[TERM_BIAS]) add_vectors(group, terms, slice, column, columns, sum);
            if (terms[TERM_STARTS]) add_sparse(group, terms, column, columns, sum);
        }
        if (direct) return;
        for (int64_t token = 0; token < block_tokens; ++token) {
            if (!touched[token]) continue;
            Number* y = y_at(token, slice, column);
            for (int64_t o = 0; o < columns; ++o) y[o] = from_float<Number>(to_float(y[o]) + sum.row(token)[o]);
        }
    }

    Number* y_at(int64_t token, int64_t slice, int64_t column) const {
        return (Number*)call.y + (block_first + token) * call.y_stride + layer.begin(slice) + column;
    }

    void add_low_rank(const Group& group, const int64_t* terms, int64_t column, int64_t columns, Sum sum) {
        const int64_t rank = padded<Number>(terms[TERM_RANK]), panels = (columns + LANES - 1) / LANES;
        const Number* b = (const Number*)terms[TERM_B] + column * rank;
        for (int64_t first = 0; first < group.rows; first += ROWS) {
            const int64_t rows = std::min(ROWS, group.rows - first);
            const In* v[ROWS];
            float* to[ROWS];
            for (int64_t row = 0; row < rows; ++row) {
                v[row] = v_row(group, first + row) + terms[TERM_RANK_BEGIN];
                to[row] = sum.row(group.token[first + row] - block_first);
            }
            multiply<true>(rows, v, rank, b, panels, to);
        }
    }

    void add_vectors(
        const Group& group, const int64_t* terms, int64_t slice, int64_t column, int64_t columns, Sum sum) {
        const float* scale = (const float*)terms[TERM_ROW_SCALE];
        const float* bias = (const float*)terms[TERM_BIAS];
        const float* base = call.base_bias ? call.base_bias + layer.begin(slice) + column : nullptr;
        for (int64_t row = 0; row < group.rows; ++row) {
            const int64_t token = group.token[row] - block_first;
            const Number* y = y_at(token, slice, column);
            float* to = sum.row(token);
            for (int64_t o = 0; scale && o < columns; ++o)
                to[o] += group.weight[row] * scale[column + o] * (to_float(y[o]) - (base ? base[o] : 0));
            for (int64_t o = 0; bias && o < columns; ++o) to[o] += group.weight[row] * bias[column + o];
        }
    }

    void add_sparse(const Group& group, const int64_t* terms, int64_t column, int64_t columns, Sum sum) {
        const int32_t* starts = (const int32_t*)terms[TERM_STARTS] + column;
        const int32_t* inputs = (const int32_t*)terms[TERM_COLUMNS];
        const float* values = (const float*)terms[TERM_VALUES];
        for (int64_t first = 0; first < group.rows; first += LANES) {
            const float* xt = scratch.xt.data() + group.xt + first * layer.inputs;
            const int64_t rows = std::min<int64_t>(LANES, group.rows - first);
            for (int64_t o = 0; o < columns; ++o) {
                if (starts[o] == starts[o + 1]) continue;
                Vector total = {};
                for (int32_t i = starts[o]; i < starts[o + 1]; ++i) total += values[i] * load(xt + inputs[i] * LANES);
                for (int64_t row = 0; row < rows; ++row)
                    sum.row(group.token[first + row] - block_first)[o] += group.weight[first + row] * total[row];
            }
        }
    }

    const Layer& layer;
    const Call& call;
    Scratch& scratch;
    const int64_t depth;
    std::vector<Group> groups;
    std::vector<Shrink> shrinks;
    std::vector<uint8_t> touched;
    int64_t block_first = 0, block_tokens = 0, expands = 0;
};

static void run(const Layer& layer, const Call& call, Scratch& scratch) {
    if (layer.bf16)
        Pass<bfloat16>(layer, call, scratch).run();
    else
        Pass<float>(layer, call, scratch).run();
}
