"""The benchmarks in little."""
