"""CuPy: all steps in one kernel that keeps Wh on the chip, divided among all multiprocessors; for larger H.

The kernels are in `cuda/grid.cu`: blocks that tell each other their h (backward da) at every step. `cuda/grid_plan.py`
says which block has what, and how large H may be; `cuda/grid.py` launches, and says what became of a launch. All blocks
have to be on the device at once, which is looked at before. Nothing waits for the device.

On an H200 a step takes at least 2.3 microseconds forward and 3.2 backward: one message, or two, through the level-2
cache. With 16 rows and TF32 it takes 3.0 and 4.4 at H = 768.

Half types are computed as in `cupy_step`.
"""

from functools import cache

from . import cupy_fused
from .cuda import choice, grid, stages
from .cuda.grid_plan import Chip, most_units, plan
from .cuda.memory import running, working_on
from .cuda.plan import LEAST, TYPES
from .cuda.products import factor_dtype
from .cuda.refusals import refusal

name = "cupy_grid"


def refuses(problem):
    reason = refusal(problem, TYPES, LEAST)
    if reason:
        return reason
    chip, cooperates = _chip(problem.device.id)
    if not cooperates:
        return "the device has no cooperative launches"
    most = most_units(problem.dtype, _known(problem.precision), chip)
    if problem.H > most:
        return (
            f"H must be at most {most} for {problem.dtype} on {chip.processors} multiprocessors with "
            f"{chip.shared_bytes} bytes of shared memory each, which have to hold Wh; it is {problem.H}"
        )
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
        chip, _ = _chip(a.device.id)
        kept, part = T if keep else 1, plan(h0.dtype.name, self.precision, N, H, chip).forward
        needed = T * N * H * h0.itemsize + kept * N * H * a.itemsize + part.workspace_bytes
        with working_on(a.device, f"{name}: h, c and messages", needed):
            grid.check(name)
            gates, h0, c0 = (cp.ascontiguousarray(v) for v in (a, h0, c0))
            h, c = cp.empty((T, N, H), h0.dtype), cp.empty((kept, N, H), a.dtype)
            grid.run(part, chip, Wh, T=T, gates=gates, c=c, c0=c0, h=h, h0=h0, kept=int(keep))
        return h, c[-1], *((c, gates) if keep else (None, None))

    def backward(self, dh, dh_n, dc_n, gates, c, c0, Wh):
        import cupy as cp

        (T, N, H), stored = c.shape, factor_dtype(Wh.dtype, c.dtype)
        chip, _ = _chip(c.device.id)
        part = plan(Wh.dtype.name, self.precision, N, H, chip).backward
        needed = T * N * 4 * H * stored.itemsize + 2 * N * H * c.itemsize + part.workspace_bytes
        with working_on(c.device, f"{name}: da and messages", needed):
            grid.check(name)
            gates, c, c0 = (cp.ascontiguousarray(v) for v in (gates, c, c0))
            da = cp.empty((T, N, 4 * H), stored)
            dh_t, dc_t = (running(v, c0) for v in (dh_n, dc_n))
            strides = (0, 0, 0) if dh is None else (stride // dh.itemsize for stride in dh.strides)
            by = dict(zip(("by_step", "by_row", "by_unit"), strides, strict=True))
            # float32, where gradients of h_n were added to it
            by["is_float"] = int(dh is not None and dh.dtype == c.dtype)
            grid.run(part, chip, Wh, T=T, gates=gates, c=c, c0=c0, h=dh, da=da, dh=dh_t, dc=dc_t, **by)
        return da, dh_t, dc_t


IEEE, TF32 = (Engine(others) for others in (stages.IEEE, stages.TF32))
forward, backward = IEEE.forward, IEEE.backward
inputs, weight_gradients, product, step = IEEE.inputs, IEEE.weight_gradients, IEEE.product, IEEE.step
copy = stages.copy


def at(precision):
    """The engine for a precision of `lstm_forward`."""
    return TF32 if precision == "tf32" else IEEE


def _known(precision):
    return "tf32" if precision == "tf32" else "ieee"


@cache
def _chip(device_id):
    """What the device has, and whether all blocks of a launch can be made to run at once."""
    from cupy.cuda import Device

    has = Device(device_id).attributes
    return Chip(has["MultiProcessorCount"], has["MaxSharedMemoryPerBlockOptin"]), bool(has["CooperativeLaunch"])
