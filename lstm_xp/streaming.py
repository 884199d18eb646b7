"""One step of a stream through a network: few calls beside the step itself, for at N = 1 they are what costs.

What is right is recognised at a glance; only what is not goes through the checks that say why.
"""

from functools import lru_cache

import numpy as np

from . import checks, engines, variant_cells, variants
from .cell import conversions
from .checks import Problem
from .parameters import Direction, State, check_parameters, check_state, fit, stacked, state_fits, state_shapes


def step(network, params, x, state):
    """`LSTM.step`."""
    if type(x) is np.ndarray and type(state) is State:
        found = _at_once(network, params, x, state)
        if found is not None:
            return found
    if state is None or not _fits(network, params, x, state):
        state = _checked(network, params, x, state)
    h, c = state
    run = _plain_step if network.plain else _variant_step
    if len(params) == 1:
        y, next_c = run(network, params[0], x, h[0, ...], c[0, ...])
        own = engines.load("array_api").copy(y)  # the caller may write to it
        return own, State(y[None, ...], next_c[None, ...])
    y, all_h, all_c = x, [], []
    for layer, p in enumerate(params):
        y, next_c = run(network, p, y, h[layer, ...], c[layer, ...])
        all_h.append(y)
        all_c.append(next_c)
    return y, stacked(all_h, all_c, checks.namespace(x))


def _at_once(network, params, x, state):
    """The step by an engine that looks at the arrays itself; None where there is none, or something is not right."""
    if not network.plain or network.bidirectional or network.reverse:
        return None
    shape, dtype = x.shape, x.dtype
    take = _stream_of(network.engine, dtype) if isinstance(network.engine, str) else None
    if take is None or len(shape) != 2 or shape[1] != network.input_size:
        return None
    if type(params) is not tuple or len(params) != network.num_layers:
        return None
    h, c = state
    size = len(params), shape[0], network.hidden_size
    next_h, next_c = np.empty(size, dtype), np.empty(size, dtype)
    try:
        for layer, p in enumerate(params):
            Wx, Wh, b, Wp, peepholes, gain_x, gain_h, gain_c, bias_c = p
            if type(p) is not Direction or not Wp is peepholes is gain_x is gain_h is gain_c is bias_c is None:
                return None
            if (b is None) is network.bias:
                return None
            if b is None:
                b = np.zeros(4 * network.hidden_size, dtype)
            # Not a kind of it whose operators mean something else.
            if not np.ndarray is type(h) is type(c) is type(Wx) is type(Wh) is type(b):
                return None
            if not take(x, h, c, Wx, Wh, b, next_h, next_c, layer):
                return None
            x = next_h[layer]
    except (TypeError, ValueError):  # something else than nine arrays, or arrays of another kind
        return None
    return x.copy(), State(next_h, next_c)  # the caller may write to the output


def _plain_step(network, p, x, h, c):
    device = getattr(x, "device", None)  # only a key: None where the library, or a tracer, has none
    if type(device).__hash__ is None:
        device = _Key(device)
    # An engine that is an object need not be hashable.
    find = _step_of if isinstance(network.engine, str) else _step_of.__wrapped__
    run = find(network.engine, checks.namespace(x), x.dtype, device, *x.shape, h.shape[1])
    return run(x, h, c, p.Wx, p.Wh, p.b)


def _variant_step(network, p, x, h, c):
    xp = checks.namespace(x)
    if network.engine != "auto":  # one step is the same on all engines, but none is asked for what it cannot do
        problem = checks.problem(x[:, None, :], checks.device(x), c.shape[-1], False, network.precision, xp)
        engines.choose(network.engine, problem, network.cell)
    wide, narrow = conversions(x, xp)
    p = variants.wide_parameters(p, wide)
    masks = variant_cells.expectations(network.cell)
    a = variant_cells.input_part(wide(x), p, xp, engines.product(engines.load("array_api")))
    h, c, *_ = variant_cells.step(a, wide(h), wide(c), p, network.cell, masks, xp)
    return narrow(h), narrow(c)


class _Key:
    """A device that cannot be hashed, as CuPy's cannot, as part of a key."""

    def __init__(self, device):
        self.device = device

    def __hash__(self):
        return hash(str(self.device))

    def __eq__(self, other):
        return isinstance(other, _Key) and self.device == other.device


@lru_cache(maxsize=64)
def _step_of(engine, xp, dtype, device, N, D, H):
    """The step of the engine for a problem."""
    device = device.device if isinstance(device, _Key) else device
    return engines.step(_engine_of(engine, checks.array_library(xp), dtype, device, N, D, H))


@lru_cache(maxsize=64)
def _stream_of(engine, dtype):
    """The `stream` of the engine for NumPy arrays, which is the same for all sizes; None where it has none."""
    if checks.dtype_name(dtype) not in checks.COMPUTE_DTYPE:
        return None
    try:
        chosen = _engine_of(engine, "numpy", dtype, "cpu", 1, 1, 1)
    except checks.EngineError:  # said behind the checks of the arrays
        return None
    return chosen.stream(dtype) if hasattr(chosen, "stream") else None


def _engine_of(engine, library, dtype, device, N, D, H):
    """The engine for a problem; by itself, the first that has a step and suits."""
    problem = Problem(library, checks.dtype_name(dtype), device, N, 1, D, H, False, "ieee")
    if engine != "auto":
        return engines.choose(engine, problem)
    able = (engines.load(name) for name in engines.candidates(library))
    return next(one for one in able if hasattr(one, "step") and not one.refuses(problem) and not one.declines(problem))


def _fits(network, params, x, state):
    """Whether a step can be taken, at a glance."""
    expected, shape = network.expected, getattr(x, "shape", ())
    if len(shape) != 2 or shape[1] != expected.D or network.bidirectional or network.reverse:
        return False
    return fit(expected, params, x) and state_fits(expected, state, shape[0], x)


def _checked(network, params, x, state):
    """The state (zeros for None), after the checks that word the errors."""
    function = "LSTM.step"
    if network.bidirectional or network.reverse:
        which = "bidirectional" if network.bidirectional else "reversed"
        raise ValueError(f"{function}: a {which} network needs the whole sequence: use forward.")
    arrays = check_parameters(function, network, params)
    xp, _ = checks.one_library(function, checks.required(function, {"x_t": x, **arrays}))
    found = checks.shape_of(function, "x_t", x)
    if len(found) != 2 or found[1] != network.input_size:
        raise ValueError(f"{function}: x_t must have shape (N, D) with D = {network.input_size}; got {found}.")
    if state is not None:
        checks.one_library(function, {"x_t": x, **check_state(function, network, state, found[0])})
        return state
    zeros = (xp.zeros(size, dtype=x.dtype, device=checks.device(x))
             for _, size in state_shapes(network, found[0]).values())  # fmt: skip
    return State(*zeros)
