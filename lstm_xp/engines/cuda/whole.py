"""What the engines for CuPy are made of; above all whole calls, all three stages.

Of a sequence of a usual size, Python takes longer than the device. So memory is asked for as bytes; arrays are made of
what is returned alone, and after all is launched; what can be one launch is one (`stages.cu`, `whole.cu`); kernels are
launched by addresses. What is computed is what `stages.py` says, which does it for larger problems; the order of the
steps of rows of several lengths is that of `timeline.py`.

Half types, where an engine says nothing else: h @ Wh multiplies them as they are, and sums in float32; backward, da of
bfloat16 is bfloat16, too. That of float16 is float32, and is multiplied as TF32, which has its range and the digits of
float16.
"""

import sys
from functools import cache
from typing import NamedTuple

from ...checks import dtype_name
from . import choice, kernels, memory, stages
from .kernels import expression
from .memory import strided
from .products import computed_with, factor_dtype, layout, multiply_at
from .refusals import of_products, refusal

FILES = "timeline.cuh", "whole.cu"
EXPRESSIONS = (
    *(expression("factors", *dtypes) for dtypes in stages.VARIANTS),
    *(expression("rounded", S, W) for S, W in stages.DTYPES if S != W),
    *(expression(name, S, W) for S, W in stages.DTYPES for name in ("last", "enter", "straight")),
    *(expression("restore", S) for S, _ in stages.DTYPES),
    *(expression("saturate", W) for W in ("float32", "float64")),
)
BLOCK = 128
# Gradients of weights are one product of all their factors side by side, up to so many numbers; beyond, their copy
# would take longer than the calls that it spares.
MOST = 1 << 24
# Rows of factors begin at multiples of 16 bytes, as the quickest products ask for.
PITCH = 8
# Of states, which kernels read by so many bytes at once.
ALIGNMENT = 16


class Kit(NamedTuple):
    """What calls on arrays of one dtype are made of: dtypes (the arrays' own, what is computed with, and that of da and
    of what it is multiplied with), launchers."""

    own: object
    wide: object
    factor: object
    arrange: kernels.Launcher  # to the own dtype
    widen: kernels.Launcher  # the same, to the wide one
    factors: kernels.Launcher
    rounded: kernels.Launcher | None
    # Of rows of several lengths.
    saturate: kernels.Launcher
    last: kernels.Launcher
    enter: kernels.Launcher
    straight: kernels.Launcher
    restore: kernels.Launcher


class Whole:
    """What engines for CuPy are made of: forward and backward of arrays, and whole calls. One is a class of this with
    `name`, its limits where they are others than these here, and its recurrence on the current device, in contiguous
    memory that is there (each an array's `data`; Wh is an array, of any strides), with sizes T, N, H:

    advance(sizes, gates, c, c0, h, h0, Wh, keep)               forward
    retreat(sizes, dh, wide, gates, c, c0, Wh, da, dh_t, dc_t)  backward; dh is an address (0: zeros) and strides by
                                                                step, row and unit, `wide` whether it has the compute
                                                                dtype. dh_t, dc_t are dh_n, dc_n before, dh0, dc0 after
    """

    dtypes = tuple(kernels.TYPES)
    least = 0  # compute capability, times ten, that its own kernels need
    precisions = "ieee", "tf32"  # that it has; in place of any other, the first

    def __init__(self, precision):
        self.precision = precision
        # Stages one and three of larger problems, and single steps of a stream.
        others = stages.TF32 if precision == "tf32" else stages.IEEE
        self.product, self.step, self.copy = others.product, others.step, stages.copy
        self.inputs, self.weight_gradients = others.inputs, others.weight_gradients

    def refuses(self, problem):
        """Why it cannot run a problem of its own precision at all; "" when it can."""
        return refusal(problem, self.dtypes, self.least) or self.limit(problem) or of_products(problem)

    def declines(self, problem):
        """Why it is not the one to choose by itself, by what was measured; "" otherwise."""
        return choice.objection(self.name, problem)

    def limit(self, problem):
        """Why its own kernels cannot run a problem of these; "" if they can."""
        return ""

    def beside(self, sizes, Wh, outer=None):
        """Bytes that the recurrence needs beside what it returns; `outer` is the dtype of dh, backward."""
        return 0

    def forward(self, a, h0, c0, Wh, *, keep):
        import cupy as cp

        T, N, H = sizes = *a.shape[:2], a.shape[2] // 4
        kept = T if keep else 1
        needed = T * N * H * h0.itemsize + kept * N * H * a.itemsize + self.beside(sizes, Wh)
        with memory.working_on(a.device, f"{self.name}: h and c", needed):
            gates, h0, c0 = (cp.ascontiguousarray(v) for v in (a, h0, c0))
            h, c = cp.empty((T, N, H), h0.dtype), cp.empty((kept, N, H), a.dtype)
            self.advance(sizes, *(v.data for v in (gates, c, c0, h, h0)), Wh, keep)
        return h, c[-1], *((c, gates) if keep else (None, None))

    def backward(self, dh, dh_n, dc_n, gates, c, c0, Wh):
        import cupy as cp

        T, N, H = sizes = c.shape
        # float32, where gradients of h_n were added to those of a half type
        states, stored = (c if dh is None else dh).dtype, factor_dtype(Wh.dtype, c.dtype)
        needed = T * N * 4 * H * stored.itemsize + 2 * N * H * c.itemsize + self.beside(sizes, Wh, states)
        with memory.working_on(c.device, f"{self.name}: da", needed):
            gates, c, c0 = (cp.ascontiguousarray(v) for v in (gates, c, c0))
            da = cp.empty((T, N, 4 * H), stored)
            dh_t, dc_t = (memory.running(v, c0) for v in (dh_n, dc_n))
            outer = (0, 0, 0, 0) if dh is None else strided(dh)
            places = (v.data for v in (gates, c, c0))
            self.retreat(sizes, outer, states == c.dtype, *places, Wh, da.data, dh_t.data, dc_t.data)
        return da, dh_t, dc_t

    def sequence(self, x, h0, c0, Wx, Wh, b, reverse, lengths, *, keep):
        (N, T, D), H, kit = x.shape, Wh.shape[0], _kit(x.dtype)
        own, wide = kit.own.itemsize, kit.wide.itemsize
        order, reverse = _order(lengths, reverse)
        # c_n is looked up where a row ends: c is carried from there, but not past a NaN in h, which reaches every gate.
        all_c = keep or lengths is not None
        kept = T if all_c else 1
        try:
            gates = self._inputs(kit, x, Wx, b, order, reverse)
            start = _state(h0, kit.own, kit, N, H, order), _state(c0, kit.wide, kit, N, H, order)
            h, c, h_n = _bytes(T * N * H * own), _bytes(kept * N * H * wide), _bytes(N * H * own)
            self.advance((T, N, H), gates, c, start[1], h, start[0], Wh, all_c)
            if lengths is not None:
                c_n, size = _bytes(N * H * own), (N, H)
                kit.last(N, BLOCK, h.ptr, c.ptr, *_place(h0), *_place(c0), h_n.ptr, c_n.ptr, order[0], *size)
                h = _restored(kit, h, T, *size, order)
            else:
                h_n.copy_from_device_async(h + (T - 1) * N * H * own, N * H * own)
                c_n = _copied(kit, c + (kept - 1) * N * H * wide, N * H) if keep or own != wide else c
        except Exception as error:
            turned = 1 + order[1]  # h again, in the caller's order
            needed = T * N * ((4 + kept / T) * H * wide + (D + turned * H) * own)
            self._tell(error, x, "h, c and pre-activations", needed)
            raise
        results = _by_row(h, N, T, H, kit.own, reverse), *(_array((N, H), kit.own, v) for v in (h_n, c_n))
        if not keep:
            return *results, None, None
        return *results, _by_row(c, N, T, H, kit.wide), _by_row(gates, N, T, 4 * H, kit.wide)

    def gradients_suit(self, cache):
        """Whether `sequence_gradients` takes this cache: of no more than MOST factors, laid out as `sequence` does."""
        (N, T, D), H = cache.x.shape, cache.Wh.shape[0]
        return (
            T * N * (D + H) <= MOST
            and _lies(_steps(cache.gates), T, N, 4 * H)
            and _lies(_steps(cache.c), T, N, H)
            and cache.c.dtype == cache.gates.dtype == _kit(cache.x.dtype).wide
        )

    def sequence_gradients(self, dh, dh_n, dc_n, cache, *, need_dx):
        x, Wx, Wh, c, gates = cache.x, cache.Wx, cache.Wh, cache.c, cache.gates
        (N, T, D), H, kit = x.shape, Wh.shape[0], _kit(x.dtype)
        order, reverse = _order(cache.lengths, cache.reverse)
        wide = kit.wide.itemsize
        weights, states = (D + H + 1) * 4 * H, N * H
        try:
            da = _bytes(T * N * 4 * H * kit.factor.itemsize)
            # dWx, dWh, db, dh0, dc0
            found = _bytes((weights + 2 * states) * wide)
            dh_t, dc_t = (found + (weights + k * states) * wide for k in range(2))
            same = is_wide = kit.own is kit.wide
            outer, entering = (0, 0, 0, 0) if dh is None else _steps(dh, reverse), dh_n
            if order[0] and (dh is not None or dh_n is not None):  # dh_n enters each row at its last step
                entered, is_wide, entering = _bytes(T * states * wide), True, None
                kit.enter(T * N, BLOCK, *outer, *_place(dh_n), entered.ptr, *order, N, H)
                outer = entered.ptr, states, H, 1
            if entering is dc_n is None:
                dh_t.memset_async(0, 2 * states * wide)
            else:
                for v, out in ((entering, dh_t), (dc_n, dc_t)):
                    _into(out, v, kit, N, H, order=order)
            c0 = _state(cache.c0, kit.wide, kit, N, H, order)
            self.retreat((T, N, H), outer, is_wide, gates.data, c.data, c0, Wh, da, dh_t, dc_t)
            self._weight_gradients(kit, cache, da, found, order, reverse)
            dx = self._product(kit, da, Wx, T * N, 4 * H, D) if need_dx else None
            if order[0]:
                kit.straight(N, BLOCK, *_place(dh_n), *_place(dc_n), dh_t.ptr, dc_t.ptr, order[0], H)
            if not same:
                found = _copied(kit, found, weights + 2 * states)
            if need_dx and kit.own is not kit.factor:
                dx = _copied(kit, dx, T * N * D)
            if need_dx and order[0]:
                dx = _restored(kit, dx, T, N, D, order)
        except Exception as error:
            needed = (T * N * ((5 + bool(order[0])) * H + (2 + order[1]) * D) + weights) * wide
            self._tell(error, x, "da and gradients", needed)
            raise
        gradients = []
        for shape in ((D, 4 * H), (H, 4 * H), (4 * H,), (N, H), (N, H)):
            gradients.append(_array(shape, kit.own, found))
            found = found + gradients[-1].nbytes  # CuPy's += would move the place of the array, too
        dWx, dWh, db, dh0, dc0 = gradients
        return _by_row(dx, N, T, D, kit.own, reverse) if need_dx else None, dh0, dWx, dWh, db, dc0

    def _inputs(self, kit, x, Wx, b, order, reverse):
        """Stage one: the pre-activations (T, N, 4H)."""
        (N, T, D), columns = x.shape, Wx.shape[1]
        at, a = _steps(x, reverse), _bytes(T * N * columns * kit.wide.itemsize)
        lies = _lies(at, T, N, D) and not order[1]  # what is behind the lengths is saturated in any case
        rows = x.data if lies else _bytes(T * N * D * x.itemsize)
        if not lies or b is not None:
            bias = (0, 0, 0) if b is None else (b.data.ptr, b.strides[0] // b.itemsize, a.ptr)
            kit.arrange(T * N, BLOCK, *at, 0 if lies else rows.ptr, *bias, *order, N, D, 0 if b is None else columns)
        Wx, turned, leading = layout(Wx)
        multiply_at(
            kit.own, kit.wide, self.precision, (T * N, D, columns),
            (at[0] if lies else rows.ptr, 0, D), (Wx.data.ptr, turned, leading), a.ptr, add=b is not None,
        )  # fmt: skip
        if order[0]:
            kit.saturate(T * N, BLOCK, a.ptr, order[0], N, columns // 4)
        return a

    def _weight_gradients(self, kit, cache, da, out, order, reverse):
        """dWx, dWh and db, one below the other."""
        x, h0, H = cache.x, cache.h0, cache.Wh.shape[0]
        N, T, D = x.shape
        count, pitch = D + H + 1, -(-(D + H + 1) // PITCH) * PITCH
        rows = _bytes(T * N * pitch * kit.factor.itemsize)
        at = *_steps(x, reverse), *_steps(cache.h, reverse)
        kit.factors(T * N, BLOCK, *at, *_place(h0), rows.ptr, *order, N, D, H, pitch)
        flat, precision = (da.ptr, 0, 4 * H), self._of_gradients(kit)
        # Of the sums that are db, nothing is rounded to TF32.
        together = count - (precision == "tf32" and kit.factor.name == "float32")
        sizes = together, T * N, 4 * H
        multiply_at(kit.factor, kit.wide, precision, sizes, (rows.ptr, 1, pitch), flat, out.ptr)
        if together < count:
            sizes, ones = (1, T * N, 4 * H), (rows.ptr + together * kit.factor.itemsize, 1, pitch)
            multiply_at(kit.factor, kit.wide, "ieee", sizes, ones, flat, out.ptr + together * 4 * H * kit.wide.itemsize)

    def _product(self, kit, da, Wx, rows, depth, columns):
        """da @ Wx.T, of da's dtype."""
        out = _bytes(rows * columns * kit.factor.itemsize)
        if kit.own is kit.factor:
            Wx, turned, leading = layout(Wx)
            second = Wx.data.ptr, 1 - turned, leading
        else:
            wide = _bytes(Wx.size * kit.wide.itemsize)
            _into(wide, Wx, kit, columns, depth)
            second = wide.ptr, 1, depth
        sizes = rows, depth, columns
        multiply_at(kit.factor, kit.factor, self._of_gradients(kit), sizes, (da.ptr, 0, depth), second, out.ptr)
        return out

    def _of_gradients(self, kit):
        """The precision of products backward; those beside half types are as `Problem` says."""
        return self.precision if kit.own is kit.wide else "tf32"

    def _tell(self, error, x, what, needed):
        if memory.is_full(error):
            raise MemoryError(memory.told(x.device, f"{self.name}: {what}", needed)) from error


def by_precision(Engine):
    """What the module of an engine has as `at`: of a precision, one engine for all calls."""
    engines = {precision: Engine(precision) for precision in Engine.precisions}
    return lambda precision: engines.get(precision, engines[Engine.precisions[0]])


@cache
def _kit(own):
    wide = computed_with(own)
    S, W, factor = dtype_name(own), dtype_name(wide), factor_dtype(own, wide)

    def launcher(parameters, *kernel):
        return kernels.Launcher(kernels.function(FILES, expression(*kernel), EXPRESSIONS), parameters)

    arrange = [stages.arranging(S, R, W) for R in (S, W)]
    factors = launcher("PqqqPqqqPqqPPiIIII", "factors", S, dtype_name(factor), W)
    rounded = None if S == W else launcher("PPQ", "rounded", S, W)
    of_lengths = [
        launcher("PPII", "saturate", W),
        launcher("PPPqqPqqPPPII", "last", S, W),
        launcher("PqqqPqqPPiII", "enter", S, W),
        launcher("PqqPqqPPPI", "straight", S, W),
        launcher("PPPiII", "restore", S),
    ]
    return Kit(own, wide, factor, *arrange, factors, rounded, *of_lengths)


def _bytes(size):
    """New memory on the current device."""
    return memory.cuda().alloc(size)


def _array(shape, dtype, memory, strides=None):
    return sys.modules["cupy"].ndarray(shape, dtype, memory, strides)


def _by_row(memory, N, T, K, dtype, reverse=False):
    """Memory of (T, N, K) as an array (N, T, K), backwards if so."""
    size, step = dtype.itemsize, N * K * dtype.itemsize
    if reverse:
        memory, step = memory + (T - 1) * step, -step
    return _array((N, T, K), dtype, memory, (K * size, step, size))


def _steps(v, reverse=False):
    """Where v (N, T, K) begins, in the order of processing; its strides by step, row and feature, in items."""
    (by_row, by_step, by_feature), size, start = v.strides, v.itemsize, v.data.ptr
    if reverse:
        start, by_step = start + (v.shape[1] - 1) * by_step, -by_step
    return start, by_step // size, by_row // size, by_feature // size


def _lies(at, T, N, K):
    """Whether what has these strides is a contiguous (T, N, K)."""
    _, by_step, by_row, by_feature = at
    return (by_feature == 1 or K == 1) and (by_row == K or N == 1) and (by_step == N * K or T == 1)


def _place(v):
    """Where a matrix lies, and its strides; None may be one, too."""
    return (0, 0, 0) if v is None else strided(v)


def _order(lengths, reverse):
    """A Timeline, as kernels take it; and whether strides are to reverse the steps, which they do for full rows."""
    return (stages.FULL, reverse) if lengths is None else ((lengths.data.ptr, int(reverse)), False)


def _restored(kit, v, T, N, K, order):
    """The memory of (T, N, K) in the caller's order, zeros behind the lengths: this one, or of its own if reversed."""
    out = _bytes(T * N * K * kit.own.itemsize) if order[1] else v
    kit.restore(T * N, BLOCK, v.ptr, out.ptr, *order, N, K)
    return out


def _state(v, dtype, kit, N, H, order=stages.FULL):
    """The memory of a state (N, H), contiguous and of this dtype; zeros for None, and for rows that have no steps."""
    lies = v is not None and v.flags.c_contiguous and v.dtype == dtype and v.data.ptr % ALIGNMENT == 0
    if lies and not order[0]:
        return v.data
    out = _bytes(N * H * dtype.itemsize)
    _into(out, v, kit, N, H, dtype, order)
    return out


def _into(out, v, kit, N, H, dtype=None, order=stages.FULL):
    """Copy a matrix of the caller's (zeros for None, and for rows that have no steps) to where one of a dtype, the wide
    one, lies."""
    dtype = dtype or kit.wide
    if v is None:
        out.memset_async(0, N * H * dtype.itemsize)
        return
    copy = kit.arrange if dtype is kit.own else kit.widen
    start, *by = strided(v)
    copy(N, BLOCK, start, 0, *by, out.ptr, 0, 0, 0, order[0], 0, N, H, 0)


def _copied(kit, v, size):
    """So many wide numbers in the arrays' own dtype, in memory of their own."""
    out = _bytes(size * kit.own.itemsize)
    if kit.own is kit.wide:
        out.copy_from_device_async(v, size * kit.own.itemsize)
    else:
        kit.rounded(-(-size // BLOCK), BLOCK, v.ptr, out.ptr, size)
    return out
