"""The files of a finished training, with made-up figures, for tests of Table I and its report."""

import json
from pathlib import Path

from deepfake.reproducing.table_one import Result

PAPERS = {
    "profile": "recce",
    "train": {},
    "prepare": {},
    "processes": 1,
    "also_chosen_on_test": False,
}  # as reproduce.json has it
SCORES = """name,video,method,label,fake_probability
a,real/1,real,0,{}
b,real/2,real,0,{}
c,FaceSwap/1_2,FaceSwap,1,{}
d,FaceSwap/2_1,FaceSwap,1,{}
"""


def result(folder: Path, model: str, seed: int, auc: float, fingerprint: str) -> Result:
    """A finished training's files, with made-up figures."""
    run = folder / f"c23-{model}-seed{seed}"
    (run / "c23-test").mkdir(parents=True)
    level = {"acc": auc - 0.1, "auc": auc, "n_real": 140, "n_fake": 560}
    levels = {"frame": level, "video": {**level, "auc": auc + 0.01}}
    metrics = {
        **levels, "methods": {"FaceSwap": levels, "Face2Face": levels}, "checkpoint_epoch": 1,
        "fingerprint": fingerprint, "trivial_baseline_auc": 0.6, "always_fake_acc": 0.8,
    }  # fmt: skip
    (run / "c23-test" / "metrics.json").write_text(json.dumps(metrics))
    (run / "config.json").write_text(json.dumps({"commit": "0123456789abcdef", "data": {"fingerprint": fingerprint}}))
    (run / "log.csv").write_text("epoch,val_auc,best,test_acc,test_auc\n1,0.7,1,0.6,0.65\n2,0.6,0,0.5,0.7\n")
    scores = run / "c23-test" / "scores.csv"
    scores.write_text(SCORES.format(*(0.5 + (auc - 0.9) * step for step in (-1, 1, 2, 3))))
    return Result(model, "c23", seed, run, metrics, scores)
