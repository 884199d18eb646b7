"""The kernels of grid.cu once more, in NumPy: order of sums, and roundings; and what a launch of them has to be given.

All that is read and written has to be there, and each row and unit has to belong to one block.
"""

import numpy as np
from fake_cupy import NAMES, cell_backward, cell_forward, dtype_of, of_rows
from step_emulation import to_tf32

from lstm_xp.engines.cuda.grid import WORDS

WARPS, ROWS, GATES, PLACES = 8, 8, 4, 9
ACROSS = {"Half": 64, "Bfloat": 64, "Widened": 64, "Tf32": 48, "Ieee": 48}  # columns of a slice
SHARED = 227 * 1024


def passes(fake, expression, grid, block, shared, work):
    """What is launched, looked at closely; what does the same in NumPy; and a line for the fake's calls."""
    given = dict(zip(WORDS, work[0].tolist(), strict=True))
    kernel, _, types = expression.removeprefix("grid::").partition("<")
    states, product, tiles = types[:-1].split(", ")
    states, across, single = (
        dtype_of(NAMES[states]),
        ACROSS["Widened" if "Widened" in product else product],
        np.dtype(np.float32),
    )
    product, backward = "Tf32" if "Widened" in product else product, kernel == "backward"
    T, N, H, slices, replicas, chains = (given[word] for word in WORDS[:6])
    rows, wide = chains * given["tiles"] * ROWS, GATES if backward else 1
    row_type = of_rows(product)
    assert (T >= 1, N >= 1, H >= 1) == (True,) * 3
    assert tiles == str(given["tiles"])
    assert grid == (slices * replicas,)
    assert block == (32 * WARPS,)
    assert shared <= SHARED
    assert rows - ROWS * given["tiles"] < N <= rows
    assert replicas <= chains
    assert given["pitch"] * row_type.itemsize % 64 == 0
    assert 0 <= given["pitch"] - H < 64 // row_type.itemsize
    units = across // GATES * slices
    if backward:
        assert units - across < H <= units
        assert slices % GATES == 0
    else:
        assert units - across // GATES < H <= units

    def look(name, *shape, dtype=single, missing=False):
        assert given[name] % dtype.itemsize == 0
        strides = tuple(int(np.prod(shape[k + 1 :], dtype=np.int64)) for k in range(len(shape)))
        v = fake.view(given[name], shape, strides, dtype)
        assert not missing or np.all(v.view(np.uint8) == 0xFF), f"{name} must have all bits set"
        return v

    assert given["messages"] % 16 == given["sums"] % 16 == 0
    look("messages", PLACES, rows, wide, given["pitch"], dtype=row_type, missing=True)
    look("alarm", 1, missing=True)
    if backward:
        look("sums", PLACES, rows, units, GATES, missing=True)
    Wh = fake.view(given["Wh"], (H, GATES * H), (given["Wh_by_row"], given["Wh_by_column"]), states)
    Wh = to_tf32(Wh.astype(np.float32)) if product == "Tf32" else Wh.astype(np.float32)
    gates, c0 = look("gates", T, N, GATES * H), look("c0", N, H)
    call = expression.partition("<")[0], types[:-1], grid, T, N, H
    if not backward:
        c = look("c", T if given["kept"] else 1, N, H)
        h, h0 = look("h", T, N, H, dtype=states), look("h0", N, H, dtype=states)

        def forward():
            prev_h, prev_c = h0, c0
            for t in range(T):
                gates[t] += times(product, prev_h, Wh)
                here = c[t if given["kept"] else 0]
                cell_forward(gates[t], prev_c.copy(), here, h[t])
                prev_h, prev_c = h[t], here

        return forward, call
    c, da, dh, dc = look("c", T, N, H), look("da", T, N, GATES * H, dtype=row_type), look("dh", N, H), look("dc", N, H)
    outer = np.zeros((T, N, H), np.float32)
    if given["h"]:
        strides = given["by_step"], given["by_row"], given["by_unit"]
        outer = fake.view(given["h"], (T, N, H), strides, single if given["is_float"] else states)

    def back():
        for t in reversed(range(T)):
            cell_backward(outer[t], dh, gates[t], c[t - 1] if t else c0, c[t], dc, da[t])
            sums = [times(product, da[t][:, gate], Wh[:, gate].T) for gate in np.split(np.arange(GATES * H), GATES)]
            dh[...] = sums[0] + sums[1] + sums[2] + sums[3]

    return back, call


def times(product, rows, weights):
    """rows (N, H) times weights (H, columns), as the warps of a block add it up."""
    chunk = 32 if product in ("Half", "Bfloat") else 16
    depth = -(-len(weights) // (WARPS * chunk)) * WARPS * chunk
    A, B = np.zeros((len(rows), depth), np.float32), np.zeros((depth, weights.shape[1]), np.float32)
    rows = rows.astype(np.float32)
    A[:, : len(weights)], B[: len(weights)] = to_tf32(rows) if product == "Tf32" else rows, weights
    total = None
    for warp in range(WARPS):
        sums = np.zeros((4, len(A), B.shape[1]), np.float32)  # of lanes: where they are told apart, else of the first
        for start in range(warp * chunk, depth, WARPS * chunk):
            of_lanes = np.arange(start, start + chunk).reshape(4, 2, -1)
            if product == "Ieee":
                for lane in range(4):
                    for k in of_lanes[lane].ravel():
                        sums[lane] += A[:, k, None] * B[k]
            else:
                for half in (0, 1):
                    terms = of_lanes[:, half].ravel()
                    sums[0] += A[:, terms] @ B[terms]
        of_warp = (sums[0] + sums[2]) + (sums[1] + sums[3])
        total = of_warp if total is None else total + of_warp
    return total
