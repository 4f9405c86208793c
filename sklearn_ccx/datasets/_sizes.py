"""Sizes of made-up data: what they may be."""

from numbers import Integral

from .._sklearn_compat import Interval

# The bounds of an argument that counts something.
COUNT = Interval(Integral, 1, 2**31 - 1, closed="both")
