"""Matrix products, as numba compiles them: packing, panels, and the products of the gradients.

A matrix that many rows are multiplied with is *packed*: cut into panels of so many `vectors` of columns, each panel
stored as the tile reads it, k after k. Rows are independent of each other, and so are columns: every element is
computed by the same operations in the same order, however the work is divided. Results have the same bits for any
number of threads.

Matrices come as pointers, each followed by the offset of its first element and by what takes one row, or column, or
step of k, further.
"""

from numba import njit

from .tiles import TILES, ask, tile, transpose
from .vectors import lanes, load, short_of_line, store

(MANY_ROWS, MANY_VECTORS), (GATE_ROWS, GATES), (FEW_ROWS, FEW_VECTORS) = TILES
many, of_gates, few = tile(MANY_ROWS, MANY_VECTORS), tile(GATE_ROWS, GATES, GATES), tile(FEW_ROWS, FEW_VECTORS)

# A product takes so many steps of k at a time, whose columns then stay in the second-level cache, and so many rows; a
# tile so many steps, whose columns stay in the first-level cache for the rows that follow.
DEPTH, HEIGHT, SHALLOW = 512, 240, 128
# Between rearranged blocks of rows, lest all begin in the same set of the cache.
PAD = 16

# So many rows ahead of the one that is rearranged, memory is asked for.
AHEAD = 8
# Rows of a matrix read at a time where it is not packed: as many streams of memory. `add_rows` writes them out.
STREAMS = 8

# numba: 1/0 is inf, as in NumPy; products and sums may become one operation.
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}
inlined = njit(nogil=True, **OPTIONS)


@inlined
def share(size, unit, part, parts):
    """The part of 0..size that is a thread's, in whole units."""
    units = (size + unit - 1) // unit
    return min(units * part // parts * unit, size), min(units * (part + 1) // parts * unit, size)


@inlined
def whole(size, unit):
    """How many units cover a size."""
    return (size + unit - 1) // unit


@inlined
def to_and_fro(place, first, last, unit, t):
    """The place to work at, backwards at every other step: what a step reads last, the next one finds in the cache."""
    return place if t % 2 == 0 else first + (last - 1 - first) // unit * unit - (place - first)


@inlined
def pack(B, b, b_k, b_j, K, M, packed, place, first, last, vectors, units):
    """Vectors first..last of the columns of B (K, M) into panels of so many. Columns behind the last become zeros.

    With `units`, which are M / 4, the columns are gates, and vectors in the order i, f, o, g of some units, then of the
    next.
    """
    wide = lanes(B)
    deep = wide if b_k == 1 and b_j != 1 else 1  # so many steps of k at a time
    for k0 in range(0, K, deep):
        for start in range(first, last, vectors):
            several = min(vectors, last - start)
            row = several * wide
            to = place + (start - first) * wide * K + k0 * row
            for v in range(several):
                j = (start + v) // 4 * wide if units else (start + v) * wide
                count = min(wide, (units or M) - j)
                here = b + (j + (start + v) % 4 * units) * b_j
                if b_j == 1:
                    ask(B, here + min(k0 + AHEAD, K - 1) * b_k)
                    store(packed, to + v * wide, load(B, here + k0 * b_k, count), wide)
                elif deep == wide and count == wide and k0 + wide <= K:
                    transpose(B, here + k0, b_j, packed, to + v * wide, row)
                else:
                    for k in range(min(deep, K - k0)):
                        for lane in range(wide):
                            if lane < count:
                                packed[to + k * row + v * wide + lane] = B[here + (k0 + k) * b_k + lane * b_j]
                            else:
                                packed[to + k * row + v * wide + lane] = 0


@inlined
def spread(A, a, next, step, packed, to, block, count):
    """One step of k: so many numbers of A, MANY_ROWS to each block; what will be, from `next` on, is asked for."""
    for start in range(0, count, MANY_ROWS):
        rows = min(MANY_ROWS, count - start)
        ask(A, next + start * step)
        if step == 1:
            for r in range(0, rows, lanes(A)):
                store(packed, to + r, load(A, a + start + r, rows - r), rows - r)
        else:
            for r in range(rows):
                packed[to + r] = A[a + (start + r) * step]
        to += block


@inlined
def multiply(A, a, a_block, a_row, a_k, packed, place, K, base, z, z_row, out, y, y_row, rows, columns):
    """out = base + A @ B for so many rows and columns; B as `pack` left it, all else as in `tile`.

    `a_block` takes one tile of rows further. A panel is used by all rows, SHALLOW steps of k at a time, while what
    follows it is fetched into the cache; with few rows all goes by so fast that to ask for it only takes time.
    """
    wide = lanes(A)
    blocks, total = whole(rows, MANY_ROWS), whole(columns, wide) * wide * K
    for j in range(0, columns, MANY_VECTORS * wide):
        width = min(MANY_VECTORS * wide, columns - j)
        stored = whole(width, wide) * wide
        ahead_k = min(wide, stored // blocks + 1) if rows > FEW_ROWS else 0
        for k in range(0, K, SHALLOW):
            depth = min(SHALLOW, K - k)
            here = j * K + k * stored
            ahead = place + (here + depth * stored) % total
            before, source, row = (base, z + j, z_row) if k == 0 else (out, y + j, y_row)
            for block in range(blocks):
                n, left = block * MANY_ROWS, a + block * a_block + k * a_k
                many(A, left, a_row, a_k, packed, place + here, stored, depth, ahead, ahead_k,
                     before, source + n * row, row, out, y + n * y_row + j, y_row,
                     min(MANY_ROWS, rows - n), width)  # fmt: skip
                ahead += ahead_k * depth


@inlined
def multiply_gates(A, a, a_row, K, packed, first, here, total, base, z, z_row, out, y, y_row, rows):
    """The same for the four gates of one vector of units.

    The weights of all units that are wanted begin at `first`, `total` of them, these at `here`.
    """
    width, blocks = GATES * lanes(A), whole(rows, GATE_ROWS)
    height = whole(rows, blocks)  # blocks of nearly the same size
    ahead_k = min(lanes(A), width // blocks + 1) if rows > FEW_ROWS else 0
    for k in range(0, K, SHALLOW):
        depth, right = min(SHALLOW, K - k), here + k * width
        ahead = first + (right - first + depth * width) % total
        before, source, row = (base, z, z_row) if k == 0 else (out, y, y_row)
        for n in range(0, rows, height):
            of_gates(A, a + n * a_row + k, a_row, 1, packed, right, width, depth, ahead, ahead_k,
                     before, source + n * row, row, out, y + n * y_row, y_row,
                     min(height, rows - n), width)  # fmt: skip
            ahead += ahead_k * depth


@inlined
def add_gates(A, a, a_row, K, packed, here, out, y, y_row, rows, units):
    """out += A @ B for few rows, and the four gates of so many vectors of units side by side, two at most."""
    width = units * GATES * lanes(A)
    for n in range(0, rows, FEW_ROWS):  # more only where one thread does the work of several
        for k in range(0, K, SHALLOW):
            few(A, a + n * a_row + k, a_row, 1, packed, here + k * width, width, min(SHALLOW, K - k), here, 0,
                out, y + n * y_row, y_row, out, y + n * y_row, y_row, min(FEW_ROWS, rows - n), width)  # fmt: skip


@inlined
def add_rows(A, a, a_k, B, b, b_k, depth, kept, out, y, first, last, count):
    """out = what was `kept` of it + A @ B for one row of A and STREAMS rows of B at most, vector by vector of columns.

    `kept` and `count` say how many numbers of a vector are read of `out`, and of B. What is added is summed by itself,
    which takes the rounding of a long sum out of most additions.
    """
    wide = lanes(A)
    if depth == STREAMS:
        s0, s1, s2, s3 = A[a], A[a + a_k], A[a + 2 * a_k], A[a + 3 * a_k]
        s4, s5, s6, s7 = A[a + 4 * a_k], A[a + 5 * a_k], A[a + 6 * a_k], A[a + 7 * a_k]
        for j in range(first, last, wide):
            k = b + j
            v = s0 * load(B, k, count)
            v = v + s1 * load(B, k + b_k, count)
            v = v + s2 * load(B, k + 2 * b_k, count)
            v = v + s3 * load(B, k + 3 * b_k, count)
            v = v + s4 * load(B, k + 4 * b_k, count)
            v = v + s5 * load(B, k + 5 * b_k, count)
            v = v + s6 * load(B, k + 6 * b_k, count)
            v = v + s7 * load(B, k + 7 * b_k, count)
            store(out, y + j, load(out, y + j, kept) + v, count)
        return
    for j in range(first, last, wide):
        v = A[a] * load(B, b + j, count)
        for k in range(1, depth):
            v = v + A[a + k * a_k] * load(B, b + j + k * b_k, count)
        store(out, y + j, load(out, y + j, kept) + v, count)


@inlined
def multiply_rows(A, a, a_row, a_k, B, b, K, added, out, y, N, columns, first, last):
    """out = A @ B in columns first..last, or `added` to it; B read as it lies in memory, STREAMS rows of it at a time.

    Columns and ranges are whole vectors. Where rows of B do not begin at a line of the cache, vectors begin behind it,
    and what is left over on both sides is done by itself.
    """
    wide = lanes(A)
    left = short_of_line(B)
    right = wide - left if left else 0
    for k in range(0, K, STREAMS):
        depth = min(STREAMS, K - k)
        for n in range(N):
            start, here, to = a + n * a_row + k * a_k, b + k * columns, y + n * columns
            kept = wide if k or added else 0
            if left:
                add_rows(A, start, a_k, B, here, columns, depth, min(kept, left), out, to, first, first + 1, left)
            add_rows(A, start, a_k, B, here, columns, depth, kept, out, to, first + left, last - right, wide)
            if right:
                place = last - right
                add_rows(A, start, a_k, B, here, columns, depth, min(kept, right), out, to, place, place + 1, right)


@inlined
def product_space(N, wide, parts):
    """How many parts divide the columns, the others the rows; and what each needs: DEPTH rows of its columns of B."""
    panel = MANY_VECTORS * wide
    across = min(parts, max(1, N // (2 * panel)))
    while parts % across:
        across -= 1
    return across, DEPTH * whole(whole(N, panel), across) * panel


@inlined
def product(A, a, a_row, a_k, M, K, B, b_k, b_j, N, base, z, out, y, packed, place, part, parts):
    """out (M, N) = base (N,) + A (M, K) @ B (K, N), A and B with any strides, for a part's `place` in memory."""
    wide = lanes(A)
    across, _ = product_space(N, wide, parts)
    first, last = share(N, MANY_VECTORS * wide, part % across, across)
    top, bottom = share(M, 1, part // across, parts // across)
    for k in range(0, K if first < last else 0, DEPTH):
        depth = min(DEPTH, K - k)
        pack(B, k * b_k, b_k, b_j, depth, N, packed, place, first // wide, whole(last, wide), MANY_VECTORS, 0)
        for row in range(top, bottom, HEIGHT):
            here, count = y + row * N + first, min(HEIGHT, bottom - row)
            before, source, source_row = (base, z + first, 0) if k == 0 else (out, here, N)
            multiply(A, a + row * a_row + k * a_k, MANY_ROWS * a_row, a_row, a_k, packed, place, depth,
                     before, source, source_row, out, here, N, count, last - first)  # fmt: skip


@inlined
def gradient_space(D, H, wide, parts):
    """What each part needs of `weight_gradients`: DEPTH rows of its columns of da, and rows of x or h."""
    panel = MANY_VECTORS * wide
    columns, rows = whole(whole(4 * H, panel), parts) * panel, whole(min(HEIGHT, max(D, H)), MANY_ROWS)
    return DEPTH * columns + rows * (MANY_ROWS * DEPTH + PAD)


@inlined
def weight_gradients(x, x_t, x_n, x_d, h0, h, h_t, h_n, da, a, start, steps, N, D, H, zeros, zero, before, dW,
                     packed, place, part, parts):  # fmt: skip
    """dW (D + H + 1, 4H) = what was there `before`, or zeros, and the sums over so many steps and n of x_t, h_{t-1} and
    1, times da_t. Parts divide the columns."""
    wide, K, total = lanes(da), steps * N, 4 * H
    first, last = share(total, MANY_VECTORS * wide, part, parts)
    left = place + DEPTH * whole(last - first, wide) * wide
    for k in range(0, K if first < last else 0, DEPTH):
        depth = min(DEPTH, K - k)
        block = MANY_ROWS * depth + PAD
        pack(da, a + k * total, total, 1, depth, total, packed, place,
             first // wide, whole(last, wide), MANY_VECTORS, 0)  # fmt: skip
        for source in range(3):
            top, features = (0, D) if source == 0 else (D, H) if source == 1 else (D + H, 1)
            for row in range(0, features, HEIGHT):
                rows = min(HEIGHT, features - row)
                t, n, later, other = start + k // N, k % N, start + (k + AHEAD) // N, (k + AHEAD) % N
                for to in range(left, left + depth * MANY_ROWS, MANY_ROWS):
                    if source == 0:
                        next = later * x_t + other * x_n + row * x_d
                        spread(x, t * x_t + n * x_n + row * x_d, next, x_d, packed, to, block, rows)
                    elif source == 2:
                        packed[to] = 1
                    elif t == 0:
                        spread(h0, n * H + row, n * H + row, 1, packed, to, block, rows)
                    else:
                        next = (later - 1) * h_t + other * h_n + row
                        spread(h, (t - 1) * h_t + n * h_n + row, next, 1, packed, to, block, rows)
                    t, n = (t, n + 1) if n + 1 < N else (t + 1, 0)
                    later, other = (later, other + 1) if other + 1 < N else (later + 1, 0)
                here = (top + row) * total + first
                source_of_sums, z, z_row = (dW, here, total) if before or k else (zeros, zero, 0)
                multiply(packed, left, block, 1, MANY_ROWS, packed, place, depth,
                         source_of_sums, z, z_row, dW, here, total, rows, last - first)  # fmt: skip
