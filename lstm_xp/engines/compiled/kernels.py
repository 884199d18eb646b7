"""The loops that numba compiles: packing, products, the recurrence forwards and backwards.

A matrix that many rows are multiplied with is *packed* once: cut into panels of `panel` columns, each panel stored as
the tile reads it, k after k. Rows are independent of each other, and so are columns: every element is computed by the
same operations in the same order, however the work is divided. Results have the same bits for any number of threads.

Arrays are time-major and contiguous; gates and da are (T, N, 4, H). Every kernel does one `part` of `parts` of the
work.
"""

import numpy as np
from numba import boolean, from_dtype, int64, njit, types

from .meeting import wait
from .vectors import BYTES, ROWS, VECTORS, clamp, expm1, load, store, tile

# A product takes so many steps of k at a time, whose columns then stay in the second-level cache, and so many rows.
DEPTH, HEIGHT = 512, 240

# Rows of a matrix read at a time where it is not packed: as many streams of memory.
STREAMS = 16

# Beyond this, exp(-x) is lost beside 1, in float64 too.
BOUND = 40.0

# numba: other threads of Python run meanwhile; 1/0 is inf, as in NumPy; products and sums may become one operation.
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
compiled = njit(**OPTIONS)


@compiled
def logistic(z, one, bound):
    """1 / (1 + exp(-z)), exactly 0 and 1 when saturated."""
    e = expm1(clamp(z, bound))
    return (e + one) / (e + (one + one))


@compiled
def tanh(z, one, bound):
    """(exp(2z) - 1) / (exp(2z) + 1), exactly -1 and 1 when saturated."""
    e = expm1(clamp(z + z, bound))
    return e / (e + (one + one))


@compiled
def share(size, unit, part, parts):
    """The part of 0..size that is a thread's, in whole units."""
    units = (size + unit - 1) // unit
    return min(units * part // parts * unit, size), min(units * (part + 1) // parts * unit, size)


@compiled
def pack(B, packed, first, last):
    """Columns first..last of B (K, M), any strides, into panels; `first` begins one. Missing columns become zeros."""
    K = B.shape[0]
    lanes = BYTES // B.itemsize
    panel = VECTORS * lanes
    step = B.strides[0] // B.itemsize
    for start in range(first, last, panel):
        columns = min(panel, last - start)
        width = (columns + lanes - 1) // lanes * lanes
        offset = (start - first) * K
        if B.strides[1] == B.itemsize:
            for k in range(K):
                for j in range(0, width, lanes):
                    row = load(B, k * step + start + j, min(lanes, columns - j))
                    store(packed, offset + k * width + j, row, lanes)
        else:
            for k0 in range(0, K, 16):  # a line of memory in each column
                for k in range(k0, min(k0 + 16, K)):
                    for j in range(columns):
                        packed[offset + k * width + j] = B[k, start + j]
                    for j in range(columns, width):
                        packed[offset + k * width + j] = 0


@compiled
def multiply(A, a, a_row, a_k, packed, K, base, z, z_row, out, y, y_row, rows, columns):
    """out = base + A @ B for so many rows and columns; B as `pack` left it, all else as in `tile`."""
    lanes = BYTES // A.itemsize
    panel = VECTORS * lanes
    for j in range(0, columns, panel):
        width = min(panel, columns - j)
        stored = (width + lanes - 1) // lanes * lanes
        for n in range(0, rows, ROWS):
            tile(A, a + n * a_row, a_row, a_k, packed, j * K, stored, K,
                 base, z + n * z_row + j, z_row, out, y + n * y_row + j, y_row, min(ROWS, rows - n), width)  # fmt: skip


def product(A, B, bias, out, part, parts):
    """out (M, N) = A (M, K) @ B (K, N) + bias (N), A and B with any strides."""
    M, K = A.shape
    N = B.shape[1]
    lanes = BYTES // A.itemsize
    panel = VECTORS * lanes
    across = min(parts, max(1, N // (2 * panel)))
    while parts % across:
        across -= 1
    first, last = share(N, panel, part % across, across)
    top, bottom = share(M, 1, part // across, parts // across)
    columns, rows = last - first, bottom - top
    if columns == 0 or rows == 0:
        return
    flat = out.reshape(out.size)
    a_row, a_k = A.strides[0] // A.itemsize, A.strides[1] // A.itemsize
    # A whose columns are contiguous is rearranged, and all of it multiplied by one panel after another; rows are taken
    # a few hundred at a time, and the panels packed for the first of them are kept for the others.
    by_columns = a_k != 1
    padded = (columns + lanes - 1) // lanes * lanes
    packed = np.empty(min(DEPTH, K) * panel if by_columns else K * padded, A.dtype)
    rearranged = np.empty(rows * min(DEPTH, K) if by_columns else 0, A.dtype)
    height = rows if by_columns else HEIGHT
    for row in range(top, bottom, height):
        count = min(height, bottom - row)
        for k in range(0, K, DEPTH):
            depth = min(DEPTH, K - k)
            if by_columns:
                for q in range(depth):
                    for r in range(rows):
                        rearranged[q * rows + r] = A[row + r, k + q]
            for j in range(first, last, panel):
                width = min(panel, last - j)
                slot = packed if by_columns else packed[k * padded + (j - first) * depth :]
                if by_columns or row == top:
                    pack(B[k : k + depth], slot, j, j + width)
                base, z, z_row = (bias, j, 0) if k == 0 else (flat, row * N + j, N)
                if by_columns:
                    multiply(rearranged, 0, 1, rows, slot, depth,
                             base, z, z_row, flat, row * N + j, N, count, width)  # fmt: skip
                else:
                    multiply(A, row * a_row + k, a_row, 1, slot, depth,
                             base, z, z_row, flat, row * N + j, N, count, width)  # fmt: skip


@njit(inline="always")
def cell(gates, z, H, prev_c, prev, next_c, next, h, y, count, one, bound):
    """The equations of `cell.cell_forward` for `count` units: gates over the pre-activations, next c and h."""
    i = logistic(load(gates, z, count), one, bound)
    f = logistic(load(gates, z + H, count), one, bound)
    o = logistic(load(gates, z + 2 * H, count), one, bound)
    g = tanh(load(gates, z + 3 * H, count), one, bound)
    c = f * load(prev_c, prev, count) + i * g
    store(gates, z, i, count)
    store(gates, z + H, f, count)
    store(gates, z + 2 * H, o, count)
    store(gates, z + 3 * H, g, count)
    store(next_c, next, c, count)
    store(h, y, o * tanh(c, one, bound), count)


def forward(gates, h, c, Wh, packed, counter, across, part, parts):
    """Gates over the pre-activations; h (T + 1, N, H) and c (T + 1 or 1, N, H) from their first entries on.

    With `across`, threads divide the units and meet after every step; without, they divide the rows.
    """
    T, N, _, H = gates.shape
    lanes = BYTES // gates.itemsize
    panel = VECTORS * lanes
    one, bound = gates.dtype.type(1), gates.dtype.type(BOUND)
    flat = gates.reshape(gates.size)
    cells = c.reshape(c.size)
    kept = 0 if c.shape[0] == 1 else 1
    first, last = share(4 * H, panel, part, parts)
    pack(Wh, packed[first * H :], first, last)
    wait(counter, parts)
    n0, n1 = (0, N) if across else share(N, 1, part, parts)
    j0, j1 = share(H, panel, part, parts) if across else (0, H)
    for t in range(T):
        for gate in range(4 if across else 1):
            start = gate * H + j0 if across else 0
            columns = j1 - j0 if across else 4 * H
            z = (t * N + n0) * 4 * H + start
            multiply(h, (t * N + n0) * H, H, 1, packed[start * H :], H,
                     flat, z, 4 * H, flat, z, 4 * H, n1 - n0, columns)  # fmt: skip
        for n in range(n0, n1):
            z, prev, new = (t * N + n) * 4 * H, (kept * t * N + n) * H, (kept * (t + 1) * N + n) * H
            for j in range(j0, j1 - lanes + 1, lanes):
                cell(flat, z + j, H, cells, prev + j, cells, new + j, h, (t * N + N + n) * H + j, lanes, one, bound)
            j = j1 - (j1 - j0) % lanes
            if j < j1:
                cell(flat, z + j, H, cells, prev + j, cells, new + j, h, (t * N + N + n) * H + j, j1 - j, one, bound)
        if across:
            wait(counter, parts * (t + 2))


@njit(inline="always")
def cell_gradient(gates, z, H, c, x, prev_c, y, dh, d, carry, dc, da, count, one, bound):
    """The equations of `cell.cell_backward` for `count` units: da, and dc of the step before."""
    i, f, o, g = (
        load(gates, z, count),
        load(gates, z + H, count),
        load(gates, z + 2 * H, count),
        load(gates, z + 3 * H, count),
    )
    u = tanh(load(c, x, count), one, bound)
    dh_j = load(carry, y, count) + load(dh, d, count)
    dc_j = load(dc, y, count) + dh_j * o * (one - u * u)
    store(da, z, dc_j * g * (i * (one - i)), count)
    store(da, z + H, dc_j * load(prev_c, y, count) * (f * (one - f)), count)
    store(da, z + 2 * H, dh_j * u * (o * (one - o)), count)
    store(da, z + 3 * H, dc_j * i * (one - g * g), count)
    store(dc, y, dc_j * f, count)


def backward(dh, carry, dc, gates, c, c0, WhT, packed, da, counter, across, part, parts):
    """da of all steps; `carry`, `dc` (N, H): the gradients of h and c behind the last step, then before the first.

    dh (T, N, H) has contiguous rows, WhT (4H, H) any strides. Threads divide the work as in `forward`.
    """
    T, N, _, H = gates.shape
    lanes = BYTES // gates.itemsize
    panel = VECTORS * lanes
    zeros = np.zeros(H, da.dtype)
    one, bound = da.dtype.type(1), da.dtype.type(BOUND)
    flat = carry.reshape(carry.size)
    dh_t, dh_n = dh.strides[0] // dh.itemsize, dh.strides[1] // dh.itemsize
    first, last = share(H, panel, part, parts)
    pack(WhT, packed[first * 4 * H :], first, last)
    wait(counter, parts)
    n0, n1 = (0, N) if across else share(N, 1, part, parts)
    j0, j1 = (first, last) if across else (0, H)
    for t in range(T - 1, -1, -1):
        prev_c = c[t - 1] if t > 0 else c0
        for n in range(n0, n1):
            x, y, d = (t * N + n) * H, n * H, t * dh_t + n * dh_n
            z = 4 * x
            for j in range(j0, j1 - lanes + 1, lanes):
                cell_gradient(gates, z + j, H, c, x + j, prev_c, y + j, dh, d + j, carry, dc, da, lanes, one, bound)
            j = j1 - (j1 - j0) % lanes
            if j < j1:
                cell_gradient(gates, z + j, H, c, x + j, prev_c, y + j, dh, d + j, carry, dc, da, j1 - j, one, bound)
        if across:
            wait(counter, parts * (T - t + 1))
        multiply(da, (t * N + n0) * 4 * H, 4 * H, 1, packed[j0 * 4 * H :], 4 * H,
                 zeros, j0, 0, flat, n0 * H + j0, H, n1 - n0, j1 - j0)  # fmt: skip


@compiled
def multiply_rows(A, K, B, base, z_row, out, N, columns, first, last):
    """out = base + A @ B in columns first..last, with B read once, a few rows at a time, as they lie in memory."""
    panel = VECTORS * (BYTES // A.itemsize)
    for k in range(0, K, STREAMS):
        depth = min(STREAMS, K - k)
        for j in range(first, last, panel):
            width = min(panel, last - j)
            for n in range(0, N, ROWS):
                y = n * columns + j
                if k == 0:
                    tile(A, n * K, K, 1, B, j, columns, depth, base, n * z_row + j, z_row,
                         out, y, columns, min(ROWS, N - n), width)  # fmt: skip
                else:
                    tile(A, n * K + k, K, 1, B, k * columns + j, columns, depth, out, y, columns,
                         out, y, columns, min(ROWS, N - n), width)  # fmt: skip


def step(x, h, c, Wx, Wh, b, next_h, next_c, part, parts):
    """One step from weights as they are, whose columns fill whole vectors. Threads divide the units."""
    N, D = x.shape
    H = h.shape[1]
    lanes = BYTES // x.itemsize
    one, bound = x.dtype.type(1), x.dtype.type(BOUND)
    z = np.empty(N * 4 * H, x.dtype)
    before, after, out = c.reshape(c.size), next_c.reshape(c.size), next_h.reshape(h.size)
    j0, j1 = share(H, VECTORS * lanes, part, parts)
    for gate in range(1 if parts == 1 else 4):
        first, last = (0, 4 * H) if parts == 1 else (gate * H + j0, gate * H + j1)
        multiply_rows(x, D, Wx, b, 0, z, N, 4 * H, first, last)
        multiply_rows(h, H, Wh, z, 4 * H, z, N, 4 * H, first, last)
    for n in range(N):
        for j in range(j0, j1 - lanes + 1, lanes):
            y = n * H + j
            cell(z, n * 4 * H + j, H, before, y, after, y, out, y, lanes, one, bound)
        j = j1 - (j1 - j0) % lanes
        if j < j1:
            y = n * H + j
            cell(z, n * 4 * H + j, H, before, y, after, y, out, y, j1 - j, one, bound)


def compile(dtype):
    """The kernels for one dtype, by name, from the cache on disk or compiled."""
    number = from_dtype(np.dtype(dtype))

    def given(ndim, layout="C"):
        return types.Array(number, ndim, layout, readonly=True)

    def own(ndim):
        return types.Array(number, ndim, "C")

    counter = types.Array(int64, 1, "C")
    share = (counter, boolean, int64, int64)
    signatures = {
        product: (given(2, "A"), given(2, "A"), given(1), own(2), int64, int64),
        forward: (own(4), own(3), own(3), given(2, "A"), own(1), *share),
        step: (*[given(2)] * 5, given(1), own(2), own(2), int64, int64),
        backward: (given(3, "A"), own(2), own(2), given(4), given(3), given(2), given(2, "A"), own(1), own(4), *share),
    }
    return {f.__name__: _cached(types.void(*arguments), f) for f, arguments in signatures.items()}


def _cached(signature, function):
    """Compiled, and kept on disk where there is a folder that numba may write to."""
    try:
        return njit(signature, cache=True, **OPTIONS)(function)
    except RuntimeError:
        return njit(signature, **OPTIONS)(function)
