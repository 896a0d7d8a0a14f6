/* SCAM's kernels in float, which also serve float16 and bfloat16. */
#define SCALAR float
#include "scam_forward.h"
#include "scam_backward.h"
