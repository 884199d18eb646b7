"""The kernels of `pointwise.cu`, compiled by CuPy at their first use on a device, and kept on disk by it."""

from functools import cache
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("pointwise.cu")
OPTIONS = ("-std=c++17",)
KERNELS = ("cell_forward", "cell_backward")
# dtype of the states -> the types S and W of the kernels.
TYPES = {
    "float16": "float16, float",
    "bfloat16": "bfloat16, float",
    "float32": "float, float",
    "float64": "double, double",
}
# Threads of a block: few, so that small problems spread over many processors.
BLOCK = 128


def name_expressions():
    """Every kernel that is ever asked for, by its C++ name."""
    return tuple(f"{kernel}<{types}>" for kernel in KERNELS for types in TYPES.values())


def launcher(kernel, dtype, N, H):
    """A function that launches a kernel on the current device and stream: it takes the arguments before the sizes."""
    run, grid, sizes = _function(kernel, dtype), (-(-N * H // BLOCK),), (np.uint32(N * H), np.uint32(H))
    return lambda *arguments: run(grid, (BLOCK,), (*arguments, *sizes))


@cache
def _function(kernel, dtype):
    # CuPy compiles and loads it for each device by itself.
    return _module().get_function(f"{kernel}<{TYPES[dtype]}>")


@cache
def _module():
    import cupy

    return cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=OPTIONS, name_expressions=name_expressions())
