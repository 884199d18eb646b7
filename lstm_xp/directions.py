"""One direction of one layer: the plain cell through an engine, anything else through the general recurrence."""

from . import checks, sequence, stages, variants
from .parameters import Direction


def forward_direction(p, x, h0, c0, cell, masks, xp, *, lengths, reverse, training, engine="auto", precision=None):
    """h (N, T, R) and the cache: of `lstm_forward`, or of `variants.forward`, each with h_n, c_n and the gates.

    The arguments are not checked here.
    """
    if variants.is_plain(p, cell, masks):
        problem = checks.problem(x, checks.device(x), p.Wh.shape[0], training, precision, xp)
        return stages.forward(problem, x, h0, p.Wx, p.Wh, p.b, c0, lengths, reverse, engine, xp)
    return variants.forward(x, h0, c0, p, cell, masks, lengths=lengths, reverse=reverse, keep=training)


def backward_direction(dy, dh_n, dc_n, cache, *, need_dx=True):
    """The gradients of x (None if not needed), h0, c0 and the parameters, from those of h, h_n and c_n."""
    if isinstance(cache, variants.VariantCache):
        return variants.backward(dy, dh_n, dc_n, cache, need_dx=need_dx)
    found = sequence.lstm_backward(dy, cache, dh_n=dh_n, dc_n=dc_n, need_dx=need_dx)
    return found.dx, found.dh0, found.dc0, Direction(found.dWx, found.dWh, found.db)


def backward_steps(dy, dh_n, dc_n, cache):
    """Gradients at every step, in the caller's order of time: of the pre-activations (N, T, 4H), of h and of c."""
    kind = variants if isinstance(cache, variants.VariantCache) else stages
    return kind.backward_steps(dy, dh_n, dc_n, cache)
