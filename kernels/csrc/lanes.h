// What vectors of LANES floats can do together, on any machine. Included once per instruction set.

// A bit for each value at which `where` is all ones; the first value's is the lowest.
static inline uint32_t bits_of(Words where) {
    uint32_t bits = 0;
    for (int lane = 0; lane < LANES; ++lane) bits |= (where[lane] & 1) << lane;
    return bits;
}

// The values whose bits are set, one after the other; how many there are. LANES values may be written.
static inline int pack(Words values, uint32_t bits, Word* to) {
    int count = 0;
    for (int lane = 0; lane < LANES; ++lane) {
        to[count] = values[lane];
        count += bits >> lane & 1;
    }
    return count;
}

// The reverse: zero where a bit is not set. LANES values may be read.
static inline Words unpack(const Word* from, uint32_t bits) {
    Words values{};
    for (int lane = 0; lane < LANES; ++lane)
        if (bits >> lane & 1) values[lane] = *from++;
    return values;
}

// Half of the floats, as doubles.
static inline Doubles lower_half(Words values) { return widened((const float*)&values); }
static inline Doubles upper_half(Words values) { return widened((const float*)&values + HALF); }
