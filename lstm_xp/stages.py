"""The three stages of an LSTM over a sequence, forward and backward, of arguments that were checked.

    a = x @ Wx + b                     one product over all steps       here, in terms of `xp`
    h, c = recurrence(a, h0, c0, Wh)   T dependent steps                an engine
    da = recurrence_gradient(dh, ...)  T dependent steps, backwards     the same engine
    dx, dWx, dWh, db                   four products and a sum          here, in terms of `xp`

An engine may have its own of the stages around the recurrence, too (engines/__init__.py): all but the reference do.

Inside, arrays are time-major, in the order of processing (`timeline.py`): lengths and direction stop there. Where a
step lies behind a row's length, its pre-activations are set so that the gates saturate: i = 0, f = 1, o = 0. The cell
state is then carried unchanged, h is 0, and every gradient of a pre-activation is exactly 0.
"""

from . import checks, engines
from .cell import conversions
from .records import SequenceCache, SequenceGradients
from .timeline import Timeline, rows_of

# Without training, so many pre-activations are held at a time. CuPy's engines have launches for each chunk, which read
# the weights anew: there it is more, 256 MB of float32.
CHUNK, DEVICE_CHUNK = 1 << 22, 1 << 26


def forward(problem, x, h0, Wx, Wh, b, c0, lengths, reverse, engine, chosen, xp, out=None):
    """h and the cache, as `lstm_forward` returns them, by the engine that was chosen for the one asked for.

    With `out`, an array (N, T, H) of NumPy's with contiguous rows, h is written there.
    """
    used = chosen.name if isinstance(engine, str) else chosen
    N, T, H, training = problem.N, problem.T, problem.H, problem.training
    whole = hasattr(chosen, "sequence") and N and T
    if whole and (training or len(chunks(T, N, H, problem.array_library)) == 1):
        h, h_n, c_n, c, gates = chosen.sequence(x, h0, c0, Wx, Wh, b, reverse, lengths, keep=training)
    else:
        h, h_n, c_n, c, gates = _by_stages(chosen, problem, x, h0, Wx, Wh, b, c0, lengths, reverse, xp, out)
    if out is not None and h is not out:
        out[...], h = h, out
    kept = (x, h0, c0, Wx, Wh, h, c, gates) if training else (None,) * 8
    return h, SequenceCache(*kept, h_n, c_n, lengths, reverse, problem.precision, used)


def _by_stages(engine, problem, x, h0, Wx, Wh, b, c0, lengths, reverse, xp, out):
    """h, h_n, c_n and, if they are kept, c and gates, all (N, ...). h is `out` where it was written there at once."""
    N, T, H, training = problem.N, problem.T, problem.H, problem.training
    at_once = hasattr(engine, "layer")
    timeline = Timeline(N, T, lengths, reverse, xp, problem.device)
    wide, narrow = conversions(x, xp)
    start_h, start_c, h, c = _states(h0, c0, (N, H), wide, narrow, timeline, x)
    h_n, c_n = h, c
    # c_n is looked up where a row ends: it is carried from there, but not past a NaN in h, which reaches every gate.
    looked_up = lengths is not None and not at_once
    keep = training or looked_up

    def advance(start, stop, prev_h, prev_c, h=None):
        """Stages one and two for the steps start..stop."""
        steps = timeline.steps(x, start, stop)
        if hasattr(engine, "inputs"):
            a = engine.inputs(steps, Wx, b)
            return engine.forward(_saturate_padding(a, timeline, start, xp), prev_h, prev_c, Wh, keep=keep)
        steps = wide(steps)
        if at_once:
            left = None if lengths is None else lengths - start
            if h is None:
                h = xp.empty((stop - start, N, H), dtype=prev_h.dtype, device=timeline.device)
            bias = None if b is None else wide(b)
            return h, *engine.layer(steps, prev_h, prev_c, wide(Wx), Wh, bias, left, h, keep=keep)
        a = engines.product(engine)(rows_of(steps, xp), wide(Wx), None if b is None else wide(b))
        a = _saturate_padding(xp.reshape(a, (stop - start, N, 4 * H)), timeline, start, xp)
        return engine.forward(a, prev_h, prev_c, Wh, keep=keep)

    if N == 0 or T == 0:
        h, c, gates = (xp.zeros((T, N, K), dtype=dtype, device=timeline.device)
                       for K, dtype in ((H, h.dtype), (H, c.dtype), (4 * H, c.dtype)))  # fmt: skip
        h = timeline.restore(h)
    elif (
        training
        or problem.array_library not in engines.ASSIGNABLE
        or (at_once and lengths is None and wide is narrow)  # no copy of all x is made to convert it
        or len(spans := chunks(T, N, H, problem.array_library)) == 1
    ):
        direct = at_once and out is not None and lengths is None  # then `steps` is a view
        h, last_c, c, gates = advance(0, T, h, c, timeline.steps(out) if direct else None)
        h_n = timeline.last(h, h_n)
        c_n = timeline.last(c, c_n) if looked_up else last_c
        h = out if direct else timeline.restore(h)
    else:
        output = xp.empty((T, N, H), dtype=h.dtype, device=timeline.device)
        for start, stop in spans:
            part, last_c, all_c, _ = advance(start, stop, h, c)
            h, c = part[-1, ...], last_c
            h_n = timeline.last(part, h_n, start)
            c_n = timeline.last(all_c, c_n, start) if looked_up else last_c
            timeline.put(part, output, start)
        h = xp.permute_dims(output, (1, 0, 2))

    h_n, c_n = timeline.where_empty(start_h, h_n), timeline.where_empty(start_c, c_n)
    copy, rounded = engines.copy(engine), narrow(c_n)
    h_n, c_n = copy(h_n), copy(c_n) if rounded is c_n else rounded
    c, gates = (xp.permute_dims(v, (1, 0, 2)) for v in (c, gates)) if training else (None, None)
    return h, h_n, c_n, c, gates


def backward(dh, dh_n, dc_n, cache, need_dx):
    """The gradients, as `lstm_backward` returns them."""
    x, Wx, Wh = cache.x, cache.Wx, cache.Wh
    (N, T, _), H = x.shape, Wh.shape[0]
    engine = engines.load(cache.engine, cache.precision)
    if hasattr(engine, "sequence_gradients") and N and T and engine.gradients_suit(cache):
        return SequenceGradients(*engine.sequence_gradients(dh, dh_n, dc_n, cache, need_dx=need_dx))
    xp = checks.namespace(x)
    timeline = Timeline.of(x, cache.lengths, cache.reverse, xp)
    wide, narrow = conversions(x, xp)
    _, _, h0, c0 = _states(cache.h0, cache.c0, (N, H), wide, narrow, timeline, x)

    def straight(dstate):
        """What the gradient of a final state comes to where no step lies between it and the initial state."""
        return xp.zeros_like(c0) if dstate is None else wide(dstate)

    if N == 0 or T == 0:
        zeros = [xp.zeros_like(v) for v in (x, Wx, Wh, Wh[0, ...])]
        dh0, dc0 = (xp.astype(straight(v), x.dtype, copy=True) for v in (dh_n, dc_n))
        return SequenceGradients(zeros[0] if need_dx else None, dh0, *zeros[1:], dc0)

    gates, c = xp.permute_dims(cache.gates, (1, 0, 2)), xp.permute_dims(cache.c, (1, 0, 2))
    entering = _enter(dh, dh_n, dc_n, c, timeline, xp)
    steps, states = timeline.steps(x), timeline.steps(cache.h)
    if hasattr(engine, "gradients"):
        dx, dh0, dWx, dWh, db, dc0 = engine.gradients(
            *entering, gates, c, steps, h0, c0, states, Wx, Wh, need_dx=need_dx
        )
    else:
        da, dh0, dc0 = engine.backward(*entering, gates, c, c0, Wh)
        dx, dWx, dWh, db = _products(engine, da, steps, h0, states, Wx, need_dx, wide, xp)
    if timeline.lengths is not None:
        dh0, dc0 = timeline.where_empty(straight(dh_n), dh0), timeline.where_empty(straight(dc_n), dc0)
    if need_dx:
        dx = timeline.restore(narrow(dx))
    return SequenceGradients(dx, narrow(dh0), narrow(dWx), narrow(dWh), narrow(db), narrow(dc0))


def backward_steps(dh, dh_n, dc_n, cache):
    """da (N, T, 4H), and all that reaches h and c (N, T, H), at each step: arguments as in `lstm_backward`.

    By the reference's recurrence, whichever engine ran: others have da only.
    """
    xp = checks.namespace(cache.x)
    if cache.x.shape[1] == 0:
        return tuple(xp.zeros_like(v) for v in (cache.gates, cache.c, cache.c))
    timeline = Timeline.of(cache.x, cache.lengths, cache.reverse, xp)
    *_, c0 = _states(cache.h0, cache.c0, cache.h_n.shape, *conversions(cache.x, xp), timeline, cache.x)
    gates, c = xp.permute_dims(cache.gates, (1, 0, 2)), xp.permute_dims(cache.c, (1, 0, 2))
    entering = _enter(dh, dh_n, dc_n, c, timeline, xp)
    steps = engines.load("array_api").backward_steps(*entering, gates, c, c0, cache.Wh)
    return timeline.restored([step[:3] for step in steps][::-1])


def _states(h0, c0, shape, wide, narrow, timeline, x):
    """The initial state as given (zeros for None), and as the recurrence starts: zeros for rows without steps."""
    xp = timeline.xp
    if h0 is not None and c0 is not None and timeline.lengths is None:
        c0 = wide(c0)
        return h0, c0, h0, c0
    zeros = xp.zeros(shape, dtype=checks.compute_dtype(x, xp), device=timeline.device)
    start_h = narrow(zeros) if h0 is None else h0
    start_c = zeros if c0 is None else wide(c0)
    return start_h, start_c, timeline.where_empty(narrow(zeros), start_h), timeline.where_empty(zeros, start_c)


def _enter(dh, dh_n, dc_n, c, timeline, xp):
    """dh, dh_n, dc_n as an engine takes them: dh_n enters each row at its last step, and padding is zeroed."""
    dh = None if dh is None else timeline.steps(dh)
    if timeline.lengths is None:
        return dh, dh_n, dc_n
    if dh_n is not None:
        dh_n = xp.astype(dh_n, c.dtype, copy=False)
        dh_n = xp.where(timeline.is_last(timeline.T), dh_n[None, ...], xp.zeros_like(c))
        dh = dh_n if dh is None else xp.astype(dh, c.dtype, copy=False) + dh_n
    if dc_n is not None:
        dc_n = timeline.where_empty(xp.zeros_like(dc_n), dc_n)
    return dh, None, dc_n


def _products(engine, da, x, h0, h, Wx, need_dx, wide, xp):
    """Stage three: dx, dWx, dWh, db from da, x and h, all (T, N, .) in the order of processing."""
    (T, N, D), H = x.shape, h.shape[2]
    product, flat = engines.product(engine), rows_of(da, xp)
    if hasattr(engine, "weight_gradients"):
        dWx, dWh, db = engine.weight_gradients(x, h0, h, da)
    else:
        x, h = wide(x), wide(h)
        # What was multiplied: x_t with Wx, h_{t-1} (h0 at the first step) with Wh, 1 with b. One product.
        prev_h = xp.concat([wide(h0)[None, ...], h[:-1, ...]])
        dW = product(rows_of(xp.concat([x, prev_h, xp.ones_like(h[..., :1])], axis=-1), xp).T, flat)
        dWx, dWh, db = dW[:D, ...], dW[D : D + H, ...], dW[D + H, ...]
    Wx = Wx if Wx.dtype == da.dtype else wide(Wx)  # da may be bfloat16
    dx = xp.reshape(product(flat, Wx.T), (T, N, D)) if need_dx else None
    return dx, dWx, dWh, db


def _saturate_padding(a, timeline, start, xp):
    """Pre-activations (steps, N, 4H) that carry the cell state through what lies behind the lengths."""
    if timeline.lengths is None:
        return a
    big = float(xp.finfo(a.dtype).max) / 2
    block = (a.shape[2] // 4,)
    values = [xp.full(block, value, dtype=a.dtype, device=timeline.device) for value in (-big, big, -big, 0.0)]
    return xp.where(timeline.valid(a.shape[0], start), a, xp.concat(values))


def chunks(T, N, H, library):
    """The steps whose pre-activations are held at a time, without training: pairs of the first one and the next."""
    most = DEVICE_CHUNK if library == "cupy" else CHUNK
    size = max(1, most // (4 * N * H))
    return [(start, min(start + size, T)) for start in range(0, T, size)]
