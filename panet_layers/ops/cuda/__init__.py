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
| launching.py    | `Kernel`, `launch`; `machine`: the GPUs and what they allow, which tests replace     |
| compiling.py    | source to machine code, by NVRTC                                                     |
| bindings.py     | calls of NVIDIA's driver and of NVRTC, and their errors                              |
| code_cache.py   | machine code on disk, in `PANET_LAYERS_CACHE` or a folder of the user's cache        |
| baking.py       | for which shapes sizes are compiled in                                               |
| elements.cuh    | reading and writing elements of each dtype, copies to shared memory                  |

What cannot be compiled or loaded, and a launch that the driver refuses, raise `Unusable`; too little memory
torch.OutOfMemoryError; other errors of a launch, such as those of earlier work, RuntimeError.

A launch costs 3.5 us of the host's time with 12 tensors and 5 numbers, 4.6 with 20 and 15: the least of 2000 times 50
launches with a driver that does nothing (tests/kernels/stub_driver.py), and 0.6 us for the driver's binding. A tensor's
address takes 0.09.

torch.cuda has a compiler of its own from version 2.8 on, which is private, keeps nothing on disk and takes floats as
doubles; cuda.core is a package that torch does not bring.
"""
