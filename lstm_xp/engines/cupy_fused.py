"""CuPy: per step one product by cuBLAS, and one kernel for all the rest; many steps are replayed from CUDA graphs.

Few steps are launched one by one: each product is added straight to the pre-activations, and the kernels
(`cuda/pointwise.cu`) write the gates over these. Then the recurrence allocates nothing but what is returned; the one
exception is Wh in float32, for the backward pass of float16. Graphs (`cuda/chunks.py`) and their memory are kept
between calls; that is bounded, and belongs to one thread and stream at a time. Everything goes to the caller's current
stream, in order, and nothing waits for the device, but for the making of one handle of cuBLAS.

Half types: see `cuda/whole.py`. Beside da of float16, which is float32, Wh is widened.
"""

from ..checks import dtype_name
from .cuda import chunks, pointwise
from .cuda.products import Product, computed_with, factor_dtype
from .cuda.whole import Whole, by_precision


class Engine(Whole):
    """The engine with float32 products of one precision. Products of two half types are exact in any."""

    name = "cupy_fused"

    def beside(self, sizes, Wh, outer=None):
        T, N, H = sizes
        kept = self._steps(Wh, N, H, outer).bytes_for(T)
        stored = factor_dtype(Wh.dtype, computed_with(Wh.dtype))
        return kept or (0 if outer is None or Wh.dtype == stored else Wh.size * stored.itemsize)

    def advance(self, sizes, gates, c, c0, h, h0, Wh, keep):
        T, N, H = sizes
        with chunks.leased(self._steps(Wh, N, H), T) as runner:
            if runner:
                runner.Wh[...] = Wh
                runner.factor.data.copy_from_device_async(h0, runner.factor.nbytes)
                runner.run(T, gates=gates.ptr, c=c.ptr, c0=c0.ptr, h=h.ptr, kept=int(keep))
            else:
                self._forward_step_by_step(sizes, gates, h0, c0.ptr, Wh, h.ptr, c.ptr, keep)

    def retreat(self, sizes, dh, wide, gates, c, c0, Wh, da, dh_t, dc_t):
        (T, N, H), (outer, *by) = sizes, dh
        computed = computed_with(Wh.dtype)
        states = computed if wide else Wh.dtype
        with chunks.leased(self._steps(Wh, N, H, states), T) as runner:
            if runner:
                runner.Wh[...] = Wh
                runner.result.data.memset_async(0, runner.result.nbytes)
                runner.result.data.copy_from_device_async(dh_t, N * H * computed.itemsize)
                by = dict(zip(("by_step", "by_row", "by_unit"), by, strict=True))
                words = {"gates": gates.ptr, "c": c.ptr, "c0": c0.ptr, "h": outer, "da": da.ptr, "dc": dc_t.ptr}
                runner.run(T, **words, **by)
                runner.sum_into(dh_t.ptr)
            else:
                self._backward_step_by_step(sizes, dh, states, dh_t, dc_t.ptr, gates.ptr, c.ptr, c0.ptr, Wh, da)

    def _steps(self, Wh, N, H, outer=None):
        """A pass; backward with the dtype of the gradient from outside."""
        computed = computed_with(Wh.dtype)
        if outer is None:
            return chunks.Steps(False, Wh.dtype, Wh.dtype, computed, N, H, self.precision)
        return chunks.Steps(True, outer, factor_dtype(Wh.dtype, computed), computed, N, H, self.precision)

    def _forward_step_by_step(self, sizes, gates, h0, c0, Wh, h, c, keep):
        import cupy as cp

        (T, N, H), own, computed = sizes, Wh.dtype, computed_with(Wh.dtype)
        first = cp.ndarray((N, H), own, h0), Wh, cp.ndarray((N, 4 * H), computed, gates)
        add_recurrent = Product(*first, add=True, precision=self.precision)
        cell = pointwise.launcher("cell_forward", N, H, dtype_name(own))
        prev_h, prev_c, size = h0.ptr, c0, N * H * computed.itemsize
        for t in range(T):
            step, next_c = gates.ptr + 4 * t * size, c + t * size * keep
            next_h = h + t * N * H * own.itemsize
            add_recurrent(prev_h, step)
            cell(step, prev_c, next_c, next_h)
            prev_h, prev_c = next_h, next_c

    def _backward_step_by_step(self, sizes, dh, states, dh_t, dc_t, gates, c, c0, Wh, da):
        import cupy as cp

        (T, N, H), (outer, by_step, *by), computed = sizes, dh, computed_with(Wh.dtype)
        size, stored = N * H * computed.itemsize, factor_dtype(Wh.dtype, computed)
        first, out = cp.ndarray((N, 4 * H), stored, da), cp.ndarray((N, H), computed, dh_t)
        through = Product(first, Wh.astype(stored, copy=False).T, out, precision=self.precision)
        cell = pointwise.launcher("cell_backward", N, H, dtype_name(states), dtype_name(stored))
        for t in reversed(range(T)):
            step, prev_c = da.ptr + t * first.nbytes, c + (t - 1) * size if t else c0
            from_outside = outer and outer + t * by_step * states.itemsize
            cell(from_outside, *by, dh_t.ptr, gates + 4 * t * size, prev_c, c + t * size, dc_t, step)
            through(step)


at = by_precision(Engine)
