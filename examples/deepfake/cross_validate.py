"""Cross-validation of the demo over people: every person is tested once, by a network that never saw them.

    python examples/deepfake/cross_validate.py OUT

It trains and evaluates seven networks, one for each fold of the demo's people (about half an hour on two CPU cores),
and writes OUT/cross_validation.json and .md: AUC and false-positive rates of people with darker and with lighter faces,
with 95 % intervals by person; the JSON also says by which commit, versions and machine. Run again, it continues. Other
options go to train.py.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepfake.common import cli  # isort: skip (first: Ctrl-C during the imports below then ends in one line)

import numpy as np

import evaluate
import train
from deepfake.common.cli import Parser, UserError, reading_input
from deepfake.common.destination import claim_destination
from deepfake.common.files import write_json
from deepfake.common.markdown import table, write_markdown
from deepfake.common.texts import read_json
from deepfake.demo.options import FOLDS, TRAINING
from deepfake.demo.people import person_lightness
from deepfake.demo.shot_images import fingerprint
from deepfake.evaluating.by_person import Scored, figures
from deepfake.evaluating.evaluation import METRICS_FILE, SCORES_FILE, results_folder
from deepfake.media.faces import DARK
from deepfake.training.checkpoint import CONFIG
from deepfake.training.description import SESSION
from deepfake.training.settings import FREE_ON_RESUME, parse

SETTINGS = "settings.json"
HEAD = ("", "people", "real / fake", "AUC", "real called fake at 0.5", "at the threshold from val")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args, for_train = _parser().parse_known_args(argv)
    with reading_input():
        given, resume = parse([*TRAINING, *for_train])
        if resume or {"data", "out"} & given.keys():
            raise UserError("--data, --out and --resume are set by cross_validate.py; repeat the command to resume", 2)
        training = {name: value for name, value in given.items() if name not in FREE_ON_RESUME - {"epochs"}}
        prints = [fingerprint(fold) for fold in range(FOLDS)]
        claim_destination(args.out, SETTINGS, {"datasets": prints, "training": training})
    results = [run_fold(fold, args.out / f"fold{fold}", for_train) for fold in range(FOLDS)]
    found = {name: figures(scored) for name, scored in groups(results).items() if len(set(scored.labels)) == 2}
    made_by = {"training": training} | _session(args.out / "fold0" / CONFIG)
    write_json(args.out / "cross_validation.json", found | {"made by": made_by})
    text = table(HEAD, [_row(name, values) for name, values in found.items()])
    write_markdown(args.out / "cross_validation.md", text + "\n")
    print(f"\n{text}\nwrote cross_validation.json and cross_validation.md to {args.out}")


def run_fold(fold: int, run: Path, for_train: Sequence[str]) -> Path:
    """Train and evaluate a fold as far as that is not done; returns the folder of its results."""
    data = f"demo/{fold}"
    results = results_folder(run, data)
    if not (results / METRICS_FILE).is_file():
        again = ["--resume"] if (run / CONFIG).is_file() else []
        train.main(["--data", data, "--out", str(run), *TRAINING, *for_train, *again])
        evaluate.main([str(run), "--data", data])
    return results


def groups(results: Sequence[Path]) -> dict[str, Scored]:
    """The scores of all folds: of everybody, by the lightness of the person in the photos, and of the image's face."""
    rows = [row | {"threshold": threshold} for folder in results for row, threshold in _rows_of(folder)]
    people = np.array([Path(row["name"]).name.split("_")[0] for row in rows])
    columns = [np.array([float(row[name]) for row in rows]) for name in ("label", "fake_probability", "threshold")]
    scored = Scored(people, columns[0].astype(np.int64), *columns[1:])
    person_is_dark = np.array([person_lightness(person) < DARK for person in people])
    image_is_dark = np.array([float(row["lightness"]) < DARK for row in rows])
    chosen = {
        "all": np.full(len(people), True),
        "people with darker faces": person_is_dark,
        "people with lighter faces": ~person_is_dark,
        "darker images": image_is_dark,
        "lighter images": ~image_is_dark,
    }
    return {name: Scored(*(column[kept] for column in scored)) for name, kept in chosen.items()}


def _rows_of(results: Path) -> list[tuple[dict[str, Any], float]]:
    threshold = read_json(results / METRICS_FILE)["threshold_from_val"]
    if threshold is None:
        raise UserError(f"{results / METRICS_FILE} has no threshold from val: its network learnt nothing; train longer")
    with open(results / SCORES_FILE, newline="") as file:
        return [(row, threshold) for row in csv.DictReader(file)]


def _session(config: Path) -> dict[str, Any]:
    """Commit, versions and machine of a run; nothing of a run that others have copied without its config.json."""
    saved = read_json(config) if config.is_file() else {}
    return {name: saved[name] for name in SESSION if name in saved}


def _row(name: str, values: dict[str, Any]) -> list[object]:
    intervals = [
        f"{figure:.3f} [{low:.3f}, {high:.3f}]"
        for figure, low, high in (values[key] for key in ("auc", "fpr", "fpr_from_val"))
    ]
    return [name, values["people"], f"{values['n_real']} / {values['n_fake']}", *intervals]


def _parser() -> Parser:
    parser = Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=cli.path, metavar="OUT", help="folder for the runs and the table")
    return parser


if __name__ == "__main__":
    cli.run(main)
