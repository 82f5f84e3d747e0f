// Vectors of LANES floats. Included once per instruction set.

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(LANES * 4), aligned(8), may_alias));
typedef float Singles __attribute__((vector_size(LANES * 2), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// A number of any kind, by its bits.
typedef uint32_t Word __attribute__((may_alias));

static inline Vector load(const float* from) { return *(const Vector*)from; }

static inline Vector load(const bfloat16* from) {
    return (Vector)(__builtin_convertvector(*(const Halves*)from, Words) << 16);
}

static inline void store(float* to, Vector value) { *(Vector*)to = value; }

static inline Words load_words(const void* from) { return *(const Words*)from; }

// So many elements are worked on together with every instruction set: sums are in the same order then.
constexpr int GROUP = 16;

// Half as many doubles as floats fill a register.
constexpr int HALF = LANES / 2;

static inline Doubles load_doubles(const double* from) { return *(const Doubles*)from; }

static inline Doubles widened(const float* from) { return __builtin_convertvector(*(const Singles*)from, Doubles); }
