"""The detectors PANet, RECCE (PANet without attention layers) and Xception, and their loss."""

try:
    from .baseline import XceptionBaseline
    from .detector import PANetOutput
    from .folding import fold_batch_norm
    from .losses import PANetLoss, PANetLosses
    from .panet import PANet
    from .recce import RecceWeights, recce_state_dict
    from .xception_weights import XceptionWeights, xception_state_dict
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0]  # the name may be that of a module, such as safetensors.torch
    if package not in ("timm", "huggingface_hub", "safetensors"):
        raise
    raise ModuleNotFoundError(
        f"panet_layers.models needs the package {package}, which is not installed: "
        "pip install timm huggingface-hub safetensors",
        name=package,
    ) from None

__all__ = [
    "PANet",
    "PANetLoss",
    "PANetLosses",
    "PANetOutput",
    "RecceWeights",
    "XceptionBaseline",
    "XceptionWeights",
    "fold_batch_norm",
    "recce_state_dict",
    "xception_state_dict",
]
