"""Compiled GPU kernels on a CPU, instruction by instruction; README.md says what is checked and what is not."""
