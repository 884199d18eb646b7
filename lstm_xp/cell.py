r"""The equations of the LSTM, and the two functions of one time step.

Everything else in this package computes these lines, many times over, faster, or in another order.
Shapes: x (N, D), h and c (N, H), a and da (N, 4H) in the gate order i, f, o, g. `xp` is an array namespace.
"""

from typing import NamedTuple

from . import checks
from .checks import Array


def sigmoid(z, xp):
    """Logistic function as (1 + tanh(z/2)) / 2, which cannot overflow and is exactly 0 or 1 when saturated."""
    return 0.5 * xp.tanh(0.5 * z) + 0.5


def split(a):
    """The four gate blocks i, f, o, g of an array (..., 4H)."""
    H = a.shape[-1] // 4
    return a[..., :H], a[..., H : 2 * H], a[..., 2 * H : 3 * H], a[..., 3 * H :]


def _same(v):
    return v


def conversions(x, xp):
    """To the compute dtype of x, and back to the dtype of x: functions that leave arrays of that dtype alone."""
    compute = checks.compute_dtype(x, xp)
    if compute == x.dtype:
        return _same, _same
    return (lambda v: xp.astype(v, compute, copy=False)), (lambda v: xp.astype(v, x.dtype, copy=False))


def cell_forward(a, prev_c, xp):
    """Pre-activations (N, 4H) and the previous cell state -> gates, next hidden state, next cell state."""
    a_i, a_f, a_o, a_g = split(a)
    i, f, o = sigmoid(a_i, xp), sigmoid(a_f, xp), sigmoid(a_o, xp)
    g = xp.tanh(a_g)
    c = f * prev_c + i * g
    h = o * xp.tanh(c)
    return (i, f, o, g), h, c


def cell_backward(dh, dc, gates, prev_c, c, xp):
    """Gradients of h and c -> of the pre-activations (N, 4H), of c with what reaches it by h, of the previous c."""
    i, f, o, g = gates
    tanh_c = xp.tanh(c)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    da_i = dc * g * i * (1 - i)
    da_f = dc * prev_c * f * (1 - f)
    da_o = dh * tanh_c * o * (1 - o)
    da_g = dc * i * (1 - g * g)
    return xp.concat([da_i, da_f, da_o, da_g], axis=-1), dc, dc * f


class StepCache(NamedTuple):
    """What `lstm_step_backward` needs: the arguments, by reference, and the gates and cell state of the step."""

    x: Array
    prev_h: Array
    prev_c: Array
    Wx: Array
    Wh: Array
    b: Array | None
    i: Array
    f: Array
    o: Array
    g: Array
    next_c: Array


class StepGradients(NamedTuple):
    """Gradients of a time step, each with the shape and dtype of what it is the gradient of."""

    dx: Array
    dprev_h: Array
    dprev_c: Array
    dWx: Array
    dWh: Array
    db: Array


def lstm_step_forward(
    x: Array, prev_h: Array, prev_c: Array, Wx: Array, Wh: Array, b: Array | None
) -> tuple[Array, Array, StepCache]:
    r"""One time step of an LSTM with forget gate.

    .. math::
        a &= x W_x + h_{prev} W_h + b, \qquad a = [a_i \; a_f \; a_o \; a_g] \\
        i, f, o &= \sigma(a_i), \sigma(a_f), \sigma(a_o), \qquad g = \tanh(a_g) \\
        c &= f \odot c_{prev} + i \odot g, \qquad h = o \odot \tanh(c)

    Parameters
    ----------
    x : array, shape (N, D)
        Input of this step, of a floating dtype; the other arguments share its library, dtype and device.
    prev_h, prev_c : array, shape (N, H)
        Hidden and cell state after the previous step.
    Wx : array, shape (D, 4*H)
        Input weights; the columns are the gate blocks i, f, o, g.
    Wh : array, shape (H, 4*H)
        Recurrent weights, columns in the same order.
    b : array, shape (4*H,), or None
        Bias (PyTorch: ``bias_ih + bias_hh``); None for zeros.

    Returns
    -------
    next_h, next_c : array, shape (N, H)
        Hidden state, with \|h\| <= 1, and cell state after this step.
    cache : StepCache
        What `lstm_step_backward` needs, read by field, for example ``cache.f``. It refers to the arguments:
        do not modify them before the backward step.

    Raises
    ------
    ValueError
        If shapes disagree, D or H is 0, or arrays lie on different devices.
    TypeError
        If libraries or dtypes differ, or the dtype is not a floating one.

    See Also
    --------
    lstm_step_backward : its gradients.
    lstm_forward : all steps of a sequence.

    Notes
    -----
    Cost: 8 N H (D + H) flop. float16 and bfloat16 are computed in float32; what is returned is rounded. complex128 is
    computed as it is, which allows gradients to be checked by complex steps. The logistic function is evaluated as
    (1 + tanh(z/2)) / 2: its absolute error is below the rounding unit, its relative error is not small for z << 0.

    References
    ----------
    .. [1] S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1735-1780, 1997.
    .. [2] F. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget: Continual Prediction with LSTM",
       Neural Computation 12(10), 2451-2471, 2000 (the forget gate).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import lstm_step_forward
    >>> rng = np.random.default_rng(0)
    >>> N, D, H = 2, 3, 4
    >>> x, h, c, Wx, Wh, b = map(rng.standard_normal, [(N, D), (N, H), (N, H), (D, 4 * H), (H, 4 * H), 4 * H])
    >>> h, c, cache = lstm_step_forward(x, h, c, Wx, Wh, b)
    >>> h.shape, c.shape, cache.f.shape
    ((2, 4), (2, 4), (2, 4))
    """
    xp = checks.step_arguments("lstm_step_forward", x, prev_h, prev_c, Wx, Wh, b)
    wide, narrow = conversions(x, xp)
    a = xp.matmul(wide(x), wide(Wx)) + xp.matmul(wide(prev_h), wide(Wh))
    if b is not None:
        a = a + wide(b)
    (i, f, o, g), h, c = cell_forward(a, wide(prev_c), xp)
    return narrow(h), narrow(c), StepCache(x, prev_h, prev_c, Wx, Wh, b, i, f, o, g, c)


def lstm_step_backward(dnext_h: Array | None, dnext_c: Array | None, cache: StepCache) -> StepGradients:
    r"""Gradients of `lstm_step_forward`, given those of its two outputs.

    .. math::
        dc &= dc_{next} + dh_{next} \odot o \odot (1 - \tanh^2 c) \\
        da_i &= dc \odot g \odot i (1 - i), \qquad da_f = dc \odot c_{prev} \odot f (1 - f) \\
        da_o &= dh_{next} \odot \tanh(c) \odot o (1 - o), \qquad da_g = dc \odot i \odot (1 - g^2) \\
        dx &= da\, W_x^T, \quad dh_{prev} = da\, W_h^T, \quad dc_{prev} = dc \odot f \\
        dW_x &= x^T da, \quad dW_h = h_{prev}^T da, \quad db = \textstyle\sum_n da_n

    Parameters
    ----------
    dnext_h, dnext_c : array, shape (N, H), or None
        Gradients of the loss with respect to next_h and next_c; None for zeros (one of them must be given).
    cache : StepCache
        What `lstm_step_forward` returned. It is not modified, and may be used again.

    Returns
    -------
    StepGradients
        The tuple (dx, dprev_h, dprev_c, dWx, dWh, db), also by these names: each with the shape, dtype and device of
        what it is the gradient of.

    Raises
    ------
    ValueError, TypeError
        If a gradient's shape, library, dtype or device is not that of the forward step.

    See Also
    --------
    lstm_step_forward : the step itself.
    lstm_backward : all steps of a sequence.

    Notes
    -----
    Cost: 16 N H (D + H) flop. Sums over the batch are formed in float32 for float16 and bfloat16.

    References
    ----------
    .. [1] S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1735-1780, 1997.
    .. [2] K. Greff et al., "LSTM: A Search Space Odyssey", IEEE TNNLS 28(10), 2222-2232, 2017 (section II.B).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import lstm_step_backward, lstm_step_forward
    >>> x, h, c, Wx, Wh = np.ones((2, 3)), np.zeros((2, 4)), np.zeros((2, 4)), np.ones((3, 16)), np.ones((4, 16))
    >>> next_h, next_c, cache = lstm_step_forward(x, h, c, Wx, Wh, None)
    >>> gradients = lstm_step_backward(np.ones_like(next_h), np.zeros_like(next_c), cache)
    >>> gradients.dWx.shape
    (3, 16)
    """
    if not isinstance(cache, StepCache):
        raise TypeError(f"lstm_step_backward: cache must come from lstm_step_forward; got {type(cache).__name__}.")
    x, prev_h, prev_c, Wx, Wh, _, i, f, o, g, c = cache
    shape = tuple(prev_h.shape)
    checks.cotangents(
        "lstm_step_backward",
        {"dnext_h": dnext_h, "dnext_c": dnext_c},
        {"dnext_h": ("(N, H)", shape), "dnext_c": ("(N, H)", shape)},
        x,
        f"prev_h {shape}",
    )
    xp = checks.namespace(x)
    wide, narrow = conversions(x, xp)
    dh = xp.zeros_like(c) if dnext_h is None else wide(dnext_h)
    dc = xp.zeros_like(c) if dnext_c is None else wide(dnext_c)
    da, _, dprev_c = cell_backward(dh, dc, (i, f, o, g), wide(prev_c), c, xp)
    gradients = StepGradients(
        dx=xp.matmul(da, wide(Wx).T),
        dprev_h=xp.matmul(da, wide(Wh).T),
        dprev_c=dprev_c,
        dWx=xp.matmul(wide(x).T, da),
        dWh=xp.matmul(wide(prev_h).T, da),
        db=xp.sum(da, axis=0),
    )
    return StepGradients(*map(narrow, gradients))
