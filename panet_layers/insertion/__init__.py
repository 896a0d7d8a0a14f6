"""Attention layers into any backbone, out of it again, in the place of look-alikes, and what they cost."""

from .costs import Cost, CostReport
from .insert import insert_attention, remove_attention
from .profiling import profile
from .replacement import ReplacementReport, replace_attention

__all__ = [
    "Cost",
    "CostReport",
    "ReplacementReport",
    "insert_attention",
    "profile",
    "remove_attention",
    "replace_attention",
]
