"""Do EMAM and SCAM help, and where? Trains and evaluates the detector with each of them off and at every place.

    python examples/deepfake/ablate.py --data data/ffpp_c23 --out runs/ablation --seeds 0 1 2

A case is EMAM's place / SCAM's place: `common`, `fusion`, `guided`, `final` or `none`; none/none is RECCE, common/final
PANet. By default 16 of the 25: each layer alone at each place, and each moved about while the other is where PANet has
it. Options that are not ablate.py's own go to every training (--variant tiny, --epochs 20, ...; see train.py --help).

OUT gets a folder for each run, OUT/CASE/seedN, and ablation.json and ablation.md, the table of all runs that OUT holds:
mean and spread over the seeds, and the difference from none/none. Stopped and started again, it goes on where it was.
Several machines can share the work: give each its own --cases or --seeds, and the same OUT.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import train
from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, non_empty, non_negative_int, reading_input
from deepfake.common.destination import claim_destination
from deepfake.common.files import read_json, replacing, write_json
from deepfake.dataset.images import open_split
from deepfake.training import settings
from deepfake.training.checkpoint import CONFIG
from deepfake.training.distributed import pick_device
from evaluate import evaluate, name_of

Case = tuple[str, str]  # where EMAM is, where SCAM is

SETTINGS = "ablate.json"
RECCE, PANET = ("none", "none"), ("common", "final")
ALL: list[Case] = sorted(itertools.product(settings.LOCATIONS, settings.LOCATIONS), key=lambda case: case != RECCE)
DEFAULT = [case for case in ALL if "none" in case or case[0] == PANET[0] or case[1] == PANET[1]]
FIGURES = (("frame", "auc"), ("frame", "acc"), ("video", "auc"), ("video", "acc"))
OWN = {"seed", "emam", "scam", "model"}  # of train.py's options, those that ablate.py sets


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args, for_train = _parser().parse_known_args(argv)
    given = _training_options(args.data, args.out, for_train)
    with reading_input():
        images = open_split(args.data, "test", settings.SMALLEST_IMAGE)
        claim_destination(args.out, SETTINGS, {"dataset": images.fingerprint, "training": given})
    for number, (case, seed) in enumerate(plan := list(itertools.product(args.cases, args.seeds)), start=1):
        print(f"\n== {number} of {len(plan)}: EMAM {case[0]}, SCAM {case[1]}, seed {seed}", flush=True)
        run_once(args.data, args.out, case, seed, for_train)
        write_table(args.out, args.data)
    table = (args.out / "ablation.md").read_text(encoding="utf-8")
    print(f"\n{table}\nwrote ablation.json and ablation.md to {args.out}")


def run_once(data: str, out: Path, case: Case, seed: int, for_train: Sequence[str]) -> None:
    """Train and evaluate one case with one seed, as far as that is not done."""
    run = out / f"{case[0]}-{case[1]}" / f"seed{seed}"
    if _results(run, data).is_file():
        print(f"{run}: done before")
        return
    own = ["--emam", case[0], "--scam", case[1], "--seed", str(seed), "--out", str(run)]
    again = ["--resume"] if (run / CONFIG).is_file() else []
    train.main(["--data", data, *for_train, *own, *again])
    given, _ = settings.parse(for_train)
    evaluate(run, data, device=pick_device(given.get("device", "auto")), workers=given.get("workers"))


def write_table(out: Path, data: str) -> None:
    """ablation.json and ablation.md of all the runs in `out`."""
    cases, training = gather(out, data), read_json(out / SETTINGS)["training"]
    write_json(out / "ablation.json", {"data": data, "cases": cases})
    with replacing(out / "ablation.md") as file:
        file.write(markdown(cases, data, training).encode(errors="replace"))


def gather(out: Path, data: str) -> list[dict[str, Any]]:
    """Each case that has results: its runs by seed, the mean and spread of each figure, and those of the differences
    from none/none with the same seed. The spread is the sample's standard deviation, null for one run.

    UserError where two runs were not tested on the same images."""
    found: list[dict[str, Any]] = []
    for case in ALL:
        folder = out / f"{case[0]}-{case[1]}"
        seeds = sorted(
            int(run.name.removeprefix("seed"))
            for run in folder.glob("seed*")
            if run.name.removeprefix("seed").isdecimal() and _results(run, data).is_file()
        )
        runs = [read_json(_results(folder / f"seed{seed}", data)) for seed in seeds]
        if not runs:
            continue
        fingerprint = found[0]["fingerprint"] if found else runs[0]["fingerprint"]
        for seed, run in zip(seeds, runs, strict=True):
            if run["fingerprint"] != fingerprint:
                other = f"{run['fingerprint']}, not {fingerprint}"
                raise UserError(f"{folder / f'seed{seed}'}: tested on other images than the other runs ({other})")
        row: dict[str, Any] = {"emam": case[0], "scam": case[1], "seeds": seeds, "fingerprint": fingerprint}
        for level, key in FIGURES:
            row[f"{level}.{key}"] = _summary([run[level][key] for run in runs])
        row["trivial_baseline_auc"], row["always_fake_acc"] = (
            runs[0]["trivial_baseline_auc"],
            runs[0]["always_fake_acc"],
        )
        found.append(row)
    for row in found:
        row["from_none"] = {name: _difference(row, found[0], name) for name in (f"{a}.{b}" for a, b in FIGURES)}
    return found


def markdown(cases: Sequence[dict[str, Any]], data: str, training: dict[str, Any]) -> str:
    """The table, with the words that keep a reader from seeing more in it than there is."""
    head = " | ".join(f"{key.upper()} by {level}" for level, key in FIGURES)
    lines = [
        f"# EMAM and SCAM, off and at every place, on {name_of(data)} (test)",
        "",
        "In %: mean ± standard deviation over the seeds; in brackets the mean difference from none / none (RECCE) with",
        "the same seed, ± its standard deviation over the seeds. With three seeds, a difference of less than 2.5 times",
        "that is none that they can show; and of so many cases, the best owes some of its lead to chance.",
        "",
        f"| EMAM | SCAM | seeds | {head} |",
        f"|---|---|---|{'---|' * len(FIGURES)}",
    ]
    for row in cases:
        figures = [_text(row, f"{level}.{key}") for level, key in FIGURES]
        lines.append(f"| {row['emam']} | {row['scam']} | {len(row['seeds'])} | {' | '.join(figures)} |")
    if cases:
        trivial, always = cases[0]["trivial_baseline_auc"], cases[0]["always_fake_acc"]
        told = "not known" if trivial is None else f"{100 * trivial:.2f}"
        lines += ["", f"Trivial cues alone: AUC {told}. Always answering fake: ACC {100 * always:.2f}."]
        lines += ["", f"Images: `{cases[0]['fingerprint']}`."]
    options = ", ".join(f"{name} {value}" for name, value in training.items())
    lines += ["", f"Trained with {options or 'no options'}; the others are train.py's defaults."]
    if data == "demo":
        lines += ["", "**The demo's faces are drawn: a demonstration, and no result.**"]
    return "\n".join(lines) + "\n"


def _summary(values: Sequence[float]) -> dict[str, Any]:
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": spread, "values": list(values)}


def _difference(row: dict[str, Any], first: dict[str, Any], name: str) -> dict[str, Any] | None:
    """From none/none, the first case where it is there at all, over the seeds that both have."""
    if (first["emam"], first["scam"]) != RECCE or row is first:
        return None
    plain = dict(zip(first["seeds"], first[name]["values"], strict=True))
    mine = zip(row["seeds"], row[name]["values"], strict=True)
    differences = [value - plain[seed] for seed, value in mine if seed in plain]
    return _summary(differences) if differences else None


def _text(row: dict[str, Any], name: str) -> str:
    text = _plus_minus(row[name], "{:.2f}")
    difference = row["from_none"][name]
    return f"{text} ({_plus_minus(difference, '{:+.2f}')})" if difference else text


def _plus_minus(found: dict[str, Any], style: str) -> str:
    spread = "" if found["std"] is None else f" ± {100 * found['std']:.2f}"
    return style.format(100 * found["mean"]) + spread


def _results(run: Path, data: str) -> Path:
    """The last file that a finished run gets."""
    return run / f"{name_of(data)}-test" / "metrics.json"


def _training_options(data: str, out: Path, for_train: Sequence[str]) -> dict[str, Any]:
    """Of what train.py is given beside ablate.py's own, what decides the results; checked before anything is begun."""
    given, resume = settings.parse(for_train)
    if resume or OWN & given.keys():
        option = "resume" if resume else min(OWN & given.keys())
        raise UserError(f"--{option} is ablate.py's own affair (wanted --cases, --seeds, or the command again)", 2)
    settings.settle({**given, "data": data, "out": str(out)})
    free = settings.FREE_ON_RESUME - {"epochs"}
    return {name: value for name, value in given.items() if name not in free}


def _case(text: str) -> Case:
    emam, _, scam = text.partition("/")
    if (emam, scam) not in ALL:
        raise argparse.ArgumentTypeError(f"{text!r} is no EMAM/SCAM (wanted two of {', '.join(settings.LOCATIONS)})")
    return emam, scam


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
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
        help="places, as none/none or common/final (default: 16 of the 25)",
    )
    parser.add_argument(
        "--seeds", type=non_negative_int, nargs="+", default=[0, 1, 2], metavar="SEED", help="default: 0 1 2"
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
