"""Equinox: the arrays of equinox.nn.LSTMCell.

    weight_ih (4*H, D),  weight_hh (4*H, H),  bias (4*H,) or None      rows in the blocks i, f, g, o

A cell is one layer in one direction. Its state is (h, c), without a batch axis. One bias: gradients may be converted by
these functions, too.

Reference: https://docs.kidger.site/equinox/api/nn/rnn/
"""

from ..parameters import Direction
from . import cells as single
from . import tensors
from .gates import ORDERS, from_order, to_order, transposed

ORDER = ORDERS["equinox"]
SETTINGS = ("input_size", "hidden_size", "use_bias")  # fields of the module that are no arrays


def from_equinox(*cells, bidirectional=False, reverse=False):
    """A network and its parameters from the fields of Equinox cells.

    Parameters
    ----------
    *cells : mapping
        One for each layer and direction, in the order of `lstm_xp.parameters` (layer 0 forward, layer 0 reverse, layer
        1 forward, ...): ``vars(cell)``, or the arrays weight_ih, weight_hh and bias by name, of any one library.
    bidirectional : bool
        The cells are pairs, forward and reverse, whose outputs stand side by side.
    reverse : bool
        All cells run backwards.

    Returns
    -------
    network : LSTM
    params : tuple of Direction
        Arrays of the same library and dtype; they may share memory with those given.

    Raises
    ------
    ValueError
        If a tensor is missing, misshapen, or one too many.
    TypeError
        If a cell is no mapping, or the tensors are no arrays of one library and floating dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_equinox
    >>> network, params = from_equinox({"weight_ih": np.zeros((16, 3)), "weight_hh": np.zeros((16, 4)), "bias": None})
    >>> network.bias, params[0].Wx.shape
    (False, (3, 16))
    """
    given = [
        {name: value for name, value in cell.items() if value is not None and name not in SETTINGS}
        for cell in single.each("from_equinox", cells)
    ]
    sizes = {}
    for name, letters in (("weight_ih", "(4*H, D)"), ("weight_hh", "(4*H, H)")):
        if name not in given[0]:
            raise ValueError(f"from_equinox: cells[0].{name} is missing; it must have shape {letters}.")
        sizes[name] = tensors.shape("from_equinox", f"cells[0].{name}", given[0][name], letters)
    H = tensors.quarter("from_equinox", "cells[0].weight_hh", "rows", sizes["weight_hh"][0])
    network = single.network_of(
        "from_equinox", len(given), sizes["weight_ih"][1], H,
        bidirectional=bidirectional, reverse=reverse, bias="bias" in given[0],
    )  # fmt: skip

    def rules(D, H):
        shapes = {"weight_ih": ("(4*H, D)", (4 * H, D)), "weight_hh": ("(4*H, H)", (4 * H, H))}
        return shapes | ({"bias": ("(4*H,)", (4 * H,))} if network.bias else {})

    def direction(own, xp):
        Wx, Wh = (transposed(from_order(own[name], ORDER, 0, xp), xp) for name in ("weight_ih", "weight_hh"))
        return Direction(Wx, Wh, from_order(own["bias"], ORDER, 0, xp) if network.bias else None)

    return single.joined("from_equinox", given, rules, network, direction)


def to_equinox(network, params):
    """The arrays of Equinox cells: the inverse of `from_equinox`.

    Parameters
    ----------
    network : LSTM
        Of plain cells.
    params : tuple of Direction
        Arrays of any one library.

    Returns
    -------
    tuple of dict
        weight_ih, weight_hh and bias (None without) for each layer and direction.

    Raises
    ------
    ValueError
        If the network has what the cell lacks, or the parameters are not its own.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_equinox
    >>> network = LSTM(3, 4)
    >>> (cell,) = to_equinox(network, network.init())
    >>> cell["weight_ih"].shape, cell["bias"].shape
    ((16, 3), (16,))
    """
    may = ("num_layers", "bidirectional", "reverse")
    xp = tensors.outgoing("to_equinox", network, params, "equinox.nn.LSTMCell", may)
    return tuple(
        {
            "weight_ih": to_order(p.Wx, ORDER, 1, xp).T,
            "weight_hh": to_order(p.Wh, ORDER, 1, xp).T,
            "bias": None if p.b is None else to_order(p.b, ORDER, 0, xp),
        }
        for p in params
    )
