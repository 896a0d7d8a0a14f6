"""Reads face boxes from a CSV file, found by another detector than this package's.

The header is `path,frame,x0,y0,x1,y1`, with an optional column `score`. Then one line for each face: the path of the
video or photo below the source folder, the frame's number in decoding order from 0 (empty for a photo), the box in
pixels of the upright image. Several lines of a frame are several faces, one of which is followed; a frame without a
line has no face. Lines of existing files that are not wanted are ignored.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Collection
from pathlib import Path

from ..common.cli import UserError
from ..common.texts import read_text
from ..media.faces import Face

COLUMNS = ("path", "frame", "x0", "y0", "x1", "y1")

FacesByFrame = dict[int | None, list[Face]]
"""The faces of each frame (None: of a photo), largest first."""


def read_boxes(file: Path, root: Path, wanted: Collection[str]) -> dict[str, FacesByFrame]:
    """The faces by path. UserError that names the line or path which is not as described above.

    A path must be one of the sources' (`wanted`), or that of another file below `root` in the same plain form.
    """
    found: dict[str, FacesByFrame] = {}
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""))
    try:
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise UserError(f"{file}: its header has no {', '.join(missing)} (wanted {','.join(COLUMNS)})")
        for row in rows:
            frame, face = _parse(row, f"{file}, line {rows.line_num}")
            found.setdefault(row["path"], {}).setdefault(frame, []).append(face)
    except csv.Error as error:
        raise UserError(f"{file}: not a CSV file ({error})") from error
    for name, frames in found.items():
        plain = not {"", ".", ".."} & set(name.split("/"))
        if name not in wanted and not (plain and os.path.exists(root / name)):
            example = next(iter(wanted))
            raise UserError(f"{file}: path {name[:1000]!r} leads to no file in {root}; write it as {example}")
        for faces in frames.values():
            faces.sort(key=lambda face: (-face.area, face.box))
    return found


def _parse(row: dict[str, str], where: str) -> tuple[int | None, Face]:
    try:
        frame = int(row["frame"]) if row["frame"] else None
        x0, y0, x1, y1 = (float(row[name]) for name in COLUMNS[2:])
        score = float(row.get("score") or 1)
    except (ValueError, TypeError):
        raise UserError(f"{where}: wanted whole frame numbers and numbers for the box") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1, score))) or x1 <= x0 or y1 <= y0 or (frame or 0) < 0:
        raise UserError(f"{where}: box {x0:g} {y0:g} {x1:g} {y1:g} (wanted x0 < x1 and y0 < y1, frame from 0)")
    return frame, Face((x0, y0, x1, y1), score)
