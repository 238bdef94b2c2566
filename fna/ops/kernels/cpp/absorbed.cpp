// Nyström attention with the linear layers round it absorbed into its landmarks (fna/ops/absorbed.py): all but the four products of
// all tokens, [tokens, depth] by [depth, heads marks] or the like, which stay with torch, between the calls here.
//
// Landmarks of a head are as many as fill whole vectors, and so is the model's width: rows lie as they are wanted.
#include <omp.h>

#include "attend.hpp"
#include "inverse.hpp"

namespace {

struct Absorbed {
    View x;                            // [batches, 1, tokens, depth]
    const float *inner, *inner_bias;   // q, k and v one after the other: [3 heads width, depth], [3 heads width] or null
    const float *outer;                // [depth, heads width]
    const int64_t *index;              // [batches, marks]
    float *maps;                       // [2, batches, heads, marks, depth]: what gives tokens' logits as keys, and as queries
    float *shifts;                     // [batches, heads, marks]: what is added to the latter
    float *blocks;                     // [batches, heads, marks, marks]
    float *scores;                     // [batches, tokens, heads, marks]: x times a half of the maps, then weights
    float *mass;                       // [batches, heads, marks]: what those as keys sum up to over the tokens
    const float *seen;                 // [batches, depth, heads, marks]: tokens by these
    float *values;                     // [batches, depth, heads, marks]: what the landmarks stand for
    long batches, heads, tokens, marks, depth, width;
    float scale;
    long steps;  // of Newton's; 0: the ridge
    float ridge;

    const float *weights(long which, long h) const { return inner + (which * heads + h) * width * depth; }
    const float *bias(long which, long h) const { return inner_bias ? inner_bias + (which * heads + h) * width : nullptr; }
    float *map(long b, long which, long h) const { return maps + ((which * batches + b) * heads + h) * marks * depth; }
    long turned() const { return batches * depth * marks; }
    long row() const { return heads * marks; }
    float *scores_of(long b, long t) const { return scores + (b * tokens + t) * row(); }
};

constexpr long TOKENS = 64;  // tokens, or numbers of a token, that one thread takes at a time

long parts(const Absorbed &a) { return (a.tokens + TOKENS - 1) / TOKENS; }

// The landmark tokens of an image as a matrix [depth, marks], for some rows of it.
void turn(const Absorbed &a, long b, long start, long stop, float *to) {
    for (long i = 0; i < a.marks; i++) {
        const float *token = a.x.floats(b, 0, a.index[b * a.marks + i]);
        for (long c = start; c < stop; c++) to[c * a.marks + i] = token[c];
    }
}

// One head's landmarks through one of the inner layers: [width, marks].
void project(const Absorbed &a, long which, long h, const float *turned, float *to) {
    const float *bias = a.bias(which, h);
    product(a.width, a.marks, a.depth, a.weights(which, h), a.depth, 1, turned, a.marks,
            [&](long row, long column, vec sum) { store(to + row * a.marks + column, sum); });
    for (long row = 0; bias && row < a.width; row++)
        for (long i = 0; i < a.marks; i += LANES) add(to + row * a.marks + i, fill(bias[row]));
}

// Landmarks [width, marks] back through an inner layer, scaled: [marks, depth], whose products with tokens are logits.
void absorb(const Absorbed &a, const float *marks, const float *weights, float *map) {
    product(a.marks, a.depth, a.width, marks, 1, a.marks, weights, a.depth,
            [&](long row, long column, vec sum) { store(map + row * a.depth + column, sum * a.scale); });
}

void landmarks_of(const Absorbed &a, long b, long h, const float *turned, float *own) {
    float *queries = own, *keys = queries + a.width * a.marks, *block = a.blocks + (b * a.heads + h) * a.marks * a.marks;
    project(a, 0, h, turned, queries), project(a, 1, h, turned, keys);
    absorb(a, queries, a.weights(1, h), a.map(b, 0, h)), absorb(a, keys, a.weights(0, h), a.map(b, 1, h));
    const float *bias = a.bias(0, h);
    for (long i = 0; i < a.marks; i += LANES) {
        vec sum = {};
        for (long c = 0; bias && c < a.width; c++) sum += bias[c] * load(keys + c * a.marks + i);
        store(a.shifts + (b * a.heads + h) * a.marks + i, sum * a.scale);
    }
    product(a.marks, a.marks, a.width, queries, 1, a.marks, keys, a.marks,
            [&](long row, long column, vec sum) { store(block + row * a.marks + column, sum * a.scale); });
    Problem among = {};
    among.keys = a.marks;
    for (long start = 0; start < a.marks; start += QUERIES)
        softmax(among, 0, 0, start, smaller(a.marks - start, QUERIES), a.marks, block + start * a.marks);
}

// Logits of some tokens as queries to weights: a softmax over the landmarks of each head.
void weigh_queries(const Absorbed &a, long b, long start, long stop) {
    Problem over = {};
    over.keys = a.marks;
    over.pairs = {a.shifts, a.row(), 0, a.marks, 0};  // a head's is a row's
    for (long t = start; t < stop; t++)
        for (long h = 0; h < a.heads; h += QUERIES)
            softmax(over, b, 0, h, smaller(a.heads - h, QUERIES), a.marks, a.scores_of(b, t) + h * a.marks);
}

// The highest logit of some tokens as keys, of each landmark. Row by row, as they lie: a few columns of many rows, some kilobytes
// apart, would want the same few places of the cache.
void find_highest(const Absorbed &a, long b, long start, long stop, float *high) {
    for (long i = 0; i < a.row(); i += LANES) store(high + i, load(a.scores_of(b, start) + i));
    for (long t = start + 1; t < stop; t++)
        for (long i = 0; i < a.row(); i += LANES) store(high + i, larger(load(a.scores_of(b, t) + i), load(high + i)));
}

// Logits of some tokens as keys to weights that are yet to be divided by their sum over all tokens, and that of these.
void weigh_keys(const Absorbed &a, long b, long start, long stop, const float *high, float *sums) {
    for (long i = 0; i < a.row(); i += LANES) store(sums + i, vec{});
    for (long t = start; t < stop; t++)
        for (long i = 0; i < a.row(); i += LANES) {
            const vec weight = exponential(load(a.scores_of(b, t) + i) - load(high + i));
            store(a.scores_of(b, t) + i, weight), add(sums + i, weight);
        }
}

// One row of many into the first, number by number.
template <class Combine>
void gather_rows(float *rows, long count, long width, Combine combine) {
    for (long part = 1; part < count; part++)
        for (long i = 0; i < width; i += LANES) store(rows + i, combine(load(rows + i), load(rows + part * width + i)));
}

// What one head's landmarks saw through v's layer, the inverse, and the outer layer: [depth, marks] of rows [heads marks].
void values_of(const Absorbed &a, long b, long h, float *own) {
    const long row = a.heads * a.marks, place = b * a.depth * row + h * a.marks, pair = b * a.heads + h;
    const long small = a.width * a.marks;
    float *turned = own, *summary = turned + small, *values = summary + small, *rest = values + small;
    const float *bias = a.bias(2, h), *mass = a.mass + pair * a.marks;
    product(a.width, a.marks, a.depth, a.weights(2, h), a.depth, 1, a.seen + place, row,
            [&](long c, long column, vec sum) { store(turned + c * a.marks + column, sum); });
    for (long c = 0; c < a.width; c++)
        for (long i = 0; i < a.marks; i++) summary[i * a.width + c] = turned[c * a.marks + i] / mass[i] + (bias ? bias[c] : 0);
    const float *block = a.blocks + pair * a.marks * a.marks;
    if (a.steps) newton(block, a.marks, summary, a.marks, a.width, a.steps, values, rest);
    else ridge(block, a.marks, summary, a.marks, a.width, a.ridge, values, rest);
    for (long c = 0; c < a.width; c++)
        for (long i = 0; i < a.marks; i++) turned[c * a.marks + i] = values[i * a.width + c];
    product(a.depth, a.marks, a.width, a.outer + h * a.width, a.heads * a.width, 1, turned, a.marks,
            [&](long c, long column, vec sum) { store(a.values + place + c * row + column, sum); });
}

long first_room(const Absorbed &a) { return 2 * a.width * a.marks; }
long last_room(const Absorbed &a) {
    return 3 * a.width * a.marks + (a.steps ? newton_scratch(a.marks, a.width) : ridge_scratch(a.marks, a.width));
}

}  // namespace

// Numbers of scratch that both calls below can do with.
extern "C" long fna_absorbed_scratch(const Absorbed *a, long threads) {
    const long each = first_room(*a) > last_room(*a) ? first_room(*a) : last_room(*a);
    return a->turned() + threads * each;
}

// Makes maps, shifts and blocks. Whether all went well: false, and nothing done, for a landmark that is no token.
extern "C" bool fna_absorbed_maps(const Absorbed *problem, float *scratch, long threads) {
    const Absorbed &a = *problem;
    for (long i = 0; i < a.batches * a.marks; i++)
        if (a.index[i] < 0 || a.index[i] >= a.tokens) return false;
    const long pieces = (a.depth + TOKENS - 1) / TOKENS, pairs = a.batches * a.heads, each = a.depth * a.marks;
#pragma omp parallel num_threads(threads)
    {
        float *own = scratch + a.turned() + omp_get_thread_num() * first_room(a);
#pragma omp for schedule(static)
        for (long task = 0; task < a.batches * pieces; task++) {
            const long b = task / pieces, start = task % pieces * TOKENS;
            turn(a, b, start, smaller(start + TOKENS, a.depth), scratch + b * each);
        }
#pragma omp for schedule(dynamic)
        for (long pair = 0; pair < pairs; pair++)
            landmarks_of(a, pair / a.heads, pair % a.heads, scratch + pair / a.heads * each, own);
    }
    return true;
}

extern "C" long fna_absorbed_sums(const Absorbed *a) { return 2 * a->batches * parts(*a) * a->row(); }

// Scores of tokens as keys to weights, in place, and the mass. `scratch`: as many numbers as the function above says.
extern "C" void fna_absorbed_keys(const Absorbed *problem, float *scratch, long threads) {
    const Absorbed &a = *problem;
    const long count = parts(a), row = a.row(), tasks = a.batches * count;
    float *high = scratch, *sums = scratch + tasks * row;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long task = 0; task < tasks; task++) {
            const long start = task % count * TOKENS, stop = smaller(start + TOKENS, a.tokens);
            find_highest(a, task / count, start, stop, high + task * row);
        }
#pragma omp for schedule(static)
        for (long b = 0; b < a.batches; b++) gather_rows(high + b * count * row, count, row, larger);
#pragma omp for schedule(static)
        for (long task = 0; task < tasks; task++) {
            const long b = task / count, start = task % count * TOKENS;
            weigh_keys(a, b, start, smaller(start + TOKENS, a.tokens), high + b * count * row, sums + task * row);
        }
#pragma omp for schedule(static)
        for (long b = 0; b < a.batches; b++) {
            gather_rows(sums + b * count * row, count, row, [](vec one, vec other) { return one + other; });
            memcpy(a.mass + b * row, sums + b * count * row, row * sizeof(float));
        }
    }
}

// Scores of tokens as queries to weights, in place.
extern "C" void fna_absorbed_queries(const Absorbed *problem, long threads) {
    const Absorbed &a = *problem;
    const long count = parts(a);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long task = 0; task < a.batches * count; task++) {
        const long start = task % count * TOKENS;
        weigh_queries(a, task / count, start, smaller(start + TOKENS, a.tokens));
    }
}

// Makes the values of what was seen, the mass and the blocks.
extern "C" void fna_absorbed_values(const Absorbed *problem, float *scratch, long threads) {
    const Absorbed &a = *problem;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long pair = 0; pair < a.batches * a.heads; pair++)
        values_of(a, pair / a.heads, pair % a.heads, scratch + omp_get_thread_num() * last_room(a));
}
