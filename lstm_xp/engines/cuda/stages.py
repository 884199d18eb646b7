"""What the engines for CuPy have in common beside their recurrences: stages one and three, and a step of a stream.

Of a sequence of a usual size, Python takes more time than the device: what can be one launch is one (`stages.cu`), and
nothing is copied that cuBLAS can read where it lies. It multiplies half types as they are, exactly, and sums in
float32; beside gradients that are float32, they are widened.
"""

from functools import cache

from ...checks import COMPUTE_DTYPE, dtype_name
from . import kernels, pointwise
from .memory import strided, working_on
from .products import computed_with, multiply

FILES = "timeline.cuh", "stages.cu"
# Dtypes of what is stored, and of what is computed with.
DTYPES = tuple((dtype, COMPUTE_DTYPE[dtype]) for dtype in kernels.TYPES)
# They are S and A of the kernel, R being either. Beside da of bfloat16, all three are that.
VARIANTS = tuple(dict.fromkeys((S, R, W) for S, W in DTYPES for R in (S, W)))
EXPRESSIONS = tuple(kernels.expression("arrange", *dtypes) for dtypes in (*VARIANTS, ("bfloat16",) * 3))
BLOCK = 128
# The lengths of a Timeline (an address, and whether it is reversed) where there are none.
FULL = 0, 0


class Stages:
    """The stages with float32 products of one precision."""

    def __init__(self, precision):
        self.precision = precision

    def inputs(self, x, Wx, b):
        import cupy as cp

        (T, N, D), columns = x.shape, Wx.shape[1]
        with working_on(x.device, "pre-activations", T * N * (4 * columns + D * x.itemsize)):
            a = cp.empty((T, N, columns), computed_with(x.dtype))
            rows = _arranged(x, x.dtype, b, None if b is None else a)
            flat = a.reshape(T * N, columns)
            multiply(rows, Wx, flat, add=b is not None, precision=self.precision)
        return a

    def product(self, A, B, bias=None):
        import cupy as cp

        shape = A.shape[0], B.shape[1]
        with working_on(A.device, f"products of shape {shape}", shape[0] * shape[1] * A.itemsize):
            out = cp.empty(shape, A.dtype)
            if bias is not None:
                out[...] = bias
            multiply(A, B, out, add=bias is not None, precision=self.precision)
        return out

    def weight_gradients(self, x, h0, h, da):
        import cupy as cp

        (T, N, D), H, factor, wide = x.shape, h.shape[2], da.dtype, computed_with(da.dtype)
        needed = (D + H + 1) * (4 * H * wide.itemsize + T * N * factor.itemsize)
        with working_on(da.device, "gradients of weights", needed):
            flat, ones = da.reshape(T * N, 4 * H), cp.empty((1, T * N), factor)
            dWx, dWh, db = (cp.empty((rows, 4 * H), wide) for rows in (D, H, 1))
            multiply(_arranged(x, factor, None, ones).T, flat, dWx, precision=self.precision)
            multiply(_arranged(h0[None], factor).T, flat[:N], dWh, precision=self.precision)
            if T > 1:
                multiply(_arranged(h[:-1], factor).T, flat[N:], dWh, add=True, precision=self.precision)
            multiply(ones, flat, db)  # sums, of which nothing is rounded to TF32
        return dWx, dWh, db[0]

    def step(self, x, h, c, Wx, Wh, b):
        import cupy as cp

        (N, H), wide = h.shape, computed_with(h.dtype)
        with working_on(x.device, "a step's results", 6 * N * H * x.itemsize):
            gates, next_h, next_c = cp.empty((N, 4 * H), wide), cp.empty((N, H), h.dtype), cp.empty((N, H), wide)
            if b is not None:
                gates[...] = b
            multiply(x, Wx, gates, add=b is not None, precision=self.precision)
            multiply(h, Wh, gates, add=True, precision=self.precision)
            prev_c = cp.ascontiguousarray(c, wide)
            cell = pointwise.launcher("cell_forward", N, H, dtype_name(h.dtype))
            cell(gates.data.ptr, prev_c.data.ptr, next_c.data.ptr, next_h.data.ptr)
            return next_h, next_c.astype(c.dtype, copy=False)


IEEE, TF32 = Stages("ieee"), Stages("tf32")


def copy(v):
    """An array of its own memory."""
    import cupy as cp

    if not v.flags.c_contiguous:
        return v.copy(order="C")
    out = cp.empty(v.shape, v.dtype)
    out.data.copy_from_device_async(v.data, v.nbytes)  # CuPy's own copies are kernels, which take it twice as long
    return out


def _arranged(v, dtype, bias=None, a=None):
    """v (T, N, K) as a matrix (T*N, K), of its own or the wide dtype; the rows of `a`, if there is one, become the bias
    (ones for None). Both are one launch, or none, where v can be taken as it lies."""
    import cupy as cp

    T, N, K = v.shape
    as_it_lies = v.dtype == dtype and v.flags.c_contiguous
    rows = v.reshape(T * N, K) if as_it_lies else cp.empty((T * N, K), dtype)
    if as_it_lies and a is None:
        return rows
    S = dtype_name(v.dtype)
    arrange = arranging(S, dtype_name(rows.dtype), COMPUTE_DTYPE[S] if a is None else dtype_name(a.dtype))
    of_bias = (0, 0) if bias is None else strided(bias)
    a_at, columns = (0, 0) if a is None else (a.data.ptr, a.size // (T * N))
    arrange(T * N, BLOCK, *strided(v), 0 if as_it_lies else rows.data.ptr, *of_bias, a_at, *FULL, N, K, columns)
    return rows


@cache
def arranging(S, R, A):
    """The kernel, by dtypes: its arguments are those of `arrange` in stages.cu."""
    return kernels.Launcher(
        kernels.function(FILES, kernels.expression("arrange", S, R, A), EXPRESSIONS), "PqqqPPqPPiIII"
    )
