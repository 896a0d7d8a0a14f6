"""The files of a run: the state to resume from, and the best weights. Loading them never runs code.

RUN/config.json             all settings, the model's arguments, data, versions
RUN/last.pt                 everything needed to resume, read with ``weights_only=True``
RUN/best/model.safetensors  weights of the epoch with the best AUC on the val split
RUN/best/config.json        the model's arguments: ``PANet.from_pretrained`` loads RUN/best
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from panet_layers.models import PANet

from ..common.cli import UserError, first_line
from ..common.files import make_folder, replacing, write_json
from ..common.saved import load_saved
from ..common.texts import parse_json, read_json
from .placing import choose_channels_last, place
from .settings import LARGEST_IMAGE, SMALLEST_IMAGE, defaults

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
    """Read a state of ``save_state`` onto the CPU. A file that would run code or fill the memory is refused."""
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: nothing to resume")
    state = load_saved(path)
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


def has_best(run: Path) -> bool:
    """Whether a run holds its best weights and their configuration."""
    return all((run / BEST / name).is_file() for name in (WEIGHTS, CONFIG))


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
    if not os.path.isdir(run):
        what = "is a file" if os.path.exists(run) else "does not exist"
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

    for key in ("arguments", "data"):
        if not isinstance(config.get(key) or {}, dict):
            raise UserError(f"{run / CONFIG}: {key} is a {type(config[key]).__name__} (wanted an object)")
    methods = (config.get("data") or {}).get("methods") or []
    if not isinstance(methods, list) or not all(isinstance(method, str) for method in methods):
        raise UserError(f"{run / CONFIG}: methods are {repr(methods)[:100]} (wanted a list of names)")
    with torch.device("meta"):  # shapes without memory: a stranger's configuration may ask for any
        wanted = model_from_config(config["model"], run / CONFIG).state_dict()
    tensors, metadata = _read_weights(weights, wanted)
    saved = metadata.pop("config", {})
    config = {**(saved if isinstance(saved, dict) else {}), **config, "best": metadata}
    config.setdefault("image_size", defaults(config["model"].get("variant", "paper"))["image_size"])
    size = config["image_size"]
    if type(size) is not int or not SMALLEST_IMAGE <= size <= LARGEST_IMAGE:
        wanted_sizes = f"wanted {SMALLEST_IMAGE} pixels or more, at most {LARGEST_IMAGE}"
        raise UserError(f"{run / CONFIG}: image size {repr(size)[:100]} ({wanted_sizes})")
    model = model_from_config(config["model"], run / CONFIG)
    model.load_state_dict(tensors)
    device = torch.device(device)
    trained_in_nhwc = (config.get("arguments") or {}).get("channels_last") is True
    return place(model, device, trained_in_nhwc or choose_channels_last(None, device)).eval(), config


def model_from_config(config: dict[str, Any], path: Path) -> nn.Module:
    """Build a model from its saved arguments. An error names their file, ``path``."""
    config = {name: value for name, value in config.items() if name != "encoder_pretrained"}  # no download
    try:
        return PANet.from_config(config)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path} describes no model of this version: {first_line(error)}") from error


def _read_weights(path: Path, wanted: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights and the metadata of a safetensors file. UserError unless it holds exactly what is wanted."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            different = sorted(wanted.keys() ^ file.keys())
            if different:
                what = "is missing" if different[0] in wanted else "is too much"
                raise UserError(f"{path} does not fit its model: {different[0][:200]} {what}")
            for name, tensor in wanted.items():
                if (shape := file.get_slice(name).get_shape()) != list(tensor.shape):
                    raise UserError(f"{path} does not fit its model: {name} is {shape}, wanted {list(tensor.shape)}")
            tensors = {name: file.get_tensor(name) for name in wanted}
            texts = file.metadata() or {}
    except UserError:
        raise
    except Exception as error:  # damaged files give more than SafetensorError, such as of types that torch has not
        raise UserError(f"{path} is not a safetensors file: {first_line(error)}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise UserError(f"{path} does not fit its model: {name} is {tensor.dtype}, wanted {wanted[name].dtype}")
    return tensors, {name: _json_or_text(text) for name, text in texts.items() if name != "format"}


def _json_or_text(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text
