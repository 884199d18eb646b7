"""The kernels of `pointwise.cu`: the cell of one step, for all units at once."""

from functools import cache

import numpy as np

from ...checks import COMPUTE_DTYPE
from . import kernels

FILES = ("pointwise.cu",)
KERNELS = ("cell_forward", "cell_backward")
# Backward: dtypes of the gradient from outside, float32 where those of h_n were added to it, and of da.
GRADIENTS = (
    ("float16", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16"), ("float32", "float32"),
    ("float64", "float64"),
)  # fmt: skip


@cache  # asked for at each step of a stream
def expression(kernel, states, *others):
    """A kernel's C++ name: its types are S and W, of states and what is computed with; backward A, too, that of da."""
    return kernels.expression(kernel, states, COMPUTE_DTYPE[states], *others)


# Every kernel that is ever asked for, by its C++ name.
EXPRESSIONS = (
    *(expression(KERNELS[0], dtype) for dtype in kernels.TYPES),
    *(expression(KERNELS[1], *dtypes) for dtypes in GRADIENTS),
)
# Threads of a block: few, so that small problems spread over many processors.
BLOCK = 128


def launcher(kernel, N, H, *dtypes):
    """A function that launches a kernel on the current device and stream: it takes the arguments before the sizes."""
    run = kernels.function(FILES, expression(kernel, *dtypes), EXPRESSIONS)
    grid, sizes = (-(-N * H // BLOCK),), (np.uint32(N * H), np.uint32(H))
    return lambda *arguments: run(grid, (BLOCK,), (*arguments, *sizes))
