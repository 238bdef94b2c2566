// Windows and clusters under one softmax, summed in float32: the formula at the head of fna/ops/local.py, a strip of grid rows at a time.
//
// Sixteen (a vector of) neighbouring queries are dealt with together. Their keys are turned, so that a window's logits are products
// of vectors a step apart; rows of the grid lie `reach` numbers apart, and so does what is above and below: every key of every
// window has an address, and those outside the grid weigh nothing.
#include <omp.h>

#include "numbers.hpp"

namespace {

constexpr long STRIP = 288;       // queries in a strip, about
constexpr long MOST_STEPS = 8;    // columns of a window whose sums are held at once
constexpr float RESIDUE = 1e-5f;  // as in fna/ops/local.py

struct Grid {
    View q, k, v, out;
    const float *key_sums, *value_sums;   // [batch, heads, groups, width]
    const float *mass;                    // [batch, groups]
    const float *weight;                  // [batch, tokens], or null: all 1
    const int64_t *group;                 // [batch, tokens], -1: none
    long batches, heads, tokens, start, rows, columns, reach, groups, width;
    float scale;
    long side() const { return 2 * reach + 1; }
    long line() const { return columns + reach; }  // from a cell to the one below
    long strip() const { return smaller(rows, STRIP / line() < 1 ? 1 : STRIP / line()); }
    long strips() const { return (rows + strip() - 1) / strip(); }
};

struct Room {  // of one thread
    float *keys, *log_weight, *weight;  // [width, places], [places] each
    float *sums, *values;               // of the groups: [width, lanes], [groups, padded width]
    float *tokens;                      // values [(strip + 2 reach) columns, padded width]
    float *mass, *rows, *queries, *logits, *scores, *left, *shares, *out, *end;
    int32_t *group;  // [places]
    long places, lanes, row, padding;
    Room(const Grid &g, float *at) {
        padding = padded(g.width), lanes = padded(g.groups), row = lanes + LANES;  // the last ones: for keys of no group
        places = padded((g.strip() + 2 * g.reach) * g.line() + 2 * g.reach) + 2 * LANES;
        const long window = g.side() * g.side();
        keys = at, log_weight = keys + g.width * places, weight = log_weight + places;
        group = reinterpret_cast<int32_t *>(weight + places);
        sums = weight + 2 * places, values = sums + g.width * lanes, tokens = values + g.groups * padding;
        mass = tokens + (g.strip() + 2 * g.reach) * g.columns * padding;
        rows = mass + row, queries = rows + LANES * padding, logits = queries + g.width * LANES, scores = logits + window * LANES, left = scores + LANES * row;
        shares = left + LANES * row, out = shares + LANES * window, end = out + LANES * padding;
    }
};

// A few steps along one line of the windows: LANES queries [width, LANES] times the keys that many places on.
template <long STEPS>
void along(long width, const float *queries, const float *keys, long places, float *logits) {
    vec sum[STEPS] = {};
    for (long c = 0; c < width; c++) {
        const vec query = load(queries + c * LANES);
#pragma GCC unroll 8
        for (long j = 0; j < STEPS; j++) sum[j] += query * load(keys + c * places + j);
    }
    for (long j = 0; j < STEPS; j++) store(logits + j * LANES, sum[j]);
}

template <long STEPS>
void remaining(long steps, long width, const float *queries, const float *keys, long places, float *logits) {
    if constexpr (STEPS > 0) {
        if (steps == STEPS) return along<STEPS>(width, queries, keys, places, logits);
        remaining<STEPS - 1>(steps, width, queries, keys, places, logits);
    }
}

struct Strip {
    const Grid &g;
    const Room &room;
    long b, h, first, rows, base;  // `base`: the place of its first cell

    Strip(const Grid &g, const Room &room, long b, long h, long number)
        : g(g), room(room), b(b), h(h), first(number * g.strip()), rows(smaller(g.strip(), g.rows - first)),
          base(g.reach * (g.line() + 1)) {}

    bool inside(long row) const { return first + row >= 0 && first + row < g.rows; }
    long token(long row, long column) const { return (first + row) * g.columns + column; }  // of the grid

    // What all its queries need: the keys, turned, and what the groups are made of.
    void prepare() const {
        const float *weight = g.weight ? g.weight + b * g.tokens + g.start : nullptr;
        const int64_t *group = g.group + b * g.tokens + g.start;
        memset(room.keys, 0, g.width * room.places * sizeof(float));
        for (long p = 0; p < room.places; p++) room.log_weight[p] = NEVER, room.weight[p] = 0, room.group[p] = int32_t(room.lanes);
        for (long row = -g.reach; row < rows + g.reach; row++) {
            if (!inside(row)) continue;
            const long place = base + row * g.line(), here = token(row, 0);
            for (long column = 0; column < g.columns; column++) {
                const long t = here + column, p = place + column;
                const float counts = weight ? weight[t] : 1;
                room.weight[p] = counts;
                room.log_weight[p] = counts > 0 ? logarithm(counts) : NEVER;
                if (group[t] >= 0 && group[t] < g.groups) room.group[p] = int32_t(group[t]);
            }
            for (long column = 0; column < g.columns; column += LANES) {
                const long count = smaller(LANES, g.columns - column);
                long stride;
                const float *from = g.k.whole_rows(b, h, g.start + here + column, count, g.width, &stride, room.rows);
                float *to = room.keys + place + column;
                for (long c = 0; c < g.width; c++)
                    for (long t = 0; t < count; t++) to[c * room.places + t] = from[t * stride + c];
            }
        }
        const float *sums = g.key_sums + (b * g.heads + h) * g.groups * g.width;
        const float *values = g.value_sums + (b * g.heads + h) * g.groups * g.width;
        memset(room.sums, 0, g.width * room.lanes * sizeof(float));
        memset(room.values, 0, g.groups * room.padding * sizeof(float));
        for (long i = 0; i < g.groups; i++) {
            for (long c = 0; c < g.width; c++) room.sums[c * room.lanes + i] = sums[i * g.width + c];
            memcpy(room.values + i * room.padding, values + i * g.width, g.width * sizeof(float));
        }
        memcpy(room.mass, g.mass + b * g.groups, g.groups * sizeof(float));
        memset(room.mass + g.groups, 0, (room.row - g.groups) * sizeof(float));
        for (long row = -g.reach; row < rows + g.reach; row++)
            for (long column = 0; inside(row) && column < g.columns; column++) {
                float *to = room.tokens + ((row + g.reach) * g.columns + column) * room.padding;
                g.v.copy_row(b, h, g.start + token(row, column), g.width, to);
            }
    }

    const float *value(long row, long column) const {
        return room.tokens + ((row + g.reach) * g.columns + column) * room.padding;
    }

    static float logarithm(float x) { return x == 1 ? 0 : __builtin_logf(x); }

    // The queries at LANES places from `place` on.
    void answer(long place) const {
        const long side = g.side(), window = side * side;
        long row[LANES], column[LANES];
        memset(room.rows, 0, LANES * room.padding * sizeof(float));
        for (long i = 0, y = (place - base) / g.line(), x = (place - base) % g.line(); i < LANES; i++, x++) {
            if (x == g.line()) x = 0, y++;
            row[i] = y < rows && x < g.columns ? y : -1, column[i] = x;
            if (row[i] >= 0) g.q.copy_row(b, h, g.start + token(y, x), g.width, room.rows + i * room.padding);
        }
        for (long c = 0; c < g.width; c++)
            for (long i = 0; i < LANES; i++) room.queries[c * LANES + i] = room.rows[i * room.padding + c] * g.scale;
        product(LANES, room.lanes, g.width, room.queries, 1, LANES, room.sums, room.lanes,
                [&](long i, long c, vec sum) { store(room.scores + i * room.row + c, sum); });
        for (long i = 0; i < LANES; i++) store(room.scores + i * room.row + room.lanes, vec{});
        const long above = (place - base) / g.line(), below = (place - base + LANES - 1) / g.line();
        vec top = fill(NEVER);
        for (long dy = 0; dy < side; dy++) {
            float *logits = room.logits + dy * side * LANES;
            const long from = place + (dy - g.reach) * g.line() - g.reach;
            bool any = false;
            for (long r = above; r <= below; r++) any |= r < rows && inside(r + dy - g.reach);
            if (!any) {
                for (long j = 0; j < side * LANES; j++) logits[j] = 0;
                continue;
            }
            long dx = 0;
            for (; dx + MOST_STEPS <= side; dx += MOST_STEPS)
                along<MOST_STEPS>(g.width, room.queries, room.keys + from + dx, room.places, logits + dx * LANES);
            remaining<MOST_STEPS - 1>(side - dx, g.width, room.queries, room.keys + from + dx, room.places, logits + dx * LANES);
            for (dx = 0; dx < side; dx++) top = larger(load(logits + dx * LANES) + load(room.log_weight + from + dx), top);
        }
        leave_out(place);
        vec total = {};
        for (long i = 0; i < LANES; i++) weigh(i, top, total);
        const vec shift = top == NEVER ? vec{} : top;
        for (long dy = 0, j = 0; dy < side; dy++)
            for (long dx = 0; dx < side; dx++, j++) {
                const long from = place + (dy - g.reach) * g.line() + dx - g.reach;
                const vec share = exponential(load(room.logits + j * LANES) + load(room.log_weight + from) - shift);
                total += share;
                store(room.logits + j * LANES, share);
            }
        for (long i = 0; i < LANES; i++)
            for (long dy = 0, j = 0; row[i] >= 0 && dy < side; dy++)
                for (long dx = 0; dx < side; dx++, j++) {
                    const long p = place + i + (dy - g.reach) * g.line() + dx - g.reach;
                    const float others = room.scores[i * room.row + room.group[p]];
                    room.shares[i * window + j] = room.logits[j * LANES + i] - room.weight[p] * others;
                }
        product(LANES, room.padding, g.groups, room.scores, room.row, 1, room.values, room.padding,
                [&](long i, long c, vec sum) { store(room.out + i * room.padding + c, sum); });
        for (long i = 0; i < LANES; i++)
            if (row[i] >= 0) finish(row[i], column[i], room.shares + i * window, room.out + i * room.padding, total[i]);
    }

    // Takes each query's window out of its groups: what is left of their mass, and of their logits' sums in `scores`.
    void leave_out(long place) const {
        for (long i = 0; i < LANES; i++) memcpy(room.left + i * room.row, room.mass, room.row * sizeof(float));
        for (long dy = 0, j = 0; dy < g.side(); dy++)
            for (long dx = 0; dx < g.side(); dx++, j++) {
                const long from = place + (dy - g.reach) * g.line() + dx - g.reach;
                for (long i = 0; i < LANES; i++) {  // queries side by side, so that no sum waits for the one before
                    const long slot = i * room.row + room.group[from + i];
                    const float counts = room.weight[from + i];
                    room.left[slot] -= counts;
                    room.scores[slot] -= counts * room.logits[j * LANES + i];
                }
            }
    }

    // Scores of query i become e^(logit - highest) of what is left of each group; `top` and `total` take note.
    void weigh(long i, vec &top, vec &total) const {
        float *scores = room.scores + i * room.row, *left = room.left + i * room.row;
        vec most = fill(NEVER), sum = {};
        for (long c = 0; c < room.row; c += LANES) {
            const vec rest = load(left + c), logit = load(scores + c) / rest;
            const auto there = rest > RESIDUE * load(room.mass + c);
            store(left + c, there ? rest : vec{});
            store(scores + c, there ? logit : fill(NEVER));
            most = larger(load(scores + c), most);
        }
        const float highest_of_groups = highest(most);
        top[i] = highest_of_groups > top[i] ? highest_of_groups : top[i];
        const float shift = top[i] == NEVER ? 0 : top[i];
        for (long c = 0; c < room.row; c += LANES) {
            const vec share = exponential(load(scores + c) - shift);
            store(scores + c, share);
            sum += share * load(left + c);
        }
        total[i] = ::total(sum);
    }

    void finish(long row, long column, const float *shares, const float *sums, float total) const {
        const float whole = total == 0 ? 0 : 1 / total;
        const long out = g.out.at(b, h, g.start + token(row, column));
        for (long c = 0; c < room.padding; c += 4 * LANES) {
            const long count = smaller(4, (room.padding - c) / LANES);
            if (count == 4) add<4>(row, column, shares, sums + c, c, whole, out);
            else for (long j = 0; j < count; j++) add<1>(row, column, shares, sums + c + j * LANES, c + j * LANES, whole, out);
        }
    }

    template <long VECTORS>
    void add(long row, long column, const float *shares, const float *sums, long c, float whole, long out) const {
        vec sum[VECTORS];
        for (long j = 0; j < VECTORS; j++) sum[j] = load(sums + j * LANES);
        const long left = column - g.reach < 0 ? 0 : column - g.reach, right = smaller(column + g.reach, g.columns - 1);
        for (long y = row - g.reach; y <= row + g.reach; y++) {
            if (!inside(y)) continue;
            const float *share = shares + (y - row + g.reach) * g.side() + g.reach - column;
            const float *from = value(y, left) + c;
            for (long x = left; x <= right; x++) {
                const vec times = fill(share[x]);
#pragma GCC unroll 4
                for (long j = 0; j < VECTORS; j++) sum[j] += times * load(from + j * LANES);
                from += room.padding;
            }
        }
        for (long j = 0; j < VECTORS; j++) g.out.write(out + c + j * LANES, sum[j] * whole, g.width - c - j * LANES);
    }
};

}  // namespace

extern "C" long fna_local_scratch(const Grid *grid) {
    float nowhere;
    return Room(*grid, &nowhere).end - &nowhere;
}

// `scratch` for as many at once as threads.
extern "C" void fna_local(const Grid *grid, float *scratch, long threads) {
    const Grid &g = *grid;
    const long share = fna_local_scratch(grid), tasks = g.batches * g.heads * g.strips();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long task = 0; task < tasks; task++) {
        const Room room(g, scratch + omp_get_thread_num() * share);
        const long pair = task / g.strips();
        const Strip strip(g, room, pair / g.heads, pair % g.heads, task % g.strips());
        strip.prepare();
        const long stop = strip.base + (strip.rows - 1) * g.line() + g.columns;
        for (long place = strip.base; place < stop; place += LANES) strip.answer(place);
    }
}
