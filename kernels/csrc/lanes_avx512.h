// The same as lanes.h, in instructions that AVX-512 has for it.

static inline int pack(Words values, Words where, uint32_t* to) {
    const __mmask16 mask = _mm512_movepi32_mask((__m512i)where);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(mask, (__m512i)values));
    return __builtin_popcount(mask);
}

struct Norms {
    static constexpr int PARTS = 16;
    Doubles all[PARTS / HALF] = {}, kept[PARTS / HALF] = {};

    void add(int, Words magnitudes, Words where) {
        const __mmask16 mask = _mm512_movepi32_mask((__m512i)where);
        const __m512 values = (__m512)magnitudes;
        const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(values));
        const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(values, 1));
        all[0] += (Doubles)low;
        all[1] += (Doubles)high;
        kept[0] = (Doubles)_mm512_mask_add_pd((__m512d)kept[0], (__mmask8)mask, (__m512d)kept[0], low);
        kept[1] = (Doubles)_mm512_mask_add_pd((__m512d)kept[1], (__mmask8)(mask >> 8), (__m512d)kept[1], high);
    }
};
