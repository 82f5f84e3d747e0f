// What vectors of LANES floats can do together, on any machine. Included once per instruction set.

// The values at which `where` is all ones, one after the other; how many there are. LANES values may be written.
static inline int pack(Words values, Words where, uint32_t* to) {
    int count = 0;
    for (int lane = 0; lane < LANES; ++lane) {
        to[count] = values[lane];
        count += where[lane] & 1;
    }
    return count;
}

// The doubles of a vector of floats.
struct Widened {
    Doubles low, high;
    explicit Widened(Words values) {
        float all[LANES];
        store(all, (Vector)values);
        low = widened(all);
        high = widened(all + HALF);
    }
};

// Sums of magnitudes, of all and of those that are kept, in double, in an order that is the same for every number of
// lanes.
struct Norms {
    static constexpr int PARTS = 16;
    Doubles all[PARTS / HALF] = {}, kept[PARTS / HALF] = {};

    // `part` is the place of the first among PARTS.
    void add(int part, Words magnitudes, Words where) {
        const Widened before(magnitudes), after(magnitudes & where);
        Doubles *to = all + part / HALF, *left = kept + part / HALF;
        to[0] += before.low;
        to[1] += before.high;
        left[0] += after.low;
        left[1] += after.high;
    }
};
