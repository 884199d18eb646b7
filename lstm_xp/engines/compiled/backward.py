"""The gradients, as numba compiles them: all steps in one call, from the last to the first, and their products."""

from functools import lru_cache

from .cells import BOUND, cell_gradient
from .denormals import flush_denormals, restore
from .meeting import begin, wait
from .products import (
    DEPTH,
    MANY_ROWS,
    MANY_VECTORS,
    gradient_space,
    multiply,
    pack,
    product,
    product_space,
    share,
    to_and_fro,
    weight_gradients,
    whole,
)
from .tiles import dots
from .vectors import BYTES, data


def backward(
    dh, carry, dc, gates, c, c0, WhT, da, x, h0, h, WxT, dx, dW, some, space, active, across, meeting, part, parts
):
    """The gradients of a sequence, from the last step to the first, and after so many steps those of x and the weights.

    `carry`, `dc` (N, H): the gradients of h and c behind the last step, then before the first. dx (T, N, D) and dW (D +
    H + 1, 4H), of Wx, Wh and b, are left out where they have no elements. da of some steps is given up for that of the
    steps before, while it is in the cache; with da (T, N, 4, H), it is kept, `some` are all steps, and that is all.

    dh and h (T, N, H) have contiguous rows, x, WhT (4H, H) and WxT (4H, D) any strides. Threads divide the recurrence
    as in `forward`, rows among the first `active` of them; the products are divided among all. `space` is as
    `backward_space` says.

    Of one row, da @ WhT is dot products with the rows of Wh, which need not be rearranged, but begin at whole vectors.
    """
    begin(meeting, part)
    mode = flush_denormals()
    (T, N, _, H), D, size = gates.shape, x.shape[2], gates.itemsize
    wide, K, kept = BYTES // size, 4 * H, da.size > 0
    one, bound = gates.dtype.type(1), gates.dtype.type(BOUND)
    above, dh_t, dh_n = data(dh), dh.strides[0] // size, dh.strides[1] // size
    dh_, dc_, weights = data(carry), data(dc), data(space)
    zeros = whole(H, wide) * wide * whole(K, wide) * wide
    below = zeros + whole(max(K, D), wide) * wide
    place = below + (0 if kept else whole(some * N * K, wide) * wide)
    place += (space.size - place) // parts // wide * wide * part
    da_, first = (data(da), 0) if kept else (weights, below)
    WhT_k, WhT_j = WhT.strides[0] // size, WhT.strides[1] // size

    n0, n1 = (0, N) if across else share(N, 1, part, min(active, parts))
    j0, j1 = share(H, wide if across else MANY_VECTORS * wide, part, parts)
    row = whole(K, wide) * wide
    if N == 1:
        for j in range(j0, j1):
            pack(data(WhT), j * WhT_j, 0, WhT_k, 1, K, weights, j * row, 0, row // wide, row // wide, 0)
    else:
        pack(data(WhT), 0, WhT_k, WhT_j, K, H, weights, j0 * K, j0 // wide, whole(j1, wide), MANY_VECTORS, 0)
    for j in range(zeros + part, below, parts):
        weights[j] = 0
    met = parts
    wait(meeting, met)
    if not across:
        j0, j1 = 0, H
    for end in range(T, 0, -some):
        start = max(0, end - some)
        for t in range(end - 1, start - 1, -1):
            prev_c, before = (data(c), (t - 1) * N * H) if t > 0 else (data(c0), 0)
            a = first + (t - start) * N * K
            for n in range(n0, n1):
                for j in range(j0, j1, wide):
                    x_c, y = (t * N + n) * H + j, n * H + j
                    cell_gradient(data(gates), 4 * x_c - 3 * j, H, data(c), x_c, prev_c, before + y, dh_, y,
                                  above, t * dh_t + n * dh_n + j, dc_, da_, a + n * K + j,
                                  min(wide, j1 - j), one, bound)  # fmt: skip
            if across:
                met += parts
                wait(meeting, met)
            if N > 1:
                multiply(da_, a + n0 * K, MANY_ROWS * K, K, 1, weights, j0 * K, K,
                         weights, zeros + j0, 0, dh_, n0 * H + j0, H, n1 - n0, j1 - j0)  # fmt: skip
            for turn in range(j0, j1 if N == 1 and n0 < n1 else j0, wide):
                j = to_and_fro(turn, j0, j1, wide, t)
                dots(da_, a, weights, j * row, row, K, dh_, j, min(wide, j1 - j))
        if dW.size:
            met += parts
            wait(meeting, met)
            weight_gradients(data(x), x.strides[0] // size, x.strides[1] // size, x.strides[2] // size,
                             data(h0), data(h), h.strides[0] // size, h.strides[1] // size,
                             da_, first, start, end - start, N, D, H, weights, zeros, end < T, data(dW),
                             weights, place, part, parts)  # fmt: skip
            if dx.size:
                product(da_, first, K, 1, (end - start) * N, K,
                        data(WxT), WxT.strides[0] // size, WxT.strides[1] // size, D,
                        weights, zeros, data(dx), start * N * D, weights, place, part, parts)  # fmt: skip
            met += parts
            wait(meeting, met)
    restore(mode)


@lru_cache
def backward_space(T, N, D, H, kept, parts, itemsize):
    """How many steps to take at a time, about as many as a product does, and the size of `space`: WhT in whole vectors
    of columns, or of rows; zeros; da, if it is not `kept`; then what each part needs for products."""
    wide = BYTES // itemsize
    some = T if kept else max(1, min(T, DEPTH // N))
    h, k, x, a = (whole.py_func(v, wide) * wide for v in (H, 4 * H, max(4 * H, D), 0 if kept else some * N * 4 * H))
    each = 0 if kept else max(gradient_space.py_func(D, H, wide, parts), product_space.py_func(D, wide, parts)[1])
    return some, h * k + x + a + parts * whole.py_func(each, wide) * wide
