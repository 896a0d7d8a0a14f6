"""The fused kernels, interpreted and compiled ahead of time."""
