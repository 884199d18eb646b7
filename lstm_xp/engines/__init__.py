"""Engines: implementations of the recurrence, the one stage of an LSTM that is sequential.

An engine is a module (or an object) with these names; arrays are time-major, gate order i, f, o, g:

    name                                            what `engine=` calls it
    refuses(problem) -> str                         why it cannot run the problem at all; "" when it can
    declines(problem) -> str                        why it should not be chosen by itself (slower here, not yet proved
                                                    on this device); "" otherwise
    forward(a, h0, c0, Wh, *, keep)                 a (T, N, 4H) pre-activations, h0 and c0 (N, H), Wh (H, 4H)
        -> h, c_n, c, gates                         h and c (T, N, H), c_n (N, H), gates (T, N, 4H) after activation;
                                                    c and gates are None unless `keep`
    backward(dh, dh_n, dc_n, gates, c, c0, Wh)      dh (T, N, H), dh_n and dc_n (N, H), each or None for zeros
        -> da, dh0, dc0                             da (T, N, 4H), dh0 and dc0 (N, H)

and, if they have something better than the reference engine's,

    layer(x, h0, c0, Wx, Wh, b, lengths, h,         stages one and two in one, `forward` of x @ Wx + b: x (T, N, D) with
          *, keep)                                  zeros behind the lengths, which are N integers or None; x, Wx, b of
        -> c_n, c, gates                            the compute dtype; it writes h (T, N, H): rows are contiguous, but
                                                    may have gaps between them, and go back in memory; c_n is the cell
                                                    state at each row's end; without `keep`, and without lengths,
                                                    memory beside h does not grow with T
    gradients(dh, dh_n, dc_n, gates, c,             `backward` and stage three in one; dx is None unless `need_dx`
              x, h0, c0, h, Wx, Wh, *, need_dx)
        -> dx, dh0, dWx, dWh, db, dc0
    sequence(x, h0, c0, Wx, Wh, b, reverse,         all stages: x, h0, c0, Wx, Wh, b and what is returned as in
             lengths, *, keep)                      `lstm_forward` and its cache; h0, c0, b may be None, as may lengths,
        -> h, h_n, c_n, c, gates                    else N integers of 64 bits, side by side
    sequence_gradients(dh, dh_n, dc_n, cache,       all stages backward, likewise, of a cache of which
                       *, need_dx)                  `gradients_suit(cache)` is true
        -> dx, dh0, dWx, dWh, db, dc0
    inputs(x, Wx, b) -> a                           stage one: x (T, N, D), of any strides, and b, which may be None
    weight_gradients(x, h0, h, da) -> dWx, dWh, db  stage three but for dx
    product(A, B, bias=None) -> A @ B + bias        for stages one and three: matrices of any strides, with no side
                                                    of 0, in the compute dtype, or in that of da
    copy(v)                                         a state (N, H) in memory of its own
    step(x, h, c, Wx, Wh, b) -> next_h, next_c      one time step of a stream, without checks: x (N, D), h and c (N, H),
                                                    b may be None; the results are new arrays
    stream(dtype) -> take                           for NumPy: `take(x, h, c, Wx, Wh, b, next_h, next_c, layer)` is the
                                                    step of one of several layers, for which it looks at the arrays
                                                    itself: h, c, next_h and next_c are (layers, N, H). True; or False
                                                    or a TypeError, and nothing done, where something is not as it
                                                    should be. None: it has none for this dtype. Of an engine that is
                                                    asked for as an object, it is not used
    both(problem, first, second)                    what two calls return, functions of nothing that run the engine on
        -> results                                  problems of this size and depend on nothing of each other: for a
                                                    layer of two directions, at the same time if that is quicker, on
                                                    another thread, in a copy of the caller's context
    lacks(cell) -> str                              of an engine that computes variants of the cell, too (`Cell` and
                                                    others of variant_cells.py): why not this one; "" if it does
    cells(a, h0, c0, p, cell, masks, lengths, *,    `forward` of a variant: h0 (N, R), h (T, N, R), p a `Direction` in
          keep)                                     the compute dtype, masks in the order of processing, rates in place
        -> h, c_n, states                           of masks that were not drawn; behind the N lengths, or None, states
                                                    are held. `States`, or None without `keep`
    cells_gradients(dh, dh_n, dc_n, c0, states,     `backward` of a variant; dh (T, N, R) may be None. Gradients that
                    norms, p, cell, masks,          nobody asks for may have no elements
                    lengths)                        (of 'array_api', also a list `record`: `variants.backward`)
        -> dh0, dc0, between
    warmup(dtype)                                   compile ahead for a dtype, by its name
    at(precision) -> engine                         the engine whose products have a precision of `lstm_forward`, one
                                                    and the same at each call; what has `at` needs no other name

a, c, gates, c0 and c_n have the compute dtype (float32 for half types), as do all gradients that are returned, with two
exceptions: da of bfloat16 may be bfloat16, which has the range, where the engine has `weight_gradients` and `product`
of its own, that take it and Wx as they are and sum in float32; and then dx, its product, is bfloat16, too. h0, Wh, h,
dh, dh_n and dc_n have the caller's dtype, as have x, Wx and b where nothing else is said. h is rounded to the caller's
dtype at every step, and it is the rounded one that goes on.

N, T and H are at least 1. `forward` and `cells` may overwrite `a`, which is contiguous, or keep it among the states,
and `layer` writes h; nothing else that is handed in is written to, and nothing that is returned is written to by a
later call. Where an engine has `layer`, `gradients` is handed that h, with its gaps. NaN and inf go through; saturated
gates are exactly 0, 1, -1.
Direction is settled before an engine is called (`timeline.py`), and so are lengths, but for what has all stages and for
`layer`: behind its length a row has a pre-activation that carries its cell state, i = 0, f = 1, o = 0.

To add one: write the module, and add its name to the table below. The tests run every engine over the same grid.
"""

import sys
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from ..checks import EngineError, dtype_name
from . import array_api  # noqa: F401  which every list ends with: here at once, where torch.compile looks for it

# Array library -> its engines, in order of preference. `array_api` runs on any library, and ends every list.
ENGINES = {
    "numpy": ("numpy_numba", "numpy_fused", "array_api"),
    "cupy": ("cupy_rows", "cupy_cluster", "cupy_grid", "cupy_step", "cupy_fused", "array_api"),
}
ANY_LIBRARY = ("array_api",)

# What engines that compile ahead of their first call compile for.
COMPILED_DTYPES = ("float32", "float64")

# Libraries whose arrays can be assigned into, by slices and by integer rows.
ASSIGNABLE = ("numpy", "cupy", "torch")


def candidates(library):
    """The names of a library's engines, in order of preference."""
    return ENGINES.get(library, ANY_LIBRARY)


def names():
    """The names of all engines."""
    return tuple(dict.fromkeys(name for table in (*ENGINES.values(), ANY_LIBRARY) for name in table))


def load(engine, precision="ieee"):
    """An engine by its name, or an object that is an engine already; with products of a precision, if it has them."""
    named = isinstance(engine, str)
    found = _module(engine) if named else engine
    if hasattr(found, "at"):
        found = found.at(precision)
    missing = () if named else [part for part in ("name", "refuses", "forward", "backward") if not hasattr(found, part)]
    if missing:
        raise EngineError(f"engine must be a name or an engine; got {type(found).__name__} without {missing[0]}.")
    return found


@cache
def _module(name):
    if name not in names():
        raise EngineError(f"engine must be 'auto' or one of {', '.join(names())}; got {name!r}.")
    path = f"{__name__}.{name}"
    return sys.modules.get(path) or import_module(path)  # torch.compile does not see the cache, nor through an import


def product(engine):
    """The engine's own product of two matrices (and a bias, or None), or the array library's."""
    return getattr(engine, "product", None) or load("array_api").product


def copy(engine):
    """The engine's own way to copy a state, or the reference's."""
    return getattr(engine, "copy", None) or load("array_api").copy


def run(engine, problem, calls):
    """What one call of the engine returns, or two: in its own way, or one after the other."""
    if len(calls) == 2 and hasattr(engine, "both"):
        return engine.both(problem, *calls)
    return [call() for call in calls]


def step(engine):
    """The engine's own single step, or the reference's."""
    return getattr(engine, "step", None) or load("array_api").step


def warmup(*dtypes: Any) -> None:
    """Compile ahead what compiled engines would compile at their first call.

    Parameters
    ----------
    *dtypes : str or dtype
        float32, float64, or both, as `numpy.dtype` takes them; none means both.

    Raises
    ------
    ValueError
        If a dtype is not one of these.

    Notes
    -----
    numba takes less than a minute per dtype, once on a machine, some ten seconds for what one call needs: it keeps what
    it compiled on disk, in ``__pycache__`` beside the package or in the user's cache (see `NUMBA_CACHE_DIR
    <https://numba.readthedocs.io/en/stable/reference/envvars.html>`_). From there, it takes about half a second per
    process, most of it numba's own import. Where nothing is to be compiled, nothing happens.

    Examples
    --------
    >>> import lstm_xp
    >>> lstm_xp.warmup("float32")
    """
    wanted = []
    for dtype in dtypes:
        try:
            # NumPy takes None for float64: whoever says None means nothing of the kind.
            wanted.append("" if dtype is None else dtype_name(np.dtype(dtype)))
        except (TypeError, SyntaxError):  # so NumPy says that something is no dtype
            wanted.append("")
        if wanted[-1] not in COMPILED_DTYPES:
            raise ValueError(f"warmup: dtypes must be among {', '.join(COMPILED_DTYPES)}; got {dtype!r}.")
    for name in names():
        engine = load(name)
        if hasattr(engine, "warmup") and not engine.obstacle():
            for dtype in dict.fromkeys(wanted or COMPILED_DTYPES):
                engine.warmup(dtype)


def choose(engine, problem, cell=None):
    """The engine for a problem: the one that is asked for, or the first that neither refuses nor declines.

    With a `cell`, for a variant of the cell.
    """
    if isinstance(engine, str) and engine == "auto":
        willing = (load(name, problem.precision) for name in candidates(problem.array_library))
        return next(engine for engine in willing if not (_objection(engine, problem) or _lack(engine, cell)))
    chosen = load(engine, problem.precision)
    reason = chosen.refuses(problem) or _lack(chosen, cell)
    if reason:
        raise EngineError(f"engine {chosen.name!r} cannot run this problem: {reason}.")
    return chosen


def explain(problem):
    """Which engine would run a problem, and why each one before it would not: one line each."""
    lines = []
    for name in candidates(problem.array_library):
        objection = _objection(load(name, problem.precision), problem)
        if not objection:
            return "\n".join([f"{name}: runs", *lines])
        lines.append(f"{name}: {objection}")
    raise AssertionError("the last engine of every list runs anything")


def _lack(engine, cell):
    """Why an engine does not compute a variant of the cell; "" for the plain cell, None."""
    if cell is None:
        return ""
    return engine.lacks(cell) if hasattr(engine, "lacks") else "it computes plain cells only"


def _objection(engine, problem):
    refusal = engine.refuses(problem)
    if refusal:
        return f"refuses, {refusal}"
    reason = engine.declines(problem)
    return f"declines, {reason}" if reason else ""
