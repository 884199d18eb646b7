"""PyTorch: the state dicts of torch.nn.LSTM and torch.nn.LSTMCell, and files of them.

    weight_ih_l{k}[_reverse]   (4*H, D)     layer 0; D = directions * R for the layers above
    weight_hh_l{k}[_reverse]   (4*H, R)     R = P with a projection, else H
    bias_ih_l{k}[_reverse]     (4*H,)       none with bias=False
    bias_hh_l{k}[_reverse]     (4*H,)       likewise
    weight_hr_l{k}[_reverse]   (P, H)       with a projection

Rows are the gate blocks i, f, g, o. The names of an LSTMCell have no _l{k}. The bias here is the sum of the two there;
the way back puts it into bias_ih, and zeros into bias_hh. So gradients, too, may be converted by these functions where
bias=False; else each of the two biases has the gradient of their sum.

References: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html, "Variables".
"""

import re

from ..layers import LSTM
from ..parameters import Direction
from . import containers, tensors
from .gates import ORDERS, from_order, to_order, transposed

ORDER = ORDERS["pytorch"]
_WHAT = "no tensor is called weight_hh_l0, or weight_hh, and has 4*H rows"
_KEY = re.compile(r"((?:.*\.)?)(weight_hh|weight_ih|weight_hr|bias_ih|bias_hh)(?:_l(\d{1,4})(_reverse)?)?")


def from_pytorch(state_dict, *, prefix=None):
    """A network and its parameters from a state dict.

    Layers, directions, sizes, bias and projection follow from names and shapes. dropout is not in a state dict.

    Parameters
    ----------
    state_dict : mapping of str to array
        Arrays of any one library, for example ``module.state_dict()``, or what a safetensors file holds.
    prefix : str or None
        What the names of the LSTM's tensors begin with, for example ``"encoder.lstm"``; "" for none. None finds the
        only LSTM there is.

    Returns
    -------
    network : LSTM
    params : tuple of Direction
        Arrays of the same library and dtype; they may share memory with the state dict.

    Raises
    ------
    ValueError
        If there is no LSTM, or several to choose from; if a tensor is missing, misshapen, or one too many.
    TypeError
        If the tensors are no arrays of one library and floating dtype.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_pytorch
    >>> state_dict = {
    ...     "lstm.weight_ih_l0": np.zeros((16, 3)), "lstm.weight_hh_l0": np.zeros((16, 4)),
    ...     "lstm.bias_ih_l0": np.zeros(16), "lstm.bias_hh_l0": np.zeros(16),
    ... }
    >>> network, params = from_pytorch(state_dict)
    >>> network.input_size, network.hidden_size, params[0].Wx.shape
    (3, 4, (3, 16))
    """
    function = "from_pytorch"
    state_dict = tensors.mapping(function, state_dict)
    found = prefixes({name: tuple(getattr(v, "shape", ())) for name, v in state_dict.items()})
    wanted = tensors.one_of(function, found, None, _WHAT) if prefix is None else prefix.removesuffix(".")
    start = wanted and f"{wanted}."
    own = {name.removeprefix(start): v for name, v in state_dict.items() if name.startswith(start)}
    own = {name: v for name, v in own.items() if "." not in name}
    if not any(_KEY.fullmatch(name) for name in own):
        tensors.one_of(function, found, wanted, _WHAT)
    network, rules, implied, cell = _inferred(function, own, start)
    xp = tensors.check(function, {start + name: v for name, v in own.items()}, rules, implied)
    tensors.no_others(function, (start + name for name in own), rules, implied)
    params = []
    for key in _keys(network, cell):
        named = {kind: own.get(f"{kind}{key}") for kind in KINDS}
        params.append(_direction(**named, xp=xp))
    return network, tuple(params)


def to_pytorch(network, params, *, prefix="", cell=False):
    """The state dict of a network: the inverse of `from_pytorch`, to the bit.

    Parameters
    ----------
    network : LSTM
        Without what torch.nn.LSTM lacks: it has layers, directions, bias and projection.
    params : tuple of Direction
        Arrays of any one library.
    prefix : str
        What the names shall begin with, for example ``"encoder.lstm"``.
    cell : bool
        Name them as torch.nn.LSTMCell does: one layer, one direction, no projection.

    Returns
    -------
    dict of str to array
        bias_ih is the bias, bias_hh is zero.

    Raises
    ------
    ValueError
        If the network has what torch.nn.LSTM (or LSTMCell) lacks, or the parameters are not its own.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_pytorch
    >>> network = LSTM(3, 4)
    >>> {name: array.shape for name, array in to_pytorch(network, network.init()).items()}
    {'weight_ih_l0': (16, 3), 'weight_hh_l0': (16, 4), 'bias_ih_l0': (16,), 'bias_hh_l0': (16,)}
    """
    may = () if cell else ("num_layers", "bidirectional", "proj_size")
    xp = tensors.outgoing("to_pytorch", network, params, f"torch.nn.{'LSTMCell' if cell else 'LSTM'}", may)
    start = f"{prefix.removesuffix('.')}." if prefix else ""
    result = {}
    for key, p in zip(_keys(network, cell), params, strict=True):
        result[f"{start}weight_ih{key}"] = to_order(p.Wx.T, ORDER, 0, xp)
        result[f"{start}weight_hh{key}"] = to_order(p.Wh.T, ORDER, 0, xp)
        if p.b is not None:
            result[f"{start}bias_ih{key}"] = to_order(p.b, ORDER, 0, xp)
            result[f"{start}bias_hh{key}"] = xp.zeros_like(p.b)
        if p.Wp is not None:
            result[f"{start}weight_hr{key}"] = p.Wp.T
    return result


def names(path):
    """The LSTMs in a file, by their prefixes."""
    return prefixes({name: entry.shape for name, entry in containers.entries(path).items()})


def read(path, name=None):
    """Network and parameters of an LSTM in a file of PyTorch's names, .safetensors or .npz; see `from_pytorch`."""
    name = tensors.one_of(str(path), names(path), name, _WHAT)
    wanted = [each for each in containers.entries(path) if _is_own(each, name)]
    return from_pytorch(containers.read(path, wanted), prefix=name)


def others(path, name=None):
    """The names of the tensors in a file that are not those of this LSTM, of any for None."""
    lstms = names(path) if name is None else [tensors.one_of(str(path), names(path), name, _WHAT)]
    return [each for each in containers.entries(path) if not any(_is_own(each, lstm) for lstm in lstms)]


def write(path, network, params, *, prefix=""):
    """Write a file of PyTorch's names, .safetensors or .npz."""
    arrays = {name: containers.host(v) for name, v in to_pytorch(network, params, prefix=prefix).items()}
    containers.write(path, arrays)


KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def prefixes(shapes):
    """The prefixes of the LSTMs among named shapes. A GRU has three blocks of rows, a plain RNN one: neither counts."""
    found = []
    for name, shape in shapes.items():
        key = _KEY.fullmatch(name)
        if key and key[2] == "weight_hh" and key[3] in (None, "0") and not key[4]:
            projected = name.replace("weight_hh", "weight_hr") in shapes
            if projected or len(shape) != 2 or shape[0] not in (shape[1], 3 * shape[1]):
                found.append(key[1].removesuffix("."))
    return found


def _is_own(name, prefix):
    """Whether a tensor is of the module that has this prefix, and not of a module within it."""
    start = prefix and f"{prefix}."
    return name.startswith(start) and "." not in name[len(start) :]


def _keys(network, cell):
    """What follows the kind in the names: _l0, _l0_reverse, _l1, ..."""
    if cell:
        return [""]
    ways = ("", "_reverse")[: network.num_directions]
    return [f"_l{layer}{way}" for layer in range(network.num_layers) for way in ways]


def _inferred(function, own, start):
    """The network that the names and shapes tell of, the shapes it needs, why, and whether it is a cell."""
    keys = [key for key in map(_KEY.fullmatch, own) if key]
    layers = [int(key[3]) for key in keys if key[3]]
    cell, first = not layers, "" if not layers else "_l0"
    for kind in ("weight_hh", "weight_ih"):
        if kind + first not in own:
            raise ValueError(f"{function}: {start}{kind}{first} is missing, beside {start}{keys[0][0]}.")
    rows, R = tensors.shape(function, f"{start}weight_hh{first}", own["weight_hh" + first], "(4*H, R)")
    _, D = tensors.shape(function, f"{start}weight_ih{first}", own["weight_ih" + first], "(4*H, D)")
    projected = any(key[2] == "weight_hr" for key in keys) and not cell
    if not projected and rows in (R, 3 * R):
        kind = "GRU" if rows == 3 * R else "plain RNN"
        raise ValueError(f"{function}: {start}weight_hh{first} {(rows, R)} belongs to a {kind}, not to an LSTM.")
    H = tensors.quarter(function, f"{start}weight_hh{first}", "rows", rows)
    network = LSTM(
        D,
        H,
        num_layers=max(layers, default=0) + 1,
        bidirectional=any(key[4] for key in keys),
        bias=any(key[2].startswith("bias") for key in keys),
        proj_size=R if projected else 0,
    )
    counted = f"{network.num_layers} layer(s) and {network.num_directions} direction(s)"
    implied = (
        f"the names tell of {counted}, {'a' if network.bias else 'no'} bias, {'a' if projected else 'no'} projection; "
        f"{start}weight_ih{first} of D = {D}, {start}weight_hh{first} of H = {H}" + (f" and P = {R}" * projected)
    )
    rules, R = {}, network.output_size
    for index, key in enumerate(_keys(network, cell)):
        width = D if index < network.num_directions else network.num_directions * R
        letters = "(4*H, D)" if index < network.num_directions else f"(4*H, {network.num_directions}*R)"
        rules[f"{start}weight_ih{key}"] = (letters, (4 * H, width))
        rules[f"{start}weight_hh{key}"] = ("(4*H, R)", (4 * H, R))
        if network.bias:
            rules[f"{start}bias_ih{key}"] = rules[f"{start}bias_hh{key}"] = ("(4*H,)", (4 * H,))
        if projected:
            rules[f"{start}weight_hr{key}"] = ("(P, H)", (R, H))
    return network, rules, implied, cell


def _direction(*, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, xp):
    return Direction(
        transposed(from_order(weight_ih, ORDER, 0, xp), xp),
        transposed(from_order(weight_hh, ORDER, 0, xp), xp),
        None if bias_ih is None else from_order(bias_ih + bias_hh, ORDER, 0, xp),
        None if weight_hr is None else transposed(weight_hr, xp),
    )
