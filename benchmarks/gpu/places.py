"""Where the programme runs: CuPy on the current CUDA device, or, for a rehearsal, NumPy on this processor.

A place makes arrays and times calls. Nothing of a device is touched before one of its methods is called.
"""

import sys
from contextlib import contextmanager
from time import perf_counter

import numpy as np

from .sizes import KINDS

# NaN in every floating dtype.
POISON = 0xFF


class NoDevice(Exception):
    """There is nothing to run on; the message says why in one line."""


def open_place(name):
    """A place by its name: cuda or cpu."""
    return {"cuda": Cuda, "cpu": Host}[name]()


def dtype_of(kind):
    """The dtype of a kind of numbers as NumPy and CuPy want it."""
    name = KINDS[kind].dtype
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes  # CuPy takes this one, but has no name for it

    return np.dtype(ml_dtypes.bfloat16)


class Cuda:
    """CuPy on its current device and stream, the one that torch's default stream is too."""

    name, array_library, torch_device = "cuda", "cupy", "cuda"
    rehearsal = False
    # The engine that gives the times' float64 references: in float64, `correctness` compares it with the reference
    # engine over all its shapes; that one would take longer than all that is timed.
    quick = "cupy_fused"
    # The side of the cube of the measured products, bytes of a copy.
    cube, copied = 8192, 2**30

    def __init__(self):
        self.pools = []

    @property
    def xp(self):
        import cupy

        return cupy

    def check(self):
        """`NoDevice` where there is none."""
        try:
            import cupy
        except ImportError as error:
            raise NoDevice(f"CuPy cannot be imported ({error})") from None
        try:
            if not cupy.cuda.runtime.getDeviceCount():
                raise NoDevice("CuPy finds none")
            cupy.zeros(1).sum().item()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise NoDevice(f"CuPy says {error}") from None

    def array(self, v, kind="float64"):
        """A NumPy array on the device, which rounds it: processors take long over half types."""
        return self.xp.asarray(v).astype(dtype_of(kind), copy=False)

    def adopt(self, tensor):
        """A torch tensor as an array of float32 or float64, on the device it is on."""
        return self.xp.from_dlpack(tensor.detach())

    def product(self, A, B, out, kind):
        """out = A @ B as a function, with the compute type that the engines ask cuBLAS for."""
        from lstm_xp.engines.cuda.products import Product

        return Product(A, B, out, precision=KINDS[kind].precision)

    @contextmanager
    def poisoned(self, size):
        """In it, arrays come from so many bytes that are NaN, in a pool of their own: no other one has free memory.

        Gives whether an array that is asked for now is really all NaN.
        """
        import cupy

        # A pool that is gone takes its memory along, though arrays lie in it: results, and what engines keep. And one
        # that nobody needs any more is not gone before its cycles of references are.
        for pool in self.pools:
            pool.free_all_blocks()
        self.pools = [pool for pool in self.pools if pool.used_bytes()] + [cupy.cuda.MemoryPool()]
        with cupy.cuda.using_allocator(self.pools[-1].malloc):
            block = cupy.empty(size, np.uint8)
            block[...] = POISON
            del block
            # Looked at by the processor: what the device computes from it would be written there.
            yield bool(np.isnan(cupy.asnumpy(cupy.empty(1024, np.float32))).all())

    def forget(self):
        """Let engines give back what they keep between calls: a little of it holds a whole pool."""
        from lstm_xp.engines.cuda import leases

        self.synchronize()
        leases.forget()

    def synchronize(self):
        self.xp.cuda.Device().synchronize()

    def release(self):
        """Give all free memory back, CuPy's and torch's."""
        self.synchronize()
        self.xp.get_default_memory_pool().free_all_blocks()
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()

    def events(self):
        """Two events, to be recorded on the current stream."""
        return self.xp.cuda.Event(), self.xp.cuda.Event()

    def between(self, start, stop):
        """Seconds."""
        return self.xp.cuda.get_elapsed_time(start, stop) / 1e3

    def broken(self, error):
        """Whether nothing can be run in this process any more: an error of the device stays."""
        words = ("CUDARuntimeError", "CUDADriverError", "AcceleratorError", "CUBLASError")
        return type(error).__name__ in words or "CUDA error" in str(error)


class Host:
    """NumPy and torch on the CPU. Nothing that is measured here means anything."""

    name, array_library, torch_device = "cpu", "numpy", "cpu"
    rehearsal = True
    quick = "array_api"
    cube, copied = 256, 2**22
    xp = np

    class Event:
        """The stand-in for an event."""

        def record(self):
            self.time = perf_counter()

        def synchronize(self):
            pass

    def check(self):
        pass

    def array(self, v, kind="float64"):
        return v.astype(dtype_of(kind))

    def adopt(self, tensor):
        return np.from_dlpack(tensor.detach())

    def product(self, A, B, out, kind):
        return lambda: np.matmul(A, B, out=out)

    @contextmanager
    def poisoned(self, size):
        yield None

    def forget(self):
        pass

    def synchronize(self):
        pass

    def release(self):
        pass

    def events(self):
        return self.Event(), self.Event()

    def between(self, start, stop):
        return stop.time - start.time

    def broken(self, error):
        return False
