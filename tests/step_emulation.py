"""The kernels of step.cu once more, in NumPy: their slices of the product, order of sums, and roundings.

`packed` is laid out as step.cu says; where `mma` wants what is left to the source itself, compiled in cuda_on_cpu.py.
"""

import numpy as np

ITEMS = {"Half": np.uint16, "Bfloat": np.uint16, "Tf32": np.uint32, "Ieee": np.uint32}
TILE, ROWS, LANES = 16, 8, 32


def pack(product, Wh, backward, across, packed):
    """Wh (H, 4H), any strides, into `packed`, bytes of any shape."""
    H = Wh.shape[0]
    weights = Wh if backward else np.stack(np.split(Wh, 4, axis=1), axis=2).reshape(H, 4 * H).T  # column 4u + gate
    depth = weights.shape[1]
    chunks = -(-depth * np.dtype(ITEMS[product]).itemsize // 64)
    column, k, words = _layout(product, packed.reshape(-1, chunks, across, 1024))
    inside = (column < weights.shape[0]) & (k < depth)
    values = weights[np.where(inside, column, 0), np.where(inside, k, 0)]
    if product == "Tf32":
        values = to_tf32(values.astype(np.float32))
    words[...] = np.where(inside, values.view(words.dtype), 0)


def pack_rows(product, rows, packed):
    """rows (N, depth) into `packed`, bytes: groups of rows, chunks, eights of rows, 8 rows of 64 bytes."""
    words = packed.view(ITEMS[product]).reshape(*packed.shape[:3], ROWS, -1)
    row, k = np.indices(rows.shape, sparse=True)
    down, per = words.shape[2], words.shape[4]
    values = to_tf32(rows.astype(np.float32)) if product == "Tf32" else rows
    words[row // ROWS // down, k // per, row // ROWS % down, row % ROWS, k % per] = values.view(words.dtype)


def product_of(product, packed, packed_rows, warps, split):
    """The rows times the weights, both packed: (rows, columns), as the blocks of a grid compute it."""
    column, k, words = _layout(product, packed)
    A = np.zeros((column.max() + 1, k.max() + 1), np.float32)
    A[column, k] = _widened(product, words)
    B = packed_rows.view(ITEMS[product]).reshape(*packed_rows.shape[:3], ROWS, -1)
    B = _widened(product, np.ascontiguousarray(B.transpose(0, 2, 3, 1, 4)).reshape(-1, k.max() + 1))
    chunk, lane = 64 // words.itemsize, 16 // words.itemsize
    total = None
    for block in range(split):
        of_block = None
        for warp in range(block * warps, (block + 1) * warps):
            sums = np.zeros((len(B), len(A)), np.float32)
            for start in range(warp * chunk, A.shape[1], split * warps * chunk):
                for terms in _terms(product, start, chunk, lane):
                    sums += B[:, terms] @ A[:, terms].T
            of_block = sums if of_block is None else of_block + sums
        total = of_block if total is None else total + of_block
    return total


def _terms(product, start, chunk, lane):
    """What is summed at once: of a chunk, one half of what each lane holds; or term by term."""
    if product == "Ieee":
        return np.arange(start, start + chunk)[:, None]
    of_lanes = np.arange(start, start + chunk).reshape(4, 2, lane // 2)
    return of_lanes[:, 0].ravel(), of_lanes[:, 1].ravel()


def _layout(product, packed):
    """Column and term of each weight of `packed`, and it as such: (blocks, chunks, across, 64, per 16 bytes)."""
    item = np.dtype(ITEMS[product])
    per = 16 // item.itemsize
    blocks, chunks, across, _ = packed.shape
    words = packed.reshape(-1).view(item).reshape(blocks, chunks, across, 2 * LANES, per)
    block, chunk, m, place, value = np.ogrid[tuple(map(slice, words.shape))]
    if product == "Ieee":
        column, k = place % 4 * 4 + value, place // 4
    else:
        word, within, lane = value // (per // 4), value % (per // 4), place % LANES
        column = lane // 4 + word % 2 * 8
        k = lane % 4 * per + place // LANES * (per // 2) + word // 2 * (per // 4) + within
    return *np.broadcast_arrays((block * across + m) * TILE + column, chunk * 4 * per + k), words


def _widened(product, words):
    if product == "Half":
        return words.view(np.float16).astype(np.float32)
    if product == "Bfloat":
        return (words.astype(np.uint32) << 16).view(np.float32)
    return words.view(np.float32)


def to_tf32(v):
    """float32 to the nearest number with 10 bits of fraction, ties away from zero: cvt.rna.tf32.f32."""
    rounded = ((v.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isnan(v), v, rounded)
