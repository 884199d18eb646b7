"""The loops that numba compiles: packing, products, the recurrence forwards and backwards.

A matrix that many rows are multiplied with is *packed* once: cut into panels of `panel` columns, each panel stored as
the tile reads it, k after k. Rows are independent of each other, and so are columns: every element is computed by the
same operations in the same order, however the work is divided. Results have the same bits for any number of threads.

Arrays are time-major and contiguous; gates and da are (T, N, 4, H). Every kernel does one `part` of `parts` of the
work.
"""

import numpy as np
from numba import boolean, from_dtype, int64, njit, types

from . import compiled
from .meeting import begin, wait
from .vectors import BYTES, ROWS, VECTORS, clamp, expm1, load, store, tile, transpose

# A product takes so many steps of k at a time, whose columns then stay in the second-level cache, and so many rows.
DEPTH, HEIGHT = 512, 240
# Between rearranged blocks of rows, lest all begin in the same set of the cache.
PAD = 16

# Rows of a matrix read at a time where it is not packed: as many streams of memory.
STREAMS = 16

# Beyond this, exp(-x) is lost beside 1, in float64 too.
BOUND = 40.0

# numba: 1/0 is inf, as in NumPy; products and sums may become one operation.
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}
inlined = njit(nogil=True, **OPTIONS)


@inlined
def logistic(z, one, bound):
    """1 / (1 + exp(-z)), exactly 0 and 1 when saturated."""
    e = expm1(clamp(z, bound))
    return (e + one) / (e + (one + one))


@inlined
def tanh(z, one, bound):
    """(exp(2z) - 1) / (exp(2z) + 1), exactly -1 and 1 when saturated."""
    e = expm1(clamp(z + z, bound))
    return e / (e + (one + one))


@inlined
def share(size, unit, part, parts):
    """The part of 0..size that is a thread's, in whole units."""
    units = (size + unit - 1) // unit
    return min(units * part // parts * unit, size), min(units * (part + 1) // parts * unit, size)


@inlined
def pack(B, packed, first, last):
    """Columns first..last of B (K, M), any strides, into panels; `first` begins one. Missing columns become zeros."""
    K = B.shape[0]
    lanes = BYTES // B.itemsize
    panel = VECTORS * lanes
    k_step, j_step = B.strides[0] // B.itemsize, B.strides[1] // B.itemsize
    deep = lanes if k_step == 1 and j_step != 1 else 1  # so many steps of k at a time
    for k0 in range(0, K, deep):
        for start in range(first, last, panel):
            columns = min(panel, last - start)
            width = (columns + lanes - 1) // lanes * lanes
            place = (start - first) * K + k0 * width
            for j in range(0, width, lanes):
                count = min(lanes, columns - j)
                if j_step == 1:
                    store(packed, place + j, load(B, k0 * k_step + start + j, count), lanes)
                elif deep == lanes and count == lanes and k0 + lanes <= K:
                    transpose(B, (start + j) * j_step + k0, j_step, packed, place + j, width)
                else:
                    for k in range(min(deep, K - k0)):
                        for column in range(lanes):
                            value = B[k0 + k, start + j + column] if column < count else 0
                            packed[place + k * width + j + column] = value


@inlined
def pack_rows(A, packed, top, rows, k0, depth):
    """Rows top.. and steps k0.. of A (M, K), any strides, in blocks of ROWS rows, k after k; the size of a block."""
    block = ROWS * depth + PAD
    step = A.strides[1] // A.itemsize
    lanes = BYTES // A.itemsize
    for k in range(depth):
        for start in range(0, rows, ROWS):
            place, count = start // ROWS * block + k * ROWS, min(ROWS, rows - start)
            if A.strides[0] == A.itemsize:
                for r in range(0, count, lanes):
                    row = load(A, (k0 + k) * step + top + start + r, count - r)
                    store(packed, place + r, row, count - r)
            else:
                for r in range(count):
                    packed[place + r] = A[top + start + r, k0 + k]
    return block


@inlined
def multiply(A, a, a_block, a_row, a_k, packed, K, base, z, z_row, out, y, y_row, rows, columns):
    """out = base + A @ B for so many rows and columns; B as `pack` left it, all else as in `tile`.

    A panel is used by all rows, DEPTH steps of k at a time, while what follows it is fetched into the cache.
    """
    lanes = BYTES // A.itemsize
    panel = VECTORS * lanes
    blocks = (rows + ROWS - 1) // ROWS
    total = (columns + lanes - 1) // lanes * lanes * K
    for j in range(0, columns, panel):
        width = min(panel, columns - j)
        stored = (width + lanes - 1) // lanes * lanes
        ahead_k = min(lanes, stored // blocks + 1)
        for k in range(0, K, DEPTH):
            depth = min(DEPTH, K - k)
            here = j * K + k * stored
            following = (here + depth * stored) % total
            for block in range(blocks):
                n = block * ROWS
                left, count = a + block * a_block + k * a_k, min(ROWS, rows - n)
                ahead = following + block * ahead_k * depth
                after = y + n * y_row + j
                if k == 0:
                    tile(A, left, a_row, a_k, packed, here, stored, depth, ahead, ahead_k,
                         base, z + n * z_row + j, z_row, out, after, y_row, count, width)  # fmt: skip
                else:
                    tile(A, left, a_row, a_k, packed, here, stored, depth, ahead, ahead_k,
                         out, after, y_row, out, after, y_row, count, width)  # fmt: skip


def product(A, B, bias, out, meeting, part, parts):
    """out (M, N) = A (M, K) @ B (K, N) + bias (N), A and B with any strides."""
    begin(meeting, part)
    M, K = A.shape
    N = B.shape[1]
    lanes = BYTES // A.itemsize
    panel = VECTORS * lanes
    across = min(parts, max(1, N // (2 * panel)))
    while parts % across:
        across -= 1
    first, last = share(N, panel, part % across, across)
    top, bottom = share(M, 1, part // across, parts // across)
    if first == last or top == bottom:
        return
    flat = out.reshape(out.size)
    a_row, a_k = A.strides[0] // A.itemsize, A.strides[1] // A.itemsize
    height = min(HEIGHT, bottom - top)
    depth = min(DEPTH, K)
    packed = np.empty(depth * ((last - first + lanes - 1) // lanes * lanes), A.dtype)
    rearranged = np.empty(0 if a_k == 1 else (height + ROWS) // ROWS * (ROWS * depth + PAD), A.dtype)
    for k in range(0, K, DEPTH):
        depth = min(DEPTH, K - k)
        pack(B[k : k + depth], packed, first, last)
        for row in range(top, bottom, HEIGHT):
            rows, y = min(HEIGHT, bottom - row), row * N + first
            base, z, z_row = (bias, first, 0) if k == 0 else (flat, y, N)
            if a_k == 1:
                multiply(A, row * a_row + k, ROWS * a_row, a_row, 1, packed, depth,
                         base, z, z_row, flat, y, N, rows, last - first)  # fmt: skip
            else:
                block = pack_rows(A, rearranged, row, rows, k, depth)
                multiply(rearranged, 0, block, 1, ROWS, packed, depth,
                         base, z, z_row, flat, y, N, rows, last - first)  # fmt: skip


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


def forward(gates, h, c, Wh, packed, meeting, across, part, parts):
    """Gates over the pre-activations; h (T + 1, N, H) and c (T + 1 or 1, N, H) from their first entries on.

    With `across`, threads divide the units and meet after every step; without, they divide the rows.
    """
    begin(meeting, part)
    T, N, _, H = gates.shape
    lanes = BYTES // gates.itemsize
    panel = VECTORS * lanes
    one, bound = gates.dtype.type(1), gates.dtype.type(BOUND)
    flat = gates.reshape(gates.size)
    cells = c.reshape(c.size)
    kept = 0 if c.shape[0] == 1 else 1
    first, last = share(4 * H, panel, part, parts)
    pack(Wh, packed[first * H :], first, last)
    wait(meeting, parts)
    n0, n1 = (0, N) if across else share(N, 1, part, parts)
    j0, j1 = share(H, panel, part, parts) if across else (0, H)
    for t in range(T):
        for gate in range(4 if across else 1):
            start = gate * H + j0 if across else 0
            columns = j1 - j0 if across else 4 * H
            z = (t * N + n0) * 4 * H + start
            multiply(h, (t * N + n0) * H, ROWS * H, H, 1, packed[start * H :], H,
                     flat, z, 4 * H, flat, z, 4 * H, n1 - n0, columns)  # fmt: skip
        for n in range(n0, n1):
            z, prev, new = (t * N + n) * 4 * H, (kept * t * N + n) * H, (kept * (t + 1) * N + n) * H
            for j in range(j0, j1 - lanes + 1, lanes):
                cell(flat, z + j, H, cells, prev + j, cells, new + j, h, (t * N + N + n) * H + j, lanes, one, bound)
            j = j1 - (j1 - j0) % lanes
            if j < j1:
                cell(flat, z + j, H, cells, prev + j, cells, new + j, h, (t * N + N + n) * H + j, j1 - j, one, bound)
        if across:
            wait(meeting, parts * (t + 2))


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


def backward(dh, carry, dc, gates, c, c0, WhT, packed, da, meeting, across, part, parts):
    """da of all steps; `carry`, `dc` (N, H): the gradients of h and c behind the last step, then before the first.

    dh (T, N, H) has contiguous rows, WhT (4H, H) any strides. Threads divide the work as in `forward`.
    """
    begin(meeting, part)
    T, N, _, H = gates.shape
    lanes = BYTES // gates.itemsize
    panel = VECTORS * lanes
    zeros = np.zeros(H, da.dtype)
    one, bound = da.dtype.type(1), da.dtype.type(BOUND)
    flat = carry.reshape(carry.size)
    dh_t, dh_n = dh.strides[0] // dh.itemsize, dh.strides[1] // dh.itemsize
    first, last = share(H, panel, part, parts)
    pack(WhT, packed[first * 4 * H :], first, last)
    wait(meeting, parts)
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
            wait(meeting, parts * (T - t + 1))
        multiply(da, (t * N + n0) * 4 * H, ROWS * 4 * H, 4 * H, 1, packed[j0 * 4 * H :], 4 * H,
                 zeros, j0, 0, flat, n0 * H + j0, H, n1 - n0, j1 - j0)  # fmt: skip


@inlined
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
                    tile(A, n * K, K, 1, B, j, columns, depth, j, 0, base, n * z_row + j, z_row,
                         out, y, columns, min(ROWS, N - n), width)  # fmt: skip
                else:
                    tile(A, n * K + k, K, 1, B, k * columns + j, columns, depth, j, 0, out, y, columns,
                         out, y, columns, min(ROWS, N - n), width)  # fmt: skip


def step(x, h, c, Wx, Wh, b, next_h, next_c, meeting, part, parts):
    """One step from weights as they are, whose columns fill whole vectors. Threads divide the units."""
    begin(meeting, part)
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

    meeting = types.Array(int64, 1, "C")
    signatures = {
        product: (given(2, "A"), given(2, "A"), given(1), own(2), meeting, int64, int64),
        forward: (own(4), own(3), own(3), given(2, "A"), own(1), meeting, boolean, int64, int64),
        step: (*[given(2)] * 5, given(1), own(2), own(2), meeting, int64, int64),
        backward: (
            given(3, "A"),
            own(2),
            own(2),
            given(4),
            given(3),
            given(2),
            given(2, "A"),
            own(1),
            own(4),
            meeting,
            boolean,
            int64,
            int64,
        ),
    }
    return {f.__name__: compiled(types.void(*arguments), **OPTIONS)(f) for f, arguments in signatures.items()}
