"""CuPy: all steps in one launch, each row of the batch in a block of its own, with Wh in registers; for small H.

The kernels are in `cuda/rows.cu`. Blocks say nothing to each other, and a step has one barrier: nothing is quicker
where registers hold Wh, and there are not many more rows than processors. Between calls, nothing is kept.

Products of the recurrence are IEEE float32 in every precision, of what half types hold: `h` as it is rounded, and da as
it is stored. The precision is that of stages one and three.
"""

from functools import lru_cache

from ..checks import COMPUTE_DTYPE, dtype_name
from .cuda import kernels
from .cuda.memory import strided
from .cuda.plan import DTYPES
from .cuda.whole import Whole, by_precision

FILES = ("rows.cu",)
# Kernels are compiled for H up to one of these: a block has four times as many threads, and each as many weights.
UNITS = 16, 32, 48, 64
GATES = 4
# The directions.
FORWARD, BACKWARD = range(2)
# Of their kernels, as `Launcher` says.
PARAMETERS = "PqqPPPPPiIII", "PqqPPPPiqqqPPPIII"
# What a block tells itself, in two buffers: of each unit h, backward da of its gates.
TOLD_BYTES = 2 * 4, 2 * 4 * GATES


class Engine(Whole):
    """The engine with stages one and three of one precision."""

    name, dtypes = "cupy_rows", DTYPES

    def limit(self, problem):
        return f"a block holds Wh for H up to {UNITS[-1]}; H is {problem.H}" if problem.H > UNITS[-1] else ""

    def advance(self, sizes, gates, c, c0, h, h0, Wh, keep):
        T, N, H = sizes
        launch = _launch(FORWARD, dtype_name(Wh.dtype), N, H)
        launch(*strided(Wh), gates.ptr, c.ptr, c0.ptr, h.ptr, h0.ptr, keep, T)

    def retreat(self, sizes, dh, wide, gates, c, c0, Wh, da, dh_t, dc_t):
        T, N, H = sizes
        launch = _launch(BACKWARD, dtype_name(Wh.dtype), N, H)
        outer, *by = dh
        launch(*strided(Wh), gates.ptr, c.ptr, c0.ptr, outer, wide, *by, da.ptr, dh_t.ptr, dc_t.ptr, T)


at = by_precision(Engine)


def expressions(dtype, units):
    """The C++ names of both kernels."""
    da = dtype if dtype == "bfloat16" else COMPUTE_DTYPE[dtype]
    return kernels.expression("rows_forward", dtype, units), kernels.expression("rows_backward", dtype, da, units)


def every_expression():
    """All of them."""
    return tuple(dict.fromkeys(name for dtype in DTYPES for units in UNITS for name in expressions(dtype, units)))


@lru_cache(maxsize=512)
def _launch(direction, dtype, N, H):
    """A function of the arguments of a direction's kernel up to T."""
    units = next(units for units in UNITS if units >= H)
    kernel = kernels.function(FILES, expressions(dtype, units)[direction])
    launch, shared_bytes = kernels.Launcher(kernel, PARAMETERS[direction]), TOLD_BYTES[direction] * units
    return lambda *arguments: launch(N, GATES * units, *arguments, N, H, shared_bytes=shared_bytes)
