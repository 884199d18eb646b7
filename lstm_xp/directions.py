"""The directions of a layer: plain cells as `lstm_forward` does it, anything else as a variant."""

from functools import partial

import numpy as np

from . import checks, engines, sequence, stages, variants
from .parameters import Direction


def forward_layer(
    params, x, states, cell, masks, reversals, xp, *, lengths, training, engine="auto", precision=None
):  # fmt: skip
    """The output of a layer (N, T, directions * R), and the caches of its directions.

    Of each direction: parameters, initial h and c, masks, and whether it is reversed. The cache is that of
    `lstm_forward`, or of `variants.forward`: each has h_n, c_n and the gates. The arguments are not checked here.
    """
    count, H = range(len(params)), params[0].Wh.shape[1] // 4
    problem = checks.problem(x, checks.device(x), H, training, precision, xp)
    if not all(variants.is_plain(p, cell, mask) for p, mask in zip(params, masks, strict=True)):
        chosen = engines.choose(engine, problem, cell)
        used = chosen.name if isinstance(engine, str) else chosen
        runs = [
            partial(variants.forward, x, *states[k], params[k], cell, masks[k],
                    lengths=lengths, reverse=reversals[k], keep=training, engine=used)
            for k in count
        ]  # fmt: skip
        found = engines.run(chosen, problem, runs)
        return _side_by_side([h for h, _ in found], xp), [cache for _, cache in found]
    chosen = engines.choose(engine, problem)
    y, places = None, [None, None]
    if len(params) == 2 and problem.array_library == "numpy":  # each direction writes to its place in the output
        y = xp.permute_dims(xp.empty((problem.T, problem.N, 2 * H), dtype=x.dtype), (1, 0, 2))
        places = y[..., :H], y[..., H:]

    def run(k):
        (Wx, Wh, b), (h0, c0) = params[k][:3], states[k]
        return stages.forward(
            problem, x, h0, Wx, Wh, b, c0, lengths, reversals[k], engine, chosen, xp, places[k]
        )  # fmt: skip

    found = engines.run(chosen, problem, [partial(run, k) for k in count])
    return _side_by_side([h for h, _ in found], xp) if y is None else y, [cache for _, cache in found]


def backward_layer(outer, caches, *, need_dx):
    """dx (None if not needed), and of each direction the gradients of h0, c0 and the parameters.

    Of each direction: the gradients of h (N, T, R), h_n and c_n, each an array or None, and its cache.
    """
    runs = [partial(_backward_direction, *given, cache, need_dx) for given, cache in zip(outer, caches, strict=True)]
    x, variant = caches[0].x, isinstance(caches[0], variants.VariantCache)
    H, precision = caches[0].c_n.shape[1], "ieee" if variant else caches[0].precision
    problem = checks.problem(x, checks.device(x), H, True, precision, checks.namespace(x))
    found = engines.run(engines.load(caches[0].engine, precision), problem, runs)
    dx, *more = (dx for dx, *_ in found)
    for other in more if need_dx else ():
        # In place, where it can be: dx is new, nobody else has it yet.
        dx = np.add(dx, other, out=dx) if isinstance(dx, np.ndarray) else dx + other
    return dx, [others for _, *others in found]


def _backward_direction(dy, dh_n, dc_n, cache, need_dx):
    """The gradients of x (None if not needed), h0, c0 and the parameters, from those of h, h_n and c_n."""
    if isinstance(cache, variants.VariantCache):
        return variants.backward(dy, dh_n, dc_n, cache, need_dx=need_dx)
    found = sequence.lstm_backward(dy, cache, dh_n=dh_n, dc_n=dc_n, need_dx=need_dx)
    return found.dx, found.dh0, found.dc0, Direction(found.dWx, found.dWh, found.db)


def backward_steps(dy, dh_n, dc_n, cache):
    """Gradients at every step, in the caller's order of time: of the pre-activations (N, T, 4H), of h and of c."""
    kind = variants if isinstance(cache, variants.VariantCache) else stages
    return kind.backward_steps(dy, dh_n, dc_n, cache)


def _side_by_side(outputs, xp):
    return xp.concat(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
