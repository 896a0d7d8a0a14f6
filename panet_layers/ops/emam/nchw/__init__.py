"""EMAM's passes over NCHW maps, or maps of any strides, as Triton kernels; `README.md` one folder up has the costs."""

from .backward import delta, input_gradient
from .forward import attend, moments, pool
from .reductions import contract
from .whole import attend_whole, fits

__all__ = ["attend", "attend_whole", "contract", "delta", "fits", "input_gradient", "moments", "pool"]
