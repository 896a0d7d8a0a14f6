"""The arguments of train.py: names, defaults (the paper's), what fits with what, and what a resumed run may change."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..common.cli import (
    Parser,
    UserError,
    fraction,
    non_empty,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
)

LOCATIONS = ("common", "fusion", "guided", "final", "none")
SMALLEST_IMAGE = 64


@dataclass(frozen=True)
class Settings:
    """Every argument of a training run. The defaults are the paper's; where it is silent, RECCE's."""

    data: str
    out: str
    cache: str | None = None
    variant: str = "paper"
    model: str = "panet"
    emam: str = "common"
    scam: str = "final"
    pretrained: bool = True
    image_size: int = 299
    epochs: int = 40
    batch_size: int = 32
    lr: float = 2e-4
    lr_step: int = 10
    lr_gamma: float = 0.5
    weight_decay: float = 1e-5
    lambda_reconstruction: float = 0.1
    lambda_metric: float = 0.1
    flood: float = 0.0
    clip_grad: float | None = None
    amp: str = "none"
    channels_last: bool = False
    seed: int = 0
    methods: str | None = None
    workers: int | None = None
    threads: int | None = None
    device: str = "auto"
    checkpoint_every: int | None = None
    watch_test: bool = False


TINY: dict[str, Any] = {
    "pretrained": False, "image_size": 64, "epochs": 20, "lr": 2e-3, "lr_step": 6, "channels_last": True,
}  # fmt: skip
"""What ``--variant tiny`` defaults to instead: a small network from scratch, for CPUs (where NHWC is much faster)."""

FREE_ON_RESUME = {"data", "out", "cache", "epochs", "workers", "threads", "device", "checkpoint_every"}
"""Arguments that do not change what an epoch computes (data is compared by its fingerprint)."""


def parse(argv: Sequence[str] | None = None) -> tuple[dict[str, Any], bool]:
    """The arguments that were given, by Settings' names, and whether to resume. UserError (exit code 2) if wrong."""
    given = vars(_parser().parse_args(argv))
    return given, given.pop("resume", False)


def settle(given: dict[str, Any]) -> Settings:
    """Fill in the defaults and check what fits with what."""
    for name in ("data", "out"):
        if name not in given:
            raise UserError(f"--{name} is required (see --help)", exit_code=2)
    defaults: dict[str, Any] = dict(TINY) if given.get("variant") == "tiny" else {}
    if given.get("model", "panet") != "panet":
        defaults |= {"emam": "none", "scam": "none"}
    settings = Settings(**{**defaults, **given})
    if settings.model != "panet" and (settings.emam, settings.scam) != ("none", "none"):
        raise UserError(f"--model {settings.model} has no EMAM or SCAM: --emam and --scam need --model panet", 2)
    if settings.variant == "tiny" and settings.pretrained:
        raise UserError("--pretrained needs --variant paper: there are no ImageNet weights of the tiny encoder", 2)
    if settings.cache and settings.data == "demo":
        raise UserError("--cache needs --data FOLDER: the demo's images are in memory", 2)
    if settings.image_size < SMALLEST_IMAGE:
        raise UserError(f"--image-size {settings.image_size}: wanted at least {SMALLEST_IMAGE}", 2)
    return settings


def settle_resumed(given: dict[str, Any], saved: dict[str, Any], file: Path) -> Settings:
    """The arguments saved in `file` with the given ones that may differ; any other difference is refused by name."""
    saved = _parsed_again(saved, file)
    for name, value in given.items():
        if name not in FREE_ON_RESUME and name in saved and saved[name] != value:
            raise UserError(
                f"{_option(name)} {value} differs from the run's {saved[name]}: "
                f"leave it out to resume, or start a new run with another --out",
                exit_code=2,
            )
    return settle({**saved, **given})


def _parsed_again(saved: dict[str, Any], file: Path) -> dict[str, Any]:
    """Saved arguments through the parser, which refuses what a hand or a disk has spoilt as it does any other."""
    argv = []
    for field in fields(Settings):
        value = saved.get(field.name)
        if value is None and (field.default is None or field.name not in saved):
            continue
        if isinstance(value, bool):
            argv.append(_option(field.name if value else f"no_{field.name}"))
        else:
            argv.append(f"{_option(field.name)}={value}")
    try:
        return parse(argv)[0]
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _defaults(name: str) -> str:
    """How --help tells a default: the paper's and, where it differs, the tiny variant's."""
    paper = next(field.default for field in fields(Settings) if field.name == name)
    return f"default: {paper}" + (f"; tiny: {TINY[name]}" if name in TINY else "")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="train.py",
        description="Train PANet, RECCE or the Xception baseline to tell forged faces from real ones. The defaults are "
        "the paper's: Adam, 40 epochs of batch 32, horizontal flips only.",
        epilog="--resume continues the run in --out where its last checkpoint stands, to the same weights as if it had "
        "not stopped (bit for bit on a CPU with the same --threads). It takes the run's own arguments; only --data "
        "(the same images elsewhere), --cache, --epochs, --workers, --threads, --device and --checkpoint-every may "
        "change.",
        argument_default=argparse.SUPPRESS,
    )

    def add(group: Any, name: str, help: str, **options: Any) -> None:
        tail = "" if name in ("data", "out") else f" ({_defaults(name)})"
        group.add_argument(_option(name), help=help + tail, **options)

    run = parser.add_argument_group("run")
    add(run, "data", 'what to train on: "demo" (drawn faces, a demonstration), or a folder with real/ and fake/ '
        "or a manifest.jsonl", type=non_empty, metavar="demo|FOLDER")  # fmt: skip
    add(run, "out", "folder for config, log, checkpoints and the best model", type=non_empty, metavar="RUN")
    run.add_argument("--resume", action="store_true", help="continue the run in --out")
    add(run, "methods", "fakes to train on, names with commas between, for cross-manipulation tests; None: all",
        type=non_empty, metavar="METHOD,...")  # fmt: skip
    add(run, "seed", "fixes the initial weights, order, flips and noise", type=non_negative_int)

    net = parser.add_argument_group("network")
    add(net, "variant", "paper: Xception encoder; tiny: the same architecture, narrow and shallow, for CPUs",
        choices=("paper", "tiny"))  # fmt: skip
    add(net, "model", "recce: PANet without EMAM and SCAM; xception: the plain classifier",
        choices=("panet", "recce", "xception"))  # fmt: skip
    add(net, "emam", "where EMAM sits", choices=LOCATIONS)
    add(net, "scam", "where SCAM sits", choices=LOCATIONS)
    add(net, "pretrained", "start the encoder from ImageNet weights (fetched once)",
        action=argparse.BooleanOptionalAction)  # fmt: skip
    add(net, "image_size", "side in pixels that images are resized to", type=positive_int, metavar="PIXELS")

    recipe = parser.add_argument_group("recipe")
    add(recipe, "epochs", "passes over the train split", type=positive_int)
    add(recipe, "batch_size", "images a step, over all processes together", type=positive_int)
    add(recipe, "lr", "Adam's learning rate", type=positive_float)
    add(recipe, "lr_step", "epochs between two cuts of the learning rate; 10 epochs are the 22,500 steps of RECCE's "
        "schedule on its 72,000 images", type=positive_int, metavar="EPOCHS")  # fmt: skip
    add(recipe, "lr_gamma", "factor of each cut", type=fraction)
    add(recipe, "weight_decay", "Adam's weight decay", type=non_negative_float)
    add(recipe, "lambda_reconstruction", "weight of the reconstruction loss", type=non_negative_float)
    add(recipe, "lambda_metric", "weight of the metric loss", type=non_negative_float)
    add(recipe, "flood", "level that the classification loss is kept around; RECCE uses 0.04", type=non_negative_float,
        metavar="LEVEL")  # fmt: skip
    add(recipe, "clip_grad", "largest norm of the gradient", type=positive_float, metavar="NORM")

    add(recipe, "watch_test", "log the test split's figures after each epoch too; val chooses the epoch all the same",
        action=argparse.BooleanOptionalAction)  # fmt: skip

    speed = parser.add_argument_group("speed")
    add(speed, "device", "cpu, cuda, cuda:1, ...; auto takes a GPU if there is one")
    add(speed, "cache", "read the images decoded, from what cache.py made of --data", type=non_empty, metavar="CACHE")
    add(speed, "amp", "mixed precision", choices=("none", "bf16", "fp16"))
    add(speed, "channels_last", "keep images and weights in NHWC order", action=argparse.BooleanOptionalAction)
    add(speed, "workers", "processes that read images; None: 0 for the demo, else one a core, at most 4",
        type=non_negative_int)  # fmt: skip
    add(speed, "threads", "CPU threads for the arithmetic; None: one a core", type=positive_int)
    add(speed, "checkpoint_every", "write last.pt every so many steps too, besides twice an epoch", type=positive_int,
        metavar="STEPS")  # fmt: skip
    return parser
