"""The detectors PANet, RECCE (PANet without attention layers) and Xception, and their loss. Needs timm and einops."""

from .baseline import XceptionBaseline
from .detector import PANetOutput
from .losses import PANetLoss, PANetLosses
from .panet import PANet
from .recce import RecceWeights, recce_state_dict

__all__ = [
    "PANet",
    "PANetLoss",
    "PANetLosses",
    "PANetOutput",
    "RecceWeights",
    "XceptionBaseline",
    "recce_state_dict",
]
