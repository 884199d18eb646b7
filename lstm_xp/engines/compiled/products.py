"""Matrix products, as numba compiles them: packing, panels, and the product of stages one and three.

A matrix that many rows are multiplied with is *packed*: cut into panels of so many `vectors` of columns, each panel
stored as the tile reads it, k after k. Rows are independent of each other, and so are columns: every element is
computed by the same operations in the same order, however the work is divided. Results have the same bits for any
number of threads.

Matrices come as pointers, each followed by the offset of its first element and by what takes one row, or column, or
step of k, further.
"""

from numba import njit

from .meeting import begin
from .tiles import TILES, tile, transpose
from .vectors import BYTES, data, lanes, load, short_of_line, store

(MANY_ROWS, MANY_VECTORS), (GATE_ROWS, GATES), (FEW_ROWS, FEW_VECTORS) = TILES
many, of_gates, few = tile(MANY_ROWS, MANY_VECTORS), tile(GATE_ROWS, GATES, GATES), tile(FEW_ROWS, FEW_VECTORS)

# A product takes so many steps of k at a time, whose columns then stay in the second-level cache, and so many rows; a
# tile so many steps, whose columns stay in the first-level cache for the rows that follow.
DEPTH, HEIGHT, SHALLOW = 512, 240, 128
# Between rearranged blocks of rows, lest all begin in the same set of the cache.
PAD = 16

# Rows of a matrix read at a time where it is not packed: as many streams of memory.
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
            j, step, end = (start // 4 * wide, units, units) if units else (start * wide, wide, M)
            for v in range(several):
                count = min(wide, end - (j if units else j + v * wide))
                here = b + (j + v * step) * b_j
                if b_j == 1:
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
def spread(A, a, step, packed, to, block, count):
    """One step of k: so many numbers of A, MANY_ROWS to each block."""
    for start in range(0, count, MANY_ROWS):
        rows = min(MANY_ROWS, count - start)
        if step == 1:
            for r in range(0, rows, lanes(A)):
                store(packed, to + r, load(A, a + start + r, rows - r), rows - r)
        else:
            for r in range(rows):
                packed[to + r] = A[a + (start + r) * step]
        to += block


@inlined
def pack_rows(A, a, a_row, a_k, packed, to, rows, depth):
    """Rows of A in blocks of MANY_ROWS, k after k; the size of a block."""
    block = MANY_ROWS * depth + PAD
    for k in range(depth):
        spread(A, a + k * a_k, a_row, packed, to + k * MANY_ROWS, block, rows)
    return block


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
def multiply_gates(A, a, K, packed, first, here, total, base, z, z_row, out, y, rows):
    """The same for the four gates of one vector of units: rows of A, base and out follow each other.

    The weights of all units that are wanted begin at `first`, `total` of them, these at `here`.
    """
    width = GATES * lanes(A)
    if rows <= FEW_ROWS:
        for k in range(0, K, SHALLOW):
            before, source, row = (base, z, z_row) if k == 0 else (out, y, width)
            of_gates(A, a + k, K, 1, packed, here + k * width, width, min(SHALLOW, K - k), here, 0,
                     before, source, row, out, y, width, rows, width)  # fmt: skip
        return
    blocks = whole(rows, GATE_ROWS)
    height = whole(rows, blocks)  # blocks of nearly the same size
    ahead_k = min(lanes(A), width // blocks + 1) if rows > FEW_ROWS else 0
    for k in range(0, K, SHALLOW):
        depth, right = min(SHALLOW, K - k), here + k * width
        ahead = first + (right - first + depth * width) % total
        before, source, row = (base, z, z_row) if k == 0 else (out, y, width)
        for n in range(0, rows, height):
            of_gates(A, a + n * K + k, K, 1, packed, right, width, depth, ahead, ahead_k, before, source + n * row, row,
                     out, y + n * width, width, min(height, rows - n), width)  # fmt: skip
            ahead += ahead_k * depth


@inlined
def multiply_rows(A, a, a_row, a_k, B, b, K, zeros, out, y, N, columns, first, last):
    """out = A @ B in columns first..last, with B read once, a few rows at a time, as they lie in memory.

    Rows and ranges are whole vectors; at `zeros`, `out` has a row of zeros. Where rows do not begin at a line of the
    cache, vectors begin behind it, and what is left over on both sides comes last.
    """
    left = short_of_line(B)
    right = lanes(A) - left if left else 0
    for k in range(0, K, STREAMS):
        depth = min(STREAMS, K - k)
        z, row = (zeros, 0) if k == 0 else (y, columns)
        for j in range(first + left, last - right, FEW_VECTORS * lanes(A)):
            width, here = min(FEW_VECTORS * lanes(A), last - right - j), b + k * columns + j
            for n in range(0, N, FEW_ROWS):
                few(A, a + n * a_row + k * a_k, a_row, a_k, B, here, columns, depth, here, 0, out, z + n * row + j, row,
                    out, y + n * columns + j, columns, min(FEW_ROWS, N - n), width)  # fmt: skip
        for n in range(N if left else 0):
            head = tail = load(B, 0, 0)  # zeros: sums begin there, as in a tile
            for step in range(k, k + depth):
                scalar, here = A[a + n * a_row + step * a_k], b + step * columns
                head = head + scalar * load(B, here + first, left)
                tail = tail + scalar * load(B, here + last - right, right)
            here, there = z + n * row + first, y + n * columns + first
            store(out, there, load(out, here, left) + head, left)
            here, there = z + n * row + last - right, y + n * columns + last - right
            store(out, there, load(out, here, right) + tail, right)


def product_space(M, K, N, parts, itemsize):
    """How many parts divide the columns, the others the rows, and the size of `space`: for each part, DEPTH rows of its
    columns of B, and HEIGHT rows of A."""
    wide = BYTES // itemsize
    across = min(parts, max(1, N // (2 * MANY_VECTORS * wide)))
    while parts % across:
        across -= 1
    panels = -(-N // (MANY_VECTORS * wide))
    columns, rows = -(-panels // across) * MANY_VECTORS * wide, -(-min(HEIGHT, M) // MANY_ROWS)
    depth = min(DEPTH, K)
    return across, parts * whole.py_func(depth * columns + rows * (MANY_ROWS * depth + PAD), wide) * wide


def product(A, B, bias, out, space, across, meeting, part, parts):
    """out (M, N) = A (M, K) @ B (K, N) + bias (N), A and B with any strides; `across` and `space` are those of
    `product_space`."""
    begin(meeting, part)
    across = min(across, parts)
    (M, K), N, size = A.shape, B.shape[1], A.itemsize
    wide = BYTES // size
    a_row, a_k, b_k, b_j = A.strides[0] // size, A.strides[1] // size, B.strides[0] // size, B.strides[1] // size
    first, last = share(N, MANY_VECTORS * wide, part % across, across)
    top, bottom = share(M, 1, part // across, parts // across)
    left, right, base, y, packed = data(A), data(B), data(bias), data(out), data(space)
    columns = space.size // parts // wide * wide * part
    rows = columns + min(DEPTH, K) * whole(last - first, wide) * wide
    for k in range(0, K if first < last else 0, DEPTH):
        depth = min(DEPTH, K - k)
        pack(right, k * b_k, b_k, b_j, depth, N, packed, columns, first // wide, whole(last, wide), MANY_VECTORS, 0)
        for row in range(top, bottom, HEIGHT):
            a, here, count = row * a_row + k * a_k, row * N + first, min(HEIGHT, bottom - row)
            before, z, z_row = (base, first, 0) if k == 0 else (y, here, N)
            if a_k == 1:
                multiply(left, a, MANY_ROWS * a_row, a_row, 1, packed, columns, depth,
                         before, z, z_row, y, here, N, count, last - first)  # fmt: skip
            else:
                block = pack_rows(left, a, a_row, a_k, packed, rows, count, depth)
                multiply(packed, rows, block, 1, MANY_ROWS, packed, columns, depth,
                         before, z, z_row, y, here, N, count, last - first)  # fmt: skip


def gradient_space(D, H, parts, itemsize):
    """The size of `space` of `weight_gradients`: for each part, DEPTH rows of its columns of da, and one of zeros, and
    rows of x or h."""
    panel = MANY_VECTORS * (BYTES // itemsize)
    panels = -(-4 * H // panel)
    columns, rows = -(-panels // parts) * panel, -(-min(HEIGHT, max(D, H)) // MANY_ROWS)
    return parts * whole.py_func((DEPTH + 1) * columns + rows * (MANY_ROWS * DEPTH + PAD), panel) * panel


def weight_gradients(x, h0, h, da, dW, space, meeting, part, parts):
    """dW (D + H + 1, 4H): the sums over t and n of x_t, h_{t-1} and 1, times da_t. Parts divide the columns.

    x (T, N, D) has any strides, h (T, N, H), h0 (N, H) and da (T, N, 4H) are contiguous.
    """
    begin(meeting, part)
    (T, N, D), H, size = x.shape, h.shape[2], x.itemsize
    K, wide, total = T * N, BYTES // size, 4 * H
    x_t, x_n, x_d = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
    first, last = share(total, MANY_VECTORS * wide, part, parts)
    right, y, packed = data(da), data(dW), data(space)
    columns = space.size // parts // wide * wide * part
    zeros = columns + min(DEPTH, K) * whole(last - first, wide) * wide
    left = zeros + whole(last - first, wide) * wide
    for j in range(zeros, left):
        packed[j] = 0
    for k in range(0, K if first < last else 0, DEPTH):
        depth = min(DEPTH, K - k)
        block = MANY_ROWS * depth + PAD
        pack(
            right, k * total, total, 1, depth, total, packed, columns, first // wide, whole(last, wide), MANY_VECTORS, 0
        )
        for source in range(3):
            top, features = (0, D) if source == 0 else (D, H) if source == 1 else (D + H, 1)
            for row in range(0, features, HEIGHT):
                rows = min(HEIGHT, features - row)
                for step in range(depth):
                    t, n = (k + step) // N, (k + step) % N
                    to = left + step * MANY_ROWS
                    if source == 0:
                        spread(data(x), t * x_t + n * x_n + row * x_d, x_d, packed, to, block, rows)
                    elif source == 2:
                        packed[to] = 1
                    elif t == 0:
                        spread(data(h0), n * H + row, 1, packed, to, block, rows)
                    else:
                        spread(data(h), ((t - 1) * N + n) * H + row, 1, packed, to, block, rows)
                here = (top + row) * total + first
                before, z, z_row = (packed, zeros, 0) if k == 0 else (y, here, total)
                multiply(packed, left, block, 1, MANY_ROWS, packed, columns, depth,
                         before, z, z_row, y, here, total, rows, last - first)  # fmt: skip
