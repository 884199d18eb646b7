"""CUDA sources and the kernels in them, compiled by CuPy at their first use on a device, and kept on disk by it."""

import threading
from ctypes import addressof, c_size_t, c_void_p, create_string_buffer
from functools import cache
from pathlib import Path
from struct import Struct

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17",)
# dtype -> its type in the sources.
TYPES = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}


def source(*files):
    """The text of files, each once, after what all of them share."""
    return "".join((FOLDER / name).read_text(encoding="utf-8") for name in dict.fromkeys(("cell.cuh", *files)))


def expression(kernel, *arguments):
    """The C++ name of a kernel; of its arguments, dtypes are given by their names, and all else as it is written."""
    return f"{kernel}<{', '.join(map(_spelled, arguments))}>"


def _spelled(argument):
    return str(argument).lower() if isinstance(argument, bool) else TYPES.get(argument, str(argument))


@cache
def function(files, expression, expressions=None, cooperative=False):
    """A kernel by its C++ name: called with grid, block and arguments, on the current device and stream.

    It is compiled together with all `expressions`, or else alone. CuPy loads it for each device by itself. All blocks
    of one that is `cooperative` are on the device at once.
    """
    return _module(files, expressions or (expression,), cooperative).get_function(expression)


@cache
def _module(files, expressions, cooperative):
    import cupy

    return cupy.RawModule(
        code=source(*files), options=OPTIONS, name_expressions=expressions, enable_cooperative_groups=cooperative
    )


class Launcher:
    """Launches of one kernel with its arguments as one piece of memory, which the driver takes as well as many.

    CuPy makes an object of each argument at each launch, which takes it longer than all the rest. `parameters` are
    those of the kernel in terms of `struct`: P an address, q and Q 64 bits, i and I 32 bits. Of a cooperative launch,
    they are the members of its one parameter. `launch` is called in place of the driver's function for it.
    """

    def __init__(self, kernel, parameters, cooperative=False, launch=None):
        from cupy.cuda import get_current_stream
        from cupy_backends.cuda.api import driver

        self.kernel, self._parameters, self._stream = kernel, Struct(parameters), get_current_stream
        self._launch = launch or (driver.launchCooperativeKernel if cooperative else driver.launchKernel)
        self._cooperative = cooperative

    def __call__(self, grid, block, *arguments, shared_bytes=0):
        """Launch on the current device and stream; `grid` is one number of blocks, or two."""
        x, y = grid if isinstance(grid, tuple) else (grid, 1)
        if not _memory.bound:
            _memory.bind()
        self._parameters.pack_into(_memory.arguments, 0, *arguments)
        _memory.size.value = self._parameters.size
        how = (_memory.alone,) if self._cooperative else (0, _memory.all)
        self._launch(self.kernel.kernel.ptr, x, y, 1, block, 1, 1, shared_bytes, self._stream().ptr, *how)


class _Memory(threading.local):
    """Where a thread puts arguments, and what the driver is given: its `extra`, which says where they are and how many
    bytes; or an array of parameters, of which there is one."""

    MOST = 512
    bound = False
    BUFFER_POINTER, BUFFER_SIZE = 1, 2

    def __init__(self):
        self.arguments, self.size = create_string_buffer(self.MOST), c_size_t()
        places = addressof(self.arguments), addressof(self.size)
        self._extra = (c_void_p * 5)(self.BUFFER_POINTER, places[0], self.BUFFER_SIZE, places[1], None)
        self._parameters = (c_void_p * 1)(places[0])
        self.all, self.alone = addressof(self._extra), addressof(self._parameters)

    def bind(self):
        """The driver asks for a context, which a thread has after its first call of the runtime, not before."""
        from cupy.cuda import runtime

        runtime.memGetInfo()
        self.bound = True


_memory = _Memory()
