"""The backward pass of a network, from its last layer to its first."""

from . import checks, masks, parameters
from .directions import backward_layer
from .records import LayerGradients


def backward(function, dy, cache, dstate, need_dx, entering=None):
    """`LSTM.backward`, whose cache is a `LayerCache`.

    Or, with a dict `entering`, what enters each direction is put there, by its place among the parameters: the
    gradients of its h (N, T, R), h_n and c_n, each an array or None. That is all, then.
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
    dx, gradients = xp.permute_dims(dy, (1, 0, 2)) if network.time_major and dy is not None else dy, []
    for layer in reversed(range(network.num_layers)):
        ks, wanted = parameters.indices(network, layer), need_dx or layer > 0
        parts = [None if dx is None else dx[..., place * R : (place + 1) * R] for place in range(len(ks))]
        outer = [(part, *state) for part, state in zip(parts, parameters.states_of(dstate, ks), strict=True)]
        if entering is not None:
            entering.update(zip(ks, outer, strict=True))
            if layer == 0:
                return None
        dx, found = backward_layer(outer, [cache.directions[k] for k in ks], need_dx=wanted)
        gradients = found + gradients
        for mask in cache.masks.on_input(layer) if wanted else ():
            dx = masks.times(dx, mask, xp)
    if need_dx:
        dx = xp.permute_dims(dx, (1, 0, 2)) if network.time_major else dx
    dh0, dc0, dparams = zip(*gradients, strict=True)
    if not network.bias:
        dparams = tuple(d._replace(b=None) for d in dparams)
    return LayerGradients(dx, parameters.stacked(dh0, dc0, xp), dparams)
