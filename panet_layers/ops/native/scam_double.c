/* SCAM's kernels in double. */
#define SCALAR double
#include "scam_forward.h"
#include "scam_backward.h"
