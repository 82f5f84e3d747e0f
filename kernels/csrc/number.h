// The numbers that kernels read and write: float32 and bf16; they compute in float32.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

struct bfloat16 {
    uint16_t bits;
};

inline float number_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t bits_of_number(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float to_float(float value) { return value; }

inline float to_float(bfloat16 value) {
    return number_of((uint32_t)value.bits << 16);
}

template <class Number>
inline Number from_float(float value);

template <>
inline float from_float<float>(float value) { return value; }

// Round to nearest, ties to even; a NaN stays one.
template <>
inline bfloat16 from_float<bfloat16>(float value) {
    const uint32_t bits = bits_of_number(value);
    if (value != value) return {(uint16_t)((bits >> 16) | 0x40)};
    return {(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

}  // namespace
