"""The table that evaluate.py prints: figures with their intervals, the baselines, and the paper's Table I."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..demo.options import is_demo
from ..sources import ffpp
from .metrics import THRESHOLD

PUBLISHED_TABLE_1 = (  # method, ACC and AUC in % on FaceForensics++: HQ (c23), then LQ (c40); None: not given
    ("MesoNet", 83.10, None, 70.47, None),
    ("SPSL", 91.50, 95.32, 81.57, 82.82),
    ("RFM", 95.69, 98.79, 87.06, 89.83),
    ("Freq-SCL", 96.69, 99.28, 89.00, 92.39),
    ("Multi-task", 85.65, 85.43, 81.30, 75.59),
    ("Face X-ray", None, 87.84, None, 61.60),
    ("Xception", 95.73, 96.30, 86.86, 89.30),
    ("Add-Net", 96.78, 97.74, 87.50, 91.01),
    ("Two-branch", 96.43, 98.70, 86.34, 86.59),
    ("RECCE", 97.06, 99.32, 91.03, 95.02),
    ("PANet", 97.26, 99.37, 91.37, 94.90),
)
PAPER_TABLE_1 = tuple(row for row in PUBLISHED_TABLE_1 if row[0] in ("Xception", "RECCE", "PANet"))  # trained here
FIGURES = ("acc", "balanced_acc", "auc", "ap", "eer")
ROW_FORMAT = "{:<28}" + "{:>15}" * len(FIGURES) + "{:>7}{:>7}"


def report(metrics: dict[str, Any], videos: Collection[str]) -> str:
    """The table: this run's figures in %, the baselines, the paper's Table I, and whether they can be compared.

    `videos` are the evaluated ones, as "method/id".
    """
    epoch = metrics["checkpoint_epoch"]
    lines = [title_of(metrics) + (f", weights of epoch {epoch}" if epoch else ""), metrics["description"], ""]
    lines.append(ROW_FORMAT.format("in %", "ACC", "bal.ACC", "AUC", "AP", "EER", "real", "fake"))
    for level in ("frame", "video"):
        lines += _rows(f"this run, by {level}", metrics[level])
    of_method = metrics.get("methods", {})
    if len(of_method) > 1:
        for name, levels in of_method.items():
            short = name if len(name) <= 17 else name[:16] + "…"
            lines += _rows(f"{short}, by video", levels["video"])
    auc = metrics["trivial_baseline_auc"]
    trivial = "no training split" if auc is None else f"{100 * auc:.2f}"
    lines.append(_row("trivial cues alone", "-", "-", trivial, "-", "-"))
    always = f"{100 * metrics['always_fake_acc']:.2f}"
    lines.append(_row('always answering "fake"', always, "50.00", "50.00", "-", "50.00"))
    lines += ["", *_by_image(metrics)]
    if "ci95" in metrics["frame"]:
        lines.append(
            f"in brackets: 95 % intervals by bootstrap over videos, {metrics['bootstrap']['resamples']} resamples"
        )

    lines += ["", "The paper's Table I, FaceForensics++ (FF++), in %:"]
    lines.append("{:<28}{:>8}{:>8}{:>10}{:>8}".format("", "HQ ACC", "AUC", "LQ ACC", "AUC"))
    lines += ["{:<28}{:>8.2f}{:>8.2f}{:>10.2f}{:>8.2f}".format(*row) for row in PAPER_TABLE_1]
    lines.append(_comparability(metrics, videos))
    return "\n".join(lines)


def model_name(arguments: dict[str, Any]) -> str:
    """What the paper's Table I calls a model with these constructor arguments: "PANet tiny", "RECCE paper", ..."""
    variant = arguments.get("variant", "paper")
    if arguments.get("architecture") == "xception":
        return f"Xception {variant}"
    attention = arguments.get("emam", "common") or arguments.get("scam", "final")
    return f"{'PANet' if attention else 'RECCE'} {variant}"


def name_of(data: str | Path) -> str:
    """The last part of a folder's path; "demo" for the demo, "demo-3" for its fold 3."""
    return data.replace("/", "-") if isinstance(data, str) and is_demo(data) else Path(data).resolve().name


def title_of(metrics: dict[str, Any]) -> str:
    """Which model, on which data."""
    return f"{metrics['model']} on {name_of(metrics['data'])} ({metrics['split']})"


def interval(bounds: list[float]) -> str:
    """An interval of fractions, in %."""
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def _rows(name: str, level: dict[str, Any]) -> list[str]:
    """A level's figures and, below them, their intervals."""
    rows = [_row(name, *(f"{100 * level[key]:.2f}" for key in FIGURES), level["n_real"], level["n_fake"])]
    if "ci95" in level:
        rows.append(_row("", *(interval(level["ci95"][key]) for key in FIGURES)))
    return rows


def _row(name: str, *cells: Any) -> str:
    return ROW_FORMAT.format(name, *cells, *[""] * (len(FIGURES) + 2 - len(cells))).rstrip()


def _by_image(metrics: dict[str, Any]) -> list[str]:
    """The error rates at 0.5 and at the threshold from val, of all images and of the darker and the lighter faces."""
    from_val, lightness = metrics["threshold_from_val"], metrics["lightness"]
    fitted = "from val" if from_val is None else f"at {from_val:.4g}"
    lines = [_row("", "", *2 * [f"at {THRESHOLD}"], *2 * [fitted])]
    lines.append(_row("by frame (image), in %", "AUC", "FPR", "bal.ACC", "FPR", "bal.ACC", "real", "fake"))
    lines += _group_rows("all images", metrics["frame"], metrics["at_threshold"])
    for name in ("darker", "lighter") if lightness else ():
        group = lightness[name]
        lines += _group_rows(f"{name} faces, {group['n_videos']} videos", group, group["at_threshold"])
    lines.append("FPR: real images called fake")
    if from_val is not None:
        acc = metrics["at_threshold"]["from_val"]["acc"]
        lines[-1] += f"; {from_val:.4g}: highest balanced accuracy on val; ACC at it: {100 * acc:.2f}"
    if lightness is None:
        lines.append("no groups by the lightness of the face: no image has the box of a face in a manifest")
        return lines
    below = f"darker faces, of skin or of light: CIELAB L* of the crop's middle below {lightness['dark_below']:g}"
    unknown = lightness["n_unknown"]
    return [*lines, below + (f"; images without a box, in no group: {unknown}" if unknown else "")]


def _group_rows(name: str, group: dict[str, Any], at_threshold: dict[str, Any]) -> list[str]:
    """A group's AUC and its error rates at both thresholds and, below them, their intervals; "-" for what is null."""
    figures, intervals = [group["auc"]], [group.get("ci95", {}).get("auc")]
    for rates in at_threshold.values():
        for key in ("fpr", "balanced_acc"):
            figures.append(rates[key] if rates else None)
            intervals.append(rates.get("ci95", {}).get(key) if rates else None)
    cells = ("-" if figure is None else f"{100 * figure:.2f}" for figure in figures)
    rows = [_row(name, *cells, group["n_real"], group["n_fake"])]
    if any(intervals):
        rows.append(_row("", *("" if bounds is None else interval(bounds) for bounds in intervals)))
    return rows


def _comparability(metrics: dict[str, Any], videos: Collection[str]) -> str:
    """The sentence below the paper's rows: what this run's figures may be compared with."""
    if is_demo(metrics["data"]):
        return "!! DEMONSTRATION on visible forgeries, NOT FF++: no result; these figures compare with no row above !!"
    of_methods = {(method, name) for method, _, name in (video.partition("/") for video in videos)}
    if metrics["split"] != "test" or not ffpp.is_test_split(of_methods):
        return (
            "These data are NOT FF++'s test split (140 real videos, 560 fakes by its four methods): "
            "this run's figures do not compare with the paper's rows."
        )
    return (
        "These are the videos of FF++'s test split, by name. Note that the preparation of the crops alone changes "
        "ACC by several points, more than the rows above differ."
    )
