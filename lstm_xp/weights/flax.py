"""Flax: the parameters of the LSTM cells of linen and nnx.

    linen LSTMCell, OptimizedLSTMCell   {ii,if,ig,io}/kernel (D, H),  {hi,hf,hg,ho}/kernel (H, H) and bias (H,)
    nnx LSTMCell                        the same, with if_ for if
    nnx OptimizedLSTMCell               dense_i/kernel (D, 4*H),  dense_h/kernel (H, 4*H) and bias (4*H,): i, f, g, o

A cell is one layer in one direction: how cells make layers is in the code there, not in the parameters. Trap: their
carry is (c, h), our state (h, c). No bias is summed: gradients may be converted by these functions, too.

References: https://flax.readthedocs.io, flax.linen.LSTMCell, flax.nnx.LSTMCell, flax.nnx.OptimizedLSTMCell.
"""

from collections.abc import Mapping

from ..parameters import Direction
from . import cells as single
from . import tensors
from .gates import ORDERS, OURS, from_order, to_order

# Form -> the dense layers of the input, those of the hidden state, and the order of the gates through them.
FORMS = {
    "linen": (("ii", "if", "io", "ig"), ("hi", "hf", "ho", "hg"), OURS),
    "nnx": (("ii", "if_", "io", "ig"), ("hi", "hf", "ho", "hg"), OURS),
    "nnx_optimized": (("dense_i",), ("dense_h",), ORDERS["flax"]),
}


def from_flax(*cells, bidirectional=False, reverse=False):
    """A network and its parameters from the parameters of Flax cells.

    Parameters
    ----------
    *cells : mapping
        One for each layer and direction, in the order of `lstm_xp.parameters` (layer 0 forward, layer 0 reverse, layer
        1 forward, ...): what is under the cell's name in linen's ``variables["params"]``, or
        ``nnx.to_pure_dict(nnx.state(cell, nnx.Param))``. Arrays of any one library.
    bidirectional : bool
        The cells are pairs, forward and reverse, whose outputs stand side by side (``flax.linen.Bidirectional``).
    reverse : bool
        All cells run backwards (``RNN(..., reverse=True, keep_order=True)``).

    Returns
    -------
    network : LSTM
        With the functions of the cells' defaults, sigmoid and tanh: those of a cell are not in its parameters.
    params : tuple of Direction
        Arrays of the same library and dtype.

    Raises
    ------
    ValueError
        If a tensor is missing, misshapen, or one too many.
    TypeError
        If a cell is no mapping, or the tensors are no arrays of one library and floating dtype.

    Notes
    -----
    A carry (c, h) there is ``State(h[None], c[None])`` here, for one layer and direction.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_flax
    >>> cell = {name: {"kernel": np.zeros((3, 4))} for name in ("ii", "if", "ig", "io")}
    >>> cell |= {name: {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)} for name in ("hi", "hf", "hg", "ho")}
    >>> network, params = from_flax(cell)
    >>> network.input_size, network.hidden_size, params[0].Wx.shape
    (3, 4, (3, 16))
    """
    given = [_flat(cell) for cell in single.each("from_flax", cells)]
    form = _form(cells[0])
    names, (x, *_), (h, *_) = _names(form), *FORMS[form][:2]
    D, H = (_rows(given[0], f"{layer}.kernel", letters) for layer, letters in ((x, "D"), (h, "H")))
    network = single.network_of("from_flax", len(given), D, H, bidirectional=bidirectional, reverse=reverse)

    def rules(D, H):
        width, wide = 4 * H // len(names[0]), "H" if len(names[0]) == 4 else "4*H"
        shapes = ((f"(D, {wide})", (D, width)), (f"(H, {wide})", (H, width)), (f"({wide},)", (width,)))
        return {name: rule for part, rule in zip(names, shapes, strict=True) for name in part}

    def direction(own, xp):
        joined = (xp.concat([own[name] for name in part], axis=-1) for part in names)
        return Direction(*(from_order(v, FORMS[form][2], -1, xp) for v in joined))

    return single.joined("from_flax", given, rules, network, direction)


def to_flax(network, params, *, form="linen"):
    """The parameters of Flax cells: the inverse of `from_flax`.

    Parameters
    ----------
    network : LSTM
        Of plain cells.
    params : tuple of Direction
        Arrays of any one library.
    form : {'linen', 'nnx', 'nnx_optimized'}
        The names and shapes of linen's cells, of nnx's LSTMCell or of nnx's OptimizedLSTMCell.

    Returns
    -------
    tuple of dict
        One for each layer and direction: name -> {"kernel": array, "bias": array}. A network without bias has zeros.

    Raises
    ------
    ValueError
        If the network has what the cells lack, there is no such form, or the parameters are not its own.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_flax
    >>> network = LSTM(3, 4, num_layers=2)
    >>> first, second = to_flax(network, network.init(), form="nnx_optimized")
    >>> second["dense_h"]["kernel"].shape
    (4, 16)
    """
    if form not in FORMS:
        raise ValueError(f"to_flax: form must be one of {', '.join(FORMS)}; got {form!r}.")
    xp = tensors.outgoing("to_flax", network, params, "Flax's LSTM cells", ("num_layers", "bidirectional", "reverse"))
    result = []
    for p in params:
        cell = {}
        values = (p.Wx, p.Wh, xp.zeros_like(p.Wh[0, :]) if p.b is None else p.b)
        for part, value in zip(_names(form), values, strict=True):
            value = to_order(value, FORMS[form][2], -1, xp)
            size = value.shape[-1] // len(part)
            for place, name in enumerate(part):
                layer, _, kind = name.partition(".")
                cell.setdefault(layer, {})[kind] = value[..., place * size : (place + 1) * size]
        result.append(cell)
    return tuple(result)


def _names(form):
    """The tensors of Wx, of Wh and of b, each in the order of the form's gates."""
    x, h, _ = FORMS[form]
    return [f"{layer}.kernel" for layer in x], [f"{layer}.kernel" for layer in h], [f"{layer}.bias" for layer in h]


def _form(cell):
    """Which form has most of a cell's names."""
    common = {form: len({*x, *h} & set(cell)) for form, (x, h, _) in FORMS.items()}
    best = max(common, key=common.get)
    if not common[best]:
        held = ", ".join(sorted(map(str, cell))) or "nothing"
        raise ValueError(
            f"from_flax: cells[0] must have ii, if (nnx: if_), io, ig, hi, hf, ho and hg, or dense_i and dense_h; "
            f"it has {held}. Take the cell itself out of the parameters of its model."
        )
    return best


def _flat(cell):
    """{"ii": {"kernel": array}} as {"ii.kernel": array}."""
    flat = {}
    for layer, held in cell.items():
        if isinstance(held, Mapping):
            flat |= {f"{layer}.{kind}": tensor for kind, tensor in held.items()}
        else:
            flat[str(layer)] = held
    return flat


def _rows(own, name, letters):
    """The rows of a kernel of the first cell."""
    if name not in own:
        raise ValueError(f"from_flax: cells[0].{name} is missing, beside {', '.join(sorted(own))}.")
    return tensors.shape("from_flax", f"cells[0].{name}", own[name], f"({letters}, 4*H)")[0]
