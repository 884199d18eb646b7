"""CuPy: one kernel per step, with a product of its own, and the cell in its epilogue; replayed from a CUDA graph.

The kernels are in `cuda/step.cu`. `cuda/plan.py` says how a problem is cut into blocks, `cuda/replay.py` how the steps
are launched. Wh is packed once per call into the order in which the kernels read it. All that is returned is fresh;
what is kept between calls (graphs, packed weights) is bounded, and belongs to one thread and stream at a time.

Half types: h @ Wh multiplies them as they are, and sums in float32; backward, da of bfloat16 is bfloat16, too. That of
float16 is float32, and is multiplied as TF32, which has its range and the digits of float16. What of float32 is asked
for as IEEE is computed on FMA units.
"""

from functools import cache

from . import cupy_fused
from .cuda import choice, replay, stages
from .cuda.memory import running, working_on
from .cuda.plan import LEAST, TYPES, plan
from .cuda.products import factor_dtype
from .cuda.refusals import refusal

name = "cupy_step"

# Kernels count bytes of one step in 64 bits, and blocks of rows in the 16 bits of a grid's second side.
MOST_ROWS = 8 * 65535


def refuses(problem):
    reason = refusal(problem, TYPES, LEAST)
    if reason:
        return reason
    if problem.N > MOST_ROWS:
        return f"N must be at most {MOST_ROWS}; it is {problem.N}"
    return cupy_fused.refuses(problem)


def declines(problem):
    return choice.objection(name, problem)


class Engine:
    """The engine with float32 products of one precision."""

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
        kept, steps = T if keep else 1, self._plan(h0.dtype.name, N, H, a.device).forward
        needed = T * N * H * h0.itemsize + kept * N * H * a.itemsize + steps.packed_bytes
        with working_on(a.device, f"{name}: h, c and packed weights", needed), replay.leased(steps) as runner:
            gates, h0, c0 = (cp.ascontiguousarray(v) for v in (a, h0, c0))
            h0 = _aligned(h0)
            h, c = cp.empty((T, N, H), h0.dtype), cp.empty((kept, N, H), a.dtype)
            runner.pack(Wh)
            runner.run(T, T, gates=gates, c=c, c0=c0, h=h, h0=h0, kept=int(keep))
        return h, c[-1], *((c, gates) if keep else (None, None))

    def backward(self, dh, dh_n, dc_n, gates, c, c0, Wh):
        import cupy as cp

        (T, N, H), stored = c.shape, factor_dtype(Wh.dtype, c.dtype)
        steps = self._plan(Wh.dtype.name, N, H, c.device).backward
        if dh is not None:
            steps = steps._replace(states=TYPES[dh.dtype.name])  # float32, where gradients of h_n were added to it
        needed = T * N * 4 * H * stored.itemsize + 2 * N * H * c.itemsize + steps.packed_bytes
        with working_on(c.device, f"{name}: da and packed weights", needed), replay.leased(steps) as runner:
            gates, c, c0 = (cp.ascontiguousarray(v) for v in (gates, c, c0))
            da = cp.empty((T, N, 4 * H), stored)
            dh_t, dc_t = (running(v, c0) for v in (dh_n, dc_n))
            strides = (0, 0, 0) if dh is None else (stride // dh.itemsize for stride in dh.strides)
            by = dict(zip(("by_step", "by_row", "by_unit"), strides, strict=True))
            runner.pack(Wh)
            runner.run(T, T + 1, gates=gates, c=c, c0=c0, h=dh, da=da, dh=dh_t, dc=dc_t, **by)
        return da, dh_t, dc_t

    def _plan(self, dtype, N, H, device):
        return plan(dtype, self.precision, N, H, _processors(device))


IEEE, TF32 = (Engine(others) for others in (stages.IEEE, stages.TF32))
forward, backward = IEEE.forward, IEEE.backward
inputs, weight_gradients, product, step = IEEE.inputs, IEEE.weight_gradients, IEEE.product, IEEE.step
copy = stages.copy


def at(precision):
    """The engine for a precision of `lstm_forward`."""
    return TF32 if precision == "tf32" else IEEE


def _processors(device):
    return _count(device.id)


@cache
def _count(device_id):
    from cupy.cuda import Device

    return Device(device_id).attributes["MultiProcessorCount"]


def _aligned(v):
    """A copy, where rows would not begin at a multiple of the 16 bytes that the kernels read at once."""
    return v if v.data.ptr % 16 == 0 else v.copy()
