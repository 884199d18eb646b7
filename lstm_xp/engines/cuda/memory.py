"""Arrays on a device: where work goes, and what is said when there is no memory for it."""

import sys

# Errors, with their status, of what takes memory beside arrays, whose own is a MemoryError: graphs, modules, cuBLAS.
FULL = {("CUDARuntimeError", 2), ("CUDADriverError", 2), ("CUBLASError", 3)}


def cuda():
    """CuPy's `cuda`; whoever has CuPy's arrays has imported it. (An `import` takes some microseconds at each call.)"""
    return sys.modules["cupy"].cuda


class working_on:  # a generator would take several times as long
    """Work on a device; where its memory does not suffice, say how much was needed, and what to do."""

    def __init__(self, device, what, needed):
        self.device, self.what, self.needed = device, what, needed

    def __enter__(self):
        self.device.__enter__()

    def __exit__(self, kind, error, traceback):
        try:
            if is_full(error):
                raise MemoryError(told(self.device, self.what, self.needed)) from error
        finally:
            self.device.__exit__(kind, error, traceback)


def told(device, what, needed):
    """What is said where the memory of the current device does not suffice for so many bytes."""
    from cupy.cuda import runtime

    free, total = (f"{size / 1e9:.2f} GB" for size in runtime.memGetInfo())
    return (
        f"{what} need {needed / 1e9:.2f} GB on cuda:{device.id}, where {free} of {total} are free; "
        f"a smaller batch needs less, or training=False where no gradients are wanted."
    )


def is_full(error):
    """Whether an error says that there is no memory."""
    return isinstance(error, MemoryError) or (type(error).__name__, getattr(error, "status", None)) in FULL


def running(v, like):
    """A gradient of the final state (or None) as an array of its own, to be written over at every step."""
    import cupy

    return cupy.zeros(like.shape, like.dtype) if v is None else cupy.array(v, like.dtype, order="C")


def strided(v):
    """Where an array begins, and its strides in items."""
    return v.data.ptr, *(stride // v.itemsize for stride in v.strides)
