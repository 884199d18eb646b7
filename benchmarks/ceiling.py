"""The machine's own rate of large matrix products: what no LSTM on this BLAS can exceed.

Through NumPy, or on the device cuda through CuPy, whose float32 products are IEEE ones by default. It is measured like
a contender, in the same rounds, so that it drifts with the times it is compared with.
"""

import numpy as np

from .ours import refuses  # noqa: F401  (on a GPU it needs what lstm_xp needs)

packages = ("cupy",)
name = "gemm"

# Rows, inner size, columns: the shape of an input product, and a cube.
PRODUCTS = {"8192x256x2048": (8192, 256, 2048), "2048x2048x2048": (2048, 2048, 2048)}


def flop(product):
    """Of one product of the table."""
    M, K, N = PRODUCTS[product]
    return 2 * M * K * N


class Contender:
    def __init__(self, problem, arrays, option):
        xp, wait = np, lambda: None
        if problem.device == "cuda":
            import cupy as xp

            wait = xp.cuda.Device().synchronize
        rng = np.random.default_rng(0)
        for product, (M, K, N) in PRODUCTS.items():
            A, B = (xp.asarray(rng.random(shape, dtype=problem.dtype)) for shape in ((M, K), (K, N)))
            # Into memory that is there already: this is a rate of arithmetic, not of page faults.
            out = xp.empty((M, N), problem.dtype)

            def multiply(A=A, B=B, out=out):
                xp.matmul(A, B, out=out)
                wait()

            setattr(self, product, multiply)
