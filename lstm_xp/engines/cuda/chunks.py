"""Steps of one product by cuBLAS and one kernel each (`chunk.cu`), replayed in chunks from CUDA graphs.

A call of cuBLAS or of a kernel takes the host some 10 microseconds, which is more than most steps take the device. So
graphs of 1, 2, 4, ..., 32 steps are captured, each when it is first needed, and any number of steps is a sum of these.

A graph has the addresses of a product for good. So its factors and its result lie in memory that is kept: Wh is copied
there once per call, and the kernel of each step, which knows the step from its chunk, writes the other factor of the
next product there too. What is kept is leased as `leases.py` says.
"""

import warnings
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from . import blas, kernels, leases
from .capture import captured, capturing, is_captured
from .device import current
from .memory import is_full
from .pointwise import BLOCK, GRADIENTS, expression
from .products import FixedProduct

FILES = ("chunk.cu",)
KERNELS = ("chunk_forward", "chunk_backward")
# Backward, the product has few results, of 4H terms each: too few for all of the device. So it is made in parts, one of
# each gate, which the kernel adds, always in one order. On FMA units, from so many units on, one product is quicker.
PARTS, WHOLE = 4, 1024
EXPRESSIONS = (
    *(expression(KERNELS[0], dtype) for dtype in kernels.TYPES),
    *(expression(KERNELS[1], *dtypes, parts) for dtypes in GRADIENTS for parts in (1, PARTS)),
    *(kernels.expression("chunk_sum", dtype) for dtype in ("float32", "float64")),
)
# Steps of the longest graph. Fewer steps than FEWEST are launched one by one.
MOST, FEWEST = 32, 8
# Bytes of a chunk, and more.
CHUNK_BYTES = 128
# The words of a Chunk after `first`.
WORDS = ("gates", "c", "c0", "h", "kept", "da", "dc", "by_step", "by_row", "by_unit")

# Devices on which capture failed, by their number.
_failed = set()


class Steps(NamedTuple):
    """One pass of one size; dtypes of the states (backward: of the gradient from outside), of the factors of products,
    and of all that is computed.
    """

    backward: bool
    states: np.dtype
    factors: np.dtype
    computed: np.dtype
    N: int
    H: int
    precision: str

    @property
    def expression(self):
        if self.backward:
            return expression(KERNELS[1], self.states.name, self.factors.name, self.parts)
        return expression(KERNELS[0], self.states.name)

    @property
    def parts(self):
        whole = not self.backward or (self.precision == "ieee" and self.H >= WHOLE)
        return 1 if whole else PARTS

    @property
    def turned(self):
        """Whether Wh is kept transposed, as products of TF32 are quicker where what is summed lies side by side.

        Backward, it does so in any case.
        """
        return not self.backward and (self.factors.name, self.precision) == ("float32", "tf32")

    @property
    def packed_bytes(self):
        """Of what is kept for it."""
        factor, result = (4, self.parts) if self.backward else (1, 4)
        of_factors = (factor * self.N + 4 * self.H) * self.H * self.factors.itemsize
        return CHUNK_BYTES + blas.WORKSPACE_BYTES + of_factors + result * self.N * self.H * self.computed.itemsize

    def bytes_for(self, count):
        """Of what is needed for so many steps: 0, where these are better launched one by one."""
        # Both passes have to be kept, or each call would capture anew.
        return self.packed_bytes if count >= FEWEST and self.packed_bytes <= leases.KEPT_BYTES // 2 else 0


class Runner:
    """The graphs of one pass, and its memory, on the device that is current when it is made."""

    usable = True  # for later calls

    def __init__(self, steps):
        import cupy as cp

        self.steps, self.graphs = steps, {}
        N, H = steps.N, steps.H
        self.chunk, self.workspace = cp.empty(CHUNK_BYTES, "uint8"), cp.empty(blas.WORKSPACE_BYTES, "uint8")
        # h or da; the parts of the product with Wh.
        depth, width = (4 * H, H) if steps.backward else (H, 4 * H)
        parts = steps.parts
        self.factor, self.result = cp.empty((N, depth), steps.factors), cp.empty((parts, N, width), steps.computed)
        self.Wh = cp.empty((4 * H, H), steps.factors).T if steps.turned else cp.empty((H, 4 * H), steps.factors)
        factor = self.factor.reshape(N, parts, depth // parts).swapaxes(0, 1)
        Wh = (self.Wh.T if steps.backward else self.Wh).reshape(parts, depth // parts, width)
        self._product = FixedProduct(factor, Wh, self.result, precision=steps.precision)
        names = "fill_chunk", steps.expression, kernels.expression("chunk_sum", steps.computed.name)
        self._fill, self._cell, self._sum = (kernels.function(FILES, name, names) for name in names)

    def prepare(self, count):
        """Capture what so many steps lack."""
        lacking = sorted(set(lengths(count)) - set(self.graphs))
        if not lacking:
            return
        with capturing:
            with blas.working(self.workspace.data):
                # What runs for the first time is loaded, which cannot be while a stream captures.
                self._product()
                self._launch_cell(0, 0)
            for length in lacking:
                self.graphs[length] = captured(lambda length=length: self._launch(length))

    def run(self, count, **words):
        """So many steps, backward from the last one; `words` are those of a Chunk."""
        words = [words.get(name) or 0 for name in WORDS]
        done = 0
        for length in lengths(count):
            first = count - 1 - done if self.steps.backward else done
            self._fill((1,), (1,), (self.chunk.data.ptr, first, *words))
            self.graphs[length].launch()
            done += length

    def sum_into(self, out):
        """The result of the last product, where its parts are one, to an address."""
        size = self.steps.N * self.steps.H
        counts = np.uint32(self.steps.parts), np.uint32(size)
        self._sum((-(-size // BLOCK),), (BLOCK,), (self.result.data.ptr, out, *counts))

    def _launch(self, count):
        with blas.working(self.workspace.data):
            for offset in range(count):
                if not self.steps.backward:
                    self._product()
                self._launch_cell(offset, self.steps.N * self.steps.H)
                if self.steps.backward:
                    self._product()

    def _launch_cell(self, offset, size):
        places = self.chunk.data.ptr, self.result.data.ptr, self.factor.data.ptr
        counts = np.uint32(offset), np.uint32(size), np.uint32(self.steps.H)
        self._cell((max(1, -(-size // BLOCK)),), (BLOCK,), (*places, *counts))


def lengths(count):
    """Of the graphs for so many steps: the longest first."""
    rest = [1 << bit for bit in reversed(range(MOST.bit_length() - 1)) if count >> bit & 1]
    return [MOST] * (count // MOST) + rest


@contextmanager
def leased(steps, count):
    """A runner that is prepared for so many steps; None, where these are to be launched one by one."""
    device = current()
    if not steps.bytes_for(count) or device in _failed or not blas.loaded() or is_captured():
        yield None
        return
    with leases.leased(steps, Runner) as runner:
        try:
            runner.prepare(count)
        except Exception as error:
            if is_full(error):
                raise
            _failed.add(device)
            runner.usable, runner = False, None
            told = "steps are launched one by one on cuda:%d, for they could not be captured: %s"
            warnings.warn(told % (device, error), RuntimeWarning, stacklevel=2)
        yield runner


def forget():
    """Try again on every device."""
    _failed.clear()
