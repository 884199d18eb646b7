"""NumPy: every step in place, through buffers that stay in the cache; gates are written over the pre-activations.

The lines are those of `cell.py`, taken apart so that no ufunc allocates, with two changes:

* the logistic function is 1 / (1 + exp(-z)): NumPy's exp costs half of its tanh where there is no AVX-512;
* backward, what does not depend on later steps (the slopes of the activations, times what they are multiplied with) is
  done for many steps at once, as many as the cache holds. A step is then left with few calls, which is what counts
  where N and H are small.

The steps' views are made by iterating over arrays: that costs a quarter of indexing.
"""

import numpy as np

name = "numpy_fused"

# About how many gate values are worked on at a time: they fit the second-level cache.
BLOCK = 1 << 16


def refuses(problem):
    if problem.array_library != "numpy":
        return f"it needs NumPy arrays, these are {problem.array_library}'s"
    if problem.dtype == "complex128":
        return "it needs real arrays"
    return ""


def declines(problem):
    return ""


@np.errstate(over="ignore", under="ignore")  # exp(-z) of a saturated gate: 1 / (1 + inf) is the 0 that is wanted
def forward(a, h0, c0, Wh, *, keep):
    T, N, H = *a.shape[:2], a.shape[2] // 4
    dtype = a.dtype
    gates = np.ascontiguousarray(a)
    h = np.empty((T, N, H), h0.dtype)
    c = np.empty((T + 1, N, H), dtype)
    c[0] = c0
    weights = Wh.astype(dtype, copy=False)
    recurrent, scratch = np.empty((N, 4 * H), dtype), np.empty((N, H), dtype)
    one = np.asarray(1, dtype)

    def rows_of_steps(rows):
        z = gates[:, rows]
        blocks = (z[..., k * H : (k + 1) * H] for k in range(4))
        return zip(z, z[..., : 3 * H], *blocks, c[:-1, rows], c[1:, rows], h[:, rows], strict=True)

    blocks = _row_blocks(N, H)
    buffers = [(recurrent[rows], scratch[rows]) for rows in blocks]
    prev_h = h0.astype(dtype, copy=False)
    for next_h, *steps in zip(h, *map(rows_of_steps, blocks), strict=True):
        np.dot(prev_h, weights, out=recurrent)
        for (z, logistic, i, f, o, g, prev_c, next_c, h_rows), (addend, u) in zip(steps, buffers, strict=True):
            np.add(z, addend, out=z)
            np.negative(logistic, out=logistic)
            np.exp(logistic, out=logistic)
            np.add(logistic, one, out=logistic)
            np.reciprocal(logistic, out=logistic)
            np.tanh(g, out=g)
            np.multiply(f, prev_c, out=next_c)
            np.multiply(i, g, out=u)
            np.add(next_c, u, out=next_c)
            np.tanh(next_c, out=u)
            np.multiply(o, u, out=h_rows, casting="same_kind")
        prev_h = next_h if next_h.dtype == dtype else next_h.astype(dtype)
    return h, c[-1].copy(), *((c[1:], gates) if keep else (None, None))


def backward(dh, dh_n, dc_n, gates, c, c0, Wh):
    T, N, H = c.shape
    dtype = c.dtype
    da = np.empty((T, N, 4 * H), dtype)
    dh_t = np.zeros((N, H), dtype) if dh_n is None else dh_n.astype(dtype, order="C")
    dc_t = np.zeros((N, H), dtype) if dc_n is None else dc_n.astype(dtype, order="C")
    weights = np.ascontiguousarray(Wh.T, dtype)  # once, or the product would rearrange it at every step
    size = max(1, BLOCK // (4 * N * H))
    scratch = np.empty((2, size, N, H), dtype)
    for stop in range(T, 0, -size):
        start = max(0, stop - size)
        through_h, tanh_c = scratch[:, : stop - start]
        first_c = c[start - 1] if start > 0 else c0
        _slopes(gates[start:stop], c[start:stop], first_c, da[start:stop], through_h, tanh_c)
        block = da[start:stop][::-1]
        steps = zip(
            block,
            block[..., : 2 * H].reshape(stop - start, N, 2, H),
            block[..., 2 * H : 3 * H],
            block[..., 3 * H :],
            through_h[::-1],
            gates[start:stop, :, H : 2 * H][::-1],
            [None] * (stop - start) if dh is None else dh[start:stop][::-1],
            strict=True,
        )
        both = dc_t[:, None, :]
        for da_t, da_if, da_o, da_g, u, f, outer in steps:
            if outer is not None:
                np.add(dh_t, outer, out=dh_t)
            np.multiply(da_o, dh_t, out=da_o)
            np.multiply(u, dh_t, out=u)
            np.add(dc_t, u, out=dc_t)
            np.multiply(da_if, both, out=da_if)
            np.multiply(da_g, dc_t, out=da_g)
            np.multiply(dc_t, f, out=dc_t)
            np.dot(da_t, weights, out=dh_t)
    return da, dh_t, dc_t


@np.errstate(over="ignore", under="ignore")
def step(x, h, c, Wx, Wh, b):
    dtype = c.dtype if c.dtype.itemsize >= 4 else np.dtype(np.float32)
    x, prev_h, prev_c, Wx, Wh = (v.astype(dtype, copy=False) for v in (x, h, c, Wx, Wh))
    H = h.shape[1]
    z = np.matmul(x, Wx)
    z += np.matmul(prev_h, Wh)
    if b is not None:
        z += b
    logistic, g = z[:, : 3 * H], z[:, 3 * H :]
    np.negative(logistic, out=logistic)
    np.exp(logistic, out=logistic)
    logistic += 1
    np.reciprocal(logistic, out=logistic)
    np.tanh(g, out=g)
    next_c = z[:, H : 2 * H] * prev_c
    g *= z[:, :H]
    next_c += g
    next_h = np.tanh(next_c)
    next_h *= z[:, 2 * H : 3 * H]
    return next_h.astype(h.dtype, copy=False), next_c.astype(c.dtype, copy=False)


def _slopes(gates, c, first_c, da, through_h, tanh_c):
    """What dh and dc are multiplied with at each step: da per dc (i, f, g) or dh (o), and dc per dh (through_h)."""
    H = c.shape[2]
    i, _, o, g = (gates[..., k * H : (k + 1) * H] for k in range(4))
    da_i, da_f, da_o, da_g = (da[..., k * H : (k + 1) * H] for k in range(4))
    logistic = da[..., : 3 * H]
    np.tanh(c, out=tanh_c)
    np.multiply(tanh_c, tanh_c, out=through_h)
    np.subtract(1, through_h, out=through_h)
    np.multiply(through_h, o, out=through_h)  # o (1 - tanh(c)^2)
    np.subtract(1, gates[..., : 3 * H], out=logistic)
    np.multiply(logistic, gates[..., : 3 * H], out=logistic)
    np.multiply(da_i, g, out=da_i)  # i (1 - i) g
    np.multiply(da_f[1:], c[:-1], out=da_f[1:])  # f (1 - f) c_prev
    np.multiply(da_f[0], first_c, out=da_f[0])
    np.multiply(da_o, tanh_c, out=da_o)  # o (1 - o) tanh(c)
    np.multiply(g, g, out=da_g)
    np.subtract(1, da_g, out=da_g)
    np.multiply(da_g, i, out=da_g)  # (1 - g^2) i


def _row_blocks(N, H):
    size = max(1, BLOCK // (4 * H))
    return [slice(start, min(start + size, N)) for start in range(0, N, size)]
