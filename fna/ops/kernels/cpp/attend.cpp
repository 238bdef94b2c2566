// The two short attentions of attend.hpp as functions of their own.
#include <omp.h>

#include "attend.hpp"

extern "C" void fna_few_queries_scratch(const Problem *p, Room *room) { *room = room_of_few_queries(*p); }
extern "C" void fna_few_keys_scratch(const Problem *p, Room *room) { *room = room_of_few_keys(*p); }

extern "C" void fna_few_queries(const Problem *problem, float *heads, float *own, long threads) {
    const Problem &p = *problem;
    const Part part(p);
    const long pairs = p.batches * p.heads, count = shares(p);
    const auto [head, thread] = room_of_few_queries(p);
    const Look go = look_at(p);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (long task = 0; task < pairs * count; task++) {
            const auto [b, share, h] = place(task, count, p.heads);
            go(p, part, b, h, share, heads + (b * p.heads + h) * head + share * part.size, own + omp_get_thread_num() * thread);
        }
#pragma omp for schedule(static)
        for (long pair = 0; pair < pairs; pair++) merge(p, part, pair / p.heads, pair % p.heads, heads + pair * head);
    }
}

extern "C" void fna_few_keys(const Problem *problem, float *heads, float *own, long threads) {
    const Problem &p = *problem;
    const long pairs = p.batches * p.heads, tasks = (p.queries + TASK - 1) / TASK;
    const auto [head, thread] = room_of_few_keys(p);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long pair = 0; pair < pairs; pair++) {
            Keys(p, heads + pair * head).fill(p, pair / p.heads, pair % p.heads);
        }
#pragma omp for schedule(dynamic)
        for (long task = 0; task < pairs * tasks; task++) {
            const auto [b, block, h] = place(task, tasks, p.heads);
            const Keys keys(p, heads + (b * p.heads + h) * head);
            answer(p, keys, b, h, block * TASK, smaller((block + 1) * TASK, p.queries), own + omp_get_thread_num() * thread);
        }
    }
}
