"""What of the published papers and code this package reproduces, line by line: `python -m benchmarks.fidelity`."""
