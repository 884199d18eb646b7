"""As much of CuPy as the CUDA engines use, on NumPy: memory with guards, devices, kernels, cuBLAS; nothing else.

Memory that was not written to is NaN. Every address that a kernel or a product is given must lie in memory that is
alive, of the current device, with all of what is read and written there. Whatever would wait for the device raises.
Kernels are NumPy functions here, or the CUDA source itself, compiled for this processor (cuda_on_cpu.py).
"""

import ctypes
import sys
import threading
import weakref
from types import ModuleType, SimpleNamespace

import numpy as np

GUARD = 64
NAMES = {"float16": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64"}
CUDA_TYPES = {"CUDA_R_32F": 0, "CUDA_R_64F": 1, "CUDA_R_16F": 2, "CUDA_R_16BF": 14}
BLAS_TYPES = {0: "float32", 1: "float64", 2: "float16", 14: "bfloat16"}
COMPUTE_TYPES = {"32F": 68, "32F_PEDANTIC": 69, "64F": 70, "32F_FAST_TF32": 77}
SIZES = {int: ctypes.c_longlong, np.uint32: ctypes.c_uint32}  # what CuPy makes of arguments of a kernel
MEMORY = 1 << 40


def dtype_of(name):
    """A NumPy dtype by its name, bfloat16 too."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


class Array(np.ndarray):
    """An array of a fake device."""

    def __array_finalize__(self, parent):
        self.__dict__.setdefault("place", getattr(parent, "place", None))

    @property
    def device(self):
        return self.place or FAKE.devices[0]

    @property
    def data(self):
        return SimpleNamespace(ptr=FAKE.address(self))

    def _waits(self, *arguments, **options):
        raise AssertionError("this would wait for the device")

    get = item = tolist = __bool__ = __float__ = __int__ = _waits


class Device:
    """One of the devices, and the `with` that makes it current."""

    def __init__(self, id, capability):
        self.id, self.compute_capability = id, capability

    def __enter__(self):
        FAKE.current.append(self)

    def __exit__(self, *error):
        assert FAKE.current.pop() is self

    def __repr__(self):
        return f"<fake device {self.id}>"


class Fake:
    """The machine: devices, memory, and what was called."""

    def __init__(self, compiled=None, capability="90", devices=1, memory=MEMORY):
        global FAKE
        FAKE = self
        self.compiled, self.memory, self.math_mode = compiled, memory, 0
        self.devices = [Device(id, capability) for id in range(devices)]
        self.stacks = threading.local()
        self.calls, self.handles, self.modules, self.extents = [], {}, [], {}

    @property
    def current(self):
        """The current devices of this thread, the innermost last."""
        if not hasattr(self.stacks, "devices"):
            self.stacks.devices = [self.devices[0]]
        return self.stacks.devices

    def install(self, monkeypatch):
        """Put the modules where `import` finds them."""
        cupy, cuda, cublas = ModuleType("cupy"), ModuleType("cupy.cuda"), ModuleType("cublas")
        for function in (self.empty, self.zeros, self.array, self.ascontiguousarray):
            setattr(cupy, function.__name__, function)
        cupy.cuda, cupy.RawModule, cupy.ndarray = cuda, self.RawModule, type("ndarray", (), {})
        cuda.device = SimpleNamespace(get_cublas_handle=self.get_cublas_handle)
        cuda.runtime = SimpleNamespace(memGetInfo=lambda: (self.memory - self.used(), self.memory), **CUDA_TYPES)
        cublas.gemmEx, cublas.getMathMode = self.gemmEx, lambda handle: self.math_mode
        cublas.CUBLAS_DEFAULT_MATH, cublas.CUBLAS_GEMM_DEFAULT = 0, -1
        for name, value in COMPUTE_TYPES.items():
            setattr(cublas, f"CUBLAS_COMPUTE_{name}", value)
        libs = ModuleType("cupy_backends.cuda.libs")
        libs.cublas = cublas
        parents = {name: ModuleType(name) for name in ("cupy_backends", "cupy_backends.cuda")}
        found = {"cupy": cupy, "cupy.cuda": cuda, "cupy_backends.cuda.libs": libs, **parents}
        found["cupy_backends.cuda.libs.cublas"] = cublas
        for name, module in found.items():
            monkeypatch.setitem(sys.modules, name, module)

    # Memory

    def empty(self, shape, dtype):
        dtype = dtype if isinstance(dtype, np.dtype) else dtype_of(dtype)
        shape = (shape,) if isinstance(shape, int) else shape
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if self.used() + size > self.memory:
            raise type("OutOfMemoryError", (MemoryError,), {})(f"{size} bytes")
        root = np.full(size + 2 * GUARD, 0xFF, np.uint8)  # NaN in every dtype
        start = root.ctypes.data
        self.extents[start + GUARD] = start + GUARD + size, weakref.ref(root)
        array = root[GUARD : GUARD + size].view(dtype).reshape(shape).view(Array)
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

    def used(self):
        """Bytes that are alive; guards must not have been written to."""
        self.extents = {start: extent for start, extent in self.extents.items() if extent[1]() is not None}
        for _, root in self.extents.values():
            if (memory := root()) is not None and memory.dtype == np.uint8:
                assert np.all(memory[:GUARD] == 0xFF), "written before an array"
                assert np.all(memory[-GUARD:] == 0xFF), "written behind an array"
        return sum(stop - start for start, (stop, _) in self.extents.items())

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
        spans = [(n - 1) * stride * dtype.itemsize for n, stride in zip(shape, strides, strict=True)]
        low, high = address + sum(min(0, span) for span in spans), address + sum(max(0, span) for span in spans)
        high += dtype.itemsize
        inside = any(start <= low and high <= stop and root() is not None
                     for start, (stop, root) in self.extents.items())  # fmt: skip
        assert inside, f"{high - low} bytes at {low:#x} are not in any array"
        flat = np.frombuffer((ctypes.c_char * (high - low)).from_address(low), np.uint8)
        strides = tuple(stride * dtype.itemsize for stride in strides)
        return np.ndarray(shape, dtype, flat.data, address - low, strides)

    # Kernels

    def RawModule(self, *, code, options, name_expressions):
        self.modules.append((code, options, name_expressions))

        def get_function(expression):
            assert expression in name_expressions

            def kernel(grid, block, arguments):
                assert all(type(v) in SIZES for v in arguments), "CuPy would pass them as something else"
                self.launch(expression, grid, block, arguments)

            return kernel

        return SimpleNamespace(get_function=get_function)

    def launch(self, expression, grid, block, arguments):
        name, _, types = expression.rstrip(">").partition("<")
        narrow, wide = (dtype_of(NAMES[type]) for type in types.split(", "))
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
            seen = [(carry, H), (gates, 4 * H), (prev_c, H), (c, H), (dc, H), (da, 4 * H)]
            arrays = [self.view(address, (N, K), (K, 1), wide) for address, K in seen]
            arrays.insert(0, self.view(outer, (N, H), (row, unit), narrow) if outer else np.zeros((N, H), wide))
        if self.compiled is None:
            with np.errstate(all="ignore"):
                globals()[name](*arrays)
            return
        values = [SIZES[type(value)](value) for value in arguments]
        assert [ctypes.sizeof(value) for value in values] == self.compiled.sizes(expression)
        self.compiled.launch(expression, blocks, threads, values)

    # cuBLAS

    def get_cublas_handle(self):
        key = threading.get_ident(), self.current[-1].id
        return self.handles.setdefault(key, 1000 + len(self.handles))

    def gemmEx(
        self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, compute, algo
    ):  # fmt: skip
        """C (m, n) = alpha * A @ B + beta * C, columns first, as cuBLAS documents it."""
        assert handle == self.get_cublas_handle(), "a handle of another thread or device"
        types = tuple(BLAS_TYPES[type] for type in (Atype, Btype, Ctype))
        supported = {(name, name, "float32"): (68, 69, 77) for name in ("float16", "bfloat16", "float32")}
        supported["float64", "float64", "float64"] = (70,)
        assert compute in supported.get(types, ()), f"CUBLAS_STATUS_NOT_SUPPORTED: {types} with {compute}"
        assert lda >= max(1, k if transa else m), "CUBLAS_STATUS_INVALID_VALUE: lda"
        assert ldb >= max(1, n if transb else k), "CUBLAS_STATUS_INVALID_VALUE: ldb"
        assert ldc >= max(1, m), "CUBLAS_STATUS_INVALID_VALUE: ldc"
        self.calls.append(("gemmEx", compute, "NT"[transa] + "NT"[transb], (m, n, k), (lda, ldb, ldc)))
        inner = dtype_of(types[2])
        scalar = ctypes.c_double if compute == 70 else ctypes.c_float
        alpha, beta = (scalar.from_address(address).value for address in (alpha, beta))
        left = self.view(A, (m, k), (lda, 1) if transa else (1, lda), dtype_of(types[0])).astype(inner)
        right = self.view(B, (k, n), (ldb, 1) if transb else (1, ldb), dtype_of(types[1])).astype(inner)
        out = self.view(C, (m, n), (1, ldc), inner)
        if compute == 77:
            left, right = to_tf32(left), to_tf32(right)
        with np.errstate(all="ignore"):
            product = (alpha * (right.T @ left.T)).T.astype(inner)
            out[...] = product if beta == 0 else product + inner.type(beta) * out  # unread where beta is 0


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
