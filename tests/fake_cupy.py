"""As much of CuPy as the CUDA engines use, on NumPy: memory with guards, devices, kernels, cuBLAS; nothing else.

Memory that was not written to is NaN. Every address that a kernel or a product is given must lie in memory that is
alive, of the current device, with all of what is read and written there. Whatever would wait for the device raises.
Kernels are NumPy functions here, or the CUDA source itself, compiled for this processor (cuda_on_cpu.py).
"""

import ctypes
import math
import re
import struct
import sys
import threading
import weakref
from contextlib import contextmanager
from functools import partial, wraps
from types import ModuleType, SimpleNamespace

import cluster_emulation
import numpy as np
import step_emulation
from cuda_on_cpu import blocks_at_once

from lstm_xp.engines.cuda import grid, programmatic

WORK = np.dtype([(word, np.int64) for word in grid.WORDS])
GUARD = 64
NAMES = {"float16": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64"}
CUDA_TYPES = {"CUDA_R_32F": 0, "CUDA_R_64F": 1, "CUDA_R_16F": 2, "CUDA_R_16BF": 14}
BLAS_TYPES = {0: "float32", 1: "float64", 2: "float16", 14: "bfloat16"}
COMPUTE_TYPES = {"32F": 68, "32F_PEDANTIC": 69, "64F": 70, "32F_FAST_TF32": 77}
SIZES = {
    int: ctypes.c_longlong,
    np.uint32: ctypes.c_uint32,
    np.int32: ctypes.c_int32,
}  # what CuPy makes of arguments of a kernel
MEMORY = 1 << 40
RELAXED = 2  # CUDA's number of that mode of capture
# What a launch may have unless the kernel was told otherwise, and at all.
SHARED_BYTES, MOST_SHARED_BYTES, CLUSTER = 48 * 1024, 232448, 8


def dtype_of(name):
    """A NumPy dtype by its name, bfloat16 too."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def reach(shape, strides):
    """How far an array goes, in bytes like its strides: before its first item, and to the beginning of its last one."""
    spans = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return tuple(sum(edge(0, span) for span in spans) for edge in (min, max))


def at(address, shape, strides, dtype):
    """Memory as an array; strides in bytes."""
    low, high = reach(shape, strides)
    memory = (ctypes.c_char * (high - low + dtype.itemsize)).from_address(address + low)
    return np.ndarray(shape, dtype, memory, -low, strides)


class Array(np.ndarray):
    """An array of a fake device."""

    def __array_finalize__(self, parent):
        self.__dict__.setdefault("place", getattr(parent, "place", None))

    @property
    def device(self):
        return self.place or FAKE.devices[0]

    @property
    def data(self):
        return Memory(FAKE.address(self), self)

    def _waits(self, *arguments, **options):
        raise AssertionError("this would wait for the device")

    get = item = tolist = __bool__ = __float__ = __int__ = _waits


class Memory:
    """A place in memory that something keeps alive."""

    def __init__(self, ptr, keeping):
        self.ptr, self.keeping, self.device_id = ptr, keeping, FAKE.current[-1].id

    def __add__(self, offset):
        return Memory(self.ptr + int(offset), self.keeping)

    def __iadd__(self, offset):
        raise AssertionError("CuPy would move this place itself, and every array that was made of it")

    def memset_async(self, value, size):
        FAKE.streams[-1].take(lambda: np.copyto(self._bytes(size), value, casting="unsafe"))

    def copy_from_device_async(self, other, size):
        FAKE.streams[-1].take(lambda: np.copyto(self._bytes(size), other._bytes(size)))

    def _bytes(self, size):
        return FAKE.view(self.ptr, (size,), (1,), np.dtype(np.uint8))


class Device:
    """One of the devices, and the `with` that makes it current. As CuPy's, it cannot be hashed."""

    def __init__(self, id, capability, processors):
        self.id, self.compute_capability = id, capability
        self.attributes = {"MultiProcessorCount": processors, "CooperativeLaunch": 1}
        self.attributes["MaxSharedMemoryPerBlockOptin"] = 227 * 1024

    def __enter__(self):
        FAKE.current.append(self)

    def __exit__(self, *error):
        assert FAKE.current.pop() is self

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None

    def __repr__(self):
        return f"<fake device {self.id}>"


class Stream:
    """A stream, and the `with` that makes it current. What is captured does not run."""

    def __init__(self, *, non_blocking=False):
        self.ptr, self.captured = id(self) if non_blocking else 0, None
        self.last = None  # the kernel that was launched last, where nothing else came after

    def __enter__(self):
        FAKE.streams.append(self)
        return self

    def __exit__(self, *error):
        assert FAKE.streams.pop() is self

    def record(self):
        return self

    def wait_event(self, event):
        assert isinstance(event, Stream)

    def synchronize(self):
        assert self.captured is None

    def is_capturing(self):
        return self.captured is not None

    def take(self, work):
        """What goes to this stream."""
        self.last = None
        work() if self.captured is None else self.captured.append(work)

    def begin_capture(self, mode):
        assert mode == RELAXED
        assert self.ptr, "the default stream cannot capture"
        assert not FAKE.cublas.threads, "another thread captures"
        FAKE.cublas.threads.add(threading.get_ident())
        self.captured, self.last = [], None

    def end_capture(self):
        graph, self.captured = Graph(self.captured), None
        FAKE.cublas.threads.clear()
        if FAKE.spoiled:
            FAKE.spoiled -= 1
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        FAKE.calls.append(("captured", len(graph.launches)))
        return graph


class Pool:
    """What comes from it stays its own, and is not used by anybody else."""

    def __init__(self):
        self.held = []

    def malloc(self):
        raise NotImplementedError

    def used_bytes(self):
        return len(self.held)

    total_bytes = used_bytes

    def free_all_blocks(self):
        """Nothing is free in it."""


@contextmanager
def using_allocator(malloc):
    FAKE.pools.append(malloc.__self__)
    yield
    FAKE.pools.pop()


class Graph:
    """Launches, to be replayed."""

    def __init__(self, launches):
        self.launches, self.device = launches, FAKE.current[-1]

    def launch(self, stream=None):
        assert FAKE.current[-1] is self.device
        FAKE.calls.append(("graph", len(self.launches)))
        for launch in self.launches:
            launch()


def locked(method):
    """By one thread at a time."""

    @wraps(method)
    def run(self, *arguments):
        with self.lock:
            return method(self, *arguments)

    return run


class Fake:
    """The machine: devices, memory, and what was called."""

    def __init__(self, compiled=None, capability="90", devices=1, memory=MEMORY, processors=132):
        global FAKE
        FAKE = self
        self.compiled, self.memory, self.math_mode = compiled, memory, 0
        self.pools = []  # that arrays come from
        self.spoiled = 0  # captures that are to fail
        self.seed = 0  # of the order in which threads of a launch run whose blocks meet
        self.name, self.room = "NVIDIA Test", 1  # for blocks of a cooperative launch, on each processor
        self.devices = [Device(id, capability, processors) for id in range(devices)]
        self.stacks, self.lock = threading.local(), threading.RLock()  # of what is known of memory
        self.calls, self.handles, self.modules, self.extents = [], {}, [], {}
        self.cublas = Library()
        self.programmatic, self.refused = False, 0  # whether there are such launches; how many of the next ones fail

    @property
    def current(self):
        """The current devices of this thread, the innermost last."""
        if not hasattr(self.stacks, "devices"):
            self.stacks.devices = [self.devices[0]]
        return self.stacks.devices

    @property
    def streams(self):
        """The current streams of this thread, the innermost last."""
        if not hasattr(self.stacks, "streams"):
            self.stacks.streams = [Stream()]
        return self.stacks.streams

    def install(self, monkeypatch):
        """Put the modules where `import` finds them."""
        cupy, cuda, cublas = ModuleType("cupy"), ModuleType("cupy.cuda"), ModuleType("cublas")
        for function in (self.empty, self.zeros, self.array, self.ascontiguousarray):
            setattr(cupy, function.__name__, function)
        cupy.cuda, cupy.RawModule, cupy.ndarray = cuda, self.RawModule, type("ndarray", (), {"__new__": self.ndarray})
        cuda.device = SimpleNamespace(get_cublas_handle=self.get_cublas_handle)
        cuda.runtime = SimpleNamespace(memGetInfo=lambda: (self.memory - self.used(), self.memory), **CUDA_TYPES)
        cuda.runtime.streamCaptureModeRelaxed = RELAXED
        cuda.runtime.getDeviceProperties = lambda id: {"name": self.name.encode()}
        cuda.Stream, cuda.get_current_stream = Stream, lambda: self.streams[-1]
        cuda.MemoryPool, cuda.using_allocator = Pool, using_allocator
        cuda.Device = lambda id=None: self.current[-1] if id is None else self.devices[id]
        cublas.gemmEx, cublas.getMathMode = self.gemmEx, lambda handle: self.math_mode
        cublas.check_status = check_status
        cublas.CUBLAS_DEFAULT_MATH, cublas.CUBLAS_GEMM_DEFAULT = 0, -1
        for name, value in COMPUTE_TYPES.items():
            setattr(cublas, f"CUBLAS_COMPUTE_{name}", value)
        cuda.alloc_pinned_memory, cuda.alloc = self.alloc_pinned_memory, lambda size: self.empty(size, np.uint8).data
        libs, api = ModuleType("cupy_backends.cuda.libs"), ModuleType("cupy_backends.cuda.api")
        libs.cublas, api.driver = cublas, SimpleNamespace(funcSetAttribute=self.funcSetAttribute)
        api.driver.check_status = check_status
        api.driver.launchKernel, api.driver.launchCooperativeKernel = self.launchKernel, self.launchCooperativeKernel
        api.driver.occupancyMaxActiveBlocksPerMultiprocessor = self.occupancy
        parents = {name: ModuleType(name) for name in ("cupy_backends", "cupy_backends.cuda")}
        found = {"cupy": cupy, "cupy.cuda": cuda, "cupy_backends.cuda.libs": libs, **parents}
        found["cupy_backends.cuda.api"] = api
        found["cupy_backends.cuda.libs.cublas"] = cublas
        for name, module in found.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(programmatic, "loaded", lambda: self.cuLaunchKernelEx if self.programmatic else None)

    # Memory

    @locked
    def empty(self, shape, dtype):
        dtype = dtype if isinstance(dtype, np.dtype) else dtype_of(dtype)
        shape = (shape,) if isinstance(shape, int) else shape
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if self.used() + size > self.memory:
            raise type("OutOfMemoryError", (MemoryError,), {})(f"{size} bytes")
        root = np.full(size + 2 * GUARD, 0xFF, np.uint8)  # NaN in every dtype
        start = root.ctypes.data
        self.extents[start + GUARD] = start + GUARD + size, weakref.ref(root)
        if self.pools:
            self.pools[-1].held.append(root)
        array = root[GUARD : GUARD + size].view(dtype).reshape(shape).view(Array)
        array.place = self.current[-1]
        return array

    def ndarray(self, kind, shape, dtype, memory, strides=None):
        """An array of memory that is there."""
        strides = np.empty(shape, dtype).strides if strides is None else strides
        low, high = reach(shape, strides)
        root = memory.keeping
        while isinstance(root.base, np.ndarray):
            root = root.base
        start = root.__array_interface__["data"][0]
        assert start <= memory.ptr + low, "an array that begins before its memory"
        assert memory.ptr + high + dtype.itemsize <= start + root.nbytes, "an array that ends behind its memory"
        array = np.ndarray(shape, dtype, root.view(np.uint8), memory.ptr - start, strides).view(Array)
        array.place = self.current[-1]
        return array

    def zeros(self, shape, dtype):
        array = self.empty(shape, dtype)
        np.copyto(array, 0)
        return array

    def array(self, v, dtype=None, order="K"):
        array = self.empty(v.shape, dtype or v.dtype)
        np.copyto(array, v, casting="unsafe")
        return array

    def ascontiguousarray(self, v, dtype=None):
        dtype = v.dtype if dtype is None else dtype_of(dtype) if isinstance(dtype, str) else dtype
        return v if v.flags.c_contiguous and v.dtype == dtype else self.array(v, dtype)

    @locked
    def used(self):
        """Bytes that are alive; guards must not have been written to."""
        self.extents = {start: extent for start, extent in list(self.extents.items()) if extent[1]() is not None}
        for _, root in list(self.extents.values()):
            if (memory := root()) is not None and memory.dtype == np.uint8:
                assert np.all(memory[:GUARD] == 0xFF), "written before an array"
                assert np.all(memory[-GUARD:] == 0xFF), "written behind an array"
        return sum(stop - start for start, (stop, _) in self.extents.items())

    @locked
    def address(self, array):
        """Where an array begins; memory that NumPy made is known from here on."""
        address = array.__array_interface__["data"][0]
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if root.dtype != np.uint8 and root.size:
            start = root.__array_interface__["data"][0]
            low = start + sum(min(0, (n - 1) * stride) for n, stride in zip(root.shape, root.strides, strict=True))
            self.extents[low] = low + root.nbytes, weakref.ref(root)
        assert array.device is self.current[-1], f"an array of {array.device} where {self.current[-1]} is current"
        return address

    def view(self, address, shape, strides, dtype):
        """What lies at an address, which must be inside one piece of memory that is alive."""
        strides = tuple(stride * dtype.itemsize for stride in strides)
        low, high = (address + edge for edge in reach(shape, strides))
        high += dtype.itemsize
        inside = any(start <= low and high <= stop and root() is not None
                     for start, (stop, root) in list(self.extents.items()))  # fmt: skip
        assert inside, f"{high - low} bytes at {low:#x} are not in any array"
        return at(address, shape, strides, dtype)

    # Kernels

    def RawModule(self, *, code, options, name_expressions, enable_cooperative_groups=False):
        self.modules.append((code, options, name_expressions))

        def get_function(expression):
            assert expression in name_expressions

            def run(grid, block, arguments, shared_mem=0):
                if enable_cooperative_groups:
                    work = partial(self.cooperate, kernel, expression, grid, block, arguments, shared_mem)
                elif expression.startswith("cluster_"):
                    work = partial(self.launch_cluster, kernel, expression, grid, block, arguments, shared_mem)
                else:
                    work = partial(self.launch, kernel, expression, grid, block, arguments, shared_mem)
                strange = [v for v in arguments if type(v) not in SIZES]
                assert not strange or enable_cooperative_groups, "CuPy would pass them as something else"
                captured = self.streams[-1].captured is not None
                assert run.loaded or not captured, "a kernel cannot be loaded while a stream captures"
                run.loaded = True
                self.streams[-1].take(work)

            run.loaded = False
            kernel = Kernel(run, parameters_of(code, expression))
            return kernel

        return SimpleNamespace(get_function=get_function)

    def launchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        """The arguments lie behind each other, as the kernel's own signature says."""
        assert (gz, by, bz, parameters, stream) == (1, 1, 1, 0, self.streams[-1].ptr)
        kernel = FUNCTIONS[function]
        pointer, memory, size, bytes_, end = (ctypes.c_void_p * 5).from_address(extra)
        assert (pointer, size, end) == (1, 2, None)
        given = ctypes.string_at(memory, ctypes.c_size_t.from_address(bytes_).value)
        arguments = struct.unpack(kernel.parameters, given)
        kinds = {"q": int, "P": int, "Q": int, "i": np.int32, "I": np.uint32}
        arguments = tuple(kinds[kind](v) for kind, v in zip(kernel.parameters, arguments, strict=True))
        kernel.run((gx, gy) if gy > 1 else (gx,), (bx,), arguments, shared)
        self.streams[-1].last = function

    def cuLaunchKernelEx(self, config, function, parameters, extra):
        """A programmatic launch, which waits by itself for the one before: of the same kernel, and no other."""
        config = config._obj
        (attribute,) = config.attrs[: config.numAttrs]
        assert (attribute.id, attribute.value.programmaticStreamSerializationAllowed) == (6, 1)
        before, stream = FAKE.streams[-1].last, config.hStream or 0
        assert before == function, "it waits for no launch before, or for one that does not wait for those before it"
        self.calls.append(("programmatic", self.streams[-1].captured is not None))
        if self.refused:
            self.refused -= 1
            return 801
        sides = [getattr(config, f"{side}Dim{axis}") for side in ("grid", "block") for axis in "XYZ"]
        self.launchKernel(function, *sides, config.sharedMemBytes, stream, parameters or 0, extra)
        return 0

    def launchCooperativeKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters):
        """One argument, a structure of 64-bit words."""
        assert (gy, gz, by, bz, stream) == (1, 1, 1, 1, self.streams[-1].ptr)
        (address,) = (ctypes.c_void_p * 1).from_address(parameters)
        words = np.frombuffer(ctypes.string_at(address, WORK.itemsize), WORK).copy()
        FUNCTIONS[function].run((gx,), (bx,), (words,), shared)

    def launch(self, kernel, expression, grid, block, arguments, shared):
        assert shared <= kernel.shared.get(self.current[-1].id, SHARED_BYTES), "more shared memory than it may have"
        name, _, types = expression.rstrip(">").partition("<")
        if name in STEPS:
            self.calls.append((name, types, grid, *map(int, arguments[-3:])))
            emulated = STEPS[name](self, types.split(", "), grid, block, arguments)
            if self.compiled is not None:
                blocks = blocks_at_once(expression, grid[0])
                together = {"together": blocks, "shared": shared, "seed": self.seed} if blocks else {}
                self.run_compiled(expression, grid, block, arguments, **together)
            elif emulated:
                with np.errstate(all="ignore"):
                    emulated()
            return
        narrow, wide, *stored = (dtype_of(NAMES[type]) for type in types.split(", "))
        (blocks,), (threads,) = grid, block
        size, H = (int(v) for v in arguments[-2:])
        assert blocks * threads >= size > (blocks - 1) * threads
        assert threads <= 1024
        N = size // H
        self.calls.append((name, (narrow.name, wide.name), N, H))
        if name == "cell_forward":
            gates, prev_c, c, h = arguments[:4]
            seen = [(gates, 4 * H, wide), (prev_c, H, wide), (c, H, wide), (h, H, narrow)]
            arrays = [self.view(address, (N, K), (K, 1), dtype) for address, K, dtype in seen]
        else:
            outer, row, unit, carry, gates, prev_c, c, dc, da = arguments[:9]
            seen = [(carry, H), (gates, 4 * H), (prev_c, H), (c, H), (dc, H)]
            arrays = [self.view(address, (N, K), (K, 1), wide) for address, K in seen]
            arrays.append(self.view(da, (N, 4 * H), (4 * H, 1), *stored))
            arrays.insert(0, self.view(outer, (N, H), (row, unit), narrow) if outer else np.zeros((N, H), wide))
        if self.compiled is None:
            with np.errstate(all="ignore"):
                globals()[name](*arrays)
            return
        self.run_compiled(expression, grid, block, arguments)

    def cooperate(self, kernel, expression, grid, block, arguments, shared):
        """A launch whose blocks run at once. Like CuPy, it leaves out those for which there is no room."""
        from grid_emulation import passes

        (work,), device = arguments, self.current[-1]
        assert shared <= kernel.shared.get(device.id, SHARED_BYTES), "more shared memory than the kernel may have"
        emulated, call = passes(self, expression, grid, block, shared, work)
        self.calls.append(call)
        count = min(grid[0], self.room * device.attributes["MultiProcessorCount"])
        if self.compiled is None:
            with np.errstate(all="ignore"):
                emulated()
            return
        value = (ctypes.c_char * work.nbytes).from_buffer_copy(work)
        assert self.compiled.sizes(expression) == [work.nbytes]
        options = {"together": count, "shared": shared, "seed": self.seed}
        self.compiled.launch(expression, (count,), block[0], [value], **options)

    def occupancy(self, function, threads, shared):
        """Of a kernel with as many registers as a thread can have."""
        assert (threads, shared <= MOST_SHARED_BYTES) == (256, True)
        return self.room

    def alloc_pinned_memory(self, size):
        return np.full(size, 0xFF, np.uint8).view(Pinned)

    def run_compiled(self, expression, grid, block, arguments, **together):
        values = [SIZES[type(value)](value) for value in arguments]
        assert [ctypes.sizeof(value) for value in values] == self.compiled.sizes(expression)
        self.compiled.launch(expression, grid, block[0], values, bool(together), **together)

    def launch_cluster(self, kernel, expression, grid, block, arguments, shared):
        """The kernels of cluster.cu: a cluster's blocks run at once."""
        name, _, types = expression.rstrip(">").partition("<")
        stored, *others = types.split(", ")
        product, blocks, tiles = others[name == "cluster_backward" :][:3]
        blocks, tiles = int(blocks), int(tiles)
        T, N, H, units, _ = map(int, arguments[-5:])
        self.calls.append((name, types, grid, T, N, H))
        device = self.current[-1].id
        assert shared <= kernel.shared.get(device, SHARED_BYTES), "more shared memory than the kernel may have"
        assert blocks <= CLUSTER or device in kernel.any_cluster, "CUDA_ERROR_INVALID_CLUSTER_SIZE"
        assert grid == (blocks * -(-N // (8 * tiles)),)
        assert units % 8 == 0
        assert blocks * units >= H
        assert block[0] % 32 == 0 < block[0] <= 512
        emulated = CLUSTERS[name](self, dtype_of(NAMES[stored]), product, arguments, (T, N, H, units))
        if self.compiled is None:
            with np.errstate(all="ignore"):
                emulated()
        else:
            self.run_compiled(expression, grid, block, arguments, together=blocks, shared=shared, seed=self.seed)

    def funcSetAttribute(self, function, attribute, value):
        assert attribute == 14, "non-portable sizes of clusters"
        FUNCTIONS[function].any_cluster.add(self.current[-1].id)

    # cuBLAS

    def get_cublas_handle(self):
        key = threading.get_ident(), self.current[-1].id
        assert key in self.handles or not self.cublas.threads, "a handle is made, which waits, while another captures"
        return self.handles.setdefault(key, 1000 + len(self.handles))

    def gemmEx(
        self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, compute, algo
    ):  # fmt: skip
        assert self.streams[-1].captured is None, "CuPy calls no cuBLAS while a stream captures"
        assert handle == self.get_cublas_handle(), "a handle of another thread or device"
        self.multiply(transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, compute)

    def multiply(
        self, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, compute
    ):  # fmt: skip
        """C (m, n) = alpha * A @ B + beta * C, columns first, as cuBLAS documents it."""
        types = tuple(BLAS_TYPES[type] for type in (Atype, Btype, Ctype))
        supported = {(name, name, "float32"): (68, 69, 77) for name in ("float16", "bfloat16", "float32")}
        supported["float64", "float64", "float64"] = (70,)
        supported["bfloat16", "bfloat16", "bfloat16"] = (68, 69)
        assert compute in supported.get(types, ()), f"CUBLAS_STATUS_NOT_SUPPORTED: {types} with {compute}"
        assert lda >= max(1, k if transa else m), "CUBLAS_STATUS_INVALID_VALUE: lda"
        assert ldb >= max(1, n if transb else k), "CUBLAS_STATUS_INVALID_VALUE: ldb"
        assert ldc >= max(1, m), "CUBLAS_STATUS_INVALID_VALUE: ldc"
        self.calls.append(("gemmEx", compute, "NT"[transa] + "NT"[transb], (m, n, k), (lda, ldb, ldc)))
        inner = np.dtype("float64" if compute == 70 else "float32")
        scalar = ctypes.c_double if compute == 70 else ctypes.c_float
        alpha, beta = (scalar.from_address(address).value for address in (alpha, beta))
        left = self.view(A, (m, k), (lda, 1) if transa else (1, lda), dtype_of(types[0])).astype(inner)
        right = self.view(B, (k, n), (ldb, 1) if transb else (1, ldb), dtype_of(types[1])).astype(inner)
        out = self.view(C, (m, n), (1, ldc), dtype_of(types[2]))
        if compute == 77:
            left, right = to_tf32(left), to_tf32(right)
        with np.errstate(all="ignore"):
            product = (alpha * (right.T @ left.T)).T.astype(inner)
            out[...] = product if beta == 0 else product + inner.type(beta) * out  # unread where beta is 0


class Library:
    """cuBLAS itself, as ctypes has it: its handles, by device, have a stream and a workspace."""

    def __init__(self):
        self.handles, self.multiplied, self.loaded, self.status = {}, set(), set(), 0
        self.threads = set()  # that capture

    def cublasCreate_v2(self, handle):
        handle._obj.value = 5000 + len(self.handles)
        self.handles[handle._obj.value] = SimpleNamespace(device=FAKE.current[-1], stream=None, workspace=None)
        return 0

    def cublasSetStream_v2(self, handle, stream):
        self.handles[handle].stream, self.handles[handle].workspace = stream, None
        return 0

    def cublasSetWorkspace_v2(self, handle, address, size):
        FAKE.view(address, (size,), (1,), np.dtype(np.uint8))
        self.handles[handle].workspace = address, size
        return 0

    def cublasGemmEx(self, handle, *arguments):
        return self._multiply(handle, arguments[:-1], lambda: FAKE.multiply(*arguments[:-1]))

    def cublasGemmStridedBatchedEx(self, handle, *arguments):
        """As many products as `count` says, from one to the next by strides in elements."""
        *before, A, Atype, lda, by_A, B, Btype, ldb, by_B, beta, C, Ctype, ldc, by_C, count, compute, _ = arguments
        sizes = (dtype_of(BLAS_TYPES[kind]).itemsize for kind in (Atype, Btype, Ctype))
        by_A, by_B, by_C = (stride * size for stride, size in zip((by_A, by_B, by_C), sizes, strict=True))

        def each():
            for k in range(count):
                left, right = (A + k * by_A, Atype, lda), (B + k * by_B, Btype, ldb)
                FAKE.multiply(*before, *left, *right, beta, C + k * by_C, Ctype, ldc, compute)

        return self._multiply(handle, arguments[:-1], each)

    def _multiply(self, handle, arguments, multiply):
        """What is captured was multiplied before, as what is loaded for it; and has a workspace for itself."""
        used, stream = self.handles[handle], FAKE.streams[-1]
        assert not self.threads - {threading.get_ident()}, "another thread uses the handle of a capture"
        assert used.device is FAKE.current[-1], "a handle of another device"
        assert used.stream == stream.ptr, "not to the current stream"
        kind = tuple(v for v in arguments if v < 2**31)  # all but addresses
        if stream.captured is None:
            self.multiplied.add(tuple(arguments))
            self.loaded.add(kind)
            multiply()
        else:
            assert kind in self.loaded, "cuBLAS would load a kernel while a stream captures"
            assert used.workspace[1] >= 1 << 25, "cuBLAS would allocate memory while a stream captures"
            address, size = used.workspace

            def launch():
                FAKE.view(address, (size,), (1,), np.dtype(np.uint8))
                multiply()

            if not self.status:
                stream.take(launch)
        return self.status if stream.captured is not None else 0


def check_status(status):
    raise type("CUBLASError", (RuntimeError,), {"status": status})(f"status {status}")


class Pinned(np.ndarray):
    """Memory of the host that devices can write to."""

    @property
    def ptr(self):
        return self.__array_interface__["data"][0]


class Kernel:
    """A kernel; `kernel` loads it on the current device."""

    def __init__(self, run, parameters):
        self.run, self.ptr, self.parameters = run, id(run), parameters
        self.shared, self.any_cluster = {}, set()  # by device
        FUNCTIONS[self.ptr] = self

    def __call__(self, *arguments, **options):
        self.run(*arguments, **options)

    @property
    def kernel(self):
        assert self.run.loaded or FAKE.streams[-1].captured is None, "a kernel cannot be loaded while a stream captures"
        self.run.loaded = True
        return self

    @property
    def ptx_version(self):
        """What it is compiled for."""
        return int(FAKE.current[-1].compute_capability)

    def _allow_shared_bytes(self, value):
        assert value <= MOST_SHARED_BYTES
        self.shared[FAKE.current[-1].id] = value

    max_dynamic_shared_size_bytes = property(fset=_allow_shared_bytes)


FUNCTIONS = weakref.WeakValueDictionary()  # by their address


def parameters_of(code, expression):
    """What a kernel takes, by its signature in the source, in terms of `struct`."""
    name = expression.partition("<")[0].rpartition("::")[2]
    (signature,) = re.findall(rf"__global__[^;{{]*?\b{name}\(([^{{]*?)\) {{", code)
    kinds = []
    for parameter in signature.split(","):
        words = set(re.findall(r"\w+|\*", parameter)) - {"const"}
        if "*" in words:
            kinds.append("P")
        elif "long" in words:
            kinds.append("Q" if "unsigned" in words else "q")
        else:
            kinds.append("I" if "unsigned" in words else "i" if "int" in words else "?")
    return "".join(kinds)


# The kernels of step.cu: all that they read and write has to be there. Each returns what does the same in NumPy.


def _fill(fake, types, grid, block, arguments):
    assert len(arguments) == 1 + len(JOB)
    assert (grid, block) == ((1,), (1,))
    job = fake.view(arguments[0], (len(JOB),), (1,), np.dtype(np.int64))
    return lambda: np.copyto(job, arguments[1:])


def _pack(fake, types, grid, block, arguments):
    (states, product, backward), (Wh, by_row, by_column, H, chunks, across, packed, size) = types, arguments
    assert packed % 16 == 0
    assert grid[0] * block[0] >= size
    assert int(size) % (64 * int(chunks)) == 0
    Wh = fake.view(Wh, (int(H), 4 * int(H)), (by_row, by_column), dtype_of(NAMES[states]))
    packed = fake.view(packed, (int(size), 16), (16, 1), np.dtype(np.uint8))
    return lambda: step_emulation.pack(product, Wh, backward == "true", int(across), packed)


def _pack_rows(fake, types, grid, block, arguments):
    (states, product), (h0, N, H, chunks, down, packed) = types, arguments
    N, H, chunks, down = map(int, (N, H, chunks, down))
    assert grid[0] * block[0] >= N * H
    h0 = fake.view(h0, (N, H), (H, 1), dtype_of(NAMES[states]))
    packed = _rows(fake, packed, -(-N // (8 * down)), chunks, down)
    return lambda: step_emulation.pack_rows(product, h0, packed)


def _rows(fake, address, groups, chunks, down):
    """Packed rows, as bytes."""
    return _packed(fake, address, groups, chunks, down, 512)


def _packed(fake, address, *shape):
    strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    return fake.view(int(address), shape, strides, np.dtype(np.uint8))


def _step(fake, types, grid, block, arguments, backward=False):
    job, packed, rows, *sizes = arguments
    (N, H, offset), (states, product), grid = map(int, sizes), types[:2], (*grid, 1)[:2]
    across, down, high, warps, split = map(int, types[2:])
    seen = dict(zip(JOB, fake.view(job, (len(JOB),), (1,), np.dtype(np.int64)).tolist(), strict=True))
    states, single = dtype_of(NAMES[states]), np.dtype(np.float32)
    columns, depth = (H, 4 * H) if backward else (4 * H, H)
    chunks = -(-depth * step_emulation.ITEMS[product]().itemsize // 64)
    tiles = grid[0] // split
    assert grid[0] == tiles * split
    assert (tiles - 1) * 16 * across < columns <= tiles * 16 * across
    assert (grid[1] - 1) * 8 * down * high < N <= grid[1] * 8 * down * high
    assert block == (32 * high * warps,)
    packed = _packed(fake, packed, tiles, chunks, across, 1024)
    groups = grid[1] * high
    rows = [_rows(fake, rows + k * groups * chunks * down * 512, groups, chunks, down) for k in range(2)]
    t = seen["steps"] - 1 - seen["first"] - offset if backward else seen["first"] + offset
    if not -backward <= t < seen["steps"]:
        return None
    left, leave = rows[offset % 2], rows[1 - offset % 2]

    def look(name, step, width, dtype=single):
        return fake.view(seen[name] + step * N * width * dtype.itemsize, (N, width), (width, 1), dtype)

    def product_of():
        return step_emulation.product_of(product, packed, left, warps, split)[:N, :columns]

    if not backward:
        gates, h = look("gates", t, 4 * H), look("h", t, H, states)
        prev_c = look("c", t - 1 if seen["kept"] else 0, H) if t else look("c0", 0, H)
        c = look("c", t if seen["kept"] else 0, H)

        def forward():
            total = product_of()
            gates[...] += np.concatenate([total[:, gate::4] for gate in range(4)], axis=1)
            cell_forward(gates, prev_c, c, h)
            step_emulation.pack_rows(product, h, leave)

        return forward
    carry, last = look("dh", 0, H), t == seen["steps"] - 1
    if t < 0:
        return lambda: np.copyto(carry, product_of())
    outer = np.zeros((N, H), single)
    if seen["h"]:
        start = seen["h"] + t * seen["by_step"] * states.itemsize
        outer = fake.view(start, (N, H), (seen["by_row"], seen["by_unit"]), states)
    prev_c, da = look("c", t - 1, H) if t else look("c0", 0, H), look("da", t, 4 * H, of_rows(product))
    rest = look("gates", t, 4 * H), prev_c, look("c", t, H), look("dc", 0, H), da

    def backward():
        cell_backward(outer, carry if last else product_of(), *rest)
        step_emulation.pack_rows(product, da, leave)

    return backward


# The kernel of stages.cu, likewise.


class Order:
    """timeline.cuh, on arrays (T, N, K): where each step is taken from, and which are behind the lengths."""

    def __init__(self, lengths, reverse, T, N):
        time = np.arange(T)[:, None]
        self.lengths = np.full(N, T) if lengths is None else lengths
        self.valid = (time < self.lengths)[..., None]
        self.place = np.where(reverse & self.valid[..., 0], self.lengths - 1 - time, time), np.arange(N)

    def steps(self, v):
        return np.where(self.valid, v[self.place], 0).astype(v.dtype)

    def restored(self, v):
        out = np.empty_like(v)
        out[self.place] = np.where(self.valid, v, 0)
        return out


def _timeline(fake, lengths, reverse, T, N):
    assert lengths or not reverse
    lengths = fake.view(lengths, (N,), (1,), np.dtype(np.int64)) if lengths else None
    assert lengths is None or np.all(lengths >= 0)
    assert not reverse or np.all(lengths <= T)
    return Order(lengths, bool(reverse), T, N)


def _arrange(fake, types, grid, block, arguments):
    v, by_step, by_row, by_feature, rows, bias, by_column, a, lengths, reverse, N, K, columns = map(int, arguments)
    S, R, W = (dtype_of(NAMES[type]) for type in types)
    T = grid[0] // N
    assert T * N == grid[0]
    v = fake.view(v, (T, N, K), (by_step, by_row, by_feature), S)
    order = _timeline(fake, lengths, reverse, T, N)
    rows = fake.view(rows, (T * N, K), (K, 1), R) if rows else None
    bias = fake.view(bias, (columns,), (by_column,), S) if bias else np.ones(1, W)
    a = fake.view(a, (T * N, columns), (columns, 1), W) if a else None

    def run():
        if rows is not None:
            rows[...] = order.steps(v).reshape(T * N, K)
        if a is not None:
            a[...] = bias

    return run


# The kernels of whole.cu, likewise.


def _factors(fake, types, grid, block, arguments):
    x, *by_x, h, h_step, h_row, h_unit, h0 = arguments[:9]
    *by_h0, rows, lengths, reverse, N, D, H, pitch = map(int, arguments[9:])
    S, R, _ = (dtype_of(NAMES[type]) for type in types)
    T = grid[0] // N
    assert T * N == grid[0]
    assert pitch > D + H
    x = fake.view(x, (T, N, D), by_x, S)
    order = _timeline(fake, lengths, reverse, T, N)
    last = T if lengths else T - 1  # reversed rows may begin with any step
    h = fake.view(h, (last, N, H), (h_step, h_row, h_unit), S) if T > 1 else None
    h0 = fake.view(h0, (1, N, H), (0, *by_h0), S) if h0 else np.zeros((1, N, H), S)
    rows = fake.view(rows, (T, N, pitch), (N * pitch, pitch, 1), R)

    def run():
        rows[..., :D] = order.steps(x)
        before = [h0] if h is None else [h0, (order.steps(h) if lengths else h)[: T - 1]]
        rows[..., D : D + H] = np.where(order.valid, np.concatenate(before), 0)
        rows[..., D + H], rows[..., D + H + 1 :] = 1, 0

    return run


def _rounded(fake, types, grid, block, arguments):
    (given, to, size), (S, W) = map(int, arguments), (dtype_of(NAMES[type]) for type in types)
    assert grid[0] * block[0] >= size > (grid[0] - 1) * block[0]
    given, to = (fake.view(place, (size,), (1,), dtype) for place, dtype in ((given, W), (to, S)))

    def run():
        to[...] = given.astype(S)

    return run


def _saturate(fake, types, grid, block, arguments):
    a, lengths, N, H = map(int, arguments)
    T, W = grid[0] // N, dtype_of(NAMES[types[0]])
    a = fake.view(a, (T, N, 4 * H), (4 * N * H, 4 * H, 1), W)
    order, big = _timeline(fake, lengths, 0, T, N), 0.9 * float(np.finfo(W).max) / 2
    return lambda: np.copyto(a, np.repeat(np.array([-big, big, -big, 0], W), H), where=~order.valid)


def _restore(fake, types, grid, block, arguments):
    given, to, lengths, reverse, N, K = map(int, arguments)
    T, R = grid[0] // N, dtype_of(NAMES[types[0]])
    assert (given != to) == bool(reverse)
    order = _timeline(fake, lengths, reverse, T, N)
    given, to = (fake.view(v, (T, N, K), (N * K, K, 1), R) for v in (given, to))
    return lambda: np.copyto(to, order.restored(given))


def _last(fake, types, grid, block, arguments):
    h, c, h0, *by_h0, c0, c0_row, c0_unit, h_n, c_n, lengths, N, H = map(int, arguments)
    S, W = (dtype_of(NAMES[type]) for type in types)
    assert grid == (N,)
    lengths = fake.view(lengths, (N,), (1,), np.dtype(np.int64))
    T, rows = max(1, int(lengths.max())), np.arange(N)
    h, c = (fake.view(v, (T, N, H), (N * H, H, 1), dtype) for v, dtype in ((h, S), (c, W)))
    h0, c0 = _of_state(fake, h0, by_h0, N, H, S), _of_state(fake, c0, (c0_row, c0_unit), N, H, S)
    h_n, c_n = (fake.view(v, (N, H), (H, 1), S) for v in (h_n, c_n))

    def run():
        some = (lengths > 0)[:, None]
        h_n[...] = np.where(some, h[lengths - 1, rows], h0)
        c_n[...] = np.where(some, c[lengths - 1, rows].astype(S), c0)

    return run


def _of_state(fake, address, by, N, H, dtype):
    """A state that may be null for zeros."""
    return fake.view(address, (N, H), by, dtype) if address else np.zeros((N, H), dtype)


def _enter(fake, types, grid, block, arguments):
    dh, *by, dh_n, n_row, n_unit, to, lengths, reverse, N, H = map(int, arguments)
    S, W = (dtype_of(NAMES[type]) for type in types)
    T = grid[0] // N
    order = _timeline(fake, lengths, reverse, T, N)
    dh = fake.view(dh, (T, N, H), by, S) if dh else np.zeros((T, N, H), S)
    dh_n, to = _of_state(fake, dh_n, (n_row, n_unit), N, H, S), fake.view(to, (T, N, H), (N * H, H, 1), W)

    def run():
        to[...] = order.steps(dh)
        some = order.lengths > 0
        to[order.lengths[some] - 1, np.flatnonzero(some)] += dh_n[some].astype(W)

    return run


def _straight(fake, types, grid, block, arguments):
    dh_n, h_row, h_unit, dc_n, c_row, c_unit, dh, dc, lengths, H = map(int, arguments)
    (N,), (S, W) = grid, (dtype_of(NAMES[type]) for type in types)
    none = fake.view(lengths, (N,), (1,), np.dtype(np.int64)) == 0
    given = _of_state(fake, dh_n, (h_row, h_unit), N, H, S), _of_state(fake, dc_n, (c_row, c_unit), N, H, S)
    found = [fake.view(v, (N, H), (H, 1), W) for v in (dh, dc)]

    def run():
        for v, out in zip(given, found, strict=True):
            out[none] = v[none]

    return run


JOB = (
    "first", "steps", "gates", "c", "c0", "h", "kept", "da", "dh", "dc", "by_step", "by_row", "by_unit",
)  # fmt: skip
STEPS = {
    "arrange": _arrange,
    "factors": _factors,
    "rounded": _rounded,
    "saturate": _saturate,
    "restore": _restore,
    "last": _last,
    "enter": _enter,
    "straight": _straight,
    "fill": _fill,
    "pack": _pack,
    "pack_rows": _pack_rows,
    "forward_step": _step,
    "backward_step": partial(_step, backward=True),
}


# The kernels of chunk.cu, likewise.


def _fill_chunk(fake, types, grid, block, arguments):
    assert len(arguments) == 1 + len(CHUNK)
    assert (grid, block) == ((1,), (1,))
    chunk = fake.view(arguments[0], (len(CHUNK),), (1,), np.dtype(np.int64))
    return lambda: np.copyto(chunk, arguments[1:])


def _chunk_step(fake, types, grid, block, arguments, backward=False):
    chunk, product, factor, *sizes = arguments
    (offset, size, H), (states, wide) = map(int, sizes), (dtype_of(NAMES[type]) for type in types[:2])
    assert grid[0] * block[0] >= size > (grid[0] - 1) * block[0] or (size, grid) == (0, (1,))
    if size == 0:
        return lambda: None
    N = size // H
    seen = dict(zip(CHUNK, fake.view(chunk, (len(CHUNK),), (1,), np.dtype(np.int64)).tolist(), strict=True))
    t = seen["first"] - offset if backward else seen["first"] + offset
    assert t >= 0

    def look(name, step, width, dtype=wide):
        return fake.view(seen[name] + step * N * width * dtype.itemsize, (N, width), (width, 1), dtype)

    prev_c = look("c", t - 1 if backward or seen["kept"] else 0, H) if t else look("c0", 0, H)
    if not backward:
        product = fake.view(product, (N, 4 * H), (4 * H, 1), wide)
        next_h = fake.view(factor, (N, H), (H, 1), states)
        gates, c, h = look("gates", t, 4 * H), look("c", t if seen["kept"] else 0, H), look("h", t, H, states)

        def forward():
            a = gates + product
            cell_forward(a, prev_c.copy(), c, h)
            next_h[...] = h
            if seen["kept"]:
                gates[...] = a

        return forward
    stored = dtype_of(NAMES[types[2]])
    parts = fake.view(product, (int(types[3]), N, H), (N * H, H, 1), wide)
    factor = fake.view(factor, (N, 4 * H), (4 * H, 1), stored)
    outer = np.zeros((N, H), wide)
    if seen["h"]:
        start = seen["h"] + t * seen["by_step"] * states.itemsize
        outer = fake.view(start, (N, H), (seen["by_row"], seen["by_unit"]), states)
    rest = look("gates", t, 4 * H), prev_c, look("c", t, H), look("dc", 0, H), look("da", t, 4 * H, stored)

    def run():
        cell_backward(outer, sum(parts[1:], parts[0]), *rest)
        factor[...] = rest[-1]

    return run


def _chunk_sum(fake, types, grid, block, arguments):
    (parts, out), (count, size), dtype = arguments[:2], map(int, arguments[2:]), dtype_of(NAMES[types[0]])
    assert grid[0] * block[0] >= size > (grid[0] - 1) * block[0]
    parts = fake.view(int(parts), (count, size), (size, 1), dtype)
    out = fake.view(int(out), (size,), (1,), dtype)
    return lambda: np.copyto(out, sum(parts[1:], parts[0]))


CHUNK = ("first", "gates", "c", "c0", "h", "kept", "da", "dc", "by_step", "by_row", "by_unit")
STEPS |= {
    "fill_chunk": _fill_chunk,
    "chunk_forward": _chunk_step,
    "chunk_backward": partial(_chunk_step, backward=True),
    "chunk_sum": _chunk_sum,
}


# The kernels of cluster.cu, likewise.


def _cluster_forward(fake, stored, product, arguments, sizes):
    Wh, by_row, by_column, gates, c, c0, h, h0, kept = arguments[:-5]
    (T, N, H, units), single = sizes, np.dtype(np.float32)
    Wh = fake.view(Wh, (H, 4 * H), (by_row, by_column), stored)
    gates = fake.view(gates, (T, N, 4 * H), (4 * N * H, 4 * H, 1), single)
    c = fake.view(c, (T if kept else 1, N, H), (N * H, H, 1), single)
    h = fake.view(h, (T, N, H), (N * H, H, 1), stored)
    prev_h, prev_c = (fake.view(v, (N, H), (H, 1), dtype) for v, dtype in ((h0, stored), (c0, single)))

    def run():
        before, cell = prev_h, prev_c
        for t in range(T):
            step = gates[t] + cluster_emulation.forward_product(product, before, Wh, units)
            next_c = c[t if kept else 0]
            cell_forward(step, cell.copy(), next_c, h[t])
            if kept:
                gates[t] = step
            before, cell = h[t], next_c

    return run


def _cluster_backward(fake, stored, product, arguments, sizes):
    Wh, by_row, by_column, gates, c, c0, outer, wide, *by, da, dh, dc = arguments[:-5]
    (T, N, H, units), single = sizes, np.dtype(np.float32)
    Wh = fake.view(Wh, (H, 4 * H), (by_row, by_column), stored)
    both = (gates, single), (da, of_rows(product))
    gates, da = (fake.view(v, (T, N, 4 * H), (4 * N * H, 4 * H, 1), dtype) for v, dtype in both)
    c = fake.view(c, (T, N, H), (N * H, H, 1), single)
    c0, dh, dc = (fake.view(v, (N, H), (H, 1), single) for v in (c0, dh, dc))
    outer = fake.view(outer, (T, N, H), by, single if wide else stored) if outer else np.zeros((T, N, H), single)

    def run():
        for t in reversed(range(T)):
            cell_backward(outer[t], dh, gates[t], c[t - 1] if t else c0, c[t], dc, da[t])
            dh[...] = cluster_emulation.backward_product(product, da[t], Wh, units)

    return run


# The kernels of rows.cu: what a cluster of one block would compute.


def _rows_forward(fake, types, grid, block, arguments):
    T, N, H = _of_rows(types, grid, block, arguments)
    return _cluster_forward(fake, dtype_of(NAMES[types[0]]), "Ieee", (*arguments, H, 0), (T, N, H, H))


def _rows_backward(fake, types, grid, block, arguments):
    T, N, H = _of_rows(types, grid, block, arguments)
    product = "Bfloat" if types[1] == "bfloat16" else "Ieee"
    return _cluster_backward(fake, dtype_of(NAMES[types[0]]), product, (*arguments, H, 0), (T, N, H, H))


def _of_rows(types, grid, block, arguments):
    T, N, H = map(int, arguments[-3:])
    units = int(types[-1])
    assert (grid, block) == ((N,), (4 * units,))
    assert units % 16 == 0
    assert H <= units
    return T, N, H


STEPS |= {"rows_forward": _rows_forward, "rows_backward": _rows_backward}
CLUSTERS = {"cluster_forward": _cluster_forward, "cluster_backward": _cluster_backward}


def of_rows(product):
    """What the rows of a product are stored as."""
    return dtype_of({"Half": "float16", "Bfloat": "bfloat16"}.get(product, "float32"))


def to_tf32(v):
    """float32 rounded to the 10 bits of fraction of TF32."""
    bits = v.view(np.uint32)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(v), rounded.view(np.float32), v)


def cell_forward(gates, prev_c, c, h):
    """The kernel in terms of NumPy, from cell.py's lines."""
    i, f, o, a_g = np.split(gates, 4, axis=1)
    for block in (i, f, o):
        block[...] = 1 / (1 + np.exp(-block))
    a_g[...] = np.tanh(a_g)
    c[...] = f * prev_c + i * a_g
    h[...] = (o * np.tanh(c)).astype(h.dtype)


def cell_backward(outer, carry, gates, prev_c, c, dc, da):
    """The kernel in terms of NumPy, from cell.py's lines."""
    i, f, o, g = np.split(gates, 4, axis=1)
    tanh_c, dh = np.tanh(c), carry + outer.astype(carry.dtype)
    both = dc + dh * o * (1 - tanh_c * tanh_c)
    values = (both * g * i * (1 - i), both * prev_c * f * (1 - f), dh * tanh_c * o * (1 - o), both * i * (1 - g * g))
    da[...] = np.concatenate(values, axis=1)
    dc[...] = both * f
