"""CuPy: one kernel per step, with a product of its own, and the cell in its epilogue; replayed from a CUDA graph.

The kernels are in `cuda/step.cu`. `cuda/plan.py` says how a problem is cut into blocks, `cuda/step_launches.py` how the
steps are launched. Wh is packed once per call into the order in which the kernels read it, and so is what a step leaves
to the next one: h, or da. All that is returned is fresh; what is kept between calls (graphs, packed weights) is
bounded, and belongs to one thread and stream at a time (`cuda/leases.py`).

Half types: see `cuda/whole.py`. What of float32 is asked for as IEEE is computed on FMA units.
"""

from ..checks import dtype_name
from .cuda.device import chip, current
from .cuda.leases import leased
from .cuda.plan import CLUSTERS, DTYPES, LEAST, plan
from .cuda.step_launches import Runner
from .cuda.whole import Whole, by_precision

# Kernels count bytes of one step in 64 bits, and blocks of rows in the 16 bits of a grid's second side.
MOST_ROWS = 8 * 65535


class Engine(Whole):
    """The engine with float32 products of one precision."""

    name, dtypes, least = "cupy_step", DTYPES, LEAST

    def limit(self, problem):
        return f"N must be at most {MOST_ROWS}; it is {problem.N}" if problem.N > MOST_ROWS else ""

    def beside(self, sizes, Wh, outer=None):
        part = self._plan(Wh, *sizes[1:])
        return (part.forward if outer is None else part.backward).packed_bytes

    def advance(self, sizes, gates, c, c0, h, h0, Wh, keep):
        T, N, H = sizes
        words = {"gates": gates.ptr, "c": c.ptr, "c0": c0.ptr, "h": h.ptr, "kept": int(keep)}
        with leased(self._plan(Wh, N, H).forward, Runner) as runner:
            runner.pack(Wh, h0)
            runner.run(T, T, **words)

    def retreat(self, sizes, dh, wide, gates, c, c0, Wh, da, dh_t, dc_t):
        T, N, H = sizes
        words = dict(zip(("h", "by_step", "by_row", "by_unit"), dh, strict=True))
        words |= {"gates": gates.ptr, "c": c.ptr, "c0": c0.ptr, "da": da.ptr, "dh": dh_t.ptr, "dc": dc_t.ptr}
        steps = self._plan(Wh, N, H).backward
        with leased(steps._replace(states="float32") if wide else steps, Runner) as runner:
            runner.pack(Wh)
            runner.run(T, T + 1, **words)

    def _plan(self, Wh, N, H):
        """On the current device."""
        has = chip(current())
        return plan(dtype_name(Wh.dtype), self.precision, N, H, has.processors, has.capability >= CLUSTERS)


at = by_precision(Engine)
