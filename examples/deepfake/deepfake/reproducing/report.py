"""The report of reproduce.py: Table I's rows beside ours, what they may be compared with, and how they were made."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..common.cli import UserError
from ..common.files import make_folder, replacing
from ..common.markdown import table, write_markdown
from ..common.texts import read_json
from ..evaluating.plots import BLUE, GREY, ORANGE, save_figure, styled_figure
from ..training.checkpoint import CONFIG
from .claim import claim
from .coverage import Coverage, read_coverage
from .published_weights import FOLDER, published_section, read_published
from .qualitative_grids import Grid, qualitative_grid
from .recipe import departures, shown
from .table_one import COMPRESSION_NAMES, METRIC_NAMES, MODELS, WIDEST, Cell, Result, cell, gains, read_log

TRAININGS = ("model", "compression", "seed", "epoch")
ABOUT_TRAININGS = ("trivial_baseline_auc", "people", "fingerprint", "commit", "torch", "device")


def write_report(out: Path, results: Sequence[Result], data: dict[str, Path], recipe: dict[str, Any]) -> Path:
    """Write report.md, its pictures and trainings.csv to the folder `out`; returns the path of report.md.

    It begins with the evaluations of published weights in `published/` beside `out`, if there are any.

    Args:
        data: the folder of crops of each compression.
        recipe: what reproduce.json holds.
    """
    coverages = {compression: read_coverage(folder) for compression, folder in data.items()}
    check_same_data(results, coverages)
    published = published_section(read_published(out.parent / FOLDER), coverages)
    grids = {compression: qualitative_grid(results, compression, folder) for compression, folder in data.items()}
    text = report(results, coverages, recipe, grids, published)
    make_folder(out)
    for compression, grid in grids.items():
        if grid.figure is not None:
            save_figure(grid.figure, out / _grid_file(compression))
    save_figure(figures_plot(results, coverages), out / "figures.png")
    save_figure(curves_plot(results, coverages), out / "curves.png")
    write_trainings(out / "trainings.csv", results, coverages)
    write_markdown(out / "report.md", text)
    return out / "report.md"


def write_trainings(path: Path, results: Sequence[Result], coverages: Mapping[str, Coverage]) -> None:
    """Write a row for each training: its figures as fractions, of how many people they are, and what made them."""
    levels = [(level, metric) for level in ("frame", "video") for metric in METRIC_NAMES]
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow([*TRAININGS, *(f"{metric}_by_{level}" for level, metric in levels), *ABOUT_TRAININGS])
    for r in results:
        config, people = read_json(r.run / CONFIG), len(set(coverages[r.compression].people.values()))
        row = [r.model, r.compression, r.seed, r.metrics.get("checkpoint_epoch")]
        row += [r.metrics[level][metric] for level, metric in levels]
        row += [r.metrics["trivial_baseline_auc"], people or "", r.metrics["fingerprint"], config.get("commit")]
        writer.writerow(
            [*row, (config.get("versions") or {}).get("torch"), (config.get("machine") or {}).get("device")]
        )
    with replacing(path) as file:
        file.write(content.getvalue().encode())


def check_same_data(results: Sequence[Result], coverages: Mapping[str, Coverage]) -> None:
    """UserError if runs of one compression were tested on other data than its manifest lists now."""
    for compression, coverage in coverages.items():
        runs = defaultdict(list)
        for r in results:
            if r.compression == compression:
                runs[r.metrics["fingerprint"]].append(r.run.name)
        others = [f"{', '.join(names)} on {mark[:10]}" for mark, names in runs.items() if mark != coverage.fingerprint]
        if others:
            raise UserError(
                f"{compression}: the manifest is {coverage.fingerprint[:10]}, but other data were tested: "
                f"{'; '.join(others)}; remove these runs, and they are trained again"
            )


def report(
    results: Sequence[Result],
    coverages: Mapping[str, Coverage],
    recipe: dict[str, Any],
    grids: Mapping[str, Grid],
    published: str = "",
) -> str:
    """The whole report in Markdown; `published` is its first section."""
    parts = ["# Table I: Xception, RECCE and PANet", published, _what(results, coverages, recipe)]
    for compression, coverage in coverages.items():
        here = [r for r in results if r.compression == compression]
        parts += [f"## {COMPRESSION_NAMES[compression]}", _baselines(here), _without_crop(coverage)]
        parts += [_table(here, compression, coverage.is_ffpp), _gain(here, compression, coverage.is_ffpp)]
        parts += [_auc_of_methods(here, level) for level in ("frame", "video")]
        if recipe["also_chosen_on_test"]:
            parts.append(_chosen_on_test(here))
    parts.append(claim(results, coverages))
    parts += ["## Pictures", "![Figures of each seed](figures.png)", "![Validation AUC by epoch](curves.png)"]
    parts += [_grid(compression, grid) for compression, grid in grids.items()]
    parts += ["## How it was made", _how(results, recipe)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(results: Sequence[Result], coverages: Mapping[str, Coverage], recipe: dict[str, Any]) -> str:
    seeds = len({r.seed for r in results})
    spread = f"Mean and standard deviation over {seeds} seeds, in %." if seeds > 1 else "One seed, so no spread. In %."
    other = [COMPRESSION_NAMES[compression] for compression, coverage in coverages.items() if not coverage.is_ffpp]
    parts = []
    if other:
        named = " and ".join(other) + (" is" if len(other) == 1 else " are")
        which = "This is" if len(other) == len(coverages) else named
        parts.append(
            f"**{which} not FaceForensics++'s whole test split** (140 real videos and 560 fakes by four methods; the "
            "counts here are given below), so its figures do not compare with the paper's."
        )
    if len(other) < len(coverages):
        changed = departures(recipe)
        if changed:
            parts.append(f"**This is not the paper's recipe** ({'; '.join(changed)}), whatever the verdicts say.")
        parts.append(
            "The verdict says whether the paper's figure, which is of one training, is where one more of our "
            "trainings would be with 95 % (Student's t over the seeds): by chance alone, one verdict in twenty is "
            f'"outside". If one more training could be over {WIDEST:g} points away, it is "cannot tell" instead of '
            '"within". It considers no other difference: how the crops are cut alone changes ACC by several points.'
        )
    return "\n\n".join([*parts, spread])


def _baselines(results: Sequence[Result]) -> str:
    metrics = results[0].metrics
    frame, video, trivial = metrics["frame"], metrics["video"], metrics["trivial_baseline_auc"]
    lines = [
        f"Test: {video['n_real']} real and {video['n_fake']} fake videos, {frame['n_real']} and {frame['n_fake']} "
        f'crops. Always answering "fake" has an ACC of {100 * metrics["always_fake_acc"]:.1f} % by frame and '
        f"{100 * video['n_fake'] / (video['n_real'] + video['n_fake']):.1f} % by video. "
    ]
    if trivial is not None:
        lines.append(f"Trivial cues (spectrum, colours, noise, file size) reach an AUC of {100 * trivial:.1f} %. ")
    lines.append(f"Manifest: `{metrics['fingerprint']}`.")
    return "".join(lines)


def _without_crop(coverage: Coverage) -> str:
    """How many videos and frames have no crop, and which of FF++'s test videos are missing."""
    counted = ", ".join(f"{count} {what}" for what, count in sorted(coverage.problems.items())) or "nothing"
    text = f"Without a crop, in all splits: {counted}."
    if coverage.official:
        names = ", ".join("/".join(video) for video in coverage.missing) if coverage.is_ffpp else ""
        text += f" The test videos are FaceForensics++'s, by name; {len(coverage.missing) or 'none'} of its 700 missing"
        text += f": {names}." if names else "."
    return text


def _table(results: Sequence[Result], compression: str, ffpp: bool) -> str:
    columns = [(level, metric) for level in ("frame", "video") for metric in METRIC_NAMES]
    head = [f"{METRIC_NAMES[metric]} by {level}" for level, metric in columns]
    if ffpp:
        head += [f"paper's {name}" for name in METRIC_NAMES.values()]
        head += [f"{name}: ours minus the paper's" for name in METRIC_NAMES.values()]
    rows = []
    for model, name in MODELS.items():
        cells = [cell(results, model, compression, *column, ffpp) for column in columns]
        if cells[0] is None:
            continue
        found = [c for c in cells if c is not None]
        row = [c.text() for c in found]
        if ffpp:
            row += ["" if c.paper is None else f"{c.paper:.2f}" for c in found[:2]] + [c.verdict() for c in found[:2]]
        rows.append([name, *row])
    return table(["", *head], rows)


def _gain(results: Sequence[Result], compression: str, ffpp: bool) -> str:
    texts = []
    for metric, name in METRIC_NAMES.items():
        found = gains(results, compression, metric)
        if found is None:
            return ""
        paper = f" (the paper's: {found.paper:+.2f})" if ffpp and found.paper is not None else ""
        texts.append(f"{name} {_signed(found)}{paper}")
    return f"PANet minus RECCE, seed by seed, by frame: {'; '.join(texts)}."


def _signed(found: Cell) -> str:
    if found.interval is None:
        return f"{found.mean:+.2f}, one seed"
    sure = "" if found.differs else "; these seeds do not show a difference"
    return f"{found.mean:+.2f} ± {found.interval:.2f} (95 % interval of the mean){sure}"


def _auc_of_methods(results: Sequence[Result], level: str) -> str:
    """AUC of each method's fakes against all reals; nothing for a single method."""
    methods = list(results[0].metrics["methods"])
    if len(methods) < 2:
        return ""

    def values(r: Result) -> list[float]:
        return [r.metrics["methods"][method][level]["auc"] for method in methods]

    return table([f"AUC by {level}", *methods], _rows(results, values))


def _chosen_on_test(results: Sequence[Result]) -> str:
    def best(r: Result) -> list[float]:
        log = read_log(r.run)
        return [max(float(row[f"test_{metric}"]) for row in log) for metric in METRIC_NAMES]

    found = table(["", "ACC by frame", "AUC by frame"], _rows(results, best))
    return (
        "**Chosen on the test split** (the best of all epochs by each figure itself: higher than an honest choice "
        "reaches, shown because published code chooses so):\n\n" + found
    )


def _rows(results: Sequence[Result], values: Callable[[Result], list[float]]) -> list[list[str]]:
    """A row for each model with results: mean and spread over its seeds of each of these values, in %."""
    found = {name: [values(r) for r in results if r.model == model] for model, name in MODELS.items()}
    return [
        [name, *(Cell(tuple(100 * value for value in seeds)).text() for seeds in zip(*of_seeds, strict=True))]
        for name, of_seeds in found.items()
        if of_seeds
    ]


def _grid(compression: str, grid: Grid) -> str:
    """A compression's grid with its caption, or why it is missing."""
    return grid.text if grid.figure is None else f"![{grid.text}]({_grid_file(compression)})\n\n*{grid.text}*"


def _grid_file(compression: str) -> str:
    return f"grid_{compression}.png"


def _how(results: Sequence[Result], recipe: dict[str, Any]) -> str:
    lines = [f"`{name}`: {shown(value)}  " for name, value in recipe.items()]
    flood = recipe["train"].get("flood")
    loss = f"all with `--flood {flood}`" if flood else "without the flooding of its own code (`--flood 0.04`)"
    rows = []
    for r in results:
        epoch = r.metrics["checkpoint_epoch"]
        auc = next(float(row["val_auc"]) for row in read_log(r.run) if int(row["epoch"]) == epoch)
        config = read_json(r.run / CONFIG)
        commit = (config.get("commit") or "unknown")[:10]
        rows.append([r.run.name, epoch, f"{100 * auc:.2f}", commit, _made_with(config)])
    parts = [
        "\n".join(lines),
        f"All models are trained by the same recipe with the paper's loss (Eq. 12), RECCE too: {loss}.",
        table(["training", "epoch chosen on val", "val AUC", "commit", "with"], rows),
    ]
    return "\n\n".join(parts)


def _made_with(config: dict[str, Any]) -> str:
    """Machine, backends and versions of each session of a training; nothing for one of an older version."""
    return "; then ".join(filter(None, map(_session, [*(config.get("earlier") or []), config])))


def _session(config: dict[str, Any]) -> str:
    machine, versions = config.get("machine") or {}, config.get("versions") or {}
    named = {name: value for name, value in machine.items() if name != "device" and value} | versions
    return ", ".join([*filter(None, [machine.get("device")]), *(f"{name} {value}" for name, value in named.items())])


def figures_plot(results: Sequence[Result], coverages: Mapping[str, Coverage]) -> Figure:
    """ACC and AUC of each compression: a dot for each seed, and if the data are FF++'s, the paper's as diamonds.

    All axes have one scale. A dotted line is the ACC of always answering "fake".
    """
    with styled_figure(3.6 * len(METRIC_NAMES), 2.6 * len(coverages)) as figure:
        grid = figure.subplots(len(coverages), len(METRIC_NAMES), squeeze=False, sharey=True)
        for row, (compression, coverage) in zip(grid, coverages.items(), strict=True):
            for axes, (metric, name) in zip(row, METRIC_NAMES.items(), strict=True):
                names = [model for model in MODELS if any(r.model == model for r in results)]
                for x, model in enumerate(names):
                    for level, colour, shift in (("frame", BLUE, -0.12), ("video", ORANGE, 0.12)):
                        found = cell(results, model, compression, level, metric, coverage.is_ffpp)
                        if found is None:
                            continue
                        label = f"by {level}" if x == 0 else None
                        axes.plot([x + shift] * len(found.values), found.values, "o", color=colour, alpha=0.7,
                                  markersize=5, label=label)  # fmt: skip
                        if found.paper is not None:
                            axes.plot(x, found.paper, "D", color=GREY, fillstyle="none", markersize=8,
                                      label="the paper" if x == 0 else None)  # fmt: skip
                if metric == "acc":
                    always = next(r.metrics["always_fake_acc"] for r in results if r.compression == compression)
                    axes.axhline(100 * always, color=GREY, linestyle=":", label='always "fake"')
                axes.set_xticks(range(len(names)), [MODELS[model] for model in names])
                axes.set(xlim=(-0.6, len(names) - 0.4), ylabel=f"{name} in %", title=COMPRESSION_NAMES[compression])
                axes.grid(axis="y", color="0.92")
        grid[0, 0].legend(loc="best", fontsize=8)
    return figure


def curves_plot(results: Sequence[Result], compressions: Collection[str]) -> Figure:
    """Validation AUC by epoch, a line for each training."""
    colours = dict(zip(MODELS, (GREY, ORANGE, BLUE), strict=True))
    with styled_figure(3.6 * len(compressions), 2.8) as figure:
        grid = figure.subplots(1, len(compressions), squeeze=False)[0]
        for axes, compression in zip(grid, compressions, strict=True):
            shown: set[str] = set()
            for r in results:
                if r.compression == compression:
                    rows = read_log(r.run)
                    label = None if r.model in shown else MODELS[r.model]
                    shown.add(r.model)
                    axes.plot([int(row["epoch"]) for row in rows], [100 * float(row["val_auc"]) for row in rows],
                              color=colours[r.model], linewidth=1.2, alpha=0.8, label=label)  # fmt: skip
            axes.set(xlabel="epoch", ylabel="validation AUC by frame, in %", title=COMPRESSION_NAMES[compression])
            axes.grid(color="0.92")
        grid[0].legend(loc="lower right", fontsize=8)
    return figure
