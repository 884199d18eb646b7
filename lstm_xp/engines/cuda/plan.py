"""What the kernels of `step.cu` are launched with: products, tiles and grids, from sizes alone. No GPU is asked."""

from functools import lru_cache
from typing import NamedTuple

from .kernels import expression

GATES, COLUMNS, ROWS = 4, 16, 8  # as in step.cu
CHUNK_BYTES = 64  # of a row of h or da, or of a column of weights, in one chunk of the depth

BARRIER_BYTES = 8

# The least compute capability, times ten: mma.sync of bfloat16 and TF32, and all shapes that are used.
LEAST = 80

KERNELS = "forward_step", "backward_step"


# The least one of devices that have clusters of blocks.
CLUSTERS = 90


class Tile(NamedTuple):
    """Of a block: 16 * across columns, 8 * down * high rows; the warps that share the depth of each of its `high`
    parts, with those of all blocks of a cluster: it is `split` among so many.
    """

    across: int
    down: int
    high: int
    warps: int
    split: int


# Of nearly fifty that were measured on an H200, those of which the best is hardly ever missed.
TILES = (
    Tile(1, 1, 1, 8, 1),
    Tile(2, 2, 1, 16, 1),
    Tile(2, 4, 1, 4, 1),
    Tile(2, 4, 2, 4, 1),
    Tile(4, 4, 2, 4, 1),
    *(Tile(4, 1, 1, 8, split) for split in (2, 4, 8)),
    Tile(2, 2, 1, 8, 2),
    Tile(4, 2, 1, 8, 2),
    Tile(4, 2, 1, 4, 8),
    Tile(2, 4, 1, 8, 2),
    *(Tile(4, 4, 1, warps, 2) for warps in (4, 8)),
)

DTYPES = "float16", "bfloat16", "float32"
# dtype, precision -> the products of the forward and the backward pass. Backward, da of bfloat16 is bfloat16, which has
# the range; of float16 it is float32: TF32 has its range, and the digits of float16.
PRODUCTS = {
    ("float16", "ieee"): ("Half", "Tf32"),
    ("bfloat16", "ieee"): ("Bfloat", "Bfloat"),
    ("float32", "ieee"): ("Ieee", "Ieee"),
    ("float32", "tf32"): ("Tf32", "Tf32"),
}
ITEM_BYTES = {"Half": 2, "Bfloat": 2, "Tf32": 4, "Ieee": 4}  # of a row

# An estimate of a step, fitted to 2700 measured on an H200: on the mean, what it chooses takes 3 % longer there than
# the quickest. Seconds from one kernel of a graph to the next, with what a kernel does beside its product; what it
# takes a cluster to add up the sums of its blocks; and a warp to have one more chunk. Of one multiprocessor: bytes per
# second from the level-2 cache, and to and from its shared memory; terms per second of each product. And how many
# multiprocessors are without work for each block of a cluster: these do not fit into every group of multiprocessors.
STEP, CLUSTER, CHUNK = 1.7e-6, 0.7e-6, 0.05e-6
CACHE, SHARED = 46e9, 170e9
TERMS = {"Half": 900e9, "Bfloat": 900e9, "Tf32": 900e9, "Ieee": 150e9}
UNUSED = 1.06


class Pass(NamedTuple):
    """One direction: which kernel, on which grid."""

    kernel: str
    weights: str  # dtypes as they are stored
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
    def wide(self):
        """Columns of a block."""
        return COLUMNS * self.tile.across

    @property
    def tall(self):
        """Rows of a block."""
        return ROWS * self.tile.down * self.tile.high

    @property
    def grid(self):
        return -(-self.columns // self.wide) * self.tile.split, -(-self.N // self.tall)

    @property
    def block(self):
        """Threads."""
        return 32 * self.tile.high * self.tile.warps

    @property
    def weights_bytes(self):
        """Of the weights as the kernel reads them."""
        return self.grid[0] // self.tile.split * self.wide * self.chunks * CHUNK_BYTES

    @property
    def rows_bytes(self):
        """Of the rows of two steps: one reads, and the other is written."""
        return 2 * self.grid[1] * self.tall * self.chunks * CHUNK_BYTES

    @property
    def packed_bytes(self):
        return self.weights_bytes + self.rows_bytes

    @property
    def shared_bytes(self):
        """Of a block's shared memory: the sums of its warps, and those that come from the blocks of its cluster."""
        of_cluster = self.tile.split > 1
        return 4 * self.tall * (self.wide + 4) * (self.tile.warps + of_cluster) + BARRIER_BYTES * of_cluster

    @property
    def expression(self):
        """The C++ name of the kernel."""
        return expression(self.kernel, self.states, self.product, *self.tile)

    @property
    def packing(self):
        """The C++ name of the kernel that packs the weights."""
        return expression("pack", self.weights, self.product, self.backward)

    @property
    def packing_rows(self):
        """The C++ name of the kernel that packs h0, forward."""
        return expression("pack_rows", self.weights, self.product)

    def seconds(self, processors):
        """An estimate of one step."""
        split = self.tile.split
        unused = UNUSED * split if split > 1 else 0
        most = -(-self.grid[0] * self.grid[1] // max(1, int(processors - unused)))  # that one multiprocessor has
        depth = self.chunks * CHUNK_BYTES / split
        read = depth * (self.wide + self.tall)
        terms = depth / ITEM_BYTES[self.product] * self.wide * self.tall
        product = most * max(read / CACHE, terms / TERMS[self.product])
        rounds = -(-self.chunks // (split * self.tile.warps))
        sums = most * 2 * self.shared_bytes / SHARED
        return STEP + product + rounds * CHUNK + sums + (split > 1) * CLUSTER


class Plan(NamedTuple):
    """Both directions."""

    forward: Pass
    backward: Pass


@lru_cache(maxsize=256)
def plan(dtype, precision, N, H, processors, clusters=True):
    """How a problem is cut on a device with so many multiprocessors.

    Parameters
    ----------
    dtype, precision : str
        As in `PRODUCTS`. The precision is that of float32.
    N, H : int
        Rows and units, at least 1.
    processors : int
        Multiprocessors of the device.
    clusters : bool
        Whether it has clusters of blocks.
    """
    found = []
    for kernel in KERNELS:
        candidates = [part for part in passes(dtype, precision, N, H, clusters) if part.kernel == kernel]
        # Of equals the largest, which reads least.
        found.append(min(reversed(candidates), key=lambda part: part.seconds(processors)))
    return Plan(*found)


def kind(dtype, precision):
    """The key of PRODUCTS: of the dtypes, float32 alone has several precisions."""
    return dtype, precision if dtype == "float32" else "ieee"


def passes(dtype, precision, N, H, clusters=True):
    """Both directions with every tile."""
    products = PRODUCTS[kind(dtype, precision)]
    return [
        Pass(kernel, dtype, dtype, product, tile, N, H)
        for kernel, product in zip(KERNELS, products, strict=True)
        for tile in TILES
        if clusters or tile.split == 1
    ]


def kernels(clusters=True):
    """Every kernel of a step that can be asked for: its C++ name -> a pass that does."""
    every = [part for dtype, precision in PRODUCTS for part in passes(dtype, precision, 1, 1, clusters)]
    # Gradients from outside are float32, where those of h_n were added to them.
    every += [part._replace(states="float32") for part in every if part.backward]
    return {part.expression: part for part in every}


def expressions(clusters=True):
    """Their names, and those of the kernels beside them."""
    every = kernels(clusters)
    packing = [*(part.packing for part in every.values()), *(p.packing_rows for p in every.values() if not p.backward)]
    return tuple(dict.fromkeys(["fill", *packing, *every]))
