"""Experiments of reproduce.py, as its options describe them."""

import reproduce
from deepfake.reproducing.plan import Experiment


def experiment_of(*options: str) -> Experiment:
    args = vars(reproduce._parser().parse_args(reproduce.joined(["FFPP", "OUT", *options])))
    return reproduce.read_experiment({name: args[name] for name in args if name not in ("plan", "estimate", "step")})
