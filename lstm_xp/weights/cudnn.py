"""cuDNN: the one flat vector of all weights and biases, as in jax.experimental.rnn and tf.contrib.cudnn_rnn.

    W_ih, W_hh of layer 0 forward, layer 0 reverse, layer 1 forward, ...     (4*H, D) and (4*H, H), row by row
    b_ih, b_hh of the same                                                   (4*H,) each

First all weights, then all biases. Rows are the gate blocks i, f, g, o. Which biases there are is cuDNN's bias mode:
"double" b_ih and b_hh, "input" b_ih, "recurrent" b_hh, "none" neither. The bias here is their sum; on the way back it
goes into the first one there is. Gradients may be converted where there are not two biases.

cuDNN promises its layout by cudnnGetRNNWeightParams only; this one is what its releases have, checked in the sources
below. (MIOpen, on AMD devices, has g and o the other way round.) Where a projection stands is not known: it is refused.

References: jax.experimental.rnn, "the layout"; PyTorch, aten/src/ATen/native/cudnn/RNN.cpp, get_parameters.
"""

import math

from .. import checks
from ..layers import LSTM
from ..parameters import Direction
from . import tensors
from .gates import ORDERS, from_order, to_order, transposed

ORDER = ORDERS["cudnn"]
BIASES = {"double": 2, "input": 1, "recurrent": 1, "none": 0}


def from_cudnn(weights, input_size, hidden_size, *, num_layers=1, bidirectional=False, bias="double"):
    """A network and its parameters from the flat vector.

    Parameters
    ----------
    weights : array, shape (K,)
        Of any library. K follows from the sizes: they cannot be inferred from it.
    input_size, hidden_size, num_layers, bidirectional
        As of `LSTM`.
    bias : {'double', 'input', 'recurrent', 'none'}
        cuDNN's bias mode.

    Returns
    -------
    network : LSTM
    params : tuple of Direction

    Raises
    ------
    ValueError
        If the vector's size is not that of the network.
    TypeError
        If it is no array of a floating dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_cudnn
    >>> network, params = from_cudnn(np.zeros(144), 3, 4)
    >>> params[0].Wx.shape, params[0].b.shape
    ((3, 16), (16,))
    """
    if bias not in BIASES:
        raise ValueError(f"from_cudnn: bias must be one of {', '.join(BIASES)}; got {bias!r}.")
    network = LSTM(input_size, hidden_size, num_layers, bidirectional=bidirectional, bias=bias != "none")
    xp, _ = checks.one_library("from_cudnn", {"weights": weights})
    pieces = _pieces(network, BIASES[bias])
    size = sum(math.prod(shape) for shape in pieces)
    if tuple(weights.shape) != (size,):
        others = [mode for mode, count in BIASES.items() if (
            tuple(weights.shape) == (sum(math.prod(shape) for shape in _pieces(network, count)),)
        )]  # fmt: skip
        hint = f" It would be that of bias={others[0]!r}." if others else ""
        raise ValueError(
            f"from_cudnn: weights must have shape ({size},) for D = {network.input_size}, H = {network.hidden_size}, "
            f"{network.num_layers} layer(s), {network.num_directions} direction(s), bias={bias!r}; "
            f"got {tuple(weights.shape)}.{hint}"
        )
    arrays, begin = [], 0
    for shape in pieces:
        end = begin + math.prod(shape)
        arrays.append(xp.reshape(weights[begin:end], shape))
        begin = end
    K = network.num_layers * network.num_directions
    matrices, biases = arrays[: 2 * K], arrays[2 * K :]
    params = []
    for k in range(K):
        Wx, Wh = (transposed(from_order(v, ORDER, 0, xp), xp) for v in matrices[2 * k : 2 * k + 2])
        own, b = biases[k * BIASES[bias] : (k + 1) * BIASES[bias]], None
        if own:
            b = from_order(own[0] + own[1] if len(own) == 2 else own[0], ORDER, 0, xp)
        params.append(Direction(Wx, Wh, b))
    return network, tuple(params)


def to_cudnn(network, params, *, bias="double"):
    """The flat vector of a network: the inverse of `from_cudnn`, to the bit.

    A network without bias gets zeros, unless bias="none".

    Parameters
    ----------
    network : LSTM
        It may have layers and directions.
    params : tuple of Direction
        Arrays of any one library.
    bias : {'double', 'input', 'recurrent', 'none'}
        cuDNN's bias mode.

    Returns
    -------
    array, shape (K,)

    Raises
    ------
    ValueError
        If the network has what cuDNN's vector lacks, or a bias that bias="none" would lose.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_cudnn
    >>> network = LSTM(3, 4)
    >>> to_cudnn(network, network.init()).shape
    (144,)
    """
    if bias not in BIASES:
        raise ValueError(f"to_cudnn: bias must be one of {', '.join(BIASES)}; got {bias!r}.")
    if bias == "none" and network.bias:
        raise ValueError("to_cudnn: bias='none' would lose the network's bias.")
    xp = tensors.outgoing("to_cudnn", network, params, "cuDNN's vector", ("num_layers", "bidirectional"))
    matrices, biases = [], []
    for p in params:
        matrices += [to_order(W.T, ORDER, 0, xp) for W in (p.Wx, p.Wh)]
        b = xp.zeros_like(p.Wx[0, :]) if p.b is None else to_order(p.b, ORDER, 0, xp)
        biases += [b, xp.zeros_like(b)][: BIASES[bias]]
    return xp.concat([xp.reshape(v, (-1,)) for v in (*matrices, *biases)])


def _pieces(network, biases):
    """The shapes of what the vector holds, in its order."""
    H, matrices = network.hidden_size, []
    for layer in range(network.num_layers):
        D = network.num_directions * H if layer else network.input_size
        matrices += [(4 * H, D), (4 * H, H)] * network.num_directions
    return matrices + [(4 * H,)] * (biases * network.num_layers * network.num_directions)
