"""A float64 reference on the device itself, and errors measured there: arrays of this size take seconds to fetch."""

from math import sqrt

import numpy as np

from lstm_xp import lstm_backward, lstm_forward
from lstm_xp.testing import limit

from ..reference import GRADIENTS, OUTPUTS, WrongNumbers

ARGUMENTS = ("x", "h0", "Wx", "Wh", "b")


def draw(size, dtype="float64"):
    """Arguments and cotangents by name: NumPy arrays, random, none of them zero, the same at every call."""
    N, T, D, H = size
    rng = np.random.default_rng(size)
    shapes = {
        "x": (N, T, D), "h0": (N, H), "c0": (N, H), "Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,),
        "dh": (N, T, H), "dh_n": (N, H), "dc_n": (N, H),
    }  # fmt: skip
    scales = {"Wx": 1 / sqrt(D), "Wh": 1 / sqrt(H)}
    # float32 draws take half the time, and every dtype rounds them anyway.
    values = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return {name: (value * np.float32(scales.get(name, 1))).astype(dtype) for name, value in values.items()}


def run(arrays, between=lambda: None, **options):
    """Outputs and, where there are cotangents, gradients by name; what is to happen `between` the two passes does."""
    learning = "dh" in arrays
    h, cache = lstm_forward(*(arrays[name] for name in ARGUMENTS), c0=arrays["c0"], training=learning, **options)
    results = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
    if learning:
        between()
        gradients = lstm_backward(arrays["dh"], cache, dh_n=arrays.get("dh_n"), dc_n=arrays.get("dc_n"))
        results |= gradients._asdict() | {"dc0": gradients.dc0}
    return results


def reference(arrays, engine="array_api"):
    """The same in float64, from the rounded arguments; by the reference engine, unless another one is proved."""
    return run({name: array.astype("float64") for name, array in arrays.items()}, engine=engine)


def relative_error(actual, expected, xp):
    """`lstm_xp.testing.relative_error`, on the device: an array of one number, and nothing waits for it."""
    actual, expected = (xp.atleast_1d(xp.asarray(v).astype(xp.float64)) for v in (actual, expected))
    if not actual.size:
        return xp.zeros(())
    odd = ~xp.isfinite(expected) | ~xp.isfinite(actual)
    same = (actual == expected) | (xp.isnan(actual) & xp.isnan(expected))
    actual, expected = xp.where(odd, 0.0, actual), xp.where(odd, 0.0, expected)
    scale = _whole(xp.max, xp.abs(expected))
    some = xp.where(scale == 0, 1.0, scale)
    off, length = (xp.max(xp.sqrt(xp.sum((v / some) ** 2, axis=-1))) for v in (actual - expected, expected))
    error = off / xp.where(scale == 0, 1.0, length)
    # Where all should be zeros, nothing else will do.
    return xp.where(_whole(xp.any, (odd & ~same) | ((scale == 0) & (actual != 0))), xp.inf, error)


def _whole(reduction, v):
    """A reduction of a whole array, row by row first: CuPy has a single block for what becomes one number."""
    return reduction(reduction(v, axis=-1))


def shares(results, expected, rounding, steps, xp):
    """Each result's error as a share of its limit; the device is waited for once."""
    for name, result in results.items():
        if tuple(result.shape) != tuple(expected[name].shape):
            raise WrongNumbers(f"{name} has shape {tuple(result.shape)}, expected {tuple(expected[name].shape)}")
    errors = xp.stack([relative_error(result, expected[name], xp) for name, result in results.items()]).tolist()
    limits = [limit(rounding, "gradient" if name in GRADIENTS else "forward", steps) for name in results]
    return {name: error / most for name, error, most in zip(results, errors, limits, strict=True)}


def check(results, arrays, expected, rounding, steps, xp):
    """`shares` of an engine's results, all of which must be there, in the dtype of its arguments; or `WrongNumbers`."""
    wanted = (*OUTPUTS, *(GRADIENTS if "dh" in arrays else ()))
    missing = [name for name in wanted if name not in results]
    if missing:
        raise WrongNumbers(f"returned no {', '.join(missing)}")
    for name in wanted:
        if results[name].dtype != arrays["x"].dtype:
            raise WrongNumbers(f"{name} is {results[name].dtype}, expected {arrays['x'].dtype}")
    found = shares(results, expected, rounding, steps, xp)
    for name, share in found.items():
        if not share <= 1:
            raise WrongNumbers(f"{name} is wrong: its error is {share:.3g} times the limit")
    return found


def same_bits(a, b, xp):
    """Whether two arrays hold the same bits: an array of one truth."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return xp.zeros((), bool)
    a, b = (xp.ascontiguousarray(v).view(f"u{v.dtype.itemsize}") for v in (a, b))
    return _whole(xp.all, a == b)


def changed(now, before, xp):
    """The names of those arrays that do not hold the bits that they held; the device is waited for once."""
    same = xp.stack([same_bits(now[name], before[name], xp) for name in now]).tolist()
    return [name for name, kept in zip(now, same, strict=True) if not kept]
