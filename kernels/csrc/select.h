// The bits of magnitudes, which are in the order of the numbers.

#pragma once

#include <cstdint>

namespace {

struct Selected {
    uint32_t bits;         // of the magnitude
    int64_t above, equal;  // how many are larger, how many are this
};

struct Bracket {
    uint32_t low, high;
};
constexpr Bracket EVERYTHING{0, 0x7fffffff}, NOTHING_LEFT{1, 0};

// Of fewer no sample is taken.
constexpr int64_t LITTLE = 4096;

}  // namespace
