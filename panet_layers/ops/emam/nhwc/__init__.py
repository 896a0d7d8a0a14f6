"""EMAM's passes over channels_last maps as Triton kernels, behind the launchers of `nchw`."""

from .backward import delta, input_gradient, padded
from .forward import attend
from .reductions import contract
from .statistics import moments, pool

__all__ = ["attend", "contract", "delta", "input_gradient", "moments", "padded", "pool"]
