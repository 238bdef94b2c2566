// The truncated inverse of landmark blocks, in float32 and in cache: the formula of fna/ops/inverse.py, a matrix a thread.
#include <omp.h>

#include "inverse.hpp"
#include "vectors.hpp"

namespace {

// out = keep * like + weight * a b; a [rows, depth] in rows of `stride`, all others in rows of `columns`, whole vectors.
void blend(long rows, long columns, long depth, const float *a, long stride, const float *b, float keep, const float *like,
           float weight, float *out) {
    product(rows, columns, depth, a, stride, 1, b, columns, [&](long row, long column, vec sum) {
        const long place = row * columns + column;
        store(out + place, keep * load(like + place) + weight * sum);
    });
}

// |I - y|^2 over [m, m] in rows of `lanes`.
float residual(const float *y, long m, long lanes) {
    float sum = 0;
    for (long i = 0; i < m; i++)
        for (long j = 0; j < m; j++) {
            const float gap = y[i * lanes + j] - (i == j);
            sum += gap * gap;
        }
    return sum;
}

constexpr long SURE = 6;  // steps that are always taken; beyond them a matrix ends where its residual no longer falls

}  // namespace

long newton_scratch(long m, long width) { return 5 * m * padded(m) + 3 * m * padded(width); }

// Z rhs after `steps` of Z <- Z (13 - AZ (15 - AZ (7 - AZ))) / 4 from Z = A^T / max column sum. The last step meets rhs inside.
void newton(const float *block, long stride, const float *rhs, long m, long width, long steps, float *out, float *scratch) {
    const long lanes = padded(m), columns = padded(width), square = m * lanes, wide = m * columns;
    float *a = scratch, *z = a + square, *y = z + square, *inner = y + square, *outer = inner + square;
    float *values = outer + square, *low = values + wide, *high = low + wide;
    copy_rows(block, stride, m, m, a);
    copy_rows(rhs, width, m, width, values);
    const float scale = 1 / widest_column(a, m, lanes);
    memset(z, 0, square * sizeof(float));
    for (long i = 0; i < m; i++)
        for (long j = 0; j < m; j++) z[j * lanes + i] = a[i * lanes + j] * scale;
    float left = std::numeric_limits<float>::infinity();
    for (long step = 1; step <= steps; step++) {
        blend(m, lanes, m, a, lanes, z, 0, z, 1, y);
        if (step > SURE) {
            const float before = left;
            left = residual(y, m, lanes);
            if (!(left < before) && step > SURE + 1) {  // `inner` holds the iterate before
                blend(m, columns, m, inner, lanes, values, 0, values, 1, high);
                break;
            }
        }
        if (step == steps) {
            blend(m, columns, m, y, lanes, values, 7, values, -1, low);
            blend(m, columns, m, y, lanes, low, 15, values, -1, high);
            blend(m, columns, m, y, lanes, high, 3.25f, values, -0.25f, low);
            blend(m, columns, m, z, lanes, low, 0, low, 1, high);
            break;
        }
        blend(m, lanes, m, y, lanes, y, 7, y, -1, inner);
        blend(m, lanes, m, y, lanes, inner, 15, y, -1, outer);
        blend(m, lanes, m, z, lanes, outer, 3.25f, z, -0.25f, inner);
        float *spent = z;
        z = inner, inner = spent;
    }
    for (long i = 0; i < m; i++) memcpy(out + i * width, high + i * columns, width * sizeof(float));
}

extern "C" long fna_newton_scratch(long m, long width) { return newton_scratch(m, width); }

// a [matrices, m, m], rhs and out [matrices, m, width], all contiguous; scratch for as many at once as threads
// or matrices, whichever is less.
extern "C" void fna_newton(const float *a, const float *rhs, long matrices, long m, long width, long steps, float *out,
                           float *scratch, long threads) {
    const long each = newton_scratch(m, width);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long i = 0; i < matrices; i++)
        newton(a + i * m * m, m, rhs + i * m * width, m, width, steps, out + i * m * width,
              scratch + (matrices < threads ? i : omp_get_thread_num()) * each);
}
