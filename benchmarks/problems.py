"""What is measured: one table of sizes, the arrays of a problem, and its work in flop."""

from typing import NamedTuple

import numpy as np

# Name -> batch N, steps T, input D, hidden H: one row at a time, small batches, and batches for training.
SIZES = {
    "n1-h32": (1, 1000, 32, 32),
    "n1-h64": (1, 100, 64, 64),
    "n1-h256": (1, 100, 128, 256),
    "n1-h1024": (1, 64, 512, 1024),
    "n8-h128": (8, 100, 64, 128),
    "n16-h128": (16, 50, 64, 128),
    "n32-h256": (32, 128, 128, 256),
    "n64-h512": (64, 128, 256, 512),
    "n64-h1024": (64, 64, 512, 1024),
    "n256-h128": (256, 32, 128, 128),
    "n128-h1024": (128, 64, 1024, 1024),
}

# Doublings. The work grows with N and with T as they do, and with H = D as its square.
GROWTH = {
    "N": [(N, 64, 128, 256) for N in (16, 32, 64, 128, 256)],
    "T": [(16, T, 128, 256) for T in (32, 64, 128, 256, 512)],
} | {f"H at N = {N}": [(N, 32, H, H) for H in (32, 64, 128, 256, 512, 1024)] for N in (1, 8, 64)}

# Large enough that no two axes can be mistaken for each other, small enough to be free: is every contender right?
SMALL = [(3, 5, 4, 6), (1, 7, 5, 3)]

# What the first result of a fresh process is asked for.
START = (1, 16, 32, 32)

# What a contender does -> what that is. A "step" goes over the sequence too, in T calls that hand on the state.
WHATS = {
    "inference": "forward, nothing kept for a backward pass",
    "forward": "forward, all kept for a backward pass",
    "training": "forward, then backward: gradients of x, weights, bias and initial state",
    "step": "streaming, one call per time step, at the sizes with N = 1",
}

# What is measured in a fresh process each -> what that is; and the work whose memory is measured.
FRESH = {
    "memory": "peak memory of inference, and of training, on the CPU, at the sizes with an output of 1 MiB or more",
    "start": "time to import, and to the first result",
}
REMEMBERED = ("inference", "training")
# With a smaller output, what is measured is the allocator's memory and not the contender's.
REMARKABLE = 2**20


class Problem(NamedTuple):
    """One size, at one dtype, on one device."""

    name: str
    N: int
    T: int
    D: int
    H: int
    dtype: str
    device: str = "cpu"

    @classmethod
    def of(cls, size, dtype, device="cpu"):
        """From the name of a size, or four numbers."""
        numbers = SIZES[size] if size in SIZES else tuple(size)
        names = {sizes: name for name, sizes in SIZES.items()}
        return cls(names.get(numbers, ",".join(map(str, numbers))), *numbers, dtype, device)

    @property
    def size(self):
        """(N, T, D, H)"""
        return self.N, self.T, self.D, self.H

    def timed(self, asked):
        """Those of the kinds of work asked for that are timed at this size."""
        return [what for what in WHATS if what in asked and (what != "step" or self.N == 1)]

    def remembered(self):
        """Whether memory is measured at this size: that of a process, not of a device."""
        output = self.N * self.T * self.H * np.dtype(self.dtype).itemsize
        return self.device == "cpu" and output >= REMARKABLE

    def flop(self, what):
        """Multiplications and additions of the matrix products; the backward pass has twice those of the forward."""
        forward = 8 * self.N * self.T * self.H * (self.D + self.H)
        return 3 * forward if what == "training" else forward

    def arrays(self):
        """x, h0, c0, Wx, Wh, b and dh, the gradient of the output: NumPy arrays, the same ones at every call.

        The weights are as large as those of a fresh network, so that gates do not saturate; no state is zero.
        """
        rng = np.random.default_rng(0)
        N, T, D, H = self.size
        bound = H**-0.5
        shapes = {"x": (N, T, D), "h0": (N, H), "c0": (N, H), "dh": (N, T, H)}
        weights = {"Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,)}
        arrays = {name: rng.standard_normal(shape, dtype=self.dtype) for name, shape in shapes.items()}
        for name, shape in weights.items():
            arrays[name] = (2 * rng.random(shape, dtype=self.dtype) - 1) * np.asarray(bound, self.dtype)
        return arrays
