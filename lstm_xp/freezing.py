"""Weights that nobody changes any more: an engine prepares them once, and not at every call."""

from collections.abc import Mapping
from typing import Any

import array_api_compat
import numpy as np


class Frozen(bytes):
    """Memory that nobody can write to, and what engines have prepared of it, which goes with it."""

    def __init__(self, data):
        self.prepared = {}


def freeze(weights: Any) -> Any:
    """Constant copies of weights, for many calls with the same ones.

    Most of a short call on NumPy arrays goes into rearranging the weights, for an array may have been written to since
    the last one. These cannot be.

    Parameters
    ----------
    weights : array, or None, or a tuple, list or dict of weights
        Wx, Wh and b, or the parameters of an `LSTM`.

    Returns
    -------
    like weights
        In place of NumPy's arrays, others with the same values, in memory that can never be written to, not even by
        setting ``flags.writeable``. Arrays of other libraries are returned as they are, for theirs always can be.

    Raises
    ------
    TypeError
        If something else than arrays is among them.

    Notes
    -----
    Results have the same bits, as long as the weights are contiguous. With the engine 'numpy_numba', the first call
    keeps Wx and Wh as it multiplies with them, until they are gone: that is their memory once more (twice, if batches
    of one or two rows and larger ones alternate). Other engines do as ever, and so do cells that are not the plain one.
    A backward pass prepares them anew.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import LSTM, freeze
    >>> network = LSTM(3, 4)
    >>> params = freeze(network.init())
    >>> y, state, cache = network.forward(params, np.ones((1, 5, 3), np.float32), training=False)
    >>> params[0].Wx.flags.writeable
    False
    """
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        return {name: freeze(part) for name, part in weights.items()}
    if isinstance(weights, tuple | list):
        parts = [freeze(part) for part in weights]
        return type(weights)(*parts) if hasattr(weights, "_fields") else type(weights)(parts)
    if not array_api_compat.is_array_api_obj(weights):
        raise TypeError(
            f"freeze: weights must be arrays, in tuples, lists or dicts if there are several; "
            f"got {type(weights).__name__}."
        )
    if type(weights) not in (np.ndarray, np.memmap) or memory_of(weights) is not None or weights.dtype.hasobject:
        return weights
    order = "F" if weights.flags.fnc else "C"
    return np.ndarray(weights.shape, weights.dtype, Frozen(weights.tobytes(order)), order=order)


def memory_of(array):
    """The frozen memory that a NumPy array lies in; None if somebody might write to it."""
    if array.flags.writeable:
        return None
    base = array.base
    while type(base) is np.ndarray:
        base = base.base
    # Of other bytes NumPy itself makes arrays that can be written to, where it loads pickles.
    return base if type(base) is Frozen else None
