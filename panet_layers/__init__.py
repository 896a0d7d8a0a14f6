"""EMAM and SCAM, attention layers for vision networks, and PANet, the deepfake detector built on them."""

from . import checkpoints, functional
from .backends import available_backends, get_backend, set_backend, use_backend
from .emam import EMAM
from .insertion import insert_attention, profile, remove_attention, replace_attention
from .scam import SCAM, ChannelAttention, SpatialAttention
from .version import __version__

__all__ = [
    "EMAM",
    "SCAM",
    "ChannelAttention",
    "SpatialAttention",
    "__version__",
    "available_backends",
    "checkpoints",
    "functional",
    "get_backend",
    "insert_attention",
    "profile",
    "remove_attention",
    "replace_attention",
    "set_backend",
    "use_backend",
]
