// Passes over task vectors, for vectors of LANES floats. Included once per instruction set, after vector.h and lanes.h.

static inline Words load_words(const void* from) { return *(const Words*)from; }

static inline uint32_t magnitude_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits & 0x7fffffff;
}

// Two magnitudes that the k-th largest very probably lies between, those included: the ranks some standard deviations to
// either side of the one that is looked for, in a sample of one from each stretch of the values.
static Bracket bracket(const float* values, int64_t n, int64_t k) {
    const int64_t stretch = (int64_t)(4 * std::cbrt((double)n));
    std::vector<uint32_t> sample;
    sample.reserve(n / stretch + 1);
    for (int64_t i = 0; i + stretch <= n; i += stretch) {
        const uint64_t chance = (uint32_t)(sample.size() * 2654435761u);
        sample.push_back(magnitude_bits(values[i + (chance * stretch >> 32)]));
    }
    const int64_t size = sample.size(), middle = (int64_t)((double)k / n * size);
    const int64_t width = (int64_t)(1.5 * std::sqrt((double)size)) + 2;
    auto ranked = [&](int64_t rank) {
        std::nth_element(sample.begin(), sample.begin() + rank, sample.end(), std::greater<uint32_t>());
        return sample[rank];
    };
    Bracket found = EVERYTHING;
    if (middle >= width) found.high = ranked(middle - width);
    if (middle + width < size) found.low = ranked(middle + width);
    return found;
}

// The k-th largest magnitude (from 1) by the bits, which are in the order of the numbers: 11 of them, then 10, then 10,
// each time among those that agree in all bits before.
static Selected by_digits(const float* values, int64_t n, int64_t k) {
    std::vector<uint32_t> counts(2048), within(n);
    for (int64_t i = 0; i < n; ++i) within[i] = magnitude_bits(values[i]);
    uint32_t found = 0;
    int64_t above = 0, size = n;
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

// What lies in a bracket.
struct Within {
    std::unique_ptr<uint32_t[]> bits;
    int64_t count, above;
    bool all;  // false where they are so many that it was given up
};

static Within within(const float* values, int64_t n, Bracket range) {
    const int64_t room = n / 2;
    Within found{std::unique_ptr<uint32_t[]>(new uint32_t[room + LANES]), 0, 0, true};
    Words above{};
    auto some = [&](Words bits) {
        above -= (Words)(bits > range.high);
        found.count += pack(bits, (Words)(bits - range.low <= range.high - range.low), found.bits.get() + found.count);
    };
    int64_t i = 0;
    for (; i + LANES <= n && found.count <= room; i += LANES) some(load_words(values + i) & 0x7fffffff);
    for (int lane = 0; lane < LANES; ++lane) found.above += above[lane];
    for (; i < n && found.count <= room; ++i) {
        const uint32_t bits = magnitude_bits(values[i]);
        found.above += bits > range.high;
        found.bits[found.count] = bits;
        found.count += bits - range.low <= range.high - range.low;
    }
    found.all = found.count <= room;
    return found;
}

// Exact, whatever the sample was like: where it misled, everything is looked at.
static Selected select(const float* values, int64_t n, int64_t k) {
    if (n < 4096) return by_digits(values, n, k);
    const Within inner = within(values, n, bracket(values, n, k));
    if (!inner.all || k <= inner.above || k > inner.above + inner.count) return by_digits(values, n, k);
    Selected found = select((const float*)inner.bits.get(), inner.count, k - inner.above);
    found.above += inner.above;
    return found;
}

// Of those of this magnitude, all but the first `kept` become zero; or only these, if it is they that are `dropped`.
static void thin_out(float* values, int64_t n, uint32_t bits, int64_t first, bool dropped) {
    if (bits == 0) return;
    for (int64_t i = 0; i < n; ++i)
        if (magnitude_bits(values[i]) == bits && (first-- > 0) == dropped) values[i] = 0;
}

// Where the magnitudes lie that come behind the `dropped` largest, `kept` of them. Of equal ones the first come first:
// those that a bound cannot tell from others become zero.
static Bracket band(float* values, int64_t n, int64_t dropped, int64_t kept) {
    const Selected low = select(values, n, dropped + kept);
    const Selected high = dropped ? select(values, n, dropped) : Selected{0x7fffffff, 0, 0};
    const int64_t low_kept = dropped + kept - low.above, high_dropped = dropped - high.above;
    Bracket found{low.bits, dropped ? high.bits : UINT32_MAX};
    if (low_kept < low.equal) thin_out(values, n, low.bits, low_kept, false);
    if (dropped && high_dropped < high.equal) {
        thin_out(values, n, high.bits, high_dropped, true);
        ++found.high;
    }
    return found;
}

typedef uint64_t Pairs __attribute__((vector_size(LANES * 4)));

// The random words of LANES elements, two to a word, of words that lie so far into their stream.
static inline Words random_words(Pairs z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (Words)(z ^ (z >> 31));
}

static double total(const Doubles* parts) {
    double sum = 0;
    for (int part = 0; part < Norms::PARTS; ++part) sum += parts[part / HALF][part % HALF];
    return sum;
}

// Keep each element whose 24 bits are below the limit (counter_random.py has the numbers); the sums of the magnitudes
// before and after.
static void drop(float* values, int64_t n, uint64_t key, uint32_t limit, double* sums) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lower half of a word is the first element's");
    constexpr uint64_t GAMMA = 0x9E3779B97F4A7C15u;
    Norms norms;
    Pairs place;
    for (int i = 0; i < LANES / 2; ++i) place[i] = key + (i + 1) * GAMMA;
    auto some = [&](float* at, int part) {
        const Words all = load_words(at), kept = (Words)((random_words(place) & 0xffffff) < limit);
        norms.add(part, all & 0x7fffffff, kept);
        *(Words*)at = all & kept;
        place += LANES / 2 * GAMMA;
    };
    int64_t i = 0;
    for (; i + Norms::PARTS <= n; i += Norms::PARTS)
        for (int part = 0; part < Norms::PARTS; part += LANES) some(values + i + part, part);
    // The rest, as a vector whose end is zero.
    float rest[Norms::PARTS] = {};
    std::copy(values + i, values + n, rest);
    for (int part = 0; part < Norms::PARTS; part += LANES) some(rest + part, part);
    std::copy(rest, rest + (n - i), values + i);
    sums[0] = total(norms.all);
    sums[1] = total(norms.kept);
}

// What is left of LANES elements of a task vector.
template <bool BANDED>
static inline Vector left_of(const Task& task, int64_t at) {
    Words all = load_words(task.values + at);
    if (BANDED) {
        const Words bits = all & 0x7fffffff;
        all &= (Words)(bits >= task.low) & (Words)(bits < task.end);
    }
    return (Vector)all * task.factor;
}

template <bool BANDED>
static inline Vector summed(const Combination& rule, int64_t at) {
    Vector sum{};
    for (const Task& task : rule.tasks) sum += left_of<BANDED>(task, at) * task.weight;
    return sum;
}

// The mean of what agrees with the elected sign. `left` has room for LANES elements of every task.
template <bool BANDED, bool DIVIDED>
static inline Vector elected(const Combination& rule, int64_t at, float* left) {
    const Vector zero{}, one = zero + 1.0f;
    Vector sum{}, divisor{};
    float* to = left;
    for (const Task& task : rule.tasks) {
        const Vector value = left_of<BANDED>(task, at);
        store(to, value);
        to += LANES;
        if (rule.frequency) sum += value > zero ? one : value < zero ? -one : zero;
        else sum += value * task.ballot;
    }
    const Vector side = (rule.zero_is_positive ? sum >= zero : sum > zero) ? one : -one;
    sum = zero;
    for (const Task& task : rule.tasks) {
        const Vector value = load(left) * side;
        left += LANES;
        sum += value > zero ? value * task.weight : zero;
        if (DIVIDED) divisor += value > zero ? zero + task.divisor : zero;
    }
    sum *= side;
    return DIVIDED ? sum / (divisor == zero ? one : divisor) : sum;
}

template <bool BANDED>
static void combined(const Combination& rule, int64_t n, float* out) {
    std::vector<float> room((rule.tasks.size() + 1) * LANES);
    void* start = room.data();
    size_t size = room.size() * sizeof(float);
    float* left = (float*)std::align(LANES * sizeof(float), LANES * sizeof(float), start, size);
    if (!rule.elect)
        for (int64_t i = 0; i < n; i += LANES) store(out + i, summed<BANDED>(rule, i));
    else if (rule.divide == NOTHING)
        for (int64_t i = 0; i < n; i += LANES) store(out + i, elected<BANDED, false>(rule, i, left));
    else
        for (int64_t i = 0; i < n; i += LANES) store(out + i, elected<BANDED, true>(rule, i, left));
}

// `out` may be a task's values.
static void combine(const Combination& rule, int64_t n, float* out) {
    const bool banded = std::any_of(rule.tasks.begin(), rule.tasks.end(), [](const Task& task) {
        return task.low > 0 || task.end < UINT32_MAX;
    });
    const auto whole_vectors = banded ? combined<true> : combined<false>;
    const int64_t whole = n / LANES * LANES;
    whole_vectors(rule, whole, out);
    // The rest, as a vector whose end is zero.
    Combination rest = rule;
    std::vector<float> ends(rule.tasks.size() * LANES);
    for (size_t t = 0; t < rule.tasks.size(); ++t) {
        std::copy(rule.tasks[t].values + whole, rule.tasks[t].values + n, ends.data() + t * LANES);
        rest.tasks[t].values = ends.data() + t * LANES;
    }
    float end[LANES];
    if (whole < n) whole_vectors(rest, LANES, end);
    std::copy(end, end + (n - whole), out + whole);
}

static int64_t count(const float* values, int64_t n) {
    int64_t found = 0;
    for (int64_t i = 0; i < n; ++i) found += values[i] != 0;
    return found;
}

static double squared(const float* values, int64_t n) {
    Doubles parts[Norms::PARTS / HALF] = {};
    int64_t i = 0;
    for (; i + Norms::PARTS <= n; i += Norms::PARTS)
        for (int part = 0; part < Norms::PARTS; part += HALF) {
            const Doubles some = widened(values + i + part);
            parts[part / HALF] += some * some;
        }
    double sum = total(parts);
    for (; i < n; ++i) sum += (double)values[i] * values[i];
    return sum;
}

// The `found` values that are not zero, and where they are.
static void gather(const float* values, int64_t n, int64_t found, int32_t* indices, float* out) {
    Words places;
    for (int lane = 0; lane < LANES; ++lane) places[lane] = lane;
    int64_t i = 0, c = 0;
    for (; i + LANES <= n && c + LANES <= found; i += LANES, places += LANES) {
        const Words all = load_words(values + i), where = (Words)((Vector)all != 0);
        pack(places, where, (uint32_t*)indices + c);
        c += pack(all, where, (uint32_t*)out + c);
    }
    for (; c < found && i < n; ++i)
        if (values[i] != 0) indices[c] = (int32_t)i, out[c++] = values[i];
}

static void gather_wide(const float* values, int64_t n, int64_t found, int64_t* indices, float* out) {
    for (int64_t i = 0, c = 0; c < found && i < n; ++i)
        if (values[i] != 0) indices[c] = i, out[c++] = values[i];
}

static const Passes PASSES = {select, band, drop, combine, squared, count, gather, gather_wide};
