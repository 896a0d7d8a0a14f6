/* The kernels in double. */
#define SCALAR double
#include "storage.h"
