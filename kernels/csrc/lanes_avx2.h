// The same as lanes.h, in instructions that AVX2 has for it.

// For each pattern of bits: eight lanes in a byte each, which of the values comes there; and which lanes are set.
struct Orders {
    uint64_t packed[256] = {}, unpacked[256] = {};
    uint32_t lanes[256][8] = {};
    constexpr Orders() {
        for (int bits = 0; bits < 256; ++bits)
            for (int lane = 0, count = 0; lane < 8; ++lane)
                if (bits >> lane & 1) {
                    lanes[bits][lane] = ~0u;
                    packed[bits] |= (uint64_t)lane << 8 * count;
                    unpacked[bits] |= (uint64_t)count++ << 8 * lane;
                }
    }
};
static constexpr Orders ORDERS{};

static inline uint32_t bits_of(Words where) { return _mm256_movemask_ps((__m256)where); }

static inline Words ordered(Words values, uint64_t order) {
    return (Words)_mm256_permutevar8x32_epi32((__m256i)values, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)order)));
}

static inline int pack(Words values, uint32_t bits, Word* to) {
    *(Words*)to = ordered(values, ORDERS.packed[bits]);
    return __builtin_popcount(bits);
}

static inline Words unpack(const Word* from, uint32_t bits) {
    return ordered(load_words(from), ORDERS.unpacked[bits]) & load_words(ORDERS.lanes[bits]);
}

static inline Doubles lower_half(Words values) {
    return (Doubles)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)values));
}
static inline Doubles upper_half(Words values) {
    return (Doubles)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)values, 1));
}
