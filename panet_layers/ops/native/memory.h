/* Large new tensors in large pages: to touch small pages for the first time takes longer than all else in a call. */
#pragma once
#include "vectors.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

enum { LARGE_PAGE = 1 << 21 };

/* Asks for large pages where whole ones lie in the memory; nothing happens where the system does not give them. */
static inline void use_large_pages(char* at, idx bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t first = ((uintptr_t)at + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    uintptr_t last = ((uintptr_t)at + bytes) / LARGE_PAGE * LARGE_PAGE;
    if (last >= first + 2 * LARGE_PAGE) madvise((void*)first, last - first, MADV_HUGEPAGE);
#endif
}
