"""Core ML: the constants of the operation lstm of its Model Intermediate Language (MIL).

    weight_ih[_back]   (4*H, D)
    weight_hh[_back]   (4*H, H)
    bias[_back]        (4*H,)    may be absent
    peephole[_back]    (3*H,)    may be absent; blocks i, f, o

Rows are the gate blocks i, f, o, z (here g): the order of this package. _back is the second direction. Its attributes,
activations and clip, are no constants: give a network of your own to the parameters where they are not the defaults.
States of both directions stand side by side there, (N, 2*H), and one after the other here, (2, N, H). Gradients may be
converted by the same functions.

References: coremltools, coremltools/converters/mil/mil/ops/defs/iOS15/recurrent.py, class lstm.
"""

from ..layers import LSTM
from ..parameters import Direction
from . import tensors
from .gates import ORDERS, from_order, to_order, transposed

ORDER = ORDERS["coreml"]
PEEPHOLES = ORDER.replace("g", "")
WAYS = ("", "_back")


def from_coreml(constants, *, reverse=False):
    """A network of one layer and its parameters from the constants of an lstm operation.

    Parameters
    ----------
    constants : mapping of str to array
        Of any one library, by the names above; constants of None count as absent.
    reverse : bool
        Whether the operation's direction is "reverse".

    Returns
    -------
    network : LSTM
    params : tuple of Direction
        The arrays may share memory with the constants.

    Raises
    ------
    ValueError
        If a tensor is missing, misshapen, or one too many.
    TypeError
        If the tensors are no arrays of one library and floating dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_coreml
    >>> network, params = from_coreml({"weight_ih": np.zeros((16, 3)), "weight_hh": np.zeros((16, 4))})
    >>> network.input_size, network.bias, params[0].Wx.shape
    (3, False, (3, 16))
    """
    function = "from_coreml"
    constants = {name: v for name, v in tensors.mapping(function, constants).items() if v is not None}
    for name in ("weight_ih", "weight_hh"):
        if name not in constants:
            raise ValueError(f"{function}: {name} is missing; there are {', '.join(sorted(constants)) or 'none'}.")
    _, H = tensors.shape(function, "weight_hh", constants["weight_hh"], "(4*H, H)")
    _, D = tensors.shape(function, "weight_ih", constants["weight_ih"], "(4*H, D)")
    has = {kind: any(kind + way in constants for way in WAYS) for kind in ("bias", "peephole")}
    both = any(name.endswith("_back") for name in constants)
    network = LSTM(D, H, bidirectional=both, reverse=reverse, bias=has["bias"], peepholes=has["peephole"])
    rules = {}
    for way in WAYS[: network.num_directions]:
        rules |= {f"weight_ih{way}": ("(4*H, D)", (4 * H, D)), f"weight_hh{way}": ("(4*H, H)", (4 * H, H))}
        rules |= {f"bias{way}": ("(4*H,)", (4 * H,))} if has["bias"] else {}
        rules |= {f"peephole{way}": ("(3*H,)", (3 * H,))} if has["peephole"] else {}
    implied = f"weight_hh tells of H = {H}, weight_ih of D = {D}, the names of {network.num_directions} direction(s)"
    xp = tensors.check(function, constants, rules, implied)
    tensors.no_others(function, constants, rules, implied)
    params = []
    for way in WAYS[: network.num_directions]:
        Wx, Wh = (
            transposed(from_order(constants[kind + way], ORDER, 0, xp), xp) for kind in ("weight_ih", "weight_hh")
        )
        b = from_order(constants[f"bias{way}"], ORDER, 0, xp) if network.bias else None
        peepholes = None
        if network.peepholes:
            peepholes = xp.reshape(from_order(constants[f"peephole{way}"], PEEPHOLES, 0, xp), (3, H))
        params.append(Direction(Wx, Wh, b, peepholes=peepholes))
    return network, tuple(params)


def to_coreml(network, params):
    """The constants of an lstm operation by name: the inverse of `from_coreml`, to the bit.

    Parameters
    ----------
    network : LSTM
        One layer, one or two directions; it may have peepholes. The operation's direction is "reverse" for
        ``network.reverse``.
    params : tuple of Direction
        Arrays of any one library.

    Returns
    -------
    dict of str to array

    Raises
    ------
    ValueError
        If the network has what the operation lacks, or the parameters are not its own.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_coreml
    >>> network = LSTM(3, 4, bidirectional=True)
    >>> to_coreml(network, network.init())["weight_ih_back"].shape
    (16, 3)
    """
    may = ("bidirectional", "reverse", "peepholes")
    xp = tensors.outgoing("to_coreml", network, params, "one lstm operation of Core ML", may)
    result = {}
    for way, p in zip(WAYS, params, strict=False):
        result |= {f"weight_ih{way}": to_order(p.Wx.T, ORDER, 0, xp), f"weight_hh{way}": to_order(p.Wh.T, ORDER, 0, xp)}
        if p.b is not None:
            result[f"bias{way}"] = to_order(p.b, ORDER, 0, xp)
        if p.peepholes is not None:
            result[f"peephole{way}"] = to_order(xp.reshape(p.peepholes, (-1,)), PEEPHOLES, 0, xp)
    return result
