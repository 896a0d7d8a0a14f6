"""Reads what torch.save wrote, from strangers too: no code runs, and no more memory is used than the file has bytes."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

from .cli import UserError, first_line
from .files import check_regular

MOST_LEGACY_BYTES = 2**30
"""Of files in torch.save's first format, of whose content nothing is known before it is read."""

FIRST_FORMAT = 5  # pickles that such a file begins with
LONGEST_TEXT = 4096
"""As of a path. torch searches its messages, which quote texts of the file, for a time that grows with their square."""


def load_saved(file: Path) -> Any:
    """The object in a file, on the CPU. UserError that names the file: missing, damaged, with code, or a zip bomb."""
    import torch  # not at the top: the worker processes of prepare.py import this module and need no torch

    check_regular(file, "file")
    try:
        size = file.stat().st_size
        if zipfile.is_zipfile(file):
            _check_members(file, size)
        elif size > MOST_LEGACY_BYTES:
            raise UserError(f"{file} refused: no file of torch.save's current format")
        else:
            with file.open("rb") as pickles:
                for _ in range(FIRST_FORMAT):
                    _check_texts(pickles, file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} refused: damaged, or it holds code") from error
    except Exception as error:  # of a damaged file, torch raises nearly any
        raise UserError(f"{file} is damaged: {first_line(error)}") from error
    if not all(map(_is_stored_whole, _tensors(found))):
        raise UserError(f"{file} refused: a tensor in it is larger than what is stored of it")
    return found


def _check_members(file: Path, size: int) -> None:
    """UserError if the zip file's members are compressed or overlap, which torch.save's never are."""
    with zipfile.ZipFile(file) as members:
        listed = members.infolist()
        for member in listed:
            if member.filename.endswith("/data.pkl") and not member.compress_type:
                with members.open(member) as pickled:
                    _check_texts(pickled, file)
    if any(member.compress_type for member in listed) or sum(member.file_size for member in listed) > size:
        raise UserError(f"{file} refused: its members are compressed (torch.save stores them as they are)")


def _check_texts(pickled: IO[bytes], file: Path) -> None:
    """UserError if a pickle has a text or name that is too long. What it holds is not made."""
    try:
        for _, argument, _ in pickletools.genops(pickled):
            if isinstance(argument, (str, bytes)) and len(argument) > LONGEST_TEXT:
                raise UserError(f"{file} refused: a text of {len(argument)} letters in it (at most {LONGEST_TEXT})")
    except ValueError as error:  # a damaged pickle, or one that torch.save has not written: torch.load names it
        if "no newline" in str(error):  # a name without an end, which torch.load would search
            raise UserError(f"{file} refused: damaged, or it holds code") from error


def _is_stored_whole(tensor: Any) -> bool:
    """Whether memory holds each of a tensor's elements, as it does not those of expanded, sparse and meta ones."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_meta:
        return False
    return bool(tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes())


def _tensors(value: Any) -> list[Any]:
    """The tensors in nested dicts, lists and tuples, each as often as it is there; without recursion."""
    import torch

    found, left = [], [value]
    while left:
        item = left.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, dict):
            left += item.values()
        elif isinstance(item, (list, tuple, set)):
            left += item
    return found
