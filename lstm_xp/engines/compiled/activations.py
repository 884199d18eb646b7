"""The activations of `activations.py` for vectors of units, as numba compiles them: functions and slopes.

Which one it is, is the same for all units: a branch that a processor foresees.
"""

from .cells import tanh
from .products import inlined
from .vectors import all_lanes, clamp, exp, expm1, ratio, where_less

# Softplus is not among them: there is no logarithm for vectors.
SIGMOID, TANH, RELU, AFFINE, LEAKY, THRESHOLDED, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN = range(10)
NAMES = ("Sigmoid", "Tanh", "Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu",
         "Softsign")  # fmt: skip


@inlined
def activate(kind, alpha, beta, z, like, one, bound):
    """The activation of z. `like` is a pointer to numbers of the same kind, alpha and beta what the table says."""
    zero, ones = all_lanes(like, one - one), all_lanes(like, one)
    y = z
    if kind == SIGMOID:
        (e,) = exp(clamp((z,), bound))
        (y,) = ratio((e,), (e + one,))
        y = where_less(z, zero - bound, zero, y)
    elif kind == TANH:
        y = tanh(z, one, bound)
    elif kind == RELU:
        y = where_less(z, zero, zero, z)
    elif kind == AFFINE:
        y = z * alpha + beta
    elif kind == LEAKY:
        y = where_less(z, zero, z * alpha, z)
    elif kind == THRESHOLDED:
        y = where_less(z, all_lanes(like, alpha), zero, z)
    elif kind == SCALED_TANH:
        y = tanh(z * beta, one, bound) * alpha
    elif kind == HARD_SIGMOID:
        v = z * alpha + beta
        y = where_less(v, zero, zero, where_less(ones, v, ones, v))
    elif kind == ELU:
        (e,) = expm1(clamp((z,), bound))
        y = where_less(z, zero, e * alpha, z)
    elif kind == SOFTSIGN:
        y = z / (where_less(z, zero, zero - z, z) + one)
    return y


@inlined
def slope(kind, alpha, beta, z, y, like, one, bound):
    """The derivative at z, where the activation is y."""
    zero, ones = all_lanes(like, one - one), all_lanes(like, one)
    s = ones
    if kind == SIGMOID:
        s = y * (ones - y)
    elif kind == TANH:
        s = ones - y * y
    elif kind == RELU:
        s = where_less(zero, z, ones, zero)
    elif kind == AFFINE:
        s = all_lanes(like, alpha)
    elif kind == LEAKY:
        s = where_less(z, zero, all_lanes(like, alpha), ones)
    elif kind == THRESHOLDED:
        s = where_less(z, all_lanes(like, alpha), zero, ones)
    elif kind == SCALED_TANH:
        u = tanh(z * beta, one, bound)
        s = (ones - u * u) * (alpha * beta)
    elif kind == HARD_SIGMOID:
        v = z * alpha + beta
        s = where_less(zero, v, where_less(v, ones, all_lanes(like, alpha), zero), zero)
    elif kind == ELU:
        s = where_less(z, zero, y + alpha, ones)
    elif kind == SOFTSIGN:
        v = ones / (where_less(z, zero, zero - z, z) + one)
        s = v * v
    return s
