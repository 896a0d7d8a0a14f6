"""EMAM and SCAM as names in ultralytics' model YAML; as a program, ultralytics' command line that knows them.

python -m panet_layers.integrations.ultralytics train model=my-yolo.yaml data=coco8.yaml epochs=1
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..emam import EMAM
from ..scam import SCAM, ChannelAttention, SpatialAttention

__all__ = ["register"]

ARGUMENTS = {"EMAM": "groups", "SCAM": "reduction"}
IN_WORKERS = """import sys
sys.path = {path!r}
from panet_layers.integrations.ultralytics import register
register()
"""


class Registration:
    """Attribute of a layer that was built from a YAML: where the layer is unpickled, the names are registered again.

    So checkpoints need no call of `register`.
    """

    def __reduce__(self) -> tuple[Callable[[], Registration], tuple[()]]:
        return registration, ()


def registration() -> Registration:
    """Return a `Registration`; where ultralytics is in use, register the names. A layer loads without this too."""
    if sys.modules.get("ultralytics.nn.tasks") is not None:
        with suppress(RuntimeError):
            register()
    return Registration()


class EMAMInYaml(nn.Module):
    """What `EMAM` in a YAML calls: returns an `EMAM` for the channels of the row's input."""

    def __new__(cls, channels: list[int], source: int, row: int, *arguments: int) -> EMAM:  # type: ignore[misc]
        return _built(EMAM, channels[source], row, arguments)


class SCAMInYaml(nn.Module):
    """What `SCAM` in a YAML calls: returns a `SCAM` for the channels of the row's input."""

    def __new__(cls, channels: list[int], source: int, row: int, *arguments: int) -> SCAM:  # type: ignore[misc]
        return _built(SCAM, channels[source], row, arguments)


def register() -> None:
    """Make `EMAM` and `SCAM` names for rows of a model YAML: `- [-1, 1, EMAM, []]`.

    The argument may be EMAM's groups or SCAM's reduction, `[4]`. The channels are those of the row's input, scaled with
    the model's width. The built model holds `panet_layers.EMAM` and `panet_layers.SCAM` themselves. Its checkpoints
    register the names where they are loaded, and so do the worker processes of a training on several GPUs. A second
    call changes nothing.

    Building a model raises ValueError, which names the row, for other arguments, several inputs or none that comes
    before the row, and a layer that does not fit the channels.
    Raises ImportError where ultralytics is not installed, or RuntimeError where its parser, or how it starts worker
    processes, is not the one known here.
    """
    try:
        from ultralytics.nn import tasks
        from ultralytics.utils import dist
    except ImportError as error:
        raise ImportError(
            f"ultralytics can't be imported: {error}; install it with pip install 'panet-layers[clients]'"
        ) from error
    names, workers = cast(Any, tasks), cast(Any, dist)
    parse, generate = names.parse_model, getattr(workers, "generate_ddp_file", None)
    if getattr(parse, "__module__", None) == __name__:
        return
    if not {"ch", "f", "args"} <= {*parse.__code__.co_varnames, *parse.__code__.co_cellvars}:
        raise RuntimeError("this version of ultralytics parses a model's YAML in another way than 8.3 and 8.4 do")
    if generate is None:
        raise RuntimeError("this version of ultralytics starts worker processes in another way than 8.3 and 8.4 do")

    def parse_model(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Build a model as ultralytics does, with EMAM and SCAM among the modules that a row may name."""
        return parse(_with_channels(d), *args, **kwargs)

    def generate_ddp_file(trainer: Any) -> str:
        """Write the program of ultralytics' worker processes, which registers the names first: it may read a YAML."""
        program = Path(generate(trainer))
        program.write_text(IN_WORKERS.format(path=sys.path) + program.read_text(encoding="utf-8"), encoding="utf-8")
        return str(program)

    names.EMAM, names.SCAM, names.parse_model = EMAMInYaml, SCAMInYaml, parse_model
    workers.generate_ddp_file = generate_ddp_file
    torch.serialization.add_safe_globals([EMAM, SCAM, ChannelAttention, SpatialAttention, registration])


class _Arguments(list[Any]):
    """A row's arguments behind the channels, its input and its number, printed as ultralytics prints its own.

    It replaces the names of the first two by values.
    """

    def __str__(self) -> str:
        channels, source, _, *others = self
        return str([channels[source], *others] if isinstance(channels, list) else others)


def _with_channels(d: dict[str, Any]) -> dict[str, Any]:
    """Return the description with the names of ultralytics' variables before the arguments of our rows.

    Its parser replaces an argument that is the name of one of its local variables by the variable's value: `ch`, the
    channels of all rows until now, and `f`, the row's input. Modules that it does not know get no channels otherwise.
    """
    new, number = dict(d), 0
    for part in ("backbone", "head"):
        rows = []
        for row in d[part]:
            rows.append(_row(number, *row) if len(row) == 4 and row[2] in ARGUMENTS else row)
            number += 1
        new[part] = rows
    return new


def _row(number: int, source: Any, repeats: int, name: str, arguments: Any) -> list[Any]:
    where = _where(number, name)
    if type(source) is not int:
        raise ValueError(f"{where}, takes the output of one row, got from={source!r}")
    if not -max(number, 1) <= source < number:  # -1 of the first row is the image
        raise ValueError(f"{where}, takes the output of a row before it, got from={source}")
    if not isinstance(arguments, (list, tuple)):
        raise ValueError(f"{where}, takes a list of arguments, [] or [{ARGUMENTS[name]}], got {arguments!r}")
    if len(arguments) > 1 or any(type(value) is not int for value in arguments):
        raise ValueError(f"{where}, takes no argument or one number, {ARGUMENTS[name]}, got {arguments!r}")
    return [source, repeats, name, _Arguments(["ch", "f", number, *arguments])]


def _where(number: int, name: str) -> str:
    return f"row {number} of the model, {name}"


def _built(kind: type[nn.Module], channels: int, row: int, arguments: tuple[int, ...]) -> Any:
    """Return a layer for the channels, marked by a `Registration`."""
    try:
        layer: Any = kind(channels, *arguments)
    except ValueError as error:
        raise ValueError(f"{_where(row, kind.__name__)}: {error}") from error
    layer.registration = Registration()
    return layer


def main() -> None:
    """Run ultralytics' command line with the layers' names."""
    try:
        register()
    except (ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from ultralytics.cfg import entrypoint

    try:
        entrypoint()
    except (SyntaxError, FileNotFoundError) as error:  # what ultralytics raises for its arguments
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    # Not this module's own functions: those of the module that pickles name.
    from panet_layers.integrations.ultralytics import main as run

    run()
