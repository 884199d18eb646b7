"""cuBLAS without CuPy between: products that a stream may capture, which CuPy's own calls refuse.

It is the library that CuPy has loaded, found through CuPy's extension, which is linked to it: symbols of a library are
looked for in those that it needs, too. (Not so on Windows: there `library` finds none.) A handle of our own per device
keeps its stream and workspace apart from those of CuPy's. A workspace that is given keeps cuBLAS from allocating one,
which would become a part of the graph.
"""

import threading
from contextlib import contextmanager
from ctypes import CDLL, byref, c_int, c_size_t, c_void_p
from functools import cache

from .products import Product

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
}

# By device. One thread at a time sets the stream of a handle and multiplies.
_handles, _lock = {}, threading.RLock()


@cache
def library():
    """cuBLAS, or None."""
    from cupy_backends.cuda.libs import cublas

    try:
        found = CDLL(cublas.__file__)
        for name, arguments in SIGNATURES.items():
            getattr(found, name).argtypes = arguments
    except (AttributeError, OSError):
        return None
    return found


class FixedProduct(Product):
    """A product at the addresses of its arrays, within `working`."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._multiply = lambda _, *rest: _call("cublasGemmEx", _handle(), *rest)


@contextmanager
def working(workspace):
    """Products of this thread go to the current stream, with a workspace: bytes that no other stream uses meanwhile."""
    from cupy.cuda import get_current_stream

    with _lock:
        # In this order: setting the stream takes the workspace away.
        _call("cublasSetStream_v2", _handle(), get_current_stream().ptr)
        _call("cublasSetWorkspace_v2", _handle(), workspace.data.ptr, workspace.nbytes)
        yield


def forget():
    """Handles of a device that is no more."""
    _handles.clear()


def _handle():
    """Of the current device. To make one waits for the device, once."""
    from cupy.cuda import Device

    device = Device().id
    if device not in _handles:
        made = c_void_p()
        _call("cublasCreate_v2", byref(made))
        _handles[device] = made.value
    return _handles[device]


def _call(name, *arguments):
    status = getattr(library(), name)(*arguments)
    if status:
        from cupy_backends.cuda.libs.cublas import check_status

        check_status(status)  # raises CuPy's own error
