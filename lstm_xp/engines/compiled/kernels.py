"""The kernels, and the types of their arguments: the recurrence forwards and backwards, and one step.

Arrays are time-major; gates and da are (T, N, 4, H). Every kernel does one `part` of `parts` of the work. Inside it,
arrays are pointers with offsets (`products.py`).
"""

from inspect import signature

import numpy as np
from numba import boolean, from_dtype, int64, types

from . import compiled
from .backward import backward, backward_space
from .forward import forward, forward_space, prepare, prepared_size
from .products import OPTIONS
from .steps import attend, new_desk, step, stream


def compile(dtype):
    """The kernels for one dtype, by name, from the cache on disk or compiled."""
    number = from_dtype(np.dtype(dtype))

    def given(ndim, layout="C"):
        return types.Array(number, ndim, layout, readonly=True)

    def own(ndim, layout="C"):
        return types.Array(number, ndim, layout)

    flag, counters, rows = boolean, types.Array(int64, 1, "C"), types.Array(int64, 1, "C")
    team = {"meeting": counters, "part": int64, "parts": int64}
    of_step = {name: given(ndim, "A") for name, ndim in (("x", 2), ("h", 3), ("c", 3), ("Wx", 2), ("Wh", 2), ("b", 1))}
    of_step |= {"next_h": own(3), "next_c": own(3)}
    arguments = {
        forward: {
            "x": given(3, "A"), "order": rows, "Wx": given(2, "A"), "b": given(1), "lengths": rows, "gates": own(4),
            "h0": given(2),
            "h": own(3, "A"), "c": own(3), "Wh": given(2, "A"), "keep": flag, "some": int64, "few": flag,
            "packed_h": own(1), "packed_x": own(1), "space": own(1), "across": flag, **team,
        },
        prepare: {"W": given(2, "A"), "few": flag, "packed": own(1)},
        step: {**of_step, **team},
        stream: {"desk": counters, "limit": int64, "called": flag, **of_step, "layer": int64},
        attend: {"desk": counters, "like": own(1)},
        backward: {
            "dh": given(3, "A"), "carry": own(2), "dc": own(2), "gates": given(4), "c": given(3), "c0": given(2),
            "WhT": given(2, "A"), "da": own(4), "x": given(3, "A"), "h0": given(2), "h": given(3, "A"),
            "WxT": given(2, "A"), "dx": own(3), "dW": own(2), "some": int64, "space": own(1), "active": int64,
            "across": flag, **team,
        },
    }  # fmt: skip
    kernels = {f.__name__: _compiled(f, types_of, int64 if f is stream else types.void)
               for f, types_of in arguments.items()}  # fmt: skip
    return kernels | {f.__name__: f for f in (forward_space, prepared_size, backward_space, new_desk)}


def _compiled(function, types_of, result):
    """A function, compiled for the types of its arguments, by their names."""
    names = signature(function).parameters
    assert set(names) == set(types_of), f"{function.__name__}: types of {set(names) ^ set(types_of)}"
    return compiled(result(*(types_of[name] for name in names)), **OPTIONS)(function)
