"""NumPy: every step in place, through buffers that stay in the cache.

The lines are those of `cell.py`, taken apart so that no ufunc allocates, and that a step is left with few calls, which
is what counts where N and H are small. Steps are worked on in blocks, as many as the cache holds; of wide ones, some
units at a time.

* Inside, units come before rows: what belongs to a step is (4H, N) and (H, N). Each gate is then one piece of memory,
  and a BLAS is up to twice as fast: it rearranges the smaller factor, h, and reads the weights where they lie.
* Forward, pre-activations and weights of i, f and o are halved ahead, so that one tanh serves all four gates. A step's
  gates lie before the c that it starts from, so that one product gives i * g and f * c; what is kept are these records.
* Backward, what does not depend on later steps (the slopes of the activations, times what they are multiplied with) is
  done for the whole block at once, and da is written over it.
* Fresh memory costs as much as the arithmetic on it: no array of all steps is made but those that are returned.

The steps' views are made once, or by iterating over arrays, which costs a quarter of indexing.
"""

import numpy as np

name = "numpy_fused"

# About how many gate values are worked on at a time: they fit the second-level cache.
BLOCK = 1 << 15
# With fewer rows, inputs are multiplied as rows of many steps at once: of so many rows at least.
FEW, TOGETHER = 16, 32
# With more rows, the product with h gains more by weights that were turned than to turn them costs.
TURN = 3
# Rows (steps times N) of which gradients are made at a time.
LEAST, MOST = 512, 2048
# Steps after which numbers that have become nearly too small are taken out, at the end of a block of steps.
FLUSH = 32


def refuses(problem):
    if problem.array_library != "numpy":
        return f"it needs NumPy arrays, these are {problem.array_library}'s"
    if problem.dtype == "complex128":
        return "it needs real arrays"
    return ""


def declines(problem):
    return ""


def layer(x, h0, c0, Wx, Wh, b, lengths, h, *, keep):
    """Stages one and two: pre-activations are made block by block, when the recurrence wants them."""
    (T, N, D), H, dtype = x.shape, Wh.shape[0], x.dtype
    b = np.zeros(4 * H, dtype) if b is None else b
    ended = None if lengths is None else np.arange(T)[:, None] >= lengths
    halves = _halves(H, dtype)
    if N >= FEW:
        weights = _turned(np.concat([Wx, b[None]]) * halves)
        inputs = np.ones((_steps(T, N, H), N, D + 1), dtype)

    def fill(start, stop, out):
        if N < FEW:
            a = np.dot(x[start:stop].reshape(-1, D), Wx)
            a += b
            a *= halves
            out[...] = a.reshape(-1, N, 4, H).transpose(0, 2, 3, 1)
        else:
            rows = inputs[: stop - start]
            rows[:, :, :D] = x[start:stop]
            np.matmul(weights, rows.swapaxes(1, 2), out=out.reshape(-1, 4 * H, N))
        if ended is not None:
            big = np.finfo(dtype).max / 4
            saturated = np.asarray([-big, big, -big, 0], dtype).reshape(4, 1, 1)
            np.copyto(out, saturated, where=ended[start:stop, None, None, :])

    return _recurrence(fill, h0, h, c0, Wh, keep, lengths)


def forward(a, h0, c0, Wh, *, keep):
    h = np.empty((*a.shape[:2], Wh.shape[0]), h0.dtype)
    halves = _halves(Wh.shape[0], a.dtype).reshape(4, -1, 1)

    def fill(start, stop, out):
        np.multiply(_by_units(a[start:stop]), halves, out=out)

    return h, *_recurrence(fill, h0, h, c0, Wh, keep)


@np.errstate(under="ignore")
def _recurrence(fill, h0, h, c0, Wh, keep, lengths=None):
    """All steps of h; `fill(start, stop, out)` writes pre-activations (steps, 4, H, N), halved but for those of g."""
    (T, N, H), dtype = h.shape, c0.dtype
    weights = Wh * _halves(H, dtype)
    weights = _turned(weights) if N > TURN else weights.T
    size = _steps(T, N, H)
    records = np.empty((T + 1 if keep else size + 1, 5, H, N), dtype)  # i, f, o, g, and the c before the step
    states = np.empty((size + 1, H, N), dtype)  # h before and after each step of a block
    recurrent, scratch = np.empty((4 * H, N), dtype), np.empty((2, H, N), dtype)
    half = np.asarray(0.5, dtype)
    records[0, 4], states[0], c_n = c0.T, h0.T, c0.copy()

    def views(units):
        """What each step takes, of these units."""
        parts = (records[:-1, first:last, units] for first, last in ((0, 4), (0, 3), (0, 2), (3, 5)))
        return zip(*parts, records[:-1, 2, units], records[1:, 4, units], strict=True)

    blocks = _unit_blocks(N, H)
    steps = list(zip(*map(views, blocks), strict=True))
    buffers = [(recurrent.reshape(4, H, N)[:, units], scratch[:, units], *scratch[:, units]) for units in blocks]
    outputs = list(zip(*(states[1:, units] for units in blocks), strict=True))
    for start in range(0, T, size):
        stop = min(start + size, T)
        place, count = start if keep else 0, stop - start
        fill(start, stop, records[place : place + count, :4])
        these = steps[place : place + count]
        for prev_h, next_h, step, out in zip(states, states[1:], these, outputs):  # noqa: B905  these may be fewer
            np.dot(weights, prev_h, out=recurrent)
            for (gates, logistic, i_f, g_c, o, next_c), (z, both, u, v), h_units in zip(
                step, buffers, out, strict=True
            ):
                np.add(gates, z, out=gates)
                np.tanh(gates, out=gates)
                np.multiply(logistic, half, out=logistic)
                np.add(logistic, half, out=logistic)
                np.multiply(i_f, g_c, out=both)
                np.add(u, v, out=next_c)
                np.tanh(next_c, out=u)
                np.multiply(o, u, out=h_units)
            if h.dtype != dtype:
                next_h[...] = next_h.astype(h.dtype)
        if start // FLUSH < stop // FLUSH:
            _flush(records[place + count, 4])
            _flush(states[count])
        h[start:stop] = states[1 : count + 1].swapaxes(1, 2)
        states[0] = states[count]
        if lengths is None:
            c_n[...] = records[place + count, 4].T
        else:  # where a row ends: c is carried on from there, but not past a NaN in h, which reaches every gate
            rows = np.flatnonzero(lengths > start)
            c_n[rows] = records[place + np.minimum(lengths[rows], stop) - start, 4, :, rows]
        if not keep:
            records[0, 4] = records[count, 4]
    if not keep:
        return c_n, None, None
    gates = records[:-1].reshape(T, 5 * H, N)[:, : 4 * H]
    return c_n, records[1:, 4].swapaxes(1, 2), gates.swapaxes(1, 2)


def backward(dh, dh_n, dc_n, gates, c, c0, Wh):
    T, N, H = c.shape
    da = _empty_da(T, N, H, c.dtype)
    dh_t, dc_t = _states(dh_n, dc_n, c0)
    _recurrence_back(da, dh, dh_t, dc_t, gates, c, c0, Wh)
    return da.transpose(1, 2, 0), dh_t.T.copy(), dc_t.T.copy()


def gradients(dh, dh_n, dc_n, gates, c, x, h0, c0, h, Wx, Wh, *, need_dx):
    """The recurrence backwards and stage three, in chunks of about 4H rows: da is then about as large as dW."""
    T, N, D, H = *x.shape, Wh.shape[0]
    dtype = c.dtype
    size = min(T, max(1, min(max(4 * H, LEAST), MOST) // N))
    da = _empty_da(size, N, H, dtype)
    inputs = np.ones((size, N, D + H + 1), dtype)  # what was multiplied with Wx, Wh, b: x_t, h_{t-1}, 1
    dx = np.empty((T, N, D), dtype) if need_dx else None
    dW = part = None  # the sum over chunks, and the memory for one of them
    dh_t, dc_t = _states(dh_n, dc_n, c0)
    weights = Wx.T.astype(dtype, copy=False)
    for start in reversed(range(0, T, size)):
        stop = min(start + size, T)
        count = stop - start
        chunk = da[:, :count]
        outer = None if dh is None else dh[start:stop]
        prev_h, prev_c = (h[start - 1], c[start - 1]) if start > 0 else (h0, c0)
        _recurrence_back(chunk, outer, dh_t, dc_t, gates[start:stop], c[start:stop], prev_c, Wh)
        inputs[:count, :, :D] = x[start:stop]
        inputs[0, :, D:-1] = prev_h
        inputs[1:count, :, D:-1] = h[start : stop - 1]
        rows = chunk.reshape(4 * H, -1).T
        part = np.matmul(inputs[:count].reshape(-1, D + H + 1).T, rows, out=part)
        if dW is None:
            dW, part = part, None
        else:
            dW += part
        if need_dx:
            np.matmul(rows, weights, out=dx[start:stop].reshape(-1, D))
    return dx, dh_t.T.copy(), dW[:D], dW[D:-1], dW[-1], dc_t.T.copy()


@np.errstate(under="ignore")
def _recurrence_back(da, dh, dh_t, dc_t, gates, c, c0, Wh):
    """da (4H, T, N) of all steps; dh_t and dc_t (H, N), the gradients of the state after them, become those before."""
    T, N, H = c.shape
    dtype = c.dtype
    weights = Wh.astype(dtype, copy=False)
    gates, c, first_c = _by_units(gates), c.swapaxes(1, 2), c0.T
    size, blocks = _steps(T, N, H), _unit_blocks(N, H)
    slopes, scratch = np.empty((size, 5, H, N), dtype), np.empty((size, 2, H, N), dtype)
    outer = None if dh is None else np.empty((size, H, N), dtype)
    states = [(dh_t[units], dc_t[units]) for units in blocks]
    by_units = (zip(slopes[:, :2, units], *(slopes[:, k, units] for k in (2, 3, 4)), strict=True) for units in blocks)
    results = slopes[:, :4].reshape(size, 4 * H, N)
    steps = list(zip(results, [None] * size if dh is None else outer, zip(*by_units, strict=True), strict=True))
    for stop in range(T, 0, -size):
        start = max(0, stop - size)
        count = stop - start
        if stop == T or start // FLUSH < stop // FLUSH:
            _flush(dh_t)
            _flush(dc_t)
        for units in blocks:
            prev_c = (c[start - 1] if start > 0 else first_c)[units]
            _slopes(
                gates[start:stop, :, units], c[start:stop, units], prev_c,
                slopes[:count, :, units], scratch[:count, :, units],
            )  # fmt: skip
        if dh is not None:
            _turn(dh[start:stop], outer[:count])
        forget = zip(*(gates[start:stop, 1, units][::-1] for units in blocks), strict=True)
        for (da_t, outer_t, step), f_t in zip(steps[count - 1 :: -1], forget, strict=True):
            if outer_t is not None:
                np.add(dh_t, outer_t, out=dh_t)
            for (by_if, by_o, by_g, by_h), (dh_units, dc_units), f in zip(step, states, f_t, strict=True):
                np.multiply(by_o, dh_units, out=by_o)
                np.multiply(by_h, dh_units, out=by_h)
                np.add(dc_units, by_h, out=dc_units)
                np.multiply(by_if, dc_units, out=by_if)
                np.multiply(by_g, dc_units, out=by_g)
                np.multiply(dc_units, f, out=dc_units)
            np.dot(weights, da_t, out=dh_t)
        da[:, start:stop] = results[:count].swapaxes(0, 1)


def _slopes(gates, c, first_c, slopes, scratch):
    """What dc is multiplied with to be da of i, f, g; and dh, to be da of o, and to be added to dc: i, f, o, g, h."""
    i, f, o, g = (gates[:, k] for k in range(4))
    by_f, by_g, by_h = (slopes[:, k] for k in (1, 3, 4))
    ig, oh = (scratch[:, k] for k in range(2))
    np.tanh(c, out=by_h)
    np.multiply(i, g, out=ig)
    np.multiply(o, by_h, out=oh)
    by_io = slopes[:, 0:3:2]
    np.multiply(scratch, gates[:, 0:3:2], out=by_io)
    np.subtract(scratch, by_io, out=by_io)  # i (1 - i) g, and o (1 - o) tanh(c)
    np.multiply(ig, g, out=by_g)
    np.subtract(i, by_g, out=by_g)  # i (1 - g^2)
    np.multiply(oh, by_h, out=by_h)
    np.subtract(o, by_h, out=by_h)  # o (1 - tanh(c)^2)
    np.multiply(f, f, out=by_f)
    np.subtract(f, by_f, out=by_f)
    np.multiply(by_f[1:], c[:-1], out=by_f[1:])  # f (1 - f) c_prev
    np.multiply(by_f[0], first_c, out=by_f[0])


copy = np.ndarray.copy


@np.errstate(under="ignore")
def step(x, h, c, Wx, Wh, b):
    dtype = c.dtype if c.dtype.itemsize >= 4 else np.dtype(np.float32)
    x, prev_h, prev_c, Wx, Wh = (v.astype(dtype, copy=False) for v in (x, h, c, Wx, Wh))
    H = h.shape[1]
    z = np.dot(x, Wx)  # takes two thirds of matmul's time for one row
    z += np.dot(prev_h, Wh)
    if b is not None:
        z += b[None]  # NumPy adds arrays of one shape without an iterator
    logistic, half = z[:, : 3 * H], np.asarray(0.5, dtype)
    logistic *= half
    np.tanh(z, out=z)
    logistic *= half
    logistic += half
    i, f, o, g = (z[:, k * H : (k + 1) * H] for k in range(4))
    next_c = f * prev_c
    g *= i
    next_c += g
    next_h = np.tanh(next_c)
    next_h *= o
    return next_h.astype(h.dtype, copy=False), next_c.astype(c.dtype, copy=False)


def _states(dh_n, dc_n, c0):
    """Gradients of the final state, None for zeros, as (H, N) in memory of their own."""
    empty = np.zeros(c0.T.shape, c0.dtype)
    return (empty.copy() if v is None else np.array(v.T, c0.dtype, order="C") for v in (dh_n, dc_n))


def _flush(v):
    """Zeros in place of what would soon be denormal, for which processors take a hundred times as long.

    What is carried through many steps, and shrinks at each, ends there; and never at 0, for the smallest number of all,
    times 0.7, is rounded to itself.
    """
    limits = np.finfo(v.dtype)
    v *= np.abs(v) >= limits.tiny / limits.eps


def _empty_da(T, N, H, dtype):
    """Memory for da, units first. It has room for a step more: where units lie 2^n bytes apart, caches hold few."""
    return np.empty((4 * H, T + 1, N), dtype)[:, :T]


def _by_units(v):
    """A view of (T, N, 4H) as (T, 4, H, N)."""
    T, N, columns = v.shape
    return v.swapaxes(1, 2).reshape(T, 4, columns // 4, N)


def _turned(v):
    """The transpose of a matrix, in memory of its own."""
    out = np.empty(v.shape[::-1], v.dtype)
    _turn(v, out)
    return out


def _turn(v, out):
    """v with its last two axes swapped. 16 rows at a time, which takes a quarter of the time of all at once."""
    for start in range(0, v.shape[-2], 16):
        out[..., start : start + 16] = v[..., start : start + 16, :].swapaxes(-2, -1)


def _halves(H, dtype):
    """What the pre-activations of i, f, o, g are multiplied with before their common tanh."""
    return np.repeat(np.asarray([0.5, 0.5, 0.5, 1], dtype), H)


def _steps(T, N, H):
    return min(T, max(1, BLOCK // (4 * N * H), TOGETHER // N if N < FEW else 0))


def _unit_blocks(N, H):
    size = max(1, BLOCK // (4 * N))
    return [slice(start, min(start + size, H)) for start in range(0, H, size)]
