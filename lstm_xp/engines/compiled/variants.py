"""The cell variants of `variant_cells.py`, as numba compiles them: all steps in one call, forwards and backwards.

Threads divide the rows, and meet once, when the weights are packed. Parameters and masks that a cell does not have come
without elements. `kinds` are the places of F, G and H in `activations.NAMES`; `numbers` their alphas and betas, the
bound of clipping (inf for none), the rates of zoneout, which count where no mask was drawn, and the epsilon of
normalisation.

Behind its length, where there are lengths, a row has its states held; whatever else is kept of it there is 0.
"""

from functools import lru_cache

from .activations import activate, slope
from .cells import BOUND
from .denormals import flush_denormals, restore
from .forward import still_there
from .meeting import begin, wait
from .norms import normalise, through_norm
from .products import MANY_ROWS, MANY_VECTORS, inlined, multiply, pack, product, product_space, share, whole
from .vectors import BYTES, all_lanes, clamp, data, lanes, load, store, where_less

# Places in `numbers`, behind alpha and beta of F, G and H.
CLIP, RATE_H, RATE_C, EPSILON = 6, 7, 8, 9


@inlined
def fill(out, to, size, number):
    for j in range(to, to + size):
        out[j] = number


@inlined
def carry(v, start, out, to, size):
    """Copy so many numbers."""
    wide = lanes(v)
    for j in range(0, size, wide):
        left = min(wide, size - j)
        store(out, to + j, load(v, start + j, left), left)


@inlined
def kept_of(mask, place, drawn, rate, j, count):
    """The share of the old state that zoneout keeps, of so many units: a mask, where it was drawn, or a rate."""
    return load(mask, place + j, count) if drawn else all_lanes(mask, rate)


@inlined
def unless_clipped(z, s, clip, like):
    """A slope; 0 where the pre-activation was clipped, a NaN where that is one."""
    zero, high, low = z - z, all_lanes(like, clip), all_lanes(like, -clip)
    return where_less(low, z, where_less(z, high, s, zero), zero)


def cell_forward(
    a, h0, Wh, Wp, peepholes, gain_h, gain_c, bias_c, recurrent, zoneout_h, zoneout_c, kinds, numbers, coupled, lengths,
    c0, h, c, cells, z, keep, space, across, meeting, part, parts,
):  # fmt: skip
    """h (T, N, R) from h0, and c (T, N, H) from c0; the gates take the place of a (T, N, 4H).

    Without `keep`, c is (1, N, H). `cells` before zoneout, like c, and clipped `z`, like a, are written if they have
    elements. With `across`, which normalisation does not allow, threads divide columns and units, and meet between
    them. `space` is as `cell_forward_space` says.
    """
    begin(meeting, part)
    mode = flush_denormals()
    (T, N, R), H, size = h.shape, c.shape[2], h.itemsize
    wide, K, one = BYTES // size, 4 * H, h.dtype.type(1)
    bound, clip, rate_h, rate_c = h.dtype.type(BOUND), numbers[CLIP], numbers[RATE_H], numbers[RATE_C]
    count_a, count_c, epsilon = h.dtype.type(K), h.dtype.type(H), numbers[EPSILON]
    F, G, out_of = kinds[0], kinds[1], kinds[2]
    F_a, F_b, G_a, G_b, H_a, H_b = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    projects, peeps, normalises, clips = Wp.size > 0, peepholes.size > 0, gain_h.size > 0, clip < one / (one - one)
    zones_h, zones_c, drops = zoneout_h.size > 0 or rate_h != 0, zoneout_c.size > 0 or rate_c != 0, recurrent.size > 0
    keeps_cells, keeps_z = cells.size > 0, z.size > 0
    drawn_h, drawn_c = zoneout_h.size > 0, zoneout_c.size > 0
    pre, states, cell_states, room = data(a), data(h), data(c), data(space)
    peep, kept_cells, kept_z, mask = data(peepholes), data(cells), data(z), data(recurrent)
    mask_h, mask_c = data(zoneout_h), data(zoneout_c)

    of_Wp = whole(K, wide) * wide * R
    zeros = of_Wp + (whole(R, wide) * wide * H if projects else 0)
    empty = zeros + whole(max(K, R), wide) * wide
    spare = empty + (space.size - empty) // parts // wide * wide * part
    n0, n1 = (0, N) if across else share(N, 1, part, parts)
    fed = spare + wide
    sums = fed + (n1 - n0) * R
    fresh = (empty if across else spare) + wide + (n1 - n0) * (R + (K if normalises else 0))

    j0, j1 = share(K, MANY_VECTORS * wide, part, parts)
    r0, r1 = share(R, MANY_VECTORS * wide if projects else wide, part, parts)
    u0, u1 = share(H, wide, part, parts)
    pack(data(Wh), 0, Wh.strides[0] // size, Wh.strides[1] // size, R, K,
         room, j0 * R, j0 // wide, whole(j1, wide), MANY_VECTORS, 0)  # fmt: skip
    if projects:
        pack(data(Wp), 0, Wp.strides[0] // size, Wp.strides[1] // size, H, R,
             room, of_Wp + r0 * H, r0 // wide, whole(r1, wide), MANY_VECTORS, 0)  # fmt: skip
    z0, z1 = share(empty - zeros, 1, part, parts)
    fill(room, zeros + z0, z1 - z0, one - one)
    met = parts
    wait(meeting, met)
    if not across:
        j0, j1, r0, r1, u0, u1 = 0, K, 0, R, 0, H

    for t in range(T if n0 < n1 else 0):
        rows = still_there(lengths, n0, n1, t)
        before, first = (states, ((t - 1) * N + n0) * R) if t > 0 else (data(h0), n0 * R)
        prev_c, place_c = (cell_states, ((t - 1) * N if keep else 0) * H) if t > 0 else (data(c0), 0)
        next_c = t * N * H if keep else 0

        # The recurrent part, added to that of the input.
        left, start = before, first
        if drops:
            for j in range(0, rows * R, wide):
                count = min(wide, rows * R - j)
                store(room, fed + j, load(before, first + j, count) * load(mask, n0 * R + j, count), count)
            left, start = room, fed
        here = (t * N + n0) * K
        base, of_base, row = (room, zeros, 0) if normalises else (pre, here + j0, K)
        target, to = (room, sums) if normalises else (pre, here + j0)
        multiply(left, start, MANY_ROWS * R, R, 1, room, j0 * R, R, base, of_base, row, target, to, K, rows, j1 - j0)
        for r in range(rows if normalises else 0):
            normalise(room, sums + r * K, K, count_a, room, spare, one, epsilon)
            for j in range(0, K, wide):
                count, y = min(wide, K - j), here + r * K + j
                gained = load(room, sums + r * K + j, count) * load(data(gain_h), j, count)
                store(pre, y, load(pre, y, count) + gained, count)

        if across:
            met += parts
            wait(meeting, met)

        # Gates and cell states.
        for r in range(rows):
            n = n0 + r
            y, x = next_c + n * H, (t * N + n) * H
            if lengths.size and lengths[n] <= t:
                continue
            for j in range(u0, u1, wide):
                count, i_at = min(wide, H - j), 4 * x + j
                f_at, o_at, g_at = i_at + H, i_at + 2 * H, i_at + 3 * H
                old = load(prev_c, place_c + n * H + j, count)
                z_i, z_f, z_g = load(pre, i_at, count), load(pre, f_at, count), load(pre, g_at, count)
                if peeps:
                    z_i = z_i + load(peep, j, count) * old
                    z_f = z_f + load(peep, H + j, count) * old
                if clips:
                    z_i, z_f, z_g = clamp((z_i, z_f, z_g), clip)
                i = activate(F, F_a, F_b, z_i, pre, one, bound)
                f = all_lanes(pre, one) - i
                if not coupled:
                    f = activate(F, F_a, F_b, z_f, pre, one, bound)
                g = activate(G, G_a, G_b, z_g, pre, one, bound)
                new = f * old + i * g
                z_o = load(pre, o_at, count)
                if peeps:
                    z_o = z_o + load(peep, 2 * H + j, count) * new
                if clips:
                    (z_o,) = clamp((z_o,), clip)
                if keeps_z:
                    store(kept_z, i_at, z_i, count)
                    store(kept_z, f_at, z_f, count)
                    store(kept_z, o_at, z_o, count)
                    store(kept_z, g_at, z_g, count)
                if keep:
                    store(pre, i_at, i, count)
                    store(pre, f_at, f, count)
                    store(pre, g_at, g, count)
                store(pre, o_at, activate(F, F_a, F_b, z_o, pre, one, bound), count)
                store(room, fresh + r * H + j, new, count)
                if keeps_cells:
                    store(kept_cells, x + j, new, count)
                if zones_c:
                    k = kept_of(mask_c, x, drawn_c, rate_c, j, count)
                    new = k * old + (all_lanes(pre, one) - k) * new
                store(cell_states, y + j, new, count)

        # The hidden states: those of the cell in place of its fresh states, where they are projected.
        place_h = (t * N + n0) * R
        for r in range(rows):
            if normalises:
                normalise(room, fresh + r * H, H, count_c, room, spare, one, epsilon)
            for j in range(u0, u1, wide):
                count, m = min(wide, H - j), fresh + r * H + j
                seen = load(room, m, count)
                if normalises:
                    seen = seen * load(data(gain_c), j, count) + load(data(bias_c), j, count)
                u = activate(out_of, H_a, H_b, seen, pre, one, bound)
                u = u * load(pre, here + r * K + 2 * H + j, count)
                if projects:
                    store(room, m, u, count)
                else:
                    store(states, place_h + r * R + j, u, count)
        if projects:
            if across:
                met += parts
                wait(meeting, met)
            multiply(room, fresh, MANY_ROWS * H, H, 1, room, of_Wp + r0 * H, H,
                     room, zeros, 0, states, place_h + r0, R, rows, r1 - r0)  # fmt: skip
        for r in range(n1 - n0):
            n, y = n0 + r, place_h + r * R
            if lengths.size and lengths[n] <= t:
                carry(before, first + r * R + r0, states, y + r0, r1 - r0)
                carry(prev_c, place_c + n * H + u0, cell_states, next_c + n * H + u0, u1 - u0)
                x = (t * N + n) * H + u0
                fill(kept_cells, x, u1 - u0 if keeps_cells else 0, one - one)
                for z_at in range(4 * x - 3 * u0, 4 * x - 3 * u0 + K, H):
                    fill(pre, z_at, u1 - u0 if keep else 0, one - one)
                    fill(kept_z, z_at, u1 - u0 if keeps_z else 0, one - one)
                continue
            for j in range(r0, r1 if zones_h else r0, wide):
                count = min(wide, R - j)
                k = kept_of(mask_h, y, drawn_h, rate_h, j, count)
                kept = k * load(before, first + r * R + j, count)
                store(states, y + j, kept + (all_lanes(states, one) - k) * load(states, y + j, count), count)
        if across:
            met += parts
            wait(meeting, met)
    restore(mode)


def cell_backward(
    dh, carry_h, carry_c, gates, c, cells, z, hat_h, scale_h, hat_c, scale_c, Wh, Wp, peepholes, gain_h, gain_c, bias_c,
    recurrent, zoneout_h, zoneout_c, kinds, numbers, coupled, lengths, c0, da, dr, dout, dseen, m, space, meeting, part,
    parts,
):  # fmt: skip
    """The gradients of a, da (T, N, 4H), of the last step first; and of the others beside it, if they have elements.

    `carry_h` (N, R) and `carry_c` (N, H) are those of the states behind the last step, then before the first. dh (T, N,
    R) has contiguous rows. With normalisation, `hat_h` (T, N, 4H) and `hat_c` (T, N, H) are what was normalised, and
    the scales what it was multiplied with; dr is then the gradient of h Wh, which else is da, and dseen (T, N, H) that
    of the cell state as H sees it. With a projection, dout (T, N, R) is that of its result, and m (T, N, H) what it
    projected.
    """
    begin(meeting, part)
    mode = flush_denormals()
    (T, N, K), R, size = gates.shape, carry_h.shape[1], gates.itemsize
    H, wide, one = K // 4, BYTES // size, gates.dtype.type(1)
    bound, clip, rate_h, rate_c = gates.dtype.type(BOUND), numbers[CLIP], numbers[RATE_H], numbers[RATE_C]
    count_a, count_c = gates.dtype.type(K), gates.dtype.type(H)
    F, G, out_of = kinds[0], kinds[1], kinds[2]
    F_a, F_b, G_a, G_b, H_a, H_b = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    projects, peeps, normalises, clips = Wp.size > 0, peepholes.size > 0, gain_h.size > 0, clip < one / (one - one)
    zones_h, zones_c, drops = zoneout_h.size > 0 or rate_h != 0, zoneout_c.size > 0 or rate_c != 0, recurrent.size > 0
    has_z, drawn_h, drawn_c = z.size > 0, zoneout_h.size > 0, zoneout_c.size > 0
    above, dh_t, dh_n = data(dh), dh.strides[0] // size, dh.strides[1] // size
    opened, peep, mask, mask_h, mask_c = data(gates), data(peepholes), data(recurrent), data(zoneout_h), data(zoneout_c)
    h_, c_, a_, room = data(carry_h), data(carry_c), data(da), data(space)
    recurrents = data(dr) if normalises else a_

    of_WpT = whole(R, wide) * wide * K
    zeros = of_WpT + (whole(H, wide) * wide * R if projects else 0)
    empty = zeros + whole(max(H, R), wide) * wide
    spare = empty + (space.size - empty) // parts // wide * wide * part
    n0, n1 = share(N, 1, part, parts)
    outer = spare + wide
    inner = outer + (n1 - n0) * H
    below = inner + (n1 - n0) * H

    j0, j1 = share(R, MANY_VECTORS * wide, part, parts)
    pack(data(Wh), 0, Wh.strides[1] // size, Wh.strides[0] // size, K, R,
         room, j0 * K, j0 // wide, whole(j1, wide), MANY_VECTORS, 0)  # fmt: skip
    if projects:
        j0, j1 = share(H, MANY_VECTORS * wide, part, parts)
        pack(data(Wp), 0, Wp.strides[1] // size, Wp.strides[0] // size, R, H,
             room, of_WpT + j0 * R, j0 // wide, whole(j1, wide), MANY_VECTORS, 0)  # fmt: skip
    j0, j1 = share(empty - zeros, 1, part, parts)
    fill(room, zeros + j0, j1 - j0, one - one)
    wait(meeting, parts)

    for t in range(T - 1 if n0 < n1 else -1, -1, -1):
        rows = still_there(lengths, n0, n1, t)
        prev_c, place_c = (data(c), (t - 1) * N * H) if t > 0 else (data(c0), 0)
        out, out_at = (data(dout), (t * N + n0) * R) if projects else (room, outer)

        # What reaches the output of the cell, behind its projection and before it.
        for r in range(n1 - n0):
            n, x = n0 + r, (t * N + n0 + r) * H
            if lengths.size and lengths[n] <= t:
                fill(a_, 4 * x, K, one - one)
                fill(data(dr), 4 * x, K if normalises else 0, one - one)
                fill(data(dseen), x, H if normalises else 0, one - one)
                fill(data(m), x, H if projects else 0, one - one)
                fill(out, out_at + r * R, R, one - one)
                continue
            for j in range(0, R, wide):
                count, y = min(wide, R - j), n * R + j
                d = load(h_, y, count) + load(above, t * dh_t + n * dh_n + j, count)
                store(h_, y, d, count)
                if zones_h:
                    d = (all_lanes(h_, one) - kept_of(mask_h, (t * N + n) * R, drawn_h, rate_h, j, count)) * d
                store(out, out_at + r * R + j, d, count)
        if projects:
            multiply(out, out_at, MANY_ROWS * R, R, 1, room, of_WpT, R, room, zeros, 0, room, outer, H, rows, H)

        for r in range(rows):
            n = n0 + r
            x, row = (t * N + n) * H, r * H
            if lengths.size and lengths[n] <= t:
                continue

            # The output gate, and what goes from the output to the cell state.
            for j in range(0, H, wide):
                count, o_at = min(wide, H - j), 4 * x + 2 * H + j
                o, dm = load(opened, o_at, count), load(room, outer + row + j, count)
                seen = load(data(cells), x + j, count)
                if normalises:
                    seen = load(data(hat_c), x + j, count) * load(data(gain_c), j, count)
                    seen = seen + load(data(bias_c), j, count)
                u = activate(out_of, H_a, H_b, seen, opened, one, bound)
                z_o = o
                if has_z:
                    z_o = load(data(z), o_at, count)
                s = slope(F, F_a, F_b, z_o, o, opened, one, bound)
                if clips:
                    s = unless_clipped(z_o, s, clip, opened)
                store(a_, o_at, dm * u * s, count)
                if projects:
                    store(data(m), x + j, o * u, count)
                store(room, inner + row + j, dm * o * slope(out_of, H_a, H_b, seen, u, opened, one, bound), count)
            if normalises:
                carry(room, inner + row, data(dseen), x, H)
                through_norm(room, inner + row, data(gain_c), data(hat_c), x, H, count_c, scale_c[t, n, 0],
                             room, inner + row, room, spare)  # fmt: skip

            # The cell state, and the other gates.
            for j in range(0, H, wide):
                count, i_at, y = min(wide, H - j), 4 * x + j, n * H + j
                f_at, o_at, g_at = i_at + H, i_at + 2 * H, i_at + 3 * H
                i, f, g = load(opened, i_at, count), load(opened, f_at, count), load(opened, g_at, count)
                old, dc = load(prev_c, place_c + y, count), load(c_, y, count)
                k = all_lanes(c_, one - one)
                if zones_c:
                    k = kept_of(mask_c, x, drawn_c, rate_c, j, count)
                dnew = (all_lanes(c_, one) - k) * dc + load(room, inner + row + j, count)
                if peeps:
                    dnew = dnew + load(peep, 2 * H + j, count) * load(a_, o_at, count)
                z_i, z_f, z_g = i, f, g
                if has_z:
                    z_i, z_f, z_g = load(data(z), i_at, count), load(data(z), f_at, count), load(data(z), g_at, count)
                s_i = slope(F, F_a, F_b, z_i, i, opened, one, bound)
                s_f = slope(F, F_a, F_b, z_f, f, opened, one, bound)
                s_g = slope(G, G_a, G_b, z_g, g, opened, one, bound)
                if clips:
                    s_i = unless_clipped(z_i, s_i, clip, opened)
                    s_f = unless_clipped(z_f, s_f, clip, opened)
                    s_g = unless_clipped(z_g, s_g, clip, opened)
                d_i, d_f, d_g = dnew * g * s_i, dnew * old * s_f, dnew * i * s_g
                if coupled:
                    d_i, d_f = dnew * (g - old) * s_i, all_lanes(c_, one - one)
                store(a_, i_at, d_i, count)
                store(a_, f_at, d_f, count)
                store(a_, g_at, d_g, count)
                dc = dnew * f + k * dc
                if peeps:
                    dc = dc + load(peep, j, count) * d_i + load(peep, H + j, count) * d_f
                store(c_, y, dc, count)
            if normalises:
                through_norm(a_, 4 * x, data(gain_h), data(hat_h), 4 * x, K, count_a, scale_h[t, n, 0],
                             recurrents, 4 * x, room, spare)  # fmt: skip

        # The hidden state of the step before.
        multiply(recurrents, (t * N + n0) * K, MANY_ROWS * K, K, 1, room, 0, K,
                 room, zeros, 0, room, below, R, rows, R)  # fmt: skip
        for r in range(rows):
            n = n0 + r
            for j in range(0, R if not (lengths.size and lengths[n] <= t) else 0, wide):
                count, y = min(wide, R - j), n * R + j
                d = load(room, below + r * R + j, count)
                if drops:
                    d = d * load(mask, y, count)
                if zones_h:
                    k = kept_of(mask_h, (t * N + n) * R, drawn_h, rate_h, j, count)
                    d = d + k * load(h_, y, count)
                store(h_, y, d, count)
    restore(mode)


def matmul(A, B, base, out, space, meeting, part, parts):
    """out (M, N) = base (N,) + A (M, K) @ B (K, N), A and B with any strides."""
    begin(meeting, part)
    mode = flush_denormals()
    (M, K), N, size = A.shape, B.shape[1], A.itemsize
    wide = BYTES // size
    product(data(A), 0, A.strides[0] // size, A.strides[1] // size, M, K,
            data(B), B.strides[0] // size, B.strides[1] // size, N, data(base), 0, data(out), 0,
            data(space), space.size // parts // wide * wide * part, part, parts)  # fmt: skip
    restore(mode)


@lru_cache
def cell_forward_space(N, H, R, projects, normalises, across, parts, itemsize):
    """The size of `space`: packed Wh and Wp, zeros, and of each part what it computes of its rows on the way."""
    wide, rows = BYTES // itemsize, N if across else -(-N // parts)
    k, r = (whole.py_func(v, wide) * wide for v in (4 * H, R))
    each = whole.py_func(wide + rows * (H + R + (4 * H if normalises else 0)), wide) * wide
    return k * R + (r * H if projects else 0) + max(k, r) + parts * each


@lru_cache
def cell_backward_space(N, H, R, projects, parts, itemsize):
    """The same for `cell_backward`."""
    wide, rows = BYTES // itemsize, -(-N // parts)
    h, r = (whole.py_func(v, wide) * wide for v in (H, R))
    each = whole.py_func(wide + rows * (2 * H + R), wide) * wide
    return r * 4 * H + (h * R if projects else 0) + max(h, r) + parts * each


@lru_cache
def matmul_space(N, parts, itemsize):
    """The same for `matmul`."""
    wide = BYTES // itemsize
    return parts * whole.py_func(product_space.py_func(N, wide, parts)[1], wide) * wide
