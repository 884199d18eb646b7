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
# Backward: dtypes of the gradient from outside, float32 where those of h_n were added to it, and of da.
GRADIENTS = (
    ("float16", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16"), ("float32", "float32"),
    ("float64", "float64"),
)  # fmt: skip


def types(dtype, da=None):
    """The types of a kernel: S and W; backward A, too."""
    return TYPES[dtype] if da is None else f"{TYPES[dtype]}, {TYPES[da].partition(', ')[0]}"


# Every kernel that is ever asked for, by its C++ name.
EXPRESSIONS = (
    *(f"{KERNELS[0]}<{types(dtype)}>" for dtype in TYPES),
    *(f"{KERNELS[1]}<{types(*dtypes)}>" for dtypes in GRADIENTS),
)
# Threads of a block: few, so that small problems spread over many processors.
BLOCK = 128


def launcher(kernel, N, H, *dtypes):
    """A function that launches a kernel on the current device and stream: it takes the arguments before the sizes."""
    run = kernels.function(FILES, f"{kernel}<{types(*dtypes)}>", EXPRESSIONS)
    grid, sizes = (-(-N * H // BLOCK),), (np.uint32(N * H), np.uint32(H))
    return lambda *arguments: run(grid, (BLOCK,), (*arguments, *sizes))
