"""The recurrence as numba compiles it, forwards, backwards and for one step: all steps in one call.

Arrays are time-major and contiguous; gates and da are (T, N, 4, H). Every kernel does one `part` of `parts` of the
work. Inside it, arrays are pointers with offsets (`products.py`).
"""

from functools import lru_cache

import numpy as np
from numba import boolean, from_dtype, int64, njit, types

from . import compiled
from .meeting import begin, wait
from .products import (
    DEPTH,
    FEW_ROWS,
    GATES,
    MANY_ROWS,
    MANY_VECTORS,
    OPTIONS,
    SHALLOW,
    add_gates,
    gradient_space,
    inlined,
    multiply,
    multiply_gates,
    multiply_rows,
    pack,
    product,
    product_space,
    share,
    weight_gradients,
    whole,
)
from .tiles import dots
from .vectors import BYTES, clamp, data, expm1, hold, lanes, load, ratio, short_of_line, store

# So many pre-activations a thread makes of x at a time: they stay in the second-level cache.
ROOM = 1 << 17

# A step sums over so many rows of its weights, then over the next ones; every other step in the opposite order, for
# what was read last is still in the cache.
DEEP = 64
# So many vectors of h are computed at once.
ABREAST = 4
# Beyond this, exp(-x) is lost beside 1, in float64 too.
BOUND = 40.0
# A pre-activation that saturates.
BIG = 1e30


@njit(inline="always")
def activations(z_i, z_f, z_o, z_g, one, bound):
    """Three logistic functions and a tanh, exactly 0, 1 and -1 when saturated.

    With e = exp(z) - 1, the logistic function is (e + 1) / (e + 2); with e = exp(2 z) - 1, tanh is e / (e + 2).
    """
    e_i, e_f, e_o, e_g = expm1(clamp((z_i, z_f, z_o, z_g + z_g), bound))
    two = one + one
    return ratio((e_i + one, e_f + one, e_o + one, e_g), (e_i + two, e_f + two, e_o + two, e_g + two))


@njit(inline="always")
def tanh(z, one, bound):
    (e,) = expm1(clamp((z + z,), bound))
    return ratio((e,), (e + (one + one),))[0]


@njit(inline="always")
def cell(a, z, gate, prev_c, prev, next_c, next, gates, x, H, keep, count, one, bound):
    """The equations of `cell.cell_forward` for `count` units, but for h: next c, and with `keep` the gates.

    In `a`, from which whole vectors are read, o takes the place of its pre-activation, for `outputs`.
    """
    i, f, o, g = activations(
        load(a, z, lanes(a)),
        load(a, z + gate, lanes(a)),
        load(a, z + 2 * gate, lanes(a)),
        load(a, z + 3 * gate, lanes(a)),
        one,
        bound,
    )
    c = f * load(prev_c, prev, count) + i * g
    if keep:
        store(gates, x, i, count)
        store(gates, x + H, f, count)
        store(gates, x + 2 * H, o, count)
        store(gates, x + 3 * H, g, count)
    store(next_c, next, c, count)
    store(a, z + 2 * gate, o, count)


@njit(inline="always")
def outputs(a, o, o_step, c, next, h, y, step, several, left, less, one, bound):
    """h = o tanh(c) for several vectors, ABREAST at most, at once: one alone would mostly wait for itself.

    Each next vector is `o_step` further in a, `step` in c and h, and begins with `less` fewer of `left` units.
    """
    k1, k2, k3 = min(1, several - 1), min(2, several - 1), min(3, several - 1)
    n0, n1, n2, n3 = left, left - k1 * less, left - k2 * less, left - k3 * less
    z0, z1, z2, z3 = (
        load(c, next, n0),
        load(c, next + k1 * step, n1),
        load(c, next + k2 * step, n2),
        load(c, next + k3 * step, n3),
    )
    e0, e1, e2, e3 = expm1(clamp((z0 + z0, z1 + z1, z2 + z2, z3 + z3), bound))
    two = one + one
    u0, u1, u2, u3 = ratio((e0, e1, e2, e3), (e0 + two, e1 + two, e2 + two, e3 + two))
    store(h, y, load(a, o, n0) * u0, n0)
    store(h, y + k1 * step, load(a, o + k1 * o_step, n1) * u1, n1)
    store(h, y + k2 * step, load(a, o + k2 * o_step, n2) * u2, n2)
    store(h, y + k3 * step, load(a, o + k3 * o_step, n3) * u3, n3)


@inlined
def gather(x, t_step, n_step, d_step, t0, steps, n0, n1, D, rows, y):
    """Some steps and rows of x (T, N, D), one after the other."""
    for t in range(t0, t0 + steps):
        for n in range(n0, n1):
            here = t * t_step + n * n_step
            if d_step == 1:
                for d in range(0, D, lanes(x)):
                    count = min(lanes(x), D - d)
                    store(rows, y + d, load(x, here + d, count), count)
            else:
                for d in range(D):
                    rows[y + d] = x[here + d * d_step]
            y += D


@inlined
def to_and_fro(place, first, last, unit, t):
    """The place to work at, backwards at every other step: what a step reads last, the next one finds in the cache."""
    return place if t % 2 == 0 else first + (last - 1 - first) // unit * unit - (place - first)


@inlined
def saturate(room, z, wide, big):
    """Pre-activations of one row that carry its cell state on: i = 0, f = 1, o = 0."""
    for lane in range(z, z + wide):
        room[lane], room[lane + wide], room[lane + 2 * wide], room[lane + 3 * wide] = -big, big, -big, 0


def forward(x, Wx, b, lengths, gates, h, c, Wh, keep, some, space, across, meeting, part, parts):
    """h (T + 1, N, H) and c (T + 1 or 1, N, H) from their first entries on; with `keep`, gates (T, N, 4, H).

    Pre-activations are made of x (T, N, D) when they are wanted, for `some` steps at a time, so that they are in the
    cache; with D = 0 they stand in `gates`. Behind its length, where there are lengths, a row carries its cell state.

    With `across`, threads divide the units and meet after every step; without, they divide the rows. `space` is as
    `forward_space` says.
    """
    begin(meeting, part)
    (T, N, D), H, size = x.shape, h.shape[2], h.itemsize
    wide = BYTES // size
    width, vectors = GATES * wide, whole(H, wide)  # of units
    one, bound, big = h.dtype.type(1), h.dtype.type(BOUND), h.dtype.type(BIG)
    pre, states, cells, room = data(gates), data(h), data(c), data(space)
    x_t, x_n, x_d = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
    x_k, x_j, h_k, h_j = Wx.strides[0] // size, Wx.strides[1] // size, Wh.strides[0] // size, Wh.strides[1] // size

    # With few rows, two vectors of units are multiplied at once: the sums of one would wait for each other.
    few = (N if across else whole(N, parts)) <= FEW_ROWS
    pair = 2 if few else 1
    v0, v1 = share(vectors, pair, part, parts)
    pack(data(Wh), 0, h_k, h_j, H, 4 * H, room, v0 * width * H, 4 * v0, 4 * v1, pair * GATES, H)
    Wx_at, again = vectors * width * H, some < T  # what is wanted again is rearranged once
    if again:
        pack(data(Wx), 0, x_k, x_j, D, 4 * H, room, Wx_at + v0 * width * D, 4 * v0, 4 * v1, GATES, H)
    n0, n1 = (0, N) if across else share(N, 1, part, parts)
    if not across:
        wait(meeting, parts)
        v0, v1 = 0, vectors
    rows, total = n1 - n0, (v1 - v0) * width
    if rows == 0:
        return

    # h is computed for some rows at a time, or where there are few, for some vectors of units, once they are there.
    by_rows = rows >= ABREAST
    at_once, group = (ABREAST, 1) if by_rows else (1, ABREAST)

    bias = Wx_at + (vectors * width * D if again else 0)
    bias += (space.size - bias) // parts // wide * wide * part
    made = bias + total
    first = Wx_at + v0 * width * D if again else made + some * rows * total
    entered = made + some * rows * total + (0 if again else min(D, SHALLOW) * total)
    block = D if again else SHALLOW
    pack(data(b), 0, 4 * H, 1, 1, 4 * H, room, bias, 4 * v0, 4 * v1, GATES, H)
    for t0 in range(0, T, some):
        steps = min(some, T - t0)
        if D:
            gather(data(x), x_t, x_n, x_d, t0, steps, n0, n1, D, room, entered)
        for k in range(0, D, block):
            depth = min(block, D - k)
            if not again:
                pack(data(Wx), k * x_k, x_k, x_j, depth, 4 * H, room, first, 4 * v0, 4 * v1, GATES, H)
            for v in range(v0, v1):
                begins = v0 + (v - v0) // group * group
                row = min(group, v1 - begins) * width
                z = made + (begins - v0) * steps * rows * width + (v - begins) * width
                base, z_row = (bias + (v - v0) * width, 0) if k == 0 else (z, row)
                here = first + (v - v0) * width * depth
                multiply_gates(room, entered + k, D, depth, room, first, here, total * depth,
                               room, base, z_row, room, z, row, steps * rows)  # fmt: skip
        for t in range(t0, t0 + steps):
            before, after = (t * N + n0) * H, ((t + 1) * N + n0) * H
            prev, next = (before, after) if c.shape[0] > 1 else (n0 * H, n0 * H)
            for turn in range(0, v1 - v0, group):
                begins = v0 + (to_and_fro(turn, 0, v1 - v0, group, t) if few else turn)
                ends = min(begins + group, v1)
                row = (ends - begins) * width
                top = made + (begins - v0) * steps * rows * width + (t - t0) * rows * row
                for place in range(begins, ends, pair):
                    v = to_and_fro(place, begins, ends, pair, t) if few else place
                    several = min(pair, ends - v)
                    z = top + (v - begins) * width
                    for r in range(rows):
                        for u in range(several if D == 0 or lengths.size else 0):
                            y, unit = z + r * row + u * width, (v + u) * wide
                            for gate in range(0 if D else 4):
                                a = ((t * N + n0 + r) * 4 + gate) * H + unit
                                store(room, y + gate * wide, load(pre, a, min(wide, H - unit)), wide)
                            if lengths.size and t >= lengths[n0 + r]:
                                saturate(room, y, wide, big)
                    if few:
                        add_gates(states, before, H, room, v * width * H, room, z, row, rows, several)
                    else:
                        multiply_gates(states, before, H, H, room, v0 * width * H, v * width * H, total * H,
                                       room, z, row, room, z, row, rows)  # fmt: skip
                    for r in range(rows):
                        for u in range(several):
                            y = r * H + (v + u) * wide
                            cell(room, z + r * row + u * width, wide, cells, prev + y, cells, next + y,
                                 pre, 4 * before + 3 * r * H + y, H, keep, min(wide, H - (v + u) * wide),
                                 one, bound)  # fmt: skip
                unit = begins * wide
                for r in range(0, rows, at_once):
                    y = r * H + unit
                    several = min(at_once, rows - r) if by_rows else ends - begins
                    outputs(room, top + r * row + 2 * wide, width, cells, next + y,
                            states, after + y, H if by_rows else wide, several, H - unit, 0 if by_rows else wide,
                            one, bound)  # fmt: skip
            if across:
                wait(meeting, parts * (t + 1))


@njit(inline="always")
def cell_gradient(gates, z, H, c, x, prev_c, prev, carry, y, dh, d, dc, da, a, count, one, bound):
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
    store(da, a, dc_j * g * (i * (one - i)), count)
    store(da, a + H, dc_j * load(prev_c, prev, count) * (f * (one - f)), count)
    store(da, a + 2 * H, dh_j * u * (o * (one - o)), count)
    store(da, a + 3 * H, dc_j * i * (one - g * g), count)
    store(dc, y, dc_j * f, count)


def backward(
    dh, carry, dc, gates, c, c0, WhT, da, x, h0, h, WxT, dx, dW, some, space, across, active, meeting, part, parts
):
    """The gradients of a sequence, from the last step to the first, and after so many steps those of x and the weights.

    `carry`, `dc` (N, H): the gradients of h and c behind the last step, then before the first. dx (T, N, D) and dW (D +
    H + 1, 4H), of Wx, Wh and b, are left out where they have no elements. da of some steps is given up for that of the
    steps before, while it is in the cache; with da (T, N, 4, H), it is kept, `some` are all steps, and that is all.

    dh (T, N, H) has contiguous rows, x, WhT (4H, H) and WxT (4H, D) any strides. Threads divide the recurrence as in
    `forward`, the first `active` of them; the products are divided among all. `space` is as `backward_space` says.

    Of one row, da @ WhT is dot products with the rows of Wh, which need not be rearranged, but begin at whole vectors.
    """
    begin(meeting, part)
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
            weight_gradients(data(x), x.strides[0] // size, x.strides[1] // size, x.strides[2] // size, data(h0),
                             data(h), da_, first, start, end - start, N, D, H, weights, zeros, end < T, data(dW),
                             weights, place, part, parts)  # fmt: skip
            if dx.size:
                product(da_, first, (end - start) * N, K, data(WxT), WxT.strides[0] // size, WxT.strides[1] // size, D,
                        weights, zeros, data(dx), start * N * D, weights, place, part, parts)  # fmt: skip
            met += parts
            wait(meeting, met)


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


@lru_cache
def forward_space(T, N, D, H, across, parts, itemsize):
    """How many steps to take at a time, and the size of `space`: packed Wh, and Wx if it is wanted again; then for each
    part its bias, the pre-activations of so many steps of its rows, else SHALLOW rows of Wx, and x there. All but x
    begins at whole vectors."""
    vectors, wide = -(-H * itemsize // BYTES), BYTES // itemsize
    rows, units = (N, -(-vectors // (2 * parts)) * 2) if across else (-(-N // parts), vectors)
    total, width = units * GATES * wide, GATES * wide
    some = max(1, min(T, ROOM // (rows * total)))
    packed, own = (H + D, 0) if some < T else (H, min(D, SHALLOW))
    each = whole.py_func(total * (1 + own) + some * rows * (total + D), wide) * wide
    return some, vectors * width * packed + parts * each


@lru_cache
def backward_space(T, N, D, H, kept, parts, itemsize):
    """How many steps to take at a time, about as many as a product does, and the size of `space`: WhT in whole vectors
    of columns, or of rows; zeros; da, if it is not `kept`; then what each part needs for products."""
    wide = BYTES // itemsize
    some = T if kept else max(1, min(T, DEPTH // N))
    h, k, x, a = (whole.py_func(v, wide) * wide for v in (H, 4 * H, max(4 * H, D), 0 if kept else some * N * 4 * H))
    each = 0 if kept else max(gradient_space.py_func(D, H, wide, parts), product_space.py_func(D, wide, parts)[1])
    return some, h * k + x + a + parts * whole.py_func(each, wide) * wide


def compile(dtype):
    """The kernels for one dtype, by name, from the cache on disk or compiled."""
    number = from_dtype(np.dtype(dtype))

    def given(ndim, layout="C"):
        return types.Array(number, ndim, layout, readonly=True)

    def own(ndim):
        return types.Array(number, ndim, "C")

    meeting = types.Array(int64, 1, "C")
    of_step = (*(given(ndim, "A") for ndim in (2, 3, 3, 2, 2, 1)), own(3), own(3))
    signatures = {
        forward: (
            given(3, "A"),
            given(2, "A"),
            given(1),
            types.Array(int64, 1, "C"),
            own(4),
            own(3),
            own(3),
            given(2, "A"),
            boolean,
            int64,
            own(1),
            boolean,
            meeting,
            int64,
            int64,
        ),
        step: (*of_step, meeting, int64, int64),
        stream: (types.Array(int64, 1, "C"), int64, *of_step, int64),
        backward: (
            given(3, "A"),
            own(2),
            own(2),
            given(4),
            given(3),
            given(2),
            given(2, "A"),
            own(4),
            given(3, "A"),
            given(2),
            given(3),
            given(2, "A"),
            own(3),
            own(2),
            int64,
            own(1),
            int64,
            boolean,
            meeting,
            int64,
            int64,
        ),
    }
    kernels = {
        f.__name__: compiled((boolean if f is stream else types.void)(*arguments), **OPTIONS)(f)
        for f, arguments in signatures.items()
    }
    return kernels | {f.__name__: f for f in (forward_space, backward_space)}
