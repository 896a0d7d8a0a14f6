"""Makes a forgery set from a folder of portraits, in FF++'s folder layout: a stand-in to develop and teach with.

    python examples/deepfake/forge.py PORTRAITS DEST

Every portrait becomes a real clip and one fake of each method, by the same steps (forging/recipes.py, camera.py), each
encoded twice, at H.264 CRF 23 (c23) and 40 (c40). DEST gets original_sequences/, manipulated_sequences/ and, once all
clips are present, splits/ (FF++'s format), identities.json (the portrait of each id) and README.md. An interrupted run
continues when the same command is given again. The set is not FF++: the folders of the fakes have the names of FF++'s
methods, so that the same commands work, but hold the recipes of forging/recipes.py.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepfake  # noqa: F401  # isort: skip (first: Ctrl-C during the imports below then ends in one line)

import av
import cv2
import numpy as np

from deepfake.common.cli import Parser, UserError, non_negative_int, path, positive_int, reading_input, run
from deepfake.common.destination import check_destination, claim_destination
from deepfake.common.files import make_folder, replacing, write_json
from deepfake.common.lock import locked
from deepfake.common.workers import run_tasks
from deepfake.dataset.manifest import SPLITS
from deepfake.forging.camera import FPS, OVERSAMPLING, RATE_FACTORS, ClipTask, make_clip
from deepfake.forging.coarse_recipes import VISIBLE_METHODS
from deepfake.forging.pairing import Pairing, choose_people, draw_pairing
from deepfake.forging.portrait_files import SIDECAR, Photo, Portrait, find_faces, list_photos
from deepfake.forging.recipes import METHODS
from deepfake.media.faces import face_detector

SETTINGS = "forge.json"
VERSION = 2  # raise when the same arguments give other pixels
LEAST_SIZE = 200  # the detector needs faces of 80 pixels; a face is half as wide as its clip, or up to a fifth less
README = """# Not FaceForensics++

A stand-in in FaceForensics++'s layout, made by forge.py from still portraits: camera motion over photos, no talking
faces. The folders have the names of FF++'s methods so that the same commands run. What they hold was made as follows:

{recipes}

splits/ is this set's own, by person; identities.json names the portrait of each id, forge.json holds all settings.
No figure measured on this set compares with one on FaceForensics++.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the set that the command line asks for."""
    args = parse_arguments(argv)
    cv2.setNumThreads(1)
    with reading_input():
        check_destination(args.destination, SETTINGS)
        photos = choose_people(list_photos(args.portraits), args.identities, args.seed, args.shots)
        portraits, faceless = find_faces(photos, args.workers)
        for photo in faceless:
            print(f"{photo.path}: no face found, left out", file=sys.stderr)
        methods = VISIBLE_METHODS if args.visible else METHODS
        recipes = {name: str(methods[name].__doc__).strip() for name in methods if name in args.methods}
        shot = [portrait for portrait in portraits for _ in range(args.shots)]
        pairing = draw_pairing(shot, list(recipes), args.seed)
        sidecar = args.portraits / SIDECAR
        settings = describe(portraits, faceless, recipes, args.size, args.frames, args.seed, sidecar)
        settings |= {"shots": args.shots} if args.shots > 1 else {}
        claim_destination(args.destination, SETTINGS, settings)
    with locked(args.destination / ".lock", f"{args.destination}: another forge.py is running there"):
        make_clips(pairing, args)
        finish(pairing, args.destination, recipes)
    reals = sum(clip.method == "real" for clip in pairing.clips)
    print(f"{args.destination}: {reals} real and {len(pairing.clips) - reals} fake clips, each as c23 and c40")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options. UserError with exit code 2 on a wrong one."""
    parser = Parser(description="Make a forgery set in FF++'s layout from a folder of portraits.")
    parser.add_argument("portraits", type=path, metavar="PORTRAITS", help="folder of photos, one face each")
    parser.add_argument("destination", type=path, metavar="DEST", help="folder to create, or to continue")
    parser.add_argument("--identities", type=positive_int, help="number of people to use (default: all)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="default: all")
    parser.add_argument(
        "--visible",
        action="store_true",
        help=f"coarse forgeries that a small network learns; only {' and '.join(VISIBLE_METHODS)}",
    )
    parser.add_argument(
        "--shots", type=positive_int, default=1, help="clips of each photo and method (default: %(default)s)"
    )
    parser.add_argument("--frames", type=positive_int, default=24, help="frames per clip (default: %(default)s)")
    parser.add_argument("--size", type=positive_int, default=320, help="side of a clip (default: %(default)s pixels)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="default: %(default)s")
    parser.add_argument("--workers", type=positive_int, default=2, help="processes (default: %(default)s)")
    arguments = parser.parse_args(argv)
    possible = list(VISIBLE_METHODS if arguments.visible else METHODS)
    if missing := [name for name in arguments.methods or [] if name not in possible]:
        raise UserError(f"--visible has no {missing[0]} (wanted {' or '.join(possible)})", exit_code=2)
    arguments.methods = arguments.methods or possible
    if arguments.size % 2 or arguments.size < LEAST_SIZE:
        raise UserError(
            f"--size {arguments.size} (wanted an even number of at least {LEAST_SIZE}: H.264's yuv420p needs even "
            "sides, and the detector finds no face in smaller clips)",
            exit_code=2,
        )
    return arguments


def describe(
    portraits: list[Portrait],
    faceless: list[Photo],
    recipes: dict[str, str],
    size: int,
    frames: int,
    seed: int,
    sidecar: Path,
) -> dict[str, Any]:
    """All that decides the set's bytes, as forge.json keeps it: a run continues only a set with the same values."""
    return {
        "recipe": VERSION,
        "seed": seed,
        "methods": recipes,
        "identities": len({portrait.person for portrait in portraits}),
        "size": size,
        "frames": frames,
        "fps": FPS,
        "blended_at": OVERSAMPLING * size,
        "crf": RATE_FACTORS,
        "detector": face_detector().name,
        "versions": {"av": av.__version__, "opencv": cv2.__version__, "numpy": np.__version__},
        "sidecar_sha256": hashlib.sha256(sidecar.read_bytes()).hexdigest() if sidecar.is_file() else None,
        "sources": {portrait.path.name: portrait.sha256 for portrait in portraits},
        "without_a_face": [photo.path.name for photo in faceless],
    }


def make_clips(pairing: Pairing, args: argparse.Namespace) -> None:
    """Make every clip that is missing."""
    tasks = []
    for clip in pairing.clips:
        target, donor = pairing.portraits[clip.target], pairing.portraits[clip.source]
        task = ClipTask(clip, target, donor, args.destination, args.size, args.frames, args.seed, args.visible)
        if not all(file.is_file() for file in task.files.values()):
            tasks.append(task)
    if len(tasks) < len(pairing.clips):
        print(f"{len(pairing.clips) - len(tasks)} of {len(pairing.clips)} clips are made already", file=sys.stderr)
    for folder in {file.parent for task in tasks for file in task.files.values()}:
        make_folder(folder)
    for _ in run_tasks(make_clip, tasks, args.workers, "making clips"):
        pass


def finish(pairing: Pairing, destination: Path, recipes: dict[str, str]) -> None:
    """Write identities.json, README.md and splits/, which say that the set is complete."""
    split_of = {key: split for split in SPLITS for key in pairing.splits[split]}
    identities = {
        key: {"portrait": face.path.name, "person": face.person, "split": split_of[key], "sha256": face.sha256}
        for key, face in pairing.portraits.items()
    }
    write_json(destination / "identities.json", identities)
    listed = "\n".join(f"- `{method}`: {recipe}" for method, recipe in recipes.items())
    with replacing(destination / "README.md") as file:
        file.write(README.format(recipes=listed).encode())
    make_folder(destination / "splits")
    for split in SPLITS:
        write_json(destination / "splits" / f"{split}.json", pairing.pairs[split])


if __name__ == "__main__":
    run(main)
