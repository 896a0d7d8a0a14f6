/* EMAM's kernels in float, which also serve float16 and bfloat16. */
#define SCALAR float
#include "emam_forward.h"
#include "emam_backward.h"
