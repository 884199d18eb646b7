"""The arrays and attributes of ONNX's LSTM operator: their layout, and what they mean here.

    W   (dirs, 4*H, D)   input weights, rows in the blocks i, o, f, c
    R   (dirs, 4*H, H)   recurrent weights
    B   (dirs, 8*H)      bias of W, then bias of R: their sum is ours; absent for zeros
    P   (dirs, 3*H)      peepholes in the order i, o, f; absent for zeros

One node is one layer, in one or both directions. Traps: the order of the gates; two biases; Y (T, dirs, N, H) has to be
transposed and reshaped before the next layer; layout 0 is time-major; attributes are float32.

Reference: ONNX, operator LSTM, opset 22, https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from ..activations import KINDS, Activation, activation
from ..parameters import Direction
from ..variant_cells import PLAIN
from .gates import ORDERS, from_order, to_order, transposed

ORDER, PEEPHOLES = ORDERS["onnx"], "iof"
# The attribute `direction` -> which of the node's directions are reversed.
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
NAMES = {name.lower(): name for name in KINDS}


def rules(dirs, D, H):
    """The shapes of the weights: name -> (in letters, in numbers)."""
    return {
        "W": ("(dirs, 4*H, D)", (dirs, 4 * H, D)),
        "R": ("(dirs, 4*H, H)", (dirs, 4 * H, H)),
        "B": ("(dirs, 8*H)", (dirs, 8 * H)),
        "P": ("(dirs, 3*H)", (dirs, 3 * H)),
    }


def direction_of(W, R, B, P, xp):
    """The parameters of one direction, from W (4*H, D), R (4*H, H), B (8*H,) or None and P (3*H,) or None."""
    b = peepholes = None
    if B is not None:
        size = B.shape[0] // 2
        b = from_order(B[:size] + B[size:], ORDER, 0, xp)
    if P is not None:
        peepholes = xp.reshape(from_order(P, PEEPHOLES, 0, xp), (3, P.shape[0] // 3))
    return Direction(
        transposed(from_order(W, ORDER, 0, xp), xp), transposed(from_order(R, ORDER, 0, xp), xp), b, peepholes=peepholes
    )


def arrays_of(p, xp):
    """The inverse of `direction_of`: W, R, B and P of one direction; our bias is the first of the two in B."""
    B = P = None
    if p.b is not None:
        b = to_order(p.b, ORDER, 0, xp)
        B = xp.concat([b, xp.zeros_like(b)])
    if p.peepholes is not None:
        P = to_order(xp.reshape(p.peepholes, (-1,)), PEEPHOLES, 0, xp)
    return to_order(p.Wx, ORDER, 1, xp).T, to_order(p.Wh, ORDER, 1, xp).T, B, P


def check_attributes(function, *, direction, layout, input_forget, clip):
    """Check the attributes that are one of a few values, and clip."""
    for name, value, allowed in (
        ("direction", direction, tuple(DIRECTIONS)),
        ("layout", layout, (0, 1)),
        ("input_forget", input_forget, (0, 1)),
    ):
        if value not in allowed:
            raise ValueError(f"{function}: {name} must be one of {', '.join(map(repr, allowed))}; got {value!r}.")
    if clip is not None:
        _number(function, "clip must be a positive number, or None", clip)
        if not clip > 0:
            raise ValueError(f"{function}: clip must be a positive number, or None; got {clip!r}.")


def functions_of(function, names, alphas, betas, dirs):
    """The activations f, g, h of each direction; alphas and betas are consumed by those that take them."""
    names = [kind.name for kind in PLAIN.activations] * dirs if names is None else names
    if isinstance(names, str):
        raise TypeError(f"{function}: activations must be a list of names; got {names!r}.")
    if len(names) != 3 * dirs:
        raise ValueError(f"{function}: activations must be {3 * dirs} names, f, g, h per direction; got {len(names)}.")
    left = {"activation_alpha": list(alphas or ()), "activation_beta": list(betas or ())}
    functions = []
    for name in names:
        default = activation(function, NAMES.get(str(name).lower(), name))
        constants = []
        for (attribute, values), constant in zip(left.items(), (default.alpha, default.beta), strict=True):
            if constant is not None and values:
                constant = float(_number(function, f"{attribute} must be a list of numbers", values.pop(0)))
            constants.append(constant)
        functions.append(Activation(default.name, *constants))
    for attribute, values in left.items():
        if values:
            raise ValueError(
                f"{function}: {attribute} has {len(values)} more than the functions {', '.join(names)} take; "
                "give one for each function that takes one, in their order."
            )
    return [tuple(functions[3 * k : 3 * k + 3]) for k in range(dirs)]


def attributes_of(network):
    """The attributes of a network's nodes; those that have the operator's defaults are left out."""
    kinds, dirs = network.cell.activations, network.num_directions
    attributes = {"hidden_size": network.hidden_size}
    if network.num_directions == 2 or network.reverse:
        attributes["direction"] = "bidirectional" if dirs == 2 else "reverse"
    if kinds != PLAIN.activations:
        attributes["activations"] = [kind.name for kind in kinds] * dirs
    for name in ("alpha", "beta"):
        values = [getattr(kind, name) for kind in kinds if getattr(kind, name) is not None]
        if values:
            attributes[f"activation_{name}"] = values * dirs
    if network.clip is not None:
        attributes["clip"] = float(network.clip)
    if network.coupled:
        attributes["input_forget"] = 1
    return attributes


def _number(function, rule, value):
    """A number as it came; text is none."""
    try:
        if not isinstance(value, str):
            float(value)
            return value
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{function}: {rule}; got {value!r}.")
