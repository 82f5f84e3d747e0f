// Vectors of LANES floats. Included once per instruction set.

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline Vector load(const float* from) { return *(const Vector*)from; }

static inline Vector load(const bfloat16* from) {
    return (Vector)(__builtin_convertvector(*(const Halves*)from, Words) << 16);
}

static inline void store(float* to, Vector value) { *(Vector*)to = value; }
