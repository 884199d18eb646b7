"""The device's own rates, which nothing exceeds: a copy in its memory, and large products by cuBLAS."""

from functools import lru_cache
from statistics import median

import numpy as np

from . import environment, sizes
from .timing import times

CALLS = 10


def units(place):
    return [{"ceiling": "copy"}, *({"ceiling": kind} for kind in sizes.KINDS)]


def run(unit, place):
    """One record: GB/s, counting bytes read and bytes written, or Tflop/s; from the median of some calls."""
    what, xp = unit["ceiling"], place.xp
    if what == "copy":
        source = xp.ones(place.copied, xp.uint8)
        target = xp.empty_like(source)
        taken = _median(lambda: xp.copyto(target, source), place)
        return [{"value": 2 * place.copied / taken / 1e9, "unit": "GB/s"}]
    if place.rehearsal and what in ("bfloat16", "float16"):
        return [{"refused": "NumPy has no product of half types worth a figure"}]
    side = place.cube
    # Zeros would be quicker: they take less power.
    A = place.array(_square(side), what)
    out = xp.empty((side, side), "float64" if what == "float64" else "float32")
    taken = _median(place.product(A, A, out, what), place)
    return [{"value": 2 * side**3 / taken / 1e12, "unit": "Tflop/s", "side": side, "after": environment.smi()}]


@lru_cache(maxsize=1)
def _square(side):
    return np.random.default_rng(0).random((side, side), dtype=np.float32) - np.float32(0.5)


def _median(call, place):
    times(call, place, 0, 3)
    return median(times(call, place, 0, CALLS))
