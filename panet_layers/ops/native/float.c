/* The kernels in float, which also serve float16 and bfloat16. */
#define SCALAR float
#include "emam_backward.h"
#include "emam_forward.h"
#include "scam_backward.h"
#include "scam_forward.h"
