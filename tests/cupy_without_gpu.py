"""CuPy itself, with no driver: `install` puts something in the place of the CUDA runtime, driver and cuBLAS.

Device memory is memory of this processor. Kernels of `.cu` files are compiled by NVRTC, for compute capability 9.0, and
loaded; CuPy's own are not. Nothing that is launched runs, unless `MACHINE.processor` computes it (cupy_on_cpu.py):
every number is anybody's guess, and what is proved is that CuPy takes what it is asked for. It comes before CuPy is
imported, in a process of its own, which ends by `os._exit`.
"""

import ctypes
import os
import re
import subprocess
import sys
import tempfile
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

CAPABILITY, DEVICES, PROCESSORS = (9, 0), 2, 132
# In CUDA's numbering: compute capability, multiprocessors, shared memory that a block may ask for.
ATTRIBUTES = {75: CAPABILITY[0], 76: CAPABILITY[1], 16: PROCESSORS, 97: 227 * 1024}
PTX_VERSION = 5  # CU_FUNC_ATTRIBUTE_PTX_VERSION
WORD = ctypes.c_ssize_t
C_TYPES = {
    "int": ctypes.c_int, "intptr_t": WORD, "size_t": ctypes.c_size_t, "unsigned int": ctypes.c_uint,
    "PyObject *": ctypes.py_object, "float": ctypes.c_float,
}  # fmt: skip


class Machine:
    """What CuPy asked for: launches (kernel, grid, block, stream), waits, and what was done against the rules."""

    def __init__(self):
        self.device, self.last, self.capturing = 0, 100, {}
        self.launches, self.waits, self.wrong, self.products = [], 0, [], []
        self.modules, self.functions, self.launched, self.graphs = {}, {}, set(), {}
        self.multiplied, self.bound = set(), set()  # threads that have a context
        self.processor, self.memory = None, {}  # address -> bytes

    def new(self, kept=None, among=None):
        """The handle of something."""
        self.last += 1
        if among is not None:
            among[self.last] = kept
        return self.last

    def rule(self, holds, what):
        """An exception would not find its way through CuPy."""
        if not holds:
            self.wrong.append(what)

    def function(self, module, name):
        cubin = self.modules[module]
        self.rule(not cubin or name.encode() + b"\0" in cubin, f"{name} is not in its module")
        self.rule(not self.capturing, f"{name} is loaded while a stream captures")
        return self.new(name, self.functions)

    def launch(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters=0, extra=0):
        name, into = self.functions[function], self.capturing.get(stream)
        self.rule(threading.get_ident() in self.bound, f"{name} is launched in a thread that has no context")
        self.rule(gx < 2**31 and gy < 2**16 and gz < 2**16 and bx * by * bz <= 1024, f"{name}: grid or block")
        self.rule(into is None or name in self.launched, f"{name} is launched for the first time while captured")
        self.launched.add(name)
        work = self.processor and self.processor.launch(name, (gx, gy), bx, shared, parameters, extra)
        self._take((name, (gx, gy), bx, stream, work), into)

    def _take(self, launch, into):
        (self.launches if into is None else into).append(launch)
        if into is None and launch[-1]:
            launch[-1]()

    def multiply(self, product):
        into, kind = self.capturing.get(product["stream"]), tuple(product[part] for part in KIND)
        work = self.processor and self.processor.multiply(product)
        if into is None:
            self.multiplied.add(kind)
            self.products.append(product)
            if work:
                work()
            return
        self.rule(kind in self.multiplied, "a product is captured whose kernel may not be loaded")
        self.rule(product["room"] >= 1 << 25, "a product is captured for which cuBLAS would allocate memory")
        into.append(("product", (1, 1), 1, product["stream"], work))

    def replay(self, graph, stream):
        nodes = self.graphs[graph]
        self.launches.append((f"graph of {sum(name != 'memory' for name, *_ in nodes)}", (1, 1), 1, stream, None))
        for *_, work in nodes:
            if work:
                work()

    def wait(self, *_):
        self.waits += 1


MACHINE = Machine()
libc = ctypes.CDLL(None)
libc.aligned_alloc.restype, libc.aligned_alloc.argtypes, libc.free.argtypes = WORD, [WORD, WORD], [WORD]


def _allocate(size, *_):
    """NaN in every dtype."""
    size = -(-size // 512) * 512
    return ctypes.memset(libc.aligned_alloc(512, size), 0xFF, size)


def _allocate_on_device(size, *_):
    address = _allocate(size)
    MACHINE.memory[address] = size
    return address


def _free(address):
    MACHINE.memory.pop(address, None)
    libc.free(address)


def _copy(target, source, size, *_):
    ctypes.memmove(target, source, size)


def _set(start, value, size, *_):
    ctypes.memset(start, value, size)


def _to_stream(function):
    """What a stream does, its last argument."""

    def call(*arguments):
        into = MACHINE.capturing.get(arguments[-1])
        if into is None:
            function(*arguments)
        else:
            into.append(("memory", (1, 1), 1, arguments[-1], lambda: function(*arguments)))

    return call


def _properties(*_):
    major, minor = CAPABILITY
    numbers = {"multiProcessorCount": PROCESSORS, "l2CacheSize": 1, "totalGlobalMem": 2**36, "warpSize": 32}
    return {"name": b"none", "major": major, "minor": minor, **numbers}


def _nothing(*_):
    return None


def _binding(function):
    """A call of the runtime, after which a thread has a context."""

    def call(*arguments):
        MACHINE.bound.add(threading.get_ident())
        return function(*arguments)

    return call


def _one(*_):
    return 1


RUNTIME = {
    "getDevice": lambda: MACHINE.device, "setDevice": lambda device: setattr(MACHINE, "device", device),
    "getDeviceCount": lambda: DEVICES, "deviceGetAttribute": lambda which, _: ATTRIBUTES.get(which, 1),
    "getDeviceProperties": _properties, "driverGetVersion": lambda: 13000, "runtimeGetVersion": lambda: 13000,
    "_ensure_context": _binding(_nothing), "malloc": _binding(_allocate_on_device), "free": _free,
    "memGetInfo": _binding(lambda: (2**34, 2**36)),
    "hostAlloc": _allocate, "freeHost": libc.free, "memcpy": _copy, "memcpyAsync": _to_stream(_copy),
    "memset": _set, "memsetAsync": _to_stream(_set),
    "deviceSynchronize": MACHINE.wait, "streamSynchronize": MACHINE.wait, "eventSynchronize": MACHINE.wait,
    "streamWaitEvent": _nothing, "eventRecord": _nothing, "eventDestroy": _nothing,
    "eventCreateWithFlags": lambda _: MACHINE.new(),
    "eventElapsedTime": lambda *_: 1.0, "streamCreateWithPriority": lambda *_: MACHINE.new(), "streamDestroy": _nothing,
    "streamIsCapturing": lambda stream: int(stream in MACHINE.capturing),
    "streamBeginCapture": lambda stream, *_: MACHINE.capturing.update({stream: []}),
    "streamEndCapture": lambda stream: MACHINE.new(MACHINE.capturing.pop(stream), MACHINE.graphs),
    "graphInstantiate": lambda graph: MACHINE.new(MACHINE.graphs[graph], MACHINE.graphs),
    "graphDestroy": _nothing, "graphExecDestroy": _nothing, "graphLaunch": MACHINE.replay, "check_status": _nothing,
    "deviceCanAccessPeer": _one, "pointerGetMemoryType": lambda _: 2,
}  # fmt: skip
DRIVER = {
    "moduleLoadData": lambda cubin: MACHINE.new(bytes(cubin), MACHINE.modules), "moduleUnload": _nothing,
    "moduleGetFunction": lambda module, name: MACHINE.function(module, os.fsdecode(name)),
    "launchKernel": MACHINE.launch, "launchCooperativeKernel": MACHINE.launch, "ctxGetCurrent": _one,
    "funcSetAttribute": _nothing, "funcGetAttribute": lambda which, _: 90 if which == PTX_VERSION else 1,
    "occupancyMaxActiveBlocksPerMultiprocessor": _one,
}  # fmt: skip


def _replace(module, table):
    """Functions of a Cython module, for those who import it as Python, and for those who do as C."""
    capsule, name_of = ctypes.pythonapi.PyCapsule_New, ctypes.pythonapi.PyCapsule_GetName
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    for name, function in table.items():
        setattr(module, name, function)
        if name not in module.__pyx_capi__:
            continue
        signature = name_of(module.__pyx_capi__[name])
        result, arguments = re.match(r"(.*?)\s*\((.*)\)$", signature.decode()).groups()
        arguments = [] if arguments == "void" else arguments.split(", ")
        kinds = [WORD if "struct" in one else C_TYPES[one.removesuffix(" __pyx_skip_dispatch")] for one in arguments]
        given = sum("__pyx_" not in one for one in arguments)  # the others are Cython's own

        def called(*values, function=function, name=name, given=given):
            try:
                return function(*values[:given])
            except Exception as error:
                MACHINE.wrong.append(f"{name}: {error!r}")

        kept = ctypes.PYFUNCTYPE(C_TYPES[result], *kinds)(called)
        KEPT.extend((kept, signature))
        module.__pyx_capi__[name] = capsule(ctypes.cast(kept, ctypes.c_void_p), signature, None)


CUBLAS = """
#include <cstddef>
extern "C" {
int cublasCreate_v2(void** handle) { *handle = (void*)1; return 0; }
int cublasGetMathMode(void*, int* mode) { *mode = 0; return 0; }
int cublasGetVersion_v2(void*, int* version) { *version = 1; return 0; }
static void* stream;
static long long room;
int cublasSetStream_v2(void*, void* given) { stream = given; room = 0; return 0; }
int cublasSetWorkspace_v2(void*, void*, size_t bytes) { room = bytes; return 0; }
int (*seen)(long long*);
int cublasGemmStridedBatchedEx(void*, int ta, int tb, int m, int n, int k, const void* alpha, const void* A, int at,
                               int lda, long long by_A, const void* B, int bt, int ldb, long long by_B,
                               const void* beta, void* C, int ct, int ldc, long long by_C, int count, int compute,
                               int) {
    long long all[] = {ta, tb, m, n, k, at, lda, bt, ldb, ct, ldc, compute, count, (long long)stream, room,
                       (long long)alpha, (long long)A, by_A, (long long)B, by_B, (long long)beta, (long long)C, by_C};
    return seen(all);
}
int cublasGemmEx(void*, int ta, int tb, int m, int n, int k, const void* alpha, const void* A, int at, int lda,
                 const void* B, int bt, int ldb, const void* beta, void* C, int ct, int ldc, int compute, int) {
    return cublasGemmStridedBatchedEx(0, ta, tb, m, n, k, alpha, A, at, lda, 0, B, bt, ldb, 0, beta, C, ct, ldc, 0, 1,
                                      compute, 0);
}
"""
KIND = "transa transb m n k Atype lda Btype ldb Ctype ldc compute count".split()
PRODUCT = [*KIND, *"stream room alpha A by_A B by_B beta C by_C".split()]


def _make_cublas():
    """A library that has all names CuPy links to; products go to the machine."""
    folder = Path(find_spec("cupy_backends").submodule_search_locations[0]) / "cuda" / "libs"
    (linked,) = folder.glob("cublas.*.so")

    def said(*command):
        return subprocess.run([*command, str(linked)], capture_output=True, text=True, check=True).stdout

    name = re.search(r"libcublas\.so\.\d+", said("readelf", "-d"))[0]
    others = set(re.findall(r" U (cublas\w+)", said("nm", "-D"))) - set(re.findall(r"int (cublas\w+)\(", CUBLAS))
    work = Path(tempfile.mkdtemp())
    source, versions = work / "cublas.cpp", work / "versions"
    source.write_text(CUBLAS + "".join(f"int {other}() {{ return 0; }}\n" for other in sorted(others)) + "}\n")
    versions.write_text(f"{name} {{ global: *; }};\n")
    command = ["g++", "-shared", "-fPIC", "-o", work / name, source]
    subprocess.run([*command, f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}"], check=True)
    library = ctypes.CDLL(str(work / name), mode=ctypes.RTLD_GLOBAL)
    for file in work.iterdir():
        file.unlink()
    work.rmdir()

    def product(numbers):
        MACHINE.multiply(dict(zip(PRODUCT, numbers[: len(PRODUCT)], strict=True)))
        return 0

    kept = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_longlong))(product)
    ctypes.c_void_p.in_dll(library, "seen").value = ctypes.cast(kept, ctypes.c_void_p).value
    KEPT.extend((library, kept))
    import_module("cupy_backends.cuda.libs.cublas")


def _leave_out_cupys_own_kernels(compiler):
    compile_ = compiler._compile_using_nvrtc_no_warning

    def only_ours(*arguments, **options):
        named = arguments[4] if len(arguments) > 4 else options.get("name_expressions")
        return compile_(*arguments, **options) if named else (b"", None)

    compiler._compile_using_nvrtc_no_warning = only_ours


def _launch_programmatically(config, function, parameters, extra):
    config = config._obj
    sides = [getattr(config, f"{side}Dim{axis}") for side in ("grid", "block") for axis in "XYZ"]
    MACHINE.launch(function, *sides, config.sharedMemBytes, config.hStream or 0, parameters or 0, extra)
    return 0


def install():
    """From here on, CuPy can be imported."""
    assert "cupy" not in sys.modules, "CuPy was imported before"
    os.environ.update(CUPY_CACHE_IN_MEMORY="1", CUPY_ACCELERATORS="")
    for name, table in (("runtime", RUNTIME), ("driver", DRIVER)):
        _replace(import_module(f"cupy_backends.cuda.api.{name}"), table)
    _leave_out_cupys_own_kernels(import_module("cupy").cuda.compiler)
    _make_cublas()
    import_module("lstm_xp.engines.cuda.programmatic").loaded = lambda: _launch_programmatically


KEPT = []  # alive for as long as C code may call it
