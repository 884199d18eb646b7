"""What the kernels of `cluster.cu` are launched with: clusters, units, rows, shared memory, from sizes alone.

The registers that are reckoned with are such that the compiler spills none. What a step takes was measured on an H200.
"""

from functools import lru_cache
from itertools import islice
from itertools import product as product_of
from math import ceil
from typing import NamedTuple

from ...checks import itemsize
from . import plan as steps
from .kernels import expression
from .plan import CHUNK_BYTES, GATES, ROWS, kind

FILES = "mma.cuh", "cluster.cuh", "cluster_product.cuh", "cluster.cu"
KERNELS = "cluster_forward", "cluster_backward"

# Bytes of shared memory that a block may have, on compute capability 9.0 and 10.x.
SHARED_BYTES = 232448
# kernel -> blocks of a cluster, and parts of the depth that warps share: those that were quickest somewhere.
CUTS = {"cluster_forward": ((1, 2), (4, 2), (8, 2), (16, 2)), "cluster_backward": ((4, 2), (8, 1), (16, 1))}
# More blocks than so many have to be allowed for a kernel.
PORTABLE = 8
# Tiles of 8 rows that a cluster computes.
TILES = 1, 2
# How often a warp has 32 columns (once, unless there would be too many warps) -> parts of the weights of each that a
# lane keeps in registers: as many as there are, or fit; times 16 bytes at most so many.
HELD = {1: (8, 6, 5, 4, 2, 1), 2: (5, 4, 3, 2, 1)}
MOST_PIECES = 36
# Registers that weights and cells take -> threads of a block, at most; as in cluster.cu.
THREADS = {52: 512, 96: 384, 204: 256}

BARRIER_BYTES = 16
# As of single steps, and 'tf32x3'.
PRODUCTS = steps.PRODUCTS | {("float32", "tf32x3"): ("Tf32x3", "Tf32x3")}
ITEM_BYTES = steps.ITEM_BYTES | {"Tf32x3": 4}


class Costs(NamedTuple):
    """What a step takes, in seconds: fitted to 1300 steps measured on an H200.

    What is chosen by it took 2 % longer there, on the mean, than the quickest.
    """

    cell: float  # of those that a thread has
    cluster: float  # of several blocks
    large: float  # of more blocks than any device lets a cluster have
    # And what clusters that share processors take one after the other.
    warp: float
    read: float  # a byte of a block's shared memory
    multiply: float  # a warp's 32 columns and one chunk, on tensor cores
    add: float  # the same on FMA units
    send: float  # a byte to other blocks


COSTS = {
    "cluster_forward": Costs(0.39e-6, 0.07e-6, 0.23e-6, 11e-9, 2.6e-12, 11e-9, 29e-9, 0),
    "cluster_backward": Costs(0.38e-6, 0, 0, 11e-9, 0.25e-12, 12e-9, 27e-9, 46e-12),
}
# Of the processors, how many clusters can use: they lie in groups, and each cluster in one.
USABLE = 0.91


class Cut(NamedTuple):
    """One direction: how clusters of blocks share units and rows."""

    kernel: str
    stored: str  # the dtype of weights and states
    kept: str  # that of weights in a block's memory
    product: str
    blocks: int  # of a cluster
    tiles: int
    parts: int  # of the depth
    held: int  # parts of the weights, of each lane, in registers
    groups: int  # of a warp, each four times 8 columns of the product
    N: int
    H: int

    @property
    def backward(self):
        return self.kernel == "cluster_backward"

    @property
    def units(self):
        """Of a block: a multiple of 8."""
        return 8 * -(-self.H // (8 * self.blocks))

    @property
    def rows(self):
        """Of a cluster."""
        return ROWS * self.tiles

    @property
    def clusters(self):
        return -(-self.N // self.rows)

    @property
    def grid(self):
        return (self.blocks * self.clusters,)

    @property
    def warps(self):
        """Of a block."""
        columns = self.blocks * self.units if self.backward else GATES * self.units
        return -(-columns // (32 * self.groups)) * self.parts

    @property
    def block(self):
        """Threads."""
        return 32 * self.warps

    @property
    def cells(self):
        """Of a thread, at most."""
        if self.backward:
            return -(-(8 * self.tiles * self.groups) // (self.blocks * self.parts))
        return max(1, 2 * self.tiles // self.parts)

    @property
    def item_bytes(self):
        """Of a value of a row."""
        return ITEM_BYTES[self.product]

    @property
    def pieces(self):
        """Times 16 bytes, of the weights of a lane for one chunk."""
        return 4 * itemsize(self.kept) // self.item_bytes

    @property
    def most_threads(self):
        """What the kernel is compiled for, so that its registers suffice."""
        of_groups = 0 if self.groups > 1 and self.item_bytes == 2 else 8 * self.groups
        of_cells = of_groups + 32 * (self.cells - 1) if self.backward else 16 * self.cells
        more = of_cells + {"Ieee": 40, "Tf32x3": 16}.get(self.product, 0)
        held = 4 * self.held * self.groups * self.pieces + more
        return next((threads for registers, threads in THREADS.items() if held <= registers), 0)

    @property
    def chunks(self):
        """Pieces of the depth, of each part: with those behind its end."""
        depth = GATES * self.units if self.backward else self.blocks * self.units
        return ceil(depth * self.item_bytes / (CHUNK_BYTES * self.parts))

    @property
    def slots(self):
        """Of a lane's parts of the weights in shared memory; the others pass through one, on their way to registers."""
        return max(self.chunks - self.held, 1)

    @property
    def shared_bytes(self):
        """Of a block: weights; rows, sums, and what is on its way to and from other blocks; barriers."""
        rows = (2 if self.groups == 1 else 1) * self.parts * self.chunks * self.tiles * 512
        if self.backward:
            moving = 2 * 4 * self.units * (self.blocks * self.parts * self.rows + 4)
        else:
            moving = 2 * 16 * self.parts * self.rows * (self.units + 1) + self.block * self.item_bytes
        return self.warps * self.groups * self.slots * self.pieces * 512 + rows + moving + BARRIER_BYTES

    @property
    def fits(self):
        """Whether a block has the memory, and a lane the registers."""
        held = self.held <= self.chunks and self.pieces * self.held * self.groups <= MOST_PIECES
        return held and self.shared_bytes <= SHARED_BYTES and self.block <= self.most_threads

    @property
    def expression(self):
        """The C++ name of the kernel."""
        types, numbers = [self.stored, self.product], [self.blocks, self.tiles, self.parts, self.held]
        if self.backward:
            types[1:1], numbers[4:] = [self.kept], [self.groups]
        return expression(self.kernel, *types, *numbers)

    def seconds(self, processors):
        """An estimate of one step: as many clusters as there is room for, one after the other."""
        slots = max(1, int(processors * (USABLE if self.blocks > 1 else 1)) // self.blocks)
        on_one = max(1, min(self.most_threads // self.block, SHARED_BYTES // self.shared_bytes))
        waves, sharing = -(-self.clusters // (slots * on_one)), min(on_one, -(-self.clusters // slots))
        costs, multiplied = COSTS[self.kernel], self.warps * self.groups * self.chunks
        read = 512 * (multiplied * (self.pieces + self.tiles) - self.warps * self.groups * self.held * self.pieces)
        sent = self.parts * self.units * self.rows * 4 if self.backward else self.units * self.rows * self.item_bytes
        product = costs.read * read + costs.send * self.blocks * sent * (self.blocks > 1)
        if self.product == "Ieee":
            product += costs.add * multiplied
        else:
            product += costs.multiply * multiplied * self.tiles * (3 if self.product == "Tf32x3" else 1)
        alone = costs.cell * self.cells + costs.cluster * (self.blocks > 1) + costs.large * (self.blocks > PORTABLE)
        return waves * (alone + sharing * (costs.warp * self.warps + product))


class Plan(NamedTuple):
    """Both directions."""

    forward: Cut
    backward: Cut


@lru_cache(maxsize=256)
def plan(dtype, precision, N, H, processors):
    """How a problem is cut on a device with so many multiprocessors; None where Wh does not fit into a cluster.

    Parameters
    ----------
    dtype : str
        'float16', 'bfloat16' or 'float32'.
    precision : {'ieee', 'tf32', 'tf32x3'}
        That of float32.
    N, H : int
        Rows and units, at least 1.
    processors : int
        Multiprocessors of the device.
    """
    both = _fitting(dtype, precision, N, H)
    if not all(both):
        return None
    return Plan(*(min(found, key=lambda cut: cut.seconds(processors)) for found in both))


@lru_cache
def most_units(dtype, precision):
    """The largest H that fits."""
    return max(H for H in range(8, 1025, 8) if all(_fitting(dtype, precision, 1, H)))


def _fitting(dtype, precision, N, H):
    """Of both directions, every cut for which there is room."""
    both = zip(KERNELS, products(dtype, precision), strict=True)
    return [list(cuts(kernel, dtype, product, N, H)) for kernel, product in both]


def products(dtype, precision):
    """Of the forward and the backward pass."""
    return PRODUCTS[kind(dtype, precision)]


def cuts(kernel, stored, product, N, H):
    """One direction with every cluster, and as many weights in registers as can be had."""
    backward = kernel == "cluster_backward"
    tiles = TILES[:1] if product in ("Ieee", "Tf32x3") or N <= ROWS else TILES
    for (blocks, parts), count in product_of(CUTS[kernel], tiles):
        every = (
            Cut(kernel, stored, kept, product, blocks, count, parts, held, groups, N, H)
            for kept in dict.fromkeys(("float32", stored) if ITEM_BYTES[product] == 4 else (stored,))
            for groups in (HELD if backward and blocks > PORTABLE else (1,))
            for held in HELD[groups]
        )
        if blocks < PORTABLE or H > 8 * blocks:  # shares of 8 units were never quicker
            yield from islice((cut for cut in every if cut.fits), 1)


def kernels():
    """Every kernel that a plan can ask for: its C++ name -> a cut that does."""
    every = (
        cut
        for dtype, precision in PRODUCTS
        for H in range(8, most_units(dtype, precision) + 1, 8)
        for found in _fitting(dtype, precision, ROWS + 1, H)
        for cut in found
    )
    return {cut.expression: cut for cut in every}


def expressions():
    """Their names."""
    return tuple(kernels())
