"""CuPy's names and NumPy's arrays: as much as the programme for a GPU uses beside arrays. Kernels are only recorded."""

from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np

from benchmarks.gpu import latencies
from benchmarks.gpu.places import Host


class StandIn:
    """As much of CuPy as the programme uses beside arrays. `launched` are the kernels: name, grid, block, arguments."""

    def __init__(self, capability="90", pools=True):
        self.launched, self.made, self.captured, self.pools = [], 0, None, pools
        self.pool, self.non_portable = np.zeros(0, np.uint8), []
        self.cupy, self.cuda = ModuleType("cupy"), ModuleType("cupy.cuda")
        self.cupy.__getattr__ = lambda name: getattr(np, name)
        self.cupy.cuda, self.cupy.__version__ = self.cuda, "stand-in"
        self.cupy.RawModule, self.cupy.empty = self.RawModule, self.empty
        self.cupy.asnumpy = np.asarray
        self.cuda.MemoryPool, self.cuda.using_allocator = self.MemoryPool, lambda malloc: nullcontext()
        self.driver = SimpleNamespace(funcSetAttribute=lambda *asked: self.non_portable.append(asked))
        device = SimpleNamespace(id=0, compute_capability=capability, synchronize=lambda: None)
        self.cuda.Device, self.cuda.Event, self.cuda.Stream = (lambda: device), Host.Event, self.Stream
        self.cuda.get_elapsed_time = lambda start, stop: 1e3 * (stop.time - start.time)
        properties = {"name": b"stand-in", "multiProcessorCount": 4, "l2CacheSize": 1, "totalGlobalMem": 2}
        self.cuda.runtime = SimpleNamespace(
            CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}), getDeviceCount=lambda: 1,
            getDeviceProperties=lambda id: properties, driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000,
        )  # fmt: skip

    def MemoryPool(self):
        self.made += 1
        self.pool = np.zeros(0, np.uint8)
        return SimpleNamespace(malloc=None, used_bytes=lambda: 0, free_all_blocks=lambda: None)

    def empty(self, shape, dtype):
        """What was freed last, where it suffices: nothing else that the programme asks for is still in use then."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > self.pool.size or not self.pools:
            self.pool = np.zeros(size, np.uint8)
        return self.pool[:size].view(dtype).reshape(shape)

    def RawModule(self, *, code, options, name_expressions):
        assert code == latencies.SOURCE.read_text()

        def get_function(name):
            assert name in name_expressions

            def kernel(grid, block, arguments):
                assert all(isinstance(value, tuple) for value in (grid, block, arguments))
                assert all(isinstance(value, np.ndarray | np.int32) for value in arguments)
                (self.launched if self.captured is None else self.captured).append((name, grid, block, arguments))

            kernel.kernel = SimpleNamespace(ptr=name)
            return kernel

        return SimpleNamespace(get_function=get_function)

    @property
    def Stream(self):
        outer = self

        class Stream:
            def __init__(self, non_blocking=False):
                assert non_blocking  # the default stream cannot be captured

            def __enter__(self):
                return self

            def __exit__(self, *error):
                return False

            def begin_capture(self):
                assert outer.launched, "a kernel's first launch loads it, which a capture does not allow"
                outer.captured = []

            def end_capture(self):
                nodes, outer.captured = outer.captured, None
                return SimpleNamespace(launch=lambda stream: outer.launched.extend(nodes))

        return Stream
