"""EMAM's passes over channels_last maps as Triton kernels, and their launchers; `README.md` above has the costs."""

from .backward import delta, input_gradient, padded
from .forward import attend
from .parameters import vector_gradients
from .reductions import contract
from .statistics import moments, pool

__all__ = ["attend", "contract", "delta", "input_gradient", "moments", "padded", "pool", "vector_gradients"]
