// Some elements of each of some task vectors become one each, for vectors of LANES floats. Included once per instruction
// set, after vector.h.

// Vectors that are worked on together: more are independent of each other then.
constexpr int VECTORS = 2 * GROUP / LANES, BLOCK = VECTORS * LANES;

struct Block {
    Vector part[VECTORS];
};

// `left(t)` is what is left of task vector t, a block of it.
template <class LeftOf>
static inline void sum_up(const Consensus& rule, LeftOf left, Vector* sum) {
    for (size_t t = 0; t < rule.voters.size(); ++t) {
        const Block block = left(t);
        for (int v = 0; v < VECTORS; ++v) sum[v] += block.part[v] * rule.voters[t].weight;
    }
}

// The sign that each element's sum has, as 1 or -1.
template <class LeftOf>
static inline void elect(const Consensus& rule, LeftOf left, Vector* side) {
    const Vector zero{}, one = zero + 1.0f;
    Vector sum[VECTORS] = {};
    for (size_t t = 0; t < rule.voters.size(); ++t) {
        const Block block = left(t);
        for (int v = 0; v < VECTORS; ++v) {
            const Vector value = block.part[v];
            if (rule.frequency) sum[v] += value > zero ? one : value < zero ? -one : zero;
            else sum[v] += value * rule.voters[t].ballot;
        }
    }
    for (int v = 0; v < VECTORS; ++v) side[v] = (rule.zero_is_positive ? sum[v] >= zero : sum[v] > zero) ? one : -one;
}

// The mean of what agrees with the elected sign.
template <bool DIVIDED, class LeftOf>
static inline void agree(const Consensus& rule, LeftOf left, Vector* sum) {
    const Vector zero{}, one = zero + 1.0f;
    Vector side[VECTORS], divisor[VECTORS] = {};
    elect(rule, left, side);
    for (size_t t = 0; t < rule.voters.size(); ++t) {
        const Block block = left(t);
        for (int v = 0; v < VECTORS; ++v) {
            const Vector value = block.part[v] * side[v];
            sum[v] += (value > zero ? value : zero) * rule.voters[t].weight;
            if (DIVIDED) divisor[v] += value > zero ? zero + rule.voters[t].divisor : zero;
        }
    }
    for (int v = 0; v < VECTORS; ++v) {
        sum[v] *= side[v];
        if (DIVIDED) sum[v] /= divisor[v] == zero ? one : divisor[v];
    }
}

enum Kind { SUMMED, ELECTED, DIVIDED };

static inline Kind kind_of(const Consensus& rule) {
    return !rule.elect ? SUMMED : rule.divide == NOTHING ? ELECTED : DIVIDED;
}

template <Kind KIND, class LeftOf>
static inline Block agreed(const Consensus& rule, LeftOf left) {
    Block result{};
    if (KIND == SUMMED) sum_up(rule, left, result.part);
    else agree<KIND == DIVIDED>(rule, left, result.part);
    for (int v = 0; v < VECTORS; ++v) result.part[v] *= rule.scale;
    return result;
}

static inline Block load_block(const float* from) {
    Block block;
    for (int v = 0; v < VECTORS; ++v) block.part[v] = load(from + v * LANES);
    return block;
}

static inline void store_block(float* to, const Block& block) {
    for (int v = 0; v < VECTORS; ++v) store(to + v * LANES, block.part[v]);
}
