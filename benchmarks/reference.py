"""The float64 reference that every contender is compared with before it is timed.

It comes from lstm_xp's reference engine, whose gradients the tests prove by finite differences, on the very numbers
that the contenders get. `python -m benchmarks.reference PROBLEM WHATS FILE` writes it, in a process of its own: neither
its memory nor its threads stay behind.
"""

import json
import sys

import numpy as np

from lstm_xp import lstm_backward, lstm_forward
from lstm_xp.testing import limit, relative_error

from .problems import Problem

OUTPUTS = ("h", "h_n", "c_n")
GRADIENTS = ("dx", "dh0", "dc0", "dWx", "dWh", "db")


class WrongNumbers(Exception):
    """A contender's result is not the LSTM's; the message says which array, and by how much."""


def compute(problem, whats):
    """Outputs, and gradients if they are to be measured, in float64 by name."""
    arrays = {name: array.astype(np.float64) for name, array in problem.arrays().items()}
    dh, c0 = arrays.pop("dh"), arrays.pop("c0")
    h, cache = lstm_forward(**arrays, c0=c0, training="training" in whats, engine="array_api")
    expected = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
    if "training" in whats:
        gradients = lstm_backward(dh, cache)
        expected |= gradients._asdict() | {"dc0": gradients.dc0}
    return expected


def check(problem, contender, what, result, expected):
    """The worst error of what a contender returned as a share of its limit, or `WrongNumbers`.

    The limit is that of the problem's dtype (`lstm_xp.testing.limit`), or of the coarser dtype that the contender
    says it rounds like.
    """
    actual = contender.named(what, result)
    rounding = getattr(contender, "rounding", problem.dtype)
    worst = 0.0
    for name in (name for name in OUTPUTS + GRADIENTS if name in actual):
        got = (actual[name].shape, actual[name].dtype.name)
        wanted = (expected[name].shape, problem.dtype)
        if got != wanted:
            raise WrongNumbers(f"{name} is {got[0]} {got[1]}, expected {wanted[0]} {wanted[1]}")
        error = relative_error(actual[name], expected[name])
        most = limit(rounding, "gradient" if name in GRADIENTS else "forward", problem.T)
        if not error <= most:
            raise WrongNumbers(f"{name} is wrong: error {error:.1e}, at most {most:.1e} is rounding")
        worst = max(worst, error / most)
    missing = ({"h"} | (set(GRADIENTS) if what == "training" else set())) - set(actual)
    if missing:
        raise WrongNumbers(f"returned no {', '.join(sorted(missing))}")
    return worst


if __name__ == "__main__":
    problem, whats, file = sys.argv[1:]
    problem = Problem(**json.loads(problem))
    np.savez(file, **compute(problem, whats.split(",")))
