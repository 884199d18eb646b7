r"""TensorFlow 1: the variables of BasicLSTMCell, LSTMCell and LSTMBlockCell in a checkpoint, by name.

    <scope>/kernel                (D + R, 4*H)   rows: x first, then h
    <scope>/bias                  (4*H,)
    <scope>/w_{i,f,o}_diag        (H,)           with peepholes
    <scope>/projection/kernel     (H, P)         with a projection

Columns are the gate blocks i, j (here g), f, o. The scopes of the layers hold cell_0, cell_1, ... (MultiRNNCell), those
of the directions fw and bw: stack_bidirectional_rnn/cell_1/bidirectional_rnn/bw/lstm_cell. Where fw and bw stand before
the cells, there are two stacks that meet only at their ends: two networks, the second one with reverse=True.

Mind: the cell adds forget_bias, 1 unless told otherwise, to the pre-activation of f; no variable holds it. It is added
to the bias here, and taken off on the way back: both ways are exact for forget_bias=0 only. (CudnnCompatibleLSTMCell
has 0.) States are (c, h) there, (h, c) here. The bounds cell_clip and proj_clip are no variables either, and have no
counterpart here. Gradients may be converted with forget_bias=0.

References: tensorflow/python/ops/rnn_cell_impl.py of TensorFlow 1.15.
"""

import re

from ..layers import LSTM
from ..parameters import Direction
from . import tensors
from .gates import ORDERS, from_order, to_order

ORDER = ORDERS["tensorflow1"]
WAYS = ("fw", "bw")
DIAGONALS = tuple(f"w_{gate}_diag" for gate in "ifo")
_WHAT = "no name ends in /kernel and has a neighbour /bias"


def from_tensorflow1(variables, *, prefix=None, forget_bias=1.0):
    """A network and its parameters from the variables of a checkpoint.

    Parameters
    ----------
    variables : mapping of str to array
        As ``tf.train.load_checkpoint`` gives them; a ":0" at the end of a name is ignored.
    prefix : str or None
        What the scopes of the LSTM's cells begin with, up to cell_0, fw, or the name of the cell. None finds the only
        LSTM there is.
    forget_bias : float
        What the cell was built with.

    Returns
    -------
    network : LSTM
    params : tuple of Direction

    Raises
    ------
    ValueError
        If there is no LSTM, or several to choose from; if a tensor is missing or misshapen; if the cells are
        compatible with cuDNN and forget_bias is not 0.
    TypeError
        If the tensors are no arrays of one library and floating dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_tensorflow1
    >>> variables = {"rnn/lstm_cell/kernel": np.zeros((7, 16)), "rnn/lstm_cell/bias": np.zeros(16)}
    >>> network, params = from_tensorflow1(variables)
    >>> network.input_size, network.hidden_size, params[0].b[3:9]
    (3, 4, array([0., 1., 1., 1., 1., 0.]))
    """
    function = "from_tensorflow1"
    variables = {name.removesuffix(":0"): v for name, v in tensors.mapping(function, variables).items()}
    stacks = _stacks(variables)
    prefix = tensors.one_of(function, list(stacks), prefix and prefix.rstrip("/"), _WHAT)
    scopes = stacks[prefix]
    if forget_bias != 0 and any("cudnn_compatible" in scope for scope in scopes.values()):
        raise ValueError(f"{function}: {prefix} is compatible with cuDNN: pass forget_bias=0; got {forget_bias!r}.")
    network, rules, implied = _inferred(function, prefix, scopes, variables)
    xp = tensors.check(function, variables, rules, implied)
    params = []
    for index, scope in enumerate(scopes[key] for key in sorted(scopes)):
        D = network.input_size if index < network.num_directions else network.num_directions * network.output_size
        kernel = from_order(variables[f"{scope}/kernel"], ORDER, 1, xp)
        b, H = from_order(variables[f"{scope}/bias"], ORDER, 0, xp), network.hidden_size
        if forget_bias != 0:
            b = xp.concat([b[:H], b[H : 2 * H] + forget_bias, b[2 * H :]])
        Wp = variables[f"{scope}/projection/kernel"] if network.proj_size else None
        peepholes = xp.stack([variables[f"{scope}/{name}"] for name in DIAGONALS]) if network.peepholes else None
        params.append(Direction(kernel[:D, :], kernel[D:, :], b, Wp, peepholes))
    return network, tuple(params)


def to_tensorflow1(network, params, *, prefix="rnn", forget_bias=1.0):
    """The variables of a network, by name: the inverse of `from_tensorflow1`.

    A network without bias gets one of zeros (less forget_bias), for every cell there has one.

    Parameters
    ----------
    network : LSTM
        It may have layers, directions, a projection and peepholes.
    params : tuple of Direction
        Arrays of any one library.
    prefix : str
        What the scopes shall begin with.
    forget_bias : float
        What the cell will be built with; it is taken off the bias of the forget gate.

    Returns
    -------
    dict of str to array

    Raises
    ------
    ValueError
        If the network has what these cells lack, or the parameters are not its own.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_tensorflow1
    >>> network = LSTM(3, 4)
    >>> variables = to_tensorflow1(network, network.init())
    >>> {name: array.shape for name, array in variables.items()}
    {'rnn/lstm_cell/kernel': (7, 16), 'rnn/lstm_cell/bias': (16,)}
    """
    may = ("num_layers", "bidirectional", "reverse", "proj_size", "peepholes")
    xp = tensors.outgoing("to_tensorflow1", network, params, "an LSTMCell of TensorFlow 1", may)
    result, H = {}, network.hidden_size
    for index, p in enumerate(params):
        layer, second = divmod(index, network.num_directions)
        scope = _scope(prefix.rstrip("/"), network, layer, second)
        b = xp.zeros_like(p.Wx[0, :]) if p.b is None else p.b
        if forget_bias != 0:
            b = xp.concat([b[:H], b[H : 2 * H] - forget_bias, b[2 * H :]])
        result[f"{scope}/kernel"] = to_order(xp.concat([p.Wx, p.Wh]), ORDER, 1, xp)
        result[f"{scope}/bias"] = to_order(b, ORDER, 0, xp)
        if p.Wp is not None:
            result[f"{scope}/projection/kernel"] = p.Wp
        if p.peepholes is not None:
            result |= {f"{scope}/{name}": p.peepholes[k, :] for k, name in enumerate(DIAGONALS)}
    return result


def _scope(prefix, network, layer, second):
    cells = f"cell_{layer}/" if network.num_layers > 1 else ""
    if network.bidirectional:
        return f"{prefix}/{cells}bidirectional_rnn/{WAYS[second]}/lstm_cell"
    way = "bw/" if network.reverse else ""
    return f"{prefix}/{way}{'multi_rnn_cell/' if cells else ''}{cells}lstm_cell"


def _stacks(variables):
    """The LSTMs among the variables: prefix -> {(layer, direction): scope of the cell}."""
    stacks = {}
    for name in variables:
        scope, _, last = name.rpartition("/")
        if last != "kernel" or scope.endswith("/projection") or f"{scope}/bias" not in variables:
            continue
        parts = scope.split("/")
        cell = next((k for k, part in enumerate(parts) if re.fullmatch(r"cell_\d{1,4}", part)), None)
        way = next((k for k, part in enumerate(parts) if part in WAYS), None)
        if cell is not None and (way is None or cell < way):
            prefix, layer = parts[:cell], int(parts[cell].removeprefix("cell_"))
            direction = 0 if way is None else WAYS.index(parts[way])
        elif cell is not None:
            prefix, layer, direction = parts[:cell], int(parts[cell].removeprefix("cell_")), 0
        elif way is not None:
            prefix, layer, direction = parts[:way], 0, WAYS.index(parts[way])
        else:
            prefix, layer, direction = parts, 0, 0
        stacks.setdefault("/".join(prefix), {})[layer, direction] = scope
    return stacks


def _inferred(function, prefix, scopes, variables):
    """The network, the shapes it needs, and why."""
    directions = {direction for _, direction in scopes}
    layers = 1 + max(layer for layer, _ in scopes)
    both = directions == {0, 1}
    needed = {(layer, direction) for layer in range(layers) for direction in directions}
    if missing := sorted(needed - set(scopes)):
        layer, direction = missing[0]
        raise ValueError(
            f"{function}: {prefix} has no cell for layer {layer}, {WAYS[direction]}; its scopes tell of {layers} "
            f"layer(s) and {len(directions)} direction(s)."
        )
    first = scopes[min(scopes)]
    rows, columns = tensors.shape(function, f"{first}/kernel", variables[f"{first}/kernel"], "(D + R, 4*H)")
    H = tensors.quarter(function, f"{first}/kernel", "columns", columns)
    P = 0
    if f"{first}/projection/kernel" in variables:
        _, P = tensors.shape(function, f"{first}/projection/kernel", variables[f"{first}/projection/kernel"], "(H, P)")
    R = P or H
    if rows <= R:
        raise ValueError(f"{function}: {first}/kernel must have D + R rows, more than R = {R}; got {rows}.")
    network = LSTM(
        rows - R,
        H,
        num_layers=layers,
        bidirectional=both,
        reverse=not both and (1 in directions or "bw" in prefix.split("/")),
        proj_size=P,
        peepholes=f"{first}/{DIAGONALS[0]}" in variables,
    )
    rules = {}
    for (layer, _), scope in scopes.items():
        width = (network.num_directions * R if layer else rows - R) + R
        rules[f"{scope}/kernel"] = ("(D + R, 4*H)", (width, 4 * H))
        rules[f"{scope}/bias"] = ("(4*H,)", (4 * H,))
        if P:
            rules[f"{scope}/projection/kernel"] = ("(H, P)", (H, P))
        if network.peepholes:
            rules |= {f"{scope}/{name}": ("(H,)", (H,)) for name in DIAGONALS}
    implied = (
        f"{first}/kernel {(rows, columns)} tells of H = {H}" + f", its projection of P = {P}" * bool(P)
        + f", so D = {rows - R}; the scopes tell of {layers} layer(s) and {len(directions)} direction(s)"
    )  # fmt: skip
    return network, rules, implied
