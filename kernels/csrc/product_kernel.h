// The product of low-rank factors, for vectors of LANES floats. Included once per instruction set, after vector.h, with
// the tile that fits into its registers: TILE_ROWS by TILE_COLUMNS vectors.

// A tile of the product stays in registers while the rank is gone through: every element is one sum, in the order of
// the ranks, whatever the instruction set (where it has a fused multiply and add).
// So much of a stays in a cache while it meets all of b.
constexpr int64_t BLOCK_FLOATS = 1 << 15;

// TILE_ROWS rows of b, rank by rank, with some columns of a, whose rows lie `step` apart.
template <int VECTORS>
static inline void tile(const float* b, const float* a, int64_t step, int64_t rank, float* out, int64_t columns) {
    Vector sum[TILE_ROWS][VECTORS] = {};
#pragma GCC unroll 8
    for (int64_t r = 0; r < rank; ++r, a += step, b += TILE_ROWS) {
        Vector x[VECTORS];
        for (int v = 0; v < VECTORS; ++v) x[v] = load(a + v * LANES);
        for (int row = 0; row < TILE_ROWS; ++row)
            for (int v = 0; v < VECTORS; ++v) sum[row][v] += x[v] * b[row];
    }
    for (int row = 0; row < TILE_ROWS; ++row)
        for (int v = 0; v < VECTORS; ++v) store(out + row * columns + v * LANES, sum[row][v]);
}

// The columns that are left over: as a vector whose end is zero.
static void narrow_tile(const Product& product, const float* b, const float* a, int64_t width, float* out) {
    std::vector<float> padded(product.rank * LANES);
    for (int64_t r = 0; r < product.rank; ++r)
        std::copy(a + r * product.columns, a + r * product.columns + width, padded.data() + r * LANES);
    float whole[TILE_ROWS * LANES];
    tile<1>(b, padded.data(), LANES, product.rank, whole, LANES);
    for (int row = 0; row < TILE_ROWS; ++row)
        std::copy(whole + row * LANES, whole + row * LANES + width, out + row * product.columns);
}

// TILE_ROWS rows of the product, from column `start` to `end`.
static void tiles(const Product& product, const float* b, int64_t start, int64_t end, float* out) {
    const int64_t columns = product.columns, rank = product.rank;
    const float* a = product.a;
    int64_t c = start;
    for (; c + TILE_COLUMNS * LANES <= end; c += TILE_COLUMNS * LANES)
        tile<TILE_COLUMNS>(b, a + c, columns, rank, out + c, columns);
    for (; c + LANES <= end; c += LANES) tile<1>(b, a + c, columns, rank, out + c, columns);
    if (c < end) narrow_tile(product, b, a + c, end - c, out + c);
}

static void multiply(const Product& product, float* out) {
    const int64_t wide = TILE_COLUMNS * LANES, columns = product.columns;
    const int64_t block = std::max(BLOCK_FLOATS / product.rank / wide, (int64_t)1) * wide;
    std::vector<float> b(product.rank * TILE_ROWS), spare;
    for (int64_t start = 0; start < columns; start += block) {
        const int64_t end = std::min(start + block, columns);
        for (int64_t first = 0; first < product.rows; first += TILE_ROWS) {
            const int64_t rows = std::min((int64_t)TILE_ROWS, product.rows - first);
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t r = 0; r < product.rank; ++r)
                    b[r * TILE_ROWS + row] = product.b[(first + row) * product.b_step + r] * product.scale;
            float* to = out + first * columns;
            if (rows == TILE_ROWS) {
                tiles(product, b.data(), start, end, to);
                continue;
            }
            spare.resize(TILE_ROWS * columns);
            tiles(product, b.data(), start, end, spare.data());
            for (int64_t at = 0; at < rows * columns; at += columns)
                std::copy(spare.data() + at + start, spare.data() + at + end, to + at + start);
        }
    }
}
