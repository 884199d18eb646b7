"""The kernels, and the types of their arguments: the recurrence forwards and backwards, one step, the cell variants.

Arrays are time-major; gates and da are (T, N, 4, H). Every kernel does one `part` of `parts` of the work. Inside it,
arrays are pointers with offsets (`products.py`).
"""

from inspect import signature

import numpy as np
from numba import boolean, from_dtype, int64, types

from . import compiled
from .backward import backward
from .forward import forward, prepare
from .products import OPTIONS
from .steps import attend, step, stream
from .variants import cell_backward, cell_forward, matmul


def signatures(dtype):
    """The kernels for one dtype: function -> the types of its arguments, by their names."""
    number = from_dtype(np.dtype(dtype))

    def given(ndim, layout="C"):
        return types.Array(number, ndim, layout, readonly=True)

    def own(ndim, layout="C"):
        return types.Array(number, ndim, layout)

    flag, counters, rows = boolean, types.Array(int64, 1, "C"), types.Array(int64, 1, "C")
    team = {"meeting": counters, "part": int64, "parts": int64}
    of_step = {name: given(ndim, "A") for name, ndim in (("x", 2), ("h", 3), ("c", 3), ("Wx", 2), ("Wh", 2), ("b", 1))}
    of_step |= {"next_h": own(3), "next_c": own(3)}
    of_cell = {
        "c0": given(2), "Wh": given(2, "A"), "Wp": given(2), "peepholes": given(2), "recurrent": given(2),
        "gain_h": given(1), "gain_c": given(1), "bias_c": given(1), "zoneout_h": given(3), "zoneout_c": given(3),
        "kinds": rows, "numbers": given(1), "coupled": flag, "lengths": rows, "space": own(1), **team,
    }  # fmt: skip
    return {
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
        cell_forward: {
            "a": own(3), "h0": given(2), "keep": flag, "across": flag,
            **{name: own(3) for name in ("h", "c", "cells", "z")}, **of_cell,
        },
        cell_backward: {
            "dh": given(3, "A"), "carry_h": own(2), "carry_c": own(2),
            **{name: given(3) for name in ("gates", "c", "cells", "z", "hat_h", "scale_h", "hat_c", "scale_c")},
            **{name: own(3) for name in ("da", "dr", "dout", "dseen", "m")}, **of_cell,
        },
        matmul: {
            "A": given(2, "A"), "B": given(2, "A"), "base": given(1), "out": own(2), "space": own(1), **team,
        },
    }  # fmt: skip


def compile(function, dtype):
    """A kernel for one dtype, from the cache on disk or compiled."""
    names, types_of = signature(function).parameters, signatures(dtype)[function]
    assert set(names) == set(types_of), f"{function.__name__}: types of {set(names) ^ set(types_of)}"
    result = int64 if function is stream else types.void
    return compiled(result(*(types_of[name] for name in names)), **OPTIONS)(function)
