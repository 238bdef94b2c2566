// The three factors of Nyström attention (fna/ops/nystrom.py) in one go: what lies between the two short attentions of attend.hpp is
// too small to be worth calls of its own, whose operands would have left the cache.
#include <omp.h>

#include "attend.hpp"
#include "inverse.hpp"

namespace {

struct Nystrom {
    View q, k, v, out, q_source, k_source;
    const int64_t *index;  // [batches, marks]: the rows of both sources that are the landmarks
    long batches, heads, tokens, marks, sources, width;
    float scale;
    long steps;  // of Newton's; 0: the ridge
    float ridge;
};

View rows_of(long width, float *data, const Nystrom &n) { return {data, n.heads * n.marks * width, n.marks * width, width, 0}; }

// softmax(scale q k') of the landmarks of one head, in rows of whole vectors, zeros beyond.
void landmark_block(const Problem &p, long b, long h, float *turned, float *block) {
    const long lanes = padded(p.keys);
    transpose(p.k.floats(b, h, 0), p.k.row, p.keys, p.width, p.scale, turned);
    product(p.queries, lanes, p.width, p.q.floats(b, h, 0), p.q.row, 1, turned, lanes,
            [&](long row, long column, vec sum) { store(block + row * lanes + column, sum); });
    for (long start = 0; start < p.queries; start += QUERIES)
        softmax(p, b, h, start, smaller(p.queries - start, QUERIES), lanes, block + start * lanes);
}

struct Plan {  // the pieces as problems of their own, and where in the scratch what passes between them lies
    Problem over_tokens, among, over_marks;
    float *parts, *keys, *own;
    Room first, last;
    long thread;

    static long middle(const Nystrom &n) {  // numbers: the keys turned, the block, its inverse's own
        const long lanes = padded(n.marks);
        return (n.width + n.marks) * lanes + (n.steps ? newton_scratch(n.marks, n.width) : ridge_scratch(n.marks, n.width));
    }
    Plan(const Nystrom &n, float *scratch) {
        const long pairs = n.batches * n.heads, small = pairs * n.marks * n.width, whole = pairs * n.marks * padded(n.width);
        const View q_marks = rows_of(padded(n.width), scratch, n), k_marks = rows_of(padded(n.width), scratch + whole, n);
        const View summary = rows_of(n.width, scratch + 2 * whole, n), values = rows_of(n.width, scratch + 2 * whole + small, n);
        over_tokens = {q_marks, n.k, n.v, summary, {}, nullptr, n.batches, n.heads, n.marks, n.tokens, n.width, n.scale};
        among = {q_marks, k_marks, summary, values, {}, nullptr, n.batches, n.heads, n.marks, n.marks, n.width, n.scale};
        over_marks = {n.q, k_marks, values, n.out, {}, nullptr, n.batches, n.heads, n.tokens, n.marks, n.width, n.scale};
        first = room_of_few_queries(over_tokens), last = room_of_few_keys(over_marks);
        parts = scratch + 2 * (whole + small), keys = parts + pairs * first.head, own = keys + pairs * last.head;
        thread = middle(n);
        if (first.thread > thread) thread = first.thread;
        if (last.thread > thread) thread = last.thread;
    }
    long size(const Nystrom &n, long threads) const {
        return n.batches * n.heads * (2 * n.marks * (padded(n.width) + n.width) + first.head + last.head) + threads * thread;
    }
};

void gather(const Nystrom &n, const Plan &plan, long b, long h) {
    for (long i = 0; i < n.marks; i++) {
        const long row = n.index[b * n.marks + i];
        n.q_source.copy_row(b, h, row, n.width, plan.among.q.floats(b, h, i));
        n.k_source.copy_row(b, h, row, n.width, plan.among.k.floats(b, h, i));
    }
}

// From the shares of one head's summary to the keys and values that its tokens will see.
void between(const Nystrom &n, const Plan &plan, long b, long h, float *own) {
    const long pair = b * n.heads + h, lanes = padded(n.marks);
    float *turned = own, *block = turned + n.width * lanes, *rest = block + n.marks * lanes;
    const float *summary = plan.among.v.floats(b, h, 0);
    merge(plan.over_tokens, Part(plan.over_tokens), b, h, plan.parts + pair * plan.first.head);
    landmark_block(plan.among, b, h, turned, block);
    float *values = plan.among.out.floats(b, h, 0);
    if (n.steps) newton(block, lanes, summary, n.marks, n.width, n.steps, values, rest);
    else ridge(block, lanes, summary, n.marks, n.width, n.ridge, values, rest);
    Keys(plan.over_marks, plan.keys + pair * plan.last.head).fill(plan.over_marks, b, h);
}

}  // namespace

extern "C" long fna_nystrom_scratch(const Nystrom *n, long threads) { return Plan(*n, nullptr).size(*n, threads); }

// Whether all went well: false, and nothing done, for a landmark that is no row of the sources.
extern "C" bool fna_nystrom(const Nystrom *problem, float *scratch, long threads) {
    const Nystrom &n = *problem;
    for (long i = 0; i < n.batches * n.marks; i++)
        if (n.index[i] < 0 || n.index[i] >= n.sources) return false;
    const Plan plan(n, scratch);
    const Part part(plan.over_tokens);
    const Look go = look_at(plan.over_tokens);
    const long pairs = n.batches * n.heads, count = shares(plan.over_tokens), tasks = (n.tokens + TASK - 1) / TASK;
#pragma omp parallel num_threads(threads)
    {
        float *own = plan.own + omp_get_thread_num() * plan.thread;
#pragma omp for schedule(static)
        for (long pair = 0; pair < pairs; pair++) gather(n, plan, pair / n.heads, pair % n.heads);
#pragma omp for schedule(dynamic)
        for (long task = 0; task < pairs * count; task++) {
            const auto [b, share, h] = place(task, count, n.heads);
            float *sums = plan.parts + (b * n.heads + h) * plan.first.head + share * part.size;
            go(plan.over_tokens, part, b, h, share, sums, own);
        }
#pragma omp for schedule(dynamic)
        for (long pair = 0; pair < pairs; pair++) between(n, plan, pair / n.heads, pair % n.heads, own);
#pragma omp for schedule(dynamic)
        for (long task = 0; task < pairs * tasks; task++) {
            const auto [b, block, h] = place(task, tasks, n.heads);
            const Keys keys(plan.over_marks, plan.keys + (b * n.heads + h) * plan.last.head);
            answer(plan.over_marks, keys, b, h, block * TASK, smaller((block + 1) * TASK, n.tokens), own);
        }
    }
    return true;
}
