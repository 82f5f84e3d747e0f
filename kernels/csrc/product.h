// The product of two factors: scale * b a.

#pragma once

#include <cstdint>

namespace {

// Rows of b lie `b_step` apart.
struct Product {
    const float *a, *b;
    int64_t b_step, rank, rows, columns;
    float scale;
};

}  // namespace
