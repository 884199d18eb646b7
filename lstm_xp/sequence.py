"""The three stages of an LSTM over a sequence, forward and backward.

    a = x @ Wx + b                     one product over all steps       here, in terms of `xp`
    h, c = recurrence(a, h0, c0, Wh)   T dependent steps                an engine
    da = recurrence_gradient(dh, ...)  T dependent steps, backwards     the same engine
    dx, dWx, dWh, db                   four products and a sum          here, in terms of `xp`

An engine may have its own of the stages around the recurrence, too (engines/__init__.py): all but the reference do.

Inside, arrays are time-major, in the order of processing (`timeline.py`): lengths and direction stop there. Where a
step lies behind a row's length, its pre-activations are set so that the gates saturate: i = 0, f = 1, o = 0. The cell
state is then carried unchanged, h is 0, and every gradient of a pre-activation is exactly 0.
"""

from collections.abc import Sequence
from typing import Any

from . import checks, engines
from .cell import conversions
from .checks import Array
from .records import SequenceCache, SequenceGradients
from .timeline import Timeline, rows_of

# Without training, so many pre-activations are held at a time. CuPy's engines have launches for each chunk, which read
# the weights anew: there it is more, 256 MB of float32.
CHUNK, DEVICE_CHUNK = 1 << 22, 1 << 26


def lstm_forward(
    x: Array,
    h0: Array | None,
    Wx: Array,
    Wh: Array,
    b: Array | None,
    *,
    c0: Array | None = None,
    lengths: Array | Sequence[int] | None = None,
    reverse: bool = False,
    training: bool = True,
    precision: str | None = None,
    engine: Any = "auto",
) -> tuple[Array, SequenceCache]:
    r"""An LSTM over a batch of sequences.

    .. math::
        a_t &= x_t W_x + h_{t-1} W_h + b, \qquad a_t = [a_i \; a_f \; a_o \; a_g] \\
        i, f, o &= \sigma(a_i), \sigma(a_f), \sigma(a_o), \qquad g = \tanh(a_g) \\
        c_t &= f \odot c_{t-1} + i \odot g, \qquad h_t = o \odot \tanh(c_t)

    Parameters
    ----------
    x : array, shape (N, T, D)
        Input, of a floating dtype; the other arrays share its library, dtype and device.
    h0 : array, shape (N, H), or None
        Hidden state before the first step; None for zeros.
    Wx : array, shape (D, 4*H)
        Input weights; the columns are the gate blocks i, f, o, g.
    Wh : array, shape (H, 4*H)
        Recurrent weights, columns in the same order.
    b : array, shape (4*H,), or None
        Bias (PyTorch: ``bias_ih + bias_hh``); None for zeros.
    c0 : array, shape (N, H), or None
        Cell state before the first step; None for zeros.
    lengths : N integers, or None
        How many steps each row has, 0 to T, in any order. What lies behind is never looked at: h is 0 there. A row of
        length 0 returns its h0 and c0 as final state. Integers of the host are checked; an integer array of x's library
        on a device is clamped to 0..T instead, so that the device need not be waited for.
    reverse : bool
        Take the steps from the last (of each row) to the first. h stays in the order of x; the final state is the one
        after step 0.
    training : bool
        Whether to keep what `lstm_backward` needs. If not, the memory used beyond h is bounded by a number of steps
        that does not grow with T, where the library can assign into arrays (NumPy, CuPy, PyTorch): so many that their
        pre-activations are 4 million numbers, on CuPy 67 million, and one step at least.
    precision : {None, 'ieee', 'tf32', 'tf32x3'}
        The least precise product that an engine may use for float32 on CUDA; None means 'ieee'. Engines that have no
        faster one compute IEEE products. float16 and bfloat16 always allow 'tf32', which has all their digits.
    engine : str or engine
        Which engine runs the recurrence. 'auto' takes the first that suits (see `explain`); a named one runs, or
        raises.

    Returns
    -------
    h : array, shape (N, T, H)
        Hidden states. Its memory is time-major: ``h[:, t]`` is contiguous.
    cache : SequenceCache
        What `lstm_backward` needs, the final state ``cache.h_n``, ``cache.c_n`` (N, H), and every gate.

    Raises
    ------
    ValueError
        If shapes or devices disagree, D or H is 0, lengths lie outside 0..T, or precision is unknown.
    TypeError
        If libraries or dtypes differ, the dtype is not a floating one, or lengths are not integers.
    EngineError
        If the named engine is unknown or cannot run this problem (a ValueError).

    See Also
    --------
    lstm_backward : its gradients.
    lstm_step_forward : one step.
    explain : which engine runs, and why.

    Notes
    -----
    Cost: 8 N T H (D + H) flop. Training keeps gates (N, T, 4H), c (N, T, H), h, and references to the arguments.
    float16 and bfloat16: products accumulate in float32, gates and cell states are float32, only what is returned is
    rounded, and h as it is handed to the next step.

    References
    ----------
    .. [1] S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1735-1780, 1997.
    .. [2] F. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget: Continual Prediction with LSTM",
       Neural Computation 12(10), 2451-2471, 2000.
    .. [3] J. Appleyard, T. Kocisky, P. Blunsom, "Optimizing Performance of Recurrent Neural Networks on GPUs",
       arXiv:1604.01946, 2016 (the input product of all steps at once).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import lstm_forward
    >>> rng = np.random.default_rng(0)
    >>> N, T, D, H = 2, 5, 3, 4
    >>> x, Wx, Wh, b = map(rng.standard_normal, [(N, T, D), (D, 4 * H), (H, 4 * H), 4 * H])
    >>> h, cache = lstm_forward(x, None, Wx, Wh, b, lengths=[5, 2])
    >>> h.shape, cache.h_n.shape
    ((2, 5, 4), (2, 4))
    >>> bool(np.all(h[1, 2:] == 0)), bool(np.all(cache.h_n[1] == h[1, 1]))
    (True, True)
    """
    xp, problem = checks.sequence_arguments("lstm_forward", x, h0, Wx, Wh, b, c0, training, precision)
    lengths = checks.sequence_lengths("lstm_forward", lengths, x, xp)
    return run(problem, x, h0, Wx, Wh, b, c0, lengths, bool(reverse), engine, xp)


def run(problem, x, h0, Wx, Wh, b, c0, lengths, reverse, engine, xp):
    """`lstm_forward` of arguments that were checked."""
    chosen = engines.choose(engine, problem)
    used = chosen.name if isinstance(engine, str) else chosen
    at_once = hasattr(chosen, "layer")
    N, T, H, training = problem.N, problem.T, problem.H, problem.training
    whole = hasattr(chosen, "sequence") and N and T
    if whole and (training or len(_chunks(T, N, H, problem.array_library)) == 1):
        h, h_n, c_n, c, gates = chosen.sequence(x, h0, c0, Wx, Wh, b, reverse, lengths, keep=training)
        kept = (x, h0, c0, Wx, Wh, h, c, gates) if training else (None,) * 8
        return h, SequenceCache(*kept, h_n, c_n, lengths, reverse, problem.precision, used)

    timeline = Timeline(N, T, lengths, reverse, xp, problem.device)
    wide, narrow = conversions(x, xp)
    start_h, start_c, h, c = _states(h0, c0, (N, H), wide, narrow, timeline, x)
    h_n, c_n = h, c
    # c_n is looked up where a row ends: it is carried from there, but not past a NaN in h, which reaches every gate.
    keep = training or lengths is not None

    def advance(start, stop, prev_h, prev_c):
        """Stages one and two for the steps start..stop."""
        steps = timeline.steps(x, start, stop)
        if hasattr(chosen, "inputs"):
            a = chosen.inputs(steps, Wx, b)
            return chosen.forward(_saturate_padding(a, timeline, start, xp), prev_h, prev_c, Wh, keep=keep)
        steps = wide(steps)
        if at_once:
            left = None if lengths is None else lengths - start
            return chosen.layer(steps, prev_h, prev_c, wide(Wx), Wh, None if b is None else wide(b), left, keep=keep)
        a = engines.product(chosen)(rows_of(steps, xp), wide(Wx), None if b is None else wide(b))
        a = _saturate_padding(xp.reshape(a, (stop - start, N, 4 * H)), timeline, start, xp)
        return chosen.forward(a, prev_h, prev_c, Wh, keep=keep)

    if N == 0 or T == 0:
        h, c, gates = (xp.zeros((T, N, K), dtype=dtype, device=timeline.device)
                       for K, dtype in ((H, h.dtype), (H, c.dtype), (4 * H, c.dtype)))  # fmt: skip
        h = timeline.restore(h)
    elif (
        training
        or problem.array_library not in engines.ASSIGNABLE
        or (at_once and lengths is None and wide is narrow)  # no copy of all x is made to convert it
        or len(chunks := _chunks(T, N, H, problem.array_library)) == 1
    ):
        h, last_c, c, gates = advance(0, T, h, c)
        h_n = timeline.last(h, h_n)
        c_n = last_c if lengths is None else timeline.last(c, c_n)
        h = timeline.restore(h)
    else:
        output = xp.empty((T, N, H), dtype=h.dtype, device=timeline.device)
        for start, stop in chunks:
            part, last_c, all_c, _ = advance(start, stop, h, c)
            h, c = part[-1, ...], last_c
            h_n = timeline.last(part, h_n, start)
            c_n = last_c if lengths is None else timeline.last(all_c, c_n, start)
            timeline.put(part, output, start)
        h = xp.permute_dims(output, (1, 0, 2))

    h_n, c_n = timeline.where_empty(start_h, h_n), timeline.where_empty(start_c, c_n)
    copy, rounded = engines.copy(chosen), narrow(c_n)
    h_n, c_n = copy(h_n), copy(c_n) if rounded is c_n else rounded
    kept = (None,) * 8
    if training:
        kept = (x, h0, c0, Wx, Wh, h, xp.permute_dims(c, (1, 0, 2)), xp.permute_dims(gates, (1, 0, 2)))
    return h, SequenceCache(*kept, h_n, c_n, lengths, reverse, problem.precision, used)


def lstm_backward(
    dh: Array | None,
    cache: SequenceCache,
    *,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    need_dx: bool = True,
) -> SequenceGradients:
    r"""Gradients of `lstm_forward`, given those of its outputs.

    With dh, dc running backwards from dh_n, dc_n, and dh_t the gradient of the output at step t:

    .. math::
        dh &\mathrel{+}= dh_t, \qquad dc \mathrel{+}= dh \odot o \odot (1 - \tanh^2 c_t) \\
        da_i &= dc \odot g \odot i (1 - i), \qquad da_f = dc \odot c_{t-1} \odot f (1 - f) \\
        da_o &= dh \odot \tanh(c_t) \odot o (1 - o), \qquad da_g = dc \odot i \odot (1 - g^2) \\
        dh &= da_t W_h^T, \qquad dc = dc \odot f \\
        dx_t &= da_t W_x^T, \quad dW_x = \sum_t x_t^T da_t, \quad dW_h = \sum_t h_{t-1}^T da_t, \quad db = \sum_t da_t

    Parameters
    ----------
    dh : array, shape (N, T, H), or None
        Gradient of the loss with respect to h. What stands behind the lengths is not looked at.
    cache : SequenceCache
        What `lstm_forward` returned with ``training=True``. It is not modified, and may be used again.
    dh_n, dc_n : array, shape (N, H), or None
        Gradients with respect to ``cache.h_n`` and ``cache.c_n``, added to those that come through dh. None means
        zeros; one of dh, dh_n, dc_n must be given.
    need_dx : bool
        False leaves dx out (None in its place) and saves its product.

    Returns
    -------
    SequenceGradients
        The tuple (dx, dh0, dWx, dWh, db), also by these names, and the attribute ``dc0``: each with the shape, dtype
        and device of what it is the gradient of. Where h0, c0 or b was None: the gradient at zeros.

    Raises
    ------
    ValueError
        If a gradient's shape or device is not that of the forward call, or the cache was made with ``training=False``.
    TypeError
        If a gradient's library or dtype is not that of the forward call, or cache is not a `SequenceCache`.

    See Also
    --------
    lstm_forward : the forward pass.
    lstm_xp.testing.check_gradients : proves a gradient by finite differences.

    Notes
    -----
    Cost: 16 N T H (D + H) flop. Sums are formed in float32 for float16 and bfloat16. CuPy's own engines round da of
    bfloat16 to that type before it is multiplied. Theirs are views of one piece of memory (all but dx), which is free
    when none of them is needed any more.

    References
    ----------
    .. [1] P. Werbos, "Backpropagation Through Time: What It Does and How to Do It", Proc. IEEE 78(10), 1990.
    .. [2] K. Greff et al., "LSTM: A Search Space Odyssey", IEEE TNNLS 28(10), 2222-2232, 2017 (section II.B).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import lstm_backward, lstm_forward
    >>> rng = np.random.default_rng(0)
    >>> N, T, D, H = 2, 5, 3, 4
    >>> x, h0, Wx, Wh, b = map(rng.standard_normal, [(N, T, D), (N, H), (D, 4 * H), (H, 4 * H), 4 * H])
    >>> h, cache = lstm_forward(x, h0, Wx, Wh, b)
    >>> dx, dh0, dWx, dWh, db = gradients = lstm_backward(np.ones_like(h), cache)
    >>> dx.shape, gradients.dc0.shape
    ((2, 5, 3), (2, 4))
    """
    if not isinstance(cache, SequenceCache):
        raise TypeError(f"lstm_backward: cache must come from lstm_forward; got {type(cache).__name__}.")
    if cache.gates is None:
        raise ValueError(
            "lstm_backward: the cache was made with training=False, which keeps nothing for backward; "
            "call lstm_forward with training=True."
        )
    x, Wx, Wh = cache.x, cache.Wx, cache.Wh
    N, T, D = x.shape
    H = Wh.shape[0]
    checks.cotangents(
        "lstm_backward",
        {"dh": dh, "dh_n": dh_n, "dc_n": dc_n},
        {"dh": ("(N, T, H)", (N, T, H)), "dh_n": ("(N, H)", (N, H)), "dc_n": ("(N, H)", (N, H))},
        x,
        f"x {(N, T, D)} and Wh {tuple(Wh.shape)}",
    )
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


def explain(
    x: Array,
    h0: Array | None,
    Wx: Array,
    Wh: Array,
    b: Array | None,
    *,
    c0: Array | None = None,
    lengths: Array | Sequence[int] | None = None,
    reverse: bool = False,
    training: bool = True,
    precision: str | None = None,
    engine: Any = "auto",
) -> str:
    """Which engine `lstm_forward` would run for these arguments, and why each one before it would not.

    Parameters
    ----------
    x, h0, Wx, Wh, b, c0, lengths, reverse, training, precision, engine
        As in `lstm_forward`, and checked alike.

    Returns
    -------
    str
        First the engine that runs, then a line for each one that is preferred to it, with the reason.

    Raises
    ------
    ValueError, TypeError, EngineError
        As `lstm_forward` does.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import explain
    >>> x, Wx, Wh = (np.ones(shape, np.float16) for shape in ((2, 5, 3), (3, 16), (4, 16)))
    >>> print(explain(x, None, Wx, Wh, None))
    numpy_fused: runs
    numpy_numba: refuses, it computes float32 and float64, not float16
    """
    xp, problem = checks.sequence_arguments("explain", x, h0, Wx, Wh, b, c0, training, precision)
    checks.sequence_lengths("explain", lengths, x, xp)
    if isinstance(engine, str) and engine == "auto":
        return engines.explain(problem)
    return f"{engines.choose(engine, problem).name}: runs, as asked for"


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


def _chunks(T, N, H, library):
    most = DEVICE_CHUNK if library == "cupy" else CHUNK
    size = max(1, most // (4 * N * H))
    return [(start, min(start + size, T)) for start in range(0, T, size)]
