"""What the engines for CuPy have in common beside their recurrences: stages one and three, and a step of a stream.

Of a sequence of a usual size, Python takes more time than the device, so no launch is made that can be spared. cuBLAS
multiplies half types as they are, exactly, and sums in float32; beside gradients, which are float32, they are widened.
"""

from ...checks import dtype_name
from . import pointwise
from .memory import working_on
from .products import multiply


class Stages:
    """The stages with float32 products of one precision."""

    def __init__(self, precision):
        self.precision = precision

    def inputs(self, x, Wx, b):
        import cupy as cp

        (T, N, D), columns, wide = x.shape, Wx.shape[1], _wide(x)
        with working_on(x.device, "pre-activations", T * N * (columns + D) * 4):
            a = cp.empty((T * N, columns), wide)
            if b is not None:
                a[...] = b
            self._multiply(x.reshape(T * N, D), Wx, a, add=b is not None)
            return a.reshape(T, N, columns)

    def product(self, A, B, bias=None):
        import cupy as cp

        shape = A.shape[0], B.shape[1]
        with working_on(A.device, f"products of shape {shape}", shape[0] * shape[1] * A.itemsize):
            out = cp.empty(shape, A.dtype)
            if bias is not None:
                out[...] = bias
            self._multiply(A, B, out, add=bias is not None)
        return out

    def weight_gradients(self, x, h0, h, da):
        import cupy as cp

        (T, N, D), H = x.shape, h.shape[2]
        with working_on(da.device, "gradients of weights", ((D + H + 1) * 4 * H + T * N * (D + H)) * da.itemsize):
            flat = da.reshape(T * N, 4 * H)
            dWx, dWh, db = (cp.empty((rows, 4 * H), da.dtype) for rows in (D, H, 1))
            self._multiply(_rows(x, da.dtype).T, flat, dWx)
            if h.dtype == da.dtype:
                self._multiply(h0.T, flat[:N], dWh)
                if T > 1:
                    self._multiply(_rows(h[:-1], da.dtype).T, flat[N:], dWh, add=True)
            else:  # copied in any case
                prev_h = cp.empty(h.shape, da.dtype)
                prev_h[0], prev_h[1:] = h0, h[:-1]
                self._multiply(_rows(prev_h, da.dtype).T, flat, dWh)
            # Sums, in one order: nothing is rounded to TF32.
            ones = cp.empty((1, T * N), da.dtype)
            ones.fill(1)
            multiply(ones, flat, db)
        return dWx, dWh, db[0]

    def step(self, x, h, c, Wx, Wh, b):
        import cupy as cp

        (N, H), wide = h.shape, _wide(h)
        with working_on(x.device, "a step's results", 6 * N * H * x.itemsize):
            gates, next_h, next_c = cp.empty((N, 4 * H), wide), cp.empty((N, H), h.dtype), cp.empty((N, H), wide)
            if b is not None:
                gates[...] = b
            self._multiply(x, Wx, gates, add=b is not None)
            self._multiply(h, Wh, gates, add=True)
            prev_c = cp.ascontiguousarray(c, wide)
            cell = pointwise.launcher("cell_forward", dtype_name(h.dtype), N, H)
            cell(gates.data.ptr, prev_c.data.ptr, next_c.data.ptr, next_h.data.ptr)
            return next_h, next_c.astype(c.dtype, copy=False)

    def _multiply(self, A, B, out, add=False):
        multiply(A, B, out, add=add, precision=self.precision)


IEEE, TF32 = Stages("ieee"), Stages("tf32")


def _wide(v):
    """What is computed with, for an array of the caller's."""
    return "float64" if dtype_name(v.dtype) == "float64" else "float32"


def _rows(v, dtype):
    """(T, N, K) as a matrix (T*N, K) of a dtype; a view, where that can be."""
    return v.astype(dtype, order="C", copy=False).reshape(v.shape[0] * v.shape[1], v.shape[2])
