"""Tests of the benchmarks, on small inputs."""
