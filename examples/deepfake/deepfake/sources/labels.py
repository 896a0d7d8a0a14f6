"""Which words of an index mean real and which fake. A number means what the user says with --labels: sets differ.

Known are the words of public data sets: real, original, pristine, youtube; fake, manipulated; the forgeries' names in
full and as DeepfakeBench shortens them. The data set's name may stand before the word: FF-real, DFDCP_FakeA.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from typing import Any

from ..dataset.manifest import CLASSES

WORDS = (
    "real original originals originalsequences pristine youtube actors genuine authentic",
    "fake fakes fakea fakeb forged forgery manipulated manipulatedsequences synthetic synthesis deepfake deepfakes "
    "deepfakedetection face2face faceswap faceshifter neuraltextures df f2f fs nt sh fsh fh",
)
LABEL_OF = {word: label for label, words in enumerate(WORDS) for word in words.split()}
DATA_SETS = ("ff", "faceforensics", "celeb", "celebdf", "celebdfv1", "celebdfv2", "dfd", "dfdc", "dfdcp", "df", "uadfv")

Labels = Mapping[str, int]
"""The label of each spelling that --labels names: 0 real, 1 fake."""


def labels_option(text: str) -> Labels:
    """An argparse type: "real=0,fake=1" as {"0": 0, "1": 1}; a class may be there several times."""
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, spelling = part.partition("=")
        spelling = spelling.strip().lower()
        if name.strip().lower() not in CLASSES or not spelling:
            raise argparse.ArgumentTypeError(f"{text!r} is not real=LABEL,fake=LABEL, such as real=0,fake=1")
        label = CLASSES.index(name.strip().lower())
        if found.setdefault(spelling, label) != label:
            raise argparse.ArgumentTypeError(f"{text!r} calls {spelling!r} both real and fake")
    return found


def label_of(value: Any, data_set: str, given: Labels) -> int | None:
    """0 real, 1 fake, or None where an index's label is neither in `given` nor a known word. `data_set` is its name."""
    spelling = value if isinstance(value, str) else json.dumps(value)
    if spelling.lower() in given:
        return given[spelling.lower()]
    if not isinstance(value, str):
        return None
    parts = _parts(value)
    own_name = "".join(_parts(data_set))
    names = {*DATA_SETS, "youtube", *({own_name} - LABEL_OF.keys())}  # a set called "real" must not turn "real fake"
    cuts = [0, *(cut for cut in range(1, len(parts)) if "".join(parts[:cut]) in names)]
    return next((LABEL_OF[rest] for cut in cuts if (rest := "".join(parts[cut:])) in LABEL_OF), None)


def _parts(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def advice(value: Any) -> str:
    """What to do about a label that is not known."""
    if isinstance(value, str) and not value.strip().isdigit():
        return "wanted a word such as real, original, pristine, youtube, fake or a forgery's name; or --labels"
    return "data sets differ in which number means fake; say it with --labels, such as --labels real=0,fake=1"
