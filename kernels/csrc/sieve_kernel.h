// What is left of task vectors, for vectors of LANES floats. Included once per instruction set, after
// product_kernel.h, select_kernel.h and consensus_kernel.h (and what those come after).

// A panel of a product, whole rows of it, is made at a time, and stays in a cache until it is sifted.
constexpr int64_t PANEL_FLOATS = 1 << 14;

// So many rows as end where a group does.
static int64_t panel_rows(int64_t columns) {
    int64_t rows = TILE_ROWS;
    while (rows * columns % GROUP) rows *= 2;
    return rows * std::max(PANEL_FLOATS / (rows * columns), (int64_t)1);
}

// Keeps what is `chosen`: the values at `values`, one after the other; a bit for every element at `where`.
template <class Choice>
struct Sifter {
    Choice chosen;
    uint16_t* where;
    float* values;

    inline void group(const float* from, uint32_t inside = ~0u) {
        uint32_t bits = 0;
        for (int part = 0; part < GROUP; part += LANES) {
            const Words all = load_words(from + part);
            const uint32_t some = chosen(all, part) & inside >> part;
            values += pack(all, some, (Word*)values);
            bits |= some << part;
        }
        *where++ = (uint16_t)bits;
    }

    void all(const float* from, int64_t n) {
        // A copy stays in registers: what is written could be a part of this.
        Sifter sifter = *this;
        int64_t i = 0;
        for (; i + GROUP <= n; i += GROUP) sifter.group(from + i);
        if (i < n) {
            float end[GROUP] = {};
            std::copy(from + i, from + n, end);
            sifter.group(end, (1u << (n - i)) - 1);
        }
        *this = sifter;
    }
};

template <class Choice>
static void sift_product(const Source& source, Sifter<Choice>& sifter) {
    const int64_t step = std::min(panel_rows(source.columns), source.rows);
    std::vector<float> panel(step * source.columns);
    for (int64_t first = 0; first < source.rows; first += step) {
        Product rows = source.product();
        rows.b += first * source.rank;
        rows.rows = std::min(step, source.rows - first);
        multiply(rows, panel.data());
        sifter.all(panel.data(), rows.rows * rows.columns);
    }
}

// How many values are left.
template <class Choice>
static int64_t sift(const Source& source, Choice& chosen, const Left& left) {
    Sifter<Choice> sifter{chosen, left.where, left.values};
    if (source.dense) sifter.all(source.dense, source.rows * source.columns);
    else sift_product(source, sifter);
    // So that blocks end where groups do not.
    *sifter.where = 0;
    chosen = sifter.chosen;
    return sifter.values - left.values;
}

struct FromMagnitude {
    uint32_t low;
    uint32_t operator()(Words all, int) const { return bits_of((Words)(magnitudes(all) >= low)); }
};

// Zeros are left out, even from zero on: they come back where nothing is left.
static int64_t above(const Source& source, uint32_t low, const Left& left) {
    FromMagnitude chosen{std::max(low, 1u)};
    return sift(source, chosen, left);
}

static uint32_t magnitude_at(const Source& source, int64_t i) {
    float value = 0;
    if (source.dense) value = source.dense[i];
    else {
        const float *a = source.a + i % source.columns, *b = source.b + i / source.columns * source.rank;
        for (int64_t r = 0; r < source.rank; ++r) value += b[r] * a[r * source.columns];
        value *= (float)source.scale;
    }
    return bits_of_number(value) & 0x7fffffff;
}

// Of those of this magnitude, all but the first `kept` become zero; or only these, if it is they that are `dropped`.
static void thin_out(float* values, int64_t n, uint32_t bits, int64_t first, bool dropped) {
    if (bits == 0) return;
    for (int64_t i = 0; i < n; ++i)
        if ((bits_of_number(values[i]) & 0x7fffffff) == bits && (first-- > 0) == dropped) values[i] = 0;
}

// Where the magnitudes lie that come behind the `dropped` largest, `kept` of them. Of equal ones the first come first:
// those that a bound cannot tell from others become zero.
static Bracket band_of(float* values, int64_t n, int64_t dropped, int64_t kept) {
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

// Where the magnitudes lie that come behind the `dropped` largest, `kept` of them; of what is left some may be smaller.
static Bracket band(const Source& source, int64_t dropped, int64_t kept, const Left& left) {
    const int64_t n = source.rows * source.columns, wanted = dropped + kept;
    uint32_t low = 0;
    if (n >= LITTLE) low = bracket(n, wanted, [&](int64_t i) { return magnitude_at(source, i); }).low;
    int64_t found = above(source, low, left);
    if (found < wanted) found = above(source, 0, left);
    // Of what is not zero there may be less.
    if (found <= dropped) return NOTHING_LEFT;
    return band_of(left.values, found, dropped, std::min(kept, found - dropped));
}

typedef uint64_t Pairs __attribute__((vector_size(LANES * 4)));

// Each element whose 24 bits are below the limit (counter_random.py has the numbers). Two elements share a word.
struct Random {
    static constexpr uint64_t GAMMA = 0x9E3779B97F4A7C15u;
    Pairs place;
    uint32_t limit;
    Total before;

    Random(uint64_t key, uint32_t limit) : limit(limit) {
        static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lower half of a word is the first element's");
        for (int i = 0; i < LANES / 2; ++i) place[i] = key + (i + 1) * GAMMA;
    }

    uint32_t operator()(Words all, int part) {
        Pairs z = place;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        const Words kept = (Words)(((Words)(z ^ (z >> 31)) & 0xffffff) < limit);
        place += LANES / 2 * GAMMA;
        before.add(part, magnitudes(all), itself);
        return bits_of(kept);
    }
};

// The L1 norm.
static double absolute(const float* values, int64_t n) {
    Total total;
    int64_t i = 0;
    for (; i + GROUP <= n; i += GROUP)
        for (int place = 0; place < GROUP; place += LANES)
            total.add(place, magnitudes(load_words(values + i + place)), itself);
    double sum = total.sum();
    for (; i < n; ++i) sum += std::fabs(values[i]);
    return sum;
}

// `sums`: of the magnitudes, before and after.
static void random(const Source& source, uint64_t key, uint32_t limit, const Left& left, double* sums) {
    Random chosen(key, limit);
    const int64_t count = sift(source, chosen, left);
    sums[0] = chosen.before.sum();
    sums[1] = absolute(left.values, count);
}

// How many elements are left in any task vector, or more.
static int64_t most(const std::vector<Remaining>& tasks, int64_t n) {
    int64_t found = 0, i = 0;
    for (int64_t word = 0; i + 4 * GROUP <= n; i += 4 * GROUP, word += 4) {
        uint64_t all = 0, some;
        for (const Remaining& task : tasks) {
            std::memcpy(&some, task.where + word, sizeof some);
            all |= some;
        }
        found += __builtin_popcountll(all);
    }
    return found + n - i;
}

// Where what is not zero goes: its values and places, or all values.
template <class Index>
struct Packed {
    Index* indices;
    float* values;
    int64_t count = 0;

    // `left`: where there is room for the value. It is not zero elsewhere if zero was multiplied by infinity.
    void add(int64_t i, Vector value, uint32_t left) {
        const uint32_t bits = bits_of((Words)(value != 0)) & left;
        if (sizeof(Index) == 4) {
            Words lanes{};
            for (int lane = 0; lane < LANES; ++lane) lanes[lane] = lane;
            pack(lanes + (uint32_t)i, bits, (Word*)indices + count);
        } else {
            int64_t at = count;
            for (int lane = 0; lane < LANES; ++lane)
                if (bits >> lane & 1) indices[at++] = (Index)(i + lane);
        }
        count += pack((Words)value, bits, (Word*)values + count);
    }
};

struct Dense {
    float* values;
    int64_t n, count = 0;

    void add(int64_t i, Vector value, uint32_t) {
        if (i + LANES <= n) return store(values + i, value);
        for (int lane = 0; i + lane < n; ++lane) values[i + lane] = value[lane];
    }
};

// The next block of a task vector; where it is left.
template <bool BANDED>
static inline uint32_t next(Remaining& task, float* to) {
    static_assert(BLOCK == 32 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "two words have a bit for each element");
    uint32_t where;
    std::memcpy(&where, task.where, sizeof where);
    const float* from = task.values;
    task.where += 2;
    task.values += __builtin_popcount(where);
    for (int at = 0; at < BLOCK; at += LANES) {
        const uint32_t bits = where >> at & ((1u << LANES) - 1);
        Words all = unpack((const Word*)from, bits);
        from += __builtin_popcount(bits);
        if (BANDED) all &= (Words)(magnitudes(all) >= task.low) & (Words)(magnitudes(all) < task.end);
        store(to + at, (Vector)all * task.factor);
    }
    return where;
}

template <bool BANDED, Kind KIND, class Out>
static Found combined(const Consensus& rule, std::vector<Remaining> tasks, int64_t n, Out out) {
    std::vector<float> room((tasks.size() + 1) * BLOCK);
    void* start = room.data();
    size_t size = room.size() * sizeof(float);
    float* values = (float*)std::align(LANES * sizeof(float), LANES * sizeof(float), start, size);
    Total squares;
    for (int64_t i = 0; i < n; i += BLOCK) {
        uint32_t left = 0;
        for (size_t t = 0; t < tasks.size(); ++t) left |= next<BANDED>(tasks[t], values + t * BLOCK);
        const Block block = agreed<KIND>(rule, [=](size_t t) { return load_block(values + t * BLOCK); });
        for (int v = 0; v < VECTORS; ++v) {
            squares.add(v * LANES % GROUP, (Words)block.part[v], square);
            out.add(i + v * LANES, block.part[v], left >> v * LANES);
        }
    }
    return {out.count, squares.sum()};
}

template <bool BANDED, class Out>
static Found of_kind(const Consensus& rule, const std::vector<Remaining>& tasks, int64_t n, Out out) {
    switch (kind_of(rule)) {
        case SUMMED: return combined<BANDED, SUMMED>(rule, tasks, n, out);
        case ELECTED: return combined<BANDED, ELECTED>(rule, tasks, n, out);
        default: return combined<BANDED, DIVIDED>(rule, tasks, n, out);
    }
}

template <class Out>
static Found combine_into(const Consensus& rule, const std::vector<Remaining>& tasks, int64_t n, Out out) {
    const bool banded = std::any_of(tasks.begin(), tasks.end(), [](const Remaining& task) {
        return task.low > 0 || task.end < UINT32_MAX;
    });
    return banded ? of_kind<true>(rule, tasks, n, out) : of_kind<false>(rule, tasks, n, out);
}

static Found combine(const Consensus& rule, const std::vector<Remaining>& tasks, int64_t n, const Room& room) {
    if (!room.indices) return combine_into(rule, tasks, n, Dense{room.values, n});
    if (room.wide) return combine_into(rule, tasks, n, Packed<int64_t>{(int64_t*)room.indices, room.values});
    return combine_into(rule, tasks, n, Packed<int32_t>{(int32_t*)room.indices, room.values});
}

static const Kernels KERNELS = {above, band, random, most, combine};
