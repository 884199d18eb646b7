"""CuPy: all steps in one kernel that keeps Wh on the chip, divided among all multiprocessors; for larger H.

The kernels are in `cuda/grid.cu`: blocks that tell each other their h (backward da) at every step. `cuda/grid_plan.py`
says which block has what, and how large H may be; `cuda/grid.py` launches, and says what became of a launch. All blocks
have to be on the device at once, which is looked at before. Nothing waits for the device.

On an H200 a step takes at least 2.3 microseconds forward and 3.2 backward: one message, or two, through the level-2
cache. With 16 rows and TF32 it takes 3.0 and 4.4 at H = 768.

Half types: see `cuda/whole.py`.
"""

from ..checks import dtype_name
from .cuda import grid
from .cuda.device import chip, current
from .cuda.grid_plan import most_units, plan
from .cuda.plan import DTYPES, LEAST
from .cuda.whole import Whole, by_precision


class Engine(Whole):
    """The engine with float32 products of one precision."""

    name, dtypes, least = "cupy_grid", DTYPES, LEAST

    def limit(self, problem):
        has = chip(problem.device.id)
        if not has.cooperates:
            return "the device has no cooperative launches"
        most = most_units(problem.dtype, self.precision, has)
        if problem.H <= most:
            return ""
        return (
            f"H must be at most {most} for {problem.dtype} on {has.processors} multiprocessors with "
            f"{has.shared_bytes} bytes of shared memory each, which have to hold Wh; it is {problem.H}"
        )

    def beside(self, sizes, Wh, outer=None):
        part = self._plan(Wh, *sizes[1:])
        return (part.forward if outer is None else part.backward).workspace_bytes

    def advance(self, sizes, gates, c, c0, h, h0, Wh, keep):
        T, N, H = sizes
        grid.check(self.name)
        words = {"T": T, "gates": gates.ptr, "c": c.ptr, "c0": c0.ptr, "h": h.ptr, "h0": h0.ptr, "kept": keep}
        grid.run(self._plan(Wh, N, H).forward, chip(current()), Wh, **words)

    def retreat(self, sizes, dh, wide, gates, c, c0, Wh, da, dh_t, dc_t):
        T, N, H = sizes
        grid.check(self.name)
        words = dict(zip(("h", "by_step", "by_row", "by_unit"), dh, strict=True), is_float=wide)
        words |= {"T": T, "gates": gates.ptr, "c": c.ptr, "c0": c0.ptr, "da": da.ptr, "dh": dh_t.ptr, "dc": dc_t.ptr}
        grid.run(self._plan(Wh, N, H).backward, chip(current()), Wh, **words)

    def _plan(self, Wh, N, H):
        return plan(dtype_name(Wh.dtype), self.precision, N, H, chip(current()))


at = by_precision(Engine)
