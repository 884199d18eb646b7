"""How the kernels of `grid.cu` divide a problem among a device's multiprocessors: from sizes alone. No GPU is asked.

The rates and latencies below are estimates. Among numbers of tiles, which is all that they decide, they choose as
measurements on an H200 do.
"""

from functools import lru_cache
from typing import NamedTuple

from .kernels import expression
from .plan import CHUNK_BYTES, COLUMNS, GATES, ROWS, kind

# As in grid.cu. Threads of a warp; warps of a block; places for messages. Bytes of a line of the level-2 cache.
LANES, WARPS, PLACES, LINE = 32, 8, 9, 128
KERNELS = "forward", "backward"


class Product(NamedTuple):
    """What multiplies: weights as they are kept, rows of messages, and how much of either at once."""

    name: str
    weight_bytes: int
    row_bytes: int
    across: int  # 16 columns each, of a slice
    down: int  # 8 rows each, of a chain, at most
    registers: int  # of each thread, with weights
    rate: float  # flop per second of one multiprocessor, by estimate


HALF, BFLOAT = (Product(name, 2, 2, 4, 2, 96, 4.6e12) for name in ("Half", "Bfloat"))
OF_HALF = Product("grid::Widened<float16>", 2, 4, 4, 2, 64, 2.3e12)
TF32, IEEE = Product("Tf32", 4, 4, 3, 2, 96, 2.3e12), Product("Ieee", 4, 4, 3, 1, 96, 0.38e12)
# dtype, precision -> the products of the forward and the backward pass. Backward, da of float16 is float32 (see
# plan.py), and weights are kept as they are, and widened one by one.
PRODUCTS = {
    ("float16", "ieee"): (HALF, OF_HALF),
    ("bfloat16", "ieee"): (BFLOAT, BFLOAT),
    ("float32", "ieee"): (IEEE, IEEE),
    ("float32", "tf32"): (TF32, TF32),
}

# Seconds until a message that is told can be read; of a look at one; of barriers and cells. Bytes that one
# multiprocessor reads per second, from the level-2 cache and from its own memory.
MESSAGE, LOOK, CELLS = 0.5e-6, 0.5e-6, 0.4e-6
CACHE_RATE, SHARED_RATE = 4e10, 2e11


class Pass(NamedTuple):
    """One direction: which kernel, and which block has what."""

    kernel: str
    states: str  # a dtype as it is stored
    product: Product
    N: int
    H: int
    tiles: int  # 8 rows each, of a chain
    replicas: int

    @property
    def backward(self):
        return self.kernel == "backward"

    @property
    def units(self):
        """Whose cells a block has."""
        return COLUMNS * self.product.across // GATES

    @property
    def slices(self):
        """Blocks of a replica. Backward, four of them have the gates of the same units."""
        return GATES * -(-self.H // (GATES * self.units)) if self.backward else -(-self.H // self.units)

    @property
    def chains(self):
        return -(-self.N // (ROWS * self.tiles))

    @property
    def blocks(self):
        return self.slices * self.replicas

    @property
    def chunks(self):
        """Pieces of the depth, which is H."""
        return -(-self.H * self.product.row_bytes // CHUNK_BYTES)

    @property
    def pitch(self):
        """Values of a message's row, of one gate."""
        return self.chunks * CHUNK_BYTES // self.product.row_bytes

    @property
    def rows(self):
        """Of all chains, with those that only fill up the last one."""
        return self.chains * self.tiles * ROWS

    @property
    def message_bytes(self):
        """Of all places for messages."""
        return PLACES * self.rows * (GATES if self.backward else 1) * self.chunks * CHUNK_BYTES

    @property
    def sum_bytes(self):
        """Of what a team's blocks add up."""
        return PLACES * 4 * GATES * self.rows * self.slices * self.units if self.backward else 0

    @property
    def workspace_bytes(self):
        """Of all that blocks tell each other: an alarm, messages and sums."""
        return LINE + self.message_bytes + self.sum_bytes

    @property
    def chunk_bytes(self):
        """Of a slice's weights, in one chunk."""
        return COLUMNS * self.product.across * CHUNK_BYTES // self.product.row_bytes * self.product.weight_bytes

    @property
    def held(self):
        """Chunks in the registers of all warps."""
        return WARPS * (LANES * 4 * self.product.registers // self.chunk_bytes)

    @property
    def kept_bytes(self):
        """Of weights, in a block's shared memory."""
        return max(0, self.chunks - self.held) * self.chunk_bytes

    @property
    def shared_bytes(self):
        """Of a block: sums, and weights; or a chunk of each warp, on the way to its registers."""
        sums = 4 * WARPS * ROWS * self.tiles * (COLUMNS * self.product.across + 4)
        return sums + max(self.kept_bytes, WARPS * self.chunk_bytes)

    @property
    def expression(self):
        """The C++ name of the kernel."""
        return expression(f"grid::{self.kernel}", self.states, self.product.name, self.tiles)

    @property
    def seconds(self):
        """An estimate of one step."""
        rows, columns = ROWS * self.tiles, COLUMNS * self.product.across
        read = min(rows, self.N) * self.pitch * self.product.row_bytes / CACHE_RATE + self.kept_bytes / SHARED_RATE
        looks = -(-self.chunks * self.tiles // (self.held * self.product.down)) + self.backward
        one = read + 2 * rows * columns * self.pitch / self.product.rate + LOOK * looks + CELLS
        # A block's chains are worked on in turn, while messages of others are on their way; but not so the sums.
        if self.backward:
            one += MESSAGE
        return max(MESSAGE + one, one * -(-self.chains // self.replicas))


class Plan(NamedTuple):
    """Both directions."""

    forward: Pass
    backward: Pass


@lru_cache(maxsize=256)
def plan(dtype, precision, N, H, chip):
    """How a problem is divided on a device, or None if that cannot hold Wh.

    Parameters
    ----------
    dtype, precision : str
        As in `PRODUCTS`. The precision is that of float32.
    N, H : int
        Rows and units, at least 1.
    chip : Chip
        What the device has (`device.py`): its processors, and the shared memory of a block.
    """
    found = []
    for kernel, product in zip(KERNELS, PRODUCTS[kind(dtype, precision)], strict=True):
        passes = []
        for tiles in range(1, product.down + 1):
            alone = Pass(kernel, dtype, product, N, H, tiles, 1)
            replicas = min(alone.chains, chip.processors // alone.slices)
            if replicas and alone.shared_bytes <= chip.shared_bytes:
                passes.append(alone._replace(replicas=replicas))
        if not passes:
            return None
        found.append(min(passes, key=lambda part: part.seconds))
    return Plan(*found)


@lru_cache(maxsize=256)
def most_units(dtype, precision, chip):
    """The largest H whose Wh a device holds, or 0."""
    held = (H for H in range(32 * chip.processors, 0, -1) if plan.__wrapped__(dtype, precision, 1, H, chip))
    return next(held, 0)


def expressions():
    """Every kernel that a plan can ask for, by its C++ name."""
    every = (
        Pass(kernel, dtype, product, 1, 1, tiles, 1)
        for (dtype, _), products in PRODUCTS.items()
        for kernel, product in zip(KERNELS, products, strict=True)
        for tiles in range(1, product.down + 1)
    )
    return tuple(part.expression for part in every)
