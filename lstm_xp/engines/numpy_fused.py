"""NumPy: every step in place, through buffers that stay in the cache; gates are written over the pre-activations.

The lines are those of `cell.py`, taken apart so that no ufunc allocates, and that a step is left with few calls, which
is what counts where N and H are small. Steps are worked on in blocks, as many as the cache holds, gate by gate: a ufunc
over (N, H) in one piece takes half the time of one over rows of a wider array.

* Forward, pre-activations and weights of i, f and o are halved ahead, so that one tanh serves all four gates; and the c
  before a step lies beside its g, so that one product gives i * g and f * c.
* Backward, what does not depend on later steps (the slopes of the activations, times what they are multiplied with) is
  done for the whole block at once.

The steps' views are made once, or by iterating over arrays, which costs a quarter of indexing.
"""

import numpy as np

name = "numpy_fused"

# About how many gate values are worked on at a time: they fit the second-level cache.
BLOCK = 1 << 15


def refuses(problem):
    if problem.array_library != "numpy":
        return f"it needs NumPy arrays, these are {problem.array_library}'s"
    if problem.dtype == "complex128":
        return "it needs real arrays"
    return ""


def declines(problem):
    return ""


@np.errstate(under="ignore")
def forward(a, h0, c0, Wh, *, keep):
    T, N, H = *a.shape[:2], a.shape[2] // 4
    dtype = a.dtype
    halves = _halves(H, dtype)
    weights = Wh * halves
    gates = np.ascontiguousarray(a)
    h = np.empty((T, N, H), h0.dtype)
    c = np.empty((T, N, H), dtype) if keep else None
    size = min(T, max(1, BLOCK // (4 * N * H)))
    work = np.empty((size + 1, 5, N, H), dtype)  # each step's i, f, o, g, and the c before it
    recurrent, scratch = np.empty((N, 4 * H), dtype), np.empty((2, N, H), dtype)
    half = np.asarray(0.5, dtype)

    def views(rows):
        """What each step takes, of these rows."""
        parts = (work[:-1, first:last, rows] for first, last in ((0, 4), (0, 3), (0, 2), (3, 5)))
        return zip(*parts, work[:-1, 2, rows], work[1:, 4, rows], strict=True)

    blocks = _row_blocks(N, H)
    steps = list(zip(*map(views, blocks), strict=True))
    buffers = [(_by_gates(recurrent)[:, rows], scratch[:, rows], *scratch[:, rows]) for rows in blocks]
    prev_h, prev_c = h0.astype(dtype, copy=False), c0
    for start in range(0, T, size):
        stop = min(start + size, T)
        block = gates[start:stop]
        np.multiply(block, halves, out=block)
        work[0, 4] = prev_c
        outputs = zip(*(h[start:stop, rows] for rows in blocks), strict=True)
        for next_h, a_t, step, h_rows in zip(h[start:stop], block, steps, outputs):  # noqa: B905  steps may be more
            np.dot(prev_h, weights, out=recurrent)
            np.add(a_t, recurrent, out=recurrent)
            for (gates_t, logistic, i_f, g_c, o, next_c), (z, both, u, v), out in zip(
                step, buffers, h_rows, strict=True
            ):
                np.tanh(z, out=gates_t)
                np.multiply(logistic, half, out=logistic)
                np.add(logistic, half, out=logistic)
                np.multiply(i_f, g_c, out=both)
                np.add(u, v, out=next_c)
                np.tanh(next_c, out=u)
                np.multiply(o, u, out=out, casting="same_kind")
            prev_h = next_h if next_h.dtype == dtype else next_h.astype(dtype)
        prev_c = work[stop - start, 4]
        if keep:
            _by_gates(block)[...] = work[: stop - start, :4]
            c[start:stop] = work[1 : stop - start + 1, 4]
    return h, prev_c.copy(), c, gates if keep else None


def backward(dh, dh_n, dc_n, gates, c, c0, Wh):
    T, N, H = c.shape
    dtype = c.dtype
    da = np.empty((T, N, 4 * H), dtype)
    dh_t = np.zeros((N, H), dtype) if dh_n is None else dh_n.astype(dtype, order="C")
    dc_t = np.zeros((N, H), dtype) if dc_n is None else dc_n.astype(dtype, order="C")
    weights = np.ascontiguousarray(Wh.T, dtype)  # once, or the product would rearrange it at every step
    size = min(T, max(1, BLOCK // (4 * N * H)))
    activations = np.empty((size, 4, N, H), dtype)
    slopes = np.empty((size, 5, N, H), dtype)
    steps = list(zip(slopes[:, :2], *(slopes[:, k] for k in (2, 3, 4)), activations[:, 1], strict=True))
    for stop in range(T, 0, -size):
        start = max(0, stop - size)
        count = stop - start
        activations[:count] = _by_gates(gates[start:stop])
        _slopes(activations[:count], c[start:stop], c[start - 1] if start > 0 else c0, slopes[:count])
        block = da[start:stop][::-1]
        targets = block, _by_gates(block[..., : 2 * H], 2), block[..., 2 * H : 3 * H], block[..., 3 * H :]
        outer = [None] * count if dh is None else dh[start:stop][::-1]
        for (by_if, by_o, by_g, by_h, f), outer_t, da_t, da_if, da_o, da_g in zip(
            steps[count - 1 :: -1], outer, *targets, strict=True
        ):
            if outer_t is not None:
                np.add(dh_t, outer_t, out=dh_t)
            np.multiply(by_o, dh_t, out=da_o)
            np.multiply(by_h, dh_t, out=by_h)
            np.add(dc_t, by_h, out=dc_t)
            np.multiply(by_if, dc_t, out=da_if)
            np.multiply(by_g, dc_t, out=da_g)
            np.multiply(dc_t, f, out=dc_t)
            np.dot(da_t, weights, out=dh_t)
    return da, dh_t, dc_t


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


def _slopes(activations, c, first_c, slopes):
    """What dc is multiplied with to be da of i, f, g; and dh, to be da of o, and to be added to dc: i, f, o, g, h."""
    i, _, o, g = (activations[:, k] for k in range(4))
    by_i, by_f, by_o, by_g, by_h = (slopes[:, k] for k in range(5))
    logistic = slopes[:, :3]
    np.subtract(1, activations[:, :3], out=logistic)
    np.multiply(logistic, activations[:, :3], out=logistic)
    np.multiply(by_i, g, out=by_i)  # i (1 - i) g
    np.multiply(by_f[1:], c[:-1], out=by_f[1:])  # f (1 - f) c_prev
    np.multiply(by_f[0], first_c, out=by_f[0])
    np.multiply(g, g, out=by_g)
    np.subtract(1, by_g, out=by_g)
    np.multiply(by_g, i, out=by_g)  # (1 - g^2) i
    np.tanh(c, out=by_h)
    np.multiply(by_o, by_h, out=by_o)  # o (1 - o) tanh(c)
    np.multiply(by_h, by_h, out=by_h)
    np.subtract(1, by_h, out=by_h)
    np.multiply(by_h, o, out=by_h)  # o (1 - tanh(c)^2)


def _by_gates(array, count=4):
    """A view of (..., N, count H) as (..., count, N, H)."""
    return np.moveaxis(array.reshape(*array.shape[:-1], count, -1), -2, -3)


def _halves(H, dtype):
    """What the pre-activations of i, f, o, g are multiplied with before their common tanh."""
    return np.repeat(np.asarray([0.5, 0.5, 0.5, 1], dtype), H)


def _row_blocks(N, H):
    size = max(1, BLOCK // (4 * H))
    return [slice(start, min(start + size, N)) for start in range(0, N, size)]
