"""The settings of train.py: type, default, help and group of each, declared once; the options are made from them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from panet_layers.models import panet

from ..common.cli import (
    Parser,
    UserError,
    in_range,
    non_empty,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
)
from ..demo.options import is_demo
from ..evaluating.scoring import AMP_DTYPES

LOCATIONS = (*panet.LOCATIONS, "none")
SMALLEST_IMAGE, LARGEST_IMAGE = 64, 4096


def setting(
    group: str, help: str, default: Any = MISSING, *, tiny: Any = None, may_change: bool = False, **option: Any
) -> Any:
    """A field of Settings and the command-line option made from it; a bool becomes --NAME and --no-NAME.

    Args:
        tiny: the default with ``--variant tiny``, where it differs.
        may_change: whether a resumed run may have another value, since it does not change what an epoch computes.
        option: arguments of ``add_argument``.
    """
    metadata = {"group": group, "help": help, "tiny": tiny, "may_change": may_change, "option": option}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Every setting of a training run. The defaults are the paper's; where the paper gives none, RECCE's."""

    # fmt: off
    data: str = setting(
        "run", 'training data: "demo" (embedded portraits, for demonstration), or a folder with real/ and fake/ or a '
        "manifest.jsonl", may_change=True, type=non_empty, metavar="demo|FOLDER")
    out: str = setting(
        "run", "folder for config, log, checkpoints and the best model", may_change=True, type=non_empty, metavar="RUN")
    methods: str | None = setting(
        "run", "names of the forgery methods to train on, separated by commas, for cross-manipulation tests; None: all",
        None, type=non_empty, metavar="METHOD,...")
    seed: int = setting("run", "determines initial weights, order, flips and noise", 0, type=non_negative_int)

    variant: str = setting(
        "network", "paper: Xception encoder; tiny: the same architecture, narrow and shallow, for CPUs", "paper",
        choices=("paper", "tiny"))
    model: str = setting(
        "network", "recce: PANet without EMAM and SCAM; xception: the plain classifier", "panet",
        choices=("panet", "recce", "xception"))
    emam: str = setting("network", "location of EMAM", "common", choices=LOCATIONS)
    scam: str = setting("network", "location of SCAM", "final", choices=LOCATIONS)
    pretrained: bool = setting("network", "start the encoder from ImageNet weights (downloaded once)", True, tiny=False)
    encoder_weights: str | None = setting(
        "network", "these ImageNet weights, a file of timm's legacy_xception, instead of the download", None,
        may_change=True, type=non_empty, metavar="FILE")
    image_size: int = setting(
        "network", "images are resized to this side length", 299, tiny=64, type=positive_int, metavar="PIXELS")

    epochs: int = setting(  # docs/choices.md: training recipe; losses
        "recipe", "passes over the train split", 40, tiny=20, may_change=True, type=positive_int)
    batch_size: int = setting("recipe", "images per step, over all processes together", 32, type=positive_int)
    batch_per_process: int | None = setting(
        "recipe", "images per step and process, instead of --batch-size: RECCE's code counts so", None,
        type=positive_int)
    lr: float = setting("recipe", "Adam's learning rate", 2e-4, tiny=2e-3, type=positive_float)
    lr_step: int = setting(
        "recipe", "epochs between two reductions of the learning rate; 10 epochs are the 22,500 steps of RECCE's "
        "schedule on its 72,000 images", 10, tiny=6, type=positive_int, metavar="EPOCHS")
    lr_gamma: float = setting("recipe", "factor of each reduction", 0.5, type=in_range(float, 0, 1))
    weight_decay: float = setting("recipe", "Adam's weight decay", 1e-5, type=non_negative_float)
    lambda_reconstruction: float = setting(
        "recipe", "weight of the reconstruction loss", 0.1, type=non_negative_float)
    lambda_metric: float = setting("recipe", "weight of the metric loss", 0.1, type=non_negative_float)
    flood: float = setting(
        "recipe", "flooding level of the classification loss: below it, the loss is driven up again; RECCE uses 0.04",
        0.0, type=non_negative_float, metavar="LEVEL")
    clip_grad: float | None = setting("recipe", "largest gradient norm", None, type=positive_float, metavar="NORM")
    watch_test: bool = setting(
        "recipe", "also log the metrics of the test split after each epoch; val still chooses the best epoch", False)

    device: str = setting("speed", "cpu, cuda, cuda:1, ...; auto: a GPU if there is one", "auto", may_change=True)
    cache: str | None = setting(
        "speed", "read the images already decoded, from the folder that cache.py made from --data", None,
        may_change=True, type=non_empty, metavar="CACHE")
    amp: str = setting("speed", "mixed precision", "none", choices=tuple(AMP_DTYPES))
    channels_last: bool | None = setting(
        "speed", "store images and weights in NHWC order; None: on a CPU, where that is faster", None,
        action=argparse.BooleanOptionalAction)
    workers: int | None = setting(
        "speed", "processes that read images; None: 0 for the demo, else one per core, at most 4", None,
        may_change=True, type=non_negative_int)
    threads: int | None = setting(
        "speed", "CPU threads for the computation; None: OMP_NUM_THREADS, or one per core", None, may_change=True,
        type=in_range(int, 1, 1024))
    checkpoint_every: int | None = setting(
        "speed", "also write last.pt every so many steps, besides twice per epoch", None, may_change=True,
        type=positive_int, metavar="STEPS")
    # fmt: on

    def over(self, processes: int) -> Settings:
        """The settings of a training in that many processes, with the size of the whole batch."""
        if self.batch_per_process is None:
            return self
        return replace(self, batch_size=self.batch_per_process * processes, batch_per_process=None)


FREE_ON_RESUME = {item.name for item in fields(Settings) if item.metadata["may_change"]}
"""Settings that do not change what an epoch computes (data is compared by its fingerprint)."""


def defaults(variant: str) -> dict[str, Any]:
    """The default of each setting that has one. Those of "tiny" suit a small network on a CPU, from scratch."""
    found = {item.name: item.default for item in fields(Settings) if item.default is not MISSING}
    tiny = {item.name: item.metadata["tiny"] for item in fields(Settings) if item.metadata["tiny"] is not None}
    return found | tiny if variant == "tiny" else found


def parse(argv: Sequence[str] | None = None) -> tuple[dict[str, Any], bool]:
    """The settings given on the command line, and whether to resume. UserError (exit code 2) if one is wrong."""
    given = vars(_parser().parse_args(argv))
    return given, given.pop("resume", False)


def settle(given: dict[str, Any]) -> Settings:
    """Add the defaults, and check that the settings fit together."""
    for name in ("data", "out"):
        if name not in given:
            raise UserError(f"--{name} is required (see --help)", exit_code=2)
    if {"batch_size", "batch_per_process"} <= given.keys():
        raise UserError("--batch-size is over all processes, --batch-per-process of each: give one of them", 2)
    plain = {"emam": "none", "scam": "none"} if given.get("model", "panet") != "panet" else {}
    settings = Settings(**defaults(given.get("variant", "paper")) | plain | given)
    if settings.model != "panet" and (settings.emam, settings.scam) != ("none", "none"):
        raise UserError(f"--model {settings.model} has no EMAM or SCAM: --emam and --scam need --model panet", 2)
    if settings.variant == "tiny" and settings.pretrained:
        raise UserError("--pretrained needs --variant paper: there are no ImageNet weights of the tiny encoder", 2)
    if settings.encoder_weights and not settings.pretrained:
        raise UserError("--encoder-weights needs --pretrained, which starts from them", 2)
    if settings.cache and is_demo(settings.data):
        raise UserError("--cache needs --data FOLDER: the demo's images are in memory", 2)
    if settings.image_size < SMALLEST_IMAGE:
        raise UserError(f"--image-size {settings.image_size}: wanted at least {SMALLEST_IMAGE}", 2)
    return settings


def of_whole_batch(given: dict[str, Any], processes: Any) -> dict[str, Any]:
    """The options of a command that resumes a run of so many processes: a run keeps the size of its whole batch."""
    if "batch_size" in given or "batch_per_process" not in given or type(processes) is not int:
        return given
    rest = {name: value for name, value in given.items() if name != "batch_per_process"}
    return rest | {"batch_size": given["batch_per_process"] * processes}


def settle_resumed(given: dict[str, Any], saved: dict[str, Any], file: Path) -> Settings:
    """Join the settings saved in `file` with those given. UserError if one differs that must stay the same."""
    saved = _checked(saved, file)
    for name, value in given.items():
        if name not in FREE_ON_RESUME and name in saved and saved[name] != value:
            raise UserError(
                f"{_option(name)} {value} differs from the run's {saved[name]}: "
                f"leave it out to resume, or start a new run with another --out",
                exit_code=2,
            )
    return settle({**saved, **given})


def _checked(saved: dict[str, Any], file: Path) -> dict[str, Any]:
    """Saved settings, read by the parser again: an edited or damaged file gets the errors of a wrong option."""
    argv = []
    for item in fields(Settings):
        value = saved.get(item.name)
        if value is None and (item.default is None or item.name not in saved):
            continue
        if isinstance(value, bool):
            argv.append(_option(item.name if value else f"no_{item.name}"))
        else:
            argv.append(f"{_option(item.name)}={value}")
    try:
        return parse(argv)[0]
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    free = ", ".join(_option(item.name) for item in fields(Settings) if item.name in FREE_ON_RESUME - {"data", "out"})
    parser = Parser(
        argparse.HelpFormatter,
        prog="train.py",
        description="Train PANet, RECCE or the Xception baseline to tell forged faces from real ones. The defaults are "
        "the paper's: Adam, 40 epochs of batch 32, horizontal flips only.",
        epilog="--resume continues the run in --out from its last checkpoint and reaches the same weights as if it had "
        "not stopped (bit for bit on a CPU with the same --threads). It uses the run's own settings; only these may "
        f"differ: --data (the same images in another folder), {free}.",
        argument_default=argparse.SUPPRESS,
    )
    groups: dict[str, Any] = {}
    paper, tiny = defaults("paper"), defaults("tiny")
    for item in fields(Settings):
        group = item.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        text, option = item.metadata["help"], item.metadata["option"]
        if isinstance(item.default, bool):
            option = {"action": argparse.BooleanOptionalAction}
        if item.name in paper:
            other = f"; tiny: {tiny[item.name]}" if tiny[item.name] != paper[item.name] else ""
            text += f" (default: {paper[item.name]}{other})"
        groups[group].add_argument(_option(item.name), help=text, **option)
    groups["run"].add_argument("--resume", action="store_true", help="continue the run in --out")
    return parser
