/* The memory of a call: scratch in pieces, and large new tensors in large pages. */
#pragma once
#include "vectors.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

enum { LARGE_PAGE = 1 << 21 };

/* Scratch is handed out piece by piece; without memory, only its size is found. */
typedef struct {
    SCALAR* at;
    idx size;
} arena;

static inline SCALAR* reserve(arena* a, idx n) {
    SCALAR* piece = a->at ? a->at + a->size : NULL;
    a->size += round_up(n, 16);
    return piece;
}

/* Asks for large pages in the memory, where whole ones fit and the system has them: the first touch of every small page
   of a large tensor takes longer than all else in a call. */
static inline void use_large_pages(char* at, idx bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t first = ((uintptr_t)at + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    uintptr_t last = ((uintptr_t)at + bytes) / LARGE_PAGE * LARGE_PAGE;
    if (last >= first + 2 * LARGE_PAGE) madvise((void*)first, last - first, MADV_HUGEPAGE);
#endif
}
