// Softmax attention where one side is short: a few queries over many keys, and many queries over a few keys. The short side is in
// float32, the long one in the model's numbers, turned to float32 a tile at a time; or bfloat16 as it lies, where the processor has
// products of pairs: then the short side's queries or keys, and the weights of many keys, are rounded to bfloat16 as well.
//
// Scores are held for a few tokens at a time, so memory is linear in the short side. A head's result depends neither on the batch
// nor on the number of threads: work is cut by the number of tokens alone.
#pragma once
#include "numbers.hpp"

namespace {

constexpr long KEYS = 64;         // keys whose scores are held in `few_queries`
constexpr long SHARE = 1024;      // keys in a share there, at least; shares of one head run side by side
constexpr long MOST_SHARES = 4;
constexpr long QUERIES = 32;      // queries whose scores are held in `few_keys`
constexpr long TASK = 256;        // and that one thread takes at a time

struct Problem {
    View q, k, v, out;
    View pairs;         // [batch, heads, many, few], added to the logits: of the long side by the short; or null
    const float *bias;  // [batch, keys], likewise, -inf hides a key; or null
    long batches, heads, queries, keys, width;
    float scale;
    const float *biases(long b) const { return bias ? bias + b * keys : nullptr; }
    const float *pairs_at(long b, long h, long row) const { return pairs.data ? pairs.floats(b, h, row) : nullptr; }
};

// The short side as a matrix [width, lanes], so that its rows lie across vectors; zeros beyond the last row.
void transpose(const float *from, long stride, long rows, long width, float scale, float *to) {
    const long lanes = padded(rows);
    memset(to, 0, width * lanes * sizeof(float));
    for (long i = 0; i < rows; i++)
        for (long c = 0; c < width; c++) to[c * lanes + i] = from[i * stride + c] * scale;
}

// The same in pairs of neighbouring columns [width / 2, lanes], unscaled.
void transpose(const float *from, long stride, long rows, long width, Pair *to) {
    const long lanes = padded(rows);
    memset(to, 0, width / 2 * lanes * sizeof(Pair));
    uint16_t numbers[LANES];
    for (long i = 0; i < rows; i++)
        for (long c = 0; c < width; c += LANES) {
            const shorts rounded = to_upper(load_some(from + i * stride + c, width - c));
            memcpy(numbers, &rounded, sizeof numbers);
            for (long j = 0; j < LANES && c + j < width; j += 2) to[(c + j) / 2 * lanes + i] = {numbers[j], numbers[j + 1]};
        }
}

inline vec unless_hidden(vec top) { return top == NEVER ? vec{} : top; }  // -inf - -inf would be NaN
inline float unless_hidden(float top) { return top == NEVER ? 0 : top; }

// ---- a few queries ----------------------------------------------------------------------------------------------------------

struct Part {  // one share of the keys: unnormalised sums [queries, width], highest logit and mass [queries], padded
    long lanes, width, size;
    explicit Part(const Problem &p) : lanes(padded(p.queries)), width(padded(p.width)), size(p.queries * width + 2 * lanes) {}
};

// Tasks in an order in which heads come last: rows of one token's heads lie side by side, and pages are found once for all of them.
struct Place {
    long batch, part, head;
};
inline Place place(long task, long parts, long heads) { return {task / heads / parts, task / heads % parts, task % heads}; }

struct Room {  // numbers of scratch: for every head, and for every thread
    long head, thread;
};

long shares(const Problem &p) {
    long wanted = (p.keys + SHARE - 1) / SHARE;
    return wanted < MOST_SHARES ? wanted : MOST_SHARES;
}

Room room_of_few_queries(const Problem &p) {
    const Part part(p);
    return {shares(p) * part.size, p.width * part.lanes + KEYS * (part.lanes + part.width)};
}

// Turns scores [count, lanes] of C vectors of queries into weights e^(score - highest), and fades what was summed before to the new
// highest. Several vectors at once: the steps of one would wait for each other.
template <long C>
void weigh(const Problem &p, const Part &part, long i, long count, float *scores, float *sums, float *high, float *mass) {
    vec top[C], shift[C], fade[C], sum[C];
    for (long j = 0; j < C; j++) top[j] = load(high + i + j * LANES);
    for (long t = 0; t < count; t++)
        for (long j = 0; j < C; j++) top[j] = larger(load(scores + t * part.lanes + i + j * LANES), top[j]);
    for (long j = 0; j < C; j++) {
        shift[j] = unless_hidden(top[j]), fade[j] = exponential(load(high + i + j * LANES) - shift[j]);
        sum[j] = load(mass + i + j * LANES) * fade[j];
    }
    for (long t = 0; t < count; t++)
        for (long j = 0; j < C; j++) {
            float *place = scores + t * part.lanes + i + j * LANES;
            const vec weight = exponential(load(place) - shift[j]);
            store(place, weight);
            sum[j] += weight;
        }
    for (long j = 0; j < C; j++) {
        store(high + i + j * LANES, top[j]), store(mass + i + j * LANES, sum[j]);
        for (long n = 0; n < LANES && i + j * LANES + n < p.queries; n++) {
            float *row = sums + (i + j * LANES + n) * part.width;
            for (long c = 0; fade[j][n] != 1 && c < part.width; c += LANES) store(row + c, load(row + c) * fade[j][n]);
        }
    }
}

void weigh(const Problem &p, const Part &part, long count, float *scores, float *sums, float *high, float *mass) {
    long i = 0;
    for (; i + 4 * LANES <= part.lanes; i += 4 * LANES) weigh<4>(p, part, i, count, scores, sums, high, mass);
    for (; i < part.lanes; i += LANES) weigh<1>(p, part, i, count, scores, sums, high, mass);
}

// Adds what is to be added to the logits [count, lanes] of keys from `start` on.
void add_biases(const Problem &p, const Part &part, long b, long h, long start, long count, float *scores) {
    const float *bias = p.biases(b), *pairs = p.pairs_at(b, h, start);
    for (long t = 0; (bias || pairs) && t < count; t++)
        for (long i = 0; i < part.lanes; i += LANES) {
            vec sum = load(scores + t * part.lanes + i);
            if (bias) sum += bias[start + t];
            if (pairs) sum += load_some(pairs + t * p.pairs.row + i, p.queries - i);
            store(scores + t * part.lanes + i, sum);
        }
}

// Queries of one head over keys `KEYS` at a time, by float32 products.
class Floats {
    const Problem &p;
    const long b, h, lanes, width;
    float *turned, *room;

public:
    float *scores;  // [KEYS, lanes]
    Floats(const Problem &p, const Part &part, long b, long h, float *scratch) : p(p), b(b), h(h), lanes(part.lanes), width(part.width) {
        turned = scratch, scores = turned + p.width * lanes, room = scores + KEYS * lanes;
        transpose(p.q.floats(b, h, 0), p.q.row, p.queries, p.width, p.scale, turned);
    }
    void logits(long start, long count, Ahead &ahead) {
        long stride;
        const float *keys = p.k.whole_rows(b, h, start, count, p.width, &stride, room);
        product(count, lanes, p.width, keys, stride, 1, turned, lanes,
                [&](long row, long column, vec sum) { store(scores + row * lanes + column, sum); },
                [&](long vectors) { ahead(vectors); });
    }
    void answers(long start, long count, float *sums, Ahead &ahead) {
        long stride;
        const float *values = p.v.whole_rows(b, h, start, count, p.width, &stride, room);
        product(p.queries, width, count, scores, 1, lanes, values, stride,
                [&](long row, long column, vec sum) { add(sums + row * width + column, sum); }, [&](long vectors) { ahead(vectors); });
    }
};

// The same by products of pairs.
class Pairs {
    const Problem &p;
    const long b, h, lanes, width;
    Pair *turned, *room;

public:
    float *scores;
    Pairs(const Problem &p, const Part &part, long b, long h, float *scratch) : p(p), b(b), h(h), lanes(part.lanes), width(part.width) {
        scores = scratch, turned = reinterpret_cast<Pair *>(scores + KEYS * lanes), room = turned + p.width * lanes;
        transpose(p.q.floats(b, h, 0), p.q.row, p.queries, p.width, turned);
    }
    void logits(long start, long count, Ahead &ahead) {
        product(count, lanes, p.width / 2, p.k.row_of_pairs(b, h, start), p.k.row / 2, 1, turned, lanes,
                [&](long row, long column, vec sum) { store(scores + row * lanes + column, sum * p.scale); },
                [&](long vectors) { ahead(vectors); });
    }
    void answers(long start, long count, float *sums, Ahead &ahead) {
        Pair *weights = reinterpret_cast<Pair *>(scores);  // a row for two, over what has been read
        for (long t = 0; t < count; t += 2) {
            p.v.pair_rows(b, h, start + t, t + 1 < count, p.width, room + t / 2 * width);
            for (long i = 0; i < lanes; i += LANES) {
                const vec second = t + 1 < count ? load(scores + (t + 1) * lanes + i) : vec{};
                store(weights + t / 2 * lanes + i, paired(to_upper(load(scores + t * lanes + i)), to_upper(second)));
            }
        }
        product(p.queries, width, (count + 1) / 2, weights, 1, lanes, room, width,
                [&](long row, long column, vec sum) { add(sums + row * width + column, sum); }, [&](long vectors) { ahead(vectors); });
    }
};

template <class Numbers>
void look(const Problem &p, const Part &part, long b, long h, long share, float *sums, float *scratch) {
    Numbers numbers(p, part, b, h, scratch);
    float *high = sums + p.queries * part.width, *mass = high + part.lanes;
    memset(sums, 0, p.queries * part.width * sizeof(float));
    for (long i = 0; i < part.lanes; i++) high[i] = NEVER, mass[i] = 0;
    const long each = ((p.keys + shares(p) - 1) / shares(p) + KEYS - 1) / KEYS * KEYS;
    const long stop = smaller((share + 1) * each, p.keys);
    for (long start = share * each; start < stop; start += KEYS) {
        const long count = smaller(stop - start, KEYS), vectors = part.lanes / LANES;
        Ahead values(p.v, b, h, start, start + count, p.width, count * vectors);
        Ahead keys(p.k, b, h, start + count, smaller(start + count + KEYS, stop), p.width, p.queries * part.width / LANES);
        numbers.logits(start, count, values);
        add_biases(p, part, b, h, start, count, numbers.scores);
        weigh(p, part, count, numbers.scores, sums, high, mass);
        numbers.answers(start, count, sums, keys);
    }
}

using Look = void (*)(const Problem &, const Part &, long, long, long, float *, float *);
Look look_at(const Problem &p) { return p.k.pairs(p.width) && p.v.kind == 1 ? look<Pairs> : look<Floats>; }

// The shares as one softmax over all keys; zeros where a query sees none.
void merge(const Problem &p, const Part &part, long b, long h, const float *parts) {
    const long count = shares(p);
    for (long i = 0; i < p.queries; i++) {
        const float *high = parts + p.queries * part.width + i, *mass = high + part.lanes;
        float top = NEVER, sum = 0, weight[MOST_SHARES];
        for (long s = 0; s < count; s++) top = high[s * part.size] > top ? high[s * part.size] : top;
        for (long s = 0; s < count; s++) {
            weight[s] = exponential(fill(high[s * part.size] - unless_hidden(top)))[0];
            sum += weight[s] * mass[s * part.size];
        }
        float *out = p.out.floats(b, h, i);
        for (long c = 0; c < part.width; c += LANES) {
            vec mixed = {};
            for (long s = 0; s < count; s++) mixed += weight[s] * load(parts + s * part.size + i * part.width + c);
            store_some(out + c, sum == 0 ? vec{} : mixed / sum, p.width - c);
        }
    }
}

// ---- a few keys -------------------------------------------------------------------------------------------------------------

// Softmax of some rows of logits [count, lanes] in place; 0 beyond the last key, and everywhere where all keys are hidden.
// Step by step for all rows: the steps of one would wait for each other.
void softmax(const Problem &p, long b, long h, long start, long count, long lanes, float *scores) {
    const float *bias = p.biases(b);
    float shift[QUERIES];
    vec sums[QUERIES];
    for (long t = 0; t < count; t++) {
        float *row = scores + t * lanes;
        const float *pairs = p.pairs_at(b, h, start + t);
        for (long i = 0; bias && i < p.keys; i++) row[i] += bias[i];
        for (long i = 0; pairs && i < p.keys; i++) row[i] += pairs[i];
        for (long i = p.keys; i < lanes; i++) row[i] = NEVER;
        vec top = fill(NEVER);
        for (long i = 0; i < lanes; i += LANES) top = larger(load(row + i), top);
        shift[t] = unless_hidden(highest(top));
    }
    for (long t = 0; t < count; t++) {
        sums[t] = vec{};
        for (long i = t * lanes; i < (t + 1) * lanes; i += LANES) {
            const vec weight = exponential(load(scores + i) - shift[t]);
            store(scores + i, weight), sums[t] += weight;
        }
    }
    for (long t = 0; t < count; t++) {
        const float mass = total(sums[t]), share = mass == 0 ? 0 : 1 / mass;
        for (long i = t * lanes; i < (t + 1) * lanes; i += LANES) store(scores + i, load(scores + i) * share);
    }
}

struct Keys {  // of one head, as both products want them: [width, lanes], or in pairs, and [keys, padded width]
    float *turned, *values;
    long lanes, width;
    Keys(const Problem &p, float *room) : lanes(padded(p.keys)), width(padded(p.width)) {
        turned = room, values = turned + p.width * lanes;
    }
    Pair *pairs() const { return reinterpret_cast<Pair *>(turned); }
    static long size(const Problem &p) { return p.width * padded(p.keys) + p.keys * padded(p.width); }
    void fill(const Problem &p, long b, long h) const {
        const float *from = p.k.floats(b, h, 0);
        if (p.q.pairs(p.width)) transpose(from, p.k.row, p.keys, p.width, pairs());
        else transpose(from, p.k.row, p.keys, p.width, p.scale, turned);
        for (long i = 0; i < p.keys; i++) {
            memset(values + i * width, 0, width * sizeof(float));
            memcpy(values + i * width, p.v.floats(b, h, i), p.width * sizeof(float));
        }
    }
};

// Logits of some queries: [count, lanes].
void ask(const Problem &p, const Keys &keys, long b, long h, long start, long count, float *room, float *scores, Ahead &ahead) {
    const long lanes = keys.lanes;
    if (p.q.pairs(p.width)) {
        const Pair *queries = p.q.row_of_pairs(b, h, start);
        return product(count, lanes, p.width / 2, queries, p.q.row / 2, 1, keys.pairs(), lanes,
                       [&](long row, long column, vec sum) { store(scores + row * lanes + column, sum * p.scale); },
                       [&](long vectors) { ahead(vectors); });
    }
    long stride;
    const float *queries = p.q.whole_rows(b, h, start, count, p.width, &stride, room);
    product(count, lanes, p.width, queries, stride, 1, keys.turned, lanes,
            [&](long row, long column, vec sum) { store(scores + row * lanes + column, sum); }, [&](long vectors) { ahead(vectors); });
}

// Their answers, in rows of whole vectors.
void mix(const Problem &p, const Keys &keys, long count, const float *weights, float *out, long stride, Ahead &ahead) {
    product(count, keys.width, p.keys, weights, keys.lanes, 1, keys.values, keys.width,
            [&](long row, long column, vec sum) { store(out + row * stride + column, sum); }, [&](long vectors) { ahead(vectors); });
}

void answer(const Problem &p, const Keys &keys, long b, long h, long start, long stop, float *scores) {
    float *room = scores + QUERIES * keys.lanes;
    const bool as_they_lie = p.out.kind == 0 && keys.width == p.width;
    for (; start < stop; start += QUERIES) {
        const long count = smaller(stop - start, QUERIES);
        Ahead here(p.out, b, h, start, start + count, p.width, count * keys.lanes / LANES);
        Ahead next(p.q, b, h, start + count, smaller(start + count + QUERIES, stop), p.width, count * keys.width / LANES);
        ask(p, keys, b, h, start, count, room, scores, here);
        softmax(p, b, h, start, count, keys.lanes, scores);
        if (as_they_lie) {
            mix(p, keys, count, scores, p.out.floats(b, h, start), p.out.row, next);
            continue;
        }
        mix(p, keys, count, scores, room, keys.width, next);
        for (long t = 0; t < count; t++)
            for (long c = 0; c < p.width; c += LANES)
                p.out.write(p.out.at(b, h, start + t) + c, load(room + t * keys.width + c), p.width - c);
    }
}

Room room_of_few_keys(const Problem &p) { return {Keys::size(p), QUERIES * (padded(p.keys) + padded(p.width))}; }

}  // namespace
