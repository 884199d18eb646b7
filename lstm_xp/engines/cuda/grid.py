"""The launches of `grid.cu`: one for all steps. Nothing is kept between calls but the compiled kernels and a report.

The kernel gives up a wait after so many looks at a message: PATIENCE of them take about two seconds, by estimate. Then
what it has not computed is NaN, and it leaves a word in the host's memory, which the next call on that device looks at
and raises. So no call waits for the device in order to know whether it went well.
"""

from functools import cache, lru_cache

import numpy as np

from . import kernels
from .device import current
from .grid_plan import LANES, LINE, WARPS
from .memory import cuda, strided

FILES = ("mma.cuh", "grid_messages.cuh", "grid_product.cuh", "grid.cu")
PATIENCE = 1 << 22

# What a launch works on, as in grid.cu.
WORDS = (
    "T", "N", "H", "slices", "replicas", "chains", "tiles", "pitch", "patience", "Wh", "Wh_by_row", "Wh_by_column",
    "alarm", "report", "messages", "sums", "gates", "c", "c0", "kept", "h", "h0", "da", "dh", "dc", "by_step",
    "by_row", "by_unit", "is_float",
)  # fmt: skip
SIZES = ("N", "H", "slices", "replicas", "chains", "tiles", "pitch")
PARAMETERS = f"{len(WORDS)}q"

TROUBLE = {
    1: "a block waited in vain for what others compute. Was the device shared or stopped meanwhile?",
    2: "the launch had fewer blocks than were asked for.",
}


def run(part, chip, Wh, **words):
    """Launch one pass on the current device and stream; `words` are those of a Work, arrays by their addresses."""
    launch, fixed, workspace_bytes, message_bytes = _settled(part, chip, current())
    told = cuda().alloc(workspace_bytes)
    told.memset_async(0xFF, workspace_bytes)  # all bits set: nothing yet
    messages = told.ptr + LINE
    words["alarm"], words["messages"], words["sums"] = told.ptr, messages, messages + message_bytes
    words["Wh"], words["Wh_by_row"], words["Wh_by_column"] = strided(Wh)
    words["patience"] = PATIENCE
    launch(words | fixed)


def check(name):
    """Raise if an earlier launch on the current device gave up."""
    _, words = _report(current())
    trouble, words[0] = int(words[0]), 0
    if trouble:
        raise RuntimeError(
            f"{name}: an earlier call on cuda:{current()} was given up, for {TROUBLE[trouble]} What it returned has "
            f"NaN where nothing was computed. The device is in order; this call has not begun."
        )


@lru_cache(maxsize=256)
def _settled(part, chip, device_id):
    """What a launch of a pass takes on a device, which is current: a function of the words, those that are fixed, bytes
    of the workspace, and those of messages."""
    kernel = kernels.function(FILES, part.expression, cooperative=True)
    # The most there is, whatever this launch needs: another thread's launch may need more at the same moment.
    kernel.max_dynamic_shared_size_bytes = chip.shared_bytes
    _look_for_room(kernel, part, chip)
    launch = kernels.Launcher(kernel, PARAMETERS, cooperative=True)
    blocks, shared_bytes = part.blocks, part.shared_bytes
    fixed = {name: getattr(part, name) for name in SIZES} | {"report": _report(device_id)[0].ptr}

    def run(words):
        launch(blocks, LANES * WARPS, *(words.get(word, 0) for word in WORDS), shared_bytes=shared_bytes)

    return run, fixed, part.workspace_bytes, part.message_bytes


def _look_for_room(kernel, part, chip):
    """All blocks have to be on the device at once; of one that is too large, the driver would launch none."""
    from cupy_backends.cuda.api import driver

    each = driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel.kernel.ptr, LANES * WARPS, part.shared_bytes)
    if each * chip.processors < part.blocks:
        raise RuntimeError(
            f"cupy_grid: {part.blocks} blocks of {LANES * WARPS} threads and {part.shared_bytes} bytes must be on the "
            f"device at once; its driver has room for {each} on each of {chip.processors} multiprocessors."
        )


@cache
def _report(device_id):
    """A word of the host's memory that the device can write to, for good: launches may still hold its address."""
    from cupy import cuda

    memory = cuda.alloc_pinned_memory(4)
    words = np.frombuffer(memory, np.uint32, 1)
    words[0] = 0
    return memory, words
