"""CuPy: per step one product by cuBLAS, added straight to the pre-activations, and one kernel for all the rest.

The kernels (`cuda/pointwise.cu`) write the gates over the pre-activations. All that is allocated is what is returned,
so that no workspace is kept; the one exception is Wh in float32, for the backward pass of half types. Everything goes
to the caller's current stream, in order, and nothing waits for the device.

Half types: h @ Wh multiplies them as they are, and sums in float32. Backward, da is float32, and Wh is widened to it.
"""

from functools import cache

from .cuda import choice, pointwise, stages
from .cuda.memory import running, working_on
from .cuda.products import Product
from .cuda.refusals import refusal

name = "cupy_fused"

# Compute capability, times ten; products of bfloat16 need more.
LEAST, LEAST_BFLOAT16 = 75, 80
# Kernels and cuBLAS count in 32 bits.
COUNT = 2**31


def refuses(problem):
    reason = refusal(problem, pointwise.TYPES)
    if reason:
        return reason
    least = LEAST_BFLOAT16 if problem.dtype == "bfloat16" else LEAST
    found = int(problem.device.compute_capability)
    if found < least:
        return f"{problem.dtype} needs compute capability {least / 10}, this device has {found / 10}"
    N, T, D, H = problem.N, problem.T, problem.D, problem.H
    if max(4 * N * H, N * T, D + H + 1) >= COUNT:
        return f"4 N H and N T must be below 2^31; N = {N}, T = {T}, H = {H}"
    return obstacle()


def declines(problem):
    return choice.objection(name, problem)


class Engine:
    """The engine with float32 products of one precision. Products of two half types are exact in any."""

    name = name
    refuses = staticmethod(refuses)
    declines = staticmethod(declines)

    def __init__(self, others):
        # Stages one and three, and single steps of a stream.
        self.precision, self.product, self.step = others.precision, others.product, others.step
        self.inputs, self.weight_gradients = others.inputs, others.weight_gradients

    def forward(self, a, h0, c0, Wh, *, keep):
        import cupy as cp

        T, N, H = *a.shape[:2], a.shape[2] // 4
        kept = T if keep else 1
        with working_on(a.device, f"{name}: h and c", T * N * H * h0.itemsize + kept * N * H * a.itemsize):
            gates, h0, c0 = (cp.ascontiguousarray(v) for v in (a, h0, c0))
            h, c = cp.empty((T, N, H), h0.dtype), cp.empty((kept, N, H), a.dtype)
            add_recurrent = Product(h0, Wh, gates[0], add=True, precision=self.precision)
            cell = pointwise.launcher("cell_forward", h0.dtype.name, N, H)
            prev_h, prev_c = h0.data.ptr, c0.data.ptr
            for t in range(T):
                step, next_h, next_c = _address(gates, t), _address(h, t), _address(c, t if keep else 0)
                add_recurrent(prev_h, step)
                cell(step, prev_c, next_c, next_h)
                prev_h, prev_c = next_h, next_c
        return h, c[-1], *((c, gates) if keep else (None, None))

    def backward(self, dh, dh_n, dc_n, gates, c, c0, Wh):
        import cupy as cp

        T, N, H = c.shape
        widened = 0 if Wh.dtype == c.dtype else Wh.size
        with working_on(c.device, f"{name}: da", (T * N * 4 * H + 2 * N * H + widened) * c.itemsize):
            gates, c, c0 = (cp.ascontiguousarray(v) for v in (gates, c, c0))
            da = cp.empty((T, N, 4 * H), c.dtype)
            dh_t, dc_t = (running(v, c0) for v in (dh_n, dc_n))
            through = Product(da[0], Wh.astype(c.dtype, copy=False).T, dh_t, precision=self.precision)
            outer, strides = c if dh is None else dh, () if dh is None else dh.strides
            strides = tuple(stride // outer.itemsize for stride in strides[1:]) or (0, 0)
            cell = pointwise.launcher("cell_backward", outer.dtype.name, N, H)
            carried = dh_t.data.ptr, dc_t.data.ptr
            for t in reversed(range(T)):
                step = _address(da, t)
                prev_c = _address(c, t - 1) if t > 0 else c0.data.ptr
                cell(0 if dh is None else _address(dh, t), *strides, carried[0], _address(gates, t), prev_c,
                     _address(c, t), carried[1], step)  # fmt: skip
                through(step)
        return da, dh_t, dc_t


IEEE, TF32 = Engine(stages.IEEE), Engine(stages.TF32)
forward, backward = IEEE.forward, IEEE.backward
inputs, weight_gradients, product, step = IEEE.inputs, IEEE.weight_gradients, IEEE.product, IEEE.step


def at(precision):
    """The engine for a precision of `lstm_forward`."""
    return TF32 if precision == "tf32" else IEEE


@cache
def obstacle():
    """Why the engine cannot be used with this CuPy; "" when it can."""
    try:
        from cupy_backends.cuda.libs import cublas  # noqa: F401
    except ImportError as error:
        return f"cuBLAS cannot be loaded ({' '.join(str(error).split())})"
    return ""


def _address(v, t):
    """Where step t of an array (T, N, K) begins."""
    return v.data.ptr + t * v.strides[0]
