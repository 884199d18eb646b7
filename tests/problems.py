"""Random problems, how to run them, and what they are compared with."""

import json
from pathlib import Path

import numpy as np
import pytest

import lstm_xp
from lstm_xp import engines
from lstm_xp.checks import Problem
from lstm_xp.libraries import LIBRARIES, Library, to_numpy
from lstm_xp.testing import assert_close

ARGUMENTS = ("x", "h0", "Wx", "Wh", "b", "c0")
COTANGENTS = ("dh", "dh_n", "dc_n")
OUTPUTS = ("h", "h_n", "c_n")
GRADIENTS = ("dx", "dh0", "dWx", "dWh", "db", "dc0")

# The order of steps: what `lstm_forward` is told beside its arrays (T = 5 and N = 4, as in `random_problem`).
ORDERS = {
    "forward": {},
    "reverse": {"reverse": True},
    "lengths": {"lengths": [3, 0, 5, 1]},
    "reverse, lengths": {"lengths": [3, 0, 5, 1], "reverse": True},
}
orders = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)

GOLDENS = json.loads(Path(__file__).with_name("goldens").joinpath("goldens.json").read_text(encoding="utf-8"))


class ReadOnly(Library):
    """A library whose arrays cannot be written to."""

    def asarray(self, array, dtype=None):
        array = super().asarray(array, dtype).copy()
        array.setflags(write=False)
        return array


def engine_names(lib):
    """The engines of a library of the fixture, in order of preference."""
    module, _ = LIBRARIES.get(lib, LIBRARIES["numpy"])
    return engines.candidates(module.removeprefix("array_api_compat.").partition(".")[0])


def refusal(engine, lib, dtype="float64", N=4, T=5, D=3, H=2):
    """Why an engine cannot run a problem of this size; "" when it can."""
    name = lib.xp.__name__.removeprefix("array_api_compat.").partition(".")[0]
    return engines.load(engine).refuses(Problem(name, dtype, lib.device, N, T, D, H, True, "ieee"))


def skip_without(lib, dtype):
    if dtype not in lib.dtypes():
        pytest.skip(f"{lib.name} has no {dtype}")


def random_problem(N=4, T=5, D=3, H=2, seed=0):
    """Arguments and cotangents by name: float64 NumPy arrays, all random, none of them zero, no two sizes alike."""
    rng = np.random.default_rng(seed)
    shapes = {
        "x": (N, T, D), "h0": (N, H), "Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,), "c0": (N, H),
        "dh": (N, T, H), "dh_n": (N, H), "dc_n": (N, H),
    }  # fmt: skip
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    values["Wx"] /= D**0.5
    values["Wh"] /= H**0.5
    return values


def given(lib, values, dtype=None):
    """The values by name as arrays of a library."""
    return {name: lib.asarray(value, dtype) for name, value in values.items()}


def forward(arrays, package=lstm_xp, **options):
    """`lstm_forward` on arrays by name."""
    x, h0, Wx, Wh, b, c0 = (arrays.get(name) for name in ARGUMENTS)
    return package.lstm_forward(x, h0, Wx, Wh, b, c0=c0, **options)


def backward(arrays, cache, package=lstm_xp, **options):
    """`lstm_backward` on arrays by name: the six gradients by name."""
    dh, dh_n, dc_n = (arrays.get(name) for name in COTANGENTS)
    gradients = package.lstm_backward(dh, cache, dh_n=dh_n, dc_n=dc_n, **options)
    return dict(zip(GRADIENTS, (*gradients, gradients.dc0), strict=True))


def run(arrays, package=lstm_xp, **options):
    """Outputs and gradients by name."""
    h, cache = forward(arrays, package, **options)
    results = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
    if cache.gates is not None:
        results |= backward(arrays, cache, package)
    return settled(results)


def settled(results):
    """Results by name, those of lazy libraries computed, all at once."""
    if any(hasattr(array, "compute") for array in results.values()):
        import dask

        return dict(zip(results, dask.persist(*results.values()), strict=True))
    return results


def host(results):
    """Results by name as NumPy arrays of their own."""
    return {name: np.array(to_numpy(array)) for name, array in settled(results).items()}


def reference(values, lengths=None, reverse=False):
    """Outputs and gradients by name, float64: each row on its own, a loop over the step functions."""
    N, T, _ = values["x"].shape
    lengths = [T] * N if lengths is None else lengths
    results = {name: np.zeros_like(values[name[1:]]) for name in GRADIENTS}
    results |= {name: np.zeros_like(values[f"d{name}"]) for name in OUTPUTS}
    for n, length in enumerate(lengths):
        row = slice(n, n + 1)
        h, c, caches = values["h0"][row], values["c0"][row], []
        steps = range(length)[::-1] if reverse else range(length)
        for t in steps:
            step = values["x"][row, t], h, c, values["Wx"], values["Wh"], values["b"]
            h, c, cache = lstm_xp.lstm_step_forward(*step)
            results["h"][row, t] = h
            caches.append(cache)
        results["h_n"][row], results["c_n"][row] = h, c
        dh, dc = values["dh_n"][row], values["dc_n"][row]
        for t, cache in zip(steps[::-1], caches[::-1], strict=True):
            dx, dh, dc, *weights = lstm_xp.lstm_step_backward(dh + values["dh"][row, t], dc, cache)
            results["dx"][row, t] = dx
            for name, gradient in zip(("dWx", "dWh", "db"), weights, strict=True):
                results[name] += gradient
        results["dh0"][row], results["dc0"][row] = dh, dc
    return results


def compare(results, expected, like, steps):
    """Compare outputs and gradients by name with float64 ones; return the worst error as a share of its limit."""
    worst = 0.0
    for name, result in results.items():
        kind = "gradient" if name in GRADIENTS else "forward"
        share = assert_close(result, np.asarray(expected[name]), like=like, kind=kind, steps=steps, name=name)
        worst = max(worst, share)
    return worst


def rounded(values, dtype):
    """The values as a dtype holds them, back in float64."""
    if dtype == "bfloat16":
        return {name: _to_bfloat16(value) for name, value in values.items()}
    return {name: value.astype(dtype).astype("float64") for name, value in values.items()}


def _to_bfloat16(value):
    """Rounded to the nearest bfloat16, ties to even, which are the upper halves of float32s."""
    bits = value.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def same_bits(a, b):
    """Whether two NumPy arrays hold the same bits."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
