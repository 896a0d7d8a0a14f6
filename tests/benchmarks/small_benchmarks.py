"""Runs the benchmarks on small inputs, for their tests."""

from __future__ import annotations

import csv

import torch

from benchmarks import run
from panet_layers.ops.native import library

OURS = ["reference", "collapsed", *([] if library.why_not() else ["native"])]  # the backends that run here
TINY = ["--rounds", "3", "--threads", "1"]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(tmp_path, *arguments):
    """Exit code and results of run.py; PyTorch's number of threads is restored."""
    out, threads = tmp_path / "results.csv", torch.get_num_threads()
    try:
        return run.main([*arguments, *TINY, "--out", str(out)]), out
    finally:
        torch.set_num_threads(threads)
