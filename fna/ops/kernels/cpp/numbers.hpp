// Tensors of a model's own numbers, read as vectors of floats and written back rounded to nearest.
#pragma once
#include "vectors.hpp"

typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
#if defined(__FLT16_MAX__)
constexpr bool KNOWS_HALF = true;
typedef _Float16 halves __attribute__((vector_size(2 * LANES)));
inline vec of_halves(shorts x) { return __builtin_convertvector(reinterpret_cast<halves>(x), vec); }
inline shorts to_halves(vec x) { return reinterpret_cast<shorts>(__builtin_convertvector(x, halves)); }
#else
constexpr bool KNOWS_HALF = false;
inline vec of_halves(shorts) { __builtin_unreachable(); }
inline shorts to_halves(vec) { __builtin_unreachable(); }
#endif

// A bfloat16 is the upper half of a float.
inline vec of_upper(shorts x) { return reinterpret_cast<vec>(__builtin_convertvector(x, bits) << 16); }
inline shorts to_upper(vec x) {
#if defined(__AVX512BF16__)
    return reinterpret_cast<shorts>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x)));
#endif
    const bits whole = reinterpret_cast<bits>(x), rounded = (whole + 0x7fff + ((whole >> 16) & 1)) >> 16;
    return __builtin_convertvector(x == x ? rounded : (whole >> 16) | 0x40, shorts);  // a NaN stays one
}

// Two vectors of bfloat16 as pairs, one number of each.
inline bits paired(shorts first, shorts second) {
    return __builtin_convertvector(first, bits) | __builtin_convertvector(second, bits) << 16;
}

#if defined(__AVX512BF16__)
// Cycles of the processor's clock that a product of a few rows takes at best, operands in the nearest cache.
template <class Number>
uint64_t cycles(long depth) {
    alignas(64) Number a[ROWS * 64] = {}, b[64 * COLUMNS * LANES] = {};
    alignas(64) float out[ROWS * COLUMNS * LANES];
    uint64_t least = ~0ull;
    for (int round = 0; round < 40; round++) {
        const uint64_t start = __rdtsc();
        product(ROWS, COLUMNS * LANES, depth, a, depth, 1, b, COLUMNS * LANES,
                [&](long row, long column, vec sum) { store(out + row * COLUMNS * LANES + column, sum); });
        asm volatile("" ::"r"(out) : "memory");
        const uint64_t took = __rdtsc() - start;
        least = took < least ? took : least;
    }
    return least;
}

// Whether a product is plainly faster in pairs than in floats. A processor may know pairs and be slow at them: AMD's Zen 4 takes
// half the time of floats, an Intel Xeon of model 207 twice (it has AMX for them, which a virtual machine may hide).
inline bool pairs_pay() {
    static const bool pay = 4 * cycles<Pair>(32) < 3 * cycles<float>(64);
    return pay;
}
#else
inline bool pairs_pay() { return false; }
#endif

struct View {  // of a tensor [batch, heads, rows, width]; strides in numbers, width contiguous
    void *data;
    long batch, head, row;
    long kind;  // 0 float32, 1 bfloat16, 2 float16

    long at(long b, long h, long t) const { return b * batch + h * head + t * row; }
    float *floats(long b, long h, long t) const { return static_cast<float *>(data) + at(b, h, t); }  // of kind 0 only

    // LANES numbers from a place on: the first `count` of them, zeros beyond.
    vec read(long place, long count) const {
        if (kind == 0) return load_some(static_cast<const float *>(data) + place, count);
        return kind == 1 ? of_upper(raw(place, count)) : of_halves(raw(place, count));
    }
    shorts raw(long place, long count) const {  // the same of 16 bits each, as they lie
        const uint16_t *from = static_cast<const uint16_t *>(data) + place;
        shorts x = {};
        if (count >= LANES) memcpy(&x, from, sizeof x);  // of a size that the compiler knows
        else memcpy(&x, from, count * 2);
        return x;
    }
    void write(long place, vec x, long count) const {
        if (kind == 0) return store_some(static_cast<float *>(data) + place, x, count);
        uint16_t *to = static_cast<uint16_t *>(data) + place;
        const shorts y = kind == 1 ? to_upper(x) : to_halves(x);
        if (count >= LANES) memcpy(to, &y, sizeof y);
        else memcpy(to, &y, count * 2);
    }

    // Whether rows are to be read as pairs of neighbouring numbers.
    bool pairs(long width) const { return kind == 1 && width % 2 == 0 && row % 2 == 0 && pairs_pay(); }
    const Pair *row_of_pairs(long b, long h, long t) const {
        return reinterpret_cast<const Pair *>(static_cast<const uint16_t *>(data) + at(b, h, t));
    }
    // Numbers of two rows as pairs, zeros beyond the width, and for the second row where there is none.
    void pair_rows(long b, long h, long t, bool both, long width, Pair *to) const {
        for (long c = 0; c < width; c += LANES)
            store(to + c, paired(raw(at(b, h, t) + c, width - c), both ? raw(at(b, h, t + 1) + c, width - c) : shorts{}));
    }

    // One row as floats, padded with zeros to whole vectors.
    void copy_row(long b, long h, long t, long width, float *to) const {
        for (long c = 0; c < width; c += LANES) store(to + c, read(at(b, h, t) + c, width - c));
    }
    // Rows as floats in whole vectors: themselves where they lie so and close together, else copies in `room`. Rows that lie far
    // apart (those of one head among others) may all want the same few places of the cache.
    const float *whole_rows(long b, long h, long first, long count, long width, long *stride, float *room) const {
        *stride = padded(width);
        if (kind == 0 && row == *stride) return floats(b, h, first);
        for (long t = 0; t < count; t++) copy_row(b, h, first + t, width, room + t * *stride);
        return room;
    }
};

// Asks for rows of a tensor that will be wanted soon, a few at a time: they lie too far apart for the processor to guess, and all at
// once they would wait for each other. `kept`: vectors that the products beside it keep meanwhile.
class Ahead {
    const char *row;
    long step, size, left, rate, place = 0;

public:
    Ahead(const View &x, long b, long h, long first, long stop, long width, long kept) {
        const long number = x.kind == 0 ? 4 : 2;
        row = static_cast<const char *>(x.data) + x.at(b, h, first) * number;
        step = x.row * number, size = width * number;
        left = first < stop ? (stop - first) * ((size + 63) / 64) : 0;
        rate = (left + kept - 1) / kept;
    }
    void operator()(long vectors) {
        long count = smaller(vectors * rate, left);
        for (left -= count; count > 0; count--) {
            __builtin_prefetch(row + place, 0, 2);
            place += 64;
            if (place >= size) place = 0, row += step;
        }
    }
};
