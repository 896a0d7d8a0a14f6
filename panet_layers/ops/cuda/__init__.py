"""CUDA C kernels, compiled when they are first launched: what the layers share.

A launcher names a kernel and launches it, on the current device and stream; all else happens here:

    KERNEL = Kernel(str(FOLDER / "pool.cu"), "pool", (("DT", 0), ("FT", 128)))
    launch(KERNEL, blocks, threads, shared, x, means, planes, eps)

A tensor is passed as a pointer to its first element, an int as a C `int`, a float as a C `float`, a value of ctypes as
itself: `ctypes.c_longlong(n)` for 64 bits. Kernels are `extern "C"`, one in a file, with definitions instead of
template arguments; `#include "elements.cuh"` finds files beside the kernel and in this folder. A launch does not wait,
can be captured in a CUDA graph, and neither reads nor writes anything but what the kernel does.

| file            | holds                                                                                |
|-----------------|--------------------------------------------------------------------------------------|
| launching.py    | `Kernel`, `launch`, `limits`: what a device allows; `machine`, which tests replace   |
| compiling.py    | source to machine code, by NVRTC                                                     |
| code_cache.py   | machine code on disk, in `PANET_LAYERS_CACHE` or a folder of the user's cache        |
| baking.py       | for which shapes sizes are compiled in                                               |
| elements.cuh    | reading and writing elements of each dtype, copies to shared memory                  |

What cannot be compiled or loaded, and a launch that the driver refuses, raise `Unusable`; other errors of a launch,
such as those of earlier work, RuntimeError.
"""
