"""cuBLAS without CuPy between: products that a stream may capture, which CuPy's own calls refuse.

It is the library that CuPy has loaded, found through CuPy's extension, which is linked to it: symbols of a library are
looked for in those that it needs, too. (Not so on Windows: there `loaded` finds none.) A handle of our own per device
keeps its stream and workspace apart from those of CuPy's. A workspace that is given keeps cuBLAS from allocating one,
which would become a part of the graph.
"""

from contextlib import contextmanager
from ctypes import CDLL, byref, c_int, c_longlong, c_size_t, c_void_p
from functools import cache

from .capture import capturing
from .device import current

# As much as cuBLAS takes by itself on Hopper; with less, it would leave out some of its kernels.
WORKSPACE_BYTES = 1 << 25
SIGNATURES = {
    "cublasCreate_v2": (c_void_p,),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
    "cublasGemmEx": (
        *(c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p, c_void_p, c_int, c_int),
        *(c_void_p, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_int, c_int),
    ),
    "cublasGemmStridedBatchedEx": (
        *(c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_longlong),
        *(c_void_p, c_int, c_int, c_longlong, c_void_p, c_void_p, c_int, c_int, c_longlong, c_int, c_int, c_int),
    ),
}

# By device.
_handles = {}


@cache
def loaded():
    """cuBLAS, or None."""
    from cupy_backends.cuda.libs import cublas

    try:
        found = CDLL(cublas.__file__)
        for name, arguments in SIGNATURES.items():
            getattr(found, name).argtypes = arguments
    except (AttributeError, OSError):
        return None
    return found


@contextmanager
def working(workspace):
    """Products of this thread go to the current stream, with a workspace: memory that no other stream uses meanwhile.

    Both are the handle's, so that one thread at a time multiplies.
    """
    from cupy.cuda import get_current_stream

    with capturing:
        # In this order: setting the stream takes the workspace away.
        _call("cublasSetStream_v2", _handle(), get_current_stream().ptr)
        _call("cublasSetWorkspace_v2", _handle(), workspace.ptr, WORKSPACE_BYTES)
        yield


def gemm(*arguments):
    """gemmEx, within `working`."""
    _call("cublasGemmEx", _handle(), *arguments)


def gemms(*arguments):
    """gemmStridedBatchedEx, within `working`."""
    _call("cublasGemmStridedBatchedEx", _handle(), *arguments)


def captured_gemm(handle, *arguments):
    """gemmEx in place of that of CuPy's handle, in the capture of the current stream."""
    from cupy.cuda import alloc

    with working(alloc(WORKSPACE_BYTES)):
        gemm(*arguments)


def prepare():
    """What has to be there before a stream captures: that there is cuBLAS, and its handle."""
    if not loaded():
        raise RuntimeError("cuBLAS cannot be called while a stream captures: its library is not found")
    with capturing:
        _handle()


def forget():
    """Handles of a device that is no more."""
    _handles.clear()


def _handle():
    """Of the current device. To make one waits for the device, once."""
    device = current()
    if device not in _handles:
        made = c_void_p()
        _call("cublasCreate_v2", byref(made))
        _handles[device] = made.value
    return _handles[device]


def _call(name, *arguments):
    status = getattr(loaded(), name)(*arguments)
    if status:
        from cupy_backends.cuda.libs.cublas import check_status

        check_status(status)  # raises CuPy's own error
