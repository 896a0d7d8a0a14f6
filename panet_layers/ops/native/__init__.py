"""Compiled kernels for CPUs: C sources, the file that compiles them, the file that finds and loads the result."""
