"""The LSTM operator of ONNX on arrays: its layout and gate order outside, the functions of this package inside."""

from collections.abc import Sequence

from . import checks
from .checks import Array
from .directions import forward_layer
from .variant_cells import Cell, CellMasks
from .weights.onnx_layout import DIRECTIONS, check_attributes, direction_of, functions_of, rules


def onnx_lstm(
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | Sequence[int] | None = None,
    initial_h: Array | None = None,
    initial_c: Array | None = None,
    P: Array | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Array, Array, Array]:
    r"""The operator LSTM of ONNX, opset 22, with every attribute, on arrays of any library.

    .. math::
        i_t &= f(x_t W_i^T + h_{t-1} R_i^T + P_i \odot c_{t-1} + b_i) \\
        f_t &= f(x_t W_f^T + h_{t-1} R_f^T + P_f \odot c_{t-1} + b_f) \\
        \tilde c_t &= g(x_t W_c^T + h_{t-1} R_c^T + b_c), \qquad c_t = f_t \odot c_{t-1} + i_t \odot \tilde c_t \\
        o_t &= f(x_t W_o^T + h_{t-1} R_o^T + P_o \odot c_t + b_o), \qquad h_t = o_t \odot h(c_t)

    Parameters
    ----------
    X : array, shape (T, N, D); with layout=1 (N, T, D)
        Input, of a floating dtype; the other arrays share its library, dtype and device.
    W : array, shape (dirs, 4*H, D)
        Input weights; the rows are the gate blocks i, o, f, c. dirs is 2 for a bidirectional operator, else 1.
    R : array, shape (dirs, 4*H, H)
        Recurrent weights, rows in the same order.
    B : array, shape (dirs, 8*H), or None
        Biases of W, then of R, each in the same order; None for zeros.
    sequence_lens : N integers, or None
        Length of each row, 0 to T.
    initial_h, initial_c : array, shape (dirs, N, H); with layout=1 (N, dirs, H), or None
        States before the first step; None for zeros.
    P : array, shape (dirs, 3*H), or None
        Peephole weights, in the order i, o, f; None for zeros.
    activations : 3 * dirs names, or None
        The functions f, g, h of each direction: Sigmoid, Tanh, Tanh by default; any case.
    activation_alpha, activation_beta : numbers, or None
        Constants of the functions that have them, one after the other. Where they end, defaults follow: alpha 0.01 for
        LeakyRelu, 0.2 for HardSigmoid, else 1; beta 0.5 for HardSigmoid, 1 for ScaledTanh, 0 for Affine.
    clip : float or None
        The pre-activations of the gates are bounded to +-clip.
    direction : {'forward', 'reverse', 'bidirectional'}
        Which way the steps are taken.
    hidden_size : int or None
        H, if given checked against R.
    input_forget : {0, 1}
        With 1, the gates are coupled: f = 1 - i.
    layout : {0, 1}
        Where the axes of time and batch stand.

    Returns
    -------
    Y : array, shape (T, dirs, N, H); with layout=1 (N, T, dirs, H)
        Hidden states, zeros behind the lengths.
    Y_h, Y_c : array, shape (dirs, N, H); with layout=1 (N, dirs, H)
        States after the last step of each row.

    Raises
    ------
    ValueError
        If shapes disagree, an attribute has no such value, or there are more constants than functions that take one.
    TypeError
        If libraries or dtypes differ.

    See Also
    --------
    LSTM : layers with gradients.

    Notes
    -----
    Cost: 8 N T H (D + H) flop for each direction. It runs on the engine that an `LSTM` would choose.

    What the specification leaves open is settled as in onnxruntime 1.32, which the tests compare with: coupling means
    f = 1 - i; clip bounds what enters f and g, not what enters h; a reversed row is reversed within its length.
    It differs from onnxruntime here: a row of length 0 returns its initial state (onnxruntime: zeros); layout=1 works
    (refused there); hidden_size may be left out (required there); ThresholdedRelu without alpha has 1, as the ONNX
    operator of that name (there 0), and Affine and ScaledTanh without alpha the identity's and tanh's constants (there
    zeros); more constants than are consumed are an error, for they may have been meant one for each function (ignored
    there).

    References
    ----------
    .. [1] ONNX, operator LSTM, opset 22: https://onnx.ai/onnx/operators/onnx__LSTM.html

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import onnx_lstm
    >>> T, N, D, H = 5, 2, 3, 4
    >>> X, W, R = np.ones((T, N, D)), np.ones((1, 4 * H, D)), np.ones((1, 4 * H, H))
    >>> Y, Y_h, Y_c = onnx_lstm(X, W, R, sequence_lens=[5, 2])
    >>> Y.shape, Y_h.shape, bool(np.all(Y[1, 0, 1] == Y_h[0, 1]))
    ((5, 1, 2, 4), (1, 2, 4), True)
    """
    function = "onnx_lstm"
    arrays = {"X": X, "W": W, "R": R, "B": B, "initial_h": initial_h, "initial_c": initial_c, "P": P}
    xp, _ = checks.one_library(function, checks.required(function, arrays, ("B", "initial_h", "initial_c", "P")))
    check_attributes(function, direction=direction, layout=layout, input_forget=input_forget, clip=clip)
    reversals = DIRECTIONS[direction]
    _check_shapes(function, arrays, len(reversals), hidden_size, layout)
    functions = functions_of(function, activations, activation_alpha, activation_beta, len(reversals))

    x = X if layout else xp.permute_dims(X, (1, 0, 2))
    lengths = checks.sequence_lengths(function, sequence_lens, x, xp)
    outputs, states_h, states_c = [], [], []
    for k, reverse in enumerate(reversals):
        p = direction_of(*(None if v is None else v[k, ...] for v in (W, R, B, P)), xp)
        h0, c0 = (None if v is None else v[:, k, :] if layout else v[k, ...] for v in (initial_h, initial_c))
        cell = Cell(functions[k], bool(input_forget), None if clip is None else float(clip))
        y, (cache,) = forward_layer(
            [p], x, [(h0, c0)], cell, [CellMasks()], [reverse], xp, lengths=lengths, training=False
        )
        outputs.append(y if layout else xp.permute_dims(y, (1, 0, 2)))
        states_h.append(cache.h_n)
        states_c.append(cache.c_n)
    return xp.stack(outputs, axis=2 if layout else 1), *(xp.stack(v, axis=layout) for v in (states_h, states_c))


def _check_shapes(function, arrays, dirs, hidden_size, layout):
    sizes = {name: checks.shape_of(function, name, arrays[name]) for name in ("X", "R")}
    for name, letters in (("X", "(N, T, D)" if layout else "(T, N, D)"), ("R", "(dirs, 4*H, H)")):
        if len(sizes[name]) != 3:
            raise ValueError(f"{function}: {name} must have shape {letters}; got {sizes[name]}.")
    N, D, H = sizes["X"][0 if layout else 1], sizes["X"][2], sizes["R"][2]
    if hidden_size is not None and hidden_size != H:
        raise ValueError(f"{function}: hidden_size must be H = {H} for R {sizes['R']}; got {hidden_size!r}.")
    for letter, size in (("D", D), ("H", H)):
        if size == 0:
            raise ValueError(f"{function}: {letter} must be at least 1; got {letter} = 0.")
    state = ("(N, dirs, H)", (N, dirs, H)) if layout else ("(dirs, N, H)", (dirs, N, H))
    expected = rules(dirs, D, H) | {"initial_h": state, "initial_c": state}
    checks.shapes(function, arrays, expected, f"X {sizes['X']} and R {sizes['R']}, {dirs} direction(s)")
