"""Chainer: the parameters of NStepLSTM and NStepBiLSTM, as serializers.save_npz writes them.

    <prefix>/{k}/w0 ... w3   (H, D)   k = layer * directions + direction; D = directions * H for the layers above
    <prefix>/{k}/w4 ... w7   (H, H)
    <prefix>/{k}/b0 ... b3   (H,)     input biases
    <prefix>/{k}/b4 ... b7   (H,)     recurrent biases

Each four are the gates i, f, g, o. Mind: Chainer's documentation numbers o 2 and the candidate 3. Its code does not:
`_lstm` in chainer/functions/rnn/n_step_lstm.py stacks w2, w0, w1, w3 for a function that takes a (the candidate), i, f,
o; and cuDNN, which the same weights go to, has i, f, g, o, too. The bias here is the sum of the two; on the way back it
goes into the input biases, and zeros into the others. So gradients are not to be converted by these functions.

References: https://docs.chainer.org/en/stable/reference/generated/chainer.links.NStepLSTM.html.
"""

import re

from ..layers import LSTM
from ..parameters import Direction
from . import tensors
from .gates import ORDERS, from_order, to_order, transposed

ORDER = ORDERS["chainer"]
_KEY = re.compile(r"((?:.*/)?)(\d{1,4})/([wb][0-7])")


def from_chainer(arrays, *, prefix=None, bidirectional=None):
    """A network and its parameters from the arrays of an NStepLSTM or NStepBiLSTM.

    Parameters
    ----------
    arrays : mapping of str to array
        Of any one library; for example a file of ``chainer.serializers.save_npz``, opened by ``numpy.load``.
    prefix : str or None
        What the names begin with, before "/0/w0"; "" for nothing. None finds the only LSTM there is.
    bidirectional : bool or None
        None infers it from the shapes. They leave it open only where there are two sets of parameters, and D = H.

    Returns
    -------
    network : LSTM
    params : tuple of Direction

    Raises
    ------
    ValueError
        If there is no LSTM, or several to choose from; if a tensor is missing, misshapen or one too many; if the shapes
        leave the directions open.
    TypeError
        If the tensors are no arrays of one library and floating dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_chainer
    >>> arrays = {f"0/w{j}": np.zeros((4, 3 if j < 4 else 4)) for j in range(8)}
    >>> network, params = from_chainer(arrays | {f"0/b{j}": np.zeros(4) for j in range(8)})
    >>> network.input_size, network.hidden_size, params[0].Wx.shape
    (3, 4, (3, 16))
    """
    function = "from_chainer"
    arrays = tensors.mapping(function, arrays)
    keys = {name: key for name, key in ((name, _KEY.fullmatch(name)) for name in arrays) if key}
    found = sorted({key[1].removesuffix("/") for key in keys.values()})
    prefix = tensors.one_of(function, found, prefix and prefix.rstrip("/"), "no name ends in /0/w0")
    start = prefix and f"{prefix}/"
    own = [name for name, key in keys.items() if key[1] == start]
    count = 1 + max(int(keys[name][2]) for name in own)
    for name in (f"{start}0/w0", f"{start}0/w4"):
        if name not in arrays:
            raise ValueError(f"{function}: {name} is missing, beside {own[0]}.")
    H, D = tensors.shape(function, f"{start}0/w0", arrays[f"{start}0/w0"], "(H, D)")
    both = _both(function, arrays, start, count, D, H) if bidirectional is None else bidirectional
    if both and count % 2:
        raise ValueError(f"{function}: {count} sets of parameters are no multiple of 2 directions.")
    network = LSTM(D, H, num_layers=count // (1 + both), bidirectional=both)
    rules = {}
    for k in range(count):
        width = D if k < network.num_directions else network.num_directions * H
        rules |= {f"{start}{k}/w{j}": ("(H, D)", (H, width)) for j in range(4)}
        rules |= {f"{start}{k}/w{j}": ("(H, H)", (H, H)) for j in range(4, 8)}
        rules |= {f"{start}{k}/b{j}": ("(H,)", (H,)) for j in range(8)}
    implied = f"{start}0/w0 {(H, D)} and {count} sets of parameters tell of {network.num_layers} layer(s) and " \
              f"{network.num_directions} direction(s)"  # fmt: skip
    xp = tensors.check(function, arrays, rules, implied)
    tensors.no_others(function, own, rules, implied)
    params = []
    for k in range(count):
        Wx, Wh, bx, bh = (
            from_order(xp.concat([arrays[f"{start}{k}/{kind}{j}"] for j in range(first, first + 4)]), ORDER, 0, xp)
            for kind, first in (("w", 0), ("w", 4), ("b", 0), ("b", 4))
        )
        params.append(Direction(transposed(Wx, xp), transposed(Wh, xp), bx + bh))
    return network, tuple(params)


def to_chainer(network, params, *, prefix=""):
    """The arrays of an NStepLSTM or NStepBiLSTM: the inverse of `from_chainer`, to the bit.

    A network without bias gets zeros.

    Parameters
    ----------
    network : LSTM
        It may have layers and directions.
    params : tuple of Direction
        Arrays of any one library.
    prefix : str
        What the names shall begin with, before "/0/w0".

    Returns
    -------
    dict of str to array

    Raises
    ------
    ValueError
        If the network has what these links lack, or the parameters are not its own.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_chainer
    >>> network = LSTM(3, 4)
    >>> arrays = to_chainer(network, network.init(), prefix="rnn")
    >>> arrays["rnn/0/w0"].shape, arrays["rnn/0/b7"].shape
    ((4, 3), (4,))
    """
    xp = tensors.outgoing("to_chainer", network, params, "Chainer's NStepLSTM", ("num_layers", "bidirectional"))
    start, H, result = f"{prefix.rstrip('/')}/" if prefix else "", network.hidden_size, {}
    for k, p in enumerate(params):
        b = xp.zeros_like(p.Wx[0, :]) if p.b is None else p.b
        for kind, first, v in (("w", 0, p.Wx.T), ("w", 4, p.Wh.T), ("b", 0, b), ("b", 4, xp.zeros_like(b))):
            v = to_order(v, ORDER, 0, xp)
            result |= {f"{start}{k}/{kind}{first + j}": v[j * H : (j + 1) * H, ...] for j in range(4)}
    return result


def _both(function, arrays, start, count, D, H):
    """Whether there are two directions, as far as the second set of parameters tells."""
    if count == 1:
        return False
    name = f"{start}{min(2, count - 1)}/w0"
    if name not in arrays:
        raise ValueError(f"{function}: {name} is missing: there are {count} sets of parameters.")
    _, width = tensors.shape(function, name, arrays[name], "(H, D)")
    if count > 2:
        return width == 2 * H
    if D == H:
        raise ValueError(
            f"{function}: two sets of parameters with D = H = {H} are one layer of two directions, or two layers: "
            "pass bidirectional=True or False."
        )
    return width == D
