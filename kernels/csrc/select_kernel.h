// The k-th largest magnitude, exactly, without sorting. Included once per instruction set, after vector.h, lanes.h
// and norms.h.

// Two magnitudes that the k-th largest very probably lies between, those included: the ranks some standard deviations to
// either side of the one that is looked for, in a sample of one from each stretch. `bits_at` gives their bits.
template <class BitsAt>
static Bracket bracket(int64_t n, int64_t k, BitsAt bits_at) {
    const int64_t stretch = (int64_t)(4 * std::cbrt((double)n));
    std::vector<uint32_t> sample;
    sample.reserve(n / stretch + 1);
    for (int64_t i = 0; i + stretch <= n; i += stretch) {
        const uint64_t chance = (uint32_t)(sample.size() * 2654435761u);
        sample.push_back(bits_at(i + (chance * stretch >> 32)));
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
    for (int64_t i = 0; i < n; ++i) within[i] = (bits_of_number(values[i]) & 0x7fffffff);
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
        found.count += pack(bits, bits_of((Words)(bits - range.low <= range.high - range.low)), found.bits.get() + found.count);
    };
    int64_t i = 0;
    for (; i + LANES <= n && found.count <= room; i += LANES) some(magnitudes(load_words(values + i)));
    for (int lane = 0; lane < LANES; ++lane) found.above += above[lane];
    for (; i < n && found.count <= room; ++i) {
        const uint32_t bits = (bits_of_number(values[i]) & 0x7fffffff);
        found.above += bits > range.high;
        found.bits[found.count] = bits;
        found.count += bits - range.low <= range.high - range.low;
    }
    found.all = found.count <= room;
    return found;
}

// Exact, whatever the sample was like: where it misled, everything is looked at.
static Selected select(const float* values, int64_t n, int64_t k) {
    if (n < LITTLE) return by_digits(values, n, k);
    const Within inner = within(values, n, bracket(n, k, [=](int64_t i) { return (bits_of_number(values[i]) & 0x7fffffff); }));
    if (!inner.all || k <= inner.above || k > inner.above + inner.count) return by_digits(values, n, k);
    Selected found = select((const float*)inner.bits.get(), inner.count, k - inner.above);
    found.above += inner.above;
    return found;
}
