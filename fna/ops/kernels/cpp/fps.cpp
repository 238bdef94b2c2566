// Farthest-point sampling on a CPU: one pass over the tokens a pick, which updates the distances and finds the next pick.
#include <omp.h>

#include "vectors.hpp"

namespace {

constexpr long GROUP = 4 * LANES;  // tokens side by side in memory, feature after feature

long grouped(long tokens) { return (tokens + GROUP - 1) / GROUP * GROUP; }

struct Found {  // the token farthest from all that is chosen, among some
    float distance;
    long token;
};

struct Part {  // the tokens that a thread looks after, whole groups; threads that share a row meet once a pick
    long start, stop, number, of;
    Part(long tokens, long number, long of) : number(number), of(of) {
        const long groups = grouped(tokens) / GROUP;
        start = groups * number / of * GROUP, stop = groups * (number + 1) / of * GROUP;
    }
    void meet() const {
        if (of > 1) {
#pragma omp barrier
        }
    }
};

constexpr long MOST_PARTS = 64;
constexpr long SHARE = 1024;  // tokens for which a thread of its own is worth the meetings

void regroup(const float *x, long tokens, long width, const Part &part, float *points) {
    for (long start = part.start; start < part.stop; start += GROUP)
        for (long t = 0; t < GROUP; t++) {
            const float *row = x + (start + t < tokens ? start + t : 0) * width;  // what fills the last group is never chosen
            for (long c = 0; c < width; c++) points[start * width + c * GROUP + t] = row[c];
        }
}

// Brings `nearest` (squared distance to what is chosen) up to date with a new centre; the token farthest from all, the lowest
// among equals.
Found farthest(const float *points, const float *centre, const Part &part, long width, float *nearest) {
    vec best = fill(NEVER);
    ivec place = {}, lane;
    for (long j = 0; j < LANES; j++) lane[j] = int32_t(j);
    for (long start = part.start; start < part.stop; start += GROUP) {
        const float *group = points + start * width;
        vec sum[4] = {};
        for (long c = 0; c < width; c++) {
            vec at = fill(centre[c]);
#pragma GCC unroll 4
            for (long i = 0; i < 4; i++) {
                vec gap = load(group + c * GROUP + i * LANES) - at;
                sum[i] += gap * gap;
            }
        }
#pragma GCC unroll 4
        for (long i = 0; i < 4; i++) {
            vec before = load(nearest + start + i * LANES), now = sum[i] < before ? sum[i] : before;
            store(nearest + start + i * LANES, now);
            place = now > best ? lane + int32_t(start + i * LANES) : place;
            best = larger(now, best);
        }
    }
    Found found = {NEVER, 0};
    for (long j = 0; j < LANES; j++)
        if (best[j] > found.distance || (best[j] == found.distance && place[j] < found.token)) found = {best[j], place[j]};
    return found;
}

// One row: kept tokens first, in order, then the farthest allowed ones; token 0 once none is left. All threads of a row take the
// same picks; `founds` has room for two picks of each.
void choose(const float *x, const bool *kept, const bool *allowed, long tokens, long width, long count, const Part &part,
            int64_t *chosen, float *scratch, Found *founds) {
    float *nearest = scratch, *points = scratch + grouped(tokens);
    regroup(x, tokens, width, part, points);
    for (long t = part.start; t < part.stop; t++)
        nearest[t] = t >= tokens || (allowed && !allowed[t]) || (kept && kept[t]) ? NEVER : std::numeric_limits<float>::max();
    part.meet();
    long waiting = 0, next = 0;
    while (next < tokens - 1 && nearest[next] == NEVER) next++;
    part.meet();
    for (long picked = 0; picked < count; picked++) {
        while (kept && waiting < tokens && !kept[waiting]) waiting++;
        const long pick = kept && waiting < tokens ? waiting++ : next;
        if (part.number == 0) chosen[picked] = pick;
        if (pick >= part.start && pick < part.stop) nearest[pick] = NEVER;
        Found *here = founds + picked % 2 * part.of;
        here[part.number] = farthest(points, x + pick * width, part, width, nearest);
        part.meet();
        Found best = here[0];
        for (long i = 1; i < part.of; i++)
            if (here[i].distance > best.distance) best = here[i];  // parts are in order: of equals the first
        next = best.distance == NEVER ? 0 : best.token;
    }
}

}  // namespace

extern "C" long fna_farthest_points_scratch(long tokens, long width) { return grouped(tokens) * (width + 1); }

// x [rows, tokens, width]; kept and allowed [rows, tokens] or null; chosen [rows, count]; scratch for as many at once as threads or
// rows, whichever is less.
extern "C" void fna_farthest_points(const float *x, const bool *kept, const bool *allowed, long rows, long tokens, long width,
                                    long count, int64_t *chosen, float *scratch, long threads) {
    const long share = fna_farthest_points_scratch(tokens, width);
    auto row_of = [&](long row, const Part &part, float *own, Found *founds) {
        choose(x + row * tokens * width, kept ? kept + row * tokens : nullptr, allowed ? allowed + row * tokens : nullptr, tokens, width,
               count, part, chosen + row * count, own, founds);
    };
    const long team = smaller(smaller(threads / rows, tokens / SHARE), MOST_PARTS);
    if (team > 1) {
        Found founds[2 * MOST_PARTS];
#pragma omp parallel num_threads(team)
        for (long row = 0; row < rows; row++) {
            row_of(row, Part(tokens, omp_get_thread_num(), omp_get_num_threads()), scratch, founds);
#pragma omp barrier
        }
        return;
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        Found founds[2];
        row_of(row, Part(tokens, 0, 1), scratch + (rows < threads ? row : omp_get_thread_num()) * share, founds);
    }
}
