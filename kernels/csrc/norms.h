// Sums in double, in an order that is the same for every number of lanes. Included once per instruction set, after
// vector.h and lanes.h.

struct Total {
    Doubles parts[GROUP / HALF] = {};

    // `place` is that of the first in its group.
    template <class Function>
    void add(int place, Words values, Function function) {
        parts[place / HALF] += function(lower_half(values));
        parts[place / HALF + 1] += function(upper_half(values));
    }

    double sum() const {
        double sum = 0;
        for (int part = 0; part < GROUP; ++part) sum += parts[part / HALF][part % HALF];
        return sum;
    }
};

static inline Doubles itself(Doubles value) { return value; }
static inline Doubles square(Doubles value) { return value * value; }
static inline Words magnitudes(Words values) { return values & 0x7fffffff; }
