// The same as lanes.h, in instructions that AVX-512 has for it.

static inline uint32_t bits_of(Words where) { return _mm512_movepi32_mask((__m512i)where); }

static inline int pack(Words values, uint32_t bits, Word* to) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32((__mmask16)bits, (__m512i)values));
    return __builtin_popcount(bits);
}

static inline Words unpack(const Word* from, uint32_t bits) {
    return (Words)_mm512_maskz_expand_epi32((__mmask16)bits, _mm512_loadu_si512(from));
}

static inline Doubles lower_half(Words values) {
    return (Doubles)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)values));
}
static inline Doubles upper_half(Words values) {
    return (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)values, 1));
}
