"""The backward pass of a network, from its last layer to its first."""

from . import checks, masks, parameters
from .directions import backward_direction
from .records import LayerGradients


def backward(function, dy, cache, dstate, need_dx, entering=None):
    """`LSTM.backward`, whose cache is a `LayerCache`.

    `entering`, a dict, is given what enters each direction, by its place among the parameters: the gradients of its
    h (N, T, R), h_n and c_n, each an array or None.
    """
    if cache.x is None:
        raise ValueError(f"{function}: the cache was made with training=False, which keeps nothing for backward.")
    network, xp, (N, T, _) = cache.network, checks.namespace(cache.x), cache.x.shape
    if dstate is not None:
        parameters.check_state(function, network, dstate, N, "dstate")
    dh, dc = (None, None) if dstate is None else dstate
    width = network.num_directions * network.output_size
    size = (T, N, width) if network.time_major else (N, T, width)
    letters = "(T, N, directions * R)" if network.time_major else "(N, T, directions * R)"
    rules = {"dy": (letters, size)}
    rules |= {f"d{part} of dstate": rule for part, rule in parameters.state_shapes(network, N).items()}
    given = {"dy": dy, "dh of dstate": dh, "dc of dstate": dc}
    checks.cotangents(function, given, rules, cache.x, f"x {tuple(cache.x.shape)}")

    R = network.output_size
    dx = xp.permute_dims(dy, (1, 0, 2)) if network.time_major and dy is not None else dy
    dparams, dh0, dc0 = {}, {}, {}
    for layer in reversed(range(network.num_layers)):
        down, parts, wanted = dx, [], need_dx or layer > 0
        for place, k in enumerate(parameters.indices(network, layer)):
            part = down if down is None or not network.bidirectional else down[..., place * R : (place + 1) * R]
            dh_n, dc_n = (None if v is None else v[k, ...] for v in (dh, dc))
            if entering is not None:
                entering[k] = part, dh_n, dc_n
            one, dh0[k], dc0[k], found = backward_direction(part, dh_n, dc_n, cache.directions[k], need_dx=wanted)
            dparams[k] = found if network.bias else found._replace(b=None)
            parts.append(one)
        if wanted:
            dx = sum(parts[1:], start=parts[0])
            for mask in cache.masks.on_input(layer):
                dx = masks.times(dx, mask, xp)
    if need_dx:
        dx = xp.permute_dims(dx, (1, 0, 2)) if network.time_major else dx
    order = range(len(dparams))
    dstate = parameters.stacked([dh0[k] for k in order], [dc0[k] for k in order], xp)
    return LayerGradients(dx if need_dx else None, dstate, tuple(dparams[k] for k in order))
