/* Independent items of work, on torch's own threads: the library uses the OpenMP that torch has loaded. */
#pragma once
#include <omp.h>

#include "vectors.h"

/* Calls work(job, i, own scratch) for each i in [0, items). `size`: a thread's scratch, in scalars. */
static void for_each(idx items, void (*work)(const void*, idx, SCALAR*), const void* job, SCALAR* scratch, idx size,
                     int threads) {
    if (threads > items) threads = items > 1 ? (int)items : 1;
    if (threads == 1) {
        for (idx i = 0; i < items; i++) work(job, i, scratch);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        SCALAR* own = scratch + omp_get_thread_num() * size;
#pragma omp for schedule(dynamic)
        for (idx i = 0; i < items; i++) work(job, i, own);
    }
}
