// The fusion of one group, for vectors of LANES floats. Included once per instruction set.
//
// The vocabulary is walked in blocks that stay in the nearest cache. A token that is masked in one stream has no part
// in any sum. With d the difference of an expert to the base, the weights exp(x + k step d) of all candidates k come
// from one another by a product, so a token costs two exponentials however many candidates there are.

#include "vector.h"

typedef int32_t Integers __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// e^x for x <= 0; 0 where that is too small for a float.
static inline Vector exponential(Vector x) {
    const Vector shift = Vector{} + 12582912.0f;  // adding it rounds to a whole number
    const Vector n = (x * 1.44269504088896341f + shift) - shift;
    const Vector r = (x - n * 0.693359375f) + n * 2.12194440054690583e-4f;  // ln 2, in two parts
    Vector y = Vector{} + 1.0f / 5040;
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    const Vector power = (Vector)((__builtin_convertvector(n, Integers) + 127) << 23);
    return x > -87.0f ? y * power : Vector{};
}

// log x for x >= 1 that is finite.
static inline Vector logarithm(Vector x) {
    const Integers bits = (Integers)x, high = (bits & 0x7fffff) > 0x3504f3;  // more than the square root of two
    const Vector n = __builtin_convertvector((bits >> 23) - 127 - high, Vector);
    const Vector f = (Vector)((bits & 0x7fffff) | (high ? Integers{} + 0x3f000000 : Integers{} + 0x3f800000)) - 1.0f;
    const Vector s = f / (f + 2.0f), z = s * s;  // log(1 + f) = 2 atanh(s)
    const Vector series = s * (z * (2.0f / 3 + z * (2.0f / 5 + z * (2.0f / 7 + z * (2.0f / 9)))) + 2.0f);
    return n * 0.693359375f + (series - n * 2.12194440054690583e-4f);
}

static inline Vector filled(float value) { return Vector{} + value; }

// As std::max(a, b), which keeps `a` where `b` is no number.
static inline Vector larger(Vector a, Vector b) { return b > a ? b : a; }

static inline float largest(Vector value) {
    float most = value[0];
    for (int lane = 1; lane < LANES; ++lane) most = std::max(most, value[lane]);
    return most;
}

static inline double total(Vector value) {
    double sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += value[lane];
    return sum;
}

template <class Number>
class Fusing {
  public:
    Fusing(const int64_t* group, int64_t vocabulary)
        : kind(group[GROUP_KIND]), streams(group[GROUP_STREAMS]), vocabulary(vocabulary),
          rows((const int64_t*)group[GROUP_ROWS]), parameters((const double*)group[GROUP_PARAMETERS]),
          out((float*)group[GROUP_OUT]), record((float*)group[GROUP_RECORD]), scale((float)parameters[SCALE]),
          weights(parameters + WEIGHTS, parameters + WEIGHTS + streams), logits(streams * BLOCK) {}

    void run() {
        if (kind == MEAN_PROBABILITIES) return mean_probabilities();
        if (kind == LINEAR) return combine(plausible_from());
        highest();
        targets();
        kind == JOINT ? search_jointly() : search_one_at_a_time();
        combine(NOTHING);
    }

  private:
    static constexpr int64_t BLOCK = 512;
    struct Divergences {
        double from_base, to_base;
    };
    struct Sums {  // of one expert's candidates: the weights, and the weights times its difference and the others'
        double weight[MAX_CANDIDATES] = {}, own[MAX_CANDIDATES] = {}, others[MAX_CANDIDATES] = {};
    };

    const float* stream(int64_t s) const { return logits.data() + s * BLOCK; }

    // One stream's part of a block; behind the end of the vocabulary all is masked.
    void read(int64_t s, int64_t begin, float* to) const {
        const Number* from = (const Number*)rows[s] + begin;
        const int64_t count = std::min(BLOCK, vocabulary - begin);
        int64_t i = 0;
        for (; i + LANES <= count; i += LANES) {
            const Vector value = load(from + i);
            store(to + i, value > MASKED ? value * scale : value <= MASKED ? filled(NOTHING) : value);
        }
        for (; i < count; ++i) {
            const float value = to_float(from[i]);
            to[i] = value > MASKED ? value * scale : value <= MASKED ? NOTHING : value;
        }
        std::fill(to + count, to + BLOCK, NOTHING);
    }

    // All streams' parts of a block; what is masked in one is NOTHING in all.
    void read_all(int64_t begin) {
        for (int64_t s = 0; s < streams; ++s) read(s, begin, logits.data() + s * BLOCK);
        for (int64_t s = 1; s < streams; ++s)
            for (int64_t i = 0; i < BLOCK; i += LANES) {
                const Vector own = load(stream(s) + i);
                store(logits.data() + i, own == NOTHING ? own : load(stream(0) + i));
            }
    }

    float maximum_of(int64_t s) const {
        Vector highest = filled(NOTHING);
        float block[BLOCK];
        for (int64_t begin = 0; begin < vocabulary; begin += BLOCK) {
            read(s, begin, block);
            for (int64_t i = 0; i < BLOCK; i += LANES) highest = larger(highest, load(block + i));
        }
        return largest(highest);
    }

    float plausible_from() const {
        const double plausible = parameters[PLAUSIBLE];
        return plausible > 0 ? maximum_of(0) + (float)std::log(plausible) : NOTHING;
    }

    void combine(float least) {
        for (int64_t begin = 0; begin < vocabulary; begin += BLOCK) {
            float sum[BLOCK] = {}, lowest[BLOCK], block[BLOCK];
            std::fill(lowest, lowest + BLOCK, 0.0f);
            for (int64_t s = 0; s < streams; ++s) {
                const bool used = weights[s] != 0 || kind != LINEAR;
                if (!used && !(s == 0 && least > NOTHING)) continue;
                const float weight = (float)weights[s];
                read(s, begin, block);
                if (s == 0)
                    for (int64_t i = 0; i < BLOCK; ++i) lowest[i] = block[i] < least ? NOTHING : lowest[i];
                if (!used) continue;
                for (int64_t i = 0; i < BLOCK; ++i) {
                    lowest[i] = std::min(lowest[i], block[i]);
                    sum[i] += weight * (block[i] == NOTHING ? 0.0f : block[i]);
                }
            }
            const int64_t count = std::min(BLOCK, vocabulary - begin);
            for (int64_t i = 0; i < count; ++i) out[begin + i] = lowest[i] == NOTHING ? NOTHING : sum[i];
        }
    }

    // log sum_v e^logit of a stream, over what is not masked.
    double log_total(int64_t s) const {
        const float highest = maximum_of(s);
        double sum = 0;
        float block[BLOCK];
        for (int64_t begin = 0; begin < vocabulary; begin += BLOCK) {
            read(s, begin, block);
            Vector weights = {};
            for (int64_t i = 0; i < BLOCK; i += LANES) weights += exponential(load(block + i) - highest);
            sum += total(weights);
        }
        return highest + std::log(sum);
    }

    void mean_probabilities() {
        std::vector<float> shifts(streams, NOTHING);
        for (int64_t s = 0; s < streams; ++s)
            if (weights[s] > 0 && maximum_of(s) > NOTHING) shifts[s] = (float)(std::log(weights[s]) - log_total(s));
        for (int64_t begin = 0; begin < vocabulary; begin += BLOCK) {
            float highest[BLOCK], sum[BLOCK] = {};
            std::fill(highest, highest + BLOCK, NOTHING);
            for (int64_t s = 0; s < streams; ++s) {
                float* own = logits.data() + s * BLOCK;
                read(s, begin, own);
                const Vector shift = filled(shifts[s]);
                for (int64_t i = 0; i < BLOCK; i += LANES) {
                    const Vector weighed = shift > NOTHING ? load(own + i) + shift : shift;
                    store(own + i, weighed);
                    store(highest + i, larger(load(highest + i), weighed));
                }
            }
            for (int64_t s = 0; s < streams; ++s)
                for (int64_t i = 0; i < BLOCK; i += LANES) {
                    const Vector most = load(highest + i);
                    const Vector below = most != NOTHING ? load(stream(s) + i) - most : Vector{};
                    store(sum + i, load(sum + i) + exponential(below));
                }
            for (int64_t i = 0; i < BLOCK; i += LANES) {
                const Vector most = load(highest + i);
                store(sum + i, most == NOTHING ? most : most + logarithm(load(sum + i)));
            }
            std::copy(sum, sum + std::min(BLOCK, vocabulary - begin), out + begin);
        }
    }

    // The highest logit of each stream and difference of each expert, over the tokens that are masked nowhere.
    void highest() {
        highest_logit.assign(streams, NOTHING);
        highest_difference.assign(streams, NOTHING);
        for (int64_t begin = 0; begin < vocabulary; begin += BLOCK) {
            read_all(begin);
            const float* base = stream(0);
            for (int64_t s = 0; s < streams; ++s) {
                const float* own = stream(s);
                Vector logit = filled(highest_logit[s]), difference = filled(highest_difference[s]);
                for (int64_t i = 0; i < BLOCK; i += LANES) {
                    const Vector of_base = load(base + i), of_own = load(own + i), masked = filled(NOTHING);
                    logit = larger(logit, of_base != NOTHING ? of_own : masked);
                    difference = larger(difference, of_base != NOTHING ? of_own - of_base : masked);
                }
                highest_logit[s] = largest(logit);
                highest_difference[s] = largest(difference);
            }
        }
    }

    // What the divergences are for each expert itself, and the expected differences under the base.
    void targets() {
        std::vector<double> sum(streams), own(streams);
        expected_by_base.assign(streams, 0);
        for (int64_t begin = 0; begin < vocabulary; begin += BLOCK) {
            read_all(begin);
            for (int64_t s = 0; s < streams; ++s) add_to_targets(s, sum[s], own[s], expected_by_base[s]);
        }
        log_sum = std::log(sum[0]) + highest_logit[0];
        target = {0, 0};
        for (int64_t s = 1; s < streams; ++s) {
            expected_by_base[s] /= sum[0];
            const double rise = std::log(sum[s]) + highest_logit[s] - log_sum;
            target.from_base += (own[s] / sum[s] - rise) / (streams - 1);
            target.to_base += (rise - expected_by_base[s]) / (streams - 1);
        }
    }

    void add_to_targets(int64_t s, double& sum, double& own, double& by_base) const {
        const float *base = stream(0), *expert = stream(s);
        Vector weights = {}, products = {}, base_products = {};
        for (int64_t i = 0; i < BLOCK; i += LANES) {
            const Vector kept = load(base + i), logit = load(expert + i);
            const Vector difference = kept != NOTHING ? logit - kept : Vector{};
            const Vector weight = kept != NOTHING ? exponential(logit - highest_logit[s]) : Vector{};
            weights += weight;
            products += weight * difference;
            if (s > 0) base_products += exponential(kept - highest_logit[0]) * difference;
        }
        sum += total(weights);
        own += total(products);
        by_base += total(base_products);
    }

    // Where the candidates of an expert begin, before the first product: the fused logit at `low`, and d.
    void starts(int64_t expert, float* x, float* d, float* u) const {
        const float *base = stream(0), *own = stream(expert), low = (float)parameters[LOW];
        std::fill(u, u + BLOCK, 0.0f);
        for (int64_t s = 1; s < streams; ++s) {
            if (s == expert || weights[s] == 0) continue;
            const float *other = stream(s), weight = (float)weights[s];
            for (int64_t i = 0; i < BLOCK; i += LANES) {
                const Vector kept = load(base + i), difference = load(other + i) - kept;
                store(u + i, load(u + i) + (kept != NOTHING ? difference * weight : Vector{}));
            }
        }
        const Vector most = filled(highest_difference[expert]);
        for (int64_t i = 0; i < BLOCK; i += LANES) {
            const Vector kept = load(base + i), difference = load(own + i) - kept - most;
            store(d + i, kept != NOTHING ? difference : Vector{});
            store(x + i, kept != NOTHING ? kept + load(u + i) + low * difference : kept);
        }
    }

    float highest_start(int64_t expert) {
        // The first candidate is the base where it is 0 and the others have no part.
        if (kind == ONE_AT_A_TIME && parameters[LOW] == 0) return highest_logit[0];
        float x[BLOCK], d[BLOCK], u[BLOCK];
        Vector highest = filled(NOTHING);
        for (int64_t begin = 0; begin < vocabulary; begin += BLOCK) {
            read_all(begin);
            starts(expert, x, d, u);
            for (int64_t i = 0; i < BLOCK; i += LANES) highest = larger(highest, load(x + i));
        }
        return largest(highest);
    }

    // The divergences of all candidates of an expert, the others' weights as they are.
    void sweep(int64_t expert, Divergences* found) {
        float x[BLOCK], d[BLOCK], u[BLOCK], r[BLOCK];
        const float highest = highest_start(expert);
        Sums sums;
        const float step = (float)parameters[STEP];
        for (int64_t begin = 0; begin < vocabulary; begin += BLOCK) {
            read_all(begin);
            starts(expert, x, d, u);
            for (int64_t i = 0; i < BLOCK; i += LANES) {
                store(x + i, exponential(load(x + i) - highest));
                store(r + i, exponential(load(d + i) * step));
            }
            kind == JOINT ? add_candidates<true>(x, r, d, u, sums) : add_candidates<false>(x, r, d, u, sums);
        }
        double base_by_others = 0;
        for (int64_t s = 1; s < streams; ++s)
            if (s != expert) base_by_others += weights[s] * expected_by_base[s];
        const double shift = highest_difference[expert];
        for (int64_t k = 0; k < candidates(); ++k) {
            const double alpha = candidate(k), sum = sums.weight[k];
            const double rise = std::log(sum) + highest + alpha * shift - log_sum;
            const double expected = (alpha * sums.own[k] + sums.others[k]) / sum + alpha * shift;
            found[k] = {expected - rise, rise - base_by_others - alpha * expected_by_base[expert]};
        }
    }

    template <bool OTHERS>
    void add_candidates(float* w, const float* r, const float* d, const float* u, Sums& sums) const {
        for (int64_t k = 0; k < candidates(); ++k) {
            Vector weight[2] = {}, own[2] = {}, others[2] = {};
            for (int64_t i = 0; i < BLOCK; i += 2 * LANES)
                for (int half = 0; half < 2; ++half) {
                    const int64_t at = i + half * LANES;
                    const Vector here = load(w + at);
                    weight[half] += here;
                    own[half] += here * load(d + at);
                    if (OTHERS) others[half] += here * load(u + at);
                    store(w + at, here * load(r + at));
                }
            sums.weight[k] += total(weight[0] + weight[1]);
            sums.own[k] += total(own[0] + own[1]);
            if (OTHERS) sums.others[k] += total(others[0] + others[1]);
        }
    }

    int64_t candidates() const { return (int64_t)parameters[COUNT]; }
    double candidate(int64_t k) const { return parameters[LOW] + k * parameters[STEP]; }

    double distance(const Divergences& found) const {
        const double from = found.from_base - target.from_base, to = found.to_base - target.to_base;
        return from * from + to * to;
    }

    void search_one_at_a_time() {
        Divergences found[MAX_CANDIDATES], best{0, 0};
        double least = std::numeric_limits<double>::infinity(), alpha = 0;
        int64_t chosen = 0;
        std::fill(weights.begin(), weights.end(), 0.0);
        for (int64_t expert = 1; expert < streams; ++expert) {
            sweep(expert, found);
            for (int64_t k = 0; k < candidates(); ++k)
                if (distance(found[k]) < least) {
                    least = distance(best = found[k]);
                    chosen = expert;
                    alpha = candidate(k);
                }
        }
        if (chosen) weights[chosen] = alpha;
        finish(best);
    }

    void search_jointly() {
        Divergences found[MAX_CANDIDATES], best{0, 0};
        const double prior = 1.0 / (streams - 1);
        std::fill(weights.begin(), weights.end(), prior);
        for (int64_t turn = 0; turn < (streams - 1) * (int64_t)parameters[SWEEPS]; ++turn) {
            const int64_t expert = 1 + turn % (streams - 1);
            sweep(expert, found);
            double least = std::numeric_limits<double>::infinity();
            for (int64_t k = 0; k < candidates(); ++k) {
                const double away = candidate(k) - prior;
                const double cost = distance(found[k]) + parameters[RHO] * away * away;
                if (!(cost < least)) continue;
                least = cost;
                best = found[k];
                weights[expert] = candidate(k);
            }
        }
        finish(best);
    }

    // The record, and the base's weight.
    void finish(const Divergences& best) {
        weights[0] = 1;
        int64_t chosen = 0;
        for (int64_t s = 1; s < streams; ++s) {
            weights[0] -= weights[s];
            if (std::fabs(weights[s]) > (chosen ? std::fabs(weights[chosen]) : 0)) chosen = s;
        }
        record[KL_FROM_BASE] = (float)best.from_base;
        record[KL_TO_BASE] = (float)best.to_base;
        record[TARGET_FROM] = (float)target.from_base;
        record[TARGET_TO] = (float)target.to_base;
        record[CHOSEN] = (float)chosen;
        for (int64_t s = 0; s < streams; ++s) record[STREAM_WEIGHTS + s] = (float)weights[s];
    }

    const int64_t kind, streams, vocabulary;
    const int64_t* rows;
    const double* parameters;
    float *out, *record;
    const float scale;
    std::vector<double> weights;
    std::vector<float> logits, highest_logit, highest_difference;
    std::vector<double> expected_by_base;
    double log_sum = 0;
    Divergences target{0, 0};
};

static void run(const int64_t* groups, int64_t count, int64_t vocabulary, bool bf16) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t index = 0; index < count; ++index) {
        TinyIsZero here;
        const int64_t* group = groups + index * GROUP_FIELDS;
        if (bf16)
            Fusing<bfloat16>(group, vocabulary).run();
        else
            Fusing<float>(group, vocabulary).run();
    }
}
