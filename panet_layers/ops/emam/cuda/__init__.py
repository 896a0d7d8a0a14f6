"""EMAM on contiguous maps, in CUDA C."""
