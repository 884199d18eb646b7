"""Programmatic dependent launches: a kernel may begin while the one before it in its stream still runs.

Kernels are written for it: the one before says when (griddepcontrol.launch_dependents), and the one that begins then
waits for its end (griddepcontrol.wait) before it looks at what it left. CuPy has no such launches, so the driver is
called. CUDA graphs have them since 12.3.
"""

import os
from ctypes import CDLL, POINTER, Structure, Union, byref, c_char, c_int, c_uint, c_void_p, pointer
from functools import cache

SINCE = 12030  # a version of the driver
PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID


class Value(Union):  # CUlaunchAttributeValue
    _fields_ = [("programmaticStreamSerializationAllowed", c_int), ("pad", c_char * 64)]


class Attribute(Structure):  # CUlaunchAttribute
    _fields_ = [("id", c_int), ("pad", c_char * 4), ("value", Value)]


class Config(Structure):  # CUlaunchConfig
    _fields_ = [
        *((f"{side}Dim{axis}", c_uint) for side in ("grid", "block") for axis in "XYZ"),
        *(("sharedMemBytes", c_uint), ("hStream", c_void_p), ("attrs", POINTER(Attribute)), ("numAttrs", c_uint)),
    ]


ALLOWED = Attribute(PROGRAMMATIC_STREAM_SERIALIZATION, b"", Value(1))


@cache
def loaded():
    """The driver's cuLaunchKernelEx, or None, as with a driver whose graphs have no such launches."""
    from cupy.cuda import runtime

    try:
        found = CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1").cuLaunchKernelEx
    except (AttributeError, OSError):
        return None
    found.argtypes = POINTER(Config), c_void_p, c_void_p, c_void_p
    return found if runtime.driverGetVersion() >= SINCE else None


def launch(function, *sizes):
    """As CuPy's `driver.launchKernel`: sides of grid and block, shared bytes, stream, parameters, extra."""
    *config, parameters, extra = sizes
    status = loaded()(byref(Config(*config, pointer(ALLOWED), 1)), function, parameters, extra)
    if status:
        from cupy_backends.cuda.api.driver import check_status

        check_status(status)  # raises CuPy's own error
