"""CUDA sources and the kernels in them, compiled by CuPy at their first use on a device, and kept on disk by it."""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17",)


def source(*files):
    """The text of files, each once, after what all of them share."""
    return "".join((FOLDER / name).read_text(encoding="utf-8") for name in dict.fromkeys(("cell.cuh", *files)))


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
