// Farthest-point sampling on a CPU: one pass over the tokens a pick, which updates the distances and finds the next pick.
#include <omp.h>

#include "vectors.hpp"

namespace {

constexpr long GROUP = 4 * LANES;  // tokens side by side in memory, feature after feature

long grouped(long tokens) { return (tokens + GROUP - 1) / GROUP * GROUP; }

void regroup(const float *x, long tokens, long width, float *points) {
    for (long start = 0; start < tokens; start += GROUP)
        for (long t = 0; t < GROUP; t++) {
            const float *row = x + (start + t < tokens ? start + t : 0) * width;  // what fills the last group is never chosen
            for (long c = 0; c < width; c++) points[start * width + c * GROUP + t] = row[c];
        }
}

// Brings `nearest` (squared distance to what is chosen) up to date with a new centre; the token farthest from all, the lowest
// among equals.
long farthest(const float *points, const float *centre, long tokens, long width, float *nearest) {
    vec best = fill(NEVER);
    ivec place = {}, lane;
    for (long j = 0; j < LANES; j++) lane[j] = int32_t(j);
    for (long start = 0; start < tokens; start += GROUP) {
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
    long found = 0;
    float top = NEVER;
    for (long j = 0; j < LANES; j++)
        if (best[j] > top || (best[j] == top && place[j] < found)) top = best[j], found = place[j];
    return found;
}

// One row: kept tokens first, in order, then the farthest allowed ones; token 0 once none is left.
void choose(const float *x, const bool *kept, const bool *allowed, long tokens, long width, long count, int64_t *chosen,
            float *scratch) {
    float *nearest = scratch, *points = scratch + grouped(tokens);
    regroup(x, tokens, width, points);
    for (long t = 0; t < grouped(tokens); t++)
        nearest[t] = t >= tokens || (allowed && !allowed[t]) || (kept && kept[t]) ? NEVER : std::numeric_limits<float>::max();
    long waiting = 0, next = 0, picked = 0;
    while (next < tokens - 1 && nearest[next] == NEVER) next++;
    for (; picked < count; picked++) {
        while (kept && waiting < tokens && !kept[waiting]) waiting++;
        long pick = kept && waiting < tokens ? waiting++ : next;
        chosen[picked] = pick;
        nearest[pick] = NEVER;
        next = farthest(points, x + pick * width, tokens, width, nearest);
    }
}

}  // namespace

extern "C" long fna_farthest_points_scratch(long tokens, long width) { return grouped(tokens) * (width + 1); }

// x [rows, tokens, width]; kept and allowed [rows, tokens] or null; chosen [rows, count]; scratch for as many at once as threads or
// rows, whichever is less.
extern "C" void fna_farthest_points(const float *x, const bool *kept, const bool *allowed, long rows, long tokens, long width,
                                    long count, int64_t *chosen, float *scratch, long threads) {
    const long share = fna_farthest_points_scratch(tokens, width);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long row = 0; row < rows; row++)
        choose(x + row * tokens * width, kept ? kept + row * tokens : nullptr, allowed ? allowed + row * tokens : nullptr, tokens,
               width, count, chosen + row * count, scratch + (rows < threads ? row : omp_get_thread_num()) * share);
}
