"""The ablation: every case with every seed once, resumed where it stopped, and a table of the runs' own figures."""

import shutil
import statistics

import pytest

import ablate
from deepfake.common.cli import UserError
from deepfake.common.destination import claim_destination
from deepfake.common.files import write_json
from deepfake.common.texts import read_json
from deepfake.reproducing.ablation_table import gather, markdown
from tests.deepfake.scripts import call
from tests.deepfake.short_trainings import log_rows, write_images

SMALL = ["--variant", "tiny", "--epochs", "1", "--batch-size", "8"]
SMALL += ["--workers", "0", "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "noise")


def save_results(out, case, seed, auc, acc=0.5, fingerprint="f00d"):
    """What evaluate.py leaves of one run, as far as the table reads it."""
    folder = out / case / f"seed{seed}" / "faces-test"
    folder.mkdir(parents=True)
    level = {"auc": auc, "acc": acc}
    others = {"trivial_baseline_auc": 0.55, "always_fake_acc": 0.8, "fingerprint": fingerprint}
    write_json(folder / "metrics.json", {"frame": level, "video": level, **others})


def test_the_default_is_each_layer_alone_and_each_at_every_location():
    assert len(ablate.ALL) == len(set(ablate.ALL)) == 25
    assert len(ablate.DEFAULT) == 16
    for name in ("none", "common", "fusion", "guided", "final"):
        assert {(name, "none"), ("none", name), (name, "final"), ("common", name)} <= set(ablate.DEFAULT)


def test_trains_evaluates_and_continues_where_it_stopped(data, tmp_path, capsys, monkeypatch):
    command = ["--data", data, "--out", tmp_path / "out", "--cases", "none/none", "fusion/none", *SMALL]
    trained = []
    train = ablate.train.main

    def stop_after_the_second(arguments):
        trained.append(arguments)
        train(arguments)
        if len(trained) == 2:
            raise KeyboardInterrupt  # trained, not evaluated

    monkeypatch.setattr(ablate.train, "main", stop_after_the_second)
    code, _, _ = call(ablate.main, capsys, *command, "--seeds", 0, 1)
    assert code == 130
    assert [row["seeds"] for row in read_json(tmp_path / "out" / "ablation.json")["cases"]] == [[0]]
    code, printed, _ = call(ablate.main, capsys, *command, "--seeds", 0, 1)
    assert code == 0
    assert len(trained) == 5  # one of them resumed with nothing left to train
    assert "seed0: done already" in printed

    cases = read_json(tmp_path / "out" / "ablation.json")["cases"]
    assert [(row["emam"], row["scam"], row["seeds"]) for row in cases] == [
        ("none", "none", [0, 1]),
        ("fusion", "none", [0, 1]),
    ]
    for row in cases:
        for i, seed in enumerate(row["seeds"]):
            run = tmp_path / "out" / f"{row['emam']}-{row['scam']}" / f"seed{seed}"
            assert len(log_rows(run)) == 1
            arguments = read_json(run / "config.json")["arguments"]
            assert (arguments["emam"], arguments["scam"], arguments["seed"]) == (row["emam"], row["scam"], seed)
            found = read_json(run / "noise-test" / "metrics.json")
            for name in ("frame.auc", "frame.acc", "video.auc", "video.acc"):
                level, key = name.split(".")
                assert row[name]["values"][i] == found[level][key]
    assert (tmp_path / "out" / "ablation.md").read_text() in printed

    code, _, errors = call(ablate.main, capsys, *command, "--lr", "0.1")
    assert (code, len(errors)) == (2, 1) and "made with another training" in errors[0]


def test_the_evaluation_runs_where_the_training_does(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ablate.train, "main", lambda arguments: None)
    monkeypatch.setattr(ablate.evaluate, "main", asked.append)
    ablate.run_once("demo", tmp_path, ("none", "none"), 0, ["--device", "cpu:0", "--workers", "3"])
    assert asked == [[f"{tmp_path}/none-none/seed0", "--data", "demo", "--device=cpu:0", "--workers=3"]]


def test_mean_spread_and_difference_by_seed(tmp_path):
    for case, values in {"none-none": {0: 0.70, 1: 0.80, 2: 0.90}, "common-final": {1: 0.83, 2: 0.91}}.items():
        for seed, auc in values.items():
            save_results(tmp_path, case, seed, auc)
    save_results(tmp_path, "final-none", 5, 0.6)
    (tmp_path / "final-none" / "seed5").rename(tmp_path / "final-none" / "seed5-old")  # a copy put aside is no run
    save_results(tmp_path, "final-none", 5, 0.6)
    plain, panet, other = gather(tmp_path, "faces")
    assert (panet["emam"], panet["scam"], other["emam"]) == ("common", "final", "final")
    assert plain["frame.auc"]["mean"] == pytest.approx(0.8)
    assert plain["frame.auc"]["std"] == pytest.approx(0.1)
    difference = panet["from_none"]["frame.auc"]  # seeds 1 and 2 alone
    assert difference["values"] == pytest.approx([0.03, 0.01])
    assert difference["std"] == pytest.approx(statistics.stdev([0.03, 0.01]))
    assert plain["from_none"]["frame.auc"] is None
    assert other["frame.auc"]["std"] is None and other["from_none"]["frame.auc"] is None  # no seed in common
    table = markdown([plain, panet, other], "faces", {"variant": "tiny", "epochs": 6})
    assert "| common | final | 2 | 87.00 ± 5.66 (+2.00 ± 1.41) |" in table
    assert "| final | none | 1 | 60.00 |" in table
    assert "AUC 55.00" in table and "ACC 80.00" in table and "`f00d`" in table
    assert "Trained with variant tiny, epochs 6;" in table
    assert "demonstration" not in table and "demonstration" in markdown([plain], "demo", {})
    assert "demonstration" not in markdown([plain], "mine/demo", {})


def test_runs_on_other_images_are_not_put_together(tmp_path):
    save_results(tmp_path, "none-none", 0, 0.7)
    for seed in (0, 1):
        save_results(tmp_path, "common-final", seed, 0.8, fingerprint="f00d" if seed == 0 else "beef")
    with pytest.raises(UserError, match=r"common-final/seed1: tested on other images .*\(beef, not f00d\)"):
        gather(tmp_path, "faces")


def test_other_images_are_refused_before_anything_is_trained(data, tmp_path, capsys):
    claim_destination(tmp_path, "ablate.json", {"dataset": "f00d", "training": {"variant": "tiny"}})
    code, printed, errors = call(ablate.main, capsys, "--data", data, "--out", tmp_path, "--variant", "tiny")
    assert (code, printed, len(errors)) == (2, "", 1)
    assert "made with another dataset" in errors[0]


def test_the_machine_and_the_folder_of_the_data_may_change(data, tmp_path, capsys, monkeypatch):
    """As they may when a training is resumed."""
    ran = []
    monkeypatch.setattr(ablate, "run_once", lambda data, *_: ran.append(data))
    shutil.copytree(data, tmp_path / "moved")
    for place, machine in ((data, ["--workers", "0"]), (tmp_path / "moved", ["--threads", "1", "--device", "cpu"])):
        command = ["--data", place, "--out", tmp_path / "out", "--cases", "none/none", "--seeds", 0, "--epochs", 1]
        assert call(ablate.main, capsys, *command, *machine)[0] == 0
    assert ran == [str(data), str(tmp_path / "moved")]
    assert call(ablate.main, capsys, *command, "--epochs", 2)[0] == 2


def test_without_none_none_there_is_no_difference(tmp_path):
    save_results(tmp_path, "common-final", 0, 0.7)
    (row,) = gather(tmp_path, "faces")
    assert set(row["from_none"].values()) == {None}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cases", "none"], "'none' is not EMAM/SCAM"),
        (["--cases", "common/nowhere"], "'common/nowhere'"),
        (["--seeds", "-1"], "'-1'"),
        (["--seed", "3"], "--seed is set by ablate.py"),
        (["--emam", "final"], "--emam is set by ablate.py"),
        (["--resume"], "--resume is set by ablate.py"),
        (["--epochs", "0"], "'0'"),
        (["--colour", "red"], "--colour"),
        (["--variant", "tiny", "--pretrained"], "--pretrained"),
    ],
)
def test_bad_arguments_give_one_line_before_any_work_starts(arguments, words, tmp_path, capsys):
    code, printed, errors = call(ablate.main, capsys, "--data", "demo", "--out", tmp_path / "out", *arguments)
    assert (code, printed, len(errors)) == (2, "", 1)
    assert words in errors[0]
    assert not (tmp_path / "out").exists()
