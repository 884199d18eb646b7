"""CuPy: all steps in one launch, by clusters of blocks that keep Wh in their shared memory and registers.

The kernels are in `cuda/cluster.cu`, what their blocks say to each other in `cuda/cluster.cuh`; `cuda/cluster_plan.py`
says how units and rows are shared. Each cluster has rows of its own, so that clusters never wait for each other: it
does not matter how many of them run at once. Between calls, nothing is kept.

On an H200, a step of 8 rows takes 0.5 microseconds up to H = 128, 0.9 at 256 and 2.6 at 512 with TF32, forward and
backward alike; in IEEE float32 0.9 at 128, 1.6 at 256 and 4.8 at 512, where FMA units are what it waits for.

Half types: see `cuda/whole.py`. float32: products on FMA units ('ieee'), as TF32 ('tf32'), or as three products of TF32
('tf32x3': nearly IEEE's digits; an infinite factor makes its products NaN).
"""

from functools import cache, lru_cache

from ..checks import dtype_name
from .cuda import kernels
from .cuda.cluster_plan import FILES, PORTABLE, SHARED_BYTES, most_units, plan
from .cuda.device import chip, current
from .cuda.memory import strided
from .cuda.plan import DTYPES
from .cuda.whole import Whole, by_precision

# Compute capabilities, times ten, that have clusters of 16 blocks with so much shared memory: Hopper and Blackwell for
# data centres.
CAPABILITIES = 90, 100, 103
# CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
NON_PORTABLE = 14
# Of the kernels, as `Launcher` says.
PARAMETERS = {"cluster_forward": "PqqPPPPPiIIIII", "cluster_backward": "PqqPPPPiqqqPPPIIIII"}


class Engine(Whole):
    """The engine with float32 products of one precision."""

    name, dtypes, precisions = "cupy_cluster", DTYPES, ("ieee", "tf32", "tf32x3")

    def limit(self, problem):
        found = chip(problem.device.id).capability
        if found not in CAPABILITIES:
            known = ", ".join(str(capability / 10) for capability in CAPABILITIES)
            return f"it needs compute capability {known}, this device has {found / 10}"
        most = most_units(problem.dtype, self.precision)
        if problem.H > most:
            return f"a cluster holds Wh of {problem.dtype} for H up to {most}; H is {problem.H}"
        return ""

    def advance(self, sizes, gates, c, c0, h, h0, Wh, keep):
        launch, _ = self._launches(Wh, sizes)
        launch(*strided(Wh), gates.ptr, c.ptr, c0.ptr, h.ptr, h0.ptr, keep, sizes[0])

    def retreat(self, sizes, dh, wide, gates, c, c0, Wh, da, dh_t, dc_t):
        _, launch = self._launches(Wh, sizes)
        outer, *by = dh
        launch(*strided(Wh), gates.ptr, c.ptr, c0.ptr, outer, wide, *by, da.ptr, dh_t.ptr, dc_t.ptr, sizes[0])

    def _launches(self, Wh, sizes):
        return _launches(dtype_name(Wh.dtype), self.precision, *sizes[1:], current())


at = by_precision(Engine)


@lru_cache(maxsize=256)
def _launches(dtype, precision, N, H, device_id):
    """Of both directions, on the device that is current: functions of the kernel's arguments up to T."""
    both = plan(dtype, precision, N, H, chip(device_id).processors)
    return [_launch(cut, device_id) for cut in both]


def _launch(cut, device_id):
    launch = kernels.Launcher(_kernel(cut.expression, cut.blocks, device_id), PARAMETERS[cut.kernel])
    sizes, (grid,), options = (cut.N, cut.H, cut.units, cut.slots), cut.grid, {"shared_bytes": cut.shared_bytes}
    return lambda *arguments: launch(grid, cut.block, *arguments, *sizes, **options)


@cache
def _kernel(expression, blocks, device_id):
    """A kernel that may be launched with all of a block's memory, and so many blocks, on the device that is current."""
    kernel = kernels.function(FILES, expression)
    kernel.max_dynamic_shared_size_bytes = SHARED_BYTES
    if blocks > PORTABLE:
        from cupy_backends.cuda.api import driver

        driver.funcSetAttribute(kernel.kernel.ptr, NON_PORTABLE, 1)
    return kernel
