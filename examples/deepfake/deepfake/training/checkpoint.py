"""The files of a run: the state to resume from, and the best weights. Loading them never runs code.

RUN/config.json             all settings, the model's arguments, data, versions
RUN/last.pt                 everything needed to resume, read with ``weights_only=True``
RUN/best/model.safetensors  weights of the epoch with the best AUC on the val split
RUN/best/config.json        the model's arguments: ``PANet.from_pretrained`` loads RUN/best
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from panet_layers.models import PANet

from ..common.cli import UserError
from ..common.files import make_folder, read_json, replacing, write_json
from .placing import choose_channels_last, place
from .settings import SMALLEST_IMAGE, defaults

BEST = "best"
WEIGHTS = "model.safetensors"
STATE = "last.pt"
CONFIG = "config.json"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state (tensors, numbers, strings, lists and dicts of them), completely or not at all."""
    content = io.BytesIO()  # in torch.save itself, a full disk raises no OSError
    torch.save(state, content)
    with replacing(path) as file:
        file.write(content.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read a state of ``save_state`` onto the CPU. A file that would run code is refused."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: nothing to resume") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} refused: damaged, or it holds code (wanted a state written by train.py)") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged: {_first_line(error)}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__} (wanted a state written by train.py)")
    return state


def save_best(run: Path, model: nn.Module, model_config: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write the best weights so far to RUN/best, in the layout of ``save_pretrained``.

    ``metadata`` (epoch, val metrics, the run's config) is stored as JSON inside the weights file.
    """
    folder = make_folder(run / BEST)
    write_json(folder / CONFIG, model_config)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    texts = {"format": "pt", **{name: json.dumps(value) for name, value in metadata.items()}}
    with replacing(folder / WEIGHTS) as file:
        file.write(safetensors.torch.save(weights, texts))


def load_run(run: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The best model of a run, in eval mode on ``device``, in NHWC order on a CPU or if trained so; the run's config.

    Args:
        run: a folder written by train.py or by ``save_pretrained`` (as RUN/best is).

    Returns:
        The model and a dict with at least ``model`` (constructor arguments), ``image_size`` and, for a run,
        ``arguments``, ``data``, ``versions`` and ``best`` (``epoch`` and ``val`` metrics).

    Raises:
        UserError: names the file that is missing, damaged, unsafe or does not fit.
    """
    run = Path(run)
    if not run.is_dir():
        what = "is a file" if run.exists() else "does not exist"
        raise UserError(f"{run} {what}: wanted a run folder written by train.py or by save_pretrained")
    if (run / WEIGHTS).is_file():
        config: dict[str, Any] = {"model": read_json(run / CONFIG)}
        weights = run / WEIGHTS
    else:
        config, weights = read_json(run / CONFIG), run / BEST / WEIGHTS
        if not weights.is_file():
            raise UserError(f"{weights} is missing: no epoch of the run is finished, or {run} is no run folder")
    if not isinstance(config.get("model"), dict):
        raise UserError(f"{run / CONFIG} has no model arguments (wanted a config written by train.py)")

    tensors, metadata = _read_weights(weights)
    saved = metadata.pop("config", {})
    config = {**(saved if isinstance(saved, dict) else {}), **config, "best": metadata}
    model = model_from_config(config["model"], run / CONFIG)
    config.setdefault("image_size", defaults(config["model"].get("variant", "paper"))["image_size"])
    if not isinstance(config["image_size"], int) or config["image_size"] < SMALLEST_IMAGE:
        raise UserError(f"{run / CONFIG}: image size {config['image_size']!r} (wanted {SMALLEST_IMAGE} pixels or more)")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{weights} does not fit its model: {_mismatch(error)}") from error
    device = torch.device(device)
    trained_in_nhwc = (config.get("arguments") or {}).get("channels_last") is True
    return place(model, device, trained_in_nhwc or choose_channels_last(None, device)).eval(), config


def model_from_config(config: dict[str, Any], path: Path) -> nn.Module:
    """Build a model from its saved arguments. An error names their file, ``path``."""
    config = {name: value for name, value in config.items() if name != "encoder_pretrained"}  # no download
    try:
        return PANet.from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path} describes no model of this version: {_first_line(error)}") from error


def _read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            texts = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a safetensors file: {_first_line(error)}") from error
    return tensors, {name: _json_or_text(text) for name, text in texts.items() if name != "format"}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _mismatch(error: RuntimeError) -> str:
    """The first mismatch that load_state_dict reports; the first line of its error names only the class."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = lines[1] if len(lines) > 1 else lines[0]
    return text if len(text) <= 200 else text[:200] + "..."
