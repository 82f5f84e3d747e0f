// Passes over task vectors, for vectors of LANES floats. Included once per instruction set, after select_kernel.h and
// consensus_kernel.h.

static float kth_largest(const float* values, int64_t n, int64_t k) {
    return number_of(select(values, n, k).bits);
}

template <Kind KIND>
static void whole_blocks(const Consensus& rule, const std::vector<const float*>& tasks, int64_t n, float* out) {
    for (int64_t i = 0; i < n; i += BLOCK)
        store_block(out + i, agreed<KIND>(rule, [&](size_t t) { return load_block(tasks[t] + i); }));
}

// `out` may be a task vector.
static void combine(const Consensus& rule, const std::vector<const float*>& tasks, int64_t n, float* out) {
    constexpr decltype(&whole_blocks<SUMMED>) KINDS[] = {
        whole_blocks<SUMMED>, whole_blocks<ELECTED>, whole_blocks<DIVIDED>};
    const auto combined = KINDS[kind_of(rule)];
    const int64_t whole = n / BLOCK * BLOCK;
    combined(rule, tasks, whole, out);
    if (whole == n) return;
    // The rest, as a block whose end is zero.
    std::vector<float> ends(tasks.size() * BLOCK);
    std::vector<const float*> rest;
    for (size_t t = 0; t < tasks.size(); ++t) {
        std::copy(tasks[t] + whole, tasks[t] + n, ends.data() + t * BLOCK);
        rest.push_back(ends.data() + t * BLOCK);
    }
    float end[BLOCK];
    combined(rule, rest, BLOCK, end);
    std::copy(end, end + (n - whole), out + whole);
}

static int64_t count(const float* values, int64_t n) {
    int64_t found = 0;
    for (int64_t i = 0; i < n; ++i) found += values[i] != 0;
    return found;
}

static double squared(const float* values, int64_t n) {
    Total total;
    int64_t i = 0;
    for (; i + GROUP <= n; i += GROUP)
        for (int place = 0; place < GROUP; place += LANES) total.add(place, load_words(values + i + place), square);
    double sum = total.sum();
    for (; i < n; ++i) sum += (double)values[i] * values[i];
    return sum;
}

// The `found` values that are not zero, and where they are.
static void gather(const float* values, int64_t n, int64_t found, int32_t* indices, float* out) {
    Words places;
    for (int lane = 0; lane < LANES; ++lane) places[lane] = lane;
    int64_t i = 0, c = 0;
    for (; i + LANES <= n && c + LANES <= found; i += LANES, places += LANES) {
        const Words all = load_words(values + i);
        const uint32_t bits = bits_of((Words)((Vector)all != 0));
        pack(places, bits, (Word*)indices + c);
        c += pack(all, bits, (Word*)out + c);
    }
    for (; c < found && i < n; ++i)
        if (values[i] != 0) indices[c] = (int32_t)i, out[c++] = values[i];
}

static void gather_wide(const float* values, int64_t n, int64_t found, int64_t* indices, float* out) {
    for (int64_t i = 0, c = 0; c < found && i < n; ++i)
        if (values[i] != 0) indices[c] = i, out[c++] = values[i];
}

static const Passes PASSES = {kth_largest, combine, squared, count, gather, gather_wide};
