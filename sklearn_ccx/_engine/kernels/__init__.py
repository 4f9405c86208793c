"""Kernels of the searches and sums over neurons: with torch, numba or Triton."""

from ._choice import kernels_for
from ._protocol import Kernels

__all__ = ["Kernels", "kernels_for"]
