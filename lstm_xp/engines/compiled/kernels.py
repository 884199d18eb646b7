"""The kernels, and the types of their arguments: the recurrence forwards and backwards, and one step.

Arrays are time-major; gates and da are (T, N, 4, H). Every kernel does one `part` of `parts` of the work. Inside it,
arrays are pointers with offsets (`products.py`).
"""

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

    def own(ndim):
        return types.Array(number, ndim, "C")

    meeting = types.Array(int64, 1, "C")
    of_step = (*(given(ndim, "A") for ndim in (2, 3, 3, 2, 2, 1)), own(3), own(3))
    signatures = {
        forward: (
            given(3, "A"),
            given(2, "A"),
            given(1),
            types.Array(int64, 1, "C"),
            own(4),
            own(3),
            own(3),
            given(2, "A"),
            boolean,
            int64,
            boolean,
            own(1),
            own(1),
            boolean,
            meeting,
            int64,
            int64,
        ),
        prepare: (given(2, "A"), given(2, "A"), boolean, own(1)),
        step: (*of_step, meeting, int64, int64),
        stream: (meeting, int64, boolean, *of_step, int64),
        attend: (meeting, own(1)),
        backward: (
            given(3, "A"),
            own(2),
            own(2),
            given(4),
            given(3),
            given(2),
            given(2, "A"),
            own(4),
            given(3, "A"),
            given(2),
            given(3),
            given(2, "A"),
            own(3),
            own(2),
            int64,
            own(1),
            int64,
            boolean,
            meeting,
            int64,
            int64,
        ),
    }
    kernels = {
        f.__name__: compiled((int64 if f is stream else types.void)(*arguments), **OPTIONS)(f)
        for f, arguments in signatures.items()
    }
    return kernels | {f.__name__: f for f in (forward_space, prepared_size, backward_space, new_desk)}
