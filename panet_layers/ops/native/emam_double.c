/* EMAM's kernels in double. */
#define SCALAR double
#include "emam_forward.h"
#include "emam_backward.h"
