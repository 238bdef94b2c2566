// The numbers that a model's tensors may be made of, read as vectors of floats and written back, rounded to nearest.
#pragma once
#include "vectors.hpp"

typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
typedef uint16_t loose_shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

struct bfloat { uint16_t bits; };  // the upper half of a float

inline vec widened(const float *from) { return load(from); }
inline vec widened(const bfloat *from) {
    const shorts upper = *reinterpret_cast<const loose_shorts *>(from);
    return reinterpret_cast<vec>(__builtin_convertvector(upper, bits) << 16);
}

inline void narrowed(float *to, vec x) { store(to, x); }
inline void narrowed(bfloat *to, vec x) {
    const bits whole = reinterpret_cast<bits>(x);
    const bits even = (whole >> 16) & 1;
    const bits rounded = (whole + 0x7fff + even) >> 16;
    const bits kept = x == x ? rounded : (whole >> 16) | 0x40;  // a NaN stays one
    *reinterpret_cast<loose_shorts *>(to) = __builtin_convertvector(kept, shorts);
}

#if defined(__FLT16_MAX__)
constexpr bool KNOWS_HALF = true;
typedef _Float16 half;
typedef half halves __attribute__((vector_size(2 * LANES)));
typedef half loose_halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
inline vec widened(const half *from) { return __builtin_convertvector(halves(*reinterpret_cast<const loose_halves *>(from)), vec); }
inline void narrowed(half *to, vec x) { *reinterpret_cast<loose_halves *>(to) = __builtin_convertvector(x, halves); }
#else
constexpr bool KNOWS_HALF = false;
struct half { uint16_t bits; };
inline vec widened(const half *) { __builtin_unreachable(); }
inline void narrowed(half *, vec) { __builtin_unreachable(); }
#endif

// The first `count` numbers, zeros beyond.
template <class Number> inline vec widened_some(const Number *from, long count) {
    if (count >= LANES) return widened(from);
    Number room[LANES] = {};
    memcpy(room, from, count * sizeof(Number));
    return widened(room);
}
template <class Number> inline void narrowed_some(Number *to, vec x, long count) {
    if (count >= LANES) return narrowed(to, x);
    Number room[LANES];
    narrowed(room, x);
    memcpy(to, room, count * sizeof(Number));
}

// Rows [count, width] as floats with the width padded to whole vectors: the rows themselves where they are that, else copies in `room`.
template <class Number> const float *floats(const Number *rows, long count, long width, long *stride, float *room) {
    const long lanes = padded(width);
    for (long t = 0; t < count; t++)
        for (long c = 0; c < lanes; c += LANES) store(room + t * lanes + c, widened_some(rows + t * *stride + c, width - c));
    *stride = lanes;
    return room;
}
inline const float *floats(const float *rows, long count, long width, long *stride, float *room) {
    return padded(width) == width ? rows : floats<float>(rows, count, width, stride, room);
}

// Calls `work` with a null pointer to the kind of numbers that a tensor holds: 0 float32, 1 bfloat16, 2 float16.
template <class Work> inline void for_numbers(long kind, Work work) {
    if (kind == 0) work(static_cast<float *>(nullptr));
    else if (kind == 1) work(static_cast<bfloat *>(nullptr));
    else work(static_cast<half *>(nullptr));
}
