// How task vectors become one: summed up, or the mean of what agrees with the elected sign.

#pragma once

#include <cstdint>
#include <vector>

namespace {

enum Divide { NOTHING, WEIGHTS, COUNT };

// `ballot` is its weight in the election, `divisor` what one of its elements that agrees adds to the divisor.
struct Voter {
    float weight, ballot, divisor;
};

struct Consensus {
    std::vector<Voter> voters;
    Divide divide;
    bool elect, frequency, zero_is_positive;
    float scale;

    // With the arguments `first` and after of a function: whether to elect, and how (see kernels/merging.py).
    template <class Arguments>
    Consensus(const Arguments& a, int first)
        : divide((Divide)a.value[first]),
          elect(a.value[first + 1] != 0),
          frequency(a.value[first + 3] != 0),
          zero_is_positive(a.value[first + 4] != 0),
          scale((float)a.real[first + 5]),
          weighted(a.value[first + 2] != 0) {}

    void add(float weight) { voters.push_back({weight, weighted ? weight : 1.0f, divide == WEIGHTS ? weight : 1.0f}); }

  private:
    bool weighted;
};

}  // namespace
