"""Speed and memory of the layers and the detector against every baseline: `python benchmarks/run.py --help`."""
