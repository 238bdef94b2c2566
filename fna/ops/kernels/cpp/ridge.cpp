// The ridge solve of landmark blocks, in float32 and in cache: (A'A + r |A|_1 I)^-1 A' rhs by Cholesky, a matrix a thread.
#include <cmath>
#include <omp.h>

#include "inverse.hpp"
#include "vectors.hpp"

namespace {

// to -= times * from, whole vectors from `start` on.
inline void take(float *to, const float *from, float times, long start, long stop) {
    for (long c = start / LANES * LANES; c < stop; c += LANES) store(to + c, load(to + c) - times * load(from + c));
}

inline void scale(float *row, float times, long start, long stop) {
    for (long c = start / LANES * LANES; c < stop; c += LANES) store(row + c, load(row + c) * times);
}

constexpr long BLOCK = 32;  // rows that are eliminated one by one before all others follow as one product; whole vectors

// In place: the upper factor U of a symmetric positive definite g [m, lanes] = U'U, its diagonal inverted; what is left of the
// diagonal is not used.
void factor(float *g, long m, long lanes) {
    for (long start = 0; start < m; start += BLOCK) {
        const long stop = smaller(start + BLOCK, m);
        for (long k = start; k < stop; k++) {
            float *row = g + k * lanes;
            const float inverse = 1 / std::sqrt(row[k]);
            scale(row, inverse, k, lanes);
            for (long i = k + 1; i < stop; i++) take(g + i * lanes, row, row[i], i, lanes);
            row[k] = inverse;
        }
        const float *block = g + start * lanes;
        for (long row = stop; row < m; row += BLOCK)
            product(smaller(BLOCK, m - row), lanes - row, stop - start, block + row, 1, lanes, block + row, lanes,
                    [&](long i, long j, vec sum) { add(g + (row + i) * lanes + row + j, -sum); });
    }
}

// In place: x [m, columns] becomes (U'U)^-1 x.
void substitute(const float *u, long m, long lanes, float *x, long columns) {
    for (long start = 0; start < m; start += BLOCK) {
        const long stop = smaller(start + BLOCK, m);
        for (long k = start; k < stop; k++) {
            scale(x + k * columns, u[k * lanes + k], 0, columns);
            for (long i = k + 1; i < stop; i++) take(x + i * columns, x + k * columns, u[k * lanes + i], 0, columns);
        }
        product(m - stop, columns, stop - start, u + start * lanes + stop, 1, lanes, x + start * columns, columns,
                [&](long i, long j, vec sum) { add(x + (stop + i) * columns + j, -sum); });
    }
    for (long start = (m - 1) / BLOCK * BLOCK; start >= 0; start -= BLOCK) {
        const long stop = smaller(start + BLOCK, m);
        product(stop - start, columns, m - stop, u + start * lanes + stop, lanes, 1, x + stop * columns, columns,
                [&](long i, long j, vec sum) { add(x + (start + i) * columns + j, -sum); });
        for (long k = stop - 1; k >= start; k--) {
            for (long i = k + 1; i < stop; i++) take(x + k * columns, x + i * columns, u[k * lanes + i], 0, columns);
            scale(x + k * columns, u[k * lanes + k], 0, columns);
        }
    }
}

}  // namespace

long ridge_scratch(long m, long width) { return 2 * m * padded(m) + 2 * m * padded(width); }

void ridge(const float *block, long stride, const float *rhs, long m, long width, float share, float *out, float *scratch) {
    const long lanes = padded(m), columns = padded(width);
    float *a = scratch, *gram = a + m * lanes, *values = gram + m * lanes, *x = values + m * columns;
    copy_rows(block, stride, m, m, a);
    copy_rows(rhs, width, m, width, values);
    product(m, lanes, m, a, 1, lanes, a, lanes, [&](long i, long j, vec sum) { store(gram + i * lanes + j, sum); });
    product(m, columns, m, a, 1, lanes, values, columns, [&](long i, long j, vec sum) { store(x + i * columns + j, sum); });
    const float more = share * widest_column(a, m, lanes);
    for (long i = 0; i < m; i++) gram[i * lanes + i] += more;
    factor(gram, m, lanes);
    substitute(gram, m, lanes, x, columns);
    for (long i = 0; i < m; i++) memcpy(out + i * width, x + i * columns, width * sizeof(float));
}

extern "C" long fna_ridge_scratch(long m, long width) { return ridge_scratch(m, width); }

// a [matrices, m, m], rhs and out [matrices, m, width], all contiguous; scratch for as many at once as threads
// or matrices, whichever is less.
extern "C" void fna_ridge(const float *a, const float *rhs, long matrices, long m, long width, float share, float *out,
                          float *scratch, long threads) {
    const long each = ridge_scratch(m, width);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long i = 0; i < matrices; i++)
        ridge(a + i * m * m, m, rhs + i * m * width, m, width, share, out + i * m * width,
              scratch + (matrices < threads ? i : omp_get_thread_num()) * each);
}
