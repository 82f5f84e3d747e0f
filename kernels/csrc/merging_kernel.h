// Passes over task vectors, for vectors of LANES floats. Included once per instruction set.

#include "vector.h"

static inline uint32_t magnitude_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits & 0x7fffffff;
}

// Two magnitudes that the k-th largest very probably lies between, those included: of every 64th, a rank four standard
// deviations to either side of the one that is looked for.
static Bracket bracket(const float* values, int64_t n, int64_t k) {
    constexpr int64_t STEP = 64;
    std::vector<uint32_t> sample;
    sample.reserve(n / STEP + 1);
    for (int64_t i = 0; i < n; i += STEP) sample.push_back(magnitude_bits(values[i]));
    const int64_t size = sample.size(), middle = (int64_t)((double)k / n * size);
    const int64_t width = 2 * (int64_t)std::sqrt((double)size) + 2;
    auto ranked = [&](int64_t rank) {
        std::nth_element(sample.begin(), sample.begin() + rank, sample.end(), std::greater<uint32_t>());
        return sample[rank];
    };
    Bracket found = EVERYTHING;
    if (middle >= width) found.high = ranked(middle - width);
    if (middle + width < size) found.low = ranked(middle + width);
    return found;
}

// The k-th largest magnitude (from 1) among `within`, which `above` others are larger than, by their bits, which are in
// the order of the numbers: 11 of them, then 10, then 10, each time among those that agree in all bits before.
static Selected by_digits(uint32_t* within, int64_t size, int64_t above, int64_t k) {
    std::vector<uint32_t> counts(2048);
    uint32_t found = 0;
    for (int shift : {20, 10, 0}) {
        std::fill(counts.begin(), counts.end(), 0);
        const uint32_t mask = shift == 20 ? 2047 : 1023;
        for (int64_t i = 0; i < size; ++i) ++counts[within[i] >> shift & mask];
        uint32_t digit = mask;
        while (above + counts[digit] < k) above += counts[digit--];
        found = shift == 20 ? digit : found << 10 | digit;
        int64_t left = 0;
        for (int64_t i = 0; i < size; ++i) {
            const uint32_t bits = within[i];
            within[left] = bits;
            left += bits >> shift == found;
        }
        size = left;
    }
    return {found, above, size};
}

// Exact, whatever the sample was like: where it misled, everything is looked at.
static Selected select(const float* values, int64_t n, int64_t k) {
    const std::unique_ptr<uint32_t[]> within(new uint32_t[n]);
    for (const Bracket& range : {n < 65536 ? EVERYTHING : bracket(values, n, k), EVERYTHING}) {
        int64_t above = 0, size = 0;
        for (int64_t i = 0; i < n; ++i) {
            const uint32_t bits = magnitude_bits(values[i]);
            within[size] = bits;
            above += bits > range.high;
            size += bits - range.low <= range.high - range.low;
        }
        if (above < k && k <= above + size) return by_digits(within.get(), size, above, k);
    }
    return {0, 0, 0};
}

// Keep the magnitudes that come behind the `dropped` largest, `kept` of them; of equal ones, the first come first.
static void keep_band(float* values, int64_t n, int64_t dropped, int64_t kept) {
    const Selected low = select(values, n, dropped + kept);
    Selected high{0x7fffffff, 0, 0};
    if (dropped) high = select(values, n, dropped);
    int64_t low_equal = dropped + kept - low.above, high_equal = dropped ? dropped - high.above : 0;
    if (low_equal == low.equal && high_equal == high.equal) {
        const uint32_t end = dropped ? high.bits : 0xffffffff;
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES) {
            const Words all = *(const Words*)(values + i), bits = all & 0x7fffffff;
            *(Words*)(values + i) = all & (Words)(bits >= low.bits) & (Words)(bits < end);
        }
        for (; i < n; ++i) {
            const uint32_t bits = magnitude_bits(values[i]);
            if (bits < low.bits || bits >= end) values[i] = 0;
        }
        return;
    }
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = magnitude_bits(values[i]);
        const bool enough = bits > low.bits || (bits == low.bits && low_equal-- > 0);
        const bool too_much = dropped && (bits > high.bits || (bits == high.bits && high_equal-- > 0));
        if (!enough || too_much) values[i] = 0;
    }
}

typedef uint64_t Pairs __attribute__((vector_size(LANES * 4)));
typedef double Doubles __attribute__((vector_size(LANES * 8)));

// The random words of LANES elements, two to a word, by the indices of the words from 1.
static inline Words random_words(uint64_t key, Pairs indices) {
    Pairs z = key + indices * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (Words)(z ^ (z >> 31));
}

// Sums of doubles in an order that is the same for every number of lanes.
struct Sum {
    static constexpr int PARTS = 16;
    Doubles parts[PARTS / LANES] = {};
    void add(int part, Words magnitudes) { parts[part] += __builtin_convertvector((Vector)magnitudes, Doubles); }
    double total() const {
        double all[PARTS], sum = 0;
        std::memcpy(all, parts, sizeof all);
        for (double part : all) sum += part;
        return sum;
    }
};

// Keep each element whose 24 bits are below the limit (counter_random.py has the numbers); the sums of the magnitudes
// before and after.
static void drop(float* values, int64_t n, uint64_t key, uint32_t limit, double* sums) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lower half of a word is the first element's");
    Sum before, after;
    Pairs indices;
    for (int i = 0; i < LANES / 2; ++i) indices[i] = i + 1;
    auto some = [&](float* at, int part) {
        const Words all = *(const Words*)at;
        const Words left = all & (Words)((random_words(key, indices) & 0xffffff) < limit);
        before.add(part, all & 0x7fffffff);
        after.add(part, left & 0x7fffffff);
        *(Words*)at = left;
        indices += LANES / 2;
    };
    int64_t i = 0;
    for (; i + Sum::PARTS <= n; i += Sum::PARTS)
        for (int part = 0; part < Sum::PARTS / LANES; ++part) some(values + i + part * LANES, part);
    // The rest, as a vector whose end is zero.
    float rest[Sum::PARTS] = {};
    std::copy(values + i, values + n, rest);
    for (int part = 0; part < Sum::PARTS / LANES; ++part) some(rest + part * LANES, part);
    std::copy(rest, rest + (n - i), values + i);
    sums[0] = before.total();
    sums[1] = after.total();
}

// The mean of what agrees with the elected sign, of LANES elements.
static inline Vector elected(const Ballot& ballot, const float* const* tasks, int64_t at) {
    const Vector zero{}, one = zero + 1.0f;
    Vector sum{}, divisor{};
    for (int64_t t = 0; t < ballot.count; ++t) {
        const Vector value = load(tasks[t] + at);
        if (ballot.frequency) sum += value > zero ? one : value < zero ? -one : zero;
        else sum += ballot.weighted ? value * ballot.weights[t] : value;
    }
    const Vector side = (ballot.zero_is_positive ? sum >= zero : sum > zero) ? one : -one;
    sum = zero;
    for (int64_t t = 0; t < ballot.count; ++t) {
        const Vector value = load(tasks[t] + at) * side, weight = zero + ballot.weights[t];
        sum += value > zero ? value * weight : zero;
        divisor += value > zero ? ballot.divide == WEIGHTS ? weight : one : zero;
    }
    sum *= side;
    return ballot.divide == NOTHING ? sum : sum / (divisor == zero ? one : divisor);
}

static void elect(const Ballot& ballot, int64_t n, float* out) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, elected(ballot, ballot.tasks, i));
    if (i == n) return;
    // The rest, as a vector whose end is zero.
    std::vector<float> rest(ballot.count * LANES);
    std::vector<const float*> tasks(ballot.count);
    for (int64_t t = 0; t < ballot.count; ++t) {
        tasks[t] = rest.data() + t * LANES;
        std::copy(ballot.tasks[t] + i, ballot.tasks[t] + n, rest.data() + t * LANES);
    }
    float last[LANES];
    store(last, elected(ballot, tasks.data(), 0));
    std::copy(last, last + (n - i), out + i);
}

static int64_t count(const float* values, int64_t n) {
    int64_t found = 0;
    for (int64_t i = 0; i < n; ++i) found += values[i] != 0;
    return found;
}

// The `found` values that are not zero, and where they are.
template <class Index>
static void gather(const float* values, int64_t found, Index* indices, float* out) {
    int64_t c = 0;
    for (int64_t i = 0; c < found; ++i) {
        indices[c] = (Index)i;
        out[c] = values[i];
        c += values[i] != 0;
    }
}

static const Passes PASSES = {select, keep_band, drop, elect, count, gather<int32_t>, gather<int64_t>};
