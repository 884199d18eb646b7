"""`LSTM`: layers, directions and dropout, composed from the functions on arrays; and single steps of a stream.

The class is configuration only. Parameters, states, masks and caches are plain arrays in tuples that go in and come
out; what they are called is said in `parameters.py` and `masks.py`.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import backpropagation, checks, parameters, streaming
from . import masks as random_masks
from .activations import activation
from .checks import Array
from .configuration import check_configuration
from .directions import forward_layer
from .masks import Masks
from .parameters import Direction, Expected, State
from .records import LayerCache, LayerGradients
from .variant_cells import PLAIN, Cell


@dataclass(frozen=True)
class LSTM:
    r"""A network of LSTM layers: one or two directions, plain cells or variants of it.

    The plain cell computes, at each step (the variants: `lstm_xp.variant_cells`):

    .. math::
        a_t &= x_t W_x + h_{t-1} W_h + b, \qquad a_t = [a_i \; a_f \; a_o \; a_g] \\
        i, f, o &= \sigma(a_i), \sigma(a_f), \sigma(a_o), \qquad g = \tanh(a_g) \\
        c_t &= f \odot c_{t-1} + i \odot g, \qquad h_t = o \odot \tanh(c_t)

    Parameters
    ----------
    input_size, hidden_size : int
        Features that enter, D, and cells of each direction, H.
    num_layers : int
        Each layer reads the output of the one before.
    bidirectional : bool
        Two directions in every layer; their outputs stand side by side, [forward, reverse].
    reverse : bool
        Every layer runs from each row's last step to its first; outputs stay in the order of x.
    bias : bool
        Whether there is a bias b.
    time_major : bool
        x, y and their gradients are (T, N, .) instead of (N, T, .). Masks and states are not affected.
    dropout : float
        Rate of dropout on the output of each layer but the last, independent at every step.
    input_dropout, recurrent_dropout : float
        Rates of variational dropout, the same mask at every step: on the input of each layer, and on the hidden state
        as it enters the next step.
    zoneout_h, zoneout_c : float
        Rates at which an element of the hidden, or cell, state keeps its old value.
    proj_size : int
        Size P of a projection of the hidden state; 0 for none.
    peepholes : bool
        Diagonal connections from the cell state to the gates: i and f see the old one, o the new.
    coupled : bool
        f = 1 - i.
    clip : float or None
        Bound of the pre-activations of the gates, +-clip; their gradient is zero where it acts.
    layer_norm : bool
        Layer normalisation of x Wx, of h Wh, and of c before its output activation.
    activations : tuple of three
        Of the gates i, f, o; of g; of c on its way out: a name, or a tuple of a name, alpha, beta. The names are those
        of ONNX: Sigmoid, Tanh, Relu, Affine, LeakyRelu, ThresholdedRelu, ScaledTanh, HardSigmoid, Elu, Softsign,
        Softplus.
    forget_bias : float
        What `init` sets the bias of the forget gate to.
    precision : {None, 'ieee', 'tf32', 'tf32x3'}
        As in `lstm_forward`; plain cells only.
    engine : str or engine
        As in `lstm_forward`. Variants are computed by 'numpy_numba' (all activations but Softplus) and 'array_api'.

    Raises
    ------
    ValueError, TypeError
        If a size, rate, bound, activation or combination is none that exists.

    See Also
    --------
    lstm_xp.parameters : names, shapes and order of the parameters.
    lstm_xp.masks : the masks of dropout and zoneout.
    lstm_forward : one direction of one layer of plain cells.
    onnx_lstm : the same as the operator of ONNX.

    Notes
    -----
    Dropout acts only where `forward` is given ``masks=`` or ``rng=``. Without them dropout is the identity, and zoneout
    its expectation: a weighted mean of old and new state.

    Plain cells run through `lstm_forward`, on the engine that is fastest for the array library. Variants, and runs with
    recurrent dropout, are compiled where numba is installed, for NumPy arrays of float32 and float64; elsewhere they go
    step by step, in the terms of the array library.

    References
    ----------
    .. [1] S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1735-1780, 1997.
    .. [2] R. Jozefowicz, W. Zaremba, I. Sutskever, "An Empirical Exploration of Recurrent Network Architectures",
       ICML 2015 (the bias of the forget gate).
    .. [3] Y. Gal, Z. Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
       arXiv:1512.05287, 2015.
    .. [4] D. Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations",
       arXiv:1606.01305, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import LSTM
    >>> network = LSTM(3, 4, num_layers=2, bidirectional=True)
    >>> params = network.init()
    >>> x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    >>> y, state, cache = network.forward(params, x, lengths=[5, 2])
    >>> y.shape, state.h.shape, state.c.shape
    ((2, 5, 8), (4, 2, 4), (4, 2, 4))
    >>> dx, dstate, dparams = network.backward(2 * y, cache)
    >>> dx.shape, dstate.c.shape, dparams[3].Wx.shape
    ((2, 5, 3), (4, 2, 4), (8, 16))
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    _: KW_ONLY
    bidirectional: bool = False
    reverse: bool = False
    bias: bool = True
    time_major: bool = False
    dropout: float = 0.0
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    proj_size: int = 0
    peepholes: bool = False
    coupled: bool = False
    clip: float | None = None
    layer_norm: bool = False
    activations: tuple = ("Sigmoid", "Tanh", "Tanh")
    forget_bias: float = 1.0
    precision: str | None = None
    engine: Any = "auto"

    def __post_init__(self):
        check_configuration(self)

    @property
    def num_directions(self) -> int:
        """2 for a bidirectional network, else 1."""
        return 1 + self.bidirectional

    @property
    def output_size(self) -> int:
        """R, the size of the hidden state of one direction: proj_size where there is a projection, else hidden_size."""
        return self.proj_size or self.hidden_size

    @cached_property
    def cell(self) -> Cell:
        """The cell as engines that compute variants take it."""
        kinds = tuple(activation("LSTM", given) for given in self.activations)
        return Cell(kinds, self.coupled, self.clip, self.zoneout_h, self.zoneout_c)

    @cached_property
    def plain(self) -> bool:
        """Whether the cells are plain ones; recurrent dropout is another matter."""
        return self.cell == PLAIN and not (self.proj_size or self.peepholes or self.layer_norm)

    @cached_property
    def expected(self) -> Expected:
        """The shapes that it expects of parameters and states."""
        return parameters.expected(self)

    def init(self, xp: Any = np, dtype: Any = "float32", device: Any = None, seed: int = 0) -> tuple[Direction, ...]:
        r"""Random parameters: weights uniform in :math:`\pm 1/\sqrt H`, biases 0, that of the forget gate forget_bias.

        Parameters
        ----------
        xp : module
            The array library, for example numpy, cupy, torch, jax.numpy.
        dtype : str or dtype
            A floating dtype of it.
        device : device or None
            Where the arrays lie; None for the library's default.
        seed : int
            The same numbers for every library, rounded to dtype: they are drawn on the host.

        Returns
        -------
        tuple of Direction
            One for each layer and direction (`lstm_xp.parameters`).

        Raises
        ------
        TypeError
            If the library has no such floating dtype.

        Examples
        --------
        >>> from lstm_xp import LSTM
        >>> LSTM(3, 4).init(seed=1)[0].b[3:9]
        array([0., 1., 1., 1., 1., 0.], dtype=float32)
        """
        return parameters.initial(self, xp, dtype, device, seed)

    def forward(
        self,
        params: Sequence[Direction],
        x: Array,
        state: State | None = None,
        *,
        lengths: Array | Sequence[int] | None = None,
        training: bool = True,
        masks: Masks | None = None,
        rng: "np.random.Generator | None" = None,  # a text: NumPy imports its generators when they are first named
    ) -> tuple[Array, State, LayerCache]:
        """The network over a batch of sequences.

        Parameters
        ----------
        params : tuple of Direction
            As `init` makes them; of one library, dtype and device with all other arrays.
        x : array, shape (N, T, D), or (T, N, D) with ``time_major``
            Input, of a floating dtype.
        state : (h, c), or None
            Before the first step: h (layers * directions, N, R), c (layers * directions, N, H); None for zeros.
        lengths : N integers, or None
            As in `lstm_forward`: in any order, 0 allowed, and nothing behind them is looked at.
        training : bool
            Whether to keep what `backward` needs. It does not switch dropout: masks and rng do.
        masks : Masks, or None
            The masks of every kind of dropout and zoneout that the network has.
        rng : numpy.random.Generator, or None
            Draws the masks instead.

        Returns
        -------
        y : array, shape (N, T, directions * R), or (T, N, directions * R)
            Output of the last layer, zeros behind the lengths.
        state : State
            After the last step of each row, laid out as the one before.
        cache : LayerCache
            What `backward` needs, and ``cache.masks``. It refers to the arguments and to y: do not modify them before
            the backward pass.

        Raises
        ------
        ValueError
            If shapes, devices, lengths or masks disagree with the network or with each other.
        TypeError
            If libraries or dtypes do, or something is not an array.

        Notes
        -----
        Cost: 8 N T H (D + R) flop for each layer and direction, and 2 N T H P with a projection.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_xp import LSTM
        >>> network, state = LSTM(3, 4, num_layers=2), None
        >>> params, x = network.init(), np.ones((1, 9, 3), dtype=np.float32)
        >>> for chunk in (x[:, :5], x[:, 5:]):  # a stream: the state goes on
        ...     y, state, _ = network.forward(params, chunk, state, training=False)
        >>> bool(np.allclose(y, network.forward(params, x)[0][:, 5:]))
        True
        """
        function = "LSTM.forward"
        if type(x) is np.ndarray and parameters.fit(self.expected, params, x):
            xp = np
        else:
            arrays = parameters.check_parameters(function, self, params)
            xp, _ = checks.one_library(function, checks.required(function, {"x": x, **arrays}))
        x, N, T = self._sequences(function, "x", x, self.input_size, xp)
        if state is not None and not (xp is np and parameters.state_fits(self.expected, state, N, x)):
            checks.one_library(function, {"x": x, **parameters.check_state(function, self, state, N)})
        lengths = checks.sequence_lengths(function, lengths, x, xp)
        masks = random_masks.settle(function, self, masks, rng, x, N, T, xp)
        caches, features = [], x
        for layer in range(self.num_layers):
            features = random_masks.apply(masks.on_input(layer), features, lengths, xp)
            ks = parameters.indices(self, layer)
            features, found = forward_layer(
                [params[k] for k in ks], features, parameters.states_of(state, ks), self.cell,
                [masks.of(k) for k in ks], [self._reversed(k) for k in ks], xp,
                lengths=lengths, training=training, engine=self.engine, precision=self.precision,
            )  # fmt: skip
            caches += found
        y = xp.permute_dims(features, (1, 0, 2)) if self.time_major else features
        cache = LayerCache(self, tuple(params), tuple(caches), masks, lengths, x if training else None)
        return y, parameters.stacked([v.h_n for v in caches], [v.c_n for v in caches], xp), cache

    def backward(
        self, dy: Array | None, cache: LayerCache, *, dstate: State | None = None, need_dx: bool = True
    ) -> LayerGradients:
        """Gradients of `forward`, given those of y and of the final state.

        Parameters
        ----------
        dy : array like y, or None
            Gradient of the loss with respect to y; None for zeros. What stands behind the lengths is not looked at.
        cache : LayerCache
            What `forward` returned with ``training=True``. It is not modified, and may be used again.
        dstate : (dh, dc), or None
            Gradients with respect to the final state, each an array or None for zeros.
        need_dx : bool
            False leaves dx out (None in its place), which the first layer has a product for.

        Returns
        -------
        LayerGradients
            The tuple (dx, dstate, dparams), also by these names: dx like x; the gradients of the initial state (where
            it was None: at zeros); those of the parameters, laid out as they are, None where they are None.

        Raises
        ------
        ValueError, TypeError
            If a gradient is not like what it is the gradient of, the cache is another network's or was made with
            ``training=False``, or neither dy nor dstate is given.

        Notes
        -----
        Cost: twice that of `forward`.
        """
        function = "LSTM.backward"
        if not isinstance(cache, LayerCache) or cache.network != self:
            found = f"that of {cache.network}" if isinstance(cache, LayerCache) else type(cache).__name__
            raise ValueError(f"{function}: cache must come from this network's forward; got {found}.")
        return backpropagation.backward(function, dy, cache, dstate, need_dx)

    def step(self, params: Sequence[Direction], x_t: Array, state: State | None = None) -> tuple[Array, State]:
        """One time step of a stream: fed step by step, a sequence gives what `forward` gives for the whole.

        Parameters
        ----------
        params : tuple of Direction
            As in `forward`.
        x_t : array, shape (N, D)
            Input of this step.
        state : (h, c), or None
            What the step before returned; None for zeros. Keep it to go on later: it is all there is.

        Returns
        -------
        y_t : array, shape (N, R)
            Output of the last layer.
        state : State
            After this step. It shares no memory with y_t.

        Raises
        ------
        ValueError
            If the network is bidirectional or reversed, which takes the whole sequence, or shapes disagree.
        TypeError
            If libraries or dtypes do.

        Notes
        -----
        Cost: 8 N H (D + R) flop for each layer. No dropout; zoneout as its expectation.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_xp import LSTM
        >>> network, state = LSTM(3, 4), None
        >>> params = network.init()
        >>> for x_t in np.ones((5, 1, 3), dtype=np.float32):
        ...     y_t, state = network.step(params, x_t, state)
        >>> y_t.shape, state.c.shape
        ((1, 4), (1, 1, 4))
        """
        return streaming.step(self, params, x_t, state)

    def _sequences(self, function, name, v, size, xp):
        """A batch of sequences as (N, T, size), and N and T."""
        letters = "(T, N, D)" if self.time_major else "(N, T, D)"
        found = checks.shape_of(function, name, v)
        if len(found) != 3 or found[2] != size:
            hint = " For one step (N, D) use step." if len(found) == 2 else ""
            raise ValueError(f"{function}: {name} must have shape {letters} with D = {size}; got {found}.{hint}")
        v = xp.permute_dims(v, (1, 0, 2)) if self.time_major else v
        return v, v.shape[0], v.shape[1]

    def _reversed(self, index):
        return self.reverse or (self.bidirectional and index % 2 == 1)
