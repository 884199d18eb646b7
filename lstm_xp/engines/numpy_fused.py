"""NumPy: every step in place, through buffers that stay in the cache; gates are written over the pre-activations.

The lines are those of `cell.py`, taken apart so that no ufunc allocates. Two things make them fewer: the three
logistic gates are (1 + tanh(z/2)) / 2, so that one tanh serves all four, and their derivatives s - s*s, 1 - g*g share
one square.
"""

import numpy as np

name = "numpy_fused"

# Rows of a step are worked on in blocks of about this many gate values, which fit the second-level cache.
BLOCK = 1 << 15


def refuses(problem):
    if problem.library != "numpy":
        return f"it needs NumPy arrays, these are {problem.library}'s"
    if problem.dtype == "complex128":
        return "it needs real arrays"
    return ""


def declines(problem):
    return ""


def forward(a, h0, c0, Wh, *, keep):
    T, N, H = *a.shape[:2], a.shape[2] // 4
    gates = np.ascontiguousarray(a)
    h = np.empty((T, N, H), h0.dtype)
    c = np.empty((T, N, H) if keep else (2, N, H), a.dtype)
    Wh = Wh.astype(a.dtype, copy=False)
    recurrent = np.empty((N, 4 * H), a.dtype)
    scratch = np.empty((N, H), a.dtype)
    half, one = np.asarray(0.5, a.dtype), np.asarray(1, a.dtype)
    blocks = _row_blocks(N, H)
    prev_h, prev_c = h0.astype(a.dtype, copy=False), c0
    for t in range(T):
        h_t, c_t = h[t], c[t if keep else t % 2]
        np.matmul(prev_h, Wh, out=recurrent)
        for rows in blocks:
            z, cell, tanh_c = gates[t, rows], c_t[rows], scratch[rows]
            logistic = z[:, : 3 * H]
            z += recurrent[rows]
            logistic *= half
            np.tanh(z, out=z)
            logistic += one
            logistic *= half
            i, f, o, g = z[:, :H], z[:, H : 2 * H], z[:, 2 * H : 3 * H], z[:, 3 * H :]
            np.multiply(f, prev_c[rows], out=cell)
            np.multiply(i, g, out=tanh_c)
            cell += tanh_c
            np.tanh(cell, out=tanh_c)
            np.multiply(o, tanh_c, out=h_t[rows], casting="same_kind")
        prev_h, prev_c = h_t.astype(a.dtype, copy=False), c_t
    c_n = prev_c.copy()
    return (h, c_n, c, gates) if keep else (h, c_n, None, None)


def backward(dh, dh_n, dc_n, gates, c, c0, Wh):
    T, N, H = c.shape
    dtype = c.dtype
    da = np.empty((T, N, 4 * H), dtype)
    dh_t = np.zeros((N, H), dtype) if dh_n is None else dh_n.astype(dtype)
    dc_t = np.zeros((N, H), dtype) if dc_n is None else dc_n.astype(dtype)
    scratch = np.empty((N, H), dtype)
    scratch2 = np.empty((N, H), dtype)
    WhT = Wh.astype(dtype, copy=False).T
    one = np.asarray(1, dtype)
    blocks = _row_blocks(N, H)
    for t in reversed(range(T)):
        prev_c = c[t - 1] if t > 0 else c0
        for rows in blocks:
            gate, slope = gates[t, rows], da[t, rows]
            dh_r, dc_r, u, v = dh_t[rows], dc_t[rows], scratch[rows], scratch2[rows]
            i, f, o, g = gate[:, :H], gate[:, H : 2 * H], gate[:, 2 * H : 3 * H], gate[:, 3 * H :]
            da_i, da_f, da_o, da_g = slope[:, :H], slope[:, H : 2 * H], slope[:, 2 * H : 3 * H], slope[:, 3 * H :]
            # The slopes of the activations, in the place of da: s - s*s and 1 - g*g.
            np.multiply(gate, gate, out=slope)
            logistic = slope[:, : 3 * H]
            np.subtract(gate[:, : 3 * H], logistic, out=logistic)
            np.subtract(one, da_g, out=da_g)
            if dh is not None:
                dh_r += dh[t, rows]
            np.tanh(c[t, rows], out=u)
            np.multiply(dh_r, u, out=v)
            da_o *= v
            # dc += dh o (1 - tanh(c)^2)
            u *= u
            np.subtract(one, u, out=u)
            u *= o
            u *= dh_r
            dc_r += u
            da_i *= g
            da_i *= dc_r
            da_f *= prev_c[rows]
            da_f *= dc_r
            da_g *= i
            da_g *= dc_r
            dc_r *= f
        np.matmul(da[t], WhT, out=dh_t)
    return da, dh_t, dc_t


def _row_blocks(N, H):
    size = max(1, BLOCK // (4 * H))
    return [slice(start, min(start + size, N)) for start in range(0, N, size)]
