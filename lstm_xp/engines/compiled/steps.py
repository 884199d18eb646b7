"""One step of a stream, as numba compiles it."""

import numpy as np

from .cells import ABREAST, BOUND, cell, outputs
from .meeting import begin
from .products import FEW_ROWS, inlined, multiply_rows, share, to_and_fro, whole
from .vectors import BYTES, data, hold, load, short_of_line, store

# A step sums over so many rows of its weights, then over the next ones; every other step in the opposite order, for
# what was read last is still in the cache.
DEEP = 64


@inlined
def step_part(x, h, c, Wx, Wh, b, next_h, next_c, layer, turn, part, parts):
    """One step of a layer from weights as they are, whose columns fill whole vectors. Threads divide the units.

    h and c (layers, N, H) are read at `layer`, next_h and next_c likewise are written there; x (N, D) and h have any
    strides. With few rows, the products of some rows of the weights at a time are kept apart, and added up in the end:
    so they can be read to and fro, turn by turn, and no sum is changed.
    """
    (N, D), H, size = x.shape, h.shape[2], x.itemsize
    columns, wide = 4 * H, BYTES // size
    x_n, x_k, c_l, c_n = x.strides[0] // size, x.strides[1] // size, c.strides[0] // size, c.strides[1] // size
    h_l, h_n, h_k = h.strides[0] // size, h.strides[1] // size, h.strides[2] // size
    one, bound = x.dtype.type(1), x.dtype.type(BOUND)
    deep = DEEP if N <= FEW_ROWS else max(D, H)
    of_x, of_h, apart = whole(D, deep), whole(H, deep), N * columns
    room = np.empty((of_x + of_h) * apart + columns + 2 * wide, x.dtype)
    z = data(room)
    start = short_of_line(z)
    zeros = start + (of_x + of_h) * apart + wide
    for j in range(zeros, zeros + columns, wide):
        store(z, j, load(z, j, 0), wide)
    j0, j1 = share(H, wide, part, parts)
    for gate in range(1 if parts == 1 else 4):
        first, last = (0, columns) if parts == 1 else (gate * H + j0, gate * H + j1)
        for place in range(of_x + of_h):
            k = to_and_fro(place, 0, of_x + of_h, 1, turn)
            y = start + k * apart
            if k < of_x:
                k = k * deep
                multiply_rows(data(x), k * x_k, x_n, x_k, data(Wx), k * columns, min(deep, D - k),
                              zeros, z, y, N, columns, first, last)  # fmt: skip
            else:
                k = (k - of_x) * deep
                multiply_rows(data(h), layer * h_l + k * h_k, h_n, h_k, data(Wh), k * columns, min(deep, H - k),
                              zeros, z, y, N, columns, first, last)  # fmt: skip
        for n in range(N):
            for j in range(first, last, wide):
                y, total = start + n * columns + j, load(data(b), j, wide)
                for k in range(of_x + of_h):
                    total = total + load(z, y + k * apart, wide)
                store(z, y, total, wide)
    for n in range(N):
        a, prev, next = start + n * columns, layer * c_l + n * c_n, (layer * N + n) * H
        for j in range(j0, j1, wide):
            cell(z, a + j, H, data(c), prev + j, data(next_c), next + j, z, 0, 0, False, min(wide, j1 - j), one, bound)
        for j in range(j0, j1, ABREAST * wide):
            outputs(z, a + 2 * H + j, wide, data(next_c), next + j, data(next_h), next + j, wide,
                    min(ABREAST, whole(j1 - j, wide)), j1 - j, wide, one, bound)  # fmt: skip
    hold(room)


def step(x, h, c, Wx, Wh, b, next_h, next_c, meeting, part, parts):
    """`step_part` of a single layer, by several threads."""
    begin(meeting, part)
    step_part(x, h, c, Wx, Wh, b, next_h, next_c, 0, 0, part, parts)


def stream(turns, limit, x, h, c, Wx, Wh, b, next_h, next_c, layer):
    """`step_part` by one thread; False, and nothing done, if it takes more flop, or shapes or layouts do not suit.

    `turns` counts the steps; where several threads do so at once, nothing but the order of reading depends on it.
    """
    turns[0] += layer == 0
    (N, D), (layers, rows, H), size = x.shape, next_h.shape, x.itemsize
    columns = 4 * H
    # A few rows take as long as eight: the time is that of reading the weights.
    suits = (
        2 * max(N, 8) * columns * (D + H) < limit
        and columns % (BYTES // size) == 0
        and rows == N
        and layer < layers
        and h.shape == c.shape == next_h.shape == next_c.shape
        and Wx.shape == (D, columns)
        and Wh.shape == (H, columns)
        and b.shape == (columns,)
        and Wx.strides == Wh.strides == (columns * size, size)
        and c.strides[2] == b.strides[0] == size
    )
    if suits:
        step_part(x, h, c, Wx, Wh, b, next_h, next_c, layer, turns[0], 0, 1)
    return suits
