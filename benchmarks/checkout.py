"""Lets a script of this folder import from its own checkout: Python puts the script's folder first in the path."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
