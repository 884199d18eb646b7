"""The activations of the ONNX LSTM operator: each with its slope, in one table.

A function takes the pre-activation z, alpha and beta; a slope takes the result y as well, where that saves work.
Choices by sign are made so that NaN goes through, and no branch overflows.

References: ONNX, operator LSTM, opset 22, "Activation functions".
"""

import math
from collections.abc import Callable
from itertools import zip_longest
from numbers import Real
from typing import NamedTuple

from .cell import sigmoid


class Activation(NamedTuple):
    """One of the table by its name, with its constants."""

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __call__(self, z, xp):
        """The activation of z."""
        return KINDS[self.name].function(z, self.alpha, self.beta, xp)

    def slope(self, z, y, xp):
        """Its derivative at z, where it is y."""
        return KINDS[self.name].slope(z, y, self.alpha, self.beta, xp)


class Kind(NamedTuple):
    """A row of the table: function, derivative, and the constants' defaults (None: it has no such constant)."""

    function: Callable
    slope: Callable
    alpha: float | None = None
    beta: float | None = None


def _positive(z, xp):
    """max(z, 0)."""
    return xp.where(z < 0, xp.zeros_like(z), z)


def _negative(z, xp):
    """min(z, 0)."""
    return xp.where(z > 0, xp.zeros_like(z), z)


def _magnitude(z, xp):
    return xp.where(z < 0, -z, z)


def _inside(v, xp):
    """1 where 0 < v < 1, else 0."""
    return xp.where((v > 0) & (v < 1), xp.ones_like(v), xp.zeros_like(v))


def _hard_sigmoid(z, alpha, beta, xp):
    v = alpha * z + beta
    return xp.where(v < 0, xp.zeros_like(v), xp.where(v > 1, xp.ones_like(v), v))


# Name -> function(z, alpha, beta, xp), slope(z, y, alpha, beta, xp), default alpha, default beta.
KINDS = {
    "Sigmoid": Kind(lambda z, a, b, xp: sigmoid(z, xp), lambda z, y, a, b, xp: y * (1 - y)),
    "Tanh": Kind(lambda z, a, b, xp: xp.tanh(z), lambda z, y, a, b, xp: 1 - y * y),
    "Relu": Kind(
        lambda z, a, b, xp: _positive(z, xp),
        lambda z, y, a, b, xp: xp.where(z > 0, xp.ones_like(z), xp.zeros_like(z)),
    ),
    "Affine": Kind(lambda z, a, b, xp: a * z + b, lambda z, y, a, b, xp: a * xp.ones_like(z), 1.0, 0.0),
    "LeakyRelu": Kind(
        lambda z, a, b, xp: xp.where(z < 0, a * z, z),
        lambda z, y, a, b, xp: xp.where(z < 0, a * xp.ones_like(z), xp.ones_like(z)),
        0.01,
    ),
    "ThresholdedRelu": Kind(
        lambda z, a, b, xp: xp.where(z < a, xp.zeros_like(z), z),
        lambda z, y, a, b, xp: xp.where(z < a, xp.zeros_like(z), xp.ones_like(z)),
        1.0,
    ),
    "ScaledTanh": Kind(
        lambda z, a, b, xp: a * xp.tanh(b * z),
        lambda z, y, a, b, xp: a * b * (1 - xp.tanh(b * z) ** 2),
        1.0,
        1.0,
    ),
    "HardSigmoid": Kind(_hard_sigmoid, lambda z, y, a, b, xp: a * _inside(a * z + b, xp), 0.2, 0.5),
    "Elu": Kind(
        lambda z, a, b, xp: xp.where(z < 0, a * xp.expm1(_negative(z, xp)), z),
        lambda z, y, a, b, xp: xp.where(z < 0, y + a, xp.ones_like(z)),
        1.0,
    ),
    "Softsign": Kind(
        lambda z, a, b, xp: z / (1 + _magnitude(z, xp)),
        lambda z, y, a, b, xp: (1 / (1 + _magnitude(z, xp))) ** 2,
    ),
    "Softplus": Kind(
        lambda z, a, b, xp: _positive(z, xp) + xp.log1p(xp.exp(-_magnitude(z, xp))),
        lambda z, y, a, b, xp: sigmoid(z, xp),
    ),
}


def activation(function, given):
    """An `Activation` from a name, or from a tuple of a name, alpha and beta; None means ONNX's default."""
    parts = (given,) if isinstance(given, str) else given
    if not isinstance(parts, tuple | list) or not 1 <= len(parts) <= 3:
        raise TypeError(f"{function}: an activation must be a name, or (name, alpha, beta); got {given!r}.")
    name, *constants = parts
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"{function}: activation must be one of {', '.join(KINDS)}; got {name!r}.")
    values = {}
    for which, value in zip_longest(("alpha", "beta"), constants):
        default = getattr(KINDS[name], which)
        if value is not None and default is None:
            raise ValueError(f"{function}: activation {name} has no {which}; got {value!r}.")
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise ValueError(f"{function}: {which} of activation {name} must be a finite number; got {value!r}.")
        values[which] = default if value is None else float(value)
    return Activation(name, **values)
