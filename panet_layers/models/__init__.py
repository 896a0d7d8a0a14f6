"""The detectors: PANet, RECCE as its special case, the Xception baseline, and their loss. Needs timm and einops."""

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
