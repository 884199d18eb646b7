"""What went on inside a network: every gate of every layer and step, how often the gates saturate, every gradient."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from . import backpropagation, checks, sequence
from .cell import split
from .checks import Array
from .directions import backward_steps
from .parameters import State, check_pair
from .records import LayerCache, SequenceCache
from .timeline import Timeline
from .variants import VariantCache


class Trace(NamedTuple):
    """One direction of one layer, step by step, in the caller's order of time; zeros behind the lengths.

    i, f, o, g, c (N, T, H): gates, candidate, cell state. h (N, T, R): hidden state. `lengths` (N,) are those of the
    run, or None where every row has T steps.
    """

    i: Array
    f: Array
    o: Array
    g: Array
    c: Array
    h: Array
    lengths: Array | None = None


class GradientTrace(NamedTuple):
    """The gradients of a loss in one direction of one layer, laid out like its `Trace`; zeros behind the lengths.

    da_i, da_f, da_o, da_g (N, T, H): with respect to the pre-activations of the gates and of the candidate.
    dc (N, T, H), dh (N, T, R): with respect to cell and hidden state, all that reaches them from this step and later
    ones.
    """

    da_i: Array
    da_f: Array
    da_o: Array
    da_g: Array
    dc: Array
    dh: Array
    lengths: Array | None = None


class Shares(NamedTuple):
    """The share of its steps, 0 to 1, in which each unit is saturated at its lower and at its upper end: (H,) each."""

    left: Array
    right: Array


class Saturation(NamedTuple):
    """The `Shares` of each gate and of the candidate."""

    i: Shares
    f: Shares
    o: Shares
    g: Shares


def traces(cache: Any) -> tuple[Trace, ...]:
    """Every gate, cell state and hidden state of a forward pass.

    Parameters
    ----------
    cache : LayerCache or SequenceCache
        What `LSTM.forward` or `lstm_forward` returned with ``training=True``. It is not modified.

    Returns
    -------
    tuple of Trace
        One for each layer and direction, in the order of the parameters (`lstm_xp.parameters`); one alone for
        `lstm_forward`. Its arrays are (N, T, H), h is (N, T, R), also where the network is ``time_major``. Step t is
        that of the caller's x in both directions; behind the lengths there are zeros. Library and device are the
        caller's. The dtype of i, f, o, g, c is the one they were computed in: float32 for half types.

    Raises
    ------
    TypeError
        If cache is something else.
    ValueError
        If it was made with ``training=False``, which keeps no gates.

    See Also
    --------
    saturation : how often the gates are shut or open.

    Notes
    -----
    With coupled gates, f is 1 - i. With zoneout, c and h are the states that the next step sees.

    Cost: no flop; copies where the run had lengths.

    References
    ----------
    .. [1] A. Karpathy, J. Johnson, L. Fei-Fei, "Visualizing and Understanding Recurrent Networks", arXiv:1506.02078,
       2015.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import LSTM, traces
    >>> network = LSTM(3, 4, num_layers=2, bidirectional=True)
    >>> x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    >>> y, state, cache = network.forward(network.init(), x, lengths=[5, 2])
    >>> found = traces(cache)
    >>> len(found), found[3].f.shape
    (4, (2, 5, 4))
    >>> bool(np.all(found[3].f[1, 2:] == 0)), bool(np.all(found[3].h == y[:, :, 4:]))
    (True, True)
    """
    if not isinstance(cache, LayerCache | SequenceCache | VariantCache):
        raise _no_cache("traces", cache)
    directions = cache.directions if isinstance(cache, LayerCache) else (cache,)
    if any(each.gates is None for each in directions):
        raise ValueError("traces: the cache was made with training=False, which keeps no gates: use training=True.")
    return tuple(_trace(each) for each in directions)


def gradient_traces(dy: Array | None, cache: Any, *, dstate: State | None = None) -> tuple[GradientTrace, ...]:
    r"""The gradients that flow back through a network, at every step: where they vanish, where they explode.

    With dy_t the gradient of a direction's output at step t, and t + 1 the step taken after it, those of the plain cell
    are (at the last step, the gradients of the final state stand in place of what comes from t + 1):

    .. math::
        dh_t &= dy_t + da_{t+1} W_h^T, \qquad
        dc_t = dh_t \odot o_t \odot (1 - \tanh^2 c_t) + dc_{t+1} \odot f_{t+1} \\
        da_i &= dc_t \odot g \odot i (1 - i), \qquad da_f = dc_t \odot c_{t-1} \odot f (1 - f) \\
        da_o &= dh_t \odot \tanh(c_t) \odot o (1 - o), \qquad da_g = dc_t \odot i \odot (1 - g^2)

    Parameters
    ----------
    dy : array, or None
        Gradient of the loss with respect to the output, as `LSTM.backward` and `lstm_backward` take it (like the
        output, also where the network is ``time_major``). None for zeros.
    cache : LayerCache or SequenceCache
        What `LSTM.forward` or `lstm_forward` returned with ``training=True``. It is not modified.
    dstate : (dh, dc), or None
        Gradients with respect to the final state, each an array or None for zeros: laid out as the state of
        `LSTM.forward`; of `lstm_forward`, dh_n and dc_n (N, H). One of dy, dh, dc must be given.

    Returns
    -------
    tuple of GradientTrace
        One for each layer and direction, in the order of the parameters (`lstm_xp.parameters`); one alone for
        `lstm_forward`. Its arrays are (N, T, H), dh is (N, T, R), also where the network is ``time_major``. Step t is
        that of the caller's x in both directions; behind the lengths there are zeros. Library and device are the
        caller's, the dtype is the one that they were computed in: float32 for half types.

    Raises
    ------
    TypeError
        If cache is something else, dstate is no pair, or the library or dtype of a gradient is not that of the forward
        pass.
    ValueError
        If a gradient's shape or device is not that of the forward pass, none is given, or the cache was made with
        ``training=False``.

    See Also
    --------
    traces : the gates and states themselves, which dc and dh belong to.
    LSTM.backward, lstm_backward : the gradients of parameters and inputs, which are sums and products of these.

    Notes
    -----
    da are the gradients of what the activations are given: x Wx + h Wh + b, with layer normalisation and peepholes,
    before it is clipped. With coupled gates, da_f is 0, and da_i has all of it. dh is that of h after a projection and
    before its recurrent dropout. With zoneout, c and h are the states that the next step sees, as in `traces`. If it is
    one of c, nothing comes to c by way of the same step's h, which is made of the cell state before zoneout.

    Cost: a backward pass step by step in the terms of the array library, whichever engine ran; and that of
    `LSTM.backward` for all layers but the lowest.

    References
    ----------
    .. [1] S. Hochreiter, Y. Bengio, P. Frasconi, J. Schmidhuber, "Gradient Flow in Recurrent Nets: the Difficulty of
       Learning Long-Term Dependencies", in: A Field Guide to Dynamical Recurrent Neural Networks, IEEE Press, 2001.
    .. [2] R. Pascanu, T. Mikolov, Y. Bengio, "On the Difficulty of Training Recurrent Neural Networks", ICML 2013.

    Examples
    --------
    How much of the gradient of the last output is left at each step before:

    >>> import numpy as np
    >>> from lstm_xp import LSTM, gradient_traces
    >>> network = LSTM(3, 4, forget_bias=0.0)
    >>> x = np.random.default_rng(0).standard_normal((2, 6, 3), dtype=np.float32)
    >>> y, state, cache = network.forward(network.init(), x)
    >>> dy = np.zeros_like(y)
    >>> dy[:, -1] = 1
    >>> (found,) = gradient_traces(dy, cache)
    >>> found.dh.shape, found.da_f.shape
    ((2, 6, 4), (2, 6, 4))
    >>> norms = np.linalg.norm(found.dc, axis=(0, 2))
    >>> bool(np.all(norms[1:] > norms[:-1]))
    True
    """
    if isinstance(cache, LayerCache):
        entering = {}
        backpropagation.backward("gradient_traces", dy, cache, dstate, False, entering)
        return tuple(_gradient_trace(*entering[k], each) for k, each in enumerate(cache.directions))
    if not isinstance(cache, SequenceCache):
        raise _no_cache("gradient_traces", cache)
    dh, dc = (None, None) if dstate is None else check_pair("gradient_traces", dstate, "dstate")
    given = {"dy": dy, "dh of dstate": dh, "dc of dstate": dc}
    sequence.check_gradients("gradient_traces", given, cache)
    return (_gradient_trace(dy, dh, dc, cache),)


def saturation(
    trace: Trace, lengths: Array | Sequence[int] | None = None, *, low: float = 0.1, high: float = 0.9
) -> Saturation:
    """How often each unit's gates are shut and open, padding left out.

    A gate i, f or o is left-saturated where it is below `low`, right-saturated where it is above `high`; the candidate
    g where it is below -`high`, and above `high`. (A tanh saturates at both ends: |g| is near 1 in the share
    left + right.) A forget gate that is right-saturated most of the time belongs to a unit that remembers.

    Parameters
    ----------
    trace : Trace
        One of those that `traces` returns.
    lengths : N integers, or None
        How many steps of each row count; None for the lengths of the run, which the trace has.
    low, high : float
        Thresholds, 0 < low < high < 1.

    Returns
    -------
    Saturation
        For each of i, f, o, g the shares `left` and `right` (H,) of all valid steps of all rows, of the library,
        device and dtype of the gates. NaN where there is no step at all. A gate that is NaN counts as neither.

    Raises
    ------
    TypeError
        If trace is no Trace, or lengths are not integers.
    ValueError
        If lengths do not fit the trace, or the thresholds are none.

    Notes
    -----
    Cost: eight comparisons and sums over (N, T, H).

    References
    ----------
    .. [1] A. Karpathy, J. Johnson, L. Fei-Fei, "Visualizing and Understanding Recurrent Networks", arXiv:1506.02078,
       2015: thresholds 0.1 and 0.9, figure 2.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import lstm_forward, saturation, traces
    >>> x, Wx, Wh = np.zeros((1, 4, 2)), np.zeros((2, 12)), np.zeros((3, 12))
    >>> b = np.repeat([-9.0, 9.0, 0.0, 0.0], 3)  # input gates shut, forget gates open
    >>> h, cache = lstm_forward(x, None, Wx, Wh, b)
    >>> shares = saturation(traces(cache)[0])
    >>> shares.i.left, shares.f.right, shares.o.left
    (array([1., 1., 1.]), array([1., 1., 1.]), array([0., 0., 0.]))
    """
    if not isinstance(trace, Trace):
        hint = " Take one of them." if isinstance(trace, tuple) and trace and isinstance(trace[0], Trace) else ""
        raise TypeError(f"saturation: trace must be a Trace, as traces returns them; got {type(trace).__name__}.{hint}")
    if not 0 < low < high < 1:
        raise ValueError(f"saturation: thresholds must be 0 < low < high < 1; got low = {low!r}, high = {high!r}.")
    i = trace.i
    xp, device = checks.one_library("saturation", {gate: getattr(trace, gate) for gate in Saturation._fields})
    lengths = checks.sequence_lengths("saturation", trace.lengths if lengths is None else lengths, i, xp)
    N, T, _ = i.shape
    if lengths is None:
        lengths = xp.full((N,), T, device=device)
    valid = xp.permute_dims(Timeline.of(i, lengths, False, xp).valid(T), (1, 0, 2))
    steps = xp.sum(lengths)

    def share(saturated):
        counted = xp.sum(xp.astype(saturated & valid, steps.dtype), axis=(0, 1))
        shares = xp.astype(counted, i.dtype) / xp.astype(xp.where(steps == 0, xp.ones_like(steps), steps), i.dtype)
        return xp.where(steps == 0, xp.full_like(shares, xp.nan), shares)

    def shares(gate, lowest):
        return Shares(share(gate < lowest), share(gate > high))

    return Saturation(shares(trace.i, low), shares(trace.f, low), shares(trace.o, low), shares(trace.g, -high))


def _no_cache(function, given):
    hint = " Hand over the cache of the whole network." if isinstance(given, VariantCache) else ""
    return TypeError(
        f"{function}: cache must be what LSTM.forward or lstm_forward returned last (LayerCache, SequenceCache); "
        f"got {type(given).__name__}.{hint}"
    )


def _gradient_trace(dy, dh_n, dc_n, cache):
    da, dh, dc = backward_steps(dy, dh_n, dc_n, cache)
    return GradientTrace(*split(da), dc, dh, cache.lengths)


def _trace(cache):
    xp = checks.namespace(cache.gates)
    c = Timeline.of(cache.h, cache.lengths, cache.reverse, xp).restore(xp.permute_dims(cache.c, (1, 0, 2)))
    return Trace(cache.i, cache.f, cache.o, cache.g, c, cache.h, cache.lengths)
