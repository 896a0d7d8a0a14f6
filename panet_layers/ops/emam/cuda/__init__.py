"""EMAM in CUDA C, for contiguous maps: launchers in forward.py and backward.py (starting.py), kernels in *.cu, sizes of
blocks in planning.py and backward_plans.py."""
