"""The kernels of `pointwise.cu`: the cell of one step, for all units at once."""

import numpy as np

from . import kernels

FILES = ("pointwise.cu",)
KERNELS = ("cell_forward", "cell_backward")
# dtype of the states -> the types S and W of the kernels.
TYPES = {
    "float16": "float16, float",
    "bfloat16": "bfloat16, float",
    "float32": "float, float",
    "float64": "double, double",
}
# Every kernel that is ever asked for, by its C++ name.
EXPRESSIONS = tuple(f"{kernel}<{types}>" for kernel in KERNELS for types in TYPES.values())
# Threads of a block: few, so that small problems spread over many processors.
BLOCK = 128


def launcher(kernel, dtype, N, H):
    """A function that launches a kernel on the current device and stream: it takes the arguments before the sizes."""
    run = kernels.function(FILES, f"{kernel}<{TYPES[dtype]}>", EXPRESSIONS)
    grid, sizes = (-(-N * H // BLOCK),), (np.uint32(N * H), np.uint32(H))
    return lambda *arguments: run(grid, (BLOCK,), (*arguments, *sizes))
