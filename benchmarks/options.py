"""The options of the benchmarks, checked before anything is measured: run.py's, and what others share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from benchmarks.cases import LAYERS, SELECTIONS, SUITES, Grid, is_detector
from benchmarks.contenders import contenders
from panet_layers.command_line import Parser, path
from panet_layers.measuring.cases import BOTH, DTYPES, LAYOUTS, PASSES

DEFAULT = "default: %(default)s"  # how a help text ends
DEFAULT_OUT = "benchmarks/results/{name}.csv"


def build_parser(description: str | None) -> Parser:
    """Return the parser of run.py's options."""
    parser = Parser(prog="benchmarks/run.py", description=description)
    parser.add_argument("--layer", choices=dict.fromkeys((*SELECTIONS, *LAYERS)), default="all", help=DEFAULT)
    parser.add_argument("--pass", dest="pass_", choices=(*PASSES, "both"), default="both", help=DEFAULT)
    parser.add_argument("--shape", type=_shape, nargs="+", metavar="B,C,H,W,G", help="default: the layer's own list")
    parser.add_argument("--suite", choices=SUITES, help="a fixed list of inputs and contenders, not these options")
    parser.add_argument("--batch", type=positive, metavar="B", help="batch size, instead of that of the shapes")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["float32"], help="default: float32")
    parser.add_argument("--layout", choices=LAYOUTS, nargs="+", default=["contiguous"], help="default: contiguous")
    parser.add_argument("--backends", nargs="+", metavar="NAME", help="contenders beside the reference; default: all")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of every backend (takes minutes)")
    parser.add_argument("--max-autotune", action="store_true", help="also the reference in that mode (takes minutes)")
    parser.add_argument("--graph", action="store_true", help="also every contender in a CUDA graph")
    parser.add_argument("--resume", action="store_true", help="skip what the CSV has of this commit on this machine")
    parser.add_argument("--minutes", type=positive, default=10**6, help="start no input after this; default: no limit")
    parser.add_argument("--rounds", type=positive, default=15, help=f"rounds of samples; {DEFAULT}")
    parser.add_argument("--threads", type=positive, default=2, help=f"CPU threads; {DEFAULT}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=DEFAULT)
    parser.add_argument(
        "--out",
        type=path,
        metavar="CSV",
        help=f"default: {DEFAULT_OUT.format(name='DEVICE')}, or growth.csv of that suite",
    )
    parser.add_argument("--list", action="store_true", help="print what would be measured, measure nothing")
    return parser


def find_fault(grid: Grid, suite: str | None, device: str, backends: Sequence[str]) -> str:
    """Return what argparse cannot find, or "": no GPU, wrong contenders or shapes of the layers."""
    if missing := find_no_gpu(device):
        return missing
    if device == "cpu" and (grid.variants.graphs or suite == "gpu"):
        return f"{'--graph' if grid.variants.graphs else '--suite gpu'}: needs --device cuda"
    known = list(dict.fromkeys(c.name for layer in grid.layers for c in contenders(layer, device)))
    for name in backends:
        if name not in known:
            return f"--backends: {name!r} is not a contender of these layers; choose from {', '.join(known)}"
    for shape in grid.shapes or ():
        text, (_, channels, height, width, groups) = ",".join(map(str, shape)), shape
        if {"emam", BOTH} & set(grid.layers) and channels % groups:
            return f"--shape: {text}: EMAM's groups G must divide its channels C"
        if any(map(is_detector, grid.layers)) and (channels != 3 or min(height, width) < 64):
            return f"--shape: {text}: the detector takes images, C = 3 and H, W at least 64"
    return ""


def find_no_gpu(device: str) -> str:
    """Return why the device cannot be used, or ""."""
    if device != "cuda" or torch.cuda.is_available():
        return ""
    return "--device: torch finds no CUDA device here; choose cpu"


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) if part.strip().isdecimal() else 0 for part in text.split(","))
    if len(sizes) != 5 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"wanted five positive numbers B,C,H,W,G, got {text!r}")
    return sizes


def positive(text: str) -> int:
    """Return a positive integer from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a positive number, got {text!r}")
    return int(text)
