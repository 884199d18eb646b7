"""CuPy: per step one product by cuBLAS, and one kernel for all the rest; many steps are replayed from CUDA graphs.

Few steps are launched one by one: each product is added straight to the pre-activations, and the kernels
(`cuda/pointwise.cu`) write the gates over these. Then all that is allocated is what is returned; the one exception is
Wh in float32, for the backward pass of float16. Graphs (`cuda/chunks.py`) and their memory are kept between calls;
that is bounded, and belongs to one thread and stream at a time. Everything goes to the caller's current stream, in
order, and nothing waits for the device, but for the making of one handle of cuBLAS.

Half types: h @ Wh multiplies them as they are, and sums in float32; backward, da of bfloat16 is bfloat16, too. That of
float16 is float32, and Wh is widened to it; these products are TF32's, as `Problem` says, which has all the digits of a
half type.
"""

from functools import cache

from .cuda import choice, chunks, pointwise, stages
from .cuda.memory import running, working_on
from .cuda.products import Product, factor_dtype
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
        self.inputs, self.weight_gradients, self.copy = others.inputs, others.weight_gradients, stages.copy

    def forward(self, a, h0, c0, Wh, *, keep):
        import cupy as cp

        T, N, H = *a.shape[:2], a.shape[2] // 4
        kept = T if keep else 1
        steps = chunks.Steps(False, h0.dtype, h0.dtype, a.dtype, N, H, self.precision)
        needed = T * N * H * h0.itemsize + kept * N * H * a.itemsize + steps.bytes_for(T)
        with working_on(a.device, f"{name}: h and c", needed), chunks.leased(steps, T) as runner:
            gates, c0 = (cp.ascontiguousarray(v) for v in (a, c0))
            h, c = cp.empty((T, N, H), h0.dtype), cp.empty((kept, N, H), a.dtype)
            if runner:
                runner.Wh[...], runner.factor[...] = Wh, h0
                runner.run(T, gates=gates, c=c, c0=c0, h=h, kept=int(keep))
            else:
                self._forward_step_by_step(gates, cp.ascontiguousarray(h0), c0, Wh, h, c)
        return h, c[-1], *((c, gates) if keep else (None, None))

    def _forward_step_by_step(self, gates, h0, c0, Wh, h, c):
        T, N, H = h.shape
        add_recurrent = Product(h0, Wh, gates[0], add=True, precision=self.precision)
        cell = pointwise.launcher("cell_forward", N, H, h0.dtype.name)
        prev_h, prev_c = h0.data.ptr, c0.data.ptr
        for t in range(T):
            step, next_h, next_c = _address(gates, t), _address(h, t), _address(c, t if len(c) == T else 0)
            add_recurrent(prev_h, step)
            cell(step, prev_c, next_c, next_h)
            prev_h, prev_c = next_h, next_c

    def backward(self, dh, dh_n, dc_n, gates, c, c0, Wh):
        import cupy as cp

        (T, N, H), stored = c.shape, factor_dtype(Wh.dtype, c.dtype)
        states = (c if dh is None else dh).dtype  # float32, where gradients of h_n were added to those of half types
        steps = chunks.Steps(True, states, stored, c.dtype, N, H, self.precision)
        beside = steps.bytes_for(T) or (0 if Wh.dtype == stored else Wh.size * stored.itemsize)
        needed = T * N * 4 * H * stored.itemsize + 2 * N * H * c.itemsize + beside
        with working_on(c.device, f"{name}: da", needed), chunks.leased(steps, T) as runner:
            gates, c, c0 = (cp.ascontiguousarray(v) for v in (gates, c, c0))
            da = cp.empty((T, N, 4 * H), stored)
            dc_t = running(dc_n, c0)
            strides = (0, 0, 0) if dh is None else tuple(stride // dh.itemsize for stride in dh.strides)
            if runner:
                runner.Wh[...], runner.result[...] = Wh, 0
                if dh_n is not None:
                    runner.result[0] = dh_n
                by = dict(zip(("by_step", "by_row", "by_unit"), strides, strict=True))
                runner.run(T, gates=gates, c=c, c0=c0, h=dh, da=da, dc=dc_t, **by)
                dh_t = runner.result.sum(axis=0)
            else:
                dh_t, factor = running(dh_n, c0), Wh.astype(stored, copy=False)
                self._backward_step_by_step(dh, states.name, strides[1:], dh_t, dc_t, gates, c, c0, factor, da)
        return da, dh_t, dc_t

    def _backward_step_by_step(self, dh, states, strides, dh_t, dc_t, gates, c, c0, Wh, da):
        T, N, H = c.shape
        through = Product(da[0], Wh.T, dh_t, precision=self.precision)
        cell = pointwise.launcher("cell_backward", N, H, states, da.dtype.name)
        carried = dh_t.data.ptr, dc_t.data.ptr
        for t in reversed(range(T)):
            step = _address(da, t)
            prev_c = _address(c, t - 1) if t > 0 else c0.data.ptr
            cell(0 if dh is None else _address(dh, t), *strides, carried[0], _address(gates, t), prev_c,
                 _address(c, t), carried[1], step)  # fmt: skip
            through(step)


IEEE, TF32 = Engine(stages.IEEE), Engine(stages.TF32)
forward, backward = IEEE.forward, IEEE.backward
inputs, weight_gradients, product, step = IEEE.inputs, IEEE.weight_gradients, IEEE.product, IEEE.step
copy = stages.copy


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
