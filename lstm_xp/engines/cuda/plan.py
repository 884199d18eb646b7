"""What the kernels of `step.cu` are launched with: products, tiles and grids, from sizes alone. No GPU is asked.

The rates and latencies below are estimates from before anything was measured.
"""

from functools import lru_cache
from typing import NamedTuple

GATES, COLUMNS, ROWS = 4, 16, 8  # as in step.cu
CHUNK_BYTES = 64  # of a row of h or da, in one chunk of the depth
PACKED_BYTES = 1024  # of 16 columns of weights, in one chunk of the depth

# The least compute capability, times ten: mma.sync of bfloat16 and TF32, and all shapes that are used.
LEAST = 80

KERNELS = "forward_step", "backward_step"


class Tile(NamedTuple):
    """Of a block: 16 * across columns, 8 * down rows, and the warps that share its depth."""

    across: int
    down: int
    warps: int


TILES = (Tile(1, 1, 8), Tile(2, 1, 8), Tile(2, 2, 8), Tile(2, 4, 8), Tile(4, 4, 4))

# dtype -> the type that is stored.
TYPES = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float"}
# dtype, precision -> the products of the forward and the backward pass. Backward, da of bfloat16 is bfloat16, which has
# the range; of float16 it is float32: TF32 has its range, and the digits of float16.
PRODUCTS = {
    ("float16", "ieee"): ("Half", "Tf32"),
    ("bfloat16", "ieee"): ("Bfloat", "Bfloat"),
    ("float32", "ieee"): ("Ieee", "Ieee"),
    ("float32", "tf32"): ("Tf32", "Tf32"),
}
ITEM_BYTES = {"Half": 2, "Bfloat": 2, "Tf32": 4, "Ieee": 4}

# What a block takes beside its product, as bytes that it could read in that time; bytes that one processor reads per
# second from the level-2 cache; seconds from one kernel of a graph to the next.
BLOCK_BYTES, PROCESSOR_RATE, EDGE = 16e3, 4e10, 1.5e-6


class Pass(NamedTuple):
    """One direction: which kernel, on which grid."""

    kernel: str
    weights: str  # types as they are stored
    states: str
    product: str
    tile: Tile
    N: int
    H: int

    @property
    def backward(self):
        return self.kernel == "backward_step"

    @property
    def columns(self):
        """Of the product: the gates, or dh."""
        return self.H if self.backward else GATES * self.H

    @property
    def depth(self):
        """Terms of each sum."""
        return GATES * self.H if self.backward else self.H

    @property
    def chunks(self):
        """Pieces of the depth."""
        return -(-self.depth * ITEM_BYTES[self.product] // CHUNK_BYTES)

    @property
    def grid(self):
        return -(-self.columns // (COLUMNS * self.tile.across)), -(-self.N // (ROWS * self.tile.down))

    @property
    def block(self):
        """Threads."""
        return 32 * self.tile.warps

    @property
    def packed_bytes(self):
        """Of the weights as the kernel reads them."""
        return self.grid[0] * self.tile.across * self.chunks * PACKED_BYTES

    @property
    def shared_bytes(self):
        """Of a block's shared memory."""
        return 4 * self.tile.warps * ROWS * self.tile.down * (COLUMNS * self.tile.across + 4)

    @property
    def expression(self):
        """The C++ name of the kernel."""
        return f"{self.kernel}<{self.states}, {self.product}, {', '.join(map(str, self.tile))}>"

    @property
    def packing(self):
        """The C++ name of the kernel that packs the weights."""
        return f"pack<{self.weights}, {self.product}, {str(self.backward).lower()}>"

    def seconds(self, processors):
        """An estimate of one step: what the busiest processor reads."""
        across, down = self.grid
        each = COLUMNS * self.tile.across + ROWS * self.tile.down
        read = BLOCK_BYTES + self.chunks * CHUNK_BYTES * each
        return EDGE + -(-across * down // processors) * read / PROCESSOR_RATE


class Plan(NamedTuple):
    """Both directions."""

    forward: Pass
    backward: Pass


@lru_cache(maxsize=256)
def plan(dtype, precision, N, H, processors):
    """How a problem is cut on a device with so many multiprocessors.

    Parameters
    ----------
    dtype, precision : str
        As in `PRODUCTS`. The precision is that of float32.
    N, H : int
        Rows and units, at least 1.
    processors : int
        Multiprocessors of the device.
    """
    found = []
    for kernel in KERNELS:
        candidates = [part for part in passes(dtype, precision, N, H) if part.kernel == kernel]
        # Of equals the largest, which reads least.
        found.append(min(reversed(candidates), key=lambda part: part.seconds(processors)))
    return Plan(*found)


def passes(dtype, precision, N, H):
    """Both directions with every tile."""
    products = PRODUCTS[dtype, precision if dtype == "float32" else "ieee"]
    stored = TYPES[dtype]
    return [
        Pass(kernel, stored, stored, product, tile, N, H)
        for kernel, product in zip(KERNELS, products, strict=True)
        for tile in TILES
    ]


def kernels():
    """Every kernel of a step that can be asked for: its C++ name -> a pass that does."""
    every = [part for dtype, precision in PRODUCTS for part in passes(dtype, precision, 1, 1)]
    # Gradients from outside are float32, where those of h_n were added to them.
    every += [part._replace(states="float") for part in every if part.backward]
    return {part.expression: part for part in every}


def expressions():
    """Their names, and those of the kernels beside them."""
    every = kernels()
    return tuple(dict.fromkeys(["fill", *(part.packing for part in every.values()), *every]))
