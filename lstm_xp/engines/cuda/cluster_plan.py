"""What the kernels of `cluster.cu` are launched with: clusters, units, rows, shared memory, from sizes alone.

The rates and latencies below are estimates. Nothing here has been measured on a GPU.
"""

from functools import lru_cache
from typing import NamedTuple

from .plan import CHUNK_BYTES, GATES, PRODUCTS, ROWS, TYPES

FILES = "mma.cuh", "cluster.cuh", "cluster_product.cuh", "cluster.cu"
KERNELS = "cluster_forward", "cluster_backward"

# Bytes of shared memory that a block may have, on compute capability 9.0 and 10.x.
SHARED_BYTES = 232448
# Blocks of a cluster. More than so many have to be allowed for a kernel.
BLOCKS = 1, 4, 8, 16
PORTABLE = 8
# Tiles of 8 rows that a cluster computes.
TILES = 1, 2
# kernel, stored type -> parts of the weights that each lane keeps in registers, where 16 blocks could not hold Wh else.
HELD = {
    ("cluster_forward", "float16"): 8,
    ("cluster_forward", "bfloat16"): 8,
    ("cluster_forward", "float"): 8,
    ("cluster_backward", "float16"): 5,
    ("cluster_backward", "bfloat16"): 5,
    ("cluster_backward", "float"): 3,
}

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
    product: str
    blocks: int  # of a cluster
    tiles: int
    held: int  # parts of the weights, of each lane, in registers
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
    def groups(self):
        """Of a warp, each four times 8 columns of the product."""
        return 2 if self.backward and self.held else 1

    @property
    def busy(self):
        """Warps that multiply."""
        return -(-self.blocks * self.units // 32) // self.groups if self.backward else self.units // 8

    @property
    def block(self):
        """Threads: every 8 units have a warp for their cells."""
        return 32 * max(self.busy, self.units // 8)

    @property
    def most_threads(self):
        """What the kernel is compiled for; as in cluster.cu."""
        if not self.backward:
            return {1: 512, 4: 320, 8: 224, 16: 192}[self.blocks]
        of_sixteen = (384, 256) if self.stored == "float" else (640, 384)
        return {1: 512, 4: 320, 8: 384, 16: of_sixteen[self.held > 0]}[self.blocks]

    @property
    def chunks(self):
        """Pieces of the depth."""
        depth = GATES * self.units if self.backward else self.blocks * self.units
        return -(-depth * ITEM_BYTES[self.product] // CHUNK_BYTES)

    @property
    def part_bytes(self):
        """Of the weights of a group, for one chunk."""
        return 32 * CHUNK_BYTES * WEIGHT_BYTES[self.stored] // ITEM_BYTES[self.product]

    @property
    def slots(self):
        """Parts of a group in shared memory; on their way to registers, those of lanes lie there, too."""
        return max(self.chunks - self.held, self.held)

    @property
    def shared_bytes(self):
        """Of a block: weights; rows, and what is on its way to and from other blocks; barriers."""
        rows = self.chunks * self.tiles * 512
        if self.backward:
            moving = rows + 2 * 4 * self.blocks * self.units * self.rows
        else:
            moving = 2 * rows + self.units * self.rows * ITEM_BYTES[self.product]
        return self.busy * self.groups * self.slots * self.part_bytes + moving + BARRIER_BYTES

    @property
    def fits(self):
        """Whether a block has the memory, and a lane the registers."""
        whole = self.held == 0 or self.chunks > self.held
        return whole and self.shared_bytes <= SHARED_BYTES and self.block <= self.most_threads

    @property
    def expression(self):
        """The C++ name of the kernel."""
        return f"{self.kernel}<{self.stored}, {self.product}, {self.blocks}, {self.tiles}, {self.held}>"

    def seconds(self, processors):
        """An estimate of one step: as many clusters as there is room for, one after the other."""
        at_once = max(1, processors // NEIGHBOURS * (NEIGHBOURS // self.blocks))
        width, padded = ITEM_BYTES[self.product], self.blocks * self.units
        read = self.busy * self.groups * self.chunks * (self.part_bytes + 512 * self.tiles)
        sent = self.rows * padded * 4 if self.backward else self.rows * self.units * self.blocks * width
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
    # Registers only where nothing else is left.
    return Plan(*(min(cuts, key=lambda cut: (cut.held > 0, cut.seconds(processors))) for cuts in both))


@lru_cache
def most_units(dtype, precision):
    """The largest H that fits."""
    return max(H for H in range(8, 1025, 8) if all(_fitting(dtype, precision, 1, H)))


def _fitting(dtype, precision, N, H):
    """Of both directions, every cut for which there is room."""
    both = zip(KERNELS, products(dtype, precision), strict=True)
    return [[cut for cut in cuts(kernel, TYPES[dtype], product, N, H) if cut.fits] for kernel, product in both]


def products(dtype, precision):
    """Of the forward and the backward pass."""
    if dtype == "float32" and precision == "tf32x3":
        return "Tf32x3", "Tf32x3"
    return PRODUCTS[dtype, precision if dtype == "float32" else "ieee"]


def cuts(kernel, stored, product, N, H):
    """One direction with every cluster, as many rows as there are, or fewer."""
    tiles = TILES[:1] if product in ("Ieee", "Tf32x3") or N <= ROWS else TILES
    every = [Cut(kernel, stored, product, blocks, count, 0, N, H) for blocks in BLOCKS for count in tiles]
    return [*every, Cut(kernel, stored, product, BLOCKS[-1], 1, HELD[kernel, stored], N, H)]


def expressions():
    """Every kernel that a plan can ask for, by its C++ name."""
    keys = [*PRODUCTS, ("float32", "tf32x3")]
    every = [
        cut
        for dtype, precision in keys
        for kernel, product in zip(KERNELS, products(dtype, precision), strict=True)
        for cut in cuts(kernel, TYPES[dtype], product, ROWS + 1, 1)
    ]
    return tuple(dict.fromkeys(cut.expression for cut in every))
