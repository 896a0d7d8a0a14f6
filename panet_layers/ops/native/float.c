/* The kernels in float, which also serve float16 and bfloat16. */
#define SCALAR float
#include "storage.h"
