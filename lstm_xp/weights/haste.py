"""haste: the parameters of haste_pytorch.LSTM and LayerNormLSTM, and of haste_tf likewise.

    kernel             (D, 4*H)
    recurrent_kernel   (H, 4*H)
    bias               (4*H,)
    gamma              (2, 4*H)   with layer normalisation: gains of x @ kernel, and of h @ recurrent_kernel
    gamma_h, beta_h    (H,)       likewise: gain and bias of the cell state, before its tanh

Columns are the gate blocks i, g, f, o. The bias holds the forget bias already. Layer normalisation is that of
`lstm_xp.variant_cells`, over all 4*H values, with the same 1e-5. Gradients may be converted by the same functions.

References: https://github.com/lmnt-com/haste, frameworks/pytorch/layer_norm_lstm.py, lib/layer_norm_forward_gpu.cu.cc.
"""

from ..layers import LSTM
from ..parameters import Direction
from . import tensors
from .gates import ORDERS, from_order, to_order

ORDER = ORDERS["haste"]


def from_haste(arrays, *, prefix=None, zoneout=0.0):
    """A network and its parameters from the state dict of a haste LSTM or LayerNormLSTM.

    Parameters
    ----------
    arrays : mapping of str to array
        Of any one library.
    prefix : str or None
        Where the layer is, for example ``"encoder"``; None for the only one there is.
    zoneout : float
        What the layer was built with: the rate at which the hidden state keeps its old value. No parameter holds it.

    Returns
    -------
    network : LSTM
    params : tuple of Direction

    Raises
    ------
    ValueError
        If a tensor is missing or misshapen, or there are several layers, and none is named.
    TypeError
        If the tensors are no arrays of one library and floating dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_haste
    >>> arrays = {"kernel": np.zeros((3, 16)), "recurrent_kernel": np.zeros((4, 16)), "bias": np.zeros(16)}
    >>> network, params = from_haste(arrays, zoneout=0.1)
    >>> network.hidden_size, network.zoneout_h, params[0].Wh.shape
    (4, 0.1, (4, 16))
    """
    function = "from_haste"
    arrays = tensors.mapping(function, arrays)
    if prefix is None:
        found = [name.removesuffix("recurrent_kernel").removesuffix(".") for name in arrays
                 if f".{name}".endswith(".recurrent_kernel")]  # fmt: skip
        prefix = tensors.one_of(function, found, None, "no name ends with recurrent_kernel")
    prefix = _start(prefix)
    for name in ("kernel", "recurrent_kernel"):
        if prefix + name not in arrays:
            raise ValueError(f"{function}: {prefix}{name} is missing; there are {', '.join(sorted(arrays)) or 'none'}.")
    H, _ = tensors.shape(function, f"{prefix}recurrent_kernel", arrays[f"{prefix}recurrent_kernel"], "(H, 4*H)")
    D, _ = tensors.shape(function, f"{prefix}kernel", arrays[f"{prefix}kernel"], "(D, 4*H)")
    normalised = any(prefix + name in arrays for name in ("gamma", "gamma_h", "beta_h"))
    network = LSTM(D, H, layer_norm=normalised, zoneout_h=zoneout)
    rules = {"kernel": ("(D, 4*H)", (D, 4 * H)), "recurrent_kernel": ("(H, 4*H)", (H, 4 * H)),
             "bias": ("(4*H,)", (4 * H,))}  # fmt: skip
    if normalised:
        rules |= {"gamma": ("(2, 4*H)", (2, 4 * H)), "gamma_h": ("(H,)", (H,)), "beta_h": ("(H,)", (H,))}
    implied = f"{prefix}recurrent_kernel tells of H = {H}, {prefix}kernel of D = {D}"
    xp = tensors.check(function, arrays, {prefix + name: rule for name, rule in rules.items()}, implied)
    given = {name: arrays[prefix + name] for name in rules}
    Wx, Wh = (from_order(given[name], ORDER, 1, xp) for name in ("kernel", "recurrent_kernel"))
    p = Direction(Wx, Wh, from_order(given["bias"], ORDER, 0, xp))
    if normalised:
        gain_x, gain_h = (from_order(given["gamma"][k, :], ORDER, 0, xp) for k in range(2))
        p = p._replace(gain_x=gain_x, gain_h=gain_h, gain_c=given["gamma_h"], bias_c=given["beta_h"])
    return network, (p,)


def to_haste(network, params, *, prefix=""):
    """The parameters of a haste LSTM or LayerNormLSTM by name: the inverse of `from_haste`, to the bit.

    A network without bias gets zeros. zoneout_h is not among the parameters: give it to the layer as zoneout.

    Parameters
    ----------
    network : LSTM
        One layer in one direction; it may have layer normalisation, and zoneout of the hidden state.
    params : tuple of Direction
        Arrays of any one library.
    prefix : str
        Where the layer is, for example ``"encoder"``.

    Returns
    -------
    dict of str to array

    Raises
    ------
    ValueError
        If the network has what haste lacks, or the parameters are not its own.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_haste
    >>> network = LSTM(3, 4, layer_norm=True)
    >>> list(to_haste(network, network.init()))
    ['kernel', 'recurrent_kernel', 'bias', 'gamma', 'gamma_h', 'beta_h']
    """
    xp = tensors.outgoing("to_haste", network, params, "an LSTM of haste", ("layer_norm", "zoneout_h"))
    p = params[0]
    b = xp.zeros_like(p.Wx[0, :]) if p.b is None else p.b
    result = {"kernel": to_order(p.Wx, ORDER, 1, xp), "recurrent_kernel": to_order(p.Wh, ORDER, 1, xp),
              "bias": to_order(b, ORDER, 0, xp)}  # fmt: skip
    if network.layer_norm:
        result["gamma"] = xp.stack([to_order(gain, ORDER, 0, xp) for gain in (p.gain_x, p.gain_h)])
        result |= {"gamma_h": p.gain_c, "beta_h": p.bias_c}
    return {_start(prefix) + name: v for name, v in result.items()}


def _start(prefix):
    """What names begin with."""
    return prefix and f"{prefix.removesuffix('.')}."
