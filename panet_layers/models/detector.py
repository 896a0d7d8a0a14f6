"""What all detectors share: their output, configuration, saving and loading, and the checks of their input."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.utils import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..checks import check_tensor

MIN_IMAGE_SIZE = 64
MODEL_CARD = """---
{{ card_data }}
---

A deepfake detector of panet_layers. Say here which images it was trained on, and how it was evaluated.

```python
import torch
from panet_layers.models import PANet, fold_batch_norm

model = PANet.from_pretrained("FOLDER-OR-REPOSITORY")
model = fold_batch_norm(model).to(memory_format=torch.channels_last)  # on a CPU: faster, the same outputs to rounding
images = torch.rand(1, 3, 299, 299) * 2 - 1  # face crops, RGB in [-1, 1]
with torch.inference_mode():
    probability_of_fake = model(images).logits.sigmoid()
```
"""
Kind = TypeVar("Kind", bound="Detector")
BEFORE_HUB_1 = ("proxies", "resume_download")  # arguments that the mixin passes on before huggingface-hub 1.0


class PANetOutput(NamedTuple):
    """What a detector returns for images (B, 3, H, W).

    logits: (B, num_classes); with one class, sigmoid(logit) is the probability of "fake".
    reconstruction: (B, 3, H, W) in [-1, 1], or None where the detector has no decoder.
    embeddings: L2-normalised (B, C_i), one per feature map that the metric loss uses; () without a decoder.
    """

    logits: Tensor
    reconstruction: Tensor | None
    embeddings: tuple[Tensor, ...]


class Detector(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="panet-layers",
    license="mit",
    pipeline_tag="image-classification",
    tags=["deepfake-detection"],
    model_card_template=MODEL_CARD,
):
    """Base of the detectors: `config`, `from_config`, and a folder or Hub repository with safetensors and config.json.

    A subclass passes its constructor's arguments to `__init__` as `config`. With its own `architecture` in the
    configuration, `from_config` and `from_pretrained` of any detector class build the right one.
    """

    architecture: ClassVar[str]

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self._hub_mixin_config = config  # what save_pretrained writes to config.json

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that define the architecture, in types that JSON has; `from_config` builds the model again.

        `encoder_pretrained` is not one of them: it says where weights came from, not what the model is.
        """
        return dict(self._hub_mixin_config)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Detector:
        """Return a detector with random weights, built from a `config`. Raises ValueError for a wrong key or value."""
        if not isinstance(config, Mapping):
            raise ValueError(f"a configuration is a mapping of names to values, got {config!r}")
        arguments = dict(config)
        architectures = {known.architecture: known for known in Detector.__subclasses__()}
        name = arguments.pop("architecture", "panet")
        if name not in architectures:
            raise ValueError(f"architecture must be one of {sorted(architectures)}, got {name!r}")
        model_class = cls if issubclass(cls, architectures[name]) else architectures[name]
        known_arguments = [key for key in inspect.signature(model_class.__init__).parameters if key != "self"]
        unknown = sorted(set(arguments) - set(known_arguments))
        if unknown:
            raise ValueError(
                f"unknown keys in the configuration of {model_class.__name__}: {unknown}; it may have {known_arguments}"
            )
        return model_class(**arguments)

    @classmethod
    def from_pretrained(cls: type[Kind], pretrained_model_name_or_path: str | Path, **options: Any) -> Kind:
        """Return the detector that `save_pretrained` wrote to a folder, or `push_to_hub` to a repository of the Hub.

        The options are those of `huggingface_hub.PyTorchModelHubMixin.from_pretrained`. Raises FileNotFoundError or
        ValueError where there is no such folder or repository, or its files are not a detector's.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        except HFValidationError:
            name = pretrained_model_name_or_path
            raise FileNotFoundError(
                f"{str(name)!r} is neither a folder nor the name of a Hub repository, user/name"
            ) from None

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        config: Mapping[str, Any] | None = None,
        map_location: str = "cpu",
        strict: bool = True,
        **options: Any,
    ) -> Detector:
        """Load strictly, and only from safetensors (the mixin would ignore wrong keys, and read a pickle)."""
        download = {
            key: options.pop(key)
            for key in ("revision", "cache_dir", "force_download", "token", "local_files_only", *BEFORE_HUB_1)
            if key in options
        }
        if not isinstance(config, Mapping):
            raise ValueError(f"no usable {CONFIG_NAME} in {model_id}; it must be one that save_pretrained wrote")
        model = cls.from_config({**config, **options})
        if Path(model_id).is_dir():
            file = Path(model_id, SAFETENSORS_SINGLE_FILE)
            if not file.is_file():
                raise FileNotFoundError(f"no {SAFETENSORS_SINGLE_FILE} in {model_id}; save_pretrained writes one")
        else:
            file = Path(hf_hub_download(model_id, SAFETENSORS_SINGLE_FILE, **download))
        try:
            weights = load_file(file, device=map_location)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file: {error}") from None
        if strict:
            check_weights_fit({name: value.shape for name, value in model.state_dict().items()}, weights, str(file))
        model.load_state_dict(weights, strict=strict)
        return model.to(map_location).eval()


def check_weights_fit(wanted: Mapping[str, torch.Size], given: Mapping[str, Tensor], source: str) -> None:
    """Raise one ValueError that names the tensors of `given` that are missing, unknown or of a wrong shape, if any."""
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "of another shape": misshapen,
    }
    found = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(f"the weights of {source} do not fit the model: " + "; ".join(found))


def check_images(images: Tensor) -> None:
    """Raise an error unless images are floating-point (B, 3, H, W), 64x64 or larger: below, the last map is empty."""
    if torch.jit.is_tracing():  # sizes are tensors there, and comparing them prints a warning
        return
    check_tensor("images", images, "(B, 3, H, W)")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating-point in [-1, 1], got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
    if min(images.shape[2:]) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"images must be at least {MIN_IMAGE_SIZE}x{MIN_IMAGE_SIZE}, got {images.shape[2]}x{images.shape[3]}"
        )
