// Arithmetic of low-rank factors, for vectors of LANES floats. Included once per instruction set, after
// product_kernel.h.

// How many elements have opposite signs in two terms, and how many are not zero in two, in every so many-th row.
static void disagree(const std::vector<Term>& terms, int64_t every, int64_t rows, int64_t columns, int64_t* found) {
    const int64_t size = TILE_ROWS * columns;
    std::vector<float> parts(terms.size() * size);
    const Vector zero{};
    int64_t opposite = 0, several = 0;
    for (int64_t first = 0; first < rows; first += TILE_ROWS) {
        const int64_t some = std::min((int64_t)TILE_ROWS, rows - first), n = some * columns;
        float* part = parts.data();
        for (const Term& term : terms) {
            const float* b = term.b + first * every * term.rank;
            multiply({term.a, b, every * term.rank, term.rank, some, columns, (float)term.scale}, part);
            part += size;
        }
        int64_t i = 0;
        Words opposed{}, changed{};
        for (; i + LANES <= n; i += LANES) {
            Words positive{}, negative{};
            for (size_t t = 0; t < terms.size(); ++t) {
                const Vector value = load(parts.data() + t * size + i);
                positive -= (Words)(value > zero);
                negative -= (Words)(value < zero);
            }
            opposed -= (Words)(positive > 0) & (Words)(negative > 0);
            changed -= (Words)(positive + negative > 1);
        }
        for (int lane = 0; lane < LANES; ++lane) {
            opposite += opposed[lane];
            several += changed[lane];
        }
        for (; i < n; ++i) {
            int64_t positive = 0, negative = 0;
            for (size_t t = 0; t < terms.size(); ++t) {
                positive += parts[t * size + i] > 0;
                negative += parts[t * size + i] < 0;
            }
            opposite += positive && negative;
            several += positive + negative > 1;
        }
    }
    found[0] = opposite;
    found[1] = several;
}

static void widen(const float* from, int64_t count, double* to) {
    int64_t i = 0;
    for (; i + HALF <= count; i += HALF) *(Doubles*)(to + i) = widened(from + i);
    for (; i < count; ++i) to[i] = from[i];
}

static int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

static int64_t total_rank(const std::vector<Term>& terms) {
    int64_t total = 0;
    for (const Term& term : terms) total += term.rank;
    return total;
}

// Terms side by side, the scales in b.
static void join(const std::vector<Term>& terms, int64_t columns, int64_t rows, float* a, float* b) {
    const int64_t n = total_rank(terms);
    for (const Term& term : terms) {
        a = std::copy(term.a, term.a + term.rank * columns, a);
        const float scale = (float)term.scale;
        for (int64_t o = 0; o < rows; ++o)
            for (int64_t r = 0; r < term.rank; ++r) b[o * n + r] = term.b[o * term.rank + r] * scale;
        b += term.rank;
    }
}

// So many elements of each rank as stay in a cache, in double.
static int64_t chunk_of(int64_t ranks) { return std::clamp((int64_t)8192 / ranks / 16 * 16, (int64_t)128, (int64_t)512); }

// The lower half of a padded square becomes a whole one.
static void mirrored(const std::vector<double>& from, int64_t step, int64_t n, double* out) {
    for (int64_t q = 0; q < n; ++q)
        for (int64_t r = 0; r <= q; ++r) out[q * n + r] = out[r * n + q] = from[q * step + r];
}

// a aT: inner products of rows, a chunk of their length after the other, of 4 rows with 4.
static void gram_of_rows(const std::vector<Term>& terms, int64_t length, double* out) {
    constexpr int64_t SIDE = LANES == 16 ? 4 : 2;
    const int64_t n = total_rank(terms), size = padded(n, SIDE), chunk = chunk_of(size);
    std::vector<double> rows(size * chunk), gram(size * size);
    for (int64_t start = 0; start < length; start += chunk) {
        const int64_t count = std::min(chunk, length - start), vectors = padded(count, HALF);
        double* to = rows.data();
        for (const Term& term : terms)
            for (int64_t r = 0; r < term.rank; ++r, to += chunk) {
                widen(term.a + r * length + start, count, to);
                std::fill(to + count, to + vectors, 0.0);
            }
        for (int64_t q = 0; q < size; q += SIDE)
            for (int64_t r = 0; r <= q; r += SIDE) {
                Doubles sum[SIDE][SIDE] = {};
                const double *left = rows.data() + q * chunk, *right = rows.data() + r * chunk;
                for (int64_t i = 0; i < vectors; i += HALF) {
                    Doubles x[SIDE];
                    for (int64_t j = 0; j < SIDE; ++j) x[j] = load_doubles(right + j * chunk + i);
                    for (int64_t k = 0; k < SIDE; ++k) {
                        const Doubles y = load_doubles(left + k * chunk + i);
                        for (int64_t j = 0; j < SIDE; ++j) sum[k][j] += y * x[j];
                    }
                }
                for (int64_t k = 0; k < SIDE; ++k)
                    for (int64_t j = 0; j < SIDE; ++j)
                        for (int lane = 0; lane < HALF; ++lane) gram[(q + k) * size + r + j] += sum[k][j][lane];
            }
    }
    mirrored(gram, size, n, out);
}

// bT b: rows times themselves, a chunk of rows after the other, in tiles of 8 by 2 vectors.
static void gram_of_columns(const std::vector<Term>& terms, int64_t length, double* out) {
    constexpr int64_t TALL = LANES == 16 ? 8 : 4, WIDE = 2 * HALF;
    const int64_t n = total_rank(terms), size = padded(n, std::max(TALL, WIDE)), chunk = chunk_of(size);
    std::vector<double> rows(size * chunk), gram(size * size);
    for (int64_t start = 0; start < length; start += chunk) {
        const int64_t count = std::min(chunk, length - start);
        int64_t place = 0;
        for (const Term& term : terms) {
            for (int64_t o = 0; o < count; ++o)
                widen(term.b + (start + o) * term.rank, term.rank, rows.data() + o * size + place);
            place += term.rank;
        }
        for (int64_t q = 0; q < size; q += TALL)
            for (int64_t r = 0; r < q + TALL; r += WIDE) {
                Doubles sum[TALL][2] = {};
                const double* row = rows.data();
                for (int64_t o = 0; o < count; ++o, row += size) {
                    const Doubles x = load_doubles(row + r), y = load_doubles(row + r + HALF);
                    for (int64_t k = 0; k < TALL; ++k) {
                        sum[k][0] += x * row[q + k];
                        sum[k][1] += y * row[q + k];
                    }
                }
                for (int64_t k = 0; k < TALL; ++k)
                    for (int64_t v = 0; v < 2; ++v) {
                        double* to = gram.data() + (q + k) * size + r + v * HALF;
                        *(Doubles*)to += sum[k][v];
                    }
            }
    }
    mirrored(gram, size, n, out);
}

static const Kernels KERNELS = {multiply, disagree, join, gram_of_rows, gram_of_columns};
