// Nyström attention with the layers round it absorbed into its landmarks (fna/ops/absorbed.py): from a block's tokens to what leaves
// its attention, in one go. Scores are held for a few tokens at a time.
//
// Landmarks of a head are as many as fill whole vectors, and so is the model's width: rows lie as they are wanted. A result depends
// neither on the batch nor on the number of threads: work is cut by the number of tokens alone.
#include <omp.h>

#include "attend.hpp"
#include "inverse.hpp"

namespace {

struct Absorbed {
    View x, out;                      // [batches, 1, tokens, depth]
    const float *inner, *inner_bias;  // q, k and v one after the other: [3 heads width, depth], [3 heads width] or null
    const float *outer, *outer_bias;  // [depth, heads width], [depth] or null
    const int64_t *index;             // [batches, marks]
    long batches, heads, tokens, marks, depth, width;
    float scale;
    long steps;  // of Newton's; 0: the ridge
    float ridge;

    const float *weights(long which, long h) const { return inner + (which * heads + h) * width * depth; }
    const float *bias(long which, long h) const { return inner_bias ? inner_bias + (which * heads + h) * width : nullptr; }
    long row() const { return heads * marks; }
};

constexpr long TILE = 128;  // tokens, or numbers of a token, that are taken at once

// Where in the scratch what passes between the pieces lies.
struct Rooms {
    long share, thread;
    float *turned;      // [batches, depth, marks]: landmark tokens
    float *as_keys;     // [batches, heads, depth, marks]: what tokens times it are their logits as keys
    float *as_queries;  // [batches, depth, heads marks]: as queries
    float *shifts;      // [batches, heads, marks]: what is added to the latter
    float *blocks;      // [batches, heads, marks, marks]
    float *parts;       // [batches, heads, shares] of sums [depth, marks], highest logit and mass [marks]
    float *values;      // [batches, heads marks, depth]: what the landmarks stand for
    float *own;         // of each thread

    Rooms(const Absorbed &a, float *scratch) {
        const long pairs = a.batches * a.heads, whole = a.depth * a.marks, small = a.width * a.marks;
        share = whole + 2 * a.marks;
        turned = scratch, as_keys = turned + a.batches * whole, as_queries = as_keys + pairs * whole;
        shifts = as_queries + pairs * whole, blocks = shifts + pairs * a.marks, parts = blocks + pairs * a.marks * a.marks;
        values = parts + pairs * shares(a) * share, own = values + pairs * whole;
        thread = whole + 3 * small + (a.steps ? newton_scratch(a.marks, a.width) : ridge_scratch(a.marks, a.width));
        if (thread < TILE * a.row()) thread = TILE * a.row();
    }
    static long shares(const Absorbed &a) { return smaller((a.tokens + SHARE - 1) / SHARE, MOST_SHARES); }
    long size(const Absorbed &a, long threads) const { return own - turned + threads * thread; }
};

// A matrix [rows, columns] turned into [columns, rows].
void turn(const float *from, long rows, long columns, float *to) {
    for (long i = 0; i < rows; i += LANES)
        for (long c = 0; c < columns; c++)
            for (long j = i; j < smaller(i + LANES, rows); j++) to[c * rows + j] = from[j * columns + c];
}

// The landmark tokens of an image as a matrix [depth, marks], for some rows of it.
void turn_landmarks(const Absorbed &a, long b, long start, long stop, float *to) {
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

// Landmarks [width, marks] back through an inner layer, scaled: [depth, marks] in rows of `stride`.
void absorb(const Absorbed &a, const float *marks, const float *weights, float *to, long stride) {
    product(a.depth, a.marks, a.width, weights, 1, a.depth, marks, a.marks,
            [&](long row, long column, vec sum) { store(to + row * stride + column, sum * a.scale); });
}

void landmarks_of(const Absorbed &a, const Rooms &rooms, long b, long h, float *own) {
    const long pair = b * a.heads + h, whole = a.depth * a.marks;
    float *queries = own, *keys = queries + a.width * a.marks, *block = rooms.blocks + pair * a.marks * a.marks;
    project(a, 0, h, rooms.turned + b * whole, queries), project(a, 1, h, rooms.turned + b * whole, keys);
    absorb(a, queries, a.weights(1, h), rooms.as_keys + pair * whole, a.marks);
    absorb(a, keys, a.weights(0, h), rooms.as_queries + b * a.heads * whole + h * a.marks, a.row());
    const float *bias = a.bias(0, h);
    for (long i = 0; i < a.marks; i += LANES) {
        vec sum = {};
        for (long c = 0; bias && c < a.width; c++) sum += bias[c] * load(keys + c * a.marks + i);
        store(rooms.shifts + pair * a.marks + i, sum * a.scale);
    }
    product(a.marks, a.marks, a.width, queries, 1, a.marks, keys, a.marks,
            [&](long row, long column, vec sum) { store(block + row * a.marks + column, sum * a.scale); });
    Problem among = {};
    among.keys = a.marks;
    for (long start = 0; start < a.marks; start += QUERIES)
        softmax(among, 0, 0, start, smaller(a.marks - start, QUERIES), a.marks, block + start * a.marks);
}

// Turns scores [count, marks] into weights e^(score - highest so far), and fades what was summed before to the new highest.
void weigh(const Absorbed &a, long count, float *scores, float *sums, float *high, float *mass) {
    for (long i = 0; i < a.marks; i += LANES) {
        const vec before = load(high + i);
        vec top = before;
        for (long t = 0; t < count; t++) top = larger(load(scores + t * a.marks + i), top);
        const vec fade = exponential(before - top);
        vec sum = load(mass + i) * fade;
        for (long t = 0; t < count; t++) {
            const vec weight = exponential(load(scores + t * a.marks + i) - top);
            store(scores + t * a.marks + i, weight), sum += weight;
        }
        store(high + i, top), store(mass + i, sum);
        bool faded = false;
        for (long j = 0; j < LANES; j++) faded |= fade[j] != 1;
        for (long c = 0; faded && c < a.depth; c++) store(sums + c * a.marks + i, load(sums + c * a.marks + i) * fade);
    }
}

// What one head's landmarks see of a share of the tokens.
void look(const Absorbed &a, const Rooms &rooms, long b, long h, long share, float *scores) {
    const long pair = b * a.heads + h, count = Rooms::shares(a), whole = a.depth * a.marks;
    const float *map = rooms.as_keys + pair * whole;
    float *sums = rooms.parts + (pair * count + share) * rooms.share, *high = sums + whole, *mass = high + a.marks;
    memset(sums, 0, whole * sizeof(float));
    for (long i = 0; i < a.marks; i++) high[i] = NEVER, mass[i] = 0;
    const long each = ((a.tokens + count - 1) / count + TILE - 1) / TILE * TILE, stop = smaller((share + 1) * each, a.tokens);
    for (long start = share * each; start < stop; start += TILE) {
        const long rows = smaller(stop - start, TILE);
        const float *tokens = a.x.floats(b, 0, start);
        product(rows, a.marks, a.depth, tokens, a.x.row, 1, map, a.marks,
                [&](long row, long column, vec sum) { store(scores + row * a.marks + column, sum); });
        weigh(a, rows, scores, sums, high, mass);
        product(a.depth, a.marks, rows, tokens, 1, a.x.row, scores, a.marks,
                [&](long row, long column, vec sum) { add(sums + row * a.marks + column, sum); });
    }
}

// The shares as one softmax over all tokens: [depth, marks], in the first share's place.
float *merge(const Absorbed &a, const Rooms &rooms, long pair) {
    const long count = Rooms::shares(a), whole = a.depth * a.marks;
    float *parts = rooms.parts + pair * count * rooms.share;
    for (long i = 0; i < a.marks; i += LANES) {
        vec top = fill(NEVER), all = {}, weight[MOST_SHARES];
        for (long s = 0; s < count; s++) top = larger(load(parts + s * rooms.share + whole + i), top);
        for (long s = 0; s < count; s++) {
            weight[s] = exponential(load(parts + s * rooms.share + whole + i) - top);
            all += weight[s] * load(parts + s * rooms.share + whole + a.marks + i);
        }
        for (long s = 0; s < count; s++) weight[s] = weight[s] / all;
        for (long c = 0; c < a.depth; c++) {
            vec sum = {};
            for (long s = 0; s < count; s++) sum += weight[s] * load(parts + s * rooms.share + c * a.marks + i);
            store(parts + c * a.marks + i, sum);
        }
    }
    return parts;
}

// What one head's landmarks saw through v's layer, the inverse, and the outer layer: [marks, depth].
void values_of(const Absorbed &a, const Rooms &rooms, long b, long h, float *own) {
    const long pair = b * a.heads + h, small = a.width * a.marks;
    float *turned = own, *summary = turned + small, *values = summary + small, *through = values + small;
    float *rest = through + a.depth * a.marks;
    const float *bias = a.bias(2, h), *block = rooms.blocks + pair * a.marks * a.marks;
    product(a.width, a.marks, a.depth, a.weights(2, h), a.depth, 1, merge(a, rooms, pair), a.marks,
            [&](long row, long column, vec sum) { store(turned + row * a.marks + column, sum); });
    for (long c = 0; bias && c < a.width; c++)
        for (long i = 0; i < a.marks; i += LANES) add(turned + c * a.marks + i, fill(bias[c]));
    turn(turned, a.width, a.marks, summary);
    if (a.steps) newton(block, a.marks, summary, a.marks, a.width, a.steps, values, rest);
    else ridge(block, a.marks, summary, a.marks, a.width, a.ridge, values, rest);
    turn(values, a.marks, a.width, turned);
    product(a.depth, a.marks, a.width, a.outer + h * a.width, a.heads * a.width, 1, turned, a.marks,
            [&](long row, long column, vec sum) { store(through + row * a.marks + column, sum); });
    turn(through, a.depth, a.marks, rooms.values + pair * a.marks * a.depth);
}

// How many tokens `answer` takes at once: equal pieces, as many as threads share evenly (a multiple of EVEN), where those stay long.
long answered(long tokens) {
    constexpr long EVEN = 8;
    const long tiles = (tokens + TILE - 1) / TILE, pieces = (tiles + EVEN - 1) / EVEN * EVEN;
    const long each = ((tokens + pieces - 1) / pieces + ROWS - 1) / ROWS * ROWS;
    return each * 2 < TILE ? TILE : each;
}

// Some tokens through the landmarks of all heads.
void answer(const Absorbed &a, const Rooms &rooms, long b, long start, long stop, float *scores) {
    const long row = a.row(), rows = stop - start;
    const float *map = rooms.as_queries + b * row * a.depth, *values = rooms.values + b * row * a.depth;
    product(rows, row, a.depth, a.x.floats(b, 0, start), a.x.row, 1, map, row,
            [&](long t, long column, vec sum) { store(scores + t * row + column, sum); });
    Problem over = {};
    over.keys = a.marks;
    over.pairs = {rooms.shifts, row, 0, a.marks, 0};  // a head's is a row's
    for (long t = 0; t < rows; t++)
        for (long h = 0; h < a.heads; h += QUERIES)
            softmax(over, b, 0, h, smaller(a.heads - h, QUERIES), a.marks, scores + t * row + h * a.marks);
    product(rows, a.depth, row, scores, row, 1, values, a.depth,
            [&](long t, long column, vec sum) { store(a.out.floats(b, 0, start + t) + column, sum); });
    for (long t = 0; a.outer_bias && t < rows; t++)
        for (long c = 0; c < a.depth; c += LANES) add(a.out.floats(b, 0, start + t) + c, load(a.outer_bias + c));
}

}  // namespace

extern "C" long fna_absorbed_scratch(const Absorbed *a, long threads) { return Rooms(*a, nullptr).size(*a, threads); }

// Whether all went well: false, and nothing done, for a landmark that is no token.
extern "C" bool fna_absorbed(const Absorbed *problem, float *scratch, long threads) {
    const Absorbed &a = *problem;
    for (long i = 0; i < a.batches * a.marks; i++)
        if (a.index[i] < 0 || a.index[i] >= a.tokens) return false;
    const Rooms rooms(a, scratch);
    const long pairs = a.batches * a.heads, pieces = (a.depth + TILE - 1) / TILE, count = Rooms::shares(a);
    const long each = answered(a.tokens), tiles = (a.tokens + each - 1) / each;
#pragma omp parallel num_threads(threads)
    {
        float *own = rooms.own + omp_get_thread_num() * rooms.thread;
#pragma omp for schedule(static)
        for (long task = 0; task < a.batches * pieces; task++) {
            const long b = task / pieces, start = task % pieces * TILE;
            turn_landmarks(a, b, start, smaller(start + TILE, a.depth), rooms.turned + b * a.depth * a.marks);
        }
#pragma omp for schedule(dynamic)
        for (long pair = 0; pair < pairs; pair++) landmarks_of(a, rooms, pair / a.heads, pair % a.heads, own);
#pragma omp for schedule(dynamic)
        for (long task = 0; task < pairs * count; task++) {
            const auto [b, share, h] = place(task, count, a.heads);
            look(a, rooms, b, h, share, own);
        }
#pragma omp for schedule(dynamic)
        for (long pair = 0; pair < pairs; pair++) values_of(a, rooms, pair / a.heads, pair % a.heads, own);
#pragma omp for schedule(dynamic)
        for (long task = 0; task < a.batches * tiles; task++) {
            const long start = task % tiles * each;
            answer(a, rooms, task / tiles, start, smaller(start + each, a.tokens), own);
        }
    }
    return true;
}
