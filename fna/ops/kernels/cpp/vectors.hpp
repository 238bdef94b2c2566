// Vectors of floats as GCC and Clang know them on any processor, and the one matrix product that everything here is made of.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr long LANES = 16, ROWS = 8;
#elif defined(__AVX__)
constexpr long LANES = 8, ROWS = 4;
#else
constexpr long LANES = 4, ROWS = 4;
#endif
constexpr long COLUMNS = 2;  // vectors in a tile; ROWS * COLUMNS sums and COLUMNS operands fit the registers

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

constexpr float NEVER = -std::numeric_limits<float>::infinity();

inline long smaller(long a, long b) { return a < b ? a : b; }
inline long padded(long count) { return (count + LANES - 1) / LANES * LANES; }
inline vec load(const float *from) { return *reinterpret_cast<const loose *>(from); }
inline void store(float *to, vec x) { *reinterpret_cast<loose *>(to) = x; }
inline void add(float *to, vec x) { store(to, load(to) + x); }
inline void store_some(float *to, vec x, long count) {  // the first `count` numbers, where that is fewer than there are
    if (count >= LANES) return store(to, x);
    memcpy(to, &x, count * sizeof(float));
}
inline vec load_some(const float *from, long count) {  // zeros beyond the first `count` numbers
    if (count >= LANES) return load(from);
    vec x = {};
    if (count > 0) memcpy(&x, from, count * sizeof(float));
    return x;
}
inline vec fill(float x) { return x - vec{}; }
inline vec larger(vec a, vec b) { return a > b ? a : b; }

// One number out of a vector's, by halves: a chain of as many steps as there are numbers would be waited for.
template <long COUNT, class Combine>
inline float folded(const float *x, Combine combine) {
    if constexpr (COUNT == 1) return x[0];
    else {
        typedef float half __attribute__((vector_size(2 * COUNT)));
        half low, high;
        memcpy(&low, x, sizeof low), memcpy(&high, x + COUNT / 2, sizeof high);
        const half both = combine(low, high);
        return folded<COUNT / 2>(reinterpret_cast<const float *>(&both), combine);
    }
}
inline float highest(vec x) {
    return folded<LANES>(reinterpret_cast<const float *>(&x), [](auto a, auto b) { return a > b ? a : b; });
}
inline float total(vec x) {
    return folded<LANES>(reinterpret_cast<const float *>(&x), [](auto a, auto b) { return a + b; });
}

// What products are made of: floats, and pairs of bfloat16 whose two products are added to a float as they are.
struct Pair {
    uint16_t first, second;
};
inline bits load(const Pair *from) {
    bits x;
    memcpy(&x, from, sizeof x);
    return x;
}
inline void store(Pair *to, bits x) { memcpy(to, &x, sizeof x); }
inline bits fill(Pair x) {
    uint32_t whole;
    memcpy(&whole, &x, sizeof whole);
    return whole - bits{};
}
inline vec add_product(vec sum, vec a, vec b) { return sum + a * b; }
#if defined(__AVX512BF16__)
inline vec add_product(vec sum, bits a, bits b) {
    return reinterpret_cast<vec>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
}
#else
inline vec add_product(vec, bits, bits) { __builtin_unreachable(); }
#endif

// e^x for x <= 0 to about one unit in the last place, 0 below -87, NaN for NaN. x = n ln 2 + r with |r| <= ln 2 / 2; e^r is a
// polynomial (the best of its degree, off by 3e-9), and 2^n is added to the exponent.
inline vec exponential(vec x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
    const vec raised = x * 1.44269504f + magic, n = raised - magic;
    const vec r = x - n * 0.693147181f;  // off by n 2e-9: weights that small have no say
    vec y = 0.00138145f * r + 0.00836875f;
    y = y * r + 0.04166839f;
    y = y * r + 0.16666520f;
    y = y * r + 0.49999993f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
#if defined(__AVX512F__)
    const __m512 all = reinterpret_cast<__m512>(x), power = reinterpret_cast<__m512>(n);
    const __mmask16 counts = _mm512_cmp_ps_mask(all, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);  // and NaN, which stays one
    return reinterpret_cast<vec>(_mm512_maskz_scalef_ps(counts, reinterpret_cast<__m512>(y), power));
#else
    const bits power = reinterpret_cast<bits>(raised) << 23;
    y = reinterpret_cast<vec>(reinterpret_cast<bits>(y) + power);
    y = x == x ? y : x;  // a NaN may have become a number
    return x < -87.0f ? vec{} : y;
#endif
}

struct Nothing {
    void operator()(long) const {}
};

// R rows times C vectors of a product; `keep(row, column, sum)` takes what comes out. That must be a few instructions without a
// branch: else the compiler keeps the sums in memory. What is more to do is for `after(vectors)`.
template <long R, long C, class Number, class Keep>
inline void tile(long depth, const Number *a, long a_row, long a_step, const Number *b, long b_step, Keep keep) {
    vec sum[R][C] = {};
    for (long step = 0; step < depth; step++) {
        decltype(load(b)) right[C];
#pragma GCC unroll 8
        for (long j = 0; j < C; j++) right[j] = load(b + step * b_step + j * LANES);
#pragma GCC unroll 8
        for (long r = 0; r < R; r++) {
            const auto left = fill(a[r * a_row + step * a_step]);
#pragma GCC unroll 8
            for (long j = 0; j < C; j++) sum[r][j] = add_product(sum[r][j], left, right[j]);
        }
    }
#pragma GCC unroll 8
    for (long r = 0; r < R; r++)
#pragma GCC unroll 8
        for (long j = 0; j < C; j++) keep(r, j * LANES, sum[r][j]);
}

// `tile` for a number of rows below ROWS that is only known now.
template <long R, long C, class Number, class Keep>
inline void remainder(long rows, long depth, const Number *a, long a_row, long a_step, const Number *b, long b_step, Keep keep) {
    if constexpr (R > 0) {
        if (rows == R) return tile<R, C>(depth, a, a_row, a_step, b, b_step, keep);
        remainder<R - 1, C>(rows, depth, a, a_row, a_step, b, b_step, keep);
    }
}

// A panel of C vectors of columns, all rows.
template <long C, class Number, class Keep, class After>
inline void panel(long rows, long depth, const Number *a, long a_row, long a_step, const Number *b, long b_step, Keep keep, After after) {
    long row = 0;
    for (; row + ROWS <= rows; row += ROWS) {
        tile<ROWS, C>(depth, a + row * a_row, a_row, a_step, b, b_step,
                      [&](long r, long column, vec sum) { keep(row + r, column, sum); });
        after(ROWS * C);
    }
    remainder<ROWS - 1, C>(rows - row, depth, a + row * a_row, a_row, a_step, b, b_step,
                           [&](long r, long column, vec sum) { keep(row + r, column, sum); });
    after((rows - row) * C);
}

// keep(row, column, LANES sums of a[row, step] b[step, column...]) for all rows and columns, and after(vectors kept) now and then.
// a is read number by number with any strides (a_step = 1, or a_row = 1 for a transposed one); rows of b are contiguous and padded
// to whole vectors.
template <class Number, class Keep, class After = Nothing>
inline void product(long rows, long columns, long depth, const Number *a, long a_row, long a_step, const Number *b, long b_step,
                    Keep keep, After after = {}) {
    long column = 0;
    auto shifted = [&](long row, long j, vec sum) { keep(row, column + j, sum); };
    for (; column + COLUMNS * LANES <= columns; column += COLUMNS * LANES)
        panel<COLUMNS>(rows, depth, a, a_row, a_step, b + column, b_step, shifted, after);
    for (; column < columns; column += LANES) panel<1>(rows, depth, a, a_row, a_step, b + column, b_step, shifted, after);
}

// The largest column sum of a [m, m] in rows of `lanes`, zeros beyond.
inline float widest_column(const float *a, long m, long lanes) {
    vec widest = {};
    for (long i = 0; i < lanes; i += LANES) {
        vec sum = {};
        for (long row = 0; row < m; row++) sum += load(a + row * lanes + i);
        widest = larger(sum, widest);
    }
    return highest(widest);
}

// Rows of `columns` numbers, `stride` apart, to rows of whole vectors, zeros beyond.
inline void copy_rows(const float *from, long stride, long rows, long columns, float *to) {
    const long lanes = padded(columns);
    for (long i = 0; i < rows; i++) {
        memcpy(to + i * lanes, from + i * stride, columns * sizeof(float));
        memset(to + i * lanes + columns, 0, (lanes - columns) * sizeof(float));
    }
}
