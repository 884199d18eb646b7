"""The launches of `step.cu`: one per step, replayed from a CUDA graph.

A graph of CHUNK launches is captured once, so that neither capture nor graph grows with the number of steps. It knows
the addresses of its job, of the packed weights, and of the rows that steps leave each other. Each replay is preceded by
a launch that fills in the job: addresses of arrays, and how many steps were done; launches beyond the last step return
at once.

Where the device and its driver can do that, a step begins while the one before it still runs, and reads weights until
that is done (`programmatic.py`). The first one in a graph waits for all before it, as any kernel does: the job and the
packed weights are there for all of them. So does what follows a graph: its last kernel ends after all others, as each
waits for the end of the one before.
"""

from . import kernels, programmatic
from .capture import captured, capturing, is_captured
from .device import chip, current
from .memory import strided
from .plan import CLUSTERS

FILES = "mma.cuh", "cluster.cuh", "step.cu"
# Launches in a graph; an even number, as two places of rows take turns. With fewer steps than FEWEST, they are launched
# one by one.
CHUNK, FEWEST = 32, 8
# Bytes of a job, and more.
JOB_BYTES = 128
# The words of a Job after `first` and `steps`.
WORDS = ("gates", "c", "c0", "h", "kept", "da", "dh", "dc", "by_step", "by_row", "by_unit")
# By product: estimated seconds of a step, up to which it begins while the one before still runs. Blocks that begin
# early lie on the multiprocessors as there is room, several on one: a longer step loses more by that than it saves,
# which is half a microsecond; most of all on FMA units.
EARLY = {"Half": 6e-6, "Bfloat": 6e-6, "Tf32": 6e-6, "Ieee": 4e-6}
# Shared memory that a block may have without asking.
SHARED_BYTES = 48 << 10
# An offset beyond all steps: launches there do nothing.
BEYOND = 2**31 - 1
# Threads of a block that packs weights.
BLOCK = 256
# What the kernels take, as `Launcher` says.
PARAMETERS = {"fill": "PqqPPPPqPPPqqq", "pack": "PqqIIIPI", "pack_rows": "PIIIIP", "step": "PPPIIi"}
# Devices, by their number, and whether programmatic launches can be captured there: tried once.
_programmatic = {}


class Runner:
    """One pass of one size, on the device that is current when it is made."""

    usable = True  # for later calls

    def __init__(self, steps):
        import cupy as cp

        self.steps, self.graph = steps, None
        self.job = cp.empty(JOB_BYTES, "uint8")
        self.weights, self.rows = cp.empty(steps.weights_bytes, "uint8"), cp.zeros(steps.rows_bytes, "uint8")
        self._fill, self._pack = self._launcher("fill", "fill"), self._launcher(steps.packing, "pack")
        self._pack_rows = None if steps.backward else self._launcher(steps.packing_rows, "pack_rows")
        self._step = self._launcher(steps.expression, "step")
        self._next = self._launcher(steps.expression, "step", launch=programmatic.launch)
        if steps.shared_bytes > SHARED_BYTES:
            self._step.kernel.max_dynamic_shared_size_bytes = steps.shared_bytes

    @staticmethod
    def _launcher(expression, parameters, **options):
        return kernels.Launcher(kernels.function(FILES, expression), PARAMETERS[parameters], **options)

    def pack(self, Wh, h0=None):
        """Copy the weights, of any strides, and h0, if there is one, to where and how the kernel reads them."""
        steps = self.steps
        size = steps.weights_bytes // 16
        sizes = steps.H, steps.chunks, steps.tile.across
        self._pack(-(-size // BLOCK), BLOCK, *strided(Wh), *sizes, self.weights.data.ptr, size)
        if h0 is not None:
            sizes = steps.N, steps.H, steps.chunks, steps.tile.down
            self._pack_rows(-(-steps.N * steps.H // BLOCK), BLOCK, h0.ptr, *sizes, self.rows.data.ptr)

    def run(self, count, launches, **words):
        """So many launches for a job of `count` steps; `words` are those of a Job, as step.cu has them."""
        words = [words.get(name) or 0 for name in WORDS]
        one_by_one = launches < FEWEST or is_captured()
        chunk = launches if one_by_one else CHUNK
        for first in range(0, launches, chunk):
            self._fill(1, 1, self.job.data.ptr, first, count, *words)
            if one_by_one:
                self._launch(range(launches), is_captured() and self._may_be_programmatic())
            else:
                self.graph = self.graph or self._captured()
                self.graph.launch()

    def _launch(self, offsets, early=False):
        steps, launch = self.steps, self._step
        addresses = self.job.data.ptr, self.weights.data.ptr, self.rows.data.ptr
        for offset in offsets:
            launch(steps.grid, steps.block, *addresses, steps.N, steps.H, offset, shared_bytes=steps.shared_bytes)
            launch = self._next if early else self._step

    def _captured(self):
        with capturing:
            self._launch([BEYOND])  # loads the kernel: nothing can be loaded while a stream captures
            early = self._may_be_programmatic()
            return captured(lambda: self._launch(range(CHUNK), early))

    def _may_be_programmatic(self):
        """Whether steps may, and should, on the current device; ordinary launches are always right."""
        from cupy.cuda import get_current_stream

        device = current()
        if self.steps.seconds(chip(device).processors) > EARLY[self.steps.product]:
            return False
        if device not in _programmatic and not get_current_stream().is_capturing():
            _programmatic[device] = self._can_be_programmatic()
        return _programmatic.get(device, False)

    def _can_be_programmatic(self):
        # By what the kernel was compiled for: without a griddepcontrol in it, it would not wait.
        if self._step.kernel.ptx_version < CLUSTERS or not programmatic.loaded():
            return False
        try:
            with capturing:
                self._launch([BEYOND])
                captured(lambda: self._launch([BEYOND] * 2, True))
        except Exception:
            return False
        return True


def forget():
    """Try on every device anew what can be captured there."""
    _programmatic.clear()
