"""Do EMAM and SCAM help, and where? Trains and evaluates the detector with each of them off and at every location.

    python examples/deepfake/ablate.py --data data/ffpp_c23 --out runs/ablation --seeds 0 1 2

A case is EMAM's location / SCAM's location: `common`, `fusion`, `guided`, `final` or `none`. none/none is RECCE,
common/final PANet. The default is 16 of the 25 cases: each layer alone at each location, and each at every location
while the other stays where PANet has it. All other options go to every training (--variant tiny, --epochs 20, ...; see
train.py --help).

OUT gets a folder for each run, OUT/CASE/seedN, and ablation.json and ablation.md, the table of all runs in OUT: mean
and spread over the seeds, and the difference from none/none. After a stop, the same command continues. Several machines
can share the work: give them the same OUT, and each its own --cases or --seeds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate
import train
from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, non_empty, non_negative_int, reading_input
from deepfake.common.destination import claim_destination
from deepfake.data import open_split
from deepfake.reproducing.ablation_table import ALL, PANET, Case, metrics_file, run_folder, write_table
from deepfake.training import settings
from deepfake.training.checkpoint import CONFIG

SETTINGS = "ablate.json"
DEFAULT = [case for case in ALL if "none" in case or case[0] == PANET[0] or case[1] == PANET[1]]
SET_HERE = {"seed", "emam", "scam", "model"}  # the options of train.py that ablate.py sets


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args, for_train = _parser().parse_known_args(argv)
    training = training_options(args.data, args.out, for_train)
    with reading_input():
        images = open_split(args.data, "test", settings.SMALLEST_IMAGE)
        claim_destination(args.out, SETTINGS, {"dataset": images.fingerprint, "training": training})
    for number, (case, seed) in enumerate(runs := list(itertools.product(args.cases, args.seeds)), start=1):
        print(f"\n== {number} of {len(runs)}: EMAM {case[0]}, SCAM {case[1]}, seed {seed}", flush=True)
        run_once(args.data, args.out, case, seed, for_train)
        write_table(args.out, args.data, training)
    table = (args.out / "ablation.md").read_text(encoding="utf-8")
    print(f"\n{table}\nwrote ablation.json and ablation.md to {args.out}")


def run_once(data: str, out: Path, case: Case, seed: int, for_train: Sequence[str]) -> None:
    """Train and evaluate one case with one seed, as far as that is not done."""
    run = run_folder(out, case, seed)
    if metrics_file(run, data).is_file():
        print(f"{run}: done already")
        return
    own = ["--emam", case[0], "--scam", case[1], "--seed", str(seed), "--out", str(run)]
    again = ["--resume"] if (run / CONFIG).is_file() else []
    train.main(["--data", data, *for_train, *own, *again])
    given, _ = settings.parse(for_train)
    same = [f"--{name}={given[name]}" for name in ("device", "workers") if name in given]
    evaluate.main([str(run), "--data", data, *same])


def training_options(data: str, out: Path, for_train: Sequence[str]) -> dict[str, Any]:
    """The given options of train.py that decide the results. UserError, before any work, if they are wrong."""
    given, resume = settings.parse(for_train)
    if resume or SET_HERE & given.keys():
        option = "resume" if resume else min(SET_HERE & given.keys())
        raise UserError(f"--{option} is set by ablate.py; use --cases or --seeds, or repeat the command to resume", 2)
    settings.settle({**given, "data": data, "out": str(out)})
    free = settings.FREE_ON_RESUME - {"epochs"}
    return {name: value for name, value in given.items() if name not in free}


def _case(text: str) -> Case:
    emam, _, scam = text.partition("/")
    if (emam, scam) not in ALL:
        raise argparse.ArgumentTypeError(f"{text!r} is not EMAM/SCAM, two of {', '.join(settings.LOCATIONS)}")
    return emam, scam


def _parser() -> Parser:
    parser = Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--data", type=non_empty, required=True, metavar="demo|FOLDER", help="what to train and test on"
    )
    parser.add_argument("--out", type=cli.path, required=True, help="folder for the runs and the table")
    parser.add_argument(
        "--cases",
        type=_case,
        nargs="+",
        default=DEFAULT,
        metavar="EMAM/SCAM",
        help="locations, as none/none or common/final (default: 16 of the 25)",
    )
    parser.add_argument(
        "--seeds", type=non_negative_int, nargs="+", default=[0, 1, 2], metavar="SEED", help="default: 0 1 2"
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
