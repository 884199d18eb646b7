"""The functions on sequences: `lstm_forward`, `lstm_backward`, and `explain`.

What they compute is in `stages.py`; here is what they take and return, and the check of it.
"""

from collections.abc import Sequence
from typing import Any

from . import checks, engines, stages
from .checks import Array
from .records import SequenceCache, SequenceGradients


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
    Cost: 8 N T H (D + H) flop. Training keeps gates (N, T, 4H), c (N, T, H), and references to the arguments and to h:
    write to none of these before the backward pass.
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
    chosen = engines.choose(engine, problem)
    return stages.forward(problem, x, h0, Wx, Wh, b, c0, lengths, bool(reverse), engine, chosen, xp)


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
    bfloat16 to that type before it is multiplied. The gradients that they return, all but dx, are views of one
    allocation, freed with the last of them.

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
    check_gradients("lstm_backward", {"dh": dh, "dh_n": dh_n, "dc_n": dc_n}, cache)
    return stages.backward(dh, dh_n, dc_n, cache, need_dx)


def check_gradients(function, given, cache):
    """Check the gradients of h, h_n and c_n, by the names that messages call them by, and that the cache was kept."""
    if cache.gates is None:
        raise ValueError(
            f"{function}: the cache was made with training=False, which keeps nothing for backward; "
            "call lstm_forward with training=True."
        )
    x, Wh = cache.x, cache.Wh
    (N, T, D), H = x.shape, Wh.shape[0]
    shapes = ("(N, T, H)", (N, T, H)), ("(N, H)", (N, H)), ("(N, H)", (N, H))
    rules = dict(zip(given, shapes, strict=True))
    checks.cotangents(function, given, rules, x, f"x {(N, T, D)} and Wh {tuple(Wh.shape)}")


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
