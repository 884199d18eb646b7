r"""The parameters and the state of a network: what they are called, their shapes and order. Here, and nowhere else.

The parameters of an `LSTM` are a tuple of `Direction`, one for each layer and direction, in PyTorch's order:

    layer 0 forward, layer 0 reverse, layer 1 forward, ...     index = layer * directions + direction

where directions is 2 for a bidirectional network, else 1 (then all layers run in the network's one direction).
The sizes are D for the features that enter the layer, H for the cells, R for the hidden state: R = P, the size of the
projection, where there is one, else R = H. D is input_size for layer 0, and directions * R for the others: the features
[forward, reverse] of the layer before, side by side. Weights are multiplied from the right: x @ Wx, h @ Wh. Their
columns, like every axis of length 4*H, are the gate blocks i, f, o, g.

    Wx         (D, 4*H)   input weights
    Wh         (R, 4*H)   recurrent weights
    b          (4*H,)     bias (PyTorch: bias_ih + bias_hh); None with bias=False
    Wp         (H, P)     projection of the hidden state; None without
    peepholes  (3, H)     from the cell state to the gates i, f, o; None without
    gain_x     (4*H,)     layer normalisation, gain of x @ Wx; None without, as are the next three
    gain_h     (4*H,)     layer normalisation, gain of h @ Wh
    gain_c     (H,)       layer normalisation, gain of the cell state before its tanh
    bias_c     (H,)       layer normalisation, bias of the same

A network with coupled gates has the blocks of its forget gate all the same, as in ONNX: they are not used, and their
gradients are zero. The state is `State(h, c)` with h (layers * directions, N, R) and c (layers * directions, N, H).
"""

import contextlib
from typing import NamedTuple

import numpy as np

from . import checks
from .checks import Array
from .libraries import DTYPES, Library


class Direction(NamedTuple):
    """The parameters of one direction of one layer, or their gradients; shapes in the docstring of this file."""

    Wx: Array
    Wh: Array
    b: Array | None = None
    Wp: Array | None = None
    peepholes: Array | None = None
    gain_x: Array | None = None
    gain_h: Array | None = None
    gain_c: Array | None = None
    bias_c: Array | None = None


class State(NamedTuple):
    """Hidden state h (layers * directions, N, R) and cell state c (layers * directions, N, H), or their gradients."""

    h: Array | None
    c: Array | None


def stacked(all_h, all_c, xp):
    """The state of a network from those of its layers and directions, in their order."""
    # By concat: NumPy's stack takes three times as long.
    return State(*(xp.concat([v[None, ...] for v in part]) for part in (all_h, all_c)))


def indices(network, layer):
    """The places of a layer's directions among the parameters."""
    return range(layer * network.num_directions, (layer + 1) * network.num_directions)


def states_of(state, places):
    """h and c at these places of a state, each None where it is not given."""
    h, c = (None, None) if state is None else state
    return [(None if h is None else h[k, ...], None if c is None else c[k, ...]) for k in places]


def shapes(network, layer):
    """The parameters that one direction of a layer has: name -> (its shape in letters, its shape in numbers)."""
    H, R = network.hidden_size, network.output_size
    D = network.input_size if layer == 0 else network.num_directions * R
    has = {"Wx": ("(D, 4*H)", (D, 4 * H)), "Wh": ("(R, 4*H)", (R, 4 * H))}
    if network.bias:
        has["b"] = ("(4*H,)", (4 * H,))
    if network.proj_size:
        has["Wp"] = ("(H, P)", (H, R))
    if network.peepholes:
        has["peepholes"] = ("(3, H)", (3, H))
    if network.layer_norm:
        has |= {"gain_x": ("(4*H,)", (4 * H,)), "gain_h": ("(4*H,)", (4 * H,))}
        has |= {"gain_c": ("(H,)", (H,)), "bias_c": ("(H,)", (H,))}
    return has


def state_shapes(network, N):
    """The same for the state of N rows."""
    K, H, R = network.num_layers * network.num_directions, network.hidden_size, network.output_size
    return {"h": ("(layers * directions, N, R)", (K, N, R)), "c": ("(layers * directions, N, H)", (K, N, H))}


class Expected(NamedTuple):
    """The shapes that a network expects of its parameters (None: there is no such one), and sizes of its states."""

    parameters: tuple
    D: int
    K: int
    H: int
    R: int


def expected(network):
    """What a network expects, to be compared with at every call."""
    each = []
    for layer in range(network.num_layers):
        has = shapes(network, layer)
        each += [tuple(has[name][1] if name in has else None for name in Direction._fields)] * network.num_directions
    return Expected(tuple(each), network.input_size, len(each), network.hidden_size, network.output_size)


def fit(expected, params, like):
    """Whether types, shapes and dtypes are those expected, at a glance: it takes about a microsecond.

    What does not fit goes through the checks that say why. `like` is an array that the parameters share type and dtype
    with. Devices are not compared.
    """
    kind, dtype = type(like), getattr(like, "dtype", None)
    if type(params) is not tuple or len(params) != expected.K or checks.dtype_name(dtype) not in checks.COMPUTE_DTYPE:
        return False
    for p, sizes in zip(params, expected.parameters):  # noqa: B905  strict takes longer than the comparisons
        if type(p) is not Direction:
            return False
        for array, shape in zip(p, sizes):  # noqa: B905
            if array is shape:  # None: there is no such parameter
                continue
            if type(array) is not kind or array.dtype is not dtype or array.shape != shape:
                return False
    return True


def state_fits(expected, state, N, like):
    """The same for the state of N rows."""
    if type(state) is not State:
        return False
    h, c = state
    kind, dtype, (_, _, K, H, R) = type(like), like.dtype, expected
    if type(h) is not kind or type(c) is not kind or h.dtype is not dtype or c.dtype is not dtype:
        return False
    return h.shape == (K, N, R) and c.shape == (K, N, H)


def place(network, index):
    """What to call params[index] in a message."""
    layer, second = divmod(index, network.num_directions)
    return f"params[{index}] (layer {layer}, {'reverse' if second or network.reverse else 'forward'})"


def initial(network, xp, dtype, device, seed):
    """Random parameters: drawn on the host, so that a seed means the same numbers in every array library."""
    if not callable(getattr(xp, "zeros", None)):
        got, hint = type(xp).__name__, ""
        if isinstance(xp, int | np.integer):
            got, hint = f"{xp}", f" For a seed write seed={xp}."
        elif isinstance(xp, str):
            got, hint = f"{xp!r}", f" For a dtype write dtype={xp!r}."
        raise TypeError(
            f"LSTM.init: xp must be an array library, a module such as numpy, torch or jax.numpy; got {got}.{hint}"
        )
    rng = np.random.default_rng(seed)
    H = network.hidden_size
    library = Library("init", checks.namespace(xp.zeros(1)), device)
    if isinstance(dtype, type | str) and dtype not in DTYPES:  # numpy.float32, "f4"
        with contextlib.suppress(TypeError, SyntaxError):  # what is no dtype at all is refused below
            dtype = np.dtype(dtype)
    dtype = dtype if isinstance(dtype, str) else checks.dtype_name(dtype)
    if dtype not in library.dtypes():
        raise TypeError(f"LSTM.init: dtype must be one of {', '.join(library.dtypes())}; got {dtype}.")
    params = []
    for index in range(network.num_layers * network.num_directions):
        values = {}
        for name, (_, shape) in shapes(network, index // network.num_directions).items():
            if name.startswith("gain"):
                values[name] = np.ones(shape)
            elif name.startswith("b"):
                values[name] = np.zeros(shape)
            else:
                values[name] = rng.uniform(-(H**-0.5), H**-0.5, shape)
        if "b" in values:
            values["b"][H : 2 * H] = network.forget_bias
        params.append(Direction(**{name: library.asarray(value, dtype) for name, value in values.items()}))
    return tuple(params)


def check_parameters(function, network, params):
    """Check that params are those of the network; return all arrays by the names that messages call them by."""
    count = network.num_layers * network.num_directions
    if isinstance(params, Direction):  # a tuple, too, but not of Direction
        hint = ": write (params,)" if count == 1 else ""
        raise ValueError(
            f"{function}: params must be a tuple of layers * directions = {count} Direction tuples; "
            f"got a single Direction{hint}."
        )
    if not isinstance(params, tuple | list) or len(params) != count:
        found = f"{len(params)} of them" if isinstance(params, tuple | list) else type(params).__name__
        raise ValueError(
            f"{function}: params must be a tuple of layers * directions = {count} Direction tuples; got {found}."
        )
    arrays = {}
    for index, direction in enumerate(params):
        if not isinstance(direction, Direction):
            raise TypeError(f"{function}: params[{index}] must be a Direction; got {type(direction).__name__}.")
        expected = shapes(network, index // network.num_directions)
        for name, array in zip(Direction._fields, direction, strict=True):
            letters, numbers = expected.get(name, ("", None))
            found = None if array is None else tuple(getattr(array, "shape", ()))
            if found != numbers:
                where = f"{function}: {name} of {place(network, index)}"
                if numbers is None:
                    raise ValueError(f"{where} must be None: the network is configured without it.")
                turned = array is not None and found == numbers[::-1]
                hint = " It is the transpose: x @ Wx, h @ Wh, h @ Wp." if turned else ""
                raise ValueError(f"{where} must have shape {letters} = {numbers}; got {found}.{hint}")
            if array is not None:
                arrays[f"{name} of params[{index}]"] = array
    return arrays


def check_pair(function, state, name):
    """Check that a state has two parts, and return it."""
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise TypeError(f"{function}: {name} must be a pair (h, c); got {type(state).__name__}.")
    return state


def check_state(function, network, state, N, name="state"):
    """Check a pair (h, c); return its arrays by the names that messages call them by."""
    arrays = dict(zip(("h", "c"), check_pair(function, state, name), strict=True))
    if name == "state" and any(array is None for array in arrays.values()):
        raise TypeError(f"{function}: {name} must have both h and c; got None for one. Pass state=None for zeros.")
    for part, (letters, numbers) in state_shapes(network, N).items():
        if arrays[part] is None:
            continue
        found = tuple(getattr(arrays[part], "shape", ()))
        if found != numbers:
            raise ValueError(f"{function}: {part} of {name} must have shape {letters} = {numbers}; got {found}.")
    return {f"{part} of {name}": array for part, array in arrays.items() if array is not None}
