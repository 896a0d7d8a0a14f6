"""EMAM in CUDA C, for contiguous maps: launchers in forward.py, sizes of blocks in planning.py, kernels in *.cu."""
