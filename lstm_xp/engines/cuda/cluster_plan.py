"""What the kernels of `cluster.cu` are launched with: clusters, units, rows, shared memory, from sizes alone.

The rates and latencies below are estimates. Nothing here has been measured on a GPU.
"""

from functools import lru_cache
from itertools import islice
from itertools import product as product_of
from typing import NamedTuple

from .plan import CHUNK_BYTES, GATES, PRODUCTS, ROWS, TYPES

FILES = "mma.cuh", "cluster.cuh", "cluster_product.cuh", "cluster.cu"
KERNELS = "cluster_forward", "cluster_backward"

# Bytes of shared memory that a block may have, on compute capability 9.0 and 10.x.
SHARED_BYTES = 232448
# Blocks of a cluster. More than so many have to be allowed for a kernel.
BLOCKS = 1, 2, 4, 8, 16
PORTABLE = 8
# Tiles of 8 rows that a cluster computes.
TILES = 1, 2
# kernel -> warps that share the depth of a product.
PARTS = {"cluster_forward": (1, 2, 4), "cluster_backward": (1, 2, 4, 8)}
# kernel -> cells of a thread, at most.
MOST_CELLS = {"cluster_forward": 4, "cluster_backward": 2}
# Parts of the weights that a lane keeps in registers: as many as there are, or fit.
HELD = 8, 6, 5, 4, 2, 1
# Registers of weights -> threads of a block, at most; as in cluster.cu.
THREADS = {52: 512, 96: 384, 204: 256}
# Times 16 bytes of weights that a lane keeps in registers, at most.
MOST_PIECES = 36

BARRIER_BYTES = 16
ITEM_BYTES = {"Half": 2, "Bfloat": 2, "Tf32": 4, "Tf32x3": 4, "Ieee": 4}  # of a row
WEIGHT_BYTES = {"float16": 2, "bfloat16": 2, "float": 4}

# What a step takes beside its product, in seconds: with a cluster of one block, and of more. Bytes that a block reads
# from its own shared memory, and sends to others, and terms that its FMA units add, per second.
ALONE, TOGETHER = 0.3e-6, 0.6e-6
SHARED_RATE, SEND_RATE, FMA_RATE = 2e11, 5e10, 1.3e11
# Processors that clusters share: of so many, one cluster of 16 blocks.
NEIGHBOURS = 16


class Cut(NamedTuple):
    """One direction: how clusters of blocks share units and rows."""

    kernel: str
    stored: str  # the type of weights and states
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
            return -(-8 * self.tiles * self.groups // (self.blocks * self.parts))
        return max(1, 2 * self.tiles // self.parts)

    @property
    def pieces(self):
        """Times 16 bytes, of the weights of a lane for one chunk."""
        return 4 * WEIGHT_BYTES[self.kept] // ITEM_BYTES[self.product]

    @property
    def most_threads(self):
        """What the kernel is compiled for, so that its registers suffice."""
        of_cells = 12 * self.groups + 24 * (self.cells - 1) if self.backward else 20 * self.cells
        more = of_cells + (40 if self.product == "Ieee" else 0)
        held = 4 * self.held * self.groups * self.pieces + more
        return next((threads for registers, threads in THREADS.items() if held <= registers), 0)

    @property
    def chunks(self):
        """Pieces of the depth, of each part: with those behind its end."""
        depth = GATES * self.units if self.backward else self.blocks * self.units
        return -(-(-(-depth * ITEM_BYTES[self.product] // CHUNK_BYTES)) // self.parts)

    @property
    def slots(self):
        """Of a lane's parts of the weights in shared memory; the others pass through one, on their way to registers."""
        return max(self.chunks - self.held, 1)

    @property
    def shared_bytes(self):
        """Of a block: weights; rows, sums, and what is on its way to and from other blocks; barriers."""
        rows = 2 * self.parts * self.chunks * self.tiles * 512
        if self.backward:
            moving = 2 * 4 * self.units * (self.blocks * self.parts * self.rows + 4)
        else:
            moving = 16 * self.parts * self.rows * (self.units + 1) + self.block * ITEM_BYTES[self.product]
        return self.warps * self.groups * self.slots * self.pieces * 512 + rows + moving + BARRIER_BYTES

    @property
    def fits(self):
        """Whether a block has the memory, and a lane the registers."""
        there_are = self.held <= self.chunks and self.cells <= MOST_CELLS[self.kernel]
        registers = self.pieces * self.held * self.groups <= MOST_PIECES
        return there_are and registers and self.shared_bytes <= SHARED_BYTES and self.block <= self.most_threads

    @property
    def expression(self):
        """The C++ name of the kernel."""
        types, numbers = [self.stored, self.product], [self.blocks, self.tiles, self.parts, self.held]
        if self.backward:
            types[1:1], numbers[4:] = [self.kept], [self.groups]
        return f"{self.kernel}<{', '.join(map(str, types + numbers))}>"

    def seconds(self, processors):
        """An estimate of one step: as many clusters as there is room for, one after the other."""
        at_once = max(1, processors // NEIGHBOURS * (NEIGHBOURS // self.blocks))
        width, padded = ITEM_BYTES[self.product], self.blocks * self.units
        read = self.warps * self.groups * ((self.chunks - self.held) * self.pieces + self.chunks * self.tiles) * 512
        sent = self.rows * padded * 4 * self.parts if self.backward else self.rows * self.units * self.blocks * width
        product = read / SHARED_RATE
        if self.product == "Ieee":
            product += GATES * self.units * padded * self.rows / FMA_RATE
        elif self.product == "Tf32x3":
            product *= 2
        step = (TOGETHER if self.blocks > 1 else ALONE) + product + sent / SEND_RATE
        return -(-self.clusters // at_once) * step


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
    return [list(cuts(kernel, TYPES[dtype], product, N, H)) for kernel, product in both]


def products(dtype, precision):
    """Of the forward and the backward pass."""
    if dtype == "float32" and precision == "tf32x3":
        return "Tf32x3", "Tf32x3"
    return PRODUCTS[dtype, precision if dtype == "float32" else "ieee"]


def cuts(kernel, stored, product, N, H):
    """One direction with every cluster and division of the depth, and as many weights in registers as can be had."""
    tiles = TILES[:1] if product in ("Ieee", "Tf32x3") or N <= ROWS else TILES
    for blocks, count, parts in product_of(BLOCKS, tiles, PARTS[kernel]):
        # Several times 32 columns for each warp only where there would be too many warps.
        backward, most = kernel == "cluster_backward", blocks == BLOCKS[-1]
        every = (
            Cut(kernel, stored, kept, product, blocks, count, parts, held, groups, N, H)
            for kept in dict.fromkeys(("float", stored) if backward else (stored,))
            for groups in ((1, 2, 3) if backward and most else (1,))
            for held in HELD
        )
        yield from islice((cut for cut in every if cut.fits), 1)


def expressions():
    """Every kernel that a plan can ask for, by its C++ name."""
    keys = [*PRODUCTS, ("float32", "tf32x3")]
    every = (
        cut.expression
        for dtype, precision in keys
        for H in range(8, most_units(dtype, precision) + 1, 8)
        for found in _fitting(dtype, precision, ROWS + 1, H)
        for cut in found
    )
    return tuple(dict.fromkeys(every))
