"""Makes an honest forgery set from a folder of portraits, in FF++'s own folder layout.

    python examples/deepfake/forge.py PORTRAITS DEST

Every portrait becomes a real clip and one fake of each method, by the same steps (forging.py, camera.py), each encoded
twice, at H.264 CRF 23 (c23) and 40 (c40). DEST gets original_sequences/, manipulated_sequences/, and, once all clips
are there, splits/ (FF++'s format), identities.json (which id is which portrait) and README.md. A run that was stopped
goes on where it was when the same command is given again. It is a stand-in to develop and teach with, not FF++: the
folders of the fakes bear the names of FF++'s methods, but hold the recipes of forging.py.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from deepfake.common.cli import Parser, UserError, non_negative_int, path, positive_int, reading_input, run
from deepfake.common.destination import check_destination, claim_destination
from deepfake.common.files import make_folder, replacing, write_json
from deepfake.common.lock import locked
from deepfake.common.workers import run_tasks
from deepfake.dataset.manifest import SPLITS
from deepfake.forging.camera import OVERSAMPLING, film
from deepfake.forging.canvas import Still
from deepfake.forging.pairing import Clip, Plan, choose_people, plan_set
from deepfake.forging.portrait_files import SIDECAR, Photo, Portrait, find_faces, list_photos
from deepfake.forging.recipes import METHODS, genuine
from deepfake.media.faces import FaceDetector
from deepfake.media.image_files import read_rgb
from deepfake.media.video import write_clip

SETTINGS = "forge.json"
RECIPE = 2  # raise when the pixels that the same arguments give change
COMPRESSIONS = {"c23": 23, "c40": 40}  # constant rate factors of H.264, as in FF++
FPS = 25
LEAST_SIZE = 200  # the detector wants faces of 80 pixels; one fills half its clip, or up to a fifth less
NOTE = """# Not FaceForensics++

A stand-in in FaceForensics++'s layout, made by forge.py from still portraits: camera motion over photos, no talking
faces. The folders bear the names of FF++'s methods so that the same commands run; what lies in them was made thus:

{recipes}

splits/ is this set's own, by person; identities.json tells which id is which portrait, forge.json how all was made.
No figure measured on it compares with one on FaceForensics++.
"""


@dataclass(frozen=True)
class Task:
    """One clip to make, with all that a worker needs."""

    clip: Clip
    target: Portrait
    source: Portrait
    destination: Path
    size: int
    frames: int
    seed: int


def main(argv: Sequence[str] | None = None) -> None:
    """Make the set that the command line asks for."""
    arguments = parse_arguments(argv)
    cv2.setNumThreads(1)
    with reading_input():
        check_destination(arguments.destination, SETTINGS)
        photos = choose_people(list_photos(arguments.portraits), arguments.identities, arguments.seed)
        portraits, faceless = find_faces(photos, arguments.workers)
        for photo in faceless:
            print(f"{photo.path}: no face found, left out", file=sys.stderr)
        methods = [method for method in METHODS if method in arguments.methods]
        plan = plan_set(portraits, methods, arguments.seed)
        claim_destination(arguments.destination, SETTINGS, describe(arguments, methods, plan, faceless))
    with locked(arguments.destination / ".lock", f"{arguments.destination}: another forge.py is at work there"):
        make_clips(arguments, plan)
        finish(arguments.destination, plan, methods)
    reals = sum(clip.method == "real" for clip in plan.clips)
    print(f"{arguments.destination}: {reals} real and {len(plan.clips) - reals} fake clips, each as c23 and c40")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Make a forgery set in FF++'s layout from a folder of portraits.")
    parser.add_argument("portraits", type=path, metavar="PORTRAITS", help="folder of photos, one face each")
    parser.add_argument("destination", type=path, metavar="DEST", help="folder to make, or to go on with")
    parser.add_argument("--identities", type=positive_int, help="use this many people (default: all)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--frames", type=positive_int, default=24, help="frames a clip (default: %(default)s)")
    parser.add_argument("--size", type=positive_int, default=320, help="side of a clip (default: %(default)s pixels)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="default: %(default)s")
    parser.add_argument("--workers", type=positive_int, default=2, help="processes (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.size % 2:
        raise UserError(f"--size {arguments.size} (wanted an even number: H.264's yuv420p)", exit_code=2)
    if arguments.size < LEAST_SIZE:
        raise UserError(
            f"--size {arguments.size} (wanted at least {LEAST_SIZE}: in smaller clips no face would be found, which is "
            "half as wide as the clip)",
            exit_code=2,
        )
    return arguments


def describe(arguments: argparse.Namespace, methods: list[str], plan: Plan, faceless: list[Photo]) -> dict[str, Any]:
    """All that decides the set's bytes: arguments, versions, source files. Its file tells one set from another."""
    sidecar = arguments.portraits / SIDECAR
    return {
        "recipe": RECIPE,
        "seed": arguments.seed,
        "methods": {method: recipe_of(method) for method in methods},
        "identities": len({portrait.person for portrait in plan.portraits.values()}),
        "size": arguments.size,
        "frames": arguments.frames,
        "fps": FPS,
        "blended_at": OVERSAMPLING * arguments.size,
        "crf": COMPRESSIONS,
        "detector": FaceDetector().name,
        "versions": {"av": av.__version__, "opencv": cv2.__version__, "numpy": np.__version__},
        "sidecar_sha256": hashlib.sha256(sidecar.read_bytes()).hexdigest() if sidecar.is_file() else None,
        "sources": {portrait.path.name: portrait.sha256 for portrait in plan.portraits.values()},
        "without_a_face": [photo.path.name for photo in faceless],
    }


def recipe_of(method: str) -> str:
    """What a folder's fakes are, in a sentence."""
    return str(METHODS[method].__doc__).strip()


def make_clips(arguments: argparse.Namespace, plan: Plan) -> None:
    """Make every clip that is not there yet."""
    tasks = []
    for clip in plan.clips:
        target, source = plan.portraits[clip.target], plan.portraits[clip.source]
        task = Task(clip, target, source, arguments.destination, arguments.size, arguments.frames, arguments.seed)
        if not all(file.is_file() for file in clip_files(task).values()):
            tasks.append(task)
    if len(tasks) < len(plan.clips):
        print(f"{len(plan.clips) - len(tasks)} of {len(plan.clips)} clips are there already", file=sys.stderr)
    for folder in {file.parent for task in tasks for file in clip_files(task).values()}:
        make_folder(folder)
    for _ in run_tasks(make_clip, tasks, arguments.workers, "making clips"):
        pass


def clip_files(task: Task) -> dict[str, Path]:
    """The files of a clip by compression."""
    return {name: task.destination / task.clip.folder / name / "videos" / task.clip.name for name in COMPRESSIONS}


def make_clip(task: Task) -> None:
    """Forge one still, film it and encode it at every compression.

    Random numbers come from the seed and the clip's name, so neither order nor number of workers matters.
    """
    target, donor = load_still(task.target), load_still(task.source)
    method = METHODS.get(task.clip.method, genuine)
    try:
        canvas = method(target, donor, OVERSAMPLING * task.size, generator(task.seed, "forgery", task.clip))
    except ValueError as error:
        raise UserError(f"{task.source.path} onto {task.target.path}: {error}") from error
    motion, picture = generator(task.seed, "motion", task.clip.target), generator(task.seed, "picture", task.clip)
    frames = list(film(canvas, task.size, task.frames, motion, picture))
    for compression, file in clip_files(task).items():
        if not file.is_file():
            write_clip(file, frames, COMPRESSIONS[compression], FPS)


@functools.lru_cache(maxsize=4)
def load_still(portrait: Portrait) -> Still:
    """A portrait with its pixels."""
    return Still(read_rgb(portrait.path), portrait.box, portrait.landmarks)


def generator(seed: int, *purpose: object) -> np.random.Generator:
    """Random numbers for one purpose, the same in every process."""
    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def finish(destination: Path, plan: Plan, methods: list[str]) -> None:
    """Write README.md, identities.json and splits/: their presence says that the set is complete."""
    split_of = {key: split for split in SPLITS for key in plan.splits[split]}
    identities = {
        key: {
            "portrait": portrait.path.name,
            "person": portrait.person,
            "split": split_of[key],
            "sha256": portrait.sha256,
        }
        for key, portrait in plan.portraits.items()
    }
    write_json(destination / "identities.json", identities)
    recipes = "\n".join(f"- `{method}`: {recipe_of(method)}" for method in methods)
    with replacing(destination / "README.md") as file:
        file.write(NOTE.format(recipes=recipes).encode())
    make_folder(destination / "splits")
    for split in SPLITS:
        write_json(destination / "splits" / f"{split}.json", plan.pairs[split])


if __name__ == "__main__":
    run(main)
