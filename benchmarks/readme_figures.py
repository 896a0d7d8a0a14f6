"""Checks that each figure of README.md stands in a file of results.

python benchmarks/readme_figures.py               # compare the page with the files
python benchmarks/readme_figures.py --commands    # print what makes the files

FIGURES says what README must say, with fields for the numbers, and takes these from the files. No other number may be
on the page but those of CONSTANTS, which nobody measures. Fenced code is left out, but for its comments: tests/docs
runs it. ELSEWHERE has statements of other pages that no test of their own compares. The exit code is 1 where a page
says something else than the files, or a file is missing.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks/results"
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
COUNTED = WORDS[2:]  # as words, "no" and "one" are no numbers
NUMBER = re.compile(rf"\S*(?:\d|\b(?:{'|'.join(COUNTED)})\b)\S*", flags=re.IGNORECASE)

Values = Callable[[], tuple[object, ...]]


class Figure(NamedTuple):
    """`text`: what the page says, with a field for each of `values`; `command`: what writes the file they are from."""

    text: str
    values: Values
    command: str


def demonstration() -> tuple[object, ...]:
    """Return people, seeds, the lowest and highest AUC by image and by video, and that of trivial cues."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in _files("demonstration", "*.json")]
    ranges = [extreme(run[level]["auc"] for run in runs) for level in ("frame", "video") for extreme in (min, max)]
    (people,), (trivial,) = ({run[name] for run in runs} for name in ("people", "trivial_baseline_auc"))
    return people, WORDS[len({run["seed"] for run in runs})], *ranges, trivial


def minutes() -> tuple[object, ...]:
    """Return the minutes of the demonstration's fastest run, rounded up: others shared the processor."""
    seconds = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in _files("demonstration", "*.json")]
    return (WORDS[ceil(min(second for second in seconds if second) / 60)],)


def lightness() -> tuple[object, ...]:
    """Return the AUC of darker and of lighter faces, and the shares of their real images called fake."""
    found = json.loads(_file("cross_validation.json").read_text(encoding="utf-8"))
    groups = [found[f"people with {tone} faces"] for tone in ("darker", "lighter")]
    return *(group["auc"][0] for group in groups), *(100 * group["fpr_from_val"][0] for group in groups)


def stand_in() -> tuple[object, ...]:
    """Return the mean AUC of Xception, RECCE and PANet, that of trivial cues, how many seeds and people."""
    rows = _rows("stand_in_visible.csv")
    means = [fmean(float(row["auc_by_frame"]) for row in rows if row["model"] == model) for model in MODELS]
    (trivial,), (people,) = ({row[name] for row in rows} for name in ("trivial_baseline_auc", "people"))
    return *means, float(trivial), WORDS[len({row["seed"] for row in rows})], people


def trial() -> tuple[object, ...]:
    """Return how many arms and seeds the comparison with placebos has."""
    rows = _rows("does_it_help_digits_identity.csv")
    return tuple(len({row[name] for row in rows}) for name in ("arm", "seed"))


def cores() -> tuple[object, ...]:
    """Return the cores of the speed chart's processor."""
    (hardware,) = {row["hardware"] for row in _rows("cpu.csv")}
    return (WORDS[int(hardware.split()[-2])],)


def parameters() -> tuple[object, ...]:
    """Return PANet's millions of parameters, from the table that `python -m benchmarks.fidelity --check` compares."""
    page = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    (count,) = re.findall(r"^\| PANet \| ([\d,]+) \|", page, flags=re.MULTILINE)
    return (int(count.replace(",", "")) / 1e6,)


def against_recce() -> tuple[object, ...]:
    """Return how many times as fast as published RECCE PANet is, as the commands run it: paper, then tiny."""
    return _against_recce({"forward": "folded", "training": "channels_last"})


def plain_against_recce() -> tuple[object, ...]:
    """Return the same of PANet in NCHW order, its batch normalisations not folded."""
    return _against_recce({"forward": "native", "training": "native"})


def _against_recce(ways: dict[str, str]) -> tuple[object, ...]:
    found = {}
    for row in _rows("cpu.csv"):
        if row["layer"].startswith("panet-") and not row["shape"].startswith("1x"):
            found[row["layer"], row["pass"], row["contender"]] = float(row["speedup"])
    return tuple(
        found[layer, pass_, ours] / found[layer, pass_, "published RECCE"]
        for layer in ("panet-paper", "panet-tiny")
        for pass_, ours in ways.items()
    )


def onnx_rounds() -> tuple[object, ...]:
    """Return the rounds of the latencies in onnxruntime."""
    return tuple({row["rounds"] for row in _rows("onnx-latency.csv")})


def version() -> tuple[object, ...]:
    """Return the version of the package."""
    return (re.findall(r'__version__ = "(.*)"', (ROOT / "panet_layers/version.py").read_text(encoding="utf-8"))[0],)


def oldest_torch() -> tuple[object, ...]:
    """Return the oldest version of torch that pip accepts."""
    return (re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[0],)


def lines_of_the_trainer() -> tuple[object, ...]:
    """Return how many lines the trainer to copy has."""
    return (len((ROOT / "examples/train_detector.py").read_text(encoding="utf-8").splitlines()),)


MODELS = ("xception", "recce", "panet")
QUICKSTART = (
    "python examples/deepfake/quickstart.py --seed N --out RUN; then copy RUN/summary.json to "
    "benchmarks/results/demonstration/seedN.json; for N = 0, 1, 2"
)
FIGURES = (
    Figure("about {} minutes on two CPU cores", minutes, QUICKSTART),
    Figure(
        "on {} people never seen, {} seeds: test AUC {:.3f} to {:.3f} by image, {:.3f} to {:.3f} by video; trivial "
        "image statistics alone reach {:.3f}",
        demonstration,
        QUICKSTART,
    ),
    Figure(
        "AUC {:.2f}, lighter faces {:.2f}; {:.0f} % of their real images are called fake, of lighter ones {:.0f} %",
        lightness,
        "python examples/deepfake/cross_validate.py OUT --epochs 6 --lr-step 2; then copy OUT/cross_validation.json to "
        "benchmarks/results",
    ),
    Figure(
        "test AUC {:.3f} Xception, {:.3f} RECCE, {:.3f} PANet, trivial cues {:.3f}; {} seeds and {} people",
        stand_in,
        "python examples/deepfake/forge.py and reproduce.py as docs/stand_in.md has them (visible forgeries); then "
        "copy OUT/report/trainings.csv to benchmarks/results/stand_in_visible.csv",
    ),
    Figure("{} arms, {} seeds: no evidence", trial, "python examples/does_it_help.py as docs/does_it_help.md has it"),
    Figure("on {} CPU cores, relative to the published modules", cores, "python benchmarks/run.py"),
    Figure("Speed and memory, {} CPU cores", cores, "python benchmarks/run.py"),
    Figure("{:.1f} million parameters", parameters, "python -m benchmarks.fidelity --check"),
    Figure("[torch {} or later]", oldest_torch, "pyproject.toml"),
    Figure("`examples/train_detector.py`, {} lines", lines_of_the_trainer, "examples/train_detector.py"),
    Figure("version = {{{}}}", version, "panet_layers/version.py"),
)
# Statements of other pages, by the page.
ELSEWHERE = {
    "docs/detector.md": (
        Figure(
            "Against RECCE in its published structure, PANet as these commands run it, in NHWC order and for inference "
            "folded, is {:.1f} times as fast in inference and {:.1f} times in a training step (paper variant, 4 images "
            "of 299 x 299), the tiny variant {:.1f} and {:.1f} times",
            against_recce,
            "python benchmarks/run.py --layer detector",
        ),
        Figure(
            "In RECCE's own order and not folded it is {:.2f} and {:.2f} times as fast, the tiny variant {:.2f} and "
            "{:.2f} times",
            plain_against_recce,
            "python benchmarks/run.py --layer detector",
        ),
    ),
    "docs/export.md": (Figure("over {} alternating rounds", onnx_rounds, "python benchmarks/onnx_latency.py"),),
}
# What nobody measures: names, sizes in code, how something is made. In the order of the page.
CONSTANTS = (
    "four real and four fake test images, up to two of each",  # evaluating/picture_grids.py
    "2017, doi:10.6084/m9.figshare.5047666.v5), CC BY 4.0",
    "in float64 to 1e-12",
    "dense 3x3 convolution",
    "float64 to float16",
    "learns from 0 on",
    "two placebos",
    "at 299x299",
    "in [-1, 1]",
    "# 0 real, 1 fake",
    "the four locations",
    "Table I's three networks",
    "sm_80, sm_86, sm_90 and sm_120",
    "[if you come from 0.1]",
    "CC BY 4.0",
)


def main(arguments: list[str] | None = None) -> int:
    """Print what is wrong with README's figures; return 0 if nothing is, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", action="store_true", help="print the commands that make the files, check nothing")
    if parser.parse_args(arguments).commands:
        commands = dict.fromkeys(figure.command for figure in (*FIGURES, *sum(ELSEWHERE.values(), ())))
        print("\n".join(command for command in commands if command.startswith("python ")))
        return 0
    found = [*faults(README.read_text(encoding="utf-8")), *faults_elsewhere()]
    for fault in found:
        print(fault, file=sys.stderr)
    print(f"{len(FIGURES) + sum(map(len, ELSEWHERE.values()))} statements compared with the files, {len(found)} wrong")
    return int(bool(found))


def faults(page: str) -> Iterator[str]:
    """Yield what is wrong with a page: a figure that is not the files', a number that none of them has."""
    text = prose(page)
    for figure in FIGURES:
        try:
            expected = figure.text.format(*figure.values())
        except FileNotFoundError as error:
            yield f"{error.args[0]} is missing; it is made by {figure.command}"
            text = re.sub(re.sub(r"\\\{[^}]*\}", r"\\S+", re.escape(figure.text)), " ", text, count=1)
            continue
        if expected not in text:
            yield f"README.md does not say: {expected}"
        text = text.replace(expected, " ", 1)
    for constant in CONSTANTS:
        if constant not in text:
            yield f"CONSTANTS has a text that is not on the page: {constant}"
        text = text.replace(constant, " ", 1)
    for number in NUMBER.finditer(text):
        beside = text[max(0, number.start() - 30) : number.end() + 15]
        yield f"README.md says {number[0]!r}, which is neither in FIGURES nor in CONSTANTS: ...{beside}..."


def faults_elsewhere() -> Iterator[str]:
    """Yield the statements of other pages that the files do not bear out."""
    for page, figures in ELSEWHERE.items():
        text = prose((ROOT / page).read_text(encoding="utf-8"))
        for figure in figures:
            try:
                expected = figure.text.format(*figure.values())
            except FileNotFoundError as error:
                yield f"{error.args[0]} is missing; it is made by {figure.command}"
                continue
            if expected not in text:
                yield f"{page} does not say: {expected}"


def prose(page: str) -> str:
    """Return a page's words on one line, without addresses and code; comments in code and the citation are words."""

    def words(fence: re.Match[str]) -> str:
        kept = "#.*" if fence[1] == "python" else "version = .*" if fence[1] == "bibtex" else "(?!)"
        return "\n".join(re.findall(kept, fence[2]))

    text = re.sub(r"^```(\w*)\n(.*?)^```$", words, page, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)\s]*\)", "]", text)
    code = r"`[^`]*`"
    text = re.sub(rf"\[({code})\]", r"\1", text)
    return " ".join(re.sub(code, _name, text).split())


def _name(code: re.Match[str]) -> str:
    """Return a file's name in backticks as it is; what else is code says no figure."""
    return code[0] if re.fullmatch(r"`[\w/.]+`", code[0]) and not re.search(r"\d", code[0]) else ""


def _file(name: str) -> Path:
    path = RESULTS / name
    if not path.exists():
        raise FileNotFoundError(str(path.relative_to(ROOT)))
    return path


def _files(folder: str, pattern: str) -> list[Path]:
    return sorted(_file(folder).glob(pattern)) or [_file(f"{folder}/{pattern}")]


def _rows(name: str) -> list[dict[str, Any]]:
    with _file(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())
