"""The machine's own rate of large matrix products, through NumPy: what no LSTM on this BLAS can exceed.

It is measured like a contender, in the same rounds, so that it drifts with the times it is compared with.
"""

import numpy as np

packages = ()
name = "gemm"

# Rows, inner size, columns: the shape of an input product, and a cube.
PRODUCTS = {"8192x256x2048": (8192, 256, 2048), "2048x2048x2048": (2048, 2048, 2048)}


def flop(product):
    """Of one product of the table."""
    M, K, N = PRODUCTS[product]
    return 2 * M * K * N


class Contender:
    def __init__(self, problem, arrays, option):
        rng = np.random.default_rng(0)
        for product, (M, K, N) in PRODUCTS.items():
            A, B = rng.random((M, K), dtype=problem.dtype), rng.random((K, N), dtype=problem.dtype)
            # Into memory that is there already: this is a rate of arithmetic, not of page faults.
            out = np.empty((M, N), problem.dtype)
            setattr(self, product, lambda A=A, B=B, out=out: np.matmul(A, B, out=out))
