"""One step of a stream through a network: few calls beside the step itself, for at N = 1 they are what costs.

What is right is recognised by comparing shapes and dtypes with those expected, which takes about a microsecond; only
what is not goes through the checks that say why.
"""

from functools import lru_cache
from typing import NamedTuple

from . import checks, engines, variants
from .cell import conversions
from .checks import Problem
from .parameters import Direction, State, check_parameters, check_state, shapes, state_shapes


class Expected(NamedTuple):
    """The shapes of one direction of each layer (None: it has no such parameter)."""

    parameters: tuple
    D: int
    K: int
    H: int
    R: int


def expected(network):
    """The shapes that a step through a network expects: none fits where the network needs the whole sequence."""
    if network.bidirectional or network.reverse:
        return Expected((), 0, 0, 0, 0)
    each = []
    for layer in range(network.num_layers):
        has = shapes(network, layer)
        each.append(tuple(has[name][1] if name in has else None for name in Direction._fields))
    return Expected(tuple(each), network.input_size, network.num_layers, network.hidden_size, network.output_size)


def step(network, params, x, state):
    """`LSTM.step`."""
    if state is None or not _fits(network.expected, params, x, state):
        state = _checked(network, params, x, state)
    h, c = state
    run = _plain_step if network.plain else _variant_step
    if len(params) == 1:
        y, next_c = run(network, params[0], x, h[0, ...], c[0, ...])
        return y, State(y[None, ...], next_c[None, ...])
    y, all_h, all_c = x, [], []
    for layer, p in enumerate(params):
        y, next_c = run(network, p, y, h[layer, ...], c[layer, ...])
        all_h.append(y)
        all_c.append(next_c)
    xp = checks.namespace(x)
    return y, State(xp.stack(all_h), xp.stack(all_c))


def _plain_step(network, p, x, h, c):
    device = getattr(x, "device", None)  # only a key: None where the library, or a tracer, has none
    if type(device).__hash__ is None:
        device = _Key(device)
    run = _step_of(network.engine, checks.namespace(x), x.dtype, device, *x.shape, h.shape[1])
    return run(x, h, c, p.Wx, p.Wh, p.b)


def _variant_step(network, p, x, h, c):
    xp = checks.namespace(x)
    wide, narrow = conversions(x, xp)
    p = variants.wide_parameters(p, wide)
    masks = variants.expectations(network.cell)
    a = variants.input_part(wide(x), p, xp)
    h, c, _ = variants.step(a, wide(h), wide(c), p, network.cell, masks, xp)
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
    """The step of the engine for a problem; by itself, of the first that has one and suits."""
    library = checks.array_library(xp)
    device = device.device if isinstance(device, _Key) else device
    problem = Problem(library, checks.dtype_name(dtype), device, N, 1, D, H, False, "ieee")
    if engine != "auto":
        return engines.step(engines.choose(engine, problem))
    able = (engines.load(name) for name in engines.candidates(library))
    able = (one for one in able if hasattr(one, "step") and not one.refuses(problem) and not one.declines(problem))
    return next(able).step


def _fits(expected, params, x, state):
    """Whether types, shapes and dtypes are those expected, at a glance."""
    if type(params) is not tuple or type(state) is not State or len(params) != len(expected.parameters):
        return False
    h, c = state
    kind, dtype, shape = type(x), getattr(x, "dtype", None), getattr(x, "shape", ())
    if type(h) is not kind or type(c) is not kind or len(shape) != 2 or shape[1] != expected.D:
        return False
    if h.shape != (expected.K, shape[0], expected.R) or c.shape != (expected.K, shape[0], expected.H):
        return False
    if h.dtype is not dtype or c.dtype is not dtype:
        return False
    for p, sizes in zip(params, expected.parameters, strict=True):
        for array, shape in zip(p, sizes):  # noqa: B905  strict takes longer than the comparisons
            if array is shape:  # None: there is no such parameter
                continue
            if array is None or array.dtype is not dtype or array.shape != shape or type(array) is not kind:
                return False
    return True


def _checked(network, params, x, state):
    """The state (zeros for None), after the checks that word the errors."""
    function = "LSTM.step"
    if network.bidirectional or network.reverse:
        which = "bidirectional" if network.bidirectional else "reversed"
        raise ValueError(f"{function}: a {which} network needs the whole sequence: use forward.")
    arrays = check_parameters(function, network, params)
    if x is None:
        raise TypeError(f"{function}: x_t must be an array; got None.")
    xp, _ = checks.one_library(function, {"x_t": x, **arrays})
    found = checks.shape_of(function, "x_t", x)
    if len(found) != 2 or found[1] != network.input_size:
        raise ValueError(f"{function}: x_t must have shape (N, D) with D = {network.input_size}; got {found}.")
    if state is not None:
        checks.one_library(function, {"x_t": x, **check_state(function, network, state, found[0])})
        return state
    zeros = (xp.zeros(size, dtype=x.dtype, device=checks.device(x))
             for _, size in state_shapes(network, found[0]).values())  # fmt: skip
    return State(*zeros)
