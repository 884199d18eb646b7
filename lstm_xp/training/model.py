r"""A byte-level language model: embedding, stacked LSTM layers, output layer.

.. math::
    x_t = E[s_t], \qquad h^{(1)} = \mathrm{LSTM}_1(x), \quad h^{(l)} = \mathrm{LSTM}_l(h^{(l-1)}), \qquad
    z_t = h^{(L)}_t W + b, \qquad p(s_{t+1} \mid s_{\le t}) = \mathrm{softmax}(z_t)

Sizes: N streams, T steps, E embedding, H hidden units, V = 256 byte values. The parameters are a dict of arrays:

    embedding (V, E) · lstm0.Wx (E, 4H) · lstm0.Wh (H, 4H) · lstm0.b (4H,) · lstm1.Wx (H, 4H) ...
    output.W (H, V) · output.b (V,)
"""

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of

from lstm_xp import LSTM, Direction, LayerCache, State

VOCABULARY = 256
"""Every byte value is a token, so that no text holds an unknown one."""


WEIGHTS = "Wx", "Wh", "b"


class ModelCache(NamedTuple):
    """What `backward` needs: the arguments, the last layer's h, and the cache of the layers."""

    parameters: dict
    tokens: Any
    h: Any
    layers: LayerCache


def parameter_shapes(*, hidden, layers, embedding):
    """The name and shape of every parameter, in the order of the data's way through the model."""
    shapes = {"embedding": (VOCABULARY, embedding)}
    for layer in range(layers):
        shapes[f"lstm{layer}.Wx"] = (hidden if layer else embedding, 4 * hidden)
        shapes[f"lstm{layer}.Wh"] = (hidden, 4 * hidden)
        shapes[f"lstm{layer}.b"] = (4 * hidden,)
    return shapes | {"output.W": (hidden, VOCABULARY), "output.b": (VOCABULARY,)}


def init_parameters(rng, *, hidden, layers, embedding, dtype):
    r"""Initial parameters, as NumPy arrays.

    Weights are normal with standard deviation :math:`1/\sqrt{\text{rows}}`, the embedding is standard normal, biases
    are 0 but for the forget gate's, which is 1, so that the cell state is remembered from the start.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the numbers come from.
    hidden, layers, embedding : int
        Sizes H, L, E.
    dtype : str or dtype
        Floating dtype of the parameters.

    Returns
    -------
    dict of numpy.ndarray
        See the top of this file for names and shapes.

    References
    ----------
    .. [1] R. Jozefowicz, W. Zaremba, I. Sutskever, "An Empirical Exploration of Recurrent Network Architectures",
       ICML 2015 (the forget gate's bias).
    """
    parameters = {}
    for name, shape in parameter_shapes(hidden=hidden, layers=layers, embedding=embedding).items():
        if name.endswith(".b"):
            value = np.zeros(shape)
        else:
            value = rng.standard_normal(shape) / (1.0 if name == "embedding" else np.sqrt(shape[0]))
        if name.startswith("lstm") and name.endswith(".b"):
            value[hidden : 2 * hidden] = 1.0
        parameters[name] = value.astype(dtype)
    return parameters


def layers_of(parameters):
    """The LSTM layers of a model: the network, and its parameters."""
    layers = sum(name.endswith(".Wh") for name in parameters)
    params = tuple(Direction(*(parameters[f"lstm{layer}.{name}"] for name in WEIGHTS)) for layer in range(layers))
    return LSTM(params[0].Wx.shape[0], params[0].Wh.shape[0], num_layers=layers), params


def zero_state(parameters, batch):
    """The state before a text begins: zeros (L, N, H), of N streams."""
    network, params = layers_of(parameters)
    xp, b = array_namespace(params[0].b), params[0].b
    shape = network.num_layers, batch, network.hidden_size
    return State(*(xp.zeros(shape, dtype=b.dtype, device=device_of(b)) for _ in State._fields))


def forward(parameters, tokens, state, *, training=True):
    r"""Logits of the next byte after each byte of a batch of streams.

    Parameters
    ----------
    parameters : dict of array
        Of one floating dtype, as `init_parameters` names them.
    tokens : integer array, shape (N, T)
        Byte values. Fastest when time-major in memory, that is when ``tokens[:, t]`` is contiguous.
    state : State, of arrays (L, N, H), or None
        Of all layers, before the first step; None for zeros.
    training : bool
        Whether to keep what `backward` needs.

    Returns
    -------
    logits : array, shape (N, T, 256)
        Unnormalised log-probabilities, time-major in memory, of the parameters' dtype.
    state : State
        After the last step.
    cache : ModelCache or None
        What `backward` needs.
    """
    xp = array_namespace(parameters["embedding"])
    network, params = layers_of(parameters)
    h, state, cache = network.forward(params, _embed(parameters["embedding"], tokens, xp), state, training=training)
    logits = _steps(_rows(h, xp) @ parameters["output.W"] + parameters["output.b"], tokens.shape, xp)
    return logits, state, ModelCache(parameters, tokens, h, cache) if training else None


def backward(dlogits, cache):
    r"""Gradients of all parameters, given those of the logits.

    With rows running over all streams and steps: :math:`dW = h^T dz`, :math:`db = \sum dz`, :math:`dh = dz\,W^T`,
    then the LSTM layers, and :math:`dE = S^T dx` with S the one-hot rows of the tokens: a
    product, because it sums in the same order every time, and because every array library has it.

    Parameters
    ----------
    dlogits : array, shape (N, T, 256)
        Gradient of the loss with respect to the logits.
    cache : ModelCache
        What `forward` returned. No gradient flows into the initial state: back-propagation is truncated there.

    Returns
    -------
    dict of array
        The gradients, with the names, shapes and dtypes of the parameters.

    References
    ----------
    .. [1] R. Williams, J. Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
       Trajectories", Neural Computation 2(4), 490-501, 1990 (truncated back-propagation through time).
    """
    parameters, tokens, h, layers = cache
    xp = array_namespace(dlogits)
    flat = _rows(dlogits, xp)
    gradients = {"output.W": _rows(h, xp).T @ flat, "output.b": xp.sum(flat, axis=0)}
    dx, _, dparams = layers.network.backward(output_backward(dlogits, cache), layers)
    for layer, dp in enumerate(dparams):
        gradients |= {f"lstm{layer}.{name}": getattr(dp, name) for name in WEIGHTS}
    gradients["embedding"] = one_hot(_rows(tokens[..., None], xp)[:, 0], dx.dtype).T @ _rows(dx, xp)
    return {name: gradients[name] for name in parameters}


def output_backward(dlogits, cache):
    """The gradient of the last layer's h (N, T, H), from that of the logits: arguments as in `backward`."""
    xp = array_namespace(dlogits)
    return _steps(_rows(dlogits, xp) @ cache.parameters["output.W"].T, cache.tokens.shape, xp)


def one_hot(tokens, dtype):
    """Rows of the identity: (..., 256), 1 where the last index is the token."""
    xp = array_namespace(tokens)
    return xp.astype(tokens[..., None] == xp.arange(VOCABULARY, dtype=tokens.dtype, device=device_of(tokens)), dtype)


def _embed(embedding, tokens, xp):
    """The rows (N, T, E) of the embedding, time-major in memory."""
    return _steps(xp.take(embedding, _rows(tokens[..., None], xp)[:, 0], axis=0), tokens.shape, xp)


def _rows(v, xp):
    """(N, T, K) as the rows of one matrix (T*N, K), in the order of time: no copy where v is time-major."""
    N, T, K = v.shape
    return xp.reshape(xp.permute_dims(v, (1, 0, 2)), (T * N, K))


def _steps(rows, shape, xp):
    """The inverse of `_rows`."""
    N, T = shape
    return xp.permute_dims(xp.reshape(rows, (T, N, rows.shape[1])), (1, 0, 2))
