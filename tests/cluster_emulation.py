"""The kernels of cluster.cu once more, in NumPy: how units are shared among blocks, order of shares, and roundings.

What blocks send each other, and when, is left to the source itself, compiled in cuda_on_cpu.py.
"""

import numpy as np
from step_emulation import to_tf32


def blocks_of(H, units):
    """Of each block, its units, and its columns of Wh (H, 4H): those of a unit's four gates together."""
    for first in range(0, H, units):
        own = np.arange(first, min(first + units, H))
        yield own, (np.arange(4) * H + own[:, None]).ravel()


def times(product, rows, Wh):
    """rows (N, K) times Wh (K, columns), as one block multiplies them."""
    rows, Wh = (v.astype(np.float32) for v in (rows, Wh))
    if product == "Tf32":
        return to_tf32(rows) @ to_tf32(Wh)
    if product == "Tf32x3":
        (A, a), (B, b) = ((to_tf32(v), to_tf32(v - to_tf32(v))) for v in (rows, Wh))
        return a @ B + A @ b + A @ B
    return rows @ Wh


def forward_product(product, h, Wh, units):
    """h @ Wh (N, 4H): each block has its units' columns."""
    out = np.empty((len(h), Wh.shape[1]), np.float32)
    for _, columns in blocks_of(len(Wh), units):
        out[:, columns] = times(product, h, Wh[:, columns])
    return out


def backward_product(product, da, Wh, units):
    """da @ Wh^T (N, H): every block's share from its units' gates, in the order of blocks."""
    shares = [times(product, da[:, columns], Wh[:, columns].T) for _, columns in blocks_of(len(Wh), units)]
    total = shares[0]
    for share in shares[1:]:
        total = total + share
    return total
