"""One direction of one layer: the plain cell through an engine, anything else through the general recurrence."""

from . import variants
from .parameters import Direction
from .sequence import lstm_backward, lstm_forward


def run_direction(p, x, h0, c0, cell, masks, *, lengths, reverse, training, engine="auto", precision=None):
    """h (N, T, R) and the cache: of `lstm_forward`, or of `variants.forward`, each with h_n, c_n and the gates."""
    order = {"lengths": lengths, "reverse": reverse}
    if variants.is_plain(p, cell, masks):
        options = {"training": training, "engine": engine, "precision": precision}
        return lstm_forward(x, h0, p.Wx, p.Wh, p.b, c0=c0, **order, **options)
    return variants.forward(x, h0, c0, p, cell, masks, keep=training, **order)


def return_direction(dy, dh_n, dc_n, cache):
    """The gradients of x, h0, c0 and the parameters, from those of h, h_n and c_n."""
    if isinstance(cache, variants.VariantCache):
        return variants.backward(dy, dh_n, dc_n, cache)
    found = lstm_backward(dy, cache, dh_n=dh_n, dc_n=dc_n)
    return found.dx, found.dh0, found.dc0, Direction(found.dWx, found.dWh, found.db)
