// Sums of tokens over groups, in float32: what means of clusters are made of. One read of the tokens, in their own order.
#include <omp.h>

#include "vectors.hpp"

namespace {

struct View {  // of a tensor [batch, heads, rows, width]; strides in numbers, width contiguous
    const float *data;
    long batch, head, row;
    const float *at(long b, long h) const { return data + b * batch + h * head; }
};

// sums [groups, width] of the rows; a group of -1 is none, and a token of weight w counts w times.
void gather(const float *rows, long stride, long tokens, long width, const int64_t *group, const float *weight, long groups, float *sums) {
    memset(sums, 0, groups * width * sizeof(float));
    for (long t = 0; t < tokens; t++) {
        if (group[t] < 0 || group[t] >= groups) continue;
        const float *__restrict from = rows + t * stride;
        float *__restrict to = sums + group[t] * width;
        const float times = weight ? weight[t] : 1;
        for (long c = 0; c < width; c++) to[c] += times * from[c];
    }
}

}  // namespace

// x a View; group int64 [batches, tokens]; weight [batches, tokens] or null; sums [batches, heads, groups, width], contiguous.
extern "C" void fna_group_sums(const View *x, const int64_t *group, const float *weight, long batches, long heads, long tokens,
                               long width, long groups, float *sums, long threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long pair = 0; pair < batches * heads; pair++) {
        const long b = pair / heads;
        gather(x->at(b, pair % heads), x->row, tokens, width, group + b * tokens, weight ? weight + b * tokens : nullptr, groups,
               sums + pair * groups * width);
    }
}
