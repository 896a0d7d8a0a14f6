"""The command line of run.py, checked before anything is measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks.cases import BOTH, DTYPES, LAYERS, LAYOUTS, PASSES, SELECTIONS, SUITES, Grid, Variants, is_detector
from benchmarks.contenders import contenders

DEFAULT_OUT = "benchmarks/results/{device}.csv"


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parse(arguments: list[str] | None, description: str | None) -> argparse.Namespace:
    """The options of run.py, and `grids`, the inputs that they ask for."""
    parser = Parser(prog="benchmarks/run.py", description=description)
    parser.add_argument("--layer", choices=dict.fromkeys((*SELECTIONS, *LAYERS)), default="all", help="default: all")
    parser.add_argument("--pass", dest="pass_", choices=(*PASSES, "both"), default="both", help="default: both")
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
    parser.add_argument("--rounds", type=positive, default=15, help="rounds of samples; default: 15")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads; default: 2")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--out", type=Path, metavar="CSV", help=f"default: {DEFAULT_OUT.format(device='DEVICE')}")
    parser.add_argument("--list", action="store_true", help="print what would be measured, measure nothing")
    args = parser.parse_args(arguments)
    _check(parser, args)
    variants = Variants(args.compile, args.max_autotune, args.graph)
    grid = Grid(_layers(args), args.shape, tuple(args.dtype), tuple(args.layout), variants)
    args.out = args.out or Path(DEFAULT_OUT.format(device=args.device))
    args.grids = SUITES[args.suite] if args.suite else (grid,)
    return args


def _layers(args: argparse.Namespace) -> tuple[str, ...]:
    return SELECTIONS.get(args.layer, (args.layer,))


def _check(parser: Parser, args: argparse.Namespace) -> None:
    """What argparse cannot check: shapes against the layer, backends of the layer, whether there is a GPU."""
    layers = _layers(args)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no CUDA device here; choose cpu")
    if args.device == "cpu" and (args.graph or args.suite):
        parser.error(f"argument {'--graph' if args.graph else '--suite'}: needs --device cuda")
    known = list(dict.fromkeys(c.name for layer in layers for c in contenders(layer, args.device)))
    for name in args.backends or ():
        if name not in known:
            choice = f"choose from {', '.join(known)}"
            parser.error(f"argument --backends: {name!r} is not a contender of {args.layer}; {choice}")
    for shape in args.shape or ():
        text, (_, channels, height, width, groups) = ",".join(map(str, shape)), shape
        if {"emam", BOTH} & set(layers) and channels % groups:
            parser.error(f"argument --shape: {text}: EMAM's groups G must divide its channels C")
        if any(map(is_detector, layers)) and (channels != 3 or min(height, width) < 64):
            parser.error(f"argument --shape: {text}: the detector takes images, C = 3 and H, W at least 64")


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 5 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"wanted five positive numbers B,C,H,W,G, got {text!r}")
    return sizes


def positive(text: str) -> int:
    """A positive integer from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a positive number, got {text!r}")
    return int(text)
