"""CuPy: all steps in one launch, by clusters of blocks that keep Wh in their shared memory and registers.

The kernels are in `cuda/cluster.cu`, what their blocks say to each other in `cuda/cluster.cuh`; `cuda/cluster_plan.py`
says how units and rows are shared. Each cluster has rows of its own, so that clusters never wait for each other: it
does not matter how many of them run at once. All that is allocated is what is returned.

On an H200, a step of 8 rows takes 0.5 microseconds up to H = 128, 0.9 at 256 and 2.6 at 512 with TF32, forward and
backward alike; in IEEE float32 0.9 at 128, 1.6 at 256 and 4.8 at 512, where FMA units are what it waits for.

Half types: h @ Wh multiplies them as they are, and sums in float32; backward, da of bfloat16 is bfloat16, too. That of
float16 is float32, and is multiplied as TF32, which has its range and the digits of float16. float32: products on FMA
units ('ieee'), as TF32 ('tf32'), or as three products of TF32 ('tf32x3': nearly IEEE's digits; an infinite factor makes
its products NaN).
"""

from functools import cache, lru_cache

import numpy as np

from ..checks import dtype_name
from . import cupy_fused
from .cuda import choice, kernels, stages
from .cuda.cluster_plan import FILES, PORTABLE, SHARED_BYTES, most_units, plan
from .cuda.memory import running, working_on
from .cuda.plan import TYPES
from .cuda.products import factor_dtype
from .cuda.refusals import refusal

name = "cupy_cluster"

# Compute capabilities, times ten, that have clusters of 16 blocks with so much shared memory: Hopper and Blackwell for
# data centres.
CAPABILITIES = "90", "100", "103"
# CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
NON_PORTABLE = 14


def refuses(problem):
    reason = refusal(problem, TYPES)
    if reason:
        return reason
    found = str(problem.device.compute_capability)
    if found not in CAPABILITIES:
        known = ", ".join(str(int(capability) / 10) for capability in CAPABILITIES)
        return f"it needs compute capability {known}, this device has {int(found) / 10}"
    most = most_units(problem.dtype, problem.precision)
    if problem.H > most:
        return f"a cluster holds Wh of {problem.dtype} for H up to {most}; H is {problem.H}"
    return cupy_fused.refuses(problem)


def declines(problem):
    return choice.objection(name, problem)


class Engine:
    """The engine with float32 products of one precision."""

    name = name
    refuses = staticmethod(refuses)
    declines = staticmethod(declines)

    def __init__(self, precision, others):
        # Stages one and three, and single steps of a stream, are others'.
        self.precision, self.product, self.step = precision, others.product, others.step
        self.inputs, self.weight_gradients, self.copy = others.inputs, others.weight_gradients, stages.copy

    def forward(self, a, h0, c0, Wh, *, keep):
        import cupy as cp

        T, N, H = *a.shape[:2], a.shape[2] // 4
        kept = T if keep else 1
        with working_on(a.device, f"{name}: h and c", T * N * H * h0.itemsize + kept * N * H * a.itemsize):
            gates, h0, c0 = (cp.ascontiguousarray(v) for v in (a, h0, c0))
            h, c = cp.empty((T, N, H), h0.dtype), cp.empty((kept, N, H), a.dtype)
            cut = self._plan(h0.dtype, N, H).forward
            _launch(cut, T, *_strided(Wh), gates, c, c0, h, h0, np.int32(keep))
        return h, c[-1], *((c, gates) if keep else (None, None))

    def backward(self, dh, dh_n, dc_n, gates, c, c0, Wh):
        import cupy as cp

        (T, N, H), stored = c.shape, factor_dtype(Wh.dtype, c.dtype)
        with working_on(c.device, f"{name}: da", T * N * 4 * H * stored.itemsize + 2 * N * H * c.itemsize):
            gates, c, c0 = (cp.ascontiguousarray(v) for v in (gates, c, c0))
            da = cp.empty((T, N, 4 * H), stored)
            dh_t, dc_t = (running(v, c0) for v in (dh_n, dc_n))
            outer, *by = (0, 0, 0, 0) if dh is None else _strided(dh)
            # float32, where gradients of h_n were added to those of a half type
            wide = np.int32(dh is not None and dh.dtype == c.dtype)
            cut = self._plan(Wh.dtype, N, H).backward
            _launch(cut, T, *_strided(Wh), gates, c, c0, outer, wide, *by, da, dh_t, dc_t)
        return da, dh_t, dc_t

    def _plan(self, dtype, N, H):
        """On the current device."""
        from cupy.cuda import Device

        return plan(dtype_name(dtype), self.precision, N, H, Device().attributes["MultiProcessorCount"])


IEEE, TF32 = Engine("ieee", stages.IEEE), Engine("tf32", stages.TF32)
TF32X3 = Engine("tf32x3", stages.IEEE)
forward, backward = IEEE.forward, IEEE.backward
inputs, weight_gradients, product, step = IEEE.inputs, IEEE.weight_gradients, IEEE.product, IEEE.step
copy = stages.copy


def at(precision):
    """The engine for a precision of `lstm_forward`."""
    return {"tf32": TF32, "tf32x3": TF32X3}.get(precision, IEEE)


def _strided(v):
    """An array, and its strides in items."""
    return v, *(stride // v.itemsize for stride in v.strides)


def _launch(cut, T, *arguments):
    """Launch a cut's kernel on the current device and stream; arrays are passed by address."""
    from cupy.cuda import Device

    addresses = [v.data.ptr if hasattr(v, "strides") and v.shape else v for v in arguments]
    kernel, grid, block, shared_bytes, sizes = _settled(cut, Device().id)
    kernel(grid, block, (*addresses, np.uint32(T), *sizes), shared_mem=shared_bytes)


@lru_cache(maxsize=256)
def _settled(cut, device_id):
    """What a launch of a cut is made of, for the device that is current."""
    sizes = tuple(np.uint32(size) for size in (cut.N, cut.H, cut.units, cut.slots))
    return _kernel(cut.expression, cut.blocks, device_id), cut.grid, (cut.block,), cut.shared_bytes, sizes


@cache
def _kernel(expression, blocks, device_id):
    """A kernel that may be launched with all of a block's memory, and so many blocks, on the device that is current."""
    kernel = kernels.function(FILES, expression)
    kernel.max_dynamic_shared_size_bytes = SHARED_BYTES
    if blocks > PORTABLE:
        from cupy_backends.cuda.api import driver

        driver.funcSetAttribute(kernel.kernel.ptr, NON_PORTABLE, 1)
    return kernel
