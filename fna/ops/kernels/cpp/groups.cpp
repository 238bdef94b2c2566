// Clusters of tokens, in sums of float32: sums over groups, what their means are made of, in one read of the tokens in their own order; and
// the nearest centre of each token, with no matrix of distances in between.
#include <omp.h>

#include "numbers.hpp"

namespace {

// sums [groups, width] of the rows of one head; a group of -1 is none, and a token of weight w counts w times.
void gather(const View &x, long b, long h, long tokens, long width, const int64_t *group, const float *weight, long groups, float *sums) {
    memset(sums, 0, groups * width * sizeof(float));
    for (long t = 0; t < tokens; t++) {
        if (group[t] < 0 || group[t] >= groups) continue;
        const long from = x.at(b, h, t);
        float *to = sums + group[t] * width;
        const float times = weight ? weight[t] : 1;
        for (long c = 0; c < width; c += LANES)
            store_some(to + c, load_some(to + c, width - c) + times * x.read(from + c, width - c), width - c);
    }
}

// means [tokens, width] over the heads of `tokens` rows from `first` on.
void head_mean(const View &x, long b, long heads, long first, long tokens, long width, float *means) {
    for (long t = 0; t < tokens; t++)
        for (long c = 0; c < width; c += LANES) {
            vec sum = {};
            for (long h = 0; h < heads; h++) sum += x.read(x.at(b, h, first + t) + c, width - c);
            store_some(means + t * width + c, sum / fill(float(heads)), width - c);
        }
}

constexpr long BLOCK = 64;  // tokens that are taken at once

// The open centre whose size - 2 x . centre is least, the first among equals, of `tokens` <= BLOCK rows; -1 where none is.
// centres [width, lanes], turned; size [lanes], infinite for those that are closed.
void nearest(const float *rows, long stride, long tokens, long width, const float *centres, const float *size, long lanes, int64_t *group) {
    vec least[BLOCK];
    ivec where[BLOCK];
    ivec lane;
    for (long i = 0; i < LANES; i++) lane[i] = int32_t(i);
    for (long t = 0; t < tokens; t++) least[t] = fill(-NEVER), where[t] = lane - lane - 1;
    product(tokens, lanes, width, rows, stride, 1, centres, lanes, [&](long t, long column, vec sum) {
        const vec distance = load(size + column) - 2 * sum;
        const auto closer = distance < least[t];
        least[t] = closer ? distance : least[t];
        where[t] = closer ? lane + int32_t(column) : where[t];
    });
    for (long t = 0; t < tokens; t++) {
        long best = 0;
        for (long i = 1; i < LANES; i++) {
            const bool less = least[t][i] < least[t][best], equal = least[t][i] == least[t][best];
            if (where[t][i] >= 0 && (where[t][best] < 0 || less || (equal && where[t][i] < where[t][best]))) best = i;
        }
        group[t] = where[t][best];
    }
}

}  // namespace

// group int64 [batches, tokens]; weight [batches, tokens] or null; sums [batches, heads, groups, width], contiguous.
extern "C" void fna_group_sums(const View *x, const int64_t *group, const float *weight, long batches, long heads, long tokens,
                               long width, long groups, float *sums, long threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long pair = 0; pair < batches * heads; pair++) {
        const long b = pair / heads;
        gather(*x, b, pair % heads, tokens, width, group + b * tokens, weight ? weight + b * tokens : nullptr, groups,
               sums + pair * groups * width);
    }
}

// means [batches, tokens, width], contiguous.
extern "C" void fna_head_mean(const View *x, long batches, long heads, long tokens, long width, float *means, long threads) {
    const long blocks = (tokens + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long task = 0; task < batches * blocks; task++) {
        const long b = task / blocks, first = task % blocks * BLOCK;
        head_mean(*x, b, heads, first, smaller(BLOCK, tokens - first), width, means + (b * tokens + first) * width);
    }
}

// x [batches, tokens, width], contiguous; centres [batches, width, lanes] and size [batches, lanes], lanes a whole number of vectors
// (fna_lanes), padded with infinite sizes; group int64 [batches, tokens].
extern "C" void fna_nearest(const float *x, const float *centres, const float *size, long batches, long tokens, long width, long lanes,
                            int64_t *group, long threads) {
    const long blocks = (tokens + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long task = 0; task < batches * blocks; task++) {
        const long b = task / blocks, first = task % blocks * BLOCK;
        nearest(x + (b * tokens + first) * width, width, smaller(BLOCK, tokens - first), width, centres + b * width * lanes,
                size + b * lanes, lanes, group + b * tokens + first);
    }
}

extern "C" long fna_lanes(long count) { return padded(count); }
extern "C" long fna_knows_half() { return KNOWS_HALF; }
extern "C" long fna_pairs_pay() { return pairs_pay(); }
