"""Gradient checks and tolerances, for this package's own tests and for users' engines, options and models."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from . import checks
from .checks import Array
from .libraries import to_numpy


class Tolerance(NamedTuple):
    """How far results may lie from a float64 reference: multiples of the rounding unit eps of the dtype.

    An array's rows are its last axis. A row's error is the norm of its difference over the norm of the reference's
    largest row: a row that is small because its terms cancel keeps their rounding errors. The limit is the multiple,
    times eps, times the square root of the number of steps.
    """

    eps: float
    forward: float
    gradient: float


# Measured over sizes 1 to 512 and 1 to 256 steps, with all engines; see tests/test_tolerances.py.
TOLERANCES = {
    "float64": Tolerance(2.0**-52, 4.0, 8.0),
    "float32": Tolerance(2.0**-23, 4.0, 8.0),
    "float16": Tolerance(2.0**-10, 1.0, 2.0),
    "bfloat16": Tolerance(2.0**-7, 1.0, 2.0),
}

# Relative errors of a float64 derivative by complex steps, and by five-point central differences.
DERIVATIVE_LIMITS = {"complex": 1e-12, "difference": 1e-9}


def relative_error(actual: Array, expected: Array) -> float:
    """The largest row error of an array against a float64 reference, as `Tolerance` defines it.

    Parameters
    ----------
    actual, expected : arrays of one shape
        Of any library. NaN and inf count as equal where both have them, and as infinitely wrong where one has.

    Returns
    -------
    float
    """
    actual, expected = (np.atleast_1d(to_numpy(v).astype(np.float64)) for v in (actual, expected))
    if actual.size == 0:
        return 0.0
    odd = ~np.isfinite(expected) | ~np.isfinite(actual)
    if not np.array_equal(actual[odd], expected[odd], equal_nan=True):
        return np.inf
    actual, expected = np.where(odd, 0.0, actual), np.where(odd, 0.0, expected)
    # Scaled first, so that squares neither overflow nor vanish.
    scale = np.max(np.abs(expected))
    if scale == 0:
        return np.inf if np.any(actual) else 0.0
    difference = np.linalg.norm((actual - expected) / scale, axis=-1)
    return float(np.max(difference) / np.max(np.linalg.norm(expected / scale, axis=-1)))


def limit(dtype: str, kind: str = "forward", steps: int = 1) -> float:
    """The largest `relative_error` that a dtype may have.

    Parameters
    ----------
    dtype : str
        'float64', 'float32', 'float16' or 'bfloat16'.
    kind : {'forward', 'gradient'}
        The column of `TOLERANCES`.
    steps : int
        The number of time steps that lie between the input and the result.

    Returns
    -------
    float
    """
    tolerance = TOLERANCES[dtype]
    return getattr(tolerance, kind) * tolerance.eps * max(1, steps) ** 0.5


def assert_close(
    actual: Array,
    expected: Array,
    *,
    like: Array | None = None,
    kind: str = "forward",
    steps: int = 1,
    name: str = "result",
) -> float:
    """Fail unless two arrays agree in library, dtype, device and shape, and then in value within the table.

    Parameters
    ----------
    actual : array
        What was computed.
    expected : array
        What it should be: an array like it, or, with `like`, a NumPy array of higher precision.
    like : array or None
        The array whose library, dtype and device `actual` must have; None for `expected` itself.
    kind : {'forward', 'gradient'}
        The column of `TOLERANCES`; the row is the dtype of `actual`.
    steps : int
        The number of time steps that lie between the input and the result.
    name : str
        What to call it in the message.

    Returns
    -------
    float
        The worst error as a share of its limit.

    Raises
    ------
    AssertionError
        With what differs first: library, dtype, device, shape, values.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.testing import assert_close
    >>> assert_close(np.float32([1, 2]), np.array([1.0, 2.0]), like=np.float32([0]))
    0.0
    >>> assert_close(np.ones(3), np.ones(4))
    Traceback (most recent call last):
        ...
    AssertionError: result: shape is (3,), expected (4,)
    """
    like = expected if like is None else like
    for what, of in (
        ("library", lambda v: checks.array_library(checks.namespace(v))),
        ("dtype", lambda v: checks.dtype_name(v.dtype)),
        ("device", lambda v: str(array_api_compat.device(v))),
    ):
        if of(actual) != of(like):
            raise AssertionError(f"{name}: {what} is {of(actual)}, expected {of(like)}")
    if tuple(actual.shape) != tuple(expected.shape):
        raise AssertionError(f"{name}: shape is {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    dtype = checks.dtype_name(actual.dtype)
    error, most = relative_error(actual, expected), limit(dtype, kind, steps)
    if not error <= most:
        raise AssertionError(
            f"{name}: error {error:.2e} is {error / most:.1f} times the limit {most:.2e} "
            f"({dtype}, {kind}, {steps} steps)"
        )
    return error / most


def check_gradients(
    forward: Callable[..., tuple[tuple[Array, ...], Any]],
    backward: Callable[[tuple[Array, ...], Any], Mapping[str, Array]],
    arguments: Mapping[str, Array],
    *,
    method: str = "difference",
    directions: int = 4,
    seed: int = 0,
) -> dict[str, float]:
    r"""Prove a backward function by derivatives of its forward function along random directions.

    For random cotangents :math:`u` and, argument by argument, random directions :math:`v`:

    .. math:: \langle v, J^T u \rangle = \frac{d}{ds} \langle u, f(\theta + s v) \rangle

    The left side comes from `backward`, the right one from `forward`: by complex steps, Im f(theta + i s v) / s, exact
    to rounding, or by five-point central differences.

    Parameters
    ----------
    forward : callable
        ``forward(**arguments) -> outputs, cache`` with a tuple of arrays as outputs.
    backward : callable
        ``backward(cotangents, cache) -> gradients``: from a tuple of arrays like the outputs, a mapping from argument
        names to gradients. Arguments that it leaves out are not checked.
    arguments : mapping of str to array
        float64 arrays of any library, at which the derivatives are taken.
    method : {'difference', 'complex'}
        'complex' needs NumPy arrays, and a `forward` that takes complex128 (the step functions do, and
        ``engine="array_api"``).
    directions : int
        How many directions are tried per argument.
    seed : int
        Of the cotangents and directions.

    Returns
    -------
    dict of str to float
        The worst relative error of each gradient.

    Raises
    ------
    AssertionError
        If a gradient is wrong, with both derivatives; if its shape or dtype is not its argument's; if it is all zeros.
    TypeError
        If an argument is not float64.

    References
    ----------
    .. [1] W. Squire, G. Trapp, "Using Complex Variables to Estimate Derivatives of Real Functions",
       SIAM Review 40(1), 110-112, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.testing import check_gradients
    >>> def forward(x, w):
    ...     return (np.tanh(x @ w),), (x, w)
    >>> def backward(cotangents, cache):
    ...     (x, w), (dy,) = cache, cotangents
    ...     da = dy * (1 - np.tanh(x @ w) ** 2)
    ...     return {"x": da @ w.T, "w": x.T @ da}
    >>> rng = np.random.default_rng(0)
    >>> errors = check_gradients(forward, backward, {"x": rng.normal(size=(2, 3)), "w": rng.normal(size=(3, 4))})
    >>> max(errors.values()) < 1e-9
    True
    """
    if method not in DERIVATIVE_LIMITS:
        raise ValueError(f"check_gradients: method must be one of {', '.join(DERIVATIVE_LIMITS)}; got {method!r}.")
    for name, value in arguments.items():
        if checks.dtype_name(value.dtype) != "float64":
            raise TypeError(f"check_gradients: {name} must be float64; got {checks.dtype_name(value.dtype)}.")
    rng = np.random.default_rng(seed)
    xp = checks.namespace(next(iter(arguments.values())))
    outputs, cache = forward(**arguments)
    cotangents = tuple(_random_like(output, rng, xp) for output in outputs)
    gradients = backward(cotangents, cache)
    host = [to_numpy(cotangent) for cotangent in cotangents]

    # A complex step needs every argument complex: functions on arrays want one dtype.
    base = {k: xp.astype(v, xp.complex128) for k, v in arguments.items()} if method == "complex" else arguments

    def derivative(name, direction):
        def moved(step):
            results, _ = forward(**{**base, name: base[name] + step * direction})
            return sum(np.sum(u * to_numpy(result)) for u, result in zip(host, results, strict=True))

        if method == "complex":
            return moved(1e-100j).imag / 1e-100
        step = 2e-3  # of a direction of length 1: truncation and rounding then both stay near 1e-11
        near, far = moved(step) - moved(-step), moved(2 * step) - moved(-2 * step)
        return (8 * near - far) / (12 * step)

    errors = {}
    for name, gradient in gradients.items():
        argument = arguments[name]
        if tuple(gradient.shape) != tuple(argument.shape) or gradient.dtype != argument.dtype:
            raise AssertionError(
                f"gradient of {name}: {tuple(gradient.shape)} {gradient.dtype}, "
                f"expected {tuple(argument.shape)} {argument.dtype}"
            )
        values = to_numpy(gradient)
        if values.size and not np.any(values):
            raise AssertionError(f"gradient of {name}: all zeros")
        errors[name] = 0.0
        for _ in range(directions if values.size else 0):
            direction = _random_like(argument, rng, xp, unit=True)
            v = to_numpy(direction)
            claimed, measured = float(np.sum(values * v)), float(derivative(name, direction))
            size = float(np.linalg.norm(values)) / values.size**0.5
            error = abs(claimed - measured) / max(abs(measured), size)
            if not error <= DERIVATIVE_LIMITS[method]:
                raise AssertionError(
                    f"gradient of {name}: {claimed:.15g} along a random direction, {measured:.15g} by {method}; "
                    f"error {error:.1e}, limit {DERIVATIVE_LIMITS[method]:.0e}"
                )
            errors[name] = max(errors[name], error)
    return errors


def _random_like(array, rng, xp, unit=False):
    values = rng.standard_normal(tuple(array.shape))
    values = values / np.linalg.norm(values) if unit else values
    if checks.array_library(xp) == "dask":
        return xp.asarray(values)
    return xp.asarray(values, device=array_api_compat.device(array))
