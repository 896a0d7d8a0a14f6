"""Insert attention layers into any model, remove them, replace other implementations by them, and report costs."""

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
