"""EMAM's passes over NCHW maps, or maps of any strides, as Triton kernels; `README.md` one folder up has the costs."""

from .backward import delta, input_gradient
from .contract import contract
from .forward import attend, moments, pool

__all__ = ["attend", "contract", "delta", "input_gradient", "moments", "pool"]
