"""Claims an output folder for one set of settings: a stopped command can continue, and two never mix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .cli import UserError
from .files import is_partial, make_folder, put_if_absent, write_json
from .texts import read_json


def check_destination(folder: Path, settings_name: str) -> None:
    """UserError unless the folder is missing, empty, or holds the settings file of an earlier command."""
    if os.path.exists(folder) and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose a new or empty folder")
    in_use = os.path.isdir(folder) and not all(is_partial(path) for path in folder.iterdir())
    if in_use and not (folder / settings_name).is_file():  # after the listing: another process may write
        raise UserError(f"{folder}: has files but no {settings_name}; choose a new or empty folder")


def claim_destination(folder: Path, settings_name: str, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder, or check that those already there are the same.

    Several processes may claim a folder at once: the settings of the first one are kept.
    """
    check_destination(folder, settings_name)
    file = folder / settings_name
    if not file.is_file():
        write_json(make_folder(folder) / settings_name, settings, put_if_absent)
    found = read_json(file)
    different = sorted(key for key in settings.keys() | found.keys() if found.get(key) != settings.get(key))
    if different:
        raise UserError(
            f"{file}: made with another {' and '.join(different)}; choose a new folder, or give the same command again"
        )
