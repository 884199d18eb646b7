"""What CuPy launches where there is no driver (cupy_without_gpu.py), computed: kernels as C++, products in NumPy.

So engines have CuPy itself to ask, and their numbers can be looked at. CuPy's own kernels are not computed: whoever
launches one does it against the rules.
"""

import ctypes
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from cuda_on_cpu import Kernels, blocks_at_once
from fake_cupy import BLAS_TYPES, Fake, at, dtype_of

from lstm_xp.engines.cuda import kernels


def on_host(v):
    """An array of CuPy's in NumPy, whatever its strides: `get` would launch a kernel."""
    return at(v.data.ptr, v.shape, v.strides, v.dtype).copy()


def view(address, shape, strides, dtype):
    """As `Fake.view`, of any memory."""
    return at(address, shape, [stride * dtype.itemsize for stride in strides], dtype)


class Processor:
    """What a launch or a product does, as a function: its arguments are taken at once, as a driver takes them."""

    def __init__(self, rule):
        self.rule, self.files = rule, {}
        function = kernels.function

        def asked(files, expression, *others, **options):
            self.files[expression] = files
            return function(files, expression, *others, **options)

        kernels.function = asked  # engines ask before they launch

    def launch(self, name, grid, threads, shared, parameters, extra):
        expression = re.sub(r"^void |\(.*|(?<=\d)u\b", "", _demangled(name))
        self.rule(expression in self.files, f"a kernel of CuPy's own is launched: {name}")
        if expression not in self.files:
            return None
        compiled = _compiled(self.files[expression], expression)
        sizes = compiled.sizes(expression)
        values = _from_array(parameters, sizes) if parameters else _from_extra(extra, sizes)
        grid, together = grid if grid[1] > 1 else grid[:1], blocks_at_once(expression, grid[0])
        options = {"together": together, "shared": shared} if together else {"meets": False}
        return lambda: compiled.launch(expression, grid, threads, values, **options)

    def multiply(self, product):
        p = SimpleNamespace(**product)
        sizes = {kind: dtype_of(BLAS_TYPES[kind]).itemsize for kind in (p.Atype, p.Btype, p.Ctype)}
        machine = SimpleNamespace(view=view, calls=[])

        def work():
            for k in range(p.count):
                A, B, C = (
                    start + k * by * sizes[kind]
                    for start, by, kind in ((p.A, p.by_A, p.Atype), (p.B, p.by_B, p.Btype), (p.C, p.by_C, p.Ctype))
                )
                Fake.multiply(
                    machine, p.transa, p.transb, p.m, p.n, p.k, p.alpha, A, p.Atype, p.lda, B, p.Btype, p.ldb,
                    p.beta, C, p.Ctype, p.ldc, p.compute,
                )  # fmt: skip

        return work


@cache
def _compiled(files, expression):
    return Kernels(kernels.source(*files), [expression], Path(tempfile.mkdtemp()), "-O1")


@cache
def _demangled(name):
    return subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()


def _from_array(address, sizes):
    """Of an array of addresses, one for each argument."""
    places = (ctypes.c_void_p * len(sizes)).from_address(address)
    return [_copied(place, size) for place, size in zip(places, sizes, strict=True)]


def _from_extra(address, sizes):
    """Of one piece of memory, in which each argument lies at a multiple of its size."""
    pointer, memory, size, count, end = (ctypes.c_void_p * 5).from_address(address)
    assert (pointer, size, end) == (1, 2, None)
    values, offset = [], 0
    for size in sizes:
        offset = -(-offset // size) * size
        values.append(_copied(memory + offset, size))
        offset += size
    assert offset <= ctypes.c_size_t.from_address(count).value
    return values


def _copied(place, size):
    return (ctypes.c_char * size).from_buffer_copy(ctypes.string_at(place, size))
