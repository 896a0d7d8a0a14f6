/* The kernels in double. */
#define SCALAR double
#include "exponential.h"
#include "storage.h"
#include "scam_forward.h"
#include "scam_backward.h"
