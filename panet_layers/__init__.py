"""EMAM and SCAM, attention layers for vision networks, and PANet, the deepfake detector built on them."""

from . import checkpoints, functional
from .backends import get_backend, set_backend, use_backend
from .emam import EMAM
from .scam import SCAM, ChannelAttention, SpatialAttention
from .version import __version__

__all__ = [
    "EMAM",
    "SCAM",
    "ChannelAttention",
    "SpatialAttention",
    "__version__",
    "checkpoints",
    "functional",
    "get_backend",
    "set_backend",
    "use_backend",
]
