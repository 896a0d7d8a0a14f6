"""CUDA C kernels, compiled when they are first launched: what the layers share.

A launcher names a kernel and launches it, on the current device and stream; all else happens here:

    KERNEL = Kernel(str(FOLDER / "pool.cu"), "pool", (("DT", 0), ("FT", 128)))
    launch(KERNEL, blocks, threads, shared, x, means, planes, eps)

Arguments are tensors, then numbers. A tensor is passed as a pointer to its first element, an int as a C `int`, a float
as a C `float`; the kinds of the first launch are those of all. Kernels are `extern "C"`, one in a file, with
definitions instead of template arguments; `#include "elements.cuh"` finds files beside the kernel and in this folder.
A launch does not wait, can be captured in a CUDA graph, and neither reads nor writes anything but what the kernel does.

| file            | holds                                                                                |
|-----------------|--------------------------------------------------------------------------------------|
| launching.py    | `Kernel`, `launch`, `limits`: what a device allows; `machine`, which tests replace   |
| compiling.py    | source to machine code, by NVRTC                                                     |
| code_cache.py   | machine code on disk, in `PANET_LAYERS_CACHE` or a folder of the user's cache        |
| baking.py       | for which shapes sizes are compiled in                                               |
| elements.cuh    | reading and writing elements of each dtype, copies to shared memory                  |

What cannot be compiled or loaded, and a launch that the driver refuses, raise `Unusable`; too little memory
torch.OutOfMemoryError; other errors of a launch, such as those of earlier work, RuntimeError.

A launch costs 3.7 us of the host's time with 17 arguments and 5.0 with 35, of which 0.6 are the driver's binding's: the
least of 2000 times 50 launches with a driver that does nothing, on a CPU that was busy otherwise.
"""
