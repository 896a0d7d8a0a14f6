/* The kernels in double. */
#define SCALAR double
#include "emam_backward.h"
#include "emam_forward.h"
#include "scam_backward.h"
#include "scam_forward.h"
