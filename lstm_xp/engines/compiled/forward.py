"""The recurrence forwards, as numba compiles it: all steps in one call, pre-activations of x made on the way."""

from functools import lru_cache

from .cells import ABREAST, BOUND, cell, outputs
from .denormals import flush_denormals, restore
from .meeting import begin, wait
from .products import (
    FEW_ROWS,
    GATES,
    SHALLOW,
    add_gates,
    inlined,
    multiply_gates,
    pack,
    share,
    to_and_fro,
    whole,
)
from .vectors import BYTES, data, lanes, load, store

# So many pre-activations a thread makes of x at a time: they stay in the second-level cache.
ROOM = 1 << 17
# A pre-activation that saturates.
BIG = 1e30


@inlined
def still_there(lengths, n0, n1, t):
    """How many of the rows n0..n1 come before the last one that has step t: all, without lengths."""
    while n1 > n0 and lengths.size and lengths[n1 - 1] <= t:
        n1 -= 1
    return n1 - n0


@inlined
def gather(x, t_step, n_step, d_step, order, lengths, t0, steps, n0, n1, D, rows, y):
    """Some steps of x (T, N, D), and of each the rows that are still there, in their order; how many these are."""
    pairs = 0
    for t in range(t0, t0 + steps):
        there = still_there(lengths, n0, n1, t)
        pairs += there
        for n in range(n0, n0 + there if D else n0):
            here = t * t_step + (order[n] if order.size else n) * n_step
            if d_step == 1:
                for d in range(0, D, lanes(x)):
                    count = min(lanes(x), D - d)
                    store(rows, y + d, load(x, here + d, count), count)
            else:
                for d in range(D):
                    rows[y + d] = x[here + d * d_step]
            y += D
    return pairs


@inlined
def saturate(room, z, wide, big):
    """Pre-activations of one row that carry its cell state on: i = 0, f = 1, o = 0."""
    for lane in range(z, z + wide):
        room[lane], room[lane + wide], room[lane + 2 * wide], room[lane + 3 * wide] = -big, big, -big, 0


@inlined
def carry_on(h, to, c, prev, next, gates, a, H, keep, first, last, one):
    """A step of a row that has ended, for some units: h = 0, i = 0, f = 1, o = 0."""
    for j in range(first, last):
        h[to + j] = 0
        c[next + j] = c[prev + j]
        if keep:
            gates[a + j], gates[a + H + j], gates[a + 2 * H + j], gates[a + 3 * H + j] = 0, one, 0, 0


def prepare(W, few, packed):
    """A weight (K, 4H) as `forward` multiplies with it: vectors of units after each other, the gates of each together.

    With `few` rows, two vectors of units are multiplied at once: the sums of one would wait for each other.
    """
    (K, columns), size = W.shape, W.itemsize
    vectors = whole(columns // 4, BYTES // size)
    pack(data(W), 0, W.strides[0] // size, W.strides[1] // size, K, columns,
         data(packed), 0, 0, 4 * vectors, (2 if few else 1) * GATES, columns // 4)  # fmt: skip


def forward(
    x, order, Wx, b, lengths, gates, h0, h, c, Wh, keep, some, few, packed_h, packed_x, space, across,
    meeting, part, parts,
):  # fmt: skip
    """h (T, N, H), whose rows are contiguous, from h0, and c (T + 1 or 1, N, H) from its first entry on; with `keep`,
    gates (T, N, 4, H).

    Pre-activations are made of x (T, N, D) when they are wanted, for `some` steps at a time, so that they are in the
    cache; with D = 0 they stand in `gates`. Behind its length, where there are lengths, a row carries its cell state:
    rows behind the last one that has a step are left out of it, so those shall come first that last longest. Row n of
    all arrays but x is row order[n] of that, if `order` has any elements.

    With `across`, threads divide the units and meet after every step; without, they divide the rows. Weights are
    `packed_h` and `packed_x`, made by `prepare`, if these have any elements. `some`, `few` and `space` are as
    `forward_space` says.
    """
    begin(meeting, part)
    mode = flush_denormals()
    (T, N, D), H, size = x.shape, h.shape[2], h.itemsize
    wide = BYTES // size
    width, vectors = GATES * wide, whole(H, wide)  # of units
    one, bound, big = h.dtype.type(1), h.dtype.type(BOUND), h.dtype.type(BIG)
    pre, states, cells, room = data(gates), data(h), data(c), data(space)
    h_t, h_n = h.strides[0] // size, h.strides[1] // size
    x_t, x_n, x_d = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
    x_k, x_j, h_k, h_j = Wx.strides[0] // size, Wx.strides[1] // size, Wh.strides[0] // size, Wh.strides[1] // size

    pair, ready = 2 if few else 1, packed_h.size > 0
    weights, inputs = (data(packed_h), data(packed_x)) if ready else (room, room)
    v0, v1 = share(vectors, pair, part, parts)
    Wx_at, again = 0 if ready else vectors * width * H, some < T or ready  # what is wanted again is rearranged once
    if not ready:
        pack(data(Wh), 0, h_k, h_j, H, 4 * H, room, v0 * width * H, 4 * v0, 4 * v1, pair * GATES, H)
        if again:
            pack(data(Wx), 0, x_k, x_j, D, 4 * H, room, Wx_at + v0 * width * D, 4 * v0, 4 * v1, GATES, H)
    n0, n1 = (0, N) if across else share(N, 1, part, parts)
    if not across:
        if not ready:
            wait(meeting, parts)
        v0, v1 = 0, vectors
    rows, total = n1 - n0, (v1 - v0) * width
    if rows == 0:
        restore(mode)
        return

    # h is computed for some rows at a time, or where there are few, for some vectors of units, once they are there.
    by_rows = rows >= ABREAST and not few
    at_once, group = (ABREAST, 1) if by_rows else (1, ABREAST)

    bias = 0 if ready else Wx_at + (vectors * width * D if again else 0)
    bias += (space.size - bias) // parts // wide * wide * part
    made = bias + total
    first = Wx_at + v0 * width * D if again else made + some * rows * total
    entered = made + some * rows * total + (0 if again else min(D, SHALLOW) * total)
    block = max(D, 1) if again else SHALLOW
    pack(data(b), 0, 4 * H, 1, 1, 4 * H, room, bias, 4 * v0, 4 * v1, GATES, H)
    for t0 in range(0, T, some):
        steps = min(some, T - t0)
        pairs = gather(data(x), x_t, x_n, x_d, order, lengths, t0, steps, n0, n1, D, room, entered)
        for k in range(0, D, block):
            depth = min(block, D - k)
            if not again:
                pack(data(Wx), k * x_k, x_k, x_j, depth, 4 * H, room, first, 4 * v0, 4 * v1, GATES, H)
            for v in range(v0, v1 if pairs else v0):
                begins = v0 + (v - v0) // group * group
                row = min(group, v1 - begins) * width
                z = made + (begins - v0) * pairs * width + (v - begins) * width
                base, z_row = (bias + (v - v0) * width, 0) if k == 0 else (z, row)
                here = first + (v - v0) * width * depth
                multiply_gates(room, entered + k, D, depth, inputs, first, here, total * depth,
                               room, base, z_row, room, z, row, pairs)  # fmt: skip
        done = 0
        for t in range(t0, t0 + steps):
            there = still_there(lengths, n0, n1, t)
            above, entry, apart = (states, (t - 1) * h_t + n0 * h_n, h_n) if t > 0 else (data(h0), n0 * H, H)
            after, place_c = t * h_t + n0 * h_n, (t * N + n0) * H
            prev, next = (place_c, place_c + N * H) if c.shape[0] > 1 else (n0 * H, n0 * H)
            for turn in range(0, v1 - v0 if there else 0, group):
                begins = v0 + (to_and_fro(turn, 0, v1 - v0, group, t) if few else turn)
                ends = min(begins + group, v1)
                row = (ends - begins) * width
                top = made + (begins - v0) * pairs * width + done * row
                for place in range(begins, ends, pair):
                    v = to_and_fro(place, begins, ends, pair, t) if few else place
                    several = min(pair, ends - v)
                    z = top + (v - begins) * width
                    for r in range(there):
                        for u in range(several if D == 0 or lengths.size else 0):
                            y, unit = z + r * row + u * width, (v + u) * wide
                            for gate in range(0 if D else 4):
                                a = ((t * N + n0 + r) * 4 + gate) * H + unit
                                store(room, y + gate * wide, load(pre, a, min(wide, H - unit)), wide)
                            if lengths.size and t >= lengths[n0 + r]:
                                saturate(room, y, wide, big)
                    if few:
                        add_gates(above, entry, apart, H, weights, v * width * H, room, z, row, there, several)
                    else:
                        multiply_gates(above, entry, apart, H, weights, v0 * width * H, v * width * H, total * H,
                                       room, z, row, room, z, row, there)  # fmt: skip
                    for r in range(there):
                        for u in range(several):
                            y = r * H + (v + u) * wide
                            cell(room, z + r * row + u * width, wide, cells, prev + y, cells, next + y,
                                 pre, 4 * place_c + 3 * r * H + y, H, keep, min(wide, H - (v + u) * wide),
                                 one, bound)  # fmt: skip
                unit = begins * wide
                for r in range(0, there, at_once):
                    y, to = r * H + unit, after + r * h_n + unit
                    several = min(at_once, there - r) if by_rows else ends - begins
                    outputs(room, top + r * row + 2 * wide, width, cells, next + y, H if by_rows else wide,
                            states, to, h_n if by_rows else wide, several, H - unit, 0 if by_rows else wide,
                            one, bound)  # fmt: skip
            for r in range(there, rows):
                y = r * H
                carry_on(states, after + r * h_n, cells, prev + y, next + y, pre, 4 * (place_c + y), H, keep,
                         v0 * wide, min(v1 * wide, H), one)  # fmt: skip
            done += there
            if across:
                wait(meeting, parts * (t + 1))
    restore(mode)


@lru_cache
def forward_space(T, N, D, H, ready, across, parts, itemsize):
    """How many steps to take at a time, whether rows are few, and the size of `space`.

    That is packed Wh, and Wx if it is wanted again, but for weights that are ready; then for each part its bias, the
    pre-activations of so many steps of its rows, else SHALLOW rows of Wx, and x there. All but x begins at whole
    vectors.
    """
    vectors, wide = -(-H * itemsize // BYTES), BYTES // itemsize
    rows, units = (N, -(-vectors // (2 * parts)) * 2) if across else (-(-N // parts), vectors)
    total, width = units * GATES * wide, GATES * wide
    some = max(1, min(T, ROOM // (rows * total)))
    packed, own = (0, 0) if ready else (H + D, 0) if some < T else (H, min(D, SHALLOW))
    each = whole.py_func(total * (1 + own) + some * rows * (total + D), wide) * wide
    return some, rows <= FEW_ROWS, vectors * width * packed + parts * each


def prepared_size(K, H, itemsize):
    """How many numbers `prepare` makes of a weight (K, 4H)."""
    return -(-H * itemsize // BYTES) * BYTES // itemsize * GATES * K
