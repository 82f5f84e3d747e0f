// One pass of a layer's deltas over a block of tokens, for vectors of LANES floats. Included once per instruction set.
//
// Weights lie in panels of LANES columns, padded with zeros: the A factors of a slot's slices stacked as
// [ranks / LANES][inputs][LANES], each B as [width / LANES][rank][LANES].

#include "vector.h"

// c[row][0 .. PANELS * LANES) = or += x[row][0 .. depth) W; panel p of W begins at w + p * depth * LANES.
template <int ROWS, int PANELS, bool ADD, class Number>
static inline void multiply_tile(const float* const* x, int64_t depth, const Number* w, float* const* c, int64_t at) {
    Vector sum[ROWS][PANELS];
    for (int row = 0; row < ROWS; ++row)
        for (int panel = 0; panel < PANELS; ++panel)
            sum[row][panel] = ADD ? load(c[row] + at + panel * LANES) : Vector{};
    for (int64_t k = 0; k < depth; ++k) {
        Vector column[PANELS];
        for (int panel = 0; panel < PANELS; ++panel) column[panel] = load(w + (panel * depth + k) * LANES);
        for (int row = 0; row < ROWS; ++row)
            for (int panel = 0; panel < PANELS; ++panel) sum[row][panel] += x[row][k] * column[panel];
    }
    for (int row = 0; row < ROWS; ++row)
        for (int panel = 0; panel < PANELS; ++panel) store(c[row] + at + panel * LANES, sum[row][panel]);
}

// All panels for a few rows, which thereby are read and written from one end to the other.
template <int ROWS, bool ADD, class Number>
static void multiply_rows(
    int64_t rows, const float* const* x, int64_t depth, const Number* w, int64_t panels, float* const* c) {
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
    int64_t rows, const float* const* x, int64_t depth, const Number* w, int64_t panels, float* const* c) {
    for (int64_t tiles = (rows + TILE - 1) / TILE, row = 0; tiles > 0; --tiles) {
        const int64_t height = (rows - row + tiles - 1) / tiles;
        multiply_rows<TILE, ADD>(height, x + row, depth, w, panels, c + row);
        row += height;
    }
}

template <class Number>
class Pass {
  public:
    Pass(const Layer& layer, const Call& call, Scratch& scratch) : layer(layer), call(call), scratch(scratch) {}

    void run() {
        for (int64_t first = 0; first < call.tokens; first += BLOCK) {
            select(first, std::min(first + BLOCK, call.tokens));
            if (groups.empty()) continue;
#pragma omp parallel
            {
#pragma omp for schedule(static)
                for (int64_t token = 0; token < block_tokens; ++token) widen(token);
#pragma omp for schedule(dynamic)
                for (size_t item = 0; item < shrinks.size(); ++item) shrink(shrinks[item]);
#pragma omp for schedule(dynamic)
                for (int64_t item = 0; item < expands; ++item) expand(item);
            }
        }
    }

  private:
    struct Group {  // the rows of this block that use one slot
        const int64_t* slot;
        int64_t rows, ranks, v, xt;
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
            groups.push_back({slot, end - begin, slot[SLOT_RANKS], v, xt, begin, weights});
            v += (end - begin) * slot[SLOT_RANKS];
            if (slot[SLOT_SPARSE]) xt += (end - begin + LANES - 1) / LANES * LANES * layer.inputs;
            for (const int32_t* token = begin; token < end; ++token) touched[*token - first] = 1;
            const int32_t group = (int32_t)groups.size() - 1;
            for (int64_t row = 0; row < end - begin; row += ROWS)
                for (int64_t panel = 0; panel * LANES < std::max<int64_t>(slot[SLOT_RANKS], 1); panel += 2)
                    shrinks.push_back({group, (int32_t)panel, row});
        }
        scratch.x.resize(std::is_same<Number, float>::value ? 0 : block_tokens * layer.inputs);
        scratch.v.resize(v);
        scratch.xt.resize(xt);
        expands = 0;
        for (int64_t s = 0; s < layer.slices; ++s) expands += (layer.width(s) + COLUMNS - 1) / COLUMNS;
    }

    const Number* x_row(int64_t token) const { return (const Number*)call.x + (block_first + token) * call.x_stride; }

    const float* wide_row(int64_t token) const {
        if constexpr (std::is_same<Number, float>::value) return x_row(token);
        return scratch.x.data() + token * layer.inputs;
    }

    void widen(int64_t token) {
        if constexpr (!std::is_same<Number, float>::value) {
            if (!touched[token]) return;
            const Number* from = x_row(token);
            float* to = scratch.x.data() + token * layer.inputs;
            for (int64_t i = 0; i < layer.inputs; ++i) to[i] = to_float(from[i]);
        }
    }

    // V = weight * (x Aᵀ) for some rows of a slot and two panels of its ranks; once, too, x transposed for S.
    void shrink(const Shrink& item) {
        const Group& group = groups[item.group];
        const int64_t rows = std::min(ROWS, group.rows - item.row);
        const float* x[ROWS];
        float* v[ROWS];
        for (int64_t row = 0; row < rows; ++row) {
            x[row] = wide_row(group.token[item.row + row] - block_first);
            v[row] = scratch.v.data() + group.v + (item.row + row) * group.ranks + item.panel * LANES;
        }
        if (item.panel == 0 && group.slot[SLOT_SPARSE]) transpose(group, item.row, rows, x);
        const int64_t panels = std::min<int64_t>(2, group.ranks / LANES - item.panel);
        if (panels <= 0) return;
        const Number* a = (const Number*)group.slot[SLOT_A] + item.panel * layer.inputs * LANES;
        multiply<false>(rows, x, layer.inputs, a, panels, v);
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t rank = 0; rank < panels * LANES; ++rank) v[row][rank] *= group.weight[item.row + row];
    }

    void transpose(const Group& group, int64_t first, int64_t rows, const float* const* x) {
        for (int64_t row = 0; row < (rows + LANES - 1) / LANES * LANES; ++row) {
            float* to = scratch.xt.data() + group.xt + (first + row) / LANES * LANES * layer.inputs + row % LANES;
            for (int64_t i = 0; i < layer.inputs; ++i) to[i * LANES] = row < rows ? x[row][i] : 0;
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
        const int64_t rank = terms[TERM_RANK], panels = (columns + LANES - 1) / LANES;
        const Number* b = (const Number*)terms[TERM_B] + column * rank;
        for (int64_t first = 0; first < group.rows; first += ROWS) {
            const int64_t rows = std::min(ROWS, group.rows - first);
            const float* v[ROWS];
            float* to[ROWS];
            for (int64_t row = 0; row < rows; ++row) {
                v[row] = scratch.v.data() + group.v + (first + row) * group.ranks + terms[TERM_RANK_BEGIN];
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
